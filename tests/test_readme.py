"""The README and tests/README.md: tables as in the code, commands that parse, scripts that run.

    python3 tests/test_readme.py --write    rewrites the tables that come from the code
    python3 tests/test_readme.py --table    prints the table of promises and tests
    python3 tests/test_readme.py --recipes DIR    writes the recipes for CI systems into files there
"""
import ast
import datetime
import functools
import glob
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import unittest
from unittest import mock

if not __package__:     # started as a script, not by `python3 -m unittest`
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))

from servers import Proxy, certificates, needs_openssl  # noqa: E402
from tools import (ROOT, SCRIPT, SUPPORT, TESTS, Case, ServerCase, WrongClock,  # noqa: E402
                   costly, executable, file_bytes, merged, minutes_ago, pty_run, run_command,
                   write_script)

import sandbox  # noqa: E402
import test_doctor  # noqa: E402
import twosignal  # noqa: E402

README = os.path.join(ROOT, "README.md")
OWN = os.path.join(TESTS, "README.md")
WITHOUT_ACCOUNT = dict.fromkeys(("TWOSIGNAL_EMAIL", "TWOSIGNAL_PASSWORD", "TWOSIGNAL_PROJECT"))
PROMISES = 41           # the first ones, which no change may drop; others are added one by one
COMMIT = "8f7c0e2d"
BASH = shutil.which("bash")
OF_PYTHON = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
             "PATH"}
MAX_LINE = 120      # characters of a line that is in no table
ERROR_HEADING = "| exit code | code | meaning | what to do |"
RETRY_HEADING = "| failure | query | change | session refresh |"
DOCUMENTED = ("Authentication expired", "Project not found", "Rate limited", "Connection refused",
              "Permission denied")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


####################################################################################################
# Markdown
####################################################################################################

