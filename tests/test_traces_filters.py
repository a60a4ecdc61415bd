"""The section Traces: filters, times, pages, and truncated lists."""
import datetime
import io
import json
import time
from unittest import mock

import standin
import twosignal
from tools import (DIALECTS, ShortClock, Steps, TestConsole, TracesCase, WrongClock, fails_from,
                   full, kept_signals, minutes_ago, nothing, procedure_inputs, replaced_environment,
                   requests_of, trpc_answer, trpc_error, wire_trace)

FILTERS = ("status", "name", "search", "tags", "startDate", "endDate")


class Row:
    """A trace of the small world that the filters are tested on."""

    def __init__(self, name, minutes, status="OK", duration=1000, cost=0.01, tags=(), **more):
        self.name, self.minutes, self.status = name, minutes, status
        self.duration, self.cost, self.tags = duration, cost, set(tags)
        self.session, self.metadata = more.get("session"), more.get("metadata")
        self.scores = more.get("scores", ())    # (evaluator, value, label), newest last


WORLD = (
    Row("Checkout agent", 1, cost=None, session="s-1", metadata={"tier": "pro", "n": 3}),
    Row("checkout", 5, "ERROR", 500, 0.05, ["production"], session="s-2", metadata={
        "customer": {"tier": "pro"}, "gen_ai.model": "x=1", "n": 3.5, "ok": True, "none": None},
        scores=[("helpful", 0.9, "pass"), ("toxic", 0.9, "Fail")]),
    Row("refund 支払い", 20, "OK", 5000, 0.05, ["production", "v2"], session="s-1",
        metadata={"customer": {"tier": "free"}, "n": "3"}, scores=[("helpful", 0.5, "pass")]),
    Row("refund", 29, "ERROR", None, 0.0499, ["v2", "a,b"], metadata=["tier", "pro"],
        scores=[("helpful", 0.2, "fail"), ("helpful", 0.8, None)]),
    Row("Émile's CHECKOUT", 31, "OK", 499, 0, ["produktion"]),
    Row("slow", 59, "ERROR", 61000, 1.5, ["v2", "production", "x y"]),
    Row("100% _", 61, "OK", 0, 0.05, ["V2"]),
    Row("yesterday", 1500, "OK", 5001, 0.05, ["production"]),
    Row("last week", 10000, "ERROR", 4999, 0.04, []),
    Row("last month", 40000, "OK", 120000, 2, ["v2"]),
)
QUERIES = (                 # options, and which rows of WORLD match them
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
    ("--since 1h30s", lambda row: row.minutes < 60.5),
    ("--since 1w0d1h1m", lambda row: row.minutes <= 10140),
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
    ("--session s-1", lambda row: row.session == "s-1"),
    ("--session S-1", lambda row: False),
    ("--metadata customer.tier=pro", lambda row: row.name == "checkout"),
    ("--metadata gen_ai.model=x=1", lambda row: row.name == "checkout"),
    ("--metadata n=3", lambda row: row.name in ("Checkout agent", "refund 支払い")),
    ("--metadata n=3.5 --metadata ok=true", lambda row: row.name == "checkout"),
    ("--metadata ok=True", lambda row: False),
    ("--metadata tier=pro --session s-2", lambda row: False),
    ("--max-score 0.5", lambda row: row.name == "refund 支払い"),
    ("--max-score 0.8", lambda row: row.name.startswith("refund")),
    ("--max-score toxic=0.9", lambda row: row.name == "checkout"),
    ("--max-score toxic=0.9 --max-score helpful=0.8", lambda row: False),
    ("--max-score nobody=1", lambda row: False),
    ("--label fail", lambda row: row.name == "checkout"),
    ("--label PASS --tag v2", lambda row: row.name == "refund 支払い"),
    ("--error --tag v2 --since 1h --min-duration 1s",
     lambda row: row.status == "ERROR" and "v2" in row.tags and row.minutes < 60
     and (row.duration or 0) >= 1000),
    ("--search refund --min-cost 0.05 --status OK --until 10m",
     lambda row: "refund" in row.name and (row.cost or 0) >= 0.05 and row.status == "OK"),
)


def fill_world(server):
    for row in WORLD:
        trace = server.add_trace(name=row.name, status=row.status, duration_ms=row.duration,
                                 cost=row.cost, tags=sorted(row.tags), sessionId=row.session,
                                 metadata=row.metadata, created=minutes_ago(row.minutes))
        for age, (evaluator, value, label) in enumerate(row.scores):
            server.add_score(trace, evaluator, value, label, created=minutes_ago(-age))


def is_relevant(given, unknown):
    """Whether a query has a filter that a server does not know."""
    words = {"status": ("--status", "--error"), "name": ("--search",), "search": ("--search",),
             "tags": ("--tag",), "startDate": ("--since",), "endDate": ("--until",)}
    return unknown is FILTERS or any(word in given for word in words[unknown])


