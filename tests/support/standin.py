"""A 2Signal server to test against: HTTP over sqlite3, with the standard library alone.

    with StandIn() as server:
        server.url, server.org, server.project, server.traces      # its address and sample data
        server.fault("trace.list", status=500)                     # the next such request fails
        server.count("trace.list")                                 # the number of such requests

It implements the wire protocol: tRPC with superjson, batches, session cookies and roles; REST
with accounts and with API keys; and the errors of tRPC and zod. The parts:

    listener, messages, faults      HTTP: connections, requests and responses, ordered faults
    trpc, procedures, zod           the tRPC API, its procedures, and the validation of their input
    rest                            the REST API
    ingestion                       the traces in REST requests, and the worker that stores them
    sessions, world                 tokens and cookies; the data and who may access it
    factory, sample                 test data on request; the sample data of every server
    superjson                       the encoding of values
"""
import contextlib
import sqlite3
import time
import traceback

import sample
from factory import Factory
from faults import Fault
from ingestion import Worker
from listener import HttpServer
from messages import TRPC_PREFIX, Refusal, Response, rest_error
from procedures import PROCEDURES
from rest import LIMITED, Rest
from sessions import PROJECT_REF, Sessions, session_cookies
from superjson import UNDEFINED, Big, Date, Decimal, Map, Set, parse_time, stamp, this_month
from trpc import Trpc
from world import TABLES, Store, World

__all__ = ["DIALECTS", "OPTIONS", "PROCEDURES", "PROJECT_REF", "TABLES", "UNDEFINED", "Big", "Date",
           "Decimal", "Fault", "Map", "Refusal", "Set", "StandIn", "Store", "parse_time", "stamp",
           "this_month"]

OPTIONS = dict(             # the default of each option of StandIn, which describes them
    data=":memory:", port=0, tls=None, empty=False, created="now", date=0,
    names="new", errors=11, zod=3, batching=True, bare_errors=False, require_project=False,
    page_key="traces", bare_list=False, list_scores=False, counts="number", costs="number",
    known_filters=("status", "name", "search", "tags", "startDate", "endDate"),
    nested_users=False, seats=False, rest_envelope=False, rejects=None,
    rate_limit=None, limit_headers=(("Retry-After", "1"),), ingest_delay=0, batch_limit=1000,
    body_limit=5 * 10 ** 6, strict=True, refresh_delay=0.0,
    project_ref=True, padding=0, library_margin=None, base64_cookies=False)
DIALECTS = {                # the options of a current server, and of an older one
    "new": dict(names="new", errors=11, zod=4, list_scores=True),
    "old": dict(names="old", errors=10, zod=3, batching=False, bare_errors=True, page_key="items",
                counts="bigint", costs="decimal", require_project=True, nested_users=True,
                rest_envelope=True)}


