"""Commands about organizations, their members, and projects; who may use them, and what is lost."""
from tools import (DIALECTS, TracesCase, procedure_inputs, requests_of, trpc_answer,
                   trpc_error)

OTHERS = ("evaluator", "dataset", "apiKey")


class OrganizationCase(TracesCase):
    options = {}

    def setUp(self):
        super().setUp()
        self.environment["TWOSIGNAL_ORG"] = self.server.org

    def use(self, **options):
        super().use(**options)
        self.environment["TWOSIGNAL_ORG"] = self.server.org

    def emails(self):
        rows = self.assertOk(self.cli("orgs", "list-members", "--json"), err="").json
        return [row["email"] for row in rows]

    def changes(self):
        """(procedure, input) of each mutation that was called."""
        return [(request.procedures[0], request.body["json"]) for request in self.server.requests
                if request.method == "POST" and request.procedures]

    def log_in_as(self, role):
        self.log_in(role + "@example.com")
        self.server.clear()


class Organizations(OrganizationCase):
    def test_members_in_both_dialects(self):
        """The email is at the top of each record, wherever the server has it."""
        for dialect, options in DIALECTS:
            for nested in (False, True):
                self.use(**dict(options, nested_users=nested))
                for role in ("viewer", "member", "owner"):
                    with self.subTest(dialect=dialect, nested=nested, role=role):
                        self.log_in_as(role)
                        result = self.assertOk(self.cli("orgs", "list-members"), err="")
                        heading, _, *rows = map(str.split, result.lines)
                        self.assertEqual(heading, ["ID", "Role", "Created", "Email"])
                        self.assertEqual({(row[1], row[-1]) for row in rows}, {
                            (each.upper(), each + "@example.com")
                            for each in ("owner", "admin", "member", "viewer")})
                        self.assertEqual(self.server.requests[0].procedures,
                                         ["organization.getById"])
                        record = self.assertOk(self.cli("orgs", "get", "--json"), err="").json
                        self.assertEqual([row["email"] for row in record["members"]], self.emails())
                        self.assertEqual((record["name"], record["role"]),
                                         ("Acme 東京", role.upper()))

    def test_rows_of_get_are_the_members(self):
        result = self.assertOk(self.cli("orgs", "get", "--format", "csv", "--fields", "email,role"))
        self.assertEqual(result.lines[0], "email,role")
        self.assertIn("viewer@example.com,VIEWER", result.lines)

    def test_by_name(self):
        self.assertOk(self.cli("orgs", "rename", "Acme Inc", "--org", "Acme 東京"), err="")
        self.assertEqual(self.changes(), [("organization.update", {
            "organizationId": self.server.org, "name": "Acme Inc"})])
        self.assertIn("Acme Inc", self.assertOk(self.cli("orgs", "get", "--org", "Acme Inc")).out)
        self.assertFails(self.cli("orgs", "get", "--org", "Nowhere"), 6, "Organization not found",
                         "'twosignal orgs list'")

    def test_which_one_was_renamed(self):
        """Its old name is told, also if only its ID was given, as by a saved default."""
        said = 'Renamed "%s" to "%s".'
        self.environment["TWOSIGNAL_ORG"] = ""
        self.assertOk(self.cli("projects", "use", "Support Agent"), err="")
        result = self.assertOk(self.cli("orgs", "rename", "Acme 2"), err="")
        self.assertEqual(result.lines[0], said % ("Acme 東京", "Acme 2"))
        self.environment["TWOSIGNAL_ORG"] = "Acme 2"
        result = self.assertOk(self.cli("orgs", "rename", "Acme 3"), err="")
        self.assertEqual(result.lines[0], said % ("Acme 2", "Acme 3"))

    def test_no_organization_given(self):
        for line in ("get", "list-members", "rename x", "add-member --email x --role VIEWER",
                     "remove-member --email x -y"):
            result = self.cli("orgs", *line.split(), env={"TWOSIGNAL_ORG": None})
            self.assertFails(result, 2, "No organization given", self.server.org)
        self.assertEqual(self.changes(), [])

    def test_members_in_a_page(self):
        """Lists of other procedures come in one, too."""
        self.server.fault("organization.getById", times=None, status=200, body=trpc_answer(
            {"id": self.server.org, "name": "Acme", "members": {"items": [
                {"id": "m1", "user": {"email": "a@example.com"}}, {"email": "b@example.com"}]}}))
        self.assertEqual(self.emails(), ["a@example.com", "b@example.com"])
        self.assertEqual(len(self.assertOk(self.cli("orgs", "get", "--json")).json["members"]), 2)
        self.assertFails(self.cli("orgs", "remove-member", "--email", "c@example.com", "-y"), 6)

    def test_an_answer_without_members(self):
        """That they are not known is not "No members found"."""
        self.server.fault("organization.getById", times=None, status=200,
                          body=trpc_answer({"id": self.server.org, "name": "Acme"}))
        for command in ("get", "list-members"):
            self.assertFails(self.cli("orgs", command), 8, "wrong type")