def blocks(text, *languages):
    """The fenced blocks of these languages, as text."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def block_with(words):
    """The one block of the README that holds these words."""
    found = [body for body in blocks(read(README), "sh", "bash", "yaml", "groovy", "cron")
             if words in body]
    assert len(found) == 1, (words, found)
    return found[0]


def table_span(text, heading):
    """(start, end) of the table that begins with this line."""
    start = text.index("\n" + heading + "\n") + 1
    return start, re.compile(r"(\|.*\n)+").match(text, start).end()


def rows(path, heading):
    """The rows of a table as lists of cells, without its heading."""
    text = read(path)
    start, end = table_span(text, heading)
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in text[start:end].splitlines()[2:]]


def table(heading, lines):
    """The text of a table; lines are sequences of cells."""
    columns = heading.count("|") - 1
    return "\n".join([heading, "|---" * columns + "|"] + [
        "| %s |" % " | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]) + "\n"


def anchors(text):
    """The anchors that a viewer makes of headings."""
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


####################################################################################################
# Tables that come from the code
####################################################################################################

def command_rows():
    return [("`%s`" % command.name, command.summary.rstrip("."), "`%s`" % command.examples[0])
            for command in twosignal.visible_commands()]


def flags(option):
    return ", ".join("`%s`" % flag for flag in option.flags) + (
        " " + option.metavar if option.metavar else "")


def filter_rows():
    return [(flags(option), option.summary) for option in twosignal.FILTER_OPTIONS]


def threshold_options():
    """Pairs of an option of traces check that sets a threshold, and the name of its check."""
    check = twosignal.COMMANDS["traces check"]
    count, = [option for option in check.options if option.name == "min_count"]
    titles = [threshold.title for threshold in twosignal.THRESHOLDS]
    return list(zip(twosignal.THRESHOLD_OPTIONS, titles)) + [(count, twosignal.TRACE_COUNT.title)]


def check_rows():
    return [(flags(option), title, option.summary) for option, title in threshold_options()]


def global_rows():
    version = (flags(twosignal.VERSION),
               twosignal.VERSION.summary + "; only before a command, which is not run")
    return [(flags(option), option.summary) for option in twosignal.GLOBAL_OPTIONS] + [version]


def other_rows():
    """The options that only some commands have, in the order in which they appear in --help."""
    others = set(twosignal.FILTER_OPTIONS + twosignal.GLOBAL_OPTIONS)
    others |= {twosignal.PROJECT, twosignal.ORG} | {option for option, _ in threshold_options()}
    found = {}
    for command in twosignal.visible_commands():
        for option in command.options:
            if option not in others and option.flags:
                key = (flags(option), option.summary)
                found.setdefault(key, []).append("`%s`" % command.name)
    return [(key[0], ", ".join(names), key[1]) for key, names in found.items()]


def plan_rows():
    return [[plan] + ["unlimited" if limit is None else format(limit, ",")
                      for limit in limits.values()] for plan, limits in twosignal.PLANS.items()]


def promise_rows():
    """The promises as they stand in the table, with the tests that name them in their docstring."""
    tests = promised_tests()
    return [(row, promise, ", ".join("`%s`" % name for name in tests.get(int(row), ())))
            for row, promise, _ in rows(OWN, PROMISE_HEADING)]


@functools.lru_cache(maxsize=None)
def promised_tests():
    """{row: names of its tests}, from the docstrings; the tests are not imported."""
    found = {}
    for path in sorted(glob.glob(os.path.join(TESTS, "test_*.py"))):
        module = os.path.basename(path)[:-3]
        for group in ast.parse(read(path)).body:
            for test in group.body if isinstance(group, ast.ClassDef) else ():
                if isinstance(test, ast.FunctionDef) and test.name.startswith("test"):
                    for row in promised_by(ast.get_docstring(test) or ""):
                        name = "%s.%s.%s" % (module, group.name, test.name)
                        found.setdefault(row, []).append(name)
    return found


def promised_by(docstring):
    """The numbers of "Row 3: …" or "Rows 3, 4: …"."""
    match = re.match(r"Rows? (\d+(?:(?:, | and )\d+)*):", docstring)
    return [int(number) for number in re.findall(r"\d+", match.group(1))] if match else []


PROMISE_HEADING = "| row | promise | tests |"
GENERATED = (
    (README, "| command | what it does | example |", command_rows),
    (README, "| filter | what it does |", filter_rows),
    (README, "| threshold | check | what it does |", check_rows),
    (README, "| option | commands | what it does |", other_rows),
    (README, "| option | what it does |", global_rows),
    (README, "| plan | traces per month | LLM evaluations per month | "
     "days of retention | seats | requests per second |", plan_rows),
    (README, "| fault | first layer that is not OK | what it says | what to do |",
     test_doctor.fault_rows),
    (OWN, PROMISE_HEADING, promise_rows),
)


def write_tables():
    for path, heading, make in GENERATED:
        text = read(path)
        start, end = table_span(text, heading)
        text = text[:start] + table(heading, make()) + text[end:]
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)


####################################################################################################
# The subset of YAML that recipes need
####################################################################################################

class Recipe:
    """A YAML block as dicts, lists and text. Raises ValueError for what is not in the subset.

    The subset: mappings and lists by indentation of two blanks, plain values on one line, and
    folded ones (>-), whose lines are indented once more.
    """

    def __init__(self, text):
        self.lines = [line for line in text.splitlines() if line.strip()]
        self.value = self.read(0)
        if self.lines:
            raise ValueError("indentation: " + self.lines[0])

    def read(self, indent):
        if self.lines[0].startswith(" " * indent + "- "):
            return self.read_list(indent)
        return self.read_mapping(indent)

    def here(self, indent):
        return bool(self.lines) and len(self.lines[0]) - len(self.lines[0].lstrip(" ")) == indent

    def read_list(self, indent):
        found = []
        while self.here(indent) and self.lines[0].startswith(" " * indent + "- "):
            rest = self.lines[0][indent + 2:]
            if re.match(r"[\w-]+:( |$)", rest):
                self.lines[0] = " " * (indent + 2) + rest
                found.append(self.read_mapping(indent + 2))
            else:
                self.lines.pop(0)
                found.append(self.read_value(rest, indent))
        return found

    def read_mapping(self, indent):
        found = {}
        while self.here(indent):
            line = self.lines.pop(0)
            match = re.match(r" *([\w-]+):(?: (\S.*))?\Z", line)
            if not match or match.group(1) in found:
                raise ValueError("no key, or one that is there already: " + line)
            key, value = match.groups()
            found[key] = self.read(indent + 2) if value is None else self.read_value(value, indent)
        if not found:
            raise ValueError("nothing at indentation %d" % indent)
        return found

    def read_value(self, text, indent):
        """A plain value, or the lines below it as one if it is folded."""
        if text != ">-":
            return plain_value(text)
        folded = []
        while self.here(indent + 2):
            folded.append(self.lines.pop(0).strip())
        if not folded:
            raise ValueError("nothing is folded")
        return " ".join(folded)


def plain_value(text):
    """Text that needs no quotes in YAML, or a list [a, b]."""
    if re.match(r"\[[\w, ]*\]\Z", text):
        return [part.strip() for part in text[1:-1].split(",")]
    if text != text.strip() or re.search(r": |:\Z| #|\t", text) or text[0] in "[]{}&*!|>%@`'\"#?,":
        raise ValueError("not a plain value: " + text)
    return text


####################################################################################################
# Command lines
####################################################################################################

def call_lines(script):
    """The arguments of each call of this client in a shell script."""
    script = script.replace("\\\n", " ")
    for match in re.finditer(r"twosignal(?:\.py)? (?=[a-zA-Z-])", script):
        before = script[:match.start()]
        if before.endswith(("> ", "-m ", "~/.zfunc/_")) or re.search(r"[\w.-]\Z", before):
            continue
        yield call_arguments(script[match.end():])


def call_arguments(text):
    """The words up to the end of a simple command, without redirections."""
    quoted = r"'[^']*'|\"[^\"]*\""
    match = re.match(r"(?:%s|\$\w+|[^'\"|;&()<>#\n])*" % quoted, text)
    return shlex.split(match.group().strip())


class ReadmeTables(unittest.TestCase):
    def column(self, heading, place=0):
        return [row[place].strip("`") for row in rows(README, heading)]

    def test_tables_that_come_from_the_code(self):
        for path, heading, make in GENERATED:
            text = read(path)
            start, end = table_span(text, heading)
            with self.subTest(heading=heading):
                self.assertEqual(text[start:end], table(heading, make()),
                                 "run: python3 tests/test_readme.py --write")

    def test_each_option_is_documented(self):
        told = set(re.findall(r"`(--?[a-zA-Z][\w-]*)`", read(README)))
        for command in twosignal.visible_commands():
            self.assertLessEqual(set(twosignal.flags_of(command.all_options)), told, command.name)

    def test_exit_codes(self):
        told = {int(code) for cell in self.column(ERROR_HEADING) for code in cell.split(",")}
        ends = {twosignal.EXIT_READER_GONE, *twosignal.EXIT_SIGNALS}
        self.assertEqual(told, {0, 1, *twosignal.EXIT_CODES.values()} | ends)

    def test_layers_of_doctor(self):
        cells = [row[0] for row in rows(README, "| layer | what is checked |")]
        self.assertEqual(re.findall(r"`(\w+)`", " ".join(cells)), list(twosignal.LAYERS))

    def test_documented_errors(self):
        """The documented names are in bold, each in the row of its code."""
        told = {name: code.strip("`") for _, code, meaning, _ in rows(README, ERROR_HEADING)
                for name in re.findall(r"\*\*(.*?)\*\*", meaning)}
        self.assertEqual(set(told), set(DOCUMENTED))
        self.assertEqual(told.pop("Connection refused"), "CONNECTION_REFUSED")
        project = twosignal.RESOURCES["project"]
        failures = [twosignal.authentication_expired()] + [
            twosignal.server_failure(code, twosignal.Response(0, {}, b""), None, project)
            for code in ("NOT_FOUND", "TOO_MANY_REQUESTS", "FORBIDDEN")]
        self.assertEqual({failure.message: failure.code for failure in failures}, told)

    def test_limits_in_the_text(self):
        text = " ".join(read(README).split())
        pauses = [twosignal.RETRY_PAUSE * 2 ** attempt * part for attempt, part in
                  ((1, 0.5), (twosignal.MAX_TRIES - 1, 1.5))]
        for words in ("%.1f to %.1f seconds" % tuple(pauses),
                      "more than %d seconds is announced" % twosignal.ANNOUNCED_PAUSE,
                      "larger than %d MiB" % (twosignal.MAX_RESPONSE_BYTES >> 20),
                      "queries, at most %d" % twosignal.MAX_REDIRECTS,
                      "newest %d traces" % twosignal.PAGE_SIZE,
                      "shows %d traces" % twosignal.DEFAULT_LIMIT,
                      "`%s`" % twosignal.DEFAULT_URL):
            self.assertIn(words, text)

    def test_environment_variables(self):
        source = read(SCRIPT)
        used = set(re.findall(r'(?:\bsetting\(|\benviron\.get\()"(\w+)"', source))
        used |= {option.env for command in twosignal.COMMANDS.values()
                 for option in command.all_options if option.env}
        cells = [row[0] for row in rows(README, "| variable | what it is for |")]
        told = re.findall(r"`(\w+)`", " ".join(cells))
        self.assertEqual(sorted(told), sorted(used | OF_PYTHON))
        self.assertEqual(set(re.findall(r"TWOSIGNAL_[A-Z_]*[A-Z]", source)),
                         {name for name in used if name.startswith("TWOSIGNAL_")})

    def test_users_own_data(self):
        own = re.search(r"Your own data \((.*?)\)", read(README), re.DOTALL).group(1)
        self.assertEqual(sorted(re.findall(r"\w+", own)),
                         sorted(map(twosignal.snake_case, twosignal.USER_DATA)))


class ReadmeFacts(ServerCase):
    """What the README says about errors, retries and records, compared with runs."""

    def setUp(self):
        super().setUp()
        self.log_in()
        self.project = ("--project", self.server.project)

    def error_code(self, *args, **kwargs):
        return re.search(r'"code": "(\w+)"', self.cli(*args, "--json", **kwargs).err).group(1)

    def test_error_codes(self):
        """Each code is in the table once, with its exit code, in the order of those."""
        codes = set(twosignal.EXIT_CODES) | set(twosignal.STATUS_CODES.values())
        evaluator = self.server.add_evaluator()
        codes.add(self.error_code("evaluators", "delete", evaluator, *self.project, stdin="n\n",
                                  tty=True))
        codes.add(self.error_code("orgs", "list", "-o", self.path("none", "file")))
        broken = twosignal.Command("broken", lambda client, args, console: 1 / 0, ())
        with mock.patch.dict(twosignal.COMMANDS, broken=broken):
            codes.add(self.error_code("broken"))
        pairs = [(code.strip("`"), int(number))
                 for number, code, *_ in rows(README, ERROR_HEADING) if code]
        self.assertEqual(len(pairs), len(dict(pairs)))
        self.assertEqual(dict(pairs), {code: twosignal.Failure("", code=code).exit_code
                                       for code in codes})
        self.assertEqual([number for _, number in pairs], sorted(number for _, number in pairs))

    def test_error_document(self):
        """The sample error has the keys of a real one."""
        sample, = [json.loads(body) for body in blocks(read(README), "json") if "error" in body]
        result = self.cli("traces", "list", "--project", "d" * 8 + "-0000-4000-8000-" + "d" * 12,
                          "--json")
        self.assertEqual(dict(result.error, hint="…"), sample["error"])

    def test_retries(self):
        """Each status of the table is retried, or ends the command, as the table says."""
        told = {}
        for failure, *cells in rows(README, RETRY_HEADING):
            told.update((int(status), cells) for status in re.findall(r"\b\d{3}\b", failure))
        self.assertLessEqual(set(twosignal.RETRIED_STATUSES), set(told))
        for status, cells in told.items():
            found = [self.outcome(status, "orgs", "list"),
                     self.outcome(status, "orgs", "create", "New"), self.refresh_outcome(status)]
            self.assertEqual(found, cells, status)

    def outcome(self, status, *args, fragment="organization."):
        """What the table says about a command whose requests all fail with a status."""
        self.server.clear()
        self.log_in()
        self.server.fault(fragment, times=None, status=status)
        if fragment != "organization.":
            self.server.expire("owner@example.com")
            self.write(os.path.join("home", "session.json"),
                       dict(self.state("session.json"), expires_at=1))
        result = self.cli(*args)
        tries = self.server.count(fragment)
        if tries == twosignal.MAX_TRIES:
            return "up to %d tries" % tries
        self.assertEqual(tries, 1, result)
        return "no retry: exit %d" % result.code

    def refresh_outcome(self, status):
        return self.outcome(status, "orgs", "list", fragment="auth/refresh")

    def test_records(self):
        """The keys that the README names are those of the records."""
        told = dict(rows(README, "| command | its JSON |"))
        named = {command: re.findall(r"`(\w+)`", cell) for command, cell in told.items()}
        self.assertEqual(named["`traces list`"][:-1], list(twosignal.to_record({}, "trace")))
        self.assertEqual(named["`usage`"],
                         list(twosignal.usage_record({}, "PRO")) + [
                             "seats_used", "organization_id", "organization_name"])
        check = self.cli("traces", "check", "--max-error-rate", "1%", *self.project, "--json").json
        self.assertEqual(named["`traces check`"][:9], list(check) + list(check["checks"][0]))
        wait = self.cli("traces", "wait", *self.project, "--json").json
        self.assertEqual(named["`traces wait`"], list(wait))
        keys = [key for key in named["`whoami`, too"] if key not in ("default", "role")]
        self.assertEqual(named["`login`, `whoami`"] + keys,
                         list(self.cli("whoami", "--json").json))

    def test_renamed_keys(self):
        """The table lists each key of the API that has another name in the record."""
        trace = self.server.add_trace(scores=[{"evaluatorName": "a", "value": 1}], spans=[{}])
        wire = self.cli("api", "trace.getById", "--input", json.dumps(
            {"traceId": trace, "projectId": self.server.project})).json
        usage = self.cli("api", "usage.getCurrentMonth", "--input", json.dumps(
            {"organizationId": self.server.org})).json
        found = {}
        for kind, each in (("trace", wire), ("span", wire["spans"][0]),
                           ("score", wire["scores"][0]), ("usage", usage)):
            for key in each:
                name, = [name for name, value in twosignal.to_record({key: 1}, kind).items()
                         if value == 1]
                if name != twosignal.snake_case(key):
                    found[key] = name
        self.assertEqual(len(found), 8, found)
        told = {key: new for old, new in rows(README, "| on the wire | in the record |")
                for key, new in zip(re.findall(r"`(\w+)`", old),
                                    re.findall(r"`(\w+)`", new) * 2)}
        self.assertEqual({key: told.get(key) for key in found}, found)


class QuotedMessages(ServerCase):
    """Each message that the README quotes under Troubleshooting is one that a run prints."""

    OTHERS = {"twosignal: command not found", "cannot execute: required file not found",
              "bad interpreter", "import twosignal", "UNSUPPORTED"}

    def setUp(self):
        super().setUp()
        self.log_in()

    def test_messages(self):
        cells = " ".join(row[0] for row in rows(README, "| you see | what to do |"))
        quoted = set(re.findall(r"`([^`]+)`", cells)) - self.OTHERS
        printed = [self.another_server(), self.web_page(), self.damaged_session(),
                   self.unknown_outcome(), self.held_lock(), self.bare_list(), self.certificate(),
                   self.client_certificate(), self.wrong_clock(), self.open_to_everybody()]
        for text in quoted:
            pattern = ".*".join(map(re.escape, text.split("…")))
            self.assertEqual(sum(bool(re.search(pattern, each)) for each in printed), 1, text)
        self.assertEqual(len(quoted), len(printed))

    def wrong_clock(self):
        return self.cli("orgs", "list", clock=WrongClock(7200)).err

    def open_to_everybody(self):
        os.chmod(self.home, 0o777)
        result = self.cli("orgs", "list")
        os.chmod(self.home, 0o700)
        return result.err

    def another_server(self):
        return self.cli("orgs", "list", "--url", "https://other.example.com").err

    def web_page(self):
        self.server.fault("organization.list", status=200, body="<html>")
        return self.cli("orgs", "list").err

    def damaged_session(self):
        before = self.write("home/session.json", "{")
        result = self.cli("orgs", "list")
        os.remove(before)
        self.log_in()
        return result.err

    def unknown_outcome(self):
        self.server.fault("organization.create", reset=True, after=True)
        return self.cli("orgs", "create", "New").err

    def held_lock(self):
        with twosignal.Lock(os.path.join(self.home, "session.lock"), 0):
            self.write("home/session.json", dict(self.state("session.json"), expires_at=1))
            result = self.cli("orgs", "list", "--timeout", "0.1")
        self.log_in()
        return result.err

    def bare_list(self):
        server = self.serve(bare_list=True, empty=True)
        for _ in range(100):
            server.add_trace()
        self.log_in(server=server)
        return self.cli("traces", "list", "--project", server.project, "-n", "100").err

    def certificate(self):
        return self.tls_failure("CERTIFICATE_VERIFY_FAILED", verify_message="has expired")

    def client_certificate(self):
        return self.tls_failure("TLSV13_ALERT_CERTIFICATE_REQUIRED")

    def tls_failure(self, reason, **details):
        error = ssl.SSLError()
        vars(error).update(details)
        error.reason = reason
        return twosignal.tls_error(error, "x", twosignal.Access()).message


class SampleOutput(ServerCase):
    """The tables in the README are what the program prints."""

    options = {"empty": True}

    def setUp(self):
        super().setUp()
        self.log_in()
        self.project = self.server.project    # which has that name
        self.environment["TWOSIGNAL_PROJECT"] = self.project

    def assertPrints(self, words, code, columns=80):
        """The command of the one console block with these words prints the rest of the block."""
        block, = [body for body in blocks(read(README), "console") if words in body]
        command, _, expected = block.partition("\n")
        arguments, = call_lines(command)
        result = self.cli(*arguments, columns=columns)
        self.assertEqual((result.out, result.code), (expected, code), result)

    def test_list(self):
        for minutes, id, fields in (
                (2, "a1b2c3d4-e5f6-7890-abcd-ef1234567890", dict(duration_ms=1200, cost=0.003)),
                (5, "f9e8d7c6-b5a4-3210-fedc-ba0987654321",
                 dict(duration_ms=4800, cost=0.012, status="ERROR")),
                (12, "11223344-5566-7788-99aa-bbccddeeff00", dict(duration_ms=800, cost=0.001))):
            self.server.add_trace(project=self.project, id=id, created=minutes_ago(minutes),
                                  **fields)
        self.assertPrints("traces list --project", 0)

    def test_check(self):
        for place in range(20):
            self.server.add_trace(
                project=self.project, duration_ms=4100 if place > 17 else 1000,
                scores=[{"evaluatorName": "helpfulness", "value": 0.71 if place else 0.9}],
                **({} if place else {"status": "ERROR",
                                     "id": "f9e8d7c6-b5a4-3210-fedc-ba0987654321", "spans": [
                                         {"status": "ERROR",
                                          "errorMessage": "Tool call timed out"}]}))
        self.assertPrints("traces check --since", 10)

    def test_incident(self):
        failed = {"status": "ERROR", "errorMessage": "Tool call timed out"}
        spans = [self.span(name, kind, start, duration, **fields)
                 for name, kind, start, duration, fields in (
                     ("refund-agent", "AGENT", 0, 4800, {"status": "ERROR", "input": "Refund?"}),
                     ("plan", "LLM", 3, 900, {"model": "gpt-4o", "cost": 0.0085}),
                     ("look up order", "TOOL", 905, 3000, failed),
                     ("answer", "LLM", 3910, 880, {"model": "gpt-4o", "cost": 0.0035}))]
        self.server.add_trace(
            id="f9e8d7c6-b5a4-3210-fedc-ba0987654321", name="refund-agent", status="ERROR",
            duration_ms=4800, spans=spans, tags=["production"], totalTokens=1250,
            created=self.moment(0), scores=[{"value": 0.41, "label": "fail"}])
        self.assertPrints("traces get f9e8d7c6-b5a4-3210-fedc-ba0987654321\n", 0, columns=80)

    def span(self, name, kind, start, duration, **fields):
        parent = None if name == "refund-agent" else "refund-agent"
        return dict({"id": name, "name": name, "type": kind, "parentSpanId": parent, "cost": None,
                     "startTime": self.moment(start), "durationMs": duration}, **fields)

    @staticmethod
    def moment(milliseconds):
        start = twosignal.parse_timestamp("2025-11-03T03:12:45Z")
        return twosignal.wire_timestamp(start + milliseconds / 1000)


class Answers(ServerCase):
    """The commands under "See what happened" print this for the sandbox's sample data."""

    options = {"empty": True}
    NOW = datetime.datetime(2026, 3, 14, 10, 30, tzinfo=datetime.timezone.utc)

    def setUp(self):
        super().setUp()
        self.log_in()
        sandbox.add_sample_data(self.server, self.NOW)
        self.environment["TWOSIGNAL_PROJECT"] = self.server.project

    def test_each_answer(self):
        text = read(README)
        start = text.index("\n## See what happened\n")
        answers = blocks(text[start:text.index("\n## ", start + 1)], "console")
        self.assertEqual(len(answers), 2)
        for answer in answers:
            command, _, expected = answer.partition("\n")
            arguments, = call_lines(command)
            with self.subTest(command=command):
                self.assertEqual(self.cli(*arguments, columns=80).out, expected)


