"""The section Errors: each documented error with each command."""
import json
import os

from tools import OWNER, PROCEDURES, CommandCase, trpc_error


class DocumentedErrors(CommandCase):
    """Each documented error with each command."""

    def every(self, code, *parts, **fault):
        for command, procedure in PROCEDURES.items():
            for more in ([], ["--json"]):
                with self.subTest(command=command, more=more):
                    self.server.fault(procedure, times=None, **fault)
                    result = self.cli(*self.argv(command) + more)
                    self.server.clear()
                    self.assertFails(result, code, *parts)
                    self.assertEqual(bool(result.error), bool(more), result)
                    if not more:
                        self.assertEqual(len(result.err.splitlines()), 1, result)

    def test_not_found(self):
        self.every(6, "not found", status=404,
                   body=trpc_error("NOT_FOUND", 404, "Widget not found"))

    def test_forbidden(self):
        self.every(5, "Permission denied", status=403,
                   body=trpc_error("FORBIDDEN", 403, "Insufficient permissions"))

    def test_rate_limited(self):
        self.every(7, "Rate limited", status=429,
                   body=trpc_error("TOO_MANY_REQUESTS", 429, "Slow down"))

    def test_server_error(self):
        self.every(8, status=500, body=trpc_error("INTERNAL_SERVER_ERROR", 500, "Boom"))

    def test_other_server_errors(self):
        for name, status in (("CONFLICT", 409), ("UNPROCESSABLE_CONTENT", 422),
                             ("SOMETHING_NEW", 418)):
            self.server.fault("project.create", status=status,
                              body=trpc_error(name, status, "Name is taken"))
            self.assertFails(self.cli("projects", "create", "x"), 1, "Name is taken")

    def test_a_missing_procedure_is_no_missing_resource(self):
        body = trpc_error("NOT_FOUND", 404, 'No procedure found on path "evaluator.list"')
        self.server.fault("evaluator.list", times=None, status=404, body=body)
        result = self.cli("evaluators", "list")
        self.assertFails(result, 8)
        self.assertNotIn("Check the ID", result.err)

    def test_a_revoked_session(self):
        for command in PROCEDURES:
            argv = self.argv(command)
            self.log_in()
            self.server.revoke(OWNER)
            for more in ([], ["--json"]):
                with self.subTest(command=command, more=more):
                    self.assertFails(self.cli(*argv + more), 4, "Authentication expired",
                                     "twosignal login")

    def test_not_logged_in(self):
        os.remove(os.path.join(self.home, "session.json"))
        for command in PROCEDURES:
            with self.subTest(command=command):
                self.assertFails(self.cli(*self.argv(command)), 4, "twosignal login")
        self.assertEqual(self.server.requests, [])

    def test_connection_refused(self):
        address = self.move_to_closed_port()
        for command in PROCEDURES:
            with self.subTest(command=command):
                argv = self.argv(command) + ["--url", address]
                self.assertFails(self.cli(*argv), 3, "Connection refused", "--url",
                                 "TWOSIGNAL_URL")

    def test_a_json_error_has_four_keys(self):
        result = self.cli("traces", "get", "nope", "--json")
        self.assertFails(result, 6)
        document = json.loads(result.err)
        self.assertEqual(list(document), ["error"])
        self.assertEqual(list(document["error"]), ["code", "message", "hint", "exit_code"])
        self.assertEqual(document["error"]["code"], "NOT_FOUND")
        self.assertEqual(document["error"]["exit_code"], 6)

    def test_missing_resources(self):
        for argv in (["traces", "get", "nope"], ["datasets", "get", "nope"],
                     ["evaluators", "toggle", "nope"], ["evaluators", "toggle", "nope", "--enable"],
                     ["evaluators", "delete", "nope", "-y"], ["datasets", "delete", "nope", "-y"],
                     ["api-keys", "revoke", "nope", "-y"],
                     ["datasets", "add-item", "nope", "--input", "1"]):
            with self.subTest(argv=argv):
                result = self.assertFails(self.cli(*argv), 6, "not found")
                self.assertEqual(len(result.err.splitlines()), 1, result)

    def test_missing_organization(self):
        for argv in (["projects", "list"], ["usage"], ["projects", "create", "x"]):
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv, "--org", "nope"), 6, "Organization not found")

    def test_a_viewer_cannot_change_anything(self):
        argvs = [self.argv(command) for command in PROCEDURES
                 if command.split()[-1] in ("toggle", "delete", "revoke", "add-item")
                 or command in ("projects create", "datasets create", "evaluators create",
                                "api-keys create")]
        self.log_in("viewer@example.com")
        for argv in argvs:
            with self.subTest(argv=argv):
                self.assertFails(self.cli(*argv), 5, "Permission denied",
                                 "organization admin")

    def zod(self, version):
        values = {"options" if version == 3 else "values": ["CONTAINS", "CUSTOM"]}
        return json.dumps([dict(values, path=["type"], code="invalid", message="Invalid option"),
                           {"path": ["config", "rules", 0], "code": "x", "message": "Too bad"},
                           {"path": [], "code": "x", "message": "Nothing fits"}])

    def test_rejected_input(self):
        for version in (3, 4):
            body = trpc_error("BAD_REQUEST", 400, self.zod(version))
            self.server.fault("evaluator.create", status=400, body=body)
            result = self.cli(*self.argv("evaluators create"))
            self.assertFails(result, 1)
            first, *problems = result.err.splitlines()
            self.assertTrue(first.startswith("Error: "), result)
            self.assertEqual(len(problems), 3, result)
            for part in ("type", "Invalid option", "CONTAINS", "CUSTOM"):
                self.assertIn(part, problems[0])
            self.assertIn("config.rules", problems[1])
            self.assertIn("Too bad", problems[1])
            self.assertIn("Nothing fits", problems[2])

    def test_rejected_input_as_json(self):
        body = trpc_error("BAD_REQUEST", 400, self.zod(4))
        self.server.fault("evaluator.create", status=400, body=body)
        result = self.cli(*self.argv("evaluators create") + ["--json"])
        self.assertFails(result, 1, "Invalid option", "Too bad")
        self.assertEqual(result.error["code"], "BAD_REQUEST")
        self.assertEqual(len(result.error["problems"]), 3)

    def test_rejected_input_whose_message_is_no_list(self):
        for message in ("Name is too long", "{", "[1, 2]", "[]", '"x"', "null", ""):
            with self.subTest(message=message):
                self.server.fault("project.create", status=400,
                                  body=trpc_error("BAD_REQUEST", 400, message))
                self.assertFails(self.cli("projects", "create", "x"), 1)


