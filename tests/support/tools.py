"""What the tests share: running the command, in-process or as a process, and asserting on it."""
import contextlib
import datetime
import http.client
import importlib.util
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import zlib
from urllib.parse import parse_qs, unquote, urlsplit

SUPPORT = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(SUPPORT)
ROOT = os.path.dirname(TESTS)
SCRIPT = os.path.join(ROOT, "twosignal.py")
for _folder in (ROOT, TESTS, SUPPORT):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

import standin  # noqa: E402
import twosignal  # noqa: E402

# The bytecode that this import wrote: a process that begins with it does not compile the script.
# For tests that are not about how the script is started, and for this Python only.
PROGRAM = importlib.util.cache_from_source(SCRIPT)
# With PYTHONDONTWRITEBYTECODE, or in a read-only directory, there is none, or an old one.
if not os.path.exists(PROGRAM) or os.path.getmtime(PROGRAM) < os.path.getmtime(SCRIPT):
    PROGRAM = SCRIPT
FULL = os.environ.get("TWOSIGNAL_TEST_FULL", "") in ("1", "python")
ONCE = os.environ.get("TWOSIGNAL_TEST_FULL") == "1"
PART = os.environ.get("TWOSIGNAL_TEST_FULL") == "part"
PYPY = sys.implementation.name == "pypy"
DEADLINE = 60  # seconds; generous, since it only ends a test that would otherwise hang
KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "SYSTEMROOT", "PATHEXT", "COMSPEC", "TEMP", "TMP",
        "TMPDIR", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")
# Makes the terminal on stdin the controlling one, so that /dev/tty is that terminal too.
IN_TERMINAL = ("import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
               "os.execv(sys.argv[1], sys.argv[1:])")
DIALECTS = tuple(standin.DIALECTS.items())
OLD, NEW = standin.DIALECTS["old"], standin.DIALECTS["new"]
OWNER = "owner@example.com"
PASSWORD = "owner-pass"
# What each procedure is called in the newest servers.
PROCEDURES = {
    "orgs list": "organization.list", "orgs create": "organization.create",
    "orgs get": "organization.getById", "orgs rename": "organization.update",
    "orgs list-members": "organization.getById", "orgs add-member": "organization.addMember",
    "orgs remove-member": "organization.removeMember",
    "projects list": "project.list", "projects create": "project.create",
    "projects get": "project.list", "projects update": "project.update",
    "projects delete": "project.delete",
    "traces list": "trace.list", "traces get": "trace.getById",
    "evaluators list": "evaluator.list", "evaluators create": "evaluator.create",
    "evaluators toggle": "evaluator.update", "evaluators delete": "evaluator.delete",
    "evaluators get": "evaluator.list", "evaluators update": "evaluator.update",
    "datasets list": "dataset.list", "datasets create": "dataset.create",
    "datasets get": "dataset.getById", "datasets add-item": "dataset.addItem",
    "datasets update": "dataset.update", "datasets add-trace": "dataset.addItem",
    "datasets update-item": "dataset.addItem", "datasets remove-item": "dataset.removeItem",
    "datasets delete": "dataset.delete", "api-keys list": "apiKey.list",
    "api-keys create": "apiKey.create", "api-keys rotate": "apiKey.rotate",
    "api-keys revoke": "apiKey.revoke",
    "routing list": "modelRouting.list", "routing get": "modelRouting.list",
    "routing create": "modelRouting.create", "routing update": "modelRouting.update",
    "routing delete": "modelRouting.delete",
    "usage": "usage.getCurrentMonth",
}
LISTS = {"orgs list": "organizations", "orgs list-members": "members",
         "projects list": "projects", "traces list": "traces",
         "evaluators list": "evaluators", "datasets list": "datasets", "api-keys list": "API keys",
         "routing list": "routing configs"}
NEED_KEYS = ("scores create", "traces send", "routing test", "prompts list", "prompts get",
             "prompts push")
SESSION = {"access_token": "access.token.one", "refresh_token": "refresh-one",
           "expires_at": 1893456000, "user_id": "user-1", "user_email": "owner@example.com",
           "project_ref": "abcdefghijklmnop"}
EXAMPLE_URL = "https://example.com"
TOKENS = {"access_token": "a.b.c", "refresh_token": "v1.r",
          "expires_at": int(time.time()) + 10 ** 6, "user_id": "u0",
          "user_email": "you@example.com", "project_ref": "ref", "api_url": EXAMPLE_URL}
