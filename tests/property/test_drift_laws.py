"""Meter and history, each read at its own pace, are never called different; what differs is, by the hour it is in."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings

from enforcer.core.ledgers import of_days, of_shard
from enforcer.core.quota import QuotaView
from meter.core import snapshots
from meter.core.changelog import META, Changelog
from meter.core.shard import Shard
from meter.core.snapshots import Stamp, snapshot
from meter.sink.core import audit, newest
from meter.sink.lane import Lane
from meter.sink.rows import Source
from schemas.audits import Audit, Difference
from schemas.codec import decode_attribution, decode_event, decode_record, encode_record
from schemas.errors import DecodeError
from schemas.quota import Snapshot, hour_key, run_key
from schemas.usage import Attribution, Batch, Totals, UsageEvent
from tests.history_builders import a_batch, an_event, totals_of
from tests.history_fakes import FakeLog, FakeStore, Fate, Killed
from tests.history_world import live
from tests.property.test_audit_laws import grouped, hour, run

HOUR_MS = 3_600_000
START_MS = 1_796_083_200_000
PARTITIONS = 2
RUNS = (("a", 1), ("a", 2), ("b", 1), ("enforcer/adjust", 1))
ORGS = ("acme", "beta")
Run = tuple[str, int]


class Sent(NamedTuple):
    """A record that counts."""

    offset: int
    seq: int
    run: Run
    events: list[UsageEvent]


class World:
    """The log of each partition: replicas that write late, twice, out of order, end, and begin anew."""

    def __init__(self, pick: random.Random, length: int) -> None:
        self.logs: list[list[tuple[int, bytes]]] = [[] for _ in range(PARTITIONS)]
        """(Broker time, value) by offset."""
        self.counted: list[list[Sent]] = [[] for _ in range(PARTITIONS)]
        self._told: dict[tuple[int, Run], list[UsageEvent]] = {}
        self._seqs: dict[tuple[int, Run], int] = {}
        self._ended: set[tuple[int, Run]] = set()
        self.now_ms = START_MS
        for _ in range(length):
            self.now_ms += pick.choice((5, 900, 60_000, HOUR_MS if pick.random() < 0.3 else 0, HOUR_MS * 9))
            self._write(pick, pick.randrange(PARTITIONS), pick.choice(RUNS))

    def _write(self, pick: random.Random, partition: int, run: Run) -> None:
        log = self.logs[partition]
        kind = pick.random()
        if kind < 0.05:
            log.append((self.now_ms, b"noise"))
        elif kind < 0.15 and log:
            log.append((self.now_ms, pick.choice(log[-4:])[1]))
        elif (partition, run) not in self._ended:
            first = self._record(pick, partition, run, is_last=kind > 0.93)
            if kind < 0.25:
                second = self._record(pick, partition, run, is_last=False)
                log += [(self.now_ms, second), (self.now_ms, first), (self.now_ms, second)]
                self.counted[partition][-1] = self.counted[partition][-1]._replace(offset=len(log) - 1)
                self.counted[partition][-2] = self.counted[partition][-2]._replace(offset=len(log) - 2)
            else:
                log.append((self.now_ms, first))

    def _record(self, pick: random.Random, partition: int, run: Run, is_last: bool) -> bytes:
        place = (partition, run)
        seq = self._seqs[place] = self._seqs.get(place, 0) + 1
        events = [self._event(pick) for _ in range(pick.choice((0, 1, 1, 2, 4)))]
        told = self._told.setdefault(place, [])
        told += events
        if is_last:
            self._ended.add(place)
        self.counted[partition].append(Sent(len(self.logs[partition]), seq, run, events))
        return a_batch(events, seq, *run, final=is_last, told=totals_of(told))

    def _event(self, pick: random.Random) -> UsageEvent:
        late = HOUR_MS * pick.choice((0, 0, 0, 1, 3, 26, 70)) if pick.random() < 0.5 else 0
        ahead = HOUR_MS * pick.choice((1, 3)) if pick.random() < 0.03 else 0
        org = Attribution(pick.choice(ORGS), provider="openai", model="m")
        cost = pick.choice((None, 0, 7, 10**9))
        return an_event(attribution=org, occurred_ms=self.now_ms - late + ahead, cost_nanos=cost)


class Rest(NamedTuple):
    """The history of one partition between two batches."""

    position: int
    rows: list[dict[str, Any]]
    runs: list[Any]
    now_s: int


def rests(log: list[tuple[int, bytes]], partition: int, pick: random.Random, kills: int) -> list[Rest]:
    """Let a history read a log, killed at most so often; return it at every rest."""
    source = Source("cluster", "usage", partition)
    fake, store, found = FakeLog(), FakeStore(), list[Rest]()
    fake.values = [value for _, value in log]

    def at_rest(lane: Lane) -> None:
        rows = list(store.rows_of["hourly"])
        runs = audit.told_of(audit.runs_of(grouped(rows, lambda row: run(row)[3:])), lane.books)
        found.append(Rest(lane.committed, rows, runs, log[max(0, lane.committed - 1)][0] // 1000))

    for killed_at in [*(pick.randint(1, 30) for _ in range(pick.randint(0, kills))), None]:
        fake.fate = store.fate = Fate(killed_at)
        with contextlib.suppress(Killed):
            asyncio.run(live(fake, store, [pick.choice((0, 400, 2_000))], pick.randint(1, 6), source, at_rest))
    return found


def audits_of(parts: tuple[Rest, ...], at_ms: int) -> list[Audit]:
    """Return what an audit tells of all partitions, by what the history's tables have at once."""
    rows = [row for part in parts for row in part.rows]
    now_s = max(part.now_s for part in parts)
    by_hour = grouped(rows, lambda row: (*run(row), hour(row)))
    by_day = grouped(rows, lambda row: (row["org"], datetime.fromtimestamp(hour(row), UTC).date()))
    days = newest.days_of(by_day, PARTITIONS, now_s)
    told = []
    for number, part in enumerate(parts):
        hours = newest.hours_of(by_hour, ("cluster", "usage", number), now_s)
        told.append(
            Audit(number, at_ms, part.position, part.runs, [], hours.told, hours.since, days[number].told,
                  days[number].since)
        )  # fmt: skip
    return told


