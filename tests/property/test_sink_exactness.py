"""The sink inserts each event exactly once, in the ledger and in every rollup, wherever its process is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from meter.sink.core.mark import MAX_BYTES, Mark
from meter.sink.core.resume import Found, Resume, resume
from meter.sink.core.watermarks import Judgement, Watermark, Watermarks
from meter.sink.feeds import Rejected, UsageFeed
from meter.sink.lane import Counts, Lane, Limits
from meter.sink.rows import Source
from schemas.codec import encode_record
from schemas.errors import DecodeError
from schemas.usage import Evict, UsageEvent
from tests.history_builders import MONTH_END_MS, a_batch, an_event
from tests.history_fakes import TABLES, FakeLog, FakeStore, Fate, Killed

SOURCE = Source("cluster", "usage", 0)
COSTS = st.sampled_from((None, 0, 7, 10**9))
RUNS = (("a", 1), ("a", 2), ("b", 1))


class Script:
    """A log as replicas, retries and the meter write it, and what of it counts by the contract's own words."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.expected: list[UsageEvent] = []
        self._next = dict.fromkeys(RUNS, 1)
        self._counted = dict.fromkeys(RUNS, 0)
        self._sent: list[tuple[tuple[str, int], int, list[UsageEvent]]] = []

    def send(self, run: tuple[str, int], events: list[UsageEvent]) -> None:
        """Write a run's next record."""
        seq = self._next[run]
        self._next[run] += 1
        self._sent.append((run, seq, events))
        self._write(run, seq, events)

    def send_again(self, back: int) -> None:
        """Write a record that was written before once more."""
        if self._sent:
            self._write(*self._sent[-1 - back % len(self._sent)])

    def send_out_of_order(self, run: tuple[str, int], events: list[UsageEvent]) -> None:
        """Write a run's record but one, and then both, as a sender does that has to go back."""
        seq = self._next[run]
        first, second = (run, seq, events[:1]), (run, seq + 1, events[1:])
        self._next[run] += 2
        for record in (second, first, second):
            self._write(*record)

    def noise(self, value: bytes) -> None:
        """Write something that is no batch."""
        self.values.append(value)

    def _write(self, run: tuple[str, int], seq: int, events: list[UsageEvent]) -> None:
        self.values.append(a_batch(events, seq, *run))
        if seq == self._counted[run] + 1:
            self._counted[run] = seq
            self.expected += events


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Draw a log of up to a few dozen records."""
    script = Script()
    for _ in range(draw(st.integers(1, 14))):
        run = draw(st.sampled_from(RUNS))
        kind = draw(st.sampled_from(("send", "send", "send", "heartbeat", "again", "out of order", "noise")))
        months = draw(st.lists(st.booleans(), min_size=1, max_size=4))
        events = [
            an_event(
                occurred_ms=MONTH_END_MS + (10 if later else -10), cost_nanos=draw(st.sampled_from((None, 0, 7, 10**9)))
            )
            for later in months
        ]
        if kind == "send":
            script.send(run, events)
        elif kind == "heartbeat":
            script.send(run, [])
        elif kind == "again":
            script.send_again(draw(st.integers(0, 5)))
        elif kind == "out of order":
            script.send_out_of_order(run, events)
        else:
            script.noise(draw(st.sampled_from((b"", b"garbage", encode_record(Evict("a", 1, "silent"))))))
    return script


async def at_once(call: Callable[..., Any], *args: Any) -> Any:
    """Do what is done in a thread."""
    return call(*args)


def in_thread(call: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Return `call` as a thread would run it."""
    return at_once(call, *args)


def take_up(log: FakeLog, store: FakeStore, log_start: int = 0) -> Resume:
    """Find out where to go on, as the worker does."""
    table_last = store.last_offset("usage_events", SOURCE)
    found = resume(Found(log.committed, Mark.decode(log.metadata), table_last, log_start, len(log.values)))
    if found.watermarks.complete:
        return found
    known = store.watermarks(SOURCE, found.position)
    return Resume(found.position, found.resend_to, found.watermarks.merged(known), found.lost)


async def live(log: FakeLog, store: FakeStore, fate: Fate, pauses: list[int], max_rows: int) -> None:
    """Run a sink from its start to the end of the log, or until it is killed; it inserts after `pauses`."""
    store.fate = log.fate = fate
    start, limits = take_up(log, store), Limits(max_rows, 1_000, 1.0)
    lane = Lane(SOURCE, UsageFeed(SOURCE), start, store, log, limits, Counts(), in_thread)
    now_ms = 0
    for turn, offset in enumerate(range(lane.buffer.position, len(log.values))):
        now_ms += pauses[turn % len(pauses)]
        try:
            lane.buffer.add(lane.feed.entry(offset, now_ms, log.values[offset]), now_ms)
        except DecodeError as error:
            lane.skip(Rejected(offset, str(error), b""), set_aside=False)
        if pauses[turn % len(pauses)] and lane.buffer.is_due(now_ms):
            await lane.flush(now_ms)
    while await lane.flush(now_ms):
        pass


def run_and_kill(script: Script, kills: list[int], pauses: list[int], max_rows: int) -> tuple[FakeLog, FakeStore]:
    """Run a sink over a log, kill it as often as is asked for, then let one finish."""
    log, store = FakeLog(), FakeStore()
    log.values = script.values
    for killed_at in kills:
        try:
            asyncio.run(live(log, store, Fate(killed_at), pauses, max_rows))
        except Killed:
            pauses = pauses[::-1]  # the next one does not cut where this one did
    asyncio.run(live(log, store, Fate(), pauses, max_rows))
    return log, store