FULL_DISK = "/dev/full"
ERROR_LINE = re.compile(r"Error: [^\n]+\n\Z")
# Redirections of a shell, as $1; the rest of its arguments is the command.
IN_SHELL = 'redirections=$1; shift; eval "exec \\"\\$@\\" $redirections"'
# A small process in between: the memory of the tests would count for their child.
MEASURED = ("import os, sys; child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]); "
            "_, status, used = os.wait4(child, 0); print(status, "
            "used.ru_maxrss / (1 << 20 if sys.platform == 'darwin' else 1 << 10), file=sys.stderr)")
posix = unittest.skipIf(os.name == "nt", "this system has no such thing")


def written(text, encoding):
    """What a stream of an encoding shows of a text that is written to it."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    twosignal.write_to(stream, text)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def full(short, long):
    """The amount of work of a test: `long` with TWOSIGNAL_TEST_FULL=1, `short` otherwise."""
    return long if FULL else short


def full_or_one(cases, place=0):
    """All cases with TWOSIGNAL_TEST_FULL=1, otherwise one of them: another on the next Python."""
    return cases if FULL else [cases[(place + sys.version_info[1]) % len(cases)]]


def full_once(short, long):
    """As full(), for what is the same in all versions of Python: `.ci/run` does it on one."""
    return long if ONCE else short


def costly(test):
    """Decorates a test, or class, that takes long and depends little on the version of Python.

    `.ci/run` does it on the oldest and the newest, and on every third of those between (and PyPy):
    on others for another test. Without `.ci/run`, each Python does it.
    """
    place = zlib.crc32(test.__name__.encode("ascii")) + sys.version_info[1]
    return unittest.skipIf(PART and place % 3, "every third Python does it")(test)


class Result:
    """What a run left behind: exit code, standard output and standard error."""

    def __init__(self, code, out, err):
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self):
        return f"exit code {self.code!r}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def lines(self):
        return self.out.splitlines()

    @property
    def json(self):
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self):
        """The error object of the JSON document that ends stderr, None where there is none."""
        found = re.search(r"^\{\s*\"error\".*", self.err, re.DOTALL | re.MULTILINE)
        return json.loads(found.group())["error"] if found else None


class Raw(io.BytesIO):
    """Bytes behind a standard stream; they stay readable when the stream has been closed."""

    def __init__(self, initial=b"", tty=False):
        super().__init__(initial)
        self._tty = tty
        self.kept = None

    def isatty(self):
        return self._tty

    def close(self):
        if not self.closed:
            self.kept = self.getvalue()
        super().close()

    def written(self):
        return self.kept if self.closed else self.getvalue()


def as_bytes(text, encoding="utf-8"):
    return text.encode(encoding, "surrogateescape") if isinstance(text, str) else text or b""


def as_text(data, encoding="utf-8"):
    return data.decode(encoding, "replace").replace("\r\n", "\n")


def merged(environment, changes):
    """The environment with changes; a change to None removes the variable."""
    result = dict(environment, **(changes or {}))
    return {name: value for name, value in result.items() if value is not None}


@contextlib.contextmanager
def replaced_environment(environment):
    """os.environ is exactly `environment` within the block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def kept_signals():
    """Signal handlers that a run installs are gone after the block."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGPIPE", "SIGHUP") if hasattr(signal, name)]
    handlers = [(getattr(signal, name), signal.getsignal(getattr(signal, name)))
                for name in names]
    try:
        yield
    finally:
        for number, handler in handlers:
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)


def heed_interrupts():
    """Ctrl-C has its effect, also if the tests were started in the background of a script.

    A shell has such a process ignore SIGINT, and its children inherit that. To be called in a
    child (preexec_fn), or in this process within kept_signals().
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ShortClock:
    """A clock whose pauses take a millisecond at most; naps lists how long they should have been.
    """

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def __init__(self, naps=None):
        self.naps = [] if naps is None else naps

    def sleep(self, seconds):
        self.naps.append(seconds)
        time.sleep(min(seconds, 0.001))


class PassingClock(ShortClock):
    """A short clock on which each pause has taken as long as it should have."""

    def monotonic(self):
        return super().monotonic() + sum(self.naps)


class WrongClock(ShortClock):
    """A short clock that is so many seconds ahead, and jumps each time that it is read."""

    def __init__(self, ahead, jump=0, naps=None):
        super().__init__(naps)
        self.ahead, self.jump = ahead, jump

    def time(self):
        now = time.time() + self.ahead
        self.ahead += self.jump
        return now


