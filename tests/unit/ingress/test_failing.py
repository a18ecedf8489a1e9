"""What a replica does while the broker or the meter is gone: by tier, from when on, and how far beyond a limit."""

from __future__ import annotations

import pytest

from ingress.core.admission import BLOCKED, Registry
from ingress.core.failing import missing
from ingress.core.plan import Plan
from ingress.core.verdicts import Denied, Note
from schemas.codec import decode_rows
from schemas.published import SELF_FENCE_MS
from schemas.quota import NO_WEIGHT, RowState, Weight
from tests.unit.ingress.governed import (
    EPOCH,
    INSTANCE,
    MINUTE_MS,
    START_MS,
    WHOLE,
    denied,
    held,
    key_of,
    member_of,
    plan_of,
    resolver_of,
    snapshot_of,
    state_of,
)
from tests.unit.ingress.playbook import FakePlan, Stage

QUARTER = Weight(1, 4, 1)
AFTER_MS = 3_000
HEAD = """
orgs: {acme: {teams: [search]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models: {small: {provider: sim, max_output_tokens: 100}}
"""
FAILURE = "failure: {after: 3s, tiers: {0: {kafka: open, allowance: 10%}, 2: {kafka: closed, meter: closed}}}\n"
LIMITS = "limits: [{name: org-hour, per: [org], rph: 80, tph: 8000}]\n"


class Replica:
    """A registry with one partition, which acknowledgements and snapshots reach when a test says so."""

    def __init__(self, failure: str = FAILURE, limits: str = LIMITS, weight: Weight = QUARTER) -> None:
        self.registry = member_of(Registry(1), weight)
        self.resolver = resolver_of(HEAD + failure + limits, registry=self.registry)
        self.now_ms = START_MS
        self.offset = self.number = 1
        self.hear()

    def hear(self, *, broker: bool = True, meter: bool = True) -> None:
        """Let the broker acknowledge a record that is cut now, and a snapshot arrive."""
        if broker:
            self.offset += 1
            self.registry.acknowledged(0, self.offset, self.now_ms + SELF_FENCE_MS, self.now_ms)
        if meter:
            self.tell()
        self.look()

    def tell(self, *rows: RowState) -> None:
        """Let a snapshot arrive that has everything up to the last record."""
        self.number += 1
        members = self.registry.shards[0].members
        news = snapshot_of(rows, number=self.number, fence=self.offset + 1, full=False, members=members)
        assert self.registry.install(news, INSTANCE, EPOCH, self.now_ms).is_installed

    def look(self) -> None:
        """Look for what is gone, as the sender does several times a second."""
        self.registry.look_for_failures(self.now_ms)

    def pass_ms(self, ms: int, *, broker: bool = False, meter: bool = False) -> None:
        """Let time go by a quarter of a second at a time, in which only some are heard."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            self.now_ms = min(self.now_ms + 250, end_ms)
            self.hear(broker=broker, meter=meter)

    def missing(self) -> str | None:
        """Return what has been found to be gone."""
        return self.registry.shards[0].missing

    def plan(self, tier: int = 1) -> Plan:
        """Return the plan of a key of `tier`."""
        return plan_of(self.resolver, id=f"k{tier}", tier=tier)

    def most(self, tier: int, tokens: int = 0) -> int:
        """Return how many requests of `tier` go on now."""
        plan = self.plan(tier)
        return next(n for n in range(1_000) if isinstance(plan.admit(self.now_ms, tokens, 0), Denied))

    def is_refused(self, tier: int) -> bool:
        """Tell whether a request of `tier` is refused because of what is gone; one that is not takes nothing."""
        outcome = self.plan(tier).admit(self.now_ms, 0, 0)
        if isinstance(outcome, Denied):
            return outcome.reason == "detached"
        outcome.settle(0, 0, 0)
        return False


def test_each_tier_has_its_row_once_the_broker_has_been_gone() -> None:
    """Tier 2 is refused, tier 1 keeps its share and tier 0 has 10 % of the limit more: together no more than that."""
    replica = Replica()
    replica.pass_ms(AFTER_MS)
    assert not any(replica.is_refused(tier) for tier in (0, 1, 2)), "not yet longer than `after`"
    replica.pass_ms(250)
    assert [replica.is_refused(tier) for tier in (0, 1, 2)] == [False, False, True]
    assert replica.most(1) == 20, "a quarter of 80"
    assert replica.most(0) == 8, "10 % of 80"
    assert (replica.most(0), replica.most(1)) == (0, 0)
    assert denied(replica.plan(1).admit(replica.now_ms, 0, 0)).reason == "rpm"


def test_the_allowance_is_bounded_to_the_last_unit_in_each_row_and_window() -> None:
    """Of requests and of tokens, whichever ends first; what is given back may be used again; each hour has its own."""
    replica = Replica(limits="limits: [{name: org-hour, per: [org], rph: 80, tph: 8001}]\n")
    replica.pass_ms(AFTER_MS + 250)
    plan, now_ms = replica.plan(0), replica.now_ms
    hold = held(plan.admit(now_ms, 2_000 + 800, 0))  # a quarter and 10 % of 8,001 tokens
    assert [(note.kind, note.measure) for note in hold.notes] == [("open", "tokens")]
    assert denied(plan.admit(now_ms, 1, 0)).reason == "tpm"
    hold.settle(1, 2_700, 0)
    assert isinstance(plan.admit(now_ms, 101, 0), Denied)
    assert held(plan.admit(now_ms, 100, 0)).notes
    hour_ms = 3_600_000
    replica.now_ms += hour_ms
    replica.hear()
    replica.pass_ms(AFTER_MS + 250)
    assert replica.most(0) == 20 + 8


def test_every_row_counts_its_own_allowance() -> None:
    """A request that is beyond two rules goes on only if both allowances have room."""
    limits = "limits: [{name: wide, per: [org], rph: 80}, {name: narrow, per: [team], rph: 40}]\n"
    replica = Replica(limits=limits)
    replica.pass_ms(AFTER_MS + 250)
    assert replica.most(0) == 10 + 4
    assert {row.ceiling.rule: row.own for row in replica.registry.shards[0].rows.values()} == {"wide": 14, "narrow": 14}


def test_share_ends_with_the_self_fence_and_open_has_only_its_allowance_from_then_on() -> None:
    """After 54 s others may have been given this replica's part: nobody but tier 0 goes on, within the allowance."""
    replica = Replica()
    replica.pass_ms(SELF_FENCE_MS - 1)
    assert not replica.is_refused(1)
    assert replica.most(0) == 28
    replica.pass_ms(1)
    assert [replica.is_refused(tier) for tier in (0, 1, 2)] == [True, True, True], "28 are more than the allowance"
    fresh = Replica()
    fresh.pass_ms(SELF_FENCE_MS)
    assert [fresh.is_refused(tier) for tier in (0, 1, 2)] == [False, True, True]
    assert fresh.most(0, tokens=100) == 8, "10 % of the limit, and no share"


