"""The section Client: query, mutate, batches, pages, scores, REST with an API key."""
import datetime
import functools
import itertools
import json
import os
import random
import re
import shutil
import unittest
from unittest import mock
from urllib.parse import unquote

import standin
import twosignal
from tools import (EXAMPLE_URL, ONCE, PROCEDURES, SCRIPT, TOKENS, ClientCase, CommandCase, KeyCase,
                   ScriptedTransport, ServerCase, TracesCase, canned, first_look, full,
                   measured_command, minutes_ago,
                   procedure_inputs, requests_of, run_command, size_of, takes_at_most, trpc_answer,
                   trpc_error, wire_trace)


def result(value, **meta):
    return {"result": {"data": dict({"json": value}, **meta)}}


def missing_procedure(name):
    """The error of a server that has no procedure of that name."""
    return trpc_error("NOT_FOUND", 404, 'No procedure found on path "%s"' % name)


def with_scores(client, traces, scores=twosignal.SCORES_REQUIRED):
    """The records of wire traces, as a TraceScan returns them."""
    console = twosignal.Console((None, None, None))
    scan = twosignal.TraceScan(client, twosignal.TraceQuery("c"), console, scores=scores)
    return scan.records([(trace, twosignal.to_record(trace, "trace")) for trace in traces])


class ProcedureCalls(ClientCase):
    def test_a_query(self):
        client = self.client(lambda name, given: canned(result([1])))
        self.assertEqual(client.query("x.list", {"a": "é&=#"}), [1])
        self.assertEqual(self.asked, [(["x.list"], {"json": {"a": "é&=#"}})])
        self.assertEqual(client.transport.method, "GET")
        client.query("x.list")
        self.assertEqual(client.transport.url, EXAMPLE_URL + "/api/trpc/x.list")

    def test_a_mutation(self):
        client = self.client(lambda name, given: canned(result({"id": 1})))
        self.assertEqual(client.mutate("x.create", {"a": 1}), {"id": 1})
        self.assertEqual(self.asked, [(["x.create"], {"json": {"a": 1}})])
        self.assertEqual(client.transport.method, "POST")

    def test_a_response_without_a_value(self):
        for body in ({"result": {}}, result(None)):
            client = self.client(lambda name, given: canned(body))
            self.assertIsNone(client.mutate("x.delete", {"id": 1}))

    def test_only_the_cookie_carries_the_session(self):
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

    def test_any_input_survives_the_url(self):
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


class ProcedureNames(ClientCase):
    def test_the_missing_name_is_tried_once(self):
        for message in ('No procedure found on path "%s"', 'No "query"-procedure on path "%s"'):
            for first, other in twosignal.PROCEDURE_ALIASES.items():
                def answer(name, given):
                    if name == first:
                        return canned(trpc_error("NOT_FOUND", 404, message % name), 404)
                    return canned(result(name))
                client = self.client(answer)
                for _ in range(3):
                    self.assertEqual(client.query(first, {"id": 1}), other)
                self.assertEqual([names[0] for names, _ in self.asked],
                                 [first, other, other, other])

    def test_documented_aliases(self):
        self.assertEqual(twosignal.PROCEDURE_ALIASES, {
            "trace.getById": "trace.byId", "dataset.getById": "dataset.byId",
            "usage.getCurrentMonth": "usage.currentMonth"})

    def test_a_missing_resource_is_not_a_missing_procedure(self):
        client = self.client(
            lambda name, given: canned(trpc_error("NOT_FOUND", 404, "Trace not found"), 404))
        failure = self.assertRaisesCode("NOT_FOUND", client.query, "trace.getById", {"id": 1})
        self.assertEqual(failure.message, "Trace not found")
        self.assertEqual(len(self.asked), 1)

    def test_neither_name(self):
        client = self.client(lambda name, given: canned(missing_procedure(name), 404))
        self.assertRaisesCode("UNSUPPORTED", client.query, "trace.getById")
        self.assertEqual(len(self.asked), 2)
        self.assertRaisesCode("UNSUPPORTED", client.query, "x.list")
        self.assertEqual(len(self.asked), 3)


class Batches(ClientCase):
    def test_results_are_in_order(self):
        client = self.client(lambda names, given: canned(
            [result(each["id"]) if each["id"] % 2 else trpc_error("NOT_FOUND", 404)
             for each in given], 207))
        found = list(client.batch("x.get", [{"id": number} for number in range(4)]))
        self.assertEqual((found[1], found[3]), (1, 3))
        self.assertEqual([found[0].code, found[2].code], ["NOT_FOUND", "NOT_FOUND"])
        self.assertEqual(len(self.asked), 1)

    def test_no_url_is_too_long_for_proxies(self):
        lengths = []

        def answer(names, given):
            lengths.append(len(client.transport.url))
            given = given if isinstance(given, list) else [given]
            values = [result(each["id"]) for each in given]
            return canned(values if isinstance(names, list) else values[0])
        client = self.client(answer)
        ids = ["%d-東&%%%s" % (number, "x" * (number % 90)) for number in range(150)]
        self.assertEqual(list(client.batch("trace.getById", [{"id": each} for each in ids])), ids)
        self.assertLess(max(lengths), 4000)
        self.assertLess(len(lengths), 40)
        for order in (1, -1):           # a single long one leaves the others together
            del lengths[:]
            ids = [str(number) for number in range(40)] + ["x" * 5000]
            list(client.batch("trace.getById", [{"id": each} for each in ids[::order]]))
            self.assertLess(len(lengths), 4)

    def test_a_refused_batch_becomes_single_requests(self):
        """Batching is off, or a proxy finds the URL too long and says so with a web page."""
        refusal = trpc_error("BAD_REQUEST", 400, "Batching is not enabled")
        page = b"<html><h1>414 Request-URI Too Large</h1></html>"
        for status in (400, 404, 405, 414, 431):
            for body, content_type in ((refusal, "application/json"), (page, "text/html")):
                def answer(names, given):
                    if isinstance(names, list):
                        return canned(body, status, content_type)
                    return canned(result(given["id"]))
                client = self.client(answer)
                with self.subTest(status=status, content_type=content_type):
                    self.assertEqual(list(client.batch("x.get", [{"id": 1}, {"id": 2}])), [1, 2])
                    self.assertEqual(list(client.batch("x.get", [{"id": 3}, {"id": 4}])), [3, 4])
                    self.assertEqual([len(names) for names, _ in self.asked], [2, 1, 1, 1, 1])

    def test_a_batch_that_fails_otherwise_is_an_error(self):
        for status, code in ((200, "BAD_ANSWER"), (403, "GATEWAY"),
                             (429, "TOO_MANY_REQUESTS"), (502, "INTERNAL_SERVER_ERROR")):
            client = self.client(lambda names, given: canned(b"<html>", status, "text/html"))
            with self.subTest(status=status):
                self.assertRaisesCode(code, list, client.batch("x.get", [{"id": 1}, {"id": 2}]))
                self.assertEqual(len(self.asked), 1)

    def test_aliases_in_a_batch(self):
        """A batch that fails as a whole has the status of its parts, and is a batch all the same.
        """
        def answer(names, given):
            is_missing = names[0] == "trace.getById"
            return canned([missing_procedure(name) if is_missing else result(name)
                           for name in names], 404 if is_missing else 200)
        client = self.client(answer)
        self.assertEqual(list(client.batch("trace.getById", [{"id": 1}, {"id": 2}])),
                         ["trace.byId", "trace.byId"])
        self.assertEqual([names for names, _ in self.asked],
                         [["trace.getById"] * 2, ["trace.byId"] * 2])

    def test_an_empty_batch_makes_no_request(self):
        client = self.client(None)
        self.assertEqual(list(client.batch("x.get", [])), [])
        self.assertEqual(self.asked, [])


class PagesOfTraces(ClientCase):
    def rows(self, client, size=100):
        return [trace["id"] for page in client.trace_pages({"projectId": "c"}, lambda: size)
                for trace in page.traces]

    def listed(self, answer, *args):
        """(the IDs that `traces list` prints, stderr)"""
        self.write("home/session.json", TOKENS)
        self.write("home/config.json", {"api_url": EXAMPLE_URL})
        script = ScriptedTransport(answer)
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

    def test_a_bare_list_that_ignores_the_limit(self):
        traces = [{"id": number, "scores": []} for number in range(30)]
        found, err = self.listed(lambda name, given: canned(result(traces)))
        self.assertEqual(found, list(range(20)))
        self.assertEqual(err, "Showing 20 traces; more exist. Use --limit N or --all.\n")

    def test_pages_tell_whether_there_are_more(self):
        client = self.client(self.pages(250))
        pages = list(client.trace_pages({"projectId": "c"}, lambda: 100))
        self.assertEqual([(len(page.traces), page.has_more) for page in pages],
                         [(100, True), (100, True), (50, False)])

    def test_a_cursor_that_does_not_move(self):
        client = self.client(lambda name, given: canned(
            result({"traces": [{"id": 1}], "nextCursor": "same"})))
        self.assertRaisesCode("BAD_ANSWER", self.rows, client)
        self.assertLess(len(self.asked), 5)

    def test_pages_that_stay_empty(self):
        client = self.client(lambda name, given: canned(
            result({"traces": [], "nextCursor": str(len(self.asked))})))
        with mock.patch.object(twosignal, "MAX_EMPTY_PAGES", 20):
            self.assertRaisesCode("BAD_ANSWER", self.rows, client)
        self.assertLess(len(self.asked), 30)

    def test_pages_without_a_new_trace(self):
        """They are no end, but there is an end to them."""
        for new_from, count in ((15, 2), (99, 1)):
            client = self.client(lambda name, given: canned(result({
                "traces": [{"id": int(len(self.asked) >= new_from)}],
                "nextCursor": None if len(self.asked) == 16 else str(len(self.asked))})))
            with mock.patch.object(twosignal, "MAX_EMPTY_PAGES", 20):
                self.assertEqual(self.rows(client), list(range(count)))
        client = self.client(lambda name, given: canned(result({
            "traces": [{"id": 1}],
            "nextCursor": str(len(self.asked)) if len(self.asked) < 50 else None})))
        with mock.patch.object(twosignal, "MAX_EMPTY_PAGES", 20):
            self.assertRaisesCode("BAD_ANSWER", self.rows, client)
        self.assertLess(len(self.asked), 30)

    def test_cursors_that_are_none(self):
        for cursor in (None, ""):
            client = self.client(lambda name, given: canned(
                result({"traces": [{"id": "a"}], "nextCursor": cursor})))
            self.assertEqual(len(self.rows(client)), 1)

    def test_cursors_of_the_wrong_type(self):
        for cursor in ([], {}, ["x"], {"a": 1}, 1.5):
            client = self.client(lambda name, given: canned(
                result({"traces": [], "nextCursor": cursor})))
            self.assertRaisesCode("BAD_ANSWER", self.rows, client)


