"""Admission by a plan: all rows or none, what a refusal states, what the headers say."""

from __future__ import annotations

import pytest

from ingress.core.admission import Registry
from schemas.blocks import BlockEntry
from schemas.codec import decode_rows
from schemas.quota import RowState, Weight
from tests.unit.ingress.governed import (
    MINUTE_MS,
    POLICY,
    START_MS,
    denied,
    held,
    install,
    member_of,
    plan_of,
    resolver_of,
    snapshot_of,
)

USD = 1_000_000_000
MINUTE_S = START_MS // 1000
NO_RULES = POLICY[: POLICY.index("limits:")]


def test_a_refusal_takes_nothing_from_any_row() -> None:
    """A request that fits all rows but one leaves all of them as they were."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 1, 0))
    before = [(row.key, row.room, row.inflight) for row in registry.shards[0].rows.values()]
    for tokens, nanos in ((10_000, 1), (1, 10 * USD)):
        denied(plan.admit(START_MS, tokens, nanos))
        assert [(row.key, row.room, row.inflight) for row in registry.shards[0].rows.values()] == before


def test_an_event_is_booked_to_the_rows_that_held_it() -> None:
    """The hold names every row once, in the windows of its admission."""
    plan = plan_of(resolver_of(registry=member_of(Registry(1))))
    rows = decode_rows(held(plan.admit(START_MS, 1, 1)).rows)
    assert rows[:2] == [
        f"team-minute/requests/org=acme,team=search/minute@{MINUTE_S}+60",
        f"team-minute/tokens/org=acme,team=search/minute@{MINUTE_S}+60",
    ]
    assert [row.split("/")[0] for row in rows[2:]] == ["org-month", "prod-day"]
    assert rows[3].split("/")[2] == "org=acme,model=small"


@pytest.mark.parametrize(
    ("reason", "tokens", "nanos", "measure", "limit"),
    [("tpm", 1001, 0, "tokens", 1000), ("budget", 1, 6 * USD, "cost", 5 * USD)],
)
def test_a_refusal_names_rule_measure_scope_and_counts(
    reason: str, tokens: int, nanos: int, measure: str, limit: int
) -> None:
    """Everything that a client and an auditor need is in the refusal."""
    registry = member_of(Registry(1))
    told = denied(plan_of(resolver_of(registry=registry)).admit(START_MS, tokens, nanos))
    assert (told.reason, told.measure, told.limit, told.status) == (reason, measure, limit, 429)
    assert told.asked == (tokens if measure == "tokens" else nanos)
    assert told.row.startswith(f"{told.rule}/{measure}/{told.scope}/")
    assert (told.fence, told.weight, told.staleness_ms) == (1, Weight(1, 1, 0), 0)


def test_requests_are_limited_too() -> None:
    """The eleventh request of a minute that allows ten is refused, whatever it asks for."""
    plan = plan_of(resolver_of(registry=member_of(Registry(1))))
    for _ in range(10):
        held(plan.admit(START_MS, 0, 0))
    told = denied(plan.admit(START_MS, 0, 0))
    assert (told.reason, told.used, told.asked) == ("rpm", 10, 1)


def test_what_costs_nothing_passes_a_budget_that_is_used_up() -> None:
    """Free is free: a request that asks nothing of a row is not held up by it."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 1, USD)).settle(1, 1, 9 * USD)
    denied(plan.admit(START_MS, 1, 1))
    held(plan.admit(START_MS, 1, 0))


def test_of_several_refusing_rows_the_one_that_lasts_longest_is_told() -> None:
    """A client that waits for what it is told is not refused again by another row."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    told = denied(plan.admit(START_MS, 2_000, 6 * USD))
    assert told.rule == "org-month"
    assert told.resets_at_s == 1_796_083_200  # 2026-12-01T00:00:00Z
    assert told.retry_after_s == told.resets_at_s - START_MS // 1000


def test_a_sliding_minute_tells_when_the_request_would_fit() -> None:
    """By decay of the last minute, or of this one in the next."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 600, 0))
    full = denied(plan.admit(START_MS, 600, 0))
    # The next minute begins with all 600 carried; 600 fit when only 400 of them are left, after a third of it.
    assert full.resets_at_s == MINUTE_S + 60 + 20
    assert full.retry_after_s == 80
    at = START_MS + MINUTE_MS
    decaying = denied(plan.admit(at, 700, 0))
    assert decaying.used == 600
    assert decaying.resets_at_s == MINUTE_S + 60 + 30  # half of 600 is 300
    held(plan.admit(decaying.resets_at_s * 1000, 700, 0))
    denied(plan_of(resolver_of(registry=member_of(Registry(1)))).admit(START_MS, 1001, 0))


def test_what_never_fits_resets_at_most_at_the_next_minutes_end() -> None:
    """The answer to a request above the whole limit is finite."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 10, 0))
    assert denied(plan.admit(START_MS, 5_000, 0)).resets_at_s == MINUTE_S + 120


def test_a_short_share_is_worth_an_early_retry() -> None:
    """Where all replicas together have room, the client is told to come back in a second."""
    registry = member_of(Registry(1), Weight(1, 4, 0))
    told = denied(plan_of(resolver_of(registry=registry)).admit(START_MS, 300, 0))
    assert (told.room, told.retry_after_s) == (250, 1)


def test_the_bound_states_what_running_requests_may_miss() -> None:
    """It is the sum over requests in flight whose reservation is no maximum, and 0 without any."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    sure = held(plan.admit(START_MS, 100, 0))
    assert denied(plan.admit(START_MS, 2_000, 0)).overshoot_bound == 0
    unsure = held(plan.admit(START_MS, 100, 0, miss_tokens=40, miss_nanos=7))
    assert denied(plan.admit(START_MS, 2_000, 0)).overshoot_bound == 40
    assert denied(plan.admit(START_MS, 1, 9 * USD)).overshoot_bound == 7
    unsure.settle(1, 140, 0)
    sure.settle(1, 1, 0)
    assert denied(plan.admit(START_MS, 2_000, 0)).overshoot_bound == 0


