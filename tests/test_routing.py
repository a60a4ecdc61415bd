"""Model routing: configs, their rules, and the model that an input is routed to."""
import json
import unittest

from tools import DIALECTS, CommandCase, KeyCase, procedure_inputs, trpc_answer, trpc_error

RULES = [{"name": "short", "model": "gpt-4o-mini", "priority": 1,
          "condition": {"type": "complexity", "threshold": 0.3, "camelKey": None}}]
UNKNOWN_ID = "99999999-9999-4999-8999-999999999999"


class RoutingCase(CommandCase):
    def use(self, email="owner@example.com", **options):
        """Takes another server in place of the one of the test."""
        self.server.stop()
        self.server = self.serve(**options)
        self.log_in(email)
        self.environment.update(TWOSIGNAL_PROJECT=self.server.project)

    def routing(self, *line, **kwargs):
        return self.cli("routing", *line, **kwargs)

    def sent(self, procedure):
        """The only input that the server saw for modelRouting.PROCEDURE."""
        given, = procedure_inputs(self.server, "modelRouting." + procedure)
        return given


class RoutingConfigs(RoutingCase):
    def test_from_creation_to_deletion(self):
        """In both dialects, by name and by ID; rules stay exactly as they are."""
        for dialect, options in DIALECTS:
            with self.subTest(dialect=dialect):
                self.use(**options)
                made = self.assertOk(self.routing(
                    "create", "cheap first", "--default-model", "gpt-4o", "--rules",
                    json.dumps(RULES), "--json")).json
                self.assertEqual(self.sent("create"), {
                    "projectId": self.server.project, "name": "cheap first", "rules": RULES,
                    "defaultModel": "gpt-4o", "enabled": True})
                self.assertEqual((made["default_model"], made["rules"]), ("gpt-4o", RULES))
                for one in ("cheap first", made["id"], made["id"].upper()):
                    self.server.clear()
                    self.assertEqual(self.assertOk(self.routing("get", one, "--json")).json, made)
                    self.assertEqual(self.server.count("modelRouting.list"), 1)
                changed = self.assertOk(self.routing(
                    "update", "cheap first", "--name", "dear", "--disable", "--json")).json
                self.assertEqual(self.sent("update"), {
                    "projectId": self.server.project, "id": made["id"], "name": "dear",
                    "enabled": False})
                self.assertEqual((changed["name"], changed["enabled"], changed["rules"]),
                                 ("dear", False, RULES))
                rows = self.assertOk(self.routing("list", "--json")).json
                self.assertEqual(rows[1:], [changed])       # behind the one of the sample data
                deleted = self.assertOk(self.routing("delete", "dear", "-y", "--json")).json
                self.assertEqual(deleted, {"id": made["id"], "deleted": True})
                rows = self.assertOk(self.routing("list", "--json")).json
                self.assertEqual([row["name"] for row in rows], ["Cheap first"])

    def test_what_is_shown(self):
        self.server.add_route("cheap", "gpt-4o", RULES)
        listed = self.assertOk(self.routing("list"), err="")
        self.assertEqual(listed.lines[0].split(), ["ID", "Enabled", "Default", "model", "Name"])
        self.assertEqual([line.split(None, 3)[1:] for line in listed.lines[2:]], [
            ["true", "gpt-4o", "Cheap first"], ["true", "gpt-4o", "cheap"]])
        shown = self.assertOk(self.routing("get", "cheap"), err="").out
        self.assertIn("Default model:  gpt-4o\nName:           cheap\n", shown)
        self.assertIn('  Rules:\n    [\n      {\n        "name": "short",\n', shown)
        self.assertIn('"camelKey": null', shown)
        self.assertEqual(self.assertOk(self.routing("update", "cheap", "--enable")).lines[0],
                         'Updated routing config "cheap".')

    def test_a_server_with_other_values(self):
        """Rules are the users' own data: whatever they are, they are shown."""
        for rules in (None, "all", 7, {"any": [1]}, [1, None], [[]]):
            row = {"id": "r1", "name": "odd", "rules": rules, "defaultModel": None}
            for command in (("list",), ("get", "odd")):
                for more in ((), ("--json",), ("--format", "csv")):
                    self.server.fault("modelRouting.list", status=200, body=trpc_answer([row]))
                    with self.subTest(rules=rules, command=command, more=more):
                        result = self.assertOk(self.routing(*command + more))
                        if more == ("--json",):
                            record = result.json[0] if command == ("list",) else result.json
                            self.assertEqual(record["rules"], rules)

    def test_only_what_is_given_is_sent(self):
        route = self.server.add_route("cheap", "gpt-4o", RULES)
        for line, given in ((("--rules", "[]"), {"rules": []}), (("--enable",), {"enabled": True}),
                            (("--default-model", "o3"), {"defaultModel": "o3"})):
            self.server.clear()
            with self.subTest(line=line):
                self.assertOk(self.routing("update", route, *line))
                self.assertEqual(self.sent("update"), dict(
                    given, id=route, projectId=self.server.project))
        self.assertOk(self.routing("create", "off", "--default-model", "o3", "--disable"))
        self.assertEqual(self.sent("create"), {
            "projectId": self.server.project, "name": "off", "defaultModel": "o3", "rules": [],
            "enabled": False})

    def test_rules_from_a_file_and_stdin(self):
        self.server.add_route("cheap")
        path = self.write("rules.json", json.dumps(RULES))
        for value, stdin in (("@" + path, None), ("-", json.dumps(RULES)),
                             ("-", json.dumps({"name": "as get --json prints", "rules": RULES}))):
            self.server.clear()
            self.assertOk(self.routing("update", "cheap", "--rules", value, stdin=stdin))
            self.assertEqual(self.sent("update")["rules"], RULES)

    def test_rules_that_are_no_list_of_objects(self):
        """One clear line, and nothing is sent."""
        for rules, *problems in (
                *((text, "must be a list of objects", "routing get ID") for text in (
                    "{}", '"x"', "null", "0", '{"rules": {}}', "[1]", "[{}, []]", "[{}, null]")),
                ("[", "Invalid --rules"),
                ('[{"a": 1, "a": 2}]', "occurs twice"), ("[{\"a\": 1e999}]", "exactly"),
                ("@/nowhere", "Cannot read the file of --rules")):
            for command in (("create", "x", "--default-model", "m"), ("update", "x")):
                with self.subTest(rules=rules, command=command):
                    result = self.routing(*command + ("--rules", rules))
                    self.assertFails(result, 2, "--rules", *problems)
        self.assertEqual(self.server.requests, [])

    def test_usage_errors(self):
        for line, *parts in ((("update", "x"), "Nothing to change", "--rules"),
                             (("create", "x"), "Missing --default-model"),
                             (("create", "--default-model", "m"), "Missing --name"),
                             (("create", "x", "--default-model", " "), "must not be empty"),
                             (("update", "x", "--enable", "--disable"), "together"),
                             (("get",), "Missing ID")):
            with self.subTest(line=line):
                self.assertFails(self.routing(*line), 2, *parts)
        self.assertEqual(self.server.requests, [])

    def test_not_found(self):
        scope = " --project " + self.server.project
        for line in (("get", "nope"), ("get", UNKNOWN_ID), ("update", "nope", "--enable"),
                     ("delete", UNKNOWN_ID, "-y"), ("delete", "nope", "-y")):
            with self.subTest(line=line):
                self.assertFails(self.routing(*line), 6, "not found. Check the name with "
                                 "'twosignal routing list%s'" % scope)
        self.server.add_route("cheap")
        self.assertFails(self.routing("get", "CHEAP"), 6, "Did you mean 'cheap'?")
        self.server.add_route("cheap")
        self.assertFails(self.routing("get", "cheap"), 2, "There are 2 routing configs named")

    def test_roles(self):
        for email, code in (("viewer@example.com", 5), ("member@example.com", 0)):
            self.use(email)
            self.server.add_route("cheap", rules=RULES)
            self.assertOk(self.routing("list"))
            self.assertOk(self.routing("get", "cheap"))
            for line in (("create", "x", "--default-model", "m"), ("update", "cheap", "--disable"),
                         ("delete", "cheap", "-y")):
                with self.subTest(email=email, line=line):
                    result = self.routing(*line)
                    self.assertEqual(result.code, code, result)
                    if code:
                        self.assertIn("Permission denied", result.err)
                        self.assertIn("OWNER, ADMIN or MEMBER may do this", result.err)

    def test_lost_answers(self):
        """Row 22: the outcome is unknown, and `routing list` shows it; nothing is sent twice."""
        self.server.add_route("cheap")
        for procedure, line in (("create", ("create", "x", "--default-model", "m")),
                                ("update", ("update", "cheap", "--disable")),
                                ("delete", ("delete", "cheap", "-y"))):
            self.server.fault("modelRouting." + procedure, reset=True, after=True)
            with self.subTest(line=line):
                self.assertFails(self.routing(*line), 9, "outcome is unknown", "check with "
                                 "'twosignal routing list --project %s'" % self.server.project)
                self.assertEqual(self.server.count("modelRouting." + procedure), 1)

    def test_a_name_that_is_taken(self):
        self.server.fault("modelRouting.create", status=409, body=trpc_error(
            "CONFLICT", 409, "A config of that name exists"))
        self.assertFails(self.routing("create", "x", "--default-model", "m"), 1,
                         "A config of that name exists", "See 'twosignal routing list")

    def test_deletion_asks(self):
        route = self.server.add_route("cheap")
        self.assertFails(self.routing("delete", "cheap"), 2, "--yes")
        out, code = self.run_terminal("routing", "delete", "cheap", script=[
            ('Delete routing config "cheap" (%s)? [y/N]' % route, "n\n")])
        self.assertIn("Nothing was deleted", out)
        self.assertEqual((code, self.server.count("modelRouting.delete")), (1, 0))


