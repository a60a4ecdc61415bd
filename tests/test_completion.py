"""Completion: what `twosignal __complete` offers, and the scripts that ask it in each shell."""
import os
import shlex
import shutil
import sys
import threading
import unittest
from unittest import mock

import twosignal
from tools import (ONCE, PROGRAM, Case, CommandCase, costly, pty_run, requests_of, run_command,
                   write_script)

SHELLS = ("bash", "zsh", "fish")
HOSTILE_NAMES = ["$(touch planted)", "`touch planted`", "; touch planted", "Support Agent",
                 "it's \"quoted\"", "back\\slash", "a=b:c@d", "!!", "*", "~", "#1", "-n",
                 "東京 🚀", "a&b|c>planted", "{a,b}", "[x]", "%s", "$HOME"]
UNPRINTABLE_NAMES = ["tab\there", "line\nbreak", "cr\rlf", "\x1b[31mred", "a\u202eb", "\u2028",
                     "\x00"]


class CompletionCase(CommandCase):
    def complete(self, *words, **kwargs):
        """The candidates for the last of the words; without any, shells complete files."""
        result = self.assertOk(self.cli("__complete", "--", *words, **kwargs), err="")
        return result.out.split("\n")[:-1]


class Commands(CompletionCase):
    def test_every_command_and_group(self):
        names = [command.name.split() for command in twosignal.visible_commands()]
        self.assertEqual(self.complete(""), list(dict.fromkeys(name[0] for name in names)))
        for group in {name[0] for name in names if len(name) == 2}:
            self.assertEqual(self.complete(group, ""),
                             [name[1] for name in names if name[0] == group])
        self.assertEqual(self.complete("tra"), ["traces"])
        self.assertEqual(self.complete("traces", "ta"), ["tail"])
        self.assertEqual(self.complete("traces", "l"), ["list"])

    def test_without_any_word(self):
        result = self.assertOk(self.cli("__complete"), err="")
        self.assertEqual(result.lines, self.complete(""))

    def test_hidden_commands_are_not_offered(self):
        self.assertEqual(self.complete("__"), [])

    def test_unknown_commands(self):
        for words in (["xyzzy", ""], ["traces", "lst", ""], ["xyzzy"], ["", ""]):
            with self.subTest(words=words):
                self.assertEqual(self.complete(*words), [])

    def test_behind_options(self):
        for before in (["--json"], ["--format=json"], ["--format", "json"], ["-q"],
                       ["--url", "http://localhost:3000"], ["--url=http://localhost:3000"],
                       ["-qo", "list"], ["--project", "traces"], ["--nope"], ["-x"], ["--json=x"]):
            with self.subTest(before=before):
                self.assertEqual(self.complete(*before, "tr"), ["traces"])
                self.assertEqual(self.complete(*before, "traces", "ta"), ["tail"])
                self.assertEqual(self.complete("traces", *before, "ta"), ["tail"])


class Options(CompletionCase):
    def test_every_long_flag_of_every_command(self):
        for command in twosignal.visible_commands():
            flags = [flag for flag in twosignal.flags_of(command.all_options)
                     if flag.startswith("--")]
            with self.subTest(command=command.name):
                self.assertEqual(self.complete(*command.name.split(), "--"), flags)
                self.assertEqual(self.complete(*command.name.split(), "-"), flags)

    def test_before_the_command(self):
        flags = [flag for option in twosignal.GLOBAL_OPTIONS for flag in option.flags
                 if flag.startswith("--")]
        self.assertEqual(self.complete("--"), flags + ["--version"])
        self.assertEqual(self.complete("traces", "--"), flags + ["--version"])
        self.assertEqual(self.complete("--fo"), ["--format"])

    def test_behind_values(self):
        for words, flag in (
                (("usage", "--org", "ID"), "--fail-above"), (("api", "trace.list"), "--mutation"),
                (("login", "-e", "you@example.com"), "--password-stdin"),
                (("traces", "list", "--project", "Support Agent"), "--since"),
                (("traces", "check", "--min-score", "0.5", "--junit", "r.xml"), "--min-count"),
                (("traces", "get", "ID", "--project", "ID"), "--fields"),
                (("traces", "list", "-qn3"), "--status"), (("traces", "list", "-n", "x"), "--all"),
                (("datasets", "create", "-d", "-h"), "--name"),
                (("traces", "list", "--limit", "--all"), "--status")):
            with self.subTest(words=words):
                self.assertEqual(self.complete(*words, flag[:-1]), [flag])

    def test_operands(self):
        self.assertEqual(self.complete("completion", "")[:3], list(SHELLS))
        self.assertEqual(self.complete("completion", "f"), ["fish"])
        self.assertEqual(self.complete("completion", "x"), [])
        self.assertEqual(self.complete("completion", "bash", "f"), [])

    def test_calls_of_api(self):
        """In place of GET or POST, and after it."""
        self.assertEqual(self.complete("api", "P"), ["POST"])
        for before in ((), ("GET",), ("-f", "name=x", "POST")):
            self.assertEqual(self.complete("api", *before, "project.u"), ["project.update"])
            self.assertEqual(self.complete("api", *before, "/api/v1/prompt"),
                             ["/api/v1/prompt-templates"])


