"""Section API: superjson, tRPC, batches, names of procedures, paging, errors and the cookie."""
import base64
import http.client
import json
import random
import time
import unittest
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import tools
import twosignal

URL = "https://example.com"
TOKENS = {"access_token": "a.b.c", "refresh_token": "v1.r",
          "expires_at": int(time.time()) + 10 ** 6, "user_id": "u0",
          "user_email": "you@example.com", "project_ref": "ref", "api_url": URL}


def canned(body, status=200, kind="application/json"):
    headers = http.client.HTTPMessage()
    headers["Content-Type"] = kind
    return twosignal.Answer(status, headers, json.dumps(body).encode("ascii")
                            if not isinstance(body, bytes) else body)


def result(value, **meta):
    return {"result": {"data": dict({"json": value}, **meta)}}


def refusal(code, status, message="m", bare=False):
    error = {"message": message, "code": -32000, "data": {"code": code, "httpStatus": status}}
    return {"error": error if bare else {"json": error}}


class Script:
    """A transport that answers from a function of the procedures and their inputs."""

    timeout = 5

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def request(self, method, url, headers=(), body=None, changes=True, retried=None):
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        names = unquote(parts.path).rpartition("/")[2].split(",")
        given = json.loads(query["input"][0]) if "input" in query else None
        given = json.loads(body.decode("ascii")) if body else given
        self.url, self.method, self.headers, self.changes = url, method, headers, changes
        self.asked.append((names, given))
        if "batch" in query:
            return self.answer(names, [given[str(i)]["json"] for i in range(len(names))])
        return self.answer(names[0], (given or {}).get("json"))

    def close(self):
        pass


class ClientCase(tools.Case):
    def client(self, answer):
        environment = tools.replaced_environment(dict(self.environment))
        environment.__enter__()
        self.addCleanup(environment.__exit__, None, None, None)
        self.write("home/session.json", TOKENS)
        client = twosignal.Client(URL, Script(answer))
        self.asked = client.transport.asked
        return client

    def assertRaisesCode(self, code, work, *args):
        with self.assertRaises(twosignal.Failure) as caught:
            work(*args)
        self.assertEqual(caught.exception.code, code)
        return caught.exception


class Calls(ClientCase):
    def test_a_query(self):
        client = self.client(lambda name, given: canned(result([1])))
        self.assertEqual(client.query("x.list", {"a": "é&=#"}), [1])
        self.assertEqual(self.asked, [(["x.list"], {"json": {"a": "é&=#"}})])
        self.assertEqual((client.transport.method, client.transport.changes), ("GET", False))
        client.query("x.list")
        self.assertEqual(client.transport.url, URL + "/api/trpc/x.list")

    def test_a_change(self):
        client = self.client(lambda name, given: canned(result({"id": 1})))
        self.assertEqual(client.mutate("x.create", {"a": 1}), {"id": 1})
        self.assertEqual(self.asked, [(["x.create"], {"json": {"a": 1}})])
        self.assertEqual((client.transport.method, client.transport.changes), ("POST", True))
        self.assertEqual(client.transport.headers["Content-Type"], "application/json")

    def test_an_answer_without_a_value(self):
        for body in ({"result": {}}, result(None)):
            client = self.client(lambda name, given: canned(body))
            self.assertIsNone(client.mutate("x.delete", {"id": 1}))

    def test_the_cookie_and_nothing_else_carries_the_session(self):
        client = self.client(lambda name, given: canned(result([])))
        client.query("x.list")
        headers = client.transport.headers
        name, _, value = headers["Cookie"].partition("=")
        self.assertEqual(name, "sb-ref-auth-token")
        self.assertEqual(json.loads(unquote(value)), {
            "access_token": "a.b.c", "refresh_token": "v1.r", "expires_at": TOKENS["expires_at"],
            "token_type": "bearer", "user": {"id": "u0", "email": "you@example.com"}})
        self.assertNotIn("Authorization", headers)
        self.assertNotIn("a.b.c", client.transport.url)

    def test_inputs_survive_the_address(self):
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        client = self.client(lambda name, given: canned(result(given)))
        with self.subTest(seed=seed):
            for _ in range(200):
                text = "".join(chr(dice.choice((dice.randrange(128), dice.randrange(0xd800),
                                                dice.randrange(0x10000, 0x110000))))
                               for _ in range(20))
                self.assertEqual(client.query("x.get", {"id": text}), {"id": text})
                self.assertRegex(client.transport.url, r"\A[!-~]+\Z")


