#!/usr/bin/env python3
"""Try twosignal without an account, against a 2Signal server with sample data.

usage: python3 tests/sandbox.py [OPTION...]                          serve until Ctrl-C
       python3 tests/sandbox.py [OPTION...] COMMAND [ARGUMENT...]    run one command, then stop

  --port PORT         port to serve on (default: a free one; with --data, that of the last start)
  --data FILE         keep the data and the sessions in FILE for the next start
  --dialect DIALECT   new (default), or old, which emulates an older server
  --role ROLE         run the command as owner (default), admin, member or viewer of Acme 東京,
                      or with the API key of its project (key)
  --slow SECONDS      delay every response by SECONDS
  --live SECONDS      add a trace every SECONDS; evaluators score it two traces later
  -h, --help          show this help

examples: python3 tests/sandbox.py traces list
          python3 tests/sandbox.py --live 1 traces tail
          python3 tests/sandbox.py --role key prompts list
"""
import contextlib
import datetime
import json
import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import uuid

TESTS = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(os.path.dirname(TESTS), "twosignal.py")
sys.path.insert(0, os.path.join(TESTS, "support"))

from standin import (DIALECTS, UNDEFINED, StandIn, Store, parse_time, stamp,  # noqa: E402
                     this_month)

ACCOUNTS = {"owner": StandIn.OWNER, "admin": StandIn.ADMIN, "member": StandIn.MEMBER,
            "viewer": StandIn.VIEWER, "key": StandIn.OWNER}
EMAIL, PASSWORD = ACCOUNTS["owner"]
AGENTS = (  # name of the trace, its spans as (type, name, depth), tags
    ("support-agent", (("AGENT", "support-agent", 0), ("GUARDRAIL", "check input", 1),
                       ("RETRIEVAL", "search help pages", 1), ("LLM", "write answer", 1)),
     ("production", "v2")),
    ("refund-agent", (("AGENT", "refund-agent", 0), ("TOOL", "look up order", 1),
                      ("LLM", "decide", 1), ("TOOL", "issue refund", 2),
                      ("HUMAN_HANDOFF", "ask the team lead", 1)), ("production",)),
    ("問い合わせ対応 — 返品", (("AGENT", "問い合わせ対応", 0), ("RETRIEVAL", "注文を検索", 1),
                       ("LLM", "回答を作成", 1)), ("production", "ja")),
    ("مساعد الدعم", (("AGENT", "مساعد الدعم", 0), ("LLM", "كتابة الرد", 1)), ("ar",)),
    ("trip planner ✈️🌍", (("CHAIN", "trip planner", 0), ("DELEGATION", "hotel agent", 1),
                           ("AGENT", "hotel agent", 2), ("TOOL", "find rooms 🏨", 3),
                           ("LLM", "summarise", 1)), ("staging", "v3")),
    ("re\u0301sume\u0301 re\u0301viseur", (("CHAIN", "re\u0301viseur", 0), ("LLM", "relire", 1)),
     ("fr",)),
    ("voice-line", (("VOICE", "phone call", 0), ("LLM", "understand", 1),
                    ("CUSTOM", "speak", 1)), ("production", "voice")),
    ("nightly-report", (("CHAIN", "nightly-report", 0), ("TOOL", "query warehouse", 1),
                        ("LLM", "summarise figures", 1)), ("batch",)))
ERRORS = ("Tool call timed out after 30 s", "Rate limit of the model provider reached",
          "Order not found: 在庫なし", "Output was not valid JSON")
BROKEN_FOR, RELEASED_FOR = 1.6 * 86400, 3 * 86400      # seconds: refund-agent, support-agent v2
MODELS = (  # name, price in dollars per token of the prompt and of the completion
    ("gpt-4o", 2.5e-6, 1e-5), ("gpt-4o-mini", 1.5e-7, 6e-7), ("claude-sonnet", 3e-6, 1.5e-5))
REASONS = {True: "The answer is to the point and cites the help page.",
           False: "The answer does not address the customer's question."}


##################################################################################################
# Sample data
##################################################################################################

