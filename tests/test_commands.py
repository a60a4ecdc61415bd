"""The section Commands: login and logout, names in place of IDs, evaluators, usage, api."""
import json
import os
import re
import shlex
import xml.etree.ElementTree
from unittest import mock

import procedures
import standin
import twosignal
from tools import (DIALECTS, NEW, OLD, OWNER, PASSWORD, CommandCase, KeyCase, ServerCase,
                   TracesCase, procedure_inputs, requests_of, trpc_answer, trpc_error)

PASSWORD_WARNING = ("Warning: others see --password. "
                    "Use --password-stdin or TWOSIGNAL_PASSWORD.\n")


class LoginAndLogout(ServerCase):
    def setUp(self):
        super().setUp()
        self.environment["TWOSIGNAL_URL"] = self.server.url

    def assertLoggedIn(self, result):
        self.assertOk(result)
        session = self.state("session.json")
        self.assertEqual(session["user_email"], OWNER)
        self.assertEqual(session["api_url"], self.server.url)
        self.assertIsInstance(session["expires_at"], int)
        for secret in (session["access_token"], session["refresh_token"], PASSWORD):
            self.assertNotIn(secret, result.out + result.err)
        return result

    def test_options(self):
        result = self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD))
        self.assertEqual(result.err, PASSWORD_WARNING)
        self.assertIn(OWNER, result.out)
        long = self.run_cli("login", "--email", OWNER, "--password", PASSWORD)
        self.assertLoggedIn(long)
        self.assertEqual(long.err, PASSWORD_WARNING)

    def test_environment(self):
        env = {"TWOSIGNAL_EMAIL": OWNER, "TWOSIGNAL_PASSWORD": PASSWORD}
        self.assertLoggedIn(self.run_cli("login", env=env))
        self.assertEqual(self.run_cli("login", env=env).err, "")
        seen = self.run_cli("login", "-p", PASSWORD, env=env)
        self.assertEqual(seen.err, PASSWORD_WARNING)

    def test_options_win_over_the_environment(self):
        env = {"TWOSIGNAL_EMAIL": "nobody@example.com", "TWOSIGNAL_PASSWORD": "wrong"}
        self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD, env=env))

    def test_password_from_stdin(self):
        for stdin in (PASSWORD + "\n", PASSWORD, PASSWORD + "\r\n", PASSWORD + "\nmore\n",
                      "\ufeff" + PASSWORD + "\r\n"):
            with self.subTest(stdin=stdin):
                result = self.run_cli("login", "-e", OWNER, "--password-stdin", stdin=stdin)
                self.assertLoggedIn(result)
                self.assertEqual(result.err, "")

    def test_empty_stdin(self):
        self.assertFails(self.run_cli("login", "-e", OWNER, "--password-stdin", stdin=""), 2,
                         "empty")
        self.assertEqual(self.server.requests, [])

    def test_json(self):
        result = self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "--password-stdin",
                                                  "--json", stdin=PASSWORD + "\n"))
        self.assertEqual(list(result.json), ["email", "user_id", "api_url", "expires_at"])
        self.assertEqual(result.json["email"], OWNER)
        self.assertEqual(result.json["api_url"], self.server.url)

    def test_prompts_in_a_terminal(self):
        output, code = self.run_terminal("login", script=[("mail", OWNER + "\n"),
                                                          ("assword", PASSWORD + "\n")])
        self.assertEqual(code, 0, output)
        self.assertNotIn(PASSWORD, output)
        self.assertEqual(self.state("session.json")["user_email"], OWNER)

    def test_no_answer_in_a_terminal(self):
        """Enter or Ctrl-D: what the question was, and how to do without it."""
        for argv, question, option in (([], "Email", "--email"),
                                       (["-e", OWNER],
                                        "Password for %s at %s" % (OWNER, self.server.url),
                                        "--password-stdin")):
            for keys in ("\n", "\x04"):
                with self.subTest(question=question, keys=keys):
                    output, code = self.run_terminal("login", *argv, script=[(question, keys)],
                                                     columns=200)
                    self.assertEqual(code, 2, output)
                    self.assertIn("Error: No answer to '%s'. Pass %s" % (question, option), output)
        self.assertEqual(self.server.requests, [])

    def test_no_prompt_without_a_terminal(self):
        for argv, part in (([], "--email"), (["-e", OWNER], "--password-stdin")):
            for more in ([], ["--json"]):
                with self.subTest(argv=argv, more=more):
                    self.assertFails(self.run_cli("login", *argv + more), 2, part)
        self.assertEqual(self.server.requests, [])

    def test_wrong_password_changes_nothing(self):
        self.assertFails(self.run_cli("login", "-e", OWNER, "-p", "wrong", "-q"), 4)
        self.assertEqual(os.listdir(self.home), ["session.lock"])
        self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD))
        before = self.state("session.json"), self.state("config.json")
        self.assertFails(self.run_cli("login", "-e", OWNER, "-p", "wrong", "--url",
                                      self.server.url + "/api"), 4)
        self.assertEqual((self.state("session.json"), self.state("config.json")), before)

    def test_config_is_written_if_missing_or_with_url(self):
        other = "https://other.example.com"
        self.write("home/config.json", {"api_url": other, "future_key": 1})
        self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD))
        self.assertEqual(self.state("config.json"), {"api_url": other, "future_key": 1})
        self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "-p", PASSWORD, "--url",
                                         self.server.url))
        self.assertEqual(self.state("config.json"),
                         {"api_url": self.server.url, "future_key": 1})

    def test_projects_follow(self):
        """What there is, and the command to type next; it works as it stands."""
        result = self.assertLoggedIn(self.run_cli("login", "-e", OWNER, "--password-stdin",
                                                  stdin=PASSWORD))
        self.assertEqual(result.err, "")
        self.assertIn("\n\nProjects\n%s  Support Agent\n" % self.server.project, result.out)
        step = result.lines[-1].partition("To choose one: twosignal ")[2]
        self.assertEqual(step, "projects use " + self.server.project)
        self.assertOk(self.run_cli(*shlex.split(step)))
        self.assertEqual(self.state("config.json")["project"], self.server.project)

    def test_nothing_follows_in_other_formats(self):
        for options in (["--json"], ["--format", "csv"], ["--format", "jsonl"]):
            self.server.clear()
            self.assertOk(self.run_cli("login", "-e", OWNER, "--password-stdin", *options,
                                       stdin=PASSWORD), err="")
            self.assertEqual([request.path for request in self.server.requests],
                             ["/api/v1/auth/login"])

    def test_projects_that_cannot_be_listed(self):
        """The login stands, and the reason is in their place."""
        for fault in ({"status": 500}, {"status": 401}, {"reset": True}, {"garbage": b"<html>"}):
            for procedure in ("organization.list", "project.list"):
                with self.subTest(fault=fault, procedure=procedure):
                    self.server.clear()
                    self.server.fault(procedure, times=None, **fault)
                    result = self.assertLoggedIn(self.run_cli(
                        "login", "-e", OWNER, "--password-stdin", stdin=PASSWORD))
                    self.assertEqual(result.err, "")
                    self.assertRegex(result.out, r"\n\nProjects\n[A-Z].+\.\n\Z")

    def test_a_reason_that_holds_a_secret(self):
        """Rows 35, 63: what the server says of its projects is masked and escaped on stdout."""
        for procedure in ("organization.list", "project.list"):
            self.server.clear()
            self.server.fault(procedure, times=None, status=400, body=trpc_error(
                "BAD_REQUEST", 400, "\x1b[31m" + PASSWORD))
            result = self.assertLoggedIn(self.run_cli(
                "login", "-e", OWNER, "--password-stdin", stdin=PASSWORD))
            self.assertIn("\n\nProjects\nThe server refused: \\x1b[31m***", result.out)

    def test_account_without_projects(self):
        """It is told how to create the first one."""
        org = self.server.add_org("Empty")
        self.server.add_account("new@example.com", "pw", {org: "OWNER"})
        self.server.add_account("newer@example.com", "pw")
        for email, step in (("new@example.com", "projects create NAME --org " + org),
                            ("newer@example.com", "orgs create NAME")):
            result = self.assertOk(self.run_cli("login", "-e", email, "--password-stdin",
                                                stdin="pw"), err="")
            self.assertEqual(result.lines[-2:], [
                "Projects", "None yet. To create one: twosignal " + step])

    def test_whoami(self):
        self.log_in()
        result = self.assertOk(self.cli("whoami"), err="")
        self.assertIn(OWNER, result.out)
        self.assertIn(self.server.url, result.out)
        self.assertGreater(len(self.server.requests), 0)
        record = self.assertOk(self.cli("whoami", "--json"), err="").json
        self.assertEqual(list(record)[:4], ["email", "user_id", "api_url", "expires_at"])
        session = self.state("session.json")
        self.assertEqual((record["email"], record["user_id"]), (OWNER, session["user_id"]))

    def test_whoami_without_a_valid_session(self):
        self.assertFails(self.cli("whoami"), 4, "twosignal login")
        self.log_in()
        self.server.revoke(OWNER)
        self.assertFails(self.cli("whoami"), 4, "Authentication expired", out=OWNER)

    def test_session_of_another_address(self):
        self.log_in()
        other = self.serve()
        for command in (["whoami"], ["orgs", "list"]):
            self.assertFails(self.cli(*command, "--url", other.url), 4, other.url)
        self.assertEqual(other.requests, [])
        self.assertIsNotNone(self.state("session.json"))

    def test_logout(self):
        session = self.log_in()
        self.assertOk(self.cli("logout"), err=None)
        self.assertIsNone(self.state("session.json"))
        request, = requests_of(self.server, "auth/logout")
        self.assertEqual(request.headers.get("Authorization"),
                         "Bearer " + session["access_token"])
        self.assertFails(self.cli("orgs", "list"), 4)
        self.write("home/session.json", session)
        self.assertFails(self.cli("orgs", "list"), 4)

    def test_logout_as_json(self):
        self.log_in()
        self.assertIsInstance(self.assertOk(self.cli("logout", "--json"), err="").json, dict)

    def test_logout_if_the_server_fails(self):
        for fault in ({"status": 500, "body": "oops"}, {"reset": True}, {"garbage": b"<html>"},
                      {"status": 429, "body": ""}):
            with self.subTest(fault=fault):
                self.log_in()
                self.server.fault("auth/logout", times=None, **fault)
                result = self.assertOk(self.cli("logout"))
                self.server.clear()
                self.assertIn("Logged out locally; could not revoke the session: ", result.err)
                self.assertIsNone(self.state("session.json"))

    def test_logout_if_the_server_is_down(self):
        self.log_in()
        self.server.stop()
        result = self.assertOk(self.cli("logout"))
        self.assertIn("Logged out locally; could not revoke the session: "
                      "Connection refused", result.err)
        self.assertIsNone(self.state("session.json"))

    def test_logout_of_an_ended_session_is_no_failure(self):
        self.log_in()
        self.server.revoke(OWNER)
        self.assertOk(self.cli("logout"))
        self.assertIsNone(self.state("session.json"))

    def test_logout_without_a_session(self):
        self.assertOk(self.cli("logout"))

    def test_logout_of_a_damaged_session(self):
        self.log_in()
        self.write("home/session.json", b"{")
        self.assertOk(self.cli("logout"))
        self.assertIsNone(self.state("session.json"))

    def test_output_never_contains_the_session(self):
        session = self.log_in()
        for argv in (["whoami"], ["whoami", "--json"], ["whoami", "--debug"],
                     ["logout", "--debug"]):
            result = self.assertOk(self.cli(*argv))
            for secret in (session["access_token"], session["refresh_token"]):
                self.assertNotIn(secret, result.out + result.err)


