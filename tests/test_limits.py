"""How much time, memory and output a response may cost: no more than its size warrants."""
import json
import os
import subprocess
import sys
import unittest

import tools
import twosignal
from test_hostile import SPAN, TRACE, WORLD, CannedCase, canned, envelope

try:
    import tracemalloc
except ImportError:                 # PyPy has none
    tracemalloc = None
PATTERNS = os.path.join(tools.SUPPORT, "patterns.py")
MEGABYTE = 1 << 20
PROJECT = TRACE["projectId"]
LIST = ["traces", "list", "--project", PROJECT]


class Time(unittest.TestCase):
    @tools.costly
    @unittest.skipIf(os.name == "nt" or tools.PYPY, "needs ITIMER_PROF and CPython's parser")
    def test_patterns_and_loops(self):
        """Row 66: each pattern of the module, and what loops over foreign text, is linear."""
        count = tools.full_once(tools.full("2", "15"), "60")
        run = subprocess.run([sys.executable, PATTERNS, tools.SCRIPT, count],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        last = tools.as_text(run.stdout).rstrip().rpartition("\n")[2]
        self.assertRegex(last, r"\A\d+ patterns, \d+ functions\Z", run.stdout[-2000:])
        self.assertEqual(run.returncode, 0)


def bodied(text):
    """The bytes of a query's result, given as JSON."""
    return json.dumps(envelope(0)).replace("0", text).encode("utf-8")


def page(*traces, **more):
    return dict({"traces": list(traces), "nextCursor": None}, **more)


@unittest.skipUnless(tracemalloc, "needs tracemalloc")
class Memory(CannedCase):
    """The most that a run allocates, and how much it prints."""

    def measured(self, body, *args, status=200):
        """The result of a run, after its memory and its output were found to be within bounds."""
        def request(*_, **__):          # each response has a body of its own
            return twosignal.Response(status, canned({}).headers, bytes(bytearray(body)))
        tracemalloc.start()
        try:
            result = self.run_canned(request, *args)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 200 * MEGABYTE)
        self.assertLess(len(result.out) + len(result.err), 12 * len(body) + 1000)
        return result

    def test_deep_data(self):
        """Row 65: indentation does not outgrow what is indented."""
        nested = "[" * 900 + ",".join(["0"] * 250000) + "]" * 900
        for text in (nested, ",".join(["[[[[[[[[0]]]]]]]]"] * 9000).join("[]")):
            body = bodied(json.dumps(page(dict(TRACE, metadata="@", scores=[], _count={})))
                          .replace('"@"', text))
            for level in tools.full_or_one((["--json"], ["--format", "jsonl"], [])):
                result = self.assertOk(self.measured(body, *(LIST + level)))
                if level == ["--json"]:
                    self.assertEqual(json.dumps(result.json[0]["metadata"]).replace(" ", ""), text)

    def test_levels_that_have_lines_of_their_own(self):
        """Row 65: JSON is indented down to six levels; what is below them is on one line."""
        value = {"a": [{"b": {"c": [{"d": {}, "e": [], "f": [1, {"g": 2}]}]}}]}
        lines = json.dumps(value, indent=2).split("\n")
        start = [line.strip() for line in lines].index('"f": [')
        lines[start:start + 6] = [" " * 12 + '"f": [1, {"g": 2}]']
        self.assertEqual(twosignal.to_json(value), "\n".join(lines))

    def test_one_long_id(self):
        """Row 65: other rows are not padded to it."""
        rows = [dict(TRACE, id="x" * (16 * MEGABYTE))] + [dict(TRACE, id=str(n)) for n in range(99)]
        result = self.assertOk(self.measured(bodied(json.dumps(page(*rows))), *LIST + ["--all"]))
        self.assertEqual(len(result.lines), 102)

    @tools.costly
    def test_equal_ids_of_spans(self):
        """Row 65: each span is in the tree once, whoever its parents are."""
        spans = [dict(SPAN, id="s", parentSpanId="s")] * 8000
        body = bodied(json.dumps(dict(WORLD["trace.getById"], spans=spans)))
        result = self.assertOk(self.measured(body, "traces", "get", "t", "--project", PROJECT))
        self.assertEqual(result.out.count("LLM"), 8000)

    def test_many_small_values(self):
        """Row 65: refused before they are parsed, in whatever they are."""
        for place, part in enumerate(("{},", "[],", '"",', "0,", '{"":{}},')):
            flood = part * (31 * MEGABYTE // len(part)) + part[:-1]
            for text in tools.full_or_one(("[%s]", '{"traces": [%s]}', '[{"a": [%s]}]'), place):
                result = self.measured(bodied(text % flood), "orgs", "list")
                self.assertOneLine(result, 8)
                self.assertIn("made of more than 600,000 values", result.err)

    @tools.costly
    def test_wide_characters(self):
        """Row 65: a text of which one character is wide takes up to four bytes for each."""
        wides = (('"🤖"', 8), ('"\\u2026"', 16), ('"…"', 16), ('"\\ud83e\\udd16"', 8))
        for wide, size in tools.full_once(wides[:2], wides):
            for count, code in ((size * MEGABYTE - 1000, 0), (size * MEGABYTE, 8)):
                text = wide[:-1] + "x" * count + '"'
                body = json.dumps(envelope([])).replace("[]", '[{"id": %s}]' % text)
                # Every format for one of them: from then on, the text is what it is.
                more = [["--format", "csv"], []] if wide == wides[0][0] else []
                for level in [["--json"]] + tools.full_once([], more):
                    result = self.measured(body.encode("utf-8"), "orgs", "list", *level)
                    with self.subTest(wide=wide, count=count, level=level):
                        self.assertEqual(result.code, code, result.err)

    @tools.costly
    def test_pages_that_are_too_large_are_not_kept(self):
        """Row 65: each smaller page is requested after the larger one has been freed."""
        body = bodied('{"traces": [%s]}' % ("{}," * (10 * MEGABYTE) + "{}"))
        result = self.measured(body, *LIST + ["--all"])
        self.assertEqual(result.code, 8)
        self.assertIn("Cannot read a page of one trace", result.err)

    def test_many_control_characters(self):
        """Row 65: escaping them takes no more than their escapes."""
        body = json.dumps(envelope(page(dict(TRACE, name="\x7f" * (4 * MEGABYTE), scores=[],
                                             _count={})))).encode("ascii")
        for level in tools.full_or_one(([], ["--json"], ["--format", "csv"])):
            result = self.assertOk(self.measured(body, *LIST + level))
            self.assertNotIn("\x7f", result.out)

    @tools.costly
    def test_as_many_values_as_are_allowed(self):
        """Row 65: also if each is a row."""
        ones = ",".join('{"a":%d}' % n for n in range(140000))
        empty = "{}," * 149000 + "{}"
        for text, *level in tools.full_once([[empty]], [
                [empty], [empty, "--json"], [ones], [ones, "--format", "csv"]]):
            self.assertOk(self.measured(bodied("[%s]" % text), "orgs", "list", *level))

    @tools.costly
    def test_scores_of_very_many_traces(self):
        """Row 65: a page without a limit; what requests the scores is made for 100 at once."""
        body = bodied('{"traces": [%s]}' % ('{"a":{}},' * 99000 + "{}"))
        result = self.measured(body, *LIST + ["--all", "--json"])
        self.assertOneLine(result, 8)

    def test_large_texts_count_as_one_value(self):
        """Row 65: commas, brackets and quotes in a text are no values."""
        text = '{"a": ["b", "\\\\"]},' * 200000
        body = bodied(json.dumps(page(dict(TRACE, metadata=text, scores=[], _count={}))))
        result = self.assertOk(self.measured(body, *LIST + ["--json"]))
        self.assertEqual(result.json[0]["metadata"], text)

    def test_long_messages(self):
        """Row 65: an error's text, or a list of problems in it."""
        for place, message in enumerate(("x" * (31 * MEGABYTE),
                                         "[%s{}]" % ("{}," * (10 * MEGABYTE)))):
            error = {"message": message, "data": {"code": "BAD_REQUEST", "httpStatus": 400}}
            for level in tools.full_or_one(([], ["--json"], ["--debug"]), place):
                result = self.measured(json.dumps({"error": {"json": error}}).encode("ascii"),
                                       "orgs", "list", *level, status=400)
                self.assertEqual(result.code, 1)
                self.assertLess(len(result.err), 3000)

    def test_long_lines(self):
        """Row 65: what an error repeats of a response, and how much each of its problems is."""
        long = "x" * 9999
        problems = [{"path": [long], "message": long, "options": [long] * 99}] * 99
        for kind, message in (("x" * 60000, ""), ("application/json", json.dumps(problems)[:99999]),
                              ("application/json", json.dumps(problems[:3]))):
            error = {"message": message, "data": {"code": "BAD_REQUEST", "httpStatus": 400}}
            body = json.dumps({"error": {"json": error}} if message else []).encode("ascii")
            response = twosignal.Response(400, canned({}, kind=kind).headers, body)
            for level in ([], ["--json"], ["--debug"]):
                result = self.run_canned(lambda *_, **__: response, "orgs", "list", *level)
                self.assertEqual(result.code, 1 if message else 8)
                texts = result.err.splitlines()
                if result.error:
                    texts = [result.error["message"]] + result.error.get("problems", [])
                self.assertLess(max(map(len, texts)), 2000)

    def test_csv_of_many_columns(self):
        """Row 65: a row is not filled up with all the keys that others have; it is told."""
        rows = [{"k%d %d" % (row, n): n for n in range(50)} for row in range(100)] + [{}] * 500
        for kind in ("csv", "tsv"):
            result = self.assertOk(self.measured(
                bodied(json.dumps(rows)), "orgs", "list", "--format", kind))
            self.assertEqual(len(result.lines[0].split("," if kind == "csv" else "\t")), 1000)
            self.assertIn("Columns omitted", result.err)
            self.assertLess(len(result.err), 20000)


@unittest.skipUnless(tracemalloc, "needs tracemalloc")
class Pages(CannedCase):
    """Pages without end, and bursts of traces."""

    def peaks(self, argv, count, step=100, **fields):
        """The memory used after some pages, and after four times as many."""
        peaks = []

        def request(*_, **__):
            number = len(peaks)
            peaks.append(tracemalloc.get_traced_memory()[1])
            if number == count:
                raise twosignal.Failure("enough")
            rows = [dict(TRACE, id="%d-%d-%s" % (number, n, "i" * 1000), scores=[], _count={},
                         **fields) for n in range(step)]
            cursor = "c%d%s" % (number, "c" * 10 ** 5)
            return canned(envelope({"traces": rows, "nextCursor": cursor}))
        tracemalloc.start()
        try:
            result = self.run_canned(request, *argv)
        finally:
            tracemalloc.stop()
        self.assertIn("enough", result.err)
        return peaks[count // 4], peaks[count]

    @tools.costly
    def test_nothing_is_shown(self):
        """Row 65: pages without end on which nothing matches."""
        early, late = self.peaks(LIST + ["--all", "--search", "nothing"], 100)
        self.assertLess(late - early, 4 * MEGABYTE)

    @tools.costly
    def test_wait(self):
        """Row 65: the same for what waits for traces that never match."""
        early, late = self.peaks(["traces", "wait", "--project", PROJECT, "--tag", "x"], 100)
        self.assertLess(late - early, 4 * MEGABYTE)

    @tools.costly
    def test_burst(self):
        """Row 65: a tail shows the newest of very many new traces, and says that it does."""
        for count, size, shown in ((60, 10, 50 * 100), (20, 10 ** 4, 16 * 100)):
            batches = iter([[]] + [["b%d-%d" % (number, n) for n in range(100)]
                                   for number in range(count)] + [[], "enough"])
            sizes = []

            def request(*_, **__):
                found = next(batches)
                if found == "enough":
                    raise twosignal.Failure("enough")
                sizes.append(tracemalloc.get_traced_memory()[0])
                rows = [dict(TRACE, id=each, metadata="m" * size, scores=[], _count={})
                        for each in found]
                return canned(envelope({"traces": rows, "nextCursor": len(sizes)}))
            tracemalloc.start()
            try:
                result = self.run_canned(request, "traces", "tail", "--project", PROJECT,
                                         "-n", "0", clock=tools.ShortClock())
            finally:
                tracemalloc.stop()
            self.assertLessEqual(abs(len(result.lines) - 2 - shown), 100, result.err[:300])
            self.assertIn("Too many new traces: older ones may be missing.", result.err)
            self.assertLess(max(sizes), 100 * MEGABYTE)


if __name__ == "__main__":
    unittest.main()
