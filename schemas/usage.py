"""What an ingress writes to the `usage` topic: one record a tick and partition, holding many events.

A record is a `Batch` of one replica, or an `Evict` by the meter. Its identity is (instance, epoch, partition, seq);
`seq` is contiguous from 1 within (instance, epoch, partition), which is what makes each event count once.
The bytes are frozen by golden files: a change of meaning or order needs a new version in `schemas.codec`.
"""

from __future__ import annotations

import enum

import msgspec

from schemas.ids import NO_ID
from schemas.tokens import NO_TOKENS, TokenUsage


class Status(enum.StrEnum):
    """How an attempt ended."""

    SETTLED = "settled"
    """Answered, and its usage is known or estimated."""
    REFUSED = "refused"
    """Never sent to a provider: bad input, no key, no room, blocked."""
    FAILED = "failed"
    """The provider failed: error status, reset, timeout, garbage."""
    CANCELLED = "cancelled"
    """The client hung up."""
    UNKNOWN = "unknown"
    """In flight when its replica died: charged as reserved, cost unknown."""


class UsageSource(enum.StrEnum):
    """Where the token counts come from."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"
    NONE = "none"
    """Nothing was used: refused, or failed before the provider answered."""


class Attribution(msgspec.Struct, frozen=True, array_like=True):
    """Whom an event belongs to and what it was priced with, as it was at admission."""

    org: str = ""
    project: str = ""
    team: str = ""
    user: str = ""
    key_id: str = ""
    provider: str = ""
    model: str = ""
    """The served model: what limits match and prices apply to."""
    model_requested: str = ""
    tags: dict[str, str] = {}
    policy_version: int = 0
    price_version: str = ""
    """Empty when the model has no price."""


class Kind(enum.StrEnum):
    """What an event is about."""

    USAGE = "usage"
    """One attempt."""
    FOLDED = "folded"
    """Several attempts of one key, model, status and hour: a replica whose disk was full kept their sums only."""
    ADJUSTMENT = "adjustment"
    """A correction of costs: no request and no tokens, and an amount that may be negative."""


class Detail(msgspec.Struct, frozen=True, array_like=True):
    """What few events have to say beyond the rest."""

    units: dict[str, int] = {}
    """Billed beside tokens, by the names of `schemas.units`."""
    service_tier: str = ""
    """The tier that served the answer, if it has prices of its own: `flex`, `priority`, `batch`, …"""
    list_cost_nanos: int | None = None
    """At list prices, where `cost_nanos` is at others."""
    flags: tuple[str, ...] = ()
    """Reason codes of what was odd about the reported usage, or about how the answer was read to its end."""
    kind: str = "usage"
    """A `Kind`."""
    stands_for: int = 1
    """How many events were folded into this one."""
    corrects: bytes = NO_ID
    """The event that an adjustment corrects; 16 zero bytes where it corrects a sum."""
    note: str = ""
    """Why it was adjusted: the price or the invoice that says so."""


class UsageEvent(msgspec.Struct, frozen=True, array_like=True):
    """The terminal fact of one attempt. `attribution` and `rows` are encoded once a plan, not once an event."""

    id: bytes
    """UUIDv7, 16 bytes; primary key in every store."""
    request_id: bytes
    """Shared by the attempts of one request."""
    attempt: int
    status: str
    """A `Status`."""
    operation: str
    """`chat.completions`, `embeddings`, `messages`, …"""
    occurred_ms: int
    """Admission, unix ms; windows are those of this moment."""
    duration_ms: int
    ttft_ms: int
    """First byte of the answer after admission; -1 without one."""
    http_status: int
    """What the client was told; 0 if it was gone."""
    streamed: bool
    usage_source: str
    """A `UsageSource`."""
    usage: TokenUsage
    cost_nanos: int | None
    """None: the price or the usage is unknown. 0 is free."""
    charge_requests: int
    """What request rows book."""
    charge_tokens: int
    """What token rows book."""
    charge_nanos: int
    """What money rows book: the cost, or the reserve where the cost is unknown."""
    model_reported: str
    error: str
    """A short reason code without client data; empty if there is none."""
    decision_id: bytes
    """The refusal's decision, or 16 zero bytes."""
    attribution: msgspec.Raw
    """An encoded `Attribution`."""
    rows: msgspec.Raw
    """An encoded list of row keys (text) that the charges are booked to."""
    detail: Detail | None = None
    """None for most events."""


class Gauge(msgspec.Struct, frozen=True, array_like=True):
    """The absolute in-flight reservation of one replica in one row; also marks the row as touched."""

    row: str
    inflight: int
    limit: int = -1
    """The limit of the row as this replica's policy has it, in the row's unit; -1: it does not know."""


class Want(msgspec.Struct, frozen=True, array_like=True):
    """Room that requests wait for in one row: absolute, so the last word counts; 0 when nobody waits any more."""

    row: str
    amount: int
    """The room that all of them need."""
    head: int
    """The room that the first of them needs: less is of no use."""
    limit: int = -1
    """As in a gauge."""


class Totals(msgspec.Struct, array_like=True):
    """Sums over events: what two ledgers are compared by. Integers only."""

    events: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    """Sum of the known costs."""
    unpriced: int = 0
    """Events with tokens and without a known cost."""
    charge_nanos: int = 0

    def add(self, event: UsageEvent) -> None:
        """Add one event."""
        usage = event.usage
        self.events += 1 if event.detail is None else event.detail.stands_for
        self.requests += event.charge_requests
        self.charge_nanos += event.charge_nanos
        if usage is not NO_TOKENS:
            self.input_tokens += usage.all_input
            self.output_tokens += usage.all_output
        if event.cost_nanos is None:
            self.unpriced += 1 if event.detail is None else event.detail.stands_for
        else:
            self.cost_nanos += event.cost_nanos

    def include(self, sums: Totals) -> None:
        """Add sums of other events."""
        self.events += sums.events
        self.requests += sums.requests
        self.input_tokens += sums.input_tokens
        self.output_tokens += sums.output_tokens
        self.cost_nanos += sums.cost_nanos
        self.unpriced += sums.unpriced
        self.charge_nanos += sums.charge_nanos


class Batch(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One tick of one replica in one partition."""

    instance: str
    epoch: int
    seq: int
    ack: int
    """The highest snapshot fence this replica has installed for this partition; 0 for none."""
    cut_ms: int
    policy_version: int
    final: bool
    """The last record of this epoch: its in-flight gauges end with it."""
    gauges: list[Gauge]
    wants: list[Want]
    """Room that requests wait for; only what has changed."""
    told: Totals
    """What this epoch has told clients in this partition so far, this record included."""
    events: list[msgspec.Raw]
    """Encoded `UsageEvent`s."""


class Evict(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The meter's word that a replica is gone: its rate gauges are dropped, its money gauges stay charged."""

    instance: str
    epoch: int
    reason: str


LogRecord = Batch | Evict