def published(log: list[tuple[int, bytes]], partition: int, pick: random.Random) -> list[Snapshot]:
    """Fold a log and publish now and then; start again from the changelog now and then."""
    changelog, parts = Changelog(Shard(partition)), list[Snapshot]()
    number, is_new = 0, True
    for offset, (log_ms, value) in enumerate(log):
        changelog.shard.apply(offset, log_ms, value)
        if pick.random() < 0.05:
            flush = changelog.begin()
            store = {name: changelog.encode(name) for name in changelog.whole() if name != META}
            changelog = Changelog.restore(partition, store | {META: flush.meta})
            is_new = True
        if pick.random() < 0.4 or offset == len(log) - 1:
            number += 1
            full = is_new or pick.random() < 0.1 or changelog.shard.joined
            parts += snapshot(changelog.shard, Stamp("meter", number, 0), full)
            is_new = False
    return parts


class Enforcer:
    """What the enforcer has read of both."""

    def __init__(self) -> None:
        self.view, self.audits = QuotaView(PARTITIONS), dict[int, Audit]()

    def read(self, record: Snapshot | Audit) -> None:
        """Take in what the meter or the history says."""
        if isinstance(record, Audit):
            self.audits[record.partition] = record
        else:
            self.view.merge(record, 0)

    def differences(self) -> list[Difference]:
        """Return what it finds now."""
        found = [one for shard in self.view.shards for one in of_shard(shard, self.audits.get(shard.partition))]
        return found + list(of_days(self.view.shards, self.audits))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut snapshots into many parts, and look between them."""
    monkeypatch.setattr(snapshots, "MAX_ROWS", 3)


def histories(world: World, pick: random.Random, kills: int) -> list[list[Audit]]:
    """Return audits in the order in which they are made: each partition reads on at its own pace."""
    found = [rests(log, number, pick, kills) for number, log in enumerate(world.logs)]
    if not all(found):
        return []
    at = [0] * PARTITIONS
    made = [audits_of((found[0][0], found[1][0]), START_MS)]
    while any(place < len(some) - 1 for place, some in zip(at, found, strict=True)):
        for number, some in enumerate(found):
            at[number] = min(len(some) - 1, at[number] + pick.choice((0, 1, 3)))
        made.append(audits_of((found[0][at[0]], found[1][at[1]]), START_MS + len(made)))
    return made


def steps(world: World, pick: random.Random, kills: int = 0) -> Iterator[Snapshot | Audit]:
    """Yield what the enforcer reads, one record a time, of the meter and of the history in any order."""
    queues: list[list[Snapshot | Audit]] = [[*published(log, number, pick)] for number, log in enumerate(world.logs)]
    queues.append([one for together in histories(world, pick, kills) for one in together])
    while queues := [queue for queue in queues if queue]:
        chosen = pick.choice(queues)
        for _ in range(min(len(chosen), pick.choice((1, 1, 4, 20)))):
            yield chosen.pop(0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6).map(random.Random), st.integers(1, 40))
def test_nothing_differs_whoever_is_ahead(pick: random.Random, length: int) -> None:
    """Late events, kills, restarts, snapshots in parts, audits of before and after: at no moment is there an alarm."""
    world, enforcer = World(pick, length), Enforcer()
    for record in steps(world, pick, kills=2):
        enforcer.read(record)
        assert enforcer.differences() == []


def caught_up(world: World, pick: random.Random) -> Enforcer:
    """Return an enforcer that has read all of both."""
    enforcer = Enforcer()
    for record in steps(world, pick):
        enforcer.read(record)
    return enforcer


def without(world: World, partition: int, sent: Sent, event: UsageEvent) -> World:
    """Return a world in which one event is not in its record, and all else, also what was told, is as it was."""
    lacking = copy.copy(world)
    lacking.logs = [list(log) for log in world.logs]
    for offset, (log_ms, value) in enumerate(lacking.logs[partition]):
        with contextlib.suppress(DecodeError):
            record = decode_record(value)
            if isinstance(record, Batch) and (record.instance, record.epoch, record.seq) == (*sent.run, sent.seq):
                events = [raw for raw in record.events if decode_event(raw).id != event.id]
                changed = msgspec.structs.replace(record, events=events)
                lacking.logs[partition][offset] = (log_ms, encode_record(changed))
    return lacking


def as_told(audit: Audit, told: Totals | None) -> Audit:
    """Return an audit whose runs have told something else."""
    return msgspec.structs.replace(audit, runs=[msgspec.structs.replace(one, told=told) for one in audit.runs])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 10**6).map(random.Random), st.integers(3, 30), st.booleans(),
    st.sampled_from(("at rest", "busy", "forgotten")),
)  # fmt: skip
def test_what_one_lacks_is_named_by_its_hour(pick: random.Random, length: int, is_meters: bool, how: str) -> None:
    """An event that meter or history lacks: the hour is named, the sums, and a range of the log that it is in.

    Also while the run goes on, and if the history has forgotten what the run has told.
    """
    world, seed = World(pick, length), pick.randint(0, 10**6)
    places = [(number, sent, event) for number, some in enumerate(world.counted) for sent in some
              for event in sent.events]  # fmt: skip
    assume(places)
    partition, sent, event = pick.choice(places)
    lacking = without(world, partition, sent, event)
    enforcer = caught_up(lacking if is_meters else world, random.Random(seed))
    enforcer.audits = caught_up(world if is_meters else lacking, random.Random(seed)).audits
    assume(len(enforcer.audits) == PARTITIONS)
    if how != "at rest":
        enforcer.audits[partition] = as_told(enforcer.audits[partition], Totals(9) if how == "busy" else None)
    shard, told = enforcer.view.shards[partition], enforcer.audits[partition]
    run, of_hour = run_key(*sent.run), event.occurred_ms // HOUR_MS
    found = list(of_shard(shard, told))
    since = shard.ledger[run][1].hours_from
    assert since is not None
    assert told.hours_from is not None
    if of_hour < max(since, told.hours_from):
        assert how != "at rest" or run in [one.key for one in found], "then the run alone is known"
        return
    first = found[0]
    assert [one.key for one in found if one.ledgers == "meter ≠ history"] == [hour_key(run, of_hour)]
    assert (first.ledgers, first.partition) == ("meter ≠ history", partition)
    ours, theirs = first.fields["events"]
    assert ours - theirs == (-1 if is_meters else 1)
    assert first.first_seq <= sent.seq <= first.last_seq
    assert first.first_offset <= sent.offset <= first.last_offset
    day = datetime.fromtimestamp(event.occurred_ms / 1000, UTC).date()
    org = decode_attribution(event.attribution).org
    assert [one.key for one in of_days(enforcer.view.shards, enforcer.audits)] in ([], [f"org={org}/day={day}"])
