"""Hostile servers: responses that are not the protocol, metas, secrets, control characters."""
import base64
import copy
import csv
import gzip
import html
import http.client
import io
import json
import os
import random
import re
import string
import time
import unittest
from unittest import mock
from urllib.parse import parse_qs, quote, quote_plus, unquote, urlsplit

import tools
import twosignal
from servers import Proxy, Scripted, answer, header, reset
from test_text import BIDI, CONTROLS, SEPARATORS, SURROGATES, UNSAFE

URL = "http://127.0.0.1:9"          # nothing listens there: a real request would be refused
WHEN = "2026-03-14T10:30:00.000Z"
SPAN = {"id": "e0", "traceId": "d0", "parentSpanId": None, "projectId": "c0", "name": "root",
        "type": "LLM", "startTime": WHEN, "endTime": WHEN, "durationMs": 900, "input": {"q": "hi"},
        "output": "ho", "model": "gpt", "modelParameters": {"maxTokens": 5}, "promptTokens": 1,
        "completionTokens": 2, "totalTokens": 3, "cost": 0.0034, "status": "OK",
        "errorMessage": "late", "metadata": None, "createdAt": WHEN}
SCORE = {"id": "f0", "traceId": "d0", "spanId": None, "projectId": "c0", "value": 0.25,
         "evaluatorName": "helpful", "label": "pass", "reasoning": "because", "createdAt": WHEN}
TRACE = {"id": "d0", "projectId": "c0", "name": "agent", "startTime": WHEN, "endTime": WHEN,
         "metadata": {"k": "v"}, "tags": ["one"], "totalCost": 0.0034, "totalTokens": 1250,
         "status": "OK", "durationMs": 800, "createdAt": WHEN, "sessionId": "s0",
         "_count": {"spans": 1, "scores": 1}}
ORG = {"id": "b0", "name": "Acme", "plan": "PRO", "role": "OWNER", "memberCount": 3,
       "createdAt": WHEN}
PROJECT = {"id": "c0", "organizationId": "b0", "name": "Support", "description": "d",
           "createdAt": WHEN}
EVALUATOR = {"id": "a0", "projectId": "c0", "name": "Has JSON", "type": "JSON_SCHEMA",
             "config": {"a": 1}, "enabled": True, "createdAt": WHEN}
MEMBER = {"id": "m0", "organizationId": "b0", "userId": "u0", "role": "VIEWER",
          "email": "sam@example.com", "createdAt": WHEN}
ITEM = {"id": "i0", "datasetId": "g0", "input": {"p": "Hi"}, "expectedOutput": 1, "metadata": None,
        "createdAt": WHEN}
DATASET = {"id": "g0", "projectId": "c0", "name": "Cases", "description": "d",
           "_count": {"items": 1}, "createdAt": WHEN}
KEY = {"id": "k0", "projectId": "c0", "name": "CI", "keyPrefix": "ts_12", "createdBy": "u0",
       "revokedAt": None, "lastUsedAt": WHEN, "createdAt": WHEN}
USAGE = {"month": "2026-03", "traceCount": 46000, "spanCount": 180000, "evalRunCount": 900,
         "projectBreakdown": [{"projectId": "c0", "traceCount": 1, "spanCount": 2,
                               "evalRunCount": 3}]}
WORLD = {
    "organization.list": [ORG], "organization.create": ORG, "organization.update": ORG,
    "organization.getById": dict(ORG, members=[MEMBER]), "organization.addMember": MEMBER,
    "organization.removeMember": {"success": True},
    "project.list": [PROJECT], "project.create": PROJECT, "project.update": PROJECT,
    "project.delete": {"success": True},
    "trace.list": {"traces": [TRACE, dict(TRACE, id="d1")], "nextCursor": None},
    "trace.getById": dict(TRACE, spans=[SPAN], scores=[SCORE]),
    "evaluator.list": [EVALUATOR], "evaluator.create": EVALUATOR, "evaluator.update": EVALUATOR,
    "evaluator.delete": {"success": True},
    "dataset.list": [DATASET], "dataset.create": DATASET, "dataset.addItem": ITEM,
    "dataset.getById": dict(DATASET, items=[ITEM]), "dataset.delete": {"success": True},
    "dataset.update": DATASET, "dataset.removeItem": {"success": True},
    "apiKey.list": [KEY], "apiKey.create": dict(KEY, key="ts_whole_key"),
    "apiKey.rotate": dict(KEY, key="ts_whole_key"), "apiKey.revoke": KEY,
    "usage.getCurrentMonth": USAGE,
}
TOGGLE = "evaluators toggle a0 --project c0"        # looks the evaluator up in the list
RENAME = "orgs rename x --org b0"
REMOVAL = "orgs remove-member --email sam@example.com --org b0 -y"     # looks the email up
COMMANDS = [                        # (procedure whose response is the hostile one, command line)
    ("organization.list", "orgs list"), ("organization.list", "whoami"),
    ("organization.create", "orgs create x"), ("organization.list", "usage --org b0"),
    ("organization.update", RENAME),
    ("organization.getById", "orgs get --org b0"),
    ("organization.getById", "orgs list-members --org b0"),
    ("organization.addMember", "orgs add-member --email x@y.z --role viewer --org b0"),
    ("organization.removeMember", REMOVAL),
    ("project.list", "projects list --org b0"), ("project.create", "projects create x --org b0"),
    ("project.update", "projects update c0 -n x"), ("project.delete", "projects delete c0 -y"),
    ("trace.list", "traces list --project c0"), ("trace.getById", "traces get d0 --project c0"),
    ("evaluator.list", "evaluators list --project c0"),
    ("evaluator.create", "evaluators create --project c0 -n x --type COST"),
    ("evaluator.update", "evaluators toggle a0 --project c0 --enable"),
    ("evaluator.list", TOGGLE),
    ("evaluator.delete", "evaluators delete a0 --project c0 -y"),
    ("dataset.list", "datasets list --project c0"),
    ("dataset.create", "datasets create --project c0 -n x"),
    ("dataset.getById", "datasets get g0 --project c0"),
    ("dataset.addItem", "datasets add-item g0 --project c0 --input 1"),
    ("dataset.update", "datasets update g0 --project c0 -n x"),
    ("dataset.removeItem", "datasets remove-item i0 --project c0 -y"),
    ("dataset.delete", "datasets delete g0 --project c0 -y"),
    ("apiKey.list", "api-keys list --project c0"),
    ("apiKey.create", "api-keys create --project c0 -n x"),
    ("apiKey.rotate", "api-keys rotate k0 --project c0 -y"),
    ("apiKey.revoke", "api-keys revoke k0 --project c0 -y"),
    ("usage.getCurrentMonth", "usage --org b0"),
]
_FULL = {"a": "a", "b": "b", "c": "c", "d": "d", "g": "e", "k": "f"}


def with_full_ids(value):
    """The value with UUIDs as its IDs, which no command takes for a name.
    """
    def whole(match):
        return _FULL[match.group(1)] + "0000000-0000-4000-8000-000000000001"
    return json.loads(re.sub(r"\b([abcdgk])0\b", whole, json.dumps(value)))


WORLD = with_full_ids(WORLD)
TRACE = WORLD["trace.list"]["traces"][0]
SILENT = (                          # their result is not needed
    "evaluator.delete", "dataset.delete", "dataset.removeItem", "apiKey.revoke", "project.delete",
    "organization.addMember", "organization.removeMember")
DEEP = "[" * 1000 + "]" * 1000
NOT_JSON = [b"", b" ", b"{", b"null null", b"\xff\xfe{}", b'"\xc3("', b"<html><body>Log in",
            gzip.compress(b'{"result": {"data": {"json": []}}}'), b"NaN",
            b'{"result": {"data": {"json": NaN}}}', b'{"result": {"data": {"json": [Infinity]}}}',
            b'{"result": {"data": {"json": 1e999}}}', b'{"result": {"data": {"json": -Infinity}}}',
            b'{"result": {"data": {"json": %s}}}' % (b"9" * 5000), b"[" * 100000, b'{"a":' * 100000,
            b'{"result": {"data": {"json": %s}}}' % DEEP.encode(), b"\x00" * 1000, b"%PDF-1.4",
            '{"result": {"data": {"json": []}}}'.encode("utf-16"), b"\x1f\x8b", b"true", b"5",
            b'"text"', b"[]", b"{}"]
