"""The section Transport: what is sent, what is retried, and what each failure means."""
import gc
import gzip
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zlib
from unittest import mock
from urllib.parse import urljoin

import twosignal
from servers import (PATIENCE, Listener, Proxy, Scripted, address, answer, certificates, drip,
                     hang_up, header, needs_openssl, read_request, reset, resolved, silence,
                     swallowing, target)
from standin import StandIn
from tools import (PYPY, ROOT, TOKENS, Case, ServerCase, ShortClock, full, measured_command,
                   posix, replaced_environment, run_command)

try:
    import ssl
except ImportError:     # the tests that need it are skipped
    ssl = None


class TransportCase(Case):
    """Requests straight through a Transport, with short pauses and without the machine's proxies.

    `self.naps` lists the pauses between retries, `self.remarks` what is printed.
    """

    def setUp(self):
        super().setUp()
        self.enter(replaced_environment(self.environment))
        self.remarks = []

    def transport(self, timeout=30.0, **access):
        """access: attributes of twosignal.Access, such as ca_cert."""
        transport = twosignal.Transport(timeout, twosignal.Access(**access), self.remarks.append,
                                        clock=ShortClock(self.naps))
        self.addCleanup(transport.close)
        return transport

    def get(self, url, headers=(), **options):
        return self.transport(**options).request("GET", url, headers)

    def post(self, url, **options):
        return self.transport(**options).request("POST", url, {}, {})

    def failure(self, ask, *args, **options):
        with self.assertRaises(twosignal.Failure) as caught:
            ask(*args, **options)
        self.assertNotIn("\n", caught.exception.message + caught.exception.hint)
        return caught.exception


class Bodies(TransportCase):
    def test_a_query_has_none(self):
        with Scripted([answer(LIST)]) as server:
            self.get(server.url)
        request, = server.requests
        self.assertIsNone(header(request, "Content-Type"))
        self.assertTrue(request.endswith(b"\r\n\r\n"))
        self.assertEqual(header(request, "User-Agent"), twosignal.USER_AGENT)

    def test_a_change_is_sent_as_json(self):
        with Scripted([answer(LIST)]) as server:
            self.transport().request("POST", server.url, {}, {"name": "grün"})
        request, = server.requests
        self.assertEqual(header(request, "Content-Type"), "application/json")
        self.assertEqual(json.loads(request.partition(b"\r\n\r\n")[2].decode("ascii")),
                         {"name": "grün"})


class Timeouts(TransportCase):
    def test_dripping_servers(self):
        """Row 18: a byte now and then does not extend a request, wherever it is."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        places = {
            "status line": drip(itertools.repeat(ord("H")), 0.02),
            "headers": drip(itertools.cycle(b"X-A: 1\r\n"), 0.02, head),
            "body": drip(itertools.repeat(32), 0.02, head + b"Content-Length: 100000\r\n\r\n"),
            "chunks": drip(itertools.cycle(b"1\r\n \r\n"), 0.02,
                           head + b"Transfer-Encoding: chunked\r\n\r\n"),
            "continue": drip(itertools.cycle(b"HTTP/1.1 100 Continue\r\n\r\n"), 0.02),
            "early hints": drip(itertools.cycle(b"HTTP/1.1 103 Hints\r\n\r\n"), 0.02),
            "nothing": silence,
        }
        for place, script in places.items():
            with self.subTest(place=place), Scripted([script]) as server:
                failure = self.failure(self.get, server.url, timeout=0.15)
                self.assertEqual((failure.code, failure.exit_code), ("TIMED_OUT", 3))
                self.assertEqual(server.connections, 1)

    def test_option(self):
        """Row 18: --timeout is the limit."""
        with Scripted([silence]) as server:
            result = self.run_cli("login", "-e", "a@b.c", "--password-stdin", "--timeout", "0.2",
                                  "--url", server.url, stdin="secret\n")
        self.assertFails(result, 3, "in time", "--timeout")

    def test_handshake(self):
        """Row 18: a TLS server that never answers the hello."""
        with Scripted([silence]) as server:
            url = server.url.replace("http:", "https:")
            failure = self.failure(self.get, url, timeout=0.15)
        self.assertEqual(failure.code, "TIMED_OUT")


LIST = {"result": {"data": {"json": []}}}
BODY = json.dumps(LIST).encode()
OK = b"HTTP/1.1 200 OK\r\n"


def alive(body=BODY, extra=b"", status=b"200 OK"):
    """The bytes of a response after which the connection stays open."""
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n" % (status, extra, len(body)) + body


def is_no_status_line(data):
    """Whether the start of a response was cut before its status: it does not look like HTTP."""
    return 0 < len(data) < len(b"HTTP/1.1 200")


def in_chunks(body, size=7, trailer=b""):
    """The bytes of a chunked response; the connection stays open."""
    parts = [body[start:start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


class SlowAnswers(TransportCase):
    def test_a_response_that_is_too_slow(self):
        """Row 18: it would be complete in the end, but long after the deadline."""
        wide = b" " * 200
        drips = {
            "status line": drip(b"HTTP/1.1 200 " + b"x" * 200 + b"\r\n" + alive()[len(OK):], 0.01),
            "headers": drip(b"X: " + wide + b"\r\n" + alive()[len(OK):], 0.01, OK),
            "body": drip(wide, 0.01, OK + b"Content-Length: 200\r\n\r\n"),
            "chunks": drip(in_chunks(wide, 10)[len(OK):], 0.01, OK),
        }
        for place, send in drips.items():
            with self.subTest(place=place), Scripted(send) as server:
                failure = self.failure(self.get, server.url, timeout=0.15)
                self.assertEqual((failure.code, server.connections), ("TIMED_OUT", 1))

    def test_a_slow_proxy(self):
        """Row 18: the response to CONNECT counts too."""
        line = b"HTTP/1.1 502 " + b"x" * 200 + b"\r\n\r\n"
        with Scripted(drip(line, 0.01)) as proxy:
            os.environ.update(https_proxy=proxy.url, NO_PROXY="")
            failure = self.failure(self.get, "https://example.com", timeout=0.3)
        self.assertEqual((failure.code, proxy.connections), ("TIMED_OUT", 1))


class CutAnswers(TransportCase):
    BODY = json.dumps({"result": {"data": {"json": [1, 2, 3]}}}).encode()

    def cuts(self, whole, step):
        start = whole.index(b"\r\n\r\n") + 4
        return sorted(set(range(0, len(whole), step)) | {start, start + 1, len(whole) - 1})

    def assertCutFound(self, whole):
        for size in self.cuts(whole, full(9, 1)):
            with self.subTest(size=size), Scripted([whole[:size]]) as server:
                failure = self.failure(self.get, server.url)
                code = "BAD_ANSWER" if is_no_status_line(whole[:size]) else "CONNECTION_FAILED"
                self.assertEqual(failure.code, code)

    def test_content_length(self):
        """Row 19: cut at every byte, with Content-Length."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.BODY)
        self.assertCutFound(head + self.BODY)

    def test_chunked(self):
        """Row 19: cut at every byte, in chunks."""
        half = len(self.BODY) // 2
        parts = [self.BODY[:half], self.BODY[half:]]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        self.assertCutFound(whole)
        with Scripted([whole]) as server:
            self.assertEqual(self.get(server.url).body, self.BODY)

    def test_without_a_length(self):
        """Row 19: without a length, a response that was cut is not valid JSON."""
        with StandIn() as server:
            self.log_in_at(server)
            server.fault("organization.list", times=None,
                         raw=b"HTTP/1.0 200 OK\r\n\r\n" + self.BODY[:-3])
            self.assertFails(self.run_cli("orgs", "list"), 8)

    def log_in_at(self, server):
        session = dict(server.tokens("owner@example.com"), api_url=server.url)
        self.write(os.path.join(self.home, "session.json"), json.dumps(session))
        self.write(os.path.join(self.home, "config.json"), json.dumps({"api_url": server.url}))


class EarlyResponses(TransportCase):
    def test_a_request_that_is_not_read_to_its_end(self):
        """A server may refuse a large body before it has read it, and close the connection."""
        class Refusing(Listener):
            def converse(self, connection):
                connection.recv(1000)
                connection.sendall(answer(b"too large", 413))
                connection.shutdown(socket.SHUT_WR)
        with Refusing() as server:
            body = b" " * (1 << 24)
            response = self.transport().request("POST", server.url + "/x", body=body)
        self.assertEqual((response.status, response.body), (413, b"too large"))


