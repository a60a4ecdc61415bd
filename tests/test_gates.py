"""Gates and what scripts expect: traces check, wait and tail, usage --fail-above, api, completion,
--debug and -q."""
import csv
import datetime
import io
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import unittest
import urllib.error
import urllib.request
import xml.etree.ElementTree
from unittest import mock

import standin
import tools
import twosignal
from tools import SCRIPT, Case, ServerCase, full, merged, procedure_inputs

DIALECTS = tuple(standin.DIALECTS.items())
OLD, NEW = standin.DIALECTS["old"], standin.DIALECTS["new"]
HOSTILE_NAMES = ("<b> & \"c\" 'd'", "]]>", "a\x1b[31mred", "\u202etxt.exe", "line\nbreak",
                 "tab\there", "a|b", "100%", "%s%d", "\uffff\ufffe", "東京 🤖", "x" * 3000,
                 "`code`", "{{x}}")


def minutes_ago(minutes):
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=minutes)


class Steps(list):
    """Notes waits in place of `naps`; each long one runs the next step, after the last: Ctrl-C."""

    def __init__(self, *steps):
        super().__init__()
        self.steps = list(steps)

    def append(self, seconds):
        super().append(seconds)
        if seconds < 0.5:       # between two tries of one request
            return
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()

    def long(self):
        return [seconds for seconds in self if seconds >= 0.5]


def nothing():
    """A step in which nothing happens."""


class GateCase(ServerCase):
    """A logged-in account and a project without traces."""

    options = {"empty": True}

    def setUp(self):
        super().setUp()
        self.log_in()
        patch = mock.patch.object(twosignal, "PAUSE", 0.0001)
        patch.start()
        self.addCleanup(patch.stop)

    def traces(self, command, *args, **kwargs):
        project = () if "TWOSIGNAL_API_KEY" in kwargs.get("env", {}) \
            else ("--project", self.server.project)
        return self.cli("traces", command, *(project + args), **kwargs)

    def check(self, *args, **kwargs):
        return self.traces("check", *args, **kwargs)

    def use(self, **options):
        """Take another server in place of the one of the test."""
        self.server = self.serve(**dict(self.options, **options))
        self.log_in()

    def key(self):
        return {"TWOSIGNAL_API_KEY": self.server.secret(self.server.add_key())}

    def add(self, count=1, **fields):
        return [self.server.add_trace(**fields) for _ in range(count)]


############################################################
# traces check
############################################################

def fill_four(server):
    """Four traces: 1 to 4 s, $0.01 to $0.04, one error, two evaluators."""
    scores = ([("faithfulness", 0.8), ("helpfulness", 0.5)], [("faithfulness", 0.9)],
              [("helpfulness", 0.7)], [("faithfulness", 1), ("a=b", 0.6)])
    for place, given in enumerate(scores, 1):
        server.add_trace(name="agent %d" % place, duration_ms=1000 * place, cost=place / 100,
                         status="ERROR" if place == 2 else "OK", created=minutes_ago(place),
                         scores=[{"evaluatorName": name, "value": value}
                                 for name, value in given])


