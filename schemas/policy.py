"""The policy document: organisations, keys, providers, models, limits and budgets, validated as a whole.

A document is refused with every problem at once, each with its path, its value and a remedy (`schemas.policy_file`).
Rules are in `schemas.rules`, schedules in `schemas.schedules`, behaviour on failures in `schemas.failure`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import Field, model_validator

from schemas.attempts import Drain, Fallback, OnDisconnect
from schemas.failure import Failure, TierFailure
from schemas.fields import (
    ATTRIBUTES,
    DocumentPart,
    Globs,
    Milliseconds,
    ModelName,
    Name,
    PolicyProblems,
    Tier,
    glob_match,
    matching,
)
from schemas.money import Price
from schemas.operations import OperationName
from schemas.price_parts import PriceOverride
from schemas.rules import Budget, Counted, Limit, Queue, Rule
from schemas.schedules import Schedule

__all__ = [
    "ATTRIBUTES", "DEFAULT_RESERVE", "Budget", "Counted", "Failure", "KeyEntry", "Limit", "Model", "Organisation",
    "Policy", "PolicyProblems", "PolicyRecord", "PriceOverride", "Protocol", "Provider", "Queue", "Rule", "Schedule",
    "TierFailure", "TierName", "Timeouts", "attributes_of", "tier_of", "unknown_principals",
]  # fmt: skip

Protocol = Literal["openai", "anthropic"]
DEFAULT_TIER = 1
DEFAULT_RESERVE = PriceOverride(
    input=15,
    output=75,
    units={
        "web_search": "0.05 USD", "file_search": "0.01 USD", "code_session": "0.10 USD", "images": "0.50 USD",
        "audio_ms": "0.10 USD per minute", "characters": "100 USD per million", "searches": "0.01 USD",
    },
)  # fmt: skip
"""More than nearly all that was published in 2026."""

_HASH = re.compile(r"^sha256:[0-9a-f]{64}$")
_CREDENTIAL = re.compile(r"^(?:env:[A-Za-z_][A-Za-z0-9_]*|file:.+|none)$")


class Organisation(DocumentPart):
    """An organisation and the names that keys of it may carry."""

    projects: tuple[Name, ...] = ()
    """Names that a key may carry as its project."""
    teams: tuple[Name, ...] = ()
    """Names that a key may carry as its team."""
    users: tuple[str, ...] = ()
    """Names that a key may carry as its user, such as e-mail addresses."""
    tags: dict[str, str] = Field(default={})
    """Tags of every key of the organisation; a key's own tags win."""
    tier: Tier = DEFAULT_TIER
    """Of its keys that have none of their own: 0 is the most important, 2 the least."""


class KeyEntry(DocumentPart):
    """A virtual key that the document lists by its hash. `tollway keys create` needs no entry here."""

    id: Name
    """Unique; what reports and revocation name the key by."""
    hash: Annotated[str, matching(_HASH, "write sha256: and the 64 hex digits of the secret's SHA-256")]
    """`sha256:` and the hex digits of the secret's SHA-256."""
    org: Name
    """An organisation of this document."""
    project: str = ""
    """A project of the organisation."""
    team: str = ""
    """A team of the organisation."""
    user: str = ""
    """A user of the organisation."""
    name: str = ""
    """For people."""
    models: Globs = ("*",)
    """Globs of the models that the key may use."""
    tags: dict[str, str] = Field(default={})
    """Free attributes; rules match `tags.NAME`."""
    tier: Tier | None = None
    """How important its requests are: 0 the most, 2 the least. Left out: that of the organisation."""
    expires: datetime | None = None
    """From this moment on the key is refused; with a UTC offset."""


class Timeouts(DocumentPart):
    """How long a provider may take, in milliseconds; written as 5s or 1m."""

    connect: Milliseconds = 5_000
    """Until the connection stands, TLS included."""
    first_byte: Milliseconds = 120_000
    """From the request to the first byte of the answer."""
    idle: Milliseconds = 60_000
    """Between two bytes of the answer."""
    total: Milliseconds = 900_000
    """From the request to the last byte of the answer."""


class Provider(DocumentPart):
    """Where requests go, and by which credential: a reference, never a value."""

    protocol: Protocol
    """The API that the provider speaks."""
    base_url: str = Field(pattern=r"^(simulated|https?://[^\s]+)$")
    """An URL up to and with the version path (`https://api.openai.com/v1`), or `simulated` for the built-in one."""
    credential: Annotated[str, matching(_CREDENTIAL, "write env:NAME, file:PATH or none")] = "none"
    """`env:NAME` or `file:PATH`, read by each ingress where it runs; `none` sends no credential."""
    timeouts: Timeouts = Timeouts()
    """How long the provider may take."""
    max_connections: int = Field(default=1024, ge=1, le=65_536)
    """Of each ingress replica to this provider."""
    on_disconnect: OnDisconnect = "drain"
    """When a client hangs up: `drain` reads the answer on and charges what the provider reports, `cancel` hangs up on
    the provider and charges an estimate."""
    drain: Drain = Drain()
    """How far answers are read on."""


