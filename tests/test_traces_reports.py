"""Where gates report besides their output: JUnit files, annotations and summaries of GitHub.

    python3 tests/test_traces_reports.py --reports DIR    writes a JUnit file of each kind into DIR,
                                                          and expected.json for support/junit.py
"""
import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import unittest
import xml.etree.ElementTree
from unittest import mock

if not __package__:     # started as a script, not by `python3 -m unittest`
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))

from tools import (FULL_DISK, PROGRAM, PassingClock, TracesCase, file_bytes,  # noqa: E402
                   fill_four, minutes_ago, trpc_error)

import junit  # noqa: E402
import twosignal  # noqa: E402

HOSTILE_NAMES = ("<b> & \"c\" 'd'", "]]>", "a\x1b[31mred", "\u202etxt.exe", "line\nbreak",
                 "tab\there", "a|b", "100%", "%s%d", "\uffff\ufffe", "東京 🤖", "x" * 3000,
                 "`code`", "{{x}}", "[link](https://example.com)", "![x](https://example.com/y)",
                 "https://example.com", "www.example.com", "a\\|b", "**bold**", "@team", "#1",
                 "::error::x", "##[error]x", "&lt;", "\x00\x0b\x7f\x85")
PASSING = b'<testsuites><testsuite tests="1"><testcase name="old"/></testsuite></testsuites>'
OK, FAILED, NO_DATA = None, "CHECK_FAILED", "NOTHING_TO_CHECK"
# Each kind of report: its name, the command line, the exit code, and for each case what its name
# begins with, its type (None: it passed), and a part of the reason.
KINDS = (
    ("passed", "traces check --max-p95 4s --min-score 0.5", 0,
     [("min-score ≥ 0.5", OK, ""), ("max-p95 ≤ 4.0s", OK, ""), ("min-count ≥ 1", OK, "")]),
    ("failed", "traces check --min-score 0.6 --min-score faithfulness=0.85 --max-error-rate 2%", 10,
     [("max-error-rate ≤ 2%", FAILED, "25%"), ("min-score ≥ 0.6", FAILED, "measured 0.5"),
      ("min-score faithfulness ≥ 0.85", FAILED, "measured 0.8"), ("min-count ≥ 1", OK, "")]),
    ("too-few", "traces check --max-p95 4s --min-count 9", 11,
     [("max-p95 ≤ 4.0s", OK, ""), ("min-count ≥ 9", NO_DATA, "measured 4")]),
    ("no-data", "traces check --min-score nobody=0.5 --since 1h --tag v2", 11,
     [("min-score nobody ≥ 0.5", NO_DATA, "nothing"), ("min-count ≥ 1", NO_DATA, "measured 0")]),
    ("hostile", ["traces", "check", "--search", "]]>&\"'\x1b\uffff", "--min-score",
                 "<b>&\"']]>\x1b\uffff東京=0.5"], 11,
     [("min-score <b>&\"']]>\\x1b\\uffff東京 ≥ 0.5", NO_DATA, ""),
      ("min-count ≥ 1", NO_DATA, "measured 0")]),
    ("not-logged-in", "traces check --max-cost 1 --url http://127.0.0.1:9", 4,
     [("twosignal traces check", "NOT_LOGGED_IN", "twosignal login")]),
    ("wrong-value", "traces check --max-cost much", 2,
     [("twosignal traces check", "USAGE", "much")]),
    ("unknown-option", "traces check --max-costs 1", 2,
     [("twosignal traces check", "USAGE", "--max-cost")]),
    ("unknown-command", "traces chekc --max-cost 1", 2,
     [("twosignal traces chekc", "USAGE", "traces check")]),
    ("no-threshold", "traces check", 2, [("twosignal traces check", "USAGE", "--min-score")]),
    ("times", "traces check --max-cost 1 --since 1h --until 2h", 2,
     [("twosignal traces check", "USAGE", "--since")]),
    ("unknown-project", "traces check --max-cost 1 --project nowhere", 6,
     [("twosignal traces check", "NOT_FOUND", "Project not found")]),
    ("usage", "usage --fail-above 90", 10, [("traces", FAILED, "92%")]),
    # A suite without test cases would be refused by steps that publish reports.
    ("unlimited", "usage --fail-above 90 --org Unlimited", 0, [("traces", OK, "")]),
    ("unknown-plan", "usage --fail-above 90 --org Unknown", 11,
     [("twosignal usage", NO_DATA, "PLATINUM")]),
    ("no-limit", "usage", 2, [("twosignal usage", "USAGE", "--fail-above")]))


