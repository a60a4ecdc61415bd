"""Choosing traces, all of them, forms of output, API keys in place of a session, names for IDs."""
import csv
import datetime
import io
import json
import os
import re
import sys
import unittest
from unittest import mock

import standin
import tools
import twosignal
from tools import ServerCase, full, procedure_inputs, requests_of

DIALECTS = tuple(standin.DIALECTS.items())
OLD, NEW = standin.DIALECTS["old"], standin.DIALECTS["new"]
FILTERS = ("status", "name", "search", "tags", "startDate", "endDate")
NO_ACCOUNT = {"HOME": None, "USERPROFILE": None, "TWOSIGNAL_HOME": None}
MORE = "Showing %d traces; more exist. Use --limit N or --all."


def minutes_ago(minutes):
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=minutes)


def iso_of(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class ChoiceCase(ServerCase):
    """A logged-in account and a project without traces."""

    options = {"empty": True}

    def setUp(self):
        super().setUp()
        self.log_in()
        patch = mock.patch.object(twosignal, "PAUSE", 0.0001)
        patch.start()
        self.addCleanup(patch.stop)

    def use(self, **options):
        """Take another server in place of the one of the test."""
        self.server.stop()
        self.server = self.serve(**dict(self.options, **options))
        self.log_in()

    def key(self):
        return {"TWOSIGNAL_API_KEY": self.server.secret(self.server.add_key())}

    def add(self, count, **fields):
        """Traces a minute apart, named by their place, newest first."""
        return [self.server.add_trace(name="trace %d" % place, created=minutes_ago(place),
                                      **fields) for place in range(count)]

    def list(self, *args, **kwargs):
        project = () if "TWOSIGNAL_API_KEY" in (kwargs.get("env") or {}) \
            else ("--project", self.server.project)
        return self.cli("traces", "list", *(project + args), **kwargs)

    def names(self, *args, **kwargs):
        result = self.assertOk(self.list("--fields", "name", "--json", *args, **kwargs))
        return [row["name"] for row in result.json]


############################################################
# Filters
############################################################

class Row:
    """A trace of the little world that the filters are tried on."""

    def __init__(self, name, minutes, status="OK", duration=1000, cost=0.01, tags=()):
        self.name, self.minutes, self.status = name, minutes, status
        self.duration, self.cost, self.tags = duration, cost, set(tags)


WORLD = (
    Row("Checkout agent", 1, cost=None),
    Row("checkout", 5, "ERROR", 500, 0.05, ["production"]),
    Row("refund 支払い", 20, "OK", 5000, 0.05, ["production", "v2"]),
    Row("refund", 29, "ERROR", None, 0.0499, ["v2", "a,b"]),
    Row("Émile's CHECKOUT", 31, "OK", 499, 0, ["produktion"]),
    Row("slow", 59, "ERROR", 61000, 1.5, ["v2", "production", "x y"]),
    Row("100% _", 61, "OK", 0, 0.05, ["V2"]),
    Row("yesterday", 1500, "OK", 5001, 0.05, ["production"]),
    Row("last week", 10000, "ERROR", 4999, 0.04, []),
    Row("last month", 40000, "OK", 120000, 2, ["v2"]),
)
CHOICES = (                 # options, and which rows of WORLD they ask for
    ("--status OK", lambda row: row.status == "OK"),
    ("--status error", lambda row: row.status == "ERROR"),
    ("--error", lambda row: row.status == "ERROR"),
    ("--error --status ERROR", lambda row: row.status == "ERROR"),
    ("--search checkout", lambda row: "checkout" in row.name.lower()),
    ("--search CHECKOUT", lambda row: "checkout" in row.name.lower()),
    ("--search 支払", lambda row: "支払" in row.name),
    ("--search %", lambda row: "%" in row.name),
    ("--search _", lambda row: "_" in row.name),
    ("--search nowhere", lambda row: False),
    ("--tag production", lambda row: "production" in row.tags),
    ("--tag v2", lambda row: "v2" in row.tags),
    ("--tag v2 --tag production", lambda row: row.tags >= {"v2", "production"}),
    ("--tag a,b", lambda row: "a,b" in row.tags),
    ("--tag a,b --tag v2", lambda row: "a,b" in row.tags),
    ("--tag a", lambda row: False),
    ("--tag nowhere --tag v2", lambda row: False),
    ("--since 30m", lambda row: row.minutes < 30),
    ("--since 1h", lambda row: row.minutes < 60),
    ("--since 3600s", lambda row: row.minutes < 60),
    ("--since 24h", lambda row: row.minutes < 1440),
    ("--since 7d", lambda row: row.minutes < 10080),
    ("--since 1w", lambda row: row.minutes < 10080),
    ("--until 30m", lambda row: row.minutes > 30),
    ("--until 7d", lambda row: row.minutes > 10080),
    ("--since 24h --until 30m", lambda row: 30 < row.minutes < 1440),
    ("--since 30m --since 1h", lambda row: row.minutes < 60),
    ("--min-duration 500ms", lambda row: (row.duration or 0) >= 500),
    ("--min-duration 5s", lambda row: (row.duration or 0) >= 5000),
    ("--min-duration 0.5s", lambda row: (row.duration or 0) >= 500),
    ("--min-duration 1m", lambda row: (row.duration or 0) >= 60000),
    ("--min-duration 0ms", lambda row: row.duration is not None),
    ("--max-duration 5s", lambda row: row.duration is not None and row.duration <= 5000),
    ("--min-duration 500ms --max-duration 5s", lambda row: 500 <= (row.duration or 0) <= 5000),
    ("--min-cost 0.05", lambda row: (row.cost or 0) >= 0.05),
    ("--min-cost $0.05", lambda row: (row.cost or 0) >= 0.05),
    ("--min-cost 0", lambda row: row.cost is not None),
    ("--error --tag v2 --since 1h --min-duration 1s",
     lambda row: row.status == "ERROR" and "v2" in row.tags and row.minutes < 60
     and (row.duration or 0) >= 1000),
    ("--search refund --min-cost 0.05 --status OK --until 10m",
     lambda row: "refund" in row.name and (row.cost or 0) >= 0.05 and row.status == "OK"),
)


def fill_world(server):
    for row in WORLD:
        server.add_trace(name=row.name, status=row.status, duration_ms=row.duration,
                         cost=row.cost, tags=sorted(row.tags), created=minutes_ago(row.minutes))


class Filters(ChoiceCase):
    def assert_choices(self, env=None, choices=CHOICES, **told):
        for given, wanted in choices:
            with self.subTest(given=given, **told):
                self.assertEqual(self.names(*given.split(), env=env),
                                 [row.name for row in WORLD if wanted(row)])

    def test_values_of_no_use(self):
        """Traces without a name, tags or times, and a status in small letters."""
        self.use(known_filters=())
        rows = [{"id": "1", "name": None, "tags": "production", "status": "error"},
                {"id": "2", "name": 5, "tags": 5}]
        body = {"result": {"data": {"json": {"traces": rows}}}}
        self.server.fault("trace.list", times=None, status=200, body=body)
        for given, ids in (("--search none", []), ("--search 5", ["2"]), ("--tag production", []),
                           ("--since 1h", []), ("--until 2020-01-01", []), ("--error", ["1"])):
            with self.subTest(given=given):
                result = self.assertOk(self.list("--json", *given.split()))
                self.assertEqual([row["id"] for row in result.json], ids)

    def test_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            fill_world(self.server)
            self.assert_choices(dialect=dialect)

    def test_with_a_key(self):
        for envelope in (False, True):
            self.use(rest_envelope=envelope)
            fill_world(self.server)
            self.assert_choices(self.key(), envelope=envelope)
            self.assertEqual(self.server.count("/api/trpc/"), 0)

    def test_servers_that_do_not_know_one_of_them(self):
        for unknown in FILTERS + (FILTERS,):
            self.use(known_filters=tuple(name for name in FILTERS if name not in unknown
                                         and name != unknown))
            fill_world(self.server)
            step = 1 if unknown is FILTERS else full(3, 1)
            choices = [choice for choice in CHOICES if relevant(choice[0], unknown)][::step]
            self.assert_choices(unknown=unknown, choices=choices)
            self.assert_choices(self.key(), choices[::full(3, 1)], unknown=unknown, key=True)

    def test_bare_list_of_a_server_that_knows_none(self):
        self.use(bare_list=True, known_filters=())
        fill_world(self.server)
        self.assert_choices(choices=CHOICES[::4])

    def test_the_server_is_asked_for_what_it_may_know(self):
        self.list("--error", "--search", "x", "--tag", "a", "--tag", "b",
                  "--since", "2026-03-14T10:30:00.25+02:00", "--until", "2026-03-15")
        self.assertEqual(procedure_inputs(self.server, "trace.list"), [{
            "projectId": self.server.project, "limit": 20, "status": "ERROR", "search": "x",
            "name": "x", "tags": ["a", "b"], "startDate": "2026-03-14T08:30:00.250Z",
            "endDate": "2026-03-15T00:00:00.000Z"}])

    def test_the_rest_api_is_asked_for_what_it_may_know(self):
        self.list("--status", "ok", "--search", "x & y", "--tag", "a", "--tag", "b", "--tag",
                  "c,d", "--since", "2026-03-14", env=self.key())
        request, = requests_of(self.server, "/api/v1/traces")
        self.assertEqual(request.query, {"limit": "20", "status": "OK", "name": "x & y",
                                         "tags": "a,b", "startDate": "2026-03-14T00:00:00.000Z"})

    def test_check_wait_and_tail_choose_alike(self):
        self.use(known_filters=())
        fill_world(self.server)
        project = ("--project", self.server.project)
        for given, wanted in CHOICES[::5]:
            expected = [row.name for row in WORLD if wanted(row)]
            options = project + tuple(given.split())
            with self.subTest(given=given):
                found = self.cli("traces", "check", "--json", "--max-p95", "9h", *options).json
                self.assertEqual(found["traces"], len(expected))
                found = self.cli("traces", "wait", "--json", "--count", "99", "--timeout", "0.01s",
                                 *options).json
                self.assertEqual(found["found"], len(expected))
                with mock.patch("twosignal._tail", first_look):
                    found = self.cli("traces", "tail", "--format", "jsonl", *options).lines
                self.assertEqual([json.loads(line)["name"] for line in found], expected[::-1])


def relevant(given, unknown):
    """Whether a choice is about a filter that a server does not know."""
    words = {"status": ("--status", "--error"), "name": ("--search",), "search": ("--search",),
             "tags": ("--tag",), "startDate": ("--since",), "endDate": ("--until",)}
    return unknown is FILTERS or any(word in given for word in words[unknown])


def first_look(client, args):
    return iter(twosignal.Tail(client, args).first(100))


class Times(ChoiceCase):
    def test_forms_of_a_time(self):
        base = datetime.datetime(2026, 3, 14, 10, 30, tzinfo=datetime.timezone.utc)
        for place in range(-2, 3):
            self.server.add_trace(name=str(place), created=base + datetime.timedelta(hours=place))
        self.server.add_trace(name="midnight", created=base.replace(hour=0, minute=0))
        for given, expected in (
                ("2026-03-14T10:30:00Z", ["2", "1", "0"]),
                ("2026-03-14T10:30:00.000Z", ["2", "1", "0"]),
                ("2026-03-14T10:30:01Z", ["2", "1"]), ("2026-03-14 10:30:00", ["2", "1", "0"]),
                ("2026-03-14T12:30:00+02:00", ["2", "1", "0"]),
                ("2026-03-14T12:30:00+0200", ["2", "1", "0"]),
                ("2026-03-14T05:00:00-05:30", ["2", "1", "0"]),
                ("2026-03-14T10:30", ["2", "1", "0"]), ("2026-03-14 10:30Z", ["2", "1", "0"]),
                ("2026-03-14T12:30+02:00", ["2", "1", "0"]),
                ("2026-03-14", ["2", "1", "0", "-1", "-2", "midnight"]),
                ("2026-03-15", [])):
            for known in (FILTERS, ()):
                self.server.known_filters = known
                with self.subTest(given=given, known=known):
                    self.assertEqual(self.names("--since", given), expected)
        for known in (FILTERS, ()):
            self.server.known_filters = known
            self.assertEqual(self.names("--until", "2026-03-14T10:30:00Z"),
                             ["0", "-1", "-2", "midnight"])
            self.assertEqual(self.names("--until", "2026-03-14"), ["midnight"])

    def test_milliseconds_are_exact(self):
        for place in (0, 1, 2, 249, 999):
            self.server.add_trace(name=str(place), created="2026-03-14T10:30:00.%03dZ" % place)
        for known in (FILTERS, ()):
            self.server.known_filters = known
            for edge in (1, 2, 249, 999):
                given = "2026-03-14T10:30:00.%03dZ" % edge
                with self.subTest(given=given, known=known):
                    self.assertEqual(self.names("--since", given), [
                        name for name in ("999", "249", "2", "1", "0") if int(name) >= edge])
                    self.assertEqual(self.names("--until", given), [
                        name for name in ("999", "249", "2", "1", "0") if int(name) <= edge])

    def test_far_away_times(self):
        self.server.add_trace(name="now")
        for given in ("99999w", "9999w", "1900-01-01", "1970-01-01", "0001-01-01"):
            with self.subTest(since=given):
                self.assertEqual(self.names("--since", given), ["now"])
            with self.subTest(until=given):
                self.assertEqual(self.names("--until", given), [])
        for given in ("2100-01-01", "9999-12-31"):
            with self.subTest(given=given):
                self.assertEqual(self.names("--since", given), [])
                self.assertEqual(self.names("--until", given), ["now"])

    def test_a_time_beyond_the_calendar_is_all_or_refused(self):
        self.server.add_trace(name="now")
        result = self.list("--since", "999999999w", "--json")
        if result.code:
            self.assertFails(result, 2, "--since")
        else:
            self.assertEqual(len(result.json), 1)

    def test_a_server_without_the_filter_is_not_asked_for_all_the_past(self):
        self.use(known_filters=())
        self.add(10)
        for place in range(500):
            self.server.add_trace(created=minutes_ago(3000 + place))
        self.server.clear()
        self.assertEqual(len(self.names("--since", "1h", "--all")), 10)
        self.assertLessEqual(self.server.count("trace.list"), 3)


BAD = (
    ("--since", "yesterday-ish"), ("--since", "30"), ("--since", "30x"), ("--since", "-30m"),
    ("--since", "1.5h"), ("--since", ""), ("--since", "2026-02-30"), ("--since", "2026-3-4"),
    ("--since", "2026-13-01"), ("--since", "14.03.2026"), ("--since", "2026-03-14T25:00:00Z"),
    ("--since", "2026-03-14T10:30:00+99:00"), ("--since", "٣٠m"), ("--since", "30m ago"),
    ("--since", "99999999999999999999d"), ("--until", "tomorrow"), ("--until", "m"),
    ("--status", "WARN"), ("--status", ""), ("--status", "O K"), ("--status", "OK,ERROR"),
    ("--min-duration", "5"), ("--min-duration", "5 s s"), ("--min-duration", "-5s"),
    ("--min-duration", "s"), ("--min-duration", "nan"), ("--min-duration", "5d"),
    ("--min-duration", "5ms5s"), ("--min-duration", "1e3ms"), ("--max-duration", "long"),
    ("--max-duration", "infs"), ("--min-cost", "free"), ("--min-cost", "-1"),
    ("--min-cost", "nan"), ("--min-cost", "inf"), ("--min-cost", "0.05€"), ("--min-cost", ""),
    ("--min-cost", "1_000"), ("--format", "xml"), ("--format", ""), ("--format", "JSON "),
    ("--fields", ""), ("--fields", ","), ("-o", ""), ("--limit", "all"))


class BadInput(ChoiceCase):
    options = {"empty": True}
    shared = True

    def test_each_is_one_line_without_a_request(self):
        for option, value in BAD:
            with self.subTest(option=option, value=value):
                flag = {"-o": "--output"}.get(option, option)
                self.assertFails(self.list(option, value), 2, flag)
                self.assertEqual(self.server.requests, [])

    def test_the_same_for_all_that_choose(self):
        for command in ("check", "wait", "tail"):
            for option, value in BAD[:32:5]:
                with self.subTest(command=command, option=option, value=value):
                    self.assertFails(self.cli("traces", command, "--project", "x", option, value),
                                     2, option)
        self.assertEqual(self.server.requests, [])

    def test_as_json(self):
        result = self.list("--since", "yesterday-ish", "--json")
        self.assertFails(result, 2, "--since", "yesterday-ish", "7d")
        self.assertEqual(result.error["code"], "USAGE")

    def test_what_cannot_go_together(self):
        for given, parts in (
                ("--error --status OK", ("--error", "--status")),
                ("--since 1h --until 2h", ("--since", "--until")),
                ("--since 2026-03-15 --until 2026-03-14", ("--since", "--until")),
                ("--since 2026-03-15 --until 2026-03-15", ("--since", "--until")),
                ("--all --limit 5", ("--all", "--limit"))):
            with self.subTest(given=given):
                self.assertFails(self.list(*given.split()), 2, *parts)
        self.assertEqual(self.server.requests, [])

    def test_hostile_values_are_shown_harmlessly(self):
        for value in ("\x1b[31m", "\u202e", "a\nError: b"):
            with self.subTest(value=value):
                result = self.assertFails(self.list("--since", value), 2)
                self.assertNotIn(value, result.err)
                self.assertEqual(len(result.err.splitlines()), 1)


############################################################
# Pages
############################################################

class Pages(ChoiceCase):
    def looked(self, result):
        return [line for line in result.err.splitlines() if "looked at" in line]

    def sizes(self):
        return [given["limit"] for given in procedure_inputs(self.server, "trace.list")]

    def add_some_slow(self, count, every):
        """Traces of which one in `every` took a minute; the names of those, newest first."""
        with self.server.transaction():
            for place in range(count):
                slow = place % every == every - 1
                self.server.add_trace(name="trace %d" % place, created=minutes_ago(place),
                                      duration_ms=60000 if slow else 100)
        self.server.clear()
        return ["trace %d" % place for place in range(every - 1, count, every)]

    def test_local_filters_over_pages(self):
        slow = self.add_some_slow(250, 50)
        for limit, requests in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (1000, 3)):
            self.server.clear()
            with self.subTest(limit=limit):
                self.assertEqual(self.names("--min-duration", "5s", "--limit", limit),
                                 slow[:limit])
                self.assertEqual(self.server.count("trace.list"), requests)
        self.assertEqual(self.names("--min-duration", "5s", "--all"), slow)

    def test_how_many_were_looked_at(self):
        self.add_some_slow(250, 50)
        result = self.assertOk(self.list("--min-duration", "5s", "--all"))
        self.assertEqual(result.err, "5 of the 250 traces looked at match.\n")
        result = self.assertOk(self.list("--min-duration", "1h", "--all"))
        self.assertEqual(result.out, "No traces found.\n")
        self.assertIn("0 of the 250", result.err)
        self.assertOk(self.list("--max-duration", "1h", "--all"),
                      err="250 of the 250 traces looked at match.\n")
        self.assertOk(self.list("--status", "OK", "--all"), err="")

    def test_how_many_were_looked_at_until_the_limit(self):
        self.add_some_slow(250, 50)
        result = self.assertOk(self.list("--min-duration", "5s", "--limit", "3"))
        self.assertIn("Showing 3 traces; more", result.err)
        self.assertIn("looked at", result.err)
        self.assertIn("200", result.err)

    def test_servers_that_ignore_a_filter_are_told_too(self):
        self.use(known_filters=())
        for place in range(250):
            self.server.add_trace(status="ERROR" if place == 120 else "OK")
        result = self.assertOk(self.list("--error", "--json"))
        self.assertEqual(len(result.json), 1)
        self.assertEqual(result.err, "1 of the 250 traces looked at match.\n")

    def test_quiet(self):
        self.add_some_slow(200, 90)
        self.assertOk(self.list("--min-duration", "5s", "-q", "--limit", "1"), err="")

    def test_all_in_both_dialects_and_with_a_key(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.add(230)
            expected = ["trace %d" % place for place in range(230)]
            for env in (None, self.key()):
                with self.subTest(dialect=dialect, key=bool(env)):
                    self.assertEqual(self.names("--all", env=env), expected)
                    self.assertEqual(self.names("-n", "101", env=env), expected[:101])

    def test_one_connection_for_all_pages(self):
        self.add(230)
        self.server.connections = 0
        self.assertEqual(len(self.names("--all")), 230)
        self.assertEqual((self.server.connections, self.server.count("trace.list")), (1, 3))
        self.server.connections = 0
        self.assertEqual(len(self.names("--all", env=self.key())), 230)
        self.assertEqual(self.server.connections, 1)
        self.server.connections = 0
        self.cli("traces", "list", "--project", "Support Agent", "--all", "--json",
                 "--min-duration", "1ms")
        self.assertEqual(self.server.connections, 1)

    def test_scores_need_no_further_connection(self):
        self.add(120, scores=[{"evaluatorName": "tone", "value": 0.5}])
        self.server.connections = 0
        result = self.assertOk(self.list("--all", "--json"))
        self.assertEqual({len(row["scores"]) for row in result.json}, {1})
        self.assertEqual(self.server.connections, 1)

    def test_pages_are_printed_as_they_are_fetched(self):
        ids = self.add(250)
        seen, write = [], twosignal.Console.print

        def noted(console, text):
            seen.append((self.server.count("trace.list"), text))
            return write(console, text)

        for form in ("table", "json", "jsonl", "csv", "tsv"):
            del seen[:]
            self.server.clear()
            with mock.patch.object(twosignal.Console, "print", noted):
                self.assertOk(self.list("--all", "--format", form))
            first = next(count for count, text in seen if ids[0] in text)
            last = next(count for count, text in seen if ids[249] in text)
            self.assertEqual((first <= 2, last), (True, 3), form)

    def test_a_page_that_fails_half_way(self):
        self.add(250)
        for form in ("jsonl", "json", "csv", "table"):
            self.server.clear()
            with self.subTest(form=form), fails_from(self.server, 2, status=403):
                result = self.list("--all", "--format", form)
                self.assertEqual(result.code, 5, result)
                self.assertNotIn("Traceback", result.err)
                self.assertNotIn("looked at", result.err)

    def test_pages_by_number_while_traces_arrive(self):
        """Where the cursor is a number, what arrives pushes traces onto the next page again."""
        traces = ["trace %d" % place for place in range(250)]
        pages = []
        for place in (0, 100, 200):
            start = max(0, place - 30)      # 30 arrived since the first page
            rows = [{"id": name, "name": name} for name in traces[start:start + 100]]
            pages.append({"traces": rows, "nextCursor": place + 100 if place < 200 else None})
        for page in pages:
            self.server.fault("trace.list", times=1, status=200,
                              body={"result": {"data": {"json": page}}})
        self.assertEqual(self.names("--all"), traces)

    def test_traces_that_arrive_between_two_pages_are_no_trouble(self):
        self.add(250)
        page = self.server.world.page

        def moving(project, given):
            found = page(project, given)
            self.server.add_trace(name="new")
            return found

        with mock.patch.object(self.server.world, "page", moving):
            self.assertEqual(self.names("--all"), ["trace %d" % place for place in range(250)])

    def test_progress_never_touches_a_row(self):
        """It is wiped before a row is printed, and the cursor is at the start of a line then."""
        self.add(250)
        for form in ("table", "json", "jsonl", "csv"):
            shown = []
            real, write = twosignal.Console._line, twosignal.encodable
            with mock.patch.object(twosignal.Console, "progress", lambda console, text, since:
                                   console._line(text)), mock.patch.object(
                    twosignal.Console, "_line", lambda console, text: (
                        shown.append(text), real(console, text))), mock.patch(
                    "twosignal.encodable", lambda text, encoding: (
                        shown.append(("row", text)), write(text, encoding))[1]):
                result = self.assertOk(self.list("--all", "--format", form, tty=True))
            with self.subTest(form=form):
                places = [at for at, told in enumerate(shown) if told == "100 traces"
                          or told == "200 traces"]
                self.assertEqual(len(places), 2)
                for at in places:
                    self.assertTrue(shown[at - 1][1].endswith("\n"), shown[at - 1])
                    self.assertEqual(shown[at + 1], "", "a row was printed behind the progress")
                self.assertTrue(form != "json" or len(result.json) == 250)

    def test_progress_fits_a_narrow_terminal(self):
        """What wraps could not be wiped."""
        self.add(110)
        with mock.patch.object(twosignal.Console, "progress", lambda console, text, since:
                               console._line(text)), mock.patch(
                "twosignal._columns_of", lambda terminal: 8):
            result = self.assertOk(self.list("--all", tty=True))
        self.assertTrue(result.err.startswith("\r100 tr…\r"), result.err)

    def test_progress_on_a_terminal(self):
        self.add(110)
        true, path = twosignal.Console.progress, self.path("out")
        for given, tty, seconds, shown in (
                (("-o", path), True, 3600, True), ((), True, 3600, True),
                (("-o", path), False, 3600, False), (("-o", path, "-q"), True, 3600, False),
                (("-o", path), True, -3600, False)):
            def progress(console, text, since):
                return true(console, text, since - seconds)

            with self.subTest(given=given, tty=tty, seconds=seconds), mock.patch.object(
                    twosignal.Console, "progress", progress):
                result = self.assertOk(self.list("--all", *given, tty=tty))
                self.assertEqual("100 traces" in result.err, shown)
                if shown:       # nothing of it is left in the line
                    self.assertEqual(result.err.replace("\n", "\r").split("\r")[-1].strip(), "")


class fails_from:
    """Within the block the server fails from its n-th page of traces on, as told."""

    def __init__(self, server, number, **what):
        self.server, self.left, self.what = server, number, what

    def __enter__(self):
        self.take = self.server.take_fault
        self.server.take_fault = self.taken

    def __exit__(self, *exception):
        self.server.take_fault = self.take

    def taken(self, request):
        if "trace.list" in request.path or request.path == "/api/v1/traces":
            self.left -= 1
            if self.left < 1:
                return standin.Fault("", None, **self.what)
        return self.take(request)


class BareLists(ChoiceCase):
    """A server that answers with a list has no cursors: at most a page of it comes at once."""

    options = {"empty": True, "bare_list": True}

    def test_all_of_them(self):
        self.add(250)
        expected = ["trace %d" % place for place in range(250)]
        for given, count in (("--all", 250), ("-n 249", 249), ("-n 250", 250), ("-n 300", 250)):
            with self.subTest(given=given):
                self.assertEqual(self.names(*given.split()), expected[:count])

    def test_all_of_them_without_a_page_more(self):
        self.add(100)
        self.assertEqual(len(self.names("--all")), 100)

    def test_a_gate_sees_them_all(self):
        self.add(250)
        self.server.add_trace(status="ERROR", created=minutes_ago(900))
        result = self.cli("traces", "check", "--project", self.server.project, "--json",
                          "--max-error-rate", "0%")
        self.assertEqual((result.code, result.json["traces"]), (10, 251))

    def test_whether_there_are_more(self):
        self.add(21)
        self.assertEqual(self.list().err,
                         "Showing 20 traces; more may exist. Use --limit N or --all.\n")
        self.assertEqual(self.list("-n", "22").err, "")
        for limit, code in ((20, 10), (21, 0), (22, 0)):
            with self.subTest(limit=limit):
                result = self.list("-n", limit, "--fail-if-truncated")
                self.assertEqual(result.code, code, result)

    def test_lists_of_any_kind(self):
        """(traces, with a time, how a server gives them): all come, or it is an error."""
        def made(count, timed):
            return [dict({"id": str(place), "name": str(place)}, **(
                {"createdAt": "2026-03-14T10:%02d:%02d.000Z" % divmod(3599 - place, 60)}
                if timed else {})) for place in range(count)]
        kinds = {"all": lambda rows, values: rows,
                 "limited": lambda rows, values: rows[:values["limit"]],
                 "by time": lambda rows, values: [row for row in rows if row.get("createdAt", "")
                                                  <= values.get("endDate", "9")][:values["limit"]]}
        for count in (0, 1, 20, 99, 100, 101, 250):
            for timed in (True, False):
                for kind, give in kinds.items():
                    rows = made(count, timed)
                    cut = count >= 100 and not (kind == "all" and count > 100) \
                        and not (timed and kind == "by time")
                    with self.subTest(count=count, timed=timed, kind=kind), mock.patch.object(
                            twosignal.Client, "_page", lambda client, values: [
                                dict(row) for row in give(rows, values)]):
                        result = self.list("--all", "--fields", "id", "--format", "csv")
                        self.assertEqual(result.code, 8 if cut else 0, result.err)
                        if not cut:
                            self.assertEqual(result.lines, ["id"] + [row["id"] for row in rows])
                        self.assertOk(self.list("-n", "20"))

    def test_a_server_that_gives_less_than_it_is_asked_for(self):
        self.add(120)
        real = self.server.world.page

        def page(project, given):
            return real(project, dict(given, limit=min(50, given["limit"])))
        with mock.patch.object(self.server.world, "page", page):
            self.assertEqual(self.names("--all"), ["trace %d" % place for place in range(120)])

    def test_a_server_that_gives_no_way_to_the_rest(self):
        self.use(known_filters=())
        self.add(250)
        result = self.list("--all", "--fields", "name", "--format", "jsonl")
        self.assertEqual((result.code, len(result.lines)), (8, 100), result)
        self.assertIn("--since", result.err)
        self.assertEqual(self.cli("traces", "check", "--project", self.server.project,
                                  "--max-cost", "9").code, 8)


class Truncated(ChoiceCase):
    def test_exit_code(self):
        self.add(21)
        for given, code in (("", 10), ("-n 20", 10), ("-n 1", 10), ("-n 21", 0), ("-n 22", 0),
                            ("--all", 0), ("--search trace", 10), ("--search nowhere", 0),
                            ("--min-duration 1ms", 10), ("--min-duration 1ms --all", 0),
                            ("--min-duration 1h", 0), ("--min-duration 1.2s -n 21", 0)):
            with self.subTest(given=given):
                result = self.list("--fail-if-truncated", "--json", *given.split())
                self.assertEqual(result.code, code, result)
                self.assertIsInstance(result.json, list)
                self.assertEqual("more exist" in result.err, False)
                self.assertEqual(result.error and result.error["code"],
                                 "CHECK_FAILED" if code else None)

    def test_says_what_helps(self):
        self.add(21)
        result = self.list("--fail-if-truncated")
        self.assertEqual(len(result.lines), 22)
        errors = [line for line in result.err.splitlines() if line.startswith("Error: ")]
        self.assertEqual(len(errors), 1)
        for part in ("20 traces", "--limit", "--all"):
            self.assertIn(part, errors[0])

    def test_several_pages_and_servers_that_ignore_filters(self):
        self.use(known_filters=())
        self.add(150)
        self.server.add_trace(name="needle", created=minutes_ago(500))
        for given, code in (("--search needle", 0), ("--search trace -n 149", 10),
                            ("--search trace -n 151", 0), ("--search needle -n 1", 0),
                            ("--search trace -n 150", 0), ("--min-cost 0 -n 150", 10),
                            ("--min-cost 0 -n 151", 0), ("--search trace -n 1", 10)):
            with self.subTest(given=given):
                result = self.list("--fail-if-truncated", *given.split())
                self.assertEqual(result.code, code, result)

    def test_a_cursor_behind_which_nothing_comes(self):
        rows = [{"id": str(place), "name": "n"} for place in range(20)]
        for page in ({"traces": rows, "nextCursor": "c"}, {"traces": []}):
            self.server.fault("trace.list", times=1, status=200,
                              body={"result": {"data": {"json": page}}})
        self.assertOk(self.list("--fail-if-truncated", "-n", "20"), err="")

    def test_what_is_not_known_is_said_so(self):
        self.use(known_filters=())
        for place in range(150):
            self.server.add_trace(name="needle" if place == 149 else "hay",
                                  created=minutes_ago(place))
        result = self.assertOk(self.list("--search", "hay", "-n", "100"))
        self.assertEqual(result.err, "Showing 100 traces; more exist. Use --limit N or --all.\n")
        result = self.assertOk(self.list("--search", "needle", "-n", "1"))
        self.assertEqual(result.err, "150 traces were looked at.\n")
        for name in ("needle", "hay"):
            self.server.add_trace(name=name)
        result = self.assertOk(self.list("--search", "needle", "-n", "1"))
        self.assertIn("Showing 1 trace; more may exist.", result.err)

    def test_with_a_key(self):
        self.add(21)
        self.assertEqual(self.list("--fail-if-truncated", env=self.key()).code, 10)
        self.assertEqual(self.list("--fail-if-truncated", "--all", env=self.key()).code, 0)

    def test_a_file_is_not_half_of_them(self):
        self.add(21)
        path = self.write("out.json", "before")
        self.assertFails(self.list("--fail-if-truncated", "-o", path), 10)
        with open(path) as file:
            self.assertEqual(file.read(), "before")
        self.assertOk(self.list("--fail-if-truncated", "--all", "--json", "-o", path))
        with open(path) as file:
            self.assertEqual(len(json.load(file)), 21)


@unittest.skipUnless(tools.FULL and hasattr(os, "wait4"), "needs TWOSIGNAL_TEST_FULL=1 and wait4")
class Memory(ChoiceCase):
    # A small process stands between: what the tests have in memory would count for their child.
    MEASURED = ("import os, sys; child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]); "
                "_, status, used = os.wait4(child, 0); "
                "print(status, used.ru_maxrss, file=sys.stderr)")
    COUNT, MOST = 20000, 60     # traces, MB

    def test_all_of_many_traces(self):
        when = datetime.datetime(2026, 3, 14, tzinfo=datetime.timezone.utc)
        with self.server.transaction():
            for place in range(self.COUNT):
                self.server.add_trace(name="trace %d" % place, metadata={"note": "x" * 100},
                                      created=when + datetime.timedelta(seconds=place))
        for form, name in (("jsonl", '"trace '), ("csv", ",trace "), ("table", "  OK  "),
                           ("json", '"name": "trace ')):
            path = self.path("out")
            with self.subTest(form=form):
                self.assertModest("list", "--all", "--format", form, "-o", path)
                with open(path, encoding="utf-8") as file:
                    self.assertEqual(sum(name in line for line in file), self.COUNT)
        self.assertModest("check", "--max-p95", "9h", "--max-total-cost", "99999", "--min-count",
                          str(self.COUNT))
        self.assertModest("wait", "--count", str(self.COUNT))

    def assertModest(self, command, *options):
        """It works, and needs little memory."""
        result = tools.run_command(
            [sys.executable, "-I", "-S", "-c", self.MEASURED, sys.executable, tools.SCRIPT,
             "traces", command, "--project", self.server.project] + list(options),
            self.environment, timeout=600)
        status, used = map(int, result.err.split()[-2:])
        self.assertEqual(status, 0, result)
        self.assertLess(used / (1 << 20 if sys.platform == "darwin" else 1 << 10), self.MOST)


############################################################
# Forms of output
############################################################

HOSTILE = ("=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1", "a,b",
           'say "hi"', "a;b", "line\nbreak", "line\r\nbreak", "tab\there", "\x1b[31mred",
           "\u202etxt.exe", "'quoted", "null", "", " ", "東京 🤖", "e\u0301", "\x00", "\u2028",
           "x" * 3000, "</script>", "\\", "\\n")
FORMULA = tuple("=+-@\t\r")


def rows_of(text, delimiter=","):
    return list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))


