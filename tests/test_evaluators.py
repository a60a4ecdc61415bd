"""Evaluators: secrets in their configs, configs that cannot work, changes, and files of them."""
import gzip
import json
import os
import signal
import stat
import unittest

import twosignal
from tools import (DIALECTS, NEW, OLD, CommandCase, posix, procedure_inputs, trpc_answer,
                   trpc_error)

SECRET_KEYS = """
    api_key apiKey APIKEY ApiKey api-key x-api-key X-API-KEY X-Api-Key token auth_token accessToken
    ACCESS_TOKEN authtoken secret client_secret clientSecret password passWord PASSWORD
    authorization Authorization Proxy-Authorization cookie Set-Cookie credentials private_key
    privateKey privatekey PRIVATE-KEY aws_secret_access_key OPENAI_API_KEY webhookSecret api_keys
    token_2 apiKey1 db.password admin_token adminToken helper-token passwordHash auth_header
    credentials_json secret_key_base api_key_prod Ocp-Apim-Subscription-Key X-Functions-Key
    X-Hub-Signature X-Session Authentication hmac_key account_key shared_key master_key
    X-Api-Secret-Id""".split()
HARMLESS_KEYS = """
    max_tokens maxTokens tokenizer token_count tokenCount total_tokens tokens TOKENS author
    authority key primary_key required_keys passed pass compass secretary tokenize monkey value
    token_limit headers criteria cost_per_token stop_token case_sensitive""".split()
CANARY = "canary"
# Each string that begins with "canary" is a secret.
CONFIG = {
    "apiKey": "canary-1", "max_tokens": 64, "tokenizer": "word", "criteria": "No password: ever",
    "headers": {"Authorization": "canary-2 it's \"quoted\"", "X-Trace": "shown", "Accept": None},
    "steps": [{"deep": [{"client-secret": ["canary-3's", {"any": "canary-4"}]}]}],
    "credentials": {"user": "canary-5", "id": 71234567}, "cookie": None, "token": True,
    "pairs": [{"name": "Authorization", "value": "canary-9"}, {"name": "Accept", "value": "any"},
              {"key": "X-Api-Key", "value": "canary-14"}, {"value": "any", "header": None}],
    "schema": {"properties": {"token": {"type": "string"}}},
    "hooks": ["https://canary-10@hooks.example/", "https://f.example/?code=canary-11",
              "Authorization: Bearer canary-12", "Accept: any", "Tokens: no password in a text"],
    "dsn": "Server=x; Password=canary-13;Database=y",
    "url": "https://me:canary-6@hooks.example/x?channel=7&access_token=canary-7&sig=canary-8#end"}
SHOWN = {
    "apiKey": "***", "max_tokens": 64, "tokenizer": "word", "criteria": "No password: ever",
    "headers": {"Authorization": "***", "X-Trace": "shown", "Accept": None},
    "steps": [{"deep": [{"client-secret": "***"}]}],
    "credentials": "***", "cookie": None, "token": True,
    "pairs": [{"name": "Authorization", "value": "***"}, {"name": "Accept", "value": "any"},
              {"key": "X-Api-Key", "value": "***"}, {"value": "any", "header": None}],
    "schema": {"properties": {"token": {"type": "string"}}},
    "hooks": ["https://***@hooks.example/", "https://f.example/?code=***",
              "Authorization: ***", "Accept: any", "Tokens: no password in a text"],
    "dsn": "Server=x; Password=***;Database=y",
    "url": "https://me:***@hooks.example/x?channel=7&access_token=***&sig=***#end"}


class NamesOfSecrets(unittest.TestCase):
    def test_any_spelling(self):
        for name in SECRET_KEYS:
            with self.subTest(name=name):
                self.assertTrue(twosignal.is_secret_name(name))

    def test_words_are_compared_not_substrings(self):
        for name in HARMLESS_KEYS:
            with self.subTest(name=name):
                self.assertFalse(twosignal.is_secret_name(name))

    def test_masking_ends(self):
        """A pattern that backtracks would not be done with these today."""
        for text in ("://a:", "?", "?a=", "://", ":", "a@", "?token=x", "token", "aA", "_", "max_",
                     ";", "; ", ";a=", "a: ", ": "):
            for start in ("", "://u:", "?"):
                long = start + text * 20000
                masked = twosignal.mask_config({"url": long, long: 5})
                self.assertEqual(list(masked), ["url", long])


