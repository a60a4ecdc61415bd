"""Start-up and work of this client, side by side with what bounds it from below and from above.

    python3 tests/support/bench.py [--venv DIR] [--published DIR] [--runs 11] [--only WORDS]

Each figure is the ratio of two medians, measured in turn, with an interpreter started from a clean
virtual environment. "installed" is a console script over a module in site-packages, compiled once;
"copied" is twosignal.py as a single file, which is compiled at every start. Figures only: the exit
code is 0 whether or not a goal is met.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import venv

from interop import EMAIL, clean_environment, install_published, program
from tools import ROOT, SCRIPT
from standin import StandIn

PROCESSES = 50
REFRESH_SECONDS = 0.5
# The script that pip writes for an entry point.
CONSOLE_SCRIPT = """#!{python}
# -*- coding: utf-8 -*-
import re
import sys
from twosignal import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(main())
"""
# What must be paid for in any case: the requests of `traces list --json`, and JSON on stdout.
MINIMAL = """
import json
import sys
import urllib.request

REQUESTS = {requests!r}

answers = []
for method, url, headers, body in REQUESTS:
    request = urllib.request.Request(url, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        answers.append(json.loads(answer.read().decode("utf-8")))
json.dump(answers, sys.stdout, indent=2)
"""

# The loop that somebody writes who has no client: all traces of a project as JSON lines.
LOOP = """\
import json, sys, urllib.parse, urllib.request
base, project, cookie = sys.argv[1:]
cursor = None
while True:
    values = {"projectId": project, "limit": 100}
    if cursor:
        values["cursor"] = cursor
    url = base + "/api/trpc/trace.list?input=" + urllib.parse.quote(json.dumps({"json": values}))
    request = urllib.request.Request(url, headers={"Cookie": cookie})
    with urllib.request.urlopen(request, timeout=60) as answer:
        page = json.loads(answer.read().decode("utf-8"))["result"]["data"]["json"]
    for trace in page["traces"]:
        print(json.dumps({
            "id": trace["id"], "name": trace["name"], "status": trace["status"],
            "duration_ms": trace["durationMs"], "cost_usd": trace["totalCost"],
            "created_at": trace["createdAt"].replace(".000Z", "Z")}, ensure_ascii=False))
    cursor = page.get("nextCursor")
    if not cursor:
        break
"""

# Names of commands (see `Bench.commands`). A goal "<=" bounds ours / theirs, ">=" theirs / ours.
# The first row is what pip's console script costs before it gets to this client.
COMPARISONS = [
    ("import re, as pip's script does / python -c pass", "import re", "pass", ("<=", None)),
    ("--version, installed / python -c pass", "version installed", "pass", ("<=", 1.5)),
    ("--version, copied / python -c pass", "version copied", "pass", ("<=", 1.5)),
    ("traces list --json, installed / minimal urllib script", "traces installed", "minimal",
     ("<=", 1.25)),
    ("traces list --json, copied / minimal urllib script", "traces copied", "minimal",
     ("<=", 1.25)),
    ("published CLI / traces list --json, installed", "traces installed", "traces published",
     (">=", 3)),
    ("published CLI / traces list --json, copied", "traces copied", "traces published",
     (">=", 3)),
]
MASS = "traces to JSON lines"
CROWD = "%d processes at once with an expired session" % PROCESSES


class Bench:
    """A server with 20 scored traces, a logged-in home, and the commands that are compared."""

    def __init__(self, folder, server, clean, published):
        self.folder, self.server, self.published = folder, server, published
        self.home = make_home(folder, "home", server)
        self.environment = clean_environment(self.home)
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.project = add_traces(server)
        self.commands = self._commands(clean)

    def _commands(self, clean):
        python = program(clean, "python")
        copied = [python, copy_script(self.folder)]
        installed = [install(clean)] if os.name != "nt" else [python, "-m", "twosignal"]
        traces = ["traces", "list", "--project", self.project, "--json"]
        commands = {
            "pass": [python, "-c", "pass"],
            "import re": [python, "-c", "import re"],
            "version installed": installed + ["--version"],
            "version copied": copied + ["--version"],
            "traces installed": installed + traces,
            "traces copied": copied + traces,
            "minimal": [python, self._write_minimal(copied + traces)],
        }
        if self.published:
            commands["traces published"] = [program(self.published, "twosignal")] + traces
        return commands

    def _write_minimal(self, command):
        """The script that repeats, with urllib alone, the requests of one run of that command."""
        self.server.clear()
        self.output(command)
        path = os.path.join(self.folder, "minimal.py")
        requests = [repeatable(request, self.server.url) for request in self.server.requests]
        with open(path, "w", encoding="utf-8") as file:
            file.write(MINIMAL.format(requests=requests))
        return path

    def cookie(self, server):
        """The cookie of a session, as a request of the client carries it."""
        server.clear()
        self.output(self.commands["version installed"][:-1] + ["orgs", "list"])
        cookie = server.requests[-1].headers.get("Cookie")
        server.clear()
        return cookie

    def output(self, command):
        """What the command prints; RuntimeError where it does not work."""
        done = subprocess.run(command, env=self.environment, cwd=self.folder,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        if done.returncode:
            raise RuntimeError("%r: exit code %d\n%s" % (
                command, done.returncode, done.stderr.decode("utf-8", "replace")))
        return done.stdout

    def seconds(self, command):
        start = time.perf_counter()
        self.output(command)
        return time.perf_counter() - start

    def medians(self, one, other, runs):
        """The medians of both commands in seconds, run in turn after one run that warms up."""
        pair = [self.commands[one], self.commands[other]]
        for command in pair:
            self.output(command)
        times = [[self.seconds(command) for command in pair] for _ in range(runs)]
        return [statistics.median(column) for column in zip(*times)]


def make_home(folder, name, server, **changes):
    """A home with a session of the server, as a login leaves it; returns its path."""
    home = os.path.join(folder, name)
    state = os.path.join(home, ".twosignal")
    os.makedirs(state, 0o700)
    session = dict(server.tokens(EMAIL), api_url=server.url, **changes)
    for file_name, content in (("session.json", session), ("config.json", {"api_url": server.url})):
        with open(os.path.join(state, file_name), "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.chmod(os.path.join(state, file_name), 0o600)
    return home


def add_traces(server):
    """A project with 20 traces of two scores each; returns its ID."""
    project = server.add_project(name="Bench", org=server.org)
    for number in range(20):
        scores = [{"evaluatorName": name, "value": 0.9, "label": "good", "reasoning": "It fits."}
                  for name in ("Is short", "Is right")]
        server.add_trace(project=project, name="trace %d" % number, status="OK",
                         duration_ms=1200 + number, cost=0.003, scores=scores)
    return project


def copy_script(folder):
    """A copy without the ending, as it is installed by hand; returns its path."""
    path = os.path.join(folder, "twosignal")
    shutil.copy(SCRIPT, path)
    return path


def install(clean):
    """Puts the module and its console script there, as pip does; returns the script's path."""
    python = program(clean, "python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([python, "-c", code]).decode("utf-8").strip()
    module = os.path.join(packages, "twosignal.py")
    shutil.copy(SCRIPT, module)
    subprocess.check_call([python, "-m", "py_compile", module])
    path = program(clean, "twosignal")
    with open(path, "w", encoding="utf-8") as file:
        file.write(CONSOLE_SCRIPT.format(python=python))
    os.chmod(path, 0o755)
    return path


def repeatable(request, base):
    """Method, address, headers and body of a request that the server saw."""
    url = base + request.path
    if request.query:
        url += "?" + urllib.parse.urlencode(request.query)
    headers = {name: request.headers.get(name) for name in ("Cookie", "Content-Type")
               if request.headers.get(name)}
    body = request.body or None
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode("utf-8")
    return request.method, url, headers, body


####################################################################################################
# Figures
####################################################################################################

def compare(bench, comparison, runs):
    """The line for one comparison."""
    name, ours, theirs, (relation, goal) = comparison
    if ours not in bench.commands or theirs not in bench.commands:
        return "%-58s skipped: the published client is not there" % name
    own, other = bench.medians(ours, theirs, runs)
    ratio = own / other if relation == "<=" else other / own
    return "%-58s %6.2f  %-21s  %6.1f ms, %6.1f ms" % (
        name, ratio, verdict(ratio, relation, goal), own * 1000, other * 1000)


def verdict(ratio, relation, goal):
    if goal is None:
        return ""
    if relation == "<=":
        return "(goal ≤ %s)  %s" % (goal, "met" if ratio <= goal else "not met")
    return "(goal ≥ %s)  %s" % (goal, "met" if ratio >= goal else "not met")


def crowd(folder, name, command):
    """The line for many processes that start together on one home with an expired session."""
    with StandIn(names="both", strict=True, refresh_delay=REFRESH_SECONDS) as server:
        home = make_home(folder, "crowd-" + name, server, expires_at=1)
        server.expire(EMAIL)
        environment = clean_environment(home)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        started = [start(command, environment, folder) for _ in range(PROCESSES)]
        worked = [process.wait() for process in started].count(0)
        refreshes = server.count("auth/refresh")
        logged_in = start(command, environment, folder).wait() == 0
    return "%-58s %d of %d worked, %d refreshes, afterwards %s" % (
        "%s, %s" % (CROWD, name), worked, PROCESSES, refreshes,
        "logged in" if logged_in else "logged out")


def start(command, environment, folder):
    return subprocess.Popen(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def crowds(bench):
    """Names and commands of the clients that are put into a crowd."""
    yield "this client", bench.commands["version installed"][:-1] + ["orgs", "list", "--json"]
    if bench.published:
        yield "published CLI", [program(bench.published, "twosignal"), "orgs", "list", "--json"]


def mass(bench, size, folder):
    """The line for listing so many traces as JSON lines, against the loop: time and memory."""
    with StandIn(empty=True, names="both") as server:
        for number in range(size):
            server.add_trace(name="trace %d" % number, scores=[])
        bench.environment = clean_environment(make_home(folder, "mass%d" % size, server))
        client = bench.commands["version installed"][:-1]
        ours = client + ["traces", "list", "--project", server.project, "--all", "--format",
                         "jsonl", "--fields", "id,name,status,duration_ms,cost_usd,created_at"]
        path = os.path.join(folder, "loop.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(LOOP)
        python = bench.commands["pass"][0]
        theirs = [python, path, server.url, server.project, bench.cookie(server)]
        if bench.output(ours) != bench.output(theirs):
            raise RuntimeError("the loop does not print the same lines")
        times = [[peak(command, bench.environment, folder) for command in (ours, theirs)]
                 for _ in range(3)]
    own, other = [statistics.median(row[i][0] for row in times) for i in (0, 1)]
    return "%-58s %6.2f  %-21s  %6.2f s, %6.2f s; %.0f MB at most (goal ≤ 60)" % (
        "%s %s / loop in urllib" % (format(size, ","), MASS), own / other,
        verdict(own / other, "<=", 1.2), own, other, max(row[0][1] for row in times))


# A process counts the memory of the one that started it until it is replaced: here a small one.
LAUNCHER = """\
import os, sys, time
begun, out = time.perf_counter(), os.open(os.devnull, os.O_WRONLY)
pid = os.fork()
if not pid:
    os.dup2(out, 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(status, time.perf_counter() - begun, usage.ru_maxrss)
"""


def peak(command, environment, folder):
    """Seconds that a command takes, and the megabytes that it needs at most."""
    said = subprocess.check_output([sys.executable, "-S", "-E", "-c", LAUNCHER] + command,
                                   env=environment, cwd=folder)
    status, seconds, most = said.split()
    if int(status):
        raise RuntimeError("%r failed" % command)
    return float(seconds), int(most) / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def run(options, folder):
    clean = os.path.abspath(options.venv or os.path.join(folder, "clean"))
    published = os.path.abspath(options.published or os.path.join(folder, "published"))
    if not os.path.exists(program(clean, "python")):
        venv.create(clean, symlinks=os.name != "nt", with_pip=False)
    reason = install_published(published)
    if reason:
        print("skipped the published client: %s" % reason)
    print("Python %s, %s, %d runs in turn; medians of this client and of the other" % (
        platform.python_version(), platform.system(), options.runs), flush=True)
    with StandIn(names="both") as server:
        bench = Bench(folder, server, clean, None if reason else published)
        for comparison in COMPARISONS:
            if options.only in comparison[0]:
                print(compare(bench, comparison, options.runs), flush=True)
    for size in (1000, options.traces):
        if hasattr(os, "wait4") and options.only in MASS:
            print(mass(bench, size, folder), flush=True)
    for name, command in crowds(bench):
        if options.only in CROWD:
            print(crowd(folder, name, command), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", metavar="DIR", help="clean environment to use, made if missing")
    parser.add_argument("--published", metavar="DIR",
                        help="environment of the published client, made if missing")
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--traces", type=int, default=10000, metavar="N",
                        help="how many traces the large listing has (100000 for the goal)")
    parser.add_argument("--only", default="", metavar="WORDS", help="only figures with these words")
    options = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with tempfile.TemporaryDirectory() as folder:
        run(options, folder)
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
