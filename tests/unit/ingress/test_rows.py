"""A row of one replica: its own part, its right, its limit, and what a new epoch leaves of them."""

from __future__ import annotations

import pytest

from ingress.core.admission import Registry
from ingress.core.plan import Plan
from ingress.core.rows import CARRY_AFTER_S, Ceiling, Known, Row, view_of
from schemas.quota import Member, RowState, Weight
from schemas.usage import Gauge
from tests.unit.ingress.governed import (
    EPOCH,
    INSTANCE,
    MINUTE_MS,
    POLICY,
    START_MS,
    WHOLE,
    denied,
    held,
    install,
    member_of,
    plan_of,
    resolver_of,
    snapshot_of,
    state_of,
)

MINUTE_S = START_MS // 1000
TOKENS = f"team-minute/tokens/org=acme,team=search/minute@{MINUTE_S}+60"
NEXT = f"team-minute/tokens/org=acme,team=search/minute@{MINUTE_S + 60}+60"
HOUR_S = MINUTE_S - MINUTE_S % 3_600
SLOTS = f"few/concurrency/org=acme/hour@{HOUR_S}+3600"
CONCURRENCY = POLICY.replace("limits:\n", "limits:\n  - {name: few, per: [org], concurrency: 2, hold_expires: 10m}\n")


def planned(policy: str = POLICY, weight: Weight = WHOLE) -> tuple[Registry, Plan]:
    """Return a registry with a share and a plan on it."""
    registry = member_of(Registry(1), weight)
    return registry, plan_of(resolver_of(policy, registry=registry))


def gauges(registry: Registry, seq: int, through: int | None = None) -> dict[str, int]:
    """Cut a record, and return its gauges by row."""
    return {gauge.row: gauge.inflight for gauge in registry.cut(0, seq, through)}


def row_of(limit: int, right: int = -1, right_limit: int = -1) -> Row:
    """Return a row with a limit and what the log says of it."""
    registry = member_of(Registry(1))
    row = Row("r/tokens/org=acme/day@0+86400", "org=acme", Ceiling("r", "tokens", limit), registry.shards[0], 86_400)
    row.confirm(Known(0, 0, right, right_limit), 0)
    return row


def test_what_was_not_used_is_room_at_once() -> None:
    """No round trip is needed: the own part is known here."""
    registry, plan = planned()
    hold = held(plan.admit(START_MS, 900, 0))
    denied(plan.admit(START_MS, 101, 0))
    hold.settle(1, 50, 0)
    row = registry.shards[0].rows[TOKENS]
    assert (row.own, row.room, row.used) == (50, 950, 50)
    held(plan.admit(START_MS, 950, 0))


def test_the_gauge_falls_only_with_the_record_of_the_event_though_the_room_is_there() -> None:
    """Else the meter would for a moment know of neither, and give the room to somebody else."""
    registry, plan = planned()
    held(plan.admit(START_MS, 900, 0)).settle(1, 50, 0)
    row = registry.shards[0].rows[TOKENS]
    assert gauges(registry, 1, through=0)[TOKENS] == 900
    assert (row.own, row.inflight) == (50, 900)
    held(plan.admit(START_MS, 20, 0))
    assert gauges(registry, 2, through=0)[TOKENS] == 920
    registry.journalled(0, 1)
    assert gauges(registry, 3, through=1)[TOKENS] == 20
    assert (row.own, row.inflight) == (70, 20)


@pytest.mark.parametrize(
    ("limit", "right", "given_of", "room"),
    [
        (1000, 400, 1000, 400),
        (500, 400, 1000, 200),  # lowered here: in proportion, and at once
        (2000, 400, 1000, 400),  # raised here: the meter has to give the rights
        (1000, 0, 1000, 0),
        (0, 400, 1000, 0),
        (1000, -1, -1, 1000),  # the log does not know the limit: the share of it
        (500, 1, 1000, 0),  # rounded down
    ],
)
def test_a_right_is_what_there_is_room_for(limit: int, right: int, given_of: int, room: int) -> None:
    """As the log has it, and no more than this replica's own limit lets stand of it."""
    assert row_of(limit, right, given_of).room == room


def test_a_limit_that_is_lowered_below_what_is_used_leaves_less_than_nothing() -> None:
    """Nothing is admitted until enough has been given back."""
    registry, plan = planned()
    hold = held(plan.admit(START_MS, 800, 0))
    install(registry, snapshot_of([state_of(TOKENS, 800, limit=1000, rights=(1000,), nets=(800,))], fence=2, number=2))
    plan_of(resolver_of(POLICY.replace("tpm: 1000", "tpm: 500"), registry=registry, version=2))
    assert denied(plan.admit(START_MS, 1, 0)).room == -300
    hold.settle(1, 100, 0)
    held(plan.admit(START_MS, 400, 0))