class Promises(unittest.TestCase):
    @costly
    def test_each_promise_of_the_table_has_a_test(self):
        numbers = [int(row) for row, *_ in rows(OWN, PROMISE_HEADING)]
        self.assertEqual(numbers, sorted(promised_tests()))
        self.assertLessEqual(set(range(1, PROMISES + 1)), set(numbers))

    def test_each_docstring_that_names_a_row_is_understood(self):
        for path in glob.glob(os.path.join(TESTS, "test_*.py")):
            for line in re.findall(r'^        """(Rows? .*)', read(path), re.MULTILINE):
                self.assertTrue(promised_by(line), "%s: %s" % (path, line))


class ReadmeText(unittest.TestCase):
    def test_every_command_line_parses(self):
        scripts = blocks(read(README), "sh", "bash", "console", "yaml", "groovy", "cron")
        scripts += re.findall(r"`(twosignal [a-z].*?)`", read(README).replace("\\|", "|"))
        names = set()
        with mock.patch.dict(os.environ, TWOSIGNAL_PROJECT="p", TWOSIGNAL_ORG="o"):
            for script in scripts:
                for arguments in call_lines(script):
                    with self.subTest(arguments=arguments):
                        names.add(self.parse(arguments))
        commands = {command.name for command in twosignal.visible_commands()}
        self.assertLessEqual(commands, names)

    def parse(self, arguments):
        line = twosignal.CommandLine(arguments)
        name = " ".join(line.words)
        if line.has(twosignal.HELP) or line.has(twosignal.VERSION):
            return name
        self.assertIsNone(line.error)
        self.assertIn(name, twosignal.COMMANDS)
        twosignal.Arguments(line.command, line)
        return name

    def test_the_command_lines_are_found(self):
        script = "x=$(twosignal orgs list --json |\\\n  python3 -c '') # twosignal whoami\n" \
                 "twosignal completion zsh > ~/.zfunc/_twosignal\ninstall a /bin/twosignal\n" \
                 "- python3 twosignal.py login -e 'a b' < secret; twosignal logout"
        self.assertEqual(list(call_lines(script)), [
            ["orgs", "list", "--json"], ["whoami"], ["completion", "zsh"], ["login", "-e", "a b"],
            ["logout"]])

    def test_links(self):
        for path in (README, OWN):
            text = read(path)
            for target in re.findall(r"\]\((?!https?://)([^)]*)\)", text):
                name, _, anchor = target.partition("#")
                linked = os.path.join(os.path.dirname(path), name) if name else path
                self.assertTrue(os.path.exists(linked), target)
                if anchor:
                    self.assertIn(anchor, anchors(read(linked)))

    def test_files_that_are_named_exist(self):
        for path in (README, OWN):
            for name in re.findall(r"\b(?:tests/)?\w+\.py\b", read(path)):
                places = [os.path.join(folder, name) for folder in (ROOT, TESTS, SUPPORT)]
                self.assertTrue(any(map(os.path.exists, places)), name)

    def test_the_two_commands_that_do_it_all(self):
        lines = [line.partition("#")[0].strip() for line in block_with("sandbox.py").splitlines()]
        self.assertEqual(lines, ["python3 tests/sandbox.py traces list", "python3 -m unittest"])

    def test_nothing_of_the_place_where_it_was_written(self):
        for path in (README, OWN):
            self.assertNotRegex(read(path), r"/root/|/home/\w")
            self.assertNotIn("\t", read(path))

    def test_lines_are_short(self):
        for path in (README, OWN):
            long = [line for line in read(path).splitlines()
                    if len(line) > MAX_LINE and not line.startswith("|")]
            self.assertEqual(long, [], path)


