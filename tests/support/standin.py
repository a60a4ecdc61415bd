"""A 2Signal server to test against: threaded http.server over sqlite3, standard library only.

    with StandIn() as server:
        server.url, server.org, server.project, server.traces      # where it is, what is in it
        server.fault("trace.list", status=500)                     # the next such request fails
        server.count("trace.list")                                 # what it saw

It speaks what the protocol describes: REST with accounts and with API keys, tRPC with superjson,
batches, session cookies, roles, and answers that are refused as zod and tRPC refuse them.
"""
import base64
import collections
import contextlib
import datetime
import hashlib
import hmac
import http.server
import json
import math
import os
import re
import secrets
import socket
import socketserver
import sqlite3
import struct
import threading
import time
import traceback
import urllib.parse
import uuid

PROJECT_REF = "abcdefghijklmnop"
JSON_TYPE = "application/json"
NOT_A_PAGE = b"<!DOCTYPE html><html><body>404: This page could not be found.</body></html>"
ROLES = ("OWNER", "ADMIN", "MEMBER", "VIEWER")
STATUSES = ("OK", "ERROR")
EVALUATOR_TYPES = ("CONTAINS", "REGEX_MATCH", "JSON_SCHEMA", "LATENCY", "COST", "SIMILARITY",
                   "LLM_JUDGE", "CUSTOM", "TOXICITY", "PII_DETECTION")
PAIRS = {"trace.getById": "trace.byId", "dataset.getById": "dataset.byId",
         "usage.getCurrentMonth": "usage.currentMonth"}
CODES = {  # name: HTTP status, JSON-RPC number
    "PARSE_ERROR": (400, -32700), "BAD_REQUEST": (400, -32600), "UNAUTHORIZED": (401, -32001),
    "FORBIDDEN": (403, -32003), "NOT_FOUND": (404, -32004), "METHOD_NOT_SUPPORTED": (405, -32005),
    "TIMEOUT": (408, -32008), "CONFLICT": (409, -32009), "PRECONDITION_FAILED": (412, -32012),
    "PAYLOAD_TOO_LARGE": (413, -32013), "UNPROCESSABLE_CONTENT": (422, -32022),
    "TOO_MANY_REQUESTS": (429, -32029), "INTERNAL_SERVER_ERROR": (500, -32603),
    "BAD_GATEWAY": (502, -32603), "SERVICE_UNAVAILABLE": (503, -32603),
    "GATEWAY_TIMEOUT": (504, -32603)}


class Refusal(Exception):
    """A request that is answered with an error; `code` is a name of CODES."""

    def __init__(self, code, message, status=None, headers=None):
        super().__init__(message)
        self.code, self.message, self.headers = code, message, headers or {}
        self.status = status or CODES[code][0]


##################################################################################################
# Values and superjson
##################################################################################################

class Date(str):
    """A moment, as ISO 8601 with milliseconds."""


class Big(int):
    """A bigint."""


class Decimal(str):
    """A Decimal.js number."""


class Map(list):
    """A Map, as a list of pairs."""


class Set(list):
    """A Set, as a list."""


class _Undefined:
    def __bool__(self):
        return False


UNDEFINED = _Undefined()


