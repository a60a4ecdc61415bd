"""The section Transport: certificates, the server's and the client's, and headers of gateways."""
import os
import sys
import tempfile
import time
import unittest
from unittest import mock

import twosignal
from servers import (Proxy, Scripted, answer, certificate_for, certificates, header, needs_openssl,
                     reset)
from tools import DEADLINE, Case, ServerCase, file_bytes, trpc_error

try:
    import ssl
except ImportError:     # the tests that need it are skipped
    ssl = None

LIST = {"result": {"data": {"json": []}}}
SOME_ID = "11111111-1111-4111-8111-111111111111"
TELLS_WHY = sys.version_info >= (3, 7)


class TlsCase(Case):
    """Commands against servers that speak TLS, as a logged-in user."""

    def setUp(self):
        super().setUp()
        self.made = certificates(self.folder)
        # What the machine trusts has no part in it.
        self.environment["SSL_CERT_FILE"] = self.made.plain_ca

    def asked(self, tls, *args, command=("orgs", "list"), env=None, answers=answer(LIST)):
        """(the result of a command, the server), which has a session there."""
        with Scripted(answers, tls=tls) as server:
            self.write("home/session.json", {
                "access_token": "a.b.c", "refresh_token": "r", "expires_at": 4e9,
                "project_ref": "p", "user_id": "u", "user_email": "e", "api_url": server.url})
            result = self.run_cli(*command + args, "--url", server.url, env=env)
        return result, server

    def assertRefused(self, tls, *args, parts=(), env=None):
        result, server = self.asked(tls, *args, env=env)
        self.assertFails(result, 3, "No secure connection", *parts)
        self.assertEqual((server.requests, server.connections, self.naps), ([], 1, []))
        return result.err


