"""The section Traces: `traces stats`, its groups, and baselines."""
import csv
import io
import json
import random
import re
import xml.etree.ElementTree
from unittest import mock

import twosignal
from tools import DIALECTS, TracesCase, fill_four, minutes_ago, procedure_inputs

FLAT = (int, float, str, type(None))
DAY = 24 * 60       # minutes


class StatsCase(TracesCase):
    def stats(self, *args, **kwargs):
        return self.traces("stats", *args, **kwargs)

    def rows(self, *args, **kwargs):
        return self.assertOk(self.stats("--json", *args, **kwargs)).json

    def row(self, *args, **kwargs):
        found, = self.rows(*args, **kwargs)
        return found

    def groups(self, *args, **kwargs):
        """{group: count}, in the order of the rows."""
        return {row["group"]: row["count"] for row in self.rows(*args, **kwargs)}

    def save(self, name="baseline.json", *args):
        path = self.path(name)
        self.assertOk(self.stats(*args, "--json", "-o", path))
        return path

    def add_failed(self, message, *, count=1, models=(), **fields):
        """Adds failed traces whose last span has this error message."""
        spans = [{"name": "call", "model": model, "durationMs": 100, "cost": 0.01,
                  "totalTokens": 5} for model in models]
        return self.add(count, status="ERROR", spans=spans + [
            {"name": "tool", "status": "ERROR", "errorMessage": message}], **fields)


class Measured(StatsCase):
    def test_values_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            fill_four(self.server)
            with self.subTest(dialect=dialect):
                row = self.row()
                expected = {
                    "group": "all", "count": 4, "error_rate": 0.25, "p50_ms": 2000, "p95_ms": 4000,
                    "p99_ms": 4000, "average_duration_ms": 2500, "total_cost_usd": 0.1,
                    "average_cost_usd": 0.025, "highest_cost_usd": 0.04, "total_tokens": 0,
                    "lowest_score": 0.5, "average_score": 0.75, "fail_rate": None,
                    "average_score.faithfulness": 0.9, "lowest_score.faithfulness": 0.8,
                    "average_score.a=b": 0.6, "error_message": None}
                self.assertEqual({key: row[key] for key in expected}, expected)

    def test_measures_what_check_measures(self):
        rng = random.Random(7)
        for _ in range(40):
            self.add(1, duration_ms=rng.randrange(9000), cost=rng.random(),
                     status=rng.choice(("OK", "ERROR", "TIMEOUT")), scores=[
                         {"evaluator": "tone", "value": rng.random(),
                          "label": rng.choice(("pass", "fail", None))}])
        checks = self.check("--json", "--max-error-rate", "1%", "--max-p95", "1s", "--max-cost",
                            "1", "--max-total-cost", "1", "--min-score", "0.5",
                            "--min-average-score", "tone=0.5", "--max-fail-rate", "1%").json
        found = {each["check"]: each["measured"] for each in checks["checks"]}
        row = self.row()
        for title, key in (("error rate", "error_rate"), ("p95 duration", "p95_ms"),
                           ("highest cost", "highest_cost_usd"), ("total cost", "total_cost_usd"),
                           ("lowest score", "lowest_score"), ("fail rate", "fail_rate"),
                           ("average score of tone", "average_score.tone"), ("count", "count")):
            self.assertAlmostEqual(row[key], found[title], 9, key)

    def test_rows_are_flat(self):
        fill_four(self.server)
        line = self.assertOk(self.stats("--format", "jsonl")).lines
        self.assertEqual(len(line), 1)
        self.assertEqual({type(value) in FLAT for value in json.loads(line[0]).values()}, {True})
        read = list(csv.DictReader(io.StringIO(self.stats("--format", "csv", "--by", "name").out)))
        self.assertEqual([row["group"] for row in read], [f"agent {n}" for n in (1, 2, 3, 4)])
        self.assertEqual([row["p95_ms"] for row in read], ["1000", "2000", "3000", "4000"])

    def test_unknown_is_not_zero(self):
        self.add(2, duration_ms=None, cost=None, status=None, name=None)
        self.add(1, duration_ms=-5, status="RUNNING", name=None)
        row = self.row("--by", "name")
        self.assertEqual((row["group"], row["name"], row["count"]), ("-", None, 3))
        self.assertEqual([row[key] for key in ("error_rate", "p95_ms", "average_score")],
                         [None, None, None])
        self.assertEqual(row["total_cost_usd"], 0.012)
        result = self.assertOk(self.stats())
        self.assertEqual(sorted(result.err.splitlines()), [
            "1 trace has the status RUNNING.", "2 traces have no status.",
            "Costs are known for 1 of 3.", "Durations are known for 0 of 3."])

    def test_nothing_found(self):
        for args, out in (((), "No traces found.\n"), (("--by", "day"), "No traces found.\n"),
                          (("--json",), "[]\n"), (("--format", "jsonl"), "")):
            self.assertEqual(self.assertOk(self.stats(*args), err="").out, out)

    def test_filters_are_those_of_traces_list(self):
        fill_four(self.server)
        for given in ("--error", "--search 3", "--min-duration 2s", "--min-cost 0.03"):
            with self.subTest(given=given):
                self.assertEqual(self.row(*given.split())["count"],
                                 len(self.names(*given.split())))
        self.assertEqual(set(twosignal.FILTER_OPTIONS) - set(
            twosignal.COMMANDS["traces stats"].options), set())

    def test_fields(self):
        fill_four(self.server)
        result = self.assertOk(self.stats("--by", "name", "--fields", "name,p95_ms"))
        self.assertEqual([line.split("  ")[-1] for line in result.lines[2:]],
                         ["1.0s", "2.0s", "3.0s", "4.0s"])


