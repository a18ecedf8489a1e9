"""The policy: what rules match and count, what keys may name, what the words of the document mean."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.policy import (
    Budget,
    KeyEntry,
    Limit,
    Policy,
    PolicyRecord,
    PriceOverride,
    Provider,
    Timeouts,
    attributes_of,
    unknown_principals,
)
from schemas.rows import Measure

HASH = "sha256:" + "0" * 64


def _attributes(**more: str) -> dict[str, str]:
    fields = dict.fromkeys(("org", "project", "team", "user", "key", "model", "provider", "route"), "")
    tags = {name.removeprefix("tag_"): more.pop(name) for name in list(more) if name.startswith("tag_")}
    return attributes_of(**{**fields, **more}, tags=tags)


def _policy(**more: Any) -> Policy:
    base = {
        "orgs": {"acme": {"projects": ["chat"], "teams": ["search"], "users": ["ada@example.com"]}},
        "providers": {"p": {"protocol": "openai", "base_url": "simulated"}},
        "models": {"m": {"provider": "p"}},
    }
    return Policy.model_validate({**base, **more})


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({}, True),
        ({"team": "search"}, True),
        ({"team": "sea*"}, True),
        ({"team": ["ml", "search"]}, True),
        ({"team": "search", "model": "gpt-*"}, True),
        ({"team": "search", "model": "claude-*"}, False),
        ({"team": "SEARCH"}, False),
        ({"env": "prod"}, True),
        ({"tags.env": "prod"}, True),
        ({"tags.other": "*"}, True),
        ({"tags.other": "?*"}, False),
    ],
)
def test_a_rule_applies_where_all_its_attributes_match(match: dict[str, Any], matches: bool) -> None:
    """Globs, lists of them, tags; case matters; what is absent is empty."""
    rule = Limit.model_validate({"name": "r", "rpm": 1, "match": match})
    assert rule.matches(_attributes(team="search", model="gpt-4o", tag_env="prod")) is matches


def test_a_scope_begins_with_the_organisation_whatever_the_rule_says() -> None:
    """Rules count within one organisation; the rule's order is kept, `org` once."""
    rule = Limit.model_validate({"name": "r", "rpm": 1, "per": ["team", "org", "tags.x"]})
    assert rule.scope(_attributes(org="acme", team="search", tag_x="1")) == (
        ("org", "acme"), ("team", "search"), ("tags.x", "1"),
    )  # fmt: skip
    assert Limit(name="r", rpm=1).scope({}) == (("org", ""),)


def test_a_limit_holds_what_it_names() -> None:
    """Requests, tokens or both; zero is a ceiling; a limit of nothing is refused."""
    assert Limit(name="r", rpm=0).ceilings() == ((Measure.REQUESTS, 0),)
    assert Limit(name="r", rpm=1, tpm=2).ceilings() == ((Measure.REQUESTS, 1), (Measure.TOKENS, 2))
    with pytest.raises(ValidationError, match="set rpm or tpm"):
        Limit(name="r")


def test_words_of_the_document_become_numbers() -> None:
    """Amounts, percents, durations and rates, in their own units."""
    budget = Budget.model_validate({"name": "b", "amount": "2_000 USD", "period": "month", "thresholds": ["50%", 90]})
    assert (budget.amount, budget.thresholds) == (2_000 * 10**9, (50, 90))
    timeouts = Timeouts.model_validate({"connect": "500ms", "idle": "1.5s", "total": "1h"})
    assert (timeouts.connect, timeouts.idle, timeouts.total) == (500, 1_500, 3_600_000)
    assert PriceOverride.model_validate({"input": "0.15", "output": 1}).input == 150_000_000


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (Budget, {"name": "b", "amount": "3 EUR", "period": "month"}, "write it like 2_000 USD"),
        (Budget, {"name": "b", "amount": True, "period": "month"}, "write a number"),
        (Budget, {"name": "b", "amount": 1, "period": "fortnight"}, "Input should be"),
        (Budget, {"name": "b", "amount": 1, "period": "day", "timezone": "Berlin"}, "name an IANA time zone"),
        (Budget, {"name": "b", "amount": 1, "period": "day", "thresholds": ["half"]}, "whole percents"),
        (Budget, {"name": "b", "amount": 1, "period": "day", "thresholds": [0]}, "greater than 0"),
        (Limit, {"name": "Team!", "rpm": 1}, "use lower-case letters"),
        (Limit, {"name": "r", "rpm": -1}, "greater than or equal to 0"),
        (Limit, {"name": "r", "rpm": 1, "per": ["colour"]}, "use one of org"),
        (Limit, {"name": "r", "rpm": 1, "rps": 1}, "Extra inputs"),
        (Timeouts, {"connect": "fast"}, "write a duration"),
        (Provider, {"protocol": "openai", "base_url": "ftp://x"}, "String should match"),
        (Provider, {"protocol": "openai", "base_url": "simulated", "credential": "sk-1"}, "write env:NAME"),
        (KeyEntry, {"id": "k", "hash": "secret", "org": "acme"}, "write sha256:"),
        (PriceOverride, {"input": -1, "output": 1}, "is not a price"),
    ],
)
def test_what_the_document_cannot_say_is_refused_with_a_remedy(
    part: type[Any], fields: dict[str, Any], message: str
) -> None:
    """Each kind of value that people write by hand."""
    with pytest.raises(ValidationError, match=message):
        part.model_validate(fields)


def test_parts_that_do_not_fit_together_are_all_named() -> None:
    """A rule's name used twice, a provider that is not there, keys of nobody: one error, every problem."""
    with pytest.raises(ValidationError) as raised:
        _policy(
            limits=[{"name": "same", "rpm": 1}],
            budgets=[{"name": "same", "amount": 1, "period": "day"}],
            models={"m": {"provider": "nobody"}},
            keys=[{"id": "k", "hash": HASH, "org": "other"}, {"id": "k", "hash": HASH, "org": "acme", "team": "x"}],
        )
    text = str(raised.value)
    for place in ("budgets.0.name", "models.m.provider", "keys.0.org", "keys.1.id", "keys.1.team"):
        assert place in text


def test_principals_are_known_or_named_with_what_there_is() -> None:
    """An empty name is no name; a wrong one comes with those that exist."""
    policy = _policy()
    assert unknown_principals(policy, KeyEntry(id="k", hash=HASH, org="acme", team="search")) == []
    found = unknown_principals(policy, KeyEntry(id="k", hash=HASH, org="acme", team="ml", user="eve"))
    assert [(field, value) for field, value, _ in found] == [("team", "ml"), ("user", "eve")]
    assert "search" in found[0][2]


def test_env_is_short_for_its_tag() -> None:
    """One attribute under two names."""
    attributes = _attributes(tag_env="prod")
    assert attributes["env"] == attributes["tags.env"] == "prod"


def test_versions_sort_as_text() -> None:
    """Keys of the topic are in the order of versions."""
    keys = [PolicyRecord(number, "", "", 0, "", "", {}).key for number in (9, 10, 100)]
    assert keys == sorted(keys)
    assert keys[0] == "0000000009"