HUGE = 10 ** 399                    # more digits than a number may have
WRONG = [None, True, False, 0, -1, 1.5, HUGE, "", "x", "\ud800\x1b", [], {}, [[]], [None],
         ["x"], {"a": 1}, {"json": None}, [{}], [[[[{}]]]]]


def canned(body, status=200, kind="application/json"):
    headers = http.client.HTTPMessage()
    headers["Content-Type"] = kind
    if not isinstance(body, bytes):
        body = json.dumps(body).encode("ascii")
    return twosignal.Response(status, headers, body)


def envelope(value, meta=None):
    data = {"json": value}
    if meta is not None:
        data["meta"] = meta
    return {"result": {"data": data}}


def server_of(world, hostile=None, reply=None):
    """A stand-in for Transport.request: a world of procedures; `reply` for the hostile one."""
    def request(transport, method, url, *args, **kwargs):
        parts = urlsplit(url)
        if "/api/v1/auth/" in url:
            return canned({"data": None, "error": {"code": "UNAUTHORIZED", "message": "no"}}, 401)
        names = parts.path.rpartition("/")[2].split(",")
        if hostile in names:
            return reply
        if "batch" in parse_qs(parts.query):
            return canned([envelope(world[name]) for name in names])
        return canned(envelope(world[names[0]]))
    return request


def paths_in(value, path=()):
    """The path of each value within a JSON value, itself included."""
    yield path
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            for found in paths_in(value[key], path + (key,)):
                yield found


def replaced(value, path, by):
    """A copy of a JSON value with another one at that path."""
    if not path:
        return by
    result = copy.deepcopy(value)
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = by
    return result


class CannedCase(tools.Case):
    """A logged-in home and no network: Transport.request is replaced."""

    def setUp(self):
        super().setUp()
        self.session = {"access_token": "access-canary.a.b", "refresh_token": "v1.refresh-canary",
                        "expires_at": int(time.time()) + 10 ** 6, "user_id": "u0",
                        "user_email": "you@example.com", "project_ref": "ref", "api_url": URL}
        self.write("home/session.json", self.session)
        self.write("home/config.json", {"api_url": URL})

    def run_canned(self, request, *args, **kwargs):
        args = [with_full_ids(arg) if len(arg) == 2 else arg for arg in args]
        with mock.patch.object(twosignal.Transport, "request", request):
            return self.run_cli(*args, **kwargs)

    def assertOneLine(self, result, code):
        """It ends with that exit code; an error is one line, and no bug."""
        self.assertEqual(result.code, code, result)
        self.assertNotIn("Internal error", result.err, result)
        self.assertNotIn("Traceback", result.err, result)
        if result.code:
            self.assertEqual(result.err.count("\n"), 1, result)
            self.assertRegex(result.err, r'\A(Error: |\{"error": )')

    def seeded(self):
        self.seed = random.SystemRandom().randrange(2 ** 32)
        return random.Random(self.seed)