def add_sample_data(server, now=None):
    """Adds the sample data; only its times, which count back from now, differ between runs."""
    rng = random.Random(1)
    now = now or datetime.datetime.now(datetime.timezone.utc)
    labs = server.add_org("Ünïcode Labs 🚀", "GROWTH", id=random_id(rng))
    shop = server.add_project("Checkout 支払い", server.org, "The assistant of the web shop",
                              id=random_id(rng))
    helper = server.add_project("مساعد العملاء", labs, id=random_id(rng))
    for project, traces, days in ((server.project, 200, 6), (shop, 70, 5), (helper, 50, 5)):
        add_traces(server, rng, project, traces, now, days * 86400.0 / traces)
    add_evaluators(server, rng)
    add_datasets(server, rng)
    add_keys(server, rng)
    server.add_prompt("greeting", "Hello {{name}}", ["name"], id=random_id(rng))
    server.add_prompt("greeting", "Hello {{name}}, how can I help?", ["name"], message="Ask first")
    server.add_route("cheap first", rules=[
        {"name": "short", "model": "gpt-4o-mini", "priority": 1,
         "condition": {"type": "complexity", "threshold": 0.3}}], id=random_id(rng))
    add_usage(server, labs, shop, helper)


def random_id(rng):
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def add_traces(server, rng, project, count, now, gap):
    """Adds traces, newest first, `gap` seconds apart on average."""
    age = 130.0
    for _ in range(count):
        add_trace(server, rng, project, now - datetime.timedelta(seconds=age), age)
        age += rng.expovariate(1 / gap)


def add_trace(server, rng, project, started, age=0):
    """Adds a trace of that age in seconds. The last releases of two agents have a story to tell."""
    name, steps, tags = rng.choice(AGENTS)
    error = rng.choice(ERRORS) if rng.random() < 0.12 else None
    if name == "refund-agent" and age < BROKEN_FOR and rng.random() < 0.6:
        error = ERRORS[2]
    if name == "support-agent":
        tags = (tags[0], "v2" if age < RELEASED_FOR else "v1")
    spans = make_spans(rng, steps, started, error, 1.8 if tags[-1] == "v2" else 1)
    return server.add_trace(
        project, name, "ERROR" if error else "OK", spans[0]["durationMs"],
        round(sum(span["cost"] or 0 for span in spans), 6), make_scores(rng, error), spans, tags,
        started, random_id(rng), totalTokens=sum(span["totalTokens"] for span in spans),
        sessionId=f"session-{rng.randrange(40)}" if rng.random() < 0.5 else UNDEFINED,
        metadata={"customerTier": rng.choice(("free", "pro")), "appVersion": "2.4.1"})


def make_spans(rng, steps, started, error, slowness=1):
    """The spans of a trace, as a tree; with an error, the last step failed."""
    spans, ancestors, start = [], [], started
    for position, (kind, name, depth) in enumerate(steps):
        last = position == len(steps) - 1
        duration = int(rng.lognormvariate(6.3, 0.8) * slowness)
        span = make_span(rng, kind, name, start, duration, error if last else None)
        span["parentSpanId"] = ancestors[depth - 1] if depth else None
        ancestors[depth:] = [span["id"]]
        start += datetime.timedelta(milliseconds=duration if depth else 3)
        spans.append(span)
    total = sum(span["durationMs"] for span in spans[1:]) + 8
    cover_children(spans)
    spans[0].update(durationMs=total, endTime=later(spans[0]["startTime"], total),
                    status="ERROR" if error else "OK")
    return spans


def cover_children(spans):
    """Lets each span last until the last of those below it ends; children come after parents."""
    by_id = {span["id"]: span for span in spans}
    for span in reversed(spans[1:]):
        parent = by_id[span["parentSpanId"]]
        parent["endTime"] = max(parent["endTime"], span["endTime"])
        parent["durationMs"] = milliseconds_between(parent["startTime"], parent["endTime"])


def milliseconds_between(start, end):
    return round((parse_time(end) - parse_time(start)).total_seconds() * 1000)


def make_span(rng, kind, name, start, duration, error):
    """A span; its duration is in milliseconds."""
    span = {"id": random_id(rng), "name": name, "type": kind, "startTime": stamp(start),
            "endTime": later(stamp(start), duration), "durationMs": duration, "cost": None,
            "status": "ERROR" if error else "OK", "errorMessage": error, "totalTokens": 0,
            "input": {"userQuery": "Where is my order?"}, "output": None if error else "done"}
    if kind == "LLM":
        span["input"] = {"messages": [
            {"role": "system", "content": "You answer customers of a web shop.\nBe brief."},
            {"role": "user", "content": "Where is my order? 제 주문은 어디에 있나요? 📦"}]}
        model, prompt_price, completion_price = rng.choice(MODELS)
        prompt, completion = rng.randrange(200, 3000), rng.randrange(20, 600)
        span.update(model=model, modelParameters={"maxTokens": 800, "temperature": 0.2},
                    promptTokens=prompt, completionTokens=completion,
                    totalTokens=prompt + completion,
                    cost=round(prompt * prompt_price + completion * completion_price, 6))
    return span


