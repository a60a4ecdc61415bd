"""The section Traces: `traces wait`."""
import subprocess
import sys
import threading

import standin
import twosignal
from servers import Scripted, answer, certificates, needs_openssl
from tools import (DEADLINE, DIALECTS, OLD, PROGRAM, PassingClock, Steps, TracesCase, fails_from,
                   nothing)


class WaitCase(TracesCase):
    def wait(self, *args, steps=(), **kwargs):
        naps = Steps(*steps)
        result = self.traces("wait", *args, naps=naps, **kwargs)
        result.naps = naps
        return result

    def wait_in_vain(self, *args, **kwargs):
        """Waits for 20 seconds, on a clock on which only pauses take time."""
        clock = PassingClock(Steps(*[nothing] * 500))
        return self.traces("wait", "--timeout", "20s", *args, clock=clock, **kwargs)

    def add_evaluators(self, **enabled):
        for name, on in enabled.items():
            self.server.add_evaluator(name=name, enabled=on)


class Waiting(WaitCase):
    def test_traces_that_are_there_need_no_waiting(self):
        self.add(3)
        result = self.assertOk(self.wait("--count", "3"), err="")
        self.assertEqual(result.naps, [])

    def test_traces_that_arrive_meanwhile_in_both_dialects(self):
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

    def test_server_without_pages(self):
        """A full list ends the waiting only if traces are missing: more of them may exist."""
        self.use(bare_list=True)
        self.add_evaluators(quality=True)
        self.add(100, scores=[{"evaluatorName": "quality", "value": 1}])
        self.assertOk(self.wait("--count", "100"), err="")
        self.assertOk(self.wait("--scored", "--count", "100"), err="")
        for options in (("--count", "101"), ("--error",), ("--scored", "--count", "101"),
                        ("--min-duration", "1h")):
            with self.subTest(options=options):
                self.use(bare_list=True, known_filters=())
                self.add_evaluators(quality=True)
                self.add(100, scores=[{"evaluatorName": "quality", "value": 1}])
                self.assertFails(self.wait(*options), 8, "This server returned 100 traces and has "
                                 "no further pages: more may exist. Use narrower --since and "
                                 "--until.")
        self.add(1, status="ERROR")
        self.assertOk(self.wait("--error"))
        self.use(bare_list=True)
        self.add_evaluators(quality=True)
        trace, *_ = self.add(120)       # enough traces on the page: their scores are waited for
        self.assertOk(self.wait("--scored", steps=(
            nothing, lambda: self.server.add_score(trace, "quality", 0.9))))
        self.use(bare_list=True)
        self.add(99)
        self.assertOk(self.wait("--count", "100", steps=(nothing, lambda: self.add(1))))

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

    def test_scored_counts_only_scored_traces(self):
        self.add_evaluators(quality=True)
        traces = self.add(3)
        result = self.assertOk(self.wait("--scored", "--count", "2", steps=(
            lambda: self.server.add_score(traces[0], "quality", 0.9),
            lambda: self.server.add_score(traces[2], "quality", 0.9))))
        self.assertEqual(len(result.naps.long()), 2)

    def test_known_scores_are_not_fetched_again(self):
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
        self.assertEqual(result.err, "1 of 3 traces scored.\n")

    def test_progress_is_printed(self):
        result = self.assertOk(self.wait("--count", "3", steps=(
            nothing, lambda: self.add(1), nothing, lambda: self.add(1), lambda: self.add(1))))
        self.assertEqual(result.err, "".join("%d of 3 traces arrived.\n" % number
                                             for number in range(3)))

    def test_progress_in_a_terminal(self):
        clock = PassingClock(Steps(nothing, nothing, lambda: self.add(2)))
        result = self.assertOk(self.traces("wait", "--count", "2", tty=True, clock=clock))
        self.assertRegex(result.err, r"\A\r0 of 2 traces arrived, [1-3] s")
        self.assertEqual(result.err.split("\r")[-1], "")
        self.assertNotIn("\n", result.err)

    def test_an_error_that_comes_back_is_printed_again(self):
        def fail():
            self.server.fault("trace.list", times=3, status=503)
        fail()
        result = self.assertOk(self.wait(steps=[nothing, nothing, fail, nothing, nothing,
                                                lambda: self.add(1)]))
        self.assertEqual(result.err.count("Trying again"), 2)

    def test_a_project_by_its_name(self):
        """Failures while its ID is looked up are retried, too."""
        self.server.fault("organization.list", times=4, status=503)
        self.server.fault("project.list", times=4, status=503)
        result = self.cli("traces", "wait", "--project", "Support Agent", naps=Steps(
            *[nothing] * 6 + [lambda: self.add(1)] * 2))
        self.assertOk(result)
        self.assertEqual(self.server.count("organization.list"), 4 + 2)
        self.assertFails(self.cli("traces", "wait", "--project", "support agent", naps=Steps()), 6)

    def test_a_server_that_hangs_while_the_project_is_looked_up(self):
        fault = self.server.fault("organization.list", times=None, delay=True)
        self.addCleanup(fault.release.set)
        result = self.cli("traces", "wait", "--project", "Support Agent", "--timeout", "50ms",
                          naps=False)
        self.assertFails(result, 3, "No response", "--timeout")

    def test_the_same_error_is_printed_once(self):
        self.server.fault("trace.list", times=21, status=503)
        result = self.assertOk(self.wait(steps=[nothing] * 7 + [lambda: self.add(1)] * 2))
        self.assertEqual(result.err.count("Trying again"), 1)

    def test_the_evaluators_that_are_missing_are_named(self):
        self.add_evaluators(quality=True, safety=True, retired=False)
        self.add(1, scores=[{"evaluatorName": "quality", "value": 1}])
        self.add(1, scores=[{"evaluatorName": {"odd": 1}, "value": 1}])
        result = self.wait_in_vain("--scored", "--count", "2")
        self.assertEqual(result.code, 11, result)
        self.assertEqual(result.err, "0 of 2 traces scored.\nStill waiting for scores from: "
                         "quality (1 trace), safety (2 traces). Check --project, --since and "
                         "--tag, or allow more time with --timeout.\n")

    def test_timeout(self):
        self.add(1)
        result = self.wait_in_vain("--count", "2")
        self.assertEqual((result.code, result.out),
                         (11, "Timed out after 20s: 1 of 2 traces arrived.\n"), result)
        result = self.wait_in_vain("--count", "2", "--json")
        self.assertEqual(result.code, 11, result)
        self.assertEqual((result.json["found"], result.json["wanted"]), (1, 2))

    def test_timeout_in_github_actions(self):
        path = self.path("summary.md")
        result = self.wait_in_vain("--tag", "v2", "--count", "3", env={
            "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path})
        self.assertEqual(result.code, 11)
        self.assertRegex(result.err, "::error title=twosignal traces wait::traces arrived .*: "
                         "too few: measured 0, threshold ≥ 3\n")
        self.assertIn("--timeout", result.err)
        with open(path, encoding="utf-8") as file:
            self.assertIn("| traces arrived | 0 | ≥ 3 | TOO FEW |", file.read())

    def test_timeout_while_not_scored(self):
        self.add_evaluators(quality=True)
        self.add(1)
        self.assertEqual(self.wait_in_vain("--scored").code, 11)

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

    def test_server_that_stays_down(self):
        self.server.stop()
        self.assertFails(self.wait("--timeout", "50ms"), 3, "Connection refused", "--url")

    def test_retry_after_is_respected(self):
        self.server.fault("trace.list", times=1, status=429, headers={"Retry-After": "45"})
        result = self.assertOk(self.wait(steps=[lambda: self.add(1)] + [nothing] * 9))
        self.assertGreaterEqual(sum(result.naps), 44)

    def test_many_slow_pages_end_at_the_timeout(self):
        """--timeout limits the whole command, not each request."""
        self.add(120)
        self.server.fault("trace.list", times=None, drip=0.002)
        result = self.cli("traces", "wait", "--project", self.server.project, "--count", "120",
                          "--timeout", "100ms", naps=False)
        self.assertFails(result, 3, "No response")
        self.assertEqual(self.server.count("trace.list"), 1)

    def test_response_that_does_not_arrive_ends_at_the_timeout(self):
        fault = self.server.fault("trace.list", times=None, delay=True)
        project, done = self.server.project, threading.Event()
        command = [sys.executable, PROGRAM, "traces", "wait", "--project", project,
                   "--timeout", "200ms"]
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        threading.Thread(target=lambda: process.wait() is None or done.set(), daemon=True).start()
        in_time = done.wait(20)     # less than the 30 seconds that a request may take
        fault.release.set()
        if not in_time:
            process.kill()
        self.assertTrue(done.wait(DEADLINE))
        self.assertTrue(in_time, "it waited for a response longer than --timeout")
        self.assertEqual(process.returncode, 3)

    def test_session_that_expires_meanwhile(self):
        result = self.wait(steps=(lambda: self.server.expire("owner@example.com"),
                                  lambda: self.add(1)))
        self.assertOk(result)
        self.assertEqual(self.server.count("auth/refresh"), 1)

    def test_session_that_is_revoked_ends_it(self):
        result = self.wait(steps=(lambda: self.server.revoke("owner@example.com"), nothing))
        self.assertFails(result, 4, "Authentication expired")

    def test_permanent_failure_ends_it(self):
        result = self.cli("traces", "wait", "--project", self.server.hidden, naps=Steps())
        self.assertFails(result, 6, "Project not found")

    def test_ctrl_c(self):
        self.assertEqual(self.wait(steps=(nothing,)).code, 130)

    def test_bad_input(self):
        for given in ("--count 0", "--count few", "--timeout soon", "--timeout 0", "--timeout 0s",
                      "--timeout 9999h", "--tag=", "--search=",
                      "--timeout -5s", "--since yesterday-ish", "--timeout 1.2.3",
                      "--evaluator quality", "--scored --evaluator="):
            with self.subTest(given=given):
                self.assertFails(self.wait(*given.split()), 2)
        self.assertEqual(self.server.requests, [])


class AwaitedEvaluators(WaitCase):
    def score(self, trace, name):
        return lambda: self.server.add_score(trace, name, 0.5)

    def test_nothing_to_wait_for(self):
        message = "All evaluators are disabled or CUSTOM"
        self.assertFails(self.wait("--scored"), 11, message + ": ", "--evaluator")
        self.add_evaluators(retired=False)
        self.assertFails(self.wait("--scored"), 11, message + ": ", "--evaluator")
        self.server.add_evaluator(name="by hand", type="CUSTOM")
        self.assertFails(self.wait("--scored"), 11, message + ": ", "--evaluator")

    def test_a_custom_evaluator_is_waited_for_only_if_named(self):
        self.add_evaluators(quality=True)
        self.server.add_evaluator(name="by hand", type="CUSTOM")
        trace, = self.add(1, scores=[{"evaluatorName": "quality", "value": 1}])
        self.assertOk(self.wait("--scored"), err="")
        result = self.assertOk(self.wait("--scored", "--evaluator", "by hand", steps=(
            nothing, self.score(trace, "by hand"))))
        self.assertEqual(len(result.naps.long()), 2)
        self.assertEqual(result.err, "0 of 1 traces scored.\n")

    def test_only_the_named_ones_are_waited_for(self):
        self.add_evaluators(quality=True, safety=True, tone=True)
        trace, = self.add(1)
        result = self.assertOk(self.wait("--scored", "--evaluator", "quality", "--evaluator",
                                         "tone", steps=(self.score(trace, "quality"), nothing,
                                                        self.score(trace, "tone"))))
        self.assertEqual(len(result.naps.long()), 3)

    def test_scores_can_be_posted_under_any_name(self):
        """One that the project does not have, or that is disabled, is waited for; told once."""
        self.add_evaluators(quality=True, retired=False)
        trace, = self.add(1)
        for name in ("elsewhere", "retired"):
            with self.subTest(name=name):
                result = self.assertOk(self.wait("--scored", "--evaluator", name, steps=(
                    nothing, nothing, self.score(trace, name))))
                self.assertEqual(len(result.naps.long()), 3)
                self.assertEqual(result.err.count("No evaluator named '%s' is enabled" % name), 1)
                self.assertEqual(self.server.count("evaluator.list"), 1)
                self.server.clear()
        self.server.add_score(trace, "quality", 1)
        self.assertOk(self.wait("--scored", "--evaluator", "quality"), err="")

    def test_missing_scores_are_counted(self):
        """Those of the newest traces, as many as are wanted."""
        self.add_evaluators(quality=True, safety=True)
        traces = self.add(5)                # newest first
        for trace in traces[:1] + traces[3:]:
            self.server.add_score(trace, "safety", 1)
        result = self.wait_in_vain("--scored", "--count", "3", "--json")
        self.assertEqual((result.code, result.json["found"]), (11, 0), result)
        self.assertEqual(result.json["missing"], {"quality": 3, "safety": 2})
        self.assertIn("Still waiting for scores from: quality (3 traces), safety (2 traces). ",
                      result.err)
        for trace in traces[:2]:
            self.server.add_score(trace, "quality", 1)
        result = self.wait_in_vain("--scored", "--count", "9", "--json")
        self.assertEqual((result.json["found"], result.json["missing"]),
                         (1, {"quality": 3, "safety": 2}))
        result = self.assertOk(self.wait("--scored", "--json"), err="")
        self.assertEqual((result.json["found"], result.json["missing"]), (1, {}))

    def test_nothing_is_missing_unless_scores_are_awaited(self):
        self.add(1)
        for wait, count, code in ((self.wait, "1", 0), (self.wait_in_vain, "2", 11)):
            result = wait("--json", "--count", count)
            self.assertEqual((result.code, result.json["missing"]), (code, {}), result)

    def test_newest_lacks_a_score_but_enough_others_do_not(self):
        self.add_evaluators(quality=True)
        traces = self.add(3)
        self.server.add_score(traces[2], "quality", 1)
        result = self.assertOk(self.wait("--scored", "--json"), err="")
        self.assertEqual((result.json["found"], result.json["missing"]), (1, {}))


class FailuresToAsk(TracesCase):
    """What could not be asked is never reported as "none found"."""

    def move_to(self, url):
        """Make the session belong to that address; return the options of a command for it."""
        self.write("home/session.json", dict(self.state("session.json"), api_url=url))
        return "--project", self.server.project, "--url", url

    def assertEnds(self, command, code, *args, at_once, env=None):
        """It fails with that code, as text and as JSON; at once: it polls a single time."""
        shapes = {"tail": ("--format", "jsonl")}
        for shape in ((), shapes.get(command, ("--json",))):
            with self.subTest(command=command, args=args, shape=shape):
                naps = Steps() if at_once else []       # the first pause of Steps() is Ctrl-C
                result = self.cli("traces", command, *args + shape, naps=naps, env=env)
                if "--json" in shape and command == "wait" and not at_once:
                    self.assertEqual((result.json["found"], result.json["missing"]), (None, None))
                    result.out = ""
                self.assertFails(result, code)
                self.assertNotIn("--since", result.err)

    def assertAllEnd(self, code, *args, at_once=True, env=None):
        for command in ("check", "tail", "wait"):
            more = {"check": ("--max-cost", "9"), "wait": ("--timeout", "50ms")}
            self.assertEnds(command, code, *args + more.get(command, ()), env=env,
                            at_once=at_once or command != "wait")

    def test_what_may_change(self):
        """Row 43: closed port, 500, 429, a web page: waited for in vain, then exit 3, 7 or 8."""
        project = "--project", self.server.project
        for code, fault in ((8, dict(status=500)), (7, dict(status=429)),
                            (8, dict(body="<html>"))):
            self.server.clear()
            self.server.fault("trace.list", times=None, **fault)
            self.assertAllEnd(code, *project, at_once=False)
        self.assertAllEnd(3, *self.move_to(self.move_to_closed_port()), at_once=False)

    def test_silence(self):
        """Row 43: no response in time is exit 3."""
        fault = self.server.fault("trace.list", times=None, delay=True)
        self.addCleanup(fault.release.set)
        for command, *options in (("check", "--max-cost", "9"), ("tail",), ("wait",)):
            self.assertEnds(command, 3, "--project", self.server.project, "--timeout", "50ms"
                            if command == "wait" else "0.1", *options, at_once=False)

    def test_what_cannot_change(self):
        """Row 43: not TLS, not HTTP, no host name, a redirect, a rejected key: exit 3 to 8 at once.
        """
        project = "--project", self.server.project
        here = self.server.url
        for code, fault in ((8, dict(raw=b"SSH-2.0-OpenSSH_9.6\r\n")), (5, dict(status=403)),
                            (8, dict(status=401, body="<html>Log in</html>")),
                            (8, dict(status=302, headers={"Location": "http://127.0.0.2:1/"}))):
            self.server.clear()
            self.server.fault("trace.list", times=None, **fault)
            self.assertAllEnd(code, *project)
        self.server.clear()
        self.assertAllEnd(6, "--project", self.server.hidden)
        self.assertAllEnd(4, env={"TWOSIGNAL_API_KEY": "ts_wrong"})
        self.assertAllEnd(3, *self.move_to(here.replace("http:", "https:")))
        self.assertAllEnd(3, *self.move_to("http://%s.test" % ("a" * 64)))
        self.move_to(here)
        self.server.revoke("owner@example.com")
        self.assertAllEnd(4, *project)

    @needs_openssl
    def test_untrusted_certificates(self):
        """Row 43: a certificate that is untrusted, expired or of another host: exit 3 at once."""
        made = certificates(self.folder)
        for pair, more in ((made.self_signed, ()), (made.good, ()),
                           (made.expired, ("--ca-cert", made.ca)),
                           (made.wrong_host, ("--ca-cert", made.ca))):
            with Scripted([answer()] * 9, tls=pair) as server:
                url = "https://127.0.0.1:%d" % server.port
                self.assertAllEnd(3, *self.move_to(url) + more)
                self.assertEqual((server.connections, server.requests), (6, []))


class WaitingInVain(WaitCase):
    """Whether a wait timed out, or could not ask."""

    def failing(self, **fault):
        """A step from which on the pages of traces fail."""
        return lambda: self.server.fault("trace.list", times=None, **fault)

    def in_vain(self, *steps):
        """Waits for a second trace, with more steps than there is time for."""
        clock = PassingClock(Steps(*steps + (nothing,) * 500))
        return self.traces("wait", "--count", "2", "--timeout", "20s", "--json", clock=clock)

    def cut_short(self, *faults):
        """Waits for a second trace on a server that at last does not answer any more."""
        take = self.server.take_fault
        left = list(faults)

        def taken(request):
            if "trace.list" not in request.path:
                return take(request)
            fault = left.pop(0) if left else dict(drip=99)
            return fault and standin.Fault("", None, **fault)

        self.server.take_fault = taken
        return self.traces("wait", "--count", "2", "--timeout", "200ms", "--json")

    def test_last_poll_failed(self):
        self.add(1)
        result = self.in_vain(nothing, self.failing(status=500))
        self.assertEqual((result.code, result.json["found"], result.json["missing"]),
                         (8, None, None), result)
        self.assertEqual(result.error["code"], "INTERNAL_SERVER_ERROR")

    def test_last_poll_worked(self):
        self.add(1)
        result = self.in_vain(self.failing(status=500), nothing, self.server.clear)
        self.assertEqual((result.code, result.json["found"], result.error), (11, 1, None), result)

    def test_last_poll_was_cut_short(self):
        """By the end of the wait itself, on a server that had answered: timed out."""
        self.add(1)
        result = self.cut_short(None)
        self.assertEqual((result.code, result.json["found"], result.error), (11, 1, None), result)
        self.assertNotIn("No response", result.err)
        self.assertEqual(self.server.count("trace.list"), 2)

    def test_last_poll_was_cut_short_after_others_had_failed(self):
        self.add(1)
        result = self.cut_short(None, *[dict(status=500)] * twosignal.MAX_TRIES)
        self.assertEqual((result.code, result.json["found"]), (8, None), result)
        self.assertEqual(result.error["code"], "INTERNAL_SERVER_ERROR")

    def test_cut_short_between_pages(self):
        """What the pages before had is counted."""
        self.add(230)
        with fails_from(self.server, 2, drip=9):
            result = self.wait("--count", "300", "--timeout", "100ms", "--json")
        self.assertEqual((result.code, result.json["found"]), (11, 100), result)

    def test_failure_is_shown_and_annotated(self):
        self.server.stop()
        actions = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": self.path("summary.md")}
        result = self.wait("--timeout", "50ms", "-q", env=actions)
        message = "Connection refused by %s. Check your" % self.server.url.split("/")[2]
        self.assertFails(result, 3, message)
        self.assertRegex(result.err, "::error title=twosignal traces wait::.*Connection refused")
        self.assertNotIn("measured", result.err)
        with open(actions["GITHUB_STEP_SUMMARY"], encoding="utf-8") as file:
            self.assertIn("Connection refused", file.read())

    def test_final_failure_is_annotated(self):
        self.server.fault("trace.list", status=403)
        result = self.assertFails(self.wait(env={"GITHUB_ACTIONS": "true"}), 5)
        self.assertRegex(result.err, "::error title=twosignal traces wait::.*Permission denied")
