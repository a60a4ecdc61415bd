"""The sample data of the stand-in server: the same organizations, projects and traces each time.

The traces use every type of superjson, text in several scripts, and what occurs in real traces:
one that is still running, a failed one, an unknown cost, a span whose parent is missing.
"""
from factory import fixed_id
from superjson import UNDEFINED, Big, Date, Map, Set, parse_time, stamp, this_month

ORG, OTHER_ORG = fixed_id("b", 1), fixed_id("b", 2)
PROJECT, HIDDEN_PROJECT = fixed_id("c", 1), fixed_id("c", 2)
GOOD_SCORES = [{"evaluatorName": "helpfulness", "value": 0.92, "label": "pass",
                "reasoning": "because"},
               {"evaluatorName": "valid-json", "value": 1}]
TRACES = (  # newest first: name, status, duration in ms, cost, scores, tags
    ("support-agent", "OK", 800, "0.0034", GOOD_SCORES, []),
    ("checkout — 支払い", "OK", 1200, 0.012, [], ["production", "v2"]),
    ("refund-agent", "ERROR", 4800, 0.012, GOOD_SCORES, ["production"]),
    ("مساعد 🤖 e\u0301", "OK", 61000, None, GOOD_SCORES, []),
    ("a" * 300, "OK", 5, 0.012, GOOD_SCORES, []))


def add_base(server, created):
    """Adds the accounts, the organizations and their projects; `created` is a timestamp."""
    for number, (email, password) in enumerate(server.ACCOUNTS, 1):
        server.add_account(email, password, id=fixed_id("a", number))
    server.add_org("Acme 東京", "PRO", id=ORG, created=created, roles={
        server.OWNER[0]: "OWNER", server.VIEWER[0]: "VIEWER", server.ADMIN[0]: "ADMIN",
        server.MEMBER[0]: "MEMBER"})
    server.add_org("Other Company", "FREE", id=OTHER_ORG, created=created,
                   roles={server.OTHER_OWNER[0]: "OWNER"})
    server.add_project("Support Agent", ORG, id=PROJECT, created=created)
    server.add_project("Hidden Project", OTHER_ORG, id=HIDDEN_PROJECT, created=created)


def add_traces(server, newest):
    """Adds TRACES, a minute apart, the newest with the timestamp `newest`; and their usage."""
    seconds = parse_time(newest).timestamp()
    for position, row in enumerate(TRACES):
        add_trace(server, position, stamp(seconds - 60 * position), *row)
    server.set_usage(ORG, this_month(), traces=46000, spans=Big(180000), evals=900)
    for back in range(1, 12):
        count = 1000 * (11 - back)
        server.set_usage(ORG, this_month(-back), count, count * 4, count // 100)


def add_trace(server, position, started, name, status, duration, cost, scores, tags):
    newest = position == 0
    ended = UNDEFINED if newest else stamp(parse_time(started).timestamp() + 1.2)
    when = Date("2026-03-14T10:30:00.000Z")
    server.add_trace(name=name, status=status, duration_ms=duration, cost=cost, scores=scores,
                     spans=make_spans(position, status, ended, when), tags=tags, created=started,
                     id=fixed_id("d", position), endTime=ended,
                     totalTokens=Big(1250) if newest else 1250,
                     metadata={"camelKey": {"innerKey": 1}, "when": Date(when)})


def make_spans(position, status, ended, when):
    root, call, orphan = (fixed_id("e", 10 * position + number) for number in (1, 2, 3))
    return [
        {"id": root, "parentSpanId": None, "name": "root", "type": "AGENT", "endTime": ended,
         "durationMs": 1200, "cost": 0, "metadata": {},
         "input": {"userQuery": "hi", "dotted.key": when}, "output": Map([["k", Set([1, 2])]]),
         "modelParameters": UNDEFINED},
        {"id": call, "parentSpanId": root, "name": "gpt call", "type": "LLM", "endTime": ended,
         "durationMs": 900, "output": {"score": float("nan")}, "model": "gpt-4o",
         "modelParameters": {"maxTokens": 5}, "promptTokens": 1000, "completionTokens": 250,
         "totalTokens": Big(1250), "cost": "0.0034"},
        {"id": orphan, "parentSpanId": "missing-parent", "name": "orphan", "type": "TOOL",
         "endTime": UNDEFINED, "durationMs": 0, "input": [], "output": UNDEFINED, "cost": None,
         "status": status,
         "errorMessage": "Tool call timed out" if status == "ERROR" else None}]


def add_resources(server):
    """Adds evaluators, a dataset, an API key and a routing config."""
    server.add_evaluator(name="Has JSON", config={"schema": {"type": "object"}})
    server.add_evaluator(name="Fast enough", type="LATENCY", config={"max_ms": 2000}, enabled=False)
    dataset = server.add_dataset(name="Test Cases")
    server.add_item(dataset, {"prompt": "Hi"}, {"camelKey": 1})
    server.add_item(dataset, {"prompt": "こんにちは"})
    server.add_key(name="CI Pipeline")
    server.add_route("Cheap first")