class DefaultProject(CommandCase):
    """What `projects use` saves."""

    def setUp(self):
        super().setUp()
        for name in ("TWOSIGNAL_PROJECT", "TWOSIGNAL_ORG"):
            del self.environment[name]
        self.other_org = self.server.add_org("Other Inc")
        self.other = self.server.add_project("Other Agent", self.other_org)

    def use(self, *argv):
        return self.assertOk(self.cli("projects", "use", *argv))

    def asked_for(self):
        """The project of each request for traces."""
        return [given["projectId"] for given in procedure_inputs(self.server, "trace.list")]

    def test_by_name_or_id(self):
        """In any organization, or one; with its organization, and nothing else is changed."""
        self.write("home/config.json", {"api_url": self.server.url, "ca_cert": "/x", "theme": 1})
        for argv in (["Other Agent"], [self.other], [self.other.upper()],
                     ["https://app.example/projects/%s" % self.other],
                     ["Other Agent", "--org", "Other Inc"]):
            with self.subTest(argv=argv):
                self.use("Support Agent")
                result = self.use(*argv)
                self.assertIn("Other Agent", result.out)
                self.assertEqual(self.state("config.json"), {
                    "api_url": self.server.url, "ca_cert": "/x", "theme": 1,
                    "project": self.other, "org": self.other_org})
        record = self.assertOk(self.cli("projects", "use", "Other Agent", "--json"), err="").json
        self.assertEqual((record["id"], record["organization_name"]), (self.other, "Other Inc"))

    def test_stands_in_for_both_options(self):
        self.use("Other Agent")
        self.server.clear()
        self.assertOk(self.cli("traces", "list"))
        self.assertOk(self.cli("usage"))
        self.assertOk(self.cli("evaluators", "list", "--json"))
        self.assertEqual([request.procedures for request in self.server.requests],
                         [["trace.list"], ["organization.list"], ["project.list"],
                          ["usage.getCurrentMonth"], ["evaluator.list"]])
        self.assertEqual(self.asked_for(), [self.other])
        self.assertEqual(procedure_inputs(self.server, "usage.getCurrentMonth"),
                         [{"organizationId": self.other_org}])

    def test_options_and_variables_win(self):
        self.use("Other Agent")
        self.server.clear()
        self.cli("traces", "list", "--project", self.server.project)
        self.cli("traces", "list", "--project", "Support Agent")    # of another organization
        self.cli("traces", "list", env={"TWOSIGNAL_PROJECT": self.server.project})
        self.cli("traces", "list", env={"TWOSIGNAL_PROJECT": ""})
        self.assertEqual(self.asked_for(), [self.server.project] * 3 + [self.other])
        result = self.cli("projects", "use", "Other Agent", env={"TWOSIGNAL_PROJECT": "x"})
        self.assertOk(result, err="Note: TWOSIGNAL_PROJECT is set and takes precedence.\n")

    def test_restricts_no_list(self):
        """Neither the list of projects, nor where `projects use` and --project find them."""
        self.use("Other Agent")
        rows = self.assertOk(self.cli("projects", "list", "--json"), err="").json
        self.assertEqual([row["name"] for row in rows], ["Support Agent", "Other Agent"])
        self.use("Support Agent")

    def test_api_key_selects_its_project(self):
        self.use("Other Agent")
        self.server.clear()
        key = {"TWOSIGNAL_API_KEY": self.server.secret(self.server.keys[0])}
        self.assertOk(self.cli("traces", "list", env=key), err="")
        self.assertEqual([request.path.partition("?")[0] for request in self.server.requests],
                         ["/api/v1/traces"])
        self.assertOk(self.cli("evaluators", "list", env=key))      # which needs the account

    def test_belongs_to_the_server(self):
        """At another address it is not used, and not kept by a login there."""
        self.use("Other Agent")
        other = self.serve()
        for given in (["--url", other.url], [], ["--url", self.server.url]):
            env = {} if given else {"TWOSIGNAL_URL": other.url}
            result = self.cli("traces", "list", *given, env=env)
            if self.server.url in given:
                self.assertOk(result)
            else:
                self.assertFails(result, 2, "No project given")
        self.assertEqual(requests_of(other, "trace"), [])
        login = ["login", "-e", OWNER, "--password-stdin", "--url"]
        self.assertOk(self.cli(*login, self.server.url, stdin=PASSWORD))
        self.assertEqual(self.state("config.json")["project"], self.other)
        self.assertOk(self.cli(*login, other.url, stdin=PASSWORD))
        self.assertEqual(self.state("config.json"), {"api_url": other.url})

    def test_address_as_it_may_be_written(self):
        self.write("home/config.json", {"api_url": self.server.url + "/login/", "ca_cert": "/x"})
        self.use("Other Agent")
        self.assertEqual(self.state("config.json")["ca_cert"], "/x")
        self.write("home/config.json", dict(self.state("config.json"),
                                            api_url=self.server.url.upper() + "/api"))
        self.assertOk(self.cli("traces", "list"))

    def test_a_project_that_is_gone(self):
        """The error names what chose it, if no option did."""
        self.use("Other Agent")
        gone = "99999999-9999-4999-8999-999999999999"
        self.write("home/config.json", dict(self.state("config.json"), project=gone))
        hint = "Also check 'twosignal projects use'."
        for argv in (["traces", "list"], ["traces", "check", "--max-p95", "1s"],
                     ["evaluators", "list"], ["traces", "tail"]):
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv), 6, "Project not found. Check the ID with "
                                 "'twosignal projects list'. " + hint)
        for argv, end in ((["--project", gone], "projects list'.\n"),
                          ([], "projects list'. Also check TWOSIGNAL_PROJECT.\n")):
            result = self.cli("traces", "list", *argv, env={"TWOSIGNAL_PROJECT": gone})
            self.assertFails(result, 6)
            self.assertTrue(result.err.endswith(end), result)

    def test_what_does_not_exist_is_not_saved(self):
        before = self.state("config.json")
        for argv, hint in ((["nope"], "'twosignal projects list'"), ([self.server.org], "projects"),
                           (["support agent"], "Did you mean 'Support Agent'?"),
                           (["Support Agent", "--org", "Other Inc"], "'twosignal projects list'"),
                           ([self.server.hidden], "'twosignal projects list'")):
            with self.subTest(argv=argv):
                self.assertFails(self.cli("projects", "use", *argv), 6, "Project not found", hint)
        self.server.add_project("Other Agent")
        self.assertFails(self.cli("projects", "use", "Other Agent"), 2, self.other)
        self.assertEqual(self.state("config.json"), before)

    def test_values_that_are_no_projects(self):
        """A config file with other types is damaged; an empty text counts as unset."""
        for value, code in ((5, 1), ("", 2)):
            self.write("home/config.json", {"api_url": self.server.url, "project": value})
            self.assertFails(self.cli("traces", "list"), code)
        self.write("home/config.json", {"api_url": self.server.url, "project": "Other Agent"})
        self.assertOk(self.cli("traces", "list"))

    def test_list_of_all_organizations(self):
        """In a table with the organization's name; --org and TWOSIGNAL_ORG filter it."""
        result = self.assertOk(self.cli("projects", "list"), err="")
        self.assertEqual(result.lines[0].split(), ["ID", "Created", "Organization", "Name"])
        self.assertRegex(result.out, r"Acme 東京 +Support Agent\n.* Other Inc +Other Agent\n\Z")
        for argv, env in ((["--org", "Other Inc"], {}), (["--org", self.other_org], {}),
                          ([], {"TWOSIGNAL_ORG": "Other Inc"})):
            result = self.assertOk(self.cli("projects", "list", *argv, env=env), err="")
            self.assertEqual(result.lines[0].split(), ["ID", "Created", "Name"])
            self.assertEqual([line.split()[0] for line in result.lines[2:]], [self.other])
        self.server.clear()
        self.cli("projects", "list")
        self.assertEqual([request.procedures for request in self.server.requests],
                         [["organization.list"], ["project.list", "project.list"]])


NAMES = {"PROJECT": "Support Agent", "ORG": "Acme 東京", "EVALUATOR": "Has JSON",
         "DATASET": "Test Cases"}
BY_NAME = (                 # command lines with names in capitals, and requests to look them up
    ("traces list --project PROJECT", 2), ("traces check --project PROJECT --max-p95 9h", 2),
    ("traces wait --project PROJECT", 2), ("traces get TRACE --project PROJECT", 2),
    ("evaluators list --project PROJECT", 2), ("datasets list --project PROJECT", 2),
    ("api-keys list --project PROJECT", 2), ("projects list --org ORG", 1),
    ("projects create New --org ORG", 1), ("usage --org ORG", 1),
    ("evaluators get EVALUATOR --project PROJECT", 3),
    ("evaluators update EVALUATOR --project PROJECT --disable", 3),
    ("evaluators toggle EVALUATOR --project PROJECT --disable", 3),
    ("evaluators delete EVALUATOR --project PROJECT -y", 3),
    ("datasets get DATASET --project PROJECT", 3),
    ("datasets add-item DATASET --project PROJECT --input 1", 3),
    ("datasets export DATASET --project PROJECT", 3),
    ("datasets add-trace TRACE --dataset DATASET --project PROJECT", 3),
    ("datasets delete DATASET --project PROJECT -y", 3))


