"""`datasets import`: files of test cases, of which CSV comes from spreadsheets."""
import gzip
import io
import json
import re
import signal
import sys
import threading
import unittest
from unittest import mock

import standin
import twosignal
from tools import (DEADLINE, DIALECTS, SCRIPT, Case, CommandCase, EventfulClock, PassingClock,
                   costly, measured_command, posix, requests_of, run_command)

TABLE = "input,expected_output\nHi,Hello\n\"a, \"\"b\"\"\nc\",\n"
ROWS = [{"input": "Hi", "expected_output": "Hello"},
        {"input": "a, \"b\"\nc", "expected_output": None}]


def table(content, path="stdin", columns={"input": False, "expected_output": False, "b": False}):
    content = content.encode("utf-8") if isinstance(content, str) else content
    return twosignal.RecordFile(path, io.BytesIO(content), columns=columns)


class Tables(Case):
    def refused(self, content, *parts, **options):
        found = twosignal.result_or_failure(list, table(content, **options))
        self.assertIsInstance(found, twosignal.Failure, content[:80])
        self.assertEqual(found.exit_code, 2)
        for part in parts:
            self.assertIn(part, found.message)

    def test_rows(self):
        with_crlf = TABLE.replace("\n", "\r\n").replace("\"\r\nc", "\"\nc")
        for content in (TABLE, "\ufeff" + TABLE, with_crlf, "\n" + TABLE,
                        TABLE + ",\n,\n\n", TABLE.rstrip("\n"), TABLE.replace("t,e", "t, e"),
                        gzip.compress(TABLE.encode())):
            for path in ("stdin", "x.csv", "x.CSV.gz"):
                with self.subTest(content=content, path=path):
                    self.assertEqual(list(table(content, path)), ROWS)

    def test_long_cells(self):
        self.assertEqual(list(table("input\n" + "x" * 200000)), [{"input": "x" * 200000}])

    def test_lines_that_end_with_cr_alone(self):
        self.assertEqual(list(table("input,b\rHi,1\r\"x\ry\",2\r")),
                         [{"input": "Hi", "b": "1"}, {"input": "x\ry", "b": "2"}])

    def test_json_is_told_by_how_it_begins(self):
        for path, text in (("stdin", "\ufeff \n {\"a\": 1}\n"), ("x", "[{\"a\": 1}]"),
                           ("cases.txt", "\n{\"a\": 1}"), ("x.csv", "{\"a\": 1}")):
            self.assertEqual(list(table(text, path)), [{"a": 1}])
        self.refused("input,b\nx,y\n", "line 1", columns=None)

    def test_other_columns_are_not_looked_at(self):
        """Neither their headings, of which spreadsheets leave some empty, nor their cells."""
        text = "input,,note,note,\nHi,x,[9007199254740993],\"{\"\"a\"\": 1, \"\"a\"\": 2}\",\n"
        row, = table(text, columns={"input": True})
        self.assertEqual((row["input"], row["note"]), ("Hi", '{"a": 1, "a": 2}'))

    def test_what_is_no_table(self):
        for content, *parts in (
                ("input,b\nx,y\nx\n", "line 3", "1 cell for 2 columns"),
                ("input,b\n\"x\n\ny\",1\nx,y,z\n", "line 5", "3 cells for 2 columns"),
                ("input,b,input\nx,y,z\n", "line 1", "more than one column 'input'"),
                ("question,answer\nx,y\n", "line 1", "no column 'input'", "question, answer"),
                ("a;b\nx;y\n", "line 1", "no column 'input'", "a, b"),
                ("input,b\nx,y\nx,\"y\nx,y\n", "line 3", "quote"),
                ("input,b\nx,y\n\"x\"y,z\n", "line 3", "quote"),
                (b"input,b\nx,y\n\xe9,y\n", "line 3", "not UTF-8"),
                (b"input,b\nx,y\n\"\n\xc3", "line 4", "not UTF-8"),
                ("input,b\nx,y\n".encode("utf-16"), "line 1", "not UTF-8"),
                (gzip.compress(TABLE.encode())[:-9], "Cannot read stdin")):
            with self.subTest(content=content):
                self.refused(content, *parts, columns={"input": True, "b": False})

    def test_a_quote_that_is_never_closed_takes_no_memory(self):
        with mock.patch.object(twosignal, "MAX_CELL", 1000), \
                mock.patch.object(twosignal, "MAX_FILE_RECORD", 5000):
            self.refused("input\n\"" + "x\n" * 1000, "line 2", "quote")
            self.refused("input\n" + "x" * 6000, "line 2", "larger than")
            self.refused('{"input": "' + "x" * 200000 + '"}', "line 1",
                         "is not JSON, or is larger than")

    def test_nothing_is_read_behind_a_broken_line(self):
        for broken in ('{"input": 1\n', '{"input": "x\n', '{"input": [1}\n', "[{x}\n"):
            stream = CountedBytes(('{"input": 1}\n' + broken + TABLE * 100000).encode())
            with self.subTest(broken=broken):
                with self.assertRaises(twosignal.Failure) as caught:
                    list(twosignal.RecordFile("x.jsonl", stream))
                self.assertIn("x.jsonl, line 2 is not JSON", caught.exception.message)
                self.assertLess(stream.count, 4 * twosignal.FILE_CHUNK)


