"""The command doctor: each fault is found in its layer, and its way out is one.

The tests that `fault` decorates make a row of the README each: what they assert is what it says.
"""
import collections
import contextlib
import functools
import os
import re
import socket
import sys
import time
import unittest
from unittest import mock

import twosignal
from servers import (Forwarding, Proxy, Recording, Scripted, address, answer, certificate_for,
                     certificates, needs_openssl, reset, resolved, silence, swallowing)
from tools import OLD, OWNER, ServerCase, posix, replaced_environment, trpc_error

LAYERS = ("program", "home", "settings", "name", "connection", "proxy", "TLS", "health", "protocol",
          "clock", "session", "key")
TELLS_WHY = sys.version_info >= (3, 7)      # why a certificate is refused

Fault = collections.namedtuple("Fault", "title layer status code found hint")
FAULTS = []


def fault(title, layer, found, hint, status="FAIL", code=3):
    """The results that a test yields are those of this fault; its layer is the first that fails.

    found, hint: a line of each, without the addresses and paths of the test; … is any text.
    """
    expected = Fault(title, layer, status, code, found, hint)
    FAULTS.append(expected)

    def decorate(test):
        @functools.wraps(test)
        def run(self):
            results = list(test(self))
            self.assertTrue(results)
            for result in results:
                with self.subTest(result=result):
                    self.assertFault(result, expected)
        return run
    return decorate


def fault_rows():
    """The rows of the README's table, in the order of the layers."""
    return [(each.title, f"{each.layer}: {each.status}", each.found, each.hint)
            for each in sorted(FAULTS, key=lambda each: LAYERS.index(each.layer))]


def has_line(text, pattern):
    """Whether a line of a text is this, with any text for each … in it."""
    expression = ".*".join(map(re.escape, pattern.split("…")))
    return any(re.match(expression + r"\Z", line) for line in text.splitlines())


class DoctorCase(ServerCase):
    """A machine on which all is well: a session, a key, and a server of the sandbox's data."""

    def setUp(self):
        super().setUp()
        self.secrets = []
        self.use(self.server)

    def use(self, server):
        """The session and the key of a server, at which this client is directed."""
        self.server = server
        session = self.log_in(server=server)
        self.environment.update(TWOSIGNAL_API_KEY=server.key, TWOSIGNAL_URL=server.url)
        self.secrets += [session["access_token"], session["refresh_token"], server.key]

    def use_tls(self, pair="good", ca="ca"):
        """A server with one of the tests' certificates; ca: the name of what is trusted."""
        self.made = certificates(self.folder)
        self.use(self.serve(tls=getattr(self.made, pair)))
        self.environment["SSL_CERT_FILE"] = getattr(self.made, ca)

    def move(self, url):
        """The session and the settings are those of another address."""
        self.environment["TWOSIGNAL_URL"] = url
        self.write("home/session.json", dict(self.state("session.json"), api_url=url))

    def closed_port(self):
        unused = self.enter(socket.socket())
        unused.bind(("127.0.0.1", 0))       # bound, but not listening
        return unused.getsockname()[1]

    def doctor(self, *args, **options):
        """The result of `doctor --json`, with its checks as an attribute, by layer."""
        result = self.run_cli("doctor", "--json", *args, **options)
        self.assertNotIn("Traceback", result.err)
        self.assertNoSecret(result)
        self.assertEqual(list(result.json), ["checks"])
        checks = result.json["checks"]
        for check in checks:
            self.assertEqual(list(check), ["layer", "status", "found", "hint"])
            self.assertIn(check["status"], ("OK", "WARN", "FAIL"))
            if check["status"] != "FAIL":       # a server's refusal may say all there is to say
                self.assertEqual(bool(check["hint"]), check["status"] == "WARN", check)
            self.assertTrue(check["found"])
        names = [check["layer"] for check in checks]
        self.assertEqual(names, [name for name in LAYERS if name in names])
        is_failed = any(check["status"] == "FAIL" for check in checks)
        self.assertEqual(bool(result.code), is_failed, result)
        result.checks = {check["layer"]: check for check in checks}
        return result

    def assertNoSecret(self, result):
        """Neither a secret nor a run of 16 characters of one is in the output."""
        for secret in self.secrets:
            for start in range(max(1, len(secret) - 15)):
                self.assertNotIn(secret[start:start + 16], result.out + result.err)

    def bad(self, result):
        """The layers that are not OK, with their status."""
        return {name: check["status"] for name, check in result.checks.items()
                if check["status"] != "OK"}

    def assertHealthy(self, result, *remarkable):
        """All is well, but for a warning of these layers."""
        self.assertEqual(self.bad(result), dict.fromkeys(remarkable, "WARN"), result)
        self.assertEqual(result.code, 0)
        self.assertEqual(list(result.checks), list(LAYERS))
        return result

    def assertFirst(self, result, layer, status="FAIL", code=3):
        """That layer is the first that is not OK; returns its check."""
        self.assertEqual(list(self.bad(result).items())[:1], [(layer, status)], result)
        self.assertEqual(result.code, code, result)
        return result.checks[layer]

    def assertFault(self, result, expected):
        check = self.assertFirst(result, expected.layer, expected.status, expected.code)
        for name in ("found", "hint") if expected.layer != "TLS" or TELLS_WHY else ("hint",):
            text, pattern = self.general(check[name]), getattr(expected, name)
            self.assertTrue(has_line(text, pattern), f"{pattern!r} is not in {text!r}")

    def general(self, text):
        """A text without the addresses and paths of a test."""
        text = text.replace(self.home, "~/.twosignal").replace(self.folder + os.sep, "")
        return re.sub(r"127\.0\.0\.1:\d+", "HOST", text)