class NamesForIds(TracesCase):
    options = {}

    def line(self, text, names):
        words = dict(names, TRACE=self.server.traces[0])
        return [words.get(word, word) for word in text.split()]

    def ids(self):
        return {"PROJECT": self.server.project, "ORG": self.server.org,
                "EVALUATOR": self.server.evaluators[0], "DATASET": self.server.datasets[0]}

    def asked(self):
        return [request.procedures for request in self.server.requests]

    def changes(self, ids):
        """The bodies of the mutations that were called, with a word for each ID."""
        found = json.dumps([request.body for request in self.server.requests
                            if request.method == "POST"])
        for word, one in ids.items():
            found = found.replace(one, word)
        return found

    def test_everywhere_in_both_dialects(self):
        for dialect, options in DIALECTS:
            seen = []
            for given in (None, NAMES):
                self.use(created="2026-03-14T10:30:00Z", **options)
                ids, given = self.ids(), given or self.ids()
                for text, _ in BY_NAME:
                    self.server.clear()
                    with self.subTest(dialect=dialect, line=text, by_id=given == ids):
                        self.assertOk(self.cli(*self.line(text, given)))
                    seen.append((self.asked(), self.changes(ids)))
            half = len(BY_NAME)
            for (text, lookups), by_id, by_name in zip(BY_NAME, seen[:half], seen[half:]):
                with self.subTest(dialect=dialect, line=text):
                    self.assertEqual(by_name[1], by_id[1])
                    for asked in by_id[0]:
                        self.assertIn(asked, by_name[0])
                    self.assertLessEqual(len(by_name[0]) - len(by_id[0]), lookups)

    def test_a_uuid_needs_no_lookup(self):
        for text, _ in BY_NAME:
            self.server.clear()
            with self.subTest(line=text):
                self.cli(*self.line(text, self.ids()))
                procedures = sum(self.asked(), [])
                self.assertEqual(procedures.count("project.list"),
                                 int(text.startswith(("projects list", "usage"))))
                self.assertEqual(procedures.count("organization.list"),
                                 int(text.startswith("usage")))
                for group in ("evaluator", "dataset"):
                    is_listed = text.startswith((group + "s list", group + "s get EVALUATOR"))
                    self.assertEqual(procedures.count(group + ".list"), int(is_listed))
        upper = self.server.project.upper()
        self.server.clear()
        self.cli("traces", "list", "--project", upper)
        self.assertEqual(self.asked(), [["trace.list"]])

    def test_forms_of_a_uuid(self):
        """In capitals, among blanks, or last in a pasted address, it is sent as the plain UUID."""
        other = "99999999-9999-4999-8999-999999999999"
        forms = (str.upper, " {}\n".format, "https://app.example/projects/{}".format,
                 ("https://app.example/orgs/%s/x/{}?tab=%s#%s" % ((other,) * 3)).format,
                 lambda uuid: "HTTP://localhost:3000/#/x/%s/" % uuid.upper())
        ids = dict(self.ids(), TRACE=self.server.traces[0], KEY=self.server.keys[0])
        lines = [text for text, _ in BY_NAME if "wait" not in text]
        for text in lines + ["api-keys revoke KEY --project PROJECT -y"]:
            seen = []
            for form in (str,) + forms:
                self.server.clear()
                self.cli(*[form(ids[word]) if word in ids else word for word in text.split()])
                seen.append([(request.path, request.body) for request in self.server.requests])
            with self.subTest(line=text):
                self.assertEqual(seen[1:], seen[:1] * len(forms))

    def test_forms_of_a_uuid_with_a_key(self):
        trace, span = self.server.traces[0], "99999999-9999-4999-8999-999999999999"
        key = {"TWOSIGNAL_API_KEY": self.server.secret(self.server.keys[0])}
        self.server.clear()
        self.cli("scores", "create", "https://app.example/projects/%s/traces/%s" % (span, trace),
                 "--name", "x", "--value", "1", "--span", span.upper() + " ", env=key)
        body = self.server.requests[0].body
        self.assertEqual((body["traceId"], body["spanId"]), (trace, span))
        address = "https://app.example/projects/" + self.server.project
        self.assertOk(self.cli("traces", "list", "--project", address, env=key))
        other = self.server.project[:-1] + "f"
        for project, named in ((address[:-1] + "f", other), ("my-agent", "my-agent")):
            self.assertFails(self.cli("traces", "list", "--project", project, env=key), 2,
                             "'%s' is not the ID of the API key's project" % named,
                             "Omit --project and unset TWOSIGNAL_PROJECT")

    def test_a_name_stays_a_name(self):
        uuid = "99999999-9999-4999-8999-99999999999F"
        for name in ("Copy of " + uuid, uuid + "-2", "https://x/y", "Über/" + uuid):
            self.server.add_dataset(name=name)
            with self.subTest(name=name):
                record = self.assertOk(self.cli("datasets", "get", name, "--project",
                                                self.server.project, "--json")).json
                self.assertEqual(record["name"], name)

    def test_organization_of_a_project_in_capitals(self):
        env = {"TWOSIGNAL_ORG": " %s " % self.server.org.upper()}
        self.assertOk(self.cli("traces", "list", "--project", NAMES["PROJECT"], env=env))
        self.assertOk(self.cli("usage", "--fail-above", "100", env=env))

    def test_variables(self):
        for name, value in (("TWOSIGNAL_PROJECT", "PROJECT"), ("TWOSIGNAL_ORG", "ORG")):
            line = ("traces", "list") if value == "PROJECT" else ("projects", "list")
            by_id = self.assertOk(self.cli(*line, env={name: self.ids()[value]}))
            by_name = self.assertOk(self.cli(*line, env={name: NAMES[value]}))
            self.assertEqual(by_id.out, by_name.out)

    def test_two_of_a_name(self):
        project, org = self.server.add_project("Support Agent"), self.server.add_org("Acme 東京")
        evaluator = self.server.add_evaluator(name="Has JSON")
        dataset = self.server.add_dataset(name="Test Cases")
        others = {"PROJECT": project, "ORG": org, "EVALUATOR": evaluator, "DATASET": dataset}
        for text, _ in BY_NAME:
            for name in NAMES:
                if name not in text:
                    continue
                self.server.clear()
                with self.subTest(line=text, name=name):
                    names = dict(self.ids(), **{name: NAMES[name]})
                    self.assertFails(self.cli(*self.line(text, names)), 2, NAMES[name],
                                     self.ids()[name], others[name], "2 ")
                    self.assertEqual([request for request in self.server.requests
                                      if request.method == "POST"], [])
        result = self.cli("traces", "list", "--json", "--project", "Support Agent")
        self.assertIn(project, result.error["message"] + result.error["hint"])

    def test_projects_of_several_organizations(self):
        org = self.server.add_org("Second")
        here, there = self.server.add_project("Twin"), self.server.add_project("Twin", org)
        self.server.add_trace(there, name="there")
        self.assertFails(self.cli("traces", "list", "--project", "Twin"), 2, here, there)
        for given in (org, "Second"):
            result = self.cli("traces", "list", "--project", "Twin", "--json",
                              env={"TWOSIGNAL_ORG": given})
            self.assertEqual([row["name"] for row in self.assertOk(result).json], ["there"])
        self.server.add_project("Single", org)
        self.assertOk(self.cli("traces", "list", "--project", "Single"))

    def test_names_that_do_not_exist(self):
        """The error names the kind of resource that is missing, and the command that lists it."""
        for text, noun, command in (
                ("traces list --project Nowhere", "Project", "projects"),
                ("traces list --project Hidden\u00a0Project", "Project", "projects"),
                ("traces get x --project Nowhere", "Project", "projects"),
                ("traces get x --project PROJECT", "Trace", "traces"),
                ("evaluators create -n x --type CUSTOM --project Nowhere", "Project", "projects"),
                ("usage --org Nowhere", "Organization", "orgs"),
                ("projects list --org nowhere", "Organization", "orgs"),
                ("projects create x --org nowhere", "Organization", "orgs"),
                ("datasets get Nowhere --project PROJECT", "Dataset", "datasets"),
                ("datasets add-item Nowhere --input 1 --project PROJECT", "Dataset", "datasets"),
                ("datasets delete Nowhere --project PROJECT -y", "Dataset", "datasets"),
                ("evaluators toggle Nowhere --project PROJECT --enable", "Evaluator",
                 "evaluators"),
                ("evaluators toggle Nowhere --project PROJECT", "Evaluator", "evaluators"),
                ("evaluators delete Nowhere --project PROJECT -y", "Evaluator", "evaluators"),
                ("api-keys revoke Nowhere --project PROJECT -y", "API key", "api-keys"),
                ("api trace.getById --input {\"traceId\":\"x\"}", "Trace", "traces")):
            with self.subTest(line=text):
                line = [word.replace("\u00a0", " ") for word in text.split(" ")]
                line = [self.server.project if word == "PROJECT" else word for word in line]
                result = self.assertFails(self.cli(*line), 6)
                scope = f" --project {self.server.project}" if "PROJECT" in text else ""
                self.assertEqual(result.err, f"Error: {noun} not found. Check the ID with "
                                 f"'twosignal {command} list{scope}'.\n")

    def test_not_found_without_a_message(self):
        """What is missing follows from the procedure then."""
        ids = self.ids()
        for text, procedure, noun, command in (
                ("evaluators list --project PROJECT", "evaluator.list", "Evaluator", "evaluators"),
                ("datasets get DATASET --project PROJECT", "dataset.getById", "Dataset",
                 "datasets"),
                ("datasets delete DATASET --project PROJECT -y", "dataset.delete", "Dataset",
                 "datasets"),
                ("api-keys revoke KEY --project PROJECT -y", "apiKey.revoke", "API key",
                 "api-keys"),
                ("projects list --org ORG", "project.list", "Project", "projects"),
                ("usage --org ORG", "usage.getCurrentMonth", "Organization", "orgs")):
            self.server.fault(procedure, times=1, status=404,
                              body=trpc_error("NOT_FOUND", 404, message=""))
            with self.subTest(line=text):
                result = self.assertFails(self.cli(*self.line(text, ids)), 6)
                scope = f" --project {self.server.project}" if "PROJECT" in text else ""
                if command == "projects":
                    scope = f" --org {self.server.org}"
                self.assertEqual(result.err, f"Error: {noun} not found. Check the ID with "
                                 f"'twosignal {command} list{scope}'.\n")

    def test_trace_that_a_key_cannot_score(self):
        result = self.cli("scores", "create", "nowhere", "--name", "x", "--value", "1",
                          env=self.key())
        self.assertFails(result, 6, "Trace not found. Check the ID with 'twosignal traces list'.")

    def test_empty_names_are_refused(self):
        for option in ("--project", "--org"):
            command = ("traces", "list") if option == "--project" else ("projects", "list")
            self.assertFails(self.cli(*command + (option, "")), 2, option)

    def test_ids_that_are_not_uuids_and_names_like_ids(self):
        self.server.add_project("first", id="proj_1")
        self.server.add_project("proj_1")                       # the ID goes before the name
        self.server.add_trace("proj_1", name="here")
        result = self.cli("traces", "list", "--project", "proj_1", "--json")
        self.assertEqual([row["name"] for row in self.assertOk(result).json], ["here"])

    def test_hostile_names(self):
        for name in ("-x", "a/b?c&d=%41", '"quoted"', "\x1b[31mred", "🤖", "  "):
            project = self.server.add_project(name)
            self.server.add_trace(project, name="in " + repr(name))
            with self.subTest(name=name):
                result = self.cli("traces", "list", "--project=" + name, "--json")
                if name.strip():
                    self.assertEqual([row["name"] for row in self.assertOk(result).json],
                                     ["in " + repr(name)])
                else:
                    self.assertFails(result, 2, "--project")
        self.server.add_project("\x1b[31mred")
        result = self.cli("traces", "list", "--project", "\x1b[31mred")
        self.assertFails(result, 2)
        self.assertNotIn("\x1b", result.err)

    def test_confirmation_shows_what_the_name_stands_for(self):
        result = self.cli("datasets", "delete", "Test Cases", "--project", "Support Agent",
                          stdin="n\n", tty=True)
        self.assertEqual(result.code, 1, result)
        self.assertIn(self.server.datasets[0], result.err)
        self.assertEqual(len(self.server.rows("datasets")), 1)

    def test_failures_of_a_lookup(self):
        for what, code in ((dict(status=500), 8), (dict(reset=True), 3), (dict(status=401), 4)):
            self.server.clear()
            self.server.fault("project.list", times=None, **what)
            with self.subTest(what=what):
                self.assertFails(self.cli("traces", "list", "--project", "Support Agent"), code)
                self.assertEqual(self.server.count("trace.list"), 0)

    def test_malformed_rows(self):
        rows = [{"id": None, "name": "Odd"}, {"name": "Odd2"}, {"id": "p", "name": None}, {}]
        body = {"result": {"data": {"json": rows}}}
        for name in ("Odd", "Odd2", "None", "p"):
            self.server.clear()
            self.server.fault("project.list", times=None, status=200, body=body)
            with self.subTest(name=name):
                result = self.cli("traces", "list", "--project", name)
                self.assertFails(result, 6)

    def test_an_organization_that_the_account_may_not_see(self):
        """The project is looked up in the others."""
        self.log_in()
        other = self.server.add_org("Second")
        self.server.add_trace(project=self.server.add_project(name="In the second", org=other))
        real = self.server.world.see_org
        for options in (NEW, OLD):
            self.server.batching = options.get("batching", True)
            for code in ("FORBIDDEN", "NOT_FOUND"):
                def see_org(account, org, *roles):
                    if org == self.server.org:
                        raise standin.Refusal(code, "no")
                    return real(account, org, *roles)
                with mock.patch.object(self.server.world, "see_org", see_org):
                    result = self.cli("traces", "list", "--project", "In the second", "--json")
                self.assertEqual(len(self.assertOk(result).json), 1)

    def test_letters_with_accents_in_both_forms(self):
        self.log_in()
        for written, asked in (("Cafe\u0301", "Caf\u00e9"), ("\u00e9t\u00e9", "e\u0301te\u0301")):
            project = self.server.add_project(name=written)
            self.server.add_trace(project=project)
            self.assertEqual(len(self.assertOk(self.cli("traces", "list", "--project", asked,
                                                        "--json")).json), 1)

    def test_a_name_that_differs_in_case(self):
        self.log_in()
        self.assertFails(self.cli("traces", "list", "--project", "support agent"), 6,
                         "Project not found. Did you mean 'Support Agent'?")
        for line, hint in (
                ("usage --org acme\u00a0東京", "Organization not found. Did you mean 'Acme 東京'?"),
                ("evaluators delete HAS\u00a0json -y", "Evaluator not found. Did you mean "
                 "'Has JSON'?"),
                ("datasets get test\u00a0cases", "Dataset not found. Did you mean 'Test Cases'?")):
            words = [word.replace("\u00a0", " ") for word in line.split(" ")]
            result = self.cli(*words, env={"TWOSIGNAL_PROJECT": self.server.project})
            self.assertFails(result, 6, hint)
        self.assertFails(self.cli("traces", "list", "--project", "nobody's"), 6,
                         "Project not found. Check the ID")

    def test_an_empty_key_is_told_with_a_missing_project(self):
        """A job that gets no secret, such as one of a fork, has this variable, and it is empty."""
        env = {"TWOSIGNAL_API_KEY": "", "TWOSIGNAL_HOME": self.path("elsewhere")}
        result = self.cli("traces", "check", "--max-p95", "1s", env=env)
        self.assertFails(result, 2, "No project given", "Not logged in",
                         "TWOSIGNAL_API_KEY is empty")

    def test_a_key_cannot_look_up_names(self):
        """A gate must not pass on the project of the key if another one is meant."""
        self.server.add_trace()
        key = {"TWOSIGNAL_API_KEY": self.server.secret(self.server.keys[0])}
        for line in ("list", "check --max-cost 9", "wait --timeout 1s", "tail"):
            for given in ({"TWOSIGNAL_PROJECT": "Other Project"},
                          {"TWOSIGNAL_PROJECT": self.server.hidden}):
                self.server.clear()
                with self.subTest(line=line, given=given):
                    result = self.cli("traces", *line.split(), env=dict(key, **given))
                    self.assertFails(result, 2, "TWOSIGNAL_PROJECT")
                    self.assertEqual(len(self.server.requests), 1)
        self.assertOk(self.cli("traces", "list", "--project", self.server.project.upper(), env=key))