class CountedBytes(io.BytesIO):
    count = 0                   # of the bytes that were read

    def readinto(self, buffer):
        size = super().readinto(buffer)
        self.count += size
        return size


class Cells(unittest.TestCase):
    def test_json_is_a_value_and_everything_else_is_text(self):
        for text, value in (("42", "42"), ("true", "true"), ("null", "null"), ("Hi", "Hi"),
                            (" {\"a\": 1}", " {\"a\": 1}"), ("{\"a\": 1}", {"a": 1}),
                            ("[1, 2]", [1, 2]), ("\"42\"", "42"), ("\"\"", ""), ("", None),
                            ("[not JSON]", "[not JSON]"), ("{x}", "{x}"),
                            ("\"Hi\" he", "\"Hi\" he"), ("[NaN]", "[NaN]"),
                            ("[" * 100000, "[" * 100000), ("'=1+1", "=1+1"), ("''=1", "'=1"),
                            ("'tis", "'tis"), ("-5", "-5"), ("'", "'")):
            with self.subTest(text=text[:20]):
                self.assertEqual(twosignal.cell_value(text), value)

    def test_json_that_would_change_is_refused(self):
        for text in ("{\"a\": 1, \"a\": 2}", "[12345678901234567890]", "[1e400]"):
            with self.assertRaises(ValueError):
                twosignal.cell_value(text)

    def test_formulas_come_back_as_they_were(self):
        for text in "=1 '=1 ''=1 +x -5 '-5 @x ' '' 'x \uff1d1".split() + ["\tx"]:
            with self.subTest(text=text):
                self.assertEqual(twosignal.cell_value(twosignal._value_text(text)), text)


def json_lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def numbered(count):
    return json_lines(*({"input": f"q{n}", "expectedOutput": {"n": n}}
                        for n in range(1, count + 1)))


class ImportCase(CommandCase):
    """With an empty dataset."""

    def setUp(self):
        super().setUp()
        self.dataset = self.server.add_dataset(name="Cases")

    def load(self, content, *args, name="cases.jsonl", **kwargs):
        source = name if name == "-" else self.write(name, content)
        stdin = content if name == "-" else None
        return self.cli("datasets", "import", self.dataset, source, *args, stdin=stdin, **kwargs)

    def stored(self):
        """The content of each item on the server."""
        return [{key: row[key] for key in ("input", "expectedOutput", "metadata")
                 if row[key] is not None} for row in self.server.rows("items")
                if row["datasetId"] == self.dataset]

    def inputs(self):
        return sorted(item["input"] for item in self.stored())

    def assertImported(self, content, *items, args=(), **kwargs):
        self.dataset = self.server.add_dataset(name="Other")
        result = self.assertOk(self.load(content, "--json", *args, **kwargs))
        self.assertCountEqual(self.stored(), items)
        self.assertEqual(result.json, {"dataset_id": self.dataset, "added": len(items),
                                       "skipped": 0, "failed": 0, "failures": []})
        return result

    def assertRefused(self, content, *parts, args=(), **kwargs):
        """The file cannot be used, and nothing was sent."""
        self.server.clear()
        self.assertFails(self.load(content, *args, **kwargs), 2, *parts)
        self.assertEqual(self.server.requests, [])