class Healthy(DoctorCase):
    def test_all_layers(self):
        """Nothing is wrong: each layer says what it found, and the exit code is 0."""
        checks = self.assertHealthy(self.doctor()).checks
        for layer, *parts in (
                ("program", twosignal.__version__, "Python %d.%d" % sys.version_info[:2],
                 "checked at 20"),
                ("settings", self.server.url, "TWOSIGNAL_URL", "TWOSIGNAL_API_KEY"),
                ("home", self.home, "TWOSIGNAL_HOME"),
                ("name", "127.0.0.1"), ("connection", "127.0.0.1", "connected"),
                ("proxy", "none"), ("health", "ok"),
                ("TLS", "none"), ("session", OWNER, "OWNER"), ("key", "accepted")):
            for part in parts:
                self.assertIn(part, checks[layer]["found"])

    def test_few_requests(self):
        """Each question is asked once."""
        self.doctor()
        paths = [request.path for request in self.server.requests]
        self.assertLessEqual(len(paths), 5, paths)
        for path in ("/api/v1/health", "/api/v1/traces"):
            self.assertEqual(paths.count(path), 1, paths)

    def test_it_changes_nothing(self):
        """Neither files nor data: a home that is missing stays so."""
        files = {name: self.state(name) for name in os.listdir(self.home)
                 if name.endswith(".json")}
        self.doctor()
        self.assertEqual({name: self.state(name) for name in files}, files)
        self.assertEqual({request.method for request in self.server.requests}, {"GET"})
        missing = self.path("none", "home")
        self.doctor(env={"TWOSIGNAL_HOME": missing})
        self.assertFalse(os.path.exists(self.path("none")))

    def test_connections_are_closed(self):
        """Each, that of the key too."""
        opened = []
        checked = twosignal.checked
        with mock.patch.object(twosignal, "checked", lambda sock, code: (
                opened.append(sock) or checked(sock, code))):
            self.assertHealthy(self.doctor())
        self.assertTrue(opened)
        self.assertEqual({sock.fileno() for sock in opened}, {-1})

    def test_older_dialect(self):
        """Older names, no batches: that is fine, and said."""
        self.use(self.serve(**OLD))
        found = self.assertHealthy(self.doctor()).checks["protocol"]["found"]
        self.assertEqual(found, "tRPC 10, older names\nbatching off")

    def test_current_dialect(self):
        found = self.doctor().checks["protocol"]["found"]
        self.assertEqual(found, "tRPC 11, current names\nbatching on")

    def test_roles(self):
        """The role in each organization."""
        session = self.log_in("viewer@example.com")
        self.secrets += [session["access_token"], session["refresh_token"]]
        found = self.assertHealthy(self.doctor()).checks["session"]["found"]
        self.assertIn("viewer@example.com", found)
        self.assertIn("VIEWER", found)

    def test_ipv6(self):
        with Forwarding(int(self.server.url.rpartition(":")[2])) as other:
            self.move(other.url)
            result = self.assertHealthy(self.doctor())
        self.assertIn("::1", result.checks["name"]["found"])
        self.assertIn("::1 port %d: connected" % other.port, result.checks["connection"]["found"])

    @needs_openssl
    def test_tls(self):
        """What the certificate says, and that it is trusted."""
        self.use_tls()
        found = self.assertHealthy(self.doctor()).checks["TLS"]["found"]
        for part in ("TLSv1.", "Test", "localhost", "127.0.0.1", "trusted"):
            self.assertIn(part, found)
        self.assertRegex(found, r"\b20\d\d-\d\d-\d\d\b")

    @needs_openssl
    def test_certificate_authority_of_a_file(self):
        """--ca-cert, and the one that login saved, count as for other commands."""
        self.use_tls(ca="plain_ca")
        self.assertHealthy(self.doctor("--ca-cert", self.made.ca))
        self.write("home/config.json", {"api_url": self.server.url, "ca_cert": self.made.ca})
        result = self.assertHealthy(self.doctor())
        self.assertIn("certificate authorities: %s (SSL_CERT_FILE), %s (config.json)" % (
            self.made.plain_ca, self.made.ca), result.checks["settings"]["found"].splitlines())

    @needs_openssl
    def test_through_a_proxy(self):
        """Its password is no part of what is said."""
        self.use_tls()
        with Proxy("user", "hunter2secret99x") as proxy:
            self.secrets += ["hunter2secret99x", "dXNlcjpodW50ZXIyc2VjcmV0OTl4"]
            place = proxy.url.replace("http://", "http://user:hunter2secret99x@")
            result = self.doctor(env={"https_proxy": place, "NO_PROXY": None})
        self.assertHealthy(result)
        self.assertIn(proxy.url[7:], result.checks["proxy"]["found"])
        self.assertIn("port %d: connected" % proxy.port, result.checks["connection"]["found"])

    def test_excluded_from_the_proxy(self):
        """no_proxy wins; the settings name both variables."""
        env = {"http_proxy": "http://127.0.0.1:%d" % self.closed_port(), "NO_PROXY": "127.0.0.1"}
        result = self.assertHealthy(self.doctor(env=env))
        self.assertEqual(result.checks["proxy"]["found"], "none")
        for name in env:
            self.assertIn(name, result.checks["settings"]["found"])


