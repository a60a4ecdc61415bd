"""The section Console: encodings, streams, progress, questions, --debug and --quiet."""
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
import urllib.error
import urllib.request
from unittest import mock

import twosignal
from tools import (DEADLINE, ERROR_LINE, FULL_DISK, IN_TERMINAL, NEW, OLD, OWNER, PASSWORD, PROGRAM,
                   SCRIPT, CommandCase, ProcessCase, Result, ServerCase, ShortClock, Steps,
                   TracesCase, as_bytes, as_text, full, json_page, merged, nothing, posix, pty_run,
                   replaced_environment, requests_of, run_command)


class Encodings(ProcessCase):
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
        """Environments in which Python does not take its streams for UTF-8."""
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

    def test_encodings_that_fail_on_ordinary_text(self):
        """Row 38: in their place, ASCII with escapes."""
        self.server.add_project(name="Größe 東京")
        for encoding in ("idna", "idna:strict"):
            env = {"PYTHONIOENCODING": encoding}
            for args in (["projects", "list"], ["projects", "list", "--json"]):
                result = self.assertOk(self.run_process(*args, env=env), err="")
                self.assertIn(r"Gr\xf6\xdfe \u6771\u4eac" if len(args) == 2 else
                              r"Gr\u00f6\u00dfe \u6771\u4eac", result.out)
            result = self.run_process("traces", "get", "東京", env=env)
            self.assertFails(result, 6, "Trace not found")
            self.assertEqual(self.run_process("--version", env=env).out,
                             self.run_process("--version").out)

    def test_arguments_arrive_whatever_the_locale(self):
        """Row 38: UTF-8 arguments under LC_ALL=C (a cron job's environment)."""
        env = self.environments()[0]
        made = self.run_process("datasets", "create", "-n", "Größe 東京", "--json", env=env)
        self.assertEqual(self.assertOk(made, err="").json["name"], "Größe 東京")

    def test_arguments_that_are_not_utf8(self):
        """Row 38: bytes that are not UTF-8 are a usage error."""
        result = run_command([sys.executable, PROGRAM, "traces", "get", b"\xff\xfe"],
                             self.environment)
        self.assertFails(result, 2)
        self.assertEqual(self.server.requests, [])