class Formats(ChoiceCase):
    def add_hostile(self):
        for place, name in enumerate(HOSTILE):
            self.server.add_trace(name=name, created=minutes_ago(place), tags=[name],
                                  metadata={name: name}, sessionId=name,
                                  scores=[{"evaluatorName": name, "value": 0.5, "label": name}])

    def test_each_tells_the_same(self):
        self.add(3, scores=[{"evaluatorName": "tone", "value": 0.25}], tags=["a", "b"])
        expected = self.assertOk(self.list("--json")).json
        self.assertEqual(self.list("--format", "json").json, expected)
        lines = self.assertOk(self.list("--format", "jsonl")).lines
        self.assertEqual([json.loads(line) for line in lines], expected)
        for form, delimiter in (("csv", ","), ("tsv", "\t")):
            heading, *rows = rows_of(self.assertOk(self.list("--format", form)).out, delimiter)
            self.assertEqual(heading, list(expected[0]))
            for row, record in zip(rows, expected):
                found = dict(zip(heading, row))
                self.assertEqual((found["id"], found["name"]), (record["id"], record["name"]))
                self.assertEqual(float(found["cost_usd"]), record["cost_usd"])
                self.assertEqual(json.loads(found["tags"]), ["a", "b"])
                self.assertEqual(json.loads(found["scores"]), record["scores"])
        table = self.assertOk(self.list("--format", "table")).out
        self.assertEqual(table, self.assertOk(self.list()).out)
        self.assertIn(expected[0]["id"], table)

    def test_in_both_dialects(self):
        found = []
        for dialect, options in DIALECTS:
            self.use(**options)
            for place in range(3):
                self.server.add_trace(id="id-%d" % place, cost="0.0125", totalTokens=standin.Big(7),
                                      created="2026-03-14T10:30:0%dZ" % place,
                                      scores=[{"evaluatorName": "tone", "value": 0.25}])
            found.append([self.assertOk(self.list(
                "--format", form, "--fields", "id,cost_usd,total_tokens,scores.0.score,created_at"
            )).out for form in ("table", "json", "jsonl", "csv", "tsv")])
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[0][3].splitlines()[1],
                         "id-2,0.0125,7,0.25,2026-03-14T10:30:02Z")

    def test_separated_values_are_harmless_and_whole(self):
        self.add_hostile()
        for form, delimiter in (("csv", ","), ("tsv", "\t")):
            text = self.assertOk(self.list("--all", "--format", form)).out
            heading, *rows = rows_of(text, delimiter)
            self.assertEqual([len(row) for row in rows], [len(heading)] * len(HOSTILE))
            self.assertEqual(len(text.splitlines()), 1 + len(HOSTILE))
            self.assertEqual(twosignal.plain(text.replace("\n", "").replace(delimiter, "")),
                             text.replace("\n", "").replace(delimiter, ""))
            for name, row in zip(HOSTILE, rows):
                found = dict(zip(heading, row))
                with self.subTest(form=form, name=name):
                    shown = twosignal.plain("'" + name if name.startswith(FORMULA) else name)
                    self.assertEqual((found["name"], found["session_id"]), (shown, shown))
                    self.assertEqual(json.loads(found["metadata"]), {name: name})
                    self.assertFalse([cell for cell in row if cell.startswith(FORMULA)])

    def test_headings_are_no_formulas(self):
        trace = {"id": "t", "name": "n", "=1+1": 5, "-x": -5}
        answer = {"result": {"data": {"json": {"traces": [trace]}}}}
        self.server.fault("trace.list", status=200, body=answer)
        heading, row = rows_of(self.assertOk(self.list("--format", "csv")).out)
        found = dict(zip(heading, row))
        self.assertEqual((found["'=1+1"], found["'-x"]), ("5", "-5"))

    def test_stdout_by_its_short_name(self):
        self.add(2)
        result = self.assertOk(self.list("--json", "-o", "-"))
        self.assertEqual(len(result.json), 2)
        self.assertFalse(os.path.exists("-"))

    def test_full_width_formulas(self):
        self.server.add_trace(name="\uff1d1+1")
        found = rows_of(self.assertOk(self.list("--format", "csv", "--fields", "name")).out)
        self.assertEqual(found[1], ["'\uff1d1+1"])

    def test_numbers_stay_numbers(self):
        self.add(1, cost=-0.5, duration_ms=-3)
        heading, row = rows_of(self.assertOk(self.list("--format", "csv")).out)
        found = dict(zip(heading, row))
        self.assertEqual((found["cost_usd"], found["duration_ms"]), ("-0.5", "-3"))

    def test_documents_keep_what_is_there(self):
        self.add_hostile()
        found = self.assertOk(self.list("--all", "--json")).json
        self.assertEqual([row["name"] for row in found], list(HOSTILE))
        result = self.assertOk(self.list("--all", "--format", "jsonl"))
        self.assertEqual([json.loads(line) for line in result.out.split("\n")[:-1]], found)
        self.assertEqual(len(result.lines), len(HOSTILE))

    def test_streams_that_are_not_utf8(self):
        self.add_hostile()
        for form in ("json", "jsonl", "csv", "tsv", "table"):
            for encoding in ("ascii", "latin-1"):
                with self.subTest(form=form, encoding=encoding):
                    result = self.assertOk(self.list("--all", "--format", form, encoding=encoding))
                    self.assertGreaterEqual(len(result.lines), len(HOSTILE))
        self.assertEqual([row["name"] for row in self.list(
            "--all", "--json", encoding="ascii").json], list(HOSTILE))

    def test_nothing(self):
        heading = "id,status,duration_ms,cost_usd,created_at,name\n"
        for form, expected in (("table", "No traces found.\n"), ("json", "[]\n"), ("jsonl", ""),
                               ("csv", heading), ("tsv", heading.replace(",", "\t"))):
            with self.subTest(form=form):
                self.assertEqual(self.assertOk(self.list("--format", form)).out, expected)
        fields = "name,scores.0.score"
        self.assertEqual(self.assertOk(self.list("--format", "csv", "--fields", fields)).out,
                         fields + "\n")

    def test_columns_that_come_too_late_are_told(self):
        """A server may leave a key out where there is nothing."""
        rows = [{"id": str(place), "name": "n"} for place in range(150)]
        rows[120]["sessionId"] = "s"
        pages = [{"traces": rows[:100], "nextCursor": "c"}, {"traces": rows[100:]}]
        for page in pages:
            self.server.fault("trace.list", times=1, status=200,
                              body={"result": {"data": {"json": page}}})
        result = self.assertOk(self.list("--all", "--format", "csv"))
        self.assertEqual(len(result.lines), 151)
        self.assertRegex(result.err, r"^Left out, .*: session_id\. .*--fields")

    def test_other_commands_have_them_too(self):
        self.server.add_evaluator(name="=1+1")
        for form in ("json", "jsonl", "csv", "tsv", "table"):
            for args in (("orgs", "list"), ("whoami",), ("usage", "--org", self.server.org),
                         ("evaluators", "list", "--project", self.server.project)):
                with self.subTest(form=form, args=args):
                    result = self.assertOk(self.cli(*args + ("--format", form)))
                    self.assertTrue(result.out.endswith("\n"))
                    self.assertFalse(form == "csv" and ",=1+1" in result.out)

    def test_errors_are_json_where_the_output_is(self):
        for form, is_json in (("json", True), ("jsonl", True), ("csv", False), ("table", False)):
            for args in (("--format", form), ("--format=" + form,)):
                self.server.fault("trace.list", status=403)
                result = self.assertFails(self.list(*args), 5)
                self.assertEqual(bool(result.error), is_json, args)


