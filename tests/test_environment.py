"""The world around the command: homes, encodings, streams, signals, odd interpreters."""
import contextlib
import errno
import gc
import os
import random
import re
import signal
import subprocess
import sys
import threading
import unittest
import warnings
from unittest import mock

import twosignal
from servers import Scripted, certificates, hang_up
from tools import (DEADLINE, SCRIPT, Case, ServerCase, as_text, full, merged, pty_run, requests_of,
                   run_command)

FULL_DISK = "/dev/full"
ERROR_LINE = re.compile(r"Error: [^\n]+\n\Z")
# Redirections of a shell, as $1; the rest of its arguments is the command.
SHELL = 'redirections=$1; shift; eval "exec \\"\\$@\\" $redirections"'
WITHOUT_SSL = ("import runpy, sys; sys.modules.update(ssl=None, _ssl=None); "
               "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')")


def listing(folder):
    """Every path below a folder."""
    return sorted(os.path.relpath(os.path.join(place, name), folder)
                  for place, folders, files in os.walk(folder) for name in folders + files)


def json_page(cursor):
    """A page of 100 long traces that says that more exist."""
    return {"result": {"data": {"json": {"nextCursor": cursor, "traces": [
        {"id": "%s-%d" % (cursor, i), "name": "x" * 500, "scores": []} for i in range(100)]}}}}