LIMITS = (                  # options, exit code; each limit at its boundary and just beyond
    ("--max-error-rate 25%", 0), ("--max-error-rate 0.25", 0), ("--max-error-rate 24.9%", 10),
    ("--max-error-rate 0%", 10), ("--max-error-rate 100%", 0), ("--max-error-rate 1", 0),
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


class TestCheck(GateCase):
    def test_each_limit_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            fill_four(self.server)
            for given, code in LIMITS + SCORE_LIMITS:
                with self.subTest(dialect=dialect, given=given):
                    result = self.check("--json", *given.split())
                    self.assertEqual(result.code, code, result)
                    self.assertEqual(result.json["passed"], code == 0)

    def test_each_limit_with_a_key(self):
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

    def test_table_shows_measured_limit_and_verdict(self):
        fill_four(self.server)
        result = self.check("--max-error-rate", "2%", "--max-p95", "8s", "--min-score",
                            "nobody=0.5")
        self.assertEqual(result.code, 10, result)
        rows = [re.split(r" {2,}", line.strip()) for line in result.lines]
        self.assertIn(["Check", "Measured", "Limit", "Verdict", "Traces"], rows)
        self.assertIn(["error rate", "25%", "2%", "FAILED", "4"], rows)
        self.assertIn(["p95 duration", "4.0s", "8.0s", "OK", "4"], rows)
        self.assertIn(["lowest score of nobody", "-", "0.5", "NOTHING TO CHECK", "0"], rows)
        self.assertTrue(result.err.startswith("There are scores of "), result)

    def test_tells_in_how_many_traces_it_was_measured(self):
        self.add(3, duration_ms=None, scores=[])
        self.add(2, cost=None, scores=[{"evaluatorName": "a", "value": 1},
                                       {"evaluatorName": "a", "value": 0.5}])
        result = self.check("--json", "--min-score", "0.5", "--min-score", "b=0", "--max-p95", "8s",
                            "--max-cost", "1", "--max-total-cost", "1", "--max-error-rate", "0")
        found = {check["check"]: check["traces"] for check in result.json["checks"]}
        self.assertEqual(found, {"lowest score": 2, "lowest score of b": 0, "p95 duration": 2,
                                 "highest cost": 3, "total cost": 3, "error rate": 5, "count": 5})

    def test_limits_are_the_decimals_that_were_written(self):
        """Not what a binary fraction makes of them."""
        self.add(1, duration_ms=1001, cost=0.1 + 0.2, scores=[
            {"evaluatorName": "a", "value": 0.8 - 1e-16}])
        for given in ("--max-p95 1.001s", "--max-cost 0.3", "--max-total-cost 0.3",
                      "--min-score 0.8", "--max-p95 1s --min-duration 1.0011s --min-count 1",
                      "--max-cost 9 --min-duration 1.001s --max-duration 1.001s"):
            with self.subTest(given=given):
                result = self.check(*given.split())
                self.assertEqual(result.code, 11 if "1.0011s" in given else 0, result)

    def test_fields_do_not_change_the_verdict(self):
        self.add(1, status="ERROR")
        for fields in ("?", "passed", "checks.0.check"):
            self.assertEqual(self.check("--max-error-rate", "0", "--fields", fields).code, 10)

    def test_junit_needs_a_file_of_its_own(self):
        self.assertFails(self.check("--max-cost", "1", "--junit", "-"), 2, "--junit")
        path = self.path("both")
        self.assertFails(self.check("--max-cost", "1", "--junit", path, "-o", path), 2, "--junit")

    def test_what_fails_by_a_hair_is_shown_in_full(self):
        self.add(1, duration_ms=8020)
        result = self.check("--max-p95", "8s")
        self.assertEqual(result.code, 10)
        self.assertIn("8020      8000", result.out)

    def test_says_how_many_were_looked_at(self):
        self.add(3)
        result = self.check("--max-cost", "1", "--min-duration", "1h")
        self.assertEqual((result.code, result.err), (11, "0 of the 3 traces looked at match. Look "
                         "further back with --since, or choose less narrowly.\n"))

    def test_too_few(self):
        self.add(1)
        result = self.check("--max-cost", "1", "--min-count", "2")
        self.assertEqual(result.code, 11)
        self.assertIn("Too few: 1 trace.\n", result.out)
        self.assertRegex(result.out, r"count +1 +2 +TOO FEW +1\n")
        self.assertIn("--since", result.err)
        self.assertIn("Passed, 1 trace checked.", self.check("--max-cost", "1").out)

    def test_says_what_scores_there_are(self):
        self.add(1, scores=[{"evaluatorName": "tone", "value": 1}])
        result = self.check("--min-score", "tune=0.5")
        self.assertEqual((result.code, result.err), (11, "There are scores of tone.\n"))

    def test_no_traces_never_pass(self):
        for given in LIMITS + SCORE_LIMITS:
            option = given[0]
            with self.subTest(option=option):
                result = self.check("--json", *option.split())
                self.assertEqual(result.code, 11, result)
                self.assertIs(result.json["passed"], False)

    def test_traces_that_tell_nothing_never_pass(self):
        self.add(3, duration_ms=None, cost=None, status="RUNNING")
        for option in ("--max-p95 8s", "--max-cost 1", "--max-total-cost 1", "--min-score 0"):
            with self.subTest(option=option):
                result = self.check("--json", *option.split())
                self.assertEqual(result.code, 11, result)
                self.assertIsNone(result.json["checks"][0]["measured"])
                self.assertIsNone(result.json["checks"][0]["passed"])

    def test_scores_that_are_no_numbers_never_pass(self):
        for value in (float("nan"), None):
            self.use()
            self.add(scores=[{"evaluatorName": "helpfulness", "value": value}])
            with self.subTest(value=value):
                self.assertEqual(self.check("--min-score", "0.5").code, 11)

    def test_a_score_that_is_no_number_does_not_hold(self):
        self.add(scores=[{"evaluatorName": "a", "value": float("nan")}])
        self.add(scores=[{"evaluatorName": "a", "value": 0.9}])
        for option in ("0.5", "a=0.5", "a=0"):
            result = self.check("--min-score", option)
            self.assertEqual(result.code, 10, result)
            self.assertIn("no number", result.out)
        result = self.check("--json", "--min-score", "0.5")
        self.assertEqual(result.json["checks"][0]["worst"][0]["value"], None)

    def test_scores_that_cannot_be_had_are_an_error(self):
        fill_four(self.server)
        self.server.fault("trace.getById", times=None, status=500)
        self.assertFails(self.check("--min-score", "0.1"), 8)

    def test_failed_check_wins_over_one_with_nothing_to_measure(self):
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

    def test_many_pages(self):
        count = full(230, 2300)
        self.add(count - 1, cost=0.01)
        self.add(1, cost=5, created=minutes_ago(600))
        result = self.check("--json", "--max-cost", "1", "--min-count", str(count))
        self.assertEqual((result.code, result.json["traces"]), (10, count))
        self.assertEqual(self.server.connections, 1)


class TestReports(GateCase):
    def setUp(self):
        super().setUp()
        fill_four(self.server)
        self.report = self.path("report.xml")

    def parsed(self):
        return xml.etree.ElementTree.parse(self.report).getroot()

    def test_junit(self):
        for options, code, failures in ((("--max-p95", "4s"), 0, 0), (("--max-p95", "1s"), 10, 1),
                                        (("--min-score", "nobody=1"), 11, 1)):
            result = self.check("--junit", self.report, *options)
            self.assertEqual(result.code, code, result)
            suite = self.parsed().find("testsuite")
            cases = suite.findall("testcase")
            self.assertEqual(suite.get("tests"), str(len(cases)))
            self.assertEqual(suite.get("failures"), str(failures))
            self.assertEqual(len(suite.findall("testcase/failure")), failures)
            self.assertEqual(os.listdir(self.folder).count("report.xml"), 1)

    def test_junit_names_the_worst_traces(self):
        self.check("--junit", self.report, "--max-cost", "0.035")
        failure = self.parsed().find("testsuite/testcase/failure")
        worst = max(self.server.rows("traces"), key=lambda row: row["totalCost"])
        self.assertIn(worst["id"], failure.text)
        self.assertIn("$0.04", failure.get("message"))
        self.assertIn("$0.035", failure.get("message"))

    def test_junit_with_hostile_names(self):
        for place, name in enumerate(HOSTILE_NAMES):
            with self.subTest(name=name[:20]):
                self.check("--junit", self.report, "--min-score", name + "=0.5",
                           "--max-p95", "1s")
                cases = self.parsed().findall("testsuite/testcase")
                self.assertEqual(len(cases), 3)
                if name.isprintable():
                    self.assertIn(name, [case.get("name")[-len(name):] for case in cases])

    def test_junit_with_hostile_trace_ids(self):
        for name in HOSTILE_NAMES:
            self.server.add_trace(id="id " + name, cost=99)
            with self.subTest(name=name[:20]):
                result = self.check("--junit", self.report, "--max-cost", "1")
                self.assertEqual(result.code, 10, result)
                self.assertTrue(self.parsed().find("testsuite/testcase/failure").text)
            self.server.store.remove("traces", "id " + name)

    def test_junit_that_cannot_be_written(self):
        folder = self.path("folder")
        os.mkdir(folder)
        self.write("file", "kept")
        before = sorted(os.listdir(self.folder))
        for path in (self.path("missing", "report.xml"), folder, self.path("file", "report.xml"),
                     self.path("x" * 300)):
            with self.subTest(path=path[-30:]):
                self.assertFails(self.check("--max-cost", "1", "--junit", path), 1)
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        self.assertEqual(os.listdir(folder), [])

    def test_junit_stays_as_it_was_if_the_server_fails_half_way(self):
        self.add(250)
        self.write("report.xml", "before")
        pages = iter(range(9))
        real = self.server.world.page

        def page(*args):
            if next(pages) > 0:
                self.server.fault("trace.list", times=None, status=500)
            return real(*args)
        before = sorted(os.listdir(self.folder))
        with mock.patch.object(self.server.world, "page", page):
            self.assertFails(self.check("--max-cost", "1", "--junit", self.report), 8)
        with open(self.report) as file:
            self.assertEqual(file.read(), "before")
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    @unittest.skipIf(os.name == "nt", "permissions and links of POSIX")
    def test_junit_keeps_mode_and_link(self):
        target = self.write("target.xml", "before")
        os.chmod(target, 0o640)
        os.symlink(target, self.report)
        self.check("--max-cost", "1", "--junit", self.report)
        self.assertTrue(os.path.islink(self.report))
        self.assertEqual(stat.S_IMODE(os.stat(target).st_mode), 0o640)
        self.parsed()

    @unittest.skipUnless(hasattr(os, "mkfifo"), "no named pipes")
    def test_junit_into_a_pipe_or_device_is_written_there(self):
        os.mkfifo(self.report)
        reader = os.open(self.report, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.assertEqual(self.check("--max-cost", "1", "--junit", self.report).code, 0)
        self.assertTrue(stat.S_ISFIFO(os.stat(self.report).st_mode), "the pipe was replaced")
        self.assertIn(b"<testsuites>", os.read(reader, 65536))

    def actions(self, *options, summary=True):
        """Run a check as in GitHub Actions; return (result, lines of the summary)."""
        path = self.path("summary.md")
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path if summary else None}
        result = self.check(*options, env=env)
        if not os.path.exists(path):
            return result, []
        with open(path, encoding="utf-8") as file:
            return result, file.read().splitlines()

    def test_github_annotations(self):
        result, _ = self.actions("--max-p95", "1s", "--max-cost", "1", "--max-error-rate", "2%")
        self.assertEqual(result.code, 10)
        lines = result.err.splitlines()
        self.assertEqual(len(lines), 2, result)
        for line in lines:
            self.assertRegex(line, r"^::error [^:]*::\S")
        self.assertIn("25%25", result.err)
        self.assertNotRegex(result.err, "%(?!25)")

    def test_github_annotations_of_a_pass_and_of_nothing(self):
        result, _ = self.actions("--max-cost", "1")
        self.assertNotIn("::", result.err + result.out)
        result, _ = self.actions("--min-score", "nobody=0.5", "--quiet")
        self.assertEqual((result.code, result.err.count("::error ")), (11, 1))

    def test_github_commands_cannot_be_planted(self):
        for name in HOSTILE_NAMES + ("x\n::stop-commands::y", "x\r::set-output name=a::b"):
            with self.subTest(name=name[:20]):
                result, _ = self.actions("--min-score", name + "=0.5", summary=False)
                lines = re.split("[\r\n]+", result.err.strip())
                self.assertEqual([line[:8] for line in lines], ["::error ", "There ar"], result)

    def test_github_summary_is_a_table(self):
        for name in HOSTILE_NAMES:
            _, lines = self.actions("--min-score", name + "=0.5", "--max-p95", "8s")
            table = [line for line in lines if line.startswith("|")]
            with self.subTest(name=name[:20]):
                self.assertEqual(len(table), 5)         # all holds, or there is nothing
                for line in table:
                    self.assertEqual(len(re.findall(r"(?<!\\)\|", line)), 6, line)
                    self.assertNotIn("<b>", line)
            os.unlink(self.path("summary.md"))

    def test_github_is_told_of_errors_too(self):
        self.server.fault("trace.list", times=None, status=403)
        result, lines = self.actions("--max-cost", "1")
        self.assertEqual((result.code, lines), (5, []))
        self.assertRegex(result.err, r"\A::error title=twosignal::Permission denied\. .*\nError: ")

    def test_github_names_the_worst_traces(self):
        worst = max(self.server.rows("traces"), key=lambda row: row["totalCost"])
        result, lines = self.actions("--max-cost", "0.035", "--max-p95", "9h")
        self.assertEqual(result.code, 10)
        annotations = [line for line in result.err.splitlines() if line.startswith("::error ")]
        self.assertEqual(len(annotations), 1)
        self.assertIn(worst["id"], annotations[0])
        self.assertIn("| %s | $0.04 | highest cost |" % worst["id"], lines)

    def test_github_summary_is_added_to_what_is_there(self):
        self.write("summary.md", "# Before\n")
        _, lines = self.actions("--max-cost", "1")
        self.assertEqual(lines[0], "# Before")
        again = self.actions("--max-cost", "1")[1]
        self.assertEqual(again[:len(lines)], lines)
        self.assertGreater(len(again), len(lines))

    def test_github_summary_that_cannot_be_written_changes_no_verdict(self):
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": self.folder}
        for option, code in (("4s", 0), ("1s", 10)):
            result = self.check("--max-p95", option, env=env)
            self.assertEqual(result.code, code, result)
            self.assertIn("GITHUB_STEP_SUMMARY", result.err)

    def test_elsewhere_nothing_of_github(self):
        result = self.check("--max-p95", "1s",
                            env={"GITHUB_STEP_SUMMARY": self.path("summary.md")})
        self.assertEqual((result.code, result.err), (10, ""))
        self.assertFalse(os.path.exists(self.path("summary.md")))

    def test_stdout_stays_one_json_document(self):
        result, _ = self.actions("--json", "--max-p95", "1s", "--junit", self.report)
        self.assertEqual((result.code, result.json["passed"]), (10, False))

    def test_output_file_holds_a_failed_verdict_too(self):
        path = self.path("verdict.json")
        result = self.check("--json", "--max-p95", "1s", "-o", path)
        self.assertEqual((result.code, result.out), (10, ""))
        with open(path, encoding="utf-8") as file:
            self.assertIs(json.load(file)["passed"], False)


class TestUsageGate(GateCase):
    def usage(self, *args, **kwargs):
        return self.cli("usage", "--org", self.server.org, *args, **kwargs)

    def test_limits_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.server.set_usage(self.server.org, None, traces=45000, spans=1, evals=900)
            for percent, code in (("89", 10), ("89.99", 10), ("90", 0), ("90%", 0), ("91", 0),
                                  ("100", 0), ("0", 10)):
                with self.subTest(dialect=dialect, percent=percent):
                    result = self.usage("--json", "--fail-above", percent)
                    self.assertEqual(result.code, code, result)
                    self.assertEqual(result.json["traces_used"], 45000)
                    self.assertEqual(bool(result.err), code != 0)

    def test_evaluations_count_too(self):
        self.server.set_usage(self.server.org, None, traces=5, spans=1, evals=4600)
        result = self.usage("--fail-above", "90")
        self.assertEqual(result.code, 10)
        self.assertIn("92%", result.err)
        self.assertEqual(self.usage("--fail-above", "92").code, 0)

    def test_all_that_is_passed_is_told(self):
        self.server.set_usage(self.server.org, None, traces=46000, evals=4700)
        self.assertIn("Error: 92% of the traces of the plan and 94% of the evals of the plan are "
                      "used, more than 90%.", self.usage("--fail-above", "90").err)

    def test_output_file_is_kept(self):
        self.server.set_usage(self.server.org, None, traces=46000)
        path = self.path("usage.json")
        self.assertEqual(self.usage("--fail-above", "90", "-o", path).code, 10)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(json.load(file)["traces_used"], 46000)

    def test_more_than_the_limit(self):
        self.server.set_usage(self.server.org, None, traces=60000)
        self.assertEqual(self.usage("--fail-above", "100").code, 10)

    def test_without_a_limit(self):
        self.server.set_usage(self.server.org, None, traces=10 ** 9, evals=10 ** 9)
        self.server.set_plan(self.server.org, "ENTERPRISE")
        self.assertOk(self.usage("--fail-above", "1"), err="")

    def test_unknown_plan_is_no_pass(self):
        self.server.set_plan(self.server.org, "PLATINUM")
        self.assertFails(self.usage("--fail-above", "90"), 11, "PLATINUM")
        self.assertOk(self.usage())

    def test_bad_input(self):
        for percent in ("-1", "most", "101", "", "NaN", "90%%%x"):
            with self.subTest(percent=percent):
                self.assertFails(self.usage("--fail-above", percent), 2)
        self.assertEqual(self.server.requests, [])

    def test_junit(self):
        self.server.set_usage(self.server.org, None, traces=45000, evals=5)
        for percent, code, failures in (("95", 0, []), ("80", 10, ["traces of the plan"])):
            result = self.usage("--fail-above", percent, "--junit", self.path("report.xml"))
            self.assertEqual(result.code, code, result)
            suite = xml.etree.ElementTree.parse(self.path("report.xml")).find("testsuite")
            self.assertEqual((suite.get("name"), suite.get("tests")), ("twosignal usage", "2"))
            self.assertEqual([case.get("name") for case in suite.findall("testcase")
                              if case.find("failure") is not None], failures)
        self.assertFails(self.usage("--fail-above", "1", "--junit", self.path("no", "x.xml")), 1)

    def test_junit_needs_a_limit(self):
        self.assertFails(self.usage("--junit", self.path("report.xml")), 2, "--fail-above")
        self.assertEqual(self.server.requests, [])

    def test_error_is_json_where_json_was_asked_for(self):
        self.server.set_usage(self.server.org, None, traces=45000)
        result = self.usage("--json", "--fail-above", "50")
        self.assertEqual((result.code, (result.error or {}).get("exit_code")), (10, 10), result)

    def test_in_github_actions(self):
        self.server.set_usage(self.server.org, None, traces=45000)
        path = self.path("summary.md")
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path}
        result = self.usage("--fail-above", "80", env=env)
        self.assertEqual(result.code, 10, result)
        self.assertRegex(result.err, r"(?m)^::error [^:]*::.*90%25")
        self.assertTrue(os.path.exists(path))


