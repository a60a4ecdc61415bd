"""Traces in files: --from in place of a server, bundles, and `traces export` that writes them."""
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from unittest import mock

import twosignal
from tools import (DEADLINE, DIALECTS, SCRIPT, TracesCase, costly, fails_from, file_bytes,
                   heed_interrupts, kept_signals, listing, measured_command, minutes_ago, posix,
                   procedure_inputs, requests_of, run_command, takes_at_most)

# Nothing of an account, a project or a server may be needed.
NOWHERE = {"TWOSIGNAL_HOME": "/dev/null/none", "HOME": None, "USERPROFILE": None,
           "TWOSIGNAL_PROJECT": "elsewhere", "TWOSIGNAL_API_KEY_FILE": "/dev/null/none",
           "TWOSIGNAL_URL": "not an address", "TWOSIGNAL_API_KEY": None}
TRACE = {"id": "a", "status": "OK", "duration_ms": 5, "cost_usd": 0.1, "created_at":
         "2026-03-14T10:30:00Z", "name": "agent"}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


class OfflineCase(TracesCase):
    def offline(self, source, command, *args, **kwargs):
        """The result of a command that reads a file, or text on stdin, and asks nobody."""
        self.server.clear()
        result = self.run_cli("traces", command, "--from", source, *args, env=NOWHERE, **kwargs)
        self.assertEqual(self.server.requests, [])
        return result

    def rows(self, source, *args, **kwargs):
        return self.assertOk(self.offline(source, "list", "--all", "--json", *args, **kwargs)).json

    def fill(self):
        """Traces with spans, scores, errors, sessions; some values are unknown."""
        for place in range(130):
            failed = place % 9 == 0
            self.server.add_trace(
                name=f"agent {place % 3}", created=minutes_ago(place), cost=place / 1000,
                duration_ms=None if place == 4 else place * 37 % 1000, tags=["even"][place % 2:],
                status="ERROR" if failed else "OK", sessionId=f"s{place % 2}",
                metadata={"customer": {"tier": "pro" if place % 4 else "free"}},
                spans=[{"name": "call", "model": f"m{place % 2}", "durationMs": place,
                        "status": "ERROR" if failed else "OK", "input": {"secretOf": "Bob"},
                        "errorMessage": f"broken {place % 2}" if failed else None}],
                scores=[{"evaluatorName": "tone", "value": place % 10 / 10,
                         "label": "fail" if place % 10 == 0 else "pass"}] * (place % 5 > 0))

    def export(self, *args, folder="bundle", **kwargs):
        return self.traces("export", self.path(folder), *args, **kwargs)

    def files(self):
        """A path, or text for stdin, of each form that the traces of the server can have."""
        self.assertOk(self.export())
        paths = {"bundle": self.path("bundle")}
        for name in ("a.json", "a.jsonl"):
            paths[name] = self.path(name)
            self.assertOk(self.list("--all", "--spans", "-o", paths[name]))
            paths[name + ".gz"] = self.path("compressed " + name)
            with open(paths[name + ".gz"], "wb") as file:
                file.write(gzip.compress(file_bytes(paths[name])))
        return dict(paths, stdin="-")

    def ids(self, folder="bundle"):
        """The IDs in the parts of a bundle, in their order."""
        found = []
        for name in sorted(os.listdir(self.path(folder))):
            if name.endswith(".gz"):
                with gzip.open(self.path(folder, name), "rt", encoding="utf-8") as file:
                    found += [json.loads(line)["id"] for line in file]
        return found

    def manifest(self, folder="bundle"):
        return json.loads(file_bytes(self.path(folder, "MANIFEST.json")).decode("utf-8"))