class RecipeParser(unittest.TestCase):
    def test_recipes_are_read(self):
        text = "on: [push]\njobs:\n  gate:\n    steps:\n      - uses: a@v4\n      - run: b -c\n" \
               "  other:\n    script:\n      - >-\n        python3 x\n        -y\n      - z\n" \
               "    name: >-\n      a\n      b\n"
        self.assertEqual(Recipe(text).value, {"on": ["push"], "jobs": {
            "gate": {"steps": [{"uses": "a@v4"}, {"run": "b -c"}]},
            "other": {"script": ["python3 x -y", "z"], "name": "a b"}}})

    def test_broken_recipes_are_refused(self):
        for text in ("a:\n   b: c", "a:\n\tb: c", "a: b: c", "a: b #c", "a:b", "- a\n b",
                     "a:\n  b: c\n d: e", "a: 1\na: 2", "a: %x", "a: 'x'", "a: >-\nb: c",
                     "a: >-\n    b", "a: >\n  b"):
            with self.subTest(text=text), self.assertRaises((ValueError, IndexError)):
                Recipe(text)


@unittest.skipUnless(BASH, "no bash here")
class ShellSyntax(unittest.TestCase):
    def assertParses(self, script):
        result = run_command([BASH, "-n"], dict(os.environ), script)
        self.assertEqual((result.code, result.err), (0, ""), script)

    def test_each_script_parses(self):
        scripts = [body for path in (README, OWN) for body in blocks(read(path), "sh", "bash")]
        self.assertParses("\n".join("(\n%s)" % script for script in scripts))

    def test_the_shell_in_the_recipes_parses(self):
        recipes = blocks(read(README), "yaml")
        self.assertEqual(len(recipes), 7)
        for text in recipes + blocks(read(README), "groovy"):
            steps = recipe_steps(text)
            self.assertGreaterEqual(len(steps), 1)
            for script, _ in steps:
                self.assertParses(script)

    def test_the_crontab_parses(self):
        table, = blocks(read(README), "cron")
        self.assertRegex(table, r"\A(\w+=\S+\n)*([\d*/,-]+ ){5}\S[^\n%]*\n\Z")
        self.assertParses(cron_script())


