"""The section Entry: arguments wherever they stand, help, and the ways to start the program."""
import os
import shlex
import shutil
import sys
import unittest
from unittest import mock

import twosignal
from tools import ROOT, SCRIPT, Case, ServerCase, full, run_command, write_script

README = os.path.join(ROOT, "README.md")
GROUPS = sorted({name.split()[0] for name in twosignal.COMMANDS if " " in name})


def words_of(example):
    """The arguments of twosignal in an example, without redirections and what follows a pipe."""
    words = shlex.split(example[example.index("twosignal "):].rstrip(")"))
    ends = [place for place, word in enumerate(words) if word in ("<", ">", "|", ">>")]
    return words[1:min(ends + [len(words)])]


class ParserCase(Case):
    """Parses command lines and carries out none of them."""

    def setUp(self):
        super().setUp()
        self.environment.update(TWOSIGNAL_PROJECT="p", TWOSIGNAL_ORG="o")

    def parse(self, *argv, **kwargs):
        """(name, namespace) of the command line; fails where it is not accepted."""
        seen = []

        def note(command, args, console):
            seen.append((command.name, args))
            return 0
        with mock.patch("twosignal._execute", note):
            self.assertOk(self.run_cli(*argv, **kwargs))
        self.assertEqual(len(seen), 1, argv)
        return seen[0]

    def refused(self, *argv, **kwargs):
        """The message with which a command line is refused, before anything was done."""
        with mock.patch("twosignal._execute", side_effect=AssertionError("it was run")):
            return self.assertFails(self.run_cli(*argv, **kwargs), 2).err


class TestForms(ParserCase):
    def test_a_value_stands_beside_or_behind_its_option(self):
        for argv in (["--limit", "5"], ["--limit=5"], ["-n", "5"], ["-n5"], ["-L", "5"], ["-L5"],
                     ["-qn5"], ["-qn", "5"]):
            with self.subTest(argv=argv):
                _, args = self.parse("traces", "list", *argv)
                self.assertEqual(args.limit, 5)

    def test_the_last_one_wins(self):
        _, args = self.parse("traces", "list", "--limit", "5", "-n7", "--limit=9")
        self.assertEqual(args.limit, 9)
        _, args = self.parse("--url", "http://a", "orgs", "--url=http://b", "list")
        self.assertEqual(args.url, "http://b")

    def test_short_options_together(self):
        _, args = self.parse("evaluators", "delete", "x", "-qy")
        self.assertTrue(args.quiet and args.yes)
        _, args = self.parse("-q", "evaluators", "delete", "-y", "x")
        self.assertTrue(args.quiet and args.yes)

    def test_values_that_begin_with_a_dash(self):
        for argv in (["-n", "-draft-"], ["-n-draft-"], ["--name", "-draft-"], ["--name=-draft-"]):
            with self.subTest(argv=argv):
                _, args = self.parse("datasets", "create", *argv)
                self.assertEqual(args.name, "-draft-")
        _, args = self.parse("traces", "list", "--search=--all")
        self.assertEqual((args.search, args.all), ("--all", False))
        _, args = self.parse("login", "-e", "a@b.c", "-p", "-secret")
        self.assertEqual(args.password, "-secret")
        _, args = self.parse("login", "-e", "a@b.c", "--password=--secret")
        self.assertEqual(args.password, "--secret")

    def test_values_that_look_like_numbers_or_blanks(self):
        for text in ("-1", "-0.5", " ", "a b", "", "=", "a=b", "@", "日本", "'", "%s", "%"):
            with self.subTest(text=text):
                _, args = self.parse("datasets", "create", "-n", "x", "--description=" + text)
                self.assertEqual(args.description, text)

    def test_after_two_dashes_nothing_is_an_option(self):
        for argv in (["traces", "get", "--", "-id"], ["traces", "get", "--", "--json"],
                     ["--json", "traces", "get", "--", "--help"],
                     ["orgs", "create", "--", "--version"], ["orgs", "create", "--", "-h"]):
            with self.subTest(argv=argv):
                _, args = self.parse(*argv)
                given = args.id if "get" in argv else args.name
                self.assertEqual(given, argv[-1])
                self.assertEqual(args.format, "json" if argv[0] == "--json" else None)

    def test_options_before_between_and_after(self):
        words = ["datasets", "get", "ID"]
        for place in range(4):
            for option, name, value in ((["--json"], "format", "json"), (["-q"], "quiet", True),
                                        (["--url", "http://x"], "url", "http://x"),
                                        (["--timeout=3"], "timeout", 3.0),
                                        (["--project", "P"], "project", "P"),
                                        (["--no-color"], "no_color", True),
                                        (["--ca-cert", "f"], "ca_cert", "f"),
                                        (["--debug"], "debug", True)):
                with self.subTest(place=place, option=option):
                    found, args = self.parse(*words[:place] + option + words[place:])
                    self.assertEqual((found, args.id), ("datasets get", "ID"))
                    self.assertEqual(getattr(args, name), value)

    def test_a_command_as_a_value(self):
        """A value that is spelled like a command or a group is a value."""
        found, args = self.parse("--project", "traces", "traces", "list", "--search", "list")
        self.assertEqual((found, args.project, args.search), ("traces list", "traces", "list"))
        found, args = self.parse("orgs", "create", "list")
        self.assertEqual((found, args.name), ("orgs create", "list"))

    def test_the_last_format_wins(self):
        for given, form, errors in (("--json --format csv", "csv", False),
                                    ("--format csv --json", "json", True),
                                    ("--format=table --format jsonl", "jsonl", True),
                                    ("--json --format=table", "table", False)):
            with self.subTest(given=given):
                _, args = self.parse("orgs", "list", *given.split())
                self.assertEqual(args.format, form)
                self.assertEqual(twosignal._wants_json(given.split()), errors)

    def test_what_was_not_given_is_false_or_none(self):
        _, args = self.parse("traces", "list")
        self.assertEqual((args.format, args.all, args.limit, args.status, args.url, args.timeout),
                         (None, False, None, None, None, None))
        self.assertEqual(args.given, set())

    def test_variables_stand_in(self):
        _, args = self.parse("traces", "list")
        self.assertEqual(args.project, "p")
        _, args = self.parse("traces", "list", "--project", "q")
        self.assertEqual(args.project, "q")
        _, args = self.parse("login", env={"TWOSIGNAL_EMAIL": "a@b.c", "TWOSIGNAL_PASSWORD": "x"})
        self.assertEqual((args.email, args.password, args.given), ("a@b.c", "x", set()))