def stamp(moment):
    """A datetime (naive ones count as UTC), Unix seconds or an ISO text as a Date."""
    if isinstance(moment, (int, float)):
        moment = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
    if isinstance(moment, str):
        moment = parse_time(moment)
    if moment.tzinfo:
        moment = moment.astimezone(datetime.timezone.utc)
    return Date("%s.%03dZ" % (moment.strftime("%Y-%m-%dT%H:%M:%S"), moment.microsecond // 1000))


def parse_time(text):
    """An ISO date or time as a datetime in UTC; raises ValueError."""
    found = re.match(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?"
                     r"(Z|[+-]\d\d:?\d\d)?)?$", text)
    if not found:
        raise ValueError("not an ISO 8601 time: %r" % text)
    numbers = [int(part or 0) for part in found.groups()[:6]]
    micro = int(((found.group(7) or "") + "000000")[:6])
    moment = datetime.datetime(*(numbers + [micro]), tzinfo=datetime.timezone.utc)
    zone = found.group(8) or "Z"
    if zone == "Z":
        return moment
    minutes = int(zone[1:3]) * 60 + int(zone[-2:])
    shift = datetime.timedelta(minutes=minutes)
    return moment + shift if zone[0] == "-" else moment - shift


def dump(value):
    """A value as a superjson envelope, as a dict."""
    values, seen = {}, {}
    envelope = {"json": _dump(value, "", values, seen)}
    same = {paths[0]: paths[1:] for paths in seen.values() if len(paths) > 1}
    if values or same:
        envelope["meta"] = {}
        if values:
            envelope["meta"]["values"] = values.get("", values)
        if same:
            envelope["meta"]["referentialEqualities"] = same
        envelope["meta"]["v"] = 1
    return envelope


def _dump(value, path, values, seen):
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return value
    if kind is dict:
        return {key: _dump(value[key], _join(path, key.replace(".", "\\.")), values, seen)
                for key in value}
    if kind in (list, tuple):
        return [_dump(item, _join(path, str(i)), values, seen) for i, item in enumerate(value)]
    return _dump_special(value, path, values, seen)


def _dump_special(value, path, values, seen):
    if value is UNDEFINED:
        values[path] = ["undefined"]
        return None
    if isinstance(value, float):
        return _dump_float(value, path, values)
    if isinstance(value, (Map, Set)):
        inner = {}
        plain = _dump(list(value), "", inner, {})
        values[path] = [type(value).__name__.lower()] + ([inner] if inner else [])
        return plain
    seen.setdefault(id(value), []).append(path)
    kinds = {Date: ["Date"], Big: ["bigint"], Decimal: [["custom", "Decimal.js"]]}
    values[path] = kinds[type(value)]
    return "%d" % value if isinstance(value, Big) else str(value)


def _dump_float(value, path, values):
    if math.isfinite(value) and (value or math.copysign(1, value) > 0):
        return value
    values[path] = ["number"]
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity", "-0.0": "-0"}
    return names[repr(value)]


def _join(path, key):
    return path + "." + key if path else key


def load(envelope):
    """The value of a superjson envelope."""
    value = envelope.get("json")
    values = (envelope.get("meta") or {}).get("values")
    if not values:
        return value
    if isinstance(values, list):
        values = {"": values}
    return _load(value, values)


def _load(value, values):
    holder = [value]
    for path, kinds in values.items():
        keys = [key.replace("\\.", ".") for key in re.split(r"(?<!\\)\.", path)] if path else []
        owner, key = holder, 0
        for name in keys:
            owner, key = owner[key], name
            key = int(key) if isinstance(owner, list) else key
        owner[key] = _load_special(owner[key], kinds)
    return holder[0]


def _load_special(value, kinds):
    kind = kinds[0]
    if len(kinds) > 1:
        value = _load(value, kinds[1])
    if isinstance(kind, list):
        return Decimal(value)
    if kind == "number":
        return float(value.replace("Infinity", "inf"))
    makers = {"Date": Date, "bigint": lambda v: Big(v), "undefined": lambda v: UNDEFINED,
              "map": Map, "set": Set}
    return makers[kind](value) if kind in makers else value


def to_plain(value):
    """A value as JSON.stringify writes it: undefined left out, no meta."""
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
    """JSON as bytes of UTF-8; escapes where a lone surrogate leaves no other way."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")


##################################################################################################
# Rows
##################################################################################################

TABLES = ("accounts", "organizations", "members", "projects", "traces", "spans", "scores",
          "evaluators", "datasets", "items", "api_keys", "usage", "routes", "sessions", "tokens",
          "settings")


def bindable(text):
    """A text as sqlite3 takes it; one with a lone surrogate is no ID of any row."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


class Store:
    """Tables of rows; each row is a dict with `id`, kept as its superjson envelope."""

    def __init__(self, path):
        self.database = sqlite3.connect(path, check_same_thread=False)
        try:
            self.create()
        except sqlite3.Error:
            self.database.close()
            raise

    def create(self):
        self.database.execute("PRAGMA synchronous = OFF")
        for table in TABLES:
            self.database.execute(
                "CREATE TABLE IF NOT EXISTS %s (number INTEGER PRIMARY KEY AUTOINCREMENT, "
                "id TEXT UNIQUE, parent TEXT, created TEXT, row TEXT)" % table)
        for table in ("traces", "spans", "scores", "items", "members"):
            self.database.execute("CREATE INDEX IF NOT EXISTS %s_of ON %s (parent, created)"
                                  % (table, table))
        self.database.commit()

    def add(self, table, row, parent=None):
        created = str(row.get("createdAt") or "")
        self.database.execute(
            "INSERT INTO %s (id, parent, created, row) VALUES (?, ?, ?, ?)" % table,
            (row["id"], parent, created, json.dumps(dump(row))))
        return row["id"]

    def put(self, table, row):
        self.database.execute("UPDATE %s SET row = ? WHERE id = ?" % table,
                              (json.dumps(dump(row)), row["id"]))

    def get(self, table, id):
        found = self.database.execute("SELECT row FROM %s WHERE id = ?" % table,
                                      (bindable(id),)).fetchone()
        return load(json.loads(found[0])) if found else None

    def parent(self, table, id):
        found = self.database.execute("SELECT parent FROM %s WHERE id = ?" % table,
                                      (bindable(id),)).fetchone()
        return found[0] if found else None

    def find(self, table, parent=None, newest=False, after=None):
        """The rows (of one parent), in the order they were added or the newest first; lazily.

        after: the ID of the row that the newest first begin below.
        """
        query, values = "SELECT row FROM " + table, []
        if parent is not None:
            query += " WHERE parent = ?"
            values.append(bindable(parent))
        if after is not None:
            begun = self.database.execute("SELECT created, number FROM %s WHERE id = ?" % table,
                                          (bindable(after),)).fetchone()
            query += " AND created <= ? AND (created < ? OR number < ?)"
            values += [begun[0], begun[0], begun[1]]
        query += " ORDER BY created DESC, number DESC" if newest else " ORDER BY number"
        for (text,) in self.database.execute(query, values):
            yield load(json.loads(text))

    def count(self, table, parent):
        return self.database.execute("SELECT count(*) FROM %s WHERE parent = ?" % table,
                                     (parent,)).fetchone()[0]

    def remove(self, table, id):
        self.database.execute("DELETE FROM %s WHERE id = ?" % table, (id,))

    def remove_all(self, table, parent):
        self.database.execute("DELETE FROM %s WHERE parent = ?" % table, (parent,))

    def plain(self, table):
        rows = self.database.execute("SELECT row FROM %s ORDER BY number" % table).fetchall()
        return [json.loads(text)["json"] for (text,) in rows]


##################################################################################################
# Checking input as zod does
##################################################################################################

def js_type(value):
    if value is UNDEFINED:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, Date):
        return "date"
    names = {bool: "boolean", str: "string", dict: "object", Big: "bigint", int: "number",
             float: "number", list: "array"}
    return names.get(type(value), "object")


class Zod:
    """Builds the list of problems of an input in the words of zod 3 or zod 4."""

    def __init__(self, version):
        self.version = version
        self.problems = []

    def add(self, key, message, old, new):
        """`old` and `new`: the facts of zod 3 and 4; message likewise a pair."""
        facts = dict(old if self.version == 3 else new)
        facts["message"] = message[self.version - 3]
        facts["path"] = key if isinstance(key, list) else [key]
        self.problems.append(facts)

    def wrong_type(self, key, expected, value):
        got = js_type(value)
        old = "Required" if got == "undefined" else "Expected %s, received %s" % (expected, got)
        self.add(key, (old, "Invalid input: expected %s, received %s" % (expected, got)),
                 {"code": "invalid_type", "expected": expected, "received": got},
                 {"expected": expected, "code": "invalid_type"})

    def too_small(self, key, kind, minimum):
        old = {"string": "String must contain at least %d character(s)",
               "number": "Number must be greater than or equal to %d"}[kind] % minimum
        new = {"string": "Too small: expected string to have >=%d characters",
               "number": "Too small: expected number to be >=%d"}[kind] % minimum
        self.add(key, (old, new), {"code": "too_small", "minimum": minimum, "type": kind,
                                   "inclusive": True, "exact": False},
                 {"origin": kind, "code": "too_small", "minimum": minimum, "inclusive": True})

    def too_big(self, key, kind, maximum):
        old = {"string": "String must contain at most %d character(s)",
               "number": "Number must be less than or equal to %d"}[kind] % maximum
        new = {"string": "Too big: expected string to have <=%d characters",
               "number": "Too big: expected number to be <=%d"}[kind] % maximum
        self.add(key, (old, new), {"code": "too_big", "maximum": maximum, "type": kind,
                                   "inclusive": True, "exact": False},
                 {"origin": kind, "code": "too_big", "maximum": maximum, "inclusive": True})

    def not_an_option(self, key, options, value):
        old = "Invalid enum value. Expected %s, received '%s'" % (
            " | ".join("'%s'" % option for option in options), value)
        new = "Invalid option: expected one of %s" % "|".join('"%s"' % o for o in options)
        self.add(key, (old, new), {"received": value, "code": "invalid_enum_value",
                                   "options": list(options)},
                 {"code": "invalid_value", "values": list(options)})

    def bad_date(self, key):
        self.add(key, ("Invalid datetime", "Invalid ISO datetime"),
                 {"code": "invalid_string", "validation": "datetime"},
                 {"origin": "string", "code": "invalid_format", "format": "datetime"})

    def refuse(self):
        """Raises what a server answers if there are problems."""
        if self.problems:
            text = json.dumps(self.problems, indent=2, ensure_ascii=False)
            raise Refusal("BAD_REQUEST", text)


def check_text(zod, key, value, least=0, most=None):
    if js_type(value) != "string":
        zod.wrong_type(key, "string", value)
    elif len(value) < least:
        zod.too_small(key, "string", least)
    elif most and len(value) > most:
        zod.too_big(key, "string", most)


def check_number(zod, key, value, least, most):
    if js_type(value) != "number":
        zod.wrong_type(key, "number", value)
    elif not math.isfinite(value) or value != int(value):
        zod.wrong_type(key, "integer", value)
    elif value < least:
        zod.too_small(key, "number", least)
    elif value > most:
        zod.too_big(key, "number", most)


def check_option(zod, key, value, options):
    if value is UNDEFINED or (not isinstance(value, str) and zod.version == 3):
        zod.wrong_type(key, " | ".join("'%s'" % option for option in options), value)
    elif value not in options:
        zod.not_an_option(key, options, value)


def check_type(zod, key, value, kind):
    if js_type(value) != kind:
        zod.wrong_type(key, kind, value)


def check_date(zod, key, value):
    if js_type(value) not in ("string", "date"):
        return zod.wrong_type(key, "string", value)
    try:
        parse_time(value)
    except ValueError:
        zod.bad_date(key)


def check_texts(zod, key, value):
    if not isinstance(value, list):
        return zod.wrong_type(key, "array", value)
    for place, item in enumerate(value):
        check_text(zod, [key, place], item)


def check_any(zod, key, value):
    if value is UNDEFINED:
        zod.wrong_type(key, "object", value)


CHECKS = {
    "id": lambda zod, key, value: check_text(zod, key, value, 1),
    "name": lambda zod, key, value: check_text(zod, key, value, 1, 255),
    "text": check_text,
    "bool": lambda zod, key, value: check_type(zod, key, value, "boolean"),
    "list": lambda zod, key, value: check_type(zod, key, value, "array"),
    "role": lambda zod, key, value: check_option(zod, key, value, ROLES),
    "status": lambda zod, key, value: check_option(zod, key, value, STATUSES),
    "type": lambda zod, key, value: check_option(zod, key, value, EVALUATOR_TYPES),
    "months": lambda zod, key, value: check_number(zod, key, value, 1, 24),
    "date": check_date, "texts": check_texts, "any": check_any,
}


def check_input(given, fields, zod_version, page_limit):
    """`given` with the declared fields alone; raises Refusal with zod's list of problems.

    `fields` is "key:check" or "key?:check" (may be left out), separated by blanks.
    """
    zod = Zod(zod_version)
    if not isinstance(given, dict):
        zod.wrong_type([], "object", given)
        zod.refuse()
    checked = {}
    for field in fields.split():
        key, _, check = field.partition(":")
        value = given.get(key.rstrip("?"), UNDEFINED)
        if value is UNDEFINED and key.endswith("?"):
            continue
        key = key.rstrip("?")
        if check == "limit":
            check_number(zod, key, value, 1, page_limit)
        else:
            CHECKS[check](zod, key, value)
        checked[key] = value
    zod.refuse()
    return checked


##################################################################################################
# Procedures
##################################################################################################

PROCEDURES = {}


def procedure(name, kind, fields=None):
    """Registers `work(world, account, given)` under a procedure's name."""
    def register(work):
        PROCEDURES[name] = (kind, fields, work)
        return work
    return register


class World:
    """What the procedures do with the rows; `server` carries the options."""

    def __init__(self, store, server):
        self.store, self.server = store, server

    def now(self):
        return stamp(time.time())

    def insert(self, table, parent, fields, updated=True):
        """Adds a row with what each row has; returns its ID."""
        row = {"id": str(uuid.uuid4())}
        row.update(fields)
        row.setdefault("createdAt", self.now())
        if updated:
            row.setdefault("updatedAt", Date(row["createdAt"]))
        return self.store.add(table, row, parent)

    def new(self, table, parent, fields, updated=True):
        """A new row, as it is read from then on."""
        return self.store.get(table, self.insert(table, parent, fields, updated))

    def change(self, table, row, fields):
        row.update(fields)
        if "updatedAt" in row:
            row["updatedAt"] = self.now()
        self.store.put(table, row)
        return self.store.get(table, row["id"])

    def role(self, account, org):
        for member in self.store.find("members", org):
            if member["userId"] == account["id"]:
                return member["role"]
        return None

    def see_org(self, account, org, *roles):
        """The organization; raises NOT_FOUND, or FORBIDDEN where none of `roles` is held."""
        row, role = self.store.get("organizations", org), self.role(account, org)
        if not row or not role:
            raise Refusal("NOT_FOUND", "Organization not found")
        if roles and role not in roles:
            raise Refusal("FORBIDDEN", "Insufficient permissions")
        return row

    def see_project(self, account, project, *roles):
        row = self.store.get("projects", project)
        if not row or not self.role(account, row["organizationId"]):
            raise Refusal("NOT_FOUND", "Project not found")
        self.see_org(account, row["organizationId"], *roles)
        return row

    def see(self, table, title, account, given, *roles, key="id"):
        """A row of a project that the account may see, and change if `roles` are given."""
        row = self.store.get(table, given[key])
        if "projectId" in given:
            self.see_project(account, given["projectId"], *roles)
        if not row or given.get("projectId", row["projectId"]) != row["projectId"]:
            raise Refusal("NOT_FOUND", title + " not found")
        try:
            self.see_project(account, row["projectId"], *roles)
        except Refusal as refusal:
            if refusal.code != "NOT_FOUND":
                raise
            raise Refusal("NOT_FOUND", title + " not found")
        return row

    def cost(self, value):
        if value is None or value is UNDEFINED or self.server.costs != "decimal":
            return value
        return Decimal(value if isinstance(value, str) else repr(value))

    def number(self, value):
        known = isinstance(value, int) and not isinstance(value, bool)
        return Big(value) if known and self.server.counts == "bigint" else value

    def show_trace(self, trace, scores=False):
        """A trace as lists show it: with its counts."""
        trace["totalCost"] = self.cost(trace["totalCost"])
        trace["totalTokens"] = self.number(trace["totalTokens"])
        trace["_count"] = {"spans": self.number(self.store.count("spans", trace["id"])),
                           "scores": self.number(self.store.count("scores", trace["id"]))}
        if scores:
            trace["scores"] = list(self.store.find("scores", trace["id"]))
        return trace

    def show_span(self, span):
        span["cost"] = self.cost(span.get("cost"))
        for key in ("promptTokens", "completionTokens", "totalTokens"):
            span[key] = self.number(span.get(key))
        return span

    def detail(self, trace):
        """A trace with spans and scores; equal moments are one object, as servers have it."""
        shown = self.show_trace(trace)
        shown["spans"] = [self.show_span(span) for span in self.store.find("spans", trace["id"])]
        shown["scores"] = list(self.store.find("scores", trace["id"]))
        for row in shown["spans"] + shown["scores"]:
            for key in ("startTime", "endTime", "createdAt", "totalTokens"):
                theirs = shown.get(key)
                if isinstance(theirs, (Date, Big)) and row.get(key) == theirs \
                        and type(row.get(key)) is type(theirs):
                    row[key] = theirs
        return shown

    def page(self, project, given):
        """(rows, cursor of the next page or None) of the traces of a project."""
        cursor, limit = given.get("cursor") or None, given.get("limit", 50)
        if cursor and self.store.parent("traces", cursor) != project:
            raise Refusal("BAD_REQUEST", "Invalid cursor")
        kept = []
        for row in self.store.find("traces", project, newest=True, after=cursor):
            if not self.matches(row, given):
                continue
            if len(kept) == limit:
                return kept, kept[-1]["id"]
            kept.append(row)
        return kept, None

    def matches(self, trace, given):
        known = self.server.known_filters
        wanted = {key: value for key, value in given.items() if key in known and value}
        name = (trace["name"] or "").lower()
        texts = [wanted[key].lower() for key in ("name", "search") if key in wanted]
        began = str(trace["startTime"])
        return (wanted.get("status", trace["status"]) == trace["status"]
                and all(text in name for text in texts)
                and set(wanted.get("tags", ())) <= set(trace["tags"])
                and ("startDate" not in wanted or began >= stamp(str(wanted["startDate"])))
                and ("endDate" not in wanted or began <= stamp(str(wanted["endDate"]))))

    def usage(self, org, month):
        row = self.store.get("usage", org + " " + month)
        counts = row["counts"] if row else {"traceCount": 0, "spanCount": 0, "evalRunCount": 0}
        return {key: self.number(value) for key, value in counts.items()}

    def past_usage(self, org, month):
        """As recorded: a bigint of the current month is a number in the history."""
        counts = self.usage(org, month).items()
        return counts if self.server.counts == "bigint" else [(k, int(v)) for k, v in counts]


EDITORS = ("OWNER", "ADMIN", "MEMBER")
ADMINS = ("OWNER", "ADMIN")


@procedure("organization.list", "query")
def list_organizations(world, account, given):
    shown = []
    for org in world.store.find("organizations"):
        role = world.role(account, org["id"])
        if role:
            members = world.number(world.store.count("members", org["id"]))
            shown.append(dict(org, role=role, memberCount=members))
    return shown


@procedure("organization.create", "mutation", "name:name")
def create_organization(world, account, given):
    org = world.new("organizations", None, {"name": given["name"], "plan": "FREE"})
    world.new("members", org["id"], {"organizationId": org["id"], "userId": account["id"],
                                     "role": "OWNER"}, updated=False)
    return org


@procedure("organization.getById", "query", "organizationId:id")
def get_organization(world, account, given):
    org = world.see_org(account, given["organizationId"])
    org["members"] = [show_member(world, m) for m in world.store.find("members", org["id"])]
    return org


def show_member(world, member):
    account = world.store.get("accounts", member["userId"]) or {"email": None}
    return dict(member, user={"id": member["userId"], "email": account["email"]})


@procedure("organization.update", "mutation", "organizationId:id name:name")
def update_organization(world, account, given):
    org = world.see_org(account, given["organizationId"], *ADMINS)
    return world.change("organizations", org, {"name": given["name"]})


@procedure("organization.addMember", "mutation",
           "organizationId:id userId?:id role:role email?:text")
def add_member(world, account, given):
    org = world.see_org(account, given["organizationId"], *ADMINS)
    for other in world.store.find("accounts"):
        if given.get("userId") == other["id"] or given.get("email") == other["email"]:
            break
    else:
        raise Refusal("NOT_FOUND", "User not found")
    if world.role(other, org["id"]):
        raise Refusal("CONFLICT", "User is already a member")
    member = world.new("members", org["id"], {
        "organizationId": org["id"], "userId": other["id"], "role": given["role"]}, updated=False)
    return show_member(world, member)


@procedure("organization.removeMember", "mutation", "organizationId?:id memberId:id")
def remove_member(world, account, given):
    member = world.store.get("members", given["memberId"])
    if not member:
        raise Refusal("NOT_FOUND", "Member not found")
    world.see_org(account, member["organizationId"], *ADMINS)
    world.store.remove("members", member["id"])
    return {"success": True}


@procedure("project.list", "query", "organizationId:id")
def list_projects(world, account, given):
    world.see_org(account, given["organizationId"])
    return list(world.store.find("projects", given["organizationId"]))


@procedure("project.create", "mutation", "organizationId:id name:name description?:text")
def create_project(world, account, given):
    org = world.see_org(account, given["organizationId"], *EDITORS)
    return world.new("projects", org["id"], {
        "organizationId": org["id"], "name": given["name"],
        "description": given.get("description")})


@procedure("project.update", "mutation", "projectId:id name?:name description?:text")
def update_project(world, account, given):
    project = world.see_project(account, given.pop("projectId"), *EDITORS)
    return world.change("projects", project, given)


@procedure("project.delete", "mutation", "projectId:id")
def delete_project(world, account, given):
    world.see_project(account, given["projectId"], *ADMINS)
    world.store.remove("projects", given["projectId"])
    return {"success": True}


@procedure("trace.list", "query",
           "projectId:id limit?:limit cursor?:id status?:status name?:text search?:text "
           "tags?:texts startDate?:date endDate?:date")
def list_traces(world, account, given):
    world.see_project(account, given["projectId"])
    rows, cursor = world.page(given["projectId"], given)
    shown = [world.show_trace(row, world.server.list_scores) for row in rows]
    if world.server.bare_list:
        return shown
    return {world.server.page_key: shown, "nextCursor": cursor}


@procedure("trace.getById", "query", "traceId:id projectId?:id")
def get_trace(world, account, given):
    return world.detail(world.see("traces", "Trace", account, given, key="traceId"))


@procedure("trace.byId", "query", "id:id projectId?:id")
def get_trace_by_id(world, account, given):
    return world.detail(world.see("traces", "Trace", account, given))


@procedure("evaluator.list", "query", "projectId:id")
def list_evaluators(world, account, given):
    world.see_project(account, given["projectId"])
    return list(world.store.find("evaluators", given["projectId"]))


@procedure("evaluator.create", "mutation", "projectId:id name:name type:type config?:any")
def create_evaluator(world, account, given):
    world.see_project(account, given["projectId"], *EDITORS)
    return world.new("evaluators", given["projectId"], {
        "config": given.get("config", {}), "projectId": given["projectId"],
        "name": given["name"], "type": given["type"], "enabled": True})


@procedure("evaluator.update", "mutation",
           "id:id projectId?:id name?:name type?:type config?:any enabled?:bool")
def update_evaluator(world, account, given):
    row = world.see("evaluators", "Evaluator", account, given, *EDITORS)
    return world.change("evaluators", row, given)


@procedure("evaluator.delete", "mutation", "id:id projectId?:id")
def delete_evaluator(world, account, given):
    row = world.see("evaluators", "Evaluator", account, given, *EDITORS)
    world.store.remove("evaluators", row["id"])
    return {"success": True}


@procedure("dataset.list", "query", "projectId:id")
def list_datasets(world, account, given):
    world.see_project(account, given["projectId"])
    return [dict(row, _count={"items": world.number(world.store.count("items", row["id"]))})
            for row in world.store.find("datasets", given["projectId"])]


@procedure("dataset.create", "mutation", "projectId:id name:name description?:text")
def create_dataset(world, account, given):
    world.see_project(account, given["projectId"], *EDITORS)
    return world.new("datasets", given["projectId"], {
        "projectId": given["projectId"], "name": given["name"],
        "description": given.get("description")})


@procedure("dataset.update", "mutation", "id:id projectId?:id name?:name description?:text")
def update_dataset(world, account, given):
    row = world.see("datasets", "Dataset", account, given, *EDITORS)
    return world.change("datasets", row, given)


@procedure("dataset.delete", "mutation", "id:id projectId?:id")
def delete_dataset(world, account, given):
    row = world.see("datasets", "Dataset", account, given, *EDITORS)
    world.store.remove("datasets", row["id"])
    world.store.remove_all("items", row["id"])
    return {"success": True}


@procedure("dataset.getById", "query", "id:id projectId?:id")
def get_dataset(world, account, given):
    row = world.see("datasets", "Dataset", account, given)
    return dict(row, items=list(world.store.find("items", row["id"])))


PROCEDURES["dataset.byId"] = PROCEDURES["dataset.getById"]


@procedure("dataset.addItem", "mutation",
           "datasetId:id projectId?:id input:any expectedOutput?:any metadata?:any")
def add_item(world, account, given):
    row = world.see("datasets", "Dataset", account, given, *EDITORS, key="datasetId")
    return world.new("items", row["id"], {
        "expectedOutput": given.get("expectedOutput"), "metadata": given.get("metadata"),
        "datasetId": row["id"], "input": given["input"]}, updated=False)


@procedure("dataset.removeItem", "mutation", "itemId:id projectId?:id")
def remove_item(world, account, given):
    item = world.store.get("items", given.pop("itemId"))
    if not item:
        raise Refusal("NOT_FOUND", "Dataset item not found")
    given["id"] = item["datasetId"]
    world.see("datasets", "Dataset", account, given, *EDITORS)
    world.store.remove("items", item["id"])
    return {"success": True}


@procedure("apiKey.list", "query", "projectId:id")
def list_keys(world, account, given):
    world.see_project(account, given["projectId"])
    return [hide_key(row) for row in world.store.find("api_keys", given["projectId"])]


def hide_key(row):
    row.pop("key", None)
    return row


@procedure("apiKey.create", "mutation", "projectId:id name:name")
def create_key(world, account, given):
    world.see_project(account, given["projectId"], *EDITORS)
    return new_key(world, account, given["projectId"], given["name"])


def new_key(world, account, project, name, **fields):
    key = "ts_" + secrets.token_hex(24)
    row = {"projectId": project, "name": name, "keyPrefix": key[:10], "createdBy": account["id"],
           "revokedAt": None, "lastUsedAt": None, "key": key}
    return world.new("api_keys", project, dict(row, **fields), updated=False)


@procedure("apiKey.revoke", "mutation", "id:id projectId?:id")
def revoke_key(world, account, given):
    row = world.see("api_keys", "API key", account, given, *EDITORS)
    if row["revokedAt"] is None:
        row = world.change("api_keys", row, {"revokedAt": world.now()})
    return hide_key(row)


@procedure("apiKey.rotate", "mutation", "id:id projectId?:id")
def rotate_key(world, account, given):
    row = world.see("api_keys", "API key", account, given, *EDITORS)
    world.change("api_keys", row, {"revokedAt": world.now()})
    return new_key(world, account, row["projectId"], row["name"], rotatedFromId=row["id"])


@procedure("usage.getCurrentMonth", "query", "organizationId:id")
def get_usage(world, account, given):
    org = world.see_org(account, given["organizationId"])["id"]
    month = this_month()
    row = world.store.get("usage", org + " " + month)
    breakdown = [dict(projectId=project, **{key: world.number(n) for key, n in counts.items()})
                 for project, counts in (row["projects"] if row else {}).items()]
    return dict(month=month, projectBreakdown=breakdown, **world.usage(org, month))


PROCEDURES["usage.currentMonth"] = PROCEDURES["usage.getCurrentMonth"]


@procedure("usage.getHistory", "query", "organizationId:id months?:months")
def get_usage_history(world, account, given):
    org = world.see_org(account, given["organizationId"])["id"]
    months = [this_month(-back) for back in range(int(given.get("months", 12)))]
    return [dict(world.past_usage(org, month), month=month) for month in reversed(months)]


def this_month(shift=0):
    now = datetime.datetime.now(datetime.timezone.utc)
    months = now.year * 12 + now.month - 1 + shift
    return "%04d-%02d" % (months // 12, months % 12 + 1)


@procedure("modelRouting.list", "query", "projectId:id")
def list_routes(world, account, given):
    world.see_project(account, given["projectId"])
    return list(world.store.find("routes", given["projectId"]))


@procedure("modelRouting.create", "mutation",
           "projectId:id name:name defaultModel:name rules?:list enabled?:bool")
def create_route(world, account, given):
    world.see_project(account, given["projectId"], *EDITORS)
    return world.new("routes", given["projectId"], dict({"rules": [], "enabled": True}, **given))


@procedure("modelRouting.update", "mutation",
           "id:id projectId?:id name?:name defaultModel?:name rules?:list enabled?:bool")
def update_route(world, account, given):
    row = world.see("routes", "Model routing rule", account, given, *EDITORS)
    return world.change("routes", row, given)


@procedure("modelRouting.delete", "mutation", "id:id projectId?:id")
def delete_route(world, account, given):
    row = world.see("routes", "Model routing rule", account, given, *EDITORS)
    world.store.remove("routes", row["id"])
    return {"success": True}


##################################################################################################
# Sessions
##################################################################################################

class Sessions:
    """Access tokens, and refresh tokens that work once."""

    def __init__(self, store, server):
        self.store, self.server = store, server
        self.busy = collections.Counter()
        self.gates = collections.defaultdict(threading.Lock)

    def open(self, account):
        session = str(uuid.uuid4())
        self.store.add("sessions", {"id": session, "revoked": False}, account["id"])
        return self.issue(account, session)

    def issue(self, account, session):
        """New tokens, as login and refresh answer them."""
        expires = int(time.time() + self.server.lifetime)
        access, refresh = self.sign(account, expires), "v1." + secrets.token_urlsafe(24)
        facts = {"account": account["id"], "used": False, "dead": False, "expires": expires}
        self.store.add("tokens", dict(facts, id=access, kind="access"), session)
        self.store.add("tokens", dict(facts, id=refresh, kind="refresh"), session)
        answer = {"access_token": access, "refresh_token": refresh, "expires_at": expires,
                  "user": {"id": account["id"], "email": account["email"]},
                  "project_ref": PROJECT_REF}
        if not self.server.project_ref:
            del answer["project_ref"]
        return answer

    def sign(self, account, expires):
        claims = {"iss": "https://%s.supabase.co/auth/v1" % PROJECT_REF, "sub": account["id"],
                  "email": account["email"], "exp": expires, "iat": int(time.time()),
                  "jti": str(uuid.uuid4()), "app_metadata": {"pad": "x" * self.server.padding}}
        text = encode64(encode({"alg": "HS256", "typ": "JWT"})) + "." + encode64(encode(claims))
        mark = hmac.new(b"stand-in", text.encode("ascii"), hashlib.sha256).digest()
        return text + "." + encode64(mark)

    def account(self, access):
        """The account of an access token that holds, or None."""
        row = self.store.get("tokens", access) if isinstance(access, str) else None
        if not row or row["kind"] != "access" or row["dead"] or row["expires"] <= time.time():
            return None
        if self.store.get("sessions", self.store.parent("tokens", access))["revoked"]:
            return None
        return self.store.get("accounts", row["account"])

    def session_of(self, token):
        return self.store.parent("tokens", token)

    def refresh(self, token):
        row = self.store.get("tokens", token)
        session = self.session_of(token)
        if not row or row["kind"] != "refresh" or row["dead"] or (
                self.store.get("sessions", session)["revoked"] and not row["used"]):
            raise Refusal("INVALID_REFRESH_TOKEN",
                          "Invalid Refresh Token: Refresh Token Not Found", 401)
        if row["used"]:
            if self.server.strict:
                self.close(session)
            raise Refusal("INVALID_REFRESH_TOKEN", "Invalid Refresh Token: Already Used", 401)
        self.store.put("tokens", dict(row, used=True))
        return self.issue(self.store.get("accounts", row["account"]), session)

    def close(self, session):
        self.store.put("sessions", {"id": session, "revoked": True})

    def of(self, email):
        """(session, its tokens) of an account."""
        for account in self.store.find("accounts"):
            if account["email"] == email:
                for session in list(self.store.find("sessions", account["id"])):
                    yield session["id"], list(self.store.find("tokens", session["id"]))


def encode64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def read_cookie(header):
    """The access token of the session cookie, whole or in chunks; None where there is none."""
    name = "sb-%s-auth-token" % PROJECT_REF
    cookies = {}
    for part in (header or "").split(";"):
        key, _, value = part.strip().partition("=")
        cookies.setdefault(key, value.strip('"'))
    value = cookies.get(name)
    if value is None:
        chunks, place = [], 0
        while "%s.%d" % (name, place) in cookies:
            chunks.append(cookies["%s.%d" % (name, place)])
            place += 1
        value = "".join(chunks)
    value = urllib.parse.unquote(value)
    try:
        if value.startswith("base64-"):
            value = base64.urlsafe_b64decode(value[7:] + "===").decode("utf-8")
        return json.loads(value)["access_token"]
    except (ValueError, KeyError, TypeError):
        return None


##################################################################################################
# The wire
##################################################################################################

class Request:
    """One request as it came: method, path (no query), query, headers, body, procedures."""

    def __init__(self, method, target, headers, data):
        self.method, self.target, self.headers, self.data = method, target, headers, data
        self.path, _, query = target.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.procedures = []
        if self.path.startswith("/api/trpc/"):
            name = urllib.parse.unquote(self.path[len("/api/trpc/"):])
            self.procedures = name.split(",") if "batch" in self.query else [name]
        try:
            self.body = json.loads(data.decode("utf-8")) if data else None
        except ValueError:
            self.body = data

    def __repr__(self):
        return "<%s %s>" % (self.method, self.target)


class Answer:
    def __init__(self, status, body, headers=None, content_type=JSON_TYPE):
        self.status = status
        self.body = body if isinstance(body, bytes) else encode(body)
        self.headers = dict({"Content-Type": content_type}, **(headers or {}))


class Fault:
    """What happens to a request in place of, or on top of, its true answer."""

    def __init__(self, fragment, times, status=None, body=None, headers=None, delay=0, cut=None,
                 garbage=None, reset=False, after=False, raw=None, drip=None):
        self.fragment, self.times = fragment, times
        self.status, self.body, self.headers = status, body, headers or {}
        self.delay, self.cut, self.garbage, self.reset = delay, cut, garbage, reset
        self.after, self.raw, self.drip = after, raw, drip
        self.begun, self.release = threading.Event(), threading.Event()

    def replaces(self):
        """Whether the true answer is not given at all."""
        return (self.reset or self.raw is not None or self.garbage is not None
                or self.status is not None or self.body is not None)

    def answer(self, request):
        if self.garbage is not None:
            return Answer(200, self.garbage, self.headers)
        status = self.status or 200
        body = refuse_in_kind(request, status) if self.body is None else self.body
        if isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        html = isinstance(body, bytes) and body.lstrip().startswith(b"<")
        return Answer(status, body, self.headers, "text/html" if html else JSON_TYPE)


def refuse_in_kind(request, status):
    """The error with this status that the asked part of the server would answer."""
    if status < 400:
        return b""
    code = next((name for name in CODES if CODES[name][0] == status and name != "PARSE_ERROR"),
                "INTERNAL_SERVER_ERROR")
    if not request.procedures:
        return envelope_error(code, "Error %d" % status)
    error = {"message": "Error %d" % status, "code": CODES[code][1],
             "data": {"code": code, "httpStatus": status, "path": request.procedures[0]}}
    return {"error": {"json": error}}


def envelope_error(code, message):
    return {"data": None, "error": {"code": code, "message": message}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    resetting = False

    def handle_any(self):
        length = self.headers.get("Content-Length") or "0"
        data = self.rfile.read(int(length)) if length.isdigit() else b""
        request = Request(self.command, self.path, self.headers, data)
        self.server.owner.serve(request, self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = handle_any

    def log_message(self, *args):
        """Quiet: the tests read what was seen."""

    def send(self, answer, cut=None, drip=None):
        """One write for a whole answer, so that it leaves as one packet."""
        reason = http.server.BaseHTTPRequestHandler.responses.get(answer.status, ("",))[0]
        lines = ["HTTP/1.1 %d %s" % (answer.status, reason)]
        headers = dict({"Content-Length": str(len(answer.body))}, **answer.headers)
        lines += ["%s: %s" % pair for pair in headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        body = b"" if self.command == "HEAD" else answer.body
        if cut is not None:
            body, self.close_connection = body[:cut], True
        if drip is None:
            self.wfile.write(head + body)
        else:
            self.drip(head + body, drip)

    def drip(self, data, seconds):
        for place in range(len(data)):
            self.wfile.write(data[place:place + 1])
            if self.server.owner.stopping.wait(seconds):
                break
        self.close_connection = self.close_connection or self.server.owner.stopping.is_set()

    def send_raw(self, data):
        self.close_connection = True
        self.wfile.write(data)

    def reset(self):
        kind = "hh" if os.name == "nt" else "ii"
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(kind, 1, 0))
        self.close_connection = True
        self.server.owner.doomed.add(self.connection)


class Listener(socketserver.TCPServer):
    """Accepts in one thread and serves each connection in one of its own; ends at once."""
    allow_reuse_address = os.name != "nt"
    request_queue_size = 256

    def accept_until_stopped(self):
        while not self.owner.stopping.is_set():
            try:
                connection, address = self.socket.accept()
            except OSError:
                continue
            if self.owner.stopping.is_set():
                connection.close()
                break
            self.owner.welcome(connection, address)


##################################################################################################
# The server
##################################################################################################

OPTIONS = dict(
    data=":memory:", names="new", errors=11, zod=3, batching=True, bare_errors=False,
    page_key="traces", bare_list=False, list_scores=False, counts="number", costs="number",
    lifetime=3600, project_ref=True, padding=0, refresh_delay=0.0, busy_refreshes=False,
    strict=True, rate=None, require_project=False, tls=None, page_limit=100, created="now",
    known_filters=("status", "name", "search", "tags", "startDate", "endDate"),
    empty=False, low_score=False, rest_envelope=False, port=0)


DIALECTS = {                # options of a current server, and of one that is years old
    "new": dict(names="new", errors=11, zod=4, list_scores=True),
    "old": dict(names="old", errors=10, zod=3, batching=False, bare_errors=True, page_key="items",
                counts="bigint", costs="decimal", require_project=True, rest_envelope=True)}


class StandIn:
    """A 2Signal server on 127.0.0.1; see the module's docstring and OPTIONS.

    names: "new", "old" or "both"; errors: texts of tRPC 11 or 10; zod: 3 or 4; counts: "number"
    or "bigint"; costs: "number" or "decimal"; low_score adds a score of 0.41; tls: a pair of
    certificate file and key file.
    """
    OWNER = ("owner@example.com", "owner-pass")
    VIEWER = ("viewer@example.com", "viewer-pass")
    ADMIN = ("admin@example.com", "admin-pass")
    MEMBER = ("member@example.com", "member-pass")
    STRANGER = ("stranger@example.com", "stranger-pass")
    STRANGER2 = ("stranger2@example.com", "stranger2-pass")
    ACCOUNTS = (OWNER, VIEWER, ADMIN, MEMBER, STRANGER, STRANGER2)

    def __init__(self, **options):
        unknown = set(options) - set(OPTIONS)
        if unknown:
            raise TypeError("unknown options: %s" % ", ".join(sorted(unknown)))
        for name, default in OPTIONS.items():
            setattr(self, name, options.get(name, default))
        self.lock = threading.RLock()
        self.requests, self.faults, self.failures = [], [], []
        self.recent = collections.deque()
        self.connections = 0
        self.store = None
        self.ids = {}

    # starting and stopping

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        self.stop()

    def start(self):
        self.stopping, self.doomed, self.threads = threading.Event(), set(), {}
        self.store = Store(self.data)
        self.world = World(self.store, self)
        self.sessions = Sessions(self.store, self)
        self.context = self.make_context()
        self.fill()
        self.listener = Listener(("127.0.0.1", self.port), Handler, bind_and_activate=False)
        self.listener.owner = self
        try:
            self.listener.server_bind()
            self.listener.server_activate()
        except OSError:
            self.listener.server_close()
            self.store.database.close()
            raise
        scheme = "https" if self.tls else "http"
        self.url = "%s://127.0.0.1:%d" % (scheme, self.listener.server_address[1])
        self.acceptor = threading.Thread(target=self.listener.accept_until_stopped, daemon=True)
        self.acceptor.start()
        return self

    def make_context(self):
        if not self.tls:
            return None
        import ssl
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.tls)
        return context

    def stop(self):
        if self.stopping.is_set():
            return
        self.stopping.set()
        for fault in self.faults:
            fault.release.set()
        self.wake()
        self.acceptor.join()
        self.listener.server_close()
        with self.lock:
            left = list(self.threads.items())
        for thread, connection in left:
            with contextlib.suppress(OSError):  # the plain one: TLS state belongs to its thread
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread, _ in left:
            thread.join()
        self.store.database.commit()
        self.store.database.close()

    def wake(self):
        """Gets the acceptor out of its wait."""
        with contextlib.suppress(OSError):
            socket.create_connection(self.listener.server_address, 5).close()

    def welcome(self, connection, address):
        thread = threading.Thread(target=self.talk, args=(connection, address), daemon=True)
        with self.lock:
            self.connections += 1
            self.threads[thread] = connection
        thread.start()

    def talk(self, connection, address):
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True,
                                                      do_handshake_on_connect=False)
                with self.lock:
                    self.threads[threading.current_thread()] = connection
                connection.do_handshake()
            Handler(connection, address, self.listener)
        except OSError:
            pass  # a client that goes away is its own affair
        except Exception:
            self.failures.append(traceback.format_exc())
        finally:
            self.hang_up(connection)

    def hang_up(self, connection):
        if connection not in self.doomed:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        self.doomed.discard(connection)
        connection.close()
        with self.lock:
            self.threads.pop(threading.current_thread(), None)

    # answering

    def serve(self, request, handler):
        with self.lock:
            self.requests.append(request)
            fault = self.take_fault(request)
        if fault:
            return self.serve_fault(request, handler, fault)
        handler.send(self.answer(request))

    def take_fault(self, request):
        for fault in self.faults:
            if fault.fragment in request.path and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def serve_fault(self, request, handler, fault):
        true = None
        if fault.after or not fault.replaces():
            true = self.answer(request)
        fault.begun.set()
        if fault.delay is True:
            fault.release.wait()
        elif fault.delay:
            self.stopping.wait(fault.delay)
        if fault.reset:
            return handler.reset()
        if fault.raw is not None:
            return handler.send_raw(fault.raw)
        if fault.replaces():
            true = fault.answer(request)
        else:
            true.headers.update(fault.headers)
        handler.send(true, fault.cut, fault.drip)

    def answer(self, request):
        """The true answer to a request, with what it changes carried out."""
        try:
            if self.over_rate():
                raise Refusal("TOO_MANY_REQUESTS", "Rate limit exceeded",
                              headers={"Retry-After": "1"})
            if request.path.startswith("/api/trpc/"):
                return self.answer_trpc(request)
            return self.answer_rest(request)
        except Refusal as refusal:
            return self.refuse(request, refusal)
        except Exception:
            self.failures.append(traceback.format_exc())
            return self.refuse(request, Refusal("INTERNAL_SERVER_ERROR", "Internal server error"))

    def refuse(self, request, refusal):
        if request.path.startswith("/api/trpc/"):
            body = self.trpc_error(refusal, ",".join(request.procedures))
        else:
            body = envelope_error(refusal.code, refusal.message)
        return Answer(refusal.status, body, refusal.headers)

    def over_rate(self):
        if not self.rate:
            return False
        with self.lock:
            now = time.monotonic()
            while self.recent and self.recent[0] <= now - 1:
                self.recent.popleft()
            if len(self.recent) >= self.rate:
                return True
            self.recent.append(now)
            return False

    @contextlib.contextmanager
    def transaction(self):
        """One request at a time; its changes are kept whole or not at all."""
        with self.lock:
            self.store.database.commit()
            try:
                yield
            except Refusal:
                self.store.database.commit()  # a refused refresh revokes the session
                raise
            except BaseException:
                self.store.database.rollback()
                raise
            self.store.database.commit()

    # tRPC

    def answer_trpc(self, request):
        account = None
        with self.transaction():
            account = self.sessions.account(read_cookie(request.headers.get("Cookie")))
        kind = {"GET": "query", "POST": "mutation"}.get(request.method, request.method)
        if "batch" not in request.query:
            given = self.read_input(request, kind)
            status, body = self.call(request.procedures[0], kind, account, given)
            return Answer(status, body)
        if not self.batching:
            raise Refusal("BAD_REQUEST", "Batching is not enabled on the server")
        return self.answer_batch(request, kind, account)

    def answer_batch(self, request, kind, account):
        inputs = self.read_input(request, kind, batch=True)
        if not isinstance(inputs, dict):
            raise Refusal("BAD_REQUEST", '"input" needs to be an object when doing a batch call')
        answers = [self.call(name, kind, account, inputs.get(str(place), UNDEFINED))
                   for place, name in enumerate(request.procedures)]
        statuses = {status for status, _ in answers}
        return Answer(statuses.pop() if len(statuses) == 1 else 207, [body for _, body in answers])

    def read_input(self, request, kind, batch=False):
        """The envelope of the input, UNDEFINED without one; a dict of envelopes for a batch."""
        nothing = {} if batch else UNDEFINED
        if kind == "mutation":
            if isinstance(request.body, bytes):
                raise Refusal("PARSE_ERROR", "Unexpected token in JSON")
            return nothing if request.body is None else request.body
        if "input" not in request.query:
            return nothing
        try:
            return json.loads(request.query["input"])
        except ValueError:
            raise Refusal("PARSE_ERROR", "Unexpected token in JSON")

    def call(self, name, kind, account, envelope):
        """(status, body) of one procedure."""
        try:
            with self.transaction():
                result = self.perform(name, kind, account, envelope)
                return 200, {"result": {"data": dump(result)}}
        except Refusal as refusal:
            return refusal.status, self.trpc_error(refusal, name)

    def perform(self, name, kind, account, envelope):
        known, fields, work = self.look_up(name, kind)
        if account is None:
            raise Refusal("UNAUTHORIZED", "You must be logged in")
        if fields is None:
            return work(self.world, account, {})
        if self.require_project:
            fields = fields.replace("projectId?", "projectId")
        given = check_input(self.read_envelope(envelope), fields, self.zod, self.page_limit)
        return work(self.world, account, given)

    def read_envelope(self, envelope):
        if envelope is UNDEFINED or not isinstance(envelope, dict):
            return UNDEFINED
        try:
            return load(envelope) if "json" in envelope else UNDEFINED
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise Refusal("BAD_REQUEST", "Invalid superjson meta")

    def look_up(self, name, kind):
        hidden = {"new": PAIRS.values(), "old": PAIRS, "both": ()}[self.names]
        found = None if name in hidden else PROCEDURES.get(name)
        if found and found[0] == kind:
            return found
        if self.errors == 10:
            raise Refusal("NOT_FOUND", 'No "%s"-procedure on path "%s"' % (kind, name))
        if found:
            method = "GET" if kind == "query" else "POST"
            raise Refusal("METHOD_NOT_SUPPORTED", 'Unsupported %s-request to %s procedure at path '
                          '"%s"' % (method, found[0], name))
        raise Refusal("NOT_FOUND", 'No procedure found on path "%s"' % name)

    def trpc_error(self, refusal, path):
        error = {"message": refusal.message, "code": CODES[refusal.code][1],
                 "data": {"code": refusal.code, "httpStatus": refusal.status, "path": path}}
        return {"error": error if self.bare_errors else {"json": error}}

    # REST

    def answer_rest(self, request):
        work = {("POST", "/api/v1/auth/login"): self.log_in,
                ("POST", "/api/v1/auth/refresh"): self.refresh,
                ("POST", "/api/v1/auth/logout"): self.log_out,
                ("GET", "/api/v1/traces"): self.rest_list_traces,
                ("POST", "/api/v1/traces"): self.rest_ingest,
                ("POST", "/api/v1/scores"): self.rest_score}.get((request.method, request.path))
        if not work:
            return Answer(404, NOT_A_PAGE, content_type="text/html")
        return work(request)

    def read_fields(self, request, message, *names):
        body = request.body if isinstance(request.body, dict) else {}
        values = [body.get(name) for name in names]
        if not all(isinstance(value, str) and value for value in values):
            raise Refusal("VALIDATION_ERROR", message, 400)
        return values

    def log_in(self, request):
        email, password = self.read_fields(request, "Email and password are required",
                                           "email", "password")
        with self.transaction():
            for account in self.store.find("accounts"):
                if account["email"] == email and account["password"] == password:
                    return Answer(200, {"data": self.sessions.open(account), "error": None})
        raise Refusal("INVALID_CREDENTIALS", "Invalid login credentials", 401)

    def refresh(self, request):
        (token,) = self.read_fields(request, "Refresh token is required", "refresh_token")
        with self.lock:
            session = self.sessions.session_of(token)
            beside = self.sessions.busy[session]
            if beside and self.busy_refreshes:
                raise Refusal("CONFLICT", "Too many concurrent token refresh requests on the "
                              "same session or refresh token")
            self.sessions.busy[session] += 1
            gate = self.sessions.gates[session]
        try:
            with gate:
                self.stopping.wait(self.refresh_delay)
                with self.transaction():
                    answer = self.sessions.refresh(token)
        finally:
            with self.lock:
                self.sessions.busy[session] -= 1
        return Answer(200, {"data": answer, "error": None})

    def bearer(self, request):
        kind, _, token = (request.headers.get("Authorization") or "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""

    def log_out(self, request):
        with self.transaction():
            token = self.bearer(request)
            if not self.sessions.account(token):
                raise Refusal("UNAUTHORIZED", "Missing or invalid access token")
            self.sessions.close(self.sessions.session_of(token))
        return Answer(200, {"data": {"success": True}, "error": None})

    def keyed_project(self, request):
        """The project of the API key in the request."""
        key = self.bearer(request)
        for row in list(self.store.find("api_keys")):
            if key and row["key"] == key and row["revokedAt"] is None:
                self.world.change("api_keys", row, {"lastUsedAt": self.world.now()})
                return row["projectId"]
        raise Refusal("UNAUTHORIZED", "Invalid API key")

    def rest_answer(self, status, body):
        return Answer(status, {"data": body, "error": None} if self.rest_envelope else body)

    def rest_list_traces(self, request):
        with self.transaction():
            project = self.keyed_project(request)
            given = self.rest_filters(request.query)
            rows, cursor = self.world.page(project, given)
            shown = [rest_trace(self.world.show_trace(row)) for row in rows]
        return self.rest_answer(200, {"traces": shown, "nextCursor": cursor})

    def rest_filters(self, query):
        given = {key: query[key] for key in self.known_filters + ("cursor",) if query.get(key)}
        limit = query.get("limit", "50")
        if not limit.isdigit() or not 1 <= int(limit) <= self.page_limit:
            raise Refusal("VALIDATION_ERROR", "limit must be between 1 and %d" % self.page_limit,
                          400)
        if given.get("status", "OK") not in STATUSES:
            raise Refusal("VALIDATION_ERROR", "status must be OK or ERROR", 400)
        if "tags" in given:
            given["tags"] = given["tags"].split(",")
        for key in ("startDate", "endDate"):
            self.check_date(given.get(key, "2026-01-01"), key)
        return dict(given, limit=int(limit))

    def check_date(self, text, key):
        try:
            parse_time(text)
        except ValueError:
            raise Refusal("VALIDATION_ERROR", "%s must be a date" % key, 400)

    def rest_ingest(self, request):
        with self.transaction():
            project = self.keyed_project(request)
            events = request.body.get("batch") if isinstance(request.body, dict) else None
            if not isinstance(events, list) or not all(is_event(event) for event in events):
                raise Refusal("VALIDATION_ERROR", "batch must be a list of events", 400)
            if len(events) > 1000:
                raise Refusal("PAYLOAD_TOO_LARGE", "At most 1000 events in a batch")
            for event in events:
                self.ingest(project, event)
        return self.rest_answer(201, {"accepted": len(events)})

    def ingest(self, project, event):
        body = dict(event["body"])
        body["id"] = str(body.get("id") or event["id"])
        began = stamp(str(body.get("startTime") or event.get("timestamp") or self.world.now()))
        if event["type"] == "span-create":
            body["startTime"] = began
            return self.add_span(str(body.get("traceId")), project, body)
        self.store.remove("traces", body["id"])
        duration = body.pop("durationMs", None)
        known = {"name", "status", "tags", "id"}
        rest = {key: value for key, value in body.items() if key not in known}
        rest.update(startTime=began, endTime=UNDEFINED)
        if body.get("endTime"):
            rest["endTime"] = stamp(str(body["endTime"]))
        self.add_trace(project, body.get("name"), body.get("status") or "OK", duration,
                       rest.pop("totalCost", None), tags=body.get("tags") or [], created=began,
                       id=body["id"], **rest)

    def rest_score(self, request):
        with self.transaction():
            project = self.keyed_project(request)
            trace, name = self.read_fields(request, "traceId and evaluatorName are required",
                                           "traceId", "evaluatorName")
            value = request.body.get("value")
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise Refusal("VALIDATION_ERROR", "value must be a number from 0 to 1", 400)
            if self.store.parent("traces", trace) != project:
                raise Refusal("NOT_FOUND", "Trace not found")
            score = self.add_score(trace, evaluator=name, value=value,
                                   label=request.body.get("label"),
                                   reasoning=request.body.get("reasoning"),
                                   spanId=request.body.get("spanId"))
            return self.rest_answer(201, to_plain(self.store.get("scores", score)))

    # adding rows

    def fill(self):
        """The fixed small world, unless the data is there already."""
        self.org, self.other_org = fixed_id("b", 1), fixed_id("b", 2)
        self.project, self.hidden = fixed_id("c", 1), fixed_id("c", 2)
        self.start_time = time.time() if self.created == "now" else \
            parse_time(stamp(self.created)).timestamp()
        with self.lock:
            if not self.store.get("organizations", self.org):
                self.add_basics()
                if not self.empty:
                    self.add_sample_traces()
                    self.add_sample_rest()
            self.store.database.commit()
            self.traces = [row["id"] for row in self.store.find("traces", self.project, True)]
            self.key = next((row["key"] for row in self.store.find("api_keys", self.project)), None)
            self.evaluators = [r["id"] for r in self.store.find("evaluators", self.project)]
            self.datasets = [r["id"] for r in self.store.find("datasets", self.project)]
            self.keys = [r["id"] for r in self.store.find("api_keys", self.project)]
        for number, (email, _) in enumerate(self.ACCOUNTS, 1):
            self.ids[email.split("@")[0]] = fixed_id("a", number)
        self.ids.update(org=self.org, project=self.project, hidden=self.hidden,
                        other_org=self.other_org)
        for name in ("traces", "evaluators", "datasets", "keys"):
            if getattr(self, name):
                self.ids[name.rstrip("s")] = getattr(self, name)[0]

    def add_basics(self):
        for number, (email, password) in enumerate(self.ACCOUNTS, 1):
            self.add_account(email, password, id=fixed_id("a", number))
        since = self.before(0)
        self.add_org("Acme 東京", "PRO", id=self.org, created=since, roles={
            self.OWNER[0]: "OWNER", self.VIEWER[0]: "VIEWER", self.ADMIN[0]: "ADMIN",
            self.MEMBER[0]: "MEMBER"})
        self.add_org("Other Company", "FREE", id=self.other_org, created=since,
                     roles={self.STRANGER2[0]: "OWNER"})
        self.add_project("Support Agent", self.org, id=self.project, created=since)
        self.add_project("Hidden Project", self.other_org, id=self.hidden, created=since)

    def before(self, minutes):
        return stamp(self.start_time - 60 * minutes)

    def add_sample_traces(self):
        """Five traces, the newest first in `self.traces`."""
        good = [{"evaluatorName": "helpfulness", "value": 0.92, "label": "pass",
                 "reasoning": "because"}, {"evaluatorName": "valid-json", "value": 1}]
        low = [{"evaluatorName": "helpfulness", "value": 0.41, "label": "fail",
                "reasoning": "The answer is off the point."}]
        plan = [("support-agent", "OK", 800, "0.0034", good, []),
                ("checkout — 支払い", "OK", 1200, 0.012, low if self.low_score else [],
                 ["production", "v2"]),
                ("refund-agent", "ERROR", 4800, 0.012, good, ["production"]),
                ("مساعد 🤖 e\u0301", "OK", 61000, None, good, []),
                ("a" * 300, "OK", 5, 0.012, good, [])]
        for place, (name, status, duration, cost, scores, tags) in enumerate(plan):
            self.add_sample_trace(place, name, status, duration, cost, scores, tags)
        self.traces = [fixed_id("d", place) for place in range(len(plan))]
        month = {"traces": 46000, "spans": Big(180000), "evals": 900}
        self.set_usage(self.org, this_month(), **month)
        for back in range(1, 12):
            count = 1000 * (11 - back)
            self.set_usage(self.org, this_month(-back), count, count * 4, count // 100)

    def add_sample_trace(self, place, name, status, duration, cost, scores, tags):
        began = self.before(place)
        ended = UNDEFINED if place == 0 else stamp(parse_time(began).timestamp() + 1.2)
        when = Date("2026-03-14T10:30:00.000Z")
        ids = [fixed_id("e", 10 * place + number) for number in (1, 2, 3)]
        error = "Tool call timed out" if status == "ERROR" else None
        spans = [
            {"id": ids[0], "parentSpanId": None, "name": "root", "type": "AGENT",
             "endTime": ended, "durationMs": 1200, "cost": 0, "metadata": {},
             "input": {"userQuery": "hi", "dotted.key": when},
             "output": Map([["k", Set([1, 2])]]), "modelParameters": UNDEFINED},
            {"id": ids[1], "parentSpanId": ids[0], "name": "gpt call", "type": "LLM",
             "endTime": ended, "durationMs": 900, "output": {"score": float("nan")},
             "model": "gpt-4o", "modelParameters": {"maxTokens": 5}, "promptTokens": 1000,
             "completionTokens": 250, "totalTokens": Big(1250), "cost": "0.0034"},
            {"id": ids[2], "parentSpanId": "missing-parent", "name": "orphan", "type": "TOOL",
             "endTime": UNDEFINED, "durationMs": 0, "input": [], "output": UNDEFINED,
             "cost": None, "status": status, "errorMessage": error}]
        self.add_trace(name=name, status=status, duration_ms=duration, cost=cost, scores=scores,
                       spans=spans, tags=tags, created=began, id=fixed_id("d", place),
                       endTime=ended, totalTokens=Big(1250) if place == 0 else 1250,
                       metadata={"camelKey": {"innerKey": 1}, "when": Date(when)})

    def add_sample_rest(self):
        self.add_evaluator(name="Has JSON", config={"schema": {"type": "object"}})
        self.add_evaluator(name="Fast enough", type="LATENCY", config={"maxMs": 2000},
                           enabled=False)
        dataset = self.add_dataset(name="Test Cases")
        self.add_item(dataset, {"prompt": "Hi"}, {"camelKey": 1})
        self.add_item(dataset, {"prompt": "こんにちは"})
        self.add_key(name="CI Pipeline")

    def row(self, table, parent, fields, id=None, created=None, updated=True):
        """Adds a row; fields that the caller names win."""
        fields = dict(fields, createdAt=stamp(created or time.time()))
        if id:
            fields["id"] = id
        with self.lock:
            return self.world.insert(table, parent, fields, updated)

    def add_account(self, email, password="pass", roles=None, id=None):
        account = self.row("accounts", None, {"email": email, "password": password}, id)
        for org, role in (roles or {}).items():
            self.add_member(org, account, role)
        return account

    def add_member(self, org, account, role="MEMBER"):
        fields = {"organizationId": org, "userId": account, "role": role}
        return self.row("members", org, fields, updated=False)

    def add_org(self, name="Organization", plan="FREE", roles=None, id=None, created=None,
                **fields):
        """`roles`: e-mail to role; the owner of the sample world if None."""
        org = self.row("organizations", None, dict(fields, name=name, plan=plan), id, created)
        accounts = {row["email"]: row["id"] for row in self.store.find("accounts")}
        for email, role in (roles or {self.OWNER[0]: "OWNER"}).items():
            self.add_member(org, accounts[email], role)
        return org

    def add_project(self, name="Project", org=None, description=None, id=None, created=None,
                    **fields):
        org = org or self.org
        fields.update(organizationId=org, name=name, description=description)
        return self.row("projects", org, fields, id, created)

    def add_trace(self, project=None, name="support-agent", status="OK", duration_ms=1200,
                  cost=0.012, scores=(), spans=(), tags=(), created=None, id=None, **fields):
        """Adds a trace; `fields` are further wire fields. Returns the ID."""
        project, began = project or self.project, stamp(created or time.time())
        ended = stamp(parse_time(began).timestamp() + (duration_ms or 0) / 1000)
        row = {"projectId": project, "name": name, "startTime": began, "endTime": ended,
               "metadata": None, "tags": list(tags), "totalCost": cost, "totalTokens": 0,
               "status": status, "durationMs": duration_ms, "sessionId": UNDEFINED}
        row.update(fields)
        trace = self.row("traces", project, row, id, began, updated=False)
        for span in spans:
            self.add_span(trace, project, dict({"startTime": began, "endTime": ended}, **span))
        for score in scores:
            self.add_score(trace, project=project, created=began, **score)
        return trace

    def add_span(self, trace, project=None, fields=None):
        """Adds a span to a trace; `fields` are wire fields. Returns the ID."""
        row = {"traceId": trace, "parentSpanId": None, "projectId": project or self.project,
               "name": "step", "type": "CUSTOM", "startTime": self.world.now(), "endTime": None,
               "durationMs": 0, "input": None, "output": None, "model": None, "promptTokens": 0,
               "completionTokens": 0, "totalTokens": 0, "cost": 0, "status": "OK",
               "errorMessage": None, "metadata": None}
        row.update(fields or {})
        row["createdAt"] = Date(row["startTime"])
        with self.lock:
            return self.world.insert("spans", trace, row, updated=False)

    def add_score(self, trace, evaluator="helpfulness", value=0.92, label=None, reasoning=None,
                  project=None, created=None, **fields):
        fields.setdefault("evaluatorName", evaluator)
        fields.setdefault("spanId", None)
        project = project or self.store.parent("traces", trace) or self.project
        row = dict(fields, traceId=trace, projectId=project, value=value, label=label,
                   reasoning=reasoning)
        return self.row("scores", trace, row, row.pop("id", None), created, updated=False)

    def add_evaluator(self, project=None, name="Evaluator", type="JSON_SCHEMA", config=None,
                      enabled=True, id=None, created=None, **fields):
        project = project or self.project
        fields.update(config={} if config is None else config, projectId=project, name=name,
                      type=type, enabled=enabled)
        return self.row("evaluators", project, fields, id, created)

    def add_dataset(self, project=None, name="Dataset", description=None, id=None, created=None,
                    **fields):
        project = project or self.project
        fields.update(projectId=project, name=name, description=description)
        return self.row("datasets", project, fields, id, created)

    def add_item(self, dataset, input=None, expected=None, metadata=None, id=None, created=None):
        fields = {"expectedOutput": expected, "metadata": metadata, "datasetId": dataset,
                  "input": input}
        return self.row("items", dataset, fields, id, created, updated=False)

    def add_key(self, project=None, name="Key", id=None, **fields):
        """Adds an API key; returns its ID, `server.secret(id)` is the key itself."""
        with self.lock:
            if id:
                fields["id"] = id
            return new_key(self.world, {"id": fixed_id("a", 1)}, project or self.project, name,
                           **fields)["id"]

    def secret(self, key_id):
        with self.lock:
            return self.store.get("api_keys", key_id)["key"]

    def set_usage(self, org, month, traces=0, spans=0, evals=0, projects=None):
        """`month`: "2026-03" or None for this one; `projects`: ID to (traces, spans, evals)."""
        month = month or this_month()
        names = ("traceCount", "spanCount", "evalRunCount")
        with self.lock:
            if projects is None:
                first = next((row["id"] for row in list(self.store.find("projects", org))), None)
                projects = {first: (int(traces), int(spans), int(evals))} if first else {}
            row = {"id": org + " " + month, "counts": dict(zip(names, (traces, spans, evals))),
                   "projects": {key: dict(zip(names, value)) for key, value in projects.items()}}
            self.store.remove("usage", row["id"])
            self.store.add("usage", row, org)

    def set_plan(self, org, plan):
        with self.lock:
            self.store.put("organizations", dict(self.store.get("organizations", org), plan=plan))

    # sessions, from outside

    def tokens(self, email="owner@example.com"):
        """The fields of session.json for a new session."""
        with self.transaction():
            account = next(a for a in list(self.store.find("accounts")) if a["email"] == email)
            answer = self.sessions.open(account)
        return {"access_token": answer["access_token"], "refresh_token": answer["refresh_token"],
                "expires_at": answer["expires_at"], "user_id": account["id"],
                "user_email": email, "project_ref": PROJECT_REF}

    def revoke(self, email):
        """Ends all sessions of an account."""
        with self.transaction():
            for session, _ in list(self.sessions.of(email)):
                self.sessions.close(session)

    def revoke_access(self, email):
        """Kills the access tokens of an account; its refresh tokens still work."""
        self.change_access(email, dead=True)

    def expire(self, email):
        """Makes the access tokens of an account expired."""
        self.change_access(email, expires=int(time.time()) - 1)

    def change_access(self, email, **fields):
        with self.transaction():
            for _, tokens in list(self.sessions.of(email)):
                for token in tokens:
                    if token["kind"] == "access":
                        self.store.put("tokens", dict(token, **fields))

    # observation and faults

    def count(self, fragment=""):
        with self.lock:
            return sum(fragment in request.path for request in self.requests)

    def clear(self):
        """Forgets the requests and faults so far."""
        with self.lock:
            del self.requests[:]
            for fault in self.faults:
                fault.release.set()
            del self.faults[:]
            self.connections = 0

    def rows(self, table):
        with self.lock:
            return self.store.plain(table)

    def fault(self, path_fragment="", times=1, **what):
        """Orders a fault for the next `times` requests of a path (None: for ever); see Fault."""
        fault = Fault(path_fragment, times, **what)
        with self.lock:
            self.faults.append(fault)
        return fault


def fixed_id(letter, number):
    return "%s0000000-0000-4000-8000-%012d" % (letter, number)


def rest_trace(trace):
    counts = trace.pop("_count")
    trace.update(spanCount=counts["spans"], scoreCount=counts["scores"])
    return to_plain(trace)


def is_event(event):
    return (isinstance(event, dict) and event.get("type") in ("trace-create", "span-create")
            and isinstance(event.get("body"), dict) and isinstance(event.get("id"), str))