class EvaluatorsAndDatasets(CommandCase):
    def enabled(self, evaluator, *args):
        record = self.assertOk(self.cli("evaluators", "toggle", evaluator, "--json", *args)).json
        return record["enabled"]

    def test_toggle(self):
        evaluator = self.server.add_evaluator(name="Toggled")
        self.assertIs(self.enabled(evaluator, "--disable"), False)
        self.assertIs(self.enabled(evaluator, "--disable"), False)
        self.assertIs(self.enabled(evaluator), True)
        self.assertIs(self.enabled(evaluator), False)
        self.assertIs(self.enabled(evaluator, "--enable"), True)

    def test_unknown_type_is_sent_to_the_server(self):
        self.cli("evaluators", "create", "-n", "x", "--type", "FROM_THE_FUTURE")
        given, = procedure_inputs(self.server, "evaluator.create")
        self.assertEqual(given["type"], "FROM_THE_FUTURE")

    def test_description_of_a_dataset(self):
        for option in ("-d", "--description"):
            record = self.assertOk(self.cli("datasets", "create", "-n", "x", option, "Smoke test",
                                            "--json")).json
            self.assertEqual(record["description"], "Smoke test")


class Stdin(CommandCase):
    def test_only_one_option_reads_it(self):
        for words in (["datasets", "add-item", "D", "--input", "-", "--expected", "-"],
                      ["api", "POST", "a.b", "-f", "a=@-", "-f", "b=@-"]):
            result = self.cli(*words, stdin='{"a": 1}')
            self.assertFails(result, 2, "Only one option can read stdin")
        self.assertEqual([each for each in self.server.requests if each.method == "POST"], [])


