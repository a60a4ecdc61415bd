"""`traces send`: bundles, files of traces, events and OTLP go to another project or server."""
import gzip
import json
import math
import os
import signal
import sys

from tools import (DIALECTS, PROGRAM, PYPY, EventfulClock, PassingClock, TracesCase, costly,
                   file_bytes, heed_interrupts, kept_signals, measured_command, merged, minutes_ago,
                   posix, run_command)

MADE_BY_SERVERS = {"createdAt", "projectId", "updatedAt"}
EVENT = {"id": "e1", "type": "trace-create", "timestamp": "2026-03-14T10:30:00Z",
         "body": {"id": "11111111-1111-4111-8111-111111111111", "name": "agent"}}
SPAN = {"id": "e2", "type": "span-create", "timestamp": "2026-03-14T10:30:00Z",
        "body": {"id": "22222222-2222-4222-8222-222222222222", "name": "step", "type": "LLM",
                 "traceId": EVENT["body"]["id"]}}
TRACE = {"id": "t1", "status": "OK", "duration_ms": 5, "cost_usd": 0.1, "name": "agent",
         "created_at": "2026-03-14T10:30:00Z", "scores": [], "spans": [
             {"id": "s2", "name": "child", "parent_span_id": "s1", "start_time":
              "2026-03-14T10:30:00Z"}, {"id": "s1", "name": None, "type": "AGENT",
                                        "start_time": "2026-03-14T10:30:00Z"}]}
OTLP_TRACE, OTLP_ROOT = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"


def otlp_span(span=OTLP_ROOT, parent="", **fields):
    return dict({"traceId": OTLP_TRACE, "spanId": span, "parentSpanId": parent, "name": "agent",
                 "kind": 2, "startTimeUnixNano": "1773484200000000000",
                 "endTimeUnixNano": "1773484201500000000"}, **fields)


def otlp(*spans):
    service = {"key": "service.name", "value": {"stringValue": "shop"}}
    return {"resourceSpans": [{"resource": {"attributes": [service]},
                               "scopeSpans": [{"scope": {"name": "lib"}, "spans": list(spans)}]}]}


def events(count, **fields):
    return [dict(EVENT, id=f"e{place}", body=dict(EVENT["body"], id=f"t{place}", **fields))
            for place in range(count)]


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


class SendCase(TracesCase):
    def setUp(self):
        super().setUp()
        self.take(empty=True)

    def take(self, **options):
        """Send to a new server."""
        self.target = self.serve(**dict({"empty": True}, **options))
        self.env = {"TWOSIGNAL_API_KEY": self.target.secret(self.target.add_key()),
                    "TWOSIGNAL_URL": self.target.url}

    def send(self, source, *args, **kwargs):
        return self.cli("traces", "send", source, *args, env=merged(self.env, kwargs.pop(
            "env", None)), **kwargs)

    def send_lines(self, *values, args=(), **kwargs):
        return self.send(self.write("sent.jsonl", lines(*values)), *args, **kwargs)

    def posts(self):
        return [request.body for request in self.target.requests if request.method == "POST"]

    def assertRefused(self, result, *texts, code=2):
        """A usage error, and nothing was sent."""
        self.assertFails(result, code, *texts)
        self.assertEqual(self.target.requests, [])

    def fail_at(self, place, **fault):
        """The request behind so many good ones fails."""
        answer, seen = self.target.respond, []

        def respond(api, request):
            seen.append(request)
            response = answer(api, request)
            if len([each for each in seen if each.method == "POST"]) == place:
                self.target.fault("/api/v1/traces", **fault)
            return response
        self.target.respond = respond

    def fill(self):
        for place in range(130):
            failed = place % 9 == 0
            self.server.add_trace(
                name=f"agent {place % 3}", created=minutes_ago(place), tags=["even"][place % 2:],
                sessionId=f"s{place % 2}", status="ERROR" if failed else "OK",
                cost=0.25, totalTokens=7,
                metadata={"snake_key": {"camelKey": place, "none": None}},
                spans=[{"id": f"root {place}", "name": "root", "type": "AGENT", "output": "done",
                        "input": {"a_b": "\u00e4\U0001f600", "cD": [None, 1.5]}, "cost": None,
                        "metadata": {"top": 1}, "durationMs": 1200},
                       {"name": "call", "parentSpanId": f"root {place}", "model": f"m{place % 2}",
                        "durationMs": 1200,
                        "modelParameters": {"top_p": 1, "maxTokens": 5}, "type": "LLM",
                        "promptTokens": 3, "completionTokens": 4, "totalTokens": 7, "cost": 0.25,
                        "status": "ERROR" if failed else "OK", "input": False, "output": 0,
                        "errorMessage": f"broken {place % 2}" if failed else None}],
                scores=[{"evaluatorName": "tone", "value": 0.5}] * (place % 2))

    def content(self, server):
        """What a server stores, without what it makes itself."""
        return {table: sorted(({key: value for key, value in row.items()
                                if key not in MADE_BY_SERVERS and value is not None}
                               for row in server.rows(table)), key=lambda row: row["id"])
                for table in ("traces", "spans")}

    def shape(self, server):
        """Its traces, spans and their parents, without IDs."""
        spans = {row["id"]: row for row in server.rows("spans")}
        names = {row["id"]: row["name"] for row in server.rows("traces")}
        return sorted((names[row["traceId"]], row["name"], str(row["input"]),
                       spans.get(row["parentSpanId"], {}).get("name", ""))
                      for row in spans.values())


