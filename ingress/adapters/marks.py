"""What the frames of the log say beside events: cuts, checkpoints, and how far a partition has come.

A partition's events have numbers, from 1 in each run, and so have its decisions. Numbers are never used again: where
events were folded into fewer, a `SKIP` frame says which numbers are not there.

Knows no files.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from schemas.tokens import TokenUsage
from schemas.usage import Detail, Gauge, Totals

ID = slice(5, 21)
"""Where an encoded event has its id."""
MAX_RECORD_BYTES = 512 * 1024
"""Of events in a record; brokers take 1 MiB by default, and gauges come on top."""


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """A record as it was cut: everything of it but its gauges and events. The cuts before it are acknowledged."""

    epoch: int
    seq: int
    through: int
    """Number of the last event in it; events of a partition are counted from 1 in each run."""
    ack: int
    cut_ms: int
    policy_version: int
    final: bool
    told: Totals
    decisions: int
    """How many decisions of the partition the broker had acknowledged."""


class EpochState(msgspec.Struct, array_like=True):
    """How far an epoch has come in a partition."""

    epoch: int
    seq: int
    told: Totals
    final: bool = False


class LaneState(msgspec.Struct, array_like=True):
    """Where a partition stands in the log of a run."""

    events: int = 0
    """Written so far."""
    decisions: int = 0
    through: int = 0
    """Cut so far."""
    sent: int = 0
    """Acknowledged so far."""
    sent_decisions: int = 0
    last: Cut | None = None
    """The record in flight: cut, and not known to be acknowledged."""
    epochs: list[EpochState] = []
    """Those that are not known to be over, oldest first."""


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Begins every segment: what the segments before it said, which may be gone."""

    instance: str
    epoch: int
    lanes: list[LaneState]
    folded: bool = False
    """Whether this segment replaces all that are before it: they do not count any more, should they still exist."""


class Outgoing(NamedTuple):
    """A record that is ready to be sent."""

    epoch: int
    seq: int
    value: bytes
    carries_usage: bool = False
    """Whether it changes rows: the meter publishes that at once."""


class Charged(msgspec.Struct, frozen=True, array_like=True):
    """A `schemas.usage.UsageEvent`, decoded as far as `Totals` needs it."""

    id: msgspec.Raw
    request_id: msgspec.Raw
    attempt: int
    status: msgspec.Raw
    operation: msgspec.Raw
    occurred_ms: int
    duration_ms: int
    ttft_ms: int
    http_status: int
    streamed: bool
    usage_source: msgspec.Raw
    usage: TokenUsage
    cost_nanos: int | None
    charge_requests: int
    charge_tokens: int
    charge_nanos: int
    model_reported: msgspec.Raw
    error: msgspec.Raw
    decision_id: msgspec.Raw
    attribution: msgspec.Raw
    rows: msgspec.Raw
    detail: Detail | None = None


NO_GAUGES: list[Gauge] = []
UNBOUNDED = 1 << 62
encode = msgspec.msgpack.Encoder().encode
cuts = msgspec.msgpack.Decoder(Cut)
checkpoints = msgspec.msgpack.Decoder(Checkpoint)
skips = msgspec.msgpack.Decoder(int)
"""Of a `SKIP` frame: the number of the last event that is left out."""
_charged = msgspec.msgpack.Decoder(Charged)


def tell(told: Totals, events: list[bytes]) -> Totals:
    """Return new totals: `told` and `events`."""
    totals = msgspec.structs.replace(told)
    for event in events:
        totals.add(_charged.decode(event))  # type: ignore[arg-type]  # has every field that `add` reads
    return totals
