"""API keys: names in place of IDs, rotation, and files of variables that get a key."""
import errno
import json
import os
import re
import signal
import stat
import unittest
from unittest import mock

from tools import (DIALECTS, CommandCase, file_bytes, posix, procedure_inputs, requests_of,
                   trpc_answer, trpc_error)

SHOWN_KEY, REVOKED = r"ts_\w{12}", "The old key is revoked.\n"


class KeysCase(CommandCase):
    """The project has a key Deploy."""

    def setUp(self):
        super().setUp()
        self.key = self.server.add_key(name="Deploy")

    def use(self, **options):
        """Takes another server in place of the one of the test."""
        self.server.stop()
        self.server = self.serve(**options)
        self.log_in()
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project)
        self.key = self.server.add_key(name="Deploy")

    def rotate(self, *args, **kwargs):
        return self.cli("api-keys", "rotate", "Deploy", "-y", *args, **kwargs)

    def create(self, *args, **kwargs):
        return self.cli("api-keys", "create", "CI", *args, **kwargs)

    def row(self, key_id):
        return self.server.store.get("api_keys", key_id)

    def is_active(self, key_id):
        return self.row(key_id)["revokedAt"] is None

    def active(self, name):
        """The IDs of the active keys of that name."""
        return [row["id"] for row in self.server.rows("api_keys")
                if row["name"] == name and row["revokedAt"] is None]

    def make(self, procedure, **fields):
        """The next call of a procedure returns a resource with these fields."""
        self.server.fault(procedure, status=200, body={"result": {"data": {"json": fields}}})

    def changes(self):
        """The names of the mutations that the server saw."""
        return [re.sub(r".*/", "", request.path) for request in self.server.requests
                if request.method == "POST" and "/trpc/" in request.path]


class Names(KeysCase):
    def revoke(self, key, *args):
        return self.cli("api-keys", "revoke", key, "-y", "--json", *args)

    def test_a_key_is_revoked_and_rotated_by_name(self):
        for _, options in DIALECTS:
            self.use(**options)
            made = self.assertOk(self.rotate("--json"), err=REVOKED).json
            self.assertFalse(self.is_active(self.key))
            self.assertEqual(self.assertOk(self.revoke("Deploy")).json,
                             {"id": made["id"], "revoked": True})
            self.assertFalse(self.is_active(made["id"]))

    def test_revoked_keys_do_not_count(self):
        self.server.add_key(name="Deploy", revokedAt=self.server.world.now())
        self.assertEqual(self.assertOk(self.revoke("Deploy")).json["id"], self.key)

    def test_two_active_keys_of_a_name(self):
        other = self.server.add_key(name="Deploy")
        for command in ("revoke", "rotate"):
            result = self.cli("api-keys", command, "Deploy", "-y")
            self.assertFails(result, 2, "There are 2 API keys named 'Deploy'", self.key, other)
        self.assertEqual(self.changes(), [])

    def test_a_name_that_only_revoked_keys_have(self):
        self.assertOk(self.revoke("Deploy"))
        self.server.clear()
        for command in ("revoke", "rotate"):
            result = self.cli("api-keys", command, "Deploy", "-y")
            self.assertFails(result, 6, "API key not found", "'Deploy' is revoked")
        self.assertEqual(self.changes(), [])

    def test_a_name_that_resembles_one(self):
        self.server.add_key(name="Laptop", revokedAt=self.server.world.now())
        self.assertFails(self.revoke("deploy"), 6, "API key not found", "'Deploy'")
        result = self.assertFails(self.revoke("laptop"), 6, "API key not found")
        self.assertIn("'Laptop' is revoked", result.err)

    def test_names_can_be_read_in_a_terminal(self):
        """They are what the other commands take; prefixes are cut first."""
        self.server.add_key(name="Production EU", lastUsedAt=self.server.world.now())
        result = self.assertOk(self.cli("api-keys", "list", tty=True, columns=80))
        self.assertIn("  Production EU  just now ", result.out)

    def test_an_id_of_a_revoked_key_is_for_the_server(self):
        self.assertOk(self.revoke(self.key))
        self.assertOk(self.revoke(self.key))
        self.assertEqual(self.changes(), ["apiKey.revoke"] * 2)