@unittest.skipIf(os.name == "nt", "needs a POSIX shell")
class Streams(ProcessCase):
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
        """Row 38: a command that reads a closed or empty stdin says what is missing."""
        for redirections in full(["<&-"], ["<&-", "</dev/null"]):
            with self.subTest(redirections=redirections):
                result = self.in_shell(redirections, "login", "-e", "x@y.z", "--password-stdin")
                self.assertFails(result, 2, "password")
                result = self.in_shell(redirections, "evaluators", "delete", "x")
                self.assertFails(result, 2, "--yes")

    def test_no_terminal(self):
        """Row 38: without a terminal there are no prompts."""
        for args, flag in ((["login"], "--email"), (["login", "-e", "a@b.c"], "--password-stdin"),
                           (["api-keys", "revoke", "x"], "--yes")):
            with self.subTest(args=args):
                self.assertFails(self.cli(*args), 2, flag)

    def reader_gone(self, redirect_errors, args, env=None):
        """Run a command whose stdout (and stderr, if redirected) nobody reads any more."""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            process = subprocess.Popen(
                [sys.executable, PROGRAM] + list(args), env=merged(self.environment, env),
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

    def test_a_reader_that_has_left(self):
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

    def test_a_reader_that_leaves_a_long_list(self):
        """Row 39: the reader leaves in the middle of a list that is printed as it comes."""
        for number in range(3):
            self.server.fault("trace.list", status=200, body=json_page("c%d" % number))
        last = self.server.fault("trace.list", status=200, body=json_page("last"), delay=True)
        process = subprocess.Popen([sys.executable, PROGRAM, "traces", "list", "--all", "--json"],
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
        """Row 39: /dev/full is an error of one line, and never Python's own exit code 120."""
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
    def test_a_change_whose_result_cannot_be_printed(self):
        """Row 39: a key that could not be shown is an error, although it was created."""
        result = self.in_shell(">/dev/full", "api-keys", "create", "-n", "CI")
        self.assertFails(result, 1, "Cannot write the output")


class NotedStream(io.StringIO):
    """A stream to a terminal that notes (its name, text) of each write in a list."""

    def __init__(self, name, writes, terminal=None):
        super().__init__()
        self.name, self.writes, self.terminal = name, writes, terminal

    def write(self, text):
        self.writes.append((self.name, text))
        return super().write(text)

    def isatty(self):
        return True

    def fileno(self):
        return super().fileno() if self.terminal is None else self.terminal


class RushingClock(ShortClock):
    """Each look at it comes two seconds after the one before."""

    looks = 0

    def monotonic(self):
        self.looks += 1
        return time.monotonic() + 2 * self.looks


class StoppedClock(ShortClock):
    """No time passes."""

    def __init__(self):
        super().__init__()
        now = time.monotonic()
        self.monotonic = lambda: now


class Progress(TracesCase):
    def in_terminal(self, *args, terminal=None):
        """[("out" or "err", text)] of what a run writes on a terminal while time rushes."""
        writes = []
        streams = (io.StringIO(), NotedStream("out", writes),
                   NotedStream("err", writes, terminal))
        with replaced_environment(self.environment):
            code = twosignal.main(["traces", "list", "--project", self.server.project] + list(args),
                                  twosignal.Console(streams, RushingClock()))
        self.assertEqual(code, 0, writes)
        return [(name, text) for name, text in writes if text]

    def test_progress_never_touches_a_row(self):
        """It is erased before a row is printed, and starts at the beginning of a line."""
        self.add(250)
        for name in ("table", "json", "jsonl", "csv", "markdown", "html"):
            with self.subTest(format=name):
                writes = self.in_terminal("--all", "--format", name)
                places = [place for place, (_, text) in enumerate(writes)
                          if text in ("\r100 traces", "\r200 traces")]
                self.assertEqual(len(places), 2, writes[:3])
                for place in places:
                    stream, text = writes[place - 1]
                    self.assertEqual((stream, text[-1]), ("out", "\n"))
                    self.assertEqual(writes[place + 1], ("err", "\r" + " " * 12 + "\r"))
                    self.assertEqual(writes[place + 2][0], "out")
                out = "".join(text for stream, text in writes if stream == "out")
                self.assertTrue(name != "json" or len(json.loads(out)) == 250)

    def test_wide_characters_are_erased_whole(self):
        """東 takes two columns, and a terminal prints ^C behind the text."""
        stderr = NotedStream("err", [])
        console = twosignal.Console((None, NotedStream("out", []), stderr), RushingClock())
        for text in ("scored by 東京", "scored"):
            console.progress(text, console.clock.monotonic())
        console.clear_progress()
        console.clear_progress()
        self.assertEqual(stderr.getvalue(), "\rscored by 東京\rscored" + " " * 8
                         + "\r" + " " * 16 + "\r")

    @posix
    def test_progress_fits_a_narrow_terminal(self):
        """A wrapped line could not be erased."""
        import fcntl
        import pty
        import termios
        self.add(110)
        terminal, other_end = pty.openpty()
        self.addCleanup(os.close, terminal)
        self.addCleanup(os.close, other_end)
        fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 8, 0, 0))
        texts = [text for stream, text in self.in_terminal("--all", terminal=other_end)
                 if stream == "err"]
        self.assertEqual(texts, ["\r100 tr…", "\r" + " " * 7 + "\r"])

    @posix
    def test_progress_is_shown_only_where_it_can_be_erased(self):
        """What reads a pipe prints to the same terminal. A status is a remark then."""
        reader, pipe = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, pipe)
        file = self.enter(open(self.path("rows"), "w", encoding="utf-8"))
        saved = twosignal.AtomicFile(self.path("saved"))
        device = twosignal.OutputTarget("/dev/fd/%d" % pipe, "")
        out = {"terminal": NotedStream("out", []), "file": file, "nothing": None,
               "pipe": self.enter(open(pipe, "w", encoding="utf-8", closefd=False))}
        for stdout, target, err_is_terminal, is_shown in (
                ("terminal", None, True, True), ("file", None, True, True),
                ("pipe", None, True, False), ("nothing", None, True, False),
                ("terminal", None, False, False), ("file", None, False, False),
                ("pipe", None, False, False), ("pipe", saved, True, True),
                ("terminal", saved, True, True), ("pipe", saved, False, False),
                ("pipe", device, True, False)):
            with self.subTest(stdout=stdout, target=target, err_is_terminal=err_is_terminal):
                stderr = NotedStream("err", []) if err_is_terminal else io.StringIO()
                console = twosignal.Console((None, out[stdout], stderr), RushingClock())
                console.file = target
                console.progress("100 traces", console.clock.monotonic())
                self.assertEqual(stderr.getvalue(), "\r100 traces" if is_shown else "")
                console.clear_progress()
                stderr.truncate(stderr.seek(0))
                for _ in range(2):
                    console.status("0 of 2 traces arrived", console.clock.monotonic())
                console.clear_progress()
                console.status("1 of 2 traces arrived", console.clock.monotonic())
                if is_shown:
                    self.assertRegex(stderr.getvalue(), r"\A\r0 of 2 traces arrived, \d s *\r")
                    self.assertNotIn("\n", stderr.getvalue())
                else:
                    self.assertEqual(stderr.getvalue(),
                                     "0 of 2 traces arrived.\n1 of 2 traces arrived.\n")

    def test_progress_on_a_terminal(self):
        self.add(110)
        path = self.path("out")
        for options, tty, clock, is_shown in (
                (("-o", path), True, RushingClock, True), ((), True, RushingClock, True),
                (("-o", path), False, RushingClock, False),
                (("-o", path, "-q"), True, RushingClock, False),
                (("-o", path), True, StoppedClock, False)):
            with self.subTest(options=options, tty=tty, clock=clock.__name__):
                result = self.assertOk(self.list("--all", *options, tty=tty, clock=clock()))
                self.assertEqual("100 traces" in result.err, is_shown)
                if is_shown:    # nothing of it is left in the line
                    self.assertEqual(result.err.replace("\n", "\r").split("\r")[-1].strip(), "")

    def test_without_streams(self):
        """A console without streams prints nothing; the exit code is the same."""
        with replaced_environment(self.environment):
            for args, code in ((["--version"], 0), (["orgs", "lst"], 2), ([], 2),
                               (["traces", "list", "--project", self.server.project], 0),
                               (["login"], 2)):
                console = twosignal.Console((None, None, None), ShortClock())
                self.assertEqual(twosignal.main(args, console), code, args)


