"""The section Session: its file, refreshes, concurrent processes and a TUI, logins."""
import contextlib
import errno
import importlib
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from unittest import mock
from urllib.parse import quote

import twosignal
from forks import Forks
from injection import Injection
from servers import Proxy, Scripted, answer, silence
from sessions import encode64, session_cookies, session_in_cookie
from standin import PROJECT_REF, StandIn
from tools import (DEADLINE, PROGRAM, SESSION, EventfulClock, PassingClock, Result,
                   ServerCase, StateCase, WrongClock, as_bytes, as_text, file_bytes, full,
                   full_once, heed_interrupts, kept_signals, posix, replaced_environment,
                   run_command)


def around(function, before):
    """Within the block, `before` is called first whenever that function of a module is called."""
    module, _, name = function.rpartition(".")
    original = getattr(importlib.import_module(module), name)

    def called(*args, **kwargs):
        before()
        return original(*args, **kwargs)
    return mock.patch(function, called)


def once(action):
    """A function that performs the action when it is first called, and nothing later."""
    left = [action]
    return lambda: left.pop()() if left else None


def wrong_sessions():
    """Contents of session.json that are not a session, as bytes."""
    shapes = ["[]", "null", "true", "0", "1e999", '"text"', "[{}]", "NaN", "-Infinity",
              "{} {}", "\x00", "\x00" * 500, "[" * 100000, '{"a":' * 100000, "1" * 5000,
              "<html></html>", b"\xff\xfe{\x00}\x00", b"\xff" * 100, " " * (2 << 20)]
    shapes += [dict(SESSION, **{key: value}) for key in SESSION for value in
               (None, [], {}, ["x"], {"x": 1}, float("nan"), float("inf"), False)]
    shapes += [{other: SESSION[other] for other in SESSION if other != key}
               for key in ("access_token", "refresh_token", "expires_at", "project_ref")]
    shapes += [dict(SESSION, expires_at=value) for value in ("soon", "", "NaN", "0x10", "1_0")]
    shapes += [dict(SESSION, api_url=5), dict(SESSION, api_url=None), dict(SESSION, user_id={})]
    shapes += ['{"expires_at": %s}' % ("9" * 5000)]
    texts = [shape if isinstance(shape, (str, bytes)) else json.dumps(shape) for shape in shapes]
    return [as_bytes(text) for text in texts]


class SessionFile(StateCase):
    def store(self, values):
        self.write("home/session.json", values)

    def test_nothing_stored(self):
        self.assertIsNone(twosignal.load_session())
        os.rmdir(self.home)
        self.assertIsNone(twosignal.load_session())

    def test_tui_can_read_it(self):
        """Row 13: the six documented keys, with the types that the TUI expects."""
        self.save_session(twosignal.Session(dict(SESSION, api_url="https://one.example.com")))
        found = self.state("session.json")
        for key, value in SESSION.items():
            self.assertEqual((key, found[key]), (key, value))
            self.assertIs(type(found[key]), type(value))

    def test_file_of_the_tui(self):
        """Row 13: six keys and no more, on one line or indented, in any order."""
        for text in (json.dumps(SESSION), json.dumps(SESSION, indent=4, sort_keys=True),
                     json.dumps(SESSION, separators=(",", ":")) + "\r\n"):
            self.store(text)
            session = twosignal.load_session()
            self.assertEqual((session.access_token, session.refresh_token, session.expires_at),
                             ("access.token.one", "refresh-one", 1893456000))
            self.assertEqual(session.api_url, "")

    def test_unknown_keys_stay(self):
        """Row 13: whatever their values are."""
        values = dict(SESSION, theme={"dark": [1, None, "東京"]}, last_project="p")
        self.store(values)
        self.save_session(twosignal.load_session())
        self.assertEqual(self.state("session.json"), values)

    def save_over(self, stored, fresh, spent):
        """The refresh tokens of what save_session returns and of what the file holds then."""
        self.store(stored)
        session = self.save_session(twosignal.Session(fresh), twosignal.Session(spent))
        return session.refresh_token, self.state("session.json")["refresh_token"]

    def test_older_session_never_overwrites_a_newer_one(self):
        """Row 13: what another program stored meanwhile stays if it is newer."""
        fresh = dict(SESSION, refresh_token="two", expires_at=2000)
        spent = dict(SESSION, expires_at=1000)
        for expires_at, winner in ((2500, "other"), (2000, "other"), (1500, "two")):
            stored = dict(SESSION, refresh_token="other", expires_at=expires_at)
            with self.subTest(expires_at=expires_at):
                self.assertEqual(self.save_over(stored, dict(fresh), spent),
                                 (winner, winner))

    def test_spent_or_damaged_file_is_replaced(self):
        """Row 13: the session that is replaced, even if it expires later; a damaged file."""
        fresh, spent = dict(SESSION, refresh_token="two", expires_at=2000), dict(SESSION)
        self.assertEqual(self.save_over(spent, fresh, spent), ("two", "two"))
        self.assertEqual(self.save_over('{"access', fresh, spent), ("two", "two"))

    def test_half_written_file_is_read_again(self):
        """Row 13: the TUI writes in place; a reader waits for the rest of an incomplete file."""
        text = json.dumps(SESSION)
        for size in (0, 1, len(text) // 2, len(text) - 1):
            self.store(text[:size])
            clock = EventfulClock(lambda: self.store(text))
            self.assertEqual(twosignal.load_session(clock).refresh_token, "refresh-one")

    def test_truncated_at_every_byte(self):
        """Row 14: reported with its name, never an exception of another kind."""
        text = json.dumps(dict(SESSION, user_email="東京@example.com"), indent=2,
                          ensure_ascii=False).encode("utf-8")
        for size in range(0, len(text), full(29, 1)):
            self.store(text[:size])
            self.assertDamaged()

    def assertDamaged(self):
        """The file is reported as damaged, with its name and the way out."""
        self.assertRefused(lambda: twosignal.load_session(self.clock),
                           self.file + " is damaged", "twosignal login")

    def test_wrong_shapes(self):
        """Row 14: reported with its name; never another exception."""
        for text in wrong_sessions():
            with self.subTest(text=text[:60]):
                self.store(text)
                self.assertDamaged()

    def test_empty_object(self):
        """It is what a program may leave behind in place of a session."""
        self.store("{}")
        self.assertIsNone(twosignal.load_session())

    def test_unusual_expiry(self):
        """Row 14: the expiry of a session that is accepted is a time."""
        for expires_at, shown in (
                (0, "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59Z"),
                (1.5, "1970-01-01T00:00:01Z"), ("1893456000", "2030-01-01T00:00:00Z")):
            with self.subTest(expires_at=expires_at):
                self.store(dict(SESSION, expires_at=expires_at))
                session = twosignal.load_session()
                self.assertEqual(twosignal.iso_timestamp(session.expires_at), shown)
                self.assertEqual(session.remaining(60), float(expires_at) - 60)
        for expires_at in (1e300, 10 ** 20, 10 ** 400, "1e300", True):
            with self.subTest(expires_at=str(expires_at)[:20]):
                self.store(dict(SESSION, expires_at=expires_at))
                self.assertDamaged()

    @posix
    def test_unreadable_file(self):
        """Row 14: a directory in its place is reported with its name."""
        os.mkdir(self.file)
        self.assertRefused(twosignal.load_session, self.file)

    def test_no_line_break_or_blank_in_a_token(self):
        """Row 33: a token that could change a request is refused when it is read."""
        for key, evil in itertools.product(
                ("access_token", "refresh_token", "project_ref"),
                ("a\r\nX-Evil: 1", "a\nb", "a b", "a\tb", "a\x00b", "a\x7f", "é", "", "a\n")):
            with self.subTest(key=key, evil=evil):
                self.store(dict(SESSION, **{key: evil}))
                self.assertDamaged()
        for evil in ("a;b", "a=b", "a,b", "a%b", "a/b", '"'):
            self.store(dict(SESSION, project_ref=evil))
            self.assertDamaged()

    def test_deletion(self):
        self.forget_session()
        self.store(SESSION)
        self.forget_session()
        self.assertFalse(os.path.exists(self.file))


class WriteProofs(StateCase):
    def reserve(self):
        with twosignal.Spending(time.monotonic() + 60) as spending:
            spending.reserve()
            self.assertEqual(len(self.leftovers()), 1)

    def test_proof_changes_nothing(self):
        """Row 12: the file is identical to the byte, and no other one is left."""
        text = json.dumps(SESSION, indent=7).encode() + b"\r\n"
        self.write("home/session.json", text)
        self.reserve()
        self.assertEqual((file_bytes(self.file), self.leftovers()), (text, []))

    def test_proof_keeps_what_others_write_meanwhile(self):
        """Rows 12, 13: a login or logout of another program during the proof is not undone."""
        newer = json.dumps(dict(SESSION, refresh_token="newer"))
        for change, expected in ((lambda: self.write("home/session.json", newer), newer),
                                 (lambda: os.unlink(self.file), None)):
            self.write("home/session.json", SESSION)
            with around("os.fsync", once(change)):
                self.reserve()
            self.assertEqual(twosignal.read_text(self.file), expected)
            self.assertEqual(self.leftovers(), [])

    def test_proof_fails_where_a_save_would(self):
        """Row 12: each step of a save is tried."""
        self.write("home/session.json", SESSION)
        for function in ("tempfile.mkstemp", "os.fsync", "os.replace"):
            with mock.patch(function, side_effect=OSError(errno.ENOSPC, "No space left")):
                self.assertRefused(self.reserve, self.file)
            self.assertEqual(self.leftovers(), [])


OWNER, PASSWORD = StandIn.OWNER
KEYS = ("access_token", "refresh_token", "expires_at", "user_id", "user_email", "project_ref")
LISTING, QUERY = ("orgs", "list", "--json"), "organization.list"


class SessionCase(ServerCase):
    def setUp(self):
        super().setUp()
        self.file = os.path.join(self.home, "session.json")
        # What a process sees is the same without it, and thousands of times it takes long.
        self.enter(mock.patch("os.fsync", lambda handle: None))

    def content(self):
        with open(self.file, "rb") as file:
            return file.read()

    def stored(self, session):
        self.write("home/session.json", json.dumps(session, indent=2) + "\n")
        return session

    def log_in_with(self, seconds, email=OWNER, **more):
        """Stores a session that expires in that many seconds, here and on the server."""
        session = self.log_in(email)
        if seconds <= 0:
            self.server.expire(email)
        return self.stored(dict(session, expires_at=int(time.time()) + seconds, **more))

    def log_in_expired(self, **more):
        return self.log_in_with(-10, **more)

    def on_request(self, fragment, before=None, after=None):
        """Calls functions around the server's response to the first request with that path."""
        respond, left = self.server.answer, [True]

        def answer(request):
            is_first = bool(left) and fragment in request.path
            if is_first:
                left.clear()
            if is_first and before:
                before()
            response = respond(request)
            if is_first and after:
                after()
            return response
        self.enter(mock.patch.object(self.server, "answer", answer))

    def tui(self):
        return Tui(self.file, self.server)

    def assertRefreshes(self, number):
        self.assertEqual(self.server.count("auth/refresh"), number)

    def assertRefreshed(self, before):
        """A new session of the same account is in the file, and the server knows it."""
        found = self.state("session.json")
        self.assertEqual(set(found), set(before) | {"api_url"})
        for key in ("access_token", "refresh_token", "expires_at"):
            self.assertNotEqual(found[key], before[key])
        for key in set(found) - {"access_token", "refresh_token", "expires_at", "api_url"}:
            self.assertEqual(found[key], before[key])
        self.assertIs(type(found["expires_at"]), int)
        self.assertIsNotNone(self.server.sessions.account(found["access_token"]))
        return found


class Tui:
    """Another program that shares the file: no lock, six keys, it rewrites the file in place."""

    def __init__(self, path, server):
        self.path, self.server = path, server

    def read(self):
        with open(self.path, encoding="utf-8") as file:
            found = json.load(file)
        return {key: found[key] for key in KEYS}

    def write(self, session):
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump({key: session[key] for key in KEYS}, file)

    def touch(self):
        """Reads and rewrites the whole file."""
        self.write(self.read())

    def rotate(self):
        """Refreshes the session in the file."""
        session = self.read()
        answer = self.spend(session)
        self.write(dict(session, **answer))

    def spend(self, session):
        with self.server.transaction():
            answer = self.server.sessions.refresh(session["refresh_token"])
        return {key: answer[key] for key in ("access_token", "refresh_token", "expires_at")}

    def log_in(self, email=OWNER):
        self.write(self.server.tokens(email))

    def log_out(self):
        os.unlink(self.path)


class ConcurrentProcesses(SessionCase):
    options = {"refresh_delay": 0.02}

    def start(self, *args, **options):
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", PROGRAM] + list(args), env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()

    def finish(self, process):
        out, err = process.communicate(timeout=300)
        self.end(process)
        return Result(process.returncode, as_text(out), as_text(err))

    def test_one_refresh_for_all(self):
        """Row 1: for all processes that start with an expired session: a token works only once."""
        command, count = LISTING + ("--timeout", "300"), full(12, 50)

        def started():
            processes = [self.start(*command) for _ in range(count)]
            return [self.finish(process) for process in processes]
        self.assertOneRefresh(started, count)
        if not hasattr(os, "fork"):
            return
        # It is the system that locks; what a version of Python changes is seen in fewer rounds.
        with Forks("twosignal", self.environment) as forks:
            for _ in range(full_once(1, 19)):
                self.assertOneRefresh(lambda: forks.run(*[command] * count), count)

    def assertOneRefresh(self, run, count):
        """Of so many processes, which run at once with an expired session, and all succeed."""
        self.server.clear()
        session = self.log_in_expired()
        for result in run():
            self.assertEqual(self.assertOk(result, "").json[0]["id"], self.server.org)
        self.assertRefreshes(1)
        self.assertEqual(self.server.count(QUERY), count)
        self.assertRefreshed(session)

    @posix
    def test_killed_during_a_refresh(self):
        """Row 5: SIGKILL while it holds the lock and waits for the server: the next run works."""
        session = self.log_in_expired()
        fault = self.server.fault("auth/refresh", status=503, delay=True)
        process = self.start(*LISTING)
        self.assertTrue(fault.begun.wait(DEADLINE))
        locked = self.run_cli(*LISTING, "--timeout", "2", clock=PassingClock())
        self.assertFails(locked, 3, "session.lock")
        process.kill()
        process.wait()
        fault.release.set()
        self.assertOk(self.run_cli(*LISTING))
        self.assertEqual(self.naps, [])
        self.assertRefreshed(session)
        self.assertRefreshes(2)

    @posix
    def test_signal_during_a_refresh(self):
        """Row 6: SIGTERM and Ctrl-C while the server responds: the new session is on disk."""
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                self.server.clear()
                session = self.log_in_expired()
                fault = self.server.fault("auth/refresh", delay=True)
                process = self.start(*LISTING, preexec_fn=heed_interrupts)
                self.assertTrue(fault.begun.wait(DEADLINE))
                process.send_signal(number)
                fault.release.set()
                result = self.finish(process)
                self.assertEqual((result.code, result.out, result.err.strip()), (-number, "", ""))
                self.assertRefreshed(session)
                self.assertEqual(self.server.count(QUERY), 0)

    @posix
    def test_ctrl_z_during_a_refresh(self):
        """Row 58: the process stops when the new session is saved, and without the lock."""
        session = self.log_in_expired()
        fault = self.server.fault("auth/refresh", delay=True)
        # With a group of its own in the same session, it is one that a shell can stop.
        process = self.start(*LISTING, preexec_fn=os.setpgrp)
        self.assertTrue(fault.begun.wait(DEADLINE))
        process.send_signal(signal.SIGTSTP)
        fault.release.set()
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status), status)
        self.assertRefreshed(session)
        self.assertEqual(self.server.count(QUERY), 0)
        with replaced_environment(self.environment), twosignal.Spending(time.monotonic()):
            pass
        process.send_signal(signal.SIGCONT)
        self.assertOk(self.finish(process), "")

    @posix
    def test_disk_is_full(self):
        """Row 12: that a file cannot grow is known before the token is spent."""
        self.log_in_expired()
        before = self.content()
        limited = ["sh", "-c", 'ulimit -f 0 && exec "$0" "$@"', sys.executable, PROGRAM]
        self.assertFails(run_command(limited + list(LISTING), self.environment), 1, self.file)
        self.assertRefreshes(0)
        self.assertEqual(self.content(), before)
        self.assertEqual(sorted(os.listdir(self.home)),
                         ["config.json", "origins.json", "session.json", "session.lock"])


