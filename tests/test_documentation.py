"""The documentation, followed line by line: each command and each script in it, as written."""
import datetime
import json
import os
import re
import shutil
import socket
import threading
import unittest
import urllib.request

from tools import TESTS, Case, ServerCase, executable, merged, pty_run, run_command

DOCUMENT = os.path.join(TESTS, "cli-documentation.txt")
COMMAND = re.compile(r"^(\$ )?twosignal ")
BASH = shutil.which("bash")
EMAIL, PASSWORD = "you@example.com", "yourpassword"

# The script blocks: the first line begins with the first text, the last is the second text.
SCRIPTS = {
    "error check": ("ERROR_COUNT=$(", "fi"),
    "score gate": ("SCORES=$(", "fi"),
    "deployment key": ("API_KEY=$(", 'echo "TWOSIGNAL_API_KEY=$API_KEY" >> .env.production'),
    "usage check": ("twosignal usage --org $ORG_ID --json | \\", '"'),
}

# What each line of the documentation prints, as a regular expression.
PRINTED = {
    "twosignal login -e you@example.com -p yourpassword": r"you@example\.com",
    "twosignal login --url https://your-instance.example.com": r"you@example\.com",
    "twosignal login --url https://twosignal.internal.company.com": r"you@example\.com",
    "twosignal whoami": r"you@example\.com",
    "twosignal logout": r"(?i)logged out",
    "twosignal traces --help": r"(?s)usage: twosignal traces .*list.*get",
    "twosignal evaluators create --help": r"(?s)usage: twosignal evaluators create .*--type",
    "twosignal orgs list": r"(?s)^ID .*Name.*\n─+\n.*Acme 東京",
    'twosignal orgs create "My Org"': r"My Org",
    "twosignal projects list --org <org-id>": r"(?s)^ID .*\n─+\n.*Support Agent",
    'twosignal projects create "My Project" --org <org-id>': r"My Project",
    "twosignal traces list --project <project-id>": r"^ID +Status +Duration +Cost +Created",
    "twosignal traces list --project <id> --status ERROR": r"(?m)^\S+ +ERROR +4\.8s ",
    'twosignal traces list --project <id> --search "agent-name"': r"(?m)^\S+ +OK +1\.2s ",
    "twosignal traces get <trace-id> --project <project-id>": r"a1b2c3d4-e5f6-7890-abcd-",
    "twosignal evaluators list --project <project-id>": r"(?m)^ID .*Type.*\n─+\n\S+  .*Has JSON",
    'twosignal evaluators create --project <id> -n "Has JSON" --type JSON_SCHEMA':
        r"Has JSON(?s:.*)JSON_SCHEMA",
    "twosignal evaluators toggle <id> --project <id> --enable": r"(?i)enabled",
    "twosignal evaluators delete <id> --project <id> -y": r"(?i)deleted",
    "twosignal datasets list --project <project-id>": r"(?m)^ID .*\n─+\n\S+  .*Old cases",
    'twosignal datasets create --project <id> -n "Test Cases"': r"Test Cases",
    "twosignal datasets get <dataset-id> --project <id>": r"(?i)name",
    "twosignal datasets add-item <dataset-id> --project <id> --input '{\"prompt\": \"Hi\"}'":
        r"prompt",
    "twosignal datasets delete <id> --project <id> -y": r"(?i)deleted",
    "twosignal api-keys list --project <project-id>": r"(?m)^ID .*\n─+\n\S+  .*Old key",
    'twosignal api-keys create --project <id> -n "CI Pipeline"': r"(ts_|2s_live_)\w{8}",
    "twosignal api-keys revoke <key-id> --project <id> -y": r"(?i)revoked",
    "twosignal usage --org <org-id>": r"(?i)traces",
    "$ twosignal traces list --project abc123": r"^ID +Status +Duration +Cost +Created",
    "$ twosignal traces list --project abc123 --json": r"^\[",
}
IN_TERMINAL = {"twosignal login"}  # the one documented command that prompts


def read_document():
    with open(DOCUMENT, encoding="utf-8") as file:
        return file.read().split("\n")


def read_script(name):
    """The lines of a script block of the documentation."""
    first, last = SCRIPTS[name]
    lines = read_document()
    start = next(n for n, line in enumerate(lines) if line.startswith(first))
    return lines[start:lines.index(last, start) + 1]


def single_commands():
    """The documented command lines that are not part of a script block."""
    scripts = [line for name in SCRIPTS for line in read_script(name)]
    return [line for line in read_document() if COMMAND.match(line) and line not in scripts]