def test_a_snapshot_says_what_others_have_and_what_gone_ones_had() -> None:
    """By this replica's place among the members; without a place, or a right, it has none."""
    state = RowState("r", 70, 30, 500, [200, 100], [40, 25])
    assert view_of(state, 0) == Known(others=60, gone=35, right=200, right_limit=500)
    assert view_of(state, 1) == Known(others=75, gone=35, right=100, right_limit=500)
    assert view_of(state, -1) == Known(others=100, gone=35, right=0, right_limit=500)
    assert view_of(state, 2).right == 0
    assert view_of(RowState("r", 70, 30, -1, [], [40, 25]), 0) == Known(60, 35, -1, -1)


def test_what_gone_replicas_used_is_taken_from_everybody_where_nobody_has_rights() -> None:
    """A share is a part of the rest; with rights the meter has taken it off already."""
    half = Weight(1, 2, 0)
    registry, plan = planned(weight=half)
    members = [Member(INSTANCE, EPOCH, 0, half), Member("other", 1, 0, Weight(1, 2, 1))]
    state = state_of(TOKENS, 300, nets=(0, 100))
    install(registry, snapshot_of([state], fence=2, number=2, full=False, members=members))
    assert denied(plan.admit(START_MS, 401, 0)).room == (1000 - 200) // 2


def test_a_new_minute_is_at_most_what_the_right_of_the_last_one_was() -> None:
    """By its share half of it were its own; but in the minute before all rights had gone to the other replica."""
    half = Weight(1, 2, 0)
    registry, plan = planned(weight=half)
    members = [Member(INSTANCE, EPOCH, 0, half), Member("other", 1, 0, Weight(1, 2, 1))]
    held(plan.admit(START_MS, 10, 0))
    state = state_of(TOKENS, 900, limit=1000, rights=(30, 970), nets=(10, 890))
    install(registry, snapshot_of([state], fence=2, number=2, full=False, members=members))
    at = START_MS + MINUTE_MS
    short = denied(plan.admit(at, 21, 0))
    assert (short.room, short.may_wait) == (20, True)
    held(plan.admit(at, 20, 0))
    given = state_of(NEXT, 20, limit=1000, rights=(100, 900), nets=(20, 0))
    install(registry, snapshot_of([given], fence=3, number=3, full=False, members=members), at)
    assert denied(plan.admit(at, 500, 0)).room == 100 - 20 - 10


def test_a_new_epoch_keeps_what_is_in_flight_and_leaves_the_rest_to_the_old_one() -> None:
    """What had been settled counts as somebody else's; what was given back before its event was cut is room again."""
    registry, plan = planned()
    running = held(plan.admit(START_MS, 100, 0))
    held(plan.admit(START_MS, 50, 0)).settle(1, 30, 0)
    registry.cut(0, 1)
    held(plan.admit(START_MS, 70, 0)).settle(1, 20, 0)  # its event is in no record yet
    row = registry.shards[0].rows[TOKENS]
    assert (row.own, row.inflight) == (150, 170)
    registry.rejoin(0)
    assert (row.own, row.inflight, row.others) == (120, 170, 30)
    assert (row.right, row.used) == (-1, 150)
    assert Gauge(TOKENS, 170, 1000) in registry.cut(0, 1, through=0)
    registry.journalled(0, 1)
    assert gauges(registry, 2, through=1)[TOKENS] == 100
    running.settle(1, 100, 0)
    assert gauges(registry, 3)[TOKENS] == 0
    assert row.used == 150