class Fields(ChoiceCase):
    def test_paths(self):
        self.server.add_trace(name="a", created=minutes_ago(1), metadata={"model": {"name": "gpt"}},
                              tags=["x", "y"], scores=[{"evaluatorName": "tone", "value": 0.5},
                                                       {"evaluatorName": "json", "value": 1}])
        self.server.add_trace(name="b", created=minutes_ago(2))
        fields = ("name", "scores.0.score", "scores.1.evaluator", "tags.1", "metadata.model.name",
                  "scores.9.score", "tags.01", "metadata.nope", "metadata.model.nope.x")
        found = self.assertOk(self.list("--json", "--fields", ",".join(fields))).json
        first = ["a", 0.5, "json", "y", "gpt"] + [None] * 4
        self.assertEqual([list(row.items()) for row in found],
                         [list(zip(fields, first)), list(zip(fields, ["b"] + [None] * 8))])
        text = self.assertOk(self.list("--format", "csv", "--fields", ",".join(fields))).out
        rows = rows_of(text)
        self.assertEqual(rows[:2], [list(fields), ["a", "0.5", "json", "y", "gpt"] + [""] * 4])
        heading, _, row, _ = self.assertOk(self.list("--fields", "name,scores.0.score")).lines
        self.assertEqual((heading.split(), row.split()), (["name", "scores.0.score"], ["a", "0.5"]))

    def test_scores_are_fetched_where_they_are_asked_for(self):
        self.add(2, scores=[{"evaluatorName": "tone", "value": 0.5}])
        for fields, asked in (("id,name", 0), ("id,scores.0.score", 1), ("scores", 1),
                              ("score_count", 0), ("?", 1)):
            for form in ("table", "json", "csv"):
                self.server.clear()
                with self.subTest(fields=fields, form=form):
                    self.assertOk(self.list("--fields", fields, "--format", form))
                    self.assertEqual(self.server.count("trace.getById"), asked)

    def test_unknown(self):
        self.add(2)
        for fields in ("nope", "id,nope", "nope.id", "ID", "Name", "?,id", ".", "id,.x",
                       "scores[0]"):
            for form in ("table", "json", "jsonl", "csv"):
                with self.subTest(fields=fields, form=form):
                    result = self.list("--fields", fields, "--format", form)
                    self.assertFails(result, 2, "no field", "duration_ms")

    def test_paths_that_lead_nowhere(self):
        """An empty column would look like data."""
        self.add(2, scores=[{"evaluatorName": "tone", "value": 0.5}], tags=["x"])
        for field in ("scores.score", "scores.0.bogus", "tags.x", "tags.-1", "name.0", "id.x"):
            with self.subTest(field=field):
                self.assertFails(self.list("--fields", "id," + field), 2, field, "--fields '?'")

    def test_what_the_first_rows_lack(self):
        """A server may leave a key out where there is nothing."""
        rows = [{"id": "1", "name": "n"}, {"id": "2", "name": "n", "sessionId": "s"}]
        for place in (0, 1):
            body = {"result": {"data": {"json": {"traces": rows[:1 + place]}}}}
            self.server.fault("trace.list", times=1, status=200, body=body)
            result = self.assertOk(self.list("--fields", "id,session_id", "--json"))
            self.assertEqual(result.json[-1], {"id": "12"[place], "session_id": [None, "s"][place]})

    def test_unknown_after_a_change_is_told_with_the_result(self):
        """A key that is shown once must not be lost for a typing error."""
        result = self.cli("api-keys", "create", "--project", self.server.project, "-n", "CI",
                          "--fields", "key,kee", "--json")
        self.assertEqual(result.code, 0, result)
        self.assertTrue(result.json["key"])
        self.assertIsNone(result.json["kee"])
        self.assertIn("no field 'kee'", result.err)
        result = self.cli("scores", "create", self.server.add_trace(), "--name", "a", "--value",
                          "1", "--fields", "score,nope", "--json", env=self.key())
        self.assertEqual((result.code, result.json), (0, {"score": 1, "nope": None}), result)

    def test_question_mark_after_a_change_shows_what_it_gave(self):
        result = self.cli("api-keys", "create", "--project", self.server.project, "-n", "CI",
                          "--fields", "?", "--json")
        self.assertTrue(self.assertOk(result).json["key"])
        self.assertIn("--fields '?'", result.err)

    def test_keys_of_scores_that_a_server_leaves_out(self):
        self.add(1, scores=[{"evaluatorName": "tone", "value": 0.5}])
        with mock.patch.object(twosignal.Client, "add_scores", lambda client, traces, *rest: [
                trace.update(scores=[{"value": 1}]) for trace in traces]):
            result = self.assertOk(self.list("--fields", "id,scores.0.span_id", "--json"))
        self.assertIsNone(result.json[0]["scores.0.span_id"])

    def test_lists_of_an_answer_stay_lists(self):
        for count in range(3):
            body = {"result": {"data": {"json": [{"id": str(i), "x": 1} for i in range(count)]}}}
            self.server.fault("some.list", times=1, status=200, body=body)
            result = self.assertOk(self.cli("api", "some.list", "--fields", "id", "--json"))
            self.assertEqual(result.json, [{"id": str(i)} for i in range(count)])

    def test_unknown_leaves_a_file_as_it_was(self):
        self.add(2)
        path = self.write("out", "before")
        self.assertFails(self.list("--fields", "nope", "-o", path), 2)
        with open(path) as file:
            self.assertEqual(file.read(), "before")

    def test_what_there_is(self):
        self.add(2, scores=[{"evaluatorName": "tone", "value": 0.5}], metadata={"a": 1})
        result = self.assertOk(self.list("--fields", "?"))
        names = [line.strip() for line in result.lines[2:]]
        for name in ("id", "name", "duration_ms", "cost_usd", "scores", "scores.0.score",
                     "metadata"):
            self.assertIn(name, names)
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual([row["field"] for row in self.list("--fields", "?", "--json").json], names)
        for name in names:      # each can be asked for
            self.assertOk(self.list("--fields", name, "--json"))

    def test_what_there_is_reads_one_page(self):
        self.add(150)
        self.server.clear()
        self.assertOk(self.list("--fields", "?", "--all"))
        self.assertEqual(self.server.count("trace.list"), 1)

    def test_each_command(self):
        trace = self.server.add_trace(spans=[{"name": "step"}])
        project = ("--project", self.server.project)
        for args, fields in ((("orgs", "list"), "name,plan"), (("whoami",), "email"),
                             (("traces", "get", trace) + project, "id,spans.0.name"),
                             (("traces", "check", "--max-p95", "9h") + project,
                              "passed,checks.0.measured")):
            with self.subTest(args=args):
                found = self.assertOk(self.cli(*args + ("--json", "--fields", fields))).json
                found = found[0] if isinstance(found, list) else found
                self.assertEqual(list(found), fields.split(","))
                self.assertNotIn(None, found.values())
                self.assertFails(self.cli(*args + ("--fields", "nope")), 2, "nope")

    def test_verdict_stays(self):
        self.add(2)
        result = self.cli("traces", "check", "--project", self.server.project, "--max-p95", "1ms",
                          "--fields", "passed", "--json")
        self.assertEqual((result.code, result.json), (10, {"passed": False}))