class RefreshUnderLock(SessionCase):
    def held(self):
        """The lock, held by somebody else until the test ends or .close() is called."""
        holder = contextlib.ExitStack()
        self.addCleanup(holder.close)
        with replaced_environment(self.environment):
            holder.enter_context(twosignal.Spending(time.monotonic() + 60))
        return holder

    def run_patiently(self, *args):
        """Run a command on a clock on which its waiting takes no time."""
        return self.run_cli(*args, clock=PassingClock(self.naps))

    def test_never_refreshes_without_the_lock(self):
        """Row 4: it waits until its timeout: exit 3, a hint, and the token is not spent."""
        self.log_in_expired()
        before = self.content()
        self.held()
        for more, seconds in (((), 30), (("--timeout", "0.3"), 0.3)):
            result = self.run_patiently(*LISTING + more)
            self.assertFails(result, 3, "Another process holds the lock", "session.lock", "stop it")
            self.assertEqual(result.error["code"], "LOCKED")
            self.assertIn("lsof ", result.err)
            self.assertGreater(sum(self.naps), seconds / 2)
            self.assertLess(sum(self.naps), seconds + 0.1)
        self.assertRefreshes(0)
        self.assertEqual(self.content(), before)

    def test_not_after_a_rejected_token_either(self):
        """Row 4: 401 with a token that has not expired."""
        self.log_in()
        self.server.revoke_access(OWNER)
        self.held()
        self.assertFails(self.run_patiently(*LISTING, "--timeout", "2"), 3, "session.lock")
        self.assertRefreshes(0)

    def test_valid_session_needs_no_lock(self):
        """Row 4: the lock is for refreshes alone."""
        self.log_in()
        self.held()
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertEqual(self.naps, [])

    def test_early_refresh_gives_way(self):
        """Rows 4, 9: a token that is still valid is used if the lock is not free in a second."""
        self.log_in_with(30)
        self.held()
        self.assertOk(self.run_patiently(*LISTING), "")
        self.assertLess(sum(self.naps), 1.1)
        self.assertRefreshes(0)

    def test_login_waits_for_the_lock(self):
        """Row 4: the session of a login is saved under the lock as well."""
        clock = EventfulClock(self.held().close)
        result = self.run_cli("login", "--url", self.server.url, "-e", OWNER, "--password-stdin",
                              stdin=PASSWORD, clock=clock)
        self.assertOk(result)
        self.assertEqual(clock.naps, [0.02])

    def test_logout_does_not_depend_on_the_lock(self):
        """Row 5: even if another process keeps it, the session is deleted here."""
        self.log_in()
        self.held()
        self.assertOk(self.run_patiently("logout", "--timeout", "2"))
        self.assertFalse(os.path.exists(self.file))

    def test_lock_is_held_from_reading_to_writing(self):
        """Row 2: while a session is refreshed and saved, nobody else gets the lock."""
        self.log_in_expired()
        found = []

        def look(step):
            try:
                with twosignal.Spending(time.monotonic()):
                    found.append((step, "free"))
            except twosignal.TransientFailure:
                found.append((step, "held"))

        self.on_request("auth/refresh", lambda: look("request"), lambda: look("response"))
        self.on_request(QUERY, lambda: look("query"))
        self.enter(around("os.fsync", lambda: look("sync")))
        self.enter(around("os.replace", lambda: look("replace")))
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertEqual(found, [("sync", "held"), ("replace", "held"), ("sync", "held"),
                                 ("request", "held"), ("response", "held"), ("sync", "held"),
                                 ("sync", "held"), ("replace", "held"),     # when it was obtained
                                 ("replace", "held"), ("sync", "held"), ("query", "free")])

    def run_locked(self, action):
        """Run a command while another process holds the lock, does something, and releases it."""
        holder = self.held()

        def end():
            action()
            holder.close()
        clock = EventfulClock(end)
        result = self.run_cli(*LISTING, clock=clock)
        self.assertEqual(clock.naps[0], 0.02)
        return result

    def test_session_is_read_again(self):
        """Row 3: another process refreshed it while this one waited for the lock."""
        for prepare in (self.log_in_expired, lambda: self.log_in_with(30)):
            self.server.clear()
            prepare()
            self.assertOk(self.run_locked(self.tui().rotate), "")
            self.assertRefreshes(0)
            self.assertEqual(self.server.count(QUERY), 1)

    def test_session_is_read_again_after_a_rejection(self):
        """Rows 3, 10: the token was rejected; meanwhile another process has a new one."""
        self.log_in()
        self.server.revoke_access(OWNER)
        self.assertOk(self.run_locked(self.tui().rotate), "")
        self.assertRefreshes(0)
        self.assertEqual(self.server.count(QUERY), 2)

    def test_logged_out_meanwhile(self):
        """Row 3: another program logged out while this one waited: no refresh."""
        self.log_in_expired()
        self.assertFails(self.run_locked(self.tui().log_out), 4, "Not logged in")
        self.assertRefreshes(0)
        self.assertFalse(os.path.exists(self.file))


