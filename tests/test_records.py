"""Section Records: from the wire's objects to the records that users see."""
import copy
import json
import random
import unittest

import tools
import twosignal

OWN = ("input", "output", "metadata", "config", "expectedOutput", "modelParameters", "rules")


def random_json(dice, depth=3):
    kind = dice.randrange(9 if depth else 6)
    if kind > 6:
        return {dice.choice(["aB", "b_c", "totalCost", "_count", "createdAt", "", "x.y"]):
                random_json(dice, depth - 1) for _ in range(dice.randrange(4))}
    if kind == 6:
        return [random_json(dice, depth - 1) for _ in range(dice.randrange(4))]
    return [None, True, dice.random(), dice.randrange(9), "2026-03-14T10:30:00.000Z", "0.5"][kind]


class Names(unittest.TestCase):
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
            self.assertEqual(twosignal.snake(wire), name)

    def test_words_come_back(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(500):
                words = ["".join(dice.choice("abcdez") for _ in range(dice.randrange(2, 6)))
                         for _ in range(dice.randrange(1, 5))]
                camel = words[0] + "".join(word.title() for word in words[1:])
                self.assertEqual(twosignal.snake(camel), "_".join(words))
                self.assertEqual(twosignal.snake("_".join(words)), "_".join(words))

    def test_names_from_a_server_do_not_fill_the_memory(self):
        before = dict(twosignal._names)
        try:
            for number in range(11000):
                self.assertEqual(twosignal.snake("someKey%d" % number), "some_key%d" % number)
            self.assertLess(len(twosignal._names), 10100)
        finally:
            twosignal._names.clear()
            twosignal._names.update(before)


class Rule(unittest.TestCase):
    def test_documented_order_then_the_rest(self):
        wire = {"metadata": {}, "name": "n", "createdAt": "2026-03-14T10:30:00.000Z", "tags": [],
                "totalCost": "0.0034", "durationMs": 800, "status": "OK", "id": "d0"}
        found = twosignal.record(wire, "trace")
        self.assertEqual(list(found), ["id", "status", "duration_ms", "cost_usd", "created_at",
                                       "name", "metadata", "tags"])
        self.assertEqual(found["created_at"], "2026-03-14T10:30:00Z")
        self.assertEqual(found["cost_usd"], 0.0034)

    def test_documented_keys_are_always_there(self):
        self.assertEqual(twosignal.record({}, "trace"), dict.fromkeys(
            ("id", "status", "duration_ms", "cost_usd", "created_at", "name")))
        self.assertEqual(twosignal.record({}, "score"), dict.fromkeys(
            ("evaluator", "score", "label", "reasoning")))
        self.assertEqual(twosignal.record({}), {})

    def test_costs_are_numbers_or_null(self):
        for wire, value in ((0.003, 0.003), ("0.0034", 0.0034), (None, None), ("NaN", None),
                            ("x", None), ([], None), (True, None), (0, 0), ("12", 12)):
            self.assertEqual(twosignal.record({"totalCost": wire}, "trace")["cost_usd"], value)
            self.assertEqual(twosignal.record({"cost": wire}, "span")["cost_usd"], value)

    def test_cost_of_something_else_keeps_its_name(self):
        self.assertEqual(twosignal.record({"cost": "0.1", "value": 3}), {"cost": "0.1", "value": 3})

    def test_scores(self):
        wire = {"id": "f0", "value": 0.25, "evaluatorName": "helpful", "traceId": "d0"}
        self.assertEqual(twosignal.record(wire, "score"), {
            "evaluator": "helpful", "score": 0.25, "label": None, "reasoning": None, "id": "f0",
            "trace_id": "d0"})

    def test_counts_under_both_spellings(self):
        for wire in ({"_count": {"spans": 3}, "spanCount": 7},
                     {"spanCount": 7, "_count": {"spans": 3}}):
            self.assertEqual(twosignal.record(wire), {"span_count": 7, "_count": {"spans": 3}})
        self.assertEqual(twosignal.record({"_count": {"spans": 3}, "spanCount": 3}),
                         {"span_count": 3})

    def test_counts(self):
        wire = {"_count": {"spans": 3, "scores": 2, "items": 1}, "spanCount": None}
        found = twosignal.record(wire)
        self.assertEqual((found["span_count"], found["score_count"], found["item_count"]),
                         (3, 2, 1))
        self.assertNotIn("_count", found)
        self.assertEqual(twosignal.record({"_count": "many"}), {"_count": "many"})
        self.assertEqual(twosignal.record({"spanCount": 7, "scoreCount": 1}),
                         {"span_count": 7, "score_count": 1})

    def test_nested_records(self):
        wire = {"spans": [{"cost": "0.5", "startTime": "2026-03-14T10:30:00.000Z"}],
                "scores": [{"value": 1}]}
        found = twosignal.record(wire, "trace")
        self.assertEqual(found["spans"][0]["cost_usd"], 0.5)
        self.assertEqual(found["spans"][0]["start_time"], "2026-03-14T10:30:00Z")
        self.assertEqual(found["scores"][0]["score"], 1)

    def test_nested_records_are_whole_however_the_server_writes_their_key(self):
        for key in ("spans", "Spans"):
            span = twosignal.record({key: [{"id": 1}]}, "trace")["spans"][0]
            self.assertEqual(span.get("name", "missing"), None, key)

    def test_fields_of_newer_servers_come_through(self):
        wire = {"id": "x", "brandNewField": {"innerKey": [{"deepKey": 1}]}, "other": [1, "a"]}
        self.assertEqual(twosignal.record(wire), {
            "id": "x", "brand_new_field": {"inner_key": [{"deep_key": 1}]}, "other": [1, "a"]})

    def test_own_data_is_left_as_it_is(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(200):
                wire = {key: random_json(dice) for key in OWN}
                kept = copy.deepcopy(wire)
                for kind in ("", "trace", "span", "score"):
                    found = twosignal.record(wire, kind)
                    for key in OWN:
                        self.assertEqual(found[twosignal.snake(key)], kept[key])
                nested = twosignal.record({"spans": [wire], "items": [wire]}, "trace")
                for key in OWN:
                    self.assertEqual(nested["spans"][0][twosignal.snake(key)], kept[key])
                    self.assertEqual(nested["items"][0][twosignal.snake(key)], kept[key])

    def test_nothing_is_dropped(self):
        for wire in ({"created_at": 1, "createdAt": 2}, {"createdAt": 2, "created_at": 1},
                     {"cost_usd": 1, "totalCost": 2}, {"totalCost": 2, "cost_usd": 1}):
            found = twosignal.record(wire, "trace")
            with self.subTest(wire=wire):
                self.assertEqual(sorted(value for value in found.values() if value is not None),
                                 sorted(wire.values()))

    def test_values_of_the_wrong_type_stay(self):
        for value in (None, True, 5, "x", [], [1], ["a", None], 1.5):
            self.assertEqual(twosignal.record(value), value)
            self.assertEqual(twosignal.record({"spans": value})["spans"], value)
            self.assertEqual(twosignal.record({"createdAt": value})["created_at"], value)

    def test_any_json_becomes_a_record_of_the_same_size(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(tools.full(300, 5000)):
                wire = {"k%d" % number: random_json(dice) for number in range(4)}
                kept = json.dumps(wire)
                found = twosignal.record(wire, dice.choice(["", "trace", "span", "score"]))
                self.assertEqual(json.dumps(wire), kept, "the wire object was changed")
                self.assertTrue(set(wire) <= set(found))


class Usage(unittest.TestCase):
    WIRE = {"month": "2026-03", "traceCount": 46000, "spanCount": 180000, "evalRunCount": 900,
            "projectBreakdown": [{"projectId": "c0", "traceCount": 46000, "spanCount": 1,
                                  "evalRunCount": 2}], "newField": 1}

    def test_documented_order_and_limits(self):
        found = twosignal.usage_record(self.WIRE, "PRO")
        self.assertEqual(list(found), ["month", "plan", "traces_used", "traces_limit",
                                       "spans_used", "evals_used", "evals_limit", "projects",
                                       "new_field"])
        self.assertEqual((found["traces_used"], found["traces_limit"]), (46000, 50000))
        self.assertEqual((found["evals_used"], found["evals_limit"]), (900, 5000))
        self.assertEqual(found["projects"], [
            {"traces_used": 46000, "spans_used": 1, "evals_used": 2, "project_id": "c0"}])

    def test_limits_of_every_plan(self):
        """The table of plans, as the protocol has it."""
        for plan, traces, evals in (("FREE", 10000, 500), ("PRO", 50000, 5000),
                                    ("GROWTH", 150000, 15000), ("TEAM", 500000, 50000),
                                    ("ENTERPRISE", None, None), ("NEW", None, None),
                                    (None, None, None)):
            found = twosignal.usage_record(self.WIRE, plan)
            self.assertEqual((found["traces_limit"], found["evals_limit"]), (traces, evals))

    def test_a_plan_of_the_wrong_type_is_an_unknown_plan(self):
        for plan in ([], {}, ["PRO"], 5, True):
            self.assertIsNone(twosignal.usage_record(self.WIRE, plan)["traces_limit"])


if __name__ == "__main__":
    unittest.main()
