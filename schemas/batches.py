"""Batches of requests that a provider works on by itself: what replicas saw of them, and what was charged.

A replica tells on `batches` what passed through it: that a batch was created, how it stands, which lines a file of
results has. It tells that before its client gets the last byte. Telling the same again, anywhere, changes nothing: the
enforcer charges each line, or each batch as a whole, once. It alone knows what was charged; `batches.charged` is its
memory.
"""

from __future__ import annotations

import hashlib

import msgspec

from schemas.tokens import TokenUsage
from schemas.usage import Totals

BATCHER = "enforcer-batches/adjust"
"""The instance of records with usage of batches: an adjuster, which admits nothing and has no right in any row."""
LINES_PER_RECORD = 500
"""A replica tells of no more lines than this in one record."""


class BatchSeen(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A batch as a provider's answer described it."""

    provider: str
    """Name under `providers` of the policy."""
    batch_id: str
    seen_ms: int
    attribution: msgspec.Raw
    """An encoded `Attribution` of who asked; its models are those of the account."""
    is_created: bool = False
    """Whether this is the answer to its creation: who asked is whom it belongs to."""
    operation: str = ""
    """What its lines are, by the names of `schemas.operations`; empty if the answer does not say it."""
    is_over: bool = False
    """Whether nothing more will be done for it: completed, failed, cancelled, expired, ended."""
    ended_ms: int = 0
    """When it was over; 0: not known."""
    file_ids: tuple[str, ...] = ()
    """Files with its results."""
    model: str = ""
    """As the provider names it; empty if the answer does not say it."""
    total: TokenUsage | None = None
    """What all of it used; None: the answer does not say it."""
    requests: int = 0
    """How many of its requests were answered, as far as the answer says."""
    flags: tuple[str, ...] = ()
    """What was odd about the usage."""


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A request of a batch that was answered."""

    id: bytes
    """`line_id`: 16 bytes, unique within its batch."""
    model: str
    """As the answer names it."""
    usage: TokenUsage | None
    """None: the answer does not say it, or not so that it can be read."""
    occurred_ms: int = 0
    """When it was answered; 0: not known."""
    operation: str = ""
    """By its own answer; empty: that of its batch."""
    service_tier: str = ""
    units: dict[str, int] = {}
    flags: tuple[str, ...] = ()


class LinesSeen(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Lines of results of one batch, as many as fit."""

    provider: str
    batch_id: str
    """Empty where only the file is known."""
    file_id: str
    """Empty where the provider has no files."""
    seen_ms: int
    attribution: msgspec.Raw
    lines: list[Line]


Sighting = BatchSeen | LinesSeen


class Book(msgspec.Struct, array_like=True):
    """What is known of one batch."""

    provider: str
    batch_id: str
    attribution: msgspec.Raw
    """Of whom it belongs to."""
    is_owned: bool
    """Whether it was created through us; else it belongs to who was seen first with it."""
    first_seen_ms: int
    operation: str = ""
    model: str = ""
    is_over: bool = False
    ended_ms: int = 0
    file_ids: tuple[str, ...] = ()
    charged: str = ""
    """`total`: as a whole, and none of its lines ever; `lines`: by line; empty: not yet."""
    requests: int = 0
    """Charged so far."""
    tokens: int = 0
    cost_nanos: int = 0
    """Of those whose cost is known."""
    unpriced: int = 0
    total_requests: int = 0
    """As the provider told it."""


class BatchRun(msgspec.Struct, array_like=True):
    """The state of the batcher's run behind a step."""

    epoch: int = 0
    """Unix day: a run is a day's."""
    seqs: dict[int, int] = {}
    """By partition of `usage`: the last number."""
    told: dict[int, Totals] = {}


class Step(msgspec.Struct, array_like=True):
    """What one sighting has changed: written before its records are, and again without them when they are on the log.

    `batches.charged` has it under `step/<position>/<epoch>/<records of the run>`, a key that no other step has. Who
    finds records in the last version of a step writes them again, which counts once.
    """

    position: int
    """Sightings below this offset are dealt with; one with too many lines for a step has several."""
    book: Book
    """As it is behind the step."""
    line_ids: bytes
    """Ids of the lines that it charges, 16 bytes each."""
    run: BatchRun
    """As it is behind the step."""
    records: list[tuple[int, bytes]]
    """(partition, value) on `usage`; empty once they are there."""


def line_id(text: str) -> bytes:
    """Return what stands for a line's own name (`custom_id`), which may be anything and is not ours to keep."""
    return hashlib.sha256(b"tollway.batch-line/1\x1f" + text.encode()).digest()[:16]
