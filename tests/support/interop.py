"""This client and the published one (twosignal 0.1.0: CLI and TUI) on one home and one server.

    python3 tests/support/interop.py [--venv DIR]

The published client is installed into a virtual environment of its own: DIR, which is kept and
used again, or a temporary one. Where that can't be done, it says so and passes. Exit code 1: a
check failed.
"""
import argparse
import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback

from tools import KEPT, ROOT, SCRIPT, run_command
from standin import StandIn

PACKAGE = "twosignal[cli,tui]==0.1.0"
OLDEST = (3, 10)                # what the published client's libraries ask for
EMAIL, PASSWORD = "owner@example.com", "owner-pass"
BIN = "Scripts" if os.name == "nt" else "bin"
EXE = ".exe" if os.name == "nt" else ""
CHECKS = []


def check(function):
    """Registers a check; its docstring is its name."""
    CHECKS.append(function)
    return function


####################################################################################################
# The published client
####################################################################################################

def install_published(folder):
    """Makes a virtual environment with the published client, unless it is there already.

    Returns None, or the reason why it can't be had.
    """
    if os.path.exists(program(folder, "twosignal")):
        return None
    python = find_python()
    if not python:
        return "no Python from %d.%d" % OLDEST
    for command in ([python, "-m", "venv", folder],
                    [program(folder, "python"), "-m", "pip", "install", "--quiet",
                     "--disable-pip-version-check", "--only-binary=:all:", PACKAGE]):
        done = run_command(command, dict(os.environ), timeout=600)
        if done.code:
            shutil.rmtree(folder, ignore_errors=True)
            said = (done.err or done.out).strip().splitlines() or ["no reason given"]
            return "%s can't be installed: %s" % (PACKAGE, said[-1])
    return None


def program(folder, name):
    return os.path.join(folder, BIN, name + EXE)


def find_python():
    """An interpreter that can run the published client; None if there is none."""
    if sys.version_info >= OLDEST:
        return sys.executable
    folders = os.environ.get("PATH", "").split(os.pathsep)
    folders += glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin"))
    for folder in folders:
        for path in [os.path.join(folder, "python3" + EXE)] + sorted(
                glob.glob(os.path.join(glob.escape(folder), "python3.[0-9]*" + EXE))):
            if os.access(path, os.X_OK) and is_new_enough(path):
                return path
    return None