class Members(OrganizationCase):
    PERSON = "stranger@example.com"

    def add(self, email=PERSON, role="MEMBER", *more, **kwargs):
        return self.cli("orgs", "add-member", "--email", email, "--role", role, *more, **kwargs)

    def remove(self, email, *more, **kwargs):
        return self.cli("orgs", "remove-member", "--email", email, *more, **kwargs)

    def member(self, email):
        """The stored row of a member."""
        accounts = {row["id"]: row["email"] for row in self.server.rows("accounts")}
        found, = [row for row in self.server.rows("members")
                  if (row["organizationId"], accounts[row["userId"]]) == (self.server.org, email)]
        return found

    def test_add_and_remove_in_both_dialects(self):
        for dialect, options in DIALECTS:
            for role in ("owner", "admin"):
                with self.subTest(dialect=dialect, role=role):
                    self.use(**options)
                    self.log_in_as(role)
                    before = self.emails()
                    record = self.assertOk(self.add(self.PERSON, "viewer", "--json"), err="").json
                    self.assertEqual((record["email"], record["role"]), (self.PERSON, "VIEWER"))
                    self.assertEqual(self.emails(), before + [self.PERSON])
                    row = self.member(self.PERSON)
                    self.assertEqual(record["id"], row["id"])
                    removed = self.assertOk(self.remove(self.PERSON, "-y", "--json"), err="").json
                    self.assertEqual(removed, {"id": row["id"], "removed": True})
                    self.assertEqual(self.emails(), before)
                    self.assertEqual(self.changes(), [
                        ("organization.addMember", {"organizationId": self.server.org,
                                                    "email": self.PERSON, "role": "VIEWER"}),
                        ("organization.removeMember", {"organizationId": self.server.org,
                                                       "memberId": row["id"],
                                                       "userId": row["userId"]})])

    def test_emails_in_capitals_and_among_blanks(self):
        """Nobody else is removed for them, and blanks are not a part of a new one."""
        self.assertOk(self.add("  %s " % self.PERSON), err="")
        before = self.emails()
        self.assertOk(self.remove(" Stranger@Example.COM ", "--yes"), err="")
        self.assertEqual(self.emails(), [each for each in before if each != self.PERSON])
        for part in ("stranger", "member", "@example.com", "ember@example.com"):
            self.assertFails(self.remove(part, "-y"), 6, "Member not found")

    def test_two_members_of_an_email(self):
        """Their IDs are named, and either is accepted."""
        ids = []
        for email in ("twin@example.com", "TWIN@example.com"):
            self.server.add_account(email, roles={self.server.org: "VIEWER"})
            ids.append(self.member(email)["id"])
        self.assertFails(self.remove("twin@example.com", "-y"), 2, "2 members", *ids)
        self.assertEqual(self.changes(), [])
        self.assertOk(self.remove(ids[1], "-y"), err="")
        self.assertIn("twin@example.com", self.emails())
        self.assertNotIn("TWIN@example.com", self.emails())

    def test_who_is_no_member(self):
        """Neither an account that is not in the organization, nor one that does not exist."""
        for email in (self.PERSON, "nobody@example.com", "\x1b[31m"):
            result = self.assertFails(self.remove(email, "-y"), 6)
            self.assertEqual(result.err, "Error: Member not found. Check the email with 'twosignal "
                             f"orgs list-members --org {self.server.org}'. Also check "
                             "TWOSIGNAL_ORG.\n")
        self.assertEqual(self.changes(), [])

    def test_confirmation(self):
        row = self.member("viewer@example.com")
        question = 'Remove VIEWER "viewer@example.com" (%s) from "Acme 東京"? [y/N]' % row["id"]
        for reply, code in (("n\n", 1), ("\n", 1), ("y\n", 0)):
            before = self.emails()
            result = self.remove("VIEWER@example.com", stdin=reply, tty=True)
            self.assertEqual(result.code, code, result)
            self.assertIn(question, result.err)
            self.assertEqual(self.emails() != before, reply == "y\n")
        self.assertFails(self.remove("member@example.com", stdin="y\n"), 2, "--yes")
        self.assertIn("member@example.com", self.emails())

    def test_a_reason_that_begins_with_a_noun(self):
        """It is not made into "User not found"."""
        for message in ("User has not verified this email", "Member left meanwhile"):
            self.server.fault("organization.addMember", status=404, body=trpc_error(
                "NOT_FOUND", 404, message))
            self.assertFails(self.cli("orgs", "add-member", "--email", "a@b.example", "--role",
                                      "viewer"), 6, message)

    def test_a_role_that_does_not_exist(self):
        """It is refused here; any other is the server's decision."""
        for role in ("bogus", "MEMBERS", "-", "0"):
            self.assertFails(self.add(self.PERSON, role), 2, "OWNER, ADMIN, MEMBER, VIEWER")
        self.assertFails(self.cli("orgs", "add-member", "--email", self.PERSON), 2, "--role")
        self.assertFails(self.cli("orgs", "add-member", "--role", "VIEWER"), 2, "--email")
        self.assertEqual(self.server.requests, [])
        self.assertOk(self.add(self.PERSON, "owner"))

    def test_who_cannot_be_added(self):
        result = self.assertFails(self.add("nobody@example.com"), 6)
        self.assertEqual(result.err, "Error: User not found. Only people with an account can be "
                         "added. Also check TWOSIGNAL_ORG.\n")
        result = self.assertFails(self.add("member@example.com"), 1)
        self.assertEqual(result.err, "Error: The server refused: User is already a member. See "
                         f"'twosignal orgs list-members --org {self.server.org}'.\n")
        other = "99999999-9999-4999-8999-999999999999"
        result = self.assertFails(self.add(self.PERSON, "VIEWER", "--org", other), 6)
        self.assertEqual(result.err, "Error: Organization not found. Check the ID with 'twosignal "
                         "orgs list'.\n")

    def test_the_owner_stays(self):
        """What the server says is told, and nobody is sent to the admin that they are."""
        for role in ("owner", "admin"):
            self.log_in_as(role)
            result = self.assertFails(self.remove("owner@example.com", "-y"), 5)
            self.assertEqual(result.err, "Error: Permission denied. The server says: Cannot remove "
                             f"the owner. Your role is {role.upper()}.\n")

    def test_roles_that_may_not(self):
        """Both the own role and those that may are named."""
        hint = "Your role is %s; OWNER or ADMIN may do this.\n"
        for dialect, options in DIALECTS:
            self.use(**options)
            for role in ("viewer", "member"):
                self.log_in_as(role)
                for result in (self.add(), self.remove("admin@example.com", "-y"),
                               self.cli("orgs", "rename", "Mine")):
                    with self.subTest(dialect=dialect, role=role):
                        self.assertFails(result, 5, "Permission denied",
                                         "Contact your organization admin")
                        self.assertTrue(result.err.endswith(hint % role.upper()), result)

    def test_seats_of_the_plan(self):
        """If all are taken, a refusal of a new member that may be due to it says so."""
        for dialect, options in DIALECTS:
            self.use(**dict(options, seats=True))
            result = self.assertFails(self.add(), 5)
            self.assertEqual(result.err, (
                "Error: Permission denied. The server says: Seat limit reached. Your role is "
                "OWNER. Seats of the PRO plan: 4 of 3 are taken.\n"), dialect)
            self.server.fault("organization.addMember", status=400,
                              body=trpc_error("BAD_REQUEST", 400, "No."))
            self.assertFails(self.add(), 1, "No. Seats of the PRO plan: 4 of 3 are taken.")
            for plan in ("TEAM", "ENTERPRISE", "MYSTERY", None, ["PRO"]):
                self.server.set_plan(self.server.org, plan)
                self.server.fault("organization.addMember", status=400,
                                  body=trpc_error("BAD_REQUEST", 400, "No."))
                self.assertNotIn("Seats", self.assertFails(self.add(), 1, "No.").err)
            self.server.set_plan(self.server.org, "TEAM")
            self.assertOk(self.add())

    def test_a_refusal_that_cannot_be_explained(self):
        """The refusal is the error, whatever becomes of the questions about it."""
        for fault in ({"status": 500}, {"reset": True}, {"garbage": b"<html>"}, {"status": 401},
                      {"status": 200, "body": trpc_answer([])},
                      {"status": 200, "body": trpc_answer([{"id": self.server.org, "role": 1,
                                                            "memberCount": "x", "plan": {}}])}):
            with self.subTest(fault=fault):
                self.server.clear()
                self.server.fault("organization.list", times=None, **fault)
                result = self.assertFails(self.remove("owner@example.com", "-y"), 5)
                self.assertEqual(result.err, "Error: Permission denied. The server says: Cannot "
                                 "remove the owner. Contact your organization admin.\n")

    def test_the_answer_to_a_new_member_is_not_documented(self):
        for answer in ({"success": True}, None, True, []):
            self.server.fault("organization.addMember", status=200, body=trpc_answer(answer))
            record = self.assertOk(self.add(self.PERSON, "VIEWER", "--json"), err="").json
            self.assertEqual((record["email"], record["role"]), (self.PERSON, "VIEWER"))

    def test_gone_meanwhile(self):
        self.server.fault("organization.removeMember", status=404,
                          body=trpc_error("NOT_FOUND", 404, "Member not found"))
        self.assertFails(self.remove("viewer@example.com", "-y"), 6, "Member not found",
                         f"'twosignal orgs list-members --org {self.server.org}'")

    def test_members_without_an_email(self):
        """None is taken for the text of a missing value, and they can be removed by their IDs."""
        members = [{"id": "m1", "email": None, "role": "VIEWER"}, {"id": None, "role": "VIEWER"},
                   {"id": "m2", "user": None}]
        self.server.fault("organization.getById", times=None, status=200, body=trpc_answer(
            {"id": self.server.org, "name": "Acme", "members": members}))
        for email in ("None", "none", "null", "-"):
            self.assertFails(self.remove(email, "-y"), 6, "Member not found")
        self.assertEqual(self.changes(), [])
        self.remove("m2", "-y")
        self.assertEqual(self.changes()[0][1]["memberId"], "m2")

    def test_ids_that_are_numbers_and_members_without_one(self):
        """Whoever is listed can be removed; a member may have the ID of the account alone."""
        members = [{"id": 8, "email": "b@x", "role": "VIEWER"},
                   {"userId": "u1", "email": "c@x", "role": "VIEWER"}]
        self.server.fault("organization.getById", times=None, status=200, body=trpc_answer(
            {"id": self.server.org, "name": "Acme", "members": members}))
        for given in ("b@x", "8", "c@x", "u1"):
            self.remove(given, "-y")
        sent = [(values["memberId"], values.get("userId")) for _, values in self.changes()]
        self.assertEqual(sent, [(8, None), (8, None), ("u1", "u1"), ("u1", "u1")])


