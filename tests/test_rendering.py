"""Section Rendering: a result becomes a table, or JSON, from the same definition."""
import json
import random
import re
import unittest

import twosignal
from twosignal import Column, Details, Listing, Screen

TRACES = [
    {"id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890", "status": "OK", "duration_ms": 1200,
     "cost_usd": 0.003},
    {"id": "f9e8d7c6-b5a4-3210-fedc-ba0987654321", "status": "ERROR", "duration_ms": 4800,
     "cost_usd": 0.012},
    {"id": "11223344-5566-7788-99aa-bbccddeeff00", "status": "OK", "duration_ms": 800,
     "cost_usd": 0.001}]
TRACE_COLUMNS = (Column("ID", "id"), Column("Status", "status"),
                 Column("Duration", "duration_ms", twosignal.duration),
                 Column("Cost", "cost_usd", twosignal.cost),
                 Column("Name", "name", optional=True))
WORDS = ("", "a", "trace", "東京タワー", "😀", "e\u0301e\u0301", "Ａ", "한국어", "x" * 60,
         "a\x1bb", "-")


def table(result, **screen):
    return "".join(result.table_lines(Screen(**screen)))


def document(result, **screen):
    return "".join(result.json_lines(Screen(**screen)))


def listing(rows, columns=TRACE_COLUMNS):
    return Listing("traces", columns, rows)


def place_of(line, text):
    """The column of a terminal at which a text begins."""
    return twosignal.width(line[:line.index(text)])


class Tables(unittest.TestCase):
    def test_the_look_of_the_documentation(self):
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

    def test_the_last_column_goes_where_there_is_no_room(self):
        rows = [dict(TRACES[0], name="support-agent")]
        self.assertNotIn("Name", table(listing(rows), columns=70))
        wide = table(listing(rows), columns=120)
        self.assertIn("Name", wide.splitlines()[0])
        self.assertIn("support-agent", wide)

    def test_only_the_last_column_is_cut(self):
        rows = [{"id": "x" * 100, "name": "y" * 100}]
        columns = (Column("ID", "id"), Column("Name", "name"))
        shown = table(listing(rows, columns), columns=80).splitlines()[2]
        self.assertTrue(shown.startswith("x" * 100 + "  yyy"))
        self.assertTrue(shown.endswith("…"))
        shown = table(listing([{"id": "x", "name": "東" * 100}], columns), columns=80)
        self.assertTrue(all(twosignal.width(line) <= 80 for line in shown.splitlines()))

    def test_columns_line_up_and_nothing_trails(self):
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
        for mark, heading in (("2>", "Two"), ("3>", "Three")):
            places = {place_of(line, mark) for line in lines[2:]}
            self.assertEqual(places, {place_of(lines[0], heading)})
        self.assertEqual(set(lines[1]), {"─"})
        self.assertEqual(len(lines[1]), max(twosignal.width(line) for line in lines[:1]+lines[2:]))
        for line in lines:
            self.assertEqual(line, line.rstrip())
            self.assertNotIn("\x1b", line)

    def test_rows_may_stream(self):
        taken = []

        def rows():
            for number in range(250):
                taken.append(number)
                yield {"id": str(number)}
        lines = listing(rows(), (Column("ID", "id"),)).table_lines(Screen())
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


class Documents(unittest.TestCase):
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
            ("Spans", spans), ("Notes", lambda screen: ["%d\n" % screen.columns])], "Created."))
        self.assertEqual(shown, "Created.\nID:         x\nLong name:  東\\x1b\n\n"
                                "Spans\nSpan\n────\nroot\n\nNotes\n80\n")

    def test_one_that_cannot_be_written_leaves_no_half(self):
        for row in ({"a": object()}, {1: set()}):
            lines = listing([row]).json_lines(Screen())
            with self.assertRaises(TypeError):
                next(lines)


class Trees(unittest.TestCase):
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

    def test_a_span_without_an_id_is_nobodys_parent(self):
        self.assertEqual([depth for depth, _ in twosignal.span_tree(
            [{"name": "x"}, self.span("root", None, 1), self.span("child", "root", 2)])],
            [0, 0, 1])

    def test_a_chain_of_any_length(self):
        spans = [self.span(str(number), str(number - 1)) for number in range(20000)]
        tree = twosignal.span_tree(spans)
        self.assertEqual([depth for depth, _ in tree], list(range(20000)))

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


class Bars(unittest.TestCase):
    def test_bars(self):
        self.assertEqual(twosignal.bar(46000, 50000), "█" * 18 + "░░ 92.0%")
        self.assertEqual(twosignal.bar(0, 10), "░" * 20 + " 0.0%")
        self.assertEqual(twosignal.bar(25, 10), "█" * 20 + " 250.0%")
        for used, limit in ((None, 10), (5, None), (5, 0)):
            self.assertEqual(twosignal.bar(used, limit), "")

    def test_full_only_when_it_is(self):
        for used in range(101):
            shown = twosignal.bar(used, 100)
            self.assertEqual(len(shown.split()[0]), 20)
            self.assertEqual("░" not in shown, used >= 100)
            self.assertEqual("█" in shown, used >= 5)


if __name__ == "__main__":
    unittest.main()