class Values(CompletionCase):
    def test_fixed_values(self):
        formats = list(twosignal.FORMATS)
        for before in (["--format"], ["orgs", "list", "--format"], ["--json", "--format"]):
            with self.subTest(before=before):
                self.assertEqual(self.complete(*before, ""), formats)
                self.assertEqual(self.complete(*before, "js"), ["json", "jsonl"])
                self.assertEqual(self.complete(*before, "xml"), [])
        self.assertEqual(self.complete("traces", "list", "--status", ""), ["OK", "ERROR"])
        self.assertEqual(self.complete("traces", "list", "--status", "E"), ["ERROR"])

    def test_joined_to_the_flag(self):
        self.assertEqual(self.complete("orgs", "list", "--format=js"),
                         ["--format=json", "--format=jsonl"])
        self.assertEqual(self.complete("--format="),
                         ["--format=" + name for name in twosignal.FORMATS])
        self.assertEqual(self.complete("orgs", "list", "--color", "a"), ["auto", "always"])
        self.assertEqual(self.complete("traces", "list", "--status=E"), ["--status=ERROR"])
        self.assertEqual(self.complete("traces", "list", "--all="), [])
        self.assertEqual(self.complete("traces", "list", "--nope="), [])

    def test_values_of_any_text_have_no_candidates(self):
        for words in (["--url", ""], ["traces", "list", "--search", "l"],
                      ["traces", "list", "-n", ""], ["traces", "list", "--since="]):
            with self.subTest(words=words):
                self.assertEqual(self.complete(*words), [])

    def test_short_flags(self):
        self.assertEqual(self.complete("traces", "list", "-qn", ""), [])
        self.assertEqual(self.complete("orgs", "list", "-qo", ""), [])

    def test_files(self):
        for words in (["--output", ""], ["-o", "rep"], ["--output=rep"], ["--ca-cert", "x"],
                      ["traces", "check", "--junit", ""], ["traces", "check", "--junit=r"],
                      ["orgs", "list", "--output", "-"]):
            with self.subTest(words=words):
                self.assertEqual(self.complete(*words), [])

    def test_nothing_is_a_value_after_two_dashes(self):
        self.assertEqual(self.complete("traces", "get", "--", "--format", "j"), [])

    def test_quoted_and_escaped_words(self):
        for word in ('"js', "'js", "j\\s", '"j"s', "js"):
            with self.subTest(word=word):
                self.assertEqual(self.complete("orgs", "list", "--format", word),
                                 ["json", "jsonl"])
        self.assertEqual(self.complete('"traces"', "'list'", "--sta"), ["--status"])
        self.assertEqual(self.complete("tr\\aces", "l"), ["list"])
        self.assertEqual(self.complete("orgs", "list", '--format="js'),
                         ["--format=json", "--format=jsonl"])

    def test_words_of_any_text(self):
        for word in ("\x00", "\x1b[31m", "\\", '"', "'", "x" * 100000, "=", "--=", "-",
                     "--", "- "):
            for words in ([word], [word, ""], ["traces", "list", word, "--sta"],
                          ["orgs", "list", "--format", word]):
                with self.subTest(words=[each[:9] for each in words]):
                    self.complete(*words)
        self.assertFails(self.cli("__complete", "--", "\udcff"), 2)     # no shell passes that