class Network(DoctorCase):
    """Between this machine and the server."""

    def hosts(self, url, *addresses):
        """Within the test, each name has these addresses; the server's address has a name."""
        self.move(url)
        self.environment["NO_PROXY"] = "*"
        self.enter(resolved(*addresses))

    @fault("wrong host name", "name", "Cannot resolve the name of 2signal.example.test",
           "Check your --url or TWOSIGNAL_URL setting. "
           "If this network requires a proxy, set …_proxy.")
    def test_wrong_name(self):
        """Row 72: its name cannot be resolved, which may be left to a proxy."""
        for scheme in ("http", "https"):
            self.move(scheme + "://2signal.example.test")
            with mock.patch("socket.getaddrinfo", side_effect=socket.gaierror(-2, "not known")):
                result = self.doctor()
            self.assertIn(" %s_proxy." % scheme, result.checks["name"]["hint"])
            yield result

    @fault("wrong port", "connection", "Connection refused by HOST",
           "Check your --url or TWOSIGNAL_URL setting.")
    def test_wrong_port(self):
        """Row 72: nothing listens there, with and without TLS."""
        for scheme in ("http", "https"):
            self.move("%s://127.0.0.1:%d" % (scheme, self.closed_port()))
            yield self.doctor()

    @fault("silent server, or a firewall in between", "connection",
           "No response from HOST in time",
           "Check the address, firewalls, and your proxy settings.")
    def test_silent_host(self):
        with swallowing() as port:
            for scheme in ("http", "https"):
                self.move("%s://127.0.0.1:%d" % (scheme, port))
                yield self.doctor("--timeout", "0.3")

    @fault("one of several addresses is dead", "connection", "127.0.0.1 port …: no connection",
           "Correct the host's DNS entry, or a firewall in between.", "WARN", 0)
    def test_one_address_is_dead(self):
        port = int(self.server.url.rpartition(":")[2])
        with resolved(address(self.closed_port()), address(port)):
            self.move("http://2signal.localhost:%d" % port)
            yield self.doctor()
        with swallowing() as silent, resolved(address(port), address(silent)):
            yield self.doctor("--timeout", "0.3")

    @fault("dead proxy", "connection", "Connection refused by the proxy HOST",
           "Check your http_proxy, https_proxy or no_proxy setting.")
    def test_dead_proxy(self):
        """Row 72: the address of the proxy is named, not the server's."""
        place = "http://127.0.0.1:%d" % self.closed_port()
        for scheme in ("http", "https"):
            self.move(scheme + "://2signal.example.test")
            yield self.doctor(env={"http_proxy": place, "https_proxy": place, "NO_PROXY": None})

    @fault("proxy that requires a password", "proxy",
           "The proxy HOST requires a valid user name and password (407)",
           "Check http_proxy or https_proxy, or name the host in no_proxy.")
    def test_proxy_with_a_password(self):
        for scheme in ("https", "http"):
            with Proxy("user", "right") as proxy:
                self.move(scheme + "://2signal.example.test")
                yield self.doctor(env={"http_proxy": proxy.url, "https_proxy": proxy.url,
                                       "NO_PROXY": None})

    @fault("proxy that refuses the server", "proxy",
           "The proxy HOST refused the connection to 2signal.example.test (403)",
           "Check http_proxy or https_proxy, or name the host in no_proxy.")
    def test_proxy_that_refuses(self):
        with Scripted(answer("no", 403)) as proxy:
            self.move("https://2signal.example.test")
            yield self.doctor(env={"https_proxy": proxy.url, "NO_PROXY": None})

    @fault("server that the proxy cannot reach", "proxy", "The proxy HOST cannot reach HOST (…)",
           "Check the server's name and port, and that it is running; or add it to no_proxy.")
    def test_proxy_that_cannot_reach_the_server(self):
        """A real one, and the statuses of others."""
        port = self.closed_port()
        self.move("https://127.0.0.1:%d" % port)
        for proxy in (Proxy(), *(Scripted(answer("", code)) for code in (500, 503, 504))):
            with proxy:
                yield self.doctor(env={"https_proxy": proxy.url, "NO_PROXY": None})

    def test_name_of_the_proxy(self):
        """The name is looked up that a connection is made to."""
        self.move("https://2signal.example.test")
        with mock.patch("socket.getaddrinfo", side_effect=socket.gaierror(-2, "not known")):
            result = self.doctor(env={"https_proxy": "http://proxy.test:1", "NO_PROXY": None})
        check = self.assertFirst(result, "name")
        self.assertIn("the proxy proxy.test:1", check["found"])
        self.assertNotIn("If this network requires a proxy", check["hint"])

    def test_proxy_that_is_none(self):
        """A setting of no use is a finding, not the end."""
        for value in ("socks5://user:hunter2secret99x@127.0.0.1:1", "http://"):
            self.secrets.append("hunter2secret99x")
            result = self.doctor(env={"http_proxy": value, "NO_PROXY": None})
            check = self.assertFirst(result, "settings", code=2)
            self.assertIn("http_proxy", check["found"])
            self.assertEqual(result.checks["home"]["status"], "OK")

    def test_goes_on(self):
        """What does not need the network is checked all the same; the rest is named."""
        self.move("https://127.0.0.1:%d" % self.closed_port())
        result = self.doctor()
        self.assertEqual(list(result.checks), list(LAYERS[:5]))
        for format_name in ("table", "markdown", "html"):
            out = self.run_cli("doctor", "--format", format_name).out
            self.assertIn("not checked", out)
            self.assertIn(", ".join(LAYERS[5:]), " ".join(out.split()))

    @posix
    def test_exit_code_of_the_first_failure(self):
        os.chmod(self.home, 0o777)
        self.move("http://127.0.0.1:%d" % self.closed_port())
        result = self.doctor()
        self.assertEqual((result.code, self.bad(result)), (
            1, {"home": "FAIL", "connection": "FAIL"}))