class Refreshes(SessionCase):
    def test_expired_session_is_refreshed(self):
        """Row 6: it is on disk before the token is used for anything."""
        session, seen = self.log_in_expired(), []
        self.on_request(QUERY, lambda: seen.append(self.state("session.json")))
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertEqual(seen, [self.assertRefreshed(session)])
        self.assertRefreshes(1)
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertRefreshes(1)

    def test_refreshed_two_minutes_early(self):
        """Row 48: before the server's library would do it, which begins 90 s before the expiry."""
        for seconds, refreshes in ((3000, 0), (150, 0), (110, 1), (30, 1)):
            self.server.clear()
            self.log_in_with(seconds)
            self.assertOk(self.run_cli(*LISTING), "")
            self.assertRefreshes(refreshes)

    def test_short_sessions(self):
        """Row 48: one that is valid for two minutes is refreshed in its last quarter."""
        self.enter(mock.patch("sessions.TOKEN_SECONDS", 120))
        for seconds, refreshes in ((119, 0), (40, 0), (25, 1)):
            self.server.clear()
            self.log_in_with(seconds)
            self.assertOk(self.run_cli(*LISTING), "")
            self.assertRefreshes(refreshes)

    def test_one_refresh_per_run_whatever_the_clock_says(self):
        """Row 48: what the server has just issued is valid, even on a clock that is hours ahead."""
        for ahead in (-7200, 7200):
            self.server.clear()
            self.log_in()
            result = self.run_cli("traces", "list", "--json", "--project", self.server.project,
                                  clock=WrongClock(ahead))
            self.assertEqual(result.code, 0, result)
            self.assertGreater(self.server.count("/api/trpc/"), 1)
            self.assertRefreshes(1 if ahead > 0 else 0)

    AHEAD = 59 * 60                 # seconds: a session of an hour seems to end in a minute

    def assertRefreshesOfRuns(self, refreshes, ahead, runs=5):
        for _ in range(runs):
            self.assertEqual(self.run_cli(*LISTING, clock=WrongClock(ahead)).code, 0)
        self.assertRefreshes(refreshes)

    def test_one_refresh_for_many_runs_whatever_the_clock_says(self):
        """Row 58: when a session was obtained is remembered, by a refresh and by a login."""
        for ahead in (self.AHEAD, 7200, -7200):
            for lifetime in (3600, 60):
                with mock.patch("sessions.TOKEN_SECONDS", lifetime):
                    self.server.clear()
                    self.log_in_with(-90000)
                    self.assertRefreshesOfRuns(1, ahead)
                    self.assertEqual(self.run_cli("logout", clock=WrongClock(ahead)).code, 0)
                    self.run_cli("login", "--url", self.server.url, "-e", OWNER,
                                 "--password-stdin", stdin=PASSWORD, clock=WrongClock(ahead))
                    self.assertRefreshesOfRuns(1, ahead)

    def test_what_is_remembered_is_of_one_session(self):
        """Row 58: with another token or expiry than those it was saved with, the expiry decides."""
        self.log_in_expired()
        for refreshes, ahead in ((1, 0), (2, 0), (3, self.AHEAD)):
            self.assertRefreshesOfRuns(refreshes, ahead)
            self.stored(dict(self.tui().read(), expires_at=int(time.time()) + 30))
        self.tui().rotate()
        self.assertRefreshesOfRuns(4, self.AHEAD)

    def test_clock_that_was_set_back(self):
        """Row 58: a time in the future, at which a session was obtained, does not count."""
        self.log_in_expired()
        self.assertRefreshesOfRuns(1, 7200)
        self.assertRefreshesOfRuns(2, 3590, runs=1)

    def test_nothing_is_written_if_nothing_has_changed(self):
        """Row 58: the next commands leave the record as it is."""
        self.log_in_expired()
        self.assertRefreshesOfRuns(1, self.AHEAD)
        path = os.path.join(self.home, "origins.json")
        before = os.stat(path)
        with mock.patch("tempfile.mkstemp", side_effect=AssertionError("something is written")):
            self.assertRefreshesOfRuns(1, self.AHEAD)
        self.assertTrue(os.path.samestat(before, os.stat(path)))
        self.assertNotIn(self.tui().read()["access_token"].encode(), file_bytes(path))

    def test_record_that_cannot_be_saved(self):
        """Row 58: no command fails because of it."""
        path = os.path.join(self.home, "origins.json")
        for prepare in (lambda: os.mkdir(path), lambda: None):
            self.server.clear()
            self.log_in_expired()
            os.unlink(path)
            prepare()

            def failing(source, target):
                if target == path:
                    raise OSError(errno.EIO, "Input/output error")
                os.rename(source, target)
            with mock.patch("os.replace", failing):
                for _ in range(2):
                    self.assertOk(self.run_cli(*LISTING), "")
            self.assertRefreshes(1)
            self.assertEqual([name for name in os.listdir(self.home) if name[0] == "."], [])
            if os.path.isdir(path):
                os.rmdir(path)

    def test_long_run(self):
        """Row 48: what a run received is refreshed two minutes before it expires as well."""
        self.log_in_expired()
        with replaced_environment(self.environment):
            clock = WrongClock(0)
            transport = twosignal.Transport(clock=clock)
            self.addCleanup(transport.close)
            auth = twosignal.Authenticator(self.server.url, transport, lambda *secrets: None)
            for age, refreshes in ((0, 1), (3000, 1), (3500, 2), (6900, 2), (7000, 3)):
                clock.ahead = age
                auth.session()
                self.assertRefreshes(refreshes)

    @posix
    def test_signal_between_response_and_save(self):
        """Row 6: the new session is on disk, then the signal takes effect."""
        self.enter(kept_signals())
        heed_interrupts()
        for name, code in (("SIGTERM", 143), ("SIGINT", 130)):
            def interrupt():
                if self.server.count("auth/refresh"):
                    os.kill(os.getpid(), getattr(signal, name))
            for function in ("os.lseek", "os.fsync", "os.replace"):
                with self.subTest(signal=name, function=function):
                    self.server.clear()
                    session = self.log_in_expired()
                    with around(function, interrupt):
                        result = self.run_cli(*LISTING)
                    self.assertEqual((result.code, result.out), (code, ""), result)
                    self.assertNotIn("Traceback", result.err)
                    self.assertRefreshed(session)
                    self.assertEqual(self.server.count(QUERY), 0)
                    self.assertEqual([name for name in os.listdir(self.home)
                                      if name.startswith(".")], [])

    def test_already_used_but_a_newer_one_is_stored(self):
        """Row 7: the TUI refreshed it during the request: its session is used, on any clock."""
        for ahead in (0, 7200, -7200):
            self.server.clear()
            self.server.strict = False
            self.log_in_with(-90000)
            self.on_request("auth/refresh", before=self.tui().rotate)
            self.assertEqual(self.run_cli(*LISTING, clock=WrongClock(ahead)).code, 0)
            self.assertRefreshes(1)
            found = self.tui().read()
            self.assertIsNotNone(self.server.sessions.account(found["access_token"]))

    def test_newer_one_appears_a_moment_later(self):
        """Row 7: the TUI has its response, but has not saved it yet."""
        self.server.strict = False
        session = self.log_in_expired()
        fresh = dict(session, **self.tui().spend(session))
        clock = EventfulClock(lambda: self.tui().write(fresh))
        self.assertOk(self.run_cli(*LISTING, clock=clock), "")
        self.assertRefreshes(1)
        self.assertEqual(self.tui().read(), {key: fresh[key] for key in KEYS})

    def test_already_used_and_nothing_newer(self):
        """Row 7: without another session, this one's expiry is reported; the file stays."""
        for damage in ("used", "revoked"):
            with self.subTest(damage=damage):
                self.server.clear()
                session = self.log_in_expired()
                before = self.content()
                if damage == "used":
                    self.tui().spend(session)
                else:
                    self.server.revoke(OWNER)
                self.assertFails(self.run_cli(*LISTING), 4, "Authentication expired",
                                 "twosignal login")
                self.assertRefreshes(1)
                self.assertEqual(self.server.count(QUERY), 0)
                self.assertEqual(self.content(), before)

    TRANSIENT = (       # faults of a refresh, and the exit code
        [(dict(status=status), 7) for status in (409, 429)]
        + [(dict(status=status), 8) for status in (408, 500, 502, 503, 504)]
        + [(dict(status=status, body="<html>Who are you?</html>"), 8)
           for status in (200, 400, 401, 403, 404, 500, 503)]
        + [(dict(status=429, body="<html>Who are you?</html>"), 7),
           (dict(status=302, headers={"Location": "https://portal.example.com/"}, body="<html>"),
            8),
           (dict(reset=True), 3), (dict(raw=b""), 3), (dict(cut=20), 3),
           (dict(raw=b"HTTP/1.1 2"), 8), (dict(raw=b"SSH-2.0-x\r\n"), 8),
           (dict(garbage=b""), 8), (dict(garbage=b"{"), 8), (dict(garbage=b"[]"), 8),
           (dict(garbage=b'{"data": null, "error": null}'), 8),
           (dict(garbage=b'{"data": {}, "error": null}'), 8),
           (dict(garbage=b'{"data": {"access_token": "a"}, "error": null}'), 8),
           (dict(garbage=b'{"data": {"access_token": "a b", "refresh_token": "c", '
                         b'"expires_at": 1893456000}, "error": null}'), 8),
           (dict(garbage=b'{"data": {"access_token": "a", "refresh_token": "", '
                         b'"expires_at": 1893456000}, "error": null}'), 8),
           (dict(status=500, body={"data": None, "error": {"code": "X", "message": "down"}}), 8)]
        + [(dict(status=status, body={"error": {"code": status, "message": "a gateway's"}}), 8)
           for status in (400, 401, 403, 409)])

    def test_transient_failure_never_logs_out(self):
        """Row 8: the file is identical to the byte, and the session works afterwards."""
        for fault, code in self.TRANSIENT:
            with self.subTest(fault=fault):
                self.server.clear()
                self.log_in_expired()
                before = self.content()
                self.server.fault("auth/refresh", times=None, **fault)
                result = self.run_cli(*LISTING)
                self.assertFails(result, code)
                self.assertNotIn("Authentication expired", result.err)
                self.assertEqual(self.content(), before)
                self.assertEqual(self.server.count(QUERY), 0)
                self.server.clear()
                if "cut" not in fault:      # there the server has spent the token
                    self.assertOk(self.run_cli(*LISTING), "")

    def test_no_response_never_logs_out(self):
        """Row 8: nothing listens, or nothing responds."""
        session = self.log_in_expired()
        with Scripted([silence]) as server:
            url = server.url
            self.stored(dict(session, api_url=url))
            before = self.content()
            with mock.patch("twosignal.SPENDING_TIMEOUT", 0.3):
                result = self.run_cli(*LISTING, env={"TWOSIGNAL_URL": url})
            self.assertFails(result, 3)
        self.assertEqual(self.content(), before)
        self.assertFails(self.run_cli(*LISTING, env={"TWOSIGNAL_URL": url}), 3,
                         "Connection refused")
        self.assertEqual(self.content(), before)

    def test_transient_failures_are_retried(self):
        """Row 8: 409 and 429 mean that the token was not spent."""
        for status in (409, 429):
            self.server.clear()
            session = self.log_in_expired()
            self.server.fault("auth/refresh", times=2, status=status)
            self.assertOk(self.run_cli(*LISTING), "")
            self.assertRefreshes(3)
            self.assertRefreshed(session)

    def test_valid_token_is_used_if_the_early_refresh_fails(self):
        """Row 9: 30 s are left; whatever the response to the refresh is, the command works."""
        for fault, _ in self.TRANSIENT + [(dict(status=401), None), (dict(status=400), None)]:
            with self.subTest(fault=fault):
                self.server.clear()
                self.log_in_with(30)
                before = self.content()
                self.server.fault("auth/refresh", times=None, **fault)
                self.assertOk(self.run_cli(*LISTING), "")
                self.assertEqual(self.content(), before)
                self.assertEqual(self.server.count(QUERY), 1)

    def test_revoked_access_token(self):
        """Row 10: one refresh, one retry, for queries, changes and batches."""
        for command, procedure in ((LISTING, QUERY),
                                   (("orgs", "create", "New", "--json"), "organization.create")):
            with self.subTest(command=command):
                session = self.log_in()
                self.server.revoke_access(OWNER)
                self.server.clear()
                self.assertOk(self.run_cli(*command), "")
                self.assertRefreshes(1)
                self.assertEqual(self.server.count(procedure), 2)
                found = self.state("session.json")
                self.assertNotEqual(found["refresh_token"], session["refresh_token"])
        self.assertEqual(sum(row["name"] == "New" for row in self.server.rows("organizations")), 1)

    def test_revoked_in_the_middle_of_a_batch(self):
        """Row 10: the token dies after the list: the scores are fetched with a new one."""
        self.log_in()
        self.on_request("trace.list", after=lambda: self.server.revoke_access(OWNER))
        result = self.assertOk(self.run_cli("traces", "list", "--json", "--project",
                                            self.server.project), "")
        self.assertTrue(any(trace["scores"] for trace in result.json))
        self.assertRefreshes(1)

    def test_revoked_session(self):
        """Row 10: one refresh, no retry, and a hint."""
        self.log_in()
        before = self.content()
        self.server.revoke(OWNER)
        self.assertFails(self.run_cli(*LISTING), 4, "Authentication expired", "twosignal login")
        self.assertRefreshes(1)
        self.assertEqual(self.server.count(QUERY), 1)
        self.assertEqual(self.content(), before)

    def test_rejected_again_and_again(self):
        """Row 10: a server that rejects every token gets two requests, not more."""
        self.log_in()
        self.server.fault(QUERY, times=None, status=401)
        self.assertFails(self.run_cli(*LISTING), 4, "Authentication expired")
        self.assertRefreshes(1)
        self.assertEqual(self.server.count(QUERY), 2)

    def test_rejected_by_a_proxy(self):
        """Row 10: a web page with status 401 says nothing about the session."""
        self.log_in()
        self.server.fault(QUERY, times=None, status=401, body="<html>Sign in</html>")
        self.assertFails(self.run_cli(*LISTING), 8)
        self.assertRefreshes(0)

    def test_refreshed_by_another_during_the_request(self):
        """Row 10: the session is read again first: 0 refreshes here."""
        self.log_in()

        def rotate():
            self.tui().rotate()
            row = self.server.store.get("tokens", old)
            with self.server.transaction():
                self.server.store.put("tokens", dict(row, dead=True))
        old = self.tui().read()["access_token"]
        self.on_request(QUERY, before=rotate)
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertRefreshes(0)
        self.assertEqual(self.server.count(QUERY), 2)