class SecretsInConfigs(CommandCase):
    def setUp(self):
        super().setUp()
        self.evaluator = self.server.add_evaluator(name="Judge", type="LLM_JUDGE", config=CONFIG)

    def run_all(self, *more):
        """{what: Result} of each command that prints an evaluator."""
        create = ("evaluators", "create", "-n", "x", "--type", "TOXICITY", "--config",
                  json.dumps(CONFIG))
        listed = {"api %s" % name: ("api", "evaluator." + name, "--input", json.dumps(values)) + how
                  for name, values, how in (
                      ("list", {"projectId": self.server.project}, ()),
                      ("update", {"id": self.evaluator, "enabled": True}, ("--mutation",)),
                      ("create", {"projectId": self.server.project, "name": "y", "type": "TOXICITY",
                                  "config": CONFIG}, ("--mutation",)))}
        commands = dict(listed, list=("evaluators", "list"), create=create, toggle=(
            "evaluators", "toggle", self.evaluator, "--enable"), get=(
            "evaluators", "get", self.evaluator), update=(
            "evaluators", "update", self.evaluator, "--name", "Judge"))
        commands["export list"] = ("evaluators", "export")
        return {what: self.assertOk(self.cli(*argv + more)) for what, argv in commands.items()}

    def test_no_format_shows_them(self):
        """Row 53: secrets in the configs of evaluators are *** in every format and field."""
        formats = [("--format", name) for name in twosignal.FORMATS]
        fields = [("--fields", "config.apiKey,config.headers.Authorization,config.url,config",
                   "--format", name) for name in twosignal.FORMATS]
        for more in formats + fields:
            for what, result in self.run_all(*more).items():
                with self.subTest(what=what, more=more):
                    self.assertNotIn(CANARY, result.out + result.err)
                    self.assertNotIn("71234567", result.out + result.err)

    def test_the_rest_of_a_config_stays(self):
        """Row 53: only the secrets are masked."""
        for what, result in self.run_all("--json").items():
            with self.subTest(what=what):
                record = result.json
                if "list" in what:
                    record = [each for each in result.json if each["name"] == "Judge"][-1]
                self.assertEqual(record["config"], SHOWN)

    def test_on_request(self):
        """Row 53: --show-secrets shows them."""
        for what, result in self.run_all("--json", "--show-secrets").items():
            with self.subTest(what=what):
                record = result.json
                if "list" in what:
                    record = [each for each in result.json if each["name"] == "Judge"][-1]
                self.assertEqual(record["config"], CONFIG)

    def test_what_is_sent_is_complete(self):
        self.run_all()
        for given in procedure_inputs(self.server, "evaluator.create"):
            self.assertEqual(given["config"], CONFIG)

    def test_errors_and_debug(self):
        """Row 53: neither an error that repeats the config nor --debug shows its secrets."""
        for echo in (json.dumps(CONFIG), CONFIG["headers"]["Authorization"], "bad: canary-7"):
            body = trpc_error("BAD_REQUEST", 400, "Invalid config " + echo)
            for more in ((), ("--json",), ("--debug",), ("--debug", "--show-secrets")):
                for argv in (("evaluators", "create", "-n", "x", "--type", "TOXICITY", "--config",
                              json.dumps(CONFIG)),
                             ("api", "evaluator.create", "--mutation", "--input",
                              json.dumps({"name": "x", "config": CONFIG}))):
                    self.server.fault("evaluator.create", status=400, body=body)
                    with self.subTest(echo=echo, argv=argv[:2], more=more):
                        result = self.cli(*argv + more)
                        self.assertFails(result, 1, "Invalid config")
                        self.assertNotIn("canary-", result.err)
                        self.assertNotIn("71234567", result.err)

    def test_raw_responses_of_other_procedures_stay(self):
        """`api` masks below `config`, in what procedures of evaluators return, and nothing else."""
        answer = {"config": {"token": "x1"}, "nextToken": "y"}
        masked = dict(answer, config={"token": "***"})
        for procedure, expected in (("modelRouting.list", answer), ("evaluator.list", masked)):
            self.server.fault(procedure, status=200, body=trpc_answer(answer))
            self.assertEqual(self.assertOk(self.cli("api", procedure)).json, expected)

    def test_evaluators_inside_other_resources(self):
        self.server.fault("dataset.getById", status=200, body=trpc_answer(
            {"id": "d", "items": [], "evaluators": [{"config": {"secret": CANARY}}]}))
        result = self.cli("datasets", "get", "11111111-1111-4111-8111-111111111111", "--json")
        self.assertEqual(self.assertOk(result).json["evaluators"], [{"config": {"secret": "***"}}])

    def test_configs_of_other_shapes(self):
        """What is no object is masked too."""
        url = "https://example.com/?token="
        for config, expected in ((None, None), (7, 7), (url + CANARY, url + "***"), ({}, {}),
                                 ([{"token": CANARY}], [{"token": "***"}])):
            self.server.fault("evaluator.list", status=200, body=trpc_answer([{"config": config}]))
            result = self.assertOk(self.cli("evaluators", "list", "--json"))
            self.assertEqual(result.json[0]["config"], expected)

    def test_a_config_that_is_nested_too_deeply(self):
        """It is an error, and not shown unmasked."""
        config = "[" * 5000 + json.dumps({"token": CANARY}) + "]" * 5000
        body = '{"result": {"data": {"json": [{"config": %s}]}}}' % config
        self.server.fault("evaluator.list", status=200, body=body)
        result = self.cli("evaluators", "list", "--json")
        self.assertFails(result, 8, "nested too deeply")
        self.assertNotIn(CANARY, result.err)