class MemoryBounds(TransportCase):
    def endless(self, block, head):
        def send(connection, request):
            connection.sendall(head)
            try:
                while True:
                    connection.sendall(block)
            except OSError:
                pass
        return send

    def test_memory(self):
        """Row 20: a huge length, endless chunks and endless headers end with a clear error."""
        ok = b"HTTP/1.1 200 OK\r\n"
        block = b"10000\r\n" + b" " * 65536 + b"\r\n"
        scripts = {
            "length": ok + b"Content-Length: 100000000000000\r\n\r\n",
            "chunks": self.endless(block, ok + b"Transfer-Encoding: chunked\r\n\r\n"),
            "no length": self.endless(b" " * 65536, ok + b"\r\n"),
            "headers": self.endless(b"X-A: 1\r\n" * 1000, ok),
            "header line": self.endless(b"x" * 65536, ok + b"X-A: "),
            "status line": self.endless(b"x" * 65536, b""),
            "continue": self.endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, b""),
            "early hints": self.endless(b"HTTP/1.1 103 Hints\r\n\r\n" * 1000, b""),
            "gzip": answer(gzip.compress(b" " * (33 << 20)), 200, [("Content-Encoding", "gzip")]),
        }
        with mock.patch.object(twosignal, "MAX_RESPONSE_BYTES", full(1 << 20, 32 << 20)):
            for name, script in scripts.items():
                with self.subTest(name=name), Scripted([script]) as server:
                    failure = self.failure(self.get, server.url)
                    self.assertEqual(failure.exit_code, 8, failure)
                    self.assertEqual(server.connections, 1)

    @unittest.skipIf(PYPY, "PyPy frees memory when it sees fit")
    @unittest.skipUnless(hasattr(os, "wait4"), "no wait4")
    def test_peak(self):
        """Row 20: less than 200 MB for an endless response."""
        script = self.endless(b"8000\r\n" + b" " * 32768 + b"\r\n",
                              b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with Scripted([script]) as server:
            code = ("import sys; sys.path.insert(0, %r); import twosignal\n"
                    "try: twosignal.Transport(50).request('GET', %r)\n"
                    "except twosignal.Failure as failure: print(failure.code)\n"
                    % (ROOT, server.url))
            result = run_command(measured_command("-c", code), self.environment)
        self.assertEqual(result.out, "BAD_ANSWER\n")
        status, peak = map(float, result.err.split())
        self.assertEqual(status, 0, result)
        self.assertLess(peak, 200)


class WireLimits(TransportCase):
    def test_size_limit(self):
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        connection = twosignal.DeadlineSocket(near)
        with mock.patch.object(twosignal, "MAX_RESPONSE_BYTES", 10):
            connection.begin(time.monotonic() + 20)
        far.sendall(b"x" * 20)
        with self.assertRaises(twosignal.ResponseTooLarge):
            connection.makefile().read(20)

    def test_no_time_left(self):
        with self.assertRaises(socket.timeout):
            twosignal.seconds_left(time.monotonic() - 1)

    def test_host_and_port(self):
        for url, expected in (("http://a", ("a", 80)), ("https://a", ("a", 443)),
                              ("http://a:1", ("a", 1)), ("https://[::1]", ("::1", 443)),
                              ("http://[::1]:8", ("::1", 8)),
                              ("http://127.0.0.1:80", ("127.0.0.1", 80))):
            self.assertEqual(twosignal.origin(url)[1:], expected)


class Retries(ServerCase):
    STATUSES = (400, 401, 403, 404, 408, 409, 413, 429, 500, 501, 502, 503, 504, 505)

    def setUp(self):
        super().setUp()
        self.log_in()

    def test_queries(self):
        """Row 21: at most 3 tries, and only if another one may help."""
        for status in self.STATUSES:
            with self.subTest(status=status):
                self.server.clear()
                self.server.fault("organization.list", times=None, status=status)
                self.assertNotEqual(self.cli("orgs", "list").code, 0)
                tries = 3 if status in twosignal.RETRIED_STATUSES else 2 if status == 401 else 1
                self.assertEqual(self.server.count("organization.list"), tries)

    def test_it_works_in_the_end(self):
        """Row 21: a query that succeeds at the third try has succeeded."""
        for fault in ({"status": 503}, {"reset": True}, {"cut": 5}, {"status": 429}):
            with self.subTest(fault=fault):
                self.server.clear()
                self.server.fault("organization.list", times=2, **fault)
                self.assertOk(self.cli("orgs", "list"))
                self.assertEqual(self.server.count("organization.list"), 3)

    def test_changes(self):
        """Row 22: retried after 429 only: with any other status something may have changed."""
        for status in self.STATUSES:
            with self.subTest(status=status):
                self.server.clear()
                self.server.fault("organization.create", times=None, status=status)
                self.assertNotEqual(self.cli("orgs", "create", "X").code, 0)
                tries = 3 if status == 429 else 2 if status == 401 else 1
                self.assertEqual(self.server.count("organization.create"), tries)

    def test_change_that_was_made(self):
        """Row 22: the server commits, then the response is lost: one row, exit 9, what to do."""
        for fault in ({"reset": True}, {"cut": 3}):
            with self.subTest(fault=fault):
                before = len(self.server.rows("datasets"))
                self.server.fault("dataset.create", times=1, after=True, **fault)
                result = self.cli("datasets", "create", "--project", self.server.project, "-n", "X")
                self.assertFails(result, 9, "unknown", "'twosignal datasets list --project "
                                 + self.server.project)
                self.assertEqual(len(self.server.rows("datasets")), before + 1)

    def test_timeout_of_a_change(self):
        """Row 22: a change without a response in time has an unknown outcome."""
        fault = self.server.fault("dataset.create", times=1, delay=True)
        result = self.cli("datasets", "create", "--project", self.server.project, "-n", "X",
                          "--timeout", "0.3")
        fault.release.set()
        self.assertFails(result, 9, "unknown")

    def test_change_that_did_not_arrive(self):
        """Row 22: refused connections are retried, and are not an unknown outcome."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = "http://127.0.0.1:%d" % unused.getsockname()[1]
        transport = twosignal.Transport(5.0, clock=ShortClock(self.naps))
        tries = []
        open_socket = twosignal.open_socket
        with mock.patch.object(twosignal, "open_socket",
                               lambda *args: tries.append(args) or open_socket(*args)):
            with self.assertRaises(twosignal.Failure) as caught:
                transport.request("POST", url, {}, {})
        self.assertEqual((caught.exception.code, len(tries)), ("CONNECTION_REFUSED", 3))
        self.assertEqual(len(self.naps), 2)

    def test_deadline_covers_all_tries(self):
        """Row 21: there is no pause that would end after --timeout."""
        self.server.fault("organization.list", times=None, status=429,
                          headers={"Retry-After": "30"})
        self.assertFails(self.cli("orgs", "list", "--timeout", "5"), 7, "Rate limited")
        self.assertEqual(self.server.count("organization.list"), 1)


class RetryAfter(TransportCase):
    def test_values(self):
        """Row 23: seconds and dates; bad and negative values are ignored, and more than a day."""
        now = 1800000000.0
        values = {
            "0": 0, "1": 1, " 7 ": 7, "120": 120, "86400": 86400, "86401": None,
            "1800000010": 10, "1800090000": None, "1700000000": None,
            "Fri, 15 Jan 2027 08:00:10 GMT": 10, "Fri, 15 Jan 2027 07:00:00 GMT": 0,
            "-5": None, "1.5": None, "soon": None, "": None, None: None, "1e3": None,
            "99999999999999999999": None, "\u0661": None, "Fri, 99 Jan 2027": None, "NaN": None,
            "Mon, 01 Jan 99999 00:00:00 GMT": None, "Fri, 40 Jan 2027 08:00:00 GMT": None,
            "Fri, 15 Jan 2027 99:00:00 GMT": None, "Fri Jan 15 08:00:10 2027": 10,
            "Fri, 15 Jan 2027 08:00:10 -0000": 10,
        }
        for value, seconds in values.items():
            with self.subTest(value=value):
                headers = {} if value is None else {"Retry-After": value}
                self.assertEqual(self.pause(headers, now), seconds)

    def pause(self, headers, now, status=429):
        clock = ShortClock()
        clock.time = lambda: now
        return twosignal.requested_pause(twosignal.Response(status, headers, b""), clock)

    def test_other_headers(self):
        """Row 23: the reset of the limit counts if it is all that a refusal names."""
        now = 1800000000.5
        for name in ("RateLimit-Reset", "X-RateLimit-Reset"):
            for value, seconds in (("60", 60), ("1800000001", 1), ("1799999999", 0), ("x", None),
                                   ("-1", None), ("1800000001000", None), ("0", 0)):
                with self.subTest(name=name, value=value):
                    self.assertEqual(self.pause({name: value}, now), seconds)
            self.assertEqual(self.pause({name: "60", "Retry-After": "5"}, now), 5)
            for unusable in ("soon", "172800", ""):
                self.assertEqual(self.pause({name: "60", "Retry-After": unusable}, now), 60)
            for status in (200, 500, 503):
                self.assertIsNone(self.pause({name: "60"}, now, status))

    def test_a_reset_that_is_due_is_no_haste(self):
        """Row 21: two tries at once would fail like the first."""
        refusal = answer({}, 429, [("RateLimit-Reset", "1735689600")])
        with Scripted([refusal, refusal, answer({})]) as server:
            self.get(server.url)
        self.assertEqual(len(self.naps), 2)
        self.assertGreater(min(self.naps), 0.05)

    def test_a_date_counts_from_the_date_of_its_response(self):
        """Row 55: this machine's clock has no part in it."""
        date = "Fri, 15 Jan 2027 08:00:{} GMT".format
        refusal = answer({}, 429, [("Retry-After", date("07")), ("Date", date("00"))])
        transport = twosignal.Transport(100.0, clock=ShortClock(self.naps))
        with Scripted([refusal, answer({})]) as server:
            transport.request("GET", server.url)
        self.assertEqual(self.naps, [7])

    def pauses(self, value, timeout=100.0):
        """(final status, pauses) after one 429 with that Retry-After."""
        del self.naps[:]
        refusal = answer({}, 429, [("Retry-After", value)])
        with Scripted([refusal, answer(LIST)]) as server:
            status = self.get(server.url, timeout=timeout).status
        return status, list(self.naps)

    def test_it_is_obeyed(self):
        """Row 23: the pause is as long as the server asks; one over 2 seconds is announced."""
        for value, remarks in (("1", []), ("2", []),
                               ("7", ["Rate limited. Trying again in 7 seconds."])):
            with self.subTest(value=value):
                self.assertEqual(self.pauses(value), (200, [float(value)]))
                self.assertEqual(self.remarks, remarks)

    def test_never_past_the_deadline(self):
        """Row 23: the error comes at once instead."""
        self.assertEqual(self.pauses("7", timeout=5.0), (429, []))
        self.assertEqual(self.pauses("3600"), (429, []))

    def test_nonsense_is_ignored(self):
        """Row 23: the pause is as short as without the header."""
        status, pauses = self.pauses("-1")
        self.assertEqual((status, len(pauses)), (200, 1))
        self.assertLess(pauses[0], 1)

    def test_pauses_differ(self):
        """Row 21: with jitter, so that many clients do not come back together."""
        pauses = set()
        for _ in range(5):
            del self.naps[:]
            with Scripted([answer({}, 503), answer({}, 503), answer(LIST)]) as server:
                self.get(server.url)
            self.assertEqual(len(self.naps), 2)
            pauses.update(self.naps)
        self.assertGreater(len(pauses), 5)


class RetryTable(TransportCase):
    QUERIES = {408: 3, 429: 3, 500: 3, 502: 3, 503: 3, 504: 3}      # tries; one for all others
    CHANGES = {429: 3}

    def test_table(self):
        """Rows 21, 22: how many tries each status gets, counted by the server."""
        for status in (200, 201, 204, 207, 400, 401, 403, 404, 408, 409, 413, 418, 425, 429, 451,
                       500, 501, 502, 503, 504, 505, 507, 511):
            for ask, tries in ((self.get, self.QUERIES), (self.post, self.CHANGES)):
                with self.subTest(status=status, tries=tries):
                    with Scripted(answer(b"", status)) as server:
                        self.assertEqual(ask(server.url).status, status)
                        self.assertEqual(len(server.requests), tries.get(status, 1))

    def test_broken_connections(self):
        """Rows 21, 22: a query is sent three times, a change that may have arrived once."""
        for script in (reset, None, alive()[:20], alive()[:-1]):
            for ask, tries in ((self.get, 3), (self.post, 1)):
                with self.subTest(script=script, tries=tries), Scripted([script]) as server:
                    self.failure(ask, server.url)
                    self.assertEqual(len(server.requests), tries)


class CutChanges(TransportCase):
    def test_answer_of_a_change(self):
        """Rows 19, 22: a response to a change, cut at every byte, is an unknown outcome."""
        for whole in (alive(), in_chunks(BODY, 20)):
            for size in range(0, len(whole), full(5, 1)):
                with self.subTest(size=size), Scripted([whole[:size]]) as server:
                    failure = self.failure(self.post, server.url)
                    self.assertEqual((failure.code, server.connections), ("UNKNOWN_OUTCOME", 1))

    def test_without_a_length(self):
        """Row 19: a response that ends with the connection, cut at every byte."""
        session = {"access_token": "a.b.c", "refresh_token": "r", "expires_at": 4000000000,
                   "user_id": "u", "user_email": "e@example.com", "project_ref": "ref"}
        whole = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY
        for size in range(0, len(whole), full(7, 1)):
            with self.subTest(size=size), Scripted([whole[:size]]) as server:
                self.write("home/session.json", dict(session, api_url=server.url))
                result = self.run_cli("orgs", "list", "--url", server.url)
                is_in_body = size >= whole.index(BODY)
                is_bad = is_in_body or is_no_status_line(whole[:size])
                self.assertEqual(result.code, 8 if is_bad else 3, result)
                self.assertEqual(result.out, "")


class ChangesThatDidNotArrive(ServerCase):
    """Row 22: a change that certainly did not arrive is retried, and made once."""

    def setUp(self):
        super().setUp()
        self.log_in()

    def create(self):
        before = len(self.server.rows("datasets"))
        result = self.cli("datasets", "create", "--project", self.server.project, "-n", "X")
        self.assertOk(result)
        self.assertEqual(len(self.server.rows("datasets")), before + 1)

    def test_limited(self):
        """Row 22: 429 twice, then it is made."""
        self.server.fault("dataset.create", times=2, status=429)
        self.create()
        self.assertEqual(self.server.count("dataset.create"), 3)

    def test_refused_or_not_found(self):
        """Row 22: at first the connection is refused, or the name cannot be resolved."""
        real = socket.getaddrinfo
        for error in (ConnectionRefusedError(111, "refused"), socket.gaierror(-3, "try again")):
            outcomes = [error, error]

            def sometimes(*args, **options):
                if outcomes:
                    raise outcomes.pop()
                return real(*args, **options)
            with self.subTest(error=error), mock.patch("socket.getaddrinfo", sometimes):
                self.create()
            self.assertEqual(outcomes, [])

    def test_limited_forever(self):
        """Row 22: a change that stays rate-limited is sent three times."""
        self.server.fault("dataset.create", times=None, status=429)
        result = self.cli("datasets", "create", "--project", self.server.project, "-n", "X")
        self.assertFails(result, 7, "Rate limited")
        self.assertEqual(self.server.count("dataset.create"), 3)


class TransportFailures(TransportCase):
    """Row 24: whatever the standard library raises is one line and a documented code."""

    NOT_HTTP = [
        b"\r\n", b"\r\n\r\n", b"HTTP/1.1", b"HTTP/1.1 \r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n", b"HTTP/1.1 1000 High\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"220 ftp ready\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46", b"\x00" * 100, b"\xff" * 100, b"{}", b"<html></html>",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ]
    CUT_SHORT = [
        b"", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue\r\n\r\n", reset, hang_up,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    ]
    NOT_THE_PROTOCOL = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n\x1f\x8b\x08",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n: empty\r\n\r\n{}", b"HTTP/1.1 200 OK\r\n folded\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 301 Moved\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe://\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: //\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://a:99999/\r\n\r\n",
        b"HTTP/1.1 511 Portal\r\nContent-Length: 0\r\n\r\n",
    ]
    NO_CREDENTIALS = [b"HTTP/1.1 407 Proxy\r\nContent-Length: 0\r\n\r\n"]

    def test_scripted_responses(self):
        """Row 24: 49 responses on a raw socket, to a query and to a mutation: no traceback."""
        session = {"access_token": "a.b.c", "refresh_token": "v1.r", "expires_at": 4000000000,
                   "user_id": "u", "user_email": "e@example.com", "project_ref": "ref"}
        for scripts, query_code, mutation_code in (
                (self.NOT_HTTP, 8, 9), (self.CUT_SHORT, 3, 9), (self.NOT_THE_PROTOCOL, 8, 8),
                (self.NO_CREDENTIALS, 3, 3)):
            for script in scripts:
                for line, code in ((["orgs", "list"], query_code),
                                   (["orgs", "create", "X"], mutation_code)):
                    with self.subTest(script=script, line=line), Scripted([script]) as server:
                        self.write(os.path.join(self.home, "session.json"),
                                   json.dumps(dict(session, api_url=server.url)))
                        result = self.run_cli(*line, "--url", server.url)
                        self.assertEqual(result.code, code, result)
                        self.assertEqual(len(result.err.splitlines()), 1, result)
                        self.assertNotIn("Internal error", result.err)
                        self.assertEqual(result.out, "")

    def test_codes(self):
        """Row 24: refused, not found, unreachable."""
        def code(error):
            with mock.patch.object(twosignal, "open_socket", side_effect=error):
                return self.failure(self.get, "http://127.0.0.1:9").code
        self.assertEqual(code(ConnectionRefusedError(111, "refused")), "CONNECTION_REFUSED")
        for error in (socket.gaierror(-2, "Name or service not known"),
                      OSError(113, "No route to host"), OSError(101, "Network is unreachable"),
                      ConnectionResetError(104, "reset"), BrokenPipeError(32, "pipe"),
                      PermissionError(13, "denied"), UnicodeError("label too long")):
            with self.subTest(error=error):
                self.assertEqual(code(error), "CONNECTION_FAILED")
        self.assertEqual(code(socket.timeout("timed out")), "TIMED_OUT")

    def test_bugs_are_not_hidden(self):
        with mock.patch.object(twosignal, "open_socket", side_effect=TypeError("a bug")):
            with self.assertRaises(TypeError):
                self.get("http://127.0.0.1:9")

    def test_a_refused_connection_names_the_setting(self):
        """Row 24: the documented words."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = "http://127.0.0.1:%d" % unused.getsockname()[1]
        failure = self.failure(self.get, url)
        self.assertIn("Connection refused", failure.message)
        self.assertIn("--url or TWOSIGNAL_URL", failure.hint)

    def test_a_name_decides_nothing(self):
        """Row 21: a host whose name speaks of certificates, as errors do, is retried like any."""
        local = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
        for host in ("certificate.localhost", "ssl-certificate-verify-failed.localhost"):
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                port = unused.getsockname()[1]
            place = "%s:%d" % (host, port)
            address = [found[:4] + (("127.0.0.1", port),) for found in local]
            for scheme in ("http", "https"):
                for ask in (self.get, self.post):
                    del self.naps[:]
                    with self.subTest(host=host, scheme=scheme, ask=ask.__name__):
                        with mock.patch("socket.getaddrinfo", return_value=address) as resolved:
                            failure = self.failure(ask, "%s://%s/x" % (scheme, place))
                        self.assertEqual((failure.code, failure.message),
                                         ("CONNECTION_REFUSED", "Connection refused by " + place))
                        self.assertEqual((resolved.call_count, len(self.naps)), (3, 2))


class ReusedConnections(ServerCase):
    def setUp(self):
        super().setUp()
        self.log_in()

    def test_one_for_all_pages(self):
        for number in range(40):
            self.server.add_trace(name="t%d" % number, scores=[])
        before = self.server.connections
        with mock.patch.object(twosignal, "PAGE_SIZE", 10):
            self.assertOk(self.cli("traces", "list", "--project", self.server.project, "--all",
                                   "--json"))
        self.assertGreater(len(self.server.requests), 4)
        self.assertEqual(self.server.connections, before + 1)

    def test_a_dead_one_is_replaced(self):
        """A connection that ended since its last use is replaced, which is not a retry."""
        alive = answer(LIST).replace(b"Connection: close", b"Connection: keep-alive")
        with Scripted([alive]) as server:       # it ends each connection after one response
            transport = twosignal.Transport(20.0, clock=ShortClock(self.naps))
            self.addCleanup(transport.close)
            for _ in range(4):
                self.assertEqual(transport.request("GET", server.url).status, 200)
            self.assertEqual((server.connections, self.naps), (4, []))

    def test_a_change_takes_a_new_one(self):
        transport = twosignal.Transport(20.0)
        self.addCleanup(transport.close)
        url = self.server.url + "/api/v1/nope"
        transport.request("GET", url)
        before = self.server.connections
        transport.request("POST", url, {}, {})
        transport.request("POST", url, {}, {})
        self.assertEqual(self.server.connections, before + 2)
        transport.request("GET", url)
        self.assertEqual(self.server.connections, before + 2)

    def test_sockets_are_closed(self):
        opened = []
        open_socket = twosignal.open_socket
        with mock.patch.object(twosignal, "open_socket",
                               lambda *args: opened.append(open_socket(*args)) or opened[-1]):
            self.assertOk(self.cli("orgs", "list"))
            self.assertFails(self.cli("traces", "list", "--project", "nope"), 6)
        self.assertTrue(opened)
        self.assertEqual([sock.fileno() for sock in opened], [-1] * len(opened))


class OneConnectionPerCommand(ServerCase):
    def test_batches_and_pages(self):
        self.log_in()
        for number in range(12):
            self.server.add_trace(name="t%d" % number,
                                  scores=[{"evaluatorName": "quality", "value": 0.9}])
        before = self.server.connections
        with mock.patch.object(twosignal, "PAGE_SIZE", 5):
            result = self.assertOk(self.cli("traces", "list", "--project", self.server.project,
                                            "--all", "--json"))
        self.assertEqual(len(result.json), 17)
        self.assertGreater(len(self.server.requests), 6)
        self.assertEqual(self.server.connections, before + 1)


class Keeping(Listener):
    """Responds to all requests of a connection: the n-th gets the n-th response, then the last.

    A response is bytes or a function (connection, request) that returns True if it has ended the
    connection. .paths has [number of the connection, request target] of each request.
    """

    def __init__(self, *answers, **options):
        super().__init__(**options)
        self.answers, self.paths = answers, []
        self.sent = threading.Semaphore(0)      # released after each response

    def converse(self, connection):
        number = self.connections
        while True:
            request = read_request(connection)
            if not request:
                return
            with self._lock:
                reply = self.answers[min(len(self.requests), len(self.answers) - 1)]
                self.requests.append(request)
                self.paths.append([number, target(request)])
            if callable(reply):
                if reply(connection, request):
                    return
            else:
                connection.sendall(reply)
            self.sent.release()


def then_end(data):
    """A response that does not announce that the connection ends after it."""
    def send(connection, request):
        connection.sendall(data)
        return True
    return send


class KeepAlive(TransportCase):
    def bodies(self, server, count=3):
        transport = self.transport()
        return [transport.request("GET", "%s/%d" % (server.url, number)).body
                for number in range(count)]

    def test_forms_that_keep_it(self):
        forms = {
            "length": alive(), "chunks": in_chunks(BODY),
            "trailer": in_chunks(BODY, trailer=b"X-Sum: 1\r\n"),
            "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + alive(),
            "early hints": alive(extra=b"Keep-Alive: timeout=5, max=100\r\n"),
            "HTTP/1.0": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + alive()[len(OK):],
        }
        for form, data in forms.items():
            with self.subTest(form=form), Keeping(data) as server:
                self.assertEqual(self.bodies(server), [BODY] * 3)
                self.assertEqual(server.paths, [[1, "/0"], [1, "/1"], [1, "/2"]])

    def test_forms_that_end_it(self):
        forms = {
            "close": alive(extra=b"Connection: close\r\n"),
            "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + alive()[len(OK):],
            "no length": OK + b"\r\n" + BODY,
        }
        for form, data in forms.items():
            with self.subTest(form=form), Keeping(then_end(data)) as server:
                self.assertEqual(self.bodies(server), [BODY] * 3)
                self.assertEqual(server.connections, 3)

    def test_responses_without_a_body(self):
        for data in (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n",
                     b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
            with self.subTest(data=data), Keeping(data, alive()) as server:
                self.assertEqual(self.bodies(server, 2), [b"", BODY])
                self.assertEqual(server.connections, 1)

    def test_stray_bytes_are_no_response(self):
        """Row 67: unrequested bytes are not taken for the response to the next request."""
        with Keeping(alive() + alive(b"stray") * 1000, alive(b"2")) as server:
            transport = self.transport()
            self.assertEqual(transport.request("GET", server.url).body, BODY)
            self.assertTrue(server.sent.acquire(timeout=PATIENCE))
            self.assertEqual(transport.request("GET", server.url).body, b"2")

    def test_one_that_ended_unannounced(self):
        """A kept connection that ended is replaced, which is not a retry."""
        for end in (then_end(alive()), alive()):
            with self.subTest(end=end), Keeping(end) as server:
                transport = self.transport()
                for _ in range(3):
                    transport.request("GET", server.url)
                self.assertEqual(self.naps, [])
                self.assertEqual(server.connections, 3 if callable(end) else 1)
                self.assertEqual(len(server.requests), 3)

    def test_one_that_is_reset(self):
        def break_it(connection, request):
            reset(connection, request)
            return True
        with Keeping(alive(), break_it, alive()) as server:
            self.assertEqual(self.bodies(server, 2), [BODY, BODY])
            self.assertEqual(server.paths, [[1, "/0"], [1, "/1"], [2, "/1"]])

    def test_a_cut_response_on_it(self):
        """Row 19: if a kept connection dies within a response, the request is repeated."""
        with Keeping(alive(), then_end(alive()[:-5]), alive()) as server:
            self.assertEqual(self.bodies(server, 2), [BODY, BODY])
            self.assertEqual(server.paths, [[1, "/0"], [1, "/1"], [2, "/1"]])

    def test_not_for_another_place(self):
        with Keeping(alive()) as one, Keeping(alive(b"2")) as two:
            transport = self.transport()
            got = [transport.request("GET", url).body
                   for url in (one.url, two.url, one.url)]
            self.assertEqual(got, [BODY, b"2", BODY])
            self.assertEqual((one.connections, two.connections), (2, 1))

    def test_a_change_takes_a_new_one(self):
        """Row 22: over a kept connection that dies, nobody could tell whether it arrived."""
        with Keeping(alive()) as server:
            transport = self.transport()
            transport.request("GET", server.url + "/q")
            transport.request("POST", server.url + "/c", {}, {})
            transport.request("GET", server.url + "/q")
            self.assertEqual(server.paths, [[1, "/q"], [2, "/c"], [2, "/q"]])

    @needs_openssl
    def test_within_tls(self):
        made = certificates(self.folder)
        with Keeping(alive(), alive(), then_end(alive()), alive(), tls=made.good) as server:
            transport = self.transport(ca_cert=made.ca)
            got = [transport.request("GET", server.url).body for _ in range(4)]
            self.assertEqual(got, [BODY] * 4)
            self.assertEqual([number for number, _ in server.paths], [1, 1, 1, 2])

    @needs_openssl
    def test_stray_bytes_within_tls(self):
        """Row 67: stray bytes that TLS has decrypted already are no response either."""
        made = certificates(self.folder)
        first = alive(b" " * 8000)
        first = alive(b" " * (8000 + 8192 - len(first)))
        self.assertEqual(len(first), 8192)          # as much as is read at once
        with Keeping(first + alive(b"stray"), alive(b"2"), tls=made.good) as server:
            transport = self.transport(ca_cert=made.ca)
            transport.request("GET", server.url)
            self.assertEqual(transport.request("GET", server.url).body, b"2")

    def test_surplus_bytes(self):
        """Row 67: what was read along with a response is not the next one, nor is it dropped."""
        stray = alive(b"stray")
        bodiless = (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n")
        for first in (alive(), in_chunks(BODY), alive(b""), alive(b" " * 99999),
                      in_chunks(b" " * 30000), in_chunks(BODY, trailer=b"X-Sum: 1\r\n")) + bodiless:
            for surplus in (stray, stray * 3, b"\r\n", b"0", BODY):
                self.assertNextIsItsOwn(first + surplus)

    def assertNextIsItsOwn(self, first, **tls):
        """After it, a connection is not used again."""
        access = {"ca_cert": certificates(self.folder).ca} if tls else {}
        with self.subTest(first=first[-300:], **tls):
            with Keeping(first, alive(b"2"), **tls) as server:
                transport = self.transport(3, **access)
                transport.request("GET", server.url)
                self.assertEqual(transport.request("GET", server.url).body, b"2")
                self.assertEqual(server.connections, 2)

    @needs_openssl
    def test_surplus_bytes_within_tls(self):
        """Row 67: also if they are in one TLS record with the response, whatever its length."""
        made = certificates(self.folder)
        for size in (100, 8191, 8192, 8193, 16000, 16384, 24576, 65536):
            head = len(alive(b" " * size)) - size
            for first in (alive(b" " * (size - head)), in_chunks(b" " * size)):
                self.assertNextIsItsOwn(first + alive(b"stray"), tls=made.good)

    def test_ends_in_doubt(self):
        """Row 67: a response that may be read in two ways is the last on its connection."""
        chunks = in_chunks(BODY).partition(b"\r\n\r\n")[2]
        length = b"Content-Length: %d\r\n" % len(chunks)
        for head in (length + b"Transfer-Encoding: chunked\r\n",
                     length + length, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
                     length + b"Transfer-Encoding: chunked, identity\r\n"):
            self.assertNextIsItsOwn(OK + head + b"\r\n" + chunks)
        for status in (b"204 No Content", b"304 Not Modified"):
            for head in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
                self.assertNextIsItsOwn(b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n")

    def test_sizes_that_are_none(self):
        """Row 67: alike on every Python; a change is not repeated."""
        for size in (b"-2", b"+2", b"0x2", b"0_2", b"2_", b"", b"2 2", b"2;\r2", b"\xb2",
                     b"0" * 40 + b"2", b"f" * 40, b"2:2", b"-2:2"):
            data = b"Content-Length: %s\r\n\r\n{}" % (size or b"2\r\nContent-Length: 3")
            with self.subTest(data=data), Keeping(OK + data) as server:
                transport = self.transport(3)
                for method in ("GET", "POST"):
                    with self.assertRaises(twosignal.Failure):
                        transport.request(method, server.url)
                posts = [each for each in server.requests if each.startswith(b"POST")]
                self.assertEqual(len(posts), 1)
                self.assertEqual(server.connections, len(server.requests))

    @needs_openssl
    def test_within_a_tunnel(self):
        """Row 27: one tunnel for all requests; the proxy's password stays with the proxy."""
        made = certificates(self.folder)
        with Keeping(alive(), tls=made.good) as server, Proxy("user", "word") as proxy:
            os.environ.update(https_proxy="http://user:word@" + proxy.url[7:], NO_PROXY="")
            transport = self.transport(ca_cert=made.ca)
            for _ in range(3):
                transport.request("GET", server.url)
            self.assertEqual((len(proxy.seen), server.connections), (1, 1))
            self.assertIsNotNone(proxy.authorizations[0])
            for request in server.requests:
                self.assertIsNone(header(request, "Proxy-Authorization"))

    def test_each_request_has_its_own_deadline(self):
        """Row 18: a kept connection has the deadline of the request that uses it."""
        with Keeping(alive(), drip(b"H" * 300, 0.02)) as server:
            transport = self.transport()
            transport.request("GET", server.url)
            transport.timeout = 0.3
            failure = self.failure(transport.request, "GET", server.url)
            self.assertEqual((failure.code, server.connections), ("TIMED_OUT", 1))


class Redirects(TransportCase):
    STATUSES = (301, 302, 303, 307, 308)

    def redirect(self, location, status=302):
        return answer(b"", status, [("Location", location)])

    def test_no_credential_leaves_the_origin(self):
        """Row 29: each status, each change of origin, GET and POST: nothing arrives there."""
        for status in self.STATUSES:
            with Scripted([answer(LIST)]) as other:
                changes = {
                    "port": other.url + "/x", "host": other.url.replace("127.0.0.1", "localhost"),
                    "scheme": other.url.replace("http:", "https:"), "relative": other.url[5:],
                }
                for name, location in changes.items():
                    for method, body in (("GET", None), ("POST", {})):
                        with self.subTest(status=status, change=name, method=method):
                            with Scripted([self.redirect(location, status)]) as server:
                                transport = self.transport()
                                failure = self.failure(
                                    transport.request, method, server.url + "/a",
                                    {"Cookie": "canary", "Authorization": "Bearer canary"}, body)
                            self.assertEqual(failure.exit_code, 8)
                            self.assertEqual(len(server.requests), 1)
                self.assertEqual(other.connections, 0)

    def test_same_origin(self):
        """Row 29: a redirect of a GET within the origin is followed, with its cookie."""
        for status in self.STATUSES:
            for location in ("/b?x=1", "b?x=1", None):
                with self.subTest(status=status, location=location):
                    places = {}

                    def first(connection, request):
                        connection.sendall(self.redirect(location or places["url"], status))

                    with Scripted([first, answer(LIST)]) as server:
                        places["url"] = server.url + "/b?x=1"
                        transport = self.transport()
                        got = transport.request("GET", server.url + "/a", {"Cookie": "c=1"})
                    self.assertEqual(got.status, 200)
                    self.assertEqual(target(server.requests[1]), "/b?x=1")
                    self.assertEqual(header(server.requests[1], "Cookie"), "c=1")

    def test_a_change_is_never_redirected(self):
        """Row 29: not even within the origin, and it never turns into a GET."""
        for status in self.STATUSES:
            with self.subTest(status=status), Scripted([self.redirect("/b", status)]) as server:
                self.failure(self.post, server.url + "/a")
                self.assertEqual([request[:4] for request in server.requests], [b"POST"])

    def test_at_most_five(self):
        """Row 29: more are taken for a circle."""
        with Scripted([self.redirect("/a")]) as server:
            failure = self.failure(self.get, server.url + "/a")
        self.assertEqual(len(server.requests), 1 + twosignal.MAX_REDIRECTS)
        self.assertIn("circles", failure.message)
        self.assertEqual(twosignal.MAX_REDIRECTS, 5)

    def test_password_of_a_login(self):
        """Row 29: a redirected login sends its password nowhere else."""
        with Scripted([answer({})]) as other:
            with Scripted([self.redirect(other.url + "/api/v1/auth/login", 307)]) as server:
                result = self.run_cli("login", "-e", "a@b.c", "--password-stdin", "--url",
                                      server.url, stdin="secret-canary\n")
            self.assertFails(result, 8, "redirects", other.url)
            self.assertEqual(other.connections, 0)


class RedirectAdvice(TransportCase):
    """What is advised if a request is not sent to where its server redirects it."""

    CALL = "/api/v1/auth/login"

    def failure_of(self, base, location, call=CALL):
        url = "http://h.example" + base + call
        return twosignal.redirected(url, urljoin(url, location))

    def assertAdvised(self, failure, address):
        self.assertEqual((failure.code, failure.exit_code, failure.is_retryable, failure.message),
                         ("REDIRECTED", 8, False, "The server redirects to " + address))
        self.assertEqual(failure.hint, "If that is right, use --url %s." % address)

    def test_base_path_stays(self):
        """The advised address is the target without the path that was asked for."""
        for base, location, advised in (
                ("/2signal", "https://h.example/2signal{}", "https://h.example/2signal"),
                ("", "https://h.example{}", "https://h.example"),
                ("", "https://h.example{}/?x=1#y", "https://h.example"),
                ("", "https://H.example:443{}", "https://h.example"),
                ("", "/2signal{}", "http://h.example/2signal"),
                ("/old", "https://new.example:8443/a/b{}", "https://new.example:8443/a/b"),
                ("/api/x", "https://h.example/api/x{}", "https://h.example/api/x"),
                ("", "//www.example{}", "http://www.example")):
            with self.subTest(base=base, location=location):
                self.assertAdvised(self.failure_of(base, location.format(self.CALL)), advised)

    def test_queries(self):
        failure = self.failure_of("/2signal", "https://h.example/2signal/api/trpc/trace.list"
                                  "?input=%7B%7D", "/api/trpc/trace.list?input=%7B%7D")
        self.assertAdvised(failure, "https://h.example/2signal")

    def test_address_in_use_is_not_advised(self):
        """A slash at the end, for example: only the operator can do something about it."""
        for base in ("", "/2signal"):
            for location in ("http://h.example{}/", "http://h.example{}", "{}/", "{}?a=b",
                             "http://h.example:80{}/"):
                failure = self.failure_of(base, location.format(base + self.CALL))
                with self.subTest(base=base, location=location):
                    self.assertEqual((failure.code, failure.exit_code), ("REDIRECTED", 8))
                    self.assertIn("redirects to http://h.example", failure.message)
                    self.assertIn(base + self.CALL, failure.message)
                    self.assertIn("whoever runs the server", failure.hint)
                    self.assertNotIn("--url", failure.hint)

    def test_login_page_of_a_gateway(self):
        """What is not the path that was asked for is a page, not an address to use."""
        for location in ("https://sso.example/login?rd=http://h.example" + self.CALL,
                         "https://sso.example/", "https://sso.example", "/login", "/oauth2/start",
                         "https://sso.example" + self.CALL + "/more",
                         "https://user:secret@h.example" + self.CALL):
            failure = self.failure_of("", location)
            with self.subTest(location=location):
                self.assertEqual((failure.code, failure.exit_code), ("REDIRECTED", 8))
                self.assertIn("gateway", failure.hint)
                self.assertIn("--header", failure.hint)
                self.assertIn("--client-cert", failure.hint)
                self.assertNotIn("--url", failure.hint)


    def test_login(self):
        """Over a connection: a proxy that adds a slash, moves the server, or wants a login."""
        for location, parts in (
                ("{url}/x/api/v1/auth/login/", ["{url}/x/api/v1/auth/login/", "operator"]),
                ("{url}/y/api/v1/auth/login", ["--url {url}/y."]),
                ("/login?next=%2Fx", ["redirects to {url}", "--header"])):
            def move(connection, request):
                connection.sendall(answer(b"", 308, [("Location", location.format(url=url))]))
            with Scripted([move]) as server:
                url = server.url
                result = self.run_cli("login", "-e", "a@b.c", "--password-stdin", "--url",
                                      url + "/x", stdin="secret\n")
                self.assertFails(result, 8, *[part.format(url=url) for part in parts
                                              if part != "operator"])
                self.assertEqual("whoever runs the server" in result.err, "operator" in parts)
                self.assertEqual(len(server.requests), 1)


STATUSES = (301, 302, 303, 307, 308)


class OtherOrigins(TransportCase):
    def test_each_part_of_the_origin(self):
        """Row 29: another scheme, host or port is another origin, which gets no request."""
        def places(port, other):
            return {"port": "http://127.0.0.1:%d/x" % other,
                    "host": "http://localhost:%d/x" % port,
                    "scheme": "https://127.0.0.1:%d/x" % port,
                    "no scheme": "//localhost:%d/x" % port}
        for status in STATUSES:
            for method in ("GET", "POST"):
                for part in ("port", "host", "scheme", "no scheme"):
                    with self.subTest(status=status, method=method, part=part):
                        self.leaks(places, part, status, method)

    def leaks(self, places, part, status, method):
        def send(connection, request):
            location = places(server.port, other.port)[part]
            connection.sendall(answer(b"", status, [("Location", location)]))
        with Scripted([alive()]) as other, Scripted([send, alive()]) as server:
            headers = {"Cookie": "canary", "Authorization": "Bearer canary"}
            failure = self.failure(self.transport(5.0).request, method, server.url + "/a", headers,
                                   None if method == "GET" else {})
            self.assertEqual(failure.exit_code, 8)
            self.assertIn("redirects to", failure.message)
            self.assertEqual((server.connections, other.connections), (1, 0))

    def test_five_are_followed(self):
        """Row 29: five redirects, and no sixth."""
        for count, works in ((5, True), (6, False)):
            moved = [answer(b"", 302, [("Location", "/%d" % number)]) for number in range(count)]
            with self.subTest(count=count), Scripted(moved + [alive()]) as server:
                if works:
                    self.assertEqual(self.get(server.url).body, BODY)
                else:
                    self.failure(self.get, server.url)
                self.assertEqual(len(server.requests), 6)

    def test_odd_locations(self):
        """Rows 29, 33: no Location changes a request or leaks anything."""
        for location in ("/a b", "/a\tb", "/\xe4", "/a\r\n X-Evil: 1", "?x=\x01", "#part", "\\\\b",
                         "HTTP://127.0.0.1:%d/c", "//127.0.0.1:%d/d", "/%%0d%%0aX-Evil: 1"):
            with self.subTest(location=location):
                def send(connection, request):
                    place = location % server.port if "%d" in location else location
                    connection.sendall(answer(b"", 302, [("Location", place)]).replace(
                        "\xe4".encode("utf-8"), b"\xe4"))
                with Scripted([send, alive()]) as server:
                    self.assertEqual(self.get(server.url + "/a", {"Cookie": "c=1"}).body, BODY)
                    self.assertIsNone(header(server.requests[1], "X-Evil"))
                    self.assertEqual(header(server.requests[1], "Cookie"), "c=1")
                    self.assertNotIn(" ", target(server.requests[1]))
                    self.assertTrue(server.requests[1].split(b"\r\n")[0].endswith(b" HTTP/1.1"))

    def test_other_schemes(self):
        """Row 29: a redirect opens no file and no other program."""
        secret = self.write("secret.txt", "canary")
        for place in ("file://" + secret, "ftp://127.0.0.1/", "data:,canary", "javascript:x",
                      "ws://127.0.0.1/"):
            with self.subTest(place=place):
                with Scripted([answer(b"", 302, [("Location", place)]), alive()]) as server:
                    self.assertEqual(self.failure(self.get, server.url).exit_code, 8)
                    self.assertEqual(server.connections, 1)


class RequestShapes(TransportCase):
    def test_nothing_in_an_id_changes_the_request(self):
        """Row 33: CR, LF, NUL and blanks are percent-encoded."""
        with StandIn() as server:
            session = dict(server.tokens("owner@example.com"), api_url=server.url)
            self.write(os.path.join(self.home, "session.json"), json.dumps(session))
            for text in ("a\r\nX-Evil: 1", "a b", "a\nGET / HTTP/1.1\r\n\r\n", "a#b?c&d", "\x7f",
                         "a/../b", "%0d%0a"):
                with self.subTest(text=text):
                    server.clear()
                    result = self.run_cli("traces", "get", text, "--project", server.project,
                                          "--url", server.url)
                    self.assertFails(result, 6)
                    self.assertIsNone(server.requests[-1].headers.get("X-Evil"))
                    self.assertTrue(all(request.path == "/api/trpc/trace.getById"
                                        for request in server.requests))

    def test_tokens_that_would_change_a_header(self):
        """Row 33: a session with such a token is damaged; nothing is sent."""
        with Scripted([answer(LIST)]) as server:
            for token in ("a\r\nX-Evil: 1", "a b", "a\x00b", "a\nb", ""):
                session = {"access_token": token, "refresh_token": "r", "expires_at": 4000000000,
                           "user_id": "u", "user_email": "e", "project_ref": "ref",
                           "api_url": server.url}
                self.write(os.path.join(self.home, "session.json"), json.dumps(session))
                self.assertFails(self.run_cli("orgs", "list", "--url", server.url), 1, "damaged")
            self.assertEqual(server.connections, 0)

    def test_addresses_that_would_change_a_request(self):
        """Row 33: refused before anything connects."""
        with mock.patch.object(twosignal, "open_socket", side_effect=AssertionError("connected")):
            for url in ("http://a b", "http://a\r\nb", "http://a/\x00", "http://a/\tb", "http://a?b",
                        "http://a#b", "http://u:p@a", "http://a\\b"):
                with self.subTest(url=url):
                    self.assertFails(self.run_cli("orgs", "list", "--url", url), 2, "--url")

    def test_host_header(self):
        with Scripted([answer(LIST)]) as server:
            self.get(server.url + "/x")
        self.assertEqual(header(server.requests[0], "Host"), server.url[7:])
        self.assertEqual(header(server.requests[0], "Accept-Encoding"), "identity")

    @unittest.skipUnless(socket.has_ipv6, "no IPv6")
    def test_ipv6(self):
        listener = socket.socket(socket.AF_INET6)
        self.addCleanup(listener.close)
        try:
            listener.bind(("::1", 0))
        except OSError:
            self.skipTest("no ::1 here")
        listener.listen(1)

        def serve():
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(answer(LIST))
            connection.close()
        thread = threading.Thread(target=serve)
        thread.start()
        self.assertEqual(self.get("http://[::1]:%d/x" % listener.getsockname()[1]).status, 200)
        thread.join()


class HostAddresses(TransportCase):
    def test_ipv6_through_the_command(self):
        """An address like http://[::1]:8080 works, and its Host header keeps the brackets."""
        with socket.socket(socket.AF_INET6) as listener:
            try:
                listener.bind(("::1", 0))
            except OSError:
                self.skipTest("no ::1 here")
            listener.listen(1)
            got = []

            def serve():
                connection, _ = listener.accept()
                with connection:
                    got.append(read_request(connection))
                    connection.sendall(answer({}, 418))
            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            url = "http://[::1]:%d" % listener.getsockname()[1]
            self.assertEqual(self.get(url + "/x").status, 418)
            thread.join(PATIENCE)
        self.assertEqual(header(got[0], "Host"), url[7:])


class Addresses(TransportCase):
    NO_FAMILY = 99          # no socket can have it

    def setUp(self):
        super().setUp()
        unused = self.enter(socket.socket())
        unused.bind(("127.0.0.1", 0))
        self.refusing = address(unused.getsockname()[1])
        self.opened = []
        checked = twosignal.checked
        self.enter(mock.patch.object(twosignal, "checked", lambda sock, code: (
            self.opened.append(sock) or checked(sock, code))))

    def assertAllClosed(self):
        self.assertTrue(self.opened)
        self.assertEqual({sock.fileno() for sock in self.opened}, {-1})

    def test_one_that_does_not_react(self):
        """Row 45: the next address is tried soon; the connection that lost is closed."""
        with swallowing() as dead, Scripted([alive()]) as server:
            with resolved(address(dead), address(dead), address(server.port)):
                transport = self.transport(20.0)
                for method in ("GET", "POST"):
                    response = transport.request(method, "http://example.test/x")
                    self.assertEqual(response.body, BODY)
        transport.close()
        self.assertEqual((self.naps, server.connections), ([], 2))
        self.assertAllClosed()

    def test_those_of_a_proxy(self):
        """Row 45: the addresses of a proxy too."""
        with swallowing() as dead, Scripted([alive()]) as proxy:
            os.environ.update(http_proxy="http://proxy.test", NO_PROXY="")
            with resolved(address(dead), address(proxy.port)):
                self.assertEqual(self.get("http://example.test/x", timeout=20.0).body, BODY)
        self.assertEqual(target(proxy.requests[0]), "http://example.test/x")

    def test_one_that_fails(self):
        """Row 45: the next address is tried at once."""
        with Scripted([alive()]) as server, mock.patch.object(twosignal, "CONNECT_DELAY", 60):
            for first in (self.refusing, address(1, self.NO_FAMILY)):
                with resolved(first, address(server.port)):
                    self.assertEqual(self.post("http://example.test/x", timeout=20.0).body, BODY)
        self.assertEqual(self.naps, [])

    def test_none_that_reacts(self):
        """Rows 18, 45: all of it ends at the deadline, and leaves no connection behind."""
        with swallowing() as dead, resolved(address(dead), address(dead)):
            failure = self.failure(self.get, "http://example.test/x", timeout=0.4)
        self.assertEqual(failure.code, "TIMED_OUT")
        self.assertAllClosed()

    def test_families_take_turns(self):
        """Row 45: a dead network has many addresses, too."""
        class Counting(socket.socket):
            def __init__(self, family, *args):
                families.append(family)
                raise OSError(97, "Address family not supported by protocol")
        four, six = socket.AF_INET, socket.AF_INET6
        families = []
        with mock.patch("socket.socket", Counting), resolved(*[
                address(1, family) for family in (six, six, six, four, four)]):
            self.failure(self.get, "http://example.test/x")
        self.assertEqual(families[:5], [six, four, six, four, six])

    def test_the_most_telling_failure(self):
        """Row 24: a refused connection says more than an address that this machine cannot use."""
        unusable = address(1, self.NO_FAMILY)
        for addresses in ((self.refusing, unusable), (unusable, self.refusing)):
            with resolved(*addresses):
                failure = self.failure(self.get, "http://example.test/x")
            self.assertEqual((failure.code, failure.message),
                             ("CONNECTION_REFUSED", "Connection refused by example.test"))
        with resolved():
            self.assertEqual(self.failure(self.get, "http://example.test/").code,
                             "CONNECTION_FAILED")

    @unittest.skipUnless(hasattr(os, "fork"), "file numbers are no small integers there")
    def test_large_file_numbers(self):
        """select() cannot take a file number above 1,023."""
        import resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 2000:
            self.skipTest("not enough files")
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
        with Keeping(alive()) as server, open(os.devnull) as file:
            while True:
                copy = os.dup(file.fileno())
                self.addCleanup(os.close, copy)
                if copy > 1023:
                    break
            transport = self.transport()
            for _ in range(2):
                self.assertEqual(transport.request("GET", server.url).body, BODY)
            self.assertEqual(server.connections, 1)


LOOK_UP = """
import os, signal, socket, sys, threading
sys.path.insert(0, sys.argv.pop(1))
import twosignal
signals = {signal.SIGINT, signal.SIGTERM}
def hang(*args, **options):
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    os.write(1, b"looking up\\n")
    threading.Event().wait()
socket.getaddrinfo = hang
if hasattr(signal, "pthread_sigmask"):      # this thread takes no signal, so none ends its waits
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
sys.exit(twosignal.main())
"""


class NameLookups(TransportCase):
    """A resolver may take longer than any --timeout."""

    def test_deadline(self):
        """Rows 18, 45: the lookup counts, of the server's name and of a proxy's."""
        found = threading.Event()
        self.addCleanup(found.set)
        for proxies in ({}, {"http_proxy": "http://proxy.test:1", "NO_PROXY": ""}):
            os.environ.update(proxies)
            with mock.patch("socket.getaddrinfo", lambda *args: found.wait(PATIENCE) and []):
                failure = self.failure(self.get, "http://example.test/x", timeout=0.2)
            self.assertEqual(failure.code, "TIMED_OUT")

    def test_its_errors(self):
        """Row 24: they are told as before, though a thread meets them."""
        with mock.patch("socket.getaddrinfo", side_effect=socket.gaierror(-2, "not known")):
            failure = self.failure(self.get, "http://example.test/x")
            self.assertEqual(failure.message, "Cannot resolve the name of example.test")
            os.environ.update(http_proxy="http://proxy.test:1", NO_PROXY="")
            failure = self.failure(self.get, "http://example.test/x")
            self.assertEqual(failure.message, "Cannot resolve the name of the proxy proxy.test:1")

    def process(self, *options):
        self.write("home/session.json", dict(TOKENS, api_url="http://example.test"))
        process = subprocess.Popen(
            [sys.executable, "-c", LOOK_UP, ROOT, "orgs", "list", *options],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"looking up\n")
        return process

    def test_a_process_ends(self):
        """Row 45: it does not wait for a lookup that it has given up."""
        process = self.process("--timeout", "0.3", "--url", "http://example.test")
        _, err = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, err.count(b"\n")), (3, 1), err)

    @posix
    def test_signals(self):
        """Row 45: a lookup is interrupted, also by a signal that came just before its wait."""
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.process("--url", "http://example.test", "--timeout", "1h")
            process.send_signal(number)
            process.communicate(timeout=PATIENCE)
            shown = process.returncode if process.returncode > 0 else 128 - process.returncode
            self.assertEqual(shown, 128 + number)