class Rotation(KeysCase):
    def test_the_new_key_once_and_the_state_of_the_old_one(self):
        for more, procedures in (([], ["apiKey.rotate"]),
                                 (["--verify"], ["apiKey.create", "apiKey.revoke"])):
            for name, options in DIALECTS:
                with self.subTest(more=more, dialect=name):
                    self.use(**options)
                    made = self.assertOk(self.rotate("--json", *more), err=REVOKED).json
                    self.assertEqual(self.changes(), procedures)
                    self.assertEqual(made["key"], self.server.secret(made["id"]))
                    self.assertEqual((made["name"], made["rotated_from_id"]), ("Deploy", self.key))
                    self.assertFalse(self.is_active(self.key))
                    self.assertEqual(self.active("Deploy"), [made["id"]])

    def test_the_table(self):
        result = self.assertOk(self.rotate(), err=REVOKED)
        new, = self.active("Deploy")
        self.assertEqual(result.out, f'Rotated API key "Deploy". Save the key now: it is not shown '
                         f'again.\nID:   {new}\nKey:  {self.server.secret(new)}\n')

    def test_no_account_that_may_not(self):
        for email, code in (("viewer@example.com", 5), ("member@example.com", 0),
                            ("owner@example.com", 0)):
            for more in ([], ["--verify"]):
                self.log_in(email)
                with self.subTest(email=email, more=more):
                    active = self.active("Deploy")
                    result = self.rotate(*more)
                    self.assertEqual(result.code, code, result)
                    self.assertEqual(self.active("Deploy") == active, code == 5)

    def test_a_revoked_key(self):
        self.assertOk(self.cli("api-keys", "revoke", self.key, "-y"))
        for more in ([], ["--verify"]):
            result = self.cli("api-keys", "rotate", self.key, "-y", *more)
            self.assertFails(result, 1, "The server refused: API key is revoked")
        self.assertEqual(self.active("Deploy"), [])

    def test_a_key_that_is_gone(self):
        missing = "00000000-0000-4000-8000-00000000dead"
        for more in ([], ["--verify"]):
            result = self.cli("api-keys", "rotate", missing, "-y", *more)
            self.assertFails(result, 6, "API key not found", "api-keys list")

    def test_it_is_never_a_guess(self):
        for word in ("rotat", "rotates", "update"):
            result = self.assertFails(self.cli("api-keys", word, "Deploy"), 2)
            self.assertNotIn("Did you mean", result.err)

    def test_asks_first(self):
        for reply, code in (("n\n", 1), ("y\n", 0)):
            output, found = self.run_terminal(
                "api-keys", "rotate", "Deploy", columns=200,
                script=[(f'Rotate API key "Deploy" ({self.key}): whatever uses it '
                         f'({self.row(self.key)["keyPrefix"]}…) stops working? [y/N]', reply)])
            self.assertEqual((found, self.is_active(self.key)), (code, code == 1), output)
        self.assertFails(self.cli("api-keys", "rotate", "Deploy"), 2, "--yes")

    def test_an_old_key_that_stays_active(self):
        """Some servers let an old key live on for a while."""
        self.make("apiKey.rotate", id="k9", name="Deploy", key="ts_" + "9" * 30)
        result = self.assertOk(self.rotate("--json"))
        self.assertEqual(result.err, f"Status of the old key: active. To revoke it: 'twosignal "
                         f"api-keys revoke {self.key} --project {self.server.project}'.\n")

    def test_a_state_that_cannot_be_queried(self):
        self.server.fault("apiKey.list", status=403, body=trpc_error("FORBIDDEN", 403))
        result = self.assertOk(self.cli("api-keys", "rotate", self.key, "-y", "--json"))
        self.assertIn("Status of the old key: unknown.", result.err)

    def test_a_lost_response(self):
        """Row 22: it is told which command shows whether the key was changed, of any project."""
        self.environment.pop("TWOSIGNAL_PROJECT")
        for line, procedure in (("rotate Deploy -y", "apiKey.rotate"),
                                ("rotate Deploy -y --verify", "apiKey.create"),
                                ("revoke Deploy -y", "apiKey.revoke"),
                                ("create Deploy", "apiKey.create")):
            self.server.clear()
            self.server.fault(procedure, reset=True, after=True)
            result = self.cli("api-keys", *line.split(), "--project", "Support Agent")
            check = f"api-keys list --project {self.server.project}"
            self.assertFails(result, 9, "outcome is unknown", f"'twosignal {check}'")
            self.assertOk(self.cli(*check.split()))
            self.assertEqual(self.changes(), [procedure])
            for key in self.active("Deploy"):
                self.cli("api-keys", "revoke", key, "-y", "--project", self.server.project)
            self.server.add_key(name="Deploy")

    def test_an_answer_without_the_key(self):
        """Row 22: it cannot be used, but a key may exist, and the old one may be gone."""
        for answer in (None, [], "x", {"success": True}, {"id": "k9", "key": 5}):
            for command in (self.create, self.rotate, lambda: self.rotate("--verify")):
                self.server.clear()
                for procedure in ("apiKey.create", "apiKey.rotate"):
                    self.server.fault(procedure, status=200, body=trpc_answer(answer))
                self.assertFails(command(), 8, "The change may have been made all the same: check "
                                 f"with 'twosignal api-keys list --project {self.server.project}'")

    @posix
    def test_the_new_key_is_shown_before_anything_else(self):
        """Row 64: a kill does not lose it, while the old key is revoked or asked for."""
        for more, path in ([], "apiKey.list"), (["--verify"], "apiKey.revoke"):
            for form in ("table", "json", "csv", "markdown", "html"):
                with self.subTest(path=path, form=form):
                    self.use()
                    line = ["api-keys", "rotate", self.key, "-y", "--format", form, *more]
                    code, _ = self.signalled(signal.SIGKILL, path, line, rb".*\bts_\w{12}.*")
                    self.assertEqual(code, -signal.SIGKILL)

    @posix
    def test_an_interrupt_before_a_file_is_complete(self):
        """Row 64: the new key is on stdout."""
        for form in ("json", "html"):
            self.use()
            line = ["api-keys", "rotate", self.key, "-y", "--verify", "--format", form]
            code, err = self.signalled(signal.SIGINT, "apiKey.revoke", line + [
                "-o", self.path("out")], rb".*\bts_\w{12}.*")
            self.assertEqual(code, -signal.SIGINT)
            self.assertIn("The result is on stdout instead.", err)

    @posix
    def test_an_interrupt(self):
        """Row 22: the server may be about to change what it was asked for."""
        for command, procedure in ("create", "apiKey.create"), ("rotate", "apiKey.rotate"):
            for number in (signal.SIGINT, signal.SIGTERM):
                name = "CI" if command == "create" else self.key
                code, err = self.signalled(number, procedure, ["api-keys", command, name, "-y"][
                    :3 + (command == "rotate")])
                self.assertEqual(code, -number)
                self.assertEqual(err, "The change may have been made all the same: check with "
                                 f"'twosignal api-keys list --project {self.server.project}' "
                                 "before you repeat it.")

    def test_fields_that_leave_out_the_key(self):
        """Row 64: it is shown only once, so it is not made at all."""
        for command in (self.create, self.rotate, lambda *args: self.rotate("--verify", *args)):
            for fields in ("id", "name,id", "nosuch"):
                self.assertFails(command("--fields", fields), 2, "--fields leaves out the key")
        self.assertEqual(self.changes(), [])
        self.assertRegex(self.assertOk(self.create("--fields", "id,key")).out, SHOWN_KEY)