class TraceFilters(TracesCase):
    def assert_queries(self, env=None, queries=QUERIES, **details):
        for given, wanted in queries:
            if env and ("score" in given or "--label" in given):
                continue            # a key cannot read scores
            with self.subTest(given=given, **details):
                self.assertEqual(self.names(*given.split(), env=env),
                                 [row.name for row in WORLD if wanted(row)])

    def test_unusable_values(self):
        """Traces without a name, tags or times, and a status in lower case."""
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
            self.assert_queries(dialect=dialect)

    def test_with_a_key(self):
        for envelope in (False, True):
            self.use(rest_envelope=envelope)
            fill_world(self.server)
            self.assert_queries(self.key(), envelope=envelope)
            self.assertEqual(self.server.count("/api/trpc/"), 0)

    def test_servers_that_do_not_know_one_of_them(self):
        for unknown in FILTERS + (FILTERS,):
            self.use(known_filters=tuple(name for name in FILTERS if name not in unknown
                                         and name != unknown))
            fill_world(self.server)
            step = 1 if unknown is FILTERS else full(3, 1)
            queries = [query for query in QUERIES if is_relevant(query[0], unknown)][::step]
            self.assert_queries(unknown=unknown, queries=queries)
            self.assert_queries(self.key(), queries[::full(3, 1)], unknown=unknown, key=True)

    def test_bare_list_of_a_server_that_knows_none(self):
        self.use(bare_list=True, known_filters=())
        fill_world(self.server)
        self.assert_queries(queries=QUERIES[::4])

    def test_the_server_gets_the_filters_that_it_may_know(self):
        self.list("--error", "--search", "x", "--tag", "a", "--tag", "b",
                  "--since", "2026-03-14T10:30:00.25+02:00", "--until", "2026-03-15")
        self.assertEqual(procedure_inputs(self.server, "trace.list"), [{
            "projectId": self.server.project, "limit": 20, "status": "ERROR", "search": "x",
            "name": "x", "tags": ["a", "b"], "startDate": "2026-03-14T08:30:00.250Z",
            "endDate": "2026-03-16T00:00:00.000Z"}])

    def test_the_rest_api_gets_the_filters_that_it_may_know(self):
        self.list("--status", "ok", "--search", "x & y", "--tag", "a", "--tag", "b", "--tag",
                  "c,d", "--since", "2026-03-14", env=self.key())
        request, = requests_of(self.server, "/api/v1/traces")
        self.assertEqual(request.query, {"limit": "20", "status": "OK", "name": "x & y",
                                         "tags": "a,b", "startDate": "2026-03-14T00:00:00.000Z"})

    def test_what_a_key_cannot_read(self):
        """What needs scores, spans or sessions fails, in place of finding nothing."""
        fill_world(self.server)
        for command, given in (("list", "--max-score 0.5"), ("list", "--label fail"),
                               ("list", "--sort score"), ("check", "--max-cost 1 --label fail"),
                               ("wait", "--max-score 0.5"), ("tail", "--label fail"),
                               ("list", "--fields id,error_message"), ("list", "--spans --json"),
                               ("list", "--fields id,spans.0.name")):
            with self.subTest(command=command, given=given):
                result = self.traces(command, *given.split(), env=self.key())
                self.assertFails(result, 4, "A project API key cannot read s", "login")
                self.assertEqual(result.out, "")
        page = {"traces": [{"id": "a", "name": "a"}, {"id": "b", "name": "b"}]}
        self.server.fault("/traces", times=2, status=200, body=page)
        result = self.assertOk(self.list("--session", "s-1", env=self.key()))
        self.assertIn("0 of 2 scanned traces match. None of them has the field session_id.",
                      result.err)
        self.assertEqual(self.check("--max-cost", "1", "--session", "s-1", env=self.key()).code, 11)

    def test_a_value_in_metadata_that_is_null(self):
        for metadata in ({"a": {"b": None}}, {"a": {}}, {}, None, "text", [1], 5):
            self.server.add_trace(name=str(metadata), metadata=metadata)
        self.assertEqual(self.names("--metadata", "a.b=null"), ["{'a': {'b': None}}"])

    def test_scores_are_asked_for_after_all_other_filters(self):
        self.use(**dict(DIALECTS)["old"])
        fill_world(self.server)
        self.assertEqual(self.names("--label", "pass", "--tag", "v2"), ["refund 支払い"])
        self.assertEqual(self.server.count("trace.byId"), 2)      # that have scores at all

    def test_check_wait_and_tail_filter_alike(self):
        self.use(known_filters=())
        fill_world(self.server)
        project = ("--project", self.server.project)
        for given, wanted in QUERIES[::5] + QUERIES[-6:-2]:
            expected = [row.name for row in WORLD if wanted(row)]
            options = project + tuple(given.split())
            with self.subTest(given=given):
                found = self.cli("traces", "check", "--json", "--max-p95", "9h", *options).json
                self.assertEqual(found["traces"], len(expected))
                found = self.cli("traces", "wait", "--json", "--count", "99", "--timeout", "0.01s",
                                 *options).json
                self.assertEqual(found["found"], len(expected))
                found = self.cli("traces", "tail", "-n", "100", "--format", "jsonl", *options,
                                 naps=Steps()).lines
                self.assertEqual([json.loads(line)["name"] for line in found], expected[::-1])


