"""The section Protocol: server errors, the cookie, and recorded responses of real servers."""
import base64
import json
import os
import random
import re
import time
import unittest
from urllib.parse import parse_qs, quote, unquote, urlsplit

import twosignal
from servers import Scripted, answer, header, target
from tools import (DEADLINE, TESTS, TOKENS, Case, ClientCase, ShortClock, canned, full,
                   replaced_environment, trpc_error)


class ServerErrors(ClientCase):
    CODES = (("UNAUTHORIZED", 401, 4, "Authentication expired"),
             ("FORBIDDEN", 403, 5, "Permission denied"),
             ("NOT_FOUND", 404, 6, "Project not found"),
             ("TOO_MANY_REQUESTS", 429, 7, "Rate limited"),
             ("INTERNAL_SERVER_ERROR", 500, 8, "The server failed"), ("TIMEOUT", 408, 8, "failed"),
             ("BAD_REQUEST", 400, 1, "refused"), ("CONFLICT", 409, 1, "refused"),
             ("PAYLOAD_TOO_LARGE", 413, 1, "Request too large"))

    def failure(self, body, status, procedure="project.get"):
        answer = canned(body, status)
        with self.assertRaises(twosignal.Failure) as caught:
            twosignal.trpc_value(twosignal.response_json(answer), answer, procedure)
        return caught.exception

    def test_documented_errors(self):
        for code, status, exit_code, text in self.CODES:
            for bare in (False, True):
                for outer in (status, 207):
                    found = self.failure(trpc_error(code, status, bare=bare, message=""), outer)
                    with self.subTest(code=code, bare=bare, outer=outer):
                        self.assertIn(text, found.message)
                        self.assertEqual(found.exit_code, exit_code)

    def test_the_status_replaces_a_missing_code(self):
        for code, status, exit_code, text in self.CODES:
            found = self.failure({"error": {"json": {"message": "", "data": {}}}}, status)
            self.assertIn(text, found.message)
            self.assertEqual(found.exit_code, exit_code)

    def test_the_named_resource(self):
        for said, procedure, message in (
                ("Trace not found", "trace.getById", "Trace not found"),
                ("Project not found", "trace.list", "Project not found"),
                ("Organization not found", "project.list", "Organization not found"),
                ("", "apiKey.revoke", "API key not found"),
                ("", "something.else", "Resource not found")):
            found = self.failure(trpc_error("NOT_FOUND", 404, said), 404, procedure)
            self.assertEqual((found.message, found.exit_code), (message, 6))

    def test_problems_of_zod_3_and_4(self):
        for problem, line in (
                ({"path": ["limit"], "message": "Too big"}, "limit: Too big"),
                ({"path": ["rules", 0, "if"], "message": "Required"}, "rules.0.if: Required"),
                ({"path": [], "message": "Bad"}, "Bad"), ({"message": "Bad"}, "Bad"),
                ({"path": ["type"], "message": "Invalid", "options": ["A", "B"]},
                 "type: Invalid (one of A, B)"),
                ({"path": ["type"], "message": "Invalid", "values": ["A", "B"]},
                 "type: Invalid (one of A, B)"),
                ({"path": ["type"], "message": 'Expected "A" | "B"', "options": ["A", "B"]},
                 'type: Expected "A" | "B"')):
            found = self.failure(trpc_error("BAD_REQUEST", 400, json.dumps([problem])), 400)
            self.assertEqual((found.problems, found.exit_code), ([line], 1))

    def test_messages_that_only_look_like_problems(self):
        for text in ("[1]", "{}", "null", "[", "5", '"x"', "[]"):
            found = self.failure(trpc_error("BAD_REQUEST", 400, text), 400)
            self.assertEqual(found.problems, [])
            self.assertIn(text, found.message)