############################################################
# traces wait
############################################################

class TestWait(GateCase):
    def wait(self, *args, steps=(), **kwargs):
        naps = Steps(*steps)
        result = self.traces("wait", *args, naps=naps, **kwargs)
        result.naps = naps
        return result

    def add_evaluators(self, **enabled):
        for name, on in enabled.items():
            self.server.add_evaluator(name=name, enabled=on)

    def test_what_is_there_needs_no_waiting(self):
        self.add(3)
        result = self.assertOk(self.wait("--count", "3"), err="")
        self.assertEqual(result.naps, [])

    def test_arrives_meanwhile_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            with self.subTest(dialect=dialect):
                result = self.assertOk(self.wait("--count", "3", "--json", steps=(
                    lambda: self.add(1), nothing, lambda: self.add(2))))
                self.assertEqual((result.json["found"], result.json["wanted"]), (3, 3))
                self.assertEqual(len(result.naps.long()), 3)

    def test_with_a_key(self):
        result = self.wait("--count", "2", env=self.key(), steps=(lambda: self.add(2),))
        self.assertOk(result)
        self.assertEqual(self.server.count("/api/trpc/"), 0)
        self.assertFails(self.wait("--scored", env=self.key()), 4, "login")

    def test_only_what_matches_counts(self):
        self.add(5)
        result = self.wait("--error", "--count", "1", steps=(
            lambda: self.add(5), lambda: self.add(1, status="ERROR")))
        self.assertOk(result)
        self.assertEqual(len(result.naps.long()), 2)

    def test_counts_over_pages(self):
        self.add(230)
        result = self.wait("--count", "231", steps=(nothing, lambda: self.add(1)))
        self.assertOk(result)

    def test_scored_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.add_evaluators(quality=True, safety=True, retired=False)
            trace, = self.add(1)
            with self.subTest(dialect=dialect):
                result = self.assertOk(self.wait("--scored", steps=(
                    lambda: self.server.add_score(trace, "quality", 0.1),
                    lambda: self.server.add_score(trace, "unrelated", 0.1),
                    lambda: self.server.add_score(trace, "safety", 0.1))))
                self.assertEqual(len(result.naps.long()), 3)

    def test_scored_counts_the_traces_that_are(self):
        self.add_evaluators(quality=True)
        traces = self.add(3)
        result = self.assertOk(self.wait("--scored", "--count", "2", steps=(
            lambda: self.server.add_score(traces[0], "quality", 0.9),
            lambda: self.server.add_score(traces[2], "quality", 0.9))))
        self.assertEqual(len(result.naps.long()), 2)

    def test_scores_that_are_known_are_not_asked_for_again(self):
        self.use(**OLD)
        self.add_evaluators(quality=True)
        traces = self.add(3)
        self.server.add_score(traces[0], "quality", 0.9)
        counts = []
        result = self.assertOk(self.wait("--scored", "--count", "3", steps=(
            lambda: counts.append(self.server.count("trace.byId")),
            lambda: counts.append(self.server.count("trace.byId")),
            lambda: [self.server.add_score(trace, "quality", 0.5) for trace in traces[1:]])))
        self.assertEqual(counts, [1, 1])
        self.assertEqual(result.err, "1 of 3 traces are scored.\n")

    def test_progress_is_told(self):
        result = self.assertOk(self.wait("--count", "3", steps=(
            nothing, lambda: self.add(1), nothing, lambda: self.add(1), lambda: self.add(1))))
        self.assertEqual(result.err, "".join("%d of 3 traces have arrived.\n" % number
                                             for number in range(3)))

    def test_progress_in_a_terminal(self):
        true = twosignal.Console.progress
        with mock.patch.object(twosignal.Console, "progress", lambda console, text, since: true(
                console, text, since - 60)):
            result = self.assertOk(self.wait("--count", "2", tty=True, steps=(
                nothing, lambda: self.add(2))))
        self.assertRegex(result.err, r"\A\r0 of 2 traces have arrived, \d+ s")
        self.assertEqual(result.err.split("\r")[-1], "")
        self.assertNotIn("\n", result.err)

    def test_the_same_trouble_again_is_told_again(self):
        def fail():
            self.server.fault("trace.list", times=3, status=503)
        fail()
        result = self.assertOk(self.wait(steps=[nothing, nothing, fail, nothing, nothing,
                                                lambda: self.add(1)]))
        self.assertEqual(result.err.count("Trying again"), 2)

    def test_a_project_by_its_name(self):
        """It is looked for with the same patience."""
        self.server.fault("organization.list", times=4, status=503)
        self.server.fault("project.list", times=4, status=503)
        result = self.cli("traces", "wait", "--project", "Support Agent", naps=Steps(
            *[nothing] * 6 + [lambda: self.add(1)] * 2))
        self.assertOk(result)
        self.assertEqual(self.server.count("organization.list"), 4 + 2)
        self.assertFails(self.cli("traces", "wait", "--project", "support agent", naps=Steps()), 6)

    def test_a_server_that_hangs_while_the_project_is_looked_for(self):
        fault = self.server.fault("organization.list", times=None, delay=True)
        self.addCleanup(fault.release.set)
        result = self.cli("traces", "wait", "--project", "Support Agent", "--timeout", "50ms",
                          naps=False)
        self.assertEqual(result.code, 11, result)

    def test_the_same_trouble_is_told_once(self):
        self.server.fault("trace.list", times=21, status=503)
        result = self.assertOk(self.wait(steps=[nothing] * 7 + [lambda: self.add(1)] * 2))
        self.assertEqual(result.err.count("Trying again"), 1)

    def test_tells_what_is_missing(self):
        self.add_evaluators(quality=True, safety=True, retired=False)
        self.add(1, scores=[{"evaluatorName": "quality", "value": 1}])
        self.add(1, scores=[{"evaluatorName": {"odd": 1}, "value": 1}])
        result = self.wait("--scored", "--count", "2", "--timeout", "50ms")
        self.assertEqual(result.code, 11, result)
        self.assertIn("Not all are scored by quality, safety.", result.err)

    def test_scored_where_no_evaluator_is_enabled(self):
        self.assertFails(self.wait("--scored"), 11, "evaluator")
        self.add_evaluators(retired=False)
        self.assertFails(self.wait("--scored"), 11, "evaluator")

    def test_timeout(self):
        self.add(1)
        for options in ((), ("--json",)):
            result = self.wait("--count", "2", "--timeout", "50ms", *options)
            self.assertEqual(result.code, 11, result)
            self.assertIn("2", result.out)

    def test_timeout_in_github_actions(self):
        path = self.path("summary.md")
        result = self.wait("--tag", "v2", "--count", "3", "--timeout", "50ms", env={
            "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path})
        self.assertEqual(result.code, 11)
        self.assertIn("::error title=twosignal::traces that have arrived: too few, measured 0, "
                      "limit 3\n", result.err)
        self.assertIn("--timeout", result.err)
        with open(path, encoding="utf-8") as file:
            self.assertIn("| traces that have arrived | 0 | 3 | TOO FEW |", file.read())

    def test_timeout_while_not_scored(self):
        self.add_evaluators(quality=True)
        self.add(1)
        self.assertEqual(self.wait("--scored", "--timeout", "50ms").code, 11)

    def test_polling_is_gentle(self):
        result = self.wait(steps=[nothing] * 14 + [lambda: self.add(1)])
        self.assertOk(result)
        naps = result.naps.long()
        self.assertGreater(min(naps[8:]), 2 * max(naps[:2]))
        self.assertLessEqual(max(naps), 30)

    def test_server_that_fails_meanwhile(self):
        for fault in ({"status": 503}, {"status": 500}, {"reset": True}, {"cut": 20},
                      {"garbage": b"<html>"}, {"status": 429}):
            self.use()
            self.server.fault("trace.list", times=7, **fault)
            with self.subTest(fault=fault):
                result = self.wait(steps=[nothing] * 8 + [lambda: self.add(1)])
                self.assertOk(result)
                self.assertNotEqual(result.err, "")

    def test_server_that_fails_at_the_start(self):
        self.add_evaluators(quality=True)
        self.add(scores=[{"evaluatorName": "quality", "value": 1}])
        self.server.fault("evaluator.list", times=4, status=503)
        self.assertOk(self.wait("--scored", steps=[nothing] * 3))

    def test_server_that_is_gone_all_the_time(self):
        self.server.stop()
        result = self.wait("--timeout", "50ms")
        self.assertEqual(result.code, 11, result)
        self.assertNotIn("Traceback", result.err)

    def test_retry_after_is_respected(self):
        self.server.fault("trace.list", times=1, status=429, headers={"Retry-After": "45"})
        result = self.assertOk(self.wait(steps=[lambda: self.add(1)] + [nothing] * 9))
        self.assertGreaterEqual(sum(result.naps), 44)

    def test_many_slow_pages_end_with_the_time(self):
        """--timeout bounds the whole, not each request."""
        self.add(120)
        self.server.fault("trace.list", times=None, drip=0.002)
        result = self.cli("traces", "wait", "--project", self.server.project, "--count", "120",
                          "--timeout", "100ms", naps=False)
        self.assertEqual(result.code, 11, result)
        self.assertEqual(self.server.count("trace.list"), 1)

    def test_answer_that_does_not_come_ends_with_the_time(self):
        fault = self.server.fault("trace.list", times=None, delay=True)
        project, done = self.server.project, threading.Event()
        command = [sys.executable, SCRIPT, "traces", "wait", "--project", project,
                   "--timeout", "200ms"]
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        threading.Thread(target=lambda: process.wait() is None or done.set(), daemon=True).start()
        in_time = done.wait(20)     # less than the 30 seconds that a request may take
        fault.release.set()
        if not in_time:
            process.kill()
        self.assertTrue(done.wait(tools.DEADLINE))
        self.assertTrue(in_time, "it waited for an answer longer than --timeout")
        self.assertEqual(process.returncode, 11)

    def test_session_that_expires_meanwhile(self):
        result = self.wait(steps=(lambda: self.server.expire("owner@example.com"),
                                  lambda: self.add(1)))
        self.assertOk(result)
        self.assertEqual(self.server.count("auth/refresh"), 1)

    def test_session_that_is_revoked_ends_it(self):
        result = self.wait(steps=(lambda: self.server.revoke("owner@example.com"), nothing))
        self.assertFails(result, 4, "Authentication expired")

    def test_what_no_waiting_helps_against_ends_it(self):
        result = self.cli("traces", "wait", "--project", self.server.hidden, naps=Steps())
        self.assertFails(result, 6, "Project not found")

    def test_ctrl_c(self):
        self.assertEqual(self.wait(steps=(nothing,)).code, 130)

    def test_bad_input(self):
        for given in ("--count 0", "--count few", "--timeout soon", "--timeout 0", "--timeout 0s",
                      "--timeout 9999h", "--tag=", "--search=",
                      "--timeout -5s", "--since yesterday-ish", "--timeout 1.2.3"):
            with self.subTest(given=given):
                self.assertFails(self.wait(*given.split()), 2)
        self.assertEqual(self.server.requests, [])


############################################################
# traces tail
############################################################

def interrupted(procedure):
    """A Transport.request in which Ctrl-C comes before that procedure is asked for."""
    real = twosignal.Transport.request

    def request(transport, method, url, *args, **kwargs):
        if procedure in url:
            raise KeyboardInterrupt
        return real(transport, method, url, *args, **kwargs)
    return request


class TestTail(GateCase):
    def tail(self, *args, steps=(), **kwargs):
        result = self.traces("tail", *args, naps=Steps(*steps), **kwargs)
        self.assertNotIn("Traceback", result.err)
        return result

    def named(self, *args, **kwargs):
        """The names that tail shows, in their order."""
        result = self.tail("--format", "jsonl", *args, **kwargs)
        self.assertEqual(result.code, 0, result)
        return [json.loads(line)["name"] for line in result.lines]

    def add_named(self, *names, **fields):
        for name in names:
            self.server.add_trace(name=name, **fields)

    def add_burst(self, prefix, count):
        """As many traces, a millisecond apart, the last one now."""
        now = datetime.datetime.now(datetime.timezone.utc)
        for place in range(count):
            created = now - datetime.timedelta(milliseconds=count - 1 - place)
            self.server.add_trace(name="%s %d" % (prefix, place), created=created)

    def test_new_traces_oldest_first_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.add_named("a", created=minutes_ago(9))
            self.add_named("b", created=minutes_ago(8))
            with self.subTest(dialect=dialect):
                names = self.named(steps=(lambda: self.add_named("c"), nothing,
                                          lambda: self.add_named("d", "e"), nothing))
                self.assertEqual(names, list("abcde"))

    def test_with_a_key(self):
        self.add_named("a")
        names = self.named(env=self.key(), steps=(lambda: self.add_named("b"), nothing))
        self.assertEqual(names, ["a", "b"])
        self.assertEqual(self.server.count("/api/trpc/"), 0)

    def test_begins_with_the_newest(self):
        for number in range(20):
            self.add_named("t%02d" % number, created=minutes_ago(60 - number))
        self.assertEqual(self.named(), ["t%02d" % number for number in range(10, 20)])
        self.assertEqual(self.named("-n", "2"), ["t18", "t19"])

    def test_begins_with_as_many_as_were_asked_for(self):
        self.add_burst("x", 230)
        self.add(1, name="slow", duration_ms=90000, created=minutes_ago(60))
        self.assertEqual(self.named("-n", "150"), ["x %d" % place for place in range(80, 230)])
        self.assertEqual(self.named("--min-duration", "1m"), ["slow"])

    def test_empty_project(self):
        names = self.named(steps=(nothing, lambda: self.add_named("a"), nothing))
        self.assertEqual(names, ["a"])

    def test_a_burst_between_two_looks(self):
        self.add_named("first", created=minutes_ago(5))
        count = full(250, 2500)
        names = self.named(steps=(lambda: self.add_burst("x", count), nothing,
                                  lambda: self.add_burst("y", 101), nothing))
        expected = ["first"] + ["x %d" % place for place in range(count)] \
            + ["y %d" % place for place in range(101)]
        self.assertEqual(names, expected)

    def test_a_burst_into_an_empty_project(self):
        names = self.named(steps=(lambda: self.add_burst("x", 250), nothing))
        self.assertEqual(names, ["x %d" % place for place in range(250)])

    def test_a_trace_that_arrives_after_one_that_began_later(self):
        self.add_named("old", created=minutes_ago(30))
        self.add_named("long", created=minutes_ago(20))
        self.add_named("short", created=minutes_ago(1))
        names = self.named(steps=(lambda: self.add_named("late", created=minutes_ago(2)), nothing))
        self.assertEqual(names, ["old", "long", "short", "late"])

    def test_a_clock_that_is_ahead_of_the_server_loses_nothing(self):
        names = self.named(steps=(lambda: self.add_named("a", created=minutes_ago(10)), nothing))
        self.assertEqual(names, ["a"])

    def test_equal_times_are_shown_once_each(self):
        moment = minutes_ago(1)
        self.add_named("a", created=moment)
        names = self.named(steps=(lambda: self.add_named("b", created=moment), nothing,
                                  lambda: self.add_named("c", created=moment), nothing))
        self.assertEqual(names, ["a", "b", "c"])

    def test_only_what_matches(self):
        self.add_named("a", "b")
        names = self.named("--error", "--search", "x", steps=(
            lambda: self.add_named("x1", status="ERROR"), lambda: self.add_named("x2"),
            lambda: self.add_named("y", status="ERROR"),
            lambda: self.add_named("x3", status="ERROR"), nothing))
        self.assertEqual(names, ["x1", "x3"])

    def test_a_server_that_ignores_filters(self):
        self.use(known_filters=())
        self.add_named("a", created=minutes_ago(2))
        names = self.named("--error", steps=(
            lambda: self.add_named("b"), lambda: self.add_named("c", status="ERROR"), nothing))
        self.assertEqual(names, ["c"])

    def test_a_look_does_not_read_the_whole_project(self):
        for place in range(450):
            self.add_named("old %d" % place, created=minutes_ago(500 - place))
        self.add_named("slow", duration_ms=90000, created=minutes_ago(3))
        self.server.clear()
        counts = []
        self.tail("--min-duration", "1m", "-n", "1", "--format", "jsonl", steps=[
            lambda: counts.append(self.server.count("trace.list"))] * 3)
        looks = [after - before for before, after in zip(counts, counts[1:])]
        self.assertLessEqual(max(looks), 2, "pages that were read for one look")

    def test_expired_session(self):
        self.add_named("a")
        names = self.named(steps=(lambda: self.server.expire("owner@example.com"),
                                  lambda: self.add_named("b"), nothing))
        self.assertEqual(names, ["a", "b"])
        self.assertEqual(self.server.count("auth/refresh"), 1)

    def test_revoked_session_ends_it(self):
        self.add_named("a")
        result = self.tail(steps=(lambda: self.server.revoke("owner@example.com"), nothing))
        self.assertEqual(result.code, 4, result)
        self.assertIn("Authentication expired", result.err)

    def test_server_that_restarts(self):
        self.use(data=self.path("server.db"))
        self.add_named("a", created=minutes_ago(3))
        port = int(self.server.url.rpartition(":")[2])

        def restart():
            self.server = self.serve(data=self.path("server.db"), port=port)
            self.add_named("b")
        names = self.named(steps=(nothing, self.server.stop, nothing, restart, nothing))
        self.assertEqual(names, ["a", "b"])

    def test_server_that_fails_meanwhile(self):
        for fault in ({"status": 503}, {"status": 429}, {"reset": True}, {"cut": 20},
                      {"garbage": b"<html>"}):
            self.use()
            self.add_named("a", created=minutes_ago(5))

            def fail():
                self.server.fault("trace.list", times=7, **fault)
                self.add_named("b")
            with self.subTest(fault=fault):
                self.assertEqual(self.named(steps=[fail] + [nothing] * 9), ["a", "b"])

    def test_failure_half_way_through_a_burst(self):
        self.add_named("a", created=minutes_ago(5))

        def burst():
            self.add_burst("x", 250)
            real, pages = self.server.world.page, []

            def page(*args):
                pages.append(args)
                if len(pages) == 2:
                    self.server.fault("trace.list", times=3, status=503)
                return real(*args)
            self.server.world.page = page
        names = self.named(steps=[burst] + [nothing] * 5)
        self.assertEqual(names, ["a"] + ["x %d" % place for place in range(250)])

    def test_ctrl_c_ends_it_wherever_it_is(self):
        self.add_named("a")
        for place in ("project.list", "trace.list"):
            with self.subTest(place=place), mock.patch.object(twosignal.Transport, "request",
                                                              interrupted(place)):
                result = self.cli("traces", "tail", "--project", "Support Agent", naps=Steps())
                self.assertEqual((result.code, result.out), (0, ""), result)

    def test_pages_without_a_trace_are_passed_over(self):
        """A server that filters behind its paging answers with empty pages and a cursor."""
        self.add_named("a", created=minutes_ago(5))
        real, looks = self.server.world.page, []

        def page(project, given):
            looks.append(given.get("cursor"))
            if len(looks) > 2 and not given.get("cursor"):
                return [], self.server.rows("traces")[-1]["id"]
            return real(project, {key: given[key] for key in given if key != "cursor"})
        self.server.world.page = page
        names = self.named(steps=(nothing, lambda: self.add_named("b"), nothing))
        self.assertEqual(names, ["a", "b"])

    def test_a_trace_that_matches_once_it_has_ended(self):
        """While it runs it has no duration and no cost, and no error yet."""
        for filters in ((), standin.OPTIONS["known_filters"]):
            self.use(known_filters=filters)
            self.add_named("old", created=minutes_ago(9), duration_ms=None)

            def start():
                self.running = self.server.add_trace(name="slow", duration_ms=None, cost=None)

            def end():
                with self.server.transaction():
                    row = self.server.store.get("traces", self.running)
                    self.server.world.change("traces", row, {
                        "durationMs": 9000, "totalCost": 2.5, "status": "ERROR"})
            for options in ("--min-duration 5s", "--min-cost 1", "--error",
                            "--error --min-cost 1 --max-duration 1m"):
                with self.subTest(filters=filters, options=options):
                    names = self.named(*options.split(), steps=(nothing, start, nothing, end,
                                                                nothing, nothing))
                    self.assertEqual(names, ["slow"])
                    self.server.store.remove("traces", self.running)

    def test_traces_without_a_time(self):
        """What was there before does not come again, and not out of order."""
        rows = [{"id": str(place), "name": str(place)} for place in range(300)]

        def page(client, values):
            start = len(rows) - values.get("cursor", 0)
            return {"traces": [dict(row) for row in rows[max(0, start - 100):start][::-1]],
                    "nextCursor": values.get("cursor", 0) + 100 if start > 100 else None}

        def add(*names):
            rows.extend({"id": name, "name": name} for name in names)
        burst = ["x%d" % place for place in range(150)]
        with mock.patch.object(twosignal.Client, "_page", page):
            names = self.named("-n", "2", steps=(
                nothing, lambda: add("a"), nothing, lambda: add("b", "c"), lambda: add(*burst),
                nothing))
        self.assertEqual(names, ["298", "299", "a", "b", "c"] + burst)

    def test_only_new_ones(self):
        self.add_named("a", created=minutes_ago(1))
        names = self.named("-n", "0", steps=(nothing, lambda: self.add_named("b"), nothing))
        self.assertEqual(names, ["b"])

    def test_bare_lists_without_a_way_to_older_ones(self):
        self.use(bare_list=True, known_filters=())
        self.add_burst("old", 120)
        names = self.named("-n", "1", steps=(nothing, lambda: self.add_named("a"), nothing,
                                             lambda: self.add_burst("x", 60), nothing))
        self.assertEqual(names, ["old 119", "a"] + ["x %d" % place for place in range(60)])

    def test_scores_that_are_on_their_way(self):
        """The list counts a score that the trace does not have yet."""
        trace = self.server.add_trace(name="a", scores=[{"evaluatorName": "tone", "value": 1}])
        body = {"result": {"data": {"json": {"id": trace, "scores": [], "spans": []}}}}
        self.server.fault("trace.getById", times=1, status=200, body=body)
        self.assertEqual(self.named(), ["a"])

    def test_csv_has_a_column_for_what_comes_later(self):
        rows = [{"id": "1", "name": "a", "createdAt": "2026-03-14T10:30:00.000Z"}]

        def add():
            rows.insert(0, {"id": "2", "name": "b", "sessionId": "s",
                            "createdAt": "2026-03-14T10:30:01.000Z"})
        with mock.patch.object(twosignal.Client, "_page", lambda client, values: {
                "traces": [dict(row) for row in rows]}):
            result = self.tail("--format", "csv", steps=(nothing, add, nothing))
        found = list(csv.DictReader(io.StringIO(result.out)))
        self.assertEqual([row["session_id"] for row in found], ["", "s"])

    def test_a_file_is_kept_however_it_ends(self):
        self.add_named("a")
        path = self.write("out.jsonl", "before")
        self.assertEqual(self.tail("-o", path).code, 0)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(json.loads(file.read())["name"], "a")

        def end():
            os.kill(os.getpid(), signal.SIGTERM)
        handler = signal.signal(signal.SIGTERM, lambda *_: None)
        self.addCleanup(signal.signal, signal.SIGTERM, handler)
        self.add_named("b")
        self.assertEqual(self.tail("-o", path, steps=(nothing, end)).code, 143)
        with open(path, encoding="utf-8") as file:
            self.assertEqual([json.loads(line)["name"] for line in file], ["a", "b"])

    def test_a_file_stays_where_nothing_came(self):
        path = self.write("out.jsonl", "before")
        self.assertEqual(self.tail("-o", path, steps=(nothing,)).code, 0)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "before")

    def test_memory_stays_flat(self):
        """Also where the server tells no times."""
        for time in (None, "2026-03-14T10:30:00.000Z"):
            args = twosignal._arguments("traces tail", twosignal.COMMANDS["traces tail"],
                                        ["--project", "p"])
            look = twosignal.Tail(mock.Mock(key=None), args)
            for place in range(300):
                look._fresh([{"id": "%d %d" % (place, number), "createdAt": time}
                             for number in range(100)])
                look._forget()
            self.assertLessEqual(len(look.seen), 20000 if time is None else 30000)

    def test_a_cursor_that_has_expired(self):
        self.add_named("a", created=minutes_ago(5))

        def burst():
            self.add_burst("x", 250)
            real, pages = self.server.world.page, []

            def page(project, given):
                pages.append(given.get("cursor"))
                if len(pages) == 2:
                    raise standin.Refusal("BAD_REQUEST", "Invalid cursor")
                return real(project, given)
            self.server.world.page = page
        names = self.named(steps=[burst] + [nothing] * 3)
        self.assertEqual(names, ["a"] + ["x %d" % place for place in range(250)])

    def test_shows_the_time_of_day(self):
        self.add_named("a")
        line = self.tail().lines[-1]
        self.assertRegex(line, r"\d\d:\d\d:\d\dZ|\d{4}-\d\d-\d\d")

    def test_says_that_it_waits(self):
        true = twosignal.Console.progress
        with mock.patch.object(twosignal.Console, "progress", lambda console, text, since: true(
                console, text, since - 60)):
            result = self.tail(tty=True, steps=(nothing,))
        self.assertTrue(result.err.startswith("\rWaiting for new traces; Ctrl-C ends it"))

    def test_gentler_while_the_server_fails(self):
        self.server.fault("trace.list", times=None, status=503)
        self.server.faults[0].times = 0
        naps = Steps(lambda: setattr(self.server.faults[0], "times", None), *[nothing] * 8)
        self.traces("tail", naps=naps)
        self.assertGreater(naps.long()[-1], 4 * naps.long()[0])
        self.assertLessEqual(max(naps), 120)

    def test_retry_after_is_respected(self):
        def limit():
            self.server.fault("trace.list", times=1, status=429, headers={"Retry-After": "45"})
        naps = Steps(limit, lambda: naps.append(0), *[nothing] * 3)
        self.traces("tail", naps=naps)
        self.assertGreaterEqual(max(naps), 45)

    def test_retry_after_is_not_for_ever(self):
        for asked in ("999999999", "Fri, 01 Jan 4999 00:00:00 GMT"):
            def limit():
                self.server.fault("trace.list", times=1, status=429,
                                  headers={"Retry-After": asked})
            naps = Steps(limit, *[nothing] * 3)
            with self.subTest(asked=asked):
                self.traces("tail", naps=naps)
                self.assertLessEqual(max(naps), 3600)

    def test_table(self):
        self.add_named("a", created=minutes_ago(5))
        result = self.tail(steps=(lambda: self.add_named("b"), nothing), columns=120)
        self.assertEqual(result.code, 0)
        self.assertEqual([line.split()[0] for line in result.lines].count("ID"), 1)
        self.assertEqual([line.split()[-1] for line in result.lines[2:]], ["a", "b"])

    def test_fields(self):
        self.add_named("a", created=minutes_ago(5))
        result = self.tail("--fields", "name,status", "--format", "csv",
                           steps=(lambda: self.add_named("b"), nothing))
        self.assertEqual(list(csv.reader(io.StringIO(result.out))),
                         [["name", "status"], ["a", "OK"], ["b", "OK"]])

    def test_list_of_fields_does_not_wait_for_more(self):
        self.add_named("a")
        result = self.tail("--fields", "?", steps=[nothing] * 3)
        self.assertIn("created_at", result.out)

    def test_json_is_one_document_or_refused(self):
        self.add_named("a")
        result = self.tail("--json", steps=(lambda: self.add_named("b"), nothing))
        if result.code != 2:
            self.assertEqual([trace["name"] for trace in result.json], ["a", "b"])

    def test_output_file_is_written_or_refused(self):
        self.add_named("a")
        path = self.path("tail.jsonl")
        result = self.tail("--format", "jsonl", "-o", path, steps=(nothing,))
        if result.code == 0:
            with open(path, encoding="utf-8") as file:
                self.assertEqual(len(file.readlines()), 1)

    def test_many_looks_show_nothing_twice(self):
        self.add_named("a")
        result = self.tail("--format", "jsonl", steps=[nothing] * 20)
        self.assertEqual(len(result.lines), 1)

    def test_bad_input(self):
        for given in ("-n -1", "--interval 0", "--interval 0s", "--interval 9999h",
                      "--interval often", "--since yesterday-ish"):
            with self.subTest(given=given):
                self.assertFails(self.tail(*given.split()), 2)


# Whatever is started in the background ignores Ctrl-C, and so would its children.
WITH_CTRL_C = ("import runpy, signal, sys; sys.argv.pop(0); "
               "signal.signal(signal.SIGINT, signal.default_int_handler); "
               "runpy.run_path(sys.argv[0], run_name='__main__')")


class TestTailAsProcess(GateCase):
    """What takes a process: lines that come at once, Ctrl-C, a reader that goes away."""

    def start(self, *args):
        command = [sys.executable, "-c", WITH_CTRL_C, SCRIPT, "traces", "tail", "--project",
                   self.server.project, "--interval", "50ms", "--format", "jsonl"]
        process = subprocess.Popen(
            command + list(args), env=merged(self.environment, None), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        guard = threading.Timer(tools.DEADLINE, process.kill)
        guard.daemon = True
        guard.start()
        self.addCleanup(self.end, process, guard)
        return process

    def end(self, process, guard):
        guard.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            stream.close()

    def read_name(self, process):
        line = process.stdout.readline()
        self.assertTrue(line, "no line in time")
        return json.loads(line.decode("utf-8"))["name"]

    @unittest.skipIf(os.name == "nt", "signals of POSIX")
    def test_each_line_at_once_then_ctrl_c(self):
        self.server.add_trace(name="a")
        process = self.start()
        self.assertEqual(self.read_name(process), "a")
        for name in ("b", "c"):
            self.server.add_trace(name=name)
            self.assertEqual(self.read_name(process), name)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(tools.DEADLINE), 0)
        self.assertEqual(process.stdout.read(), b"")
        self.assertNotIn(b"Traceback", process.stderr.read())

    @unittest.skipIf(os.name == "nt", "signals of POSIX")
    def test_reader_that_goes_away(self):
        self.server.add_trace(name="a")
        process = self.start()
        self.read_name(process)
        process.stdout.close()
        self.server.add_trace(name="b")
        self.assertEqual(process.wait(tools.DEADLINE), 141)
        self.assertEqual(process.stderr.read(), b"")


############################################################
# api
############################################################

class TestApi(GateCase):
    options = {}

    def test_query(self):
        result = self.assertOk(self.cli("api", "organization.list"))
        self.assertEqual(result.json[0]["memberCount"], 4)
        self.assertEqual(self.server.requests[-1].method, "GET")

    def test_query_with_input_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**dict(options, empty=False))
            given = json.dumps({"projectId": self.server.project, "limit": 2})
            with self.subTest(dialect=dialect):
                answer = self.assertOk(self.cli("api", "trace.list", "--input", given)).json
                rows = answer["items" if dialect == "old" else "traces"]
                self.assertEqual(len(rows), 2)
                self.assertIn("totalCost", rows[0])

    def test_input_from_file_and_stdin(self):
        given = json.dumps({"projectId": self.server.project})
        path = self.write("input.json", given)
        for source, stdin in (("@" + path, None), ("-", given)):
            self.assertOk(self.cli("api", "evaluator.list", "--input", source, stdin=stdin))
        self.assertEqual(procedure_inputs(self.server, "evaluator.list"), [json.loads(given)] * 2)

    def test_mutation(self):
        given = json.dumps({"name": "Made by api"})
        result = self.assertOk(self.cli("api", "organization.create", "--mutation",
                                        "--input", given))
        self.assertEqual(result.json["name"], "Made by api")
        self.assertEqual(self.server.requests[-1].method, "POST")

    def test_kinds_are_not_mixed_up(self):
        result = self.cli("api", "organization.create", "--input", '{"name": "No"}')
        self.assertNotEqual(result.code, 0)
        self.assertEqual(len(self.server.rows("organizations")), 2)
        self.assertNotEqual(self.cli("api", "organization.list", "--mutation").code, 0)

    def test_unknown_procedure(self):
        for options in ({"errors": 11}, {"errors": 10, "bare_errors": True}):
            self.use(**options)
            for more in ((), ("--mutation",)):
                self.assertFails(self.cli("api", "trace.explain", *more), 8, "trace.explain")

    def test_input_arrives_as_it_is(self):
        values = {"projectId": self.server.project, "description": None, "list": [None, {}],
                  "umlaut": "ä 🤖", "self": 1, "number": 1.5}
        self.cli("api", "evaluator.list", "--input", json.dumps(values))
        self.cli("api", "project.create", "--mutation", "--input", json.dumps(values))
        self.assertEqual(procedure_inputs(self.server, "project.create"), [values])
        self.assertEqual(procedure_inputs(self.server, "evaluator.list"), [values])

    def test_input_that_is_an_empty_object_is_sent(self):
        self.cli("api", "organization.list", "--input", "{}")
        self.assertEqual(procedure_inputs(self.server, "organization.list"), [{}])

    def test_input_that_is_no_object(self):
        for given in ("[]", "7", '"text"', "true"):
            with self.subTest(given=given):
                result = self.cli("api", "trace.list", "--input", given)
                self.assertIn(result.code, (1, 2), result)
                self.assertFails(result, result.code)
                result = self.cli("api", "project.create", "--mutation", "--input", given)
                self.assertIn(result.code, (1, 2), result)
                self.assertFails(result, result.code)
        self.assertFails(self.cli("api", "trace.list", "--input", "{"), 2, "--input")

    def test_bad_names(self):
        for name in ("", " ", "trace/list", "../auth/login", "trace.list?x=1", "a.b,c.d", "trace.",
                     ".list", "trace..list", "trace list", "tr%61ce.list", "trace.list\n", "é.list",
                     "a#b"):
            with self.subTest(name=name):
                self.assertFails(self.cli("api", name), 2)
        self.assertEqual(self.server.requests, [])

    def test_refusals(self):
        self.log_in("viewer@example.com")
        given = json.dumps({"projectId": self.server.project, "name": "No"})
        self.assertFails(self.cli("api", "apiKey.create", "--mutation", "--input", given), 5)
        self.assertFails(self.cli("api", "trace.list", "--input", '{"limit": 7}'), 1, "projectId")

    def test_unknown_outcome_of_a_mutation(self):
        self.server.fault("organization.create", reset=True, after=True)
        given = ("--mutation", "--input", '{"name": "Once"}')
        self.assertFails(self.cli("api", "organization.create", *given), 9)
        self.assertEqual(self.server.count("organization.create"), 1)

    def test_formats_and_fields(self):
        given = ("evaluator.list", "--input", json.dumps({"projectId": self.server.project}))
        names = sorted(row["name"] for row in self.server.rows("evaluators"))
        result = self.assertOk(self.cli("api", *given, "--format", "jsonl"))
        self.assertEqual(sorted(json.loads(line)["name"] for line in result.lines), names)
        result = self.assertOk(self.cli("api", *given, "--format", "csv", "--fields", "name"))
        self.assertEqual(sorted(result.lines), sorted(names + ["name"]))
        result = self.assertOk(self.cli("api", *given, "--fields", "?"))
        self.assertIn("enabled", result.out)
        for text in (("--fields", "name"), ("--json", "--fields", "name")):
            self.assertIn(names[0], self.assertOk(self.cli("api", *given, *text)).out)

    def test_answers_that_are_no_records(self):
        for value in (7, "text", None, True, [], [1, "two", None], [[1], {"a": 1}], {}):
            for options in ((), ("--json",), ("--format", "jsonl"), ("--format", "csv"),
                            ("--fields", "?"), ("--fields", "id")):
                self.server.fault("some.thing", body={"result": {"data": {"json": value}}})
                with self.subTest(value=value, options=options):
                    result = self.cli("api", "some.thing", *options)
                    self.assertIn(result.code, (0, 2), result)
                    self.assertNotIn("should not have happened", result.err)
                    if options in ((), ("--json",)):
                        self.assertEqual(result.json, value)

    def test_a_key_is_no_account(self):
        os.unlink(os.path.join(self.home, "session.json"))
        result = self.cli("api", "organization.list", env=self.key())
        self.assertFails(result, 4, "login")