def is_new_enough(python):
    code = "import sys; sys.exit(sys.version_info < %r)" % (OLDEST,)
    return subprocess.call([python, "-c", code], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def clean_environment(home):
    """The machine's environment without its settings, and with that home."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment.update(HOME=home, USERPROFILE=home, PYTHONIOENCODING="utf-8",
                       NO_PROXY="127.0.0.1,localhost", COLUMNS="200")
    return environment


# Starts as the TUI's own command does, and reads the screen as a picture of its text.
TUI = """
import asyncio, html, re, sys
from twosignal_tui.__main__ import login
from twosignal_tui.app import TwoSignalApp
from twosignal_tui.config import Config

def text_of(app):
    picture = html.unescape(app.export_screenshot())
    return re.sub("<[^>]*>", "", picture[picture.index("</style>"):]).replace("\\xa0", " ")

async def look(words):
    config = Config.load()
    app = TwoSignalApp(config=config, session=login(config))
    async with app.run_test(size=(140, 50)) as pilot:
        for _ in range(300):
            await pilot.pause(0.1)
            text = text_of(app)
            if all(word in text for word in words):
                return print("SHOWN")
        print("NOT SHOWN", words, re.sub("\\\\s+", " ", text))

asyncio.run(look(sys.argv[1:]))
"""


####################################################################################################
# The place where both meet
####################################################################################################

class Meeting:
    """A server, a home, and both clients on them."""

    def __init__(self, venv, folder, server):
        self.venv, self.server = venv, server
        self.home = os.path.join(folder, "home")
        os.mkdir(self.home)
        self.environment = clean_environment(self.home)
        self.config_file = os.path.join(self.home, ".twosignal", "config.json")
        self.session_file = os.path.join(self.home, ".twosignal", "session.json")

    def ours(self, *args, stdin=None):
        return self._run([sys.executable, SCRIPT], args, stdin)

    def theirs(self, *args, stdin=None):
        return self._run([program(self.venv, "twosignal")], args, stdin)

    def tui(self, *words):
        """Starts the TUI on this home; AssertionError unless its screen shows those words."""
        result = self._run([program(self.venv, "python"), "-c", TUI], words)
        expect(result.code == 0 and "SHOWN" in result.out.splitlines(), result)

    def _run(self, command, args, stdin=None):
        # Not in the project's folder: the published client must find its own modules.
        return run_command(command + list(args), self.environment, stdin, cwd=self.home)

    def session(self):
        with open(self.session_file, encoding="utf-8") as file:
            return json.load(file)

    def expire(self):
        """The access token is over, on the server and in the file."""
        self.server.expire(EMAIL)
        session = dict(self.session(), expires_at=1)
        with open(self.session_file, "w", encoding="utf-8") as file:
            json.dump(session, file)

    def log_in_ours(self):
        works(self.ours("login", "--url", self.server.url, "-e", EMAIL, "--password-stdin",
                        stdin=PASSWORD + "\n"))

    def log_in_theirs(self):
        works(self.theirs("login", "--url", self.server.url, "-e", EMAIL, "-p", PASSWORD))

    def refreshes(self):
        return self.server.count("auth/refresh")


def expect(condition, why):
    if not condition:
        raise AssertionError(why)


def works(result, *parts):
    """That run ended well and its output has those parts."""
    expect(result.code == 0, result)
    for part in parts:
        expect(part in result.out, "no %r in %r" % (part, result))
    return result


####################################################################################################
# Checks
####################################################################################################

@check
def published_login(meeting):
    """a login of the published CLI serves this one"""
    meeting.log_in_theirs()
    works(meeting.ours("whoami"), EMAIL)
    works(meeting.ours("orgs", "list"), "Acme")
    expect(meeting.refreshes() == 0, "a fresh session was refreshed")


@check
def own_login(meeting):
    """a login of this one serves the published CLI"""
    meeting.log_in_ours()
    works(meeting.theirs("whoami"), EMAIL)
    works(meeting.theirs("orgs", "list"), "Acme")
    expect(meeting.refreshes() == 0, "a fresh session was refreshed")


@check
def own_refresh(meeting):
    """a session refreshed by this one serves the published CLI"""
    meeting.log_in_theirs()
    meeting.expire()
    works(meeting.ours("orgs", "list"), "Acme")
    expect(meeting.refreshes() == 1, "%d refreshes" % meeting.refreshes())
    works(meeting.theirs("orgs", "list"), "Acme")
    expect(meeting.refreshes() == 1, "%d refreshes" % meeting.refreshes())


@check
def published_refresh(meeting):
    """a session refreshed by the published CLI serves this one"""
    meeting.log_in_ours()
    meeting.expire()
    works(meeting.theirs("orgs", "list"), "Acme")
    expect(meeting.refreshes() == 1, "%d refreshes" % meeting.refreshes())
    works(meeting.ours("orgs", "list"), "Acme")
    expect(meeting.refreshes() == 1, "%d refreshes" % meeting.refreshes())


@check
def turns(meeting):
    """both refresh the same session in turns"""
    meeting.log_in_ours()
    for turn, client in enumerate((meeting.ours, meeting.theirs) * 2, 1):
        meeting.expire()
        works(client("orgs", "list"), "Acme")
        expect(meeting.refreshes() == turn, "%d refreshes, not %d" % (meeting.refreshes(), turn))


@check
def own_logout(meeting):
    """a logout of this one logs the published CLI out"""
    meeting.log_in_ours()
    works(meeting.ours("logout"))
    expect(meeting.theirs("orgs", "list").code != 0, "the published CLI is still logged in")


@check
def published_logout(meeting):
    """a logout of the published CLI logs this one out"""
    meeting.log_in_ours()
    works(meeting.theirs("logout"))
    result = meeting.ours("orgs", "list")
    expect(result.code == 4, result)


@check
def tui_start(meeting):
    """the TUI starts from our session and shows the organization"""
    meeting.log_in_ours()
    meeting.tui("Acme", "東京")
    expect(meeting.refreshes() == 0, "a fresh session was refreshed")
    works(meeting.ours("whoami"), EMAIL)


@check
def tui_after_refresh(meeting):
    """the TUI starts from a session that this one has refreshed"""
    meeting.log_in_theirs()
    meeting.expire()
    works(meeting.ours("orgs", "list"))
    meeting.tui("Acme", "東京")
    expect(meeting.refreshes() == 1, "%d refreshes" % meeting.refreshes())


@check
def tui_refresh(meeting):
    """a session that the TUI has refreshed and rewritten serves this one"""
    meeting.log_in_ours()
    meeting.expire()
    meeting.tui("Acme", "東京")
    expect(meeting.refreshes() == 1, "%d refreshes" % meeting.refreshes())
    works(meeting.ours("orgs", "list"), "Acme")
    expect(meeting.refreshes() == 1, "%d refreshes" % meeting.refreshes())


# The published CLI's commands in an order in which each has what it needs; what they print; and of
# those that change something, how many rows of a table have these fields afterwards.
COMMANDS = [
    ("login --url {url} -e owner@example.com -p owner-pass", "", None),
    ("whoami", "owner@example.com", None),
    ("orgs list", "Acme", None),
    ("orgs create Second", "Second", (1, "organizations", {"name": "Second"})),
    ("projects list --org {org}", "Support Agent", None),
    ("projects create Third --org {org} -d Words", "Third",
     (1, "projects", {"name": "Third", "description": "Words"})),
    ("traces list --project {project}", "{trace:.8}", None),
    ("traces list --project {project} --status ERROR", "ERROR", None),
    ("traces list --project {project} -n 2 -s {trace_name}", "{trace:.8}", None),
    ("traces get {trace} --project {project}", "{trace:.8}", None),
    ("evaluators list --project {project}", "{evaluator_name}", None),
    ("evaluators create --project {project} -n Short --type contains --config {{\"value\":\"x\"}}",
     "Short", (1, "evaluators", {"name": "Short", "config": {"value": "x"}})),
    ("evaluators toggle {evaluator} --project {project} --disable", "",
     (1, "evaluators", {"id": "{evaluator}", "enabled": False})),
    ("evaluators toggle {evaluator} --project {project} --enable", "",
     (1, "evaluators", {"id": "{evaluator}", "enabled": True})),
    ("evaluators delete {evaluator} --project {project} -y", "",
     (0, "evaluators", {"id": "{evaluator}"})),
    ("datasets list --project {project}", "{dataset_name}", None),
    ("datasets create --project {project} -n Fourth -d Words", "Fourth",
     (1, "datasets", {"name": "Fourth", "description": "Words"})),
    ("datasets add-item {dataset} --project {project} --input {{\"a\":1}} --expected [2]", "",
     (1, "items", {"datasetId": "{dataset}", "input": {"a": 1}, "expectedOutput": [2]})),
    ("datasets get {dataset} --project {project}", "{dataset_name}", None),
    ("datasets delete {dataset} --project {project} -y", "",
     (0, "datasets", {"id": "{dataset}"})),
    ("api-keys list --project {project}", "{key_name}", None),
    ("api-keys create --project {project} -n Fifth", "", (1, "api_keys", {"name": "Fifth"})),
    ("api-keys revoke {key} --project {project} -y", "",
     (0, "api_keys", {"id": "{key}", "revokedAt": None})),
    ("usage --org {org}", "", None),
    ("logout", "", None),
]
REGISTRY = """
import click, json
from twosignal_cli.main import cli

def leaves(command, words=()):
    if not isinstance(command, click.Group):
        return [" ".join(words)]
    return [leaf for name in command.commands for leaf in leaves(command.commands[name],
                                                                 words + (name,))]

print(json.dumps(leaves(cli)))
"""


@check
def every_command(meeting):
    """the published CLI has no command that is not tried here"""
    names = meeting._run([program(meeting.venv, "python"), "-c", REGISTRY], ())
    for name in json.loads(works(names).out):
        expect(any((row[0] + " ").startswith(name + " ") for row in COMMANDS), name)


def command_check(line, expected, effect):
    """The check of one row of the table; the rows before it have been run already."""
    def run(meeting):
        facts = meeting.facts
        result = works(meeting.theirs(*[word.format(**facts) for word in line.split()]))
        expect(expected.format(**facts) in result.out, result)
        expect("Traceback" not in result.err, result)
        if effect:
            count, table, fields = effect
            found = [row for row in meeting.server.rows(table) if has(row, fields, facts)]
            expect(len(found) == count, meeting.server.rows(table))
    run.__doc__ = "published: twosignal %s" % line.replace("{{", "{").replace("}}", "}")
    return run


def has(row, fields, facts):
    """Whether the row has those fields; text in them may name facts."""
    return all(row[name] == (value.format(**facts) if isinstance(value, str) else value)
               for name, value in fields.items())


def facts_of(server):
    """What the command lines of the table name: IDs and names of the server's small world."""
    facts = {"url": server.url, "org": server.org, "project": server.project}
    tables = (("trace", "traces"), ("evaluator", "evaluators"), ("dataset", "datasets"),
              ("key", "api_keys"))
    for name, table in tables:
        row = server.rows(table)[0]
        facts.update({name: row["id"], name + "_name": row["name"].split()[0]})
    return facts


####################################################################################################
# Running them
####################################################################################################

@contextlib.contextmanager
def meet(venv):
    with tempfile.TemporaryDirectory() as folder, StandIn(names="both") as server:
        yield Meeting(venv, folder, server)


def run_checks(venv):
    """Runs all checks; returns how many passed and failed."""
    counts = {"passed": 0, "failed": 0}
    for function in CHECKS:
        with meet(venv) as meeting:
            counts[run_check(function, meeting)] += 1
    with meet(venv) as meeting:
        meeting.facts = facts_of(meeting.server)
        for row in COMMANDS:
            counts[run_check(command_check(*row), meeting)] += 1
    return counts


def run_check(function, meeting):
    try:
        function(meeting)
    except AssertionError as problem:
        print("FAILED   %s\n%s" % (function.__doc__, problem), flush=True)
        return "failed"
    except Exception:
        print("FAILED   %s\n%s" % (function.__doc__, traceback.format_exc()), flush=True)
        return "failed"
    print("ok       %s" % function.__doc__, flush=True)
    return "passed"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", metavar="DIR", help="virtual environment to use, made if missing")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        venv = os.path.abspath(options.venv or os.path.join(folder, "published"))
        reason = install_published(venv)
        if reason:
            print("SKIPPED: %s" % reason)
            return 0
        counts = run_checks(venv)
    print("{passed} passed, {failed} failed, 0 skipped".format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
