"""Texts that make a regular expression slow, if anything does, and what to try them on.

As a script, it searches each text with each pattern of twosignal.py, and calls each function of
FUNCTIONS. It prints what it is about to do: what needs more than a few seconds of processor time
ends it, so that the last line tells which one it was.
"""
import ast
import functools
import itertools
import json
import os
import random
import re
import signal
import sys
import warnings
from urllib.parse import quote

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import twosignal as t  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")             # it is deprecated, and has no successor
    import sre_constants as kinds
    import sre_parse

SIZE = 100000                       # characters; linear work takes some milliseconds
SECONDS = 3                         # of processor time; quadratic work takes more than ten
CALLS = {"match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer", "compile"}
PUMPS = ("a", "1", " ", "/", "/api", ":", "::", "@", "#", "?", "&a=", "\\", "\\\"", "\"",
         "\"a\":\"", "%", "%22", "%5C%41", "%22a%22:%22", ".", "-", "\n", "[", "é", "\u0301\u0316",
         "\u200d", "🤖")
# Patterns in variables of functions: where they are, and what they may be.
IN_VARIABLES = {
    "unsafe": [t._UNSAFE, "(?![\t\r\n])" + t._UNSAFE],      # printable()
    "pattern": list(t.Session._TEXTS.values()),             # Session()
    "cls": [t.Session], "key": list(t.Session._TEXTS),      # Session.first()
    "reserved": ["host|content-length|x-.*"],               # of header names
    "form": next(each for each in t.mask_urls.__code__.co_consts if type(each) is tuple),
    "too_wide": [r"[^\0-\xff]|\\u(?!00)", r"[^\0-\uffff]|\\u[dD]"],      # bounded_text()
}
# What is applied to short texts only: the limit is in the code before it.
LIMITS = {r"(/(login|api(/v1|/trpc)?)?)*\Z": t.MAX_BATCH_URL,
          r"\.?0*(?=\D*\Z)": 2 * t.MAX_DIGITS}       # a number that this program formats
# What is applied to percent-encoded texts only, in which two digits follow each %.
ENCODED = {".{1,%d}(?<!%%)(?<!%%[0-9A-F])" % t.MAX_COOKIE_CHUNK}     # in session_cookie()


def patterns(tree):
    """{(pattern, function): line} of all that a module hands to re, as match or findall.

    Raises KeyError for one that IN_VARIABLES lacks.
    """
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (
                node.func.attr in CALLS and getattr(node.func.value, "id", "") == "re"):
            expression = compile(ast.Expression(node.args[0]), "", "eval")
            names = {name.id for name in ast.walk(node.args[0]) if isinstance(name, ast.Name)}
            unknown = sorted(names - set(vars(t)))
            for values in itertools.product(*[IN_VARIABLES[name] for name in unknown]):
                known = dict(vars(t), **dict(zip(unknown, values)))
                function = re.match if node.func.attr == "match" else re.findall
                found[eval(expression, known), function] = node.lineno
    return found


def sample(tree, choose):
    """A text that a parsed pattern matches, but for what it looks behind or ahead for."""
    text = ""
    for kind, value in tree:
        if kind is kinds.LITERAL:
            text += chr(value)
        elif kind is kinds.NOT_LITERAL:
            text += "a" if value != ord("a") else "b"
        elif kind is kinds.ANY:
            text += choose.choice("a%\\")
        elif kind is kinds.IN:
            text += member(value, choose)
        elif kind is kinds.BRANCH:
            text += sample(choose.choice(value[1]), choose)
        elif kind is kinds.SUBPATTERN:
            text += sample(value[-1], choose)
        elif kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT):
            least, most, below = value
            text += "".join(sample(below, choose)
                            for _ in range(max(least, min(int(most), choose.randint(1, 3)))))
    return text


def member(items, choose):
    """A character of a class."""
    if items[0][0] is kinds.NEGATE:
        pattern = re.compile("[%s]" % "".join(map(class_item, items)))
        return next(filter(pattern.match, choose.sample("ab1 /:@#%.-\"é", 12)), "\x01")
    kind, value = choose.choice(items)
    if kind is kinds.RANGE:
        return chr(choose.randint(*value))
    return chr(value) if kind is kinds.LITERAL else CATEGORIES.get(value, "a")


CATEGORIES = {kinds.CATEGORY_DIGIT: "1", kinds.CATEGORY_SPACE: " ", kinds.CATEGORY_NOT_WORD: ":"}
CLASSES = {kinds.CATEGORY_DIGIT: r"\d", kinds.CATEGORY_SPACE: r"\s", kinds.CATEGORY_WORD: r"\w",
           kinds.CATEGORY_NOT_DIGIT: r"\D", kinds.CATEGORY_NOT_SPACE: r"\S",
           kinds.CATEGORY_NOT_WORD: r"\W"}


def class_item(item):
    kind, value = item
    if kind is kinds.NEGATE:
        return "^"
    if kind is kinds.CATEGORY:
        return CLASSES[value]
    ends = value if kind is kinds.RANGE else (value, value)
    return "-".join("\\u%04x" % end if end < 0x10000 else "\\U%08x" % end for end in ends)


