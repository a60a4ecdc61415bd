"""The section Traces: `traces check` and its thresholds."""
import io
import json
import re
import shlex
import sys
import types
from unittest import mock

import twosignal
from tools import (DIALECTS, SCRIPT, TracesCase, fill_four, full, kept_signals, minutes_ago,
                   replaced_environment)


LIMITS = (                  # options, exit code; each threshold at its boundary and just beyond
    ("--max-error-rate 25%", 0), ("--max-error-rate 0.25", 0), ("--max-error-rate 24.9%", 10),
    ("--max-error-rate 0%", 10), ("--max-error-rate 100%", 0), ("--max-error-rate 0.999", 0),
    ("--max-p95 4s", 0), ("--max-p95 4000ms", 0), ("--max-p95 3999ms", 10), ("--max-p95 1m", 0),
    ("--max-cost 0.04", 0), ("--max-cost $0.04", 0), ("--max-cost 0.0399", 10),
    ("--max-total-cost 0.1", 0), ("--max-total-cost 0.099", 10),
    ("--min-count 4", 0), ("--min-count 5", 11),
    ("--max-p95 4s --max-cost 0.04 --max-error-rate 25%", 0),
    ("--max-p95 4s --max-cost 0.03 --max-error-rate 25%", 10),
    ("--status OK --max-error-rate 0", 0), ("--error --max-p95 2s", 0),
    ("--search nowhere --max-p95 8s", 11), ("--limit 1 --max-cost 0.01", 0),
    ("--min-duration 3s --max-p95 3s", 10))
SCORE_LIMITS = (
    ("--min-score 0.5", 0), ("--min-score 0.51", 10), ("--min-score 0", 0), ("--min-score 1", 10),
    ("--min-score faithfulness=0.8", 0), ("--min-score faithfulness=0.81", 10),
    ("--min-score a=b=0.6", 0), ("--min-score a=b=0.61", 10), ("--min-score nobody=0.1", 11),
    ("--min-score 0.5 --min-score faithfulness=0.8", 0),
    ("--min-score 0.5 --min-score faithfulness=0.9", 10),
    ("--min-score faithfulness=0.8 --min-score nobody=0.1", 11))


