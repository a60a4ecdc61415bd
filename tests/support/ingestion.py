"""The worker of the stand-in server: it stores the traces that REST requests have queued.

`read_events` and `read_otlp` check the body of a request, and turn it into rows: pairs of a table,
"traces" or "spans", and wire fields. Rows are stored once `ingest_delay` listings lacked them.
"""
import re

from messages import Refusal
from superjson import UNDEFINED, Date, parse_time, stamp
from zod import STATUSES, js_type

SPAN_TYPES = ("AGENT", "TOOL", "LLM", "CHAIN", "RETRIEVAL", "CUSTOM", "DELEGATION", "VOICE",
              "HUMAN_HANDOFF", "GUARDRAIL")
TOKENS = ("promptTokens", "completionTokens", "totalTokens")
# By type of event: the fields that its body must have, and the types of all, None for any.
FIELDS = {
    "trace-create": ("name", {
        "id": "string", "name": "string", "startTime": "date", "endTime": "date",
        "metadata": "object", "tags": "array", "sessionId": "string", "status": STATUSES}),
    "span-create": ("traceId name type", {
        "id": "string", "traceId": "string", "parentSpanId": "string", "name": "string",
        "type": SPAN_TYPES, "startTime": "date", "endTime": "date", "input": None, "output": None,
        "model": "string", "modelParameters": "object", "usage": "object", "cost": "number",
        "status": STATUSES, "errorMessage": "string", "metadata": "object"})}
KINDS = {1: "CHAIN", 2: "AGENT", 3: "TOOL"}     # INTERNAL, SERVER, CLIENT
MODELS = ("gen_ai.request.model", "ai.model")
USAGE = {"promptTokens": ("gen_ai.usage.input_tokens", "ai.prompt_tokens"),
         "completionTokens": ("gen_ai.usage.output_tokens", "ai.completion_tokens")}
NO_SPAN = ("", "0" * 16)


def invalid(message):
    return Refusal("VALIDATION_ERROR", message, 400)


##################################################################################################
# The product's own events
##################################################################################################

def read_events(events, now):
    """The rows of a batch of events; keys are in snake_case or camelCase. Raises Refusal."""
    if not isinstance(events, list):
        raise invalid("batch must be a list of events")
    return [read_event(event, now) for event in events]


def read_event(event, now):
    if not (isinstance(event, dict) and isinstance(event.get("id"), str)
            and event.get("type") in FIELDS and isinstance(event.get("body"), dict)):
        raise invalid("Invalid event")
    required, types = FIELDS[event["type"]]
    body = {in_camel_case(key): value for key, value in event["body"].items()}
    body = {key: value for key, value in body.items() if key in types}
    if not (set(required.split()) <= set(body)
            and all(is_valid(types[key], value) for key, value in body.items())):
        raise invalid("Invalid event")
    body.setdefault("id", event["id"])
    body["startTime"] = stamp(body.get("startTime") or event.get("timestamp") or now)
    body["endTime"] = stamp(body["endTime"]) if "endTime" in body else None
    if event["type"] == "trace-create":
        return "traces", body
    usage = {in_camel_case(key): value for key, value in body.pop("usage", {}).items()}
    return "spans", dict(body, **tokens(usage))


def is_valid(kind, value):
    if isinstance(kind, tuple):
        return isinstance(value, str) and value in kind
    if kind == "date":
        return is_time(value)
    return kind is None or js_type(value) == kind


def is_time(value):
    try:
        return bool(isinstance(value, str) and parse_time(value))
    except ValueError:
        return False


def in_camel_case(name):
    return re.sub("_([a-z])", lambda match: match.group(1).upper(), name)


def tokens(usage):
    """The token counts of a span; unknown ones are None."""
    counts = {key: usage.get(key) for key in TOKENS}
    known = [count for count in counts.values() if count is not None]
    if known and counts["totalTokens"] is None:
        counts["totalTokens"] = sum(known)
    return counts


##################################################################################################
# OTLP/JSON
##################################################################################################

def read_otlp(body):
    """The rows of OTLP/JSON: those of spans, and one for each trace. Raises Refusal."""
    rows, traces = [], {}
    try:
        for resource in body["resourceSpans"]:
            attributes = plain_attributes((resource.get("resource") or {}).get("attributes"))
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    rows.append(("spans", read_otlp_span(span)))
                    traces.setdefault(span["traceId"], []).append((span, attributes))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise invalid(f"Invalid OTLP: {error!r}")
    return [("traces", trace_of_spans(trace, spans)) for trace, spans in traces.items()] + rows


def trace_of_spans(trace, spans):
    """The row of a trace; its name is None if none of these spans is its root."""
    roots = [pair for pair in spans if (pair[0].get("parentSpanId") or "") in NO_SPAN]
    _, attributes = (roots or spans)[0]
    service = attributes.get("service.name")
    return {"id": trace, "name": roots[0][0].get("name") if roots else None, "endTime": None,
            "startTime": min(nanoseconds(span["startTimeUnixNano"]) for span, _ in spans),
            "metadata": attributes, "tags": [service] if service else []}