class EventfulClock(ShortClock):
    """A short clock on which something happens at the beginning of the first pause."""

    def __init__(self, action, naps=None):
        super().__init__(naps)
        self.action = action

    def sleep(self, seconds):
        if not self.naps:
            self.action()
        super().sleep(seconds)


class TestConsole(twosignal.Console):
    """A console over streams of a test, which nobody types a password into."""

    def read_answer(self, question, is_secret=False):
        if is_secret:
            raise AssertionError("a password was asked for within an in-process run")
        return super().read_answer(question)


def run_main(argv, environment, stdin=None, tty=False, encoding="utf-8", naps=None, clock=None):
    """Run main(argv) in this process; its pauses are cut short unless naps is False.

    clock: one to hand in, in place of that.
    """
    raws = [Raw(as_bytes(stdin, encoding), tty), Raw(tty=tty), Raw(tty=tty)]
    streams = [io.TextIOWrapper(raws[0], encoding, "surrogateescape"),
               io.TextIOWrapper(raws[1], encoding, "strict", "\n"),
               io.TextIOWrapper(raws[2], encoding, "backslashreplace", "\n", line_buffering=True)]
    if clock is None:
        clock = time if naps is False else ShortClock(naps)
    with replaced_environment(environment), kept_signals():
        code = twosignal.main([str(arg) for arg in argv], TestConsole(streams, clock))
        for stream in streams[1:]:
            if not stream.closed:
                stream.flush()
    out, err = (as_text(raw.written(), encoding) for raw in raws[1:])
    for stream in streams:
        stream.close()
    return Result(code, out, err)


def measured_command(*arguments) -> list:
    """A command line of Python that says its exit status and its peak memory in MB on stderr."""
    return [sys.executable, "-I", "-S", "-c", MEASURED, sys.executable] + list(arguments)