class ServerRefreshes(SessionCase):
    """The server's library refreshes a session itself, and returns the new one as a cookie."""

    MARGIN = 90                     # seconds, as in the current version of the library
    ALWAYS = 5000                   # more than a new session has left
    CHANGE = ("orgs", "create", "New", "--json")

    def setUp(self):
        super().setUp()
        self.server.library_margin = self.MARGIN

    def assertNewest(self):
        """The file holds a session that works, and whose refresh token has not been spent."""
        found = self.state("session.json")
        self.assertIsNotNone(self.server.sessions.account(found["access_token"]))
        self.assertFalse(self.server.store.get("tokens", found["refresh_token"])["used"])
        return found

    def test_five_commands(self):
        """Row 48: 75 s left, a token is single-use: each works, the file holds the newest."""
        for base64_cookies in (False, True):
            for padding in (0, 9000):
                for margin in (self.MARGIN, self.ALWAYS):
                    with self.subTest(base64=base64_cookies, padding=padding, margin=margin):
                        self.server.base64_cookies = base64_cookies
                        self.server.padding, self.server.library_margin = padding, margin
                        session = self.log_in_with(75, theme="dark")
                        for command in (LISTING, self.CHANGE, ("usage", "--org", self.server.org),
                                        ("traces", "list", "--project", self.server.project),
                                        LISTING):
                            self.assertOk(self.run_cli(*command))
                            self.assertNewest()
                        found = self.state("session.json")
                        self.assertEqual(set(found), set(session) | {"api_url"})
                        self.assertEqual(found["theme"], "dark")

    def test_early_refresh_is_impossible(self):
        """Row 48: the library spends the token, since nobody else could: its session is kept."""
        self.log_in_with(75)
        self.server.fault("auth/refresh", times=None, status=503)
        for _ in range(2):
            self.assertOk(self.run_cli(*LISTING), "")
        self.assertNewest()

    def test_two_processes_at_once(self):
        """Row 48: one of them refreshes the session, before either sends it."""
        self.log_in_with(75)
        processes = [subprocess.Popen([sys.executable, PROGRAM] + list(LISTING),
                                      env=self.environment, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                     for _ in range(2)]
        for process in processes:
            out, err = process.communicate(timeout=DEADLINE)
            self.assertEqual((process.returncode, err), (0, b""))
        self.assertRefreshes(1)
        self.assertNewest()

    def fresh(self, email=OWNER, **changes):
        """Another session of an account, with changes, as the library stores it in a cookie."""
        session = dict(self.server.tokens(email), **changes)
        return dict(session, user={"id": session.pop("user_id"), "email": email})

    def after_response(self, cookies, command=LISTING, procedure=QUERY, **fault):
        """Run a command whose first response sets these cookies; return what the file holds."""
        self.server.clear()
        self.server.library_margin = None
        self.before = self.log_in_with(3000)
        self.server.fault(procedure, headers={"Set-Cookie": cookies}, **fault)
        self.result = self.run_cli(*command)
        return self.state("session.json")["access_token"]

    def test_whatever_the_status(self):
        """Row 48: the session of each response is kept, and is used from the next try on."""
        for command, procedure in ((LISTING, QUERY), (self.CHANGE, "organization.create")):
            for status in (200, 307, 400, 401, 403, 404, 413, 429, 500, 502, 503, 504):
                with self.subTest(status=status, procedure=procedure):
                    fresh = self.fresh()
                    fault = {} if status == 200 else {"status": status}
                    cookies = session_cookies(fresh, True)
                    self.assertEqual(self.after_response(cookies, command, procedure, **fault),
                                     fresh["access_token"])
                    used = [session_in_cookie(request.cookie)["access_token"]
                            for request in self.server.requests[1:]]
                    self.assertEqual(set(used) - {fresh["access_token"]}, set())
                    self.assertRefreshes(0)
                    self.assertOk(self.run_cli(*LISTING))

    def test_redirect(self):
        """Row 48: the session of a redirect, and of a redirect that is not followed."""
        for location, code in (("/api/trpc/project.list", 0), ("http://sso.example.com/", 8)):
            fresh = self.fresh()
            found = []
            self.on_request("project.list", lambda: found.append(self.server.requests[-1].cookie))
            self.server.clear()
            self.log_in_with(3000)
            self.server.fault(QUERY, status=307, body="", headers={
                "Location": location, "Set-Cookie": session_cookies(fresh, True)})
            self.run_cli(*LISTING)
            self.assertEqual(self.state("session.json")["access_token"], fresh["access_token"])
            self.assertTrue(all(fresh["access_token"] in cookie for cookie in found))

    def test_batch(self):
        """Row 48: a batch is a query like any other."""
        fresh = self.fresh()
        self.assertEqual(self.after_response(
            session_cookies(fresh, False), ("traces", "list", "--json", "--project",
                                            self.server.project), "trace.getById"),
            fresh["access_token"])

    def test_what_is_no_session(self):
        """Row 48: a deleted, damaged, older or foreign cookie changes nothing."""
        good = self.fresh()
        cookie, = session_cookies(good, False)
        name, _, value = cookie.partition("=")
        wrong = [dict(good, **{key: value}) for key in ("access_token", "refresh_token")
                 for value in (None, "", 5, "a b", "a\r\nb")]
        wrong += [dict(good, expires_at=int(time.time())), self.fresh(VIEWER), [], "x", None, 5]
        wrong += [{key: good[key] for key in good if key != left_out}
                  for left_out in ("access_token", "refresh_token")]
        values = [quote(json.dumps(each), safe="") for each in wrong]
        values += ["", "x", '""', "base64-", "base64-%%%", "base64-\u00e9", "%", value[:-5],
                   "[" * 9999, value + "; Max-Age=0", value + ";max-age = -1"]
        cookies = [[name + "=" + each] for each in values]
        cookies += [[cookie.replace("sb-", "sb-other")], [name + "-code-verifier=" + value],
                    [name + ".1=" + value], [cookie, name + "=; Max-Age=0"],
                    [name + ".0=" + value[:50], name + ".2=" + value[50:]]]
        for each in cookies:
            with self.subTest(cookies=[text[:200] for text in each]):
                self.assertEqual(self.after_response(each), self.before["access_token"])
                self.assertOk(self.result, "")

    def test_forms_of_a_session(self):
        """Row 48: whole or in chunks, encoded or not, among the cookies that delete old chunks."""
        for place, form in enumerate((
                lambda name, text: [(name, quote(text, safe=""))],
                lambda name, text: [(name, text.replace(" ", ""))],
                lambda name, text: [(name, "base64-" + encode64(text.encode()))],
                lambda name, text: [(name, '"base64-' + encode64(text.encode()) + '"')],
                lambda name, text: [(name, ""), (name + ".0", quote(text[:70])),
                                    (name + ".1", quote(text[70:])), (name + ".2", "")])):
            fresh = self.fresh()
            pairs = form("sb-%s-auth-token" % PROJECT_REF, json.dumps(fresh))
            cookies = ["%s=%s; Path=/; %sSameSite=lax" % (
                name, value, "Max-Age=3456; " if value else "Max-Age=0; ") for name, value in pairs]
            with self.subTest(form=place):
                self.assertEqual(self.after_response(["other=1", *cookies]), fresh["access_token"])

    def test_not_for_an_api_key(self):
        """Row 48: nor in the response to a login or a refresh."""
        self.log_in_with(3000)
        before = self.content()
        cookies = {"Set-Cookie": session_cookies(self.fresh(), False)}
        self.server.fault("/api/v1/traces", headers=cookies)
        self.assertOk(self.run_cli("traces", "list", env={"TWOSIGNAL_API_KEY": self.server.key}))
        self.assertEqual(self.content(), before)
        for prepare in (self.log_in_expired, lambda: self.server.revoke_access(OWNER)):
            prepare()
            self.server.fault("auth/refresh", headers=cookies)
            self.assertOk(self.run_cli(*LISTING), "")
            found = self.assertNewest()["access_token"]
            self.assertNotIn(found, cookies["Set-Cookie"][0])

    def test_beside_the_tui(self):
        """Row 48: its logout, its login to another account and its newer session stay."""
        newer = dict(self.server.tokens(OWNER), expires_at=int(time.time()) + 7000)
        for act, expected in ((self.tui().log_out, None),
                              (lambda: self.tui().log_in(VIEWER), VIEWER),
                              (lambda: self.tui().write(newer), newer["access_token"])):
            self.log_in_with(3000)
            self.server.library_margin = self.ALWAYS
            self.on_request(QUERY, after=act)
            self.assertOk(self.run_cli(*LISTING), "")
            found = self.state("session.json")
            self.assertIn(expected, list(found.values()) if found else [None])

    def test_it_cannot_be_saved(self):
        """Row 48: a change is shown all the same, and this run goes on with the new session."""
        self.server.library_margin = self.ALWAYS
        self.log_in_with(3000)
        before = self.content()
        with mock.patch("tempfile.mkstemp", side_effect=OSError(errno.ENOSPC, "No space left")):
            result = self.run_cli(*self.CHANGE)
        self.assertEqual((result.code, result.json["name"]), (0, "New"))
        self.assertIn("Warning: the server's new session is lost", result.err)
        self.assertIn("twosignal login", result.err)
        self.assertEqual(self.content(), before)

    @posix
    def test_signal_before_it_is_saved(self):
        """Rows 6, 48: Ctrl-C waits until the session that the server handed out is on disk."""
        self.enter(kept_signals())
        heed_interrupts()
        self.server.library_margin = self.ALWAYS
        self.log_in_with(3000)
        for step in ("os.open", "os.fsync", "os.replace"):
            with around(step, once(lambda: os.kill(os.getpid(), signal.SIGINT))):
                self.assertEqual(self.run_cli(*LISTING).code, 130)
            self.assertNewest()


class UnwritableHomes(SessionCase):
    def assertNothingSpent(self, result, before):
        self.assertFails(result, 1, self.home)
        self.assertRefreshes(0)
        self.assertEqual(self.content(), before)
        self.assertEqual([name for name in os.listdir(self.home) if name.startswith(".")], [])

    def test_write_errors(self):
        """Row 12: known before the single-use token is spent, whichever step fails."""
        self.log_in_expired()
        before = self.content()
        for function, number in (("tempfile.mkstemp", errno.EROFS), ("os.fsync", errno.ENOSPC),
                                 ("tempfile.mkstemp", errno.EACCES), ("os.replace", errno.EPERM),
                                 ("os.replace", errno.EBUSY), ("os.fsync", errno.EDQUOT),
                                 ("tempfile.mkstemp", errno.EMFILE)):
            with self.subTest(function=function, error=errno.errorcode[number]):
                error = OSError(number, os.strerror(number))
                with mock.patch(function, side_effect=error):
                    self.assertNothingSpent(self.run_cli(*LISTING), before)
        self.assertOk(self.run_cli(*LISTING))

    def log_in_there(self, **how):
        return self.run_cli("login", "--url", self.server.url, "-e", OWNER, "--password-stdin",
                            stdin=PASSWORD, **how)

    def test_login_that_cannot_be_saved(self):
        """Row 12: known before the password is sent, and so before a session begins."""
        self.server.clear()
        for function in ("tempfile.mkstemp", "os.fsync"):
            with mock.patch(function, side_effect=OSError(errno.ENOSPC, "No space left")):
                self.assertFails(self.log_in_there(), 1, self.file)
        with replaced_environment(self.environment), twosignal.Spending(time.monotonic()):
            self.assertFails(self.log_in_there(clock=PassingClock()), 3, "session.lock")
        os.mkdir(self.file)
        self.assertFails(self.log_in_there(), 1, self.file)
        self.assertEqual(self.server.connections, 0)
        os.rmdir(self.file)
        self.assertOk(self.log_in_there())

    def test_lock_cannot_be_created(self):
        """Rows 4, 12: no lock, no refresh."""
        self.log_in_expired()
        before = self.content()
        os.mkdir(os.path.join(self.home, "session.lock"))
        self.assertNothingSpent(self.run_cli(*LISTING), before)

    @posix
    def test_read_only_directory(self):
        """Row 12: also if nothing is simulated."""
        self.log_in_expired()
        self.assertOk(self.run_cli(*LISTING))       # imports what a refresh needs
        self.log_in_expired()
        self.server.clear()
        before = self.content()
        with self.unprivileged():
            os.chmod(self.home, 0o500)
            try:
                self.assertNothingSpent(self.run_cli(*LISTING), before)
            finally:
                os.chmod(self.home, 0o700)

    def test_valid_session_needs_no_writing(self):
        """Row 12: neither a fresh one nor one whose early refresh cannot be saved."""
        for seconds in (3000, 30):
            self.server.clear()
            self.log_in_with(seconds)
            with mock.patch("tempfile.mkstemp", side_effect=OSError(errno.EROFS, "read-only")):
                self.assertOk(self.run_cli(*LISTING), "")
            self.assertRefreshes(0)

    @posix
    def test_linked_session_is_refreshed_in_its_target(self):
        """Row 15: the link stays, its target has the new session."""
        session = self.log_in_expired()
        target = self.path("elsewhere.json")
        os.rename(self.file, target)
        os.symlink(target, self.file)
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertEqual(os.readlink(self.file), target)
        self.assertRefreshed(session)

    @posix
    def test_planted_lock_link_spends_nothing(self):
        """Row 15: a link in place of the lock is not followed, and the token is not spent."""
        self.log_in_expired()
        before = self.content()
        victim = self.write("victim", b"precious")
        os.symlink(victim, os.path.join(self.home, "session.lock"))
        self.assertNothingSpent(self.run_cli(*LISTING), before)

    @posix
    def test_files_of_a_login_are_private(self):
        """Row 16: login creates the directory and its files for their owner alone."""
        os.rmdir(self.home)
        self.assertOk(self.run_cli("login", "--url", self.server.url, "-e", OWNER,
                                   "--password-stdin", stdin=PASSWORD))
        for name, mode in (("", 0o700), ("session.json", 0o600), ("config.json", 0o600),
                           ("session.lock", 0o600)):
            found = os.stat(os.path.join(self.home, name)).st_mode & 0o777
            self.assertEqual((name, oct(found)), (name, oct(mode)))


class OddAnswers(SessionCase):
    CHANGES = (
        [dict(expires_at=value) for value in (
            None, "soon", "2030-01-01T00:00:00Z", [], {}, True, -1, 0, 1e300, 1893456000000)]
        + [dict(expires_at=value) for value in (1, 3600, "3600", "NaN", 1893456000000000, [5])]
        + [dict(project_ref=value) for value in (None, 5, [], {}, "a;b", "")]
        + [dict(user=value) for value in (None, 5, [], "x", {}, {"id": 5}, {"id": None},
                                          {"id": "", "email": []})]
        + [dict(more={"a": [1]}, token_type=None)])

    def test_both_tokens_are_saved(self):
        """Row 60: whatever else in the answer to a refresh is odd, or missing."""
        refresh = self.server.sessions.refresh

        def odd_refresh(token):
            answer = dict(refresh(token), **self.change)
            return {key: value for key, value in answer.items() if key != self.missing}
        self.enter(mock.patch.object(self.server.sessions, "refresh", odd_refresh))
        cases = [(change, None) for change in self.CHANGES]
        cases += [({}, key) for key in ("expires_at", "project_ref", "user")]
        for self.change, self.missing in cases:
            with self.subTest(change=self.change, missing=self.missing):
                self.server.clear()
                session = self.log_in_expired()
                for _ in range(2):
                    self.assertOk(self.run_cli(*LISTING), "")
                found = self.assertRefreshed(session)
                self.assertGreater(found["expires_at"], time.time() + 3000)
                self.assertLess(found["expires_at"], 1e10)
                self.assertRefreshes(1)

    def test_odd_text(self):
        """Row 60: a BOM, a character that is no UTF-8, a number too large to be one."""
        for old, new in ((b"{", b"\xef\xbb\xbf{"), (b"@", b"\xe9@"),
                         (b'"expires_at": ', b'"expires_at": ' + b"9" * 400)):
            with self.subTest(new=new[:30]):
                self.server.clear()
                session = self.log_in_expired()
                body = json.dumps({"data": self.server.sessions.refresh(session["refresh_token"]),
                                   "error": None}).encode()
                self.assertIn(old, body)
                self.server.fault("auth/refresh", status=200, body=body.replace(old, new, 1))
                for _ in range(2):
                    self.assertOk(self.run_cli(*LISTING), "")
                self.assertRefreshes(1)

    def test_login(self):
        """Row 60: what the answer to a login lacks is in its token, too."""
        for change in self.CHANGES:
            data = dict(self.server.tokens(OWNER))
            user_id = data.pop("user_id")
            data.update({"user": {"id": user_id, "email": OWNER}}, **change)
            self.server.clear()
            self.server.fault("auth/login", status=200, body={"data": data, "error": None})
            self.assertOk(self.run_cli("login", "--url", self.server.url, "-e", OWNER,
                                       "--password-stdin", stdin=PASSWORD), "")
            found = self.state("session.json")
            self.assertEqual((found["user_id"], found["user_email"], found["project_ref"]),
                             (user_id, OWNER, PROJECT_REF))
            self.assertGreater(found["expires_at"], time.time() + 3000)
            self.assertOk(self.run_cli(*LISTING), "")

    def test_tokens_without_an_expiry(self):
        """Row 60: a token that is no JWT is used for an hour."""
        before = self.log_in_expired()
        answer = {"data": {"access_token": "a", "refresh_token": "b"}, "error": None}
        self.server.fault("auth/refresh", status=200, body=answer)
        self.assertFails(self.run_cli(*LISTING), 4)
        found = self.state("session.json")
        self.assertEqual((found["access_token"], found["refresh_token"], found["user_id"]),
                         ("a", "b", before["user_id"]))
        self.assertGreater(found["expires_at"], time.time() + 3000)


class SpentTokens(SessionCase):
    """A refresh is completed, whatever else has to end meanwhile."""

    def slow_refresh(self, seconds=0.6):
        self.server.clear()
        self.server.fault("auth/refresh", delay=seconds)

    def test_timeout_of_the_command(self):
        """Row 58: it has a deadline of its own, whatever --timeout says."""
        session = self.log_in_expired()
        self.slow_refresh()
        self.assertOk(self.run_cli(*LISTING, "--timeout", "0.3"))
        self.assertRefreshed(session)

    def test_end_of_a_wait(self):
        """Row 58: an expired session is refreshed, although the wait ends meanwhile."""
        session = self.log_in_expired()
        self.slow_refresh()
        self.run_cli("traces", "wait", "--project", self.server.project, "--timeout", "0.3s")
        self.assertRefreshed(session)

    def test_early_refresh_during_a_wait(self):
        """Row 58: put off only if the wait ends within 30 s, and before the session does."""
        for left, timeout, refreshes in ((57, "3s", 0), (57, "40s", 1), (2, "20s", 1)):
            with self.subTest(left=left, timeout=timeout):
                self.server.clear()
                self.log_in_with(left)
                result = self.run_cli("traces", "wait", "--project", self.server.project,
                                      "--count", "1", "--timeout", timeout,
                                      clock=PassingClock(self.naps))
                self.assertEqual(result.err.count("Warning"), 0, result)
                self.assertRefreshes(refreshes)

    def interrupted(self, *args):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was not delivered")

    @posix
    def test_ctrl_c_while_nothing_is_at_stake(self):
        """Row 58: it takes effect at once while connecting and in the pause before a retry."""
        self.enter(kept_signals())
        heed_interrupts()
        session = self.log_in_expired()
        before = self.content()
        with mock.patch("twosignal.open_socket", self.interrupted):
            self.assertEqual(self.run_cli(*LISTING).code, 130)
        self.stored(dict(session, api_url=self.server.url.replace("http:", "https:")))
        with mock.patch("twosignal.DeadlineSocket.encrypt", self.interrupted):
            result = self.run_cli(*LISTING, "--url", self.server.url.replace("http:", "https:"))
            self.assertEqual(result.code, 130, result)
        self.stored(session)
        self.server.fault("auth/refresh", status=429, headers={"Retry-After": "9"})
        self.assertEqual(self.run_cli(*LISTING, clock=EventfulClock(self.interrupted)).code, 130)
        self.assertEqual(self.content(), before)
        self.assertOk(self.run_cli(*LISTING))

    def saves(self, *more, **errors):
        """Run a command whose refresh is followed by these errors, {function: [error or None]}."""
        self.server.clear()
        session = self.log_in_expired()
        with contextlib.ExitStack() as patches:
            for function, results in errors.items():
                real = getattr(os, function)

                def failing(*args, real=real, left=list(results)):
                    number = left.pop(0) if left and self.server.count("auth/refresh") else None
                    if number:
                        raise OSError(number, os.strerror(number))
                    return real(*args)
                patches.enter_context(mock.patch("os." + function, failing))
            result = self.run_cli(*LISTING + more)
        self.assertEqual(result.code, 0, result)
        return session, result

    def test_errors_after_the_answer(self):
        """Row 58: each step is tried again, then the file is written in place."""
        for function in ("write", "ftruncate", "fsync", "replace", "lseek"):
            for number in (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EACCES):
                for times in (1, 2, 3):
                    with self.subTest(function=function, error=number, times=times):
                        session, result = self.saves(**{function: [number] * times})
                        self.assertEqual(result.err, "")
                        self.assertRefreshed(session)
                        self.assertEqual(self.leftovers(), [])

    def leftovers(self):
        return [name for name in os.listdir(self.home) if name.startswith(".")]

    def test_nothing_can_be_saved(self):
        """Row 58: the command goes on with the session in memory, and says that it is lost."""
        for more in ((), ("--quiet",)):
            _, result = self.saves(*more, write=[errno.EIO] * 99)
            self.assertIn("the server's new session is lost", result.err)
            self.assertIn("twosignal login", result.err)

    def test_replacement_is_impossible_at_last(self):
        """Row 59: what could not be saved is used by whoever gets the lock next."""
        _, result = self.saves(replace=[errno.EIO] * 99, open=[errno.EIO] * 99)
        self.assertIn("the server's new session is lost", result.err)
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertRefreshes(1)
        self.assertEqual(self.leftovers(), [])

    @posix
    def test_directory_is_synced(self):
        """Row 58: after the replacement, so that a power cut does not bring the spent token back.
        """
        self.log_in_expired()
        steps, fsync, replace = [], os.fsync, os.replace

        def synced(handle):
            steps.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
            fsync(handle)
        with mock.patch("os.fsync", synced), mock.patch(
                "os.replace", lambda *args: (steps.append("replace"), replace(*args))):
            self.assertOk(self.run_cli(*LISTING))
        self.assertEqual(steps[-2:], ["replace", "directory"])
        self.assertEqual(steps.count("directory"), 1)

    def test_file_that_cannot_be_read(self):
        """Row 59: only a file that is missing means a logout: any other error does not."""
        for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE):
            real = os.open

            def failing(path, flags, *args):
                if self.server.count("auth/refresh") and path == self.file \
                        and not flags & os.O_WRONLY:
                    raise OSError(number, os.strerror(number))
                return real(path, flags, *args)
            self.server.clear()
            session = self.log_in_expired()
            with mock.patch("os.open", failing):
                self.assertOk(self.run_cli(*LISTING), "")
            self.assertRefreshed(session)


