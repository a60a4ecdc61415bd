"""The section Entry: ways to start, signals, odd interpreters."""
import contextlib
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import unittest
import warnings
from unittest import mock

import twosignal
from servers import Scripted, certificates, hang_up
from tools import (DEADLINE, ERROR_LINE, PROGRAM, ROOT, SCRIPT, Case, ProcessCase, ServerCase,
                   ShortClock, as_text, executable, file_bytes, full, full_once, heed_interrupts,
                   listing, pty_run, replaced_environment, requests_of, run_command, write_script)


class WaysToStart(ServerCase):
    shared = True

    def setUp(self):
        super().setUp()
        self.log_in()
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project)

    def start(self, command, **kwargs):
        return run_command(command, self.environment, **kwargs)

    def assertLists(self, result):
        self.assertEqual(len(self.assertOk(result, err="").json), 5, result)

    def test_script(self):
        self.assertLists(self.start([sys.executable, SCRIPT, "traces", "list", "--json"]))

    @unittest.skipIf(os.name == "nt", "there are no executables without an ending")
    def test_copied_executable(self):
        path = os.path.join(self.folder, "bin")
        os.mkdir(path)
        shutil.copy(SCRIPT, os.path.join(path, "twosignal"))
        os.chmod(os.path.join(path, "twosignal"), 0o755)
        write_script(os.path.join(path, "python3"), [sys.executable])
        self.environment["PATH"] = path + os.pathsep + os.environ["PATH"]
        result = self.start([os.path.join(path, "twosignal"), "traces", "list", "--json"],
                            cwd=self.folder)
        self.assertLists(result)
        self.assertEqual(sorted(os.listdir(path)), ["python3", "twosignal"])

    def test_module(self):
        self.assertLists(self.start([sys.executable, "-B", "-m", "twosignal", "traces", "list",
                                     "--json"], cwd=ROOT))

    def test_piped(self):
        with open(SCRIPT, "rb") as file:
            source = file.read()
        for env in full([{"LC_ALL": "C"}], [{}, {"LC_ALL": "C"}]):
            self.environment.update(env)
            self.assertLists(self.start([sys.executable, "-", "traces", "list", "--json"],
                                        stdin=source.decode("utf-8")))
        result = self.start([sys.executable, "-", "login", "-e", "a@b.c"],
                            stdin=source.decode("utf-8"))
        self.assertFails(result, 2, "--password-stdin")

    def test_main_returns_its_exit_code(self):
        """main(argv, console) never raises; without them it takes the process's own."""
        code = "import twosignal; print(twosignal.main(), twosignal.main(['nope']))"
        result = self.start([sys.executable, "-B", "-c", code, "--version"], cwd=ROOT)
        self.assertEqual((result.code, result.out), (0, twosignal.VERSION_LINE + "0 2\n"))
        self.assertIn("There is no command 'nope'", result.err)
        self.assertEqual(self.run_cli("nope").code, 2)
        self.assertEqual(self.run_cli("traces", "get", "nope").code, 6)


class Strike:
    """Sends this process a signal when a command first reaches a line.

    place: (function, line); None only notes the places, in `places`. Counts while the command is
    ready for signals: before it has read its arguments, and after its end, one just ends it.
    """

    def __init__(self, number, place):
        self.number, self.place, self.places, self.struck = number, place, [], False

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename != twosignal.__file__:
            return None
        is_ready = signal.getsignal(signal.SIGTERM) is twosignal.raise_terminated
        if is_ready and event == "line":
            self.reach((frame.f_code.co_name, frame.f_lineno))
        return self.trace

    def reach(self, place):
        if self.place is None:
            self.places += [] if place in self.places else [place]
        elif place == self.place and not self.struck:
            self.struck = True
            os.kill(os.getpid(), self.number)