class RoutingTests(KeyCase):
    def route(self, *line, env=(), **kwargs):
        return self.cli("routing", "test", *line, env={**self.key(), **dict(env)}, **kwargs)

    def test_the_model(self):
        for options in ({}, {"rest_envelope": True}):
            self.use(empty=True, **options)
            self.server.add_route("dear", "o3")
            with self.subTest(options=options):
                self.assertEqual(self.assertOk(self.route("--input", "Hi", "--json")).json, {
                    "model": "gpt-4o-mini", "config_name": "default", "complexity": 0.25})
                self.assertEqual(self.assertOk(self.route("--input", "Hi", "--config", "dear")).out,
                                 "Model:       o3\nConfig:      dear\nComplexity:  0.25\n")
                self.assertEqual(self.server.requests[-1].body, {
                    "input": "Hi", "configName": "dear"})
                self.assertIsNone(self.server.requests[-1].headers.get("Cookie"))

    def test_the_input_is_text(self):
        """It is no JSON, and names neither a file nor stdin."""
        for text in ("-", "@x", "@-", '{"a": 1}', " a\n", "日本 🚀", "-n", "null"):
            self.assertOk(self.route("--input", text, stdin="stdin"))
            self.assertEqual(self.server.requests[-1].body, {"input": text})
        self.assertFails(self.route("--input", ""), 2, "must not be empty")

    def test_errors(self):
        self.assertFails(self.route("--input", "x", "--config", "no"), 6, "Routing config not "
                         "found. Check the name with 'twosignal routing list'")
        self.assertFails(self.cli("routing", "test", "--input", "x"), 4,
                         "requires a project API key", "TWOSIGNAL_API_KEY")
        self.assertFails(self.route("--input", "x", env={"TWOSIGNAL_API_KEY": "ts_wrong"}), 4,
                         "The API key is not accepted")
        for status, code in ((400, 1), (403, 5), (413, 1)):
            self.server.fault("/api/v1/route-model", status=status, body={
                "error": {"code": "X", "message": "Words"}})
            with self.subTest(status=status):
                self.assertFails(self.route("--input", "x"), code)
        for body in (["x"], {}, {"model": None}):
            self.server.fault("/api/v1/route-model", status=200, body=body)
            with self.subTest(body=body):
                self.assertFails(self.route("--input", "x"), 8, "wrong type")

    def test_it_changes_nothing(self):
        """Row 21: it is retried like a query, and no outcome is unknown."""
        path = "/api/v1/route-model"
        for status in (429, 500, 503):
            self.server.clear()
            self.server.fault(path, status=status, times=2, body={"error": {"code": "X"}})
            with self.subTest(status=status):
                self.assertOk(self.route("--input", "x"))
                self.assertEqual(self.server.count(path), 3)
        self.server.fault(path, reset=True, after=True)
        result = self.assertFails(self.route("--input", "x"), 3, "No response")
        self.assertNotIn("may have been made", result.err)


if __name__ == "__main__":
    unittest.main()
