"""Input validation with the messages of zod 3 and zod 4, the validators that tRPC servers use.

    validate({"limit": 0}, "projectId:id limit?:limit", zod_version=4)

raises a Refusal whose message is zod's JSON list of problems.
"""
import json
import math

from messages import Refusal
from superjson import UNDEFINED, Big, Date, parse_time

ROLES = ("OWNER", "ADMIN", "MEMBER", "VIEWER")
STATUSES = ("OK", "ERROR")
EVALUATOR_TYPES = (
    "CONTAINS", "REGEX_MATCH", "JSON_SCHEMA", "EXACT_MATCH", "STARTS_WITH", "ENDS_WITH", "LENGTH",
    "LEVENSHTEIN", "SIMILARITY", "LATENCY", "COST", "RESPONSE_TIME_SLA", "TOOL_CALL_VALIDATION",
    "WORKFLOW_ADHERENCE", "SENTIMENT", "TOXICITY", "CUSTOM", "LLM_JUDGE", "GROUNDEDNESS",
    "FACTUAL_ACCURACY", "PROMPT_INJECTION", "BIAS_DETECTION", "COMPLIANCE_CHECK", "PII_DETECTION",
    "WEBHOOK")
PAGE_LIMIT = 100            # the largest page of traces
NAME_LENGTH = 255           # characters
HISTORY_MONTHS = 24


def js_type(value):
    """The JavaScript type of a value, as zod names it."""
    if value is UNDEFINED:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, Date):
        return "date"
    names = {bool: "boolean", str: "string", dict: "object", Big: "bigint", int: "number",
             float: "number", list: "array"}
    return names.get(type(value), "object")


class Problems:
    """Collects what is wrong with an input, in the words of zod 3 or zod 4.

    Each method describes one kind of problem; `key` is the name of a field, or a path as a list.
    """

    def __init__(self, version):
        self.version = version
        self.found = []

    def add(self, key, messages, zod3, zod4):
        """Adds a problem: `messages` is a pair, for zod 3 and for zod 4, as are the facts."""
        problem = dict(zod3 if self.version == 3 else zod4)
        problem["message"] = messages[self.version - 3]
        problem["path"] = key if isinstance(key, list) else [key]
        self.found.append(problem)

    def wrong_type(self, key, expected, value):
        received = js_type(value)
        old = f"Expected {expected}, received {received}"
        self.add(key, ("Required" if received == "undefined" else old,
                       f"Invalid input: expected {expected}, received {received}"),
                 {"code": "invalid_type", "expected": expected, "received": received},
                 {"expected": expected, "code": "invalid_type"})

    def too_small(self, key, kind, minimum):
        old = {"string": f"String must contain at least {minimum} character(s)",
               "number": f"Number must be greater than or equal to {minimum}"}
        new = {"string": f"Too small: expected string to have >={minimum} characters",
               "number": f"Too small: expected number to be >={minimum}"}
        self.add(key, (old[kind], new[kind]),
                 {"code": "too_small", "minimum": minimum, "type": kind, "inclusive": True,
                  "exact": False},
                 {"origin": kind, "code": "too_small", "minimum": minimum, "inclusive": True})

    def too_big(self, key, kind, maximum):
        old = {"string": f"String must contain at most {maximum} character(s)",
               "number": f"Number must be less than or equal to {maximum}"}
        new = {"string": f"Too big: expected string to have <={maximum} characters",
               "number": f"Too big: expected number to be <={maximum}"}
        self.add(key, (old[kind], new[kind]),
                 {"code": "too_big", "maximum": maximum, "type": kind, "inclusive": True,
                  "exact": False},
                 {"origin": kind, "code": "too_big", "maximum": maximum, "inclusive": True})

    def not_an_option(self, key, options, value):
        old = " | ".join(f"'{option}'" for option in options)
        new = "|".join(f'"{option}"' for option in options)
        self.add(key, (f"Invalid enum value. Expected {old}, received '{value}'",
                       f"Invalid option: expected one of {new}"),
                 {"received": value, "code": "invalid_enum_value", "options": list(options)},
                 {"code": "invalid_value", "values": list(options)})

    def bad_date(self, key):
        self.add(key, ("Invalid datetime", "Invalid ISO datetime"),
                 {"code": "invalid_string", "validation": "datetime"},
                 {"origin": "string", "code": "invalid_format", "format": "datetime"})

    def raise_if_any(self):
        if self.found:
            text = json.dumps(self.found, indent=2, ensure_ascii=False)
            raise Refusal("BAD_REQUEST", text)


##################################################################################################
# Checks: functions of (problems, key, value)
##################################################################################################

def string(minimum=0, maximum=math.inf):
    def check(problems, key, value):
        if js_type(value) != "string":
            problems.wrong_type(key, "string", value)
        elif len(value) < minimum:
            problems.too_small(key, "string", minimum)
        elif len(value) > maximum:
            problems.too_big(key, "string", maximum)
    return check


def integer(minimum, maximum):
    def check(problems, key, value):
        if js_type(value) != "number":
            problems.wrong_type(key, "number", value)
        elif not math.isfinite(value) or value != int(value):
            problems.wrong_type(key, "integer", value)
        elif value < minimum:
            problems.too_small(key, "number", minimum)
        elif value > maximum:
            problems.too_big(key, "number", maximum)
    return check


def one_of(options):
    def check(problems, key, value):
        if value is UNDEFINED or (not isinstance(value, str) and problems.version == 3):
            problems.wrong_type(key, " | ".join(f"'{option}'" for option in options), value)
        elif value not in options:
            problems.not_an_option(key, options, value)
    return check


def of_type(expected):
    def check(problems, key, value):
        if js_type(value) != expected:
            problems.wrong_type(key, expected, value)
    return check


def check_date(problems, key, value):
    if js_type(value) not in ("string", "date"):
        return problems.wrong_type(key, "string", value)
    try:
        parse_time(value)
    except ValueError:
        problems.bad_date(key)


def check_strings(problems, key, value):
    if not isinstance(value, list):
        return problems.wrong_type(key, "array", value)
    for position, item in enumerate(value):
        string()(problems, [key, position], item)


def check_any(problems, key, value):
    if value is UNDEFINED:
        problems.wrong_type(key, "object", value)


CHECKS = {
    "id": string(1), "name": string(1, NAME_LENGTH), "text": string(), "texts": check_strings,
    "bool": of_type("boolean"), "list": of_type("array"), "any": check_any, "date": check_date,
    "role": one_of(ROLES), "status": one_of(STATUSES), "type": one_of(EVALUATOR_TYPES),
    "limit": integer(1, PAGE_LIMIT), "months": integer(1, HISTORY_MONTHS),
}


def validate(values, fields, zod_version):
    """The declared fields of `values`; undeclared ones are dropped, as zod does.

    `fields` is "key:check" or, for an optional field, "key?:check", separated by blanks. Raises a
    Refusal that lists all problems.
    """
    problems = Problems(zod_version)
    if not isinstance(values, dict):
        problems.wrong_type([], "object", values)
        problems.raise_if_any()
    declared = {}
    for field in fields.split():
        name, _, check = field.partition(":")
        key = name.rstrip("?")
        value = values.get(key, UNDEFINED)
        if value is UNDEFINED and name.endswith("?"):
            continue
        CHECKS[check](problems, key, value)
        declared[key] = value
    problems.raise_if_any()
    return declared
