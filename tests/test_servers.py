"""The misbehaving servers of the transport tests do what they promise."""
import http.client
import itertools
import socket
import sys
import tempfile
import unittest
import urllib.error
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

from servers import (PATIENCE, Forwarding, Proxy, Recording, Scripted, Serving, answer,
                     certificates, drip, hang_up, header, needs_openssl, reset, silence, ssl)


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


def fetch(url, proxy=None, ca=None, **options):
    """The status and body of one request, sent through `proxy` if given."""
    handlers = [urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {})]
    if ca:
        context = ssl.create_default_context(cafile=ca)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(url, **options)
    with urllib.request.build_opener(*handlers).open(request, timeout=PATIENCE) as reply:
        return reply.status, reply.read()


class ScriptedServers(unittest.TestCase):
    def test_responses_in_order_and_then_the_last(self):
        with Scripted([answer("one"), answer({"a": 2})]) as server:
            bodies = [fetch(server.url + "/x", data=b"sent")[1] for _ in range(3)]
            self.assertEqual(bodies, [b"one", b'{"a": 2}', b'{"a": 2}'])
            self.assertEqual(server.connections, 3)
            self.assertTrue(server.requests[0].startswith(b"POST /x HTTP/1.1\r\n"))
            self.assertTrue(server.requests[0].endswith(b"\r\n\r\nsent"))
            self.assertEqual(header(server.requests[0], "content-length"), "4")

    def test_broken_connections(self):
        with Scripted([reset, hang_up]) as server:
            with self.assertRaises((ConnectionResetError, urllib.error.URLError)):
                fetch(server.url)
            with self.assertRaises(http.client.RemoteDisconnected):
                fetch(server.url)

    def test_drips_until_the_client_disconnects(self):
        with Scripted(drip(itertools.repeat(46), 0.001, head=b"HTTP/1.1 200 OK\r\n\r\n")) as server:
            with urllib.request.urlopen(server.url, timeout=PATIENCE) as reply:
                self.assertEqual(reply.read(5), b".....")

    def test_stops_while_a_client_is_waiting(self):
        with Scripted(silence) as server:
            client = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with client, suppress(ConnectionResetError):    # the server may not have read the request
            self.assertEqual(client.recv(1), b"")

    def test_records_whatever_arrives(self):
        with Recording() as server:
            for data in (b"", b"GET", b"\x16\x03"):
                with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
                    client.sendall(data)
                    client.shutdown(socket.SHUT_WR)
                    self.assertEqual(client.recv(1), b"")
        self.assertEqual(server.received, [b"", b"GET", b"\x16\x03"])

    def test_forwards_from_another_address(self):
        with Scripted(answer("there")) as server, Forwarding(server.port) as other:
            self.assertTrue(other.url.startswith("http://[::1]:"))
            self.assertEqual(fetch(other.url), (200, b"there"))


@needs_openssl
class IssuedCertificates(unittest.TestCase):
    def test_each_has_its_defect(self):
        with tempfile.TemporaryDirectory() as folder:
            made = certificates(folder)
            with Serving(Hello, tls=made.good) as server:
                self.assertEqual(fetch(server.url, ca=made.ca), (200, b"hello"))
            for pair, words in ((made.expired, "certificate has expired"),
                                (made.wrong_host, "127.0.0.1"),
                                (made.self_signed, "self")):
                with self.subTest(pair=pair[0]), Scripted(answer("no"), tls=pair) as server:
                    with self.assertRaises((urllib.error.URLError, ssl.CertificateError)) as caught:
                        fetch(server.url, ca=made.ca)
                    if sys.version_info >= (3, 7):      # Python 3.6 does not report the cause
                        self.assertIn(words, str(caught.exception))
                    self.assertEqual(server.requests, [])


class ForwardProxies(unittest.TestCase):
    def test_forwards(self):
        with Scripted(answer("there")) as server, Proxy() as proxy:
            status, body = fetch(server.url + "/a?b=c", proxy.url, data=b"sent")
            self.assertEqual((status, body), (200, b"there"))
            self.assertTrue(server.requests[0].startswith(b"POST /a?b=c HTTP/1.1\r\n"))
            self.assertTrue(server.requests[0].endswith(b"sent"))
            self.assertEqual(proxy.seen, ["POST %s/a?b=c HTTP/1.1" % server.url])
            self.assertEqual(proxy.authorizations, [None])

    def test_requires_its_password(self):
        with Scripted(answer("there")) as server, Proxy("us er", "p:w") as proxy:
            with self.assertRaises(urllib.error.HTTPError) as caught:
                fetch(server.url, proxy.url)
            caught.exception.close()
            self.assertEqual(caught.exception.code, 407)
            self.assertEqual(server.requests, [])
            url = "http://us%%20er:p%%3Aw@127.0.0.1:%d" % proxy.port
            self.assertEqual(fetch(server.url, url)[1], b"there")
            self.assertIsNone(header(server.requests[0], "Proxy-Authorization"))
            self.assertEqual(len(proxy.authorizations), 2)

    def test_maps_host_names(self):
        with Scripted(answer("there")) as server, socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            hosts = {"example.test": ("127.0.0.1", server.port), "deaf.test": deaf.getsockname()}
            with Proxy(hosts=hosts) as proxy:
                self.assertEqual(fetch("http://example.test/", proxy.url)[1], b"there")
                with self.assertRaises(urllib.error.HTTPError) as caught:
                    fetch("http://deaf.test/", proxy.url)
                caught.exception.close()
                self.assertEqual(caught.exception.code, 502)

    @needs_openssl
    def test_tunnels(self):
        with tempfile.TemporaryDirectory() as folder:
            made = certificates(folder)
            with Serving(Hello, tls=made.good) as server, Proxy("user", "secret") as proxy:
                url = "http://user:secret@127.0.0.1:%d" % proxy.port
                self.assertEqual(fetch(server.url, url, made.ca), (200, b"hello"))
                self.assertEqual(proxy.seen[0].split()[:2],
                                 ["CONNECT", "127.0.0.1:%d" % server.port])
