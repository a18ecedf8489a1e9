"""Builders for tests of admission: a small policy, its resolver, snapshots as a meter would send them, events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from ingress.core.admission import Registry
from ingress.core.keyring import Keyring
from ingress.core.overrides import Overrides
from ingress.core.plan import Denied, Hold, Plan
from ingress.core.resolver import Refused, Resolver
from schemas.codec import encode_attribution, encode_event, encode_rows
from schemas.ids import secret_hash
from schemas.keys import VirtualKey
from schemas.money import Price, Rates
from schemas.policy_file import load_policy
from schemas.quota import Member, RowState, Snapshot, Weight
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, UsageEvent

MINUTE_MS = 60_000
START_MS = 1_795_000_020_000
"""The beginning of a minute, 2026-11-18T11:07:00Z."""
INSTANCE, EPOCH = "ingress-1", 7
WHOLE = Weight(1, 1, 0)
SECRET = b"tw-0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
PRICE = Price("policy", "p1", (Rates(0, 1_000_000, 0, 0, 0, 2_000_000, 2_000_000, 0, 0),))

POLICY = """
orgs:
  acme: {teams: [search, chat], projects: [web], users: [ann], tags: {env: prod, tier: "1"}}
  other: {}
providers:
  sim: {protocol: openai, base_url: simulated}
  claude: {protocol: anthropic, base_url: simulated}
models:
  small: {provider: sim, max_output_tokens: 100}
  fast: {provider: sim, upstream: served-fast, operations: [chat.completions]}
  opus: {provider: claude}
limits:
  - {name: team-minute, per: [team], rpm: 10, tpm: 1000}
  - {name: embeddings-only, match: {route: embeddings}, rpm: 3}
budgets:
  - {name: org-month, amount: 5 USD, period: month}
  - {name: prod-day, match: {env: "pro*"}, per: [model], amount: 1 USD, period: day, timezone: Europe/Berlin}
"""


def key_of(secret: bytes = SECRET, **fields: object) -> VirtualKey:
    """Return a key of team search in acme whose secret is `secret`."""
    values: dict[str, object] = {"id": "k1", "org": "acme", "team": "search", "models": ("*",)} | fields
    return msgspec.convert(
        {"schema": "tollway.key/1", "hash": f"sha256:{secret_hash(secret).hex()}", **values}, VirtualKey
    )


def resolver_of(
    policy: str = POLICY,
    *,
    registry: Registry | None = None,
    keyring: Keyring | None = None,
    version: int = 1,
    prices: Mapping[str, Price] | None = None,
    overrides: Overrides | None = None,
    org_prices: Mapping[str, Mapping[str, Price]] | None = None,
) -> Resolver:
    """Return an active resolver with `k1` in its keyring."""
    if keyring is None:
        keyring = Keyring()
        keyring.put("k1", key_of())
    resolver = Resolver(
        load_policy(policy), version, {"small": PRICE} if prices is None else prices, keyring, registry or Registry(1),
        overrides, org_prices,
    )  # fmt: skip
    resolver.activate()
    return resolver


def plan_of(resolver: Resolver, model: str = "small", operation: str = "chat.completions", **fields: object) -> Plan:
    """Return the plan of a request of `k1`."""
    plan = resolver.plan(key_of(**fields), model, operation)  # type: ignore[arg-type]  # the fields are a key's
    assert isinstance(plan, Plan), plan
    return plan


def held(outcome: Hold | Denied) -> Hold:
    """Return the hold of an admission that must succeed."""
    assert isinstance(outcome, Hold), outcome
    return outcome


def denied(outcome: Hold | Denied) -> Denied:
    """Return the refusal of an admission that must fail."""
    assert isinstance(outcome, Denied), outcome
    return outcome


def refused(outcome: object) -> Refused:
    """Return the refusal of a resolution that must fail."""
    assert isinstance(outcome, Refused), outcome
    return outcome


def snapshot_of(
    rows: Iterable[RowState] = (),
    *,
    fence: int = 1,
    hw: int = 0,
    number: int = 1,
    full: bool = True,
    weight: Weight = WHOLE,
    publisher: str = "meter-1",
    partition: int = 0,
    chunk: int = 0,
    chunks: int = 1,
    members: list[Member] | None = None,
) -> Snapshot:
    """Return a snapshot in which this replica is a member with `weight` and its records up to `hw` are included."""
    if members is None:
        members = [Member(INSTANCE, EPOCH, hw, weight)]
    return Snapshot(
        partition, publisher, number, fence, START_MS, START_MS, full, chunk, chunks, members, list(rows), []
    )


def state_of(
    key: str, total: int, *, limit: int = -1, rights: tuple[int, ...] = (), nets: tuple[int, ...] = ()
) -> RowState:
    """Return a row as a snapshot has it: without a limit nobody has a right; what is no member's is gone replicas'."""
    return RowState(key, total, 0, limit, list(rights), list(nets))


def install(registry: Registry, snapshot: Snapshot, now_ms: int = START_MS) -> None:
    """Install a snapshot that must be of use."""
    assert registry.install(snapshot, INSTANCE, EPOCH, now_ms).is_installed


def member_of(registry: Registry, weight: Weight = WHOLE) -> Registry:
    """Give this replica a share in every partition."""
    for shard in registry.shards:
        install(registry, snapshot_of(partition=shard.partition, weight=weight))
    return registry


def event_of(number: int, *, rows: tuple[str, ...] = (), cost_nanos: int | None = 5) -> bytes:
    """Return an encoded event whose id holds `number`."""
    return encode_event(
        UsageEvent(
            number.to_bytes(16, "big"), bytes(16), 1, "settled", "chat.completions", START_MS, 10, 5, 200, False,
            "provider", TokenUsage(3, 4), cost_nanos, 1, 7, 5, "small", "", bytes(16),
            encode_attribution(Attribution("acme")), encode_rows(list(rows)),
        )
    )  # fmt: skip