def example(after):
    """The example below a line of the documentation, up to the next blank line."""
    lines = read_document()
    start = lines.index(after) + 2
    return lines[start:lines.index("", start)]


class DocumentCase(ServerCase):
    """A new reader of the documentation: an account, an organization, a project with traces."""

    def setUp(self):
        super().setUp()
        if BASH is None:
            self.skipTest("no bash here")
        self.server.add_account(EMAIL, PASSWORD, roles={self.server.org: "OWNER"})
        self.project = self.server.add_project(name="Support Agent")
        self.add_example_traces()
        self.resources = {
            "evaluator": self.server.add_evaluator(name="Has JSON", project=self.project),
            "dataset": self.server.add_dataset(name="Old cases", project=self.project),
            "key": self.server.add_key(name="Old key", project=self.project)}
        self.environment.update(PATH=executable(self.path("bin")), TWOSIGNAL_URL=self.server.url,
                                PROJECT_ID=self.project, ORG_ID=self.server.org)

    def add_example_traces(self):
        rows = example("$ twosignal traces list --project abc123")[2:]
        for row, age in zip(rows, (2, 5, 12)):
            trace, status, seconds, cost = row.split()[:4]
            created = datetime.datetime.now(datetime.timezone.utc)
            self.server.add_trace(
                project=self.project, id=trace, name="agent-name" if age == 2 else "other",
                status=status, duration_ms=round(float(seconds.strip("s")) * 1000),
                cost=float(cost.strip("$")), scores=[], spans=[],
                created=created - datetime.timedelta(minutes=age))

    def replace(self, line):
        """A command line with its placeholders filled in; only IDs and addresses change."""
        project, server = self.project, self.server
        table = [
            (r"^\$ ", ""),
            (r"--project (<id>|<project-id>|abc123)", "--project " + project),
            (r"<org-id>", server.org),
            (r"<trace-id>", "a1b2c3d4-e5f6-7890-abcd-ef1234567890"),
            (r"<key-id>", self.resources["key"]),
            (r"<dataset-id>|(?<=datasets delete )<id>", self.resources["dataset"]),
            (r"<id>", self.resources["evaluator"]),
            (r"https://your-instance\.example\.com|https://twosignal\.internal\.company\.com",
             server.url),
        ]
        for pattern, filler in table:
            line = re.sub(pattern, filler, line)
        return line

    def bash(self, script, env=None, cwd=None):
        return run_command([BASH, "-c", script], merged(self.environment, env), cwd=cwd)

    def run_line(self, line, **kwargs):
        return self.bash(self.replace(line), **kwargs)

    def run_script(self, name, **kwargs):
        return self.bash("\n".join(read_script(name)), **kwargs)


class DocumentCoverage(unittest.TestCase):
    def test_each_command_line_is_tested(self):
        self.assertEqual(set(single_commands()), set(PRINTED) | IN_TERMINAL)

    def test_each_call_within_a_script_is_tested(self):
        text = "\n".join(line for name in SCRIPTS for line in read_script(name))
        calls = [line for line in read_document()
                 if "twosignal " in line and re.search(r"\$\(twosignal |^twosignal .*\\$", line)]
        self.assertEqual(len(calls), len(SCRIPTS))
        for call in calls:
            self.assertIn(call, text)

    def test_the_copy_has_the_documented_sections(self):
        lines = read_document()
        for heading in ("Authentication", "Configuration", "Global Options", "Commands",
                        "Output Formats", "Error Handling", "Scripting", "CI/CD Integration"):
            self.assertIn(heading, lines)


class DocumentedCommands(DocumentCase):
    def check(self, line):
        kwargs = {}
        if line.startswith("twosignal login --url"):
            kwargs["env"] = {"TWOSIGNAL_EMAIL": EMAIL, "TWOSIGNAL_PASSWORD": PASSWORD}
        elif not line.startswith("twosignal login"):
            self.log_in(EMAIL)
        result = self.run_line(line, **kwargs)
        self.assertOk(result)
        self.assertRegex(result.out, PRINTED[line])

    def test_login_prompts_for_email_and_password(self):
        output, code = pty_run([BASH, "-c", "twosignal login"],
                               [("mail", EMAIL + "\n"), ("assword", PASSWORD + "\n")],
                               self.environment)
        self.assertEqual(code, 0, output)
        self.assertNotIn(PASSWORD, output)
        self.assertEqual(self.state("session.json")["user_email"], EMAIL)
        self.assertEqual(self.state("config.json"), {"api_url": self.server.url})

    def test_from_top_to_bottom(self):
        """The blocks on authentication and organizations as one session, in order."""
        lines = [line for line in single_commands() if line not in IN_TERMINAL]
        start = lines.index("twosignal whoami")
        script = [self.replace(line) for line in lines[:start + 2] + ["twosignal orgs list"]]
        env = {"TWOSIGNAL_EMAIL": EMAIL, "TWOSIGNAL_PASSWORD": PASSWORD, "TWOSIGNAL_URL": None}
        script[0] += " --url " + self.server.url  # the default server is not for tests
        result = self.bash("\n".join(script), env)
        self.assertEqual(result.code, 4, result)
        self.assertIn("twosignal login", result.err)
        self.assertEqual(self.server.count("auth/login"), 2)
        self.assertEqual(self.server.count("auth/logout"), 1)