class Files(ImportCase):
    def test_every_form(self):
        items = [{"input": "Hi", "expectedOutput": "Hello"},
                 {"input": {"q": [1, None]}, "expectedOutput": 0, "metadata": {"tags": ["a"]}},
                 {"input": ""}]
        for dialect, options in DIALECTS:
            self.server = self.serve(**options)
            self.log_in("member@example.com")
            self.environment.update(TWOSIGNAL_PROJECT=self.server.project)
            for name, content in (("a.jsonl", json_lines(*items)), ("a.json", json.dumps(items)),
                                  ("-", "\ufeff" + json.dumps(items, indent=1)),
                                  ("-", json_lines(*items))):
                with self.subTest(dialect=dialect, name=name):
                    self.assertImported(content, *items, name=name)

    def test_tables(self):
        table = ("input,expected_output,metadata\n42,\"[1, 2]\",\"{\"\"a\"\": 1}\"\n"
                 "\"\"\"42\"\"\",,\n")
        items = ({"input": "42", "expectedOutput": [1, 2], "metadata": {"a": 1}}, {"input": "42"})
        for name, content in (("a.csv", table), ("-", table.replace("expected_output", "expected")),
                              ("a.txt", table.replace("expected_output", "expectedOutput"))):
            self.assertImported(content, *items, name=name)

    def test_columns(self):
        table = "question,input,answer,note\nq,i,a,n\n"
        item = {"input": "q", "expectedOutput": "a", "metadata": "n"}
        args = ("--input-column", "question", "--expected-column", "answer",
                "--metadata-column", "note")
        result = self.assertImported(table, item, args=args, name="a.csv")
        self.assertEqual(result.err.strip(), "Ignored: input")
        record = dict(zip(("question", "answer", "note"), "qan"))
        self.assertImported(json_lines(record), item, args=args)
        for flag in args[::2]:
            self.assertRefused(table, "line 1 has no column 'nope'",
                               "question, input, answer, note",
                               args=(flag, "nope"), name="a.csv")
        self.assertRefused("question\nq\n", "line 1 has no column 'input'", name="a.csv")

    def test_keys(self):
        """Each spelling; what is ignored is told once."""
        rows = [{"id": 1, "input": 1, key: 2, "tags": 5, "\x1b": 6}
                for key in ("expectedOutput", "expected_output", "expected")]
        result = self.assertImported(json_lines(*rows), *3 * [{"input": 1, "expectedOutput": 2}])
        self.assertEqual(result.err.strip(), "Ignored: id, tags, \\x1b")

    def test_items_that_cannot_be_used(self):
        good = numbered(3)
        for bad, *parts in (
                ('[1]', "line 4 is not an object"), ('{"expected": 1}', "line 4 has no input"),
                ('{"input": null}', "line 4 has no input"), ('{"input": 1', "line 4 is not JSON"),
                ('{"input": 1, "expected": 1, "expectedOutput": 1}', "line 4", "two spellings"),
                ('{"input": {"a": 1, "a": 2}}', "line 4 is refused", "'a' occurs twice"),
                ('{"input": 12345678901234567890}', "line 4 is refused", "12345678901234567890")):
            with self.subTest(bad=bad):
                self.assertRefused(good + bad + "\n", "cases.jsonl", *parts)
        for bad, *parts in ((",x", "line 3 has no input"), ("\"[1e400]\",", "line 3 is refused")):
            self.assertRefused("input,expected\na,\n" + bad + "\n", *parts, name="a.csv")
        self.assertFails(self.cli("datasets", "import", self.dataset, self.path("none")), 2,
                         "No such file")

    def test_nothing_to_add(self):
        """What wrote the file may have failed."""
        for content in ("", "[]"):
            self.assertRefused(content, "no test cases")
        self.assertRefused("input\n", "no test cases", name="a.csv")
        self.assertRefused("", "no test cases", name="-")

    def test_what_the_ending_says(self):
        self.assertRefused("<!DOCTYPE html>\n", "line 1 is not JSON", name="a.jsonl")
        self.assertRefused("<!DOCTYPE html>\n", "no column 'input'", name="a.csv")

    def test_semicolons(self):
        """Excel separates columns so in countries with a decimal comma."""
        table = "\ufeffFrage;Antwort\r\n\"a;b, c\";d\r\n"
        self.assertImported(table, {"input": "a;b, c", "expectedOutput": "d"}, name="a.csv", args=(
            "--input-column", "Frage", "--expected-column", "Antwort"))
        self.assertRefused("a;b\nx;y\n", "has no column 'input'; it has: a, b", name="a.csv")

    @posix
    def test_no_room_for_temporary_files(self):
        path = self.write("a.jsonl", numbered(200))
        result = run_command(["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, SCRIPT,
                              "datasets", "import", self.dataset, path], self.environment)
        self.assertFails(result, 1, "Cannot write a temporary file", "TMPDIR")

    def test_stdin_is_read_once(self):
        self.assertFails(self.load("x", name="-", env={"TWOSIGNAL_PROJECT": None}), 2)
        output, code = self.run_terminal(
            "datasets", "import", self.dataset, "-",
            script=[("Reading test cases from the terminal", "{\"input\": 1}\n\x04")])
        self.assertEqual(code, 0, output)
        self.assertEqual(self.inputs(), [1])


