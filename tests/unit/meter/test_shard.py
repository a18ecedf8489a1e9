"""What one record does to the state of a partition."""

from __future__ import annotations

import msgspec
import pytest

from meter.core.faults import FaultKind
from meter.core.ledger import KEEP_MS
from meter.core.shard import Shard
from schemas.codec import encode_record
from schemas.usage import Batch, Gauge, Totals
from tests.property.fold_logs import START_MS, event
from tests.unit.meter.fold_builders import COST, MINUTE, REQUESTS, TOKENS, Log, batch, evict


def test_an_event_is_booked_to_its_rows_by_measure() -> None:
    """Requests, tokens and nano-dollars go to the rows of that measure, and the sums to both ledgers."""
    log = Log().add(batch(amount=40, rows=(TOKENS, COST, REQUESTS)))
    assert (log.settled(TOKENS), log.settled(COST), log.settled(REQUESTS)) == (40, 40, 1)
    day = log.shard.ledger.by_key["org=acme/day=2025-12-01"].totals
    assert day == Totals(1, 1, 40, 80, 40, 0, 40)
    assert log.shard.runs.open["i1", 1].totals == day


def test_an_unknown_cost_is_counted_as_unpriced_and_never_as_zero() -> None:
    """The reserve is charged to money rows; the ledger says that a cost is missing."""
    unpriced = event([COST], "acme", 7, START_MS, None)
    value = encode_record(Batch("i1", 1, 1, 0, START_MS, 1, False, [], [], Totals(), [unpriced]))
    log = Log().add(value)
    assert log.settled(COST) == 7
    totals = log.shard.runs.open["i1", 1].totals
    assert (totals.unpriced, totals.cost_nanos, totals.charge_nanos) == (1, 0, 7)


def test_records_count_once_and_in_order() -> None:
    """A repeated seq is dropped; one that skips is held back with a reason, until the missing one came."""
    log = Log().add(batch(seq=1, amount=1), batch(seq=1, amount=1))
    fault = log.shard.apply(log.shard.fence, START_MS, batch(seq=3, amount=100))
    assert fault is not None
    assert fault.kind is FaultKind.GAP
    assert not fault.is_dead_letter
    assert "record 3 follows 1" in fault.reason
    log.add(batch(seq=2, amount=10), batch(seq=3, amount=100))
    assert log.settled(TOKENS) == 111


def test_offsets_below_the_fence_are_in_the_state_already() -> None:
    """Replaying the log changes nothing."""
    log = Log().add(batch(seq=1, amount=5))
    assert log.shard.apply(0, START_MS, batch("other", seq=1, amount=9)) is None
    assert log.settled(TOKENS) == 5
    assert log.shard.counts.skipped == 1


def test_gauges_are_absolute_by_replica() -> None:
    """A later gauge replaces the earlier one of the same replica, and adds to those of others."""
    log = Log().add(batch(gauges={TOKENS: 50}), batch("i2", gauges={TOKENS: 7}), batch(seq=2, gauges={TOKENS: 20}))
    assert log.inflight(TOKENS) == 27
    log.add(batch(seq=3, gauges={TOKENS: 0}), batch("i2", seq=2, gauges={TOKENS: 0}))
    assert log.inflight(TOKENS) == 0
    assert not log.shard.rows.gauged


def test_the_last_record_of_an_epoch_ends_its_gauges_and_its_membership() -> None:
    """After `final` nothing of the epoch counts any more, not even a record with a higher seq."""
    log = Log().add(batch(gauges={TOKENS: 50, COST: 50}), batch(seq=2, amount=30, final=True))
    assert (log.inflight(TOKENS), log.inflight(COST), log.settled(TOKENS)) == (0, 0, 30)
    assert log.members == []
    log.add(batch(seq=3, amount=1_000), batch(seq=1, amount=1_000))
    assert log.settled(TOKENS) == 30
    assert log.shard.ledger.by_key["instance=i1/epoch=1"].told == Totals(events=2)


