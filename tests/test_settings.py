"""The section Settings: home directories, the config file, the server's address, API keys."""
import contextlib
import errno
import itertools
import os
import random
import shutil
import socket
import unittest
from unittest import mock

import twosignal
from tools import (OWNER, PASSWORD, CommandCase, KeyCase, ServerCase, StateCase, file_bytes, full,
                   listing, merged, requests_of)


@contextlib.contextmanager
def working_directory(path):
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@unittest.skipIf(os.name == "nt", "home directories are found in another way there")
class Homes(ServerCase):
    """Row 37: nothing is written into the working directory or into `/`."""

    shared = True
    UNKNOWN = KeyError("getpwuid(): uid not found")

    def setUp(self):
        super().setUp()
        self.current = os.path.join(self.folder, "current")
        os.mkdir(self.current)
        self.root = sorted(os.listdir("/"))

    def run_at(self, home, *args, **kwargs):
        """Run a command with that HOME (None: unset) as a user without an entry in /etc/passwd.

        user: the home directory of an entry; env: further changes.
        """
        env = merged({"TWOSIGNAL_HOME": None, "HOME": home}, kwargs.pop("env", {}))
        env.update(TWOSIGNAL_HOME=kwargs.pop("twosignal_home", None), HOME=home)
        known = kwargs.pop("user", None)
        user = mock.patch("pwd.getpwuid", side_effect=self.UNKNOWN) if known is None else (
            mock.patch("pwd.getpwuid", return_value=mock.Mock(pw_dir=known)))
        with user, working_directory(self.current):
            return self.run_cli(*args, env=env, **kwargs)

    def log_in_at(self, home, **kwargs):
        return self.run_at(home, "login", "--url", self.server.url, "-e", "owner@example.com",
                           "--password-stdin", stdin="owner-pass\n", **kwargs)

    def assertNothingStray(self):
        self.assertEqual(listing(self.current), [])
        self.assertFalse({".twosignal", "session.json", "config.json", "session.lock"}
                         & (set(os.listdir("/")) - set(self.root)))

    def assertNoHome(self, home, **kwargs):
        """What needs the home directory fails with one line and makes no request."""
        for result in (self.log_in_at(home, **kwargs),
                       self.run_at(home, "orgs", "list", **kwargs),
                       self.run_at(home, "whoami", **kwargs)):
            self.assertFails(result, 1, "HOME")
        self.assertOk(self.run_at(home, "--version", **kwargs))
        self.assertOk(self.run_at(home, "traces", "list", "--help", **kwargs))
        self.assertEqual(self.server.requests, [])
        self.assertNothingStray()

    def test_unset_for_a_known_user(self):
        """Row 37: HOME unset: the home directory of the user's entry."""
        self.assertOk(self.log_in_at(None, user=self.path("known")))
        self.assertOk(self.run_at(None, "whoami", user=self.path("known")))
        self.assertIn("session.json", os.listdir(self.path("known", ".twosignal")))
        self.assertNothingStray()

    def test_empty(self):
        """Row 37: an empty HOME counts as unset, not as `/`."""
        self.assertOk(self.log_in_at("", user=self.path("known")))
        self.assertIn("session.json", os.listdir(self.path("known", ".twosignal")))
        self.server.clear()
        self.assertNoHome("")

    def test_unknown_user(self):
        """Row 37: HOME unset and a user without an entry: one clear line."""
        self.assertNoHome(None)

    def test_relative(self):
        """Row 37: a HOME that is not an absolute path counts as unset."""
        for home in ("here", ".", "./here", "~nobody-has-this-name"):
            with self.subTest(home=home):
                self.assertNoHome(home)

    def test_own_variable_with_an_unknown_user(self):
        """Row 37: a TWOSIGNAL_HOME that begins with ~ if there is no such home."""
        unknown = mock.patch("pwd.getpwnam", side_effect=KeyError("name not found"))
        with unknown:
            for given in ("~/state", "~nobody-has-this-name/state"):
                with self.subTest(given=given):
                    self.assertNoHome(None, twosignal_home=given)

    def test_own_variable_needs_no_other(self):
        """Row 37: with TWOSIGNAL_HOME no HOME is needed."""
        state = self.path("state")
        self.assertOk(self.log_in_at(None, twosignal_home=state))
        self.assertIn("session.json", os.listdir(state))
        self.assertNothingStray()

    def test_read_only(self):
        """Row 37: a home that cannot be written is reported before the password is sent."""
        folder = self.path("locked")
        os.mkdir(folder)
        refuse = mock.patch("os.mkdir", side_effect=PermissionError(errno.EACCES, "read-only"))
        with refuse:
            self.assertFails(self.log_in_at(folder), 1, os.path.join(folder, ".twosignal"))
        self.assertEqual(requests_of(self.server, "auth"), [])
        self.assertFails(self.run_at(folder, "orgs", "list"), 4, "twosignal login")
        self.assertEqual(listing(folder), [])
        self.assertNothingStray()

    def test_of_another_user(self):
        """Row 37: HOME=/root in a container: with a key it counts as none; else the way out."""
        folder = self.path("denied")
        real = os.stat

        def stat(path, *args, **kwargs):
            if str(path).startswith(folder + "/"):
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, *args, **kwargs)

        self.enter(mock.patch("os.stat", stat))
        for args in (["orgs", "list"], ["whoami"]):
            self.assertFails(self.run_at(folder, *args), 1, folder, "TWOSIGNAL_HOME")
        self.assertFails(self.log_in_at(folder), 1, folder, "TWOSIGNAL_HOME")
        self.assertEqual(self.server.requests, [])
        key = {"TWOSIGNAL_API_KEY": "ts_" + "x" * 20}
        with mock.patch("twosignal.DEFAULT_URL", self.server.url):
            self.run_at(folder, "traces", "list", env=key)
        self.assertGreater(len(self.server.requests), 0)

    @unittest.skipUnless(os.path.isdir("/proc/self"), "needs a directory where nothing can be made")
    def test_no_directory_can_be_made(self):
        """Row 37: the same on a file system that refuses everybody, even root."""
        self.assertFails(self.log_in_at("/proc/self"), 1, "/proc/self/.twosignal")
        self.assertEqual(requests_of(self.server, "auth"), [])
        self.assertNothingStray()

    def test_a_file(self):
        """Row 37: HOME is a file."""
        path = self.write("file", "mine")
        self.assertFails(self.log_in_at(path), 1, "Cannot write %s: " % path)
        self.assertFails(self.run_at(path, "orgs", "list"), 4, "twosignal login")
        self.assertOk(self.run_at(path, "logout"))
        self.assertEqual(requests_of(self.server, "auth"), [])
        with open(path) as file:
            self.assertEqual(file.read(), "mine")
        self.assertNothingStray()