class Existing(ImportCase):
    def test_equal_items_are_skipped(self):
        """The order of keys, nulls, and the form of a number do not matter."""
        self.server.add_item(self.dataset, {"a": 1, "b": [2.0]}, None, {"x": 1})
        rows = [{"metadata": {"x": 1.0}, "input": {"b": [2], "a": 1}, "expected": None},
                {"input": {"a": 1, "b": [2]}}, {"input": {"a": True, "b": [2]}}, {"input": "1"},
                {"input": 1}, {"input": "1"}]
        result = self.assertOk(self.load(json_lines(*rows), "--skip-existing", "--json"))
        self.assertEqual((result.json["added"], result.json["skipped"]), (5, 1))
        self.assertEqual(len(self.stored()), 6)

    def test_what_is_in_the_file_several_times(self):
        """It is so on purpose: as many are added as are missing."""
        rows = json_lines(*[{"input": "a"}, {"input": "b"}] * 3)
        self.server.add_item(self.dataset, "b")
        for added, message in ((5, "Added 5 of 6 items; 1 already there.\n"),
                               (0, "Added 0 of 6 items; 6 already there.\n")):
            result = self.assertOk(self.load(rows, "--skip-existing"))
            self.assertEqual(result.out, message)
        self.assertEqual(self.inputs(), list("aaabbb"))

    def test_what_was_exported_is_imported_again(self):
        values = ["Hi", "", "42", "=1", "'=1", "'tis", "a\r\n\tb\\n", "{x}", '"x"', "\x1b\u2028",
                  '{"a": 1, "a": 2}', {"b": [1, None], "a": "=2"}, [], "\u6771\u4eac\U0001f600"]
        for value in values:
            self.server.add_item(self.dataset, value, value, {"x": value})
        before, source = self.stored(), self.dataset
        for name in ("a.jsonl", "a.json", "a.csv"):
            path = self.path(name)
            self.assertOk(self.cli("datasets", "export", source, "-o", path))
            result = self.cli("datasets", "import", source, path, "--skip-existing", "--json")
            self.assertEqual((result.json["added"], result.json["skipped"]), (0, len(values)))
            self.dataset = self.server.add_dataset(name="Copy")
            self.assertOk(self.cli("datasets", "import", self.dataset, path))
            self.assertCountEqual(self.stored(), before)

    def test_a_dry_run_changes_nothing(self):
        self.server.add_item(self.dataset, "q1", {"n": 1})
        result = self.assertOk(self.load(numbered(3), "--dry-run", "--skip-existing", "--json"))
        self.assertEqual(result.json, {"dataset_id": self.dataset, "would_add": 2, "skipped": 1,
                                       "failed": 0, "failures": []})
        self.server.clear()
        self.assertOk(self.load(numbered(3), "--dry-run"))
        self.assertEqual(requests_of(self.server, "getById"), [])       # its items are not needed
        self.dataset, dataset = "Nowhere", self.dataset
        self.assertFails(self.load(numbered(3), "--dry-run"), 6, "Dataset not found")
        self.dataset = dataset
        self.assertRefused("x", "line 1", args=["--dry-run"])
        self.assertEqual(requests_of(self.server, "addItem"), [])


