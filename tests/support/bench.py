"""Compare the speed of this client with lower bounds, with the published client, or with itself.

    python3 tests/support/bench.py [--runs 15] [--only TEXT] [--traces N] [--published DIR]
    python3 tests/support/bench.py --module OLDER.py        # an older twosignal.py next to this one
    python3 tests/support/bench.py --shape [--module OLDER.py]

Each figure is a ratio of two median times. The commands of a group take turns, so that a change in
the load of the machine affects all of them. They run on the interpreter of a clean virtual
environment, and talk to a server in this process, whose time is part of every request.

Three ways of installation are compared: "installed" is the console script of pip over a compiled
module; "copied" is twosignal.py as a single file, which Python compiles on every start;
"executable" is the single file that `twosignal install DIR` writes. The exit code does not depend
on the goals.
"""
import argparse
import collections
import json
import math
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

import shape
from interop import EMAIL, clean_environment, install_published, program
from standin import StandIn
from tools import SCRIPT

PROCESSES = 50              # that start at once with an expired session
REFRESH_SECONDS = 0.5       # how long the server takes to refresh that session
MEMORY_GOAL = 60            # MB
LISTING_GOAL = 1.2          # many traces, in relation to LOOP
SORTED_GOAL = 1.3           # the same traces sorted, in relation to LOOP
TREE_GOAL = 1.0             # seconds for a trace of TREE_SPANS spans
PAGE_GOAL = 2.0             # seconds for the same trace as HTML
TREE_SPANS = 10000
FILE_GOAL = 2               # `traces check --from` a file, in relation to LOADS
EXPORT_GOAL = 1.3           # `traces export`, in relation to EXPORT_LOOP
EXPORT_MEMORY_GOAL = 80     # MB
STATS_GOAL = 1.3            # the statistics of many traces, in relation to COUNT_LOOP
IMPORT_GOAL = 1.5           # `datasets import`, in relation to IMPORT_LOOP
IMPORTED = 2000             # items
SEND_GOAL = 1.3             # `traces send`, in relation to SEND_LOOP
USAGE_ERROR = 2             # exit code of an unknown command

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
# The lower bound of `traces list --json`: its requests, and JSON on stdout.
MINIMAL = """
import json
import sys
import urllib.request

REQUESTS = {requests!r}

bodies = []
for method, url, headers, body in REQUESTS:
    request = urllib.request.Request(url, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        bodies.append(json.loads(response.read().decode("utf-8")))
json.dump(bodies, sys.stdout, indent=2)
"""

# What someone without a client would write: all traces of a project as JSON lines.
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
    with urllib.request.urlopen(request, timeout=60) as response:
        page = json.loads(response.read().decode("utf-8"))["result"]["data"]["json"]
    for trace in page["traces"]:
        print(json.dumps({
            "id": trace["id"], "name": trace["name"], "status": trace["status"],
            "duration_ms": trace["durationMs"], "cost_usd": trace["totalCost"],
            "created_at": trace["createdAt"].replace(".000Z", "Z")}, ensure_ascii=False))
    cursor = page.get("nextCursor")
    if not cursor:
        break
"""

# The same without its lines: it only counts the traces.
COUNT_LOOP = LOOP.replace("cursor = None\n", "cursor, count = None, 0\n").replace(
    LOOP[LOOP.index("    for trace in"):LOOP.index("    cursor = page")],
    "    count += len(page[\"traces\"])\n") + "print('count', count, sep='\\n')\n"

# What reading a file of JSON lines takes at least.
LOADS = "import json, sys\nfor line in open(sys.argv[1], encoding='utf-8'): json.loads(line)\n"

# The requests of an export, whose answers are written as they are.
EXPORT_LOOP = LOOP.replace("import json", "import gzip, json").replace(
    "base, project, cookie = sys.argv[1:]\n", "base, project, cookie, path = sys.argv[1:]\n"
    "out = gzip.open(path, 'wt', encoding='utf-8')\n"
    "def get(procedures, values):\n"
    "    url = base + '/api/trpc/' + procedures + urllib.parse.quote(json.dumps(values), ',:')\n"
    "    request = urllib.request.Request(url, headers={'Cookie': cookie})\n"
    "    with urllib.request.urlopen(request, timeout=60) as response:\n"
    "        return json.loads(response.read().decode('utf-8'))\n").replace(
    LOOP[LOOP.index("    for trace in"):LOOP.index("    cursor = page")], """\
    for start in range(0, len(page["traces"]), SIZE):
        ids = [trace["id"] for trace in page["traces"][start:start + SIZE]]
        inputs = {str(i): {"json": {"traceId": each, "id": each, "projectId": project}}
                  for i, each in enumerate(ids)}
        for answer in get(",".join(["trace.getById"] * len(ids)) + "?batch=1&input=", inputs):
            out.write(json.dumps(answer["result"]["data"]["json"]) + "\\n")