def der(tag, *parts):
    """A value in DER; texts are encoded."""
    content = b"".join(part.encode("ascii") if isinstance(part, str) else part for part in parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes(4, "big").lstrip(b"\0")
    return bytes([tag, 0x80 + len(length)]) + length + content


def name_of(*parts):
    """The DER of a name made of (last byte of the object identifier 2.5.4.*, tag, text)."""
    return der(0x30, *(der(0x31, der(0x30, der(0x06, b"U\4" + bytes([kind])), der(tag, text)))
                       for kind, tag, text in parts))


def certificate_of(start=(0x17, "260101000000Z"), end=(0x17, "270101000000Z"), issuer=None,
                   extensions=(), key=b"", version=der(0xa0, b"\2\1\2"), subject=None):
    """The DER of a certificate; extensions: (object identifier, content, is critical)."""
    below = [der(0x30, der(0x06, kind), b"\1\1\xff" if is_critical else b"", der(0x04, content))
             for kind, content, is_critical in extensions]
    issuer = issuer or name_of((3, 0x0c, "Test"))
    body = der(0x30, version, der(0x02, b"\1"), der(0x30, b""), issuer,
               der(0x30, der(*start), der(*end)), subject or name_of((3, 0x13, "leaf.test")),
               der(0x30, der(0x06, b"*"), der(0x03, key)),
               der(0xa3, der(0x30, *below)) if below else b"")
    return der(0x30, body, der(0x30, b""), der(0x03, b"\0"))


class ReadCertificates(unittest.TestCase):
    """The DER of a certificate, of which no byte is trusted."""

    NAMES = (b"U\x1d\x11", der(0x30, der(0x82, "a.test"), der(0x82, "*.b.test"),
                               der(0x87, b"\x7f\0\0\1"), der(0x87, b"\0" * 15 + b"\1"),
                               der(0x81, "mail@c.test"), der(0x86, "https://d.test")), False)

    def read(self, **parts):
        return twosignal.read_certificate(certificate_of(**parts))

    def test_common_name_counts_without_alternatives(self):
        self.assertEqual(self.read(), ("CN=Test", 1767225600, 1798761600, ["CN=leaf.test"]))
        self.assertEqual(self.read(version=b"")[3], ["CN=leaf.test"])     # version 1

    def test_alternative_names(self):
        """Hosts and addresses; whether the extension is critical, and whatever stands before it."""
        other = (b"U\x1d\x0f", b"\x03\x02\5\xa0", True)
        for extensions in ([self.NAMES], [other, self.NAMES], [self.NAMES[:2] + (True,), other]):
            self.assertEqual(self.read(extensions=extensions)[3],
                             ["a.test", "*.b.test", "127.0.0.1", "::1"])

    def test_names_in_each_encoding(self):
        """UTF8String, PrintableString, TeletexString, BMPString, UniversalString."""
        for tag, encoding in ((0x0c, "utf-8"), (0x13, "ascii"), (0x14, "latin-1"),
                              (0x1e, "utf-16-be"), (0x1c, "utf-32-be")):
            text = "Tëst" if encoding != "ascii" else "Test"
            issuer = name_of((6, 0x13, "DE"), (10, tag, text.encode(encoding)), (3, 0x0c, "x"))
            self.assertEqual(self.read(issuer=issuer)[0], "O=%s, CN=x" % text)
        broken = name_of((3, 0x0c, b"a\xff"), (10, 0x1e, b"\0a\xd8"))
        self.assertEqual(self.read(issuer=broken)[0], "CN=a\ufffd, O=a\ufffd")

    def test_times(self):
        """UTCTime is of 1950 to 2049; GeneralizedTime of any year."""
        for tag, text, seconds in ((0x17, "500101000000Z", -631152000),
                                   (0x17, "491231235959Z", 2524607999),
                                   (0x18, "20500101000000Z", 2524608000),
                                   (0x18, "99991231235959Z", 253402300799)):
            self.assertEqual(self.read(end=(tag, text))[2], seconds)
        for tag, text in ((0x17, "260101000000"), (0x17, "261301000000Z"), (0x18, "2026"),
                          (0x17, ""), (0x17, "260101000000+0100"), (0x18, b"\xff" * 15)):
            self.assertIsNone(self.read(end=(tag, text)))

    def test_long_lengths(self):
        """Lengths of one, two and three bytes, in names, keys and extensions."""
        for size in (127, 128, 255, 256, 65536):
            names = b"U\x1d\x11", der(0x30, der(0x82, b"x" * size)), False
            self.assertEqual(self.read(key=b"k" * size, extensions=[names])[3], ["x" * size])

    def test_not_readable(self):
        """Row 25: no certificate, or only a part of one, is said; it raises nothing."""
        whole = certificate_of(extensions=[self.NAMES])
        for garbage in (b"", b"0", b"\x30\x80\0\0", b"\x30\xff" + b"\xff" * 200, b"\0" * 100,
                        b"-----BEGIN CERTIFICATE-----", der(0x30), der(0x30, der(0x30)),
                        *(whole[:size] for size in range(len(whole)))):
            self.assertIsNone(twosignal.read_certificate(garbage), garbage)

    def test_each_byte_may_be_wrong(self):
        """Row 25: whatever a byte is replaced by, nothing is raised."""
        whole = certificate_of(extensions=[self.NAMES])
        for position in range(len(whole)):
            for value in (0, 1, 0x30, 0x7f, 0x80, 0x84, 0xff):
                changed = whole[:position] + bytes([value]) + whole[position + 1:]
                self.assertIn(type(twosignal.read_certificate(changed)), (tuple, type(None)))

    def test_wrong_addresses(self):
        """An IP address of five bytes is none."""
        names = b"U\x1d\x11", der(0x30, der(0x87, b"12345")), False
        self.assertIsNone(self.read(extensions=[names]))

    @needs_openssl
    def test_real_ones(self):
        """Keys of RSA and EC, as openssl makes them."""
        with tempfile.TemporaryDirectory() as folder:
            made = certificates(folder)
            pairs = [(made.good, "CN=Test", ["localhost", "127.0.0.1"]),
                     (made.expired, "CN=Test", ["localhost", "127.0.0.1"]),
                     (made.plain, "CN=Plain", ["localhost", "127.0.0.1"]),
                     (certificate_for(folder, "DNS:*.x.test", "y"), "CN=y", ["*.x.test"])]
            for (path, _), issuer, names in pairs:
                with open(path, encoding="ascii") as file:
                    read = twosignal.read_certificate(ssl.PEM_cert_to_DER_cert(file.read()))
                self.assertEqual((read[0], read[3]), (issuer, names))
                self.assertEqual(read[2] < time.time(), path == made.expired[0])


@needs_openssl
class PeerCertificates(Case):
    """What a server shows, which nobody has verified."""

    # PyPy and older versions of CPython give the server's own certificate only.
    HAS_CHAIN = hasattr(getattr(ssl, "SSLSocket", None), "get_unverified_chain")

    def test_chain(self):
        """The server's own certificate first, then those that it sends along; no byte is sent."""
        made = certificates(self.folder)
        both = self.write("both.pem", file_bytes(made.below[0]) + file_bytes(made.middle))
        with Scripted(answer(LIST), tls=(both, made.below[1])) as server:
            route = "https", "127.0.0.1:%d" % server.port, None, {}
            protocol, chain = twosignal.peer_certificates(route, time.monotonic() + DEADLINE)
        self.assertTrue(protocol.startswith("TLSv1."))
        issuers = [twosignal.read_certificate(each)[0] for each in chain]
        self.assertEqual(issuers, ["CN=Middle", "CN=Test"][:1 + self.HAS_CHAIN])
        self.assertEqual(server.requests, [])


@needs_openssl
class PlainText(TlsCase):
    def test_says_how_the_address_begins(self):
        """As http:// is added to localhost, somebody may have meant https://."""
        with Scripted(answer(LIST), tls=self.made.good) as server:
            result = self.run_cli("login", "-e", "a@b.c", "--password-stdin", "--url",
                                  server.url.replace("https://", "http://"), stdin="x")
        self.assertIn("The address of a TLS server begins with https://.", result.err)


@needs_openssl
class TrustedFiles(TlsCase):
    """What is in the file of --ca-cert is trusted, alike on every Python."""

    def test_what_is_in_the_file_is_trusted(self):
        """Row 46: an authority without key identifiers, an intermediate, the certificate itself."""
        for tls, ca_cert in ((self.made.good, self.made.ca), (self.made.plain, self.made.plain_ca),
                             (self.made.below, self.made.middle),
                             (self.made.good, self.made.good[0]),
                             (self.made.self_signed, self.made.self_signed[0])):
            with self.subTest(ca_cert=ca_cert):
                self.assertOk(self.asked(tls, "--ca-cert", ca_cert)[0], err="")

    def test_nothing_else_is(self):
        """Row 46: neither a sibling nor another key of the same name."""
        for tls, ca_cert in ((self.made.below, self.made.good[0]),
                             (self.made.self_signed, self.made.good[0]),
                             (self.made.good, self.made.middle)):
            self.assertRefused(tls, "--ca-cert", ca_cert)

    def test_versions_and_strictness(self):
        context = twosignal.tls_context()
        self.assertFalse(context.verify_flags & 0x20)       # VERIFY_X509_STRICT
        if TELLS_WHY:
            self.assertGreaterEqual(context.minimum_version, ssl.TLSVersion.TLSv1_2)

    def test_files_that_cannot_be_used(self):
        """Row 28: one line, exit 2; nothing is waited for, and nothing is sent."""
        for name, content in (("missing.pem", None), ("no.pem", "x"), ("pipe.pem", os.mkfifo),
                              ("folder.pem", os.mkdir), ("key.pem", file_bytes(self.made.good[1]))):
            path = self.path(name)
            if callable(content):
                content(path)
            elif content is not None:
                self.write(name, content)
            with self.subTest(name=name):
                result, server = self.asked(self.made.good, "--ca-cert", path)
                self.assertFails(result, 2, "--ca-cert", name, "PEM")
                self.assertEqual(server.requests, [])


@needs_openssl
class ReasonsOfRefusal(TlsCase):
    """Why a server's certificate is not accepted."""

    def test_reasons(self):
        """Row 46: OpenSSL's own words, with a hint that fits."""
        for tls, ca_cert, reason, hint in (
                (self.made.expired, self.made.ca, "certificate has expired", "clock"),
                (self.made.wrong_host, self.made.ca, "127.0.0.1", "--url"),
                (self.made.weak, self.made.ca, "too weak", "replaced on the server"),
                (self.made.client, self.made.ca, "purpose", "replaced on the server"),
                (self.made.self_signed, None, "self", "--ca-cert FILE"),
                (self.made.good, None, "issuer certificate", "--ca-cert FILE"),
                (self.made.good, self.made.middle, "issuer certificate", self.made.middle)):
            with self.subTest(tls=tls, ca_cert=ca_cert):
                if not TELLS_WHY and tls != self.made.wrong_host:
                    reason, hint = "Python 3.6 does not say why", "authority"
                args = ("--ca-cert", ca_cert) if ca_cert else ()
                error = self.assertRefused(tls, *args, parts=(reason, hint))
                self.assertEqual("--ca-cert" in error, ca_cert is None, error)

    def test_file_of_the_environment(self):
        """Row 46: SSL_CERT_FILE that leads nowhere, or to a file without certificates, is told."""
        for name, reason in (("missing.pem", "No such file"), ("key.pem", "no certificate")):
            self.write("key.pem", "x")
            env = {"SSL_CERT_FILE": self.path(name), "SSL_CERT_DIR": self.path("none")}
            self.assertRefused(self.made.good, env=env, parts=(
                "Correct SSL_CERT_FILE: ", name, reason))
            error = self.assertRefused(self.made.good, "--ca-cert", self.made.plain_ca, env=env,
                                       parts=("SSL_CERT_FILE", name))
            self.assertNotIn("--ca-cert", error)
            result, _ = self.asked(self.made.good, "--ca-cert", self.made.ca, env=env)
            self.assertOk(result, err="")

    @unittest.skipIf(os.name == "nt", "no FIFOs")
    def test_fifos_of_the_environment(self):
        """Row 62: no file that a variable names is waited for; what takes no part is harmless."""
        pipe = self.path("pipe")
        os.mkfifo(pipe)
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
            for path in (pipe, "/dev/zero"):
                result, server = self.asked(self.made.good, "--ca-cert", self.made.ca,
                                            env={name: path})
                self.assertFails(result, 2, name, path, "Not a regular file")
                self.assertEqual(server.requests, [])
            for path in (os.devnull, self.write("file", "")):
                self.assertOk(self.asked(self.made.good, "--ca-cert", self.made.ca,
                                         env={name: path})[0], err="")

    def test_directory_that_cannot_be_listed(self):
        """Row 46: it counts as empty."""
        os.mkdir(self.path("closed"), 0)
        env = {"SSL_CERT_FILE": None, "SSL_CERT_DIR": self.path("closed")}
        paths = mock.Mock(cafile=None, capath=self.path("closed"))
        with mock.patch.object(ssl, "get_default_verify_paths", return_value=paths), \
                mock.patch.object(os, "listdir", side_effect=PermissionError()), \
                mock.patch.object(os, "scandir", side_effect=PermissionError()):
            self.assertRefused(self.made.good, env=env, parts=("no CA certificates", "--ca-cert"))


@needs_openssl
class NamesOfCertificates(TlsCase):
    """For which hosts a certificate is: the same on every Python."""

    def is_accepted(self, host, *names):
        pair = certificate_for(self.folder, *names)
        with Scripted(answer(LIST), tls=pair) as server:
            with Proxy(hosts={host: ("127.0.0.1", server.port)}) as proxy:
                url = "https://%s:%d" % (host, server.port)
                self.write("home/session.json", {
                    "access_token": "a.b.c", "refresh_token": "r", "expires_at": 4e9,
                    "project_ref": "p", "user_id": "u", "user_email": "e", "api_url": url})
                result = self.run_cli("orgs", "list", "--url", url, "--ca-cert", pair[0],
                                      env={"https_proxy": proxy.url, "no_proxy": None})
        if result.code:
            self.assertFails(result, 3, "certificate is not accepted", "another host")
        return result.code == 0

    def test_wildcards(self):
        """Row 46: one is a whole label, the first of at least three."""
        for host, names, is_accepted in (
                ("localhost", "DNS:localhost", True), ("localhost", "DNS:*", False),
                ("localhost", "DNS:loc*", False), ("localhost", "DNS:*, DNS:localhost", True),
                ("a.test", "DNS:*.test", False), ("a.test", "DNS:a.*", False),
                ("a.b.test", "DNS:*.b.test", True), ("a.b.test", "DNS:a*.b.test", False),
                ("a.b.test", "DNS:*.*.test", False), ("a.b.test", "DNS:*.test", False),
                ("b.test", "DNS:*.b.test", False), ("a.b.test", "DNS:A.b.TEST", True)):
            with self.subTest(host=host, names=names):
                self.assertIs(self.is_accepted(host, names), is_accepted)

    def test_common_name(self):
        """Row 46: it is a host's name, without alternatives; wildcards are limited there too."""
        for host, name, is_accepted in (
                ("a.b.test", "a.b.test", True), ("localhost", "*", False),
                ("a.test", "*.test", False), ("a.b.test", "*.b.test", True)):
            with self.subTest(host=host, name=name):
                self.assertIs(self.is_accepted(host, "", name), is_accepted)
        self.assertFalse(self.is_accepted("a.b.test", "DNS:c.test", "a.b.test"))

    def test_addresses(self):
        """Row 46: an IP address is no name."""
        for names, is_accepted in ((("IP:127.0.0.1", "x"), True), (("", "127.0.0.1"), False),
                                   (("DNS:127.0.0.1", "x"), False), (("DNS:*.0.0.1", "x"), False)):
            with self.subTest(names=names):
                self.assertIs(self.is_accepted("127.0.0.1", *names), is_accepted)


@needs_openssl
class SavedAuthorities(ServerCase):
    """login saves --ca-cert for the address of the server."""

    def setUp(self):
        Case.setUp(self)
        self.made = certificates(self.folder)
        self.environment["SSL_CERT_FILE"] = self.made.plain_ca
        self.server = self.serve(tls=self.made.good)

    def login(self, *args, server=None, **options):
        return self.run_cli("login", "-e", "owner@example.com", "--password-stdin", "--url",
                            (server or self.server).url, *args, stdin="owner-pass\n", **options)

    def test_saved_and_used(self):
        """Row 46: as an absolute path; however the address is given."""
        relative = os.path.relpath(self.made.ca)
        for given in (self.made.ca, relative, "~/ca.pem"):
            with self.subTest(given=given):
                self.assertOk(self.login("--ca-cert", given))
                self.assertEqual(self.state("config.json"),
                                 {"api_url": self.server.url, "ca_cert": self.made.ca})
                for args, env in (((), {}), (("--url", self.server.url + "/login"), {}),
                                  ((), {"TWOSIGNAL_URL": self.server.url})):
                    self.assertOk(self.run_cli("orgs", "list", *args, env=env))

    def test_login_again(self):
        """The same address keeps the file, another one does not."""
        self.assertOk(self.login("--ca-cert", self.made.ca))
        self.assertOk(self.login())
        self.assertEqual(self.state("config.json")["ca_cert"], self.made.ca)
        self.assertOk(self.login(server=self.serve()))
        self.assertNotIn("ca_cert", self.state("config.json"))
        self.assertFails(self.login(), 3, "No secure connection")

    def test_other_servers(self):
        """An authority for one server is not trusted for another."""
        self.assertOk(self.login("--ca-cert", self.made.ca))
        other = self.serve(tls=self.made.good)
        self.assertFails(self.login(server=other), 3, "No secure connection")

    def test_option_takes_precedence(self):
        self.assertOk(self.login("--ca-cert", self.made.ca))
        result = self.run_cli("orgs", "list", "--ca-cert", self.made.middle)
        self.assertFails(result, 3, "No secure connection")

    def test_a_file_that_has_gone(self):
        """The error names the file that names it."""
        self.assertOk(self.login("--ca-cert", self.made.ca))
        os.rename(self.made.ca, self.path("moved.pem"))
        self.assertFails(self.run_cli("orgs", "list"), 2, self.made.ca,
                         os.path.join(self.home, "config.json"))
        self.assertOk(self.login("--ca-cert", self.path("moved.pem")))

    def test_written_by_hand(self):
        """A relative path is one in the home directory."""
        self.log_in()
        self.write("home/mine.pem", file_bytes(self.made.ca))
        self.write("home/config.json", {"api_url": self.server.url + "/", "ca_cert": "mine.pem"})
        self.assertOk(self.run_cli("orgs", "list"))


@needs_openssl
class ClientCertificates(TlsCase):
    def options(self, pair):
        return "--client-cert", pair[0], "--client-key", pair[1]

    def test_accepted(self):
        """--client-cert and --client-key anywhere, one file for both, or the environment."""
        both = self.write("both.pem", b"".join(map(file_bytes, self.made.client)))
        cert, key = self.made.client
        for has_tls_1_3 in (True, False):
            tls = self.made.good + (self.made.ca, has_tls_1_3)
            for args, env in ((self.options(self.made.client), {}), (("--client-cert", both), {}),
                              ((), {"TWOSIGNAL_CLIENT_CERT": cert, "TWOSIGNAL_CLIENT_KEY": key}),
                              ((), {"TWOSIGNAL_CLIENT_CERT": "~/both.pem"}),
                              (("--client-cert", both),
                               {"TWOSIGNAL_CLIENT_KEY": self.made.other_key}),
                              (self.options(self.made.client), {
                                  "TWOSIGNAL_CLIENT_CERT": "x", "TWOSIGNAL_CLIENT_KEY": "y"})):
                with self.subTest(args=args, env=env):
                    result, _ = self.asked(tls, "--ca-cert", self.made.ca, *args, env=env)
                    self.assertOk(result, err="")

    def test_refused(self):
        """Row 46: said in one way, exit 3, for changes too: none was made, none is repeated."""
        path = self.write("large.json", '"%s"' % ("x" * 4000000))
        large = ("datasets", "add-item", SOME_ID, "--project", SOME_ID, "--input", "@" + path)
        for has_tls_1_3 in (True, False):
            tls = self.made.good + (self.made.ca, has_tls_1_3)
            for command in (("orgs", "list"), ("orgs", "create", "X"), large):
                for args, words in (((), "requires a client certificate"),
                                    (self.options(self.made.self_signed),
                                     "does not accept the client certificate")):
                    with self.subTest(tls=has_tls_1_3, command=command[:2], words=words):
                        result, server = self.asked(tls, "--ca-cert", self.made.ca, *args,
                                                    command=command)
                        self.assertFails(result, 3, words, "with --client-cert FILE")
                        self.assertEqual((server.requests, server.connections), ([], 1))

    def test_a_connection_that_breaks_is_something_else(self):
        """Row 22: without an alert, the outcome of a change is unknown."""
        result, _ = self.asked(self.made.good, "--ca-cert", self.made.ca, answers=reset,
                               command=("orgs", "create", "X"))
        self.assertFails(result, 9, "outcome is unknown")

    def test_files_that_cannot_be_used(self):
        """One line that names the file, exit 2; OpenSSL does not prompt for a password."""
        cert, key = self.made.client
        missing, pipe = self.path("missing.pem"), self.path("pipe.pem")
        os.mkfifo(pipe)
        for args, words in (
                (("--client-cert", missing), missing),
                (("--client-cert", cert), "%s: there is no private key" % cert),
                (("--client-cert", pipe), "Not a regular file"),
                (("--client-cert", key), "no certificate"),
                (("--client-cert", cert, "--client-key", missing), missing),
                (("--client-cert", cert, "--client-key", cert), "no private key"),
                (("--client-cert", cert, "--client-key", pipe), "Not a regular file"),
                (("--client-cert", cert, "--client-key", self.made.encrypted_key), "is encrypted"),
                (("--client-cert", cert, "--client-key", self.made.other_key), "KEY_VALUES"),
                (("--client-key", key), "--client-cert")):
            with self.subTest(args=args):
                result, server = self.asked(self.made.good, *args)
                self.assertFails(result, 2, "--client-", words)
                self.assertEqual(server.requests, [])


class GatewayHeaders(ServerCase):
    SECRET = ("--header", "CF-Access-Client-Secret: s3cret value")

    def setUp(self):
        super().setUp()
        self.log_in()

    def sent(self, *args, command=("orgs", "list"), env=None):
        """The requests of a command that succeeds."""
        self.server.clear()
        self.assertOk(self.run_cli(*command, *args, env=env))
        return self.server.requests

    def test_sent_with_each_request(self):
        """Anywhere on the command line; to log in, to refresh and to log out, too."""
        for place in range(3):
            words = ["orgs", "list"]
            words[place:place] = self.SECRET + ("--header", "X-Team:ops")
            for request in self.sent(command=words):
                self.assertEqual((request.headers["cf-access-client-secret"],
                                  request.headers["x-team"]), ("s3cret value", "ops"))
        self.write("home/session.json", dict(self.state("session.json"), expires_at=1))
        self.assertIn("refresh", self.sent(*self.SECRET)[0].path)
        for request in self.server.requests:
            self.assertEqual(request.headers["CF-Access-Client-Secret"], "s3cret value")
        request, = self.sent(*self.SECRET, "--header", "authorization: Basic abcd",
                             command=("logout",))
        credential, = request.headers.get_all("Authorization")
        self.assertTrue(credential.startswith("Bearer ey"))
        self.assertEqual(request.headers["CF-Access-Client-Secret"], "s3cret value")

    def test_environment(self):
        """One a line; those of the command line are added, and replace equal names."""
        env = {"TWOSIGNAL_HEADERS": "X-One: 1\r\n\n  x-two: 2  \nAuthorization: Basic abcd"}
        request, = self.sent("--header", "X-Two: 3", "--header", "X-Three: 4", env=env)
        self.assertEqual([request.headers[name] for name in (
            "X-One", "X-Two", "X-Three", "Authorization")], ["1", "3", "4", "Basic abcd"])
        self.assertEqual(len(request.headers.get_all("X-Two")), 1)

    def test_refused(self):
        """A usage error that does not repeat the value; no request is made."""
        for text in ("Host: canary", "cookie: canary", "Content-Length: canary", "TE: canary",
                     "Transfer-Encoding: canary", "Connection: canary", "canary", ": canary",
                     "X Y: canary", "X:", "X: ", "X: a\nCanary: canary", "X: canary\r\nB: c",
                     "X: canary\x01", "X: canary\xe4", "\xe4: canary", ""):
            with self.subTest(text=text):
                result = self.assertFails(self.run_cli("orgs", "list", "--header", text), 2,
                                          "--header")
                self.assertNotIn("canary", result.err)
        for source in ({}, {"TWOSIGNAL_HEADERS": "authorization: Basic canary"}):
            args = () if source else ("--header", "Authorization: Basic canary")
            result = self.run_cli("traces", "list", *args, env=dict(
                source, TWOSIGNAL_API_KEY=self.server.key))
            self.assertFails(result, 2, "uthorization")
        self.assertEqual(self.server.requests, [])

    def test_masked(self):
        """Row 34: in --debug, in its curl line, and where the server repeats it."""
        for text, repeated in ((self.SECRET[1], "s3cret value"), ("X-Team: ab", "b"),
                               ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz")):
            message = f"You sent {repeated}."
            self.server.clear()
            self.server.fault("organization.list", times=2, status=400,
                              body=trpc_error("BAD_REQUEST", 400, message))
            result = self.run_cli("orgs", "list", "--debug", "--header", text)
            name, _, value = text.partition(": ")
            self.assertIn(f"{name.title()}: ***'", result.err)
            self.assertNotIn(value, result.err)
            if len(repeated) > 3:
                self.assertFails(self.run_cli("orgs", "list", "--header", text), 1,
                                 "You sent ***.")

    def test_stay_with_their_origin(self):
        """Neither another origin nor the proxy of a tunnel gets them."""
        with Scripted(answer(LIST)) as other:
            self.server.fault("organization.list", status=302,
                              headers={"Location": other.url + "/x"})
            self.assertEqual(self.run_cli("orgs", "list", *self.SECRET).code, 8)
            self.assertEqual(other.requests, [])

    @needs_openssl
    def test_tunnels(self):
        made = certificates(self.folder)
        with Scripted(answer(LIST), tls=made.good) as server, Proxy() as proxy:
            self.write("home/session.json", dict(self.state("session.json"), api_url=server.url))
            self.assertOk(self.run_cli(
                "orgs", "list", *self.SECRET, "--url", server.url, "--ca-cert", made.ca,
                env={"https_proxy": proxy.url, "NO_PROXY": None}))
            self.assertEqual(header(server.requests[0], "CF-Access-Client-Secret"), "s3cret value")
            self.assertEqual([line.split()[0] for line in proxy.seen], ["CONNECT"])
            self.assertNotIn("s3cret", str(vars(proxy)))

    def test_completion(self):
        """Names come through the gateway, too."""
        words = ["--header", "X-Team: ops", "traces", "list", "--project", ""]
        self.server.clear()
        result = self.run_cli("__complete", "--", *words, env={"TWOSIGNAL_HEADERS": "X-Two: 2"})
        self.assertIn("Support Agent", result.out)
        for request in self.server.requests:
            self.assertEqual((request.headers["X-Team"], request.headers["X-Two"]), ("ops", "2"))


if __name__ == "__main__":
    unittest.main()