class NotTheProtocol(CannedCase):
    def test_no_json_of_the_protocol(self):
        """Row 25: no JSON, or JSON of something else, is one line and exit code 8."""
        for procedure, line in COMMANDS:
            for body in tools.full(NOT_JSON[len(line) % 5::5], NOT_JSON):
                if procedure in SILENT and DEEP.encode("ascii") in body:
                    continue        # newer Pythons can read it
                reply = canned(body)
                for args in (line.split(), line.split() + ["--json"]):
                    with self.subTest(args=args, body=body[:60]):
                        result = self.run_canned(server_of(WORLD, procedure, reply), *args)
                        self.assertOneLine(result, 8)
                        # What is known without the server is shown all the same.
                        self.assertEqual("you@example.com" in result.out, "whoami" in args)
                        self.assertTrue("whoami" in args or not result.out)

    def test_every_body_that_is_not_json(self):
        """Row 25: each of them, with the statuses of proxies and captive portals."""
        for body in NOT_JSON + [b"<!DOCTYPE html><title>\x1b[2J</title>"]:
            for status in (200, 201, 204, 302, 304, 400, 401, 403, 404, 418, 451):
                with self.subTest(status=status, body=body[:60]):
                    reply = canned(body, status, "text/html; charset=\x1b[31m")
                    result = self.run_canned(
                        server_of(WORLD, "organization.list", reply), "orgs", "list")
                    self.assertOneLine(result, 8)

    def test_over_a_real_connection(self):
        """Row 25: a captive portal, unsolicited gzip and bad UTF-8 over HTTP."""
        html = "<!DOCTYPE html><html><body>Welcome to the Wi-Fi. \x1b[2J</body></html>"
        for body, status, kind in ((html, 200, "text/html"), (html, 404, "text/html"),
                                   (html, 511, "text/html"), (b"\xff\xfe", 200, "application/json"),
                                   (DEEP, 200, "application/json"),
                                   (gzip.compress(b"{}"), 200, "application/json")):
            headers = [("Content-Type", kind)]
            if body[:2] == b"\x1f\x8b":
                headers.append(("Content-Encoding", "gzip"))
            with Scripted([answer(body, status, headers)]) as server:
                session = dict(self.session, api_url=server.url)
                self.write("home/session.json", session)
                result = self.run_cli("orgs", "list", "--url", server.url)
            self.assertOneLine(result, 8)

    def test_login_with_what_is_not_the_protocol(self):
        """Row 25: the same for a login, which stores nothing."""
        os.remove(os.path.join(self.home, "session.json"))
        good = {"data": {"access_token": "aaaa.b.c", "refresh_token": "v1.x", "project_ref": "p",
                         "expires_at": int(time.time()) + 60, "user": {"id": "u", "email": "e"}}}
        bodies = list(NOT_JSON)
        for path in paths_in(good):
            bodies += [json.dumps(replaced(good, path, wrong)).encode("ascii") for wrong in WRONG]
        dice = self.seeded()
        for body in tools.full(dice.sample(bodies, 70), bodies):
            for status in tools.full((200,), (200, 201)):
                with self.subTest(seed=self.seed, status=status, body=body[:300]):
                    result = self.run_canned(lambda *args, **kwargs: canned(body, status),
                                             "login", "-e", "a@b.c", "-p", "pass-canary")
                    stored = self.state("session.json")
                    if stored:
                        again = self.run_canned(server_of(WORLD), "orgs", "list")
                        os.remove(os.path.join(self.home, "session.json"))
                        has_expired = stored["expires_at"] <= time.time()
                        self.assertOneLine(again, 4 if has_expired else 0)
                        for key in ("access_token", "refresh_token", "project_ref", "user_email"):
                            self.assertTrue(stored[key] and isinstance(stored[key], str), key)
                        self.assertIsInstance(stored["expires_at"], int)
                    self.assertEqual(result.code, 0 if stored else 8, result)
                    self.assertNotIn("Internal error", result.err)

    def test_wrong_types_in_the_envelope(self):
        """Row 25: every wrong type at each level above the resource is exit code 8."""
        for procedure, line in COMMANDS:
            good = envelope(WORLD[procedure])
            for path in ((), ("result",), ("result", "data"), ("result", "data", "json")):
                if path and path[-1] == "json" and procedure in SILENT:
                    continue
                for wrong in tools.full(WRONG[len(line) % 6::6], WRONG):
                    body = replaced(good, path, wrong)
                    if path[-1:] == ("json",) and self.fits(WORLD[procedure], wrong):
                        continue
                    if procedure in SILENT and path in (("result",), ("result", "data")) and (
                            isinstance(wrong, dict)):
                        continue    # an empty result may be left out
                    for status in (200, 400)[:1 if path[-1:] == ("json",) else 2]:
                        with self.subTest(line=line, path=path, wrong=repr(wrong)[:40]):
                            reply = canned(body, status)
                            result = self.run_canned(server_of(WORLD, procedure, reply),
                                                     *line.split())
                            self.assertOneLine(result, 8)

    @staticmethod
    def fits(value, wrong):
        """Whether the value is valid there: an empty list, an object of unknown fields."""
        if isinstance(value, list):
            return wrong == [] or isinstance(wrong, list) and all(
                isinstance(row, dict) for row in wrong)
        return isinstance(wrong, dict) or (isinstance(wrong, list) and "traces" in value and all(
            isinstance(row, dict) for row in wrong))

    def test_wrong_types_in_errors(self):
        """Row 25: a wrong type at any level of an error is still a documented error."""
        good = {"error": {"json": {"message": "m", "code": -32600, "data": {
            "code": "BAD_REQUEST", "httpStatus": 400, "path": "x"}}}}
        zod = [{"path": ["a"], "message": "m", "options": ["x"], "values": ["y"]}]
        messages = [json.dumps(replaced(zod, path, wrong))
                    for path in paths_in(zod) for wrong in WRONG]
        messages += [DEEP, "[" * 50000, "9" * 5000, "m" * 10 ** 6, "[NaN]"]
        cases = [(path, wrong) for path in paths_in(good) for wrong in WRONG]
        cases += [(("error", "json", "message"), text) for text in messages]
        for path, wrong in cases:
            body = replaced(good, path, wrong)
            for status in (200, 400, 401, 403, 404, 429, 500):
                if status != 400 and is_skipped(body, status):
                    continue
                with self.subTest(status=status, body=repr(body)[:200]):
                    reply = canned(body, status)
                    result = self.run_canned(server_of(WORLD, "organization.list", reply),
                                             "orgs", "list")
                    self.assertEqual(result.code, self.code_of_error(path, wrong, status), result)
                    self.assertNotIn("Internal error", result.err)
                    self.assertEqual(result.err.count("Error: "), 1)
                    self.assertTrue(all(line.startswith("  ")
                                        for line in result.err.splitlines()[1:]), result)

    @staticmethod
    def code_of_error(path, wrong, status):
        """The exit code of an error BAD_REQUEST that has a wrong value at that path."""
        if wrong == HUGE:                                   # then it is no JSON that can be read
            return 7 if status == 429 else 8
        if len(path) > 2 and path != ("error", "json", "data"):
            return 1                                        # its code or its status are left
        is_error = isinstance(wrong, dict) and (
            path == ("error", "json") or wrong and path != () and wrong != {"json": None})
        if is_error or path == ("error", "json", "data"):
            # The status of the response alone is left, which may be that of a gateway.
            if path == ("error",) and status in (401, 403):
                return 8
            return {200: 8, 400: 1, 401: 4, 403: 5, 404: 6, 429: 7, 500: 8}[status]
        return 7 if status == 429 else 8

    def test_an_error_with_status_200_and_nothing_in_it(self):
        """Row 25: an empty error object is not the protocol."""
        for error in ({"json": {}}, {"json": {"message": 5}}, {"x": 1}):
            reply = canned({"error": error}, 200)
            result = self.run_canned(server_of(WORLD, "organization.list", reply), "orgs", "list")
            self.assertOneLine(result, 8)

    def test_wrong_types_in_resources(self):
        """Row 25: a wrong type at any level of a resource is shown, or exit code 8."""
        dice = self.seeded()
        cases = [(line, procedure, path, wrong) for procedure, line in COMMANDS
                 for path in paths_in(WORLD[procedure]) for wrong in WRONG]
        for line, procedure, path, wrong in dice.sample(cases, tools.full_once(180, len(cases))):
            body = envelope(replaced(WORLD[procedure], path, wrong))
            for args in (line.split(), line.split() + ["--json"]):
                with self.subTest(seed=self.seed, args=args, path=path, wrong=repr(wrong)[:40]):
                    result = self.run_canned(server_of(WORLD, procedure, canned(body)), *args)
                    code = self.code_of_resource(line, procedure, path, wrong)
                    is_count = procedure == "trace.list" and path[-2:] == ("_count", "scores")
                    if is_count and wrong == 1.5 and "--json" in args:
                        code = 8        # fewer scores than the server counts
                    self.assertOneLine(result, code)
                    if result.code == 0 and "--json" in args:
                        json.loads(result.out)

    @staticmethod
    def code_of_resource(line, procedure, path, wrong):
        """The exit code of a command whose resource has a wrong value at that path."""
        value = WORLD[procedure]
        for key in path:
            value = value[key]
        name = path[-1] if path else None
        is_rows = isinstance(wrong, list) and all(isinstance(row, dict) for row in wrong)
        if wrong == HUGE:
            fits = False
        elif procedure in SILENT:
            fits = True
        elif isinstance(value, list) and isinstance(value[0], dict):
            may_be_empty = name in ("spans", "scores", "items", "projectBreakdown")
            fits = is_rows or may_be_empty and not wrong and (name == "items" or wrong != {})
        elif name is None:
            is_whole = not {"key", "members"} & set(value)      # without these, it is of no use
            fits = is_rows if "traces" in value else isinstance(wrong, dict) and is_whole
        elif isinstance(name, int) and isinstance(value, dict):
            fits = isinstance(wrong, dict)
        elif name == "nextCursor":
            fits = wrong is None or wrong == ""
        else:
            fits = name != "key" or isinstance(wrong, str)
        if fits and line == TOGGLE and path in ((), (0,), (0, "id")):
            return 6
        return 0 if fits else 8

    def test_numbers_of_any_size(self):
        """Row 25: numbers that no float can hold, in place of each number."""
        for procedure, line in COMMANDS:
            for path in paths_in(WORLD[procedure]):
                for wrong in (10 ** 309, -10 ** 399, 1e308, "1" * 400, 5e-324, 10 ** 19):
                    value = WORLD[procedure]
                    for key in path:
                        value = value[key]
                    if isinstance(value, bool) or not isinstance(value, (int, float)):
                        continue
                    body = envelope(replaced(WORLD[procedure], path, wrong))
                    with self.subTest(line=line, path=path, wrong=str(wrong)[:20]):
                        result = self.run_canned(server_of(WORLD, procedure, canned(body)),
                                                 *line.split())
                        is_too_long = wrong in (10 ** 309, -10 ** 399)
                        self.assertOneLine(result, 8 if is_too_long else 0)

    def test_keys_of_any_spelling(self):
        """Row 25: keys in other cases, with odd characters, and Python's own names."""
        def spelled(value, spell):
            if isinstance(value, dict):
                return {spell(key): spelled(one, spell) for key, one in value.items()}
            return [spelled(one, spell) for one in value] if isinstance(value, list) else value
        for spell in (str.upper, str.title, lambda key: key + " ", twosignal.snake_case,
                      lambda key: key[:1].upper() + key[1:], lambda key: "_" + key,
                      lambda key: "\x1b" + key, lambda key: "__class__"):
            for procedure, line in COMMANDS:
                body = envelope(spelled(WORLD[procedure], spell))
                code = 0
                if line == "traces list --project c0" and spell("traces") != "traces":
                    code = 8                                # no list of traces
                if procedure == "organization.getById" and spell("members").lower() != "members":
                    code = 8
                if line == TOGGLE and spell("id") != "id":
                    code = 6                                # no evaluator with that ID
                if re.search("create|rotate", line) and "api-keys" in line and (
                        spell("key").lower() != "key"):
                    code = 8                                # no key
                with self.subTest(line=line, key=spell("key")):
                    result = self.run_canned(server_of(WORLD, procedure, canned(body)),
                                             *line.split())
                    self.assertOneLine(result, code)

    def deep_traces(self, depth):
        """The results of traces get, as table and as JSON, for traces of that depth."""
        for fields in ('{"id": "d0", "metadata": %s}', '{"id": "d0", "other": %s}'):
            for deep in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
                text = '{"result": {"data": {"json": %s}}}' % (fields % deep)
                reply = canned(text.encode("ascii"))
                for options in ((), ("--json",)):
                    yield self.run_canned(server_of(WORLD, "trace.getById", reply),
                                          "traces", "get", "d0", "--project", "c0", *options)

    def test_deep_data(self):
        """Row 25: data of 300 levels is shown, of 20,000 is one line, in table and JSON."""
        for depth, code in ((50, 0), (200, 0), (300, 0), (20000, 8)):
            for result in self.deep_traces(depth):
                self.assertOneLine(result, code)

    def test_data_as_deep_as_python_can_read(self):
        """Row 25: how deep that is depends on the Python; beyond, it is one line."""
        for depth in tools.full((950, 1000), (500, 800, 950, 980, 990, 1000, 3000)):
            for result in self.deep_traces(depth):
                self.assertOneLine(result, 8 if result.code else 0)

    def test_numbers_of_5000_digits(self):
        """Row 25: a number of 5,000 digits is refused on every Python, in any field."""
        for digits in ("9" * 5000, "-" + "9" * 5000, "1" + "0" * 5000 + ".0", "1e99999"):
            for place in ('{"id": "d0", "metadata": {"n": %s}}', '{"id": "d0", "durationMs": %s}'):
                body = '{"result": {"data": {"json": %s}}}' % (place % digits)
                reply = canned(body.encode("ascii"))
                for level in ([], ["--json"]):
                    result = self.run_canned(server_of(WORLD, "trace.getById", reply), "traces",
                                             "get", "d0", "--project", "c0", *level)
                    self.assertOneLine(result, 8)

    def test_lone_surrogates(self):
        """Row 25: lone surrogates are text in tables and escapes in JSON."""
        body = b'{"result": {"data": {"json": [{"id": "\\ud800", "name": "a\\udfffb"}]}}}'
        request = server_of(WORLD, "organization.list", canned(body))
        result = self.assertOk(self.run_canned(request, "orgs", "list"))
        self.assertIn("\\ud800", result.out)
        self.assertIn("a\\udfffb", result.out)
        result = self.assertOk(self.run_canned(request, "orgs", "list", "--json"))
        self.assertEqual(result.json, [{"id": "\ud800", "name": "a\udfffb"}])
        self.assertIn("a\\udfffb", result.out)

    def test_no_half_of_a_json_document(self):
        """Row 25: a listing that fails at its first row prints nothing."""
        for key, deep, code in (("config", "[" * 300 + "]" * 300, 0),
                                ("other", '{"a":' * 800 + "1" + "}" * 800, 0 if tools.PYPY else 8)):
            body = '{"result": {"data": {"json": [{"id": "x", "%s": %s}]}}}' % (key, deep)
            reply = canned(body.encode("ascii"))
            result = self.run_canned(server_of(WORLD, "evaluator.list", reply),
                                     "evaluators", "list", "--project", "c0", "--json")
            self.assertOneLine(result, code)
            if code:
                self.assertEqual(result.out, "")
            else:
                self.assertEqual([row["id"] for row in json.loads(result.out)], ["x"])

    def test_batches_of_the_wrong_shape(self):
        """Row 25: a batch has scores only if each of its results has the right type."""
        scored = envelope(dict(TRACE, scores=[SCORE]))
        for batch in (None, 5, "x", {}, [], [scored], [scored] * 3, [scored, None], [scored, []],
                      [scored, {"result": {}}], [scored, envelope(None)], [scored, envelope([])],
                      [scored, envelope({"scores": None})], [scored, envelope({"scores": [5]})],
                      [scored, envelope({"scores": []})], [{"error": "x"}] * 2):
            reply = canned(batch)
            result = self.run_canned(server_of(WORLD, "trace.getById", reply), "traces", "list",
                                     "--project", "c0", "--json")
            with self.subTest(batch=repr(batch)[:80]):
                self.assertOneLine(result, 8)


