"""The section Traces: `traces tail`."""
import csv
import datetime
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import unittest
from unittest import mock

import standin
import twosignal
from tools import (DEADLINE, DIALECTS, PYPY, PROGRAM, PassingClock, Steps, TracesCase, costly, full,
                   merged, minutes_ago, nothing, posix, takes_at_most, trpc_answer)


def interrupted(procedure):
    """A Transport.request in which Ctrl-C arrives before that procedure is called."""
    real = twosignal.Transport.request

    def request(transport, method, url, *args, **kwargs):
        if procedure in url:
            raise KeyboardInterrupt
        return real(transport, method, url, *args, **kwargs)
    return request


class Tailing(TracesCase):
    def tail(self, *args, steps=(), **kwargs):
        result = self.traces("tail", *args, naps=Steps(*steps), **kwargs)
        self.assertNotIn("Traceback", result.err)
        return result

    def named(self, *args, **kwargs):
        """The names of the traces that tail prints, in their order."""
        result = self.tail("--format", "jsonl", *args, **kwargs)
        self.assertEqual(result.code, 0, result)
        return [json.loads(line)["name"] for line in result.lines]

    def add_named(self, *names, **fields):
        for name in names:
            self.server.add_trace(name=name, **fields)

    def add_burst(self, prefix, count, later=0):
        """That many traces, a millisecond apart, the last one now, or that many minutes later."""
        last = minutes_ago(-later)
        for place in range(count):
            created = last - datetime.timedelta(milliseconds=count - 1 - place)
            self.server.add_trace(name="%s %d" % (prefix, place), created=created)

    def serve_pages(self, page):
        """Let trace.list answer with page(input), in place of the traces of the server."""
        take = self.server.take_fault

        def answer(request):
            if "trace.list" not in request.path:
                return take(request)
            values = json.loads(request.query["input"])["json"]
            return standin.Fault("", None, status=200, body=trpc_answer(page(values)))
        self.server.take_fault = answer

    def test_new_traces_oldest_first_in_both_dialects(self):
        for dialect, options in DIALECTS:
            self.use(**options)
            self.add_named("a", created=minutes_ago(9))
            self.add_named("b", created=minutes_ago(8))
            with self.subTest(dialect=dialect):
                names = self.named(steps=(lambda: self.add_named("c"), nothing,
                                          lambda: self.add_named("d", "e"), nothing))
                self.assertEqual(names, list("abcde"))

    def test_with_a_key(self):
        self.add_named("a")
        names = self.named(env=self.key(), steps=(lambda: self.add_named("b"), nothing))
        self.assertEqual(names, ["a", "b"])
        self.assertEqual(self.server.count("/api/trpc/"), 0)

    def test_starts_with_the_newest(self):
        for number in range(20):
            self.add_named("t%02d" % number, created=minutes_ago(60 - number))
        self.assertEqual(self.named(), ["t%02d" % number for number in range(10, 20)])
        self.assertEqual(self.named("-n", "2"), ["t18", "t19"])

    def test_starts_with_as_many_as_lines_says(self):
        self.add_burst("x", 230)
        self.add(1, name="slow", duration_ms=90000, created=minutes_ago(60))
        self.assertEqual(self.named("-n", "150"), ["x %d" % place for place in range(80, 230)])
        self.assertEqual(self.named("--min-duration", "1m"), ["slow"])

    def test_empty_project(self):
        names = self.named(steps=(nothing, lambda: self.add_named("a"), nothing))
        self.assertEqual(names, ["a"])

    def test_a_burst_between_two_polls(self):
        self.add_named("first", created=minutes_ago(5))
        count = full(250, 2500)
        names = self.named(steps=(lambda: self.add_burst("x", count), nothing,
                                  lambda: self.add_burst("y", 101), nothing))
        expected = ["first"] + ["x %d" % place for place in range(count)] \
            + ["y %d" % place for place in range(101)]
        self.assertEqual(names, expected)

    def test_a_burst_into_an_empty_project(self):
        names = self.named(steps=(lambda: self.add_burst("x", 250), nothing))
        self.assertEqual(names, ["x %d" % place for place in range(250)])

    def test_a_trace_that_arrives_after_one_that_began_later(self):
        self.add_named("old", created=minutes_ago(30))
        self.add_named("long", created=minutes_ago(20))
        self.add_named("short", created=minutes_ago(1))
        names = self.named(steps=(lambda: self.add_named("late", created=minutes_ago(2)), nothing))
        self.assertEqual(names, ["old", "long", "short", "late"])

    def test_a_clock_that_is_ahead_of_the_server_loses_nothing(self):
        names = self.named(steps=(lambda: self.add_named("a", created=minutes_ago(10)), nothing))
        self.assertEqual(names, ["a"])

    def test_traces_of_the_same_time_are_printed_once_each(self):
        moment = minutes_ago(1)
        self.add_named("a", created=moment)
        names = self.named(steps=(lambda: self.add_named("b", created=moment), nothing,
                                  lambda: self.add_named("c", created=moment), nothing))
        self.assertEqual(names, ["a", "b", "c"])

    def test_only_what_matches(self):
        self.add_named("a", "b")
        names = self.named("--error", "--search", "x", steps=(
            lambda: self.add_named("x1", status="ERROR"), lambda: self.add_named("x2"),
            lambda: self.add_named("y", status="ERROR"),
            lambda: self.add_named("x3", status="ERROR"), nothing))
        self.assertEqual(names, ["x1", "x3"])

    def test_a_server_that_ignores_filters(self):
        self.use(known_filters=())
        self.add_named("a", created=minutes_ago(2))
        names = self.named("--error", steps=(
            lambda: self.add_named("b"), lambda: self.add_named("c", status="ERROR"), nothing))
        self.assertEqual(names, ["c"])

    def test_a_poll_does_not_read_the_whole_project(self):
        for place in range(450):
            self.add_named("old %d" % place, created=minutes_ago(500 - place))
        self.add_named("slow", duration_ms=90000, created=minutes_ago(3))
        self.server.clear()
        counts = []
        self.tail("--min-duration", "1m", "-n", "1", "--format", "jsonl", steps=[
            lambda: counts.append(self.server.count("trace.list"))] * 3)
        pages = [after - before for before, after in zip(counts, counts[1:])]
        self.assertLessEqual(max(pages), 2, "pages that were read for one poll")

    def add_late(self, *names, minutes=1):
        """Traces that were made so many minutes ago, and become visible now."""
        for name in names:
            self.add_named(name, created=minutes_ago(minutes))

    def test_traces_that_become_visible_late_and_deep(self):
        """Below more than a page of newer ones that have been printed, and each of them once."""
        for count in full((150, 420), (150, 420, 1200)):
            self.use()
            self.add_named("first", created=minutes_ago(9))
            with self.subTest(count=count):
                names = self.named(steps=(
                    lambda: self.add_burst("x", count), lambda: self.add_late("a"),
                    nothing, lambda: self.add_late("b", "c", minutes=4), nothing, nothing))
                self.assertEqual(names, ["first"] + ["x %d" % place for place in range(count)]
                                 + ["a", "b", "c"])

    def test_what_predates_the_tail_stays_out(self):
        """Also if it was made just before, and what is behind the first page is reread."""
        self.add_burst("old", 250)
        names = self.named("-n", "1", steps=(nothing, lambda: self.add_burst("x", 120, 1),
                                             nothing, nothing))
        self.assertEqual(names, ["old 249"] + ["x %d" % place for place in range(120)])

    def test_equal_times_at_the_start(self):
        moment = minutes_ago(1)
        for place in range(150):
            self.add_named("old %d" % place, created=moment)
        names = self.named("-n", "0", steps=(lambda: self.add_burst("x", 150, 1), nothing))
        self.assertEqual(names, ["x %d" % place for place in range(150)])

    def test_a_trace_without_a_time_is_as_old_as_its_neighbor(self):
        rows = []

        def add(prefix, count):
            rows.extend({"id": "%s%d" % (prefix, place), "name": prefix, "createdAt":
                         twosignal.wire_timestamp(1.8e9 + len(rows)) if place % 7 else None}
                        for place in range(count))

        def page(values):
            start = values.get("cursor", 0)
            return {"traces": [dict(row) for row in rows[::-1][start:start + 100]],
                    "nextCursor": start + 100 if start + 100 < len(rows) else None}
        add("old", 300)
        self.serve_pages(page)
        names = self.named("-n", "0", steps=(nothing, lambda: add("x", 120), nothing, nothing))
        self.assertEqual(names, ["x"] * 120)

    def test_a_trace_from_the_future_does_not_shorten_the_overlap(self):
        self.add_named("first", created=minutes_ago(9))
        names = self.named(steps=(lambda: self.add_late("future", minutes=-600),
                                  lambda: self.add_burst("x", 150), nothing,
                                  lambda: self.add_late("late"), nothing))
        self.assertEqual(names[-1], "late")
        self.assertEqual(len(names), 153)

    @costly
    def test_rereading_costs_few_requests(self):
        """Per poll, with a trace visible a minute late now and then; none is lost or repeated."""
        for per_minute, polls, most in ((1, 100, 1.1), (100, 200, 4.5), (1000, full(60, 300), 8)):
            with self.subTest(per_minute=per_minute):
                requests, lost = self.simulated(per_minute, polls)
                self.assertLess(sum(requests) / polls, most)
                self.assertLess(sum(requests[-30:]) / 30, most)
                self.assertEqual(lost, [])

    @costly
    def test_a_project_that_falls_silent(self):
        """After a burst, rereading gets rare; what becomes visible then is still found."""
        requests, lost = self.simulated(3000, 400, busy=40)
        self.assertLess(sum(requests[-200:]) / 200, 2)
        self.assertEqual(lost, [])

    def simulated(self, per_minute, polls, busy=10 ** 9):
        """The requests of each poll of a tail, one in two seconds, and the traces that it lost.

        Each 20th trace becomes visible a minute late. After `busy` polls there are no new ones.
        """
        now, requests, printed = [0.0], [], []
        times = [place * 60 / per_minute for place in range(
            -10 * per_minute, int(min(polls, busy) * 2 / 60 * per_minute))]
        visible = [when + 60 * (place % 20 == 0) for place, when in enumerate(times)]

        def trace_pages(query, page_size):
            places = [place for place, when in enumerate(visible) if when <= now[0]][::-1]
            for start in range(0, len(places), 100):
                requests[-1] += 1
                is_last = start + 100 >= len(places)
                yield twosignal.TracePage([
                    {"id": str(place), "createdAt": twosignal.wire_timestamp(1.8e9 + times[place])}
                    for place in places[start:start + 100]], not is_last, is_last)

        client = mock.Mock(key=None, trace_pages=trace_pages, record=twosignal.to_record)
        tail = twosignal.TraceTail(twosignal.TraceScan(client, twosignal.TraceQuery(), None))
        requests.append(0)
        tail.first(0)
        for _ in range(polls):
            now[0] += 2
            requests.append(0)
            printed += [int(trace["id"]) for trace in tail.poll()]
        self.assertEqual(len(printed), len(set(printed)))
        expected = {place for place, when in enumerate(times)
                    if when > 0 and visible[place] < now[0] - 120}
        return requests[1:], sorted(expected - set(printed))

    def test_expired_session(self):
        self.add_named("a")
        names = self.named(steps=(lambda: self.server.expire("owner@example.com"),
                                  lambda: self.add_named("b"), nothing))
        self.assertEqual(names, ["a", "b"])
        self.assertEqual(self.server.count("auth/refresh"), 1)

    def test_revoked_session_ends_it(self):
        self.add_named("a")
        result = self.tail(steps=(lambda: self.server.revoke("owner@example.com"), nothing))
        self.assertEqual(result.code, 4, result)
        self.assertIn("Authentication expired", result.err)

    def test_server_that_restarts(self):
        self.use(data=self.path("server.db"))
        self.add_named("a", created=minutes_ago(3))
        port = int(self.server.url.rpartition(":")[2])

        def restart():
            self.server = self.serve(data=self.path("server.db"), port=port)
            self.add_named("b")
        names = self.named(steps=(nothing, self.server.stop, nothing, restart, nothing))
        self.assertEqual(names, ["a", "b"])

    def test_server_that_fails_meanwhile(self):
        for fault in ({"status": 503}, {"status": 429}, {"reset": True}, {"cut": 20},
                      {"garbage": b"<html>"}):
            self.use()
            self.add_named("a", created=minutes_ago(5))

            def fail():
                self.server.fault("trace.list", times=7, **fault)
                self.add_named("b")
            with self.subTest(fault=fault):
                self.assertEqual(self.named(steps=[fail] + [nothing] * 9), ["a", "b"])

    def test_failure_half_way_through_a_burst(self):
        self.add_named("a", created=minutes_ago(5))

        def burst():
            self.add_burst("x", 250)
            real, pages = self.server.world.page, []

            def page(*args):
                pages.append(args)
                if len(pages) == 2:
                    self.server.fault("trace.list", times=3, status=503)
                return real(*args)
            self.server.world.page = page
        names = self.named(steps=[burst] + [nothing] * 5)
        self.assertEqual(names, ["a"] + ["x %d" % place for place in range(250)])

    def test_ctrl_c_ends_it_at_any_time(self):
        self.add_named("a")
        for place in ("project.list", "trace.list"):
            with self.subTest(place=place), mock.patch.object(twosignal.Transport, "request",
                                                              interrupted(place)):
                result = self.cli("traces", "tail", "--project", "Support Agent", naps=Steps())
                self.assertEqual((result.code, result.out), (0, ""), result)

    def test_empty_pages_are_skipped(self):
        """A server that filters after paging answers with empty pages and a cursor."""
        self.add_named("a", created=minutes_ago(5))
        real, cursors = self.server.world.page, []

        def page(project, given):
            cursors.append(given.get("cursor"))
            if len(cursors) > 2 and not given.get("cursor"):
                return [], self.server.rows("traces")[-1]["id"]
            return real(project, {key: given[key] for key in given if key != "cursor"})
        self.server.world.page = page
        names = self.named(steps=(nothing, lambda: self.add_named("b"), nothing))
        self.assertEqual(names, ["a", "b"])

    def test_a_trace_that_matches_once_it_has_ended(self):
        """While it runs it has no duration and no cost, and no error yet."""
        for filters in ((), standin.OPTIONS["known_filters"]):
            self.use(known_filters=filters)
            self.add_named("old", created=minutes_ago(9), duration_ms=None)

            def start():
                self.running = self.server.add_trace(name="slow", duration_ms=None, cost=None)

            def end():
                with self.server.transaction():
                    row = self.server.store.get("traces", self.running)
                    self.server.world.change("traces", row, {
                        "durationMs": 9000, "totalCost": 2.5, "status": "ERROR"})
            for options in ("--min-duration 5s", "--min-cost 1", "--error",
                            "--error --min-cost 1 --max-duration 1m"):
                with self.subTest(filters=filters, options=options):
                    names = self.named(*options.split(), steps=(nothing, start, nothing, end,
                                                                nothing, nothing))
                    self.assertEqual(names, ["slow"])
                    self.server.store.remove("traces", self.running)

    def test_traces_without_a_time(self):
        """Old traces are not printed as new ones, and new ones in their order."""
        rows = [{"id": str(place), "name": str(place)} for place in range(300)]

        def page(values):
            start = len(rows) - values.get("cursor", 0)
            return {"traces": [dict(row) for row in rows[max(0, start - 100):start][::-1]],
                    "nextCursor": values.get("cursor", 0) + 100 if start > 100 else None}

        def add(*names):
            rows.extend({"id": name, "name": name} for name in names)
        burst = ["x%d" % place for place in range(150)]
        self.serve_pages(page)
        names = self.named("-n", "2", steps=(
            nothing, lambda: add("a"), nothing, lambda: add("b", "c"), lambda: add(*burst),
            nothing))
        self.assertEqual(names, ["298", "299", "a", "b", "c"] + burst)

    def test_only_new_ones(self):
        self.add_named("a", created=minutes_ago(1))
        names = self.named("-n", "0", steps=(nothing, lambda: self.add_named("b"), nothing))
        self.assertEqual(names, ["b"])

    def test_server_without_pages(self):
        self.use(bare_list=True, known_filters=())
        self.add_burst("old", 120)
        result = self.tail("-n", "1", "--format", "jsonl", steps=(
            nothing, lambda: self.add_named("a"), nothing, lambda: self.add_burst("x", 60, 1),
            lambda: self.add_burst("y", 99, 2), nothing))
        self.assertEqual([json.loads(line)["name"] for line in result.lines],
                         ["old 119", "a"] + ["x %d" % place for place in range(60)]
                         + ["y %d" % place for place in range(99)])
        self.assertEqual(result.err, "\n")

    def test_server_without_pages_may_have_missed_some(self):
        """If a whole page is new at once, older ones may have been pushed off it."""
        self.use(bare_list=True)
        self.add_named("old", created=minutes_ago(5))
        result = self.tail("--format", "jsonl", steps=(
            lambda: self.add_burst("x", 150), lambda: self.add_burst("y", 100, 1), nothing,
            lambda: self.add_burst("z", 101, 2), nothing))
        names = [json.loads(line)["name"] for line in result.lines]
        self.assertEqual(names[:2] + names[-1:], ["old", "x 50", "z 100"])
        self.assertEqual(len(names), 1 + 3 * 100)
        warning = ("Too many new traces: older ones may be missing. "
                   "Use a shorter --interval, or 'twosignal traces list'.\n")
        self.assertEqual(result.err, 2 * warning + "\n")

    def test_pages_that_are_too_large(self):
        """Row 44: smaller pages miss none; without a cursor, a smaller page has fewer."""
        for bare, count, err in ((False, 31, "\n"), (True, 13, (
                "Too many new traces: older ones may be missing. "
                "Use a shorter --interval, or 'twosignal traces list'.\n\n"))):
            self.use(bare_list=bare)
            self.add_named("old", created=minutes_ago(5))
            with self.subTest(bare=bare), takes_at_most(self.server, 12, "trace", status=504):
                result = self.tail("--format", "jsonl", steps=(
                    lambda: self.add_burst("x", 30), nothing))
                self.assertEqual((len(result.lines), result.err), (count, err))

    def test_server_with_pages_misses_none(self):
        self.add_named("old", created=minutes_ago(5))
        result = self.tail("--format", "jsonl", steps=(lambda: self.add_burst("x", 150), nothing))
        self.assertEqual((len(result.lines), result.err), (151, "\n"))

    def test_scores_that_are_on_their_way(self):
        """The list counts a score that the trace does not have yet."""
        trace = self.server.add_trace(name="a", scores=[{"evaluatorName": "tone", "value": 1}])
        body = {"result": {"data": {"json": {"id": trace, "scores": [], "spans": []}}}}
        self.server.fault("trace.getById", times=1, status=200, body=body)
        self.assertEqual(self.named(), ["a"])

    def test_csv_has_a_column_for_what_comes_later(self):
        rows = [{"id": "1", "name": "a", "createdAt": "2026-03-14T10:30:00.000Z"}]

        def add():
            rows.insert(0, {"id": "2", "name": "b", "sessionId": "s",
                            "createdAt": "2026-03-14T10:30:01.000Z"})
        self.serve_pages(lambda values: {"traces": rows})
        result = self.tail("--format", "csv", steps=(nothing, add, nothing))
        found = list(csv.DictReader(io.StringIO(result.out)))
        self.assertEqual([row["session_id"] for row in found], ["", "s"])

    def test_a_field_that_the_first_rows_lack_is_a_remark(self):
        """A stream has no end at which it could be an error."""
        self.add_named("a", created=minutes_ago(2))
        self.add_named("b", created=minutes_ago(1))
        result = self.tail("--format", "jsonl", "--fields", "name,nope,metadata.x", steps=(
            lambda: self.server.add_trace(name="c", metadata={"x": 1}), nothing))
        self.assertEqual(result.code, 0, result)
        self.assertEqual([list(json.loads(line).values()) for line in result.lines],
                         [["a", None, None], ["b", None, None], ["c", None, 1]])
        self.assertEqual([line.split(". ")[0] for line in result.err.splitlines()],
                         ["There is no field 'nope'", "No value found for metadata.x", ""])

    def test_a_file_is_kept_however_it_ends(self):
        self.add_named("a")
        path = self.write("out.jsonl", "before")
        self.assertEqual(self.tail("-o", path).code, 0)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(json.loads(file.read())["name"], "a")

        def end():
            os.kill(os.getpid(), signal.SIGTERM)
        handler = signal.signal(signal.SIGTERM, lambda *_: None)
        self.addCleanup(signal.signal, signal.SIGTERM, handler)
        self.add_named("b")
        self.assertEqual(self.tail("-o", path, steps=(nothing, end)).code, 143)
        with open(path, encoding="utf-8") as file:
            self.assertEqual([json.loads(line)["name"] for line in file], ["a", "b"])

    def test_a_file_is_unchanged_if_nothing_arrives(self):
        path = self.write("out.jsonl", "before")
        self.assertEqual(self.tail("-o", path, steps=(nothing,)).code, 0)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "before")

    @unittest.skipIf(PYPY, "PyPy has no tracemalloc")
    @costly
    def test_memory_stays_flat(self):
        """Also if the server returns no times."""
        for has_times in (True, False):
            with self.subTest(has_times=has_times), mock.patch.object(
                    twosignal, "TAIL_MEMORY", 2000):
                used = self.memory_used(has_times, polls=150)
                self.assertLess(max(used[50:]), 1.5 * max(used[:50]))

    def memory_used(self, has_times, polls):
        """The bytes that are allocated after each poll; all traces of each page are new."""
        numbers = itertools.count()

        def new_page(query, page_size):
            traces = [{"id": "trace %d" % number} for number in itertools.islice(numbers, 100)]
            if has_times:
                for trace in traces:
                    number = int(trace["id"].split()[1])
                    trace["createdAt"] = twosignal.wire_timestamp(1.8e9 + number)
            yield twosignal.TracePage(traces[::-1], True)
            yield twosignal.TracePage([traces[0]], False)

        client = mock.Mock(key=None, trace_pages=new_page, record=twosignal.to_record,
                           fetch_parts=lambda *_: None)         # a mock would keep each call
        tail = twosignal.TraceTail(twosignal.TraceScan(client, twosignal.TraceQuery(), None))
        tail.first(10)
        used = []
        import tracemalloc
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(polls):
            self.assertEqual(len(tail.poll()), 100)
            used.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        return used

    def test_a_cursor_that_has_expired(self):
        self.add_named("a", created=minutes_ago(5))

        def burst():
            self.add_burst("x", 250)
            real, pages = self.server.world.page, []

            def page(project, given):
                pages.append(given.get("cursor"))
                if len(pages) == 2:
                    raise standin.Refusal("BAD_REQUEST", "Invalid cursor")
                return real(project, given)
            self.server.world.page = page
        names = self.named(steps=[burst] + [nothing] * 3)
        self.assertEqual(names, ["a"] + ["x %d" % place for place in range(250)])

    def test_prints_the_time_of_day(self):
        self.add_named("a")
        line = self.tail().lines[-1]
        self.assertRegex(line, r"\d\d:\d\d:\d\dZ|\d{4}-\d\d-\d\d")

    def test_says_that_it_waits(self):
        result = self.traces("tail", tty=True, clock=PassingClock(Steps(nothing, nothing)))
        text = "\rWaiting for new traces; press Ctrl-C to stop"
        self.assertTrue(result.err.startswith(text), result)

    def test_gentler_while_the_server_fails(self):
        self.server.fault("trace.list", times=None, status=503)
        self.server.faults[0].times = 0
        naps = Steps(lambda: setattr(self.server.faults[0], "times", None), *[nothing] * 8)
        self.traces("tail", naps=naps)
        self.assertGreater(naps.long()[-1], 4 * naps.long()[0])
        self.assertLessEqual(max(naps), 120)

    def test_retry_after_is_respected(self):
        def limit():
            self.server.fault("trace.list", times=1, status=429, headers={"Retry-After": "45"})
        naps = Steps(limit, lambda: naps.append(0), *[nothing] * 3)
        self.traces("tail", naps=naps)
        self.assertGreaterEqual(max(naps), 45)

    def test_retry_after_is_limited(self):
        for asked in ("999999999", "Fri, 01 Jan 4999 00:00:00 GMT"):
            def limit():
                self.server.fault("trace.list", times=1, status=429,
                                  headers={"Retry-After": asked})
            naps = Steps(limit, *[nothing] * 3)
            with self.subTest(asked=asked):
                self.traces("tail", naps=naps)
                self.assertLessEqual(max(naps), 3600)

    def test_table(self):
        self.add_named("a", created=minutes_ago(5))
        result = self.tail(steps=(lambda: self.add_named("b"), nothing), columns=120)
        self.assertEqual(result.code, 0)
        self.assertEqual([line.split()[0] for line in result.lines].count("ID"), 1)
        self.assertEqual([line.split()[-1] for line in result.lines[2:]], ["a", "b"])

    def test_fields(self):
        self.add_named("a", created=minutes_ago(5))
        result = self.tail("--fields", "name,status", "--format", "csv",
                           steps=(lambda: self.add_named("b"), nothing))
        self.assertEqual(list(csv.reader(io.StringIO(result.out))),
                         [["name", "status"], ["a", "OK"], ["b", "OK"]])

    def test_list_of_fields_does_not_wait_for_more(self):
        self.add_named("a")
        result = self.assertOk(self.tail("--fields", "?", steps=[nothing] * 3))
        self.assertIn("created_at", result.out)

    def test_json_and_html_are_refused(self):
        self.add_named("a")
        for form in ("json", "html"):
            result = self.tail("--format", form, steps=(lambda: self.add_named("b"), nothing))
            self.assertFails(result, 2, "A stream cannot be a single document",
                             "Use --format jsonl.")

    def test_markdown_is_a_table_that_grows(self):
        self.add_named("a")
        result = self.assertOk(self.tail("--format", "markdown",
                                         steps=(lambda: self.add_named("b"), nothing)))
        heading, _, subtitle, _, _, rule, *rows = result.lines
        self.assertEqual((heading, rule), ("### twosignal traces tail", "|" + " --- |" * 6), result)
        self.assertIn(self.server.project, subtitle)
        self.assertEqual([line.split(" | ")[-1] for line in rows], ["a |", "b |"])

    def test_output_file_is_written(self):
        self.add_named("a")
        path = self.path("tail.jsonl")
        self.assertOk(self.tail("--format", "jsonl", "-o", path, steps=(nothing,)))
        with open(path, encoding="utf-8") as file:
            self.assertEqual([json.loads(line)["name"] for line in file], ["a"])

    def test_many_polls_print_nothing_twice(self):
        self.add_named("a")
        result = self.tail("--format", "jsonl", steps=[nothing] * 20)
        self.assertEqual(len(result.lines), 1)

    def test_bad_input(self):
        for given in ("-n -1", "--interval 0", "--interval 0s", "--interval 9999h",
                      "--interval often", "--since yesterday-ish"):
            with self.subTest(given=given):
                self.assertFails(self.tail(*given.split()), 2)


