"""The commands from the outside: what they print, ask the server, accept and refuse."""
import datetime
import json
import os
import re
import socket
import unicodedata
import unittest

from tools import Case, ServerCase, procedure_inputs, requests_of

OWNER = "owner@example.com"
PASSWORD = "owner-pass"
ISO = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"
AWKWARD_IDS = ["a/b", "../../etc", "a b", "?x=1", "#top", "100%", "%2e%2e", "a&b=c", "日本",
               "\"q\"", "line\nbreak", "tab\there", "cr\rlf", "é", "x" * 2000]
# What each procedure is called in the newest servers.
PROCEDURES = {
    "orgs list": "organization.list", "orgs create": "organization.create",
    "projects list": "project.list", "projects create": "project.create",
    "traces list": "trace.list", "traces get": "trace.getById",
    "evaluators list": "evaluator.list", "evaluators create": "evaluator.create",
    "evaluators toggle": "evaluator.update", "evaluators delete": "evaluator.delete",
    "datasets list": "dataset.list", "datasets create": "dataset.create",
    "datasets get": "dataset.getById", "datasets add-item": "dataset.addItem",
    "datasets delete": "dataset.delete", "api-keys list": "apiKey.list",
    "api-keys create": "apiKey.create", "api-keys revoke": "apiKey.revoke",
    "usage": "usage.getCurrentMonth",
}
LISTS = {"orgs list": "organizations", "projects list": "projects", "traces list": "traces",
         "evaluators list": "evaluators", "datasets list": "datasets", "api-keys list": "API keys"}


def answer(data, values=None):
    """A tRPC answer with superjson, as the servers give it."""
    envelope = {"json": data}
    if values:
        envelope["meta"] = {"values": values}
    return {"result": {"data": envelope}}


def refusal(code, status, message, path="x.y"):
    return {"error": {"json": {"message": message, "code": -32000, "data": {
        "code": code, "httpStatus": status, "path": path}}}}


def ago(**period):
    moment = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**period)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + "000Z"


def wire_trace(**fields):
    """A trace as `trace.list` gives it; fields replace or add to those of the example."""
    trace = {"id": "d0000000-0000-4000-8000-000000000000", "projectId": "c1", "name": "agent",
             "startTime": "2026-03-14T10:30:00.000Z", "endTime": None, "metadata": None,
             "tags": [], "totalCost": 0.003, "totalTokens": 12, "status": "OK",
             "durationMs": 1200, "createdAt": "2026-03-14T10:30:00.000Z", "sessionId": None,
             "_count": {"spans": 0, "scores": 0}}
    trace.update(fields)
    return trace


def display_width(text):
    """Columns that a terminal uses for a text."""
    return sum(0 if unicodedata.combining(char) or unicodedata.category(char) == "Cf"
               else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


class CommandCase(ServerCase):
    """Logged in as the owner, with the fixed small world and its project as the default."""

    def setUp(self):
        super().setUp()
        self.log_in()
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project,
                                TWOSIGNAL_ORG=self.server.org)

    def argv(self, command):
        """A complete command line for a command, on resources that exist."""
        server = self.server
        more = {
            "orgs create": ["New Org"],
            "projects create": ["New Project"],
            "traces get": [server.traces[0]],
            "evaluators create": ["-n", "Has JSON", "--type", "JSON_SCHEMA"],
            "evaluators toggle": ["EVALUATOR", "--disable"],
            "evaluators delete": ["EVALUATOR", "-y"],
            "datasets create": ["-n", "Test Cases"],
            "datasets get": ["DATASET"],
            "datasets add-item": ["DATASET", "--input", '{"promptText": "Hi"}'],
            "datasets delete": ["DATASET", "-y"],
            "api-keys create": ["-n", "CI Pipeline"],
            "api-keys revoke": ["KEY", "-y"],
        }.get(command, [])
        made = {"EVALUATOR": server.add_evaluator, "DATASET": server.add_dataset,
                "KEY": server.add_key}
        return command.split() + [made[word](name="Made") if word in made else word
                                  for word in more]

    def records(self, command):
        return self.assertOk(self.cli(*self.argv(command) + ["--json"]), err="").json

    def traces_from(self, *traces, **kwargs):
        """The result of `traces list` where the server gives just these wire traces."""
        values = kwargs.pop("values", None)
        page = {"traces": list(traces), "nextCursor": None}
        self.server.fault("trace.list", status=200, body=answer(page, values))
        return self.cli("traces", "list", *kwargs.pop("args", ()), **kwargs)


class TestTables(CommandCase):
    shown = {
        "orgs list": r"(?s)^ID .*Name.*\n─+\n\S+  .*  Acme 東京\n",
        "orgs create": r"New Org",
        "projects list": r"(?s)^ID .*Name.*\n─+\n\S+  .*  Support Agent\n",
        "projects create": r"New Project",
        "traces list": r"^ID +Status +Duration +Cost +Created",
        "traces get": r"(?s)OK|ERROR",
        "evaluators list": r"(?s)^ID .*Type.*Name\n─+\n\S+  .*  Has JSON\n",
        "evaluators create": r"(?s)Has JSON.*JSON_SCHEMA",
        "evaluators toggle": r"(?i)disabled|enabled +(no|false)",
        "evaluators delete": r"(?i)deleted",
        "datasets list": r"(?s)^ID .*Name.*\n─+\n\S+  ",
        "datasets create": r"Test Cases",
        "datasets get": r"(?i)name",
        "datasets add-item": r"promptText",
        "datasets delete": r"(?i)deleted",
        "api-keys list": r"(?s)^ID .*Name.*\n─+\n\S+  ",
        "api-keys create": r"(?s)CI Pipeline.*(ts_|2s_live_)\w{8}|(ts_|2s_live_)\w{8}",
        "api-keys revoke": r"(?i)revoked",
        "usage": r"(?i)traces",
    }

    def test_every_command(self):
        self.assertEqual(set(self.shown), set(PROCEDURES))
        for command, pattern in self.shown.items():
            with self.subTest(command=command):
                argv = self.argv(command)
                result = self.assertOk(self.cli(*argv), err="")
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
        self.server.fault("trace.getById", status=200, body=answer(trace))
        out = self.assertOk(self.cli("traces", "get", trace["id"], columns=120), err="").out
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

    def test_name_stands_last_where_there_is_room(self):
        wide = self.assertOk(self.cli("traces", "list", columns=200))
        narrow = self.assertOk(self.cli("traces", "list", columns=76))
        self.assertEqual(wide.lines[0].split()[-1], "Name")
        self.assertEqual(narrow.lines[0].split()[-1], "Created")
        self.assertEqual([line.split("  ")[0] for line in wide.lines[2:]], self.server.traces)
        self.assertEqual([line.split("  ")[0] for line in narrow.lines[2:]], self.server.traces)

    def test_only_the_last_column_is_cut(self):
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
        self.server.fault("evaluator.list", status=200, body=answer(rows))
        heading, rule, *lines = self.assertOk(self.cli("evaluators", "list")).lines
        column = heading.index("Name")
        self.assertGreater(column, heading.index("Type"))
        for line in lines:
            self.assertEqual(display_width(line[:line.index("the name")]), column, line)

    def test_ascii_stands_in_for_what_the_stream_cannot_show(self):
        for command in PROCEDURES:
            with self.subTest(command=command):
                result = self.assertOk(self.cli(*self.argv(command), encoding="ascii"))
                self.assertEqual(result.out, re.sub(r"[^\x00-\x7f]", "", result.out))
        self.assertIn("Acme", self.cli("orgs", "list", encoding="ascii").out)


