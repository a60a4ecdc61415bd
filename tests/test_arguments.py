"""The section Arguments: options wherever they stand, values, help, usage errors."""
import json
import os
import re
import shlex
import sys
import unittest

import twosignal
from tools import (LISTS, PROCEDURES, ROOT, Case, CommandCase, PassingClock, merged,
                   procedure_inputs, replaced_environment, requests_of, trpc_answer)


class ParserCase(Case):
    """Parses command lines without running them."""

    def setUp(self):
        super().setUp()
        self.environment.update(TWOSIGNAL_PROJECT="p", TWOSIGNAL_ORG="o")

    def parse(self, *argv, **kwargs):
        """(name of the command, Arguments); raises Failure if the command line is wrong."""
        line = twosignal.CommandLine(argv)
        self.assertIsNone(line.error)
        with replaced_environment(merged(self.environment, kwargs.get("env"))):
            return line.command.name, twosignal.Arguments(line.command, line)

    def refused(self, *argv, **kwargs):
        """What is printed for a wrong command line; without a session nothing else gives 2."""
        return self.assertFails(self.run_cli(*argv, **kwargs), 2).err


class ArgumentForms(ParserCase):
    def test_a_value_is_joined_to_its_option_or_follows_it(self):
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
        _, args = self.parse("traces", "list", "--project", "-q")
        self.assertEqual((args.project, args.quiet), ("-q", False))
        _, args = self.parse("login", "-e", "a@b.c", "--password=--secret")
        self.assertEqual(args.password, "--secret")

    def test_values_of_any_text(self):
        for text in ("-1", "-0.5", " ", "a b", "", "=", "a=b", "@", "日本", "'", "%s", "%"):
            with self.subTest(text=text):
                _, args = self.parse("datasets", "create", "-n", "x", "--description=" + text)
                self.assertEqual(args.description, text)

    def test_nothing_is_an_option_after_two_dashes(self):
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
                                        (["--no-color"], "color", "never"),
                                        (["--ca-cert", "f"], "ca_cert", "f"),
                                        (["--client-cert", "f"], "client_cert", "f"),
                                        (["--client-key=f"], "client_key", "f"),
                                        (["--header", "A: b", "--header=C: d"], "header",
                                         ["A: b", "C: d"]),
                                        (["--debug"], "debug", True)):
                with self.subTest(place=place, option=option):
                    found, args = self.parse(*words[:place] + option + words[place:])
                    self.assertEqual((found, args.id), ("datasets get", "ID"))
                    self.assertEqual(getattr(args, name), value)

    def test_a_command_as_a_value(self):
        """A value may be spelled like a command or a group."""
        found, args = self.parse("--project", "traces", "traces", "list", "--search", "list")
        self.assertEqual((found, args.project, args.search), ("traces list", "traces", "list"))
        found, args = self.parse("orgs", "create", "list")
        self.assertEqual((found, args.name), ("orgs create", "list"))

    def test_the_last_format_wins(self):
        for options, name, has_json_errors in (("--json --format csv", "csv", False),
                                               ("--format csv --json", "json", True),
                                               ("--format=table --format jsonl", "jsonl", True),
                                               ("--json --format=table", "table", False),
                                               ("--format JSON", "json", True)):
            with self.subTest(options=options):
                _, args = self.parse("orgs", "list", *options.split())
                self.assertEqual(args.format, name)
                result = self.assertFails(self.run_cli("orgs", "list", "x", *options.split()), 2)
                self.assertEqual(bool(result.error), has_json_errors)

    def test_omitted_options_are_false_or_none(self):
        _, args = self.parse("traces", "list")
        self.assertEqual((args.format, args.all, args.limit, args.status, args.url, args.timeout),
                         (None, False, None, None, None, None))

    def test_variables_replace_omitted_options(self):
        _, args = self.parse("traces", "list")
        self.assertEqual((args.project, args.sources), ("p", {"project": "TWOSIGNAL_PROJECT"}))
        _, args = self.parse("traces", "list", "--project", "q")
        self.assertEqual((args.project, args.sources), ("q", {}))
        _, args = self.parse("traces", "list", "--project", "q", env={"TWOSIGNAL_PROJECT": "'x'"})
        self.assertEqual(args.project, "q")     # a variable that is not used may be wrong
        _, args = self.parse("login", env={"TWOSIGNAL_EMAIL": "a@b.c", "TWOSIGNAL_PASSWORD": "x"})
        self.assertEqual((args.email, args.password), ("a@b.c", "x"))
        self.assertEqual(set(args.sources), {"email", "password"})


