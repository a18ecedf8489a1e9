"""The policy: what rules match and count, what keys may name, what the words of the document mean."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.failure import DEPENDENCIES
from schemas.policy import (
    Budget,
    Failure,
    KeyEntry,
    Limit,
    Policy,
    PolicyRecord,
    PriceOverride,
    Provider,
    Schedule,
    Timeouts,
    attributes_of,
    tier_of,
    unknown_principals,
)
from schemas.rows import Measure

HASH = "sha256:" + "0" * 64


def _attributes(**more: str) -> dict[str, str]:
    fields = dict.fromkeys(("org", "project", "team", "user", "key", "model", "provider", "route"), "")
    tags = {name.removeprefix("tag_"): more.pop(name) for name in list(more) if name.startswith("tag_")}
    return attributes_of(**{**fields, **more}, tags=tags, tier=1)


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
        ({"model": "!gpt-4o"}, False),
        ({"model": "!gpt-4o-*"}, True),
        ({"model": ["gpt-*", "!gpt-4o"]}, False),
        ({"model": ["gpt-*", "!*-mini"]}, True),
        ({"model": ["claude-*", "!gpt-3*"]}, False),
        ({"tags.other": "!*"}, False),
        ({"tags.other": "!?*"}, True),
        ({"tier": 1}, True),
        ({"tier": ["0", 2]}, False),
        ({"tier": "!0"}, True),
    ],
)
def test_a_rule_applies_where_all_its_attributes_match(match: dict[str, Any], matches: bool) -> None:
    """Globs, lists of them, exclusions, tags, tiers; case matters; what is absent is empty."""
    rule = Limit.model_validate({"name": "r", "rpm": 1, "match": match})
    assert rule.matches(_attributes(team="search", model="gpt-4o", tag_env="prod")) is matches


def test_a_scope_begins_with_the_organisation_whatever_the_rule_says() -> None:
    """Rules count within one organisation; the rule's order is kept, `org` once."""
    rule = Limit.model_validate({"name": "r", "rpm": 1, "per": ["team", "org", "tags.x"]})
    assert rule.scope(_attributes(org="acme", team="search", tag_x="1")) == (
        ("org", "acme"), ("team", "search"), ("tags.x", "1"),
    )  # fmt: skip
    assert Limit(name="r", rpm=1).scope({}) == (("org", ""),)


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({"rpm": 0}, [("requests", "minute", 60, 0, "UTC")]),
        ({"rpm": 1, "tpm": 2}, [("requests", "minute", 60, 1, "UTC"), ("tokens", "minute", 60, 2, "UTC")]),
        ({"rph": 1, "tph": 2}, [("requests", "hour", 0, 1, "UTC"), ("tokens", "hour", 0, 2, "UTC")]),
        (
            {"rpd": 1, "tpd": 2, "timezone": "Europe/Berlin"},
            [("requests", "day", 0, 1, "Europe/Berlin"), ("tokens", "day", 0, 2, "Europe/Berlin")],
        ),
        (
            {"tpm": 5, "rph": 7, "timezone": "Asia/Kolkata"},
            [("tokens", "minute", 60, 5, "UTC"), ("requests", "hour", 0, 7, "Asia/Kolkata")],
        ),
        ({"concurrency": 3}, [("concurrency", "hour", 0, 3, "UTC")]),
        ({"max_cost": "1 USD"}, []),
    ],
)
def test_a_limit_counts_what_it_names(fields: dict[str, Any], counted: list[tuple[object, ...]]) -> None:
    """Measure, period, length of what slides, ceiling and time zone; zero is a ceiling; a cap counts nothing."""
    rule = Limit.model_validate({"name": "r", **fields})
    assert [
        (part.measure, part.period, part.span.length_s, part.limit, part.zone) for part in rule.counted()
    ] == counted