@needs_openssl
class Tls(DoctorCase):
    REPLACE = "Have it replaced on the server."
    REFUSED = "No secure connection to HOST: its certificate is not accepted: "
    TRUST = "If you trust its authority, pass --ca-cert FILE or set SSL_CERT_FILE."

    @fault("wrong CA", "TLS", REFUSED + "unable to get local issuer certificate", TRUST)
    def test_wrong_ca(self):
        """Row 72: an authority that is not trusted."""
        self.use_tls(ca="plain_ca")
        yield self.doctor()

    @fault("self-signed certificate", "TLS", REFUSED + "self…signed certificate", TRUST)
    def test_self_signed(self):
        self.use_tls("self_signed")
        yield self.doctor()

    @fault("expired certificate", "TLS", REFUSED + "certificate has expired",
           "Renew it on the server, or correct this machine's clock.")
    def test_expired(self):
        """Row 72: its dates are read without trusting it."""
        self.use_tls("expired")
        yield self.doctor()

    @fault("certificate about to expire", "TLS", "valid from … to …",
           "Renew the certificate on the server: it expires in 9 days.", "WARN", 0)
    def test_expires_soon(self):
        self.use_tls("ending")
        yield self.doctor()

    @fault("certificate of another host", "TLS", REFUSED + "…'127.0.0.1'…",
           "It was issued for another host: use that name with --url.")
    def test_another_host(self):
        self.use_tls("wrong_host")
        result = self.doctor()
        self.assertIn("elsewhere.example", result.checks["TLS"]["found"])
        yield result

    @unittest.skipUnless(TELLS_WHY, "Python 3.6 does not say that a key is weak")
    @fault("certificate with a weak key", "TLS", REFUSED + "…too weak", REPLACE)
    def test_weak(self):
        made = certificates(self.folder)
        small = certificate_for(self.folder, "IP:127.0.0.1", key="rsa:768")
        for pair, ca_cert in ((made.weak, made.ca), (small, small[0])):
            with Scripted(answer({}), tls=pair) as server:
                self.move(server.url)
                yield self.doctor("--ca-cert", ca_cert)

    @fault("missing or wrong client certificate", "TLS",
           "No secure connection to HOST: it requires a client certificate (certificate required)",
           "Pass one that it accepts with --client-cert FILE.")
    def test_client_certificate(self):
        made = certificates(self.folder)
        for has_tls_1_3 in (True, False):
            with Scripted(answer({}), tls=made.good + (made.ca, has_tls_1_3)) as server:
                self.move(server.url)
                yield self.doctor("--ca-cert", made.ca)

    def test_wrong_client_certificate(self):
        made = certificates(self.folder)
        with Scripted(answer({}), tls=made.good + (made.ca,)) as server:
            self.move(server.url)
            cert, key = made.self_signed
            result = self.doctor("--ca-cert", made.ca, "--client-cert", cert, "--client-key", key)
        self.assertIn("does not accept the client certificate",
                      self.assertFirst(result, "TLS")["found"])

    @fault("https:// for a server without TLS", "TLS",
           "No secure connection to HOST: it does not speak TLS",
           "For a plain HTTP server, use an http:// address.")
    def test_no_tls(self):
        """Row 72: it speaks plain HTTP."""
        self.move(self.server.url.replace("http:", "https:"))
        yield self.doctor()

    @fault("http:// for a server with TLS", "health", "No response: HOST closed the connection",
           "Check your --url or TWOSIGNAL_URL setting. The address of a TLS server begins with https://.")
    def test_plain_text(self):
        self.use_tls()
        self.move(self.server.url.replace("https:", "http:"))
        yield self.doctor()

    @fault("http:// over a network", "TLS", "none",
           "The connection is not encrypted: use an https:// address.", "WARN", 0)
    def test_no_encryption(self):
        port = int(self.server.url.rpartition(":")[2])
        self.move("http://2signal.example.test:%d" % port)
        with resolved(address(port)):
            yield self.doctor(env={"NO_PROXY": "*"})

    @fault("gateway in front of a server that is down", "health",
           "No response: HOST closed the connection",
           "Check your --url or TWOSIGNAL_URL setting. Also check that the server is running.")
    def test_server_behind_tls(self):
        """The certificate is trusted by then, and a proxy has no part in it."""
        made = certificates(self.folder)
        with Scripted(None, tls=made.good) as server, Proxy() as proxy:
            self.move(server.url)
            for env in {}, {"https_proxy": proxy.url, "NO_PROXY": None}:
                result = self.doctor("--ca-cert", made.ca, env=env)
                self.assertIn("trusted", result.checks["TLS"]["found"].splitlines())
                yield result

    def test_trust_is_not_known(self):
        """A handshake that breaks off says nothing about it, nor that a server is down."""
        made = certificates(self.folder)
        with Scripted(None, tls=made.good) as server:
            self.move(server.url)
            connect = twosignal.open_connection
            def break_off(route, deadline, context=None):
                if context and context.check_hostname:
                    raise ConnectionResetError
                return connect(route, deadline, context)
            with mock.patch.object(twosignal, "open_connection", break_off):
                result = self.doctor("--ca-cert", made.ca)
        self.assertFirst(result, "health")
        self.assertNotIn("trusted", result.checks["TLS"]["found"])

    def test_silence(self):
        """A server that accepts the connection, and says nothing."""
        with Scripted(silence) as server:
            self.move(server.url.replace("http:", "https:"))
            result = self.doctor("--timeout", "0.3")
        self.assertIn("No response", self.assertFirst(result, "TLS")["found"])

    def test_files_of_no_use(self):
        """A finding, with the option or variable to correct; the rest is checked all the same."""
        self.use_tls()
        for args, env in ((("--ca-cert", "missing.pem"), {}), ((), {"SSL_CERT_DIR": "/dev/zero"}),
                          (("--client-cert", "missing.pem"), {}),
                          (("--header", "hunter2"), {})):
            with self.subTest(args=args, env=env):
                result = self.doctor(*args, env=env)
                self.assertEqual(result.code, 2)
                self.assertEqual(result.checks["home"]["status"], "OK")
                (layer, _), *_ = self.bad(result).items()
                self.assertIn((args or list(env))[0], result.checks[layer]["hint"])
                self.assertEqual("missing.pem" in args, "path" in result.checks[layer]["hint"])

    def test_nothing_is_sent(self):
        """Row 72: the certificate is read on a connection on which nothing else is sent."""
        self.use_tls(ca="plain_ca")
        for pair in (self.made.good, self.made.expired, self.made.self_signed):
            with Recording(tls=pair) as server:
                self.move(server.url)
                result = self.doctor("--header", "X-Secret: hunter2secret99x")
            self.assertIn("Test" if pair != self.made.self_signed else "localhost",
                          self.assertFirst(result, "TLS")["found"])
            self.assertGreater(len(server.received), 0)
            self.assertEqual(b"".join(server.received), b"")
            self.assertNotIn("session", result.checks)

    def test_nothing_is_sent_before_it_is_trusted(self):
        """The first connections of a trusted server stay empty, too."""
        self.use_tls()
        with Recording(tls=self.made.good) as server:
            self.move(server.url)
            self.assertFirst(self.doctor("--timeout", "0.3"), "health")
        self.assertIn(b"", server.received)
        self.assertGreater(len(server.received), 1)


