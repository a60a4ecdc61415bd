"""The stand-in server and the sandbox respond as the recordings and the protocol say."""
import base64
import copy
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
from unittest import mock

import sample
import standin
import superjson
import tools
from sessions import encode64
from standin import PROJECT_REF, StandIn
from tests import sandbox

OWNER = StandIn.OWNER[0]
VIEWER = StandIn.VIEWER[0]
CREDENTIALS = dict(zip(("email", "password"), StandIn.OWNER))
SANDBOX = os.path.join(tools.TESTS, "sandbox.py")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
RECORDED_OPTIONS = {"trpc11": {"names": "new", "errors": 11, "page_key": "traces"},
                    "trpc10": {"names": "old", "errors": 10, "page_key": "items"}}


def read_recordings():
    path = os.path.join(tools.TESTS, "wire", "recordings.json")
    with open(path, encoding="utf-8") as file:
        return json.load(file)["recordings"]


class Reply:
    def __init__(self, status, headers, data):
        self.status, self.headers, self.data = status, headers, data
        self.type = headers.get("Content-Type")

    @property
    def json(self):
        return json.loads(self.data.decode("utf-8"))

    @property
    def value(self):
        """The result of a tRPC call, without its superjson meta."""
        return self.json["result"]["data"]["json"]

    @property
    def meta(self):
        return self.json["result"]["data"].get("meta", {}).get("values", {})

    @property
    def error(self):
        return self.json["error"]["json"]


def fetch(url, method="GET", body=None, headers=None):
    data = None if body is None else body
    if data is not None and not isinstance(data, bytes):
        data = json.dumps(data).encode("utf-8")
    headers = dict({"Content-Type": "application/json"} if data is not None else {},
                   **(headers or {}))
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with DIRECT.open(request, timeout=60) as response:
            return Reply(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())


def make_cookie(session):
    """The session cookie, in one piece."""
    value = {"access_token": session["access_token"], "refresh_token": session["refresh_token"],
             "expires_at": session["expires_at"], "token_type": "bearer",
             "user": {"id": session["user_id"], "email": session["user_email"]}}
    text = urllib.parse.quote(json.dumps(value), safe="")
    return "sb-%s-auth-token=%s" % (PROJECT_REF, text)


def make_chunks(cookie, size):
    name, _, value = cookie.partition("=")
    parts = [value[place:place + size] for place in range(0, len(value), size)]
    return "; ".join("%s.%d=%s" % (name, place, part) for place, part in enumerate(parts))


class StandInCase(unittest.TestCase):
    options = {}

    def setUp(self):
        self.open_server(**self.options)

    def open_server(self, **options):
        self.server = StandIn(**options)
        self.server.start()
        self.addCleanup(self.check_and_stop, self.server)
        self.cookie = make_cookie(self.server.tokens(OWNER))

    def check_and_stop(self, server):
        server.stop()
        self.assertEqual(server.failures, [])

    def get(self, path, headers=None):
        return fetch(self.server.url + path, headers=headers)

    def post(self, path, body=None, headers=None):
        return fetch(self.server.url + path, "POST", b"" if body is None else body, headers)

    def query(self, procedure, cookie=None, **values):
        path = "/api/trpc/" + procedure
        if values:
            path += "?input=" + urllib.parse.quote(json.dumps({"json": values}))
        return self.get(path, {"Cookie": cookie or self.cookie})

    def mutate(self, procedure, cookie=None, **values):
        return self.post("/api/trpc/" + procedure, {"json": values},
                         {"Cookie": cookie or self.cookie})

    def refresh(self, token):
        return self.post("/api/v1/auth/refresh", {"refresh_token": token})

    def list(self, **values):
        return self.query("trace.list", projectId=self.server.project, **values)

    def assertRefused(self, reply, code, status, message=None):
        self.assertEqual((reply.error["data"]["code"], reply.status), (code, status))
        self.assertEqual(reply.error["data"]["httpStatus"], status)
        if message:
            self.assertEqual(reply.error["message"], message)

    def problems(self, reply):
        self.assertEqual((reply.status, reply.error["code"]), (400, -32600))
        return json.loads(reply.error["message"])


##################################################################################################
# The recordings
##################################################################################################