def assert_exact(script: Script, store: FakeStore) -> None:
    """Check that every table has every event that counts once, and nothing else."""
    expected = {event.id: 1 for event in script.expected}
    cost = Decimal(sum(event.cost_nanos or 0 for event in script.expected)).scaleb(-9)
    for name in TABLES:
        assert dict(store.ids(name)) == expected, name
        assert store.cost(name) == cost, name


@settings(max_examples=150)
@given(
    scripts(),
    st.lists(st.integers(1, 14), max_size=4),
    st.lists(st.sampled_from((0, 300, 900, 2_000)), min_size=1, max_size=5),
    st.integers(1, 6),
)
def test_every_event_counts_once_wherever_the_sink_is_killed(
    script: Script, kills: list[int], pauses: list[int], max_rows: int
) -> None:
    """Killed at any step of any batch, any number of times, the tables end up with each event once."""
    log, store = run_and_kill(script, kills, pauses, max_rows)
    assert_exact(script, store)
    assert log.committed == (len(script.values) or None)


def test_every_step_of_a_batch_is_one_at_which_it_may_be_killed() -> None:
    """One batch over two months: killed at each of its steps in turn, it is whole in the end."""
    script = Script()
    script.send(("a", 1), [an_event(occurred_ms=MONTH_END_MS - 1), an_event(occurred_ms=MONTH_END_MS)])
    script.send_again(0)
    script.send(("a", 1), [an_event()])
    whole = Fate()
    log, store = FakeLog(), FakeStore()
    log.values = script.values
    asyncio.run(live(log, store, whole, [0], 100))
    assert whole.steps == 2 + 2 * 4 + 2
    for killed_at in range(1, whole.steps + 1):
        log, store = run_and_kill(script, [killed_at], [0], 100)
        assert_exact(script, store)


@settings(max_examples=60)
@given(scripts(), st.integers(1, 6))
def test_without_its_mark_the_sink_goes_on_after_what_the_table_holds(script: Script, max_rows: int) -> None:
    """Positions that the broker forgot are taken from the table, and no event of the log counts twice."""
    log, store = FakeLog(), FakeStore()
    log.values = script.values
    asyncio.run(live(log, store, Fate(), [400], max_rows))
    log.committed, log.metadata = None, ""
    log.values = [*script.values]
    before = {name: store.ids(name) for name in TABLES}
    asyncio.run(live(log, store, Fate(), [400], max_rows))
    assert {name: store.ids(name) for name in TABLES} == before


@settings(max_examples=60)
@given(scripts(), st.integers(1, 20), st.integers(1, 6))
def test_a_batch_that_is_sent_again_is_the_batch_that_it_was(script: Script, killed_at: int, max_rows: int) -> None:
    """After a kill, the range that was marked is read again to its last offset and not beyond."""
    log, store = FakeLog(), FakeStore()
    log.values = script.values
    try:
        asyncio.run(live(log, store, Fate(killed_at), [400], max_rows))
    except Killed:
        mark = Mark.decode(log.metadata)
        start = take_up(log, store)
        assert start.position == (log.committed or 0)
        assert start.resend_to == (mark.last if mark else None)


runs = st.tuples(st.text(min_size=1, max_size=12), st.integers(1, 10**9))
marks = st.builds(Watermark, st.integers(0, 2**62), st.just(True), st.booleans())


@given(st.none() | st.integers(0, 2**62), st.dictionaries(runs, marks, max_size=6), st.booleans())
def test_marks_survive_the_broker(last: int | None, known: dict[tuple[str, int], Watermark], complete: bool) -> None:
    """What is read from a commit's metadata is what was written, runs in the same order of use."""
    found = Mark.decode(Mark(last, Watermarks(known, complete)).encode())
    assert found is not None
    assert (found.last, found.watermarks.items(), found.watermarks.complete) == (last, list(known.items()), complete)


@given(st.integers(160, 400), st.booleans())
def test_a_mark_fits_into_what_the_broker_takes(count: int, complete: bool) -> None:
    """Too many runs for the metadata are cut to the last used ones, and what is left says that it is not all."""
    known = {(f"ingress-{number}", number): Watermark(number) for number in range(count)}
    text = Mark(7, Watermarks(known, complete)).encode()
    assert len(text.encode()) <= MAX_BYTES
    found = Mark.decode(text)
    assert found is not None
    assert found.watermarks.items() == list(known.items())[-len(found.watermarks.items()) :]
    assert 20 < len(found.watermarks.items()) < count
    assert not found.watermarks.complete


@given(st.lists(st.tuples(st.sampled_from(RUNS), st.integers(1, 6)), max_size=40))
def test_judging_counts_each_record_once_and_in_order(records: list[tuple[tuple[str, int], int]]) -> None:
    """Whatever order records come in, those that count are 1, 2, 3, … of each run."""
    watermarks = Watermarks(complete=True)
    counted: dict[tuple[str, int], list[int]] = {}
    for run, seq in records:
        if watermarks.judge(run, seq) is Judgement.COUNTS:
            counted.setdefault(run, []).append(seq)
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in counted.values())