class Servers(DoctorCase):
    """What answers at the address."""

    BROWSER = "Open http://HOST in a browser: it may be a captive portal."

    PORTALS = (answer("", 302, [("Location", "http://login.portal.example.test/?u=1")]),
               answer("<html>Log in</html>", 200, [("Content-Type", "text/html")]),
               answer("<html>Log in</html>", 511, [("Content-Type", "text/html")]))

    @fault("captive portal", "health", "The server redirects to http://login.portal.example.test",
           twosignal.GATEWAY_HINT, code=8)
    def test_captive_portal(self):
        """Row 72: it redirects everything to its login page."""
        with Scripted(self.PORTALS[0]) as server:
            self.move(server.url)
            yield self.doctor()

    def test_captive_portal_with_a_page(self):
        for portal, words in zip(self.PORTALS[1:], ("web page", "511")):
            with Scripted(portal) as server:
                self.move(server.url)
                check = self.assertFirst(self.doctor(), "health", code=8)
                self.assertIn(words, check["found"])
                self.assertIn("captive portal", check["hint"])
                for request in server.requests:
                    self.assertNotIn(b"Bearer", request)
                    self.assertNotIn(b"Cookie", request)

    @fault("gateway that requires its own login", "health", "The server answered 403 with a web "
           "page that is not 2Signal's protocol", twosignal.GATEWAY_HINT, code=8)
    def test_gateway(self):
        with Scripted(answer("<html>", 403, [("Content-Type", "text/html")])) as server:
            self.move(server.url)
            yield self.doctor()

    @fault("another application on that port", "health",
           "The server answered … that is not 2Signal's protocol", "Check that the address is that "
           "of a 2Signal server. " + BROWSER, code=8)
    def test_other_software(self):
        page = [("Content-Type", "text/html")]
        for response in (answer({"message": "Not found"}, 404), answer("<html>", 404, page),
                         answer("pong"), answer([])):
            with Scripted(response) as server:
                self.move(server.url)
                yield self.doctor()

    def test_another_protocol(self):
        with Scripted(b"SSH-2.0-OpenSSH_9.2\r\n") as server:
            self.move(server.url)
            check = self.assertFirst(self.doctor(), "health", code=8)
            self.assertIn("is not HTTP", check["found"])

    def test_other_software_in_good_health(self):
        with Scripted(answer({"status": "ok"})) as server:
            self.move(server.url)
            self.assertFirst(self.doctor(), "protocol", code=8)
            for request in server.requests:
                self.assertNotIn(b"Cookie", request)

    @fault("redirect to another address", "health",
           "The server redirects to https://new.example.test",
           "If that is right, use --url https://new.example.test.", code=8)
    def test_redirect(self):
        def redirect(connection, request):
            path = request.split(b" ")[1].decode("ascii")
            connection.sendall(answer("", 308, [
                ("Location", "https://new.example.test" + path)]))
        with Scripted(redirect) as server:
            self.move(server.url)
            yield self.doctor()

    @fault("failing server", "health", "The server failed (500)",
           "Try again later. Report this to whoever runs the server.", code=8)
    def test_server_error(self):
        self.server.fault("/api/", times=None, status=500)
        yield self.doctor()

    def test_bad_health(self):
        """What the server says about its health is shown, and a warning if it is not ok."""
        for status, is_bad in (("ok", False), ("OK", False), ("degraded", True)):
            for body in ({"status": status}, {"data": {"status": status}, "error": None}):
                self.server.clear()
                self.server.fault("/api/v1/health", status=200, body=body)
                result = self.assertHealthy(self.doctor(), *["health"] * is_bad)
                self.assertIn(status, result.checks["health"]["found"])

    def test_no_health_endpoint(self):
        """Another version of the server: a warning, and all the rest is checked."""
        for status, body in ((404, "<html>404"), (200, "<html>"), (200, {"ok": True}), (200, []),
                             (200, {"status": 5}), (200, {"data": None}), (200, b"null")):
            self.server.clear()
            self.server.fault("/api/v1/health", times=None, status=status, body=body)
            with self.subTest(body=body):
                self.assertHealthy(self.doctor(), "health")

    @fault("address without the tRPC API", "protocol", "The server answered 404 with a "
           "web page that is not 2Signal's protocol",
           "Check that the address is that of a 2Signal server.", code=8)
    def test_no_trpc(self):
        self.server.fault("/api/trpc", times=None, status=404, body="<html>404")
        yield self.doctor()

    @fault("clock off by an hour", "clock",
           "this machine's clock is 60 minutes … the server's",
           "Synchronize this machine's clock, or the server's, with NTP.", "WARN", 0)
    def test_clock(self):
        """Row 72: in either direction; the remark of other commands is a finding here."""
        for seconds in (3600, -3600):
            self.use(self.serve(date=seconds))
            result = self.doctor()
            self.assertEqual(result.err, "")
            yield result

    def test_clock_off_by_days(self):
        self.use(self.serve(date=-463 * twosignal.DAY))
        self.assertIn("is 463 days ahead", self.doctor().checks["clock"]["found"])

    def test_no_date(self):
        """What is unknown is not OK."""
        self.use(self.serve(date=None))
        self.assertHealthy(self.doctor(), "clock")