class CookieChunks(unittest.TestCase):
    def cookie(self, length, **values):
        return twosignal.session_cookie(twosignal.Session(dict(
            TOKENS, access_token="é".encode("ascii", "ignore").decode() + "a" * length, **values)))

    def test_short_and_long(self):
        for length in list(range(1, 60)) + list(range(2700, 3300)) + [9000, 20000]:
            parts = [part.partition("=") for part in self.cookie(length).split("; ")]
            with self.subTest(length=length):
                self.assertEqual(json.loads(unquote("".join(value for _, _, value in parts)))
                                 ["access_token"], "a" * length)
                self.assertTrue(all(len(value) <= 3180 for _, _, value in parts))
                names = [name for name, _, _ in parts]
                self.assertEqual(names, ["sb-ref-auth-token"] if len(parts) == 1 else [
                    "sb-ref-auth-token.%d" % number for number in range(len(parts))])

    def test_never_cut_inside_an_escape(self):
        for length in range(full(120, 700)):
            text = self.cookie(2500 + length, user_email="é\"%" * 400)
            values = [part.partition("=")[2] for part in text.split("; ")]
            self.assertGreater(len(values), 1)
            for value in values:
                self.assertNotRegex(value, r"%[0-9A-F]?\Z")
                self.assertNotRegex(value, r"\A[0-9A-F]?[^%]*%[^0-9A-F]")
            self.assertEqual(json.loads(unquote("".join(values)))["user"]["email"], "é\"%" * 400)

    def test_the_project_of_a_token(self):
        def token(claims):
            payload = base64.urlsafe_b64encode(json.dumps(claims).encode("utf-8"))
            return "h.%s.s" % payload.decode("ascii").rstrip("=")
        for issuer in ("https://abc.supabase.co/auth/v1", "https://abc:8000/auth"):
            self.assertEqual(twosignal.token_project(token({"iss": issuer})), "abc")
        for value in (None, 5, "", "a", "a.b", "a.%%%.c", "a.é.c", token({}), token([]), token("x"),
                      token({"iss": 5}), token({"iss": "x"}), token(None), "..", "a." + "W" * 9999):
            self.assertIsNone(twosignal.token_project(value))


class CookieValue(unittest.TestCase):
    def session(self, **values):
        return twosignal.Session(dict({
            "access_token": "a.b.c", "refresh_token": "r", "expires_at": 1893456000.0,
            "user_id": "u", "user_email": "owner@example.com", "project_ref": "ref"}, **values))

    def parts(self, session):
        """The (name, value) pairs of the cookie."""
        return [tuple(part.split("=", 1)) for part in twosignal.session_cookie(session).split("; ")]

    def assertWhole(self, session):
        """The chunks are in order, none is too long, and none begins or ends within %XX."""
        parts = self.parts(session)
        name = "sb-ref-auth-token"
        text = "".join(value for _, value in parts)
        if len(text) <= 3180:
            self.assertEqual([key for key, _ in parts], [name])
        else:
            self.assertEqual([key for key, _ in parts],
                             ["%s.%d" % (name, place) for place in range(len(parts))])
        for _, value in parts:
            self.assertTrue(0 < len(value) <= 3180)
            self.assertRegex(value, r"\A([A-Za-z0-9_.~-]|%[0-9A-F]{2})+\Z")
            self.assertNotIn(b"%", re.sub(rb"%[0-9A-F]{2}", b"", value.encode("ascii")))
        self.assertLess(len(text) // 3180, len(parts) + 1)
        return json.loads(unquote(text))

    def test_value(self):
        self.assertEqual(self.assertWhole(self.session()), {
            "access_token": "a.b.c", "refresh_token": "r", "expires_at": 1893456000,
            "token_type": "bearer", "user": {"id": "u", "email": "owner@example.com"}})
        values = self.parts(self.session())
        self.assertEqual(values[0][1], quote(unquote(values[0][1]), safe=""))
        self.assertNotIn(".0,", unquote(values[0][1]))

    def test_length_around_the_limit(self):
        short = len(self.parts(self.session())[0][1]) - len("a.b.c")
        for size in range(3170, 3192):
            session = self.session(access_token="x" * (size - short))
            self.assertEqual(len(self.parts(session)), 1 if size <= 3180 else 2)
            self.assertWhole(session)

    def test_never_cut_inside_an_escape(self):
        """Escapes at each distance from the end of a chunk."""
        for size in range(3000, 3200):
            email = "%" * 40 + "é" * 10
            session = self.session(access_token="x" * size + "%+/=" * 300, user_email=email)
            found = self.assertWhole(session)
            self.assertEqual(found["access_token"], session.access_token)
            self.assertEqual(found["user"]["email"], email)

    def test_random_tokens(self):
        """Row 33: whatever a token or an email address contains, the cookie is one header line."""
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(full(40, 2000)):
                letters = "".join(map(chr, range(0x21, 0x7f)))
                access = "".join(dice.choices(letters, k=dice.randrange(1, 12000)))
                email = "".join(chr(dice.choice([10, 13, 0, 32, 59, 0x7f, 0xe9, 0x6771, 0xd800]))
                                for _ in range(dice.randrange(20)))
                session = self.session(access_token=access, user_email=email)
                found = self.assertWhole(session)
                self.assertEqual((found["access_token"], found["user"]["email"]), (access, email))


def token(claims):
    """A JWT with these claims and no valid signature."""
    import base64
    text = claims if isinstance(claims, bytes) else json.dumps(claims).encode("utf-8")
    return "e30.%s.c2ln" % base64.urlsafe_b64encode(text).rstrip(b"=").decode("ascii")


class TokenIssuers(unittest.TestCase):
    def test_first_label_of_the_host(self):
        for issuer, expected in (("https://abcdefgh.supabase.co/auth/v1", "abcdefgh"),
                                 ("https://abcdefgh.supabase.co", "abcdefgh"),
                                 ("http://localhost:54321/auth/v1", "localhost"),
                                 ("https://ref.eu.example.com:8443/auth/v1", "ref")):
            for filler in ("", "x", "xx", "東京"):
                claims = {"iss": issuer, "email": filler}
                self.assertEqual(twosignal.token_project(token(claims)), expected)

    def test_invalid_tokens(self):
        """Row 25: nothing in a token is trusted."""
        wrong = [None, 5, [], {}, "", ".", "..", "a.b", "a.b.c", "a.=.c", "a.é.c", "a.!!!!.c"]
        wrong += [token(claims) for claims in (
            {}, [], "x", 5, None, {"iss": None}, {"iss": 5}, {"iss": ["https://x.y"]}, {"iss": ""},
            {"iss": "supabase"}, {"iss": "https:"}, b"\xff\xfe", b"{", b"[" * 100000)]
        for value in wrong:
            self.assertIsNone(twosignal.token_project(value) or None, str(value)[:80])


with open(os.path.join(TESTS, "wire", "recordings.json"), encoding="utf-8") as _file:
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
    "member-twice": ("The server refused: User is already a member", 1, []),
    "member-unknown": ("User not found", 6, []),
    "owner-stays": ("Permission denied", 5, []),
    "rotate-revoked": ("The server refused: API key is revoked", 1, []),
}
CREATED = {"createdAt": "created_at", "updatedAt": "updated_at"}


