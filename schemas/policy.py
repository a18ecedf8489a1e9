"""The policy document: organisations, keys, providers, models, limits and budgets, validated as a whole.

A document is refused with every problem at once, each with its path, its value and a remedy (`schemas.policy_file`).
Rules apply within one organisation: the scope of every rule begins with `org`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schemas.money import Price, parse_rate, parse_usd
from schemas.rows import Measure
from schemas.windows import Period

Protocol = Literal["openai", "anthropic"]
ATTRIBUTES = ("org", "project", "team", "user", "key", "model", "provider", "route", "env")
"""What rules match on and count per, beside `tags.<name>`. `env` is short for `tags.env`."""

_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
_MODEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")
_DURATION = re.compile(r"^(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h)$")
_HASH = re.compile(r"^sha256:[0-9a-f]{64}$")
_CREDENTIAL = re.compile(r"^(?:env:[A-Za-z_][A-Za-z0-9_]*|file:.+|none)$")


def _matching(pattern: re.Pattern[str], remedy: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.match(value):
            raise ValueError(remedy)
        return value

    return AfterValidator(check)


def _duration_ms(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _DURATION.match(value)
    if match is None:
        raise ValueError("write a duration such as 500ms, 30s, 5m or 1h")
    return int(Decimal(match["number"]) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}[match["unit"]])


def _percent(value: Any) -> Any:
    if isinstance(value, str) and value.endswith("%"):
        value = value[:-1]
    if isinstance(value, bool):
        raise ValueError("write thresholds such as 50% or 90%")
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise ValueError("write thresholds as whole percents, such as 50% or 90%") from error


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except Exception as error:
        raise ValueError("name an IANA time zone such as UTC or Europe/Berlin") from error
    return value


def _attribute(value: str) -> str:
    if value in ATTRIBUTES or (value.startswith("tags.") and len(value) > 5):
        return value
    raise ValueError(f"use one of {', '.join(ATTRIBUTES)} or tags.<name>")


def _globs(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("write a number")
    return value


Name = Annotated[str, _matching(_NAME, "use lower-case letters, digits, dot, dash and underscore, 63 at most")]
ModelName = Annotated[str, _matching(_MODEL, "use letters, digits and . _ : / @ -, 128 at most")]
Milliseconds = Annotated[int, BeforeValidator(_duration_ms), Field(gt=0)]
Percent = Annotated[int, BeforeValidator(_percent), Field(gt=0, le=1000)]
Usd = Annotated[int, BeforeValidator(lambda value: parse_usd(_no_bool(value))), Field(ge=0)]
Rate = Annotated[int, BeforeValidator(lambda value: parse_rate(_no_bool(value)))]
Globs = Annotated[tuple[str, ...], BeforeValidator(_globs), Field(min_length=1)]
Attribute = Annotated[str, AfterValidator(_attribute)]
Zone = Annotated[str, AfterValidator(_zone)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Organisation(_Part):
    """An organisation and the names that keys of it may carry."""

    projects: tuple[Name, ...] = ()
    """Names that a key may carry as its project."""
    teams: tuple[Name, ...] = ()
    """Names that a key may carry as its team."""
    users: tuple[str, ...] = ()
    """Names that a key may carry as its user, such as e-mail addresses."""
    tags: dict[str, str] = {}
    """Tags of every key of the organisation; a key's own tags win."""


class KeyEntry(_Part):
    """A virtual key that the document lists by its hash. `tollway keys create` needs no entry here."""

    id: Name
    """Unique; what reports and revocation name the key by."""
    hash: Annotated[str, _matching(_HASH, "write sha256: and the 64 hex digits of the secret's SHA-256")]
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
    tags: dict[str, str] = {}
    """Free attributes; rules match `tags.NAME`."""
    expires: datetime | None = None
    """From this moment on the key is refused; with a UTC offset."""


class Timeouts(_Part):
    """How long a provider may take, in milliseconds; written as 5s or 1m."""

    connect: Milliseconds = 5_000
    """Until the connection stands, TLS included."""
    first_byte: Milliseconds = 120_000
    """From the request to the first byte of the answer."""
    idle: Milliseconds = 60_000
    """Between two bytes of the answer."""
    total: Milliseconds = 900_000
    """From the request to the last byte of the answer."""


class Provider(_Part):
    """Where requests go, and by which credential: a reference, never a value."""

    protocol: Protocol
    """The API that the provider speaks."""
    base_url: str = Field(pattern=r"^(simulated|https?://[^\s]+)$")
    """An URL up to and with the version path (`https://api.openai.com/v1`), or `simulated` for the built-in one."""
    credential: Annotated[str, _matching(_CREDENTIAL, "write env:NAME, file:PATH or none")] = "none"
    """`env:NAME` or `file:PATH`, read by each ingress where it runs; `none` sends no credential."""
    timeouts: Timeouts = Timeouts()
    """How long the provider may take."""
    max_connections: int = Field(default=1024, ge=1, le=65_536)
    """Of each ingress replica to this provider."""