class Accounts(DoctorCase):
    """The session and the key."""

    LOG_IN = "Run 'twosignal login' again."

    @fault("expired session", "session", "Authentication expired", LOG_IN, code=4)
    def test_expired(self):
        """Row 72: both tokens have expired."""
        self.server.expire(OWNER)
        self.server.revoke(OWNER)
        self.write("home/session.json", dict(self.state("session.json"), expires_at=1))
        yield self.doctor()

    def test_revoked(self):
        self.server.revoke(OWNER)
        check = self.assertFirst(self.doctor(), "session", code=4)
        self.assertEqual(check["hint"], self.LOG_IN)

    def test_refreshed(self):
        """An access token that has expired is nothing wrong: it is refreshed, as by commands."""
        self.server.expire(OWNER)
        self.write("home/session.json", dict(self.state("session.json"), expires_at=1))
        result = self.doctor()
        session = self.state("session.json")
        self.secrets += [session["access_token"], session["refresh_token"]]
        self.assertNoSecret(result)
        self.assertHealthy(result)
        self.assertGreater(session["expires_at"], 1)

    @fault("no session and no key", "session", "none",
           "Run 'twosignal login' with the same global options.", "WARN", 0)
    def test_nothing(self):
        """Other commands say the same; without --url, the options are not mentioned."""
        os.unlink(os.path.join(self.home, "session.json"))
        env = {"TWOSIGNAL_API_KEY": None}
        result = self.doctor(env=env)
        self.assertEqual(result.checks["session"]["hint"], "Run 'twosignal login'.")
        os.unlink(os.path.join(self.home, "config.json"))
        env["TWOSIGNAL_URL"] = None
        yield self.doctor("--url", self.server.url, env=env)
        for command in ("whoami",), ("orgs", "list"):
            result = self.run_cli(*command, "--url", self.server.url, env=env)
            self.assertFails(result, 4, "Run 'twosignal login' with the same global options.")

    def test_empty_key(self):
        """As in a CI system that lacks the secret."""
        os.unlink(os.path.join(self.home, "session.json"))
        check = self.doctor(env={"TWOSIGNAL_API_KEY": ""}).checks["session"]
        self.assertIn("TWOSIGNAL_API_KEY is empty", check["hint"])

    def test_key_alone(self):
        """A key without a session is how a pipeline works."""
        os.unlink(os.path.join(self.home, "session.json"))
        self.assertHealthy(self.doctor())

    def test_key_alone_at_its_own_address(self):
        """The layers are those of the address that commands use: TWOSIGNAL_BASE_URL with a key."""
        os.unlink(os.path.join(self.home, "session.json"))
        os.unlink(os.path.join(self.home, "config.json"))
        del self.environment["TWOSIGNAL_URL"]
        self.environment["TWOSIGNAL_BASE_URL"] = self.server.url
        other = "http://127.0.0.1:%d" % self.closed_port()
        with mock.patch.object(twosignal, "DEFAULT_URL", other):
            result = self.assertHealthy(self.doctor())
        self.assertIn("%s (TWOSIGNAL_BASE_URL)" % self.server.url,
                      result.checks["settings"]["found"])
        self.environment["TWOSIGNAL_BASE_URL"] = other
        with mock.patch.object(twosignal, "DEFAULT_URL", self.server.url):
            check = self.assertFirst(self.doctor(), "connection")
            self.assertEqual(check["hint"], "Check your TWOSIGNAL_BASE_URL setting.")
            self.assertIn(check["hint"], self.run_cli("traces", "list").err)

    def test_key_of_a_server_without_trpc(self):
        """An address for keys only: what a key can do there works."""
        os.unlink(os.path.join(self.home, "session.json"))
        self.server.fault("/api/trpc", times=None, status=404, body="<html>404")
        result = self.doctor()
        self.assertEqual(list(self.bad(result)), ["protocol"])
        self.assertIn("accepted", result.checks["key"]["found"])

    @posix
    def test_key_without_a_home(self):
        """A key needs no home directory, as in a container: a warning."""
        os.unlink(os.path.join(self.home, "session.json"))
        with self.unprivileged():
            for mode, env in ((0o000, {"TWOSIGNAL_HOME": None, "HOME": self.home}),
                              (0o500, {"TWOSIGNAL_HOME": None, "HOME": self.home}), (0o500, {})):
                os.chmod(self.home, mode)
                try:
                    self.assertOk(self.run_cli("traces", "list", env=env))
                    result = self.doctor(env=env)
                finally:
                    os.chmod(self.home, 0o700)
                self.assertLessEqual(set(self.bad(result).items()), {("home", "WARN")}, result)
                self.assertEqual(result.code, 0)
                self.assertIn("accepted", result.checks["key"]["found"])

    def test_session_alone(self):
        result = self.assertHealthy(self.doctor(env={"TWOSIGNAL_API_KEY": None}))
        self.assertEqual(result.checks["key"]["found"], "none")

    @fault("session of another address", "session", "Not logged in to http://HOST",
           "Run 'twosignal login --url http://HOST'; the stored session belongs to http://HOST.",
           "WARN", 0)
    def test_another_address(self):
        """With a key, that is enough; without one, it is a failure."""
        other = self.serve()
        self.assertFirst(self.doctor(env={"TWOSIGNAL_URL": other.url, "TWOSIGNAL_API_KEY": None}),
                         "session", code=4)
        self.environment.update(TWOSIGNAL_URL=other.url, TWOSIGNAL_API_KEY=other.key)
        self.secrets.append(other.key)
        yield self.doctor()
        for request in other.requests:
            self.assertIsNone(request.headers["Cookie"])

    @fault("revoked key", "key", "The API key is not accepted",
           "Check TWOSIGNAL_API_KEY or its file, or create a key with 'twosignal api-keys create'.",
           code=4)
    def test_revoked_key(self):
        """Row 72: the session is checked all the same."""
        self.server.store.put("api_keys", dict(
            self.server.store.get("api_keys", self.server.keys[0]),
            revokedAt=self.server.world.now()))
        yield self.doctor()

    @fault("rate-limited key", "key", "Rate limited", "Wait a few seconds and retry.", code=7)
    def test_rate_limited_key(self):
        self.server.fault("/api/v1/traces", times=None, status=429,
                          headers={"RateLimit-Limit": "100"})
        yield self.doctor()

    def test_secrets_that_a_server_repeats(self):
        self.server.fault("organization.list", times=None, status=500, body=trpc_error(
            "INTERNAL_SERVER_ERROR", 500, "no db at postgres://u:s3cretpw@h"))
        result = self.doctor()
        self.assertIn("postgres://u:***@h", result.checks["session"]["found"])
        self.assertNotIn("s3cretpw", result.out + result.err)

    def test_rate_limit(self):
        found = self.doctor().checks["key"]["found"]
        self.assertIn("1000 requests a second", found)

    @fault("key of another address than the session", "key", "for http://HOST (TWOSIGNAL_BASE_URL)",
           "It is not checked here; run 'twosignal doctor --url http://HOST'.", "WARN", 0)
    def test_key_of_another_address(self):
        """That server is not asked: neither the session nor --header is for it."""
        other = self.serve()
        del self.environment["TWOSIGNAL_URL"]
        self.secrets.append(other.key)
        yield self.doctor("--header", "X-Gate: open", env={
            "TWOSIGNAL_BASE_URL": other.url, "TWOSIGNAL_API_KEY": other.key})
        self.assertEqual(other.requests, [])
        self.assertEqual(self.server.count("/api/v1/traces"), 0)

    def test_key_of_an_address_that_is_down(self):
        """The setting that counts is named."""
        self.write("home/config.json", {"api_url": self.server.url})
        place = "http://127.0.0.1:%d" % self.closed_port()
        env = {"TWOSIGNAL_BASE_URL": place, "TWOSIGNAL_URL": None}
        check = self.assertFirst(self.doctor("--url", place, env=env), "connection")
        self.assertEqual(check["hint"], "Check your --url or TWOSIGNAL_URL setting.")

    def test_key_that_is_none(self):
        """A file without a key, or a key that no header can carry: a finding."""
        for env in ({"TWOSIGNAL_API_KEY": None, "TWOSIGNAL_API_KEY_FILE": self.path("missing")},
                    {"TWOSIGNAL_API_KEY": "a key"}):
            with self.subTest(env=env):
                result = self.doctor(env=env)
                self.assertTrue(set(self.bad(result)) <= {"settings", "key"}, result)
                self.assertIn(result.code, (1, 2))
                self.assertEqual(result.checks["session"]["status"], "OK")

    def test_key_in_quotes(self):
        """No command works with it, nor without a session: the finding is the variable."""
        result = self.doctor(env={"TWOSIGNAL_API_KEY": '"%s"' % self.server.key})
        (layer, _), *_ = self.bad(result).items()
        self.assertEqual(result.code, 2)
        self.assertIn("TWOSIGNAL_API_KEY is in quotes", result.checks[layer]["found"])