def test_an_evicted_replica_keeps_only_its_money_charged() -> None:
    """Eviction frees the share and the rate gauges; what may have been spent stays until the epoch's own end."""
    log = Log().add(batch(gauges={TOKENS: 50, COST: 60}), batch("i2"), evict())
    assert log.members == [("i2", 1)]
    assert (log.inflight(TOKENS), log.inflight(COST)) == (0, 60)
    # Its journal is replayed: events count, rate gauges do not, money gauges do.
    log.add(batch(seq=2, amount=10, gauges={TOKENS: 40, COST: 20}))
    assert (log.settled(TOKENS), log.inflight(TOKENS), log.inflight(COST)) == (10, 0, 20)
    log.add(batch(seq=3, final=True))
    assert log.inflight(COST) == 0
    assert log.members == [("i2", 1)]


def test_a_higher_epoch_replaces_the_lower_one_at_once() -> None:
    """A restart needs no lease: the old run is out with the first record of the new one."""
    log = Log().add(batch(gauges={TOKENS: 50}), batch(epoch=2))
    assert log.members == [("i1", 2)]
    assert log.inflight(TOKENS) == 0
    log.add(batch(epoch=1, seq=2, amount=3))
    assert log.members == [("i1", 2)]
    assert log.settled(TOKENS) == 3


def test_evicting_nobody_changes_nothing() -> None:
    """An eviction of an unknown, or already evicted, replica is a record like any other."""
    log = Log().add(evict("nobody"), batch(), evict(), evict())
    assert log.members == []
    assert log.shard.fence == 4


def test_a_holding_is_what_a_live_run_has_of_the_total() -> None:
    """Settled by its events, in flight by its gauge; the rest of the total is what gone runs have used."""
    log = Log().add(batch(amount=5, gauges={TOKENS: 7}), batch("i2", amount=30, gauges={TOKENS: 2}))
    row = log.shard.rows.by_key[TOKENS]
    assert {run: (held.settled, held.inflight) for run, held in row.holdings.items()} == {
        ("i1", 1): (5, 7), ("i2", 1): (30, 2),
    }  # fmt: skip
    log.add(evict(), batch("i2", seq=2, gauges={TOKENS: 2}))
    assert {run: held.net for run, held in row.holdings.items()} == {("i2", 1): 32}
    assert row.total == 37


def test_what_a_gone_run_has_in_flight_of_money_is_held_until_it_ends() -> None:
    """Its events settle for nobody; there are never more holdings than members and gauges of gone runs."""
    log = Log().add(batch(gauges={COST: 60}), batch("i2"), evict(), batch(seq=2, amount=10, gauges={COST: 20}))
    row = log.shard.rows.by_key[COST]
    assert {run: (held.settled, held.inflight) for run, held in row.holdings.items()} == {("i1", 1): (0, 20)}
    log.add(batch("i2", seq=2, gauges={COST: 3}))
    assert set(row.holdings) == {("i1", 1), ("i2", 1)}
    log.add(batch(seq=3, final=True), batch("i2", seq=3, gauges={COST: 4}))
    assert (row.settled, row.inflight) == (10, 4)
    log.add(batch("i3", gauges={COST: 1}), batch("i4", gauges={COST: 1}))
    assert set(row.holdings) == {("i2", 1), ("i3", 1), ("i4", 1)}


def test_a_row_learns_its_limit_from_the_newest_policy_that_tells_one() -> None:
    """A replica that still has an older policy changes nothing; a gauge without a limit tells none."""
    log = Log().add(batch(gauges={TOKENS: 1}))
    row = log.shard.rows.by_key[TOKENS]
    assert row.limit == -1
    log.add(batch(seq=2, gauges={TOKENS: 1}, limit=100, version=3))
    assert row.limit == 100
    log.add(batch("i2", gauges={TOKENS: 1}, limit=900, version=2))
    assert row.limit == 100
    log.add(batch("i2", seq=2, wants={TOKENS: (5, 5)}, limit=50, version=4))
    assert (row.limit, row.limit_version) == (50, 4)


def test_wants_are_absolute_and_end_with_their_run() -> None:
    """The last word counts; a run that is gone wants nothing, and a row that nobody wants is no wanted row."""
    log = Log().add(batch(wants={TOKENS: (30, 10)}, limit=0), batch("i2", wants={TOKENS: (5, 5)}))
    row = log.shard.rows.by_key[TOKENS]
    log.add(batch(seq=2, wants={TOKENS: (20, 20)}))
    assert (row.holdings["i1", 1].want, row.holdings["i1", 1].head) == (20, 20)
    log.add(batch("i2", seq=2, wants={TOKENS: (0, 0)}))
    assert log.shard.rows.wanted == {row}
    log.add(evict())
    assert not log.shard.rows.wanted
    assert not row.is_wanted


