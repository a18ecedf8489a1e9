"""Rows of one replica: binding, cutting, installing snapshots, epochs."""

from __future__ import annotations

from ingress.core.admission import MAX_GAUGES_PER_RECORD, Binding, Registry
from ingress.core.rows import GRACE_S, Ceiling, Row
from schemas.quota import NO_WEIGHT, Member, Weight
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
TEAM_REQUESTS = f"team-minute/requests/org=acme,team=search/minute@{MINUTE_S}+60"
TEAM_TOKENS = f"team-minute/tokens/org=acme,team=search/minute@{MINUTE_S}+60"


def gauges_of(registry: Registry, seq: int, through: int | None = None) -> dict[str, int]:
    """Cut partition 0 and return its gauges by row."""
    return {gauge.row: gauge.inflight for gauge in registry.cut(0, seq, through)}


def test_a_cut_carries_the_reservations_of_the_rows_that_were_touched() -> None:
    """The first record after an admission has its gauges; the next one is empty."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 100, 1_000))
    gauges = gauges_of(registry, 1)
    assert gauges[TEAM_REQUESTS] == 1
    assert gauges[TEAM_TOKENS] == 100
    assert [gauge for row, gauge in gauges.items() if row.startswith("org-month/cost")] == [1_000]
    assert gauges_of(registry, 2) == {}


def test_a_gauge_tells_the_limit_that_its_replica_goes_by() -> None:
    """Limits travel with what is used of them; one that a new policy changes comes with the next gauge."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 100, 0))
    assert Gauge(TEAM_TOKENS, 100, 1000) in registry.cut(0, 1)
    plan_of(resolver_of(POLICY.replace("tpm: 1000", "tpm: 500"), registry=registry, version=2))
    held(plan.admit(START_MS, 1, 0))
    assert Gauge(TEAM_TOKENS, 101, 500) in registry.cut(0, 2)


def test_a_gauge_falls_only_with_the_record_that_carries_the_event() -> None:
    """A settled reservation stays in the gauges until its event is inside a record."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    hold = held(plan.admit(START_MS, 100, 0))
    hold.settle(1, 40, 0)
    assert gauges_of(registry, 1, through=0)[TEAM_TOKENS] == 100  # not on the log yet
    registry.journalled(0, 3)
    other = held(plan.admit(START_MS, 5, 0))
    assert gauges_of(registry, 2, through=2)[TEAM_TOKENS] == 105  # two records are needed for three events
    assert gauges_of(registry, 3, through=3)[TEAM_TOKENS] == 5
    other.settle(0, 0, 0)
    assert gauges_of(registry, 4)[TEAM_TOKENS] == 0


def test_usage_beyond_the_reservation_takes_room_and_gauge_at_once() -> None:
    """What a request used beyond its reservation is not available to the next one."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    hold = held(plan.admit(START_MS, 100, 0))
    hold.settle(1, 950, 0)
    assert denied(plan.admit(START_MS, 51, 0)).room == 50
    assert gauges_of(registry, 1, through=0)[TEAM_TOKENS] == 950
    registry.journalled(0, 1)
    assert gauges_of(registry, 2, through=1)[TEAM_TOKENS] == 0


def test_own_usage_counts_once_whether_a_snapshot_includes_it_or_not() -> None:
    """What this replica has is known here: news of it, early or late, change neither the sum nor the room."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 300, 0))
    registry.cut(0, 1)
    held(plan.admit(START_MS, 200, 0))
    registry.cut(0, 2)
    row = registry.shards[0].rows[TEAM_TOKENS]
    assert (row.used, row.room) == (500, 500)
    for number, confirmed in enumerate((0, 300, 500), start=2):
        told = state_of(TEAM_TOKENS, confirmed + 40, limit=1000, rights=(960,), nets=(confirmed,))
        install(registry, snapshot_of([told], fence=number, hw=number - 1, number=number, full=False))
        assert (row.others, row.used, row.room) == (40, 540, 460)


def test_a_right_is_what_this_replica_may_have_whatever_the_others_use() -> None:
    """Where the log knows the limit, a right counts; before, the share of what gone replicas have left."""
    half = Weight(1, 2, 1)
    registry = member_of(Registry(1), half)
    members = [Member("other", 1, 0, Weight(1, 2, 0)), Member(INSTANCE, EPOCH, 0, half)]
    plan = plan_of(resolver_of(registry=registry))
    assert denied(plan.admit(START_MS, 501, 0)).room == 500
    news = [state_of(TEAM_TOKENS, 400, nets=(300, 0))]
    install(registry, snapshot_of(news, fence=2, number=2, full=False, members=members))
    short = denied(plan.admit(START_MS, 451, 0))
    assert (short.room, short.used, short.right, short.may_wait) == ((1000 - 100) // 2, 400, -1, True)
    news = [state_of(TEAM_TOKENS, 400, limit=1000, rights=(320, 480), nets=(300, 0))]
    install(registry, snapshot_of(news, fence=3, number=3, full=False, members=members))
    held(plan.admit(START_MS, 80, 0))
    short = denied(plan.admit(START_MS, 401, 0))
    assert (short.room, short.right, short.pending, short.used) == (400, 480, 80, 480)
    held(plan.admit(START_MS, 400, 0))


def test_a_changed_share_is_in_force_before_the_next_admission() -> None:
    """Rows that the snapshot does not mention are recomputed before they are used again."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 400, 0))
    outcome = registry.install(
        snapshot_of(fence=2, number=2, full=False, weight=Weight(1, 4, 0)), INSTANCE, EPOCH, START_MS
    )
    assert outcome.ack_is_due
    assert denied(plan.admit(START_MS, 1, 0)).room == 250 - 400