@posix
class Injections(SessionCase):
    """Each call between the lock and the exit fails, or is the last one of its process."""

    # Not ENOENT: that is a logout.
    ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EACCES, errno.EROFS, errno.EDQUOT,
              errno.EPERM, errno.EBUSY, errno.ESTALE, errno.EINVAL, errno.ENOMEM)
    COMMANDS = (LISTING, ("logout",))

    def prepare(self):
        self.server.clear()
        self.server.store.database.execute("DELETE FROM tokens")        # they slow it down
        for name in os.listdir(self.home):
            os.unlink(os.path.join(self.home, name))
        return self.log_in_expired()

    def tokens_on_disk(self):
        """The names of all files but session.json that hold a token."""
        return [name for name in os.listdir(self.home) if name != "session.json"
                and b"_token" in file_bytes(os.path.join(self.home, name))]

    def assertRecovers(self, was_told):
        """The next command works, or it was told that it will not; logout leaves no token."""
        result = self.run_cli(*LISTING)
        if result.code:
            self.assertFails(result, 4)
            self.assertTrue(was_told)
        elif not was_told:
            self.assertEqual(self.leftovers(), [])
        self.assertIn(self.run_cli("logout").code, (0, 4))
        self.assertEqual((os.path.exists(self.file), self.tokens_on_disk()), (False, []))

    def leftovers(self):
        return [name for name in os.listdir(self.home) if name.startswith(".twosignal-session-")]

    def run_injected(self, *args, **how):
        self.prepare()
        with Injection(**how) as injection:
            result = self.run_cli(*args, clock=PassingClock())
        return result, injection.calls

    def test_errors(self):
        """Rows 58, 59: whichever call fails, no session is lost unless that is said."""
        _, calls = self.run_injected(*LISTING)
        self.assertGreater(len(calls), 40)
        for number in range(1, len(calls) + 1):
            # Every Python raises them as the same classes, and the calls are those of this module.
            turned = [self.ERRORS[(number + place) % len(self.ERRORS)]
                      for place in range(len(self.ERRORS))]
            for error, lasting in itertools.chain(
                    itertools.product(turned[:full_once(1, None)], [False]),
                    itertools.product(turned[:full_once(1, 4)], [True])):
                with self.subTest(number=number, call=calls[number - 1], lasting=lasting,
                                  error=errno.errorcode[error]):
                    result, _ = self.run_injected(*LISTING, number=number, error=error,
                                                  lasting=lasting)
                    self.assertIn(result.code, (0, 1, 3, 4), result)
                    self.assertNotIn("Internal", result.err)
                    spent = self.server.count("auth/refresh")
                    was_lost = "the server's new session is lost" in result.err
                    self.assertFalse(was_lost and not (lasting and spent))
                    self.assertRecovers(was_lost)

    def test_kills(self):
        """Row 59: lost is what was killed between the response and the first byte on the disk."""
        record = self.path("record")
        forks = self.enter(Forks("injection", self.environment))
        self.prepare()
        forks.run([0, record, *LISTING])
        calls = file_bytes(record).decode().split()
        self.assertGreater(len(calls), 40)
        for number in range(1, len(calls) + 1, full(5, 1)):
            with self.subTest(number=number, call=calls[number - 1]):
                self.prepare()
                result, = forks.run([number, record, *LISTING])
                self.assertEqual(result.code, -signal.SIGKILL, result)
                self.server.settle()
                newest = [row["id"] for row in self.server.rows("tokens")
                          if row["kind"] == "refresh" and not row["used"]]
                on_disk = b"".join(file_bytes(os.path.join(self.home, name))
                                   for name in os.listdir(self.home))
                is_saved = any(token.encode() in on_disk for token in newest)
                self.assertRecovers(not is_saved)
                sent = calls.index("sendall") + 1       # the token, with the call of that number
                self.assertTrue(is_saved or sent < number <= calls.index("write", sent) + 1)