class TestJson(CommandCase):
    def test_every_command_prints_one_document(self):
        for command in PROCEDURES:
            with self.subTest(command=command):
                records = self.records(command)
                self.assertIsInstance(records, list if command in LISTS else dict)
                self.assertTrue(records)
                for record in records if command in LISTS else [records]:
                    self.check_keys(record)

    def check_keys(self, record):
        for key, value in record.items():
            self.assertRegex(key, r"^[a-z][a-z0-9_]*$")
            if key.endswith("_at") and value is not None:
                self.assertRegex(value, ISO)
                self.assertNotIn(".000Z", value)

    def test_records_of_traces(self):
        scores = [{"id": "f1", "traceId": "t1", "spanId": None, "projectId": "c1",
                   "evaluatorName": "Tone", "value": 1, "label": "pass", "reasoning": "because",
                   "createdAt": "2026-03-14T10:30:00.250Z", "judgeModel": "m"}]
        trace = wire_trace(metadata={"camelKey": {"innerKey": 1}, "totalCost": "x"},
                           totalCost="0.0034", totalTokens="1250", agentVersion="v9",
                           createdAt="2026-03-14T10:30:00.120Z", scores=scores,
                           _count={"spans": "3", "scores": 1})
        values = {"traces.0.totalTokens": ["bigint"], "traces.0.createdAt": ["Date"],
                  "traces.0._count.spans": ["bigint"],
                  "traces.0.totalCost": [["custom", "Decimal.js"]]}
        result = self.traces_from(trace, values=values, args=["--json"])
        record, = self.assertOk(result, err="").json
        self.assertEqual(list(record)[:6], ["id", "status", "duration_ms", "cost_usd",
                                            "created_at", "name"])
        score = record["scores"][0]
        self.assertEqual(list(score)[:4], ["evaluator", "score", "label", "reasoning"])
        self.assertEqual(score, {
            "evaluator": "Tone", "score": 1, "label": "pass", "reasoning": "because", "id": "f1",
            "trace_id": "t1", "span_id": None, "project_id": "c1", "judge_model": "m",
            "created_at": "2026-03-14T10:30:00.250Z"})
        del record["scores"]
        self.assertEqual(record, {
            "id": trace["id"], "status": "OK", "duration_ms": 1200, "cost_usd": 0.0034,
            "created_at": "2026-03-14T10:30:00.120Z", "name": "agent", "project_id": "c1",
            "start_time": "2026-03-14T10:30:00Z", "end_time": None, "tags": [],
            "metadata": {"camelKey": {"innerKey": 1}, "totalCost": "x"}, "total_tokens": 1250,
            "session_id": None, "agent_version": "v9", "span_count": 3, "score_count": 1})
        self.assertEqual(self.server.count("trace."), 1)

    def test_record_of_a_trace_with_spans(self):
        span = {"id": "s1", "traceId": "t1", "parentSpanId": None, "projectId": "c1",
                "name": "call", "type": "LLM", "startTime": "2026-03-14T10:30:00.000Z",
                "endTime": "2026-03-14T10:30:01.200Z", "durationMs": 1200, "model": "gpt-4o",
                "input": {"userQuery": [{"innerKey": 1}]}, "output": None,
                "modelParameters": {"maxTokens": 5}, "promptTokens": 1, "completionTokens": 2,
                "totalTokens": 3, "cost": "0.25", "status": "OK", "errorMessage": None,
                "metadata": {"aB": 1}}
        trace = wire_trace(spans=[span], scores=[])
        self.server.fault("trace.getById", status=200, body=answer(trace))
        record = self.assertOk(self.cli("traces", "get", trace["id"], "--json"), err="").json
        self.assertEqual(list(record)[:5], ["id", "status", "duration_ms", "cost_usd",
                                            "created_at"])
        self.assertEqual(record["scores"], [])
        self.assertEqual(record["spans"], [{
            "id": "s1", "trace_id": "t1", "parent_span_id": None, "project_id": "c1",
            "name": "call", "type": "LLM", "start_time": "2026-03-14T10:30:00Z",
            "end_time": "2026-03-14T10:30:01.200Z", "duration_ms": 1200, "model": "gpt-4o",
            "input": {"userQuery": [{"innerKey": 1}]}, "output": None,
            "model_parameters": {"maxTokens": 5}, "prompt_tokens": 1, "completion_tokens": 2,
            "total_tokens": 3, "cost_usd": 0.25, "status": "OK", "error_message": None,
            "metadata": {"aB": 1}}])

    def test_record_of_a_dataset(self):
        item = {"id": "i1", "datasetId": "ds", "input": {"promptText": 1}, "metadata": None,
                "expectedOutput": {"camelKey": [1, {"aB": None}]},
                "createdAt": "2026-03-14T10:30:00.000Z"}
        wire = {"id": "ds", "projectId": "c1", "name": "Cases", "description": None,
                "items": [item], "createdAt": "2026-03-14T10:30:00.000Z", "ownerTeam": "blue"}
        self.server.fault("dataset.getById", status=200, body=answer(wire))
        record = self.assertOk(self.cli("datasets", "get", "ds", "--json"), err="").json
        self.assertEqual(record, {
            "id": "ds", "project_id": "c1", "name": "Cases", "description": None,
            "created_at": "2026-03-14T10:30:00Z", "owner_team": "blue",
            "items": [{"id": "i1", "dataset_id": "ds", "input": {"promptText": 1},
                       "metadata": None, "expected_output": {"camelKey": [1, {"aB": None}]},
                       "created_at": "2026-03-14T10:30:00Z"}]})

    def test_item_count_of_a_dataset(self):
        dataset = self.server.add_dataset(name="Cases")
        for number in range(3):
            self.server.add_item(dataset, {"n": number})
        counts = {record["id"]: record["item_count"] for record in self.records("datasets list")}
        self.assertEqual(counts[dataset], 3)

    def test_record_of_an_evaluator(self):
        record = self.assertOk(self.cli(
            "evaluators", "create", "-n", "Has JSON", "--type", "JSON_SCHEMA",
            "--config", '{"schemaText": {"minItems": 1}}', "--json"), err="").json
        self.assertEqual(record["config"], {"schemaText": {"minItems": 1}})
        self.assertEqual((record["name"], record["type"], record["enabled"]),
                         ("Has JSON", "JSON_SCHEMA", True))

    def test_record_of_usage(self):
        body = answer({"month": "2026-03", "traceCount": 46000, "spanCount": "180000",
                       "evalRunCount": 900, "projectBreakdown": [
                           {"projectId": "c1", "traceCount": 46000, "spanCount": 180000,
                            "evalRunCount": 900}]}, {"spanCount": ["bigint"]})
        self.server.set_plan(self.server.org, "PRO")
        self.server.fault("usage.getCurrentMonth", status=200, body=body)
        record = self.records("usage")
        self.assertEqual(list(record)[:8], ["month", "plan", "traces_used", "traces_limit",
                                            "spans_used", "evals_used", "evals_limit",
                                            "projects"])
        project = record.pop("projects")[0]
        self.assertEqual(record, {"month": "2026-03", "plan": "PRO", "traces_used": 46000,
                                  "traces_limit": 50000, "spans_used": 180000,
                                  "evals_used": 900, "evals_limit": 5000})
        self.assertEqual(project["project_id"], "c1")
        self.assertEqual(project["traces_used"], 46000)

    def test_limits_come_from_the_plan(self):
        limits = {"FREE": (10000, 500), "PRO": (50000, 5000), "GROWTH": (150000, 15000),
                  "TEAM": (500000, 50000), "ENTERPRISE": (None, None)}
        for plan, expected in limits.items():
            with self.subTest(plan=plan):
                self.server.set_plan(self.server.org, plan)
                record = self.records("usage")
                self.assertEqual((record["plan"], record["traces_limit"],
                                  record["evals_limit"]), (plan,) + expected)
                self.assertOk(self.cli("usage"))

    def test_delete_and_revoke(self):
        for command, done in (("evaluators delete", "deleted"), ("datasets delete", "deleted"),
                              ("api-keys revoke", "revoked")):
            argv = self.argv(command)
            record = self.assertOk(self.cli(*argv + ["--json"]), err="").json
            self.assertEqual(record, {"id": argv[2], done: True})

    def test_key_is_shown_once(self):
        created = self.records("api-keys create")
        self.assertRegex(created["key"], r"^\w{16,}$")
        for result in (self.cli("api-keys", "list"), self.cli("api-keys", "list", "--json")):
            self.assertNotIn(created["key"], result.out)

    def test_users_data_is_left_alone(self):
        data = {"camelKey": {"innerKey": [1, 2.5, None, True]}, "snake_key": "ü", "_count": 1,
                "createdAt": "2026-03-14T10:30:00.000Z", "": {"a.b": {}}}
        text = json.dumps(data)
        dataset = self.server.add_dataset(name="Cases")
        item = self.assertOk(self.cli("datasets", "add-item", dataset, "--input", text,
                                      "--expected", text, "--metadata", text, "--json")).json
        got = self.assertOk(self.cli("datasets", "get", dataset, "--json")).json["items"][-1]
        for record in (item, got):
            self.assertEqual([record["input"], record["expected_output"], record["metadata"]],
                             [data, data, data])

    def test_wide_characters_stay_readable(self):
        self.assertEqual(self.records("orgs list")[0]["name"], "Acme 東京")


