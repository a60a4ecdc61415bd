#!/usr/bin/env python3
"""A command-line client for 2Signal.

Manages traces, evaluators, datasets, API keys and more from a terminal, and gates deployments
in CI. One file, standard library only: copy it anywhere, run it with any CPython from 3.6 on.

The sections, each calling only those above it:

    Constants   names, limits, plans, exit codes
    Errors      Failure, and how to make the usual ones
    Text        durations, costs, ages, widths; text made safe for a terminal
    Records     from the wire's objects to the records that users see
    Rendering   a result becomes a table, or JSON
    State       the session file, the config file, the lock
    Transport   every HTTP request: deadline, retries, redirects, proxies, TLS
    API         tRPC with superjson, the session and its refresh
    Commands    one function each
    Entry       arguments, streams, exit code
"""
import io
import json
import os
import re
import sys
import time

__version__ = "1.0.0"

############################################################
# Constants
############################################################

DEFAULT_URL = "https://app.twosignal.dev"
TIMEOUT = 30.0              # seconds for a request as a whole, its retries included
REFRESH_EARLY = 60          # seconds before its expiry that a session is refreshed
TRIES = 3                   # how often a request is sent at most
PAUSE = 0.1                 # seconds; doubled with each try, up to a half more or less by chance
RETRIED = (408, 429, 500, 502, 503, 504)    # statuses after which a query is sent again
RETRIED_CHANGE = (429,)     # and a change: it surely was not made
REDIRECTS = 5               # followed for one query
TOLD_WAIT = 2.0             # seconds; a longer pause before a retry is announced
LARGEST_ANSWER = 32 << 20   # bytes of one answer, its head included
LARGEST_FILE = 1 << 20      # bytes of session.json or config.json
LONGEST_URL = 3900          # characters of a batch; proxies cut URLs at 4,000
LONGEST_COOKIE = 3180       # characters of one chunk of the session cookie
LONGEST_NUMBER = 300        # digits
PAGE = 100                  # traces a server gives at once, at most
EMPTY_PAGES = 1000          # pages without a row before a listing is given up
WORST = 5                   # traces that a failed check names, at most
FIRST_PAGES = 50            # that traces tail looks at to begin with

PLANS = {                   # traces and LLM evaluations a month; None: unlimited
    "FREE": (10000, 500),
    "PRO": (50000, 5000),
    "GROWTH": (150000, 15000),
    "TEAM": (500000, 50000),
    "ENTERPRISE": (None, None),
}

EXIT_CODES = {              # what an error's code means for the exit code; anything else is 1
    "USAGE": 2,
    "CONNECTION_REFUSED": 3, "CONNECTION_FAILED": 3, "TIMED_OUT": 3, "LOCKED": 3,
    "NOT_LOGGED_IN": 4, "UNAUTHORIZED": 4,
    "FORBIDDEN": 5,
    "NOT_FOUND": 6,
    "TOO_MANY_REQUESTS": 7,
    "INTERNAL_SERVER_ERROR": 8, "TIMEOUT": 8, "BAD_ANSWER": 8, "REDIRECTED": 8,
    "UNSUPPORTED": 8,
    "UNKNOWN_OUTCOME": 9,
    "CHECK_FAILED": 10,
    "NOTHING_TO_CHECK": 11,
}
INTERRUPTED, TERMINATED, READER_GONE = 130, 143, 141


############################################################
# Errors
############################################################

class Failure(Exception):
    """What went wrong, and the way out of it, in a line that can be shown to a user.

    code: a key of EXIT_CODES, or the server's own name for it; problems: further lines.
    """

    def __init__(self, message, hint="", code="FAILED", problems=()):
        super().__init__(message)
        self.message, self.hint, self.code, self.problems = message, hint, code, list(problems)

    @property
    def exit_code(self):
        return EXIT_CODES.get(self.code, 1)


class Passing(Failure):
    """A failure that may be gone a moment later and says nothing about the session."""


class NoProcedure(Failure):
    """This server's version does not have the procedure."""


class NoHome(Failure):
    """There is no directory for the session and the config file."""


def _tried(ask):
    """What a function returns, or the Failure that it raises."""
    try:
        return ask()
    except Failure as failure:
        return failure


def wrong_usage(message, hint=""):
    return Failure(message, hint, "USAGE")


def bad_answer(what, hint="Check that the address is that of a 2Signal server."):
    return Passing(what, hint, "BAD_ANSWER")


def expired():
    return Failure("Authentication expired", "Run 'twosignal login' again.", "UNAUTHORIZED")


############################################################
# Text
############################################################

# What could move the cursor, change colours or turn text around: C0, DEL, C1, line separators,
# bidirectional controls, interlinear marks, tags; and lone surrogates, which no stream can carry.
# Patterns are compiled where they are first used: --version and --help need none.
_UNSAFE = (
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\ufeff\ufffe\uffff\U000e0000-\U000e007f\ud800-\udfff]")
_TIMESTAMP = (
    r"(?a)(\d{4})-(\d\d)-(\d\d)[T ]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)"
    r"(\.\d{1,9})?(Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)?\Z")
_DECIMAL = r"(?a)-?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?\Z"
_STAND_INS = {ord("─"): "-", ord("…"): "...", ord("█"): "#", ord("░"): ".",
              ord("├"): "|", ord("└"): "`", ord("│"): "|"}


def plain(value) -> str:
    """Any value as text that is safe on a terminal: one line, controls as \\x1b."""
    if value is None:
        return "-"
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return value if value.isprintable() else re.sub(_UNSAFE, _escape, value)


def _escape(match) -> str:
    number = ord(match.group())
    form = "\\x%02x" if number < 0x100 else "\\u%04x" if number < 0x10000 else "\\U%08x"
    return form % number


def json_text(value, indent=2, ascii_only=False) -> str:
    """JSON in which no control or bidirectional character stands as itself."""
    form = indent, ascii_only
    if form not in _encoders:       # json.dumps would make one for each value
        _encoders[form] = json.JSONEncoder(indent=indent, ensure_ascii=ascii_only)
    text = _encoders[form].encode(value)
    safe = text.replace("\n", "").isprintable()
    return text if safe else re.sub(_UNSAFE, _json_escape, text)


_encoders = {}              # (indent, ascii_only): json.JSONEncoder


def _json_escape(match) -> str:
    # A line break can only be json.dumps' own: inside a string it is escaped already.
    return "\n" if match.group() == "\n" else json.dumps(match.group())[1:-1]


def encodable(text: str, encoding: str) -> str:
    """The text as a stream of this encoding can show it; ASCII stands in for the rest."""
    try:
        text.encode(encoding)
        return text
    except LookupError:
        encoding = "ascii"
    except UnicodeEncodeError:
        pass
    text = text.translate(_STAND_INS)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def width(text: str) -> int:
    """Columns of a terminal that the text takes."""
    if text.isprintable() and len(text) == len(text.encode("utf-8", "replace")):
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    import unicodedata
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """The text within so many columns, with … where something is left out."""
    if width(text) <= columns:
        return text
    room, kept = columns - 1, []
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "…"


def number(value):
    """A finite int or float, also from a decimal string; None for anything else."""
    if isinstance(value, str) and len(value) <= LONGEST_NUMBER and re.match(_DECIMAL, value):
        value = int(value) if re.match(r"-?\d+\Z", value) else float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < 10 ** LONGEST_NUMBER else None     # neither infinite nor NaN


def duration(milliseconds) -> str:
    """5ms, 0.8s, 1m 01s, 1h 02m"""
    value = number(milliseconds)
    if value is None or value < 0:
        return "-"
    if round(value) < 100:
        return "%dms" % round(value)
    if round(value / 1000, 1) < 60:
        return "%.1fs" % (value / 1000)
    seconds = int(round(value / 1000))
    if seconds < 3600:
        return "%dm %02ds" % divmod(seconds, 60)
    return "%dh %02dm" % divmod(seconds // 60, 60)


def cost(usd) -> str:
    """$0.003, $0.0034, $12.50; two significant digits at least"""
    value = number(usd)
    if value is None:
        return "-"
    sign, value = ("-" if value < 0 else ""), abs(value)
    if value >= 1:
        return "%s$%.2f" % (sign, value)
    digits = 4
    while digits < 12 and 0 < value < 10.0 ** (1 - digits):
        digits += 1
    whole, _, fraction = ("%.*f" % (digits, value)).partition(".")
    return "%s$%s.%s" % (sign, whole, fraction.rstrip("0").ljust(2, "0"))


def count(value) -> str:
    """46,000"""
    value = number(value)
    return "-" if value is None else "{:,}".format(value)


def moment(timestamp):
    """Unix seconds of an ISO 8601 timestamp, or None."""
    match = re.match(_TIMESTAMP, timestamp) if isinstance(timestamp, str) else None
    seconds = _seconds_of(match) if match else None
    return None if seconds is None else seconds + float(match.group(7) or 0)


def _seconds_of(match):
    """Unix seconds of what _TIMESTAMP matched, without the fraction; None for no real day."""
    import datetime
    parts = [int(part) for part in match.groups()[:6]]
    try:
        days = datetime.date(*parts[:3]).toordinal() - 719163
    except ValueError:
        return None
    seconds = days * 86400 + parts[3] * 3600 + parts[4] * 60 + parts[5]
    zone = (match.group(8) or "Z").replace(":", "")
    if zone == "Z":
        return seconds
    offset = int(zone[1:3]) * 3600 + int(zone[3:]) * 60
    return seconds + offset if zone[0] == "-" else seconds - offset


def utc(timestamp):
    """A timestamp as 2026-03-14T10:30:00Z: in UTC, .000 dropped, other fractions kept."""
    if timestamp[10:11] == "T" and timestamp[-1:] == "Z" and timestamp[19:-1].strip(".0"):
        return timestamp        # most are like that: nothing to look for
    match = re.match(_TIMESTAMP, timestamp)
    if match is None:
        return timestamp
    fraction = match.group(7) or ""
    kept = fraction if fraction.strip(".0") else ""
    if match.group(8) == "Z" and timestamp[10] == "T":
        return timestamp[:19] + kept + "Z"
    seconds = _seconds_of(match)
    if seconds is None or not -62135596800 <= seconds < 253402300800:
        return timestamp        # no day, or beyond the years 1 to 9999
    return iso(seconds, kept)


def iso(seconds, fraction="") -> str:
    """Unix seconds as ISO 8601 in UTC; text for a value that is no time."""
    try:
        parts = time.gmtime(seconds)[:6]
    except (ValueError, OverflowError, OSError, TypeError):
        return str(seconds)
    return "%04d-%02d-%02dT%02d:%02d:%02d" % parts + fraction + "Z"


def age(timestamp, now=None) -> str:
    """just now, 2 min ago, 3 hours ago, 5 days ago; a date after 30 days"""
    seconds = moment(timestamp)
    if seconds is None:
        return plain(timestamp)
    passed = (time.time() if now is None else now) - seconds
    if passed < 60:
        return "just now"
    if passed < 3600:
        return "%d min ago" % (passed // 60)
    if passed >= 30 * 86400:
        return iso(seconds)[:10]
    amount, unit = (passed // 86400, "day") if passed >= 86400 else (passed // 3600, "hour")
    return "%d %s%s ago" % (amount, unit, "" if amount == 1 else "s")


def clock(timestamp) -> str:
    """10:30:00Z; the date of another day (both in UTC)"""
    seconds = moment(timestamp)
    if seconds is None:
        return plain(timestamp)
    day, _, rest = iso(seconds).partition("T")
    return rest if day == iso(time.time())[:10] else day


############################################################
# Records
############################################################

# The users' own data: no key in it is renamed, nothing in it changed.
OWN_DATA = ("input", "output", "metadata", "config", "expectedOutput", "modelParameters", "rules")
_NESTED = {"spans": "span", "scores": "score", "items": "item", "projects": "usage"}
_RENAMED = {
    "trace": {"totalCost": "cost_usd"},
    "span": {"cost": "cost_usd"},
    "score": {"value": "score", "evaluatorName": "evaluator"},
    "usage": {"traceCount": "traces_used", "spanCount": "spans_used",
              "evalRunCount": "evals_used", "projectBreakdown": "projects"},
}
_FIRST = {                  # keys that such a record always has, and their order
    "trace": ("id", "status", "duration_ms", "cost_usd", "created_at", "name"),
    "span": ("id", "name", "type", "status", "duration_ms", "cost_usd"),
    "score": ("evaluator", "score", "label", "reasoning"),
    "usage": ("traces_used", "spans_used", "evals_used"),
}
_CAPITAL = "(?<=[a-z0-9])([A-Z])|(?<=[A-Z])([A-Z])(?=[a-z])"
_names = {}                 # camelCase to snake_case, as met so far


def snake(name: str) -> str:
    """durationMs to duration_ms"""
    if name not in _names:
        if len(_names) > 10000:
            _names.clear()
        _names[name] = re.sub(_CAPITAL, r"_\1\2", name).lower()
    return _names[name]


def record(wire, kind="") -> dict:
    """What users see of a wire object (contract: snake_case, nothing dropped, documented order).

    kind: trace, span, score, usage, or anything else for a resource without a table of its own.
    A value of the wrong type stays as it is.
    """
    if not isinstance(wire, dict):
        return wire
    found = dict.fromkeys(_FIRST.get(kind, ()))
    rules = _rules.setdefault(kind, {})
    for key, value in wire.items():
        name, convert, left_alone = rules.get(key) or _rule(rules, kind, key)
        if name != key and (found.get(name) is not None or wire.get(name) is not None):
            name = key              # both spellings are there: nothing is dropped
        elif value is None:
            found.setdefault(name)
            continue
        found[name] = value if type(value) in left_alone else convert(value)
    if isinstance(found.get("_count"), dict):
        _spread_counts(found, found.pop("_count"))
    return found


def _spread_counts(found, counts):
    """Puts {"spans": 3} as span_count: 3 into a record; what does not fit there stays as it is."""
    for what, value in counts.items():
        name = snake(what).rstrip("s") + "_count"
        if found.get(name) is None:
            found[name] = value
        elif found[name] != value:
            found.setdefault("_count", {})[what] = value


_rules = {}                 # kind: {key: what _rule gives}, as met so far
_PLAIN = frozenset((type(None), int, float, bool, str))


def _rule(rules, kind, key) -> tuple:
    """(name, how a value is converted, the types of values that stay as they are)"""
    name = _RENAMED.get(kind, {}).get(key) or snake(key)
    if len(rules) > 10000:      # a server's keys are few, unless it means harm
        rules.clear()
    convert, left_alone = _conversion(name)
    as_it_is = key in OWN_DATA or key == "_count"
    rules[key] = name, _same if as_it_is else convert, _PLAIN if as_it_is else left_alone
    return rules[key]


def _same(value):
    return value


def _conversion(name) -> tuple:
    """The function for the values below a name, and the types that it would leave as they are."""
    nested = _NESTED.get(name, "")

    def part(value):
        if isinstance(value, list):
            return [record(item, nested) for item in value]
        return record(value, nested) if isinstance(value, dict) else value

    if name == "cost_usd":
        return number, frozenset((type(None), int))
    text = None
    if name == "score":
        text = number
    elif name.endswith(("_at", "_time", "_date")) or name in ("date", "timestamp"):
        text = utc
    if text is None:
        return part, _PLAIN
    return lambda value: text(value) if isinstance(value, str) else part(value), _PLAIN - {str}


def usage_record(wire: dict, plan) -> dict:
    """Usage of a month with the limits of the plan; null where unlimited or unknown."""
    used = record(wire, "usage")
    plan = plan if isinstance(plan, str) else None
    traces, evals = PLANS.get(plan, (None, None))
    ordered = {"month": used.pop("month", None), "plan": plan,
               "traces_used": number(used.pop("traces_used")), "traces_limit": traces,
               "spans_used": number(used.pop("spans_used")),
               "evals_used": number(used.pop("evals_used")), "evals_limit": evals,
               "projects": used.pop("projects", [])}
    ordered.update(used)
    return ordered


############################################################
# Rendering
############################################################

class Column:
    """A heading, and what stands below it: a record's key, or a function of the record.

    least: columns that it takes at least, so that the next page's values fit too; optional: it
    goes where the terminal has no room for it.
    """

    def __init__(self, heading, source, form=plain, least=0, optional=False):
        self.heading, self.source, self.form = heading, source, form
        self.least, self.optional = max(least, width(heading)), optional

    def text(self, row: dict) -> str:
        if callable(self.source):
            return self.source(row)
        return self.form(row.get(self.source))


class Screen:
    """Where a result goes: its width in columns, its encoding, whether it shows colours."""

    def __init__(self, columns=80, encoding="utf-8", colour=False):
        self.columns, self.colour = columns, colour
        self.ascii_only = not encoding.lower().replace("_", "-").startswith("utf")


class Listing:
    """Records as a table, or in another of FORMATS; rows may be a generator, then streamed.

    noun: what they are, for "No traces found."; after: a function that is called when the rows are
    through and gives what stderr shows, a remark or a Failure, or None; endless: rows come as they
    happen, each is shown at once; optional: keys that records may have without the first ones
    having them; left_out: the keys that a form had no place for.
    """

    exit_code = 0

    def __init__(self, noun, columns, rows, after=None, endless=False, optional=()):
        self.noun, self.columns, self.rows, self.optional = noun, columns, rows, optional
        self.after, self.endless, self.left_out = after, endless, {}

    def records(self):
        return self.rows

    def json_lines(self, screen):
        held = None         # whole lines only: between them, progress may use the last line
        for row in self.rows:
            text = json_text(row, ascii_only=screen.ascii_only)
            yield "[\n" if held is None else held + ",\n"
            held = "  " + text.replace("\n", "\n  ")
        yield "[]\n" if held is None else held + "\n]\n"

    def table_lines(self, screen):
        widths = None
        for rows in _chunks(self.rows, 1 if self.endless else PAGE):
            cells = [[column.text(row) for column in self.columns] for row in rows]
            if widths is None:
                widths = _widths(self.columns, cells, screen.columns)
                heading = _line([column.heading for column in self.columns], widths,
                                screen.columns)
                lines = [heading] + [_line(row, widths, screen.columns) for row in cells]
                yield heading + "\n" + "─" * max(map(width, lines)) + "\n"
            for row in cells:
                line = _line(row, widths, screen.columns)
                yield (_coloured(line, row) if screen.colour else line) + "\n"
        if widths is None:
            yield "No %s found.\n" % self.noun


def _chunks(rows, size):
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _widths(columns, cells, room) -> list:
    """The width of each column; an optional last one goes where its heading has no room."""
    widths = [max([column.least] + [width(row[i]) for row in cells])
              for i, column in enumerate(columns)]
    taken = sum(widths[:-1]) + 2 * len(widths[:-1])
    if columns[-1].optional and room - taken < max(8, width(columns[-1].heading)):
        return widths[:-1]
    return widths


def _line(cells, widths, room) -> str:
    """Cells side by side, two blanks between them; the last one is cut, unless it was left out."""
    if len(cells) > len(widths):
        return "  ".join(_padded(cells, widths)).rstrip(" ")
    start = "".join(cell + "  " for cell in _padded(cells[:-1], widths))
    return (start + cut(cells[-1], max(8, room - width(start)))).rstrip(" ")


def _padded(cells, widths) -> list:
    return [cell + " " * (size - width(cell)) for cell, size in zip(cells, widths)]


def _coloured(line, cells) -> str:
    for word, colour in (("ERROR", 31), ("FAILED", 31), ("TOO FEW", 31), ("NOTHING TO CHECK", 31),
                         ("OK", 32)):
        if word in cells:
            before, found, rest = line.partition("  " + word)
            return "%s  \x1b[%dm%s\x1b[0m%s" % (before, colour, word, rest) if found else line
    return line


class Details:
    """One record: its fields a line each, then further parts (lines of text, or a Listing).

    message: a sentence that the table form begins with; the other forms are the record alone.
    """

    endless, columns, optional = False, (), ()

    def __init__(self, record, fields=(), parts=(), message="", after=None, exit_code=0):
        self.record, self.fields, self.parts, self.message = record, fields, parts, message
        self.after, self.exit_code, self.left_out = after, exit_code, {}

    def records(self):
        return [self.record]

    def json_lines(self, screen):
        yield json_text(self.record, ascii_only=screen.ascii_only) + "\n"

    def table_lines(self, screen):
        if self.message:
            yield self.message + "\n"
        shown = [(field.heading + ":", field.text(self.record)) for field in self.fields]
        shown = [(heading, text) for heading, text in shown if text != "-"]
        left = max([width(heading) for heading, _ in shown] or [0])
        for heading, text in shown:
            yield heading.ljust(left) + "  " + text + "\n"
        for title, part in self.parts:
            yield "\n%s\n" % title
            for line in part.table_lines(screen) if isinstance(part, Listing) else part(screen):
                yield line


def _jsonl_lines(result, screen):
    for row in result.records():
        yield json_text(row, indent=None, ascii_only=screen.ascii_only) + "\n"


def _separated_lines(result, screen, delimiter=","):
    """CSV with a heading: the keys of the first rows, or what a table shows where there are none.

    Keys of later rows, which no column is there for, are put into result.left_out.
    """
    import csv
    text, names = io.StringIO(), None
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    for rows in _chunks(result.records(), 1 if result.endless else PAGE):
        if names is None:
            names = _keys(rows)
            if result.endless:
                names += [name for name in result.optional if name not in names and "." not in name]
            writer.writerow([_cell(name) for name in names])
        result.left_out.update((key, None) for key in _keys(rows) if key not in names)
        writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    if names is None and result.columns:
        writer.writerow([_cell(column.source) for column in result.columns
                         if not callable(column.source)])
        yield text.getvalue()


_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")      # full-width ones too


def _cell(value):
    """A value for a spreadsheet, which must not take it for a formula."""
    if value is None or isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return json_text(value, indent=None)        # true, false, lists, objects
    return plain("'" + value if value.startswith(_FORMULA) else value)


def _keys(rows) -> list:
    """The keys of some records, each once, in their order."""
    return list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))


FORMATS = {                 # --format: a function (result, screen) that yields text
    "table": lambda result, screen: result.table_lines(screen),
    "json": lambda result, screen: result.json_lines(screen),
    "jsonl": _jsonl_lines,
    "csv": _separated_lines,
    "tsv": lambda result, screen: _separated_lines(result, screen, "\t"),
}


def at(value, path: str):
    """What stands at a path such as scores.0.score; None where there is nothing."""
    for part in path.split("."):
        value = _inside(value, part)
    return value


def _inside(holder, key):
    if isinstance(holder, dict):
        return holder.get(key)
    if isinstance(holder, list) and re.match(r"(0|[1-9][0-9]{0,8})\Z", key):
        return holder[int(key)] if int(key) < len(holder) else None
    return None


def only_fields(result, fields, complain):
    """The result with nothing but these fields of its records.

    complain: a function that is given the usage error, when the first rows come, for a field that
    none of them can have.
    """
    columns = [Column(field, field) for field in fields]
    rows = _picked(result, fields, complain)
    if isinstance(result, Listing):
        return Listing(result.noun, columns, rows, result.after, result.endless)
    if isinstance(result.record, list):
        return Listing("records", columns, rows)
    return Details(next(rows), columns, after=result.after, exit_code=result.exit_code)


def _picked(result, fields, complain):
    checked = False
    for rows in _chunks(result.records(), 1 if result.endless else PAGE):
        if not checked:
            for wrong in _wrong_fields(fields, rows, result.optional):
                complain(wrong)
            checked = True
        for row in rows:
            yield {field: row[field] if field in row else at(row, field) for field in fields}


def _wrong_fields(fields, rows, optional):
    """A usage error for each field that none of the records can have."""
    keys = list(dict.fromkeys(_keys(rows) + [key for key in optional if "." not in key]))
    for field in fields:
        first, *rest = field.split(".")
        if field in keys or field not in optional and re.sub(r"\.\d+", "", field) in optional:
            continue
        if first not in keys:
            yield wrong_usage("There is no field '%s'" % plain(field),
                              "There are %s." % ", ".join(map(plain, keys)))
        elif not any(_may_hold(row.get(first), rest) for row in rows) \
                and not set(map(snake, OWN_DATA)) & {first, *rest}:
            yield wrong_usage("There is no field '%s'" % plain(field),
                              "See them all with --fields '?'.")


def _may_hold(value, parts) -> bool:
    """Whether something can stand at a path: an empty list may have had an entry."""
    if not parts or value is None:
        return True
    if isinstance(value, list):
        return parts[0].isdigit() and _may_hold(_inside(value, parts[0]), parts[1:])
    return isinstance(value, dict) and parts[0] in value and _may_hold(value[parts[0]], parts[1:])


def field_names(result):
    """Every path in the first records, as --fields takes them: what '--fields ?' shows."""
    rows = next(_chunks(result.records(), 1 if result.endless else PAGE), [])
    names = dict.fromkeys(name for row in rows for name in _paths(row))
    found = Listing("fields", (Column("Field", "field"),), [{"field": name} for name in names])
    if isinstance(result, Details):     # a gate's verdict stays what it is
        found.after, found.exit_code = result.after, result.exit_code
    return found


def _paths(row, before=""):
    for key, value in row.items():
        yield before + key
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for name in value[0]:
                yield "%s%s.0.%s" % (before, key, name)


def span_tree(spans) -> list:
    """(depth, span) in order of time, children below their parent; orphans and cycles too."""
    spans = [span for span in spans if isinstance(span, dict)]
    spans.sort(key=lambda span: moment(span.get("start_time")) or 0)
    known = {str(span["id"]) for span in spans if span.get("id") is not None}
    children = {}
    for span in spans:
        parent = str(span.get("parent_span_id"))
        children.setdefault(parent if parent in known else None, []).append(span)
    placed, seen = [], set()
    for start in [children.get(None, [])] + [[span] for span in spans]:
        waiting = [(0, span) for span in reversed(start)]
        while waiting:
            depth, span = waiting.pop()
            if id(span) in seen:
                continue
            seen.add(id(span))
            placed.append((depth, span))
            below = children.get(str(span.get("id")), [])
            waiting += [(depth + 1, child) for child in reversed(below)]
    return placed


def bar(used, limit, columns=20) -> str:
    """█████░░░ 92.0%, or what there is to say without a limit"""
    if not limit or used is None:
        return ""
    share = used / limit
    filled = min(columns, max(0, int(share * columns)))
    return "%s%s %.1f%%" % ("█" * filled, "░" * (columns - filled), share * 100)


############################################################
# State
############################################################

def setting(name: str):
    """An environment variable; None where it is unset or empty."""
    return as_utf8(os.environ.get(name, ""), name).strip() or None


def as_utf8(text, what) -> str:
    """An argument or variable, which Python decodes by the locale, as what its bytes are in UTF-8.

    Raises a usage error where they are not.
    """
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        raise wrong_usage("%s is not UTF-8" % what)


def home() -> str:
    """The directory of the session and the config file: absolute, not necessarily there."""
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)    # an empty one would mean the root directory
    given = setting("TWOSIGNAL_HOME")
    found = os.path.expanduser(given or os.path.join("~", ".twosignal"))
    if given and not found.startswith("~"):
        return os.path.abspath(found)
    if not os.path.isabs(found):
        raise NoHome("There is no home directory to keep a session in",
                      "Set HOME or TWOSIGNAL_HOME to a directory.")
    return found