def write_recipes(folder):
    """The recipes as files, for tools that know the schemas of their kinds."""
    for number, text in enumerate(blocks(read(README), "yaml")):
        value = Recipe(text).value
        kind = "github" if "jobs" in value else "azure" if "steps" in value else "gitlab"
        path = os.path.join(folder, "%s-%d.yml" % (kind, number))
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def recipe_steps(text):
    """Pairs, in order: a shell script of a recipe, and whether it also runs after a failure."""
    if text.startswith("pipeline {"):       # of Jenkins
        return [(line, False) for line in re.findall(r"^ +sh '(.*)'$", text, re.MULTILINE)]
    recipe = Recipe(text).value
    if "steps" in recipe:                   # of Azure Pipelines
        return [(step["script"], "condition" in step) for step in recipe["steps"]
                if "script" in step]
    if "jobs" in recipe:
        steps = [step for job in recipe["jobs"].values() for step in job["steps"]]
        return [(step["run"], "if" in step) for step in steps if "run" in step]
    job, = recipe.values()                  # of GitLab: each part is a shell of its own
    return [("\n".join(job[part]), part == "after_script")
            for part in ("script", "after_script") if part in job]


def as_runner(steps):
    """A script that runs the steps as a CI system does, and ends as the first one that failed."""
    lines = ["code=0"]
    for script, is_always in steps:
        lines.append("%s%s -ec %s || { last=$?; [ $code != 0 ] || code=$last; }" % (
            "" if is_always else "[ $code != 0 ] || ", shlex.quote(BASH), shlex.quote(script)))
    return "\n".join(lines + ["exit $code"])