class StandIn(HttpServer, Factory):
    """A 2Signal server on 127.0.0.1. Its options, which are attributes, too:

    The server
        data: the file of the database, if it should outlive the server
        port: the port (0: a free one)
        tls: a certificate file and a key file, as a pair
        empty: omit the sample traces, evaluators, datasets and keys
        created: the time of the newest sample trace
        date: the seconds that the Date header is off, its text, or None to send none

    tRPC
        names: "new" procedure names, "old" ones or "both"
        errors: the messages of tRPC 11 or 10 for an unknown procedure
        zod: the messages of zod 3 or 4 for invalid input
        batching: whether batches are enabled
        bare_errors: errors without the `json` level
        require_project: every procedure with a `projectId` requires it
        page_key: the key of the traces in a page: "traces" or "items"
        bare_list: a page of traces is a list, without a cursor
        list_scores: a page of traces includes their scores
        counts: counts are "number" or "bigint"
        costs: costs are "number" or "decimal"
        nested_users: the email of a member is in its `user`
        seats: members beyond the seats of the plan are refused
        known_filters: the filters of traces that the server does not ignore

        rejects: a function of the input of a dataset item; a text that it returns is a problem
            for which the item is refused

    Limits
        rate_limit: a pair of numbers: after so many tRPC mutations and requests of traces, scores
            and models that were served, so many are refused with status 429
        limit_headers: the headers of these refusals, as pairs
        ingest_delay: how many listings lack what was ingested; math.inf: there is no worker
        batch_limit: events in a batch
        body_limit: bytes in the body of a batch or of OTLP

    REST and sessions
        rest_envelope: the responses to API keys are wrapped in {"data": …, "error": null}
        strict: a refresh token that is used again revokes its session
        refresh_delay: the duration of a refresh, in seconds
        project_ref: a login returns `project_ref`
        padding: additional characters in an access token
        library_margin: refresh a session that a cookie holds if it has fewer seconds left, and
            return it as a cookie, as @supabase/ssr does
        base64_cookies: such cookies are encoded as in its newer versions

    The attributes traces, evaluators, datasets and keys are the IDs in the sample data, `key` is
    its API key, `hidden` is a project that only OTHER_OWNER can see.
    """
    OWNER = ("owner@example.com", "owner-pass")
    VIEWER = ("viewer@example.com", "viewer-pass")
    ADMIN = ("admin@example.com", "admin-pass")
    MEMBER = ("member@example.com", "member-pass")
    STRANGER = ("stranger@example.com", "stranger-pass")
    OTHER_OWNER = ("other-owner@example.com", "other-owner-pass")
    ACCOUNTS = (OWNER, VIEWER, ADMIN, MEMBER, STRANGER, OTHER_OWNER)

    def __init__(self, **options):
        super().__init__()
        unknown = set(options) - set(OPTIONS)
        if unknown:
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
        for name, default in OPTIONS.items():
            setattr(self, name, options.get(name, default))

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        self.stop()

    def start(self):
        self.store = Store(self.data)
        try:
            self.world, self.sessions = World(self.store, self), Sessions(self.store, self)
            self.trpc, self.rest, self.worker = Trpc(self), Rest(self), Worker(self)
            self.limited = 0        # requests that the rate limit counted
            self.fill()
            self.listen(self.port, self.tls)
        except (OSError, sqlite3.Error):
            self.store.close()
            raise
        return self

    def stop(self):
        if not self.stopping.is_set():
            self.shut_down()
            self.store.database.commit()
            self.store.close()

    def fill(self):
        """Adds the sample data, unless the file has data already."""
        self.org, self.project, self.hidden = sample.ORG, sample.PROJECT, sample.HIDDEN_PROJECT
        created = stamp(time.time() if self.created == "now" else self.created)
        with self.lock:
            if not self.store.get("organizations", self.org):
                sample.add_base(self, created)
                if not self.empty:
                    sample.add_traces(self, created)
                    sample.add_resources(self)
            self.store.database.commit()
            self.traces = self.ids("traces", newest=True)
            self.evaluators, self.datasets = self.ids("evaluators"), self.ids("datasets")
            self.keys = self.ids("api_keys")
        self.key = self.secret(self.keys[0]) if self.keys else None

    def ids(self, table, newest=False):
        return [row["id"] for row in self.store.find(table, self.project, newest)]

    def rows(self, table):
        """All rows of a table, as plain JSON."""
        with self.lock:
            return self.store.plain(table)

    @contextlib.contextmanager
    def transaction(self):
        """Only one thread at a time is in this block; an error undoes its changes."""
        with self.lock:
            self.store.database.commit()
            try:
                yield
            except Refusal:
                self.store.database.commit()    # reusing a refresh token revokes the session
                raise
            except BaseException:
                self.store.database.rollback()
                raise
            self.store.database.commit()

    def answer(self, request):
        """The regular response to a request, once its changes are made."""
        api = self.trpc if request.path.startswith(TRPC_PREFIX) else self.rest
        try:
            cookies = self.renew(request) if api is self.trpc else []
            response = self.respond(api, request)
            response.headers.update({"Set-Cookie": cookies} if cookies else {})
            return response
        except Exception:
            self.failures.append(traceback.format_exc())
            return self.refuse(request, Refusal("INTERNAL_SERVER_ERROR", "Internal server error"))

    def renew(self, request):
        """The cookies of the session in the request's cookie, if it had to be refreshed; or []."""
        with self.transaction():
            fresh = self.sessions.renewed(request.cookie)
        if not fresh:
            return []
        cookies = session_cookies(fresh, self.base64_cookies)
        request.cookie = "; ".join(cookies)
        return [f"{cookie}; Path=/; Max-Age=34560000; SameSite=Lax" for cookie in cookies]

    def respond(self, api, request):
        try:
            self.check_rate(request)
            return api.respond(request)
        except Refusal as refusal:
            return self.refuse(request, refusal)

    def check_rate(self, request):
        is_call = request.path.startswith(TRPC_PREFIX)
        is_counted = request.method == "POST" if is_call else request.path in LIMITED
        if not self.rate_limit or not is_counted:
            return
        served, refused = self.rate_limit
        with self.lock:
            place = self.limited % (served + refused)
            self.limited += 1
        if place >= served:
            raise Refusal("TOO_MANY_REQUESTS" if is_call else "RATE_LIMITED",
                          "Rate limit exceeded", 429, dict(self.limit_headers))

    def refuse(self, request, refusal):
        if request.path.startswith(TRPC_PREFIX):
            body = self.trpc.error(refusal, ",".join(request.procedures))
        else:
            body = rest_error(refusal)
        return Response(refusal.status, body, refusal.headers)