############################################################
# -o FILE
############################################################

class Output(ChoiceCase):
    def content(self, path):
        with open(path, "rb") as file:
            return file.read().decode("utf-8")

    def left(self):
        """The names of all there is in the temporary directory, the home left out."""
        return sorted(set(os.listdir(self.folder)) - {"home"})

    def test_holds_what_stdout_would(self):
        self.add(105, tags=["東京"])
        path = self.path("out")
        for form in ("table", "json", "jsonl", "csv", "tsv"):
            expected = self.assertOk(self.list("--format", form, "--all")).out
            for flags in (("-o", path), ("--output=" + path,)):
                with self.subTest(form=form, flags=flags):
                    result = self.assertOk(self.list("--format", form, "--all", *flags))
                    self.assertEqual((result.out, self.content(path)), ("", expected))
        self.assertEqual(self.left(), ["out"])

    def test_is_utf8_whatever_the_stream(self):
        self.server.add_trace(name="東京 🤖")
        self.assertOk(self.list("--json", "-o", self.path("out"), encoding="ascii"))
        self.assertIn('"東京 🤖"', self.content(self.path("out")))

    def test_failure_in_the_middle_leaves_all_as_it_was(self):
        self.add(120)
        path, forms = self.path("out"), ("jsonl", "table", "json", "csv")
        kinds = ((dict(status=403), 5), (dict(status=401), 4), (dict(status=500), 8),
                 (dict(cut=100), 3), (dict(garbage=b"{"), 8), (dict(reset=True), 3))
        for place, (what, code) in enumerate(kinds):
            for form in full((forms[place % len(forms)],), forms):
                for before in (None, "before"):
                    if before:
                        self.write("out", before)
                    with self.subTest(form=form, before=before, **what):
                        with fails_from(self.server, 2, **what):
                            result = self.list("--all", "--format", form, "-o", path)
                        self.assertFails(result, code)
                        self.assertEqual(self.left(), ["out"] if before else [])
                        self.assertEqual(before and self.content(path), before)
                os.unlink(path)

    def test_failure_at_the_start(self):
        path = self.write("out", "before")
        self.server.fault("trace.list", status=403)
        self.assertFails(self.list("-o", path), 5)
        self.assertEqual((self.left(), self.content(path)), (["out"], "before"))

    def test_ctrl_c_in_the_middle(self):
        self.add(250)
        path = self.write("out", "before")
        wait = twosignal.Client._page

        def page(client, values):
            if "cursor" in values:
                raise KeyboardInterrupt
            return wait(client, values)

        with mock.patch.object(twosignal.Client, "_page", page):
            result = self.list("--all", "--format", "jsonl", "-o", path)
        self.assertEqual((result.code, result.out), (130, ""))
        self.assertEqual((self.left(), self.content(path)), (["out"], "before"))

    def test_full_disk(self):
        self.add(3)
        path = self.write("out", "before")
        with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
            self.assertFails(self.list("-o", path), 1, path, "No space left on device")
        self.assertEqual((self.left(), self.content(path)), (["out"], "before"))

    def test_places_where_nothing_can_be_written(self):
        self.add(1)
        self.write("file", "before")
        os.mkdir(self.path("folder"))
        self.write(os.path.join("folder", "inside"), "before")
        self.server.clear()
        for name in ("missing/out", "file/out", "folder", "folder/", "missing/"):
            with self.subTest(name=name):
                path = self.path(*name.split("/"))
                self.assertFails(self.list("-o", path), 1, path)
                self.assertEqual(self.left(), ["file", "folder"])
        self.assertEqual(os.listdir(self.path("folder")), ["inside"])

    @unittest.skipUnless(hasattr(os, "geteuid") and os.geteuid(), "root may write everywhere")
    def test_folder_that_is_not_ours(self):
        os.mkdir(self.path("folder"), 0o500)
        self.assertFails(self.list("-o", self.path("folder", "out")), 1, "Permission denied")

    @unittest.skipIf(os.name == "nt", "modes and links of POSIX")
    def test_modes(self):
        self.add(1)
        path, before = self.path("out"), os.umask(0o027)
        try:
            self.assertOk(self.list("-o", path))
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)
            for mode in (0o600, 0o644, 0o666, 0o755, 0o444):
                os.chmod(path, mode)
                with self.subTest(mode=oct(mode)):
                    self.assertOk(self.list("-o", path))
                    self.assertEqual(os.stat(path).st_mode & 0o777, mode)
        finally:
            os.umask(before)

    @unittest.skipIf(os.name == "nt", "modes and links of POSIX")
    def test_links(self):
        self.add(1)
        os.mkdir(self.path("folder"))
        target = self.write(os.path.join("folder", "target"), "before")
        for place in (target, os.path.join("folder", "target"), self.path("folder", "new")):
            link = self.path("link")
            os.symlink(place, link)
            with self.subTest(place=place):
                self.assertOk(self.list("--json", "-o", link))
                self.assertEqual(os.readlink(link), place)
                self.assertEqual(len(json.loads(self.content(link))), 1)
            os.unlink(link)
        self.assertEqual(sorted(os.listdir(self.path("folder"))), ["new", "target"])

    @unittest.skipUnless(os.path.exists("/dev/null"), "needs /dev/null")
    def test_devices_stay_devices(self):
        self.add(3)
        self.assertEqual(self.assertOk(self.list("-o", "/dev/null")).out, "")
        self.assertFalse(os.path.isfile("/dev/null"))
        self.assertOk(self.list("--format", "csv", "--all", "-o", "/dev/null"))

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_device_that_is_full(self):
        self.add(3)
        self.assertFails(self.list("-o", "/dev/full"), 1, "/dev/full", "No space left on device")

    @unittest.skipUnless(hasattr(os, "mkfifo"), "needs pipes with a name")
    def test_pipe_with_a_name(self):
        self.add(150)
        path = self.path("pipe")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(reader, "rb") as pipe:
            self.assertOk(self.list("--all", "--fields", "name", "--format", "jsonl", "-o", path))
            self.assertEqual(len(pipe.read().splitlines()), 150)
        self.assertEqual(self.left(), ["pipe"])

    def test_relative_path_and_odd_names(self):
        self.add(1)
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            for name in ("out", "-x", "東 京.json", "a\nb"):
                with self.subTest(name=name):
                    self.assertOk(self.list("--json", "-o", name))
                    self.assertEqual(len(json.loads(self.content(self.path(name)))), 1)
        finally:
            os.chdir(before)

    def test_other_commands(self):
        path = self.path("out")
        self.assertOk(self.cli("orgs", "list", "--json", "-o", path))
        self.assertEqual(json.loads(self.content(path))[0]["id"], self.server.org)
        result = self.cli("traces", "check", "--max-p95", "1s", "--project", self.server.project,
                          "--json", "-o", path)
        self.assertEqual((result.code, json.loads(self.content(path))["passed"]), (11, False))