def run_command(command, environment, stdin=None, timeout=120, cwd=None):
    """Run a real process to its end; one that outlives the timeout is killed and fails."""
    process = subprocess.Popen(command, env=environment, cwd=cwd, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        try:
            out, err = process.communicate(as_bytes(stdin), timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return Result(process.returncode, as_text(out), as_text(err))


def write_script(path, command):
    """Make an executable sh script that becomes `command` with the arguments it is given."""
    with open(path, "w", newline="\n") as file:
        file.write("#!/bin/sh\nexec {} \"$@\"\n".format(" ".join(map(shlex.quote, command))))
    os.chmod(path, 0o755)
    return path


def executable(directory, python=sys.executable):
    """Make `twosignal` and `python`, which runs it, in a directory; return a PATH that finds them.

    `python3` is there too, so that scripts meet the interpreter that the tests run on.
    """
    os.makedirs(directory, exist_ok=True)
    write_script(os.path.join(directory, "twosignal"),
                 [python, PROGRAM if python == sys.executable else SCRIPT])
    for name in ("python", "python3"):
        write_script(os.path.join(directory, name), [python])
    return directory + os.pathsep + os.environ.get("PATH", os.defpath)


def pty_run(argv, script=(), env=None, columns=80, timeout=DEADLINE):
    """Run a real process in a terminal of its own; return (output, exit code).

    `script` is a list of (expected, answer): when `expected` has appeared, after the place where
    the one before it was found, `answer` is typed. AssertionError if it does not appear.
    """
    import fcntl
    import pty
    import struct
    import termios
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", IN_TERMINAL] + list(argv),
                                   stdin=slave, stdout=slave, stderr=slave, env=env,
                                   start_new_session=True)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    with process:
        try:
            output = _converse(master, list(script), time.time() + timeout)
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(master)
    return output, code


def _converse(master, script, deadline):
    """Read a terminal until its process has closed it, typing the answers of the script."""
    data, place, answer = b"", 0, None
    while True:
        if script:
            found = data.find(as_bytes(script[0][0]), place)
            if found >= 0:
                expected, answer = script.pop(0)
                place = found + len(as_bytes(expected))
                os.write(master, as_bytes(answer))
                continue
        left = max(0, deadline - time.time())
        if not select.select([master], [], [], min(left, 1) if answer == "\x03" else left)[0]:
            # Python loses a signal that arrives just before it reads, so Ctrl-C is typed again.
            if answer == "\x03" and left:
                os.write(master, b"\x03")
                continue
            raise AssertionError(f"no end in time; still to come {script!r}; saw {data!r}")
        try:
            more = os.read(master, 65536)
        except OSError:  # Linux says so when the last process has left the terminal
            more = b""
        if not more:
            break
        data += more
    if script:
        raise AssertionError(f"never appeared: {script[0][0]!r}; saw {data!r}")
    return as_text(data)


class Case(unittest.TestCase):
    """A test with a home of its own and an environment without any setting of the machine.

    `self.folder` is the temporary directory (and HOME), `self.home` the TWOSIGNAL_HOME in it.
    `self.environment` is what each run starts from; `self.naps` notes the waits of the last run.
    """

    maxDiff = None

    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="twosignal-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.home = os.path.join(self.folder, "home")
        os.mkdir(self.home, 0o700)
        self.naps = []
        self.environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        self.environment.update(HOME=self.folder, USERPROFILE=self.folder,
                                TWOSIGNAL_HOME=self.home, PYTHONIOENCODING="utf-8",
                                NO_PROXY="127.0.0.1,localhost")

    def enter(self, manager):
        """Enter a context manager, which is left at the end of the test; return what it gives."""
        value = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return value

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, name, content):
        """Write a file (JSON unless str or bytes) into the temporary directory; return its path."""
        if not isinstance(content, (str, bytes)):
            content = json.dumps(content)
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(as_bytes(content))
        return path

    def state(self, name):
        """The content of session.json or config.json, None where there is no such file."""
        path = os.path.join(self.home, name)
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    def run_cli(self, *args, stdin=None, env=None, tty=False, columns=None, encoding="utf-8",
                naps=None, clock=None):
        """Run the command in this process; `naps=False` lets it really wait between its tries."""
        environment = merged(self.environment, env)
        if columns is not None:
            environment["COLUMNS"] = str(columns)
        del self.naps[:]
        return run_main(args, environment, stdin, tty, encoding,
                        self.naps if naps is None else naps, clock)

    def run_process(self, *args, stdin=None, env=None, python=sys.executable, flags=(),
                    timeout=120, cwd=None):
        """Run `python [flags] twosignal.py args` as a process of its own."""
        program = SCRIPT if flags or python != sys.executable else PROGRAM
        command = [python] + list(flags) + [program] + [str(arg) for arg in args]
        return run_command(command, merged(self.environment, env), stdin, timeout, cwd)

    def run_terminal(self, *args, script=(), env=None, columns=80):
        """Run the command in a terminal that types the answers; return (output, exit code)."""
        if os.name == "nt":
            self.skipTest("no pseudo-terminals on Windows")
        return pty_run([sys.executable, PROGRAM] + [str(arg) for arg in args], script,
                       merged(self.environment, env), columns)

    def assertOk(self, result, err=None):
        """It worked: exit code 0, no error on stderr (exactly `err` there, if given)."""
        self.assertEqual(result.code, 0, result)
        self.assertNotIn("Traceback", result.err, result)
        self.assertNotIn("Error: ", result.err, result)
        if err is not None:
            self.assertEqual(result.err, err)
        return result

    def assertFails(self, result, code, *parts, out=""):
        """It failed with that exit code, one `Error: …` line (or JSON error) and no traceback.

        out: a part of what was printed all the same; nothing else may be.
        """
        self.assertEqual(result.code, code, result)
        self.assertNotIn("Traceback", result.err + result.out, result)
        self.assertEqual(bool(result.out), bool(out), result)
        self.assertIn(out, result.out, result)
        text = result.err
        if result.error:
            self.assertEqual(result.error["exit_code"], code, result)
            text = "\n".join([result.error["message"], result.error["hint"] or ""]
                             + result.error.get("problems", []))
        else:
            errors = [line for line in text.splitlines() if line.startswith("Error: ")]
            self.assertEqual(len(errors), 1, result)
        for part in parts:
            self.assertIn(part, text, result)
        return result


