"""The sink inserts each event exactly once, in the ledger and in every rollup, wherever its process is killed."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal

import hypothesis.strategies as st
from hypothesis import given, settings

from meter.sink.core.mark import MAX_BYTES, Mark
from meter.sink.core.watermarks import Judgement, Watermark, Watermarks
from schemas.codec import decode_record, encode_record
from schemas.errors import DecodeError
from schemas.usage import Batch, Evict
from tests.history_builders import MONTH_END_MS, an_event
from tests.history_fakes import TABLES, FakeLog, FakeStore, Fate, Killed
from tests.history_world import RUNS, Script, live, take_up


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


def lead(log: FakeLog, store: FakeStore, fate: Fate, pauses: list[int], max_rows: int) -> None:
    """Let a sink live with its fate."""
    log.fate = store.fate = fate
    asyncio.run(live(log, store, pauses, max_rows))


def run_and_kill(script: Script, kills: list[int], pauses: list[int], max_rows: int) -> tuple[FakeLog, FakeStore]:
    """Run a sink over a log, kill it as often as is asked for, then let one finish."""
    log, store = FakeLog(), FakeStore()
    log.values = script.values
    for killed_at in kills:
        try:
            lead(log, store, Fate(killed_at), pauses, max_rows)
        except Killed:
            pauses = pauses[::-1]  # the next one does not cut where this one did
    lead(log, store, Fate(), pauses, max_rows)
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
    lead(log, store, whole, [0], 100)
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
    lead(log, store, Fate(), [400], max_rows)
    log.committed, log.metadata = None, ""
    log.values = [*script.values]
    before = {name: store.ids(name) for name in TABLES}
    lead(log, store, Fate(), [400], max_rows)
    assert {name: store.ids(name) for name in TABLES} == before


@settings(max_examples=100)
@given(scripts(), st.integers(1, 14), st.integers(1, 6), st.sampled_from((None, 0)))
def test_a_batch_that_was_cut_short_is_completed_though_the_group_is_lost(
    script: Script, killed_at: int, max_rows: int, committed: int | None
) -> None:
    """Killed within a batch, and its group's offsets lost or set back: the rows know which batch to complete."""
    script.values = in_order(script)
    log, store = FakeLog(), FakeStore()
    log.values = script.values
    with contextlib.suppress(Killed):
        lead(log, store, Fate(killed_at), [400], max_rows)
    log.committed, log.metadata = committed, ""
    lead(log, store, Fate(), [900], max_rows + 1)
    assert_exact(script, store)


def in_order(script: Script) -> list[bytes]:
    """Return the log of a script without records that are held back: only marks tell those that come with them."""
    watermarks, kept = Watermarks(complete=True), []
    for value in script.values:
        record = a_record(value)
        if record is None or watermarks.judge((record.instance, record.epoch), record.seq) is not Judgement.GAP:
            kept.append(value)
    return kept


def a_record(value: bytes) -> Batch | None:
    """Return the batch in a record of the log; None if it is something else."""
    try:
        found = decode_record(value)
    except DecodeError:
        return None
    return found if isinstance(found, Batch) else None


@settings(max_examples=60)
@given(scripts(), st.integers(1, 20), st.integers(1, 6))
def test_a_batch_that_is_sent_again_is_the_batch_that_it_was(script: Script, killed_at: int, max_rows: int) -> None:
    """After a kill, the range that was marked is read again to its last offset and not beyond."""
    log, store = FakeLog(), FakeStore()
    log.values = script.values
    try:
        lead(log, store, Fate(killed_at), [400], max_rows)
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