class Confirmations(CommandCase):
    commands = {"evaluators delete": ("evaluators", "Delete evaluator"),
                "datasets delete": ("datasets", "Delete dataset"),
                "projects delete": ("projects", "Delete project"),
                "orgs remove-member": ("members", "Remove member"),
                "api-keys revoke": ("api_keys", "Revoke API key")}

    def unconfirmed(self, command):
        return [word for word in self.argv(command) if word != "-y"]

    def state_of(self, table):
        return self.server.rows(table)

    def test_without_a_terminal_nothing_is_prompted_for_or_done(self):
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
            if command == "orgs remove-member":     # it has no name: see test_commands.Members
                continue
            for reply, done in (("y\n", True), ("n\n", False), ("\n", False)):
                if (command, reply) in (("datasets delete", "\n"), ("api-keys revoke", "\n")):
                    continue
                with self.subTest(command=command, reply=reply):
                    self.check_answer(command, table, words, name, reply, done)

    def check_answer(self, command, table, words, name, reply, done):
        add = {"evaluators": self.server.add_evaluator, "datasets": self.server.add_dataset,
               "api_keys": self.server.add_key, "projects": self.server.add_project}[table]
        row = add(name=name)
        before = self.state_of(table)
        also = {"projects": " with its traces", "api_keys": ": whatever uses it (%s…) stops working"
                % self.server.rows("api_keys")[-1]["keyPrefix"]}.get(table, "")
        question = f'{words} "{name}" ({row}){also}? [y/N]'
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