def cron_script():
    """What cron does for the crontab: it sets the variables, and runs the command."""
    *settings, job = blocks(read(README), "cron")[0].splitlines()
    return "\n".join(["export " + line for line in settings] + [job.split(None, 5)[5]])


@unittest.skipUnless(BASH, "no bash here")
class RecipeRuns(ServerCase):
    """The recipes, run by bash against the stand-in, once passing and once failing."""

    def setUp(self):
        super().setUp()
        self.project = self.server.add_project(name="Gate")
        self.server.add_evaluator(name="helpfulness", project=self.project)
        for _ in range(20):
            self.add_trace(0.9)
        email, password = self.server.OWNER
        self.environment.update(
            PATH=executable(self.path("bin")), TWOSIGNAL_URL=self.server.url,
            TWOSIGNAL_EMAIL=email, TWOSIGNAL_PASSWORD=password, TWOSIGNAL_PROJECT=self.project,
            PROJECT_ID=self.project)
        os.mkdir(self.path("ci"))
        shutil.copy(SCRIPT, self.path("ci", "twosignal"))
        write_script(self.path("run-agent.sh"), ["echo", "ran the agent:"])

    def add_trace(self, score, **fields):
        return self.server.add_trace(project=self.project, scores=[
            {"evaluatorName": "helpfulness", "value": score}], **dict({"tags": [COMMIT]}, **fields))

    def bash(self, script, **env):
        return run_command([BASH, "-c", script], merged(self.environment, env), cwd=self.folder)

    def run_recipe(self, words, **env):
        script = as_runner(recipe_steps(block_with(words)))
        return self.bash(script, GITHUB_SHA=COMMIT, CI_COMMIT_SHA=COMMIT,
                         TWOSIGNAL_HOME=self.path("session"), **env)

    @costly
    def test_github_with_a_key(self):
        key = self.server.secret(self.server.add_key(self.project))
        env = dict(WITHOUT_ACCOUNT, TWOSIGNAL_API_KEY=key)
        result = self.run_recipe("agent health\n", **env)
        self.assertEqual((result.code, result.err), (0, ""), result)
        self.assertEqual(self.server.count("/api/trpc/"), 0)
        self.add_trace(1, cost=0.06)
        self.assertEqual(self.run_recipe("agent health\n", **env).code, 10)

    @costly
    def test_github_with_scores(self):
        self.add_trace(0.1, tags=["another commit"])
        result = self.run_recipe("secrets.TWOSIGNAL_PASSWORD")
        self.assertEqual((result.code, result.err), (0, ""), result)
        self.assertIn("ran the agent: --tag %s\n" % COMMIT, result.out)
        for action in ("login", "logout"):
            self.assertEqual(self.server.count("auth/" + action), 1)
        self.add_trace(0.1)
        self.assertEqual(self.run_recipe("secrets.TWOSIGNAL_PASSWORD").code, 10)

    @costly
    def test_gitlab(self):
        result = self.run_recipe("junit: report.xml")
        self.assertEqual(result.code, 0, result)
        self.add_trace(0.2)
        result = self.run_recipe("junit: report.xml")
        self.assertEqual(result.code, 10, result)
        self.assertIn("<failure", read(self.path("report.xml")))

    def key_environment(self):
        return dict(WITHOUT_ACCOUNT, PR="7", TWOSIGNAL_API_KEY=self.server.secret(
            self.server.add_key(self.project)))

    @costly
    def test_pages_and_reports(self):
        """Jenkins, Azure Pipelines, and an artifact: a page in any case, and the exit code."""
        slow, failed = {"duration_ms": 9000}, {"status": "ERROR"}
        for words, wrong in (("pipeline {", slow), ("task: ", slow), ("expose_as", failed)):
            with self.subTest(words=words):
                env = self.key_environment()
                self.assertEqual(self.run_recipe(words, **env).code, 0)
                os.unlink(self.path("gate.html"))
                made = [self.add_trace(0.9, **wrong) for _ in range(4)]
                result = self.run_recipe(words, **env)
                self.assertEqual(result.code, 10)
                self.assertIn(": failed: measured ", result.err)
                self.assertIn("FAILED", read(self.path("gate.html")))
                if "report.xml" in block_with(words):
                    self.assertIn("<failure", read(self.path("report.xml")))
                for trace in made:
                    self.server.store.remove("traces", trace)

    @costly
    def test_azure_publishes_a_page_if_there_is_one(self):
        env = dict(self.key_environment(), SYSTEM_JOBATTEMPT="2")
        command = "##vso[artifact.upload artifactname=agent-health-2]%s/gate.html" % (
            os.path.realpath(self.folder))
        self.assertEqual(self.run_recipe("task: ", **env).lines, [command])
        env["TWOSIGNAL_URL"] = "http://127.0.0.1:9"     # the page of the earlier run is no result
        result = self.run_recipe("task: ", **env)
        self.assertEqual((result.code, result.out), (3, ""), result)

    @costly
    def test_script_that_comments(self):
        write_script(self.path("bin", "gh"), ["echo", "gh"])
        self.write("gate.md", "of an earlier run")
        env, script = self.key_environment(), block_with('exit "$code"')
        for code in (0, 10):
            result = self.bash(script, **env)
            self.assertEqual((result.code, result.lines), (code, ["gh pr comment 7 -F gate.md"]))
            self.assertIn("| error rate |", read(self.path("gate.md")))
            for _ in range(2):
                self.add_trace(0.9, status="ERROR")
        env["TWOSIGNAL_URL"] = "http://127.0.0.1:9"
        result = self.bash(script, **env)
        self.assertEqual((result.code, result.out), (3, ""), result)

    @costly
    def test_github_with_a_comment(self):
        """One run makes the comment, the page and the annotations; the comment says what failed."""
        write_script(self.path("bin", "gh"), ["echo", "gh"])
        env = dict(self.key_environment(), GITHUB_ACTIONS="true", GITHUB_RUN_ID="12",
                   GITHUB_REPOSITORY="a/b", GITHUB_SERVER_URL="https://github.com",
                   GITHUB_STEP_SUMMARY=self.path("summary"))
        comment = "gh pr comment 7 --edit-last --create-if-none -F gate.md"
        refused = dict(env, TWOSIGNAL_URL="http://127.0.0.1:9")
        for variables, code, words, pages in (
                (env, 0, "| error rate | 0% |", 1), (env, 10, "failed: measured ", 1),
                (refused, 3, "Connection refused", 0)):
            result = self.run_recipe("GH_TOKEN", **variables)
            self.assertEqual((result.code, result.lines), (code, [comment]), result)
            self.assertEqual(result.err.count("::error "), 1 if code else 0)
            text = read(self.path("gate.md"))
            self.assertIn(words, text)
            self.assertTrue(text.endswith(
                "\n\nPage and log: https://github.com/a/b/actions/runs/12\n"), text)
            self.assertEqual(os.path.exists(self.path("gate.html")), bool(pages))
            for name in ("gate.md", "gate.html")[:1 + pages]:
                os.unlink(self.path(name))
            for _ in range(2):
                self.add_trace(0.9, status="ERROR")

    @costly
    def test_gitlab_with_a_comment(self):
        write_script(self.path("bin", "curl"), ["printf", "%s\n"])
        env = dict(self.key_environment(), GITLAB_TOKEN="glpat", CI_MERGE_REQUEST_IID="3",
                   CI_API_V4_URL="https://gitlab.com/api/v4", CI_MERGE_REQUEST_PROJECT_ID="5")
        for code in (0, 10):
            result = self.run_recipe("after_script", **env)
            self.assertEqual(result.code, code, result)
            self.assertEqual(result.lines[-5:], [
                "-H", "PRIVATE-TOKEN: glpat", "--data-urlencode", "body@gate.md",
                "https://gitlab.com/api/v4/projects/5/merge_requests/3/notes"])
            self.assertIn("| error rate |", read(self.path("gate.md")))
            os.unlink(self.path("gate.md"))
            for _ in range(2):
                self.add_trace(0.9, status="ERROR")
        env["TWOSIGNAL_URL"] = "http://127.0.0.1:9"
        result = self.run_recipe("after_script", **env)
        self.assertEqual((result.code, result.out), (3, ""), result)

    @costly
    def test_cron(self):
        key = self.write("twosignal.key", self.server.secret(self.server.add_key(self.project)))
        os.chmod(key, 0o600)
        command = cron_script().replace("/etc/twosignal.key", key).replace(
            "/usr/local/bin/twosignal", "twosignal")
        env = WITHOUT_ACCOUNT
        result = self.bash(command, **env)
        self.assertEqual((result.code, result.out), (0, ""), result)
        for _ in range(2):
            self.add_trace(0.9, status="ERROR")
        result = self.bash(command, **env)
        self.assertIn("FAILED", result.out, result)
        self.assertEqual(result.err, "")

    @costly
    def test_cron_without_traces(self):
        """No mail for an interval without traces, but one for an error."""
        key = self.server.secret(self.server.add_key(self.server.add_project(name="Quiet")))
        command = cron_script().replace("/usr/local/bin/twosignal", "twosignal")
        command = re.sub("export .*", "", command)
        env = WITHOUT_ACCOUNT
        result = self.bash(command, TWOSIGNAL_API_KEY=key, **env)
        self.assertEqual((result.code, result.out, result.err), (0, "", ""), result)
        self.assertEqual(self.server.count("/api/v1/traces"), 1)
        result = self.bash(command, TWOSIGNAL_API_KEY="ts_unknown", **env)
        self.assertEqual(result.out, "")
        self.assertIn("Error: ", result.err)

    @costly
    def test_script(self):
        self.log_in()
        script = block_with("errors.jsonl")
        result = self.bash(script)
        self.assertEqual((result.code, result.out), (0, ""), result)
        self.add_trace(0.9, status="ERROR")
        result = self.bash(script)
        self.assertEqual((result.code, result.out), (1, "Found 1 error traces\n"), result)

    @costly
    def test_a_failure_of_the_client_fails_the_script(self):
        result = self.bash(block_with("errors.jsonl"))
        self.assertEqual((result.code, result.out), (4, ""), result)
        self.assertIn("Not logged in", result.err)