class ServerNames(CompletionCase):
    def setUp(self):
        super().setUp()
        for name in ("TWOSIGNAL_PROJECT", "TWOSIGNAL_ORG"):
            del self.environment[name]

    def names(self, *rows):
        self.server.fault("organization.list", times=None, status=200,
                          body={"result": {"data": {"json": list(rows)}}})

    def assertNothing(self, **kwargs):
        for words in (["usage", "--org", ""], ["traces", "list", "--project", ""]):
            with self.subTest(words=words):
                self.assertEqual(self.complete(*words, **kwargs), [])

    def test_projects_and_organizations(self):
        for command, flag, name in ((["usage"], "--org", "Acme 東京"),
                                    (["traces", "list"], "--project", "Support Agent")):
            with self.subTest(flag=flag):
                self.assertEqual(self.complete(*command, flag, ""), [name])
                self.assertEqual(self.complete(*command, flag, name[:4]), [name])
                self.assertEqual(self.complete(*command, flag + "="), [flag + "=" + name])
                self.assertEqual(self.complete(*command, flag, "xyzzy"), [])

    def test_operand(self):
        """Only as long as it is not given."""
        self.assertEqual(self.complete("projects", "use", "S"), ["Support Agent"])
        self.assertEqual(self.complete("--url", self.server.url, "projects", "use", "Support\\ A"),
                         ["Support Agent"])
        self.server.clear()
        self.assertEqual(self.complete("projects", "use", "x", "S"), [])
        self.assertEqual(self.complete("projects", "use", "--or"), ["--org"])
        self.assertEqual(self.server.requests, [])

    def test_projects_of_one_organization(self):
        other = self.server.add_org(name="Other Inc", roles={"owner@example.com": "OWNER"})
        self.server.add_project(name="Elsewhere", org=other)
        for words, env in ((["--org", "Other Inc"], {}), (["--org=Other Inc"], {}),
                           (["--org", '"Other Inc"'], {}), (["--org", "Other\\ Inc"], {}),
                           (["--org", other], {}), ([], {"TWOSIGNAL_ORG": other})):
            with self.subTest(words=words, env=env):
                self.assertEqual(self.complete("--project", "x", *words, "traces", "list",
                                               "--project", "", env=env), ["Elsewhere"])
        self.assertIn("Elsewhere", self.complete("traces", "list", "--project", ""))

    def test_hostile_names(self):
        """Row 68: candidates are names as they are; those with control characters are left out."""
        self.names(*[{"id": str(place), "name": name}
                     for place, name in enumerate(HOSTILE_NAMES + UNPRINTABLE_NAMES)])
        self.assertEqual(self.complete("usage", "--org", ""), HOSTILE_NAMES)
        self.assertEqual(self.complete("usage", "--org="),
                         ["--org=" + name for name in HOSTILE_NAMES])
        self.assertEqual(self.complete("usage", "--org", "\\$\\("), ["$(touch planted)"])
        self.assertEqual(self.complete("usage", "--org", "it\\'s"), ["it's \"quoted\""])
        self.assertEqual(self.complete("usage", "--org", '"it\'s'), [])     # the quotes are dropped

    def test_names_that_are_no_candidates(self):
        self.names({"name": None}, {"name": 5}, {"name": ["x"]}, {}, {"name": ""}, {"name": " "},
                   {"name": "--json"}, {"name": "Good"})
        self.assertEqual(self.complete("usage", "--org", ""), ["Good"])
        self.assertEqual(self.complete("usage", "--org="), ["--org=--json", "--org=Good"])

    def test_responses_that_are_no_lists(self):
        for body in (b"", b"{", {"result": {"data": {"json": 5}}}, b"<html>", b"[" * 100000,
                     {"result": {"data": {"json": [1, None, "x"]}}}):
            with self.subTest(body=str(body)[:40]):
                self.server.clear()
                self.server.fault("organization.list", times=None, status=200, body=body)
                self.assertNothing()

    def test_errors_of_the_server(self):
        for status in (401, 403, 404, 429, 500, 503):
            with self.subTest(status=status):
                self.server.clear()
                self.server.fault("organization.list", times=None, status=status, body="")
                self.assertNothing()

    def test_the_server_of_url(self):
        other = self.serve()
        self.log_in(server=other)
        other.add_org(name="Elsewhere", roles={"owner@example.com": "OWNER"})
        self.write("home/config.json", {"api_url": "http://127.0.0.1:9"})
        for words in (["--url", other.url, "usage"], ["usage", "--url=" + other.url]):
            self.assertIn("Elsewhere", self.complete(*words, "--org", ""))
        self.assertEqual(self.server.requests, [])

    def test_wrong_settings(self):
        for env in ({"TWOSIGNAL_URL": "ftp://nowhere"}, {"TWOSIGNAL_URL": "http://127.0.0.1:9"},
                    {"HOME": None, "TWOSIGNAL_HOME": None, "USERPROFILE": None}):
            with self.subTest(env=env):
                self.assertNothing(env=env)
        self.write("home/session.json", b"{")
        self.assertNothing()
        self.assertEqual(self.server.requests, [])

    def test_logged_out(self):
        os.unlink(os.path.join(self.home, "session.json"))
        self.assertNothing()
        self.assertNothing(env={"TWOSIGNAL_API_KEY": "ts_0123456789abcdef"})
        self.assertEqual(self.server.requests, [])

    def test_a_session_is_not_refreshed(self):
        expired = dict(self.state("session.json"), expires_at=1)
        self.write("home/session.json", expired)
        self.assertNothing()
        self.assertEqual(requests_of(self.server, "auth/refresh"), [])
        self.assertEqual(self.state("session.json"), expired)
        session = self.log_in()
        self.server.expire("owner@example.com")     # the file does not tell
        self.assertNothing()
        self.assertEqual(requests_of(self.server, "auth/refresh"), [])
        self.assertEqual(self.state("session.json"), session)

    def test_a_silent_server_is_abandoned(self):
        fault = self.server.fault("organization.list", times=None, delay=True)
        self.addCleanup(fault.release.set)
        self.assertEqual(self.complete("usage", "--org", ""), [])
        self.assertTrue(fault.begun.is_set())

    def test_a_slow_server_is_abandoned(self):
        """Each response comes in time, but not all of them together."""
        for number in range(3):
            self.server.add_org(name="Org %d" % number, roles={"owner@example.com": "OWNER"})
        self.server.fault("organization.list", times=None, delay=0.7)
        fault = self.server.fault("project.list", times=None, delay=0.7)
        self.assertEqual(self.complete("traces", "list", "--project", ""), [])
        self.addCleanup(fault.release.set)

    def test_a_slow_host_lookup_is_abandoned(self):
        found = threading.Event()
        self.addCleanup(found.set)
        with mock.patch("socket.getaddrinfo", lambda *args, **kwargs: found.wait(60) and []):
            self.assertEqual(self.complete("usage", "--org", ""), [])

    def test_a_process_does_not_wait_for_what_it_has_abandoned(self):
        fault = self.server.fault("organization.list", times=None, delay=True)
        self.addCleanup(fault.release.set)
        result = self.run_process("__complete", "--", "usage", "--org", "")
        self.assertEqual((result.code, result.out, result.err), (0, "", ""))

    def test_nothing_is_written(self):
        before = sorted(os.listdir(self.home))
        self.complete("usage", "--org", "")
        self.complete("traces", "list", "--project", "")
        self.assertEqual(sorted(os.listdir(self.home)), before)

    def test_no_request_unless_a_name_is_asked_for(self):
        for words in ([""], ["traces", ""], ["traces", "list", "--"], ["--format", ""],
                      ["traces", "list", "--project", "x", ""], ["-o", ""]):
            self.complete(*words)
        self.assertEqual(self.server.requests, [])