class Gate(TracesCase):
    """A project with four traces, and an organization that has used 92% of its plan."""

    def setUp(self):
        super().setUp()
        self.fill()
        self.report = self.path("report.xml")

    def use(self, **options):
        super().use(**options)
        self.fill()

    def fill(self):
        fill_four(self.server)
        self.server.set_usage(self.server.org, None, traces=46000, evals=5)
        for name, plan in (("Unlimited", "ENTERPRISE"), ("Unknown", "PLATINUM")):
            self.server.set_usage(self.server.add_org(name, plan), None, traces=10 ** 9)
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project,
                                TWOSIGNAL_ORG=self.server.org)

    def parsed(self):
        return xml.etree.ElementTree.parse(self.report).getroot()

    def cases(self):
        """{name: (type or None, text)} of the report."""
        found = {}
        for case in self.parsed().findall("testsuite/testcase"):
            wrong = case[0] if len(case) else None
            found[case.get("name")] = (None, None) if wrong is None else (wrong.get("type"),
                                                                          wrong.text)
        return found

    def error(self):
        """(type, text) of a report that says that the gate could not run."""
        root = self.parsed()
        self.assertEqual(junit.problems(root), [])
        found = root.findall("testsuite/testcase/error")
        self.assertEqual((len(found), root.get("tests"), root.get("errors")), (1, "1", "1"))
        return found[0].get("type"), found[0].text

    def leave_passing_report(self):
        self.write("report.xml", PASSING)

    def files(self):
        return sorted(name for name in os.listdir(self.folder) if name != "home")


def could_not_run(case):
    """Whether an expected case is that of a gate that could not run: it is named after it."""
    return case[0].startswith("twosignal ")


def words_of(command_line):
    return command_line if isinstance(command_line, list) else command_line.split()


class Consumers(Gate):
    def test_each_kind_of_report(self):
        """Row 56: verdicts, reasons and names, by the xUnit schema, GitLab's rules and dorny's."""
        for kind, command_line, code, cases in KINDS:
            with self.subTest(kind=kind):
                self.leave_passing_report()
                result = self.cli(*words_of(command_line), "--junit", self.report)
                self.assertEqual(result.code, code, result)
                self.assertEqual(self.files(), ["report.xml"])
                root = self.parsed()
                self.assertEqual(junit.problems(root), [])
                self.assertRead(junit.read_by_gitlab(root), junit.read_by_dorny(root), cases)

    def assertRead(self, by_gitlab, by_dorny, cases):
        self.assertEqual(len(by_gitlab), len(cases), "two cases have one name")
        for (key, found), (group, name, _, state, details), expected in zip(
                sorted(by_gitlab.items()), sorted(by_dorny), sorted(cases)):
            start, code, reason = expected
            self.assertTrue(key[2].startswith(start), key)
            self.assertEqual((group, name), ("", key[2]))
            status, output = found
            is_error = could_not_run(expected)
            self.assertEqual(status, None if code is None else "error" if is_error else "failure")
            self.assertEqual(state, "success" if code is None else "failed")
            self.assertEqual(details, output)
            if code is not None:
                self.assertIn(reason, output.splitlines()[0] if not is_error else output)

    def test_message_and_body_say_the_same(self):
        self.check("--junit", self.report, "--max-p95", "3s", "--min-score", "nobody=0.9")
        for failure in self.parsed().iter("failure"):
            self.assertEqual(failure.text.splitlines()[0], failure.get("message"))

    def test_time_is_that_of_the_gate(self):
        """On its clock, shared among the cases."""
        self.server.fault("trace.list", status=503, body="", headers={"Retry-After": "3"})
        clock = PassingClock()
        self.check("--junit", self.report, "--max-p95", "3s", "--max-cost", "1", clock=clock)
        self.assertGreaterEqual(sum(clock.naps), 3)
        suite = self.parsed().find("testsuite")
        self.assertGreaterEqual(float(suite.get("time")), 3)
        shares = [float(case.get("time")) for case in suite]
        self.assertEqual(len(shares), 3)
        self.assertAlmostEqual(sum(shares), float(suite.get("time")), 2)


