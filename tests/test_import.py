"""`datasets import`: files of test cases, of which CSV and TSV come from spreadsheets."""
import gzip
import io
import unittest
from unittest import mock

import twosignal
from tools import Case

TABLE = "input,expected_output\nHi,Hello\n\"a, \"\"b\"\"\nc\",\n"
ROWS = [{"input": "Hi", "expected_output": "Hello"},
        {"input": "a, \"b\"\nc", "expected_output": ""}]


def table(content, path="stdin", columns=()):
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
                        TABLE + ",\n,\n\n", TABLE.rstrip("\n"), TABLE.replace("t,e", "t, e"), gzip.compress(TABLE.encode())):
            for path in ("stdin", "x.csv", "x.CSV.gz"):
                with self.subTest(content=content, path=path):
                    self.assertEqual(list(table(content, path)), ROWS)

    def test_lines_that_end_with_cr_alone(self):
        self.assertEqual(list(table("input,b\rHi,1\r\"x\ry\",2\r")),
                         [{"input": "Hi", "b": "1"}, {"input": "x\ry", "b": "2"}])

    def test_tab_separated_values_have_escapes_and_no_quotes(self):
        text = "input\tb\n\"Hi\\tyou\\n\\\\n\" 'x\t\\r\n"
        for path in ("stdin", "x.tsv", "x.tsv.gz"):
            self.assertEqual(list(table(text, path)), [{"input": "\"Hi\tyou\n\\n\" 'x", "b": "\r"}])
        self.assertEqual(list(table("input\na, b\n", "x.tsv")), [{"input": "a, b"}])

    def test_json_is_told_by_the_ending_or_else_by_how_it_begins(self):
        for path, text in (("stdin", "\ufeff \n {\"a\": 1}\n"), ("x", "[{\"a\": 1}]"),
                           ("cases.txt", "\n{\"a\": 1}"), ("x.jsonl", "{\"a\": 1}")):
            self.assertEqual(list(table(text, path)), [{"a": 1}])
        self.refused("input,b\nx,y\n", "line 1", path="x.jsonl")
        self.refused("input,b\nx,y\n", "line 1", columns=None)
        self.refused("{\"a\": 1}\n", "no column 'input'", "{\"a\": 1}", path="x.csv",
                     columns=["input"])

    def test_what_is_no_table(self):
        for content, *parts in (
                ("input,b\nx,y\nx\n", "line 3", "1 cells instead of 2"),
                ("input,b\n\"x\n\ny\",1\nx,y,z\n", "line 5", "3 cells instead of 2"),
                ("input,b,input\nx,y,z\n", "line 1", "the column 'input' twice"),
                ("question,answer\nx,y\n", "line 1", "no column 'input'", "question, answer"),
                ("input;b\nx;y\n", "line 1", "no column 'input'", "input;b"),
                ("input,b\nx,y\nx,\"y\nx,y\n", "line 3", "quote"),
                ("input,b\nx,y\n\"x\"y,z\n", "line 3", "quote"),
                ("input,b\nx,\0\n", "line 2", "NUL"),
                (b"input,b\nx,y\n\xe9,y\n", "line 3", "not UTF-8"),
                (b"input,b\nx,y\n\"\n\xc3", "line 4", "not UTF-8"),
                ("input,b\nx,y\n".encode("utf-16"), "line 1", "not UTF-8"),
                (gzip.compress(TABLE.encode())[:-9], "Cannot read stdin")):
            with self.subTest(content=content):
                self.refused(content, *parts, columns=["input"])

    def test_a_quote_that_is_never_closed_takes_no_memory(self):
        with mock.patch.object(twosignal, "MAX_CELL", 1000), \
                mock.patch.object(twosignal, "MAX_FILE_RECORD", 5000):
            self.refused("input\n\"" + "x\n" * 1000, "line 2", "quote")
            self.refused("input\n" + "x" * 6000, "line 2", "too long")

    def test_what_is_read_once_can_be_kept(self):
        for content in (TABLE, "[{\"a\": 1}, {\"a\": 2}]", gzip.compress(TABLE.encode()), ""):
            with table(content) as file:
                first = list(file)
                self.assertEqual(list(file), first)
        with self.assertRaises(twosignal.Failure) as caught, \
                twosignal.RecordFile(self.path("none")):
            pass
        self.assertEqual(caught.exception.exit_code, 2)


class Cells(unittest.TestCase):
    def test_json_is_a_value_and_everything_else_is_text(self):
        for text, value in (("42", "42"), ("true", "true"), ("null", "null"), ("Hi", "Hi"),
                            (" {\"a\": 1}", " {\"a\": 1}"), ("{\"a\": 1}", {"a": 1}),
                            ("[1, 2]", [1, 2]), ("\"42\"", "42"), ("\"\"", ""), ("", None),
                            ("[not JSON]", "[not JSON]"), ("{x}", "{x}"),
                            ("\"Hi\" he", "\"Hi\" he"),
                            ("[" * 100000, "[" * 100000), ("'=1+1", "=1+1"), ("''=1", "'=1"),
                            ("'tis", "'tis"), ("-5", "-5"), ("'", "'")):
            with self.subTest(text=text[:20]):
                self.assertEqual(twosignal.cell_value(text), value)

    def test_json_that_would_change_is_refused(self):
        for text in ("{\"a\": 1, \"a\": 2}", "[12345678901234567890]", "[NaN]"):
            with self.assertRaises(ValueError):
                twosignal.cell_value(text)

    def test_formulas_come_back_as_they_were(self):
        for text in "=1 '=1 ''=1 +x -5 '-5 @x ' '' 'x \uff1d1".split() + ["\tx"]:
            with self.subTest(text=text):
                self.assertEqual(twosignal.cell_value(twosignal._value_text(text)), text)