class Requests(ImportCase):
    def test_four_at_once_and_not_more(self):
        """Row 79: an import has four requests under way, after a first one by itself."""
        barrier, lock, now, seen = threading.Barrier(4), threading.Lock(), [0], []
        answer = self.server.answer

        def answered(request):
            if "addItem" not in request.path:
                return answer(request)
            with lock:
                now[0] += 1
                seen.append(now[0])
                first = len(seen) == 1
            if not first:
                barrier.wait(DEADLINE)
            with lock:
                now[0] -= 1
            return answer(request)

        self.server.answer = answered
        self.assertOk(self.load(numbered(13)))
        self.assertEqual(max(seen), 4)
        self.assertEqual(len(self.stored()), 13)

    def test_what_is_wrong_with_all_is_told_once(self):
        for email, code, part in (("viewer@example.com", 5, "Your role is VIEWER"),
                                  ("stranger@example.com", 6, "not found")):
            self.log_in(email)
            self.server.clear()
            self.assertFails(self.load(numbered(20)), code, part)
            self.assertEqual(len(requests_of(self.server, "addItem")), 1)

    def test_rejected_items_end_it(self):
        self.server.rejects = lambda value: "too rude" if value == "q5" else None
        result = self.assertFails(self.load(numbered(40)), 1, "cases.jsonl, line 5: ",
                                  "too rude", "Line 5 is the first",
                                  "--skip-existing")
        self.assertIn(f"Added {len(self.stored())} of 40 items", result.err)
        self.assertLess(len(requests_of(self.server, "addItem")), 20)

    def test_items_in_one_line(self):
        self.server.rejects = lambda value: "too rude" if value == "q3" else None
        content = json.dumps([json.loads(line) for line in numbered(9).splitlines()])
        self.assertFails(self.load(content), 1, "line 1 (item 3): ", "Line 1 (item 3) is")
        result = self.load(content, "--keep-going", "--json")
        failure, = result.json["failures"]
        self.assertEqual(failure["line"], 1)
        self.assertIn("line 1 (item 3): ", failure["message"])
        content = content.replace('"q3"', "null")
        self.assertRefused(content, "cases.jsonl, line 1 (item 3) has no input")
        self.assertRefused(content.replace(': null', " null"), "line 1 (item 3) is not JSON")

    def test_an_item_that_is_too_large(self):
        """It is refused by itself, maybe before all of it was sent."""
        self.server.fault("addItem", status=413, body="<html>", after=False)
        self.assertFails(self.load(numbered(9)), 1, "cases.jsonl, line 1: Request too large")

    def test_failures_are_bounded(self):
        self.server.rejects = lambda value: "too rude"
        with mock.patch.object(twosignal, "MAX_FAILURES", 3):
            result = self.load(numbered(9), "--keep-going", "--json")
        self.assertEqual((result.json["failed"], len(result.json["failures"])), (9, 3))
        self.assertIn("The server rejected 9 items", result.err)
        self.assertEqual(result.err.count("too rude"), 9)

    def test_rejected_items_are_left_out(self):
        self.server.rejects = lambda value: "too rude" if value in ("q1", "q5") else None
        result = self.load(numbered(40), "--keep-going", "--json")
        self.assertEqual(result.code, 1)
        self.assertEqual(len(self.stored()), 38)
        self.assertEqual(result.json["added"], 38)
        self.assertEqual(result.json["failed"], 2)
        self.assertEqual(sorted(each["line"] for each in result.json["failures"]), [1, 5])
        for part in ("line 1: ", "line 5: ", "too rude", "rejected 2 items"):
            self.assertIn(part, result.err)
        self.server.fault("addItem", status=403)
        self.assertFails(self.load(numbered(40), "--keep-going"), 5)

    def test_a_connection_that_breaks(self):
        """Row 80: what is certain is told, and --skip-existing adds nothing twice."""
        for fault in (dict(reset=True), dict(reset=True, after=True), dict(status=502)):
            with self.subTest(fault=fault):
                self.dataset = self.server.add_dataset(name="Broken")
                take, left = self.server.take_fault, [7]

                def taken(request, fault=fault, left=left):
                    left[0] -= "addItem" in request.path
                    return standin.Fault("", None, **fault) if left[0] == 0 else take(request)
                self.server.take_fault = taken
                result = self.load(numbered(40))
                self.server.take_fault = take
                self.assertFails(result, 9 if "reset" in fault else 8, "cases.jsonl, line ",
                                 " of 40 items", "Line ", "--skip-existing")
                first = int(re.search(r"Line (\d+)", result.err).group(1))
                self.assertLessEqual({f"q{n}" for n in range(1, first)}, set(self.inputs()))
                self.assertOk(self.load(numbered(40), "--skip-existing"))
                self.assertEqual(len(self.stored()), 40)
                self.assertEqual(len(set(self.inputs())), 40)

    def test_a_refresh_in_the_middle(self):
        """Row 1: four requests share one refresh."""
        take, left = self.server.take_fault, [6]

        def taken(request):
            left[0] -= "addItem" in request.path
            if left[0] == 0:
                self.server.expire("owner@example.com")
            return take(request)
        self.server.take_fault = taken
        self.assertOk(self.load(numbered(40)))
        self.assertEqual(len(requests_of(self.server, "auth/refresh")), 1)
        self.assertEqual(len(set(self.inputs())), 40)
        self.assertEqual(len(self.stored()), 40)

    def test_a_refresh_that_fails(self):
        """Row 1: the token that works once is spent once, not by each of the four."""
        for fault in (dict(reset=True), dict(reset=True, after=True), dict(status=500),
                      dict(status=401)):
            self.log_in("owner@example.com")
            answer, seen = self.server.answer, []
            barrier = threading.Barrier(4, lambda: self.server.expire("owner@example.com"))
            self.server.clear()

            def answered(request, answer=answer, seen=seen, barrier=barrier):
                if "addItem" in request.path:
                    seen.append(request)
                    if len(seen) > 1:
                        barrier.wait(DEADLINE)
                return answer(request)
            self.server.fault("auth/refresh", **fault)
            self.server.answer = answered
            result = self.load(numbered(40))
            self.server.answer = answer
            with self.subTest(fault=fault):
                self.assertNotEqual(result.code, 0)
                self.assertEqual(len(requests_of(self.server, "auth/refresh")), 1)
                self.assertIn("Added 1 of 40 items", result.err)

    def test_an_unknown_outcome_counts_most(self):
        """It decides the exit code, even if another one of those under way is rejected first."""
        client = twosignal.Client(self.server.url, twosignal.Transport())
        barrier, is_noted = threading.Barrier(2), threading.Event()

        def mutate(_, number):
            if number:
                barrier.wait(DEADLINE)
                if number == 2:
                    is_noted.wait(DEADLINE)
                code = "BAD_REQUEST" if number == 1 else "UNKNOWN_OUTCOME"
                raise twosignal.Failure(code, code=code)

        def note(key, result):
            if result:
                is_noted.set()
                raise result
        client.mutate = mutate
        changes = twosignal.ConcurrentChanges(client, "dataset.addItem", note)
        with self.assertRaises(twosignal.Failure) as caught:
            changes.run([(number, number) for number in range(3)])
        self.assertEqual(caught.exception.code, "UNKNOWN_OUTCOME")
        self.assertEqual(changes.uncertain, {1, 2})

    def test_debug_prints_whole_lines(self):
        result = self.assertOk(self.load(numbered(20), "--debug"))
        for line in result.err.splitlines():
            self.assertRegex(line, r"\Adebug: (POST|curl) .*(ms|})'?\Z")
        self.assertEqual(len(result.err.splitlines()), 40)


