"""The section Rendering: tables, formats and --fields, all from the same definition."""
import csv
import datetime
import io
import json
import os
import random
import re
import unicodedata
import unittest
from unittest import mock

import standin
import twosignal
from tools import (DIALECTS, LISTS, PROCEDURES, PYPY, CommandCase, TracesCase, minutes_ago,
                   trpc_answer, trpc_error, wire_trace)
from twosignal import Column, Details, Listing, Screen

TRACES = [
    {"id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890", "status": "OK", "duration_ms": 1200,
     "cost_usd": 0.003},
    {"id": "f9e8d7c6-b5a4-3210-fedc-ba0987654321", "status": "ERROR", "duration_ms": 4800,
     "cost_usd": 0.012},
    {"id": "11223344-5566-7788-99aa-bbccddeeff00", "status": "OK", "duration_ms": 800,
     "cost_usd": 0.001}]
TRACE_COLUMNS = (Column("ID", "id"), Column("Status", "status"),
                 Column("Duration", "duration_ms", twosignal.format_duration),
                 Column("Cost", "cost_usd", twosignal.format_cost),
                 Column("Name", "name", optional=True))
WORDS = ("", "a", "trace", "東京タワー", "😀", "e\u0301e\u0301", "Ａ", "한국어", "x" * 60,
         "a\x1bb", "-")


def table(result, **screen):
    return "".join(twosignal.FORMATS["table"](result, Screen(**screen)))


def document(result, **screen):
    return "".join(result.json_lines(Screen(**screen)))


def listing(rows, columns=TRACE_COLUMNS):
    return Listing("traces", columns, rows)


def column_of(line, text):
    """The terminal column at which a text begins."""
    return twosignal.display_width(line[:line.index(text)])