class ShellCase(CommandCase):
    """A `twosignal` on PATH that completes, and otherwise prints its arguments."""

    def setUp(self):
        super().setUp()
        if os.name == "nt":
            self.skipTest("these shells are not at home on Windows")
        for name in ("TWOSIGNAL_PROJECT", "TWOSIGNAL_ORG"):
            del self.environment[name]
        self.write("report.xml", "")
        self.write("my report.xml", "")
        os.mkdir(self.path("bin"))
        write_script(self.path("bin", "completes"), [sys.executable, "-I", PROGRAM])
        self.write("bin/twosignal",
                   "#!/bin/sh\nif [ \"$1\" = __complete ]; then exec completes \"$@\"; fi\n"
                   "printf got; printf '<%s>' \"$@\"; echo\n")
        os.chmod(self.path("bin", "twosignal"), 0o755)
        self.environment.update(
            PATH=self.path("bin") + os.pathsep + self.environment["PATH"], TERM="dumb",
            LC_ALL="C.UTF-8", INPUTRC=os.devnull, PS1="ready> ", HISTFILE=os.devnull)

    def set_names(self, names):
        rows = [{"id": str(place), "name": name} for place, name in enumerate(names)]
        self.server.fault("organization.list", times=None, status=200,
                          body={"result": {"data": {"json": rows}}})

    def program(self, shell):
        program = shutil.which(shell)
        if not program:
            self.skipTest("there is no %s here" % shell)
        return program

    def script(self, shell):
        result = self.assertOk(self.run_cli("completion", shell), err="")
        return self.write("twosignal." + shell, result.out)

    def in_shell(self, shell, lines):
        """What a shell prints for a script of lines."""
        path = self.write("asks." + shell, "\n".join(lines) + "\n")
        options = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}
        result = run_command([self.program(shell)] + options[shell] + [path], self.environment,
                             cwd=self.folder)
        self.assertEqual((result.code, result.err), (0, ""), result)
        return result.out

    def typed(self, shell, options, set_up, keys):
        """The arguments of twosignal as typed in a terminal; keys: (typed, what must appear)."""
        script = [("ready> ", "cd %s; %s; echo set''tled\n" % (shlex.quote(self.folder), set_up)),
                  ("settled", ""), ("ready> ", "")]
        shown = ""
        for typed, appears in keys:
            script.append((shown, typed))
            shown = appears
        script += [(shown, "\n"), ("got", ""), ("ready> ", "exit\n")]
        output, _ = pty_run([self.program(shell)] + options, script, self.environment, columns=200)
        self.assertNotIn("planted", os.listdir(self.folder))
        return output[output.rindex("got<"):].splitlines()[0]