def test_a_snapshot_in_parts_is_installed_with_its_last_part() -> None:
    """Nothing of it counts before, and parts of an abandoned snapshot do not mix with the next."""
    registry = Registry(1)
    plan = plan_of(resolver_of(registry=registry))
    rows = [state_of(TEAM_TOKENS, 900)]
    first = snapshot_of([], chunk=0, chunks=2, publisher="dead")
    assert not registry.install(first, INSTANCE, EPOCH, START_MS).is_installed
    assert not registry.install(snapshot_of(rows, chunk=0, chunks=2), INSTANCE, EPOCH, START_MS).is_installed
    assert denied(plan.admit(START_MS, 1, 0)).reason == "detached"
    install(registry, snapshot_of([state_of(TEAM_REQUESTS, 9)], chunk=1, chunks=2))
    assert denied(plan.admit(START_MS, 101, 0)).used == 900
    held(plan.admit(START_MS, 100, 0))


def test_a_gap_in_the_snapshots_ends_acknowledgement_until_a_full_one() -> None:
    """A replica that missed a snapshot keeps what it has and says so once."""
    registry = member_of(Registry(1))
    shard = registry.shards[0]
    lost = registry.install(snapshot_of(fence=9, number=3, full=False), INSTANCE, EPOCH, START_MS)
    assert lost.is_lost
    assert not lost.is_installed
    again = registry.install(snapshot_of(fence=10, number=4, full=False), INSTANCE, EPOCH, START_MS)
    assert not again.is_lost
    assert shard.fence == 1
    install(registry, snapshot_of(fence=11, number=5))
    assert shard.fence == 11


def test_a_meter_that_lost_its_partition_cannot_turn_rows_back() -> None:
    """A snapshot below the installed fence is left alone; its publisher's later ones are of use again."""
    registry = member_of(Registry(1))
    install(registry, snapshot_of([state_of(TEAM_TOKENS, 500)], fence=20, publisher="meter-2"))
    old = registry.install(snapshot_of([state_of(TEAM_TOKENS, 1)], fence=10, number=2, full=False), INSTANCE, EPOCH, 0)
    assert not old.is_installed
    assert not old.is_lost
    assert registry.shards[0].known[TEAM_TOKENS].others == 500
    install(registry, snapshot_of(fence=25, number=3, full=False))


def test_rows_that_nobody_used_here_are_remembered_until_they_are() -> None:
    """What others used counts from the first admission on."""
    registry = Registry(1)
    install(registry, snapshot_of([state_of(TEAM_TOKENS, 990)]))
    plan = plan_of(resolver_of(registry=registry))
    assert denied(plan.admit(START_MS, 11, 0)).used == 990


def test_a_full_snapshot_ends_rows_that_it_does_not_mention() -> None:
    """A row that the meter has dropped holds nothing."""
    registry = Registry(1)
    other = TEAM_TOKENS.replace("search", "chat")
    install(registry, snapshot_of([state_of(TEAM_TOKENS, 990), state_of(other, 5)]))
    plan = plan_of(resolver_of(registry=registry))
    denied(plan.admit(START_MS, 11, 0))
    install(registry, snapshot_of(fence=2, number=2))
    held(plan.admit(START_MS, 11, 0))
    assert registry.shards[0].known == {}