class Verification(KeysCase):
    def verify(self, *args):
        return self.rotate("--verify", *args)

    def test_the_new_key_is_used_before_the_old_one_is_revoked(self):
        made = self.assertOk(self.verify("--json")).json
        paths = [request.path for request in self.server.requests]
        self.assertLess(paths.index("/api/v1/traces"), paths.index("/api/trpc/apiKey.revoke"))
        used, = requests_of(self.server, "/api/v1/traces")
        self.assertEqual(used.headers["Authorization"], "Bearer " + made["key"])
        self.assertEqual(used.query, {"limit": "1"})

    def test_the_server_that_made_it_is_asked(self):
        """Row 54: TWOSIGNAL_BASE_URL belongs to another key."""
        other = self.serve()
        self.assertOk(self.rotate("--verify", env={"TWOSIGNAL_BASE_URL": other.url}))
        self.assertEqual(other.requests, [])

    FAILURES = ((dict(status=401, body={"error": {"code": "UNAUTHORIZED", "message": "No"}}), 4),
                (dict(status=403, body={"error": {"code": "FORBIDDEN", "message": "No"}}), 5),
                (dict(status=404, body="<html>", ), 8), (dict(status=200, body={"data": 1}), 8),
                (dict(status=500, body={"error": {"code": "INTERNAL", "message": "x"}}), 8),
                (dict(reset=True), 3))

    def test_a_key_that_is_not_accepted(self):
        """The old key stays, the new one is revoked, and no output looks like success."""
        path = self.path("env")
        for fault, code in self.FAILURES:
            for more in ([], ["--output-env", path], ["--json"]):
                with self.subTest(fault=fault, more=more):
                    self.server.clear()
                    self.server.fault("/api/v1/traces", times=100, **fault)
                    result = self.verify(*more)
                    self.assertEqual((result.code, result.out), (code, ""), result)
                    self.assertRegex(result.err, "No other key was changed; the new one, "
                                     "[-0-9a-f]{36}, is revoked again.")
                    self.assertEqual(self.changes(), ["apiKey.create", "apiKey.revoke"])
                    self.assertEqual(self.active("Deploy"), [self.key])
                    self.assertNotRegex(result.err, SHOWN_KEY)
                    self.assertFalse(os.path.exists(path))

    def test_a_new_key_that_cannot_be_revoked_again(self):
        self.server.fault("/api/v1/traces", status=401,
                          body={"error": {"code": "UNAUTHORIZED", "message": "No"}})
        self.server.fault("apiKey.revoke", status=403, body=trpc_error("FORBIDDEN", 403))
        result = self.verify()
        new, = set(self.active("Deploy")) - {self.key}
        self.assertFails(result, 4, "The API key is not accepted", "No other key was changed",
                         "To revoke the new one: 'twosignal api-keys revoke "
                         f"{new} --project {self.server.project}'.\n")

    def test_an_old_key_that_cannot_be_revoked(self):
        """The new key works, so it is shown, or in its file; the exit code says what is left."""
        path = self.path("env")
        for more in ([], ["--output-env", path]):
            for fault, code in ((dict(status=403, body=trpc_error("FORBIDDEN", 403)), 5),
                                (dict(reset=True, after=True), 0), (dict(reset=True), 9)):
                with self.subTest(more=more, code=code):
                    self.use()
                    self.server.fault("apiKey.revoke", **fault)
                    result = self.cli("api-keys", "rotate", self.key, "-y", "--verify", "--json",
                                      *more)
                    self.assertEqual(result.code, code, result)
                    record = json.loads(result.out)
                    shown = file_bytes(path).decode() if more else result.out
                    self.assertIn(self.server.secret(record["id"]), shown)
                    self.assertEqual(f"twosignal api-keys revoke {self.key}" in result.err,
                                     code != 0)

    def test_an_interrupt_meanwhile(self):
        """The key that nobody has seen is revoked."""
        with mock.patch("twosignal.Client.rest", side_effect=KeyboardInterrupt):
            self.assertEqual(self.verify().code, 130)
        self.assertEqual(self.active("Deploy"), [self.key])


    def test_a_key_that_no_header_takes(self):
        for key in ("ts_a\r\nX: y", "ts_\u043a", "a\0b", ""):
            self.make("apiKey.create", id=self.server.add_key(name="New"), name="Deploy", key=key)
            result = self.verify()
            self.assertEqual((result.code != 0, result.out), (True, ""), result)
            self.assertEqual((self.active("New"), self.active("Deploy")), ([], [self.key]), result)


