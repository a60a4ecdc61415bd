"""Walks through many commands: every operation of the TUI, and moving to another server by files.
"""
import json
import os
import shlex
import unittest

import twosignal
from procedures import RENAMED
from standin import StandIn
from tools import DIALECTS, NEW, OLD, ServerCase
from trpc import KINDS

# What the screens of the published TUI call.
TUI_CALLS = """
    organization.list organization.create organization.getById organization.update
    organization.addMember organization.removeMember
    project.list project.create project.update project.delete
    trace.list trace.getById
    evaluator.list evaluator.create evaluator.update evaluator.delete
    dataset.list dataset.create dataset.getById dataset.update dataset.delete
    dataset.addItem dataset.removeItem
    apiKey.list apiKey.create apiKey.revoke apiKey.rotate
    usage.getCurrentMonth usage.getHistory
    modelRouting.list modelRouting.create modelRouting.update modelRouting.delete""".split()
AS_OWNER = """
    orgs create "New Org"
    orgs list
    orgs rename "Renamed Org" --org "New Org"
    orgs add-member --email stranger@example.com --role MEMBER
    orgs list-members
    orgs remove-member --email stranger@example.com -y
    projects list
    projects create Agent -d "Answers customers"
    projects get Agent
    projects update Agent --name "New Agent" -d "Answers"
    projects delete "New Agent" -y
    usage
    usage --months 3
"""
AS_MEMBER = """
    traces list --since 2026-01-01 --until 2099-01-01 --status OK --search agent --tag v1
    traces get {trace}
    evaluators list
    evaluators create -n Short --type CONTAINS --config '{"value": "a"}'
    evaluators get Short
    evaluators update Short --name Long --config '{"value": "b"}'
    evaluators toggle Long --disable
    evaluators export -o evaluators.json
    evaluators apply -f other-type.json
    evaluators delete Long -y
    datasets list
    datasets create -n Cases -d "Test cases"
    datasets get Cases
    datasets update Cases --name "More Cases" -d "Other test cases"
    datasets add-item "More Cases" --input '"Hi"' --expected '"Hello"' --metadata '{"a": 1}'
    datasets import "More Cases" items.jsonl
    datasets add-trace {trace} --dataset "More Cases"
    datasets export "More Cases" -o more.jsonl
    datasets update-item {item} --dataset "More Cases" --input '"Bye"'
    datasets remove-item {item} -y
    datasets delete "More Cases" -y
    api-keys list
    api-keys create -n New
    api-keys rotate New -y
    api-keys revoke "CI Pipeline" -y
    routing list
    routing create cheap --default-model small --rules '[{"model": "large"}]' --disable
    routing get cheap
    routing update cheap --name cheaper --default-model tiny --rules '[]' --enable
    routing delete cheaper -y
"""
WITH_KEY = """
    traces list --since 2026-01-01 --until 2099-01-01 --status OK --search agent --tag v1
    traces send events.jsonl
    traces send otlp.json
    scores create {trace} --name tone --value 0.5 --label pass --reasoning fine --span {span}
    prompts push greeting --content 'Hello {{name}}' -d Greets --message first
    prompts list
    prompts get greeting --version 1
    routing test --input 'Where is my order?' --config default
    doctor
"""
AS_VIEWER = """
    evaluators get "Has JSON"
    evaluators export -o evaluators.json
    evaluators apply -f evaluators.json
    datasets list
    datasets get "Test Cases"
    datasets export "Test Cases" -o cases.jsonl
    datasets import "Test Cases" items.jsonl --skip-existing --dry-run
    routing list
    routing get cheap
"""
NOT_AS_VIEWER = """
    evaluators create -n Short --type CONTAINS
    evaluators update "Has JSON" --name Long
    evaluators toggle "Has JSON" --disable
    evaluators apply -f other-type.json
    evaluators delete "Has JSON" -y
    datasets create -n Cases
    datasets update "Test Cases" --name Cases
    datasets add-item "Test Cases" --input '"Hi"'
    datasets import "Test Cases" items.jsonl
    datasets import "Test Cases" items.jsonl --keep-going
    datasets add-trace {trace} --dataset "Test Cases"
    datasets update-item {item} --dataset "Test Cases" --input '"Bye"'
    datasets remove-item {item} -y
    datasets delete "Test Cases" -y
    api-keys create -n New
    api-keys rotate "CI Pipeline" -y
    api-keys revoke "CI Pipeline" -y
    routing create cheap --default-model small
    routing update cheap --default-model tiny
    routing delete cheap -y
"""
# Inputs that have another way: a member is added by email, and there are few traces here.
OTHER_INPUTS = {"organization.addMember": {"userId"}, "trace.list": {"cursor"},
                "/api/v1/traces": {"cursor"}}