class TestEmpty(CommandCase):
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

    def test_the_others(self):
        for command, words in LISTS.items():
            if command not in ("orgs list", "projects list"):
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


class TestErrors(CommandCase):
    """Each documented error with each command."""

    def every(self, code, *parts, **fault):
        for command, procedure in PROCEDURES.items():
            for more in ([], ["--json"]):
                with self.subTest(command=command, more=more):
                    self.server.fault(procedure, times=None, **fault)
                    result = self.cli(*self.argv(command) + more)
                    self.server.clear()
                    self.assertFails(result, code, *parts)
                    self.assertEqual(bool(result.error), bool(more), result)
                    if not more:
                        self.assertEqual(len(result.err.splitlines()), 1, result)

    def test_not_found(self):
        self.every(6, "not found", status=404,
                   body=refusal("NOT_FOUND", 404, "Widget not found"))

    def test_forbidden(self):
        self.every(5, "Permission denied", status=403,
                   body=refusal("FORBIDDEN", 403, "Insufficient permissions"))

    def test_rate_limited(self):
        self.every(7, "Rate limited", status=429,
                   body=refusal("TOO_MANY_REQUESTS", 429, "Slow down"))

    def test_server_error(self):
        self.every(8, status=500, body=refusal("INTERNAL_SERVER_ERROR", 500, "Boom"))

    def test_other_refusals(self):
        for name, status in (("CONFLICT", 409), ("UNPROCESSABLE_CONTENT", 422),
                             ("SOMETHING_NEW", 418)):
            self.server.fault("project.create", status=status,
                              body=refusal(name, status, "Name is taken"))
            self.assertFails(self.cli("projects", "create", "x"), 1, "Name is taken")

    def test_both_procedures_missing(self):
        body = refusal("NOT_FOUND", 404, 'No procedure found on path "evaluator.list"')
        self.server.fault("evaluator.list", times=None, status=404, body=body)
        result = self.cli("evaluators", "list")
        self.assertFails(result, 8)
        self.assertNotIn("Check the ID", result.err)

    def test_session_revoked(self):
        for command in PROCEDURES:
            argv = self.argv(command)
            self.log_in()
            self.server.revoke(OWNER)
            for more in ([], ["--json"]):
                with self.subTest(command=command, more=more):
                    self.assertFails(self.cli(*argv + more), 4, "Authentication expired",
                                     "twosignal login")

    def test_not_logged_in(self):
        os.remove(os.path.join(self.home, "session.json"))
        for command in PROCEDURES:
            with self.subTest(command=command):
                self.assertFails(self.cli(*self.argv(command)), 4, "twosignal login")
        self.assertEqual(self.server.requests, [])

    def test_connection_refused(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound, but not listening
            address = "http://127.0.0.1:{}".format(unused.getsockname()[1])
            session = dict(self.state("session.json"), api_url=address)
            self.write("home/session.json", session)
            for command in PROCEDURES:
                with self.subTest(command=command):
                    argv = self.argv(command) + ["--url", address]
                    self.assertFails(self.cli(*argv), 3, "Connection refused", "--url",
                                     "TWOSIGNAL_URL")

    def test_json_error_has_its_four_keys(self):
        result = self.cli("traces", "get", "nope", "--json")
        self.assertFails(result, 6)
        document = json.loads(result.err)
        self.assertEqual(list(document), ["error"])
        self.assertEqual(list(document["error"]), ["code", "message", "hint", "exit_code"])
        self.assertEqual(document["error"]["code"], "NOT_FOUND")
        self.assertEqual(document["error"]["exit_code"], 6)

    def test_missing_resources(self):
        for argv in (["traces", "get", "nope"], ["datasets", "get", "nope"],
                     ["evaluators", "toggle", "nope"], ["evaluators", "toggle", "nope", "--enable"],
                     ["evaluators", "delete", "nope", "-y"], ["datasets", "delete", "nope", "-y"],
                     ["api-keys", "revoke", "nope", "-y"],
                     ["datasets", "add-item", "nope", "--input", "1"]):
            with self.subTest(argv=argv):
                result = self.assertFails(self.cli(*argv), 6, "not found")
                self.assertEqual(len(result.err.splitlines()), 1, result)

    def test_organization_that_is_not_there(self):
        for argv in (["projects", "list"], ["usage"], ["projects", "create", "x"]):
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv, "--org", "nope"), 6, "Organization not found")

    def test_viewer_may_not_change(self):
        argvs = [self.argv(command) for command in PROCEDURES
                 if command.split()[-1] in ("toggle", "delete", "revoke", "add-item")
                 or command in ("projects create", "datasets create", "evaluators create",
                                "api-keys create")]
        self.log_in("viewer@example.com")
        for argv in argvs:
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv), 5, "Permission denied",
                                 "organization admin")

    def zod(self, version):
        values = {"options" if version == 3 else "values": ["CONTAINS", "CUSTOM"]}
        return json.dumps([dict(values, path=["type"], code="invalid", message="Invalid option"),
                           {"path": ["config", "rules", 0], "code": "x", "message": "Too bad"},
                           {"path": [], "code": "x", "message": "Nothing fits"}])

    def test_rejected_input(self):
        for version in (3, 4):
            body = refusal("BAD_REQUEST", 400, self.zod(version))
            self.server.fault("evaluator.create", status=400, body=body)
            result = self.cli(*self.argv("evaluators create"))
            self.assertFails(result, 1)
            first, *problems = result.err.splitlines()
            self.assertTrue(first.startswith("Error: "), result)
            self.assertEqual(len(problems), 3, result)
            for part in ("type", "Invalid option", "CONTAINS", "CUSTOM"):
                self.assertIn(part, problems[0])
            self.assertIn("config.rules", problems[1])
            self.assertIn("Too bad", problems[1])
            self.assertIn("Nothing fits", problems[2])

    def test_rejected_input_as_json(self):
        body = refusal("BAD_REQUEST", 400, self.zod(4))
        self.server.fault("evaluator.create", status=400, body=body)
        result = self.cli(*self.argv("evaluators create") + ["--json"])
        self.assertFails(result, 1, "Invalid option", "Too bad")
        self.assertEqual(result.error["code"], "BAD_REQUEST")
        self.assertEqual(len(result.error["problems"]), 3)

    def test_rejected_input_that_is_no_list(self):
        for message in ("Name is too long", "{", "[1, 2]", "[]", '"x"', "null", ""):
            with self.subTest(message=message):
                self.server.fault("project.create", status=400,
                                  body=refusal("BAD_REQUEST", 400, message))
                self.assertFails(self.cli("projects", "create", "x"), 1)