def shape(value):
    """The keys and types of a JSON value; lists are compared item by item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


class RecordedServers(StandInCase):
    """The requests of the recordings, in their order, get responses of the recorded shape."""

    def setUp(self):
        """Starts no server: `replay` does, with the options of the recorded one."""

    def test_number_of_recordings(self):
        self.assertEqual(len(read_recordings()), 74)

    def test_trpc11(self):
        self.replay("trpc11", 63)

    def test_trpc10(self):
        self.replay("trpc10", 11)

    def replay(self, dialect, count):
        newest = "2026-03-14T10:30:00.000Z"
        self.open_server(empty=True, created=newest, **RECORDED_OPTIONS[dialect])
        sample.add_traces(self.server, newest)
        self.viewer = make_cookie(self.server.tokens(VIEWER))
        self.known, self.live, self.key = {}, self.server.tokens(VIEWER), None
        recordings = [r for r in read_recordings() if r["server"] == dialect]
        self.assertEqual(len(recordings), count)
        for recording in recordings:
            with self.subTest(recording["name"]):
                if recording["name"] == "organization.getById":
                    self.keep_owner_only()
                self.compare(recording)

    def keep_owner_only(self):
        """Removes the other members, whom the recorded organization does not have by then."""
        for member in self.server.rows("members"):
            if member["organizationId"] == self.server.org and member["role"] != "OWNER":
                with self.server.transaction():
                    self.server.store.remove("members", member["id"])

    def compare(self, recording):
        reply = self.send(recording["name"], recording["request"])
        expected = recording["response"]
        self.assertEqual((reply.status, reply.type),
                         (expected["status"], expected["content_type"]))
        if expected["content_type"] != "application/json":
            return self.assertEqual(reply.data.decode("utf-8"), expected["body"])
        self.learn(expected["body"], reply.json)
        self.assertEqual(shape(reply.json), shape(expected["body"]))
        self.assertEqual(list(find_facts(reply.json)), list(find_facts(expected["body"])))

    def send(self, name, request):
        text = json.dumps(request)
        for recorded, here in self.known.items():
            text = text.replace(recorded, here)
        request = json.loads(text)
        headers, body, path = self.headers(name, request), request.get("body"), request["path"]
        if name.startswith("refresh"):
            body = {"refresh_token": self.live["refresh_token"]}
        if "input" in request:
            path += "&" if "?" in path else "?"
            path += "input=" + urllib.parse.quote(json.dumps(request["input"]))
        if request["method"] == "POST" and body is None:
            body = b""
        return fetch(self.server.url + path, request["method"], body, headers)

    def headers(self, name, request):
        """The credentials, which the recordings omit."""
        if name == "logout":
            self.live = self.server.tokens(VIEWER)
        if name.startswith("logout"):
            return {"Authorization": "Bearer " + self.live["access_token"]}
        if name.startswith("rest-") and name != "rest-wrong-key":
            return {"Authorization": "Bearer " + self.key}
        if name == "unauthorized" or not request["path"].startswith("/api/trpc/"):
            return {}
        return {"Cookie": self.viewer if name == "forbidden" else self.cookie}

    def learn(self, recorded, here):
        """Notes the newest API key, and the IDs here of the rows that the recordings name."""
        if isinstance(recorded, list) and isinstance(here, list):
            for pair in zip(recorded, here):
                self.learn(*pair)
        if isinstance(recorded, dict) and isinstance(here, dict):
            if isinstance(recorded.get("id"), str) and isinstance(here.get("id"), str):
                self.known[recorded["id"]] = here["id"]
            self.key = here.get("key", self.key)
            for key in recorded:
                self.learn(recorded[key], here.get(key))


def find_facts(value):
    """The parts that must be equal, not only of the same shape, such as errors and meta."""
    if isinstance(value, list):
        for item in value:
            yield from find_facts(item)
    if isinstance(value, dict):
        for key in sorted(value):
            if key in ("error", "meta", "nextCursor", "status", "type", "plan", "role"):
                yield key, value[key]
            else:
                yield from find_facts(value[key])


class Superjson(unittest.TestCase):
    def test_recorded_values_are_unchanged_by_a_round_trip(self):
        for recording in read_recordings():
            body = recording["response"]["body"]
            if not isinstance(body, dict) or "result" not in body:
                continue
            with self.subTest(recording["name"]):
                envelope = body["result"]["data"]
                again = superjson.dump(superjson.load(copy.deepcopy(envelope)))
                self.assertEqual(again["json"], envelope["json"])
                self.assertEqual(again.get("meta", {}).get("values"),
                                 envelope.get("meta", {}).get("values"))

    def test_each_type(self):
        value = {"a.b": superjson.Date("2026-03-14T10:30:00.000Z"), "big": superjson.Big(2 ** 70),
                 "none": superjson.UNDEFINED, "cost": superjson.Decimal("0.0034"),
                 "odd": [float("nan"), float("inf"), float("-inf"), -0.0, 0.0],
                 "map": superjson.Map([["k", superjson.Set([superjson.Big(1)])]])}
        self.assertEqual(superjson.dump(value), {
            "json": {"a.b": "2026-03-14T10:30:00.000Z", "big": str(2 ** 70), "none": None,
                     "cost": "0.0034", "odd": ["NaN", "Infinity", "-Infinity", "-0", 0.0],
                     "map": [["k", ["1"]]]},
            "meta": {"v": 1, "values": {
                "a\\.b": ["Date"], "big": ["bigint"], "none": ["undefined"],
                "cost": [["custom", "Decimal.js"]], "odd.0": ["number"], "odd.1": ["number"],
                "odd.2": ["number"], "odd.3": ["number"],
                "map": ["map", {"0.1": ["set", {"0": ["bigint"]}]}]}}})
        again = superjson.load(superjson.dump(value))
        self.assertEqual(superjson.dump(again), superjson.dump(value))

    def test_a_value_that_is_not_in_an_object(self):
        self.assertEqual(superjson.dump(superjson.Big(1))["meta"]["values"], ["bigint"])
        self.assertEqual(superjson.load({"json": "1", "meta": {"values": ["bigint"]}}), 1)

    def test_times(self):
        for text in ("2026-03-14T12:30:00+02:00", "2026-03-14T10:30:00Z", "2026-03-14T10:30Z"):
            self.assertEqual(superjson.stamp(text), "2026-03-14T10:30:00.000Z")
        self.assertRaises(ValueError, superjson.parse_time, "yesterday")


##################################################################################################
# Sessions
##################################################################################################

class Tokens(StandInCase):
    def test_login_refresh_logout(self):
        login = self.post("/api/v1/auth/login", CREDENTIALS)
        self.assertEqual(login.status, 200)
        data = login.json["data"]
        self.assertLess(abs(data["expires_at"] - time.time() - 3600), 600)
        second = self.refresh(data["refresh_token"]).json["data"]
        self.assertEqual(set(second), set(data))
        self.assertNotIn(second["access_token"], data.values())
        bearer = {"Authorization": "Bearer " + second["access_token"]}
        self.assertEqual(self.post("/api/v1/auth/logout", headers=bearer).json["data"],
                         {"success": True})
        self.assertEqual(self.post("/api/v1/auth/logout", headers=bearer).status, 401)
        self.assertEqual(self.refresh(second["refresh_token"]).status, 401)

    def test_the_token_names_the_identity_server(self):
        body = self.server.tokens(OWNER)["access_token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "==").decode())
        self.assertEqual(claims["iss"], "https://%s.supabase.co/auth/v1" % PROJECT_REF)

    def test_reusing_a_refresh_token_revokes_the_session(self):
        session = self.server.tokens(OWNER)
        new = self.refresh(session["refresh_token"]).json["data"]
        self.assertEqual(self.refresh(session["refresh_token"]).json["error"]["message"],
                         "Invalid Refresh Token: Already Used")
        self.assertEqual(self.refresh(new["refresh_token"]).status, 401)
        self.assertEqual(self.query("organization.list", cookie=make_cookie(
            dict(session, **new))).status, 401)
        self.assertEqual(self.query("organization.list").status, 200)  # another session

    def test_reusing_a_refresh_token_without_strict(self):
        self.open_server(strict=False)
        session = self.server.tokens(OWNER)
        new = self.refresh(session["refresh_token"]).json["data"]
        self.assertEqual(self.refresh(session["refresh_token"]).status, 401)
        self.assertEqual(self.refresh(new["refresh_token"]).status, 200)

    def test_revoked_and_expired_tokens(self):
        cases = ((self.server.revoke, 401), (self.server.revoke_access, 200),
                 (self.server.expire, 200))
        for kill, status in cases:
            with self.subTest(kill.__name__):
                session = self.server.tokens(OWNER)
                kill(OWNER)
                self.assertRefused(self.query("organization.list", cookie=make_cookie(session)),
                                   "UNAUTHORIZED", 401, "You must be logged in")
                self.assertEqual(self.refresh(session["refresh_token"]).status, status)

    def test_cookies(self):
        session = self.server.tokens(OWNER)
        whole = make_cookie(session)
        name, _, value = whole.partition("=")
        plain = urllib.parse.unquote(value)
        coded = "base64-" + encode64(plain.encode())
        for cookie, status in ((whole, 200), (make_chunks(whole, 300), 200),
                               ("a=b; %s; c=d" % whole, 200), (name + "=" + coded, 200),
                               (whole.replace("sb-abc", "sb-xyz"), 401), (name + "=x", 401),
                               (make_chunks(whole, 300).replace(".1=", ".9="), 401)):
            with self.subTest(cookie[:60]):
                self.assertEqual(self.query("organization.list", cookie=cookie).status, status)

    def test_padding_makes_the_cookie_long(self):
        self.open_server(padding=3000)
        self.assertGreater(len(self.cookie), 3180)
        self.assertEqual(self.query("organization.list", cookie=make_chunks(
            self.cookie, 3180)).status, 200)

    def test_login_without_project_ref(self):
        self.open_server(project_ref=False)
        login = self.post("/api/v1/auth/login", CREDENTIALS)
        self.assertNotIn("project_ref", login.json["data"])

    def refresh_twice_at_once(self):
        session = self.server.tokens(OWNER)
        fault = self.server.fault("auth/refresh", delay=True)
        found = []
        threads = [threading.Thread(target=lambda: found.append(
            self.refresh(session["refresh_token"]).status)) for _ in range(2)]
        for thread in threads:
            thread.start()
        self.assertTrue(fault.begun.wait(60))
        fault.release.set()
        for thread in threads:
            thread.join()
        return sorted(found)

    def test_of_two_refreshes_at_once_one_succeeds(self):
        self.assertEqual(self.refresh_twice_at_once(), [200, 401])


##################################################################################################
# The tRPC API
##################################################################################################

class Traces(StandInCase):
    def test_the_sample_data(self):
        listed = self.list().value
        self.assertEqual([trace["id"] for trace in listed["traces"]], self.server.traces)
        self.assertIsNone(listed["nextCursor"])
        self.assertEqual({trace["status"] for trace in listed["traces"]}, {"OK", "ERROR"})
        values = [score["value"] for score in self.server.rows("scores")]
        self.assertGreaterEqual(min(values), 0.5)
        self.assertEqual(len(self.query("evaluator.list", projectId=self.server.project).value), 2)
        keys = self.query("apiKey.list", projectId=self.server.project).value
        self.assertEqual([key["id"] for key in keys], self.server.keys)
        self.assertNotIn("key", keys[0])

    def test_cursors(self):
        for _ in range(7):
            self.server.add_trace()
        seen, cursor = [], None
        while True:
            page = self.list(limit=5, **({"cursor": cursor} if cursor else {})).value
            seen += [trace["id"] for trace in page["traces"]]
            cursor = page["nextCursor"]
            if not cursor:
                break
        self.assertEqual(len(seen), 12)
        self.assertEqual(len(set(seen)), 12)
        self.assertEqual(self.list(cursor="nope").status, 400)

    def test_unusual_ids(self):
        for odd in ("a/b", "a b", "?#%", "a\nb", "\0", "\ud800", "x" * 3000):
            self.assertRefused(self.query("trace.list", projectId=odd), "NOT_FOUND", 404)
            self.assertRefused(self.query("trace.getById", traceId=odd), "NOT_FOUND", 404)

    def test_filters(self):
        old = self.server.add_trace(name="Old One", created="2020-01-02T03:04:05Z",
                                    tags=["x", "y"])
        cases = (({"status": "ERROR"}, 1), ({"name": "old o"}, 1), ({"search": "SUPPORT"}, 1),
                 ({"tags": ["x"]}, 1), ({"tags": ["x", "z"]}, 0), ({"tags": ["production"]}, 2),
                 ({"endDate": "2020-12-31"}, 1), ({"startDate": "2020-12-31T00:00:00Z"}, 5),
                 ({"status": "ERROR", "name": "support"}, 0), ({}, 6))
        for values, count in cases:
            with self.subTest(values):
                self.assertEqual(len(self.list(**values).value["traces"]), count)
        self.assertEqual(self.list(search="old").value["traces"][0]["id"], old)

    def test_unknown_filters_are_ignored(self):
        self.open_server(known_filters=("status",))
        self.assertEqual(len(self.list(search="nope", other=1).value["traces"]), 5)


class InvalidInput(StandInCase):
    def test_messages_of_both_versions_of_zod(self):
        expected = {
            3: ("Number must be greater than or equal to 1", "Required",
                "String must contain at least 1 character(s)",
                "Invalid enum value. Expected 'OK' | 'ERROR', received 'ok'",
                "Expected string, received number"),
            4: ("Too small: expected number to be >=1",
                "Invalid input: expected string, received undefined",
                "Too small: expected string to have >=1 characters",
                'Invalid option: expected one of "OK"|"ERROR"',
                "Invalid input: expected string, received number")}
        for version, messages in expected.items():
            self.open_server(zod=version)
            replies = (self.list(limit=0), self.query("trace.list", limit=1),
                       self.mutate("organization.create", name=""), self.list(status="ok"),
                       self.mutate("organization.create", name=5))
            for reply, message in zip(replies, messages):
                with self.subTest(message):
                    (problem,) = self.problems(reply)
                    self.assertEqual(problem["message"], message)
                    self.assertIsInstance(problem["path"], list)
            (problem,) = self.problems(self.list(status="ok"))
            self.assertEqual(problem["options" if version == 3 else "values"], ["OK", "ERROR"])

    def test_evaluator_types(self):
        (problem,) = self.problems(self.mutate(
            "evaluator.create", projectId=self.server.project, name="x", type="NOPE"))
        self.assertIn("JSON_SCHEMA", problem["options"])

    def test_several_problems_at_once(self):
        reply = self.mutate("evaluator.create", name="", type=1, config={})
        self.assertEqual([problem["path"] for problem in self.problems(reply)],
                         [["projectId"], ["name"], ["type"]])
        self.assertEqual(self.problems(self.query("project.list"))[0]["path"], [])

    def test_page_limit(self):
        self.assertEqual(self.problems(self.list(limit=101))[0]["maximum"], 100)


class Access(StandInCase):
    def test_a_viewer_can_change_nothing(self):
        viewer = make_cookie(self.server.tokens(VIEWER))
        project, server = self.server.project, self.server
        mutations = (("project.create", {"organizationId": server.org, "name": "x"}),
                   ("project.delete", {"projectId": project}),
                   ("organization.update", {"organizationId": server.org, "name": "x"}),
                   ("evaluator.update", {"id": server.evaluators[0], "enabled": False}),
                   ("evaluator.delete", {"id": server.evaluators[0], "projectId": project}),
                   ("dataset.addItem", {"datasetId": server.datasets[0], "input": 1}),
                   ("apiKey.create", {"projectId": project, "name": "x"}),
                   ("apiKey.revoke", {"id": server.keys[0]}))
        before = {table: server.rows(table) for table in standin.TABLES}
        for name, values in mutations:
            with self.subTest(name):
                self.assertRefused(self.mutate(name, cookie=viewer, **values), "FORBIDDEN", 403,
                                   "Insufficient permissions")
        self.assertEqual({table: server.rows(table) for table in standin.TABLES}, before)
        self.assertEqual(self.query("trace.list", cookie=viewer, projectId=project).status, 200)

    def test_what_an_account_cannot_see(self):
        stranger = make_cookie(self.server.tokens("stranger@example.com"))
        other = make_cookie(self.server.tokens("other-owner@example.com"))
        hidden, project = self.server.hidden, self.server.project
        self.assertEqual(self.query("organization.list", cookie=stranger).value, [])
        self.assertEqual(self.query("trace.list", cookie=other, projectId=hidden).status, 200)
        for cookie, wanted in ((None, hidden), (stranger, project), (other, project)):
            self.assertRefused(self.query("trace.list", cookie=cookie, projectId=wanted),
                               "NOT_FOUND", 404, "Project not found")
        self.assertRefused(self.query("trace.getById", cookie=other,
                                      traceId=self.server.traces[0]),
                           "NOT_FOUND", 404, "Trace not found")


class Procedures(StandInCase):
    def test_all_exist(self):
        text = ("organization.list create getById update addMember removeMember|project.list "
                "create update delete|trace.list getById byId|evaluator.list create update delete|"
                "dataset.list create update delete getById byId addItem removeItem|"
                "apiKey.list create revoke rotate|usage.getCurrentMonth currentMonth getHistory|"
                "modelRouting.list create update delete")
        names = set()
        for group in text.split("|"):
            head, *rest = group.split()
            names |= {head} | {head.split(".")[0] + "." + name for name in rest}
        self.assertEqual(set(standin.PROCEDURES), names)

    def test_organizations(self):
        org = self.mutate("organization.create", name="New").value
        self.assertEqual(org["plan"], "FREE")
        changed = self.mutate("organization.update", organizationId=org["id"], name="Newer").value
        self.assertEqual(changed["name"], "Newer")
        member = self.mutate("organization.addMember", organizationId=org["id"], role="ADMIN",
                             email=VIEWER).value
        shown = self.query("organization.getById", organizationId=org["id"]).value
        self.assertEqual([(m["email"], m["role"]) for m in shown["members"]],
                         [(OWNER, "OWNER"), (VIEWER, "ADMIN")])
        self.assertEqual((shown["role"], shown["memberCount"]), ("OWNER", 2))
        self.assertEqual(self.mutate("organization.removeMember", organizationId=org["id"],
                                     memberId=member["id"]).value, {"success": True})
        shown = self.query("organization.getById", organizationId=org["id"]).value
        self.assertEqual(len(shown["members"]), 1)

    def test_members_of_other_servers(self):
        self.open_server(nested_users=True)
        shown = self.query("organization.getById", organizationId=self.server.org).value
        self.assertEqual([m["user"]["email"] for m in shown["members"]][0], OWNER)
        self.assertNotIn("email", shown["members"][0])

    def test_seats_of_the_plan(self):
        self.open_server(seats=True)
        org, stranger = self.server.add_org("Full", "FREE"), StandIn.STRANGER[0]
        for plan, status in (("FREE", 403), ("PRO", 200)):
            self.server.set_plan(org, plan)
            reply = self.mutate("organization.addMember", organizationId=org, role="MEMBER",
                                email=stranger)
            self.assertEqual(reply.status, status)
        self.server.set_plan(org, "FREE")
        self.assertRefused(self.mutate("organization.addMember", organizationId=org, role="VIEWER",
                                       email=VIEWER), "FORBIDDEN", 403, "Seat limit reached")
        self.assertRefused(self.mutate("organization.addMember", organizationId=org, role="VIEWER",
                                       email=stranger), "CONFLICT", 409, "User is already a member")

    def test_the_owner_stays(self):
        (owner,) = (row for row in self.server.rows("members")
                    if (row["organizationId"], row["role"]) == (self.server.org, "OWNER"))
        admin = make_cookie(self.server.tokens(StandIn.ADMIN[0]))
        for cookie, message in ((admin, "Cannot remove the owner"),
                                (make_cookie(self.server.tokens(VIEWER)),
                                 "Insufficient permissions")):
            self.assertRefused(self.mutate("organization.removeMember", cookie,
                                           memberId=owner["id"]), "FORBIDDEN", 403, message)

    def test_projects(self):
        project = self.mutate("project.create", organizationId=self.server.org, name="P",
                              description="d").value
        self.assertEqual(project["description"], "d")
        changed = self.mutate("project.update", projectId=project["id"], name="Q").value
        self.assertEqual((changed["name"], changed["description"]), ("Q", "d"))
        self.assertEqual(self.mutate("project.delete", projectId=project["id"]).status, 200)
        self.assertEqual(self.query("trace.list", projectId=project["id"]).status, 404)

    def test_what_goes_with_a_project(self):
        self.server.add_prompt("greeting", "Hello")
        other = self.server.add_key(self.server.hidden)
        self.mutate("project.delete", projectId=self.server.project)
        left = {table: len(self.server.rows(table)) for table in (
            "traces", "spans", "scores", "evaluators", "datasets", "items", "prompts", "api_keys")}
        self.assertEqual(left.pop("api_keys"), 1)
        self.assertEqual(set(left.values()), {0})
        self.assertEqual(self.get("/api/v1/traces", {
            "Authorization": "Bearer " + self.server.secret(other)}).status, 200)

    def test_evaluators(self):
        made = self.mutate("evaluator.create", projectId=self.server.project, name="E",
                           type="COST", config={"max.Usd": 1}).value
        self.assertEqual((made["enabled"], made["config"]), (True, {"max.Usd": 1}))
        changed = self.mutate("evaluator.update", id=made["id"], name="F", enabled=False).value
        self.assertEqual((changed["name"], changed["enabled"]), ("F", False))
        self.assertEqual(self.mutate("evaluator.delete", id=made["id"]).status, 200)
        self.assertRefused(self.mutate("evaluator.delete", id=made["id"]), "NOT_FOUND", 404,
                           "Evaluator not found")

    def test_datasets(self):
        made = self.mutate("dataset.create", projectId=self.server.project, name="D").value
        self.mutate("dataset.update", id=made["id"], name="E", description="x")
        item = self.mutate("dataset.addItem", datasetId=made["id"], input=None,
                           expectedOutput=[1]).value
        self.assertEqual((item["input"], item["expectedOutput"]), (None, [1]))
        shown = self.query("dataset.getById", id=made["id"]).value
        self.assertEqual((shown["name"], len(shown["items"])), ("E", 1))
        self.mutate("dataset.removeItem", itemId=item["id"])
        self.assertEqual(self.query("dataset.getById", id=made["id"]).value["items"], [])
        self.assertEqual(self.mutate("dataset.delete", id=made["id"]).status, 200)
        self.assertEqual(self.query("dataset.getById", id=made["id"]).status, 404)

    def test_items_that_are_rejected(self):
        self.server.rejects = lambda input: "Too odd" if input == 3 else None
        replies = [self.mutate("dataset.addItem", datasetId=self.server.datasets[0], input=number)
                   for number in (2, 3)]
        self.assertEqual([reply.status for reply in replies], [200, 400])
        self.assertEqual(self.problems(replies[1]), [
            {"code": "custom", "message": "Too odd", "path": ["input"]}])

    def test_keys(self):
        made = self.mutate("apiKey.create", projectId=self.server.project, name="K").value
        self.assertTrue(made["key"].startswith(made["keyPrefix"]))
        new = self.mutate("apiKey.rotate", id=made["id"]).value
        self.assertEqual(new["rotatedFromId"], made["id"])
        self.assertNotEqual(new["key"], made["key"])
        self.assertRefused(self.mutate("apiKey.rotate", id=made["id"]), "BAD_REQUEST", 400,
                           "API key is revoked")
        gone = self.mutate("apiKey.revoke", id=new["id"]).value
        self.assertTrue(gone["revokedAt"])
        self.assertNotIn("key", gone)
        for key in (made["key"], new["key"]):
            self.assertEqual(self.get("/api/v1/traces", {"Authorization": "Bearer " + key}).status,
                             401)

    def test_model_routing(self):
        project = self.server.project
        made = self.mutate("modelRouting.create", projectId=project, name="R",
                           defaultModel="gpt-4o", rules=[{"ifTag": "vip"}], enabled=True).value
        self.mutate("modelRouting.update", id=made["id"], enabled=False)
        first, row = self.query("modelRouting.list", projectId=project).value
        self.assertEqual((row["enabled"], row["rules"]), (False, [{"ifTag": "vip"}]))
        self.mutate("modelRouting.delete", id=made["id"])
        self.assertEqual(self.query("modelRouting.list", projectId=project).value, [first])

    def test_usage(self):
        org = self.server.org
        self.server.set_usage(org, None, traces=7, spans=8, evals=9)
        month = self.query("usage.getCurrentMonth", organizationId=org).value
        self.assertRegex(month["month"], r"^\d{4}-\d\d$")
        self.assertEqual((month["traceCount"], month["spanCount"], month["evalRunCount"]),
                         (7, 8, 9))
        self.assertEqual(month["projectBreakdown"][0]["projectId"], self.server.project)
        history = self.query("usage.getHistory", organizationId=org, months=3).value
        self.assertEqual([len(history), history[-1]["traceCount"]], [3, 7])
        self.assertEqual(self.query("usage.getHistory", organizationId=org, months=25).status, 400)

    def test_plans(self):
        self.server.set_plan(self.server.org, "ENTERPRISE")
        self.assertEqual(self.query("organization.list").value[0]["plan"], "ENTERPRISE")

    def test_accounts_and_roles(self):
        org = self.server.add_org("Third")
        self.server.add_account("new@example.com", "pw", roles={org: "VIEWER"})
        cookie = make_cookie(self.server.tokens("new@example.com"))
        (row,) = self.query("organization.list", cookie=cookie).value
        self.assertEqual((row["id"], row["role"], row["memberCount"]), (org, "VIEWER", 2))


##################################################################################################
# Versions of the server
##################################################################################################

class ServerVersions(StandInCase):
    def test_names(self):
        trace = self.server.traces[0]
        for names, expected in (("new", (200, 404)), ("old", (404, 200)), ("both", (200, 200))):
            self.open_server(names=names)
            statuses = (self.query("trace.getById", traceId=trace).status,
                        self.query("trace.byId", id=trace).status)
            self.assertEqual(statuses, expected)

    def test_wrong_method(self):
        self.assertRefused(self.query("dataset.create", name="x"), "METHOD_NOT_SUPPORTED", 405)
        self.open_server(errors=10)
        self.assertRefused(self.query("dataset.create", name="x"), "NOT_FOUND", 404,
                           'No "query"-procedure on path "dataset.create"')

    def test_bare_errors(self):
        self.open_server(bare_errors=True)
        error = self.query("trace.list", projectId="nope").json["error"]
        self.assertEqual(error["message"], "Project not found")

    def test_bare_list(self):
        self.open_server(bare_list=True)
        self.assertEqual(len(self.list(limit=2).value), 2)

    def test_list_scores(self):
        self.assertNotIn("scores", self.list().value["traces"][0])
        self.open_server(list_scores=True)
        self.assertEqual(len(self.list().value["traces"][0]["scores"]), 2)

    def test_counts_and_costs(self):
        self.open_server(counts="bigint", costs="decimal")
        reply = self.list()
        self.assertEqual(reply.meta["traces.1._count.spans"], ["bigint"])
        self.assertEqual(reply.meta["traces.1.totalCost"], [["custom", "Decimal.js"]])
        trace = reply.value["traces"][1]
        self.assertEqual((trace["_count"]["spans"], trace["totalCost"]), ("3", "0.012"))
        usage = self.query("usage.getCurrentMonth", organizationId=self.server.org)
        self.assertEqual(usage.value["traceCount"], "46000")

    def test_require_project(self):
        self.open_server(require_project=True)
        trace = self.server.traces[0]
        self.assertEqual(self.problems(self.query("trace.getById", traceId=trace))[0]["path"],
                         ["projectId"])
        self.assertEqual(self.query("trace.getById", traceId=trace,
                                    projectId=self.server.project).status, 200)

    def test_batches(self):
        both = {"0": {"json": {"projectId": self.server.project}}, "1": {"json": {}}}
        mixed = self.batch("trace.list,trace.nope", both)
        self.assertEqual(mixed.status, 207)
        self.assertIn("result", mixed.json[0])
        self.assertEqual(mixed.json[1]["error"]["json"]["data"]["path"], "trace.nope")
        self.assertEqual(self.batch("trace.list,organization.list", both).status, 200)
        self.assertEqual(self.batch("a.b,c.d", both).status, 404)
        self.assertEqual(self.server.requests[-1].procedures, ["a.b", "c.d"])
        self.open_server(batching=False)
        self.assertRefused(self.batch("trace.list,organization.list", both), "BAD_REQUEST", 400)

    def batch(self, procedures, inputs):
        text = urllib.parse.quote(json.dumps(inputs))
        return self.get("/api/trpc/%s?batch=1&input=%s" % (procedures, text),
                        {"Cookie": self.cookie})

    def test_input_that_is_no_json(self):
        cookie = {"Cookie": self.cookie}
        reply = self.get("/api/trpc/trace.list?input=%7B", cookie)
        self.assertRefused(reply, "PARSE_ERROR", 400)
        self.assertRefused(self.post("/api/trpc/dataset.create", b"{", cookie), "PARSE_ERROR", 400)


##################################################################################################
# REST with an API key
##################################################################################################

class RestApi(StandInCase):
    def setUp(self):
        super().setUp()
        self.bearer = {"Authorization": "Bearer " + self.server.key}

    def test_traces(self):
        reply = self.get("/api/v1/traces?limit=2", self.bearer).json
        self.assertEqual(reply["nextCursor"], reply["traces"][-1]["id"])
        trace = reply["traces"][0]
        self.assertEqual((trace["spanCount"], trace["scoreCount"]), (3, 2))
        self.assertNotIn("_count", trace)
        rest = self.get("/api/v1/traces?cursor=" + reply["nextCursor"], self.bearer).json
        self.assertEqual((len(rest["traces"]), rest["nextCursor"]), (3, None))
        tagged = self.get("/api/v1/traces?tags=production,v2&status=OK", self.bearer).json
        self.assertEqual(len(tagged["traces"]), 1)
        for query in ("limit=0", "limit=101", "limit=x", "status=nope", "startDate=x"):
            self.assertEqual(self.get("/api/v1/traces?" + query, self.bearer).status, 400)
        self.assertTrue(self.server.rows("api_keys")[0]["lastUsedAt"])

    def test_envelope(self):
        self.open_server(rest_envelope=True)
        reply = self.get("/api/v1/traces", {"Authorization": "Bearer " + self.server.key}).json
        self.assertEqual(len(reply["data"]["traces"]), 5)

    def test_ingest(self):
        events = [{"id": "e1", "type": "trace-create", "timestamp": "2026-03-14T10:30:00Z",
                   "body": {"id": "t1", "name": "from the SDK", "tags": ["a"]}},
                  {"id": "e2", "type": "span-create", "timestamp": "2026-03-14T10:30:00Z",
                   "body": {"id": "s1", "traceId": "t1", "name": "llm", "type": "LLM",
                            "input": {"a.b": [1]}}}]
        reply = self.post("/api/v1/traces", {"batch": events}, self.bearer)
        self.assertEqual((reply.status, reply.json), (201, {"accepted": 2}))
        trace = self.query("trace.getById", traceId="t1").value
        self.assertEqual((trace["name"], trace["spans"][0]["input"]), ("from the SDK",
                                                                      {"a.b": [1]}))
        unnamed = dict(events[0], body={"id": "t2"})
        for batch, status in ((None, 400), ([1], 400), ([unnamed], 400), (events * 501, 413)):
            self.assertEqual(self.post("/api/v1/traces", {"batch": batch}, self.bearer).status,
                             status)

    def send(self, *bodies):
        """Posts each body as an event, whose type is that of a trace if the body has tags."""
        events = [{"id": f"event {number}", "body": body, "timestamp": "2026-03-14T10:30:00Z",
                   "type": "trace-create" if "tags" in body else "span-create"}
                  for number, body in enumerate(bodies)]
        return self.post("/api/v1/traces", {"batch": events}, self.bearer)

    def trace(self, id):
        return self.query("trace.getById", traceId=id).value

    def test_both_spellings_of_events(self):
        snake = {"id": "s1", "trace_id": "t1", "parent_span_id": "s0", "name": "call",
                 "type": "LLM", "start_time": "2026-03-14T10:30:00Z", "error_message": "late",
                 "end_time": "2026-03-14T10:30:01.5Z", "model_parameters": {"top_p": 1},
                 "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "cost": 0.25,
                 "metadata": {"snake_case": {"inner_key": 1}}, "input": None}
        camel = {"id": "s2", "traceId": "t1", "parentSpanId": "s0", "name": "call", "type": "LLM",
                 "startTime": "2026-03-14T10:30:00Z", "endTime": "2026-03-14T10:30:01.500Z",
                 "modelParameters": {"top_p": 1}, "errorMessage": "late", "cost": 0.25,
                 "usage": {"promptTokens": 3, "completionTokens": 4, "totalTokens": 7},
                 "metadata": {"snake_case": {"inner_key": 1}}, "unknown": 1}
        self.assertEqual(self.send({"id": "t1", "name": "n", "tags": [], "session_id": "a"},
                                   snake, camel, dict(snake, **camel)).status, 201)
        found = self.trace("t1")
        self.assertEqual(found["sessionId"], "a")
        first, second = [dict(span, id=0, createdAt=0) for span in found["spans"]]
        self.assertEqual(first, second)
        self.assertEqual((first["promptTokens"], first["totalTokens"], first["durationMs"]),
                         (3, 7, 1500))
        self.assertEqual(first["metadata"], {"snake_case": {"inner_key": 1}})

    def test_totals_from_spans(self):
        """What a trace does not tell of itself comes from its spans, in whatever order they come.
        """
        span = {"trace_id": "t1", "name": "n", "type": "TOOL", "cost": 0.1,
                "start_time": "2026-03-14T10:30:01Z", "end_time": "2026-03-14T10:30:02Z"}
        self.send(dict(span, id="s1"), {"id": "t1", "name": "n", "tags": ["a"]})
        self.send(dict(span, id="s2", cost=0.2, usage={"total_tokens": 5}, status="ERROR",
                       end_time="2026-03-14T10:30:04Z"))
        found = self.trace("t1")
        self.assertEqual((found["endTime"], found["durationMs"], found["totalCost"],
                          found["totalTokens"], found["status"]),
                         ("2026-03-14T10:30:04.000Z", 4000, 0.3, 5, "ERROR"))
        self.send({"id": "t2", "name": "n", "tags": [], "end_time": "2026-03-14T10:30:09Z"},
                  dict(span, id="s3", trace_id="t2"), {"id": "t3", "name": "n", "tags": []})
        self.assertEqual([self.trace(id)["durationMs"] for id in ("t2", "t3")], [9000, None])

    def test_what_is_sent_again_replaces_what_is_there(self):
        span = {"id": "s1", "trace_id": "t1", "name": "n", "type": "TOOL"}
        for name in ("old", "new"):
            self.send({"id": "t1", "name": name, "tags": []}, dict(span, name=name))
        found = self.trace("t1")
        self.assertEqual([found["name"]] + [each["name"] for each in found["spans"]],
                         ["new", "new"])
        other = self.server.add_trace(self.server.hidden, name="other")
        self.assertEqual(self.send({"id": other, "name": "new", "tags": []}).status, 201)
        self.assertEqual(self.server.store.get("traces", other)["name"], "other")

    def test_events_that_are_invalid(self):
        good = {"trace_id": "t1", "name": "n", "type": "TOOL"}
        self.assertEqual(self.send(good).status, 201)
        for wrong in ({"type": "tool"}, {"name": None}, {"start_time": "today"}, {"cost": "0.1"},
                      {"end_time": None}, {"metadata": None}, {"metadata": []}, {"usage": 5},
                      {"status": "ok"}, {"trace_id": 5}, {"model_parameters": "x"}):
            self.assertEqual(self.send(dict(good, **wrong)).status, 400, wrong)
        for missing in good:
            reply = self.send({key: good[key] for key in good if key != missing})
            self.assertEqual(reply.status, 400)
            self.assertEqual(reply.json["error"]["code"], "VALIDATION_ERROR")

    def test_otlp(self):
        def span(id, parent="", **fields):
            return dict({"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": id,
                         "parentSpanId": parent, "name": "span " + id, "kind": 2,
                         "startTimeUnixNano": "1773484200000000000",
                         "endTimeUnixNano": "1773484201250000000", "status": {}}, **fields)

        def send(*spans):
            return self.post("/api/v1/otel/traces", {"resourceSpans": [
                {"resource": {"attributes": [
                    {"key": "service.name", "value": {"stringValue": "shop"}}]},
                 "scopeSpans": [{"scope": {"name": "x"}, "spans": spans}]}]}, self.bearer)
        attributes = [{"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o"}},
                      {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "7"}},
                      {"key": "ai.completion_tokens", "value": {"intValue": 5}},
                      {"key": "list", "value": {"arrayValue": {"values": [{"boolValue": True}]}}}]
        child = span("b" * 16, "a" * 16, kind="SPAN_KIND_CLIENT", attributes=attributes,
                     status={"code": 2, "message": "late"})
        reply = send(child)
        self.assertEqual((reply.status, reply.json), (200, {"accepted": 1}))
        for _ in range(2):
            found = self.trace("0af7651916cd43dd8448eb211c80319c")
            self.assertEqual((found["tags"], found["metadata"], found["totalTokens"],
                              found["status"], found["startTime"], found["durationMs"]),
                             (["shop"], {"service.name": "shop"}, 12, "ERROR",
                              "2026-03-14T10:30:00.000Z", 1250))
            call = found["spans"][0]
            self.assertEqual((call["id"], call["parentSpanId"], call["type"], call["model"],
                              call["errorMessage"], call["metadata"]["list"]),
                             ("b" * 16, "a" * 16, "LLM", "gpt-4o", "late", [True]))
            send(span("a" * 16))
        self.assertEqual([found["name"]] + [each["type"] for each in found["spans"]],
                         ["span " + "a" * 16, "LLM", "AGENT"])
        for body in ({}, b"\x0a\x05", {"resourceSpans": [5]}, {"resourceSpans": [{
                "scopeSpans": [{"spans": [{"traceId": "1"}]}]}]}):
            self.assertEqual(self.post("/api/v1/otel/traces", body, self.bearer).status, 400)

    def test_delayed_ingestion(self):
        self.server.ingest_delay = 1
        self.send({"id": "t1", "name": "n", "tags": []})
        listings = [self.get("/api/v1/traces", self.bearer).json["traces"], self.list(
            ).value["traces"], self.get("/api/v1/traces", self.bearer).json["traces"]]
        self.assertEqual([len(listing) for listing in listings], [5, 6, 6])

    def test_sizes(self):
        self.server.body_limit = 1000
        body = {"id": "t1", "name": "n", "tags": [], "metadata": {"text": ""}}
        self.assertEqual(self.send(body).status, 201)
        reply = self.send(dict(body, metadata={"text": "x" * 1000}))
        self.assertEqual((reply.status, reply.json["error"]["code"]), (413, "PAYLOAD_TOO_LARGE"))
        self.assertEqual(self.post("/api/v1/otel/traces", {"resourceSpans": ["x" * 1000]},
                                   self.bearer).status, 413)
        self.assertEqual(self.post("/api/v1/route-model", {"input": "x" * 512000},
                                   self.bearer).status, 413)
        self.server.batch_limit = 2
        self.assertEqual([self.send(*[{"id": "t1", "name": "n", "tags": []}] * count).status
                          for count in (2, 3)], [201, 413])

    def test_limited_requests(self):
        self.server.rate_limit = (2, 1)
        def mutate():
            return self.mutate("dataset.create", projectId=self.server.project, name="n")
        replies = [mutate(), self.list(), self.get("/api/v1/health"),
                   self.get("/api/v1/traces", self.bearer), mutate(), mutate(), mutate(),
                   self.get("/api/v1/traces", self.bearer)]
        self.assertEqual([reply.status for reply in replies],
                         [200, 200, 200, 200, 429, 200, 200, 429])
        self.assertEqual([reply.headers["Retry-After"] for reply in replies[3:5]], [None, "1"])
        self.assertRefused(replies[4], "TOO_MANY_REQUESTS", 429)
        self.assertEqual(replies[-1].json["error"]["code"], "RATE_LIMITED")
        self.server.rate_limit, self.server.limit_headers = (0, float("inf")), ()
        self.assertEqual([(reply.status, reply.headers["Retry-After"])
                          for reply in (mutate(), mutate())], [(429, None)] * 2)

    def test_scores(self):
        good = {"traceId": self.server.traces[0], "evaluatorName": "new", "value": 0.5}
        reply = self.post("/api/v1/scores", good, self.bearer)
        self.assertEqual((reply.status, reply.json["value"]), (201, 0.5))
        for wrong, status in (({"value": 2}, 400), ({"value": "x"}, 400), ({"traceId": "x"}, 404),
                              ({"evaluatorName": None}, 400)):
            self.assertEqual(self.post("/api/v1/scores", dict(good, **wrong), self.bearer).status,
                             status)

    def test_a_key_is_required(self):
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}):
            self.assertEqual(self.get("/api/v1/traces", headers).status, 401)
            self.assertEqual(self.get("/api/v1/prompt-templates", headers).status, 401)
            self.assertEqual(self.get("/api/v1/health", headers).json, {"status": "ok"})

    def test_rate_limits(self):
        for plan, limit in (("PRO", "1000"), ("FREE", "100"), ("of another server", "1000")):
            self.server.set_plan(self.server.org, plan)
            for query in ("", "?limit=0"):
                headers = self.get("/api/v1/traces" + query, self.bearer).headers
                self.assertEqual(headers["RateLimit-Limit"], limit)
                self.assertLess(abs(int(headers["RateLimit-Reset"]) - time.time()), 600)
        for path, headers in (("traces", {}), ("health", self.bearer),
                              ("prompt-templates", self.bearer)):
            self.assertNotIn("RateLimit-Limit", self.get("/api/v1/" + path, headers).headers)

    def test_prompt_templates(self):
        def shown(query=""):
            return self.get("/api/v1/prompt-templates" + query, self.bearer)
        for number, content in enumerate(("Hello", "Hello {{name}}"), 1):
            reply = self.post("/api/v1/prompt-templates",
                              {"name": "a b", "content": content, "variables": []}, self.bearer)
            self.assertEqual((reply.status, reply.json["data"]["version"]["version"]),
                             (201, number))
        self.assertEqual([row["latestVersion"] for row in shown().json["data"]], [2])
        for query, content in (("", "Hello {{name}}"), ("&version=1", "Hello")):
            version = shown("?name=a%20b" + query).json["data"]["version"]
            self.assertEqual(version["content"], content)
        for query, status in (("?name=x", 404), ("?name=a+b&version=3", 404), ("?version=1", 400)):
            self.assertEqual(shown(query).status, status)
        self.assertEqual(self.post("/api/v1/prompt-templates", {"name": "x"}, self.bearer).status,
                         400)

    def test_route_model(self):
        def route(**body):
            return self.post("/api/v1/route-model", body, self.bearer)
        self.mutate("modelRouting.create", projectId=self.server.project, name="cheap",
                    defaultModel="small")
        self.assertEqual(route(input="Hi").json["configName"], "default")
        self.assertEqual(route(input="Hi", configName="cheap").json["model"], "small")
        self.assertEqual((route().status, route(input="Hi", configName="x").status), (400, 404))


##################################################################################################
# Faults, and what was received
##################################################################################################

class Faults(StandInCase):
    def raw(self, name="organization.list"):
        """All bytes received until the connection is closed; None if it is reset."""
        with socket.create_connection(self.server.listener.server_address, 60) as connection:
            connection.sendall(("GET /api/trpc/%s HTTP/1.1\r\nHost: x\r\nCookie: %s\r\n"
                                "Connection: close\r\n\r\n" % (name, self.cookie)).encode())
            data = b""
            try:
                while True:
                    part = connection.recv(65536)
                    if not part:
                        return data
                    data += part
            except ConnectionResetError:
                return None

    def test_errors_have_the_format_of_the_protocol(self):
        self.server.fault("trace.list", times=2, status=503, headers={"Retry-After": "3"})
        for _ in range(2):
            reply = self.list()
            self.assertRefused(reply, "SERVICE_UNAVAILABLE", 503)
            self.assertEqual(reply.headers["Retry-After"], "3")
        self.assertEqual(self.list().status, 200)
        self.server.fault("auth/", status=500)
        self.assertEqual(self.refresh("x").json["data"], None)

    def test_body(self):
        for body, kind in (("<html>", "text/html"), (b"\xff", "application/json"),
                           ({"a": 1}, "application/json")):
            self.server.fault("", status=502, body=body)
            reply = self.list()
            self.assertEqual((reply.status, reply.type), (502, kind))
        self.server.fault("", body="x", headers={"Content-Type": "text/plain"})
        self.assertEqual((self.list().type, self.list().status), ("text/plain", 200))

    def test_cut(self):
        whole = self.raw()
        self.server.fault("organization.list", cut=10)
        head, _, body = self.raw().partition(b"\r\n\r\n")
        self.assertEqual((head, body), (whole.partition(b"\r\n\r\n")[0],
                                        whole.partition(b"\r\n\r\n")[2][:10]))

    def test_garbage_raw_reset(self):
        self.server.fault("", garbage=b"\x00{")
        self.assertTrue(self.raw().endswith(b"\r\n\r\n\x00{"))
        self.server.fault("", raw=b"HTTP/1.1 200 OK\r\nCont")
        self.assertEqual(self.raw(), b"HTTP/1.1 200 OK\r\nCont")
        self.server.fault("", reset=True)
        self.assertIsNone(self.raw())

    def test_drip(self):
        whole = self.raw()
        self.server.fault("", drip=0.0001)
        self.assertEqual(self.raw(), whole)

    def test_after_the_change_was_made(self):
        self.server.fault("organization.create", reset=True, after=True)
        with self.assertRaises((OSError, urllib.error.URLError)):
            self.mutate("organization.create", name="Made")
        self.assertEqual([row["name"] for row in self.server.rows("organizations")][-1], "Made")
        self.server.fault("organization.create", status=500)
        self.mutate("organization.create", name="Not made")
        self.assertEqual([row["name"] for row in self.server.rows("organizations")][-1], "Made")

    def test_delay_until_released(self):
        fault = self.server.fault("trace.list", delay=True)
        found = []
        thread = threading.Thread(target=lambda: found.append(self.list().status))
        thread.start()
        self.assertTrue(fault.begun.wait(60))
        self.assertEqual((found, self.query("organization.list").status), ([], 200))
        fault.release.set()
        thread.join()
        self.assertEqual(found, [200])

    def test_without_end(self):
        self.server.fault("trace.list", times=None, status=500)
        self.assertEqual({self.list().status for _ in range(5)}, {500})
        self.server.clear()
        self.assertEqual(self.list().status, 200)

    def test_received_requests(self):
        self.list(limit=1)
        self.mutate("organization.create", name="東京")
        first, second = self.server.requests[-2:]
        self.assertEqual((first.method, first.path, first.procedures),
                         ("GET", "/api/trpc/trace.list", ["trace.list"]))
        self.assertEqual(json.loads(first.query["input"])["json"]["limit"], 1)
        self.assertEqual(second.body, {"json": {"name": "東京"}})
        self.assertEqual(first.headers.get("cookie"), self.cookie)
        self.assertEqual(self.server.count("trace.list"), 1)
        self.assertEqual(self.server.connections, 2)
        self.server.clear()
        self.assertEqual((self.server.requests, self.server.count()), ([], 0))

    def test_unknown_paths(self):
        for path in ("/", "/api/v1/nope", "/api/v1/auth/login"):
            reply = self.get(path)
            self.assertEqual((reply.status, reply.type), (404, "text/html"))


class StartingAndStopping(unittest.TestCase):
    def test_stop_ends_all_threads_and_sockets(self):
        before = set(threading.enumerate())
        for _ in range(5):
            with StandIn() as server:
                fault = server.fault("", delay=True)
                idle = socket.create_connection(server.listener.server_address, 60)
                busy = socket.create_connection(server.listener.server_address, 60)
                busy.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                self.assertTrue(fault.begun.wait(60))
            self.assertEqual(set(threading.enumerate()) - before, set())
            self.assertEqual(server.threads, {})
            idle.close()
            busy.close()
            self.assertEqual(server.listener.socket.fileno(), -1)

    def test_a_file_keeps_the_data(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "kept.db")
            with StandIn(data=path) as server:
                cookie = make_cookie(server.tokens(OWNER))
                made = server.add_org("Kept")
                key = server.key
            with StandIn(data=path) as server:
                reply = fetch(server.url + "/api/trpc/organization.list",
                              headers={"Cookie": cookie})
                self.assertIn(made, [row["id"] for row in reply.value])
                self.assertEqual((len(server.traces), server.key), (5, key))

    def test_tls(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("cert.pem", "key.pem")]
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                       "-subj", "/CN=localhost", "-out", paths[0], "-keyout", paths[1]]
            try:
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               check=True)
            except (OSError, subprocess.CalledProcessError):
                self.skipTest("openssl is not available")
            context = ssl.create_default_context(cafile=paths[0])
            context.check_hostname = False
            with StandIn(tls=paths) as server:
                stalled = socket.create_connection(server.listener.server_address, 60)
                with socket.create_connection(server.listener.server_address, 60) as plain:
                    with context.wrap_socket(plain) as secure:
                        secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        self.assertTrue(secure.recv(100).startswith(b"HTTP/1.1 404"))
            stalled.close()
            self.assertEqual(server.failures, [])

    def test_stop_while_a_connection_becomes_tls(self):
        wrapped, closed = threading.Event(), threading.Event()

        class Context:
            """One that is still busy with a connection when the server stops."""

            @staticmethod
            def wrap_socket(connection, **options):
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                result = context.wrap_socket(connection, **options)
                wrapped.set()
                closed.wait(tools.DEADLINE)
                return result

        server = StandIn(empty=True).start()
        server.context = Context
        close = server.listener.server_close
        server.listener.server_close = lambda: (close(), closed.set())
        with socket.create_connection(server.listener.server_address, 60):
            self.assertTrue(wrapped.wait(tools.DEADLINE))
            stopping = threading.Thread(target=server.stop, daemon=True)
            stopping.start()
            stopping.join(tools.DEADLINE)
            self.assertFalse(stopping.is_alive())

    def test_unknown_options(self):
        self.assertRaises(TypeError, StandIn, nonsense=1)


##################################################################################################
# The sandbox
##################################################################################################

@tools.costly
class Sandbox(unittest.TestCase):
    def start(self, *args):
        """A serving sandbox as a process, and the URL it printed."""
        environment = dict(os.environ, PYTHONIOENCODING="utf-8")
        command = [sys.executable, SANDBOX] + list(args)
        process = subprocess.Popen(
            command, bufsize=0, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.addCleanup(self.end, process)
        text = process.stdout.readline().decode("utf-8")
        return process, re.search(r"http://127\.0\.0\.1:\d+", text).group()

    def end(self, process):
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()

    def stop(self, process):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, err), (0, b""))
        return out.decode("utf-8")

    @unittest.skipIf(os.name == "nt", "Ctrl-C cannot be sent to a single process on Windows")
    def test_served_with_data(self):
        with tempfile.TemporaryDirectory() as folder:
            data = os.path.join(folder, "sandbox.db")
            process, url = self.start("--data", data)
            login = fetch(url + "/api/v1/auth/login", "POST",
                          CREDENTIALS).json["data"]
            user = login["user"]
            cookie = {"Cookie": make_cookie(dict(login, user_id=user["id"],
                                                 user_email=user["email"]))}
            rows = fetch(url + "/api/trpc/organization.list", headers=cookie).value
            made = fetch(url + "/api/trpc/organization.create", "POST", {"json": {"name": "x"}},
                         cookie)
            self.assertEqual((len(rows), made.status), (2, 200))
            text = self.stop(process)
            for line in ("export TWOSIGNAL_URL=" + url, "export TWOSIGNAL_HOME=",
                         "--password-stdin", 'twosignal projects use "Support Agent"',
                         "twosignal traces list"):
                self.assertIn(line, text)
            process, again = self.start("--data", data)
            self.assertEqual(again, url)
            rows = fetch(again + "/api/trpc/organization.list", headers=cookie).value
            self.assertEqual(len(rows), 3)
            self.stop(process)

    def test_sample_data(self):
        server = sandbox.open_server(sandbox.Options())
        self.addCleanup(server.stop)
        counts = {table: len(server.rows(table)) for table in standin.TABLES}
        self.assertGreaterEqual(counts["traces"], 300)
        self.assertGreaterEqual(counts["projects"], 3)
        self.assertTrue(counts["scores"] and counts["items"] and counts["evaluators"])
        self.assertEqual({row["role"] for row in server.rows("members")},
                         {"OWNER", "ADMIN", "MEMBER", "VIEWER"})
        names = [(row["name"], bool(row["revokedAt"])) for row in server.rows("api_keys")]
        self.assertEqual(names.count(("Deploy", False)), 2)
        self.assertTrue({("Production", False), ("Production", True)} <= set(names))
        self.assertEqual([len(row["versions"]) for row in server.rows("prompts")], [2])
        self.assertEqual(len(server.rows("routes")), 1)
        kinds = {span["type"] for span in server.rows("spans")}
        self.assertEqual(kinds, {"AGENT", "TOOL", "LLM", "CHAIN", "RETRIEVAL", "CUSTOM",
                                 "DELEGATION", "VOICE", "HUMAN_HANDOFF", "GUARDRAIL"})
        names = "".join({trace["name"] for trace in server.rows("traces")})
        for letter in "返ع🌍\u0301":
            self.assertIn(letter, names)
        self.assertEqual([row["id"] for row in server.rows("traces")], self.trace_ids(sandbox))

    def trace_ids(self, sandbox):
        """The IDs after another start, which are the same each time."""
        server = sandbox.open_server(sandbox.Options())
        self.addCleanup(server.stop)
        return [row["id"] for row in server.rows("traces")]

    def test_arguments(self):
        options, command = sandbox.read_arguments(["--port=1", "--data", "f", "x", "--port", "2"])
        self.assertEqual((options.data, options.port, command), ("f", 1, ["x", "--port", "2"]))
        self.assertEqual(sandbox.read_arguments(["--json", "orgs"])[1], ["--json", "orgs"])
        for argv in (["--port"], ["--port", "x"], ["--port", "70000"], ["--dialect", "middle"],
                     ["--slow", "-1"], ["--live", "nan"], ["--role", "guest"]):
            self.assertRaises(ValueError, sandbox.read_arguments, argv)

    def test_environment_of_the_command(self):
        """A script in place of twosignal.py records its environment, home and arguments."""
        with tempfile.TemporaryDirectory() as folder:
            script, seen = os.path.join(folder, "script.py"), os.path.join(folder, "seen.json")
            with open(script, "w") as file:
                file.write("import json, os, sys\n"
                           "home = os.environ['TWOSIGNAL_HOME']\n"
                           "session = json.load(open(os.path.join(home, 'session.json')))\n"
                           "json.dump([dict(os.environ), session, sys.argv[1:]],"
                           " open(sys.argv[1], 'w'))\n"
                           "sys.exit(7)\n")
            with mock.patch.object(sandbox, "SCRIPT", script):
                self.assertEqual(sandbox.run(sandbox.Options(), [seen, "--json"]), 7)
            with open(seen) as file:
                environment, session, arguments = json.load(file)
        self.assertEqual(arguments, [seen, "--json"])
        self.assertEqual(session["api_url"], environment["TWOSIGNAL_URL"])
        self.assertEqual(session["user_email"], OWNER)
        self.assertIn("127.0.0.1", environment["no_proxy"])
        self.assertTrue(environment["TWOSIGNAL_PROJECT"] and environment["TWOSIGNAL_ORG"])
        self.assertFalse(os.path.exists(environment["TWOSIGNAL_HOME"]))

    def test_dialects(self):
        """The client gives the same verdict on a current and on an older server."""
        found = {}
        for dialect in standin.DIALECTS:
            options, command = sandbox.read_arguments(
                ["--dialect", dialect, "--slow", "0.01", "traces", "check", "--max-cost", "0"])
            self.assertEqual(sandbox.run(options, command + ["-o", os.devnull]), 10)
            server = sandbox.open_server(options)
            self.addCleanup(server.stop)
            found[dialect] = server.page_key
        self.assertEqual(found, {"new": "traces", "old": "items"})

    def test_roles(self):
        """The command runs as a member of that role."""
        with tempfile.TemporaryDirectory() as folder:
            for role in ("owner", "admin", "member", "viewer"):
                path = os.path.join(folder, role)
                options, command = sandbox.read_arguments(
                    ["--role", role, "orgs", "list", "--json", "-o", path])
                self.assertEqual(sandbox.run(options, command), 0)
                with open(path, encoding="utf-8") as file:
                    self.assertEqual({row["role"] for row in json.load(file)}, {role.upper()})

    def test_key(self):
        """The command runs with the key of the project, which cannot read scores."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "traces.json")
            options, command = sandbox.read_arguments(
                ["--role", "key", "traces", "list", "--json", "-o", path])
            self.assertEqual(sandbox.run(options, command), 0)
            with open(path, encoding="utf-8") as file:
                self.assertIn(None, [trace["scores"] for trace in json.load(file)])

    def test_live(self):
        """New traces keep arriving, and every enabled evaluator scores them."""
        options, command = sandbox.read_arguments([
            "--live", "0.02", "traces", "wait", "--since", "20s", "--count", "5", "--scored",
            "--timeout", "60s", "-q", "--format", "jsonl", "-o", os.devnull])
        self.assertEqual(sandbox.run(options, command), 0)

    def test_one_command(self):
        for command, code in ((["traces", "list", "--json"], 0), (["traces", "get", "x"], 6)):
            process = subprocess.Popen(
                [sys.executable, SANDBOX] + command,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
            out, err = process.communicate(timeout=120)
            self.assertEqual(process.returncode, code, err)
            if not code:
                self.assertEqual(len(json.loads(out.decode("utf-8"))), 20)


if __name__ == "__main__":
    unittest.main()