def test_windows_roll_by_themselves_and_old_ones_settle() -> None:
    """The next minute has rows of its own; a late settlement goes to the rows of its admission."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    hold = held(plan.admit(START_MS, 100, 0))
    registry.cut(0, 1)
    later = held(plan.admit(START_MS + MINUTE_MS, 1, 0))
    assert bytes(later.rows) != bytes(hold.rows)
    hold.settle(1, 100, 0)
    gauges = gauges_of(registry, 2)
    assert gauges[TEAM_TOKENS] == 0
    assert gauges[TEAM_TOKENS.replace(str(MINUTE_S), str(MINUTE_S + 60))] == 1


def test_a_sliding_minute_carries_the_one_before_and_lets_it_decay() -> None:
    """At its start a minute has what the last one left over; halfway, half of that counts."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS + 1, 800, 0))
    assert denied(plan.admit(START_MS + MINUTE_MS, 201, 0)).used == 800
    held(plan.admit(START_MS + MINUTE_MS, 200, 0))
    half = START_MS + MINUTE_MS + 30_000
    assert denied(plan.admit(half, 401, 0)).used == 600
    held(plan.admit(half, 400, 0))


def test_late_news_of_the_previous_minute_shrinks_the_present_one() -> None:
    """Usage elsewhere in the minute before counts as soon as it is known."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    now = START_MS + MINUTE_MS
    held(plan.admit(now, 1, 0))
    install(registry, snapshot_of([state_of(TEAM_TOKENS, 900)], fence=2, number=2, full=False), now)
    assert denied(plan.admit(now, 100, 0)).used == 901
    held(plan.admit(now, 99, 0))


def test_rows_go_when_their_window_is_long_over() -> None:
    """A row with something in flight stays; one without goes, and so does what was only known."""
    registry = Registry(1)
    shard = registry.shards[0]
    elsewhere = TEAM_TOKENS.replace("search", "chat")
    install(registry, snapshot_of([state_of(elsewhere, 5)]))
    plan = plan_of(resolver_of(registry=registry))
    hold = held(plan.admit(START_MS, 100, 0))
    over = START_MS + 2 * MINUTE_MS + GRACE_S * 1000 + MINUTE_MS
    registry.sweep(over - MINUTE_MS)  # the next minute, in which it counts, has only just been over for long
    assert TEAM_TOKENS in shard.rows
    assert elsewhere in shard.known
    registry.sweep(over)
    assert TEAM_TOKENS in shard.rows
    assert elsewhere not in shard.known
    hold.settle(1, 1, 0)
    registry.cut(0, 1)
    registry.sweep(over + 3 * MINUTE_MS)
    assert TEAM_TOKENS not in shard.rows
    assert [key for key in shard.rows if "minute@" in key] == []
    assert any("month@" in key for key in shard.rows)


def test_news_of_a_window_that_is_long_over_is_not_kept() -> None:
    """Only rows that may still be used take memory."""
    registry = Registry(1)
    install(registry, snapshot_of([state_of(TEAM_TOKENS, 5)]), START_MS + 10 * MINUTE_MS)
    assert registry.shards[0].known == {}


def test_a_record_carries_a_bounded_number_of_gauges() -> None:
    """What does not fit follows in the next record."""
    registry = member_of(Registry(1))
    shard = registry.shards[0]
    ceiling = Ceiling("r", "tokens", 10)
    for number in range(3):
        rows = [Row(f"r{number}-{index}", "", ceiling, shard, 0) for index in range(MAX_GAUGES_PER_RECORD - 1)]
        shard.touched.append(Binding(rows, 0, 0))
    assert len(registry.cut(0, 1)) == 2 * (MAX_GAUGES_PER_RECORD - 1)
    assert len(registry.cut(0, 2)) == MAX_GAUGES_PER_RECORD - 1


def test_a_replica_that_is_no_member_any_more_is_evicted() -> None:
    """Only a snapshot beyond the first record of the epoch says so."""
    registry = Registry(1)
    registry.joined(0, 50)
    before = snapshot_of(fence=50, members=[])
    assert not registry.install(before, INSTANCE, EPOCH, START_MS).is_evicted
    old_epoch = [Member(INSTANCE, EPOCH - 1, 5, WHOLE)]
    assert registry.install(snapshot_of(fence=51, number=2, members=old_epoch), INSTANCE, EPOCH, START_MS).is_evicted
    assert registry.shards[0].weight == NO_WEIGHT


def test_a_new_epoch_carries_what_is_in_flight_and_has_no_share() -> None:
    """Its first records repeat every reservation, and nothing is admitted before a share is given."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    hold = held(plan.admit(START_MS, 100, 0))
    held(plan.admit(START_MS, 50, 0)).settle(1, 50, 0)
    registry.cut(0, 1)
    registry.rejoin(0)
    assert registry.shards[0].rejoining == 1
    assert denied(plan.admit(START_MS, 1, 0)).status == 503
    assert Gauge(TEAM_TOKENS, 100, 1000) in registry.cut(0, 1)
    assert registry.shards[0].rejoining == 0
    row = registry.shards[0].rows[TEAM_TOKENS]
    assert not registry.shards[0].is_synced
    install(
        registry,
        snapshot_of(
            [state_of(TEAM_TOKENS, 150, limit=1000, rights=(950,), nets=(100,))], fence=60, hw=1, publisher="m2"
        ),
    )
    assert registry.is_member
    held(plan.admit(START_MS, 1, 0))
    assert (row.used, row.room) == (151, 849)
    hold.settle(1, 100, 0)