class TestDialects(CommandCase):
    """Every command against servers that speak differently: the same records come out."""

    dialects = [
        {"names": "old", "errors": 10, "page_key": "items"},
        {"names": "both", "page_key": "items"},
        {"bare_list": True},
        {"batching": False},
        {"names": "old", "errors": 10, "batching": False},
        {"list_scores": True},
        {"counts": "bigint", "costs": "decimal"},
        {"require_project": True},
        {"project_ref": False},
        {"padding": 4000},
    ]

    def shapes(self):
        return {command: self.shape(self.records(command)) for command in PROCEDURES}

    def shape(self, value):
        if isinstance(value, dict):
            return {key: self.shape(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.shape(item) for item in value]
        return type(value).__name__ if not isinstance(value, float) else "int"

    def test_every_command(self):
        self.server.set_plan(self.server.org, "PRO")
        expected = self.shapes()
        for options in self.dialects:
            with self.subTest(**options):
                self.server = self.serve(**options)
                self.log_in()
                self.environment.update(TWOSIGNAL_PROJECT=self.server.project,
                                        TWOSIGNAL_ORG=self.server.org)
                self.assertEqual(self.shapes(), expected)

    def test_errors(self):
        for options in ({"errors": 10, "names": "old"}, {"bare_errors": True},
                        {"bare_errors": True, "errors": 10, "names": "old"}, {"zod": 4}):
            with self.subTest(**options):
                self.server = self.serve(**options)
                self.log_in()
                project = ("--project", self.server.project)
                self.assertFails(self.cli("traces", "get", "nope", *project), 6, "not found")
                self.assertFails(self.cli("traces", "list", "--project", "nope"), 6,
                                 "Project not found")
                self.log_in("viewer@example.com")
                self.assertFails(self.cli("datasets", "create", "-n", "x", *project), 5,
                                 "Permission denied")
                self.server.revoke("viewer@example.com")
                self.assertFails(self.cli("orgs", "list"), 4, "Authentication expired")

    def test_rejections(self):
        for version in (3, 4):
            with self.subTest(zod=version):
                self.server = self.serve(zod=version)
                self.log_in()
                result = self.cli("evaluators", "create", "-n", "x", "--type", "",
                                  "--project", self.server.project)
                self.assertIn(result.code, (1, 2))
                self.assertFails(result, result.code, "type")

    def test_costs_and_counts_are_numbers(self):
        self.server = self.serve(counts="bigint", costs="decimal")
        self.log_in()
        project = self.server.add_project(name="Exact")
        self.server.add_trace(project=project, cost=0.0034, scores=[], spans=[])
        record, = self.assertOk(self.cli("traces", "list", "--project", project, "--json")).json
        self.assertEqual(record["cost_usd"], 0.0034)
        self.assertIs(type(record["span_count"]), int)
        self.assertIs(type(record["total_tokens"] or 0), int)

    def test_a_missing_name_is_asked_for_once(self):
        self.server = self.serve(names="old", errors=10)
        self.log_in()
        self.assertOk(self.cli("traces", "get", self.server.traces[0],
                               "--project", self.server.project))
        self.assertEqual([request.procedures for request in self.server.requests],
                         [["trace.getById"], ["trace.byId"]])


class TestGlobalOptions(CommandCase):
    def positions(self, command, *option):
        """The command line with the option in each of its places."""
        words = len(command.split())
        for place in sorted({0, words - 1, words, len(self.argv(command))}):
            argv = self.argv(command)
            yield argv[:place] + list(option) + argv[place:]

    def test_json(self):
        for command in PROCEDURES:
            for argv in self.positions(command, "--json"):
                with self.subTest(argv=argv):
                    self.assertIsNotNone(self.assertOk(self.cli(*argv), err="").json)

    def test_other_options(self):
        for option in (["--timeout", "30"], ["--timeout=30"], ["-q"], ["--quiet"], ["--no-color"],
                       ["--url", self.server.url], ["--url=" + self.server.url]):
            for command in ("orgs list", "traces get", "usage"):
                for argv in self.positions(command, *option):
                    with self.subTest(argv=argv):
                        self.assertOk(self.cli(*argv), err="")

    def test_help(self):
        for command in ["login", "whoami", "logout"] + list(PROCEDURES):
            words = command.split()
            for place in range(len(words) + 1):
                result = self.assertOk(self.cli(*words[:place] + ["--help"] + words[place:]))
                self.assertIn("usage: twosignal", result.out)
        self.assertEqual(self.server.requests, [])

    def test_debug_shows_requests_and_masks_secrets(self):
        session = self.state("session.json")
        for argv in self.positions("traces list", "--debug"):
            result = self.assertOk(self.cli(*argv + ["--json"]))
            self.assertEqual(len(result.json), 5)
            self.assertIn("trace.list", result.err)
            for secret in (session["access_token"], session["refresh_token"]):
                self.assertNotIn(secret, result.err)
                self.assertNotIn(secret[-12:], result.err)

    def test_the_last_url_wins(self):
        good, bad = self.server.url, "http://127.0.0.1:1"
        self.assertOk(self.cli("--url", bad, "orgs", "--url", bad, "list", "--url", good))
        self.assertOk(self.cli("--url", bad, "orgs", "--url", good, "list"))
        self.assertFails(self.cli("--url", good, "orgs", "--url", good, "list", "--url", bad), 4)
        self.assertFails(self.cli("orgs", "--url", good, "--url", bad, "list"), 4)

    def test_the_last_timeout_wins(self):
        self.assertOk(self.cli("--timeout", "0.0001", "orgs", "list", "--timeout", "60"))
        fault = self.server.fault("organization.list", times=None, delay=True)
        self.addCleanup(fault.release.set)
        result = self.cli("--timeout", "60", "orgs", "--timeout", "50", "list",
                          "--timeout", "0.2")
        self.assertFails(result, 3, "--timeout")

    def test_bad_timeouts(self):
        for value in ("abc", "", "-1", "0", "nan"):
            with self.subTest(value=value):
                self.assertFails(self.cli("orgs", "list", "--timeout", value), 2, "--timeout")
        self.assertEqual(self.server.requests, [])

    def test_addresses_are_completed(self):
        host = self.server.url.split("//")[1]
        for suffix in ("/", "/api", "/api/", "/api/v1", "/api/v1/", "/api/trpc", "/api/trpc/"):
            with self.subTest(suffix=suffix):
                self.assertOk(self.cli("orgs", "list", "--url", self.server.url + suffix))
        port = host.split(":")[1]
        result = self.cli("login", "-e", OWNER, "--password-stdin", "--url",
                          "localhost:" + port, stdin=PASSWORD + "\n")
        self.assertOk(result)
        self.assertEqual(self.state("session.json")["api_url"], "http://localhost:" + port)

    def test_addresses_that_are_none(self):
        for address in ("file:///etc/passwd", "ftp://example.com", "javascript:alert(1)",
                        "data:text/plain,x", "//example.com", "http://", "https://:443",
                        "http:///x",
                        "http://exa mple.com", "http://example.com\r\nX: y", "http://host:abc",
                        "http://host:99999999"):
            for where in (["--url", address], None):
                with self.subTest(address=address, where=where):
                    env = None if where else {"TWOSIGNAL_URL": address}
                    result = self.cli("orgs", "list", *(where or ()), env=env)
                    self.assertFails(result, 2)
        self.assertFails(self.cli("orgs", "list", "--url", ""), 2)
        self.assertEqual(self.server.requests, [])

    def test_quiet_leaves_out_notices(self):
        for number in range(21):
            self.server.add_trace(project=self.server.project, scores=[], spans=[])
        for argv in (["-q", "traces", "list"], ["traces", "-q", "list"],
                     ["traces", "list", "-q"]):
            result = self.assertOk(self.cli(*argv), err="")
            self.assertEqual(len(result.lines), 22)

    def test_version(self):
        for option in ("-V", "--version"):
            result = self.assertOk(self.cli(option), err="")
            self.assertRegex(result.out, r"^twosignal \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+.*\)\n$")


class TestPaging(CommandCase):
    options = {"empty": True}

    def add(self, count, **fields):
        fields = dict({"scores": [], "spans": []}, **fields)
        now = datetime.datetime.now(datetime.timezone.utc)
        ids = [self.server.add_trace(project=self.server.project, name=f"trace {number}",
                                     created=now - datetime.timedelta(minutes=number), **fields)
               for number in range(count)]
        self.server.clear()
        return ids

    def shown(self, *args, err=None):
        result = self.assertOk(self.cli("traces", "list", "--json", *args), err=err)
        return [record["id"] for record in result.json]

    def test_limits(self):
        ids = self.add(260)
        notice = "Showing {} traces; more exist. Use --limit N or --all.\n"
        for args, count, requests in (
                ([], 20, 1), (["-n", "1"], 1, 1), (["-L", "20"], 20, 1),
                (["--limit", "100"], 100, 1), (["--limit", "101"], 101, 2),
                (["--limit", "250"], 250, 3)):
            with self.subTest(args=args):
                self.server.clear()
                self.assertEqual(self.shown(*args, err=notice.format(count)
                                            if count > 1 else None), ids[:count])
                self.assertEqual(self.server.count("trace.list"), requests)
        for args in (["--limit", "260"], ["--limit", "1000"], ["--all"]):
            with self.subTest(args=args):
                self.server.clear()
                self.assertEqual(self.shown(*args, err=""), ids)
                self.assertEqual(self.server.count("trace.list"), 3)
        for given in procedure_inputs(self.server, "trace.list"):
            self.assertLessEqual(given["limit"], 100)

    def test_tables_page_too(self):
        ids = self.add(205)
        result = self.assertOk(self.cli("traces", "list", "--all"), err="")
        self.assertEqual([line.split("  ")[0] for line in result.lines[2:]], ids)

    def test_columns_line_up_over_all_pages(self):
        self.add(101)
        old = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=20)
        self.server.add_trace(project=self.server.project, duration_ms=3720000, cost=1234.5678,
                              created=old, name="trace 101")
        result = self.assertOk(self.cli("traces", "list", "--all", columns=120))
        heading, rule, *rows = result.lines
        self.assertEqual({row.index("trace ") for row in rows}, {heading.index("Name")})

    def test_no_notice_without_more(self):
        self.add(20)
        self.assertEqual(len(self.shown(err="")), 20)

    def test_notice_with_a_table(self):
        self.add(21)
        self.assertOk(self.cli("traces", "list"),
                      err="Showing 20 traces; more exist. Use --limit N or --all.\n")

    def test_bare_list_has_no_more(self):
        self.server = self.serve(empty=True, bare_list=True)
        self.log_in()
        self.environment["TWOSIGNAL_PROJECT"] = self.server.project
        ids = self.add(30)
        self.assertEqual(self.shown("--limit", "100", err=""), ids)

    def test_a_cursor_that_does_not_move_ends(self):
        page = answer({"traces": [wire_trace()], "nextCursor": "same"})
        self.server.fault("trace.list", times=None, status=200, body=page)
        result = self.cli("traces", "list", "--all", "--json")
        self.assertIn(result.code, (0, 8))
        self.assertLess(self.server.count("trace.list"), 10)

    def test_filters_go_to_the_server(self):
        self.add(3)
        self.server.add_trace(project=self.server.project, name="Checkout agent",
                              status="ERROR")
        for status in ("ERROR", "error", "Error"):
            self.assertEqual(len(self.shown("--status", status)), 1)
        self.assertEqual(len(self.shown("--status", "ok")), 3)
        self.assertEqual(len(self.shown("--search", "Checkout")), 1)
        self.assertEqual(len(self.shown("--search", "trace", "--status", "OK")), 3)
        given = procedure_inputs(self.server, "trace.list")
        self.assertEqual([one.get("status") for one in given[:4]],
                         ["ERROR", "ERROR", "ERROR", "OK"])
        self.assertEqual((given[4]["search"], given[4]["name"]), ("Checkout", "Checkout"))
        self.assertFails(self.cli("traces", "list", "--status", "WRONG"), 2, "--status", "OK",
                         "ERROR")

    def test_limits_that_are_none(self):
        for value in ("0", "-1", "abc", "", "1.5", "1e3", "0x10"):
            for option in ("--limit=", "-n"):
                with self.subTest(value=value, option=option):
                    self.assertFails(self.cli("traces", "list", option + value), 2, "--limit")
        self.assertEqual(self.server.requests, [])

    def test_enormous_limit(self):
        ids = self.add(3)
        result = self.cli("traces", "list", "--json", "--limit", str(10 ** 30))
        if result.code:
            self.assertFails(result, 2, "--limit")
        else:
            self.assertEqual([record["id"] for record in result.json], ids)