class Bash(ShellCase):
    def replies(self, *questions):
        """What the function offers for each (line to the cursor, words as bash splits it)."""
        lines = ["source " + shlex.quote(self.script("bash"))]
        for line, words in questions:
            lines += ["COMP_LINE=%s; COMP_POINT=${#COMP_LINE}" % shlex.quote(line),
                      "COMP_WORDS=(%s); COMP_CWORD=%d; COMPREPLY=(x); _twosignal" % (
                          " ".join(map(shlex.quote, words)), len(words) - 1),
                      "printf '%s\\n' \"${COMPREPLY[@]}\" ==="]
        parts = self.in_shell("bash", lines).split("===\n")[:-1]
        return [[line for line in part.split("\n") if line] for part in parts]

    def test_words(self):
        flags = [flag for flag in twosignal.flags_of(twosignal.COMMANDS["usage"].all_options)
                 if flag.startswith("--")]
        self.assertEqual(
            self.replies(("twosignal tr", ["twosignal", "tr"]),
                         ("twosignal   traces  ta", ["twosignal", "traces", "ta"]),
                         ("twosignal orgs ", ["twosignal", "orgs", ""]),
                         ("twosignal usage --", ["twosignal", "usage", "--"]),
                         ("twosignal xyzzy ", ["twosignal", "xyzzy", ""])),
            [["traces"], ["tail"], twosignal.words_after(["orgs"]), flags, []])

    def test_words_that_bash_splits(self):
        url = ["--url", "http", ":", "//localhost", ":", "3000"]
        self.assertEqual(
            self.replies(("twosignal orgs list --format=",
                          ["twosignal", "orgs", "list", "--format", "="]),
                         ("twosignal orgs list --format=js",
                          ["twosignal", "orgs", "list", "--format", "=", "js"]),
                         ("twosignal --format=json tr",
                          ["twosignal", "--format", "=", "json", "tr"]),
                         ("twosignal --url http://localhost:3000 traces ta",
                          ["twosignal"] + url + ["traces", "ta"]),
                         ("twosignal -e a@b.c log", ["twosignal", "-e", "a", "@", "b.c", "log"])),
            [list(twosignal.FORMATS), ["json", "jsonl"], ["traces"], ["tail"], ["login", "logout"]])

    def test_the_cursor_inside_a_line(self):
        """The words behind it do not matter."""
        found = self.in_shell("bash", [
            "source " + shlex.quote(self.script("bash")),
            "COMP_LINE='twosignal traces li --json'; COMP_POINT=19",
            "COMP_WORDS=(twosignal traces li --json); COMP_CWORD=2; _twosignal",
            "printf '%s\\n' \"${COMPREPLY[@]}\""])
        self.assertEqual(found, "list\n")

    def test_names(self):
        """Row 68: bash expands nothing in a name."""
        self.set_names(HOSTILE_NAMES + UNPRINTABLE_NAMES)
        (plain, joined, quoted) = self.replies(
            ("twosignal usage --org ", ["twosignal", "usage", "--org", ""]),
            ("twosignal usage --org=", ["twosignal", "usage", "--org", "="]),
            ("twosignal usage --org \"", ["twosignal", "usage", "--org", '"']))
        self.assertEqual(self.in_shell("bash", ["printf '%s\\n' " + " ".join(plain)]),
                         "\n".join(HOSTILE_NAMES) + "\n")
        self.assertEqual(joined, plain)
        expanded = set("\"'\\$`!")             # in double quotes
        self.assertEqual(quoted, [name for name in HOSTILE_NAMES if not set(name) & expanded])
        self.assertNotIn("planted", os.listdir(self.folder))

    @costly
    def test_in_a_terminal(self):
        """What the program gets, whatever the shell has inserted."""
        self.set_names(HOSTILE_NAMES)
        cases = [
            ([("twosignal trac\t", "traces "), ("chec\t", "check "), ("--max-er\t", "error-rate ")],
             "<traces><check><--max-error-rate>"),
            ([("twosignal orgs list --format=jsonl\t", "jsonl ")], "<orgs><list><--format=jsonl>"),
            ([("twosignal orgs list --format=t\t\t", "tsv"), ("s\t", "tsv ")],
             "<orgs><list><--format=tsv>"),
            ([("twosignal usage --org Supp\t", "Agent ")], "<usage><--org><Support Agent>"),
            ([("twosignal usage --org=Supp\t", "Agent ")], "<usage><--org=Support Agent>"),
            ([("twosignal usage --org \"Supp\t", "Agent\" ")], "<usage><--org><Support Agent>"),
            ([("twosignal usage --org 'Supp\t", "Agent' ")], "<usage><--org><Support Agent>"),
            ([("twosignal usage --org=\"Supp\t", "Agent\" ")],
             "<usage><--org=Support Agent>"),
            ([("twosignal usage --org Support\\ A\t", "Agent ")], "<usage><--org><Support Agent>"),
            ([("twosignal usage --org \\$\\(\t", "planted\\) ")],
             "<usage><--org><$(touch planted)>"),
            ([("twosignal usage --org \\`\t", "planted\\` ")], "<usage><--org><`touch planted`>"),
            ([("twosignal usage --org \"; \t", "planted\" ")], "<usage><--org><; touch planted>"),
            ([("twosignal usage --org a=b:\t", "c@d ")], "<usage><--org><a=b:c@d>"),
            ([("twosignal traces check --junit rep\t", "report.xml ")],
             "<traces><check><--junit><report.xml>"),
            ([("twosignal traces check --junit=my\t", "report.xml ")],
             "<traces><check><--junit=my report.xml>"),
            ([("twosignal traces check --junit \"my\t", "report.xml\" ")],
             "<traces><check><--junit><my report.xml>")]
        for keys, expected in cases if ONCE else cases[:2] + cases[4:6] + cases[9:10] + cases[-2:]:
            with self.subTest(keys=keys):
                self.assertEqual(self.typed("bash", ["--norc", "--noprofile", "-i"],
                                            "source " + shlex.quote(self.script("bash")), keys),
                                 "got" + expected)

    def test_a_hostile_name_in_an_open_quote(self):
        """Row 68: "$(touch planted)" would be run by the shell, so it is not inserted there."""
        self.set_names(HOSTILE_NAMES)
        output = self.typed("bash", ["--norc", "--noprofile", "-i"],
                            "source " + shlex.quote(self.script("bash")),
                            [("twosignal usage --org \"\\$(\t", "\\$("), ("\"", "\"")])
        self.assertEqual(output, "got<usage><--org><$(>")


