"""Usage of batches: whatever is seen, however often and in whichever order, and whenever it is killed, counts once."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from enforcer.core import batches
from enforcer.core.adjustments import derived_id
from enforcer.core.batches import Charged
from schemas.batches import BATCHER, BatchSeen, Line, LinesSeen, Sighting, line_id
from schemas.codec import decode_attribution, decode_record
from schemas.quota import run_key
from schemas.rows import parse_row_key
from schemas.usage import Batch, Totals
from tests.property.batch_world import (
    DAY_MS,
    JOBS,
    OWNERS,
    START_MS,
    World,
    account,
    counted,
    metered,
    sightings,
    usage_of,
)


@pytest.fixture(scope="module", autouse=True)
def small_steps() -> Iterator[None]:
    """Let a step have two lines at most, so that sightings make several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MAX_STEP_BYTES", 800)
        yield


LOGS = st.lists(sightings(), max_size=25)
KILLS = st.lists(st.integers(1, 12), max_size=12)
DAYS = st.lists(st.sampled_from([0, 0, 0, 1, 1, 3]), max_size=12)


@given(LOGS, KILLS, DAYS)
@settings(max_examples=40)
def test_each_line_or_batch_is_charged_once_to_whom_it_belongs(
    log: list[Sighting], kills: list[int], days: list[int]
) -> None:
    """The events that the history takes are those of a naive account: ids, usage, owners, each once."""
    world = World(log, kills, days)
    world.run()
    found = list(counted(world.usage))
    events = {event.id: event for event in found}
    assert len(events) == len(found)
    told = account(log)
    expected = {
        derived_id("batch", provider, batch, line.hex() if line else "total"): told[provider, batch, line]
        for provider, batch, line in told
    }
    assert events.keys() == expected.keys()
    for name, one in expected.items():
        event = events[name]
        whose, by = decode_attribution(one.owner), decode_attribution(event.attribution)
        assert (by.org, by.team, by.key_id) == (whose.org, whose.team, whose.key_id)
        assert (event.usage, event.charge_requests) == (one.usage, one.requests)


@given(LOGS, KILLS, DAYS)
@settings(max_examples=40)
def test_the_meter_counts_what_the_run_has_told(log: list[Sighting], kills: list[int], days: list[int]) -> None:
    """No record of it is at fault, no seat is taken, and sums of runs, rows and books are those of the events."""
    world = World(log, kills, days)
    state = world.run()
    events = list(counted(world.usage))
    sums = Totals()
    for event in events:
        sums.add(event)
    found = Totals()
    for shard in metered(world.usage):
        assert not shard.runs.members
        runs = [(run.told, run.totals) for run in shard.runs.open.values()]
        runs += [(closed.told, closed.totals) for closed in shard.ledger.by_key.values() if closed.told is not None]
        for told, totals in runs:
            assert told == totals
            for name in Totals.__struct_fields__:
                setattr(found, name, getattr(found, name) + getattr(totals, name))
        assert all(run[0] == BATCHER for run in shard.runs.open)
        assert len(shard.runs.open) <= 1
        for run in shard.runs.open:
            assert run_key(*run) == f"instance={BATCHER}/epoch={state.run.epoch}"
    assert found == sums
    assert sum(book.requests for book in state.books.values()) == sums.requests
    assert sum(book.cost_nanos for book in state.books.values()) == sums.cost_nanos
    assert sum(book.unpriced for book in state.books.values()) == sums.unpriced


@given(LOGS, KILLS)
@settings(max_examples=20)
def test_rows_have_what_the_events_charge(log: list[Sighting], kills: list[int]) -> None:
    """Months of money and days of requests are charged, minutes are not."""
    world = World(log, kills, [])
    world.run()
    events = list(counted(world.usage))
    rows = {key: row.settled for shard in metered(world.usage) for key, row in shard.rows.by_key.items()}
    assert {parse_row_key(key).window.period for key in rows} <= {"month", "day"}
    money = [settled for key, settled in rows.items() if parse_row_key(key).measure == "cost"]
    requests = [settled for key, settled in rows.items() if parse_row_key(key).measure == "requests"]
    assert sum(money) == sum(event.charge_nanos for event in events)
    assert sum(requests) == sum(event.charge_requests for event in events)


@given(LOGS, KILLS, DAYS)
@settings(max_examples=20)
def test_what_is_remembered_is_what_was_known(log: list[Sighting], kills: list[int], days: list[int]) -> None:
    """A start reads from the compacted steps what the one before knew; nothing is pending when all is done."""
    world = World(log, kills, days)
    state, again = world.run(), world.remembered()
    assert again.pending == {}
    assert _known(again) == _known(state)
    assert len({key for key, _ in world.steps}) * 2 >= len(world.steps)


def test_the_laws_are_about_kills_and_days() -> None:
    """Lines that overlap are charged over several lives and several days."""
    job = JOBS[1]
    lines = [Line(line_id(f"request-{line}"), job.model, usage_of(job, line), START_MS) for line in range(job.lines)]
    log: list[Sighting] = [
        BatchSeen(job.provider, job.name, START_MS - DAY_MS, OWNERS[1], True, "chat.completions"),
        *(LinesSeen(job.provider, job.name, "", START_MS, OWNERS[2], lines[at : at + 2]) for at in range(4)),
    ]
    world = World(log, [4, 3, 5, 2], [1] * 10)
    world.run()
    assert world.starts == 5
    assert len(list(counted(world.usage))) == job.lines
    records = [decode_record(value) for _, value in world.usage]
    assert len({record.epoch for record in records if isinstance(record, Batch) and record.final}) >= 2


def _known(state: Charged) -> tuple[object, ...]:
    lines = {name: state.lines(name) for name in state.books}
    return state.books, lines, state.run