def _line_test(line):
    def test(self):
        self.check(line)
    test.__doc__ = line
    return test


for _number, _line in enumerate(PRINTED):
    _name = re.sub(r"\W+", "_", _line.replace("$ ", "")).strip("_")
    setattr(DocumentedCommands, f"test_line_{_number:02}_{_name}", _line_test(_line))


class DocumentedScripts(DocumentCase):
    def setUp(self):
        super().setUp()
        self.log_in(EMAIL)

    def test_error_check_finds_errors(self):
        result = self.run_script("error check")
        self.assertEqual((result.code, result.out, result.err),
                         (1, "Found 1 error traces\n", ""))

    def test_error_check_passes(self):
        project = self.server.add_project(name="No errors")
        self.server.add_trace(project=project, status="OK")
        result = self.run_script("error check", env={"PROJECT_ID": project})
        self.assertEqual((result.code, result.out, result.err), (0, "", ""))

    def gate(self, *values):
        project = self.server.add_project(name="Scored")
        for number, value in enumerate(values):
            scores = [{"evaluatorName": "Quality", "value": 0.93, "label": None,
                       "reasoning": None},
                      {"evaluatorName": "Tone", "value": value, "label": None,
                       "reasoning": None}]
            self.server.add_trace(project=project, name=f"trace {number}", scores=scores)
        return self.run_script("score gate", env={"PROJECT_ID": project})

    def test_score_gate_passes(self):
        result = self.gate(0.5, 0.8, 1.0)
        self.assertEqual((result.code, result.out, result.err), (0, "", ""))

    def test_score_gate_fails_on_scores_that_are_not_in_the_list(self):
        result = self.gate(0.8, 0.41, 0.0, 1.0)
        self.assertEqual((result.code, result.out, result.err),
                         (1, "Found 2 traces with low evaluator scores\n", ""))

    def test_deployment_key(self):
        folder = self.path("deployment")
        os.mkdir(folder)
        path = os.path.join(folder, ".env.production")
        with open(path, "w") as file:
            file.write("MODE=production\n")
        result = self.run_script("deployment key", cwd=folder)
        self.assertEqual((result.code, result.out, result.err), (0, "", ""))
        with open(path) as file:
            first, second = file.read().splitlines()
        self.assertEqual(first, "MODE=production")
        self.assertRegex(second, r"^TWOSIGNAL_API_KEY=\w{16,}$")
        self.assertEqual(self.status_with_key(second.split("=")[1]), 200)
        self.assertRegex(self.server.rows("api_keys")[-1]["name"],
                         r"^deploy-\d{8}-\d{6}$")

    def status_with_key(self, key):
        request = urllib.request.Request(self.server.url + "/api/v1/traces",
                                         headers={"Authorization": "Bearer " + key})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            return response.status

    def usage(self, traces):
        self.server.set_plan(self.server.org, "PRO")
        self.server.set_usage(self.server.org, None, traces=traces, spans=180000, evals=900)
        return self.run_script("usage check")

    def test_usage_check_below_the_limit(self):
        result = self.usage(45000)
        self.assertEqual((result.code, result.out, result.err), (0, "Usage: 90.0%\n", ""))

    def test_usage_check_near_the_limit(self):
        result = self.usage(46000)
        self.assertEqual((result.code, result.out, result.err),
                         (1, "Usage: 92.0%\nWARNING: approaching trace limit\n", ""))