class OutputFiles(KeysCase):
    """-o FILE"""

    @posix
    def test_only_the_user_can_read_a_key(self):
        """Row 16: whatever could read the file before."""
        path = self.path("key.json")
        for command in (self.create, self.rotate, lambda *args: self.rotate("--verify", *args)):
            for before in (None, 0o644):
                if before:
                    self.write("key.json", "old")
                    os.chmod(path, before)
                self.assertOk(command("--json", "-o", path))
                self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
                with open(path, encoding="ascii") as file:
                    self.assertRegex(json.load(file)["key"], SHOWN_KEY)
                os.unlink(path)


class EnvFiles(KeysCase):
    """--output-env FILE"""
    REFUSED = "it is a link, read-only, no file, or not yours. Name a new file"

    def setUp(self):
        super().setUp()
        self.file = self.path(".env")

    def save(self, content=None, *args):
        """What is in the file after a key was made; KEY stands for the key."""
        if content is not None:
            with open(self.file, "wb") as file:
                file.write(content)
            os.chmod(self.file, 0o600)
        self.assertOk(self.create("--output-env", self.file, *args), err="")
        key = self.server.rows("api_keys")[-1]["key"]
        return file_bytes(self.file).replace(key.encode(), b"KEY")

    def test_a_new_file(self):
        """Row 16: it is 0600, whatever the umask."""
        for mask in (0, 0o022, 0o077):
            before = os.umask(mask)
            try:
                self.assertEqual(self.save(), b"TWOSIGNAL_API_KEY=KEY\n")
            finally:
                os.umask(before)
            if os.name != "nt":
                self.assertEqual(stat.S_IMODE(os.stat(self.file).st_mode), 0o600)
            os.unlink(self.file)

    def test_only_its_line_changes(self):
        for before, after in (
                (b"", b"TWOSIGNAL_API_KEY=KEY\n"), (b"\n", b"\nTWOSIGNAL_API_KEY=KEY\n"),
                (b"A=1\nTWOSIGNAL_API_KEY=ts_old\nB=2\n", b"A=1\nTWOSIGNAL_API_KEY=KEY\nB=2\n"),
                (b"A=1\r\nTWOSIGNAL_API_KEY=ts_old\r\nB=2", b"A=1\r\nTWOSIGNAL_API_KEY=KEY\r\nB=2"),
                (b"A=1\r\nB=2\r\n", b"A=1\r\nB=2\r\nTWOSIGNAL_API_KEY=KEY\r\n"),
                (b"A=1", b"A=1\nTWOSIGNAL_API_KEY=KEY\n"),
                (b"A=1\r\nB=2", b"A=1\r\nB=2\r\nTWOSIGNAL_API_KEY=KEY\r\n"),
                (b"TWOSIGNAL_API_KEY=", b"TWOSIGNAL_API_KEY=KEY"),
                (b'export TWOSIGNAL_API_KEY="ts_old"', b"export TWOSIGNAL_API_KEY=KEY"),
                (b"\texport  TWOSIGNAL_API_KEY = 'a b'\n", b"\texport  TWOSIGNAL_API_KEY =KEY\n"),
                (b"TWOSIGNAL_API_KEY=ts_old # of CI\n", b"TWOSIGNAL_API_KEY=KEY # of CI\n"),
                (b"TWOSIGNAL_API_KEY=a#b\n", b"TWOSIGNAL_API_KEY=KEY\n"),
                (b"# TWOSIGNAL_API_KEY=no\nTWOSIGNAL_API_KEY_FILE=f\nMY_TWOSIGNAL_API_KEY=m\n"
                 b"twosignal_api_key=l\n",
                 b"# TWOSIGNAL_API_KEY=no\nTWOSIGNAL_API_KEY_FILE=f\nMY_TWOSIGNAL_API_KEY=m\n"
                 b"twosignal_api_key=l\nTWOSIGNAL_API_KEY=KEY\n"),
                (b"TWOSIGNAL_API_KEY=1\nA=1\n\n\nTWOSIGNAL_API_KEY=2\n",
                 b"TWOSIGNAL_API_KEY=KEY\nA=1\n\n\nTWOSIGNAL_API_KEY=KEY\n"),
                (b"#" * 200000 + b"\n", b"#" * 200000 + b"\nTWOSIGNAL_API_KEY=KEY\n"),
                (b"\xef\xbb\xbfTWOSIGNAL_API_KEY=a\r\n", b"\xef\xbb\xbfTWOSIGNAL_API_KEY=KEY\r\n"),
                (b"\xef\xbb\xbfA=1\n", b"\xef\xbb\xbfA=1\nTWOSIGNAL_API_KEY=KEY\n"),
                (b"A=\"a\\\"b\" # it's\nB='\"'\nC=it's\n# D=\"x\nE={\"f\": 1}\n",
                 b"A=\"a\\\"b\" # it's\nB='\"'\nC=it's\n# D=\"x\nE={\"f\": 1}\n"
                 b"TWOSIGNAL_API_KEY=KEY\n"),
                (b"A=\xff\xfe\x80\nTWOSIGNAL_API_KEY=\xff\nB=\\1\n",
                 b"A=\xff\xfe\x80\nTWOSIGNAL_API_KEY=KEY\nB=\\1\n")):
            with self.subTest(before=before):
                self.assertEqual(self.save(before), after)

    def test_the_work_is_linear(self):
        """Row 66: a file of blanks takes no longer than another."""
        for piece in (b" ", b"export ", b"TWOSIGNAL_API_KEY=", b"TWOSIGNAL_API_KEY ", b" #", b"\r",
                      b"A=", b'A="', b"A=x", b"A= \\x", b"\\", b"A='\\x\\'"):
            content = (piece * 100000)[:100000]
            self.assertIn(b"TWOSIGNAL_API_KEY=KEY", self.save(content))
        content = b"TWOSIGNAL_API_KEY=" + b" " * 100000
        self.assertEqual(self.save(content), b"TWOSIGNAL_API_KEY=KEY")

    @posix
    def test_a_file_that_others_could_read(self):
        for mode in (0o644, 0o640, 0o604, 0o600):
            self.write(".env", "A=1\n")
            os.chmod(self.file, mode)
            result = self.assertOk(self.create("--output-env", self.file))
            self.assertEqual(stat.S_IMODE(os.stat(self.file).st_mode), 0o600)
            self.assertIn(f"The key is in {self.file}, which only you can read now.", result.out)

    @posix
    def test_a_refused_change_leaves_the_file_alone(self):
        self.log_in("viewer@example.com")
        self.write(".env", "A=1\n")
        os.chmod(self.file, 0o644)
        self.assertFails(self.create("--output-env", self.file), 5)
        self.assertEqual(file_bytes(self.file), b"A=1\n")
        self.assertEqual(stat.S_IMODE(os.stat(self.file).st_mode), 0o644)
        self.assertEqual(os.listdir(self.folder), [".env", "home"])

    def test_the_key_is_in_no_output(self):
        """Row 34: not on stdout in any format, and not with --debug."""
        for command in (self.create, self.rotate, lambda *args: self.rotate("--verify", *args)):
            for form in ("table", "json", "jsonl", "csv", "tsv", "markdown", "html"):
                for more in ([], ["--debug"], ["--fields", "?"]):
                    result = command("--output-env", self.file, "--format", form, *more)
                    self.assertOk(result)
                    self.assertNotRegex(result.out + result.err, SHOWN_KEY)
                    key = self.server.rows("api_keys")[-1]["key"]
                    self.assertEqual(file_bytes(self.file), f"TWOSIGNAL_API_KEY={key}\n".encode())
        made = self.assertOk(self.create("--output-env", self.file, "--json")).json
        self.assertEqual(made["env_file"], self.file)
        self.assertNotIn("key", made)

    def test_a_server_that_echoes_it(self):
        """Row 34: what a check fails with may contain the new key."""
        key = "ts_" + "7" * 40
        self.make("apiKey.create", id=self.server.add_key(name="New"), name="Deploy", key=key)
        self.server.fault("/api/v1/traces", status=400,
                          body={"error": {"code": "VALIDATION_ERROR", "message": f"Why {key}?"}})
        result = self.assertFails(self.rotate("--verify", "--output-env", self.file), 1, "Why ***?")
        self.assertNotIn("7777", result.err)

    def test_whatever_the_server_calls_it(self):
        key = "ts_" + "1" * 40
        self.make("apiKey.create", id="k9", name="CI", key=key, secret=key)
        result = self.assertOk(self.create("--output-env", self.file, "--json"))
        self.assertNotIn(key, result.out)

    @posix
    def test_files_that_are_refused(self):
        """Row 64: before a key is made, and each stays as it is."""
        target, link, dangling = self.write("target", "A=1\n"), self.path("l"), self.path("d")
        os.symlink(target, link)
        os.symlink(self.path("nowhere"), dangling)
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        for path, problem in (
                *((path, self.REFUSED) for path in (
                    link, dangling, self.folder, fifo, "/dev/null", "/dev/stdout")),
                (self.path("nowhere", "x"), "No such file or directory"),
                (self.path("x" * 300), "File name too long")):
            for command in (self.create, self.rotate):
                with self.subTest(path=path):
                    self.assertFails(command("--output-env", path), 1, "Cannot write", problem)
        self.assertEqual(self.changes(), [])
        self.assertEqual(file_bytes(target), b"A=1\n")
        self.assertEqual(os.readlink(link), target)

    def test_content_that_is_refused(self):
        """Row 64: the file would be broken, or not be read as it is meant."""
        line = "TWOSIGNAL_API_KEY=a\r\n"
        for content in (line.encode("utf-16"), line.encode("utf-16-le"), line.encode("utf-16-be"),
                        b"A=\0\n", b'TWOSIGNAL_API_KEY="line1\nline2"\n',
                        b"TWOSIGNAL_API_KEY=line1\\\nline2\n",
                        b'TWOSIGNAL_API_KEY="line1\\\r\nx"\r\n',
                        b"export TWOSIGNAL_API_KEY = 'a\nb'"):
            with self.subTest(content=content):
                with open(self.file, "wb") as file:
                    file.write(content)
                self.assertFails(self.create("--output-env", self.file), 1, "Cannot write",
                                 "it is UTF-16, or the key in it spans lines. Name a new file")
                self.assertEqual(file_bytes(self.file), content)
        self.assertEqual(self.changes(), [])

    @posix
    def test_a_hard_link(self):
        """Row 64: the other name would keep the old key."""
        other = self.write("real", "TWOSIGNAL_API_KEY=a\n")
        os.link(other, self.file)
        self.assertFails(self.create("--output-env", self.file), 1, self.REFUSED)
        self.assertEqual((self.changes(), file_bytes(other)), ([], b"TWOSIGNAL_API_KEY=a\n"))

    @posix
    def test_a_file_of_another_user(self):
        self.write(".env", "A=1\n")
        owner = os.stat(self.file).st_uid
        with mock.patch("os.geteuid", lambda: owner + 1):
            # The home directory must not be another user's, too.
            with mock.patch("twosignal.trusted_directory", lambda path: path):
                result = self.create("--output-env", self.file)
        self.assertFails(result, 1, "Cannot write", self.REFUSED)
        self.assertEqual((self.changes(), file_bytes(self.file)), ([], b"A=1\n"))

    def test_a_read_only_file(self):
        self.write(".env", "A=1\n")
        with mock.patch("os.access", lambda path, mode: False):     # which root never sees
            self.assertFails(self.create("--output-env", self.file), 1, self.REFUSED)
        self.assertEqual(self.changes(), [])

    def test_a_file_that_cannot_be_replaced(self):
        """Row 64: such as a mount: known before a key is made."""
        self.write(".env", "A=1\n")
        for function, number in (("os.replace", errno.EBUSY), ("os.fsync", errno.ENOSPC)):
            with mock.patch(function, side_effect=OSError(number, os.strerror(number))):
                self.assertFails(self.create("--output-env", self.file), 1, self.file)
        self.assertEqual((self.changes(), file_bytes(self.file)), ([], b"A=1\n"))

    def failing_after(self, procedure):
        """os.replace fails once the procedure has been called."""
        real = os.replace

        def failing(*args):
            if self.server.count(procedure):
                raise OSError(errno.EIO, "Input/output error")
            return real(*args)
        return mock.patch("os.replace", failing)

    def test_a_file_that_fails_after_the_change(self):
        """Row 64: the new key is revoked, and shown nowhere; with --verify, the old one stays."""
        for command in (self.create, self.rotate):
            for more in ([], ["--json"], ["--fields", "id"]):
                with self.subTest(command=command, more=more):
                    self.use()
                    verify = ["--verify"] if command == self.rotate else []
                    with self.failing_after("apiKey.create"):
                        result = command("--output-env", self.file, *verify, *more)
                    self.assertEqual((result.code, result.out), (1, ""), result)
                    self.assertIn("Input/output error", result.err)
                    self.assertRegex(result.err, "the new one, [-0-9a-f]{36}, is revoked again")
                    self.assertNotRegex(result.err, SHOWN_KEY)
                    self.assertFalse(os.path.exists(self.file))
                    self.assertEqual((self.active("CI"), self.active("Deploy")), ([], [self.key]))

    def test_a_file_that_fails_after_a_rotation(self):
        """Row 64: the new key is on stdout, since the old one is gone; and the error says so."""
        for more in ([], ["--json"], ["--fields", "id"]):
            self.use()
            with self.failing_after("apiKey.rotate"):
                result = self.rotate("--output-env", self.file, *more)
            self.assertEqual(result.code, 1, result)
            self.assertIn("Input/output error", result.err)
            self.assertIn("The new key is on stdout.", result.err)
            self.assertEqual(result.json["key"], self.server.secret(result.json["id"]))
            self.assertFalse(os.path.exists(self.file))

    def test_a_file_that_becomes_a_link_meanwhile(self):
        target = self.write("target", "A=1\n")
        real = self.server.take_fault

        def planted(request):
            if "apiKey.create" in request.path:
                os.symlink(target, self.file)
            return real(request)
        with mock.patch.object(self.server, "take_fault", planted):
            result = self.create("--output-env", self.file)
        self.assertEqual((result.code, result.out), (1, ""), result)
        self.assertEqual((file_bytes(target), self.active("CI")), (b"A=1\n", []))

    def test_a_key_that_is_no_word(self):
        """It could add lines to the file, or mean something to a shell."""
        for key in ("ts_a\nPATH=/tmp", "ts_$(id)", "ts a", "", "ts_'", "ts_\u043a", "a\0b"):
            self.make("apiKey.create", id="k9", name="CI", key=key)
            result = self.create("--output-env", self.file)
            self.assertEqual((result.code, result.out), (1, ""), result)
            self.assertIn("characters that require quotes", result.err)
            self.assertFalse(os.path.exists(self.file))

    def test_not_with_output(self):
        result = self.create("--output-env", self.file, "-o", self.file)
        self.assertFails(result, 2, "cannot be used together")
        self.assertEqual(self.changes(), [])

    def test_rotation_writes_before_the_old_key_is_revoked(self):
        taken = self.server.take_fault
        seen = []

        def look(request):
            if "apiKey.revoke" in request.path:
                seen.append(file_bytes(self.file))
            return taken(request)
        with mock.patch.object(self.server, "take_fault", look):
            made = self.assertOk(self.rotate("--verify", "--output-env", self.file, "--json")).json
        key = self.server.secret(made["id"])
        self.assertEqual(seen, [f"TWOSIGNAL_API_KEY={key}\n".encode()])
        self.assertEqual(procedure_inputs(self.server, "apiKey.revoke"),
                         [{"id": self.key, "projectId": self.server.project}])


if __name__ == "__main__":
    unittest.main()