def test_silence_ends_admissions_and_only_membership_beyond_it_resumes_them() -> None:
    """A replica that may have been evicted while it was silent waits to see itself on the log."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    registry.acknowledged(0, 10, START_MS + 1_000, START_MS)
    held(plan.admit(START_MS + 999, 1, 0))
    assert denied(plan.admit(START_MS + 1_000, 1, 0)).reason == "detached"
    registry.acknowledged(0, 20, START_MS + 9_000, START_MS + 2_000)
    assert denied(plan.admit(START_MS + 2_000, 1, 0)).reason == "detached"
    install(registry, snapshot_of(fence=20, number=2, full=False))
    registry.acknowledged(0, 21, START_MS + 9_000, START_MS + 2_100)
    denied(plan.admit(START_MS + 2_100, 1, 0))
    install(registry, snapshot_of(fence=21, number=3, full=False))
    held(plan.admit(START_MS + 2_200, 1, 0))
    registry.acknowledged(0, 22, START_MS + 10_000, START_MS + 2_300)
    held(plan.admit(START_MS + 9_999, 1, 0))


def test_an_acknowledgement_without_an_offset_proves_nothing_after_a_silence() -> None:
    """Where the record is on the log is what membership is compared with."""
    registry = member_of(Registry(1))
    shard = registry.shards[0]
    registry.acknowledged(0, -1, START_MS + 10, START_MS)
    assert (shard.joined_at, shard.fence_at_ms) == (None, START_MS + 10)
    registry.acknowledged(0, 5, START_MS + 20, START_MS)
    registry.acknowledged(0, -1, START_MS + 99, START_MS + 50)
    assert (shard.unconfirmed, shard.fence_at_ms) == (None, START_MS + 20)
    registry.acknowledged(0, 6, START_MS + 99, START_MS + 50)
    assert (shard.unconfirmed, shard.fence_at_ms) == (6, START_MS + 20)


def test_news_of_rows_that_nobody_uses_here_replace_each_other() -> None:
    """The last word counts when a plan uses the row."""
    registry = Registry(1)
    install(registry, snapshot_of([state_of(TEAM_TOKENS, 5)]))
    install(registry, snapshot_of([state_of(TEAM_TOKENS, 10)], fence=2, number=2, full=False))
    plan_of(resolver_of(registry=registry)).admit(START_MS, 1, 0)
    assert registry.shards[0].rows[TEAM_TOKENS].others == 10


def test_publishers_that_are_gone_are_forgotten() -> None:
    """Any number of meters may come and go."""
    registry = Registry(1)
    for number in range(50):
        install(registry, snapshot_of(fence=number, publisher=f"meter-{number}"))
    install(registry, snapshot_of(fence=50, number=2, publisher="meter-49", full=False))
    assert len(registry.shards[0].numbers) <= 8


def test_a_part_that_comes_twice_counts_once() -> None:
    """A repeated part does not stand for a missing one."""
    registry = Registry(1)
    part = snapshot_of([state_of(TEAM_TOKENS, 5)], chunk=0, chunks=2)
    for _ in range(2):
        assert not registry.install(part, INSTANCE, EPOCH, START_MS).is_installed
    install(registry, snapshot_of(chunk=1, chunks=2))


def test_what_requests_in_flight_may_miss_is_told_by_row() -> None:
    """A reservation that is no maximum shows in every money and token row until it ends."""
    registry = member_of(Registry(1))
    hold = held(plan_of(resolver_of(registry=registry)).admit(START_MS, 10, 1_000, miss_tokens=5, miss_nanos=700))
    assert set(registry.may_miss().values()) == {5, 700}
    hold.settle(1, 12, 1_200)
    assert registry.may_miss() == {}