class RefusedArguments(ParserCase):
    def test_mistyped_commands(self):
        for argv, nearest in ((["usge"], "twosignal usage"), (["traces", "lst"], "traces list"),
                              (["trace", "lst"], "traces list"), (["logn"], "twosignal login"),
                              (["evaluator", "list"], "evaluators list"),
                              (["api-key", "list"], "api-keys list"),
                              (["orgs", "lsit"], "orgs list"),
                              (["--json", "traces", "tial"], "traces tail"),
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
        """The groups and commands are listed, or the commands of the group."""
        for argv, shown in ((["xyzzy"], "xyzzy"), (["list"], "list"), ([""], ""), ([" "], " "),
                            (["日本"], "日本"), (["--", "xyzzy"], "xyzzy"),
                            (["\x1b[31m"], "\\x1b[31m")):
            with self.subTest(argv=argv):
                self.assertEqual(self.refused(*argv), (
                    "Error: There is no command '%s'. Choose one of: login, whoami, logout, orgs, "
                    "projects, traces, scores, evaluators, datasets, api-keys, routing, prompts, "
                    "usage, api, doctor, help, version, completion, install.\n") % shown)
        for argv in (["traces", "xyzzy"], ["trace", "xyzzy"], ["trace"]):
            with self.subTest(argv=argv):
                self.assertIn("Choose one of: traces list, traces get, traces stats, "
                              "traces check, traces export, traces send, traces wait, traces "
                              "tail.\n", self.refused(*argv))

    def test_verbs_of_other_programs(self):
        for typed, meant in (
                ("traces show", "traces get"), ("traces view", "traces get"),
                ("dataset describe", "datasets get"), ("projects ls", "projects list"),
                ("keys ls", "api-keys list"), ("org ls", "orgs list"),
                ("eval ls", "evaluators list"),
                ("datasets rm", "datasets remove-item' or 'twosignal datasets delete"),
                ("datasets edit", "datasets update"), ("evaluators remove", "evaluators delete"),
                ("projects rename", "projects update"), ("projects edit", "projects update"),
                ("orgs update", "orgs rename"), ("org members", "orgs list-members"),
                ("orgs invite", "orgs add-member"), ("orgs kick", "orgs remove-member"),
                ("organizations rm", "orgs remove-member"), ("organization show", "orgs get"),
                ("evaluators revoke", "evaluators delete"), ("api-keys delete", "api-keys revoke"),
                ("keys rm", "api-keys revoke"), ("evaluators edit", "evaluators update"),
                ("evaluators enable", "evaluators toggle"), ("orgs new", "orgs create"),
                ("key create", "api-keys create"), ("projects add", "projects create"),
                ("scores add", "scores create"), ("projects select", "projects use"),
                ("orgs add", "orgs create' or 'twosignal orgs add-member"),
                ("route ls", "routing list"), ("prompt show", "prompts get"),
                ("prompts create", "prompts push"), ("prompt-templates update", "prompts push"),
                ("routing rename", "routing update"), ("routing rm", "routing delete"),
                ("datasets add", "datasets create' or 'twosignal datasets add-item")):
            with self.subTest(typed=typed):
                self.assertIn("Did you mean 'twosignal %s'?\n" % meant,
                              self.refused(*typed.split() + ["x"]))

    def test_never_suggests_what_was_not_meant(self):
        """No create, delete, revoke, logout or install to somebody who typed something else."""
        verbs = ("rename get edit set select relate undelete recreate invoke evoke move copy reset "
                 "delet delte remov creat crate craete revok enable start update show ls").split()
        for group in GROUPS:
            for verb in verbs:
                if "%s %s" % (group, verb) in twosignal.COMMANDS:
                    continue
                with self.subTest(group=group, verb=verb):
                    hint = self.refused(group, verb, "x")
                    self.assertNotRegex(hint, "Did you mean.*(create|add-item|delete|revoke)")
            self.assertNotIn("Did you mean", self.refused(group, "move"))
        for word in ("logot", "log-out", "signout", "instal", "uninstall"):
            self.assertNotIn("Did you mean", self.refused(word))
        self.assertIn("Choose one of: evaluators list, ", self.refused("evaluators", "find", "x"))

    def test_words_that_never_suggest_are_complete(self):
        """Commands that create, delete or revoke something, or end the session."""
        verbs = {name.split()[-1] for name in twosignal.COMMANDS}
        harmless = set("login whoami list list-members use get stats check export wait tail toggle "
                       "rename update update-item usage api doctor help version completion test "
                       "__complete".split())
        self.assertEqual(verbs - harmless, set(twosignal.NEVER_GUESSED) - {"yes"})

    def test_every_usage_error_has_a_hint(self):
        for argv in (["traces", "list", "extra"], ["traces", "list", "--limit"],
                     ["traces", "list", "--limit", "x"], ["traces", "get"],
                     ["traces", "list", "--nope"], ["datasets", "create"], ["--nope"],
                     ["traces", "list", "--json=yes"], ["orgs", "create", "a", "b"],
                     ["datasets", "create", "-n"], ["traces", "list", "-x"],
                     ["evaluators", "create", "-n", "x"], ["traces", "--nope"],
                     ["traces", "list", "--all", "-n", "5"],
                     ["evaluators", "toggle", "x", "--enable", "--disable"],
                     ["traces", "list", "--timeout", "-1"], ["traces", "list", "--status", "x"],
                     ["traces", "list", "-V"], ["traces", "get", "-1x"]):
            with self.subTest(argv=argv):
                result = self.assertFails(self.run_cli(*argv), 2)
                self.assertEqual(len(result.err.splitlines()), 1, result)
                self.assertRegex(result.err, r"\. [A-Z]", "it has no hint")

    def test_an_alike_option_is_suggested(self):
        for typed, meant in (("--limt", "--limit"), ("--max-durations", "--max-duration"),
                             ("--jsn", "--json"), ("--limt=3", "--limit"),
                             ("--projct", "--project"), ("--stats", "--status")):
            self.assertIn("Did you mean %s?" % meant, self.refused("traces", "list", typed))
        for typed in ("--foo", "--force", "--yess", "--ye", "--Y", "-Y", "-x", "---yes"):
            self.assertEqual(self.refused("evaluators", "delete", "x", typed).partition(". ")[2],
                             "See 'twosignal evaluators delete --help'.\n")
        self.assertIn("--help", self.refused("traces", "list", "--xyzzy"))
        self.assertIn("--help", self.refused("traces", "list", "--limit", "--limt"))

    def test_an_unknown_option_is_named(self):
        for argv, option in ((["traces", "list", "--nope"], "--nope"), (["--nope"], "--nope"),
                             (["traces", "--nope"], "--nope"), (["traces", "list", "-x"], "-x"),
                             (["traces", "list", "-qx"], "-x")):
            self.assertIn("There is no option %s. " % option, self.refused(*argv))

    def test_an_option_without_its_value(self):
        for argv, option in ((["traces", "list", "--limit"], "--limit"), (["--url"], "--url"),
                             (["traces", "list", "--search", "--all"], "--search"),
                             (["orgs", "list", "--url"], "--url"),
                             (["datasets", "create", "-n"], "-n"),
                             (["traces", "list", "-qn"], "-n"),
                             (["traces", "get", "--project", "--", "x"], "--project")):
            with self.subTest(argv=argv):
                self.assertIn("Error: %s needs a value. " % option, self.refused(*argv))

    def test_options_of_other_commands(self):
        for argv, option in ((["orgs", "list", "--limit", "5"], "--limit"),
                             (["--limit", "5", "orgs", "list"], "--limit"),
                             (["traces", "list", "--yes"], "--yes")):
            with self.subTest(argv=argv):
                self.assertIn("There is no option %s. " % option, self.refused(*argv))

    def test_usage_errors_are_json_with_json(self):
        for argv in (["--json", "trace"], ["traces", "lst", "--json"], ["traces", "list", "--json",
                     "--limit", "x"], ["--json"], ["traces", "--json"]):
            with self.subTest(argv=argv):
                result = self.run_cli(*argv)
                self.assertFails(result, 2)
                self.assertEqual(result.error["code"], "USAGE")


GROUPS = sorted({name.split()[0] for name in twosignal.COMMANDS if " " in name})


class HelpTexts(ParserCase):
    def shown(self, *argv, **kwargs):
        return self.assertOk(self.run_cli(*argv, **kwargs), err="").out

    def test_top(self):
        for argv in (["--help"], ["-h"], ["-q", "--help"], ["help"]):
            with self.subTest(argv=argv):
                out = self.shown(*argv)
                for command in twosignal.visible_commands():
                    self.assertIn("  %s " % command.name, out)
                self.assertNotIn("__complete", out)
                for option in twosignal.GLOBAL_OPTIONS:
                    for flag in option.flags:
                        self.assertIn(flag, out)
                self.assertIn("--version", out)

    def test_groups(self):
        for group in GROUPS:
            for argv in ([group, "--help"], ["--help", group], [group, "-h"], ["help", group]):
                with self.subTest(argv=argv):
                    out = self.shown(*argv)
                    for name in twosignal.COMMANDS:
                        assertion = self.assertIn if name.split()[0] == group else self.assertNotIn
                        assertion("  %s " % name, out)
                    self.assertIn("usage: twosignal %s " % group, out)

    def test_help_takes_precedence_over_usage_errors(self):
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
        for group in [()] + [(group,) for group in GROUPS]:
            for line in self.run_cli(*group).err.splitlines():
                self.assertLessEqual(len(line), 80, line)

    def test_version(self):
        expected = "twosignal %s (Python %d.%d.%d)\n" % (
            (twosignal.__version__,) + sys.version_info[:3])
        for argv in (["--version"], ["-V"], ["--json", "--version"], ["-q", "-V"], ["version"],
                     ["-qV"], ["-V", "traces", "list"], ["-q", "version"]):
            self.assertEqual(self.shown(*argv), expected)


README = os.path.join(ROOT, "README.md")


def words_of(example):
    """The arguments of twosignal in an example, without redirections and what follows a pipe."""
    words = shlex.split(re.sub(r'\)"?\Z', "", example[example.index("twosignal "):]))
    ends = [place for place, word in enumerate(words) if word in ("<", ">", "|", ">>")]
    return words[1:min(ends + [len(words)])]


class CommandDeclarations(ParserCase):
    """Each command: help, an example that parses, a line in the README."""

    def test_help(self):
        for command in twosignal.visible_commands():
            with self.subTest(command=command.name):
                self.assertTrue(command.help.endswith("."), command.help)
                result = self.run_cli(*command.name.split() + ["--help"], columns=80)
                out = self.assertOk(result, err="").out
                self.assertEqual(self.run_cli("help", *command.name.split()).out, out)
                self.assertIn("usage: twosignal %s " % command.name, out)
                self.assertIn(" ".join(command.help.split()[:4]), " ".join(out.split()))
                for option in command.options + twosignal.GLOBAL_OPTIONS:
                    self.assertTrue(option.help, option.flags)
                    for flag in option.flags:
                        if flag.startswith("-"):
                            self.assertIn(flag, out)
                    if option.env:
                        self.assertIn(option.env, out)

    def test_examples(self):
        for command in twosignal.visible_commands():
            self.assertTrue(command.examples, command.name)
            for example in command.examples:
                with self.subTest(example=example):
                    self.assertIn("twosignal " + command.name, example)
                    found, _ = self.parse(*words_of(example))
                    self.assertEqual(found, command.name)
                    self.assertIn(example, self.run_cli(*command.name.split() + ["--help"]).out)

    @unittest.skipUnless(os.path.exists(README), "there is no README.md")
    def test_readme(self):
        with open(README, encoding="utf-8") as file:
            text = file.read()
        for command in twosignal.visible_commands():
            with self.subTest(command=command.name):
                self.assertRegex(text, r"`(twosignal )?%s\b" % command.name)

    def test_option_names(self):
        """One name, one meaning: no flag twice in a command, no two options under one name."""
        for name, command in twosignal.COMMANDS.items():
            for options in (command.options, twosignal.GLOBAL_OPTIONS):
                flags = [flag for option in options for flag in option.flags]
                self.assertEqual(len(flags), len(set(flags)), name)
                synonyms = {"--json", "--no-color", "--mutation", "--list"}     # of another's value
                names = [option.name for option in options if not synonyms & set(option.flags)
                         and option is not twosignal.NEW_NAME[0]]       # the same as --name
                self.assertEqual(len(names), len(set(names)), name)

    def test_create_commands_take_their_name_either_way(self):
        for command in twosignal.visible_commands():
            if command.name.endswith(" create") and command.name != "scores create":
                with self.subTest(command=command.name):
                    self.assertEqual(set(twosignal.NEW_NAME) - set(command.options), set())
                    for words in (["Checkout"], ["-n", "Checkout"], ["--name=Checkout"]):
                        line = twosignal.CommandLine(command.name.split() + words)
                        self.assertEqual(twosignal.Arguments(command, line).name, "Checkout")

    def test_a_flag_takes_a_value_in_each_command_or_in_none(self):
        """Options may come before the command, when it is not known yet which one it is."""
        with_value, without = set(), set()
        for command in twosignal.COMMANDS.values():
            for flag, option in twosignal.flags_of(command.all_options).items():
                (with_value if option.takes_value else without).add(flag)
        self.assertEqual(with_value & without, set())


class HelpWithoutSettings(Case):
    def test_help_and_version_need_nothing(self):
        for argv in (["--help"], ["-h"], ["--version"], ["traces", "--help"]):
            env = {"TWOSIGNAL_HOME": None, "HOME": None}
            self.assertEqual(self.run_cli(*argv, env=env).code, 0)


class GlobalOptions(CommandCase):
    def positions(self, command, *option):
        """The command line with the option in each of its places."""
        words = len(command.split())
        for place in sorted({0, words - 1, words, len(self.argv(command))}):
            argv = self.argv(command)
            yield argv[:place] + list(option) + argv[place:]

    def test_json(self):
        for command in PROCEDURES:
            for argv in self.positions(command, "--json"):
                with self.subTest(argv=argv):
                    self.assertIsNotNone(self.assertOk(self.cli(*argv), err="").json)

    def test_other_options(self):
        for option in (["--timeout", "30"], ["--timeout=30s"], ["-q"], ["--quiet"], ["--no-color"],
                       ["--url", self.server.url], ["--url=" + self.server.url]):
            for command in ("orgs list", "traces get", "usage"):
                for argv in self.positions(command, *option):
                    with self.subTest(argv=argv):
                        self.assertOk(self.cli(*argv), err="")

    def test_help(self):
        for command in ["login", "whoami", "logout"] + list(PROCEDURES):
            words = command.split()
            for place in range(len(words) + 1):
                result = self.assertOk(self.cli(*words[:place] + ["--help"] + words[place:]))
                self.assertIn("usage: twosignal", result.out)
        self.assertEqual(self.server.requests, [])

    def test_debug_shows_requests_and_masks_secrets(self):
        session = self.state("session.json")
        for argv in self.positions("traces list", "--debug"):
            result = self.assertOk(self.cli(*argv + ["--json"]))
            self.assertEqual(len(result.json), 5)
            self.assertIn("trace.list", result.err)
            for secret in (session["access_token"], session["refresh_token"]):
                self.assertNotIn(secret, result.err)
                self.assertNotIn(secret[-12:], result.err)

    def test_the_last_url_wins(self):
        good, bad = self.server.url, "http://127.0.0.1:1"
        self.assertOk(self.cli("--url", bad, "orgs", "--url", bad, "list", "--url", good))
        self.assertOk(self.cli("--url", bad, "orgs", "--url", good, "list"))
        self.assertFails(self.cli("--url", good, "orgs", "--url", good, "list", "--url", bad), 4)
        self.assertFails(self.cli("orgs", "--url", good, "--url", bad, "list"), 4)

    def test_the_last_timeout_wins(self):
        self.assertOk(self.cli("--timeout", "0.0001", "orgs", "list", "--timeout", "60"))
        fault = self.server.fault("organization.list", times=None, delay=True)
        self.addCleanup(fault.release.set)
        result = self.cli("--timeout", "60", "orgs", "--timeout", "50", "list",
                          "--timeout", "0.2")
        self.assertFails(result, 3, "--timeout")

    def test_bad_timeouts(self):
        for value in ("abc", "", "-1", "0", "nan", "0s", "25h", "86401"):
            with self.subTest(value=value):
                self.assertFails(self.cli("orgs", "list", "--timeout", value), 2, "--timeout")
        self.assertEqual(self.server.requests, [])

    def test_quiet_omits_remarks(self):
        for number in range(21):
            self.server.add_trace(project=self.server.project, scores=[], spans=[])
        for argv in (["-q", "traces", "list"], ["traces", "-q", "list"],
                     ["traces", "list", "-q"]):
            result = self.assertOk(self.cli(*argv), err="")
            self.assertEqual(len(result.lines), 22)

    def test_version(self):
        for option in ("-V", "--version"):
            result = self.assertOk(self.cli(option), err="")
            self.assertRegex(result.out, r"^twosignal \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+.*\)\n$")


class JsonArguments(CommandCase):
    def add_item(self, *args, **kwargs):
        dataset = self.server.add_dataset(name="Cases")
        return self.cli("datasets", "add-item", dataset, "--json", *args, **kwargs)

    def test_literal_file_and_stdin(self):
        for value in ({"promptText": "Hi"}, [1, 2], "text", 12.5, True, None, "日本 🚀", []):
            text = json.dumps(value, ensure_ascii=False)
            path = self.write("input.json", text)
            for args, stdin in (([text], None), (["@" + path], None), (["-"], text)):
                with self.subTest(value=value, args=args):
                    record = self.assertOk(self.add_item("--input", *args, stdin=stdin)).json
                    self.assertEqual(record["input"], value)

    def test_every_json_option(self):
        path = self.write("data.json", {"aB": 1})
        record = self.assertOk(self.add_item("--input", "1", "--expected", "@" + path,
                                             "--metadata", "-", stdin='{"cD": 2}')).json
        self.assertEqual((record["expected_output"], record["metadata"]), ({"aB": 1}, {"cD": 2}))
        record = self.assertOk(self.cli("evaluators", "create", "-n", "x", "--type", "CUSTOM",
                                        "--config", "@" + path, "--json")).json
        self.assertEqual(record["config"], {"aB": 1})

    def test_byte_order_mark_is_accepted(self):
        path = self.write("bom.json", b'\xef\xbb\xbf{"a": 1}')
        self.assertEqual(self.assertOk(self.add_item("--input", "@" + path)).json["input"],
                         {"a": 1})

    def test_text_that_is_not_json(self):
        broken = '{\n  "prompt": tru\n}'
        path = self.write("broken.json", broken)
        self.server.clear()
        for args, stdin in (([broken], None), (["@" + path], None), (["-"], broken)):
            with self.subTest(args=args):
                result = self.assertFails(self.add_item("--input", *args, stdin=stdin), 2,
                                          "--input", "line 2", "column 13")
                self.assertEqual(result.error["exit_code"], 2)
        for text in ("", " ", "{", "{'a': 1}", "NaN", "Infinity", "1 2", "nul", "[" * 100000):
            with self.subTest(text=text[:10]):
                self.assertFails(self.add_item("--input", "-", stdin=text), 2, "--input")
        self.assertEqual(self.server.requests, [])

    def test_what_would_change_on_its_way_is_refused(self):
        """Numbers are doubles in JavaScript, and of two equal keys one would be lost."""
        dataset = self.server.add_dataset(name="Cases")
        self.server.clear()
        for bad, named in (
                ('{"a": 1, "b": {"a": 1, "c": [{"twice": 1, "twice": 1}]}}', "'twice'"),
                ('{"%s": 1, "%s": 2}' % ("long" * 999, "long" * 999), "'longlong"),
                ("0.1234567890123456789", "0.1234567890123456789"), ("1e400", "1e400"),
                ("[9007199254740993]", "9007199254740993"), ("1e-400", "1e-400"),
                ("12345678901234567890123", "12345678901234567890123"),
                ('{"x": -0.30000000000000000001}', "-0.30000000000000000001"),
                ("1e-99999999999999999999", "1e-99999999999999999999"), ("9" * 5000, "99999")):
            for line in (("datasets", "add-item", dataset, "--input"),
                         ("datasets", "add-item", dataset, "--input", "1", "--expected"),
                         ("datasets", "add-item", dataset, "--input", "1", "--metadata"),
                         ("evaluators", "create", "-n", "x", "--type", "CUSTOM", "--config"),
                         ("api", "trace.list", "--input")):
                with self.subTest(bad=bad[:50], line=line):
                    result = self.assertFails(self.cli(*line, "-", stdin=bad), 2, line[-1], named)
                    self.assertLess(len(result.err), 250)
        self.assertEqual(self.server.requests, [])

    def test_what_does_not_change_is_accepted(self):
        for text in ("0.1", "1e5", "1E-7", "-0.0", "9007199254740992", "100000000000000000000",
                     "0.30000000000000004", "1.50", "5e-324", "1.5e299",
                     '{"a": {"a": [{"a": 1}, {"a": 1}]}, "A": 2}'):
            with self.subTest(text=text):
                record = self.assertOk(self.add_item("--input", text)).json
                self.assertEqual(record["input"], json.loads(text))

    def test_responses_may_have_any_number(self):
        """What users sent by other ways is shown, as far as this client can."""
        self.server.fault("trace.byId", status=200, body=(
            b'{"json": 1, "result": {"data": {"json": {"a": 0.1234567890123456789, "a": 2}}}}'))
        self.assertEqual(self.assertOk(self.cli("api", "trace.byId", "--input", "{}")).json,
                         {"a": 2})

    def test_files_that_cannot_be_read(self):
        for path in (self.path("missing.json"), self.folder, "", self.path("a\0b")):
            with self.subTest(path=path):
                self.assertFails(self.add_item("--input", "@" + path), 2,
                                 "Cannot read the file of --input: " + path)
        self.assertIn("missing.json", self.add_item("--input", "@missing.json").err)
        self.assertEqual(self.server.requests, [])

    def test_bytes_that_are_not_utf8(self):
        for data in ('"é"'.encode("latin-1"), '"\ud800"'.encode("utf-8", "surrogatepass")):
            path = self.write("other.json", data)
            result = self.assertFails(self.add_item("--input", "@" + path), 2, "other.json")
            self.assertRegex(result.err, "(?i)utf-8")
            result = self.assertFails(self.add_item("--input", "-", stdin=data), 2, "stdin")
            self.assertRegex(result.err, "(?i)utf-8")

    def test_stdin_is_read_for_one_option_only(self):
        result = self.add_item("--input", "-", "--expected", "-", stdin="1")
        self.assertFails(result, 2)
        self.assertEqual(self.server.requests, [])


AWKWARD_IDS = ["a/b", "../../etc", "a b", "?x=1", "#top", "100%", "%2e%2e", "a&b=c", "日本",
               "\"q\"", "line\nbreak", "tab\there", "cr\rlf", "é", "x" * 2000]


class AwkwardArguments(CommandCase):
    def test_ids_arrive_as_they_are(self):
        commands = {"traces get": "trace.getById", "datasets get": "dataset.getById",
                    "evaluators delete": "evaluator.delete", "api-keys revoke": "apiKey.revoke"}
        for command, procedure in commands.items():
            yes = ["-y"] if procedure.split(".")[1] in ("delete", "revoke") else []
            for one in AWKWARD_IDS:
                with self.subTest(command=command, id=one[:20]):
                    self.server.clear()
                    self.assertFails(self.cli(*command.split() + [one] + yes), 6, "not found")
                    request = requests_of(self.server, procedure)[0]
                    self.assertEqual(request.path, "/api/trpc/" + procedure)
                    self.assertEqual(procedure_inputs(self.server, procedure)[0]["id"], one)

    def test_project_and_organization_arrive_as_they_are(self):
        for one in AWKWARD_IDS:
            with self.subTest(id=one[:20]):
                self.server.clear()
                self.assertFails(self.cli("traces", "list", "--project", one), 6)
                self.assertFails(self.cli("projects", "list", "--org", one), 6)
                self.assertEqual(procedure_inputs(self.server, "trace.list")[-1]["projectId"], one)
                self.assertEqual(
                    procedure_inputs(self.server, "project.list")[-1]["organizationId"], one)

    def test_ids_that_begin_with_a_dash(self):
        self.assertFails(self.cli("traces", "get", "--", "-x"), 6)
        self.assertEqual(procedure_inputs(self.server, "trace.getById")[0]["id"], "-x")

    def test_empty_ids_are_a_usage_error(self):
        for argv in (["traces", "get", ""], ["datasets", "delete", "", "-y"],
                     ["traces", "list", "--project", ""], ["traces", "get", "  "]):
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv, env={"TWOSIGNAL_PROJECT": None}), 2)

    def test_empty_names(self):
        for argv in (["orgs", "create", ""], ["projects", "create", ""],
                     ["datasets", "create", "-n", ""], ["api-keys", "create", "-n", ""],
                     ["evaluators", "create", "-n", "", "--type", "CUSTOM"]):
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv), 2, "must not be empty")

    def test_a_value_that_is_blank(self):
        """An empty variable in a script is no value, unless a text may be empty."""
        self.server.clear()
        for argv in (["orgs", "list", "--url", ""], ["orgs", "list", "--url="], ["help", " "],
                     ["login", "-e", ""], ["orgs", "list", "-o", ""], ["install", ""],
                     ["orgs", "list", "--fields", ""], ["traces", "list", "--limit", ""],
                     ["datasets", "add-item", "x", "--input", " "]):
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv), 2, "must not be empty")
        self.assertFails(self.cli("orgs", "list", "--fields", " , "), 2, "must name a field")
        self.assertEqual(self.server.requests, [])
        record = self.assertOk(self.cli("datasets", "create", "-n", "x", "-d", "", "--json")).json
        self.assertEqual(record["description"], "")

    def test_names_of_ten_thousand_characters(self):
        name = "名" * 10000
        for argv in (["orgs", "create", name], ["projects", "create", name],
                     ["datasets", "create", "-n", name], ["api-keys", "create", "-n", name],
                     ["evaluators", "create", "-n", name, "--type", "CUSTOM"]):
            with self.subTest(argv=argv[:2]):
                self.assertFails(self.cli(*argv, "--json"), 1)
        for command in LISTS:
            with self.subTest(command=command):
                self.assertOk(self.cli(*command.split()))


