"""One trace: its errors, its spans as a tree with a timeline, their input and output."""
import json

import twosignal
from tools import DIALECTS, TracesCase, procedure_inputs, trpc_answer, trpc_error

START = "2026-03-14T10:30:00.000Z"


def moment(milliseconds):
    return twosignal.wire_timestamp(twosignal.parse_timestamp(START) + milliseconds / 1000)


def span(ident, start=0, duration=100, parent=None, **fields):
    """A wire span, named by its ID, that starts that many milliseconds after the trace."""
    return dict({"id": ident, "name": ident, "type": "TOOL", "parentSpanId": parent,
                 "startTime": start if start is None else moment(start), "durationMs": duration,
                 "status": "OK", "cost": None, "input": None, "output": None}, **fields)


def failed(ident, start=0, duration=100, parent=None, message="boom", **fields):
    return span(ident, start, duration, parent, status="ERROR", errorMessage=message, **fields)


class GetCase(TracesCase):
    shared = True

    def get(self, spans, *args, trace=None, **kwargs):
        answer = dict({"id": "t1", "name": "agent", "startTime": START, "createdAt": START,
                       "durationMs": 1000, "status": "ERROR", "spans": spans, "scores": []},
                      **trace or {})
        self.server.fault("getById", status=200, body=trpc_answer(answer))
        return self.traces("get", "t1", *args, **kwargs)

    def rows(self, *args, **kwargs):
        """The cells below each heading of the table of spans, by the name of the span."""
        lines = self.assertOk(self.get(*args, **kwargs)).lines
        lines = lines[lines.index("Spans") + 1:]
        heading, lines = lines[0], lines[2:lines.index("")]
        starts = [heading.index(word) for word in heading.split()] + [None]
        return {line[:starts[1]].strip(): dict(zip(heading.split(), [
            line[left:right].rstrip() for left, right in zip(starts, starts[1:])]))
            for line in lines}


class Head(GetCase):
    def test_errors_come_first(self):
        lines = self.assertOk(self.get([failed("b", 5), span("a"), failed("c", 1, message="x\ny"),
                                        failed("d", message=None)])).lines
        self.assertEqual(lines[:5], ["Errors", "c: x\\x0ay", "b: boom", "", "ID:        t1"])
        lines = self.assertOk(self.get([failed("d", message=None)])).lines
        self.assertEqual(lines[:3], ["Errors", "d: no message", ""])
        lines = self.assertOk(self.get([span("a", errorMessage="a warning")])).lines
        self.assertEqual(lines[0], "ID:        t1")
        self.assertEqual(self.assertOk(self.get([span("a")])).lines[0], "ID:        t1")

    def test_many_errors(self):
        lines = self.assertOk(self.get([failed("s%d" % i) for i in range(60)])).lines
        self.assertEqual(lines[50:53], ["s49: boom", "and 10 more", ""])

    def test_when_it_ran(self):
        for created, text in ((START, START.replace(".000", "")), (None, None), ("soon", "soon")):
            with self.subTest(created=created):
                lines = self.assertOk(self.get([], trace={"createdAt": created})).lines
                found = [line[11:] for line in lines if line.startswith("Created:")]
                self.assertEqual(found, [text] if text else [])
        now = twosignal.wire_timestamp(twosignal.time.time() - 150)
        lines = self.assertOk(self.get([], trace={"createdAt": now})).lines
        self.assertIn("Created:   %s (2 min ago)" % now.replace(".000Z", "Z"), lines)

    def test_json_stays_as_it_is(self):
        record = self.assertOk(self.get([span("b", 5), failed("a", input={"aB": 1})],
                                        "--json")).json
        self.assertEqual(list(record), ["id", "status", "duration_ms", "cost_usd", "created_at",
                                        "name", "start_time", "spans", "scores"])
        self.assertEqual([each["name"] for each in record["spans"]], ["b", "a"])
        self.assertEqual(record["spans"][1]["input"], {"aB": 1})
        self.assertNotIn("start", record["spans"][0])


