"""The completion of command lines in bash, zsh and fish."""
import os
import shlex
import shutil
import unittest

import twosignal
from tools import FULL, Case, pty_run, run_command


def offered():
    """(words before, what must be offered there) for all of the registry."""
    names = [name.split() for name in twosignal.COMMANDS]
    yield (), {words[0] for words in names}
    for group in {words[0] for words in names if len(words) == 2}:
        yield (group,), {words[1] for words in names if words[0] == group and len(words) == 2}
    for name, command in twosignal.COMMANDS.items():
        flags = {flag for option in command.options + twosignal.SHARED for flag in option.flags}
        yield tuple(name.split()), {flag for flag in flags if flag.startswith("--")}


INTERRUPTED_BY_VALUES = (   # words on the line, and a flag or a command that must be offered then
    (("usage", "--org", "ID"), "--fail-above"),
    (("api", "trace.list"), "--mutation"),
    (("login", "-e", "you@example.com"), "--password-stdin"),
    (("traces", "list", "--project", "Support Agent"), "--since"),
    (("traces", "check", "--min-score", "0.5", "--junit", "report.xml"), "--min-count"),
    (("traces", "get", "ID", "--project", "ID"), "--fields"),
    (("--json", "traces", "list"), "--since"),
    (("--url", "example.com", "traces"), "list"))