def test_what_is_left_of_a_window_is_carried_over_up_to_a_part_of_the_limit() -> None:
    """Once the old window has been over for a minute; a replica that does not know it takes what the log says."""
    registry = member_of(Registry(1))
    ceiling = Ceiling("r", "cost", 1_000)
    ceiling.carry_percent = 50
    shard = registry.shards[0]
    last = Row("r/cost/org=a/day@0+86400", "org=a", ceiling, shard, 86_400)
    last.confirm(Known(700, 0, 0, 1_000), 0)
    row = Row("r/cost/org=a/day@86400+86400", "org=a", ceiling, shard, 2 * 86_400)
    row.last = last
    row.recompute((86_400 + CARRY_AFTER_S) * 1000 - 1)
    assert row.limit == 1_000
    row.recompute((86_400 + CARRY_AFTER_S) * 1000)
    assert row.limit == 1_300
    last.confirm(Known(100, 0, 0, 1_000), 0)
    row.extra = 0
    row.recompute((86_400 + CARRY_AFTER_S) * 1000)
    assert row.limit == 1_500, "at most half of the limit moves"
    ceiling.limit = 900
    row.confirm(Known(0, 0, 1_500, 1_500), (86_400 + CARRY_AFTER_S) * 1000)
    assert row.limit == 1_350, "a lowered limit holds, though the log still has the higher one"
    other = Row("r/cost/org=b/day@86400+86400", "org=b", ceiling, shard, 2 * 86_400)
    other.confirm(Known(0, 0, 1_200, 1_200), 0)
    assert (other.limit, other.room) == (1_200, 1_200)


def test_a_request_counts_as_in_flight_only_while_it_runs() -> None:
    """All of it comes back; the record of its end takes it out of the gauge; no event is booked to such a row."""
    registry, plan = planned(CONCURRENCY)
    first, second = held(plan.admit(START_MS, 1, 0)), held(plan.admit(START_MS, 1, 0))
    told = denied(plan.admit(START_MS, 1, 0))
    assert (told.reason, told.row, told.used, told.limit) == ("concurrency", SLOTS, 2, 2)
    assert b"concurrency" not in bytes(first.rows)
    assert gauges(registry, 1)[SLOTS] == 2
    first.settle(1, 1, 0)
    third = held(plan.admit(START_MS, 1, 0))
    assert gauges(registry, 2)[SLOTS] == 2
    for hold in (second, third):
        hold.settle(1, 1, 0)
    assert gauges(registry, 3)[SLOTS] == 0


def test_what_is_in_flight_is_in_flight_in_the_next_hour_too() -> None:
    """It does not decay as a sliding minute does."""
    _, plan = planned(CONCURRENCY)
    hold = held(plan.admit(START_MS, 1, 0))
    held(plan.admit(START_MS, 1, 0))
    next_hour_ms = (HOUR_S + 3_600) * 1000
    denied(plan.admit(next_hour_ms + 1_800_000, 1, 0))
    hold.settle(1, 1, 0)
    held(plan.admit(next_hour_ms + 1_800_000, 1, 0))
    denied(plan.admit(next_hour_ms + 1_800_000, 1, 0))


def test_a_request_that_never_ends_is_in_flight_only_so_long() -> None:
    """Its slot is free after the time of the rule, its tokens stay reserved; when it ends at last, nothing doubles."""
    registry, plan = planned(CONCURRENCY)
    stuck = held(plan.admit(START_MS, 5, 0))
    held(plan.admit(START_MS + 1, 5, 0))
    registry.sweep(START_MS + 600_000 - 1)
    row = registry.shards[0].rows[SLOTS]
    assert row.own == 2
    registry.sweep(START_MS + 600_000)
    assert (row.own, row.inflight) == (1, 1)
    assert registry.shards[0].rows[TOKENS].own == 10
    assert gauges(registry, 1)[SLOTS] == 1
    stuck.settle(1, 5, 0)
    assert row.own == 1
    assert gauges(registry, 2)[SLOTS] == 1


@pytest.mark.parametrize(("tier", "fits"), [(0, 1000), (1, 900), (2, 700)])
def test_what_is_withheld_from_a_tier_is_left_for_the_ones_above(tier: int, fits: int) -> None:
    """Experiments stop at 70 %, normal requests at 90 %."""
    registry, plan = planned()
    ceiling = plan._specs[1].ceiling
    ceiling.withheld = (0, 10, 30)
    registry.changed()
    plan.tier = tier
    denied(plan.admit(START_MS, fits + 1, 0))
    held(plan.admit(START_MS, fits, 0))


@pytest.mark.parametrize(("tier", "goes_on"), [(0, True), (1, False)])
def test_grace_lets_the_first_tier_go_beyond(tier: int, goes_on: bool) -> None:
    """By a part of the limit, and with a note that says so."""
    registry, plan = planned()
    ceiling = plan._specs[1].ceiling
    ceiling.grace_percent = 5
    registry.changed()
    plan.tier = tier
    held(plan.admit(START_MS, 1000, 0))
    outcome = plan.admit(START_MS, 50, 0)
    if goes_on:
        assert [note.kind for note in held(outcome).notes] == ["grace"]
        denied(plan.admit(START_MS, 1, 0))
    else:
        denied(outcome)