class Names(ClientCase):
    def test_the_other_name_is_asked_for_once(self):
        for said in ('No procedure found on path "%s"', 'No "query"-procedure on path "%s"'):
            for first, other in twosignal.ALIASES.items():
                def answer(name, given):
                    if name == first:
                        return canned(refusal("NOT_FOUND", 404, said % name), 404)
                    return canned(result(name))
                client = self.client(answer)
                for _ in range(3):
                    self.assertEqual(client.query(first, {"id": 1}), other)
                self.assertEqual([names[0] for names, _ in self.asked],
                                 [first, other, other, other])

    def test_the_documented_pairs(self):
        self.assertEqual(twosignal.ALIASES, {
            "trace.getById": "trace.byId", "dataset.getById": "dataset.byId",
            "usage.getCurrentMonth": "usage.currentMonth"})

    def test_a_missing_resource_is_not_a_missing_procedure(self):
        client = self.client(
            lambda name, given: canned(refusal("NOT_FOUND", 404, "Trace not found"), 404))
        failure = self.assertRaisesCode("NOT_FOUND", client.query, "trace.getById", {"id": 1})
        self.assertEqual(failure.message, "Trace not found")
        self.assertEqual(len(self.asked), 1)

    def test_neither_name(self):
        client = self.client(lambda name, given: canned(
            refusal("NOT_FOUND", 404, 'No procedure found on path "%s"' % name), 404))
        self.assertRaisesCode("UNSUPPORTED", client.query, "trace.getById")
        self.assertEqual(len(self.asked), 2)
        self.assertRaisesCode("UNSUPPORTED", client.query, "x.list")
        self.assertEqual(len(self.asked), 3)


class Batches(ClientCase):
    def test_answers_in_order(self):
        client = self.client(lambda names, given: canned(
            [result(each["id"]) if each["id"] % 2 else refusal("NOT_FOUND", 404)
             for each in given], 207))
        found = client.batch("x.get", [{"id": number} for number in range(4)])
        self.assertEqual((found[1], found[3]), (1, 3))
        self.assertEqual([found[0].code, found[2].code], ["NOT_FOUND", "NOT_FOUND"])
        self.assertEqual(len(self.asked), 1)

    def test_no_address_is_longer_than_proxies_take(self):
        lengths = []

        def answer(names, given):
            lengths.append(len(client.transport.url))
            given = given if isinstance(given, list) else [given]
            values = [result(each["id"]) for each in given]
            return canned(values if isinstance(names, list) else values[0])
        client = self.client(answer)
        ids = ["%d-東&%%%s" % (number, "x" * (number % 90)) for number in range(150)]
        self.assertEqual(client.batch("trace.getById", [{"id": each} for each in ids]), ids)
        self.assertLess(max(lengths), 4000)
        self.assertLess(len(lengths), 40)

    def test_a_server_without_batches(self):
        for status in (400, 404, 405, 414):
            def answer(names, given):
                if isinstance(names, list):
                    return canned(refusal("BAD_REQUEST", status, "Batching is not enabled"), status)
                return canned(result(given["id"]))
            client = self.client(answer)
            self.assertEqual(client.batch("x.get", [{"id": 1}, {"id": 2}]), [1, 2])
            self.assertEqual(client.batch("x.get", [{"id": 3}, {"id": 4}]), [3, 4])
            self.assertEqual(len(self.asked), 5)

    def test_the_other_name_in_a_batch(self):
        def answer(names, given):
            each = [refusal("NOT_FOUND", 404, 'No procedure found on path "%s"' % name)
                    if name == "trace.getById" else result(name) for name in names]
            return canned(each, 404 if names[0] == "trace.getById" else 200)
        client = self.client(answer)
        self.assertEqual(client.batch("trace.getById", [{"id": 1}, {"id": 2}]),
                         ["trace.byId", "trace.byId"])

    def test_nothing_to_ask(self):
        client = self.client(None)
        self.assertEqual(client.batch("x.get", []), [])
        self.assertEqual(self.asked, [])