@unittest.skipIf(os.name == "nt", "there are no such modes")
class DirectoriesOfOthers(CommandCase):
    def modes_after(self, home, command, permissions):
        """The mode of the directory that TWOSIGNAL_HOME names, and those of the files in it."""
        folder = self.path("shared")
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        os.chmod(folder, permissions)
        with working_directory(folder):
            self.cli(*command, env={"TWOSIGNAL_HOME": home}, stdin=PASSWORD + "\n")
        return [oct(os.stat(path).st_mode & 0o7777) for path in
                [folder] + [os.path.join(folder, name) for name in os.listdir(folder)]]

    def test_they_keep_their_modes(self):
        """Row 51: by any name, also if a login fails; the files in them are private."""
        os.symlink("shared", self.path("link"))
        login = ["login", "--url", self.server.url, "--password-stdin", "-e"]
        commands = (login + [OWNER], login + ["nobody@example.com"], ["logout"], ["orgs", "list"])
        for permissions in (0o2775, 0o755, 0o1777, 0o777):
            for home in (self.path("shared"), ".", self.path("shared") + "/", self.path("link")):
                for command in commands:
                    with self.subTest(permissions=oct(permissions), home=home, command=command):
                        first, *files = self.modes_after(home, command, permissions)
                        self.assertEqual(first, oct(permissions))
                        self.assertLessEqual(set(files), {"0o600"})


    COMMANDS = (["orgs", "list"], ["whoami"], ["logout"],
                ["login", "-e", OWNER, "--password-stdin"])

    def assertUnused(self, reason, directory=None, **kwargs):
        """No command uses the directory, and no request is made."""
        before = {name: file_bytes(os.path.join(self.home, name)) for name in os.listdir(self.home)}
        self.server.clear()
        for command in self.COMMANDS + (self.COMMANDS[3] + ["--url", self.server.url],):
            with self.subTest(command=command):
                result = self.cli(*command, stdin=PASSWORD, **kwargs)
                self.assertFails(result, 1, directory or self.home, reason, "TWOSIGNAL_HOME")
        self.assertEqual({name: file_bytes(os.path.join(self.home, name))
                          for name in os.listdir(self.home)}, before)
        self.assertEqual(self.server.requests, [])

    def test_no_directory(self):
        """Row 62: a file or a device is none, and the error names the variable once."""
        path = self.write("a-file", b"precious")
        for home in (path, os.devnull):
            for command in self.COMMANDS[:2] + self.COMMANDS[3:]:
                result = self.cli(*command, stdin=PASSWORD, env={"TWOSIGNAL_HOME": home})
                self.assertFails(result, 1, home, "it is not a directory")
                self.assertEqual(result.err.count("TWOSIGNAL_HOME"), 1)
        self.assertEqual(file_bytes(path), b"precious")

    def test_everybody_may_write(self):
        """Row 62: such a directory is refused, and one that a group may write is used."""
        for permissions in (0o777, 0o1777, 0o702):
            os.chmod(self.home, permissions)
            self.assertUnused("everybody may write to it")
        os.chmod(self.home, 0o2775)
        self.assertOk(self.cli("orgs", "list"))

    def test_a_session_in_another_directory(self):
        """Row 62: that is what counts for what lies beside the session, its lock for example."""
        self.log_in()
        folder = self.path("elsewhere")
        os.mkdir(folder)
        session = os.path.join(self.home, "session.json")
        os.rename(session, os.path.join(folder, "session.json"))
        os.symlink(os.path.join(folder, "session.json"), session)
        os.chmod(folder, 0o777)
        self.assertUnused("everybody may write to it", folder)
        self.assertEqual(os.listdir(folder), ["session.json"])
        os.chmod(folder, 0o755)
        self.assertOk(self.cli("orgs", "list"))

    def test_another_users(self):
        """Row 62: refused; root's is used."""
        owner = os.stat(self.home).st_uid
        with mock.patch("os.geteuid", return_value=owner + 1):
            if owner == 0:
                self.assertOk(self.cli("orgs", "list"))
            else:
                self.assertUnused("it belongs to another user")
        if os.geteuid() == 0:
            os.chown(self.home, 65534, 65534)
            for sudo in (None, "", "65533", "0"):
                self.assertUnused("it belongs to another user", env={"SUDO_UID": sudo})

    @unittest.skipUnless(hasattr(os, "geteuid") and os.geteuid() == 0, "needs to be root")
    def test_sudo(self):
        """Row 62: root uses the directory of the user who called sudo; all in it stays theirs."""
        env = {"SUDO_UID": "65534", "HOME": self.path("user")}
        os.mkdir(self.path("user"))
        os.chown(self.path("user"), 65534, 65534)
        login = ["login", "-e", OWNER, "--password-stdin", "--url", self.server.url]
        commands = (login, ["orgs", "list"], login, ["logout"])
        for home, command in itertools.product((None, self.path("user/.config/ts")), commands):
            self.assertOk(self.cli(*command, env=dict(env, TWOSIGNAL_HOME=home), stdin=PASSWORD))
            for folder, _, names in os.walk(self.path("user")):
                for path in [folder] + [os.path.join(folder, name) for name in names]:
                    with self.subTest(command=command, path=path):
                        self.assertEqual(os.stat(path).st_uid, 65534)