############################################################
# completion
############################################################

def offered():
    """(words before, what must be offered there) for all of the registry."""
    names = [name.split() for name in twosignal.COMMANDS]
    yield (), {words[0] for words in names}
    for group in {words[0] for words in names if len(words) == 2}:
        yield (group,), {words[1] for words in names if words[0] == group and len(words) == 2}
    for name, command in twosignal.COMMANDS.items():
        flags = {flag for option in command.options + twosignal.SHARED for flag in option.flags}
        yield tuple(name.split()), {flag for flag in flags if flag.startswith("--")}


INTERRUPTED_BY_VALUES = (   # words on the line, and a flag or a command that must be offered then
    (("usage", "--org", "ID"), "--fail-above"),
    (("api", "trace.list"), "--mutation"),
    (("login", "-e", "you@example.com"), "--password-stdin"),
    (("traces", "list", "--project", "Support Agent"), "--since"),
    (("traces", "check", "--min-score", "0.5", "--junit", "report.xml"), "--min-count"),
    (("traces", "get", "ID", "--project", "ID"), "--fields"),
    (("--json", "traces", "list"), "--since"),
    (("--url", "example.com", "traces"), "list"))


class TestCompletion(Case):
    def script(self, shell):
        result = self.assertOk(self.run_cli("completion", shell), err="")
        return self.write("twosignal." + shell, result.out)

    def in_shell(self, shell, lines):
        """What a shell prints for a script of lines; skips where there is no such shell."""
        program = shutil.which(shell)
        if not program:
            self.skipTest("there is no %s here" % shell)
        path = self.write("asks." + shell, "\n".join(lines) + "\n")
        quiet = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
        result = tools.run_command([program] + quiet + [path], dict(self.environment, TERM="dumb"))
        self.assertEqual((result.code, result.err), (0, ""), result)
        return result.out

    def questions(self):
        """(words, word that is begun, what must be among the answers)"""
        for words, wanted in offered():
            yield words, "--" if any(word.startswith("--") for word in wanted) else "", wanted
        for words, wanted in INTERRUPTED_BY_VALUES:
            yield words, wanted[:3], {wanted}
        yield ("traces",), "ta", {"tail"}
        yield ("traces", "list", "--status"), "", {"OK", "ERROR"}
        yield ("traces", "list", "--status"), "E", {"ERROR"}
        yield ("orgs", "list", "--format"), "", set(twosignal.FORMATS)
        yield ("completion",), "", {"bash", "zsh", "fish"}

    def assertOffers(self, shell, answers, exact=True):
        questions = list(self.questions())
        self.assertEqual(len(answers), len(questions))
        for (words, begun, wanted), answer in zip(questions, answers):
            with self.subTest(shell=shell, words=words, begun=begun):
                self.assertEqual(sorted(wanted - set(answer)), [])
                self.assertTrue(all(word.startswith(begun) for word in answer), answer)

    def test_bash(self):
        lines = ["source " + shlex.quote(self.script("bash"))]
        for words, begun, _ in self.questions():
            line = list(words) + [begun]
            lines += ["COMP_WORDS=(twosignal %s)" % " ".join(map(shlex.quote, line)),
                      "COMP_CWORD=%d; COMPREPLY=(); _twosignal" % len(line),
                      'echo "${COMPREPLY[*]}"']
        answers = self.in_shell("bash", lines).split("\n")[:-1]
        self.assertOffers("bash", [answer.split() for answer in answers])

    def test_zsh(self):
        lines = ["compdef() { echo registered $* }", "source " + shlex.quote(self.script("zsh")),
                 'compadd() { [ "$1" = -- ] && shift; print -- "${(M)@:#$begun*}" }']
        for words, begun, _ in self.questions():
            line = list(words) + [begun]
            lines += ["words=(twosignal %s); CURRENT=%d; begun=%s; _twosignal" % (
                " ".join(map(shlex.quote, line)), len(line) + 1, shlex.quote(begun))]
        answers = self.in_shell("zsh", lines).split("\n")[:-1]
        self.assertEqual(answers.pop(0), "registered _twosignal twosignal")
        self.assertOffers("zsh", [answer.split() for answer in answers])

    def test_fish(self):
        lines = ["source " + shlex.quote(self.script("fish"))]
        for words, begun, _ in self.questions():
            line = " ".join(["twosignal"] + [shlex.quote(word) for word in words] + [begun])
            lines += ["complete -C %s" % shlex.quote(line), "echo =="]
        answers = self.in_shell("fish", lines).split("==\n")[:-1]
        self.assertOffers("fish", [[line.split("\t")[0] for line in answer.splitlines()]
                                   for answer in answers])

    def test_behind_other_options_there_are_files(self):
        """Not one of the command's own words."""
        self.write("report.xml", "")
        lines = ["source " + shlex.quote(self.script("bash")), "cd " + shlex.quote(self.folder),
                 "COMP_WORDS=(twosignal traces check --junit ''); COMP_CWORD=4; COMPREPLY=(x)",
                 '_twosignal; echo "${#COMPREPLY[@]}"']
        self.assertEqual(self.in_shell("bash", lines), "0\n")
        lines = ["compdef() { true }; _files() { echo files }; compadd() { echo words }",
                 "source " + shlex.quote(self.script("zsh")),
                 "words=(twosignal traces check --junit ''); CURRENT=5; _twosignal"]
        self.assertEqual(self.in_shell("zsh", lines), "files\n")

    def test_files_in_fish(self):
        self.write("report.xml", "")
        lines = ["source " + shlex.quote(self.script("fish")), "cd " + shlex.quote(self.folder),
                 "complete -C 'twosignal traces check --junit rep'"]
        self.assertEqual(self.in_shell("fish", lines).split()[:1], ["report.xml"])

    def test_a_flag_takes_a_value_in_each_command_or_in_none(self):
        """The scripts look at a flag without regard to its command."""
        without = {flag for each in twosignal.COMMANDS.values()
                   for option in twosignal._everywhere(each) if not option.takes_value
                   for flag in option.flags}
        self.assertEqual(without & set(twosignal._value_flags()), set())

    def test_fish_offers_nothing_beside(self):
        script = "source %s; complete -C 'twosignal traces list l'" % self.script("fish")
        self.assertNotIn("login", self.in_shell("fish", [script]).split())

    def typed(self, program, options, set_up):
        """What a command gets whose words were completed with Tab in a terminal."""
        if os.name == "nt" or not shutil.which(program):
            self.skipTest("there is no %s with a terminal here" % program)
        folder = self.path("bin")
        os.mkdir(folder)
        with open(os.path.join(folder, "twosignal"), "w") as file:
            file.write("#!/bin/sh\nprintf 'got'; printf '<%s>' \"$@\"; echo; exit\n")
        os.chmod(os.path.join(folder, "twosignal"), 0o755)
        env = dict(self.environment, PATH=folder + os.pathsep + os.environ["PATH"], TERM="dumb",
                   PS1="ready> ", INPUTRC=os.devnull)
        typed = [("ready> ", "%s; echo set''tled\n" % set_up), ("settled", ""),
                 ("ready> ", "twosignal trac\t"), ("traces ", "chec\t"), ("check ", "--max-er\t"),
                 ("error-rate ", "\n"), ("got<traces><check><--max-error-rate>", ""),
                 ("ready> ", "exit\n")]
        return tools.pty_run([shutil.which(program)] + options, typed, env)

    def test_tab_in_bash(self):
        self.typed("bash", ["--norc", "--noprofile", "-i"],
                   "source " + shlex.quote(self.script("bash")))

    @unittest.skipUnless(tools.FULL, "with TWOSIGNAL_TEST_FULL=1")
    def test_tab_in_zsh(self):
        self.typed("zsh", ["-f", "-i"], "autoload -Uz compinit; compinit -u -D; source "
                   + shlex.quote(self.script("zsh")))

    @unittest.skipUnless(tools.FULL, "with TWOSIGNAL_TEST_FULL=1")
    def test_zsh_from_its_folder_of_functions(self):
        folder = self.path("functions")
        os.mkdir(folder)
        os.rename(self.script("zsh"), os.path.join(folder, "_twosignal"))
        self.typed("zsh", ["-f", "-i"], "fpath=(%s $fpath); autoload -Uz compinit; compinit -u -D"
                   % shlex.quote(folder))

    def test_needs_no_settings(self):
        for env in ({"TWOSIGNAL_URL": "ftp://nowhere"}, {"HOME": None, "TWOSIGNAL_HOME": None},
                    {"TWOSIGNAL_API_KEY_FILE": "/nonexistent"}):
            for shell in ("bash", "zsh", "fish"):
                self.assertOk(self.run_cli("completion", shell, env=env), err="")

    def test_other_shells(self):
        for shell in ("tcsh", "", "BASH", "\x1b[31m"):
            with self.subTest(shell=shell):
                self.assertFails(self.run_cli("completion", shell), 2)
        self.assertFails(self.run_cli("completion"), 2)

    def test_other_formats_do_not_break(self):
        for options in (("--json",), ("--format", "csv"), ("--fields", "?"), ("--fields", "id")):
            with self.subTest(options=options):
                result = self.run_cli("completion", "bash", *options)
                self.assertNotIn("should not have happened", result.err)