def is_skipped(body, status):
    """Whether the short run leaves out this status: most of them, and always the same ones."""
    return tools.full(sum(repr(body).encode("utf-8", "replace")) + status, 0) % 40


class Metas(unittest.TestCase):
    """superjson's meta, compared with an oracle."""

    KINDS = (["Date"], ["undefined"], ["bigint"], ["number"], ["set"], ["map"], ["regexp"],
             [["custom", "Decimal.js"]], [["class", "x"]], ["map", {"0.1": ["set"]}], "bigint",
             [], [[]], None, 5, {}, [None], [["bigint"]], ["symbol"], [{}], True, ["Error"])
    NUMERIC = (["bigint"], ["number"], [["custom", "Decimal.js"]])
    TEXTS = ("12", "-5", "0.0034", "NaN", "Infinity", "-0", "1e3", "x", "", "9" * 5000, "1.", ".5",
             "2026-03-14T10:30:00.000Z", "\u0663", "1_0", " 7", "1\n")
    KEYS = ("a", "b", "cost", "a.b", "0", "1", "", "a\\b", "__class__", "json")

    def value(self, dice, depth=3):
        kind = dice.randrange(8 if depth else 4)
        if kind > 5:
            return {dice.choice(self.KEYS): self.value(dice, depth - 1) for _ in range(4)}
        if kind > 3:
            return [self.value(dice, depth - 1) for _ in range(3)]
        return dice.choice(self.TEXTS) if kind else dice.choice((None, True, 7, 1.5))

    def path(self, dice, value):
        parts = [str(part) for part in dice.choice(list(paths_in(value)))]
        if dice.random() < 0.3:
            parts = [dice.choice(self.KEYS + ("-1", "00", "999999999999", "\u0663", "+1", "1e0"))
                     for _ in range(dice.randrange(5))]
        text = ".".join(part.replace(".", "\\.") for part in parts)
        return dice.choice((text, text, text, text + ".", "." + text, text + "\\", ".." + text))

    def meta(self, dice, value):
        values = {self.path(dice, value): dice.choice(dice.choice((self.KINDS, self.NUMERIC)))
                  for _ in range(dice.randrange(8))}
        meta = {"values": values, "v": dice.choice((1, None, "x")),
                "referentialEqualities": dice.choice(({}, {"a": ["b"]}, [], 5))}
        return dice.choice((meta, meta, meta, meta, meta, {"values": dice.choice(self.KINDS)},
                            dice.choice(self.KINDS)))

    def differences(self, before, after, path=()):
        """(path, before, after) of each value that is not the same, in type too."""
        if type(before) is not type(after):
            return [(path, before, after)]
        if isinstance(before, dict):
            self.assertEqual(list(before), list(after))
            return [found for key in before
                    for found in self.differences(before[key], after[key], path + (key,))]
        if isinstance(before, list):
            self.assertEqual(len(before), len(after))
            return [found for place, (one, other) in enumerate(zip(before, after))
                    for found in self.differences(one, other, path + (str(place),))]
        return [] if before == after else [(path, before, after)]

    def test_only_what_a_meta_names_is_changed(self):
        """Row 26: no generated meta crashes or changes another field."""
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        changed = 0
        with self.subTest(seed=seed):
            for _ in range(tools.full(1500, 20000)):
                before = self.value(dice)
                meta = self.meta(dice, before)
                kept = json.dumps(meta)
                after = twosignal.apply_superjson(copy.deepcopy(before), meta)
                self.assertEqual(json.dumps(meta), kept, "the meta was changed")
                for path, old, new in self.differences(before, after):
                    changed += 1
                    with self.subTest(value=before, meta=meta, path=path):
                        self.assertIsInstance(old, str)
                        self.assertNotIsInstance(new, (str, bool))
                        self.assertIsInstance(new, (int, float))
                        self.assertEqual(new, float(old))
                        values = meta["values"]
                        name = ".".join(part.replace(".", "\\.") for part in path)
                        kind = values.get(name) if isinstance(values, dict) else values
                        self.assertIn((kind or [])[:1], self.NUMERIC)
        self.assertGreater(changed, 20, "the generator makes no metas that fit")

    def test_what_metas_are_for(self):
        value = {"n": ["12"], "cost": "0.0034", "a.b": "5", "when": WHEN, "m": {"NaN": "NaN"}}
        meta = {"values": {"n.0": ["bigint"], "cost": [["custom", "Decimal.js"]],
                           "a\\.b": ["number"], "when": ["Date"], "m.NaN": ["number"]}}
        self.assertEqual(twosignal.apply_superjson(value, meta), {
            "n": [12], "cost": 0.0034, "a.b": 5, "when": WHEN, "m": {"NaN": "NaN"}})
        self.assertEqual(twosignal.apply_superjson("12", {"values": ["bigint"]}), 12)

    def test_paths_that_only_resemble_a_field(self):
        """Row 26: a path with an empty part or a lone backslash names no other field."""
        for path in ("a..b", ".a.b", "a.b.", "a.b\\", "a\\.b", "a.\\b", "A.B", "a. b", "a"):
            value = {"a": {"b": "1"}}
            with self.subTest(path=path):
                self.assertEqual(twosignal.apply_superjson(value, {"values": {path: ["bigint"]}}),
                                 {"a": {"b": "1"}})

    def test_indexes_that_only_resemble_one(self):
        """Row 26: only the digits of an index name an item."""
        for path in ("00", "+0", "-1", " 0", "0 ", "0.0", "1", "\u0660", "0\\", ".0", "1e0"):
            with self.subTest(path=path):
                meta = {"values": {path: ["bigint"]}}
                self.assertEqual(twosignal.apply_superjson(["1"], meta), ["1"])
        self.assertEqual(twosignal.apply_superjson(["1"], {"values": {"0": ["bigint"]}}), [1])

    def test_large_metas(self):
        """Row 26: a long path, many paths and a number of a million digits are harmless."""
        value = {"a": "1", "b": "9" * 10 ** 6}
        meta = {"values": {"a." * 10 ** 5: ["bigint"], "b": ["bigint"], "\\" * 10 ** 5: ["x"]}}
        meta["values"].update(("a.%d" % number, ["number"]) for number in range(10 ** 4))
        self.assertEqual(twosignal.apply_superjson(dict(value), meta), value)


