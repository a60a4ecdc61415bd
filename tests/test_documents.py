"""Markdown and HTML: what tables show, as text for a comment, and as a page of its own.

    python3 tests/test_documents.py --pages DIR     writes pages of each kind, with hostile names

tests/support/pages.py reads those in a browser and with other parsers.
"""
import base64
import hashlib
import html.parser
import itertools
import json
import os
import re
import sys
import unittest

if not __package__:     # started as a script, not by `python3 -m unittest`
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))

from tools import DIALECTS, NEED_KEYS, PYPY, CommandCase, TracesCase, written  # noqa: E402

import twosignal  # noqa: E402
from twosignal import Bar, Column, Details, Listing, Screen, Text, UserData  # noqa: E402

FORMATS = ("markdown", "html")
NO_TITLE = "### twosignal\n\n\n\n"
HOSTILE = (
    "<script>document.title = 'x'</script>", "</script><script>alert(1)</script>", "</style><b>",
    "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>", "' onclick='x", "\" style=\"x",
    "<!--", "-->", "]]>", "<a href=\"javascript:alert(1)\">x</a>", "&lt;b&gt;", "&amp;", "&#60;b>",
    "https://example.com", "www.example.com", "me@example.com", "[x](https://example.com)",
    "![x](https://example.com/x.png)", "[x]: https://example.com", "<https://example.com>",
    "@team", "#1", "!12", "group/project#1", "GH-26", "ABC-123", "a1b2c3d4e5", "$12", "~bug", "%3",
    "a|b", "a\\|b", "\\", "`a`", "``a`", "a``", "```", "~~~", "**a**", "_a_", "~~a~~", "$x$",
    "# a", "- a", "+ a", "1. a", "1) a", "> a", "    a", "\ta", "---", "===", "| a | b |", ":a:",
    "a\nb", "a\r\n\r\n# b", "::error::x", "##[error]x", "##vso[x]", "#\u200b#[x]", "{{x}}",
    "<b", "1:100:2", "", " ", "-",
    "\u202eabc", "\u2066", "\x1b[31m", "\0", "\x7f\x85", "\ufdd0\ufffe\U0001ffff",
    "\uffff", "\U0004ffff\U0010fffe", "東京 🤖", "مساعد الدعم", "e\u0301", "x" * 3000)
ALLOWED = {     # tags, and the attributes that each may have
    "html": {"lang"}, "head": (), "meta": {"charset", "name", "content", "http-equiv"}, "title": (),
    "style": (), "script": (), "body": (), "h1": (), "h2": (), "p": {"class"}, "b": (), "pre": (),
    "div": (), "table": {"class"}, "thead": (), "tbody": (), "tr": (), "th": (),
    "td": {"class", "colspan", "data-value"}, "details": (), "summary": (),
    "svg": {"aria-hidden"}, "rect": {"x", "width", "height"}}
VOID = {"meta", "rect"}
CLASSES = {"", "red", "green", "sortable", "fixed"}