def path_of(name: str) -> str:
    return os.path.join(home(), name)


def read_text(path: str):
    """The text of a state file, or None where there is none."""
    try:
        with open(path, "rb") as file:
            found = file.read(LARGEST_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failure("Cannot read %s: %s" % (path, reason(error)),
                      "Check the permissions of the file and its directory.")
    if len(found) > LARGEST_FILE:
        raise damaged(path)
    return found.decode("utf-8-sig", "replace")


def reason(error) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def damaged(path):
    hint = "Run 'twosignal login' again." if path.endswith("session.json") else (
        'It should be like {"api_url": "%s"}: correct it, or delete it.' % DEFAULT_URL)
    return Failure("%s is damaged" % path, hint)


def read_object(path: str) -> dict:
    """The JSON object in a state file; {} where there is no file.

    Other programs write these files in place, so that half of one may be seen for a moment.
    """
    for pause in (0.02, 0.05, 0.1, None):
        text = read_text(path)
        if text is None:
            return {}
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        if pause is None:
            raise damaged(path)
        time.sleep(pause)


def make_home() -> str:
    """The directory, made if it has to be, readable for its owner alone."""
    path = home()
    made = not os.path.isdir(path)
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error)
    _keep_private(path, made)
    return path


def _keep_private(path, made):
    """0700 for a new directory (whatever the umask) and for one that others may enter, unless it
    is not only ours: another user's, or a shared one such as /tmp."""
    try:
        status = os.stat(path)
        shared = status.st_mode & 0o1000 or path == os.path.expanduser("~")
        if (made or status.st_mode & 0o077) and hasattr(os, "getuid") and not shared:
            os.chmod(path, 0o700)
    except OSError:
        pass        # the files in it are private all the same


def _unwritable(path, error, hint=""):
    return Failure("Cannot write %s: %s" % (path, reason(error)), hint or (
        "Free some space, correct its permissions, or set TWOSIGNAL_HOME."))


class Replacing:
    """A file to write that takes the place of another as a whole, or not at all.

    A reader sees the old or the new content, never a part. A symbolic link stays, its target is
    replaced. mode: its permissions; unless: called last; where it answers true nothing is
    replaced. Raises Failure where the disk does not play along.
    """

    def __init__(self, path, mode=0o600, unless=None, hint=""):
        self.path, self.mode, self.unless, self.hint = path, mode, unless, hint

    def __enter__(self):
        import tempfile
        self.file = None
        try:
            self.target = os.path.realpath(self.path)
            _check_name(self.target)
            with SignalsHeld():
                handle, self.temporary = tempfile.mkstemp(prefix=".twosignal-",
                                                          dir=os.path.dirname(self.target))
                self.file = os.fdopen(handle, "wb")
        except OSError as error:
            raise _unwritable(self.path, error, self.hint)
        except BaseException:
            if self.file:
                self._discard()
            raise
        return self

    def write(self, content: bytes):
        try:
            self.file.write(content)
        except OSError as error:
            raise _unwritable(self.path, error, self.hint)

    def __exit__(self, kind, *_):
        with SignalsHeld():
            try:
                if kind is None:
                    self._finish()
            except OSError as error:
                raise _unwritable(self.path, error, self.hint)
            finally:
                self._discard()

    def _finish(self):
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.chmod(self.temporary, self.mode)     # whatever the umask
        if self.unless is None or not self.unless():
            _replace(self.temporary, self.target)
            self.temporary = None

    def _discard(self):
        try:
            self.file.close()
        except OSError:
            pass        # a full disk, which has been told already
        if self.temporary:
            _remove(self.temporary)


def _check_name(path):
    """Raises OSError where there can be no such file: its name may be too long."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass


def _new_mode(path) -> int:
    """The permissions of a file that a user asked for: those it has, or what the umask leaves."""
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


OUTPUT_HINT = "Name a file in a directory that can be written."


def output_file(path):
    """Where a user wants output to go: a file that is replaced as a whole, or a device as it is."""
    if re.match(_STREAM, path):
        return Device(path)
    if os.path.isdir(path) or path.endswith(os.sep):
        raise Failure("Cannot write %s: Is a directory" % plain(path), OUTPUT_HINT)
    if os.path.exists(path) and not os.path.isfile(path):
        return Device(path)
    return Replacing(path, mode=_new_mode(path), hint=OUTPUT_HINT)


_STREAM = r"/dev/(stdout|stderr)\Z|/(?:dev|proc/self)/fd/(\d{1,4})\Z"


def _descriptor(path):
    """A copy of the open file that such a path is a name of; the path itself where it is none.

    To open it by its name would begin a redirected file anew.
    """
    stream = re.match(_STREAM, path, re.ASCII)
    if not stream:
        return path
    return os.dup({"stdout": 1, "stderr": 2}.get(stream.group(1)) or int(stream.group(2)))


class Device:
    """A pipe or a device to write to. Raises Failure, or BrokenPipeError where nobody reads."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.file = self._tried(lambda: open(_descriptor(self.path), "wb", buffering=0))
        return self

    def write(self, content: bytes):
        while content:
            content = content[self._tried(lambda: self.file.write(content)):]

    def __exit__(self, *_):
        self.file.close()

    def _tried(self, act):
        try:
            return act()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable(self.path, error, OUTPUT_HINT)


def api_key():
    """The project's API key, of TWOSIGNAL_API_KEY or of the file in TWOSIGNAL_API_KEY_FILE."""
    key, path = setting("TWOSIGNAL_API_KEY"), setting("TWOSIGNAL_API_KEY_FILE")
    if not key and path:
        text = read_text(path)
        key = (text or "").strip()
        if not key:
            raise wrong_usage("There is no %s %s" % (
                "file" if text is None else "API key in", plain(path)),
                "Correct TWOSIGNAL_API_KEY_FILE.")
    if key and not re.match(r"[!-~]+\Z", key):
        raise wrong_usage("The API key holds characters that no key has",
                          "Correct TWOSIGNAL_API_KEY or its file.")
    return key


def has_key() -> bool:
    return bool(setting("TWOSIGNAL_API_KEY") or setting("TWOSIGNAL_API_KEY_FILE"))


def write_text(path: str, text: str, unless=None):
    with SignalsHeld(), Replacing(path, unless=unless) as file:
        file.write(text.encode("utf-8"))


def _replace(temporary, target):
    """os.replace; on Windows a program that reads the target blocks it for a moment."""
    for pause in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, None):
        try:
            return os.replace(temporary, target)
        except PermissionError:
            if pause is None or os.name != "nt":
                raise
            time.sleep(pause)


def _remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unwritable(path, error)


class Lock:
    """Held by one process (and one thread) at a time; the system frees it when its holder dies.

    The file exists for this alone and is never replaced or deleted. deadline: time.monotonic()
    at which waiting ends with a Failure.
    """

    def __init__(self, deadline):
        self.deadline, self.handle = deadline, None

    def __enter__(self):
        make_home()
        path = path_of("session.lock")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            self.handle = os.open(path, flags, 0o600)
            if hasattr(os, "fchmod"):
                os.fchmod(self.handle, 0o600)
        except PermissionError as error:
            if self.handle is None:
                raise _unwritable(path, error)
        except OSError as error:
            raise _unwritable(path, error)
        try:
            self._wait(path)
        except BaseException:
            os.close(self.handle)
            raise
        return self

    def __exit__(self, *_):
        os.close(self.handle)

    def _wait(self, path):
        import errno
        while True:
            try:
                return _take(self.handle)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                    raise Failure("Cannot lock %s: %s" % (path, reason(error)),
                                  "Set TWOSIGNAL_HOME to a directory on a local disk.")
            if time.monotonic() >= self.deadline:
                raise Passing("Another process holds %s" % path,
                              "Wait for it to end, or look for one that hangs.", "LOCKED")
            time.sleep(0.02)


