"""The section Transport against servers that keep connections, send elsewhere, or play tricks."""
import json
import os
import socket
import subprocess
import threading
import unittest
from unittest import mock

import tools
import twosignal
from servers import (PATIENCE, Listener, Proxy, Scripted, answer, certificates, drip, header,
                     needs_openssl, read_request, reset, target)
from tools import Case, ServerCase, full

LIST = {"result": {"data": {"json": []}}}
BODY = json.dumps(LIST).encode()
OK = b"HTTP/1.1 200 OK\r\n"
STATUSES = (301, 302, 303, 307, 308)


def alive(body=BODY, extra=b"", status=b"200 OK"):
    """The bytes of an answer after which the connection stays open."""
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n" % (status, extra, len(body)) + body


def in_chunks(body, size=7, trailer=b""):
    """The bytes of an answer in chunks; the connection stays open."""
    parts = [body[start:start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


class Keeping(Listener):
    """Answers all requests of a connection; the n-th request gets the n-th answer, then the last.

    An answer is bytes or a function (connection, request) that tells by True that it has ended
    the connection. .paths has [number of the connection, what was asked for] of each request.
    """

    def __init__(self, *answers, **options):
        super().__init__(**options)
        self.answers, self.paths = answers, []
        self.sent = threading.Semaphore(0)      # released after each answer

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
    """An answer that does not announce that the connection ends after it."""
    def send(connection, request):
        connection.sendall(data)
        return True
    return send


class Direct(Case):
    """Requests straight through one Transport, with short pauses and no proxy of the machine."""

    def setUp(self):
        super().setUp()
        patch = mock.patch.object(twosignal, "PAUSE", 0.001)
        patch.start()
        self.addCleanup(patch.stop)
        around = tools.replaced_environment(self.environment)
        around.__enter__()
        self.addCleanup(around.__exit__, None, None, None)

    def transport(self, timeout=30.0, **options):
        made = twosignal.Transport(timeout, **options)
        self.addCleanup(made.close)
        return made

    def get(self, url, headers=(), **options):
        return self.transport(**options).request("GET", url, headers, changes=False)

    def post(self, url, **options):
        return self.transport(**options).request("POST", url, {}, b"{}")

    def failure(self, ask, *args, **options):
        with self.assertRaises(twosignal.Failure) as caught:
            ask(*args, **options)
        self.assertNotIn("\n", caught.exception.message + caught.exception.hint)
        return caught.exception


class KeepingConnections(Direct):
    def bodies(self, server, count=3):
        transport = self.transport()
        return [transport.request("GET", "%s/%d" % (server.url, number), changes=False).body
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

    def test_answers_without_a_body(self):
        for data in (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n",
                     b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
            with self.subTest(data=data), Keeping(data, alive()) as server:
                self.assertEqual(self.bodies(server, 2), [b"", BODY])
                self.assertEqual(server.connections, 1)

    def test_what_follows_an_answer_is_no_answer(self):
        """Bytes that nobody asked for are not taken for the answer to the next request."""
        with Keeping(alive() + alive(b"stray") * 1000, alive(b"2")) as server:
            transport = self.transport()
            self.assertEqual(transport.request("GET", server.url, changes=False).body, BODY)
            self.assertTrue(server.sent.acquire(timeout=PATIENCE))
            self.assertEqual(transport.request("GET", server.url, changes=False).body, b"2")

    def test_one_that_ended_unannounced(self):
        """A kept connection that ended is opened anew; that counts as no try."""
        for end in (then_end(alive()), alive()):
            with self.subTest(end=end), Keeping(end) as server:
                transport = self.transport()
                patch = mock.patch.object(transport, "_pause", side_effect=AssertionError)
                with patch:
                    for _ in range(3):
                        transport.request("GET", server.url, changes=False)
                self.assertEqual(server.connections, 3 if callable(end) else 1)
                self.assertEqual(len(server.requests), 3)

    def test_one_that_is_reset(self):
        def break_it(connection, request):
            reset(connection, request)
            return True
        with Keeping(alive(), break_it, alive()) as server:
            self.assertEqual(self.bodies(server, 2), [BODY, BODY])
            self.assertEqual(server.paths, [[1, "/0"], [1, "/1"], [2, "/1"]])

    def test_a_cut_answer_on_it(self):
        """Row 19: a kept connection that dies within an answer: asked again, never half of it."""
        with Keeping(alive(), then_end(alive()[:-5]), alive()) as server:
            self.assertEqual(self.bodies(server, 2), [BODY, BODY])
            self.assertEqual(server.paths, [[1, "/0"], [1, "/1"], [2, "/1"]])

    def test_not_for_another_place(self):
        with Keeping(alive()) as one, Keeping(alive(b"2")) as two:
            transport = self.transport()
            got = [transport.request("GET", url, changes=False).body
                   for url in (one.url, two.url, one.url)]
            self.assertEqual(got, [BODY, b"2", BODY])
            self.assertEqual((one.connections, two.connections), (2, 1))

    def test_a_change_takes_a_new_one(self):
        """Row 22: a change never goes over a kept connection, so that a dead one is no doubt."""
        with Keeping(alive()) as server:
            transport = self.transport()
            transport.request("GET", server.url + "/q", changes=False)
            transport.request("POST", server.url + "/c", {}, b"{}")
            transport.request("GET", server.url + "/q", changes=False)
            self.assertEqual(server.paths, [[1, "/q"], [2, "/c"], [2, "/q"]])

    @needs_openssl
    def test_within_tls(self):
        made = certificates(self.folder)
        with Keeping(alive(), alive(), then_end(alive()), alive(), tls=made.good) as server:
            transport = self.transport(ca_cert=made.ca)
            got = [transport.request("GET", server.url, changes=False).body for _ in range(4)]
            self.assertEqual(got, [BODY] * 4)
            self.assertEqual([number for number, _ in server.paths], [1, 1, 1, 2])

    @needs_openssl
    def test_within_a_tunnel(self):
        """Row 27: one tunnel for all; the password of the proxy ends at the proxy."""
        made = certificates(self.folder)
        with Keeping(alive(), tls=made.good) as server, Proxy("user", "word") as proxy:
            os.environ.update(https_proxy="http://user:word@" + proxy.url[7:], NO_PROXY="")
            transport = self.transport(ca_cert=made.ca)
            for _ in range(3):
                transport.request("GET", server.url, changes=False)
            self.assertEqual((len(proxy.seen), server.connections), (1, 1))
            self.assertIsNotNone(proxy.authorizations[0])
            for request in server.requests:
                self.assertIsNone(header(request, "Proxy-Authorization"))

    def test_not_held_over_its_deadline(self):
        """Row 18: a kept connection has the deadline of the request that uses it now."""
        with Keeping(alive(), drip(b"H" * 300, 0.02)) as server:
            transport = self.transport()
            transport.request("GET", server.url, changes=False)
            transport.timeout = 0.3
            failure = self.failure(transport.request, "GET", server.url, changes=False)
            self.assertEqual((failure.code, server.connections), ("TIMED_OUT", 1))


class OneForACommand(ServerCase):
    def test_batches_and_pages(self):
        self.log_in()
        for number in range(12):
            self.server.add_trace(name="t%d" % number,
                                  scores=[{"evaluatorName": "quality", "value": 0.9}])
        before = self.server.connections
        with mock.patch.object(twosignal, "PAGE", 5):
            result = self.assertOk(self.cli("traces", "list", "--project", self.server.project,
                                            "--all", "--json"))
        self.assertEqual(len(result.json), 17)
        self.assertGreater(len(self.server.requests), 6)
        self.assertEqual(self.server.connections, before + 1)


class Deadlines(Direct):
    def test_an_answer_that_comes_too_slowly(self):
        """Row 18: it would be whole in the end, but the limit is over long before."""
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
        """Row 18: the answer to CONNECT counts too."""
        line = b"HTTP/1.1 502 " + b"x" * 200 + b"\r\n\r\n"
        with Scripted(drip(line, 0.01)) as proxy:
            os.environ.update(https_proxy=proxy.url, NO_PROXY="")
            failure = self.failure(self.get, "https://example.com", timeout=0.3)
        self.assertEqual((failure.code, proxy.connections), ("TIMED_OUT", 1))


class Tries(Direct):
    QUERIES = {408: 3, 429: 3, 500: 3, 502: 3, 503: 3, 504: 3}      # tries; of all others one
    CHANGES = {429: 3}

    def test_table(self):
        """Rows 21, 22: how often each status is asked for, counted at the server."""
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


class CutChanges(Direct):
    def test_answer_of_a_change(self):
        """Rows 19, 22: the answer to a change, cut at every byte, is an unknown outcome."""
        for whole in (alive(), in_chunks(BODY, 20)):
            for size in range(0, len(whole), full(5, 1)):
                with self.subTest(size=size), Scripted([whole[:size]]) as server:
                    failure = self.failure(self.post, server.url)
                    self.assertEqual((failure.code, server.connections), ("UNKNOWN_OUTCOME", 1))

    def test_without_a_length(self):
        """Row 19: an answer that only the end of the connection ends, cut at every byte."""
        session = {"access_token": "a.b.c", "refresh_token": "r", "expires_at": 4000000000,
                   "user_id": "u", "user_email": "e@example.com", "project_ref": "ref"}
        whole = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY
        for size in range(0, len(whole), full(7, 1)):
            with self.subTest(size=size), Scripted([whole[:size]]) as server:
                self.write("home/session.json", dict(session, api_url=server.url))
                result = self.run_cli("orgs", "list", "--url", server.url)
                self.assertIn(result.code, (3, 8), result)
                self.assertEqual(result.out, "")


class ChangesThatDidNotArrive(ServerCase):
    """Row 22: what surely did not arrive is sent again, and made once."""

    def setUp(self):
        super().setUp()
        patch = mock.patch.object(twosignal, "PAUSE", 0.001)
        patch.start()
        self.addCleanup(patch.stop)
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
        """Row 22: the connection was refused, or the name not resolved, at first."""
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

    def test_only_so_often(self):
        """Row 22: a change that is limited for ever is sent three times."""
        self.server.fault("dataset.create", times=None, status=429)
        result = self.cli("datasets", "create", "--project", self.server.project, "-n", "X")
        self.assertFails(result, 7, "Rate limited")
        self.assertEqual(self.server.count("dataset.create"), 3)


@needs_openssl
class BrokenHandshake(Direct):
    def test_tls_that_fails_at_first(self):
        """Row 22: nothing of a change is sent before the handshake is over: it is tried again."""
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
        """Row 22: `ssl` silently makes no handshake then; nothing is sent without one."""
        made = certificates(self.folder)
        real, dead = twosignal._connect, [socket.socket(), socket.socket()]
        for each in dead:
            self.addCleanup(each.close)

        def connect(*args):
            return dead.pop() if dead else real(*args)

        with Scripted(alive(), tls=made.good) as server:
            with mock.patch.object(twosignal, "_connect", connect):
                answered = self.post(server.url, ca_cert=made.ca)
            self.assertEqual((answered.status, len(server.requests), dead), (200, 1, []))

    def test_a_wrong_certificate_is_not_tried_again(self):
        """Rows 22, 28: it does not get better; and a change was not made."""
        made = certificates(self.folder)
        with Scripted(alive(), tls=made.self_signed) as server:
            self.assertEqual(self.failure(self.post, server.url).code, "CONNECTION_FAILED")
            self.assertEqual((server.requests, server.connections), ([], 1))


class OtherOrigins(Direct):
    def test_each_part_of_the_origin(self):
        """Row 29: scheme, host or port alone makes another origin; nobody there is asked."""
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
                                   None if method == "GET" else b"{}", changes=method != "GET")
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
        """Rows 29, 33: whatever stands in Location, it changes no request and leaks nothing."""
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
        """Row 29: no file and no other program is opened by a redirect."""
        secret = self.write("secret.txt", "canary")
        for place in ("file://" + secret, "ftp://127.0.0.1/", "data:,canary", "javascript:x",
                      "ws://127.0.0.1/"):
            with self.subTest(place=place):
                with Scripted([answer(b"", 302, [("Location", place)]), alive()]) as server:
                    self.assertEqual(self.failure(self.get, server.url).exit_code, 8)
                    self.assertEqual(server.connections, 1)


class ChoiceOfProxy(Direct):
    """Row 27: which requests go through which proxy, as curl decides it."""

    def seen(self, url="http://example.test/x", **variables):
        """What a proxy saw of a request, with "PROXY" in the variables for its address."""
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

    def test_one_that_is_not_used_does_no_harm(self):
        """Row 27: a proxy of a kind that is not supported, for other hosts or the other scheme."""
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
        """Row 27: a proxy that refuses is named with what it said, on one line, exit 3."""
        for status in (400, 403, 407, 502, 503):
            with self.subTest(status=status), Scripted([answer(b"no", status)]) as proxy:
                os.environ.update(https_proxy=proxy.url, NO_PROXY="")
                for ask in (self.get, self.post):
                    failure = self.failure(ask, "https://example.test/x")
                    self.assertEqual(failure.exit_code, 3)
                    self.assertIn(str(status), failure.message)
                    self.assertIn("_proxy", failure.hint)

    def test_hang_up(self):
        """Row 27: a proxy that closes the connection: the message has an end."""
        with Scripted([None]) as proxy:
            os.environ.update(https_proxy=proxy.url, NO_PROXY="")
            failure = self.failure(self.get, "https://example.test/x")
        self.assertEqual(failure.exit_code, 3)
        self.assertNotRegex(failure.message, r"[:\s]\Z")


@needs_openssl
class Trust(Direct):
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
        """Row 28: --ca-cert is trusted beside SSL_CERT_FILE, not in its place."""
        os.environ["SSL_CERT_FILE"] = self.made.ca
        other = self.made.self_signed[0]
        with Scripted([alive()], tls=self.made.good) as server:
            self.assertEqual(self.get(server.url, ca_cert=other).body, BODY)
        with Scripted([alive()], tls=self.made.self_signed) as server:
            self.assertEqual(self.get(server.url, ca_cert=other).body, BODY)

    def test_switches_of_others(self):
        """Row 28: no variable turns the verification off."""
        os.environ.update(PYTHONHTTPSVERIFY="0", CURL_INSECURE="1", TWOSIGNAL_INSECURE="1",
                          NODE_TLS_REJECT_UNAUTHORIZED="0", GIT_SSL_NO_VERIFY="1")
        with Scripted([alive()], tls=self.made.good) as server:
            self.assertEqual(self.failure(self.get, server.url).code, "CONNECTION_FAILED")
            self.assertEqual(server.requests, [])

    def test_option(self):
        """Row 28: what --ca-cert cannot use is one line that names the file, exit 2."""
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
        """Row 28: the words that other programs take are wrong usage here."""
        for flag in ("--insecure", "-k", "--no-verify", "--skip-tls", "--no-check-certificate"):
            with self.subTest(flag=flag):
                self.assertEqual(self.run_cli("orgs", "list", flag).code, 2)

    def test_plain_server(self):
        """Row 28: a plain server behind an https address: nothing is sent, and it is said."""
        class Plain(Listener):
            def converse(self, connection):
                connection.recv(65536)
                connection.sendall(answer("no TLS", 400))

        with Plain() as server:
            failure = self.failure(self.get, "https" + server.url[4:])
        self.assertEqual(failure.exit_code, 3)
        self.assertIn("No secure connection", failure.message)


class Addresses(Direct):
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

    def test_every_address_of_a_host_is_tried(self):
        with Scripted([alive()]) as server, socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            ports = [unused.getsockname()[1], server.port]
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
                     for port in ports]
            with mock.patch("socket.getaddrinfo", return_value=found):
                self.assertEqual(self.post("http://example.test/x").status, 200)


class RequestLines(ServerCase):
    """Row 33: what users type never changes the shape of a request."""

    shared = True
    HOSTILE = ("a\r\nX-Evil: 1", "a\nb", "a b", "\x00", "a\x00b", "\x7f", "\u2028", "%0d%0a",
               "a HTTP/1.1\r\nX-Evil: 1\r\n\r\n", "&batch=1", "?#", "\ud800")

    def test_values(self):
        """Row 33: IDs, names and searches are percent-encoded, or refused before connecting."""
        self.log_in()
        project = self.server.project
        for text in self.HOSTILE:
            lines = (["traces", "get", text, "--project", project],
                     ["traces", "list", "--project", text],
                     ["traces", "list", "--project", project, "--search", text],
                     ["datasets", "get", text, "--project", project])
            for line in lines:
                with self.subTest(line=line):
                    self.server.clear()
                    result = self.cli(*line)
                    self.assertIn(result.code, (0, 1, 2, 6), result)
                    self.assertNotIn("should not have happened", result.err)
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


if __name__ == "__main__":
    unittest.main()