class Machine(DoctorCase):
    """The program, its settings, and the home directory."""

    REPAIR = "Correct or delete it, or run 'twosignal login' again."

    @fault("invalid address", "settings", "TWOSIGNAL_URL is not a server's address: …",
           "It should look like https://twosignal.example.com.", code=2)
    def test_wrong_url(self):
        for url in ("ftp://2signal.example.test", "https://", "https://a b"):
            yield self.doctor(env={"TWOSIGNAL_URL": url})

    def test_password_in_the_address(self):
        self.secrets.append("hunter2secret99x")
        for url in ("https://user:hunter2secret99x@2signal.example.test",
                    "https://2signal.example.test/?key=hunter2secret99x",
                    "https://2signal.example.test#hunter2secret99x",
                    "https://2signal.example.test/?key=abc@hunter2secret99x",
                    "https://user:abc?hunter2secret99x@2signal.example.test"):
            for args, env in ((("--url", url), {}), ((), {"TWOSIGNAL_URL": url})):
                self.assertFirst(self.doctor(*args, env=env), "settings", code=2)

    @fault("damaged config.json", "home", "~/.twosignal/config.json is damaged", REPAIR, code=1)
    def test_damaged_config(self):
        del self.environment["TWOSIGNAL_URL"]
        for content in (b'{"api_url": ', b"[]", b"\xff"):
            self.write("home/config.json", content)
            yield self.doctor()

    @posix
    @fault("session that others can read", "home", "mode 0755",
           "Others can read your session: chmod 600 ~/.twosignal/session.json", "WARN", 0)
    def test_readable_session(self):
        os.chmod(self.path("home"), 0o755)
        os.chmod(self.path("home/session.json"), 0o644)
        yield self.doctor()

    def test_readable_session_in_a_private_directory(self):
        os.chmod(self.path("home/session.json"), 0o644)
        self.assertHealthy(self.doctor())

    @fault("damaged session.json", "home", "~/.twosignal/session.json is damaged", REPAIR, code=1)
    def test_damaged_session(self):
        for content in (b'{"access', b"[]", b""):
            self.write("home/session.json", content)
            yield self.doctor()

    @fault("file in place of the home directory", "home",
           "Cannot use ~/.twosignal: it is not a directory",
           twosignal.HOME_HINT, code=1)
    def test_home_is_a_file(self):
        self.environment["TWOSIGNAL_API_KEY"] = self.server.key
        self.home = self.write("file", "")
        yield self.doctor(env={"TWOSIGNAL_HOME": self.home})

    @posix
    @fault("home directory that everybody may write to", "home",
           "Cannot use ~/.twosignal: everybody may write to it", twosignal.HOME_HINT, code=1)
    def test_home_is_open(self):
        os.chmod(self.home, 0o777)
        yield self.doctor()

    @posix
    def test_home_of_another_user(self):
        owner = os.stat(self.home).st_uid
        if os.geteuid() == 0:
            os.chown(self.home, 65534, 65534)
            result = self.doctor()
        else:
            with mock.patch("os.geteuid", return_value=owner + 1):
                result = self.doctor()
        check = self.assertFirst(result, "home", code=1)
        self.assertIn("it belongs to another user", check["found"])

    @posix
    @fault("unreadable home directory", "home",
           "Cannot read ~/.twosignal/config.json: Permission denied",
           "Check the permissions of the file and its directory.", code=1)
    def test_unreadable_home(self):
        """Row 72: by its mode, for another user than root."""
        for url in (self.server.url, None):     # None: the address cannot be read, either
            for mode in (0o000, 0o400):
                with self.unprivileged():
                    os.chmod(self.home, mode)
                    try:
                        yield self.doctor(env={"TWOSIGNAL_URL": url})
                    finally:
                        os.chmod(self.home, 0o700)

    @posix
    @fault("read-only home directory", "home",
           "Cannot write ~/.twosignal/session.lock: Permission denied",
           "Free some space, correct its permissions, or set TWOSIGNAL_HOME.", code=1)
    def test_unwritable_home(self):
        with self.unprivileged():
            os.chmod(self.home, 0o500)
            try:
                yield self.doctor()
            finally:
                os.chmod(self.home, 0o700)

    @posix
    @fault("lock held by another process", "home",
           "Another process holds the lock ~/.twosignal/session.lock",
           "Wait for it to end, or stop it: 'lsof ~/.twosignal/session.lock' names it.", "WARN", 0)
    def test_lock_is_held(self):
        with contextlib.ExitStack() as holder:
            with replaced_environment(self.environment):
                holder.enter_context(twosignal.Spending(time.monotonic() + 60))
            yield self.doctor()

    def test_no_home(self):
        """A home directory that is not there yet is fine; it is made by login."""
        for place in (self.path("new"), self.path("new", "a", "b")):
            result = self.doctor(env={"TWOSIGNAL_HOME": place})
            self.assertEqual(result.checks["home"]["status"], "OK")
            self.assertFalse(os.path.exists(self.path("new")))

    @fault("home directory that cannot be created", "home", "Cannot create it in …",
           twosignal.HOME_HINT, code=1)
    def test_no_place_for_a_home(self):
        """Below a file, and where this user may not write."""
        places = [os.path.join(self.write("file", ""), "a", "home")]
        if os.name != "nt" and os.geteuid() != 0:
            os.mkdir(self.path("closed"), 0o500)
            places.append(self.path("closed", "home"))
        for place in places:
            yield self.doctor(env={"TWOSIGNAL_HOME": place, "TWOSIGNAL_API_KEY": None})
            result = self.doctor(env={"TWOSIGNAL_HOME": place})
            self.assertEqual(self.bad(result), {"home": "WARN"})

    @needs_openssl
    def test_python_without_ssl(self):
        """The program has none, and with https:// in the settings it cannot work."""
        self.use_tls()
        with mock.patch.dict(sys.modules, ssl=None, _ssl=None):
            result = self.doctor()
        self.assertEqual(result.checks["program"]["found"].splitlines()[-1], "no ssl module")
        self.assertIn("without ssl", self.assertFirst(result, "settings")["found"])