class Names(Gate):
    """GitLab and others know a test case by its class and its name."""

    def names(self, *options, env=None):
        self.check("--junit", self.report, *options, env=env)
        return list(self.cases())

    def test_two_limits_of_a_kind(self):
        names = self.names("--min-score", "0.5", "--min-score", "0.8", "--min-score", "a=b=0.8")
        self.assertEqual(len(set(names)), 4, names)
        self.assertIn("min-score ≥ 0.8 (project %s)" % self.server.project, names)
        self.assertIn("min-score a=b ≥ 0.8 (project %s)" % self.server.project, names)

    def test_limits_that_look_alike(self):
        self.server.add_trace(scores=[{"evaluatorName": "x", "value": 0.500015}])
        options = ["--min-score", "x=0.50001", "--min-score", "x=0.50002"]
        self.check("--junit", self.report, *options)
        found = [(name.partition(" (")[0], kind) for name, (kind, _) in self.cases().items()]
        self.assertEqual(found, [("min-score x ≥ 0.50001", None), ("min-score x ≥ 0.50002", FAILED),
                                 ("min-count ≥ 1", None)])

    def test_what_was_chosen(self):
        """Two gates of one job do not replace each other."""
        seen = set()
        other = self.server.add_project(name="Other")
        for options, env, chosen in (
                ("", None, "project " + self.server.project),
                ("--project Other", None, "project Other"),
                ("", {"TWOSIGNAL_PROJECT": other}, "project " + other),
                ("--since 1h", None, "since 1h"), ("--since 2h", None, "since 2h"),
                ("--until 1m", None, "until 1m"), ("--status ERROR", None, "status ERROR"),
                ("--error", None, "error"), ("--search agent", None, "search agent"),
                ("--tag v1", None, "tag v1"), ("--tag v1 --tag v2", None, "tag v1, tag v2"),
                ("--min-duration 1s", None, "min-duration 1s"),
                ("--max-duration 9s", None, "max-duration 9s"),
                ("--min-cost 0.01", None, "min-cost 0.01"), ("--limit 3", None, "limit 3"),
                ("-n2", None, "limit 2"), ("--limit 1 --limit 4", None, "limit 4"),
                ("--evaluator x", None, "evaluator x"),
                ("--tag v1 --since 1h", None, "since 1h, tag v1")):
            with self.subTest(options=options, env=env):
                self.cli("traces", "check", "--junit", self.report, "--min-score", "0.5",
                         *options.split(), env=env)
                if not chosen.startswith("project"):
                    chosen = "project %s, %s" % (self.server.project, chosen)
                name, count = self.cases()
                self.assertEqual(name, "min-score ≥ 0.5 (%s)" % chosen)
                self.assertEqual(count, "min-count ≥ 1 (%s)" % chosen)
                self.assertNotIn(name, seen)
                seen.add(name)

    def test_project_that_was_saved(self):
        self.cli("projects", "use", self.server.project)
        options = ["--junit", self.report, "--max-p95", "1s"]
        self.cli("traces", "check", *options, env={"TWOSIGNAL_PROJECT": None})
        self.assertIn("max-p95 ≤ 1.0s (project %s)" % self.server.project, self.cases())

    def test_the_same_in_each_run(self):
        """Whatever is measured, at whatever time, in whatever order the options are given."""
        options = ["--max-p95", "8s", "--max-error-rate", "50%", "--min-score", "0.799"]
        chosen = ["--since", "1h", "--status", "OK"]
        names = self.names(*options, *chosen)
        self.server.add_trace(duration_ms=8004, created=minutes_ago(1), scores=[
            {"evaluatorName": "x", "value": 0.79896}])
        self.assertEqual(self.names(*options, *chosen), names)
        self.assertIn("FAILED", self.check(*options, *chosen).out)
        self.assertEqual(self.names(*chosen[::-1][1:2], "OK", "--since=1h", *options), names)

    def test_with_a_key(self):
        """Which selects the project, and is a secret."""
        key = dict(self.key(), TWOSIGNAL_PROJECT=None)
        self.assertIn("max-cost ≤ $1.00", self.names("--max-cost", "1", env=key))

    def test_of_a_gate_that_could_not_run(self):
        self.server.fault("trace.list", times=None, status=403)
        names = self.names("--max-cost", "1", "--since", "1h", "--junit", self.report)
        self.assertEqual(names, ["twosignal traces check (project %s, since 1h)"
                                 % self.server.project])