class Leftovers(SessionCase):
    """What a killed process has left: room for a session, or a session that it had yet to save."""

    def leave(self, name, content):
        return self.write("home/.twosignal-" + name, content)

    def left(self):
        return [name for name in os.listdir(self.home) if name.startswith(".")]

    def test_newest_one_is_adopted(self):
        """Row 59: by whoever gets the lock: no refresh, and the rest is deleted."""
        session = self.log_in_expired()
        fresh = dict(session, **self.tui().spend(session))
        older = dict(session, expires_at=session["expires_at"] + 1)
        text = json.dumps(fresh, indent=2) + "\n"
        self.leave("session-b", text + " " * 5000)
        self.leave("session-a", older)
        self.leave("session-c", dict(older, expires_at=fresh["expires_at"] - 1))
        self.leave("session-d", " " * 8192)
        self.leave("session-e", "")
        self.leave("session-f", text[:-30])
        self.leave("session-g", dict(self.server.tokens(VIEWER), expires_at=1999999999))
        self.leave("session-h", "[]")
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertRefreshes(0)
        self.assertEqual(self.state("session.json"), fresh)
        self.assertEqual(self.left(), [])

    def test_nothing_is_adopted_after_a_logout(self):
        """Row 59: without a session there is none to continue; logout deletes all of them."""
        session = self.log_in()
        newer = dict(session, expires_at=session["expires_at"] + 9)
        for prepare in (lambda: None, lambda: os.unlink(self.file),
                        lambda: self.write("home/session.json", b"{")):
            self.stored(session)
            prepare()
            self.leave("session-x", newer)
            self.assertOk(self.run_cli("logout"))
            self.assertEqual((os.path.exists(self.file), self.left()), (False, []))

    def test_files_of_others_stay(self):
        """Row 59: somebody's output, or a config that is about to be saved."""
        self.log_in_expired()
        self.leave("other", b'{"api_url": "x"}')
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertEqual(self.left(), [".twosignal-other"])


VIEWER = StandIn.VIEWER[0]


