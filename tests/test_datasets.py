"""Datasets and their items: changing, removing and exporting them; test cases from traces."""
import json
import os
import unittest
import uuid
from unittest import mock

import twosignal
from tools import DIALECTS, CommandCase, costly, procedure_inputs, trpc_answer

# What comes back from each format; csv and tsv have no numbers, true or false of their own.
TEXTS = [
    "plain", "", " ", "42", "-0.02", "true", "null", "=1+1", "'=1+1", "''=x", "'quoted'", "+", "@x",
    "{", "{}", '{"a": 1, "a": 2}', "[1", "[1]", "[9007199254740993]", '"x"', '"', '""', ' {"a": 1}',
    "a,b", "a\tb", "a\nb\r\nc\rd", "\r", "\n", "\t", "\\n\\t\\", "\x00", "\x1b[31m", "\x7f\x9f",
    "\u202ea\u2028", "\ufeffx", "日本 😡", "\ud800", "::error::x", "##[group]", "\uff1d1",
    '"a" and "b"', "x" * 40000, "[" * 5000]
OBJECTS = [{}, [], {"a": None}, [1, 2.5, True, None, "=x"], {"b c": {"d": ["\x1b", "'"]}, "": 1e-7}]
VALUES = TEXTS + OBJECTS
OTHERS = [0, -1, 2.5, 1e-7, 9007199254740992, True, False]


class DatasetCase(CommandCase):
    def setUp(self):
        super().setUp()
        self.prepare()

    def prepare(self):
        self.dataset = self.server.add_dataset(name="Cases", description="old")
        self.item = self.server.add_item(self.dataset, {"q": "Hi"}, ["a"], {"n": 1})
        self.server.clear()

    def use(self, **options):
        self.server.stop()
        self.server = self.serve(**dict(self.options, **options))
        self.log_in()
        self.prepare()

    def each_server(self):
        """The name of each dialect, while its server is there with the small world and the dataset.
        """
        for dialect, options in DIALECTS:
            self.use(**options)
            yield dialect

    def datasets(self, *args, **kwargs):
        return self.cli("datasets", *args, **kwargs)

    def items(self):
        """(input, expected output, metadata) of each item of the dataset."""
        return [(row["input"], row["expectedOutput"], row["metadata"])
                for row in self.server.rows("items") if row["datasetId"] == self.dataset]

    def check_roles(self, *argv):
        """A viewer may not do it, and learns why; a member may. Returns the member's result."""
        self.log_in("viewer@example.com")
        before = self.server.rows("items"), self.server.rows("datasets")
        self.assertFails(self.datasets(*argv), 5, "Permission denied", "Your role is VIEWER")
        self.assertEqual((self.server.rows("items"), self.server.rows("datasets")), before)
        self.log_in("member@example.com")
        return self.assertOk(self.datasets(*argv))


class Updates(DatasetCase):
    def row(self):
        row, = [row for row in self.server.rows("datasets") if row["id"] == self.dataset]
        return row["name"], row["description"]

    def test_only_what_is_given_changes(self):
        for _ in self.each_server():
            for given in ("Cases", self.dataset):
                self.assertOk(self.datasets("update", given, "-d", ""), err="")
                self.assertEqual(self.row(), ("Cases", ""))
                self.assertOk(self.datasets("update", given, "-d", "new"), err="")
                self.assertEqual(self.row(), ("Cases", "new"))
            record = self.assertOk(self.datasets("update", "Cases", "-n", "Other", "--json")).json
            self.assertEqual((record["id"], record["name"], record["description"]),
                             (self.dataset, "Other", "new"))
            # The server requires the name, so it is sent even if it stays.
            self.assertEqual([given["name"] for given in procedure_inputs(
                self.server, "dataset.update")], ["Cases"] * 4 + ["Other"])

    def test_a_uuid_and_a_name_need_no_lookup(self):
        self.assertOk(self.datasets("update", self.dataset, "-n", "x"))
        self.assertEqual([request.procedures for request in self.server.requests],
                         [["dataset.update"]])

    def test_what_cannot_be_done(self):
        self.assertFails(self.datasets("update", "Cases"), 2,
                         "Nothing to change. Pass --name or --description.")
        self.assertEqual(self.server.requests, [])
        for more in (["-n", "x"], ["-d", "x"]):
            self.assertFails(self.datasets("update", "Nowhere", *more), 6, "Dataset not found")
        self.check_roles("update", "Cases", "-d", "x")

    def test_a_lost_answer(self):
        """Row 22: the error names the command that shows what the dataset is called now."""
        self.server.fault("dataset.update", reset=True)
        result = self.datasets("update", "Cases", "-n", "x")
        self.assertFails(result, 9, "twosignal datasets list --project " + self.server.project)