@pytest.mark.parametrize("said", ["", "failure: {after: 2h, kafka: open, allowance: 10%}\n"])
def test_the_self_fence_does_not_wait_for_after(said: str) -> None:
    """However long `after` is, a replica's part ends at 54 s; what the table says for the broker applies then."""
    replica = Replica(said)
    replica.pass_ms(SELF_FENCE_MS - 1)
    assert replica.missing() is None
    assert not replica.is_refused(1)
    replica.now_ms += 1
    assert replica.is_refused(1), "at once, before anybody has looked"
    replica.look()
    assert replica.missing() == "kafka"
    assert replica.is_refused(1) == (not said)


def test_everything_is_as_before_once_the_broker_is_back() -> None:
    """With the next acknowledgement tiers 0 to 2 have the share again, less what the allowance was used for."""
    replica = Replica()
    replica.pass_ms(AFTER_MS + 250)
    assert replica.most(0) == 28
    replica.hear()
    assert replica.missing() is None
    assert [denied(replica.plan(tier).admit(replica.now_ms, 0, 0)).reason for tier in (0, 1, 2)] == ["rpm"] * 3
    row = next(iter(replica.registry.shards[0].rows.values()))
    assert (row.own, row.room) == (28, -8)


def test_a_replica_that_was_silent_waits_for_its_share_and_a_new_epoch_has_no_allowance() -> None:
    """Beyond the fence an acknowledgement is not enough; one that has been evicted admits nobody before it is back."""
    replica = Replica()
    replica.pass_ms(SELF_FENCE_MS + 1_000)
    assert not replica.is_refused(0)
    replica.hear(meter=False)
    assert replica.missing() == "kafka"
    assert replica.is_refused(1)
    replica.registry.rejoin(0)
    assert replica.is_refused(0)
    replica.look()
    assert replica.missing() is None
    assert all(replica.is_refused(tier) for tier in (0, 1, 2))