OTLP = {"resourceSpans": [{"scopeSpans": [{"spans": [{
    "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "root",
    "startTimeUnixNano": "1773484200000000000", "endTimeUnixNano": "1773484201000000000"}]}]}]}
EVENT = {"id": "event-1", "type": "trace-create", "timestamp": "2026-03-14T10:30:00Z",
         "body": {"id": "trace-1", "name": "sent"}}


def lines_of(walk):
    return [line.strip() for line in walk.strip().splitlines()]


class WalkCase(ServerCase):
    """Commands run in-process, line by line, in a directory of their own."""

    def setUp(self):
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)

    def walk(self, lines):
        """Runs each line, in which {trace}, {span} and {item} are the newest ones."""
        for line, result in self.results(lines):
            with self.subTest(line=line):
                self.assertOk(result)

    def results(self, lines):
        for line in lines_of(lines):
            yield line, self.cli(*[self.place(word) for word in shlex.split(line)])

    def place(self, word):
        return {"{trace}": self.server.traces[0] if self.server.traces else None,
                "{item}": self.newest_item(), "{span}": self.span()}.get(word, word)

    def span(self):
        spans = self.server.rows("spans")
        return spans[0]["id"] if spans else None

    def newest_item(self):
        items = self.server.rows("items")
        return items[-1]["id"] if items else None


class Operations(WalkCase):
    """What the TUI can do, and the rest of what a server is known to understand, has a command."""

    def test_the_known_calls_are_those_of_the_tui(self):
        known = [call["name"] for call in twosignal.KNOWN_CALLS
                 if call["kind"] in ("query", "mutation")]
        self.assertEqual(sorted(known), sorted(TUI_CALLS))

    def test_each_operation(self):
        for name, options in DIALECTS:
            self.server = self.serve(**options)
            called = self.calls()
            del called["query", "no.such"]      # which doctor asks for
            known = {(call["kind"], call["name"]): {key.rstrip("?") for key in call["inputs"]}
                     for call in twosignal.KNOWN_CALLS}
            with self.subTest(dialect=name):
                self.assertEqual(sorted(called), sorted(known))
                for call in known:
                    missing = known[call] - called[call] - OTHER_INPUTS.get(call[1], set())
                    self.assertEqual(missing, set(), call)

    def calls(self):
        """{call: keys of its inputs} of all commands, each as who may."""
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project,
                                TWOSIGNAL_ORG=self.server.org)
        self.write_files()
        for (email, _), lines in ((self.server.OWNER, AS_OWNER), (self.server.MEMBER, AS_MEMBER)):
            self.log_in(email)
            self.walk(lines)
        self.environment["TWOSIGNAL_API_KEY"] = self.server.secret(self.server.add_key())
        self.walk(WITH_KEY)
        del self.environment["TWOSIGNAL_API_KEY"]
        return called_by(self.server)

    def test_as_a_viewer(self):
        """Who may only read can read all, and an attempt to change anything changes nothing."""
        for name, options in DIALECTS:
            self.server = self.serve(**options)
            self.server.add_route("cheap", "small")
            self.environment.update(TWOSIGNAL_PROJECT=self.server.project)
            self.write_files()
            self.log_in(self.server.VIEWER[0])
            before = self.tables()
            with self.subTest(dialect=name):
                self.walk(AS_VIEWER)
                for line, result in self.results(NOT_AS_VIEWER):
                    with self.subTest(line=line):
                        self.assertFails(result, 5, "Permission denied", out=result.out)
                self.assertEqual(self.tables(), before)

    def tables(self):
        return {table: self.server.rows(table) for table in (
            "evaluators", "datasets", "items", "api_keys", "routes")}

    def write_files(self):
        self.write("items.jsonl", '{"input": "one"}\n{"input": "two"}\n')
        self.write("other-type.json", [{"name": "Long", "type": "LLM_JUDGE", "enabled": True,
                                        "config": {"criteria": "Is it polite?"}}])
        self.write("events.jsonl", json.dumps(EVENT))
        self.write("otlp.json", OTLP)