LETTERS = string.ascii_letters + string.digits + "-_"
ACCESS, REFRESH, PASSWORD = "aaaa.canary-access.cccc", "v1.canary-refresh", 'canary "pass" 100%/+'
CANARIES = [ACCESS, REFRESH, PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), "canary"]
LEVELS = ([], ["--json"], ["--debug"], ["--json", "--debug"])


def echoes(connection, request):
    """The text of a response that repeats the request's cookie, body and token."""
    head, _, body = request.partition(b"\r\n\r\n")
    cookie = header(request, "Cookie") or ""
    token = header(request, "Authorization") or ""
    return " ".join((cookie, unquote(cookie), token, body.decode("utf-8")))


def echo(form):
    def reply(connection, request):
        connection.sendall(form(echoes(connection, request)))
    return reply


def trpc_error(code, status):
    return lambda text: answer({"error": {"json": {"message": text, "code": -1, "data": {
        "code": code, "httpStatus": status, "path": text}}}}, status)


def zod_error(text):
    return trpc_error("BAD_REQUEST", 400)(json.dumps([
        {"path": [text, "a"], "message": text, "options": [text]}]))


ECHOES = {
    "refused": trpc_error("BAD_REQUEST", 400), "forbidden": trpc_error("FORBIDDEN", 403),
    "not found": trpc_error("NOT_FOUND", 404), "unauthorized": trpc_error("UNAUTHORIZED", 401),
    "conflict": trpc_error("CONFLICT", 409), "limited": trpc_error("TOO_MANY_REQUESTS", 429),
    "failed": trpc_error("INTERNAL_SERVER_ERROR", 500), "zod": zod_error,
    "no procedure": lambda text: trpc_error("NOT_FOUND", 404)(
        'No procedure found on path "%s"' % text),
    "web page": lambda text: answer("<html>%s</html>" % text, 502, [("Content-Type", "text/html")]),
    "kind": lambda text: answer("x", 200, [("Content-Type", text.replace(";", " "))]),
    "status line": lambda text: answer("x", 404, reason=text),
    "redirect": lambda text: answer("", 302, [("Location", "http://else.example/" + text)]),
    "quoted redirect": lambda text: answer("", 307, [
        ("Location", "https://else.example/?" + quote(text, safe=""))]),
    "same redirect": lambda text: answer("", 301, [("Location", "/api/" + quote(text))]),
    "rest error": lambda text: answer({"data": None, "error": {"code": text, "message": text}},
                                      400),
    "rest failure": lambda text: answer({"data": None, "error": {"code": "X", "message": text}},
                                        500),
    "garbage": lambda text: text.encode("utf-8") + b"\r\n\r\n",
    "bad header": lambda text: b"HTTP/1.1 200 OK\r\n" + text.encode("utf-8") + b"\r\n\r\n",
    "cut": lambda text: answer({"result": text})[:-5],
    "half a login": lambda text: answer({"data": {"access_token": ACCESS, "refresh_token": text}}),
}


def random_token(*sizes):
    """Parts of so many characters between dots, as in a JWT; the same each time."""
    choose = random.Random(len(sizes))
    return ".".join("".join(choose.choice(LETTERS) for _ in range(size)) for size in sizes)