class Removals(DatasetCase):
    def remove(self, *argv, **kwargs):
        return self.datasets("remove-item", *argv, **kwargs)

    def test_what_it_prints(self):
        for _ in self.each_server():
            item = self.server.add_item(self.dataset, 1)
            record = self.assertOk(self.remove(item, "-y", "--json"), err="").json
            self.assertEqual(record, {"id": item, "removed": True})
            self.assertEqual(self.items(), [({"q": "Hi"}, ["a"], {"n": 1})])

    def test_one_request_is_enough(self):
        self.assertOk(self.remove(self.item, "-y"))
        self.assertEqual([request.procedures for request in self.server.requests],
                         [["dataset.removeItem"]])

    def test_not_found_whatever_the_server_says(self):
        for _ in self.each_server():
            self.assertOk(self.remove(self.item, "-y"))
            self.assertFails(self.remove(self.item, "-y"), 6, "Dataset item not found",
                             "'twosignal datasets get ID --project")
            self.server.fault("dataset.removeItem", status=404, body=trpc_answer_not_found(""))
            self.assertFails(self.remove(self.item, "-y"), 6, "Dataset item not found")

    def test_roles(self):
        self.check_roles("remove-item", self.item, "-y")
        self.assertEqual(self.items(), [])

    def test_a_lost_answer(self):
        """Row 22: the error names the command that shows what is left."""
        self.server.fault("dataset.removeItem", reset=True)
        self.assertFails(self.remove(self.item, "-y"), 9,
                         f"twosignal datasets get ID --project {self.server.project}")

    def test_questions(self):
        for reply in ("n\n", "\n"):
            result = self.remove(self.item, stdin=reply, tty=True)
            self.assertEqual((result.code, result.out), (1, ""))
            self.assertIn(f"Remove dataset item {self.item}? [y/N]", result.err)
            self.assertTrue(result.err.endswith("Error: Nothing was removed.\n"))
        self.assertFails(self.remove(self.item), 2, "--yes")
        self.assertEqual(len(self.items()), 1)
        self.assertOk(self.remove(self.item, stdin="y\n", tty=True))
        self.assertEqual(self.items(), [])


def trpc_answer_not_found(message):
    return {"error": {"json": {"message": message, "code": -32004,
                               "data": {"code": "NOT_FOUND", "httpStatus": 404}}}}


class ItemUpdates(DatasetCase):
    def update(self, *argv, item=None):
        return self.datasets("update-item", item or self.item, "--dataset", "Cases", *argv)

    def test_only_what_is_given_changes(self):
        for _ in self.each_server():
            before, item = list(self.items()[0]), self.item
            for place, option, value in ((0, "--input", "text"), (1, "--expected", {"b": 1.5}),
                                         (2, "--metadata", None), (1, "--expected", None),
                                         (2, "--metadata", False), (0, "--input", None)):
                result = self.update(option, json.dumps(value), "--json", item=item)
                before[place] = value
                self.assertEqual(self.items(), [tuple(before)])
                self.assertEqual(result.json["id"], self.server.rows("items")[-1]["id"])
                self.assertNotEqual(result.json["id"], item)
                item = result.json["id"]
                self.assertOk(result, err=f"Note: the item has a new ID: {item}.\n")

    def test_what_is_unknown_is_not_sent(self):
        """Servers refuse null for an optional input."""
        self.assertOk(self.update("--expected", "null", "--metadata", "null"))
        given, = procedure_inputs(self.server, "dataset.addItem")
        self.assertEqual(set(given), {"datasetId", "projectId", "input"})

    def test_the_new_one_is_added_first(self):
        self.assertOk(self.update("--input", "1"))
        self.assertEqual([name for request in self.server.requests for name in request.procedures][
            -3:], ["dataset.getById", "dataset.addItem", "dataset.removeItem"])

    def test_nothing_to_change(self):
        for argv in ([], ["--input", '{"q": "Hi"}'], ["--metadata", '{"n": 1}', "--expected",
                                                       '["a"]']):
            self.assertFails(self.update(*argv), 2, "Nothing to change")
        self.assertOk(self.update("--metadata", '{"n": true}'))     # 1 is another value
        self.assertEqual(self.items(), [({"q": "Hi"}, ["a"], {"n": True})])

    def test_what_cannot_be_done(self):
        self.assertFails(self.update("--input", "{"), 2, "Invalid --input")
        self.assertFails(self.datasets("update-item", self.item, "--input", "1"), 2, "--dataset")
        self.assertEqual(self.server.requests, [])
        self.assertFails(self.update("--input", "1", item=self.dataset), 6,
                         "Dataset item not found", f"datasets get {self.dataset} --project")
        self.check_roles("update-item", self.item, "--dataset", "Cases", "--input", "1")
        self.assertEqual(len(self.items()), 1)

    def test_the_old_one_cannot_be_removed(self):
        """Both are there then, which the error says, and how to remove the old one."""
        for fault, code in ((dict(status=500), 8), (dict(reset=True), 9), (dict(status=403), 5),
                            (dict(status=404, body=trpc_answer_not_found("Gone")), 6)):
            self.prepare()
            self.server.fault("dataset.removeItem", **fault)
            result = self.datasets("update-item", self.item, "--dataset", self.dataset, "--input",
                                   "1")
            with self.subTest(fault=fault):
                new, = [row["id"] for row in self.server.rows("items")
                        if row["input"] == 1 and row["datasetId"] == self.dataset]
                command = f"datasets remove-item {self.item} --project {self.server.project}"
                self.assertFails(result, code, f"Added item {new}.", f"'twosignal {command}'")
                self.assertOk(self.cli(*command.split(), "-y"))
                self.assertEqual([values[0] for values in self.items()], [1])

    def test_interrupted_before_the_old_one_is_removed(self):
        real = twosignal.Client.mutate

        def mutate(client, procedure, *rest):
            if procedure == "dataset.removeItem":
                raise KeyboardInterrupt
            return real(client, procedure, *rest)
        with mock.patch.object(twosignal.Client, "mutate", mutate):
            result = self.update("--input", "1")
        self.assertEqual((result.code, result.out), (130, ""))
        self.assertIn(f"Added item {self.server.rows('items')[-1]['id']}. Remove the old one with "
                      f"'twosignal datasets remove-item {self.item} --project ", result.err)

    def test_a_lost_answer(self):
        """Row 22: nothing is removed as long as it is not certain that the new one was added."""
        self.server.fault("dataset.addItem", reset=True)
        self.assertFails(self.update("--input", "1"), 9,
                         f"check with 'twosignal datasets get {self.dataset} --project")
        self.assertEqual(self.server.count("dataset.removeItem"), 0)