class ConfigFile(StateCase):
    def test_unknown_keys_stay(self):
        """Row 13: the address changes, the rest of the file does not."""
        self.write("home/config.json", {"theme": "dark", "api_url": "https://a.example.com",
                                        "more": {"x": [1]}})
        twosignal.save_config({"api_url": "https://b.example.com"})
        self.assertEqual(self.state("config.json"), {
            "theme": "dark", "api_url": "https://b.example.com", "more": {"x": [1]}})

    def test_damaged_file_is_named(self):
        """Row 14: cut at every byte, and wrong shapes."""
        path = os.path.join(self.home, "config.json")
        text = b'{"api_url": "https://a.example.com"}'
        shapes = [b"[]", b'"x"', b"1", b"null", b'{"api_url": 5}', b'{"api_url": null}', b"\xff",
                  b'{"api_url": ["x"]}', b'{"ca_cert": 1}', b"[" * 100000, b"\x00",
                  b" " * (2 << 20)]
        for wrong in shapes + [text[:size] for size in range(len(text))]:
            self.write("home/config.json", wrong)
            self.assertRefused(lambda: twosignal.load_config(self.clock), path, "delete it")

    def test_damaged_file_is_replaced_by_a_save(self):
        """Row 14: a successful login repairs it."""
        for wrong in (b"", b"[]", b'{"api_u', b'{"api_url": 5}'):
            self.write("home/config.json", wrong)
            twosignal.save_config({"api_url": "https://b.example.com"}, self.clock)
            self.assertEqual(self.state("config.json"), {"api_url": "https://b.example.com"})

    def test_order_of_addresses(self):
        flag, variable, saved = ["https://%s.example.com" % name for name in ("f", "v", "k")]
        self.assertEqual(twosignal.url_and_source()[0], twosignal.DEFAULT_URL)
        self.write("home/config.json", {"api_url": saved})
        self.assertEqual(twosignal.url_and_source()[0], saved)
        for empty in ("", "  "):
            os.environ["TWOSIGNAL_URL"] = empty
            self.assertEqual(twosignal.url_and_source()[0], saved)
        os.environ["TWOSIGNAL_URL"] = variable
        self.assertEqual(twosignal.url_and_source()[0], variable)
        self.assertEqual(twosignal.url_and_source(flag)[0], flag)

    def test_where_the_address_comes_from(self):
        """The name of the option, variable or file, which is what a user would change."""
        file = self.write("home/config.json", {"api_url": "https://k.example.com/"})
        os.environ.update(TWOSIGNAL_URL="v.example.com", TWOSIGNAL_BASE_URL="b.example.com")
        self.assertEqual(twosignal.url_and_source("f.example.com", key="x"),
                         ("https://f.example.com", "--url"))
        for name, host in (("TWOSIGNAL_URL", "v"), ("TWOSIGNAL_BASE_URL", "b")):
            self.assertEqual(twosignal.url_and_source(key="x"),
                             (f"https://{host}.example.com", name))
            del os.environ[name]
        self.assertEqual(twosignal.url_and_source(), ("https://k.example.com", file))
        os.remove(file)
        self.assertEqual(twosignal.url_and_source(), (twosignal.DEFAULT_URL, "default"))

    def test_file_is_not_read_if_something_else_decides(self):
        self.write("home/config.json", b"{")
        self.assertEqual(twosignal.url_and_source("a.example.com")[0], "https://a.example.com")
        os.environ["TWOSIGNAL_URL"] = "b.example.com"
        self.assertEqual(twosignal.url_and_source()[0], "https://b.example.com")

    def test_empty_address_in_the_file_counts_as_none(self):
        self.write("home/config.json", {"api_url": ""})
        self.assertEqual(twosignal.url_and_source()[0], twosignal.DEFAULT_URL)

    def test_base_url_counts_with_a_key_only(self):
        """Row 54: --url, TWOSIGNAL_URL, TWOSIGNAL_BASE_URL, the file, the default."""
        flag, variable, base, saved = ["https://%s.example.com" % name for name in "fvbk"]
        os.environ["TWOSIGNAL_BASE_URL"] = base + "/api/v1"
        self.assertEqual(twosignal.url_and_source()[0], twosignal.DEFAULT_URL)
        self.assertEqual(twosignal.url_and_source(key="x")[0], base)
        self.write("home/config.json", {"api_url": saved})
        self.assertEqual(twosignal.url_and_source()[0], saved)
        self.assertEqual(twosignal.url_and_source(key="x")[0], base)
        os.environ["TWOSIGNAL_URL"] = variable
        self.assertEqual(twosignal.url_and_source(key="x")[0], variable)
        self.assertEqual(twosignal.url_and_source(flag, key="x")[0], flag)
        os.environ.update(TWOSIGNAL_URL="", TWOSIGNAL_BASE_URL=" ")
        self.assertEqual(twosignal.url_and_source(key="x")[0], saved)
        os.environ["TWOSIGNAL_BASE_URL"] = "ftp://x"
        self.assertRefused(lambda: twosignal.url_and_source(key="x"), "TWOSIGNAL_BASE_URL",
                           code="USAGE")

    def test_unreadable_file_is_an_error(self):
        """It may name the server that a key belongs to, so the key goes nowhere else."""
        self.write("home/config.json", {"api_url": "https://a.example.com"})
        with mock.patch("builtins.open", side_effect=PermissionError(errno.EACCES, "denied")):
            for key in (None, "x"):
                self.assertRefused(lambda: twosignal.url_and_source(key=key), "config.json",
                                   "permissions")

    def test_error_names_where_the_address_is(self):
        """Row 32: the flag, the variable, or the file."""
        self.assertRefused(lambda: twosignal.url_and_source("ftp://x"), "--url", code="USAGE")
        self.write("home/config.json", {"api_url": "ftp://x"})
        self.assertRefused(twosignal.url_and_source, "config.json", code="USAGE")
        os.environ["TWOSIGNAL_URL"] = "ftp://x"
        self.assertRefused(twosignal.url_and_source, "TWOSIGNAL_URL", code="USAGE")