class JUnitFile(Gate):
    def test_shows_the_direction(self):
        """Also of a minimum, and of a check without data."""
        self.check("--junit", self.report, "--max-p95", "3s", "--min-score", "0.6",
                   "--min-score", "nobody=0.9", "--min-count", "9")
        found = {name.partition(" (")[0]: text.splitlines()[0]
                 for name, (_, text) in self.cases().items()}
        self.assertEqual(found, {
            "max-p95 ≤ 3.0s": "failed: measured 4.0s, threshold ≤ 3.0s",
            "min-score ≥ 0.6": "failed: measured 0.5, threshold ≥ 0.6",
            "min-score nobody ≥ 0.9": "nothing to check: measured -, threshold ≥ 0.9",
            "min-count ≥ 9": "too few: measured 4, threshold ≥ 9"})

    def test_names_the_worst_traces(self):
        """As the table does: the value, the name, and the command that shows the trace."""
        result = self.check("--junit", self.report, "--max-cost", "0.035")
        worst = max(self.server.rows("traces"), key=lambda row: row["totalCost"])
        text = next(text for _, text in self.cases().values() if text)
        self.assertEqual(text.splitlines(), [
            "failed: measured $0.04, threshold ≤ $0.035", "$0.04  agent 4",
            "  twosignal traces get %s --project %s" % (worst["id"], self.server.project)])
        for line in text.splitlines()[1:]:
            self.assertIn(line, result.lines)

    def test_hostile_names(self):
        for name in HOSTILE_NAMES:
            with self.subTest(name=ascii(name[:20])):
                self.check("--junit", self.report, "--min-score", name + "=0.5",
                           "--max-p95", "1s", "--tag", name)
                self.assertEqual(junit.problems(self.parsed()), [])
                if name.isprintable():
                    self.assertIn("min-score %s ≥ 0.5 (project %s, tag %s)" % (
                        name, self.server.project, name), self.cases())

    @unittest.skipUnless(os.path.exists("/dev/stdout"), "needs /dev/stdout")
    def test_on_stdout_no_name_is_a_command(self):
        """Row 68: the XML of a report in a CI log has no line that a CI system takes for one."""
        for name in ("\n::stop-commands::x", "::add-mask::x", "##[error]x", "#\u200b#[x]"):
            with self.subTest(name=ascii(name)):
                report = twosignal.GateReport(twosignal.Console((None,) * 3), "check", [], "", True)
                report.started = 0
                report.failure = twosignal.Failure(name, problems=[name, name])
                text = report.junit_xml().decode("utf-8")
                self.assertNotRegex(text, r"(?m)^\W*::")
                self.assertNotIn("##[", text.replace("\u200b", ""))
                body = xml.etree.ElementTree.fromstring(text).find(".//error").text
                self.assertEqual(body.split("\n")[1:], [twosignal.printable(name)] * 2)

    def test_hostile_traces(self):
        for name in HOSTILE_NAMES:
            identifier = self.server.add_trace(id="id " + name, name=name,
                                               cost=99)
            with self.subTest(name=ascii(name[:20])):
                result = self.check("--junit", self.report, "--max-cost", "1")
                self.assertEqual(result.code, 10, result)
                self.assertEqual(junit.problems(self.parsed()), [])
                self.assertIn("$99.00", max(text or "" for _, text in self.cases().values()))
            self.server.store.remove("traces", identifier)

    def test_secrets_are_masked(self):
        message = "bad token " + self.state("session.json")["access_token"]
        self.server.fault("trace.list", status=400, body=trpc_error("BAD_REQUEST", 400, message))
        self.check("--junit", self.report, "--max-cost", "1")
        self.assertIn("bad token ***", self.error()[1])

    def test_that_cannot_be_written(self):
        """It is an error before anything is asked."""
        folder = self.path("folder")
        os.mkdir(folder)
        self.write("file", "kept")
        before = self.files()
        for path in (self.path("missing", "report.xml"), folder, self.path("file", "report.xml"),
                     self.path("x" * 300)):
            with self.subTest(path=path[-30:]):
                self.assertFails(self.check("--max-cost", "1", "--junit", path), 1)
        self.assertEqual(self.server.requests, [])
        self.assertEqual(self.files(), before)
        self.assertEqual(os.listdir(folder), [])

    def test_an_old_one_that_cannot_be_removed(self):
        """Nothing is asked, and no temporary file stays."""
        def unlink(path, real=os.unlink):
            if path == self.report:
                raise PermissionError(13, "Permission denied")
            real(path)
        self.leave_passing_report()
        with mock.patch("twosignal.os.unlink", unlink):
            result = self.check("--max-cost", "1", "--junit", self.report)
        self.assertFails(result, 1, "Permission denied")
        self.assertEqual((self.server.requests, self.files()), ([], ["report.xml"]))

    @unittest.skipIf(os.name == "nt", "permissions and links of POSIX")
    def test_keeps_mode_and_link(self):
        target = self.write("target.xml", "before")
        os.chmod(target, 0o640)
        os.symlink(target, self.report)
        self.check("--max-cost", "1", "--junit", self.report)
        self.assertTrue(os.path.islink(self.report))
        self.assertEqual(stat.S_IMODE(os.stat(target).st_mode), 0o640)
        self.parsed()

    @unittest.skipUnless(hasattr(os, "mkfifo"), "no named pipes")
    def test_into_a_pipe(self):
        """It is written there whole, and so is what kept the gate from running."""
        os.mkfifo(self.report)
        reader = os.open(self.report, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        for options, code, part in ((("1",), 0, b'errors="0"'), (("much",), 2, b'errors="1"')):
            result = self.check("--junit", self.report, "--max-cost", *options)
            self.assertEqual(result.code, code)
            self.assertTrue(stat.S_ISFIFO(os.stat(self.report).st_mode), "the pipe was replaced")
            text = os.read(reader, 65536)
            self.assertIn(part, text)
            self.assertEqual(junit.problems(xml.etree.ElementTree.fromstring(text)), [])

    @unittest.skipUnless(os.path.exists("/dev/stdout"), "needs /dev/stdout")
    def test_on_stdout_if_the_output_goes_elsewhere(self):
        out = self.path("out.json")
        result = self.run_process("traces", "check", "--max-cost", "1", "--junit", "/dev/stdout",
                                  "-o", out)
        self.assertEqual((result.code, result.err), (0, ""), result)
        self.assertEqual(junit.problems(xml.etree.ElementTree.fromstring(result.out)), [])

    def test_a_reader_that_leaves_does_not_change_the_verdict(self):
        with mock.patch("twosignal.print_result", side_effect=BrokenPipeError):
            self.assertEqual(self.check("--max-cost", "0.01", "--junit", self.report).code, 141)
        self.assertEqual([kind for kind, _ in self.cases().values()], [FAILED, None])


class OneFileForEach(Gate):
    """--junit and the output never go to one file, however it is named."""

    def assertRefused(self, junit_path, *output):
        """Nothing is asked, and the report, of which an earlier one may have passed, says why."""
        result = self.check("--max-cost", "1", "--junit", junit_path, *output)
        self.assertFails(result, 2, "--junit needs a file of its own")
        self.assertEqual(self.server.requests, [])
        if junit_path != "-":
            report = file_bytes(junit_path).decode("utf-8")
            self.assertIn('errors="1"', report)
            self.assertIn("--junit needs a file of its own", report)
            os.unlink(os.path.realpath(junit_path))

    def test_names_of_one_file(self):
        both = self.path("both.xml")
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        for junit_path, output in (("-", None), (both, both), ("both.xml", "./both.xml"),
                                   ("./both.xml", both), (both, "home/../both.xml"),
                                   ("new.xml", "./new.xml"), ("home/new.xml", "home//new.xml")):
            with self.subTest(junit_path=junit_path, output=output):
                self.write("both.xml", "passed")
                self.assertRefused(junit_path, *(["-o", output] if output else []))
                if output:
                    self.assertRefused(junit_path, "--output=" + output)

    @unittest.skipIf(os.name == "nt", "links of POSIX")
    def test_links(self):
        os.symlink("both.xml", self.path("soft.xml"))
        os.symlink("new.xml", self.path("dangling.xml"))
        os.symlink(self.folder, self.path("folder"))
        for junit_path, output in (("both.xml", "soft.xml"), ("soft.xml", "both.xml"),
                                   ("both.xml", "hard.xml"), ("hard.xml", "soft.xml"),
                                   ("new.xml", "dangling.xml"), ("folder/new.xml", "new.xml"),
                                   ("folder/both.xml", "hard.xml")):
            with self.subTest(junit_path=junit_path, output=output):
                for name in ("both.xml", "hard.xml"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.path(name))
                self.write("both.xml", "passed")
                os.link(self.path("both.xml"), self.path("hard.xml"))
                self.assertRefused(self.path(junit_path), "-o", self.path(output))

    @unittest.skipUnless(os.path.exists("/dev/stdout"), "needs /dev/stdout")
    def test_redirected_output(self):
        path = self.path("both.xml")
        for name in ("/dev/stdout", "/dev/fd/1", path):
            with self.subTest(name=name), open(path, "wb") as file:
                code = subprocess.call([sys.executable, PROGRAM, "traces", "check", "--max-cost",
                                        "1", "--junit", name], stdout=file,
                                       stderr=subprocess.DEVNULL, env=self.environment)
                self.assertEqual(code, 2)
            self.assertIn(b"--junit needs a file of its own", file_bytes(path))
        self.assertEqual(self.server.requests, [])

    def test_without_a_report_any_output_is_its_own(self):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.assertFails(self.check("--max-cost", "1", "-o", "."), 1, "Is a directory")

    @unittest.skipUnless(os.path.exists("/dev/null"), "needs /dev/null")
    def test_the_null_device_takes_both(self):
        result = self.check("--max-cost", "1", "--junit", "/dev/null", "-o", "/dev/null")
        self.assertOk(result)


class GatesThatCouldNotRun(Gate):
    """No passing report of an earlier run is left, whatever ends this one."""

    def test_failures_to_ask(self):
        for status, code, kind in ((403, 5, "FORBIDDEN"), (404, 6, None), (429, 7, None),
                                   (500, 8, None)):
            with self.subTest(status=status):
                self.leave_passing_report()
                fault = self.server.fault("trace.list", times=None, status=status)
                result = self.check("--junit", self.report, "--max-cost", "1")
                self.server.faults.remove(fault)
                self.assertEqual(result.code, code, result)
                found, text = self.error()
                self.assertIn(found, (kind or found,))
                self.assertEqual(result.err, "Error: %s\n" % text.replace("\n", ". ", 1))

    def test_half_way(self):
        self.add(250)
        self.leave_passing_report()
        pages = iter(range(9))
        real = self.server.world.page

        def page(*args):
            if next(pages) > 0:
                self.server.fault("trace.list", times=None, status=500)
            return real(*args)
        with mock.patch.object(self.server.world, "page", page):
            self.assertFails(self.check("--max-cost", "1", "--junit", self.report), 8)
        self.error()
        self.assertEqual(self.files(), ["report.xml"])

    def test_before_the_command_runs(self):
        missing = self.path("missing", "out")
        for argv, env, code, part in (
                (["traces", "check", "--max-cost", "1"], {"TWOSIGNAL_PROJECT": None}, 2, "project"),
                (["traces", "check", "--max-cost", "1"], {"TWOSIGNAL_HOME": missing}, 4, "login"),
                (["traces", "check", "--max-cost", "1"], {"TWOSIGNAL_URL": "ftp://x"}, 2, "ftp"),
                (["traces", "check", "--max-cost", "1", "-o", missing], None, 1, "missing"),
                (["traces", "check", "--max-cost"], None, 2, "needs a value"),
                (["traces", "check", "--max-cost", "1", "extra"], None, 2, "extra"),
                (["traces", "check", "--error", "--status", "OK", "--max-cost", "1"], None, 2,
                 "--status OK"),
                (["traces"], None, 2, "No command"), ([], None, 2, "No command")):
            for place in ("first", "last"):
                if place == "last" and argv[-1:] == ["--max-cost"]:
                    continue        # that option would be its value
                options = ["--junit", self.report]
                words = options + argv if place == "first" else argv + options
                with self.subTest(argv=argv, env=env, place=place):
                    self.leave_passing_report()
                    result = self.cli(*words, env=env)
                    self.assertEqual(result.code, code, result)
                    self.assertIn(part, self.error()[1])
        self.assertEqual(self.files(), ["report.xml"])

    @unittest.skipIf(os.name == "nt", "file names are no bytes there")
    def test_bytes_that_are_not_utf8(self):
        """In an argument, a variable, or the name of the report, which is that very file."""
        raw = os.fsdecode(b"report\xff.xml")
        for options, env, name in ((["--tag", raw], None, "report.xml"), ([], None, raw),
                                   ([], {"TWOSIGNAL_PROJECT": raw}, "report.xml")):
            with self.subTest(options=ascii(options), env=ascii(env), name=ascii(name)):
                self.report = self.path(name)
                with open(self.report, "wb") as file:
                    file.write(PASSING)
                result = self.cli("traces", "check", "--max-cost", "1", "--junit", self.report,
                                  *options, env=env)
                self.assertEqual(result.code, 2, result)
                self.assertIn("is not UTF-8", self.error()[1])
                self.assertEqual(self.files(), [name])
                os.unlink(self.report)

    def test_bugs_and_signals(self):
        for error, code in ((ValueError("x"), 1), (RecursionError(), 8), (KeyboardInterrupt(), 130),
                            (twosignal.Terminated(143), 143), (BrokenPipeError(), 141)):
            with self.subTest(error=error), mock.patch("twosignal.TraceScan", side_effect=error):
                self.leave_passing_report()
                result = self.check("--junit", self.report, "--max-cost", "1")
                self.assertEqual(result.code, code, result)
                self.assertEqual(self.error(), (type(error).__name__, "Ended without a result"))

    def test_after_the_verdict(self):
        """The output cannot be printed: the exit code is no verdict, so the report has none."""
        for options, code in ((["--fields", "nosuch"], 2), (["-o", FULL_DISK], 1)):
            if options[-1] != FULL_DISK or os.path.exists(FULL_DISK):
                with self.subTest(options=options):
                    result = self.check("--junit", self.report, "--max-cost", "1", *options)
                    self.assertEqual(result.code, code, result)
                    self.error()

    @unittest.skipIf(os.name == "nt", "signals of POSIX")
    def test_signals(self):
        """As a process, while it waits for a response. SIGKILL leaves no report at all."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number=number):
                self.leave_passing_report()
                found, err = self.signalled(number, "trace.list", [
                    "traces", "check", "--max-cost", "1", "--junit", self.report])
                self.assertEqual((found, err), (-number, ""))
                if number == signal.SIGKILL:
                    self.assertFalse(os.path.exists(self.report))
                else:
                    self.assertIn(self.error()[0], ("KeyboardInterrupt", "Terminated"))

    def test_what_does_not_touch_it(self):
        """Help, other commands, and what is no option."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        for argv in (["traces", "check", "--help"], ["traces", "check", "-h"], ["--version"],
                     ["traces", "--help"]):
            for words in (argv + ["--junit", self.report], ["--junit", self.report] + argv):
                with self.subTest(words=words):
                    self.leave_passing_report()
                    self.cli(*words)
                    self.assertEqual(file_bytes(self.report), PASSING)
        for words in (["traces", "check", "--junit", ""], ["traces", "check", "--junit", " "],
                      ["traces", "check", "--", "--junit", self.report],
                      ["traces", "list", "--junit", self.report],
                      ["--junit", self.report, "traces", "list"]):
            with self.subTest(words=words):
                self.assertFails(self.cli(*words), 2)
                self.assertEqual(file_bytes(self.report), PASSING)
        self.assertEqual(self.files(), ["report.xml"])