class RateLimits(ImportCase):
    def test_are_waited_for(self):
        self.server.rate_limit = (10, 20)
        self.assertOk(self.load(numbered(100), clock=PassingClock()))
        self.assertEqual(len(set(self.inputs())), 100)
        self.assertEqual(len(self.stored()), 100)

    def test_long_pauses_are_obeyed(self):
        self.server.rate_limit, self.server.limit_headers = (5, 1), [("Retry-After", "61")]
        clock = PassingClock()
        self.assertOk(self.load(numbered(12), "--timeout", "300", clock=clock), err=None)
        self.assertGreaterEqual(sum(clock.naps), 122)
        self.assertEqual(len(self.stored()), 12)

    def test_are_given_up_if_nothing_succeeds(self):
        for headers in ([("Retry-After", "1")], [("Retry-After", "86400")], []):
            self.server.limited = 0
            self.server.rate_limit, self.server.limit_headers = (7, 10 ** 9), headers
            self.dataset = self.server.add_dataset(name="Limited")
            self.assertFails(self.load(numbered(40), clock=PassingClock()), 7, "Rate limited",
                             "Added 7 of 40 items", "Line ", "--skip-existing")
            self.assertEqual(len(self.stored()), 7)


class Signals(ImportCase):
    def test_a_signal_in_a_pause(self):
        """Row 81: Ctrl-C takes effect at once, and tells what may be missing."""
        pending = [KeyboardInterrupt]

        def interrupt():
            if pending:
                raise pending.pop()
        self.server.rate_limit = (7, 10 ** 9)
        result = self.load(numbered(40), clock=EventfulClock(interrupt))
        self.assertEqual(result.code, 130)
        self.assertRegex(result.err, r"\A\nLine \d is the first that may .*"
                         r"Added 7 of 40 items\. ")
        self.assertEqual(len(self.stored()), 7)

    @posix
    @costly
    def test_a_signal_while_a_response_is_awaited(self):
        path = self.write("cases.jsonl", numbered(40))
        args = ["datasets", "import", self.dataset, path]
        code, err = self.signalled(signal.SIGINT, "addItem", args)
        self.assertEqual(code, -signal.SIGINT)
        self.assertIn("Line 1 is the first that may be missing. Added 0 of 40 ", err)


class Memory(ImportCase):
    @posix
    @costly
    def test_is_flat(self):
        """Row 69: a long file takes no more memory than a short one."""
        item = {"input": "x" * 2000}
        peaks = []
        for count, name in ((300, "a.jsonl"), (30000, "b.jsonl"), (30000, "c.csv")):
            text = json_lines(item) * count
            if name.endswith(".csv"):
                text = "input\n" + ("x" * 2000 + "\n") * count
            result = run_command(measured_command(
                SCRIPT, "datasets", "import", self.dataset, self.write(name, text), "--dry-run"),
                self.environment)
            status, used = result.err.split()[-2:]
            self.assertEqual(status, "0", result.err)
            peaks.append(float(used))
        self.assertLess(max(peaks), peaks[0] + 25, peaks)    # of 60 MB