def read_otlp_span(span):
    attributes = plain_attributes(span.get("attributes"))
    kind, status = span.get("kind") or 0, span.get("status") or {}
    kinds = dict(KINDS, SPAN_KIND_INTERNAL="CHAIN", SPAN_KIND_SERVER="AGENT",
                 SPAN_KIND_CLIENT="TOOL")
    model = first_of(attributes, MODELS)
    parent = span.get("parentSpanId") or ""
    end = span.get("endTimeUnixNano")
    row = {"id": span["spanId"], "traceId": span["traceId"], "name": span["name"],
           "parentSpanId": None if parent in NO_SPAN else parent,
           "type": "LLM" if model else kinds.get(kind, "CUSTOM"), "model": model,
           "startTime": nanoseconds(span["startTimeUnixNano"]),
           "endTime": nanoseconds(end) if end else None, "metadata": attributes,
           "status": "ERROR" if status.get("code") in (2, "STATUS_CODE_ERROR") else "OK",
           "errorMessage": status.get("message") or None}
    return dict(row, **tokens({key: first_of(attributes, names) for key, names in USAGE.items()}))


def nanoseconds(text):
    return stamp(int(text) // 10 ** 6 / 1000)


def first_of(attributes, names):
    return next((attributes[name] for name in names if name in attributes), None)


def plain_attributes(attributes):
    return {each["key"]: plain_value(each["value"]) for each in attributes or ()}


def plain_value(value):
    (kind, inner), = value.items()
    if kind == "intValue":
        return int(inner)
    if kind == "arrayValue":
        return [plain_value(each) for each in inner.get("values", ())]
    return plain_attributes(inner.get("values")) if kind == "kvlistValue" else inner


##################################################################################################
# Storing
##################################################################################################

class Worker:
    """Stores rows; a trace gets its totals, and what the request left out, from its spans.

    A trace or span that exists is replaced, unless it belongs to another project.
    """

    def __init__(self, server):
        self.server = server
        self.queue = []         # [number of listings that will lack them, project, rows]
        self.ended = set()      # IDs of the traces whose end is known, not computed

    def accept(self, project, rows):
        self.queue.append([self.server.ingest_delay, project, rows])
        self.work()

    def before_listing(self):
        self.work()
        for batch in self.queue:
            batch[0] -= 1

    def work(self):
        ready = [batch for batch in self.queue if batch[0] <= 0]
        self.queue = [batch for batch in self.queue if batch[0] > 0]
        for _, project, rows in ready:
            changed = {}        # IDs of traces, in order
            for table, row in rows:
                if self.may_replace(table, row["id"], project):
                    changed[row["id"] if table == "traces" else row["traceId"]] = None
                    self.store(table, project, row)
            for trace in changed:
                self.complete(trace)

    def may_replace(self, table, id, project):
        row = self.server.store.get(table, id)
        return not row or row["projectId"] == project

    def store(self, table, project, row):
        store = self.server.store
        known = store.get(table, row["id"]) or {}
        store.remove(table, row["id"])
        if table == "spans":
            row = dict({"cost": None, "durationMs": duration(row)}, **row)
            return self.server.add_span(row["traceId"], project, row)
        if row["endTime"]:
            self.ended.add(row["id"])
        if row["name"] is None:         # OTLP without the root span: the trace stays as it is
            started = min(row["startTime"], known.get("startTime", row["startTime"]))
            row = dict(row, name="unnamed")
            row.update(known, startTime=started)
        row = dict({"metadata": {}, "tags": [], "status": "OK", "totalTokens": 0}, **row)
        row["endTime"] = row["endTime"] or UNDEFINED
        return self.server.add_trace(project, created=row["startTime"], cost=None,
                                     duration_ms=duration(row), **row)

    def complete(self, trace):
        """Computes the totals of a trace from its spans, if it is known by now."""
        store = self.server.store
        row, spans = store.get("traces", trace), list(store.find("spans", trace))
        if not row or not spans:
            return
        ends = [span["endTime"] for span in spans if span["endTime"]]
        if ends and trace not in self.ended:
            row["endTime"] = Date(max(ends))
        row["durationMs"] = duration(row)
        row["totalCost"] = round(sum(span["cost"] or 0 for span in spans), 10)
        row["totalTokens"] = sum(span["totalTokens"] or 0 for span in spans)
        if any(span["status"] == "ERROR" for span in spans):
            row["status"] = "ERROR"
        store.put("traces", row)


def duration(row):
    """The milliseconds from the start of a row to its end, None if it has not ended."""
    if not row["endTime"]:
        return None
    lasted = parse_time(row["endTime"]) - parse_time(row["startTime"])
    return round(lasted.total_seconds() * 1000)