class GitHub(Gate):
    def actions(self, *options, summary=True):
        """Run a check as in GitHub Actions; return (result, lines of the summary)."""
        path = self.path("summary.md")
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path if summary else None}
        result = self.check(*options, env=env)
        if not os.path.exists(path):
            return result, []
        with open(path, encoding="utf-8") as file:
            return result, file.read().splitlines()

    def title(self, check):
        """What an annotation begins with."""
        return "::error title=twosignal traces check::%s (project %s): " % (
            check.replace("%", "%25"), self.server.project)

    def worst(self, *names):
        """The lines of the worst traces, but for their values."""
        ids = {row["name"]: row["id"] for row in self.server.rows("traces")}
        return [("  " + name, "  twosignal traces get %s --project %s" % (
            ids[name], self.server.project)) for name in names]

    def test_annotations(self):
        """The sentence, the worst traces and their commands: lines that GitHub shows as such."""
        result, _ = self.actions("--max-p95", "2s", "--max-cost", "1", "--max-error-rate", "2%")
        self.assertEqual(result.code, 10)
        (error, error_command), = self.worst("agent 2")
        (slow, slow_command), (slower, slower_command) = self.worst("agent 3", "agent 4")
        self.assertEqual(result.err.splitlines(), [
            self.title("max-error-rate ≤ 2%") + "failed: measured 25%25, threshold ≤ 2%25"
            + "%0AERROR" + error + "%0A" + error_command,
            self.title("max-p95 ≤ 2.0s") + "failed: measured 4.0s, threshold ≤ 2.0s"
            + "%0A4.0s" + slower + "%0A" + slower_command + "%0A3.0s" + slow + "%0A"
            + slow_command])

    def test_annotations_of_a_pass_and_of_nothing(self):
        result, _ = self.actions("--max-cost", "1")
        self.assertNotIn("::", result.err + result.out)
        result, _ = self.actions("--min-score", "nobody=0.5", "--quiet")
        self.assertEqual((result.code, result.err), (
            11, self.title("min-score nobody ≥ 0.5")
            + "nothing to check: measured -, threshold ≥ 0.5\n"))

    def test_commands_cannot_be_injected(self):
        """Row 68: what is printed holds the annotations of the gate, and no other command."""
        for name in HOSTILE_NAMES + ("x\n::stop-commands::y", "x\r::set-output name=a::b"):
            self.server.add_trace(id="t1", name=name, cost=5)
            with self.subTest(name=ascii(name[:20])):
                result, _ = self.actions("--min-score", name + "=0.5", "--max-cost", "1",
                                         "--tag", name, summary=False)
                lines = re.split("[\r\n]+", result.err.strip())
                self.assertEqual([line[:8] for line in lines if "::" in line[:8]],
                                 ["::error "] * 3, result)
                self.assertNotRegex(result.out + result.err, r"(?m)##\w*\[|^\s*::(?!error )")
            self.server.store.remove("traces", "t1")

    def assertOnlyText(self, lines, cells):
        """The summary is a heading, code that says what it is of, a table, and indented code."""
        self.assertEqual(lines[:2] + lines[3:4], ["### twosignal traces check", "", ""])
        self.assertRegex(lines[2], r"\A`[^`]+, written [-:TZ0-9]+`\Z")
        for line in lines[4:]:
            if line.startswith("|"):
                code = r"\A\|( (`[^`|]+`|-|[\w ≤≥.%%]+) \|){%d}\Z" % cells
                self.assertRegex(line, r"Check|---" if line in lines[4:6] else code)
            else:
                self.assertRegex(line, r"\A(    .*)?\Z")

    def test_summary_is_only_text(self):
        """Row 68: names are words or code, which are no links, mentions, images or tags."""
        for name in HOSTILE_NAMES:
            self.server.add_trace(id="t1", name=name, cost=5, status="ERROR", spans=[
                {"name": name, "status": "ERROR", "errorMessage": name}])
            _, lines = self.actions("--min-score", name + "=0.5", "--max-p95", "8s",
                                    "--max-cost", "1", "--max-error-rate", "0")
            with self.subTest(name=ascii(name[:20])):
                self.assertOnlyText(lines, 5)
                self.assertEqual(sum(line.startswith("|") for line in lines), 7)
            os.unlink(self.path("summary.md"))
            self.server.store.remove("traces", "t1")

    def test_failures_to_run(self):
        """What kept the gate from running, in the annotation and in the summary."""
        self.server.fault("trace.list", times=None, status=403)
        result, lines = self.actions("--max-cost", "1")
        self.assertEqual(result.code, 5)
        annotation, error = result.err.splitlines()
        message, hint = annotation[len(self.title("")) - 1:].split(": ", 1)[1].split("%0A")
        self.assertEqual(message, "Permission denied")
        self.assertEqual(error, "Error: Permission denied. " + hint)
        self.assertOnlyText(lines, 0)
        self.assertEqual(lines[4:], [
            "    twosignal traces check (project %s): Permission denied" % self.server.project,
            "    " + hint, ""])

    @unittest.skipUnless(os.path.exists(FULL_DISK), "needs /dev/full")
    def test_whatever_becomes_of_the_junit_file(self):
        result, lines = self.actions("--max-cost", "0.035", "--junit", FULL_DISK)
        self.assertEqual(result.code, 1)
        self.assertIn(self.title("max-cost ≤ $0.035") + "failed: ", result.err)
        self.assertIn("| highest cost | `$0.04` | `≤ $0.035` | FAILED | 4 |", lines)

    def test_wrong_usage(self):
        result, lines = self.actions("--max-cost", "much")
        self.assertEqual(result.code, 2)
        self.assertTrue(result.err.startswith("::error title=twosignal traces check::"), result)
        self.assertIn("much", "".join(lines))

    def test_other_gates(self):
        path = self.path("summary.md")
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path}
        for argv, procedure in ((["traces", "wait"], "trace.list"),
                                (["usage", "--fail-above", "9"], "usage.getCurrentMonth")):
            with self.subTest(argv=argv):
                self.server.fault(procedure, times=None, status=403)
                result = self.cli(*argv, env=env)
                self.assertEqual(result.code, 5, result)
                name = " ".join(["twosignal"] + [word for word in argv if word.isalpha()])
                self.assertIn("::error title=%s::%s (" % (name, name), result.err)
                with open(path, encoding="utf-8") as file:
                    self.assertIn("    %s (" % name, file.read())

    def test_other_commands_say_nothing(self):
        path = self.path("summary.md")
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path}
        self.assertOk(self.cli("usage", env=env), err="")
        self.assertOk(self.cli("traces", "wait", "--count", "1", env=env), err="")
        self.assertFails(self.cli("traces", "list", "--nonsense", env=env), 2)
        self.assertFalse(os.path.exists(path))

    def test_names_the_worst_traces(self):
        result, lines = self.actions("--max-cost", "0.035", "--max-p95", "9h")
        self.assertEqual(result.code, 10)
        (name, command), = self.worst("agent 4")
        self.assertEqual(lines[:2] + lines[4:], [
            "### twosignal traces check", "",
            "| Check | Measured | Threshold | Verdict | Traces |",
            "| --- | --- | --- | --- | --- |",
            "| p95 duration | 4.0s | ≤ 9h 00m 00s | OK | 4 |",
            "| highest cost | `$0.04` | `≤ $0.035` | FAILED | 4 |",
            "| count | 4 | ≥ 1 | OK | 4 |", "",
            "    max-cost ≤ $0.035 (project %s): failed: measured $0.04, threshold ≤ $0.035"
            % self.server.project, "    $0.04" + name, "    " + command, ""])

    def test_shows_both_sides_of_a_baseline(self):
        self.server.add_trace(tags=["v1"], duration_ms=100)
        self.server.add_trace(tags=["v2"], duration_ms=900)
        _, lines = self.actions("--tag", "v2", "--baseline-tag", "v1", "--max-regression", "9%")
        self.assertIn("baseline-tag v1", lines[2])
        self.assertIn("| Check | Baseline | Measured | Change | Limit | Verdict | Traces |", lines)
        self.assertIn("| p95 duration | 0.1s | 0.9s | +800% | ≤ +9% | FAILED | 1 |", lines)

    def test_shows_the_direction_of_a_minimum(self):
        result, lines = self.actions("--min-score", "0.6", "--min-count", "9")
        self.assertEqual(result.code, 10)
        annotations = [line.partition("%0A")[0] for line in result.err.splitlines()
                       if line.startswith("::")]
        self.assertEqual(annotations, [
            self.title("min-score ≥ 0.6") + "failed: measured 0.5, threshold ≥ 0.6",
            self.title("min-count ≥ 9") + "too few: measured 4, threshold ≥ 9"])
        self.assertIn("| lowest score | 0.5 | ≥ 0.6 | FAILED | 4 |", lines)
        self.assertIn("| count | 4 | ≥ 9 | TOO FEW | 4 |", lines)

    def test_summary_is_appended(self):
        self.write("summary.md", "# Before\n")
        _, lines = self.actions("--max-cost", "1")
        self.assertEqual(lines[0], "# Before")
        again = self.actions("--max-cost", "1")[1]
        self.assertEqual(again[:len(lines)], lines)
        self.assertGreater(len(again), len(lines))

    def test_summary_that_cannot_be_written_leaves_the_verdict(self):
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": self.folder}
        for option, code in (("4s", 0), ("1s", 10)):
            result = self.check("--max-p95", option, env=env)
            self.assertEqual(result.code, code, result)
            self.assertIn("Cannot write GITHUB_STEP_SUMMARY: ", result.err)

    def test_outside_of_github_there_is_neither(self):
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


def write_reports(folder):
    """A report of each kind, written by processes, and what junitparser should read in it."""
    case = Gate()
    case.setUp()
    expected = {}
    try:
        for kind, command_line, code, cases in KINDS:
            path = os.path.join(folder, kind + ".xml")
            result = case.run_process(*words_of(command_line), "--junit", path)
            case.assertEqual(result.code, code, result)
            expected[kind] = [[*each, could_not_run(each)] for each in cases]
    finally:
        case.doCleanups()
    with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as file:
        json.dump(expected, file)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reports"]:
        write_reports(sys.argv[2])
    else:
        unittest.main()