class Exports(SendCase):
    def test_bundle_is_the_same_on_another_server(self):
        """Row 76: what `traces export` wrote is the same on the server that `traces send` sends it
        to: IDs, parents, times, data, tokens and costs."""
        for dialect, options in DIALECTS:
            with self.subTest(dialect=dialect):
                self.use(**options)
                self.take(**options)
                self.fill()
                self.assertOk(self.traces("export", self.path("one " + dialect)))
                result = self.assertOk(
                    self.send(self.path("one " + dialect), "--json"),
                    "Scores are not sent: the project's evaluators score the traces anew.\n")
                self.assertEqual(result.json, {"traces": 130, "events": 390, "accepted": 390})
                before, after = self.content(self.server), self.content(self.target)
                self.assertEqual(after["traces"], before["traces"])
                self.assertEqual(after["spans"], before["spans"])

    def test_all_forms_and_their_bytes(self):
        self.fill()
        self.assertOk(self.traces("export", self.path("bundle")))
        self.assertOk(self.list("--all", "--spans", "-o", self.path("a.json")))
        self.assertOk(self.list("--all", "--spans", "-o", self.path("a.jsonl")))
        self.write("a.gz", gzip.compress(file_bytes(self.path("a.jsonl"))))
        expected = None
        for name in ("bundle", "a.json", "a.jsonl", "a.gz", "-"):
            with self.subTest(name=name):
                self.take()
                stdin = file_bytes(self.path("a.gz")) if name == "-" else None
                self.assertEqual(self.send(self.path(name) if name != "-" else name,
                                           stdin=stdin).code, 0)
                expected = expected or self.content(self.target)
                self.assertEqual(self.content(self.target), expected)

    def test_one_trace(self):
        self.fill()
        trace = self.server.rows("traces")[0]["id"]
        shown = self.assertOk(self.traces("get", trace, "--json")).out
        self.assertEqual(self.send("-", stdin=shown).code, 0)
        self.assertEqual([row["id"] for row in self.target.rows("traces")], [trace])

    def test_events_are_as_documented(self):
        """In both spellings: the one of the documentation, and the one of the SDKs."""
        self.assertOk(self.send_lines(dict(TRACE, session_id="x", tags=["a"])))
        (body,) = self.posts()
        self.assertEqual(body["batch"][0], {
            "id": "t1", "type": "trace-create", "timestamp": "2026-03-14T10:30:00Z",
            "body": {"id": "t1", "name": "agent", "status": "OK", "session_id": "x",
                     "sessionId": "x", "tags": ["a"], "start_time": "2026-03-14T10:30:00Z",
                     "startTime": "2026-03-14T10:30:00Z"}})
        child, parent = body["batch"][1:]
        self.assertEqual((parent["body"]["id"], parent["body"]["name"]), ("s1", "unnamed"))
        self.assertEqual(child["body"], {
            "id": "s2", "name": "child", "type": "CUSTOM", "trace_id": "t1", "traceId": "t1",
            "parent_span_id": "s1", "parentSpanId": "s1", "start_time": "2026-03-14T10:30:00Z",
            "startTime": "2026-03-14T10:30:00Z"})

    def test_trace_without_its_spans(self):
        self.fill()
        self.assertOk(self.list("-n", "2", "-o", self.path("a.jsonl")))
        self.assertRefused(self.send(self.path("a.jsonl")), "a.jsonl, line 1", "'traces export'")

    def test_incomplete_and_damaged_bundles(self):
        self.fill()
        self.assertOk(self.traces("export", self.path("bundle")))
        manifest = self.path("bundle/MANIFEST.json")
        text = file_bytes(manifest).decode("utf-8")
        for changed, expected in ((text.replace('"complete": true', '"complete": false'),
                                   "--resume"), (text.replace('"sha256": "', '"sha256": "0'),
                                                 "damaged")):
            self.write("bundle/MANIFEST.json", changed)
            self.assertRefused(self.send(self.path("bundle")), expected)

    def test_unfinished_traces_have_no_status(self):
        """Servers accept OK and ERROR only."""
        self.assertOk(self.send_lines(dict(TRACE, status="RUNNING", spans=[])))
        self.assertNotIn("status", self.posts()[0]["batch"][0]["body"])

    def test_a_lone_surrogate(self):
        self.assertOk(self.send_lines(dict(TRACE, metadata={"a": "\ud800"})))
        self.assertEqual(self.target.rows("traces")[0]["metadata"], {"a": "\ud800"})