class Identity(TracesCase):
    """whoami: what is known here, and what the server tells."""

    def whoami(self, *args, **kwargs):
        return self.assertOk(self.cli("whoami", "--json", *args, **kwargs), err="").json

    def lines(self, result):
        return [" ".join(line.split()) for line in result.lines]

    def test_roles_in_both_dialects(self):
        for dialect, options in DIALECTS:
            for number, role in enumerate(("VIEWER", "MEMBER", "ADMIN", "OWNER")):
                self.use(**options)
                self.server.add_org("Second", "FREE", roles={OWNER: role})
                with self.subTest(dialect=dialect, role=role):
                    found = [(row["name"], row["role"], row["plan"])
                             for row in self.whoami()["organizations"]]
                    self.assertEqual(found, [("Acme 東京", "OWNER", "PRO"),
                                             ("Second", role, "FREE")])
        self.assertIn("FREE OWNER 1 Second", " ".join(self.cli("whoami").out.split()))

    def test_where_the_address_comes_from(self):
        env = {"TWOSIGNAL_URL": self.server.url}
        self.assertEqual(self.whoami(env=env)["api_url_source"], "TWOSIGNAL_URL")
        self.assertEqual(self.whoami("--url", self.server.url)["api_url_source"], "--url")
        file = self.write("home/config.json", {"api_url": self.server.url})
        env = {"TWOSIGNAL_URL": None}
        self.assertEqual(self.whoami(env=env)["api_url_source"], file)
        self.assertIn("Server set by: " + file, self.lines(self.cli("whoami", env=env)))

    def default_project(self, **kwargs):
        record = self.whoami(**kwargs)
        return [record["default_project_" + key] for key in ("id", "name", "source")]

    def test_default_project(self):
        none = {"TWOSIGNAL_PROJECT": None, "TWOSIGNAL_ORG": None}
        self.assertEqual(self.default_project(env=none), [None, None, None])
        for given in (self.server.project, "Support Agent", self.server.project.upper()):
            self.assertEqual(self.default_project(env=dict(none, TWOSIGNAL_PROJECT=given)),
                             [self.server.project, "Support Agent", "TWOSIGNAL_PROJECT"])
        self.assertOk(self.cli("projects", "use", "Support Agent", env=none))
        self.assertEqual(self.default_project(env=none), [
            self.server.project, "Support Agent", self.path("home/config.json")])
        lines = self.lines(self.cli("whoami", env=none))
        self.assertIn("Default project: Support Agent", lines)
        self.assertIn("Project ID: " + self.server.project, lines)

    def test_default_organization(self):
        """What commands about organizations act on."""
        def found(**env):
            record = self.whoami(env=dict({"TWOSIGNAL_ORG": None}, **env))
            return [record["default_org_" + key] for key in ("id", "name", "source")]
        org = self.server.org
        self.assertEqual(found(), [None, None, None])
        for given in (org, "Acme 東京"):
            self.assertEqual(found(TWOSIGNAL_ORG=given), [org, "Acme 東京", "TWOSIGNAL_ORG"])
        self.assertOk(self.cli("projects", "use", "Support Agent"))
        self.assertEqual(found(), [org, "Acme 東京", self.path("home/config.json")])
        lines = self.lines(self.cli("whoami"))
        self.assertIn("Default organization: Acme 東京", lines)
        self.assertIn("Organization ID: " + org, lines)
        result = self.assertOk(self.cli("whoami", "--json", env={
            "TWOSIGNAL_ORG": "Gone", "TWOSIGNAL_PROJECT": self.server.project}))
        self.assertIn("Default organization: Organization not found.", result.err)
        self.assertEqual((result.json["default_org_id"], result.json["default_org_name"]),
                         ("Gone", None))

    def test_default_project_that_is_gone(self):
        """It is told, and no failure: the account is what it is."""
        for given in ("Gone", "c0000000-0000-4000-8000-00000000dead"):
            result = self.assertOk(self.cli("whoami", "--json", env={"TWOSIGNAL_PROJECT": given}))
            self.assertEqual(result.err, "Default project: Project not found. Check the ID with "
                             "'twosignal projects list'.\n")
            self.assertEqual((result.json["default_project_id"],
                              result.json["default_project_name"]), (given, None))

    def test_no_project_is_looked_up_without_a_default(self):
        self.server.clear()
        self.whoami(env={"TWOSIGNAL_PROJECT": None})
        self.assertEqual([request.procedures for request in self.server.requests],
                         [["organization.list"]])

    def test_what_is_known_is_shown_if_roles_cannot_be_asked(self):
        """With the exit code of the failure; the session is not said to work if it has ended."""
        for code, fault in ((8, {"status": 500, "body": "oops"}), (5, {
                "status": 403, "body": trpc_error("FORBIDDEN", 403)}), (3, {"reset": True}),
                (8, {"garbage": b"<html>"})):
            self.server.fault("organization.list", times=None, **fault)
            with self.subTest(fault=fault):
                result = self.assertFails(self.cli("whoami"), code, out=OWNER)
                self.assertIn("Session until:", result.out)
                record = self.cli("whoami", "--json").json
                self.assertEqual((record["email"], record["api_url"], record["organizations"]),
                                 (OWNER, self.server.url, None))
            self.server.clear()
        self.server.revoke(OWNER)
        result = self.assertFails(self.cli("whoami"), 4, "Authentication expired", out=OWNER)
        self.assertNotIn("refreshed", result.out)
        self.assertIsNone(self.cli("whoami", "--json").json["expires_at"])

    def test_key_and_account(self):
        key = self.server.secret(self.server.add_key())
        record = self.whoami(env={"TWOSIGNAL_API_KEY": key})
        self.assertEqual((record["email"], record["api_key"], record["account_url"]),
                         (OWNER, key[:6] + "…", None))
        self.assertEqual([row["role"] for row in record["organizations"]], ["OWNER"])

    def test_key_of_another_server_than_the_account(self):
        """Row 54: that one is not asked: neither key nor --header is for it."""
        other = self.serve()
        key = other.secret(other.add_key())
        self.write("home/config.json", {"api_url": self.server.url})
        self.server.clear()
        env = {"TWOSIGNAL_API_KEY": key, "TWOSIGNAL_URL": None, "TWOSIGNAL_BASE_URL": other.url}
        record = self.whoami("--header", "X-Gate: open", env=env)
        self.assertEqual((record["email"], record["api_url"], record["api_url_source"],
                          record["account_url"]),
                         (OWNER, other.url, "TWOSIGNAL_BASE_URL", self.server.url))
        self.assertEqual([request.path for request in other.requests], ["/api/v1/traces"])
        self.assertIsNone(record["organizations"])
        self.assertEqual(self.server.requests, [])
        self.assertIn("Account's server: " + self.server.url,
                      self.lines(self.cli("whoami", env=env)))

    def test_failures_of_key_and_account(self):
        """Both are told; the first one decides the exit code, and no session is no failure."""
        wrong = {"TWOSIGNAL_API_KEY": "ts_wrong_and_long_enough"}
        result = self.assertFails(self.cli("whoami", env=wrong), 4, "key", out=OWNER)
        self.assertIn("OWNER", result.out)
        right = {"TWOSIGNAL_API_KEY": self.server.secret(self.server.add_key())}
        self.server.revoke(OWNER)
        self.assertFails(self.cli("whoami", env=right), 4, "Authentication expired", out="ts_")
        result = self.assertFails(self.cli("whoami", env=wrong), 4, "API key", out="ts_wro…")
        self.assertIn("Authentication expired", result.err)
        self.assertNotIn("long_enough", result.out + result.err)
        self.server.fault("traces", times=None, status=500, body="oops")
        self.server.fault("organization.list", times=None, status=500, body="oops")
        result = self.assertFails(self.cli("whoami", env=right), 8, out="ts_")
        self.assertEqual(len(result.err.splitlines()), 1, "the same failure twice")
        self.server.clear()
        self.write("home/session.json", b"{")
        self.assertFails(self.cli("whoami", env=right), 1, "damaged", out="ts_")
        os.remove(self.path("home/session.json"))
        self.assertEqual(self.whoami(env=right)["email"], None)


class UsageHistory(TracesCase):
    def setUp(self):
        super().setUp()
        self.fill()

    def fill(self):
        for back, traces in enumerate((40000, 10000, 0, 5000)):
            self.server.set_usage(self.server.org, self.months()[-1 - back], traces, traces * 4, 7)

    def months(self):
        return [standin.this_month(-back) for back in reversed(range(4))]

    def usage(self, *args, **kwargs):
        return self.cli("usage", "--org", self.server.org, *args, **kwargs)

    def test_json_is_a_list_with_a_month_each_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.fill()
            with self.subTest(dialect=dialect):
                found = self.assertOk(self.usage("--months", "4", "--json"), err="").json
                self.assertEqual(found, [
                    {"month": month, "traces_used": traces, "spans_used": traces * 4,
                     "evals_used": 7}
                    for month, traces in zip(self.months(), (5000, 0, 10000, 40000))])
                self.assertEqual(self.server.count("usage.getCurrentMonth"), 0)

    def test_bars_line_up_at_80_columns(self):
        for encoding, full, part in (("utf-8", "█", "▄"), ("ascii", "#", ":")):
            result = self.assertOk(self.usage("--months", "4", "--no-color", columns=80, tty=True,
                                              encoding=encoding))
            cells = [re.split(r" {2,}", line) for line in result.lines[2:]]
            self.assertEqual([row[2:-2] for row in cells],      # beside the traces
                             [[full * 2 + part], [], [full * 5], [full * 20]])
            self.assertEqual(len({line.index(full) for line in result.lines[2:]
                                  if full in line}), 1)
            self.assertEqual(len({line.rindex("7") for line in result.lines[2:]}), 1)
            self.assertLessEqual(max(map(len, result.lines)), 80)
        colored = self.usage("--months", "1", "--color", "always").lines[-1]
        self.assertIn("\x1b[36m" + 20 * "█" + "\x1b[0m", colored)

    def test_rows_in_other_formats(self):
        self.assertEqual(self.usage("--months", "1", "--format", "csv").lines, [
            "month,traces_used,spans_used,evals_used", f"{self.months()[-1]},40000,160000,7"])

    def test_a_server_that_ignores_how_many(self):
        history = [{"month": f"2026-{n:02d}", "traceCount": None, "spanCount": "7"}
                   for n in (3, 1, 2)]
        self.server.fault("usage.getHistory", status=200, body=trpc_answer(history))
        self.assertEqual([row["month"] for row in self.usage("--months", "2", "--json").json],
                         ["2026-02", "2026-03"])

    def test_bad_input(self):
        for months in ("0", "25", "all", "-1"):
            self.assertFails(self.usage("--months", months), 2, "1 to 24")
        self.assertFails(self.usage("--months", "3", "--fail-above", "90"), 2, "together")
        for option, value in (("--months", "3"), ("--fail-above", "90")):
            self.assertFails(self.usage(option, value, "--project", "Support Agent"), 2,
                             option + " and --project cannot be used together")


class UsageOfProjects(TracesCase):
    def setUp(self):
        super().setUp()
        self.fill()

    def fill(self):
        self.unused = self.server.add_project("Unused", self.server.org)
        self.server.set_usage(self.server.org, None, traces=100, spans=400, evals=7)

    def usage(self, *args, **kwargs):
        return self.cli("usage", "--org", self.server.org, *args, **kwargs)

    def projects(self, *args):
        rows = self.assertOk(self.usage(*args, "--json"), err="").json["projects"]
        return [(row["project_id"], row["project_name"], row["traces_used"]) for row in rows]

    def test_whose_it_is_and_names_that_can_be_read(self):
        """A default may have chosen the organization; 80 columns have room for a name."""
        result = self.assertOk(self.usage(tty=True, columns=80), err="")
        self.assertRegex(result.lines[0], r"^Organization: +Acme 東京$")
        self.assertEqual(result.lines[-1].split("  ")[-1], "Support Agent")
        record = self.assertOk(self.usage("--json")).json
        self.assertEqual((record["organization_id"], record["organization_name"]),
                         (self.server.org, "Acme 東京"))

    def test_names_and_choice_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.fill()
            used = self.server.project, "Support Agent", 100
            with self.subTest(dialect=dialect):
                self.assertEqual(self.projects(), [used])
                for given in ("Support Agent", self.server.project, self.server.project.upper()):
                    self.assertEqual(self.projects("--project", given), [used])
                # The server lists no project without usage.
                self.assertEqual(self.projects("--project", "Unused"), [])
                self.assertEqual(self.usage("--project", "Unused").lines[-1], "No usage found.")
                self.assertIn("Support Agent", self.usage().lines[-1])
                self.assertEqual(self.usage("--format", "csv").lines, [
                    "traces_used,spans_used,evals_used,project_id,project_name",
                    f"100,400,7,{self.server.project},Support Agent"])

    def test_totals_and_limits_stay_those_of_the_organization(self):
        self.server.set_usage(self.server.org, None, traces=46000)
        record = self.assertOk(self.usage("--project", "Unused", "--json"), err="").json
        self.assertEqual((record["traces_used"], record["traces_limit"]), (46000, 50000))

    def test_a_variable_does_not_choose(self):
        self.assertEqual(len(self.usage("--json", env={
            "TWOSIGNAL_PROJECT": self.unused}).json["projects"]), 1)

    def test_without_names(self):
        """IDs are enough, unless a project is chosen."""
        for fault in ({"status": 500, "body": "oops"},
                      {"status": 200, "body": trpc_answer([{"id": []}, {"id": None}])},
                      {"status": 403, "body": trpc_error("FORBIDDEN", 403)}):
            self.server.fault("project.list", times=None, **fault)
            with self.subTest(fault=fault):
                self.assertEqual(self.projects(), [(self.server.project, None, 100)])
                self.assertGreater(self.usage("--project", "Unused").code, 1)
            self.server.clear()

    def test_project_that_is_not_there(self):
        hidden = self.server.add_project("Elsewhere", self.server.add_org("Other"))
        for given in ("Nowhere", "Elsewhere", hidden):
            self.assertFails(self.usage("--project", given), 6, "Project not found")

    def test_what_the_plan_gives(self):
        unlimited = "Seats: unlimited"
        for plan, lines in (("FREE", ["Days of retention: 7", "Seats: 1",
                                      "Requests per second: 100"]),
                            ("TEAM", ["Days of retention: 90", unlimited]),
                            ("ENTERPRISE", ["Traces: 100 (unlimited)", unlimited,
                                            "LLM evaluations of the plan: unlimited"])):
            self.server.set_plan(self.server.org, plan)
            with self.subTest(plan=plan):
                result = self.assertOk(self.usage())
                found = [" ".join(line.split()) for line in result.lines]
                self.assertEqual([line for line in lines + ["Seats used: 4"]
                                  if line not in found], [])

    def test_limits_of_an_unknown_plan_are_not_unlimited(self):
        self.server.set_plan(self.server.org, "PLATINUM")
        result = self.assertOk(self.usage())
        self.assertIn("PLATINUM", result.out)
        for word in ("unlimited", "retention", "None", "Requests"):
            self.assertNotIn(word, result.out)