class Model(DocumentPart):
    """A model that keys may be allowed to use, by the name that clients send."""

    provider: Name
    """A provider of this document."""
    upstream: ModelName | None = None
    """The name the provider knows; the client's name if left out. Limits match this served model."""
    price: PriceOverride | None = None
    """Left out: the bundled price list. A model that neither prices is served, recorded as unpriced and held at
    `unpriced_reserve`."""
    max_output_tokens: int = Field(default=16_384, ge=1)
    """What a reservation assumes if the request does not say."""
    operations: tuple[OperationName, ...] | None = None
    """Left out: all that the provider's protocol has."""
    downgrade: ModelName | None = None
    """A model of this document, of the same protocol, that requests go on with where a rule says `downgrade`."""
    fallback: Fallback | None = None
    """Another model for requests whose provider has failed before the client got anything."""
    on_disconnect: OnDisconnect | None = None
    """Left out: what the provider says."""
    drain: Drain | None = None
    """Left out: what the provider says."""


class TierName(DocumentPart):
    """What a tier is called; its number decides."""

    name: Name
    """For people, such as `critical`."""


class Policy(DocumentPart):
    """The whole document. `tollway policy check FILE` reports every problem of one."""

    version: Literal[1] = 1
    """Of the document's format."""
    orgs: dict[Name, Organisation]
    """Organisations by id."""
    keys: tuple[KeyEntry, ...] = ()
    """Keys listed by hash, beside those that `tollway keys create` issues."""
    providers: dict[Name, Provider]
    """Providers by name."""
    models: dict[ModelName, Model]
    """Models by the name that clients send."""
    tiers: dict[Tier, TierName] = Field(default={})
    """Names of the tiers 0, 1 and 2."""
    limits: tuple[Limit, ...] = ()
    """Requests and tokens, requests at once, caps on single requests."""
    budgets: tuple[Budget, ...] = ()
    """Money a period."""
    schedules: tuple[Schedule, ...] = ()
    """When limits and budgets are larger or smaller."""
    failure: Failure = Failure()
    """What replicas do while Kafka or the meter is gone."""
    max_body_bytes: int = Field(default=10 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    """Larger request bodies are refused with 413."""
    unpriced_reserve: PriceOverride = DEFAULT_RESERVE
    """What money rows hold and book for what has no price, model or unit; the cost itself stays unknown.
    Units that are left out are held at their default."""

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        problems = [
            *_rule_problems(self), *_schedule_problems(self), *_model_problems(self), *_key_problems(self),
            *_reserve_problems(self.unpriced_reserve),
        ]  # fmt: skip
        if problems:
            raise PolicyProblems(problems)
        return self

    def rules(self) -> tuple[Limit | Budget, ...]:
        """Return limits and budgets in the document's order."""
        return (*self.limits, *self.budgets)


def _rule_problems(policy: Policy) -> list[tuple[str, Any, str]]:
    seen: dict[str, str] = {}
    problems: list[tuple[str, Any, str]] = []
    for kind, rules in (("limits", policy.limits), ("budgets", policy.budgets)):
        for index, rule in enumerate(rules):
            path = f"{kind}.{index}.name"
            if rule.name in seen:
                problems.append((path, rule.name, f"already the name of {seen[rule.name]}; names are unique"))
            seen.setdefault(rule.name, path.removesuffix(".name"))
    return problems


def _schedule_problems(policy: Policy) -> list[tuple[str, Any, str]]:
    names = [rule.name for rule in policy.rules()]
    problems: list[tuple[str, Any, str]] = []
    seen: set[str] = set()
    for index, schedule in enumerate(policy.schedules):
        if schedule.name in seen:
            problems.append((f"schedules.{index}.name", schedule.name, "used twice; names are unique"))
        seen.add(schedule.name)
        problems += [
            (
                f"schedules.{index}.rules",
                glob,
                f"no limit or budget has this name; there are {', '.join(names) or 'none'}",
            )
            for glob in schedule.rules
            if not any(glob_match((glob.removeprefix("!"),), name) for name in names)
        ]
        if not any(schedule.applies_to(name) for name in names):
            problems.append(
                (f"schedules.{index}.rules", list(schedule.rules), "name a limit or budget that it is about")
            )
    return problems


def _model_problems(policy: Policy) -> list[tuple[str, Any, str]]:
    known = ", ".join(policy.providers) or "none is defined"
    problems: list[tuple[str, Any, str]] = [
        (f"models.{name}.provider", model.provider, f"name a provider of this document ({known})")
        for name, model in policy.models.items()
        if model.provider not in policy.providers
    ]
    for name, model in policy.models.items():
        for path, next_of in (("downgrade", _downgrade), ("fallback.to", _fallback)):
            remedy = _way_remedy(policy, name, model, next_of)
            if remedy is not None:
                problems.append((f"models.{name}.{path}", next_of(model), remedy))
    return problems


def _downgrade(model: Model) -> str | None:
    return model.downgrade


def _fallback(model: Model) -> str | None:
    return None if model.fallback is None else model.fallback.to


def _way_remedy(policy: Policy, name: str, model: Model, next_of: Callable[[Model], str | None]) -> str | None:
    """Return what to do about a way to other models that leads nowhere or round in a circle; None if it is good."""
    seen, at = [name], model
    while (to := next_of(at)) is not None:
        if to in seen:
            way = " → ".join([*seen, to])
            return f"goes round in a circle ({way}); end at a model without one"
        following = policy.models.get(to)
        if following is None:
            return None if at is not model else f"name a model of this document ({', '.join(policy.models)})"
        if at is model and _protocol(policy, following) != _protocol(policy, model):
            return (
                f"it speaks {_protocol(policy, following)}, not {_protocol(policy, model)}; name one of that protocol"
            )
        seen.append(to)
        at = following
    return None


def _protocol(policy: Policy, model: Model) -> str | None:
    provider = policy.providers.get(model.provider)
    return None if provider is None else provider.protocol


def _reserve_problems(reserve: PriceOverride) -> list[tuple[str, Any, str]]:
    return [] if reserve.has_tokens else [("unpriced_reserve", None, "it has no input and output; add both")]


def _key_problems(policy: Policy) -> list[tuple[str, Any, str]]:
    problems: list[tuple[str, Any, str]] = []
    ids: set[str] = set()
    for index, key in enumerate(policy.keys):
        if key.id in ids:
            problems.append((f"keys.{index}.id", key.id, "used twice; ids are unique"))
        ids.add(key.id)
        problems += [(f"keys.{index}.{part}", value, remedy) for part, value, remedy in unknown_principals(policy, key)]
    return problems


def unknown_principals(policy: Policy, key: Any) -> list[tuple[str, str, str]]:
    """Return (field, value, remedy) of what `key` (with org, project, team, user) names and `policy` does not."""
    org = policy.orgs.get(key.org)
    if org is None:
        return [("org", key.org, f"name an organisation of the policy ({', '.join(policy.orgs) or 'none'})")]
    parts = (("project", key.project, org.projects), ("team", key.team, org.teams), ("user", key.user, org.users))
    return [
        (field, value, f"add it to orgs.{key.org}.{field}s, or name one of {', '.join(known) or '(none yet)'}")
        for field, value, known in parts
        if value and value not in known
    ]


def tier_of(policy: Policy, org: str, own: int | None) -> int:
    """Return the tier of a key of `org` with tier `own`; None for one that has none of its own."""
    if own is not None:
        return own
    found = policy.orgs.get(org)
    return DEFAULT_TIER if found is None else found.tier


def attributes_of(
    *, org: str, project: str, team: str, user: str, key: str, model: str, provider: str, route: str,
    tags: Mapping[str, str], tier: int = DEFAULT_TIER,
) -> dict[str, str]:  # fmt: skip
    """Return the attributes that rules match and count by. `model` is the served model."""
    attributes = {f"tags.{name}": value for name, value in tags.items()}
    attributes.update(
        org=org, project=project, team=team, user=user, key=key, model=model, provider=provider, route=route,
        env=tags.get("env", ""), tier=str(tier),
    )  # fmt: skip
    return attributes


class PolicyRecord(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.policy/1"):
    """An applied version on the `policy` topic. Prices are resolved before it is written, so all replicas agree."""

    version: int
    document: str
    """The YAML as it was applied."""
    sha256: str
    applied_ms: int
    applied_by: str
    note: str
    prices: dict[str, Price]
    """By name under `models`; a model without a price is left out."""
    org_prices: dict[str, dict[str, Price]] = {}
    """By organisation, then by name under `models`: prices that only this organisation has."""
    prices_revision: int = 0
    """Counts how often the prices of this version were resolved anew. A record with the version in force and a higher
    revision has other prices and the same document."""

    @property
    def key(self) -> str:
        """The record's key on the topic."""
        return f"{self.version:010d}"