class SameAsTheServer(OfflineCase):
    GATES = ("--max-error-rate 5%", "--max-error-rate 50% --max-p95 2s", "--min-score 0.5",
             "--min-average-score tone=0.4 --max-fail-rate 1%", "--max-cost 0.05 --error",
             "--max-total-cost 1 --tag even", "--max-p95 1s --limit 7", "--min-count 200",
             "--min-score 0 --min-coverage 90%", "--max-p95 1s --session s1 --min-cost 0.1",
             "--max-p95 1s --metadata customer.tier=free --search 1 --since 1h --until 10m",
             "--max-error-rate 1% --label fail --max-score tone=0.5",
             "--max-regression 5% --baseline-tag even --tag odd",
             "--max-regression 5% --baseline-tag even")
    LISTINGS = ("--all", "-n 5", "--sort cost -n 4", "--sort score -r -n 3", "-r -n 3",
                "--all --spans", "--all --fields id,error_message,scores.tone",
                "--status ERROR --min-duration 100ms --fail-if-truncated")
    STATS = ("", "--by name --sort error_rate", "--by status --by session", "--by model",
             "--by evaluator", "--by day", "--by tag --since 30m", "--baseline-tag even")

    @costly
    def test_in_both_dialects_and_all_forms(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.fill()
            shutil.rmtree(self.path("bundle"), ignore_errors=True)
            forms = self.files()
            given = [("check", line.split() + ["--json"]) for line in self.GATES]
            given += [("list", line.split() + ["--json"]) for line in self.LISTINGS]
            given += [("stats", line.split() + ["--json"]) for line in self.STATS]
            given += [("get", ["ID", "--json"]), ("get", ["ID", "--errors", "--json"])]
            some = self.names("--error", "--fields", "id,name", "-n", "1")
            self.assertEqual(len(some), 1)
            trace = self.list("--error", "-n", "1", "--json").json[0]["id"]
            for command, args in given:
                args = [trace if word == "ID" else word for word in args]
                expected = self.traces(command, *args)
                for form, source in forms.items():
                    stdin = file_bytes(forms["a.jsonl"]) if source == "-" else None
                    if stdin and "--baseline-tag" in args:
                        continue            # it is read twice
                    with self.subTest(dialect=dialect, command=command, args=args, form=form):
                        found = self.offline(source, command, *args, stdin=stdin)
                        self.assertEqual(found.code, expected.code, found)
                        self.assertEqual(self.plain(found), self.plain(expected))

    @staticmethod
    def plain(result):
        """What was found, without the commands that show it."""
        found = json.loads(result.out) if result.out else result.err
        for check in found.get("checks", ()) if isinstance(found, dict) else ():
            for worst in check["worst"]:
                worst.pop("command")
        return found

    def test_the_command_that_shows_a_trace_reads_the_file(self):
        self.fill()
        source = self.files()["bundle"]
        worst = self.offline(source, "check", "--max-cost", "0.001").out.split("Worst traces")[1]
        words = worst.splitlines()[2].split()
        self.assertEqual(words[:3] + words[-2:], ["twosignal", "traces", "get", "--from", source])
        self.assertIn("Spans", self.assertOk(self.run_cli(*words[1:], env=NOWHERE)).out)

    def test_any_order(self):
        """The newest are the newest, and nothing ends early, whatever the order."""
        self.fill()
        path = self.path("shuffled.jsonl")
        records = self.list("--all", "--json").json
        for seed in range(3):
            random.Random(seed).shuffle(records)
            self.write(path, lines(*records))
            for args in ("-n 7", "--since 20m -n 30", "--since 1h --sort created -n 99"):
                with self.subTest(args=args, seed=seed):
                    expected = self.list("--json", *args.split()).json
                    found = self.offline(path, "list", "--json", *args.split()).json
                    self.assertEqual(found, expected)
            checked = self.offline(path, "check", "--max-p95", "1s", "--since", "20m", "--json")
            self.assertEqual(checked.json["traces"], 20)
        # The oldest one first, in pages of their own.
        old = [dict(TRACE, id=str(n), created_at="2020-01-01T00:00:00Z") for n in range(250)]
        text = lines(*old, dict(TRACE, id="new", created_at="2026-03-14T10:30:00Z"))
        rows = self.rows("-", "--since", "2026-01-01", stdin=text)
        self.assertEqual([row["id"] for row in rows], ["new"])

    def test_a_trace_that_occurs_twice_counts_once(self):
        found = self.offline("-", "check", "--min-count", "1", "--json", stdin=lines(
            TRACE, dict(TRACE, id="b"), TRACE, *[TRACE] * 300))
        self.assertEqual(self.assertOk(found).json["traces"], 2)
        for distance in (0, 300):       # the first one counts
            text = lines(TRACE, *[dict(TRACE, id=str(n)) for n in range(distance)],
                         dict(TRACE, status="ERROR"))
            self.assertEqual(self.rows("-", "--error", stdin=text), [])
            self.assertOk(self.offline("-", "check", "--max-error-rate", "0", stdin=text))

    def test_project_filters_by_its_id(self):
        text = lines(dict(TRACE, project_id="P1"), dict(TRACE, id="b", project_id="p2"), dict(
            TRACE, id="c"))
        rows = self.rows("-", "--project", "p1", stdin=text)
        self.assertEqual([row["id"] for row in rows], ["a"])
        self.assertEqual(len(self.rows("-", stdin=text)), 3)
        for command in (("list",), ("check", "--max-p95", "1s"), ("stats", "--by", "name")):
            self.assertFails(self.offline("-", *command, "--project", "Agent", stdin=text), 2,
                             "stdin has no traces of project 'Agent'", "Omit --project")

    def test_no_traces(self):
        for text in ("", "\n \n", "[]", " [ ]\n", "\ufeff", "\ufeff[\n]"):
            with self.subTest(text=text):
                self.assertEqual(self.rows("-", stdin=text), [])
                self.assertEqual(
                    self.offline("-", "check", "--max-p95", "1s", stdin=text).code, 11)

    def test_what_a_report_says(self):
        path, report = self.write("t.jsonl", lines(TRACE)), self.path("report.xml")
        self.assertOk(self.offline(path, "check", "--max-p95", "1s", "--junit", report))
        self.assertIn("from %s" % path, file_bytes(report).decode("utf-8"))


class Unknown(OfflineCase):
    """What a file does not have is unknown, not zero."""

    def test_scores(self):
        for trace in (TRACE, dict(TRACE, scores=None, score_count=2),
                      {"id": "a", "status": "OK"}):
            text = lines(trace)
            for args in (("check", "--min-score", "0.5"), ("list", "--label", "fail"),
                         ("list", "--fields", "id,scores"), ("list", "--sort", "score"),
                         ("stats", "--by", "evaluator")):
                with self.subTest(trace=trace, args=args):
                    self.assertFails(self.offline("-", *args, stdin=text), 2,
                                     "stdin does not have all scores", "traces export")
            result = self.offline("-", "list", "--json", stdin=text)
            self.assertEqual(self.assertOk(result).json[0]["scores"], None)
            self.assertEqual(result.err, "Scores are null. stdin does not have all scores.\n")
        none = dict(TRACE, score_count=0)
        self.assertEqual(self.offline("-", "check", "--min-score", "0", stdin=lines(none)).code, 11)
        partly = lines(dict(TRACE, scores=[{"evaluator": "e", "score": 1}]), dict(TRACE, id="b"))
        self.assertFails(self.offline("-", "check", "--min-score", "0", stdin=partly), 2, "scores")

    def test_spans(self):
        text = lines(dict(TRACE, status="ERROR", scores=[]))
        for args in (("list", "--spans", "--json"), ("list", "--fields", "error_message"),
                     ("stats", "--by", "model"), ("get", "a")):
            with self.subTest(args=args):
                self.assertFails(self.offline("-", *args, stdin=text), 2,
                                 "stdin does not have all spans")
        result = self.assertOk(self.offline("-", "stats", "--json", stdin=text))
        self.assertIsNone(result.json[0]["error_message"])
        self.assertEqual(result.err,
                         "Error messages are incomplete: stdin does not have all spans.\n")

    def test_sessions(self):
        result = self.assertOk(self.offline("-", "list", "--session", "s", stdin=lines(TRACE)))
        self.assertEqual(result.err, "0 of 1 scanned traces match. None of them has the field "
                                     "session_id.\n")

    def test_values(self):
        result = self.offline("-", "check", "--max-p95", "1s", stdin=lines(
            {"id": "a", "status": "OK"}))
        self.assertEqual(result.code, 11)
        for value in ("5", "x", -1, True, [], 10 ** 400, None):
            text = lines(dict(TRACE, duration_ms=value))
            code = self.offline("-", "check", "--max-p95", "1s", stdin=text).code
            self.assertEqual(code, 0 if value == "5" else 11, value)

    def test_an_unknown_trace(self):
        self.assertFails(self.offline("-", "get", "b", stdin=lines(TRACE)), 6, "Trace not found")


class BadInput(OfflineCase):
    def test_files_that_cannot_be_read(self):
        good = lines(TRACE, dict(TRACE, id="b"))
        packed = gzip.compress(good.encode("ascii") * 50)
        texts = {
            "a cut line": (good + good[:40], 3), "a broken line": (good + "{oops}\n" + good, 3),
            "no object": (good + "5\n", 3),
            "a list": (good + "[]\n", 3), "nothing of a trace": (good + '{"id": "c"}\n', 3),
            "null": (good + "null\n", 3),
            "true": ("true", 1), "no ID": (good + '{"status": "OK"}\n', 3),
            "NaN": (good + '{"id": NaN}', 3),
            "CSV": ("id,status\na,OK\n", 1), "HTML": ("<!DOCTYPE html>\n<p>Hi", 1),
            "of 'traces check'": ('{\n  "passed": true,\n  "checks": []\n}\n', 1),
            "of 'datasets list'": ('[\n  {"id": "d", "name": "x", "created_at": "t"}\n]', 2),
            "an open list": ("[\n" + good.splitlines()[0] + ",\n", 3),
            "a closed one": ("[" + good.splitlines()[0] + "]]", 1), "only open": ("[", 1),
            "a text": ('"abc"', 1),
            "scores": (good + json.dumps(dict(TRACE, scores=[5])), 3),
            "spans": (good + json.dumps(dict(TRACE, spans={"a": 1})), 3),
            "not UTF-8": (good.encode("ascii") + b'{"id": "\xff"}\n', 3),
            "UTF-16": (good.encode("utf-16"), 1), "binary": (bytes(range(128, 256)), 1),
            "nested too deeply": ("[" * 100000, 1),
            "a cut character": (good.encode("ascii") + b'{"id": "\xe2\x82', 3),
            "gzip, cut": (packed[:-9], None), "gzip, damaged": (
                packed[:30] + b"xxxx" + packed[34:], None), "only its head": (packed[:5], None)}
        for name, (text, line) in texts.items():
            for size in (twosignal.FILE_CHUNK, 7):
                with self.subTest(name=name, size=size), \
                        mock.patch.object(twosignal, "FILE_CHUNK", size):
                    place = f"stdin, line {line} " if line else "Cannot read stdin"
                    for args in (("check", "--max-p95", "1s"), ("stats",), ("get", "zz")):
                        self.assertFails(self.offline("-", *args, stdin=text), 2, place)
                    path, out = self.write("bad", text), self.path("out.jsonl")
                    self.assertFails(self.offline(path, "list", "--all", "-o", out), 2, path)
                    self.assertFalse(os.path.exists(out))

    def test_spellings_that_are_fine(self):
        trace, other = json.dumps(TRACE), json.dumps(dict(TRACE, id="\u20acb\U0001f600"))
        texts = [f"{trace}\n{other}", f"{trace} {other}", f"{trace}\r\n{other}\r\n",
                 f"\ufeff{trace}\n\n \n{other}\n\n",
                 f"  {trace} \n\t{other}\t", f"[{trace},{other}]", f"[{trace}\n{other}]",
                 f"[ {trace} ,\n{other} ]\n\n",
                 json.dumps([TRACE, json.loads(other)], indent=4, ensure_ascii=False),
                 json.dumps(TRACE, indent=2) + "\n" + json.dumps(json.loads(other), indent=2),
                 "\r\n[\r\n" + trace + ",\r\n" + other + "\r\n]\r\n"]
        for text in texts:
            for size in (1, 2, 3, 5, 64, twosignal.FILE_CHUNK):
                for content in (text.encode("utf-8"), gzip.compress(text.encode("utf-8"))):
                    with self.subTest(text=text, size=size), \
                            mock.patch.object(twosignal, "FILE_CHUNK", size):
                        rows = list(twosignal.RecordFile("f", io.BytesIO(content)))
                        self.assertEqual([row["id"] for row in rows], ["a", "\u20acb\U0001f600"])

    def test_a_cut_file_is_never_a_whole_one(self):
        """Wherever it is cut: all of its traces that are told are there, or it is an error."""
        for text in (lines(TRACE, dict(TRACE, id="b")), json.dumps([TRACE], indent=2)):
            whole = [row["id"] for row in twosignal.RecordFile("f", io.BytesIO(text.encode()))]
            for end in range(1, len(text.rstrip())):
                with self.subTest(end=end):
                    file = twosignal.RecordFile("f", io.BytesIO(text[:end].encode("ascii")))
                    found = twosignal.result_or_failure(list, file)
                    if not isinstance(found, list):
                        self.assertEqual(found.exit_code, 2)
                    else:               # at the end of a line
                        self.assertEqual([row["id"] for row in found], whole[:len(found)])
                        self.assertTrue(text[end] == "\n" or text[end - 1] == "\n")

    def test_places_that_are_no_files(self):
        os.mkdir(self.path("empty"))
        for source, part in ((self.path("none"), "No such file"), (self.path("empty"), "MANIFEST"),
                             (self.path("x" * 300), "long")):
            with self.subTest(source=source):
                self.assertFails(self.offline(source, "list"), 2, part)

    def test_options_that_contradict_it(self):
        path = self.write("t.jsonl", lines(TRACE))
        for args, part in ((("--url", "http://x"), "--url"),):
            self.assertFails(self.offline(path, "list", *args), 2, "--from", part)
        gate = ("check", "--max-p95", "1s")
        self.assertFails(self.offline("-", *gate, "--baseline", "-", stdin=""), 2, "--baseline -")
        self.assertFails(self.offline("-", *gate, "--baseline-tag", "v1", stdin=lines(TRACE)), 2,
                         "only once")
        self.assertFails(self.offline(path, "get"), 2, "Missing ID")
        self.assertFails(self.offline(path, "wait"), 2, "--from")

    def test_nothing_is_printed_of_a_file_that_is_broken_further_down(self):
        path = self.write("late.jsonl", lines(*[dict(TRACE, id=str(n)) for n in range(350)]) + "{")
        for args in (("--all", "--format", "csv"), ("--all",), ("-n", "5"), ("--all", "--json")):
            result = self.offline(path, "list", *args)
            self.assertFails(result, 2, "line 351 is not JSON")
            self.assertEqual(result.out, "")

    @posix
    def test_a_pipe_is_read_once(self):
        fifo, options = self.path("fifo"), "--max-regression 5% --tag a --baseline-tag b".split()
        os.mkfifo(fifo)
        writer = subprocess.Popen(["sh", "-c", f"echo '{json.dumps(TRACE)}' > {fifo}"])
        self.assertFails(self.offline(fifo, "check", *options), 2, "fifo can be read only once")
        self.assertEqual(writer.wait(DEADLINE), 0)

    def test_stdin_that_is_closed(self):
        result = run_command(["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, SCRIPT, "traces",
                              "check", "--from", "-", "--min-count", "1"], self.environment)
        self.assertEqual(result.code, 11, result)

    def test_hostile_records(self):
        rng = random.Random(5)
        values = [None, True, 0, -1, 1e300, "", "x", "\x1b[31m", "\ud800", [], {}, [[1]],
                  {"a": {"b": None}}, [{}], "9" * 500]
        for number in range(300):
            trace = {key: rng.choice(values) for key in [*TRACE, "tags", "metadata", "project_id",
                     "start_time", "session_id", "score_count", "span_count", "_count"]}
            trace["scores"] = [{key: rng.choice(values) for key in (
                "evaluator", "score", "label", "span_id", "created_at")} for _ in range(number % 3)]
            trace["spans"] = [{key: rng.choice(values) for key in (
                "id", "name", "status", "error_message", "start_time", "parent_span_id", "model",
                "duration_ms", "input")} for _ in range(number % 4)]
            args = [("check", "--min-score", "0", "--max-p95", "1s"), ("stats", "--by", "model"),
                    ("stats", "--by", "tag"), ("list", "--sort", "score", "--json"),
                    ("list", "--spans", "--json"), ("list", "--format", "csv")][number % 6]
            with self.subTest(trace=trace, args=args):
                result = self.offline("-", *args, stdin=lines(trace))
                self.assertIn(result.code, (0, 10, 11), result)
                self.assertNotIn("Internal", result.err)
                self.assertNotIn("\x1b", result.out + result.err)


class Memory(OfflineCase):
    def memory(self, path, command, *args):
        """The peak of a command that reads a file, in MB."""
        result = run_command(measured_command(
            SCRIPT, "traces", command, "--from", path, *args), self.environment)
        status, used = result.err.split()[-2:]
        self.assertEqual(status, "0", result.err)
        return float(used)

    @posix
    @costly
    def test_is_flat(self):
        """Row 69: reading a file of traces takes memory for some of them, however long it is."""
        traces = [dict(TRACE, id=str(n), metadata={"x": "y" * 2000}) for n in range(20000)]
        short = self.memory(self.write("short.jsonl", lines(*traces[:300])), "list")
        for name, content in (("a.jsonl", lines(*traces)), ("a.json", json.dumps(traces)),
                              ("b.json", json.dumps(traces, indent=2))):
            path = self.write(name, content)
            for args in (("check", "--max-p95", "1s"), ("list", "--all", "--json"), ("list",)):
                with self.subTest(name=name, args=args):
                    self.assertLess(self.memory(path, *args), short + 30)


class Export(OfflineCase):
    def test_what_is_written(self):
        for dialect, options in DIALECTS:
            with self.subTest(dialect=dialect), \
                    mock.patch.object(twosignal, "PART_TRACES", 60):
                self.use(**options)
                self.fill()
                result = self.assertOk(self.export("--json", folder=dialect))
                manifest = self.manifest(dialect)
                self.assertEqual(result.json, dict(manifest, path=self.path(dialect)))
                self.assertEqual([manifest[key] for key in ("traces", "spans", "scores")],
                                 [130, 130, 104])
                self.assertEqual(listing(self.path(dialect)), ["MANIFEST.json"] + [
                    f"traces-000{number}.jsonl.gz" for number in (1, 2, 3)])
                self.assertEqual([part["traces"] for part in manifest["files"]], [60, 60, 10])
                self.assertEqual(self.ids(dialect), [
                    row["id"] for row in self.list("--all", "--json").json])
                self.assertEqual((manifest["complete"], manifest["project"], manifest["server"]),
                                 (True, self.server.project, self.server.url))

    @posix
    def test_is_private(self):
        self.add(1)
        self.assertOk(self.export())
        modes = {os.stat(self.path("bundle", name)).st_mode & 0o777
                 for name in os.listdir(self.path("bundle"))}
        self.assertEqual((modes, os.stat(self.path("bundle")).st_mode & 0o777), ({0o600}, 0o700))

    def test_any_text(self):
        name = "\u6771 \U0001f600 \ud800 \u2028 \x00"
        self.server.add_trace(name=name, spans=[{"name": name, "input": {name: name}}])
        self.assertOk(self.export())
        row, = self.rows(self.path("bundle"), "--spans")
        self.assertEqual((row["name"], row["spans"][0]["input"]), (name, {name: name}))

    @posix
    def test_a_planted_link_is_replaced(self):
        """Row 62: what a link in the directory leads to is not touched."""
        self.add(1)
        os.mkdir(self.path("bundle"))
        for name in ("MANIFEST.json", "traces-0001.jsonl.gz"):
            os.symlink(self.write("mine", "precious"), self.path("bundle", name))
        self.assertFails(self.export("--resume"), 2, "damaged")
        os.unlink(self.path("bundle", "MANIFEST.json"))
        with mock.patch.object(twosignal.os, "listdir", lambda path: []):
            self.assertOk(self.export())
        self.assertEqual(file_bytes(self.path("mine")), b"precious")

    def test_the_same_traces_give_the_same_bytes(self):
        self.fill()
        self.assertOk(self.export(folder="a"))
        self.assertOk(self.export(folder="b"))
        self.assertEqual(*[file_bytes(self.path(name, "traces-0001.jsonl.gz")) for name in "ab"])

    def test_filters(self):
        self.fill()
        result = self.assertOk(self.export("--error", "--tag", "even", "--since", "1h"))
        expected = self.list("--all", "--error", "--tag", "even", "--since", "1h", "--json").json
        self.assertEqual(self.ids(), [row["id"] for row in expected])
        self.assertIn("Exported %d traces to" % len(expected), result.out)
        self.assertEqual(self.manifest()["filters"], {
            "error": [True], "tag": ["even"], "since": ["1h"]})

    def test_nothing(self):
        self.assertIn("Exported 0 traces to", self.assertOk(self.export()).out)
        self.assertEqual(self.rows(self.path("bundle")), [])

    def test_redaction(self):
        self.server.add_trace(metadata={"who": "Bob", "n": 5, "list": [{"at": "Bob"}]}, spans=[
            {"name": "call", "input": {"prompt": "Bob?", "none": None}, "output": "Bob!",
             "metadata": {"x": True}, "modelParameters": {"kept": 1}}, {"name": "empty"}])
        self.assertOk(self.export("--redact", "input, OUTPUT,metadata"))
        row, = self.rows(self.path("bundle"), "--spans")
        x = "[redacted]"
        self.assertEqual(row["metadata"], {"who": x, "n": x, "list": [{"at": x}]})
        call, empty = sorted(row["spans"], key=lambda span: span["name"])
        self.assertEqual([call[key] for key in ("input", "output", "metadata")],
                         [{"prompt": x, "none": None}, x, {"x": x}])
        self.assertIsNone(empty["input"])
        with gzip.open(self.path("bundle", "traces-0001.jsonl.gz")) as file:
            self.assertNotIn(b"Bob", file.read())
        self.assertOk(self.export("--redact", "output", folder="other"))
        self.assertEqual(self.rows(self.path("other"), "--spans")[0]["metadata"]["who"], "Bob")
        for command in (("list",), ("check", "--max-p95", "1s"), ("stats",)):
            result = self.offline(self.path("bundle"), *command, "--metadata", "who=Bob")
            self.assertFails(result, 2, "exported with --redact metadata")
            result = self.offline(self.path("other"), *command, "--metadata", "who=Bob")
            self.assertIn("1 of 1 scanned traces match.", result.err)
        for given in ("inputs", "input,name", "id", ""):
            self.assertFails(self.export("--redact", given, folder="third"), 2, "--redact")
        self.assertFails(self.export("--redact", "nmae"), 2, "input, output, metadata")
        self.assertFalse(os.path.exists(self.path("third")))

    def test_redaction_of_fields_that_are_not_known_yet(self):
        """Keys are redacted wherever they are, and the manifest names no value of them."""
        self.server.add_trace(metadata={"who": "Bob"}, scores=[
            {"evaluatorName": "tone", "value": 1, "metadata": {"by": "Bob"}}], spans=[
            {"name": "call", "events": [{"input": "Bob"}], "modelParameters": {"metadata": "Bob"}}])
        self.assertFails(self.export("--redact", "input,metadata", "--metadata", "who=Bob"), 2,
                         "--metadata and --redact metadata cannot be used together")
        self.assertOk(self.export("--redact", "input,metadata"))
        with gzip.open(self.path("bundle", "traces-0001.jsonl.gz")) as file:
            content = file.read()
        self.assertIn(b"events", content)
        self.assertNotIn(b"Bob", content + file_bytes(self.path("bundle", "MANIFEST.json")))

    @posix
    def test_two_at_once(self):
        """Row 70: a directory is written by one export at a time."""
        self.add(1)
        os.mkdir(self.path("bundle"))
        handle = os.open(self.path("bundle"), os.O_RDONLY)
        twosignal.lock_handle(handle)           # as another process would
        for options in ((), ("--resume",)):
            self.assertFails(self.export(*options), 3, "Another process exports to", "Wait")
        self.assertEqual(listing(self.path("bundle")), [])
        os.close(handle)
        self.assertOk(self.export())

    def test_an_account_is_needed(self):
        result = self.export(env=dict(self.key(), TWOSIGNAL_HOME=self.path("no-home")))
        self.assertFails(result, 4, "account")
        self.assertFalse(os.path.exists(self.path("bundle")))

    def test_a_directory_that_is_in_use(self):
        self.add(1)
        os.mkdir(self.path("bundle"))
        self.assertOk(self.export())            # it was empty
        before = file_bytes(self.path("bundle", "MANIFEST.json"))
        self.assertFails(self.export(), 2, "not empty", "--resume")
        os.mkdir(self.path("mine"))
        self.write("mine/notes.txt", "precious")
        self.assertFails(self.export(folder="mine"), 2, "not empty")
        self.assertFails(self.export("--resume", folder="mine"), 2, "not a bundle")
        self.assertEqual(listing(self.path("mine")), ["notes.txt"])
        self.assertEqual(file_bytes(self.path("bundle", "MANIFEST.json")), before)

    def test_places_that_cannot_be_written(self):
        self.add(1)
        self.write("file", "")
        for folder in ("file", "file/below", "x" * 300):
            with self.subTest(folder=folder):
                self.assertFails(self.export(folder=folder), 1, "Cannot write", "directory")
        self.assertEqual(self.server.count("trace.getById"), 0)

    def test_large_traces(self):
        """A trace that is too large in a batch is asked for alone, and too large alone is named."""
        self.fill()
        with takes_at_most(self.server, 3, "getById", status=413):
            self.assertOk(self.export())
        self.assertEqual(len(self.ids()), 130)
        with takes_at_most(self.server, 0, "getById", status=413):
            self.assertFails(self.export(folder="other"), 1, "Cannot read trace", "--since")


class Resume(OfflineCase):
    def setUp(self):
        super().setUp()
        self.enter(mock.patch.object(twosignal, "PART_TRACES", 30))
        for place in range(250):
            self.server.add_trace(name=f"t{place}", created=minutes_ago(place), spans=[{}])

    def check_complete(self, more=()):
        expected = self.list("--all", "--json").json
        self.assertEqual(sorted(self.ids()), sorted(row["id"] for row in expected))
        self.assertEqual(len(self.rows(self.path("bundle"))), len(expected))
        self.assertNotIn(".twosignal-", "".join(listing(self.path("bundle"))))

    @costly
    def test_after_a_failure_anywhere(self):
        """Row 70: an export that broke off is continued: no trace twice, and none is missing."""
        for number in (1, 2, 3):
            for new in (0, 1, 120):
                with self.subTest(number=number, new=new):
                    shutil.rmtree(self.path("bundle"), ignore_errors=True)
                    with fails_from(self.server, number, status=500):
                        result = self.export()
                    self.assertEqual(result.code, 8, result)
                    if number > 1:
                        self.assertIn("again with --resume", result.err)
                        self.assertIs(self.manifest()["complete"], False)
                        broken = self.offline(self.path("bundle"), "check", "--max-p95", "1s")
                        self.assertFails(broken, 2, "incomplete", "--resume")
                    done = len(self.ids())
                    self.assertLess(done, 250)
                    for _ in range(new):
                        self.server.add_trace(name="new", spans=[{}])
                    self.server.clear()
                    self.assertOk(self.export("--resume"))
                    asked = procedure_inputs(self.server, "trace.getById") + procedure_inputs(
                        self.server, "trace.byId")
                    self.assertEqual(len({each["id"] for each in asked}),
                                     len(self.list("--all", "--json").json) - done)
                    self.check_complete()

    def test_what_was_read_is_kept(self):
        """A part is written as far as it was read: a slow export gets on, however often it ends."""
        with mock.patch.object(twosignal, "PART_TRACES", 1000):
            with fails_from(self.server, 3, status=500):
                self.assertEqual(self.export().code, 8)
            done = self.ids()
            self.assertEqual(done, [row["id"] for row in self.list(
                "-n", str(len(done)), "--json").json])
            self.assertGreater(len(done), 0)
            self.server.clear()
            self.assertOk(self.export("--resume"))
        self.assertEqual(len(self.manifest()["files"]), 2)
        self.check_complete()

    def test_spans_that_fail(self):
        with mock.patch.object(twosignal.Client, "fetch_parts", side_effect=twosignal.Failure("x")):
            self.assertEqual(self.export().code, 1)
        self.assertOk(self.export("--resume"))
        self.check_complete()

    def test_a_complete_one(self):
        self.assertOk(self.export())
        before = {name: file_bytes(self.path("bundle", name)) for name in listing(
            self.path("bundle"))}
        self.server.clear()
        self.assertIn("Exported 250 traces to", self.assertOk(self.export("--resume")).out)
        self.assertEqual(requests_of(self.server, "trace."), [])
        self.assertEqual(before, {name: file_bytes(self.path("bundle", name))
                                  for name in listing(self.path("bundle"))})

    def test_a_new_one(self):
        self.assertOk(self.export("--resume"))
        self.check_complete()

    def test_a_trace_that_was_deleted_meanwhile(self):
        """It is exported as it was listed, and does not spoil the bundle for gates of scores."""
        self.server.add_trace(scores=[{"evaluatorName": "tone", "value": 1}])
        gone = self.server.rows("traces")[-1]["id"]
        real = twosignal.Client.fetch_parts

        def fetch_parts(client, *args):
            self.server.store.remove("traces", gone)
            return real(client, *args)
        with mock.patch.object(twosignal.Client, "fetch_parts", fetch_parts):
            self.assertOk(self.export())
        row, = [row for row in self.rows(self.path("bundle")) if row["id"] == gone]
        self.assertEqual((row["score_count"], row["scores"]), (1, []))
        for args in (("list", "--spans", "--json"), ("check", "--min-count", "1"),
                     ("stats", "--by", "evaluator"), ("stats", "--by", "model")):
            self.assertOk(self.offline(self.path("bundle"), *args))

    def test_relative_times_are_those_of_the_beginning(self):
        with fails_from(self.server, 2, status=500):
            self.export("--since", "200m")
        manifest = self.manifest()
        began = twosignal.parse_timestamp(manifest["since"]) - 3600
        manifest["since"] = twosignal.wire_timestamp(began)     # as if an hour had passed
        self.write("bundle/MANIFEST.json", manifest)
        self.assertOk(self.export("--since", "200m", "--resume"))
        self.assertEqual(len(self.ids()), 250)

    def test_another_selection_is_refused(self):
        other = self.server.add_project(name="Other", org=self.server.org)
        with fails_from(self.server, 2, status=500):
            self.export("--error", "--redact", "input")
        before = listing(self.path("bundle"))
        for args, part in ((("--redact", "input"), "filters"), (("--error",), "redacted"),
                           (("--error", "--redact", "output"), "redacted"),
                           (("--error", "--tag", "x", "--redact", "input"), "filters"),
                           (("--error", "--redact", "input", "--project", other), "project")):
            with self.subTest(args=args):
                self.assertFails(self.export("--resume", *args), 2, f"was begun with {part}")
        second = self.serve()
        self.server, first = second, self.server
        self.log_in()
        self.assertFails(self.traces("export", self.path("bundle"), "--project", first.project,
                                     "--resume", "--error", "--redact", "input"), 2, "server")
        self.assertEqual(listing(self.path("bundle")), before)

    def test_damage_is_noticed(self):
        with fails_from(self.server, 2, status=500):
            self.export()
        self.write("bundle/traces-0002.jsonl.gz", b"damaged")
        self.assertFails(self.export("--resume"), 2, "traces-0002.jsonl.gz is damaged")

    @posix
    def test_killed(self):
        """Row 70: also if it was killed: between two parts, within one, before the manifest."""
        code = ("import os, signal, sys; sys.path.insert(0, sys.argv.pop(1)); import twosignal; "
                "number = int(sys.argv.pop(1)); twosignal.PART_TRACES = 30; calls = []\n"
                "def replace(*args, real=os.replace):\n"
                "    calls.append(args)\n"
                "    if len(calls) == number: os.kill(os.getpid(), signal.SIGKILL)\n"
                "    return real(*args)\n"
                "os.replace = replace\n"
                "sys.exit(twosignal.main())")
        for number in (1, 2, 3, 4, 7, 18):
            with self.subTest(number=number):
                shutil.rmtree(self.path("bundle"), ignore_errors=True)
                command = [sys.executable, "-c", code, os.path.dirname(SCRIPT), str(number),
                           "traces", "export", self.path("bundle"), "--project",
                           self.server.project]
                self.assertEqual(run_command(command, self.environment).code, -signal.SIGKILL)
                self.assertFails(self.offline(self.path("bundle"), "list"), 2)
                self.assertOk(self.export("--resume"))
                self.check_complete()

    @posix
    def test_interrupted(self):
        code, err = self.signalled(signal.SIGINT, "trace.list", [
            "traces", "export", self.path("bundle"), "--project", self.server.project])
        self.assertEqual(code, -signal.SIGINT)
        self.assertEqual([name for name in listing(self.path("bundle")) if "traces" in name], [])
        self.assertOk(self.export("--resume"))
        self.check_complete()

    @posix
    def test_interrupted_while_it_compresses(self):
        """Row 70: what a signal interrupts is a part as any other, not a spoiled one."""
        write, calls = gzip.GzipFile.write, []

        def interrupted(file, content):
            if not calls:
                os.kill(os.getpid(), signal.SIGINT)
            calls.append(content)
            return write(file, content)
        with kept_signals(), mock.patch.object(gzip.GzipFile, "write", interrupted):
            heed_interrupts()
            self.assertEqual(self.export().code, 130)
        self.assertGreater(len(self.ids()), 0)
        self.assertOk(self.export("--resume"))
        self.check_complete()

    @posix
    def test_a_full_disk(self):
        import resource

        def limited():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        process = subprocess.Popen(
            [sys.executable, SCRIPT, "traces", "export", self.path("bundle"), "--project",
             self.server.project], env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, preexec_fn=limited)
        out, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, out), (1, b""), err)
        self.assertIn(b"Cannot write", err)
        self.assertEqual(listing(self.path("bundle")), ["MANIFEST.json"])
        self.assertFails(self.offline(self.path("bundle"), "list"), 2, "incomplete")
        self.assertOk(self.export("--resume"))
        self.check_complete()


