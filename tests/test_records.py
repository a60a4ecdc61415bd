"""The section Records: from the wire's objects to the records that users see."""
import copy
import json
import random
import unittest

import twosignal
from tools import LISTS, PROCEDURES, CommandCase, full, trpc_answer, wire_trace


class FieldNames(unittest.TestCase):
    def test_every_field_of_the_protocol(self):
        for wire, name in (
                ("id", "id"), ("durationMs", "duration_ms"), ("createdAt", "created_at"),
                ("organizationId", "organization_id"), ("memberCount", "member_count"),
                ("parentSpanId", "parent_span_id"), ("promptTokens", "prompt_tokens"),
                ("evalRunCount", "eval_run_count"), ("rotatedFromId", "rotated_from_id"),
                ("keyPrefix", "key_prefix"), ("lastUsedAt", "last_used_at"),
                ("expectedOutput", "expected_output"), ("modelParameters", "model_parameters"),
                ("errorMessage", "error_message"), ("userID", "user_id"), ("URLPath", "url_path"),
                ("alreadys_nake", "alreadys_nake"), ("v2Name", "v2_name"), ("", "")):
            self.assertEqual(twosignal.snake_case(wire), name)

    def test_camel_case_words_become_snake_case(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(500):
                words = ["".join(dice.choice("abcdez") for _ in range(dice.randrange(2, 6)))
                         for _ in range(dice.randrange(1, 5))]
                camel = words[0] + "".join(word.title() for word in words[1:])
                self.assertEqual(twosignal.snake_case(camel), "_".join(words))
                self.assertEqual(twosignal.snake_case("_".join(words)), "_".join(words))

    def test_names_from_a_server_do_not_fill_the_cache(self):
        for start in range(0, 30000, 1000):
            wire = {"someKey%d" % number: 1 for number in range(start, start + 1000)}
            self.assertIn("some_key%d" % start, twosignal.to_record(wire, "kind"))
        self.assertLess(twosignal._rule.cache_info().currsize, 10100)
        twosignal._rule.cache_clear()
        self.assertIn("some_key" * 100, twosignal.to_record({"someKey" * 100: 1}, "kind"))
        self.assertEqual(twosignal._rule.cache_info().currsize, 0)


USER_DATA = ("input", "output", "metadata", "config", "expectedOutput", "modelParameters", "rules")


def random_json(dice, depth=3):
    kind = dice.randrange(9 if depth else 6)
    if kind > 6:
        return {dice.choice(["aB", "b_c", "totalCost", "_count", "createdAt", "", "x.y"]):
                random_json(dice, depth - 1) for _ in range(dice.randrange(4))}
    if kind == 6:
        return [random_json(dice, depth - 1) for _ in range(dice.randrange(4))]
    return [None, True, dice.random(), dice.randrange(9), "2026-03-14T10:30:00.000Z", "0.5"][kind]


class RecordRules(unittest.TestCase):
    def test_documented_keys_come_first(self):
        wire = {"metadata": {}, "name": "n", "createdAt": "2026-03-14T10:30:00.000Z", "tags": [],
                "totalCost": "0.0034", "durationMs": 800, "status": "OK", "id": "d0"}
        found = twosignal.to_record(wire, "trace")
        self.assertEqual(list(found), ["id", "status", "duration_ms", "cost_usd", "created_at",
                                       "name", "metadata", "tags"])
        self.assertEqual(found["created_at"], "2026-03-14T10:30:00Z")
        self.assertEqual(found["cost_usd"], 0.0034)

    def test_documented_keys_are_always_present(self):
        self.assertEqual(twosignal.to_record({}, "trace"), dict.fromkeys(
            ("id", "status", "duration_ms", "cost_usd", "created_at", "name")))
        self.assertEqual(twosignal.to_record({}, "score"), dict.fromkeys(
            ("evaluator", "score", "label", "reasoning")))
        self.assertEqual(twosignal.to_record({}), {})

    def test_costs_are_numbers_or_null(self):
        for wire, value in ((0.003, 0.003), ("0.0034", 0.0034), (None, None), ("NaN", None),
                            ("x", None), ([], None), (True, None), (0, 0), ("12", 12)):
            self.assertEqual(twosignal.to_record({"totalCost": wire}, "trace")["cost_usd"], value)
            self.assertEqual(twosignal.to_record({"cost": wire}, "span")["cost_usd"], value)

    def test_cost_of_another_resource_keeps_its_name(self):
        wire = {"cost": "0.1", "value": 3}
        self.assertEqual(twosignal.to_record(wire), wire)

    def test_scores(self):
        wire = {"id": "f0", "value": 0.25, "evaluatorName": "helpful", "traceId": "d0"}
        self.assertEqual(twosignal.to_record(wire, "score"), {
            "evaluator": "helpful", "score": 0.25, "label": None, "reasoning": None, "id": "f0",
            "trace_id": "d0"})

    def test_users_data_stays_however_the_server_spells_its_key(self):
        data = {"aB": {"totalCost": "1"}}
        for key in ("expectedOutput", "expected_output", "Metadata", "INPUT"):
            self.assertEqual(list(twosignal.to_record({key: data}, "item").values()), [data])
        masked = twosignal.to_record({"Config": {"token": "x"}}, "evaluator")
        self.assertEqual(masked, {"config": {"token": "***"}})

    def test_counts_under_both_spellings(self):
        for wire in ({"_count": {"spans": 3}, "spanCount": 7},
                     {"spanCount": 7, "_count": {"spans": 3}}):
            self.assertEqual(twosignal.to_record(wire), {"span_count": 7, "_count": {"spans": 3}})
        self.assertEqual(twosignal.to_record({"_count": {"spans": 3}, "spanCount": 3}),
                         {"span_count": 3})

    def test_counts(self):
        wire = {"_count": {"spans": 3, "scores": 2, "items": 1}, "spanCount": None}
        found = twosignal.to_record(wire)
        self.assertEqual((found["span_count"], found["score_count"], found["item_count"]),
                         (3, 2, 1))
        self.assertNotIn("_count", found)
        self.assertEqual(twosignal.to_record({"_count": "many"}), {"_count": "many"})
        self.assertEqual(twosignal.to_record({"spanCount": 7, "scoreCount": 1}),
                         {"span_count": 7, "score_count": 1})

    def test_nested_records(self):
        wire = {"spans": [{"cost": "0.5", "startTime": "2026-03-14T10:30:00.000Z"}],
                "scores": [{"value": 1}]}
        found = twosignal.to_record(wire, "trace")
        self.assertEqual(found["spans"][0]["cost_usd"], 0.5)
        self.assertEqual(found["spans"][0]["start_time"], "2026-03-14T10:30:00Z")
        self.assertEqual(found["scores"][0]["score"], 1)

    def test_nested_records_have_all_keys_however_the_server_spells_theirs(self):
        for key in ("spans", "Spans"):
            span = twosignal.to_record({key: [{"id": 1}]}, "trace")["spans"][0]
            self.assertEqual(span.get("name", "missing"), None, key)

    def test_fields_of_newer_servers_are_kept(self):
        wire = {"id": "x", "brandNewField": {"innerKey": [{"deepKey": 1}]}, "other": [1, "a"]}
        self.assertEqual(twosignal.to_record(wire), {
            "id": "x", "brand_new_field": {"inner_key": [{"deep_key": 1}]}, "other": [1, "a"]})

    def test_user_data_is_left_as_it_is(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(200):
                wire = {key: random_json(dice) for key in USER_DATA}
                kept = copy.deepcopy(wire)
                for kind in ("", "trace", "span", "score"):
                    found = twosignal.to_record(wire, kind)
                    for key in USER_DATA:
                        self.assertEqual(found[twosignal.snake_case(key)], kept[key])
                nested = twosignal.to_record({"spans": [wire], "items": [wire]}, "trace")
                for key in USER_DATA:
                    self.assertEqual(nested["spans"][0][twosignal.snake_case(key)], kept[key])
                    self.assertEqual(nested["items"][0][twosignal.snake_case(key)], kept[key])

    def test_nothing_is_dropped(self):
        for wire in ({"created_at": 1, "createdAt": 2}, {"createdAt": 2, "created_at": 1},
                     {"cost_usd": 1, "totalCost": 2}, {"totalCost": 2, "cost_usd": 1}):
            found = twosignal.to_record(wire, "trace")
            with self.subTest(wire=wire):
                self.assertEqual(sorted(value for value in found.values() if value is not None),
                                 sorted(wire.values()))

    def test_values_of_the_wrong_type_stay(self):
        for value in (None, True, 5, "x", [], [1], ["a", None], 1.5):
            self.assertEqual(twosignal.to_record(value), value)
            self.assertEqual(twosignal.to_record({"spans": value})["spans"], value)
            self.assertEqual(twosignal.to_record({"createdAt": value})["created_at"], value)

    def test_any_json_becomes_a_record_with_all_its_keys(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(full(300, 5000)):
                wire = {"k%d" % number: random_json(dice) for number in range(4)}
                kept = json.dumps(wire)
                found = twosignal.to_record(wire, dice.choice(["", "trace", "span", "score"]))
                self.assertEqual(json.dumps(wire), kept, "the wire object was changed")
                self.assertTrue(set(wire) <= set(found))


class UsageRecords(unittest.TestCase):
    def test_limits_are_those_of_the_plan(self):
        for limit in (None, 0, -5, "10000"):
            wire = dict(self.WIRE, tracesLimit=limit, evalsLimit=limit, plan={"name": "FREE"})
            found = twosignal.usage_record(wire, "FREE")
            self.assertEqual((found["traces_limit"], found["plan"]), (10000, "FREE"))

    WIRE = {"month": "2026-03", "traceCount": 46000, "spanCount": 180000, "evalRunCount": 900,
            "projectBreakdown": [{"projectId": "c0", "traceCount": 46000, "spanCount": 1,
                                  "evalRunCount": 2}], "newField": 1}

    def test_documented_order_and_limits(self):
        found = twosignal.usage_record(self.WIRE, "PRO")
        self.assertEqual(list(found), ["month", "plan", "traces_used", "traces_limit",
                                       "spans_used", "evals_used", "evals_limit", "projects",
                                       "retention_days", "seats", "requests_per_second",
                                       "new_field"])
        self.assertEqual((found["traces_used"], found["traces_limit"]), (46000, 50000))
        self.assertEqual((found["evals_used"], found["evals_limit"]), (900, 5000))
        self.assertEqual(found["projects"], [
            {"traces_used": 46000, "spans_used": 1, "evals_used": 2, "project_id": "c0"}])

    def test_limits_of_every_plan(self):
        """The same table of plans as the product's pages have."""
        for plan, *limits in (("FREE", 10000, 500, 7, 1, 100), ("PRO", 50000, 5000, 30, 3, 1000),
                              ("GROWTH", 150000, 15000, 60, None, 1000),
                              ("TEAM", 500000, 50000, 90, None, 1000),
                              ("ENTERPRISE", None, None, None, None, 1000),
                              ("NEW",) + (None,) * 5, (None,) * 6):
            found = twosignal.usage_record(self.WIRE, plan)
            self.assertEqual([found[name] for name in ("traces_limit", "evals_limit",
                              "retention_days", "seats", "requests_per_second")], limits)

    def test_limits_that_a_server_tells_of_a_plan_of_its_own(self):
        wire = dict(self.WIRE, seats=12, retentionDays=45, tracesLimit=99)
        for plan, limits in (("CUSTOM", (12, 45, 99)), ("PRO", (3, 30, 50000))):
            found = twosignal.usage_record(wire, plan)
            self.assertEqual((found["seats"], found["retention_days"], found["traces_limit"]),
                             limits)

    def test_a_plan_of_the_wrong_type_is_an_unknown_plan(self):
        for plan in ([], {}, ["PRO"], 5, True):
            self.assertIsNone(twosignal.usage_record(self.WIRE, plan)["traces_limit"])


ISO = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"


class CommandRecords(CommandCase):
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
        self.server.fault("trace.getById", status=200, body=trpc_answer(trace))
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
        self.server.fault("dataset.getById", status=200, body=trpc_answer(wire))
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
            "--config", '{"schema": {}, "schemaText": {"minItems": 1}}', "--json"), err="").json
        self.assertEqual(record["config"], {"schema": {}, "schemaText": {"minItems": 1}})
        self.assertEqual((record["name"], record["type"], record["enabled"]),
                         ("Has JSON", "JSON_SCHEMA", True))

    def test_record_of_usage(self):
        body = trpc_answer({"month": "2026-03", "traceCount": 46000, "spanCount": "180000",
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
                                  "evals_used": 900, "evals_limit": 5000,
                                  "retention_days": 30, "seats": 3, "requests_per_second": 1000,
                                  "seats_used": 4, "organization_id": self.server.org,
                                  "organization_name": "Acme 東京"})
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

    def test_an_api_key_is_shown_once(self):
        created = self.records("api-keys create")
        self.assertRegex(created["key"], r"^\w{16,}$")
        for result in (self.cli("api-keys", "list"), self.cli("api-keys", "list", "--json")):
            self.assertNotIn(created["key"], result.out)

    def test_user_data_survives_the_server(self):
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