def _take(handle):
    try:
        import fcntl
    except ImportError:
        import msvcrt
        os.lseek(handle, 0, os.SEEK_SET)
        return msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class SignalsHeld:
    """Ctrl-C and SIGTERM wait until the block is left: a spent token must not be lost."""

    def __enter__(self):
        import signal
        self.came, self.before = [], {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            which = getattr(signal, name, None)
            if which is None or signal.getsignal(which) in (signal.SIG_IGN, None):
                continue
            try:
                self.before[which] = signal.signal(which, self._note)
            except ValueError:
                pass        # not the main thread: signals do not arrive here

    def _note(self, which, frame):
        self.came.append(which)

    def __exit__(self, *_):
        import signal
        for which, handler in self.before.items():
            signal.signal(which, handler)
        for which in self.came[:1]:
            handler = self.before[which]
            handler(which, None) if callable(handler) else os.kill(os.getpid(), which)


def load_config() -> dict:
    found = read_object(path_of("config.json"))
    if not isinstance(found.get("api_url", ""), str):
        raise damaged(path_of("config.json"))
    return found


def save_config(url: str):
    """Keeps the address for the next commands, and whatever else the file holds."""
    make_home()
    try:
        config = load_config()
    except Failure:
        config = {}
    config["api_url"] = url
    write_text(path_of("config.json"), json.dumps(config, indent=2) + "\n")


_LOCAL = r"(?a)(localhost|127(\.\d+){3}|\[::1\]|[^:/]+\.localhost)(:\d+)?\Z"
_HOST = r"(?a)([a-z0-9_]([a-z0-9._-]*[a-z0-9_.])?|\[[0-9a-f:.]+\])(:\d{1,5})?\Z"


def is_local(url: str) -> bool:
    return bool(re.match(_LOCAL, url.split("/")[2]))


def normal_url(text: str, source="--url") -> str:
    """The address of a server as https://host[:port][/path]. Raises a usage error."""
    shown = re.sub("[^/@]*@", "***@", plain(text))      # a password, perhaps
    wrong = wrong_usage("%s is not an address of a server: %s" % (source, shown),
                        "It should be like https://twosignal.example.com.")
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    host, slash, path = rest.partition("/")
    host = _ascii_host(host.lower(), wrong)
    if not re.match(_HOST, host) or path.startswith("/"):
        raise wrong
    if scheme.lower() not in ("http", "https") and separator:
        raise wrong
    _, colon, port = host.rpartition(":")
    if colon and not host.endswith("]") and not 0 < int(port) < 65536:
        raise wrong
    path = re.sub(r"(/(api(/v1|/trpc)?)?)*\Z", "", slash + path)
    if re.search(r"[^!$%&'()*+,./:;=@\w~-]", path, re.ASCII):
        raise wrong
    scheme = scheme.lower() or ("http" if re.match(_LOCAL, host) else "https")
    default = ":443" if scheme == "https" else ":80"
    return scheme + "://" + (host[:-len(default)] if host.endswith(default) else host) + path


def _ascii_host(host, wrong) -> str:
    """host[:port] with the name as a resolver takes it (IDNA)."""
    name, colon, port = host.partition(":")
    try:
        name.encode("ascii")
        return host
    except UnicodeError:
        pass
    try:
        name = name.encode("idna").decode("ascii")
    except UnicodeError:
        raise wrong
    if not re.match(r"[a-z0-9.-]+\Z", name):     # a colon, say, in another form
        raise wrong
    return name + colon + port


def configured_url(given=None) -> str:
    """--url > TWOSIGNAL_URL > config file > default"""
    if given is not None:
        return normal_url(given)
    if setting("TWOSIGNAL_URL"):
        return normal_url(setting("TWOSIGNAL_URL"), "TWOSIGNAL_URL")
    try:
        kept = load_config().get("api_url")
    except NoHome:
        kept = None
    return normal_url(kept, path_of("config.json")) if kept else DEFAULT_URL


class Session:
    """Tokens, whose they are, and the address that issued them: what session.json holds."""

    FORMS = {"access_token": r"[!-~]+", "refresh_token": r"[!-~]+", "project_ref": r"[\w.-]+"}

    def __init__(self, values: dict):
        """Raises ValueError for what is no session."""
        for key, form in self.FORMS.items():
            value = values.get(key)
            if not isinstance(value, str) or not re.match(form + r"\Z", value, re.ASCII):
                raise ValueError(key)
        for key in ("user_id", "user_email", "api_url"):
            if not isinstance(values.get(key, ""), str):
                raise ValueError(key)
        self.expires_at = number(values.get("expires_at"))
        if self.expires_at is None or abs(self.expires_at) > 1e11:
            raise ValueError("expires_at")
        self.values = values
        self.access_token, self.refresh_token = values["access_token"], values["refresh_token"]
        self.user_id = values.get("user_id")
        self.api_url = values.get("api_url")
        if self.api_url and isinstance(_tried(lambda: normal_url(self.api_url)), Failure):
            raise ValueError("api_url")

    def holds(self, seconds=0) -> bool:
        return self.expires_at - time.time() > seconds

    def text(self) -> str:
        return json.dumps(self.values, indent=2) + "\n"


def load_session():
    """The stored Session, or None."""
    path = path_of("session.json")
    values = read_object(path)
    if not values:
        return None
    try:
        return Session(values)
    except ValueError:
        raise damaged(path)


def save_session(session: Session, spent=None) -> Session:
    """Stores a session under the lock, and returns the one to go on with.

    spent: the session that this one replaces. What another program, which takes no lock, has done
    to the file meanwhile stays: a logout, another account's login, a newer session.
    """
    newer = []

    def overtaken():
        path = path_of("session.json")
        stored = _stored_quietly() if spent else None
        if stored is None or stored.refresh_token == spent.refresh_token:
            return spent is not None and not os.path.exists(path)
        if stored.user_id != spent.user_id:
            return True
        newer.extend([stored] if stored.expires_at >= session.expires_at else [])
        return newer

    write_text(path_of("session.json"), session.text(), unless=overtaken)
    return newer[0] if newer else session


def _stored_quietly():
    try:
        return load_session()
    except Failure:
        return None


def prove_writable(session: Session):
    """Raises Failure if a refreshed session could not be stored: the token is spent only once.

    The file is replaced by itself, to the byte, and a larger one than needed is tried beside it.
    """
    path = path_of("session.json")
    text = read_text(path)
    write_text(path, session.text() + " " * 4096, unless=lambda: True)
    if text is not None:
        write_text(path, text, unless=lambda: read_text(path) != text)


def forget_session():
    """Deletes session.json, or the file that it links to; the link stays for the next login."""
    _remove(os.path.realpath(path_of("session.json")))


############################################################
# Transport
############################################################

class Answer:
    """status: int; headers: a mapping without regard to case; body: bytes"""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body


class Transport:
    """Makes every HTTP request of this program.

    timeout: seconds for a request as a whole; until: when the last one ends at the latest, as
    time.monotonic(); asked_pause: seconds of the last answer's Retry-After, or None; ca_cert: a PEM
    file that is trusted beside the system's; tell: a function for a line on stderr; log: one for
    the lines of --debug, or None.
    """

    def __init__(self, timeout=TIMEOUT, ca_cert=None, tell=None, log=None):
        self.timeout, self.ca_cert = timeout, ca_cert
        self.tell, self.log = tell or (lambda text: None), log
        self.opener, self.asked_pause, self.until = None, None, float("inf")

    def deadline(self, seconds=None) -> float:
        """When something that begins now has to be over; seconds: by default the timeout."""
        return min(time.monotonic() + (seconds or self.timeout), self.until)

    def request(self, method, url, headers=(), body=None, changes=True, matters=True,
                retried=None) -> Answer:
        """Sends a request and returns the answer, whatever its status.

        changes: it may change something at the server, so that it is sent again only where it
        surely did not arrive. matters: it is a change that the user has to look after where its
        outcome is unknown. retried: statuses after which it is sent again; by default RETRIED for a
        query, RETRIED_CHANGE for a change. Follows redirects of queries within the origin.
        Raises Failure.
        """
        deadline, self.asked_pause = self.deadline(), None
        retried = retried or (RETRIED_CHANGE if changes else RETRIED)
        for attempt in range(1, TRIES + 1):
            last = attempt == TRIES
            try:
                answer = self._follow(method, url, headers, body, changes, deadline)
            except Broken as broken:
                again = not broken.final and not (changes and broken.sent)
                if last or not again or not self._pause(attempt, None, deadline, broken.message):
                    raise broken.failure(changes and matters)
                continue
            self.asked_pause = retry_after(answer.headers.get("Retry-After"))
            if answer.status not in retried or last:
                return answer
            if not self._pause(attempt, answer.headers.get("Retry-After"), deadline,
                               "Rate limited" if answer.status == 429
                               else "The server answered %d" % answer.status):
                return answer

    def _pause(self, attempt, asked, deadline, why) -> bool:
        """Waits before the next try; False where the deadline leaves no room for it."""
        import random
        pause = retry_after(asked)
        if pause is None:
            pause = random.uniform(0.5, 1.5) * PAUSE * 2 ** attempt
        if time.monotonic() + pause >= deadline:
            return False
        if pause > TOLD_WAIT:
            self.tell("%s. Trying again in %d seconds." % (why, round(pause)))
        time.sleep(pause)
        return True

    def _follow(self, method, url, headers, body, changes, deadline) -> Answer:
        for _ in range(REDIRECTS + 1):
            answer = self._exchange(method, url, headers, body, deadline)
            location = answer.headers.get("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            target = _redirected(url, location)
            if changes or method != "GET" or origin(target) != origin(url):
                place = plain(_base(target))
                raise Passing("The server redirects to %s" % place,
                              "If that is right, use --url %s." % place, "REDIRECTED")
            url = target
        raise bad_answer("The server redirects in circles")

    def _exchange(self, method, url, headers, body, deadline) -> Answer:
        """One request, one answer; raises Broken where there is none."""
        import urllib.request
        if self.opener is None:
            self.connections = Connections(self.ca_cert)
            self.opener = _opener(self.connections)
        request = urllib.request.Request(url, body, dict(headers), method=method)
        request.deadline, request.sent, started = deadline, False, time.monotonic()
        try:
            answer = self.opener.open(request, timeout=max(0.001, deadline - started))
        except Failure:
            raise
        except Exception as error:
            broken = Broken(error, request, url)
            self._debug(request, headers, broken.message)
            raise broken
        self._debug(request, headers, "%d, %d bytes, %d ms" % (
            answer.status, len(answer.body), (time.monotonic() - started) * 1000))
        return answer

    def _debug(self, request, headers, outcome):
        if self.log:
            method, url = request.get_method(), _hidden(request.full_url)
            self.log("%s %s: %s" % (method, url, outcome))
            self.log(_curl(method, url, headers, request.data))

    def close(self):
        if self.opener is not None:
            self.connections.close()


def _curl(method, url, headers, body) -> str:
    """The request as a line for a shell, without what is secret."""
    import shlex
    words = ["curl", "-X", method, url]
    for name in headers:
        value = "***" if name in ("Cookie", "Authorization") else headers[name]
        words += ["-H", "%s: %s" % (name, value)]
    if body:
        text = _hidden(body.decode("utf-8", "replace"))
        words += ["-d", "***" if "/api/v1/auth/" in url else text]
    return " ".join(shlex.quote(word) for word in words)


_SECRET_KEY = r'(?i)((?:"|%22)[\w-]*(?:password|secret|token|api_?key)(?:"|%22):(?: |%20)?)'
_JSON_STRING = r'("(?:[^"\\]|\\.)*"|%22(?:%5C%..|(?!%22).)*%22)'


def _hidden(text) -> str:
    """JSON, percent-encoded or not, with *** for what its keys or its look tell to be secret."""
    text = re.sub(_SECRET_KEY + _JSON_STRING, r'\1"***"', text)
    return re.sub(r"(%22|\b)(ts_|2s_live_)\w{8,}", r"\1\2***", text)


def retry_after(value):
    """Seconds of a Retry-After header, a number or a date; None where it says nothing sensible."""
    if not value:
        return None
    value = value.strip()
    if re.match(r"\d{1,9}\Z", value, re.ASCII):
        return float(value)
    import email.utils
    try:
        when = email.utils.mktime_tz(email.utils.parsedate_tz(value))
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return max(0.0, when - time.time()) if 0 <= when < 1e11 else None


def origin(url) -> tuple:
    """(scheme, host, port)"""
    from urllib.parse import urlsplit
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname, port
    except ValueError:
        return None, None, None


def _base(url) -> str:
    return "/".join(url.split("/")[:3])


def _redirected(url, location) -> str:
    from urllib.parse import quote, urljoin
    try:
        # http.client gives headers as latin-1; what no URL may hold is percent-encoded.
        safe = "!#$%&'()*+,/:;=?@[]~"
        return urljoin(url, quote(location.strip(), safe=safe, encoding="latin-1"))
    except (ValueError, UnicodeError):
        raise bad_answer("The server redirects to what is no address")


def _opener(connections):
    """An opener with proxies from the environment and nothing that acts by itself: no redirects,
    no files, no exceptions for a status."""
    import urllib.request

    class Handler(urllib.request.BaseHandler):
        http_open = https_open = staticmethod(connections.exchange)

    class Proxies(urllib.request.ProxyHandler):
        def proxy_open(self, request, proxy, scheme):
            if not (request.host and urllib.request.proxy_bypass(request.host)):
                _check_proxy(proxy)
            return super().proxy_open(request, proxy, scheme)

    proxies = urllib.request.getproxies()
    for scheme in ("http", "https"):
        if proxies.get("all"):
            proxies.setdefault(scheme, proxies["all"])
    opener = urllib.request.OpenerDirector()
    opener.add_handler(Proxies(proxies))
    opener.add_handler(Handler())
    return opener


def _check_proxy(proxy):
    from urllib.parse import urlsplit
    try:
        parts = urlsplit(proxy if "://" in proxy else "http://" + proxy)
        if parts.hostname and parts.scheme == "http" and parts.port != 0:
            return
        scheme = parts.scheme
    except ValueError:
        scheme = "http"
    raise wrong_usage("The proxy of http_proxy or https_proxy cannot be used%s" % (
        ": %s:// is not supported" % plain(scheme) if scheme != "http" else ""),
        "It should be like http://proxy.example.com:3128.")


class Connections:
    """The handler behind urllib: one HTTP exchange at a time, within its deadline and the bounds.

    The last connection is kept for the next query to the same place. A change gets a new one:
    where a kept one dies, nobody can tell whether the change arrived.
    """

    def __init__(self, ca_cert=None):
        self.ca_cert, self.context = ca_cert, None
        self.kept, self.place = None, None

    def exchange(self, request) -> Answer:
        """request: a urllib.request.Request with a deadline; its sent is set once bytes are out."""
        import http.client
        tunnel = getattr(request, "_tunnel_host", None)
        headers = dict(request.unredirected_hdrs, **request.headers)
        proxy_key = headers.pop("Proxy-authorization", None) if tunnel else None
        headers["Host"] = request.full_url.split("/")[2]
        secure = request.type == "https"
        place = (request.type, request.host, tunnel)
        wire, self.kept = self.kept, None
        if wire and place == self.place and request.get_method() == "GET" and wire.is_idle():
            try:
                return self._ask(wire, request, headers, place)
            except (http.client.RemoteDisconnected, ConnectionError):
                wire = None         # it had died since its last use
        if wire:
            wire.shut()
        wire = Wire(_connect(request.host, 443 if secure and not tunnel else 80, request.deadline))
        try:
            wire.begin(request.deadline)
            if tunnel:
                _tunnel(wire, tunnel, proxy_key)
            if secure:
                self._encrypt(wire, (tunnel or request.host))
        except BaseException:
            wire.shut()
            raise
        return self._ask(wire, request, headers, place)

    def _encrypt(self, wire, host):
        if self.context is None:
            self.context = tls_context(self.ca_cert)
        wire.sock.settimeout(_left(wire.deadline))
        wire.sock = self.context.wrap_socket(wire.sock, server_hostname=_host_and_port(host)[0],
                                             do_handshake_on_connect=False)
        wire.sock.do_handshake()    # at once, or a connection that has ended is used without TLS

    def _ask(self, wire, request, headers, place) -> Answer:
        import http.client
        connection = http.client.HTTPConnection(request.host)
        connection.sock = wire
        try:
            wire.begin(request.deadline)
            request.sent = True
            connection.request(request.get_method(), request.selector, request.data, headers)
            response = connection.getresponse()
            if wire.ended:      # http.client takes headers that break off for whole ones
                raise http.client.IncompleteRead(b"")
            answer = Answer(response.status, response.headers, _body(response, wire))
        except BaseException:
            wire.shut()
            raise
        if response.will_close:
            wire.shut()
        else:
            self.kept, self.place = wire, place
        return answer

    def close(self):
        if self.kept:
            self.kept.shut()
            self.kept = None


class Wire:
    """A socket as http.client uses one: at most LARGEST_ANSWER bytes, before a deadline."""

    def __init__(self, sock):
        self.sock = sock

    def begin(self, deadline):
        self.deadline, self.room, self.ended = deadline, LARGEST_ANSWER, False

    def sendall(self, data):
        self.sock.settimeout(_left(self.deadline))
        self.sock.sendall(data)

    def makefile(self, *_):
        return io.BufferedReader(_Reader(self))

    def read_into(self, buffer) -> int:
        self.sock.settimeout(_left(self.deadline))
        size = self.sock.recv_into(buffer)
        self.room -= size
        self.ended = size == 0
        if self.room < 0:
            raise TooLarge()
        return size

    def is_idle(self) -> bool:
        """Nothing came since the last answer: neither the end nor bytes that nobody asked for."""
        import select
        try:
            return not select.select([self.sock], [], [], 0)[0]
        except ValueError:      # a file number that select cannot take
            return False

    def close(self):
        """http.client closes early and reads on; see shut()."""

    def shut(self):
        self.sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, wire):
        self.wire = wire

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.wire.read_into(buffer)


def _host_and_port(text, default=None):
    """("::1", 8080) of "[::1]:8080" """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        return text.strip("[]"), default
    return host.strip("[]"), int(port)


def _connect(place, default_port, deadline):
    """A connected socket; every address of the host is tried before the deadline."""
    import socket
    error = None
    found = socket.getaddrinfo(*_host_and_port(place, default_port), type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as failed:
            sock.close()
            error = failed
    raise error or OSError("the host has no address")


def _tunnel(wire, host, proxy_key):
    """Asks a proxy for a connection to a host (CONNECT)."""
    if ":" not in host.rpartition("]")[2]:
        host += ":443"
    lines = ["CONNECT %s HTTP/1.1" % host, "Host: " + host]
    if proxy_key:
        lines.append("Proxy-Authorization: " + proxy_key)
    wire.sendall("\r\n".join(lines + ["", ""]).encode("latin-1"))
    reader = wire.makefile()
    status = reader.readline(65536).split(None, 2)
    while reader.readline(65536).strip():
        pass
    if len(status) < 2 or status[1] != b"200":
        raise ProxyRefused(status[1].decode("latin-1") if len(status) > 1
                           else "it does not answer in HTTP")


def _body(response, wire) -> bytes:
    """The whole body of an answer; raises where it was cut or is too large."""
    import http.client
    if (response.length or 0) > LARGEST_ANSWER:
        raise TooLarge()
    body = bytearray()
    while True:
        part = response.read(65536)
        if not part:
            break
        body += part
    # http.client takes a chunked answer without its last line for a whole one.
    if response.length or (response.chunked and wire.ended):
        raise http.client.IncompleteRead(b"")
    return bytes(body)


class TooLarge(Exception):
    """More bytes than any answer of a 2Signal server has."""


class ProxyRefused(OSError):
    """The answer of a proxy to CONNECT, other than 200: its status as text."""


def _left(deadline) -> float:
    """Seconds until then; raises socket.timeout where none are left."""
    left = deadline - time.monotonic()
    if left <= 0:
        import socket
        raise socket.timeout("timed out")
    return left


def tls_context(ca_cert=None):
    """Always verifies; SSL_CERT_FILE and SSL_CERT_DIR are read by the library itself."""
    try:
        import ssl
    except ImportError:
        raise Failure("This Python was built without ssl and cannot use https",
                      "Use another Python, or an http:// address.", "CONNECTION_FAILED")
    context = ssl.create_default_context()
    if ca_cert:
        try:
            context.load_verify_locations(ca_cert)
        except (OSError, ValueError) as error:
            raise wrong_usage("Cannot use --ca-cert %s: %s" % (plain(ca_cert), reason(error)),
                              "It should be a file of certificates in PEM format.")
    return context


class Broken(Exception):
    """A request that got no answer. sent: it may have arrived."""

    def __init__(self, error, request, url):
        super().__init__(str(error))
        self.sent, self.code, self.hint = request.sent, "CONNECTION_FAILED", ""
        host = plain(url.split("/")[2])
        proxy = plain(request.host) if request.has_proxy() or request._tunnel_host else ""
        self.place = "the proxy %s" % proxy if proxy else host
        self.hint = "Check your %s setting." % (
            "http_proxy, https_proxy or no_proxy" if proxy else "--url or TWOSIGNAL_URL")
        self._explain(error, host)
        self.final = self.code == "BAD_ANSWER" or "certificate" in self.message

    def _explain(self, error, host):
        """Sets message, hint and code for whatever the standard library raises."""
        import http.client
        import socket
        place, name = self.place, type(error).__name__
        if isinstance(error, ConnectionRefusedError):
            self.code, self.message = "CONNECTION_REFUSED", "Connection refused by %s" % place
        elif isinstance(error, (socket.timeout, TimeoutError)):
            self.code, self.message = "TIMED_OUT", "No answer from %s in time" % place
            self.hint = "Try again, or allow more with --timeout SECONDS."
        elif isinstance(error, ProxyRefused):
            self.message = "The proxy refused the connection to %s: %s" % (host, plain(str(error)))
        elif isinstance(error, (socket.gaierror, UnicodeError)):
            self.message = "Cannot find the host %s" % place
        elif "SSL" in name or "Certificate" in name:
            self.message, self.hint = _tls_trouble(error, host)
        elif isinstance(error, TooLarge):
            self.code, self.message = "BAD_ANSWER", "The answer of %s is too large" % place
            self.hint = "Ask for less, for example with --limit."
        elif isinstance(error, http.client.IncompleteRead):
            self.message = "The answer of %s was cut short" % place
        elif isinstance(error, http.client.RemoteDisconnected):
            self.message = "%s closed the connection without an answer" % place
        elif isinstance(error, (http.client.HTTPException, ValueError)):
            self.code, self.message = "BAD_ANSWER", "%s does not answer in HTTP" % place
        elif isinstance(error, OSError):
            self.message = "The connection to %s failed: %s" % (place, plain(reason(error)))
        else:
            raise error

    def failure(self, changes) -> Failure:
        if changes and self.sent:
            return Failure("The outcome is unknown: %s" % _lowered(self.message),
                           "The change may have been made: check before you repeat it.",
                           "UNKNOWN_OUTCOME")
        return Passing(self.message, self.hint, self.code)


def _lowered(text):
    return text[:1].lower() + text[1:]


_TLS_CAUSES = (             # what OpenSSL says, what it means, and the way out
    ("certificate has expired", "its certificate has expired",
     "Renew it on the server, or correct this machine's clock."),
    ("not yet valid", "its certificate is not valid yet", "Correct this machine's clock."),
    ("mismatch", "its certificate is for another host", "Use --url with the name it was made for."),
    ("doesn't match", "its certificate is for another host",
     "Use --url with the name it was made for."),
    ("self signed", "its certificate is self-signed", "Trust it with --ca-cert FILE."),
    ("self-signed", "its certificate is self-signed", "Trust it with --ca-cert FILE."),
    ("local issuer", "its certificate comes from an unknown authority",
     "Trust that one with --ca-cert FILE or SSL_CERT_FILE."),
    ("verify failed", "its certificate cannot be verified",
     "Check its dates and its host name, or trust its authority with --ca-cert FILE."),
    ("wrong version", "it does not speak TLS", "If it is a plain server, use an http:// address."),
)


def _tls_trouble(error, host) -> tuple:
    """(message, hint)"""
    said = "%s %s" % (getattr(error, "verify_message", ""), error)
    for words, cause, hint in _TLS_CAUSES:
        if words in said.lower():
            if words in ("local issuer", "verify failed") and not _has_authorities():
                cause, hint = ("no CA certificates were found on this machine",
                               "Install them, or name a file with --ca-cert or SSL_CERT_FILE.")
            return "No secure connection to %s: %s" % (host, cause), hint
    return ("No secure connection to %s: %s" % (host, plain(reason(error))),
            "Check the server's TLS settings.")


def _has_authorities() -> bool:
    import ssl
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile or (paths.capath and os.listdir(paths.capath)))


############################################################
# API
############################################################

ALIASES = {                 # what other versions of the server call a procedure
    "trace.getById": "trace.byId",
    "dataset.getById": "dataset.byId",
    "usage.getCurrentMonth": "usage.currentMonth",
}
STATUS_CODES = {400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND",
                408: "TIMEOUT", 409: "CONFLICT", 412: "PRECONDITION_FAILED",
                413: "PAYLOAD_TOO_LARGE", 422: "UNPROCESSABLE_CONTENT", 429: "TOO_MANY_REQUESTS"}
RESOURCES = {               # the first part of a procedure's name: what it is, where to find its ID
    "organization": ("Organization", "orgs list"),
    "project": ("Project", "projects list"),
    "trace": ("Trace", "traces list"),
    "evaluator": ("Evaluator", "evaluators list"),
    "dataset": ("Dataset", "datasets list"),
    "apiKey": ("API key", "api-keys list"),
    "usage": ("Organization", "orgs list"),
}
MAYBE = "maybe"             # beside True and False: whether there are more traces, nobody knows
TELL_OPERATOR = "Report this to whoever runs the server."
_NO_PROCEDURE = r'No (procedure found|"(query|mutation)"-procedure) on path\b'


class Doubt:
    """Where a change fails and may have been made all the same, the error says how to find out."""

    CODES = ("UNKNOWN_OUTCOME", "INTERNAL_SERVER_ERROR", "TIMEOUT", "BAD_ANSWER")

    def __init__(self, procedure):
        self.where = RESOURCES.get(procedure.partition(".")[0], ("", "api " + procedure))[1]

    def __enter__(self):
        return self

    def __exit__(self, kind, failure, _):
        if isinstance(failure, Failure) and failure.code in self.CODES:
            failure.hint = ("The change may have been made all the same: check with 'twosignal %s' "
                            "before you repeat it." % self.where)


class Client:
    """A 2Signal server, as the stored session sees it.

    url: its normal address; transport: a Transport; key: a project's API key, which then stands in
    for the session where the REST API has what is asked. The tokens that it met are in secrets;
    changed: a change was made, or may have been.
    """

    def __init__(self, url, transport, key=None):
        self.url, self.transport, self.key = url, transport, key
        self.secrets, self.batching = {key} if key else set(), True
        self._session, self._names = None, {}
        self.changed = False

    def close(self):
        self.transport.close()

    # --- logging in and out

    def login(self, email, password) -> Session:
        """Raises Failure with code UNAUTHORIZED where the server does not accept the two."""
        self.secrets.add(password)
        make_home()
        try:
            values = self._auth("login", {"email": email, "password": password})
        except Failure as failure:
            if failure.code != "UNAUTHORIZED":
                raise
            raise Failure("Wrong email or password", "Check both and run 'twosignal login' again.",
                          "UNAUTHORIZED")
        session = self._fresh(values, {"user_email": email})
        with Lock(self.transport.deadline()), SignalsHeld():
            self._session = save_session(session)
        return self._session

    def logout(self):
        """Ends the session on the server. Raises Failure."""
        try:
            token = self.session().access_token
            self._auth("logout", None, {"Authorization": "Bearer " + token})
        except Failure as failure:
            if failure.code != "UNAUTHORIZED":      # it has ended already
                raise

    def forget(self):
        """Deletes the stored session, after a refresh that is under way, if that ends soon."""
        try:
            with Lock(self.transport.deadline()):
                forget_session()
        except Failure:
            forget_session()

    def session(self, rejected=None) -> Session:
        """A session that holds, refreshed if it has to be.

        rejected: an access token that the server did not accept although it should hold.
        Raises Failure.
        """
        session = self._session or self._load()
        if session.access_token == rejected or not session.holds(REFRESH_EARLY):
            session = self._renewed(session, rejected)
        self._session = session
        return session

    def _load(self) -> Session:
        try:
            session = load_session()
        except NoHome:
            if not has_key():
                raise
            session = None
        if session is None:
            raise not_logged_in()
        self.secrets.update((session.access_token, session.refresh_token))
        # A session of the TUI does not tell who issued it: the address that the TUI would use.
        issuer = normal_url(session.api_url or configured_url(), path_of("session.json"))
        if issuer != self.url:
            raise Failure("Not logged in to %s" % self.url,
                          "Run 'twosignal login --url %s'; the session here belongs to %s."
                          % (self.url, issuer), "NOT_LOGGED_IN")
        return session

    def _renewed(self, session, rejected) -> Session:
        holds = session.access_token != rejected and session.holds(1)
        try:
            with Lock(self.transport.deadline(1 if holds else None)):
                stored = self._load()       # another process may have refreshed it meanwhile
                if stored.access_token != rejected and stored.holds(REFRESH_EARLY):
                    return stored
                prove_writable(stored)
                with SignalsHeld():
                    return self._refresh(stored)
        except Failure:
            if holds:
                return session              # it is early; the next command tries again
            raise

    def _refresh(self, spent) -> Session:
        try:
            values = self._auth("refresh", {"refresh_token": spent.refresh_token},
                                retried=(409, 429))
        except Failure as failure:
            if failure.code not in ("UNAUTHORIZED", "BAD_REQUEST", "CONFLICT"):
                raise
            newer = self._overtaken(spent)
            if newer:
                return newer
            if failure.code == "CONFLICT":
                raise Passing("Rate limited: another program refreshes the session",
                              "Wait a few seconds and retry.", "TOO_MANY_REQUESTS")
            raise expired()
        return save_session(self._fresh(values, spent.values), spent)

    def _overtaken(self, spent):
        """The session that another program stored while this one's refresh was refused, or None."""
        for _ in range(10):
            stored = _stored_quietly()
            if stored and stored.refresh_token != spent.refresh_token and stored.holds():
                return self._load()
            time.sleep(0.05)
        return None

    def _fresh(self, answer, before) -> Session:
        """The session of an answer; what `before` holds beside it is kept. Raises BAD_ANSWER."""
        user = answer.get("user") if isinstance(answer.get("user"), dict) else {}
        values = dict(before, api_url=self.url)
        for key in ("access_token", "refresh_token", "expires_at"):
            values[key] = answer.get(key)
        values["user_id"] = user.get("id") or values.get("user_id") or ""
        values["user_email"] = user.get("email") or values.get("user_email") or ""
        values["project_ref"] = (answer.get("project_ref") or values.get("project_ref")
                                 or _issuer(answer.get("access_token")))
        try:
            session = Session(values)
        except ValueError as error:
            raise bad_answer("The server's login has no valid %s" % error)
        values["expires_at"] = int(session.expires_at)
        self.secrets.update((session.access_token, session.refresh_token))
        return session

    def _auth(self, action, body, headers=None, retried=None) -> dict:
        headers = dict(headers or {}, **{"User-Agent": USER_AGENT})
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode("ascii")
        answer = self.transport.request("POST", self.url + "/api/v1/auth/" + action, headers, data,
                                        matters=False, retried=retried)
        envelope = _parsed(answer)
        error = envelope.get("error") if isinstance(envelope, dict) else None
        if isinstance(error, dict) and answer.status >= 400:
            raise _failure(STATUS_CODES.get(answer.status), answer.status, error.get("message"), "")
        if not (200 <= answer.status < 300 and isinstance(envelope, dict)
                and isinstance(envelope.get("data"), dict)):
            raise _not_protocol(answer)
        return envelope["data"]

    # --- procedures

    def query(self, procedure, values=None):
        """The answer of a query; values: its input, if it takes one. Raises Failure."""
        return self._named(procedure, lambda name: self._call(name, values, False))

    def mutate(self, procedure, values):
        """The answer of a mutation. Raises Failure."""
        self.changed = True
        with Doubt(procedure):
            return self._named(procedure, lambda name: self._call(name, values, True))

    def batch(self, procedure, inputs) -> list:
        """The answers of one query for several inputs, in order: a value or a Failure for each."""
        def ask(name):
            found = []
            for group in _groups(name, inputs):
                found += self._batch(name, group)
            for answer in found:
                if isinstance(answer, NoProcedure):
                    raise answer
            return found
        return self._named(procedure, ask) if inputs else []

    def _named(self, procedure, ask):
        """Asks for a procedure under the names that server versions have for it."""
        names = [procedure, ALIASES.get(procedure, procedure)]
        if self._names.get(procedure) == names[1]:
            names.reverse()
        for name in names[:1] if names[0] == names[1] else names:
            try:
                answer = ask(name)
            except NoProcedure:
                continue
            self._names[procedure] = name
            return answer
        raise Failure("This server has no %s" % procedure,
                      "Its version is older or newer than this client can use.", "UNSUPPORTED")

    def _call(self, name, values, changes):
        url, body = self.url + "/api/trpc/" + name, None
        if changes:
            body = json.dumps({"json": values}).encode("ascii")
        elif values is not None:
            url += "?input=" + _quoted({"json": values})
        answer = self._authorized(url, body)
        return _result(_parsed(answer), answer, name)

    def _batch(self, name, inputs) -> list:
        if self.batching and len(inputs) > 1:
            answer = self._authorized(_batch_url(self.url, name, inputs), None)
            found = _parsed(answer) if answer.status < 500 else None
            if isinstance(found, list) and len(found) == len(inputs):
                return [_tried(lambda: _result(one, answer, name)) for one in found]
            if answer.status not in (400, 404, 405, 414, 431):
                raise _not_protocol(answer)
            self.batching = False
        return [_tried(lambda: self._call(name, values, False)) for values in inputs]

    def _authorized(self, url, body) -> Answer:
        """A request with the session's cookie; once more with a new session after a 401."""
        session = self.session()
        answer = self._request(url, body, session)
        if _is_unauthorized(answer):
            session = self.session(rejected=session.access_token)
            answer = self._request(url, body, session)
        return answer

    def _request(self, url, body, session) -> Answer:
        headers = {"Cookie": cookie(session), "Accept": "application/json",
                   "User-Agent": USER_AGENT}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return self.transport.request("GET" if body is None else "POST", url, headers, body,
                                      changes=body is not None)

    # --- what takes more than one procedure, or more than one page

    def rows(self, procedure, values=None) -> list:
        """The wire objects of a list procedure."""
        return _rows_of(self.query(procedure, values))

    def visible_rows(self, procedure, inputs) -> list:
        """The same for several inputs, in one go; without what the account may not see."""
        found = []
        for answer in self.batch(procedure, inputs):
            if not isinstance(answer, Failure):
                found += _rows_of(answer)
            elif answer.code not in ("NOT_FOUND", "FORBIDDEN"):
                raise answer
        return found

    def trace_pages(self, values, size):
        """Yields (traces, more) for each page: wire objects, and whether the server has more.

        values: the input of trace.list; size: a function that gives how many to ask for. more is
        True, False, or MAYBE for a server that answers with a bare list: it has no cursors, so the
        next page is what is not newer than the last trace. What stood on the page before, since
        traces arrived meanwhile, is left out. Raises Failure.
        """
        cursor, place, more, seen, empty, before = None, None, True, set(), 0, set()
        while True:
            asked = PAGE if more == MAYBE else size()
            answer = self._page(dict(values, limit=asked, **known(cursor=cursor)))
            rows = _rows_of(answer)
            fresh = [row for row in rows if str(row.get("id")) not in before]
            if isinstance(answer, list):
                place = rows[-1].get("createdAt") if rows else None
                more = _more_behind(rows, fresh, asked, place)
                values = dict(values, endDate=place)
            else:
                place = cursor = answer.get("nextCursor")
                more = bool(cursor)
            if place is not None and not isinstance(place, (str, int)):
                raise _wrong_type("createdAt" if more == MAYBE else "nextCursor")
            yield fresh, more
            if not more:
                return
            empty = 0 if rows else empty + 1
            if place is None or place in seen or empty > EMPTY_PAGES:
                raise _endless(more)
            seen.add(place)
            before = {str(row["id"]) for row in rows if row.get("id") is not None}

    def _page(self, values):
        if not self.key:
            return self.query("trace.list", values)
        tags = ",".join(tag for tag in values.get("tags") or () if "," not in tag)
        wanted = ("limit", "cursor", "name", "status", "startDate", "endDate")
        return self.rest("GET", "/traces", known(tags=tags or None, **{
            name: values.get(name) for name in wanted}))

    def rest(self, method, path, values):
        """The answer of the REST API, which takes the project's key. Raises Failure."""
        from urllib.parse import urlencode
        url, body = self.url + "/api/v1" + path, None
        headers = {"Authorization": "Bearer " + self.key, "Accept": "application/json",
                   "User-Agent": USER_AGENT}
        if method == "GET":
            url += "?" + urlencode(values)
        else:
            headers["Content-Type"] = "application/json"
            body, self.changed = json.dumps(values).encode("ascii"), True
        answer = self.transport.request(method, url, headers, body, changes=method != "GET")
        return _rest_value(answer, "" if method == "GET" else "trace")

    def add_scores(self, traces, project, needed=True, strict=True) -> bool:
        """Asks for the scores of those wire traces that come without, and puts them in.

        A trace that is gone meanwhile stays as it is. Raises Failure where scores cannot be had: a
        gate must not pass because they were left out. Where they are not needed and an API key
        cannot have them, they are None, and the answer is False. strict: also where there are fewer
        than were counted; some may be on their way.
        """
        lacking = [trace for trace in traces if _lacks_scores(trace)]
        if not self.key:
            self._ask_scores(lacking, project, strict)
        elif lacking and needed:
            raise key_is_not_enough("does not give the scores of traces")
        for trace in traces:
            if not isinstance(trace.get("scores"), list):
                trace["scores"] = None if _lacks_scores(trace) else []
        return not (lacking and self.key)

    def _ask_scores(self, traces, project, strict):
        answers = self.batch("trace.getById", [_trace_input(trace.get("id"), project)
                                               for trace in traces])
        for trace, answer in zip(traces, answers):
            if isinstance(answer, Failure):
                if answer.code != "NOT_FOUND":
                    raise answer
                answer = {"scores": []}
            elif not _has_scores(answer, trace if strict else {}):
                raise bad_answer("The server does not give the scores of trace %s"
                                 % plain(trace.get("id")), TELL_OPERATOR)
            trace["scores"] = answer["scores"]

    def trace(self, trace_id, project) -> dict:
        return _object(self.query("trace.getById", _trace_input(trace_id, project)))


def _rest_value(answer, procedure):
    """What an answer of the REST API holds, with or without its envelope. Raises Failure."""
    found = _parsed(answer)
    error = found.get("error") if isinstance(found, dict) else None
    if answer.status == 401:
        raise Failure("The API key is not accepted", "It is wrong or revoked: check "
                      "TWOSIGNAL_API_KEY, or make one with 'twosignal api-keys create'.",
                      "UNAUTHORIZED")
    if answer.status == 403:
        raise Failure("Permission denied", "The API key does not allow this action.", "FORBIDDEN")
    if answer.status >= 400 and error:
        said = error.get("message") if isinstance(error, dict) else error
        raise _failure(STATUS_CODES.get(answer.status), answer.status, said, procedure)
    if not 200 <= answer.status < 300:
        raise _not_protocol(answer)
    wrapped = isinstance(found, dict) and "data" in found and not {"traces", "id"} & set(found)
    return found["data"] if wrapped else found


def _more_behind(rows, fresh, asked, place):
    """Whether there are more behind a bare list: False or MAYBE. Raises where they can't be had.

    fresh: the rows that did not come before; place: the time of the last row, or None.
    """
    if len(rows) > asked:
        return False            # a server that knows no limit has given all
    if not fresh and len(rows) == asked:
        raise _endless(MAYBE)   # the same again: it does not know endDate
    return MAYBE if fresh and (place is not None or len(rows) == asked) else False


def _endless(more) -> Failure:
    if more == MAYBE:
        return Failure("This server gives only its newest traces, and no way to those before",
                       "Ask for fewer: with --limit, or with --since and --until.", "UNSUPPORTED")
    return bad_answer("The server's pages of traces do not end", TELL_OPERATOR)


def key_is_not_enough(why) -> Failure:
    return Failure("The API of a project key " + why, "Leave out what needs it, or use 'twosignal "
                   "login' and unset TWOSIGNAL_API_KEY.", "NOT_LOGGED_IN")


def not_logged_in() -> Failure:
    if has_key():
        return Failure("Not logged in, and an API key is not enough for this command",
                       "Run 'twosignal login' with an account.", "NOT_LOGGED_IN")
    empty = "TWOSIGNAL_API_KEY" in os.environ
    return Failure("Not logged in", "Run 'twosignal login'." + (
        " TWOSIGNAL_API_KEY is empty." if empty else ""), "NOT_LOGGED_IN")


def known(**values) -> dict:
    """The values that are not None: optional input is left out, since servers refuse null."""
    return {key: value for key, value in values.items() if value is not None}


USER_AGENT = "twosignal/%s (Python %d.%d)" % ((__version__,) + sys.version_info[:2])


def cookie(session) -> str:
    """The session as the cookie that @supabase/ssr reads, in chunks where it is long."""
    from urllib.parse import quote
    values = session.values
    text = quote(json.dumps({
        "access_token": session.access_token, "refresh_token": session.refresh_token,
        "expires_at": int(session.expires_at), "token_type": "bearer",
        "user": {"id": values.get("user_id", ""), "email": values.get("user_email", "")},
    }, separators=(",", ":")), safe="")
    name = "sb-%s-auth-token" % values["project_ref"]
    if len(text) <= LONGEST_COOKIE:
        return "%s=%s" % (name, text)
    chunks = re.findall(".{1,%d}(?<!%%)(?<!%%[0-9A-F])" % LONGEST_COOKIE, text)
    return "; ".join("%s.%d=%s" % (name, i, chunk) for i, chunk in enumerate(chunks))


def _issuer(token):
    """The Supabase project in the `iss` of a JWT; None where there is none."""
    import base64
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode())
        return claims["iss"].split("/")[2].split(".")[0].split(":")[0]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _quoted(value) -> str:
    from urllib.parse import quote
    return quote(json.dumps(value, separators=(",", ":")), safe=",:")