class Zsh(ShellCase):
    def test_words(self):
        lines = ["compdef() { echo registered $* }", "source " + shlex.quote(self.script("zsh")),
                 "compset() { true }; _files() { echo files }",
                 'compadd() { [ "$1" = -- ] && shift; print -rl -- "$@" }']
        for words in ("twosignal tr", "twosignal traces ta", "twosignal orgs ''",
                      "twosignal orgs list --format=js", "twosignal --url http://a:1 tr",
                      "twosignal traces check --junit ''", "twosignal xyzzy ''"):
            lines.append("words=(%s); CURRENT=$#words; _twosignal; echo '==='" % words)
        first, rest = self.in_shell("zsh", lines).split("\n", 1)
        self.assertEqual(first, "registered _twosignal twosignal")
        self.assertEqual([part.split() for part in rest.split("===\n")[:-1]], [
            ["traces"], ["tail"], twosignal.words_after(["orgs"]),
            ["--format=json", "--format=jsonl"], ["traces"], ["files"], ["files"]])

    def typed_lines(self, set_up):
        self.set_names(HOSTILE_NAMES)
        cases = [
            ([("twosignal trac\t", "traces "), ("chec\t", "check "), ("--max-er\t", "error-rate ")],
             "<traces><check><--max-error-rate>"),
            ([("twosignal usage --org Supp\t", "Agent")], "<usage><--org><Support Agent>"),
            ([("twosignal usage --org=Supp\t", "Agent")], "<usage><--org=Support Agent>"),
            ([("twosignal usage --org \"Supp\t", "Agent")], "<usage><--org><Support Agent>"),
            ([("twosignal usage --org \\$\\(\t", "planted")], "<usage><--org><$(touch planted)>"),
            ([("twosignal usage --org \"\\$(\t", "planted")], "<usage><--org><$(touch planted)>"),
            ([("twosignal usage --org '$(\t", "planted")], "<usage><--org><$(touch planted)>"),
            ([("twosignal traces check --junit rep\t", "report.xml")],
             "<traces><check><--junit><report.xml>"),
            ([("twosignal traces check --junit=my\t", "report.xml")],
             "<traces><check><--junit=my report.xml>")]
        for keys, expected in cases if ONCE else cases[:2] + cases[5:6] + cases[8:]:
            with self.subTest(keys=keys):
                self.assertEqual(self.typed("zsh", ["-f", "-i"], set_up, keys), "got" + expected)

    @costly
    def test_in_a_terminal(self):
        self.typed_lines("autoload -Uz compinit; compinit -u -D; source "
                         + shlex.quote(self.script("zsh")))

    @unittest.skipUnless(ONCE, "with TWOSIGNAL_TEST_FULL=1")
    def test_from_its_folder_of_functions(self):
        folder = self.path("functions")
        os.mkdir(folder)
        os.rename(self.script("zsh"), os.path.join(folder, "_twosignal"))
        self.typed_lines("fpath=(%s $fpath); autoload -Uz compinit; compinit -u -D"
                         % shlex.quote(folder))