def called_by(server):
    """{(kind, name): keys of the inputs} of all calls, old names of procedures as the new ones."""
    current = {old: new for new, old in RENAMED.items()}
    called = {}
    for request in server.requests:
        kind = KINDS[request.method] if request.procedures else request.method
        for name, values in inputs_of(request):
            if "/auth/" not in name:
                called.setdefault((kind, current.get(name, name)), set()).update(values or ())
    return called


def inputs_of(request):
    """Pairs of what a request called and the input of that call."""
    if not request.procedures:
        return [(request.path, dict(request.query, **(request.body or {})))]
    given = json.loads(request.query["input"]) if "input" in request.query else request.body
    if "batch" not in request.query:
        return [(request.procedures[0], (given or {}).get("json"))]
    return [(name, given.get(str(place), {}).get("json"))
            for place, name in enumerate(request.procedures)]


# As a file of items has them: all types of JSON, and texts that a format might change.
VALUES = ("text", "", "42", "null", "[1]", '{"a": 1}', '"quoted"', "=1+1", "'=1+1", "-5", "@x",
          "a,b;c\td", 'say "hi"', "two\nlines\r\nand a tab\t.", " blanks ", "\\n",
          "支払い 🤖 e\u0301", "\u2028\x85", "\ufeff", 0, 42, -1.5, 1e-7, 12345678901234, True,
          False, [], {}, [None],
          {"": {"a.b": [{"c": None}]}, "snake_case": 1, "camelCase": "x", "input": "y"})
CONFIGS = (
    ("Has keys", "JSON_SCHEMA", {"schema": {"type": "object", "required": ["a_b", "aB"]}}),
    ("Polite", "LLM_JUDGE", {"criteria": "Is it\npolite?", "api_key": "sk-abcdef123456"}),
    ("Hook", "WEBHOOK", {"url": "https://sam:secret99@hooks.example.com/score?token=tok-9876543",
                         "headers": {"Authorization": "Bearer abcdef", "X-Team": "a"},
                         "timeoutMs": 5000, "retries": 0}),
    ("支払い 🤖", "CONTAINS", {"value": ["=1+1", "'", "\\"], "case_sensitive": False}),
    ("Odd numbers", "COST", {"max_cost_usd": 0.1, "target_cost_usd": 1e-7, "list": [None, {}]}))
TRACE_KEYS = ("id", "name", "status", "start_time", "end_time", "tags", "metadata", "session_id")
SPAN_KEYS = ("id", "trace_id", "parent_span_id", "name", "type", "start_time", "end_time", "input",
             "output", "model", "model_parameters", "prompt_tokens", "completion_tokens",
             "total_tokens", "cost_usd", "status", "error_message", "metadata")
SERVER_MADE = ("id", "projectId", "datasetId", "createdAt", "updatedAt")


def content(rows):
    """The rows without what each server makes by itself, as text, in any order."""
    return sorted(json.dumps({key: row[key] for key in row if key not in SERVER_MADE},
                             sort_keys=True) for row in rows)