@contextlib.contextmanager
def working_directory(path):
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@unittest.skipIf(os.name == "nt", "homes are found in another way there")
class TestHome(ServerCase):
    """Row 37: nothing lands in the working directory or in `/`."""

    shared = True
    UNKNOWN = KeyError("getpwuid(): uid not found")

    def setUp(self):
        super().setUp()
        self.stood = os.path.join(self.folder, "stood")
        os.mkdir(self.stood)
        self.root = sorted(os.listdir("/"))

    def run_at(self, home, *args, **kwargs):
        """Run a command with that HOME (None: unset), where the machine knows no user.

        user: the home directory that the machine knows; env: further changes.
        """
        env = merged({"TWOSIGNAL_HOME": None, "HOME": home}, kwargs.pop("env", {}))
        env.update(TWOSIGNAL_HOME=kwargs.pop("twosignal_home", None), HOME=home)
        known = kwargs.pop("user", None)
        user = mock.patch("pwd.getpwuid", side_effect=self.UNKNOWN) if known is None else (
            mock.patch("pwd.getpwuid", return_value=mock.Mock(pw_dir=known)))
        with user, working_directory(self.stood):
            return self.run_cli(*args, env=env, **kwargs)

    def log_in_at(self, home, **kwargs):
        return self.run_at(home, "login", "--url", self.server.url, "-e", "owner@example.com",
                           "--password-stdin", stdin="owner-pass\n", **kwargs)

    def assertNothingLanded(self):
        self.assertEqual(listing(self.stood), [])
        self.assertFalse({".twosignal", "session.json", "config.json", "session.lock"}
                         & (set(os.listdir("/")) - set(self.root)))

    def assertNoHome(self, home, **kwargs):
        """Whatever needs the home says so in one line; no request was made."""
        for result in (self.log_in_at(home, **kwargs),
                       self.run_at(home, "orgs", "list", **kwargs),
                       self.run_at(home, "whoami", **kwargs)):
            self.assertFails(result, 1, "HOME")
        self.assertOk(self.run_at(home, "--version", **kwargs))
        self.assertOk(self.run_at(home, "traces", "list", "--help", **kwargs))
        self.assertEqual(self.server.requests, [])
        self.assertNothingLanded()

    def test_unset_and_the_machine_knows_the_user(self):
        """Row 37: HOME unset: the directory that the machine has for the user."""
        self.assertOk(self.log_in_at(None, user=self.path("known")))
        self.assertOk(self.run_at(None, "whoami", user=self.path("known")))
        self.assertIn("session.json", os.listdir(self.path("known", ".twosignal")))
        self.assertNothingLanded()

    def test_empty(self):
        """Row 37: an empty HOME is an unset one, and not `/`."""
        self.assertOk(self.log_in_at("", user=self.path("known")))
        self.assertIn("session.json", os.listdir(self.path("known", ".twosignal")))
        self.assertNoHomeAfterClear("")

    def assertNoHomeAfterClear(self, home):
        self.server.clear()
        self.assertNoHome(home)

    def test_unknown_user(self):
        """Row 37: HOME unset and a user that the machine does not know: one clear line."""
        self.assertNoHome(None)

    def test_relative(self):
        """Row 37: a HOME that is no absolute path is none."""
        for home in ("here", ".", "./here", "~nobody-has-this-name"):
            with self.subTest(home=home):
                self.assertNoHome(home)

    def test_home_of_the_product_with_an_unknown_user(self):
        """Row 37: TWOSIGNAL_HOME that begins with ~ where there is no such home."""
        unknown = mock.patch("pwd.getpwnam", side_effect=KeyError("name not found"))
        with unknown:
            for given in ("~/state", "~nobody-has-this-name/state"):
                with self.subTest(given=given):
                    self.assertNoHome(None, twosignal_home=given)

    def test_home_of_the_product_needs_no_other(self):
        """Row 37: with TWOSIGNAL_HOME no HOME is needed."""
        state = self.path("state")
        self.assertOk(self.log_in_at(None, twosignal_home=state))
        self.assertIn("session.json", os.listdir(state))
        self.assertNothingLanded()

    def test_read_only(self):
        """Row 37: a home that can't be written: said before the password is sent."""
        folder = self.path("locked")
        os.mkdir(folder)
        refuse = mock.patch("os.makedirs", side_effect=PermissionError(errno.EACCES, "read-only"))
        with refuse:
            self.assertFails(self.log_in_at(folder), 1, os.path.join(folder, ".twosignal"))
        self.assertEqual(requests_of(self.server, "auth"), [])
        self.assertFails(self.run_at(folder, "orgs", "list"), 4, "twosignal login")
        self.assertEqual(listing(folder), [])
        self.assertNothingLanded()

    @unittest.skipUnless(os.path.isdir("/proc/self"), "needs a directory where nothing can be made")
    def test_no_directory_can_be_made(self):
        """Row 37: the same with a file system that refuses everybody, root too."""
        self.assertFails(self.log_in_at("/proc/self"), 1, "/proc/self/.twosignal")
        self.assertEqual(requests_of(self.server, "auth"), [])
        self.assertNothingLanded()

    def test_a_file(self):
        """Row 37: HOME is a file."""
        path = self.write("file", "mine")
        self.assertFails(self.log_in_at(path), 1, os.path.join(path, ".twosignal"))
        self.assertFails(self.run_at(path, "orgs", "list"), 4, "twosignal login")
        self.assertOk(self.run_at(path, "logout"))
        self.assertEqual(requests_of(self.server, "auth"), [])
        with open(path) as file:
            self.assertEqual(file.read(), "mine")
        self.assertNothingLanded()


class ProcessCase(ServerCase):
    """Logged in, with the small world's defaults; commands run as processes of their own."""

    shared = True

    def setUp(self):
        super().setUp()
        self.log_in()
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project,
                                TWOSIGNAL_ORG=self.server.org)
        self.environment.pop("PYTHONUNBUFFERED", None)

    def in_shell(self, redirections, *args, env=None, stdin=None):
        """Run a command as a shell does with these redirections."""
        return run_command(["sh", "-c", SHELL, "sh", redirections, sys.executable, SCRIPT]
                           + list(args), merged(self.environment, env), stdin)

    def assertNothingLeft(self):
        """No temporary file is left behind in the home."""
        left = set(os.listdir(self.home)) - {"session.json", "config.json", "session.lock"}
        for name in left:
            os.remove(os.path.join(self.home, name))
        self.assertEqual(left, set())