class FilterTimes(TracesCase):
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
            self.assertEqual(self.names("--until", "2026-03-13"), [])
            self.assertEqual(self.names("--until", "2026-03-14T00:00"), ["midnight"])

    def test_until_a_date_includes_that_day(self):
        for place, created in enumerate((
                "2026-03-13T23:59:59.999Z", "2026-03-14T00:00:00.000Z", "2026-03-14T23:59:59.999Z",
                "2026-03-15T00:00:00.000Z")):
            self.server.add_trace(name=str(place), created=created)
        for env in (None, self.key()):
            for known in (FILTERS, ()):
                self.server.known_filters = known
                with self.subTest(env=env, known=known):
                    day = ("--since", "2026-03-14", "--until", "2026-03-14")
                    self.assertEqual(self.names(*day, env=env), ["2", "1"])
                    self.assertEqual(self.names(*day[2:], env=env), ["2", "1", "0"])
                    self.assertEqual(self.names("--since", "2026-03-15", env=env), ["3"])

    def test_the_day_ends_with_its_last_microsecond(self):
        rows = [{"id": moment, "createdAt": "2026-03-1" + moment + "Z"} for moment in (
            "5T00:00:00", "4T23:59:59.999999", "4T23:59:59.9995", "4T23:59:59.999")]
        self.server.fault("trace.list", times=None, status=200,
                          body={"result": {"data": {"json": {"traces": rows}}}})
        result = self.assertOk(self.list("--until", "2026-03-14", "--json"))
        self.assertEqual([row["id"] for row in result.json], [row["id"] for row in rows[1:]])

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

    def test_a_time_beyond_the_calendar_is_refused(self):
        self.assertFails(self.list("--since", "999999999w"), 2,
                         "Invalid --since '999999999w': ")
        self.assertEqual(self.server.requests, [])

    def test_a_server_without_the_filter_is_not_read_to_its_end(self):
        self.use(known_filters=())
        self.add(10)
        for place in range(500):
            self.server.add_trace(created=minutes_ago(3000 + place))
        self.server.clear()
        self.assertEqual(len(self.names("--since", "1h", "--all")), 10)
        self.assertLessEqual(self.server.count("trace.list"), 3)