class Moving(WalkCase):
    """What one server has is brought to another, an older one, by nothing but files."""

    options, options_of_second = NEW, OLD

    def setUp(self):
        super().setUp()
        self.first = self.server
        self.second = self.enter(StandIn(empty=True, **self.options_of_second))

    def at(self, server, email="member@example.com"):
        """Logs in there, in a new home."""
        self.server = server
        self.home = self.path("home of " + server.url.rpartition(":")[2])
        os.makedirs(self.home, 0o700, exist_ok=True)
        self.environment.update(TWOSIGNAL_HOME=self.home, TWOSIGNAL_PROJECT=server.project)
        password = dict(server.ACCOUNTS)[email]
        self.assertOk(self.run_cli("login", "--url", server.url, "-e", email, "--password-stdin",
                                   stdin=password))

    def fill(self):
        self.first.add_dataset(name="Empty")
        for name, kind, config in CONFIGS:
            self.first.add_evaluator(name=name, type=kind, config=config, enabled=name != "Hook")
        dataset = self.first.add_dataset(name="Values")
        for value in VALUES:
            self.first.add_item(dataset, value, value, {"value": value})
            self.first.add_item(dataset, {"inside": [value]}, None, None)
        return dataset

    def move(self, *walk):
        for server, lines in zip((self.first, self.second), walk):
            self.at(server)
            self.walk(lines)

    def test_evaluators(self):
        """Row 82: all evaluators come out equal; a second time, nothing is changed."""
        self.fill()
        self.move("evaluators export --show-secrets -o evaluators.json",
                  "evaluators apply -f evaluators.json")
        self.assertEqual(content(self.second.rows("evaluators")),
                         content(self.first.rows("evaluators")))
        self.second.clear()
        self.move("evaluators export -o masked.json", "evaluators apply -f masked.json")
        self.assertEqual(content(self.second.rows("evaluators")),
                         content(self.first.rows("evaluators")))
        self.assertEqual([request.path for request in self.second.requests
                          if request.method == "POST" and "trpc" in request.path], [])
        with open("masked.json", encoding="utf-8") as file:
            self.assertNotIn("abcdef", file.read())

    def test_datasets(self):
        """Row 82: all types of JSON come out equal; what is imported again is skipped."""
        dataset = self.fill()
        for ending in ("jsonl", "json"):
            with self.subTest(ending):
                self.move(f"datasets export Values -o values.{ending}",
                          f"""datasets create -n {ending}
                              datasets import {ending} values.{ending}
                              datasets import {ending} values.{ending} --skip-existing""")
                made = self.second.rows("datasets")[-1]["id"]
                self.assertEqual(self.items(self.second, made), self.items(self.first, dataset))

    def test_csv(self):
        """A spreadsheet keeps texts, objects and lists; numbers, true and false become text."""
        dataset = self.fill()
        self.move("datasets export Values -o values.csv",
                  """datasets create -n Values
                     datasets import Values values.csv""")
        rows = self.items(self.second, self.second.rows("datasets")[-1]["id"])
        without_exponent = {1e-7: "0.0000001"}
        expected = [dict(item, **{key: without_exponent.get(item[key], json.dumps(item[key]))
                                  for key in ("input", "expectedOutput")
                                  if type(item[key]) in (int, float, bool)})
                    for item in map(json.loads, self.items(self.first, dataset))]
        self.assertEqual(rows, content(expected))

    @staticmethod
    def items(server, dataset):
        return content(row for row in server.rows("items") if row["datasetId"] == dataset)

    def test_traces(self):
        """Row 76: a second server shows the same traces, spans and data."""
        spans = [
            {"id": "e1", "type": "AGENT", "input": {"user_query": ["hi"]}, "output": "done"},
            {"id": "e2", "parentSpanId": "e1", "type": "LLM", "model": "gpt-4o", "cost": 0.25,
             "promptTokens": 5, "completionTokens": 7, "totalTokens": 12, "status": "ERROR",
             "errorMessage": "Tool call timed out", "modelParameters": {"max_tokens": 5}}]
        trace = self.first.add_trace(name="checkout", tags=["v2"], sessionId="s-1", spans=spans,
                                     metadata={"snake_case": {"a_b": 1}}, status="ERROR")
        key = self.second.secret(self.second.add_key())
        self.at(self.first)
        self.walk("traces export bundle")
        shown = {id: self.shown(id) for id in [trace] + self.first.traces}
        self.at(self.second)
        self.environment["TWOSIGNAL_API_KEY"] = key
        self.walk("traces send bundle --wait")
        del self.environment["TWOSIGNAL_API_KEY"]
        for id, expected in shown.items():
            with self.subTest(id):
                self.assertEqual(self.shown(id), expected)

    def shown(self, id):
        """A trace as `traces get` shows it, but for what each server makes by itself."""
        trace = self.assertOk(self.cli("traces", "get", id, "--json")).json
        spans = [{key: span.get(key) for key in SPAN_KEYS} for span in trace.pop("spans")]
        return dict({key: trace[key] for key in TRACE_KEYS}, spans=spans)


class MovingBack(Moving):
    """The same from the older server to the current one."""

    options, options_of_second = OLD, NEW


if __name__ == "__main__":
    unittest.main()