class ListedAgain(ClientCase):
    """New traces shift the pages of an offset cursor, so that traces are listed again."""

    def client_of(self, arrivals, **fields):
        """A client; with each page, so many new traces have arrived. They count downwards."""
        traces = [dict(fields, id="t%d" % number) for number in range(450)]

        def answer(name, given):
            start = int(given.get("cursor") or 0)
            stop = start + given["limit"]
            rows = traces[start:stop]
            cursor = str(stop) if stop < len(traces) else None
            if len(self.asked) <= 4:
                traces[:0] = [dict(fields, id="new-%d-%d" % (len(self.asked), number))
                              for number in range(arrivals)]
            return canned(result({"traces": rows, "nextCursor": cursor}))
        return self.client(answer)

    def pages(self, client):
        return [[trace.get("id") for trace in page.traces]
                for page in client.trace_pages({"projectId": "c"}, lambda: 100)]

    def test_each_trace_comes_once(self):
        """Also if more arrive between two pages than a page has, and 1,000 in all."""
        for arrivals in (0, 1, 99, 100, 101, 250):
            found = [trace for page in self.pages(self.client_of(arrivals)) for trace in page]
            with self.subTest(arrivals=arrivals):
                self.assertEqual([trace for trace in found if trace.startswith("t")],
                                 ["t%d" % number for number in range(450)])
                self.assertEqual(len(found), len(set(found)))

    def test_a_scan_counts_each_once(self):
        client = self.client_of(250, **{
            key: value for key, value in wire_trace().items() if key != "id"})
        scan = twosignal.TraceScan(client, twosignal.TraceQuery("c1", min_duration=1),
                                   twosignal.Console((None, None, None)))
        ids = [trace["id"] for trace in scan]
        self.assertEqual((len(set(ids)), scan.returned, scan.scanned), (len(ids),) * 3)

    def test_a_trace_without_an_id_is_never_left_out(self):
        rows = [{"name": "a"}, {"id": None}, {"id": ""}, {"id": 0}, {"id": "0"}, {"name": "b"}]
        client = self.client(lambda name, given: canned(result({
            "traces": rows, "nextCursor": "2" if len(self.asked) == 1 else None})))
        without = [None, None, "", None]
        self.assertEqual([sorted(map(str, page)) for page in self.pages(client)],
                         [sorted(map(str, without + ["0"])), sorted(map(str, without))])

    def test_the_memory_has_a_limit(self):
        """Up to the limit nothing comes twice; beyond it that is said, and the last page is known
        still.
        """
        def answer(name, given):
            start = 10 * int(given.get("cursor") or 0)
            rows = [*range(max(0, start - 10), start + 10)] + ([0] if start == last else [])
            return canned(result({"traces": [{"id": number} for number in rows],
                                  "nextCursor": str(start // 10 + 1) if start < last else None}))
        for last, again, told in ((10, 0, 0), (30, 0, 0), (40, 0, 1), (50, 1, 1), (200, 1, 6)):
            client = self.client(answer)
            with self.subTest(last=last), mock.patch.object(twosignal, "MAX_KNOWN_TRACES", 40):
                found = [trace for page in self.pages(client) for trace in page]
                self.assertEqual(sorted(found), sorted([0] * again + list(range(last + 10))))
                self.assertEqual(client.transport.told, [
                    "More than 40 traces: some may be counted twice."] * told)


class TooLargeAtOnce(TracesCase):
    """What is too large for a server, a proxy or this client is asked for in halves."""

    SPACES = b" " * 200000
    LIMIT = 150000              # in place of 32 MiB
    WAYS = [dict(status=status, body=body) for status in (413, 414, 431, 504)
            for body in (b"<html>Too large</html>", b"", trpc_error("INTERNAL_SERVER_ERROR", 500),
                         {"data": None, "error": {"code": "X", "message": "m"}}, [])]
    WAYS += [dict(status=200, body=SPACES),
             dict(raw=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + SPACES)]

    def sizes(self, fragment=""):
        return [size_of(request) for request in requests_of(self.server, fragment)]

    def low_limit(self):
        self.server.clear()
        return mock.patch.object(twosignal, "MAX_RESPONSE_BYTES", self.LIMIT)

    def test_pages(self):
        """Row 44: halved at once, without a retry; the size that worked is kept for the run."""
        ids = self.add(120)
        for env in ({}, self.key()):
            for way in self.WAYS:
                with self.subTest(way=str(way)[:80]), self.low_limit(), \
                        takes_at_most(self.server, 30, "trace", **way):
                    found = self.list("--all", "--fields", "id", "--json", env=env)
                    self.assertEqual([row["id"] for row in self.assertOk(found, err="").json], ids)
                    self.assertEqual(self.sizes(), [100, 50] + [25] * 5)
                    self.assertEqual(self.naps, [])

    def test_batches(self):
        """Row 44: the same for the scores of a listing and of a gate."""
        ids = self.add(30, scores=[{"value": 0.9}])
        for way in self.WAYS:
            with self.subTest(way=str(way)[:80]), self.low_limit(), \
                    takes_at_most(self.server, 4, "trace.getById", **way):
                found = self.assertOk(self.list("--all", "--json"), err="")
                self.assertEqual([(row["id"], row["scores"][0]["score"]) for row in found.json],
                                 [(trace, 0.9) for trace in ids])
                first, second, *others = self.sizes("trace.getById")
                self.assertEqual((second, others), (first // 2, [4] * 7 + [2]))
                self.assertEqual(self.naps, [])
        with takes_at_most(self.server, 4, "trace.getById", status=413):
            self.assertOk(self.check("--min-score", "0.5", "--min-count", "30"))

    def test_real_sizes(self):
        """Row 44: pages with much metadata, and traces with a large span each."""
        ids = self.add(120, metadata={"note": "x" * 4000})
        with self.low_limit():
            for env in ({}, self.key()):
                found = self.list("--all", "--fields", "id", "--json", env=env)
                self.assertEqual([row["id"] for row in self.assertOk(found, err="").json], ids)
            found = self.list("--min-duration", "1ms", "--limit", "3", "--fields", "id", "--json")
            self.assertEqual([row["id"] for row in self.assertOk(found).json], ids[:3])
        self.use()
        self.add(30, scores=[{"value": 0.9}], spans=[{"output": "x" * 40000}])
        with self.low_limit():
            self.assertOk(self.check("--min-score", "0.5", "--min-count", "30"), err="")
            self.assertEqual(len(self.assertOk(self.list("--all", "--json")).json), 30)

    def test_a_proxy_with_short_addresses(self):
        """Row 44: 414 with a web page for what is longer than 2,048 characters."""
        self.add(30, scores=[{"value": 0.9}])
        take = self.server.take_fault
        self.server.take_fault = lambda request: take(request) if len(request.target) < 2048 else (
            standin.Fault("", None, status=414, body=b"<html>414</html>"))
        self.assertOk(self.check("--min-score", "0.5", "--min-count", "30"), err="")
        self.assertLess(len(self.sizes("trace.getById")), 9)

    def test_an_outage_ends(self):
        """Row 44: halved down to one, which has the usual retries; then it is an error."""
        self.add(30, scores=[{"value": 0.9}])
        for status, code, tries in ((504, 8, 3), (413, 1, 1), (414, 1, 1), (431, 1, 1)):
            for env in ({}, self.key()):
                self.server.clear()
                with self.subTest(status=status, env=env), \
                        takes_at_most(self.server, 0, "trace", status=status):
                    result = self.list("--all", "--json", env=env)
                    self.assertFails(result, code, "Cannot read a page of one trace", "--until")
                    self.assertEqual(self.sizes(), [100, 50, 25, 12, 6, 3] + [1] * tries)
            self.server.clear()
            with self.subTest(status=status), \
                    takes_at_most(self.server, 0, "trace.getById", status=status):
                self.assertFails(self.check("--min-score", "0.5"), code, "Cannot read trace ",
                                 "--until")
                self.assertEqual(self.sizes("trace.getById").count(1), tries)

    def test_what_is_too_large_alone_is_named(self):
        """Row 44: only that is an error, with a hint that fits."""
        self.add(20, scores=[{"value": 0.9}])
        large, = self.add(1, scores=[{"value": 0.9}], spans=[{"output": "x" * self.LIMIT}])
        for command, message in (
                (("check", "--min-score", "0.5"), "trace %s: the server's response" % large),
                (("list", "--json"), "trace %s: the server's response" % large),
                (("get", large), "Error: The server's response")):
            with self.subTest(command=command), self.low_limit():
                result = self.assertFails(self.traces(*command), 8,
                                          message + " is larger than 32 MiB")
                self.assertNotIn("--limit", result.err)
                self.assertEqual("--since" in result.err, "get" not in command)

    def test_lists_without_a_cursor(self):
        """Row 44: there is no next page, so what needs all traces fails rather than miss some."""
        self.use(bare_list=True)
        ids = self.add(30)
        for command, code, shown, sizes in (
                (("list", "--all"), 8, None, [100, 50, 25, 12, 6]),
                (("check", "--max-cost", "9"), 8, None, [100, 50, 25, 12, 6]),
                (("list", "--limit", "6"), 0, 6, [6]), (("list",), 0, 10, [20, 10]),
                (("list", "--limit", "6", "--fail-if-truncated"), 10, None,
                 [6, 100, 50, 25, 12, 6])):
            self.server.clear()
            with self.subTest(command=command), \
                    takes_at_most(self.server, 10, "trace.list", status=504):
                options = ("--fields", "id", "--format", "csv") if "list" in command else ()
                result = self.traces(*(command + options))
                self.assertEqual((result.code, self.sizes()), (code, sizes), result)
                if shown:
                    self.assertEqual(result.lines[1:], ids[:shown])
                    self.assertIn("more may exist", result.err)
        with takes_at_most(self.server, 99, "trace.list", status=504):
            self.assertEqual(len(self.names("--all")), 30)


class InHalves(ClientCase):
    """What Client makes of a page or a batch that is too large."""

    DEEP = "[" * 200000 + "]" * 200000
    CURSORS = {             # how a server continues behind a page of so many traces
        "offset": (lambda start, size: start + size, lambda cursor, size: cursor),
        "page number": (lambda start, size: start // size + 2,
                        lambda cursor, size: (cursor - 1) * size)}

    def listing(self, cursors, most, total=250, status=504):
        """A client of a server that takes limits up to `most`, which is a list."""
        cursor_of, start_of = self.CURSORS[cursors]

        def answer(name, given):
            size = given["limit"]
            if size > most[0]:
                return canned(b"<html>", status, "text/html")
            start = start_of(int(given["cursor"]), size) if given.get("cursor") else 0
            cursor = str(cursor_of(start, size)) if start + size < total else None
            rows = [{"id": number} for number in range(start, min(total, start + size))]
            return canned(result({"traces": rows, "nextCursor": cursor}))
        return self.client(answer)

    def ids(self, client, most=(), later=None):
        found = []
        for page in client.trace_pages({"projectId": "c"}, lambda: 100):
            found += [trace["id"] for trace in page.traces]
            if later:
                most[0] = later
        return found

    def test_in_the_middle_of_a_listing(self):
        """Row 44: whatever the cursor means, all rows come once each, in their order."""
        for cursors in self.CURSORS:
            for later in (50, 7, 1):
                with self.subTest(cursors=cursors, later=later):
                    most = [100]
                    self.assertEqual(self.ids(self.listing(cursors, most), most, later),
                                     list(range(250)))

    def test_an_outage_does_not_shrink_later_pages(self):
        most = [0]
        client = self.listing("offset", most)
        failure = self.assertRaisesCode("INTERNAL_SERVER_ERROR", self.ids, client)
        self.assertIsInstance(failure, twosignal.TransientFailure)
        most[0] = 100
        del self.asked[:]
        self.assertEqual(self.ids(client), list(range(250)))
        self.assertEqual(len(self.asked), 3)

    def test_an_entry_that_fails_once(self):
        """It is asked for by itself; the other entries of the batch are not asked for again."""
        for kind in (("PAYLOAD_TOO_LARGE", 413), ("TIMEOUT", 408), ("TOO_MANY_REQUESTS", 429),
                     ("INTERNAL_SERVER_ERROR", 500), ("SERVICE_UNAVAILABLE", 503)):
            client = self.client(lambda names, given: canned([
                trpc_error(*kind) if each["id"] == 2 else result(each["id"]) for each in given],
                207) if isinstance(given, list) else canned(result(given["id"])))
            found = list(client.batch("x.get", [{"id": 1}, {"id": 2}, {"id": 3}]))
            self.assertEqual((found, len(self.asked)), ([1, 2, 3], 2))

    def test_an_entry_that_is_too_large(self):
        """The other entries of the batch are not asked for again."""
        client = self.client(lambda names, given: canned(
            [trpc_error(*kind) if each["id"] == 2 else result(each["id"]) for each in given], 207)
            if isinstance(given, list) else canned(trpc_error(*kind), kind[1]))
        for kind in (("PAYLOAD_TOO_LARGE", 413), ("TIMEOUT", 408), ("GATEWAY_TIMEOUT", 504)):
            del self.asked[:]
            one, failure, three = client.batch("x.get", [{"id": 1}, {"id": 2}, {"id": 3}])
            self.assertEqual((one, three, len(self.asked)), (1, 3, 2))
            self.assertEqual(failure.exit_code, 1 if kind[1] == 413 else 8)
        kind = ("PAYLOAD_TOO_LARGE", 413)
        failure = self.assertRaisesCode(kind[0], with_scores, client, [{"id": 2}, {"id": 1}])
        self.assertEqual(failure.message, "Cannot read trace 2: request too large")

    def test_a_batch_around_what_is_too_large_alone(self):
        """Row 44: the others come, unless nothing is of use without it."""
        for status, body in ((413, b""), (504, b""), (200, self.DEEP.encode("ascii"))):
            def answer(names, given):
                ids = [each["id"] for each in (given if isinstance(given, list) else [given])]
                if 2 in ids:
                    return canned(body, status)
                values = [result(each) for each in ids]
                return canned(values if isinstance(names, list) else values[0])
            for wanted, sizes, values in ((4, [4, 2, 1, 1, 1, 1], [1, 3, 4]),
                                          (2, [4, 2, 1, 1], [1])):
                client = self.client(answer)
                found = list(itertools.islice(client.batch(
                    "x.get", [{"id": number} for number in (1, 2, 3, 4)]), wanted))
                with self.subTest(status=status, wanted=wanted):
                    self.assertEqual([len(names) for names, _ in self.asked], sizes)
                    self.assertEqual([each for each in found if not isinstance(each, Exception)],
                                     values)
                    self.assertEqual([type(each) for each in found[1:2]],
                                     [twosignal.ResponseTooLarge if body else twosignal.TooLarge])

    def test_a_change_is_neither_split_nor_repeated(self):
        for status in (413, 414, 431, 504):
            client = self.client(lambda name, given: canned(b"<html>", status, "text/html"))
            with self.assertRaises(twosignal.Failure):
                client.mutate("x.create", {"traceId": "t", "limit": 100})
            self.assertEqual(len(self.asked), 1)

    def test_a_response_that_is_nested_too_deeply(self):
        """It is not said to be another protocol's; the others come, and a trace is named."""
        def answer(names, given):
            rows = [{"id": number, "scores": [], "metadata": "DEEP" if number == bad else None}
                    for number in range(int(given.get("cursor") or 0), 20)][:given["limit"]]
            cursor = str(rows[-1]["id"] + 1) if rows[-1]["id"] < 19 else None
            body = json.dumps(result({"traces": rows, "nextCursor": cursor}))
            return canned(body.replace('"DEEP"', self.DEEP).encode("ascii"))
        bad = 7
        client = self.client(answer)
        found = []
        with self.assertRaises(twosignal.Failure) as caught:
            for page in client.trace_pages({"projectId": "c"}, lambda: 100):
                found += [trace["id"] for trace in page.traces]
        self.assertEqual(found, list(range(7)))
        self.assertEqual((caught.exception.message, caught.exception.exit_code), (
            "Cannot read a page of one trace: the server's response is nested too deeply", 8))

        def details(names, given):
            bodies = [json.dumps(result({"scores": "DEEP" if each["id"] == 3 else []}))
                      for each in (given if isinstance(given, list) else [given])]
            body = "[%s]" % ",".join(bodies) if isinstance(names, list) else bodies[0]
            return canned(body.replace('"DEEP"', self.DEEP).encode("ascii"))
        client = self.client(details)
        failure = self.assertRaisesCode("BAD_ANSWER", with_scores, client,
                                        [{"id": number} for number in range(9)])
        self.assertEqual(failure.message, "Cannot read trace 3: the server's response is nested "
                                          "too deeply")


class ScoresOfTraces(ClientCase):
    def test_only_missing_ones_are_fetched(self):
        def answer(names, given):
            each = [result({"scores": [{"value": one["id"]}]})
                    for one in (given if isinstance(given, list) else [given])]
            return canned(each if isinstance(names, list) else each[0])
        client = self.client(answer)
        traces = [{"id": 1, "_count": {"scores": 1}}, {"id": 2, "_count": {"scores": 0}},
                  {"id": 3, "scores": [{"value": 9}]}, {"id": 4}, {"id": 5, "scoreCount": 1},
                  {"id": 6, "scores": [{"value": 9}], "_count": {"scores": 1}},
                  {"id": 7, "scores": [], "_count": {"scores": 1}}]
        self.assertEqual([[score["score"] for score in trace["scores"]]
                          for trace in with_scores(client, traces)],
                         [[1], [], [9], [4], [5], [9], [7]])
        self.assertEqual(len(self.asked), 1)

    def test_some_of_them_are_not_all(self):
        """A listing may hold fewer scores of a trace than it counts."""
        def trace():
            return {"id": 1, "scores": [{"value": 9}], "_count": {"scores": 2}}

        client = self.client(lambda names, given: canned(result({
            "scores": [{"value": 9}, {"value": 0}]})))
        found, = with_scores(client, [trace()])
        self.assertEqual([score["score"] for score in found["scores"]], [9, 0])
        client.key = "ts_key"
        self.assertRaisesCode("NOT_LOGGED_IN", with_scores, client, [trace()])
        found, = with_scores(client, [trace()], twosignal.SCORES_IF_KNOWN)
        self.assertIsNone(found["scores"])

    def test_no_gate_passes_because_they_are_missing(self):
        for reply in (result({}), result({"scores": None}), result({"scores": []}),
                      trpc_error("FORBIDDEN", 403), trpc_error("INTERNAL_SERVER_ERROR", 500)):
            client = self.client(lambda names, given: canned(reply))
            with self.assertRaises(twosignal.Failure):
                with_scores(client, [{"id": 1, "_count": {"scores": 2}}])

    def test_a_trace_that_was_deleted_meanwhile(self):
        client = self.client(lambda names, given: canned(trpc_error("NOT_FOUND", 404), 404))
        found, = with_scores(client, [{"id": 1, "_count": {"scores": 2}}])
        self.assertEqual(found["scores"], [])


GATEWAY_ERRORS = ({"a": 1}, {"message": "Unauthorized"}, {"error": "Unauthorized"}, None, "no", 5,
                  {"error": {"code": 401, "message": "no", "status": "UNAUTHENTICATED"}},
                  {"error": {"code": "InvalidToken", "message": "no"}}, {"error": None},
                  {"error": {"message": "no"}}, {"error": "UNAUTHORIZED"}, {"code": "FORBIDDEN"},
                  {"error": {"code": None, "data": None}}, {"data": {"code": "UNAUTHORIZED"}})


class RejectedSessions(ClientCase):
    def test_a_401_from_a_proxy_ends_no_session(self):
        for body, kind in [(b"<html>", "text/html")] + [
                (json.dumps(body).encode(), "application/json") for body in GATEWAY_ERRORS]:
            client = self.client(lambda name, given: canned(body, 401, kind))
            self.assertRaisesCode("GATEWAY", client.query, "x.list")
            self.assertEqual(len(self.asked), 1)

    def test_a_401_of_the_api_is_retried_once(self):
        """The second request has the session that another process has saved meanwhile."""
        def answer(name, given):
            self.write("home/session.json", dict(TOKENS, access_token="n.e.w"))
            cookies.append(unquote(client.transport.headers["Cookie"]))
            return canned(trpc_error("UNAUTHORIZED", 401), 401)
        cookies = []
        client = self.client(answer)
        self.assertRaisesCode("UNAUTHORIZED", client.query, "x.list")
        self.assertEqual(len(cookies), 2)
        self.assertIn("a.b.c", cookies[0])
        self.assertIn("n.e.w", cookies[1])

    def test_a_batch_that_is_refused_as_a_whole(self):
        """One error in place of a list: the session is renewed once, and then it is an error."""
        def answer(names, given):
            self.write("home/session.json", dict(TOKENS, access_token="n.e.w"))
            if len(self.asked) > 1 and accepts:
                return canned([{"result": {"data": {"json": 1}}} for _ in given])
            return canned(trpc_error("UNAUTHORIZED", 401), 401)
        inputs = [{"id": "x" * 1000} for _ in range(9)]         # more than one batch
        for accepts in (True, False):
            with self.subTest(accepts=accepts):
                client = self.client(answer)
                if accepts:
                    self.assertEqual(list(client.batch("x.get", inputs)), [1] * 9)
                else:
                    self.assertRaisesCode("UNAUTHORIZED", list, client.batch("x.get", inputs))
                    self.assertEqual(len(self.asked), 2)


class Dialects(CommandCase):
    """Every command returns the same records, whatever the version of the server."""

    dialects = [
        {"names": "old", "errors": 10, "page_key": "items"},
        {"names": "both", "page_key": "items"},
        {"bare_list": True},
        {"batching": False},
        {"names": "old", "errors": 10, "batching": False},
        {"list_scores": True},
        {"counts": "bigint", "costs": "decimal"},
        {"require_project": True},
        {"project_ref": False},
        {"padding": 4000},
    ]

    def shapes(self):
        return {command: self.shape(self.records(command)) for command in PROCEDURES}

    def shape(self, value):
        if isinstance(value, dict):
            return {key: self.shape(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.shape(item) for item in value]
        return type(value).__name__ if not isinstance(value, float) else "int"

    def test_every_command(self):
        self.server.set_plan(self.server.org, "PRO")
        expected = self.shapes()
        for options in self.dialects:
            with self.subTest(**options):
                self.server = self.serve(**options)
                self.log_in()
                self.environment.update(TWOSIGNAL_PROJECT=self.server.project,
                                        TWOSIGNAL_ORG=self.server.org)
                self.assertEqual(self.shapes(), expected)

    def test_errors(self):
        for options in ({"errors": 10, "names": "old"}, {"bare_errors": True},
                        {"bare_errors": True, "errors": 10, "names": "old"}, {"zod": 4}):
            with self.subTest(**options):
                self.server = self.serve(**options)
                self.log_in()
                project = ("--project", self.server.project)
                self.assertFails(self.cli("traces", "get", "nope", *project), 6, "not found")
                self.assertFails(self.cli("traces", "list", "--project", "nope"), 6,
                                 "Project not found")
                self.log_in("viewer@example.com")
                self.assertFails(self.cli("datasets", "create", "-n", "x", *project), 5,
                                 "Permission denied")
                self.server.revoke("viewer@example.com")
                self.assertFails(self.cli("orgs", "list"), 4, "Authentication expired")

    def test_rejections(self):
        for version in (3, 4):
            with self.subTest(zod=version):
                self.server = self.serve(zod=version)
                self.log_in()
                result = self.cli("evaluators", "create", "-n", "x" * 1000, "--type", "CUSTOM",
                                  "--project", self.server.project)
                self.assertFails(result, 1, "The server rejected the input", "name")

    def test_costs_and_counts_are_numbers(self):
        self.server = self.serve(counts="bigint", costs="decimal")
        self.log_in()
        project = self.server.add_project(name="Exact")
        self.server.add_trace(project=project, cost=0.0034, scores=[], spans=[])
        record, = self.assertOk(self.cli("traces", "list", "--project", project, "--json")).json
        self.assertEqual(record["cost_usd"], 0.0034)
        self.assertIs(type(record["span_count"]), int)
        self.assertIs(type(record["total_tokens"] or 0), int)

    def test_a_missing_procedure_is_called_once(self):
        self.server = self.serve(names="old", errors=10)
        self.log_in()
        self.assertOk(self.cli("traces", "get", self.server.traces[0],
                               "--project", self.server.project))
        self.assertEqual([request.procedures for request in self.server.requests],
                         [["trace.getById"], ["trace.byId"]])


class ListLimits(CommandCase):
    options = {"empty": True}

    def add(self, count, **fields):
        fields = dict({"scores": [], "spans": []}, **fields)
        now = datetime.datetime.now(datetime.timezone.utc)
        ids = [self.server.add_trace(project=self.server.project, name=f"trace {number}",
                                     created=now - datetime.timedelta(minutes=number), **fields)
               for number in range(count)]
        self.server.clear()
        return ids

    def shown(self, *args, err=None):
        result = self.assertOk(self.cli("traces", "list", "--json", *args), err=err)
        return [record["id"] for record in result.json]

    def test_limits(self):
        ids = self.add(260)
        notice = "Showing {} traces; more exist. Use --limit N or --all.\n"
        for args, count, requests in (
                ([], 20, 1), (["-n", "1"], 1, 1), (["-L", "20"], 20, 1),
                (["--limit", "100"], 100, 1), (["--limit", "101"], 101, 2),
                (["--limit", "250"], 250, 3)):
            with self.subTest(args=args):
                self.server.clear()
                self.assertEqual(self.shown(*args, err=notice.format(count)
                                            if count > 1 else None), ids[:count])
                self.assertEqual(self.server.count("trace.list"), requests)
        for args in (["--limit", "260"], ["--limit", "1000"], ["--all"]):
            with self.subTest(args=args):
                self.server.clear()
                self.assertEqual(self.shown(*args, err=""), ids)
                self.assertEqual(self.server.count("trace.list"), 3)
        for given in procedure_inputs(self.server, "trace.list"):
            self.assertLessEqual(given["limit"], 100)

    def test_tables_page_too(self):
        ids = self.add(205)
        result = self.assertOk(self.cli("traces", "list", "--all"), err="")
        self.assertEqual([line.split("  ")[0] for line in result.lines[2:]], ids)

    def test_columns_are_aligned_across_pages(self):
        self.add(101)
        old = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=20)
        self.server.add_trace(project=self.server.project, duration_ms=3720000, cost=1234.5678,
                              created=old, name="trace 101")
        result = self.assertOk(self.cli("traces", "list", "--all", columns=120))
        heading, rule, *rows = result.lines
        self.assertEqual({row.index("trace ") for row in rows}, {heading.index("Name")})

    def test_no_notice_without_more(self):
        self.add(20)
        self.assertEqual(len(self.shown(err="")), 20)

    def test_notice_with_a_table(self):
        self.add(21)
        self.assertOk(self.cli("traces", "list"),
                      err="Showing 20 traces; more exist. Use --limit N or --all.\n")

    def test_short_bare_list_is_complete(self):
        self.server = self.serve(empty=True, bare_list=True)
        self.log_in()
        self.environment["TWOSIGNAL_PROJECT"] = self.server.project
        ids = self.add(30)
        self.assertEqual(self.shown("--limit", "100", err=""), ids)

    def test_a_cursor_that_does_not_move_ends(self):
        page = trpc_answer({"traces": [wire_trace()], "nextCursor": "same"})
        self.server.fault("trace.list", times=None, status=200, body=page)
        result = self.cli("traces", "list", "--all", "--json")
        self.assertEqual(result.code, 8, result)
        self.assertEqual(result.error["code"], "BAD_ANSWER")
        self.assertIn("pages of traces do not end", result.error["message"])
        self.assertLess(self.server.count("trace.list"), 10)

    def test_filters_go_to_the_server(self):
        self.add(3)
        self.server.add_trace(project=self.server.project, name="Checkout agent",
                              status="ERROR")
        for status in ("ERROR", "error", "Error"):
            self.assertEqual(len(self.shown("--status", status)), 1)
        self.assertEqual(len(self.shown("--status", "ok")), 3)
        self.assertEqual(len(self.shown("--search", "Checkout")), 1)
        self.assertEqual(len(self.shown("--search", "trace", "--status", "OK")), 3)
        given = procedure_inputs(self.server, "trace.list")
        self.assertEqual([one.get("status") for one in given[:4]],
                         ["ERROR", "ERROR", "ERROR", "OK"])
        self.assertEqual((given[4]["search"], given[4]["name"]), ("Checkout", "Checkout"))
        self.assertFails(self.cli("traces", "list", "--status", "WRONG"), 2, "--status", "OK",
                         "ERROR")

    def test_invalid_limits(self):
        for value in ("0", "-1", "abc", "", "1.5", "1e3", "0x10"):
            for option in ("--limit=", "-n"):
                problem = "--limit" if option + value != "-n" else "-n needs a value"
                with self.subTest(value=value, option=option):
                    self.assertFails(self.cli("traces", "list", option + value), 2, problem)
        self.assertFails(self.cli("traces", "list", "--limit", str(10 ** 30)), 2, "--limit")
        self.assertEqual(self.server.requests, [])


class CountedScores(CommandCase):
    options = {"empty": True}

    def add(self, count, scored=True):
        score = {"evaluatorName": "Tone", "value": 0.9, "label": None, "reasoning": None}
        ids = [self.server.add_trace(project=self.server.project, spans=[],
                                     scores=[score] if scored else [])
               for _ in range(count)]
        return ids

    def records_of(self, *args):
        self.server.clear()
        return self.assertOk(self.cli("traces", "list", "--json", *args), err="").json

    def asked(self):
        return [given["traceId"] for given in procedure_inputs(self.server, "trace.getById")]

    def test_only_counted_scores_are_fetched_in_batches(self):
        scored, others = self.add(30), self.add(10, scored=False)
        records = self.records_of("--all")
        self.assertEqual({record["id"]: [score["score"] for score in record["scores"]]
                          for record in records},
                         dict({one: [0.9] for one in scored}, **{one: [] for one in others}))
        self.assertEqual(sorted(self.asked()), sorted(scored))
        batches = requests_of(self.server, "trace.getById")
        self.assertLess(len(batches), 8)
        for request in batches:
            self.assertLess(len(self.server.url + request.target), 4000)

    def test_without_batches_each_is_fetched(self):
        self.server = self.serve(empty=True, batching=False)
        self.log_in()
        self.environment["TWOSIGNAL_PROJECT"] = self.server.project
        ids = self.add(7)
        records = self.records_of()
        self.assertEqual([len(record["scores"]) for record in records], [1] * 7)
        singles = [request for request in requests_of(self.server, "trace.getById")
                   if not request.query.get("batch")]
        self.assertEqual(len(singles), len(ids))

    def test_scores_in_the_list_need_no_request(self):
        self.server = self.serve(empty=True, list_scores=True)
        self.log_in()
        self.environment["TWOSIGNAL_PROJECT"] = self.server.project
        self.add(5)
        self.assertEqual([len(record["scores"]) for record in self.records_of()], [1] * 5)
        self.assertEqual(len(self.server.requests), 1)

    def test_a_table_fetches_no_scores(self):
        self.add(3)
        self.server.clear()
        self.assertOk(self.cli("traces", "list"))
        self.assertEqual(len(self.server.requests), 1)

    def test_scores_that_cannot_be_fetched_are_an_error(self):
        self.add(3)
        self.server.clear()
        self.server.fault("trace.getById", times=None, status=500,
                          body=trpc_error("INTERNAL_SERVER_ERROR", 500, "Boom"))
        self.assertFails(self.cli("traces", "list", "--json"), 8)

    def test_long_ids_make_no_long_urls(self):
        ids = ["t{:03}-{}".format(number, "日本/?" * 30) for number in range(12)]
        score = {"evaluatorName": "Tone", "value": 0.9, "label": None, "reasoning": None}
        for one in ids:
            self.server.add_trace(project=self.server.project, id=one, scores=[score])
        self.assertEqual(sum(len(record["scores"]) for record in self.records_of()), 12)
        for request in requests_of(self.server, "trace.getById"):
            self.assertLess(len(self.server.url + request.target), 4000)


class BareLists(TracesCase):
    """A server whose trace.list returns a bare list has no cursors, hence no further pages."""

    options = {"empty": True, "bare_list": True}
    CANNOT_PAGE = ("Error: This server returned 100 traces and has no further pages: "
                   "more may exist. Use narrower --since and --until.\n")

    def test_a_full_list_may_not_be_all(self):
        """A whole page can still be asked for; behind that, only the filters can help."""
        self.add(101)
        for limit, count, way in ((None, 20, "--limit N or --all"), (20, 20, "--limit N or --all"),
                                  (99, 99, "--limit N or --all"),
                                  (100, 100, "narrower --since and --until"),
                                  (101, 100, "narrower --since and --until"),
                                  (250, 100, "narrower --since and --until")):
            options = () if limit is None else ("-n", limit)
            with self.subTest(limit=limit):
                self.server.clear()
                result = self.list("--format", "jsonl", "--fields", "name", *options)
                self.assertOk(result, err="Showing %d traces; more may exist. Use %s.\n"
                              % (count, way))
                self.assertEqual([json.loads(line)["name"] for line in result.lines],
                                 ["trace %d" % place for place in range(count)])
                self.assertEqual(self.server.count("trace.list"), 1)

    def test_a_shorter_list_is_all(self):
        self.add(99)
        for options in (("-n", "100"), ("-n", "250"), ("--all",)):
            with self.subTest(options=options):
                self.assertOk(self.list(*options), err="")
                self.assertEqual(self.names(*options), ["trace %d" % place for place in range(99)])

    def test_fail_if_truncated(self):
        """It asks for a whole page to find out."""
        self.add(21)
        for limit, code in ((20, 10), (21, 0), (22, 0)):
            with self.subTest(limit=limit):
                result = self.list("-n", limit, "--fail-if-truncated")
                self.assertEqual(result.code, code, result)
        self.add(100)
        result = self.list("-n", "100", "--fail-if-truncated")
        self.assertEqual((result.code, result.err),
                         (10, "Error: Showing 100 traces; more may exist. "
                              "Use narrower --since and --until.\n"))

    def test_all_of_a_full_page_is_an_error(self):
        """--all, a gate and a wait for more all fail rather than miss traces."""
        self.add(100)
        for command, shown in (("list --all --format csv", 101), ("check --max-cost 9", 0),
                               ("wait --count 101", 0)):
            with self.subTest(command=command):
                result = self.traces(*command.split())
                self.assertEqual((result.code, result.err, len(result.lines)),
                                 (8, self.CANNOT_PAGE, shown))
        for command in ("wait --count 100", "check --max-cost 9 -n 100"):
            with self.subTest(command=command):
                self.assertOk(self.traces(*command.split()))

    def test_lists_of_any_length(self):
        """With and without a limit on the server: all traces are listed, or it is an error."""
        for count in (0, 1, 20, 99, 100, 101, 250):
            for is_limited in (False, True):
                traces = [wire_trace(id=str(place), scores=[]) for place in range(count)]
                page = traces[:100] if is_limited else traces
                with self.subTest(count=count, is_limited=is_limited):
                    self.server.clear()
                    self.server.fault("trace.list", times=None, status=200, body=trpc_answer(page))
                    result = self.list("--all", "--fields", "id", "--format", "csv")
                    self.assertEqual(result.code, 8 if len(page) == 100 else 0, result)
                    self.assertEqual(result.lines, ["id"] + [trace["id"] for trace in page])


class BareListScans(ClientCase):
    """What Client.trace_pages and a TraceScan make of a bare list."""

    CONSOLE = twosignal.Console((None, None, None))

    def answer(self, count):
        """A server of so many traces that returns as many as asked for; the sixth has failed."""
        traces = [wire_trace(id=str(place), durationMs=place, scores=[],
                             status="ERROR" if place == 5 else "OK") for place in range(count)]
        return lambda name, given: canned(result(traces[:given["limit"]]))

    def limits(self):
        return [given["json"]["limit"] for _, given in self.asked]

    def scan(self, count, limit=None, query=None, **options):
        """A TraceScan that has been read; self.ids has what it returned."""
        scan = twosignal.TraceScan(self.client(self.answer(count)),
                                   query or twosignal.TraceQuery("c1"), self.CONSOLE, limit,
                                   **options)
        self.ids = [trace["id"] for trace in scan]
        return scan

    def test_pages(self):
        """A list as long as a short limit is followed by one of a whole page, and by no other."""
        for count, size, pages, limits in (
                (0, 20, [(0, False)], [20]), (19, 20, [(19, False)], [20]),
                (20, 20, [(20, None), (0, False)], [20, 100]),
                (99, 20, [(20, None), (79, False)], [20, 100]),
                (250, 20, [(20, None), (80, None)], [20, 100]),
                (99, 100, [(99, False)], [100]), (100, 100, [(100, None)], [100]),
                (250, 100, [(100, None)], [100])):
            client = self.client(self.answer(count))
            with self.subTest(count=count, size=size):
                found = list(client.trace_pages({"projectId": "c1"}, lambda: size))
                self.assertEqual([(len(page.traces), page.has_more) for page in found], pages)
                self.assertEqual(self.limits(), limits)
                self.assertEqual([trace["id"] for page in found for trace in page.traces],
                                 [str(place) for place in range(min(count, 100))])

    def test_a_server_that_knows_no_limit(self):
        """A list that is longer than the limit is complete."""
        for count in (21, 101, 250):
            client = self.client(lambda name, given: canned(result(
                [wire_trace(id=str(place)) for place in range(count)])))
            page, = client.trace_pages({"projectId": "c1"}, lambda: 20)
            self.assertEqual((len(page.traces), page.has_more), (count, False))

    def test_more(self):
        for count, limit, exact, returned, more, limits in (
                (19, 20, False, 19, False, [20]), (20, 20, False, 20, None, [20]),
                (20, 20, True, 20, False, [20, 100]), (21, 20, True, 20, True, [20, 100]),
                (250, 20, True, 20, True, [20, 100]), (99, 99, True, 99, False, [99, 100]),
                (100, 100, False, 100, None, [100]), (100, 100, True, 100, None, [100]),
                (250, 250, False, 100, None, [100]), (99, None, False, 99, False, [100]),
                (100, None, False, 100, None, [100]), (0, None, False, 0, False, [100])):
            with self.subTest(count=count, limit=limit, exact=exact):
                scan = self.scan(count, limit, exact=exact)
                self.assertEqual((scan.returned, scan.has_more), (returned, more))
                self.assertEqual(self.ids, [str(place) for place in range(returned)])
                self.assertEqual(self.limits(), limits)

    def test_remarks(self):
        self.assertEqual(self.scan(20, 20).outcome().remarks,
                         ["Showing 20 traces; more may exist. Use --limit N or --all."])
        self.assertEqual(self.scan(100, 100).outcome().remarks,
                         ["Showing 100 traces; more may exist. Use narrower --since and --until."])
        self.assertEqual(self.scan(19, 20).outcome().remarks, [""])
        scan = self.scan(100, 100, exact=True)
        failure = self.assertRaisesCode("CHECK_FAILED", scan.outcome)
        self.assertEqual((failure.message, failure.hint, failure.exit_code),
                         ("Showing 100 traces; more may exist",
                          "Use narrower --since and --until.", 10))

    def test_all_are_needed(self):
        """Only a whole page that does not reach the limit is an error."""
        for count, limit in ((250, None), (100, None), (250, 101)):
            with self.subTest(count=count, limit=limit):
                failure = self.assertRaisesCode("UNSUPPORTED", self.scan, count, limit,
                                                needed=twosignal.ALL)
                self.assertEqual((failure.message, failure.hint, failure.exit_code),
                                 ("This server returned 100 traces and has no further pages: "
                                  "more may exist", "Use narrower --since and --until.", 8))
        for count, limit in ((99, None), (250, 100), (250, 20), (0, 5)):
            with self.subTest(count=count, limit=limit):
                self.scan(count, limit, needed=twosignal.ALL)

    def test_filters_of_this_program(self):
        """They are applied to a whole page, behind which there may be more that match."""
        query = twosignal.TraceQuery("c1", min_duration=90)
        scan = self.scan(250, 20, query)
        self.assertEqual((self.ids, scan.scanned, scan.has_more),
                         ([str(place) for place in range(90, 100)], 100, None))
        self.assertEqual(scan.outcome().remarks,
                         ["Showing 10 traces; more may exist. Use narrower --since and --until. "
                         "10 of 100 scanned traces match."])
        scan = self.scan(99, 20, query)
        self.assertEqual((scan.returned, scan.has_more), (9, False))
        self.assertRaisesCode("UNSUPPORTED", self.scan, 250, 20, query, needed=twosignal.ALL)

    def test_a_filter_that_the_server_ignores(self):
        """The only match is behind the first, short list: a whole page is asked for."""
        query = twosignal.TraceQuery("c1", status="ERROR")
        scan = self.scan(99, 1, query, needed=twosignal.ALL)
        self.assertEqual((self.ids, scan.scanned, self.limits()), (["5"], 99, [1, 100]))


@unittest.skipUnless(ONCE and hasattr(os, "wait4"), "needs TWOSIGNAL_TEST_FULL=1 and wait4")
class MemoryOfLongLists(TracesCase):
    COUNT, MOST = 20000, 60     # traces, MB

    def test_all_of_many_traces(self):
        when = datetime.datetime(2026, 3, 14, tzinfo=datetime.timezone.utc)
        with self.server.transaction():
            for place in range(self.COUNT):
                self.server.add_trace(name="trace %d" % place, metadata={"note": "x" * 100},
                                      created=when + datetime.timedelta(seconds=place))
        for form, name in (("jsonl", '"trace '), ("csv", ",trace "), ("table", "  OK  "),
                           ("json", '"name": "trace '), ("markdown", " | OK | "),
                           ("html", ">OK<")):
            path = self.path("out")
            with self.subTest(form=form):
                self.assertModest("list", "--all", "--format", form, "-o", path)
                with open(path, encoding="utf-8") as file:
                    self.assertEqual(sum(name in line for line in file), self.COUNT)
        self.assertModest("check", "--max-p95", "9h", "--max-total-cost", "99999", "--min-count",
                          str(self.COUNT))
        self.assertModest("wait", "--count", str(self.COUNT))

    def assertModest(self, command, *options):
        """It succeeds, and needs little memory."""
        result = run_command(
            measured_command(SCRIPT, "traces", command, "--project", self.server.project, *options),
            self.environment, timeout=600)
        status, used = map(float, result.err.split()[-2:])
        self.assertEqual(status, 0, result)
        self.assertLess(used, self.MOST)


NO_ACCOUNT = {"HOME": None, "USERPROFILE": None, "TWOSIGNAL_HOME": None}
NEEDS_ACCOUNT = (           # a line for each command that an API key is not enough for
    "orgs list", "orgs create X", "orgs get --org X", "orgs rename X --org X",
    "orgs list-members --org X", "orgs add-member --org X --email X --role VIEWER",
    "orgs remove-member --org X --email X -y", "projects list --org X", "projects use X",
    "projects get X", "projects update X -n X", "projects delete X -y",
    "projects create X --org X",
    "traces get X --project X", "traces export X --project X", "evaluators list --project X",
    "evaluators create --project X -n X --type COST", "evaluators toggle X --project X --enable",
    "evaluators delete X --project X -y", "evaluators get X --project X",
    "evaluators update X --project X --enable", "evaluators export --project X",
    "evaluators apply --project X -f FILE", "datasets list --project X",
    "datasets create --project X -n X", "datasets get X --project X",
    "datasets add-item X --project X --input 1", "datasets delete X --project X -y",
    "datasets import X - --project X", "datasets update X --project X -n X",
    "datasets export X --project X",
    "datasets add-trace X --dataset X --project X", "datasets remove-item X --project X -y",
    "datasets update-item X --dataset X --project X --input 1",
    "api-keys list --project X", "api-keys create --project X -n X",
    "api-keys rotate X --project X -y", "api-keys revoke X --project X -y",
    "routing list --project X", "routing get X --project X", "routing delete X --project X -y",
    "routing create X --default-model X --project X", "routing update X --project X -n X",
    "usage --org X", "api organization.list")
SESSIONLESS = {"login", "logout"}


class ApiKeys(KeyCase):

    def test_commands_that_take_one(self):
        self.add(3)
        trace = self.server.traces and self.server.traces[0] or self.server.add_trace()
        env = dict(self.key(), TWOSIGNAL_PROJECT=None)
        event = {"id": "1", "type": "trace-create", "timestamp": "2026-03-14T10:30:00Z",
                 "body": {"id": "1", "name": "sent"}}
        with mock.patch("twosignal.new_traces", first_look):
            for line in ("traces list", "traces check --max-p95 9h", "traces wait", "whoami",
                         "traces tail", "scores create %s --name x --value 1" % trace,
                         "routing test --input x", "prompts push x --content y", "prompts list",
                         "prompts get x", "traces send " + self.write("events.json", [event])):
                with self.subTest(line=line):
                    self.assertOk(self.cli(*line.split(), env=env))
        self.assertEqual(self.server.count("/api/trpc/"), 0)
        self.assertEqual(self.server.count("/auth/"), 0)
        for request in self.server.requests:
            self.assertEqual(request.headers.get("Authorization"),
                             "Bearer " + env["TWOSIGNAL_API_KEY"])
            self.assertIsNone(request.headers.get("Cookie"))

    def test_no_home_and_nothing_written(self):
        self.add(3)
        env = self.key()
        shutil.rmtree(self.home)
        before = self.tree()
        with mock.patch("twosignal.new_traces", first_look):
            for line in ("traces list", "traces check --max-p95 9h", "traces wait", "whoami",
                         "traces tail", "traces list --json --url " + self.server.url):
                with self.subTest(line=line):
                    self.assertOk(self.run_cli(*line.split(), env=env))
                with self.subTest(line=line, home=None):
                    with mock.patch("os.path.expanduser", lambda path: path):
                        self.assertOk(self.run_cli(*line.split(), env=dict(env, **NO_ACCOUNT)))
        self.assertEqual(self.tree(), before)

    def test_a_process_without_an_environment(self):
        self.add(3)
        result = self.run_process("traces", "check", "--max-p95", "9h", "--json", env=dict(
            self.key(), TWOSIGNAL_HOME=self.path("none"), HOME=None, USERPROFILE=None))
        self.assertEqual(self.assertOk(result).json["traces"], 3)
        self.assertFalse(os.path.exists(self.path("none")))

    def test_takes_precedence_over_a_session(self):
        self.log_in()
        self.add(1)
        self.assertOk(self.cli("traces", "list", env=self.key()))
        self.write(os.path.join("home", "session.json"), "damaged")
        self.assertOk(self.cli("traces", "list", env=self.key()))
        self.assertEqual(self.server.count("/api/trpc/"), 0)

    def test_commands_that_need_an_account_say_so(self):
        names = {" ".join(line.split()[:size]) for line in NEEDS_ACCOUNT for size in (1, 2)}
        for name, command in twosignal.COMMANDS.items():
            self.assertTrue(name in names or command.takes_key or command.is_offline
                            or name in SESSIONLESS, name)
        env = self.key()
        path = self.write("FILE", '[{"name": "x", "type": "COST"}]')
        for line in NEEDS_ACCOUNT:
            with self.subTest(line=line):
                argv = line.replace("FILE", path).split()
                self.assertFails(self.cli(*argv, env=env, stdin='{"input": 1}'), 4, "login",
                                 "account")
        for line in ("traces get ID", "usage", "projects list", "datasets list"):
            self.assertFails(self.cli(*line.split(), env=env), 4, "account")
        self.assertEqual(self.server.requests, [])

    def test_the_same_without_a_home(self):
        with mock.patch("os.path.expanduser", lambda path: path):
            for line in NEEDS_ACCOUNT[::5]:
                with self.subTest(line=line):
                    result = self.cli(*line.split(), env=dict(self.key(), **NO_ACCOUNT),
                                      stdin='{"input": 1}')
                    self.assertFails(result, 4, "account")

    def test_a_session_is_used_if_a_key_is_not_enough(self):
        self.log_in()
        trace = self.server.add_trace()
        self.assertOk(self.cli("traces", "get", trace, "--project", self.server.project,
                               env=self.key()))

    def test_scores_are_never_omitted_silently(self):
        self.add(2, scores=[{"evaluatorName": "tone", "value": 0.1}])
        env = self.key()
        for line in ("traces check --min-score 0.5", "traces check --min-score tone=0.5",
                     "traces wait --scored", "traces list --fields id,scores.0.score"):
            with self.subTest(line=line):
                self.assertFails(self.cli(*line.split(), env=env), 4, "login", "scores")
        for form in ("json", "jsonl", "csv"):
            result = self.assertOk(self.cli("traces", "list", "--format", form, env=env))
            self.assertEqual(result.err,
                             "Scores are null. A project API key cannot read scores.\n")
            self.assertNotIn("[]", re.sub(r'"tags": \[\]|,\[\]', "", result.out))
            self.assertEqual(len(self.assertOk(self.cli(
                "traces", "list", "--format", form, "--fields", "id,name", env=env)).out
                .replace("[\n", "").splitlines()) >= 2, True)

    def test_scores_that_a_key_cannot_read_are_null(self):
        """So that a loop over them in a script fails, and does not pass."""
        self.add(1, scores=[{"evaluatorName": "tone", "value": 0.1}])
        self.server.add_trace(created=minutes_ago(5), scores=[])
        for envelope in (False, True):
            self.server.rest_envelope = envelope
            found = self.assertOk(self.cli("traces", "list", "--json", env=self.key())).json
            self.assertEqual([row["scores"] for row in found], [None, []])
        self.assertOk(self.cli("traces", "list", "--json", "-q", env=self.key()), err="")
        self.assertIn("scores", self.cli("traces", "list", "--fields", "?", env=self.key()).lines)

    def test_an_unencrypted_key_is_warned_about(self):
        env = self.key()
        with mock.patch.object(twosignal.Client, "rest", lambda client, *rest: {"traces": []}):
            for url, warning in (
                    ("http://example.com", "Warning: http://example.com is unencrypted: others on "
                                           "the network can read the API key.\n"),
                    ("https://example.com", ""), (self.server.url, "")):
                with self.subTest(url=url):
                    self.assertOk(self.cli("traces", "list", env=dict(env, TWOSIGNAL_URL=url)),
                                  err=warning)

    def test_wrong_project(self):
        self.add(2)
        other = self.server.add_project("Other")
        env = self.key()
        for command in ("list", "check --max-p95 9h", "wait"):
            line = ["traces"] + command.split()
            with self.subTest(command=command):
                self.assertFails(self.cli(*line + ["--project", other], env=env), 2, other, "key")
                self.assertFails(self.cli(*line, env=dict(env, TWOSIGNAL_PROJECT=other)), 2,
                                 "TWOSIGNAL_PROJECT")
                self.assertOk(self.cli(*line + ["--project", self.server.project], env=env))
        key = self.server.secret(self.server.add_key(other))
        self.assertEqual(self.cli("traces", "list", "--json", env={"TWOSIGNAL_API_KEY": key}).json,
                         [])

    def revoking(self, key_id, page=1):
        """A server that revokes the key once it has returned so many pages."""
        world, left = self.server.world, [page]
        true = world.page

        def answered(project, given):
            left[0] -= 1
            if left[0] == 0:
                world.change("api_keys", world.store.get("api_keys", key_id),
                             {"revokedAt": world.now()})
            return true(project, given)
        return mock.patch.object(world, "page", answered)

    def test_revoked_half_way(self):
        self.add(250)
        path = self.write("out", "before")
        for line, shown in (("traces list --all --format jsonl", 100),
                            ("traces list --all --json -o " + path, 0),
                            ("traces check --max-p95 9h --json", 0),
                            ("traces check --max-p95 9h", 0), ("traces wait --count 240", 0)):
            key_id = self.server.add_key()
            env = {"TWOSIGNAL_API_KEY": self.server.secret(key_id)}
            with self.subTest(line=line), self.revoking(key_id):
                result = self.cli(*line.split(), env=env)
                self.assertEqual(result.code, 4, result)
                self.assertEqual(len(result.lines), shown)
                self.assertIn("key", result.err)
                self.assertNotIn(env["TWOSIGNAL_API_KEY"], result.err)
                self.assertEqual(len(result.err.splitlines()), 1, result)
        with open(path) as file:
            self.assertEqual(file.read(), "before")

    def test_revoked_while_waiting_or_following(self):
        self.add(1)
        for line in ("traces wait --count 9", "traces tail --format jsonl"):
            key_id = self.server.add_key()
            env = {"TWOSIGNAL_API_KEY": self.server.secret(key_id)}
            with self.subTest(line=line), self.revoking(key_id, 2):
                result = self.cli(*line.split(), env=env)
                self.assertEqual(result.code, 4, result)
                self.assertIn("key is not accepted", result.err)

    def test_refusals(self):
        self.add(1)
        env = self.key()
        for what, code in ((dict(status=401), 4), (dict(status=403), 5), (dict(status=404), 6),
                           (dict(status=429), 7), (dict(status=500), 8), (dict(reset=True), 3),
                           (dict(status=503, body="<html>"), 8), (dict(garbage=b"[]]"), 8),
                           (dict(status=200, body=b'"x"'), 8), (dict(status=404, body="<p>"), 8)):
            self.server.clear()
            self.server.fault("/api/v1/traces", times=None, **what)
            with self.subTest(what=what):
                result = self.cli("traces", "list", env=env)
                self.assertFails(result, code)
                self.assertNotIn(env["TWOSIGNAL_API_KEY"], result.err)

    def test_refusals_of_a_gateway(self):
        """Only the server's own error says something about the key, the password, the session."""
        env = self.key()
        commands = (("/api/v1/traces", ("traces", "list"), env),
                    ("/api/v1/scores", ("scores", "create", "t", "--name", "n", "--value", "1"),
                     env), ("organization.list", ("orgs", "list"), None),
                    ("organization.create", ("orgs", "create", "x"), None),
                    ("auth/login", ("login", "-e", "a@b.c", "--password-stdin"), None))
        self.log_in()
        for path, command, env in commands:
            for status in (401, 403):
                for error in full(GATEWAY_ERRORS[:6:2], GATEWAY_ERRORS) + (
                        "<html>", [], [{"error": "x"}]):
                    body = error if error == "<html>" else json.dumps(error)
                    self.server.clear()
                    self.server.fault(path, times=None, status=status, body=body)
                    with self.subTest(path=path, status=status, body=body):
                        result = self.cli(*command, "--json", env=env, stdin="x")
                        self.assertFails(result, 8, "%d with %s" % (
                            status, "a web page" if body == "<html>" else "JSON"),
                            "gateway", "--header", "--client-cert", "network")
                        self.assertEqual(result.error["code"], "GATEWAY")
                        self.assertEqual(len(self.server.requests), 1)

    def test_other_web_pages(self):
        """nginx, for one, answers 400 if it requires a client certificate; 404: a wrong address."""
        env = self.key()
        for path, command in (("/api/v1/traces", ("traces", "list")),
                              ("/api/v1/scores", ("scores", "create", "t", "--name", "n",
                                                  "--value", "1"))):
            for status, code, part in ((400, "GATEWAY", "--client-cert"),
                                       (405, "GATEWAY", "--header"),
                                       (404, "BAD_ANSWER", "2Signal")):
                self.server.clear()
                self.server.fault(path, times=None, status=status, body="<html>")
                with self.subTest(command=command, status=status):
                    result = self.cli(*command, "--json", env=env)
                    self.assertFails(result, 8, "%d with a web page" % status, part)
                    self.assertEqual(result.error["code"], code)

    def test_refusals_of_the_server(self):
        env = self.key()
        for status, code, part in ((401, 4, "API key is not accepted"),
                                   (403, 5, "Permission denied")):
            for error in ({"code": "UNAUTHORIZED", "message": "no"},
                          {"code": "KEY_REVOKED", "message": None, "new": 1}):
                for body in ({"error": error}, {"data": None, "error": error, "new": 1}):
                    self.server.fault("/api/v1/traces", status=status, body=body)
                    self.assertFails(self.cli("traces", "list", env=env), code, part)

    def test_how_long_to_wait(self):
        """Row 23: a refusal names the time of the next try, for people and for scripts."""
        env = self.key()
        self.log_in()
        for status, code, message in ((429, 7, "Rate limited. "), (503, 8, "failed (503)")):
            for header, value, text, seconds in (
                    ("Retry-After", "3600", "Try again in 60 minutes.", 3600),
                    ("Retry-After", "61", "Try again in 61 seconds.", 61),
                    ("Retry-After", "121", "Try again in 3 minutes.", 121),
                    ("X-RateLimit-Reset", "3000", "Try again in 50 minutes.", 3000),
                    ("Retry-After", "99999", None, None), ("Retry-After", "soon", None, None)):
                if status == 503 and header != "Retry-After":
                    continue
                for path, command, credential in (
                        ("/api/v1/traces", ("traces", "list"), env),
                        ("organization.list", ("orgs", "list"), None),
                        ("auth/login", ("login", "-e", "a@b.c", "--password-stdin"), None)):
                    self.server.clear()
                    self.server.fault(path, times=None, status=status, headers={header: value})
                    with self.subTest(status=status, value=value, path=path):
                        run = functools.partial(self.cli, *command, env=credential, stdin="x")
                        result = self.assertFails(run(), code, message, text or "Error")
                        self.assertEqual("Try again in" in result.err, text is not None)
                        self.assertEqual(run("--json").error.get("retry_after"), seconds)

    def test_whoami(self):
        env = self.key()
        result = self.assertOk(self.cli("whoami", env=env))
        self.assertIn(env["TWOSIGNAL_API_KEY"][:6] + "…\n", result.out)
        self.assertNotIn(env["TWOSIGNAL_API_KEY"], result.out + result.err)
        found = self.assertOk(self.cli("whoami", "--json", env=env)).json
        self.assertEqual((found["email"], found["api_url"]), (None, self.server.url))
        self.assertFails(self.cli("whoami", env={"TWOSIGNAL_API_KEY": "ts_wrong"}), 4, "key",
                         out="API key")
        self.log_in()
        self.assertNotIn("API key", self.assertOk(self.cli("whoami")).out)


class NewScores(KeyCase):
    def setUp(self):
        super().setUp()
        self.trace = self.server.add_trace()
        self.env = self.key()

    def create(self, *args, trace=None, env=None):
        return self.cli("scores", "create", trace or self.trace, *args, env=env or self.env)

    def bodies(self):
        return [request.body for request in requests_of(self.server, "/api/v1/scores")]

    def test_values_are_posted_in_both_dialects(self):
        for envelope in (False, True):
            self.use(rest_envelope=envelope)
            self.trace, self.env = self.server.add_trace(), self.key()
            found = self.assertOk(self.create("--name", "accuracy", "--value", "0.92", "--json"))
            self.assertEqual((found.json["score"], found.json["evaluator"]), (0.92, "accuracy"))
            self.assertOk(self.create("--name", "a b", "--value", "1", "--label", "pass",
                                      "--reasoning", "東京\n-x", "--span", "s-1"))
            self.assertEqual(self.bodies(), [
                {"traceId": self.trace, "evaluatorName": "accuracy", "value": 0.92},
                {"traceId": self.trace, "evaluatorName": "a b", "value": 1, "label": "pass",
                 "reasoning": "東京\n-x", "spanId": "s-1"}])
            self.assertEqual([row["value"] for row in self.server.rows("scores")], [0.92, 1])

    def test_bounds(self):
        for value in ("0", "1", "0.0", "1.0", "1e-3", ".5"):
            with self.subTest(value=value):
                self.assertOk(self.create("--name", "x", "--value", value))
        self.server.clear()
        for value in ("1.7", "-0.1", "1.0000001", "nan", "inf", "", "50%", "x=0.5", "a"):
            with self.subTest(value=value):
                self.assertFails(self.create("--name", "x", "--value=" + value), 2, "--value")
        for args in (("--name", "x"), ("--value", "1"), ("--name", "", "--value", "1")):
            with self.subTest(args=args):
                self.assertFails(self.create(*args), 2)
        self.assertEqual(self.server.requests, [])

    def test_without_a_key(self):
        for logged_in in (False, True):
            if logged_in:
                self.log_in()
            result = self.cli("scores", "create", self.trace, "--name", "x", "--value", "1")
            self.assertFails(result, 4, "TWOSIGNAL_API_KEY")
        self.assertEqual(self.server.requests, [])

    def test_unknown_traces(self):
        other = self.server.add_trace(project=self.server.hidden)
        for trace in ("nowhere", other):
            self.assertFails(self.create("--name", "x", "--value", "1", trace=trace), 6)
        self.assertEqual(self.server.rows("scores"), [])

    def test_a_key_that_is_revoked(self):
        self.assertFails(self.create("--name", "x", "--value", "1",
                                     env={"TWOSIGNAL_API_KEY": "ts_wrong"}), 4, "key")

    def test_is_never_posted_twice(self):
        for what, code, posts in ((dict(reset=True, after=True), 9, 1), (dict(cut=5), 9, 1),
                                  (dict(status=500), 8, 1), (dict(status=503), 8, 1),
                                  (dict(status=400), 1, 1), (dict(status=429), 0, 2)):
            self.server.clear()
            self.server.fault("/api/v1/scores", **what)
            with self.subTest(what=what):
                result = self.create("--name", "x", "--value", "1")
                self.assertEqual((result.code, len(self.bodies())), (code, posts), result)
                self.assertNotIn(self.env["TWOSIGNAL_API_KEY"], result.err)


class RequestLines(ServerCase):
    """Row 33: no argument changes the shape of a request."""

    shared = True
    HOSTILE = ("a\r\nX-Evil: 1", "a\nb", "a b", "\x00", "a\x00b", "\x7f", "%0d%0a",
               "a HTTP/1.1\r\nX-Evil: 1\r\n\r\n", "&batch=1", "?#")
    REFUSED = ("\u2028", "\ud800")      # blank, and not UTF-8

    def test_values(self):
        """Row 33: IDs, names and searches are percent-encoded, or refused before connecting."""
        self.log_in()
        project = self.server.project
        for text in self.HOSTILE + self.REFUSED:
            lines = ((6, ["traces", "get", text, "--project", project]),
                     (6, ["traces", "list", "--project", text]),
                     (0, ["traces", "list", "--project", project, "--search", text]),
                     (6, ["datasets", "get", text, "--project", project]))
            for code, line in lines:
                with self.subTest(line=line):
                    self.server.clear()
                    result = self.cli(*line)
                    self.assertEqual(result.code, 2 if text in self.REFUSED else code, result)
                    self.assertNotIn("Internal error", result.err)
                    if text in self.REFUSED:
                        self.assertEqual(self.server.requests, [])
                    for request in self.server.requests:
                        self.assertIsNone(request.headers.get("X-Evil"))
                        self.assertRegex(request.path, r"\A/api/trpc/[a-zA-Z.,]+\Z")
                        self.assertNotIn("batch", request.query)

    def test_api_key(self):
        """Row 33: a key that would end its header is refused before connecting."""
        self.log_in()
        for key in ("ts_a\r\nX-Evil: 1", "ts a", "ts_\u00e4", "a\nb"):
            with self.subTest(key=key):
                result = self.cli("traces", "list", "--project", self.server.project,
                                  env={"TWOSIGNAL_API_KEY": key})
                self.assertFails(result, 2, "API key")
                self.assertNotIn(key, result.err)
        self.assertEqual(self.server.requests, [])