WRONG_ADDRESSES = (
    "", " ", "/", "//", "//host", "///host", ":", "://", "://host", "?", "#", "@", ".", "..", "-",
    "*", "http:", "http:/", "http://", "https://", "http:///", "http:///path", "http://:80",
    "https://:", "http://?x", "http://#x", "http:host", "http:/host", "http//host", "http://http://host",
    "file:", "file:/etc/passwd", "file:///etc/passwd", "file://host/etc/passwd", "FILE:///etc/passwd",
    "ftp:", "ftp://host", "ftp://host/file", "ftps://host", "data:", "data:,x", "data:text/html,x",
    "data://text/plain,x", "javascript:alert(1)", "javascript://host", "mailto:a@example.com",
    "ws://host", "unix:///var/run/x.sock", "gopher://host", "about:blank", "urn:x", "local_file://x",
    "url:http://host", "http+unix://host", "ht tp://host", "\u017fttp://host",
    "http://user@host", "http://user:word@host", "user:word@host", "http://host@evil.example.com",
    "http://host:", "http://host:x", "http://host:-1", "http://host:0", "http://host:65536",
    "http://host:99999", "http://host:1:2", "http://host:8 0", "http://host:\u0661",
    "http://[::1", "http://::1", "http://[::1]x", "http://[]", "http://[x]", "http://[::1]:x",
    "http://[::1%]", "http://[%25eth0]", "http://[fe80::1%25a/b]", "http://[fe80::1%25a%25b]",
    "http://[fe80::1%25a b]", "http://[fe80::1%0d]x", "http://host%25eth0", "http://-host",
    "http://host-", "http://.host", "http://ho*st",
    "http://host\\evil", "http://host\\@evil.example.com", "http://ho'st", 'http://ho"st',
    "http://host/path?query", "http://host?query", "http://host#part", "http://host/#part",
    "http://host" + "/" * 50 + "x", "http://host/<x>", 'http://host/"', "http://host/{x}",
    "http://host/\\x", "http://host/\u00e9",
    # A careless IDNA conversion turns some of these into a slash, an @ or a colon.
    "http://b\u00fccher.example", "http://host\uff0fevil", "http://host\uff20evil",
    "http://host\uff1a80", "http://\u2100.example",
    "http://host\uff1fx", "http://\u00ad", "http://" + "\u00e9" * 70)
