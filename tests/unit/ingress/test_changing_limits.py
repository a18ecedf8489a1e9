"""Limits that change while requests flow: by the clock, by an increase, at once and at the very second."""

from __future__ import annotations

from ingress.core.admission import Registry
from ingress.core.overrides import Overrides
from schemas.overrides import Increase
from tests.unit.ingress.governed import START_MS, denied, held, member_of, plan_of, resolver_of

DOCUMENT = """
orgs: {acme: {teams: [search]}}
providers: {p: {protocol: openai, base_url: simulated}}
models: {m: {provider: p}}
limits:
  - {name: day, per: [team], rpd: 10}
schedules:
  - {name: evening, rules: [day], multiply: 50%, from: "11:08", to: "11:10"}
"""
MINUTE_MS = 60_000


def test_a_schedule_holds_from_its_first_second_to_its_last() -> None:
    """In the middle of a window, without a message from anybody: what was used counts, what is left is less."""
    plan = plan_of(resolver_of(DOCUMENT, registry=member_of(Registry(1)), prices={}), "m")
    for _ in range(6):
        held(plan.admit(START_MS, 1, 1))
    begins_ms = START_MS + MINUTE_MS
    held(plan.admit(begins_ms - 1, 1, 1))
    refusal = denied(plan.admit(begins_ms, 1, 1))
    assert (refusal.rule, refusal.limit, refusal.used) == ("day", 5, 7)
    denied(plan.admit(begins_ms + 2 * MINUTE_MS - 1, 1, 1))
    for _ in range(3):
        held(plan.admit(begins_ms + 2 * MINUTE_MS, 1, 1))
    assert denied(plan.admit(begins_ms + 2 * MINUTE_MS, 1, 1)).limit == 10


def test_an_increase_gives_room_at_once_and_takes_it_back_when_it_expires() -> None:
    """For the scope that it names and no other."""
    overrides = Overrides()
    resolver = resolver_of(DOCUMENT, registry=member_of(Registry(1)), prices={}, overrides=overrides)
    plan, other = plan_of(resolver, "m"), plan_of(resolver, "m", id="k2", team="")
    for _ in range(10):
        held(plan.admit(START_MS, 1, 1))
    denied(plan.admit(START_MS, 1, 1))
    expires_ms = START_MS + 30_000
    scope = "org=acme,team=search"
    overrides.put_increase("i", Increase("i", "day", scope, "launch", "ann", "bob", START_MS, expires_ms, amount=3))
    resolver.set_limits()
    for _ in range(2):
        held(plan.admit(START_MS, 1, 1))
    assert denied(plan.admit(expires_ms, 1, 1)).limit == 10
    for _ in range(10):
        held(other.admit(START_MS, 1, 1))
    assert denied(other.admit(START_MS, 1, 1)).limit == 10