class WrongClocks(TracesCase):
    """The traces are those of the last 5 minutes, whatever this machine takes for now."""

    HOURS = 7200
    COMMANDS = (("list", "--all", "--json"), ("check", "--json", "--max-p95", "9h"),
                ("wait", "--json", "--count", "9", "--timeout", "0.01s"),
                ("tail", "-n", "9", "--format", "jsonl"))

    def setUp(self):
        super().setUp()
        for minutes in (1, 4, 6, 100, 1000, -100):
            self.server.add_trace(name=str(minutes), created=minutes_ago(minutes))

    def run_with(self, clock, command, *options, key=False, env=None):
        """(the traces that a command finds, or how many; how often it asked for them; stderr)."""
        if command[0] == "tail":
            clock.naps = Steps()
        clock.naps[:] = []
        self.log_in()
        self.server.clear()
        result = self.traces(*(command + options), env=self.key() if key else env, clock=clock)
        self.assertIn(result.code, (0, 11), result)
        requests = self.server.count("/api/v1/traces" if key else "trace.list")
        if command[0] == "list":
            found = [row["name"] for row in result.json]
        elif command[0] == "tail":
            found = [json.loads(line)["name"] for line in result.lines][::-1]
        else:
            found = result.json["traces" if command[0] == "check" else "found"]
        return found, requests, result.err

    def test_choose_the_same_traces(self):
        """Row 55: 2 hours fast, 2 hours slow, and jumps meanwhile."""
        for ahead, jump in ((self.HOURS, 0), (-self.HOURS, 0), (self.HOURS, 86400),
                            (-self.HOURS, -86400)):
            for command in self.COMMANDS:
                for key in (False, True):
                    for known in ((), FILTERS):
                        self.server.known_filters = known
                        self.check_choice(WrongClock(ahead, jump), command, key)

    def check_choice(self, clock, command, key):
        direction = "ahead of" if clock.ahead > 0 else "behind"
        is_counted = command[0] in ("check", "wait")
        with self.subTest(ahead=clock.ahead, jump=clock.jump, command=command[0], key=key,
                          known=self.server.known_filters):
            expected = ["4"]
            found, _, err = self.run_with(clock, command, "--since", "5m", "--until", "3m",
                                          key=key)
            self.assertEqual(found, len(expected) if is_counted else expected)
            self.assertEqual(err.count("this machine's clock is 120 minutes " + direction), 1)
            self.assertEqual(err.count("clock"), 1)

    def test_ask_again_only_if_needed(self):
        """Row 55: not if the times are fixed, or the server's clock is known or right."""
        name = {"TWOSIGNAL_PROJECT": "Support Agent"}
        by_name = ("list", "--project", "Support Agent", "--all", "--json")
        for command in self.COMMANDS[:2] + (("wait", "--json"), self.COMMANDS[3]):
            for ahead, options, requests in (
                    (-self.HOURS, ("--since", "5m"), 2), (-self.HOURS, ("--until", "5m"), 2),
                    (-self.HOURS, ("--since", "2026-03-14"), 1), (-self.HOURS, (), 1),
                    (0, ("--since", "5m"), 1), (50, ("--since", "5m"), 1),
                    (-50, ("--since", "5m"), 1)):
                with self.subTest(command=command[0], ahead=ahead, options=options):
                    for key in (False, True):
                        _, asked, err = self.run_with(WrongClock(ahead), command, *options,
                                                      key=key)
                        self.assertEqual(asked, requests)
                        self.assertEqual("clock" in err, abs(ahead) > 60)
        found, asked, _ = self.run_with(WrongClock(-self.HOURS), by_name, "--since", "5m", env=name)
        self.assertEqual((found, asked), (["-100", "1", "4"], 1))

    def test_pages_of_the_first_answer_are_not_used(self):
        """Row 55: what a wrong time chose is neither shown nor counted."""
        for command in self.COMMANDS[:2]:
            for place in range(120):
                self.server.add_trace(name="old", created=minutes_ago(60))
            found, _, err = self.run_with(WrongClock(-self.HOURS), command, "--since", "5m")
            self.assertIn(found, (["-100", "1", "4"], 3))
            self.assertNotIn("scanned", err)

    def test_a_date_that_cannot_be_right_teaches_nothing(self):
        """Row 55: a server without a Date, or with nonsense in it; and a cache's copy."""
        for date in (None, "", "soon", "0", "Thu, 01 Jan 1970 00:00:00 GMT",
                     "Mon, 99 Jan 2026 00:00:00 GMT", "Mon, 01 Jan 99999 00:00:00 GMT",
                     "\x80\xff", "GMT", "2026-03-14T10:30:00Z", ",", "1 2 3 4 5"):
            with self.subTest(date=date):
                self.server.date = date
                found, asked, err = self.run_with(ShortClock(), self.COMMANDS[0], "--since", "5m")
                self.assertEqual((found, asked, err), (["-100", "1", "4"], 1, ""))
        self.server.date = -self.HOURS
        take, self.server.take_fault = self.server.take_fault, lambda request: standin.Fault(
            "", None, headers={"Age": "7200"})
        found, asked, err = self.run_with(ShortClock(), self.COMMANDS[0], "--since", "5m")
        self.assertEqual((found, asked, err), (["-100", "1", "4"], 1, ""))
        self.server.take_fault = take

    def test_the_first_answer_decides(self):
        """Row 55: the times stay as they are while a command polls, whatever a later Date says."""
        def go_wrong():
            self.server.date = -self.HOURS

        result = self.assertOk(self.traces("tail", "--since", "5m", "--format", "jsonl",
                                           naps=Steps(go_wrong, nothing)), err="\n")
        self.assertEqual(len(result.lines), 3)
        starts = {given["startDate"] for given in procedure_inputs(self.server, "trace.list")}
        self.assertEqual(len(starts), 1)

    def test_fractions_of_a_millisecond(self):
        """The server is asked in milliseconds, so what it returns has to match."""
        self.server.date = None
        now = 1.7e9
        self.server.add_trace(name="edge", created=twosignal.wire_timestamp(now - 300))
        clock = ShortClock()
        for fraction in (0, 0.0004):
            clock.time = iter([now + fraction] * 9).__next__
            found, _, err = self.run_with(clock, self.COMMANDS[0], "--since", "5m", "--until",
                                          "2024-01-01")
            self.assertEqual((found, err), (["edge"], ""))

    def test_the_warning(self):
        """Row 55: told by every command, in words, unless --quiet is given."""
        for date, words in ((600, "10 minutes behind"), (-125, "2 minutes ahead of"),
                            (5400, "90 minutes behind"), (-7200, "120 minutes ahead of"),
                            (-5 * 86400, "5 days ahead of")):
            self.server.date = date
            with self.subTest(date=date):
                self.assertEqual(self.assertOk(self.cli("projects", "list", "--org",
                                                        self.server.org)).err, (
                    "Warning: this machine's clock is " + words + " the server's, which is used "
                    "for relative times such as --since 5m.\n"))
                self.assertOk(self.cli("orgs", "list", "-q"), err="")

    def test_times_of_both_kinds(self):
        """Row 55: whether --since is before --until is decided by the server's clock."""
        five, three = (minutes_ago(minutes).strftime("%Y-%m-%dT%H:%M:%SZ") for minutes in (5, 3))
        for ahead in (self.HOURS, -self.HOURS):
            for key in (False, True):
                for since, until in (("5m", three), (five, "3m")):
                    with self.subTest(ahead=ahead, key=key, since=since, until=until):
                        found, _, _ = self.run_with(WrongClock(ahead), self.COMMANDS[0], "--since",
                                                    since, "--until", until, key=key)
                        self.assertEqual(found, ["4"])
        self.assertFails(self.list("--since", "1h", "--until", "2026-03-14"), 2,
                         "--since is not before --until. 30m means 30 minutes ago.")

    def test_a_server_that_refuses_times_in_its_future(self):
        """Row 55: it is asked again, by its own clock."""
        take = self.server.take_fault

        def refused(request):
            start = request.query.get("startDate") or ""
            is_refused = start > twosignal.wire_timestamp(time.time())
            return standin.Fault("", None, status=400, body={"error": "startDate"}) if (
                is_refused) else take(request)

        self.server.take_fault = refused
        found, asked, _ = self.run_with(WrongClock(self.HOURS), self.COMMANDS[0], "--since", "5m",
                                        key=True)
        self.assertEqual((found, asked), (["-100", "1", "4"], 2))