class Batches(SendCase):
    def test_forms(self):
        for values in ([{"batch": [EVENT, SPAN]}], [EVENT, SPAN], [[EVENT, SPAN]],
                       [{"batch": [EVENT]}, {"batch": [SPAN]}]):
            with self.subTest(values=values):
                self.take()
                result = self.assertOk(self.send_lines(*values))
                self.assertEqual(result.out, "Sent 1 trace (2 events).\n")
                self.assertEqual(self.posts(), [{"batch": [EVENT, SPAN]}])

    def test_exports_and_events_in_one_file(self):
        self.assertOk(self.send_lines(TRACE, {"batch": [EVENT]}, SPAN))
        self.assertEqual(len(self.target.rows("traces")), 2)

    def test_nothing_to_send(self):
        """What made the file may have failed; a bundle without traces is whole."""
        for content in ("", "[]", '{"batch": []}', '{"resourceSpans": []}'):
            with self.subTest(content=content):
                self.assertRefused(self.send("-", stdin=content), "stdin, line 1 ", "nothing")
        self.assertOk(self.traces("export", self.path("bundle")))
        self.server.clear()
        self.use(empty=True)
        self.assertOk(self.traces("export", self.path("empty")))
        result = self.assertOk(self.send(self.path("empty"), "--wait"))
        self.assertEqual(result.out, "Sent 0 traces (0 events).\n")

    def test_statuses_that_are_not_about_the_events(self):
        """They end it, and no event is blamed."""
        for status in (402, 405, 415, 451):
            with self.subTest(status=status):
                self.take()
                self.target.fault("/api/v1/traces", times=None, status=status)
                result = self.send_lines(*events(300))
                self.assertFails(result, 1, f"{status}")
                self.assertNotIn("sent.jsonl", result.err)
                self.assertEqual(len(self.posts()), 1)

    def test_a_trace_with_fields_of_a_newer_server(self):
        self.assertOk(self.send_lines(dict(TRACE, batch=3, body="x")))
        self.assertEqual(len(self.target.rows("traces")), 1)

    def test_from_a_terminal(self):
        output, code = self.run_terminal(
            "traces", "send", "-", env=self.env,
            script=[("Reading traces from the terminal", json.dumps(EVENT) + "\n\x04")])
        self.assertEqual(code, 0, output)
        self.assertEqual(len(self.target.rows("traces")), 1)

    def test_files_that_are_refused(self):
        """Row 77: a file is checked to its end before the first event is sent."""
        body = EVENT["body"]
        for fault, expected in (
                ("{", "not JSON"), ("[]", "line 2"), ("5", "line 2"),
                ('"id"', "line 2"), ("{}", "line 2"),
                (dict(EVENT, type="other"), "type"), (dict(EVENT, body=None), "body"),
                (dict(EVENT, body=[]), "body"), (dict(EVENT, body={"id": "a"}), "name"),
                (dict(EVENT, type=["a"]), "type"), (dict(EVENT, body=dict(body, name="")), "name"),
                ({"id": "a", "body": {"name": "a"}}, "type"),
                ({"type": "trace-create", "body": {"name": "a"}}, "id, timestamp, body.id."),
                (dict(EVENT, timestamp=None), "timestamp"),
                (dict(SPAN, body=dict(SPAN["body"], traceId=None)), "body.trace_id."),
                (dict(SPAN, body=dict(SPAN["body"], type="")), "body.type."),
                (otlp(otlp_span()), "another kind"),
                (json.dumps(EVENT).replace('"agent"', '"a", "n": 1e400'), "number")):
            with self.subTest(fault=str(fault)[:80]):
                text = lines(EVENT) + (fault if isinstance(fault, str) else json.dumps(fault))
                self.assertRefused(self.send(self.write("a.jsonl", text)), "a.jsonl, line 2 ",
                                   expected)

        for fault in ({"batch": {"a": 1}}, {"batch": [5]}, dict(TRACE, spans=5), dict(TRACE, id=""),
                      dict(TRACE, created_at=None),
                      dict(TRACE, spans=[{"name": "without an ID"}])):
            self.assertRefused(self.send_lines(fault), "sent.jsonl, line 1 ")

    def test_protobuf(self):
        content = b"\n\x9c\x01\n\x1a\n\x18\n\x0cservice.name\x12\x08\n\x06shop\xff\x00\x80"
        for each in (content, gzip.compress(content)):
            self.assertRefused(self.send(self.write("a.pb", each)), "a.pb, line ",
                               "OTLP as JSON, not protobuf")

    def test_limits_of_a_request(self):
        self.assertOk(self.send_lines(*events(2500)))
        self.assertEqual([len(each["batch"]) for each in self.posts()], [1000, 1000, 500])
        self.take(body_limit=5000000)
        self.assertOk(self.send_lines(*events(30, metadata={"a": "x" * 900000})))
        self.assertEqual([len(each["batch"]) for each in self.posts()], [5] * 6)

    def test_requests_that_are_too_large(self):
        """The server's own limit is found once, not with each request."""
        self.take(body_limit=100000)
        self.assertOk(self.send_lines(*events(500, metadata={"a": "x" * 20000})))
        self.assertEqual(len(self.target.rows("traces")), 500)
        self.assertLess(len(self.posts()), 250)
        self.take(batch_limit=100)
        self.assertOk(self.send_lines(*events(500)))
        self.assertEqual(len(self.target.rows("traces")), 500)

    def test_one_event_that_is_too_large(self):
        self.take(body_limit=1000)
        values = events(9)
        values[6]["body"]["metadata"] = {"a": "x" * 2000}
        result = self.send_lines(*values)
        self.assertFails(result, 1, "sent.jsonl, line 7: Request too large", "6 of 9 events")
        self.assertEqual(len(self.target.rows("traces")), 6)

    def test_an_event_that_the_server_rejects(self):
        values = events(300)
        values[211]["body"]["tags"] = "no list"
        result = self.send_lines(*values)
        self.assertFails(result, 1, "sent.jsonl, line 212: ", "Invalid event", "211 of 300 events")
        self.assertEqual(len(self.target.rows("traces")), 211)

    def test_fewer_are_accepted(self):
        """All is sent, since the server may have had the others; the first place is told."""
        for accepted in (0, 2, 1001):
            with self.subTest(accepted=accepted):
                self.take()
                self.fail_at(1, status=201, body={"accepted": accepted})
                result = self.send_lines(*events(3500))
                self.assertFails(result, 1, "The server did not accept all events. ", "line 1001",
                                 f"The server accepted {2500 + accepted:,} of 3,500 events; ")
                self.assertEqual(len(self.posts()), 4)

    def test_no_number_is_accepted(self):
        """Then nothing more is sent, and what was accepted before is told."""
        for body in ({}, [], {"accepted": True}, {"accepted": "1000"}):
            with self.subTest(body=body):
                self.take()
                self.fail_at(1, status=201, body=body)
                result = self.send_lines(*events(3500))
                self.assertFails(result, 8, "accepted", "line 1001",
                                 "The server accepted 1,000 of 3,500 events; ")
                self.assertEqual(len(self.posts()), 2)

    def test_dry_run(self):
        result = self.assertOk(self.send_lines(*events(1500), args=("--dry-run",),
                                               env={"TWOSIGNAL_API_KEY": None}))
        self.assertEqual(result.out, "Would send 1,500 traces (1,500 events).\n")
        self.assertEqual(self.target.requests, [])

    def test_without_a_key(self):
        result = self.send_lines(EVENT, env={"TWOSIGNAL_API_KEY": None})
        self.assertFails(result, 4, "requires a project API key")
        self.assertFails(self.send_lines(EVENT, env={"TWOSIGNAL_API_KEY": "ts_wrong_key"}), 4,
                         "API key is not accepted")

    def test_a_viewer_needs_a_key_too(self):
        self.log_in("viewer@example.com")
        self.assertOk(self.send_lines(EVENT))