############################################################
# API keys in place of a session
############################################################

NEEDS_ACCOUNT = (           # command lines of what needs an account
    "orgs list", "orgs create X", "projects list --org X", "projects create X --org X",
    "traces get X --project X", "evaluators list --project X",
    "evaluators create --project X -n X --type COST", "evaluators toggle X --project X --enable",
    "evaluators delete X --project X -y", "datasets list --project X",
    "datasets create --project X -n X", "datasets get X --project X",
    "datasets add-item X --project X --input 1", "datasets delete X --project X -y",
    "api-keys list --project X", "api-keys create --project X -n X",
    "api-keys revoke X --project X -y", "usage --org X", "api organization.list")
SESSIONLESS = {"login", "logout", "completion"}


class KeyCase(ChoiceCase):
    """Nobody is logged in."""

    def setUp(self):
        super().setUp()
        os.unlink(os.path.join(self.home, "session.json"))
        self.environment["TWOSIGNAL_URL"] = self.server.url

    def use(self, **options):
        super().use(**options)
        os.unlink(os.path.join(self.home, "session.json"))
        self.environment["TWOSIGNAL_URL"] = self.server.url

    def key_file(self, content):
        name = "secret %d" % len(os.listdir(self.folder))
        return {"TWOSIGNAL_API_KEY_FILE": self.write(name, content)}

    def tree(self):
        return sorted(os.path.join(folder, name) for folder, folders, files in os.walk(self.folder)
                      for name in folders + files)


