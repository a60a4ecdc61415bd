#!/usr/bin/env python3
"""A command-line client for 2Signal.

Manages traces, evaluators, datasets, API keys and more from a terminal, and gates deployments in
CI. One file, standard library only: copy it anywhere and run it with any CPython from 3.6 on.

The sections, each using only what stands above it:
    Constants   limits, plans, exit codes, the user agent
    Errors      Failure, its subclasses, and functions that make the usual ones
    Text        numbers, durations, costs and timestamps; widths, escaping, masking
    Records     wire objects become the records that users see; paths into records
    Rendering   results, and the formats that they are printed in
    Files       atomic replacement, devices, the lock, deferred signals
    Settings    environment, home directory, config file, server address, API key
    Transport   the one function that makes HTTP requests: deadline, retries, proxies, TLS
    Protocol    pure functions: superjson, envelopes, server errors, the session cookie
    Session     tokens, their file, login, refresh, logout
    Client      queries, mutations, batches, REST, pages of traces, scores, names
    Console     streams, progress, prompts, how an error is shown
    Arguments   options, commands, value types, the one scan of argv, help texts
    Traces      filters, pages, statistics, thresholds, reports, waiting, tailing
    Commands    declarations and short functions, in the order of --help
    Entry       completion, installation, main, signals
"""
import sys

# As a program. pip's script and an installed executable import this module to run it.
if __name__ == "__main__" or "".join(sys.argv[:1]).replace("\\", "/").split("/")[-1] in (
        "twosignal", "twosignal.exe"):
    import _signal                  # built in, as sys is: nothing was read from a directory yet
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)     # until main: ends without a traceback
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        del sys.path[0]             # the directory of the program, or the working directory

import functools
import io
import json
import os
import re
import time

__version__ = "2.0.0"

############################################################
# Constants
############################################################

DEFAULT_URL = "https://app.twosignal.dev"
USER_AGENT = f"twosignal/{__version__} (Python {sys.version_info[0]}.{sys.version_info[1]})"
VERSION_LINE = f"twosignal {__version__} (Python {'.'.join(map(str, sys.version_info[:3]))})\n"
DEFAULT_TIMEOUT = 30.0              # seconds for a request, its retries included
DOCTOR_TIMEOUT = 10.0               # seconds for each layer that doctor checks
DEFAULT_WAIT, DEFAULT_INTERVAL = 300.0, 2.0     # seconds: of traces wait, between polls of tail
DEFAULT_LIMIT, DEFAULT_TAIL_LINES = 20, 10  # traces in a listing, and that tail begins with
COMPLETION_TIMEOUT = 1.0            # seconds to look up names while a user waits for TAB
TAKEOVER_TIMEOUT = 5.0              # seconds to wait for the lock, while signals wait, too
SPENDING_TIMEOUT = 30.0             # seconds for the response to a token that works once
REFRESH_EARLY = 120                 # seconds before its expiry; the server's library: 90

MAX_TRIES, MAX_BULK_TRIES = 3, 1000     # of one request; the timeout ends those of bulk data
RETRY_PAUSE = 0.1                   # seconds; doubled with each try, give or take a half
CONNECT_DELAY = 0.25                # seconds until the next address of a host is tried as well
CONCURRENT_REQUESTS = 4             # changes under way at once, of an import
RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)
RETRIED_CHANGE_STATUSES = (429,)    # a rate-limited change was certainly not made
RETRIED_PAGE_STATUSES = (408, 429, 500, 502, 503)   # of what can be asked for in halves: not 504
TOO_LARGE_STATUSES = (413, 414, 431, 504)   # a page or a batch of half the size may work
MAX_REDIRECTS = 5                   # of one query
ANNOUNCED_PAUSE = 2.0               # seconds; a longer pause before a retry is announced
MAX_RESPONSE_BYTES = 32 << 20       # of one response, its head included
MAX_STATE_FILE_BYTES = 1 << 17      # of session.json or config.json
MAX_BATCH_URL = 3900                # characters; proxies cut URLs at 4,000
MAX_COOKIE_CHUNK = 3180             # characters; browsers and @supabase/ssr cut cookies there
MAX_MESSAGE, MAX_LINE = 1000, 10000     # characters of an error's message, of a line on stderr
SECRET_RUN = 16                     # characters of a secret that are masked without the rest
MAX_FAILURES = 1000                 # of an import, that its result lists
MAX_PROBLEMS = 50                   # of a rejected input, or of a trace, that are shown
MAX_DIGITS = 300                    # of a number; longer ones are an attack, not a value
MAX_VALUES = 600000                 # in one response; an object counts as two
MAX_INDENTED = 6                    # levels of JSON; further down, blanks would outgrow the data
PAGE_SIZE = 100                     # traces that a server returns at once, at most
MAX_EMPTY_PAGES = 1000              # in a row without a new trace, before a listing is given up
MAX_KNOWN_TRACES = 200000           # of one listing, whose IDs are remembered
MAX_COLUMNS = 1000                  # of csv and tsv
MAX_PATH_PARTS = 100                # of a field; as many keys with dots may have to be tried
MAX_WORST = 5                       # traces that a failed check names
MAX_OTHER_STATUSES = 5              # besides OK and ERROR, that a gate names
MAX_GROUPS, MAX_MESSAGES = 1000, 10     # of traces stats: the rest are one group; error messages
DEFAULT_SAMPLE, SMALL_SAMPLE = 500, 30  # traces whose spans are read; fewer may differ by chance
EXACT_VALUES, BUCKET_RATIO = 100000, 1.01   # percentiles: exact up to so many, then 1% too high
TAIL_PAGES, TAIL_CHARACTERS, TAIL_MEMORY = 50, 1 << 25, 20000   # of a poll; traces remembered
TAIL_OVERLAP = 300                  # seconds: how late a trace may become visible
MAX_CACHED_RULES, MAX_CACHED_KEY = 10000, 100   # of keys; characters: a server's are few and short
MIN_CUT, MAX_PADDED = 8, 200        # columns that a cell is cut to first, and padded to at most
BAR_COLUMNS, MAX_INDENTED_SPANS = 12, 8     # of a timeline; levels of a tree, then a number stands
FEW_PROJECTS, MAX_MONTHS = 10, 24   # that a trace is looked for in; that a server returns
JSON_LOOKAHEAD = 64                 # characters behind a fault: it is more than a cut-off end
FILE_CHUNK, MAX_FILE_RECORD = 1 << 16, 1 << 26  # characters: read at once; of one trace in a file
MAX_CELL = 1 << 22                  # characters of a cell in CSV, which Python's reader quadruples
PART_TRACES, PART_CHARACTERS = 1000, 1 << 24    # of one file of a bundle, at most
SENT_EVENTS, SENT_BYTES = 1000, 4999900     # of a request that sends traces: 5 MB with its frame
ALL = float("inf")                  # traces
MINUTE, HOUR, DAY, WEEK = 60, 3600, 86400, 604800       # in seconds
FIRST_SECOND, END_OF_TIME = -62135596800, 253402300800  # the years 1 to 9999, in Unix seconds
MAX_EXPIRY = 1e11                   # Unix seconds; a larger number must be in milliseconds
MAX_CLOCK_DIFFERENCE = 60           # seconds from the server's clock that are not worth a word
EARLY_RENEWAL = 14 * DAY            # before a certificate ends
EARLIEST_DATE = 1735689600          # Unix seconds (2025): a server that sends an older one errs

PLAN_LIMITS = ("traces_limit", "evals_limit", "retention_days", "seats", "requests_per_second")
PLANS = {plan: dict(zip(PLAN_LIMITS, limits)) for plan, limits in {     # None: unlimited
    "FREE": (10000, 500, 7, 1, 100), "PRO": (50000, 5000, 30, 3, 1000),
    "GROWTH": (150000, 15000, 60, None, 1000), "TEAM": (500000, 50000, 90, None, 1000),
    "ENTERPRISE": (None, None, None, None, 1000)}.items()}
ROLES = ("OWNER", "ADMIN", "MEMBER", "VIEWER")      # in an organization

REPORT_TO_OPERATOR = "Report this to whoever runs the server."
ASK_ADMIN = "Contact your organization admin."
GATEWAY_HINT = ("A gateway seems to have answered: authenticate to it with --header or "
                "--client-cert, or check the address and the network.")

EXIT_CODES = {                      # the exit code for an error's code; any other means 1
    "USAGE": 2, "CONNECTION_REFUSED": 3, "CONNECTION_FAILED": 3, "TIMED_OUT": 3, "LOCKED": 3,
    "NOT_LOGGED_IN": 4, "UNAUTHORIZED": 4, "FORBIDDEN": 5, "NOT_FOUND": 6, "TOO_MANY_REQUESTS": 7,
    "INTERNAL_SERVER_ERROR": 8, "TIMEOUT": 8, "BAD_ANSWER": 8, "REDIRECTED": 8, "GATEWAY": 8,
    "UNSUPPORTED": 8, "UNKNOWN_OUTCOME": 9, "CHECK_FAILED": 10, "NOTHING_TO_CHECK": 11}
DIAGNOSED_CODES = ("CONNECTION_REFUSED", "CONNECTION_FAILED", "TIMED_OUT", "BAD_ANSWER",
                   "REDIRECTED", "GATEWAY")     # whose cause `doctor` finds
UNCERTAIN_CHANGE_CODES = ("UNKNOWN_OUTCOME", "INTERNAL_SERVER_ERROR", "TIMEOUT", "BAD_ANSWER")
EXIT_INTERRUPTED, EXIT_READER_GONE = 130, 141
EXIT_SIGNALS = (129, EXIT_INTERRUPTED, 143)     # 128 + SIGHUP, SIGINT, SIGTERM


############################################################
# Errors
############################################################

class Failure(Exception):
    """What went wrong and what to do about it, ready to be shown to a user."""

    def __init__(self, message, hint="", code="FAILED", problems=()):
        super().__init__(message)
        self.message = message              # a sentence without its full stop
        self.hint = hint                    # the way out, in full sentences, or ""
        self.code = code                    # a key of EXIT_CODES, or the server's own code
        self.problems = list(problems)      # further lines, one each
        self.exit_code = EXIT_CODES.get(code, 1)
        self.is_retryable = False           # another try may succeed
        self.retry_after = None             # seconds that the server asks to wait until then


class TransientFailure(Failure):
    """No usable response, or a lock that is taken: it says nothing about the session."""

    def __init__(self, message, hint, code="CONNECTION_FAILED", is_retryable=True):
        super().__init__(message, hint, code)
        self.is_retryable = is_retryable


class TooLarge(TransientFailure):
    """A request or its response is too large, or takes the server too long: half may work."""

    def named(self, what):
        """The same failure; its message now names the trace or page that alone is too large."""
        self.message = f"Cannot read {what}: {self.message[:1].lower()}{self.message[1:]}"
        self.hint += " To leave it out of a listing or a check, use --since and --until."
        return self


class MissingProcedure(Exception):
    """The server has no procedure of that name; its argument: the version of its tRPC."""


class NoHome(Failure):
    """There is no directory to keep the session and the config file in."""


def result_or_failure(function, *arguments, kinds=Failure):
    """What the function returns, or the Failure (or other kind of exception) that it raises."""
    try:
        return function(*arguments)
    except kinds as failure:
        failure.__context__ = None      # it and the frames would keep a large response in memory
        return failure.with_traceback(None)


def result_or(default, function, *arguments, kinds=Failure):
    """What the function returns, or the default if it raises Failure (or other kinds)."""
    found = result_or_failure(function, *arguments, kinds=kinds)
    return default if isinstance(found, kinds) else found


def leaves_unchanged(error) -> bool:
    """Whether it is certain that a change was not made, if this is why it failed."""
    return isinstance(error, Failure) and error.code not in UNCERTAIN_CHANGE_CODES


def usage_error(message, hint="") -> Failure:
    return Failure(message, hint, "USAGE")


def protocol_error(message, hint="Check that the address is that of a 2Signal server.") -> Failure:
    return TransientFailure(message, hint, "BAD_ANSWER")


def wrong_type(what) -> Failure:
    return protocol_error(f"The response is not 2Signal's protocol: {what} has the wrong type")


def authentication_expired() -> Failure:
    return Failure("Authentication expired", "Run 'twosignal login' again.", "UNAUTHORIZED")


def os_reason(error) -> str:
    """What the operating system says about an error, such as "No space left on device"."""
    if isinstance(error, (UnicodeDecodeError, RecursionError)):
        return f"it is {'nested too deeply' if isinstance(error, RecursionError) else 'not UTF-8'}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Struct:
    """Stores its arguments as the attributes that its class annotates, as dataclasses do in 3.7."""

    def __init__(self, *values, **named):
        vars(self).update(zip(type(self).__annotations__, values), **named)


def without_none(**values) -> dict:
    """The values that are not None: servers refuse null for an optional input."""
    return {key: value for key, value in values.items() if value is not None}


############################################################
# Text
############################################################

# What could move the cursor, change colours or reorder text: C0, DEL, C1, line separators,
# bidirectional controls, interlinear marks, tags; and what is no character, such as surrogates.
# Patterns are strings, compiled on first use: --version and --help need none of them.
_UNSAFE = ("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
           "\ufdd0-\ufdef\ufeff\ufffe\uffff\U0001fffe\U0001ffff\U0002fffe\U0002ffff\U0003fffe-"
           "\U000e007f\U000efffe\U000effff\U000ffffe\U000fffff\U0010fffe\U0010ffff\ud800-\udfff]")
_TIMESTAMP = (r"(?a)(\d{4})-(\d\d)-(\d\d)[T ]([01]\d|2[0-3]):([0-5]\d):([0-5]\d)"
              r"(\.\d{1,9})?(?:Z|([+-])([01]\d|2[0-3]):?([0-5]\d))?\Z")
_COMMON_TIME = r"(?a)[1-9]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3])(:[0-5]\d){2}"
_TOO_LARGE = 10 ** MAX_DIGITS
_DECIMAL = r"(?a)[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?\Z"
_SUBSTITUTES = {**str.maketrans("─█░▁▂▃▄▅▆▇", "-#....::::"),
                **str.maketrans({"…": "...", "≥": ">=", "≤": "<=", "→": "->"})}
# What takes two columns as a whole: a flag or half of one, a keycap or ™ with U+FE0F, joined emoji.
_EMOJI = "[\u2194-\u21aa\u231a-\u27bf\u2934\u2935\u2b05-\u2b55\U0001f004-\U0001faff]"
_EMOJI_SEQUENCE = ("[\U0001f1e6-\U0001f1ff]{1,2}|[#*0-9©®‼⁉™ℹ]\ufe0f|"
                   f"{_EMOJI}(?:[\ufe0f\U0001f3fb-\U0001f3ff]|\u200d{_EMOJI})+")


def printable(value, unsafe=_UNSAFE) -> str:
    """Any value as one line that is safe on a terminal: control characters become \\x1b."""
    if value is None:
        return "-"
    if type(value) in (int, float):
        return plain_number(value)
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return value if value.isprintable() else _replaced(unsafe, _escape, value)


def _replaced(unsafe, escape, text) -> str:
    """The text with its unsafe characters escaped, in less memory than re.sub needs for many."""
    return text.translate({ord(each): escape(each) for each in set(text) if re.match(unsafe, each)})


def _escape(character) -> str:
    return f"\\x{ord(character):02x}" if character < "\x80" else ascii(character)[1:-1]


def to_json(value, levels=MAX_INDENTED, ascii_only=False, margin="\n") -> str:
    """JSON, indented down to a level, in which no control or bidirectional character is itself."""
    text = _indented(value, json.JSONEncoder(ensure_ascii=ascii_only).encode, levels, margin)
    if text.replace("\n", "").isprintable():
        return text
    # A raw line break can only be the encoder's own: inside a string it is escaped already.
    return _replaced("(?!\n)" + _UNSAFE, lambda character: json.dumps(character)[1:-1], text)


def _indented(value, encode, levels, margin) -> str:
    if not levels or not value or not isinstance(value, (dict, list)):
        return encode(value)
    inner = margin + "  "
    if isinstance(value, list):
        lines = [_indented(each, encode, levels - 1, inner) for each in value]
        return f"[{inner}{(',' + inner).join(lines)}{margin}]"
    lines = [f"{encode(key)}: {_indented(each, encode, levels - 1, inner)}"
             for key, each in value.items()]
    return f"{{{inner}{(',' + inner).join(lines)}{margin}}}"


def disarmed(text: str, colon=r"\u003a", number_sign=r"\u0023") -> str:
    """Lines without commands to CI systems: ::error::x, ##[group], ##vso[…, ##teamcity[…."""
    # JSON reads these escapes, too. A runner may skip blanks and what is not visible.
    text = re.sub(r"(?m)^([^\w\n]*?):(?=:)", lambda match: match.group(1) + colon, text)
    return re.sub(r"#(?=[^ -~\n]*#[^\n -/:-@\[-^`{-~]*\[)", lambda match: number_sign, text)


def display_width(text: str) -> int:
    """Columns of a terminal that the text takes: 2 for a wide character, 0 for an accent."""
    if len(text) == len(text.encode("utf-8", "replace")):
        return len(text)            # nearly always: ASCII alone
    rest, sequences = re.subn(_EMOJI_SEQUENCE, "", text)
    return 2 * sequences + sum(map(_character_width, rest))


@functools.lru_cache(maxsize=1000)  # texts repeat their characters
def _character_width(character) -> int:
    import unicodedata
    category = unicodedata.category(character)
    # In decomposed Hangul, vowels and finals share the columns of the first letter.
    is_hangul_part = "\u1160" <= character < "\u1200" or "\ud7b0" <= character < "\ud800"
    is_format = category == "Cf" and character >= "\u1800"  # those below, as the soft hyphen, show
    if category in ("Mn", "Me") or is_hangul_part or is_format:
        return 0
    if category == "Cn":            # an emoji or ideograph that this Python does not know yet
        return 2 if re.match("[\U0001f000-\U0001faff\U00020000-\U0003fffd]", character) else 1
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def truncate(text: str, columns: int) -> str:
    """The text within so many columns, with … at the end if something is cut off."""
    return text if display_width(text) <= columns else next(folded(text, columns - 1)) + "…"


def folded(text: str, columns):
    """Yields the text in pieces of so many columns at most; no character is cut."""
    if columns > 0 and not re.search("[^ -~]", text):       # nearly always, and much faster
        yield from (text[start:start + columns] for start in range(0, len(text) or 1, columns))
        return
    start, room = 0, columns
    for match in re.finditer(_EMOJI_SEQUENCE + "|(?s:.)", text):
        width = display_width(match.group())
        if width > room:
            yield text[start:match.start()]
            start, room = match.start(), columns
        room -= width
    yield text[start:]


def to_nfc(text: str) -> str:
    """The text with one form for accented letters, of which Unicode has two (NFC)."""
    import unicodedata
    # Many accents on one letter take time with the square of their number.
    return unicodedata.normalize("NFC", text) if len(text) <= 1000 else text


def mask_secrets(text: str, secrets) -> str:
    """The text with *** for each form of a secret, and for each part of one that is long enough."""
    if not any(secrets):
        return text                 # and nothing is imported
    forms, runs = _secret_forms(frozenset(secrets))
    for form in forms:
        text = text.replace(form, "***")
    shown = list(text)
    for start in range(len(text)):
        if text[start:start + SECRET_RUN] in runs:
            mark = "***" if shown[start] else ""    # it overlaps the run before
            shown[start:start + SECRET_RUN] = [mark] + [""] * (SECRET_RUN - 1)
    return "".join(shown)


@functools.lru_cache(maxsize=1)
def _secret_forms(secrets) -> tuple:
    """(the texts that secrets may appear as, longest first; all runs of SECRET_RUN characters)."""
    import base64
    import html
    from urllib.parse import quote, quote_plus
    forms = set()
    for secret in secrets:          # as it is, percent-encoded, in JSON, quoted or escaped
        in_json = json.dumps(secret)[1:-1]
        data = secret.encode("utf-8", "surrogatepass")
        forms |= {secret, secret.lower(), quote(data, ""), quote(data), quote_plus(data),
                  in_json, in_json.replace("'", "'\"'\"'"), printable(secret), html.escape(secret)}
        if secret.startswith("eyJ"):        # a JWT
            forms.update(part for part in secret.split(".") if len(part) >= 8)
        for start in range(3):      # base64 of a text that it is in, wherever it begins there
            encoded = base64.b64encode(data[start:])[:(len(data) - start) * 8 // 6].decode("ascii")
            forms.update((encoded, encoded.replace("+", "-").replace("/", "_")))
    # A shorter one cannot be told from ordinary text.
    forms = sorted((form for form in forms if len(form) >= 4), key=len, reverse=True)
    return forms, {form[start:start + SECRET_RUN] for form in forms
                   for start in range(min(len(form), MAX_LINE) - SECRET_RUN + 1)}


def to_number(value):
    """A finite int or float (no bool), from a decimal string too; None for anything else."""
    if isinstance(value, str) and len(value) <= MAX_DIGITS and re.match(_DECIMAL, value):
        value = int(value) if value.lstrip("+-").isdigit() else float(value)
    return value if type(value) in (int, float) and abs(value) < _TOO_LARGE else None   # not nan


def plain_number(number, spec="") -> str:
    """A number in this format, but never with an exponent: 0.000074, not 7.4e-05."""
    text = format(number, spec)
    if "e" not in text:
        return text
    import decimal
    return format(decimal.Decimal(text), ("," if "," in spec else "") + "f")


def to_amount(value):
    """A number that is not negative, as a duration or a cost must be; None for anything else."""
    number = to_number(value)
    return None if number is None or number < 0 else abs(number)    # -0.0 is 0


def distinct_texts(format_value, value, limit) -> tuple:
    """Texts of two numbers, with the digits that show the limit as given, and tell them apart."""
    texts = [format_value(limit, extra_digits) for extra_digits in range(7)]
    texts = [re.sub(r"\.?0*(?=\D*\Z)", "", text) if "." in text else text for text in texts]
    for extra_digits in range(texts.index(texts[-1]), 15):      # a double has no more
        texts = format_value(value, extra_digits), format_value(limit, extra_digits)
        if texts[0] != texts[1] or value == limit:
            break
    return texts


def format_duration(milliseconds, extra_digits=0) -> str:
    """5ms, 0.8s, 1m 01s, 1h 02m; - if unknown or negative. Extra digits do not change the unit."""
    value = to_amount(milliseconds)
    if value is None:
        return "-"
    if round(value) < 100:
        return f"{value:.{extra_digits}f}ms"
    if round(value / 1000, 1) < MINUTE:
        return f"{value / 1000:.{1 + extra_digits}f}s"
    has_hours = round(value / 1000) >= HOUR
    decimals = max(0, extra_digits - has_hours)     # with hours, the first ones are the seconds
    whole, point, fraction = f"{value / 1000:.{decimals}f}".partition(".")
    minutes, seconds = divmod(int(whole), MINUTE)
    seconds_text = f" {seconds:02}{point}{fraction}s"
    if not has_hours:
        return f"{minutes}m{seconds_text}"
    return f"{minutes // 60}h {minutes % 60:02}m" + (seconds_text if extra_digits else "")


def format_offset(milliseconds) -> str:
    """0.8s, or -0.8s if it is before the start."""
    number = to_number(milliseconds)
    return f"-{format_duration(-number)}" if number and number < 0 else format_duration(number)


def format_cost(usd, extra_digits=0) -> str:
    """$0.003, $0.0034, $12.50: at least two significant digits; - if unknown."""
    value = to_number(usd)
    if value is None:
        return "-"
    digits = 2 if abs(value) >= 1 else 4
    while digits < 12 and 0 < abs(value) < 10.0 ** (1 - digits):
        digits += 1
    whole, _, fraction = f"{abs(value):.{digits + extra_digits}f}".partition(".")
    return f"{'-' if value < 0 else ''}${whole}.{fraction.rstrip('0').ljust(2, '0')}"


def format_count(value, extra_digits=0) -> str:
    """46,000; - if unknown. All digits are shown anyway."""
    number = to_number(value)
    return "-" if number is None else plain_number(number, ",")


def format_percent(share, extra_digits=0) -> str:
    return "-" if share is None else plain_number(share * 100, f".{4 + extra_digits}g") + "%"


def is_score(value) -> bool:
    """Whether a number is within 0 to 1, give or take an error of rounding."""
    return -1e-14 <= value <= 1 + 1e-14


def format_score(value, extra_digits=0) -> str:
    if value is None:
        return "-"
    if not is_score(value):
        return f"{plain_number(value)} (outside 0 to 1)"
    return plain_number(value, f".{4 + extra_digits}g")


def counted(number, noun: str) -> str:
    """1 trace, 2 traces, 1,000 traces."""
    return f"{format_count(number)} {noun}" + ("" if number == 1 else "s")


def format_list(value) -> str:
    """agent, v2 of a list of texts; - for anything else."""
    return ", ".join(map(printable, value if isinstance(value, list) else ())) or "-"


class Bar(str):
    """Its text, and what HTML draws in its place: shares of the width of a cell."""
    start = length = 0


def chart_bar(value, maximum, columns=20) -> str:
    """███▄ for a value of a chart, to an eighth of a column; "" for 0 or an unknown value."""
    if not value or value < 0:
        return ""
    eighths = max(1, round(8 * columns * (value / maximum)))
    text = Bar("█" * (eighths // 8) + " ▁▂▃▄▅▆▇"[eighths % 8].strip())
    text.length = value / maximum
    return text


def parse_timestamp(timestamp):
    """Unix seconds of an ISO 8601 timestamp, UTC if it names no zone; None for anything else."""
    match = re.match(_TIMESTAMP, timestamp) if isinstance(timestamp, str) else None
    if match is None:
        return None
    import datetime
    *numbers, fraction, sign, zone_hours, zone_minutes = match.groups("0")      # "0": omitted
    try:
        moment = datetime.datetime(*map(int, numbers), tzinfo=datetime.timezone.utc)
    except ValueError:              # 02-30, for example
        return None
    offset = int(sign + zone_hours) * HOUR + int(sign + zone_minutes) * MINUTE
    seconds = moment.timestamp() - offset
    return seconds + float(fraction) if FIRST_SECOND <= seconds < END_OF_TIME else None


def utc_timestamp(timestamp: str) -> str:
    """A timestamp as 2026-03-14T10:30:00Z, fractions other than .000 kept; other text as it is."""
    if timestamp[10:11] == "T" and timestamp[-1:] == "Z" and timestamp[19:-1].strip(".0"):
        return timestamp            # nearly all are like that, and need no pattern
    if timestamp[19:] in ("Z", ".000Z") and re.match(_COMMON_TIME, timestamp):
        return timestamp[:19] + "Z"
    seconds = parse_timestamp(timestamp)
    if seconds is None:
        return timestamp
    fraction = re.match(r"(\.\d*[1-9]\d*)?", timestamp[19:]).group()   # a float may not hold it all
    return iso_timestamp(round(seconds - float(fraction or 0)), fraction)


def iso_timestamp(seconds, fraction="") -> str:
    """Unix seconds as ISO 8601 in UTC; a value that is no time as text."""
    try:
        return "%04d-%02d-%02dT%02d:%02d:%02d" % time.gmtime(seconds)[:6] + fraction + "Z"
    except (ValueError, OverflowError, OSError, TypeError):
        return str(seconds)


def wire_timestamp(seconds) -> str:
    """Unix seconds as servers write them, with milliseconds."""
    milliseconds = int(round(seconds * 1000))
    return iso_timestamp(milliseconds // 1000, f".{milliseconds % 1000:03d}")


def format_age(timestamp, now=None) -> str:
    """just now, 2 min ago, 3 hours ago, 5 days ago; a date after 30 days."""
    seconds = parse_timestamp(timestamp)
    if seconds is None:
        return printable(timestamp)
    passed = (time.time() if now is None else now) - seconds
    if passed >= 30 * DAY:
        return iso_timestamp(seconds)[:10]
    for length, unit in ((DAY, "day"), (HOUR, "hour")):
        if passed >= length:
            return f"{counted(int(passed // length), unit)} ago"
    return f"{int(passed // MINUTE)} min ago" if passed >= MINUTE else "just now"


def format_moment(timestamp) -> str:
    text, age = printable(timestamp), format_age(timestamp)
    return text if text.startswith(age) else f"{text} ({age})"


def format_time_of_day(timestamp) -> str:
    """10:30:00Z if it is today's, otherwise the date; both in UTC."""
    seconds = parse_timestamp(timestamp)
    if seconds is None:
        return printable(timestamp)
    day, _, time_of_day = iso_timestamp(seconds).partition("T")
    return time_of_day if day == iso_timestamp(time.time())[:10] else day

############################################################
# Records
############################################################

MISSING = object()                  # in place of a value, which may be None
# The users' own data: no key inside is renamed, nothing in it is changed.
USER_DATA = set("input output metadata config rules expected_output model_parameters".split())
_NESTED_KINDS = {"spans": "span", "scores": "score", "items": "item", "projects": "usage",
                 "evaluator": "evaluator", "evaluators": "evaluator"}
_RENAMED_KEYS = {
    "trace": {"totalCost": "cost_usd"}, "span": {"cost": "cost_usd"},
    "score": {"value": "score", "evaluatorName": "evaluator"},
    "usage": {"traceCount": "traces_used", "spanCount": "spans_used",
              "evalRunCount": "evals_used", "projectBreakdown": "projects"}}
_LEADING_KEYS = {                   # keys that each such record has, and their order
    "trace": ("id", "status", "duration_ms", "cost_usd", "created_at", "name"),
    "span": ("id", "name", "type", "status", "duration_ms", "cost_usd"),
    "score": ("evaluator", "score", "label", "reasoning"),
    "usage": ("traces_used", "spans_used", "evals_used"),
    "member": ("id", "role", "created_at", "email")}
# In the letters of a secret's name, anywhere or at their end; and names of numbers of tokens.
_SECRET_NAME = (r"secret(?!ar)|passw|passphrase|credential|authori[sz]|authentic|bearer|cookie|jwt|"
                r"apikey|signature|(token|auth|authheader|pwd|session|(access|auth|private|client|"
                r"service|session|signing|encryption|hmac|account|shared|master|subscription|"
                r"functions?|openai|anthropic|azure)(keys?|tokens))\Z")
_TOKEN_COUNT = ("(?<![a-z])(max|min|total|num|per|stop|next|eos|bos|pad|prompt|completion|input|"
                "output)_?token")
_PAIR_KEYS = ("name", "key", "header")      # each may name what is below "value" beside it
_CAPITAL = "(?<=[a-z0-9])([A-Z])|(?<=[A-Z])([A-Z])(?=[a-z])"


def snake_case(name: str) -> str:
    return name if name.islower() else re.sub(_CAPITAL, r"_\1\2", name).lower()


def is_secret_name(name: str) -> bool:
    """Whether a key such as apiKey or X-Auth-Token names a secret; max_tokens does not."""
    letters = re.sub("[^a-z]", "", name.lower())
    return bool(re.search(_SECRET_NAME, letters)) and not re.search(_TOKEN_COUNT, snake_case(name))


def mask_config(value, keep_secret=lambda secret: None, is_config=True, is_secret=False, parent=""):
    """A copy with *** for each secret in an evaluator's config, which keep_secret is called with.
    is_config: whether it is a config, or has some below keys of that name; parent: its own key."""
    masked = value
    if isinstance(value, dict):
        masked = {}
        for key, below in value.items():
            names = [key] if key != "value" else [
                each for each in map(value.get, _PAIR_KEYS) if isinstance(each, str)]
            is_schema = parent == "properties" and isinstance(below, dict)      # the user's own
            hides = is_secret or is_config and not is_schema and any(map(is_secret_name, names))
            masked[key] = mask_config(below, keep_secret, is_config or key == "config", hides, key)
    elif isinstance(value, list):
        masked = [mask_config(below, keep_secret, is_config, is_secret, parent) for below in value]
    elif value is None or isinstance(value, bool):
        return value
    elif is_secret:
        keep_secret(str(value))
    elif is_config and isinstance(value, str):
        masked = mask_urls(value, keep_secret)
    return "***" if is_secret else masked


def mask_urls(text, keep_secret) -> str:
    """The text with *** for passwords and secret parameters of a URL, connection or header."""
    def mask(match):
        from urllib.parse import unquote
        head, secret = match.groups()       # ://user: or :// or ?name= or ;name= or "name: "
        if not re.search(r"(?i)([:/]|\b(key|sig|code)=)\Z", head) and not is_secret_name(head):
            return match.group()
        keep_secret(unquote(secret))
        return head + "***"
    for form in (r"(://(?:[^/?#\s:@]*:)?)([^/?#\s]+)(?=@)", r"([?&#][^=&#?\s]*=)([^&#\s]+)",
                 r"(;\s*[^=;\s]*=)([^;\s]+)", r"\A([\w-]+: +)(\S+(?: \S+)?)\Z"):
        text = re.sub(form, mask, text)
    return text


def unmask(value, hidden, masked, stored, path):
    """A config with what is stored in place of each ***, if mask_config() shows that there.
    hidden, masked: what it shows of the value, and of what is stored; path: for the usage error."""
    if is_same(value, masked):
        return stored
    if isinstance(hidden, dict):
        known = dict(masked) if isinstance(masked, dict) else {}
        if any(known.get(each) != value.get(each) for each in _PAIR_KEYS):
            known.pop("value", None)
        return {key: unmask(below, hidden[key], known.get(key, MISSING), get_item(stored, key),
                            f"{path}.{key}") for key, below in value.items()}
    if isinstance(hidden, list):
        pairs = list(zip(masked, stored)) if isinstance(masked, list) else []
        like = [[pair for pair in pairs if is_same(item, pair[0])] for item in value]
        known = [same[0] if len(same) == 1 else (MISSING, None) for same in like]
        return [unmask(*items, *pair, f"{path}.{place}")
                for place, (*items, pair) in enumerate(zip(value, hidden, known))]
    secrets = []
    mask_config(value, secrets.append, True, hidden == "***")
    if any("***" in secret for secret in secrets):
        raise usage_error(f"{path} has *** in place of a secret that is not stored there",
                          "Write the secret: where it is stored, 'twosignal evaluators export "
                          "--show-secrets' shows it.")
    return value


def is_same(value, other) -> bool:
    return value == other and canonical_json(value) == canonical_json(other)    # 1 is not true


def canonical_json(value) -> str:
    """The same text for all JSON of a value: 1 and 1.0, 0 and -0, and keys in any order."""
    def number(text):
        return float(text) + 0.0            # servers store -0 as 0
    plain = json.loads(json.dumps(value), parse_int=number, parse_float=number)
    return json.dumps(plain, sort_keys=True)


def to_record(wire, kind=""):
    """The record that users see of a wire object: keys in snake_case and the documented order.
    Nothing is dropped, and a value of an unexpected type stays as it is, `wire` itself too.
    kind: trace, span, score, evaluator (masked) or usage; others have no rules of their own."""
    if not isinstance(wire, dict):
        return wire
    record = dict.fromkeys(_LEADING_KEYS.get(kind, ()))
    for key, value in wire.items():
        name, functions = (_rule if len(key) <= MAX_CACHED_KEY else _rule.__wrapped__)(kind, key)
        if name != key and (record.get(name) is not None or wire.get(name) is not None):
            name = key              # an object with both spellings keeps both
        elif value is None:
            record.setdefault(name)
            continue
        convert = functions.get(type(value))
        record[name] = convert(value) if convert else value
    counts = record.pop("_count") if isinstance(record.get("_count"), dict) else {}
    for what, count in counts.items():      # {"spans": 3} becomes span_count: 3
        name = snake_case(what).rstrip("s") + "_count"
        if record.get(name) is None and name != "_count":
            record[name] = count
        elif record.get(name) != count:     # the key is taken, so the count stays where it was
            record.setdefault("_count", {})[what] = count
    return record


@functools.lru_cache(MAX_CACHED_RULES)      # a listing converts millions of values
def _rule(kind, key) -> tuple:
    """(the record's key, {type: function of a value}) for a wire key."""
    name = _RENAMED_KEYS.get(kind, {}).get(key) or snake_case(key)
    nested_kind = _NESTED_KINDS.get(name, "")
    functions = {dict: lambda wire: to_record(wire, nested_kind),
                 list: lambda wires: [to_record(wire, nested_kind) for wire in wires]}
    if (kind, name) == ("evaluator", "config"):
        functions = dict.fromkeys((dict, list, str), mask_config)
    elif name in USER_DATA or key == "_count":
        functions = {}
    elif name == "cost_usd":        # a number, a decimal string, or null
        functions = dict.fromkeys((str, float, bool, dict, list), to_number)
    elif name == "score":
        functions[str] = to_number
    elif name.endswith(("_at", "_time", "_date")) or name in ("date", "timestamp"):
        functions[str] = utc_timestamp
    return name, functions


def usage_record(wire: dict, plan) -> dict:
    """A month's usage with the limits of the plan; null if unlimited or unknown."""
    used = to_record(wire, "usage")
    plan = plan if isinstance(plan, str) else None      # a server may not tell it
    traces, spans, evals = [to_number(used[key]) for key in _LEADING_KEYS["usage"]]
    known = {"month": used.get("month"), "plan": plan, "traces_used": traces, "traces_limit": None,
             "spans_used": spans, "evals_used": evals, "evals_limit": None,
             "projects": used.get("projects", []), **PLANS.get(plan, dict.fromkeys(PLAN_LIMITS))}
    limits = {key: used[key] for key in PLAN_LIMITS if plan not in PLANS and key in used}
    return {**known, **used, **known, **limits}     # in this order


def exact_number(literal):
    """The number of a JSON literal. Raises ValueError if the server, with doubles, changes it."""
    from decimal import Decimal
    value = to_number(literal)          # None: NaN, 1e400
    if value is None or Decimal(literal) != Decimal(repr(float(value))):
        raise ValueError(f"the number {truncate(literal, 60)} cannot be kept exactly; "
                         "put it in quotes to send it as text")
    return value


def exact_json(text):
    """The value of a JSON text. Raises ValueError if a key is doubled, or a number would change."""
    def object_of(pairs):
        found = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key '{truncate(key, 60)}' occurs twice in one object")
            found[key] = value
        return found
    return json.loads(text, parse_int=exact_number, parse_float=exact_number,
                      parse_constant=exact_number, object_pairs_hook=object_of)


def get_path(value, path: str, default=None):
    """What is at a path such as scores.0.score; if nothing is, the same as for get_item().
    Of keys with dots, the longest that leads anywhere counts; scores.NAME is NAME's newest score.
    """
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        found = get_item(value, ".".join(parts[:count]), default)
        if count < len(parts) and found is not default:
            found = get_path(found, ".".join(parts[count:]), default)
        if found is not default:
            return found
    if not isinstance(value, list):
        return default
    scores = scores_by_name(value)
    return scores[path].get("score") if path in scores else get_path(scores, path, default)


def get_item(container, key: str, default=None):
    """The value of a dict's key or at a list's index; None below None, or behind a list's end."""
    if isinstance(container, dict):
        return container.get(key, default)
    if isinstance(container, list) and re.match(r"(0|[1-9][0-9]{0,8})\Z", key):
        return container[int(key)] if int(key) < len(container) else None
    return None if container is None else default


def scores_by_name(entries) -> dict:
    """{evaluator: its newest score} of the scores in a list."""
    scores = [entry for entry in entries if isinstance(get_item(entry, "evaluator"), str)]
    scores.sort(key=lambda score: parse_timestamp(score.get("created_at")) or 0)
    return {score["evaluator"]: score for score in scores}


def child_records(record, key) -> list:
    """The records in a list below a key. Raises BAD_ANSWER if there is anything else."""
    rows = record.get(key) or []
    if type(rows) is not list or rows and {*map(type, rows)} != {dict}:
        raise wrong_type(key)
    return rows


def span_tree(spans) -> list:
    """(depth, span) of each span once, in order of start time, children below their parent."""
    spans = sorted(spans, key=lambda span: parse_timestamp(span.get("start_time")) or 0)
    ids = {str(span["id"]) for span in spans if span.get("id") is not None}
    children = {}                   # by parent ID; None: the parent is missing
    for span in spans:
        parent = str(span.get("parent_span_id"))
        children.setdefault(parent if parent in ids else None, []).append(span)
    placed = {}                     # id(span): (depth, span)
    # All spans wait, behind those at the top: those of a cycle are below none of them.
    waiting = [(0, span) for span in reversed(children.get(None, []) + spans)]
    while waiting:
        depth, span = waiting.pop()
        if id(span) not in placed:
            placed[id(span)] = (depth, span)
            below = children.pop(str(span.get("id")), [])       # once, if several have that ID
            waiting += [(depth + 1, child) for child in reversed(below)]
    return list(placed.values())


def span_failed(span) -> bool:
    status = str(span.get("status")).upper()
    return status == "ERROR" or status != "OK" and bool(span.get("error_message"))


def failed_paths(tree) -> list:
    """Those (depth, span) of span_tree() that failed, or that have a failed one below them."""
    paths, parent_depth = [], None
    for depth, span in reversed(tree):
        if span_failed(span) or depth == parent_depth:
            paths.append((depth, span))
            parent_depth = depth - 1
    return paths[::-1]


############################################################
# Rendering
############################################################

RED, GREEN, YELLOW = "red", "green", "yellow"       # of verdicts and statuses
_ANSI = {RED: 31, GREEN: 32, YELLOW: 33}
_WORD_COLOURS = {"ERROR": RED, "FAILED": RED, "TOO FEW": RED, "NOTHING TO CHECK": RED, "OK": GREEN,
                 "FAIL": RED, "WARN": YELLOW}
# Spreadsheets take text that begins like this for a formula, full-width characters too, unless a '
# is before it, which cell_value() takes off again.
_FORMULA = "'*[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]"
_TSV_ESCAPES = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r", "\\": r"\\"})


class Column(Struct):
    """A heading, and the text below it."""
    heading: str
    source: object              # a record's key, or a function of the record that returns text
    format_value: object = staticmethod(printable)      # makes text of the key's value
    min_width: int = 0          # terminal columns, so that later pages fit too
    optional: bool = False      # dropped if the terminal has no room for it
    never_cut: bool = False     # an ID never is: half of one is of no use

    def __init__(self, *values, **named):
        super().__init__(*values, **named)
        self.never_cut |= not callable(self.source) and f"_{self.source}".endswith(("_id", ".id"))

    def text(self, record: dict, is_saved=False) -> str:
        """One line; is_saved: for a page that is read later, when "2 min ago" would be wrong."""
        if callable(self.source):
            return self.source(record)
        is_absolute_time = is_saved and self.source.endswith("_at")
        return (printable if is_absolute_time else self.format_value)(record.get(self.source))


class Screen:
    """Where a result is printed, here as text for a terminal."""
    title, subtitle = "twosignal", ""   # of a page
    has_headings = True                 # above the columns of tables, csv and tsv
    # Templates for a line and the lines below it.
    heading, message, data, margin = "\n{}\n", "{}\n{}", "  {}:\n{}\n", "    "
    inline = preformatted = staticmethod(str)

    def __init__(self, columns=80, encoding="utf-8", colour=False, is_saved=False):
        self.columns = columns          # of a terminal; None: unlimited
        self.is_saved = is_saved        # in a file, which is read later
        self.colour = colour
        self.ascii_only = not encoding.lower().replace("_", "-").startswith("utf")

    def block(self, template, text, colour=""):
        first, _, rest = text.partition("\n")
        return template.format(self.inline(first), self.preformatted(rest), colour)

    def fields(self, cells):
        left = max(display_width(heading) for heading, _ in cells)
        for heading, text in cells:
            yield f"{heading}:{' ' * (left - display_width(heading))}  {text}\n"

    def table(self, listing):
        columns, room = listing.columns, self.columns or float("inf")
        widths = None               # those of the first page, for all of them
        for rows in listing.batches():
            cells = [[column.text(row, self.is_saved) for column in columns] for row in rows]
            headings = [] if widths else [[column.heading for column in columns]]
            widths = widths or _column_widths(columns, headings + cells, room)
            lines = [_table_line(row, widths, columns, room) for row in headings + cells]
            if headings:
                rule = "─" * min(max(map(display_width, lines)), self.columns or MAX_PADDED)
                first = f"{lines.pop(0)}\n{rule}\n"
                yield first if self.has_headings else ""
            for line, row in zip(lines, cells):
                yield (_coloured(line, row) if self.colour else line) + "\n"
        if widths is None:
            yield f"No {listing.noun} found.\n"


class Outcome(Struct):
    """What follows a result's output."""
    remarks: list = ()          # lines for stderr; empty ones are left out
    failure: object = None      # a Failure, which is printed and sets the exit code
    exit_code: int = 0


class Result(Struct):
    """What a command returns: records() as rows; json_lines(screen) and render(screen) as text."""
    columns = ()
    # Called once all is printed. If it raises Failure, the output is void: -o writes no file.
    conclude = staticmethod(Outcome)
    streams = False             # rows are printed as they happen, and there is no last one
    extra_fields = ()           # of later records, although the first ones may lack them
    checks = ()                 # a gate's CheckResults, which are reported
    extra_columns = ()          # of fields that tables show only if --fields names them
    listing = None              # of the rows inside, which the ROW_FORMATS print in its place
    title = ""                  # of a document; without it, the command
    warning = ""                # of a format that could not print everything

    def batches(self):
        """An iterator of lists of rows: as many as a page, or one by one if they stream."""
        from itertools import islice
        rows = iter(self.records())
        return iter(lambda: list(islice(rows, 1 if self.streams else PAGE_SIZE)), [])


class Listing(Result):
    """Records as rows. They may come from a generator, and are then printed as they come."""
    noun: str                   # what they are, for "No traces found."
    columns: tuple
    rows: object
    below: object = None        # a function of a row: a Result that HTML shows below it
    order: str = "sortable"     # in HTML; "fixed" if the values of a column differ in their unit

    def records(self):
        return self.rows

    def render(self, screen):
        return screen.table(self)

    def json_lines(self, screen):
        # Progress needs whole lines, so a row is held until it is known whether a comma follows.
        held = None
        for row in self.rows:
            text = to_json(row, ascii_only=screen.ascii_only, margin="\n  ")
            yield "[\n" if held is None else f"  {held},\n"
            held = text
        yield "[]\n" if held is None else f"  {held}\n]\n"


class Details(Result):
    """A table of one record's fields, then further parts; other formats print the record alone."""
    record: object              # or a list of them, which only the parts show
    columns: tuple = ()
    parts: tuple = ()           # (title, a Result)
    message: str = ""           # what the table begins with: a line, and lines below it
    shows_all: bool = False     # in the table: what is unknown too, as -
    colour: str = ""            # of the message: RED, GREEN, or none

    def records(self):
        return self.record if isinstance(self.record, list) else [self.record]

    def json_lines(self, screen):
        yield to_json(self.record, ascii_only=screen.ascii_only) + "\n"

    def render(self, screen):
        if self.message:
            yield screen.block(screen.message, self.message, self.colour)
        cells = [(each.heading, each.text(self.record, screen.is_saved)) for each in self.columns]
        cells = [cell for cell in cells if self.shows_all or cell[1] != "-"]
        yield from screen.fields(cells) if cells else ()
        for title, part in self.parts:
            yield screen.block(screen.heading, title) if title else ""
            yield from part.render(screen)


class UserData(Result):
    """Values of any type under their names, as JSON that is folded to fit; a text as it is."""
    values: list                # (name, value) pairs
    max_lines: int = None       # of each value

    def render(self, screen):
        room = max(MIN_CUT, (screen.columns or 1 << 30) - 4)
        for name, value in self.values:
            text = value if isinstance(value, str) else to_json(value)
            lines = [(screen.margin + piece).rstrip(" ") for line in re.split("\r?\n", text)
                     for piece in folded(printable(line), room)]
            shown = lines[:self.max_lines]
            if shown < lines:
                shown.append(f"{screen.margin}… {counted(len(lines) - len(shown), 'more line')}")
            yield screen.block(screen.data, "\n".join([name] + shown))


class Text(Details):
    """Text that is printed as it is, and with --json as a string; or a value of any type."""
    record: object
    is_json: bool = False       # printed as JSON even if a table was asked for

    def render(self, screen):
        return map(screen.preformatted, self.json_lines(screen) if self.is_json else [self.record])

    def records(self):
        return [row if isinstance(row, dict) else {"value": row} for row in super().records()]


def _column_widths(columns, rows, room) -> list:
    """The width of each column; optional ones at the end are dropped if they have no room."""
    widths = [min(max(column.min_width, *map(display_width, texts)), MAX_PADDED)
              for column, texts in zip(columns, zip(*rows))]
    for column in reversed(columns):
        least = min(widths[-1], max(MIN_CUT, column.min_width))
        if not column.optional or sum(widths[:-1], 2 * len(widths[:-1])) + least <= room:
            break
        widths.pop()
    return _fitted(list(widths), widths, columns, room)


def _fitted(sizes, widths, columns, room) -> list:
    """The sizes of a row's cells, reduced until it fits: those wider than their column first."""
    excess = sum(sizes) + 2 * (len(sizes) - 1) - room
    for least in (MAX_PADDED, MIN_CUT, 4):
        for number in reversed(range(len(sizes))):
            if excess > 0 and not columns[number].never_cut:
                cut = min(excess, max(0, sizes[number] - min(widths[number], least)))
                sizes[number] -= cut
                excess -= cut
    return sizes


def _table_line(cells, widths, columns, room) -> str:
    sizes = list(map(display_width, cells))
    limits = _fitted(list(map(max, sizes, widths)), widths, columns, room)
    padded = []
    for cell, size, limit, width in zip(cells, sizes, limits, widths):
        if size > limit:
            cell = truncate(cell, limit)
            size = display_width(cell)
        padded.append(cell + " " * (min(limit, width) - size))
    return "  ".join(padded).rstrip(" ")


def _coloured(line, cells) -> str:
    for word, colour in _WORD_COLOURS.items():
        if word in cells:
            return line.replace("  " + word, f"  \x1b[{_ANSI[colour]}m{word}\x1b[0m", 1)
    return re.sub("[▁-█]+", "\x1b[36m\\g<0>\x1b[0m", line)        # bars


# Text that is the same in Markdown: words and numbers, no link, list, commit, emoji or reference.
_PLAIN_MARKDOWN = (r"(?!.*(?:\b[0-9a-f]{7}|:\d{3}))(?:-|(?:[^\W_]|[ ()≤≥]|(?<![^ ])[-+](?=\d)"
                   r"|(?<=\d)%(?!\w)|(?<=\d)[-.,:](?=\d)|(?<=[^\W\d_]|\))[.,:](?= |\Z))*)\Z")


class MarkdownDocument(Screen):
    """For GitHub and GitLab. Each block ends with an empty line."""
    heading, message, data, margin = "#### {}\n\n", "**{}**\n\n{}", "**{}**\n\n{}", ""
    heading_cell, row, below = " {} |", "|{}{}\n", ""
    table_head, table_end, end = "|{}\n|{}\n", "\n", ""

    def __init__(self, screen):     # a document is read elsewhere, and later
        vars(self).update(vars(screen), columns=None, is_saved=True)

    def page(self, result):
        texts = iter(result.render(self))
        yield self.start() + next(texts, "")    # nothing if there is an error first
        yield from texts
        outcome = result.conclude()
        result.conclude = lambda: outcome       # for whoever prints this
        yield self.preformatted("\n".join(map(printable, filter(None, outcome.remarks))))
        if outcome.failure:
            yield self.block(self.message, printable(outcome.failure.message) + ".", RED)
        yield self.end

    def start(self):
        return f"### {self.inline(self.title)}\n\n{self.inline(self.subtitle)}\n\n"

    def inline(self, text):
        """In a code span, text is no link, image, tag, mention, reference or emphasis."""
        is_plain = re.match(_PLAIN_MARKDOWN, text)
        return text if is_plain else "`" + disarmed(_replaced("[`|]", _escape, text)) + "`"

    def preformatted(self, text):
        text = disarmed(text.strip("\n")).replace("\n", "\n    ")   # indented: code, too
        return f"    {text}\n\n" if text else ""

    def fields(self, cells):
        columns = Column("Field", "field"), Column("Value", "value")
        rows = [{"field": heading, "value": text} for heading, text in cells]
        return self.table(Listing("fields", columns, rows, order="fixed"))

    def table(self, listing):
        cells = [self.heading_cell.format(self.inline(each.heading)) for each in listing.columns]
        head = self.table_head.format("".join(cells), " --- |" * len(cells), listing.order)
        for row in listing.rows:
            cells = [self.cell(column.text(row, True), row.get(column.source))
                     for column in listing.columns]
            below = "".join(listing.below(row).render(self)) if self.below and listing.below else ""
            below = below and self.below.format(len(cells), below)
            yield head + self.row.format("".join(cells), below)
            head = ""
        yield self.block(self.message, f"No {listing.noun} found.") if head else self.table_end

    def cell(self, text, value):
        if isinstance(text, Bar):
            return f" `{text.replace(' ', '░')}` |"
        rest = text.lstrip(" ")     # the margin would be dropped
        return f" {'&nbsp;' * (len(text) - len(rest))}{self.inline(rest)} |"


STYLE = """
:root { color-scheme: light dark; --red: #c6222b; --green: #1a7f37; --bar: #0969da; --soft: #8882 }
@media (prefers-color-scheme: dark) { :root { --red: #ff7b72; --green: #3fb950; --bar: #58a6ff } }
body { margin: 1rem; font: 15px/1.5 sans-serif; overflow-wrap: break-word }
h1, h2 { font-size: 1.2em } pre { padding: .5rem; background: var(--soft); white-space: pre-wrap }
.red { color: var(--red); font-weight: bold } .green { color: var(--green) } .yellow { color: #b80 }
div { overflow-x: auto } table { border-collapse: collapse } tbody { border-top: 1px solid #8886 }
td { white-space: pre-wrap } .sortable td:first-child { min-width: 7rem }
th, td { max-width: 40rem; padding: 4px 12px 4px 0; text-align: left; vertical-align: top }
th button { all: unset; cursor: pointer } th :focus-visible { outline: 2px solid var(--bar) }
[aria-sort=ascending] ::after { content: " \\25b2" }
[aria-sort=descending] ::after { content: " \\25bc" }
svg { width: 12rem; height: .75rem; background: var(--soft); fill: var(--bar) }
tr:has(.red) svg { fill: var(--red) }
details { display: inline-block; max-width: calc(100vw - 3rem); margin-right: 1rem }
details[open] { display: block; white-space: normal } details pre { unicode-bidi: plaintext }
@page { size: landscape }
@media print { body { font-size: 10px; print-color-adjust: exact } div { overflow: visible }
  tbody { break-inside: avoid } details::details-content { content-visibility: visible } }
"""
# A click sorts rows up, then down, then as they were; what is unknown stays at the end.
SCRIPT = """
const { compare } = new Intl.Collator([], { numeric: true });
for (const th of document.querySelectorAll(".sortable th:not(:empty)")) {
  const table = th.closest("table"), bodies = [...table.tBodies];
  const cell = body => body.rows[0].cells[th.cellIndex];
  const value = body => cell(body).dataset.value || cell(body).textContent.trim() || "-";
  const button = document.createElement("button");
  button.append(...th.childNodes);
  th.append(button);
  button.onclick = () => {
    const next = { ascending: ["descending", -1], descending: ["none", 0] };
    const [order, sign] = next[th.ariaSort] || ["ascending", 1];
    for (const each of th.parentNode.cells) each.ariaSort = each === th ? order : "none";
    const rows = bodies.map(body => [value(body), body]);
    rows.sort(([a], [b]) => sign && ((a === "-") - (b === "-") || sign * (a - b || compare(a, b))));
    for (const [, body] of rows) table.append(body);
  };
}
"""
PAGE_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{3}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{0}'; \
script-src 'sha256-{1}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{2}</style></head><body><h1>{3}</h1><p>{4}</p>
"""


class HtmlDocument(MarkdownDocument):
    """One page that needs nothing else, and in which no other style or script can run."""
    heading = "<h2>{}</h2>\n"
    message = '<p class="{2}"><b>{0}</b></p>\n{1}'
    data = "<details><summary>{}</summary>{}</details>"
    heading_cell = "<th>{}</th>"
    table_head = '<div><table class="{2}"><thead><tr>{0}</tr></thead>\n'
    row = "<tbody><tr>{}</tr>{}</tbody>\n"  # a body each, so that what is below it moves with it
    below = '<tr><td colspan="{}">{}</td></tr>'
    table_end = "</table></div>\n"
    end = f"<script>{SCRIPT}</script></body></html>\n"

    def start(self):
        from base64 import b64encode
        from hashlib import sha256
        hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in (STYLE, SCRIPT)]
        return PAGE_HEAD.format(*hashes, STYLE, *map(self.inline, (self.title, self.subtitle)))

    def inline(self, text):
        import html
        escaped = disarmed(html.escape(text), "&#58;", "&#35;")     # which a page shows as : and #
        return escaped.encode("ascii", "xmlcharrefreplace").decode()    # whatever stdout can show

    def preformatted(self, text):
        return f"<pre>{self.inline(text.rstrip())}</pre>\n" if text else ""

    def cell(self, text, value):
        content, number = self.inline(text), to_number(value) if text != "-" else None
        if isinstance(text, Bar):
            number = text.start
            content = (f'<svg aria-hidden="true"><rect x="{text.start:.4%}" height="100%" '
                       f'width="{max(text.length, 0.005):.4%}"/></svg>')
        value = "" if number is None else f' data-value="{plain_number(number)}"'
        colour = f' class="{_WORD_COLOURS[text]}"' if text in _WORD_COLOURS else ""
        return f"<td{colour}{value}>{content}</td>"


def _value_lines(result, screen, make_line):
    """Values under a heading: the keys of the first rows. Keys that come later have no column."""
    names = None
    omitted = {}
    for rows in result.batches():
        if names is None:
            # If rows stream, the first one cannot tell what those to come have.
            names = _keys_of(rows, result.extra_fields if result.streams else ())
            names = dict.fromkeys(list(names)[:MAX_COLUMNS])
            yield make_line(list(map(_value_text, names))) if screen.has_headings else ""
        if len(omitted) < MAX_COLUMNS:
            omitted.update((key, None) for key in _keys_of(rows) if key not in names)
        yield "".join([make_line([_value_text(row.get(name)) for name in names]) for row in rows])
    if names is None and result.columns and screen.has_headings:
        yield make_line([column.source for column in result.columns if not callable(column.source)])
    if omitted:
        result.warning = (
            f"Columns omitted (absent from the first {PAGE_SIZE} rows, or beyond {MAX_COLUMNS:,}): "
            f"{', '.join(omitted)}. Name the columns you want with --fields.")


def _value_text(value) -> str:
    """The text of a value in csv and tsv; tabs and line breaks are still as they are."""
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        return to_json(value, levels=0)
    if isinstance(value, str) and re.match(_FORMULA, value):
        value = value if re.match(_DECIMAL, value) else "'" + value     # -0.02 is no formula
    return printable(value, "(?![\t\r\n])" + _UNSAFE)


def cell_value(text):
    """The value of a cell of csv: JSON that begins with {, [ or ", else text; None if it is empty.
    Raises ValueError for JSON that a server would change."""
    decode = json.JSONDecoder(parse_constant=int).decode        # NaN is no JSON
    if text[:1] in ("{", "[", '"') and result_or(
            None, decode, text, kinds=(ValueError, RecursionError)) is not None:
        return exact_json(text)
    return (text[1:] if re.match("'" + _FORMULA, text) else text) or None


def _csv_line(texts) -> str:
    """A line of RFC 4180 that ends with LF; in quotes if it were a command in a CI log."""
    import csv
    quoting = csv.QUOTE_ALL if re.match(r"\W*::", "".join(texts[:1])) else csv.QUOTE_MINIMAL
    stream = io.StringIO()          # all Pythons quote a CR or LF if it is what ends lines
    csv.writer(stream, lineterminator="\r\n", quoting=quoting).writerow(texts)
    return stream.getvalue()[:-2] + "\n"


ROW_FORMATS, PAGE_FORMATS = ("jsonl", "csv", "tsv"), ("table", "markdown", "html")
FORMATS = {                         # iterators over whole lines
    "table": lambda result, screen: result.render(screen),
    "json": lambda result, screen: result.json_lines(screen),
    "jsonl": lambda result, screen: (to_json(row, levels=0, ascii_only=screen.ascii_only) + "\n"
                                     for row in result.records()),
    "csv": lambda result, screen: _value_lines(result, screen, _csv_line),
    "tsv": lambda result, screen: _value_lines(result, screen, lambda texts: (
        "\t".join([text.translate(_TSV_ESCAPES) for text in texts]) + "\n")),
    "markdown": lambda result, screen: MarkdownDocument(screen).page(result),
    "html": lambda result, screen: HtmlDocument(screen).page(result)}


def _keys_of(rows, extra_fields=()) -> dict:
    """{key: None} of some records' keys, in their order, and of those among the extra fields."""
    keys = [key for row in rows for key in row]
    return dict.fromkeys(keys + [field for field in extra_fields if "." not in field])


class FieldSelection(Struct):
    """The fields that --fields names, and those of them that no record has had so far."""
    result: Result
    fields: list                # paths
    tell: object                # prints a remark
    is_strict: bool = False     # a field that does not exist is an error, not a remark
    _keys = ()                  # those of the first records
    missing = None              # {path: what get_path() returns as long as it is missing}

    def records(self):
        for rows in self.result.batches():
            is_first = self.missing is None
            if is_first:
                self._keys = _keys_of(rows, self.result.extra_fields)
                known = {*self._keys, *self.result.extra_fields,
                         *(column.source for column in self.result.columns)}
                self.missing = {path: None if self._is_users_own(path) else MISSING
                                for path in self.fields
                                if re.sub(r"\.\d+(?=\.|\Z)", ".0", path) not in known}
            self.missing = {path: absent for path, absent in self.missing.items()
                            if all(get_path(row, path, absent) is absent for row in rows)}
            if is_first and len(rows) < PAGE_SIZE:      # all of them, or the first of a stream
                self._report()
            for row in rows:
                yield {key: row[key] if key in row else get_path(row, key) for key in self.fields}

    def conclude(self) -> Outcome:
        self._report()
        return self.result.conclude()

    def _report(self):
        for path, absent in (self.missing or {}).items():
            message = f"There is no field '{path}'" if absent else f"No value found for {path}"
            hint = "List the available fields with --fields '?'."
            if path.split(".")[0] not in self._keys:
                hint = f"Available fields: {', '.join(self._keys)}."
            if absent is MISSING and self.is_strict:
                raise usage_error(message, hint)
            self.tell(f"{message}. {hint}")
        self.missing = {}           # each is reported once

    def _is_users_own(self, path) -> bool:
        """Whether users chose the names in it: it is inside their own data, or an evaluator's."""
        first, *rest = path.split(".")
        is_below = not USER_DATA.isdisjoint(rest) or re.match(r"scores\.(?!\d+\b)", path)
        return first in USER_DATA or first in self._keys and bool(is_below)


def only_fields(result, fields, tell, is_strict=False) -> Result:
    """The result with only these fields; see FieldSelection."""
    selection = FieldSelection(result, fields, tell, is_strict)
    known = {column.source: Column(**dict(vars(column), optional=False))
             for column in (*result.extra_columns, *result.columns)}
    columns = [known.get(path) or Column(path, path) for path in fields]
    if isinstance(result, Listing) or isinstance(result.record, list):
        return Listing(getattr(result, "noun", "records"), columns, selection.records(),
                       conclude=selection.conclude, streams=result.streams)
    return Details(next(selection.records()), columns, conclude=selection.conclude, shows_all=True)


def field_names(result) -> Listing:
    """The paths into the first records, as --fields takes them: what --fields '?' prints."""
    names = {}                      # a set that keeps its order: {path: None}
    for row in next(result.batches(), []):
        for key, value in row.items():
            below = list(value) if isinstance(value, dict) else []
            if isinstance(value, list) and value and isinstance(value[0], dict):
                below = [f"0.{name}" for name in value[0]] + list(scores_by_name(value))
            names.update(dict.fromkeys([key] + [f"{key}.{name}" for name in below]))
    # A gate's verdict stays what it is; a listing's conclusion is about pages that were not read.
    has_pages = isinstance(result, Listing) and not isinstance(result.rows, list)
    return Listing("fields", [Column("Field", "field")], [{"field": name} for name in names],
                   conclude=Outcome if has_pages else result.conclude)

############################################################
# Files
############################################################

CLOCK = time        # what functions use of it: sleep, monotonic (for deadlines), time
OUTPUT_HINT = "Name a file in a directory that you can write to."
MISSING_FILE = (FileNotFoundError, NotADirectoryError)
# Names of files that this process has open already. To open one by its name would truncate it.
_OPEN_FILE = r"(?a)/dev/(stdout|stderr)\Z|/(?:dev|proc/self)/fd/(\d{1,4})\Z"
# The line of an API key in a file such as .env, up to a comment behind its value.
_ENV_KEY = (r"(?m)^((?:\ufeff|\xef\xbb\xbf)?[ \t]*(?:export[ \t]+)?TWOSIGNAL_API_KEY[ \t]*=)"
            r"([^\r\n]*?)(?=[ \t]#|\r?$)")
# UTF-16, or a key that goes on in the next line.
_ENV_UNFIT = r"""(?m)\0|^.{0,12}TWOSIGNAL_API_KEY[ \t]*=([ \t]*("[^"\r\n]*|'[^'\r\n]*)|.*\\)\r?$"""


def open_regular(path, flags=os.O_RDONLY) -> int:
    """The handle of a regular file, which O_CREAT creates. Raises OSError for any other kind."""
    require_regular(path)           # to open a device may be enough to change something
    # A FIFO that takes its place waits for nobody, and what is open cannot be swapped.
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o600)
    try:
        require_regular(handle)
    except OSError:
        os.close(handle)
        raise
    return handle


def require_regular(file):
    """Raises OSError if there is something at a path (or handle) other than a regular file."""
    import errno
    import stat
    status = result_or(None, os.stat, file, kinds=MISSING_FILE)
    if status and not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file")


def make_private(handle, directory, mode=0o600):
    """Gives a new file its mode; with sudo, it becomes the user's whose directory it is in."""
    if os.name == "nt":
        return                      # Windows has neither
    owner = os.stat(directory)
    if owner.st_uid == sudo_user():
        os.chown(handle, owner.st_uid, owner.st_gid)
    # Whatever the umask. Some file systems have no modes.
    result_or_failure(os.chmod, handle, mode, kinds=PermissionError)


def sudo_user():
    """The ID of the user for whom this is root, or None."""
    uid = os.environ.get("SUDO_UID", "")
    return int(uid) if os.geteuid() == 0 and uid.isdecimal() else None


def file_content(path, size=MAX_STATE_FILE_BYTES + 1) -> bytes:
    """What is in a regular file, up to a size. Raises OSError."""
    with open(open_regular(path), "rb") as file:
        return file.read(size)


def read_text(path: str):
    """The text of a state file, or None if there is no such file."""
    try:
        content = file_content(path)
    except MISSING_FILE:
        return None
    except OSError as error:
        raise Failure(f"Cannot read {path}: {os_reason(error)}",
                      "Check the permissions of the file and its directory.")
    if len(content) > MAX_STATE_FILE_BYTES:
        raise damaged_file(path)
    return content.decode("utf-8-sig", "replace")


def read_json_object(path: str, clock=CLOCK) -> dict:
    """The JSON object in a state file; {} if there is no such file. Raises Failure."""
    # The TUI writes these files in place, so half of one may be there for a moment.
    for pause in (0.02, 0.05, 0.1, 0):
        text = read_text(path)
        found = {} if text is None else result_or_failure(
            json.loads, text, kinds=(ValueError, RecursionError))
        if isinstance(found, dict):
            return found
        clock.sleep(pause)
    raise damaged_file(path)


def damaged_file(path) -> Failure:
    return Failure(f"{path} is damaged", "Correct or delete it, or run 'twosignal login' again.")


def unwritable_file(path, error, hint="") -> Failure:
    return Failure(f"Cannot write {path}: {os_reason(error)}", hint or
                   "Free some space, correct its permissions, or set TWOSIGNAL_HOME.")


class RecordFile:
    """The objects in JSON lines or a JSON array, or the rows of CSV, gzipped or not; a usage error
    names the line."""

    def __init__(self, path, stream=None, hint="", is_strict=False, columns=None):
        """stream: of bytes, if it is not the file at the path; hint: for errors; is_strict: refuses
        doubled keys, and numbers that a server would change; columns: makes it read CSV, too, and
        is {name: whether it must be there}; other columns stay text."""
        self.line = 1               # number of the one in which the last object begins
        self.item = ""              # which it is, in an array that may be a single line
        self.path = "stdin" if path == "-" else path
        self._source, self._hint = stream, hint
        self._is_strict, self._columns = is_strict, columns

    def __iter__(self):
        import codecs
        import zlib
        self.line, self._is_complete = 1, False     # all has been read
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        try:
            stream = self._source or open(self.path, "rb")
            # Another buffer would need a second Ctrl-D at a terminal.
            with stream if hasattr(stream, "peek") else io.BufferedReader(stream) as self._stream:
                if self._stream.peek(2)[:2] == b"\x1f\x8b":
                    import gzip
                    self._stream = gzip.GzipFile(fileobj=self._stream)
                start = self._stream.peek(FILE_CHUNK).lstrip(b"\xef\xbb\xbf \t\r\n")
                is_json = start[:1] in b"{[" or re.search(r"(?i)\.(nd)?jsonl?(\.gz)?\Z", self.path)
                if is_json or self._columns is None:
                    yield from self._objects()
                else:
                    headings = start.partition(b"\n")[0]
                    yield from self._rows(max(",;", key=lambda each: headings.count(ord(each))))
        except (ValueError, RecursionError) as error:
            raise self.unusable("is not UTF-8" if isinstance(error, UnicodeDecodeError)
                                else "is not JSON, or cut off")
        except (OSError, EOFError, zlib.error) as error:
            raise usage_error(f"Cannot read {self.path}: {os_reason(error)}", self._hint)

    @property
    def place(self) -> str:
        return f"line {self.line}{self.item}"

    def unusable(self, why) -> Failure:
        return usage_error(f"{self.path}, {self.place} {why}", self._hint)

    def _rows(self, delimiter):
        """Yields the rows of CSV, each a dict; cell_value() reads the named columns."""
        import csv
        csv.field_size_limit(MAX_CELL)
        reader = csv.reader(self._lines(), delimiter=delimiter, strict=True)
        headings, following = None, 1
        try:
            for cells in reader:
                self.line, following = following, reader.line_num + 1
                if not any(cells):      # spreadsheets append empty rows
                    continue
                if headings is None:
                    headings = [cell.strip() for cell in cells]
                    self._check_headings(headings)
                    continue
                if len(cells) != len(headings):
                    raise self.unusable(f"has {counted(len(cells), 'cell')} for "
                                        f"{counted(len(headings), 'column')}")
                row = dict(zip(headings, cells))
                row.update({name: self._checked(cell_value, row[name])
                            for name in self._columns if name in row})
                yield row
        except csv.Error as error:
            self.line = following
            raise self.unusable(f"is not CSV; look for a quote that is not closed: {error}")

    def _lines(self):
        read = functools.partial(self._stream.readline, MAX_FILE_RECORD)
        for self.line, content in enumerate(iter(read, b""), 1):
            yield from io.StringIO(self._decode(content), newline="")   # CR alone may end a line
        self._decode(b"", True)

    def _check_headings(self, headings):
        for name, is_required in self._columns.items():
            count = headings.count(name)
            if count > 1 or is_required and not count:
                raise self.unusable(f"has {'more than one' if count else 'no'} column '{name}'; "
                                    f"it has: {', '.join(headings)}")

    def _objects(self):
        decode = json.JSONDecoder(parse_constant=int).scan_once     # refuses NaN
        text = self._more("")
        while not text and not self._is_complete:
            text = self._more("")
        closing = "]" if text.startswith("[") else ""
        text, position, number = self._more(text[len(closing):]), 0, 0
        skip = re.compile(r"\s*,?\s*").match
        while not (self._is_complete and text[position:].strip() == closing):
            try:
                value, end = decode(text, position)
                # The first is nearly always right, and takes less time.
                following = end + 1 if text.startswith("\n{", end) else skip(text, end).end()
            except (ValueError, StopIteration) as error:
                following, fault = None, getattr(error, "pos", len(text))
            if following and (following < len(text) or self._is_complete):
                number += 1
                self.item = f" (item {number})" if closing else ""
                yield self._checked(exact_json, text[position:end]) if self._is_strict else value
                self.line += text.count("\n", position, following)
                position = following
            elif self._is_complete or "\n" in text[fault:-JSON_LOOKAHEAD]:
                if closing:         # of JSON lines, the one in which the value begins is at fault
                    self.item = f" (item {number + 1})"
                    self.line += text.count("\n", position, fault) if fault < len(text) else 0
                raise ValueError("neither an object nor the end")
            else:
                text, position = self._more(text[position:]), 0

    def _checked(self, read, text):
        value = result_or_failure(read, text, kinds=ValueError)
        if isinstance(value, ValueError):
            raise self.unusable(f"is refused: {value}")
        return value

    def _more(self, text) -> str:
        """A text with as much again behind it, or a piece; without blanks at its beginning."""
        if len(text) > MAX_FILE_RECORD:
            raise self.unusable(f"is not JSON, or is larger than {MAX_FILE_RECORD >> 20} MB")
        size = max(FILE_CHUNK, len(text))
        content = b"" if self._is_complete else self._stream.read(size)
        self._is_complete = len(content) < size
        try:
            text += self._decode(content, self._is_complete)
        except UnicodeDecodeError as error:
            self.line += text.count("\n") + content.count(b"\n", 0, error.start)
            raise
        self.line += text.count("\n") - text.lstrip().count("\n")
        return text.lstrip()


class OutputTarget(Struct):
    """A pipe or a device. Raises Failure on any error, BrokenPipeError if nobody reads."""
    path: str
    hint: str

    def __enter__(self):
        place = self.path
        match = re.match(_OPEN_FILE, place)
        if match:
            number = {"stdout": 1, "stderr": 2}.get(match.group(1)) or int(match.group(2))
            place = self._guarded(os.dup, number)
        self.file = self._guarded(open, place, "wb", 0)
        return self

    def __exit__(self, *_):
        self.file.close()

    def _guarded(self, action, *arguments):
        try:
            return action(*arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise unwritable_file(self.path, error, self.hint)

    def write(self, content: bytes):
        while content:
            content = content[self._guarded(self.file.write, content):]


class AtomicFile(OutputTarget):
    """Replaces a file as a whole, or not at all if the block raises or calls cancel()."""
    path: str
    mode: int = 0o600               # its permissions, whatever the umask
    hint: str = ""                  # for errors
    follow_links: bool = True       # a symbolic link stays, and its target is replaced
    clock: object = CLOCK
    prefix = ".twosignal-"          # of the temporary file's name
    file = temporary = None

    def __enter__(self):
        import tempfile
        self.target = self.path
        if self.follow_links:
            self.target = self._guarded(os.path.realpath, self.path)
            self._guarded(require_regular, self.target)
        try:
            with deferred_signals():
                handle, self.temporary = self._guarded(tempfile.mkstemp, "", self.prefix,
                                                       os.path.dirname(self.target))
                self.file = os.fdopen(handle, "wb", 0)
                self._guarded(make_private, handle, os.path.dirname(self.target), self.mode)
        except BaseException:
            if self.file:           # it was opened, and then a signal arrived
                self.cancel()
            raise
        return self

    def prove(self):
        """Replaces the file by itself, and reserves room. Raises Failure if it cannot be saved."""
        before = result_or(None, file_content, self.target, kinds=OSError)
        if before is not None and len(before) <= MAX_STATE_FILE_BYTES:
            with deferred_signals(), AtomicFile(self.path, self.mode, self.hint, clock=self.clock,
                                                prefix=self.prefix) as copy:
                copy.write(before)
                copy.sync()         # another program may have changed the file meanwhile
                if before != result_or(None, file_content, self.target, kinds=OSError):
                    copy.cancel()
        self.write(b" " * MAX_STATE_FILE_BYTES)
        self._guarded(os.fsync, self.file.fileno())
        self._guarded(self.file.seek, 0)

    def sync(self):
        """Brings the content to the disk, so that only the replacement is left to do."""
        if not self.file.closed:
            self._guarded(self.file.truncate)       # what prove() reserved, and is not needed
            self._guarded(os.fsync, self.file.fileno())
            self._guarded(self.file.close)

    def __exit__(self, kind, *_):
        with deferred_signals():
            try:
                if kind is None and self.temporary:
                    self.sync()
                    self._guarded(self.replace)
            finally:
                self.cancel()

    def replace(self):
        self.file.close()               # Windows replaces closed files only
        replace_file(self.temporary, self.target, self.clock)
        self.temporary = None

    def cancel(self):
        """Leaves what was there before."""
        result_or_failure(self.file.close, kinds=OSError)
        if self.temporary:
            result_or_failure(os.unlink, self.temporary, kinds=OSError)
            self.temporary = None


def write_text(path: str, text: str, clock=CLOCK, prefix=AtomicFile.prefix):
    with deferred_signals(), AtomicFile(path, clock=clock, prefix=prefix) as file:
        file.write(text.encode("utf-8"))


def write_in_place(path, content):
    with open(open_regular(path, os.O_WRONLY), "wb") as file:
        write_all(file.fileno(), content)


def write_all(handle, content):
    """Replaces the content of an open file, and brings it to the disk. Raises OSError."""
    os.lseek(handle, 0, os.SEEK_SET)
    left = content
    while left:
        left = left[os.write(handle, left):]
    os.ftruncate(handle, len(content))
    os.fsync(handle)


def replace_file(temporary, target, clock=CLOCK):
    """os.replace; on Windows, tried again while a program that reads the target blocks it."""
    for pause in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, None):
        try:
            return os.replace(temporary, target)
        except PermissionError:
            if pause is None or os.name != "nt":
                raise
            clock.sleep(pause)


def remove_file(path):
    """Deletes a regular file, if there is one. Raises Failure."""
    try:
        require_regular(path)
        result_or_failure(os.unlink, path, kinds=MISSING_FILE)
    except OSError as error:
        raise unwritable_file(path, error)


def output_file(path):
    """What -o FILE writes to: an AtomicFile, or an OutputTarget. Raises Failure for a directory."""
    if os.path.isdir(path) or path.endswith(os.sep):
        raise Failure(f"Cannot write {path}: Is a directory", OUTPUT_HINT)
    if re.match(_OPEN_FILE, path) or os.path.exists(path) and not os.path.isfile(path):
        return OutputTarget(path, OUTPUT_HINT)
    if os.path.isfile(path):
        return AtomicFile(path, os.stat(path).st_mode & 0o777, OUTPUT_HINT)
    mask = os.umask(0o077)          # there is no other way to read it
    os.umask(mask)
    return AtomicFile(path, 0o666 & ~mask, OUTPUT_HINT)


def env_content(path) -> str:
    """The bytes of a file such as .env, as Latin-1; "" if it is missing. Raises Failure."""
    if not os.path.lexists(path):   # an AtomicFile says what is wrong, if anything is
        return ""
    hint = "Name a new file, or one of your own."
    is_own = os.name == "nt" or os.lstat(path).st_uid in (os.geteuid(), sudo_user())
    is_alone = os.path.isfile(path) and not os.path.islink(path) and os.lstat(path).st_nlink == 1
    if not (is_own and is_alone and os.access(path, os.R_OK | os.W_OK)):
        raise Failure(f"Cannot write {path}: it is a link, read-only, no file, or not yours", hint)
    content = file_content(path, -1).decode("latin-1")
    if re.search(_ENV_UNFIT, content):
        raise Failure(f"Cannot write {path}: it is UTF-16, or the key in it spans lines", hint)
    return content


def write_env_key(path, key):
    """Sets TWOSIGNAL_API_KEY in a file, all other bytes of which stay. Raises Failure."""
    if not re.match(r"(?a)[\w.:/+=~-]+\Z", key):
        raise Failure(f"Cannot write {path}: the key has characters that require quotes")
    content = env_content(path)
    if not re.search(_ENV_KEY, content):
        newline = "\r\n" if "\r\n" in content else "\n"
        content += newline if content and not content.endswith("\n") else ""
        content += "TWOSIGNAL_API_KEY=" + newline
    with deferred_signals(), AtomicFile(path, hint=OUTPUT_HINT) as file:
        file.write(re.sub(_ENV_KEY, r"\g<1>" + key, content).encode("latin-1"))


def is_same_file(path, other) -> bool:
    try:
        return os.path.realpath(path) == os.path.realpath(other) or os.path.samefile(path, other)
    except OSError:                 # one does not exist, nor may the working directory
        return False


class Lock(Struct):
    """A lock, held by one process (and one thread) at a time, and released when that dies."""
    path: str                       # a file for this alone, never replaced or deleted
    deadline: float                 # time.monotonic() at which waiting ends with a LOCKED failure
    clock: object = CLOCK
    handle = None
    directory = -1                  # a handle, which Windows has none of

    def __enter__(self):
        self._open()
        try:
            self.directory = result_or(-1, os.open, os.path.dirname(self.path), os.O_RDONLY,
                                       kinds=OSError)
            while not self._try_lock():
                if self.clock.monotonic() >= self.deadline:
                    hint = f"Wait for it to end, or stop it: 'lsof {self.path}' names it."
                    raise TransientFailure(f"Another process holds the lock {self.path}", hint,
                                           "LOCKED")
                self.clock.sleep(0.02)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for handle in (self.handle, self.directory):
            result_or_failure(os.close, handle, kinds=OSError)      # it is closed in any case

    def _open(self):
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)   # no planted link
        try:
            self.handle = open_regular(self.path, flags)
            if os.fstat(self.handle).st_nlink == 1:     # otherwise, it has another name elsewhere
                make_private(self.handle, os.path.dirname(self.path))
        except OSError as error:
            raise unwritable_file(self.path, error)

    def _try_lock(self) -> bool:
        """False if another process holds it, or if its file was deleted. Raises Failure."""
        locked = self.handle
        try:
            lock_handle(locked)
            # If the file is deleted while it is held, others lock a new one, but not the directory.
            found = result_or_failure(lock_handle, self.directory, kinds=(OSError, ValueError))
            if isinstance(found, BlockingIOError):
                return False
            status = result_or(None, os.lstat, self.path, kinds=FileNotFoundError)
            if status and os.path.samestat(os.fstat(locked), status):
                return True
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise Failure(f"Cannot lock {self.path}: {os_reason(error)}",
                          "Set TWOSIGNAL_HOME to a directory on a local disk.")
        self._open()                # others lock the new file
        result_or_failure(os.close, locked, kinds=OSError)
        return False


def lock_handle(handle):
    """Raises BlockingIOError if another process has locked the same file."""
    try:
        import fcntl
    except ImportError:             # Windows
        import msvcrt
        return msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def handle_signals(handlers: dict) -> dict:
    """Installs {signal name: handler} and returns those before them, as {name: handler}."""
    import signal
    before = {}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
            continue    # the platform lacks it, or it is ignored and stays so
        before[name] = signal.getsignal(number)
        # It raises ValueError in any other thread than the main one, where alone signals arrive.
        result_or_failure(signal.signal, number, handler, kinds=ValueError)
    return before


class deferred_signals:
    """Signals, by default those that end a program, wait until the block ends."""

    def __init__(self, *names):
        self.names = names or ("SIGINT", "SIGTERM", "SIGHUP")

    def __enter__(self):
        self.arrived = []
        self.before = handle_signals(dict.fromkeys(
            self.names, lambda number, frame: self.arrived.append(number)))

    def __exit__(self, *_):
        import signal
        handle_signals(self.before)
        for number in self.arrived[:1]:
            handler = self.before[signal.Signals(number).name]
            if callable(handler):
                handler(number, None)
            else:                   # the default: die of it
                os.kill(os.getpid(), number)


############################################################
# Settings
############################################################

CONFIG_KEYS = ("api_url", "ca_cert", "org", "project")
HOME_HINT = "Set HOME or TWOSIGNAL_HOME to a directory of your own."
_HEADER = r"(?a)([\w!#$%&'*+.^`|~-]+):[\t ]*([!-~][\t -~]*)\Z"
# Those that this program sets itself, or that frame a message.
_RESERVED = "host|cookie|user-agent|accept.*|content-.*|transfer-.*|connection|te|upgrade|expect"
_LOCAL_HOST = r"(?ai)(localhost|127(\.\d+){3}|\[::1\]|[^:/]+\.localhost)(:\d+)?\Z"
_ADDRESS = (r"(?ai)(?:(https?)://)?([a-z0-9_](?:[a-z0-9._-]*[a-z0-9_.])?|\[[0-9a-f:.]+"
            r"(?:%[\w.~-]+)?\])(?::(\d{1,5}))?"
            r"((?:/(?!/)[!$%&'()*+,./:;=@\w~-]*)?)\Z")     # scheme, host, port, path


def setting(name: str, is_secret=False):
    """An environment variable; None if it is unset or empty. Raises a usage error."""
    value = plain_secret(as_utf8(os.environ.get(name, ""), name))
    value = value if is_secret else value.strip()
    if not is_secret and name.startswith("TWOSIGNAL_") and re.match(r"""(?s)(["']).*\1\Z""", value):
        raise usage_error(f"The value of {name} is in quotes", "Remove them.")
    return value or None


def plain_secret(text: str) -> str:
    """A secret without what editors and shells add: a BOM before it, line breaks behind it."""
    return text.lstrip("\ufeff").rstrip("\r\n")


def as_utf8(text, what) -> str:
    """An argument or variable, decoded as UTF-8 whatever the locale. Raises a usage error."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:            # surrogates stand for bytes that the locale could not decode
        if re.search("[\ud800-\udfff]", text):
            raise usage_error(f"{what} is not UTF-8")
        return text


def home_directory() -> str:
    """The absolute path of the directory for session and config, which may not exist yet."""
    chosen = setting("TWOSIGNAL_HOME")
    path = absolute_path(chosen or os.path.join("~", ".twosignal"))
    try:
        return trusted_directory(path)
    except OSError as error:
        kind = Failure if chosen else NoHome    # HOME may be another user's, as in a container
        raise kind(f"Cannot read {path}: {os_reason(error)}", HOME_HINT)


def trusted_directory(path) -> str:
    """The path of a directory, which may be missing. Raises Failure if others may write to it."""
    import stat
    status = result_or(None, os.stat, path, kinds=MISSING_FILE)
    is_posix = status and os.name != "nt"
    if status and not stat.S_ISDIR(status.st_mode):
        problem = "it is not a directory"
    elif is_posix and status.st_uid not in (0, os.geteuid(), sudo_user()):
        problem = "it belongs to another user"
    elif is_posix and status.st_mode & stat.S_IWOTH:
        problem = "everybody may write to it"
    else:
        return path
    raise Failure(f"Cannot use {path}: {problem}", HOME_HINT)


def to_path(text) -> str:
    """What as_utf8 has decoded, as open() takes it: in the locale's encoding of the same bytes."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def absolute_path(text, hint=HOME_HINT) -> str:
    """The path that a text names, which may begin with ~. Raises NoHome."""
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]      # os.path.expanduser would take it for the root directory
    # Python 3.6 and 3.7 raise KeyError for a user without an entry, as in containers.
    path = result_or("", os.path.expanduser, to_path(text), kinds=KeyError)
    if text.startswith("~") and not os.path.isabs(path):
        raise NoHome(f"There is no home directory for {text}", hint)
    return os.path.abspath(path)


def home_path(name: str) -> str:
    return os.path.join(home_directory(), name)


def make_directory(path, hint="", mode=0o700):
    """Creates a directory and those above it if missing. Raises Failure."""
    parent = os.path.dirname(path)
    if path == parent or os.path.isdir(path):   # a drive; or its mode is the user's choice
        return
    make_directory(parent, hint, mode)
    try:
        os.mkdir(path, mode)
        if os.name != "nt":         # where directories cannot be opened
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            make_private(handle, parent, mode)
            os.close(handle)
    except OSError as error:
        if not os.path.isdir(path):     # another process may have created it
            raise unwritable_file(path, error, hint)


def load_config(clock=CLOCK) -> dict:
    """What config.json holds; {} if there is none. Raises Failure."""
    config = read_json_object(home_path("config.json"), clock)
    if not all(isinstance(config.get(key, ""), str) for key in CONFIG_KEYS):
        raise damaged_file(home_path("config.json"))
    return config


def config_for(url, clock=CLOCK) -> dict:
    """What config.json holds, without what it holds for a server at another address."""
    config = load_config(clock)
    if url == result_or_failure(normal_url, config.get("api_url") or DEFAULT_URL):
        return config
    return {key: value for key, value in config.items() if key not in CONFIG_KEYS}


def save_config(values: dict, clock=CLOCK):
    """Saves some values, api_url among them, and keeps the rest if it fits. Raises Failure."""
    make_directory(home_directory())
    config = dict(result_or({}, config_for, values["api_url"], clock), **values)
    write_text(home_path("config.json"), json.dumps(config, indent=2) + "\n", clock)


def url_and_source(option=None, clock=CLOCK, key=None) -> tuple:
    """The server's address, or that of an API key, and what sets it. Raises Failure."""
    if option is not None:
        return normal_url(option), "--url"
    # The SDKs read TWOSIGNAL_BASE_URL beside the key, which goes to the address it belongs to.
    url, base_url = setting("TWOSIGNAL_URL"), key and setting("TWOSIGNAL_BASE_URL")
    if url or base_url:
        name = "TWOSIGNAL_URL" if url else "TWOSIGNAL_BASE_URL"
        return normal_url(url or base_url, name), name
    saved = result_or({}, load_config, clock, kinds=NoHome).get("api_url")
    if not saved:
        return DEFAULT_URL, "default"
    return normal_url(saved, home_path("config.json")), home_path("config.json")


def normal_url(text: str, source="--url") -> str:
    """An address as https://host[:port][/path]. Raises a usage error, which names the source."""
    match = re.match(_ADDRESS, text.strip()) if len(text) <= MAX_BATCH_URL else None
    if not match or not 0 < int(match.group(3) or 1) < 65536:
        # A password and parameters are secrets; with an @ behind a ?, it may be either.
        shown = re.sub(r"(?s)\A(\w*://)?([^?#]*[?#].*@.*|.*(?=@))|(?<=[?#]).+", r"\1***", text)
        raise usage_error(f"{source} is not a server's address: {shown}",
                          "It should look like https://twosignal.example.com.")
    scheme, host, port, path = match.groups()
    scheme = (scheme or ("http" if re.match(_LOCAL_HOST, host) else "https")).lower()
    if port and int(port) != (443 if scheme == "https" else 80):
        host += f":{port}"
    path = re.sub(r"(/(login|api(/v1|/trpc)?)?)*\Z", "", path)
    host, percent, zone = host.partition("%")       # of [fe80::1%25eth0], whose case matters
    zone = re.sub("%(25)?(?=[^]])", "%25", percent + zone)
    return f"{scheme}://{host.lower()}{zone}{path}"


def is_local(url: str) -> bool:
    return bool(re.match(_LOCAL_HOST, url.split("/")[2]))


class Access(Struct):
    """What it takes to reach a server: trust, and what a gateway in front of it requires."""
    ca_cert: str = None             # the absolute path of a PEM file, as the next two
    client_cert: str = None
    client_key: str = None          # None: it is in client_cert, too
    headers: dict = {}              # of each request
    ca_cert_option: str = "--ca-cert FILE"      # where to name another one
    url_setting: str = "--url or TWOSIGNAL_URL"     # where to correct the address


def server_access(url, options, key=None, clock=CLOCK) -> Access:
    """The Access to a server, given {option's name: its value}. Raises a usage error."""
    paths = [options.get(name) for name in ("ca_cert", "client_cert", "client_key")]
    access = Access(*[path and absolute_path(path) for path in paths])
    from_variables = {"client_cert", "client_key"} & set(options.get("sources", ()))
    if access.client_cert and from_variables == {"client_key"}:
        access.client_key = None        # a variable's key is not that of an option's certificate
    access.client_cert = access.client_cert or access.client_key
    lines = (setting("TWOSIGNAL_HEADERS") or "").split("\n") + (options.get("header") or [])
    access.headers = parse_headers(lines, _RESERVED + "|authorization" if key else _RESERVED)
    saved = result_or({}, config_for, url, clock).get("ca_cert")
    if saved and not access.ca_cert:
        access.ca_cert = home_path(os.path.expanduser(to_path(saved)))
        access.ca_cert_option += f", or correct {home_path('config.json')}"
    return access


def parse_headers(lines, reserved) -> dict:
    """{name: value} of "Name: value" lines; the last of a name counts. Raises a usage error."""
    found, hint = {}, "Correct --header or TWOSIGNAL_HEADERS."
    for line in filter(None, map(str.strip, lines)):
        match = re.match(_HEADER, line)
        if not match:               # and not shown: it may be a secret
            raise usage_error("A header is not 'Name: value' in ASCII", hint)
        if re.match(f"(?i)({reserved})\\Z", match.group(1)):
            raise usage_error(f"The client sets the header {match.group(1)} itself", hint)
        found[match.group(1).title()] = match.group(2)      # the case of names has no meaning
    return found


def header_secrets(value) -> list:
    """The value of a header, what follows its scheme, such as Bearer, and a password in that."""
    scheme, _, rest = value.partition(" ")
    secrets = [value, rest]
    if scheme.lower() == "basic":
        import base64
        decoded = result_or(b"", base64.b64decode, rest, kinds=ValueError)
        secrets.append(decoded.decode("utf-8", "replace").partition(":")[2])
    return secrets


def has_key() -> bool:
    """Whether a key is given, be it of use or not."""
    return any(os.environ.get(f"TWOSIGNAL_API_KEY{end}", "").strip() for end in ("", "_FILE"))


def api_key():
    """The API key, from TWOSIGNAL_API_KEY or the file named instead; or None. Raises Failure."""
    key, path = setting("TWOSIGNAL_API_KEY"), setting("TWOSIGNAL_API_KEY_FILE")
    if not key and path:
        key = (read_text(to_path(path)) or "").strip()
    assigned = re.findall(_ENV_KEY, key or "")
    if assigned:                    # it is the content of a file such as --output-env writes
        key = assigned[-1][1].strip(" \t'\"")
    elif path and re.match(r"(export\s+)?[^\s=]+\s*=[^=]", key):
        key = None                  # a file of other variables
    if not key and path:
        raise usage_error(f"There is no API key in {path}", "Correct TWOSIGNAL_API_KEY_FILE.")
    if key and not re.match(r"[!-~]+\Z", key):
        raise usage_error("The API key contains characters that no key has",
                          "Correct TWOSIGNAL_API_KEY or its file.")
    return key


############################################################
# Transport
############################################################

class Request(Struct):
    """What is sent to a server, and what becomes of it."""
    method: str
    url: str                    # without a fragment
    headers: dict
    body: bytes                 # or None
    deadline: float             # the time.monotonic() at which its exchange ends at the latest
    spending: object = None     # the Spending of a token in its body, which is told when
    proxy: str = None           # the host and port of the proxy that it goes through
    was_sent: bool = False      # it may have arrived at the server


class Response(Struct):
    """What a server answered, whatever its status."""
    status: int
    headers: object             # a mapping that ignores case
    body: bytes
    route: tuple = (None,) * 4  # where it came from, see find_route()
    requested_pause: int = None     # seconds that it asks to wait before the next request


class Transport:
    """Makes every HTTP request of this program."""

    def __init__(self, timeout=DEFAULT_TIMEOUT, access=Access(), tell=None, log=None, clock=CLOCK):
        self.timeout = timeout          # seconds for a request, its retries included
        self.access, self.tries = access, MAX_TRIES
        self.tell = tell or (lambda text: None)     # prints a remark
        self.log = log                  # prints a line of --debug; or None
        self.clock = clock
        self.until = float("inf")       # time.monotonic() at which all has to end; callers set it
        self.on_response = lambda request, response: None   # called with each of them
        self.start_time = clock.time()  # Unix seconds, by the server's clock if this one is wrong
        self.clock_ahead = None     # seconds that this machine's is ahead of it, once it is known
        self._started = clock.monotonic()   # or None: start_time has been compared with that clock
        self._tls = None                # the ssl.SSLContext, once it is needed
        self._kept = None               # an idle DeadlineSocket, for the next query
        self._routes = {}               # by scheme and host; each takes a walk of os.environ

    def deadline(self, seconds=None) -> float:
        """The time.monotonic() so many seconds from now, by default the timeout, or `until`."""
        return min(self.clock.monotonic() + (seconds or self.timeout), self.until)

    def request(self, method, url, headers=(), body=None, reports_unknown=True,
                retried=None, spending=None) -> Response:
        """Sends a request and returns the response, whatever its status. Raises Failure.
        body: sent as JSON; spending: of a token in it. Only a GET is sent again if it may have
        arrived; any other is then, with reports_unknown, an UNKNOWN_OUTCOME. retried: statuses."""
        retried = retried or (RETRIED_STATUSES if method == "GET" else RETRIED_CHANGE_STATUSES)
        deadline = self.deadline()
        headers = {**self.access.headers, "User-Agent": USER_AGENT, **dict(headers)}
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = body if isinstance(body, bytes) else json.dumps(body).encode("ascii")
        for attempt in range(1, self.tries + 1):
            request = Request(method, url, headers, body, deadline, spending)
            try:
                response = self._follow_redirects(request)
            except RequestError as error:
                may_have_changed = method != "GET" and request.was_sent
                if may_have_changed and reports_unknown:
                    cause = error.message[:1].lower() + error.message[1:]
                    raise Failure(f"The outcome is unknown: {cause}", code="UNKNOWN_OUTCOME")
                if may_have_changed or not error.is_retryable or not self._pause(
                        attempt, error.message, request):
                    raise
                continue
            pause = response.requested_pause = requested_pause(response, self.clock)
            cause = "Rate limited" if response.status == 429 else (
                f"The server answered {response.status}")
            if response.status not in retried or not self._pause(attempt, cause, request, pause):
                return response

    def _pause(self, attempt, cause, request, pause=None) -> bool:
        """Waits before the next try; False if there is none, or no time left for it."""
        import random
        pause = pause or random.uniform(0.5, 1.5) * RETRY_PAUSE * 2 ** attempt
        if attempt == self.tries or self.clock.monotonic() + pause >= request.deadline:
            return False
        if request.spending:
            request.spending.end()
        if pause > ANNOUNCED_PAUSE:
            self.tell(f"{cause}. Trying again in {round(pause)} seconds.")
        self.clock.sleep(pause)
        return True

    def _follow_redirects(self, request) -> Response:
        """The response, of another address of the same origin if the server redirects a query."""
        from urllib.parse import quote, urljoin
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(request)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            try:
                # http.client decodes headers as latin-1; what no URL may contain is quoted.
                location = quote(location.strip(), "!#$%&'()*+,/:;=?@[]~", "latin-1")
                target = urljoin(request.url, location)
                if origin(target) != origin(request.url) or request.method != "GET":
                    raise redirected(request.url, target)
            except ValueError:
                raise protocol_error("The server redirects to something that is not an address")
            request.url = target.partition("#")[0]
        raise protocol_error("The server redirects in circles")

    def _exchange(self, request) -> Response:
        """One request and its response. Raises RequestError if there is none."""
        started = self.clock.monotonic()
        try:
            response = self._send(request)
        except Exception as error:
            failure = request_error(error, request, self.access)
            failure.was_sent = request.was_sent
            self._log(request, failure.message)
            raise failure
        took = (self.clock.monotonic() - started) * 1000
        self._log(request, f"{response.status}, {len(response.body)} bytes, {took:.0f} ms")
        self._compare_clocks(response)
        self.on_response(request, response)
        return response

    def _compare_clocks(self, response):
        """Corrects start_time by the Date of the first response that has one, with a warning."""
        if self._started is None or "Age" in response.headers:      # a cached copy
            return
        date = parse_http_date(response.headers.get("Date"))
        if date is None:
            return
        elapsed = self.clock.monotonic() - self._started    # time() may have jumped meanwhile
        self._started = None
        self.clock_ahead = self.start_time - (date - elapsed)
        if abs(self.clock_ahead) > MAX_CLOCK_DIFFERENCE:
            self.start_time -= self.clock_ahead
            self.tell(f"Warning: {clock_difference(self.clock_ahead)}, which is used for relative "
                      "times such as --since 5m.")

    def _log(self, request, outcome):
        """Prints what became of a request, and a line for a shell that repeats it; no secrets."""
        if not self.log:
            return
        import shlex
        url = mask_secret_fields(request.url)
        words = ["curl", "-X", request.method, url]
        for name, value in request.headers.items():
            shown = value if name in ("Accept", "Content-Type", "User-Agent") else "***"
            words += ["-H", f"{name}: {shown}"]
        if request.body:
            words += ["-d", mask_secret_fields(request.body.decode("utf-8"))]
        self.log(f"debug: {request.method} {url}: {outcome}")
        self.log(f"debug: {' '.join(map(shlex.quote, words))}")

    def _send(self, request) -> Response:
        """Sends a request, and sets its proxy and was_sent. Raises what the library raises."""
        from urllib.parse import urlsplit
        server = urlsplit(request.url)[:2]
        route = self._routes[server] = self._routes.get(server) or find_route(request.url)
        request.proxy = route[2]
        kept, self._kept = self._kept, None
        # A change gets a new one: if a kept one dies, nobody can tell whether the change arrived.
        if kept and kept.route == route and request.method == "GET" and kept.is_idle():
            try:
                return self._ask(kept, request)
            except ConnectionError:
                pass                # it had died since its last use
        elif kept:
            kept.sock.close()
        if route[0] == "https":
            self._tls = self._tls or tls_context(self.access)
        return self._ask(open_connection(route, request.deadline, self._tls), request)

    def _ask(self, connection, request) -> Response:
        """One request and response over a connection, which is then kept or closed."""
        import http.client
        scheme, host, proxy, proxy_headers = connection.route
        headers = dict(request.headers, Host=re.sub("%[^]]*", "", host))    # without the zone
        target = re.sub(r"\A[a-z]+://[^/?]*/?", "/", request.url)
        if scheme == "http" and proxy:          # a proxy needs the whole address
            target = request.url
            headers.update(proxy_headers)
        client = http.client.HTTPConnection(host)
        client.sock = connection
        try:
            connection.begin(request.spending.begin() if request.spending else request.deadline)
            request.was_sent = True
            client.request(request.method, target, request.body, headers)
            reply = client.getresponse()
            while 100 <= reply.status < 200 and reply.status != 101:    # interim responses
                connection.bytes_left -= MAX_RESPONSE_BYTES // 100      # about so many, at most
                reply.headers = None            # without this, begin() does nothing
                reply.begin()
            body = decompressed(read_body(reply, connection), reply.headers)
            if has_clear_end(reply):
                self._kept = connection
            return Response(reply.status, reply.headers, body, connection.route)
        except OSError as error:
            request.was_sent = not re.search(_CERTIFICATE_ALERT, openssl_reason(error))
            raise
        finally:
            if not self._kept:
                connection.sock.close()

    def close(self):
        if self._kept:
            self._kept.sock.close()
            self._kept = None


def redirected(url, target) -> TransientFailure:
    """The failure of a request that is not sent to where its server redirects it."""
    server, mark, path = url.partition("?")[0].rpartition("/api/")
    base, found, rest = re.split("[?#]", target)[0].rpartition(mark + path)
    place = result_or(None, normal_url, base)
    hint = f"If that is right, use --url {place}."
    if not found or rest.strip("/") or not place:
        place, hint = "/".join(target.split("/")[:3]), GATEWAY_HINT
    elif place == server:
        place, hint = base + found + rest, f"Only queries follow redirects. {REPORT_TO_OPERATOR}"
    return TransientFailure(f"The server redirects to {place}", hint, "REDIRECTED", False)


def requested_pause(response, clock):
    """Whole seconds that a response asks to wait before the next request; None if it does not."""
    names = ("Retry-After", "RateLimit-Reset", "X-RateLimit-Reset")
    # Responses other than a 429 have the last two as well.
    for value in map(response.headers.get, names if response.status == 429 else names[:1]):
        is_number = re.match(r"\s*\d{1,10}\s*\Z", value or "", re.ASCII)
        pause = int(value) if is_number else parse_http_date(value)
        if pause is not None and pause >= EARLIEST_DATE:    # it is a time, in Unix seconds
            now = parse_http_date(response.headers.get("Date")) or clock.time()
            pause = max(0, pause - int(now))
        if pause is not None and pause <= DAY:
            return pause
    return None


def clock_difference(ahead) -> str:
    """How far this machine's clock is ahead of the server's, in seconds, as text."""
    unit, length = ("day", DAY) if abs(ahead) >= DAY else ("minute", MINUTE)
    difference = counted(round(abs(ahead) / length), unit)
    side = "ahead of" if ahead > 0 else "behind"
    return f"this machine's clock is {difference} {side} the server's"


def parse_http_date(value):
    """Unix seconds of a date in a header; None if it cannot be right."""
    from calendar import timegm
    from email.utils import parsedate_to_datetime
    seconds = result_or(0, lambda: timegm(parsedate_to_datetime(value).utctimetuple()),
                        kinds=(TypeError, ValueError, OverflowError, IndexError))
    return seconds if seconds >= EARLIEST_DATE else None


def origin(url) -> tuple:
    """(scheme, host, port): credentials never go to another one. Raises ValueError."""
    from urllib.parse import urlsplit
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


_JSON_KEY = r'((?:"|%22)([\w-]*)(?:"|%22):(?: |%20)?)'
# Each repetition begins with a character of its own: no text can be read in two ways.
_JSON_STRING = r'("[^"\\]*(?:\\.[^"\\]*)*"|%22[^%]*(?:(?:%5C%..|%(?!5C%|22))[^%]*)*%22)'


def mask_secret_fields(text) -> str:
    """JSON, percent-encoded or not, with *** for what its keys or its form show to be secret."""
    text = re.sub(_JSON_KEY + _JSON_STRING, lambda match: (
        match.group(1) + '"***"' if is_secret_name(match.group(2)) else match.group()), text)
    return re.sub(r"(%22|\b)(ts_|2s_live_)\w{8,}", r"\1\2***", text)


def find_route(url) -> tuple:
    """(scheme, host and port, those of the proxy or None, headers for it). Raises Failure."""
    import urllib.request
    from urllib.parse import unquote, urlsplit
    scheme, host = urlsplit(url)[:2]
    proxies, is_excluded = urllib.request.getproxies_environment(), is_in_no_proxy
    if not proxies:                 # those of macOS or Windows
        proxies, is_excluded = urllib.request.getproxies(), urllib.request.proxy_bypass
    address = proxies.get(scheme) or proxies.get("all")
    if not address or is_excluded(host):
        return scheme, host, None, {}
    try:
        parts = urlsplit(address if "://" in address else "http://" + address)
        if parts.scheme != "http" or not parts.hostname or parts.port == 0:
            raise ValueError        # https://: the password would go out in plain text
    except ValueError:              # of the port and of an IPv6 address, too
        raise usage_error("The proxy in http_proxy or https_proxy is not an http:// address",
                          "It should look like http://proxy.example.com:3128.")
    headers = {}
    if parts.username and parts.password:
        import base64
        password = f"{unquote(parts.username)}:{unquote(parts.password)}".encode("utf-8")
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(password).decode('ascii')}"
    return scheme, host, parts.netloc.rpartition("@")[2], headers


def is_in_no_proxy(host) -> bool:
    """Whether no_proxy, as curl reads it, excludes a host."""
    from ipaddress import ip_address, ip_network
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    name = origin(f"http://{host}")[1].rstrip(".").partition("%")[0]
    for entry in re.split(r"[\s,]+", no_proxy.lower()):
        try:
            is_match = ip_address(name) in ip_network(entry.strip("[]"), strict=False)
        except ValueError:          # one of them is a name; a number is not the end of one
            end = entry.strip(".")
            is_match = ("." + name).endswith("." + end) and not end.replace(".", "").isdigit()
        if is_match:
            return True
    return no_proxy == "*"


class DeadlineSocket(Struct, io.BufferedIOBase):
    """A socket for http.client: socket.timeout at a deadline, ResponseTooLarge after 32 MiB."""
    sock: object
    route: tuple = None             # where it leads, see find_route()

    def begin(self, deadline):
        """Starts an exchange that ends at that time.monotonic()."""
        import http.client
        http.client.HTTPResponse.fp = None      # 3.13 complains if a signal ends its __init__
        self.deadline = deadline
        self.bytes_left = MAX_RESPONSE_BYTES
        self.has_ended = False
        self.ahead = bytearray()        # what was received and not read yet

    def encrypt(self, tls):
        """Continues with TLS; tls: an ssl.SSLContext."""
        host = origin("://".join(self.route[:2]))[1].partition("%")[0]
        self.sock.settimeout(seconds_left(self.deadline))
        # By itself, wrap_socket skips the handshake if the connection has ended: TLS would be off.
        self.sock = tls.wrap_socket(self.sock, do_handshake_on_connect=False, server_hostname=host)
        try:
            self.sock.do_handshake()
        except OSError as error:
            # Once the server has chosen a cipher, it is a certificate that TLS 1.2 lacks so.
            if self.sock.cipher() and openssl_reason(error) == "SSLV3_ALERT_HANDSHAKE_FAILURE":
                error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
            raise
        if sys.version_info < (3, 7) and tls.check_hostname:
            check_names(self.sock.getpeercert(), host)

    def sendall(self, data):
        self.sock.settimeout(seconds_left(self.deadline))
        try:
            self.sock.sendall(data)
        except OSError:
            self.receive()          # TLS 1.3 refuses a certificate after the handshake
            if not self.ahead:      # else it is a response such as 413, before all was sent
                raise

    def receive(self):
        self.sock.settimeout(seconds_left(self.deadline))
        data = self.sock.recv(65536)
        self.ahead += data
        self.bytes_left -= len(data)
        self.has_ended = not data
        if self.bytes_left < 0:
            raise ResponseTooLarge()

    def read(self, size) -> bytes:
        while len(self.ahead) < size and not self.has_ended:
            self.receive()
        data = bytes(self.ahead[:size])
        del self.ahead[:size]
        return data

    def readline(self, limit) -> bytes:
        while b"\n" not in self.ahead and len(self.ahead) < limit and not self.has_ended:
            self.receive()
        return self.read(self.ahead.find(b"\n", 0, limit) + 1 or limit)

    def makefile(self, *_):
        """The file that http.client reads from: this one, which knows what was read ahead."""
        return self

    def is_idle(self) -> bool:
        """Nothing arrived after the last response: neither the end nor unexpected bytes."""
        import selectors
        if self.ahead or (hasattr(self.sock, "pending") and self.sock.pending()):
            return False            # it came along with the response, or TLS has decrypted it
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            return not selector.select(0)

    def close(self):
        """Does nothing: http.client would end the connection before the body is read."""


def check_names(certificate, host):
    """Refuses what only Python 3.6 accepts: the names *, loc* and *.test, an IP address as CN."""
    import ssl
    names = certificate.get("subjectAltName") or [
        ("DNS", value) for part in certificate["subject"] for key, value in part
        if key == "commonName"]
    accepted = [each for each in names if re.match(r"([^*]*|\*(\.[^.*]+){2,})\Z", each[1])]
    ssl.match_hostname({"subjectAltName": accepted}, host)


def seconds_left(deadline) -> float:
    """Seconds until a time.monotonic(); raises socket.timeout if none are left."""
    left = deadline - time.monotonic()
    if left <= 0:
        import socket
        raise socket.timeout("timed out")
    return left


def find_addresses(host, port, deadline) -> list:
    """What getaddrinfo() returns or raises. It knows no deadline, so a thread waits for it."""
    import socket
    import threading
    found = []
    thread = threading.Thread(daemon=True, target=lambda: found.append(result_or_failure(
        socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM, kinds=Exception)))
    thread.start()
    while thread.is_alive():        # in steps: a signal just before join() would wait for its end
        thread.join(min(seconds_left(deadline), 1))
    if isinstance(found[0], Exception):
        raise found[0]
    return list(found[0])


def endpoint(route) -> tuple:
    """(host, port) of the server or proxy that a connection is made to."""
    scheme, host, proxy, _ = route
    name, port = origin(f"http://{proxy}" if proxy else f"{scheme}://{host}")[1:]
    return name.replace("%25", "%"), port


def open_connection(route, deadline, context=None) -> DeadlineSocket:
    """A new connection to the server, through its proxy if it has one; context: for TLS."""
    import http.client
    scheme, host, proxy, proxy_headers = route
    sock = open_socket(find_addresses(*endpoint(route), deadline), deadline)
    connection = DeadlineSocket(sock, route)
    try:
        connection.begin(deadline)
        if scheme == "https" and proxy:
            target = host if ":" in host.rpartition("]")[2] else host + ":443"
            client = http.client.HTTPConnection(proxy)
            client.sock = connection
            client.request("CONNECT", target, headers=dict(proxy_headers, Host=target))
            status = client.getresponse().status
            if not 200 <= status < 300:
                raise proxy_refusal(status, route)
        if context:
            connection.encrypt(context)
    except BaseException:
        connection.sock.close()
        raise
    return connection


def open_socket(addresses, deadline):
    """A connected socket. A slow address does not hold up the next one (RFC 8305)."""
    import selectors
    import socket
    family, failure = None, OSError("the host has no address")
    race = selectors.DefaultSelector()
    try:
        while addresses or race.get_map():
            wait = seconds_left(deadline)
            try:
                if addresses:
                    addresses.sort(key=lambda each: each[0] == family)      # families take turns
                    family, kind, protocol, _, address = addresses.pop(0)
                    sock = socket.socket(family, kind, protocol)
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    race.register(checked(sock, sock.connect_ex(address)), selectors.EVENT_WRITE)
                for key, _ in race.select(min(wait, CONNECT_DELAY) if addresses else wait):
                    sock = race.unregister(key.fileobj).fileobj
                    return checked(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            except OSError as error:        # a refusal says more than what else may go wrong
                failure = failure if isinstance(failure, ConnectionRefusedError) else error
    finally:
        for key in list(race.get_map().values()):
            key.fileobj.close()
        race.close()
    raise failure


def checked(sock, code):
    """A socket that is connecting or connected. Closes it and raises OSError if it failed."""
    import errno
    if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        sock.close()
        raise OSError(code, os.strerror(code))
    return sock


def has_clear_end(reply) -> bool:
    """Whether a connection is safe to keep: everybody sees this response end at the same byte."""
    names = [name.lower() for name in reply.headers]
    lengths = names.count("content-length") + names.count("transfer-encoding")
    allowed = 0 if reply.status in (204, 304) else 1        # these have no body
    return not reply.will_close and reply.status != 101 and lengths <= allowed


def read_body(reply, connection) -> bytes:
    """The whole body, as it was sent. Raises HTTPException or ResponseTooLarge."""
    import http.client
    if connection.has_ended:        # http.client takes headers that break off for whole
        raise http.client.IncompleteRead(b"")
    if reply.status in (204, 304):
        return b""                  # whatever its headers say
    lengths = ",".join(set(reply.headers.get_all("Content-Length", [])))
    if not re.match(r"(\d{1,15}\s*)?\Z", lengths, re.ASCII):
        raise http.client.HTTPException("the length of the body is ambiguous")
    if (reply.length or 0) > MAX_RESPONSE_BYTES:
        raise ResponseTooLarge()
    # In parts: a chunk may claim to be of any size, and memory would be reserved for all of it.
    body = b"".join(iter(lambda: reply.read(65536), b""))
    if reply.length or (reply.chunked and connection.has_ended):    # before the last line
        raise http.client.IncompleteRead(b"")
    return body


def decompressed(body, headers) -> bytes:
    """A body without gzip or deflate, which are removed from its headers, too."""
    if "Content-Encoding" not in headers:
        return body
    import zlib
    inflater = zlib.decompressobj(47)   # gzip or zlib format: some proxies compress unasked
    content = result_or(None, inflater.decompress, body, MAX_RESPONSE_BYTES, kinds=zlib.error)
    if content is not None and inflater.unconsumed_tail:
        raise ResponseTooLarge()
    if not inflater.eof or inflater.unused_data:
        return body
    del headers["Content-Encoding"]
    return content


class RequestError(TransientFailure):
    """No response arrived."""


class InsecureConnection(RequestError):
    """TLS failed, or one of the two certificates was refused."""


class ResponseTooLarge(RequestError, TooLarge):
    """A response that this program cannot take in; problem: such as "larger than 32 MiB"."""

    def __init__(self, problem=f"larger than {MAX_RESPONSE_BYTES >> 20} MiB"):
        super().__init__(f"The server's response is {problem}", "View it in the web app.",
                         "BAD_ANSWER", is_retryable=False)


def proxy_refusal(status, route) -> RequestError:
    """What it means that a proxy itself answers with that status."""
    _, host, proxy, _ = route
    problem = f"refused the connection to {host}"
    hint = "Check http_proxy or https_proxy, or name the host in no_proxy."
    if status == 407:
        problem = "requires a valid user name and password"
    elif status in (500, 502, 503, 504):
        problem = f"cannot reach {host}"
        hint = "Check the server's name and port, and that it is running; or add it to no_proxy."
    return RequestError(f"The proxy {proxy or host} {problem} ({status})", hint,
                        is_retryable=status in RETRIED_STATUSES)


def request_error(error, request, access=Access()) -> RequestError:
    """What an exception of the standard library means. Any other is raised as it is."""
    import http.client
    import socket
    if isinstance(error, RequestError):
        return error
    scheme, host = re.split("://|/", request.url)[:2]
    # With TLS, what goes wrong once a request is sent is the server's fault, behind any proxy.
    proxy = None if scheme == "https" and request.was_sent else request.proxy
    place = f"the proxy {proxy}" if proxy else host
    ssl = sys.modules.get("ssl")    # unless it is imported, nothing can raise one of its errors
    if ssl and isinstance(error, (ssl.SSLError, ssl.CertificateError)):
        return tls_error(error, f"{host} through {place}" if proxy else host, access)
    settings = "http_proxy, https_proxy or no_proxy" if proxy else access.url_setting
    hint = f"Check your {settings} setting."
    note = "" if proxy else f" If this network requires a proxy, set {scheme}_proxy."
    advice = f"{hint} {_CLOSED_HINTS[scheme]}"
    for kinds, *details in (        # the first that fits counts
            (ConnectionRefusedError, f"Connection refused by {place}", hint, "CONNECTION_REFUSED"),
            ((socket.timeout, TimeoutError), f"No response from {place} in time",
             "Try again, or allow more time with --timeout SECONDS.", "TIMED_OUT"),
            (socket.gaierror, f"Cannot resolve the name of {place}", hint + note),
            (UnicodeError, f"{place} is not the name of a host", hint, "CONNECTION_FAILED", False),
            (http.client.IncompleteRead, f"The response of {place} was cut short", hint),
            (ConnectionResetError, f"No response: {place} closed the connection", advice),
            ((http.client.HTTPException, ValueError), f"The response of {place} is not HTTP",
             advice, "BAD_ANSWER" if request.was_sent else "CONNECTION_FAILED", False),
            (OSError, f"The connection to {place} failed: {os_reason(error)}", hint)):
        if isinstance(error, kinds):
            return RequestError(*details)
    raise error


_CLOSED_HINTS = {"http": "The address of a TLS server begins with https://.",
                 "https": "Also check that the server is running."}
# OpenSSL's flags; old Pythons have no names for them.
_PARTIAL_CHAIN, _STRICT, _IGNORE_UNEXPECTED_EOF = 0x80000, 0x20, 0x80
_CERTIFICATE_ALERT = "ALERT_(.*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)"   # against the client's
_CERTIFICATE_HINTS = {              # by OpenSSL's X509_V_ERR codes
    9: "Correct this machine's clock.",
    10: "Renew it on the server, or correct this machine's clock.",
    **dict.fromkeys((62, 64), "It was issued for another host: use that name with --url.")}


def default_context():
    """An ssl context, which follows these variables. Raises a usage error for a wrong one."""
    import ssl
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        path = os.environ.get(name) or os.devnull
        is_usual = path == os.devnull or os.path.isfile(path) or os.path.isdir(path)
        if not is_usual and os.path.exists(path):       # OpenSSL would wait for a FIFO
            raise usage_error(f"Cannot use {name} {path}: Not a regular file", f"Correct {name}.")
    try:
        return ssl.create_default_context()
    except OSError as error:
        if not error.filename:
            raise
        raise usage_error(f"Cannot write SSLKEYLOGFILE {error.filename}: {os_reason(error)}",
                          "Correct or unset SSLKEYLOGFILE.")


def tls_context(access=Access()):
    """An ssl context that always verifies. Raises a usage error for a file of no use."""
    try:
        import ssl
    except ImportError:
        raise Failure("This Python was built without ssl and cannot use https",
                      "Use another Python, or an http:// address.", "CONNECTION_FAILED")
    context = default_context()
    # As curl, on each Python: what is in the file is trusted, be it an intermediate or a leaf.
    context.verify_flags = (context.verify_flags | _PARTIAL_CHAIN) & ~_STRICT
    context.options |= _IGNORE_UNEXPECTED_EOF       # as Python 3.10 does; read_body() checks it
    if hasattr(context, "minimum_version"):     # from 3.7 on
        context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    for option, path, kind, load in (
            (access.ca_cert_option, access.ca_cert, "certificate", context.load_verify_locations),
            ("--client-cert FILE", access.client_cert, "certificate", None),
            ("--client-key FILE", access.client_key or access.client_cert, "private key",
             lambda key: context.load_cert_chain(access.client_cert, key))):
        problem = path and pem_problem(path, kind, load)
        if problem:
            whose = ", the certificate's own and not encrypted," if "key" in kind else ""
            raise usage_error(f"Cannot use {path}: {problem}", "Check the path, or pass a "
                              f"{kind} in PEM format{whose} with {option}.")
    return context


def pem_problem(path, kind, load=None) -> str:
    """Why a file gives no "certificate" or "private key"; "" if it does. load: into a context."""
    try:
        content = file_content(path, -1)
        if f"{kind.upper()}-----".encode("ascii") not in content:
            return f"there is no {kind} in it"
        if kind == "private key" and b"ENCRYPTED" in content:
            return "it is encrypted"            # OpenSSL would prompt for its password
        if load:
            load(path)
    except (OSError, ValueError) as error:      # ValueError: a NUL in the path
        return os_reason(error)
    return ""


def openssl_reason(error) -> str:
    """OpenSSL's name for an error; Python 3.6 does not know the newest, but has them in words."""
    words = str(error).partition(" (_ssl")[0]
    return getattr(error, "reason", None) or re.sub(r"\W+", "_", words).upper()


def tls_error(error, host, access) -> RequestError:
    """What an ssl error means. No retry makes a certificate better, or a server speak TLS."""
    import ssl
    reason = openssl_reason(error)
    is_retryable = False
    if isinstance(error, ssl.CertificateError) or reason == "CERTIFICATE_VERIFY_FAILED":
        cause, hint = certificate_cause(error, access.ca_cert)
    elif reason in ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
        cause, hint = "it does not speak TLS", "For a plain HTTP server, use an http:// address."
    elif re.search(_CERTIFICATE_ALERT, reason):
        verb = "does not accept the" if access.client_cert else "requires a"
        words = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
        cause = f"it {verb} client certificate ({words})"
        hint = "Pass one that it accepts with --client-cert FILE."
    else:
        cause, hint, is_retryable = os_reason(error), "Check the server's TLS settings.", True
    return InsecureConnection(f"No secure connection to {host}: {cause}", hint,
                              is_retryable=is_retryable)


def certificate_cause(error, ca_cert=None) -> tuple:
    """(why a certificate is refused, the way out) of an ssl error."""
    import glob
    import ssl
    code = getattr(error, "verify_code", None)
    message = getattr(error, "verify_message", "Python 3.6 does not say why (authority, dates, …)")
    if code is None and isinstance(error, ValueError):      # 3.6: the host alone is checked by it
        code, message = 62, str(error)
    cause = f"its certificate is not accepted: {message}"
    if code not in (None, 2, 18, 19, 20, 21):   # those mean that the chain ends in no trusted one
        return cause, _CERTIFICATE_HINTS.get(code, "Have it replaced on the server.")
    file = os.environ.get("SSL_CERT_FILE")
    problem = file and pem_problem(file, "certificate")
    if problem:
        return cause, f"Correct SSL_CERT_FILE: no CA certificates were found in {file}: {problem}."
    if ca_cert:
        return cause, f"Check that its authority is in {ca_cert}."
    paths = ssl.get_default_verify_paths()
    # glob lists nothing, and does not fail, if a directory may not be read.
    files = paths.capath and glob.glob(os.path.join(glob.escape(paths.capath), "*"))
    note = "" if paths.cafile or files else ": no CA certificates were found on this machine"
    return cause, f"If you trust its authority, pass --ca-cert FILE or set SSL_CERT_FILE{note}."


# In DER, the object identifiers 2.5.4.3, 2.5.4.10 and 2.5.29.17; tags of texts: others are latin-1.
_NAME_PARTS, _ALTERNATIVE_NAMES = {b"U\4\3": "CN", b"U\4\n": "O"}, b"U\x1d\x11"
_TEXT_ENCODINGS = {0x0c: "utf-8", 0x1c: "utf-32-be", 0x1e: "utf-16-be"}


def read_certificate(der):
    """(issuer, start and end in Unix seconds, names) of DER; None if it is not readable here."""
    from calendar import timegm
    from ipaddress import ip_address
    kind, issuer, times, names = None, [], [], []
    try:
        for tag, content in der_values(der):
            if tag == 0x06:             # an object identifier, of what comes next
                kind = content
            elif tag in (0x17, 0x18):
                if tag == 0x17:         # a UTCTime, whose year has two digits
                    content = (b"20" if content < b"5" else b"19") + content
                times.append(timegm(time.strptime(str(content, "ascii"), "%Y%m%d%H%M%SZ")))
            elif kind in _NAME_PARTS:   # of the issuer; of the subject, after the dates
                text = str(content, _TEXT_ENCODINGS.get(tag, "latin-1"), "replace")
                (names if times else issuer).append(f"{_NAME_PARTS[kind]}={text}")
            elif kind == _ALTERNATIVE_NAMES and tag == 0x04:
                names = [str(ip_address(name) if tag == 0x87 else str(name, "latin-1"))
                         for tag, name in der_values(content) if tag in (0x82, 0x87)]
        start, end = times
        return ", ".join(issuer), start, end, names
    except (ValueError, IndexError):
        return None


def der_values(data):
    """Yields (tag, content) of each value in DER, of those inside others too. Raises ValueError."""
    data = memoryview(data)
    while data:
        tag, length, start = data[0], data[1], 2
        if length > 0x7f:               # so many bytes hold the length
            start += length - 0x80
            length = int.from_bytes(data[2:start], "big")
        if start + length > len(data):
            raise ValueError("cut off")
        if not tag & 0x20:              # otherwise, it consists of what comes next
            yield tag, bytes(data[start:start + length])
            start += length
        data = data[start:]


def peer_certificates(route, deadline) -> tuple:
    """(TLS version, DER of each certificate that the server shows), unverified: nothing is sent.
    Python before 3.13 has its own one only. Raises what the library raises, and Failure."""
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with open_connection(route, deadline, context).sock as sock:
        chain = getattr(sock, "get_unverified_chain", list)() or [sock.getpeercert(True)]
        return sock.version(), chain


############################################################
# Protocol
############################################################

PROCEDURE_ALIASES = {               # what other versions of the server call a procedure
    "trace.getById": "trace.byId", "dataset.getById": "dataset.byId",
    "usage.getCurrentMonth": "usage.currentMonth"}
STATUS_CODES = {                    # tRPC's names for HTTP statuses
    400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND",
    405: "METHOD_NOT_SUPPORTED", 408: "TIMEOUT", 409: "CONFLICT", 412: "PRECONDITION_FAILED",
    413: "PAYLOAD_TOO_LARGE", 422: "UNPROCESSABLE_CONTENT", 429: "TOO_MANY_REQUESTS"}
# A missing procedure is a NOT_FOUND like a missing resource: tRPC 10 and 11 tell it only here.
_MISSING_PROCEDURE = r'No (procedure found|"(query|mutation)"-procedure) on path\b'
_NUMERIC_TYPES = (["bigint"], ["number"], [["custom", "Decimal.js"]])       # superjson's names
# By the first part of a procedure, or the last of a path: its noun, and what lists its IDs.
RESOURCES = {
    "organization": ("organization", "orgs list"), "project": ("project", "projects list{org}"),
    "trace": ("trace", "traces list{project}"), "usage": ("organization", "orgs list"),
    "evaluator": ("evaluator", "evaluators list{project}"), "span": ("span", "traces get ID --io"),
    "item": ("dataset item", "datasets get {id}{project}"),     # which messages name like a dataset
    "dataset": ("dataset", "datasets list{project}"), "traces": ("trace", "traces list"),
    "apiKey": ("API key", "api-keys list{project}"), "scores": ("trace", "traces list"),
    "modelRouting": ("routing config", "routing list{project}"),
    "route-model": ("routing config", "routing list"),
    "version": ("prompt template version", "prompts list"),
    "prompt-templates": ("prompt template", "prompts list"),
    "member": ("member", "orgs list-members{org}"), "user": ("user", "")}
KNOWN_CALLS = [{"name": name, "kind": kind, "inputs": inputs} for kind, calls in {  # ?: optional
    "query": """organization.list; organization.getById organizationId; project.list organizationId;
        trace.list projectId limit? cursor? status? name? search? tags? startDate? endDate?;
        trace.getById traceId id projectId; evaluator.list projectId; dataset.list projectId;
        dataset.getById id projectId; apiKey.list projectId; usage.getCurrentMonth organizationId;
        usage.getHistory organizationId months?; modelRouting.list projectId""",
    "mutation": """organization.create name; organization.update organizationId name;
        organization.addMember organizationId role email? userId?; organization.removeMember
        organizationId memberId; project.delete projectId; project.create organizationId name
        description?; project.update projectId name? description?; evaluator.create projectId name
        type config?; evaluator.update id name? type? config? enabled?; evaluator.delete id;
        dataset.create projectId name description?; dataset.update id name? description?;
        dataset.addItem datasetId input expectedOutput? metadata?; dataset.removeItem itemId;
        dataset.delete id; apiKey.create projectId name; apiKey.revoke id; apiKey.rotate id;
        modelRouting.create projectId name defaultModel rules? enabled?; modelRouting.delete id;
        modelRouting.update id name? defaultModel? rules? enabled?""",
    "GET": """/api/v1/health; /api/v1/traces limit? cursor? name? status? tags? startDate? endDate?;
        /api/v1/prompt-templates name? version?""",
    "POST": """/api/v1/traces batch; /api/v1/otel/traces resourceSpans; /api/v1/scores traceId
        spanId? evaluatorName value label? reasoning?; /api/v1/prompt-templates name content
        variables? description? commitMessage?; /api/v1/route-model input configName?"""
}.items() for name, *inputs in map(str.split, calls.split(";"))]
# No part of a path is empty, . or .., or has what a server might decode or cut off.
_CALL = (r"(?a)(?:/?api/trpc/)?(\w+(?:\.\w+)*)\Z|"
         r"/?api/v1(?!(?i:/auth)(?:/|\Z))((?:/(?!\.\.?(?:/|\Z))[^/?#%\\\0-\x1f\x7f]+)+)\Z")


def response_json(response):
    """The JSON of a response. Raises the Failure that its status means if it is none."""
    def finite(literal, kind=float):        # which may be NaN, Infinity or -Infinity
        if not abs(float(literal)) < float("inf"):
            raise ValueError("a number is not finite")
        return kind(literal)
    try:
        found = json.loads(bounded_text(response.body), parse_float=finite, parse_constant=finite,
                           parse_int=functools.partial(finite, kind=int))
    except ValueError:
        raise foreign_response(response)
    except RecursionError:
        raise ResponseTooLarge("nested too deeply")
    answer = get_item(found, "0", found)        # the first of a batch, or a single one
    if response.status in (401, 403) and not is_own_error(get_item(answer, "error")):
        raise foreign_response(response)
    return found


def untrusted_json(text):
    """The value of JSON, or of base64url-encoded JSON after base64-; None if it is neither."""
    try:
        if text.startswith("base64-"):
            import base64           # which ignores padding, but not its absence
            text = base64.urlsafe_b64decode(text[7:] + "===").decode("utf-8")
        return json.loads(text[:10 * MAX_LINE], parse_int=to_number)
    except (ValueError, RecursionError):
        return None


def is_own_error(error) -> bool:
    """Whether an error is one of tRPC or of 2Signal's REST API: gateways answer in JSON, too."""
    is_trpc = any(isinstance(get_item(error, key), dict) for key in ("json", "data"))
    return is_trpc or bool(re.match(r"[A-Z][A-Z0-9_]*\Z", str(get_item(error, "code", ""))))


def bounded_text(body) -> str:
    """The text of JSON. Raises ResponseTooLarge if its values would take too much memory."""
    marks = (b",", b"[", b"{", b"{")        # an object takes more memory than other values
    if sum(map(body.count, marks)) > MAX_VALUES:        # rarely: then those in strings do not count
        parts = body.replace(rb"\\", b"").replace(rb'\"', b"").split(b'"', 4 * MAX_VALUES)
        if sum(part.count(mark) for part in parts[::2] for mark in marks) > MAX_VALUES:
            raise ResponseTooLarge(f"made of more than {MAX_VALUES:,} values")
    text = body.decode("utf-8")
    # A character of a string takes as many bytes as its widest one, which may be escaped.
    share = len(text) / MAX_RESPONSE_BYTES
    too_wide = r"[^\0-\xff]|\\u(?!00)" if share > 1 / 2 else r"[^\0-\uffff]|\\u[dD]"
    if share > 1 / 4 and re.search(too_wide, text):
        raise ResponseTooLarge("larger than 32 MiB in memory")
    return text


def compact_json(value, safe=",:") -> str:
    """JSON without blanks, percent-encoded except for the characters of `safe`."""
    from urllib.parse import quote
    return quote(json.dumps(value, separators=(",", ":")), safe=safe)


def apply_superjson(value, meta):
    """The value with numbers for what is a bigint or a decimal by superjson's meta."""
    types = get_item(meta, "values")        # not trusted: what does not fit the value is ignored
    if isinstance(types, list):             # of the value itself
        return apply_superjson([value], {"values": {"0": types}})[0]
    for path, kinds in types.items() if isinstance(types, dict) else ():
        if not isinstance(kinds, list) or kinds[:1] not in _NUMERIC_TYPES:
            continue                # Date or undefined, as most are: ISO 8601 and null already
        # A dot within a key is escaped.
        *parents, last = [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", path)]
        container = functools.reduce(get_item, parents, value)
        found = get_item(container, last)
        number = to_number(found) if isinstance(found, str) else None
        if number is not None:      # "NaN" stays text: JSON has no such number
            container[int(last) if isinstance(container, list) else last] = number
    return value


@functools.lru_cache(2)             # an import needs it for each of its requests
def session_cookie(session) -> str:
    """A Session as the cookie that @supabase/ssr reads, in chunks if it is long."""
    text = compact_json({
        "access_token": session.access_token, "refresh_token": session.refresh_token,
        "expires_at": int(session.expires_at), "token_type": "bearer",
        "user": {"id": session.user_id, "email": session.user_email}}, safe="")
    name = f"sb-{session.project_ref}-auth-token"
    if len(text) <= MAX_COOKIE_CHUNK:
        return f"{name}={text}"
    # No chunk ends within a %XX: the server would decode each chunk by itself.
    chunks = re.findall(f".{{1,{MAX_COOKIE_CHUNK}}}(?<!%)(?<!%[0-9A-F])", text)
    return "; ".join(f"{name}.{i}={chunk}" for i, chunk in enumerate(chunks))


def cookie_session(headers, project_ref):
    """The session that a response sets as a cookie, whole or in chunks; None if there is none."""
    from urllib.parse import unquote
    name, values = f"sb-{project_ref}-auth-token", {}
    for cookie in headers.get_all("Set-Cookie", ()):
        key, _, value = cookie.partition(";")[0].partition("=")
        is_deleted = re.search(r"(?i);\s*max-age\s*=\s*[-0]", cookie)
        values[key.strip()] = "" if is_deleted else value.strip().strip('"')
    chunks = [values.get(f"{name}.{number}", "") for number in range(len(values))]
    return untrusted_json(unquote(values.get(name) or "".join(chunks)))


def token_claim(token, name):
    """A claim of a JWT, which is not verified; None if it has none."""
    return get_item(untrusted_json("base64-" + f"{token}..".split(".")[1]), name)


@functools.lru_cache(2)
def token_lifetime(token) -> float:
    """Seconds from the issue of a JWT to its expiry; an hour if it does not say."""
    issued, expiry = (to_number(token_claim(token, name)) or 0 for name in ("iat", "exp"))
    return expiry - issued if 0 < issued < expiry else HOUR


def session_expiry(value, token, clock=CLOCK) -> int:
    """Unix seconds at which a new session expires: the value or, if that is odd, by its token."""
    for expiry in map(to_number, (value, token_claim(token, "exp"))):
        expiry = expiry / 1000 if expiry and expiry > MAX_EXPIRY else expiry    # milliseconds
        if expiry and EARLIEST_DATE < expiry <= MAX_EXPIRY:
            return int(expiry)      # the TUI reads whole seconds only
    return int(clock.time()) + HOUR


def token_project(token):
    """The Supabase project in the `iss` claim of a JWT; None if there is none."""
    match = re.match("[a-z]+://([^/.:]+)", str(token_claim(token, "iss")))
    return match and match.group(1)


def batch_group(procedure, inputs) -> list:
    """The first inputs of a query, as many as fit into a URL that is short enough for proxies."""
    left = MAX_BATCH_URL - 200      # characters; the server's address and the rest are in the URL
    for count, values in enumerate(inputs):
        left -= len(procedure) + 1 + len(compact_json({"99": {"json": values}}))
        if left < 0 and count:
            return inputs[:count]
    return inputs


def trpc_value(envelope, response, procedure, values=None):
    """The value in one tRPC envelope, superjson applied. Raises Failure or MissingProcedure."""
    result, error = get_item(envelope, "result"), get_item(envelope, "error") or None
    data = result.get("data", {"json": None}) if isinstance(result, dict) else None
    if error is None and response.status < 300 and isinstance(data, dict) and "json" in data:
        return apply_superjson(data["json"], data.get("meta"))
    error = get_item(error, "json", error)      # older servers leave this level out
    status = to_number(get_path(error, "data.httpStatus")) or response.status
    code = get_path(error, "data.code")
    code = code if code in STATUS_CODES.values() else STATUS_CODES.get(status)
    if not isinstance(error, dict) or code is None and status < 400:
        raise foreign_response(response)
    message = error.get("message")
    missing = code == "NOT_FOUND" and re.match(_MISSING_PROCEDURE, str(message))
    if missing:
        raise MissingProcedure(10 if missing.group(2) else 11)
    kind = "item" if procedure == "dataset.removeItem" else procedure.split(".")[0]
    raise server_failure(code, response, message, RESOURCES.get(kind), status, values)


def rest_value(response, resource=None):
    """The value in a response of the REST API, with or without an envelope. Raises Failure."""
    found = response_json(response)
    error = get_item(found, "error")
    if response.status == 401:
        raise Failure("The API key is not accepted", "Check TWOSIGNAL_API_KEY or its file, or "
                      "create a key with 'twosignal api-keys create'.", "UNAUTHORIZED")
    if response.status >= 400 and error:
        raise server_failure(None, response, get_item(error, "message") or error, resource)
    if not 200 <= response.status < 300:
        raise foreign_response(response)
    is_wrapped = isinstance(found, dict) and "data" in found and not {"traces", "id"} & set(found)
    return found["data"] if is_wrapped else found


def rows_of(answer) -> list:
    """The wire objects in the result of a list procedure, which is a list or contains one."""
    rows = get_item(answer, "traces", get_item(answer, "items", answer))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise wrong_type("the list")
    return rows


def resource_object(answer) -> dict:
    """The wire object that a procedure returned. Raises BAD_ANSWER for anything else."""
    if not isinstance(answer, dict):
        raise wrong_type("the resource")
    return answer


def foreign_response(response) -> Failure:
    """What a response means that does not come from 2Signal's API, but from something before it."""
    status = response.status
    between = response.route[2] and f"it was reached through the proxy {response.route[2]}"
    if status == 429 or status in TOO_LARGE_STATUSES or status >= 500:
        return server_failure(None, response, between)
    if status == 407:
        return proxy_refusal(status, response.route)
    content_type = (response.headers.get("Content-Type") or "").partition(";")[0].strip()
    what = {"text/html": "a web page", "application/json": "JSON"}.get(content_type, content_type)
    if "Content-Encoding" in response.headers:
        what = f"a body in the Content-Encoding {response.headers['Content-Encoding']}"
    message = (f"The server answered {status} with {what or 'something'} that is not 2Signal's "
               f"protocol{'; ' + between if between else ''}")
    if 400 <= status < 500 and status != 404:   # 400: nginx, if it requires a client certificate
        return TransientFailure(message, GATEWAY_HINT, "GATEWAY", is_retryable=False)
    return protocol_error(message)


def server_failure(code, response, message, resource=None, status=None, values=None) -> Failure:
    """The documented error for a server's code, or else its status, and its message of any type."""
    failure = _documented_error(code, status or response.status, message, resource, values)
    if failure.is_retryable and response.requested_pause:
        pause = failure.retry_after = response.requested_pause
        unit, length = ("second", 1) if pause < 100 else ("minute", MINUTE)
        failure.hint = f"Try again in {counted(-(-pause // length), unit)}."
    return failure


def _documented_error(code, status, message, resource, values) -> Failure:
    code = code or STATUS_CODES.get(status)
    message = message if isinstance(message, str) else ""
    if code == "UNAUTHORIZED":
        return authentication_expired()
    if code == "FORBIDDEN":
        reason = f"The server says: {message.rstrip('.')}." if message else (
            "Your role or API key does not allow this action.")
        return Failure("Permission denied", f"{reason} {ASK_ADMIN}", code)
    if code == "NOT_FOUND":
        return not_found(message, resource, values)
    if code == "TOO_MANY_REQUESTS":
        return TransientFailure("Rate limited", "Wait a few seconds and retry.", code)
    if code == "TIMEOUT" or (code is None and status >= 500):
        kind = TooLarge if status in TOO_LARGE_STATUSES else TransientFailure
        return kind(f"The server failed ({status}){message and ': ' + message}",
                    f"Try again later. {REPORT_TO_OPERATOR}", code or "INTERNAL_SERVER_ERROR")
    if code == "PAYLOAD_TOO_LARGE" or status in TOO_LARGE_STATUSES:     # 414 and 431 have no code
        return TooLarge("Request too large", "Send less at once, or ask whoever runs the server "
                        "to raise its limit.", "PAYLOAD_TOO_LARGE", is_retryable=False)
    problems = input_problems(message)
    refusal = f"The server refused: {message or f'HTTP status {status}'}"
    return Failure("The server rejected the input" if problems else refusal, "",
                   code or "FAILED", problems)


def with_ids(template, values) -> str:
    """A command with what the input of a procedure has for its {id}, {project} and {org}."""
    import shlex
    places = {"id": "ID", "project": "", "org": ""}
    for key, flag in (("datasetId", ""), ("id", ""), ("projectId", " --project "),
                      ("organizationId", " --org ")):
        text = get_item(values, key)
        if text:
            places[flag.strip(" -") or "id"] = flag + shlex.quote(printable(text))
    return template.format(**places)


def not_found(message="", resource=None, values=None) -> Failure:
    """The error for a missing resource: the one that the server's message names, or this one."""
    said = message.lower().rstrip(".")      # a request may name several: a trace and its project
    named = [each for each in RESOURCES.values() if said.startswith(each[0].lower() + " ")
             and (each[0] not in ("user", "member") or "not found" in said)]
    noun, check = named[0] if named else resource or ("resource", "")
    if named or not message:
        message = f"{noun[0].upper()}{noun[1:]} not found"
    what = {"member": "email", "routing config": "name", "prompt template": "name",
            "prompt template version": "name and version"}.get(noun, "ID")
    hint = check and f"Check the {what} with 'twosignal {with_ids(check, values)}'."
    return Failure(message, hint, "NOT_FOUND")


def input_problems(message) -> list:
    """The lines of a zod message, which is a JSON list itself; [] for any other message."""
    found, lines = untrusted_json(message), []
    problems = found[:MAX_PROBLEMS] if isinstance(found, list) else ()
    for problem in [each for each in problems if isinstance(each, dict)]:
        text = printable(problem.get("message") or "is not valid")
        choices = problem.get("options") or problem.get("values")       # zod 3, zod 4
        choices = choices[:MAX_PROBLEMS] if isinstance(choices, list) else ()
        if not all(printable(choice) in text for choice in choices):
            text += f" (one of {format_list(choices)})"
        path = problem.get("path")          # config.maxMs: Required
        path = ".".join(map(printable, path)) if isinstance(path, list) else ""
        lines.append(f"{path}: {text}" if path else text)
    return lines


############################################################
# Session
############################################################

SESSION_PREFIX = AtomicFile.prefix + "session-"     # of temporary files, which may hold tokens


class Session:
    """Tokens, their user, and the address that issued them: the content of session.json."""
    _TEXTS = {                      # attributes, and their patterns; the last three may be missing
        "access_token": r"[!-~]+\Z", "refresh_token": r"[!-~]+\Z", "project_ref": r"[\w.-]+\Z",
        "user_id": "", "user_email": "", "api_url": ""}     # the TUI does not store the last

    def __init__(self, values: dict):
        """Raises ValueError with the name of the key that is missing or wrong."""
        self.values = values        # all of the file, keys that this program does not know included
        for key in self._TEXTS:
            value = get_item(values, key, "")
            if not self.fits(key, value):
                raise ValueError(key)
            setattr(self, key, value)
        if self.api_url and not result_or(None, normal_url, self.api_url):
            raise ValueError("api_url")
        self.expires_at = to_number(values.get("expires_at"))       # Unix seconds
        if self.expires_at is None or abs(self.expires_at) > MAX_EXPIRY:
            raise ValueError("expires_at")
        self.obtained_at = None     # Unix seconds by this machine's clock, if it is known
        self.account = f"{self.project_ref}/{self.user_id}"

    @classmethod
    def fits(cls, key, value) -> bool:
        return isinstance(value, str) and bool(re.match(cls._TEXTS[key], value, re.ASCII))

    def remaining(self, now, rejected=None) -> float:
        """Seconds from `now` to the expiry of its access token; 0 if that is the rejected one."""
        if self.access_token == rejected:
            return 0
        # It is valid for its lifetime, whatever the clocks of the two machines say.
        if self.obtained_at is not None and self.obtained_at <= now:
            return self.obtained_at + token_lifetime(self.access_token) - now
        return self.expires_at - now

    def is_due(self, remaining) -> bool:
        return remaining <= min(REFRESH_EARLY, token_lifetime(self.access_token) / 4)


def session_file(name=None) -> str:
    """Where session.json really is, or a file beside it: links share both. Raises Failure."""
    path = os.path.realpath(home_path("session.json"))
    try:
        directory = trusted_directory(os.path.dirname(path))
        require_regular(path)
    except OSError as error:
        raise unwritable_file(path, error)
    return os.path.join(directory, name) if name else path


def load_session(clock=CLOCK):
    """The stored Session, or None. Raises Failure."""
    values = read_json_object(home_path("session.json"), clock)
    try:
        return Session(values) if values else None
    except ValueError:
        raise damaged_file(home_path("session.json"))


class Spending(Struct):
    """The exchange of the stored session for a new one, saved without another file or block."""
    deadline: float                 # time.monotonic() at which waiting for the lock ends
    clock: object = CLOCK

    def __enter__(self):
        from contextlib import ExitStack
        make_directory(home_directory())
        with ExitStack() as stack:      # what is entered first is released last
            self._signals = stack.enter_context(ExitStack())
            stops = stack.enter_context(ExitStack())
            lock = Lock(session_file("session.lock"), self.deadline, self.clock)
            self._directory = stack.enter_context(lock).directory
            stops.enter_context(deferred_signals("SIGTSTP"))    # it would stop with the lock held
            for path in session_leftovers():    # of killed processes: what is newer is saved
                text = result_or(None, read_text, path) or ""
                found = result_or(None, Session, untrusted_json(text), kinds=ValueError)
                stored = result_or(None, load_session, self.clock)
                if found and stored and found.account == stored.account and (
                        found.expires_at > stored.expires_at):
                    result_or_failure(replace_file, path, session_file(), self.clock, kinds=OSError)
                else:
                    result_or(None, remove_file, path)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._held.close()

    def reserve(self):
        """Proves that a session can be saved, and keeps the room for it. Raises Failure."""
        with deferred_signals():
            self.file = self._held.enter_context(AtomicFile(
                home_path("session.json"), clock=self.clock, prefix=SESSION_PREFIX))
            self._held.callback(self.file.cancel)       # what was there stays if nothing is saved
        self.file.prove()

    def begin(self) -> float:
        """Called just before the token goes out. Signals wait; returns the deadline."""
        self._signals.enter_context(deferred_signals())
        return self.clock.monotonic() + SPENDING_TIMEOUT

    def end(self):
        """Called when the token is known to be unspent: signals need not wait any longer."""
        self._signals.close()

    def save(self, session, spent=None) -> Session:
        """Saves it in place of the spent one; returns the one to go on with. Raises Failure."""
        content = json.dumps(session.values, indent=2).encode("ascii") + b"\n"
        error = self._tried(write_all, self.file.file.fileno(), content)
        result_or(None, session_origin, session, self.clock)
        # The TUI takes no lock: its logout, login to another account or newer session stays.
        stored = spent and result_or_failure(load_session, self.clock)
        if spent and stored is None:
            return session
        if isinstance(stored, Session) and stored.refresh_token != spent.refresh_token:
            if stored.account != session.account:
                return session
            if stored.expires_at >= session.expires_at:
                return stored
        error = error or self._tried(self.file.replace)
        if error is None:               # the handle may be -1
            result_or_failure(os.fsync, self._directory, kinds=(OSError, ValueError))
        elif self._tried(write_in_place, self.file.target, content):
            self.file.temporary = None      # whoever gets the lock next may be able to use it
            raise unwritable_file(self.file.path, error)
        return session

    def _tried(self, step, *arguments):
        """None, or the OSError that a step still raises when it has been tried three times."""
        for pause in (0.05, 0.2, 0):
            error = result_or_failure(step, *arguments, kinds=OSError)
            if error is None:
                return None
            self.clock.sleep(pause)
        return error


def session_leftovers() -> list:
    """The paths of what killed processes left of sessions; without the lock, it may be in use."""
    import glob
    return glob.glob(glob.escape(session_file(SESSION_PREFIX)) + "*")


def session_origin(session, clock=CLOCK) -> str:
    """The address that issued a session; it and the time are recorded here. Raises Failure."""
    import hashlib
    path = session_file("origins.json")
    # A record that cannot be read may say that the account belongs to another server.
    records = result_or({}, read_json_object, path, clock, kinds=Failure if session.api_url else ())
    url = session.api_url or records.get(session.account) or url_and_source(clock=clock)[0]
    url = isinstance(url, str) and result_or(None, normal_url, url)
    if not url:
        raise damaged_file(path)
    known = dict(records, **{session.account: url})
    tokens = f"{session.access_token} {session.expires_at}".encode("ascii")
    fingerprint = hashlib.sha256(tokens).hexdigest()
    if session.obtained_at is not None:
        known.update(session=fingerprint, obtained_at=int(session.obtained_at))
    elif records.get("session") == fingerprint:
        session.obtained_at = to_number(records.get("obtained_at"))
    if known != records:
        result_or(None, write_text, path, json.dumps(known) + "\n", clock, SESSION_PREFIX)
    return url


def not_logged_in(url) -> Failure:
    if has_key():
        return Failure("Not logged in, and an API key is not enough for this command",
                       "Run 'twosignal login' with an account.", "NOT_LOGGED_IN")
    note = " TWOSIGNAL_API_KEY is empty." if "TWOSIGNAL_API_KEY" in os.environ else ""
    options = "" if url in result_or((), url_and_source) else " with the same global options"
    return Failure("Not logged in", f"Run 'twosignal login'{options}.{note}", "NOT_LOGGED_IN")


class Authenticator:
    """Logs in, keeps the session valid, and logs out, at one server."""
    # A refresh token works once: used again, it ends the session of all programs that share it.
    # 1. It is spent under the lock alone, after the file has been read again under that lock.
    # 2. It is spent only if its successor can be saved. That is saved before anything else
    #    happens: before it is used, and before a signal takes effect.
    # 3. The session has ended only if the server refuses the token and the file, which the TUI
    #    writes without the lock, has no newer one. Any other failure leaves everything as it was.
    def __init__(self, url, transport, keep_secret, may_refresh=True):
        from _thread import RLock           # that of threading, which takes time to import
        self.url = url
        self.transport = transport
        self.lock = RLock()                 # several clients may share this
        self.keep_secret = keep_secret      # called with passwords and tokens: nothing shows them
        self.may_refresh = may_refresh      # if not, a session that needs a refresh counts as none
        self.failure = None                 # of a refresh, which no other client tries again
        self.is_shared = False
        self.clock = transport.clock
        self.warn = lambda text: None       # prints a warning, with --quiet too
        self._session = None
        transport.on_response = self._take_over

    def login(self, email, password) -> Session:
        """The new session, saved. Raises Failure: UNAUTHORIZED if email or password is wrong."""
        self.keep_secret(password)
        with Spending(self.transport.deadline(), self.clock) as spending:
            spending.reserve()      # if that fails, no session is begun on the server
            data = result_or_failure(self._post, "login", {"email": email, "password": password})
            if isinstance(data, Failure):
                raise data if data.code != "UNAUTHORIZED" else Failure(
                    "Wrong email or password", "Run 'twosignal login' again.", data.code)
            spending.begin()
            return spending.save(self._new_session(data, {"user_email": email}))

    def logout(self):
        """Ends the session on the server. Raises Failure: UNAUTHORIZED if it has ended already."""
        self._post("logout", headers={"Authorization": f"Bearer {self.session().access_token}"})

    def forget(self, ended=None) -> bool:
        """Deletes the session, unless another login than that of `ended` made it; whether so."""
        from contextlib import ExitStack
        with ExitStack() as lock:       # a refresh elsewhere ends first, unless it takes too long
            result_or_failure(lock.enter_context, Spending(self.transport.deadline(), self.clock))
            stored = ended and result_or(None, load_session)
            ids = [token_claim(each.access_token, "session_id") for each in (stored, ended) if each]
            if stored and (stored.account != ended.account or ids[0] != ids[1]):
                return False
            for path in session_leftovers():
                result_or(None, remove_file, path)
            remove_file(session_file())     # a link stays for the next login
            return True

    def session(self, rejected=None) -> Session:
        """A valid session, refreshed if it ends soon or its token was rejected. Raises Failure."""
        with self.lock:
            session = self._session or self.stored()
            remaining = session.remaining(self.clock.time(), rejected)
            left = self.transport.until - self.clock.monotonic()    # of a wait
            if session.is_due(remaining) and left >= min(remaining, SPENDING_TIMEOUT):
                # One that still works waits a second for the lock; it is used if that fails.
                if remaining > 1:
                    session = result_or(session, self._renewed, rejected, 1)
                else:
                    session = self.failure or result_or_failure(self._renewed, rejected, None)
                if isinstance(session, Failure):
                    self.failure = session if self.is_shared else None
                    raise session
            self._session = session
            return session

    def stored(self) -> Session:
        """The stored session, if it belongs to this server. Raises NOT_LOGGED_IN."""
        session = result_or(None, load_session, self.clock, kinds=NoHome if has_key() else ())
        if session is None:
            raise not_logged_in(self.url)
        self.keep_secret(session.access_token, session.refresh_token)
        if self._session and session.account != self._session.account:
            raise Failure("Another account has logged in meanwhile", "Run the command again.",
                          "NOT_LOGGED_IN")
        issuer = session_origin(session, self.clock)
        if issuer != self.url:
            raise Failure(f"Not logged in to {self.url}", f"Run 'twosignal login --url {self.url}';"
                          f" the stored session belongs to {issuer}.", "NOT_LOGGED_IN")
        return session

    def _renewed(self, rejected, lock_timeout) -> Session:
        """The session after its refresh, by this process or another one. Raises Failure."""
        if not self.may_refresh:
            raise not_logged_in(self.url)
        with Spending(self.transport.deadline(lock_timeout), self.clock) as spending:
            spent = self.stored()
            if not spent.is_due(spent.remaining(self.clock.time(), rejected)):
                return spent        # another process refreshed it while this one waited
            spending.reserve()
            data = result_or_failure(self._post, "refresh", {"refresh_token": spent.refresh_token},
                                     (409, 429), (), spending)
            if not isinstance(data, Failure):
                return self._saved(spending, self._new_session(data, spent.values), spent)
            if data.code not in ("UNAUTHORIZED", "BAD_REQUEST", "CONFLICT"):
                raise data
            for _ in range(10):     # half a second, since the response to the TUI may be under way
                stored = result_or(None, load_session, self.clock)
                if stored and stored.refresh_token != spent.refresh_token:
                    return self.stored()
                self.clock.sleep(0.05)
            if data.code == "CONFLICT":
                raise TransientFailure("Rate limited: another program is refreshing the session",
                                       "Wait a few seconds and retry.", "TOO_MANY_REQUESTS")
            raise authentication_expired()

    def _take_over(self, request, response):
        """Goes on with the session that a response sets: the server has refreshed the one sent."""
        sent = self._session
        data = "Cookie" in request.headers and cookie_session(response.headers, sent.project_ref)
        fresh = isinstance(data, dict) and result_or(None, self._new_session, data, sent.values)
        if not fresh or fresh.access_token == sent.access_token or (
                fresh.user_id != sent.user_id or fresh.expires_at < sent.expires_at):
            return
        with self.lock, deferred_signals():
            fresh = self._session = self._saved(None, fresh, sent)
        request.headers["Cookie"] = session_cookie(fresh)       # of the next try, too

    def _saved(self, spending, fresh, spent) -> Session:
        """The session to go on with, which is the new one even if it cannot be saved."""
        try:
            if spending:
                return spending.save(fresh, spent)
            with Spending(self.transport.deadline(TAKEOVER_TIMEOUT), self.clock) as spending:
                spending.reserve()
                return spending.save(fresh, spent)
        except Failure as failure:
            self.warn(f"Warning: the server's new session is lost: {failure.message}. "
                      "Run 'twosignal login' before the next command.")
            return fresh

    def _new_session(self, data, before) -> Session:
        """The session of a login or refresh; other keys of `before` are kept. Raises BAD_ANSWER."""
        token = data.get("access_token")
        # Whatever else is odd in a response, its tokens are kept: those before them are spent.
        values = dict(before, api_url=self.url, access_token=token,
                      refresh_token=data.get("refresh_token"),
                      expires_at=session_expiry(data.get("expires_at"), token, self.clock))
        for key, *found in (("project_ref", data.get("project_ref"), token_project(token)),
                            ("user_id", get_path(data, "user.id"), token_claim(token, "sub")),
                            ("user_email", get_path(data, "user.email"), None)):
            found.insert(1, before.get(key))
            values[key] = next((each for each in found if each and Session.fits(key, each)), "")
        session = result_or_failure(Session, values, kinds=ValueError)
        if isinstance(session, ValueError):
            raise protocol_error(f"The server's session has no valid {session}")
        session.obtained_at = self.clock.time()
        self.keep_secret(session.access_token, session.refresh_token)
        return session

    def _post(self, action, body=None, retried=None, headers=(), spending=None) -> dict:
        """The data that /api/v1/auth/ACTION returns; retried: statuses. Raises Failure."""
        response = self.transport.request("POST", f"{self.url}/api/v1/auth/{action}", headers, body,
                                          False, retried, spending)
        # What is odd in it must not cost the session: a wrong character, or a number too large.
        envelope = untrusted_json(response.body.decode("utf-8-sig", "replace"))
        envelope = envelope or response_json(response)
        error = get_item(envelope, "error")
        if is_own_error(error) and response.status >= 400:
            raise server_failure(None, response, error.get("message"))
        data = get_item(envelope, "data")
        if not 200 <= response.status < 300 or not isinstance(data, dict):
            raise foreign_response(response)
        return data


############################################################
# Client
############################################################

class TracePage(Struct):
    """Some of a project's traces."""
    traces: list                    # wire objects, newest first
    has_more: bool                  # None: unknown, since a bare list may or may not be all
    is_last: bool = False           # there is no way to ask for more
    cursor: object = None           # where the server continues


class Client:
    """Calls the procedures of a 2Signal server, as the stored session's user."""
    record = staticmethod(to_record)        # of a wire object and its kind
    is_file = False

    def __init__(self, url, transport, key=None, keep_secret=lambda *_: None, may_refresh=True):
        self.url = url              # the server's normal address
        self.transport = transport
        self.key = key              # a project's, used instead of the session where REST suffices
        self.auth = Authenticator(url, transport, keep_secret, may_refresh)
        self.has_changed = False    # a change was made, or may have been made
        self.requests = 0           # how many were made, retries not counted
        self.before_change = None   # called with what shows it before the first; may raise Failure
        self._page_size = self._batch_size = PAGE_SIZE      # halved if that is too large
        # The names to try for a procedure; the one that this server has comes first.
        self._names = {name: [name, alias] for name, alias in PROCEDURE_ALIASES.items()}

    def query(self, procedure, values=None, retried=RETRIED_STATUSES):
        """The result of a query; values: its input, if it takes one. Raises Failure."""
        return self._with_aliases(procedure, lambda name: self._call(name, values, retried))

    def mutate(self, procedure, values, read=lambda result: result):
        """What `read` makes of the result of a mutation, and may raise as well. Raises Failure."""
        part = re.search("(Member|Item)$", procedure)       # addMember changes a member
        kind = part.group().lower() if part else procedure.split(".")[0]
        check = with_ids(RESOURCES.get(kind, ("", f"api {kind}.list"))[1], values)
        return self._change(check, lambda: read(self._with_aliases(
            procedure, lambda name: self._call(name, values, retried=None))), procedure, values)

    def _change(self, check, call, procedure="", values=None):
        """What a call returns; if it fails and may have been made, the error names the check."""
        if self.before_change and not self.has_changed:
            self.before_change(f"twosignal {check}")
        self.has_changed = True
        try:
            return call()
        except BaseException as error:      # Ctrl-C, too
            if not leaves_unchanged(error):
                error.hint = ("The change may have been made all the same: check with "
                              f"'twosignal {check}' before you repeat it.")
            if isinstance(error, Failure) and procedure:
                explain_refusal(self, error, procedure, values, check)
            raise

    def batch(self, procedure, inputs):
        """Yields the result of a query for each of several inputs: a value or a Failure."""
        waiting = list(inputs)
        while waiting:
            results = self._with_aliases(procedure, lambda name: self._call_batch(name, waiting))
            for values, found in zip(waiting, results):
                if isinstance(found, TransientFailure) and len(results) > 1:
                    # By itself it may succeed, and it is tried as often as any other.
                    found = result_or_failure(self.query, procedure, values)
                yield found
            del waiting[:len(results)]

    def _with_aliases(self, procedure, call):
        """Calls a procedure by the name that this version of the server has for it."""
        names = self._names.get(procedure, [procedure])
        for name in list(names):
            try:
                return call(name)
            except MissingProcedure:
                names.append(names.pop(0))      # from now on, the other name comes first
        raise Failure(f"This server has no procedure {procedure}",
                      "Its version is older or newer than this client supports.", "UNSUPPORTED")

    def _call(self, name, values=None, retried=RETRIED_STATUSES):
        url = f"{self.url}/api/trpc/{name}"
        body = {"json": values} if retried is None else None
        if values is not None and body is None:
            url += f"?input={compact_json({'json': values})}"
        result, = self._authorized(url, body, lambda response: [result_or_failure(
            lambda: trpc_value(response_json(response), response, name, values))], retried)
        if isinstance(result, Failure):
            raise result
        return result

    def _call_batch(self, name, inputs) -> list:
        """The results for the first inputs, in one request; [] if fewer have to be tried."""
        def read(response):
            answers = result_or_failure(response_json, response)
            if response.status == 401 and isinstance(answers, dict):
                answers = [answers] * len(inputs)       # the server refused the batch as a whole
            if response.status < 500 and isinstance(answers, list) and len(answers) == len(inputs):
                return [result_or_failure(trpc_value, each, response, name, values)
                        for each, values in zip(answers, inputs)]
            if response.status in (400, 404, 405):
                self._batch_size = 1                    # batching is off
                return []
            raise answers if isinstance(answers, Failure) else foreign_response(response)

        inputs = batch_group(name, inputs[:self._batch_size])
        if len(inputs) == 1:
            return [result_or_failure(self._call, name, inputs[0])]
        numbered = {str(i): {"json": values} for i, values in enumerate(inputs)}
        url = (f"{self.url}/api/trpc/{','.join([name] * len(inputs))}?batch=1"
               f"&input={compact_json(numbered)}")
        try:
            return self._authorized(url, None, read, RETRIED_PAGE_STATUSES)
        except TooLarge:
            self._batch_size = len(inputs) // 2
            return []

    def _authorized(self, url, body, read, retried):
        """What `read` makes of the response; if the session is rejected, it is refreshed once."""
        rejected = None
        for _ in range(2):
            session = self.auth.session(rejected)
            results = read(self._send(url, body, {"Cookie": session_cookie(session)}, retried))
            if all(getattr(each, "code", "") != "UNAUTHORIZED" for each in results):
                return results
            rejected = session.access_token
        if getattr(results[0], "code", "") == "UNAUTHORIZED":
            raise authentication_expired()      # the new session is rejected, too
        return results

    def _send(self, url, body, credential, retried) -> Response:
        """The response to a GET, or to a POST of a body; retried: statuses, None for a change."""
        self.requests += 1
        headers = dict(credential, Accept="application/json")
        method = "GET" if body is None else "POST"
        response = self.transport.request(method, url, headers, body, retried is None, retried)
        if body is None and response.status in set(TOO_LARGE_STATUSES).difference(retried):
            raise foreign_response(response)        # whatever the body
        return response

    def rest(self, method, path, values=(), retried=None, read=lambda result: result, check=""):
        """The result of the REST API, given a path below /api/v1; read: see mutate().
        A POST is a change unless statuses are to be retried; check: the command that shows it."""
        from urllib.parse import quote, urlencode
        if not self.key and path != "/health":
            raise Failure("The REST API requires a project API key", "Set TWOSIGNAL_API_KEY; "
                          "'twosignal api-keys create' makes a key.", "NOT_LOGGED_IN")
        url = f"{self.url}/api/v1{quote(path)}"
        credential = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        resource = RESOURCES.get(path.split("/")[-1])
        if method == "GET":
            url += f"?{urlencode(values)}" if values else ""
            values, retried = None, retried or RETRIED_STATUSES
        def call():
            return read(rest_value(self._send(url, values, credential, retried), resource))
        check = check or (resource[1] if resource else f"api GET /api/v1{path}")
        return call() if retried else self._change(check, call)

    def rows(self, procedure, values=None) -> list:
        return rows_of(self.query(procedure, values))

    def visible_rows(self, procedure, inputs) -> list:
        """The wire objects for several inputs, without what the account may not see."""
        rows = []
        for result in self.batch(procedure, inputs):
            if not isinstance(result, Failure):
                rows += rows_of(result)
            elif result.code not in ("NOT_FOUND", "FORBIDDEN"):
                raise result
        return rows

    def trace_pages(self, query, page_size):
        """Yields each TracePage of trace.list, given its input and a function for the page size."""
        # No page repeats a trace of an earlier one: new traces shift the pages while they are read.
        # And the pages end: no cursor is followed twice, those without a new trace are counted.
        page = TracePage([], True)
        known, seen_cursors = set(), set()
        empty_pages = 0
        while not page.is_last:
            size = PAGE_SIZE if page.has_more is None else page_size()
            page = self._trace_page(query, size, page.cursor)
            page.traces = unseen_traces(page.traces, known, self.transport.tell)
            empty_pages = 0 if page.traces else empty_pages + 1
            yield page
            cursor = hash(str(page.cursor))
            if not page.is_last and (cursor in seen_cursors or empty_pages > MAX_EMPTY_PAGES):
                raise protocol_error("The server's pages of traces do not end", REPORT_TO_OPERATOR)
            seen_cursors.add(cursor)

    def _trace_page(self, query, size, cursor) -> TracePage:
        """The page at a cursor, or the first one if it is None. Raises Failure."""
        size = min(size, self._page_size)
        values = dict(query, limit=size, **without_none(cursor=cursor))
        answer = result_or_failure(self._list_traces, values, kinds=TooLarge)
        if isinstance(answer, TooLarge):
            if size == 1:
                self._page_size = PAGE_SIZE         # no size works at the moment
                raise answer.named("a page of one trace")
            self._page_size = size // 2
            return self._trace_page(query, size, cursor)
        traces = rows_of(answer)
        if isinstance(answer, list) and len(traces) == size:
            # Such a server has no next page, but may return a whole one if fewer were asked for.
            # A list longer than the limit is complete: the server knows no limit.
            return TracePage(traces, None, size >= self._page_size, cursor)
        cursor = get_item(answer, "nextCursor")
        if cursor in (None, ""):
            return TracePage(traces, False, True)
        if not isinstance(cursor, (str, int)):
            raise wrong_type("nextCursor")
        return TracePage(traces, True, False, cursor)

    def _list_traces(self, values):
        """The answer of trace.list; with an API key, of its REST sister."""
        retried = RETRIED_PAGE_STATUSES if values["limit"] > 1 else RETRIED_STATUSES
        if not self.key:
            return self.query("trace.list", values, retried)
        # REST separates tags by commas, so one that contains a comma can only be filtered here.
        tags = ",".join(tag for tag in values.get("tags") or () if "," not in tag)
        values = dict(values, tags=tags or None, projectId=None, search=None)
        return self.rest("GET", "/traces", without_none(**values), retried)

    def cannot_read(self, what) -> Failure:
        """The error for scores, spans and evaluators, which only accounts can ask for."""
        return Failure(f"A project API key cannot read {what}", "Omit the option that needs it, or "
                       "run 'twosignal login' and unset the API key's variable.", "NOT_LOGGED_IN")

    def whole_traces(self, trace_ids, project, wanted="spans"):
        """Yields what trace.getById returns for each ID: a wire trace, or a Failure."""
        if trace_ids and self.key:
            raise self.cannot_read(wanted)
        yield from self.batch("trace.getById", [trace_input(each, project) for each in trace_ids])

    def fetch_parts(self, traces, project, wanted, strict=False):
        """Adds to wire traces their scores, and spans if wanted; strict: no fewer than counted."""
        trace_ids = [trace.get("id") for trace in traces]
        for trace, result in zip(traces, self.whole_traces(trace_ids, project, wanted)):
            if getattr(result, "code", "") == "NOT_FOUND":
                trace[wanted] = []          # it was deleted meanwhile
                continue
            if isinstance(result, TooLarge):
                raise result.named(f"trace {trace.get('id')}")
            if isinstance(result, Failure):
                raise result
            trace.update({kind: result[kind] for kind in {"scores", wanted}
                          if isinstance(get_item(result, kind), list)})
            if not isinstance(trace.get(wanted), list) or strict and lacks(trace, "scores"):
                raise protocol_error(f"The server does not return the {wanted} of trace "
                                     f"{printable(trace.get('id'))}", REPORT_TO_OPERATOR)


class ConcurrentChanges(Struct):
    """Makes many changes by one procedure, a few at a time."""
    client: Client
    procedure: str
    note: object    # called with the key and the result (or Failure) of each; raises to end all

    def run(self, inputs):
        """inputs: pairs of a key and an input. Of several errors, it raises one that leaves a
        change uncertain. After a signal, all of those under way are."""
        from threading import Lock, Thread
        self._lock = Lock()
        self._tell = functools.lru_cache()(self.client.transport.tell)      # each remark once
        self._errors = []               # which end it
        self.uncertain = set()          # keys of changes that may not have been made
        inputs, auth = iter(inputs), self.client.auth
        auth.is_shared = True
        self._work(self.client, inputs, 1)      # what is wrong with all of them is told once
        threads = [Thread(target=self._work, args=(self._copy(), inputs), daemon=True)
                   for _ in range(CONCURRENT_REQUESTS)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(1)      # in steps: on Windows, a signal waits for the end of one
        except BaseException as error:
            self._errors.insert(0, error)
            with deferred_signals(), auth.lock:     # a refresh ends first, and none begins
                auth.may_refresh = False
                self._lock.acquire()    # from now on, nothing is noted
            raise
        for error in sorted(self._errors, key=leaves_unchanged):
            raise error

    def _copy(self):
        """The client for another thread, with a connection of its own."""
        from copy import copy
        client = copy(self.client)
        transport = client.transport = copy(client.transport)
        transport.tell, transport.tries = self._tell, MAX_BULK_TRIES
        return client

    def _work(self, client, inputs, most=ALL):
        """Makes so many of the changes, or what is left of them."""
        try:
            while most > 0 and not self._errors:
                most -= 1
                with self._lock:
                    key, values = next(inputs)
                    self.uncertain.add(key)
                result = result_or_failure(client.mutate, self.procedure, values)
                with self._lock:
                    self.note(key, result)
                    self.uncertain.remove(key)
        except StopIteration:
            pass
        except BaseException as error:      # Ctrl-C, too
            self._errors.append(error)
        finally:
            client.transport.close()


def trace_input(trace_id, project) -> dict:
    """The input of trace.getById, in the spellings of all server versions."""
    return {"traceId": trace_id, "id": trace_id, "projectId": project}


def lacks(trace, part) -> bool:
    """Whether a trace comes with fewer "scores" (or "spans") than are counted, or with neither."""
    rows, noun = trace.get(part), part[:-1]
    count = trace.get(noun + "Count", get_item(trace.get("_count"), part))      # of REST and tRPC
    if isinstance(rows, list):
        return len(rows) < (to_number(count) or 0)
    return to_number(trace.get(noun + "_count", count)) != 0    # that of a record


def trace_key(trace):
    """What is equal for traces of the same ID; one without an ID equals no other."""
    # A hash, since IDs may be long; it has 64 bits, and a seed of this process.
    return object() if trace.get("id") in (None, "") else hash(str(trace["id"]))


def unseen_traces(traces, known, tell) -> list:
    """The first of each ID that is not known; adds them to the trace_key()s that are."""
    keys = list(map(trace_key, traces))
    rows = dict(zip(reversed(keys), reversed(traces)))      # later ones replace earlier ones
    unknown = [row for key, row in zip(keys, traces) if key not in known and rows[key] is row]
    known.update(keys)
    if len(known) > MAX_KNOWN_TRACES:
        known.intersection_update(keys)
        tell(f"More than {MAX_KNOWN_TRACES:,} traces: some may be counted twice.")
    return unknown


# --- files in place of a server

MANIFEST, PART_NAME, BUNDLE_FORMAT = "MANIFEST.json", "traces-{:04}.jsonl.gz", "twosignal traces 1"
BUNDLE_COUNTS, REDACTABLE = ("traces", "spans", "scores", "bytes"), ("input", "output", "metadata")
FILE_HINT = "--from reads what 'traces export' and 'traces list --format jsonl' write."
COPY_AGAIN = "Copy the whole bundle again, or name another directory."
_TRACE_KEYS = set(_LEADING_KEYS["trace"])
_TRACE_VALUES = {"status", "duration_ms", "cost_usd", "start_time", "scores", "spans"}


def read_manifest(directory) -> dict:
    """The manifest of a bundle, which may be incomplete. Raises a usage error."""
    path = os.path.join(directory, MANIFEST)
    try:
        manifest = json.loads(file_content(path, MAX_FILE_RECORD).decode("utf-8"))
        parts = manifest["files"]
        is_ours = (manifest["format"] == BUNDLE_FORMAT and type(manifest["complete"]) is bool
                   and all(part["name"] == PART_NAME.format(i) for i, part in enumerate(parts, 1))
                   and all(sum(part[key] for part in parts) == manifest[key]
                           for key in BUNDLE_COUNTS))
    except OSError as error:
        raise usage_error(f"{directory} is not a bundle of traces: cannot read {MANIFEST}: "
                          f"{os_reason(error)}", COPY_AGAIN)
    except (ValueError, LookupError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise usage_error(f"{path} is damaged, or from a newer version", COPY_AGAIN)
    return manifest


def verified_part(directory, part) -> str:
    """The path of a file of a bundle, whose sum is right. Raises a usage error."""
    import hashlib
    path = os.path.join(directory, part["name"])
    content = result_or_failure(file_content, path, MAX_FILE_RECORD, kinds=OSError)
    if isinstance(content, OSError):
        raise usage_error(f"Cannot read {path}: {os_reason(content)}", COPY_AGAIN)
    if hashlib.sha256(content).hexdigest() != part.get("sha256"):
        raise usage_error(f"{path} is damaged: it is not what {MANIFEST} says", COPY_AGAIN)
    return path


def trace_record(file, trace) -> dict:
    """The trace that a value in a RecordFile is. Raises a usage error, which names the line."""
    if type(trace) is not dict or not trace.keys() >= _TRACE_KEYS:
        if type(trace) is not dict or "id" not in trace or _TRACE_VALUES.isdisjoint(trace):
            raise file.unusable("is not a trace")
        trace = to_record(trace, "trace")       # of --fields, or a server
    try:
        child_records(trace, "scores")
        spans = child_records(trace, "spans")
    except Failure:
        raise file.unusable("has scores or spans that are not lists of objects")
    if spans:                       # which tell it
        trace.pop("error_message", None)
    return trace


class TraceFile(Client):
    """Reads traces from a file, or from a bundle of files; they are records, not wire objects."""
    is_file, record = True, staticmethod(lambda trace, kind: trace)

    def __init__(self, path, project, console, needs_metadata=False, hint=FILE_HINT):
        """path: - stands for stdin; project: only traces of this ID's; hint: for errors."""
        # With something like an API key, it cannot ask for scores and spans that are not there.
        super().__init__(None, Transport(tell=console.tell, clock=console.clock), "-")
        self.path, self.project, self.needs_metadata = path, project, needs_metadata
        self.hint, self._open_stdin = hint, console.open_stdin
        self.name = "stdin" if path == "-" else path
        self._is_spent = False      # and cannot be read again

    def verify(self):
        """Reads what can be read again: nothing is told of a file that is broken further down."""
        for _ in self._records() if os.path.isfile(self.path) or os.path.isdir(self.path) else ():
            pass

    def cannot_read(self, what) -> Failure:
        return usage_error(f"{self.name} does not have all {what}", "Use 'traces export'.")

    def fetch_parts(self, traces, project, wanted, strict=False):
        if not all(isinstance(trace.get(wanted), list) for trace in traces):
            raise self.cannot_read(wanted)

    def query(self, procedure, values=None, retried=()):
        """The trace with the ID in the input of trace.getById. Raises NOT_FOUND."""
        found = [trace for trace in self._records() if trace["id"] == values["id"]]
        if not found:
            raise not_found(resource=RESOURCES["trace"])
        for part in ("spans", "scores"):
            if lacks(found[0], part):
                raise self.cannot_read(part)
        return found[0]

    def trace_pages(self, query, page_size):
        """Yields each TracePage of the file; the query is for servers. Raises a usage error."""
        from itertools import islice
        records, known, is_last = self._records(), set(), False
        while not is_last:
            traces = list(islice(records, PAGE_SIZE))
            is_last = len(traces) < PAGE_SIZE
            yield TracePage(unseen_traces(traces, known, self.transport.tell), not is_last, is_last)

    def _records(self):
        """Yields all traces of the project. Raises a usage error."""
        wanted, found = self.project and self.project.lower(), set()
        for file in self.files():
            for value in file:
                trace = trace_record(file, value)
                project = wanted and str(trace.get("project_id")).lower()
                found.add(project)
                if project == wanted:
                    yield trace
        if found and wanted not in found:
            raise usage_error(f"{self.name} has no traces of project '{self.project}'",
                              "Omit --project, or pass the ID of their project.")

    def files(self) -> list:
        """The RecordFiles; those of a bundle have been verified."""
        if not os.path.isdir(self.path):
            if self._is_spent:
                raise usage_error(f"{self.name} can be read only once", "Save it to a file.")
            self._is_spent = not os.path.isfile(self.path)      # stdin, or a pipe
            stream = self._open_stdin("traces") if self.path == "-" else None
            return [RecordFile(self.path, stream, self.hint)]
        manifest = read_manifest(self.path)
        if not manifest["complete"]:
            raise usage_error(f"{self.path} is incomplete: its export broke off",
                              "Complete it with 'twosignal traces export --resume'.")
        if self.needs_metadata and "metadata" in str(manifest.get("redacted")):
            raise usage_error(f"{self.path} was exported with --redact metadata",
                              "Omit --metadata, which needs the values.")
        return [RecordFile(verified_part(self.path, part)) for part in manifest["files"]]


_UUID = r"(?i)\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"


def plain_id(text: str) -> str:
    """The UUID that a text is, in any case, or that is last in a page's address; else the text."""
    given = text.strip()
    if re.match("(?i)https?://", given):
        found = re.findall(_UUID, re.split("[?#]", given)[0]) or re.findall(_UUID, given)
        given = found[-1] if found else ""
    return given.lower() if re.fullmatch(_UUID, given) else text


def organization_id(client, text, known=()) -> str:
    return find_id(text, "organization", lambda: known or client.rows("organization.list"))


def visible_projects(client, org=None, organizations=()) -> list:
    """The wire objects of the projects of one organization (ID or name), or of all (if known)."""
    if org:
        values = {"organizationId": organization_id(client, org, organizations)}
        return client.rows("project.list", values)
    organizations = organizations or client.rows("organization.list")
    names = {str(each.get("id")): each.get("name") for each in organizations}
    rows = client.visible_rows("project.list", [{"organizationId": each} for each in names])
    return [dict(row, organizationName=names.get(str(row.get("organizationId")))) for row in rows]


def explain_refusal(client, failure, procedure, values, check):
    """Adds to the hint of a refused change what may be missing, as far as the server tells: the
    role that it takes, and for a new member an account, or a seat of the plan; check: a command."""
    if failure.code == "CONFLICT":
        failure.hint = f"See 'twosignal {check}'."
    adds_member = procedure == "organization.addMember"
    if adds_member and failure.code == "NOT_FOUND":
        failure.hint = failure.hint or "Only people with an account can be added."
    is_about_seats = adds_member and failure.code in ("FORBIDDEN", "BAD_REQUEST")
    if failure.code != "FORBIDDEN" and not is_about_seats:
        return
    client.transport.until = client.transport.deadline()    # for all requests together
    project, org = (get_item(values, key) for key in ("projectId", "organizationId"))
    organizations = result_or([], client.rows, "organization.list")
    projects = result_or([], visible_projects, client, None, organizations) if project else []
    org = next((row.get("organizationId") for row in projects if row.get("id") == project), org)
    row = next((row for row in organizations if row.get("id") == org), {})
    role, plan = row.get("role"), str(row.get("plan"))
    if failure.code == "FORBIDDEN" and role in ROLES:
        *allowed, last = ROLES[:2] if procedure.startswith("organization.") else ROLES[:3]
        if role in ROLES[:2]:       # there is no other admin
            failure.hint = failure.hint.replace(f" {ASK_ADMIN}", "")
        names_roles = role not in (*allowed, last) and procedure != "project.delete"  # undocumented
        failure.hint += f" Your role is {role}" + (
            f"; {', '.join(allowed)} or {last} may do this." if names_roles else ".")
    seats = PLANS.get(plan, {}).get("seats")
    taken = to_number(row.get("memberCount")) or 0
    if is_about_seats and role in ROLES[:2] and seats and taken >= seats:
        failure.hint = (f"{failure.hint} Seats of the {plan} plan: "
                        f"{format_count(taken)} of {seats} are taken.").strip()


def first_steps(client, kind="projects") -> list:
    """A line for each project or organization, and how to choose or get one; or why not."""
    import shlex
    client.transport.until = client.transport.deadline()    # for all requests together
    fetch = (visible_projects, client) if kind == "projects" else (client.rows, "organization.list")
    rows = result_or_failure(*fetch)
    if isinstance(rows, Failure):
        return [f"{rows.message}. {rows.hint}"]
    ids = [printable(row.get("id")) for row in rows]
    if not ids:
        ids = [printable(row.get("id")) for row in result_or([], client.rows, "organization.list")]
        step = f"projects create NAME --org {shlex.quote(ids[0])}" if ids else "orgs create NAME"
        return [f"None yet. To create one: twosignal {step}"]
    lines = [f"{row_id}  {printable(row.get('name'))}" for row_id, row in zip(ids, rows)]
    if len(lines) > MAX_PROBLEMS:
        lines[MAX_PROBLEMS:] = [f"and {len(lines) - MAX_PROBLEMS} more"]
    if kind == "projects":
        lines.append(f"To choose one: twosignal projects use {shlex.quote(ids[0])}")
    return lines


def named_row(rows, text, kind, values=None) -> dict:
    """The row with that ID or name. Raises NOT_FOUND; kind: a key of RESOURCES."""
    wanted = find_id(text, kind, lambda: rows)
    for row in rows:
        if row.get("id") == wanted:
            return row
    raise not_found(resource=RESOURCES[kind], values=values)


def find_id(text, kind, fetch_rows) -> str:
    """The ID of the row with that ID or name; else the text, which may be an ID. Raises Failure."""
    text, noun = plain_id(str(text)), RESOURCES[kind][0]
    if re.fullmatch(_UUID, text):
        return text
    rows = [row for row in fetch_rows() if type(row.get("id")) in (str, int)]
    wanted = to_nfc(text)
    named = [(to_nfc(row["name"]), row) for row in rows if type(row.get("name")) is str]
    ids = [row["id"] for row in rows if str(row["id"]) == text][:1] or [    # some are numbers
        row["id"] for name, row in named if name == wanted and not row.get("revokedAt")]
    if len(ids) > 1:
        raise usage_error(f"There are {len(ids)} {noun}s named '{text}'",
                          f"Use one of the IDs: {', '.join(map(printable, ids))}.")
    if ids:
        return ids[0]
    for name, row in named:
        if name.casefold().strip() == wanted.casefold().strip():
            hint = f"'{name}' is revoked." if row.get("revokedAt") else f"Did you mean '{name}'?"
            raise Failure(f"{noun[0].upper()}{noun[1:]} not found", hint, "NOT_FOUND")
    return text


############################################################
# Console
############################################################

class Console:
    """The terminal or the pipes: the only place where this program reads and prints."""
    quiet = json_errors = debug = False
    file = None                     # an OutputTarget that output goes to in place of stdout
    stdin_option = ""               # that has read stdin
    held = None                     # what a change returns: written at once, shown in any case

    def __init__(self, streams=None, clock=CLOCK):
        from _thread import RLock       # that of threading, which takes time to import
        # Each may be None, as in a process that was started with closed streams.
        self.stdin, self.stdout, self.stderr = streams or (sys.stdin, sys.stdout, sys.stderr)
        self.clock = clock
        self._secrets = set()
        self._lock = RLock()        # of several threads, one prints
        self.keep_secret = lambda *texts: self._secrets.update(texts)   # shown as *** from now on
        is_ci_log = (os.environ.get("GITHUB_ACTIONS") or os.environ.get("TF_BUILD")
                     or os.environ.get("TEAMCITY_VERSION"))
        self.for_log = disarmed if is_ci_log else str       # of what stdout and stderr show
        self._is_redirected = os.path.isfile(file_number(self.stdout))      # as by > FILE
        self._progress = 0          # columns that it takes in the terminal's last line
        self._repeated = {}         # topic: the last remark about it

    def print(self, text, is_data=False):
        """Prints output, data as it is. Raises Failure, or BrokenPipeError if nobody reads."""
        self.clear_progress()
        is_saved = not re.match(_OPEN_FILE, self.file.path) if self.file else self._is_redirected
        if not is_data and not is_saved:
            text = self.for_log(text)
        if self.held is None:
            self._write(text)
        else:
            self.held += text

    def flush(self):
        self._write(self.held or "", flushes=True)
        if self.file is None:
            self.held = None

    def _write(self, text, flushes=False):
        if self.file is not None:
            self.file.write(text.encode("utf-8", "backslashreplace"))      # of half a character
        elif self.stdout is not None:
            try:
                write_to(self.stdout, text)
                if flushes:
                    self.stdout.flush()
            except OSError as error:
                redirect_to_null(self.stdout)
                if isinstance(error, BrokenPipeError):
                    raise
                raise Failure(f"Cannot write the output: {os_reason(error)}", "Free some space.")

    def before_change(self, check):
        """Raises Failure if what a change returns could not be shown; check: what else shows it."""
        if isinstance(self.file, AtomicFile):
            self.file.prove()
        else:
            self.require_reader()
        if self.file is None and self.stdout is None:
            raise Failure("stdout is closed, so the result cannot be shown",
                          "Redirect it to a file or /dev/null, or use -o FILE.")
        self.held = ""
        self.check = check

    def show_elsewhere(self) -> str:
        """Shows what a change returned, and could not be written; returns a sentence on it."""
        if self.file is not None and self.stdout is not None:
            self.file, self.held = None, self.for_log(self.held)
            if result_or_failure(self.flush, kinds=(Failure, BrokenPipeError)) is None:
                return "The result is on stdout instead."
        if is_terminal(self.stderr):
            self._write_stderr(self.held)
            return "The result is on stderr instead."
        return f"The change was made, but its result is lost: see '{self.check}'."

    def require_reader(self):
        """Raises BrokenPipeError if the reader of stdout has gone away, without writing to it."""
        import select
        try:
            poll = select.poll()        # which always reports errors
            poll.register(self.stdout if self.file is None else self.file.file, 0)
        except (AttributeError, TypeError, OSError, ValueError):
            return                      # Windows has no poll; no file is behind the stream
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            raise BrokenPipeError

    def tell(self, text):
        """Prints a remark, a line on stderr, unless --quiet is given."""
        if not self.quiet:
            self.say(text)

    def tell_once(self, text, topic="trouble"):
        """Prints a remark, unless it is the same as the last one on its topic; "" ends that."""
        if text and text != self._repeated.get(topic):
            self.tell(text)
        self._repeated[topic] = text

    def shortened(self, text, limit=MAX_MESSAGE) -> str:
        """A text with secrets masked, and then cut to so many characters."""
        masked = mask_secrets(text[:10 * limit], self._secrets)
        if len(text) > 10 * limit:      # a part of a secret may be left of one that was cut here
            masked = masked[:-SECRET_RUN] + "…"
        return masked if len(masked) <= limit else masked[:limit] + "…"

    def masked(self, text) -> str:
        """One line, with secrets masked and control characters escaped."""
        return printable(self.shortened(text, MAX_LINE))

    def say(self, *lines, ci_command=""):
        """Prints lines on stderr, masked, behind a command to the CI system."""
        with self._lock:
            self.clear_progress()
            self._write_stderr("".join(self.masked(line) + "\n" for line in lines), ci_command)

    def _write_stderr(self, text, ci_command=""):
        if self.stderr is None:
            return
        try:
            write_to(self.stderr, ci_command + self.for_log(text))
            self.stderr.flush()
        except (OSError, ValueError):
            redirect_to_null(self.stderr)

    def failure_lines(self, failure) -> list:
        """The message, the hint and further problems, masked."""
        hint = failure.hint
        if failure.code in DIAGNOSED_CODES and not isinstance(failure, TooLarge):
            hint += " To find the cause, run 'twosignal doctor' with the same global options."
        return list(map(self.shortened, [failure.message, hint] + failure.problems))

    def fail(self, failure) -> int:
        """Prints an error as a line, or as JSON, and returns its exit code."""
        # Masked before it becomes JSON, which would escape parts of a secret.
        message, hint, *problems = self.failure_lines(failure)
        if self.json_errors:
            error = without_none(code=failure.code, message=message, hint=hint,
                                 problems=problems or None, exit_code=failure.exit_code,
                                 retry_after=failure.retry_after)
            self.clear_progress()
            self._write_stderr(to_json({"error": error}, levels=0) + "\n")
        else:
            line = f"Error: {message.rstrip('.')}. {hint}".rstrip()
            self.say(line, *("  " + problem for problem in problems))
        return failure.exit_code

    def progress(self, text, since):
        """Shows how far something is, from a second after `since` (monotonic) on."""
        if not self.quiet and self._can_erase() and self.clock.monotonic() - since >= 1:
            room = terminal_columns(self.stderr) - 1
            text = truncate(self.masked(text), room)
            with self._lock:
                self._progress = min(max(self._progress, display_width(text)), room)
                self._write_stderr("\r" + text + " " * (self._progress - display_width(text)))

    def _can_erase(self) -> bool:
        """Whether progress can be erased before a row appears: `tail | grep` prints at any time."""
        return is_terminal(self.stderr) and (is_terminal(self.stdout) or isinstance(
            self.file, AtomicFile) or self._is_redirected)

    def status(self, text, since):
        """Progress of what may take minutes: if none can be shown, each change is a remark."""
        if self._can_erase():
            self.progress(f"{text}, {int(self.clock.monotonic() - since)} s", since)
        else:
            self.tell_once(text + ".", "status")

    def clear_progress(self):
        if self._progress:          # and the ^C that a terminal prints behind it
            columns = min(self._progress + len("^C"), terminal_columns(self.stderr) - 1)
            self._write_stderr("\r" + " " * columns + "\r")
            self._progress = 0

    def require_terminal(self, option):
        """Raises a usage error that names the option if nobody can be asked."""
        if not is_terminal(self.stdin) or not self._prompt(""):
            raise usage_error("No terminal to prompt on", f"Pass {option}.")

    def ask(self, question, option, is_secret=False) -> str:
        """What the user types, unseen if secret. Raises a usage error that names the option."""
        self.require_terminal(option)
        answer = self.read_answer(question, is_secret)
        if not answer:
            raise usage_error(f"No answer to '{question.strip(' :')}'", f"Pass {option}.")
        return answer

    def read_answer(self, question, is_secret=False) -> str:
        """The line that is typed, without echo if it is secret; "" at the end of stdin."""
        if is_secret and os.name == "nt":
            import getpass          # which uses the console, whatever the streams are
            return plain_secret(getpass.getpass(printable(question)))
        def read():                 # when it is hidden: what was typed before is dropped
            self._prompt(printable(question))
            return self.read_stdin()
        answer = hidden_input(self.stdin, read) if is_secret else read()
        if is_secret or not answer:
            self._prompt("\n")      # the user's has not been shown
        return plain_secret(answer) if is_secret else answer.strip()

    def _prompt(self, text) -> bool:
        """Prints text on the terminal, wherever stderr goes; returns whether it can be seen."""
        if is_terminal(self.stderr):
            self._write_stderr(text)
            return True
        try:
            with open("CONOUT$" if os.name == "nt" else "/dev/tty", "wb", 0) as terminal:
                terminal.write(text.encode("utf-8", "backslashreplace"))
            return True
        except OSError:
            return False

    def open_stdin(self, option=""):
        """The binary stream of stdin: all of it is for one option. Raises a usage error."""
        if option and self.stdin_option:
            raise usage_error("Only one option can read stdin")
        self.stdin_option = self.stdin_option or option
        if option and is_terminal(self.stdin):
            self.tell(f"Reading {option} from the terminal; end it with Ctrl-D.")
        return self.stdin.buffer if self.stdin else io.BytesIO()

    def read_stdin(self, option="") -> str:
        """All of stdin for an option; without one, its next line. Raises a usage error."""
        stream = self.open_stdin(option)
        try:
            return (stream.read() if option else stream.readline()).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise usage_error(f"Cannot read stdin: {os_reason(error)}")

    def screen(self, color=None) -> Screen:
        """Where output goes. --color decides on colours, then the variables, then the terminal."""
        if self.file is not None:
            return Screen(None, colour=color == "always", is_saved=True)
        width = re.match(r"[1-9][0-9]{0,3}\Z", os.environ.get("COLUMNS", ""))
        columns = int(width.group()) if width else terminal_columns(self.stdout)
        shows_colour = is_terminal(self.stdout) and os.environ.get("TERM") != "dumb"
        if is_terminal(self.stdout) and os.name == "nt":    # 3: the default modes, 4: escapes
            from ctypes import windll
            handle = windll.kernel32.GetStdHandle(-11)
            shows_colour &= windll.kernel32.SetConsoleMode(handle, 3 | 4) > 0
        if {os.environ.get("FORCE_COLOR"), os.environ.get("CLICOLOR_FORCE")} - {None, "", "0"}:
            shows_colour = True
        if color in ("always", "never") or os.environ.get("NO_COLOR"):
            shows_colour = color == "always"
        return Screen(columns, getattr(self.stdout, "encoding", None) or "utf-8", shows_colour)


def write_to(stream, text):
    """Writes text, with ASCII in place of what the stream's encoding cannot show."""
    codec = stream.encoding or "utf-8"
    try:
        if result_or(None, ("." * 100 + text).encode, codec, kinds=UnicodeError) is None:
            text = text.translate(_SUBSTITUTES).encode(codec, "backslashreplace").decode(codec)
        stream.write(text)
    except UnicodeError:            # of idna, for one, which fails on so many dots
        stream.buffer.write(text.encode("ascii", "backslashreplace"))


def is_terminal(stream) -> bool:
    return stream is not None and stream.isatty()


def file_number(stream) -> int:
    """The number of the open file behind a stream; -1 if there is none."""
    return result_or(-1, lambda: stream.fileno(), kinds=(AttributeError, OSError, ValueError))


def terminal_columns(stream):
    """The width of a terminal, 80 if it is not known; None if the stream is no terminal."""
    if not is_terminal(stream):
        return None
    size = result_or((0, 0), os.get_terminal_size, file_number(stream), kinds=(OSError, ValueError))
    return size[0] or 80


def hidden_input(stream, read):
    """What read() returns while the terminal behind the stream does not show what is typed."""
    import termios
    shown = termios.tcgetattr(stream)
    hidden = shown[:3] + [shown[3] & ~termios.ECHO] + shown[4:]

    def switch_to(modes):
        if is_terminal(stream):     # it may have gone away
            termios.tcsetattr(stream, termios.TCSAFLUSH, modes)
    handlers = handle_signals({"SIGCONT": lambda *_: switch_to(hidden)})    # after Ctrl-Z and fg
    try:
        switch_to(hidden)
        return read()
    finally:
        handle_signals(handlers)
        switch_to(shown)


def redirect_to_null(stream):
    """Sends what a broken stream still buffers to /dev/null: Python flushes it at exit."""
    null = result_or(-1, os.open, os.devnull, os.O_WRONLY, kinds=OSError)
    result_or_failure(os.dup2, null, file_number(stream), kinds=OSError)
    result_or_failure(os.close, null, kinds=OSError)


############################################################
# Arguments
############################################################

COMMANDS = {}                       # "traces list": its Command, in the order of --help
_AGO = r"(?a)(?=\d)(\d{1,9}w)?(\d{1,9}d)?(\d{1,9}h)?(\d{1,9}m)?(\d{1,9}s)?\Z"
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}


class Option(Struct):
    """An option such as "-n, --limit N" or "--tag TAG...", or an operand: "ID", "[WORD...]"."""
    form: str                   # the long flag is last; a value with ... may be repeated: a list
    help: str = ""
    parse: object = None        # from text; raises ValueError with what it must be
    name: str = None            # of its attribute in Arguments; by default that of its long flag
    constant: object = True     # what a switch stores
    env: str = None             # the variable that is used if it is omitted
    is_secret: bool = False     # blanks and quotes around the variable are a part of it
    may_be_empty: bool = False  # its value may be blank
    required: bool = False      # omitting it is a usage error
    selects: bool = True        # what a command examines, which documents and reports name
    choices: object = ()        # values that shells complete; without parse, the valid ones
    completes: str = None       # projects or organizations: names to complete from the server

    def __init__(self, *values, **named):
        super().__init__(*values, **named)
        words = self.form.replace(",", "").split()
        self.flags = tuple(word for word in words if word.startswith("-"))
        self.metavar = None if words[-1] in self.flags else words[-1]
        self.takes_value = bool(self.flags and self.metavar)
        self.label = self.flags[-1] if self.flags else self.form.strip("[.]")
        self.repeatable = "..." in self.form
        self.required = self.required or not self.form.startswith(("-", "["))
        self.name = self.name or self.label.lstrip("-").replace("-", "_").lower()
        if self.parse is None:
            self.parse = functools.partial(parse_choice, self.choices) if self.choices else str
        elif words[-1].startswith("[NAME=]"):
            self.parse = functools.partial(parse_for_evaluator, self.parse)
        note = " (required)" if self.required and self.flags else ""
        self.summary = self.help + ("; repeatable" if self.repeatable and self.flags else "") + (
            f" (env: {self.env})" if self.env else note)


def flags_of(options) -> dict:
    return {flag: option for option in options for flag in option.flags}


class Command(Struct):
    """A command, such as "traces list"."""
    name: str
    function: object            # (client, args, console) -> Result
    options: tuple
    help: str = ""              # by default the function's docstring
    examples: tuple = ()        # by default the shortest command line that is valid
    exclusive: tuple = ()       # flags of which only one may be given
    takes_key: object = False   # takes a project's API key, not a session; or a test of its args
    is_offline: bool = False    # asks no server, and gets None for the client
    ends_session: bool = False  # goes to the address of the stored session
    is_endless: bool = False    # Ctrl-C is its normal end
    format: str = "table"       # in which it prints by default
    is_gate: bool = False       # its checks are reported, and why they could not be made
    finds_project: bool = False     # by itself, if none is given and none is saved

    def __init__(self, *values, **named):
        super().__init__(*values, **named)
        self.help = self.help or (self.function.__doc__ or "").strip().replace("\n    ", "\n")
        self.form = self.name
        self.summary = self.help.partition("\n")[0]
        words = [option.form.split(", ")[-1] for option in self.options if option.required]
        self.examples = self.examples or (" ".join(["twosignal", self.name, *words]),)
        own_flags = set(flags_of(self.options))         # which take precedence over global ones
        self.all_options = self.options + tuple(
            option for option in GLOBAL_OPTIONS if own_flags.isdisjoint(option.flags))


def command(name, *options, **attributes):
    def register(function):
        COMMANDS[name] = Command(name, function, options, **attributes)
        return function
    return register


def visible_commands(group=None) -> list:
    """Those in help and completion: not __complete."""
    return [each for name, each in COMMANDS.items()
            if not name.startswith("_") and group in (None, name.split()[0])]


def parse_choice(choices, text) -> str:
    """One of the choices, which may be typed in any case."""
    for choice in choices:
        if text.lower() == choice.lower():
            return choice
    raise ValueError(f"must be one of {', '.join(choices)}")


def parse_fields(text) -> list:
    fields = [field.strip() for field in text.split(",") if field.strip()]
    if not fields:
        raise ValueError("must name a field")
    if max(field.count(".") for field in fields) >= MAX_PATH_PARTS:
        raise ValueError(f"must not have more than {MAX_PATH_PARTS} parts")
    return fields


def parse_whole_number(minimum, maximum, text) -> int:
    if not re.match(r"[0-9]{1,18}\Z", text) or not minimum <= int(text) <= maximum:
        allowed = f"{minimum} or more" if maximum == ALL else f"{minimum} to {maximum}"
        raise ValueError(f"must be a whole number, {allowed}")
    return int(text)


def parse_duration(text) -> float:
    """Milliseconds of 500ms, 5s, 2m or 1h."""
    match = re.match(r"(?a)(\d{1,9}(?:\.\d+)?)(ms|[smh])\Z", text.strip())
    if not match:
        raise ValueError("must be a duration such as 500ms, 5s or 2m")
    unit = 1000 * _UNIT_SECONDS[match.group(2)]
    return round(float(match.group(1)) * unit, 6)       # 1.001s are 1001, not 1000.9999999999999


def parse_seconds(text) -> float:
    """Seconds of 90, 90s or 5m."""
    number = to_number(text)
    seconds = parse_duration(text) / 1000 if number is None else number
    if not 0 < seconds <= DAY:
        raise ValueError("must be above 0 and at most a day")
    return float(seconds)


class When(Struct):
    """A time that --since or --until gives."""
    seconds: float              # Unix seconds; if it is relative, seconds before now
    is_relative: bool = False
    length: float = 0           # seconds: a date means the whole day

    def start(self, now) -> float:
        """Unix seconds, if it is `now`; to the millisecond, as servers get it."""
        return round(now - self.seconds, 3) if self.is_relative else self.seconds


def parse_when(text) -> When:
    """30m, 1h30m, 7d (ago), a date, or ISO 8601; UTC if it names no zone."""
    text = text.strip()
    ago = re.match(_AGO, text)
    is_day = not ago and len(text) == len("2026-03-14")
    if ago:
        seconds = sum(int(n) * _UNIT_SECONDS[unit] for n, unit in re.findall(r"(\d+)(.)", text))
    else:                           # the time, or its seconds, may be omitted
        text += "T00:00" if is_day else ""
        seconds = parse_timestamp(re.sub(r"\A(.{10}[T ]\d\d:\d\d)(?=Z|[+-]|\Z)", r"\1:00", text))
    if seconds is None or ago and seconds > -FIRST_SECOND:
        raise ValueError("must look like 30m, 1h30m, 7d, 2026-03-14 or 2026-03-14T10:30:00Z")
    return When(seconds, bool(ago), DAY - 0.000001 if is_day else 0)


def parse_number(maximum, what_it_must_be, text, sign=""):
    """A number from 0 to the maximum, which a sign such as $ may precede."""
    value = to_number(text.strip().lstrip(sign))
    if value is None or not 0 <= value <= maximum:
        raise ValueError(f"must be {what_it_must_be}")
    return value


def parse_part(what_it_must_be, bare_is_percent, text):
    """0.02 of 2%. Of a bare number, what may mean 1% or 100% is refused."""
    number = text.strip()
    is_percent = number.endswith("%")
    value = parse_number(100, what_it_must_be, number[:-1] if is_percent else number)
    if not is_percent and bare_is_percent == (value < 1):
        other = f" or {100 * value:.12g}%" if 0 < value <= 1 else ""
        raise ValueError(f"say {number}%{other}")
    # Rounded: 39.9% is 0.399, not 0.39899999999999997.
    return round(value / 100, 12) if is_percent or bare_is_percent else value


COUNT = functools.partial(parse_whole_number, 0, ALL)
POSITIVE = functools.partial(parse_whole_number, 1, ALL)
MONTHS = functools.partial(parse_whole_number, 1, MAX_MONTHS)
parse_score = functools.partial(parse_number, 1, "a score from 0 to 1")
parse_usd = functools.partial(parse_number, ALL, "an amount in USD such as 0.05", sign="$")
parse_share = functools.partial(parse_part, "a share such as 2% or 0.02", False)
parse_percent = functools.partial(parse_part, "a percentage from 0 to 100, such as 90", True)


def parse_for_evaluator(parse_limit, text) -> tuple:
    """("faithfulness", 0.8) of faithfulness=0.8; (None, 0.8), for all, of 0.8."""
    name, equals, limit = text.rpartition("=")
    if equals and not name.strip():
        raise ValueError("must name an evaluator before the =")
    return name.strip() or None, parse_limit(limit)


def parse_metadata(text) -> tuple:
    """("customer.tier", "pro") of customer.tier=pro."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError("must look like KEY=VALUE")
    return key.strip(), value


def text_argument(text, flag, console) -> str:
    """The text of @FILE, of stdin for -, or else the text itself. Raises a usage error."""
    if text in ("-", "@-"):
        return console.read_stdin(flag)
    if not text.startswith("@"):
        return text
    path = to_path(text[1:])
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (OSError, ValueError) as error:      # ValueError: not UTF-8, or a NUL in the path
        raise usage_error(f"Cannot read the file of {flag}: {path}: {os_reason(error)}")


def json_argument(text, flag, console):
    """The value of a literal, @FILE or - for stdin; None if omitted. Raises a usage error."""
    if text is None:
        return None
    text = text_argument(text, flag, console)
    try:
        return exact_json(text)
    except (ValueError, RecursionError) as error:
        raise usage_error(f"Invalid {flag}: {os_reason(error)}",
                          "It takes JSON, in which a text has quotes.")


OTHER_NAMES = {                     # what people type in place of a command's word
    "orgs": "org organization organizations", "api-keys": "key keys", "evaluators": "eval evals",
    "routing": "route", "prompts": "prompt prompt-templates", "push": "create add update edit",
    "get": "show view describe", "list": "ls", "use": "set select switch",
    "toggle": "enable disable", "create": "add new", "add-item": "add new additem",
    "update": "rename edit set", "rename": "update edit set", "list-members": "members",
    "add-member": "add invite", "remove-member": "remove rm kick", "remove-item": "remove rm",
    "delete": "remove rm revoke", "revoke": "delete remove rm", "tail": "watch follow",
    "import": "load upload", "send": "push upload import ingest"}
NEVER_GUESSED = {"create", "add-item", "add-trace", "add-member", "apply", "delete", "remove-item",
                 "remove-member", "revoke", "rotate", "logout", "install", "yes", "push", "import",
                 "send"}

HELP = Option("-h, --help", "show help and exit")
VERSION = Option("-V, --version", "show the version and exit")
QUIET = Option("-q, --quiet", "print results and errors only")
DEBUG = Option("--debug", "print requests on stderr, with secrets masked")
OUTPUT = Option("-o, --output FILE", "write output to FILE atomically; '-' is stdout", to_path)
GLOBAL_OPTIONS = (
    Option("--json", "print JSON instead of a table", name="format", constant="json"),
    Option("--format FORMAT", f"print as {', '.join(FORMATS)}", choices=FORMATS),
    Option("--fields NAMES", "print fields, e.g. id,scores.NAME; '?' lists them", parse_fields),
    Option("--no-header", "omit the headings of tables, csv and tsv"),
    OUTPUT, Option("--url URL", "use this server for this command (env: TWOSIGNAL_URL)"),
    Option("--timeout SECONDS", "total timeout per request, retries included "
           f"(default: {DEFAULT_TIMEOUT:.0f}s)", parse_seconds),
    Option("--ca-cert FILE", "also trust the certificates in this PEM file"),
    Option("--client-cert FILE", "PEM client certificate", env="TWOSIGNAL_CLIENT_CERT"),
    Option("--client-key FILE", "its private key (PEM)", env="TWOSIGNAL_CLIENT_KEY"),
    Option("--header HEADER...", "send 'Name: value' (env: TWOSIGNAL_HEADERS)"),
    QUIET, Option("--color WHEN", "print with colors: auto, always or never (default: auto)",
                  choices=("auto", "always", "never")),
    Option("--no-color", "short for --color never", name="color", constant="never"), DEBUG, HELP)


class CommandLine:
    """What argv says, read once; to its end, since --json and --quiet apply to errors too."""

    def __init__(self, argv):
        self.words = []             # those of the command
        self.options = []           # (flag, value, or a switch's constant) in their order
        self.operands = []          # the rest
        texts = result_or_failure(lambda: [as_utf8(token, "An argument") for token in argv])
        self.error = texts if isinstance(texts, Failure) else None      # the first
        self._tokens = list(argv if self.error else texts)
        while self._tokens and self._tokens[0] != "--":
            failure = result_or_failure(self._read, self._tokens.pop(0))
            self.error = self.error or failure
        for token in self._tokens[1:]:          # behind -- there are no options
            self._read(token, is_word=True)
        self.is_known = bool(self.command or words_after(self.words))   # a command or a group

    @property
    def command(self):
        """The Command that the words name, or None."""
        return COMMANDS.get(" ".join(self.words))

    def has(self, option) -> bool:
        """Whether it is given; `prompts get --version 2`, which takes a value, is no --version."""
        return any(flag in option.flags and (option.takes_value or value is option.constant)
                   for flag, value in self.options)

    def texts(self, option) -> list:
        """What was given for an option: all of it if it is repeatable, otherwise the last."""
        found = [text for flag, text in self.options if flag in option.flags]
        if not found:
            found = list(filter(None, [result_or(None, setting, option.env or "")]))
        return found if option.repeatable else found[-1:]

    def known_flags(self) -> dict:
        """{flag: Option} of the command; of all commands as long as it is not known."""
        if self.command:
            return flags_of(self.command.all_options)
        own_options = [option for each in COMMANDS.values() for option in each.options]
        return flags_of([*own_options, VERSION, *GLOBAL_OPTIONS])

    def unknown_option(self, flag) -> Failure:
        alike = words_like(flag[2:], [each[2:] for each in self.known_flags() if each[2:]])
        hint = f"Did you mean --{alike[0]}?" if alike else see_help(*self.words)
        return usage_error(f"There is no option {flag}", hint)

    def _read(self, token, is_word=False):
        if is_word or token == "-" or not token.startswith("-"):
            is_of_command = self.command is None and len(self.words) < 2
            (self.words if is_of_command else self.operands).append(token)
        elif token.startswith("--"):
            flag, equals, value = token.partition("=")
            self._add_option(flag, value if equals else None)
        else:                       # joined flags such as -qy; the rest may be a value: -qn3
            for position, letter in enumerate(token[1:], 2):
                option = self.known_flags().get("-" + letter)
                if option and option.takes_value:
                    self._add_option("-" + letter, token[position:] or None)
                    break
                self._add_option("-" + letter, None)

    def _add_option(self, flag, value):
        """Adds an option; value: what is joined to the flag, or None. Raises a usage error."""
        option = self.known_flags().get(flag)
        if option is None:
            raise self.unknown_option(flag)
        if value is not None and not option.takes_value:
            raise usage_error(f"{flag} takes no value", see_help(*self.words))
        if value is None and option.takes_value:    # it may look like a short option: -d -h
            if not self._tokens or self._tokens[0].startswith("--"):
                raise usage_error(f"{flag} needs a value", see_help(*self.words))
            value = self._tokens.pop(0)
        self.options.append((flag, value if option.takes_value else option.constant))


class Arguments:
    """What the user gave: an attribute for each option and operand, None or False if omitted."""

    def __init__(self, chosen, line):
        """chosen: the Command; line: its CommandLine. Raises a usage error."""
        self.line = line
        self.default_format = chosen.format
        self.sources = {}           # of those that a variable or config.json gave: what sets it
        self._see_help = see_help(chosen.name)
        flags = flags_of(chosen.all_options)
        for flag, text in line.options:
            if flag not in flags:
                raise line.unknown_option(flag)
            self._add(flags[flag], text)
        operands = list(line.operands)
        places = [each for each in chosen.options if not each.flags]
        if len(operands) < len(places):     # [GET|POST] may be omitted
            places = [each for each in places if each.required]
        for option in places:
            while operands and (option.repeatable or option.name not in vars(self)):
                self._add(option, operands.pop(0))
        if operands:
            raise usage_error(f"Unexpected argument '{operands[0]}'", self._see_help)
        for option in chosen.all_options + GLOBAL_OPTIONS:
            variable = option.name not in vars(self) and setting(option.env or "", option.is_secret)
            if variable:
                self._add(option, variable)
                self.sources[option.name] = option.env
            is_switch = option.metavar is None and option.constant is True
            vars(self).setdefault(option.name, False if is_switch else None)
        given = [flag for flag in chosen.exclusive if line.has(flags[flag])]
        if len(given) > 1:
            raise usage_error(f"{' and '.join(given)} cannot be used together", "Use one of them.")

    def _add(self, option, text):
        try:
            if option.metavar and not option.may_be_empty and not text.strip():
                raise ValueError("must not be empty")
            value = option.parse(text) if option.metavar else text
        except ValueError as error:
            raise usage_error(f"Invalid {option.label} '{text}': {error}", self._see_help)
        if option.repeatable:
            value = getattr(self, option.name, []) + [value]
        setattr(self, option.name, value)

    def add_saved(self, chosen, client):
        """Adds what is saved for missing options. Raises a usage error that lists what there is."""
        key = getattr(client, "key", None)
        # A key belongs to a project, and a project to an organization.
        implied = {"projects": key, "organizations": vars(self).get("project")}
        missing = [option for option in chosen.options if option.required and not (
            implied.get(option.completes)) and getattr(self, option.name) is None]
        labels = [option.label for option in missing if not option.env]
        if labels:
            raise usage_error(f"Missing {', '.join(labels)}", self._see_help)
        if missing and not key and has_key() and not result_or(None, load_session, kinds=NoHome):
            raise not_logged_in(client.url)     # first things first: a key is not enough
        for option in missing:
            saved = result_or({}, config_for, client.url, client.transport.clock).get(option.name)
            if saved:
                self.sources[option.name] = "'twosignal projects use'"
                self._add(option, saved)
            elif not chosen.finds_project:
                raise Failure(f"No {option.completes[:-1]} given", f"Pass {option.label} or set "
                              f"{option.env}, or run 'twosignal projects use NAME'.", "USAGE",
                              first_steps(client, option.completes))


def see_help(*words) -> str:
    return f"See '{' '.join(['twosignal', *words, '--help'])}'."


def help_text(words) -> str:
    """What --help prints after these words: of a command, a group, or the program."""
    chosen = COMMANDS.get(" ".join(words))
    if chosen:
        operands = [each for each in chosen.options if not each.flags]
        form = [chosen.name, *(each.form for each in operands)]
        parts = [chosen.help, help_rows("arguments", operands),
                 help_rows("options", [each for each in chosen.options if each.flags]),
                 help_rows("global options", chosen.all_options[len(chosen.options):]),
                 "\n  ".join(("examples:",) + chosen.examples)]
    else:
        form = [*words, "COMMAND"]
        listed = visible_commands(*words)
        parts = ["" if words else "Manages traces, evaluators, datasets and more of 2Signal.",
                 help_rows("commands", listed),
                 help_rows("global options", GLOBAL_OPTIONS + (VERSION,)),
                 f"Help for one command: twosignal {listed[0].name} --help"]
    first = " ".join(["usage: twosignal", *form, "[OPTIONS]"])
    return "\n\n".join(filter(None, [first, *parts])) + "\n"


def help_rows(title, rows) -> str:
    """A block of lines for Options or Commands, which fits 80 columns; "" if there are none."""
    import textwrap
    lines = [textwrap.fill(f"  {each.form:20}  {each.summary}", 80, subsequent_indent=" " * 24)
             for each in rows]
    return "\n".join([title + ":"] + lines) if rows else ""


def unknown_command(words) -> Failure:
    """The error for an unknown command; its hint suggests one, or lists those of its group."""
    group = words_like(words[0], words_after([]))
    commands = {word: " ".join(group + [word]) for word in words_after(group)}
    likely = [commands[word] for word in words_like(words[-1], commands)] if commands else group
    hint = f"Choose one of: {', '.join(commands.values())}."
    if likely:
        hint = "Did you mean '{}'?".format("' or '".join("twosignal " + each for each in likely))
    return usage_error(f"There is no command '{' '.join(words)}'", hint)


def words_after(words) -> list:
    """What can follow these words of a command: groups and commands, or those of the group."""
    names = [each.name.split() for each in visible_commands(*words[:1])]
    return list(dict.fromkeys(name[len(words)] for name in names if len(name) > len(words)))


def words_like(typed, words) -> list:
    """Those of the words that a typed one is another name of, or else the one that it resembles."""
    from difflib import get_close_matches
    meant = [word for word in words if typed in [word] + OTHER_NAMES.get(word, "").split()]
    return meant or get_close_matches(typed, set(words) - NEVER_GUESSED, 1, 0.7)


############################################################
# Traces
############################################################

SCORES_REQUIRED = "required"        # of the traces in a scan: without them it fails
SCORES_IF_KNOWN = "if known"        # null if an API key cannot read them
AMOUNTS = (("durations", "duration_ms"), ("costs", "cost_usd"), ("tokens", "total_tokens"))
ORDER_TOLERANCE = HOUR              # a trace may be listed this much later: agents' clocks differ


# --- filters and pages

FILTER_OPTIONS = (
    Option("--since WHEN", "only traces after WHEN: 7d (ago), a date, ISO 8601 (UTC)", parse_when),
    Option("--until WHEN", "only traces before WHEN (same formats; dates inclusive)", parse_when),
    Option("--status STATUS", "only traces with status OK or ERROR", choices=("OK", "ERROR")),
    Option("--error", "short for --status ERROR"),
    Option("--search TEXT", "only traces whose name contains TEXT"),
    Option("--tag TAG...", "only traces with each of these tags"),
    Option("--min-duration TIME", "only traces that took TIME or longer, e.g. 5s", parse_duration),
    Option("--max-duration TIME", "only traces that took TIME or less, e.g. 500ms", parse_duration),
    Option("--min-cost USD", "only traces that cost at least USD, e.g. 0.05", parse_usd),
    Option("--session ID", "only traces of this session"),
    Option("--metadata KEY=VALUE...", "only traces with this metadata (dot paths)", parse_metadata),
    Option("--max-score [NAME=]SCORE...", "only traces scored SCORE or less, by NAME", parse_score),
    Option("--label LABEL", "only traces with a score that has this label, e.g. fail"))


class TraceQuery:
    """The traces of a project that match; what the server does not filter, is filtered here."""

    def __init__(self, project=None, **filters):
        """project: its ID; filters: values by the names of FILTER_OPTIONS; all must match."""
        vars(self).update(dict.fromkeys(each.name for each in FILTER_OPTIONS), **filters)
        self.project = project
        self.status = "ERROR" if self.error else self.status
        if self.since and self.until and self.since.is_relative == self.until.is_relative:
            self.input(0)           # any time shows it
            self._check_times()
        # No server knows these filters; some servers ignore others.
        self.needs_scores = (self.max_score, self.label) != (None, None)
        self.is_local = self.needs_scores or (self.min_duration, self.max_duration, self.min_cost,
                                              self.session, self.metadata) != (None,) * 5

    def input(self, now) -> dict:
        """The input of trace.list for all server versions, and the times that matches() uses."""
        self.earliest = self.since and self.since.start(now)
        self.latest = self.until and min(self.until.start(now) + self.until.length, END_OF_TIME - 1)
        return without_none(projectId=self.project or None, status=self.status, tags=self.tag,
                            search=self.search, name=self.search,
                            startDate=self.since and wire_timestamp(self.earliest),
                            endDate=self.until and wire_timestamp(self.latest))

    def _check_times(self):
        if self.since and self.until and self.earliest >= self.latest:
            raise usage_error("--since is not before --until", "30m means 30 minutes ago.")

    def pages(self, client, page_size=lambda: PAGE_SIZE):
        """Yields each TracePage of it, see Client.trace_pages. Raises Failure."""
        values = None
        while values != self.input(client.transport.start_time):    # the first response corrects it
            values = self.input(client.transport.start_time)
            pages = client.trace_pages(values, page_size)
            first = result_or_failure(next, pages)
        if isinstance(first, Failure):
            raise first
        self._check_times()
        yield first
        yield from pages

    def matches(self, trace) -> bool:
        return ((self.status is None or self.status == str(trace["status"]).upper())
                and (not self.search
                     or self.search.casefold() in str(trace["name"] or "").casefold())
                and (not self.tag or isinstance(trace.get("tags"), list)
                     and all(tag in trace["tags"] for tag in self.tag))
                and (not self.is_local or self._matches_values(trace))
                # Servers filter by one of these times, and which one depends on the version.
                and (not (self.since or self.until) or any(
                    is_within(parse_timestamp(trace.get(key)), self.earliest, self.latest)
                    for key in ("created_at", "start_time"))))

    def _matches_values(self, trace) -> bool:
        data = trace.get("metadata")
        found = [(get_path(data, path, MISSING), text) for path, text in self.metadata or ()]
        return (is_within(to_amount(trace["duration_ms"]), self.min_duration, self.max_duration)
                and is_within(trace["cost_usd"], self.min_cost, None)
                and self.session in (None, trace.get("session_id"))
                and (not found or isinstance(data, dict)) and all(
                    value is not MISSING and text in (value, json.dumps(value))
                    for value, text in found))

    def matches_scores(self, trace) -> bool:
        """Whether a record's newest scores have the label, and one that is low enough."""
        scores = newest_scores(trace["scores"])
        label = self.label and self.label.strip().lower()
        return (not label or label in map(label_of, scores)) and all(
            any(evaluator in (None, score.get("evaluator"))
                and is_within(score.get("score"), None, maximum) for score in scores)
            for evaluator, maximum in self.max_score or ())

    def is_behind(self, traces) -> bool:
        """Whether a page of wire traces lies before --since, so that no later page can match."""
        # A server that does not know startDate would otherwise be read to its end.
        times = [] if self.earliest is None else list(map(created_seconds, traces))
        is_newest_first = None not in times and times == sorted(times, reverse=True)
        return bool(times) and is_newest_first and times[0] < self.earliest - ORDER_TOLERANCE


def is_within(value, minimum, maximum) -> bool:
    """Whether a value is a number within the bounds; without bounds, anything is."""
    number = to_number(value)
    is_unbounded = minimum is None and maximum is None
    return is_unbounded or number is not None and (minimum is None or number >= minimum) and (
        maximum is None or number <= maximum)


SORT_KEYS = {                       # what --sort compares; None: unknown, which comes last
    "created": lambda trace: parse_timestamp(trace["created_at"] or trace.get("start_time")),
    "duration": lambda trace: to_amount(trace["duration_ms"]),
    "cost": lambda trace: to_amount(trace["cost_usd"]),
    "tokens": lambda trace: to_amount(trace.get("total_tokens")),
    "score": lambda trace: min(
        [to_number(each.get("score")) for each in newest_scores(trace["scores"])
         if to_number(each.get("score")) is not None], default=None)}


def created_seconds(trace):
    """Unix seconds of when a wire trace was made, or None."""
    seconds = parse_timestamp(trace.get("createdAt"))
    return parse_timestamp(trace.get("startTime")) if seconds is None else seconds


class TraceScan(Struct):
    """The records of the traces that a TraceQuery matches, newest first, read page by page."""
    client: Client
    query: TraceQuery
    console: Console
    limit: int = None               # how many to return at most
    scores: str = None              # SCORES_REQUIRED, SCORES_IF_KNOWN, or None if not wanted
    strict_scores: bool = True      # see Client.fetch_parts
    needed: float = 0               # it fails if the server cannot return so many, up to the limit
    exact: bool = False             # reads on until it knows whether others match, and then fails
    sort: str = None                # a key of SORT_KEYS; all that match are read first
    reverse: bool = False           # otherwise, the greatest comes first, or the lowest score
    parts: set = None               # of "spans" and "error_message": what records have besides
    # The state so far:
    scanned = returned = 0          # traces
    is_filtered = False             # here: no server, or not this one, knows all the filters
    has_more = False                # whether others match; None: unknown
    lacks_paging = False            # the server cannot tell whether there are others
    known_fields = frozenset()      # of the traces, if some are filtered by what may not be there

    def __iter__(self):
        for pairs in self.sorted_pages() if self.sort else self.pages():
            yield from self.records(pairs)

    def sorted_pages(self):
        """Yields what comes first of all that pages() yields, up to the limit."""
        from heapq import nsmallest
        sign = 1 if (self.sort == "score") != self.reverse else -1
        def rank(pair):
            value = SORT_KEYS[self.sort](pair[1])
            return value is None, value and sign * value
        limit, self.limit = self.limit, None
        first = nsmallest(limit or sys.maxsize, (
            pair for page in self.pages() for pair in page), key=rank)
        self.limit, self.has_more = limit, len(first) < self.returned
        self.returned = len(first)
        yield first

    def pages(self):
        """Yields lists of matching (wire trace, record), up to the limit. Raises Failure."""
        started = self.console.clock.monotonic()
        self.is_filtered = self.query.is_local
        for page in self.query.pages(self.client, self._page_size):
            pairs = self.matching(page.traces)
            room = len(pairs) if self.limit is None else self.limit - self.returned
            self.scanned += len(page.traces)
            self.is_filtered = self.is_filtered or len(pairs) < len(page.traces)
            self.returned += min(room, len(pairs))
            is_behind, is_cut = self.query.is_behind(page.traces), len(pairs) > room
            self.has_more = is_cut or not is_behind and page.has_more
            if self.has_more and not is_cut and (self.exact or self.is_filtered):
                self.has_more = None        # whether any of them match
            self.lacks_paging = page.is_last and self.has_more is None
            yield pairs[:room]
            is_full = self.returned == self.limit
            if self.lacks_paging and self.returned < self.needed and not is_full:
                raise Failure(f"This server returned {counted(self.scanned, 'trace')} and has no "
                              "further pages: more may exist",
                              "Use narrower --since and --until.", "UNSUPPORTED")
            is_done = is_full and not (self.exact and self.has_more is None)
            if page.is_last or is_behind or is_done:
                return
            self.console.progress(counted(self.scanned, "trace"), started)

    def _page_size(self) -> int:
        if self.limit in (None, self.returned) or self.is_filtered:
            return PAGE_SIZE
        return min(PAGE_SIZE, self.limit - self.returned)

    def matching(self, traces) -> list:
        """(wire trace, record) of those that match."""
        pairs = [(trace, self.client.record(trace, "trace")) for trace in traces]
        wanted = self.client.key and self.query.project
        if wanted and any(
                str(record.get("project_id")).lower() != wanted.lower() for _, record in pairs):
            raise usage_error(f"'{wanted}' is not the ID of the API key's project",
                              "Omit --project and unset TWOSIGNAL_PROJECT: the key selects it.")
        if self.query.session or self.query.metadata:
            self.known_fields |= set().union(*[record for _, record in pairs])
        pairs = [pair for pair in pairs if self.query.matches(pair[1])]
        if self.query.needs_scores or self.sort == "score":
            self._add_scores(pairs, SCORES_REQUIRED)
            pairs = [pair for pair in pairs if self.query.matches_scores(pair[1])]
        return pairs

    def records(self, pairs) -> list:
        """The records of (wire trace, record), with their scores and spans if they are wanted."""
        if self.parts:
            self._add_spans(pairs)
        self._add_scores(pairs, self.scores)
        if self.client.is_file and self.parts is not None and "spans" not in self.parts:
            for _, record in pairs:
                record.pop("spans", None)       # as a server lists them
        return [record for _, record in pairs]

    def _add_scores(self, pairs, scores):
        lacking = [pair for pair in pairs if scores and lacks(pair[0], "scores")]
        unknown = lacking if self.client.key and scores == SCORES_IF_KNOWN else []
        if unknown:
            reason = self.client.cannot_read("scores").message
            self.console.tell_once(f"Scores are null. {reason}.", "scores")
        elif lacking:               # with an API key, it raises: no gate passes for lack of scores
            self.client.fetch_parts([trace for trace, _ in lacking], self.query.project, "scores",
                                    self.strict_scores)
        for trace, record in pairs if scores or not self.client.is_file else ():
            if scores:
                rows = trace["scores"] if isinstance(trace.get("scores"), list) else []
                record["scores"] = [self.client.record(score, "score") for score in rows]
            child_records(record, "scores")         # raises if they are no list
        for _, record in unknown:
            record["scores"] = None

    def _add_spans(self, pairs):
        ok = {id(record) for _, record in pairs if str(record["status"]).upper() == "OK"}
        asked = [pair for pair in pairs if "spans" in self.parts or id(pair[1]) not in ok]
        self.client.fetch_parts([trace for trace, _ in asked], self.query.project, "spans")
        for trace, record in asked:
            record["spans"] = [self.client.record(span, "span") for span in trace["spans"]]
        for _, record in pairs:
            record["error_message"] = None if id(record) in ok else first_error_message(record)

    def outcome(self) -> Outcome:
        """What follows a listing: whether more traces match, or may match, and how to see them."""
        if self.has_more is False:
            return Outcome([self.scan_remark()])
        exist = "may exist" if self.has_more is None else "exist"
        way = "narrower --since and --until" if self.lacks_paging else "--limit N or --all"
        message, hint = f"Showing {counted(self.returned, 'trace')}; more {exist}", f"Use {way}."
        if self.exact:
            raise Failure(message, hint, "CHECK_FAILED")
        return Outcome([f"{message}. {hint} {self.scan_remark()}".rstrip()])

    def scan_remark(self) -> str:
        """How many traces were scanned, if some of them were filtered here; otherwise ""."""
        if not self.is_filtered or not self.scanned:
            return ""
        wanted = without_none(session_id=self.query.session, metadata=self.query.metadata)
        remark = f"{self.returned:,} of {self.scanned:,} scanned traces match."
        if self.returned == self.limit:
            remark = f"Scanned {counted(self.scanned, 'trace')}."
        return " ".join([remark] + [f"None of them has the field {key}."
                                    for key in wanted.keys() - self.known_fields])


# --- checks and reports

class Measurements:
    """The values of many traces, in little memory."""
    _sums = _extremes = ()          # of summarized values: sum and its rounding; lowest, highest
    _least_severity = -ALL          # of the worst ones, if there are enough of them

    def __init__(self, severity=None):
        """severity: a function of a value, the greater the worse; None if no trace is named."""
        from array import array
        from collections import Counter
        self._buckets = Counter()   # {upper end of a bucket: how many summarized values are in it}
        self.values = array("d")    # those that are not summarized yet
        self.traces = 0             # how many have a value
        self.severity = severity
        self.worst = []             # the traces with the worst values, as JSON shows them

    def add(self, trace, *values):
        """Adds the values of a record; None stands for one that is not known."""
        is_known, worst, severity = 0, None, self._least_severity
        for value in values:
            if value is not None:
                is_known = 1
                self.values.append(value)
                if self.severity and self.severity(value) > severity:
                    worst, severity = value, self.severity(value)
        self.traces += is_known
        if len(self.values) > EXACT_VALUES:
            self._summarize()
        if worst is None:
            return
        self.worst.append(dict(trace_id=printable(trace["id"]), name=trace["name"], value=worst,
                               error_message=first_error_message(trace), command=None))
        self.worst.sort(key=lambda each: self.severity(each["value"]), reverse=True)
        del self.worst[MAX_WORST:]
        if len(self.worst) == MAX_WORST:
            self._least_severity = self.severity(self.worst[-1]["value"])

    def _summarize(self):
        import math
        total = self.total()
        self._sums = [total, math.fsum([*self._sums, *self.values, -total])]
        self._extremes = [self.lowest(), self.highest()]
        self._buckets.update(BUCKET_RATIO ** math.ceil(math.log(value, BUCKET_RATIO))
                             if value > 0 else 0 for value in self.values)
        del self.values[:]

    def count(self) -> int:
        return len(self.values) + sum(self._buckets.values())

    def total(self) -> float:
        import math
        return math.fsum([*self._sums, *self.values])       # rounds once

    def mean(self) -> float:
        return self.total() / self.count()

    def lowest(self) -> float:
        return min([*self._extremes, *self.values])

    def highest(self) -> float:
        return max([*self._extremes, *self.values])

    def percentile(self, percent) -> float:
        """That of the nearest rank; of more than EXACT_VALUES, at most BUCKET_RATIO times it."""
        if self._buckets and self.values:
            self._summarize()
        rank = -(-self.count() * percent // 100)        # rounded up
        if not self._buckets:
            return sorted(self.values)[rank - 1]
        for value in sorted(self._buckets):
            rank -= self._buckets[value]
            if rank <= 0:
                return min(value, self.highest())


class TraceStats:
    """What thresholds are compared with, collected from one trace after the other."""

    def __init__(self, evaluators=None, names_worst=True, sources=None):
        """evaluators: those whose scores count; sources: of the Metrics needed; None: all."""
        from collections import Counter, defaultdict
        severity = float if names_worst else None
        # The lowest score is the worst, except for one outside 0 to 1.
        score_severity = severity and (lambda score: -score if is_score(score) else ALL)
        severities = {"scores": score_severity, "tokens": None}
        self.count = 0
        self.other_statuses = Counter()         # how many traces have which; "-": none
        self.messages = Counter()               # how many failed with which error message
        self.failed_scores = 0                  # how many are labelled fail
        self.evaluators = set()                 # whose scores were found, measured or not
        self._chosen = evaluators
        self.measured = {                       # by source and evaluator (None: all that count)
            source: defaultdict(functools.partial(Measurements, severities.get(source, severity)))
            for source in sources or {metric.source for metric in METRICS}}

    def add(self, trace):
        self.count += 1
        if "errors" in self.measured:
            self.measured["errors"][None].add(trace, self.error(trace["status"]))
        for source, key in AMOUNTS:
            if source in self.measured:
                self.measured[source][None].add(trace, to_amount(trace.get(key)))
        if trace.get("error_message"):          # a span's
            self.add_message(trace["error_message"])
        if trace.get("scores"):
            self._add_scores(trace, newest_scores(trace["scores"]))

    def add_message(self, message):
        self.messages[truncate(printable(message), MAX_MESSAGE)] += 1

    def row(self, keys=(), evaluators=None) -> dict:
        """A flat record. keys: (key, value) pairs of its group; evaluators: by default all."""
        keys = dict(keys)
        group = " / ".join("-" if value is None else value for value in keys.values())
        row = {"group": group or "all", **keys, "count": self.count}
        names = sorted(self.evaluators) if evaluators is None else evaluators
        for metric, name in [(metric, name) for name in [None, *names] for metric in METRICS
                             if name is None or metric.needs_scores]:
            measured = self.measurements(metric, name)
            value = plain_value(metric.summarize(measured)) if measured.traces else None
            row[metric.key_of(name)], row[metric.coverage_key(name)] = value, measured.traces
        messages = self.messages.most_common(1) or [(None, None)]
        row["error_message"], row["error_message_count"] = messages[0]
        return row

    def measurements(self, metric, evaluator=None) -> Measurements:
        """Those of a Metric; evaluator: whose scores, None for all that count."""
        return self.measured.get(metric.source, {}).get(evaluator, Measurements())

    def error(self, status):
        """1 for ERROR, 0 for OK; None for any other, which is counted."""
        name = status if status in ("OK", "ERROR") else printable(status or None).upper()
        if name in ("OK", "ERROR"):
            return int(name == "ERROR")
        name = truncate(name, 40)
        is_listed = name in self.other_statuses or len(self.other_statuses) < MAX_OTHER_STATUSES
        self.other_statuses[name if is_listed else "…"] += 1

    def status_remarks(self) -> list:
        return [f"{counted(count, 'trace')} {'has' if count == 1 else 'have'} "
                + ("no status." if status == "-" else f"the status {status}.")
                for status, count in self.other_statuses.items()]

    def _add_scores(self, trace, scores):
        by_evaluator = {}
        for score in scores:
            by_evaluator.setdefault(str(score.get("evaluator") or "-"), []).append(score)
        self.evaluators.update(by_evaluator)
        by_evaluator[None] = scores if self._chosen is None else [
            score for name in set(self._chosen) for score in by_evaluator.get(name, ())]
        self.failed_scores += list(map(label_of, by_evaluator[None])).count("fail")
        scored, failed = map(self.measured.get, ("scores", "failures"))
        for evaluator, group in by_evaluator.items():
            if scored is not None:
                scored[evaluator].add(trace, *[to_number(each.get("score")) for each in group])
            if failed is not None:
                labels = list(filter(None, map(label_of, group)))
                failed[evaluator].add(trace, int("fail" in labels) if labels else None)


def label_of(score) -> str:
    """A score's label in lower case; "" if it has none."""
    label = score.get("label")
    return label.strip().lower() if isinstance(label, str) else ""


def newest_scores(scores) -> list:
    """Those of a trace's scores that no newer one of the same span and evaluator replaces."""
    groups, kept = {}, []
    for score in scores if len(scores) > 1 else ():
        key = (str(score.get("span_id")), str(score.get("evaluator")))
        groups.setdefault(key, []).append(score)
    if len(groups) in (0, len(scores)):
        return scores               # nearly always; times take time
    for group in groups.values():
        times = [parse_timestamp(score.get("created_at")) for score in group]
        newest = max([seconds for seconds in times if seconds is not None], default=None)
        kept += [score for score, seconds in zip(group, times) if seconds in (None, newest)]
    return kept


class Metric(Struct):
    """What is measured in traces, in which direction a limit of it holds, and how it looks."""
    title: str                      # of the check
    format_value: object            # (number, extra digits) -> text
    source: str = None              # the attribute of TraceStats that has its Measurements
    summarize: object = None        # makes one number of them
    key: str = None                 # of the records of traces stats
    heading: str = None             # in its table
    optional: bool = True           # left out of a table that is too wide
    regression: str = None          # its unit: "%" of a baseline, "pp" of a rate, "" of a score
    is_minimum: bool = False
    worst_text: str = None          # what is shown for the value of a trace: by default itself
    needs_scores: bool = False      # its limit is (evaluator or None for all, number)
    # Its option of traces check, which is repeatable and takes NAME= if it needs scores:
    option: str = ""
    help: str = ""
    parse: object = None

    def holds(self, value, limit) -> bool:
        """Whether a number is within a limit, both written as decimals: 0.1 + 0.2 is within 0.3."""
        tolerance = 1e-12 * max(1e-3, abs(limit))
        if self.source == "scores" and not is_score(value):
            return False
        return value >= limit - tolerance if self.is_minimum else value <= limit + tolerance

    def key_of(self, evaluator) -> str:
        """Its key in the rows of traces stats; evaluator: None for the scores of all."""
        return f"{self.key}.{evaluator}" if evaluator else self.key

    def coverage_key(self, evaluator) -> str:
        """The key of the number of traces that it was measured in."""
        return f"{self.source}_measured" + (f".{evaluator}" if evaluator else "")

    def worst_allowed(self, baseline, share):
        """The limit that lets the value of a baseline get worse by a share; None without both."""
        if None in (baseline, share):
            return None
        change = share * baseline if self.regression == "%" else share
        return plain_value(baseline - change if self.is_minimum else baseline + change)

    def change(self, baseline, value):
        """From the value of a baseline to another, as a share or in points; None if unknown."""
        unit = baseline if self.regression == "%" else 1
        is_known = unit and None not in (baseline, value)
        return plain_value((value - baseline) / unit, 12) if is_known else None

    def change_text(self, change) -> str:
        """+12%, +3pp, or -0.05 of a score; - if unknown."""
        if change is None:
            return "-"
        return plain_number(change * (100 if self.regression else 1) + 0, "+.3g") + self.regression


def plain_value(number, digits=15):
    """A measured number without what only its binary form adds: 0.3, 1200, 0 for -0.0."""
    value = to_number(f"{number:.{digits}g}")
    return None if value is None else value + 0     # None: too large to be meant


P50, P95, P99 = [functools.partial(Measurements.percentile, percent=each) for each in (50, 95, 99)]
METRICS = (                         # of traces stats and check; a new one is one more entry
    Metric("error rate", format_percent, "errors", Measurements.mean, "error_rate", "Errors", False,
           "pp", worst_text="ERROR", option="--max-error-rate SHARE", parse=parse_share,
           help="maximum share of traces with status ERROR, e.g. 2% or 0.02"),
    Metric("lowest score", format_score, "scores", Measurements.lowest, "lowest_score", "Lowest",
           is_minimum=True, needs_scores=True, option="--min-score [NAME=]SCORE...",
           parse=parse_score, help="minimum of every score, e.g. 0.5 or faithfulness=0.8"),
    Metric("average score", format_score, "scores", Measurements.mean, "average_score", "Score",
           regression="", is_minimum=True, needs_scores=True, parse=parse_score,
           option="--min-average-score [NAME=]SCORE...", help="minimum average of the scores"),
    Metric("fail rate", format_percent, "failures", Measurements.mean, "fail_rate", "Fails",
           regression="pp", needs_scores=True, worst_text="fail", parse=parse_share,
           option="--max-fail-rate [NAME=]SHARE...", help="maximum share of traces labelled fail"),
    Metric("p50 duration", format_duration, "durations", P50, "p50_ms", "P50", False),
    Metric("p95 duration", format_duration, "durations", P95, "p95_ms", "P95", False,
           "%", option="--max-p95 TIME", parse=parse_duration, help="maximum p95 duration (8s)"),
    Metric("p99 duration", format_duration, "durations", P99, "p99_ms", "P99", False),
    Metric("average duration", format_duration, "durations", Measurements.mean,
           "average_duration_ms", "Average"),
    Metric("highest cost", format_cost, "costs", Measurements.highest, "highest_cost_usd",
           "Highest", option="--max-cost USD", parse=parse_usd, help="maximum cost of a trace"),
    Metric("total cost", format_cost, "costs", Measurements.total, "total_cost_usd", "Cost", False,
           option="--max-total-cost USD", help="maximum cost of all traces", parse=parse_usd),
    Metric("average cost", format_cost, "costs", Measurements.mean, "average_cost_usd", "Avg cost",
           regression="%"),
    Metric("tokens", format_count, "tokens", Measurements.total, "total_tokens", "Tokens"))
THRESHOLDS = tuple(metric for metric in METRICS if metric.option)
TRACE_COUNT = Metric("count", format_count, key="count", is_minimum=True, option="--min-count N")
BASELINE_COUNT = Metric("count of the baseline", format_count, is_minimum=True)
CHECK_COLUMNS = tuple(Column(key.title(), key) for key in (
    "check", "measured", "threshold", "verdict", "traces"))
COMPARED_COLUMNS = tuple(Column(key.title().replace("Threshold", "Limit"), key) for key in (
    "check", "baseline", "measured", "change", "threshold", "verdict", "traces"))


class CheckResult(Struct):
    """What was measured for a threshold, and whether it holds."""
    metric: Metric
    limit: float                    # None: it is only compared, or the baseline's is not known
    value: float                    # None: it could not be measured
    passed: bool                    # None: not enough data for a verdict
    traces: int = None              # in how many it was measured
    evaluator: str = None           # whose scores count; None for all
    worst: list = ()                # those of Measurements.worst that are beyond the limit
    coverage: str = ""              # such as "measured in 2 of 40 traces", if not in all
    is_compared: bool = False       # with that of a baseline
    baseline: float = None          # its value there
    regression: float = None        # the share that it may be worse by; None: it is only compared

    def __init__(self, *values, **named):
        super().__init__(*values, **named)
        metric, evaluator = self.metric, self.evaluator
        self.title = f"{metric.title} of {evaluator}" if evaluator else metric.title
        flag = metric.option.lstrip("-").partition(" ")[0] or metric.title
        self.option = f"{flag} {evaluator}" if evaluator else flag
        format_value = metric.format_value
        sign, limit_text = "≥" if metric.is_minimum else "≤", None
        self.measured_text = format_value(self.value)
        self.change = metric.change(self.baseline, self.value)
        if self.regression is not None:
            self.option = f"max-regression of {self.title}"
            limit_text = metric.change_text(-self.regression if sign == "≥" else self.regression)
        elif self.limit is not None:
            _, limit_text = distinct_texts(format_value, self.limit, self.limit)
        self.name = f"{self.option} {sign} {limit_text}"    # the same, whatever is measured
        if self.passed is False and self.regression is None:
            self.measured_text, limit_text = distinct_texts(format_value, self.value, self.limit)
        self.threshold_text = f"{sign} {limit_text}" if limit_text else "-"
        self.has_verdict = self.regression is not None or not self.is_compared

    def record(self) -> dict:
        compared = {"baseline": self.baseline, "change": self.change} if self.is_compared else {}
        return {"check": self.title, "limit": self.limit, "measured": self.value, **compared,
                "traces": self.traces, "passed": self.passed, "worst": self.worst}

    def row(self) -> dict:
        """What tables and reports show: text for each of COMPARED_COLUMNS."""
        no_verdict = "NOTHING TO CHECK" if self.value is None else "TOO FEW"
        return {"check": printable(self.title), "measured": self.measured_text,
                "baseline": self.metric.format_value(self.baseline),
                "change": self.metric.change_text(self.change),
                "threshold": self.threshold_text, "traces": format_count(self.traces),
                "verdict": {True: "OK", False: "FAILED", None: no_verdict}[self.passed]
                if self.has_verdict else "-"}

    def worst_lines(self) -> list:
        """Two lines for each: "9.0s  checkout-agent: Connection reset by peer", and its command."""
        lines = []
        for each in self.worst:
            value = self.metric.format_value(each["value"])
            if self.regression is None:
                value, _ = distinct_texts(self.metric.format_value, each["value"], self.limit)
            texts = filter(None, [each["name"], each["error_message"]])
            text = f"{self.metric.worst_text or value}  {': '.join(map(printable, texts))}"
            lines += [truncate(text, MAX_MESSAGE), f"  {each['command']}"]
        return lines

    def sentence(self) -> str:
        """Such as "failed: measured 4.8s, threshold ≤ 3.0s"."""
        verdict = self.row()["verdict"].lower()
        text = f"{verdict}: measured {self.measured_text}, threshold {self.threshold_text}"
        if self.regression is not None and self.baseline is not None:
            text += f" from {self.metric.format_value(self.baseline)}"
        return f"{text} ({self.coverage})" if self.coverage and self.traces else text


# --- groups and baselines

def time_label(seconds, unit):
    """The start of a day or hour, as ISO 8601 in UTC; None if unknown."""
    if seconds is None:
        return None
    return wire_timestamp(seconds)[:10] if unit == DAY else wire_timestamp(seconds)[:13] + ":00Z"


GROUP_KEYS = {                      # --by of traces stats: a record's value, or a list of them
    "name": lambda record: record["name"],
    "status": lambda record: record["status"],
    "tag": lambda record: record.get("tags"),
    "session": lambda record: record.get("session_id"),
    "day": lambda record: time_label(SORT_KEYS["created"](record), DAY),
    "hour": lambda record: time_label(SORT_KEYS["created"](record), HOUR),
    "model": lambda record: record.get("model"),
    "evaluator": lambda record: [each.get("evaluator") for each in record.get("scores") or ()]}
TIME_KEYS = {"day": DAY, "hour": HOUR}
SPAN_VALUES = ("status", "duration_ms", "cost_usd", "total_tokens", "model", "error_message")
REST = "…"                          # the value of all groups beyond MAX_GROUPS


def group_values(record, key) -> list:
    """The texts that a key of GROUP_KEYS has in a record, each once; None for what is missing."""
    value = GROUP_KEYS[key](record)
    texts = [None if each in (None, "") else str(each)[:MAX_MESSAGE]
             for each in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(texts)) or [None]


class TraceGroups(Struct):
    """The traces of a scan by group, and the spans of some of them."""
    scan: TraceScan
    by: list                        # keys of GROUP_KEYS; if empty, all are one group
    sample_size: int                # traces whose spans are read, at most
    candidates = 0                  # traces whose spans tell something: by model all, else failed
    spans_read = requests = 0       # traces whose spans were read; with how many requests
    failure = None                  # why error messages could not be read

    def read(self):
        """Reads the traces, and returns itself. Raises Failure."""
        from heapq import nsmallest
        from random import Random
        random = Random(0)          # the same traces give the same sample
        self.groups = {}            # {values of the keys: TraceStats}
        self.statuses = TraceStats(names_worst=False)
        self.by_model = "model" in self.by
        # With a size of 0, it would not even read the traces.
        sample = nsmallest(self.sample_size or 1, self._candidates(), lambda _: random.random())
        self.failure = result_or_failure(self._read_spans, [
            each for _, each in sorted(sample[:self.sample_size])])
        self.evaluators = sorted(set().union(*[each.evaluators for each in self.groups.values()]))
        if self.failure and self.by_model:
            raise self.failure
        return self

    def _candidates(self):
        """Adds each trace to its groups; yields (number, ID) of those whose spans are wanted."""
        for trace in self.scan:
            is_failed = trace["status"] != "OK" and self.statuses.error(trace["status"])
            for stats in () if self.by_model else self._groups_of(trace):
                stats.add(trace)
            if not (is_failed or self.by_model):
                continue
            if self.scan.client.is_file and isinstance(trace.get("spans"), list):
                self._add_spans(trace)
            elif self.by_model and self.scan.client.key:
                raise self.scan.client.cannot_read("spans")
            else:
                self.candidates += 1
                yield self.candidates, str(trace["id"])

    def _read_spans(self, trace_ids):
        """Adds what spans tell of these traces. Raises Failure."""
        client = self.scan.client
        before = client.requests
        for answer in client.whole_traces(trace_ids, self.scan.query.project):
            self.requests = client.requests - before
            if not isinstance(answer, Failure):
                self.spans_read += 1
                self._add_spans(to_record(resource_object(answer), "trace"))
            elif not isinstance(answer, TooLarge) and answer.code != "NOT_FOUND":
                raise answer        # the others: too large by itself, or deleted meanwhile

    def _groups_of(self, record):
        """The TraceStats of each group that a record is in; the rest is one group, too."""
        from itertools import product
        found = {}
        for values in product(*[group_values(record, key) for key in self.by]):
            if values not in self.groups and len(self.groups) >= MAX_GROUPS:
                values = (REST,) * len(values)
            if values not in self.groups:
                named = dict(zip(self.by, values))
                self.groups[values] = TraceStats(
                    [named["evaluator"] or "-"] if "evaluator" in named else None, False)
            found[values] = self.groups[values]
        return found.values()

    def _add_spans(self, trace):
        message = first_error_message(trace)
        for stats in self._groups_of(trace) if message and not self.by_model else ():
            stats.add_message(message)
        for span in child_records(trace, "spans") if self.by_model else ():
            record = dict(trace, scores=(), **{key: span.get(key) for key in SPAN_VALUES})
            for stats in self._groups_of(record) if span.get("model") else ():
                stats.add(record)

    def remarks(self) -> list:
        """What to know besides, in lines: what was not measured, and what was read of a sample."""
        remarks = self.statuses.status_remarks()
        count = sum(stats.count for stats in self.groups.values())
        for source in ("durations", "costs"):
            known = sum(stats.measured[source][None].traces for stats in self.groups.values())
            if known < count:
                remarks.append(f"{source.capitalize()} are known for {known:,} of {count:,}.")
        candidates = counted(self.candidates, "trace" if self.by_model else "failed trace")
        if self.failure:
            remarks.append(f"Error messages are incomplete: {self.failure.message}.")
        if self.spans_read or self.requests and not self.failure:
            remarks.append(f"Read the spans of {self.spans_read:,} of {candidates} in "
                           f"{counted(self.requests, 'request')}; see --sample.")
        if self.by_model and self.spans_read < self.candidates:
            remarks.append("Counts, costs and tokens are those of these traces only.")
        if len(self.groups) > MAX_GROUPS:
            remarks.append(f"More than {MAX_GROUPS:,} groups: {REST} stands for the rest.")
        return remarks

    def rows(self) -> list:
        if self.by in (["day"], ["hour"]):
            self._fill_gaps(TIME_KEYS[self.by[0]])
        return [stats.row(zip(self.by, key), self.evaluators) for key, stats in self.groups.items()]

    def _fill_gaps(self, unit):
        """Adds a group without traces for each other day or hour, see time_label()."""
        query = self.scan.query
        times = [parse_timestamp(f"{label[:10]}T{label[11:13] or '00'}:00:00Z")
                 for label, in self.groups if label not in (None, REST)]
        if times and query.since:
            now = self.scan.client.transport.start_time
            times += [query.earliest, min(query.latest or now, now)]
        if times and max(times) - min(times) <= MAX_GROUPS * unit:
            for seconds in range(int(min(times) // unit * unit), int(max(times)), unit):
                self.groups.setdefault((time_label(seconds, unit),), TraceStats(names_worst=False))


def sorted_rows(rows, by, metric=None) -> list:
    """Rows of traces stats, those with the worst value first; by default by time or by count."""
    if metric is None and TIME_KEYS.keys() & by:
        return sorted(rows, key=lambda row: [(row[key] is None, row[key] or "") for key in by])
    metric = metric or TRACE_COUNT
    sign = 1 if metric.needs_scores and metric.is_minimum else -1
    return sorted(rows, key=lambda row: (
        row[metric.key] is None, sign * (row[metric.key] or 0), -row["count"], row["group"]))


def comparisons(baseline, row, evaluators=None):
    """Yields (metric, evaluator or None, earlier value, value) that two rows are compared by."""
    # Of scores, the average of each evaluator, and the fail rate of all or of the chosen ones.
    names = evaluators or sorted({key.partition(".")[2] for key in {**baseline, **row}
                                  if key.startswith("average_score.")})
    for metric in [each for each in METRICS if each.regression is not None]:
        is_named = metric.is_minimum or evaluators and metric.needs_scores
        for name in names if is_named else [None]:
            earlier, value = [each.get(metric.key_of(name)) for each in (baseline, row)]
            is_known = earlier is not None or value is not None
            if is_known or not metric.needs_scores or evaluators and metric.is_minimum:
                yield metric, name, earlier, value


def pairs_of(baseline, rows, by):
    """Yields (row of the baseline, row) of each group of traces stats that one of them has."""
    earlier = {tuple(row.get(key) for key in by): row for row in baseline}
    for row in rows:
        yield earlier.pop(tuple(row[key] for key in by), {"count": 0}), row
    for row in earlier.values():
        yield row, dict({key: row[key] for key in by}, group=row["group"], count=0)


def small_remarks(pairs) -> list:
    """A line if one side of some comparisons is small; pairs: (row of the baseline, row)."""
    is_small = any(min(row["count"] for row in pair) < SMALL_SAMPLE for pair in pairs)
    remark = f"Fewer than {SMALL_SAMPLE} traces on a side: differences may be chance."
    return [remark] if is_small else []


def baseline_fault(rows, by):
    """Why a value cannot be the JSON of traces stats --by these keys; None if it can."""
    keys = {"group", "count"}.union(*[{each.key, each.coverage_key(None)} for each in METRICS])
    if type(rows) is not list or not all(type(row) is dict and keys <= row.keys() for row in rows):
        return "it is not what 'traces stats --json' writes without --fields"
    if any([key for key in row if key in GROUP_KEYS] != by for row in rows):
        return "it was written with another --by"
    groups = [tuple(row[key] for key in by) for row in rows]
    if any(type(each) not in (str, type(None)) for group in groups for each in group) or (
            len(set(groups)) < len(groups)):
        return "a group is no text, or occurs twice"
    metrics = {metric.key: metric for metric in METRICS}
    for key, value in [item for row in rows for item in row.items()]:
        name = key.partition(".")[0]
        metric, is_count = metrics.get(name), name == "count" or name.endswith("_measured")
        least = -ALL if metric and metric.needs_scores else 0
        most = 1 if metric and metric.regression == "pp" else ALL
        is_number = type(value) in (int, float) and is_within(value, least, most)
        is_valid = is_number and value % 1 == 0 if is_count else is_number or value is None
        if (metric or is_count) and not is_valid:
            return f"'{printable(key)}' is {to_json(value, levels=0)}"
    return None


class Gate(Struct):
    """Thresholds that the traces of a scan are compared with."""
    scan: TraceScan
    checks: list                    # (Metric, limit) pairs
    baseline: dict                  # the row of traces stats that it is compared with, or None
    args: Arguments                 # of traces check
    project = None                  # the ID of the traces' project

    def run(self) -> Details:
        """Reads the traces, and compares them with the thresholds. Raises Failure."""
        self.evaluators, self.min_count = self.args.evaluator, self.args.min_count or 1
        sources = None if self.baseline else {metric.source for metric, _ in self.checks}
        self.stats = TraceStats(self.evaluators, sources=sources)
        for trace in self.scan:
            self.stats.add(trace)
            self.project = self.scan.query.project or trace.get("project_id")
        self.row = self.stats.row()
        self.results = [self._check(metric, *limit) if metric.needs_scores
                        else self._check(metric, None, limit) for metric, limit in self.checks]
        self.results.append(self._count_check(TRACE_COUNT, self.row))
        if self.baseline:
            self.results.append(self._count_check(BASELINE_COUNT, self.baseline))
            for metric, name, earlier, _ in comparisons(self.baseline, self.row, self.evaluators):
                # A new evaluator is no regression.
                is_new = earlier is None and name and not self.evaluators
                share = None if is_new else self.args.max_regression
                limit = metric.worst_allowed(earlier, share)
                self.results.append(self._check(metric, name, limit, True, earlier, share))
        self.judged = [each for each in self.results if each.has_verdict]
        self._explain()
        return self._details()

    def _count_check(self, metric, row) -> CheckResult:
        count = row["count"]        # too few are no verdict
        return CheckResult(metric, self.min_count, count, count >= self.min_count or None, count)

    def _check(self, metric, evaluator, limit, *compared) -> CheckResult:
        """What was measured; no verdict without a limit, or if measured in too few traces."""
        value = self.row.get(metric.key_of(evaluator))
        worst = [each for each in self.stats.measurements(metric, evaluator).worst
                 if limit is not None and not metric.holds(each["value"], limit)]
        if worst and metric.source == "scores" and not is_score(worst[0]["value"]):
            value = worst[0]["value"]           # fails, whatever the other scores are
        passed = None if None in (value, limit) else metric.holds(value, limit)
        coverage = []
        for side, row in [("", self.row)] + [("baseline: ", self.baseline)] * bool(compared):
            measured = row.get(metric.coverage_key(evaluator), 0)
            text = f"{side}measured in {measured:,} of {counted(row['count'], 'trace')}"
            if passed and measured < (self.args.min_coverage or 0) * row["count"] - 1e-9:
                passed = None
                text += f", below --min-coverage {format_percent(self.args.min_coverage)}"
            coverage += [text] if measured < row["count"] else []
        return CheckResult(
            metric, limit, value, passed, self.row.get(metric.coverage_key(evaluator), 0),
            evaluator, worst if passed is False else [], "; ".join(coverage), *compared)

    def _explain(self):
        """Adds to the worst traces their commands, and their error messages if they can be read."""
        import shlex
        from itertools import chain, zip_longest
        # The worst of each check come first: for so many, messages are asked for in one batch.
        rows = zip_longest(*[result.worst for result in self.results])
        worst = list(filter(None, chain.from_iterable(rows)))
        trace_ids = list({each["trace_id"]: None for each in worst})[:MAX_WORST]
        answers = self.scan.client.whole_traces(trace_ids, self.scan.query.project)
        messages = {trace_id: first_error_message(to_record(answer, "trace"))
                    for trace_id, answer in zip(trace_ids, result_or([], list, answers))}
        flag, place = ("--from", self.args.source) if self.args.source else ("--url", self.args.url)
        options = ["--project", printable(self.project)] if self.project else []
        options += [] if place in (None, "-") else [flag, place]
        for each in worst:
            name = each["trace_id"]
            each["error_message"] = messages.get(name, each["error_message"])
            # One that begins with - must not be taken for an option.
            words = options + ["--", name] if name.startswith("-") else [name] + options
            each["command"] = " ".join(map(shlex.quote, ["twosignal", "traces", "get"] + words))

    def _details(self) -> Details:
        """The verdict, a table of the checks, and the worst traces of those that failed."""
        verdicts = [each.passed for each in self.judged]
        verdict, code, colour = "Passed", 0, GREEN
        if False in verdicts:       # goes before a check without data
            verdict, code, colour = "Failed", EXIT_CODES["CHECK_FAILED"], RED
        elif None in verdicts:
            verdict, code, colour = "Not enough data", EXIT_CODES["NOTHING_TO_CHECK"], ""
        record = {"passed": code == 0, "traces": self.stats.count,
                  "checks": [each.record() for each in self.results]}
        columns = COMPARED_COLUMNS if self.baseline else CHECK_COLUMNS
        rows = [each.row() for each in self.results]
        parts = [("Checks", Listing("checks", columns, rows, order="fixed"))]
        for each in [result for result in self.results if result.worst]:
            parts.append((f"Worst traces: {printable(each.title)} {each.threshold_text}",
                          Text("\n".join(each.worst_lines() + [""]))))
        message = f"{verdict} ({counted(self.stats.count, 'trace')} checked)."
        return Details(record, (), parts, message, colour=colour,
                       checks=self.judged, listing=Listing("checks", columns, record["checks"]),
                       conclude=lambda: Outcome(self.remarks(), exit_code=code))

    def remarks(self) -> list:
        """What to know besides, in lines: what was not measured, and how to get more data."""
        stats = self.stats
        remarks = [f"{each.option}: {each.coverage}" for each in self.judged if each.coverage]
        remarks += stats.status_remarks()
        if stats.failed_scores and "failures" not in [each.metric.source for each in self.judged]:
            remarks.append(f"Found {counted(stats.failed_scores, 'score')} labelled fail, but no "
                           "check looks at labels. Use --max-fail-rate.")
        lacking = any(each.value is None and each.metric.needs_scores for each in self.results)
        if stats.evaluators and (lacking or set(self.evaluators or ()) - stats.evaluators):
            names = ", ".join(sorted(map(printable, stats.evaluators)))
            remarks.append(f"There are scores from: {names}.")
        if self.baseline:
            remarks += small_remarks([(self.baseline, self.row)])
            if not any(map(self.baseline.get, ("scores_measured", "failures_measured"))):
                remarks.append("The baseline has no scores: none were compared.")
        way = "Use an earlier --since or relax the filters." if stats.count < self.min_count else ""
        return remarks + [f"{self.scan.scan_remark()} {way}".strip()]


def first_error_message(trace):
    """The message of the first span that failed, of the record of a trace; or None."""
    spans = get_item(trace, "spans")
    failed = [span for span in (spans if isinstance(spans, list) else ())
              if isinstance(span, dict) and str(span.get("status")).upper() != "OK"
              and isinstance(span.get("error_message"), str) and span["error_message"].strip()]
    failed.sort(key=lambda span: parse_timestamp(span.get("start_time")) or ALL)
    return failed[0]["error_message"] if failed else None


class GateReport(Struct):
    """Where a gate reports besides its output: a JUnit file, and GitHub Actions."""
    console: Console
    title: str                      # such as "twosignal traces check"
    selection: list                 # what it examines, as it was given
    path: str                       # of the JUnit file, or ""
    is_gate: bool                   # otherwise there is nothing to report to GitHub
    results = ()                    # CheckResults
    failure = None                  # or why there are none

    def __enter__(self):
        self.started = self.console.clock.monotonic()
        if self.path:
            from contextlib import ExitStack
            # Opened first: a file that cannot be written is an error before anything is asked.
            with ExitStack() as opened:
                self.file = opened.enter_context(output_file(self.path))
                if isinstance(self.file, AtomicFile):
                    remove_file(self.file.target)   # no earlier verdict stays, however this ends
                self.opened = opened.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        if not self.results or error and kind is not BrokenPipeError:
            self.failure = error if isinstance(error, Failure) else Failure(
                "Ended without a result", code=kind.__name__ if kind else "NOTHING_TO_CHECK")
        if self.is_gate and (error or self.results) and setting("GITHUB_ACTIONS"):
            self.report_to_github()
        if self.path:
            with deferred_signals(), self.opened:
                self.file.write(self.junit_xml())

    def cases(self):
        """Yields (name, code of what is wrong or None, lines that say so) of each, masked."""
        codes = {True: None, False: "CHECK_FAILED", None: "NOTHING_TO_CHECK"}
        cases = [(each.name, codes[each.passed], [each.sentence()] + each.worst_lines())
                 for each in self.results]
        if self.failure:
            lines = filter(None, self.console.failure_lines(self.failure))
            cases = [(self.title, self.failure.code, lines)]
        masked = self.console.masked
        for name, code, lines in cases:
            name += f" ({', '.join(self.selection)})" if self.selection else ""
            yield masked(name), code, list(map(masked, lines))

    def junit_xml(self) -> bytes:
        """The report as GitLab, Jenkins and others read JUnit."""
        from xml.etree.ElementTree import Element, SubElement, tostring
        cases, title = list(self.cases()), self.console.masked(self.title)
        seconds = self.console.clock.monotonic() - self.started
        tag = "error" if self.failure else "failure"
        counts = {"name": title, "time": f"{seconds:.3f}", "tests": str(len(cases)), "errors": "0",
                  "failures": "0", tag + "s": str(sum(code is not None for _, code, _ in cases))}
        root = Element("testsuites", counts)
        suite = SubElement(root, "testsuite", counts, skipped="0")
        for name, code, lines in cases:     # measured together: each gets its share of the time
            case = SubElement(suite, "testcase", classname=title, name=name,
                              time=f"{seconds / len(cases):.3f}")
            case.tail = "\n"
            if code is not None:            # GitLab shows the body alone, others the message
                SubElement(case, tag, type=code, message=lines[0]).text = "\n".join(lines)
        # On stdout in a CI log, too, a name is no command.
        text = disarmed(tostring(root, "unicode"), "&#58;", "&#35;")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode("utf-8")

    def describe(self, screen, title=""):
        now = iso_timestamp(int(self.console.clock.time()))
        screen.title = self.console.masked(title or self.title)
        screen.subtitle = self.console.masked(", ".join([*self.selection, f"written {now}"]))

    def report_to_github(self):
        """An annotation for each check that does not hold or for the failure, and a summary."""
        document = MarkdownDocument(Screen())
        self.describe(document)
        summary = [document.start()]
        is_compared = any(each.is_compared for each in self.results)
        columns = COMPARED_COLUMNS if is_compared else CHECK_COLUMNS
        summary += [] if self.failure else document.table(
            Listing("checks", columns, [each.row() for each in self.results]))
        for name, code, lines in self.cases():
            if code is not None:
                lines[0] = f"{name}: {lines[0]}"
                summary.append(document.preformatted("\n".join(lines)))
                text = "%0A".join(line.replace("%", "%25") for line in lines)
                self.console.say(text, ci_command=f"::error title={self.title}::")
        try:
            path = to_path(setting("GITHUB_STEP_SUMMARY") or os.devnull)
            with open(path, "a", encoding="utf-8") as file:
                file.write("".join(summary))
        except OSError as error:
            self.console.tell(f"Cannot write GITHUB_STEP_SUMMARY: {os_reason(error)}")


# --- waiting

class WaitProgress(Struct):
    """What traces wait has found so far."""
    client: Client
    console: Console
    find_query: object              # returns the TraceQuery; it may ask the server for IDs
    wanted: int                     # traces
    scored: bool                    # only those that the evaluators have scored
    named: list                     # the evaluators, if not all: see awaited_evaluators
    # The state so far:
    found = None                    # traces, at most `wanted`; None: the server never answered
    query = evaluators = None

    def wait(self, timeout):
        """Polls for so many seconds. Returns the last poll's Failure, or None; may raise one."""
        clock, transport = self.console.clock, self.client.transport
        self.missing = {}           # evaluator: how many of the newest traces it has not scored
        self.lacking = {}           # ID of a trace: the evaluators that have not scored it
        self.started = clock.monotonic()
        deadline = self.started + timeout       # when the last poll begins
        transport.until = deadline + 1
        failure, pause = None, 1.0
        while True:
            error = result_or_failure(self.poll)
            if error and not error.is_retryable:
                raise error         # no later poll can change it
            now = clock.monotonic()
            is_cut = (error and error.code == "TIMED_OUT" and now >= transport.until
                      and self.found is not None)
            failure = failure if is_cut else error      # cut short, it says nothing new
            if now >= deadline or self.found == self.wanted:
                return failure
            self.console.tell_once(f"{error.message}. Trying again." if error else "")
            if self.found is not None:
                self.console.status(self.status(), self.started)
            clock.sleep(min(deadline - now, max(error and error.retry_after or 0, pause)))
            pause = min(pause * 1.5, 15.0)

    def status(self) -> str:
        return f"{self.found:,} of {self.wanted:,} traces {'scored' if self.scored else 'arrived'}"

    def poll(self):
        """Asks the server once. Raises Failure; what was found before stays."""
        self.query = self.query or self.find_query()
        if self.scored and self.evaluators is None:
            self.evaluators = self.awaited_evaluators()
        self.scan = TraceScan(self.client, self.query, self.console, needed=self.wanted,
                              limit=None if self.scored else self.wanted,
                              scores=SCORES_REQUIRED if self.scored else None)
        newest, done = [], 0
        for pairs in self.scan.pages():
            trace_ids = [str(record["id"]) for _, record in pairs]
            # The scores of a trace that lacks none are not asked for again.
            for trace in self.scan.records([
                    pair for pair in pairs if self.lacking.get(str(pair[1]["id"]), True)]):
                names = {str(score.get("evaluator")) for score in child_records(trace, "scores")}
                self.lacking[str(trace["id"])] = (self.evaluators or set()) - names
            newest += trace_ids
            done += sum(not self.lacking[each] for each in trace_ids)
            self.found = min(self.wanted, max(done, self.found or 0))
            if self.found == self.wanted:
                newest = []         # nothing is missing
                break
        names = [name for each in newest[:self.wanted] for name in self.lacking[each]]
        self.missing = {name: names.count(name) for name in sorted(set(names))}

    def advice(self) -> str:
        """How many traces were scanned; after a timeout, what is missing and what to check."""
        remarks = [self.scan.scan_remark()]
        if self.found < self.wanted:
            names = [f"{name} ({counted(count, 'trace')})" for name, count in self.missing.items()]
            remarks += [f"Still waiting for scores from: {', '.join(names)}." if names else "",
                        "Check --project, --since and --tag, or allow more time with --timeout."]
        return " ".join(filter(None, remarks))

    def awaited_evaluators(self) -> set:
        """The names of the evaluators to wait for. Raises Failure if there are none."""
        if self.client.key:
            raise self.client.cannot_read("evaluators or scores")
        rows = self.client.rows("evaluator.list", {"projectId": self.query.project})
        enabled = [row for row in rows if row.get("enabled") is True]
        for name in sorted(set(self.named) - {str(row.get("name")) for row in enabled}):
            self.console.tell(f"No evaluator named '{name}' is enabled: waiting for scores that "
                              "are posted under that name.")
        # An evaluator of the type CUSTOM scores only when the user's own code posts a score.
        names = set(self.named) or {
            str(row.get("name")) for row in enabled if row.get("type") != "CUSTOM"}
        if not names:
            raise Failure("All evaluators are disabled or CUSTOM: nothing will be scored",
                          "Enable one, or name one with --evaluator.", "NOTHING_TO_CHECK")
        return names


# --- export

def redacted(value, keys, is_below=False):
    """A value with [redacted] for each text, number or boolean below some keys, at any depth."""
    if isinstance(value, dict):
        return {key: redacted(each, keys, is_below or key in keys) for key, each in value.items()}
    if isinstance(value, list):
        return [redacted(each, keys, is_below) for each in value]
    return "[redacted]" if is_below and value is not None else value


class TraceExport(Struct):
    """Writes the traces of a scan, with spans and scores, to a bundle: files and a manifest."""
    scan: TraceScan
    directory: str
    manifest: dict                  # of the bundle; one that is there must be of the same traces
    _done = frozenset()             # the trace_key()s of those that are there

    def run(self, resumes):
        """Writes what the bundle does not have yet. Raises Failure."""
        make_directory(self.directory, "Name a directory that you can write to.")
        handle = result_or(-1, os.open, self.directory, os.O_RDONLY, kinds=OSError)  # -1: Windows
        try:
            if handle >= 0 and isinstance(
                    result_or_failure(lock_handle, handle, kinds=OSError), BlockingIOError):
                raise Failure(f"Another process exports to {self.directory}",
                              "Wait for it to end, or name another directory.", "LOCKED")
            self._write_parts(resumes)
        finally:
            result_or_failure(os.close, handle, kinds=OSError)

    def _write_parts(self, resumes):
        names = result_or_failure(os.listdir, self.directory, kinds=OSError)
        if isinstance(names, OSError):
            raise unwritable_file(self.directory, names, OUTPUT_HINT)
        left = [name for name in names if name.startswith(AtomicFile.prefix)]
        if len(left) < len(names):
            self._resume(resumes)
        for name in left:           # of an export that was killed
            remove_file(os.path.join(self.directory, name))
        records = self._new_records()
        try:
            while not self.manifest["complete"]:
                self._write_part(records)
            self._save()
        except BaseException:
            if "since" in self.manifest:
                self.scan.console.tell(f"{self.directory} is incomplete. To continue, run the "
                                       "command again with --resume.")
            raise

    def _resume(self, resumes):
        """Reads what is in the bundle. Raises a usage error if it is not of the same traces."""
        if not resumes:
            raise usage_error(f"{self.directory} is not empty",
                              "Name another directory, or continue an export with --resume.")
        manifest = read_manifest(self.directory)
        for key in ("server", "project", "filters", "redacted"):
            if manifest.get(key) != self.manifest[key]:
                raise usage_error(
                    f"{self.directory} was begun with {key} {json.dumps(manifest.get(key))}",
                    "Repeat the options of its first run, or name another directory.")
        self._done = {trace_key(trace) for part in manifest["files"]
                      for trace in RecordFile(verified_part(self.directory, part))}
        self.manifest, query = manifest, self.scan.query
        times = [parse_timestamp(manifest.get(key)) for key in ("since", "until")]
        query.since, query.until = [each and When(each) for each in times]      # of the first run

    def _new_records(self):
        query = self.scan.query
        for pairs in self.scan.pages():
            if "since" not in self.manifest:
                self.manifest.update(since=query.earliest and wire_timestamp(query.earliest),
                                     until=query.latest and wire_timestamp(query.latest))
                self._save()
            for record in self.scan.records([
                    pair for pair in pairs if trace_key(pair[1]) not in self._done]):
                keys = self.manifest["redacted"]
                yield redacted(record, keys) if keys else record

    def _write_part(self, records):
        """Writes as many records as a file takes; those that were read, however it ends."""
        rows, size = [], 0          # (line, numbers of spans and of scores)
        try:
            for record in records:
                text = json.dumps(record, ensure_ascii=False) + "\n"
                line = text.encode("utf-8", "backslashreplace")     # lone surrogates are \ud800
                rows.append((line, len(record["spans"]), len(record["scores"])))
                size += len(line)
                if len(rows) == PART_TRACES or size > PART_CHARACTERS:
                    break
            else:
                self.manifest["complete"] = True
        finally:
            if rows:
                with deferred_signals():        # one would spoil what is being compressed
                    self._save_part(*zip(*rows))

    def _save_part(self, lines, spans, scores):
        import gzip
        from hashlib import sha256
        packed = io.BytesIO()
        with gzip.GzipFile("", "wb", 6, packed, mtime=0) as file:
            file.writelines(lines)
        content, name = packed.getvalue(), PART_NAME.format(len(self.manifest["files"]) + 1)
        counts = dict(traces=len(lines), spans=sum(spans), scores=sum(scores), bytes=len(content))
        self._write(name, content)
        self.manifest["files"].append(dict(counts, name=name, sha256=sha256(content).hexdigest()))
        self.manifest.update({key: self.manifest[key] + counts[key] for key in counts})
        self._save()

    def _save(self):
        self._write(MANIFEST, to_json(self.manifest, ascii_only=True).encode("ascii") + b"\n")

    def _write(self, name, content):
        path = os.path.join(self.directory, name)
        with deferred_signals(), AtomicFile(path, hint=OUTPUT_HINT, follow_links=False) as file:
            file.write(content)


# --- sending

SEND_HINT = "Send what 'traces export' writes, batches of events, or OTLP as JSON, not protobuf."
_TOKEN_KEYS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")
# What servers compute themselves, such as durations, is not sent.
_SENT_KEYS = ("id trace_id parent_span_id name type status start_time end_time input output model "
              "model_parameters error_message tags metadata session_id parent_trace_id "
              "deployment_id").split()
_ID_KEYS = set("id trace_id traceId spanId parent_span_id parentSpanId parent_trace_id "
               "parentTraceId".split())
_REQUIRED = {"trace-create": ("id", "name"), "span-create": ("trace_id", "name", "type")}
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def id_key(text) -> int:
    """What is equal for all spellings of an ID: OTLP's have no dashes."""
    return hash(str(text).replace("-", "").lower())


@functools.lru_cache(MAX_CACHED_RULES)
def camel_case(name) -> str:
    first, *words = name.split("_")
    return "".join([first, *map(str.capitalize, words)])


def event_values(record, keys, **defaults) -> dict:
    """What a record has of some keys: in snake_case, as documented, and in camelCase, as SDKs send
    it. A server ignores what it does not know."""
    defaults.update({key: record[key] for key in keys if record.get(key) is not None})
    defaults.update({camel_case(key): defaults[key] for key in defaults if "_" in key})
    return defaults


def creation_event(kind, record, **defaults) -> dict:
    body = event_values(record, _SENT_KEYS, name="unnamed", **defaults)
    if body.get("status") not in ("OK", "ERROR"):
        body.pop("status", None)    # it had not ended; no other status can be sent
    return {"id": body.get("id"), "type": kind, "timestamp": body["start_time"], "body": body}


def exported_events(file, value):
    trace = trace_record(file, value)
    started = trace.get("start_time") or trace["created_at"]
    if lacks(trace, "spans") or not started:
        raise file.unusable("is a trace without its spans or time: use 'traces export'")
    yield creation_event("trace-create", trace, start_time=started)
    for span in trace.get("spans") or ():
        tokens = event_values(span, _TOKEN_KEYS) or None
        yield creation_event("span-create", span, start_time=started, trace_id=trace["id"],
                             type="CUSTOM", **without_none(cost=span.get("cost_usd"), usage=tokens))


def batched_events(file, value):
    for event in child_records(value, "batch") if "batch" in value else [value]:
        body, required = event.get("body"), _REQUIRED.get(str(event.get("type")))
        if not required or type(body) is not dict:
            raise file.unusable("has an event without a body, or of an unknown type")
        missing = [key for key in ("id", "timestamp") if not event.get(key)] + [
            f"body.{key}" for key in required if not (body.get(key) or body.get(camel_case(key)))]
        if missing:
            raise file.unusable(f"has an event without {', '.join(missing)}")
        yield event


def otlp_spans(file, value):
    for resource in child_records(value, "resourceSpans"):
        if "scopeSpans" not in resource:        # it is no longer OTLP
            raise file.unusable("has resourceSpans without scopeSpans")
        for scope in child_records(resource, "scopeSpans"):
            for span in child_records(scope, "spans"):
                yield dict(resource, scopeSpans=[dict(scope, spans=[span])])


# What yields the events of each kind of value in a file, by a key of it, the first of which counts.
_KINDS = {"spans": exported_events, "batch": batched_events, "resourceSpans": otlp_spans,
          "body": batched_events, "id": exported_events}
_BODIES = {"/traces": b'{"batch":[%s]}', "/otel/traces": b'{"resourceSpans":[%s]}'}     # by path


class TraceSender(Struct):
    """Sends what is in files to the project of the client's API key, in batches."""
    client: Client
    console: Console
    files: list                     # RecordFiles
    namespace: object               # the UUID that new IDs are made of; None: the old ones stay
    # The state so far:
    total = accepted = 0            # events
    earliest = "A"                  # start of an event, as it is in a file
    path = place = None             # of the REST API; of the first event in the last request
    in_doubt = None                 # the place of the first request of which not all was accepted
    max_bytes = SENT_BYTES          # of a request; less once the server refuses that as too large

    def run(self, is_dry_run):
        """Sends all events, once they are checked. Raises Failure, which says what was accepted."""
        from tempfile import TemporaryFile
        started = self.console.clock.monotonic()
        try:
            with TemporaryFile() as self._spool:    # what is read once, is converted once
                self._read()
                for rows in () if is_dry_run else self._batches():
                    self._send(rows)
                    self.console.progress(self.progress(), started)
            if self.in_doubt:
                raise Failure("The server did not accept all events")
        except BaseException as error:
            is_certain = leaves_unchanged(error)
            if self.in_doubt or self.place and (self.accepted or not is_certain):
                hint = f"{error.hint} " if is_certain and error.hint else ""
                again = "makes other copies" if self.namespace else "repeats the same IDs"
                error.hint = (f"{hint}{self.progress()}; the first that may be missing is in "
                              f"{self.in_doubt or self.place}. Sending all again {again}.")
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise unwritable_file("a temporary file", error, "Free some space, or set TMPDIR.")
            raise

    def progress(self) -> str:
        return f"The server accepted {self.accepted:,} of {counted(self.total, 'event')}"

    def _read(self):
        """Converts the events in the files. Raises a usage error for one that cannot be sent."""
        self.traces = set()         # id_key()s
        for number, file in enumerate(self.files):
            for value in file:
                kind = next((key for key in _KINDS if type(value) is dict and key in value), "id")
                path = "/otel/traces" if kind == "resourceSpans" else "/traces"
                if path != (self.path or path):
                    raise file.unusable("is of another kind than those before: use two files")
                self.path = path
                try:
                    for event in _KINDS[kind](file, value):
                        content = self._converted(file, event)
                        self._spool.write(b"%d %d %s\n" % (number, file.line, content))
                except (TransientFailure, ValueError, RecursionError):
                    raise file.unusable("has no list of objects where one must be, an infinite "
                                        "number, or is nested too deeply")
                if value.get("scores"):
                    self.console.tell_once("Scores are not sent: the project's evaluators score "
                                           "the traces anew.", "scores")
        if self.files and not self.total:       # what made the file may have failed
            raise file.unusable("has nothing to send")
        self._spool.seek(0)

    def _converted(self, file, event) -> bytes:
        body = event.get("body") or event["scopeSpans"][0]["spans"][0]
        is_trace = event.get("type") == "trace-create"
        own_id = body.get("spanId") or body.get("id") or event.get("id")
        trace_id = own_id if is_trace else body.get("traceId") or body.get("trace_id")
        if not (own_id and trace_id):
            raise file.unusable("has a trace or span without an ID")
        if self.namespace:
            event, trace_id = self._renewed(event), self._new_id(trace_id)
        self.traces.add(id_key(trace_id))
        self.total += 1
        started = (body.get("startTime") or body.get("start_time")
                   or body.get("startTimeUnixNano") or event.get("timestamp"))
        self.earliest = min(self.earliest, str(started))    # to parse each would take time
        return _encode(event).encode("utf-8", "backslashreplace")       # a lone surrogate is \ud800

    def _renewed(self, value):
        """An event, or what it contains, with new IDs."""
        if isinstance(value, list):
            return list(map(self._renewed, value))
        if not isinstance(value, dict):
            return value
        renewed = {key: self._new_id(value[key]) for key in _ID_KEYS & value.keys()}
        for key in {"body", "scopeSpans", "spans", "links"} & value.keys():
            renewed[key] = self._renewed(value[key])
        return {**value, **renewed}

    def _new_id(self, text):
        from uuid import uuid5
        if text in (None, ""):      # of a parent
            return text
        found = uuid5(self.namespace, ascii(text).replace("-", "").lower())
        return str(found) if self.path == "/traces" else found.hex[:len(str(text))]

    def _batches(self):
        """Yields lists of rows, each as long as one request may be."""
        rows, size = [], 0
        for row in self._spool:
            size += len(row)
            if rows and (len(rows) == SENT_EVENTS or size > self.max_bytes):
                yield rows
                rows, size = [], len(row)
            rows.append(row)
        if rows:
            yield rows

    def _send(self, rows):
        """Sends some events; in halves if they are refused, down to the one that is at fault."""
        number, line, _ = rows[0].split(b" ", 2)
        self.place = f"{self.files[int(number)].path}, line {int(line)}"
        body = _BODIES[self.path] % b",".join(row.split(b" ", 2)[2] for row in rows)
        answer = result_or_failure(self.client.rest, "POST", self.path, body)
        if not isinstance(answer, Failure):
            accepted = get_item(answer, "accepted")
            if type(accepted) is not int:
                raise wrong_type("accepted")
            self.accepted += accepted
            if accepted != len(rows):       # it may have had the others already
                self.in_doubt = self.in_doubt or self.place
            self.client.transport.tries = MAX_BULK_TRIES    # the server works, and is only busy
            return
        if answer.code not in ("BAD_REQUEST", "UNPROCESSABLE_CONTENT", "PAYLOAD_TOO_LARGE"):
            raise answer            # what was sent is not at fault
        if len(rows) == 1:
            answer.message = f"{self.place}: {answer.message}"
            raise answer
        if isinstance(answer, TooLarge):
            self.max_bytes = len(body) // 2
        self._send(rows[:len(rows) // 2])
        self._send(rows[len(rows) // 2:])


class SentTraces(WaitProgress):
    """How many of the traces with the id_key()s in `left` are listed."""

    def poll(self):
        for pairs in TraceScan(self.client, self.query, self.console).pages():
            self.left.difference_update(id_key(record["id"]) for _, record in pairs)
            self.found = self.wanted - len(self.left)
            if not self.left:
                return


# --- tailing

class TraceTail:
    """Polls a project and returns each trace that matches once, those of a poll oldest first."""
    # A trace may match only after it has ended, or become visible late, below newer ones: each poll
    # rereads the newest page, and goes back to TAIL_OVERLAP before the last poll that did, as long
    # as there is a budget for it. A poll adds a quarter of a page to that, new traces two pages.
    def __init__(self, scan):
        self.scan = scan            # a TraceScan, for its query, matching and records
        self.has_missed = False     # the last poll that went back may have missed traces
        self._seen = {}             # hash of an ID: Unix seconds when it was made, or None
        self._matched = set()       # IDs of the seen ones that have been returned
        self._start = self._settled = -ALL  # unseen ones predate the tail; how far a poll goes back
        self._page_budget = TAIL_PAGES

    def first(self, lines) -> list:
        """The newest traces that match, of a few pages at most."""
        matching = []
        for number, page in enumerate(self.scan.query.pages(self.scan.client), 1):
            matching += self._take_new(page.traces)
            if len(matching) >= lines or number == TAIL_PAGES:
                break
        if page.has_more is not False:
            self._start = min(filter(None, self._seen.values()), default=-ALL)
        return self.scan.records(matching[:lines])[::-1]

    def poll(self) -> list:
        """What is new. Raises Failure; the next poll then returns what this one would have."""
        before = dict(vars(self), _seen=dict(self._seen), _matched=set(self._matched))
        goal = max(self._start, self._settled) if self._page_budget >= 1 else ALL   # Unix seconds
        pairs, size = [], 0
        try:
            for number, page in enumerate(self.scan.query.pages(self.scan.client), 1):
                count = len(self._seen)
                found = self._take_new(page.traces)
                pairs += found
                size += sum(len(str(pair)) for pair in found)
                new = len(self._seen) - count
                self._page_budget += 2 if new else -(number > 1)
                times = list(filter(None, map(created_seconds, page.traces)))
                if number == 1 and times and goal < ALL:    # the newest one's clock may be wrong
                    self._settled = times[len(times) // 2] - TAIL_OVERLAP
                is_full = number == TAIL_PAGES or size > TAIL_CHARACTERS
                # All of a page without a next one is new: there may have been more.
                has_missed = is_full or page.has_more is None and new == len(page.traces)
                # If no trace has a time, an unseen one behind a seen one predates the tail.
                is_enough = not times or not new and times[-1] <= goal
                if is_full or is_enough and new < len(page.traces):
                    break
            traces = self.scan.records(pairs)
        except BaseException:
            vars(self).update(before)
            raise
        self._page_budget = min(self._page_budget + 0.25, TAIL_PAGES)
        self.has_missed = has_missed or self.has_missed and goal == ALL
        self._forget_oldest()
        return traces[::-1]

    def _take_new(self, traces) -> list:
        """(wire trace, record) of those that match for the first time; remembers all."""
        current, when = [], None
        for trace in traces:
            trace_id = hash(str(trace.get("id")))       # an ID may be long
            when = created_seconds(trace) or when       # else that of the next newer one
            if trace_id in self._seen or when is None or when > self._start:
                self._seen[trace_id] = when
                if trace_id not in self._matched:
                    current.append(trace)
        pairs = self.scan.matching(current)
        self._matched.update(hash(str(trace.get("id"))) for trace, _ in pairs)
        return pairs

    def _forget_oldest(self):
        """Keeps memory flat: the older half of many traces is made to predate the tail."""
        if len(self._seen) > TAIL_MEMORY:
            # Without times, those that were seen first are the oldest.
            kept = sorted(self._seen.items(), key=lambda item: item[1] or 0)[-TAIL_MEMORY // 2:]
            self._seen = dict(kept)
            self._start = kept[0][1] or -ALL
            self._matched &= set(self._seen)


############################################################
# Commands
############################################################

ID, CREATED = Column("ID", "id"), Column("Created", "created_at", format_age, min_width=12)
NAME, TYPE, PLAN, ENABLED, DESCRIPTION, ROLE = [
    Column(key.title(), key) for key in ("name", "type", "plan", "enabled", "description", "role")]

PROJECT = Option("--project ID", "project, by ID or name; 'projects use' saves one", plain_id,
                 env="TWOSIGNAL_PROJECT", required=True, completes="projects")
FROM = Option("--from FILE", "read traces from a file, bundle or - (stdin)", to_path, name="source")
ORG = Option("--org ID", "organization, by ID or name; 'projects use' saves one", plain_id,
             env="TWOSIGNAL_ORG", required=True, completes="organizations")
ORG_FILTER = Option("--org ID", "only projects of this organization, by ID or name", plain_id,
                    env="TWOSIGNAL_ORG", completes="organizations")
Unlisted = functools.partial(Option, selects=False)     # reports do not name it
JUNIT = Unlisted("--junit FILE", "also write a JUnit report to FILE", to_path)
SHOW_SECRETS = Option("--show-secrets", "show secrets in evaluator configs instead of ***")
JSON_VALUE = ": a literal, @FILE, or - for stdin"
NEW_NAME = (Option("[NAME]", "name, unless --name gives it"),
            Option("-n, --name NAME", "name, as an option", required=True))
STATE = tuple(Option(f"--{verb}", f"{verb} it") for verb in ("enable", "disable"))
ONE_STATE = STATE[0].flags + STATE[1].flags
RENAME = Option("-n, --name NAME", "new name")
DESCRIBE = Option("-d, --description TEXT", "description", may_be_empty=True)
YES = Option("-y, --yes", "do not ask for confirmation")
PROJECT_OPERAND = Option("PROJECT", "project, by ID or name", plain_id, completes="projects")
EVALUATOR, DATASET, API_KEY = [Option("ID", f"{noun}, by ID or name", plain_id)
                               for noun in ("evaluator", "dataset", "API key")]
EVALUATOR_FILTER = Option("--evaluator NAME...", "only scores of evaluator NAME")


def chosen_project(client, args) -> str:
    """The ID of --project; with an API key the text itself, or None."""
    if client.key:                  # it cannot look names up: TraceQuery compares results
        return args.project
    return find_id(args.project, "project", lambda: visible_projects(
        client, vars(args).get("org") or setting("TWOSIGNAL_ORG")))


def given_state(args):
    return args.enable if args.enable or args.disable else None


def shown_record(wire, kind, args) -> dict:
    return to_record(wire, "" if vars(args).get("show_secrets") else kind)


def add_listing(name, kind, columns, *options):
    """Adds a command that lists a project's resources of a kind, or all: a key of RESOURCES."""
    nouns, has_project = RESOURCES[kind][0] + "s", PROJECT in options
    @command(name, *options, help=f"List the {nouns} of a project." if has_project
             else f"List your {nouns}.")
    def list_resources(client, args, console):
        values = {"projectId": chosen_project(client, args)} if has_project else None
        rows = [shown_record(row, kind, args) for row in client.rows(f"{kind}.list", values)]
        return Listing(nouns, columns, rows)


def add_showing(name, operand, kind, help_line, columns, data, *options):
    """Adds a command that shows one of a project's resources; data: its field of users' data."""
    @command(name, operand, PROJECT, *options, help=help_line)
    def show(client, args, console):
        row = stored_row(client, kind, {"projectId": chosen_project(client, args), "id": args.id})
        record = shown_record(row, kind, args)
        return Details(record, columns, [("", UserData([(data.title(), record.get(data))]))])


def add_deletion(name, operand, kind, help_line, verb="delete", parent=PROJECT):
    """Adds a command that deletes or revokes one of a kind; without --yes, it asks first."""
    @command(name, operand, parent, YES, help=help_line)
    def delete(client, args, console):
        chosen = chosen_resource(client, args, kind)
        confirm(client, args, console, kind, chosen, verb)
        client.mutate(f"{kind}.{verb}", chosen)
        return Details({"id": chosen["id"], f"{verb}d": True},
                       message=f"{verb.title()}d {RESOURCES[kind][0]} {printable(chosen['id'])}.")


def confirm(client, args, console, kind, chosen, verb, row=None):
    """Asks before what is chosen, the row, is deleted with all in it, unless --yes is given."""
    if args.yes:
        return
    console.require_terminal("--yes")
    row = row or stored_row(client, kind, chosen)
    parts = {"item": to_number(get_path(row, "_count.items"))}
    for each in ("evaluator", "dataset", "apiKey") if kind == "project" else ():
        rows = result_or([], client.rows, f"{each}.list", {"projectId": row["id"]})
        parts[RESOURCES[each][0]] = sum(not part.get("revokedAt") for part in rows)
    texts = ["traces"] if kind == "project" else []
    texts += [counted(number, noun) for noun, number in parts.items() if number]
    noun = printable(row["role"]) if kind == "member" else RESOURCES[kind][0]
    name = f'"{printable(row["name"])}" ({row["id"]})' if row.get("name") else row["id"]
    question = f"{verb.title()} {noun} {name}"
    question += f" with its {', '.join(texts)}" if texts else ""
    if verb == "remove" and "parent" in row:
        question += f' from "{row["parent"]}"'
    if kind == "apiKey":
        question += f": whatever uses it ({printable(row.get('keyPrefix'))}…) stops working"
    agree(console, question, f"{verb}d")


def agree(console, question, done):
    console.require_terminal("--yes")
    if console.read_answer(f"{question}? [y/N] ").lower() not in ("y", "yes"):
        raise Failure(f"Nothing was {done}", code="CANCELLED")


def changed(client, args, procedure, columns, verb="", read=resource_object, **values):
    """The Details of the resource that a mutation creates or changes; values: its input."""
    kind, action = procedure.split(".")
    wire = client.mutate(procedure, without_none(**values), read)
    name = wire.get("name") or values.get("name") or values.get("id")
    return Details(shown_record(wire, kind, args), columns, message=(
        f'{verb or action.title() + "d"} {RESOURCES[kind][0]} "{printable(name)}".'))


def add_change(name, procedure, help_line, *options, examples=()):
    """Adds a command that creates or changes what has a name, and maybe a description."""
    @command(name, *options, help=help_line, examples=examples)
    def change(client, args, console):
        values = {"name": args.name, "description": vars(args).get("description")}
        if set(values.values()) == {None}:
            raise usage_error("Nothing to change", "Pass --name or --description.")
        if ORG in options:
            values["organizationId"] = organization_id(client, args.org)
        elif procedure.endswith(".update"):     # the server requires the name
            kind = procedure.split(".")[0]
            values.update(chosen_resource(client, args, kind))
            values["name"] = args.name or stored_row(client, kind, values).get("name")
        elif "project" in vars(args):
            values["projectId"] = chosen_project(client, args)
        return changed(client, args, procedure, (ID, PLAN, DESCRIPTION), **values)


def chosen_resource(client, args, kind, key="id") -> dict:
    """The ID of what the operand names, and its project's, as procedures take them."""
    project = chosen_project(client, args)
    if kind == "project":
        return {"projectId": project, "id": project}
    return {"projectId": project, key: find_id(args.id, kind, lambda: (
        client.visible_rows(f"{kind}.list", [{"projectId": project}])))}


def stored_row(client, kind, chosen) -> dict:
    """The wire object of what chosen_resource() returned. Raises NOT_FOUND."""
    rows = visible_projects(client) if kind == "project" else client.rows(
        f"{kind}.list", {"projectId": chosen["projectId"]})
    return named_row(rows, chosen["id"], kind, chosen)


def warn_if_unencrypted(url, secret, console):
    if url.startswith("http:") and not is_local(url):
        console.tell(f"Warning: {url} is unencrypted: others on the network can read the {secret}.")


def connect(place, args, console, key=None) -> Client:
    """A Client for what url_and_source() returned. Raises a usage error."""
    url, source = place
    access = server_access(url, vars(args), key, console.clock)
    if source == "TWOSIGNAL_BASE_URL":
        access.url_setting = source
    for value in [key or "", *access.headers.values()]:
        console.keep_secret(*header_secrets(value))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        mask_urls("://" + os.environ[name], console.keep_secret)
    transport = Transport(args.timeout or DEFAULT_TIMEOUT, access, console.tell,
                          console.say if console.debug else None, console.clock)
    client = Client(url, transport, key, console.keep_secret)
    client.before_change = console.before_change
    client.auth.warn = console.say
    if key:
        warn_if_unencrypted(url, "API key", console)
    return client


# --- session
ORGANIZATION_COLUMNS = (ID, PLAN, ROLE, Column("Members", "member_count"), NAME)
ACCOUNT_FIELDS = [Column(heading, key) for heading, key in {
    "Email": "email", "User ID": "user_id", "Server": "api_url", "Server set by": "api_url_source",
    "Session until": "expires_at", "API key": "api_key", "Account's server": "account_url",
    "Default organization": "default_org_name", "Organization ID": "default_org_id",
    "Organization set by": "default_org_source", "Default project": "default_project_name",
    "Project ID": "default_project_id", "Project set by": "default_project_source"}.items()]


def account_record(session, url) -> dict:
    """What login and whoami tell of a session; null if it is None."""
    values = session.values if session else {}
    return {"email": values.get("user_email"), "user_id": values.get("user_id"), "api_url": url,
            "expires_at": session and iso_timestamp(session.expires_at)}


@command("login",
         Option("-e, --email EMAIL", "email; prompted for if omitted", env="TWOSIGNAL_EMAIL"),
         Option("-p, --password PASSWORD", "visible to other users; prompted for if omitted",
                plain_secret, env="TWOSIGNAL_PASSWORD", is_secret=True, may_be_empty=True),
         Option("--password-stdin", "read the password from stdin, one line"),
         exclusive=("--password", "--password-stdin"),
         examples=("twosignal login", "twosignal login --url https://twosignal.example.com"))
def login(client, args, console):
    """Log in and save the session."""
    if args.password is not None and "password" not in args.sources:
        console.tell("Warning: others see --password. Use --password-stdin or TWOSIGNAL_PASSWORD.")
    warn_if_unencrypted(client.url, "password", console)
    email = (args.email or console.ask("Email: ", "--email or set TWOSIGNAL_EMAIL")).strip()
    password = args.password
    if args.password_stdin and not is_terminal(console.stdin):
        password = plain_secret(console.read_stdin())
        if not password:
            raise usage_error("The password is empty")
    elif args.password_stdin or not password:
        password = console.ask(f"Password for {email} at {client.url}: ",
                               "--password-stdin or set TWOSIGNAL_PASSWORD", is_secret=True)
    session = client.auth.login(email, password)
    if has_key():
        console.tell("Note: TWOSIGNAL_API_KEY takes precedence where API keys are supported.")
    if args.url or args.ca_cert or read_text(home_path("config.json")) is None:
        ca_cert = as_utf8(client.transport.access.ca_cert or "", "--ca-cert")
        save_config(without_none(api_url=client.url, ca_cert=ca_cert or None), console.clock)
    result = Details(account_record(session, client.url), ACCOUNT_FIELDS,
                     message=f"Logged in to {client.url}.")
    if output_format(args) in PAGE_FORMATS:
        lines = [console.masked(line) + "\n" for line in first_steps(client)]
        result.parts = [("Projects", Text("".join(lines)))]
    return result


def saved_defaults(client, organizations, tell) -> dict:
    """The defaults for --org and --project as whoami tells them; looked up if that is possible."""
    saved, record = result_or({}, config_for, client.url, client.transport.clock), {}
    projects = functools.partial(visible_projects, client, setting("TWOSIGNAL_ORG"), organizations)
    for name, kind, fetch in (("org", "organization", lambda: organizations),
                              ("project", "project", projects)):
        variable = f"TWOSIGNAL_{name.upper()}"
        given = setting(variable) or saved.get(name)
        source = variable if setting(variable) else given and home_path("config.json")
        row = {"id": given}
        if given and organizations:
            row = result_or_failure(lambda: named_row(fetch(), given, kind))
        if isinstance(row, Failure):
            tell(f"Default {kind}: {row.message}. {row.hint}")
        record.update({f"default_{name}_id": get_item(row, "id", given),
                       f"default_{name}_name": get_item(row, "name"),
                       f"default_{name}_source": source})
    return record


@command("whoami", takes_key=True)
def whoami(client, args, console):
    """Show your account, roles, API key and default project."""
    key_check = client.key and result_or_failure(
        lambda: rows_of(client.rest("GET", "/traces", {"limit": 1})))
    rows = result_or_failure(client.rows, "organization.list")
    organizations = None if isinstance(rows, Failure) else list(map(to_record, rows))
    # A key may belong to another server than the account, which is not asked then.
    session = result_or(None, load_session if client.key else client.auth.stored)
    if not session and not client.key:
        raise rows
    server = session and result_or(None, session_origin, session, console.clock)
    record = dict(
        account_record(session, client.url),
        api_key=client.key and (client.key[:6] if len(client.key) > 12 else "") + "…",
        api_url_source=url_and_source(args.url, console.clock, client.key)[1],
        account_url=None if server == client.url else server,
        **saved_defaults(client, organizations, console.tell), organizations=organizations)
    if getattr(rows, "code", "") == "UNAUTHORIZED":
        record["expires_at"] = None             # the server has ended the session
    failures = [each for each in (key_check, rows) if isinstance(each, Failure)
                and each.code != "NOT_LOGGED_IN"]
    parts = [("Organizations", Listing("organizations", ORGANIZATION_COLUMNS, organizations))]
    remarks = [f"{each.message}. {each.hint}" for each in failures[1:]
               if each.message != failures[0].message]
    return Details(record, ACCOUNT_FIELDS, parts if organizations else (),
                   conclude=lambda: Outcome(remarks, *failures[:1]))


@command("logout", ends_session=True)
def logout(client, args, console):
    """Log out, and revoke the session on the server."""
    stored = result_or_failure(load_session, console.clock)
    if not isinstance(stored, Session):
        if stored or session_leftovers():
            client.auth.forget()
        message = "Logged out: deleted the damaged session." if stored else "Not logged in."
        return Details({"logged_out": bool(stored)}, message=message)
    try:
        client.auth.logout()
    except Failure as failure:
        if failure.code == "NOT_LOGGED_IN" and load_session(console.clock):
            raise                   # otherwise another process has just logged out
        if failure.code not in ("NOT_LOGGED_IN", "UNAUTHORIZED"):
            console.tell(f"Logged out locally; could not revoke the session: {failure.message}.")
    if not client.auth.forget(stored):
        console.tell("Note: another account has logged in meanwhile, and stays logged in.")
    return Details({"logged_out": True}, message=f"Logged out of {client.url}.")


# --- organizations and projects
MEMBER_COLUMNS = (ID, ROLE, CREATED, Column("Email", "email"))
PROJECT_COLUMNS = (ID, CREATED, Column("Organization", "organization_name"), NAME)
EMAIL = Option("--email EMAIL", "email of the member's account", required=True)
add_listing("orgs list", "organization", ORGANIZATION_COLUMNS)
add_change("orgs create", "organization.create", "Create an organization.", *NEW_NAME)


@command("orgs rename", Option("NEW-NAME", "new name", name="name"), ORG)
def orgs_rename(client, args, console):
    """Rename an organization."""
    row = named_row(client.rows("organization.list"), args.org, "organization")
    result = changed(client, args, "organization.update", (ID, PLAN), organizationId=row["id"],
                     name=args.name)
    result.message = f'Renamed "{printable(row.get("name"))}" to "{printable(args.name)}".'
    return result


@command("orgs get", ORG)
def orgs_get(client, args, console):
    """Show an organization with its members."""
    given = {"organizationId": organization_id(client, args.org)}
    record = to_record(resource_object(client.query("organization.getById", given)))
    members = [to_record(each, "member") for each in rows_of(record.get("members"))]
    for member in members:          # some servers have the email in the user, or no ID but that
        member["email"] = member["email"] or get_path(member, "user.email")
        member["id"] = member["id"] or member.get("user_id")
    record["members"], table = members, Listing("members", MEMBER_COLUMNS, members)
    return Details(record, (*ORGANIZATION_COLUMNS, CREATED), [("Members", table)], listing=table)


@command("orgs list-members", ORG)
def orgs_list_members(client, args, console):
    """List the members of an organization, with their roles."""
    return orgs_get(client, args, console).listing


@command("orgs add-member", EMAIL, ORG,
         Option("--role ROLE", ", ".join(ROLES), required=True, choices=ROLES),
         examples=("twosignal orgs add-member --email sam@example.com --role MEMBER --org ID",))
def orgs_add_member(client, args, console):
    """Add somebody who has an account to an organization."""
    org = organization_id(client, args.org)
    given = {"organizationId": org, "email": args.email.strip(), "role": args.role}
    answer = client.mutate("organization.addMember", given)
    wire = {**given, **answer} if isinstance(answer, dict) else given
    message = f'Added {printable(given["email"])} to "{printable(args.org)}" as {args.role}.'
    return Details(to_record(wire, "member"), MEMBER_COLUMNS, message=message)


@command("orgs remove-member", EMAIL, ORG, YES)
def orgs_remove_member(client, args, console):
    """Remove a member from an organization."""
    org = orgs_get(client, args, console).record
    rows = [dict(each, name=str(each["email"] or each["id"]).strip().casefold(),
                 parent=printable(org.get("name"))) for each in org["members"]]
    given = {"organizationId": org.get("id")}
    member = named_row(rows, args.email.strip().casefold(), "member", given)
    confirm(client, args, console, "member", member, "remove", member)
    client.mutate("organization.removeMember", without_none(
        **given, memberId=member["id"], userId=member.get("user_id")))
    return Details({"id": member["id"], "removed": True},
                   message=f'Removed {printable(member["email"])} from "{member["parent"]}".')


@command("projects list", ORG_FILTER)
def projects_list(client, args, console):
    """List your projects, of one organization or all."""
    columns = (ID, CREATED, NAME) if args.org else PROJECT_COLUMNS
    return Listing("projects", columns, list(map(to_record, visible_projects(client, args.org))))


@command("projects get", PROJECT_OPERAND, ORG_FILTER)
def projects_get(client, args, console):
    """Show a project."""
    row = named_row(visible_projects(client, args.org), args.project, "project")
    return Details(to_record(row), PROJECT_COLUMNS + (DESCRIPTION,))


@command("projects use", PROJECT_OPERAND, ORG_FILTER)
def projects_use(client, args, console):
    """Save the default for --project, and for --org."""
    row = named_row(visible_projects(client, args.org), args.project, "project")
    save_config({"api_url": client.url, "project": str(row["id"]),
                 "org": str(row.get("organizationId") or "")}, console.clock)
    for name in filter(setting, ("TWOSIGNAL_PROJECT", "TWOSIGNAL_ORG")):
        console.tell(f"Note: {name} is set and takes precedence.")
    return Details(to_record(row), PROJECT_COLUMNS, message="Saved the default project.")


add_change("projects create", "project.create", "Create a project in an organization.",
           *NEW_NAME, ORG, DESCRIBE)
add_change("projects update", "project.update", "Change the name or description of a project.",
           PROJECT_OPERAND, RENAME, DESCRIBE, ORG_FILTER,
           examples=('twosignal projects update PROJECT -n "Support Agent"',))
add_deletion("projects delete", PROJECT_OPERAND, "project",
             "Delete a project and everything in it.", parent=ORG_FILTER)


# --- traces
STATUS, DURATION = Column("Status", "status"), Column("Duration", "duration_ms", format_duration)
COST = Column("Cost", "cost_usd", format_cost, min_width=8)
OPTIONAL_NAME = Column("Name", "name", optional=True)
TRACE_COLUMNS = (ID, STATUS, DURATION, COST, CREATED, OPTIONAL_NAME)
TAIL_COLUMNS = (ID, STATUS, DURATION, Column("Cost", "cost_usd", format_cost, min_width=9),
                Column("Created", "created_at", format_time_of_day, min_width=10), OPTIONAL_NAME)
TRACE_KEYS = (                      # that a trace may have although the first ones lack them
    "project_id start_time end_time total_tokens tags tags.0 metadata session_id span_count "
    "score_count scores").split() + [f"scores.0.{key}" for key in (
        "id", "trace_id", "span_id", "project_id", "created_at", *_LEADING_KEYS["score"])]
TOKENS = Column("Tokens", "total_tokens", format_count)
TRACE_FIELDS = (ID, NAME, STATUS, DURATION, COST, Column("Created", "created_at", format_moment),
                TOKENS, Column("Session", "session_id"), Column("Tags", "tags", format_list),
                Column("Metadata", "metadata"))
Traces = functools.partial(Listing, "traces", extra_fields=TRACE_KEYS, extra_columns=TRACE_FIELDS)
SORT_COLUMNS = {                    # of what --sort compares, if no other column shows it
    "tokens": TOKENS, "score": Column("Score", lambda row: printable(SORT_KEYS["score"](row)))}
SPAN_COLUMNS = (
    Column("Span", "tree"), TYPE, STATUS, Column("Start", "start", format_offset), DURATION,
    Column("Cost", "cost_usd", format_cost, optional=True), Column("Model", "model", optional=True),
    Column("Timeline", "timeline", min_width=BAR_COLUMNS, optional=True))
SCORE_COLUMNS = [Column(key.title(), key) for key in ("score", "label", "evaluator", "reasoning")]
SPANS = Unlisted("--spans", "include the spans of each trace, in json and jsonl")
BASELINE_OPTIONS = (
    Option("--baseline FILE", "compare with FILE, which 'traces stats --json' wrote", to_path),
    Option("--baseline-tag TAG", "compare with traces that have TAG in place of --tag"))
COUNT_COLUMN = Column("Count", "count", format_count)
METRIC_COLUMNS = [Column(metric.heading, metric.key, metric.format_value, optional=metric.optional)
                  for metric in sorted(METRICS, key=lambda metric: metric.optional)]
SORT_METRICS = {name: metric for metric in (TRACE_COUNT, *METRICS)
                for name in (re.sub("_(ms|usd)$", "", metric.key), metric.key)}
THRESHOLD_OPTIONS = [Unlisted(each.option, each.help, each.parse) for each in THRESHOLDS]


def trace_query(client, args) -> TraceQuery:
    if args.error and args.status == "OK":
        raise usage_error("--error and --status OK cannot be used together")
    if None not in (args.min_duration, args.max_duration) and args.min_duration > args.max_duration:
        raise usage_error("--min-duration is above --max-duration: no trace can match")
    if len(dict(args.metadata or ())) < len(set(args.metadata or ())):
        raise usage_error("--metadata names two values of one key: no trace can match")
    return TraceQuery(chosen_project(client, args), **{
        each.name: getattr(args, each.name) for each in FILTER_OPTIONS})


def output_format(args) -> str:
    """The format of --format, of the file's ending after -o without --raw, or the command's."""
    ending = "" if vars(args).get("raw") else os.path.splitext(args.output or "")[1][1:].lower()
    name = {"ndjson": "jsonl", "md": "markdown", "htm": "html"}.get(ending, ending)
    return args.format or (name if name in FORMATS else args.default_format)


def wanted_parts(args) -> dict:
    """What a TraceScan adds to its records, for --spans, --fields and the format."""
    names = {field.split(".")[0] for field in args.fields or ()}
    is_shown = names & {"spans", "?"} if names else output_format(args) in ("json", "jsonl")
    if args.spans and not is_shown:
        raise usage_error("--spans prints nothing here", "Use --json, or --fields id,spans.")
    scores = SCORES_REQUIRED if "scores" in names else None
    if names == {"?"} or not names and output_format(args) not in PAGE_FORMATS:
        scores = SCORES_IF_KNOWN
    wanted = names | ({"spans"} if args.spans else set())
    return {"scores": scores, "parts": wanted & {"spans", "error_message"}}


@command(
    "traces list", PROJECT, FROM,
    Option("-n, -L, --limit N", f"maximum number of traces (default: {DEFAULT_LIMIT})", POSITIVE),
    Option("--all", "fetch all pages"),
    Unlisted("--fail-if-truncated", "exit 10 if more traces match than are shown"),
    Unlisted("--sort KEY", f"sort by {', '.join(SORT_KEYS)}: newest, greatest or lowest score "
             "first", choices=SORT_KEYS),
    Unlisted("-r, --reverse", "reverse the order; without --sort: oldest first"),
    SPANS, *FILTER_OPTIONS, takes_key=True, exclusive=("--all", "--limit"),
    examples=("twosignal traces list --project ID --status ERROR",
              "twosignal traces list --project ID --all --fields id,scores.accuracy -o scores.csv"))
def traces_list(client, args, console):
    """List the traces of a project, newest first."""
    limit = None if args.all else args.limit or DEFAULT_LIMIT
    # Pages are newest first; in a file, traces may be in any order.
    is_sorted = args.reverse or args.source and limit or args.sort not in (None, "created")
    sort = is_sorted and (args.sort or "created")
    if args.source and not sort:
        client.verify()
    scan = TraceScan(client, **wanted_parts(args), query=trace_query(client, args),
                     console=console, limit=limit, sort=sort, reverse=args.reverse,
                     needed=ALL if args.all or sort else 0, exact=args.fail_if_truncated)
    columns = filter(None, [*TRACE_COLUMNS[:-2], SORT_COLUMNS.get(sort), *TRACE_COLUMNS[-2:]])
    return Traces(list(columns), scan, conclude=scan.outcome)


@command("traces get", Option("ID", "ID of the trace", plain_id), PROJECT, FROM,
         Unlisted("--errors", "show only the failed spans, and the path to each"),
         Unlisted("--io", "also show the input and output of each span"),
         Unlisted("--span ID", "show this span alone and whole, by ID or name", plain_id),
         Unlisted("--max-lines N", "maximum lines of each value, with --io or --span", POSITIVE),
         finds_project=True, exclusive=("--errors", "--span"))
def traces_get(client, args, console):
    """Show a trace with its spans as a tree, and its scores."""
    if args.max_lines and not (args.io or args.span):
        raise usage_error("--max-lines requires --io or --span")
    trace = to_record(resource_object(found_trace(client, args)), "trace")
    trace.update({key: child_records(trace, key) for key in ("spans", "scores")})
    if args.span:
        return span_details(trace["spans"], args)
    tree, records = span_tree(trace["spans"]), [trace] + trace["spans"]
    if args.errors:
        tree = failed_paths(tree)
        trace["spans"] = [span for _, span in tree]
    spans = [span for _, span in tree]
    noun = "failed spans" if args.errors else "spans"
    data = ("error_message", "input", "output", "model_parameters", "metadata")
    table = Listing(noun, SPAN_COLUMNS, span_rows(tree, records), below=lambda span: UserData(
        [(key, span[key]) for key in data if span.get(key) is not None], args.max_lines))
    parts = [("Spans", table), *io_parts(spans, args),
             ("Scores", Listing("scores", SCORE_COLUMNS, trace["scores"]))]
    return Details(trace, TRACE_FIELDS, parts, error_lines(spans), colour=RED,
                   title=f"{NAME.text(trace)}: {STATUS.text(trace)}")


def found_trace(client, args):
    """The wire trace; without --project, of whichever of a few projects has it."""
    if args.project or client.key:
        return client.query("trace.getById", trace_input(args.id, chosen_project(client, args)))
    projects = visible_projects(client, setting("TWOSIGNAL_ORG"))
    if len(projects) > FEW_PROJECTS:
        raise usage_error(f"No project given, and {len(projects)} are too many to search",
                          "Pass --project; 'twosignal projects list' shows them.")
    failure = Failure(f"Trace not found in any of your projects ({len(projects)})",
                      "Check the ID, and the account with 'twosignal whoami'.", "NOT_FOUND")
    for answer in client.batch("trace.getById", [
            trace_input(args.id, project.get("id")) for project in projects]):
        if not isinstance(answer, Failure):
            return answer
        if answer.code != "NOT_FOUND":
            failure = answer        # the trace may be in that project
    raise failure


def error_lines(spans) -> str:
    """A heading, and a line for each span that failed; "" if none did."""
    failed = [span for span in spans if span_failed(span)]
    failed = [span for span in failed if span.get("error_message")] or failed
    texts = [f"{printable(span['name'])}: {printable(span.get('error_message') or 'no message')}"
             for span in failed]
    lines = [truncate(text, MAX_MESSAGE) + "\n" for text in texts]
    if len(lines) > MAX_PROBLEMS:
        lines[MAX_PROBLEMS:] = [f"and {len(lines) - MAX_PROBLEMS:,} more\n"]
    return "".join(["Errors\n", *lines, "\n"]) if lines else ""


def span_rows(tree, records) -> list:
    """A row of SPAN_COLUMNS for each (depth, span); records: the trace, and all its spans."""
    seconds = {id(each): parse_timestamp(each.get("start_time")) for each in records}
    first = seconds[id(records[0])] or min(filter(None, seconds.values()), default=0)
    starts = {key: round((value - first) * 1000, 3) for key, value in seconds.items() if value}
    total = max([starts.get(id(each), 0) + (to_amount(each["duration_ms"]) or 0)
                 for each in records]) or 1
    rows = []
    for depth, span in tree:
        start, duration, timeline = starts.get(id(span)), to_amount(span["duration_ms"]), ""
        if None not in (start, duration):
            start_share, length = start / total, duration / total
            left = max(0, min(BAR_COLUMNS - 1, int(start_share * BAR_COLUMNS)))
            width = max(1, min(BAR_COLUMNS - left, round(length * BAR_COLUMNS)))
            timeline = Bar(" " * left + "█" * width)
            timeline.start, timeline.length = max(0, start_share), length
        pad = "  " * depth if depth <= MAX_INDENTED_SPANS else f"  [{depth}] "
        rows.append(dict(span, start=start, timeline=timeline, tree=pad + printable(span["name"])))
    return rows


def io_parts(spans, args) -> list:
    """The part with the input and output of spans for --io; without it, a line that they exist."""
    spans = [] if output_format(args) == "html" else spans      # which has them below each span
    values = [(f"{printable(span['name'])} ({printable(span.get('id'))}), {key}", span[key])
              for span in spans for key in ("input", "output") if span.get(key) is not None]
    if args.io and values:
        return [("Input and output", UserData(values, args.max_lines))]
    return values and [("", Text("\nSpans have input and output: use --io or --span ID.\n"))]


def span_details(spans, args) -> Details:
    span = named_row(spans, args.span, "span")
    names = {key: key.replace("_", " ").capitalize() for key in span if span[key] is not None}
    data = [key for key in names if key in USER_DATA or key == "error_message"]
    known = {column.source: column for column in (ID, NAME, STATUS, DURATION, COST, TOKENS)}
    columns = [known.get(key, Column(names[key], key)) for key in names if key not in data]
    values = UserData([(names[key], span[key]) for key in data], args.max_lines)
    return Details(span, columns, [("Data", values)] if data else ())


@command(
    "traces stats", PROJECT, FROM,
    Option("--by KEY...", f"group by one or two of {', '.join(GROUP_KEYS)}", choices=GROUP_KEYS),
    Unlisted("--sort METRIC", "worst groups first, e.g. p95 or error_rate", choices=SORT_METRICS),
    Option("--sample N", f"sample the spans of N traces (default: {DEFAULT_SAMPLE})", POSITIVE),
    *BASELINE_OPTIONS, *FILTER_OPTIONS, takes_key=True, exclusive=("--baseline", "--baseline-tag"),
    examples=("twosignal traces stats --project ID --since 24h --by name --sort error_rate",
              "twosignal traces stats --project ID --since 7d --json -o baseline.json"))
def traces_stats(client, args, console):
    """Show error rates, durations, costs and scores by group."""
    by = args.by or []
    if len(by) > min(2, len(set(by))):
        raise usage_error("--by takes up to two keys, which must differ", "Try --by name --by day.")
    if {"model", "evaluator"} <= set(by):
        raise usage_error("--by model and --by evaluator cannot be used together")
    scores = SCORES_REQUIRED if "evaluator" in by else None if "model" in by else SCORES_IF_KNOWN
    scan = TraceScan(client, trace_query(client, args), console, None, scores, needed=ALL)
    is_compared = args.baseline or args.baseline_tag     # then no error messages are shown
    sample_size = 0 if is_compared and "model" not in by else args.sample or DEFAULT_SAMPLE
    baseline = chosen_baseline(args, scan, by, sample_size)
    groups = TraceGroups(scan, by, sample_size).read()
    metric = SORT_METRICS.get(args.sort)
    rows = sorted_rows(groups.rows(), by, metric)
    remarks = groups.remarks() + [scan.scan_remark()]
    result = stats_result(groups, rows, metric or TRACE_COUNT)
    if baseline is not None:
        pairs = list(pairs_of(baseline, rows, by))
        remarks += small_remarks(pairs) if baseline else ["The baseline has no traces."]
        result = comparison_result(pairs, by)
    result.conclude = lambda: Outcome(remarks)
    return result


def stats_result(groups, rows, metric) -> Details:
    """Rows of traces stats, and error messages; with bars of a metric if grouped by time."""
    keys = [Column(key.title(), key, never_cut=key in ("session", *TIME_KEYS)) for key in groups.by]
    values = METRIC_COLUMNS + [
        Column(f"{metric.heading} of {printable(name)}", metric.key_of(name), metric.format_value,
               optional=True)
        for name in groups.evaluators for metric in METRICS if metric.needs_scores]
    columns = [COUNT_COLUMN] + sorted(values, key=lambda column: column.source != metric.key)
    if TIME_KEYS.keys() & groups.by:
        most = max([row[metric.key] or 0 for row in rows], default=0)
        columns.insert(1 if metric is TRACE_COUNT else 2, Column(
            "", lambda row: chart_bar(row[metric.key], most, 10), never_cut=True))
    parts = [("", Listing("models" if groups.by_model else "traces", (*keys, *columns), rows))]
    messages = [dict(zip(groups.by, values), message=message, count=count)
                for values, stats in groups.groups.items() for message, count
                in stats.messages.most_common(1 if groups.by else MAX_MESSAGES)]
    messages.sort(key=lambda row: -row["count"])
    if messages:
        columns = (COUNT_COLUMN, *keys, Column("Message", "message"))
        title = "Most frequent error message" + (" of each group" if groups.by else "s")
        parts += [(title, Listing("messages", columns, messages))]
    return Details(rows, (), parts, extra_columns=values)


def comparison_result(pairs, by) -> Details:
    """The comparisons of (row of the baseline, row) pairs, each with its group."""
    rows, texts = [], []
    for earlier, row in pairs:
        for metric, name, before, value in comparisons(earlier, row):
            each = CheckResult(metric, None, value, None, evaluator=name, baseline=before)
            rows.append(dict({key: row[key] for key in ("group", *by)}, metric=each.title,
                             baseline=before, measured=value, change=each.change,
                             baseline_count=earlier["count"], count=row["count"]))
            texts.append(dict(each.row(), group=row["group"]))
    columns = (Column("Group", "group"), Column("Metric", "check"), *COMPARED_COLUMNS[1:4])
    return Details(rows, (), [("", Listing("traces", columns, texts, order="fixed"))])


def chosen_baseline(args, scan, by=(), sample_size=0):
    """The rows of traces stats that BASELINE_OPTIONS choose, or None. Raises Failure."""
    if args.baseline_tag:
        if len(args.tag or ()) > 1 or args.tag == [args.baseline_tag]:
            raise usage_error("--baseline-tag replaces --tag: give at most one, of another name")
        query = TraceQuery(**dict(vars(scan.query), tag=[args.baseline_tag]))
        scan = TraceScan(**dict(vars(scan), query=query))
        return TraceGroups(scan, by, sample_size).read().rows()
    if not args.baseline:
        return None
    try:
        rows = json.loads(text_argument(f"@{args.baseline}", "--baseline", scan.console))
        fault = baseline_fault(rows, list(by))
    except (ValueError, RecursionError):
        fault = "it is not JSON"
    if fault:
        option = "".join(f" --by {key}" for key in by)
        raise usage_error(f"Cannot use the baseline {args.baseline}: {fault}",
                          f"Write one with: twosignal traces stats{option} --json -o FILE.")
    return rows


@command(
    "traces check", PROJECT, FROM, *THRESHOLD_OPTIONS, *BASELINE_OPTIONS,
    Unlisted("--max-regression SHARE", "how much worse than the baseline, e.g. 10%: a share of p95 "
             "and average cost, points of rates and scores", parse_share),
    Unlisted("--min-count N", "exit 11 if fewer traces (default: 1)", POSITIVE),
    Option("--min-coverage SHARE", "exit 11 if a check covers fewer traces, e.g. 90%", parse_share),
    Option("-n, -L, --limit N", "check only the N most recent traces (default: all)", POSITIVE),
    JUNIT, EVALUATOR_FILTER, *FILTER_OPTIONS, takes_key=True, is_gate=True,
    exclusive=("--baseline", "--baseline-tag"),
    examples=("twosignal traces check --project ID --since 1h --max-error-rate 2% --max-p95 8s",))
def traces_check(client, args, console):
    """Check traces against thresholds (CI gate).

    Exit codes: 0 all checks passed, 10 a check failed, 11 not enough data."""
    checks = chosen_checks(args)
    scan = TraceScan(client, trace_query(client, args), console, args.limit, needed=ALL,
                     sort="created" if args.source and args.limit else None)
    has_score = any(threshold.needs_scores for threshold, _ in checks)
    scores = SCORES_REQUIRED if has_score or args.max_regression is not None else SCORES_IF_KNOWN
    scan.scores = scores if has_score or args.baseline_tag else None
    rows = chosen_baseline(args, scan)
    baseline = {"count": 0} if rows == [] else rows and rows[0]
    if args.baseline and (args.evaluator or baseline.get("scores_measured")
                          or baseline.get("failures_measured")):
        scan.scores = scores
    return Gate(scan, checks, baseline, args).run()


def chosen_checks(args) -> list:
    """The (Threshold, limit) pairs of the options. Raises a usage error if they make no gate."""
    checks = []
    for threshold, option in zip(THRESHOLDS, THRESHOLD_OPTIONS):
        limits = getattr(args, option.name)
        limits = limits if isinstance(limits, list) else [limits]
        checks += [(threshold, limit) for limit in limits if limit is not None]
    has_baseline = args.baseline or args.baseline_tag
    if args.max_regression is not None and not has_baseline:
        raise usage_error("--max-regression requires a --baseline or --baseline-tag")
    if not has_baseline and not checks and (not args.min_count or args.min_coverage):
        flags = ", ".join(option.label for option in THRESHOLD_OPTIONS)
        raise usage_error("No threshold given", f"Pass one or more of {flags}.")
    if args.limit and args.limit < (args.min_count or 1):
        raise usage_error("--limit is below --min-count: this gate can never pass")
    names = [limit[0] for threshold, limit in checks if threshold.needs_scores]
    if args.evaluator and not names and not has_baseline:
        raise usage_error("--evaluator requires a check of scores, such as --min-score")
    for name in names:
        if args.evaluator and name not in (None, *args.evaluator):
            raise usage_error(f"--evaluator leaves out '{name}'", f"Add --evaluator {name}.")
    if any(minimum > maximum and name in (None, other) and not args.evaluator
           for name, minimum in args.min_score or () for other, maximum in args.max_score or ()):
        raise usage_error("--min-score is above --max-score: this gate can never pass")
    return checks


@command("traces export", Option("DIR", "directory to write to, new or empty", to_path), PROJECT,
         Option("--resume", "continue an export that broke off"),
         Option("--redact FIELDS", "replace the values in these fields of traces and spans: "
                + ", ".join(REDACTABLE),
                lambda text: [parse_choice(REDACTABLE, field) for field in parse_fields(text)]),
         *FILTER_OPTIONS,
         examples=("twosignal traces export march --since 2026-03-01 --until 2026-03-31",))
def traces_export(client, args, console):
    """Write traces with spans and scores to a directory."""
    scan = TraceScan(client, trace_query(client, args), console, None, SCORES_REQUIRED, needed=ALL,
                     parts={"spans"})
    filters = {each.name: args.line.texts(each) for each in FILTER_OPTIONS if args.line.has(each)}
    if "metadata" in filters and "metadata" in (args.redact or ()):
        raise usage_error("--metadata and --redact metadata cannot be used together",
                          "The bundle would name the value.")
    export = TraceExport(scan, os.path.abspath(args.dir), dict(
        dict.fromkeys(BUNDLE_COUNTS, 0), format=BUNDLE_FORMAT, complete=False, server=client.url,
        project=scan.query.project, filters=filters, redacted=sorted(set(args.redact or ())),
        client=USER_AGENT, created_at=iso_timestamp(int(console.clock.time())), files=[]))
    export.run(args.resume)
    record = dict({"path": export.directory}, **export.manifest)
    message = f"Exported {counted(record['traces'], 'trace')} to {printable(export.directory)}."
    return Details(record, message=message, conclude=lambda: Outcome([scan.scan_remark()]))


@command("traces send",
         Option("FILE", "traces, events or OTLP as JSON, a bundle, or - (stdin)", to_path),
         Option("--new-ids", "give all traces and spans new IDs"),
         Option("--wait", "wait until the traces are listed (for --timeout, default: 5m)"),
         Option("--dry-run", "check the file, but send nothing"), takes_key=True,
         exclusive=("--wait", "--dry-run"), examples=("twosignal traces send march --wait",))
def traces_send(client, args, console):
    """Send traces from a file; requires a project API key.

    Exit code 11: all were accepted, but --wait timed out."""
    from uuid import uuid4
    files = TraceFile(args.file, None, console, hint=SEND_HINT).files()
    sender = TraceSender(client, console, files, uuid4() if args.new_ids else None)
    sender.run(args.dry_run)
    record = {"traces": len(sender.traces), "events": sender.total,
              "accepted": None if args.dry_run else sender.accepted}
    message = (f"{'Would send' if args.dry_run else 'Sent'} {counted(record['traces'], 'trace')} "
               f"({counted(sender.total, 'event')}).")
    failure = wait_for_sent(sender, args.timeout or DEFAULT_WAIT, record) if args.wait else None
    return Details(record, message=message, conclude=lambda: Outcome(failure=failure))


def wait_for_sent(sender, timeout, record):
    """Waits until what was sent is listed, and adds to the record how many traces are. Returns a
    Failure unless all are."""
    nanoseconds = to_number(sender.earliest)
    since = nanoseconds / 10 ** 9 if nanoseconds else parse_timestamp(sender.earliest) or 0
    # Of texts, the earliest is only known to a day: the zones of times may differ.
    progress = SentTraces(client=sender.client, console=sender.console, scored=False,
                          query=TraceQuery(since=When(since - DAY) if since > DAY else None),
                          left=sender.traces, wanted=len(sender.traces))
    failure = result_or_failure(progress.wait, timeout)
    record["listed"] = progress.found
    if failure:
        failure.hint = f"{sender.progress()}. {failure.hint}"
    elif progress.left:
        message = f"Timed out after {timeout:g}s: {progress.status()}"
        return Failure(message, "Accepted means queued: have whoever runs the server check its "
                                "workers.", "NOTHING_TO_CHECK")
    return failure


@command("traces wait", PROJECT,
         Option("--count N", "number of matching traces to wait for (default: 1)", POSITIVE),
         Option("--scored", "also wait until all enabled evaluators but CUSTOM have scored them"),
         Option("--timeout TIME", "maximum wait (default: 5m)", parse_seconds, name="wait_timeout"),
         EVALUATOR_FILTER, *FILTER_OPTIONS, takes_key=True, is_gate=True,
         examples=("twosignal traces wait --project ID --since 10m --count 20 --scored",))
def traces_wait(client, args, console):
    """Wait until traces have arrived, and are scored.

    Exit codes: 0 condition met, 11 timed out, 3 to 8 if the server could not be asked."""
    if args.evaluator and not args.scored:
        raise usage_error("--evaluator requires --scored")
    progress = WaitProgress(client, console, lambda: trace_query(client, args), args.count or 1,
                            args.scored, args.evaluator or [])
    failure = progress.wait(args.wait_timeout or DEFAULT_WAIT)
    waited = round(console.clock.monotonic() - progress.started, 1)
    record = {"found": progress.found, "wanted": progress.wanted, "scored": progress.scored,
              "missing": progress.missing, "waited_seconds": waited}
    if failure:                     # nothing is known, and its exit code ends the command
        def conclude():
            raise failure
        return Details(dict(record, found=None, missing=None), conclude=conclude)
    message, checks = f"{progress.status()} after {waited:.0f}s.", ()
    if progress.found < progress.wanted:
        message = f"Timed out after {waited:.0f}s: {progress.status()}."
        count = Metric(f"traces {'scored' if progress.scored else 'arrived'}", format_count,
                       is_minimum=True)
        checks = [CheckResult(count, progress.wanted, progress.found, None)]
    return Details(record, message=message, checks=checks, conclude=lambda: Outcome(
        [progress.advice()], exit_code=EXIT_CODES["NOTHING_TO_CHECK"] if checks else 0))


@command(
    "traces tail", PROJECT,
    Option("-n, --lines N", f"show the last N traces first (default: {DEFAULT_TAIL_LINES})", COUNT),
    Option("--interval TIME", f"polling interval (default: {DEFAULT_INTERVAL:g}s)", parse_seconds),
    SPANS, *FILTER_OPTIONS, takes_key=True, is_endless=True)
def traces_tail(client, args, console):
    """Print new traces as they arrive, until Ctrl-C."""
    return Traces(TAIL_COLUMNS, new_traces(client, args, console), streams=True)


def new_traces(client, args, console):
    """Yields the newest traces, then each new one once, for ever. Raises Failure."""
    tail = TraceTail(TraceScan(client, **wanted_parts(args), query=trace_query(client, args),
                               console=console, strict_scores=False))
    started = console.clock.monotonic()
    yield from tail.first(DEFAULT_TAIL_LINES if args.lines is None else args.lines)
    interval = pause = args.interval or DEFAULT_INTERVAL
    while True:
        console.progress("Waiting for new traces; press Ctrl-C to stop", started)
        console.clock.sleep(pause)
        console.require_reader()
        try:
            yield from tail.poll()
        except Failure as failure:
            # An old cursor may be refused, after a restart for example: the next poll needs none.
            if not isinstance(failure, TransientFailure) and failure.code != "BAD_REQUEST":
                raise
            console.tell_once(f"{failure.message}. Trying again.")
            pause = max(min(pause * 2, MINUTE), min(failure.retry_after or 0, 10 * MINUTE))
        else:
            console.tell_once("Too many new traces: older ones may be missing. Use a shorter "
                              "--interval, or 'twosignal traces list'." if tail.has_missed else "")
            pause = interval


@command("scores create", Option("TRACE", "ID of the trace", plain_id),
         Option("--name NAME", "name of the evaluator", required=True),
         Option("--value SCORE", "score from 0 to 1", parse_score, required=True),
         Option("--label TEXT", "label of the score, e.g. pass or fail", may_be_empty=True),
         Option("--reasoning TEXT", "explanation of the score", may_be_empty=True),
         Option("--span ID", "score this span instead of the trace", plain_id), takes_key=True,
         examples=("twosignal scores create TRACE --name accuracy --value 0.92 --label pass",))
def scores_create(client, args, console):
    """Post a score for a trace; requires a project API key."""
    wire = client.rest("POST", "/scores", without_none(
        traceId=args.trace, spanId=args.span, evaluatorName=args.name, value=args.value,
        label=args.label, reasoning=args.reasoning), read=resource_object)
    return Details(to_record(wire, "score"), (ID, *SCORE_COLUMNS), message="Posted a score.")


# --- evaluators
EVALUATOR_FIELDS = (ID, TYPE, ENABLED, Column("Config", "config"))
CONFIG = Option("--config JSON", "configuration of the evaluator" + JSON_VALUE)
add_listing("evaluators list", "evaluator", (ID, TYPE, ENABLED, NAME), PROJECT, SHOW_SECRETS)
EVALUATOR_KEYS = {"name": str, "type": str, "config": dict, "enabled": bool}    # in a file
SERVER_KEYS = {"id", "project_id", "created_at", "updated_at"}      # are ignored there
EVALUATOR_FILE = "It takes what 'evaluators export' writes: name, type, config and enabled."
EVALUATOR_TYPES = dict(each.partition(":")[::2] for each in (   # with a key that its config needs
    "CONTAINS:value REGEX_MATCH:pattern JSON_SCHEMA:schema EXACT_MATCH STARTS_WITH:value "
    "ENDS_WITH:value LENGTH LEVENSHTEIN SIMILARITY LATENCY COST:max_cost_usd "
    "RESPONSE_TIME_SLA:tiers TOOL_CALL_VALIDATION WORKFLOW_ADHERENCE:expected_steps "
    "SENTIMENT:target TOXICITY CUSTOM LLM_JUDGE:criteria GROUNDEDNESS FACTUAL_ACCURACY "
    "PROMPT_INJECTION BIAS_DETECTION COMPLIANCE_CHECK PII_DETECTION WEBHOOK:url").split())
SCHEMA_KEYWORDS = set(              # that JSON_SCHEMA evaluators check, and mere annotations
    "type required properties items minLength maxLength minimum maximum enum title description "
    "$schema $id $comment default examples deprecated readOnly writeOnly".split())


def config_warnings(place, type_name, config):
    key = EVALUATOR_TYPES.get(str(type_name))       # whatever the server returned
    if key and get_item(config, key) is None:
        yield f"Warning: {place}a {type_name} evaluator needs '{key}' in its --config."
    ignored = set()
    schemas = [get_item(config, "schema")] if type_name == "JSON_SCHEMA" else []
    for schema in schemas:                      # inner ones are added while it runs
        if isinstance(schema, dict):
            ignored |= schema.keys() - SCHEMA_KEYWORDS
            properties = schema.get("properties")       # its keys are names, not keywords
            schemas += properties.values() if isinstance(properties, dict) else ()
            schemas.append(schema.get("items"))
    if ignored:
        yield f"Warning: {place}the server ignores in the schema: {', '.join(sorted(ignored))}."


add_showing("evaluators get", EVALUATOR, "evaluator", "Show an evaluator with its config.",
            (ID, TYPE, ENABLED, CREATED, NAME), "config", SHOW_SECRETS)


@command("evaluators update", EVALUATOR, PROJECT, RENAME, CONFIG, *STATE, SHOW_SECRETS,
         exclusive=ONE_STATE, help="Change an evaluator.\n"
         "--config replaces the whole config; *** keeps the secret that is stored in its place.",
         examples=("twosignal evaluators update ID --config '{\"max_ms\": 2000}'",))
@command("evaluators create", PROJECT, *NEW_NAME,
         Option("--type TYPE", f"{', '.join(EVALUATOR_TYPES)}, or one that a newer server knows",
                str, required=True, choices=EVALUATOR_TYPES),
         CONFIG, SHOW_SECRETS, help="Create an evaluator.",
         examples=('twosignal evaluators create --project ID -n "Has JSON" --type JSON_SCHEMA '
                   "--config '{\"schema\": {\"type\": \"object\"}}'",))
def evaluators_change(client, args, console):
    config = json_argument(args.config, "--config", console)
    if args.config is not None and not isinstance(config, dict):
        raise usage_error("Invalid --config: must be an object")
    given, stored = without_none(name=args.name, config=config), None
    action = "create" if "type" in vars(args) else "update"
    if action == "create":
        given = {"config": {}, **given, "type": args.type,
                 "projectId": chosen_project(client, args)}
    else:
        given.update(without_none(enabled=given_state(args)))
        if not given:
            raise usage_error("Nothing to change", "Pass --name, --config, --enable or --disable.")
        given.update(chosen_resource(client, args, "evaluator"))
        if "***" in json.dumps(config):
            stored = stored_row(client, "evaluator", given).get("config")
    if config:
        given["config"] = unmask(config, mask_config(config), mask_config(stored), stored, "config")
    mask_config(given.get("config"), console.keep_secret)       # an error may repeat it
    result = changed(client, args, f"evaluator.{action}", EVALUATOR_FIELDS, **given)
    if "config" in given:
        warnings = config_warnings("", result.record.get("type"), given["config"])
        result.conclude = lambda: Outcome(warnings)
    return result


@command("evaluators toggle", EVALUATOR, PROJECT, *STATE, SHOW_SECRETS, exclusive=ONE_STATE)
def evaluators_toggle(client, args, console):
    """Enable or disable an evaluator; by default, toggle it."""
    chosen = chosen_resource(client, args, "evaluator")
    enabled = given_state(args)
    if enabled is None:
        enabled = not stored_row(client, "evaluator", chosen).get("enabled")
    return changed(client, args, "evaluator.update", EVALUATOR_FIELDS,
                  "Enabled" if enabled else "Disabled", enabled=enabled, **chosen)


add_deletion("evaluators delete", EVALUATOR, "evaluator", "Delete an evaluator.")


@command("evaluators export", PROJECT, SHOW_SECRETS, format="json",
         examples=("twosignal evaluators export -o evaluators.json",))
def evaluators_export(client, args, console):
    """Print a project's evaluators for 'evaluators apply'."""
    rows = client.rows("evaluator.list", {"projectId": chosen_project(client, args)})
    records = [shown_record(row, "evaluator", args) for row in rows]
    records.sort(key=lambda record: to_nfc(str(record.get("name"))))
    if not args.fields:             # which may choose others
        records = [{key: record.get(key) for key in EVALUATOR_KEYS} for record in records]
    return Listing("evaluators", (NAME, TYPE, ENABLED, EVALUATOR_FIELDS[-1]), records)


def evaluators_in(files) -> dict:
    """{name: (place, values)} of the evaluators in RecordFiles. Raises a usage error."""
    found = {}
    for file, record in ((each, record) for each in files for record in each):
        given = record if isinstance(record, dict) else {}
        values = {key: value for key, value in given.items()
                  if value is not None and key not in SERVER_KEYS}
        wrong = [key for key in ("name", *values)
                 if type(values.get(key)) is not EVALUATOR_KEYS.get(key)]
        if wrong:
            raise file.unusable(f"has a missing, wrong or unknown key '{wrong[0]}'")
        name = to_nfc(values["name"])
        if name in found:
            raise file.unusable(f"has a second evaluator named '{name}'")
        found[name] = f"{file.path}, {file.place}, '{name}'", values
    if not found:
        raise files[0].unusable("has no evaluator")
    return found


def evaluator_plan(found, stored, prunes, tell) -> list:
    """What makes the stored evaluators those found: rows with action, name, id and changes, which
    are values to send. prunes: others are deleted; tell: of warnings. Raises a usage error."""
    plan, names = [], [to_nfc(str(row.get("name"))) for row in stored]
    for name, (place, values) in found.items():
        old = stored[names.index(name)] if name in names else {}
        if names.count(name) > 1:
            raise usage_error(f"{place}: the server has several evaluators of that name",
                              "Rename or delete them: 'twosignal evaluators list' shows their IDs.")
        if not old and "type" not in values:
            raise usage_error(f"{place}: a new evaluator needs a type")
        config = old.get("config")
        if "config" in values:
            shown = mask_config(values["config"]), mask_config(config)
            values["config"] = unmask(values["config"], *shown, config, f"{place}: config")
        changes = {key: values[key] for key in ("type", "config", "enabled")
                   if key in values and not is_same(values[key], old.get(key, MISSING))}
        if changes:
            plan.append({"action": "update" if old else "create", "name": values["name"],
                         "id": old.get("id"), "changes": changes})
            now = {**old, **values}
            for warning in config_warnings(f"{place}: ", now.get("type"), now.get("config")):
                tell(warning)
    return plan + [{"action": "delete", "name": name, "id": row.get("id"), "changes": {}}
                   for name, row in zip(names, stored) if prunes and name not in found]


def apply_change(client, project, row):
    """Makes the change of a row of a plan, and returns the ID of the evaluator."""
    given = dict(row["changes"], projectId=project)
    if row["action"] != "create":
        client.mutate(f"evaluator.{row['action']}", dict(given, id=row["id"]))
        return row["id"]
    given = {"config": {}, **given, "name": row["name"]}
    created = client.mutate("evaluator.create", given, resource_object).get("id")
    if given.get("enabled") is False:       # servers create it enabled
        client.mutate("evaluator.update", {"id": created, "projectId": project, "enabled": False})
    return created


@command("evaluators apply", PROJECT,
         Option("-f, --file FILE...", "evaluators, as 'evaluators export' writes them; - for stdin",
                to_path, required=True),
         Option("--dry-run", "print what would be done, and change nothing"),
         Option("--prune", "delete the evaluators that are not in FILE"), YES,
         examples=("twosignal evaluators apply -f evaluators.json --dry-run",))
def evaluators_apply(client, args, console):
    """Create and update evaluators to match a file."""
    found = evaluators_in([
        RecordFile(path, console.open_stdin("evaluators") if path == "-" else None, EVALUATOR_FILE,
                   is_strict=True) for path in args.file])
    project = chosen_project(client, args)
    stored = client.rows("evaluator.list", {"projectId": project})
    plan = evaluator_plan(found, stored, args.prune, console.tell)
    rows = [dict(row, changes=mask_config(row["changes"], console.keep_secret)) for row in plan]
    table = Listing("changes", (Column("Action", "action"), Column(
        "Changes", lambda row: format_list(list(row["changes"]))), NAME), rows)
    parts = [("", table)] if rows else []
    deleted = [f'"{printable(row["name"])}"' for row in rows if row["action"] == "delete"]
    changes = counted(len(rows), "change")
    unchanged = f"{len(found) - len(rows) + len(deleted)} unchanged."
    if args.dry_run:
        return Details(rows, parts=parts, message=f"Dry run: {changes}, {unchanged}")
    for line in "".join(table.render(Screen(None))).splitlines() if parts else ():
        console.tell(line)
    if deleted and not args.yes:
        question = f"Delete {counted(len(deleted), 'evaluator')}: {', '.join(deleted)}"
        agree(console, question, "changed")
    for count, row in enumerate(plan):
        try:
            rows[count]["id"] = apply_change(client, project, row)
        except BaseException as error:      # Ctrl-C, too
            place, _ = found.get(to_nfc(row["name"]), (f"the deletion of '{row['name']}'", None))
            error.hint = (f"{getattr(error, 'hint', '')} It stopped at {place}, after {count} of "
                          f"{changes}. Running it again makes only the rest.").strip()
            raise
    return Details(rows, message=f"{changes} made, {unchanged}")


# --- datasets
ITEMS = Column("Items", lambda row: format_count(
    row.get("item_count", len(child_records(row, "items")))))
ITEM_COLUMNS = (ID, Column("Input", "input"), Column("Expected", "expected_output"))
add_listing("datasets list", "dataset", (ID, ITEMS, CREATED, NAME), PROJECT)
add_change("datasets create", "dataset.create", "Create a dataset.", PROJECT, *NEW_NAME, DESCRIBE)
add_change("datasets update", "dataset.update", "Change the name or description of a dataset.",
           DATASET, PROJECT, RENAME, DESCRIBE,
           examples=('twosignal datasets update ID --project ID -n "Test Cases"',))
ITEM = Option("ITEM", "ID of the item", plain_id)
TO_DATASET = Option("--dataset ID", "dataset, by ID or name", plain_id, name="id", required=True)
ITEM_OPTIONS = (Option("--input JSON", "input for the agent" + JSON_VALUE),
                Option("--expected JSON", "expected output" + JSON_VALUE, name="expectedOutput"),
                Option("--metadata JSON", "metadata of the item" + JSON_VALUE))


def item_hash(item) -> int:
    """The same for wire items of equal content, whatever the order of keys, and for 1 and 1.0."""
    return hash(canonical_json([item.get(each.name) for each in ITEM_OPTIONS]))


def item_values(client, args, console) -> dict:
    """The IDs of an item's dataset and project, and what options give it, by its wire keys."""
    given = {each.name: json_argument(vars(args)[each.name], each.label, console)
             for each in ITEM_OPTIONS if vars(args).get(each.name)}
    return {**chosen_resource(client, args, "dataset", "datasetId"), **given}


def added_item(client, values, verb="Added") -> Details:
    wire = client.mutate("dataset.addItem", values, resource_object)
    return Details(to_record(wire), ITEM_COLUMNS, message=f"{verb} an item.")


def all_items(client, chosen) -> list:
    """The wire objects of the items in a dataset. Raises Failure unless all are there."""
    try:
        dataset = resource_object(client.query("dataset.getById", chosen))
    except TooLarge as failure:
        failure.hint = ("It is too large to export, or for --skip-existing: after an import that "
                        "broke off, import the file from the line that was named on.")
        raise
    if lacks(dataset, "items"):
        raise protocol_error("The server does not return all items", REPORT_TO_OPERATOR)
    return child_records(dataset, "items")


@command("datasets get", DATASET, PROJECT)
def datasets_get(client, args, console):
    """Show a dataset with its items."""
    wire = client.query("dataset.getById", chosen_resource(client, args, "dataset"))
    record = to_record(resource_object(wire))
    record["items"] = child_records(record, "items")
    rows = Listing("items", ITEM_COLUMNS, record["items"])
    return Details(record, (ID, NAME, DESCRIPTION, CREATED, ITEMS), [("Items", rows)], listing=rows)


def importable(value):
    """The value, or the JSON of a text that would be another one when its cell is read again."""
    found = result_or(None, cell_value, _value_text(value), kinds=ValueError)
    return to_json(value, levels=0) if isinstance(value, str) and found != value else value


@command("datasets export", DATASET, PROJECT, format="jsonl")
def datasets_export(client, args, console):
    """Print the test cases of a dataset, as JSON lines."""
    items = list(map(to_record, all_items(client, chosen_resource(client, args, "dataset"))))
    columns = [*ITEM_COLUMNS[1:], Column("Metadata", "metadata")]
    if not args.fields:
        items = [{each.source: item.get(each.source) for each in columns} for item in items]
    if output_format(args) == "csv":
        items = [{key: importable(value) for key, value in item.items()} for item in items]
    return Listing("items", columns, items)


@command("datasets add-item", PROJECT, DATASET,
         Option("--input JSON", ITEM_OPTIONS[0].help, required=True), *ITEM_OPTIONS[1:],
         examples=("twosignal datasets add-item ID --project ID --input '{\"prompt\": \"Hi\"}'",))
def datasets_add_item(client, args, console):
    """Add a test case to a dataset."""
    return added_item(client, item_values(client, args, console))


@command("datasets add-trace", Option("TRACE", "ID of the trace", plain_id), TO_DATASET, PROJECT,
         Option("--expected-from-output", "expect the output of the root span"), ITEM_OPTIONS[-1])
def datasets_add_trace(client, args, console):
    """Add a test case made from the root span of a trace."""
    item = item_values(client, args, console)
    wire = client.query("trace.getById", trace_input(args.trace, item["projectId"]))
    spans = child_records(to_record(resource_object(wire), "trace"), "spans")
    root = span_tree(spans)[0][1] if spans else {}
    keys = {"input": "input", "output": "expectedOutput"}
    for key in keys if args.expected_from_output else ["input"]:
        if root.get(key) is None:
            raise Failure(f"The trace has no root span with an {key}", "See 'twosignal "
                          f"{with_ids('traces get {id}{project} --io', wire)}'.")
        item[keys[key]] = root[key]
    return added_item(client, item)


@command("datasets update-item", ITEM, TO_DATASET, PROJECT, *ITEM_OPTIONS, examples=(
    "twosignal datasets update-item ITEM --dataset ID --project ID --expected '\"Hi\"'",))
def datasets_update_item(client, args, console):
    """Change a test case, which gets a new ID."""
    new = item_values(client, args, console)
    place = {"projectId": new["projectId"], "id": new["datasetId"]}
    old = named_row(all_items(client, place), args.item, "item", new)
    item = {**{each.name: old.get(each.name) for each in ITEM_OPTIONS}, **new}
    if item_hash(item) == item_hash(old):
        raise usage_error("Nothing to change", "Pass a new --input, --expected or --metadata.")
    result = added_item(client, {"input": None, **without_none(**item)}, "Updated")
    new_id = printable(result.record.get("id"))
    try:
        client.mutate("dataset.removeItem", {
            "itemId": old["id"], "projectId": place["projectId"], "datasetId": place["id"]})
    except BaseException as error:      # Ctrl-C, too
        command_line = with_ids("datasets remove-item {id}{project}", dict(place, id=old["id"]))
        error.hint = f"Added item {new_id}. Remove the old one with 'twosignal {command_line}'."
        raise
    console.tell(f"Note: the item has a new ID: {new_id}.")
    return result


@command("datasets remove-item", ITEM, PROJECT, YES)
def datasets_remove_item(client, args, console):
    """Remove a test case from a dataset."""
    item, place = {"id": args.item}, {"projectId": chosen_project(client, args)}
    confirm(client, args, console, "item", place, "remove", item)
    client.mutate("dataset.removeItem", dict(place, itemId=args.item))
    return Details({"id": args.item, "removed": True}, message="Removed an item.")


ITEM_KEYS = {"input": "input", "expectedOutput": "expectedOutput", "metadata": "metadata",
             "expected_output": "expectedOutput", "expected": "expectedOutput"}   # in a file


class ItemImport:
    """Adds the items in a file to a dataset, and keeps account of them."""
    total = added = failed = 0

    def __init__(self, console, keeps_going):
        from collections import Counter
        self.console, self.keeps_going = console, keeps_going
        self.known = Counter()      # item_hash()es of those to skip
        self.failures = []          # the first of those that were rejected
        self.since = console.clock.monotonic()

    def read(self, file, keys):
        """Saves the items in a RecordFile; keys: {key or column in it: key of an item}.
        Raises a usage error for one that cannot be used."""
        self.path, ignored = file.path, {}
        for self.total, record in enumerate(file, 1):
            if type(record) is not dict:
                raise file.unusable("is not an object")
            given = [name for name in keys if record.get(name) is not None]
            item = {keys[name]: record[name] for name in given}
            if len(item) < len(given):
                raise file.unusable("has a value in two spellings")
            if "input" not in item:
                raise file.unusable("has no input")
            if len(ignored) < MAX_PROBLEMS:
                ignored.update(dict.fromkeys(name for name in record if name not in keys))
            self.spool.write(json.dumps([self.total, file.line, file.place, item]) + "\n")
        if not self.total:
            raise file.unusable("is the end: there are no test cases")
        if ignored:
            self.console.tell(f"Ignored: {', '.join(ignored)}")

    def items(self):
        """Yields ((number, line, place), item) of each that is not known."""
        self.spool.seek(0)
        for *key, item in map(json.loads, self.spool):
            content = item_hash(item) if self.known else None
            if self.known[content]:
                self.known[content] -= 1
            else:
                yield tuple(key), item

    def run(self, client, target):
        """target: the IDs of the dataset and its project. Raises Failure, with what is certain."""
        changes = ConcurrentChanges(client, "dataset.addItem", self.note)
        try:
            changes.run((key, {**target, **item}) for key, item in self.items())
        except BaseException as error:      # Ctrl-C, too
            is_certain = leaves_unchanged(error)
            if self.added or not is_certain:
                hint = f"{error.hint} " if is_certain and error.hint else ""
                for _, _, place in sorted(changes.uncertain)[:1]:
                    hint += f"{place.capitalize()} is the first that may be missing. "
                error.hint = (f"{hint}{self.progress()}. To add the rest, and nothing twice, "
                              "repeat the command with --skip-existing.")
            raise

    def progress(self, verb="Added") -> str:
        return f"{verb} {self.added:,} of {counted(self.total, 'item')}"

    def note(self, key, result):
        """Takes down what became of an item. Raises what ends the import."""
        if not isinstance(result, Failure):
            self.added += 1
            self.console.progress(self.progress(), self.since)
            return
        is_rejected = result.exit_code == 1 and result.code != "FAILED"
        if is_rejected or not leaves_unchanged(result):
            result.message = f"{self.path}, {key[2]}: {result.message}"
        if not is_rejected or not self.keeps_going:
            raise result
        self.console.say(result.message, *("  " + problem for problem in result.problems))
        self.failed += 1
        if self.failed <= MAX_FAILURES:
            message = "; ".join([result.message, *result.problems])
            self.failures.append({"line": key[1], "message": message})

    def result(self, dataset_id, is_dry_run) -> Details:
        key, verb = ("would_add", "Would add") if is_dry_run else ("added", "Added")
        skipped = self.total - self.added - self.failed
        message = self.progress(verb) + (f"; {skipped:,} already there." if skipped else ".")
        rejection = Failure(f"The server rejected {counted(self.failed, 'item')}")
        return Details({"dataset_id": dataset_id, key: self.added, "skipped": skipped,
                        "failed": self.failed, "failures": self.failures}, message=message,
                       conclude=lambda: Outcome(failure=rejection if self.failed else None))


@command("datasets import", DATASET,
         Option("FILE", "JSON, JSON lines or CSV, which may be gzipped; - for stdin", to_path),
         PROJECT, Option("--input-column NAME", "column or key (default: input)", name="input"),
         Option("--expected-column NAME", "(default: expected_output)", name="expectedOutput"),
         Option("--metadata-column NAME", "(default: metadata)", name="metadata"),
         Option("--skip-existing", "skip items that are in the dataset already"),
         Option("--keep-going", "skip items that the server rejects; exit 1 at the end"),
         Option("--dry-run", "check the file, and change nothing"),
         examples=("twosignal datasets import ID cases.csv --project ID --input-column question",))
def datasets_import(client, args, console):
    """Add the test cases in a file to a dataset."""
    from tempfile import TemporaryFile
    given = {vars(args)[each.name]: each.name for each in ITEM_OPTIONS if vars(args)[each.name]}
    usual = {name: key for name, key in ITEM_KEYS.items() if key not in given.values()}
    keys = {**usual, **given}
    columns = {name: name in given or name == "input" for name in keys}
    stream = console.open_stdin("test cases") if args.file == "-" else None
    file = RecordFile(args.file, stream, see_help("datasets", "import"), True, columns)
    work = ItemImport(console, args.keep_going)
    try:
        with TemporaryFile("w+", encoding="ascii") as work.spool:
            work.read(file, keys)
            place = chosen_resource(client, args, "dataset")
            if args.skip_existing:
                work.known.update(map(item_hash, all_items(client, place)))
            if args.dry_run:
                stored_row(client, "dataset", place)        # it may not exist
                work.added = sum(1 for _ in work.items())
            else:
                work.run(client, {"datasetId": place["id"], "projectId": place["projectId"]})
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise unwritable_file("a temporary file", error, "Free some space, or set TMPDIR.")
    return work.result(place["id"], args.dry_run)


add_deletion("datasets delete", DATASET, "dataset", "Delete a dataset and its items.")


# --- API keys
OUTPUT_ENV = Option("--output-env FILE", "set TWOSIGNAL_API_KEY in FILE and print no key", to_path)
KEY_STATUS = Column("Status", lambda row: "revoked" if row.get("revoked_at") else "active")
KEY_FIELDS, REVOKE = (ID, Column("Key", "key")), "'twosignal api-keys revoke {id}{project}'."
add_listing("api-keys list", "apiKey", (
    ID, KEY_STATUS, NAME, Column("Last used", "last_used_at", format_age),
    Column("Key", lambda row: printable(row.get("key_prefix")) + "…")), PROJECT)


def key_object(answer) -> dict:
    """The wire object of a new API key. Raises BAD_ANSWER for anything else."""
    if not isinstance(to_record(resource_object(answer)).get("key"), str):
        raise protocol_error("The server's response has no key")
    return answer


def new_key(client, args, console, procedure, verb="", **values) -> Details:
    """The Details of a new API key, which --output-env leaves out of them. Raises Failure."""
    path = args.output_env
    if not path and args.fields not in (None, ["?"]) and "key" not in args.fields:
        raise usage_error("--fields leaves out the key, which is shown only once", "Add key to it.")
    if path:
        env_content(path)
        with output_file(path) as file:
            file.prove()
            file.cancel()
    result = changed(client, args, procedure, KEY_FIELDS, verb, key_object, **values)
    key = result.record["key"]
    console.keep_secret(key)
    try:
        if vars(args).get("verify"):
            client.key = key
            rows_of(client.rest("GET", "/traces", {"limit": 1}))
        if path:
            write_env_key(path, key)
    except BaseException as error:      # Ctrl-C, too
        error.hint = rescue(client, console, result.record, procedure, values)
        raise
    result.message += " Save the key now: it is not shown again."
    if path:
        result.record = {name: value for name, value in result.record.items() if value != key}
        result.record["env_file"] = printable(path)
        result.message = f"The key is in {printable(path)}, which only you can read now."
    return result


def rescue(client, console, record, procedure, values) -> str:
    """Prints a new key if the old one is gone, or else revokes it; returns a sentence on it."""
    if procedure == "apiKey.rotate":
        console.print(to_json(record) + "\n", is_data=True)
        console.flush()
        return "The new key is on stdout."
    new = {"id": record.get("id"), "projectId": values["projectId"]}
    if isinstance(result_or_failure(client.mutate, "apiKey.revoke", new), Failure):
        return f"No other key was changed. To revoke the new one: {with_ids(REVOKE, new)}"
    return f"No other key was changed; the new one, {printable(new['id'])}, is revoked again."


@command("api-keys create", PROJECT, *NEW_NAME, OUTPUT_ENV, exclusive=("--output", "--output-env"))
def api_keys_create(client, args, console):
    """Create an API key, which is shown only once."""
    return new_key(client, args, console, "apiKey.create", name=args.name,
                   projectId=chosen_project(client, args))


@command("api-keys rotate", API_KEY, PROJECT, OUTPUT_ENV, YES,
         Option("--verify", "revoke the old key only once the REST API accepts the new one"),
         exclusive=("--output", "--output-env"))
def api_keys_rotate(client, args, console):
    """Replace an API key; the new one is shown only once."""
    chosen = chosen_resource(client, args, "apiKey")
    old = stored_row(client, "apiKey", chosen) if args.verify else None
    confirm(client, args, console, "apiKey", chosen, "rotate", old)
    procedure, values = "apiKey.rotate", chosen
    if args.verify:
        if old.get("revokedAt"):
            raise Failure("The server refused: API key is revoked", code="BAD_REQUEST")
        procedure, values = "apiKey.create", dict(chosen, id=None, name=old.get("name"))
    result = new_key(client, args, console, procedure, "Rotated", **values)
    result.record["rotated_from_id"] = chosen["id"]
    # Called when the new key has been shown.
    result.conclude = functools.partial(old_key_state, client, console, chosen, args.verify)
    return result


def old_key_state(client, console, chosen, is_left) -> Outcome:
    """Revokes an old key if it is left, and says what has become of it; chosen: its IDs."""
    if not console.file:            # a document is not finished yet: the key is in it, though
        console.flush()
    failure = is_left and result_or_failure(client.mutate, "apiKey.revoke", chosen)
    old = result_or(None, stored_row, client, "apiKey", chosen)
    status = KEY_STATUS.text(to_record(old)) if old else "unknown"
    if status == "revoked":
        return Outcome(["The old key is revoked."])
    return Outcome([f"Status of the old key: {status}. To revoke it: {with_ids(REVOKE, chosen)}"],
                   failure if isinstance(failure, Failure) else None)


add_deletion("api-keys revoke", API_KEY, "apiKey",
             "Revoke an API key: whatever uses it stops working.", "revoke")


# --- routing and prompts
ROUTING_CONFIG = Option("ID", "routing config, by ID or name", plain_id)
ROUTING_OPTIONS = (Option("--rules JSON", "list of all rules" + JSON_VALUE), *STATE)
ROUTING_FIELDS = (ID, ENABLED, Column("Default model", "default_model"), NAME)
PROMPT = Option("NAME", "name of the prompt template")
add_listing("routing list", "modelRouting", ROUTING_FIELDS, PROJECT)
add_showing("routing get", ROUTING_CONFIG, "modelRouting", "Show a routing config with its rules.",
            ROUTING_FIELDS, "rules")


@command("routing update", ROUTING_CONFIG, PROJECT, RENAME,
         Option("--default-model MODEL", "new default model"), *ROUTING_OPTIONS,
         exclusive=ONE_STATE, help="Change a routing config.",
         examples=("twosignal routing update NAME --rules @rules.json",))
@command("routing create", PROJECT, *NEW_NAME,
         Option("--default-model MODEL", "model if no rule matches", required=True),
         *ROUTING_OPTIONS, exclusive=ONE_STATE, help="Create a routing config.")
def routing_change(client, args, console):
    rules = json_argument(args.rules, "--rules", console)
    rules = get_item(rules, "rules", rules)     # as 'routing get --json' prints them
    is_list = isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules)
    if args.rules is not None and not is_list:
        raise usage_error("Invalid --rules: must be a list of objects",
                          "'twosignal routing get ID --json' shows the rules of a config.")
    given = without_none(name=args.name, defaultModel=args.default_model, rules=rules,
                         enabled=given_state(args))
    if "id" not in vars(args):
        given = {"projectId": chosen_project(client, args), "rules": [], "enabled": True, **given}
        return changed(client, args, "modelRouting.create", ROUTING_FIELDS, **given)
    if not given:
        raise usage_error("Nothing to change", "Pass an option, such as --rules or --disable.")
    given.update(chosen_resource(client, args, "modelRouting"))
    return changed(client, args, "modelRouting.update", ROUTING_FIELDS, **given)


add_deletion("routing delete", ROUTING_CONFIG, "modelRouting", "Delete a routing config.")


@command("routing test", Option("--input TEXT", "input to route, as it is", required=True),
         Option("--config NAME", "name of a routing config"), takes_key=True)
def routing_test(client, args, console):
    """Show the model for an input; requires a project API key."""
    given = without_none(input=args.input, configName=args.config)
    wire = client.rest("POST", "/route-model", given, RETRIED_STATUSES)
    record = to_record(resource_object(wire))
    if not isinstance(record.get("model"), str):
        raise wrong_type("the model")
    return Details(record, (Column("Model", "model"), Column("Config", "config_name"),
                            Column("Complexity", "complexity")))


@command("prompts list", takes_key=True)
def prompts_list(client, args, console):
    """List a project's prompt templates; requires its API key."""
    rows = list(map(to_record, rows_of(client.rest("GET", "/prompt-templates"))))
    return Listing("prompt templates", (ID, Column("Version", "latest_version"), Column(
        "Updated", "updated_at", format_age), NAME), rows)


@command("prompts get", PROMPT, Option("--version N", "version (default: the latest)", POSITIVE),
         Option("--raw", "print only the content, as it was pushed"), takes_key=True)
def prompts_get(client, args, console):
    """Show a prompt template; requires a project API key."""
    given = without_none(name=args.name, version=args.version)
    record = to_record(resource_object(client.rest("GET", "/prompt-templates", given)))
    content = get_item(record.get("version"), "content")
    if not isinstance(content, str):
        raise wrong_type("the content")
    if args.version and to_number(record["version"].get("version")) != args.version:
        raise protocol_error("The server returned another version", "Omit --version.")
    if args.raw:
        if is_terminal(console.file.file if console.file else console.stdout):
            content = "\n".join(map(printable, re.split("\r?\n", content)))
        return Text(content)
    fields = (NAME, Column("Version", "version"), Column("Variables", "variables", format_list),
              Column("Message", "commit_message"), CREATED)
    return Details(record, (), [("", Details({**record, **record["version"]}, fields)),
                                ("", UserData([("Content", content)]))])


@command("prompts push", PROMPT, DESCRIBE, Option("-m, --message TEXT", "what has changed"),
         Option("--content TEXT", "content: text, @FILE, or - for stdin", required=True),
         Option("--variable NAME...", "variable (default: each {{NAME}} in the content)"),
         takes_key=True, examples=("twosignal prompts push NAME --content @prompt.md",))
def prompts_push(client, args, console):
    """Create a prompt or a new version; requires an API key."""
    content = text_argument(args.content, "--content", console)
    if not content.strip():
        raise usage_error("Invalid --content: must not be empty")
    if os.path.isfile(args.content):
        raise usage_error("--content is the name of a file", "To read it, put @ before its name.")
    found = re.findall(r"\{\{\s*(\w[\w.-]*)\s*\}\}", content)
    record = to_record(client.rest("POST", "/prompt-templates", without_none(
        name=args.name, content=content, variables=list(dict.fromkeys(args.variable or found)),
        description=args.description, commitMessage=args.message), read=resource_object,
        check=with_ids("prompts get {id}", {"id": args.name})))
    number = printable(get_path(record, "version.version"))
    return Details(record, message=f'Pushed version {number} of "{printable(args.name)}".')


# --- usage
def used_of_limit(record) -> str:
    """46,000 of 50,000  ███░ 92.0%; without a bar if one of them is not known."""
    used, limit = record["traces_used"], record["traces_limit"]
    if limit is None:
        return format_count(used) + (" (unlimited)" if record["plan"] in PLANS else "")
    text = f"{format_count(used)} of {format_count(limit)}"
    if used is None or not limit:
        return text
    filled = min(20, max(0, int(used / limit * 20)))
    return f"{text}  {'█' * filled:░<20} {used / limit * 100:.1f}%"


def limit_column(heading, key) -> Column:
    """Of what a plan limits; null is unlimited, if the plan is known."""
    return Column(heading, lambda row: "unlimited" if row[key] is None and row["plan"] in PLANS
                  else format_count(row[key]))


MONTH, SPANS_USED = Column("Month", "month"), Column("Spans", "spans_used", format_count)
MONTH_COLUMNS = (Column("Traces", "traces_used", format_count), SPANS_USED,
                 Column("Evals", "evals_used", format_count))
USAGE_FIELDS = (                    # the server counts all runs, the plan limits LLM evaluations
    Column("Organization", "organization_name"), MONTH, PLAN, Column("Traces", used_of_limit),
    Column("Evaluator runs", "evals_used", format_count),
    limit_column("LLM evaluations of the plan", "evals_limit"), SPANS_USED,
    limit_column("Days of retention", "retention_days"), limit_column("Seats", "seats"),
    Column("Seats used", "seats_used", format_count),
    limit_column("Requests per second", "requests_per_second"))


@command("usage", ORG,
         Unlisted("--fail-above PERCENT", "exit 10 above this % of the trace limit", parse_percent),
         Option("--months N", f"show N months, at most {MAX_MONTHS}", MONTHS),
         Option("--project ID", "list one project, this month", plain_id, completes="projects"),
         JUNIT, is_gate=True, exclusive=("--fail-above", "--months", "--project"),
         examples=("twosignal usage --org ID", "twosignal usage --org ID --fail-above 90"))
def usage(client, args, console):
    """Show an organization's usage this month, and its limits."""
    if args.junit and args.fail_above is None:
        raise usage_error("--junit requires --fail-above", "Pass both, or neither.")
    if args.months:
        return usage_history(client, organization_id(client, args.org), args.months)
    record = current_usage(client, args)
    columns = (Column("Project", "project_id"), *MONTH_COLUMNS, Column("Name", "project_name"))
    projects = Listing("usage", columns, record["projects"])
    result = Details(record, USAGE_FIELDS, [("Projects", projects)], listing=projects)
    if args.fail_above is not None:
        check = usage_check(record, args.fail_above)
        result.checks = [check]
        if record["traces_limit"] is None:
            console.tell("The plan does not limit traces: --fail-above always passes.")
        elif not check.passed:
            result.conclude = lambda: Outcome(failure=Failure(
                f"Usage exceeds {check.threshold_text.lstrip('≤ ')} of the plan: "
                f"{check.measured_text} of traces", "Reduce usage or upgrade the plan.",
                "CHECK_FAILED"))
    return result


def current_usage(client, args) -> dict:
    """The record of this month, with the names of its projects; of only one if that is chosen."""
    organizations = client.rows("organization.list")
    org = args.org and find_id(args.org, "organization", lambda: organizations)
    listed = []                     # a gate does without names
    if args.fail_above is None:
        listed = result_or([], visible_projects, client, org, organizations,
                           kinds=() if args.project else Failure)
    if args.project:
        listed = [named_row(listed, args.project, "project")]
        org = org or listed[0].get("organizationId")
    wire = resource_object(client.query("usage.getCurrentMonth", {"organizationId": org}))
    found = next((each for each in organizations if each.get("id") == org), {})
    record = usage_record(wire, found.get("plan"))
    record.update(seats_used=to_number(found.get("memberCount")), organization_id=org,
                  organization_name=found.get("name"))
    names = {str(row.get("id")): row.get("name") for row in listed}
    record["projects"] = [dict(row, project_name=names.get(str(row.get("project_id"))))
                          for row in child_records(record, "projects")
                          if not args.project or str(row.get("project_id")) in names]
    return record


def usage_history(client, org, months) -> Listing:
    wires = client.rows("usage.getHistory", {"organizationId": org, "months": months})
    rows = sorted([{"month": None, **to_record(wire, "usage")} for wire in wires],
                  key=lambda row: str(row["month"]))[-months:]
    most = max([to_amount(row["traces_used"]) or 0 for row in rows], default=0)
    bars = Column("", lambda row: chart_bar(to_amount(row["traces_used"]), most))
    return Listing("months", (MONTH, MONTH_COLUMNS[0], bars, *MONTH_COLUMNS[1:]), rows)


def usage_check(record, limit) -> CheckResult:
    """The verdict on the traces that are used: at most this share of the plan's. Raises Failure."""
    if record["plan"] not in PLANS:
        raise Failure(f"The limits of the plan '{printable(record['plan'])}' are not known",
                      "Omit --fail-above.", "NOTHING_TO_CHECK")
    used, allowed = record["traces_used"], record["traces_limit"]
    if used is None or used < 0:
        raise wrong_type("the usage")
    threshold = Metric(f"traces of the {'' if allowed else 'unlimited '}plan", format_percent)
    share = used / (allowed or float("inf"))
    return CheckResult(threshold, limit, share, threshold.holds(share, limit))


# --- what has no command of its own
@command("api", Option("[GET|POST]", "default: GET", None, "method", choices=("GET", "POST")),
         Option("PATH-OR-PROCEDURE", "e.g. /api/v1/traces (REST) or trace.list (tRPC)", str, "call",
                choices={each["name"]: each for each in KNOWN_CALLS}),
         Option("-f, --field NAME=VALUE...", "input field: text, or @FILE", parse_metadata),
         Option("--input JSON", "input of a procedure or POST" + JSON_VALUE),
         Option("--mutation", "the same as POST", name="method", constant="POST"), SHOW_SECRETS,
         Option("--list", "list known procedures and paths, with inputs", name="call", constant=""),
         exclusive=("--field", "--input"), takes_key=lambda args: "/v1/" in (args.call or ""),
         examples=("twosignal api GET /api/v1/prompt-templates -f name=greeting",
                   "twosignal api POST /api/v1/prompt-templates -f name=greeting -f content=@FILE"))
def api(client, args, console):
    """Call a procedure or the REST API; print the raw answer."""
    if not args.call:
        formats = {"kind": printable, "name": printable, "inputs": format_list}
        columns = [Column(key.title(), key, formats[key], never_cut=True) for key in formats]
        return Listing("procedures", columns, KNOWN_CALLS)
    match = re.match(_CALL, args.call)
    if not match:
        raise usage_error(f"'{args.call}' is neither a procedure such as trace.list, nor a path "
                          "such as /api/v1/traces", "Parameters go into --field.")
    name, is_change = match.group(1) or match.group(2), args.method == "POST"
    call = client.mutate if is_change else client.query
    if "/" in name:
        call = functools.partial(client.rest, args.method or "GET")
        if args.input and not is_change:
            raise usage_error("A GET takes no --input", "Use POST, or --field NAME=VALUE.")
    text = "{}" if is_change and args.input is None else args.input
    values = {key: value if value == "-" else text_argument(value, "--field", console)
              for key, value in args.field or ()} or json_argument(text, "--input", console)
    mask_config(values, console.keep_secret, bool(args.field))      # an error may repeat it
    try:
        answer = call(name, values)
    except Failure as failure:
        is_unknown = failure.code == "BAD_ANSWER" and not is_change
        if is_unknown or failure.code in ("UNSUPPORTED", "METHOD_NOT_SUPPORTED", "BAD_REQUEST"):
            failure.hint = "Check the name, GET or POST, and the input: see 'twosignal api --list'."
        raise
    is_key = name in ("apiKey.list", "apiKey.revoke")       # the others return a new one
    hides_secrets = (is_key or "evaluator" in name.lower()) and not args.show_secrets
    return Text(mask_config(answer, is_config=is_key) if hides_secrets else answer, is_json=True)


# --- doctor
VARIABLES = r"(?i)(TWOSIGNAL_|SSL_CERT_|(https?|all|no)_proxy\Z)"       # that doctor names
LAYERS = {                          # each with those that it requires; Checkup.check_NAME checks it
    "program": "", "home": "", "settings": "", "name": "settings", "connection": "name",
    "proxy": "connection", "TLS": "proxy", "health": "TLS", "protocol": "TLS", "clock": "health",
    "session": "home protocol", "key": "health"}
PROBED = ("trace.getById", "no.such")       # procedures: of newer servers, of none


class Checkup:
    """Checks what lies between a user and a server. The method of a layer yields what it finds,
    adds hints if that deserves a warning, and raises Failure if the layer is broken."""

    def __init__(self, args, console):
        self.args, self.console, self.clock = args, console, console.clock
        session = result_or_failure(load_session, self.clock)
        self.is_key_alone = has_key() and (not session or isinstance(session, NoHome))
        self.client, self.hints, self.exit_code = None, [], 0

    def records(self):
        """Yields the record of each layer, but for those that cannot be checked."""
        broken = set()
        for layer, required in LAYERS.items():
            if broken.intersection(required.split()):
                broken.add(layer)
                continue
            facts, self.hints, status = [], [], "OK"
            try:
                for fact in getattr(self, f"check_{layer.lower()}")():
                    facts.append(fact)
            except Failure as failure:
                facts.append(failure.message)
                self.hints.append(failure.hint)
                # A key needs neither a home nor a session here; who holds the lock will end.
                is_minor = layer == "home" and (self.is_key_alone or failure.code == "LOCKED")
                if not is_minor and not (failure.code == "NOT_LOGGED_IN" and has_key()):
                    status = "FAIL"
                    self.exit_code = self.exit_code or failure.exit_code
                    broken.add(layer)
            if self.hints and status == "OK":
                status = "WARN"
            *found, hint = [self.console.masked(mask_urls(text, self.console.keep_secret))
                            for text in facts + [" ".join(self.hints)]]
            yield {"layer": layer, "status": status, "found": "\n".join(found), "hint": hint}

    def explained(self, function, *arguments, share=1):
        """What a function of Transport returns by a deadline. Raises Failure."""
        transport = self.client.transport
        deadline = transport.deadline(transport.timeout / share)
        try:
            return function(*arguments, deadline)
        except Exception as error:
            request = Request("GET", self.url, {}, None, deadline, proxy=self.route[2])
            raise request_error(error, request, transport.access)

    def get(self, path) -> Response:
        return self.client.transport.request("GET", f"{self.url}/api/{path}")

    def check_program(self):
        yield f"{VERSION_LINE.strip()}, checked at {iso_timestamp(self.clock.time())}"
        yield f"{sys.implementation.name}, {sys.executable}"
        ssl = result_or(None, __import__, "ssl", kinds=ImportError)
        yield ssl.OPENSSL_VERSION if ssl else "no ssl module"

    def check_settings(self):
        names = [name for name in os.environ if re.match(VARIABLES, name) and os.environ[name]]
        yield f"variables: {', '.join(sorted(names)) or 'none'}"
        # Without a session, the address that a key goes to is the one that matters.
        self.url, source = url_and_source(self.args.url, self.clock, self.is_key_alone)
        yield f"address: {self.url} ({source})"
        self.client = connect((self.url, source), self.args, self.console)
        transport, access = self.client.transport, self.client.transport.access
        transport.timeout = self.args.timeout or DOCTOR_TIMEOUT
        transport.tell = lambda text: None      # remarks are findings here
        paths = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        paths["--ca-cert" if self.args.ca_cert else "config.json"] = access.ca_cert
        authorities = [f"{path} ({source})" for source, path in paths.items() if path]
        yield f"certificate authorities: {', '.join(authorities or ['those of this machine'])}"
        self.route = find_route(self.url)
        if self.route[0] == "https":
            tls_context(access)     # raises what is wrong with Python's ssl, or with the files

    def check_home(self):
        path = home_directory()
        yield path + (" (TWOSIGNAL_HOME)" if setting("TWOSIGNAL_HOME") else "")
        load_config(self.clock)
        session = load_session(self.clock)
        yield f"session of {session.user_email}" if session else "no session"
        if not os.path.isdir(path):
            while not os.path.lexists(path) and path != os.path.dirname(path):  # a drive
                path = os.path.dirname(path)
            if not os.access(os.path.join(path, ""), os.W_OK):
                raise Failure(f"Cannot create it in {path}", HOME_HINT)
            yield "does not exist yet; 'twosignal login' creates it"
            return
        yield f"mode {os.stat(path).st_mode & 0o7777:04o}"
        modes = [os.stat(each).st_mode for each in (path, session_file()) if os.path.exists(each)]
        if os.name != "nt" and len(modes) > 1 and modes[0] & 0o011 and modes[1] & 0o044:
            self.hints.append(f"Others can read your session: chmod 600 {session_file()}")
        with Spending(self.clock.monotonic() + 1, self.clock) as spending:
            spending.reserve()

    def check_name(self):
        host, port = endpoint(self.route)
        self.addresses = self.explained(find_addresses, host, port)
        yield f"{host}: {', '.join(each[4][0] for each in self.addresses)}"

    def check_connection(self):
        failures = []
        for each in self.addresses:
            place = f"{each[4][0]} port {each[4][1]}"
            try:
                self.explained(open_socket, [each], share=len(self.addresses)).close()
                yield f"{place}: connected"
            except Failure as failure:
                failures.append(failure)
                yield f"{place}: no connection"
        if len(failures) == len(self.addresses):
            if failures[0].code == "TIMED_OUT":
                failures[0].hint = "Check the address, firewalls, and your proxy settings."
            raise failures[0]
        if failures:
            self.hints.append("Correct the host's DNS entry, or a firewall in between.")

    def check_proxy(self):
        """Asks for /api/v1/health, too; what comes of it belongs to the layers below."""
        proxy = self.route[2]
        yield proxy or "none"
        if proxy:
            self.explained(open_connection, self.route).sock.close()
        self.health = result_or_failure(self.get, "v1/health")
        if proxy and getattr(self.health, "status", 0) == 407:
            raise proxy_refusal(407, self.route)

    def check_tls(self):
        if self.route[0] == "http":
            yield "none"
            if not is_local(self.url):
                self.hints.append("The connection is not encrypted: use an https:// address.")
            return
        protocol, chain = result_or(("TLS", []), self.explained, peer_certificates, self.route,
                                   kinds=InsecureConnection)
        yield protocol
        certificates = list(filter(None, map(read_certificate, chain)))
        for issuer, start, end, names in certificates:
            dates = f"{iso_timestamp(start)[:10]} to {iso_timestamp(end)[:10]}"
            yield f"valid from {dates}, issued by {issuer}, for {', '.join(names)}"
        if not certificates:
            yield "certificate not readable here"
        left = (certificates[0][2] if certificates else ALL) - self.clock.time()
        if isinstance(self.health, InsecureConnection):
            if left < 0:                    # Python 3.6 does not say why
                self.health.hint = _CERTIFICATE_HINTS[10]
            raise self.health
        if getattr(self.health, "was_sent", True):
            yield "trusted"
        if left < EARLY_RENEWAL:
            days = counted(max(0, int(left // DAY)), "day")
            self.hints.append(f"Renew the certificate on the server: it expires in {days}.")

    def check_health(self):
        if isinstance(self.health, Failure):
            raise self.health
        found = result_or_failure(response_json, self.health)
        status = get_item(get_item(found, "data", found), "status")
        if self.health.status == 200 and isinstance(status, str):
            self.hints += [] if status.lower() == "ok" else [REPORT_TO_OPERATOR]
            yield f"status {status}"
        elif self.health.status in (200, 404) and result_or(None, list, self.check_protocol()):
            self.hints.append("Not every version of the server tells: see the layers below.")
            yield "unknown"
        else:
            failure = found if isinstance(found, Failure) else foreign_response(self.health)
            if failure.code != "GATEWAY" and not is_own_error(get_item(found, "error")):
                failure.hint += f" Open {self.url} in a browser: it may be a captive portal."
            raise failure

    def check_protocol(self):
        response = self.get(f"trpc/{','.join(PROBED)}?batch=1&input=%7B%7D")
        answers = result_or(None, response_json, response)
        has_batches = isinstance(answers, list) and len(answers) == len(PROBED)
        responses = [response if has_batches else self.get(f"trpc/{name}") for name in PROBED]
        answers = answers if has_batches else map(response_json, responses)
        known, unknown = [result_or_failure(trpc_value, *each, kinds=(Failure, MissingProcedure))
                          for each in zip(answers, responses, PROBED)]
        for each in known, unknown:
            if isinstance(each, TransientFailure):      # UNAUTHORIZED is an answer of tRPC, too
                raise each
        trpc = unknown.args[0] if isinstance(unknown, MissingProcedure) else "of unknown version"
        yield f"tRPC {trpc}, {'older' if isinstance(known, MissingProcedure) else 'current'} names"
        yield f"batching {'on' if has_batches else 'off'}"

    def check_clock(self):
        ahead = self.client.transport.clock_ahead
        if ahead is None:
            self.hints.append("Compare the clocks yourself, for example with 'date -u'.")
            yield "unknown: the server sends no usable Date header"
        elif abs(ahead) > MAX_CLOCK_DIFFERENCE:
            self.hints.append("Synchronize this machine's clock, or the server's, with NTP.")
            yield clock_difference(ahead)
        else:
            yield "within a minute of the server's"

    def check_session(self):
        if self.is_key_alone or not load_session(self.clock):
            self.hints += [] if self.is_key_alone else [not_logged_in(self.url).hint]
            yield "none"
        else:
            session = self.client.auth.session()
            yield f"{session.user_email} at {self.url}, until {iso_timestamp(session.expires_at)}"
            for row in self.client.rows("organization.list"):
                yield f"{printable(row.get('role'))} in {printable(row.get('name'))}"

    def check_key(self):
        key = api_key()
        if not key:
            yield "none"
            return
        url, source = url_and_source(self.args.url, self.clock, key)
        yield f"for {url} ({source})"
        if url != self.url:         # what opens a gateway here is not for another server
            self.hints.append(f"It is not checked here; run 'twosignal doctor --url {url}'.")
            return
        self.console.keep_secret(key)
        response = self.client.transport.request(
            "GET", f"{url}/api/v1/traces?limit=1", {"Authorization": f"Bearer {key}"})
        rows_of(rest_value(response))
        limit = re.match("[0-9]+", response.headers.get("RateLimit-Limit") or "")
        yield "accepted" + (f", {limit.group()} requests a second" if limit else "")


@command("doctor", is_offline=True, examples=("twosignal doctor", "twosignal doctor -o report.txt"))
def doctor(client, args, console):
    """Check all between you and the server, layer by layer.
    The exit code is that of the first layer that fails. No secret is printed."""
    checkup = Checkup(args, console)
    records = list(checkup.records())
    if checkup.client:
        checkup.client.transport.close()
    texts = [(f"{each['status']:4}  {each['layer']}", "\n→ ".join(
        filter(None, (each["found"], each["hint"])))) for each in records]
    skipped = [layer for layer in LAYERS if layer not in [each["layer"] for each in records]]
    texts += [("not checked", ", ".join(skipped))] if skipped else []
    columns = [Column(name.title(), name) for name in ("layer", "status", "found")]
    return Details({"checks": records}, parts=[("", UserData(texts))],
                   listing=Listing("layers", columns, records),
                   conclude=lambda: Outcome(exit_code=checkup.exit_code))


@command("help", Option("[COMMAND...]", "the command to explain"), is_offline=True)
def help_command(client, args, console):
    """Show help for a command."""
    line = CommandLine(args.command or [])
    if not line.is_known:
        raise unknown_command(line.words)
    return Text(help_text(line.words))


@command("version", is_offline=True)
def version(client, args, console):
    """Show the version of this client and of Python."""
    return Text(VERSION_LINE)


############################################################
# Entry
############################################################

# Ctrl-C ends it without a traceback while the module is loaded, too; see the module's first lines.
EXECUTABLE_MAIN = b"""import _signal, sys
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
import twosignal
sys.exit(twosignal.main())
"""
# Each script asks `twosignal __complete`, which prints a candidate a line. Without any, files are.
COMPLETION_SCRIPTS = {"bash": r"""_twosignal() {
  local line
  COMPREPLY=()
  while IFS= read -r line; do
    if [[ ${COMP_WORDS[COMP_CWORD]} != [\"\']* ]]; then printf -v line %q "$line"
    elif [[ $line == *[\"\'\\\$\`!]* ]]; then continue; fi      # it would be expanded
    COMPREPLY+=("$line")
  done < <(twosignal __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _twosignal twosignal
""", "zsh": r"""#compdef twosignal
_twosignal() {
  local -a found
  found=("${(@f)$(twosignal __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [ -n "$found" ]; then compadd -- "${(@)found}"; else compset -P '--*='; _files; fi
}
if [ "$funcstack[1]" = "_twosignal" ]; then _twosignal; else compdef _twosignal twosignal; fi
""", "fish": r"""function __twosignal_complete
    set -l current (commandline -ct)
    set -l words (string escape -- (commandline -opc)[2..-1]) "$current"
    set -l found (twosignal __complete -- $words 2>/dev/null)
    set -l flag (string match -r -- '^--[^=]*=' "$current")
    if test (count $found) = 0
        set found "$flag"(__fish_complete_path (string replace -- "$flag" '' "$current"))
    end
    printf '%s\n' $found
end
complete -c twosignal -f -a '(__twosignal_complete)'
"""}


@command("completion", Option("SHELL", "bash, zsh or fish", choices=COMPLETION_SCRIPTS),
         is_offline=True, examples=('eval "$(twosignal completion bash)"',))
def completion(client, args, console):
    """Print a script that completes commands in a shell."""
    return Text(COMPLETION_SCRIPTS[args.shell])


@command("__complete", Option("[WORD...]", may_be_empty=True), is_offline=True)
def complete(client, args, console):
    """Print what can stand in place of the last word, for the shells' scripts."""
    words = [re.sub(r"\\(.)|[\"']", r"\1", word) for word in args.word or [""]]
    # bash has split words at = : and @, and replaces only what is behind these.
    *before, last = re.sub(r"\0([=:@]+)(\0|\Z)", r"\1", "\0".join(words)).split("\0")
    kept = len(last) - len(words[-1].lstrip("=:@"))
    prefix, current = re.match("(?s)(--[^=]*=)?(.*)", last).groups("")
    before += [prefix[:-1]] if prefix else []
    found = []                      # behind a = if there is no such option, or it takes no value
    mark = "\0"                     # if it is read as an option's value, that is what comes next
    line = CommandLine(before + [mark])
    if line.options and line.options[-1][1] == mark:
        option = line.known_flags()[line.options[-1][0]]
        found = [each for each in option_values(option, line, console.clock)
                 if prefix or not each.startswith("--")]        # it would be read as an option
    elif not prefix:                # a flag or an operand of the command, or a command
        line, is_flag = CommandLine(before), current.startswith("-")
        options = line.command.all_options if line.command else GLOBAL_OPTIONS + (VERSION,)
        expected = [each for each in options if not each.flags and not is_flag][len(line.operands):]
        found = [each for option in expected for each in option_values(option, line, console.clock)]
        found += [flag for flag in flags_of(options) if flag.startswith("--")]
        if line.command is None and not is_flag:
            found = words_after(line.words)
    return Text("".join([(prefix + each)[kept:] + "\n" for each in found
                         if each.startswith(current) and each.isprintable() and each.strip()]))


def option_values(option, line, clock) -> list:
    """Its choices, or the names on the server; none if they cannot be had within a second."""
    from contextlib import closing
    if not option.completes:
        return list(option.choices)
    given = {option.name: line.texts(option) if option.repeatable else line.texts(option)[-1]
             for option in GLOBAL_OPTIONS if option.takes_value and line.texts(option)}
    try:
        url, _ = url_and_source(given.get("url"), clock)
        access = server_access(url, given, clock=clock)
        with closing(Transport(COMPLETION_TIMEOUT, access, clock=clock)) as transport:
            transport.until = transport.deadline()      # for all requests together
            client = Client(url, transport, may_refresh=False)
            rows = client.rows("organization.list") if option.completes == "organizations" else (
                visible_projects(client, "".join(line.texts(ORG))))
    except Failure:
        return []
    return [row["name"] for row in rows if isinstance(row.get("name"), str)]


@command("install", Option("[DIR]", "directory (default: ~/.local/bin)"), is_offline=True)
def install(client, args, console):
    """Install this program as a file that starts faster."""
    import shutil
    hint = "Name a directory that you can write to: twosignal install DIR."
    content = executable_content()
    directory = absolute_path(args.dir or os.path.join("~", ".local", "bin"), hint)
    path = os.path.join(directory, "twosignal")
    make_directory(directory, hint, 0o755)
    with AtomicFile(path, 0o755, hint, follow_links=False) as file:
        file.write(content)
    remarks = [] if is_same_file(path, shutil.which("twosignal") or "") else [
        f'Put its directory first on PATH: export PATH="{directory}:$PATH"']
    return Details({"path": path, "version": __version__}, conclude=lambda: Outcome(remarks),
                   message=f"Installed twosignal {__version__} as {path}.")


def executable_content() -> bytes:
    """A #! line, and a zip file of __main__.py, source and bytecode. Raises a usage error."""
    import zipfile
    source = result_or("", lambda: __loader__.get_source(__spec__.name if __spec__ else __name__),
                       kinds=(AttributeError, ImportError, OSError))
    if not source:
        raise usage_error("Cannot install from a pipe", "Run: python3 twosignal.py install")
    # Linux kernels before 5.1 cut the line at 127 characters; none quotes a blank.
    is_usable = re.match(r"\S{1,125}\Z", sys.executable or "")
    interpreter = sys.executable if is_usable else "/usr/bin/env python3"
    source = source.encode("utf-8")
    buffer = io.BytesIO(os.fsencode(f"#!{interpreter}\n"))
    with zipfile.ZipFile(buffer, "a") as archive:       # not compressed: it is read at each start
        archive.writestr(zipfile.ZipInfo("__main__.py"), EXECUTABLE_MAIN)
        archive.writestr(zipfile.ZipInfo("twosignal.py"), source)
        archive.writestr(zipfile.ZipInfo("twosignal.pyc"), bytecode(source))
    return buffer.getvalue()


def bytecode(source: bytes) -> bytes:
    """The content of a .pyc file that this version of Python uses without looking at the source."""
    import importlib.util
    import marshal
    code = compile(source, "twosignal.py", "exec", dont_inherit=True, optimize=0)
    if sys.version_info >= (3, 7):  # PEP 552: a hash that is not checked
        header = b"\1\0\0\0" + importlib.util.source_hash(source)
    else:                           # zipimport compares the time with that of the source
        modified = int(time.mktime((1980, 1, 1, 0, 0, 0, 0, 0, -1)))    # ZipInfo's default
        header = modified.to_bytes(4, "little") + len(source).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + header + marshal.dumps(code)


class Terminated(SystemExit):
    """SIGTERM arrived, or SIGHUP: the terminal went away. Its code is the exit code."""


def raise_terminated(number, frame):
    raise Terminated(128 + number)


def run(argv, console) -> int:
    """Runs a command line and returns its exit code. Raises Failure."""
    line = CommandLine(argv)
    formats = [value.lower() for flag, value in line.options if flag in ("--json", "--format")]
    console.json_errors = formats[-1:] in (["json"], ["jsonl"])
    console.quiet = line.has(QUIET)
    console.debug = line.has(DEBUG)
    if line.is_known and (line.has(VERSION) or line.has(HELP)):
        console.print(help_text(line.words) if line.has(HELP) else VERSION_LINE)
        console.flush()
        return 0
    import signal
    handlers = handle_signals({"SIGINT": signal.default_int_handler,
                               "SIGTERM": raise_terminated, "SIGHUP": raise_terminated})
    try:
        with gate_report(line, console) as report:
            if not line.is_known:
                raise unknown_command(line.words)
            return run_command(line, console, report)
    finally:
        handle_signals(handlers)


def gate_report(line, console) -> GateReport:
    """Where a command line reports its checks; it has an error if that is where it prints."""
    path, output, *inputs = (to_path("".join(line.texts(option)))
                             for option in (JUNIT, OUTPUT, BASELINE_OPTIONS[0], FROM))
    output = "/dev/stdout" if output in ("", "-") else output
    is_input = path and any(is_same_file(path, each) for each in inputs)
    if path == "-" or is_input or path not in ("", os.devnull) and is_same_file(path, output):
        line.error = line.error or usage_error("--junit needs a file of its own")
    is_gate = line.command is not None and line.command.is_gate
    if is_input or not path.strip(" -") or line.command and not is_gate:
        path = ""
    # What is examined, as it was given: project my-agent, since 1h, error.
    selection = [option.label.lstrip("-") + (f" {text}" if option.metavar else "")
                 for option in getattr(line.command, "options", ())
                 if option.selects and not option.is_secret and option.metavar != "JSON"
                 and (line.has(option) or not (option.env and line.has(FROM)))
                 for text in line.texts(option)]
    title = " ".join(["twosignal", *line.words, *line.operands])
    return GateReport(console, title, selection, path, is_gate)


def run_command(line, console, report) -> int:
    """Runs the command of a command line and returns its exit code. Raises Failure."""
    from contextlib import ExitStack
    if line.error:
        raise line.error
    chosen = line.command
    if not chosen:
        raise Failure("No command given", see_help(*line.words), "USAGE", [
            f"{each.name:18}  {each.summary}" for each in visible_commands(*line.words)])
    args = Arguments(chosen, line)
    client = None if chosen.is_offline else make_client(chosen, args, console)
    try:
        with ExitStack() as opened:
            if client:
                opened.callback(client.transport.close)
            args.add_saved(chosen, client)
            report.selection[:0] = [f"{name} {vars(args)[name]}" for name in args.sources
                                    if args.sources[name] not in os.environ]
            if args.output not in (None, "-"):
                # A file that cannot be written is an error before anything is changed.
                console.file = opened.enter_context(output_file(args.output))
            return call_command(chosen, client, args, console, report)
    except BaseException as error:
        if console.held:            # what a change returned, and -o FILE has not got
            error.hint = console.show_elsewhere()
        if not isinstance(error, Failure) and hasattr(error, "hint"):
            console.say("", error.hint)
        places = [args.sources[name] for name in args.sources if name in ("org", "project")]
        if places and getattr(error, "code", "") == "NOT_FOUND":
            error.hint += f" Also check {' and '.join(places)}."
        raise


def make_client(chosen, args, console) -> Client:
    """The Client for a command. Raises a usage error for a wrong address or key."""
    if vars(args).get("source"):
        if args.url or args.source == "-" == vars(args).get("baseline"):
            raise usage_error("--from excludes --url, and --from - excludes --baseline -")
        if args.sources.pop("project", None):
            args.project = None         # a variable is about a server
        return TraceFile(args.source, args.project, console, bool(vars(args).get("metadata")))
    takes_key = chosen.takes_key(args) if callable(chosen.takes_key) else chosen.takes_key
    key = api_key() if takes_key else None
    url = args.url
    if chosen.ends_session and not url:     # where the session comes from, whatever is configured
        stored = result_or(None, load_session, console.clock)
        url = stored and result_or(None, session_origin, stored, console.clock) or DEFAULT_URL
    return connect(url_and_source(url, console.clock, key), args, console, key)


def call_command(chosen, client, args, console, report) -> int:
    """Calls the function, reports and prints the result; Ctrl-C is how a stream ends."""
    try:
        shows_secrets = "output_env" in vars(args) or vars(args).get("show_secrets")
        if shows_secrets and isinstance(console.file, AtomicFile):
            os.chmod(console.file.temporary, 0o600)
        result = chosen.function(client, args, console)
        report.results = result.checks
        if result.listing and output_format(args) in ROW_FORMATS:
            result.listing.conclude = result.conclude
            result = result.listing
        # What a change returned, such as a new key, has to be seen in any case.
        has_changed = client is not None and client.has_changed
        if args.fields == ["?"]:
            result = result if has_changed else field_names(result)
        elif args.fields:
            is_strict = not (has_changed or result.streams)
            result = only_fields(result, args.fields, console.tell, is_strict)
        return print_result(result, args, console, report)
    except (KeyboardInterrupt, Terminated) as end:
        if not chosen.is_endless:
            raise
        if isinstance(console.file, AtomicFile) and not console.file.file.tell():
            console.file.cancel()   # nothing has arrived, so what was there stays
        if isinstance(end, Terminated):
            return end.code
        console.say("")
        return 0


def print_result(result, args, console, report) -> int:
    """Prints a result and what follows it, and returns the exit code. Raises Failure."""
    format_name = output_format(args)
    if result.streams and format_name in ("json", "html"):
        raise usage_error("A stream cannot be a single document", "Use --format jsonl.")
    screen = console.screen(args.color)
    screen.has_headings = not args.no_header
    report.describe(screen, result.title)
    try:
        for text in FORMATS[format_name](result, screen):
            console.print(text, is_data=format_name in ("csv", "tsv"))
            if result.streams:
                console.flush()
    finally:
        console.flush()
    for each in result.checks if console.file else ():      # a log of CI shows stderr
        if each.passed is not True:
            console.tell(f"{each.name}: {each.sentence()}")
    outcome = result.conclude()
    if result.warning:
        console.say(result.warning)     # with --quiet too: the output lacks data
    for remark in filter(None, outcome.remarks):
        console.tell(remark)
    return console.fail(outcome.failure) if outcome.failure else outcome.exit_code


def main(argv=None, console=None) -> int:
    """Runs a command line, by default this process's own, and returns its exit code."""
    is_program = argv is None and console is None
    console = console or Console()
    try:
        code = run(sys.argv[1:] if argv is None else argv, console)
    except Failure as failure:
        code = console.fail(failure)
    except RecursionError:
        code = console.fail(ResponseTooLarge("nested too deeply"))
    except KeyboardInterrupt:
        console.say("")
        code = EXIT_INTERRUPTED
    except Terminated as end:
        code = end.code
    except BrokenPipeError:
        code = EXIT_READER_GONE
    except Exception as error:
        if console.debug:
            import traceback
            console.say(*traceback.format_exc().splitlines())
        code = console.fail(Failure(f"Internal error: {type(error).__name__}: {error}",
                                    "Report it, with what --debug prints.", "INTERNAL"))
    console.clear_progress()
    if is_program and code in EXIT_SIGNALS and os.name == "posix":
        import signal               # a shell script ends only if this process dies of the signal
        signal.signal(code - 128, signal.SIG_DFL)
        os.kill(os.getpid(), code - 128)
    return code


if __name__ == "__main__":
    sys.exit(main())