############################################################
# --debug and -q
############################################################

COMMAND_LINES = (           # each kind of request
    ("traces", "list", "--json", "--search", "it's [a] {b} $HOME `c` \"d\""),
    ("traces", "check", "--min-score", "0.1"),
    ("evaluators", "create", "-n", "O'Brien \\ é", "--type", "CUSTOM"),
    ("datasets", "create", "-n", "$(touch planted); 'x'"),
    ("api-keys", "create", "-n", "Key"))


class TestDebug(GateCase):
    options = {}

    def debug(self, *args, **kwargs):
        """(result, the curl lines)"""
        env = dict({"TWOSIGNAL_PROJECT": self.server.project}, **kwargs.pop("env", {}))
        result = self.cli("--debug", *args, env=env, **kwargs)
        lines = [re.sub(r"\Adebug: ", "", line) for line in result.err.splitlines()]
        return result, [line for line in lines if re.match("'?curl'? ", line)]

    def curl_words(self, line):
        words = shlex.split(line)
        self.assertEqual(words.pop(0), "curl")
        found = {"headers": [], "url": None, "method": "GET", "body": None}
        while words:
            word = words.pop(0)
            if word in ("-H", "--header"):
                found["headers"].append(words.pop(0).split(": ", 1))
            elif word in ("-X", "--request"):
                found["method"] = words.pop(0)
            elif word in ("-d", "--data", "--data-raw", "--data-binary"):
                found["body"] = words.pop(0)
            elif not word.startswith("-"):
                found["url"] = word
        return found

    def test_a_line_for_each_request(self):
        for line in COMMAND_LINES:
            self.server.clear()
            with self.subTest(line=line):
                result, curls = self.debug(*line)
                self.assertIn(result.code, (0, 10), result)
                self.assertEqual(len(curls), len(self.server.requests))
                for curl, request in zip(curls, self.server.requests):
                    found = self.curl_words(curl)
                    self.assertEqual(found["method"], request.method)
                    self.assertEqual(found["url"].split("?")[0], self.server.url + request.path)
                    if request.method == "POST":
                        self.assertEqual(json.loads(found["body"]), request.body)

    def test_what_looks_secret_is_masked(self):
        for given in ('{"password": "hunter2hunter2", "x": 1}', '{"apiKey":"hunter2hunter2"}',
                      '{"refreshToken": "hunter2\\"hunter2"}', '{"a": "ts_hunter2hunter2"}',
                      '{"a": ["2s_live_hunter2hunter2"]}'):
            for option in (["--mutation"], []):
                with self.subTest(given=given, option=option):
                    result, curls = self.debug("api", "some.thing", "--input", given, *option)
                    self.assertNotIn("hunter2", result.err)
                    self.assertIn("***", curls[0])
        _, curls = self.debug("api", "some.thing", "--mutation", "--input", '{"promptTokens": 5}')
        self.assertIn('"promptTokens": 5', curls[0])

    def test_a_line_for_a_request_without_an_answer_too(self):
        self.server.stop()
        _, curls = self.debug("orgs", "list")
        self.assertGreaterEqual(len(curls), 1)
        self.assertIn("organization.list", curls[0])

    def secrets(self):
        session = self.state("session.json")
        return [session["access_token"], session["refresh_token"]]

    def test_no_secrets(self):
        key = self.key()
        for padding in (0, 9000):
            self.use(padding=padding)
            runs = [self.debug(*line)[0] for line in COMMAND_LINES]
            for result in runs:
                for secret in self.secrets():
                    self.assertNotIn(secret, result.err)
                    self.assertNotIn(secret[:40], result.err)
        result, _ = self.debug("login", "-e", "owner@example.com", "--password-stdin",
                               stdin="owner-pass\n")
        self.assertOk(result)
        self.assertNotIn("owner-pass", result.err)
        self.server.expire("owner@example.com")
        before = self.secrets()
        result, _ = self.debug("orgs", "list")
        self.assertEqual(self.server.count("auth/refresh"), 1)
        for secret in before + self.secrets():
            self.assertNotIn(secret, result.err)
        result, _ = self.debug("traces", "list", env=key)
        self.assertNotIn(key["TWOSIGNAL_API_KEY"], result.err)
        result, _ = self.debug("api-keys", "create", "-n", "new")
        self.assertNotIn(self.server.rows("api_keys")[-1]["key"], result.err)

    def filled(self, curl, request):
        """The words of a curl line, its masked header filled in with the session's cookie."""
        words = shlex.split(curl)
        places = [place for place, word in enumerate(words) if word.startswith("Cookie: ")]
        self.assertEqual(len(places), 1, curl)
        self.assertIn("***", words[places[0]])
        words[places[0]] = "Cookie: " + request.headers.get("Cookie")
        return words

    def answered(self, words):
        """(status, JSON) of the request that the words of a curl line describe."""
        found = self.curl_words(" ".join(map(shlex.quote, words)))
        body = found["body"] and found["body"].encode("utf-8")
        request = urllib.request.Request(found["url"], body, dict(found["headers"]),
                                         method=found["method"])
        try:
            with urllib.request.urlopen(request, timeout=tools.DEADLINE) as answer:
                return answer.status, json.loads(answer.read().decode("utf-8"))
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read().decode("utf-8"))

    def test_lines_can_be_run(self):
        for options in (NEW, OLD, {"padding": 9000}):
            self.use(**options)
            for line in COMMAND_LINES[:4]:
                self.server.clear()
                _, curls = self.debug(*line)
                answers = [self.answered(self.filled(curl, request)) for curl, request
                           in zip(curls, list(self.server.requests))]
                with self.subTest(options=options, line=line):
                    # What an old server lacks it refuses again, but not the one who asks.
                    self.assertNotIn(401, [status for status, _ in answers])
                    self.assertIn(answers[-1][0], (200, 207), answers)

    def test_lines_can_be_run_by_curl(self):
        curl = shutil.which("curl")
        if not curl:
            self.skipTest("there is no curl here")
        for line in COMMAND_LINES[:full(3, 4)]:
            self.server.clear()
            _, curls = self.debug(*line)
            request = self.server.requests[0]
            script = " ".join(map(shlex.quote, self.filled(curls[0], request)))
            # In a shell, as somebody does it who pastes the line there.
            result = tools.run_command(["/bin/sh", "-c", script + " -sS -m 60 -q"],
                                       self.environment, cwd=self.folder)
            with self.subTest(line=line):
                self.assertEqual(result.code, 0, result)
                self.assertIn("result", json.loads(result.out))
        self.assertNotIn("planted", os.listdir(self.folder))

    def test_stdout_is_the_same(self):
        for line in (("traces", "list"), ("traces", "list", "--json"), ("orgs", "list")):
            plain = self.cli(*line, env={"TWOSIGNAL_PROJECT": self.server.project})
            self.assertEqual(self.debug(*line)[0].out, plain.out)
            self.assertEqual(plain.err.count("debug"), 0)