@posix
class Questions(ProcessCase):
    """Where a question is shown, and what becomes of a password that is typed or handed over."""

    LOST = ["/bin/sh", "-c", 'exec "$@" 2>"$LOST"', "sh", sys.executable, PROGRAM]

    def setUp(self):
        super().setUp()
        self.environment.update(TWOSIGNAL_URL=self.server.url, LOST=self.path("err"))

    def question(self, email):
        return "Password for %s at %s: " % (email, self.server.url)

    def test_seen_wherever_stderr_goes(self):
        """Row 50: with stderr in a file, it is on the terminal device; errors are in the file."""
        output, code = pty_run(self.LOST + ["login"], [
            ("Email: ", OWNER + "\n"), (self.question(OWNER), PASSWORD + "\n")], self.environment)
        self.assertEqual(code, 0, output)
        self.assertNotIn(PASSWORD, output)
        self.assertEqual(os.path.getsize(self.environment["LOST"]), 0)
        row = self.server.add_evaluator(name="Spam 東京")
        output, code = pty_run(self.LOST + ["evaluators", "delete", row], [
            ('Delete evaluator "Spam 東京" (%s)? [y/N] ' % row, "n\n")], self.environment)
        self.assertEqual(code, 1, output)
        self.assertNotIn("Error", output)
        with open(self.environment["LOST"]) as file:
            self.assertRegex(file.read(), ERROR_LINE)

    def test_a_terminal_that_nothing_can_be_shown_on(self):
        """Row 50: stdin is a terminal, stderr is none and there is no device: a usage error."""
        row = self.server.add_evaluator(name="Kept")
        for args, option in ((["login"], "--email"), (["login", "-e", OWNER], "--password-stdin"),
                             (["login", "-e", OWNER, "--password-stdin"], "TWOSIGNAL_PASSWORD"),
                             (["evaluators", "delete", row], "--yes")):
            with self.subTest(args=args):
                code, output, err = self.without_device(args, subprocess.PIPE)
                self.assertFails(Result(code, output, err), 2, option)
                self.assertIn("No terminal", err)
        self.assertEqual(self.server.requests, [])

    def test_a_terminal_without_a_device(self):
        """Row 50: a question on stderr is seen, if that is the same terminal."""
        code, output, _ = self.without_device(["login", "-e", OWNER], None, PASSWORD + "\n")
        self.assertEqual(code, 0, output)
        self.assertIn(self.question(OWNER), output)
        self.assertNotIn(PASSWORD, output)

    def without_device(self, args, stderr, answer=""):
        """(code, output, stderr) of a run on a terminal that is not its controlling one."""
        master, terminal = os.openpty()
        process = subprocess.Popen(
            [sys.executable, PROGRAM] + args, env=self.environment, stdin=terminal,
            stdout=terminal, stderr=stderr or terminal, start_new_session=True)
        os.close(terminal)
        output = b""
        timer = threading.Timer(DEADLINE, process.kill)
        timer.start()
        self.addCleanup(timer.cancel)
        with process, open(master, "r+b", 0) as screen:
            try:
                while answer and b": " not in output:
                    output += screen.read(1000)
                screen.write(answer.encode())
                while True:
                    output += screen.read(1000)
            except OSError:             # how Linux says that the process has closed it
                err = as_text(process.stderr.read()) if stderr else ""
                return process.wait(DEADLINE), as_text(output), err
            finally:
                process.kill()

    def locales(self):
        """Environments in which Python decodes arguments, variables and streams differently."""
        bare = {"LANG": None, "LC_CTYPE": None, "PYTHONIOENCODING": None}
        yield dict(bare, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
        yield dict(bare, LC_ALL="C", PYTHONIOENCODING="latin-1")
        yield dict(bare, LC_ALL="C.UTF-8")
        make = shutil.which("localedef")
        if make and run_command([make, "-i", "en_US", "-f", "ISO-8859-1", self.path("en_US")],
                                self.environment).code == 0:
            yield dict(bare, LC_ALL="en_US", LOCPATH=self.folder, PYTHONUTF8="0")

    def ways(self, secret, env):
        """(its name, its exit code) after the secret was handed over in each way."""
        login = [sys.executable, PROGRAM, "login", "-e", "a@b.c"]
        env = merged(self.environment, env)
        yield "option", run_command(login + ["-p", secret], env).code
        variable = dict({os.fsencode(name): value for name, value in env.items()})
        variable[b"TWOSIGNAL_PASSWORD"] = secret
        yield "variable", run_command(login, variable).code
        login.append("--password-stdin")
        yield "stdin", run_command(login, env, secret).code
        typed = secret if secret.endswith(b"\n") else secret + b"\n"
        output, code = pty_run(login, [(self.question("a@b.c"), typed)], env)
        self.assertNotIn("qw", output)
        yield "prompt", code

    def test_a_secret_is_the_same_in_each_way(self):
        """Row 50: a BOM and trailing line breaks are dropped, nothing else, in every locale."""
        secrets = full([' "qwärt 東京" \u3000'], [' "qwärt 東京" \u3000', "qw"])
        wrappings = ["\ufeff%s\r\n", "%s", "%s\n", "%s\r\n\r\n"]
        for number, env in enumerate(self.locales()):
            for place, around in enumerate(full(wrappings[:1], wrappings)):
                secret = secrets[(number + place) % len(secrets)]   # not each in each locale
                for way, code in self.ways((around % secret).encode("utf-8"), env):
                    with self.subTest(env=env, around=around, way=way):
                        sent = requests_of(self.server, "auth/login")[-1].body["password"]
                        self.assertEqual((sent, code), (secret, 4))
                        self.server.clear()

    @posix
    def test_paths(self):
        """Row 38: a path names the same bytes in every locale, in arguments and variables."""
        locales = list(self.locales())
        for number, env in enumerate(full(locales[::3], locales)):
            folder = self.path("größe%d" % number)
            env = dict(env, TWOSIGNAL_HOME=folder + "/höme", TWOSIGNAL_URL=self.server.url)
            os.mkdir(folder)
            self.write(folder + "/ä.json", "{}")
            self.write(folder + "/kéy", "not-a-key")
            for args, code, made in (
                    (("completion", "bash", "-o", folder + "/ü.txt"), 0, "ü.txt"),
                    (("install", folder + "/bïn"), 0, "bïn/twosignal"),
                    (("login", "-e", OWNER, "-p", PASSWORD), 0,
                     "höme/session.json"),
                    (("api", "organization.list", "--input", "@" + folder + "/ä.json"), 0, None),
                    (("usage", "--org", "x", "--fail-above", "90", "--junit", folder + "/é.xml"), 6,
                     "é.xml"),
                    (("traces", "list"), 4, None)):     # with the key in the file
                if code == 4:
                    env["TWOSIGNAL_API_KEY_FILE"] = folder + "/kéy"
                with self.subTest(env=env, args=args):
                    result = run_command([sys.executable, SCRIPT, *args],
                                         merged(self.environment, env))
                    self.assertEqual(result.code, code, result)
                    self.assertTrue(made is None or os.path.isfile(folder + "/" + made))

    def test_a_secret_that_is_not_utf8(self):
        """Row 50: in each way a usage error, which does not show it."""
        env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        for more in full([env], [env, {"LC_ALL": "C.UTF-8"}]):
            for way, code in self.ways(b"qw\xff\xe4", more):
                with self.subTest(env=more, way=way):
                    self.assertEqual(code, 2)
        self.assertEqual(self.server.requests, [])

    def test_an_email_that_is_not_ascii(self):
        """Row 50: typed under LC_ALL=C, it arrives as UTF-8."""
        for env in self.locales():
            with self.subTest(env=env):
                output, code = pty_run([sys.executable, PROGRAM, "login"], [
                    ("Email: ", " jörg@b.c\n"), (" at " + self.server.url, "x\n")],
                    merged(self.environment, env))
                self.assertEqual(code, 4, output)
                sent = requests_of(self.server, "auth/login")[-1].body["email"]
                self.assertEqual(sent, "jörg@b.c")

    def at_the_password_prompt(self):
        """(process, the other end of its controlling terminal); its other streams are pipes."""
        master, terminal = os.openpty()
        process = self.enter(subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", IN_TERMINAL, sys.executable, PROGRAM, "login",
             "-e", OWNER], env=self.environment, stdin=terminal, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True))
        self.addCleanup(process.kill)
        os.close(terminal)
        self.assertEqual(as_text(os.read(master, 1000)), self.question(OWNER))
        return process, master

    def test_the_terminal_goes_away(self):
        """It ends by SIGHUP, without a word about the echo that it could not switch on again."""
        process, master = self.at_the_password_prompt()
        os.close(master)
        self.assertEqual(process.communicate(timeout=DEADLINE), (b"", b""))
        self.assertIn(process.returncode, (143, -signal.SIGHUP))

    def test_hidden_after_ctrl_z(self):
        """The shell switches the echo on when the process stops; `fg` switches it off again."""
        import termios
        process, master = self.at_the_password_prompt()
        self.addCleanup(os.close, master)
        modes = termios.tcgetattr(master)
        self.assertFalse(modes[3] & termios.ECHO)
        modes[3] |= termios.ECHO
        termios.tcsetattr(master, termios.TCSANOW, modes)
        for _ in range(20 * DEADLINE):
            # One that arrives before the process reads is noticed with the next one.
            process.send_signal(signal.SIGCONT)
            if not termios.tcgetattr(master)[3] & termios.ECHO:
                break
            select.select([], [], [], 0.05)
        self.assertFalse(termios.tcgetattr(master)[3] & termios.ECHO)
        os.write(master, as_bytes(PASSWORD + "\n"))
        self.assertEqual(process.communicate(timeout=DEADLINE)[1], b"")
        self.assertEqual(process.returncode, 0)


