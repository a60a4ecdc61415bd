"""Prompt templates: their versions and variables, and content that stays as it was pushed."""
import os
import subprocess
import sys
import unittest

import twosignal
from tools import PROGRAM, KeyCase, file_bytes, merged

PATH = "/api/v1/prompt-templates"
CONTENT = "Hello {{name}},\r\n\n\ttab {{ user.x }} – 日本 🚀 {{name}}\x1b[31m\n"
VERSION = {"id": "v1", "version": 1, "content": "Hi", "variables": [], "commitMessage": None,
           "createdAt": "2026-03-14T10:30:00.000Z"}


class PromptsCase(KeyCase):
    def prompts(self, *line, env=(), **kwargs):
        return self.cli("prompts", *line, env={**self.key(), **dict(env)}, **kwargs)

    def push(self, name="greeting", content="Hi", *line, **kwargs):
        return self.prompts("push", name, "--content", content, *line, **kwargs)

    def pushed(self):
        """What the server got in the last request."""
        return self.server.requests[-1].body


class Versions(PromptsCase):
    def test_pushed_listed_and_read(self):
        """With and without an envelope; a name may have any character."""
        name = "greeting & co/日本?"
        for options in ({}, {"rest_envelope": True}):
            self.use(empty=True, **options)
            with self.subTest(options=options):
                result = self.assertOk(self.push(name, "Hello {{name}}", "-d", "For everybody"))
                self.assertEqual(result.out, 'Pushed version 1 of "%s".\n' % name)
                self.assertEqual(self.pushed(), {
                    "name": name, "content": "Hello {{name}}", "variables": ["name"],
                    "description": "For everybody"})
                record = self.assertOk(self.push(name, "Bye", "-m", "Be brief", "--json")).json
                self.assertEqual((record["name"], record["version"]["version"],
                                  record["version"]["commit_message"]), (name, 2, "Be brief"))
                row, = self.assertOk(self.prompts("list", "--json")).json
                self.assertEqual((row["name"], row["latest_version"], row["description"]),
                                 (name, 2, "For everybody"))
                for more, version, content in (((), 2, "Bye"), (("--version", "2"), 2, "Bye"),
                                               (("--version=1",), 1, "Hello {{name}}")):
                    shown = self.assertOk(self.prompts("get", name, "--json", *more)).json
                    self.assertEqual(set(shown), {"id", "name", "version"})
                    self.assertEqual(shown["version"]["version"], version)
                    self.assertEqual(shown["version"]["content"], content)
                    self.assertIsNone(self.server.requests[-1].headers.get("Cookie"))

    def test_what_is_shown(self):
        self.push("greeting", CONTENT, "-m", "First")
        listed = self.assertOk(self.prompts("list"), err="")
        self.assertEqual(listed.lines[0].split(), ["ID", "Version", "Updated", "Name"])
        self.assertEqual(listed.lines[2].split()[1:], ["1", "just", "now", "greeting"])
        self.assertEqual(self.assertOk(self.prompts("get", "greeting"), err="").out, (
            "Name:       greeting\nVersion:    1\nVariables:  name, user.x\nMessage:    First\n"
            "Created:    just now\n  Content:\n    Hello {{name}},\n\n"
            "    \\x09tab {{ user.x }} – 日本 🚀 {{name}}\\x1b[31m\n\n"))
        for form in ("csv", "jsonl", "markdown", "html"):
            self.assertIn("user.x", self.assertOk(
                self.prompts("get", "greeting", "--format", form), err="").out)
        row = self.prompts("get", "greeting", "--fields", "version.content", "--format", "jsonl")
        self.assertEqual(self.assertOk(row).json, {"version.content": CONTENT})

    def test_the_version_option_takes_a_value_only_there(self):
        """Elsewhere, and before the command, --version prints that of the program."""
        self.push("greeting", "Hi")
        self.server.clear()
        for line in (("--version", "prompts", "get", "greeting"), ("--version",), ("-V",),
                     ("--version", "prompts", "get", "greeting", "--version", "1"),
                     ("prompts", "--version"), ("prompts", "--version", "get", "greeting")):
            with self.subTest(line=line):
                self.assertEqual(self.assertOk(self.cli(*line)).out, twosignal.VERSION_LINE)
        for value in ("0", "-1", "x", "1.5", ""):
            with self.subTest(value=value):
                self.assertFails(self.prompts("get", "greeting", "--version", value), 2,
                                 "Invalid --version")
        self.assertFails(self.prompts("get", "greeting", "--version"), 2, "needs a value")
        self.assertFails(self.prompts("list", "--version", "1"), 2, "no option --version")
        self.assertEqual(self.server.requests, [])
        out = self.assertOk(self.prompts("get", "greeting", "--version", "1", "--help")).out
        self.assertIn("usage: twosignal prompts get NAME", out)

    def test_not_found(self):
        self.push("greeting", "Hi")
        self.assertFails(self.prompts("get", "nope"), 6, "Prompt template not found. Check the "
                         "name with 'twosignal prompts list'")
        self.assertFails(self.prompts("get", "greeting", "--version", "7"), 6,
                         "Prompt template version not found. Check the name and version with "
                         "'twosignal prompts list'")
        for error in ({"code": "NOT_FOUND"}, {"code": "NOT_FOUND", "message": "Nothing here"}):
            self.server.fault(PATH, status=404, body={"data": None, "error": error})
            with self.subTest(error=error):
                self.assertFails(self.prompts("get", "x"), 6, "'twosignal prompts list'")

    def test_nothing_found(self):
        self.assertEqual(self.assertOk(self.prompts("list")).out, "No prompt templates found.\n")
        self.assertEqual(self.assertOk(self.prompts("list", "--json")).json, [])

    def test_without_a_key(self):
        """A session is no substitute, and not sent."""
        for session in (False, True):
            if session:
                self.log_in()
            for line in (("list",), ("get", "x"), ("push", "x", "--content", "y")):
                with self.subTest(session=session, line=line):
                    self.assertFails(self.cli("prompts", *line), 4, "requires a project API key",
                                     "Set TWOSIGNAL_API_KEY")
        self.assertEqual(self.server.requests, [])
        self.assertFails(self.prompts("list", env={"TWOSIGNAL_API_KEY": "ts_wrong"}), 4,
                         "The API key is not accepted")

    def test_odd_answers(self):
        for body in ([], "x", {}, {"id": "p", "version": 3}, {"id": "p", "version": {}},
                     {"id": "p", "version": [VERSION]}, {"version": 3, "version.content": "x"},
                     {"id": "p", "version": dict(VERSION, content=7)}):
            for more in ((), ("--raw",), ("--json",)):
                self.server.fault(PATH, status=200, body={"data": body, "error": None})
                with self.subTest(body=body, more=more):
                    self.assertFails(self.prompts("get", "x", *more), 8, "wrong type")
        for version in (2, "2", None):
            self.server.fault(PATH, status=200, body={"data": {
                "id": "p", "version": dict(VERSION, version=version)}})
            with self.subTest(version=version):
                self.assertFails(self.prompts("get", "x", "--version", "1", "--raw"), 8,
                                 "another version")
        self.server.fault(PATH, status=200, body={"data": {"id": "p", "more": {"someKey": 1},
                                                           "version": dict(VERSION, x=None)}})
        record = self.assertOk(self.prompts("get", "x", "--json")).json
        self.assertEqual((record["more"], record["version"]["x"]), ({"some_key": 1}, None))