class LargeGroups(StatsCase):
    """Beyond EXACT_VALUES, percentiles are bounded; counts and sums stay exact."""

    def test_percentiles_are_at_most_one_percent_too_high(self):
        rng = random.Random(3)
        values = [0, 0] + [rng.lognormvariate(7, 2) for _ in range(5000)]
        with mock.patch.object(twosignal, "EXACT_VALUES", 400):
            measured = twosignal.Measurements()
            for value in values:
                measured.add({}, value)
        self.assertLess(len(measured.values), 401)
        for percent in (1, 50, 95, 99, 100):
            exact = sorted(values)[-(-len(values) * percent // 100) - 1]
            found = measured.percentile(percent)
            self.assertGreaterEqual(found, exact)
            self.assertLessEqual(found, exact * 1.0100001)
        self.assertEqual((measured.lowest(), measured.highest()), (0, max(values)))

    def test_sums_are_exact(self):
        with mock.patch.object(twosignal, "EXACT_VALUES", 10):
            measured = twosignal.Measurements()
            for _ in range(1000):
                measured.add({}, 0.1)
                measured.add({}, 1e9)
                measured.add({}, -1e9)
        self.assertEqual(measured.total(), 100)
        self.assertEqual(measured.traces, 3000)

    def test_percentiles_up_to_there_are_exact(self):
        measured = twosignal.Measurements()
        for value in range(1, twosignal.EXACT_VALUES + 1):
            measured.add({}, value)
        self.assertEqual([measured.percentile(percent) for percent in (50, 95, 99)],
                         [50000, 95000, 99000])


class Groups(StatsCase):
    def fill(self):
        self.add(2, name="a", tags=["x", "y"], sessionId="s1", created=minutes_ago(0), scores=[
            {"evaluator": "tone", "value": 1}], spans=[{"model": "m"}, {"model": "m"}])
        self.add(1, name="b", tags=["x"], status="ERROR", created=minutes_ago(DAY), scores=[
            {"evaluator": "tone", "value": 0}, {"evaluator": "form", "value": 1}],
            spans=[{"model": "n"}, {"model": None}])

    def test_each_key_in_both_dialects(self):
        expected = {"name": {"a": 2, "b": 1}, "status": {"OK": 2, "ERROR": 1},
                    "tag": {"x": 3, "y": 2}, "session": {"s1": 2, "-": 1},
                    "model": {"m": 4, "n": 1}, "evaluator": {"tone": 3, "form": 1}}
        for dialect, options in DIALECTS:
            self.use(**options)
            self.fill()
            for key, groups in expected.items():
                with self.subTest(dialect=dialect, key=key):
                    self.assertEqual(self.groups("--by", key), groups)
        self.assertEqual(set(expected) | {"day", "hour"}, set(twosignal.GROUP_KEYS))
        self.assertEqual([sorted(self.groups("--by", key).values()) for key in ("day", "hour")],
                         [[1, 2], [0] * 23 + [1, 2]])

    def test_times_are_in_order_and_can_be_filters(self):
        self.add(1, created=minutes_ago(2 * DAY))
        self.add(3, created=minutes_ago(DAY))
        days = list(self.groups("--by", "day"))
        self.assertEqual(days, sorted(days))
        for key in ("day", "hour"):
            first, *empty, last = self.groups("--by", key)
            self.assertEqual(self.row("--since", last)["count"], 3)
            self.assertEqual(list(self.groups("--by", key, "--sort", "count"))[:2], [last, first])
            self.assertEqual(len(empty), {"day": 0, "hour": 23}[key])

    def test_numbers_that_are_too_large_together(self):
        self.add(3, cost=9e299)
        self.assertEqual(self.row()["total_cost_usd"], None)
        self.assertEqual(self.check("--max-total-cost", "5").code, 11)

    def test_the_rest_counts_a_trace_once(self):
        self.add(2, tags=["tag %d" % i for i in range(30)])
        with mock.patch.object(twosignal, "MAX_GROUPS", 10):
            groups = self.groups("--by", "tag")
        self.assertEqual((len(groups), groups[twosignal.REST]), (11, 2))

    def test_by_model_no_scores_are_read(self):
        self.use(**dict(DIALECTS)["old"])
        self.add(20, spans=[{"model": "m"}], scores=[{"evaluator": "tone", "value": 1}])
        self.server.clear()
        result = self.assertOk(self.stats("--by", "model", "--sample", "3"))
        self.assertIn("Read the spans of 3 of 20 traces in ", result.err)
        self.assertIn("Counts, costs and tokens are those of these traces only.", result.err)
        self.assertLessEqual(self.server.count("trace.byId"), 4)     # one of them in a batch
        self.assertFails(self.stats("--by", "model", "--by", "evaluator"), 2, "together")

    def test_hours_to_come_are_no_outage(self):
        self.add(1, created=minutes_ago(70))
        hours = list(self.groups("--by", "hour", "--since", "2h", "--until", "2999-01-01"))
        self.assertLessEqual(len(hours), 3)

    def test_an_outage_shows(self):
        """From --since until --until or now, also before the first trace and after the last."""
        self.add(1, created=minutes_ago(3 * DAY))
        self.add(1, created=minutes_ago(5 * DAY))
        days = self.groups("--by", "day", "--since", "7d")
        self.assertEqual(len(days), 8)
        self.assertEqual(list(days.values()), [0, 0, 1, 0, 1, 0, 0, 0])
        last = list(days)[5]
        self.assertEqual(list(self.groups("--by", "day", "--since", "7d", "--until", last)),
                         list(days)[:6])
        self.assertEqual(list(self.groups("--by", "day").values()), [1, 0, 1])
        self.assertEqual(len(self.groups("--by", "hour", "--since", "1000d")), 2)

    def test_two_keys(self):
        self.add(2, name="a")
        self.add(1, name="a", status="ERROR")
        rows = self.rows("--by", "name", "--by", "status")
        self.assertEqual([(row["group"], row["name"], row["status"], row["count"])
                          for row in rows], [("a / OK", "a", "OK", 2),
                                             ("a / ERROR", "a", "ERROR", 1)])
        for given in ("name status tag", "name name"):
            args = [word for key in given.split() for word in ("--by", key)]
            self.assertFails(self.stats(*args), 2, "up to two keys, which must differ")

    def test_an_evaluator_is_measured_by_its_own_scores(self):
        self.add(1, scores=[{"evaluator": "tone", "value": 0.2, "label": "fail"},
                            {"evaluator": "form", "value": 0.8, "label": "pass"}])
        rows = {row["group"]: row for row in self.rows("--by", "evaluator")}
        self.assertEqual([rows[name]["average_score"] for name in ("tone", "form")], [0.2, 0.8])
        self.assertEqual([rows[name]["fail_rate"] for name in ("tone", "form")], [1, 0])

    def test_a_model_is_measured_by_its_spans(self):
        self.add(1, duration_ms=9000, cost=5, spans=[
            {"id": "s", "model": "m", "durationMs": 300, "cost": 0.2, "totalTokens": 7},
            {"model": "m", "durationMs": 100, "cost": 0.1, "totalTokens": 3, "status": "ERROR",
             "errorMessage": "overloaded"}],
            scores=[{"evaluator": "tone", "value": 0.1},
                    {"evaluator": "tone", "value": 0.9, "spanId": "s"}])
        row = self.row("--by", "model")
        self.assertEqual([row[key] for key in (
            "count", "p95_ms", "total_cost_usd", "total_tokens", "error_rate", "error_message",
            "average_score")], [2, 300, 0.3, 10, 0.5, "overloaded", None])
        self.assertEqual(self.row("--by", "model", "--by", "name")["group"], "m / trace 0")

    def test_sorted_with_the_worst_first_and_unknown_last(self):
        for name, duration, score in (("a", 10, 0.9), ("b", 30, 0.1), ("c", None, None),
                                      ("d", 20, 0.5)):
            self.add(1, name=name, duration_ms=duration, scores=[] if score is None else [
                {"evaluator": "tone", "value": score}])
        for metric in ("p95", "p95_ms", "average_duration", "P99", "average_score",
                       "lowest_score"):
            with self.subTest(metric=metric):
                self.assertEqual("".join(self.groups("--by", "name", "--sort", metric)), "bdac")

    def test_many_groups_are_bounded(self):
        for number in range(6):
            self.add(1, name=f"agent {number}", created=minutes_ago(number))
        self.add(1, name="agent 0", created=minutes_ago(9))
        with mock.patch.object(twosignal, "MAX_GROUPS", 3):
            result = self.assertOk(self.stats("--by", "name", "--json"))
        self.assertEqual({row["group"]: row["count"] for row in result.json},
                         {"…": 3, "agent 0": 2, "agent 1": 1, "agent 2": 1})
        self.assertIn("More than 3 groups: … stands for the rest.\n", result.err)

    def test_nothing_reaches_a_terminal_raw(self):
        evil = "a\x1b[2J\u202e::error::"
        self.add_failed(evil, count=1, name=evil, tags=[evil], sessionId=evil, models=[evil],
                        scores=[{"evaluator": evil, "value": 1, "label": "fail"}])
        path = self.save("evil.json", "--by", "tag")
        for args in (("--baseline", path, "--by", "tag"),
                     *[("--by", key) for key in twosignal.GROUP_KEYS]):
            for form in ("table", "json", "csv", "tsv", "jsonl"):
                with self.subTest(args=args, form=form):
                    result = self.assertOk(self.stats(*args, "--format", form))
                    self.assertNotRegex(result.out + result.err, "[\x1b\u202e]")
        result = self.check("--baseline", self.save("all.json"))
        self.assertNotRegex(result.out + result.err, "[\x1b\u202e]")

    def test_an_evaluator_of_any_name(self):
        self.add(2, scores=[{"evaluator": "tab\tname", "value": 0.5, "label": "fail"},
                            {"evaluator": None, "value": 1}])
        rows = {row["evaluator"]: row for row in self.rows("--by", "evaluator")}
        self.assertEqual([[rows[name][key] for key in ("average_score", "fail_rate")]
                          for name in ("tab\tname", None)], [[0.5, 1], [1, None]])

    def test_values_of_other_types(self):
        self.add(1, name="\x1b[31m", tags=["", "a", "a"], sessionId="x" * 5000)
        self.assertEqual(self.groups("--by", "tag"), {"-": 1, "a": 1})
        self.assertEqual(self.groups("--by", "name"), {"\x1b[31m": 1})
        self.assertEqual([len(group) for group in self.groups("--by", "session")], [1000])


class Spans(StatsCase):
    def asked(self):
        return [each for name in ("trace.getById", "trace.byId")
                for each in procedure_inputs(self.server, name)]

    def test_most_frequent_error_messages(self):
        for _, options in reversed(DIALECTS):
            self.use(**options)
            self.add_failed("Timed out", count=3, name="a")
            self.add_failed("No such order", count=1, name="b")
            self.add(5, name="c")
            rows = {row["group"]: row for row in self.rows("--by", "name")}
            self.assertEqual([(rows[name]["error_message"], rows[name]["error_message_count"])
                              for name in "abc"], [("Timed out", 3), ("No such order", 1),
                                                   (None, None)])
        result = self.assertOk(self.stats())
        self.assertEqual(result.lines[-2:], ["3      Timed out", "1      No such order"])
        self.assertRegex(result.err, r"\ARead the spans of 4 of 4 failed traces in 1 request; "
                                     r"see --sample\.\n\Z")

    def test_nothing_is_asked_for_if_nothing_failed(self):
        self.add(3)
        self.assertOk(self.stats(), err="")
        self.assertEqual(self.asked(), [])

    def test_the_sample_is_bounded_spread_and_told(self):
        self.add_failed("new", count=60)
        for place in range(60):
            self.add_failed("old", name="old", created=minutes_ago(1000 + place))
        self.server.clear()
        result = self.assertOk(self.stats("--sample", "40"))
        self.assertEqual(len(self.asked()), 40)
        self.assertIn("Read the spans of 40 of 120 failed traces in ", result.err)
        counts = [int(line.split()[0]) for line in result.lines[-2:]]
        self.assertEqual(sum(counts), 40)
        self.assertGreater(min(counts), 10)

    def test_without_batches(self):
        self.use(batching=False)
        self.add_failed("x", count=3)
        self.assertIn(" in 4 requests; ", self.stats().err)     # the batch was refused
        self.use(**dict(DIALECTS)["old"])
        self.add_failed("x", count=3)
        self.assertEqual(self.row()["error_message_count"], 3)

    def test_what_is_deleted_or_too_large_is_left_out_and_counted(self):
        self.add_failed("x", count=2)
        self.add_failed("y", count=1)
        real = twosignal.Client.batch

        def batch(client, procedure, *args, **kwargs):
            answers = list(real(client, procedure, *args, **kwargs))
            if procedure == "trace.getById":
                answers[:2] = [twosignal.TooLarge("Too large", ""),
                               twosignal.Failure("Trace not found", code="NOT_FOUND")]
            return answers

        with mock.patch.object(twosignal.Client, "batch", batch):
            result = self.assertOk(self.stats("--json"))
        self.assertEqual(result.json[0]["error_message_count"], 1)
        self.assertIn("Read the spans of 1 of 3 failed traces", result.err)

    def test_without_spans_there_are_no_messages(self):
        """They are told to be unknown; only what is made of spans alone fails."""
        self.add_failed("x", count=2)
        self.server.fault("trace.getById", times=None, status=500)
        result = self.assertOk(self.stats("--json"))
        self.assertEqual([result.json[0][key] for key in (
            "count", "error_message", "error_message_count")], [2, None, None])
        self.assertRegex(result.err, r"Error messages are incomplete: The server failed \(500\)")
        self.assertFails(self.stats("--by", "model"), 8)

    def test_what_a_key_cannot_read_is_said(self):
        self.add_failed("x", count=2, scores=[{"evaluator": "tone", "value": 1}])
        result = self.assertOk(self.stats("--json", env=self.key()))
        row, = result.json
        self.assertEqual((row["count"], row["error_message"], row["average_score"]),
                         (2, None, None))
        self.assertEqual(sorted(result.err.splitlines()), [
            "Error messages are incomplete: A project API key cannot read spans.",
            "Scores are null. A project API key cannot read scores."])
        self.assertFails(self.stats("--by", "model", env=self.key()), 4, "API key", "spans")
        self.assertFails(self.stats("--by", "evaluator", env=self.key()), 4, "API key", "scores")
        self.assertEqual(self.server.count("/api/trpc/"), 0)


class StatsTables(StatsCase):
    def setUp(self):
        super().setUp()
        for place, name in enumerate(("한국어 상담", "trip ✈️🌍", "plain", "x" * 70)):
            self.add(place + 1, name=name, created=minutes_ago(place * DAY))

    def test_it_fits_80_columns_and_shows_numbers_whole(self):
        for args in ((), ("--by", "name"), ("--by", "day"), ("--by", "name", "--by", "day")):
            lines = self.stats("--no-color", *args, columns=80, tty=True).lines
            with self.subTest(args=args):
                self.assertLessEqual(max(map(twosignal.display_width, lines)), 80)
                self.assertRegex(lines[0], r"Count +(  +)?Errors +P50 +P95 +P99 +Cost")
                self.assertIn("1.2s", lines[2])

    def test_columns_line_up(self):
        lines = self.stats("--by", "name", columns=100, tty=True).lines
        places = {twosignal.display_width(line[:line.index(" 0% ")]) for line in lines[2:6]}
        self.assertEqual(len(places), 1)

    def test_more_columns_if_there_is_room(self):
        narrow, wide, piped = [self.stats(**options).lines[0] for options in (
            {"columns": 60, "tty": True}, {"columns": 200, "tty": True}, {})]
        self.assertNotIn("Tokens", narrow)
        self.assertIn("Tokens", wide)
        self.assertIn("Tokens", piped)

    def bars(self, *args, place=2, **kwargs):
        result = self.assertOk(self.stats("--by", "day", "--no-color", *args, columns=80, tty=True,
                                          **kwargs))
        return [re.split(r" {2,}", line)[place] for line in result.lines[2:6]]

    def test_bars_show_the_course(self):
        self.assertEqual(self.bars(), ["██████████", "███████▄", "█████", "██▄"])

    def test_bars_in_ascii_and_in_colour(self):
        self.assertEqual(self.bars(encoding="ascii"), ["##########", "#######:", "#####", "##:"])
        self.assertEqual(self.bars("--color", "always")[2], "\x1b[36m█████\x1b[0m")

    def test_bars_show_the_metric_that_sorts(self):
        self.add(1, duration_ms=2400, created=minutes_ago(0))
        self.assertEqual(self.bars("--sort", "p95", place=3), ["██████████"] + 3 * ["█████"])
        self.assertEqual(self.bars("--sort", "p95"), ["2.4s"] + 3 * ["1.2s"])


class BadInput(StatsCase):
    def test_usage_errors(self):
        self.add(1)
        for given, text in (("--by color", "must be one of name, status"),
                            ("--by name --sort speed", "must be one of count, error_rate"),
                            ("--sample 0", "1 or more"), ("--sample many", "1 or more"),
                            ("--baseline x --baseline-tag y", "cannot be used together"),
                            ("--tag v1 --baseline-tag v1", "of another name"),
                            ("--tag v1 --tag v2 --baseline-tag v3", "at most one"),
                            ("--by name --by name", "--by name --by day"),
                            ("--baseline nowhere.json", "nowhere.json"),
                            ("--error --status OK", "together")):
            with self.subTest(given=given):
                self.assertFails(self.stats(*given.split()), 2, text)

    def test_files_that_are_no_baseline(self):
        fill_four(self.server)
        row = self.row()
        listed = self.list("--json").json
        gate = self.check("--min-count", "1", "--json").json
        for number, (content, text) in enumerate((
                (listed, "it is not what 'traces stats --json' writes"), (gate, "is not what"),
                ("{\"group\": ", "is not JSON"), ("", "is not JSON"), ("null", "is not what"),
                ("[" * 100000, "is not JSON"), (b"\xff\xfe", "Cannot read the file"),
                ([row, 5], "is not what"), ([dict(row, p95_ms="4000")], "'p95_ms' is \"4000\""),
                ([dict(row, count=None)], "'count' is null"), ([{"group": "all"}], "is not what"),
                ([dict(row, count=2.5)], "'count' is 2.5"), ([row, row], "or occurs twice"),
                ([dict(row, error_rate=-1)], "'error_rate' is -1"),
                ([dict(row, fail_rate=1.5)], "'fail_rate' is 1.5"),
                ([dict(row, p95_ms=True)], "'p95_ms' is true"),
                ([dict(row, **{"average_score.tone": []})], "'average_score.tone' is []"),
                ([dict(row, durations_measured="x")], "'durations_measured' is"),
                ([dict(row, **{"scores_measured.tone": -1})], "'scores_measured.tone' is -1"),
                ("[" + json.dumps(row).replace("0.25", "NaN") + "]", "'error_rate' is NaN"),
                ("[" + json.dumps(row).replace("0.25", "1e999") + "]", "'error_rate' is"),
                ([dict(row, name="a")], "another --by"))):
            path = self.write(f"b{number}.json", content)
            self.server.clear()
            for command in ("check", "stats"):
                with self.subTest(content=str(content)[:60], command=command):
                    result = self.traces(command, "--baseline", path)
                    self.assertFails(result, 2, text)
                    self.assertEqual(self.server.count("trace.list"), 0)

    def test_groups_that_are_no_text(self):
        fill_four(self.server)
        row = self.row()
        for group in (["x"], {"a": 1}, 5, True):
            path = self.write("group.json", [dict(row, name=group)])
            self.assertFails(self.stats("--by", "name", "--baseline", path), 2, "is no text")

    def test_a_baseline_is_grouped_alike(self):
        fill_four(self.server)
        path = self.save("by.json", "--by", "name")
        self.assertOk(self.stats("--by", "name", "--baseline", path))
        self.assertFails(self.stats("--by", "status", "--baseline", path), 2, "another --by",
                         "traces stats --by status --json")
        self.assertFails(self.check("--baseline", path), 2, "another --by")

    def test_options_of_a_gate_that_contradict_each_other(self):
        self.assertFails(self.check("--max-regression", "5%"), 2, "requires a --baseline")
        self.assertFails(self.check("--baseline-tag", "v1", "--max-regression", "1"), 2, "1%")


class Regressions(StatsCase):
    """traces check --baseline … --max-regression …"""

    def fill(self, count=40, **fields):
        self.add(count, **dict({"duration_ms": 1000, "cost": 0.1, "scores": [
            {"evaluator": "tone", "value": 0.8, "label": "pass"}]}, **fields))

    def again(self, **options):
        """A server without traces, for those to be compared with what was saved."""
        self.use(**options)

    def check_after(self, path, share, *args, **fields):
        self.again()
        self.fill(**fields)
        return self.check("--baseline", path, "--max-regression", share, *args)

    def test_each_value_at_its_boundary_and_beyond(self):
        self.fill(30)
        self.fill(10, status="ERROR", scores=[
            {"evaluator": "tone", "value": 0.8, "label": "fail"}])
        path = self.save()          # 25% errors and failures, 1 s, $0.10, tone 0.8
        for name, share, code, changes in (
                ("p95 duration", "10%", 0, {"duration_ms": 1100}),
                ("p95 duration", "10%", 10, {"duration_ms": 1101}),
                ("average cost", "10%", 0, {"cost": 0.11}),
                ("average cost", "10%", 10, {"cost": 0.1101}),
                ("average score of tone", "10%", 0, {"scores": [
                    {"evaluator": "tone", "value": 0.7, "label": "pass"}]}),
                ("average score of tone", "10%", 10, {"scores": [
                    {"evaluator": "tone", "value": 0.69, "label": "pass"}]}),
                ("error rate", "75%", 0, {"status": "ERROR"}),
                ("error rate", "74%", 10, {"status": "ERROR"}),
                ("fail rate", "74%", 10, {"scores": [
                    {"evaluator": "tone", "value": 0.8, "label": "fail"}]})):
            with self.subTest(name=name, changes=changes):
                result = self.check_after(path, share, "--json", **changes)
                self.assertEqual(result.code, code, result)
                failed = [each["check"] for each in result.json["checks"] if not each["passed"]]
                self.assertEqual(failed, [name] if code else [])

    def test_what_is_better_passes(self):
        self.fill()
        path = self.save()
        result = self.check_after(path, "0%", duration_ms=10, cost=0, scores=[
            {"evaluator": "tone", "value": 1, "label": "pass"}])
        self.assertEqual(result.code, 0, result)

    def test_a_baseline_of_itself_never_fails(self):
        rng = random.Random(5)
        for _ in range(33):
            self.fill(1, duration_ms=rng.random() * 5000, cost=rng.random(),
                      status=rng.choice(("OK", "ERROR")),
                      scores=[{"evaluator": "tone", "value": rng.random(),
                               "label": rng.choice(("pass", "fail"))}])
        result = self.check("--baseline", self.save(), "--max-regression", "0%")
        self.assertEqual(result.code, 0, result)
        self.assertNotIn("Fewer than", result.err)

    def test_without_max_regression_nothing_fails(self):
        self.fill()
        path = self.save()
        self.again()
        self.fill(status="ERROR", duration_ms=3000)
        result = self.assertOk(self.check("--baseline", path))
        cells = [re.split(r" {2,}", line) for line in result.lines]
        self.assertIn(["Check", "Baseline", "Measured", "Change", "Limit", "Verdict",
                       "Traces"], cells)
        self.assertIn(["p95 duration", "1.0s", "3.0s", "+200%", "-", "-", "40"], cells)
        self.assertIn(["error rate", "0%", "100%", "+100pp", "-", "-", "40"], cells)
        self.assertIn(["average score of tone", "0.8", "0.8", "+0", "-", "-", "40"], cells)
        found = {each["check"]: each for each in self.check("--baseline", path, "--json").json[
            "checks"]}
        self.assertEqual([found["p95 duration"][key] for key in (
            "baseline", "measured", "change", "limit", "passed")], [1000, 3000, 2, None, None])

    def test_the_table_of_a_failure(self):
        self.fill()
        result = self.check_after(self.save(), "10%", duration_ms=3000)
        cells = [re.split(r" {2,}", line) for line in result.lines]
        self.assertIn(["p95 duration", "1.0s", "3.0s", "+200%", "≤ +10%", "FAILED", "40"], cells)
        self.assertIn(["average score of tone", "0.8", "0.8", "+0", "≥ -0.1", "OK", "40"], cells)
        self.assertIn("Worst traces: p95 duration ≤ +10%", result.lines)

    def test_a_tag_takes_the_place_of_the_tag(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.fill(tags=["v1", "eu"], duration_ms=1000)
            self.fill(tags=["v2", "eu"], duration_ms=2000)
            with self.subTest(dialect=dialect):
                result = self.check("--tag", "v2", "--baseline-tag", "v1", "--max-regression",
                                    "50%", "--json")
                self.assertEqual(result.code, 10, result)
                found = {each["check"]: each for each in result.json["checks"]}
                self.assertEqual((found["p95 duration"]["baseline"],
                                  found["p95 duration"]["measured"]), (1000, 2000))
                self.assertEqual(found["count of the baseline"]["measured"], 40)
        self.assertEqual(self.check("--tag", "v2", "--baseline-tag", "v1", "--max-regression",
                                    "50%", "--error").code, 11)     # the same filters

    def test_both_sides_need_min_count(self):
        self.fill(5)
        path = self.save()
        for count, code in (("5", 0), ("6", 11)):
            result = self.check_after(path, "10%", "--min-count", count)
            self.assertEqual(result.code, code, result)

    def test_unknown_is_never_good(self):
        self.fill()
        path = self.save()
        unknown = {"duration_ms": None, "cost": None, "status": "RUNNING", "scores": []}
        for key, value in unknown.items():
            with self.subTest(key=key):
                self.assertEqual(self.check_after(path, "10%", **{key: value}).code, 11)
        self.again()
        self.fill(**unknown)
        path = self.save("unknown.json")
        self.assertEqual(self.check("--baseline", path, "--max-regression", "10%").code, 11)
        self.assertEqual(self.check_after(path, "10%").code, 11)
        for content in ("[]",):
            path = self.write("empty.json", content)
            self.assertEqual(self.check("--baseline", path).code, 11)

    def test_a_new_evaluator_is_no_regression(self):
        self.fill()
        result = self.check_after(self.save(), "10%", scores=[
            {"evaluator": "tone", "value": 0.8, "label": "pass"},
            {"evaluator": "form", "value": 0.1, "label": "pass"}])
        self.assertEqual(result.code, 0, result)
        self.assertRegex(result.out, r"average score of form +- +0\.1 +- +- +-")

    def test_only_the_named_evaluators(self):
        self.fill(scores=[{"evaluator": "tone", "value": 0.8}, {"evaluator": "form", "value": 1}])
        path = self.save()
        scores = [{"evaluator": "tone", "value": 0.8}, {"evaluator": "form", "value": 0}]
        self.assertEqual(self.check_after(path, "10%", scores=scores).code, 10)
        self.assertEqual(self.check("--baseline", path, "--max-regression", "10%",
                                    "--evaluator", "tone").code, 0)

    def test_a_named_evaluator_without_scores_is_no_verdict(self):
        self.fill()
        for share, code in ((["--max-regression", "10%"], 11), ([], 0)):
            result = self.check("--baseline", self.save(), "--evaluator", "nobody", *share)
            self.assertEqual(result.code, code, result)
            self.assertRegex(result.out, "average score of nobody +- +-")
            self.assertIn("There are scores from: tone.", result.err)

    def test_what_a_key_cannot_read_is_no_verdict(self):
        self.fill(tags=["v1"])
        self.fill(tags=["v2"])
        sides = ["--tag", "v2", "--baseline-tag", "v1"]
        self.assertFails(self.check(*sides, "--max-regression", "10%", env=self.key()), 4,
                         "cannot read scores")
        result = self.assertOk(self.check(*sides, env=self.key()))
        self.assertIn("Scores are null. A project API key cannot read scores.", result.err)
        self.assertNotIn("There are scores", result.err)

    def test_a_baseline_of_labels_alone(self):
        for dialect, options in DIALECTS:
            with self.subTest(dialect=dialect):
                self.use(**options)
                labels = [{"evaluator": "tone", "value": None, "label": "pass"}]
                self.fill(scores=labels)
                path = self.save()
                self.again(**options)
                self.fill(scores=[dict(labels[0], label="fail")])
                result = self.check("--baseline", path, "--max-regression", "10%", "--json")
                found, = [each for each in result.json["checks"] if each["check"] == "fail rate"]
                self.assertEqual((found["baseline"], found["measured"], found["passed"]),
                                 (0, 1, False))

    def test_a_baseline_without_scores_is_told(self):
        self.fill(scores=[])
        path = self.save()
        self.again()
        self.fill()
        result = self.check("--baseline", path, "--max-regression", "10%")
        self.assertIn("The baseline has no scores: none were compared.", result.err)

    def test_coverage_counts_on_both_sides(self):
        """A baseline in which next to nothing was measured is no measure."""
        self.add(39, duration_ms=None, cost=None, tags=["sparse"])
        self.fill(1, tags=["sparse"])
        self.fill(40, tags=["whole"])
        for sides, remark in (
                (("whole", "sparse"), "baseline: measured in 1 of 40 traces"),
                (("sparse", "whole"), "max-regression of p95 duration: measured in 1 of 40")):
            given = ["--tag", sides[0], "--baseline-tag", sides[1], "--max-regression", "50%"]
            with self.subTest(sides=sides):
                result = self.check(*given)
                self.assertEqual(result.code, 0, result)
                self.assertIn(remark, result.err)
                self.assertEqual(self.check(*given, "--min-coverage", "90%").code, 11)

    def test_the_numbers_of_a_comparison_have_no_noise(self):
        for value in (0.9, 0.7, 0.1 + 0.2):
            self.again()
            self.add(41, duration_ms=1000 / 3, cost=value / 7, scores=[
                {"evaluator": "tone", "value": value}])
            self.add(26, status="ERROR")
            result = self.check("--baseline", self.save(), "--max-regression", "0%", "--json")
            self.assertEqual(result.code, 0, result)
            self.assertEqual({each["change"] for each in result.json["checks"]
                              if "change" in each} - {None}, {0})
            self.assertNotIn("-0", self.check("--baseline", self.save()).out)

    def test_a_report_does_not_replace_the_baseline(self):
        self.fill()
        path = self.save()
        self.assertFails(self.check("--baseline", path, "--junit", path), 2, "--junit")
        self.assertOk(self.check("--baseline", path))

    def test_small_numbers_are_named(self):
        self.fill(29)
        path = self.save()
        remark = "Fewer than 30 traces on a side: differences may be chance.\n"
        self.assertIn(remark, self.check_after(path, "10%", count=30).err)
        path = self.save()
        self.assertNotIn("Fewer", self.check("--baseline", path).err)

    def test_reports_name_the_check_alike_whatever_is_measured(self):
        self.fill()
        path = self.save()
        names = []
        for duration in (1000, 5000):
            report = self.path("report.xml")
            self.check_after(path, "10%", "--max-p95", "9s", "--junit", report,
                             duration_ms=duration)
            cases = xml.etree.ElementTree.parse(report).iter("testcase")
            names.append([case.get("name") for case in cases])
        self.assertEqual(names[0], names[1])
        self.assertEqual(len(set(names[0])), len(names[0]))
        self.assertTrue(any("max-regression of p95 duration ≤ +10%" in name for name in names[0]))
        with open(report, encoding="utf-8") as file:
            self.assertIn("failed: measured 5.0s, threshold ≤ +10% from 1.0s", file.read())

    def test_with_a_key(self):
        self.fill(scores=[])
        path = self.save()
        self.assertEqual(self.check("--baseline", path, "--max-regression", "5%",
                                    env=self.key()).code, 0)
        self.again()
        self.fill()
        path = self.save("scored.json")
        self.assertFails(self.check("--baseline", path, "--max-regression", "5%",
                                    env=self.key()), 4, "scores")
        result = self.assertOk(self.check("--baseline", path, env=self.key()))
        self.assertIn("Scores are null. A project API key cannot read scores.\n", result.err)

    def test_per_group(self):
        self.fill(name="a")
        self.fill(name="gone", count=3)
        path = self.save("by.json", "--by", "name")
        self.again()
        self.fill(name="a", duration_ms=2000)
        self.fill(name="new", count=3)
        rows = {(row["name"], row["metric"]): row for row in self.rows(
            "--by", "name", "--baseline", path)}
        self.assertEqual({group for group, _ in rows}, {"a", "gone", "new"})
        for group, values in (("a", (1000, 2000, 1)), ("gone", (1000, None, None)),
                              ("new", (None, 1000, None))):
            row = rows[group, "p95 duration"]
            self.assertEqual((row["baseline"], row["measured"], row["change"]), values)
        result = self.assertOk(self.stats("--by", "name", "--baseline", path))
        self.assertIn(["a", "p95 duration", "1.0s", "2.0s", "+100%"],
                      [re.split(r" {2,}", line) for line in result.lines])
        self.assertIn("Fewer than 30 traces on a side: differences", result.err)
