"""Each recorded answer of a real server, through the client: request, and record or error."""
import json
import os
import time
import unittest
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import tools
import twosignal
from servers import Scripted, answer, header, target

with open(os.path.join(tools.TESTS, "wire", "recordings.json"), encoding="utf-8") as _file:
    RECORDINGS = json.load(_file)["recordings"]

TRACE = "d0000000-0000-4000-8000-000000000000"
FAILURES = {        # name of the recording: (message, exit code, problems)
    "login-refused": ("Wrong email or password", 4, []),
    "login-incomplete": ("The server refused: Email and password are required", 1, []),
    "refresh-reused": ("Authentication expired", 4, []),
    "not-an-api": ("The server answered 404 with a web page that is not 2Signal's protocol", 8, []),
    "unauthorized": ("Authentication expired", 4, []),
    "no-such-project": ("Project not found", 6, []),
    "limit-too-big": ("The server rejected the input", 1,
                      ["limit: Number must be less than or equal to 100"]),
    "forbidden": ("Permission denied", 5, []),
}
CREATED = {"createdAt": "created_at", "updatedAt": "updated_at"}


def recorded(name, server="trpc11"):
    """The one recording of that name."""
    found = [each for each in RECORDINGS if (each["name"], each["server"]) == (name, server)]
    if len(found) != 1:
        raise AssertionError("%d recordings of %s by %s" % (len(found), name, server))
    return found[0]


def scripted(*recordings):
    """A server that gives these recorded answers, one a connection."""
    replies = []
    for recording in recordings:
        response = recording["response"]
        body = response["body"]
        if not isinstance(body, str):
            body = json.dumps(body, ensure_ascii=False)
        headers = [("Content-Type", response["content_type"])]
        replies.append(answer(body, response["status"], headers))
    return Scripted(replies)


