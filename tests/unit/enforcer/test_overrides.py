"""Increases and freezes before they are written: who, why, how long, how much, and for whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from enforcer.core.overrides import Wish, describe_freeze, describe_increase, freeze, increase, missing
from schemas.keys import VirtualKey
from schemas.overrides import Freeze, Increase
from tests.unit.enforcer.enforcer_parts import NOW_MS, USD, policy

RULES = """
orgs:
  acme: {projects: [chat], teams: [search, ml], users: [ada]}
providers:
  openai: {protocol: openai, base_url: simulated}
models:
  gpt-4o: {provider: openai}
  fast: {provider: openai, upstream: gpt-4o-mini}
limits:
  - {name: key-minute, per: [key], rpm: 20, tpm: 1000}
  - {name: team-day, per: [team], rpd: 20}
  - {name: size, max_input_tokens: 20}
budgets:
  - {name: team-month, per: [team, model], amount: 100 USD, period: month}
"""
WISH = Wish("team-month", "team=search,org=acme", "launch", "ann", "bob", NOW_MS + 60_000, percent=20)


def _increase(**fields: Any) -> Increase | list[tuple[str, object, str]]:
    return increase(msgspec.structs.replace(WISH, **fields), policy(RULES), "inc_1", NOW_MS, 7)


def test_an_increase_names_rule_scope_size_people_and_its_end() -> None:
    """As it was asked for, the scope in the order of rows."""
    made = _increase()
    assert made == Increase(
        "inc_1", "team-month", "org=acme,team=search", "launch", "ann", "bob", NOW_MS, NOW_MS + 60_000, 20, 0, 7
    )
    assert isinstance(made, Increase)
    assert describe_increase(made, policy(RULES), NOW_MS) | {"size": "+20%", "state": "active"} == describe_increase(
        made, policy(RULES), NOW_MS
    )
    assert describe_increase(made, policy(RULES), NOW_MS + 60_000)["state"] == "expired"
    assert describe_increase(made, None, NOW_MS)["state"] == "no such rule"


@pytest.mark.parametrize(
    ("fields", "amount", "size"),
    [
        ({"percent": None, "amount": "50 USD"}, 50 * USD, "+50"),
        ({"percent": None, "amount": "1_000", "rule": "team-day"}, 1_000, "+1,000"),
        ({"percent": None, "amount": "5", "rule": "team-day", "scope": "org=acme"}, 5, "+5"),
    ],
)
def test_an_amount_is_in_the_unit_of_the_rule(fields: dict[str, Any], amount: int, size: str) -> None:
    """Dollars of a budget, else a whole number."""
    made = _increase(**fields)
    assert isinstance(made, Increase)
    assert (made.amount, made.percent) == (amount, 0)
    assert size in describe_increase(made, policy(RULES), NOW_MS)["size"]


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"reason": " "}, "reason", "say why"),
        ({"requested_by": ""}, "requested_by", "say who asks"),
        ({"approved_by": ""}, "approved_by", "say who approves"),
        ({"approved_by": " Ann "}, "approved_by", "cannot approve"),
        ({"expires_ms": NOW_MS}, "expires_ms", "it is past"),
        ({"expires_ms": NOW_MS + 400 * 86_400_000}, "expires_ms", "a year at most"),
        ({"rule": "gone"}, "rule", "name a limit or budget of the policy (key-minute"),
        ({"rule": "size", "scope": "org=acme"}, "rule", "counts nothing"),
        ({"scope": "acme"}, "scope", "write attributes and values"),
        ({"scope": "team=search"}, "scope", "org=…"),
        ({"scope": "org=other"}, "scope", "'other' is no org"),
        ({"scope": "org=acme,team=sales"}, "scope", "'sales' is no team"),
        ({"scope": "org=acme,user=ada"}, "scope", "counts per org, team, model, not per user"),
        ({"percent": None}, "percent", "a percent or an amount"),
        ({"amount": "1 USD"}, "percent", "a percent or an amount"),
        ({"percent": 0}, "percent", "above 0"),
        ({"percent": 20_000}, "percent", "at most 10000"),
        ({"percent": None, "amount": "many"}, "amount", "USD"),
        ({"percent": None, "amount": "0 USD"}, "amount", "above 0"),
        ({"percent": None, "amount": "5 USD", "rule": "team-day"}, "amount", "whole number"),
        ({"percent": None, "amount": "5", "rule": "key-minute", "scope": "org=acme"}, "amount", "counts 2 things"),
    ],
)
def test_what_an_increase_lacks_is_named_with_a_remedy(fields: dict[str, Any], field: str, remedy: str) -> None:
    """Everything is required; nobody approves their own."""
    problems = _increase(**fields)
    assert isinstance(problems, list)
    assert [(found, remedy in told) for found, _, told in problems] == [(field, True)], problems


def test_all_problems_of_an_increase_are_named_at_once() -> None:
    """And without a policy there is nothing to increase."""
    problems = _increase(reason="", approved_by="ann", expires_ms=0, rule="gone", percent=None)
    assert isinstance(problems, list)
    assert [field for field, _, _ in problems] == ["reason", "approved_by", "expires_ms", "rule"]
    nothing = increase(WISH, None, "inc_1", NOW_MS, 7)
    assert isinstance(nothing, list)
    assert "no policy is in force" in nothing[0][2]


@pytest.mark.parametrize(
    ("scope", "normal"),
    [
        ("team=search,org=acme", "org=acme,team=search"),
        ("model=gpt-4o-mini", "model=gpt-4o-mini"),
        ("key=k1", "key=k1"),
        ("tier=2,provider=openai", "provider=openai,tier=2"),
        ("tags.app=anything", "tags.app=anything"),
    ],
)
def test_any_scope_can_be_frozen(scope: str, normal: str) -> None:
    """One person is enough; the reason is told to clients."""
    found = freeze(scope, " why ", "bob", policy(RULES), {"k1": VirtualKey("k1", "h", "acme")}, NOW_MS, 3)
    assert found == Freeze(normal, "why", "bob", NOW_MS, 3)
    assert isinstance(found, Freeze)
    assert describe_freeze(found)["scope"] == normal


@pytest.mark.parametrize(
    ("scope", "reason", "remedy"),
    [
        ("org=acme", "", "say why"),
        ("everything", "why", "write attributes and values"),
        ("org=other", "why", "there is no org 'other'"),
        ("org=acme,team=sales", "why", "'sales' is no team"),
        ("key=k2", "why", "there is no key 'k2'"),
        ("model=gpt-5", "why", "there is no model 'gpt-5'"),
        ("model=fast", "why", "'fast' is served as 'gpt-4o-mini', freeze that"),
        ("provider=azure", "why", "there is no provider"),
        ("tier=3", "why", "there is no tier"),
    ],
)
def test_a_freeze_that_would_stop_nobody_is_refused(scope: str, reason: str, remedy: str) -> None:
    """In an emergency a misspelt name must not look like a success."""
    problems = freeze(scope, reason, "bob", policy(RULES), {"k1": VirtualKey("k1", "h", "acme")}, NOW_MS, 3)
    assert isinstance(problems, list)
    assert any(remedy in told for _, _, told in problems), problems


def test_changes_that_a_crash_kept_from_the_chain_are_found() -> None:
    """A grant, a freeze, a revocation and a release; what the chain has is left alone."""
    granted, frozen = Increase("a", "r", "org=x", "", "ann", "bob", 1, 2), Freeze("org=x", "", "bob", 1)
    told = missing({}, [granted], [frozen])
    assert [(actor, action, subject) for actor, action, subject, _ in told] == [
        ("bob", "increase.grant", "increase/a"), ("bob", "scope.freeze", "freeze/org=x"),
    ]  # fmt: skip
    last = {"increase/a": "increase.grant", "freeze/org=x": "scope.freeze"}
    assert missing(last, [granted], [frozen]) == []
    ended = [(action, subject) for _, action, subject, _ in missing(last, [], [])]
    assert ended == [("increase.revoke", "increase/a"), ("scope.release", "freeze/org=x")]
    assert missing({"increase/a": "increase.revoke", "freeze/org=x": "scope.release"}, [], []) == []
    assert [action for _, action, _, _ in missing({"freeze/org=x": "scope.release"}, [], [frozen])] == ["scope.freeze"]