class ConfigsThatCannotWork(CommandCase):
    def create(self, kind, config=None, *more):
        argv = ("--config", json.dumps(config)) if config is not None else ()
        return self.cli("evaluators", "create", "-n", "x", "--type", kind, *argv + more)

    def test_a_required_key_is_missing(self):
        """The evaluator is created all the same."""
        for kind, key in twosignal.EVALUATOR_TYPES.items():
            for config in (None, {}, {key or "threshold": "x"}, {key or "threshold": None}):
                is_missing = bool(key) and (config or {}).get(key) is None
                with self.subTest(kind=kind, config=config):
                    result = self.assertOk(self.create(kind, config))
                    self.assertEqual(result.err, is_missing * (
                        "Warning: a %s evaluator needs '%s' in its --config.\n" % (kind, key)))

    def test_all_documented_types(self):
        required = {kind: key for kind, key in twosignal.EVALUATOR_TYPES.items() if key}
        self.assertEqual(required, {
            "CONTAINS": "value", "REGEX_MATCH": "pattern", "JSON_SCHEMA": "schema",
            "STARTS_WITH": "value", "ENDS_WITH": "value", "COST": "max_cost_usd",
            "RESPONSE_TIME_SLA": "tiers", "WORKFLOW_ADHERENCE": "expected_steps",
            "SENTIMENT": "target", "LLM_JUDGE": "criteria", "WEBHOOK": "url"})
        self.assertEqual(len(twosignal.EVALUATOR_TYPES), 25)

    def test_keywords_that_the_server_ignores(self):
        """Keys of `properties` are names; annotations are harmless; each keyword is named once."""
        schema = {"$schema": "x", "title": "x", "type": "object", "required": ["format"],
                  "properties": {"pattern": {"type": "string", "pattern": "a"},
                                 "oneOf": {"items": {"properties": {"x": {"format": "date"}}}},
                                 "y": {"items": {"pattern": "b", "const": 1}}},
                  "additionalProperties": False, "default": {"not": 1}, "enum": [{"not": 1}]}
        self.assertEqual(self.assertOk(self.create("JSON_SCHEMA", {"schema": schema})).err,
                         "Warning: the server ignores in the schema: "
                         "additionalProperties, const, format, pattern.\n")
        for schema in ({"type": "object"}, True, [], "x", {"properties": 5, "items": None},
                       {"properties": {"not": {}}, "items": {"properties": {"anyOf": True}}}):
            with self.subTest(schema=schema):
                self.assertOk(self.create("JSON_SCHEMA", {"schema": schema}), err="")
        self.assertOk(self.create("TOXICITY", {"schema": {"not": {}}}), err="")

    def test_type_in_other_letters(self):
        """It is sent as it is: the server may know it."""
        for kind in ("llm_judge", "Llm-Judge"):
            self.create(kind, {"criteria": "x"})
        self.assertEqual([given["type"] for given in procedure_inputs(
            self.server, "evaluator.create")], ["llm_judge", "Llm-Judge"])

    def test_quiet(self):
        self.assertOk(self.create("JSON_SCHEMA", None, "-q"), err="")

    def test_no_example_has_wrong_keys(self):
        """Keys of configs are in snake_case."""
        for each in twosignal.COMMANDS.values():
            if each.name.startswith("evaluators"):
                self.assertNotRegex(" ".join(each.examples), r'"[a-z]+[A-Z]\w*":')

    def test_types_are_completed(self):
        result = self.run_cli("__complete", "--", "evaluators", "create", "--type", "LL")
        self.assertEqual(self.assertOk(result, err="").out, "LLM_JUDGE\n")


class EvaluatorCase(CommandCase):
    """A project with one evaluator, Judge."""

    def setUp(self):
        super().setUp()
        self.use(self.server)

    def use(self, server, **fields):
        """Goes on with a project that is new on a server; fields: of Judge."""
        self.server = server
        self.log_in()
        self.project = server.add_project(name="New")
        self.environment["TWOSIGNAL_PROJECT"] = self.project
        self.judge = self.add("Judge", **dict({"type": "LLM_JUDGE", "config": CONFIG}, **fields))
        server.clear()

    def add(self, name, **fields):
        return self.server.add_evaluator(name=name, project=self.project, **fields)

    def all_stored(self):
        return [row for row in self.server.rows("evaluators") if row["projectId"] == self.project]

    def stored(self, name="Judge"):
        return [row for row in self.all_stored() if row["name"] == name][-1]

    def changes(self):
        """What was sent, by procedure, in its order."""
        return [name for request in self.server.requests for name in request.procedures
                if request.method == "POST"]

    def update(self, *args, **kwargs):
        return self.cli("evaluators", "update", "Judge", *args, **kwargs)

    def change(self, **config):
        """Updates the config that `evaluators get` shows of Judge, with these values in it."""
        return self.update("--config", json.dumps(dict(SHOWN, **config)))