class Pages(ClientCase):
    def rows(self, client, size=100):
        return [row["id"] for rows, _ in client.trace_pages({"projectId": "c"}, lambda: size)
                for row in rows]

    def listed(self, answer, *args):
        """The IDs that `traces list` prints, and what stands on stderr."""
        self.write("home/session.json", TOKENS)
        self.write("home/config.json", {"api_url": URL})
        script = Script(answer)
        self.asked = script.asked
        with mock.patch.object(twosignal.Transport, "request",
                               lambda transport, *given, **named: script.request(*given, **named)):
            project = "c0000000-0000-4000-8000-000000000001"
            found = self.run_cli("traces", "list", "--project", project, "--json", *args)
        return [row["id"] for row in self.assertOk(found).json], found.err

    def pages(self, total, key="traces"):
        def answer(name, given):
            start = int(given.get("cursor") or 0)
            stop = min(total, start + given["limit"])
            found = {key: [{"id": number, "scores": []} for number in range(start, stop)]}
            if stop < total:
                found["nextCursor"] = str(stop)
            return canned(result(found))
        return answer

    def test_limits(self):
        for key in ("traces", "items"):
            for total, limit, requests in ((250, 250, 3), (250, 20, 1), (250, None, 3), (5, 20, 1),
                                           (0, 20, 1), (100, 100, 1), (101, 101, 2)):
                arguments = ["--limit", limit] if limit else ["--all"]
                expected = min(total, limit or total)
                with self.subTest(total=total, limit=limit, key=key):
                    found, said = self.listed(self.pages(total, key), *arguments)
                    self.assertEqual(found, list(range(expected)))
                    self.assertEqual("more exist" in said, expected < total)
                    self.assertEqual(len(self.asked), requests)
                    self.assertLessEqual(max(given["json"]["limit"] for _, given in self.asked),
                                         100)

    def test_a_bare_list(self):
        rows = [{"id": number, "scores": []} for number in range(30)]
        found, said = self.listed(lambda name, given: canned(result(rows)))
        self.assertEqual(found, list(range(20)))
        self.assertIn("more exist", said)

    def test_a_cursor_that_does_not_move(self):
        client = self.client(lambda name, given: canned(
            result({"traces": [{"id": 1}], "nextCursor": "same"})))
        self.assertRaisesCode("BAD_ANSWER", self.rows, client)
        self.assertLess(len(self.asked), 5)

    def test_pages_that_stay_empty(self):
        client = self.client(lambda name, given: canned(
            result({"traces": [], "nextCursor": str(len(self.asked))})))
        with mock.patch.object(twosignal, "EMPTY_PAGES", 20):
            self.assertRaisesCode("BAD_ANSWER", self.rows, client)
        self.assertLess(len(self.asked), 30)

    def test_cursors_of_the_wrong_type(self):
        for cursor in ([], {}, ["x"], {"a": 1}, 1.5):
            client = self.client(lambda name, given: canned(
                result({"traces": [], "nextCursor": cursor})))
            self.assertRaisesCode("BAD_ANSWER", self.rows, client)


class Scores(ClientCase):
    def test_asked_for_where_they_lack(self):
        def answer(names, given):
            each = [result({"scores": [{"value": one["id"]}]})
                    for one in (given if isinstance(given, list) else [given])]
            return canned(each if isinstance(names, list) else each[0])
        client = self.client(answer)
        traces = [{"id": 1, "_count": {"scores": 1}}, {"id": 2, "_count": {"scores": 0}},
                  {"id": 3, "scores": [{"value": 9}]}, {"id": 4}, {"id": 5, "scoreCount": 1}]
        client.add_scores(traces, "c")
        self.assertEqual([[score["value"] for score in trace["scores"]] for trace in traces],
                         [[1], [], [9], [4], [5]])
        self.assertEqual(len(self.asked), 1)

    def test_a_gate_does_not_pass_because_they_were_left_out(self):
        for reply in (result({}), result({"scores": None}), result({"scores": []}),
                      refusal("FORBIDDEN", 403), refusal("INTERNAL_SERVER_ERROR", 500)):
            client = self.client(lambda names, given: canned(reply))
            with self.assertRaises(twosignal.Failure):
                client.add_scores([{"id": 1, "_count": {"scores": 2}}], "c")

    def test_a_trace_that_is_gone_meanwhile(self):
        client = self.client(lambda names, given: canned(refusal("NOT_FOUND", 404), 404))
        trace = {"id": 1, "_count": {"scores": 2}}
        client.add_scores([trace], "c")
        self.assertEqual(trace["scores"], [])