class TestScores(CommandCase):
    options = {"empty": True}

    def add(self, count, scored=True):
        score = {"evaluatorName": "Tone", "value": 0.9, "label": None, "reasoning": None}
        ids = [self.server.add_trace(project=self.server.project, spans=[],
                                     scores=[score] if scored else [])
               for _ in range(count)]
        return ids

    def records_of(self, *args):
        self.server.clear()
        return self.assertOk(self.cli("traces", "list", "--json", *args), err="").json

    def asked(self):
        return [given["traceId"] for given in procedure_inputs(self.server, "trace.getById")]

    def test_only_counted_scores_are_asked_for_in_batches(self):
        scored, others = self.add(30), self.add(10, scored=False)
        records = self.records_of("--all")
        self.assertEqual({record["id"]: [score["score"] for score in record["scores"]]
                          for record in records},
                         dict({one: [0.9] for one in scored}, **{one: [] for one in others}))
        self.assertEqual(sorted(self.asked()), sorted(scored))
        batches = requests_of(self.server, "trace.getById")
        self.assertLess(len(batches), 8)
        for request in batches:
            self.assertLess(len(self.server.url + request.target), 4000)

    def test_without_batches_each_is_asked_for(self):
        self.server = self.serve(empty=True, batching=False)
        self.log_in()
        self.environment["TWOSIGNAL_PROJECT"] = self.server.project
        ids = self.add(7)
        records = self.records_of()
        self.assertEqual([len(record["scores"]) for record in records], [1] * 7)
        singles = [request for request in requests_of(self.server, "trace.getById")
                   if not request.query.get("batch")]
        self.assertEqual(len(singles), len(ids))

    def test_scores_in_the_list_need_no_question(self):
        self.server = self.serve(empty=True, list_scores=True)
        self.log_in()
        self.environment["TWOSIGNAL_PROJECT"] = self.server.project
        self.add(5)
        self.assertEqual([len(record["scores"]) for record in self.records_of()], [1] * 5)
        self.assertEqual(len(self.server.requests), 1)

    def test_a_table_does_not_ask(self):
        self.add(3)
        self.server.clear()
        self.assertOk(self.cli("traces", "list"))
        self.assertEqual(len(self.server.requests), 1)

    def test_scores_that_cannot_be_had_are_an_error(self):
        self.add(3)
        self.server.clear()
        self.server.fault("trace.getById", times=None, status=500,
                          body=refusal("INTERNAL_SERVER_ERROR", 500, "Boom"))
        self.assertFails(self.cli("traces", "list", "--json"), 8)

    def test_long_ids_stay_below_the_length(self):
        ids = ["t{:03}-{}".format(number, "日本/?" * 30) for number in range(12)]
        score = {"evaluatorName": "Tone", "value": 0.9, "label": None, "reasoning": None}
        for one in ids:
            self.server.add_trace(project=self.server.project, id=one, scores=[score])
        self.assertEqual(sum(len(record["scores"]) for record in self.records_of()), 12)
        for request in requests_of(self.server, "trace.getById"):
            self.assertLess(len(self.server.url + request.target), 4000)