class GetAndUpdate(EvaluatorCase):
    def test_get(self):
        for given in ("Judge", self.judge):
            result = self.assertOk(self.cli("evaluators", "get", given), err="")
            self.assertIn("Type:     LLM_JUDGE\n", result.out)
            self.assertIn('\n      "max_tokens": 64,\n', result.out)
            record = self.assertOk(self.cli("evaluators", "get", given, "--json")).json
            self.assertEqual((record["id"], record["enabled"], record["config"]),
                             (self.judge, True, SHOWN))
        for missing in ("Nobody", "11111111-1111-4111-8111-111111111111"):
            self.assertFails(self.cli("evaluators", "get", missing), 6, "Evaluator not found",
                             "evaluators list")

    def test_only_what_is_given_is_sent(self):
        for options, sent in ((["--name", "Judge"], {"name": "Judge"}),
                              (["-n", "Judge", "--disable"], {"name": "Judge", "enabled": False}),
                              (["--enable"], {"enabled": True}),
                              (["--config", "{}"], {"config": {}})):
            self.server.clear()
            result = self.assertOk(self.update(*options))
            self.assertIn('Updated evaluator "Judge".', result.out)
            given, = procedure_inputs(self.server, "evaluator.update")
            self.assertEqual(given, dict(sent, id=self.judge, projectId=self.project))
            self.assertEqual(len(procedure_inputs(self.server, "evaluator.list")), 1)

    def test_nothing_to_change(self):
        self.assertFails(self.update(), 2, "--name, --config, --enable or --disable")
        for config in ("null", "[]", "5", '"x"'):
            for command in (["update", "Judge"], ["create", "-n", "x", "--type", "COST"]):
                result = self.cli("evaluators", *command + ["--config", config])
                self.assertFails(result, 2, "Invalid --config: must be an object")
        self.assertFails(self.update("--enable", "--disable"), 2)
        self.assertEqual(self.changes(), [])

    def test_a_config_that_cannot_work(self):
        self.assertEqual(self.assertOk(self.update("--config", '{"x": 1}')).err,
                         "Warning: a LLM_JUDGE evaluator needs 'criteria' in its --config.\n")
        self.assertOk(self.update("--disable"), err="")

    def test_secrets_that_are_masked_stay(self):
        """Row 75: *** is what is stored in that place: in objects, lists, and inside URLs."""
        self.assertOk(self.change(max_tokens=65))
        self.assertEqual(self.stored()["config"], dict(CONFIG, max_tokens=65))
        headers = dict(SHOWN["headers"], Accept="any", Authorization="new")
        self.assertOk(self.change(headers=headers))
        self.assertEqual(self.stored()["config"], dict(CONFIG, headers=headers))

    def test_other_masks_are_refused(self):
        """Row 75: *** that stands for nothing is a usage error that names its place."""
        pairs = SHOWN["pairs"]
        for key, value, path in (
                ("apiKey2", "***", "apiKey2"), ("criteria", "***", "criteria"),
                ("headers", {"X-Auth": "***"}, "headers.X-Auth"),
                ("steps", {"0": SHOWN["steps"][0]}, "steps.0.deep.0.client-secret"),
                ("credentials", {"user": "***"}, "credentials"),
                ("pairs", [{"name": "X-Token", "value": "***"}, pairs[1]], "pairs.0.value"),
                ("hooks", ["https://***@other.example/"], "hooks.0"),
                ("hooks", ["https://x.example/?token=***", "x"], "hooks.0"),
                ("url", SHOWN["url"].replace("channel=7", "channel=8"), "url")):
            with self.subTest(key=key, value=value):
                result = self.change(**{key: value})
                self.assertFails(result, 2, f"config.{path} has ***")
        self.assertEqual(self.changes(), [])

    def test_a_new_evaluator_has_no_masks(self):
        """Row 75: create refuses *** as a secret, as apply does."""
        for config in (SHOWN, {"apiKey": "***"}, {"headers": {"Authorization": "Bearer ***"}}):
            result = self.cli("evaluators", "create", "-n", "x", "--type", "COST", "--config",
                              json.dumps(config))
            self.assertFails(result, 2, "has *** in place of a secret")
        self.assertEqual(self.changes(), [])

    def test_text_with_asterisks(self):
        for text in ("Rate *** words", "****", "a ***", "https://x.example/***?q=a***"):
            self.assertOk(self.change(criteria=text))
            self.assertEqual(self.stored()["config"], dict(CONFIG, criteria=text))