class TestEncodings(ProcessCase):
    ENCODINGS = ("ascii", "latin-1", "cp1252", "koi8-r", "euc-jp", "utf-16", "ascii:strict",
                 "utf-8:strict")

    def test_exit_codes_do_not_depend_on_the_encoding(self):
        """Row 38: streams of any encoding: the exit code is the same, and no traceback."""
        self.server.add_project(name="Größe 東京 🚀 \u202e\x1b[31m")
        for encoding in self.ENCODINGS:
            codec = encoding.partition(":")[0]
            for args, code in ((["orgs", "list"], 0), (["projects", "list"], 0),
                               (["projects", "list", "--json"], 0),
                               (["orgs", "lïst 東京"], 2), (["traces", "get", "東京"], 6),
                               (["traces", "get", "東京", "--json"], 6)):
                with self.subTest(encoding=encoding, args=args):
                    result = self.cli(*args, encoding=codec)
                    self.assertEqual(result.code, code, result)
                    self.assertNotIn("Traceback", result.err)
                    if code == 0 and "--json" in args:
                        self.assertIn("Größe 東京 🚀", str(result.json))

    def environments(self):
        """Environments in which Python takes its streams for something else than UTF-8."""
        bare = {"PYTHONIOENCODING": None, "LANG": None, "LC_CTYPE": None, "LC_ALL": "C"}
        old = dict(bare, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
        latin = dict(bare, PYTHONIOENCODING="latin-1")
        ascii_only = dict(bare, PYTHONIOENCODING="ascii")
        return full([old, ascii_only], [bare, old, latin, ascii_only,
                                        dict(bare, PYTHONIOENCODING="ascii:strict")])

    def test_processes(self):
        """Row 38: LC_ALL=C, PYTHONIOENCODING=ascii and latin-1, as processes."""
        for env in self.environments():
            with self.subTest(env=env):
                result = self.assertOk(self.run_process("orgs", "list", env=env), err="")
                self.assertIn("Acme", result.out)
                result = self.run_process("traces", "get", "東京", env=env)
                self.assertFails(result, 6, "Trace not found")

    def test_arguments_arrive_whatever_the_locale(self):
        """Row 38: UTF-8 arguments under LC_ALL=C (a cron job's environment)."""
        env = self.environments()[0]
        made = self.run_process("datasets", "create", "-n", "Größe 東京", "--json", env=env)
        self.assertEqual(self.assertOk(made, err="").json["name"], "Größe 東京")

    def test_arguments_that_are_no_text(self):
        """Row 38: bytes that are not UTF-8 are a usage error."""
        result = run_command([sys.executable, SCRIPT, "traces", "get", b"\xff\xfe"],
                             self.environment)
        self.assertFails(result, 2)
        self.assertEqual(self.server.requests, [])


@unittest.skipIf(os.name == "nt", "needs a POSIX shell")
class TestStreams(ProcessCase):
    ARGS = ((("orgs", "list"), 0), (("traces", "get", "nope"), 6), (("orgs", "lst"), 2),
            (("--version",), 0))

    def test_closed(self):
        """Row 38: closed streams: the exit code is the same, and no traceback."""
        closed = full([">&-", "<&- >&- 2>&-"],
                      ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
        for redirections in closed:
            for args, code in full(self.ARGS[:2], self.ARGS):
                with self.subTest(redirections=redirections, args=args):
                    result = self.in_shell(redirections, *args)
                    self.assertEqual(result.code, code, result)
                    self.assertNotIn("Traceback", result.err)
                    if "2>&-" not in redirections and code:
                        self.assertRegex(result.err, ERROR_LINE)
        self.assertNothingLeft()

    def test_a_session_is_refreshed_with_closed_streams(self):
        """Row 38: files that get the numbers of closed streams are not written into."""
        session = dict(self.log_in(), expires_at=0)
        self.write("home/session.json", session)
        result = self.in_shell("<&- >&- 2>&-", "orgs", "list", "--debug")
        self.assertEqual(result.code, 0, result)
        self.assertGreater(self.state("session.json")["expires_at"], 0)
        with open(os.path.join(self.home, "session.lock")) as file:
            self.assertEqual(file.read(), "")
        self.assertNothingLeft()

    def test_closed_stdin(self):
        """Row 38: what reads a closed or unreadable stdin says what is missing."""
        for redirections in full(["<&-"], ["<&-", "</dev/null"]):
            with self.subTest(redirections=redirections):
                result = self.in_shell(redirections, "login", "-e", "x@y.z", "--password-stdin")
                self.assertFails(result, 2, "password")
                result = self.in_shell(redirections, "evaluators", "delete", "x")
                self.assertFails(result, 2, "--yes")

    def test_no_terminal(self):
        """Row 38: without a terminal nothing is asked."""
        for args, flag in ((["login"], "--email"), (["login", "-e", "a@b.c"], "--password-stdin"),
                           (["api-keys", "revoke", "x"], "--yes")):
            with self.subTest(args=args):
                self.assertFails(self.cli(*args), 2, flag)

    def reader_gone(self, redirect_errors, args, env=None):
        """Run a command whose stdout (and stderr, if said so) nobody reads any more."""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            process = subprocess.Popen(
                [sys.executable, SCRIPT] + list(args), env=merged(self.environment, env),
                stdin=subprocess.DEVNULL, stdout=writing,
                stderr=writing if redirect_errors else subprocess.PIPE)
        finally:
            os.close(writing)
        with process:
            try:
                err = process.communicate(timeout=DEADLINE)[1]
            except BaseException:
                process.kill()
                raise
        return process.returncode, as_text(err or b"")

    def test_reader_went_away(self):
        """Row 39: `| head` ends quietly with 141, buffered or not."""
        cases = [(args, env) for args in (["orgs", "list"], ["traces", "list", "--json"],
                                          ["--help"], ["--version"], ["logout", "--json"])
                 for env in ({}, {"PYTHONUNBUFFERED": "1"})]
        for args, env in full([cases[2], cases[5]], cases):
            with self.subTest(args=args, env=env):
                self.log_in()
                self.assertEqual(self.reader_gone(False, args, env), (141, ""))
        self.log_in()
        self.assertEqual(self.reader_gone(True, ["orgs", "list"])[0], 141)
        self.assertEqual(self.reader_gone(True, ["traces", "get", "nope"])[0], 6)

    def test_reader_of_a_long_list(self):
        """Row 39: a reader that leaves in the middle of a list that is streamed."""
        for number in range(3):
            self.server.fault("trace.list", status=200, body=json_page("c%d" % number))
        last = self.server.fault("trace.list", status=200, body=json_page("last"), delay=True)
        process = subprocess.Popen([sys.executable, SCRIPT, "traces", "list", "--all", "--json"],
                                   env=self.environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        drained = threading.Thread(target=lambda: process.stdout.read(150000))
        with process:
            drained.start()
            try:
                self.assertTrue(last.begun.wait(DEADLINE))
                drained.join(DEADLINE)
                process.stdout.close()
                last.release.set()
                err = as_text(process.stderr.read())
                self.assertEqual(process.wait(DEADLINE), 141, err)
            finally:
                last.release.set()
                process.kill()
        self.assertEqual(err, "")

    @unittest.skipUnless(os.path.exists(FULL_DISK), "needs /dev/full")
    def test_full_disk(self):
        """Row 39: /dev/full is an error of one line, and Python's own 120 never comes."""
        cases = [(args, env) for args in (["orgs", "list"], ["traces", "list", "--json"],
                                          ["--version"], ["--help"], ["logout"])
                 for env in ({}, {"PYTHONUNBUFFERED": "1"})]
        for args, env in full([cases[0], cases[3], cases[4]], cases):
            with self.subTest(args=args, env=env):
                self.log_in()
                result = self.in_shell(">/dev/full", *args, env=env)
                self.assertFails(result, 1, "Cannot write the output")
                self.assertEqual(len(result.err.splitlines()), 1, result)
        self.log_in()
        for redirections, args, code in ((">/dev/full 2>&1", ["orgs", "list"], 1),
                                         ("2>/dev/full", ["orgs", "list"], 0),
                                         ("2>/dev/full", ["orgs", "lst"], 2)):
            with self.subTest(redirections=redirections, args=args):
                self.assertEqual(self.in_shell(redirections, *args).code, code)

    @unittest.skipUnless(os.path.exists(FULL_DISK), "needs /dev/full")
    def test_what_was_done_stays_done(self):
        """Row 39: a key that could not be shown is told about; the exit code is not 0."""
        result = self.in_shell(">/dev/full", "api-keys", "create", "-n", "CI")
        self.assertFails(result, 1, "Cannot write the output")


@unittest.skipIf(os.name == "nt", "signals and devices are others there")
class TestOutputFile(ProcessCase):
    def test_a_change_waits_for_the_file(self):
        """Row 12: with -o, that the file can be written is known before a change is made."""
        for path in (self.path("nowhere", "x"), self.folder, self.path("x" * 300)):
            with self.subTest(path=path):
                result = self.cli("api-keys", "create", "-n", "CI", "-o", path)
                self.assertFails(result, 1, "Cannot write", path)
        self.assertEqual(requests_of(self.server, "apiKey.create"), [])

    @unittest.skipUnless(os.path.exists(FULL_DISK), "needs /dev/full")
    def test_full_device(self):
        """Row 39: -o /dev/full is an error of one line."""
        for args in (["orgs", "list"], ["traces", "list", "--json"]):
            result = self.cli(*args + ["-o", FULL_DISK])
            self.assertFails(result, 1, "Cannot write", FULL_DISK)

    @unittest.skipUnless(os.path.exists("/dev/stdout"), "needs /dev/stdout")
    def test_names_of_open_files(self):
        """-o /dev/stdout goes behind what a redirected file holds already."""
        for name in ("/dev/stdout", "/dev/fd/1", "/dev/stderr"):
            path = self.write("log", "before\n")
            with open(path, "ab") as log:
                subprocess.check_call([sys.executable, SCRIPT, "orgs", "list", "-o", name],
                                      stdout=log, stderr=log, env=self.environment)
            with open(path, encoding="utf-8") as log:
                text = log.read()
            with self.subTest(name=name):
                self.assertTrue(text.startswith("before\nID "), text)
        self.assertFails(self.cli("orgs", "list", "-o", "/dev/fd/999"), 1, "/dev/fd/999")

    @unittest.skipIf(os.name == "nt", "a working directory cannot be deleted there")
    def test_working_directory_that_is_gone(self):
        script = "mkdir gone && cd gone && rmdir ../gone && exec \"$@\""
        for option in ("-o", "--junit"):
            result = run_command(["/bin/sh", "-c", script, "sh", sys.executable, SCRIPT, "traces",
                                  "check", "--max-cost", "9", option, "out"],
                                 self.environment, cwd=self.folder)
            self.assertFails(result, 1, "Cannot write out")

    def test_format_by_the_ending(self):
        for name, options, start in (
                ("a.csv", (), "id,"), ("a.tsv", (), "id\t"), ("a.json", (), "[\n"),
                ("a.jsonl", (), '{"id"'), ("a.CSV", (), "id,"), ("a.txt", (), "ID  "),
                ("csv", (), "ID  "), ("a.csv", ("--json",), "[\n"),
                ("a.json", ("--format", "table"), "ID  ")):
            with self.subTest(name=name, options=options):
                self.assertOk(self.cli("orgs", "list", "-o", self.path(name), *options))
                with open(self.path(name), encoding="utf-8") as file:
                    self.assertTrue(file.read().startswith(start))

    def test_interrupted(self):
        """Row 40: Ctrl-C, SIGTERM and SIGHUP while a file is written: no file, no part of it."""
        def strike(number):
            def struck(*_):
                os.kill(os.getpid(), number)
                raise AssertionError("the signal did not come through")
            return struck
        codes = dict(TestSignals.CODES)
        if hasattr(signal, "SIGHUP"):
            codes[signal.SIGHUP] = 143
        for number, code in codes.items():
            before = signal.signal(number, signal.default_int_handler)
            try:
                self.server.fault("trace.list", status=200, body=json_page("more"))
                with mock.patch("twosignal.Client.add_scores", strike(number)):
                    result = self.cli("traces", "list", "--all", "--format", "jsonl", "-o",
                                      self.path("out"))
            finally:
                signal.signal(number, before)
            self.assertEqual((result.code, result.err.strip()), (code, ""), result)
            self.assertEqual([name for name in os.listdir(self.folder) if name != "home"], [])


class Strike:
    """Sends this process a signal when a command's run comes to a line for the first time.

    place: (function, line); None only notes the places, in `places`. Counts from _run on, where
    main is ready for signals.
    """

    def __init__(self, number, place):
        self.number, self.place, self.places, self.running, self.struck = (
            number, place, [], False, False)

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename != twosignal.__file__:
            return None
        if frame.f_code is twosignal._run.__code__:
            self.running = event != "return"
        if self.running and event == "line":
            self.come_to((frame.f_code.co_name, frame.f_lineno))
        return self.trace

    def come_to(self, place):
        if self.place is None:
            self.places += [] if place in self.places else [place]
        elif place == self.place and not self.struck:
            self.struck = True
            os.kill(os.getpid(), self.number)


@unittest.skipIf(os.name == "nt", "signals are others there")
class TestSignals(ProcessCase):
    shared = False
    CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}

    def setUp(self):
        super().setUp()
        self.locks = []
        # Runs may be started with SIGINT ignored; a signal outside of main must not end the tests.
        for number, handler in ((signal.SIGINT, signal.default_int_handler),
                                (signal.SIGTERM, lambda *_: None)):
            self.addCleanup(signal.signal, number, signal.signal(number, handler))

    def struck(self, number, place, args):
        """(result, strike) of a run that gets a signal at that place; result None: it escaped."""
        strike = Strike(number, place)
        before = sys.gettrace()
        with mock.patch("os.open", self.noted_open(os.open)), warnings.catch_warnings():
            # The system closes what a process leaves open, a lock first of all.
            warnings.simplefilter("ignore", ResourceWarning)
            sys.settrace(strike.trace)
            try:
                return self.cli(*args), strike
            except KeyboardInterrupt:
                return None, strike
            finally:
                sys.settrace(before)
                self.end_process()

    def noted_open(self, real):
        def noted(path, *args, **kwargs):
            handle = real(path, *args, **kwargs)
            self.locks += [handle] if str(path).endswith("session.lock") else []
            return handle
        return noted

    def end_process(self):
        """Closes what a run left open, as the system does when a process ends."""
        gc.collect()
        for handle in self.locks:
            try:
                if os.path.samestat(os.fstat(handle), os.stat(self.home + "/session.lock")):
                    os.close(handle)
            except OSError:
                pass
        del self.locks[:]

    def test_anywhere(self):
        """Rows 6, 40: a signal at any line: 130 or 143, nothing left, and the session lives."""
        seed = random.randrange(10 ** 6)
        dice = random.Random(seed)
        args = ["orgs", "list", "--json"]
        self.write("home/session.json", dict(self.log_in(), expires_at=0))
        places = self.struck(signal.SIGINT, None, args)[1].places
        self.assertGreater(len(places), 300)
        strikes = [(number, place) for number in self.CODES for place in places]
        for number, place in dice.sample(strikes, full(30, 600)):
            with self.subTest(seed=seed, number=number, place=place):
                self.strike_and_look(number, place, args)

    def strike_and_look(self, number, place, args):
        self.write("home/session.json", dict(self.state("session.json"), expires_at=0))
        result, strike = self.struck(number, place, args)
        if strike.struck:
            self.assertIsNotNone(result, "it escaped from main")
            self.assertEqual(result.code, self.CODES[number], result)
            self.assertNotIn("Error: ", result.err.replace("AttributeError: ", ""), result)
            # Python itself reports what comes up while a half-made object is destroyed.
            self.assertEqual(result.err.count("Traceback"),
                             result.err.count("Exception ignored in"), result)
        self.assertNothingLeft()
        self.assertOk(self.cli(*args))

    def test_at_chosen_points(self):
        """Row 40: while a file is written, while waiting for the lock or for the next try."""
        def strike(number, real):
            def struck(*args, **kwargs):
                os.kill(os.getpid(), number)
                return real(*args, **kwargs)
            return struck

        def busy(*args):
            raise BlockingIOError(errno.EAGAIN, "held")

        points = {"the write": ("os.fsync", os.fsync), "the replacing": ("os.replace", os.replace),
                  "the lock": ("twosignal._take", busy)}
        for number, code in self.CODES.items():
            for name, (target, real) in points.items():
                with self.subTest(number=number, at=name):
                    self.write("home/session.json", dict(self.log_in(), expires_at=0))
                    with mock.patch(target, strike(number, real)):
                        result = self.cli("orgs", "list")
                    self.assertFails_quietly(result, code)
                    self.assertOk(self.cli("orgs", "list"))
            with self.subTest(number=number, at="the pause before the next try"):
                self.log_in()
                self.server.fault("organization.list", status=503, body="")
                with mock.patch("time.sleep", strike(number, lambda seconds: None)):
                    self.assertFails_quietly(self.cli("orgs", "list", naps=False), code)

    def assertFails_quietly(self, result, code):
        self.assertEqual((result.code, result.out), (code, ""), result)
        self.assertEqual(result.err.strip(), "", result)
        self.assertNothingLeft()

    def test_processes(self):
        """Row 40: Ctrl-C and SIGTERM while waiting for an answer, as processes."""
        for number, code in self.CODES.items():
            for path, args in full([("trace.list", ["traces", "list"])],
                                   [("trace.list", ["traces", "list"]),
                                    ("dataset.create", ["datasets", "create", "-n", "x"])]):
                with self.subTest(number=number, path=path):
                    self.assertEqual(self.signalled(number, path, args), (code, ""))
                    self.assertNothingLeft()

    def signalled(self, number, path, args):
        """(exit code, stderr) of a process that gets a signal while it waits for that answer."""
        fault = self.server.fault(path, delay=True)
        process = subprocess.Popen([sys.executable, SCRIPT] + args, env=self.environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
        with process:
            try:
                self.assertTrue(fault.begun.wait(DEADLINE))
                process.send_signal(number)
                out, err = process.communicate(timeout=DEADLINE)
            finally:
                fault.release.set()
                process.kill()
        self.assertEqual(out, b"")
        return process.returncode, as_text(err).strip()

    def test_at_prompts(self):
        """Row 40: Ctrl-C at a prompt: 130, nothing done, and the terminal shows what is typed."""
        evaluator = self.server.add_evaluator(name="Kept")
        prompts = [(["login", "-e", "a@b.c"], "Password: "),
                   (["evaluators", "delete", evaluator], "[y/N] "), (["login"], "Email: "),
                   (["datasets", "add-item", "x", "--input", "-"], "Ctrl-D")]
        for args, prompt in prompts[:full(2, 4)]:
            with self.subTest(args=args):
                output, _ = pty_run(
                    ["/bin/sh", "-c", 'trap : INT; "$@"; echo "code $?"; stty -a', "sh",
                     sys.executable, SCRIPT] + args, [(prompt, "\x03")], self.environment)
                self.assertIn("code 130", output)
                self.assertNotIn("Traceback", output)
                self.assertRegex(output, r"[^-]echo\b")
        self.assertEqual(requests_of(self.server, "auth/login"), [])
        self.assertEqual(requests_of(self.server, "evaluator.delete"), [])
        self.assertNothingLeft()


def heed_interrupts():
    """In a child: what started the tests may have it ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class TestInterpreters(ProcessCase):
    def flags(self):
        always = [["-I"], ["-S"], ["-W", "error"], ["-bb"], ["-OO"]]
        more = [["-E", "-s"], ["-B"], ["-u"], ["-q"], ["-I", "-S", "-W", "error", "-bb", "-OO"]]
        if sys.version_info >= (3, 7):
            more.append(["-X", "dev", "-W", "error"])
        if sys.version_info >= (3, 10):
            always.append(["-W", "error", "-X", "warn_default_encoding"])
        return full([["-I", "-S"], ["-W", "error", "-bb"], ["-OO"]], always + more)

    def test_flags(self):
        """Row 41: -I, -S, -W error, -bb, -OO: it works, and says nothing else."""
        for flags in self.flags():
            with self.subTest(flags=flags):
                self.write("home/session.json", dict(self.log_in(), expires_at=0))
                result = self.run_process("traces", "list", "--json", flags=flags)
                self.assertEqual(len(self.assertOk(result, err="").json), 5)

    def test_flags_and_errors(self):
        """Row 41: errors are the same under odd flags."""
        flags = ["-I", "-S", "-W", "error", "-bb", "-OO"]
        for args, code in full([(["traces", "get", "nope"], 6)],
                               [(["traces", "get", "nope"], 6), (["traces", "lst"], 2)]):
            result = self.run_process(*args, flags=flags)
            self.assertFails(result, code)
            self.assertRegex(result.err, ERROR_LINE)

    def test_help_under_every_optimisation(self):
        """Row 41: -OO takes docstrings away: help still comes."""
        result = self.assertOk(self.run_process("traces", "list", "--help", flags=["-OO"]), err="")
        self.assertIn("--search", result.out)
        self.assertOk(self.run_process("--help", flags=["-OO"]), err="")

    def without_ssl(self, *args):
        return run_command([sys.executable, "-c", WITHOUT_SSL, SCRIPT] + list(args),
                           self.environment)

    def test_without_ssl(self):
        """Row 41: Python without ssl: http works, https is one clear line."""
        self.assertEqual(len(self.assertOk(self.without_ssl("traces", "list", "--json"),
                                           err="").json), 5)
        session = dict(self.log_in(), api_url="https://localhost:9")
        self.write("home/session.json", session)
        with Scripted([hang_up]) as listener:
            url = "https://127.0.0.1:%d" % listener.port
            self.write("home/session.json", dict(session, api_url=url))
            result = self.without_ssl("orgs", "list", "--url", url)
        self.assertFails(result, 3, "ssl", "http://")
        self.assertRegex(result.err, ERROR_LINE)

    def test_without_authorities(self):
        """Row 41: no CA certificates on the machine: one line that says so."""
        empty = self.path("empty")
        os.mkdir(empty)
        env = {"SSL_CERT_FILE": self.path("none.pem"), "SSL_CERT_DIR": empty}
        made = certificates(self.folder)
        server = self.serve(tls=made.good)
        session = dict(self.log_in(), api_url=server.url)
        self.write("home/session.json", session)
        for directory in (empty, self.path("not-there")):
            result = self.cli("orgs", "list", "--url", server.url,
                              env=dict(env, SSL_CERT_DIR=directory))
            self.assertFails(result, 3, "no CA certificates were found", "--ca-cert")
        self.assertEqual(server.requests, [])


class TestNoTrace(Case):
    def test_starting_leaves_nothing_behind(self):
        """Row 37: help, version and usage errors write nothing anywhere."""
        for args in ([], ["--help"], ["--version"], ["nope"], ["traces", "list"],
                     ["orgs", "list"], ["whoami"], ["logout"]):
            self.run_cli(*args)
        self.assertEqual(listing(self.folder), ["home"])


if __name__ == "__main__":
    unittest.main()