class Page(html.parser.HTMLParser):
    """A page as a list of (tag, attributes, text within), checked while it is read."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.problems = [], [], []
        self.feed(text)
        self.close()
        self.problems += ["not closed: %s" % tag for tag, _, _ in self.open]

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.problems += [(tag, name, value) for name, value in attrs
                          if name not in ALLOWED.get(tag, ())]
        if tag not in ALLOWED or attributes.get("class", "") not in CLASSES:
            self.problems.append((tag, attrs))
        element = (tag, attributes, [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop()[0] != tag:
            self.problems.append("closed: %s" % tag)

    def handle_data(self, data):
        for _, _, texts in self.open:
            texts.append(data)

    def handle_comment(self, data):
        self.problems.append("comment: %s" % data)

    def texts(self, *tags):
        return ["".join(texts) for tag, _, texts in self.elements if tag in tags]

    def attributes(self, tag):
        return [attributes for each, attributes, _ in self.elements if each == tag]

    def rows(self):
        """The texts of the cells of each row, but for what is below one."""
        rows = []
        for tag, attributes, texts in self.elements:
            if tag == "tr":
                rows.append([])
            elif tag in ("th", "td") and "colspan" not in attributes:
                rows[-1].append("".join(texts))
        return list(filter(None, rows))


def page_of(result, **screen):
    return Page("".join(twosignal.FORMATS["html"](result, Screen(**screen))))


def markdown_of(result, **screen):
    """What follows the title."""
    text = "".join(twosignal.FORMATS["markdown"](result, Screen(**screen)))
    assert text.startswith(NO_TITLE), text
    return text[len(NO_TITLE):]


def cells_of(line):
    """The cells of a line of a table, split where every reader of Markdown splits it."""
    return [cell.strip(" ") for cell in re.split(r"\|", line)[1:-1]]


def bar_of(start, length):
    bar = Bar("  ███")
    bar.start, bar.length = start, length
    return bar


def every_kind(name):
    """A result of each kind, in which everything that comes from elsewhere is this text."""
    columns = (Column("ID", "id"), Column("Name", "name"),
               Column("Status", "status"), Column(twosignal.printable(name), "name"),
               Column("Bar", lambda record: bar_of(0.25, 0.5)))
    record = {"id": name, "name": name, "status": name}
    data = UserData([(twosignal.printable(name), name), ("json", {name: [name]})])
    listing = Listing("traces", columns, [record, record], below=lambda row: data)
    title = twosignal.printable("About " + name)
    yield listing
    lines = Text(title + "\n" + title + "\n")
    yield Details(record, columns[:3], [(title, listing), (title, lines), ("", data)],
                  message=title, colour=twosignal.RED)
    yield twosignal.Text({name: [name, None]}, is_json=True)
    yield Text(title + "\n" + title + "\n")


class Html(unittest.TestCase):
    def test_hostile_names_are_text(self):
        """Row 68: no name becomes an element, an attribute, a comment or the end of one."""
        for name in HOSTILE:
            for result in every_kind(name):
                with self.subTest(name=ascii(name[:30]), kind=type(result).__name__):
                    page = page_of(result)
                    self.assertEqual(page.problems, [])
                    self.assertEqual(page.texts("title"), ["twosignal"])
                    if isinstance(result, Listing):
                        heading, *rows = page.rows()
                        shown = twosignal.printable(name)
                        self.assertEqual(heading[3], shown)
                        self.assertEqual(rows, [[shown] * 4 + [""]] * 2)

    def test_nothing_that_moves_text_is_left(self):
        for name in HOSTILE:
            text = "".join(twosignal.FORMATS["html"](next(every_kind(name)), Screen()))
            unsafe = re.sub(r"\n", "", text)
            self.assertEqual(twosignal.printable(unsafe), unsafe, ascii(name))

    def test_policy_allows_its_own_style_and_script_alone(self):
        page = page_of(Listing("traces", (Column("ID", "id"),), [{"id": "x"}]))
        policy, = [each["content"] for each in page.attributes("meta") if "http-equiv" in each]
        digests = [hashlib.sha256(text.encode("utf-8")).digest()
                   for text in page.texts("style", "script")]
        hashes = ["'sha256-%s'" % base64.b64encode(each).decode("ascii") for each in digests]
        self.assertEqual(policy.split("; "), [
            "default-src 'none'", "style-src " + hashes[0], "script-src " + hashes[1],
            "base-uri 'none'", "form-action 'none'"])
        self.assertNotRegex("".join(page.texts("style", "script")),
                            r"https?:|//|url\(|@import|fetch|eval|innerHTML|</")

    def test_head(self):
        text = "".join(twosignal.FORMATS["html"](Text("x\n"), Screen()))
        self.assertRegex(text, r'\A<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
        self.assertIn('<meta name="viewport" content="width=device-width, initial-scale=1">', text)
        self.assertIn("@media (prefers-color-scheme: dark)", text)
        self.assertIn("@media print", text)

    def test_numbers_and_times_have_what_sorts_them(self):
        columns = (Column("Duration", "ms", twosignal.format_duration), Column("Name", "name"),
                   Column("Made", lambda record: "-"), Column("Created", "created_at",
                                                              twosignal.format_age))
        page = page_of(Listing("traces", columns, [
            {"ms": 61000, "name": "a", "created_at": "2026-03-14T10:00:00Z"},
            {"ms": 7e-07, "name": "12"}, {"ms": None}, {"ms": -5}]))
        self.assertEqual([each.get("data-value") for each in page.attributes("td")], [
            "61000", None, None, None, "0.0000007", "12", None, None] + [None] * 8)
        self.assertEqual(page.rows()[1], ["1m 01s", "a", "-", "2026-03-14T10:00:00Z"])

    def test_verdicts_and_statuses_have_colours_and_words(self):
        columns = (Column("Name", "name"), Column("Status", "status"), Column("V", "verdict"))
        page = page_of(Listing("x", columns, [
            {"name": "error", "status": "ERROR", "verdict": "OK"},
            {"name": "ok", "status": "RUNNING", "verdict": "TOO FEW"}]))
        self.assertEqual([each.get("class", "") for each in page.attributes("td")],
                         ["", "red", "green", "", "", "red"])
        page = page_of(Details({"status": "ERROR"}, (Column("Status", "status"),)))
        self.assertEqual([each.get("class", "") for each in page.attributes("td")], ["", "red"])

    def test_bars(self):
        """Drawn in HTML, sorted by where they start; in Markdown, their margin is seen, too."""
        rows = [{"t": bar_of(*bar)} for bar in ((0, 1), (0.5, 0.25), (0.999, 0))] + [{"t": ""}]
        page = page_of(Listing("x", (Column("T", "t"),), rows))
        self.assertEqual([(each["x"], each["width"]) for each in page.attributes("rect")], [
            ("0.0000%", "100.0000%"), ("50.0000%", "25.0000%"), ("99.9000%", "0.5000%")])
        self.assertEqual([each.get("data-value") for each in page.attributes("td")],
                         ["0", "0.5", "0.999", None])
        text = markdown_of(Listing("x", (Column("T", "t"),), rows[1:2]))
        self.assertEqual(text, "| T |\n| --- |\n| `░░███` |\n\n")

    def test_what_stdout_cannot_show_is_a_reference(self):
        """The page is the same, whatever the encoding of stdout is."""
        for name in HOSTILE:
            for one, other in zip(every_kind(name), every_kind(name)):
                text = "".join(twosignal.FORMATS["html"](one, Screen(None, "cp1252")))
                self.assertTrue(text.encode("ascii"))
                texts = page_of(other).texts("td", "summary", "h2")
                self.assertEqual(Page(text).texts("td", "summary", "h2"), texts)

    def test_in_a_ci_log(self):
        """Row 68: no line of a page is a command, and the page shows what it shows elsewhere."""
        for name in HOSTILE:
            for result in every_kind(name):
                text = "".join(twosignal.FORMATS["html"](result, Screen()))
                self.assertEqual(twosignal.disarmed(text), text, ascii(name))

    @unittest.skipIf(PYPY, "counts references")
    def test_rows_are_not_kept(self):
        seen = []

        def rows():
            for number in range(5):
                seen.append(number)
                yield {"id": str(number)}
        lines = twosignal.FORMATS["html"](Listing("x", (Column("ID", "id"),), rows()), Screen())
        for expected in range(1, 5):
            while "<tbody" not in next(lines):
                pass
            self.assertEqual(len(seen), expected)


class Markdown(unittest.TestCase):
    def test_hostile_names_are_words_or_code(self):
        """Row 68: in a comment on GitHub or GitLab, no name is a link, image, tag or mention."""
        for name in HOSTILE:
            for result in every_kind(name):
                with self.subTest(name=ascii(name[:30]), kind=type(result).__name__):
                    for line in markdown_of(result).splitlines():
                        self.assertHarmless(line)

    def assertHarmless(self, line):
        if line.startswith("    ") or not line:
            return                  # indented code, behind an empty line
        cells = cells_of(line) if line.startswith("|") else [re.sub(r"\A####? |\*\*", "", line)]
        for cell in cells:
            cell = re.sub(r"\A(&nbsp;)+", "", cell)
            self.assertRegex(cell, r"\A(`[^`|]+`|-|---|[\w ≤≥()+.,:%-]*)\Z")
            if not cell.startswith("`"):
                self.assertNotRegex(cell, r"(?i)www|[a-z_]-\d|\b[0-9a-f]{7}|_|[a-z]\.\w")

    def test_every_row_has_the_cells_of_the_heading(self):
        for name in HOSTILE:
            text = markdown_of(next(every_kind(name)))
            lines = text.rstrip("\n").split("\n")
            self.assertEqual([len(cells_of(line)) for line in lines], [5] * 4, ascii(name))

    def test_code_is_behind_an_empty_line(self):
        for name in HOSTILE:
            for result in every_kind(name):
                lines = [""] + markdown_of(result).split("\n")
                for before, line in zip(lines, lines[1:]):
                    if line.startswith("    "):
                        self.assertRegex(before, r"\A(    .*)?\Z", ascii(name))

    def test_no_line_is_a_command_of_a_ci_system(self):
        """Row 68: a Markdown file in a CI log is no command, either."""
        for name in HOSTILE:
            for result in every_kind(name):
                text = markdown_of(result)
                self.assertEqual(twosignal.disarmed(text), text, ascii(name))

    def test_words_and_numbers_are_as_they_are(self):
        columns = (Column("Name", "name"),)
        for name in ("refund agent", "1.2s", "46,000", "≤ +5pp", "5%", "-0.05", "2026-03-14", "-",
                     "lowest score (all)", "1 of 2 (Failed).", "10:30:00", "東京", "résumé"):
            text = markdown_of(Listing("x", columns, [{"name": name}]))
            self.assertEqual(text, "| Name |\n| --- |\n| %s |\n\n" % name)

    def test_substitutes_of_ascii_break_no_cell(self):
        """What a stdout without UTF-8 gets in place of lines and bars is no | or ` of its own."""
        columns = (Column("Name", "name"), Column("More", "name"))
        result = Listing("x", columns, [{"name": "│ a └ b ├"}])
        text = written(markdown_of(result, encoding="cp1252"), "ascii")
        for line in text.splitlines()[:3]:
            self.assertEqual(len(cells_of(line)), 2, text)
            for cell in cells_of(line):
                self.assertRegex(cell, r"\A(`[^`]+`|\w+|---)\Z")

    def test_layout(self):
        record = {"id": "x-1", "name": "a", "text": None}
        columns = (Column("ID", "id"), Column("Name", "name"), Column("Text", "text"))
        result = Details(record, columns, [
            ("Rows", Listing("rows", columns[:2], [record])),
            ("None", Listing("rows", columns, [])),
            ("Lines", Text("one\n  two\n")), ("Data", UserData([("in", {"a": 1}), ("out", "b")]))],
            message="Done.")
        self.assertEqual(markdown_of(result), """\
**Done.**

| Field | Value |
| --- | --- |
| ID | `x-1` |
| Name | a |

#### Rows

| ID | Name |
| --- | --- |
| `x-1` | a |

#### None

**No rows found.**

#### Lines

    one
      two

#### Data

**in**

    {
      "a": 1
    }

**out**

    b

""")