class ServerCase(Case):
    """A test with a server: one for each test, or with `shared = True` one for the whole class."""

    options = {}
    shared = False
    _shared_server = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.shared:
            cls._shared_server = cls.new_server()

    @classmethod
    def tearDownClass(cls):
        if cls.shared:
            cls._shared_server.stop()
        super().tearDownClass()

    @classmethod
    def new_server(cls, **options):
        server = standin.StandIn(**dict(cls.options, **options))
        server.start()
        return server

    def setUp(self):
        super().setUp()
        if self.shared:
            self.server = self._shared_server
            self.server.clear()
        else:
            self.server = self.serve()

    def serve(self, **options):
        """Start a further server that stops with the test."""
        server = self.new_server(**options)
        self.addCleanup(server.stop)
        return server

    def log_in(self, email="owner@example.com", server=None):
        """Store a fresh session and the address of the server, as a login does."""
        server = server or self.server
        session = dict(server.tokens(email), api_url=server.url)
        account = "{project_ref}/{user_id}".format(**session)
        for name, content in (("session.json", session), ("config.json", {"api_url": server.url}),
                              ("origins.json", {account: server.url})):
            path = self.write(os.path.join("home", name), json.dumps(content, indent=2) + "\n")
            os.chmod(path, 0o600)
        return session

    @contextlib.contextmanager
    def unprivileged(self):
        """Permissions matter within the block, even if the tests run as root."""
        if os.geteuid() != 0:
            yield
            return
        for place in [self.folder, self.home] + [
                os.path.join(self.home, name) for name in os.listdir(self.home)]:
            os.chown(place, 65534, 65534)
        os.seteuid(65534)
        try:
            if not os.path.isdir(self.home):
                self.skipTest("another user cannot get to the temporary directory")
            yield
        finally:
            os.seteuid(0)

    def move_to_closed_port(self):
        """Make the session belong to an address that refuses connections; return it."""
        unused = self.enter(socket.socket())
        unused.bind(("127.0.0.1", 0))       # bound, but not listening
        address = "http://127.0.0.1:{}".format(unused.getsockname()[1])
        self.write("home/session.json", dict(self.state("session.json"), api_url=address))
        return address

    def signalled(self, number, path, args, out=b""):
        """(exit code, stderr) of a process that gets a signal while it waits for a response; out:
        a pattern of all that it has printed by then.
        """
        fault = self.server.fault(path, delay=True)
        process = subprocess.Popen([sys.executable, PROGRAM] + args, env=self.environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
        with process:
            try:
                self.assertTrue(fault.begun.wait(DEADLINE))
                process.send_signal(number)
                printed, err = process.communicate(timeout=DEADLINE)
            finally:
                fault.release.set()
                process.kill()
        self.assertRegex(printed, rb"(?s)\A%b\Z" % out)
        return process.returncode, as_text(err).strip()

    def cli(self, *args, **kwargs):
        """Run the command in this process, against the server unless config.json says other."""
        if not os.path.exists(os.path.join(self.home, "config.json")):
            self.write(os.path.join("home", "config.json"), {"api_url": self.server.url})
        return self.run_cli(*args, **kwargs)


def requests_of(server, fragment):
    """The requests that a server saw with a path that contains `fragment`."""
    return [request for request in server.requests if fragment in request.path]


def procedure_inputs(server, procedure):
    """The `json` inputs that a server saw for a procedure, those within batches included."""
    inputs = []
    for request in server.requests:
        if procedure not in request.procedures:
            continue
        given = json.loads(request.query["input"]) if "input" in request.query else request.body
        if request.query.get("batch"):
            given = [(given or {}).get(str(place)) for place, name in enumerate(request.procedures)
                     if name == procedure]
        else:
            given = [given]
        inputs += [(item or {}).get("json") for item in given]
    return inputs


def minutes_ago(minutes):
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=minutes)


def fill_four(server):
    """Four traces: 1 to 4 s, $0.01 to $0.04, one error, two evaluators."""
    scores = ([("faithfulness", 0.8), ("helpfulness", 0.5)], [("faithfulness", 0.9)],
              [("helpfulness", 0.7)], [("faithfulness", 1), ("a=b", 0.6)])
    for place, given in enumerate(scores, 1):
        server.add_trace(name="agent %d" % place, duration_ms=1000 * place, cost=place / 100,
                         status="ERROR" if place == 2 else "OK", created=minutes_ago(place),
                         scores=[{"evaluatorName": name, "value": value}
                                 for name, value in given])


def first_look(client, args, console):
    """What traces tail shows before it waits, in place of twosignal.new_traces."""
    scan = twosignal.TraceScan(client, twosignal.trace_query(client, args), console,
                               strict_scores=False, **twosignal.wanted_parts(args))
    return iter(twosignal.TraceTail(scan).first(100))


def listing(folder):
    """Every path below a folder."""
    return sorted(os.path.relpath(os.path.join(place, name), folder)
                  for place, folders, files in os.walk(folder) for name in folders + files)