class UsageErrors(CommandCase):
    def test_mistyped_commands(self):
        for argv in (["trace", "list"], ["traces", "lst"], ["traces", "list", "--jsn"],
                     ["traces", "get"], ["orgs", "create"], ["traces", "list", "extra"],
                     ["evaluators", "toggle"], ["evaluators", "create", "-n", "x"],
                     ["evaluators", "create", "--type", "CUSTOM"], ["api-keys", "create"],
                     ["datasets", "create"], ["datasets", "add-item", "x"], ["--nope"],
                     ["traces", "list", "--limit"], ["evaluators", "toggle", "x", "--enable",
                                                     "--disable"]):
            with self.subTest(argv=argv):
                result = self.assertFails(self.cli(*argv), 2)
                self.assertEqual(len(result.err.splitlines()), 1, result)
                result = self.assertFails(self.cli("--json", *argv), 2)
                self.assertIsNotNone(result.error, result)
        self.assertEqual(self.server.requests, [])

    def test_options_are_not_abbreviated(self):
        self.assertFails(self.cli("traces", "list", "--stat", "OK"), 2, "--stat")

    def test_suggestions(self):
        self.assertFails(self.cli("trace", "list"), 2, "traces")
        self.assertFails(self.cli("traces", "lst"), 2, "list")
        self.assertFails(self.cli("evaluators", "togle", "x"), 2, "evaluators toggle")

    def test_no_project(self):
        """The projects are listed, and nothing else is asked for."""
        for command in PROCEDURES:
            if command.split()[0] in ("orgs", "projects", "usage") or command == "traces get":
                continue            # a trace is looked for in all projects
            for value in (None, ""):
                with self.subTest(command=command, value=value):
                    result = self.cli(*self.argv(command), env={"TWOSIGNAL_PROJECT": value})
                    self.assertFails(result, 2, "--project", "TWOSIGNAL_PROJECT",
                                     "'twosignal projects use NAME'")
                    self.assertEqual(result.err.splitlines()[1:], [
                        "  %s  Support Agent" % self.server.project,
                        "  To choose one: twosignal projects use %s" % self.server.project])
        self.assertEqual({name for request in self.server.requests for name in request.procedures},
                         {"organization.list", "project.list"})

    def test_no_organization(self):
        for command in ("projects create", "usage"):
            for value in (None, ""):
                with self.subTest(command=command, value=value):
                    result = self.cli(*self.argv(command), env={"TWOSIGNAL_ORG": value})
                    self.assertFails(result, 2, "--org", "TWOSIGNAL_ORG",
                                     "'twosignal projects use NAME'")
                    self.assertEqual(result.err.splitlines()[1:],
                                     ["  %s  Acme 東京" % self.server.org])
        self.assertEqual({name for request in self.server.requests for name in request.procedures},
                         {"organization.list"})

    def list_without_project(self, *argv, **kwargs):
        return self.cli("traces", "list", *argv, env=dict(
            {"TWOSIGNAL_PROJECT": None}, **kwargs.pop("env", {})), **kwargs)

    def test_many_projects(self):
        """As many as of the problems of an input, then how many more there are."""
        for number in range(60):
            self.server.add_project("Project %d" % number)
        problems = self.assertFails(self.list_without_project("--json"), 2).error["problems"]
        self.assertEqual(len(problems), twosignal.MAX_PROBLEMS + 2)
        self.assertEqual(problems[-2:], [
            "and 11 more", "To choose one: twosignal projects use " + self.server.project])

    def test_no_project_exists(self):
        org = [{"id": "org; rm x", "name": "Empty"}]
        for rows, step in ((org, "projects create NAME --org 'org; rm x'"),
                           ([], "orgs create NAME")):
            with self.subTest(step=step):
                self.server.clear()
                self.server.fault("organization.list", status=200, times=None,
                                  body=trpc_answer(rows))
                self.server.fault("project.list", status=200, times=None, body=trpc_answer([]))
                self.assertFails(self.list_without_project(), 2, "Error: No project given.",
                                 "\n  None yet. To create one: twosignal %s\n" % step)

    def test_names_that_cannot_be_typed(self):
        """The command to choose a project works as it stands: such a project is named by its ID."""
        for name in ("-x", "a\tb", "Twice", self.server.org, None, "", " ", 5, "x\u202ey"):
            rows = [{"id": "p $(x)", "name": name}, {"id": "p2", "name": "Twice"}]
            with self.subTest(name=name):
                self.server.clear()
                self.server.fault("project.list", status=200, times=None, body=trpc_answer(rows))
                self.assertFails(self.list_without_project(), 2,
                                 "\n  To choose one: twosignal projects use 'p $(x)'\n")

    def test_projects_that_cannot_be_listed(self):
        """It stays a usage error, which also says why, and they are not asked for again."""
        plain = ("Error: No project given. Pass --project or set TWOSIGNAL_PROJECT, or run "
                 "'twosignal projects use NAME'.\n")
        for fault in ({"status": 401}, {"status": 403}, {"status": 404}, {"status": 500},
                      {"status": 200, "body": b"<html>"}, {"status": 200, "body": b"[" * 100000},
                      {"status": 200, "body": trpc_answer([1])}, {"reset": True},
                      {"status": 429, "body": b""}):
            for procedure in ("organization.list", "project.list"):
                with self.subTest(fault=str(fault)[:60], procedure=procedure):
                    self.log_in()
                    self.server.clear()
                    self.server.fault(procedure, times=None, **fault)
                    result = self.assertFails(self.list_without_project(), 2)
                    if procedure == "organization.list" or fault.get("status") not in (403, 404):
                        self.assertRegex(result.err, re.escape(plain) + r"  [A-Z][^\n]+\.\n\Z")
                    self.assertLess(len(self.server.requests), 10)
        self.move_to_closed_port()
        self.assertIn(plain + "  Not logged in to http://127.0.0.1:",
                      self.assertFails(self.list_without_project(), 2).err)
        os.unlink(os.path.join(self.home, "session.json"))
        self.server.clear()
        self.assertEqual(self.assertFails(self.list_without_project(), 2).err,
                         plain + "  Not logged in. Run 'twosignal login'.\n")
        self.assertEqual(self.server.requests, [])

    def test_listing_projects_takes_one_timeout(self):
        """All requests together: the second one is not waited for as long as the first."""
        for procedure in ("organization.list", "project.list"):
            self.server.fault(procedure, status=429, headers={"Retry-After": "20"}, body=b"")
        result = self.list_without_project("--timeout", "30s", clock=PassingClock(self.naps))
        self.assertFails(result, 2, "No project given")
        self.assertEqual(self.naps, [20])

    def test_options_win_over_variables(self):
        env = {"TWOSIGNAL_PROJECT": "nope", "TWOSIGNAL_ORG": "nope"}
        self.assertOk(self.cli("traces", "list", "--project", self.server.project, env=env))
        self.assertOk(self.cli("usage", "--org", self.server.org, env=env))

    def test_damaged_state_files(self):
        for name in ("session.json", "config.json"):
            for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"api_url": 5}',
                            b'{"access_token": []}', b"1"):
                with self.subTest(name=name, content=content):
                    self.log_in()
                    self.write("home/" + name, content)
                    # Without an address, the default one is used, to which no session belongs.
                    has_no_address = (name, content) == ("config.json", b'{"access_token": []}')
                    self.assertFails(self.cli("orgs", "list"), 4 if has_no_address else 1)