class Commands(CommandCase):
    """Each command in both formats."""

    def setUp(self):
        super().setUp()
        self.server.add_trace(id="failed", name="<b>bad</b>", status="ERROR", cost=9,
                              startTime="2026-03-14T10:00:00Z", duration_ms=1000, spans=[
            {"id": "s1", "name": "root", "status": "ERROR", "durationMs": 1000,
             "startTime": "2026-03-14T10:00:00Z"},
            {"id": "s2", "name": "<i>call</i>", "parentSpanId": "s1", "status": "ERROR",
             "errorMessage": "<u>broken</u>", "input": {"q": "</pre>"}, "output": "done\nwell",
             "startTime": "2026-03-14T10:00:00.500Z", "durationMs": 500},
            {"id": "s3", "name": "ok", "parentSpanId": "s2", "status": "OK",
             "startTime": "2026-03-14T10:00:00.900Z"}])

    def lines_of(self, command):
        more = {"login": ["-e", "owner@example.com", "--password-stdin"],
                "projects use": [self.server.project], "usage": ["--months", "3"],
                "traces get": ["failed"], "traces check": ["--max-cost", "1"],
                "traces wait": ["--count", "1"], "scores create": [
                    self.server.traces[0], "--name", "tone", "--value", "1"],
                "api": ["organization.list"], "help": ["traces"], "completion": ["bash"],
                "install": [self.path("bin")],
                "traces export": [self.path("bundle-%d" % len(self.server.requests))]}
        if command in more:
            return command.split() + more[command]
        return self.argv(command)

    def test_every_command_in_both_formats(self):
        for command in twosignal.visible_commands():
            if command.is_endless:
                continue
            for form in FORMATS:
                env = {}
                if command.name in NEED_KEYS:
                    env["TWOSIGNAL_API_KEY"] = self.server.secret(self.server.add_key())
                with self.subTest(command=command.name, form=form):
                    result = self.cli(*self.lines_of(command.name) + ["--format", form], env=env,
                                      stdin="owner-pass\n")
                    self.assertEqual(result.code, 10 if command.name == "traces check" else 0,
                                     result)
                    if form == "html":
                        page = Page(result.out)
                        self.assertEqual(page.problems, [])
                        title = {"traces get": "<b>bad</b>: ERROR"}.get(command.name, "twosignal")
                        self.assertEqual(page.texts("h1")[0][:len(title)], title)
                    else:
                        for line in result.out.splitlines():
                            Markdown.assertHarmless(self, line)
            if command.ends_session:
                self.log_in()

    def test_fields(self):
        for form, expected in (("markdown", "| ID | tags.0 |"), ("html", "<th>tags.0</th>")):
            result = self.assertOk(self.cli("traces", "list", "--fields", "id,tags.0", "--format",
                                            form))
            self.assertIn(expected.replace("tags.0 |", "`tags.0` |"), result.out)
            result = self.assertOk(self.cli("traces", "list", "--fields", "?", "--format", form))
            self.assertIn("created_at", result.out)
            result = self.cli("traces", "list", "--fields", "nonsense", "--format", form)
            self.assertFails(result, 2)
            self.assertEqual(result.out, "")

    def test_nothing_found(self):
        for form in FORMATS:
            result = self.assertOk(self.cli("traces", "list", "--search", "zzz", "--format", form))
            self.assertIn("No traces found.", result.out)

    def test_errors_are_the_same(self):
        expected = self.cli("traces", "get", "nobody")
        for form in FORMATS:
            path = self.path("x." + form)
            result = self.cli("traces", "get", "nobody", "--format", form, "-o", path)
            self.assertEqual((result.code, result.out, result.err), (6, "", expected.err))
            self.assertFalse(os.path.exists(path))

    def test_endings_of_files(self):
        for ending, start in (("md", "### twosignal traces list\n"), ("html", "<!DOCTYPE html>")):
            path = self.path("x." + ending)
            self.assertOk(self.cli("traces", "list", "-o", path))
            with open(path, encoding="utf-8") as file:
                self.assertEqual(file.read()[:len(start)], start)

    def test_times_are_absolute_and_nothing_is_cut(self):
        for form in FORMATS:
            result = self.assertOk(self.cli("traces", "list", "--format", form, columns=40))
            self.assertNotRegex(result.out, r" ago|just now|…")
            self.assertRegex(result.out, r"\d{4}-\d\d-\d\dT\d\d:\d\d")

    def test_asks_for_no_more_than_a_table(self):
        counts = []
        for form in ("table", "markdown", "html"):
            before = len(self.server.requests)
            self.assertOk(self.cli("traces", "list", "--format", form))
            counts.append(len(self.server.requests) - before)
        self.assertEqual(len(set(counts)), 1, counts)

    def test_waterfall(self):
        page = Page(self.assertOk(self.cli("traces", "get", "failed", "--format", "html")).out)
        self.assertEqual(page.problems, [])
        rows = {row[0]: row[1:] for row in page.rows()}
        self.assertLessEqual({"root", "  <i>call</i>", "    ok"}, set(rows))
        bars = [(each["x"], each["width"]) for each in page.attributes("rect")]
        self.assertEqual(bars[:2], [("0.0000%", "100.0000%"), ("50.0000%", "50.0000%")])
        self.assertEqual(page.texts("summary"), ["error_message", "input", "output"])
        self.assertEqual(page.texts("details"), [
            "error_message<u>broken</u>\n", 'input{\n  "q": "</pre>"\n}\n', "outputdone\nwell\n"])
        self.assertEqual((page.attributes("p")[1], page.texts("p")[1], page.texts("pre")[0]),
                         ({"class": "red"}, "Errors", "<i>call</i>: <u>broken</u>"))

    def test_what_is_folded_below_a_span(self):
        self.server.add_trace(id="long", spans=[{
            "id": "s9", "name": "a", "errorMessage": "line 1\n  line 2", "metadata": {"k": 1},
            "modelParameters": {"t": 0}}])
        page = Page(self.assertOk(self.cli("traces", "get", "long", "--format", "html")).out)
        self.assertEqual(page.texts("details"), [
            "error_messageline 1\n  line 2\n", 'model_parameters{\n  "t": 0\n}\n',
            'metadata{\n  "k": 1\n}\n'])

    def test_charts_are_drawn(self):
        for command, count in (("usage --months 3", 3), ("traces stats --by day", 1)):
            page = Page(self.assertOk(self.cli(*command.split(), "--format", "html")).out)
            widths = [float(each["width"][:-1]) for each in page.attributes("rect")]
            self.assertEqual((len(widths), max(widths)), (count, 100))

    def test_values_of_several_units_are_not_sorted(self):
        for options, expected in (
                (["stats", "--by", "name"], ["sortable"] * 2), (["get", "failed"], [
                    "fixed", "sortable"]), (["check", "--min-count", "1"], ["fixed"]),
                (["stats", "--by", "name", "--baseline-tag", "v1"], ["fixed"])):
            self.server.add_trace(name="<b>bad</b>", tags=["v1"])
            page = Page(self.assertOk(self.cli("traces", *options, "--format", "html")).out)
            self.assertEqual([each["class"] for each in page.attributes("table")], expected)

    def test_input_and_output_are_there_once(self):
        shown = self.assertOk(self.cli("traces", "get", "failed", "--io", "--max-lines", "1",
                                       "--format", "html")).out
        page = Page(shown)
        self.assertEqual(page.texts("summary"), ["error_message", "input", "output"])
        self.assertIn("… 1 more line", page.texts("details")[2])
        markdown = self.assertOk(self.cli("traces", "get", "failed", "--format", "markdown")).out
        self.assertIn("use --io or --span ID", markdown)
        self.assertNotIn("done", markdown)

    def test_gate(self):
        path = self.path("gate.html")
        result = self.cli("traces", "check", "--max-cost", "1", "--max-error-rate", "100%", "-o",
                          path, "--baseline-tag", "nobody", "--tag", "nobody-else")
        self.assertEqual(result.code, 11, result)
        result = self.cli("traces", "check", "--max-cost", "1", "--max-error-rate", "100%", "-o",
                          path)
        self.assertEqual(result.code, 10, result)
        with open(path, encoding="utf-8") as file:
            page = Page(file.read())
        self.assertEqual(page.problems, [])
        self.assertEqual(page.rows()[0], ["Check", "Measured", "Threshold", "Verdict", "Traces"])
        self.assertEqual([row[3] for row in page.rows()[1:]], ["OK", "FAILED", "OK"])
        self.assertIn("project " + self.server.project, page.texts("p")[0])
        self.assertIn("twosignal traces get failed --project", page.texts("pre")[-2])

    def test_what_follows_a_result(self):
        """A remark or a verdict that other formats tell on stderr is also in the document."""
        for _ in range(3):
            self.server.add_trace(cost=None)
        for command, code, text in (
                ("traces list --limit 1", 0, "Showing 1 trace; more exist. Use --limit N or "),
                ("traces check --max-cost 99", 0, "max-cost: measured in "),
                ("usage --fail-above 1", 10, "Usage exceeds 1% of the plan: 92% of traces.")):
            for form in FORMATS:
                path = self.path("x." + form)
                result = self.cli(*command.split(), "--format", form, "-o", path)
                self.assertEqual(result.code, code, result)
                self.assertIn(text, result.err)
                with open(path, encoding="utf-8") as file:
                    self.assertIn(text, file.read())

    def test_filters_are_in_the_title_of_lists(self):
        """What chose the rows is told, but no password, and no JSON."""
        self.server.add_trace(tags=["v1"])
        for command, selection in (
                ("traces list --tag v1 --since 2h --limit 5 --sort cost -r",
                 "project {0}, limit 5, since 2h, tag v1, "),
                ("traces stats --since 7d --by name --sort p95",
                 "project {0}, by name, since 7d, "),
                ("traces get failed --span root --io --max-lines 3", "project {0}, "),
                ("traces get failed --errors", "project {0}, ")):
            page = Page(self.assertOk(self.cli(*command.split(), "--format", "html")).out)
            self.assertTrue(page.texts("p")[0].startswith(
                selection.format(self.server.project) + "written "), page.texts("p")[0])
        self.assertEqual(page.texts("title", "h1"), ["<b>bad</b>: ERROR"] * 2)
        self.assertEqual(page.problems, [])
        page = Page(self.assertOk(self.cli("login", "-e", "owner@example.com", "--password",
                                           "owner-pass", "--format", "html")).out)
        self.assertRegex(page.texts("p")[0], r"\Aemail owner@example.com, written [-0-9:TZ]+\Z")
        page = Page(self.assertOk(self.cli("api", "project.list", "--input", json.dumps(
            {"organizationId": self.server.org}), "--format", "html")).out)
        self.assertRegex(page.texts("p")[0], r"\Awritten [-0-9:TZ]+\Z")

    def test_a_file_is_of_no_project(self):
        """Which a variable names: with --from, only --project counts."""
        path = self.path("traces.jsonl")
        self.assertOk(self.cli("traces", "list", "-o", path))
        env = {"TWOSIGNAL_PROJECT": "elsewhere"}
        for options, selection in (([], ""), (["--project", self.server.project],
                                              "project %s, " % self.server.project)):
            result = self.cli("traces", "stats", "--from", path, *options, "--format", "html",
                              env=env)
            self.assertEqual(Page(self.assertOk(result).out).texts("p")[0].partition("written")[0],
                             "%sfrom %s, " % (selection, path))

    def test_what_a_document_is_about(self):
        selection = "project %s, since 1h, tag v1, " % self.server.project
        self.server.add_trace(tags=["v1"])
        for form, pattern in (
                ("markdown", r"\A### twosignal traces check\n\n`%swritten [-0-9T:]+Z`\n\n"),
                ("html", "<h1>twosignal traces check</h1><p>%swritten [-0-9T:]+Z</p>")):
            result = self.assertOk(self.cli("traces", "check", "--tag", "v1", "--since", "1h",
                                            "--min-count", "1", "--format", form))
            self.assertRegex(result.out, pattern % selection)

    def test_both_sides_of_a_baseline(self):
        for tag, duration in (("v1", 1000), ("v2", 5000)):
            self.server.add_trace(name="agent", tags=[tag], duration_ms=duration)
        for form in FORMATS:
            result = self.cli("traces", "check", "--tag", "v2", "--baseline-tag", "v1",
                              "--max-regression", "10%", "--format", form)
            self.assertEqual(result.code, 10, result)
            for word in ("Baseline", "Change", "1.0s", "5.0s", "+400%", "FAILED"):
                self.assertIn(word, result.out)

    def test_secrets_stay_masked(self):
        """Row 53: secrets in the configs of evaluators are *** in a page, too."""
        evaluator = self.server.add_evaluator(name="x", config={"api_key": "sk-71234567"})
        for form in FORMATS:
            result = self.assertOk(self.cli("evaluators", "toggle", evaluator, "--enable",
                                            "--format", form))
            self.assertIn("***", result.out)
            self.assertNotIn("71234567", result.out)

    def test_encodings_of_stdout(self):
        self.server.add_trace(name="東京 مساعد")
        for encoding in ("ascii", "latin-1", "utf-8"):
            result = self.assertOk(self.cli("traces", "list", "--format", "html",
                                            encoding=encoding))
            self.assertIn("東京 مساعد", Page(result.out).texts("td"))