class TestQuiet(GateCase):
    options = {}

    def quiet(self, *args, **kwargs):
        for place in (("-q",) + args, args + ("--quiet",)):
            result = self.cli(*place, env={"TWOSIGNAL_PROJECT": self.server.project}, **kwargs)
        return result

    def test_no_remarks(self):
        self.assertOk(self.quiet("traces", "list", "-n", "2"), err="")
        self.assertOk(self.quiet("traces", "list", "--min-duration", "3s"), err="")
        result = self.cli("traces", "list", "-n", "2", "--project", self.server.project)
        self.assertNotEqual(result.err, "")

    def test_output_and_exit_code_stay(self):
        result = self.quiet("traces", "check", "--max-p95", "1ms")
        self.assertEqual((result.code, result.err), (10, ""))
        self.assertIn("FAILED", result.out)

    def test_errors_stay(self):
        self.assertFails(self.quiet("traces", "list", "--fail-if-truncated", "-n", "x"), 2)
        self.assertFails(self.quiet("api", "no.such"), 8)

    def test_wait_and_tail(self):
        self.server.fault("trace.list", times=4, status=503)
        result = self.quiet("traces", "wait", "--count", "1", naps=Steps(*[nothing] * 5))
        self.assertOk(result, err="")


if __name__ == "__main__":
    unittest.main()