class Otlp(SendCase):
    def test_spans_are_stored(self):
        child = otlp_span("ab" * 8, OTLP_ROOT, name="call", attributes=[
            {"key": "gen_ai.request.model", "value": {"stringValue": "m"}}])
        for values in ([otlp(otlp_span(), child)], [otlp(otlp_span()), otlp(child)]):
            self.take()
            result = self.assertOk(self.send_lines(*values, args=("--json",)))
            self.assertEqual(result.json, {"traces": 1, "events": 2, "accepted": 2})
            trace, = self.target.rows("traces")
            self.assertEqual((trace["id"], trace["tags"]), (OTLP_TRACE, ["shop"]))
            rows = {row["id"]: row for row in self.target.rows("spans")}
            self.assertEqual(rows["ab" * 8]["parentSpanId"], OTLP_ROOT)
            self.assertEqual(rows["ab" * 8]["model"], "m")

    def test_batches_keep_the_resource_and_the_scope(self):
        self.assertOk(self.send_lines(otlp(*[otlp_span(f"{n:016x}") for n in range(1500)])))
        sizes = []
        for body in self.posts():
            sizes.append(0)
            for resource in body["resourceSpans"]:
                self.assertEqual(resource["resource"], otlp()["resourceSpans"][0]["resource"])
                for scope in resource["scopeSpans"]:
                    self.assertEqual(scope["scope"], {"name": "lib"})
                    sizes[-1] += len(scope["spans"])
        self.assertEqual(sizes, [1000, 500])
        self.assertEqual(len(self.target.rows("spans")), 1500)

    def test_new_ids(self):
        link = {"traceId": OTLP_TRACE, "spanId": OTLP_ROOT}
        child = otlp_span("ab" * 8, OTLP_ROOT, links=[link])
        self.assertOk(self.send_lines(otlp(child, otlp_span()), args=("--new-ids",)))
        sent, root = [scope["spans"][0] for resource in self.posts()[0]["resourceSpans"]
                      for scope in resource["scopeSpans"]]
        self.assertNotEqual(root["traceId"], OTLP_TRACE)
        self.assertEqual(sent["traceId"], root["traceId"])
        self.assertEqual(sent["parentSpanId"], root["spanId"])
        self.assertEqual(sent["links"], [{"traceId": root["traceId"], "spanId": root["spanId"]}])
        self.assertRegex(root["traceId"] + root["spanId"], "^[0-9a-f]{48}$")

    def test_what_a_filter_left_empty(self):
        values = otlp(otlp_span())
        values["resourceSpans"].append({"resource": {}, "scopeSpans": []})
        self.assertOk(self.send_lines(values))
        self.assertEqual(len(self.target.rows("spans")), 1)

    def test_new_ids_in_what_has_the_wrong_type(self):
        """It is the server's to refuse."""
        for fields in ({"links": None}, {"links": "x"}, {"links": [None, 5]}, {"spanId": 5}):
            with self.subTest(fields=fields):
                self.take()
                self.assertOk(self.send_lines(otlp(otlp_span(**fields)), args=("--new-ids",)))
        event = dict(EVENT, body=dict(EVENT["body"], links="x", spans=3))
        self.assertOk(self.send_lines(event, args=("--new-ids",)))

    def test_spans_that_are_refused(self):
        for fault in (otlp(otlp_span(None)), otlp(otlp_span(traceId="")), {"resourceSpans": 5},
                      {"resourceSpans": [{"scopeSpans": {"a": 1}}]}, {"resourceSpans": [
                          {"instrumentationLibrarySpans": [{"spans": [otlp_span()]}]}]}):
            with self.subTest(fault=fault):
                self.assertRefused(self.send_lines(otlp(otlp_span()), fault), "line 2 ")