class TestRefusals(ParserCase):
    def test_mistyped_commands(self):
        for argv, nearest in ((["trace"], "twosignal traces"), (["traces", "lst"], "traces list"),
                              (["trace", "lst"], "traces list"), (["logn"], "twosignal login"),
                              (["evaluator", "list"], "evaluators list"),
                              (["api-key", "list"], "api-keys list"),
                              (["orgs", "lsit"], "orgs list"),
                              (["--json", "traces", "gte"], "traces get"),
                              (["datasets", "additem"], "datasets add-item"),
                              (["project", "list", "--org", "x"], "projects list")):
            with self.subTest(argv=argv):
                message = self.refused(*argv)
                if "--json" not in argv:
                    self.assertIn("There is no command '%s'" % " ".join(
                        word for word in argv[:2] if argv[0] != "logn" or word == "logn"), message)
                self.assertIn("'%s" % nearest if nearest.startswith("two")
                              else "'twosignal %s" % nearest, message)

    def test_commands_that_resemble_nothing(self):
        for argv in (["xyzzy"], ["list"], [""], [" "], ["日本"], ["--", "traces"], ["\x1b[31m"]):
            with self.subTest(argv=argv):
                message = self.refused(*argv)
                self.assertIn("twosignal", message)
                self.assertNotIn("\x1b", message)

    def test_every_refusal_names_a_way_out(self):
        for argv in (["traces", "list", "extra"], ["traces", "list", "--limit"],
                     ["traces", "list", "--limit", "x"], ["traces", "get"],
                     ["traces", "list", "--nope"], ["datasets", "create"], ["--nope"],
                     ["traces", "list", "--json=yes"], ["orgs", "create", "a", "b"],
                     ["datasets", "create", "-n"], ["traces", "list", "-x"],
                     ["evaluators", "create", "-n", "x"], ["traces", "--nope"],
                     ["traces", "list", "--all", "-n", "5"],
                     ["evaluators", "toggle", "x", "--enable", "--disable"],
                     ["traces", "list", "--timeout", "-1"], ["traces", "list", "--status", "x"],
                     ["traces", "list", "-V"], ["traces", "get", "-1x"],
                     ["--debug", "--limit", "5"]):
            with self.subTest(argv=argv):
                result = self.assertFails(self.run_cli(*argv), 2)
                self.assertEqual(len(result.err.splitlines()), 1, result)
                self.assertRegex(result.err, r"\. [A-Z]", "it has no hint")

    def test_an_option_that_is_meant_is_named(self):
        for given, meant in (("--limt", "--limit"), ("--max-durations", "--max-duration"),
                             ("--jsn", "--json"), ("--limt=3", "--limit")):
            self.assertIn("Did you mean %s?" % meant, self.refused("traces", "list", given))
        self.assertIn("--help", self.refused("traces", "list", "--xyzzy"))
        self.assertIn("--help", self.refused("traces", "list", "--limit", "--limt"))

    def test_an_unknown_option_is_named(self):
        self.assertIn("--nope", self.refused("traces", "list", "--nope"))
        self.assertIn("--nope", self.refused("--nope"))
        self.assertIn("--nope", self.refused("traces", "--nope"))
        self.assertIn("-x", self.refused("traces", "list", "-x"))

    def test_an_option_without_its_value(self):
        for argv in (["traces", "list", "--limit"], ["traces", "list", "--search", "--json"],
                     ["--url"], ["orgs", "list", "--url"], ["traces", "list", "--project", "-q"],
                     ["datasets", "create", "-n"]):
            with self.subTest(argv=argv):
                self.refused(*argv)

    def test_options_of_other_commands(self):
        self.assertIn("--limit", self.refused("orgs", "list", "--limit", "5"))
        self.assertIn("--yes", self.refused("traces", "list", "--yes"))

    def test_json_says_it_in_json(self):
        for argv in (["--json", "trace"], ["traces", "lst", "--json"], ["traces", "list", "--json",
                     "--limit", "x"], ["--json"], ["traces", "--json"]):
            with self.subTest(argv=argv):
                result = self.run_cli(*argv)
                self.assertFails(result, 2)
                self.assertEqual(result.error["code"], "USAGE")