class StrikingClock(ShortClock):
    """Sends this process a signal in place of each pause."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def sleep(self, seconds):
        os.kill(os.getpid(), self.number)


@unittest.skipIf(os.name == "nt", "Windows has other signals")
class Interrupts(ProcessCase):
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
            self.locks += [handle] if str(path) in (self.home, self.home + "/session.lock") else []
            return handle
        return noted

    def end_process(self):
        """Closes what a run left open, as the system does when a process ends."""
        gc.collect()
        for handle in self.locks:
            try:
                if any(os.path.samestat(os.fstat(handle), os.stat(path))
                       for path in (self.home, self.home + "/session.lock")):
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
        # A sample, another in each run and on each Python.
        for number, place in dice.sample(strikes, full_once(full(30, 200), 400)):
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
        """Row 40: while a file is written, while waiting for the lock or for a retry."""
        def strike(number, real):
            def struck(*args, **kwargs):
                os.kill(os.getpid(), number)
                return real(*args, **kwargs)
            return struck

        points = {"the write": ("os.fsync", os.fsync),
                  "the replacement": ("os.replace", os.replace)}
        for number, code in self.CODES.items():
            for name, (target, real) in points.items():
                with self.subTest(number=number, at=name):
                    self.write("home/session.json", dict(self.log_in(), expires_at=0))
                    with mock.patch(target, strike(number, real)):
                        result = self.cli("orgs", "list")
                    self.assertFails_quietly(result, code)
                    self.assertOk(self.cli("orgs", "list"))
            with self.subTest(number=number, at="the lock"):
                self.write("home/session.json", dict(self.log_in(), expires_at=0))
                with contextlib.ExitStack() as held:
                    with replaced_environment(self.environment):
                        held.enter_context(twosignal.Spending(time.monotonic() + DEADLINE))
                    result = self.cli("orgs", "list", clock=StrikingClock(number))
                self.assertFails_quietly(result, code)
                self.assertOk(self.cli("orgs", "list"))
            with self.subTest(number=number, at="the pause before a retry"):
                self.log_in()
                self.server.fault("organization.list", status=503, body="")
                result = self.cli("orgs", "list", clock=StrikingClock(number))
                self.assertFails_quietly(result, code)

    def assertFails_quietly(self, result, code):
        self.assertEqual((result.code, result.out), (code, ""), result)
        self.assertEqual(result.err.strip(), "", result)
        self.assertNothingLeft()

    def test_processes(self):
        """Row 40: Ctrl-C and SIGTERM while waiting for a response, as processes."""
        for number in self.CODES:
            for path, args, part in (
                    ("trace.list", ["traces", "list"], ""),
                    ("dataset.create", ["datasets", "create", "-n", "x"], "check with ")):
                with self.subTest(number=number, path=path):
                    code, text = self.signalled(number, path, args)
                    self.assertEqual((code, bool(text)), (-number, bool(part)))
                    self.assertIn(part, text)
                    self.assertNothingLeft()

    def test_at_prompts(self):
        """Row 40: Ctrl-C at a prompt: 130, nothing done, and the terminal shows what is typed."""
        evaluator = self.server.add_evaluator(name="Kept")
        prompts = [(["login", "-e", "a@b.c"], "Password for a@b.c"),
                   (["evaluators", "delete", evaluator], "[y/N] "), (["login"], "Email: "),
                   (["datasets", "add-item", "x", "--input", "-"], "Ctrl-D")]
        for args, prompt in prompts[:full(2, 4)]:
            with self.subTest(args=args):
                output, _ = pty_run(
                    ["/bin/sh", "-c", 'trap : INT; "$@"; echo "code $?"; stty -a', "sh",
                     sys.executable, PROGRAM] + args, [(prompt, "\x03")], self.environment)
                self.assertIn("code 130", output)
                self.assertNotIn("Traceback", output)
                self.assertRegex(output, r"[^-]echo\b")
        self.assertEqual(requests_of(self.server, "auth/login"), [])
        self.assertEqual(requests_of(self.server, "evaluator.delete"), [])
        self.assertNothingLeft()


# A module that the program imports: Ctrl-C arrives while it does, and the import goes on.
INTERRUPTED = b"import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True:\n    pass\n"
CONSOLE_SCRIPT = b"import sys\nfrom twosignal import main\nsys.exit(main())\n"     # pip writes it


@unittest.skipIf(os.name == "nt", "Windows has other signals")
class DeathBySignal(ProcessCase):
    """Only a command that died of SIGINT ends the script or loop that a shell runs."""

    def test_ctrl_c_ends_a_loop(self):
        """Row 49: in bash, on a terminal; and a command that follows does not run."""
        bash = shutil.which("bash")
        if not bash:
            self.skipTest("needs bash")
        for script in ('for i in 1 2 3; do "$@"; done; echo after', '"$@"; echo after'):
            with self.subTest(script=script):
                self.server.clear()
                fault = self.server.fault("trace.list", times=None, delay=True)
                self.addCleanup(fault.release.set)
                # The project is looked up by its name first, which --debug shows. (Just before the
                # second line, a module is imported, and Python may lose a signal meanwhile.)
                output, code = pty_run(
                    [bash, "-c", script, "bash", sys.executable, PROGRAM, "traces", "list",
                     "--project", "Support Agent", "--debug"],
                    [("debug: curl ", "\x03")], self.environment)
                self.assertEqual(code, -signal.SIGINT, output)
                self.assertNotIn("after", output)
                self.assertNotIn("Traceback", output)
                self.assertLessEqual(self.server.count("trace.list"), 1)

    def test_each_signal_after_cleaning_up(self):
        """Row 49: WIFSIGNALED; no temporary file is left, and a JUnit report says what happened."""
        output, report = self.path("out.json"), self.path("report.xml")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number=number):
                found = self.signalled(number, "trace.list", [
                    "traces", "check", "--max-cost", "1", "-o", output, "--junit", report])
                self.assertEqual(found, (-number, ""))
                self.assertIn(b"<error ", file_bytes(report))
                os.remove(report)
                self.assertEqual([name for name in os.listdir(self.folder) if name != "home"], [])
                self.assertNothingLeft()

    def test_tail(self):
        """Row 49: Ctrl-C is how it ends, with 0; it dies of the others. What arrived is kept."""
        for number, code in ((signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM),
                             (signal.SIGHUP, -signal.SIGHUP)):
            with self.subTest(number=number):
                self.server.clear()
                path = self.path("out.jsonl")
                found = self.signalled_at(2, number, [
                    "traces", "tail", "--interval", "50ms", "-o", path])
                self.assertEqual(found, (code, ""))
                self.assertEqual(len(file_bytes(path).splitlines()), 5)
                os.remove(path)

    def signalled_at(self, count, number, args):
        """(exit code, stderr) of a process that gets a signal at its n-th request for traces."""
        for _ in range(count - 1):
            self.server.fault("trace.list", times=1)
        return self.signalled(number, "trace.list", args)

    @unittest.skipIf(sys.implementation.name == "pypy", "PyPy forgets that they were ignored")
    def test_ignored_signals_stay_ignored(self):
        """Row 49: as under nohup, or in the background of a script."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

        def ignore():
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
        fault = self.server.fault("trace.list", delay=True)
        process = subprocess.Popen([sys.executable, PROGRAM, "traces", "list", "--json"],
                                   env=self.environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, preexec_fn=ignore)
        with process:
            self.addCleanup(process.kill)
            self.assertTrue(fault.begun.wait(DEADLINE))
            for number in numbers:
                process.send_signal(number)
            fault.release.set()
            out, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, err), (0, b""))
        self.assertIn(b'"id"', out)

    def test_ctrl_c_while_it_is_loaded(self):
        """Row 49: no traceback from the first line on, however it is started."""
        os.mkdir(self.path("lib"))
        self.write("lib/json.py", INTERRUPTED)
        self.write("twosignal", CONSOLE_SCRIPT)
        self.environment.update(PYTHONPATH=self.path("lib"), PYTHONDONTWRITEBYTECODE="1")
        source = file_bytes(SCRIPT)
        for command, stdin in (([SCRIPT], None), (["-"], source), (["-m", "twosignal"], None)):
            with self.subTest(command=command):
                self.assertInterruptedSilently([sys.executable] + command, stdin)
        self.environment["PYTHONPATH"] += os.pathsep + ROOT
        self.assertInterruptedSilently([sys.executable, self.path("twosignal")])

    def test_ctrl_c_while_an_executable_is_loaded(self):
        """Row 49: before the first line of the module, too."""
        import zipfile
        with zipfile.ZipFile(self.path("executable"), "w") as archive:
            archive.writestr("__main__.py", twosignal.EXECUTABLE_MAIN)
            archive.writestr("twosignal.py", INTERRUPTED)
        self.assertInterruptedSilently([sys.executable, self.path("executable")])

    def assertInterruptedSilently(self, command, stdin=None):
        process = subprocess.Popen(command + ["--version"], env=self.environment, cwd=ROOT,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
        with process:
            self.addCleanup(process.kill)
            out, err = process.communicate(stdin, timeout=DEADLINE)
        self.assertEqual((process.returncode, out, as_text(err)), (-signal.SIGINT, b"", ""))

    def test_a_call_of_main_survives(self):
        """Row 49: a program that passes arguments or a console gets the exit code."""
        code = ("import twosignal\n"
                "twosignal.run = lambda *_: twosignal.raise_terminated(15, None)\n"
                "console = twosignal.Console()\n"
                "print(twosignal.main(['x']), twosignal.main(console=console), flush=True)\n"
                "twosignal.main()\n"
                "print('survived')\n")
        result = run_command([sys.executable, "-B", "-c", code], self.environment, cwd=ROOT)
        self.assertEqual((result.code, result.out), (-signal.SIGTERM, "143 143\n"), result)

    def test_windows(self):
        """Row 49: no process dies of a signal there: its exit code is 130."""
        with mock.patch("twosignal.run", side_effect=KeyboardInterrupt), \
                mock.patch("os.kill") as kill, mock.patch("os.name", "nt"):
            self.assertEqual(twosignal.main(), 130)
        self.assertEqual(kill.mock_calls, [])


@unittest.skipIf(os.name == "nt", "needs a POSIX shell")
class ClosedStdout(ProcessCase):
    """What a change returns, such as a key that is shown only once, has to be seen."""

    CHANGES = (["api-keys", "create", "-n", "x", "--json"], ["datasets", "create", "-n", "x"],
               ["api", "dataset.create", "--mutation", "--input", "{}"])

    def test_changes(self):
        """Exit 1 before the change is made."""
        for args in self.CHANGES:
            for redirections in (">&-", "<&- >&-", ">&- 2>&-"):
                with self.subTest(args=args, redirections=redirections):
                    result = self.in_shell(redirections, *args)
                    self.assertEqual(result.code, 1, result)
                    if "2>" not in redirections:
                        self.assertFails(result, 1, "stdout is closed", "-o FILE")
        self.assertEqual(requests_of(self.server, "create"), [])

    def test_a_file_is_enough(self):
        """Nor does it matter that stderr is closed."""
        for redirections, path in ((">&-", self.path("key.json")), ("2>&-", "-")):
            result = self.in_shell(redirections, "api-keys", "create", "-n", "x", "--json",
                                   "-o", path)
            self.assertEqual((result.code, result.err), (0, ""))
            shown = result.out if path == "-" else as_text(file_bytes(path))
            self.assertIn('"key": "', shown)


def standard_modules():
    """The names of what `import` finds in the directories of the standard library."""
    folders = {os.path.dirname(os.__file__), os.path.dirname(os.__file__) + "/lib-dynload"}
    entries = [entry for folder in folders if os.path.isdir(folder)
               for entry in os.listdir(folder)]
    names = {entry.partition(".")[0] for entry in entries}
    return sorted(name for name in names - {"__pycache__"} if name.isidentifier())


class PlantedModules(ServerCase):
    """Files called like modules of the standard library, in the two places where Python looks."""

    shared = True
    PLANTED = b"import os, sys\nos.write(2, ('planted: %s\\n' % __name__).encode())\n"
    COMMANDS = (["traces", "list", "--json"], ["traces", "list", "--format", "csv"],
                ["orgs", "list", "--url", "https://127.0.0.1:9"], ["orgs", "lst"], ["--help"],
                ["login", "-e", "a@b.c", "-p", "wrong"])

    def setUp(self):
        super().setUp()
        self.log_in()
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project, PYTHONDONTWRITEBYTECODE="1")
        for place in ("beside", "here"):
            os.mkdir(self.path(place))
            for name in standard_modules():
                self.write(place + "/" + name + ".py", self.PLANTED)

    def assertNoneRuns(self, command, stdin=None, commands=COMMANDS[:3], here="here"):
        for args in commands:
            with self.subTest(command=command, args=args):
                result = run_command(command + args, self.environment, stdin, cwd=self.path(here))
                self.assertNotIn("planted: ", result.err)
                self.assertNotIn("Traceback", result.err)
                if args is self.COMMANDS[0]:
                    self.assertEqual(len(self.assertOk(result).json), 5)

    def copy(self, name):
        shutil.copy(SCRIPT, self.path(name))
        os.chmod(self.path(name), 0o755)
        return self.path(name)

    def test_scripts(self):
        """Row 52: as a script, under any name, by a link, by a relative path: none is run."""
        script, program = self.copy("beside/twosignal.py"), self.copy("beside/ts")
        self.assertNoneRuns([sys.executable, script], commands=self.COMMANDS)
        self.assertNoneRuns([sys.executable, program])
        self.assertNoneRuns([sys.executable, "-S", script])
        self.assertNoneRuns([sys.executable, "twosignal.py"], here="beside")
        if os.name != "nt":
            self.environment["PATH"] = executable(self.path("path"))
            self.assertNoneRuns([program])
            os.symlink(script, self.path("here", "link"))
            self.assertNoneRuns([sys.executable, "link"])

    def test_not_for_importers(self):
        """A program that imports the module keeps its directory and its signal handlers."""
        self.copy("beside/twosignal.py")
        self.write("beside/helper.py", b"ANSWER = 42\n")
        self.write("beside/report-twosignal", b"import signal\n"
                   b"import twosignal, helper\n"
                   b"print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n")
        for name in standard_modules():
            os.unlink(self.path("beside", name + ".py"))
        result = run_command([sys.executable, self.path("beside/report-twosignal")],
                             self.environment)
        self.assertOk(result)
        self.assertEqual(result.out, "True\n")

    def test_piped(self):
        """Row 52: from stdin."""
        source = file_bytes(SCRIPT)
        self.assertNoneRuns([sys.executable, "-"], source)
        if os.path.exists("/dev/stdin"):
            self.assertNoneRuns([sys.executable, "/dev/stdin"], source)

    def test_module(self):
        """Row 52: python3 -m twosignal, except for what Python imports before it begins."""
        self.write("probe.py", b"import sys\nprint(*sys.modules)\n")
        before = run_command([sys.executable, "-m", "probe"], self.environment, cwd=self.folder)
        for name in set(before.out.split()) & set(standard_modules()):
            os.remove(self.path("here", name + ".py"))
        self.copy("here/twosignal.py")
        self.assertNoneRuns([sys.executable, "-m", "twosignal"])
        self.environment["PYTHONPATH"] = ROOT
        os.remove(self.path("here/twosignal.py"))
        self.assertNoneRuns([sys.executable, "-m", "twosignal"])

    def test_console_script(self):
        """Row 52: beside the script that pip writes."""
        self.environment["PYTHONPATH"] = ROOT
        self.assertNoneRuns([sys.executable, self.write("beside/twosignal", CONSOLE_SCRIPT)])

    def test_executable(self):
        """Row 52: beside an installed executable."""
        path = self.write("beside/twosignal", twosignal.executable_content())
        self.assertNoneRuns([sys.executable, path])

    def test_nothing_else_leaves_the_path(self):
        """Row 52: PYTHONPATH stays, and so does the path of a Python that adds no directory."""
        code = file_bytes(SCRIPT) + b"\n"
        code = code.replace(b'\nif __name__ == "__main__":\n    sys.exit(main())\n',
                            b'\nprint(sys.path)\n')
        script = self.write("beside/twosignal.py", code)
        self.environment["PYTHONPATH"] = self.path("lib")
        flags = [[], ["-I"], ["-S"], ["-I", "-S"]] + [["-P"]] * (sys.version_info >= (3, 11))
        for each in flags:
            with self.subTest(flags=each):
                expected = run_command([sys.executable] + each + [
                    "-c", "import sys; print(sys.path[sys.path[0] == '':])"], self.environment)
                result = run_command([sys.executable] + each + [script], self.environment)
                self.assertEqual(result.out, expected.out, result)

    def test_an_import_changes_nothing(self):
        """Row 52: nor does it touch the handler of Ctrl-C."""
        code = ("import signal, sys; %sbefore = sys.path[:], signal.getsignal(signal.SIGINT); "
                "import twosignal; print(before == (sys.path, signal.getsignal(signal.SIGINT)))")
        for setup in ("", "sys.argv = []; "):       # as some programs that embed Python have it
            result = run_command([sys.executable, "-B", "-c", code % setup], self.environment,
                                 cwd=ROOT)
            self.assertEqual((result.out, result.err), ("True\n", ""))


