"""The data of the stand-in server: rows in sqlite3, and the rules of access to them."""
import collections
import gc
import json
import math
import secrets
import sqlite3
import sys
import time
import uuid

from messages import Refusal
from superjson import UNDEFINED, Big, Date, Decimal, dump, load, stamp, this_month

TABLES = ("accounts", "organizations", "members", "projects", "traces", "spans", "scores",
          "evaluators", "datasets", "items", "api_keys", "usage", "routes", "prompts", "sessions",
          "tokens", "settings")
INDEXED = ("traces", "spans", "scores", "items", "members")
COUNTERS = ("traceCount", "spanCount", "evalRunCount")
IN_PROJECTS = {             # what a project has, and what each of these has
    "traces": ("spans", "scores"), "evaluators": (), "datasets": ("items",), "api_keys": (),
    "routes": (), "prompts": ()}
Plan = collections.namedtuple("Plan", "seats requests")     # requests per second
PLANS = {"FREE": Plan(1, 100), "PRO": Plan(3, 1000), "GROWTH": Plan(math.inf, 1000),
         "TEAM": Plan(math.inf, 1000), "ENTERPRISE": Plan(math.inf, 1000)}
DEFAULT_PAGE = 50           # traces, if the request has no limit


def bindable(text):
    """The text as sqlite3 accepts it; one with a lone surrogate becomes an ID that no row has."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


class Store:
    """Tables of rows. A row is a dict with an `id`, stored as its superjson envelope."""

    def __init__(self, path):
        self.path = path
        self.database = sqlite3.connect(path, check_same_thread=False)
        try:
            self.create_tables()
        except sqlite3.Error:
            self.close()
            raise

    def close(self):
        if sys.implementation.name == "pypy":
            # It frees cursors late, and crashes if their connection is gone.
            if self.path == ":memory:":
                return          # the connection is freed after its cursors
            gc.collect()
        self.database.close()

    def create_tables(self):
        self.database.execute("PRAGMA synchronous = OFF")
        for table in TABLES:
            self.database.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (number INTEGER PRIMARY KEY AUTOINCREMENT, "
                "id TEXT UNIQUE, parent TEXT, created TEXT, row TEXT)")
        for table in INDEXED:
            self.database.execute(
                f"CREATE INDEX IF NOT EXISTS {table}_of ON {table} (parent, created)")
        self.database.commit()

    def add(self, table, row, parent=None):
        """Adds a row below its parent, such as a trace below the ID of its project."""
        created = str(row.get("createdAt") or "")
        self.database.execute(
            f"INSERT INTO {table} (id, parent, created, row) VALUES (?, ?, ?, ?)",
            (row["id"], parent, created, json.dumps(dump(row))))
        return row["id"]

    def put(self, table, row):
        """Replaces the row with the same ID."""
        self.database.execute(f"UPDATE {table} SET row = ? WHERE id = ?",
                              (json.dumps(dump(row)), row["id"]))

    def get(self, table, id):
        """The row, or None."""
        found = self._column("row", table, id)
        return load(json.loads(found)) if found else None

    def parent(self, table, id):
        """The ID of the row's parent, or None."""
        return self._column("parent", table, id)

    def _column(self, column, table, id):
        found = self.database.execute(f"SELECT {column} FROM {table} WHERE id = ?",
                                      (bindable(id),)).fetchone()
        return found[0] if found else None

    def find(self, table, parent=None, newest=False, after=None):
        """Iterates over the rows (of one parent) in the order of insertion.

        newest: sort by creation time instead, newest first. after: skip everything up to and
        including the row with this ID, in that order.
        """
        query, values = f"SELECT row FROM {table}", []
        if parent is not None:
            query += " WHERE parent = ?"
            values.append(bindable(parent))
        if after is not None:
            last = self.database.execute(f"SELECT created, number FROM {table} WHERE id = ?",
                                         (bindable(after),)).fetchone()
            query += " AND created <= ? AND (created < ? OR number < ?)"
            values += [last[0], last[0], last[1]]
        query += " ORDER BY created DESC, number DESC" if newest else " ORDER BY number"
        for (text,) in self.database.execute(query, values):
            yield load(json.loads(text))

    def count(self, table, parent):
        return self.database.execute(f"SELECT count(*) FROM {table} WHERE parent = ?",
                                     (parent,)).fetchone()[0]

    def remove(self, table, id):
        self.database.execute(f"DELETE FROM {table} WHERE id = ?", (id,))

    def remove_all(self, table, parent):
        self.database.execute(f"DELETE FROM {table} WHERE parent = ?", (parent,))

    def plain(self, table):
        """All rows of a table as plain JSON, without superjson's types."""
        rows = self.database.execute(f"SELECT row FROM {table} ORDER BY number").fetchall()
        return [json.loads(text)["json"] for (text,) in rows]