class TestConfirmations(CommandCase):
    commands = {"evaluators delete": ("evaluators", "Delete evaluator"),
                "datasets delete": ("datasets", "Delete dataset"),
                "api-keys revoke": ("api_keys", "Revoke API key")}

    def unconfirmed(self, command):
        return self.argv(command)[:3]

    def state_of(self, table):
        return self.server.rows(table)

    def test_without_a_terminal_nothing_is_asked_or_done(self):
        for command, (table, _) in self.commands.items():
            for more, stdin in (([], None), ([], "y\n"), (["--json"], None)):
                with self.subTest(command=command, more=more, stdin=stdin):
                    argv = self.unconfirmed(command)
                    before = self.state_of(table)
                    self.assertFails(self.cli(*argv + more, stdin=stdin), 2, "--yes")
                    self.assertEqual(self.state_of(table), before)

    def test_yes_in_both_spellings(self):
        for command, (table, _) in self.commands.items():
            for yes in ("-y", "--yes"):
                argv = self.unconfirmed(command)
                before = self.state_of(table)
                self.assertOk(self.cli(*argv, yes), err="")
                self.assertNotEqual(self.state_of(table), before)

    def test_answers_in_a_terminal(self):
        name = 'Has "JSON" 東京'
        for command, (table, words) in self.commands.items():
            for reply, done in (("y\n", True), ("n\n", False), ("\n", False)):
                if (command, reply) in (("datasets delete", "\n"), ("api-keys revoke", "\n")):
                    continue
                with self.subTest(command=command, reply=reply):
                    self.check_answer(command, table, words, name, reply, done)

    def check_answer(self, command, table, words, name, reply, done):
        add = {"evaluators": self.server.add_evaluator, "datasets": self.server.add_dataset,
               "api_keys": self.server.add_key}[table]
        row = add(name=name)
        before = self.state_of(table)
        question = f'{words} "{name}" ({row})? [y/N]'
        output, code = self.run_terminal(*command.split() + [row], script=[(question, reply)],
                                         columns=200)
        self.assertEqual(self.state_of(table) != before, done, output)
        self.assertEqual(code, 0 if done else 1, output)

    def test_control_characters_do_not_reach_the_terminal(self):
        row = self.server.add_evaluator(name="\x1b[31mred\u202e")
        output, code = self.run_terminal("evaluators", "delete", row,
                                         script=[("? [y/N]", "n\n")], columns=200)
        self.assertNotIn("\x1b[31m", output)
        self.assertNotIn("\u202e", output)
        self.assertIn("\\x1b[31mred", output)


class TestJsonArguments(CommandCase):
    def add_item(self, *args, **kwargs):
        dataset = self.server.add_dataset(name="Cases")
        return self.cli("datasets", "add-item", dataset, "--json", *args, **kwargs)

    def test_literal_file_and_stdin(self):
        for value in ({"promptText": "Hi"}, [1, 2], "text", 12.5, True, None, "日本 🚀", []):
            text = json.dumps(value, ensure_ascii=False)
            path = self.write("input.json", text)
            for args, stdin in (([text], None), (["@" + path], None), (["-"], text)):
                with self.subTest(value=value, args=args):
                    record = self.assertOk(self.add_item("--input", *args, stdin=stdin)).json
                    self.assertEqual(record["input"], value)

    def test_every_json_option(self):
        path = self.write("data.json", {"aB": 1})
        record = self.assertOk(self.add_item("--input", "1", "--expected", "@" + path,
                                             "--metadata", "-", stdin='{"cD": 2}')).json
        self.assertEqual((record["expected_output"], record["metadata"]), ({"aB": 1}, {"cD": 2}))
        record = self.assertOk(self.cli("evaluators", "create", "-n", "x", "--type", "CUSTOM",
                                        "--config", "@" + path, "--json")).json
        self.assertEqual(record["config"], {"aB": 1})

    def test_byte_order_mark_is_accepted(self):
        path = self.write("bom.json", b'\xef\xbb\xbf{"a": 1}')
        self.assertEqual(self.assertOk(self.add_item("--input", "@" + path)).json["input"],
                         {"a": 1})

    def test_what_is_not_json(self):
        broken = '{\n  "prompt": tru\n}'
        path = self.write("broken.json", broken)
        self.server.clear()
        for args, stdin in (([broken], None), (["@" + path], None), (["-"], broken)):
            with self.subTest(args=args):
                result = self.assertFails(self.add_item("--input", *args, stdin=stdin), 2,
                                          "--input", "line 2", "column 13")
                self.assertEqual(result.error["exit_code"], 2)
        for text in ("", " ", "{", "{'a': 1}", "NaN", "Infinity", "1 2", "nul", "[" * 100000):
            with self.subTest(text=text[:10]):
                self.assertFails(self.add_item("--input", "-", stdin=text), 2, "--input")
        self.assertEqual(self.server.requests, [])

    def test_files_that_cannot_be_read(self):
        for path in (self.path("missing.json"), self.folder, "", self.path("a\0b")):
            with self.subTest(path=path):
                result = self.add_item("--input", "@" + path)
                self.assertIn(result.code, (1, 2))
                self.assertFails(result, result.code)
        self.assertIn("missing.json", self.add_item("--input", "@missing.json").err)
        self.assertEqual(self.server.requests, [])

    def test_what_is_not_utf8(self):
        for data in ('"é"'.encode("latin-1"), '"\ud800"'.encode("utf-8", "surrogatepass")):
            path = self.write("other.json", data)
            result = self.assertFails(self.add_item("--input", "@" + path), 2, "other.json")
            self.assertRegex(result.err, "(?i)utf-8")
            result = self.assertFails(self.add_item("--input", "-", stdin=data), 2, "stdin")
            self.assertRegex(result.err, "(?i)utf-8")

    def test_stdin_serves_one_option(self):
        result = self.add_item("--input", "-", "--expected", "-", stdin="1")
        self.assertFails(result, 2)
        self.assertEqual(self.server.requests, [])


