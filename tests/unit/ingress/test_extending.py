"""Streams against real rows: extended while there is room, wanting where others have it, ended where nobody has."""

from __future__ import annotations

import msgspec
import pytest

from ingress.core.admission import Registry
from ingress.core.ask import Ask
from ingress.core.extending import ASK_AGAIN_TOKENS, BEYOND_TOKENS, end_claim, keep_ahead
from ingress.core.learned import Learned
from ingress.core.plan import Hold, Plan
from ingress.core.providers.openai import OpenAIStream
from ingress.core.reserving import CHUNK_TOKENS, Reservation
from ingress.core.streaming import Outflow
from schemas.quota import Weight
from tests.unit.ingress.governed import START_MS, WHOLE, denied, held, member_of, plan_of, resolver_of
from tests.unit.ingress.test_streaming import openai

POLICY = """
orgs: {acme: {teams: [search]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models: {small: {provider: sim, max_output_tokens: 64000}}
limits: [{name: team-minute, per: [team], tpm: 1000000}]
budgets: [{name: org-day, amount: 0.000020 USD, period: day, final_unit: FINAL, strict: STRICT}]
"""
"""20,000 nano-USD are 10,000 output tokens."""
ASK = Ask("small", True, 64_000)
BODY = b"x" * 100


def _begin(
    final_unit: str = "terminate", weight: Weight = WHOLE, tpm: int = 10**6
) -> tuple[Registry, Plan, Hold, Outflow]:
    registry = member_of(Registry(1), weight)
    document = POLICY.replace("FINAL", final_unit).replace("STRICT", "false").replace("1000000", str(tpm))
    plan = plan_of(resolver_of(document, registry=registry))
    reserved = Reservation(ASK, plan, BODY, Learned().of("k1", "small"), True)
    hold = held(plan.admit(START_MS, reserved.tokens, reserved.nanos, reserved.miss_tokens, reserved.miss_nanos))
    return registry, plan, hold, Outflow(ASK, reserved, plan.reserve_price, OpenAIStream(False))


def _say(flow: Outflow, tokens: int) -> None:
    flow.count(openai({"content": "x" * (2 * tokens)}))
    assert flow.text_bytes


def test_stream_takes_room_as_it_goes() -> None:
    """Each chunk is taken from all rows; the settlement gives back what was not used."""
    registry, plan, hold, flow = _begin()
    tokens, cost = hold.tokens, hold.nanos
    _say(flow, 3_500)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    assert (hold.tokens, hold.nanos) == (tokens + 3_500, cost + 7_000)
    assert flow.covered == 3_500 + CHUNK_TOKENS
    row = plan._binding.costs[0]
    assert row.room == 20_000 - hold.nanos
    hold.settle(1, 3_550, 7_050)
    assert row.room == 20_000 - 7_050
    assert not registry.wants(0)


def test_budget_that_ends_uses_its_last_bit_and_then_ends_the_stream() -> None:
    """No room for a chunk, then room for the block, then none: the refusal names the budget and its final unit."""
    _, plan, hold, flow = _begin()
    _say(flow, 3_500)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    _say(flow, 4_000)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    assert flow.ask_at == min(7_500 + ASK_AGAIN_TOKENS, flow.covered)
    _say(flow, 1_000)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    _say(flow, 3_000)
    ended = keep_ahead(flow, hold, plan, START_MS)
    assert ended is not None
    assert (ended.rule, ended.measure, ended.final_unit, ended.action) == ("org-day", "cost", "terminate", "terminate")
    assert hold.nanos <= 20_000
    assert flow.output > flow.covered


def test_room_of_others_is_wanted_while_it_lasts() -> None:
    """A replica with half of the budget tells the meter what its stream wants, and when it does not any more."""
    registry, plan, hold, flow = _begin(weight=Weight(1, 2, 0))
    _say(flow, 3_500)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    (want,) = registry.wants(0)
    assert want.row.startswith("org-day/cost/")
    assert want.amount == flow.wanted(CHUNK_TOKENS)[1] > 0
    assert flow.ask_at == 3_500 + ASK_AGAIN_TOKENS
    row = plan.find_row(want.row)
    assert row is not None
    row.room += 10_000  # what a snapshot that moves rights here does
    _say(flow, 300)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    assert flow.covered == 3_800 + CHUNK_TOKENS
    assert [want.amount for want in registry.wants(0)] == [0]


def test_stream_that_ends_wants_nothing_any_more() -> None:
    """A want does not outlive its stream."""
    registry, plan, hold, flow = _begin(weight=Weight(1, 2, 0))
    _say(flow, 3_500)
    keep_ahead(flow, hold, plan, START_MS)
    assert len(registry.wants(0)) == 1
    end_claim(flow)
    assert [want.amount for want in registry.wants(0)] == [0]
    end_claim(flow)
    assert not registry.wants(0)