class Colours(TracesCase):
    """Who decides: --color, then NO_COLOR, then FORCE_COLOR, then the terminal."""

    def colours(self, *args, tty=False, **env):
        result = self.assertOk(self.list(*args, tty=tty, env=env))
        return "\x1b[" in result.out

    def test_who_decides(self):
        self.add()
        never, always, auto = (["--color", word] for word in ("never", "always", "auto"))
        for is_coloured, args, tty, env in (
                (True, [], True, {}), (False, [], False, {}),
                (False, [], True, {"TERM": "dumb"}), (False, [], True, {"NO_COLOR": "0"}),
                (True, [], True, {"NO_COLOR": ""}), (True, [], False, {"FORCE_COLOR": "1"}),
                (True, [], False, {"CLICOLOR_FORCE": "1"}),
                (False, [], False, {"FORCE_COLOR": "0", "CLICOLOR_FORCE": ""}),
                (False, [], False, {"FORCE_COLOR": "", "CLICOLOR_FORCE": "0"}),
                (True, [], False, {"FORCE_COLOR": "3", "TERM": "dumb"}),
                (False, [], True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}),
                (True, always, False, {"NO_COLOR": "1", "TERM": "dumb"}),
                (False, never, True, {"FORCE_COLOR": "1"}),
                (False, ["--no-color"], True, {"FORCE_COLOR": "1"}),
                (True, auto, True, {}), (False, auto, False, {}),
                (False, auto, True, {"NO_COLOR": "1"}), (True, auto, False, {"FORCE_COLOR": "1"}),
                (False, always + ["--no-color"], False, {}),
                (True, ["--no-color"] + always, False, {}),
                (False, ["--color=ALWAYS", "--color=never"], False, {})):
            with self.subTest(args=args, tty=tty, env=env):
                self.assertEqual(self.colours(*args, tty=tty, **env), is_coloured)

    def test_only_tables_have_any(self):
        self.add()
        for name in set(twosignal.FORMATS) - {"table"}:
            self.assertFalse(self.colours("--color", "always", "--format", name), name)

    def test_a_file_has_colours_only_on_request(self):
        """FORCE_COLOR is for terminals that look like none, and a file is read later."""
        self.add()
        path = self.path("saved.txt")
        for args, is_coloured in (([], False), (["--color", "always"], True)):
            self.assertOk(self.list("-o", path, *args, tty=True, env={"FORCE_COLOR": "1"}))
            with open(path, encoding="utf-8") as file:
                self.assertEqual("\x1b[32mOK" in file.read(), is_coloured)

    def test_widths_stay(self):
        self.add(3, name="東京 é")
        for columns in (None, 60, 120):
            plain, coloured = (self.list("--color", word, columns=columns).out
                               for word in ("never", "always"))
            self.assertEqual(re.sub("\x1b\\[\\d*m", "", coloured), plain)

    def test_other_words(self):
        self.assertFails(self.list("--color", "yes"), 2, "auto, always, never")
        self.assertFails(self.list("--color"), 2, "needs a value")

    def test_a_console_of_windows_is_asked_first(self):
        """It shows escape sequences as text until it has been told what they are."""
        for can in (0, 1):
            modes = []
            system = types.SimpleNamespace(
                GetStdHandle=lambda number: number,
                SetConsoleMode=lambda *values, can=can: modes.append(values) or can)
            windows = types.SimpleNamespace(windll=types.SimpleNamespace(kernel32=system))
            console = twosignal.Console((None, NotedStream("out", []), None))
            with mock.patch.dict(sys.modules, ctypes=windows), \
                    mock.patch.object(os, "name", "nt"), replaced_environment({}):
                self.assertEqual(console.screen().colour, bool(can))
                self.assertEqual(modes, [(-11, 7)])
                self.assertTrue(console.screen("always").colour)