class NewIds(SendCase):
    def test_bundle(self):
        self.fill()
        self.assertOk(self.traces("export", self.path("bundle")))
        self.assertEqual(self.send(self.path("bundle")).code, 0)
        shape = self.shape(self.target)
        self.assertEqual(self.send(self.path("bundle"), "--new-ids", "--wait").code, 0)
        self.assertEqual(len(self.target.rows("traces")), 260)
        self.assertEqual(self.shape(self.target), sorted(shape + shape))
        self.assertEqual(self.send(self.path("bundle")).code, 0)     # the same IDs again
        self.assertEqual(len(self.target.rows("traces")), 260)

    def test_batch(self):
        for spelling, parent in (("traceId", "parentSpanId"), ("trace_id", "parent_span_id")):
            child = dict(SPAN, id="e3", body={
                "id": "33333333-3333-4333-8333-333333333333", "name": "b", "type": "TOOL",
                spelling: EVENT["body"]["id"], parent: SPAN["body"]["id"].upper(),
                "input": {"id": SPAN["body"]["id"]}})
            self.take()
            self.assertOk(self.send_lines(child, EVENT, SPAN, args=("--new-ids",)))
            (body,) = self.posts()
            child_id, trace, span = body["batch"]
            new = [each["body"]["id"] for each in body["batch"]]
            self.assertEqual(len({*new, *(each["id"] for each in body["batch"])}
                                 & {"e1", "e2", "e3", EVENT["body"]["id"]}), 0)
            self.assertEqual(child_id["body"][spelling], trace["body"]["id"])
            self.assertEqual(child_id["body"][parent], span["body"]["id"])
            self.assertEqual(child_id["body"]["input"], child["body"]["input"])
            self.assertRegex(new[1], "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


class Trouble(SendCase):
    def test_a_connection_that_breaks(self):
        """Row 78: after a failure, it says how many events were accepted for certain, and which
        one is the first that may be missing."""
        for fault, code in ((dict(reset=True), 9), (dict(status=500), 8), (dict(status=504), 8),
                            (dict(reset=True, after=True), 9)):
            with self.subTest(fault=fault):
                self.take()
                path = self.write("a.jsonl", lines(*events(3500)))
                self.target.fault("/api/v1/traces", times=2, status=429,
                                  headers={"Retry-After": "1"})
                self.assertOk(self.send(path, "--dry-run"))
                self.fail_at(2, **fault)
                result = self.send(path)
                self.assertFails(result, code, "The server accepted 2,000 of 3,500 events; ",
                                 "a.jsonl, line 2001", "repeats the same IDs")
                self.assertOk(self.send(path))
                self.assertEqual(len(self.target.rows("traces")), 3500)

    @posix
    def test_ctrl_c(self):
        self.target.rate_limit = (2, 1)
        path = self.write("a.jsonl", lines(*events(3500)))

        def strike():
            os.kill(os.getpid(), signal.SIGINT)
        with kept_signals():
            heed_interrupts()
            result = self.send(path, clock=EventfulClock(strike))
        self.assertEqual(result.code, 130)
        self.assertIn("The server accepted 2,000 of 3,500 events; the first that may be missing is "
                      f"in {path}, line 2001.", result.err)

    def test_rate_limits(self):
        """A large file gets through, as long as the server says when to go on."""
        self.target.rate_limit = (1, 5)
        self.target.limit_headers = (("Retry-After", "5"),)
        result = self.assertOk(self.send_lines(*events(4500), clock=PassingClock()))
        self.assertEqual(len(self.target.rows("traces")), 4500)
        self.assertEqual(result.out, "Sent 4,500 traces (4,500 events).\n")

    def test_rate_limits_without_an_end(self):
        for headers in ((("Retry-After", "20"),), (), (("Retry-After", "4000"),)):
            self.take(rate_limit=(1, math.inf), limit_headers=headers)
            result = self.send_lines(*events(1500), clock=PassingClock())
            self.assertFails(result, 7, "Rate limited", "1,000 of 1,500 events", "line 1001")


    @posix
    def test_no_room_for_temporary_files(self):
        path = self.write("a.jsonl", lines(*events(50)))
        result = run_command(["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, PROGRAM,
                              "traces", "send", path], merged(self.environment, self.env))
        self.assertRefused(result, "Cannot write a temporary file", "TMPDIR", code=1)


class Waiting(SendCase):
    def test_until_all_are_listed(self):
        for values in (events(250), [otlp(otlp_span())], [TRACE]):
            self.take(ingest_delay=3)
            self.target.add_trace(name="other")
            result = self.assertOk(self.send_lines(*values, args=("--wait", "--json"),
                                                   clock=PassingClock()),
                                   f"0 of {len(values)} traces arrived.\n")
            self.assertEqual(result.json["listed"], len(values))

    def test_times_in_several_zones(self):
        times = ("2026-03-14T10:30:00+14:00", "2026-03-14T01:30:00Z", "2026-03-14T10:30:00-11:00",
                 "0001-01-01T00:00:00Z")
        for count in (3, 4):
            self.take()
            values = [dict(event, body=dict(event["body"], startTime=when))
                      for event, when in zip(events(count), times)]
            result = self.assertOk(self.send_lines(*values, args=("--wait", "--json"),
                                                   clock=PassingClock()))
            self.assertEqual(result.json["listed"], count)

    def test_no_worker(self):
        self.take(ingest_delay=math.inf)
        result = self.send_lines(EVENT, args=("--wait", "--timeout", "20s"), clock=PassingClock())
        self.assertEqual(result.code, 11, result)
        self.assertIn("Timed out after 20s: 0 of 1 traces arrived. Accepted means queued",
                      result.err)
        self.assertIn("Sent 1 trace", result.out)

    def test_a_server_that_fails_meanwhile(self):
        self.target.fault("/api/v1/traces", times=1, status=201, body={"accepted": 1})
        self.target.fault("/api/v1/traces", times=None, status=500)
        result = self.send_lines(EVENT, args=("--wait",), clock=PassingClock())
        self.assertFails(result, 8, "500", "The server accepted 1 of 1 event.", out="Sent 1 trace")


class Memory(SendCase):
    @posix
    @costly
    def test_is_flat(self):
        path = self.path("a.jsonl")
        with open(path, "w") as file:
            for place in range(30000):
                file.write(lines(dict(TRACE, id=f"t{place}", spans=[])))
        for args in ((), ("--new-ids",)):
            result = run_command(measured_command(PROGRAM, "traces", "send", path, *args),
                                 merged(self.environment, self.env))
            status, megabytes = result.err.split()[-2:]
            self.assertEqual(status, "0", result)
            self.assertLess(float(megabytes), 160 if PYPY else 60)