RIGHT_ADDRESSES = (
    ("example.com", "https://example.com"),
    ("example.com:8443", "https://example.com:8443"),
    ("  https://example.com  ", "https://example.com"),
    ("HTTPS://Example.COM", "https://example.com"),
    ("http://example.com", "http://example.com"),
    ("https://example.com:443", "https://example.com"),
    ("http://example.com:80", "http://example.com"),
    ("http://example.com:443", "http://example.com:443"),
    ("localhost", "http://localhost"),
    ("localhost:3000", "http://localhost:3000"),
    ("LOCALHOST:3000/", "http://localhost:3000"),
    ("https://localhost:3000", "https://localhost:3000"),
    ("app.localhost", "http://app.localhost"),
    ("127.0.0.1:3000", "http://127.0.0.1:3000"),
    ("[::1]:3000", "http://[::1]:3000"),
    ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
    ("http://[FE80::1%25enP4s0]:3000/api", "http://[fe80::1%25enP4s0]:3000"),
    ("http://[fe80::1%eth0]", "http://[fe80::1%25eth0]"),
    ("http://[fe80::1%25]", "http://[fe80::1%2525]"),       # the interface number 25
    ("192.168.1.5", "https://192.168.1.5"),
    ("0:443", "https://0"),             # digits alone are a name, not a port
    ("http://99999", "http://99999"),
    ("my_host", "https://my_host"),
    ("localhost.example.com", "https://localhost.example.com"),
    ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
    ("https://example.com/", "https://example.com"),
    ("https://example.com/api", "https://example.com"),
    ("https://example.com/api/", "https://example.com"),
    ("https://example.com/api/v1", "https://example.com"),
    ("https://example.com/api/v1/", "https://example.com"),
    ("https://example.com/api/trpc", "https://example.com"),
    ("https://example.com/login", "https://example.com"),
    ("https://example.com/signal/login/", "https://example.com/signal"),
    ("https://example.com/logins", "https://example.com/logins"),
    ("https://example.com/signal", "https://example.com/signal"),
    ("https://example.com/signal/", "https://example.com/signal"),
    ("https://example.com/signal/api/v1", "https://example.com/signal"),
    ("https://example.com/signal//api", "https://example.com/signal"),
    ("https://example.com/signal/api//", "https://example.com/signal"),
    ("https://example.com/myapi", "https://example.com/myapi"),
    ("https://example.com/api/v2", "https://example.com/api/v2"),
    ("https://example.com/a%20b~c_d.e-f", "https://example.com/a%20b~c_d.e-f"),
    ("https://Example.com/Path", "https://example.com/Path"),
    ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"))


class ServerAddresses(StateCase):
    def test_right_addresses(self):
        for text, expected in RIGHT_ADDRESSES:
            with self.subTest(text=text):
                self.assertEqual(twosignal.normal_url(text), expected)
                self.assertEqual(twosignal.normal_url(expected), expected)

    def test_stored_address_is_the_same_when_read_again(self):
        """Row 30: otherwise a session would not belong to the server of its own login."""
        for path in ("", "/", "/api", "/api/", "/api/v1", "/api/api", "/api/v1/api/trpc",
                     "/x//api", "/x/api/v1/", "/x//", "/:/", "/api/v1/v1", "/login/api",
                     "/x" + "/" * 50 + "x"):
            found = twosignal.normal_url("https://example.com" + path)
            self.assertEqual(twosignal.normal_url(found), found, path)

    def test_only_http_and_https(self):
        """Row 32: anything else is a usage error."""
        for text in WRONG_ADDRESSES:
            with self.subTest(text=text):
                self.assertRefused(lambda: twosignal.normal_url(text), "--url", code="USAGE")

    def test_nothing_in_an_address_changes_a_request(self):
        """Row 33: controls and blanks within an address are refused, those around it stripped."""
        for number in list(range(0x21)) + list(range(0x7f, 0xa1)) + [0x2028, 0x202e, 0x3000]:
            character = chr(number)
            for form in ("http://ho%sst", "http://host%s:80", "http://host:8%s0", "http://host/a%sb",
                         "ht%stp://host", "http:%s//host", "http:/%s/host", "http://host/a%s/b",
                         "http://host%s/b", "http://host/%sb"):
                text = form % character
                with self.subTest(text=text):
                    self.assertRefused(lambda: twosignal.normal_url(text), code="USAGE")

    def test_random_addresses(self):
        """Rows 32, 33: what is accepted is an origin and a path, the same when read again."""
        seed = random.SystemRandom().randrange(2 ** 32)
        dice = random.Random(seed)
        parts = ["http", "https", "ftp", "file", ":", "/", "//", "://", "host", "example.com", "@",
                 "?", "#", "%0d%0a", "%", "\r\n", "\x00", " ", ".", "-", "80", "443", "0", "[", "]",
                 "::1", "\\", "\u00e9", "\uff0f", "\u2100", "api", "v1", "trpc", "localhost", "~"]
        pattern = r"\Ahttps?://([a-z0-9._-]+|\[[0-9a-f:.]+(%25[\w.~-]+)?\])(:[0-9]{1,5})?(/[!-~]*)?\Z"
        with self.subTest(seed=seed):
            for _ in range(full(1500, 50000)):
                text = "".join(dice.choice(parts) for _ in range(dice.randrange(1, 9)))
                if dice.random() < 0.5:
                    text = "http://host" + text
                try:
                    found = twosignal.normal_url(text)
                except twosignal.Failure as failure:
                    self.assertEqual(failure.code, "USAGE", text)
                    continue
                self.assertRegex(found, pattern, text)
                for character in "?#@\\":
                    self.assertNotIn(character, found.split("/")[2], text)
                self.assertEqual(twosignal.normal_url(found), found, text)

    def test_this_machine(self):
        """Row 31: which hosts count as this machine."""
        for host in ("localhost", "localhost:3000", "app.localhost", "127.0.0.1", "127.1.2.3:80",
                     "[::1]", "[::1]:3000"):
            self.assertTrue(twosignal.is_local("http://" + host), host)
        for host in ("example.com", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1",
                     "notlocalhost", "[::2]", "[2001:db8::1]", "0.0.0.0", "128.0.0.1",
                     "12.0.0.127"):
            self.assertFalse(twosignal.is_local("http://" + host), host)


class AddressOption(CommandCase):
    def test_accepted(self):
        host = self.server.url.split("//")[1]
        for suffix in ("/", "/api", "/api/", "/api/v1", "/api/v1/", "/api/trpc", "/api/trpc/"):
            with self.subTest(suffix=suffix):
                self.assertOk(self.cli("orgs", "list", "--url", self.server.url + suffix))
        port = host.split(":")[1]
        result = self.cli("login", "-e", OWNER, "--password-stdin", "--url",
                          "localhost:" + port, stdin=PASSWORD + "\n")
        self.assertOk(result)
        self.assertEqual(self.state("session.json")["api_url"], "http://localhost:" + port)

    def test_refused(self):
        for address in ("file:///etc/passwd", "ftp://example.com", "javascript:alert(1)",
                        "data:text/plain,x", "//example.com", "http://", "https://:443",
                        "http:///x",
                        "http://exa mple.com", "http://example.com\r\nX: y", "http://host:abc",
                        "http://host:99999999"):
            for where in (["--url", address], None):
                with self.subTest(address=address, where=where):
                    env = None if where else {"TWOSIGNAL_URL": address}
                    result = self.cli("orgs", "list", *(where or ()), env=env)
                    self.assertFails(result, 2)
        self.assertFails(self.cli("orgs", "list", "--url", ""), 2)
        self.assertEqual(self.server.requests, [])


class ApiKeyAddresses(KeyCase):
    """Where a key goes that stands beside TWOSIGNAL_BASE_URL, as SDKs have it."""

    def setUp(self):
        super().setUp()
        self.other = self.serve()
        self.env = dict(self.key(), TWOSIGNAL_URL=None, TWOSIGNAL_BASE_URL=self.server.url)
        self.write("home/config.json", {"api_url": self.other.url})

    def test_key_goes_where_it_belongs(self):
        """Row 54: 0 requests elsewhere, also if the key is in a file, and for each command."""
        key = self.env["TWOSIGNAL_API_KEY"]
        file = dict(self.env, TWOSIGNAL_API_KEY=None, **self.key_file(key))
        for env in (self.env, file):
            for args in (["traces", "list"], ["whoami"], ["traces", "check", "--max-cost", "1"],
                         ["scores", "create", "x", "--name", "e", "--value", "1"]):
                with self.subTest(args=args):
                    self.cli(*args, env=env)
                    self.assertGreater(len(self.server.requests), 0)
                    self.assertEqual(self.other.requests, [])
                    self.server.clear()

    def test_what_overrides_it(self):
        """Row 54: an address that is given for this command line or client."""
        for env, options in (({"TWOSIGNAL_URL": self.other.url}, ()),
                             ({}, ("--url", self.other.url))):
            self.cli("traces", "list", *options, env=dict(self.env, **env))
            self.assertEqual(self.server.requests, [])
            self.assertGreater(len(self.other.requests), 0)
            self.other.clear()

    def test_sessions_go_elsewhere(self):
        """Row 54: a command that needs a session, or has no key, does not look at it."""
        self.log_in(server=self.other)
        for args, env in ((["orgs", "list"], self.env), (["logout"], self.env),
                          (["traces", "list", "--project", self.other.project],
                           dict(self.env, TWOSIGNAL_API_KEY=None))):
            with self.subTest(args=args):
                self.log_in(server=self.other)
                self.assertOk(self.run_cli(*args, env=env))
        self.assertEqual(self.server.requests, [])


class QuotedVariables(CommandCase):
    def test_quotes_are_told(self):
        """docker --env-file keeps them, and a value in quotes is not what anybody means."""
        for name in ("URL", "HOME", "API_KEY", "API_KEY_FILE", "PROJECT", "ORG"):
            for value in ('"x"', "'secret'", '""', " 'x y' ", "'x\ny'"):
                with self.subTest(name=name, value=value):
                    args = ["projects", "list"] if name == "ORG" else ["traces", "list"]
                    result = self.cli(*args, env={"TWOSIGNAL_" + name: value})
                    self.assertFails(result, 2, "TWOSIGNAL_" + name, "quotes")
                    self.assertNotIn("secret", result.err)
        self.assertEqual(self.server.requests, [])

    def test_other_quotes_are_part_of_the_value(self):
        for value in ("'", "'Bob's", '"x', "'x\"", "x'y"):
            with self.subTest(value=value):
                self.assertFails(self.cli("traces", "list", env={"TWOSIGNAL_PROJECT": value}), 6)

    def test_help_needs_no_variable(self):
        self.assertOk(self.cli("--help", env={"TWOSIGNAL_URL": "'x'", "TWOSIGNAL_HOME": "'x'"}))


class LinkLocalAddresses(KeyCase):
    """http://[fe80::1%25eth0]: the zone says through which interface the address is reached."""

    def ask(self, scheme):
        """The names that were looked up for a request to such an address."""
        names, real = [], socket.getaddrinfo

        def look_up(host, *args, **kwargs):
            names.append(host)
            return real("127.0.0.1", *args, **kwargs)

        self.port = int(self.server.url.rpartition(":")[2])
        url = "%s://[fe80::1%%25Eth0]:%d" % (scheme, self.port)
        with mock.patch("socket.getaddrinfo", look_up):
            self.result = self.cli("traces", "list", "--url", url, env=self.key())
        return set(names)

    def test_http(self):
        """The socket gets the zone; the Host header does without it."""
        self.add(1)
        self.assertEqual(self.ask("http"), {"fe80::1%Eth0"})
        self.assertOk(self.result)
        self.assertEqual(self.server.requests[-1].headers["Host"],
                         "[fe80::1]:%d" % self.port)

    def test_tls(self):
        """A certificate names the address without it."""
        names = []

        def wrap(context, sock, *args, server_hostname=None, **kwargs):
            names.append(server_hostname)
            raise ConnectionResetError("enough")

        import ssl
        with mock.patch.object(ssl.SSLContext, "wrap_socket", wrap):
            self.ask("https")
        self.assertEqual(set(names), {"fe80::1"})


class ApiKeyLocations(KeyCase):
    def test_key_or_its_file(self):
        self.add(3)
        key = self.key()["TWOSIGNAL_API_KEY"]
        wrong = {"TWOSIGNAL_API_KEY": "ts_wrong"}
        for env in ({"TWOSIGNAL_API_KEY": key}, {"TWOSIGNAL_API_KEY": " %s\n" % key},
                    self.key_file(key), dict(self.key_file(key), TWOSIGNAL_API_KEY=""),
                    dict(self.key_file("ts_wrong"), TWOSIGNAL_API_KEY=key)):
            with self.subTest(env=env):
                self.assertEqual(len(self.assertOk(self.cli("traces", "list", env=env)).lines), 5)
        for content in (key + "\n", "\n %s \r\n" % key, "\ufeff" + key):
            with self.subTest(content=content):
                self.assertOk(self.cli("traces", "list", env=self.key_file(content)))
        self.assertFails(self.cli("traces", "list", env=dict(self.key_file(key), **wrong)), 4)

    def test_a_file_of_variables(self):
        """Such as --output-env writes: the key is the value, and nothing else of it is sent."""
        key = self.key()["TWOSIGNAL_API_KEY"]
        for line in ("TWOSIGNAL_API_KEY=%s", "export TWOSIGNAL_API_KEY='%s'", "\ufeffA=1\r\n"
                     'TWOSIGNAL_API_KEY = "%s"  # of CI\r\nTWOSIGNAL_API_KEY_FILE=x\r\n',
                     "TWOSIGNAL_API_KEY=ts_old\n\nTWOSIGNAL_API_KEY=%s\n"):
            with self.subTest(line=line):
                self.assertOk(self.cli("traces", "list", env=self.key_file(line % key)))
                self.assertEqual(self.server.requests[-1].headers["Authorization"],
                                 "Bearer " + key)
        self.assertOk(self.cli("traces", "list",
                               env={"TWOSIGNAL_API_KEY": "TWOSIGNAL_API_KEY=" + key}))

    def test_a_file_of_variables_without_a_key(self):
        """Its name is in the hint, although it is in the file, too."""
        for content, code, part in (
                ("TWOSIGNAL_API_KEY=ts_wrong_wrong_wrong", 4, "Check TWOSIGNAL_API_KEY or its"),
                ("TWOSIGNAL_API_KEY=''", 2, "There is no API key in"),
                ("A=1\nB=2", 2, "There is no API key in"),
                ("# of CI\nB=2", 2, "characters that no key has")):
            self.assertFails(self.cli("traces", "list", env=self.key_file(content)), code, part)

    def test_refused(self):
        no_key = "characters that no key has"
        missing = self.path("missing")
        for env, code, message in (
                (self.key_file(""), 2, "There is no API key in " + self.folder),
                (self.key_file(" \n"), 2, "There is no API key in " + self.folder),
                (self.key_file("PASSWORD=hunter2\n"), 2, "There is no API key in " + self.folder),
                (self.key_file("MY-PASS.WORD=hunter2"), 2, "There is no API key in " + self.folder),
                (self.key_file("export A='x'\nB=1"), 2, "There is no API key in " + self.folder),
                (self.key_file("a\nb"), 2, no_key), (self.key_file(b"\xff\xfe"), 2, no_key),
                ({"TWOSIGNAL_API_KEY": "a b"}, 2, no_key),
                ({"TWOSIGNAL_API_KEY": "ключ"}, 2, no_key),
                ({"TWOSIGNAL_API_KEY": "a\r\nX: y"}, 2, no_key),
                ({"TWOSIGNAL_API_KEY_FILE": missing}, 2, "There is no API key in " + missing),
                ({"TWOSIGNAL_API_KEY_FILE": self.folder}, 1, "Cannot read " + self.folder)):
            with self.subTest(env=env):
                self.assertFails(self.cli("traces", "list", env=env), code, message)
        self.assertEqual(self.server.requests, [])