COMMAND_LINES = (           # each kind of request
    ("traces", "list", "--json", "--search", "it's [a] {b} $HOME `c` \"d\""),
    ("traces", "check", "--min-score", "0.1"),
    ("evaluators", "create", "-n", "O'Brien \\ é", "--type", "CUSTOM"),
    ("datasets", "create", "-n", "$(touch planted); 'x'"),
    ("api-keys", "create", "-n", "Key"))


class DebugLines(TracesCase):
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
                self.assertOk(result)
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

    def test_a_line_for_a_request_without_a_response(self):
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
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
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
                    # An old server refuses a procedure that it lacks, but not the credentials.
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
            # In a shell, where a user would paste the line.
            result = run_command(["/bin/sh", "-c", script + " -sS -m 60 -q"],
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


class DebugMasking(ServerCase):
    def test_requests_are_shown_without_secrets(self):
        """Row 34: --debug shows requests, and neither cookies nor tokens."""
        self.log_in()
        session = self.state("session.json")
        result = self.cli("orgs", "list", "--debug")
        self.assertOk(result)
        self.assertIn("organization.list", result.err)
        for key in ("access_token", "refresh_token"):
            self.assertNotIn(session[key], result.err)


class Quiet(TracesCase):
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


class Readers(unittest.TestCase):
    """Whether the reader of stdout, or of what -o names, has gone away."""

    def check(self, descriptor, file=None):
        """Asks a console whose stdout is that descriptor, which is closed afterwards."""
        with open(descriptor, "w") as stream:
            console = twosignal.Console((None, stream, None))
            console.file = file
            console.require_reader()

    @posix
    def test_pipes_and_sockets(self):
        for make in (os.pipe, lambda: [each.detach() for each in socket.socketpair()]):
            reader, writer = make()
            self.check(os.dup(writer))
            os.close(reader)
            with tempfile.TemporaryDirectory() as folder:
                with twosignal.AtomicFile(os.path.join(folder, "saved")) as saved:
                    self.check(os.dup(writer), file=saved)
            with twosignal.OutputTarget("/dev/fd/%d" % writer, "") as device:
                with self.assertRaises(BrokenPipeError):
                    self.check(os.open(os.devnull, os.O_WRONLY), file=device)
            with self.assertRaises(BrokenPipeError):
                self.check(writer)

    @posix
    def test_what_has_no_reader(self):
        master, terminal = os.openpty()
        self.check(terminal)
        os.close(master)
        with tempfile.TemporaryFile() as file:
            self.check(os.dup(file.fileno()))
        self.check(os.open(os.devnull, os.O_WRONLY))

    def test_what_is_no_file(self):
        for stream in (None, io.StringIO(), io.TextIOWrapper(io.BytesIO())):
            with self.subTest(stream=stream):
                twosignal.Console((None, stream, None)).require_reader()

    def test_systems_without_poll(self):
        reader, writer = os.pipe()
        os.close(reader)
        with mock.patch.dict(sys.modules, select=types.ModuleType("select")):
            self.check(writer)