class Fish(ShellCase):
    def candidates(self, *lines):
        """What fish would insert for each line."""
        script = ["source " + shlex.quote(self.script("fish"))]
        for line in lines:
            script += ["complete -C %s" % self.quoted(line), "echo ==="]
        return [[each.split("\t")[0] for each in part.splitlines()]
                for part in self.in_shell("fish", script).split("===\n")[:-1]]

    @staticmethod
    def quoted(text):
        return "'%s'" % text.replace("\\", "\\\\").replace("'", "\\'")

    def test_words(self):
        self.assertEqual(self.candidates(
            "twosignal tra", "twosignal traces ta", "twosignal completion f",
            "twosignal orgs list --format js", "twosignal orgs list --format=js",
            "twosignal --url http://localhost:3000 tra", "twosignal --format=json traces ta",
            "twosignal traces list l", "twosignal xyzzy q"), [
            ["traces"], ["tail"], ["fish"], ["json", "jsonl"], ["--format=json", "--format=jsonl"],
            ["traces"], ["tail"], [], []])
        everything, = self.candidates("twosignal ")
        self.assertEqual(set(everything),
                         {command.name.split()[0] for command in twosignal.visible_commands()})

    def test_names(self):
        self.set_names(HOSTILE_NAMES)
        every, support, quoted, joined = self.candidates(
            "twosignal usage --org ", "twosignal usage --org Supp",
            "twosignal usage --org \"Supp", "twosignal usage --org=Supp")
        self.assertEqual(sorted(every), sorted(HOSTILE_NAMES))
        self.assertEqual((support, quoted, joined),
                         (["Support Agent"], ["Support Agent"], ["--org=Support Agent"]))
        self.assertNotIn("planted", os.listdir(self.folder))

    def test_names_before_the_last_word(self):
        other = self.server.add_org(name="It's Other\\Inc", roles={"owner@example.com": "OWNER"})
        self.server.add_project(name="Elsewhere", org=other)
        self.assertEqual(self.candidates(
            "twosignal --org \"It's Other\\\\Inc\" traces list --project ",
            "twosignal --org It\\'s\\ Other\\\\Inc traces list --project "), [["Elsewhere"]] * 2)

    def test_files(self):
        self.assertEqual(self.candidates(
            "twosignal traces check --junit rep", "twosignal traces check --junit=rep",
            "twosignal traces check --junit my"),
            [["report.xml"], ["--junit=report.xml"], ["my report.xml"]])