class MasksInLists(unittest.TestCase):
    """Row 75: a secret never becomes that of another item of a list."""

    A, B = ({"url": name, "headers": {"Authorization": name + "-secret"}} for name in "ab")
    STORED = [A, B]

    def restored(self, shown, stored=None):
        stored = self.STORED if stored is None else stored
        masked = map(twosignal.mask_config, (shown, stored))
        return twosignal.unmask(shown, *masked, stored=stored, path="config")

    def test_moved_removed_and_added(self):
        a, b = twosignal.mask_config(self.STORED)
        for shown, expected in (([a, b], [self.A, self.B]), ([b, a], [self.B, self.A]),
                                ([b], [self.B]), ([{"new": 1}, a, b], [{"new": 1}, self.A, self.B]),
                                ([b, dict(a)], [self.B, self.A])):
            self.assertEqual(self.restored(shown), expected)

    def assertRefused(self, shown, path, stored=None):
        with self.assertRaises(twosignal.Failure) as caught:
            self.restored(shown, stored)
        self.assertIn(f"config{path} has ***", caught.exception.message)

    def test_changed(self):
        """Which of the others a changed item is, nothing tells for certain."""
        a, b = twosignal.mask_config(self.STORED)
        for shown in ([dict(b, retries=3), dict(a, retries=3)], [dict(a, retries=3), b],
                      [dict(b, retries=3)], [dict(a, x=1), b, b], [dict(a, url="c"), b]):
            self.assertRefused(shown, ".0.headers.Authorization")
        self.assertEqual(self.restored([{"url": "c"}, b]), [{"url": "c"}, self.B])

    def test_masks_within_a_secret(self):
        """Row 75: a text that contains *** never takes a secret's place."""
        for key, value in (("Authorization", "Bearer ***"), ("api_key", "***\n"),
                           ("secret", ["x", "a***"]), ("token", {"a": "b***"}),
                           ("url", "https://x.example/?token=a***")):
            for stored in ({key: "s1"}, {}, {key: value, "other": 1}):
                self.assertRefused({"more": 1, key: value}, "." + key, stored)

    def test_the_rest_of_an_object_with_a_name(self):
        """Only the value that the name belongs to is another one's."""
        stored = {"name": "token", "value": "s1", "apiKey": "s2", "properties": {
            "password": {"description": "shown as ***"}}}
        shown = dict(twosignal.mask_config(stored), name="x-token", more=["x*", "**y"])
        self.assertEqual(self.restored(dict(shown, value="s3"), stored),
                         dict(shown, value="s3", apiKey="s2"))
        self.assertRefused(shown, ".value", stored)
        shown = {"apiKey": ["x*", "**y"], "properties": {"password": {"description": "as ***"}}}
        self.assertEqual(self.restored(shown, stored), shown)

    def test_items_that_look_alike(self):
        stored = ["https://one@x.example/", "https://two@x.example/", "z"]
        shown = twosignal.mask_config(stored)
        self.assertEqual(self.restored(shown, stored), stored)
        self.assertRefused(shown[:2] + ["y"], ".0", stored)
        self.assertEqual(self.restored(["z", "z", "new"], ["z", "z"]), ["z", "z", "new"])

    def test_values_that_are_the_same(self):
        same = twosignal.is_same
        self.assertTrue(same({"a": 1, "b": [1.0, None]}, {"b": [1, None], "a": 1.0}))
        self.assertEqual(*map(twosignal.canonical_json, ([-0.0, 0, 1e400], [0, -0.0, 1e400])))
        for value, other in ((1, True), (0, False), ([1, True], [True, 1]), ("1.0", "1"),
                             ({"a": None}, {}), ("v1.0", "v1"), (None, 0), ([], {})):
            self.assertFalse(same(value, other), (value, other))

    def test_every_kind_of_secret(self):
        """Row 75: whatever mask_config() hides comes back whole, or is refused elsewhere."""
        configs = [{key: "s3cret"} for key in SECRET_KEYS] + [{key: 5} for key in SECRET_KEYS]
        configs += [CONFIG, {"a": [[{"token": "x"}]]}, {"url": "http://u:p@h/?sig=a#token=b"}]
        for config in configs:
            shown = twosignal.mask_config(config)
            with self.subTest(config=config):
                self.assertEqual(self.restored(shown, config), config)
                for stored in (None, {}, {"x": "y"}, [], "***x"):
                    with self.assertRaises(twosignal.Failure):
                        self.restored(shown, [stored])