def _batch_url(url, name, inputs) -> str:
    numbered = {str(i): {"json": values} for i, values in enumerate(inputs)}
    return "%s/api/trpc/%s?batch=1&input=%s" % (url, ",".join([name] * len(inputs)),
                                                _quoted(numbered))


def _groups(name, inputs):
    """The inputs in groups whose URLs proxies let through."""
    group, size = [], 200
    for values in inputs:
        more = len(name) + 1 + len(_quoted({"99": {"json": values}}))
        if group and size + more > LONGEST_URL:
            yield group
            group, size = [], 200
        group.append(values)
        size += more
    if group:
        yield group


def _parsed(answer):
    """The JSON of an answer. Raises Failure for what is none, after what its status means."""
    try:
        return json.loads(answer.body.decode("utf-8"), parse_int=_int, parse_float=_float,
                          parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise _not_protocol(answer)


def _int(digits):
    if len(digits) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return int(digits)


def _float(digits):
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _refuse(constant):
    raise ValueError(constant + " is not JSON")


def _not_protocol(answer) -> Failure:
    """What an answer means that does not come from 2Signal's API, but from something before it."""
    status = answer.status
    kind = plain((answer.headers.get("Content-Type") or "").partition(";")[0].strip())
    if status == 429 or status == 413 or status >= 500:
        return _failure(STATUS_CODES.get(status), status, None, "")
    if status == 407:
        return Failure("The proxy wants a user name and a password",
                       "Put them into http_proxy or https_proxy.", "CONNECTION_FAILED")
    what = "a web page" if kind == "text/html" else kind or "something"
    return bad_answer("The server answered %d with %s that is not 2Signal's protocol"
                      % (status, what if what != "application/json" else "JSON"))


def _wrong_type(what) -> Failure:
    return bad_answer("The server's answer is not 2Signal's protocol: wrong type of %s" % what)


def _result(envelope, answer, procedure):
    """The value in a tRPC envelope, superjson applied. Raises Failure."""
    if not isinstance(envelope, dict):
        raise _not_protocol(answer)
    if envelope.get("error"):
        raise _trpc_failure(envelope["error"], answer, procedure)
    result = envelope.get("result")
    if answer.status >= 300 or not isinstance(result, dict):
        raise _not_protocol(answer)
    data = result.get("data", {"json": None})
    if not isinstance(data, dict) or "json" not in data:
        raise _not_protocol(answer)
    return superjson(data["json"], data.get("meta"))


def _trpc_failure(error, answer, procedure) -> Failure:
    error = error.get("json", error) if isinstance(error, dict) else None
    if not isinstance(error, dict):
        return _not_protocol(answer)
    data = error.get("data") if isinstance(error.get("data"), dict) else {}
    status = data.get("httpStatus") if isinstance(data.get("httpStatus"), int) else answer.status
    code, message = data.get("code"), error.get("message")
    if code not in STATUS_CODES.values():
        code = STATUS_CODES.get(status)
    if code is None and status < 400:
        return _not_protocol(answer)
    if code == "NOT_FOUND" and isinstance(message, str) and re.match(_NO_PROCEDURE, message):
        return NoProcedure(message, code="UNSUPPORTED")
    return _failure(code, status, message, procedure)


def _failure(code, status, message, procedure) -> Failure:
    """The documented error for what a server said. code: one of STATUS_CODES, or None."""
    said = message if isinstance(message, str) else ""
    problems = _problems(said)
    said = said if len(said) <= 1000 else said[:1000] + "…"
    if code == "UNAUTHORIZED":
        return expired()
    if code == "FORBIDDEN":
        return Failure("Permission denied", "Your role does not allow this action. "
                       "Contact your organization admin.", code)
    if code == "NOT_FOUND":
        return _not_found(said, procedure)
    if code == "TOO_MANY_REQUESTS":
        return Passing("Rate limited", "Wait a few seconds and retry.", code)
    if code == "TIMEOUT" or (code is None and status >= 500):
        return Passing("The server failed (%d)%s" % (status, said and ": " + said),
                       "Try again in a while; if it goes on, tell whoever runs the server.",
                       code or "INTERNAL_SERVER_ERROR")
    if code == "PAYLOAD_TOO_LARGE":
        return Failure("The server does not take that much at once", "Send less.", code)
    if problems:
        return Failure("The server rejected the input", "", code or "BAD_REQUEST", problems)
    return Failure("The server refused: %s" % (said or "HTTP status %d" % status), "",
                   code or "BAD_REQUEST")


def _not_found(said, procedure="") -> Failure:
    """The error for a missing resource: the one that the server names, or the procedure's."""
    what, where = RESOURCES.get(procedure.partition(".")[0], ("Resource", ""))
    for name, place in RESOURCES.values():
        if said.lower().startswith(name.lower() + " "):
            what, where, said = name, place, ""
    hint = "Check the ID with 'twosignal %s'." % where if where else ""
    return Failure(said or "%s not found" % what, hint, "NOT_FOUND")


def _problems(message) -> list:
    """The lines of a zod message, which is itself a JSON list; [] for any other message."""
    try:
        problems = json.loads(message)
    except (ValueError, RecursionError):
        return []
    if not isinstance(problems, list):
        return []
    lines = []
    for problem in problems[:50]:
        if isinstance(problem, dict):
            path = problem.get("path") if isinstance(problem.get("path"), list) else []
            text = plain(problem.get("message") or "is not valid")
            choices = problem.get("options") or problem.get("values")
            choices = choices[:50] if isinstance(choices, list) else None
            if choices and not all(str(one) in text for one in choices):
                text += " (one of %s)" % ", ".join(plain(one) for one in choices)
            lines.append(": ".join([".".join(plain(part) for part in path)] * bool(path) + [text]))
    return lines


def _is_unauthorized(answer) -> bool:
    """Whether the API, not something before it, refuses the session."""
    if answer.status not in (401, 207):
        return False
    found = _tried(lambda: _parsed(answer))
    results = [_tried(lambda: _result(one, answer, ""))
               for one in (found if isinstance(found, list) else [found])]
    return any(isinstance(result, Failure) and result.code == "UNAUTHORIZED" for result in results)


def superjson(value, meta):
    """The value with the types of its meta: bigints and decimals become numbers.

    Dates are ISO 8601 already, undefined is null; NaN and the infinities, for which JSON has no
    word, stay text. The meta is not trusted: what does not fit is left alone.
    """
    types = meta.get("values") if isinstance(meta, dict) else None
    if isinstance(types, list):
        return _typed(value, types)
    for path, kinds in types.items() if isinstance(types, dict) else ():
        if not _is_numeric(kinds):
            continue            # a Date or undefined, mostly: nothing to do
        parts = [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", path)]
        holder, last = value, parts.pop()
        for part in parts:
            holder = _inside(holder, part)
        found = _inside(holder, last)
        if isinstance(found, str):
            holder[int(last) if isinstance(holder, list) else last] = _typed(found, kinds)
    return value


def _is_numeric(kinds) -> bool:
    return isinstance(kinds, list) and kinds[:1] in (
        ["bigint"], ["number"], [["custom", "Decimal.js"]])


def _typed(value, kinds):
    if not isinstance(value, str) or not _is_numeric(kinds):
        return value
    found = number(value)
    whole = kinds[0] != "bigint" or isinstance(found, int)
    return found if found is not None and whole else value


def _rows_of(answer) -> list:
    """The wire objects in the answer of a list procedure, which is a list or holds one."""
    rows = answer
    if isinstance(answer, dict):
        rows = [answer[key] for key in ("traces", "items") if isinstance(answer.get(key), list)]
        rows = rows[0] if rows else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _wrong_type("the list")
    return rows


def _object(answer) -> dict:
    if not isinstance(answer, dict):
        raise _wrong_type("the resource")
    return answer


def _trace_input(trace_id, project) -> dict:
    return {"traceId": trace_id, "id": trace_id, "projectId": project}


def _counted_scores(trace):
    counts = trace.get("_count")
    return number(counts.get("scores")) if isinstance(counts, dict) else number(
        trace.get("scoreCount"))


def _lacks_scores(trace) -> bool:
    return not isinstance(trace.get("scores"), list) and _counted_scores(trace) != 0


def _has_scores(answer, trace) -> bool:
    scores = answer.get("scores") if isinstance(answer, dict) else None
    return isinstance(scores, list) and len(scores) >= (_counted_scores(trace) or 0)


############################################################
# Commands
############################################################

COMMANDS = {}               # "traces list": Command, in the order of the documentation


class Command:
    """A command: its options, its function, and examples; the function's docstring is its help.

    key: it works with a project's API key instead of a session; exclusive: two flags that
    contradict each other; endless: it goes on until Ctrl-C, which is then no failure; patient: it
    calls args.resolve() itself, where it can wait for what passes.
    """

    def __init__(self, name, function, options, examples, key, exclusive, endless, patient):
        self.name, self.function, self.options, self.examples = name, function, options, examples
        self.key, self.exclusive, self.endless, self.patient = key, exclusive, endless, patient

    @property
    def help(self):
        import inspect
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def summary(self):
        return (self.function.__doc__ or "").strip().partition("\n")[0]


class Option:
    """Flags or the name of a positional, and what argparse takes for it.

    env: the environment variable that stands in where it is not given; needed: a usage error
    names both where neither is there; resolve: a function (client, args, text) that gives the ID
    for a name; values: what shells complete it with.
    """

    def __init__(self, *flags, env=None, needed=False, resolve=None, values=(), **details):
        self.flags, self.env, self.needed, self.details = flags, env, needed, details
        self.resolve, self.values = resolve, tuple(values)

    @property
    def name(self):
        long = [flag for flag in self.flags if flag.startswith("--")]
        return self.details.get("dest") or (
            (long or list(self.flags))[0].lstrip("-").replace("-", "_"))

    @property
    def takes_value(self):
        return self.flags[0].startswith("-") and self.details.get("action") in (None, "append")


def command(name, *options, examples=(), key=False, exclusive=(), endless=False, patient=False):
    """Registers a function (client, args) -> result as a command."""
    def register(function):
        COMMANDS[name] = Command(name, function, options, examples, key, exclusive, endless,
                                 patient)
        return function
    return register


def _positive(text, least=1) -> int:
    if not re.match(r"[0-9]{1,18}\Z", text, re.ASCII) or int(text) < least:
        raise ValueError("%s is not a number from %d on" % (plain(text), least))
    return int(text)


def _seconds(text) -> float:
    value = number(text)
    if value is None or not 0 < value <= 86400:
        raise ValueError("%s is not a number of seconds" % plain(text))
    return float(value)


def _status(text) -> str:
    if text.upper() not in ("OK", "ERROR"):
        raise ValueError("%s is neither OK nor ERROR" % plain(text))
    return text.upper()


def _given(text) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _when(text) -> float:
    """Unix seconds of 30m, 24h, 7d (ago), a date, or ISO 8601; in UTC where there is no zone."""
    text = text.strip()
    ago = re.match(r"(\d{1,9})([smhdw])\Z", text, re.ASCII)
    full = text + "T00:00:00Z" if len(text) == 10 else re.sub(
        r"\A(.{10}[T ]\d\d:\d\d)(?=Z|[+-]|\Z)", r"\1:00", text)
    found = moment(full)
    if ago:
        found = time.time() - int(ago.group(1)) * _UNITS[ago.group(2)]
    if found is None or not -62135596800 <= found < 253402300800:   # the years 1 to 9999
        raise ValueError("%s is neither like 30m, 24h, 7d nor like 2026-03-14 or "
                         "2026-03-14T10:30:00Z" % plain(text))
    return found


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _milliseconds(text) -> float:
    match = re.match(r"(\d{1,9}(?:\.\d+)?)(ms|[smh])\Z", text.strip(), re.ASCII)
    if not match:
        raise ValueError("%s is not a duration like 500ms, 5s or 2m" % plain(text))
    unit = 1 if match.group(2) == "ms" else 1000 * _UNITS[match.group(2)]
    return round(float(match.group(1)) * unit, 6)       # 1.001s are 1001, not 1000.9999999999999


def _patience(text) -> float:
    """Seconds, of 90, 90s or 5m."""
    return _seconds(text if re.match(r"[\d.]+\Z", text) else str(_milliseconds(text) / 1000))


def _usd(text) -> float:
    value = number(text.strip().lstrip("$"))
    if value is None or value < 0:
        raise ValueError("%s is not an amount in USD" % plain(text))
    return value


def _share(text) -> float:
    """0.02 of 2% or of 0.02"""
    percent = text.strip().endswith("%")
    value = number(text.strip().rstrip("%"))
    if value is None or not 0 <= value <= (100 if percent else 1):
        raise ValueError("%s is not a share like 2%% or 0.02" % plain(text))
    return value / 100 if percent else value


def _percentage(text) -> float:
    """0.9 of 90 or of 90%"""
    try:
        return _share(text.strip().rstrip("%") + "%")
    except ValueError:
        raise ValueError("%s is not a percentage from 0 to 100, like 90" % plain(text))


def _score(text) -> float:
    value = number(text.strip())
    if value is None or not 0 <= value <= 1:
        raise ValueError("%s is not a score from 0 to 1" % plain(text))
    return value


def _score_limit(text) -> tuple:
    """("faithfulness", 0.8) of faithfulness=0.8; ("", 0.5) of 0.5"""
    name, equals, least = text.rpartition("=")
    if equals:
        _given(name)
    return name.strip(), _score(least)


def _is_uuid(text) -> bool:
    return bool(re.match(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", text, re.I))


def _org_id(client, args, text):
    if _is_uuid(text):
        return text
    return _id_of(lambda: client.rows("organization.list"), text, "organization")


def _project_id(client, args, text):
    def projects():
        org = getattr(args, "org", None) or setting("TWOSIGNAL_ORG")
        orgs = [_org_id(client, args, org)] if org else [
            row.get("id") for row in client.rows("organization.list")]
        return client.visible_rows("project.list", [{"organizationId": each} for each in orgs])
    if _is_uuid(text) or client.key:    # a key cannot look names up: Choice compares what comes
        return text
    return _id_of(projects, text, "project")


def _listed_id(procedure, what):
    def resolve(client, args, text):
        if _is_uuid(text):
            return text
        return _id_of(lambda: client.visible_rows(procedure, [{"projectId": args.project}]), text,
                      what)
    return resolve


def _id_of(rows, text, what) -> str:
    """The ID that a name stands for; the text itself where there is no such name: it may be an ID.

    Raises a usage error where several have that name, NOT_FOUND where one resembles it.
    """
    rows = rows()
    if any(row.get("id") == text for row in rows):
        return text
    names = [(_composed(row["name"]), row) for row in rows if isinstance(row.get("name"), str)]
    found = [row.get("id") for name, row in names if name == _composed(text)]
    if len(found) > 1:
        raise wrong_usage("There are %d %ss named '%s'" % (len(found), what, plain(text)),
                          "Use one of the IDs: %s." % ", ".join(map(plain, found)))
    alike = [name for name, _ in names
             if name.casefold().strip() == _composed(text).casefold().strip()]
    if alike and not found:
        raise Failure("%s not found" % what.capitalize(), "Did you mean '%s'?" % plain(alike[0]),
                      "NOT_FOUND")
    return found[0] if found and isinstance(found[0], str) else text


def _field_list(text) -> list:
    fields = [field.strip() for field in text.split(",") if field.strip()]
    if not fields:
        raise ValueError("it is empty")
    return fields


def _format(text) -> str:
    if text not in FORMATS:
        raise ValueError("%s is none of %s" % (plain(text), ", ".join(FORMATS)))
    return text


SHARED = (
    Option("--json", action="store_const", const="json", dest="format",
           help="print JSON instead of a table"),
    Option("--format", metavar="FORMAT", type=_format, values=FORMATS, help=", ".join(FORMATS)),
    Option("--fields", metavar="NAMES", type=_field_list,
           help="only these, like id,name,scores.0.score; '?' lists them"),
    Option("-o", "--output", metavar="FILE", type=_given,
           help="write to a file, whole or not at all; - is stdout"),
    Option("--url", metavar="URL", help="the server's address, for this command"),
    Option("--timeout", metavar="SECONDS", type=_seconds,
           help="how long a request may take as a whole (%d)" % TIMEOUT),
    Option("--ca-cert", metavar="FILE", help="trust the certificates in this PEM file too"),
    Option("-q", "--quiet", action="store_true", help="no remarks on stderr, only errors"),
    Option("--no-color", action="store_true", help="no colours"),
    Option("--debug", action="store_true", help="show requests on stderr, secrets masked"),
    Option("-h", "--help", action="store_true", help="show this help"),
)


def _everywhere(command) -> tuple:
    """The options of a command and the shared ones, which its own go before."""
    own = {flag for option in command.options for flag in option.flags}
    return command.options + tuple(each for each in SHARED if not own & set(each.flags))


def _flags(options) -> dict:
    return {flag: option for option in options for flag in option.flags if flag.startswith("-")}


def _composed(text) -> str:
    """The text with one form for letters with accents, of which Unicode has two (NFC)."""
    import unicodedata
    return unicodedata.normalize("NFC", text)


PROJECT = Option("--project", metavar="ID", env="TWOSIGNAL_PROJECT", needed=True, type=_given,
                 resolve=_project_id, help="the project's ID or name")
ORG = Option("--org", metavar="ID", env="TWOSIGNAL_ORG", needed=True, type=_given,
             resolve=_org_id, help="the organization's ID or name")
NAME_FLAG = Option("-n", "--name", required=True, metavar="NAME", help="its name")
JUNIT = Option("--junit", metavar="FILE", type=_given, help="write a JUnit report of the checks")
YES = Option("-y", "--yes", action="store_true", help="do not ask")


def _id(what, listed=None):
    return Option("id", metavar="ID", type=_given, resolve=listed and _listed_id(listed, what),
                  help="the %s's ID%s" % (what, " or name" if listed else ""))


def _json_option(flag, help, **details):
    return Option(flag, metavar="JSON", help=help + ": a literal, @FILE, or - for stdin", **details)


def json_value(text, flag, console):
    """The value of a JSON option: a literal, @FILE or -. Raises a usage error that says where."""
    if text is None:
        return None
    if text == "-":
        text = console.read_stdin(flag)
    elif text.startswith("@"):
        text = _file_text(text[1:], flag)
    try:
        return json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_refuse)
    except RecursionError:
        raise wrong_usage("%s is nested too deeply" % flag)
    except ValueError as error:
        what = str(error)
        if isinstance(error, json.JSONDecodeError):
            what = "%s (line %d, column %d)" % (error.msg, error.lineno, error.colno)
        raise wrong_usage("%s is not JSON: %s" % (flag, what),
                          "Quote it for the shell, like %s '{\"prompt\": \"Hi\"}'." % flag)


def _file_text(path, flag):
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, ValueError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else reason(error)
        raise wrong_usage("Cannot read the file of %s: %s: %s" % (flag, plain(path), why),
                          "Check the path after the @.")


def warn_of_http(url, what, console):
    """Tells it where something secret goes to another machine in the clear."""
    if url.startswith("http:") and not is_local(url):
        console.tell("Warning: %s is not encrypted: others on the network can read the %s."
                     % (url, what))


def yes_no(value) -> str:
    return {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else plain(value)


ID, NAME = Column("ID", "id"), Column("Name", "name")
CREATED = Column("Created", "created_at", age, least=12)
DESCRIPTION = Column("Description", "description")


def _records(client, procedure, values=None) -> list:
    return [record(row) for row in client.rows(procedure, values)]


def _part(found, key) -> list:
    """The records below a key of a record; raises Failure where it holds something else."""
    rows = found.get(key) or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _wrong_type(key)
    return rows


def _created(what, columns, wire):
    found = record(_object(wire))
    message = 'Created %s "%s".' % (what, plain(found.get("name")))
    return Details(found, columns, message=message)


def _delete(client, args, what, procedure, listed, verb="delete"):
    """Asks, unless --yes was given, and deletes or revokes."""
    done = verb + "d"
    if not args.yes:
        args.console.must_ask("--yes")
        row = _find(client.rows(listed, {"projectId": args.project}), args.id, listed)
        question = '%s %s "%s" (%s)? [y/N] ' % (verb.title(), what, plain(row.get("name")),
                                                plain(args.id))
        if not args.console.confirm(question):
            raise Failure("Nothing was %s" % done, code="CANCELLED")
    client.mutate(procedure, {"id": args.id, "projectId": args.project})
    return Details({"id": args.id, done: True},
                   message="%s %s %s." % (done.title(), what, plain(args.id)))


def _find(rows, wanted, procedure) -> dict:
    for row in rows:
        if row.get("id") == wanted:
            return row
    raise _not_found("", procedure)


# --- session

ACCOUNT = (Column("Email", "email"), Column("User ID", "user_id"), Column("Server", "api_url"),
           Column("Session", lambda row: "until %s, then refreshed" % plain(row["expires_at"])))


def _account(session, message=""):
    values = session.values
    found = {"email": values.get("user_email"), "user_id": values.get("user_id"),
             "api_url": session.api_url, "expires_at": iso(session.expires_at)}
    return Details(found, ACCOUNT, message=message)


@command(
    "login",
    Option("-e", "--email", metavar="EMAIL", env="TWOSIGNAL_EMAIL", help="asked for where missing"),
    Option("-p", "--password", metavar="PASSWORD", env="TWOSIGNAL_PASSWORD",
           help="asked for where missing; visible to other users of the machine"),
    Option("--password-stdin", action="store_true", help="read the password from stdin, one line"),
    examples=("twosignal login", "twosignal login -e you@example.com --password-stdin < secret.txt",
              "twosignal login --url https://twosignal.example.com"),
    exclusive=("--password", "--password-stdin"))
def login(client, args):
    """Log in and keep the session for the next commands."""
    console = args.console
    if "password" in args.given:
        console.tell("Warning: a password on the command line is visible to other users of this "
                     "machine. Use --password-stdin or TWOSIGNAL_PASSWORD.")
    warn_of_http(client.url, "password", console)
    email = args.email or console.ask("Email: ", "--email")
    password = console.read_line() if args.password_stdin else args.password
    if not password and not args.password_stdin:
        password = console.ask_secret("Password: ", "--password-stdin")
    if not email.strip() or not password:
        raise wrong_usage("The %s is empty" % ("password" if email.strip() else "email"))
    session = client.login(email.strip(), password)
    if has_key():
        console.tell("Note: TWOSIGNAL_API_KEY goes before this session in the commands that can "
                     "use a key.")
    if args.url or read_text(path_of("config.json")) is None:
        save_config(client.url)
    return _account(session, "Logged in to %s." % client.url)


@command("whoami", key=True, examples=("twosignal whoami", "twosignal whoami --json"))
def whoami(client, args):
    """Show who is logged in, as the server sees it.

    With TWOSIGNAL_API_KEY: which key is in use.
    """
    if client.key:
        _rows_of(client.rest("GET", "/traces", {"limit": 1}))
        shown = client.key[:6] if len(client.key) > 12 else ""
        return Details({"email": None, "user_id": None, "api_url": client.url, "expires_at": None,
                        "api_key": shown + "…"},
                       (Column("API key", "api_key"), Column("Server", "api_url")))
    client.rows("organization.list")
    session = client.session()
    if not session.api_url:
        session.api_url = client.url
    return _account(session)


@command("logout", examples=("twosignal logout",))
def logout(client, args):
    """End the session, on the server and here."""
    try:
        stored = load_session()
    except Failure:
        client.forget()
        return Details({"logged_out": True}, message="Logged out: the damaged session is deleted.")
    if stored is None:
        return Details({"logged_out": False}, message="Not logged in.")
    try:
        client.logout()
    except Failure as failure:
        if failure.code == "NOT_LOGGED_IN":
            raise
        args.console.tell("The session is forgotten here, but it could not be ended on the server: "
                          "%s." % plain(failure.message))
    client.forget()
    return Details({"logged_out": True}, message="Logged out of %s." % client.url)


# --- organizations and projects

ORG_COLUMNS = (ID, Column("Plan", "plan"), Column("Role", "role"),
               Column("Members", "member_count"), NAME)
PROJECT_COLUMNS = (ID, CREATED, NAME)


@command("orgs list", examples=("twosignal orgs list",))
def orgs_list(client, args):
    """List your organizations."""
    return Listing("organizations", ORG_COLUMNS, _records(client, "organization.list"))


@command("orgs create", Option("name", metavar="NAME", help="its name"),
         examples=('twosignal orgs create "My Org"',))
def orgs_create(client, args):
    """Create an organization."""
    return _created("organization", (ID, Column("Plan", "plan")),
                    client.mutate("organization.create", {"name": args.name}))


@command("projects list", ORG, examples=("twosignal projects list --org ID",))
def projects_list(client, args):
    """List the projects of an organization."""
    return Listing("projects", PROJECT_COLUMNS,
                   _records(client, "project.list", {"organizationId": args.org}))


@command("projects create", Option("name", metavar="NAME", help="its name"), ORG,
         Option("-d", "--description", metavar="TEXT", help="what it is for"),
         examples=('twosignal projects create "My Project" --org ID',))
def projects_create(client, args):
    """Create a project in an organization."""
    return _created("project", (ID, DESCRIPTION), client.mutate("project.create", {
        "organizationId": args.org, "name": args.name, **known(description=args.description)}))


# --- traces

STATUS, DURATION = Column("Status", "status"), Column("Duration", "duration_ms", duration)
COST = Column("Cost", "cost_usd", cost, least=8)
TRACE_COLUMNS = (ID, STATUS, DURATION, COST, CREATED, Column("Name", "name", optional=True))
TAIL_COLUMNS = (ID, STATUS, DURATION, Column("Cost", "cost_usd", cost, least=9),
                Column("Created", "created_at", clock, least=10),
                Column("Name", "name", optional=True))
TRACE_KEYS = (
    "project_id", "start_time", "end_time", "total_tokens", "tags", "metadata", "session_id",
    "span_count", "score_count", "scores") + tuple("scores." + key for key in (
        "id", "trace_id", "span_id", "project_id", "created_at", "evaluator", "score", "label",
        "reasoning"))
TRACE_FIELDS = (ID, NAME, STATUS, DURATION, COST, CREATED, Column("Tokens", "total_tokens", count),
                Column("Session", "session_id"),
                Column("Tags", lambda row: ", ".join(map(plain, row["tags"])) or "-"
                       if isinstance(row.get("tags"), list) else "-"),
                Column("Metadata", "metadata"))
SCORE_COLUMNS = (Column("Score", "score"), Column("Label", "label"),
                 Column("Evaluator", "evaluator"), Column("Reasoning", "reasoning"))


CHOICE = (
    Option("--since", metavar="WHEN", type=_when,
           help="30m, 24h or 7d ago, a date, or ISO 8601 (UTC)"),
    Option("--until", metavar="WHEN", type=_when, help="the same; the end of the time"),
    Option("--status", metavar="STATUS", type=_status, values=("OK", "ERROR"), help="OK or ERROR"),
    Option("--error", action="store_true", help="the same as --status ERROR"),
    Option("--search", metavar="TEXT", type=_given, help="a part of the name"),
    Option("--tag", metavar="TAG", type=_given, action="append",
           help="may be repeated; all must match"),
    Option("--min-duration", metavar="TIME", type=_milliseconds, help="like 500ms or 5s"),
    Option("--max-duration", metavar="TIME", type=_milliseconds, help="like 500ms or 5s"),
    Option("--min-cost", metavar="USD", type=_usd, help="like 0.05"),
)


class Choice:
    """The traces that the options of CHOICE ask for, as records, newest first, page by page.

    What the server can filter, it filters; what it cannot, or does not know, is filtered here.
    limit: how many at most, None for all; exact: look on behind the limit, until it is certain
    whether another one matches; scores: NEEDED, IF_KNOWN, or None where they are not wanted;
    strict: all that the server counts.
    looked, matched, given: how many came, matched, and were given; more: True where others that
    match exist, MAYBE where nobody knows.
    """

    def __init__(self, client, args, limit, scores=None, exact=False, strict=True):
        if args.error and args.status == "OK":
            raise wrong_usage("--error and --status OK cannot be used together")
        if None not in (args.since, args.until) and args.since >= args.until:
            raise wrong_usage("--since is not before --until")
        self.client, self.args, self.limit, self.exact = client, args, limit, exact
        self.scores, self.strict = scores, strict
        self.status = "ERROR" if args.error else args.status
        self.conditions = self._conditions()
        self.looked = self.matched = self.given = 0
        self.more = self.told = False

    def __iter__(self):
        for found in self.pages():
            for shown in self.shown(found):
                yield shown

    def pages(self):
        """Yields the (trace, record) of those that match, page by page, up to the limit."""
        started = time.monotonic()
        for page, more in self.client.trace_pages(self.values(), self._size):
            found = self.matching(page)
            self.looked += len(page)
            self.matched += len(found)
            room = len(found) if self.limit is None else self.limit - self.given
            self.given += min(room, len(found))
            if more and self._is_past(page):
                more = False
            beyond = len(found) > room
            self.more = beyond or (MAYBE if more and (self.exact or self._filters_here()) else more)
            yield found[:room]
            full = self.given == self.limit and not (self.exact and self.more == MAYBE)
            if beyond or full or not more:
                return
            self.args.console.progress("%s traces" % count(self.looked), started)

    def matching(self, page) -> list:
        """(trace, record) of those wire traces that match."""
        found = [(trace, record(trace, "trace")) for trace in page]
        if self.client.key and self.args.project:
            self._check_project(found)
        return [pair for pair in found if all(holds(pair[1]) for holds in self.conditions)]

    def shown(self, found) -> list:
        """The records of what matching() gave, with their scores if they are wanted."""
        if self.scores and not self.client.add_scores(
                [trace for trace, _ in found], self.args.project, self.scores == NEEDED,
                self.strict):
            if not self.told:
                self.args.console.tell("Scores are null: the API of a project key does not give "
                                       "them.")
            self.told = True
        for trace, shown in found:
            if self.scores:
                shown["scores"] = trace["scores"] and [
                    record(score, "score") for score in trace["scores"]]
            _part(shown, "scores")
        return [shown for _, shown in found]

    def values(self) -> dict:
        """The input of trace.list, in the spellings of all servers."""
        args = self.args
        return known(projectId=args.project or None, status=self.status, search=args.search,
                     name=args.search, tags=args.tag or None,
                     startDate=None if args.since is None else _stamp(args.since),
                     endDate=None if args.until is None else _stamp(args.until))

    def _size(self) -> int:
        """As many as are needed, but whole pages where some of them may not match."""
        if self.limit in (None, self.given) or self._filters_here():
            return PAGE
        return min(PAGE, self.limit - self.given)

    def _filters_here(self) -> bool:
        args = self.args
        return self.looked > self.matched or (
            args.min_duration, args.max_duration, args.min_cost) != (None,) * 3

    def _conditions(self) -> list:
        """What has to hold for a trace: functions of its record, one for each option."""
        args = self.args
        found = (
            (self.status, lambda trace: str(trace["status"]).upper() == self.status),
            (args.search,
             lambda trace: args.search.casefold() in str(trace["name"] or "").casefold()),
            (args.tag, lambda trace: isinstance(trace.get("tags"), list)
             and all(tag in trace["tags"] for tag in args.tag)),
            ((args.min_duration, args.max_duration) != (None, None),
             lambda trace: _is_within(trace["duration_ms"], args.min_duration, args.max_duration)),
            (args.min_cost is not None, lambda trace: _is_within(trace["cost_usd"], args.min_cost)),
            ((args.since, args.until) != (None, None), self._is_in_time),
        )
        return [holds for given, holds in found if given]

    def _check_project(self, found):
        """Raises a usage error where the key, which tells the project, is for another one."""
        wanted = self.args.project
        if any(str(shown.get("project_id")).lower() != wanted.lower() for _, shown in found):
            raise wrong_usage("The API key is for another project than %s" % plain(wanted)
                              if _is_uuid(wanted) else
                              "An API key tells the project by its ID only, not as '%s'"
                              % plain(wanted),
                              "Leave --project and TWOSIGNAL_PROJECT out, or use another key.")

    def _is_in_time(self, trace) -> bool:
        since, until = self.args.since, self.args.until
        times = [found for found in (moment(trace.get("created_at")),
                                     moment(trace.get("start_time"))) if found is not None]
        return any((since is None or found >= since - 0.0005)
                   and (until is None or found <= until + 0.0005) for found in times)

    def _is_past(self, page) -> bool:
        """Whether a page lies before --since: a server that does not know it sends all there is."""
        if self.args.since is None:
            return False
        times = [_began(trace) for trace in page]
        return (bool(times) and None not in times
                and times == sorted(times, reverse=True) and times[0] < self.args.since - 3600)

    def remark(self) -> str:
        """What stderr shows of a listing: whether there are more, and how many were looked at."""
        told = [self.looked_at()]
        if self.more:
            told.insert(0, "Showing %d trace%s; more %sexist. Use --limit N or --all." % (
                self.given, "" if self.given == 1 else "s", "may " if self.more == MAYBE else ""))
        return " ".join(filter(None, told))

    def looked_at(self) -> str:
        """How many came, where not all of them match; else an empty text."""
        if not self._filters_here() or not self.looked:
            return ""
        if self.given == self.limit:
            return "%s traces were looked at." % count(self.looked)
        return "%s of the %s traces looked at match." % (count(self.given), count(self.looked))


def _is_within(value, least, most=None) -> bool:
    """Whether a value is a number within the bounds; None for a bound that there is not."""
    value = number(value)
    return value is not None and (least is None or value >= least) and (
        most is None or value <= most)


def _began(trace):
    """Unix seconds of when a wire trace was made, or None."""
    found = moment(trace.get("createdAt"))
    return moment(trace.get("startTime")) if found is None else found


def _stamp(seconds) -> str:
    """Unix seconds as the wire has them, with milliseconds."""
    milliseconds = int(round(seconds * 1000))
    return iso(milliseconds // 1000, ".%03d" % (milliseconds % 1000))


NEEDED, IF_KNOWN = "needed", "if known"     # the scores of traces


def _wanted_scores(args):
    """NEEDED where --fields names them, IF_KNOWN where all fields are shown, or None."""
    if not args.fields or args.fields == ["?"]:
        return IF_KNOWN if args.fields or args.format != "table" else None
    return NEEDED if any(field.split(".")[0] == "scores" for field in args.fields) else None


@command(
    "traces list", PROJECT,
    Option("-n", "-L", "--limit", metavar="N", type=_positive, help="how many at most (20)"),
    Option("--all", action="store_true", help="all of them"),
    Option("--fail-if-truncated", action="store_true", help="exit 10 if there are more"),
    *CHOICE, key=True, exclusive=("--all", "--limit"),
    examples=("twosignal traces list --project ID --status ERROR",
              "twosignal traces list --project ID --since 24h --all --format jsonl -o traces.jsonl",
              "twosignal traces list --project ID --fields id,name,scores.0.score --format csv"))
def traces_list(client, args):
    """List the traces of a project, newest first."""
    limit = None if args.all else args.limit or 20
    choice = Choice(client, args, limit, _wanted_scores(args), exact=args.fail_if_truncated)

    def after():
        if choice.more and args.fail_if_truncated:
            raise Failure("More than the %d traces that were asked for exist" % choice.given,
                          "Use --limit N or --all.", "CHECK_FAILED")
        return choice.remark()

    return Listing("traces", TRACE_COLUMNS, choice, after, optional=TRACE_KEYS)


@command("traces get", _id("trace"), PROJECT, examples=("twosignal traces get ID --project ID",))
def traces_get(client, args):
    """Show a trace with its spans as a tree, and its scores."""
    found = record(client.trace(args.id, args.project), "trace")
    for key in ("spans", "scores"):
        found[key] = _part(found, key)
    tree = span_tree(found["spans"])
    depths = {id(span): depth for depth, span in tree}
    columns = (Column("Type", "type"), STATUS, DURATION, COST, Column("Model", "model"),
               Column("Span", lambda span: "  " * min(depths[id(span)], 20) + plain(span["name"])))
    spans = [span for _, span in tree]
    errors = ["%s: %s" % (plain(span["name"]), plain(span["error_message"]))
              for span in spans if span.get("error_message")]
    parts = [("Spans", Listing("spans", columns, spans)),
             ("Scores", Listing("scores", SCORE_COLUMNS, found["scores"]))]
    if errors:
        parts.append(("Errors", lambda screen: [line + "\n" for line in errors]))
    return Details(found, TRACE_FIELDS, parts)


# --- gates

class Series:
    """A value of each of many traces, and what a gate needs of them, in little memory.

    values: an array of float; traces: how many they are of; broken: IDs of traces whose value is no
    number, the first few; lowest: those with the lowest values are the worst.
    """

    def __init__(self, lowest=False):
        from array import array
        self.values, self.traces, self.broken = array("d"), 0, []
        self.sign, self.extremes, self.last = -1 if lowest else 1, [], None

    def add(self, value, trace):
        """value: a number or None; trace: the ID."""
        from heapq import heappush, heappushpop
        if value is None:
            self.broken += [trace] if len(self.broken) < WORST else []
            return
        self.values.append(value)
        if trace != self.last:
            self.traces, self.last = self.traces + 1, trace
        push = heappush if len(self.extremes) < WORST else heappushpop
        push(self.extremes, (self.sign * value, -len(self.values), trace))

    def worst(self) -> list:
        """The (value, trace ID) at the bad end, the worst first."""
        return [(self.sign * key, trace) for key, _, trace in sorted(self.extremes, reverse=True)]


class Tally:
    """What the checks measure, taken from one trace after the other."""

    def __init__(self):
        self.count, self.errors, self.took, self.costs = 0, Series(), Series(), Series()
        self.scores = {None: Series(lowest=True)}       # of each evaluator, and of all of them

    def add(self, trace):
        name = plain(trace["id"])
        self.count += 1
        if str(trace["status"]).upper() == "ERROR":
            self.errors.add(1, name)
        for series, key in ((self.took, "duration_ms"), (self.costs, "cost_usd")):
            value = number(trace[key])
            if value is not None:
                series.add(value, name)
        for score in trace.get("scores") or ():
            value, evaluator = number(score.get("score")), str(score.get("evaluator"))
            self.scores.setdefault(evaluator, Series(lowest=True)).add(value, name)
            self.scores[None].add(value, name)


def _within(measured, limit) -> bool:
    """measured <= limit, for numbers that were written as decimals: 0.1 + 0.2 is within 0.3."""
    return measured is not None and measured <= limit + 1e-9 * max(1e-3, abs(limit))


# Each measures for a limit: (what was measured or None, in how many traces, whether the limit
# holds, the (value, trace ID) that are worst).

def _check_error_rate(tally, limit):
    measured = len(tally.errors.values) / tally.count if tally.count else None
    return measured, tally.count, _within(measured, limit), tally.errors.worst()


def _check_min_score(tally, limit):
    """A score that is no number, NaN say, does not hold; alone it is nothing to measure."""
    name, least = limit
    scores = tally.scores.get(name or None, Series())
    measured = min(scores.values) if scores.values else None
    worst = [(None, trace) for trace in scores.broken]
    worst += [(value, trace) for value, trace in scores.worst() if not _within(-value, -least)]
    return measured, scores.traces, bool(scores.values) and not worst, worst


def _check_p95(tally, limit):
    values = sorted(tally.took.values)
    measured = values[-(-len(values) * 95 // 100) - 1] if values else None     # the nearest rank
    return measured, len(values), _within(measured, limit), tally.took.worst()


def _check_cost(tally, limit):
    worst = tally.costs.worst()
    measured = worst[0][0] if worst else None
    return measured, tally.costs.traces, _within(measured, limit), [
        each for each in worst if not _within(each[0], limit)]


def _check_total_cost(tally, limit):
    measured = sum(tally.costs.values) if tally.costs.values else None
    return measured, tally.costs.traces, _within(measured, limit), tally.costs.worst()


def _percent(share) -> str:
    return "%.4g%%" % (share * 100)


def _plain_score(value) -> str:
    return "no number" if value is None else "%.4g" % value


CHECKS = (                  # option, name, what measures it, how its values look, and the worst
    ("max_error_rate", "error rate", _check_error_rate, _percent, lambda value: "error"),
    ("min_score", "lowest score", _check_min_score, _plain_score, _plain_score),
    ("max_p95", "p95 duration", _check_p95, duration, duration),
    ("max_cost", "highest cost", _check_cost, cost, cost),
    ("max_total_cost", "total cost", _check_total_cost, cost, cost),
)
CHECK_COLUMNS = tuple(Column(name.title(), name)
                      for name in ("check", "measured", "limit", "verdict", "traces"))
WORST_COLUMNS = (Column("Trace", "trace_id"), Column("Value", "value"), Column("Check", "check"))


class Check:
    """What was measured, and the limit that it was held against.

    passed: None where nothing could be measured; traces: in how many it was; worst: the
    (value, trace ID) of those that are to blame; form: how its values look; untold: the verdict
    where passed is None.
    """

    def __init__(self, name, limit, measured, passed, form, traces=None, worst=(),
                 worst_form=None, untold="NOTHING TO CHECK"):
        self.name, self.limit, self.measured, self.form = name, limit, measured, form
        self.passed = None if measured is None else passed
        self.traces, self.worst_form, self.untold = traces, worst_form, untold
        self.worst = [] if passed else list(worst[:WORST])

    def record(self) -> dict:
        return {"check": self.name, "measured": self.measured, "limit": self.limit,
                "traces": self.traces, "passed": self.passed,
                "worst": [{"trace_id": trace, "value": value} for value, trace in self.worst]}

    def row(self) -> dict:
        """What tables and reports show: text for each of CHECK_COLUMNS."""
        verdict = {True: "OK", False: "FAILED", None: self.untold}[self.passed]
        limit = self.form(self.limit)
        measured = "-" if self.measured is None else self.form(self.measured)
        if measured == limit and self.passed is False:      # they differ behind what is shown
            measured, limit = "%.10g" % self.measured, "%.10g" % self.limit
        return {"check": plain(self.name), "measured": measured, "limit": limit,
                "traces": count(self.traces), "verdict": verdict}

    def worst_rows(self) -> list:
        return [{"trace_id": trace, "value": self.worst_form(value), "check": self.name}
                for value, trace in self.worst]


@command(
    "traces check", PROJECT,
    Option("--max-error-rate", metavar="SHARE", type=_share, help="like 2% or 0.02"),
    Option("--min-score", metavar="[NAME=]SCORE", type=_score_limit, action="append",
           help="0.5 for any evaluator, or faithfulness=0.8; may be repeated"),
    Option("--max-p95", metavar="TIME", type=_milliseconds, help="of the durations, like 8s"),
    Option("--max-cost", metavar="USD", type=_usd, help="of each trace"),
    Option("--max-total-cost", metavar="USD", type=_usd, help="of all traces together"),
    Option("--min-count", metavar="N", type=_positive,
           help="exit 11 where there are fewer traces (1)"),
    JUNIT,
    Option("-n", "-L", "--limit", metavar="N", type=_positive, help="look at the N newest (all)"),
    *CHOICE, key=True,
    examples=("twosignal traces check --project ID --since 1h --max-error-rate 2% --min-score 0.5",
              "twosignal traces check --project ID --min-score faithfulness=0.8 --max-p95 8s "
              "--junit report.xml"))
def traces_check(client, args):
    """Hold traces against limits: a gate for pipelines.

    Exits with 0 if all limits hold, 10 if one does not, 11 if there was nothing to check.
    """
    wanted = [(option, value) for option, *_ in CHECKS
              for value in _as_list(getattr(args, option))]
    if not wanted and not args.min_count:
        raise wrong_usage("No check was given", "Give one or more of %s." % ", ".join(
            "--" + option.replace("_", "-") for option, *_ in CHECKS))
    tally = Tally()
    choice = Choice(client, args, args.limit, NEEDED if args.min_score else None)
    with Report(args, "twosignal traces check") as report:
        for trace in choice:
            tally.add(trace)
        checks = [_checked(tally, option, value) for option, value in wanted]
        least = args.min_count or 1
        enough = tally.count >= least
        checks.append(Check("count", least, tally.count, enough or None, count, tally.count,
                            untold="TOO FEW"))
        report.tell(checks)
    return _verdict(checks, tally, enough, lambda: _advice(checks, tally, enough, choice))


def _advice(checks, tally, enough, choice) -> str:
    """What stderr shows after a gate: how many were looked at, and the way on from too few."""
    told = [choice.looked_at()]
    if not enough:
        told.append("Look further back with --since, or choose less narrowly.")
    if any(check.passed is None and check.worst_form is _plain_score for check in checks):
        names = sorted(name for name in tally.scores if name is not None)
        told.append("There are scores of %s." % ", ".join(map(plain, names))
                    if names else "No trace has a score.")
    return " ".join(filter(None, told))


def _as_list(value) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def _checked(tally, option, limit) -> Check:
    name, measure, form, worst_form = {row[0]: row[1:] for row in CHECKS}[option]
    measured, traces, passed, worst = measure(tally, limit)
    if option == "min_score":
        name, limit = (limit[0] and "lowest score of " + limit[0]) or name, limit[1]
    return Check(name, limit, measured, passed, form, traces, worst, worst_form)


def _verdict(checks, tally, enough, after) -> Details:
    verdicts = [check.passed for check in checks]
    code = EXIT_CODES["CHECK_FAILED"] if False in verdicts else (
        EXIT_CODES["NOTHING_TO_CHECK"] if None in verdicts else 0)
    found = {"passed": code == 0, "traces": tally.count,
             "checks": [check.record() for check in checks]}
    parts = [("Checks", Listing("checks", CHECK_COLUMNS, [check.row() for check in checks]))]
    worst = [row for check in checks for row in check.worst_rows()]
    if worst:
        parts.append(("Worst traces", Listing("traces", WORST_COLUMNS, worst)))
    message = {0: "Passed, %s checked.", 10: "Failed, %s checked.",
               11: "Nothing to check in %s."}[code]
    if code == 11 and not enough:
        message = "Too few: %s."
    message %= "%s trace%s" % (count(tally.count), "" if tally.count == 1 else "s")
    return Details(found, (), parts, message, after, code)


class Report:
    """Where a gate tells its checks beside its output: a JUnit file, and GitHub Actions.

    The file is written whole or not at all; one that cannot be written is told at the start.
    """

    def __init__(self, args, title):
        if args.junit and args.junit in ("-", args.output):
            raise wrong_usage("--junit needs a file of its own")
        self.title, self.console = title, args.console
        self.output = output_file(args.junit) if args.junit else None

    def __enter__(self):
        self.file = self.output.__enter__() if self.output else None
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Failure) and setting("GITHUB_ACTIONS"):
            self.console.say(_annotation("%s. %s" % (plain(error.message), plain(error.hint))))
        if self.output:
            self.output.__exit__(kind, error, trace)

    def tell(self, checks):
        if self.file:
            self.file.write(_junit(checks, self.title).encode("utf-8"))
        _tell_github(checks, self.title, self.console)


def _junit(checks, title) -> str:
    """The checks as JUnit XML, which GitLab, Jenkins and others show."""
    from html import escape
    lines = []
    for check in checks:
        row = check.row()
        lines.append('    <testcase classname="twosignal" name="%s">' % escape(row["check"]))
        if check.passed is not True:
            lines.append('      <failure message="%s">%s</failure>' % (
                escape("%s: %s" % (row["verdict"].lower(), _measured(row))),
                escape("\n".join(trace for _, trace in check.worst))))
        lines.append("    </testcase>")
    failures = sum(check.passed is not True for check in checks)
    return "\n".join(
        ['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>",
         '  <testsuite name="%s" tests="%d" failures="%d">' % (title, len(checks), failures)]
        + lines + ["  </testsuite>", "</testsuites>", ""])


def _measured(row) -> str:
    return "measured %s, limit %s" % (row["measured"], row["limit"])


def _tell_github(checks, title, console):
    """In GitHub Actions: an annotation for each check that does not hold, and a summary."""
    if not setting("GITHUB_ACTIONS"):
        return
    for check in checks:
        if check.passed is not True:
            row, worst = check.row(), ", ".join(trace for _, trace in check.worst)
            console.say(_annotation("%s: %s, %s%s" % (
                row["check"], row["verdict"].lower(), _measured(row),
                worst and "; worst traces: " + worst)))
    _summarise(checks, title, console)


def _annotation(text) -> str:
    """text: one line"""
    return "::error title=twosignal::" + text.replace("%", "%25")


def _summarise(checks, title, console):
    """A Markdown table in the summary of the run in GitHub Actions."""
    path = setting("GITHUB_STEP_SUMMARY")
    if not path:
        return
    columns = CHECK_COLUMNS[:None if any(check.traces is not None for check in checks) else -1]
    lines = ["### " + title, ""] + _markdown(columns, [check.row() for check in checks])
    worst = [row for check in checks for row in check.worst_rows()]
    if worst:
        lines += ["", "Worst traces:", ""] + _markdown(WORST_COLUMNS, worst)
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        console.tell("Cannot write GITHUB_STEP_SUMMARY: %s" % reason(error))


def _markdown(columns, rows) -> list:
    """The lines of a table."""
    cells = [[column.heading for column in columns], ["---"] * len(columns)]
    cells += [[column.text(row) for column in columns] for row in rows]
    return ["| %s |" % " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in line)
            for line in cells]


@command(
    "traces wait", PROJECT,
    Option("--count", metavar="N", type=_positive, help="how many have to match (1)"),
    Option("--scored", action="store_true", help="and be scored by all enabled evaluators"),
    Option("--timeout", metavar="TIME", type=_patience, help="how long to wait, like 90s (5m)"),
    *CHOICE, key=True, patient=True,
    examples=("twosignal traces wait --project ID --since 10m --count 20 --scored --timeout 5m",))
def traces_wait(client, args):
    """Wait until traces have arrived, and are scored.

    Exits with 0, or with 11 when the time is over.
    """
    wanted, started = args.count or 1, time.monotonic()
    arrivals, what = Arrivals(client, args, wanted), "are scored" if args.scored else "have arrived"
    for pause in _pauses(client, started + (args.timeout or 300)):
        try:
            arrivals.look()
            args.console.news("")
        except Passing as failure:
            args.console.news("%s. Trying again." % failure.message)
        if arrivals.found >= wanted:
            break
        args.console.status("%d of %d traces %s" % (arrivals.found, wanted, what), started)
        time.sleep(pause())
    waited = round(time.monotonic() - started, 1)
    found = {"found": arrivals.found, "wanted": wanted, "scored": args.scored,
             "waited_seconds": waited}
    if arrivals.found < wanted:
        _tell_github([Check("traces that " + what, wanted, arrivals.found, None, count,
                            untold="TOO FEW")], "twosignal traces wait", args.console)
    return Details(found, message="%d of %d traces %s after %.0f seconds." % (
        arrivals.found, wanted, what, waited), after=arrivals.remark,
        exit_code=0 if arrivals.found >= wanted else EXIT_CODES["NOTHING_TO_CHECK"])


def _pauses(client, deadline):
    """Yields for each look until then a function that gives the seconds to wait after it."""
    import random
    pause, ended = 1.0, False
    client.transport.until = deadline + 1       # the last look begins when the time is over

    def wait():
        asked = client.transport.asked_pause or 0
        return max(0.0, min(deadline - time.monotonic(),
                            max(asked, pause * random.uniform(0.8, 1.2))))

    while not ended:
        ended = time.monotonic() >= deadline
        yield wait
        pause = min(pause * 1.5, 15.0)


class Arrivals:
    """What traces wait looks for.

    found: how many have arrived, or are scored, at most `wanted`; scored: the IDs of those that
    are; lacking: the evaluators that have not scored all that the last look saw.
    """

    def __init__(self, client, args, wanted):
        self.client, self.args, self.wanted, self.found = client, args, wanted, 0
        self.evaluators, self.lacking, self.scored = None, set(), set()
        self.choice = None

    def look(self):
        """Raises Failure; what was found before stays."""
        self.args.resolve()
        if not self.args.scored:
            self.choice = Choice(self.client, self.args, self.wanted)
            self.found = sum(map(len, self.choice.pages()))
            return
        self.evaluators = self.evaluators or _enabled_evaluators(self.client, self.args)
        self.choice, self.lacking = Choice(self.client, self.args, None, NEEDED), set()
        for found in self.choice.pages():
            self._note([pair for pair in found if str(pair[1]["id"]) not in self.scored])
            if self.found >= self.wanted:
                break

    def _note(self, found):
        """Which of these have a score of each evaluator; those are not asked for again."""
        for trace in self.choice.shown(found):
            lacking = self.evaluators - {str(score.get("evaluator")) for score in trace["scores"]}
            self.lacking.update(lacking)
            if not lacking:
                self.scored.add(str(trace["id"]))
        self.found = min(len(self.scored), self.wanted)

    def remark(self) -> str:
        """How many were looked at, and which evaluators have not scored all of them."""
        told = [self.choice.looked_at()] if self.choice else []
        if self.lacking and self.found < self.wanted:
            told.append("Not all are scored by %s." % ", ".join(map(plain, sorted(self.lacking))))
        if self.found < self.wanted:
            told.append("Check --project, --since and --tag, or allow more with --timeout.")
        return " ".join(filter(None, told))


def _enabled_evaluators(client, args) -> set:
    if client.key:
        raise key_is_not_enough("tells neither evaluators nor scores")
    rows = client.rows("evaluator.list", {"projectId": args.project})
    names = {str(row.get("name")) for row in rows if row.get("enabled") is True}
    if not names:
        raise Failure("No evaluator of this project is enabled: nothing will be scored",
                      "See 'twosignal evaluators list'.", "NOTHING_TO_CHECK")
    return names


@command(
    "traces tail", PROJECT,
    Option("-n", "--lines", metavar="N", type=lambda text: _positive(text, 0),
           help="begin with the N newest (10)"),
    Option("--interval", metavar="TIME", type=_patience, help="between two looks (2s)"),
    *CHOICE, key=True, endless=True,
    examples=("twosignal traces tail --project ID", "twosignal traces tail --project ID --error "
              "--format jsonl | while read -r line; do echo \"$line\"; done"))
def traces_tail(client, args):
    """Show new traces as they come, oldest first, until Ctrl-C."""
    return Listing("traces", TAIL_COLUMNS, _tail(client, args), endless=True, optional=TRACE_KEYS)


def _tail(client, args):
    """Yields the newest traces, then each new one once."""
    look, started = Tail(client, args), time.monotonic()
    for trace in look.first(10 if args.lines is None else args.lines):
        yield trace
    interval = pause = args.interval or 2.0
    while True:
        args.console.progress("Waiting for new traces; Ctrl-C ends it", started)
        time.sleep(pause)
        try:
            fresh = look.again()
        except Failure as failure:
            # An old cursor may be refused, after a restart say: the next look needs none.
            if not isinstance(failure, Passing) and failure.code != "BAD_REQUEST":
                raise
            args.console.news("%s. Trying again." % failure.message)
            pause = max(min(pause * 2, 60.0), min(client.transport.asked_pause or 0, 600.0))
            continue
        args.console.news("")
        pause = interval
        for trace in fresh:
            yield trace


class Tail:
    """Looks at a project again and again, and gives each trace that matches once, oldest first.

    seen: IDs of the traces that came in earlier looks, with their times; matched: those of them
    that matched, so that one that did not, since it was not at its end, can come later; start: a
    trace that was not seen and is older than this was there before; timeless: so was what comes
    behind one that was seen, since the server tells no times.
    """

    def __init__(self, client, args):
        self.client, self.seen, self.matched = client, {}, set()
        self.start, self.timeless = None, False
        self.choice = Choice(client, args, None, _wanted_scores(args), strict=False)

    def first(self, lines) -> list:
        """The newest that match, of a few pages at most."""
        matching, more = [], False
        for looked, (page, more) in enumerate(self._pages(), 1):
            matching += self._fresh(page)
            if len(matching) >= lines or looked == FIRST_PAGES:
                break
        if more:
            self.start = min((when for when in self.seen.values() if when is not None),
                             default=None)
            self.timeless = self.start is None
        return self.choice.shown(matching[:lines])[::-1]

    def again(self) -> list:
        """What is new: pages are read until one holds nothing new; no burst is too large."""
        fresh, seen, matched = [], dict(self.seen), set(self.matched)
        try:
            for page, more in self._pages():
                before = len(self.seen)
                fresh += self._fresh(page)
                new = len(self.seen) - before
                if page and not new or (self.timeless or more == MAYBE) and new < len(page):
                    break
            shown = self.choice.shown(fresh)[::-1]
        except BaseException:
            self.seen, self.matched = seen, matched     # the next look gives what is missing
            raise
        self._forget()
        return shown

    def _pages(self):
        return self.client.trace_pages(self.choice.values(), lambda: PAGE)

    def _fresh(self, page) -> list:
        """(trace, record) of those of a page that match for the first time; notes them all."""
        rows = [(str(trace.get("id")), _began(trace), trace) for trace in page]
        rows = [(name, when, trace) for name, when, trace in rows if name in self.seen
                or None in (when, self.start) or when >= self.start]
        self.seen.update((name, when) for name, when, _ in rows)
        found = self.choice.matching(trace for name, _, trace in rows if name not in self.matched)
        self.matched.update(str(trace.get("id")) for trace, _ in found)
        return found

    def _forget(self):
        """Keeps memory flat: of many traces, the older half lies before a new start."""
        if len(self.seen) <= 20000:
            return
        times = sorted(when for when in self.seen.values() if when is not None)
        if times:
            self.start = times[len(times) // 2]
            self.seen = {name: when for name, when in self.seen.items()
                         if when is not None and when >= self.start}
        else:
            self.timeless, self.seen = True, dict(list(self.seen.items())[10000:])
        self.matched &= set(self.seen)


@command(
    "scores create", Option("trace", metavar="TRACE", type=_given, help="the trace's ID"),
    Option("--name", required=True, metavar="NAME", type=_given, help="the evaluator's name"),
    Option("--value", required=True, metavar="SCORE", type=_score, help="from 0 to 1"),
    Option("--label", metavar="TEXT", help="like pass or fail"),
    Option("--reasoning", metavar="TEXT", help="why"),
    Option("--span", metavar="ID", type=_given, help="the span that is scored, not the trace"),
    key=True, examples=("twosignal scores create TRACE --name accuracy --value 0.92 --label pass",))
def scores_create(client, args):
    """Post a score for a trace; needs a project's API key."""
    if not client.key:
        raise Failure("scores create needs a project's API key",
                      "Set TWOSIGNAL_API_KEY, or make one with 'twosignal api-keys create'.",
                      "NOT_LOGGED_IN")
    with Doubt("trace.scores"):
        found = client.rest("POST", "/scores", known(
            traceId=args.trace, spanId=args.span, evaluatorName=args.name, value=args.value,
            label=args.label, reasoning=args.reasoning))
    found = record(_object(found), "score")
    return Details(found, (ID,) + SCORE_COLUMNS, message="Posted a score.")


# --- evaluators

ENABLED = Column("Enabled", "enabled", yes_no)
EVALUATOR_COLUMNS = (ID, Column("Type", "type"), ENABLED, NAME)
EVALUATOR_FIELDS = (ID, Column("Type", "type"), ENABLED, Column("Config", "config"))


@command("evaluators list", PROJECT, examples=("twosignal evaluators list --project ID",))
def evaluators_list(client, args):
    """List the evaluators of a project."""
    return Listing("evaluators", EVALUATOR_COLUMNS,
                   _records(client, "evaluator.list", {"projectId": args.project}))


@command(
    "evaluators create", PROJECT, NAME_FLAG,
    Option("--type", required=True, metavar="TYPE",
           help="CONTAINS, REGEX_MATCH, JSON_SCHEMA, LATENCY, COST, SIMILARITY, LLM_JUDGE, CUSTOM, "
                "or what a newer server has"),
    _json_option("--config", "its configuration"),
    examples=('twosignal evaluators create --project ID -n "Has JSON" --type JSON_SCHEMA',
              "twosignal evaluators create --project ID -n Fast --type LATENCY "
              "--config '{\"maxMs\": 2000}'"))
def evaluators_create(client, args):
    """Create an evaluator."""
    config = json_value(args.config, "--config", args.console)
    return _created("evaluator", EVALUATOR_FIELDS, client.mutate("evaluator.create", {
        "projectId": args.project, "name": args.name, "type": args.type,
        "config": {} if config is None else config}))


@command("evaluators toggle", PROJECT, _id("evaluator", "evaluator.list"),
         Option("--enable", action="store_true", help="switch it on"),
         Option("--disable", action="store_true", help="switch it off"),
         examples=("twosignal evaluators toggle ID --project ID --enable",),
         exclusive=("--enable", "--disable"))
def evaluators_toggle(client, args):
    """Switch an evaluator on or off.

    Without --enable or --disable, it is turned over.
    """
    enabled = args.enable
    if not args.enable and not args.disable:
        rows = client.rows("evaluator.list", {"projectId": args.project})
        enabled = not _find(rows, args.id, "evaluator.list").get("enabled")
    found = record(_object(client.mutate("evaluator.update", {
        "id": args.id, "projectId": args.project, "enabled": enabled})))
    return Details(found, EVALUATOR_FIELDS, message='%s evaluator "%s".' % (
        "Enabled" if enabled else "Disabled", plain(found.get("name"))))


@command("evaluators delete", PROJECT, _id("evaluator", "evaluator.list"), YES,
         examples=("twosignal evaluators delete ID --project ID -y",))
def evaluators_delete(client, args):
    """Delete an evaluator."""
    return _delete(client, args, "evaluator", "evaluator.delete", "evaluator.list")


# --- datasets

ITEMS = Column("Items", lambda row: count(row.get("item_count", len(_part(row, "items")))))
DATASET_COLUMNS = (ID, ITEMS, CREATED, NAME)
ITEM_COLUMNS = (ID, Column("Input → Expected", lambda row: "%s → %s" % (
    plain(row.get("input")), plain(row.get("expected_output")))))


@command("datasets list", PROJECT, examples=("twosignal datasets list --project ID",))
def datasets_list(client, args):
    """List the datasets of a project."""
    return Listing("datasets", DATASET_COLUMNS,
                   _records(client, "dataset.list", {"projectId": args.project}))


@command("datasets create", PROJECT, NAME_FLAG,
         Option("-d", "--description", metavar="TEXT", help="what it is for"),
         examples=('twosignal datasets create --project ID -n "Test Cases"',))
def datasets_create(client, args):
    """Create a dataset."""
    return _created("dataset", (ID, DESCRIPTION), client.mutate("dataset.create", {
        "projectId": args.project, "name": args.name, **known(description=args.description)}))


@command("datasets get", PROJECT, _id("dataset", "dataset.list"),
         examples=("twosignal datasets get ID --project ID",))
def datasets_get(client, args):
    """Show a dataset with its items."""
    found = record(_object(client.query("dataset.getById",
                                        {"id": args.id, "projectId": args.project})))
    found["items"] = _part(found, "items")
    return Details(found, (ID, NAME, DESCRIPTION, CREATED, ITEMS),
                   [("Items", Listing("items", ITEM_COLUMNS, found["items"]))])


@command("datasets add-item", PROJECT, _id("dataset", "dataset.list"),
         _json_option("--input", "what the agent is given", required=True),
         _json_option("--expected", "what it should answer"),
         _json_option("--metadata", "anything else"),
         examples=("twosignal datasets add-item ID --project ID --input '{\"prompt\": \"Hi\"}'",
                   "twosignal datasets add-item ID --project ID --input @in.json --expected 7"))
def datasets_add_item(client, args):
    """Add a test case to a dataset."""
    if (args.input, args.expected, args.metadata).count("-") > 1:
        raise wrong_usage("Only one option can read stdin")
    values = {"datasetId": args.id, "projectId": args.project}
    for key, flag in (("input", "input"), ("expectedOutput", "expected"), ("metadata", "metadata")):
        if getattr(args, flag) is not None:
            values[key] = json_value(getattr(args, flag), "--" + flag, args.console)
    found = record(_object(client.mutate("dataset.addItem", values)))
    return Details(found, (ID, Column("Input", "input"), Column("Expected", "expected_output")),
                   message="Added an item.")


@command("datasets delete", PROJECT, _id("dataset", "dataset.list"), YES,
         examples=("twosignal datasets delete ID --project ID -y",))
def datasets_delete(client, args):
    """Delete a dataset with its items."""
    return _delete(client, args, "dataset", "dataset.delete", "dataset.list")


# --- API keys

KEY_COLUMNS = (ID, Column("Key", lambda row: plain(row.get("key_prefix")) + "…"),
               Column("Status", lambda row: "revoked" if row.get("revoked_at") else "active"),
               Column("Last used", "last_used_at", age), NAME)


@command("api-keys list", PROJECT, examples=("twosignal api-keys list --project ID",))
def api_keys_list(client, args):
    """List the API keys of a project."""
    return Listing("API keys", KEY_COLUMNS,
                   _records(client, "apiKey.list", {"projectId": args.project}))


@command("api-keys create", PROJECT, NAME_FLAG,
         examples=('twosignal api-keys create --project ID -n "CI Pipeline"',))
def api_keys_create(client, args):
    """Create an API key; the key is shown this once."""
    result = _created("API key", (ID, Column("Key", "key")), client.mutate("apiKey.create", {
        "projectId": args.project, "name": args.name}))
    if not isinstance(result.record.get("key"), str):
        raise bad_answer("The server's answer has no key", "See 'twosignal api-keys list'.")
    result.message += " Save the key now: it is not shown again."
    return result


@command("api-keys revoke", _id("API key"), PROJECT, YES,
         examples=("twosignal api-keys revoke ID --project ID -y",))
def api_keys_revoke(client, args):
    """Revoke an API key: whatever uses it stops working."""
    return _delete(client, args, "API key", "apiKey.revoke", "apiKey.list", "revoke")


# --- usage

USAGE_COLUMNS = (Column("Project", "project_id"), Column("Traces", "traces_used", count),
                 Column("Spans", "spans_used", count), Column("Evaluations", "evals_used", count))
USAGE_FIELDS = (Column("Month", "month"), Column("Plan", "plan"),
                Column("Traces", lambda row: _of_limit(row, "traces")),
                Column("Evaluations", lambda row: _of_limit(row, "evals")),
                Column("Spans", "spans_used", count))


def _of_limit(row, what) -> str:
    used, limit = row[what + "_used"], row[what + "_limit"]
    if limit is None:
        return count(used) + (" (unlimited)" if row["plan"] in PLANS else "")
    return "%s of %s  %s" % (count(used), count(limit), bar(used, limit))


@command(
    "usage", ORG,
    Option("--fail-above", metavar="PERCENT", type=_percentage,
           help="exit 10 where more of a limit is used, like 90"),
    JUNIT,
    examples=("twosignal usage --org ID", "twosignal usage --org ID --fail-above 90"))
def usage(client, args):
    """Show an organization's usage this month, and its limits."""
    if args.junit and args.fail_above is None:
        raise wrong_usage("--junit goes with --fail-above", "Give both, or neither.")
    found = _object(client.query("usage.getCurrentMonth", {"organizationId": args.org}))
    plans = {row.get("id"): row.get("plan") for row in client.rows("organization.list")
             if isinstance(row.get("id"), str)}
    found = usage_record(found, plans.get(args.org))
    parts = [("Projects", Listing("projects", USAGE_COLUMNS, _part(found, "projects")))]
    result = Details(found, USAGE_FIELDS, parts)
    if args.fail_above is not None:
        checks = _usage_checks(found, args.fail_above)
        with Report(args, "twosignal usage") as report:
            report.tell(checks)
        result.after = lambda: _failed_usage(checks)
    return result


def _usage_checks(found, most) -> list:
    """The checks of the shares that are used of the plan's limits."""
    if found["plan"] not in PLANS:
        raise Failure("The limits of the plan '%s' are not known" % plain(found["plan"]),
                      "Leave --fail-above out.", "NOTHING_TO_CHECK")
    checks = []
    for what in ("traces", "evals"):
        used, limit = found[what + "_used"], found[what + "_limit"]
        if limit is not None and used is None:
            raise _wrong_type("the usage")
        if limit is not None:
            checks.append(Check("%s of the plan" % what, most, used / limit,
                                _within(used / limit, most), _percent))
    return checks


def _failed_usage(checks):
    """The Failure that names the checks that did not hold, or None."""
    rows = [check.row() for check in checks if not check.passed]
    told = ["%s of the %s" % (row["measured"], row["check"]) for row in rows]
    return Failure("%s are used, more than %s" % (" and ".join(told), rows[0]["limit"]),
                   "Use less, or a larger plan.", "CHECK_FAILED") if rows else None


# --- whatever has no command

@command(
    "api", Option("procedure", metavar="PROCEDURE", type=_given, help="like trace.list"),
    _json_option("--input", "its input"),
    Option("--mutation", action="store_true", help="it changes something: send it as POST"),
    examples=("twosignal api organization.list", "twosignal api modelRouting.list "
              "--input '{\"projectId\": \"ID\"}'"))
def api(client, args):
    """Call a procedure of the server; print its answer as it is."""
    if not re.match(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z", args.procedure):
        raise wrong_usage("%s is not the name of a procedure" % plain(args.procedure),
                          "It should be like trace.list.")
    values = json_value(args.input, "--input", args.console)
    if not args.mutation and values is not None and not isinstance(values, dict):
        raise wrong_usage("The --input of a query is a JSON object")
    try:
        if args.mutation:
            return Answered(client.mutate(args.procedure, {} if args.input is None else values))
        return Answered(client.query(args.procedure, values))
    except Failure as failure:
        if failure.code == "UNSUPPORTED":
            failure.hint = "Check the procedure's name, and whether it is a --mutation."
        if "to mutation" in failure.message and not args.mutation:
            failure.hint = "It changes something: add --mutation."
        elif failure.code == "BAD_REQUEST" and values is None:
            failure.hint = "Give its input with --input JSON."
        raise


class Answered(Details):
    """A value as JSON, also where a table was asked for."""

    def records(self):
        rows = self.record if isinstance(self.record, list) else [self.record]
        return [row if isinstance(row, dict) else {"value": row} for row in rows]

    def table_lines(self, screen):
        return self.json_lines(screen)


SHELLS = ("bash", "zsh", "fish")


@command("completion", Option("shell", metavar="SHELL", values=SHELLS, help="bash, zsh or fish"),
         examples=("source <(twosignal completion bash)",
                   "twosignal completion fish > ~/.config/fish/completions/twosignal.fish"))
def completion(client, args):
    """Print a script that completes commands in a shell."""
    if args.shell not in SHELLS:
        raise wrong_usage("%s is not a shell that is known here" % plain(args.shell),
                          "There are %s." % ", ".join(SHELLS))
    return Script({"bash": _bash_completion, "zsh": _zsh_completion,
                   "fish": _fish_completion}[args.shell]())


class Script(Answered):
    """Text that is printed as it is."""

    def table_lines(self, screen):
        yield self.record


def _completions() -> list:
    """(words before, what may follow): for each group its commands, for each command its flags."""
    heads = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    found = [("", heads)]
    for head in heads:
        below = [name.split()[1] for name in COMMANDS if name.startswith(head + " ")]
        found += [(head, below)] if below else []
    for name, each in COMMANDS.items():
        found.append((name, [word for option in _everywhere(each) for word in (
            option.flags if option.flags[0].startswith("-") else option.values)
            if not re.match("-[^-]", word)]))
    return found


def _known_words(between) -> str:
    """The words that lead to a command, quoted."""
    return between.join('"%s"' % before for before, _ in _completions()[1:])


def _value_flags() -> dict:
    """Every flag that takes a value: its option."""
    return {flag: option for each in COMMANDS.values() for option in _everywhere(each)
            for flag in option.flags if option.takes_value}


def _completion_script(form, line, value_line) -> str:
    """A script for bash or zsh.

    line: for (words before, what may follow); value_line: for (a flag, its values). Behind other
    flags with a value, the shell completes files.
    """
    flags = _value_flags()
    lines = [line % (before, " ".join(words)) for before, words in _completions()]
    values = [value_line % (flag, " ".join(option.values)) for flag, option in flags.items()
              if option.values]
    for name, text in (("KNOWN_WORDS", _known_words("|")), ("VALUE_LINES", "\n".join(values)),
                       ("VALUE_FLAGS", "|".join(flags)), ("LINES", "\n".join(lines))):
        form = form.replace(name, text)
    return form


def _bash_completion() -> str:
    return _completion_script("""_twosignal() {
  local word before="" words="" last="${COMP_WORDS[COMP_CWORD-1]}" now="${COMP_WORDS[COMP_CWORD]}"
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "${before:+$before }$word" in
    KNOWN_WORDS) before="${before:+$before }$word" ;;
    esac
  done
  if [ "$last" = "=" ]; then last="${COMP_WORDS[COMP_CWORD-2]}"; fi
  if [ "$now" = "=" ]; then now=""; fi
  case "$last" in
VALUE_LINES
  VALUE_FLAGS) COMPREPLY=(); return ;;
  *)
    case "$before" in
LINES
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$now"))
}
complete -o default -F _twosignal twosignal
""", '    "%s") words="%s" ;;', '  %s) words="%s" ;;')


def _zsh_completion() -> str:
    return _completion_script("""#compdef twosignal
_twosignal() {
  local word before="" choices=""
  for word in "${(@)words[2,CURRENT-1]}"; do
    case "${before:+$before }$word" in
    KNOWN_WORDS) before="${before:+$before }$word" ;;
    esac
  done
  case "${words[CURRENT-1]}" in
VALUE_LINES
  VALUE_FLAGS) _files; return ;;
  *)
    case "$before" in
LINES
    esac ;;
  esac
  compadd -- ${=choices}
}
if [ "$funcstack[1]" = "_twosignal" ]; then _twosignal; else compdef _twosignal twosignal; fi
""", '    "%s") choices="%s" ;;', '  %s) choices="%s" ;;')


def _fish_completion() -> str:
    flags = _value_flags()
    lines = ["""function __twosignal_before
    set -l before ""
    for word in (commandline -opc)[2..-1]
        set -l next (string trim -- "$before $word")
        if contains -- "$next" %s
            set before $next
        end
    end
    test "$before" = "$argv[1]"
end
complete -c twosignal -f""" % _known_words(" ")]
    for before, words in _completions():
        for word in words:
            how = "-l " + word[2:] if word.startswith("--") else "-a " + word
            if word in flags and flags[word].values:
                how += " -x -a '%s'" % " ".join(flags[word].values)
            elif word in flags:
                how += " -r -F" if flags[word].details["metavar"] == "FILE" else " -x"
            if word in flags and flags[word].flags[0][:2] != "--":
                how += " -s " + flags[word].flags[0][1:]
            lines.append("complete -c twosignal -n '__twosignal_before \"%s\"' %s" % (before, how))
    return "\n".join(lines) + "\n"


############################################################
# Entry
############################################################

GROUPS = {
    "orgs": "Organizations", "projects": "Projects", "traces": "Traces",
    "scores": "Scores", "evaluators": "Evaluators", "datasets": "Datasets",
    "api-keys": "API keys",
}


class Console:
    """The terminal or the pipes: the only place where this program reads and prints.

    file: where the output goes instead of stdout, something with write(bytes).
    """

    def __init__(self):
        self.quiet = self.as_json = self.debug = self.printed = False
        self.secrets, self.file, self.told, self.latest = set(), None, "", {}

    def print(self, text):
        """To stdout. Raises Failure where that fails, BrokenPipeError where nobody reads."""
        stream, self.printed = sys.stdout, True
        if self.file is not None:
            return self.file.write(text.encode("utf-8"))
        if stream is None:
            return
        if self.told and stream.isatty():
            self.clear()
        try:
            stream.write(encodable(text, stream.encoding or "utf-8"))
        except OSError as error:
            self._gone(stream, error)

    def flush(self):
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as error:
            self._gone(sys.stdout, error)

    def _gone(self, stream, error):
        _drop(stream)
        if isinstance(error, BrokenPipeError):
            raise error
        raise Failure("Cannot write the output: %s" % reason(error), "Free some space.")

    def tell(self, text):
        """A remark on stderr."""
        if not self.quiet:
            self.say(text)

    def news(self, text, topic="trouble"):
        """A remark, unless it is the same as the last one on this topic; "" ends that."""
        if text and text != self.latest.get(topic):
            self.tell(text)
        self.latest[topic] = text

    def progress(self, text, since):
        """How far it is, on a terminal, where that takes more than a second (since: monotonic)."""
        if not self.quiet and _is_terminal(sys.stderr) and time.monotonic() - since >= 1:
            self._line(text)

    def status(self, text, since):
        """Progress of what may take minutes: also where there is no terminal, a line a change."""
        if _is_terminal(sys.stderr):
            self.progress("%s, %d s" % (text, time.monotonic() - since), since)
        else:
            self.news(text + ".", "status")

    def clear(self):
        """Wipes what progress() has put there."""
        if self.told:
            self._line("")

    def _line(self, text):
        """Puts a text into the last line of the terminal, in place of the one before."""
        text = cut(plain(masked(text, self.secrets)), _columns_of(sys.stderr) - 1)
        size = min(len(self.told) + 2, _columns_of(sys.stderr) - 1)     # 2: a terminal's ^C
        try:
            sys.stderr.write("\r" + text.ljust(size) + "\r" * (not text))
            sys.stderr.flush()
        except (OSError, ValueError):
            _drop(sys.stderr)
        self.told = text

    def log(self, text):
        self.say("debug: " + text)

    def say(self, text):
        """Lines on stderr, secrets masked, safe for a terminal."""
        stream = sys.stderr
        if stream is None:
            return
        self.clear()
        lines = [plain(line) for line in masked(text, self.secrets).split("\n")]
        try:
            stream.write(encodable("\n".join(lines) + "\n", stream.encoding or "utf-8"))
            stream.flush()
        except (OSError, ValueError):
            _drop(stream)

    def fail(self, failure) -> int:
        """Prints an error as a line, or as JSON; returns the exit code."""
        if self.as_json:
            found = {"code": failure.code, "message": masked(failure.message, self.secrets),
                     "hint": masked(failure.hint, self.secrets)}
            if failure.problems:
                found["problems"] = [masked(line, self.secrets) for line in failure.problems]
            found["exit_code"] = failure.exit_code
            self.say(json_text({"error": found}, indent=None))
            return failure.exit_code
        line = "Error: %s." % failure.message.rstrip(".")
        lines = [plain(" ".join([line, failure.hint]).rstrip())]
        self.say("\n".join(lines + ["  " + plain(problem) for problem in failure.problems]))
        return failure.exit_code

    # --- questions

    def must_ask(self, flag):
        """Raises a usage error that names the flag where nobody can be asked."""
        if not _is_terminal(sys.stdin):
            raise wrong_usage("Cannot ask without a terminal", "Use %s." % flag)

    def ask(self, prompt, flag) -> str:
        self.must_ask(flag)
        self._prompt(prompt)
        answer = sys.stdin.readline()
        if not answer:
            self._prompt("\n")
            raise wrong_usage("No answer to %r" % prompt.strip(" :"), "Use %s." % flag)
        return answer.strip()

    def confirm(self, question) -> bool:
        self._prompt(question)
        answer = sys.stdin.readline()
        if not answer:
            self._prompt("\n")
        return answer.strip().lower() in ("y", "yes")

    def ask_secret(self, prompt, flag) -> str:
        import getpass
        self.must_ask(flag)
        try:
            return getpass.getpass(prompt, sys.stderr)
        except EOFError:
            self._prompt("\n")
            raise wrong_usage("No password was given", "Use %s." % flag)

    def _prompt(self, text):
        if sys.stderr is not None:
            sys.stderr.write(encodable(text, sys.stderr.encoding or "utf-8"))
            sys.stderr.flush()

    def read_line(self) -> str:
        """The first line of stdin, without its line break; "" where there is none."""
        return self._read(lambda stream: stream.readline()).rstrip("\r\n")

    def read_stdin(self, flag) -> str:
        if _is_terminal(sys.stdin):
            self.tell("Reading %s from the terminal; end it with Ctrl-D." % flag)
        return self._read(lambda stream: stream.read()).lstrip("\ufeff")

    def _read(self, read) -> str:
        try:
            return read(sys.stdin.buffer).decode("utf-8") if sys.stdin is not None else ""
        except UnicodeDecodeError:
            raise wrong_usage("stdin is not UTF-8")
        except OSError as error:
            raise wrong_usage("Cannot read stdin: %s" % reason(error))


def _drop(stream):
    """Lets what a stream still holds go nowhere: Python's own flush at exit must not fail."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass


def _is_terminal(stream) -> bool:
    return stream is not None and stream.isatty()


def masked(text, secrets) -> str:
    """The text with *** for each secret, as it is, percent-encoded or in JSON."""
    from urllib.parse import quote
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            for form in (secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1],
                         plain(secret)):
                text = text.replace(form, "***")
    return text


def _screen() -> Screen:
    terminal = _is_terminal(sys.stdout)
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and 0 < int(columns) < 10000:
        columns = int(columns)
    else:
        columns = _columns_of(sys.stdout) if terminal else 80
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Screen(columns, getattr(sys.stdout, "encoding", None) or "utf-8", colour)


def _columns_of(terminal) -> int:
    try:
        return os.get_terminal_size(terminal.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


# --- arguments

def _words(argv):
    """(words, rest): the command's words, wherever they stand, and the other tokens."""
    words, rest, tokens = [], [], list(argv)
    while tokens and " ".join(words) not in COMMANDS:
        token = tokens.pop(0)
        if token == "--":
            tokens.insert(0, token)
            break
        if token.startswith("-") and token != "-":
            rest.append(token)
            if tokens and not tokens[0].startswith("--") and _takes_value(token):
                rest.append(tokens.pop(0))
        elif len(words) > 1:
            rest.append(token)
        else:
            words.append(token)
    return words, rest + tokens


def _takes_value(flag) -> bool:
    """Whether an option that stands before the command's words has a value, in any command."""
    return any(option.takes_value for each in COMMANDS.values()
               for option in _everywhere(each) if flag in option.flags)


def _joined(tokens, options) -> list:
    """The tokens as --option=value, so that a value may begin with a dash, on every Python."""
    flags, joined, tokens = _flags(options), [], list(tokens)
    while tokens:
        token = tokens.pop(0)
        option = flags.get(token) or flags.get(token[:2])
        if token == "--":
            return joined + [token] + tokens
        if option is None or token.startswith("--") and token not in flags:
            joined.append(token)
        elif not option.takes_value:
            joined.append(token[:2] if token not in flags else token)
            if token not in flags:
                tokens.insert(0, "-" + token[2:])
        elif token not in flags:
            joined.append("%s=%s" % (option.flags[-1], token[2:]))
        elif tokens and not tokens[0].startswith("--") and tokens[0] not in flags:
            joined.append("%s=%s" % (option.flags[-1], tokens.pop(0)))
        else:
            joined.append(token)
    return joined


def _parser(name, command):
    """An argparse parser for one command; it raises a usage error instead of leaving."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise _refused(message, name, command)

    epilog = "examples:\n  " + "\n  ".join(command.examples)
    parser = Parser(prog="twosignal " + name, description=command.help, epilog=epilog,
                    formatter_class=argparse.RawDescriptionHelpFormatter,
                    add_help=False, allow_abbrev=False)
    shared = parser.add_argument_group("everywhere")
    for option in _everywhere(command):
        details = dict(option.details)
        if "type" in details:
            details["type"] = _argument_type(details["type"])
        if option.env:
            details["help"] += " (or %s)" % option.env
        details["help"] = details["help"].replace("%", "%%")
        if option.flags[0].startswith("-"):
            details["default"] = argparse.SUPPRESS
        (shared if option in SHARED else parser).add_argument(*option.flags, **details)
    return parser


def _refused(message, name, command) -> Failure:
    """The error for what argparse says; for an option that there is not, with the one meant."""
    import difflib
    meant = []
    if message.startswith("unrecognized"):
        for strange in re.findall(r" (--[\w-]+)", message):
            meant += difflib.get_close_matches(strange, _flags(_everywhere(command)), 1)
    return wrong_usage(message[:1].upper() + message[1:], "Did you mean %s?" % meant[0] if meant
                       else "See 'twosignal %s --help'." % name)


def _argument_type(convert):
    def converted(text):
        import argparse
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error))
    return converted


def _arguments(name, command, tokens):
    """The namespace of a command. given: the names of the options that were on the command line."""
    parser = _parser(name, command)
    args = parser.parse_args(_joined(tokens, _everywhere(command)))
    args.given = set(vars(args))
    if command.exclusive and {_flags(command.options)[flag].name
                              for flag in command.exclusive} <= args.given:
        raise wrong_usage("%s and %s cannot be used together" % command.exclusive,
                          "Use one of them.")
    for option in _everywhere(command):
        if option.name not in args.given:
            value = setting(option.env) if option.env else None
            switch = option.details.get("action") == "store_true"
            setattr(args, option.name, False if switch else value)
        if option.needed and not getattr(args, option.name) and not (command.key and has_key()):
            raise _not_given(option)
    return args


def _not_given(option) -> Failure:
    """The error for --project or --org; with nothing but a key, to look for it would not help."""
    if has_key() and not _stored_quietly():
        return not_logged_in()
    return wrong_usage("No %s was given" % {"org": "organization"}.get(option.name, option.name),
                       "Use %s %s or set %s." % (option.flags[-1], option.details["metavar"],
                                                 option.env))


def _asks(tokens, *flags) -> bool:
    before = tokens[:tokens.index("--")] if "--" in tokens else tokens
    return any(flag in before for flag in flags)


def _wants_json(tokens) -> bool:
    """Whether errors are to be JSON: the last --json or --format says it."""
    wanted = False
    for token, following in zip(tokens, tokens[1:] + [""]):
        if token == "--":
            break
        if token == "--json" or token.split("=")[0] == "--format":
            form = "json" if token == "--json" else token.partition("=")[2] or following
            wanted = form in ("json", "jsonl")
    return wanted


def _help(words) -> str:
    """What --help prints after these words."""
    name = " ".join(words)
    if name in COMMANDS:
        return _parser(name, COMMANDS[name]).format_help()
    group = words[0] if words else None
    lines = ["usage: twosignal %s [OPTIONS]" % ("%s COMMAND" % group if group else "COMMAND"), ""]
    if not group:
        lines += ["Manages traces, evaluators, datasets, API keys and more of 2Signal.", ""]
    lines.append("commands:")
    for name, each in COMMANDS.items():
        if not group or name.split()[0] == group:
            lines.append("  %-18s %s" % (name, each.summary))
    lines += ["", "options, everywhere:"]
    for option in SHARED:
        flags = ", ".join(option.flags) + " " + option.details.get("metavar", "")
        lines.append("  %-20s %s" % (flags, option.details["help"]))
    if not group:
        lines.append("  %-20s %s" % ("-V, --version", "show the version"))
    lines += ["", "Help for one command: twosignal %s --help" % (
        [name for name in COMMANDS if not group or name.startswith(group)][0])]
    return "\n".join(lines) + "\n"


def _unknown(words) -> Failure:
    import difflib
    heads = [name.split()[0] for name in COMMANDS]
    nearest = difflib.get_close_matches(words[0], heads, 1)
    name = " ".join(nearest + words[1:])
    names = [each for each in COMMANDS if nearest and each.split()[0] == nearest[0]]
    close = difflib.get_close_matches(name, names, 1, 0.5) or nearest
    hint = "Did you mean 'twosignal %s'?" % close[0] if close else "See 'twosignal --help'."
    return wrong_usage("There is no command '%s'" % plain(" ".join(words)), hint)


# --- running

class Terminated(BaseException):
    """SIGTERM came, or SIGHUP: the terminal went away."""


def _run(argv, console) -> int:
    console.as_json = _asks(argv, "--json")
    words, rest = _words([as_utf8(token, "An argument") for token in argv])
    console.as_json = _wants_json(rest)
    console.quiet, console.debug = _asks(rest, "-q", "--quiet"), _asks(rest, "--debug")
    if not words and _asks(rest, "-V", "--version"):
        return _show(console, "twosignal %s (Python %d.%d.%d)\n"
                     % ((__version__,) + sys.version_info[:3]))
    name = " ".join(words)
    if name not in COMMANDS and words and words != [words[0]] * (words[0] in GROUPS):
        raise _unknown(words)
    if name not in COMMANDS and rest and not _asks(rest, "-h", "--help"):
        known = _flags(SHARED)
        strange = [token for token in rest if token.startswith("-") and token not in known]
        raise wrong_usage("There is no option %s" % plain(strange[0].partition("=")[0])
                          if strange else "No command was given",
                          "See 'twosignal %s'." % " ".join(words + ["--help"]))
    if name not in COMMANDS or _asks(rest, "-h", "--help"):
        return _show(console, _help(words))
    return _execute(COMMANDS[name], _arguments(name, COMMANDS[name], rest), console)


def _show(console, text) -> int:
    console.print(text)
    console.flush()
    return 0


def _execute(command, args, console) -> int:
    args.console, args.resolved = console, set()
    if args.output == "-":
        args.output = None
    args.format = args.format or _format_of_file(args.output) or "table"
    key = api_key() if command.key else None
    timeout = args.timeout if _flags(SHARED)["--timeout"] in _everywhere(command) else None
    client = Client(_address(command, args), Transport(
        timeout or TIMEOUT, args.ca_cert, console.tell, console.log if args.debug else None), key)
    console.secrets = client.secrets
    if key:
        warn_of_http(client.url, "API key", console)
    try:
        # A file that cannot be written is told before anything is changed.
        with output_file(args.output) if args.output else Stdout() as console.file:
            return _work(command, client, args, console)
    finally:
        client.close()


def _work(command, client, args, console) -> int:
    try:
        args.resolve = lambda: _resolve(command, client, args)
        if not command.patient:
            args.resolve()
        result = command.function(client, args)
        return _show_result(_chosen(result, args, client), args, console)
    except (KeyboardInterrupt, Terminated) as ended:
        if not command.endless:
            raise
        if isinstance(console.file, Replacing) and not console.printed:
            console.file.unless = lambda: True      # nothing has come: what was there stays
        if isinstance(ended, Terminated):
            return TERMINATED
        console.say("")
        return 0


def _resolve(command, client, args):
    """Puts IDs in the place of names."""
    for option in command.options:
        text = getattr(args, option.name)
        if option.resolve and text and option.name not in args.resolved:
            setattr(args, option.name, option.resolve(client, args, text))
            args.resolved.add(option.name)


def _chosen(result, args, client):
    """The result with the fields that --fields asks for."""
    def complain(wrong):
        if not client.changed:
            raise wrong
        # What a change gave, a key say, has to be seen all the same.
        args.console.tell("%s. %s" % (wrong.message, wrong.hint))

    if args.fields == ["?"] and client.changed:
        args.console.tell("--fields '?' is left out: what a change gave is shown.")
        return result
    if args.fields == ["?"]:
        return field_names(result)
    return only_fields(result, args.fields, complain) if args.fields else result


def _format_of_file(path):
    """The format that the ending of a file's name says, or None."""
    ending = os.path.splitext(path or "")[1][1:].lower()
    return ending if ending in FORMATS else None


class Stdout:
    """In the place of a file: the output goes to stdout."""

    def __enter__(self):
        return None

    def __exit__(self, *_):
        pass


def _show_result(result, args, console) -> int:
    """Prints a result in the form that the options ask for; returns the exit code."""
    if result.endless and args.format == "json":
        raise wrong_usage("This never ends, so it can be no JSON document", "Use --format jsonl.")
    screen = _screen()
    if args.no_color or args.output:
        screen.colour = False
    if args.output:
        screen.ascii_only = False
    return _print_result(result, args, screen, console)


def _print_result(result, args, screen, console) -> int:
    try:
        for text in FORMATS[args.format](result, screen):
            console.print(text)
            if result.endless:
                console.flush()
    finally:
        console.flush()
    remark = result.after and result.after()    # raises where a file is to stay as it was
    if result.left_out:
        console.tell("Left out, since the first %d rows have no such field: %s. Name what you want "
                     "with --fields." % (PAGE, ", ".join(map(plain, result.left_out))))
    if isinstance(remark, Failure):
        return console.fail(remark)
    if remark:
        console.tell(remark)
    return result.exit_code


def _address(command, args) -> str:
    """The server's address; logging out needs the one that the session is from, nothing else."""
    if command.function is completion:
        return DEFAULT_URL
    if command.function is logout and not args.url:
        stored = _stored_quietly()
        if stored and stored.api_url:
            return normal_url(stored.api_url)
        try:
            return configured_url()
        except Failure:
            return DEFAULT_URL
    return configured_url(args.url)


def _on_signal(number, frame):
    raise Terminated()


def main(argv=None) -> int:
    """Runs a command line and returns its exit code; prints to stdout and stderr, never raises."""
    console, before = Console(), {}
    try:
        before = _handle({"SIGTERM": _on_signal, "SIGHUP": _on_signal})
        return _run(sys.argv[1:] if argv is None else list(argv), console)
    except Failure as failure:
        return console.fail(failure)
    except RecursionError:
        return console.fail(bad_answer("The server's answer is nested too deeply"))
    except KeyboardInterrupt:
        console.say("")
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except BrokenPipeError:
        return READER_GONE
    except Exception as error:
        if console.debug:
            import traceback
            console.say(traceback.format_exc().rstrip())
        return console.fail(Failure(
            "This should not have happened: %s: %s" % (type(error).__name__, error),
            "Report it, with what --debug shows.", "INTERNAL"))
    finally:
        console.clear()
        _handle(before)


def _handle(handlers) -> dict:
    """Sets handlers of signals and returns those before them; a signal that is ignored stays so."""
    import signal
    before = {}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
            continue
        try:
            before[name] = signal.signal(number, handler)
        except ValueError:
            pass        # another thread than the main one
    return before


if __name__ == "__main__":
    sys.exit(main())