class Projects(OrganizationCase):
    def setUp(self):
        super().setUp()
        self.named = self.server.add_project("Old Name", description="old")

    def stored(self, project=None):
        found, = [row for row in self.server.rows("projects")
                  if row["id"] == (project or self.named)]
        return found["name"], found["description"]

    def test_get(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.environment["TWOSIGNAL_ORG"] = ""
            for role in ("viewer", "member", "owner"):
                self.log_in_as(role)
                for given in ("Support Agent", self.server.project, self.server.project.upper()):
                    record = self.assertOk(self.cli("projects", "get", given, "--json")).json
                    self.assertEqual((record["id"], record["name"], record["organization_name"]),
                                     (self.server.project, "Support Agent", "Acme 東京"), dialect)
        for given in (self.server.hidden, "Nowhere", self.server.org):
            self.assertFails(self.cli("projects", "get", given), 6, "Project not found")
        self.assertFails(self.cli("projects", "get"), 2, "Missing PROJECT")

    def test_ids_that_are_numbers(self):
        """They are found as they are shown, and sent as they are."""
        rows = [{"id": 5, "name": "Five"}, {"id": 6, "name": "5"}, {"id": None, "name": "None"}]
        for given, found in (("5", 5), ("Five", 5), ("6", 6)):
            self.server.clear()
            self.server.fault("project.list", times=9, status=200, body=trpc_answer(rows))
            record = self.assertOk(self.cli("projects", "get", given, "--json")).json
            self.assertEqual(record["id"], found)
            self.cli("projects", "update", given, "-n", "x")
            self.cli("projects", "update", given, "-d", "y")
            self.cli("projects", "delete", given, "-y")
            name, = [row["name"] for row in rows if row["id"] == found]
            self.assertEqual(self.changes(), [
                ("project.update", {"projectId": found, "id": found, "name": "x"}),
                ("project.update", {"projectId": found, "id": found, "name": name,
                                    "description": "y"}),
                ("project.delete", {"projectId": found, "id": found})])
            self.assertFails(self.cli("projects", "get", "None"), 6, "Project not found")
            self.assertOk(self.cli("projects", "use", given))
            self.assertEqual(self.cli("whoami", "--json", env={"TWOSIGNAL_PROJECT": None}).json[
                "default_project_id"], found)

    def test_organizations_with_numbers(self):
        self.server.fault("organization.list", times=9, status=200,
                          body=trpc_answer([{"id": 5, "name": "Five", "plan": "PRO"}]))
        self.server.fault("project.list", times=9, status=200, body=trpc_answer([]))
        self.server.fault("usage.getCurrentMonth", times=9, status=200, body=trpc_answer({
            "month": "2026-03", "traceCount": 1, "spanCount": 1, "evalRunCount": 1}))
        for given in ("5", "Five"):
            record = self.assertOk(self.cli("usage", "--org", given, "--json")).json
            self.assertEqual((record["organization_id"], record["plan"]), (5, "PRO"))

    def test_the_fields_of_a_project(self):
        for record in self.cli("projects", "list", "--json", env={"TWOSIGNAL_ORG": ""}).json:
            self.assertEqual(list(record), ["id", "organization_id", "name", "description",
                                            "created_at", "updated_at", "organization_name"])

    def test_update_changes_what_was_given(self):
        self.assertOk(self.cli("projects", "update", "Old Name", "--name", "New"), err="")
        self.assertEqual(self.stored(), ("New", "old"))
        self.assertOk(self.cli("projects", "update", "New", "-d", "new"), err="")
        self.assertEqual(self.stored(), ("New", "new"))
        record = self.assertOk(self.cli("projects", "update", self.named, "-d", "", "--json")).json
        self.assertEqual((record["name"], record["description"]), ("New", ""))
        self.assertOk(self.cli("projects", "update", self.named, "-n", "Both", "-d", "both"))
        self.assertEqual(self.stored(), ("Both", "both"))
        self.assertEqual(self.stored(self.server.project)[0], "Support Agent")
        # The server requires a name, and a description is sent only if it was given.
        ids = {"projectId": self.named, "id": self.named}
        self.assertEqual([values for _, values in self.changes()], [
            dict(ids, name="New"), dict(ids, name="New", description="new"),
            dict(ids, name="New", description=""), dict(ids, name="Both", description="both")])

    def test_update_without_a_change(self):
        result = self.cli("projects", "update", "Old Name")
        self.assertFails(result, 2, "Nothing to change. Pass --name or --description.")
        self.assertFails(self.cli("projects", "update", "Old Name", "--name", ""), 2, "empty")
        self.assertEqual(self.server.requests, [])

    def test_update_and_delete_of_a_uuid_need_no_lookup(self):
        self.cli("projects", "update", self.named, "--name", "New")
        self.cli("projects", "delete", self.named, "-y")
        self.assertEqual([request.procedures for request in self.server.requests],
                         [["project.update"], ["project.delete"]])

    def test_two_of_a_name(self):
        other = self.server.add_org("Other Inc")
        twin = self.server.add_project("Old Name", other)
        for line in ("get", "update -d x", "delete -y"):
            command, *more = line.split()
            argv = ["projects", command, "Old Name"] + more
            self.assertFails(self.cli(*argv, env={"TWOSIGNAL_ORG": ""}), 2, self.named, twin)
            self.assertOk(self.cli(*argv, "--org", "Other Inc"))
        self.assertEqual(self.stored(), ("Old Name", "old"))
        self.assertNotIn(twin, [row["id"] for row in self.server.rows("projects")])

    def fill(self):
        for _ in range(3):
            self.server.add_evaluator(project=self.named)
        for _ in range(2):
            self.server.add_dataset(project=self.named)
        self.server.add_key(project=self.named, name="active")
        self.server.add_key(project=self.named, name="old", revokedAt="2026-03-14T10:30:00.000Z")

    def ask(self, *argv, reply="n\n"):
        return self.cli(*argv, stdin=reply, tty=True)

    def test_the_question_says_what_goes_with_it(self):
        """Revoked API keys have gone already."""
        self.fill()
        question = 'Delete project "Old Name" (%s) with its traces, %%s? [y/N]' % self.named
        for dialect, options in DIALECTS:
            for name, value in options.items():
                setattr(self.server, name, value)
            with self.subTest(dialect=dialect):
                result = self.ask("projects", "delete", "Old Name")
                self.assertEqual(result.code, 1)
                self.assertIn(question % "3 evaluators, 2 datasets, 1 API key", result.err)
        for one, rest in zip(OTHERS, ("2 datasets, 1 API key", "3 evaluators, 1 API key",
                                      "3 evaluators, 2 datasets")):
            self.server.clear()
            self.server.fault(one + ".list", times=None, status=403)
            self.assertIn(question % rest, self.ask("projects", "delete", self.named).err)
        self.assertEqual(self.changes(), [])
        self.assertEqual(self.ask("projects", "delete", "Old Name", reply="y\n").code, 0)
        self.assertNotIn(self.named, [row["id"] for row in self.server.rows("projects")])

    def test_nothing_is_asked_about_a_deletion_with_yes(self):
        self.fill()
        result = self.assertOk(self.cli("projects", "delete", "Old Name", "-y", "--json"), err="")
        self.assertEqual(result.json, {"id": self.named, "deleted": True})
        for kind in OTHERS:
            self.assertEqual(self.server.count(kind + ".list"), 0)

    def test_the_question_names_nothing_that_is_not_there(self):
        self.assertIn('"Old Name" (%s) with its traces? [y/N]' % self.named,
                      self.ask("projects", "delete", "Old Name").err)
        self.environment["TWOSIGNAL_PROJECT"] = self.named
        dataset = self.server.add_dataset(name="Empty", project=self.named)
        self.assertIn('"Empty" (%s)? [y/N]' % dataset, self.ask("datasets", "delete", "Empty").err)

    def test_the_question_counts_items(self):
        self.environment["TWOSIGNAL_PROJECT"] = self.server.project
        self.assertIn(" with its 2 items? [y/N]", self.ask("datasets", "delete", "Test Cases").err)
        self.server.fault("dataset.list", times=None, status=200, body=trpc_answer(
            [{"id": "d1", "name": "Cases"}]))
        self.assertIn('"Cases" (d1)? [y/N]', self.ask("datasets", "delete", "Cases").err)

    def test_roles_that_may_not(self):
        """Also of other resources: whoever is refused learns the own role."""
        hint = "Your role is VIEWER; OWNER, ADMIN or MEMBER may do this.\n"
        for dialect, options in DIALECTS:
            self.use(**options)
            project = self.server.project
            self.environment["TWOSIGNAL_PROJECT"] = project
            self.log_in_as("viewer")
            for argv in (["projects", "update", project, "-n", "x"], ["projects", "create", "x"],
                         ["projects", "delete", project, "-y"], ["datasets", "create", "x"],
                         ["evaluators", "delete", "Has JSON", "-y"], ["api-keys", "create", "x"],
                         ["datasets", "add-item", "Test Cases", "--input", "1"]):
                with self.subTest(dialect=dialect, argv=argv):
                    result = self.assertFails(self.cli(*argv), 5, "Permission denied",
                                              "Contact your organization admin")
                    if "delete" in argv and "projects" in argv:     # who may is not documented
                        self.assertTrue(result.err.endswith("Your role is VIEWER.\n"), result)
                    else:
                        self.assertTrue(result.err.endswith(hint), result)
            self.log_in_as("member")
            self.assertFails(self.cli("projects", "delete", project, "-y"), 5,
                             "Contact your organization admin. Your role is MEMBER.\n")
            self.assertOk(self.cli("projects", "update", project, "-d", "by a member"))

    def test_the_default_project_is_gone(self):
        """The error of a later command names where the ID comes from."""
        self.assertOk(self.cli("projects", "use", "Old Name"))
        self.assertOk(self.cli("projects", "delete", "Old Name", "-y"), err="")
        self.assertFails(self.cli("evaluators", "list"), 6, "Project not found",
                         "Also check 'twosignal projects use'")

    def test_gone_meanwhile(self):
        self.server.world.remove_project(self.named)
        for argv in (["update", self.named, "-n", "x"], ["delete", self.named, "-y"],
                     ["get", self.named], ["delete", "Old Name", "-y"]):
            result = self.assertFails(self.cli("projects", *argv), 6)
            self.assertIn("Error: Project not found. Check the ID with 'twosignal projects list'.",
                          result.err)


class LostAnswers(OrganizationCase):
    def test_outcome_unknown(self):
        """Row 22: the error names the command that shows whether the change was made."""
        members = "orgs list-members --org " + self.server.org
        for line, procedure, command in (
                ("orgs rename x", "organization.update", "orgs list"),
                ("orgs add-member --email stranger@example.com --role ADMIN",
                 "organization.addMember", members),
                ("orgs remove-member --email viewer@example.com -y", "organization.removeMember",
                 members),
                ("projects update PROJECT -n x", "project.update", "projects list"),
                ("projects delete PROJECT -y", "project.delete", "projects list")):
            for fault, code in (({"reset": True}, 9), ({"status": 500}, 8)):
                self.server.clear()
                self.server.fault(procedure, times=None, **fault)
                argv = [self.server.project if word == "PROJECT" else word for word in line.split()]
                with self.subTest(line=line, fault=fault):
                    result = self.cli(*argv, "--json")
                    self.assertFails(result, code)
                    self.assertIn("check with 'twosignal %s' before you repeat it" % command,
                                  result.error["hint"])
                    self.assertEqual(len(requests_of(self.server, procedure)), 1)
                    self.assertOk(self.cli(*command.split()))

    def test_an_answer_that_cannot_be_used(self):
        """Row 22: the change may have been made: only an answer of another form is odd."""
        for answer in (None, [], "done", 5, [{}]):
            for line, procedure, check in (
                    ("orgs rename x", "organization.update", "orgs list"),
                    ("orgs create x", "organization.create", "orgs list"),
                    ("projects create x", "project.create", "projects list --org ORG"),
                    ("projects update PROJECT -n x", "project.update", "projects list"),
                    ("datasets create x --project PROJECT", "dataset.create",
                     "datasets list --project PROJECT"),
                    ("datasets add-item DATASET --input 1 --project PROJECT", "dataset.addItem",
                     "datasets get DATASET --project PROJECT"),
                    ("evaluators toggle EVALUATOR --enable --project PROJECT", "evaluator.update",
                     "evaluators list --project PROJECT")):
                self.server.fault(procedure, status=200, body=trpc_answer(answer))
                ids = {"PROJECT": self.server.project, "ORG": self.server.org,
                       "DATASET": self.server.datasets[0], "EVALUATOR": self.server.evaluators[0]}
                line, check = ([ids.get(word, word) for word in text.split()]
                               for text in (line, check))
                with self.subTest(answer=answer, line=line):
                    self.assertFails(self.cli(*line), 8, "wrong type. The change may have been "
                                     f"made all the same: check with 'twosignal {' '.join(check)}'")
                    self.assertOk(self.cli(*check))

    def test_an_answer_without_the_resource(self):
        """Some servers say only that it was done: it is named as it was given."""
        for line, procedure, message in (
                ("orgs rename x", "organization.update", ' to "x".'),
                ("projects create x", "project.create", 'Created project "x".'),
                (f"projects update {self.server.project} -d x -n y", "project.update",
                 'Updated project "y".')):
            self.server.fault(procedure, status=200, body=trpc_answer({"success": True}))
            self.assertIn(message, self.assertOk(self.cli(*line.split())).out)


class UsageOfAProject(OrganizationCase):
    def test_the_organization_is_the_project_s(self):
        """It is looked up, whatever is the default; --org still counts."""
        other = self.server.add_org("Other Inc")
        named = self.server.add_project("Elsewhere", other)
        self.assertOk(self.cli("projects", "use", "Support Agent", env={"TWOSIGNAL_ORG": None}))
        for project in ("Elsewhere", named):
            for default in (None, ""):
                self.server.clear()
                self.assertOk(self.cli("usage", "--project", project,
                                       env={"TWOSIGNAL_ORG": default}))
                self.assertEqual(procedure_inputs(self.server, "usage.getCurrentMonth"),
                                 [{"organizationId": other}])
        result = self.cli("usage", "--project", named, "--org", "Other Inc")
        self.assertIn("Other Inc", result.out)      # whose totals are shown
        self.assertFails(self.cli("usage", "--project", "Elsewhere", "--org", self.server.org), 6,
                         "Project not found")
        self.assertFails(self.cli("usage", "--project", "Nowhere", env={"TWOSIGNAL_ORG": None}), 6,
                         "Project not found")