class Wire(tools.Case):
    def client(self, server, lasts=10 ** 6):
        """A client of that server with a stored session."""
        environment = tools.replaced_environment(dict(self.environment))
        environment.__enter__()
        self.addCleanup(environment.__exit__, None, None, None)
        short = mock.patch("time.sleep", tools.shortened_sleep([]))
        short.start()
        self.addCleanup(short.stop)
        self.write("home/session.json", {
            "access_token": "old.access.token", "refresh_token": "v1.old", "project_ref": "ref",
            "expires_at": int(time.time()) + lasts, "user_id": "u0", "user_email": "you@b.c",
            "api_url": server.url})
        client = twosignal.Client(server.url, twosignal.Transport(tools.DEADLINE))
        self.addCleanup(client.close)
        return client

    def ask(self, recording, client):
        """Makes the recorded request in the client's own words; returns the wire value."""
        request = recording["request"]
        procedure = request["path"].rpartition("/")[2]
        if request["method"] == "POST":
            return client.mutate(procedure, request["body"]["json"])
        return client.query(procedure, (request.get("input") or {}).get("json"))

    def answered(self, name, server="trpc11"):
        """(the wire value that the client makes of the recorded answer, the recorded value)"""
        recording = recorded(name, server)
        with scripted(recording) as place:
            found = self.ask(recording, self.client(place))
            self.assertSent(recording, place.requests[0])
        return found, recording["response"]["body"]["result"]["data"]["json"]

    def assertSent(self, recording, sent):
        """The request is the one that was recorded, but for the session."""
        request = recording["request"]
        parts = urlsplit(target(sent))
        self.assertEqual(sent.split(b" ")[0].decode("ascii"), request["method"])
        self.assertEqual(unquote(parts.path), request["path"].partition("?")[0])
        query = parse_qs(parts.query)
        given = json.loads(query["input"][0]) if "input" in query else None
        self.assertEqual(given, request.get("input"))
        body = sent.partition(b"\r\n\r\n")[2]
        self.assertEqual(json.loads(body.decode("utf-8")) if body else None, request.get("body"))
        if "/trpc/" in request["path"]:
            self.assertTrue(header(sent, "Cookie").startswith("sb-ref-auth-token="))

    def test_every_recording_is_understood(self):
        """Row 25: each recorded answer, success or error, is a value or a documented error."""
        met = set()
        for recording in RECORDINGS:
            name, path = recording["name"], recording["request"]["path"]
            if "/auth/" in path or "," in path or name.startswith("no-such-procedure"):
                continue
            with self.subTest(name=name, server=recording["server"]):
                with scripted(recording) as server:
                    client = self.client(server)
                    if name in FAILURES:
                        with self.assertRaises(twosignal.Failure) as caught:
                            if name == "not-an-api":
                                client.query("nope")
                            else:
                                self.ask(recording, client)
                        failure = caught.exception
                        self.assertEqual((failure.message, failure.exit_code, failure.problems),
                                         FAILURES[name])
                    else:
                        found = twosignal.record(self.ask(recording, client))
                        self.assertTrue(found)
                        self.assertSent(recording, server.requests[0])
                met.add(name)
        self.assertGreater(len(met), 20)

    def test_login(self):
        for server in ("trpc11", "trpc10"):
            recording = recorded("login", server)
            with scripted(recording) as place:
                client = self.client(place)
                session = client.login("viewer@example.com", "viewer-pass")
                self.assertSent(recording, place.requests[0])
                self.assertIsNone(header(place.requests[0], "Cookie"))
            data = recording["response"]["body"]["data"]
            self.assertEqual(self.state("session.json"), {
                "access_token": data["access_token"], "refresh_token": data["refresh_token"],
                "expires_at": data["expires_at"], "user_id": data["user"]["id"],
                "user_email": "viewer@example.com", "project_ref": data["project_ref"],
                "api_url": place.url})
            self.assertEqual(session.access_token, data["access_token"])

    def test_the_project_of_a_login_is_in_its_token(self):
        recording = json.loads(json.dumps(recorded("login")))
        expected = recording["response"]["body"]["data"].pop("project_ref")
        with scripted(recording) as server:
            self.client(server).login("viewer@example.com", "viewer-pass")
        self.assertEqual(self.state("session.json")["project_ref"], expected)

    def test_login_that_is_refused(self):
        for name in ("login-refused", "login-incomplete"):
            with scripted(recorded(name)) as server:
                client = self.client(server)
                before = self.state("session.json")
                with self.assertRaises(twosignal.Failure) as caught:
                    client.login("owner@example.com", "x")
                self.assertEqual((caught.exception.message, caught.exception.exit_code,
                                  caught.exception.problems), FAILURES[name])
                self.assertEqual(self.state("session.json"), before)

    def test_refresh(self):
        recording = recorded("refresh")
        with scripted(recording) as server:
            client = self.client(server, -100)
            client.session()
            sent = server.requests[0]
            self.assertEqual(target(sent), "/api/v1/auth/refresh")
            self.assertEqual(json.loads(sent.partition(b"\r\n\r\n")[2].decode("utf-8")),
                             {"refresh_token": "v1.old"})
        data, stored = recording["response"]["body"]["data"], self.state("session.json")
        self.assertEqual((stored["access_token"], stored["refresh_token"], stored["expires_at"]),
                         (data["access_token"], data["refresh_token"], data["expires_at"]))

    def test_refresh_that_is_refused(self):
        with scripted(recorded("refresh-reused")) as server:
            client = self.client(server, -100)
            with self.assertRaises(twosignal.Failure) as caught:
                client.session()
            self.assertEqual((caught.exception.message, caught.exception.exit_code),
                             ("Authentication expired", 4))
            self.assertEqual(len(server.requests), 1)

    def test_logout(self):
        for name in ("logout", "logout-refused"):
            with scripted(recorded(name)) as server:
                self.client(server).logout()
                self.assertEqual(target(server.requests[0]), "/api/v1/auth/logout")
                self.assertEqual(header(server.requests[0], "Authorization"),
                                 "Bearer old.access.token")

    def test_procedures_that_a_server_lacks(self):
        """Both tRPC versions say it in their own words; the other name is asked for then."""
        lacking = recorded("no-such-procedure", "trpc10")
        detail = recorded("trace.detail", "trpc10")
        with scripted(lacking, detail) as server:
            found = self.client(server).trace(TRACE, "c0000000-0000-4000-8000-000000000001")
            self.assertEqual(found["id"], TRACE)
            self.assertSent(lacking, server.requests[0])
            self.assertSent(detail, server.requests[1])
        with scripted(recorded("no-such-procedure")) as server:
            with self.assertRaises(twosignal.Failure) as caught:
                self.client(server).query("trace.byId", {"id": TRACE})
        self.assertEqual(caught.exception.code, "UNSUPPORTED")

    def test_pages(self):
        for server in ("trpc11", "trpc10"):
            with scripted(recorded("trace.list", server)) as place:
                pages = self.client(place).trace_pages(
                    {"projectId": "c0000000-0000-4000-8000-000000000001"}, lambda: 2)
                rows, more = next(pages)
                self.assertSent(recorded("trace.list", server), place.requests[0])
            self.assertTrue(more)
            first, second = [twosignal.record(row, "trace") for row in rows]
            self.assertEqual(first, {
                "id": TRACE, "status": "OK", "duration_ms": 800, "cost_usd": 0.0034,
                "created_at": "2026-03-14T10:30:00Z", "name": "support-agent",
                "project_id": "c0000000-0000-4000-8000-000000000001",
                "start_time": "2026-03-14T10:30:00Z", "end_time": None,
                "metadata": {"camelKey": {"innerKey": 1}, "when": "2026-03-14T10:30:00.000Z"},
                "tags": [], "total_tokens": 1250, "session_id": None, "span_count": 3,
                "score_count": 2})
            self.assertEqual((second["name"], second["cost_usd"], second["end_time"]),
                             ("checkout — 支払い", 0.012, "2026-03-14T10:29:01.200Z"))

    def test_a_trace(self):
        for server in ("trpc11", "trpc10"):
            found = twosignal.record(self.answered("trace.detail", server)[0], "trace")
            root, call, orphan = found["spans"]
            self.assertEqual(root["input"], {"userQuery": "hi",
                                             "dotted.key": "2026-03-14T10:30:00.000Z"})
            self.assertEqual(root["output"], [["k", [1, 2]]])
            self.assertEqual((call["cost_usd"], call["total_tokens"], call["model_parameters"]),
                             (0.0034, 1250, {"maxTokens": 5}))
            self.assertEqual((orphan["parent_span_id"], orphan["cost_usd"]),
                             ("missing-parent", None))
            self.assertEqual([(score["evaluator"], score["score"], score["label"],
                               score["reasoning"]) for score in found["scores"]],
                             [("helpfulness", 0.25, "pass", "because"),
                              ("valid-json", 1, None, None)])
            self.assertEqual([(depth, span["name"]) for depth, span in
                              twosignal.span_tree(found["spans"])],
                             [(0, "root"), (1, "gpt call"), (0, "orphan")])

    def test_resources_keep_all_their_fields(self):
        for name in ("organization.create", "project.create", "evaluator.create",
                     "evaluator.update", "dataset.create", "apiKey.create", "apiKey.revoke",
                     "dataset.addItem"):
            found, wire = self.answered(name)
            with self.subTest(name=name):
                kept = {key: wire[key] for key in wire if key not in CREATED and "At" not in key}
                record = twosignal.record(found)
                self.assertEqual(len(record), len(wire))
                for key, value in kept.items():
                    self.assertEqual(record[twosignal.snake(key)], value)
                self.assertEqual(record["created_at"], wire["createdAt"])

    def test_usage(self):
        for name, server in (("usage.getCurrentMonth", "trpc11"), ("usage.currentMonth", "trpc10")):
            found = twosignal.usage_record(self.answered(name, server)[0], "PRO")
            project = "c0000000-0000-4000-8000-000000000001"
            self.assertEqual(found, {
                "month": "2026-03", "plan": "PRO", "traces_used": 46000, "traces_limit": 50000,
                "spans_used": 180000, "evals_used": 900, "evals_limit": 5000, "projects": [
                    {"traces_used": 46000, "spans_used": 180000, "evals_used": 900,
                     "project_id": project}]})

    def test_batches(self):
        for server in ("trpc11", "trpc10"):
            recording = recorded("batch", server)
            names = recording["request"]["path"].rpartition("/")[2].partition("?")[0].split(",")
            with scripted(recording) as place:
                client = self.client(place)
                sent = client._authorized(place.url + recording["request"]["path"], None)
            found = [twosignal._tried(lambda: twosignal._result(one, sent, name))
                     for name, one in zip(names, twosignal._parsed(sent))]
            self.assertEqual(found[0]["id"], "d0000000-0000-4000-8000-000000000004")
            self.assertEqual(found[0]["spans"][1]["totalTokens"], 1250)
            self.assertEqual(found[1][0]["name"], "Acme 東京")
            self.assertEqual((found[2].message, found[2].exit_code),
                             ("Organization not found", 6))


if __name__ == "__main__":
    unittest.main()