@pytest.mark.parametrize("want", [(-1, -1), (5, -1), (5, 6)])
def test_a_want_that_makes_no_sense_is_a_fault_and_wants_nothing(want: tuple[int, int]) -> None:
    """Neither below nothing, nor more for the first request than for all of them."""
    shard = Shard(0)
    fault = shard.apply(0, START_MS, batch(wants={TOKENS: want}, limit=9))
    assert fault is not None
    assert fault.kind is FaultKind.INVALID
    assert f"want of {TOKENS}" in fault.reason
    assert not shard.rows.wanted


@pytest.mark.parametrize("value", [b"", b"junk", b"TWU\x01\xff", b"TWQ\x01\x90", b"TWU\x02\x90"])
def test_what_is_no_record_is_reported_and_passed(value: bytes) -> None:
    """A dead letter moves the fence and nothing else."""
    shard = Shard(0)
    fault = shard.apply(0, START_MS, value)
    assert fault is not None
    assert fault.kind is FaultKind.UNDECODABLE
    assert fault.is_dead_letter
    assert shard.fence == 1
    assert not shard.rows.by_key


def test_a_broken_event_costs_itself_and_not_its_neighbours() -> None:
    """The rest of the record counts, its seq too; the fault names the event."""
    events = [
        event([TOKENS], "acme", 1, START_MS), msgspec.Raw(b"\x93\x01\x02\x03"), event([TOKENS], "acme", -5, START_MS),
        event(["no key"], "acme", 10, START_MS), event([TOKENS], "acme", 100, START_MS),
    ]  # fmt: skip
    gauges = [Gauge(TOKENS, -3), Gauge("no key", 3), Gauge(COST, 8)]
    shard = Shard(0)
    value = encode_record(Batch("i1", 1, 1, 0, START_MS, 1, False, gauges, [], Totals(), events))
    fault = shard.apply(0, START_MS, value)
    assert fault is not None
    assert fault.kind is FaultKind.INVALID
    assert shard.rows.by_key[TOKENS].settled == 101
    assert shard.rows.by_key[TOKENS].inflight == 0
    assert shard.rows.by_key[COST].inflight == 8
    assert shard.runs.open["i1", 1].hw == 1
    assert shard.runs.open["i1", 1].totals.events == 3


def test_rows_are_retired_by_the_time_of_the_log() -> None:
    """Minute rows go three minutes after their window, others two days after; what is late has the ledger only."""
    log = Log().add(batch(amount=5, rows=(MINUTE, TOKENS)))
    log.add(batch(seq=2), at_ms=START_MS + 60_000 + 180_000 - 1)
    assert MINUTE in log.shard.rows.by_key
    log.add(batch(seq=3, amount=7, rows=(MINUTE, TOKENS)), at_ms=START_MS + 60_000 + 180_000)
    assert MINUTE not in log.shard.rows.by_key
    assert log.settled(TOKENS) == 12
    assert log.shard.counts.late == 1
    log.add(batch(seq=4), at_ms=START_MS + 3 * 86_400_000)
    assert not log.shard.rows.by_key
    assert log.shard.ledger.by_key["org=acme/day=2025-12-01"].totals.events == 2


def test_the_time_of_the_log_never_runs_backwards() -> None:
    """A broker clock that is set back revives nothing."""
    log = Log().add(batch(amount=5, rows=(MINUTE,)), at_ms=START_MS + 300_000)
    log.add(batch(seq=2, amount=5, rows=(MINUTE,)), at_ms=START_MS)
    assert MINUTE not in log.shard.rows.by_key
    assert log.shard.log_ms == START_MS + 300_000


def test_a_lost_run_is_settled_in_the_end() -> None:
    """What a run that never came back had in flight of money becomes a charge, after the time that ledgers are kept."""
    year = f"team/cost/org=acme/year@{START_MS // 1000}+31536000"
    log = Log().add(batch(gauges={year: 60}), evict())
    log.add(batch("i2"), at_ms=START_MS + KEEP_MS + 3_600_000)
    assert (log.settled(year), log.inflight(year)) == (60, 0)
    assert list(log.shard.runs.open) == [("i2", 1)]