class Exports(DatasetCase):
    def export(self, *argv, **kwargs):
        return self.assertOk(self.datasets("export", "Cases", *argv, **kwargs), err="")

    def fill(self, values):
        self.server.world.store.remove_all("items", self.dataset)
        for value in values:
            self.server.add_item(self.dataset, value, value, value)

    def test_json_has_every_value(self):
        for _ in self.each_server():
            self.fill(VALUES + OTHERS + [None])
            rows = [dict.fromkeys(("input", "expected_output", "metadata"), value)
                    for value in VALUES + OTHERS + [None]]
            self.assertEqual([json.loads(line) for line in self.export().lines], rows)
            self.assertEqual(self.export("--json").json, rows)

    def test_csv_comes_back_as_it_was(self):
        """Texts and objects of a dataset, as `datasets import` reads its cells."""
        self.fill(VALUES)
        path = self.path("cases.csv")
        self.export("-o", path)
        columns = dict.fromkeys(("input", "expected_output", "metadata"), True)
        rows = [list(row.values()) for row in twosignal.RecordFile(path, columns=columns)]
        for value, row in zip(VALUES, rows):
            self.assertEqual(row, [value] * 3)
        self.assertEqual(len(rows), len(VALUES))

    def test_csv_is_as_plain_as_it_can_be(self):
        self.fill(["Hi", "42", "'tis", "{x}", {"a": 1}, 42, True, None, 1e-7])
        self.assertEqual([line.split(",")[0] for line in self.export("--format", "csv").lines], [
            "input", "Hi", "42", "'tis", "{x}", '"{""a"": 1}"', "42", "true", "", "0.0000001"])

    def test_formats_and_fields(self):
        for ending in ("csv", "json", "ndjson"):
            path = self.path("cases." + ending)
            self.export("-o", path)
            with open(path) as file:
                found = file.read()
            self.assertIn({"csv": "input,expected_output,metadata\n", "json": '[\n  {\n    "input"',
                           "ndjson": '{"input": {"q": "Hi"}, "expected_output": ["a"], "metadata": '
                           '{"n": 1}}\n'}[ending], found)
        self.assertEqual(self.export("--fields", "id,input.q").out,
                         f'{{"id": "{self.item}", "input.q": "Hi"}}\n')
        self.assertRegex(self.export("--format", "table").out, r"^Input +Expected +Metadata\n")
        self.assertIn("dataset_id", self.export("--fields", "?", "--format", "table").out)

    def test_an_empty_dataset(self):
        self.fill([])
        for name, text in (("jsonl", ""), ("json", "[]\n"), ("table", "No items found.\n"),
                           ("csv", "input,expected_output,metadata\n")):
            self.assertEqual(self.export("--format", name).out, text)

    def test_roles(self):
        for role in ("viewer", "member"):
            self.log_in(role + "@example.com")
            self.assertEqual(len(self.export().lines), 1)
        self.assertFails(self.datasets("export", "Nowhere"), 6, "Dataset not found")

    def test_items_that_the_server_leaves_out(self):
        """Half a dataset must not look like a whole one: no file is written."""
        for rest in ({"items": [{"id": "i", "input": 1}]}, {"items": []}, {}, {"items": None}):
            wire = dict(rest, id=self.dataset, name="Cases", _count={"items": 2})
            self.server.fault("dataset.getById", status=200, body=trpc_answer(wire))
            result = self.datasets("export", self.dataset, "-o", self.path("half.jsonl"))
            self.assertFails(result, 8, "does not return all items")
        self.assertFalse(os.path.exists(self.path("half.jsonl")))

    @costly
    def test_many_items(self):
        wire = {"id": self.dataset, "name": "Cases", "items": [
            {"id": str(number), "datasetId": self.dataset, "input": f"question {number}",
             "expectedOutput": {"answer": number}, "metadata": None, "createdAt": None}
            for number in range(20000)]}
        self.server.fault("dataset.getById", status=200, body=trpc_answer(wire))
        lines = self.assertOk(self.datasets("export", self.dataset)).lines
        self.assertEqual(len(lines), 20000)
        self.assertEqual(json.loads(lines[-1])["input"], "question 19999")