# A process that is started in the background ignores Ctrl-C, and so would its children.
WITH_CTRL_C = ("import runpy, signal, sys; sys.argv.pop(0); "
               "signal.signal(signal.SIGINT, signal.default_int_handler); "
               "runpy.run_path(sys.argv[0], run_name='__main__')")


class TailProcesses(TracesCase):
    """What needs a process: lines that are printed at once, Ctrl-C, a reader that goes away."""

    def start(self, *args, stdout=subprocess.PIPE, shell=()):
        command = [sys.executable, "-c", WITH_CTRL_C, PROGRAM, "traces", "tail", "--project",
                   self.server.project, "--interval", "50ms", "--format", "jsonl"]
        process = subprocess.Popen(
            list(shell) + command + list(args), env=merged(self.environment, None), stdout=stdout,
            stderr=subprocess.PIPE)
        guard = threading.Timer(DEADLINE, process.kill)
        guard.daemon = True
        guard.start()
        self.addCleanup(self.end, process, guard)
        return process

    def end(self, process, guard):
        guard.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()

    def read_name(self, process):
        line = process.stdout.readline()
        self.assertTrue(line, "no line in time")
        return json.loads(line.decode("utf-8"))["name"]

    @unittest.skipIf(os.name == "nt", "signals of POSIX")
    def test_each_line_at_once_then_ctrl_c(self):
        self.server.add_trace(name="a")
        process = self.start()
        self.assertEqual(self.read_name(process), "a")
        for name in ("b", "c"):
            self.server.add_trace(name=name)
            self.assertEqual(self.read_name(process), name)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(DEADLINE), 0)
        self.assertEqual(process.stdout.read(), b"")
        self.assertNotIn(b"Traceback", process.stderr.read())

    @unittest.skipIf(os.name == "nt", "signals of POSIX")
    def test_reader_that_goes_away(self):
        self.server.add_trace(name="a")
        process = self.start()
        self.read_name(process)
        process.stdout.close()
        self.server.add_trace(name="b")
        self.assertEqual(process.wait(DEADLINE), 141)
        self.assertEqual(process.stderr.read(), b"")

    @posix
    def test_reader_that_goes_away_while_nothing_arrives(self):
        """`traces tail -n 1 | head -1` ends, also if nothing matches, or with stdin closed."""
        self.server.add_trace(name="a")
        for options, shell in (((), ()), (("--search", "nothing"), ()),
                               ((), ("sh", "-c", 'exec "$@" <&-', "sh"))):
            with self.subTest(options=options, shell=shell):
                process = self.start(*options, shell=shell)
                if not options:
                    self.read_name(process)
                process.stdout.close()
                self.assertEqual(process.wait(DEADLINE), 141)
                self.assertEqual(process.stderr.read(), b"")

    @posix
    def test_no_reader_goes_away(self):
        """A file, a terminal and /dev/null, whatever is polled: it goes on until Ctrl-C."""
        master, terminal = os.openpty()
        self.addCleanup(os.close, master)
        with open(self.path("out"), "wb") as file, open(os.devnull, "wb") as null:
            for stdout in (file, null, terminal):
                self.server.clear()
                process = self.start("--debug", stdout=stdout)
                for line in process.stderr:
                    if self.server.count("trace.list") > 3:
                        break
                process.send_signal(signal.SIGINT)
                self.assertNotIn(b"Error", process.stderr.read())
                self.assertEqual(process.wait(DEADLINE), 0)
        os.close(terminal)