@pytest.mark.parametrize(
    ("text", "period", "length_s"),
    [
        *((period, period, 0) for period in ("hour", "day", "week", "month", "quarter", "year")),
        ("minute", "minute", 60),
        ("rolling 30d", "rolling", 30 * 86_400), ("rolling 90m", "rolling", 5_400), ("rolling 48h", "rolling", 172_800),
    ],
)  # fmt: skip
def test_a_budget_counts_money_over_its_period(text: str, period: str, length_s: int) -> None:
    """Calendar periods have no length of their own; a rolling one has, and slides."""
    rule = Budget.model_validate({"name": "b", "amount": 1, "period": text})
    (part,) = rule.counted()
    assert (part.measure, part.period, part.span.length_s, part.limit) == (Measure.COST, period, length_s, 10**9)
    assert part.span.slides is (length_s > 0)
    assert Budget.model_validate(rule.model_dump(mode="json") | {"amount": 1}) == rule


def test_what_happens_at_the_cap_is_said_by_the_rule() -> None:
    """The default refuses beyond 100 %; rungs are in order; reserved parts add up for the tiers behind."""
    plain = Limit(name="r", rpm=1)
    assert (plain.rungs, plain.withheld, plain.queue_wait_ms) == (((100, "block"),), (0, 0, 0), 0)
    rule = Limit.model_validate(
        {"name": "r", "rpm": 1, "ladder": {"100%": "queue", 80: "warn"}, "reserve": {0: "20%", 1: "10%"}, "grace": "5%"}
    )
    assert rule.rungs == ((80, "warn"), (100, "queue"))
    assert (rule.withheld, rule.grace, rule.queue_wait_ms, rule.queue_most) == ((0, 20, 30), 5, 2_000, 100)
    waits = Limit.model_validate({**rule.model_dump(mode="json"), "queue": {"wait": "500ms", "most": 3}})
    assert (waits.queue_wait_ms, waits.queue_most) == (500, 3)