class PriceOverride(_Part):
    """USD per million tokens, before any price list. What is left out costs what its plainer class costs."""

    input: Rate
    """Input tokens that are in no other class."""
    output: Rate
    """Output tokens that are in no other class."""
    cache_read: Rate | None = None
    """Input read from the prompt cache."""
    cache_write: Rate | None = None
    """Input written to the prompt cache for five minutes."""
    cache_write_1h: Rate | None = None
    """Input written to the prompt cache for an hour."""
    reasoning: Rate | None = None
    """Output that only the model sees."""
    audio_input: Rate | None = None
    """Audio heard."""
    audio_output: Rate | None = None
    """Audio spoken."""
    request: Usd = 0
    """USD a request, beside the tokens."""


class Model(_Part):
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
    operations: tuple[Literal["chat.completions", "embeddings", "messages"], ...] | None = None
    """Left out: all that the provider's protocol has."""


class _Rule(_Part):
    name: Name
    """Unique among limits and budgets; it is part of row keys, so renaming starts a new count."""
    match: dict[Attribute, Globs] = {}
    """Attribute → glob or list of globs; the rule applies where all attributes match. Empty: everywhere."""
    per: tuple[Attribute, ...] = ()
    """Attributes that each get a counter of their own; always within one organisation."""

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Tell whether the rule applies to a request with `attributes` (see `attributes_of`)."""
        return all(
            any(fnmatch.fnmatchcase(attributes.get(name, ""), glob) for glob in globs)
            for name, globs in self.match.items()
        )

    def scope(self, attributes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the scope that a request with `attributes` counts in, `org` first."""
        names = [name for name in self.per if name != "org"]
        return (("org", attributes.get("org", "")), *((name, attributes.get(name, "")) for name in names))


class Limit(_Rule):
    """Requests and tokens a sliding minute."""

    rpm: int | None = Field(default=None, ge=0)
    """Requests a sliding minute."""
    tpm: int | None = Field(default=None, ge=0)
    """Tokens a sliding minute, input and output of every class."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.rpm is None and self.tpm is None:
            raise ValueError("set rpm or tpm, or remove the limit")
        return self

    def ceilings(self) -> tuple[tuple[Measure, int], ...]:
        """Return (measure, ceiling a minute) of what is limited."""
        pairs = ((Measure.REQUESTS, self.rpm), (Measure.TOKENS, self.tpm))
        return tuple((measure, ceiling) for measure, ceiling in pairs if ceiling is not None)


class Budget(_Rule):
    """Money a calendar period."""

    amount: Usd
    """nano-USD; written as `2_000 USD`."""
    period: Period
    """Calendar period, in the time zone."""
    timezone: Zone = "UTC"
    """IANA name; windows begin at its local midnight."""
    thresholds: tuple[Percent, ...] = (50, 80, 100)
    """Percents of the amount that raise an alert, once a window each."""


class Policy(_Part):
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
    limits: tuple[Limit, ...] = ()
    """Requests and tokens a minute."""
    budgets: tuple[Budget, ...] = ()
    """Money a period."""
    max_body_bytes: int = Field(default=10 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    """Larger request bodies are refused with 413."""
    unpriced_reserve: PriceOverride = PriceOverride(input=15_000_000_000, output=75_000_000_000)
    """What money rows hold and book for a model without a price: USD per million tokens."""

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        problems = [*_rule_problems(self), *_model_problems(self), *_key_problems(self)]
        if problems:
            raise PolicyProblems(problems)
        return self

    def rules(self) -> tuple[Limit | Budget, ...]:
        """Return limits and budgets in the document's order."""
        return (*self.limits, *self.budgets)


class PolicyProblems(ValueError):
    """Problems between parts of a document; each is (path, value, remedy)."""

    def __init__(self, problems: list[tuple[str, Any, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{path}: {value!r}: {remedy}" for path, value, remedy in problems))


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


def _model_problems(policy: Policy) -> list[tuple[str, Any, str]]:
    known = ", ".join(policy.providers) or "none is defined"
    return [
        (f"models.{name}.provider", model.provider, f"name a provider of this document ({known})")
        for name, model in policy.models.items()
        if model.provider not in policy.providers
    ]


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


def attributes_of(
    *, org: str, project: str, team: str, user: str, key: str, model: str, provider: str, route: str,
    tags: Mapping[str, str],
) -> dict[str, str]:  # fmt: skip
    """Return the attributes that rules match and count by. `model` is the served model."""
    attributes = {f"tags.{name}": value for name, value in tags.items()}
    attributes.update(
        org=org, project=project, team=team, user=user, key=key, model=model, provider=provider, route=route,
        env=tags.get("env", ""),
    )  # fmt: skip
    return attributes


class PolicyRecord(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.policy/1"):
    """An applied version on the `policy` topic. Prices are resolved when it is applied, so all replicas agree."""

    version: int
    document: str
    """The YAML as it was applied."""
    sha256: str
    applied_ms: int
    applied_by: str
    note: str
    prices: dict[str, Price]
    """By name under `models`; a model without a price is left out."""

    @property
    def key(self) -> str:
        """The record's key on the topic."""
        return f"{self.version:010d}"