class TestHelp(ParserCase):
    def shown(self, *argv, **kwargs):
        return self.assertOk(self.run_cli(*argv, **kwargs), err="").out

    def test_top(self):
        for argv in ([], ["--help"], ["-h"], ["-q", "--help"]):
            with self.subTest(argv=argv):
                out = self.shown(*argv)
                for name, command in twosignal.COMMANDS.items():
                    self.assertIn("  %s " % name, out)
                for option in twosignal.SHARED:
                    for flag in option.flags:
                        self.assertIn(flag, out)
                self.assertIn("--version", out)

    def test_groups(self):
        for group in GROUPS:
            for argv in ([group], [group, "--help"], ["--help", group], [group, "-h"]):
                with self.subTest(argv=argv):
                    out = self.shown(*argv)
                    for name, command in twosignal.COMMANDS.items():
                        assertion = self.assertIn if name.split()[0] == group else self.assertNotIn
                        assertion("  %s " % name, out)
                    self.assertIn("usage: twosignal %s " % group, out)

    def test_help_comes_before_what_is_missing_or_wrong(self):
        for argv in (["traces", "get", "--help"], ["datasets", "create", "-h"],
                     ["traces", "list", "--limit", "x", "--help"], ["--help", "traces", "list"],
                     ["traces", "--help", "list"], ["traces", "list", "--json", "--help"]):
            with self.subTest(argv=argv):
                self.assertIn("usage: twosignal ", self.shown(
                    *argv, env={"TWOSIGNAL_PROJECT": None, "TWOSIGNAL_ORG": None}))

    def test_lines_fit_a_terminal(self):
        for argv in [["--help"]] + [[group, "--help"] for group in GROUPS]:
            for line in self.shown(*argv).splitlines():
                self.assertLessEqual(len(line), 80, line)

    def test_version(self):
        expected = "twosignal %s (Python %d.%d.%d)\n" % (
            (twosignal.__version__,) + sys.version_info[:3])
        for argv in (["--version"], ["-V"], ["--json", "--version"], ["-q", "-V"]):
            self.assertEqual(self.shown(*argv), expected)


