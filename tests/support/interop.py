"""This client and the published one (twosignal 0.1.0: CLI and TUI), sharing a home and a server.

    python3 tests/support/interop.py [--venv DIR]

The published client is installed into a virtual environment: DIR, which is kept for the next run,
or a temporary one. If it cannot be installed, the checks are skipped. Exit codes: 0 all checks
passed or were skipped, 1 a check failed.
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
OLDEST = (3, 10)                # the oldest Python that the published client supports
EMAIL, PASSWORD = "owner@example.com", "owner-pass"
BIN = "Scripts" if os.name == "nt" else "bin"
EXE = ".exe" if os.name == "nt" else ""
CHECKS = []


def check(function):
    """Registers a check; its docstring is its title."""
    CHECKS.append(function)
    return function


####################################################################################################
# The published client
####################################################################################################

def install_published(folder):
    """Creates a virtual environment with the published client, unless it exists.

    Returns None, or the reason why that is not possible.
    """
    if os.path.exists(program(folder, "twosignal")):
        return None
    python = find_python()
    if not python:
        return "no Python {}.{} or newer".format(*OLDEST)
    for command in ([python, "-m", "venv", folder],
                    [program(folder, "python"), "-m", "pip", "install", "--quiet",
                     "--disable-pip-version-check", "--only-binary=:all:", PACKAGE]):
        done = run_command(command, dict(os.environ), timeout=600)
        if done.code:
            shutil.rmtree(folder, ignore_errors=True)
            output = (done.err or done.out).strip().splitlines() or ["no output"]
            return f"cannot install {PACKAGE}: {output[-1]}"
    return None


def program(folder, name):
    return os.path.join(folder, BIN, name + EXE)


def find_python():
    """The path of a Python that can run the published client, or None."""
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
    code = f"import sys; sys.exit(sys.version_info < {OLDEST!r})"
    return subprocess.call([python, "-c", code], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def clean_environment(home):
    """The environment without the user's settings, and with that home directory."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment.update(HOME=home, USERPROFILE=home, PYTHONIOENCODING="utf-8",
                       NO_PROXY="127.0.0.1,localhost", COLUMNS="200")
    return environment


# Starts the TUI as its command does, and searches its screen for the words that are given.
TUI = """
import asyncio, html, re, sys
from twosignal_tui.__main__ import login
from twosignal_tui.app import TwoSignalApp
from twosignal_tui.config import Config

def text_of(app):
    picture = html.unescape(app.export_screenshot())
    return re.sub("<[^>]*>", "", picture[picture.index("</style>"):]).replace("\\xa0", " ")

async def find(words):
    config = Config.load()
    app = TwoSignalApp(config=config, session=login(config))
    async with app.run_test(size=(140, 50)) as pilot:
        for _ in range(300):
            await pilot.pause(0.1)
            text = text_of(app)
            if all(word in text for word in words):
                return print("FOUND")
        print("NOT FOUND", words, re.sub("\\\\s+", " ", text))

asyncio.run(find(sys.argv[1:]))
"""


####################################################################################################
# Both clients on one home
####################################################################################################

class Clients:
    """Both clients, with one server and one home directory."""

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
        """Starts the TUI; fails unless its screen shows these words."""
        result = self._run([program(self.venv, "python"), "-c", TUI], words)
        expect(result.code == 0 and "FOUND" in result.out.splitlines(), result)

    def _run(self, command, args, stdin=None):
        # Outside the project, so that the published client imports its own modules.
        return run_command(command + list(args), self.environment, stdin, cwd=self.home)

    def session(self):
        with open(self.session_file, encoding="utf-8") as file:
            return json.load(file)

    def expire(self):
        """Lets the access token expire, on the server and in the file."""
        self.server.expire(EMAIL)
        session = dict(self.session(), expires_at=1)
        with open(self.session_file, "w", encoding="utf-8") as file:
            json.dump(session, file)

    def log_in_ours(self):
        works(self.ours("login", "--url", self.server.url, "-e", EMAIL, "--password-stdin",
                        stdin=PASSWORD + "\n"))

    def log_in_theirs(self):
        works(self.theirs("login", "--url", self.server.url, "-e", EMAIL, "-p", PASSWORD))


def expect(condition, why):
    if not condition:
        raise AssertionError(why)


def refreshed(clients, count):
    """Expects that the server has seen that many refreshes."""
    refreshes = clients.server.count("auth/refresh")
    expect(refreshes == count, f"{refreshes} refreshes, not {count}")


def works(result, *parts):
    """Expects exit code 0 and output that contains the parts; returns the result."""
    expect(result.code == 0, result)
    for part in parts:
        expect(part in result.out, f"no {part!r} in {result!r}")
    return result


####################################################################################################
# Checks
####################################################################################################

@check
def published_login(clients):
    """this client uses a login of the published CLI"""
    clients.log_in_theirs()
    works(clients.ours("whoami"), EMAIL)
    works(clients.ours("orgs", "list"), "Acme")
    refreshed(clients, 0)