def test_a_request_in_flight_counts_for_a_bounded_time() -> None:
    """Only where requests at once are limited; the default is as long as a provider may take."""
    assert Limit(name="r", rpm=1).hold_expires_ms == 0
    assert Limit(name="r", concurrency=1).hold_expires_ms == 900_000
    assert Limit.model_validate({"name": "r", "concurrency": 1, "hold_expires": "10m"}).hold_expires_ms == 600_000


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
        (Budget, {"name": "b", "amount": 1, "period": "fortnight"}, "use one of minute, hour"),
        (Budget, {"name": "b", "amount": 1, "period": "rolling 400d"}, "366d at most"),
        (Budget, {"name": "b", "amount": 1, "period": "rolling 0h"}, "use one of minute, hour"),
        (Budget, {"name": "b", "amount": 1, "period": "rolling 3d", "carry_over": True}, "no end at which"),
        (Budget, {"name": "b", "amount": 1, "period": "rolling 3d", "timezone": "Asia/Kolkata"}, "does nothing"),
        (Budget, {"name": "b", "amount": 1, "period": "day", "carry_over": "101%"}, "less than or equal to 100"),
        (Budget, {"name": "b", "amount": 1, "period": "day", "final_unit": "stop"}, "Input should be 'finish'"),
        (Limit, {"name": "r"}, "it limits nothing: set one of rpm, tpm"),
        (Limit, {"name": "r", "rpm": 1, "max_cost": "1 USD", "mode": "shadow"}, "give it a rule of its own"),
        (Limit, {"name": "r", "burst": 3, "rpd": 9}, "filled at rpm; set rpm"),
        (Limit, {"name": "r", "burst_tokens": 10, "tpm": 10}, "limits nothing beside tpm 10"),
        (Limit, {"name": "r", "rpm": 1, "hold_expires": "10m"}, "does nothing without concurrency"),
        (Limit, {"name": "r", "concurrency": 1, "hold_expires": "2h"}, "less than or equal to 3600000"),
        (Limit, {"name": "r", "rpm": 1, "timezone": "Asia/Kolkata"}, "does nothing without rph"),
        (Limit, {"name": "r", "rpm": 1, "ladder": {"90%": "block", "95%": "warn"}}, "beyond 90% everything is blocked"),
        (Limit, {"name": "r", "rpm": 1, "ladder": {"90%": "warn", 90: "throttle"}}, "name each percent once"),
        (Limit, {"name": "r", "rpm": 1, "ladder": {"120%": "block"}}, "less than or equal to 100"),
        (Limit, {"name": "r", "rpm": 1, "ladder": {"90%": "slow"}}, "Input should be 'warn'"),
        (Limit, {"name": "r", "rpm": 1, "ladder": {}}, "at least 1 item"),
        (Limit, {"name": "r", "rpm": 1, "queue": {"wait": "1s"}}, "add `100%: queue` to the ladder"),
        (Limit, {"name": "r", "rpm": 1, "reserve": {2: "5%"}}, "tier 2 is the last"),
        (Limit, {"name": "r", "rpm": 1, "reserve": {0: "60%", 1: "40%"}}, "leaves tier 2 nothing"),
        (Limit, {"name": "r", "rpm": 1, "reserve": {3: "5%"}}, "less than or equal to 2"),
        (Limit, {"name": "r", "rpm": 1, "mode": "off"}, "Input should be 'enforce'"),
        (Limit, {"name": "r", "rpm": 1, "match": {"model": ["!"]}}, 'write a glob behind "!"'),
        (Limit, {"name": "r", "rpm": 1, "ladder": "block"}, "valid dictionary"),
        (Limit, {"name": "r", "rpm": 1, "match": {"model": {"not": "x"}}}, "valid tuple"),
        (Limit, {"name": "r", "rpm": 1, "match": {"model": [True]}}, "valid string"),
        (Limit, {"name": "r", "rpm": True}, "write a number"),
        (Timeouts, {"connect": 2.5}, "valid integer"),
        (Schedule, {"name": "s", "rules": ["r"], "multiply": "50%", "from": 1500}, 'between "00:00" and "24:00"'),
        (Schedule, {"name": "s", "rules": ["r"], "multiply": "50%", "to": "24:30"}, 'between "00:00" and "24:00"'),
        (Schedule, {"name": "s", "rules": ["r"], "multiply": "50%", "from": 6}, "write a local time in quotes"),
        (Schedule, {"name": "s", "rules": ["r"], "multiply": "50%", "from": "24:00", "to": "06:00"}, "is the next day"),
        (Schedule, {"name": "s", "rules": [], "multiply": "150%"}, "at least 1 item"),
        (Schedule, {"name": "s", "rules": ["r"], "multiply": "100%"}, "changes nothing"),
        (Schedule, {"name": "s", "rules": ["r"], "multiply": "50%", "from": "9am"}, "write a local time in quotes"),
        (
            Schedule,
            {"name": "s", "rules": ["r"], "multiply": "50%", "from": "09:00", "to": "09:00"},
            "the same as from",
        ),
        (Schedule, {"name": "s", "rules": ["r"], "multiply": "50%", "days": []}, "name at least one"),
        (Schedule, {"name": "s", "rules": ["r"], "multiply": "50%", "start": "2026-11-27T00:00:00Z"}, "or neither"),
        (
            Schedule,
            {
                "name": "s",
                "rules": ["r"],
                "multiply": "50%",
                "start": "2026-11-27T00:00:00",
                "end": "2026-11-28T00:00:00Z",
            },
            "with its UTC offset",
        ),
        (
            Schedule,
            {
                "name": "s",
                "rules": ["r"],
                "multiply": "50%",
                "start": "2026-11-27T00:00:00Z",
                "end": "2026-11-26T00:00:00Z",
            },
            "after start",
        ),
        (
            Schedule,
            {
                "name": "s",
                "rules": ["r"],
                "multiply": "50%",
                "start": "2026-11-27T00:00:00Z",
                "end": "2026-11-28T00:00:00Z",
                "days": ["mon"],
            },
            "but not both",
        ),
        (Failure, {"default": "open"}, "open needs one"),
        (Failure, {"allowance": "10%"}, "no tier is open by it"),
        (Failure, {"tiers": {0: {"allowance": "10%"}}}, "the tier is not open"),
        (Failure, {"tiers": {0: {"kafka": "half"}}}, "Input should be 'share'"),
        (Failure, {"after": "2d"}, "less than or equal to 86400000"),
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
            schedules=[
                {"name": "s", "rules": ["same", "gone"], "multiply": "50%"},
                {"name": "s", "rules": ["!*"], "multiply": "50%"},
            ],
        )
    text = str(raised.value)
    for place in (
        "budgets.0.name", "models.m.provider", "keys.0.org", "keys.1.id", "keys.1.team", "schedules.0.rules: 'gone'",
        "schedules.1.name", "schedules.1.rules",
    ):  # fmt: skip
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