class Provenance(SessionCase):
    """Whose a session is, and where it is from."""

    def test_session_that_the_tui_rewrote(self):
        """Row 57: login here, then no setting moves its tokens to another server."""
        other = self.serve()
        login = ("login", "--url", self.server.url, "-e", OWNER, "--password-stdin")
        self.assertOk(self.run_cli(*login, stdin=PASSWORD))
        for change in (self.tui().touch, self.tui().rotate):
            change()
            for seconds in (3000, -10):
                self.tui().write(dict(self.tui().read(), expires_at=int(time.time()) + seconds))
                before = self.content()
                for command in (LISTING, ("whoami",), ("orgs", "create", "x")):
                    for way in ({"env": {"TWOSIGNAL_URL": other.url}}, {}):
                        self.write("home/config.json", {"api_url": other.url})
                        self.assertFails(self.run_cli(*command, **way), 4, self.server.url)
                self.assertEqual((other.connections, self.content()), (0, before))
            self.assertOk(self.run_cli(*LISTING, "--url", self.server.url), "")
        self.tui().touch()
        self.assertOk(self.run_cli("logout"), "")
        self.assertEqual((self.server.count("auth/logout"), other.connections), (1, 0))

    def test_login_in_the_tui(self):
        """Row 57: one never seen before belongs to what the TUI would use, and stays there."""
        other = self.serve()
        self.tui().log_in()
        for url in (self.server.url, other.url):
            result = self.run_cli(*LISTING, env={"TWOSIGNAL_URL": url})
            if url == self.server.url:
                self.assertOk(result, "")
            else:
                self.assertFails(result, 4, self.server.url)
        self.assertEqual(other.connections, 0)

    def test_login_elsewhere_is_recorded(self):
        """Row 57: the account belongs to the server of its last login."""
        other = self.serve()
        self.log_in()
        self.assertOk(self.run_cli("login", "--url", other.url, "-e", OWNER, "--password-stdin",
                                   stdin=PASSWORD))
        self.tui().touch()
        self.assertFails(self.run_cli(*LISTING, "--url", self.server.url), 4, other.url)
        self.assertOk(self.run_cli(*LISTING, "--url", other.url), "")

    def test_damaged_record(self):
        """Row 57: it is written anew."""
        for content in (b"", b"[]", b"{", {"abcdefghijklmnop/x": 5}):
            self.log_in()
            self.write("home/origins.json", content)
            self.assertOk(self.run_cli(*LISTING), "")
            self.tui().touch()
            self.assertFails(self.run_cli(*LISTING, env={"TWOSIGNAL_URL": "http://127.0.0.1:9"}),
                             4, self.server.url)

    def test_record_that_cannot_be_read(self):
        """Row 57: a session without an address may belong to any server, so it goes to none."""
        other = self.serve()
        self.log_in()
        self.tui().touch()
        for content in (b"[]", b"{", {self.account(): 5}, {self.account(): "file:///etc"}, None):
            if content is None:
                os.unlink(os.path.join(self.home, "origins.json"))
                os.mkdir(os.path.join(self.home, "origins.json"))
            else:
                self.write("home/origins.json", content)
            for env in ({}, {"TWOSIGNAL_URL": other.url}):
                for command in (LISTING, LISTING + ("--url", other.url), ("whoami",)):
                    self.assertFails(self.run_cli(*command, env=env), 1, "origins.json")
        result = self.assertOk(self.run_cli("logout", env={"TWOSIGNAL_URL": other.url}))
        self.assertIn("origins.json", result.err)
        self.assertFalse(os.path.exists(self.file))
        self.assertEqual((self.server.connections, other.connections), (0, 0))

    def account(self):
        return "{project_ref}/{user_id}".format(**self.tui().read())

    def test_two_accounts_at_two_servers(self):
        """Row 57: one after the other in the TUI: each stays with its own."""
        other = self.serve()
        tuis = {self.server.url: self.tui(), other.url: Tui(self.file, other)}
        for url, email in ((self.server.url, OWNER), (other.url, VIEWER)):
            tuis[url].log_in(email)
            self.assertOk(self.run_cli(*LISTING, env={"TWOSIGNAL_URL": url}), "")
        for url, email, wrong in ((self.server.url, OWNER, other),
                                  (other.url, VIEWER, self.server)):
            tuis[url].log_in(email)
            self.server.clear()
            before = wrong.connections
            self.assertOk(self.run_cli(*LISTING, "--url", url), "")
            for command in (LISTING, ("whoami",)):
                self.assertFails(self.run_cli(*command, env={"TWOSIGNAL_URL": wrong.url}), 4, url)
            self.assertOk(self.run_cli("logout", env={"TWOSIGNAL_URL": wrong.url}), "")
            self.assertEqual(wrong.connections, before)

    def test_logout_beside_another_login(self):
        """Row 57: logout forgets only what it ended."""
        for step in ("before", "after"):
            self.server.clear()
            self.log_in()
            self.on_request("auth/logout", **{step: lambda: self.tui().log_in(VIEWER)})
            result = self.assertOk(self.run_cli("logout"))
            self.assertIn("another account", result.err)
            self.assertEqual(self.tui().read()["user_email"], VIEWER)
        self.log_in()
        self.on_request("auth/logout", before=self.tui().rotate)
        self.assertOk(self.run_cli("logout"), "")
        self.assertFalse(os.path.exists(self.file))

    def test_logout_beside_another_logout(self):
        """Row 57: the second one has nothing to end, and that is no error."""
        self.log_in()
        logout = twosignal.Authenticator.logout

        def second(auth):
            os.unlink(self.file)
            logout(auth)
        with mock.patch("twosignal.Authenticator.logout", second):
            self.assertIn("Logged out of", self.assertOk(self.run_cli("logout"), "").out)

    def test_logout_of_a_session_that_has_ended(self):
        """There is nothing to warn about."""
        self.log_in()
        self.server.revoke(OWNER)
        self.assertIn("Logged out of", self.assertOk(self.run_cli("logout"), "").out)
        self.assertFalse(os.path.exists(self.file))

    def test_change_of_account(self):
        """Row 57: a command goes on only as the user it began with."""
        for _ in range(120):
            self.server.add_trace()
        self.log_in()

        def switch():
            self.server.revoke_access(OWNER)
            self.tui().log_in(VIEWER)
        self.on_request("trace.list", after=switch)
        result = self.run_cli("traces", "list", "--all", "--json", "--project",
                              self.server.project, "-o", self.path("out"))
        self.assertFails(result, 4, "Another account has logged in")
        token = self.tui().read()["access_token"]
        self.assertFalse([request for request in self.server.requests
                          if token in (request.cookie or "")])
        self.assertEqual(self.tui().read()["user_email"], VIEWER)
        self.assertRefreshes(0)


class BesideTheTui(SessionCase):
    """Another program, which takes no lock, writes the file at any step of a refresh."""

    def setUp(self):
        super().setUp()
        self.server.strict = False

    def during(self, step, action):
        """Lets the action happen once, at that step of the next refresh."""
        happened = []
        self.addCleanup(lambda: self.assertEqual(happened, [step]))
        act = once(lambda: happened.append(step) or action())

        def act_after_refresh():
            if self.server.count("auth/refresh"):
                act()
        if step == "request":
            self.on_request("auth/refresh", before=act)
        elif step == "response":
            self.on_request("auth/refresh", after=act)
        else:
            self.enter({"lock": lambda: around("os.open", act),
                        "proof": lambda: around("tempfile.mkstemp", act),
                        "save": lambda: around("os.lseek", act_after_refresh),
                        "sync": lambda: around("os.fsync", act_after_refresh)}[step]())

    def assertUsable(self):
        """The file holds a session that works, and whose refresh token has not been used."""
        found = self.tui().read()
        self.assertIsNotNone(self.server.sessions.account(found["access_token"]))
        self.assertFalse(self.server.store.get("tokens", found["refresh_token"])["used"])
        return found

    STEPS = ("lock", "proof", "request", "response", "save", "sync")

    def test_rewritten_file(self):
        """Row 13: the TUI writes the old session again, at any step: the new one wins."""
        for step in self.STEPS:
            with self.subTest(step=step):
                self.server.clear()
                session = self.log_in_expired()
                self.during(step, self.tui().touch)
                self.assertOk(self.run_cli(*LISTING), "")
                self.assertNotEqual(self.assertUsable()["refresh_token"], session["refresh_token"])

    def test_rotated_session(self):
        """Rows 7, 13: the TUI refreshes it before this program does: its session is used."""
        for step in ("lock", "proof", "request"):
            with self.subTest(step=step):
                self.server.clear()
                self.log_in_expired()
                self.during(step, self.tui().rotate)
                self.assertOk(self.run_cli(*LISTING), "")
                self.assertUsable()

    def test_new_login(self):
        """Row 13: a login in the TUI, at any step, is never undone."""
        for step in self.STEPS:
            with self.subTest(step=step):
                self.server.clear()
                self.log_in_expired()
                fresh = dict(self.server.tokens(OWNER), expires_at=int(time.time()) + 7000)
                self.during(step, lambda: self.tui().write(fresh))
                self.assertOk(self.run_cli(*LISTING), "")
                self.assertEqual(self.tui().read()["refresh_token"], fresh["refresh_token"])

    def test_login_of_another_account(self):
        """Row 13: a login to another account in the TUI is never undone, whatever the expiry."""
        for step in ("response", "save", "sync"):
            with self.subTest(step=step):
                self.server.clear()
                self.log_in_expired()
                other = dict(self.server.tokens(VIEWER), expires_at=int(time.time()) + 600)
                self.during(step, lambda: self.tui().write(other))
                self.assertOk(self.run_cli(*LISTING), "")
                self.assertEqual(self.tui().read()["user_email"], VIEWER)

    def test_logout(self):
        """Row 13: a logout in the TUI, at any step, is never undone."""
        for step in self.STEPS:
            with self.subTest(step=step):
                self.server.clear()
                self.log_in_expired()
                self.during(step, self.tui().log_out)
                result = self.run_cli(*LISTING)
                if step == "lock":
                    self.assertFails(result, 4, "Not logged in")
                else:                       # the session has been refreshed for this command
                    self.assertOk(result, "")
                self.assertFalse(os.path.exists(self.file))

    def test_unknown_keys_stay(self):
        """Row 13: keys that this program does not know stay through a refresh."""
        session = self.log_in_expired(theme={"dark": ["東京", None]}, last_project="p-1")
        self.assertOk(self.run_cli(*LISTING), "")
        found = self.assertRefreshed(session)
        self.assertEqual((found["theme"], found["last_project"]), ({"dark": ["東京", None]}, "p-1"))

    def test_tui_session_is_used(self):
        """Row 13: without an address it belongs to the configured one; the TUI can read it."""
        session = self.log_in_expired()
        self.tui().write(session)
        self.assertOk(self.run_cli(*LISTING), "")
        found = self.state("session.json")
        self.assertEqual(found["api_url"], self.server.url)
        for key in KEYS:
            self.assertIs(type(found[key]), int if key == "expires_at" else str)
        self.tui().rotate()
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertRefreshes(1)


class DamagedFiles(SessionCase):
    def log_in_again(self, *more):
        return self.run_cli("login", "-e", OWNER, "--password-stdin", *more, stdin=PASSWORD)

    def test_session_truncated_at_every_byte(self):
        """Row 14: reported with its name; login and logout still work."""
        self.log_in()
        whole = self.content()
        for size in range(1, len(whole.rstrip()), full(97, 1)):
            with self.subTest(size=size):
                self.write("home/session.json", whole[:size])
                self.assertFails(self.run_cli(*LISTING), 1, self.file, "twosignal login")
                self.assertOk(self.run_cli("logout"))
                self.assertFalse(os.path.exists(self.file))
                if size % 10 == 1:
                    self.write("home/session.json", whole[:size])
                    self.assertOk(self.log_in_again())
                    self.assertOk(self.run_cli(*LISTING))

    def test_session_of_a_wrong_shape(self):
        """Row 14: one line for each, for every command; login and logout still work."""
        session = self.log_in()
        shapes = ["", "[]", "null", "1", '"x"', "\x00" * 100, "[" * 100000, "1" * 5000,
                  b"\xff\xfe\x00", " " * (2 << 20)]
        shapes += [dict(session, access_token=value) for value in (None, 5, [], "a\r\nb", "")]
        shapes += [dict(session, expires_at=value) for value in ("x", None, [], 10 ** 400)]
        shapes += [dict(session, user_email=[]), dict(session, project_ref="a;b"),
                   dict(session, api_url=7), dict(session, api_url="file:///etc/passwd")]
        for shape in shapes:
            with self.subTest(shape=str(shape)[:60]):
                self.write("home/session.json", shape)
                for command in (LISTING, ("whoami",)):
                    self.assertFails(self.run_cli(*command), 1, self.file + " is damaged",
                                     "twosignal login")
                self.assertEqual(self.assertOk(self.run_cli("logout")).out,
                                 "Logged out: deleted the damaged session.\n")
                self.assertFalse(os.path.exists(self.file))
                self.write("home/session.json", shape)
                self.assertOk(self.log_in_again())
                self.assertOk(self.run_cli(*LISTING))

    def test_session_with_an_empty_address(self):
        """It belongs to the configured server, like one without an address."""
        self.stored(dict(self.log_in(), api_url=""))
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertEqual(self.assertOk(self.run_cli("whoami", "--json")).json["api_url"],
                         self.server.url)

    def test_damaged_config(self):
        """Row 14: reported with its name; login and logout still work."""
        session = self.log_in()
        path = os.path.join(self.home, "config.json")
        for text in ("", "{", '{"api_url"', "[]", '{"api_url": 5}', '{"api_url": "file:///etc"}'):
            with self.subTest(text=text):
                self.write("home/config.json", text)
                self.stored(session)
                self.assertFails(self.run_cli(*LISTING), 2 if "file" in text else 1, path)
                self.assertFails(self.log_in_again(), 2 if "file" in text else 1, path)
                self.assertOk(self.run_cli("logout"))
                self.assertFalse(os.path.exists(self.file))
                self.assertOk(self.log_in_again("--url", self.server.url))
                self.assertEqual(self.state("config.json"), {"api_url": self.server.url})
                self.assertOk(self.run_cli(*LISTING))
                session = self.state("session.json")

    def test_logout_without_a_working_server(self):
        """Row 14: the session is always deleted here."""
        session = self.log_in()
        with Scripted([answer("down", 503)]) as server:
            self.stored(dict(session, api_url=server.url))
            result = self.run_cli("logout")
        self.assertEqual(result.code, 0, result)
        self.assertIn("Logged out locally; could not revoke the session: ", result.err)
        self.assertFalse(os.path.exists(self.file))


