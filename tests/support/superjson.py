"""superjson: the encoding that tRPC servers use for dates, bigints and other types JSON lacks.

`dump` turns a value into the envelope {"json": …, "meta": …}; `load` turns it back. The classes
below mark values that JSON cannot express; `stamp` and `parse_time` handle their timestamps.
"""
import datetime
import json
import math
import re


class Date(str):
    """A Date, as ISO 8601 text with milliseconds."""


class Big(int):
    """A bigint."""


class Decimal(str):
    """A Decimal.js number, as text."""


class Map(list):
    """A Map, as a list of key-value pairs."""


class Set(list):
    """A Set, as a list of its members."""


class _Undefined:
    def __bool__(self):
        return False


UNDEFINED = _Undefined()


##################################################################################################
# Timestamps
##################################################################################################

def stamp(moment):
    """A datetime (naive: UTC), Unix seconds or ISO 8601 text as a Date."""
    if isinstance(moment, (int, float)):
        moment = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
    if isinstance(moment, str):
        moment = parse_time(moment)
    if moment.tzinfo:
        moment = moment.astimezone(datetime.timezone.utc)
    # Not strftime: Linux prints the year 50 as "50" there.
    seconds = moment.replace(microsecond=0, tzinfo=None).isoformat()
    return Date(f"{seconds}.{moment.microsecond // 1000:03d}Z")


def parse_time(text):
    """An ISO 8601 date or time as a datetime in UTC. Raises ValueError."""
    found = re.match(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?"
                     r"(Z|[+-]\d\d:?\d\d)?)?$", text)
    if not found:
        raise ValueError(f"not an ISO 8601 time: {text!r}")
    numbers = [int(part or 0) for part in found.groups()[:6]]
    microseconds = int(((found.group(7) or "") + "000000")[:6])
    moment = datetime.datetime(*numbers, microseconds, tzinfo=datetime.timezone.utc)
    zone = found.group(8) or "Z"
    if zone == "Z":
        return moment
    offset = datetime.timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return moment + offset if zone[0] == "-" else moment - offset


def this_month(shift=0):
    """The current month in UTC, such as "2026-03", or the one `shift` months later."""
    now = datetime.datetime.now(datetime.timezone.utc)
    months = now.year * 12 + now.month - 1 + shift
    return f"{months // 12:04d}-{months % 12 + 1:02d}"


##################################################################################################
# Encoding
##################################################################################################

def dump(value):
    """The superjson envelope of a value, as a dict."""
    types, seen = {}, {}
    envelope = {"json": _dump(value, "", types, seen)}
    shared = {paths[0]: paths[1:] for paths in seen.values() if len(paths) > 1}
    if types or shared:
        envelope["meta"] = {}
        if types:
            envelope["meta"]["values"] = types.get("", types)
        if shared:
            envelope["meta"]["referentialEqualities"] = shared
        envelope["meta"]["v"] = 1
    return envelope


def _dump(value, path, types, seen):
    """The JSON of a value; adds its type to `types`, and to `seen` the paths of one object."""
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return value
    if kind is dict:
        return {key: _dump(value[key], _join(path, key.replace(".", "\\.")), types, seen)
                for key in value}
    if kind in (list, tuple):
        return [_dump(item, _join(path, str(i)), types, seen) for i, item in enumerate(value)]
    return _dump_special(value, path, types, seen)


def _dump_special(value, path, types, seen):
    if value is UNDEFINED:
        types[path] = ["undefined"]
        return None
    if isinstance(value, float):
        return _dump_float(value, path, types)
    if isinstance(value, (Map, Set)):
        inner = {}
        members = _dump(list(value), "", inner, {})
        types[path] = [type(value).__name__.lower()] + ([inner] if inner else [])
        return members
    seen.setdefault(id(value), []).append(path)
    names = {Date: ["Date"], Big: ["bigint"], Decimal: [["custom", "Decimal.js"]]}
    types[path] = names[type(value)]
    return f"{value:d}" if isinstance(value, Big) else str(value)


def _dump_float(value, path, types):
    if math.isfinite(value) and (value or math.copysign(1, value) > 0):
        return value
    types[path] = ["number"]
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity", "-0.0": "-0"}
    return names[repr(value)]


def _join(path, key):
    return path + "." + key if path else key


##################################################################################################
# Decoding
##################################################################################################

def load(envelope):
    """The value of a superjson envelope."""
    value = envelope.get("json")
    types = (envelope.get("meta") or {}).get("values")
    if not types:
        return value
    if isinstance(types, list):
        types = {"": types}
    return _load(value, types)


def _load(value, types):
    root = [value]
    for path, kinds in types.items():
        keys = [key.replace("\\.", ".") for key in re.split(r"(?<!\\)\.", path)] if path else []
        owner, key = root, 0
        for name in keys:
            owner, key = owner[key], name
            key = int(key) if isinstance(owner, list) else key
        owner[key] = _load_special(owner[key], kinds)
    return root[0]


def _load_special(value, kinds):
    kind = kinds[0]
    if len(kinds) > 1:
        value = _load(value, kinds[1])
    if isinstance(kind, list):
        return Decimal(value)
    if kind == "number":
        return float(value.replace("Infinity", "inf"))
    decoders = {"Date": Date, "bigint": Big, "undefined": lambda value: UNDEFINED,
                "map": Map, "set": Set}
    return decoders[kind](value) if kind in decoders else value


##################################################################################################
# Plain JSON
##################################################################################################

def to_plain(value):
    """A value as JSON.stringify writes it: without undefined keys, and without types."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items() if item is not UNDEFINED}
    if isinstance(value, (Map, Set)):
        return {}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, Big):
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if value is UNDEFINED else value


def encode(value):
    """Compact JSON as UTF-8; non-ASCII text is escaped if a lone surrogate prevents UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")