class TestAwkwardInput(CommandCase):
    def test_ids_arrive_as_they_are(self):
        commands = {"traces get": "trace.getById", "datasets get": "dataset.getById",
                    "evaluators delete": "evaluator.delete", "api-keys revoke": "apiKey.revoke"}
        for command, procedure in commands.items():
            yes = ["-y"] if procedure.split(".")[1] in ("delete", "revoke") else []
            for one in AWKWARD_IDS:
                with self.subTest(command=command, id=one[:20]):
                    self.server.clear()
                    self.assertFails(self.cli(*command.split() + [one] + yes), 6, "not found")
                    request = requests_of(self.server, procedure)[0]
                    self.assertEqual(request.path, "/api/trpc/" + procedure)
                    self.assertEqual(procedure_inputs(self.server, procedure)[0]["id"], one)

    def test_project_and_organization_arrive_as_they_are(self):
        for one in AWKWARD_IDS:
            with self.subTest(id=one[:20]):
                self.server.clear()
                self.assertFails(self.cli("traces", "list", "--project", one), 6)
                self.assertFails(self.cli("projects", "list", "--org", one), 6)
                self.assertEqual(procedure_inputs(self.server, "trace.list")[-1]["projectId"], one)
                self.assertEqual(
                    procedure_inputs(self.server, "project.list")[-1]["organizationId"], one)

    def test_ids_that_begin_with_a_dash(self):
        self.assertFails(self.cli("traces", "get", "--", "-x"), 6)
        self.assertEqual(procedure_inputs(self.server, "trace.getById")[0]["id"], "-x")

    def test_empty_ids_are_a_usage_error(self):
        for argv in (["traces", "get", ""], ["datasets", "delete", "", "-y"],
                     ["traces", "list", "--project", ""], ["traces", "get", "  "]):
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv, env={"TWOSIGNAL_PROJECT": None}), 2)

    def test_empty_names(self):
        for argv in (["orgs", "create", ""], ["projects", "create", ""],
                     ["datasets", "create", "-n", ""], ["api-keys", "create", "-n", ""],
                     ["evaluators", "create", "-n", "", "--type", "CUSTOM"]):
            with self.subTest(argv=argv):
                result = self.cli(*argv)
                self.assertIn(result.code, (1, 2), result)
                self.assertFails(result, result.code, "name")

    def test_names_of_ten_thousand_characters(self):
        name = "名" * 10000
        for argv in (["orgs", "create", name], ["projects", "create", name],
                     ["datasets", "create", "-n", name], ["api-keys", "create", "-n", name],
                     ["evaluators", "create", "-n", name, "--type", "CUSTOM"]):
            with self.subTest(argv=argv[:2]):
                result = self.cli(*argv, "--json")
                if result.code == 0:
                    self.assertEqual(result.json["name"], name)
                else:
                    self.assertFails(result, 1)
        for command in LISTS:
            with self.subTest(command=command):
                self.assertOk(self.cli(*command.split()))

    def test_text_from_the_server_is_made_safe(self):
        hostile = "\x1b[31mred\x07\u202e\x9b\x7f\x00\u2066end\r\nnext"
        for command in ("orgs list", "projects list", "evaluators list", "datasets list",
                        "api-keys list"):
            row = {"id": "i" + hostile, "name": hostile, "type": hostile, "plan": hostile,
                   "role": hostile, "keyPrefix": hostile, "description": hostile,
                   "createdAt": hostile, "config": {hostile: hostile}}
            for more in ([], ["--json"]):
                with self.subTest(command=command, more=more):
                    self.server.fault(PROCEDURES[command], status=200, body=answer([row]))
                    result = self.assertOk(self.cli(*command.split() + more))
                    self.assertNotRegex(result.out, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066]")
                    if more:
                        self.assertEqual(result.json[0]["name"], hostile)
                        self.assertIn("\\u001b[31mred", result.out)
                    else:
                        self.assertEqual(len(result.lines), 3)
                        self.assertIn("\\x1b[31mred", result.out)

    def test_text_in_errors_is_made_safe(self):
        hostile = "\x1b[31mred\u202e\x9b\r\nnext"
        self.server.fault("project.create", status=409, body=refusal("CONFLICT", 409, hostile))
        result = self.assertFails(self.cli("projects", "create", "x"), 1, "\\x1b[31mred")
        self.assertNotRegex(result.err, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
        self.assertEqual(len(result.err.splitlines()), 1, result)

    def test_wrong_types_in_answers(self):
        for value in (None, 1, "x", True, [1], ["x"], [None], [[]], {"traces": 1}, {},
                      {"traces": [1]}, {"traces": None}, {"items": {}}):
            for command in LISTS:
                with self.subTest(value=value, command=command):
                    self.server.fault(PROCEDURES[command], status=200, body=answer(value))
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
                    body = json.dumps(answer({"traces": [row]})).replace("Infinity", "1e400")
                    self.server.fault("trace.list", status=200, body=body.encode(),
                                      headers={"Content-Type": "application/json"})
                    result = self.cli("traces", "list", *more)
                    self.assertIn(result.code, (0, 8), result)
                    self.assertNotIn("Traceback", result.err)
                    if result.code:
                        self.assertFails(result, 8)


class TestUsageErrors(CommandCase):
    def test_mistyped_commands(self):
        for argv in (["trace", "list"], ["traces", "lst"], ["traces", "list", "--jsn"],
                     ["traces", "get"], ["orgs", "create"], ["traces", "list", "extra"],
                     ["evaluators", "toggle"], ["evaluators", "create", "-n", "x"],
                     ["evaluators", "create", "--type", "CUSTOM"], ["api-keys", "create"],
                     ["datasets", "create"], ["datasets", "add-item", "x"], ["--nope"],
                     ["traces", "list", "--limit"], ["evaluators", "toggle", "x", "--enable",
                                                     "--disable"]):
            with self.subTest(argv=argv):
                result = self.assertFails(self.cli(*argv), 2)
                self.assertEqual(len(result.err.splitlines()), 1, result)
                result = self.assertFails(self.cli("--json", *argv), 2)
                self.assertIsNotNone(result.error, result)
        self.assertEqual(self.server.requests, [])

    def test_options_are_not_abbreviated(self):
        self.assertFails(self.cli("traces", "list", "--stat", "OK"), 2, "--stat")

    def test_suggestions(self):
        self.assertFails(self.cli("trace", "list"), 2, "traces")
        self.assertFails(self.cli("traces", "lst"), 2, "list")
        self.assertFails(self.cli("evaluators", "togle", "x"), 2, "evaluators toggle")

    def test_nothing_given_shows_what_there_is(self):
        for argv in ([], ["traces"]):
            result = self.cli(*argv)
            self.assertIn(result.code, (0, 2), result)
            self.assertIn("list" if argv else "traces", result.out + result.err)

    def test_no_project(self):
        for command in PROCEDURES:
            if command.split()[0] in ("orgs", "projects", "usage"):
                continue
            for value in (None, ""):
                with self.subTest(command=command, value=value):
                    result = self.cli(*self.argv(command), env={"TWOSIGNAL_PROJECT": value})
                    self.assertFails(result, 2, "--project", "TWOSIGNAL_PROJECT")
        self.assertEqual(self.server.requests, [])

    def test_no_organization(self):
        for command in ("projects list", "projects create", "usage"):
            for value in (None, ""):
                with self.subTest(command=command, value=value):
                    result = self.cli(*self.argv(command), env={"TWOSIGNAL_ORG": value})
                    self.assertFails(result, 2, "--org", "TWOSIGNAL_ORG")
        self.assertEqual(self.server.requests, [])

    def test_options_win_over_variables(self):
        env = {"TWOSIGNAL_PROJECT": "nope", "TWOSIGNAL_ORG": "nope"}
        self.assertOk(self.cli("traces", "list", "--project", self.server.project, env=env))
        self.assertOk(self.cli("usage", "--org", self.server.org, env=env))

    def test_damaged_state_files(self):
        for name in ("session.json", "config.json"):
            for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"api_url": 5}',
                            b'{"access_token": []}', b"1"):
                with self.subTest(name=name, content=content):
                    self.log_in()
                    self.write("home/" + name, content)
                    result = self.cli("orgs", "list")
                    self.assertNotIn("Traceback", result.err)
                    if result.code:
                        self.assertFails(result, result.code)
                        self.assertIn(result.code, (1, 2, 4))


class TestToggle(CommandCase):
    def enabled(self, evaluator, *args):
        record = self.assertOk(self.cli("evaluators", "toggle", evaluator, "--json", *args)).json
        return record["enabled"]

    def test_toggle(self):
        evaluator = self.server.add_evaluator(name="Toggled")
        self.assertIs(self.enabled(evaluator, "--disable"), False)
        self.assertIs(self.enabled(evaluator, "--disable"), False)
        self.assertIs(self.enabled(evaluator), True)
        self.assertIs(self.enabled(evaluator), False)
        self.assertIs(self.enabled(evaluator, "--enable"), True)

    def test_type_that_this_client_does_not_know_goes_to_the_server(self):
        self.cli("evaluators", "create", "-n", "x", "--type", "FROM_THE_FUTURE")
        given, = procedure_inputs(self.server, "evaluator.create")
        self.assertEqual(given["type"], "FROM_THE_FUTURE")

    def test_description_of_a_dataset(self):
        for option in ("-d", "--description"):
            record = self.assertOk(self.cli("datasets", "create", "-n", "x", option, "What for",
                                            "--json")).json
            self.assertEqual(record["description"], "What for")