class Dialects(TracesCase):
    def test_in_both_dialects(self):
        """What an older and a newer server say is the same in each format."""
        for form, command in itertools.product(FORMATS, (
                ("list",), ("get", "t1"), ("check", "--max-cost", "1"), ("stats", "--by", "name"))):
            found = []
            for dialect, options in DIALECTS:
                self.use(**options)
                self.server.add_trace(id="t1", name="<b>", status="ERROR", cost="9.5",
                                      created="2026-03-14T10:30:00Z", spans=[{
                                          "id": "s1", "name": "<i>", "input": {"a": "<u>"},
                                          "status": "ERROR", "errorMessage": "<p>"}])
                result = self.traces(*command, "--format", form)
                varies = r"c0000000[-0-9a-f]*|\d{4}-\d\d-\d\dT[\d:]+Z|\d requests?"
                found.append(re.sub(varies, "", result.out))
                self.assertEqual(result.code, 10 if command[0] == "check" else 0, result)
            self.assertEqual(*found)


def write_pages(folder):
    """Pages of each kind, and for each what it is: its file, and texts that it shows."""
    case = Commands()
    case.setUp()
    try:
        for number, name in enumerate(HOSTILE):
            case.server.add_trace(id="hostile-%d" % number, name=name, status="ERROR", tags=[name],
                                  cost=number + 2, spans=[{
                                      "id": name, "name": name, "status": "ERROR", "model": name,
                                      "errorMessage": name, "input": name, "output": {name: name}}])
        lines = {
            "list": "traces list --all", "get": "traces get failed",
            "gate": "traces check --max-cost 1 --max-error-rate 1%",
            "stats": "traces stats --by name", "day": "traces stats --by day", "orgs": "orgs list",
            "usage": "usage", "months": "usage --months 12", "api": "api organization.list",
            "none": "traces list --search zzzz", "help": "help traces list"}
        lines.update(("hostile-%d" % number, "traces get hostile-%d" % number)
                     for number in range(len(HOSTILE)))
        for (name, line), ending in itertools.product(lines.items(), ("html", "md")):
            path = os.path.join(folder, "%s.%s" % (name, ending))
            result = case.cli(*line.split() + ["-q", "-o", path])
            assert os.path.exists(path), result
    finally:
        case.doCleanups()
    with open(os.path.join(folder, "names.json"), "w", encoding="utf-8") as file:
        json.dump([twosignal.printable(name) for name in HOSTILE], file)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pages"]:
        write_pages(sys.argv[2])
    else:
        unittest.main()