def test_the_meter_is_gone_only_while_the_broker_is_there() -> None:
    """Tier 2 is closed for both, tier 0 is open for the broker alone: it depends on which of the two it is."""
    replica = Replica()
    replica.pass_ms(AFTER_MS, broker=True)
    assert replica.missing() is None
    replica.pass_ms(250, broker=True)
    assert replica.missing() == "meter"
    assert [replica.is_refused(tier) for tier in (0, 1, 2)] == [False, False, True]
    assert replica.most(0) == 20, "no allowance while the meter is gone"
    replica.hear()
    assert replica.missing() is None

    frozen = Replica(FAILURE.replace("meter: closed", "meter: stop"))
    frozen.pass_ms(250, broker=True)  # the broker's last word came after the meter's
    frozen.pass_ms(AFTER_MS)
    assert frozen.missing() is None, "who cannot hear the meter does not know"
    frozen.pass_ms(250)
    assert frozen.missing() == "kafka"


def test_the_meter_may_be_gone_for_as_long_as_it_likes() -> None:
    """A share has no end while the broker acknowledges what this replica uses."""
    replica = Replica("")
    replica.pass_ms(16 * MINUTE_MS, broker=True)
    assert replica.missing() == "meter"
    assert replica.most(1) == 20


def test_nothing_is_gone_before_it_was_there() -> None:
    """A replica that starts without broker, meter or share admits nobody, whatever the table says."""
    replica = Replica("failure: {after: 1s, default: open, allowance: 100%}\n", weight=NO_WEIGHT)
    replica.pass_ms(10_000, broker=True)
    shard = replica.registry.shards[0]
    assert shard.missing is None
    assert replica.is_refused(1)
    new = Registry(1).shards[0]
    assert missing(new, replica.registry.failure, START_MS) is None


@pytest.mark.parametrize(
    ("failure", "ready"),
    [
        ("kafka: share", True),
        ("kafka: closed", False),
        ("tiers: {2: {kafka: stop}}", False),
        ("kafka: closed, tiers: {0: {kafka: open, allowance: 1%}}", True),
        ("default: closed, tiers: {2: {kafka: share}}", True),
        ("meter: stop", True),
    ],
)
def test_a_replica_is_not_ready_if_a_tier_says_stop_or_nobody_gets_through(failure: str, ready: bool) -> None:
    """A load balancer passes by only who says stop, or has nothing to offer; with all of it back it is ready."""
    replica = Replica(f"failure: {{after: 3s, {failure}}}\n")
    replica.pass_ms(AFTER_MS)
    assert not replica.registry.is_failing(replica.now_ms)
    replica.pass_ms(250)
    assert replica.registry.is_failing(replica.now_ms) is not ready
    replica.hear()
    assert not replica.registry.is_failing(replica.now_ms)


def test_share_alone_is_not_ready_beyond_the_fence() -> None:
    """What would be closed for everybody is passed by as if it said so."""
    replica = Replica("")
    replica.pass_ms(SELF_FENCE_MS - 1)
    assert not replica.registry.is_failing(replica.now_ms)
    replica.pass_ms(1)
    assert replica.registry.is_failing(replica.now_ms)


def test_a_stop_of_one_tier_refuses_that_tier_and_lets_others_go_on() -> None:
    """Requests that reach the replica all the same meet the row of their own tier."""
    replica = Replica("failure: {after: 3s, tiers: {2: {kafka: stop}}}\n")
    replica.pass_ms(AFTER_MS + 250)
    assert [replica.is_refused(tier) for tier in (0, 1, 2)] == [False, False, True]
    told = denied(replica.plan(2).admit(replica.now_ms, 0, 0))
    assert (told.status, told.tier, told.gone) == (503, 2, "kafka")


@pytest.mark.parametrize(("gone", "word"), [("kafka", "broker"), ("meter", "meter")])
def test_a_client_is_told_what_is_gone(gone: str, word: str) -> None:
    """The refusal names the tier and what it is refused for; it is no limit, so it writes no decision."""
    plan = FakePlan()
    plan.denied = Denied("detached", status=503, tier=2, gone=gone)
    stage = Stage(plan=plan)
    stage.ask({"model": "gpt-x"})
    stage.exchange.terminal_recorded()
    status, lines, body = stage.told
    assert status == 503
    assert b"retry-after: 1\r\n" in lines
    assert f"tier 2: the {word}" in body["error"]["message"]
    assert stage.decisions == []