class UsageThreshold(TracesCase):
    def usage(self, *args, **kwargs):
        return self.cli("usage", "--org", self.server.org, *args, **kwargs)

    def test_limits_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.server.set_usage(self.server.org, None, traces=45000, spans=1, evals=900)
            for percent, code in (("89", 10), ("89.99", 10), ("90", 0), ("90%", 0), ("91", 0),
                                  ("100", 0), ("0%", 10), ("0.9%", 10), ("90 %", 0)):
                with self.subTest(dialect=dialect, percent=percent):
                    result = self.usage("--json", "--fail-above", percent)
                    self.assertEqual(result.code, code, result)
                    self.assertEqual(result.json["traces_used"], 45000)
                    self.assertEqual(bool(result.err), code != 0)

    def test_evaluator_runs_are_shown_but_not_checked(self):
        """The plan limits LLM evaluations, but the server counts the runs of all evaluators."""
        self.server.set_usage(self.server.org, None, traces=5, spans=1, evals=48000)
        result = self.assertOk(self.usage("--fail-above", "90"), err="")
        lines = [" ".join(line.split()) for line in result.lines]
        self.assertIn("Evaluator runs: 48,000", lines)
        self.assertIn("LLM evaluations of the plan: 5,000", lines)
        record = self.usage("--json").json
        self.assertEqual((record["evals_used"], record["evals_limit"]), (48000, 5000))

    def test_the_sentence(self):
        self.server.set_usage(self.server.org, None, traces=46000, evals=4700)
        self.assertEqual(self.usage("--fail-above", "90").err,
                         "Error: Usage exceeds 90% of the plan: 92% of traces. "
                         "Reduce usage or upgrade the plan.\n")
        self.server.set_usage(self.server.org, None, traces=45001)
        self.assertIn("90% of the plan: 90.002% of traces", self.usage("--fail-above", "90").err)

    def test_output_file_is_kept(self):
        self.server.set_usage(self.server.org, None, traces=46000)
        path = self.path("usage.json")
        self.assertEqual(self.usage("--fail-above", "90", "-o", path).code, 10)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(json.load(file)["traces_used"], 46000)

    def test_more_than_the_limit(self):
        self.server.set_usage(self.server.org, None, traces=60000)
        self.assertEqual(self.usage("--fail-above", "100").code, 10)

    def test_without_a_limit(self):
        self.server.set_usage(self.server.org, None, traces=10 ** 9, evals=10 ** 9)
        self.server.set_plan(self.server.org, "ENTERPRISE")
        result = self.usage("--fail-above", "1", "--junit", self.path("report.xml"))
        self.assertOk(result, err="The plan does not limit traces: --fail-above always passes.\n")
        suite = xml.etree.ElementTree.parse(self.path("report.xml")).find("testsuite")
        self.assertEqual((suite.get("tests"), suite.get("failures")), ("1", "0"))
        self.assertIn("unlimited", suite.find("testcase").get("name"))

    def test_unknown_plan_never_passes(self):
        self.server.set_plan(self.server.org, "PLATINUM")
        self.assertFails(self.usage("--fail-above", "90"), 11, "PLATINUM")
        self.assertOk(self.usage())

    def test_bad_input(self):
        for percent in ("-1", "most", "101", "", "NaN", "90%%%x", "90%%", "0"):
            with self.subTest(percent=percent):
                self.assertFails(self.usage("--fail-above", percent), 2)
        for share, advice in (("0.9", "say 0.9% or 90%"), ("0.07", "say 0.07% or 7%"),
                              (".5", "say .5% or 50%"), ("0", "say 0%.")):
            self.assertFails(self.usage("--fail-above", share), 2, advice)
        self.assertEqual(self.server.requests, [])

    def test_usage_that_is_no_number_of_traces(self):
        for count in (None, -5, "many"):
            self.server.fault("usage.getCurrentMonth", status=200,
                              body=trpc_answer({"traceCount": count}))
            self.assertEqual(self.usage("--fail-above", "90").code, 8)

    def test_junit(self):
        self.server.set_usage(self.server.org, None, traces=45000, evals=5)
        for percent, code, failures in (("95", 0, []), ("80", 10, ["traces"])):
            result = self.usage("--fail-above", percent, "--junit", self.path("report.xml"))
            self.assertEqual(result.code, code, result)
            suite = xml.etree.ElementTree.parse(self.path("report.xml")).find("testsuite")
            self.assertEqual((suite.get("name"), suite.get("tests")), ("twosignal usage", "1"))
            self.assertEqual([case.get("name").partition(" ")[0] for case in suite
                              if case.find("failure") is not None], failures)
            messages = [failure.get("message") for failure in suite.findall("testcase/failure")]
            self.assertEqual(messages, ["failed: measured 90%, threshold ≤ 80%"] * len(failures))
        self.assertFails(self.usage("--fail-above", "1", "--junit", self.path("no", "x.xml")), 1)

    def test_junit_needs_a_limit(self):
        self.assertFails(self.usage("--junit", self.path("report.xml")), 2, "--fail-above")
        self.assertEqual(self.server.requests, [])

    def test_error_as_json(self):
        self.server.set_usage(self.server.org, None, traces=45000)
        result = self.usage("--json", "--fail-above", "50")
        self.assertEqual((result.code, (result.error or {}).get("exit_code")), (10, 10), result)

    def test_in_github_actions(self):
        self.server.set_usage(self.server.org, None, traces=45000)
        path = self.path("summary.md")
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": path}
        result = self.usage("--fail-above", "80", env=env)
        self.assertEqual(result.code, 10, result)
        self.assertRegex(result.err, "::error title=twosignal usage::traces .*: failed: measured "
                         "90%25, threshold ≤ 80%25\n")
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.assertEqual(lines[0], "### twosignal usage")
        self.assertIn("| traces of the plan | 90% | ≤ 80% | FAILED | - |", lines)