class Thresholds(TracesCase):
    def test_each_threshold_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            fill_four(self.server)
            for given, code in LIMITS + SCORE_LIMITS:
                with self.subTest(dialect=dialect, given=given):
                    result = self.check("--json", *given.split())
                    self.assertEqual(result.code, code, result)
                    self.assertEqual(result.json["passed"], code == 0)

    def test_each_threshold_with_a_key(self):
        fill_four(self.server)
        key = self.key()
        for given, code in LIMITS:
            with self.subTest(given=given):
                self.assertEqual(self.check(*given.split(), env=key).code, code)
        self.assertEqual(self.server.count("/api/trpc/"), 0)

    def test_scores_that_a_key_cannot_see_are_an_error(self):
        fill_four(self.server)
        for given, _ in SCORE_LIMITS:
            with self.subTest(given=given):
                self.assertFails(self.check(*given.split(), env=self.key()), 4, "scores", "login")

    def test_error_rate_at_its_boundary_as_a_decimal(self):
        self.add(7, status="ERROR")
        self.add(118)
        self.assertEqual(self.check("--max-error-rate", "0.056").code, 0)
        self.assertEqual(self.check("--max-error-rate", "5.6%").code, 0)
        self.assertEqual(self.check("--max-error-rate", "5.5%").code, 10)

    def test_total_cost_at_its_boundary_as_a_decimal(self):
        self.add(3, cost=0.1)
        self.assertEqual(self.check("--max-total-cost", "0.3").code, 0)
        self.assertEqual(self.check("--max-total-cost", "0.29").code, 10)

    def test_p95_is_the_nearest_rank(self):
        self.add(19, duration_ms=1000)
        self.add(1, duration_ms=60000)
        self.assertEqual(self.check("--max-p95", "1s").code, 0)
        self.add(1, duration_ms=60000)
        self.assertEqual(self.check("--max-p95", "1s").code, 10)

    def test_worst_traces_with_their_ids(self):
        fill_four(self.server)
        by_name = {row["name"]: row["id"] for row in self.server.rows("traces")}
        worst = {"--max-error-rate 0": "agent 2", "--min-score 0.6": "agent 1",
                 "--max-cost 0.035": "agent 4", "--max-p95 3s": "agent 4",
                 "--min-score helpfulness=0.6": "agent 1"}
        for given, name in worst.items():
            with self.subTest(given=given):
                found = self.check("--json", *given.split()).json["checks"][0]["worst"]
                self.assertEqual(found[0]["trace_id"], by_name[name])
                self.assertIn(by_name[name], self.check(*given.split()).out)

    def test_table_shows_measured_threshold_and_verdict(self):
        fill_four(self.server)
        result = self.check("--max-error-rate", "2%", "--max-p95", "8s", "--min-score",
                            "nobody=0.5")
        self.assertEqual(result.code, 10, result)
        rows = [re.split(r" {2,}", line.strip()) for line in result.lines]
        self.assertEqual(result.lines[0], "Failed (4 traces checked).")
        self.assertIn(["Check", "Measured", "Threshold", "Verdict", "Traces"], rows)
        self.assertIn(["error rate", "25%", "≤ 2%", "FAILED", "4"], rows)
        self.assertIn(["p95 duration", "4.0s", "≤ 8.0s", "OK", "4"], rows)
        self.assertIn(["lowest score of nobody", "-", "≥ 0.5", "NOTHING TO CHECK", "0"], rows)
        self.assertIn(["count", "4", "≥ 1", "OK", "4"], rows)
        self.assertEqual(result.err, "min-score nobody: measured in 0 of 4 traces\n"
                         "There are scores from: a=b, faithfulness, helpfulness.\n")

    def test_shows_in_how_many_traces_it_was_measured(self):
        self.add(3, duration_ms=None, scores=[])
        self.add(2, cost=None, scores=[{"evaluatorName": "a", "value": 1},
                                       {"evaluatorName": "a", "value": 0.5}])
        result = self.check("--json", "--min-score", "0.5", "--min-score", "b=0", "--max-p95", "8s",
                            "--max-cost", "1", "--max-total-cost", "1", "--max-error-rate", "0")
        found = {check["check"]: check["traces"] for check in result.json["checks"]}
        self.assertEqual(found, {"lowest score": 2, "lowest score of b": 0, "p95 duration": 2,
                                 "highest cost": 3, "total cost": 3, "error rate": 5, "count": 5})

    def test_thresholds_are_the_decimals_that_were_written(self):
        """They are not rounded to a binary fraction."""
        self.add(1, duration_ms=1001, cost=0.1 + 0.2, scores=[
            {"evaluatorName": "a", "value": 0.8 - 1e-16}])
        for given in ("--max-p95 1.001s", "--max-cost 0.3", "--max-total-cost 0.3",
                      "--min-score 0.8", "--max-p95 2s --min-duration 1.0011s --min-count 1",
                      "--max-cost 9 --min-duration 1.001s --max-duration 1.001s"):
            with self.subTest(given=given):
                result = self.check(*given.split())
                self.assertEqual(result.code, 11 if "1.0011s" in given else 0, result)

    def test_fields_do_not_change_the_verdict(self):
        self.add(1, status="ERROR")
        for fields in ("?", "passed", "checks.0.check"):
            self.assertEqual(self.check("--max-error-rate", "0", "--fields", fields).code, 10)

    def test_what_fails_by_a_hair_is_shown_in_full(self):
        self.add(1, duration_ms=8020)
        result = self.check("--max-p95", "8s")
        self.assertEqual(result.code, 10)
        self.assertIn("p95 duration  8.02s     ≤ 8.00s    FAILED   1\n", result.out)

    def test_says_how_many_were_scanned(self):
        self.add(3)
        result = self.check("--max-cost", "1", "--min-duration", "1h")
        self.assertEqual((result.code, result.err), (11, "0 of 3 scanned traces match. Use an "
                         "earlier --since or relax the filters.\n"))

    def test_too_few(self):
        self.add(1)
        result = self.check("--max-cost", "1", "--min-count", "2")
        self.assertEqual(result.code, 11)
        self.assertIn("Not enough data (1 trace checked).\n", result.out)
        self.assertRegex(result.out, r"count +1 +≥ 2 +TOO FEW +1\n")
        self.assertEqual(result.err, "Use an earlier --since or relax the filters.\n")
        self.assertEqual(self.check("--max-cost", "1").lines[0], "Passed (1 trace checked).")

    def test_says_which_scores_there_are(self):
        self.add(1, scores=[{"evaluatorName": "tone", "value": 1}])
        result = self.check("--min-score", "tune=0.5")
        self.assertEqual((result.code, result.err), (
            11, "min-score tune: measured in 0 of 1 trace\nThere are scores from: tone.\n"))
        self.assertEqual(result.lines[0], "Not enough data (1 trace checked).")
        self.use()
        self.add(1)
        self.assertEqual(self.check("--min-score", "0.5").err,
                         "min-score: measured in 0 of 1 trace\n")

    def test_no_traces_never_pass(self):
        for given in LIMITS + SCORE_LIMITS:
            option = given[0]
            with self.subTest(option=option):
                result = self.check("--json", *option.split())
                self.assertEqual(result.code, 11, result)
                self.assertIs(result.json["passed"], False)

    def test_traces_without_values_never_pass(self):
        self.add(3, duration_ms=None, cost=None, status="RUNNING")
        for option in ("--max-p95 8s", "--max-cost 1", "--max-total-cost 1", "--min-score 0"):
            with self.subTest(option=option):
                result = self.check("--json", *option.split())
                self.assertEqual(result.code, 11, result)
                self.assertIsNone(result.json["checks"][0]["measured"])
                self.assertIsNone(result.json["checks"][0]["passed"])

    def test_scores_that_are_not_numbers_never_pass(self):
        for value in (float("nan"), None):
            self.use()
            self.add(scores=[{"evaluatorName": "helpfulness", "value": value}])
            with self.subTest(value=value):
                self.assertEqual(self.check("--min-score", "0.5").code, 11)

    def test_scores_that_cannot_be_fetched_are_an_error(self):
        fill_four(self.server)
        self.server.fault("trace.getById", times=None, status=500)
        self.assertFails(self.check("--min-score", "0.1"), 8)

    def test_failed_check_goes_before_one_without_data(self):
        fill_four(self.server)
        result = self.check("--max-p95", "1s", "--min-score", "nobody=0.5")
        self.assertEqual(result.code, 10)

    def test_bad_input(self):
        for given in ("--min-score =0.5", "--min-score 1.7", "--min-score -0.1", "--min-score good",
                      "--min-score a=",
                      "--min-score NaN", "--max-error-rate 2", "--max-error-rate 101%",
                      "--max-error-rate -1%", "--max-error-rate few", "--max-p95 8",
                      "--max-p95 soon", "--max-p95 -1s", "--max-cost -1", "--max-cost much",
                      "--max-cost NaN", "--max-total-cost Infinity", "--min-count 0",
                      "--min-count -3", "--min-count 1.5", "--min-count many", "", "--since 1h",
                      "--max-cost 1 --since yesterday-ish", "--max-cost 1 --status GOOD",
                      "--max-cost 1 --error --status OK", "--max-cost 1 extra"):
            with self.subTest(given=given):
                self.assertFails(self.check(*given.split()), 2)
        self.assertEqual(self.server.requests, [])

    def test_server_without_pages(self):
        """A full list may not be all traces, and a gate must not pass on a part of them."""
        self.use(bare_list=True)
        self.add(99)
        self.assertEqual(self.check("--json", "--max-cost", "1").json["traces"], 99)
        self.add(1)
        message = ("This server returned 100 traces and has no further pages: more may exist. "
                   "Use narrower --since and --until.")
        for options in ((), ("--min-count", "1"), ("--limit", "101"), ("--min-duration", "1ms"),
                        ("--max-error-rate", "100%")):
            with self.subTest(options=options):
                self.assertFails(self.check("--max-cost", "1", *options), 8, message)
        result = self.check("--max-cost", "1", "--json")
        self.assertEqual((result.code, result.error["code"]), (8, "UNSUPPORTED"))
        for options in (("--limit", "100"), ("--limit", "1"), ("--since", "5850s")):
            with self.subTest(options=options):
                self.assertEqual(self.check("--max-cost", "1", *options).code, 0)

    def test_many_pages(self):
        count = full(230, 2300)
        self.add(count - 1, cost=0.01)
        self.add(1, cost=5, created=minutes_ago(600))
        result = self.check("--json", "--max-cost", "1", "--min-count", str(count))
        self.assertEqual((result.code, result.json["traces"]), (10, count))
        self.assertEqual(self.server.connections, 1)