def test_plans_look_at_the_table_only_while_something_is_gone() -> None:
    """The fast path compares one generation, before and after; in between it is never taken."""
    replica = Replica()
    plan, shard = replica.plan(1), replica.registry.shards[0]
    held(plan.admit(replica.now_ms, 0, 0))
    generation = shard.generation
    replica.pass_ms(AFTER_MS)
    held(plan.admit(replica.now_ms, 0, 0))
    assert plan._binding.generation == shard.generation == generation
    replica.pass_ms(250)
    held(plan.admit(replica.now_ms, 0, 0))
    assert plan._binding.generation == BLOCKED
    replica.hear()
    held(plan.admit(replica.now_ms, 0, 0))
    assert plan._binding.generation == shard.generation > generation


def notes_of(replica: Replica, tier: int, count: int) -> list[tuple[Note, ...]]:
    """Return the notes of `count` requests that go on."""
    return [held(replica.plan(tier).admit(replica.now_ms, 0, 0)).notes for _ in range(count)]


def test_only_what_goes_beyond_the_share_is_noted_and_ladders_stay_what_they_are() -> None:
    """A rule with rungs warns as ever, notes the allowance when it is used, and keeps what is withheld from a tier."""
    failure = "failure: {after: 3s, kafka: open, allowance: 10%}\n"
    limits = "limits: [{name: org-hour, per: [org], rph: 80, ladder: {20%: warn, 100%: block}, reserve: {0: 20%}}]\n"
    replica = Replica(failure, limits)
    replica.pass_ms(AFTER_MS + 250)
    kinds = [[note.kind for note in notes] for notes in notes_of(replica, 1, 16 + 8)]
    assert kinds[:12] == [[]] * 12, "20 % of the 64 that it sees"
    assert kinds[12:16] == [["warn"]] * 4
    assert kinds[16:] == [["open"]] * 8, "a quarter less 20 %, then 10 % of 80"
    assert isinstance(replica.plan(1).admit(replica.now_ms, 0, 0), Denied)
    assert len(notes_of(replica, 0, 4)) == 4, "tier 0 has what was kept for it"
    assert isinstance(replica.plan(0).admit(replica.now_ms, 0, 0), Denied)


def test_a_limit_that_is_reached_everywhere_is_passed_by_the_allowance_too() -> None:
    """What others have used is no reason to refuse: `open` is about this replica's part."""
    replica = Replica()
    row = f"org-hour/requests/org=acme/hour@{START_MS // 3_600_000 * 3_600}+3600"
    replica.tell(state_of(row, 80, limit=80, rights=(0,), nets=(0,)))
    replica.pass_ms(AFTER_MS + 250)
    assert replica.most(0) == 8


def test_a_shadow_rule_stays_one() -> None:
    """What never refuses neither does so beyond the fence, nor needs an allowance."""
    replica = Replica(limits="limits: [{name: org-hour, per: [org], rph: 4, mode: shadow}]\n")
    replica.pass_ms(SELF_FENCE_MS)
    kinds = [[note.kind for note in notes] for notes in notes_of(replica, 0, 6)]
    assert kinds == [[]] * 4 + [["shadow"]] * 2
    assert key_of(id="k0", tier=0).tier == 0


def test_a_clock_that_falls_far_behind_opens_no_window_that_the_log_has_forgotten() -> None:
    """The meter drops rows two minutes after their window: by the log's time, this replica's clock is wrong."""
    replica = Replica("", "limits: [{name: org-minute, per: [org], rpm: 80}]\n", WHOLE)
    shard = replica.registry.shards[0]
    replica.tell()
    assert shard.log_ms == START_MS
    for behind_ms, minutes in ((0, 0), (60_000, -1), (61_000, -1), (3_600_000, -1)):
        plan = replica.plan(1)
        hold = held(plan.admit(START_MS - behind_ms, 1, 0))
        assert decode_rows(hold.rows) == [f"org-minute/requests/org=acme/minute@{START_MS // 1000 + 60 * minutes}+60"]
        replica.resolver = resolver_of(
            HEAD + "limits: [{name: org-minute, per: [org], rpm: 80}]\n", registry=replica.registry
        )  # plans bind anew