@pytest.mark.parametrize(
    ("downgrades", "remedy"),
    [
        ({"a": "b", "b": "c"}, None),
        ({"a": "a"}, "round in a circle (a → a)"),
        ({"a": "b", "b": "c", "c": "a"}, "round in a circle (a → b → c → a)"),
        ({"a": "gone"}, "name a model of this document"),
        ({"a": "claude"}, "it speaks anthropic, not openai"),
    ],
)
def test_a_downgrade_leads_to_another_model_of_the_protocol(downgrades: dict[str, str], remedy: str | None) -> None:
    """Chains are fine, circles and dead ends are not."""
    models = {name: {"provider": "p", "downgrade": downgrades.get(name)} for name in ("a", "b", "c")}
    providers = {name: {"protocol": of, "base_url": "simulated"} for name, of in (("p", "openai"), ("q", "anthropic"))}
    wanted: dict[str, Any] = {"models": {**models, "claude": {"provider": "q"}}, "providers": providers}
    if remedy is None:
        assert _policy(**wanted).models["a"].downgrade == "b"
        return
    with pytest.raises(ValidationError) as raised:
        _policy(**wanted)
    assert remedy in str(raised.value)


def test_a_key_has_the_tier_of_its_organisation_unless_it_has_its_own() -> None:
    """Normal where nothing is said, also for an organisation that is gone."""
    policy = _policy(orgs={"acme": {"tier": 2}, "other": {}}, tiers={0: {"name": "critical"}})
    asked: list[tuple[str, int | None]] = [("acme", None), ("acme", 0), ("other", None), ("gone", None)]
    assert [tier_of(policy, org, own) for org, own in asked] == [2, 0, 1, 1]
    assert _attributes(org="acme")["tier"] == "1"


def test_failure_modes_are_the_most_special_that_is_said() -> None:
    """Tier and dependency, then dependency, then the default; an allowance only where it is open."""
    policy = _policy(
        failure={
            "after": "5m", "default": "closed", "meter": "share",
            "tiers": {0: {"kafka": "open", "allowance": "10%"}, 2: {"meter": "stop"}},
        }
    )  # fmt: skip
    modes = {(tier, on): tuple(policy.failure.mode(tier, on)) for tier in range(3) for on in DEPENDENCIES}
    assert modes == {
        (0, "kafka"): ("open", 10), (0, "meter"): ("share", 0), (1, "kafka"): ("closed", 0),
        (1, "meter"): ("share", 0), (2, "kafka"): ("closed", 0), (2, "meter"): ("stop", 0),
    }  # fmt: skip
    assert Failure().mode(1, "kafka") == ("share", 0)


def test_a_schedule_may_be_about_rules_by_glob() -> None:
    """With exclusions, as everywhere."""
    schedule = Schedule.model_validate({"name": "s", "rules": ["team-*", "!team-day"], "multiply": "50%"})
    assert [schedule.applies_to(rule) for rule in ("team-month", "team-day", "org")] == [True, False, False]