class ThresholdObjects(TracesCase):
    """Each threshold is one entry of THRESHOLDS, which is all that an option needs."""

    def test_each_has_an_option_with_its_help(self):
        text = self.assertOk(self.run_cli("traces", "check", "--help"), err="").out
        text = " ".join(text.split())
        for threshold in twosignal.THRESHOLDS:
            with self.subTest(threshold=threshold.title):
                self.assertRegex(threshold.option, r"^--(max|min)-[a-z0-9-]+ \S+$")
                self.assertIn(f" {threshold.option} {threshold.help}", text)

    def test_each_is_named_if_none_is_given(self):
        flags = [threshold.option.split()[0] for threshold in twosignal.THRESHOLDS]
        self.assertFails(self.check(), 2, f"No threshold given. Pass one or more of "
                         f"{', '.join(flags)}.")

    def test_each_is_measured_and_reported(self):
        """By its title, with its sign and its limit as its own format writes it."""
        self.add(1, scores=[{"evaluatorName": "tone", "value": 0.5, "label": "pass"}])
        limits = {"--max-error-rate": "1%", "--min-score": "0.25", "--max-p95": "90s",
                  "--max-cost": "2", "--max-total-cost": "3", "--min-average-score": "0.375",
                  "--max-fail-rate": "0.05"}
        shown = {"--max-error-rate": "≤ 1%", "--min-score": "≥ 0.25", "--max-p95": "≤ 1m 30s",
                 "--max-cost": "≤ $2.00", "--max-total-cost": "≤ $3.00",
                 "--min-average-score": "≥ 0.375", "--max-fail-rate": "≤ 5%"}
        for threshold in twosignal.THRESHOLDS:
            flag = threshold.option.split()[0]
            with self.subTest(threshold=threshold.title):
                result = self.check(flag, limits[flag])
                self.assertEqual(result.code, 0, result)
                row = re.split(r" {2,}", result.lines[5])
                self.assertEqual((row[0], row[2]), (threshold.title, shown[flag]))

    def test_direction(self):
        for is_minimum, sign, values in ((True, "≥", (False, True, True)),
                                         (False, "≤", (True, True, False))):
            threshold = twosignal.Metric("x", str, is_minimum=is_minimum)
            self.assertEqual(threshold.is_minimum, sign == "≥")
            self.assertEqual(tuple(threshold.holds(value, 2) for value in (1, 2, 3)), values)

    def test_a_new_entry_gets_an_option(self):
        """With a copy of the module that has one more, made of another one."""
        with open(SCRIPT, encoding="utf-8") as file:
            source = file.read()
        entry = re.search(r'\n    Metric\("total cost".*?parse=\w+\)', source, re.DOTALL).group()
        new = entry.replace("total cost", "sum").replace("--max-total-cost", "--max-sum")
        module = types.ModuleType("twosignal_with_another_threshold")
        with mock.patch.dict(sys.modules, {module.__name__: module}):
            exec(compile(source.replace(entry, entry + "," + new), "copy", "exec"), vars(module))
        self.add(2, cost=0.2)
        for argv, code, text in (
                (("--help",), 0, "  --max-sum USD "), (("--max-sum", "0.4"), 0, "sum"),
                (("--max-sum", "0.3"), 10, "sum    $0.40     ≤ $0.30    FAILED   2")):
            streams = [io.StringIO() for _ in range(3)]
            with self.subTest(argv=argv), replaced_environment(self.environment), kept_signals():
                found = module.main(["traces", "check", "--project", self.server.project, *argv],
                                    module.Console(streams))
                self.assertEqual(found, code, streams[2].getvalue())
                self.assertIn(text, streams[1].getvalue())


NAN = float("nan")
ALL_CHECKS = ("--max-error-rate 0", "--max-p95 8s", "--max-cost 1", "--max-total-cost 1",
              "--min-score 0", "--min-average-score 0", "--max-fail-rate 100%")


class GateCase(TracesCase):
    def score(self, trace, value=0.9, label=None, evaluator="tone", **fields):
        return self.server.add_score(trace, evaluator, value, label, **fields)

    def one(self, *options, place=0):
        """What JSON says about one check."""
        return self.check("--json", *options).json["checks"][place]