class World:
    """Reads and changes the rows as an account may; `options` are those of the server.

    What an account may not see is refused as NOT_FOUND, what it may only not change as FORBIDDEN.
    """

    def __init__(self, store, options):
        self.store, self.options = store, options

    def now(self):
        return stamp(time.time())

    # Rows

    def insert(self, table, parent, fields, updated=True):
        """Adds a row, with an ID and times unless `fields` has them; returns its ID.

        updated: whether rows of this table have `updatedAt`.
        """
        row = {"id": str(uuid.uuid4())}
        row.update(fields)
        row.setdefault("createdAt", self.now())
        if updated:
            row.setdefault("updatedAt", Date(row["createdAt"]))
        return self.store.add(table, row, parent)

    def create(self, table, parent, fields, updated=True):
        """The same, but returns the row as it will be read from now on."""
        return self.store.get(table, self.insert(table, parent, fields, updated))

    def change(self, table, row, fields):
        row.update(fields)
        if "updatedAt" in row:
            row["updatedAt"] = self.now()
        self.store.put(table, row)
        return self.store.get(table, row["id"])

    def create_key(self, creator, project, name, **fields):
        """An API key of a project; the row includes the secret as `key`."""
        key = "ts_" + secrets.token_hex(24)
        row = {"projectId": project, "name": name, "keyPrefix": key[:10], "createdBy": creator,
               "revokedAt": None, "lastUsedAt": None, "key": key}
        return self.create("api_keys", project, dict(row, **fields), updated=False)

    def remove_project(self, project):
        """Removes a project with all that is in it."""
        for table, inner in IN_PROJECTS.items():
            for row in list(self.store.find(table, project)):
                for each in inner:
                    self.store.remove_all(each, row["id"])
            self.store.remove_all(table, project)
        self.store.remove("projects", project)

    def plan(self, org):
        """The Plan of an organization; one that the product does not have is unlimited."""
        return PLANS.get(self.store.get("organizations", org)["plan"], PLANS["ENTERPRISE"])

    # Access

    def role(self, account, org):
        """The role of an account in an organization, or None."""
        for member in self.store.find("members", org):
            if member["userId"] == account["id"]:
                return member["role"]
        return None

    def see_org(self, account, org, *roles):
        """The organization; if `roles` are given, the account must have one of them."""
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

    def see(self, table, title, account, values, *roles, key="id"):
        """The row of a project that `values[key]` identifies; `title` names it in an error."""
        row = self.store.get(table, values[key])
        if "projectId" in values:
            self.see_project(account, values["projectId"], *roles)
        if not row or values.get("projectId", row["projectId"]) != row["projectId"]:
            raise Refusal("NOT_FOUND", title + " not found")
        try:
            self.see_project(account, row["projectId"], *roles)
        except Refusal as refusal:
            if refusal.code != "NOT_FOUND":
                raise
            raise Refusal("NOT_FOUND", title + " not found")
        return row

    # Traces

    def page(self, project, filters):
        """A page of a project's traces, and the cursor of the next page or None."""
        self.options.worker.before_listing()
        cursor, limit = filters.get("cursor") or None, filters.get("limit", DEFAULT_PAGE)
        if cursor and self.store.parent("traces", cursor) != project:
            raise Refusal("BAD_REQUEST", "Invalid cursor")
        rows = []
        for row in self.store.find("traces", project, newest=True, after=cursor):
            if not self.matches(row, filters):
                continue
            if len(rows) == limit:
                return rows, rows[-1]["id"]
            rows.append(row)
        return rows, None

    def matches(self, trace, filters):
        known = self.options.known_filters
        active = {key: value for key, value in filters.items() if key in known and value}
        name = (trace["name"] or "").lower()
        texts = [active[key].lower() for key in ("name", "search") if key in active]
        started = str(trace["startTime"])
        return (active.get("status", trace["status"]) == trace["status"]
                and all(text in name for text in texts)
                and set(active.get("tags", ())) <= set(trace["tags"])
                and ("startDate" not in active or started >= stamp(str(active["startDate"])))
                and ("endDate" not in active or started <= stamp(str(active["endDate"]))))

    def summary(self, trace, scores=False):
        """A trace as a list shows it: with counts, and on some servers with scores."""
        trace["totalCost"] = self.cost(trace["totalCost"])
        trace["totalTokens"] = self.number(trace["totalTokens"])
        trace["_count"] = {"spans": self.number(self.store.count("spans", trace["id"])),
                           "scores": self.number(self.store.count("scores", trace["id"]))}
        if scores:
            trace["scores"] = list(self.store.find("scores", trace["id"]))
        return trace

    def detail(self, trace):
        """A trace with its spans and scores.

        A value that a row shares with the trace becomes the same object, as on recorded servers;
        superjson lists these in its meta.
        """
        shown = self.summary(trace)
        shown["spans"] = [self.span(row) for row in self.store.find("spans", trace["id"])]
        shown["scores"] = list(self.store.find("scores", trace["id"]))
        for row in shown["spans"] + shown["scores"]:
            for key in ("startTime", "endTime", "createdAt", "totalTokens"):
                value = shown.get(key)
                if isinstance(value, (Date, Big)) and row.get(key) == value \
                        and type(row.get(key)) is type(value):
                    row[key] = value
        return shown

    def span(self, row):
        row["cost"] = self.cost(row.get("cost"))
        for key in ("promptTokens", "completionTokens", "totalTokens"):
            row[key] = self.number(row.get(key))
        return row

    # Numbers

    def cost(self, value):
        if value is None or value is UNDEFINED or self.options.costs != "decimal":
            return value
        return Decimal(value if isinstance(value, str) else repr(value))

    def number(self, value):
        known = isinstance(value, int) and not isinstance(value, bool)
        return Big(value) if known and self.options.counts == "bigint" else value

    def usage(self, org, month):
        """The three counters of a month: those of the organization, and those of its projects."""
        row = self.store.get("usage", f"{org} {month}")
        if not row:
            return dict.fromkeys(COUNTERS, self.number(0)), {}
        projects = {project: self.numbers(counts) for project, counts in row["projects"].items()}
        return self.numbers(row["counts"]), projects

    def usage_history(self, org, months):
        """The counters of the last months, oldest first."""
        history = []
        for back in reversed(range(months)):
            month = this_month(-back)
            counts, _ = self.usage(org, month)
            if self.options.counts != "bigint":     # a bigint only in the current month's answer
                counts = {key: int(value) for key, value in counts.items()}
            history.append(dict(counts, month=month))
        return history

    def numbers(self, counts):
        return {key: self.number(value) for key, value in counts.items()}