class Keys(KeyCase):
    def test_key_or_file_with_one(self):
        self.add(3)
        key = self.key()["TWOSIGNAL_API_KEY"]
        wrong = {"TWOSIGNAL_API_KEY": "ts_wrong"}
        for env in ({"TWOSIGNAL_API_KEY": key}, {"TWOSIGNAL_API_KEY": " %s\n" % key},
                    self.key_file(key), dict(self.key_file(key), TWOSIGNAL_API_KEY=""),
                    dict(self.key_file("ts_wrong"), TWOSIGNAL_API_KEY=key)):
            with self.subTest(env=env):
                self.assertEqual(len(self.assertOk(self.cli("traces", "list", env=env)).lines), 5)
        for content in (key + "\n", "\n %s \r\n" % key, "\ufeff" + key):
            with self.subTest(content=content):
                self.assertOk(self.cli("traces", "list", env=self.key_file(content)))
        self.assertFails(self.cli("traces", "list", env=dict(self.key_file(key), **wrong)), 4)

    def test_keys_that_are_none(self):
        for env in (self.key_file(""), self.key_file(" \n"), {"TWOSIGNAL_API_KEY": "a b"},
                    {"TWOSIGNAL_API_KEY": "ключ"}, {"TWOSIGNAL_API_KEY": "a\r\nX: y"},
                    {"TWOSIGNAL_API_KEY_FILE": self.path("missing")}, self.key_file("a\nb"),
                    self.key_file(b"\xff\xfe"), {"TWOSIGNAL_API_KEY_FILE": self.folder}):
            with self.subTest(env=env):
                result = self.cli("traces", "list", env=env)
                code = 1 if self.folder in env.values() else 2
                self.assertFails(result, code)
                self.assertTrue("key" in result.err or self.folder in result.err, result)
        self.assertEqual(self.server.requests, [])

    def test_commands_that_take_one(self):
        self.add(3)
        trace = self.server.traces and self.server.traces[0] or self.server.add_trace()
        env = dict(self.key(), TWOSIGNAL_PROJECT=None)
        with mock.patch("twosignal._tail", first_look):
            for line in ("traces list", "traces check --max-p95 9h", "traces wait", "whoami",
                         "traces tail", "scores create %s --name x --value 1" % trace):
                with self.subTest(line=line):
                    self.assertOk(self.cli(*line.split(), env=env))
        self.assertEqual(self.server.count("/api/trpc/"), 0)
        self.assertEqual(self.server.count("/auth/"), 0)
        for request in self.server.requests:
            self.assertEqual(request.headers.get("Authorization"),
                             "Bearer " + env["TWOSIGNAL_API_KEY"])
            self.assertIsNone(request.headers.get("Cookie"))

    def test_no_home_and_nothing_written(self):
        self.add(3)
        env = self.key()
        os.unlink(os.path.join(self.home, "config.json"))
        os.rmdir(self.home)
        before = self.tree()
        with mock.patch("twosignal._tail", first_look):
            for line in ("traces list", "traces check --max-p95 9h", "traces wait", "whoami",
                         "traces tail", "traces list --json --url " + self.server.url):
                with self.subTest(line=line):
                    self.assertOk(self.run_cli(*line.split(), env=env))
                with self.subTest(line=line, home=None):
                    with mock.patch("os.path.expanduser", lambda path: path):
                        self.assertOk(self.run_cli(*line.split(), env=dict(env, **NO_ACCOUNT)))
        self.assertEqual(self.tree(), before)

    def test_a_process_without_an_environment(self):
        self.add(3)
        result = self.run_process("traces", "check", "--max-p95", "9h", "--json", env=dict(
            self.key(), TWOSIGNAL_HOME=self.path("none"), HOME=None, USERPROFILE=None))
        self.assertEqual(self.assertOk(result).json["traces"], 3)
        self.assertFalse(os.path.exists(self.path("none")))

    def test_goes_before_a_session(self):
        self.log_in()
        self.add(1)
        self.assertOk(self.cli("traces", "list", env=self.key()))
        self.write(os.path.join("home", "session.json"), "damaged")
        self.assertOk(self.cli("traces", "list", env=self.key()))
        self.assertEqual(self.server.count("/api/trpc/"), 0)

    def test_commands_that_need_an_account_say_so(self):
        names = {" ".join(line.split()[:size]) for line in NEEDS_ACCOUNT for size in (1, 2)}
        for name, command in twosignal.COMMANDS.items():
            self.assertTrue(name in names or command.key or name in SESSIONLESS, name)
        env = self.key()
        for line in NEEDS_ACCOUNT:
            with self.subTest(line=line):
                self.assertFails(self.cli(*line.split(), env=env), 4, "login", "account")
        for line in ("traces get ID", "usage", "projects list", "datasets list"):
            self.assertFails(self.cli(*line.split(), env=env), 4, "account")
        self.assertEqual(self.server.requests, [])

    def test_the_same_without_a_home(self):
        with mock.patch("os.path.expanduser", lambda path: path):
            for line in NEEDS_ACCOUNT[::5]:
                with self.subTest(line=line):
                    result = self.cli(*line.split(), env=dict(self.key(), **NO_ACCOUNT))
                    self.assertFails(result, 4, "account")

    def test_an_account_serves_what_a_key_does_not(self):
        self.log_in()
        trace = self.server.add_trace()
        self.assertOk(self.cli("traces", "get", trace, "--project", self.server.project,
                               env=self.key()))

    def test_scores_are_never_left_out_silently(self):
        self.add(2, scores=[{"evaluatorName": "tone", "value": 0.1}])
        env = self.key()
        for line in ("traces check --min-score 0.5", "traces check --min-score tone=0.5",
                     "traces wait --scored", "traces list --fields id,scores.0.score"):
            with self.subTest(line=line):
                self.assertFails(self.cli(*line.split(), env=env), 4, "login", "scores")
        for form in ("json", "jsonl", "csv"):
            result = self.assertOk(self.cli("traces", "list", "--format", form, env=env))
            self.assertEqual(result.err, "Scores are null: the API of a project key does not give "
                                         "them.\n")
            self.assertNotIn("[]", re.sub(r'"tags": \[\]|,\[\]', "", result.out))
            self.assertEqual(len(self.assertOk(self.cli(
                "traces", "list", "--format", form, "--fields", "id,name", env=env)).out
                .replace("[\n", "").splitlines()) >= 2, True)

    def test_scores_that_a_key_cannot_have_are_null(self):
        """So that the documented script fails in its loop over them, and does not pass."""
        self.add(1, scores=[{"evaluatorName": "tone", "value": 0.1}])
        self.server.add_trace(created=minutes_ago(5), scores=[])
        for envelope in (False, True):
            self.server.rest_envelope = envelope
            found = self.assertOk(self.cli("traces", "list", "--json", env=self.key())).json
            self.assertEqual([row["scores"] for row in found], [None, []])
        self.assertOk(self.cli("traces", "list", "--json", "-q", env=self.key()), err="")
        self.assertIn("scores", self.cli("traces", "list", "--fields", "?", env=self.key()).lines)

    def test_a_key_in_the_clear_is_warned_about(self):
        env = self.key()
        with mock.patch.object(twosignal.Client, "rest", lambda client, *rest: {"traces": []}):
            for url, warned in (("http://example.com", True), ("https://example.com", False),
                                (self.server.url, False)):
                result = self.assertOk(self.cli("traces", "list", env=dict(env, TWOSIGNAL_URL=url)))
                self.assertEqual("not encrypted" in result.err, warned, url)
                self.assertEqual(result.err.count("API key"), warned, url)

    def test_wrong_project(self):
        self.add(2)
        other = self.server.add_project("Other")
        env = self.key()
        for command in ("list", "check --max-p95 9h", "wait"):
            line = ["traces"] + command.split()
            with self.subTest(command=command):
                self.assertFails(self.cli(*line + ["--project", other], env=env), 2, other, "key")
                self.assertFails(self.cli(*line, env=dict(env, TWOSIGNAL_PROJECT=other)), 2,
                                 "TWOSIGNAL_PROJECT")
                self.assertOk(self.cli(*line + ["--project", self.server.project], env=env))
        key = self.server.secret(self.server.add_key(other))
        self.assertEqual(self.cli("traces", "list", "--json", env={"TWOSIGNAL_API_KEY": key}).json,
                         [])

    def revoking(self, key_id, page=1):
        """A server that revokes the key once it has answered with so many pages."""
        world, left = self.server.world, [page]
        true = world.page

        def answered(project, given):
            left[0] -= 1
            if left[0] == 0:
                world.change("api_keys", world.store.get("api_keys", key_id),
                             {"revokedAt": world.now()})
            return true(project, given)
        return mock.patch.object(world, "page", answered)

    def test_revoked_half_way(self):
        self.add(250)
        path = self.write("out", "before")
        for line, shown in (("traces list --all --format jsonl", 100),
                            ("traces list --all --json -o " + path, 0),
                            ("traces check --max-p95 9h --json", 0),
                            ("traces check --max-p95 9h", 0), ("traces wait --count 240", 0)):
            key_id = self.server.add_key()
            env = {"TWOSIGNAL_API_KEY": self.server.secret(key_id)}
            with self.subTest(line=line), self.revoking(key_id):
                result = self.cli(*line.split(), env=env)
                self.assertEqual(result.code, 4, result)
                self.assertEqual(len(result.lines), shown)
                self.assertIn("key", result.err)
                self.assertNotIn(env["TWOSIGNAL_API_KEY"], result.err)
                self.assertEqual(len(result.err.splitlines()), 1, result)
        with open(path) as file:
            self.assertEqual(file.read(), "before")

    def test_revoked_while_waiting_or_following(self):
        self.add(1)
        for line in ("traces wait --count 9", "traces tail --format jsonl"):
            key_id = self.server.add_key()
            env = {"TWOSIGNAL_API_KEY": self.server.secret(key_id)}
            with self.subTest(line=line), self.revoking(key_id, 2):
                result = self.cli(*line.split(), env=env)
                self.assertEqual(result.code, 4, result)
                self.assertIn("key is not accepted", result.err)

    def test_refusals(self):
        self.add(1)
        env = self.key()
        for what, code in ((dict(status=401), 4), (dict(status=403), 5), (dict(status=404), 8),
                           (dict(status=429), 7), (dict(status=500), 8), (dict(reset=True), 3),
                           (dict(status=503, body="<html>"), 8), (dict(garbage=b"[]]"), 8),
                           (dict(status=200, body=b'"x"'), 8), (dict(status=404, body="<p>"), 8)):
            self.server.clear()
            self.server.fault("/api/v1/traces", times=None, **what)
            with self.subTest(what=what):
                result = self.cli("traces", "list", env=env)
                self.assertIn(result.code, (code, 6) if what.get("status") == 404 else (code,))
                self.assertFails(result, result.code)
                self.assertNotIn(env["TWOSIGNAL_API_KEY"], result.err)

    def test_whoami(self):
        env = self.key()
        result = self.assertOk(self.cli("whoami", env=env))
        self.assertIn("API key", result.out)
        self.assertNotIn(env["TWOSIGNAL_API_KEY"], result.out + result.err)
        found = self.assertOk(self.cli("whoami", "--json", env=env)).json
        self.assertEqual((found["email"], found["api_url"]), (None, self.server.url))
        self.assertFails(self.cli("whoami", env={"TWOSIGNAL_API_KEY": "ts_wrong"}), 4, "key")
        self.log_in()
        self.assertNotIn("API key", self.assertOk(self.cli("whoami")).out)