class FromTraces(DatasetCase):
    SPANS = [{"parentSpanId": "ROOT", "startTime": "2026-03-14T10:00:00.000Z",
              "input": "inner", "output": "inner"},
             {"startTime": "2026-03-14T10:00:09.000Z", "input": "late",
              "output": "late"},
             {"id": "ROOT", "startTime": "2026-03-14T10:00:01.000Z", "input": {"userQuery": "Hi"},
              "output": ["Hello", 1.5]}]

    def add(self, spans, *argv, to="Cases"):
        root = str(uuid.uuid4())
        self.trace = self.server.add_trace(spans=[
            {key: root if value == "ROOT" else value for key, value in span.items()}
            for span in spans])
        return self.datasets("add-trace", self.trace, "--dataset", to, *argv)

    def test_the_first_span_without_a_parent(self):
        for _ in self.each_server():
            for more, rest in (([], (None, None)), (["--expected-from-output"],
                                                     (["Hello", 1.5], None)),
                               (["--metadata", '{"a": 1}'], (None, {"a": 1}))):
                record = self.assertOk(self.add(self.SPANS, "--json", *more), err="").json
                self.assertEqual(self.items()[-1], ({"userQuery": "Hi"}, *rest))
                self.assertEqual(record["id"], self.server.rows("items")[-1]["id"])

    def test_values_that_are_false(self):
        for value in (0, "", False, [], {}):
            self.assertOk(self.add([{"input": value, "output": value}], "--expected-from-output"))
            self.assertEqual(self.items()[-1], (value, value, None))

    def test_a_parent_that_is_not_in_the_trace(self):
        self.assertOk(self.add([{"parentSpanId": "elsewhere", "input": 5}]))
        self.assertEqual(self.items()[-1], (5, None, None))

    def test_what_is_missing(self):
        """It is an error: a test case without an input, or without what was asked for, is none."""
        for spans, more, missing in (
                ([], [], "an input"), ([{"input": None, "output": 1}], [], "an input"),
                ([{"input": 1, "output": None}], ["--expected-from-output"], "an output")):
            result = self.add(spans, *more)
            self.assertFails(result, 1, f"The trace has no root span with {missing}",
                             f"'twosignal traces get {self.trace} --project {self.server.project}")
        self.assertOk(self.add([{"input": 1, "output": None}]))
        self.assertEqual(len(self.items()), 2)

    def test_what_cannot_be_done(self):
        self.assertFails(self.datasets("add-trace", "x", "--dataset", "Cases"), 6,
                         "Trace not found")
        self.assertFails(self.add(self.SPANS, to="Nowhere"), 6, "Dataset not found")
        self.assertFails(self.add(self.SPANS, "--metadata", "{"), 2, "Invalid --metadata")
        self.check_roles("add-trace", self.trace, "--dataset", "Cases")
        self.assertEqual(len(self.items()), 2)

    def test_a_lost_answer(self):
        """Row 22: the error names the dataset to look at."""
        self.server.fault("dataset.addItem", reset=True)
        self.assertFails(self.add(self.SPANS), 9,
                         f"check with 'twosignal datasets get {self.dataset} --project")


if __name__ == "__main__":
    unittest.main()
