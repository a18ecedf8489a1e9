"""What a simulated run is made of, and what its processes have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from ingress.core.admission import Registry, RowSpec
from ingress.core.plan import Hold, Plan
from schemas.codec import encode_attribution, encode_event
from schemas.keys import VirtualKey
from schemas.money import Price, Rates
from schemas.policy import Provider
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, UsageEvent
from schemas.windows import Period

MIDNIGHT_MS = 1_764_547_200_000
EDGE_MS = 2_000
"""A run begins so long before its edge."""
TICK_MS = 12
HEARTBEAT_MS = 250
LEASE_MS = 3_000
SELF_FENCE_MS = 2_500
FLUSH_MS = 400
POLL_MS = 15
BACKLOG = 3
TEAMS = ("red", "blue")
PARTS = {"org": (1, 1), "team": (2, 3), "pace": (1, 3)}
"""What each rule allows, as a part of the scenario's limit."""
UNLIMITED = 1_000_000_000
SLOTS_ROW = "slots/concurrency/org=acme"


@dataclass(frozen=True)
class Scenario:
    """What a run is made of; hypothesis shrinks every knob towards quiet."""

    seed: int = 0
    replicas: int = 2
    limit: int = 1_000
    """Of the organisation; the other rules allow parts of it (`PARTS`)."""
    biggest: int = 60
    """The largest reservation."""
    pressure_ms: int = 8
    """Mean time between requests, over all replicas."""
    wire_ms: int = 20
    """Longest one-way delay of a record."""
    news_ms: int = 40
    """Longest delay of a snapshot to a replica."""
    duplicates: float = 0.0
    meter_kills: int = 0
    kills: int = 0
    """Replicas that are killed and come back with their disk."""
    lost_disks: int = 0
    """Replicas that are killed and come back without it."""
    outages: int = 0
    """Replicas that are cut off for longer than their lease."""
    late_joins: int = 0
    leaves: int = 0
    misses: int = 0
    """Replicas that lose a snapshot."""
    waits_ms: int = 250
    """How long requests wait for room that others have."""
    paced: bool = True
    """Whether the rule by the minute limits anything."""
    slots: int = 0
    """How many requests of the organisation may be in flight; 0: any number."""
    limit_changes: int = 0
    """How often all limits change, each replica hearing of it at a moment of its own."""
    skew_ms: int = 0
    """By how much the clock of a replica may be wrong."""
    edge_s: int = 60
    """Which windows end two seconds after the start: those of a minute, of an hour or of a day."""
    stale: float = 0.0
    """How many of the snapshots arrive once more, late and out of order."""
    length_ms: int = 4_000

    @property
    def start_ms(self) -> int:
        """When the run begins."""
        return MIDNIGHT_MS + self.edge_s * 1_000 - EDGE_MS


@dataclass(eq=False)
class Request:
    """One admitted request: what it holds, and what it will turn out to have used."""

    run: tuple[str, int]
    keys: list[str]
    hold: Hold
    reserved: int
    actual: int
    plan: Plan
    open: bool = True
    running: bool = True
    """Its process lives and serves it."""
    logged: bool = False
    """Its terminal event is on the log."""
    given_up: bool = False
    since_ms: int = 0
    until_ms: int = 0

    @property
    def counts(self) -> int:
        """What it counts for in truth now."""
        return self.reserved if self.open else self.actual


class Record(NamedTuple):
    """A record as the sender has it."""

    epoch: int
    seq: int
    value: bytes
    requests: list[Request]
    """Whose terminal events are in it."""
    cut_ms: int
    """A late acknowledgement proves that the meter heard of the replica then, not now."""


@dataclass
class Disk:
    """What survives a replica's process: what is open, ended and not cut, cut and not acknowledged."""

    open: list[Request] = field(default_factory=list)
    ended: list[Request] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    seq: int = 0


def plan_of(registry: Registry, team: str) -> Plan:
    """Return a plan of four rows: the organisation's budget, the team's tokens by day and minute, what is in flight."""
    specs = (
        RowSpec(registry.ceiling("org", "cost"), "org/cost/org=acme/", "org=acme", "org/x", Period.DAY, "UTC"),
        RowSpec(
            registry.ceiling("team", "tokens"), f"team/tokens/org=acme,team={team}/", f"org=acme,team={team}",
            f"team/{team}", Period.DAY, "UTC",
        ),
        RowSpec(
            registry.ceiling("pace", "tokens"), f"pace/tokens/org=acme,team={team}/", f"org=acme,team={team}",
            f"pace/{team}", Period.MINUTE, "UTC",
        ),
        RowSpec(registry.ceiling("slots", "concurrency"), f"{SLOTS_ROW}/", "org=acme", "slots/x", Period.HOUR, "UTC"),
    )  # fmt: skip
    provider = Provider(protocol="openai", base_url="simulated")
    price = Price("test", "1", (Rates(0, 0, 0, 0, 0, 0, 0, 0, 0),))
    return Plan(
        key=VirtualKey(id="k", hash="", org="acme", team=team, created_ms=0), partition=0, provider="p",
        provider_config=provider, model="m", model_requested="m", price=price, reserve_price=price,
        max_output_tokens=1, attribution=encode_attribution(Attribution("acme", team=team)), registry=registry,
        specs=specs,
    )  # fmt: skip


def window_before(key: str) -> str:
    """Return the key of the window before that of `key`."""
    head, _, text = key.rpartition("@")
    start, _, length = text.partition("+")
    return f"{head}@{int(start) - int(length)}+{length}"


def event_of(request: Request, now_ms: int) -> msgspec.Raw:
    """Return the terminal event of a request."""
    used = request.actual
    event = UsageEvent(
        bytes(16), bytes(16), 1, "settled", "chat.completions", request.since_ms,
        max(1, (request.until_ms or now_ms) - request.since_ms), 1, 200, False, "provider",
        TokenUsage(used, 0), used, 1, used, used, "m", "", bytes(16), request.plan.attribution, request.hold.rows,
    )  # fmt: skip
    return msgspec.Raw(encode_event(event))