def file_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def json_page(cursor):
    """A page of 100 long traces that says that more exist."""
    return {"result": {"data": {"json": {"nextCursor": cursor, "traces": [
        {"id": "%s-%d" % (cursor, i), "name": "x" * 500, "scores": []} for i in range(100)]}}}}


def trpc_answer(data, values=None):
    """A tRPC answer with superjson, as the servers give it."""
    envelope = {"json": data}
    if values:
        envelope["meta"] = {"values": values}
    return {"result": {"data": envelope}}


def trpc_error(code, status, message="m", path="x.y", bare=False):
    """The body of a refusal; `bare` as servers without superjson write it."""
    error = {"message": message, "code": -32000,
             "data": {"code": code, "httpStatus": status, "path": path}}
    return {"error": error if bare else {"json": error}}


def wire_trace(**fields):
    """A trace as `trace.list` gives it; fields replace or add to those of the example."""
    trace = {"id": "d0000000-0000-4000-8000-000000000000", "projectId": "c1", "name": "agent",
             "startTime": "2026-03-14T10:30:00.000Z", "endTime": None, "metadata": None,
             "tags": [], "totalCost": 0.003, "totalTokens": 12, "status": "OK",
             "durationMs": 1200, "createdAt": "2026-03-14T10:30:00.000Z", "sessionId": None,
             "_count": {"spans": 0, "scores": 0}}
    trace.update(fields)
    return trace


def nothing():
    """A step in which nothing happens."""


def canned(body, status=200, kind="application/json"):
    headers = http.client.HTTPMessage()
    headers["Content-Type"] = kind
    return twosignal.Response(status, headers, json.dumps(body).encode("ascii")
                            if not isinstance(body, bytes) else body)


class Steps(list):
    """The `naps` of a run; each pause between two polls runs a step, after the last one: Ctrl-C."""

    shortest = 0.7              # of the pauses between two polls; those before a retry are shorter

    def __init__(self, *steps):
        super().__init__()
        self.steps = list(steps)

    def append(self, seconds):
        super().append(seconds)
        if seconds < self.shortest:
            return
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()

    def long(self):
        return [seconds for seconds in self if seconds >= self.shortest]


class fails_from:
    """Within the block the server fails from its n-th page of traces on, as told."""

    def __init__(self, server, number, **what):
        self.server, self.left, self.what = server, number, what

    def __enter__(self):
        self.take = self.server.take_fault
        self.server.take_fault = self.taken

    def __exit__(self, *exception):
        self.server.take_fault = self.take

    def taken(self, request):
        if "trace.list" in request.path or request.path == "/api/v1/traces":
            self.left -= 1
            if self.left < 1:
                return standin.Fault("", None, **self.what)
        return self.take(request)


def size_of(request):
    """How many traces a request asks for at once, as a page or as a batch."""
    if request.path == "/api/v1/traces":
        return int(request.query["limit"])
    if request.procedures == ["trace.list"]:
        return json.loads(request.query["input"])["json"]["limit"]
    return len(request.procedures)


class takes_at_most(fails_from):
    """Within the block the server refuses pages or batches of more than `number`, as told."""

    def __init__(self, server, number, fragment, **what):
        super().__init__(server, number, **what)
        self.fragment = fragment    # of the paths that are concerned

    def taken(self, request):
        if self.fragment in request.path and size_of(request) > self.left:
            return standin.Fault("", None, **self.what)
        return self.take(request)


class ScriptedTransport:
    """A transport that answers from a function of the procedures and their inputs."""

    timeout = 5
    until = float("inf")

    def __init__(self, answer):
        self.answer, self.asked = answer, []
        self.clock, self.requested_pause = ShortClock(), None
        self.start_time = self.clock.time()
        self.told = []
        self.tell = self.told.append

    def request(self, method, url, headers=(), body=None, reports_unknown=True, retried=None,
                spending=None):
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        names = unquote(parts.path).rpartition("/")[2].split(",")
        given = json.loads(query["input"][0]) if "input" in query else None
        given = given if body is None else body
        self.url, self.method, self.headers = url, method, headers
        self.asked.append((names, given))
        if "batch" in query:
            return self.answer(names, [given[str(i)]["json"] for i in range(len(names))])
        return self.answer(names[0], (given or {}).get("json"))

    def deadline(self, seconds=None):
        return self.clock.monotonic() + (seconds or self.timeout)

    def close(self):
        pass