def texts_for(pattern, count):
    """Adversarial texts: a part of a match again and again, and an end that does not fit."""
    for pump in PUMPS:
        yield pump * (SIZE // len(pump)) + "\x01"
    choose = random.Random(ascii(pattern))
    tree = sre_parse.parse(pattern)
    for _ in range(count):
        text = sample(tree, choose) or "a"
        start = choose.randrange(len(text))
        end = choose.randint(start + 1, min(len(text), start + 12))
        yield text[:start] + text[start:end] * (SIZE // (end - start)) + choose.choice("\x01\n!")


ROWS = [{"k%d %d" % (row, number): 1 for number in range(1000)} for row in range(100)]
SPANS = [{"id": "s", "parent_span_id": "s", "name": "x"} for _ in range(8000)]
FUNCTIONS = {
    "normal_url": t.normal_url, "path": lambda text: t.normal_url("x.example/a%s/x" % text[:-1]),
    "to_number": t.to_number, "to_nfc": t.to_nfc,
    "printable": t.printable, "to_json": t.to_json, "display_width": t.display_width,
    "truncate": lambda text: t.truncate(text, 80), "snake_case": t.snake_case,
    "is_secret_name": t.is_secret_name, "mask_secret_fields": t.mask_secret_fields,
    "secret field": lambda text: t.mask_secret_fields("%22token%22:%22" + text),
    "quoted secret": lambda text: t.mask_secret_fields('"token":"' + text),
    "mask_secrets": lambda text: t.mask_secrets(text, {text[:1000], "x" * 1000}),
    "secret": lambda text: t.mask_secrets("x" * SIZE, {text}),
    "mask_config": lambda text: t.mask_config({"url": text}),
    "nested config": lambda text: t.mask_config(functools.reduce(
        lambda below, _: {"name": below, "value": 1}, range(100), [text] * 10)),
    "parse_timestamp": t.parse_timestamp, "utc_timestamp": t.utc_timestamp,
    "untrusted_json": t.untrusted_json, "base64": lambda text: t.untrusted_json("base64-" + text),
    "parse_http_date": lambda text: t.parse_http_date(text[:65536]),
    "plain_id": t.plain_id, "page": lambda text: t.plain_id("https://" + text),
    "input_problems": t.input_problems,
    "zod": lambda text: t.input_problems(json.dumps([{"path": [text], "message": text}])),
    "digits": lambda text: t.input_problems("[%s]" % ("9" * SIZE)),
    "token": t.token_project, "disarmed": t.disarmed,
    "wide": lambda text: t.result_or(None, t.bounded_text, (90 * text).encode("utf-8", "replace")),
    "mask_urls": lambda text: t.mask_urls("://" + text, len),
    "env": lambda text: re.search(t._ENV_UNFIT, "TWOSIGNAL_API_KEY=" + 9 * text),
    "message": lambda text: t.Console((None,) * 3).shortened(text),
    "get_path": lambda text: t.get_path({"a": text}, ".".join(["a"] * t.MAX_PATH_PARTS)),
    "csv": lambda text: list(t.FORMATS["csv"](t.Listing("rows", (), ROWS), t.Screen())),
    "csv text": lambda text: list(t.FORMATS["csv"](t.Listing("rows", (), [{"a": text}]),
                                                   t.Screen())),
    "table": lambda text: list(t.FORMATS["table"](t.Listing("rows", (t.Column("A", "a"),), [
        {"a": text}] + [{"a": 1}] * 99), t.Screen(None))),
    "markdown": lambda text: list(t.FORMATS["markdown"](t.UserData([(text, text)]), t.Screen())),
    "html": lambda text: list(t.FORMATS["html"](t.UserData([(text, text)]), t.Screen())),
    "folded": lambda text: t.folded(text, 80), "narrow": lambda text: t.folded(text, 2),
    "spans": lambda text: t.span_tree([dict(span, name=text[:9]) for span in SPANS]),
    "failed spans": lambda text: t.failed_paths([(depth, dict(SPANS[0], error_message=text[:9]))
                                                 for depth in range(8000)]),
    "der": lambda text: list(t.der_values(b"\5\0" * (SIZE // 2))),
    "certificate": lambda text: t.read_certificate(b"\x30\x83\1\x86\xa0" + 50000 * b"\x31\0"),
    "superjson": lambda text: t.apply_superjson({"a": text}, {"values": {text: ["bigint"]}}),
}


def attempt(label, function, *arguments):
    print(label, flush=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        function(*arguments)
    except t.Failure:
        pass
    signal.setitimer(signal.ITIMER_PROF, 0)


def main(path, count):
    # Without a handler, SIGPROF ends the process, also within a pattern that never ends.
    with open(path, encoding="utf-8") as file:
        found = patterns(ast.parse(file.read()))
    for (pattern, function), line in sorted(found.items(), key=lambda item: item[1]):
        for text in texts_for(pattern, count):
            text = text[:LIMITS.get(pattern, len(text))]
            if pattern in ENCODED:
                text = quote(text, safe="")
            attempt("line %d: %a on %a" % (line, pattern, text[:60]), function, pattern, text)
    for name, function in FUNCTIONS.items():
        for pump in PUMPS:
            text = pump * (SIZE // len(pump))
            attempt("%s on %a" % (name, text[:60]), function, text + "\x01")
    print("%d patterns, %d functions" % (len(found), len(FUNCTIONS)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