class Contents(PromptsCase):
    def test_raw_is_what_was_pushed(self):
        """Byte for byte, in a file of any name and where stdout goes; as JSON it is a string."""
        pushed = self.write("prompt.txt", CONTENT.encode("utf-8"))
        self.assertOk(self.push("greeting", "@" + pushed))
        self.assertEqual(self.pushed()["content"], CONTENT)
        if os.name != "nt":             # Windows has line breaks of its own for stdout
            env = merged(self.environment, dict(self.key(), PYTHONIOENCODING="utf-8"))
            out = subprocess.check_output([sys.executable, PROGRAM, "prompts", "get", "greeting",
                                           "--raw"], env=env)
            self.assertEqual(out, CONTENT.encode("utf-8"))
        for name in ("a.txt", "a.md", "a.json", "a.html", "a.csv", "a"):
            path = self.path(name)
            with self.subTest(name=name):
                self.assertOk(self.prompts("get", "greeting", "--raw", "-o", path), err="")
                self.assertEqual(file_bytes(path), CONTENT.encode("utf-8"))
        text = self.assertOk(self.prompts("get", "greeting", "--raw", "--json")).json
        self.assertEqual(text, CONTENT)

    def test_a_log_of_ci(self):
        """Row 68: commands to the CI system take no effect in its log; a file has the content."""
        self.push("greeting", "::error::x\n")
        env, path = {"GITHUB_ACTIONS": "true"}, self.path("prompt.txt")
        shown = self.assertOk(self.prompts("get", "greeting", "--raw", env=env)).out
        self.assertFalse(shown.startswith("::"), shown)
        self.assertOk(self.prompts("get", "greeting", "--raw", "-o", path, env=env))
        self.assertEqual(file_bytes(path), b"::error::x\n")
        if os.name != "nt":
            with open(path, "wb") as file:
                subprocess.check_call(
                    [sys.executable, PROGRAM, "prompts", "get", "greeting", "--raw"], stdout=file,
                    env=merged(self.environment, dict(self.key(), **env)))
            self.assertEqual(file_bytes(path), b"::error::x\n")

    def test_a_terminal(self):
        """Row 35: control characters in a prompt have no effect there, and line breaks do."""
        self.push("greeting", "a\x1b[31m\r\nb\rc\u202e\n")
        self.environment.update(self.key())
        for more in ((), ("-o", "/dev/tty")):
            out, code = self.run_terminal("prompts", "get", "greeting", "--raw", *more)
            with self.subTest(more=more):
                self.assertEqual((out.replace("\r\n", "\n"), code),
                                 ("a\\x1b[31m\nb\\x0dc\\u202e\n", 0))

    def test_half_a_character(self):
        """What no file can hold is written as an escape."""
        path = self.path("prompt.txt")
        for more in ((), ("-o", path)):
            self.server.fault(PATH, status=200, body=(
                b'{"data": {"id": "p", "name": "x", "version": {"content": "a\\ud800b"}}}'))
            self.assertOk(self.prompts("get", "x", "--raw", *more))
        self.assertEqual(file_bytes(path), b"a\\ud800b")

    def test_the_name_of_a_file_is_no_content(self):
        """It would be live at once; nothing is sent."""
        path = self.write("prompt.txt", b"A")
        self.assertFails(self.push("x", path), 2, "--content is the name of a file", "put @ before")
        self.assertEqual(self.server.requests, [])

    def test_where_content_comes_from(self):
        path = self.write("prompt.txt", b"\xef\xbb\xbfA\r\nB\n")
        for value, stdin, content in (
                ("@" + path, None, "A\r\nB\n"), ("-", "A\r\nB\n", "A\r\nB\n"),
                ("@-", "C", "C"), ("  text \n", None, "  text \n"), ('{"a": 1}', None, '{"a": 1}')):
            with self.subTest(value=value):
                self.assertOk(self.push("x", value, stdin=stdin))
                self.assertEqual(self.pushed()["content"], content)

    def test_content_that_cannot_be_used(self):
        """One clear line, and nothing is sent."""
        for value, stdin, problem in (
                ("", None, "must not be empty"), (" \n", None, "must not be empty"),
                ("@" + self.write("empty", b""), None, "must not be empty"),
                ("@" + self.write("blank", b" \r\n\t"), None, "must not be empty"),
                ("@" + self.write("bom", b"\xef\xbb\xbf"), None, "must not be empty"),
                ("-", "", "must not be empty"), ("-", b"\xff\xfe", "Cannot read stdin"),
                ("@" + self.write("latin", b"caf\xe9"), None, "Cannot read the file of --content"),
                ("@" + self.path("none"), None, "Cannot read the file of --content"),
                ("@" + self.folder, None, "Cannot read the file of --content"),
                ("@", None, "Cannot read the file of --content")):
            with self.subTest(value=value, stdin=stdin):
                self.assertFails(self.push("x", value, stdin=stdin), 2, "--content" if (
                    "stdin" not in problem) else problem, problem)
        self.assertFails(self.prompts("push", "x"), 2, "Missing --content")
        self.assertFails(self.prompts("push", "", "--content", "x"), 2, "must not be empty")
        self.assertEqual(self.server.requests, [])

    def test_variables(self):
        """Those in the content, in order, once each; or those that are named."""
        for content, names in (
                ("none", []), ("{{b}} {{a}} {{ b }} {{\tc_1\n}}", ["b", "a", "c_1"]),
                ("{{user.name}} {{größe}} {{a-b}}", ["user.name", "größe", "a-b"]),
                ("{{#if x}} {{/if}} {{> part}} {{!note}} {{}} {{ }} {x} {{x y}}", []),
                ("{{{raw}}} {{a}", ["raw"]), ("{{" * 50000 + "{{" + " " * 50000, [])):
            path = "@" + self.write("prompt.txt", content.encode("utf-8"))
            with self.subTest(content=content[:40]):
                self.assertOk(self.push("x", path))
                self.assertEqual(self.pushed()["variables"], names)
        self.assertOk(self.push("x", "{{a}}", "--variable", "b", "--variable", "c"))
        self.assertEqual(self.pushed()["variables"], ["b", "c"])

    def test_lost_answers(self):
        """Row 22: the outcome of a push is unknown, and `prompts get` shows it."""
        for fault, code in (({"reset": True, "after": True}, 9),
                            ({"status": 500, "body": {"error": {"code": "X"}}}, 8)):
            self.server.clear()
            self.server.fault(PATH, **fault)
            with self.subTest(fault=fault):
                self.assertFails(self.push("a b", "x"), code, "may have been made",
                                 "check with 'twosignal prompts get 'a b'' before you repeat it")
                self.assertEqual(self.server.count(PATH), 1)
        self.server.fault(PATH, status=429, times=2, body={"error": {"code": "RATE_LIMITED"}})
        self.assertOk(self.push("a b", "x"))

    def test_refusals(self):
        for status, code in ((400, 1), (403, 5), (413, 1)):
            self.server.fault(PATH, status=status, body={"error": {"code": "X", "message": "No"}})
            with self.subTest(status=status):
                self.assertFails(self.push(), code)

    def test_the_result_of_a_push_that_says_little(self):
        self.server.fault(PATH, status=201, body={"id": "p", "name": "x"})
        self.assertEqual(self.assertOk(self.push("x", "y", "--json")).json, {
            "id": "p", "name": "x"})


if __name__ == "__main__":
    unittest.main()