INVALID = (
    ("--since", "yesterday-ish"), ("--since", "30"), ("--since", "30x"), ("--since", "-30m"),
    ("--since", "1h 30m"), ("--since", "30m1h"), ("--since", "1h1h"), ("--since", "1h30"),
    ("--since", "9999w9999999d"), ("--since", "1.5h"), ("--since", ""),
    ("--since", "2026-02-30"), ("--since", "2026-3-4"),
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
    ("--metadata", "tier"), ("--metadata", "=pro"), ("--metadata", " =pro"), ("--session", ""),
    ("--max-score", "1.1"), ("--max-score", "=0.5"), ("--max-score", "helpful"), ("--label", " "),
    ("--sort", "name"), ("--sort", ""),
    ("--fields", ""), ("--fields", ","), ("-o", ""), ("--limit", "all"))


class BadFilters(TracesCase):
    options = {"empty": True}
    shared = True

    def test_each_is_one_line_without_a_request(self):
        for option, value in INVALID:
            with self.subTest(option=option, value=value):
                flag = {"-o": "--output"}.get(option, option)
                self.assertFails(self.list(option, value), 2, flag)
                self.assertEqual(self.server.requests, [])

    def test_the_same_for_all_that_filter(self):
        for command in ("check", "wait", "tail"):
            for option, value in INVALID[:32:5]:
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
                ("--since 2026-03-15 --until 2026-03-15T00:00Z", ("--since", "--until")),
                ("--since 1h --until 1h", ("--since", "--until")),
                ("--min-duration 5s --max-duration 4999ms", ("--min-duration", "--max-duration")),
                ("--metadata a=1 --metadata a=2", ("--metadata", "two values")),
                ("--spans", ("--spans", "json")), ("--spans --format csv", ("--spans", "json")),
                ("--spans --fields id --json", ("--spans", "--fields")),
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


class CountingConsole(TestConsole):
    """Notes what is printed: `printed` lists (what count() returned at that time, text)."""

    def __init__(self, count):
        super().__init__([io.StringIO() for _ in range(3)], ShortClock())
        self.count = count
        self.printed = []

    def print(self, text, **options):
        self.printed.append((self.count(), text))
        super().print(text, **options)


class FilteredPages(TracesCase):
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

    def test_how_many_were_scanned(self):
        self.add_some_slow(250, 50)
        result = self.assertOk(self.list("--min-duration", "5s", "--all"))
        self.assertEqual(result.err, "5 of 250 scanned traces match.\n")
        result = self.assertOk(self.list("--min-duration", "1h", "--all"))
        self.assertEqual(result.out, "No traces found.\n")
        self.assertEqual(result.err, "0 of 250 scanned traces match.\n")
        self.assertOk(self.list("--max-duration", "1h", "--all"),
                      err="250 of 250 scanned traces match.\n")
        self.assertOk(self.list("--status", "OK", "--all"), err="")

    def test_how_many_were_scanned_until_the_limit(self):
        self.add_some_slow(250, 50)
        self.assertOk(self.list("--min-duration", "5s", "--limit", "3"), err=(
            "Showing 3 traces; more exist. Use --limit N or --all. Scanned 200 traces.\n"))

    def test_how_many_were_scanned_of_a_server_that_ignores_a_filter(self):
        self.use(known_filters=())
        for place in range(250):
            self.server.add_trace(status="ERROR" if place == 120 else "OK")
        result = self.assertOk(self.list("--error", "--json"))
        self.assertEqual(len(result.json), 1)
        self.assertEqual(result.err, "1 of 250 scanned traces match.\n")

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

    def test_scores_need_no_additional_connection(self):
        self.add(120, scores=[{"evaluatorName": "tone", "value": 0.5}])
        self.server.connections = 0
        result = self.assertOk(self.list("--all", "--json"))
        self.assertEqual({len(row["scores"]) for row in result.json}, {1})
        self.assertEqual(self.server.connections, 1)

    def test_pages_are_printed_as_they_are_fetched(self):
        ids = self.add(250)
        for form in twosignal.FORMATS:
            self.server.clear()
            console = CountingConsole(lambda: self.server.count("trace.list"))
            with replaced_environment(self.environment), kept_signals():
                code = twosignal.main(["traces", "list", "--project", self.server.project, "--all",
                                       "--format", form], console)
            self.assertEqual(code, 0, form)
            first = next(count for count, text in console.printed if ids[0] in text)
            last = next(count for count, text in console.printed if ids[249] in text)
            self.assertEqual((first <= 2, last), (True, 3), form)

    def test_a_page_that_fails_half_way(self):
        self.add(250)
        for form in ("jsonl", "json", "csv", "table", "markdown", "html"):
            self.server.clear()
            with self.subTest(form=form), fails_from(self.server, 2, status=403):
                result = self.list("--all", "--format", form)
                self.assertEqual(result.code, 5, result)
                self.assertNotIn("Traceback", result.err)
                self.assertNotIn("scanned", result.err)

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

    def test_traces_that_arrive_between_two_pages_change_nothing(self):
        self.add(250)
        page = self.server.world.page

        def moving(project, given):
            found = page(project, given)
            self.server.add_trace(name="new")
            return found

        with mock.patch.object(self.server.world, "page", moving):
            self.assertEqual(self.names("--all"), ["trace %d" % place for place in range(250)])