class TracesCase(ServerCase):
    """A logged-in account and a project without traces."""

    options = {"empty": True}

    def setUp(self):
        super().setUp()
        self.log_in()

    def use(self, **options):
        """Take another server in place of the one of the test."""
        self.server.stop()
        self.server = self.serve(**dict(self.options, **options))
        self.log_in()

    def key(self):
        return {"TWOSIGNAL_API_KEY": self.server.secret(self.server.add_key())}

    def add(self, count=1, **fields):
        """Traces a minute apart, named by their place, newest first, unless fields say other."""
        return [self.server.add_trace(**dict({"name": "trace %d" % place,
                                              "created": minutes_ago(place)}, **fields))
                for place in range(count)]

    def traces(self, command, *args, **kwargs):
        project = () if "TWOSIGNAL_API_KEY" in (kwargs.get("env") or {}) \
            else ("--project", self.server.project)
        return self.cli("traces", command, *(project + args), **kwargs)

    def list(self, *args, **kwargs):
        return self.traces("list", *args, **kwargs)

    def names(self, *args, **kwargs):
        result = self.assertOk(self.list("--fields", "name", "--json", *args, **kwargs))
        return [row["name"] for row in result.json]

    def check(self, *args, **kwargs):
        return self.traces("check", *args, **kwargs)


class ClientCase(Case):
    def client(self, answer):
        self.enter(replaced_environment(dict(self.environment)))
        self.write("home/session.json", TOKENS)
        client = twosignal.Client(EXAMPLE_URL, ScriptedTransport(answer))
        self.asked = client.transport.asked
        return client

    def assertRaisesCode(self, code, work, *args, **options):
        with self.assertRaises(twosignal.Failure) as caught:
            work(*args, **options)
        self.assertEqual(caught.exception.code, code)
        return caught.exception