def test_rest_of_a_budget_is_wanted_though_it_is_no_chunk() -> None:
    """Less than a chunk elsewhere is better than an end; when there is nothing anywhere, nothing is wanted."""
    registry, plan, hold, flow = _begin(weight=Weight(1, 2, 0))
    row = plan._binding.costs[0]
    row.others = 20_000 - hold.nanos - 600
    _say(flow, 3_500)
    keep_ahead(flow, hold, plan, START_MS)
    assert [want.amount for want in registry.wants(0)] == [600]
    row.others += 600
    _say(flow, 300)
    keep_ahead(flow, hold, plan, START_MS)
    assert [want.amount for want in registry.wants(0)] == [0]


def test_two_streams_want_together() -> None:
    """The meter hears of the sum."""
    registry, plan, hold, flow = _begin(weight=Weight(1, 2, 0))
    _say(flow, 3_500)
    keep_ahead(flow, hold, plan, START_MS)
    (one,) = registry.wants(0)
    row = plan.find_row(one.row)
    assert row is not None
    row.shard.waiting.claim(row, "another stream", 5)
    assert [want.amount for want in registry.wants(0)] == [one.amount + 5]


@pytest.mark.parametrize("final_unit", ["finish", "downgrade"])
def test_stream_that_may_go_on_is_booked_beyond(final_unit: str) -> None:
    """Nothing ends it, what it uses counts at once, and the requests that follow are refused or go elsewhere."""
    _, plan, hold, flow = _begin(final_unit)
    _say(flow, 30_000)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    row = plan._binding.costs[0]
    assert hold.nanos == 50 + 2 * (30_000 + BEYOND_TOKENS)
    assert row.room == 20_000 - hold.nanos
    assert flow.ask_at > flow.output
    next_one = denied(plan.admit(START_MS, 10, 10))
    assert next_one.action == ("downgrade" if final_unit == "downgrade" else "block")


def test_limit_that_lets_finish_does_not_hide_a_budget_that_ends() -> None:
    """With the tokens of the minute used up the answer goes on, but no further than its money."""
    _, plan, hold, flow = _begin("terminate", tpm=5_000)
    _say(flow, 6_000)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    assert plan._binding.tokens[0].room < 0
    assert hold.nanos <= 20_000
    _say(flow, 3_900)
    assert keep_ahead(flow, hold, plan, START_MS) is None
    _say(flow, 100)
    ended = keep_ahead(flow, hold, plan, START_MS)
    assert ended is not None
    assert ended.rule == "org-day"
    assert hold.nanos <= 20_000


@pytest.mark.parametrize(("final_unit", "cuts_off"), [("terminate", True), ("finish", False)])
def test_plan_knows_whether_its_budgets_cut_off(final_unit: str, cuts_off: bool) -> None:
    """Limits of tokens are no budgets: they let streams finish."""
    _, plan, hold, _ = _begin(final_unit)
    assert plan.cuts_off is cuts_off
    assert (plan._binding.costs[0].may_miss > 10_000) is not cuts_off
    assert plan._binding.tokens[0].may_miss > 50_000
    hold.settle(0, 0, 0)
    assert plan._binding.costs[0].may_miss == plan._binding.tokens[0].may_miss == 0


@pytest.mark.parametrize(("tier", "left"), [(2, 6_000), (1, 10_000), (0, 22_000)])
def test_stream_of_a_tier_leaves_what_is_withheld_from_it(tier: int, left: int) -> None:
    """An experiment that streams does not take what is reserved for others; critical work has its grace."""
    document = POLICY.replace("FINAL", "terminate").replace("STRICT", "false")
    rule = document.replace("strict: false", "reserve: {0: 50%, 1: 20%}, grace: 10%")
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(rule, registry=registry), tier=tier)
    row_room = 20_000
    hold = held(plan.admit(START_MS, 10, 1_000))
    assert hold.extend(0, left - 1_000 + 1, START_MS, tier=plan.tier) is not None
    assert plan._binding.costs[0].room == row_room - 1_000
    assert hold.extend(0, left - 1_000, START_MS, tier=plan.tier) is None
    assert hold.nanos == left


def test_strict_budget_refuses_what_may_not_fit() -> None:
    """What a request might use at worst is held, so nothing is missed, and a small budget refuses a large request."""
    registry = member_of(Registry(1))
    document = POLICY.replace("FINAL", "finish").replace("STRICT", "true")
    plan = plan_of(resolver_of(document, registry=registry))
    profile = Learned().of("k1", "small")
    large = Reservation(ASK, plan, BODY, profile, True)
    assert (large.output_tokens, large.miss_tokens, large.miss_nanos) == (64_000, 0, 0)
    assert denied(plan.admit(START_MS, large.tokens, large.nanos)).rule == "org-day"
    small = Reservation(msgspec.structs.replace(ASK, output_tokens=5_000), plan, BODY, profile, True)
    assert held(plan.admit(START_MS, small.tokens, small.nanos)).nanos == 100 + 10_000