def recorded(name, server="trpc11"):
    """The first recording of that name."""
    return next(each for each in RECORDINGS if (each["name"], each["server"]) == (name, server))


def scripted(*recordings):
    """A server that returns these recorded responses, one per connection."""
    replies = []
    for recording in recordings:
        response = recording["response"]
        body = response["body"]
        if not isinstance(body, str):
            body = json.dumps(body, ensure_ascii=False)
        headers = [("Content-Type", response["content_type"])]
        replies.append(answer(body, response["status"], headers))
    return Scripted(replies)


class Recordings(Case):
    def client(self, server, lasts=10 ** 6):
        """A client of that server with a stored session."""
        self.enter(replaced_environment(dict(self.environment)))

        self.write("home/session.json", {
            "access_token": "old.access.token", "refresh_token": "v1.old", "project_ref": "ref",
            "expires_at": int(time.time()) + lasts, "user_id": "u0", "user_email": "you@b.c",
            "api_url": server.url})
        client = twosignal.Client(server.url, twosignal.Transport(DEADLINE, clock=ShortClock()))
        self.addCleanup(client.transport.close)
        return client

    def ask(self, recording, client):
        """Makes the recorded request through the client; returns the wire value."""
        request = recording["request"]
        procedure = request["path"].rpartition("/")[2]
        if request["method"] == "POST":
            return client.mutate(procedure, request["body"]["json"])
        return client.query(procedure, (request.get("input") or {}).get("json"))

    def answered(self, name, server="trpc11"):
        """(the wire value that the client reads from the recorded response, the recorded value)"""
        recording = recorded(name, server)
        with scripted(recording) as place:
            found = self.ask(recording, self.client(place))
            self.assertSent(recording, place.requests[0])
        return found, recording["response"]["body"]["result"]["data"]["json"]

    def assertSent(self, recording, sent):
        """The request is the recorded one, apart from the session."""
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
        """Row 25: each recorded response is a value or a documented error."""
        met = set()
        for recording in RECORDINGS:
            name, path = recording["name"], recording["request"]["path"]
            if "/auth/" in path or "," in path or name.startswith("no-such-procedure"):
                continue
            if "/api/v1/" in path:
                continue        # not of tRPC
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
                        found = twosignal.to_record(self.ask(recording, client))
                        self.assertTrue(found)
                        self.assertSent(recording, server.requests[0])
                met.add(name)
        self.assertGreater(len(met), 20)

    def test_login(self):
        for server in ("trpc11", "trpc10"):
            recording = recorded("login", server)
            with scripted(recording) as place:
                client = self.client(place)
                session = client.auth.login("viewer@example.com", "viewer-pass")
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
            self.client(server).auth.login("viewer@example.com", "viewer-pass")
        self.assertEqual(self.state("session.json")["project_ref"], expected)

    def test_login_that_is_refused(self):
        for name in ("login-refused", "login-incomplete"):
            with scripted(recorded(name)) as server:
                client = self.client(server)
                before = self.state("session.json")
                with self.assertRaises(twosignal.Failure) as caught:
                    client.auth.login("owner@example.com", "x")
                self.assertEqual((caught.exception.message, caught.exception.exit_code,
                                  caught.exception.problems), FAILURES[name])
                self.assertEqual(self.state("session.json"), before)

    def test_refresh(self):
        recording = recorded("refresh")
        with scripted(recording) as server:
            client = self.client(server, -100)
            client.auth.session()
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
                client.auth.session()
            self.assertEqual((caught.exception.message, caught.exception.exit_code),
                             ("Authentication expired", 4))
            self.assertEqual(len(server.requests), 1)

    def test_logout(self):
        for name, code in (("logout", None), ("logout-refused", "UNAUTHORIZED")):
            with scripted(recorded(name)) as server:
                failure = twosignal.result_or_failure(self.client(server).auth.logout)
                self.assertEqual(getattr(failure, "code", None), code)
                self.assertEqual(target(server.requests[0]), "/api/v1/auth/logout")
                self.assertEqual(header(server.requests[0], "Authorization"),
                                 "Bearer old.access.token")

    def test_missing_procedures(self):
        """Each tRPC version says it in its own words; the alias is called then."""
        lacking = recorded("no-such-procedure", "trpc10")
        detail = recorded("trace.detail", "trpc10")
        with scripted(lacking, detail) as server:
            found = self.client(server).query("trace.getById", twosignal.trace_input(
                TRACE, "c0000000-0000-4000-8000-000000000001"))
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
                page = next(pages)
                self.assertSent(recorded("trace.list", server), place.requests[0])
            self.assertEqual(page.has_more, True)
            first, second = [twosignal.to_record(trace, "trace") for trace in page.traces]
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
            found = twosignal.to_record(self.answered("trace.detail", server)[0], "trace")
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
                     "dataset.addItem", "organization.addMember", "apiKey.rotate",
                     "dataset.update", "modelRouting.create", "modelRouting.update"):
            found, wire = self.answered(name)
            with self.subTest(name=name):
                kept = {key: wire[key] for key in wire if key not in CREATED and "At" not in key}
                record = twosignal.to_record(found)
                self.assertEqual(len(record), len(wire))
                for key, value in kept.items():
                    self.assertEqual(record[twosignal.snake_case(key)], value)
                self.assertEqual(record["created_at"], wire["createdAt"])

    def test_usage(self):
        for name, server in (("usage.getCurrentMonth", "trpc11"), ("usage.currentMonth", "trpc10")):
            found = twosignal.usage_record(self.answered(name, server)[0], "PRO")
            project = "c0000000-0000-4000-8000-000000000001"
            self.assertEqual(found, {
                "month": "2026-03", "plan": "PRO", "traces_used": 46000, "traces_limit": 50000,
                "spans_used": 180000, "evals_used": 900, "evals_limit": 5000, "projects": [
                    {"traces_used": 46000, "spans_used": 180000, "evals_used": 900,
                     "project_id": project}],
                "retention_days": 30, "seats": 3, "requests_per_second": 1000})

    def test_batches(self):
        for server in ("trpc11", "trpc10"):
            recording = recorded("batch", server)
            names = recording["request"]["path"].rpartition("/")[2].partition("?")[0].split(",")
            with scripted(recording) as place:
                transport = twosignal.Transport(DEADLINE)
                self.addCleanup(transport.close)
                response = transport.request("GET", place.url + recording["request"]["path"])
            trace, organizations, refused = [
                twosignal.result_or_failure(lambda: twosignal.trpc_value(one, response, name))
                for name, one in zip(names, twosignal.response_json(response))]
            self.assertEqual(trace["id"], "d0000000-0000-4000-8000-000000000004")
            self.assertEqual(trace["spans"][1]["totalTokens"], 1250)
            self.assertEqual(organizations[0]["name"], "Acme 東京")
            self.assertEqual((refused.message, refused.exit_code), ("Organization not found", 6))