class Unknown(GateCase):
    def test_a_check_that_is_measured_in_no_trace_is_exit_11(self):
        """Row 42: a status, duration or cost that is null, NaN, negative or no number."""
        unknown = {
            "status": (("--max-error-rate 0",), (None, "", 5, "RUNNING", [], True)),
            "durationMs": (("--max-p95 8s",), (None, NAN, "NaN", -1500, "-1", "soon", True, {})),
            "totalCost": (("--max-cost 1", "--max-total-cost 1"),
                          (None, NAN, "NaN", -0.5, "free", float("inf"), False))}
        for field, (options, values) in unknown.items():
            for value in values:
                self.use()
                self.add(20, **{field: value})
                for option in options:
                    with self.subTest(option=option, value=value):
                        result = self.check("--json", *option.split())
                        self.assertEqual(result.code, 11, result)
                        check = result.json["checks"][0]
                        self.assertEqual([check[key] for key in ("measured", "traces", "passed")],
                                         [None, 0, None])
                        name = option.split()[0][2:]
                        self.assertIn(name + ": measured in 0 of 20 traces\n", result.err)

    def test_scores_that_are_not_numbers_are_not_measured(self):
        """Row 42: of a score, null, NaN and what is no number; of a label, what is no text."""
        for value in (None, NAN, "NaN", "good", True, {}):
            self.use()
            for trace in self.add(3):
                self.score(trace, value)
            for option in ("--min-score 0", "--min-score tone=0", "--min-average-score 0",
                           "--max-fail-rate 100%"):
                with self.subTest(option=option, value=value):
                    result = self.check("--json", *option.split())
                    self.assertEqual(result.code, 11, result)
                    self.assertEqual(result.json["checks"][0]["traces"], 0)

    def test_fields_that_the_server_leaves_out(self):
        """Row 42: a server that has no such keys at all."""
        page = {"traces": [{"id": "id %d" % place} for place in range(5)], "nextCursor": None}
        self.server.fault("trace.list", times=None, status=200,
                          body=json.dumps({"result": {"data": {"json": page}}}))
        for option in ALL_CHECKS:
            with self.subTest(option=option):
                self.assertEqual(self.check(*option.split()).code, 11)

    def test_says_what_was_measured_in_some_traces_only(self):
        """Row 42: one remark for each check."""
        self.add(2)
        self.add(3, durationMs=-1, totalCost=None, status=None)
        self.score(self.add(1)[0])
        result = self.check("--max-p95", "8s", "--max-cost", "1", "--max-error-rate", "0",
                            "--min-score", "tone=0.5", "--min-score", "0.1")
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.err, (
            "max-error-rate: measured in 3 of 6 traces\n"
            "min-score tone: measured in 1 of 6 traces\n"
            "min-score: measured in 1 of 6 traces\n"
            "max-p95: measured in 3 of 6 traces\n"
            "max-cost: measured in 3 of 6 traces\n"
            "3 traces have no status.\n"))
        self.assertEqual(self.check("--max-p95", "8s", "-q").err, "")
        self.assertEqual(self.check("--max-p95", "8s", "--limit", "1").err, "")

    def test_error_rate_is_that_of_traces_with_a_status(self):
        self.add(1, status="error")
        self.add(3, status="Ok")
        self.add(3, status="TIMEOUT")
        self.add(1, status="Running")
        result = self.check("--max-error-rate", "25%", "--json")
        self.assertEqual((result.code, result.json["checks"][0]["measured"]), (0, 0.25), result)
        self.assertEqual(result.err, "max-error-rate: measured in 4 of 8 traces\n"
                         "1 trace has the status RUNNING.\n3 traces have the status TIMEOUT.\n")
        self.assertEqual(self.check("--max-error-rate", "24%").code, 10)
        self.assertEqual(self.check("--max-p95", "8s").err, "")

    def test_statuses_of_a_hostile_server(self):
        for place in range(50):
            self.server.add_trace(status="x%d\n::error::" % place + "y" * 3000)
        result = self.check("--max-error-rate", "0")
        self.assertEqual((result.code, result.err.count("\n")), (11, 7), result)
        self.assertLess(len(result.err), 1000)

    def test_filters_do_not_match_what_is_not_known(self):
        self.add(1, name="known")
        self.add(1, durationMs=-1500, totalCost=-1)
        for option in ("--min-duration 0ms", "--max-duration 5m", "--min-cost 0"):
            with self.subTest(option=option):
                self.assertEqual(self.names("--all", *option.split()), ["known"])

    def test_minimum_coverage(self):
        self.add(1, totalCost=None)
        self.add(9, cost=0.5)
        for coverage, limit, code in (("90%", 1, 0), ("91%", 1, 11), ("0.9", 1, 0), ("100%", 1, 11),
                                      ("100%", 0.4, 10), ("0%", 1, 0)):
            with self.subTest(coverage=coverage, limit=limit):
                result = self.check("--max-cost", str(limit), "--min-coverage", coverage, "--json")
                self.assertEqual(result.code, code, result)
                self.assertIs(result.json["checks"][0]["passed"], {0: True, 10: False}.get(code))
                self.assertEqual(result.json["checks"][0]["measured"], 0.5)
        result = self.check("--max-cost", "1", "--min-coverage", "91%")
        self.assertEqual(result.lines[0], "Not enough data (10 traces checked).")
        self.assertRegex(result.out, r"highest cost +\$0\.50 +≤ \$1\.00 +TOO FEW +9\n")
        self.assertEqual(result.err, "max-cost: measured in 9 of 10 traces, below --min-coverage "
                                     "91%\n")

    def test_too_few_to_fail_name_no_worst_traces(self):
        """The average passes, though one trace is beyond the limit; there is no verdict."""
        for value in (0.9, 0.5):
            self.score(self.add(1)[0], value)
        self.add(2)
        result = self.check("--min-average-score", "0.6", "--min-coverage", "90%")
        self.assertEqual(result.code, 11, result)
        self.assertNotIn("Worst traces", result.out)
        self.assertNotIn("There are scores from", result.err)