def test_a_settlement_counts_once() -> None:
    """A second settlement of a hold changes nothing."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry))
    hold = held(plan.admit(START_MS, 100, 0))
    hold.settle(1, 120, 0)
    hold.settle(1, 500, 0)
    registry.cut(0, 1)
    assert {row.inflight for row in registry.shards[0].rows.values()} == {0}
    assert denied(plan.admit(START_MS, 881, 0)).room == 880


def test_a_block_refuses_until_it_ends_or_is_lifted() -> None:
    """The scope of a block entry is refused with what the entry says; others go on, and so does what costs nothing."""
    registry = member_of(Registry(1))
    resolver = resolver_of(registry=registry)
    plan, other = plan_of(resolver), plan_of(resolver, id="k2", team="chat")
    entry = BlockEntry(
        "team-minute", "org=acme,team=search", "block", "budget_exhausted", "cost", 7, 8, "w", 0, MINUTE_S + 90, 1
    )
    held(plan.admit(START_MS, 1, 0))
    assert registry.blocks.put(entry.key, entry)
    registry.changed()
    told = denied(plan.admit(START_MS, 1, 5))
    assert (told.reason, told.rule, told.limit, told.used, told.asked) == ("blocked", "team-minute", 7, 8, 5)
    assert (told.resets_at_s, told.retry_after_s) == (MINUTE_S + 90, 90)
    held(other.admit(START_MS, 1, 5))
    held(plan.admit(START_MS, 1, 0))
    denied(plan.admit(START_MS + 89_999, 1, 5))
    assert registry.blocks.put(entry.key, None)
    registry.changed()
    held(plan.admit(START_MS + 89_999, 1, 5))
    assert registry.blocks.put(entry.key, entry)
    registry.changed()
    held(plan.admit(START_MS + 90_000, 1, 5))


def test_nothing_is_admitted_to_rows_without_a_share() -> None:
    """Before the meter gave a share, and without rules that would need one, requests differ."""
    registry = Registry(1)
    told = denied(plan_of(resolver_of(registry=registry)).admit(START_MS, 1, 1))
    assert (told.reason, told.status, told.retry_after_s) == ("detached", 503, 1)
    unlimited = held(plan_of(resolver_of(NO_RULES)).admit(START_MS, 10**9, 10**15))
    assert decode_rows(unlimited.rows) == []


def test_a_new_policy_changes_ceilings_and_keeps_counts() -> None:
    """Rows live on: what was used under the old policy counts under the new one, for old plans as well."""
    registry = member_of(Registry(1))
    old = plan_of(resolver_of(registry=registry))
    held(old.admit(START_MS, 400, 0))
    new = plan_of(resolver_of(POLICY.replace("tpm: 1000", "tpm: 500"), registry=registry, version=2))
    for plan in (new, old):
        assert denied(plan.admit(START_MS, 101, 0)).limit == 500
    held(new.admit(START_MS, 100, 0))


def test_headers_show_the_tightest_limit_for_all_replicas() -> None:
    """What is left counts what every replica may still use, and decays with the sliding minute."""
    registry = member_of(Registry(1), Weight(1, 2, 0))
    plan = plan_of(resolver_of(registry=registry))
    held(plan.admit(START_MS, 100, 0))
    assert plan.limits_header(START_MS + 500) == (
        b"x-ratelimit-limit-requests: 10\r\nx-ratelimit-remaining-requests: 9\r\nx-ratelimit-reset-requests: 60s\r\n"
        b"x-ratelimit-limit-tokens: 1000\r\nx-ratelimit-remaining-tokens: 900\r\nx-ratelimit-reset-tokens: 60s\r\n"
    )
    assert b"remaining-tokens: 900\r\n" in plan.limits_header(START_MS + MINUTE_MS)
    assert b"remaining-tokens: 950\r\n" in plan.limits_header(START_MS + MINUTE_MS + 30_000)
    gone = [RowState(f"team-minute/tokens/org=acme,team=search/minute@{MINUTE_S + 60}+60", 5_000, 0)]
    install(registry, snapshot_of(gone, fence=2, number=2, full=False), START_MS + MINUTE_MS)
    assert b"remaining-tokens: 0\r\n" in plan.limits_header(START_MS + MINUTE_MS + 30_001)


def test_of_several_limits_the_one_with_the_least_left_is_shown() -> None:
    """A narrower limit that has more left stays unmentioned."""
    registry = member_of(Registry(1))
    plan = plan_of(resolver_of(registry=registry), operation="embeddings")
    assert b"limit-requests: 3\r\n" in plan.limits_header(START_MS)
    chat = plan_of(resolver_of(registry=registry))
    for _ in range(9):
        held(chat.admit(START_MS, 1, 1))
    assert b"limit-requests: 10\r\nx-ratelimit-remaining-requests: 1\r\n" in plan.limits_header(START_MS)


def test_headers_are_left_out_without_limits() -> None:
    """A plan that no limit of requests or tokens matches has none to show."""
    assert plan_of(resolver_of(NO_RULES)).limits_header(START_MS) == b""
    tokens_only = POLICY.replace("rpm: 10, ", "").replace(
        "- {name: embeddings-only, match: {route: embeddings}, rpm: 3}", ""
    )
    lines = plan_of(resolver_of(tokens_only, registry=member_of(Registry(1)))).limits_header(START_MS)
    assert lines.startswith(b"x-ratelimit-limit-tokens: 1000\r\n")