def later(time, milliseconds):
    return stamp(parse_time(time) + datetime.timedelta(milliseconds=milliseconds))


def make_scores(rng, error):
    if rng.random() < 0.3:
        return []
    value = round(rng.uniform(0.05, 0.45) if error else rng.uniform(0.55, 1), 2)
    good = value >= 0.5
    scores = [{"id": random_id(rng), "evaluatorName": "helpfulness", "value": value,
               "label": "pass" if good else "fail", "reasoning": REASONS[good]}]
    if rng.random() < 0.5:
        scores.append({"id": random_id(rng), "evaluatorName": "valid-json",
                       "value": 0 if error == ERRORS[3] else 1})
    return scores


def add_evaluators(server, rng):
    for name, kind, config in (
            ("Has JSON", "JSON_SCHEMA", {"schema": {"type": "object"}}),
            ("helpfulness", "LLM_JUDGE", {"model": "gpt-4o", "criteria": "Does it help?"}),
            ("Fast enough", "LATENCY", {"max_ms": 5000}),
            ("丁寧さ", "CONTAINS", {"value": ["です", "ます"]})):
        server.add_evaluator(name=name, type=kind, config=config, id=random_id(rng),
                             enabled=name != "Fast enough")


def add_datasets(server, rng):
    dataset = server.add_dataset(name="Refund questions", description="Cases that failed before",
                                 id=random_id(rng))
    for prompt, intent in (("Where is my refund?", "refund"), ("返品したいです", "return"),
                           ("أين طلبي؟", "order"), ("Cancel my order 😡", "cancel")):
        server.add_item(dataset, {"prompt": prompt}, {"intent": intent}, {"source": "support"},
                        id=random_id(rng))


def add_keys(server, rng):
    """Adds API keys: two have one name, and a revoked one has the name of an active one."""
    for name, is_revoked in (("CI Pipeline", False), ("Production", False), ("Old laptop", True),
                             ("Production", True), ("Deploy", False), ("Deploy", False)):
        server.add_key(name=name, id=random_id(rng),
                       revokedAt=server.world.now() if is_revoked else None)


def add_usage(server, labs, shop, helper):
    server.set_usage(server.org, None, 31700, 142650, 2130, projects={
        server.project: (24300, 109350, 1700), shop: (7400, 33300, 430)})
    server.set_usage(labs, None, 138600, 554400, 9120, projects={helper: (138600, 554400, 9120)})
    for back in range(1, 12):
        count = 30000 - 2300 * back
        server.set_usage(server.org, this_month(-back), count, count * 4, count // 15)


##################################################################################################
# Serving, and running one command
##################################################################################################

class Options:
    """The options before the command; the module's docstring describes them."""

    def __init__(self):
        self.port = self.data = None
        self.dialect, self.slow, self.live, self.role = "new", 0.0, 0.0, "owner"


def open_server(options):
    """A running server with the sample data. Raises OSError if it cannot listen."""
    data, port = options.data, options.port
    server = StandIn(data=data or ":memory:", empty=True, port=port or 0,
                     **DIALECTS[options.dialect])
    if data and port is None:
        server.port = read_port(data)
    server.start()
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        if not server.rows("settings"):
            add_sample_data(server)
        save_port(server)
        stack.pop_all()
    if options.slow:
        server.fault("", times=None, delay=options.slow)
    if options.live:
        threading.Thread(target=add_live_traces, args=(server, options.live), daemon=True).start()
    return server


def add_live_traces(server, seconds):
    """Adds traces until the server stops; each is scored once two more have been added."""
    rng, added = random.Random(), []
    while not server.stopping.wait(seconds):
        with server.transaction():
            now = datetime.datetime.now(datetime.timezone.utc)
            added.append(add_trace(server, rng, server.project, now))
            if len(added) > 2:
                score(server, rng, added[-3])


def score(server, rng, trace):
    for evaluator in server.rows("evaluators"):
        if evaluator["enabled"]:
            server.add_score(trace, evaluator["name"], round(rng.random(), 2))


def read_port(data):
    """The port of the last start with this file, or 0 (a free one) if there was none."""
    store = Store(data)
    rows = store.plain("settings")
    store.close()
    return rows[0]["port"] if rows else 0


def save_port(server):
    with server.transaction():
        server.store.remove("settings", "sandbox")
        server.store.add("settings", {"id": "sandbox", "port": server.listener.server_address[1]})


def serve(options):
    server = open_server(options)
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, frame: ended.set())
    try:
        print(describe(server, options.data), flush=True)
        while not ended.wait(0.5):
            pass
    finally:
        server.stop()
    return 0