class Hostile(DoctorCase):
    """Whatever answers, each layer is one of the three, and nothing raw gets out."""

    def test_no_http(self):
        for script, code in ((b"", 3), (b"{}", 8), (b"\x15\x03\x01\x00\x02\x02F", 8), (reset, 3),
                             (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", 3),
                             (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}", 8),
                             (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", 8)):
            with Scripted(script) as server:
                self.move(server.url)
                self.assertFirst(self.doctor(), "health", code=code)

    def test_odd_answers(self):
        """Valid HTTP and JSON, and not what the protocol says."""
        for fragment, layer, bodies in (
                ("/api/trpc/trace", "protocol", (b"null", [], [1, 2, 3], [{}, {}, {}],
                                                 [{"error": 1}] * 3, {"error": {"json": 5}})),
                ("organization.list", "session", [{"result": {"data": {"json": value}}}
                                                  for value in (None, "x", [1])]),
                ("/api/v1/traces", "key", (b"null", {"traces": 5}, {"data": None}, "x"))):
            for body in bodies:
                self.server.clear()
                self.server.fault(fragment, times=None, status=200, body=body)
                with self.subTest(fragment=fragment, body=body):
                    self.assertFirst(self.doctor(), layer, code=8)

    def test_controls(self):
        """Row 35: what a server says is one line, without a control character."""
        text = "\x1b[31m\nkey         FAIL    forged\u202e"
        organizations = [{"role": text, "name": text}]
        for fragment, body in (
                ("/api/v1/health", {"status": text}),
                ("organization.list", {"result": {"data": {"json": organizations}}})):
            self.server.clear()
            self.server.fault(fragment, times=None, status=200, body=body)
            for args in ((), ("--format", "csv"), ("--format", "html"), ("--json",)):
                out = self.run_cli("doctor", *args).out
                self.assertNotIn("\x1b", out)
                self.assertNotIn("\u202e", out)
                self.assertNotIn("\nkey         FAIL", out)


class Output(DoctorCase):
    def test_formats(self):
        """Each format has each layer, and the hint of what is wrong."""
        self.server.revoke(OWNER)
        for name in ("report.txt", "report.json", "report.html", "report.csv", "report.md"):
            with self.subTest(name=name):
                result = self.run_cli("doctor", "-o", self.path(name))
                self.assertEqual(result.code, 4)
                with open(self.path(name), encoding="utf-8") as file:
                    text = file.read()
                for word in LAYERS + ("FAIL", "Authentication expired", "twosignal login"):
                    self.assertIn(word, text.replace("&#x27;", "'"))

    def test_text(self):
        """In 80 columns nothing that matters is cut: what was found, and each hint."""
        self.server.revoke(OWNER)
        result = self.run_cli("doctor", columns=80)
        words = " ".join(result.out.split())
        for check in self.doctor().json["checks"]:
            for name in ("layer", "status", "hint"):
                self.assertIn(check[name], words)
        self.assertLessEqual(max(map(len, result.lines)), 80)

    @needs_openssl
    def test_no_secret(self):
        """Rows 34, 72: no token, key, password or header in any format, whatever fails."""
        self.use_tls()
        canary = "hunter2secret99x"
        self.secrets += [canary, "dXNlcjpodW50ZXIyc2VjcmV0OTl4"]
        for broken in ("", "/api/v1/health", "/api/trpc", "/api/v1/traces"):
            if broken:
                self.server.fault(broken, times=None, status=500, body="You sent %s, %s" % (
                    canary, " ".join(self.secrets)))
            with Proxy("user", canary) as proxy:
                place = proxy.url.replace("http://", "http://user:%s@" % canary)
                for args in ((), ("--json",), ("--debug",), ("--format", "html"),
                             ("--format", "csv"), ("--debug", "--json")):
                    with self.subTest(broken=broken, args=args):
                        self.assertNoSecret(self.run_cli(
                            "doctor", "--header", "X-Secret: " + canary, *args,
                            env={"https_proxy": place, "NO_PROXY": None,
                                 "TWOSIGNAL_PASSWORD": canary}))

    def test_no_secret_that_a_server_repeats(self):
        """Row 34: in what it says, and where it redirects to."""
        for fragment, fault in (
                ("organization.list", {"status": 400, "body": trpc_error(
                    "BAD_REQUEST", 400, "You sent " + self.secrets[0])}),
                ("/api/v1/traces", {"status": 400, "body": {
                    "error": {"code": "X", "message": "You sent " + self.server.key}}}),
                ("/api/v1/traces", {"status": 307, "headers": {
                    "Location": "https://a.test/%s/api/v1/traces?limit=1" % self.server.key}})):
            self.server.clear()
            self.server.fault(fragment, times=None, **fault)
            self.assertNotEqual(self.doctor("--debug").code, 0)

    def test_help(self):
        result = self.assertOk(self.run_cli("doctor", "--help"), err="")
        self.assertIn("doctor", result.out)
        self.assertEqual(self.server.requests, [])

    def test_others_point_to_it(self):
        """Errors of other commands in these layers name the command, others do not."""
        for fragment, options, is_named in (
                ("organization.list", {"reset": True}, True),
                ("organization.list", {"body": "<html>"}, True),
                ("organization.list", {"status": 403}, False),
                ("organization.list", {"status": 400}, False)):
            self.server.clear()
            self.server.fault(fragment, times=None, **options)
            result = self.run_cli("orgs", "list")
            self.assertEqual("twosignal doctor" in result.err, is_named, result)
        self.move("http://127.0.0.1:%d" % self.closed_port())
        self.assertIn("twosignal doctor", self.run_cli("orgs", "list").err)


if __name__ == "__main__":
    unittest.main()