WITHOUT_SSL = ("import runpy, sys; sys.modules.update(ssl=None, _ssl=None); "
               "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')")


class Interpreters(ProcessCase):
    def flags(self):
        always = [["-I"], ["-S"], ["-W", "error"], ["-bb"], ["-OO"]]
        more = [["-E", "-s"], ["-B"], ["-u"], ["-q"], ["-I", "-S", "-W", "error", "-bb", "-OO"]]
        if sys.version_info >= (3, 7):
            more.append(["-X", "dev", "-W", "error"])
        if sys.version_info >= (3, 10):
            always.append(["-W", "error", "-X", "warn_default_encoding"])
        return full([["-I", "-S"], ["-W", "error", "-bb"], ["-OO"]], always + more)

    def test_flags(self):
        """Row 41: -I, -S, -W error, -bb, -OO: it works, and prints nothing else."""
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
        """Row 41: -OO removes docstrings; help is still printed."""
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
            self.assertFails(result, 3, "SSL_CERT_FILE", "no CA certificates were found")
        self.assertEqual(server.requests, [])


class NothingLeftBehind(Case):
    def test_starting_leaves_nothing_behind(self):
        """Row 37: help, version and usage errors write nothing anywhere."""
        for args in ([], ["--help"], ["--version"], ["nope"], ["traces", "list"],
                     ["orgs", "list"], ["whoami"], ["logout"]):
            self.run_cli(*args)
        self.assertEqual(listing(self.folder), ["home"])