class ScoresCreate(KeyCase):
    def setUp(self):
        super().setUp()
        self.trace = self.server.add_trace()
        self.env = self.key()

    def create(self, *args, trace=None, env=None):
        return self.cli("scores", "create", trace or self.trace, *args, env=env or self.env)

    def bodies(self):
        return [request.body for request in requests_of(self.server, "/api/v1/scores")]

    def test_posts_what_was_given_in_both_dialects(self):
        for envelope in (False, True):
            self.use(rest_envelope=envelope)
            self.trace, self.env = self.server.add_trace(), self.key()
            found = self.assertOk(self.create("--name", "accuracy", "--value", "0.92", "--json"))
            self.assertEqual((found.json["score"], found.json["evaluator"]), (0.92, "accuracy"))
            self.assertOk(self.create("--name", "a b", "--value", "1", "--label", "pass",
                                      "--reasoning", "東京\n-x", "--span", "s-1"))
            self.assertEqual(self.bodies(), [
                {"traceId": self.trace, "evaluatorName": "accuracy", "value": 0.92},
                {"traceId": self.trace, "evaluatorName": "a b", "value": 1, "label": "pass",
                 "reasoning": "東京\n-x", "spanId": "s-1"}])
            self.assertEqual([row["value"] for row in self.server.rows("scores")], [0.92, 1])

    def test_bounds(self):
        for value in ("0", "1", "0.0", "1.0", "1e-3", ".5"):
            with self.subTest(value=value):
                self.assertOk(self.create("--name", "x", "--value", value))
        self.server.clear()
        for value in ("1.7", "-0.1", "1.0000001", "nan", "inf", "", "50%", "x=0.5", "a"):
            with self.subTest(value=value):
                self.assertFails(self.create("--name", "x", "--value=" + value), 2, "--value")
        for args in (("--name", "x"), ("--value", "1"), ("--name", "", "--value", "1")):
            with self.subTest(args=args):
                self.assertFails(self.create(*args), 2)
        self.assertEqual(self.server.requests, [])

    def test_without_a_key(self):
        for logged_in in (False, True):
            if logged_in:
                self.log_in()
            result = self.cli("scores", "create", self.trace, "--name", "x", "--value", "1")
            self.assertFails(result, 4, "TWOSIGNAL_API_KEY")
        self.assertEqual(self.server.requests, [])

    def test_traces_that_are_not_there(self):
        other = self.server.add_trace(project=self.server.hidden)
        for trace in ("nowhere", other):
            self.assertFails(self.create("--name", "x", "--value", "1", trace=trace), 6)
        self.assertEqual(self.server.rows("scores"), [])

    def test_a_key_that_is_revoked(self):
        self.assertFails(self.create("--name", "x", "--value", "1",
                                     env={"TWOSIGNAL_API_KEY": "ts_wrong"}), 4, "key")

    def test_is_never_posted_twice(self):
        for what, code, posts in ((dict(reset=True, after=True), 9, 1), (dict(cut=5), 9, 1),
                                  (dict(status=500), 8, 1), (dict(status=503), 8, 1),
                                  (dict(status=400), 1, 1), (dict(status=429), 0, 2)):
            self.server.clear()
            self.server.fault("/api/v1/scores", **what)
            with self.subTest(what=what):
                result = self.create("--name", "x", "--value", "1")
                self.assertEqual((result.code, len(self.bodies())), (code, posts), result)
                self.assertNotIn(self.env["TWOSIGNAL_API_KEY"], result.err)


############################################################
# Names for IDs
############################################################

NAMES = {"PROJECT": "Support Agent", "ORG": "Acme 東京", "EVALUATOR": "Has JSON",
         "DATASET": "Test Cases"}