class Failures(ClientCase):
    CODES = (("UNAUTHORIZED", 401, 4, "Authentication expired"),
             ("FORBIDDEN", 403, 5, "Permission denied"),
             ("NOT_FOUND", 404, 6, "Project not found"),
             ("TOO_MANY_REQUESTS", 429, 7, "Rate limited"),
             ("INTERNAL_SERVER_ERROR", 500, 8, "The server failed"), ("TIMEOUT", 408, 8, "failed"),
             ("BAD_REQUEST", 400, 1, "refused"), ("CONFLICT", 409, 1, "refused"),
             ("PAYLOAD_TOO_LARGE", 413, 1, "does not take that much"))

    def failure(self, body, status, procedure="project.get"):
        answer = canned(body, status)
        with self.assertRaises(twosignal.Failure) as caught:
            twosignal._result(twosignal._parsed(answer), answer, procedure)
        return caught.exception

    def test_documented_errors(self):
        for code, status, exit_code, text in self.CODES:
            for bare in (False, True):
                for outer in (status, 207):
                    found = self.failure(refusal(code, status, bare=bare, message=""), outer)
                    with self.subTest(code=code, bare=bare, outer=outer):
                        self.assertIn(text, found.message)
                        self.assertEqual(found.exit_code, exit_code)

    def test_the_status_stands_in_for_a_code(self):
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
            found = self.failure(refusal("NOT_FOUND", 404, said), 404, procedure)
            self.assertEqual((found.message, found.exit_code), (message, 6))

    def test_problems_of_both_zods(self):
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
            found = self.failure(refusal("BAD_REQUEST", 400, json.dumps([problem])), 400)
            self.assertEqual((found.problems, found.exit_code), ([line], 1))

    def test_messages_that_only_look_like_problems(self):
        for text in ("[1]", "{}", "null", "[", "5", '"x"', "[]"):
            found = self.failure(refusal("BAD_REQUEST", 400, text), 400)
            self.assertEqual(found.problems, [])
            self.assertIn(text, found.message)


class Cookies(unittest.TestCase):
    def cookie(self, length, **values):
        return twosignal.cookie(twosignal.Session(dict(
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
        for length in range(tools.full(120, 700)):
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
            self.assertEqual(twosignal._issuer(token({"iss": issuer})), "abc")
        for value in (None, 5, "", "a", "a.b", "a.%%%.c", "a.é.c", token({}), token([]), token("x"),
                      token({"iss": 5}), token({"iss": "x"}), token(None), "..", "a." + "W" * 9999):
            self.assertIsNone(twosignal._issuer(value))


class Retrying(ClientCase):
    def test_a_401_that_is_not_of_the_api_ends_no_session(self):
        for body, kind in ((b"<html>", "text/html"), (b'{"a": 1}', "application/json")):
            client = self.client(lambda name, given: canned(body, 401, kind))
            self.assertRaisesCode("BAD_ANSWER", client.query, "x.list")
            self.assertEqual(len(self.asked), 1)

    def test_a_401_of_the_api_is_tried_once_more(self):
        client = self.client(lambda name, given: canned(refusal("UNAUTHORIZED", 401), 401))
        session = twosignal.Session(dict(TOKENS, access_token="n.e.w"))
        with mock.patch.object(twosignal.Client, "_renewed", return_value=session) as renewed:
            self.assertRaisesCode("UNAUTHORIZED", client.query, "x.list")
        self.assertEqual((renewed.call_count, len(self.asked)), (1, 2))
        self.assertIn("n.e.w", client.transport.headers["Cookie"])


if __name__ == "__main__":
    unittest.main()