class ApiCommand(TracesCase):
    hint = "Check the name, GET or POST, and the input: see 'twosignal api --list'."

    options = {}

    def test_query(self):
        result = self.assertOk(self.cli("api", "organization.list"))
        self.assertEqual(result.json[0]["memberCount"], 4)
        self.assertEqual(self.server.requests[-1].method, "GET")

    def test_query_with_input_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**dict(options, empty=False))
            given = json.dumps({"projectId": self.server.project, "limit": 2})
            with self.subTest(dialect=dialect):
                answer = self.assertOk(self.cli("api", "trace.list", "--input", given)).json
                rows = answer["items" if dialect == "old" else "traces"]
                self.assertEqual(len(rows), 2)
                self.assertIn("totalCost", rows[0])

    def test_input_from_file_and_stdin(self):
        given = json.dumps({"projectId": self.server.project})
        path = self.write("input.json", given)
        for source, stdin in (("@" + path, None), ("-", given)):
            self.assertOk(self.cli("api", "evaluator.list", "--input", source, stdin=stdin))
        self.assertEqual(procedure_inputs(self.server, "evaluator.list"), [json.loads(given)] * 2)

    def test_mutation(self):
        given = json.dumps({"name": "Made by api"})
        result = self.assertOk(self.cli("api", "organization.create", "--mutation",
                                        "--input", given))
        self.assertEqual(result.json["name"], "Made by api")
        self.assertEqual(self.server.requests[-1].method, "POST")

    def test_mutation_without_the_option(self):
        for dialect, options in DIALECTS:
            self.use(**dict(options, empty=False))
            with self.subTest(dialect=dialect):
                result = self.cli("api", "organization.create", "--input", '{"name": "No"}')
                self.assertFails(result, 1 if dialect == "new" else 8, "organization.create",
                                 self.hint)
                self.assertEqual(len(self.server.rows("organizations")), 2)

    def test_get_is_a_query_and_post_a_mutation(self):
        for dialect, options in DIALECTS:
            self.use(**dict(options, empty=False))
            path = "/api/trpc/organization.list"
            for name in (path, path[1:], "organization.list"):
                for method in ("GET", "get"):
                    with self.subTest(dialect=dialect, name=name, method=method):
                        self.assertOk(self.cli("api", method, name))
                        self.assertEqual(self.server.requests[-1].target, path)
            result = self.assertOk(self.cli("api", "POST", "organization.create", "-f", "name=A=B"))
            self.assertEqual(result.json["name"], "A=B")
            self.assertEqual(self.server.requests[-1].method, "POST")

    def test_fields_are_text(self):
        project = self.server.project
        for options in (("-f", "projectId=" + project),
                        ("--field=projectId=" + project, "-f", "search=", "-f", "limit=5")):
            self.cli("api", "trace.list", *options)
        self.assertEqual(procedure_inputs(self.server, "trace.list"), [
            {"projectId": project}, {"projectId": project, "search": "", "limit": "5"}])
        self.server.clear()
        for options in (("-f", "x=y", "--input", "{}"), ("-f", "x"), ("-f", "=x"), ("-f", "")):
            self.assertFails(self.cli("api", "project.list", *options), 2, "--field")
        self.assertEqual(self.server.requests, [])

    def test_one_call(self):
        for line, part in (((), "Missing PATH-OR-PROCEDURE"), (("",), "must not be empty"),
                           (("GET",), "no procedure GET"), (("PUT", "project.list"), "GET, POST"),
                           (("project.list", "organization.list"), "GET, POST"),
                           (("GET", "project.list", "x"), "'x'"), (("--list", "x"), "'x'"),
                           (("GET", "organization.create", "--mutation"), "'")):
            with self.subTest(line=line):
                self.assertFails(self.cli("api", *line), 8 if line == ("GET",) else 2, part)
        self.assertEqual(self.server.count("organization.create"), 0)

    def test_query_as_a_mutation(self):
        result = self.cli("api", "organization.list", "--mutation")
        self.assertFails(result, 1, "organization.list", self.hint)

    def test_hints_follow_from_the_code(self):
        """They do not depend on the server's wording."""
        confusing = "Unsupported GET-request to mutation procedure"
        for code, status, message, options, hint in (
                ("METHOD_NOT_SUPPORTED", 405, "Nope", (), self.hint),
                ("METHOD_NOT_SUPPORTED", 405, "Nope", ("--mutation",), self.hint),
                ("BAD_REQUEST", 400, "Nope", (), self.hint),
                ("CONFLICT", 409, confusing, (), "")):
            self.server.fault("some.thing", times=1, status=status,
                              body=trpc_error(code, status, message))
            with self.subTest(code=code, options=options):
                result = self.assertFails(self.cli("api", "some.thing", *options), 1)
                self.assertEqual(result.err,
                                 f"Error: The server refused: {message}. {hint}".strip() + "\n")

    def test_unknown_procedure(self):
        for options in ({"errors": 11}, {"errors": 10, "bare_errors": True}):
            self.use(**options)
            for more in ((), ("--mutation",)):
                self.assertFails(self.cli("api", "trace.explain", *more), 8,
                                 "This server has no procedure trace.explain. " + self.hint)

    def test_input_is_sent_unchanged(self):
        values = {"projectId": self.server.project, "description": None, "list": [None, {}],
                  "umlaut": "ä 🤖", "self": 1, "number": 1.5}
        self.cli("api", "evaluator.list", "--input", json.dumps(values))
        self.cli("api", "project.create", "--mutation", "--input", json.dumps(values))
        self.assertEqual(procedure_inputs(self.server, "project.create"), [values])
        self.assertEqual(procedure_inputs(self.server, "evaluator.list"), [values])

    def test_input_that_is_an_empty_object_is_sent(self):
        self.cli("api", "organization.list", "--input", "{}")
        self.assertEqual(procedure_inputs(self.server, "organization.list"), [{}])

    def test_input_that_is_not_an_object(self):
        """Procedures may take it: the server decides."""
        for given in ("[]", "7", '"text"', "true"):
            for line in (["trace.list"], ["project.create", "--mutation"]):
                with self.subTest(given=given, line=line):
                    self.assertFails(self.cli("api", *line, "--input", given), 1,
                                     "The server rejected the input", self.hint)
                    self.assertEqual(procedure_inputs(self.server, line[0])[-1], json.loads(given))
        self.assertFails(self.cli("api", "trace.list", "--input", "{"), 2, "--input")

    def test_invalid_procedure_names(self):
        for name in ("", " ", "trace/list", "../auth/login", "trace.list?x=1", "a.b,c.d", "trace.",
                     ".list", "trace..list", "trace list", "tr%61ce.list", "trace.list\n", "é.list",
                     "a#b"):
            with self.subTest(name=name):
                self.assertFails(self.cli("api", name), 2)
        self.assertEqual(self.server.requests, [])

    def test_refusals(self):
        self.log_in("viewer@example.com")
        given = json.dumps({"projectId": self.server.project, "name": "No"})
        self.assertFails(self.cli("api", "apiKey.create", "--mutation", "--input", given), 5)
        self.assertFails(self.cli("api", "trace.list", "--input", '{"limit": 7}'), 1, "projectId")

    def test_unknown_outcome_of_a_mutation(self):
        self.server.fault("organization.create", reset=True, after=True)
        given = ("--mutation", "--input", '{"name": "Once"}')
        self.assertFails(self.cli("api", "organization.create", *given), 9,
                         "check with 'twosignal orgs list' before you repeat it.")
        self.assertEqual(self.server.count("organization.create"), 1)
        self.server.fault("modelRouting.create", reset=True, after=True)
        self.assertFails(self.cli("api", "POST", "modelRouting.create", "-f", "name=x"), 9,
                         "check with 'twosignal routing list' before")

    def test_a_revoked_key_is_masked(self):
        """Some servers return it; a new one has to be shown."""
        for name, masked in (("apiKey.revoke", True), ("apiKey.create", False)):
            for more in ((), ("--show-secrets",)):
                self.server.fault(name, status=200, body=trpc_answer(
                    {"id": "k9", "name": "CI", "secret": "ts_" + "9" * 30}))
                result = self.assertOk(self.cli("api", "POST", name, "-f", "id=k9", *more))
                self.assertEqual("ts_999" in result.out, bool(more) or not masked, name)

    def test_formats_and_fields(self):
        given = ("evaluator.list", "--input", json.dumps({"projectId": self.server.project}))
        names = sorted(row["name"] for row in self.server.rows("evaluators"))
        result = self.assertOk(self.cli("api", *given, "--format", "jsonl"))
        self.assertEqual(sorted(json.loads(line)["name"] for line in result.lines), names)
        result = self.assertOk(self.cli("api", *given, "--format", "csv", "--fields", "name"))
        self.assertEqual(sorted(result.lines), sorted(names + ["name"]))
        result = self.assertOk(self.cli("api", *given, "--fields", "?"))
        self.assertIn("enabled", result.out)
        for text in (("--fields", "name"), ("--json", "--fields", "name")):
            self.assertIn(names[0], self.assertOk(self.cli("api", *given, *text)).out)

    def test_results_that_are_not_records(self):
        for value in (7, "text", None, True, [], [1, "two", None], [[1], {"a": 1}], {}):
            for options in ((), ("--json",), ("--format", "jsonl"), ("--format", "csv"),
                            ("--fields", "?"), ("--fields", "id")):
                self.server.fault("some.thing", body={"result": {"data": {"json": value}}})
                with self.subTest(value=value, options=options):
                    result = self.cli("api", "some.thing", *options)
                    has_no_id = options == ("--fields", "id") and value != []
                    self.assertEqual(result.code, 2 if has_no_id else 0, result)
                    self.assertNotIn("Internal error", result.err)
                    if options in ((), ("--json",)):
                        self.assertEqual(result.json, value)

    def test_a_key_does_not_replace_a_session(self):
        os.unlink(os.path.join(self.home, "session.json"))
        result = self.cli("api", "organization.list", env=self.key())
        self.assertFails(result, 4, "login")

    def test_a_key_does_not_change_where_procedures_are_called(self):
        """Row 54: TWOSIGNAL_BASE_URL is the address of the key, not of the session."""
        other = self.serve()
        env = dict(self.key(), TWOSIGNAL_BASE_URL=other.url)
        self.assertOk(self.cli("api", "organization.list", env=env))
        self.assertEqual(other.requests, [])
        self.assertIsNone(self.server.requests[-1].headers.get("Authorization"))

    def test_secrets_of_keys(self):
        """Some servers return a revoked key itself; a new one has to be seen."""
        key, project = self.server.add_key(), "projectId=" + self.server.project
        revoke = ("api", "POST", "apiKey.revoke", "-f", "id=" + key, "-f", project)
        self.assertEqual(self.assertOk(self.cli(*revoke)).json["secret"], "***")
        self.assertEqual(self.assertOk(self.cli(*revoke, "--show-secrets")).json["secret"],
                         self.server.secret(key))
        made = self.cli("api", "POST", "apiKey.create", "-f", "name=x", "-f", project)
        self.assertEqual(made.json["key"], self.server.secret(made.json["id"]))


class ListOfCalls(CommandCase):
    def test_procedures_are_those_of_servers(self):
        """Each name, kind and input is one that the stand-in takes, and none is left out."""
        known = {row["name"]: row for row in twosignal.KNOWN_CALLS if row["name"][0] != "/"}
        for name, (kind, fields, _) in procedures.PROCEDURES.items():
            if name in twosignal.PROCEDURE_ALIASES.values():
                continue
            with self.subTest(name=name):
                fields = [field.partition(":")[0] for field in (fields or "").split()]
                listed = known.pop(name)
                self.assertEqual(listed["kind"], kind)
                inputs = {each.rstrip("?") for each in listed["inputs"]}
                alias = procedures.RENAMED.get(name)
                taken = fields + [each.partition(":")[0] for each in (
                    procedures.PROCEDURES[alias][1].split() if alias else ())]
                self.assertLessEqual(inputs, {each.rstrip("?") for each in taken})
                self.assertLessEqual({each for each in fields if each[-1] != "?"}, inputs)
        self.assertEqual(known, {})

    def test_paths_are_those_of_servers(self):
        known = {(row["kind"], row["name"]) for row in twosignal.KNOWN_CALLS
                 if row["name"][0] == "/"}
        routes = {route for route in self.server.rest.routes if "/auth/" not in route[1]}
        self.assertEqual(known, routes)

    def test_every_format_without_a_session(self):
        os.unlink(os.path.join(self.home, "session.json"))
        result = self.assertOk(self.cli("api", "--list", "--json"))
        self.assertEqual(result.json, twosignal.KNOWN_CALLS)
        self.assertIn({"name": "project.update", "kind": "mutation",
                       "inputs": ["projectId", "name?", "description?"]}, result.json)
        for form in ("csv", "tsv", "jsonl", "markdown", "html", "table"):
            out = self.assertOk(self.cli("api", "--list", "--format", form)).out
            for row in twosignal.KNOWN_CALLS:
                self.assertIn(row["name"].replace("_", "\\_"), out)
        result = self.assertOk(self.cli("api", "--list", columns=40))
        self.assertIn("GET       /api/v1/prompt-templates   name?, version?\n", result.out)
        self.assertEqual(self.server.requests, [])