class ArgvIsReadOnce(CommandCase):
    """What help, --quiet and --json mean comes from the same reading as everything else."""

    def assertShowsHelp(self, *argv, command):
        self.server.clear()
        result = self.assertOk(self.cli(*argv), err="")
        self.assertEqual(result.out, twosignal.help_text(command.split()))
        self.assertEqual(self.server.requests, [])

    def test_help_among_joined_flags(self):
        evaluator = self.server.add_evaluator(name="Kept")
        for flags in (["-yh"], ["-hy"], ["-y", "-h"], ["-hqy"], ["-qyh"], ["--yes", "--help"]):
            with self.subTest(flags=flags):
                self.assertShowsHelp("evaluators", "delete", evaluator, *flags,
                                     command="evaluators delete")
                self.assertShowsHelp(*flags, "evaluators", "delete", evaluator,
                                     command="evaluators delete")
        for flags in ("-qh", "-hq", "-hn3", "-qhn3", "-hL3"):
            with self.subTest(flags=flags):
                self.assertShowsHelp("traces", "list", flags, command="traces list")
        self.assertShowsHelp("orgs", "list", "-qh", command="orgs list")
        self.assertShowsHelp("traces", "-hq", command="traces")
        self.assertShowsHelp("-hq", command="")
        self.assertIn("Kept", [row["name"] for row in self.records("evaluators list")])

    def test_letters_of_a_value_are_no_flags(self):
        """-nh is the name "h", and -yn the flag -y before a name."""
        record = self.assertOk(self.cli("datasets", "create", "-nh", "--json"), err="").json
        self.assertEqual(record["name"], "h")
        record = self.assertOk(self.cli("datasets", "create", "-qnqh", "--json"), err="").json
        self.assertEqual(record["name"], "qh")

    def test_a_value_may_look_like_a_flag(self):
        for argv in (["-n", "x", "-d", "-h"], ["-n", "x", "--description", "-h"],
                     ["-n", "x", "-d-h"], ["-d", "-h", "-n", "x"]):
            with self.subTest(argv=argv):
                record = self.assertOk(self.cli("datasets", "create", *argv, "--json"), err="").json
                self.assertEqual((record["name"], record["description"]), ("x", "-h"))
        for _ in range(2):
            self.server.add_trace(name="a-q", project=self.server.project)
        result = self.assertOk(self.cli("traces", "list", "-n1", "--search", "-q", columns=200))
        self.assertIn("a-q", result.out)
        self.assertNotEqual(result.err, "", "it is quiet")

    def test_a_long_option_is_never_a_value(self):
        result = self.assertFails(self.cli("datasets", "create", "-n", "--json"), 2)
        self.assertEqual(result.error["message"], "-n needs a value")
        self.assertShowsHelp("datasets", "create", "-n", "--help", command="datasets create")
        self.assertFails(self.cli("traces", "list", "--search", "--quiet"), 2)

    def test_quiet_among_joined_flags(self):
        for flags in (["-qn3"], ["-qn", "3"], ["-qL3"], ["-n3", "-q"]):
            with self.subTest(flags=flags):
                result = self.assertOk(self.cli("traces", "list", *flags), err="")
                self.assertEqual(len(result.lines), 2 + 3)
        result = self.assertOk(self.cli("traces", "list", "-n3"))
        self.assertEqual(len(result.lines), 2 + 3)
        self.assertNotEqual(result.err, "")

    def test_json_behind_an_error(self):
        for argv, message in (
                (["traces", "lst"], "There is no command 'traces lst'"),
                (["xyzzy"], "There is no command 'xyzzy'"),
                (["traces", "list", "--nope"], "There is no option --nope"),
                (["traces", "list", "-xq"], "There is no option -x"),
                (["traces", "list", "--limit"], "--limit needs a value"),
                (["traces", "list", "--limit", "x"], "Invalid --limit 'x'"),
                (["traces", "list", "--all=yes"], "--all takes no value"),
                (["traces", "list", "extra"], "Unexpected argument 'extra'"),
                (["traces", "get"], "Missing ID"),
                (["datasets", "import", "Cases"], "Missing FILE"),
                (["evaluators", "toggle", "x", "--enable", "--disable"],
                 "--enable and --disable cannot be used together"),
                (["traces"], "No command given"), ([], "No command given")):
            for options in (["--json"], ["--format", "json"], ["--format=jsonl"]):
                with self.subTest(argv=argv, options=options):
                    result = self.assertFails(self.cli(*argv + options), 2)
                    self.assertEqual(result.out, "")
                    document = json.loads(result.err)
                    self.assertTrue(document["error"]["message"].startswith(message), result)
                    self.assertEqual(document["error"]["code"], "USAGE")
        self.assertEqual(self.server.requests, [])

    def test_json_as_a_value_or_operand_is_no_option(self):
        for argv in (["orgs", "list", "extra", "--", "--json"],
                     ["traces", "list", "--search=--json", "extra"]):
            with self.subTest(argv=argv):
                result = self.assertFails(self.cli(*argv), 2, "Unexpected argument 'extra'")
                self.assertIsNone(result.error)

    def test_a_format_that_does_not_exist(self):
        result = self.assertFails(self.cli("orgs", "list", "--json", "--format", "xml"), 2,
                                  "Invalid --format 'xml': must be one of table, json, jsonl")
        self.assertIsNone(result.error)         # the last format is not JSON

    def test_the_first_of_several_errors_is_shown(self):
        self.assertFails(self.cli("traces", "list", "--nope", "--limit", "--all=x"), 2,
                         "There is no option --nope")

    def test_the_command_comes_before_its_options(self):
        """An unknown command is what is wrong, whatever else is."""
        for argv in (["xyzzy", "--nope"], ["--nope", "xyzzy"], ["xyzzy", "--help"],
                     ["--version", "xyzzy"]):
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv), 2, "There is no command 'xyzzy'")

    def test_no_command(self):
        for argv in ([], ["-q"], ["--debug", "--limit", "5"], ["--url", "traces"]):
            with self.subTest(argv=argv):
                result = self.cli(*argv)
                self.assertEqual((result.code, result.out), (2, ""), result)
                first, *lines = result.err.splitlines()
                self.assertEqual(first, "Error: No command given. See 'twosignal --help'.")
                self.assertEqual([line.split("  ")[1] for line in lines],
                                 [command.name for command in twosignal.visible_commands()])
        self.assertEqual(self.server.requests, [])

    def test_a_group_alone(self):
        for group in GROUPS:
            for argv in ([group], [group, "--no-color"], ["-q", group], ["--", group]):
                with self.subTest(argv=argv):
                    result = self.cli(*argv)
                    self.assertEqual((result.code, result.out), (2, ""), result)
                    first, *lines = result.err.splitlines()
                    self.assertEqual(
                        first, "Error: No command given. See 'twosignal %s --help'." % group)
                    commands = twosignal.visible_commands(group)
                    self.assertEqual([line.split("  ")[1] for line in lines],
                                     [command.name for command in commands])
        self.assertEqual(self.server.requests, [])

    def test_no_command_as_json(self):
        error = self.assertFails(self.cli("traces", "--json"), 2).error
        self.assertEqual((error["code"], error["message"], error["exit_code"]),
                         ("USAGE", "No command given", 2))
        self.assertEqual([line.split("  ")[0] for line in error["problems"]],
                         [command.name for command in twosignal.visible_commands("traces")])

    def test_the_help_command(self):
        for words in ((), ("traces",), ("traces", "list"), ("login",), ("help",)):
            with self.subTest(words=words):
                self.assertShowsHelp("help", *words, command=" ".join(words))
        self.assertShowsHelp("help", "--help", command="help")
        self.assertShowsHelp("help", "traces", "--help", command="help")
        self.assertEqual(self.assertOk(self.cli("help", "usage", "--json"), err="").json,
                         twosignal.help_text(["usage"]))
        for words, message in ((["xyzzy"], "There is no command 'xyzzy'. Choose one of: login, "),
                               (["traces", "lst"], "There is no command 'traces lst'. Did you mean "
                                                   "'twosignal traces list'?"),
                               ([""], "Invalid COMMAND '': must not be empty")):
            with self.subTest(words=words):
                self.assertFails(self.cli("help", *words), 2, message)
        self.assertEqual(self.server.requests, [])

    def test_the_version_command(self):
        self.assertEqual(self.assertOk(self.cli("version"), err="").out,
                         self.assertOk(self.cli("--version"), err="").out)
        self.assertShowsHelp("version", "--help", command="version")
        self.assertFails(self.cli("version", "extra"), 2, "Unexpected argument 'extra'")

    def test_streams_of_processes(self):
        """Help is output, and goes to stdout; what is wrong goes to stderr."""
        for argv, code in ((["help"], 0), (["evaluators", "delete", "x", "-yh"], 0),
                           (["version"], 0), ([], 2), (["traces"], 2)):
            with self.subTest(argv=argv):
                result = self.run_process(*argv)
                self.assertEqual((result.code, bool(result.out), bool(result.err)),
                                 (code, code == 0, code == 2), result)