BY_NAME = (                 # command lines with names in capitals, and questions for them
    ("traces list --project PROJECT", 2), ("traces check --project PROJECT --max-p95 9h", 2),
    ("traces wait --project PROJECT", 2), ("traces get TRACE --project PROJECT", 2),
    ("evaluators list --project PROJECT", 2), ("datasets list --project PROJECT", 2),
    ("api-keys list --project PROJECT", 2), ("projects list --org ORG", 1),
    ("projects create New --org ORG", 1), ("usage --org ORG", 1),
    ("evaluators toggle EVALUATOR --project PROJECT --disable", 3),
    ("evaluators delete EVALUATOR --project PROJECT -y", 3),
    ("datasets get DATASET --project PROJECT", 3),
    ("datasets add-item DATASET --project PROJECT --input 1", 3),
    ("datasets delete DATASET --project PROJECT -y", 3))


class Names(ChoiceCase):
    options = {}

    def line(self, text, names):
        words = dict(names, TRACE=self.server.traces[0])
        return [words.get(word, word) for word in text.split()]

    def ids(self):
        return {"PROJECT": self.server.project, "ORG": self.server.org,
                "EVALUATOR": self.server.evaluators[0], "DATASET": self.server.datasets[0]}

    def asked(self):
        return [request.procedures for request in self.server.requests]

    def changes(self, ids):
        """The bodies of the changes that were asked for, with a word for each ID."""
        found = json.dumps([request.body for request in self.server.requests
                            if request.method == "POST"])
        for word, one in ids.items():
            found = found.replace(one, word)
        return found

    def test_everywhere_in_both_dialects(self):
        for dialect, options in DIALECTS:
            seen = []
            for given in (None, NAMES):
                self.use(created="2026-03-14T10:30:00Z", **options)
                ids, given = self.ids(), given or self.ids()
                for text, questions in BY_NAME:
                    self.server.clear()
                    with self.subTest(dialect=dialect, line=text, by_id=given == ids):
                        self.assertOk(self.cli(*self.line(text, given)))
                    seen.append((self.asked(), self.changes(ids)))
            half = len(BY_NAME)
            for (text, questions), by_id, by_name in zip(BY_NAME, seen[:half], seen[half:]):
                with self.subTest(dialect=dialect, line=text):
                    self.assertEqual(by_name[1], by_id[1])
                    for asked in by_id[0]:
                        self.assertIn(asked, by_name[0])
                    self.assertLessEqual(len(by_name[0]) - len(by_id[0]), questions)

    def test_a_uuid_costs_no_further_question(self):
        for text, _ in BY_NAME:
            self.server.clear()
            with self.subTest(line=text):
                self.cli(*self.line(text, self.ids()))
                procedures = sum(self.asked(), [])
                self.assertEqual(procedures.count("project.list"),
                                 int(text.startswith("projects list")))
                self.assertEqual(procedures.count("organization.list"),
                                 int(text.startswith("usage")))
                for procedure in ("evaluator.list", "dataset.list"):
                    self.assertEqual(procedures.count(procedure),
                                     int(text.startswith(procedure.replace(".", "s "))))
        upper = self.server.project.upper()
        self.server.clear()
        self.cli("traces", "list", "--project", upper)
        self.assertEqual(self.asked(), [["trace.list"]])

    def test_variables(self):
        for name, value in (("TWOSIGNAL_PROJECT", "PROJECT"), ("TWOSIGNAL_ORG", "ORG")):
            line = ("traces", "list") if value == "PROJECT" else ("projects", "list")
            by_id = self.assertOk(self.cli(*line, env={name: self.ids()[value]}))
            by_name = self.assertOk(self.cli(*line, env={name: NAMES[value]}))
            self.assertEqual(by_id.out, by_name.out)

    def test_two_of_a_name(self):
        project, org = self.server.add_project("Support Agent"), self.server.add_org("Acme 東京")
        evaluator = self.server.add_evaluator(name="Has JSON")
        dataset = self.server.add_dataset(name="Test Cases")
        others = {"PROJECT": project, "ORG": org, "EVALUATOR": evaluator, "DATASET": dataset}
        for text, _ in BY_NAME:
            for name in NAMES:
                if name not in text:
                    continue
                self.server.clear()
                with self.subTest(line=text, name=name):
                    names = dict(self.ids(), **{name: NAMES[name]})
                    self.assertFails(self.cli(*self.line(text, names)), 2, NAMES[name],
                                     self.ids()[name], others[name], "2 ")
                    self.assertEqual([request for request in self.server.requests
                                      if request.method == "POST"], [])
        result = self.cli("traces", "list", "--json", "--project", "Support Agent")
        self.assertIn(project, result.error["message"] + result.error["hint"])

    def test_projects_of_several_organizations(self):
        org = self.server.add_org("Second")
        here, there = self.server.add_project("Twin"), self.server.add_project("Twin", org)
        self.server.add_trace(there, name="there")
        self.assertFails(self.cli("traces", "list", "--project", "Twin"), 2, here, there)
        for given in (org, "Second"):
            result = self.cli("traces", "list", "--project", "Twin", "--json",
                              env={"TWOSIGNAL_ORG": given})
            self.assertEqual([row["name"] for row in self.assertOk(result).json], ["there"])
        self.server.add_project("Single", org)
        self.assertOk(self.cli("traces", "list", "--project", "Single"))

    def test_names_that_are_not_there(self):
        for text in ("traces list --project Nowhere", "traces get x --project support\u00a0agent",
                     "usage --org Nowhere", "projects list --org nowhere",
                     "datasets delete Nowhere --project PROJECT -y",
                     "traces list --project Hidden\u00a0Project",
                     "evaluators toggle Nowhere --project PROJECT --enable"):
            with self.subTest(line=text):
                line = [word.replace("\u00a0", " ") for word in text.split(" ")]
                line = [self.server.project if word == "PROJECT" else word for word in line]
                self.assertFails(self.cli(*line), 6, "not found")
        for option in ("--project", "--org"):
            command = ("traces", "list") if option == "--project" else ("projects", "list")
            self.assertFails(self.cli(*command + (option, "")), 2, option)

    def test_ids_that_are_no_uuids_and_names_like_ids(self):
        self.server.add_project("first", id="proj_1")
        self.server.add_project("proj_1")                       # the ID goes before the name
        self.server.add_trace("proj_1", name="here")
        result = self.cli("traces", "list", "--project", "proj_1", "--json")
        self.assertEqual([row["name"] for row in self.assertOk(result).json], ["here"])

    def test_hostile_names(self):
        for name in ("-x", "a/b?c&d=%41", '"quoted"', "\x1b[31mred", "🤖", "  "):
            project = self.server.add_project(name)
            self.server.add_trace(project, name="in " + repr(name))
            with self.subTest(name=name):
                result = self.cli("traces", "list", "--project=" + name, "--json")
                if name.strip():
                    self.assertEqual([row["name"] for row in self.assertOk(result).json],
                                     ["in " + repr(name)])
                else:
                    self.assertFails(result, 2, "--project")
        self.server.add_project("\x1b[31mred")
        result = self.cli("traces", "list", "--project", "\x1b[31mred")
        self.assertFails(result, 2)
        self.assertNotIn("\x1b", result.err)

    def test_confirmation_shows_what_the_name_stands_for(self):
        result = self.cli("datasets", "delete", "Test Cases", "--project", "Support Agent",
                          stdin="n\n", tty=True)
        self.assertEqual(result.code, 1, result)
        self.assertIn(self.server.datasets[0], result.err)
        self.assertEqual(len(self.server.rows("datasets")), 1)

    def test_failures_while_asking(self):
        for what, code in ((dict(status=500), 8), (dict(reset=True), 3), (dict(status=401), 4)):
            self.server.clear()
            self.server.fault("project.list", times=None, **what)
            with self.subTest(what=what):
                self.assertFails(self.cli("traces", "list", "--project", "Support Agent"), code)
                self.assertEqual(self.server.count("trace.list"), 0)

    def test_rows_that_are_odd(self):
        rows = [{"id": None, "name": "Odd"}, {"name": "Odd2"}, {"id": "p", "name": None}, {}]
        body = {"result": {"data": {"json": rows}}}
        for name in ("Odd", "Odd2", "None", "p"):
            self.server.clear()
            self.server.fault("project.list", times=None, status=200, body=body)
            with self.subTest(name=name):
                result = self.cli("traces", "list", "--project", name)
                self.assertFails(result, 6)

    def test_an_organization_that_may_not_be_seen(self):
        """The project is looked for in the others."""
        self.log_in()
        other = self.server.add_org("Second")
        self.server.add_trace(project=self.server.add_project(name="In the second", org=other))
        real = self.server.world.see_org
        for options in (NEW, OLD):
            self.server.batching = options.get("batching", True)
            for code in ("FORBIDDEN", "NOT_FOUND"):
                def see_org(account, org, *roles):
                    if org == self.server.org:
                        raise standin.Refusal(code, "no")
                    return real(account, org, *roles)
                with mock.patch.object(self.server.world, "see_org", see_org):
                    result = self.cli("traces", "list", "--project", "In the second", "--json")
                self.assertEqual(len(self.assertOk(result).json), 1)

    def test_letters_with_accents_in_both_forms(self):
        self.log_in()
        for written, asked in (("Cafe\u0301", "Caf\u00e9"), ("\u00e9t\u00e9", "e\u0301te\u0301")):
            project = self.server.add_project(name=written)
            self.server.add_trace(project=project)
            self.assertEqual(len(self.assertOk(self.cli("traces", "list", "--project", asked,
                                                        "--json")).json), 1)

    def test_a_name_that_was_meant(self):
        self.log_in()
        self.assertFails(self.cli("traces", "list", "--project", "support agent"), 6,
                         "Project not found. Did you mean 'Support Agent'?")
        self.assertFails(self.cli("traces", "list", "--project", "nobody's"), 6,
                         "Project not found. Check the ID")

    def test_with_a_key_no_name_can_be_told(self):
        """A gate must not pass on the project of the key where another one is meant."""
        self.server.add_trace()
        key = {"TWOSIGNAL_API_KEY": self.server.secret(self.server.keys[0])}
        for line in ("list", "check --max-cost 9", "wait --timeout 1s", "tail"):
            for given in ({"TWOSIGNAL_PROJECT": "Other Project"},
                          {"TWOSIGNAL_PROJECT": self.server.hidden}):
                self.server.clear()
                with self.subTest(line=line, given=given):
                    result = self.cli("traces", *line.split(), env=dict(key, **given))
                    self.assertFails(result, 2, "TWOSIGNAL_PROJECT")
                    self.assertEqual(len(self.server.requests), 1)
        self.assertOk(self.cli("traces", "list", "--project", self.server.project.upper(), env=key))