class TestRegistry(ParserCase):
    """Each command: help, an example that parses, a line in the README."""

    def test_help(self):
        for name, command in twosignal.COMMANDS.items():
            with self.subTest(command=name):
                self.assertTrue(command.help.endswith("."), command.help)
                result = self.run_cli(*name.split() + ["--help"], columns=80)
                out = self.assertOk(result, err="").out
                self.assertIn("usage: twosignal %s " % name, out)
                self.assertIn(" ".join(command.help.split()[:4]), " ".join(out.split()))
                for option in command.options + twosignal.SHARED:
                    self.assertTrue(option.details.get("help"), option.flags)
                    for flag in option.flags:
                        if flag.startswith("-"):
                            self.assertIn(flag, out)
                    if option.env:
                        self.assertIn(option.env, out)

    def test_examples(self):
        for name, command in twosignal.COMMANDS.items():
            self.assertTrue(command.examples, name)
            for example in command.examples:
                with self.subTest(example=example):
                    self.assertIn("twosignal " + name, example)
                    found, _ = self.parse(*words_of(example))
                    self.assertEqual(found, name)
                    self.assertIn(example, self.run_cli(*name.split() + ["--help"]).out)

    @unittest.skipUnless(os.path.exists(README), "there is no README.md")
    def test_readme(self):
        with open(README, encoding="utf-8") as file:
            text = file.read()
        for name in twosignal.COMMANDS:
            with self.subTest(command=name):
                self.assertRegex(text, r"`(twosignal )?%s\b" % name)

    def test_option_names(self):
        """One name, one meaning: no flag twice in a command, no two options under one name."""
        for name, command in twosignal.COMMANDS.items():
            for options in (command.options, twosignal.SHARED):
                flags = [flag for option in options for flag in option.flags]
                self.assertEqual(len(flags), len(set(flags)), name)
                names = [option.name for option in options if "--json" not in option.flags]
                self.assertEqual(len(names), len(set(names)), name)     # --json is a --format

    def test_groups(self):
        self.assertEqual(sorted(twosignal.GROUPS), GROUPS)


class TestWaysToStart(ServerCase):
    shared = True

    def setUp(self):
        super().setUp()
        self.log_in()
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project)

    def start(self, command, **kwargs):
        return run_command(command, self.environment, **kwargs)

    def assertLists(self, result):
        self.assertEqual(len(self.assertOk(result, err="").json), 5, result)

    def test_script(self):
        self.assertLists(self.start([sys.executable, SCRIPT, "traces", "list", "--json"]))

    @unittest.skipIf(os.name == "nt", "there are no executables without an ending")
    def test_copied_executable(self):
        path = os.path.join(self.folder, "bin")
        os.mkdir(path)
        shutil.copy(SCRIPT, os.path.join(path, "twosignal"))
        os.chmod(os.path.join(path, "twosignal"), 0o755)
        write_script(os.path.join(path, "python3"), [sys.executable])
        self.environment["PATH"] = path + os.pathsep + os.environ["PATH"]
        result = self.start([os.path.join(path, "twosignal"), "traces", "list", "--json"],
                            cwd=self.folder)
        self.assertLists(result)
        self.assertEqual(sorted(os.listdir(path)), ["python3", "twosignal"])

    def test_module(self):
        self.assertLists(self.start([sys.executable, "-B", "-m", "twosignal", "traces", "list",
                                     "--json"], cwd=ROOT))

    def test_piped(self):
        with open(SCRIPT, "rb") as file:
            source = file.read()
        for env in full([{"LC_ALL": "C"}], [{}, {"LC_ALL": "C"}]):
            self.environment.update(env)
            self.assertLists(self.start([sys.executable, "-", "traces", "list", "--json"],
                                        stdin=source.decode("utf-8")))
        result = self.start([sys.executable, "-", "login", "-e", "a@b.c"],
                            stdin=source.decode("utf-8"))
        self.assertFails(result, 2, "--password-stdin")

    def test_main_returns_its_exit_code(self):
        """main(argv) neither leaves nor raises; without argv it takes the process's own."""
        with mock.patch.object(sys, "argv", ["twosignal", "--version"]):
            with mock.patch.object(sys, "stdout") as stdout:
                stdout.encoding = "utf-8"
                self.assertEqual(twosignal.main(), 0)
        self.assertEqual(self.run_cli("nope").code, 2)
        self.assertEqual(self.run_cli("traces", "get", "nope").code, 6)


if __name__ == "__main__":
    unittest.main()