class RestCommand(KeyCase):
    """`api` with a path of the REST API."""

    def api(self, *line, key=True, **kwargs):
        if key:
            kwargs["env"] = dict(self.key(), **kwargs.get("env") or {})
        return self.cli("api", *line, **kwargs)

    def test_query(self):
        self.server.add_prompt("greeting & co", "Hello {{name}}", ["name"])
        for options in ({}, {"rest_envelope": True}):
            self.use(empty=True, **options)
            self.server.add_prompt("greeting & co", "Hello {{name}}", ["name"])
            self.server.add_prompt("bye", "Bye")
            for form in (("GET", "/api/v1/prompt-templates"), ("api/v1/prompt-templates",)):
                with self.subTest(options=options, form=form):
                    rows = self.assertOk(self.api(*form)).json
                    self.assertEqual(sorted(row["name"] for row in rows), ["bye", "greeting & co"])
                    request = self.server.requests[-1]
                    self.assertEqual(request.target, "/api/v1/prompt-templates")
                    self.assertIsNone(request.headers.get("Cookie"))
            found = self.assertOk(self.api("GET", "/api/v1/prompt-templates",
                                           "-f", "name=greeting & co", "-f", "version=1"))
            self.assertEqual(found.json["version"]["content"], "Hello {{name}}")
            self.assertEqual(self.server.requests[-1].query,
                             {"name": "greeting & co", "version": "1"})
            listed = self.assertOk(self.api("/api/v1/traces", "-f", "limit=1")).json
            self.assertEqual(list(listed), ["traces", "nextCursor"])

    def test_change(self):
        given = {"name": "greeting", "content": "Hello {{name}}", "variables": ["name"]}
        for version, options in enumerate((("--input", json.dumps(given)),
                                           ("-f", "name=greeting", "-f", "content=Hello")), 1):
            made = self.assertOk(self.api("POST", "/api/v1/prompt-templates", *options)).json
            self.assertEqual(made["version"]["version"], version)
        self.assertEqual(self.server.requests[0].body, given)
        routed = self.api("post", "api/v1/route-model", "--input", "-", stdin='{"input": "Hi?"}')
        self.assertEqual(self.assertOk(routed).json, {
            "model": "gpt-4o-mini", "configName": "default", "complexity": 0.25})
        self.api("/api/v1/some", "--mutation")
        self.assertEqual(self.server.requests[-1].method, "POST")
        self.assertEqual(self.server.requests[-1].body, {})

    def test_a_field_from_a_file(self):
        """A prompt has line breaks; a file that is missing is an error before anything is sent."""
        path, text = self.path("a prompt.txt"), "Hello {{name}},\n\n@all: ünïcode\n"
        self.write("a prompt.txt", text.encode("utf-8"))
        new = ("POST", "/api/v1/prompt-templates", "-f", "name=t", "-f")
        made = self.assertOk(self.api(*new, "content=@" + path)).json
        self.assertEqual(made["version"]["content"], text)
        made = self.assertOk(self.api(*new, "content=@-", stdin=text)).json
        self.assertEqual(made["version"]["content"], text)
        self.assertEqual(len(self.server.requests), 2)
        self.assertFails(self.api(*new, "content=@" + path + "x"), 2, "Cannot read the file of")
        self.assertEqual(len(self.server.requests), 2)

    def test_a_query_takes_no_input(self):
        for given in ('{"limit": 1}', "null"):
            self.assertFails(self.api("/api/v1/traces", "--input", given), 2, "POST", "--field")
        self.assertEqual(self.server.requests, [])

    def test_health_needs_no_key(self):
        result = self.assertOk(self.api("/api/v1/health", key=False))
        self.assertEqual(result.json, {"status": "ok"})
        self.assertIsNone(self.server.requests[-1].headers.get("Authorization"))

    def test_without_a_key(self):
        """A session is no substitute, and not sent."""
        for session in (False, True):
            if session:
                self.log_in()
            for line in (("/api/v1/traces",), ("POST", "/api/v1/route-model", "-f", "input=x"),
                         ("GET", "/api/v1/unknown")):
                with self.subTest(session=session, line=line):
                    self.assertFails(self.api(*line, key=False), 4, "requires a project API key",
                                     "Set TWOSIGNAL_API_KEY", "'twosignal api-keys create'")
        self.assertEqual(self.server.requests, [])

    def test_key_stays_with_its_server(self):
        """Row 54: a URL is refused, whatever it looks like: only --url sets the server."""
        other, path = self.serve(), "/api/v1/traces"
        host = self.server.url.split("://")[1]
        name = other.url.split("://")[1]
        for url in (other.url, self.server.url, "http://%s@%s" % (host, name),
                    "http://%s#@%s" % (host, name), "http://x.invalid", "https://" + host,
                    "//" + name, "http://%s.invalid" % host, "ftp://" + host, "x", "http://",
                    self.server.url + "/other", self.server.url + "\r\nX: y"):
            with self.subTest(url=url):
                self.assertFails(self.api(url + path), 2)
                self.assertFails(self.api(url + "/api/trpc/organization.list"), 2)
        self.assertEqual(other.requests + self.server.requests, [])
        self.assertOk(self.api(path))
        self.assertOk(self.api(path, env={
            "TWOSIGNAL_URL": None, "TWOSIGNAL_BASE_URL": other.url,
            "TWOSIGNAL_API_KEY": other.secret(other.add_key())}))
        self.assertEqual([len(each.requests) for each in (other, self.server)], [1, 1])

    def test_no_path_leads_out_of_the_api(self):
        """Row 33: what a server or proxy might resolve, decode or cut off is refused."""
        for path in (
                "/api/v1/../trpc/organization.list", "/api/v1/..", "/api/v1/.", "/api/v1/a/../b",
                "/api/v1/a/./b", "/api/v1//traces", "/api/v1/traces/", "/api/v1/traces//",
                "/api/v1/", "/api/v1", "/api/", "/api", "/", "//", "/api/v2/traces", "/traces",
                "/api/v1/traces?limit=1", "/api/v1/traces#x", "/api/v1/%2e%2e/x", "/api/v1/a%2fb",
                "/api/v1/a%0d%0ab", "/api/v1/a\\..\\b", "/api/v1/a\r\nX-Evil: 1", "/api/v1/a\nb",
                "/api/v1/a\x00b", "/api/v1/a\x7f", "/api/v1/traces\n", "/api/trpc/", "/api/trpc",
                "/api/trpc/../v1/traces", "/api/trpc/a.b,c.d", "/api/trpc//api/v1/traces",
                "/api/trpc/a.b?batch=1", "/x/../api/v1/traces", "../api/v1/traces",
                "/api/v1x/traces", "/apix/v1/traces", "/api/v1/a/../../api/v1/b"):
            for method in ((), ("POST",)):
                with self.subTest(path=path, method=method):
                    self.assertFails(self.api(*method + (path,)), 2)
        self.assertEqual(self.server.requests, [])

    def test_paths_are_percent_encoded(self):
        """Row 33: other characters arrive, each in its place."""
        for name, target in (("a b", "a%20b"), ("\u00e4/\U0001f916", "%C3%A4/%F0%9F%A4%96"),
                             ("a&b=c;d", "a%26b%3Dc%3Bd"), ("...", "..."), ("..a", "..a"),
                             ("a+b", "a%2Bb"), ("a\u2028b", "a%E2%80%A8b"), ("@x:1", "%40x%3A1"),
                             ("api/v1/x", "api/v1/x"), ("\u017fpan", "%C5%BFpan")):
            with self.subTest(name=name):
                self.assertFails(self.api("/api/v1/" + name), 8)
                self.assertEqual(self.server.requests[-1].target, "/api/v1/" + target)

    def test_tokens_are_not_for_scripts(self):
        """What logs in, refreshes and logs out is left to `login` and `logout`."""
        for path in ("login", "refresh", "logout", "", "x/y"):
            for prefix in ("/api/v1/auth/", "api/v1/AUTH/", self.server.url + "/api/v1/auth/"):
                self.assertFails(self.api("POST", prefix + path, "-f", "refresh_token=x"), 2)
        self.assertFails(self.api("/api/v1/auth"), 2)
        self.assertEqual(self.server.requests, [])
        self.assertFails(self.api("/api/v1/authors"), 8)

    def test_errors(self):
        path = "/api/v1/prompt-templates"
        self.assertFails(self.api(path, "-f", "name=no"), 6, "Prompt template not found")
        self.assertFails(self.api("POST", path), 1, "name and content are required",
                         "'twosignal api --list'")
        self.assertFails(self.api("/api/v1/nope"), 8, "answered 404 with a web page",
                         "Check the name", "'twosignal api --list'")
        given = ("-f", "input=Hi", "-f", "configName=no")
        self.assertFails(self.api("POST", "/api/v1/route-model", *given), 6,
                         "Routing config not found. Check the name with 'twosignal routing list'")
        self.assertFails(self.api(path, env={"TWOSIGNAL_API_KEY": "ts_wrong"}), 4,
                         "The API key is not accepted")
        for status, code, body in ((403, 5, "FORBIDDEN"), (405, 1, "X"), (409, 1, "CONFLICT"),
                                   (413, 1, "X"), (429, 7, "RATE_LIMITED"), (500, 8, "X"),
                                   (404, 6, "NOT_FOUND")):
            for error in ({"code": body, "message": "Words of the server"}, {"code": body}):
                self.server.fault(path, status=status, times=3, body={"data": None, "error": error})
                with self.subTest(status=status, error=error):
                    self.assertFails(self.api("POST", path), code)
                self.server.faults.clear()

    def test_a_lost_answer(self):
        for path, check in (("prompt-templates", "prompts list"),
                            ("traces", "traces list"), ("scores", "traces list"),
                            ("otel/traces", "traces list"), ("new", "api GET /api/v1/new"),
                            ("route-model", "routing list")):
            self.server.fault("/api/v1/" + path, reset=True, after=True)
            with self.subTest(path=path):
                self.assertFails(self.api("POST", "/api/v1/" + path), 9, "outcome is unknown",
                                 "check with 'twosignal %s' before" % check)
                self.assertEqual(self.server.count("/api/v1/" + path), 1)
                self.server.clear()

    def test_secrets_of_evaluators(self):
        """Row 53: the REST API of a newer server may have evaluators, too."""
        row = {"id": "e1", "config": {"api_key": "sk-secret", "value": "x"}}
        for options, shown in (((), "***"), (("--show-secrets",), "sk-secret")):
            self.server.fault("/api/v1/evaluators", body={"data": [row], "error": None})
            rows = self.assertOk(self.api("/api/v1/evaluators", *options)).json
            self.assertEqual(rows[0]["config"], {"api_key": shown, "value": "x"})
        row["metadata"] = row.pop("config")
        self.server.fault("/api/v1/traces", body={"traces": [row]})
        self.assertEqual(self.assertOk(self.api("/api/v1/traces")).json, {"traces": [row]})
        self.server.fault("/api/v1/evaluators", status=400, body={
            "error": {"code": "X", "message": "Refused: sk-hidden-0123"}})
        result = self.api("POST", "/api/v1/evaluators", "--input", json.dumps(
            {"config": {"api_key": "sk-hidden-0123"}}))
        self.assertNotIn("sk-hidden", self.assertFails(result, 1, "Refused").err)

    def test_secrets_in_fields(self):
        """Row 34: neither an error nor the page's title repeats them."""
        path = self.path("page.html")
        self.server.fault("/api/v1/hooks", body={"ok": True})
        self.assertOk(self.api("POST", "/api/v1/hooks", "-f", "token=sk-0123", "-f", "x=seen",
                               "-o", path))
        with open(path, encoding="utf-8") as file:
            page = file.read()
        self.assertIn("seen", page)
        self.assertNotIn("sk-0123", page)

    def test_formats_and_files(self):
        self.server.add_prompt("greeting", "Hello")
        path = self.path("prompts.csv")
        self.assertOk(self.api("/api/v1/prompt-templates", "--fields", "name", "-o", path))
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read().split(), ["name", "greeting"])