class Tree(GetCase):
    def test_starts_and_timeline(self):
        rows = self.rows([span("root", 0, 1000), span("half", 500, 500, "root"),
                          span("tenth", 100, 100, "root"), span("end", 1000, 0)])
        bars = {name: row["Timeline"] for name, row in rows.items()}
        self.assertEqual(bars, {"root": "█" * 12, "tenth": " █", "half": " " * 6 + "█" * 6,
                                "end": " " * 11 + "█"})
        self.assertEqual([row["Start"].strip() for row in rows.values()],
                         ["0ms", "0.1s", "0.5s", "1.0s"])

    def test_spans_longer_than_the_trace(self):
        rows = self.rows([span("early", -1000, 500), span("late", 2000, 1000)])
        self.assertEqual([(row["Start"].strip(), row["Timeline"]) for row in rows.values()],
                         [("-1.0s", "██"), ("2.0s", " " * 8 + "████")])

    def test_unknown_times(self):
        rows = self.rows([span("none", None), span("negative", 0, -5), span("running", 0, None),
                          span("text", startTime="soon"), span("1970", startTime=(
                              "1970-01-01T00:00:00.000Z")), span("known", 0, 1000)])
        for name, start, duration, bar in (
                ("none", "-", "0.1s", ""), ("text", "-", "0.1s", ""), ("1970", "-", "0.1s", ""),
                ("negative", "0ms", "-", ""), ("running", "0ms", "-", ""),
                ("known", "0ms", "1.0s", "█" * 12)):
            with self.subTest(name=name):
                row = rows[name]
                self.assertEqual((row["Start"].strip(), row["Duration"].strip(), row["Timeline"]),
                                 (start, duration, bar))
        for times in ({"startTime": None, "durationMs": None}, {"durationMs": 10 ** 299}):
            self.assertOk(self.get([span("a", None, None), span("b", 0, 1e200)], trace=times))

    def test_width(self):
        """The timeline is whole or not there; to a pipe, it always is."""
        spans = [span("a span", 0, 1000), span("x" * 30, 500, 500, "a span", model="gpt-4o-mini")]
        for columns in (40, 60, 80, 95, 100, 120, 200, None):
            out = self.assertOk(self.get(spans, columns=columns)).out
            with self.subTest(columns=columns):
                self.assertEqual("█" * 12 in out, "Timeline" in out)
                self.assertEqual("Timeline" in out, columns is None or columns >= 100)
                self.assertEqual("…" in out, columns is not None and columns < 90)
                table = out.partition("Spans\n")[2].partition("\n\n")[0].splitlines()
                self.assertLessEqual(max(map(twosignal.display_width, table)), columns or 999)
                self.assertEqual([line for line in out.splitlines() if line.endswith(" ")], [])

    def test_in_ascii(self):
        out = self.assertOk(self.get([span("a", 0, 1000)], encoding="ascii")).out
        self.assertIn("#" * 12, out)

    def test_deep_trees(self):
        spans = [span("s0")] + [span("s%d" % i, i, 1, "s%d" % (i - 1)) for i in range(1, 900)]
        lines = self.assertOk(self.get(spans, columns=80)).lines
        for text in ("s0 ", "  s1 ", " " * 16 + "s8 ", "  [9] s9 ", "  [899] s899 "):
            self.assertEqual(sum(line.startswith(text) for line in lines), 1, text)

    def test_many_spans(self):
        spans = [span("s0", 0, 30000)] + [span("s%d" % i, i, 5, "s%d" % (i // 3))
                                          for i in range(1, 10000)]
        lines = self.assertOk(self.get(spans)).lines
        self.assertEqual(sum("TOOL" in line for line in lines), 10000)

    def test_cycles_and_missing_parents(self):
        rows = self.rows([span("a", parent="b"), span("b", parent="a"), span("c", parent="c"),
                          span("d", parent="gone"), span("e", name="조사 🤖👨‍👩‍👧", parent="d")])
        self.assertEqual(len(rows), 5)

    def test_hostile_spans(self):
        for fields in ({"name": None}, {"name": 5}, {"status": {}}, {"durationMs": "x"},
                       {"id": None}, {"id": 5, "parentSpanId": 5}, {"startTime": 5},
                       {"errorMessage": {"a": 1}}, {"input": "\x1b[31m\u202e"}):
            for args in ((), ("--io",), ("--errors",), ("--span", "s")):
                with self.subTest(fields=fields, args=args):
                    result = self.get([span("s", **fields)], *args)
                    self.assertIn(result.code, (0, 6), result)
                    self.assertNotIn("\x1b", result.out)
                    self.assertNotIn("\u202e", result.out)


class FailedSpans(GetCase):
    SPANS = (span("root", 0), span("fine", 1, parent="root"), span("agent", 2, parent="root"),
             span("leaf", 3, parent="agent"), failed("tool", 4, parent="agent", input="q"),
             span("below", 5, parent="tool"), span("other root", 6),
             failed("silent", 7, parent="other root", message=None))

    def test_only_the_paths_to_them(self):
        rows = self.rows(list(self.SPANS), "--errors")
        self.assertEqual(list(rows), ["root", "agent", "tool", "other root", "silent"])
        record = self.assertOk(self.get(list(self.SPANS), "--errors", "--json")).json
        self.assertEqual([each["name"] for each in record["spans"]], list(rows))

    def test_the_timeline_is_that_of_the_whole_trace(self):
        spans = [span("late", 1000, 1000), failed("early", 0, 1000)]
        self.assertEqual(self.rows(spans, "--errors")["early"]["Timeline"], "█" * 6)

    def test_none(self):
        lines = self.assertOk(self.get([span("a", input="x")], "--errors", "--io")).lines
        self.assertIn("No failed spans found.", lines)
        self.assertNotIn("Input and output", lines)

    def test_in_a_cycle_and_deep_down(self):
        self.assertEqual(list(self.rows([failed("a", parent="b"), span("b", parent="a")],
                                        "--errors")), ["a"])
        spans = [span("s0")] + [span("s%d" % i, i, 1, "s%d" % (i - 1)) for i in range(1, 500)]
        rows = self.rows(spans + [failed("last", 500, parent="s499"), span("x", 1, parent="s3")],
                         "--errors")
        self.assertEqual((len(rows), "x" in rows), (501, False))


class InputAndOutput(GetCase):
    def test_a_line_says_that_they_exist(self):
        hint = "Spans have input and output: use --io or --span ID."
        self.assertIn(hint, self.assertOk(self.get([span("a", output=0)])).lines)
        self.assertNotIn(hint, self.assertOk(self.get([span("a")])).lines)
        self.assertNotIn(hint, self.assertOk(self.get([span("a", input=1)], "--io")).lines)

    def test_values(self):
        data = {"userQuery": "hi", "list": [1, {"x": None}], "東京": "\u202e"}
        out = self.assertOk(self.get([span("b", 5, output="one\r\ntwo  \n\nthree\t"),
                                      span("a", input=data, output=False)], "--io")).out
        shown = json.dumps(data, indent=2, ensure_ascii=False).replace("\u202e", "\\u202e")
        self.assertIn("\nInput and output\n  a (a), input:\n    %s\n  a (a), output:\n    false\n"
                      "  b (b), output:\n    one\n    two\n\n    three\\x09\n\n"
                      % shown.replace("\n", "\n    "), out)

    def test_folded_at_the_width(self):
        for text in ("x" * 500, "한국어 텍스트" * 60, "e\u0301" * 200, "a 🤖" * 90,
                     "\x00" * 50):
            for columns in (20, 47, 80):
                lines = self.assertOk(self.get([span("a", input={"k": text})], "--io",
                                               columns=columns)).lines
                first = lines.index("  a (a), input:") + 1
                shown = lines[first:lines.index("", first)]
                with self.subTest(text=text[:9], columns=columns):
                    self.assertLessEqual(max(map(twosignal.display_width, shown)), columns)
                    joined = "".join(line[4:] for line in shown).replace(" ", "")
                    wanted = json.dumps({"k": text}, ensure_ascii=False).replace(" ", "")
                    self.assertEqual(joined, wanted)

    def test_max_lines(self):
        spans = [span("a", input=list(range(8)), output="x" * 1000000)]
        lines = self.assertOk(self.get(spans, "--io", "--max-lines", "3", columns=80)).lines
        first = lines.index("  a (a), input:")
        self.assertEqual(lines[first + 1:first + 5], ["    [", "      0,", "      1,",
                                                      "    … 7 more lines"])
        self.assertEqual(lines[first + 9], "    … 13,155 more lines")
        lines = self.assertOk(self.get(spans[:1], "--io", "--max-lines", "9")).lines
        self.assertIn("    … 1 more line", lines)
        self.assertNotIn("more line", self.assertOk(self.get(spans, "--io")).out)

    def test_wrong_usage(self):
        for args, part in ((("--max-lines", "3"), "--io"), (("--io", "--max-lines", "0"), "1 or"),
                           (("--span", "a", "--errors"), "together"), (("--span", " "), "empty")):
            self.server.clear()
            self.assertFails(self.traces("get", "t1", *args), 2, part)
            self.assertEqual(self.server.requests, [])


class OneSpan(GetCase):
    SPANS = (span("root", id="11111111-1111-4111-8111-111111111111"),
             failed("tool", 3, id="s2", model="gpt-4o", input={"q": ["a"]}, metadata={"k": 1},
                    message="line 1\nline 2", futureField=[1]), span("twin"), span("twin", id="t2"))

    def test_whole(self):
        for name in ("s2", "tool", " s2 "):
            lines = self.assertOk(self.get(list(self.SPANS), "--span", name.strip())).lines
            self.assertEqual(lines[:3], ["ID:            s2", "Name:          tool",
                                         "Type:          TOOL"])
            self.assertIn("Future field:  [1]", lines)
            first = lines.index("Data")
            self.assertEqual(lines[first:], [
                "Data", "  Input:", "    {", '      "q": [', '        "a"', "      ]", "    }",
                "  Error message:", "    line 1", "    line 2", "  Metadata:", "    {",
                '      "k": 1', "    }"])

    def test_as_json(self):
        record = self.assertOk(self.get(list(self.SPANS), "--span", "s2", "--json")).json
        self.assertEqual((record["id"], record["input"]), ("s2", {"q": ["a"]}))

    def test_uuid_in_any_case(self):
        name = self.SPANS[0]["id"].upper()
        self.assertIn("root", self.assertOk(self.get(list(self.SPANS), "--span", name)).out)

    def test_that_does_not_exist(self):
        for name in ("s3", "22222222-2222-4222-8222-222222222222"):
            self.assertFails(self.get(list(self.SPANS), "--span", name), 6, "Span not found")
        self.assertFails(self.get(list(self.SPANS), "--span", "twin2"), 6, "Span not found")

    def test_name_of_several(self):
        spans = [span("a", name="twin"), span("b", name="twin")]
        self.assertFails(self.get(spans, "--span", "twin"), 2, "2 spans named 'twin'", "a, b")


class FoundProject(TracesCase):
    def ask(self, trace, *args, **kwargs):
        return self.cli("traces", "get", trace, *args, env={"TWOSIGNAL_PROJECT": None}, **kwargs)

    def test_it_is_found(self):
        for dialect, options in DIALECTS:
            with self.subTest(dialect=dialect):
                self.use(**options)
                projects = [self.server.add_project("p%d" % i) for i in range(8)]
                trace = self.server.add_trace(projects[5], name="lost")
                self.server.clear()
                record = self.assertOk(self.ask(trace, "--json"), err="").json
                self.assertEqual((record["name"], record["project_id"]), ("lost", projects[5]))
                if dialect == "new":
                    self.assertEqual([len(request.procedures) for request in self.server.requests],
                                     [1, 1, 9])

    def test_in_no_project(self):
        self.assertFails(self.ask("11111111-1111-4111-8111-111111111111"), 6,
                         "Trace not found in any of your projects (1)", "whoami")

    def test_in_more_than_a_few(self):
        for place in range(10):
            self.server.add_project("p%d" % place)
        self.assertFails(self.ask("11111111-1111-4111-8111-111111111111"), 2, "No project given",
                         "11 are too many to search", "--project", "projects list")
        self.assertEqual(self.server.count("getById"), 0)

    def test_a_failure_to_ask_is_no_missing_trace(self):
        self.server.add_project("p1")
        missing = trpc_error("NOT_FOUND", 404, "Trace not found")
        broken = trpc_error("BAD_REQUEST", 400, "bad")
        self.server.fault("getById", status=207, body=[missing, broken])
        self.assertFails(self.ask("t1"), 1, "bad")
        refused = trpc_error("FORBIDDEN", 403, "Insufficient permissions")
        self.server.fault("getById", status=207, body=[refused, missing])
        self.assertFails(self.ask("t1"), 5)

    def test_a_failing_project_hides_no_trace(self):
        trace, = self.add()
        self.server.add_project("p1")
        found = {"result": {"data": {"json": {"id": trace, "name": "here"}}}}
        for answers in ([found, trpc_error("INTERNAL_SERVER_ERROR", 500, "down")],
                        [trpc_error("FORBIDDEN", 403, "no"), found]):
            self.server.fault("getById", status=207, body=answers)
            self.assertEqual(self.assertOk(self.ask(trace, "--json")).json["name"], "here")

    def test_a_given_or_saved_one_is_used(self):
        trace, = self.add()
        other = self.server.add_project("p1")
        self.assertFails(self.cli("traces", "get", trace, "--project", other), 6, "Trace")
        self.assertOk(self.cli("projects", "use", "p1"))
        self.server.clear()
        self.assertFails(self.ask(trace), 6, "Trace", "projects use")
        self.assertEqual([values["projectId"] for values in
                          procedure_inputs(self.server, "trace.getById")], [other])