""") + "out.close()\n"

# What someone without a client would write: four threads that add the items of a file.
IMPORT_LOOP = """\
import concurrent.futures, json, sys, urllib.request
base, dataset, cookie, path = sys.argv[1:]
def add(line):
    item = json.loads(line)
    values = {"datasetId": dataset, "input": item["input"],
              "expectedOutput": item["expected_output"], "metadata": item["metadata"]}
    request = urllib.request.Request(
        base + "/api/trpc/dataset.addItem", json.dumps({"json": values}).encode("utf-8"),
        {"Cookie": cookie, "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        json.loads(response.read().decode("utf-8"))
with concurrent.futures.ThreadPoolExecutor(4) as pool, open(path, encoding="utf-8") as file:
    for _ in pool.map(add, file):
        pass
"""

# The same for the traces of a file: a thousand events in a request.
SEND_LOOP = """\
import json, sys, urllib.request
base, key, path = sys.argv[1:]
batch = []
def send():
    body = json.dumps({"batch": batch}).encode("utf-8")
    request = urllib.request.Request(base + "/api/v1/traces", body, {
        "Authorization": "Bearer " + key, "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        json.loads(response.read().decode("utf-8"))
    del batch[:]
def add(kind, body, timestamp):
    batch.append({"id": body["id"], "type": kind, "body": body, "timestamp": timestamp})
    if len(batch) == 1000:
        send()
for line in open(path, encoding="utf-8"):
    trace = json.loads(line)
    add("trace-create", {key: trace[key] for key in TRACE if trace[key] is not None},
        trace["start_time"])
    for span in trace["spans"]:
        add("span-create", {key: span[key] for key in SPAN if span[key] is not None},
            trace["start_time"])
if batch:
    send()
""".replace("TRACE", repr(
    ("id", "name", "start_time", "end_time", "metadata", "tags", "session_id", "status"))).replace(
        "SPAN", repr(("id", "trace_id", "parent_span_id", "name", "type", "start_time", "end_time",
                      "input", "output", "model", "status", "error_message", "metadata")))

# Compares the times of two commands; `goal` is a relation and a bound, or None. There is none for
# the copied module, whose time is that of Python's compiler: the executable exists to avoid it.
Comparison = collections.namedtuple("Comparison", "title command other goal")


def at_most(bound):
    return "≤", bound


def at_least(bound):
    return "≥", bound


START_UP = [
    Comparison("import re, as the script of pip does / python -c pass", "import re", "pass", None),
    Comparison("--version, installed / python -c pass", "version installed", "pass", at_most(1.5)),
    Comparison("--version, copied / python -c pass", "version copied", "pass", None),
    Comparison("--version, executable / copied", "version executable", "version copied",
               at_most(0.6)),
    Comparison("--version, executable / installed", "version executable", "version installed",
               at_most(1.15)),
]
LISTING = [
    Comparison("traces list --json, installed / minimal script", "traces installed", "minimal",
               at_most(1.15)),
    Comparison("traces list --json, copied / minimal script", "traces copied", "minimal", None),
    Comparison("traces list --json, executable / minimal script", "traces executable", "minimal",
               None),
    Comparison("traces list --json, published client / installed", "traces published",
               "traces installed", at_least(3)),
    Comparison("traces list --json, published client / copied", "traces published",
               "traces copied", None),
]
COMMON = ("pass", "import re", "minimal", "traces published")    # commands without a module
COMMANDS = {"version": "--version", "traces": "traces list --json"}
LARGE = ("all traces as JSON lines", "traces list --sort duration", "traces stats")
FILES = ("traces check --from", "traces export")
IMPORT = f"datasets import, {IMPORTED:,} items"
SEND = "traces send, a file"
TREE = f"traces get, {TREE_SPANS:,} spans as a tree"
PAGE = f"traces get, {TREE_SPANS:,} spans as HTML"
CROWD = f"{PROCESSES} processes at once with an expired session"


def groups(modules):
    """The comparisons of each group: those of every module, and between the modules."""
    for group in (START_UP, LISTING):
        rows = [of_module(row, name) for name in modules for row in group]
        rows = list(dict.fromkeys(rows))        # one without a module occurs for each of them
        if len(modules) > 1:
            rows += between(modules, group)
        yield rows


def between(modules, group):
    """The comparisons of the commands of a group in one module with those in the other."""
    commands = [command for row in group for command in row[1:3] if command not in COMMON]
    for command in dict.fromkeys(commands):
        what, way = command.split()
        yield Comparison(f"{COMMANDS[what]}, {way}, {' / '.join(modules)}",
                         key(command, modules[0]), key(command, modules[1]), None)


def of_module(row, name):
    """The comparison for one of several modules, which `name` identifies; "" for a single one."""
    if not name or (row.command in COMMON and row.other in COMMON):
        return row
    commands = [command if command in COMMON else key(command, name) for command in row[1:3]]
    return Comparison(f"{row.title}, {name}", *commands, row.goal)


def key(*words):
    """The name of a command: what it runs, the way of installation and the module, if any."""
    return " ".join(word for word in words if word)


####################################################################################################
# The commands
####################################################################################################

class Bench:
    """A server with 20 scored traces, a home with a session, and the commands to compare.

    commands: the words by name, such as "version copied". missing: the reasons why others are not
    available. `modules` maps a name to the path of a twosignal.py and to its clean environment.
    """

    def __init__(self, folder, server, modules, published):
        self.folder, self.server, self.published = folder, server, published
        self.environment = environment_of(make_home(folder, "home", server))
        self.project = add_traces(server)
        first = next(iter(modules))
        self.python = program(modules[first][1], "python")
        self.commands = {"pass": [self.python, "-c", "pass"],
                         "import re": [self.python, "-c", "import re"]}
        self.missing = {}
        self.listing = ["traces", "list", "--project", self.project, "--json"]
        for name, (module, environment) in modules.items():
            self._add_module(name, module, environment)
        self.client = self.commands[key("version", "installed", first)][:-1]
        self.commands["minimal"] = [self.python, self._write_minimal()]
        if published:
            self.commands["traces published"] = [program(published, "twosignal")] + self.listing
        else:
            self.missing["traces published"] = "the published client is not installed"

    def _add_module(self, name, module, environment):
        folder = os.path.join(self.folder, "module-" + name)
        os.mkdir(folder)
        python = program(environment, "python")
        script = install(module, environment)
        ways = {"installed": [script] if os.name != "nt" else [python, "-m", "twosignal"],
                "copied": [python, copy_script(module, os.path.join(folder, "copied"))],
                "executable": self._install_executable(python, module, folder)}
        for way, words in ways.items():
            for command, arguments in (("version", ["--version"]), ("traces", self.listing)):
                title = key(command, way, name)
                if words:
                    self.commands[title] = words + arguments
                else:
                    self.missing[title] = "the module has no command 'install'"

    def _install_executable(self, python, module, folder):
        """The command that runs the single-file executable, or None if the module writes none."""
        target = os.path.join(folder, "executable")
        os.mkdir(target)
        done = self.run([python, module, "install", target])
        if done.returncode == USAGE_ERROR:
            return None
        check(done)
        return [python, os.path.join(target, "twosignal")]

    def _write_minimal(self):
        """A script that repeats the requests of one `traces list`, with urllib alone."""
        self.server.clear()
        self.output(self.client + self.listing)
        requests = [repeatable(request, self.server.url) for request in self.server.requests]
        return write(self.folder, "minimal.py", MINIMAL.format(requests=requests))

    def run(self, command):
        return subprocess.run(command, env=self.environment, cwd=self.folder,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)

    def output(self, command):
        """The output of the command, as bytes. Raises RuntimeError if it fails."""
        return check(self.run(command)).stdout

    def seconds(self, command):
        start = time.perf_counter()
        self.output(command)
        return time.perf_counter() - start

    def medians(self, names, runs):
        """The median time of each command in seconds.

        Each round runs all of them, and begins with another one. The first round is not counted:
        it fills the caches.
        """
        times = {name: [] for name in names}
        for turn in range(runs + 1):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(self.seconds(self.commands[name]))
        return {name: statistics.median(values[1:]) for name, values in times.items()}

    def check_outputs(self, names):
        """Raises RuntimeError unless each command of ours prints the same in all three ways."""
        outputs = {}
        for name in names:
            if name not in COMMON:
                command, _, *module = name.split(" ", 2)
                # The version tells whether it is the executable.
                output = self.output(self.commands[name]).replace(b", executable", b"")
                outputs.setdefault((command, *module), set()).add(output)
        for key, different in outputs.items():
            if len(different) > 1:
                raise RuntimeError(f"{key}: the output depends on the way of installation")


def check(done):
    if done.returncode:
        error = done.stderr.decode("utf-8", "replace")
        raise RuntimeError(f"{done.args!r}: exit code {done.returncode}\n{error}")
    return done


def environment_of(home):
    """The environment of a command. Python may save what it compiles, as on a user's machine."""
    environment = clean_environment(home)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def make_home(folder, name, server, **changes):
    """A home directory with a session of the server, as after a login; returns its path."""
    home = os.path.join(folder, name)
    state = os.path.join(home, ".twosignal")
    os.makedirs(state, 0o700)
    session = dict(server.tokens(EMAIL), api_url=server.url, **changes)
    for file_name, content in (("session.json", session), ("config.json", {"api_url": server.url})):
        os.chmod(write(state, file_name, json.dumps(content)), 0o600)
    return home


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def add_traces(server):
    """Adds a project with 20 traces of two scores each; returns its ID."""
    project = server.add_project(name="Bench", org=server.org)
    for number in range(20):
        scores = [{"evaluatorName": name, "value": 0.9, "label": "good", "reasoning": "It fits."}
                  for name in ("Is short", "Is right")]
        server.add_trace(project=project, name=f"trace {number}", status="OK",
                         duration_ms=1200 + number, cost=0.003, scores=scores)
    return project


def copy_script(module, folder):
    """Copies the module as a user does, without the extension; returns the path."""
    os.mkdir(folder)
    return shutil.copy(module, os.path.join(folder, "twosignal"))


def install(module, environment):
    """Installs the module and its console script as pip does; returns the path of the script."""
    python = program(environment, "python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([python, "-c", code]).decode("utf-8").strip()
    installed = shutil.copy(module, os.path.join(packages, "twosignal.py"))
    subprocess.check_call([python, "-m", "py_compile", installed])
    path = program(environment, "twosignal")
    write(os.path.dirname(path), os.path.basename(path), CONSOLE_SCRIPT.format(python=python))
    os.chmod(path, 0o755)
    return path


def repeatable(request, base):
    """The method, URL, headers and body of a request that the server received."""
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
# The figures
####################################################################################################

def print_group(bench, rows, runs):
    names = [name for row in rows for name in (row.command, row.other)]
    names = [name for name in dict.fromkeys(names) if name in bench.commands]
    bench.check_outputs(names)
    medians = bench.medians(names, runs) if names else {}
    for row in rows:
        missing = [name for name in (row.command, row.other) if name not in medians]
        if missing:
            print(f"{row.title:<62} skipped: {bench.missing[missing[0]]}", flush=True)
        else:
            print(figure(row, medians[row.command], medians[row.other]), flush=True)


def figure(row, seconds, other):
    ratio = seconds / other
    return (f"{row.title:<62} {ratio:6.2f}  {verdict(ratio, row.goal):<20}"
            f"  {seconds * 1000:6.1f} ms / {other * 1000:6.1f} ms")


def verdict(ratio, goal):
    if not goal:
        return ""
    relation, bound = goal
    met = ratio <= bound if relation == "≤" else ratio >= bound
    return f"(goal {relation} {bound})  {'met' if met else 'NOT MET'}"


def crowd(folder, name, command):
    """The figures of many processes that start together, in a home with an expired session."""
    with StandIn(names="both", strict=True, refresh_delay=REFRESH_SECONDS) as server:
        home = make_home(folder, "crowd-" + name, server, expires_at=1)
        server.expire(EMAIL)
        environment = environment_of(home)
        processes = [start(command, environment, folder) for _ in range(PROCESSES)]
        succeeded = [process.wait() for process in processes].count(0)
        refreshes = server.count("auth/refresh")
        logged_in = start(command, environment, folder).wait() == 0
    title = f"{CROWD}, {name}"
    return (f"{title:<62} {succeeded} of {PROCESSES} succeeded, {refreshes} refreshes, "
            f"then logged {'in' if logged_in else 'out'}")


def start(command, environment, folder):
    return subprocess.Popen(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def crowds(bench):
    """The name and the command of each client whose processes start together."""
    yield "this client", bench.client + ["orgs", "list", "--json"]
    if bench.published:
        yield "published client", [program(bench.published, "twosignal"), "orgs", "list", "--json"]


def large_listings(bench, size, folder, only):
    """The figures of listing that many traces, and of their statistics, compared with loops."""
    with StandIn(empty=True, names="both") as server:
        for number in range(size):
            server.add_trace(name=f"trace {number}", scores=[], duration_ms=number * 7919 % 60000)
        environment = environment_of(make_home(folder, f"listing-{size}", server))
        arguments = [server.url, server.project,
                     session_cookie(bench.client, server, environment, folder)]
        columns = ["--fields", "id,name,status,duration_ms,cost_usd,created_at"]
        for title, command, script, goal in (
                (LARGE[0], ["traces", "list", "--all", "--format", "jsonl"] + columns,
                 LOOP, LISTING_GOAL),
                (LARGE[1], ["traces", "list", "-q", "--sort", "duration", "-n", "20"],
                 None, SORTED_GOAL),
                (LARGE[2], ["traces", "stats", "--fields", "count", "--format", "tsv"],
                 COUNT_LOOP, STATS_GOAL)):
            if only in title:
                commands = (bench.client + command + ["--project", server.project],
                            [bench.python, write(folder, "loop.py", script or LOOP)] + arguments)
                yield compared(f"{size:,} traces: {title} / loop with urllib", commands,
                               environment, folder, goal, prints_the_same=bool(script))


def large_files(bench, size, folder, only):
    """The figures of writing that many traces to a bundle, and of checking those in a file."""
    with StandIn(empty=True, names="both") as server:
        for number in range(size):
            server.add_trace(name=f"trace {number}", duration_ms=number * 7919 % 60000, spans=[
                {"name": "call", "type": "LLM", "input": {"question": f"Where is {number}?"}}])
        environment = environment_of(make_home(folder, f"files-{size}", server))
        cookie = session_cookie(bench.client, server, environment, folder)
        project, place = ["--project", server.project], os.path.join(folder, f"bundle-{size}")

        def write_traces(*arguments):
            subprocess.check_call(bench.client + ["traces", *arguments, "-q"] + project,
                                  env=environment, cwd=folder, stdout=subprocess.DEVNULL)
        if only in FILES[0]:
            lines = os.path.join(folder, f"{size}.jsonl")
            write_traces("list", "--all", "-o", lines)
            gate = ["--max-error-rate", "50%", "--max-p95", "1h"]
            commands = (bench.client + ["traces", "check", "-q", "--from", lines] + gate,
                        [bench.python, write(folder, "loads.py", LOADS), lines])
            yield compared(f"{size:,} traces: {FILES[0]} / json.loads of its lines", commands,
                           environment, folder, FILE_GOAL, prints_the_same=False)
        if only in FILES[1]:
            server.clear()
            write_traces("export", place)
            batch = max(len(request.procedures) for request in server.requests)
            script = write(folder, "export.py", EXPORT_LOOP.replace("SIZE", str(batch)))
            export = bench.client + ["traces", "export", "-q", place] + project
            commands = (["/bin/sh", "-c", f'rm -r {place}; exec "$@"', "sh"] + export,
                        [bench.python, script, server.url, server.project, cookie, place + ".gz"])
            yield compared(f"{size:,} traces: {FILES[1]} / loop with urllib and gzip", commands,
                           environment, folder, EXPORT_GOAL, False, EXPORT_MEMORY_GOAL)


class Queueing(StandIn):
    """A server that checks the events that it is sent and queues them, as real ones do.

    No worker takes them from the queue: the time that it needs is not that of the requests.
    """

    def answer(self, request):
        del self.requests[:], self.worker.queue[:]
        return super().answer(request)


def imports(bench, folder):
    """The figures of adding items to a dataset, with four requests at a time."""
    items = os.path.join(folder, "items.jsonl")
    with open(items, "w", encoding="utf-8") as file:
        for number in range(IMPORTED):
            file.write(json.dumps({
                "input": {"question": f"Where is order {number}?", "language": "en"},
                "expected_output": "In the post.", "metadata": {"number": number}}) + "\n")
    with StandIn(empty=True, names="both") as server:
        dataset = server.add_dataset(name="Orders")
        environment = environment_of(make_home(folder, "import", server))
        cookie = session_cookie(bench.client, server, environment, folder)
        commands = (bench.client + ["datasets", "import", "-q", dataset, items, "--project",
                                    server.project],
                    [bench.python, write(folder, "import.py", IMPORT_LOOP), server.url, dataset,
                     cookie, items])
        yield compared(f"{IMPORT} / 4 threads with urllib", commands, environment, folder,
                       IMPORT_GOAL, prints_the_same=False)


def sends(bench, size, folder):
    """The figures of sending a file of that many traces, with a span each."""
    path = os.path.join(folder, f"send-{size}.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        for number in range(size):
            file.write(json.dumps(exported_trace(number)) + "\n")
    with Queueing(ingest_delay=math.inf) as server:
        environment = dict(environment_of(os.path.join(folder, "send")),
                           TWOSIGNAL_URL=server.url, TWOSIGNAL_API_KEY=server.key)
        commands = (bench.client + ["traces", "send", "-q", path],
                    [bench.python, write(folder, "send.py", SEND_LOOP), server.url, server.key,
                     path])
        yield compared(f"{size:,} traces: {SEND} / loop with urllib", commands, environment,
                       folder, SEND_GOAL, prints_the_same=False)


def exported_trace(number):
    """A trace as `traces list --spans --format jsonl` writes it."""
    trace, begun = f"d0000000-0000-4000-8000-{number:012}", f"2026-03-14T10:30:{number % 60:02}Z"
    common = {"status": "OK", "duration_ms": 0, "created_at": begun, "start_time": begun,
              "end_time": begun, "project_id": "c0000000-0000-4000-8000-000000000001"}
    span = dict(common, id=f"e0000000-0000-4000-8000-{number:012}", name="call", type="LLM",
                trace_id=trace, parent_span_id=None, model="gpt-4o", model_parameters=None,
                input={"question": f"Where is order {number}?"}, output="In the post.",
                prompt_tokens=12, completion_tokens=30, total_tokens=42, cost_usd=0.0012,
                error_message=None, metadata={"customer_tier": "pro"})
    return dict(common, id=trace, name=f"trace {number}", cost_usd=0.0012, total_tokens=42,
                tags=["production"], metadata={"release": "2.4.1"}, session_id=None, scores=[],
                span_count=1, score_count=0, spans=[span])


def compared(title, commands, environment, folder, goal, prints_the_same,
             memory_goal=MEMORY_GOAL):
    """The figures of a command and of a script, which may have to print the same."""
    outputs = [subprocess.check_output(words, env=environment, cwd=folder) for words in commands]
    if prints_the_same and outputs[0] != outputs[1]:
        raise RuntimeError("the loop prints other lines")
    runs = [[resources(words, environment, folder) for words in commands] for _ in range(3)]
    seconds, other = (statistics.median(row[i][0] for row in runs) for i in (0, 1))
    memory = max(row[0][1] for row in runs)
    row = Comparison(title, None, None, at_most(goal))
    return f"{figure(row, seconds, other)}, {memory:.0f} MB (goal ≤ {memory_goal})"


def large_tree(bench, folder, only):
    """The figures of showing a trace with TREE_SPANS spans, five times as many in each level."""
    spans = [{"id": f"s{number}", "name": f"step {number}", "type": "TOOL", "status": "OK",
              "parentSpanId": f"s{(number - 1) // 5}" if number else None, "durationMs": 5,
              "startTime": f"2026-03-14T10:{number // 600:02}:{number // 10 % 60:02}.000Z",
              "input": {"question": "Where is my order?"}, "output": "In the post.",
              "cost": 0.001, "model": "gpt-4o"}
             for number in range(TREE_SPANS)]
    with StandIn(empty=True, names="both") as server:
        body = {"result": {"data": {"json": {"id": "t", "spans": spans, "scores": []}}}}
        server.fault("trace.getById", times=None, status=200, body=body)
        environment = environment_of(make_home(folder, "tree", server))
        command = bench.client + ["traces", "get", "t", "--project", server.project]
        for title, goal, options in ((TREE, TREE_GOAL, []),
                                     (PAGE, PAGE_GOAL, ["-o", os.path.join(folder, "t.html")])):
            if only in title:
                runs = [resources(command + options, environment, folder) for _ in range(3)]
                seconds = statistics.median(row[0] for row in runs)
                met = verdict(seconds, at_most(goal))
                yield f"{title:<62} {seconds:6.2f}  {met:<20}  {max(row[1] for row in runs):.0f} MB"


def session_cookie(client, server, environment, folder):
    """The Cookie header of a request of the client."""
    subprocess.check_output(client + ["orgs", "list"], env=environment, cwd=folder)
    return server.requests[-1].headers.get("Cookie")


# A forked process counts the memory of its parent as its own until it becomes another program; so
# that parent has to be a small one.
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


def resources(command, environment, folder):
    """The time of a command in seconds, and its peak memory in MB."""
    output = subprocess.check_output([sys.executable, "-S", "-E", "-c", LAUNCHER] + command,
                                     env=environment, cwd=folder)
    status, seconds, peak = output.split()
    if int(status):
        raise RuntimeError(f"{command!r} failed")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10     # macOS counts bytes, Linux KB
    return float(seconds), int(peak) / unit


####################################################################################################
# Running
####################################################################################################

def find_modules(options, folder):
    """The modules to compare: name (see of_module) to path and clean environment."""
    if not options.module:
        paths = {"": SCRIPT}
    else:
        paths = {"current": SCRIPT, "older": os.path.abspath(options.module)}
    modules = {}
    for name, path in paths.items():
        environment = os.path.join(folder, "clean-" + name)
        venv.create(environment, symlinks=os.name != "nt", with_pip=False)
        modules[name] = path, environment
    return modules


def run(options, folder):
    published = os.path.abspath(options.published or os.path.join(folder, "published"))
    reason = install_published(published)
    if reason:
        print(f"skipped the published client: {reason}")
    print(f"Python {platform.python_version()}, {platform.system()}, {options.runs} rounds; ratios "
          "of medians, and the medians", flush=True)
    modules = find_modules(options, folder)
    with StandIn(names="both") as server:
        bench = Bench(folder, server, modules, None if reason else published)
        for rows in groups(list(modules)):
            print_group(bench, [row for row in rows if options.only in row.title], options.runs)
    for size in sorted({1000, options.traces}):
        if hasattr(os, "wait4") and any(options.only in title for title in LARGE):
            for line in large_listings(bench, size, folder, options.only):
                print(line, flush=True)
        if hasattr(os, "wait4") and any(options.only in title for title in FILES):
            for line in large_files(bench, size, folder, options.only):
                print(line, flush=True)
    if hasattr(os, "wait4") and options.only in IMPORT:
        for line in imports(bench, folder):
            print(line, flush=True)
    if hasattr(os, "wait4") and options.only in SEND:
        for line in sends(bench, options.traces, folder):
            print(line, flush=True)
    if hasattr(os, "wait4"):
        for line in large_tree(bench, folder, options.only):
            print(line, flush=True)
    for name, command in crowds(bench):
        if options.only in CROWD:
            print(crowd(folder, name, command), flush=True)


def print_shape(options):
    if sys.version_info < (3, 8):
        return print("skipped: --shape requires Python 3.8")
    columns = [("current", SCRIPT)]
    if options.module:
        columns.insert(0, ("older", options.module))
    print(shape.table(columns))


def read_options(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", metavar="PATH",
                        help="compare with another twosignal.py, such as an older one")
    parser.add_argument("--shape", action="store_true",
                        help="print only figures about the source code, such as its lines")
    parser.add_argument("--published", metavar="DIR",
                        help="virtual environment of the published client, created if missing")
    parser.add_argument("--runs", type=int, default=15, metavar="N",
                        help="rounds of each command (default: 15)")
    parser.add_argument("--traces", type=int, default=10000, metavar="N",
                        help="size of the large listing and of the file that is sent (default: "
                        "10000; the goals are for 100000 and 50000)")
    parser.add_argument("--only", default="", metavar="TEXT",
                        help="only the figures whose title contains TEXT")
    return parser.parse_args(argv)


def main(argv=None):
    options = read_options(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if options.shape:
        print_shape(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        run(options, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
