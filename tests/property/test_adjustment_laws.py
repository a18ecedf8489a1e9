"""Corrections of costs: divided exactly, written once, and never a way around a limit."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from enforcer.core.adjustments import Adjustment, Cutter, Posting, Target, derived_id
from enforcer.core.allocation import divide
from meter.core.changelog import Changelog
from meter.core.shard import Shard
from schemas.codec import decode_attribution, decode_event, decode_record, decode_rows
from schemas.rows import Measure, parse_row_key
from schemas.usage import Attribution, Batch, Evict, UsageEvent
from tests.property.bound_scenario import Request, Scenario
from tests.property.bound_world import World
from tests.property.fold_logs import START_MS

WORLDS = st.builds(
    Scenario,
    seed=st.integers(0, 1_000_000),
    replicas=st.integers(1, 4),
    limit=st.sampled_from([300, 1_000, 5_000]),
    biggest=st.sampled_from([60, 5]),
    pressure_ms=st.sampled_from([8, 30, 2]),
    wire_ms=st.sampled_from([10, 50]),
    news_ms=st.sampled_from([10, 100]),
    duplicates=st.sampled_from([0.0, 0.1]),
    meter_kills=st.integers(0, 2),
    kills=st.integers(0, 2),
    late_joins=st.integers(0, 1),
    paced=st.just(False),
    edge_s=st.sampled_from([3_600, 86_400]),
)
"""Everything from which the bound of a budget is exact."""


class CorrectedWorld(World):
    """A world in which costs of requests are corrected, up and down, while others are admitted."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self._cutter = Cutter(1, 1)
        self._corrected: set[int] = set()
        self.corrections = 0

    def run(self) -> None:
        """Begin correcting, too."""
        self.at(50, self._correct)
        super().run()

    def _correct(self) -> None:
        if self.ending:
            for _, value in self._cutter.close(self.now):
                self.append(value)
            return
        for request in [found for found in self.requests if found.logged and id(found) not in self._corrected][:3]:
            self._corrected.add(id(request))
            self._post(request)
        self.at(self.random.randint(5, 60), self._correct)

    def _post(self, request: Request) -> None:
        more = self.random.choice((-request.actual, -request.actual // 2, 3))
        rows = [key for key in request.keys if parse_row_key(key).measure == Measure.COST]
        target = Target(decode_attribution(request.plan.attribution), rows)
        adjustment = Adjustment(derived_id(self.corrections), 0, request.since_ms, "messages", more, more, "test")
        self.corrections += 1
        for _, value in self._cutter.cut(Posting([target], [adjustment]), self.now):
            self.append(value)
            if self.random.random() < 0.1:
                self.append(value)
        for key in rows:
            self.truth[key] += more
            self.allowed_over[key] += max(more, 0)

    def _check_rest(self) -> None:
        """Check that rows hold what the log says, corrections included, and what was used."""
        shard = self.meter.partition.shard
        sums = booked(self.log)
        assert {key: row.settled for key, row in shard.rows.by_key.items() if row.settled} == sums
        for key, row in shard.rows.by_key.items():
            assert row.settled == self.truth[key], key
        assert all(not run[0].endswith("/adjust") for run in (state.run for state in shard.runs.members))


def booked(log: list[tuple[int, bytes]]) -> dict[str, int]:
    """Return what the log says by row, each record counted once: an independent and naive fold."""
    seen: set[tuple[str, int, int]] = set()
    sums: dict[str, int] = {}
    for _, value in log:
        record = decode_record(value)
        if isinstance(record, Evict) or (record.instance, record.epoch, record.seq) in seen:
            continue
        seen.add((record.instance, record.epoch, record.seq))
        for raw in record.events:
            event = msgspec.msgpack.decode(raw, type=UsageEvent)
            for key in decode_rows(event.rows):
                by_cost = parse_row_key(key).measure == Measure.COST
                sums[key] = sums.get(key, 0) + (event.charge_nanos if by_cost else event.charge_tokens)
    return {key: value for key, value in sums.items() if value}


@given(WORLDS)
@settings(max_examples=12)
def test_what_is_given_back_is_given_out_once_and_no_row_exceeds_its_limit(scenario: Scenario) -> None:
    """Corrections at any moment, doubled records, meters and replicas that die: a budget stays within its amount."""
    world = CorrectedWorld(scenario)
    world.run()


def test_a_world_corrects_something() -> None:
    """The law above is about corrections that were made, many of them while the budget was used up."""
    world = CorrectedWorld(replace(Scenario(seed=7), limit=300, paced=False, edge_s=86_400))
    world.run()
    assert world.corrections > 10


@given(st.integers(-(10**18), 10**18), st.lists(st.integers(0, 10**15), min_size=1, max_size=40))
@settings(max_examples=200)
def test_shares_sum_to_the_amount_and_are_off_by_less_than_a_nano_dollar(amount: int, weights: list[int]) -> None:
    """Whatever the weights: nothing is lost, and no share is a whole unit away from its proportion."""
    shares = divide(amount, weights)
    assert sum(shares) == amount
    whole = sum(weights)
    if whole:
        assert all(abs(share * whole - amount * weight) < whole for share, weight in zip(shares, weights, strict=True))
    else:
        assert max(shares) - min(shares) <= 1


ADJUSTMENTS = st.lists(
    st.tuples(st.sampled_from(["acme", "globex", "initech"]), st.integers(-(10**12), 10**12)), max_size=700
)


@given(ADJUSTMENTS, st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=25)
def test_records_of_a_posting_say_what_was_posted_and_fold_to_it(
    wanted: list[tuple[str, int]], partitions: int, pieces: int
) -> None:
    """In however many batches: each correction once, contiguous records, told totals equal to the meter's."""
    orgs = sorted({org for org, _ in wanted})
    targets = [Target(_of(org), [f"team/cost/org={org}/month@1764547200+2678400"]) for org in orgs]
    adjustments = [
        Adjustment(derived_id(number, org), orgs.index(org), START_MS, "messages", nanos, nanos, "price:1")
        for number, (org, nanos) in enumerate(wanted)
    ]  # fmt: skip
    cutter = Cutter(5, partitions)
    log: dict[int, list[bytes]] = {}
    for piece in range(pieces):
        for partition, value in cutter.cut(Posting(targets, adjustments[piece::pieces]), START_MS):
            log.setdefault(partition, []).append(value)
    for partition, value in cutter.close(START_MS):
        log[partition].append(value)
    settled: dict[str, int] = {}
    for partition, values in log.items():
        shard = Shard(partition)
        for offset, value in enumerate(values):
            assert len(value) <= 512 * 1024
            assert shard.apply(offset, START_MS, value) is None
        (account,) = [found for found in shard.ledger.by_key.values() if found.told is not None]
        assert account.told == account.totals
        assert not shard.runs.open
        assert Changelog(shard).whole() == Changelog(_folded(partition, values)).whole()
        settled |= {key: row.settled for key, row in shard.rows.by_key.items()}
    ids = [event.id for values in log.values() for event in _events(values)]
    assert sorted(ids) == sorted(adjustment.id for adjustment in adjustments)
    for org in orgs:
        assert settled[targets[orgs.index(org)].rows[0]] == sum(nanos for name, nanos in wanted if name == org)


def _of(org: str) -> Attribution:
    return Attribution(org, "chat", "search", "ada", "key_1", "openai", "gpt-4o-mini")


def _folded(partition: int, values: list[bytes]) -> Shard:
    shard = Shard(partition)
    for offset, value in enumerate(values):
        shard.apply(offset, START_MS, value)
    return shard


def _events(values: list[bytes]) -> list[UsageEvent]:
    records = [decode_record(value) for value in values]
    return [decode_event(raw) for record in records if isinstance(record, Batch) for raw in record.events]