def describe(server, data):
    """Instructions for using the server from another terminal."""
    home = shlex.quote(os.path.abspath(data) + ".home") if data else '"$(mktemp -d)"'
    key = active_key(server)
    script = f"{shlex.quote(sys.executable)} {shlex.quote(SCRIPT)}"
    return f"""\
Serving {server.url} until Ctrl-C. In another terminal:

  export TWOSIGNAL_URL={server.url}
  export TWOSIGNAL_HOME={home}
  twosignal() {{ {script} "$@"; }}

  echo {PASSWORD} | twosignal login -e {EMAIL} --password-stdin
  twosignal projects use "Support Agent"
  twosignal traces list
  twosignal traces list --status ERROR --json
  twosignal traces get {newest_trace(server)}
  twosignal traces check --since 24h --max-error-rate 20% --max-p95 8s
  twosignal evaluators list
  twosignal usage

Instead of logging in, the trace commands can use the API key of the project:

  export TWOSIGNAL_API_KEY={key}

viewer@example.com with the password viewer-pass can read but not change anything;
stranger@example.com is no member yet."""


def active_key(server):
    return next(row["key"] for row in server.rows("api_keys") if not row["revokedAt"])


def newest_trace(server):
    with server.lock:
        return next(server.store.find("traces", server.project, newest=True))["id"]


def run(options, command):
    """Runs one twosignal command as a separate process; returns its exit code."""
    server = open_server(options)
    try:
        with tempfile.TemporaryDirectory(prefix="twosignal-sandbox-") as home:
            account = ACCOUNTS[options.role]
            log_in(server, home, account[0])
            environment = make_environment(server, home, account)
            if options.role == "key":
                environment["TWOSIGNAL_API_KEY"] = active_key(server)
            code = wait_for(subprocess.Popen([sys.executable, SCRIPT] + command, env=environment))
    finally:
        server.stop()
    return code if code >= 0 else 128 - code


def wait_for(child):
    """The exit code of the command. The terminal sends it Ctrl-C; SIGTERM is forwarded."""
    before = [(signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN)),
              (signal.SIGTERM, signal.signal(signal.SIGTERM, lambda *_: child.terminate()))]
    try:
        return child.wait()
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def log_in(server, home, email):
    session = dict(server.tokens(email), api_url=server.url)
    for name, content in (("session.json", session), ("config.json", {"api_url": server.url})):
        path = os.path.join(home, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            json.dump(content, file)


def make_environment(server, home, account):
    """The environment of the command: the account, organization and project are set."""
    email, password = account
    environment = dict(os.environ, TWOSIGNAL_HOME=home, TWOSIGNAL_URL=server.url,
                       TWOSIGNAL_EMAIL=email, TWOSIGNAL_PASSWORD=password,
                       TWOSIGNAL_PROJECT=server.project, TWOSIGNAL_ORG=server.org)
    hosts = environment.get("no_proxy") or environment.get("NO_PROXY")
    no_proxy = f"{hosts},127.0.0.1" if hosts else "127.0.0.1"
    environment.update(no_proxy=no_proxy, NO_PROXY=no_proxy)
    return environment


def read_arguments(argv):
    """The options and the command, which follows them. Raises ValueError."""
    options, rest = Options(), list(argv)
    while rest and rest[0].startswith("--") and rest[0].split("=")[0][2:] in vars(options):
        name, equals, value = rest.pop(0)[2:].partition("=")
        if not equals:
            if not rest:
                raise ValueError(f"--{name} requires a value")
            value = rest.pop(0)
        setattr(options, name, READERS[name](value))
    return options, rest


def read_number(text, kind=float, maximum=3600):
    try:
        if 0 <= kind(text) <= maximum:
            return kind(text)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is not a number from 0 to {maximum}")


def reader_of(name, choices):
    """The reader of an option that has these choices."""
    def read(text):
        if text not in choices:
            raise ValueError(f"--{name} must be {' or '.join(choices)}, not {text!r}")
        return text
    return read


READERS = {"port": lambda text: read_number(text, int, 65535), "data": str,
           "dialect": reader_of("dialect", DIALECTS), "role": reader_of("role", ACCOUNTS),
           "slow": read_number, "live": read_number}


def main(argv):
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    try:
        options, command = read_arguments(argv)
    except ValueError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2
    try:
        return run(options, command) if command else serve(options)
    except (OSError, sqlite3.Error) as error:
        print(f"sandbox: cannot serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