class Scripts(Case):
    def test_no_settings_are_needed(self):
        for env in ({"TWOSIGNAL_URL": "ftp://nowhere"}, {"HOME": None, "TWOSIGNAL_HOME": None},
                    {"TWOSIGNAL_API_KEY_FILE": "/nonexistent"}):
            for shell in SHELLS:
                self.assertOk(self.run_cli("completion", shell, env=env), err="")

    def test_other_shells(self):
        self.assertOk(self.run_cli("completion", "BASH"))
        for shell in ("tcsh", "ba", "\x1b[31m"):
            with self.subTest(shell=shell):
                self.assertFails(self.run_cli("completion", shell), 2, "bash, zsh, fish")
        self.assertFails(self.run_cli("completion", ""), 2, "Invalid SHELL '': must not be empty")
        for env in ({}, {"TWOSIGNAL_API_KEY": "ts_key"}):       # which is another matter
            self.assertFails(self.run_cli("completion", env=env), 2, "Missing SHELL")

    def test_other_formats(self):
        script = self.run_cli("completion", "bash").out
        for options in (["--json"], ["--format", "json"]):
            result = self.assertOk(self.run_cli("completion", "bash", *options), err="")
            self.assertEqual(result.json, script)
        for options in (["--format", "csv"], ["--format", "jsonl"], ["--fields", "?"],
                        ["--fields", "value"]):
            with self.subTest(options=options):
                self.assertOk(self.run_cli("completion", "bash", *options), err="")
        self.assertFails(self.run_cli("completion", "bash", "--fields", "id"), 2, "'id'")