def rows_by(key, reverse=False):
    """The names in WORLD in that order; those without a value come last."""
    known = [row for row in WORLD if key(row) is not None]
    unknown = [row.name for row in WORLD if key(row) is None]
    return [row.name for row in sorted(known, key=key, reverse=reverse)] + unknown


def lowest(row):
    newest = {evaluator: value for evaluator, value, _ in row.scores}
    return min(newest.values(), default=None)


class SortedLists(TracesCase):
    ORDERS = (("created", lambda row: -row.minutes, True), ("cost", lambda row: row.cost, True),
              ("duration", lambda row: row.duration, True), ("score", lowest, False))

    def test_each_key_in_both_directions(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            fill_world(self.server)
            for key, value, descends in self.ORDERS:
                with self.subTest(dialect=dialect, key=key):
                    self.assertEqual(self.names("--sort", key), rows_by(value, descends))
                    self.assertEqual(self.names("--sort", key, "-r"), rows_by(value, not descends))
        self.assertEqual(self.names("--reverse"), [row.name for row in WORLD][::-1])

    def test_with_a_key(self):
        fill_world(self.server)
        for key, value, descends in self.ORDERS[:3]:
            self.assertEqual(self.names("--sort", key, env=self.key()), rows_by(value, descends))

    def test_the_limit_is_that_of_all_that_match(self):
        for place in range(250):
            self.server.add_trace(name=str(place), duration_ms=1000 + (place * 77) % 250,
                                  totalTokens=place, created=minutes_ago(place))
        result = self.assertOk(self.list("--sort", "duration", "-n", "3", "--json"))
        self.assertEqual([row["duration_ms"] for row in result.json], [1249, 1248, 1247])
        self.assertIn("Showing 3 traces; more exist.", result.err)
        result = self.assertOk(self.list("--sort", "tokens", "-n", "2", "--max-duration", "1.1s"))
        self.assertEqual(result.lines[0].split(),
                         ["ID", "Status", "Duration", "Cost", "Tokens", "Created", "Name"])
        self.assertIn("Scanned 250 traces.", result.err)
        self.assertEqual(self.assertOk(self.list("--sort", "cost", "--all", "--json"),
                                       err="").json[249]["cost_usd"], 0.012)
        self.assertEqual(self.list("--sort", "cost", "-n", "3", "--fail-if-truncated").code, 10)
        self.assertOk(self.list("--sort", "cost", "-n", "250", "--fail-if-truncated"))

    def test_the_order_of_pages_needs_no_more_pages(self):
        self.add(150)
        self.assertEqual(self.names("--sort", "created", "-n", "2"), ["trace 0", "trace 1"])
        self.assertEqual(self.server.count("trace.list"), 1)

    def test_scores_are_shown_and_asked_for_only_for_what_is_shown(self):
        self.use(**dict(DIALECTS)["old"])
        fill_world(self.server)
        self.names("--sort", "cost", "-n", "2", "--fields", "name,scores")
        self.assertEqual(self.server.count("trace.byId"), 0)      # none of them has scores
        result = self.assertOk(self.list("--sort", "score", "-n", "2"))
        self.assertEqual([line.split()[4] for line in result.lines[2:]], ["0.5", "0.8"])

    def test_a_server_without_pages_cannot_be_sorted(self):
        self.use(bare_list=True)
        self.add(101)
        self.assertFails(self.list("--sort", "cost"), 8, "more may exist")


class ListedSpans(TracesCase):
    """What --spans and --fields add to a listing: spans, and error messages."""

    def setUp(self):
        super().setUp()
        self.fill()

    def fill(self):
        span = {"name": "step", "input": {"userQuery": "hi"}}
        failed = {"status": "ERROR", "errorMessage": "later", "name": "b"}
        self.server.add_trace(name="ok", created=minutes_ago(1), spans=[dict(span), failed])
        self.server.add_trace(name="bad", status="ERROR", created=minutes_ago(2), spans=[
            dict(failed, startTime="2026-03-14T10:30:01.000Z"),
            dict(failed, startTime="2026-03-14T10:30:00.000Z", errorMessage="first", name="a")],
            scores=[{"value": 0.4}])
        self.server.add_trace(name="none", status="ERROR", created=minutes_ago(3))

    def test_spans(self):
        for dialect, options in DIALECTS:
            with self.subTest(dialect=dialect):
                self.use(**options)
                self.fill()
                rows = self.assertOk(self.list("--spans", "--json"), err="").json
                self.assertEqual([[span["name"] for span in row["spans"]] for row in rows],
                                 [["step", "b"], ["b", "a"], []])
                self.assertEqual(rows[0]["spans"][0]["input"], {"userQuery": "hi"})
                self.assertEqual(rows[0]["spans"][1]["error_message"], "later")
                self.assertEqual([row["error_message"] for row in rows], [None, "first", None])
                self.assertEqual([score["score"] for score in rows[1]["scores"]], [0.4])
                # The scores come with the spans, or have come with the list.
                name = "trace.byId" if dialect == "old" else "trace.getById"
                answered = [name] if dialect == "old" else [name] * 3
                requests = [request for request in self.server.requests
                            if request.procedures == answered]
                self.assertEqual(len(requests), 3 // len(answered))
        rows = self.assertOk(self.list("--fields", "name,spans.0.name", "--format", "csv"))
        self.assertEqual(rows.lines, ["name,spans.0.name", "ok,step", "bad,b", "none,"])
        self.assertIn("spans.0.name", self.assertOk(self.list("--spans", "--fields", "?",
                                                              "--json")).out)
        self.assertOk(self.list("--spans", "--fields", "?"))

    def test_error_messages(self):
        result = self.assertOk(self.list("--fields", "name,error_message", "--format", "csv"))
        self.assertEqual(result.lines, ["name,error_message", "ok,", "bad,first", "none,"])
        ids = [values["id"] for values in procedure_inputs(self.server, "trace.getById")]
        self.assertEqual(len(ids), 2)       # the one that is OK is not asked for
        self.server.clear()
        self.assertOk(self.list("--fields", "name", "--json"))
        self.assertEqual(self.server.count("getById"), 0)

    def test_in_a_tail(self):
        result = self.traces("tail", "-n", "3", "--error", "--format", "jsonl",
                             "--fields", "name,error_message", naps=Steps())
        self.assertEqual([json.loads(line) for line in result.lines],
                         [{"name": "none", "error_message": None},
                          {"name": "bad", "error_message": "first"}])

    def test_only_of_what_is_shown(self):
        self.add(30, duration_ms=5000)
        self.assertEqual(len(self.assertOk(self.list("--sort", "duration", "-n", "2", "--spans",
                                                     "--json")).json), 2)
        self.assertEqual(len(procedure_inputs(self.server, "trace.getById")), 2)

    def test_a_trace_that_is_deleted_meanwhile(self):
        gone = trpc_error("NOT_FOUND", 404, "Trace not found")
        self.server.fault("getById", times=None, status=207, body=[gone, gone, gone])
        rows = self.assertOk(self.list("--fields", "spans", "--json")).json
        self.assertEqual(rows, [{"spans": []}] * 3)

    def test_a_server_that_does_not_return_them(self):
        for spans in (None, "many", {}):
            answer = trpc_answer(dict(wire_trace(), spans=spans))
            self.server.fault("getById", status=200, body=[answer] * 3)
            self.assertFails(self.list("--spans", "--json"), 8, "does not return the spans")


class TruncatedLists(TracesCase):
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
                self.assertEqual(result.err.count("more exist"), 1 if code else 0)    # once
                self.assertEqual(result.error and result.error["code"],
                                 "CHECK_FAILED" if code else None)

    def test_the_error_names_the_options_that_help(self):
        self.add(21)
        result = self.list("--fail-if-truncated")
        self.assertEqual(len(result.lines), 22)
        self.assertEqual(result.err, "Error: Showing 20 traces; more exist. "
                         "Use --limit N or --all.\n")

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

    def test_a_cursor_without_a_trace_after_it(self):
        rows = [{"id": str(place), "name": "n"} for place in range(20)]
        for page in ({"traces": rows, "nextCursor": "c"}, {"traces": []}):
            self.server.fault("trace.list", times=1, status=200,
                              body={"result": {"data": {"json": page}}})
        self.assertOk(self.list("--fail-if-truncated", "-n", "20"), err="")

    def test_whether_more_exist_may_be_unknown(self):
        self.use(known_filters=())
        for place in range(150):
            self.server.add_trace(name="needle" if place == 149 else "hay",
                                  created=minutes_ago(place))
        result = self.assertOk(self.list("--search", "hay", "-n", "100"))
        self.assertEqual(result.err, "Showing 100 traces; more exist. Use --limit N or --all.\n")
        result = self.assertOk(self.list("--search", "needle", "-n", "1"))
        self.assertEqual(result.err, "Scanned 150 traces.\n")
        for name in ("needle", "hay"):
            self.server.add_trace(name=name)
        result = self.assertOk(self.list("--search", "needle", "-n", "1"))
        self.assertEqual(result.err, "Showing 1 trace; more may exist. Use --limit N or --all. "
                         "Scanned 101 traces.\n")

    def test_with_a_key(self):
        self.add(21)
        self.assertEqual(self.list("--fail-if-truncated", env=self.key()).code, 10)
        self.assertEqual(self.list("--fail-if-truncated", "--all", env=self.key()).code, 0)

    def test_a_truncated_list_does_not_replace_a_file(self):
        self.add(21)
        path = self.write("out.json", "before")
        self.assertFails(self.list("--fail-if-truncated", "-o", path), 10)
        with open(path) as file:
            self.assertEqual(file.read(), "before")
        self.assertOk(self.list("--fail-if-truncated", "--all", "--json", "-o", path))
        with open(path) as file:
            self.assertEqual(len(json.load(file)), 21)


class ListsWithoutPages(TracesCase):
    """A server that answers with a bare list: a full one may be all there is, or not."""

    options = {"empty": True, "bare_list": True}
    no_pages = ("Error: This server returned 100 traces and has no further pages: more may exist. "
                "Use narrower --since and --until.\n")

    def test_a_full_list_may_not_be_all(self):
        self.add(120)
        self.assertOk(self.list(),
                      err="Showing 20 traces; more may exist. Use --limit N or --all.\n")
        for limit in ("100", "101", "120", "500"):
            with self.subTest(limit=limit):
                result = self.assertOk(self.list("-n", limit))
                self.assertEqual(len(result.lines), 2 + 100)
                self.assertEqual(result.err, "Showing 100 traces; more may exist. "
                                 "Use narrower --since and --until.\n")

    def test_a_short_list_is_all(self):
        self.add(21)
        self.assertOk(self.list("-n", "22"), err="")
        self.assertEqual(self.server.count("trace.list"), 1)

    def test_all_of_them(self):
        for count, code in ((99, 0), (100, 8), (101, 8)):
            self.use()
            self.add(count)
            with self.subTest(count=count):
                result = self.list("--all", "--fields", "name", "--format", "csv")
                self.assertEqual(result.code, code, result)
                self.assertEqual(len(result.lines), 1 + min(count, 100))
                self.assertEqual(result.err, self.no_pages if code else "")

    def test_all_as_json(self):
        self.add(100)
        result = self.list("--all", "--json")
        self.assertEqual((result.code, result.error["code"]), (8, "UNSUPPORTED"), result)

    def test_all_leaves_a_file_alone(self):
        self.add(100)
        path = self.write("out.jsonl", "before")
        self.assertFails(self.list("--all", "-o", path), 8)
        with open(path) as file:
            self.assertEqual(file.read(), "before")

    def test_all_of_a_narrower_time(self):
        self.add(100)
        self.assertEqual(len(self.names("--all", "--since", "5850s")), 98)

    def test_a_list_beyond_the_limit_is_all(self):
        """A server that knows no limit returns everything."""
        self.add(150)
        page = self.server.world.page
        with mock.patch.object(self.server.world, "page", lambda project, values: page(
                project, dict(values, limit=1000))):
            self.assertEqual(len(self.names("--all")), 150)
            self.assertOk(self.list("-n", "20"),
                          err="Showing 20 traces; more exist. Use --limit N or --all.\n")

    def test_fail_if_truncated(self):
        self.add(100)
        for limit, code, error in (
                ("20", 10, "Showing 20 traces; more exist. Use --limit N or --all."),
                ("99", 10, "Showing 99 traces; more exist. Use --limit N or --all."),
                ("100", 10, "Showing 100 traces; more may exist. "
                 "Use narrower --since and --until."),
                ("200", 10, "Showing 100 traces; more may exist. "
                 "Use narrower --since and --until.")):
            with self.subTest(limit=limit):
                result = self.list("-n", limit, "--fail-if-truncated")
                self.assertEqual(result.code, code, result)
                self.assertEqual(len(result.lines), 2 + min(int(limit), 100))
                self.assertEqual(result.err, f"Error: {error}\n")
        for limit in ("98", "99"):
            self.assertOk(self.list("-n", limit, "--fail-if-truncated", "--since", "5850s"),
                          err="")

    def test_filters_that_the_server_ignores(self):
        """A part of a page may not match, so a whole one is read before the list ends."""
        self.use(bare_list=True, known_filters=())
        self.add(50)
        self.add(1, name="failed", status="ERROR", created=minutes_ago(99))
        self.assertEqual(self.names("--error", "-n", "1"), ["failed"])
        self.assertEqual(self.names("--search", "trace", "--all"),
                         ["trace %d" % place for place in range(50)])

    def test_filters_on_a_full_list(self):
        """What no server filters is filtered from whole pages: the rest is not known."""
        self.add(100, duration_ms=100)
        self.add(3, name="slow", duration_ms=60000)
        result = self.list("--min-duration", "5s", "--json")
        self.assertEqual([row["name"] for row in self.assertOk(result).json], ["slow"] * 3)
        self.assertEqual(result.err, "Showing 3 traces; more may exist. Use narrower --since and "
                         "--until. 3 of 100 scanned traces match.\n")
        self.assertEqual(self.list("--min-duration", "5s", "--fail-if-truncated").code, 10)