class TestLogin(ServerCase):
    def setUp(self):
        super().setUp()
        self.environment["TWOSIGNAL_URL"] = self.server.url

    def assertLoggedIn(self, result):
        self.assertOk(result)
        session = self.state("session.json")
        self.assertEqual(session["user_email"], OWNER)
        self.assertEqual(session["api_url"], self.server.url)
        self.assertIsInstance(session["expires_at"], int)
        for secret in (session["access_token"], session["refresh_token"], PASSWORD):
            self.assertNotIn(secret, result.out + result.err)
        return result

    def test_options(self):
        result = self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD))
        warnings = [line for line in result.err.splitlines() if "-p" in line]
        self.assertEqual(len(warnings), 1, result)
        self.assertIn("visible", warnings[0])
        self.assertIn(OWNER, result.out + result.err)
        long = self.run_cli("login", "--email", OWNER, "--password", PASSWORD)
        self.assertLoggedIn(long)
        self.assertEqual(long.err.count("visible"), 1)

    def test_environment(self):
        env = {"TWOSIGNAL_EMAIL": OWNER, "TWOSIGNAL_PASSWORD": PASSWORD}
        self.assertLoggedIn(self.run_cli("login", env=env))
        self.assertEqual(self.run_cli("login", env=env).err, "")

    def test_options_win_over_the_environment(self):
        env = {"TWOSIGNAL_EMAIL": "nobody@example.com", "TWOSIGNAL_PASSWORD": "wrong"}
        self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD, env=env))

    def test_password_from_stdin(self):
        for stdin in (PASSWORD + "\n", PASSWORD, PASSWORD + "\r\n", PASSWORD + "\nmore\n"):
            with self.subTest(stdin=stdin):
                result = self.run_cli("login", "-e", OWNER, "--password-stdin", stdin=stdin)
                self.assertLoggedIn(result)
                self.assertEqual(result.err, "")

    def test_empty_stdin(self):
        self.assertFails(self.run_cli("login", "-e", OWNER, "--password-stdin", stdin=""), 2,
                         "empty")
        self.assertEqual(self.server.requests, [])

    def test_json(self):
        result = self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "--password-stdin",
                                                  "--json", stdin=PASSWORD + "\n"))
        self.assertEqual(list(result.json), ["email", "user_id", "api_url", "expires_at"])
        self.assertEqual(result.json["email"], OWNER)
        self.assertEqual(result.json["api_url"], self.server.url)

    def test_prompts_in_a_terminal(self):
        output, code = self.run_terminal("login", script=[("mail", OWNER + "\n"),
                                                          ("assword", PASSWORD + "\n")])
        self.assertEqual(code, 0, output)
        self.assertNotIn(PASSWORD, output)
        self.assertEqual(self.state("session.json")["user_email"], OWNER)

    def test_nothing_is_asked_without_a_terminal(self):
        for argv, part in (([], "--email"), (["-e", OWNER], "--password-stdin")):
            for more in ([], ["--json"]):
                with self.subTest(argv=argv, more=more):
                    self.assertFails(self.run_cli("login", *argv + more), 2, part)
        self.assertEqual(self.server.requests, [])

    def test_wrong_password_changes_nothing(self):
        self.assertFails(self.run_cli("login", "-e", OWNER, "-p", "wrong", "-q"), 4)
        self.assertEqual(os.listdir(self.home), [])
        self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD))
        before = self.state("session.json"), self.state("config.json")
        self.assertFails(self.run_cli("login", "-e", OWNER, "-p", "wrong", "--url",
                                      self.server.url + "/api"), 4)
        self.assertEqual((self.state("session.json"), self.state("config.json")), before)

    def test_config_is_written_if_there_is_none_or_url_was_given(self):
        other = "https://other.example.com"
        self.write("home/config.json", {"api_url": other, "future_key": 1})
        self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD))
        self.assertEqual(self.state("config.json"), {"api_url": other, "future_key": 1})
        self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD, "--url",
                                         self.server.url))
        self.assertEqual(self.state("config.json"),
                         {"api_url": self.server.url, "future_key": 1})

    def test_whoami(self):
        self.log_in()
        result = self.assertOk(self.cli("whoami"), err="")
        self.assertIn(OWNER, result.out)
        self.assertIn(self.server.url, result.out)
        self.assertGreater(len(self.server.requests), 0)
        record = self.assertOk(self.cli("whoami", "--json"), err="").json
        self.assertEqual(list(record), ["email", "user_id", "api_url", "expires_at"])
        session = self.state("session.json")
        self.assertEqual((record["email"], record["user_id"]), (OWNER, session["user_id"]))

    def test_whoami_without_a_session_that_holds(self):
        self.assertFails(self.cli("whoami"), 4, "twosignal login")
        self.log_in()
        self.server.revoke(OWNER)
        self.assertFails(self.cli("whoami"), 4, "Authentication expired")

    def test_session_of_another_address(self):
        self.log_in()
        other = self.serve()
        for command in (["whoami"], ["orgs", "list"]):
            self.assertFails(self.cli(*command, "--url", other.url), 4, other.url)
        self.assertEqual(other.requests, [])
        self.assertIsNotNone(self.state("session.json"))

    def test_logout(self):
        session = self.log_in()
        self.assertOk(self.cli("logout"), err=None)
        self.assertIsNone(self.state("session.json"))
        request, = requests_of(self.server, "auth/logout")
        self.assertEqual(request.headers.get("Authorization"),
                         "Bearer " + session["access_token"])
        self.assertFails(self.cli("orgs", "list"), 4)
        self.write("home/session.json", session)
        self.assertFails(self.cli("orgs", "list"), 4)

    def test_logout_as_json(self):
        self.log_in()
        self.assertIsInstance(self.assertOk(self.cli("logout", "--json"), err="").json, dict)

    def test_logout_where_the_server_cannot_be_told(self):
        for fault in ({"status": 500, "body": "oops"}, {"reset": True}, {"garbage": b"<html>"},
                      {"status": 429, "body": ""}):
            with self.subTest(fault=fault):
                self.log_in()
                self.server.fault("auth/logout", times=None, **fault)
                result = self.assertOk(self.cli("logout"))
                self.server.clear()
                self.assertNotEqual(result.err, "")
                self.assertIsNone(self.state("session.json"))

    def test_logout_where_the_server_is_gone(self):
        self.log_in()
        self.server.stop()
        result = self.assertOk(self.cli("logout"))
        self.assertRegex(result.err, r"(?i)server")
        self.assertIsNone(self.state("session.json"))

    def test_logout_of_an_ended_session_is_no_failure(self):
        self.log_in()
        self.server.revoke(OWNER)
        self.assertOk(self.cli("logout"))
        self.assertIsNone(self.state("session.json"))

    def test_logout_without_a_session(self):
        self.assertOk(self.cli("logout"))

    def test_logout_of_a_damaged_session(self):
        self.log_in()
        self.write("home/session.json", b"{")
        self.assertOk(self.cli("logout"))
        self.assertIsNone(self.state("session.json"))

    def test_session_never_lands_in_the_output(self):
        session = self.log_in()
        for argv in (["whoami"], ["whoami", "--json"], ["whoami", "--debug"],
                     ["logout", "--debug"]):
            result = self.assertOk(self.cli(*argv))
            for secret in (session["access_token"], session["refresh_token"]):
                self.assertNotIn(secret, result.out + result.err)


class TestNoServer(Case):
    def test_help_and_version_need_nothing(self):
        for argv in (["--help"], ["-h"], ["--version"], ["traces", "--help"]):
            env = {"TWOSIGNAL_HOME": None, "HOME": None}
            self.assertEqual(self.run_cli(*argv, env=env).code, 0)


if __name__ == "__main__":
    unittest.main()