class InterimResponses(TransportCase):
    def test_they_are_skipped(self):
        """Row 67: any response 1xx but 101 is followed by another, which counts."""
        interim = b"".join(b"HTTP/1.1 %d Soon\r\nLink: </a>\r\nContent-Length: 5\r\n\r\n" % status
                           for status in (100, 103, 102, 102, 100, 199))
        with Keeping(interim + alive(b"1"), interim + alive(b"2"), alive(b"3")) as server:
            transport = self.transport()
            for body in (b"1", b"2", b"3"):
                response = transport.request("GET", server.url)
                self.assertEqual((response.status, response.body), (200, body))
                self.assertIsNone(response.headers.get("Link"))
            self.assertEqual(server.connections, 1)

    def test_one_that_comes_early(self):
        """Row 67: the connection waits for the response; that does not become the next one's."""
        def hints_first(connection, request):
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            connection.sendall(alive(b"first"))
        with Keeping(hints_first, alive(b"second")) as server:
            transport = self.transport()
            bodies = [transport.request("GET", server.url).body for _ in range(2)]
        self.assertEqual(bodies, [b"first", b"second"])

    def test_nothing_else_comes(self):
        """Row 19: an interim response is not the response."""
        for data in (b"HTTP/1.1 103 Hints\r\n\r\n", b"HTTP/1.1 102 Wait\r\n\r\n" * 3):
            with Scripted([data]) as server:
                self.assertEqual(self.failure(self.get, server.url).code, "CONNECTION_FAILED")

    def test_too_many(self):
        """Row 20: there is an end to them, long before the limit for bytes."""
        hint = b"HTTP/1.1 103 Hints\r\n\r\n"
        with Scripted([hint * 20 + alive(b"1"), hint * 3000 + alive(b"2")]) as server:
            self.assertEqual(self.get(server.url).body, b"1")
            self.assertEqual(self.failure(self.get, server.url).code, "BAD_ANSWER")

    def test_another_protocol(self):
        """Row 67: a connection that speaks another protocol from now on is not used again."""
        with Keeping(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\n\r\n", alive()) as server:
            transport = self.transport()
            self.assertEqual(transport.request("GET", server.url).status, 101)
            self.assertEqual(transport.request("GET", server.url).body, BODY)
            self.assertEqual(server.connections, 2)


class Interruptions(TransportCase):
    @unittest.skipUnless(hasattr(sys, "unraisablehook"), "from Python 3.8 on")
    def test_before_the_response_is_read(self):
        """A signal that arrives as http.client begins with the response leaves no complaint."""
        complaints = []
        with Scripted(answer(LIST)) as server, \
                mock.patch.object(sys, "unraisablehook", complaints.append), \
                mock.patch.object(twosignal.DeadlineSocket, "makefile",
                                  side_effect=KeyboardInterrupt):
            with self.assertRaises(KeyboardInterrupt):
                self.get(server.url)
            gc.collect()
        self.assertEqual(complaints, [])


class Encodings(TransportCase):
    """Row 25: compressed responses, which nobody asked for."""

    def encoded(self, encoding, body, status=b"200 OK"):
        headers = b"Content-Type: text/html\r\nContent-Encoding: %s\r\n" % encoding
        return alive(body, headers, status)

    def test_they_are_decompressed(self):
        """Row 25: gzip and deflate are."""
        text = BODY * 1000
        for encoding, body in ((b"gzip", gzip.compress(text)), (b"x-gzip", gzip.compress(text)),
                               (b" GZip ", gzip.compress(text)), (b"deflate", zlib.compress(text)),
                               (b"identity", text)):
            with self.subTest(encoding=encoding), Keeping(self.encoded(encoding, body)) as server:
                transport = self.transport()
                for _ in range(2):
                    got = transport.request("GET", server.url)
                    self.assertEqual(got.body, text)
                self.assertEqual(server.connections, 1)

    def test_without_zlib(self):
        """A Python without zlib reads what is not compressed."""
        with mock.patch.dict(sys.modules, zlib=None), Scripted([answer(LIST)]) as server:
            self.assertEqual(self.get(server.url).status, 200)

    def test_nothing_to_decompress(self):
        """Row 25: a response without a body may have the header."""
        for status in (b"204 No Content", b"200 OK"):
            with Scripted([self.encoded(b"gzip", b"", status)]) as server:
                self.assertEqual(self.get(server.url).body, b"")

    def test_in_chunks(self):
        """Row 25: whatever the framing; cut at any byte it is no response."""
        body = gzip.compress(BODY)
        whole = in_chunks(body).replace(OK, OK + b"Content-Encoding: gzip\r\n", 1)
        with Scripted([whole]) as server:
            self.assertEqual(self.get(server.url).body, BODY)
        for size in range(whole.index(b"\r\n\r\n") + 4, len(whole), full(9, 1)):
            with self.subTest(size=size), Scripted([whole[:size]]) as server:
                self.assertEqual(self.failure(self.get, server.url).code, "CONNECTION_FAILED")

    def command(self, response):
        with Scripted([response]) as server:
            self.write("home/session.json", dict(TOKENS, api_url=server.url))
            return self.run_cli("orgs", "list", "--url", server.url)

    def test_others_are_named(self):
        """Row 25: an encoding that cannot be undone, or is none, is an error that names it."""
        compressed = gzip.compress(BODY)
        for encoding, body in ((b"br", b"\x0b\x02\x80{}\x03"), (b"zstd", b"\x28\xb5\x2f\xfd"),
                               (b"gzip, br", b"\x0b\x02\x80{}\x03"), (b"gzip", b"\x0b\x02\x80{"),
                               (b"gzip", compressed[:-1]), (b"gzip", compressed + b"more"),
                               (b"gzip", compressed[:-8] + b"12345678")):
            with self.subTest(encoding=encoding, body=body):
                result = self.command(self.encoded(encoding, body))
                self.assertFails(result, 8, "Content-Encoding " + encoding.decode())

    def test_errors_of_a_gateway(self):
        """Row 25: the status says more than a body that cannot be read."""
        for encoding, body in ((b"br", b"\x0b"), (b"gzip", gzip.compress(b"<html>"))):
            result = self.command(self.encoded(encoding, body, b"502 Bad Gateway"))
            self.assertFails(result, 8, "The server failed (502)")
        page = self.encoded(b"gzip", gzip.compress(b"<html>"), b"200 OK")
        self.assertFails(self.command(page), 8, "a web page")


class Proxies(TransportCase):
    """Row 27: proxies as curl."""

    def through(self, proxy, url, **env):
        with mock.patch.dict(os.environ, dict({"http_proxy": proxy, "https_proxy": proxy}, **env)):
            return self.get(url)

    def setUp(self):
        super().setUp()
        names = [name for name in os.environ if name.lower().endswith("_proxy")]
        self.enter(mock.patch.dict(os.environ))
        for name in names:
            del os.environ[name]

    def test_forward(self):
        """Row 27: http_proxy."""
        with Scripted([answer(LIST)]) as server, Proxy() as proxy:
            self.assertEqual(self.through(proxy.url, server.url + "/x").status, 200)
        self.assertEqual(len(proxy.seen), 1)
        self.assertIn(server.url + "/x", str(proxy.seen[0]))
        self.assertEqual(len(server.requests), 1)

    def test_password(self):
        """Row 27: with user and password, percent-encoded; without them, the error is a 407."""
        with Scripted([answer(LIST)]) as server, Proxy("user", "se:cr@t") as proxy:
            place = proxy.url.replace("http://", "")
            self.assertEqual(
                self.through("http://user:se%%3Acr%%40t@%s" % place, server.url).status, 200)
            self.assertEqual(self.through(proxy.url, server.url).status, 407)
            result = self.run_cli("login", "-e", "a@b.c", "--password-stdin", "--url",
                                  server.url, stdin="x\n",
                                  env={"http_proxy": proxy.url, "NO_PROXY": None})
            self.assertFails(result, 3, "The proxy %s requires a valid user name" % place,
                             "http_proxy")

    def test_no_proxy(self):
        """Row 27: requests to the hosts in no_proxy bypass the proxy."""
        with Scripted([answer(LIST)]) as server, Proxy() as proxy:
            for value in ("127.0.0.1", "*", "example.com,127.0.0.1"):
                self.assertEqual(self.through(proxy.url, server.url, no_proxy=value).status, 200)
        self.assertEqual(proxy.seen, [])

    @needs_openssl
    def test_connect(self):
        """Row 27: https goes through a tunnel, with the password, verified to the end."""
        made = certificates(self.folder)
        with Scripted([answer(LIST)], tls=made.good) as server, Proxy("u", "p") as proxy:
            place = "http://u:p@" + proxy.url[7:]
            with mock.patch.dict(os.environ, {"https_proxy": place}):
                url = "https://127.0.0.1:%d/x" % server.port
                self.assertEqual(self.get(url, ca_cert=made.ca).status, 200)
                self.assertIsNone(header(server.requests[0], "Proxy-Authorization"))
                failure = self.failure(self.get, url)
                self.assertIn("certificate", failure.message)
            with mock.patch.dict(os.environ, {"https_proxy": proxy.url}):
                failure = self.failure(self.get, url, ca_cert=made.ca)
                self.assertIn("407", failure.message)
                self.assertEqual(failure.exit_code, 3)
        self.assertIn("CONNECT 127.0.0.1:%d" % server.port, str(proxy.seen[0]))

    @needs_openssl
    def test_tls_errors_name_it(self):
        """Row 27: what is between may be the one whose certificate is refused."""
        made = certificates(self.folder)
        with Scripted([answer(LIST)], tls=made.self_signed) as server, Proxy() as proxy:
            failure = self.failure(self.through, proxy.url, server.url)
        self.assertIn("No secure connection to %s through the proxy %s: " % (
            server.url[8:], proxy.url[7:]), failure.message)

    def test_proxies_that_cannot_be_used(self):
        """Row 27: socks and nonsense are refused in one line, their passwords left out."""
        for proxy in ("socks5://user:canary@127.0.0.1:1", "http://", "ftp://127.0.0.1:1",
                      "http://user:canary@127.0.0.1:99999"):
            with self.subTest(proxy=proxy):
                failure = self.failure(self.through, proxy, "http://127.0.0.1:9")
                self.assertIn("proxy", failure.message)
                self.assertNotIn("canary", failure.message + failure.hint)

    def test_proxy_that_refuses_connections(self):
        """Row 27: the error names the proxy, not the server."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            place = "127.0.0.1:%d" % unused.getsockname()[1]
        failure = self.failure(self.through, "http://user:canary@" + place, "http://example.com")
        self.assertIn("Connection refused", failure.message)
        self.assertIn(place, failure.message)
        self.assertNotIn("canary", failure.message + failure.hint)

    def test_garbage_from_a_proxy(self):
        """Row 27: whatever the response to CONNECT, the error is one line."""
        for script in (b"", b"SSH-2.0\r\n", b"HTTP/1.1 502 Bad\r\n\r\n", b"HTTP/1.1\r\n\r\n",
                       reset):
            with self.subTest(script=script), Scripted([script]) as server:
                failure = self.failure(self.through, server.url, "https://example.com")
                self.assertEqual(failure.exit_code, 3)


class ProxyChoice(TransportCase):
    """Row 27: which requests go through which proxy, by curl's rules."""

    def seen(self, url="http://example.test/x", **variables):
        """What a proxy saw of a request; "PROXY" in the variables stands for its address."""
        with Scripted([alive()]) as server:
            hosts = {"example.test": ("127.0.0.1", server.port)}
            with Proxy(hosts=hosts) as proxy:
                for name, value in dict({"NO_PROXY": ""}, **variables).items():
                    os.environ[name] = value.replace("PROXY", "127.0.0.1:%d" % proxy.port)
                self.get(url.replace("SERVER", "127.0.0.1:%d" % server.port))
                return proxy.seen

    def test_variables(self):
        """Row 27: http_proxy, all_proxy, and an address without a scheme."""
        for variables in ({"http_proxy": "http://PROXY"}, {"http_proxy": "PROXY"},
                          {"all_proxy": "http://PROXY"}, {"ALL_PROXY": "http://PROXY/"},
                          {"http_proxy": "http://PROXY", "all_proxy": "http://127.0.0.1:9"}):
            with self.subTest(variables=variables), mock.patch.dict(os.environ):
                self.assertEqual(self.seen(**variables), ["GET http://example.test/x HTTP/1.1"])

    def test_not_used(self):
        """Row 27: no_proxy wins, over all_proxy too; https_proxy is not for http."""
        for variables in ({"http_proxy": "http://PROXY", "no_proxy": "127.0.0.1"},
                          {"all_proxy": "http://PROXY", "no_proxy": "x.test, 127.0.0.1"},
                          {"http_proxy": "http://PROXY", "no_proxy": "*"},
                          {"https_proxy": "http://PROXY"}, {"http_proxy": ""}):
            with self.subTest(variables=variables), mock.patch.dict(os.environ):
                self.assertEqual(self.seen("http://SERVER/x", **variables), [])

    def test_an_unused_proxy_may_be_unsupported(self):
        """Row 27: an unsupported proxy for other hosts or for the other scheme."""
        for variables in ({"all_proxy": "socks5://127.0.0.1:9", "no_proxy": "127.0.0.1"},
                          {"https_proxy": "socks5h://127.0.0.1:9"},
                          {"http_proxy": "socks4://127.0.0.1:9", "no_proxy": "*"}):
            with self.subTest(variables=variables), mock.patch.dict(os.environ):
                self.assertEqual(self.seen("http://SERVER/x", **variables), [])

    def test_line_ends_in_a_password(self):
        """Row 33: the password of a proxy cannot add a header."""
        with Scripted([alive()]) as proxy:
            os.environ.update(http_proxy="http://u:%%0d%%0aX-Evil:1@127.0.0.1:%d" % proxy.port,
                              NO_PROXY="")
            self.get("http://example.test/x")
            self.assertIsNone(header(proxy.requests[0], "X-Evil"))
            self.assertIsNotNone(header(proxy.requests[0], "Proxy-Authorization"))

    def test_password_stays_at_the_proxy(self):
        """Row 27: it is never sent to the server behind a tunnel, nor in the clear to TLS."""
        with Scripted([b"HTTP/1.1 200 OK\r\n\r\n"]) as proxy:
            os.environ.update(https_proxy="https://user:canary@127.0.0.1:%d" % proxy.port,
                              NO_PROXY="")
            failure = self.failure(self.get, "https://example.test/x")
            self.assertNotIn(b"Proxy-Authorization", b"".join(proxy.requests))
            self.assertNotIn("canary", failure.message + failure.hint)

    def test_refusals(self):
        """Rows 27, 47: a refusal names the proxy and its status; only a transient one is retried.
        """
        for status, tries in ((300, 1), (400, 1), (403, 1), (404, 1), (405, 1), (407, 1), (451, 1),
                              (501, 1), (511, 1), (408, 3), (429, 3), (500, 3), (502, 3), (503, 3)):
            for ask in (self.get, self.post):
                with self.subTest(status=status), Scripted([answer(b"no", status)]) as proxy:
                    os.environ.update(https_proxy=proxy.url, NO_PROXY="")
                    failure = self.failure(ask, "https://example.test/x")
                    self.assertEqual(failure.exit_code, 3)
                    self.assertIn("The proxy " + proxy.url[7:], failure.message)
                    self.assertIn(str(status), failure.message)
                    self.assertIn("_proxy", failure.hint)
                    self.assertEqual(proxy.connections, tries)

    def test_credentials(self):
        """Row 47: wrong or none, sent once, told alike for https and http, for a change too."""
        for credentials in ("", "u:wrong@"):
            for url in ("http://example.test/x", "https://example.test/x"):
                for ask in ("orgs", "list"), ("orgs", "create", "X"):
                    with self.subTest(url=url, ask=ask), Proxy("u", "right") as proxy:
                        place = proxy.url[7:]
                        self.write("home/session.json", dict(TOKENS, api_url=url))
                        result = self.run_cli(*ask, "--url", url, env={
                            "http_proxy": "http://" + credentials + place, "NO_PROXY": None,
                            "https_proxy": "http://" + credentials + place})
                        self.assertFails(result, 3, "requires a valid user name and password (407)",
                                         "The proxy " + place)
                        self.assertEqual(len(proxy.seen), 1)

    def test_an_echo(self):
        """Row 34: a proxy that repeats its password in the status line."""
        secret = "dTpjYW5hcnk="         # u:canary
        for line in ("HTTP/1.1 403 u:canary " + secret, "HTTP/1.1 u:canary " + secret,
                     "HTTP/1.1 407 Basic " + secret, "u:canary " + secret):
            for scheme in ("http", "https"):
                with Scripted([line.encode() + b"\r\n\r\n"]) as proxy:
                    place = "http://u:canary@" + proxy.url[7:]
                    url = scheme + "://example.test"
                    self.write("home/session.json", dict(TOKENS, api_url=url))
                    result = self.run_cli("orgs", "list", "--debug", "--url", url, env={
                        "http_proxy": place, "https_proxy": place, "NO_PROXY": None})
                    self.assertEqual(header(proxy.requests[0], "Proxy-Authorization"),
                                     "Basic " + secret)
                self.assertNotIn("canary", result.err)
                self.assertNotIn(secret, result.err)

    def test_it_is_named(self):
        """Row 27: a response that may be the proxy's own, and not 2Signal's, names it."""
        page = [("Content-Type", "text/html")]
        for status, message in ((200, "The server answered 200 with a web page"),
                                (403, "The server answered 403 with a web page"),
                                (502, "The server failed (502)"), (503, "The server failed (503)")):
            with Scripted([answer(b"<html>", status, page)]) as proxy:
                os.environ.update(http_proxy=proxy.url, NO_PROXY="")
                self.write("home/session.json", dict(TOKENS, api_url="http://example.test"))
                result = self.run_cli("orgs", "list", "--url", "http://example.test",
                                      env={"http_proxy": proxy.url, "NO_PROXY": None})
                self.assertFails(result, 8, message, "it was reached through the proxy "
                                 + proxy.url[7:])

    def test_hang_up(self):
        """Row 27: a proxy that closes the connection gets a complete message."""
        with Scripted([None]) as proxy:
            os.environ.update(https_proxy=proxy.url, NO_PROXY="")
            failure = self.failure(self.get, "https://example.test/x")
        self.assertEqual(failure.exit_code, 3)
        self.assertEqual(failure.message,
                         "No response: the proxy %s closed the connection" % proxy.url[7:])


@needs_openssl
class Certificates(TransportCase):
    """Row 28: always verified; a failure names its cause."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder_of_certificates = tempfile.mkdtemp()
        cls.made = certificates(cls.folder_of_certificates)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder_of_certificates, ignore_errors=True)
        super().tearDownClass()

    def ask(self, pair, ca_cert=None):
        with Scripted([answer(LIST)], tls=pair) as server:
            url = "https://127.0.0.1:%d" % server.port
            try:
                return self.get(url, ca_cert=ca_cert).status
            except twosignal.Failure as failure:
                self.assertEqual(failure.exit_code, 3)
                self.assertEqual(server.requests, [])
                return failure.message + ". " + failure.hint

    def test_good(self):
        """Row 28: --ca-cert and SSL_CERT_FILE."""
        self.assertEqual(self.ask(self.made.good, self.made.ca), 200)
        with mock.patch.dict(os.environ, {"SSL_CERT_FILE": self.made.ca}):
            self.assertEqual(self.ask(self.made.good), 200)

    def test_never_unverified(self):
        """Row 28: a certificate that is not trusted is refused before anything is sent."""
        for pair in (self.made.good, self.made.self_signed):
            self.assertIn("No secure connection", self.ask(pair))
        for pair in (self.made.expired, self.made.wrong_host, self.made.self_signed):
            self.assertIn("No secure connection", self.ask(pair, self.made.ca))

    @unittest.skipIf(sys.version_info < (3, 7), "Python 3.6 does not tell the cause")
    def test_causes(self):
        """Row 28: self-signed, expired, wrong host, unknown authority, and what to do."""
        self.assertIn("expired", self.ask(self.made.expired, self.made.ca))
        self.assertIn("another host", self.ask(self.made.wrong_host, self.made.ca))
        self.assertRegex(self.ask(self.made.self_signed), "self-signed.*--ca-cert")
        self.assertRegex(self.ask(self.made.good), "authority|no CA")

    @unittest.skipIf(sys.version_info < (3, 7), "Python 3.6 does not tell the cause")
    def test_no_authorities(self):
        """Row 28: a machine without any gets an error that says so."""
        paths = mock.Mock(cafile=None, capath=None)
        with mock.patch.object(ssl, "get_default_verify_paths", return_value=paths):
            self.assertRegex(self.ask(self.made.good), "SSL_CERT_FILE: no CA certificates")

    @unittest.skipUnless(hasattr(ssl.SSLContext, "keylog_filename"), "from Python 3.8 on")
    def test_key_log_that_cannot_be_written(self):
        """It is named: a variable that was left behind is no fault of the connection."""
        for path, reason in ((os.path.join(self.folder, "missing", "keys"), "No such file"),
                             (self.folder, "Is a directory" if os.name == "posix" else "")):
            with mock.patch.dict(os.environ, SSLKEYLOGFILE=path):
                with Scripted([answer(LIST)], tls=self.made.good) as server:
                    failure = self.failure(self.get, "https://127.0.0.1:%d" % server.port)
            self.assertEqual(failure.exit_code, 2)
            self.assertIn("Cannot write SSLKEYLOGFILE %s: %s" % (path, reason), failure.message)

    def test_another_failure_is_no_key_log(self):
        """Such as an OpenSSL that is configured without any cipher."""
        error = ssl.SSLError(1, "no ciphers available")
        with mock.patch.object(ssl, "create_default_context", side_effect=error), \
                mock.patch.dict(os.environ, SSLKEYLOGFILE=os.devnull):
            self.assertIn("no ciphers available", self.ask(self.made.good))

    def test_invalid_ca_cert(self):
        """Row 28: a missing file, a directory, no certificates: a usage error that names it."""
        garbage = self.write(os.path.join(self.folder, "garbage.pem"), "not a certificate") or (
            os.path.join(self.folder, "garbage.pem"))
        for path in (os.path.join(self.folder, "missing.pem"), self.folder, garbage):
            with self.subTest(path=path), Scripted([answer(LIST)], tls=self.made.good) as server:
                failure = self.failure(self.get, "https://127.0.0.1:%d" % server.port,
                                       ca_cert=path)
                self.assertEqual(failure.exit_code, 2)
                self.assertIn("--ca-cert", failure.hint)

    def test_plain_server(self):
        """Row 28: a server that speaks no TLS."""
        with StandIn() as server:
            failure = self.failure(self.get, server.url.replace("http:", "https:"))
        self.assertEqual(failure.exit_code, 3)

    def test_no_insecure_switch(self):
        """Row 28: no option, no variable."""
        flags = {flag for option in twosignal.GLOBAL_OPTIONS for flag in option.flags}
        self.assertFalse([flag for flag in flags if "insecure" in flag or "verify" in flag])
        context = twosignal.tls_context()
        self.assertEqual(context.verify_mode, ssl.CERT_REQUIRED)
        self.assertTrue(context.check_hostname)


@needs_openssl
class TrustedAuthorities(TransportCase):
    """Row 28, through the command line and the environment."""

    def setUp(self):
        super().setUp()
        self.made = certificates(self.folder)
        os.environ.update(SSL_CERT_FILE=self.path("none.pem"), SSL_CERT_DIR=self.path("none"))

    def test_directory(self):
        """Row 28: SSL_CERT_DIR, with names as openssl wants them."""
        folder = self.path("authorities")
        os.mkdir(folder)
        named = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", self.made.ca],
                               stdout=subprocess.PIPE).stdout.decode().strip()
        with open(self.made.ca) as source, open(os.path.join(folder, named + ".0"), "w") as file:
            file.write(source.read())
        os.environ["SSL_CERT_DIR"] = folder
        with Scripted([alive()], tls=self.made.good) as server:
            self.assertEqual(self.get(server.url).body, BODY)

    def test_option_adds(self):
        """Row 28: --ca-cert is trusted in addition to SSL_CERT_FILE."""
        os.environ["SSL_CERT_FILE"] = self.made.ca
        other = self.made.self_signed[0]
        with Scripted([alive()], tls=self.made.good) as server:
            self.assertEqual(self.get(server.url, ca_cert=other).body, BODY)
        with Scripted([alive()], tls=self.made.self_signed) as server:
            self.assertEqual(self.get(server.url, ca_cert=other).body, BODY)

    def test_variables_of_other_programs(self):
        """Row 28: no variable turns verification off."""
        os.environ.update(PYTHONHTTPSVERIFY="0", CURL_INSECURE="1", TWOSIGNAL_INSECURE="1",
                          NODE_TLS_REJECT_UNAUTHORIZED="0", GIT_SSL_NO_VERIFY="1")
        with Scripted([alive()], tls=self.made.good) as server:
            self.assertEqual(self.failure(self.get, server.url).code, "CONNECTION_FAILED")
            self.assertEqual(server.requests, [])

    def test_option(self):
        """Row 28: an unusable --ca-cert is one line that names the file, exit 2."""
        for name, content in (("missing.pem", None), ("empty.pem", ""), ("garbage.pem", "x"),
                              ("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n"
                                             "-----END CERTIFICATE-----\n")):
            path = self.path(name) if content is None else self.write(name, content)
            with self.subTest(name=name), Scripted([alive()], tls=self.made.good) as server:
                result = self.run_cli("login", "-e", "a@b.c", "--password-stdin", "--ca-cert", path,
                                      "--url", server.url, stdin="secret\n")
                self.assertFails(result, 2, "--ca-cert", name, "PEM")
                self.assertEqual(server.requests, [])

    def test_no_insecure_option(self):
        """Row 28: the options of other programs are usage errors here."""
        for flag in ("--insecure", "-k", "--no-verify", "--skip-tls", "--no-check-certificate"):
            with self.subTest(flag=flag):
                self.assertEqual(self.run_cli("orgs", "list", flag).code, 2)

    def test_plain_server(self):
        """Row 28: to a plain server at an https address nothing is sent; the error says why."""
        class Plain(Listener):
            def converse(self, connection):
                connection.recv(65536)
                connection.sendall(answer("no TLS", 400))

        with Plain() as server:
            failure = self.failure(self.get, "https" + server.url[4:])
        self.assertEqual(failure.exit_code, 3)
        self.assertIn("No secure connection", failure.message)


class Refusing(Scripted):
    """A server that sends these bytes after the client's hello, in place of a TLS handshake."""

    def __init__(self, data, made):
        super().__init__(alive(), tls=made.good)
        self.data = data

    def _wrap(self, connection):
        connection.recv(65536)
        connection.sendall(self.data)
        raise ConnectionResetError()



@needs_openssl
class BrokenHandshakes(TransportCase):
    def test_tls_that_fails_at_first(self):
        """Row 22: nothing of a change is sent before the handshake ends: it is retried."""
        made = certificates(self.folder)

        class Hesitant(Scripted):
            def _wrap(self, connection):
                if self.connections < 3:
                    connection.recv(65536)      # the client's hello
                    reset(connection, b"")
                    raise ConnectionResetError()
                return super()._wrap(connection)

        with Hesitant(alive(), tls=made.good) as server:
            answered = self.post(server.url, ca_cert=made.ca)
            self.assertEqual((answered.status, len(server.requests)), (200, 1))
            self.assertEqual(server.connections, 3)

    def test_connection_that_ends_before_tls(self):
        """Row 22: `ssl` silently skips the handshake then; nothing is sent without one."""
        made = certificates(self.folder)
        open_socket, dead = twosignal.open_socket, [socket.socket(), socket.socket()]
        for each in dead:
            self.addCleanup(each.close)

        def connect(*args):
            return dead.pop() if dead else open_socket(*args)

        with Scripted(alive(), tls=made.good) as server:
            with mock.patch.object(twosignal, "open_socket", connect):
                answered = self.post(server.url, ca_cert=made.ca)
            self.assertEqual((answered.status, len(server.requests), dead), (200, 1, []))

    def test_an_untrusted_certificate_is_not_retried(self):
        """Rows 22, 28: no retry makes it better; the change was certainly not made."""
        made = certificates(self.folder)
        for ask in (self.get, self.post):
            for pair, ca_cert in ((made.self_signed, None), (made.good, None),
                                  (made.expired, made.ca), (made.wrong_host, made.ca)):
                with self.subTest(ask=ask.__name__, pair=pair):
                    with Scripted(alive(), tls=pair) as server:
                        failure = self.failure(ask, server.url, ca_cert=ca_cert)
                        self.assertEqual(failure.code, "CONNECTION_FAILED")
                        self.assertIn("No secure connection", failure.message)
                        self.assertEqual((server.requests, server.connections), ([], 1))
        self.assertEqual(self.naps, [])

    def test_a_server_without_tls_is_not_retried(self):
        """Row 22: no retry makes it speak TLS; a change was certainly not made."""
        for ask in (self.get, self.post):
            with Refusing(b"HTTP/1.1 400 Bad Request\r\n\r\n", certificates(self.folder)) as server:
                failure = self.failure(ask, server.url)
                self.assertIn("it does not speak TLS", failure.message)
                self.assertEqual((failure.code, server.connections), ("CONNECTION_FAILED", 1))
        self.assertEqual(self.naps, [])

    def test_a_name_that_no_host_can_have_is_not_retried(self):
        failure = self.failure(self.get, "http://%s.test/" % ("a" * 64))
        self.assertIn("is not the name of a host", failure.message)
        self.assertEqual((failure.code, self.naps), ("CONNECTION_FAILED", []))

    def test_a_failed_handshake_is_retried(self):
        """Row 21: any other failure of TLS may be a passing one, whatever its text says."""
        made = certificates(self.folder)
        internal_error = b"\x15\x03\x03\x00\x02\x02\x50"       # a fatal alert
        with Refusing(internal_error, made) as server:
            failure = self.failure(self.get, server.url, ca_cert=made.ca)
            self.assertIn("No secure connection", failure.message)
            self.assertEqual((server.requests, server.connections), ([], 3))


class NoProxy(TransportCase):
    """Row 47: the verdicts of curl 7.88, but for what it lacks for IPv6."""

    def is_direct(self, host, no_proxy=None, **variables):
        variables = dict(variables, http_proxy="http://proxy.test:3128", no_proxy=no_proxy)
        with replaced_environment({name: value for name, value in variables.items()
                                   if value is not None}):
            return twosignal.find_route("http://" + host)[2:] == (None, {})

    def test_direct(self):
        """Row 47: networks, addresses of both families, names and their domains."""
        for host, *values in (
                ("127.0.0.1:8080", "127.0.0.1", "127.0.0.0/8", "127.0.0.5/8", "127.0.0.1/32",
                 "127.0.0.0/31", "10.0.0.0/8,127.0.0.0/8", "x y\t127.0.0.0/8", "x, 127.0.0.1 ,y"),
                ("[::1]:8080", "::1", "[::1]", "x ::1", "::1/128", "::/120", "0:0:0:0:0:0:0:1"),
                ("[fd00::1]", "fd00::/8", "FD00:0::1", "fd00::1"),
                ("www.example.com:81", "example.com", ".example.com", "EXAMPLE.com", "example.com.",
                 "a b,example.com", "a ,, b example.com", "example.com\tx", "com",
                 "www.example.com"),
                ("www.example.com.:81", "example.com", ".example.com", "www.example.com."),
                ("www.example.com", "*", "example.com")):
            for value in values:
                with self.subTest(host=host, no_proxy=value):
                    self.assertTrue(self.is_direct(host, value))

    def test_through_the_proxy(self):
        """Row 47: what looks similar does not count."""
        for host, *values in (
                ("127.0.0.1:8080", None, "", "127", "127.0.0", "0.0.1", ".0.0.1", "27.0.0.1", "1",
                 "127.0.0.2/31", "127.0.0.1/33", "10.0.0.0/8", "128.0.0.0/1", "localhost",
                 "127.0.0.1:8081", "::1", "::/0", "::ffff:127.0.0.1", "127.*"),
                ("[::1]:8080", "::2", "1", "::2/127", "0.0.0.0/0", "localhost", "fe80::/10"),
                ("www.example.com:81", "ww.example.com", "w.example.com", "example", "ample.com",
                 "www.example.com.org", "*.example.com", "x*", "a,*", ".", ",", " ", "..",
                 "www.example.com:81", "http://www.example.com", "a;www.example.com", "93.0.0.0/8"),
                ("localhost:80", "127.0.0.0/8", "::1", "xlocalhost", "host")):
            for value in values:
                with self.subTest(host=host, no_proxy=value):
                    self.assertFalse(self.is_direct(host, value))

    @unittest.skipIf(os.name == "nt", "there it is the same variable")
    def test_variables(self):
        """Row 47: no_proxy counts before NO_PROXY, unless it is empty."""
        for lower, upper, is_direct in (("a.test", "b.test", True), ("b.test", "a.test", False),
                                        ("", "a.test", True), (None, "a.test", True),
                                        ("b.test", "*", False), ("*", "b.test", True)):
            with self.subTest(lower=lower, upper=upper):
                self.assertEqual(self.is_direct("a.test", lower, NO_PROXY=upper), is_direct)

    def test_command(self):
        """Row 47: the request, and with it the API key, does not reach the proxy."""
        with Scripted([answer({"data": []})]) as server, Proxy() as proxy:
            for value in ("127.0.0.0/8", "x 127.0.0.1", ".example.com 127.0.0.0/30"):
                result = self.run_cli("traces", "list", "--url", server.url, env={
                    "TWOSIGNAL_API_KEY": "ts_canary", "http_proxy": proxy.url, "no_proxy": value})
                self.assertEqual(result.code, 0, result)
        self.assertEqual((len(server.requests), proxy.seen), (3, []))

    def test_settings_of_the_system(self):
        """Row 27: without any variable, those of macOS and Windows count as Python reads them."""
        with replaced_environment({}), mock.patch("urllib.request.getproxies", return_value={
                "http": "http://proxy.test:3128"}), mock.patch(
                "urllib.request.proxy_bypass", lambda host: host == "inside.test"):
            self.assertEqual(twosignal.find_route("http://inside.test")[2:], (None, {}))
            self.assertEqual(twosignal.find_route("http://a.test"),
                             ("http", "a.test", "proxy.test:3128", {}))