class Completion(Case):
    def script(self, shell):
        result = self.assertOk(self.run_cli("completion", shell), err="")
        return self.write("twosignal." + shell, result.out)

    def in_shell(self, shell, lines):
        """What a shell prints for a script of lines; skips where there is no such shell."""
        program = shutil.which(shell)
        if not program:
            self.skipTest("there is no %s here" % shell)
        path = self.write("asks." + shell, "\n".join(lines) + "\n")
        quiet = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
        result = run_command([program] + quiet + [path], dict(self.environment, TERM="dumb"))
        self.assertEqual((result.code, result.err), (0, ""), result)
        return result.out

    def questions(self):
        """(words, word that is begun, what must be among the answers)"""
        for words, wanted in offered():
            yield words, "--" if any(word.startswith("--") for word in wanted) else "", wanted
        for words, wanted in INTERRUPTED_BY_VALUES:
            yield words, wanted[:3], {wanted}
        yield ("traces",), "ta", {"tail"}
        yield ("traces", "list", "--status"), "", {"OK", "ERROR"}
        yield ("traces", "list", "--status"), "E", {"ERROR"}
        yield ("orgs", "list", "--format"), "", set(twosignal.FORMATS)
        yield ("completion",), "", {"bash", "zsh", "fish"}

    def assertOffers(self, shell, answers, exact=True):
        questions = list(self.questions())
        self.assertEqual(len(answers), len(questions))
        for (words, begun, wanted), answer in zip(questions, answers):
            with self.subTest(shell=shell, words=words, begun=begun):
                self.assertEqual(sorted(wanted - set(answer)), [])
                self.assertTrue(all(word.startswith(begun) for word in answer), answer)

    def test_bash(self):
        lines = ["source " + shlex.quote(self.script("bash"))]
        for words, begun, _ in self.questions():
            line = list(words) + [begun]
            lines += ["COMP_WORDS=(twosignal %s)" % " ".join(map(shlex.quote, line)),
                      "COMP_CWORD=%d; COMPREPLY=(); _twosignal" % len(line),
                      'echo "${COMPREPLY[*]}"']
        answers = self.in_shell("bash", lines).split("\n")[:-1]
        self.assertOffers("bash", [answer.split() for answer in answers])

    def test_zsh(self):
        lines = ["compdef() { echo registered $* }", "source " + shlex.quote(self.script("zsh")),
                 'compadd() { [ "$1" = -- ] && shift; print -- "${(M)@:#$begun*}" }']
        for words, begun, _ in self.questions():
            line = list(words) + [begun]
            lines += ["words=(twosignal %s); CURRENT=%d; begun=%s; _twosignal" % (
                " ".join(map(shlex.quote, line)), len(line) + 1, shlex.quote(begun))]
        answers = self.in_shell("zsh", lines).split("\n")[:-1]
        self.assertEqual(answers.pop(0), "registered _twosignal twosignal")
        self.assertOffers("zsh", [answer.split() for answer in answers])

    def test_fish(self):
        lines = ["source " + shlex.quote(self.script("fish"))]
        for words, begun, _ in self.questions():
            line = " ".join(["twosignal"] + [shlex.quote(word) for word in words] + [begun])
            lines += ["complete -C %s" % shlex.quote(line), "echo =="]
        answers = self.in_shell("fish", lines).split("==\n")[:-1]
        self.assertOffers("fish", [[line.split("\t")[0] for line in answer.splitlines()]
                                   for answer in answers])

    def test_behind_other_options_there_are_files(self):
        """Not one of the command's own words."""
        self.write("report.xml", "")
        lines = ["source " + shlex.quote(self.script("bash")), "cd " + shlex.quote(self.folder),
                 "COMP_WORDS=(twosignal traces check --junit ''); COMP_CWORD=4; COMPREPLY=(x)",
                 '_twosignal; echo "${#COMPREPLY[@]}"']
        self.assertEqual(self.in_shell("bash", lines), "0\n")
        lines = ["compdef() { true }; _files() { echo files }; compadd() { echo words }",
                 "source " + shlex.quote(self.script("zsh")),
                 "words=(twosignal traces check --junit ''); CURRENT=5; _twosignal"]
        self.assertEqual(self.in_shell("zsh", lines), "files\n")

    def test_files_in_fish(self):
        self.write("report.xml", "")
        lines = ["source " + shlex.quote(self.script("fish")), "cd " + shlex.quote(self.folder),
                 "complete -C 'twosignal traces check --junit rep'"]
        self.assertEqual(self.in_shell("fish", lines).split()[:1], ["report.xml"])

    def test_a_flag_takes_a_value_in_each_command_or_in_none(self):
        """The scripts look at a flag without regard to its command."""
        without = {flag for each in twosignal.COMMANDS.values()
                   for option in twosignal._everywhere(each) if not option.takes_value
                   for flag in option.flags}
        self.assertEqual(without & set(twosignal._value_flags()), set())

    def test_fish_offers_nothing_beside(self):
        script = "source %s; complete -C 'twosignal traces list l'" % self.script("fish")
        self.assertNotIn("login", self.in_shell("fish", [script]).split())

    def typed(self, program, options, set_up):
        """What a command gets whose words were completed with Tab in a terminal."""
        if os.name == "nt" or not shutil.which(program):
            self.skipTest("there is no %s with a terminal here" % program)
        folder = self.path("bin")
        os.mkdir(folder)
        with open(os.path.join(folder, "twosignal"), "w") as file:
            file.write("#!/bin/sh\nprintf 'got'; printf '<%s>' \"$@\"; echo; exit\n")
        os.chmod(os.path.join(folder, "twosignal"), 0o755)
        env = dict(self.environment, PATH=folder + os.pathsep + os.environ["PATH"], TERM="dumb",
                   PS1="ready> ", INPUTRC=os.devnull)
        typed = [("ready> ", "%s; echo set''tled\n" % set_up), ("settled", ""),
                 ("ready> ", "twosignal trac\t"), ("traces ", "chec\t"), ("check ", "--max-er\t"),
                 ("error-rate ", "\n"), ("got<traces><check><--max-error-rate>", ""),
                 ("ready> ", "exit\n")]
        return pty_run([shutil.which(program)] + options, typed, env)

    def test_tab_in_bash(self):
        self.typed("bash", ["--norc", "--noprofile", "-i"],
                   "source " + shlex.quote(self.script("bash")))

    @unittest.skipUnless(FULL, "with TWOSIGNAL_TEST_FULL=1")
    def test_tab_in_zsh(self):
        self.typed("zsh", ["-f", "-i"], "autoload -Uz compinit; compinit -u -D; source "
                   + shlex.quote(self.script("zsh")))

    @unittest.skipUnless(FULL, "with TWOSIGNAL_TEST_FULL=1")
    def test_zsh_from_its_folder_of_functions(self):
        folder = self.path("functions")
        os.mkdir(folder)
        os.rename(self.script("zsh"), os.path.join(folder, "_twosignal"))
        self.typed("zsh", ["-f", "-i"], "fpath=(%s $fpath); autoload -Uz compinit; compinit -u -D"
                   % shlex.quote(folder))

    def test_needs_no_settings(self):
        for env in ({"TWOSIGNAL_URL": "ftp://nowhere"}, {"HOME": None, "TWOSIGNAL_HOME": None},
                    {"TWOSIGNAL_API_KEY_FILE": "/nonexistent"}):
            for shell in ("bash", "zsh", "fish"):
                self.assertOk(self.run_cli("completion", shell, env=env), err="")

    def test_other_shells(self):
        for shell in ("tcsh", "", "BASH", "\x1b[31m"):
            with self.subTest(shell=shell):
                self.assertFails(self.run_cli("completion", shell), 2)
        self.assertFails(self.run_cli("completion"), 2)

    def test_other_formats_do_not_break(self):
        for options in (("--json",), ("--format", "csv"), ("--fields", "?"), ("--fields", "id")):
            with self.subTest(options=options):
                result = self.run_cli("completion", "bash", *options)
                self.assertNotIn("should not have happened", result.err)