class TableLayout(unittest.TestCase):
    def test_a_table_looks_as_documented(self):
        self.assertEqual(table(listing(TRACES, TRACE_COLUMNS[:4])), (
            "ID                                    Status  Duration  Cost\n"
            "────────────────────────────────────────────────────────────\n"
            "a1b2c3d4-e5f6-7890-abcd-ef1234567890  OK      1.2s      $0.003\n"
            "f9e8d7c6-b5a4-3210-fedc-ba0987654321  ERROR   4.8s      $0.012\n"
            "11223344-5566-7788-99aa-bbccddeeff00  OK      0.8s      $0.001\n").replace(
                "─" * 60, "─" * 62))

    def test_nothing_found(self):
        self.assertEqual(table(listing([])), "No traces found.\n")
        self.assertEqual(table(listing(iter(()))), "No traces found.\n")
        self.assertEqual(document(listing([])), "[]\n")

    def test_an_optional_last_column_is_dropped_if_there_is_no_room(self):
        rows = [dict(TRACES[0], name="support-agent")]
        self.assertNotIn("Name", table(listing(rows), columns=70))
        wide = table(listing(rows), columns=120)
        self.assertIn("Name", wide.splitlines()[0])
        self.assertIn("support-agent", wide)

    COLUMNS = (Column("ID", "id"), Column("One", "one"), Column("Two", "two"))

    def test_the_last_column_is_cut_first_and_an_id_never(self):
        row = {"id": "i" * 30, "one": "1" * 20, "two": "2" * 20}
        for room, shown in ((74, "i" * 30 + "  " + "1" * 20 + "  " + "2" * 20),
                            (70, "i" * 30 + "  " + "1" * 20 + "  " + "2" * 15 + "…"),
                            (62, "i" * 30 + "  " + "1" * 20 + "  2222222…"),
                            (60, "i" * 30 + "  " + "1" * 17 + "…  2222222…"),
                            (50, "i" * 30 + "  1111111…  2222222…"),
                            (42, "i" * 30 + "  111…  222…"), (9, "i" * 30 + "  111…  222…")):
            lines = table(listing([row], self.COLUMNS), columns=room).splitlines()
            self.assertEqual(lines[2], shown)
            self.assertEqual(len(lines[1]), min(room, len(shown)))
        row["two"] = "東" * 100
        shown = table(listing([row], self.COLUMNS), columns=79).splitlines()[2]
        self.assertEqual(twosignal.display_width(shown), 79)

    def test_an_id_is_never_cut_wherever_it_stands(self):
        rows = [{"name": "n" * 70, "trace_id": "i" * 36, "scores": [{"id": "s" * 36}]}]
        for room in (20, 60, 100):
            result = twosignal.only_fields(listing(rows), ["name", "trace_id", "scores.0.id"],
                                           self.fail)
            row = table(result, columns=room).splitlines()[2]
            self.assertIn("…  " + "i" * 36 + "  " + "s" * 36, row)

    def test_without_a_terminal_nothing_is_cut(self):
        rows = [dict(TRACES[0], name="n" * 1000)] + TRACES[1:]
        lines = table(listing(rows), columns=None).splitlines()
        self.assertEqual(lines[2].split()[-1], "n" * 1000)
        self.assertEqual(len(lines[1]), 200)

    def test_one_huge_cell_does_not_fill_the_other_rows_with_blanks(self):
        rows = [{"id": "a", "one": "1" * 5000, "two": "2"}, {"id": "b", "one": "1", "two": "2"}]
        lines = table(listing(rows, self.COLUMNS), columns=None).splitlines()
        self.assertEqual(lines[2:], ["a   " + "1" * 5000 + "  2", "b   1" + " " * 201 + "2"])

    def test_a_wider_cell_of_a_later_page(self):
        """It moves what follows it in its row; on a terminal the row still fits."""
        rows = [{"id": "a", "one": "1" * 10, "two": "2" * 20}] * 100
        rows += [{"id": "b" * 5, "one": "1" * 30, "two": "2" * 20}]
        for room, shown in ((None, "bbbbb  " + "1" * 30 + "  " + "2" * 20),
                            (40, "bbbbb  " + "1" * 10 + "…  " + "2" * 20),
                            (25, "bbbbb  " + "1" * 7 + "…  " + "2" * 7 + "…"),
                            (18, "bbbbb  1111…  222…")):
            lines = table(listing(rows, self.COLUMNS), columns=room).splitlines()
            self.assertEqual(lines[-1], shown)
            if room is None:
                self.assertEqual(lines[2], "a   " + "1" * 10 + "  " + "2" * 20)

    def test_times_of_a_saved_page_are_absolute(self):
        columns = (twosignal.CREATED, Column("Cost", "cost_usd", twosignal.format_cost))
        row = {"created_at": ago(minutes=2, seconds=20), "cost_usd": 0.5}
        for result in (listing([row], columns), Details(row, columns)):
            self.assertIn("2 min ago", table(result))
            self.assertIn(row["created_at"], table(result, is_saved=True))
            self.assertIn("$0.50", table(result, is_saved=True))

    def test_columns_line_up_without_trailing_blanks(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(100):
                self.check_columns(dice)

    def check_columns(self, dice):
        columns = [Column(name, name.lower()) for name in ("One", "Two", "Three")]
        rows = [{"one": dice.choice(WORDS) + "<1", "two": "2>" + dice.choice(WORDS),
                 "three": "3>" + dice.choice(WORDS)} for _ in range(dice.randrange(1, 6))]
        room = dice.randrange(20, 200)
        lines = table(listing(rows, columns), columns=room).splitlines()
        self.assertEqual(len(lines), len(rows) + 2)
        for mark, heading in (("2>", "Tw"), ("3>", "Thr")):
            places = {column_of(line, mark) for line in lines[2:]}
            self.assertEqual(places, {column_of(lines[0], heading)})
        self.assertEqual(set(lines[1]), {"─"})
        widths = [twosignal.display_width(line) for line in lines[:1] + lines[2:]]
        self.assertEqual(len(lines[1]), max(widths))
        for line in lines:
            self.assertEqual(line, line.rstrip())
            self.assertLessEqual(twosignal.display_width(line), room)
            self.assertNotIn("\x1b", line)

    def test_rows_are_printed_as_they_come(self):
        taken = []

        def rows():
            for number in range(250):
                taken.append(number)
                yield {"id": str(number)}
        lines = twosignal.FORMATS["table"](listing(rows(), (Column("ID", "id"),)), Screen())
        next(lines)
        self.assertLess(len(taken), 250)
        self.assertEqual(len(list(lines)), 250)
        taken.clear()
        parts = listing(rows()).json_lines(Screen())
        for _ in range(4):
            next(parts)
        self.assertLess(len(taken), 5)

    def test_colours_change_nothing_else(self):
        rows = TRACES + [{"id": "OK", "status": "OK", "name": "  ERROR"}]
        plain = table(listing(rows), columns=120)
        coloured = table(listing(rows), columns=120, colour=True)
        self.assertIn("\x1b[31mERROR\x1b[0m", coloured)
        self.assertIn("\x1b[32mOK\x1b[0m", coloured)
        self.assertEqual(re.sub("\x1b\\[\\d*m", "", coloured), plain)


class JsonDocuments(unittest.TestCase):
    def test_a_listing_is_the_list(self):
        rows = TRACES + [{"id": "東", "metadata": {"a": [1, None, {"b": "\x1b\u202e"}]}}]
        for encoding in ("utf-8", "ascii", "latin-1", "UTF-16", "cp1252"):
            text = document(listing(rows), encoding=encoding)
            self.assertEqual(json.loads(text), rows)
            self.assertTrue(text.endswith("]\n"))
            if not encoding.lower().startswith("utf"):
                text.encode("ascii")
        self.assertEqual(text, json.dumps(rows, indent=2) + "\n")

    def test_details_are_the_record(self):
        found = {"id": "東", "spans": [{"name": "\x9b"}]}
        self.assertEqual(json.loads(document(Details(found, message="Created."))), found)
        document(Details(found), encoding="ascii").encode("ascii")

    def test_details_as_a_table(self):
        fields = (Column("ID", "id"), Column("Long name", "name"), Column("Cost", "cost_usd"))
        spans = Listing("spans", (Column("Span", "name"),), [{"name": "root"}])
        shown = table(Details({"id": "x", "name": "東\x1b"}, fields, [
            ("Spans", spans), ("Notes", twosignal.Text("first\nsecond\n"))], "Created."))
        self.assertEqual(shown, "Created.\nID:         x\nLong name:  東\\x1b\n\n"
                                "Spans\nSpan\n────\nroot\n\nNotes\nfirst\nsecond\n")

    def test_a_row_that_cannot_be_encoded_leaves_no_half(self):
        for row in ({"a": object()}, {1: set()}):
            lines = listing([row]).json_lines(Screen())
            with self.assertRaises(TypeError):
                next(lines)


class SpanTrees(unittest.TestCase):
    @staticmethod
    def span(name, parent=None, second=0):
        return {"id": name, "parent_span_id": parent, "name": name,
                "start_time": "2026-03-14T10:30:%02dZ" % second}

    def drawn(self, *spans):
        return [(depth, span["id"]) for depth, span in twosignal.span_tree(list(spans))]

    def test_children_below_their_parent_in_order_of_time(self):
        self.assertEqual(self.drawn(
            self.span("late", "root", 9), self.span("second", None, 5), self.span("root"),
            self.span("early", "root", 1), self.span("deep", "early", 2)),
            [(0, "root"), (1, "early"), (2, "deep"), (1, "late"), (0, "second")])

    def test_orphans_and_cycles(self):
        self.assertEqual(self.drawn(self.span("orphan", "gone", 1), self.span("root")),
                         [(0, "root"), (0, "orphan")])
        self.assertEqual(self.drawn(self.span("self", "self")), [(0, "self")])
        self.assertEqual(self.drawn(self.span("a", "b"), self.span("b", "a", 1)),
                         [(0, "a"), (1, "b")])

    def test_a_span_without_an_id_has_no_children(self):
        self.assertEqual([depth for depth, _ in twosignal.span_tree(
            [{"name": "x"}, self.span("root", None, 1), self.span("child", "root", 2)])],
            [0, 0, 1])

    def test_a_chain_of_any_length(self):
        spans = [self.span(str(number), str(number - 1)) for number in range(20000)]
        tree = twosignal.span_tree(spans)
        self.assertEqual([depth for depth, _ in tree], list(range(20000)))

    @unittest.skipIf(PYPY, "PyPy has no tracemalloc")
    def test_many_spans_with_one_id(self):
        """Memory does not grow with the square of their number."""
        import tracemalloc
        spans = [self.span("same", "same") for _ in range(1000)]
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertEqual(len(twosignal.span_tree(spans)), 1000)
        self.assertLess(tracemalloc.get_traced_memory()[1], 10 << 20)

    def test_nothing_is_lost_or_shown_twice(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        odd = [None, "", 0, "gone", [], {}, True, "None", 1.5]
        with self.subTest(seed=seed):
            for _ in range(500):
                names = [str(number) for number in range(dice.randrange(1, 8))] + odd
                spans = [{"id": dice.choice(names), "parent_span_id": dice.choice(names),
                          "start_time": dice.choice(["2026-03-14T10:30:0%dZ" % dice.randrange(9),
                                                     None, 5, "x", []])}
                         for _ in range(dice.randrange(12))]
                tree = twosignal.span_tree(spans)
                self.assertEqual(sorted(id(span) for _, span in tree),
                                 sorted(id(span) for span in spans))
                before = -1
                for depth, _ in tree:
                    self.assertLessEqual(depth, before + 1)
                    before = depth


class UsageBars(unittest.TestCase):
    def shown(self, used, limit, plan="PRO"):
        return twosignal.used_of_limit(
            {"traces_used": used, "traces_limit": limit, "plan": plan})

    def test_bars(self):
        self.assertEqual(self.shown(46000, 50000),
                         "46,000 of 50,000  " + "█" * 18 + "░░ 92.0%")
        self.assertEqual(self.shown(0, 10), "0 of 10  " + "░" * 20 + " 0.0%")
        self.assertEqual(self.shown(25, 10), "25 of 10  " + "█" * 20 + " 250.0%")
        self.assertEqual(self.shown(None, 10), "- of 10")
        self.assertEqual(self.shown(5, 0), "5 of 0")
        self.assertEqual(self.shown(5, None), "5 (unlimited)")
        self.assertEqual(self.shown(5, None, "NEW"), "5")

    def test_a_bar_is_full_only_at_the_limit(self):
        for used in range(101):
            shown = self.shown(used, 100)
            self.assertEqual(len(re.search("[█░]+", shown).group()), 20)
            self.assertEqual("░" not in shown, used >= 100)
            self.assertEqual("█" in shown, used >= 5)


def ago(**period):
    moment = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**period)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + "000Z"


def display_width(text):
    """Terminal columns that a text takes."""
    return sum(0 if unicodedata.combining(char) or unicodedata.category(char) == "Cf"
               else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


class CommandTables(CommandCase):
    shown = {
        "orgs list": r"(?s)^ID .*Name.*\n─+\n\S+  .*  Acme 東京\n",
        "orgs create": r"New Org",
        "orgs get": r"(?s)Acme 東京.*\nMembers\nID .*Role .*Created .*Email\n─+\n\S+ +OWNER ",
        "orgs rename": r'^Renamed "Acme 東京" to "Acme 東京"\.\n',
        "orgs list-members": r"(?s)^ID .*Role .*Created .*Email\n─+\n\S+ +OWNER ",
        "orgs add-member": r'^Added made-\d+@example\.com to "\S+" as MEMBER\.\n',
        "orgs remove-member": r'^Removed made-\d+@example\.com from "Acme 東京"\.\n',
        "projects list": r"(?s)^ID .*Name.*\n─+\n\S+  .*  Support Agent\n",
        "projects create": r"New Project",
        "projects get": r"(?s)^ID: .*\nCreated: .*\nName: +Made\n",
        "projects update": r'(?s)^Updated project "New Name"\.\n.*Words',
        "projects delete": r"(?i)deleted",
        "traces list": r"^ID +Status +Duration +Cost +Created",
        "traces get": r"(?s)OK|ERROR",
        "evaluators list": r"(?s)^ID .*Type.*Name\n─+\n\S+  .*  Has JSON\n",
        "evaluators create": r"(?s)Has JSON.*JSON_SCHEMA",
        "evaluators toggle": r"(?i)disabled|enabled +(no|false)",
        "evaluators get": r"(?s)Name: +Made\n.*  Config:\n    {",
        "evaluators update": r'^Updated evaluator "New Name"\.\nID: ',
        "evaluators delete": r"(?i)deleted",
        "datasets list": r"(?s)^ID .*Name.*\n─+\n\S+  ",
        "datasets create": r"Test Cases",
        "datasets get": r"(?i)name",
        "datasets add-item": r"promptText",
        "datasets update": r'(?s)^Updated dataset "New Name"\.\n.*Words',
        "datasets add-trace": r'(?s)^Added an item\.\n.*Input: +{"promptText": "Made"}\n',
        "datasets update-item": r"(?s)^Updated an item\.\n.*Made.*\nExpected: +1\n",
        "datasets remove-item": r"^Removed an item\.\n$",
        "datasets delete": r"(?i)deleted",
        "api-keys list": r"(?s)^ID .*Name.*\n─+\n\S+  ",
        "api-keys create": r"(?s)CI Pipeline.*(ts_|2s_live_)\w{8}|(ts_|2s_live_)\w{8}",
        "api-keys rotate": r"Made.*\nID: .*\nKey: +ts_\w{8}\w+\n",
        "api-keys revoke": r"(?i)revoked",
        "routing list": r"(?s)^ID .*Name.*\n─+\n\S+  .*  Cheap first\n",
        "routing get": r"(?s)^ID: .*\nDefault model: +gpt-4o\nName: +Made\n.*Rules:\n",
        "routing create": r'(?s)^Created routing config "Cheap"\.\n.*Default model: +gpt-4o\n',
        "routing update": r'(?s)^Updated routing config "Made"\.\n.*Enabled: +false\n',
        "routing delete": r"(?i)deleted",
        "usage": r"(?i)traces",
    }

    def test_every_command(self):
        self.assertEqual(set(self.shown), set(PROCEDURES))
        for command, pattern in self.shown.items():
            with self.subTest(command=command):
                argv = self.argv(command)
                result = self.assertOk(self.cli(*argv, columns=120), err="")
                self.assertRegex(result.out, pattern)
                self.assertTrue(result.out.endswith("\n"))
                for line in result.lines:
                    self.assertEqual(line, line.rstrip())
                    self.assertLessEqual(display_width(line), 120, line)

    def test_lists_have_a_heading_a_rule_and_full_ids(self):
        for command in LISTS:
            with self.subTest(command=command):
                records = self.records(command)
                heading, rule, *rows = self.cli(*command.split()).lines
                self.assertRegex(heading, r"^ID  ")
                self.assertEqual(set(rule), {"─"})
                self.assertEqual([row.split("  ")[0] for row in rows],
                                 [record["id"] for record in records])

    def test_ids_are_whole_on_any_terminal(self):
        for command in LISTS:
            for room in (20, 50, 79):
                with self.subTest(command=command, room=room):
                    out = self.cli(*command.split(), columns=room).out
                    for record in self.records(command):
                        self.assertIn(record["id"], out)
        out = self.assertOk(self.cli("traces", "list", "--fields", "name,id", columns=40)).out
        for trace in self.server.traces:
            self.assertIn(trace, out)

    def test_every_column_says_whether_it_is_an_id_or_a_time(self):
        columns = [column for value in vars(twosignal).values()
                   for column in (value if isinstance(value, tuple) else [value])
                   if isinstance(column, Column) and isinstance(column.source, str)]
        self.assertGreater(len(columns), 30)
        for column in columns:
            with self.subTest(column=column.heading):
                self.assertEqual(column.never_cut, column.source == "id"
                                 or column.source.endswith("_id"))
                if column.source.endswith("_at"):
                    self.assertEqual(column.text({column.source: "2026-03-14T10:30:00Z"}, True),
                                     "2026-03-14T10:30:00Z")

    def test_nothing_is_cut_and_no_column_left_out_in_a_pipe_or_a_file(self):
        self.server.add_key(project=self.server.project, name="k" * 300)
        name = "support agent " * 20
        path = self.path("out.txt")
        result = self.traces_from(wire_trace(name=name))
        self.assertEqual(result.lines[0].split()[-1], "Name")
        self.assertTrue(result.lines[2].endswith(name.strip()), result)
        self.assertIn("k" * 300, self.assertOk(self.cli("api-keys", "list")).out)
        self.traces_from(wire_trace(name=name), args=("-o", path), columns=40)
        with open(path, encoding="utf-8") as file:
            self.assertIn(name.strip(), file.read())

    def test_times_in_a_file_are_absolute(self):
        """It is read later; -o - is not a file."""
        path = self.path("out.txt")
        created = ago(minutes=2, seconds=20)
        trace = wire_trace(createdAt=created)
        self.assertIn("  2 min ago  ", self.traces_from(trace).out)
        self.assertIn("  2 min ago  ", self.traces_from(trace, args=("-o", "-")).out)
        self.traces_from(trace, args=("-o", path))
        with open(path, encoding="utf-8") as file:
            self.assertIn("  %sZ  " % created[:19], file.read())

    def test_a_trace_shows_spans_as_a_tree_and_its_scores(self):
        trace = wire_trace(spans=[
            {"id": "s3", "parentSpanId": "s1", "name": "second child", "type": "TOOL",
             "status": "OK", "startTime": "2026-03-14T10:30:02.000Z", "durationMs": 5},
            {"id": "s2", "parentSpanId": "s1", "name": "first child", "type": "LLM",
             "status": "ERROR", "startTime": "2026-03-14T10:30:01.000Z", "durationMs": 800},
            {"id": "s1", "parentSpanId": None, "name": "the root", "type": "AGENT",
             "status": "OK", "startTime": "2026-03-14T10:30:00.000Z", "durationMs": 61000},
            {"id": "s4", "parentSpanId": "missing", "name": "the orphan", "type": "CHAIN",
             "status": "OK", "startTime": "2026-03-14T10:30:03.000Z", "durationMs": None},
            {"id": "s5", "parentSpanId": "s6", "name": "cycle one", "type": "CUSTOM",
             "status": "OK", "startTime": "2026-03-14T10:30:04.000Z", "durationMs": 1},
            {"id": "s6", "parentSpanId": "s5", "name": "cycle two", "type": "CUSTOM",
             "status": "OK", "startTime": "2026-03-14T10:30:05.000Z", "durationMs": 1},
            {"id": "s7", "parentSpanId": "s7", "name": "own parent", "type": "CUSTOM",
             "status": "OK", "startTime": "2026-03-14T10:30:06.000Z", "durationMs": 1}],
            scores=[{"id": "f1", "evaluatorName": "Helpfulness", "value": 0.41, "label": "poor",
                     "reasoning": "no answer"}])
        self.server.fault("trace.getById", status=200, body=trpc_answer(trace))
        out = self.assertOk(self.cli("traces", "get", trace["id"], columns=120), err="").out
        out = out.partition("Spans\n")[2]
        names = ["the root", "first child", "second child", "the orphan", "cycle one",
                 "cycle two", "own parent"]
        places = [out.index(name) for name in names]
        self.assertEqual(places[:4], sorted(places[:4]))
        for name in names:
            self.assertEqual(out.count(name), 1, out)
        lines = {name: next(line for line in out.splitlines() if name in line) for name in names}
        self.assertGreater(lines["first child"].index("first"), lines["the root"].index("the"))
        self.assertEqual(lines["first child"].index("first"),
                         lines["second child"].index("second"))
        score = next(line for line in out.splitlines() if "Helpfulness" in line)
        self.assertIn("0.41", score)
        self.assertGreater(out.index("Helpfulness"), max(places))

    def test_trace_columns(self):
        period = {"5ms": 5, "0.8s": 800, "1.2s": 1200, "1m 01s": 61000, "1h 02m": 3720000,
                  "-": None}
        for shown, duration in period.items():
            with self.subTest(duration=duration):
                row = self.traces_from(wire_trace(durationMs=duration)).lines[2]
                self.assertEqual(re.split(r" {2,}", row)[2], shown)

    def test_cost_column(self):
        costs = {"$0.003": 0.003, "$0.0034": "0.0034", "$12.50": 12.5, "-": None}
        for shown, cost in costs.items():
            with self.subTest(cost=cost):
                row = self.traces_from(wire_trace(totalCost=cost)).lines[2]
                self.assertEqual(re.split(r" {2,}", row)[3], shown)

    def test_created_column(self):
        ages = {"just now": ago(seconds=1), "2 min ago": ago(minutes=2, seconds=20),
                "3 hours ago": ago(hours=3, minutes=20), "5 days ago": ago(days=5, hours=2),
                "2026-03-14": "2026-03-14T10:30:00.000Z"}
        ages[" just now"] = ago(hours=-1)  # a clock that is behind
        for shown, created in ages.items():
            with self.subTest(created=created):
                row = self.traces_from(wire_trace(createdAt=created)).lines[2]
                self.assertEqual(re.split(r" {2,}", row)[4], shown.strip())

    def test_name_is_the_last_column_if_there_is_room(self):
        wide = self.assertOk(self.cli("traces", "list", columns=200))
        narrow = self.assertOk(self.cli("traces", "list", columns=76))
        self.assertEqual(wide.lines[0].split()[-1], "Name")
        self.assertEqual(narrow.lines[0].split()[-1], "Created")
        self.assertEqual([line.split("  ")[0] for line in wide.lines[2:]], self.server.traces)
        self.assertEqual([line.split("  ")[0] for line in narrow.lines[2:]], self.server.traces)

    def test_only_the_last_column_is_truncated(self):
        result = self.traces_from(wire_trace(name="長い名前" * 50), columns=110)
        row = self.assertOk(result).lines[2]
        self.assertTrue(row.endswith("…"), row)
        self.assertTrue(row.startswith("d0000000-0000-4000-8000-000000000000  OK"), row)
        for line in result.lines:
            self.assertLessEqual(display_width(line), 110)
        tiny = self.traces_from(wire_trace(name="x"), columns=20).lines[2]
        self.assertTrue(tiny.startswith("d0000000-0000-4000-8000-000000000000  OK"), tiny)

    def test_columns_line_up(self):
        names = ["plain", "東京タワー", "🚀 emoji", "e\u0301le\u0300ve", "한국어", "ｆｕｌｌ", ""]
        rows = [{"id": f"e{number}", "name": "the name", "type": name, "enabled": True,
                 "config": {}, "createdAt": "2026-03-14T10:30:00.000Z"}
                for number, name in enumerate(names)]
        self.server.fault("evaluator.list", status=200, body=trpc_answer(rows))
        heading, rule, *lines = self.assertOk(self.cli("evaluators", "list")).lines
        column = heading.index("Name")
        self.assertGreater(column, heading.index("Type"))
        for line in lines:
            self.assertEqual(display_width(line[:line.index("the name")]), column, line)

    def test_ascii_replaces_what_the_stream_cannot_encode(self):
        for command in PROCEDURES:
            with self.subTest(command=command):
                result = self.assertOk(self.cli(*self.argv(command), encoding="ascii"))
                self.assertEqual(result.out, re.sub(r"[^\x00-\x7f]", "", result.out))
        self.assertIn("Acme", self.cli("orgs", "list", encoding="ascii").out)


class EmptyResults(CommandCase):
    options = {"empty": True}

    def setUp(self):
        super().setUp()
        if self._testMethodName.startswith("test_orgs"):
            self.log_in("stranger@example.com")

    def check_empty(self, command, words):
        result = self.assertOk(self.cli(*command.split()), err="")
        self.assertEqual(result.out, f"No {words} found.\n")
        self.assertEqual(self.assertOk(self.cli(*command.split(), "--json"), err="").json, [])

    def test_orgs(self):
        self.check_empty("orgs list", "organizations")

    def test_projects(self):
        self.environment["TWOSIGNAL_ORG"] = self.assertOk(
            self.cli("orgs", "create", "Bare", "--json")).json["id"]
        self.check_empty("projects list", "projects")

    def test_other_lists(self):
        for command, words in LISTS.items():
            if command not in ("orgs list", "orgs list-members", "projects list"):
                with self.subTest(command=command):
                    self.check_empty(command, words)

    def test_filters_that_match_nothing(self):
        self.server.add_trace(project=self.server.project, status="OK", name="one")
        for more in (["--status", "ERROR"], ["--search", "zzz"]):
            self.assertEqual(self.cli("traces", "list", *more).out, "No traces found.\n")

    def test_dataset_without_items_and_trace_without_spans(self):
        dataset = self.server.add_dataset(name="Bare")
        self.assertEqual(self.assertOk(self.cli("datasets", "get", dataset, "--json")
                                       ).json["items"], [])
        self.assertIn("Bare", self.assertOk(self.cli("datasets", "get", dataset)).out)
        trace = self.server.add_trace(project=self.server.project, spans=[], scores=[])
        record = self.assertOk(self.cli("traces", "get", trace, "--json")).json
        self.assertEqual((record["spans"], record["scores"]), ([], []))
        self.assertIn(trace, self.assertOk(self.cli("traces", "get", trace)).out)


class AwkwardAnswers(CommandCase):

    def test_text_from_the_server_is_escaped(self):
        hostile = "\x1b[31mred\x07\u202e\x9b\x7f\x00\u2066end\r\nnext"
        for command in ("orgs list", "projects list", "evaluators list", "datasets list",
                        "api-keys list"):
            row = {"id": "i" + hostile, "name": hostile, "type": hostile, "plan": hostile,
                   "role": hostile, "keyPrefix": hostile, "description": hostile,
                   "createdAt": hostile, "config": {hostile: hostile}}
            for more in ([], ["--json"]):
                with self.subTest(command=command, more=more):
                    self.server.fault(PROCEDURES[command], status=200, body=trpc_answer([row]))
                    result = self.assertOk(self.cli(*command.split() + more))
                    self.assertNotRegex(result.out, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066]")
                    if more:
                        self.assertEqual(result.json[0]["name"], hostile)
                        self.assertIn("\\u001b[31mred", result.out)
                    else:
                        self.assertEqual(len(result.lines), 3)
                        self.assertIn("\\x1b[31mred", result.out)

    def test_text_in_errors_is_escaped(self):
        hostile = "\x1b[31mred\u202e\x9b\r\nnext"
        self.server.fault("project.create", status=409, body=trpc_error("CONFLICT", 409, hostile))
        result = self.assertFails(self.cli("projects", "create", "x"), 1, "\\x1b[31mred")
        self.assertNotRegex(result.err, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
        self.assertEqual(len(result.err.splitlines()), 1, result)

    def test_wrong_types_in_answers(self):
        for value in (None, 1, "x", True, [1], ["x"], [None], [[]], {"traces": 1}, {},
                      {"traces": [1]}, {"traces": None}, {"items": {}}):
            for command in LISTS:
                with self.subTest(value=value, command=command):
                    self.server.fault(PROCEDURES[command], status=200, body=trpc_answer(value))
                    result = self.cli(*command.split())
                    self.server.clear()
                    self.assertFails(result, 8)

    def test_wrong_types_in_fields(self):
        for value in (None, True, 1, -1, 1e400, "x", [], [1], {}, {"a": 1}):
            row = dict.fromkeys(wire_trace(), value)
            row["id"] = "t1"
            row["scores"] = []
            for more in ([], ["--json"]):
                with self.subTest(value=value, more=more):
                    body = json.dumps(trpc_answer({"traces": [row]})).replace("Infinity", "1e400")
                    self.server.fault("trace.list", status=200, body=body.encode(),
                                      headers={"Content-Type": "application/json"})
                    result = self.cli("traces", "list", *more)
                    if value == 1e400:
                        self.assertFails(result, 8)
                    else:
                        self.assertOk(result, err="")


HOSTILE = ("=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1", "a,b",
           'say "hi"', "a;b", "line\nbreak", "line\r\nbreak", "tab\there", "\x1b[31mred",
           "\u202etxt.exe", "'quoted", "null", "", " ", "東京 🤖", "e\u0301", "\x00", "\u2028",
           "x" * 3000, "</script>", "\\", "\\n")
FORMULA = tuple("=+-@\t\r\n")
PLAIN_NUMBER = re.compile(r"[+-][0-9.]+\Z")


def rows_of(text):
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def tsv_rows_of(text):
    """The rows as a reader sees them that knows the four escapes of TSV, and no quotes."""
    meant = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    return [[re.sub(r"\\(.)", lambda match: meant[match.group(1)], cell)
             for cell in line.split("\t")] for line in text[:-1].split("\n")]


def in_cell(text):
    """What a reader of csv and tsv gets of a text."""
    if text.startswith(FORMULA) and not PLAIN_NUMBER.match(text):
        text = "'" + text
    return "".join(character if character in "\t\r\n" else twosignal.printable(character)
                   for character in text)


def in_format(form, value):
    """A value as the only one of a row, without the heading and the end of the line."""
    text = "".join(twosignal.FORMATS[form](listing([{"x": value}]), Screen()))
    return text[len("x\n"):-1]


class OutputFormats(TracesCase):
    def add_hostile(self):
        for place, name in enumerate(HOSTILE):
            self.server.add_trace(name=name, created=minutes_ago(place), tags=[name],
                                  metadata={name: name}, sessionId=name,
                                  scores=[{"evaluatorName": name, "value": 0.5, "label": name}])

    def test_each_has_the_same_data(self):
        self.add(3, scores=[{"evaluatorName": "tone", "value": 0.25}], tags=["a", "b"])
        expected = self.assertOk(self.list("--json")).json
        self.assertEqual(self.list("--format", "json").json, expected)
        lines = self.assertOk(self.list("--format", "jsonl")).lines
        self.assertEqual([json.loads(line) for line in lines], expected)
        for form, read in (("csv", rows_of), ("tsv", tsv_rows_of)):
            heading, *rows = read(self.assertOk(self.list("--format", form)).out)
            self.assertEqual(heading, list(expected[0]))
            for row, record in zip(rows, expected):
                found = dict(zip(heading, row))
                self.assertEqual((found["id"], found["name"]), (record["id"], record["name"]))
                self.assertEqual(float(found["cost_usd"]), record["cost_usd"])
                self.assertEqual(json.loads(found["tags"]), ["a", "b"])
                self.assertEqual(json.loads(found["scores"]), record["scores"])
        table = self.assertOk(self.list("--format", "table")).out
        self.assertEqual(table, self.assertOk(self.list()).out)
        self.assertIn(expected[0]["id"], table)

    def test_without_headings(self):
        for count, found in ((0, False), (3, True)):
            self.add(count)
            for form, length in (("table", 2), ("csv", 1), ("tsv", 1)):
                with self.subTest(form=form, found=found):
                    whole = self.assertOk(self.list("--format", form)).lines
                    rows = self.assertOk(self.list("--format", form, "--no-header")).lines
                    kept = whole[length:] if found or form != "table" else ["No traces found."]
                    self.assertEqual(rows, kept)
            for form in ("json", "jsonl", "markdown", "html"):
                with self.subTest(form=form, found=found):
                    self.assertEqual(*[re.sub("written [^<]*|at [0-9-]+T[^ ]*", "", self.assertOk(
                        self.list("--format", form, *option)).out)
                        for option in ([], ["--no-header"])])

    def test_in_both_dialects(self):
        found = []
        for dialect, options in DIALECTS:
            self.use(**options)
            for place in range(3):
                self.server.add_trace(id="id-%d" % place, cost="0.0125", totalTokens=standin.Big(7),
                                      created="2026-03-14T10:30:0%dZ" % place,
                                      scores=[{"evaluatorName": "tone", "value": 0.25}])
            found.append([self.assertOk(self.list(
                "--format", form, "--fields", "id,cost_usd,total_tokens,scores.0.score,created_at"
            )).out for form in ("table", "json", "jsonl", "csv", "tsv")])
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[0][3].splitlines()[1],
                         "id-2,0.0125,7,0.25,2026-03-14T10:30:02Z")

    def test_csv_and_tsv_are_harmless_and_complete(self):
        self.add_hostile()
        for form, read in (("csv", rows_of), ("tsv", tsv_rows_of)):
            text = self.assertOk(self.list("--all", "--format", form)).out
            heading, *rows = read(text)
            self.assertEqual([len(row) for row in rows], [len(heading)] * len(HOSTILE))
            harmless = re.sub(r"[\t\r\n]", "", text)
            self.assertEqual(twosignal.printable(harmless), harmless)
            for name, row in zip(HOSTILE, rows):
                found = dict(zip(heading, row))
                with self.subTest(form=form, name=name):
                    shown = in_cell(name)
                    if form == "csv":       # run() reads all line ends as those of the system
                        shown = shown.replace("\r\n", "\n")
                    self.assertEqual((found["name"], found["session_id"]), (shown, shown))
                    self.assertEqual(json.loads(found["metadata"]), {name: name})
                    self.assertFalse([cell for cell in row if cell.startswith(FORMULA)
                                      and not PLAIN_NUMBER.match(cell)])

    def test_line_breaks_stay_in_csv_quoted(self):
        """RFC 4180; a lone CR too, which the csv module of old Pythons leaves without quotes."""
        for name in ("a\nb", "a\r\nb", "a\rb"):
            text = "".join(twosignal.FORMATS["csv"](listing([{"id": name, "x": 1}]), Screen()))
            self.assertEqual(text, 'id,x\n"%s",1\n' % name)
        self.assertEqual(in_format("csv", "\x1b[31m\n\u202e"), '"\\x1b[31m\n\\u202e"')
        self.assertEqual(in_format("csv", "a\tb"), "a\tb")
        self.assertEqual(in_format("csv", None), '""')      # no empty line, which is no record
        self.assertEqual(in_format("csv", 'say "hi"'), '"say ""hi"""')

    def test_tsv_has_no_quotes(self):
        for value, cell in (('say "hi"', 'say "hi"'), ("a,b", "a,b"), ("a\tb", r"a\tb"),
                            ("a\r\nb", r"a\r\nb"), ("a\\nb", r"a\\nb"), ({"a": 1}, '{"a": 1}'),
                            ({"a": '"\n'}, r'{"a": "\\"\\n"}'), ("=1", "'=1"), ("-1", "-1")):
            self.assertEqual(in_format("tsv", value), cell)

    def test_plain_numbers_are_no_formulas(self):
        for form in ("csv", "tsv"):
            for text in ("-0.02", "-5", "+3.5", "-1e-5", "+.5", "-5."):
                self.assertEqual(in_format(form, text), text)
            for text in ("-", "+", "--5", "+-5", "-2+3", "-5 ", "-1e", "+1:2", "-0x1", "-\u0661"):
                self.assertEqual(in_format(form, text), "'" + text)

    def test_long_texts_end(self):
        """A pattern that backtracks would not be done with these today."""
        for text in ("+" + "1" * 200000 + "x", "-." + "1" * 200000 + "e"):
            self.assertEqual(in_format("csv", text), "'" + text)

    def test_each_key_is_looked_up_once(self):
        """Not compared with each heading."""
        compared = []

        class Key(str):
            __hash__ = str.__hash__

            def __eq__(self, other):
                compared.append(self)
                return str.__eq__(self, other)

        rows = [{Key(number): 1 for number in range(start, start + 1000)}
                for start in (0, 1000, 2000)]
        self.assertTrue(list(twosignal.FORMATS["tsv"](listing(rows[:1] + [{}] * 99 + rows[1:]),
                                                      Screen())))
        self.assertLess(len(compared), 20000)

    def test_numbers_have_no_exponent(self):
        for form in ("csv", "tsv"):
            for value, cell in ((7.4e-05, "0.000074"), (1e22, "1" + "0" * 22), (0.1, "0.1"),
                                (-2.5e-10, "-0.00000000025"), (True, "true"), (3, "3")):
                self.assertEqual(in_format(form, value), cell)

    def test_headings_are_no_formulas(self):
        trace = {"id": "t", "name": "n", "=1+1": 5, "-x": -5}
        answer = {"result": {"data": {"json": {"traces": [trace]}}}}
        self.server.fault("trace.list", status=200, body=answer)
        heading, row = rows_of(self.assertOk(self.list("--format", "csv")).out)
        found = dict(zip(heading, row))
        self.assertEqual((found["'=1+1"], found["'-x"]), ("5", "-5"))

    def test_a_dash_is_stdout(self):
        self.add(2)
        result = self.assertOk(self.list("--json", "-o", "-"))
        self.assertEqual(len(result.json), 2)
        self.assertFalse(os.path.exists("-"))

    def test_full_width_formulas(self):
        self.server.add_trace(name="\uff1d1+1")
        found = rows_of(self.assertOk(self.list("--format", "csv", "--fields", "name")).out)
        self.assertEqual(found[1], ["'\uff1d1+1"])

    def test_numbers_stay_numbers(self):
        self.add(1, cost=-0.5, duration_ms=-3)
        heading, row = rows_of(self.assertOk(self.list("--format", "csv")).out)
        found = dict(zip(heading, row))
        self.assertEqual((found["cost_usd"], found["duration_ms"]), ("-0.5", "-3"))

    def test_json_keeps_every_character(self):
        self.add_hostile()
        found = self.assertOk(self.list("--all", "--json")).json
        self.assertEqual([row["name"] for row in found], list(HOSTILE))
        result = self.assertOk(self.list("--all", "--format", "jsonl"))
        self.assertEqual([json.loads(line) for line in result.out.split("\n")[:-1]], found)
        self.assertEqual(len(result.lines), len(HOSTILE))

    def test_streams_that_are_not_utf8(self):
        self.add_hostile()
        for form in ("json", "jsonl", "csv", "tsv", "table"):
            for encoding in ("ascii", "latin-1"):
                with self.subTest(form=form, encoding=encoding):
                    result = self.assertOk(self.list("--all", "--format", form, encoding=encoding))
                    self.assertGreaterEqual(len(result.lines), len(HOSTILE))
        self.assertEqual([row["name"] for row in self.list(
            "--all", "--json", encoding="ascii").json], list(HOSTILE))

    def test_no_rows(self):
        heading = "id,status,duration_ms,cost_usd,created_at,name\n"
        for form, expected in (("table", "No traces found.\n"), ("json", "[]\n"), ("jsonl", ""),
                               ("csv", heading), ("tsv", heading.replace(",", "\t"))):
            with self.subTest(form=form):
                self.assertEqual(self.assertOk(self.list("--format", form)).out, expected)
        fields = "name,scores.0.score"
        self.assertEqual(self.assertOk(self.list("--format", "csv", "--fields", fields)).out,
                         fields + "\n")

    def test_columns_of_later_rows_are_omitted_with_a_remark(self):
        """A server may omit a key that has no value."""
        rows = [{"id": str(place), "name": "n"} for place in range(150)]
        rows[120]["sessionId"] = "s"
        pages = [{"traces": rows[:100], "nextCursor": "c"}, {"traces": rows[100:]}]
        for page in pages:
            self.server.fault("trace.list", times=1, status=200,
                              body={"result": {"data": {"json": page}}})
        result = self.assertOk(self.list("--all", "--format", "csv", "--quiet"))
        self.assertEqual(len(result.lines), 151)
        self.assertEqual(       # data is lost, so --quiet does not hide it
            result.err, "Columns omitted (absent from the first 100 rows, or beyond 1,000): "
                        "session_id. Name the columns you want with --fields.\n")

    def test_other_commands_have_all_formats(self):
        self.server.add_evaluator(name="=1+1")
        for form in ("json", "jsonl", "csv", "tsv", "table"):
            for args in (("orgs", "list"), ("whoami",),
                         ("evaluators", "list", "--project", self.server.project)):
                with self.subTest(form=form, args=args):
                    result = self.assertOk(self.cli(*args + ("--format", form)))
                    self.assertTrue(result.out.endswith("\n"))
                    self.assertFalse(form == "csv" and ",=1+1" in result.out)

    def test_errors_are_json_if_the_output_is(self):
        for form, is_json in (("json", True), ("jsonl", True), ("csv", False), ("table", False)):
            for args in (("--format", form), ("--format=" + form,)):
                self.server.fault("trace.list", status=403)
                result = self.assertFails(self.list(*args), 5)
                self.assertEqual(bool(result.error), is_json, args)


class ChosenFields(TracesCase):
    def test_paths(self):
        self.server.add_trace(name="a", created=minutes_ago(1), metadata={"model": {"name": "gpt"}},
                              tags=["x", "y"], scores=[{"evaluatorName": "tone", "value": 0.5},
                                                       {"evaluatorName": "json", "value": 1}])
        self.server.add_trace(name="b", created=minutes_ago(2))
        fields = ("name", "scores.0.score", "scores.1.evaluator", "tags.1", "metadata.model.name",
                  "scores.9.score", "tags.01", "metadata.nope", "metadata.model.nope.x")
        found = self.assertOk(self.list("--json", "--fields", ",".join(fields))).json
        first = ["a", 0.5, "json", "y", "gpt"] + [None] * 4
        self.assertEqual([list(row.items()) for row in found],
                         [list(zip(fields, first)), list(zip(fields, ["b"] + [None] * 8))])
        text = self.assertOk(self.list("--format", "csv", "--fields", ",".join(fields))).out
        rows = rows_of(text)
        self.assertEqual(rows[:2], [list(fields), ["a", "0.5", "json", "y", "gpt"] + [""] * 4])
        heading, _, row, _ = self.assertOk(self.list("--fields", "name,scores.0.score")).lines
        self.assertEqual((heading.split(), row.split()), (["Name", "scores.0.score"], ["a", "0.5"]))

    def list_rows(self, rows, *options):
        """The result of traces list with these wire traces, in pages of 100."""
        pages = [rows[place:place + 100] for place in range(0, len(rows), 100)] or [[]]
        for place, page in enumerate(pages, 1):
            body = {"traces": page, "nextCursor": str(place) if place < len(pages) else None}
            self.server.fault("trace.list", times=1, status=200, body=trpc_answer(body))
        return self.list("--all", *options)

    def test_keys_with_dots(self):
        """OpenTelemetry's names have them."""
        forms = ({"gen_ai.request.model": 5}, {"gen_ai": {"request.model": 5}},
                 {"gen_ai": {"request": {"model": 5}}},
                 {"gen_ai.request": {"x": 1}, "gen_ai": {"request.model": 5}})
        rows = [{"id": str(place), "metadata": form} for place, form in enumerate(forms)]
        field = "metadata.gen_ai.request.model"
        result = self.assertOk(self.list_rows(rows, "--fields", field, "--json"))
        self.assertEqual(result.json, [{field: 5}] * 4)
        self.assertEqual(result.err, "")

    def test_scores_by_name(self):
        def score(name, value, created=None, label=None):
            return {"evaluatorName": name, "value": value, "createdAt": created, "label": label}
        scores = [[score("tone", 0.1, "2026-03-14T10:00:00.500Z", "old"),
                   score("tone", 0.9, "2026-03-14T10:00:01Z", "new"),
                   score("tone", 0.2, "2026-03-14T10:00:00Z", "older"), score("is v2.1", 0.4)],
                  [score("tone", 0.3), score("tone", "0.7", None, "last")], []]
        for place, each in enumerate(scores):
            self.server.add_trace(name=str(place), created=minutes_ago(place), scores=[])
        answers = iter(scores)
        with mock.patch("twosignal.lacks", return_value=True), mock.patch.object(
                twosignal.Client, "fetch_parts", lambda client, traces, *rest: [
                    trace.update(scores=next(answers)) for trace in traces]):
            result = self.assertOk(self.list(
                "--fields", "scores.tone,scores.tone.label,scores.is v2.1,scores.is v2.1.score,"
                "scores.0.score,scores.none", "--format", "csv"))
        self.assertEqual(rows_of(result.out)[1:], [
            ["0.9", "new", "0.4", "0.4", "0.1", ""], ["0.7", "last", "", "", "0.3", ""], [""] * 6])
        self.assertEqual(result.err, "No value found for scores.none. List the available fields "
                                     "with --fields '?'.\n")

    def test_a_named_field_is_a_column_whatever_the_first_rows_have(self):
        rows = [{"id": str(place), "name": "n", "metadata": None} for place in range(103)]
        rows[101].update(region="eu", metadata={"a.b": 1}, parts={"x": [7]})
        fields = "id,region,metadata.a.b,parts.x.0"
        for form, line in (("csv", "101,eu,1,7"), ("tsv", "101\teu\t1\t7"),
                           ("table", "101  eu      1             7")):
            result = self.assertOk(self.list_rows(rows, "--fields", fields, "--format", form))
            self.assertIn(line, [" ".join(found.split(" ")) for found in result.lines])
            self.assertEqual(result.err, "")
        result = self.assertOk(self.list_rows(rows, "--fields", fields, "--json"))
        self.assertEqual([row["region"] for row in result.json], [None] * 101 + ["eu", None])

    def test_a_field_that_no_row_had_is_an_error_at_the_end(self):
        rows = [{"id": str(place), "name": "n", "parts": {"x": 1}} for place in range(103)]
        path = self.write("out", "before")
        for field in ("nope", "parts.nope", "nope.metadata.x"):
            for form in ("table", "json", "jsonl", "csv", "tsv"):
                result = self.list_rows(rows, "--fields", "id," + field, "--format", form)
                self.assertEqual((result.code, len(re.findall(field, result.err))), (2, 1), result)
                if form == "json":      # the document is whole
                    self.assertEqual(result.json[-1], {"id": "102", field: None})
                result = self.list_rows(rows, "--fields", "id," + field, "--format", form,
                                        "-o", path)
                self.assertFails(result, 2, f"There is no field '{field}'")
            with open(path) as file:
                self.assertEqual(file.read(), "before")
        for count in (1, 100):
            result = self.list_rows(rows[:count], "--fields", "id,nope")
            self.assertEqual(result.code, 2, result)
        self.assertOk(self.list_rows([], "--fields", "id,nope"))

    def test_a_field_in_users_own_data_that_no_row_had_is_a_remark(self):
        self.assertFails(self.list("--fields", "id,a" + ".a" * 100), 2, "100 parts")
        for metadata in (None, {}, {"y": {"x": 1}}, {"x": None}, [1]):
            rows = [{"id": str(place), "metadata": metadata} for place in range(103)]
            result = self.assertOk(self.list_rows(rows, "--fields", "metadata.x", "--json"))
            self.assertEqual(result.json, [{"metadata.x": None}] * 103)
            self.assertEqual(result.err, "No value found for metadata.x. List the available fields "
                                         "with --fields '?'.\n")
        result = self.assertOk(self.list_rows(rows, "--fields", "metadata.x", "-q"))
        self.assertEqual(result.err, "")
        dataset = self.server.add_dataset()
        self.server.add_item(dataset, {"q": 1})
        result = self.cli("datasets", "get", dataset, "--project", self.server.project,
                          "--fields", "metadata,expected_output", "--format", "tsv")
        self.assertEqual((result.out, result.err), ("metadata\texpected_output\n\t\n", ""))

    def test_declared_fields_are_no_errors(self):
        rows = [{"id": "1"}]
        for field in ("session_id", "tags.7", "name", "cost_usd", "scores.0.label"):
            result = self.assertOk(self.list_rows(rows, "--fields", field, "--json"))
            self.assertEqual((result.json, result.err), ([{field: None}], ""))

    def test_positions_and_nulls_may_lead_to_something_in_another_run(self):
        rows = [{"id": "1", "tags": ["a"], "user": None, "parts": []}]
        for field in ("tags.1", "user.name", "parts.0.name"):
            result = self.assertOk(self.list_rows(rows, "--fields", field, "--json"))
            self.assertEqual((result.json, result.err), ([{field: None}], ""))

    def test_known_fields_look_as_in_the_commands_own_tables(self):
        self.server.add_trace(name="a" * 9, duration_ms=800, cost=0.003, totalTokens=1200,
                              created=minutes_ago(2), tags=["x", "y"])
        result = self.assertOk(self.list(
            "--fields", "duration_ms,cost_usd,created_at,name,total_tokens,tags,span_count"))
        self.assertEqual([re.split("  +", line) for line in result.lines[::2]], [
            ["Duration", "Cost", "Created", "Name", "Tokens", "Tags", "span_count"],
            ["0.8s", "$0.003", "2 min ago", "a" * 9, "1,200", "x, y", "0"]])
        trace = self.list("--json").json[0]["id"]
        result = self.assertOk(self.cli("traces", "get", trace, "--project", self.server.project,
                                        "--fields", "duration_ms,cost_usd,span_count"))
        self.assertIn("Duration:  0.8s", " ".join(result.lines).replace("    ", "  "))

    def test_a_named_field_is_shown_whatever_the_room_and_the_value(self):
        shown = twosignal.only_fields(listing(TRACES), ["id", "name"], self.fail)
        self.assertEqual(table(shown, columns=40).split("\n")[0].split(), ["ID", "Name"])
        shown = twosignal.only_fields(Details({"id": "a", "name": None}, TRACE_COLUMNS),
                                      ["id", "name"], self.fail)
        self.assertEqual(table(shown), "ID:    a\nName:  -\n")

    def test_scores_are_fetched_only_if_a_field_needs_them(self):
        self.add(2, scores=[{"evaluatorName": "tone", "value": 0.5}])
        for fields, asked in (("id,name", 0), ("id,scores.tone", 1), ("scores", 1),
                              ("score_count", 0), ("?", 1)):
            for form in ("table", "json", "csv"):
                self.server.clear()
                with self.subTest(fields=fields, form=form):
                    self.assertOk(self.list("--fields", fields, "--format", form))
                    self.assertEqual(self.server.count("trace.getById"), asked)

    def test_unknown_fields(self):
        self.add(2)
        for fields in ("nope", "id,nope", "nope.id", "ID", "Name", "?,id", ".", "id,.x",
                       "scores[0]"):
            for form in ("table", "json", "jsonl", "csv"):
                with self.subTest(fields=fields, form=form):
                    result = self.list("--fields", fields, "--format", form)
                    self.assertFails(result, 2, "no field", "duration_ms")

    def test_paths_to_nothing_are_refused(self):
        """An empty column would look like data."""
        self.add(2, scores=[{"evaluatorName": "tone", "value": 0.5}], tags=["x"])
        for field in ("scores.0.bogus", "tags.x", "tags.-1", "name.0", "id.x"):
            with self.subTest(field=field):
                self.assertFails(self.list("--fields", "id," + field), 2, field, "--fields '?'")

    def test_fields_that_the_first_rows_lack(self):
        """A server may omit a key that has no value."""
        rows = [{"id": "1", "name": "n"}, {"id": "2", "name": "n", "sessionId": "s"}]
        for place in (0, 1):
            body = {"result": {"data": {"json": {"traces": rows[:1 + place]}}}}
            self.server.fault("trace.list", times=1, status=200, body=body)
            result = self.assertOk(self.list("--fields", "id,session_id", "--json"))
            self.assertEqual(result.json[-1], {"id": "12"[place], "session_id": [None, "s"][place]})

    def test_an_unknown_field_of_a_change_is_a_remark(self):
        """A typo must not lose a key that is shown only once."""
        result = self.cli("api-keys", "create", "--project", self.server.project, "-n", "CI",
                          "--fields", "key,kee", "--json")
        self.assertEqual(result.code, 0, result)
        self.assertTrue(result.json["key"])
        self.assertIsNone(result.json["kee"])
        self.assertIn("no field 'kee'", result.err)
        result = self.cli("scores", "create", self.server.add_trace(), "--name", "a", "--value",
                          "1", "--fields", "score,nope", "--json", env=self.key())
        self.assertEqual((result.code, result.json), (0, {"score": 1, "nope": None}), result)

    def test_a_question_mark_shows_the_result_of_a_change(self):
        result = self.cli("api-keys", "create", "--project", self.server.project, "-n", "CI",
                          "--fields", "?", "--json")
        self.assertTrue(self.assertOk(result).json["key"])

    def test_keys_of_scores_that_a_server_omits(self):
        self.add(1, scores=[{"evaluatorName": "tone", "value": 0.5}])
        with mock.patch("twosignal.lacks", return_value=True), mock.patch.object(
                twosignal.Client, "fetch_parts", lambda client, traces, *rest: [
                    trace.update(scores=[{"value": 1}]) for trace in traces]):
            result = self.assertOk(self.list("--fields", "id,scores.0.span_id", "--json"))
        self.assertIsNone(result.json[0]["scores.0.span_id"])

    def test_lists_in_a_response_stay_lists(self):
        for count in range(3):
            body = {"result": {"data": {"json": [{"id": str(i), "x": 1} for i in range(count)]}}}
            self.server.fault("some.list", times=1, status=200, body=body)
            result = self.assertOk(self.cli("api", "some.list", "--fields", "id", "--json"))
            self.assertEqual(result.json, [{"id": str(i)} for i in range(count)])

    def test_an_unknown_field_leaves_the_output_file_as_it_was(self):
        self.add(2)
        path = self.write("out", "before")
        self.assertFails(self.list("--fields", "nope", "-o", path), 2)
        with open(path) as file:
            self.assertEqual(file.read(), "before")

    def test_a_question_mark_lists_the_fields(self):
        self.add(2, scores=[{"evaluatorName": "tone", "value": 0.5}], metadata={"a": 1})
        result = self.assertOk(self.list("--fields", "?"))
        names = [line.strip() for line in result.lines[2:]]
        for name in ("id", "name", "duration_ms", "cost_usd", "scores", "scores.0.score",
                     "scores.tone", "metadata", "metadata.a"):
            self.assertIn(name, names)
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual([row["field"] for row in self.list("--fields", "?", "--json").json], names)
        for name in names:      # each can be requested
            self.assertOk(self.list("--fields", name, "--json"))

    def test_a_question_mark_lists_names_of_evaluators_only_if_they_are_text(self):
        rows = [{"id": "1", "scores": [{"evaluator": {"id": "e"}, "value": 1}]}]
        found = [row["field"] for row in twosignal.field_names(listing(rows)).rows]
        self.assertEqual(found, ["id", "scores", "scores.0.evaluator", "scores.0.value"])

    def test_a_question_mark_reads_one_page(self):
        self.add(150)
        self.server.clear()
        self.assertOk(self.list("--fields", "?", "--all"))
        self.assertEqual(self.server.count("trace.list"), 1)

    def test_each_command(self):
        trace = self.server.add_trace(spans=[{"name": "step"}])
        project = ("--project", self.server.project)
        for args, fields in ((("orgs", "list"), "name,plan"), (("whoami",), "email"),
                             (("traces", "get", trace) + project, "id,spans.0.name"),
                             (("traces", "check", "--max-p95", "9h") + project,
                              "passed,checks.0.measured")):
            with self.subTest(args=args):
                found = self.assertOk(self.cli(*args + ("--json", "--fields", fields))).json
                found = found[0] if isinstance(found, list) else found
                self.assertEqual(list(found), fields.split(","))
                self.assertNotIn(None, found.values())
                self.assertFails(self.cli(*args + ("--fields", "nope")), 2, "nope")

    def test_the_verdict_sets_the_exit_code(self):
        self.add(2)
        result = self.cli("traces", "check", "--project", self.server.project, "--max-p95", "1ms",
                          "--fields", "passed", "--json")
        self.assertEqual((result.code, result.json), (10, {"passed": False}))

    def test_a_wrong_field_goes_before_the_verdict(self):
        """What was asked for is not there, whichever way the gate went."""
        self.add(2)
        for form in ("table", "json", "csv"):
            self.assertFails(self.cli(
                "traces", "check", "--project", self.server.project, "--max-p95", "1ms",
                "--fields", "check.nope", "--format", form), 2)


class RowsInside(TracesCase):
    """csv, tsv and jsonl print rows: those inside of a result that has some."""

    def commands(self):
        project = ("--project", self.server.project)
        dataset = self.server.add_dataset()
        for number in range(2):
            self.server.add_item(dataset, {"q": number}, "a\tb")
        self.server.set_usage(self.server.org, None, traces=5, spans=9, evals=1)
        self.add(2)
        return ((("datasets", "get", dataset) + project, "items", "input.q", 0),
                (("traces", "check", "--max-p95", "1ms") + project, "checks", "check", 10),
                (("usage", "--org", self.server.org), "projects", "project_id", 0))

    def test_formats_of_rows_have_them_alone(self):
        for args, key, _, code in self.commands():
            whole = self.cli(*args + ("--json",))
            rows = whole.json[key]
            self.assertTrue(rows)
            result = self.cli(*args + ("--format", "jsonl"))
            self.assertEqual([json.loads(line) for line in result.lines], rows)
            self.assertEqual((result.code, result.err), (code, whole.err))
            for form, read in (("csv", rows_of), ("tsv", tsv_rows_of)):
                heading, *found = read(self.cli(*args + ("--format", form)).out)
                self.assertEqual((heading, len(found)), (list(rows[0]), len(rows)))
            self.assertNotIn("{", self.cli(*args).out.split("\n")[0])

    def test_fields_are_those_of_the_rows(self):
        for args, key, field, code in self.commands():
            for form in ("csv", "jsonl"):
                given = args + ("--format", form, "--fields")
                result = self.cli(*given + (field,))
                self.assertEqual(result.code, code, result)
                self.assertNotIn("null", result.out)
                result = self.cli(*given + ("?",))
                self.assertEqual(result.code, code, result)
                self.assertIn(field, result.out)
                self.assertNotIn(key, result.out)
                self.assertFails(self.cli(*given + (key,)), 2, f"'{key}'")
            self.assertIn(key, self.cli(*args + ("--fields", "?")).out)

    def test_no_rows(self):
        project = ("--project", self.server.project)
        dataset = self.server.add_dataset()
        for form, out in (("csv", "id,input,expected_output\n"),
                          ("tsv", "id\tinput\texpected_output\n"), ("jsonl", "")):
            result = self.cli("datasets", "get", dataset, "--format", form, *project)
            self.assertEqual(self.assertOk(result).out, out)