class SessionsPerServer(SessionCase):
    COMMANDS = (LISTING, ("whoami",), ("logout",), ("orgs", "create", "New"),
                ("traces", "list", "--project", "p"), ("usage", "--org", "o"))

    def test_session_stays_with_its_server(self):
        """Row 30: session of A, address of B: not logged in to B, nothing sent, A's stays."""
        other = self.serve()
        for seconds in (3000, -10):
            self.log_in_with(seconds)
            before = self.content()
            for command in self.COMMANDS:
                ways = [(("--url", other.url), None)]
                if command != ("logout",):      # without --url it ends the session it finds
                    ways.append(((), {"TWOSIGNAL_URL": other.url}))
                for more, env in ways:
                    with self.subTest(command=command, more=more, env=env):
                        result = self.run_cli(*command + more, env=env)
                        self.assertFails(result, 4, "Not logged in to %s" % other.url)
                        self.assertEqual(self.content(), before)
        self.assertEqual((other.connections, self.server.connections), (0, 0))

    def test_changed_config_does_not_redirect_the_session(self):
        """Row 30: the address in config.json changed after the login."""
        other = self.serve()
        self.log_in()
        before = self.content()
        self.write("home/config.json", {"api_url": other.url})
        self.assertFails(self.run_cli(*LISTING), 4, "Not logged in to " + other.url,
                         "the stored session belongs to " + self.server.url)
        self.assertEqual((other.connections, self.content()), (0, before))

    def test_session_of_the_tui_goes_to_the_configured_server_alone(self):
        """Row 30: one without an address belongs to the configured one."""
        other = self.serve()
        self.tui().write(self.log_in())
        before = self.content()
        self.assertFails(self.run_cli(*LISTING, "--url", other.url), 4, other.url)
        self.assertEqual((other.connections, self.content()), (0, before))
        self.assertOk(self.run_cli(*LISTING), "")

    def test_origin_is_scheme_host_and_port(self):
        """Row 30: another scheme, name, port or path is another server."""
        self.log_in()
        port = self.server.url.rpartition(":")[2]
        for url in ("https://127.0.0.1:" + port, "http://localhost:" + port,
                    "http://127.0.0.1", self.server.url + "/other", self.server.url + "0"):
            self.assertFails(self.run_cli(*LISTING, "--url", url), 2 if url.endswith(port + "0")
                             and int(port + "0") > 65535 else 4)
        self.assertEqual(self.server.connections, 0)
        for url in (self.server.url + "/", self.server.url + "/api", "127.0.0.1:" + port):
            self.assertOk(self.run_cli(*LISTING, "--url", url), "")

    def test_login_elsewhere_makes_it_that_servers_session(self):
        """Row 30: after a login to B the session is B's."""
        other = self.serve()
        self.log_in()
        self.assertOk(self.run_cli("login", "--url", other.url, "-e", OWNER, "--password-stdin",
                                   stdin=PASSWORD))
        self.assertEqual(self.state("session.json")["api_url"], other.url)
        self.assertFails(self.run_cli(*LISTING, "--url", self.server.url), 4, self.server.url)
        self.assertEqual(self.server.connections, 0)

    def test_failed_login_keeps_the_session(self):
        """Row 30: A's session stays if B does not accept the password."""
        other = self.serve()
        self.log_in()
        before = self.content()
        self.assertFails(self.run_cli("login", "--url", other.url, "-e", OWNER, "--password-stdin",
                                      stdin="wrong"), 4, "Wrong email or password")
        self.assertEqual(self.content(), before)
        self.assertEqual(self.state("config.json"), {"api_url": self.server.url})

    def test_only_http_and_https(self):
        """Row 32: a usage error that opens nothing, wherever the address was given."""
        secret = self.write("secret.txt", b"precious")
        urls = ["file://" + secret, "file:" + secret, "ftp://127.0.0.1/x", "data:text/plain,x",
                "javascript:alert(1)", "//127.0.0.1", "http://", "http:///x", "https://:80",
                "gopher://127.0.0.1", "http://127.0.0.1:99999", "http://127.0.0.1/?x=1"]
        self.log_in()
        opened = AssertionError("something was opened")
        with mock.patch("socket.socket", side_effect=opened), \
                mock.patch("urllib.request.OpenerDirector.open", side_effect=opened):
            for url in urls:
                for command in (LISTING, ("login", "-e", OWNER, "--password-stdin"), ("whoami",)):
                    with self.subTest(url=url, command=command):
                        self.assertFails(self.run_cli(*command + ("--url", url), stdin=PASSWORD),
                                         2, "--url")
                        self.assertFails(self.run_cli(*command, stdin=PASSWORD,
                                                      env={"TWOSIGNAL_URL": url}),
                                         2, "TWOSIGNAL_URL")
                self.write("home/config.json", {"api_url": url})
                self.assertFails(self.run_cli(*LISTING), 2, "config.json")
        self.assertEqual(self.server.connections, 0)

    def test_nothing_in_an_address_changes_a_request(self):
        """Row 33: line ends, NUL and blanks in an address are refused before connecting."""
        self.log_in()
        for evil in (" HTTP/1.1\r\nX-Evil: 1", "/a\r\nb", "/a\nb", "/a\x00b", "/a b", "\tx",
                     "/\x7f"):
            result = self.run_cli(*LISTING, "--url", self.server.url + evil)
            self.assertFails(result, 2, "--url")
        self.assertEqual(self.server.connections, 0)


class Logins(SessionCase):
    UNENCRYPTED = ("Warning: http://signal.example.test is unencrypted: others on the network can "
                   "read the password.\n")

    def log_in_at(self, url, **env):
        return self.run_cli("login", "--url", url, "-e", OWNER, env=dict(
            env, TWOSIGNAL_PASSWORD=PASSWORD))

    def test_unencrypted_login_is_warned_about(self):
        """Row 31: once, on stderr, if the server is not this machine."""
        address = tuple(self.server.url[len("http://"):].split(":"))
        hosts = {"signal.example.test": (address[0], int(address[1]))}
        with Proxy(hosts=hosts) as proxy:
            result = self.log_in_at("http://signal.example.test", http_proxy=proxy.url,
                                    NO_PROXY=None)
        self.assertOk(result)
        self.assertEqual(result.err, self.UNENCRYPTED)
        self.assertNotIn("Warning", result.out)

    def test_nothing_to_warn_about_on_this_machine(self):
        """Row 31: 127.0.0.1 and localhost need no warning."""
        port = self.server.url.rpartition(":")[2]
        for url in (self.server.url, "http://localhost:" + port):
            self.assertOk(self.log_in_at(url), "")

    def test_warned_before_the_password_prompt(self):
        """Row 31: there is time to stop."""
        result = self.run_cli("login", "--url", "http://signal.example.test", "-e", OWNER)
        self.assertFails(result, 2, "--password-stdin")
        self.assertTrue(result.err.startswith(self.UNENCRYPTED), result)

    def test_password_from_stdin_or_environment(self):
        """Row 36: not on the command line, and without a warning."""
        for args, env, stdin in ((["--password-stdin"], {}, PASSWORD + "\n"),
                                 ([], {"TWOSIGNAL_PASSWORD": PASSWORD}, None)):
            result = self.run_cli("login", "--url", self.server.url, "-e", OWNER, *args,
                                  env=env, stdin=stdin)
            self.assertOk(result, "")
            self.assertNotIn(PASSWORD, result.out)
            os.unlink(self.file)

    def test_password_at_a_prompt(self):
        """Row 36: prompted for on a terminal, which does not show it."""
        output, code = self.run_terminal(
            "login", "--url", self.server.url,
            script=[("Email: ", OWNER + "\n"), ("Password for " + OWNER, PASSWORD + "\n")])
        self.assertEqual(code, 0, output)
        self.assertNotIn(PASSWORD, output)
        self.assertEqual(self.state("session.json")["user_email"], OWNER)

    def test_password_on_the_command_line_is_warned_about(self):
        """Row 36: once, on stderr."""
        result = self.run_cli("login", "--url", self.server.url, "-e", OWNER, "-p", PASSWORD)
        self.assertOk(result)
        self.assertEqual(result.err.count("Warning"), 1)
        self.assertNotIn(PASSWORD, result.err + result.out)

    def test_no_prompt_without_a_terminal(self):
        """Row 36: a usage error that names a way other than the command line."""
        result = self.run_cli("login", "--url", self.server.url, "-e", OWNER)
        self.assertFails(result, 2, "--password-stdin")
        self.assertEqual(self.server.connections, 0)

    def test_session_can_be_read_by_the_tui(self):
        """Row 13: the documented keys and types, and the address that issued it."""
        self.assertOk(self.log_in_at(self.server.url))
        found = self.state("session.json")
        self.assertEqual(set(found), set(KEYS) | {"api_url"})
        for key in found:
            self.assertIs(type(found[key]), int if key == "expires_at" else str)
        self.assertEqual((found["user_email"], found["project_ref"], found["api_url"]),
                         (OWNER, PROJECT_REF, self.server.url))
        self.tui().rotate()
        self.assertOk(self.run_cli(*LISTING))

    def test_expiry_is_saved_as_an_integer(self):
        """Row 13: the TUI reads an int, whatever number the server sends."""
        fresh = self.server.tokens()
        for expires_at in (fresh["expires_at"] + 0.5, str(fresh["expires_at"])):
            data = dict(fresh, expires_at=expires_at, user={"id": "u", "email": OWNER})
            self.server.clear()
            self.server.fault("auth/login", status=200, body={"data": data, "error": None})
            self.assertOk(self.log_in_at(self.server.url))
            self.assertEqual(self.state("session.json")["expires_at"], fresh["expires_at"])
            self.assertIs(type(self.state("session.json")["expires_at"]), int)


class ProjectReference(SessionCase):
    options = {"project_ref": False}

    def test_found_in_the_token(self):
        result = self.run_cli("login", "--url", self.server.url, "-e", OWNER, "--password-stdin",
                              stdin=PASSWORD)
        self.assertOk(result)
        self.assertEqual(self.state("session.json")["project_ref"], PROJECT_REF)
        self.assertOk(self.run_cli(*LISTING), "")

    def test_kept_through_a_refresh(self):
        session = self.log_in_expired(project_ref=PROJECT_REF)
        self.assertOk(self.run_cli(*LISTING), "")
        self.assertRefreshed(session)

    def test_login_without_any(self):
        data = {"access_token": "no-jwt", "refresh_token": "r", "expires_at": 1893456000,
                "user": {"id": "u", "email": OWNER}}
        self.server.fault("auth/login", status=200, body={"data": data, "error": None})
        result = self.run_cli("login", "--url", self.server.url, "-e", OWNER, "--password-stdin",
                              stdin=PASSWORD)
        self.assertFails(result, 8, "project_ref")
        self.assertFalse(os.path.exists(self.file))


class LongCookies(SessionCase):
    options = {"padding": 6000}

    def test_server_reads_the_chunks(self):
        self.log_in()
        self.assertOk(self.run_cli(*LISTING), "")
        header = self.server.requests[0].headers["Cookie"]
        self.assertIn("sb-%s-auth-token.2=" % PROJECT_REF, header)