class DamagedBundles(OfflineCase):
    def setUp(self):
        super().setUp()
        self.fill()
        with mock.patch.object(twosignal, "PART_TRACES", 50):
            self.assertOk(self.export())

    def check_refused(self, *parts):
        for args in (("check", "--max-p95", "9s"), ("list", "--all"), ("stats",), ("get", "x")):
            self.assertFails(self.offline(self.path("bundle"), *args), 2, *parts)
        out = self.path("out.jsonl")
        self.assertFails(self.offline(self.path("bundle"), "list", "--all", "-o", out), 2, *parts)
        self.assertFalse(os.path.exists(out))

    def test_parts(self):
        """Row 71: a bundle of which a file is missing, damaged or exchanged is no data."""
        first = self.path("bundle", "traces-0001.jsonl.gz")
        content = file_bytes(first)
        for wrong in (content[:-1], content + b"x", b"", content[:99] + b"?" + content[100:],
                      file_bytes(self.path("bundle", "traces-0002.jsonl.gz"))):
            self.write("bundle/traces-0001.jsonl.gz", wrong)
            self.check_refused("traces-0001.jsonl.gz is damaged")
        os.unlink(first)
        self.check_refused("traces-0001.jsonl.gz: No such file")
        os.mkdir(first)
        self.check_refused("traces-0001.jsonl.gz: ")

    def test_manifest(self):
        good = self.manifest()
        parts = good["files"]
        self.write("bundle/MANIFEST.json", dict(good, complete=False))
        self.check_refused("incomplete")
        for change in (dict(complete=1), dict(complete=None), dict(format="x"),
                       dict(files=parts[:-1]), dict(traces=131),
                       dict(traces="130"), dict(scores=None), dict(files=None), dict(files=[5]),
                       dict(files=parts[::-1]), dict(files=[dict(parts[0], name="../x")]),
                       dict(files={}), dict(spans=float("nan"))):
            self.write("bundle/MANIFEST.json", dict(good, **change))
            with self.subTest(change=change):
                self.check_refused("MANIFEST.json is damaged")
        for sha256 in (None, 5, "0" * 64, []):
            self.write("bundle/MANIFEST.json", dict(good, files=[dict(
                parts[0], sha256=sha256), *parts[1:]]))
            self.check_refused("traces-0001.jsonl.gz is damaged")
        for content in (b"", b"[]", b"{}", b"5", b"[" * 99999, b"\xff", b'{"files": [[]]}'):
            self.write("bundle/MANIFEST.json", content)
            self.check_refused("MANIFEST.json is damaged")
        os.unlink(self.path("bundle", "MANIFEST.json"))
        self.check_refused("not a bundle")