class Secrets(tools.Case):
    """Canary tokens and passwords: none of them may be printed."""

    def store(self, url, lasts=10 ** 6):
        self.write("home/config.json", {"api_url": url})
        self.write("home/session.json", {
            "access_token": ACCESS, "refresh_token": REFRESH, "project_ref": "ref",
            "expires_at": int(time.time()) + lasts, "user_id": "u0", "user_email": "you@b.c",
            "api_url": url})

    def assertSecret(self, result, out=True):
        self.assertNotIn("Traceback", result.err, result)
        for canary in CANARIES:
            self.assertNotIn(canary, result.err)
            self.assertFalse(out and canary in result.out, result)

    def each_level(self, reply, lines, lasts=10 ** 6, **kwargs):
        for line in lines:
            for level in LEVELS:
                with Scripted(reply) as server:
                    self.store(server.url, lasts)
                    result = self.run_cli(*(line + level), **kwargs)
                    with self.subTest(line=line, level=level):
                        self.assertNotEqual(result.code, 0, result)
                        self.assertTrue(server.requests)
                        self.assertSecret(result)

    def test_a_server_that_echoes_the_session(self):
        """Row 34: tokens and cookies that a server or a proxy sends back are masked."""
        lines = tools.full([["orgs", "list"]], [
            ["orgs", "list"], ["orgs", "create", "x"], ["traces", "list", "--project", "p"],
            ["datasets", "delete", "x", "--project", "p", "-y"], ["whoami"]])
        for name, form in ECHOES.items():
            with self.subTest(echo=name):
                self.each_level(echo(form), lines)

    def test_a_server_that_echoes_the_refresh(self):
        """Row 34: the same while the session is refreshed."""
        for name, form in ECHOES.items():
            with self.subTest(echo=name):
                self.each_level(echo(form), [["orgs", "list"]], lasts=-100)

    def test_a_server_that_echoes_the_login(self):
        """Row 34: the same for the password, whichever way it was given."""
        ways = [(["-p", PASSWORD], {}), (["--password-stdin"], {"stdin": PASSWORD + "\n"}),
                ([], {"env": {"TWOSIGNAL_PASSWORD": PASSWORD}})]
        for name, form in ECHOES.items():
            for arguments, given in tools.full(ways[len(name) % 3:][:1], ways):
                with self.subTest(echo=name, arguments=arguments[:1]):
                    self.each_level(echo(form), [["login", "-e", "a@b.c"] + arguments], **given)

    def test_a_server_that_echoes_the_logout(self):
        """Row 34: the same for the token that logging out sends."""
        for name, form in ECHOES.items():
            for level in LEVELS:
                with Scripted(echo(form)) as server:
                    self.store(server.url)
                    result = self.run_cli("logout", *level)
                    with self.subTest(echo=name, level=level):
                        self.assertSecret(result)

    def test_connections_that_break(self):
        """Row 34: no secret in the errors of a connection without a response."""
        for reply in (reset, None, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"\r\n"):
            self.each_level(reply, [["orgs", "list"], ["orgs", "create", "x"]])
            self.each_level(reply, [["orgs", "list"]], lasts=-100)
            self.each_level(reply, [["login", "-e", "a@b.c", "-p", PASSWORD]])

    def test_new_tokens_are_masked_too(self):
        """Row 34: tokens that this run received are as secret as those it read."""
        new = {"access_token": "aaaa.canary-new-access.c", "refresh_token": "v1.canary-new-refresh",
               "expires_at": int(time.time()) + 3600, "user": {"id": "u", "email": "a@b.c"},
               "project_ref": "ref"}
        text = " ".join((new["access_token"], new["refresh_token"]))
        for level in LEVELS:
            with Scripted([answer({"data": new}), trpc_error("CONFLICT", 409)(text)]) as server:
                self.store(server.url, -100)
                result = self.run_cli("orgs", "list", *level)
                self.assertEqual(len(server.requests), 2)
                self.assertFails(result, 1)
                self.assertSecret(result)

    def test_a_proxy_with_a_password(self):
        """Row 34: the user and the password of a proxy are not shown."""
        with Proxy("canaryuser", "canarypass") as proxy:
            for password in ("canarypass", "canarywrong"):
                place = "http://canaryuser:%s@127.0.0.1:%d" % (password, proxy.port)
                env = {"http_proxy": place, "https_proxy": place, "NO_PROXY": None,
                       "no_proxy": None}
                for url in ("http://127.0.0.1:9", "https://127.0.0.1:9"):
                    for level in LEVELS:
                        self.store(url)
                        result = self.run_cli("orgs", "list", *level, env=env)
                        with self.subTest(url=url, level=level, password=password):
                            self.assertNotEqual(result.code, 0)
                            self.assertSecret(result)
            self.assertTrue(proxy.seen)
        for place in ("socks5://u:canary@h:1", "http://u:canary@h:port", "ftp://canary@h"):
            self.store("http://127.0.0.1:9")
            result = self.run_cli("orgs", "list", "--debug", env={
                "http_proxy": place, "NO_PROXY": None})
            self.assertNotEqual(result.code, 0)
            self.assertSecret(result)

    def test_a_password_in_an_address(self):
        """Row 34: the password of an address that cannot be used is not shown."""
        for address in ("https://me:canary@host.example", "me:canary@host.example",
                        "https://canary@host.example/x", "ftp://me:canary@host.example"):
            for level in LEVELS:
                for args, env in ((["--url", address], {}), ([], {"TWOSIGNAL_URL": address})):
                    result = self.run_cli("orgs", "list", *(args + level), env=env)
                    with self.subTest(address=address, args=args, level=level):
                        self.assertFails(result, 2)
                        self.assertSecret(result)
        self.write("home/config.json", {"api_url": "https://me:canary@host.example"})
        self.assertSecret(self.run_cli("orgs", "list"))

    def test_mistakes_on_the_command_line(self):
        """Row 34: a password stays unseen when something else about the command is wrong."""
        for args in (["login", "-p", "canary", "--bogus"], ["login", "--password=canary", "-x"],
                     ["login", "-pcanary", "--timeout", "abc"], ["-p", "canary", "nonsense"],
                     ["login", "-p", "canary\udcff"], ["login", "--password=canary\udcff"],
                     ["login", "-p", "canary", "--url", "ftp://x"],
                     ["login", "-p", "canary", "--password-stdin"]):
            for level in LEVELS:
                result = self.run_cli(*(args + level), env={"TWOSIGNAL_URL": "http://127.0.0.1:9"})
                with self.subTest(args=args, level=level):
                    self.assertEqual(result.code, 2, result)
                    self.assertSecret(result)

    def test_damaged_files(self):
        """Row 34: a damaged session file is named, not quoted."""
        session = {"access_token": ACCESS, "refresh_token": REFRESH, "project_ref": "canary/..",
                   "expires_at": 9e9}
        for content in (json.dumps(session), json.dumps(session)[:-3], '"%s"' % ACCESS,
                        json.dumps(dict(session, project_ref="r", access_token=ACCESS + "\n")),
                        json.dumps(dict(session, project_ref="r", expires_at=REFRESH))):
            for level in LEVELS:
                self.write("home/session.json", content)
                for args in (["orgs", "list"], ["whoami"], ["logout"]):
                    result = self.run_cli(*(args + level), env={
                        "TWOSIGNAL_URL": "http://127.0.0.1:9"})
                    self.assertSecret(result)

    def test_bugs(self):
        """Row 34: the message and the traceback of an internal error are masked."""
        def broken(*args, **kwargs):
            raise RuntimeError("%s %r %s" % (ACCESS, {"cookie": REFRESH}, PASSWORD))
        for line, lasts in ((["orgs", "list"], 10 ** 6), (["orgs", "list"], -100),
                            (["login", "-e", "a@b.c", "-p", PASSWORD], 10 ** 6)):
            for level in LEVELS:
                self.store("http://127.0.0.1:9", lasts)
                client = mock.patch.object(twosignal.Transport, "request", broken)
                with client:
                    result = self.run_cli(*(line + level))
                known = [ACCESS, REFRESH] if line[0] == "orgs" else [PASSWORD]
                self.assertEqual(result.code, 1)
                for canary in known:
                    self.assertNotIn(canary, result.err, result)

    def test_forms_of_a_secret(self):
        """Row 34: a secret is masked verbatim, percent-encoded, in JSON and escaped."""
        for secret in (PASSWORD, ACCESS, "canary\u6771\x1b\"\\", "canary canary"):
            for form in (secret, quote(secret, safe=""), quote(secret), quote_plus(secret),
                         json.dumps(secret), twosignal.printable(secret)):
                found = twosignal.mask_secrets("before %s after" % form, {secret, "", "abc"})
                self.assertNotIn("canary", found)
                self.assertRegex(found, r"\Abefore \"?\*\*\*\"? after\Z")

    def assertNoRun(self, text, secret):
        """No 16 characters of a secret stand in the text."""
        runs = {secret[start:start + 16] for start in range(len(secret) - 15)}
        found = [text[start:start + 16] for start in range(len(text) - 15)
                 if text[start:start + 16] in runs]
        self.assertEqual(found, [])

    def test_a_secret_that_is_cut_off(self):
        """Row 63: whatever stands before it, no part of it is left where a message is cut."""
        token, refresh = random_token(36, 700, 43), random_token(30)
        self.store("http://127.0.0.1:9")
        session = json.loads(tools.file_bytes(self.path("home/session.json")).decode())
        self.write("home/session.json", dict(session, access_token=token, refresh_token=refresh))
        for offset in tools.full_once(range(0, 1100, 93), range(1100)):
            for level in tools.full([[], ["--json"]], LEVELS):
                text = "x " * (offset // 2) + "x" * (offset % 2) + " ".join((token, refresh) * 9)
                body = json.dumps({"error": {"json": {"message": text, "data": {
                    "code": "BAD_REQUEST", "httpStatus": 400}}}}).encode("ascii")
                response = twosignal.Response(400, canned({}).headers, body)
                with mock.patch.object(twosignal.Transport, "request", lambda *_, **__: response):
                    result = self.run_cli("orgs", "list", *level)
                with self.subTest(offset=offset, level=level):
                    self.assertEqual(result.code, 1)
                    self.assertNoRun(result.err, token)
                    self.assertNoRun(result.err, refresh)
                    self.assertLess(len(result.err), 1200)

    def test_a_short_secret_that_is_cut_off(self):
        """Row 63: it is masked first, since a part of it cannot be told from other text."""
        console = twosignal.Console((None, None, None))
        console.keep_secret("canary-12")
        for offset in range(twosignal.MAX_MESSAGE - 12, twosignal.MAX_MESSAGE + 1):
            self.assertNotIn("can", console.shortened("x" * offset + "canary-12" * 3))

    def test_a_secret_at_the_end_of_what_is_looked_through(self):
        """Row 63: much that was masked before it makes room for no part of it."""
        console, long = twosignal.Console((None, None, None)), "canary-" * 100
        console.keep_secret("12345678")
        console.keep_secret(long)
        for offset in range(10):
            text = "x" * offset + long * 14
            text += " " * (10 * twosignal.MAX_MESSAGE - len(text) - 4) + "12345678"
            shown = console.shortened(text.replace(" " * 100, long[:100]))
            self.assertNotIn("1", shown)
            self.assertTrue(shown.endswith("…"))

    def test_parts_of_a_secret(self):
        """Row 63: the parts of a JWT, runs of 16 characters, lines of 76, base64 at any place."""
        token = random_token(36, 700, 43)
        self.assertEqual(twosignal.mask_secrets("<%s>" % token[100:116], {token}), "<***>")
        self.assertEqual(twosignal.mask_secrets(token[100:115], {token}), token[100:115])
        for part in token.split("."):
            self.assertEqual(twosignal.mask_secrets("<%s>" % part, {token}), "<***>")
        self.assertEqual(twosignal.mask_secrets("a.secretpart.c", {"eyJ.secretpart.yy"}), "a.***.c")
        self.assertEqual(twosignal.mask_secrets("a.secretpart.c", {"xx.secretpart.yy"}),
                         "a.secretpart.c")       # no token: a host, for example
        broken = "\n".join(token[start:start + 76] for start in range(0, len(token), 76))
        self.assertNoRun(twosignal.mask_secrets(broken, {token}), token)
        for secret in (token, PASSWORD, "p\xe4ssw\xf6rd of some length"):
            for before in ("", "a", "ab", "user:", "\xe9"):
                data = (before + secret + "tail").encode("utf-8")
                for form in (base64.b64encode(data), base64.urlsafe_b64encode(data).rstrip(b"=")):
                    with self.subTest(secret=secret[:9], before=before):
                        found = twosignal.mask_secrets(form.decode("ascii"), {secret})
                        self.assertRegex(found, r"\A\S{0,10}\*\*\*\S{0,9}\Z")

    def test_what_is_no_secret(self):
        """Row 63: a name that has something in common with a secret stays."""
        for text in ("twosignal", "Run 'twosignal login' again.", "a.b.c", "abcdefghijklmno"):
            self.assertEqual(twosignal.mask_secrets(text, {
                ACCESS, REFRESH, "https://app.twosignal.dev", "abcdefghijklmnopq"}), text)

    def test_other_forms(self):
        """Row 63: in a host's name, in HTML, and the password of basic authentication."""
        for form in (ACCESS.lower(), html.escape("p&ss<word>")):
            self.assertEqual(twosignal.mask_secrets("x " + form, {ACCESS, "p&ss<word>"}), "x ***")
        self.assertEqual(twosignal.mask_secrets("pass\udcff", {"pass\udcff"}), "***")
        value = "Basic " + base64.b64encode(b"me:canary").decode("ascii")
        self.assertEqual(twosignal.header_secrets(value), [value, value[6:], "canary"])
        for value, rest in (("Bearer a:b", "a:b"), ("Basic abc", "abc"), ("", "")):
            self.assertEqual(set(twosignal.header_secrets(value)) | {""}, {value, rest, ""})

    def test_the_password_of_a_proxy_that_repeats_it(self):
        """Row 63: plain and as base64, in the status line with which it refuses."""
        for variable in ("http_proxy", "HTTPS_PROXY", "all_proxy"):
            for place in ("http://me:canary-pass@127.0.0.1:%d", "me:canary%%2Dpass@127.0.0.1:%d"):
                def refuse(connection, request):
                    given = header(request, "Proxy-Authorization") or ""
                    text = "canary-pass %s" % given
                    connection.sendall(answer("x", 404, [("Content-Type", text)], text))
                scheme = "https" if variable == "HTTPS_PROXY" else "http"
                with Scripted(refuse) as proxy:
                    self.store(scheme + "://somewhere.example")
                    for level in LEVELS:
                        result = self.run_cli("orgs", "list", *level, env={
                            variable: place % proxy.port, "NO_PROXY": None, "no_proxy": None})
                        with self.subTest(variable=variable, place=place, level=level):
                            self.assertTrue(proxy.requests, result)
                            self.assertNotEqual(result.code, 0)
                            self.assertSecret(result)
                            self.assertNotIn("Y2FuYXJ5LXBhc3", result.err)

    def test_what_is_shown_on_purpose(self):
        """Row 34: the logged-in user is shown without any token."""
        self.store("http://127.0.0.1:9")
        with mock.patch.object(twosignal.Transport, "request", server_of(WORLD)):
            for args in (["whoami"], ["whoami", "--json"], ["whoami", "--debug"], ["logout"]):
                result = self.run_cli(*args)
                if args != ["logout"]:
                    self.assertOk(result)
                self.assertSecret(result)


class Characters(CannedCase):
    """Characters that control a terminal, in each text that a server or a file can choose."""

    ALL = "".join(UNSAFE)

    def tainted(self, value, taint):
        """The value with the taint in the middle of each text."""
        if isinstance(value, str):
            return value[:1] + taint + value[1:]
        if isinstance(value, list):
            return [self.tainted(one, taint) for one in value]
        if isinstance(value, dict):
            return {key: self.tainted(one, taint) for key, one in value.items()}
        return value

    def assertSafe(self, *texts):
        for text in texts:
            found = set(text) & set(UNSAFE)
            self.assertLessEqual(found, {"\n"}, text)

    def each_output(self, world, taint):
        has_other_ids = world["evaluator.list"][0]["id"] != WORLD["evaluator.list"][0]["id"]
        for procedure, line in COMMANDS:
            for level in ([], ["--json"], ["--debug"], ["--no-color"]):
                with self.subTest(line=line, level=level, taint=repr(taint)[:40]):
                    result = self.run_canned(server_of(world), *(line.split() + level))
                    code = 6 if line in (TOGGLE, REMOVAL, RENAME) and has_other_ids else 0
                    self.assertEqual(result.code, code, result)
                    self.assertSafe(result.out, result.err)
                    if level == ["--json"] and result.code == 0:
                        json.loads(result.out)

    def test_every_character_in_every_field(self):
        """Row 35: no table and no JSON shows one of them raw, whichever field it is in."""
        world = {name: self.tainted(value, self.ALL) for name, value in WORLD.items()}
        self.each_output(world, self.ALL)
        for character in tools.full_once(["\x1b", "\x9b", "\u202e", "\r"], UNSAFE):
            world = {name: self.tainted(value, character) for name, value in WORLD.items()}
            self.each_output(world, character)

    def test_every_character_in_keys(self):
        """Row 35: a server chooses the names of fields, too."""
        def keyed(value):
            if isinstance(value, dict):
                found = {key: keyed(one) for key, one in value.items()}
                found.update({"new" + self.ALL: {"k" + self.ALL: self.ALL}})
                return found
            return [keyed(one) for one in value] if isinstance(value, list) else value
        self.each_output({name: keyed(value) for name, value in WORLD.items()}, "in keys")

    def test_the_escaped_text_is_shown(self):
        """Row 35: what tables show of a hostile text is the text, escaped."""
        for procedure, line, fields in (
                ("organization.list", "orgs list", ("id", "name", "plan", "role")),
                ("project.list", "projects list --org b0", ("id", "name", "createdAt")),
                ("trace.list", "traces list --project c0", ("id", "status", "createdAt")),
                ("evaluator.list", "evaluators list --project c0", ("id", "name", "type")),
                ("dataset.list", "datasets list --project c0", ("id", "name")),
                ("apiKey.list", "api-keys list --project c0", ("id", "keyPrefix", "name")),
                ("trace.getById", "traces get d0 --project c0", ("name", "sessionId", "status")),
                ("dataset.getById", "datasets get g0 --project c0", ("name", "description")),
                ("usage.getCurrentMonth", "usage --org b0", ("month",))):
            for field in fields:
                for character in ("\x1b", "\x9b", "\u202e", "\n"):
                    text = "<%s%s>" % (field, character)
                    value = copy.deepcopy(WORLD[procedure])
                    row = value[0] if isinstance(value, list) else value
                    if procedure == "trace.list":
                        row = value["traces"][0]
                    row[field] = text
                    result = self.assertOk(self.run_canned(
                        server_of(dict(WORLD, **{procedure: value})), *line.split(), columns=200))
                    self.assertIn("<%s%s>" % (field, twosignal.printable(character)), result.out)

    def test_errors(self):
        """Row 35: no server error controls the terminal, as a line and as JSON."""
        text = "a" + self.ALL + "b"
        bodies = [({"message": text, "data": {"code": code, "httpStatus": status, "path": text}},
                   status) for status, code in sorted(twosignal.STATUS_CODES.items())]
        bodies += [({"message": text, "data": {"code": text, "httpStatus": 418}}, 418),
                   ({"message": text, "data": {}}, 500)]
        problem = [{"path": [text, 1], "message": text, "options": [text, {text: text}]}]
        bodies.append(({"message": json.dumps(problem), "data": {"code": "BAD_REQUEST"}}, 400))
        for error, status in bodies:
            for args in (["orgs", "list"], ["orgs", "list", "--json"], ["orgs", "list", "--debug"]):
                reply = canned({"error": {"json": error}}, status)
                result = self.run_canned(server_of(WORLD, "organization.list", reply), *args)
                self.assertNotEqual(result.code, 0)
                self.assertSafe(result.err, result.out)
                self.assertNotIn("Internal error", result.err)
                if "--json" in args:
                    self.assertEqual(result.error["exit_code"], result.code)

    def test_headers(self):
        """Row 35: content types, reasons and redirects over a real connection."""
        taint = bytes(code for code in range(256) if code not in (10, 13))
        for reply in (answer("x", 200, [("Content-Type", "text/html")]).replace(
                          b"text/html", b"a" + taint + b"b"),
                      answer("x", 302, [("Location", "TAINT")]).replace(
                          b"TAINT", b"http://" + taint + b".example/"),
                      answer("x", 307, [("Location", "TAINT")]).replace(
                          b"TAINT", b"http://else.example/" + taint),
                      answer("x", 404).replace(b"Scripted", taint),
                      b"HTTP/1.1 " + taint + b"\r\n\r\n", taint + b"\r\n\r\n",
                      b"HTTP/1.1 200 OK\r\n" + taint + b"\r\n\r\n"):
            for level in LEVELS:
                with Scripted(reply) as server:
                    self.write("home/session.json", dict(self.session, api_url=server.url))
                    result = self.run_cli("orgs", "list", "--url", server.url, *level)
                    self.assertNotEqual(result.code, 0)
                    self.assertSafe(result.err, result.out)
                    self.assertNotIn("Internal error", result.err)

    def test_confirmations(self):
        """Row 35: the confirmation of a deletion shows the escaped name."""
        for line, procedure in (("evaluators delete", "evaluator.list"),
                                ("datasets delete", "dataset.list"),
                                ("api-keys revoke", "apiKey.list")):
            for character in [self.ALL] + tools.full(["\x1b", "\n", "\u202e"], UNSAFE):
                # An argument cannot contain NUL or lone surrogates; the name can.
                wanted = "id" + character.replace("\x00", "")
                for half in SURROGATES:
                    wanted = wanted.replace(half, "")
                row = dict(WORLD[procedure][0], id=wanted, name="n" + character)
                request = server_of(dict(WORLD, **{procedure: [row]}))
                result = self.run_canned(request, *(line.split() + [wanted, "--project", "c0"]),
                                         stdin="n\n", tty=True)
                self.assertEqual(result.code, 1, result)
                self.assertIn('"n' + twosignal.printable(character), result.err)
                self.assertSafe(result.err, result.out)

    def test_session_file(self):
        """Row 35: a file that is shared with other programs is not trusted either."""
        for key in ("user_email", "user_id"):
            self.write("home/session.json", dict(self.session, **{key: "x" + self.ALL}))
            for level in ([], ["--json"]):
                result = self.assertOk(self.run_canned(server_of(WORLD), "whoami", *level))
                self.assertSafe(result.out, result.err)
        for key in ("project_ref", "api_url", "access_token"):
            self.write("home/session.json", dict(self.session, **{key: "x" + self.ALL}))
            result = self.run_canned(server_of(WORLD), "whoami")
            self.assertNotEqual(result.code, 0)
            self.assertSafe(result.out, result.err)

    def test_arguments(self):
        """Row 35: arguments may come from elsewhere, such as a script's variables."""
        typed = "".join(CONTROLS[1:] + BIDI + SEPARATORS)
        for args in (["orgs", typed], [typed], ["orgs", "list", typed], ["orgs", "list", "--url",
                     typed], ["orgs", "list", "--timeout", typed], ["orgs", "list", "--" + typed],
                     ["traces", "list", "--project", "x", "--status", typed],
                     ["traces", "list", "--project", "x", "--limit", typed],
                     ["orgs", "list", "--ca-cert", typed], ["datasets", "add-item", "x",
                     "--project", "x", "--input", "@" + typed]):
            for level in LEVELS:
                result = self.run_cli(*(args + level))
                self.assertNotEqual(result.code, 0)
                self.assertSafe(result.out, result.err)


class CiLogs(CannedCase):
    """What a CI system takes for a command, in each text that a server can choose."""

    COMMANDS = ("::stop-commands::x", " \t::error::x", "\u200b\u3000::add-mask::x", ":::x",
                "##[set-output name=a;]b", "x##[error]y", "####[x]", "#\u200b#[x]",
                "##vso[task.setvariable variable=a]b", "x ##teamcity[buildStop]", "a\n::error::b",
                "a\r\n  ::error::b")
    SYSTEMS = ({"GITHUB_ACTIONS": "true"}, {"TF_BUILD": "True"}, {"TEAMCITY_VERSION": "2024.1"})

    def tainted(self, value, taint):
        """The value with a taint in place of each text but IDs and types."""
        if isinstance(value, list):
            return [self.tainted(one, taint) for one in value]
        if isinstance(value, dict):
            return {key: one if key in ("type", "enabled") or key.endswith(("Id", "At"))
                    else self.tainted(one, taint) for key, one in value.items()}
        return taint if isinstance(value, str) else value

    def assertNoCommand(self, text):
        for line in text.split("\n"):
            line = re.sub(r"\A::error title=twosignal[a-z -]*::", "", line)     # its own
            self.assertNotRegex(line, r"\A[\s\u200b]*::")
            self.assertNotRegex(line.replace("\u200b", ""), r"##\w*\[")

    def test_every_field(self):
        """Row 68: no table, document, error or remark has one, whichever field it is in."""
        for number, taint in enumerate(self.COMMANDS):
            world = {name: self.tainted(value, taint) for name, value in WORLD.items()}
            for place, (_, line) in enumerate(COMMANDS):
                for level in tools.full([([], ["--json"], ["--debug"], ["--format", "jsonl"])[
                        (place + number) % 4]], ([], ["--json"], ["--debug"], ["--json", "--debug"],
                                                 ["--format", "jsonl"], ["--fields", "name,id"])):
                    env = self.SYSTEMS[(number + place) % 3]
                    result = self.run_canned(server_of(world), *(line.split() + level), env=env)
                    with self.subTest(taint=taint, line=line, level=level):
                        self.assertNotIn("Internal error", result.err)
                        self.assertNoCommand(result.out)
                        self.assertNoCommand(result.err)

    def test_json_is_the_same_value(self):
        """Row 68: in JSON they are escaped, so that it still says what the server said."""
        taint = "".join(self.COMMANDS)
        world = dict(WORLD, **{"organization.list": [dict(ORG, name=taint, note={taint: 1})]})
        for level in (["--json"], ["--format", "jsonl"]):
            outside = self.assertOk(self.run_canned(server_of(world), "orgs", "list", *level))
            inside = self.assertOk(self.run_canned(server_of(world), "orgs", "list", *level,
                                                   env={"GITHUB_ACTIONS": "true"}))
            self.assertIn("\\u0023#[", inside.out)
            self.assertEqual(inside.json, outside.json)

    def test_rows_for_programs_are_data(self):
        """Row 68: csv and tsv stay as they are, but quotes keep csv rows from being commands."""
        for taint in self.COMMANDS:
            world = dict(WORLD, **{"organization.list": [dict(ORG, name=taint)]})
            for kind in ("csv", "tsv"):
                outputs = [self.assertOk(self.run_canned(
                    server_of(world), "orgs", "list", "--fields", "name", "--format", kind,
                    env=env)).out for env in ({}, {"GITHUB_ACTIONS": "true"})]
                self.assertEqual(*outputs)
            row = twosignal.FORMATS["csv"](twosignal.Listing("rows", (), [{"a": taint}]),
                                           twosignal.Screen())
            text = "".join(row)
            self.assertNotRegex(text.split("\n")[1], r"\A\W*::[^\"]*\Z")
            found = next(csv.reader(io.StringIO(text.partition("\n")[2], newline="")))
            self.assertEqual(found, [twosignal._value_text(taint)])

    def test_files_and_other_logs(self):
        """Row 68: what is saved, or not printed in a CI system, is as the server said it."""
        taint = "::x::y ##[z]"
        world = dict(WORLD, **{"organization.list": [dict(ORG, name=taint)]})
        path = self.path("orgs.txt")
        for env, options in (({"GITHUB_ACTIONS": "true"}, ["-o", path]), ({}, []),
                             ({"GITHUB_ACTIONS": ""}, [])):
            result = self.assertOk(self.run_canned(server_of(world), "orgs", "list", "--fields",
                                                   "name", *options, env=env))
            text = tools.file_bytes(path).decode() if options else result.out
            self.assertEqual(text.splitlines()[2], taint)

    @unittest.skipIf(os.name == "nt", "there are no such files")
    def test_pipes(self):
        """Row 68: what -o writes to a pipe is no log, unless that is stdout or stderr."""
        taint, path = "::x::y ##[z]", self.path("pipe")
        world = dict(WORLD, **{"organization.list": [dict(ORG, name=taint)]})
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.assertOk(self.run_canned(server_of(world), "orgs", "list", "--fields", "name",
                                      "-o", path, env={"GITHUB_ACTIONS": "true"}))
        self.assertEqual(os.read(reader, 9999).decode().splitlines()[2], taint)

    def test_errors(self):
        """Row 68: an error and its problems, as lines and as JSON."""
        for taint in self.COMMANDS:
            problem = json.dumps([{"path": [taint, 1], "message": taint, "options": [taint]}])
            for message in (taint, problem):
                reply = canned({"error": {"json": {"message": message, "data": {
                    "code": "BAD_REQUEST", "httpStatus": 400}}}}, 400)
                for level in LEVELS:
                    result = self.run_canned(server_of(WORLD, "organization.list", reply),
                                             "orgs", "list", *level, env=self.SYSTEMS[0])
                    self.assertEqual(result.code, 1)
                    self.assertNoCommand(result.err)
                    self.assertTrue("--json" not in level or result.error["message"])
