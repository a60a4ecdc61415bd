"""Evaluators: the secrets in their configs, and what is said of a config that cannot work."""
import json
import unittest

import twosignal
from tools import CommandCase, procedure_inputs, trpc_answer, trpc_error

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
    "pairs": [{"name": "Authorization", "value": "canary-9"}, {"name": "Accept", "value": "any"}],
    "schema": {"properties": {"token": {"type": "string"}}},
    "hooks": ["https://canary-10@hooks.example/", "https://f.example/?code=canary-11"],
    "url": "https://me:canary-6@hooks.example/x?channel=7&access_token=canary-7&sig=canary-8#end"}
SHOWN = {
    "apiKey": "***", "max_tokens": 64, "tokenizer": "word", "criteria": "No password: ever",
    "headers": {"Authorization": "***", "X-Trace": "shown", "Accept": None},
    "steps": [{"deep": [{"client-secret": "***"}]}],
    "credentials": "***", "cookie": None, "token": True,
    "pairs": [{"name": "Authorization", "value": "***"}, {"name": "Accept", "value": "any"}],
    "schema": {"properties": {"token": {"type": "string"}}},
    "hooks": ["https://***@hooks.example/", "https://f.example/?code=***"],
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
        for text in ("://a:", "?", "?a=", "://", ":", "a@", "?token=x", "token", "aA", "_", "max_"):
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
            "evaluators", "toggle", self.evaluator, "--enable"))
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
                record = result.json[-1] if "list" in what else result.json
                self.assertEqual(record["config"], SHOWN)

    def test_on_request(self):
        """Row 53: --show-secrets shows them."""
        for what, result in self.run_all("--json", "--show-secrets").items():
            with self.subTest(what=what):
                record = result.json[-1] if "list" in what else result.json
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
        self.assertEqual(self.assertOk(result, err="").out, "words\nLLM_JUDGE\n")