@unittest.skipUnless(BASH, "no bash here")
class QuickStart(ServerCase):
    @costly
    def test_every_line(self):
        """The block runs as it is, but for an ID, and the email and password from variables."""
        email, password = self.server.OWNER
        path = os.pathsep.join([self.path(".local", "bin"), executable(self.path("bin"))])
        os.remove(self.path("bin", "twosignal"))
        shutil.copy(SCRIPT, self.folder)
        script = block_with("twosignal login  ").replace(" ID ", " %s " % self.server.traces[0])
        self.assertLessEqual(len(script.splitlines()), 10)
        result = run_command([BASH, "-c", script], merged(self.environment, {
            "PATH": path, "TWOSIGNAL_URL": self.server.url, "TWOSIGNAL_EMAIL": email,
            "TWOSIGNAL_PASSWORD": password}), cwd=self.folder)
        self.assertEqual(result.err, "", result)
        for words in ("Installed twosignal", "Logged in to", "\nProjects\n", "Saved the default",
                      "Spans\n", "p95 duration"):
            self.assertIn(words, result.out)
        self.assertRegex(result.out, r"\n(0|10)\n\Z")


@unittest.skipUnless(BASH and os.name != "nt", "no bash, or no terminal, here")
@needs_openssl
class FreshServer(ServerCase):
    """The steps of an operator, typed into a terminal: a private CA, and a proxy that knows it."""

    HOST, PROXY = "elsewhere.example", "http://proxy.example.com:3128"

    def setUp(self):
        Case.setUp(self)
        made = certificates(self.path())
        self.server = self.serve(tls=made.wrong_host, empty=True)
        self.server.add_account("sam@example.com")
        self.proxy = self.enter(Proxy(hosts={self.HOST: self.server.listener.server_address}))
        os.rename(made.ca, self.path("company-ca.pem"))
        write_script(self.path("systemctl"), ["true"])
        self.environment.update(PATH=self.path() + os.pathsep + executable(self.path("bin")),
                                https_proxy=self.proxy.url)

    def type(self, words, *script):
        """Runs the block with these words in a terminal that types the answers; its output."""
        block = block_with(words).replace("twosignal.internal.example.com", self.HOST)
        lines = "cd %s\n%s" % (shlex.quote(self.path()), block.replace(self.PROXY, self.proxy.url))
        output, code = pty_run([BASH, "-ec", lines], script, self.environment)
        self.assertEqual(code, 0, output)
        return output

    def active_keys(self):
        return {row["name"]: row["key"] for row in self.server.rows("api_keys")
                if not row["revokedAt"]}

    def key_in_file(self):
        name, _, key = read(self.path("agent.env")).strip().partition("=")
        self.assertEqual(name, "TWOSIGNAL_API_KEY")
        return key

    def roles(self):
        org = self.server.rows("organizations")[-1]
        self.assertEqual(org["name"], "Example Inc")
        return org["id"], [row["role"] for row in self.server.rows("members")
                           if row["organizationId"] == org["id"]]

    @costly
    def test_each_step(self):
        email, password = self.server.OWNER
        output = self.type("doctor --url", ("Email: ", email + "\n"),
                           ("Password", password + "\n"))
        self.assertNotIn("FAIL", output)
        self.assertEqual(os.stat(self.path("agent.env")).st_mode & 0o777, 0o600)
        self.assertEqual(self.active_keys(), {"Production": self.key_in_file()})
        self.assertNotIn(self.key_in_file(), output)
        org, roles = self.roles()
        self.assertEqual(roles, ["OWNER"])
        tunnels = [line for line in self.proxy.seen if line.startswith("CONNECT " + self.HOST)]
        self.assertEqual(len(tunnels), self.server.connections)
        self.manage_members(org)
        self.replace_keys()

    def manage_members(self, org):
        self.server.add_project("Old Agent", org)
        self.type("orgs list-members", ("[y/N]", "y\n"), ("[y/N]", "y\n"))
        self.assertNotIn("Old Agent", [row["name"] for row in self.server.rows("projects")])
        self.assertEqual(self.roles(), (org, ["OWNER"]))
        for name in ("addMember", "removeMember"):
            self.assertEqual(self.server.count("organization." + name), 1)

    def replace_keys(self):
        for words in ("systemctl restart", "rotate"):
            before = self.key_in_file()
            self.type(words, ("[y/N]", "y\n"))
            self.assertEqual(self.active_keys(), {"Production 2": self.key_in_file()})
            self.assertNotEqual(self.key_in_file(), before)