class StateCase(Case):
    """A test that calls the section's functions in the environment of a run."""

    def setUp(self):
        super().setUp()
        self.enter(replaced_environment(self.environment))
        self.clock = ShortClock(self.naps)
        self.file = os.path.join(self.home, "session.json")

    def forget_session(self):
        transport = twosignal.Transport(clock=self.clock)
        twosignal.Client("https://one.example.com", transport).auth.forget()

    def child(self, script, *args):
        """A process with its stdin and stdout as pipes; killed at the end of the test."""
        process = subprocess.Popen(
            [sys.executable, "-c", script, ROOT] + list(args), env=self.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()

    def assertRefused(self, call, *parts, code="FAILED"):
        """It raises a Failure with that code whose message and hint hold the parts."""
        with self.assertRaises(twosignal.Failure) as caught:
            call()
        failure = caught.exception
        self.assertEqual(failure.code, code, failure.message)
        for part in parts:
            self.assertIn(part, failure.message + " " + failure.hint)
        return failure

    def save_session(self, session, spent=None):
        with twosignal.Spending(time.monotonic() + 60, self.clock) as spending:
            spending.reserve()
            return spending.save(session, spent)

    def leftovers(self, folder=None):
        """What stands in the home beside the files that belong there."""
        known = {"session.json", "config.json", "session.lock", "origins.json"}
        return sorted(set(os.listdir(folder or self.home)) - known)


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
        return run_command(["sh", "-c", IN_SHELL, "sh", redirections, sys.executable, PROGRAM]
                           + list(args), merged(self.environment, env), stdin)

    def assertNothingLeft(self):
        """No temporary file is left behind in the home."""
        left = set(os.listdir(self.home)) - {
            "session.json", "config.json", "session.lock", "origins.json"}
        for name in left:
            os.remove(os.path.join(self.home, name))
        self.assertEqual(left, set())


class CommandCase(ServerCase):
    """Logged in as the owner, with the fixed small world and its project as the default."""

    def setUp(self):
        super().setUp()
        self.log_in()
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project,
                                TWOSIGNAL_ORG=self.server.org)

    def argv(self, command):
        """A complete command line for a command, on resources that exist."""
        server = self.server
        more = {
            "orgs create": ["New Org"],
            "orgs rename": ["Acme 東京"],
            "orgs add-member": ["--email", "PERSON", "--role", "MEMBER"],
            "orgs remove-member": ["--email", "MEMBER-EMAIL", "-y"],
            "projects create": ["New Project"],
            "projects get": ["PROJECT"],
            "projects update": ["PROJECT", "--name", "New Name", "-d", "Words"],
            "projects delete": ["PROJECT", "-y"],
            "traces get": [server.traces[0]],
            "traces send": [self.write("events.jsonl", json.dumps({
                "id": "1", "type": "trace-create", "timestamp": "2026-03-14T10:30:00Z",
                "body": {"id": "1", "name": "sent"}}))],
            "evaluators create": ["-n", "Has JSON", "--type", "JSON_SCHEMA",
                                  "--config", '{"schema": {"type": "object"}}'],
            "evaluators get": ["EVALUATOR"],
            "evaluators update": ["EVALUATOR", "--name", "New Name"],
            "evaluators toggle": ["EVALUATOR", "--disable"],
            "evaluators apply": ["-f", self.write("made.json", '[{"name": "x", "type": "COST"}]')],
            "evaluators delete": ["EVALUATOR", "-y"],
            "datasets create": ["-n", "Test Cases"],
            "datasets get": ["DATASET"],
            "datasets export": ["DATASET"],
            "datasets import": ["DATASET", self.write("items.jsonl", '{"input": {"aB": 1}}')],
            "datasets add-item": ["DATASET", "--input", '{"promptText": "Hi"}'],
            "datasets update": ["DATASET", "-n", "New Name", "-d", "Words"],
            "datasets add-trace": ["TRACE", "--dataset", "DATASET"],
            "datasets update-item": ["ITEM", "--dataset", server.datasets[0], "--expected", "1",
                                     "-q"],             # it tells the new ID
            "datasets remove-item": ["ITEM", "-y"],
            "datasets delete": ["DATASET", "-y"],
            "api-keys create": ["-n", "CI Pipeline"],
            "api-keys rotate": ["KEY", "-y", "-q"],   # it tells what the old key is now
            "api-keys revoke": ["KEY", "-y"],
            "routing get": ["ROUTE"],
            "routing create": ["Cheap", "--default-model", "gpt-4o",
                               "--rules", '[{"camelKey": 1}]'],
            "routing update": ["ROUTE", "--disable"],
            "routing delete": ["ROUTE", "-y"],
            "routing test": ["--input", "Hi"],
            "prompts get": ["PROMPT"],
            "prompts push": ["greeting", "--content", "Hello {{name}}"],
        }.get(command, [])
        made = {"EVALUATOR": server.add_evaluator, "DATASET": server.add_dataset,
                "KEY": server.add_key, "PROJECT": server.add_project,
                "ITEM": lambda name: server.add_item(server.datasets[0], {"promptText": name}),
                "TRACE": lambda name: server.add_trace(spans=[{"input": {"promptText": name}}]),
                "PERSON": self.add_person, "ROUTE": server.add_route,
                "PROMPT": lambda name: server.add_prompt(name, "Hi") and name,
                "MEMBER-EMAIL": lambda name: self.add_person(name, {server.org: "MEMBER"})}
        return command.split() + [made[word](name="Made") if word in made else word
                                  for word in more]

    def add_person(self, name="someone", roles=None):
        """The email of a new account, which is a member with these roles, by organization."""
        email = "%s-%d@example.com" % (name.lower(), len(self.server.rows("accounts")))
        self.server.add_account(email, roles=roles)
        return email

    def records(self, command):
        return self.assertOk(self.cli(*self.argv(command) + ["--json"]), err="").json

    def traces_from(self, *traces, **kwargs):
        """The result of `traces list` where the server gives just these wire traces."""
        values = kwargs.pop("values", None)
        page = {"traces": list(traces), "nextCursor": None}
        self.server.fault("trace.list", status=200, body=trpc_answer(page, values))
        return self.cli("traces", "list", *kwargs.pop("args", ()), **kwargs)


class KeyCase(TracesCase):
    """Nobody is logged in."""

    def setUp(self):
        super().setUp()
        os.unlink(os.path.join(self.home, "session.json"))
        self.environment["TWOSIGNAL_URL"] = self.server.url

    def use(self, **options):
        super().use(**options)
        os.unlink(os.path.join(self.home, "session.json"))
        self.environment["TWOSIGNAL_URL"] = self.server.url

    def key_file(self, content):
        name = "secret %d" % len(os.listdir(self.folder))
        return {"TWOSIGNAL_API_KEY_FILE": self.write(name, content)}

    def tree(self):
        return sorted(os.path.join(folder, name) for folder, folders, files in os.walk(self.folder)
                      for name in folders + files)