class Files(EvaluatorCase):
    """evaluators export and apply."""

    def export(self, *options):
        return self.assertOk(self.cli("evaluators", "export", *options), err="").json

    def apply(self, content, *options, **kwargs):
        path = self.write("evaluators.json", content)
        return self.cli("evaluators", "apply", "-f", path, *options, **kwargs)

    def rows(self, content, *options):
        return self.assertOk(self.apply(content, "--json", *options)).json

    def fields(self):
        """What all evaluators are, but for IDs and times."""
        return sorted(([row[key] for key in ("name", "type", "config", "enabled")]
                       for row in self.all_stored()), key=str)

    def test_export(self):
        self.add("A", type="COST", config={"max_cost_usd": 1}, enabled=False)
        rows = self.export()
        self.assertEqual(rows, [
            {"name": "A", "type": "COST", "config": {"max_cost_usd": 1}, "enabled": False},
            {"name": "Judge", "type": "LLM_JUDGE", "config": SHOWN, "enabled": True}])
        self.assertEqual(self.export("--show-secrets")[1]["config"], CONFIG)
        path = self.path("evals.json")
        self.assertOk(self.cli("evaluators", "export", "-o", path), err="")
        with open(path) as file:
            self.assertEqual(json.load(file), rows)
        self.assertEqual([list(row) for row in self.export("--fields", "id,name")],
                         [["id", "name"]] * 2)
        out = self.cli("evaluators", "export", "--format", "jsonl").lines
        self.assertEqual([json.loads(line) for line in out], rows)

    @posix
    def test_only_the_user_can_read_secrets(self):
        """Row 53: with --show-secrets, a file is private, whatever could read it before."""
        for command in ("export", "list"):
            path = self.write("evals.json", "old")
            os.chmod(path, 0o644)
            for more, mode in (((), 0o644), (("--show-secrets",), 0o600)):
                self.assertOk(self.cli("evaluators", command, "-o", path, *more), err="")
                self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), mode)

    def test_what_is_exported_changes_nothing(self):
        """Row 75: a file with masked secrets, applied where it is from, makes no change."""
        self.add("A", config={"value": "***"}, enabled=False)
        for more in ((), ("--format", "jsonl"), ("--show-secrets",), ("--fields",
                     "id,created_at,enabled,config,type,name")):
            text = self.assertOk(self.cli("evaluators", "export", *more)).out
            for content in (text, "\ufeff" + text.replace("\n", "\r\n")):
                result = self.assertOk(self.apply(content, "--prune"))
                self.assertEqual(result.out, "0 changes made, 2 unchanged.\n")
        self.assertEqual(self.changes(), [])
        self.assertEqual(result.err, "")

    def test_to_another_server(self):
        for first, second in ((OLD, NEW), (NEW, OLD)):
            self.use(self.serve(**first))
            self.add("Off", type="COST", config={"max_cost_usd": 0.5}, enabled=False)
            rows, masked, fields = self.export("--show-secrets"), self.export(), self.fields()
            self.use(self.serve(**second), type="COST", config={})
            self.assertFails(self.apply(masked), 2, "'Judge': config.apiKey has ***",
                             "--show-secrets")
            self.assertEqual(self.changes(), [])
            self.assertOk(self.apply(rows))
            self.assertEqual(self.fields(), fields)
            self.assertEqual(self.export(), masked)

    def test_only_differences_are_sent(self):
        content = [{"name": "New", "type": "COST", "config": {"max_cost_usd": 1}, "enabled": False},
                   {"name": "Later", "type": "TOXICITY"},
                   {"name": "Judge", "config": dict(SHOWN, max_tokens=65), "type": "LLM_JUDGE"}]
        rows = self.rows(content)
        self.assertEqual(self.changes(), ["evaluator.create", "evaluator.update",
                                          "evaluator.create", "evaluator.update"])
        self.assertEqual(rows, [
            {"action": "create", "name": "New", "id": self.stored("New")["id"],
             "changes": {"type": "COST", "config": {"max_cost_usd": 1}, "enabled": False}},
            {"action": "create", "name": "Later", "id": self.stored("Later")["id"],
             "changes": {"type": "TOXICITY"}},
            {"action": "update", "name": "Judge", "id": self.judge,
             "changes": {"config": dict(SHOWN, max_tokens=65)}}])
        self.assertEqual(procedure_inputs(self.server, "evaluator.update"), [
            {"id": rows[0]["id"], "projectId": self.project, "enabled": False},
            {"id": self.judge, "projectId": self.project,
             "config": dict(CONFIG, max_tokens=65)}])
        self.assertEqual((self.stored("New")["type"], self.stored("New")["enabled"]),
                         ("COST", False))
        self.assertEqual((self.stored("Later")["type"], self.stored("Later")["config"]),
                         ("TOXICITY", {}))
        self.assertEqual(self.rows(content), [])

    def test_a_type_that_a_newer_server_knows(self):
        self.assertFails(self.apply([{"name": "x", "type": "Next_Type"}]), 1, "Invalid enum value")
        self.assertEqual(procedure_inputs(self.server, "evaluator.create")[0]["type"], "Next_Type")

    def test_what_a_file_leaves_out_stays(self):
        for content in ([{"name": "Judge"}], [{"name": "Judge", "config": None, "enabled": None}],
                        '{"name": "Judge", "type": "LLM_JUDGE", "enabled": true}\n'):
            self.assertEqual(self.rows(content), [])
        self.assertEqual(self.rows([{"name": "Judge", "enabled": False}])[0]["changes"],
                         {"enabled": False})
        self.assertEqual(self.stored()["config"], CONFIG)

    def test_sources(self):
        content = json.dumps([{"name": "Judge", "enabled": False}]).encode()
        path = self.write("evals.json.gz", gzip.compress(content))
        result = self.assertOk(self.cli("evaluators", "apply", "-f", path, "--dry-run"))
        self.assertIn("update  enabled  Judge\n", result.out)
        result = self.assertOk(self.cli("evaluators", "apply", "-f", "-", stdin=content))
        self.assertEqual(result.out, "1 change made, 0 unchanged.\n")

    def test_plan(self):
        """It is shown before the first change; with --dry-run, nothing is changed."""
        content = [{"name": "New", "type": "TOXICITY"}]
        plan = ("Action  Changes  Name\n" + "─" * 22
                + "\ncreate  type     New\ndelete  -        Judge\n")
        result = self.assertOk(self.apply(content, "--prune", "--dry-run"), err="")
        self.assertEqual(result.out, "Dry run: 2 changes, 0 unchanged.\n" + plan)
        rows = self.rows(content, "--prune", "--dry-run")
        self.assertEqual(rows, [{"action": "create", "name": "New", "id": None,
                                 "changes": {"type": "TOXICITY"}},
                                {"action": "delete", "name": "Judge", "id": self.judge,
                                 "changes": {}}])
        self.assertEqual(self.changes(), [])
        self.server.fault("evaluator.create", status=400)
        self.assertEqual(self.apply(content, "--prune", "-y").err[:len(plan)], plan)
        result = self.assertOk(self.apply(content, "--prune", "-y", "--json"))
        self.assertEqual([row["action"] for row in result.json], ["create", "delete"])
        self.assertEqual(result.err, plan)
        self.assertOk(self.apply([{"name": "New", "enabled": False}], "-q", "--json"), err="")

    def test_several_files(self):
        new, judge = self.write("new.json", [{"name": "New", "type": "TOXICITY"}]), self.write(
            "judge.json", [{"name": "Judge", "enabled": False}])
        result = self.cli("evaluators", "apply", "-f", new, "-f", judge, "--prune", "--json", "-q")
        self.assertEqual([row["action"] for row in self.assertOk(result, err="").json],
                         ["create", "update"])
        result = self.cli("evaluators", "apply", "-f", new, "-f", new)
        self.assertFails(result, 2, "new.json, line 1 (item 1) has a second evaluator named 'New'")

    def test_configs_that_cannot_work(self):
        """They are told, as create does; those that do not change are not."""
        content = [{"name": "New", "type": "JSON_SCHEMA", "config": {"schema": {"not": {}}}},
                   {"name": "Judge", "config": {}}, {"name": "None", "type": "COST"}]
        self.add("None", type="COST", config={})
        for more in (["--dry-run"], []):
            err = self.assertOk(self.apply(content, *more)).err
            for text in ("line 1 (item 1), 'New': the server ignores in the schema: not",
                         "line 1 (item 2), 'Judge': a LLM_JUDGE evaluator needs 'criteria'"):
                self.assertIn(text, err)
            self.assertNotIn("'None'", err)

    def test_deletions_are_confirmed(self):
        self.add("Old")
        content = [{"name": "New", "type": "COST"}]
        self.assertFails(self.apply(content, "--prune"), 2, "--yes")
        self.assertEqual(self.changes(), [])
        result = self.apply(content, "--prune", stdin="n\n", tty=True)
        self.assertEqual((result.code, result.err.splitlines()[-2:]), (1, [
            "delete  -        Old",
            'Delete 2 evaluators: "Judge", "Old"? [y/N] Error: Nothing was changed.']))
        self.assertEqual(self.changes(), [])
        self.assertOk(self.apply(content, "--prune", stdin="y\n", tty=True))
        self.assertEqual(self.changes(), ["evaluator.create"] + ["evaluator.delete"] * 2)
        self.assertOk(self.apply(content, "--prune"), err="")       # there is nothing to ask

    def test_files_that_cannot_be_used(self):
        for content, *parts in (
                ("", "line 1", "no evaluator"), ("[]", "no evaluator"), ("[\n5]", "line 2", "name"),
                ('{"type": "COST"}', "line 1 has a missing", "'name'"),
                ('[[{"name": "x"}]]', "line 1"),
                ('{"name": "x", "type": "COST", "conf": {}}', "unknown key 'conf'"),
                ('[{"name": "New", "type": "COST"}', "not JSON, or cut off"),
                ('[{"name": "x",\n "type": "COST",\n "config": {1}}]', "line 3 (item 1) is not"),
                ('[{"name": 5}]', "name"),
                ('[{"name": "x",\n "type": "COST"},\n{"name": "y", "type": 5}]', "line 3", "type"),
                ('[{"name": "x", "type": "COST", "config": []}]', "config"),
                ('[{"name": "x", "type": "COST", "enabled": "yes"}]', "enabled"),
                ('[{"name": "x", "type": "COST", "enabled": 1}]', "enabled"),
                ('[{"name": "x", "type": "COST", "config": {"a": 1, "a": 2}}]', "line 1", "'a'"),
                ('[{"name": "x", "type": "COST", "config": {"a": 9007199254740993}}]', "exactly"),
                ('[{"name": "é", "type": "COST"},\n{"name": "e\u0301", "type": "COST"}]', "line 2",
                 "second"),
                ('[{"name": "Judge"},\n{"name": "New"}]', "line 2", "needs a type"),
                ('[{"name": "New", "type": "COST"},\n{"name": "N", "type": "COST", "config": '
                 '{"headers": {"Authorization": "***"}}}]',
                 "line 2 (item 2), 'N': config.headers.Authorization has ***")):
            with self.subTest(content=content):
                result = self.apply(content, "--prune", "-y")
                self.assertFails(result, 2, "evaluators.json", *parts)
        self.assertFails(self.cli("evaluators", "apply", "-f", self.path("none")), 2, "Cannot read")
        self.assertEqual(self.changes(), [])

    def test_two_of_a_name_on_the_server(self):
        self.add("Judge")
        self.assertFails(self.apply(self.cli("evaluators", "export").out), 2, "line")
        result = self.apply([{"name": "New", "type": "COST"}, {"name": "Judge"}])
        self.assertFails(result, 2, "(item 2), 'Judge': the server has several evaluators")
        self.assertEqual(self.changes(), [])
        self.assertOk(self.apply([{"name": "New", "type": "COST"}, {"name": "judge",
                                                                  "type": "COST"}]))

    CONTENT = [{"name": "B", "type": "COST", "enabled": False}, {"name": "A", "type": "COST"},
               {"name": "Judge", "enabled": False}]

    def test_a_failure_in_the_middle(self):
        for procedure, fault, code, place in (
                ("evaluator.create", {"status": 500}, 8, "json, line 1 (item 1), 'B', after 0"),
                ("evaluator.update", {"reset": True, "after": True}, 9, "(item 1), 'B', after 0"),
                ("evaluator.delete", {"status": 403}, 5, "the deletion of 'Old', after 3")):
            self.use(self.server)
            self.add("Old")
            self.server.fault(procedure, **fault)
            with self.subTest(procedure=procedure):
                result = self.apply(self.CONTENT, "--prune", "-y", "--json")
                self.assertEqual((result.code, result.out), (code, ""))
                self.assertIn(f"{place} of 4 changes. Running it again", result.error["hint"])
                self.assertOk(self.apply(self.CONTENT, "--prune", "-y"))
                self.assertEqual(sorted((row["name"], row["enabled"])
                                        for row in self.all_stored()),
                                 [("A", True), ("B", False), ("Judge", False)])

    def test_an_answer_that_repeats_a_secret(self):
        """Row 53: neither the secret of the file nor the stored one is shown."""
        config = dict(CONFIG, url="https://me:canary-new@x/")
        content = [{"name": "Judge", "config": dict(SHOWN, url=config["url"])}]
        body = trpc_error("BAD_REQUEST", 400, "Invalid: canary-new " + json.dumps(config))
        for more in ((), ("--json",), ("--debug",)):
            self.server.fault("evaluator.update", status=400, body=body)
            result = self.apply(content, *more)
            self.assertEqual(result.code, 1)
            self.assertIn("after 0 of 1 change.", result.err)
            self.assertNotIn("canary-", result.out + result.err)

    def test_roles_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(self.serve(**options))
            for role in ("VIEWER", "MEMBER"):
                with self.subTest(dialect=dialect, role=role):
                    email = role.lower() + "@example.com"
                    self.server.add_account(email, roles={self.server.org: role})
                    self.log_in(email)
                    code = 0 if role == "MEMBER" else 5
                    self.assertEqual([each["config"] for each in self.export()], [SHOWN])
                    self.assertOk(self.cli("evaluators", "get", "Judge"))
                    result = self.apply([{"name": "Judge", "config": dict(SHOWN, top=1)}])
                    self.assertEqual(result.code, code, result)
                    self.assertEqual(self.update("--disable").code, code)
                    if code:
                        self.assertIn("Permission denied", result.err)
                        self.assertEqual(self.stored()["config"], CONFIG)

    @posix
    def test_ctrl_c(self):
        path = self.write("evals.json", self.CONTENT)
        code, err = self.signalled(signal.SIGINT, "evaluator.update", [
            "evaluators", "apply", "-f", path, "-q"], out=b".*")
        self.assertEqual(code, -signal.SIGINT)
        self.assertIn("line 1 (item 1), 'B', after 0 of 3 changes. Running it again", err)


if __name__ == "__main__":
    unittest.main()