@unittest.skipUnless(BASH and os.name != "nt", "no bash here")
class DataInAndOut(ServerCase):
    """The blocks of that section, run by bash against two servers."""

    def setUp(self):
        super().setUp()
        email, password = self.server.MEMBER
        self.environment.update(
            PATH=executable(self.path("bin")), TWOSIGNAL_EMAIL=email, TWOSIGNAL_PASSWORD=password,
            TWOSIGNAL_PROJECT="Support Agent")
        self.log_in(email)
        self.second = self.serve(empty=True)

    def run_block(self, words, lines=slice(None), **env):
        """Runs some lines of the block with these words; its output."""
        script = "".join(block_with(words).splitlines(True)[lines])
        script = script.replace("https://b.example.com", self.second.url)
        script = re.sub(r"\bID\b", self.server.traces[0], script)
        result = run_command([BASH, "-ec", script], merged(self.environment, env), cwd=self.folder)
        self.assertOk(result)
        return result.out

    def key_of(self, server):
        return {"TWOSIGNAL_URL": server.url, "TWOSIGNAL_PROJECT": None,
                "TWOSIGNAL_API_KEY": server.secret(server.add_key())}

    def items(self, name, server=None):
        server = server or self.server
        dataset, = [row["id"] for row in server.rows("datasets") if row["name"] == name]
        return [(row["input"], row["expectedOutput"]) for row in server.rows("items")
                if row["datasetId"] == dataset]

    def test_test_cases(self):
        failed = {row["id"] for row in self.server.rows("traces") if row["status"] == "ERROR"}
        before = len(self.items("Test Cases"))
        self.run_block("datasets add-trace")
        self.assertGreater(len(failed), 0)
        self.assertEqual(len(self.items("Test Cases")), before + len(failed))
        self.assertEqual(len(read(self.path("cases.jsonl")).splitlines()), before + len(failed))
        self.write("questions.csv", "question,answer\nWhere is it?,In the post.\nWho?,\n")
        self.run_block("--input-column")
        self.assertEqual(sorted(self.items("Questions")),
                         [("Where is it?", "In the post."), ("Who?", None)])

    def test_another_server(self):
        self.server.add_evaluator(name="Hook", type="WEBHOOK", config={
            "url": "https://hooks.example.com", "headers": {"Authorization": "Bearer abcdef"}})
        self.run_block("--show-secrets -o")
        self.assertEqual(self.items("Test Cases", self.second), self.items("Test Cases"))
        names = [{row["name"]: row["config"] for row in server.rows("evaluators")}
                 for server in (self.server, self.second)]
        self.assertEqual(names[0], names[1])

    def test_traces(self):
        for day in ("2026-03-01", "2026-03-31"):
            self.server.add_trace(created=day + "T10:30:00Z", spans=[{"input": "Hi"}])
        self.run_block("traces send", slice(0, 1))
        self.run_block("traces send", slice(1, None), **self.key_of(self.second))
        self.assertEqual(len(self.second.rows("traces")), 2)
        self.assertEqual([span["input"] for span in self.second.rows("spans")], ["Hi", "Hi"])

    def test_prompts_and_routing(self):
        self.write("greeting.txt", "Hello {{name}}\n")
        self.write("rules.json", [{"name": "short", "model": "gpt-4o-mini", "priority": 1}])
        key = dict(self.key_of(self.server), TWOSIGNAL_PROJECT=self.server.project)
        self.assertIn("gpt-4o", self.run_block("prompts push", **key))
        self.assertEqual(file_bytes(self.path("greeting.txt")), b"Hello {{name}}\n")
        self.assertEqual(self.server.rows("routes")[-1]["rules"][0]["model"], "gpt-4o-mini")


@unittest.skipUnless(BASH, "no bash here")
class Installation(ServerCase):
    shared = True

    def bash(self, script):
        env = dict(self.environment, PATH=executable(self.path("bin")), PYTHONDONTWRITEBYTECODE="1")
        return run_command([BASH, "-ec", script], env, cwd=self.folder)

    @unittest.skipUnless(shutil.which("install"), "no install command")
    def test_copying_the_file(self):
        shutil.copy(SCRIPT, self.folder)
        script = block_with("install -m 755").replace("/usr/local/bin", self.path("bin"))
        result = self.bash(script)
        self.assertEqual(result.code, 0, result)
        self.assertRegex(result.out, r"^twosignal \d+\.\d+\.\d+ \(Python ")

    @unittest.skipUnless(shutil.which("sha256sum"), "no sha256sum command")
    def test_the_checksum(self):
        shutil.copy(SCRIPT, self.folder)
        make, check = block_with("sha256sum").splitlines()
        self.assertEqual(self.bash(make).code, 0)
        self.assertEqual(self.bash(check).code, 0)
        with open(self.path("twosignal.py"), "a") as file:
            file.write("\n")
        self.assertNotEqual(self.bash(check).code, 0)


def main(arguments):
    if arguments == ["--table"]:
        sys.stdout.buffer.write(table(PROMISE_HEADING, promise_rows()).encode("utf-8"))
    elif arguments == ["--write"]:
        write_tables()
    elif arguments[:1] == ["--recipes"]:
        write_recipes(arguments[1])
    else:
        return subprocess.call([sys.executable, "-m", "unittest", "tests.test_readme"], cwd=ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