class Scores(GateCase):
    def test_outside_0_to_1_fails(self):
        """Row 42: a score that cannot be fails its check, and is among the worst."""
        for value in (35, -3, "1.5", 1.001, 1.0000000001):
            self.use()
            self.add(1, scores=[{"evaluatorName": "tone", "value": 0.9}])
            trace, = self.add(1, name="odd", scores=[{"evaluatorName": "tone", "value": value}])
            for option in ("--min-score 0.5", "--min-average-score 0.5", "--min-score tone=0",
                           "--min-average-score 0"):
                with self.subTest(value=value, option=option):
                    result = self.check("--json", *option.split())
                    self.assertEqual(result.code, 10, result)
                    worst = result.json["checks"][0]["worst"]
                    self.assertEqual([(each["trace_id"], each["value"]) for each in worst],
                                     [(trace, float(value))])
                    self.assertIn("%s (outside 0 to 1)  odd\n" % value,
                                  self.check(*option.split()).out)

    def test_outside_0_to_1_is_among_the_worst(self):
        """Row 42: before the lowest scores, and so in sight."""
        for value in (0.1, 0.2, 0.3, 35, 0.4, 0.1, 0.2):
            self.score(self.add(1)[0], value)
        found = [each["value"] for each in self.one("--min-score", "0.5")["worst"]]
        self.assertEqual(found, [35, 0.1, 0.1, 0.2, 0.2])

    def test_an_error_of_rounding_is_not_outside(self):
        self.add(1, scores=[{"evaluatorName": "a", "value": 1 + 1e-15},
                            {"evaluatorName": "b", "value": -1e-17}])
        self.assertEqual(self.check("--min-score", "0").code, 0)

    def test_a_single_value_has_no_slack(self):
        self.add(1, cost=1000000.0005, scores=[{"evaluatorName": "a", "value": 0.4999999999}])
        self.assertEqual(self.check("--min-score", "0.5").code, 10)
        self.assertEqual(self.check("--max-cost", "1000000").code, 10)

    def test_a_sum_of_many_is_rounded_once(self):
        self.add(full(300, 3000), cost=0.1)
        limit = str(full(300, 3000) // 10)
        self.assertEqual(self.check("--max-total-cost", limit, "--max-cost", "0.1").code, 0)

    def test_only_the_newest_of_a_trace_a_span_and_an_evaluator_counts(self):
        cases = (               # (span, evaluator, value, created) of each score; the lowest
            ([(None, "a", 0.2, 1), (None, "a", 0.8, 5)], 0.2, 0.8),
            ([(None, "a", 0.8, 5), (None, "a", 0.2, 1)], 0.2, 0.8),
            ([(None, "a", 0.8, 1), (None, "a", 0.2, 5)], 0.8, 0.2),
            ([(None, "a", 0.2, 1), (None, "b", 0.8, 5)], None, 0.2),
            ([("s1", "a", 0.2, 1), ("s2", "a", 0.8, 5)], None, 0.2),
            ([("s1", "a", 0.2, 1), (None, "a", 0.8, 5)], None, 0.2),
            ([("s1", "a", 0.2, 1), ("s1", "a", 0.8, 5)], 0.2, 0.8),
            ([(None, "a", 0.2, 5), (None, "a", 0.8, 5)], None, 0.2),        # equal times
            ([(None, "a", 0.2, None), (None, "a", 0.8, 5)], None, 0.2),     # an unknown time
            ([(None, "a", 0.1, 1), (None, "a", 0.2, None), (None, "a", 0.8, 5)], 0.1, 0.2),
            ([(None, "a", 0.2, 0), (None, "a", 0.8, None)], None, 0.2),     # the year 1970
            ([(None, "a", 0.2, 1), (None, "a", None, 5)], 0.2, None))
        for scores, replaced, lowest in cases:
            records = [{"spanId": span, "evaluatorName": evaluator, "value": value,
                        "createdAt": None if created is None else twosignal.wire_timestamp(created)}
                       for span, evaluator, value, created in scores]
            with self.subTest(scores=scores):
                stats = twosignal.TraceStats()
                stats.add(twosignal.to_record({"id": "x", "scores": records}, "trace"))
                counted = [value for _, _, value, _ in scores if value not in (replaced, None)]
                self.assertEqual(sorted(stats.measured["scores"][None].values), sorted(counted))
                self.assertEqual(min(counted, default=None), lowest)

    def test_an_older_score_of_an_evaluator_does_not_count(self):
        trace, = self.add(1)
        self.score(trace, 0.2, created=minutes_ago(9))
        self.score(trace, 0.8, created=minutes_ago(5))
        self.assertEqual(self.one("--min-score", "0.5")["measured"], 0.8)

    def test_average(self):
        for place, values in enumerate(((0.9, 0.5), (0.7,), (), (0.9,))):
            trace, = self.add(1, name="agent %d" % place)
            for number, value in enumerate(values):
                self.score(trace, value, evaluator="ab"[number])
        for option, measured, code in (
                ("0.75", 0.75, 0), ("0.751", 0.75, 10), ("a=0.8", 2.5 / 3, 0), ("b=0.6", 0.5, 10),
                ("nobody=0", None, 11)):
            with self.subTest(option=option):
                result = self.check("--json", "--min-average-score", option)
                self.assertEqual(result.code, code, result)
                check = result.json["checks"][0]
                self.assertAlmostEqual(check["measured"], measured, 14, check)
        worst = self.one("--min-average-score", "0.8")["worst"]
        self.assertEqual([(each["name"], each["value"]) for each in worst],
                         [("agent 0", 0.5), ("agent 1", 0.7)])

    def test_fail_is_a_label_not_a_low_number(self):
        labels = ("pass", "fail", " FAIL ", None, "", "  ", "warn", "failed", 7)
        for place, label in enumerate(labels):
            self.score(self.add(1, name="agent %d" % place)[0], 0.95, label)
        result = self.check("--json", "--max-fail-rate", "39.9%")
        check = result.json["checks"][0]
        self.assertEqual((result.code, check["measured"], check["traces"]), (10, 0.4, 5), result)
        self.assertEqual(check["limit"], 0.399)
        self.assertEqual({each["name"] for each in check["worst"]}, {"agent 1", "agent 2"})
        self.assertEqual(self.check("--max-fail-rate", "tone=40%").code, 0)
        self.assertEqual(self.check("--max-fail-rate", "nobody=40%").code, 11)
        self.assertEqual(self.check("--max-fail-rate", "40%", "--max-fail-rate", "tone=0").code, 10)

    def test_says_where_all_scores_lack_what_is_checked(self):
        trace, = self.add(1)
        self.score(trace, None, "pass", "tone")
        self.score(trace, 0.9, None, "depth")
        result = self.check("--max-fail-rate", "depth=1%", "--min-score", "tone=0.5")
        self.assertEqual(result.code, 11, result)
        self.assertIn("min-score tone: measured in 0 of 1 trace\n", result.err)
        self.assertIn("max-fail-rate depth: measured in 0 of 1 trace\n", result.err)
        self.assertIn("There are scores from: depth, tone.\n", result.err)

    def test_a_trace_fails_once_however_many_labels(self):
        trace, other = self.add(2)
        for evaluator in "abc":
            self.score(trace, 0.9, "fail", evaluator)
            self.score(other, 0.9, "pass", evaluator)
        self.assertEqual(self.one("--max-fail-rate", "50%")["measured"], 0.5)

    def test_a_newer_label_replaces_the_older_one(self):
        trace, = self.add(1)
        self.score(trace, 0.9, "fail", created=minutes_ago(9))
        self.score(trace, 0.9, "pass", created=minutes_ago(5))
        result = self.check("--max-fail-rate", "0", "--min-score", "0.5")
        self.assertEqual((result.code, result.err), (0, ""), result)

    def test_says_that_failed_scores_are_not_looked_at(self):
        for trace in self.add(3):
            self.score(trace, 0.9, "fail")
        remark = "labelled fail, but no check looks at labels. Use --max-fail-rate.\n"
        self.assertEqual(self.check("--min-score", "0.5").err, "Found 3 scores " + remark)
        self.assertEqual(self.check("--min-score", "0.5", "--limit", "1").err,
                         "Found 1 score " + remark)
        self.assertEqual(self.check("--min-score", "0.5", "--max-fail-rate", "tone=100%").err, "")
        compared = ("--min-score", "0.5", "--tag", "v2", "--baseline-tag", "v1")
        trace = self.server.add_trace(tags=["v2"])
        self.score(trace, 0.9, "fail")
        self.assertIn("Found 1 score " + remark, self.check(*compared).err)     # without a verdict
        self.assertNotIn(remark, self.check(*compared, "--max-regression", "10%").err)

    def test_evaluator_restricts_the_checks_of_scores(self):
        trace, = self.add(1, duration_ms=1000)
        for evaluator, value, label in (("a", 0.2, "fail"), ("b", 0.6, "pass"), ("c", 0.8, "pass")):
            self.score(trace, value, label, evaluator)
        for options, measured in (("--min-score 0", 0.2), ("--min-score 0 --evaluator b", 0.6),
                                  ("--min-score 0 --evaluator c --evaluator b", 0.6),
                                  ("--min-average-score 0 --evaluator c --evaluator b", 0.7),
                                  ("--max-fail-rate 100%", 1), ("--max-p95 8s --evaluator b "
                                  "--min-score b=0", 0.6), ("--max-fail-rate 0 --evaluator b", 0),
                                  ("--min-score 0 --evaluator nobody", None)):
            with self.subTest(options=options):
                check = self.one(*options.split())
                self.assertEqual(check["measured"], measured and round(measured, 12))

    def test_evaluator_that_has_no_scores_is_told(self):
        self.score(self.add(1)[0])
        result = self.check("--min-score", "0", "--evaluator", "tone", "--evaluator", "tune")
        self.assertEqual((result.code, result.err), (0, "There are scores from: tone.\n"))
        result = self.check("--min-score", "0", "--evaluator", "tune")
        self.assertEqual((result.code, result.err), (
            11, "min-score: measured in 0 of 1 trace\nThere are scores from: tone.\n"))

    def test_chosen_by_their_scores(self):
        for place, (value, other) in enumerate(((0.2, 0.9), (0.7, 0.9))):
            trace, = self.add(1, name="trace %d" % place)
            self.score(trace, value, None, "a")
            self.score(trace, other, None, "b")
        for options, code in (("--min-score a=0.1 --max-score a=0.5", 0),
                              ("--min-score b=0.8 --max-score a=0.5", 0),
                              ("--min-score a=0.5 --max-score b=0.9", 10),
                              ("--min-score b=0.8 --max-score 0.5", 0),
                              ("--min-score 0.8 --evaluator b --max-score 0.5", 0)):
            with self.subTest(options=options):
                self.assertEqual(self.check(*options.split()).code, code)

    def test_options_that_make_no_gate(self):
        for options, words in (
                ("--min-score 0.8 --max-score 0.5", "--min-score is above --max-score"),
                ("--min-score a=0.8 --max-score a=0.5", "--min-score is above --max-score"),
                ("--min-score 0.8 --max-score a=0.5", "--min-score is above --max-score"),
                ("--evaluator a --max-cost 1", "--evaluator requires"),
                ("--evaluator a --min-score b=0.5", "--evaluator leaves out 'b'"),
                ("--evaluator a --max-fail-rate b=5%", "--evaluator b."),
                ("--evaluator a --min-score a=0.5 --min-average-score b=0.5", "leaves out 'b'"),
                ("--min-coverage 90%", "No threshold given"),
                ("--min-count 3 --min-coverage 90%", "No threshold given"),
                ("--limit 10 --min-count 20", "--limit is below --min-count"),
                ("--max-error-rate 1", "say 1% or 100%"), ("--max-error-rate 5", "say 5%."),
                ("--max-error-rate 1.0", "say 1.0% or 100%"), ("--max-fail-rate a=1.5", "say 1.5%"),
                ("--max-error-rate 100", "say 100%."),
                ("--max-cost 1 --min-coverage 90", "say 90%"),
                ("--max-error-rate 101", "must be a share such as 2% or 0.02"),
                ("--max-fail-rate =5%", "must name an evaluator"), ("--max-fail-rate a=", "share"),
                ("--min-average-score 1.2", "from 0 to 1"), ("--max-error-rate 2%%", "share")):
            with self.subTest(options=options):
                self.assertFails(self.check(*options.split()), 2, words)
        self.assertEqual(self.server.requests, [])

    def test_two_thresholds_of_one_kind_stay_two_checks(self):
        self.score(self.add(1)[0], 0.7)
        checks = self.check("--json", "--min-score", "0.5", "--min-score", "0.8").json["checks"]
        self.assertEqual([(check["limit"], check["passed"]) for check in checks[:2]],
                         [(0.5, True), (0.8, False)])


class WorstTraces(GateCase):
    def worst(self, *options):
        return [each["name"] for each in self.one(*options)["worst"]]

    def failing(self, name, message="boom", **fields):
        """A trace whose only failed span has this message."""
        return self.add(1, name=name, spans=[{"status": "ERROR", "errorMessage": message}],
                        **fields)[0]

    def test_only_those_beyond_the_threshold_themselves(self):
        for place, milliseconds in enumerate([9000] + [10] * 9):
            trace, = self.add(1, name="agent %d" % place, duration_ms=milliseconds,
                              cost=milliseconds / 10000, status="ERROR" if place == 0 else "OK")
            self.score(trace, 0.2 if place == 0 else 0.9, "fail" if place == 0 else "pass")
        for option in ("--max-p95 8s", "--max-cost 0.5", "--max-total-cost 0.5", "--min-score 0.5",
                       "--min-average-score 0.85", "--max-error-rate 5%", "--max-fail-rate 5%"):
            with self.subTest(option=option):
                self.assertEqual(self.worst(*option.split()), ["agent 0"])
        self.assertEqual(self.worst("--max-total-cost", "0.905"), [])
        self.assertEqual(self.worst("--max-p95", "9s"), [])

    def test_each_trace_is_named_once_with_its_worst_value(self):
        trace, = self.add(1)
        for place in range(9):
            self.score(trace, place / 10, spanId="span %d" % place)
        self.assertEqual([each["value"] for each in self.one("--min-score", "0.95")["worst"]], [0])
        self.assertEqual(self.one("--min-score", "0.95")["traces"], 1)

    def test_text_of_a_hostile_server_is_bounded(self):
        self.failing("x" * 5000, "y" * 5000, duration_ms=9000)
        self.assertLess(len(self.check("--max-p95", "8s").out), 2000)

    def test_at_most_five_the_worst_first(self):
        for seconds in (3, 9, 1, 7, 5, 8, 6, 4, 2):
            self.add(1, name="%d s" % seconds, duration_ms=1000 * seconds)
        self.assertEqual(self.worst("--max-p95", "2s"), ["9 s", "8 s", "7 s", "6 s", "5 s"])

    def test_each_has_name_value_message_and_command(self):
        trace = self.failing("checkout-agent", "Connection\nreset by peer", duration_ms=9000)
        worst, = self.one("--max-p95", "8s")["worst"]
        command = "twosignal traces get %s --project %s" % (trace, self.server.project)
        self.assertEqual(list(worst.items()), [
            ("trace_id", trace), ("name", "checkout-agent"), ("value", 9000),
            ("error_message", "Connection\nreset by peer"), ("command", command)])
        result = self.check("--max-p95", "8s")
        self.assertTrue(result.out.endswith(
            "\nWorst traces: p95 duration ≤ 8.0s\n9.0s  checkout-agent: Connection\\x0areset by "
            "peer\n  %s\n" % command), result)

    def test_the_command_runs(self):
        trace = self.failing("agent", duration_ms=9000)
        url = self.server.url
        worst, = self.one("--max-p95", "8s", "--url", url)["worst"]
        self.assertTrue(worst["command"].endswith(" --url " + url), worst)
        result = self.run_cli(*shlex.split(worst["command"])[1:])
        self.assertIn(trace, self.assertOk(result).out)

    def test_the_command_has_the_id_of_the_project(self):
        """A name may mean another project without TWOSIGNAL_ORG."""
        project = self.server.add_project("my shop's agents")
        self.server.add_trace(project, duration_ms=9000)
        result = self.cli("traces", "check", "--max-p95", "8s", "--json",
                          env={"TWOSIGNAL_PROJECT": "my shop's agents"})
        command = result.json["checks"][0]["worst"][0]["command"]
        self.assertEqual(shlex.split(command)[4:], ["--project", project])

    def test_with_a_key_there_are_commands_but_no_messages(self):
        self.failing("agent", duration_ms=9000)
        result = self.check("--max-p95", "8s", "--json", env=self.key())
        worst, = result.json["checks"][0]["worst"]
        self.assertIsNone(worst["error_message"])
        self.assertIn("--project " + self.server.project, worst["command"])
        self.assertEqual(self.server.count("/api/trpc/"), 0)

    def test_ids_of_a_hostile_server_are_no_options(self):
        for name in ("--output=x", "-h", "a b; rm -rf $HOME", "x\x1b[31m", "it's"):
            self.server.add_trace(id=name, duration_ms=9000)
        for worst in self.one("--max-p95", "8s")["worst"]:
            words = shlex.split(worst["command"])
            line = twosignal.CommandLine(words[1:])
            self.assertEqual((line.operands, [flag for flag, _ in line.options], line.error),
                             ([worst["trace_id"]], ["--project"], None))

    def test_projects_of_a_hostile_server_do_not_break_the_line(self):
        self.server.add_trace(projectId="x\n::error::y\x1b[31m", duration_ms=9000)
        result = self.check("--max-p95", "8s", env=self.key())
        self.assertRegex(result.lines[-1], r"^  twosignal traces get .* 'x\\x0a::error")
        self.assertNotIn("\x1b", result.out)

    def test_the_message_is_that_of_the_first_failed_span(self):
        spans = [{"status": status, "errorMessage": message,
                  "startTime": twosignal.wire_timestamp(seconds)} for status, message, seconds in (
            ("ERROR", "late", 90), ("OK", "recovered", 10), ("ERROR", None, 20),
            ("ERROR", "  ", 30), ("error", "early", 40), ("ERROR", "later", 50))]
        self.add(1, duration_ms=9000, spans=spans)
        self.assertEqual(self.one("--max-p95", "8s")["worst"][0]["error_message"], "early")

    def test_messages_are_asked_for_once_and_in_one_request(self):
        """Of at most five traces: the worst of each check come first."""
        for place in range(9):
            self.failing("agent %d" % place, "boom %d" % place, duration_ms=9000 - place,
                         cost=place, status="ERROR")
        self.server.requests.clear()
        result = self.check("--json", "--max-p95", "8s", "--max-cost", "1", "--max-error-rate", "0")
        asked = [request.path for request in self.server.requests
                 if "trace.getById" in request.path]
        self.assertEqual(len(asked), 1)
        self.assertEqual(asked[0].count("trace.getById"), 5)
        worst = [each for check in result.json["checks"] for each in check["worst"]]
        self.assertEqual(len(worst), 15)
        told = {each["name"]: each["error_message"] for each in worst if each["error_message"]}
        self.assertEqual(len(told), 5)
        self.assertTrue({"agent 0", "agent 8"} <= set(told), told)
        for name, message in told.items():
            self.assertEqual(message, name.replace("agent", "boom"))

    def test_nothing_is_asked_for_if_no_check_failed(self):
        self.failing("agent", duration_ms=9000)
        for options in ("--max-p95 9s", "--max-p95 9s --min-count 9", "--max-total-cost 1"):
            self.assertNotEqual(self.check(*options.split()).code, 10)
        self.assertEqual(self.server.count("trace.getById"), 0)

    def test_the_verdict_stands_if_messages_cannot_be_read(self):
        self.failing("agent 1", duration_ms=9000)
        for fault in ({"status": 500}, {"status": 403}, {"status": 404}, {"reset": True},
                      {"body": "<html>"}, {"body": '{"result": {"data": {"json": {"spans": 7}}}}'},
                      {"body": '{"result": {"data": {"json": {"spans": [7, {"status": []}]}}}}'}):
            with self.subTest(fault=fault):
                self.server.fault("trace.getById", times=None, **fault)
                result = self.check("--max-p95", "8s", "--json")
                self.assertEqual((result.code, result.err), (10, ""), result)
                self.assertEqual({each["error_message"]
                                  for each in result.json["checks"][0]["worst"]}, {None})
                self.server.faults.clear()
                self.failing("agent 2", duration_ms=9000)       # from now on, they are a batch


class Digits(GateCase):
    """What fails is shown with enough digits to differ from its limit, in the same unit."""

    def assertShows(self, option, measured, limit, worst):
        result = self.check(*option.split())
        self.assertEqual(result.code, 10, result)
        row = re.split(r" {2,}", result.lines[5])
        self.assertEqual((row[1], row[2][2:]), (measured, limit))
        self.assertEqual(result.lines[9], worst + "  agent")

    def test_durations(self):
        for milliseconds, option, measured, limit in (
                (8004, "8s", "8.004s", "8.000s"), (8040, "8s", "8.04s", "8.00s"),
                (60400, "1m", "1m 00.4s", "1m 00.0s"), (104, "100ms", "0.104s", "0.100s"),
                (5.3, "5ms", "5.3ms", "5.0ms"), (9000, "8s", "9.0s", "8.0s"),
                (3720400, "62m", "1h 02m 00.4s", "1h 02m 00.0s"),
                (3605000, "1h", "1h 00m 05s", "1h 00m 00s")):
            self.use()
            self.add(1, name="agent", durationMs=milliseconds)
            with self.subTest(milliseconds=milliseconds):
                self.assertShows("--max-p95 " + option, measured, limit, measured)

    def test_costs(self):
        for cost, option, measured, limit in (
                (0.05001, "0.05", "$0.05001", "$0.05"), (12.504, "12.5", "$12.504", "$12.50"),
                (1000.0001, "1000", "$1000.0001", "$1000.00")):
            self.use()
            self.add(1, name="agent", cost=cost)
            for flag in ("--max-cost ", "--max-total-cost "):
                with self.subTest(cost=cost, flag=flag):
                    self.assertShows(flag + option, measured, limit, measured)

    def test_scores(self):
        self.add(1, name="agent", scores=[{"evaluatorName": "a", "value": 0.79996}])
        self.assertShows("--min-score 0.8", "0.79996", "0.8", "0.79996")
        self.assertShows("--min-average-score 0.8", "0.79996", "0.8", "0.79996")

    def test_limits_as_they_were_given(self):
        """So that two of a kind have two names, whatever is measured."""
        self.add(1, cost=0.01, duration_ms=0, scores=[{"evaluatorName": "a", "value": 1}])
        for option, limit in (
                ("--max-p95 8.04s", "≤ 8.04s"), ("--max-p95 61.2s", "≤ 1m 01.2s"),
                ("--max-p95 50ms", "≤ 50ms"), ("--max-p95 0.4ms", "≤ 0.4ms"),
                ("--max-p95 61s", "≤ 1m 01s"), ("--max-cost 0.05004", "≤ $0.05004"),
                ("--max-cost 1000000.05", "≤ $1000000.05"), ("--min-score 0.50001", "≥ 0.50001"),
                ("--max-fail-rate 33.33333%", "≤ 33.33333%"), ("--max-error-rate 7%", "≤ 7%")):
            with self.subTest(option=option):
                self.assertIn(limit + "  ", self.check(*option.split()).out)

    def test_zero_has_no_sign(self):
        self.add(1, duration_ms=-0.0)
        self.assertIn("  0ms  ", self.check("--max-p95", "1s").out)

    def test_shares(self):
        threshold = twosignal.THRESHOLDS[0]
        for value, limit, measured in ((0.02004, 0.02, "2.004%"), (0.0200004, 0.02, "2.00004%"),
                                       (0.90002, 0.9, "90.002%")):
            row = twosignal.CheckResult(threshold, limit, value, False).row()
            self.assertEqual((row["measured"], row["threshold"]),
                             (measured, "≤ %g%%" % (100 * limit)))

    def test_what_passes_is_short(self):
        self.add(1, duration_ms=7996)
        self.assertRegex(self.check("--max-p95", "8s").out, r"p95 duration +8\.0s +≤ 8\.0s +OK")

    def test_the_worst_differ_from_the_limit_too(self):
        self.add(1, name="slow", duration_ms=60000)
        self.add(1, name="agent", duration_ms=8001)
        self.assertIn("\n8.001s  agent\n", self.check("--max-p95", "8s").out)

    def test_values_have_units_in_text_and_none_in_json(self):
        self.add(1, duration_ms=8004)
        check = self.one("--max-p95", "8s")
        self.assertEqual((check["limit"], check["measured"], check["worst"][0]["value"]),
                         (8000, 8004, 8004))