class DocumentedExamples(DocumentCase):
    def setUp(self):
        super().setUp()
        self.log_in(EMAIL)

    def test_table(self):
        documented = example("$ twosignal traces list --project abc123")
        result = self.cli("traces", "list", "--project", self.project, columns=76)
        self.assertOk(result, err="")
        heading, rule, *rows = result.lines
        self.assertEqual(heading.split(), documented[0].split())
        self.assertEqual([re.split(r" {2,}", row) for row in rows],
                         [re.split(r" {2,}", row) for row in documented[2:]])
        self.assertEqual(set(rule), {"─"})
        self.assertGreaterEqual(len(rule), max(map(len, [heading] + rows)))
        self.assertLessEqual(len(rule), 76)
        for line in result.lines:
            self.assertEqual(line, line.rstrip())

    def test_table_columns_begin_under_their_headings(self):
        result = self.cli("traces", "list", "--project", self.project, columns=76)
        heading, rule, *rows = self.assertOk(result).lines
        starts = [heading.index(word) for word in heading.split()]
        for row in rows:
            for start in starts[1:]:
                self.assertEqual(row[start - 2:start], "  ", row)
                self.assertNotEqual(row[start], " ", row)

    def test_json_has_the_documented_keys_in_their_order(self):
        documented = example("$ twosignal traces list --project abc123 --json")
        keys = re.findall(r'"(\w+)":', "\n".join(documented))
        result = self.cli("traces", "list", "--project", self.project, "--json")
        records = self.assertOk(result, err="").json
        self.assertEqual(len(records), 3)
        for record in records:
            self.assertEqual(list(record)[:len(keys)], keys)
            self.assertRegex(record["created_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
        shown = {key: records[0][key] for key in keys[:4]}
        self.assertEqual(shown, {"id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890", "status": "OK",
                                 "duration_ms": 1200, "cost_usd": 0.003})

    def test_usage_has_the_documented_keys(self):
        record = self.assertOk(self.cli("usage", "--org", self.server.org, "--json")).json
        self.assertLessEqual({"traces_used", "traces_limit"}, set(record))


class ErrorTable(DocumentCase):
    """The five documented errors: the line starts with the name, and the fix follows."""

    shown = {
        "Authentication expired": "Run twosignal login again",
        "Project not found": "Check the ID with twosignal projects list",
        "Rate limited": "Wait a few seconds and retry",
        "Connection refused": "Check your --url or TWOSIGNAL_URL setting",
        "Permission denied": "Contact your organization admin",
    }

    def setUp(self):
        super().setUp()
        self.log_in(EMAIL)

    def check(self, name, code, *args):
        result = self.cli(*args)
        self.assertFails(result, code)
        self.assertEqual(len(result.err.splitlines()), 1, result)
        self.assertTrue(result.err.startswith(f"Error: {name}"), result)
        plain = re.sub("['\"`]", "", result.err).lower()
        self.assertIn(self.shown[name].lower(), plain)
        error = self.cli(*args + ("--json",)).error
        self.assertTrue(error["message"].startswith(name), error)
        self.assertEqual(error["exit_code"], code)
        self.assertEqual(list(error), ["code", "message", "hint", "exit_code"])

    def test_the_table_has_these_rows(self):
        lines = read_document()
        start = lines.index("ErrorCauseFix") + 1
        rows = lines[start:lines.index("", start)]
        self.assertEqual(len(rows), len(self.shown))
        for row, (name, fix) in zip(rows, self.shown.items()):
            self.assertTrue(row.startswith(name) and row.endswith(fix), row)

    def test_authentication_expired(self):
        self.server.revoke(EMAIL)
        self.check("Authentication expired", 4, "orgs", "list")

    def test_project_not_found(self):
        self.check("Project not found", 6, "traces", "list", "--project", "nope")

    def test_project_that_the_account_may_not_see(self):
        self.check("Project not found", 6, "traces", "list", "--project", self.server.hidden)

    def test_rate_limited(self):
        self.server.fault("organization.list", times=None, status=429, body={
            "error": {"json": {"message": "Too many requests", "code": -32029, "data": {
                "code": "TOO_MANY_REQUESTS", "httpStatus": 429, "path": "organization.list"}}}})
        self.check("Rate limited", 7, "orgs", "list")

    def test_connection_refused(self):
        self.environment["TWOSIGNAL_URL"] = self.move_to_closed_port()
        self.check("Connection refused", 3, "orgs", "list")

    def test_permission_denied(self):
        self.log_in("viewer@example.com")
        self.check("Permission denied", 5, "datasets", "create",
                   "--project", self.server.project, "-n", "x")


class DocumentedFiles(DocumentCase):
    """Where the documentation says that the session and the configuration are."""

    def setUp(self):
        super().setUp()
        del self.environment["TWOSIGNAL_HOME"]
        del self.environment["TWOSIGNAL_URL"]
        self.home = self.path(".twosignal")

    def test_login_creates_both_files_under_home(self):
        line = "twosignal login --url https://twosignal.internal.company.com"
        result = self.run_line(line, env={"TWOSIGNAL_EMAIL": EMAIL,
                                          "TWOSIGNAL_PASSWORD": PASSWORD})
        self.assertOk(result)
        self.assertEqual(self.state("config.json"), {"api_url": self.server.url})
        session = self.state("session.json")
        self.assertIsInstance(session["expires_at"], int)
        for key in ("access_token", "refresh_token", "user_id", "user_email", "project_ref"):
            self.assertIsInstance(session[key], str)
        self.assertIn("Acme 東京", self.assertOk(self.bash("twosignal orgs list")).out)
        self.assertOk(self.bash("twosignal logout"))
        self.assertIsNone(self.state("session.json"))
        self.assertEqual(self.state("config.json"), {"api_url": self.server.url})

    def test_config_file_written_by_hand(self):
        lines = read_document()
        start = lines.index("{")
        config = json.loads("\n".join(lines[start:lines.index("}", start) + 1]))
        self.assertEqual(config, {"api_url": "https://app.twosignal.dev"})
        os.mkdir(self.home)
        self.write(".twosignal/config.json", dict(config, api_url=self.server.url))
        self.assertOk(self.run_cli("login", "-e", EMAIL, "-p", PASSWORD))
        self.assertEqual(self.server.count("auth/login"), 1)
        self.assertEqual(self.state("config.json"), {"api_url": self.server.url})

    def test_expired_access_token_is_refreshed(self):
        os.mkdir(self.home)
        session = dict(self.server.tokens(EMAIL), api_url=self.server.url, expires_at=1)
        self.server.expire(EMAIL)
        self.write(".twosignal/session.json", session)
        self.write(".twosignal/config.json", {"api_url": self.server.url})
        self.assertOk(self.run_cli("orgs", "list"), err="")
        self.assertEqual(self.server.count("auth/refresh"), 1)
        self.assertNotEqual(self.state("session.json")["refresh_token"], session["refresh_token"])


class AddressPriority(Case):
    """--url, then TWOSIGNAL_URL, then the config file, then the default."""

    def setUp(self):
        super().setUp()
        self.seen = []
        self.proxy = self.listen()

    def listen(self):
        """Starts a proxy that records each request's target and refuses it; returns its URL."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        thread = threading.Thread(target=self.refuse, args=(listener,), daemon=True)
        thread.start()
        address = listener.getsockname()
        self.addCleanup(thread.join)
        self.addCleanup(listener.close)
        self.addCleanup(self.end, address)
        return "http://127.0.0.1:{}".format(address[1])

    def refuse(self, listener):
        while True:
            connection = listener.accept()[0]
            with connection:
                head = connection.recv(65536)
                if head == b"end":
                    return
                self.seen.append(head.split(b"\r\n")[0].decode("latin-1"))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n"
                                   b"Connection: close\r\n\r\n")

    def end(self, address):
        with socket.create_connection(address) as connection:
            connection.sendall(b"end")

    def target(self, *args, env=None):
        """The host that a login would be sent to."""
        variables = dict(dict.fromkeys(("https_proxy", "http_proxy", "HTTPS_PROXY"), self.proxy),
                         NO_PROXY=None, **(env or {}))
        result = self.run_cli("login", "-e", EMAIL, "-p", PASSWORD, *args, env=variables)
        self.assertNotEqual(result.code, 0, result)
        self.assertNotIn("Traceback", result.err)
        self.assertIsNone(self.state("session.json"))
        hosts = {re.sub(r"^\w+ (https?://)?([^/ :]+).*", r"\2", line) for line in self.seen}
        del self.seen[:]
        self.assertEqual(len(hosts), 1, result)
        return hosts.pop()

    def config(self):
        self.write("home/config.json", {"api_url": "https://config.example.com"})

    def test_default(self):
        self.assertEqual(self.target(), "app.twosignal.dev")

    def test_config_before_default(self):
        self.config()
        self.assertEqual(self.target(), "config.example.com")

    def test_variable_before_config(self):
        self.config()
        env = {"TWOSIGNAL_URL": "https://variable.example.com"}
        self.assertEqual(self.target(env=env), "variable.example.com")

    def test_option_before_variable(self):
        self.config()
        env = {"TWOSIGNAL_URL": "https://variable.example.com"}
        self.assertEqual(self.target("--url", "https://option.example.com", env=env),
                         "option.example.com")

    def test_empty_variable_counts_as_unset(self):
        self.config()
        self.assertEqual(self.target(env={"TWOSIGNAL_URL": ""}), "config.example.com")