class WhereTheCauseIsFound(CommandCase):
    """An error in a layer that `doctor` checks says so; others have a way out of their own."""

    POINTER = "run 'twosignal doctor' with the same global options."

    def assertPoints(self, result, expected=True):
        self.assertEqual(result.err.count(self.POINTER), int(expected), result)
        self.assertEqual(len(result.err.splitlines()), 1)

    def test_between_here_and_the_server(self):
        """A connection that breaks or is refused, another program, a redirect, a gateway."""
        page = {"Content-Type": "text/html"}
        for fault in (dict(reset=True), dict(status=200, body="<html>", headers=page),
                      dict(status=403, body="<html>", headers=page),
                      dict(status=302, headers={"Location": "https://portal.example.test"})):
            with self.subTest(fault=fault):
                self.server.fault("organization.list", times=None, **fault)
                for more in ([], ["--json"], ["-q"]):
                    self.assertPoints(self.cli("orgs", "list", *more))
                self.server.clear()
        self.assertPoints(self.cli("orgs", "list", "--url", self.move_to_closed_port()))

    def test_errors_of_other_kinds(self):
        """Wrong usage, what is missing or refused, a plan's limit, a server that fails."""
        self.assertPoints(self.cli("orgs", "lits"), False)
        for code, status in (("NOT_FOUND", 404), ("FORBIDDEN", 403), ("UNAUTHORIZED", 401),
                             ("BAD_REQUEST", 400), ("CONFLICT", 409), ("PAYLOAD_TOO_LARGE", 413),
                             ("TOO_MANY_REQUESTS", 429), ("INTERNAL_SERVER_ERROR", 500)):
            with self.subTest(code=code):
                self.server.fault("organization.list", times=None, status=status,
                                  body=trpc_error(code, status, "No"))
                self.assertPoints(self.cli("orgs", "list"), False)
                self.server.clear()

    def test_a_response_that_is_too_large(self):
        """Nothing is wrong with the connection."""
        self.server.fault("organization.list", times=None, garbage=b"[" * 200000)
        self.assertPoints(self.cli("orgs", "list"), False)