@check
def own_login(clients):
    """the published CLI uses a login of this client"""
    clients.log_in_ours()
    works(clients.theirs("whoami"), EMAIL)
    works(clients.theirs("orgs", "list"), "Acme")
    refreshed(clients, 0)


@check
def own_refresh(clients):
    """the published CLI uses a session that this client refreshed"""
    clients.log_in_theirs()
    clients.expire()
    works(clients.ours("orgs", "list"), "Acme")
    refreshed(clients, 1)
    works(clients.theirs("orgs", "list"), "Acme")
    refreshed(clients, 1)


@check
def published_refresh(clients):
    """this client uses a session that the published CLI refreshed"""
    clients.log_in_ours()
    clients.expire()
    works(clients.theirs("orgs", "list"), "Acme")
    refreshed(clients, 1)
    works(clients.ours("orgs", "list"), "Acme")
    refreshed(clients, 1)


@check
def turns(clients):
    """both refresh the same session by turns"""
    clients.log_in_ours()
    for turn, client in enumerate((clients.ours, clients.theirs) * 2, 1):
        clients.expire()
        works(client("orgs", "list"), "Acme")
        refreshed(clients, turn)


@check
def own_logout(clients):
    """a logout of this client logs out the published CLI"""
    clients.log_in_ours()
    works(clients.ours("logout"))
    expect(clients.theirs("orgs", "list").code != 0, "the published CLI is still logged in")


@check
def published_logout(clients):
    """a logout of the published CLI logs out this client"""
    clients.log_in_ours()
    works(clients.theirs("logout"))
    result = clients.ours("orgs", "list")
    expect(result.code == 4, result)


@check
def tui_start(clients):
    """the TUI starts with a session of this client and shows the organization"""
    clients.log_in_ours()
    clients.tui("Acme", "東京")
    refreshed(clients, 0)
    works(clients.ours("whoami"), EMAIL)


@check
def tui_after_refresh(clients):
    """the TUI starts with a session that this client refreshed"""
    clients.log_in_theirs()
    clients.expire()
    works(clients.ours("orgs", "list"))
    clients.tui("Acme", "東京")
    refreshed(clients, 1)


@check
def tui_refresh(clients):
    """this client uses a session that the TUI refreshed and saved"""
    clients.log_in_ours()
    clients.expire()
    clients.tui("Acme", "東京")
    refreshed(clients, 1)
    works(clients.ours("orgs", "list"), "Acme")
    refreshed(clients, 1)


# The commands of the published CLI, in an order that provides each with what it needs; a part of
# their output; and for a change, how many rows of a table have these fields afterwards.
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
def every_command(clients):
    """every command of the published CLI is checked here"""
    names = clients._run([program(clients.venv, "python"), "-c", REGISTRY], ())
    for name in json.loads(works(names).out):
        expect(any((row[0] + " ").startswith(name + " ") for row in COMMANDS), name)


def command_check(line, expected, effect):
    """The check of one row of COMMANDS, to be run after the rows before it."""
    def run(clients):
        facts = clients.facts
        result = works(clients.theirs(*[word.format(**facts) for word in line.split()]))
        expect(expected.format(**facts) in result.out, result)
        expect("Traceback" not in result.err, result)
        if effect:
            count, table, fields = effect
            found = [row for row in clients.server.rows(table) if has(row, fields, facts)]
            expect(len(found) == count, clients.server.rows(table))
    run.__doc__ = "published: twosignal " + line.replace("{{", "{").replace("}}", "}")
    return run


def has(row, fields, facts):
    """Whether the row has these fields; text in them may refer to the facts."""
    return all(row[name] == (value.format(**facts) if isinstance(value, str) else value)
               for name, value in fields.items())


def facts_of(server):
    """The IDs and names in the sample data that COMMANDS refers to."""
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
def both_clients(venv):
    with tempfile.TemporaryDirectory() as folder, StandIn(names="both") as server:
        yield Clients(venv, folder, server)


def run_checks(venv):
    """Runs all checks; returns how many passed and how many failed."""
    counts = {"passed": 0, "failed": 0}
    for function in CHECKS:
        with both_clients(venv) as clients:
            counts[run_check(function, clients)] += 1
    with both_clients(venv) as clients:
        clients.facts = facts_of(clients.server)
        for row in COMMANDS:
            counts[run_check(command_check(*row), clients)] += 1
    return counts


def run_check(function, clients):
    try:
        function(clients)
    except AssertionError as problem:
        print(f"FAILED   {function.__doc__}\n{problem}", flush=True)
        return "failed"
    except Exception:
        print(f"FAILED   {function.__doc__}\n{traceback.format_exc()}", flush=True)
        return "failed"
    print(f"ok       {function.__doc__}", flush=True)
    return "passed"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", metavar="DIR",
                        help="virtual environment of the published client, created if missing")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        venv = os.path.abspath(options.venv or os.path.join(folder, "published"))
        reason = install_published(venv)
        if reason:
            print(f"SKIPPED: {reason}")
            return 0
        counts = run_checks(venv)
    print("{passed} passed, {failed} failed, 0 skipped".format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
