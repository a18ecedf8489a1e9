"""Corrections of costs as events of the log: their ids, their events, and the records that they are cut into.

A correction moves no request and no token. It has the attribution, the rows and the moment of what it corrects, and an
amount that may be negative, so that every sum over events is that of the corrected costs and nothing is ever edited.
Its id follows from what it corrects, why, and what was posted before: the same correction is the same id, always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from enforcer.core.numbering import next_record
from schemas.adjusting import ADJUSTER, FIRST_PRICE
from schemas.batches import BatchRun
from schemas.codec import encode_attribution, encode_event, encode_rows
from schemas.ids import NO_ID, shard_of
from schemas.tokens import NO_TOKENS
from schemas.usage import Attribution, Detail, Kind, Status, UsageEvent, UsageSource

INSTANCE = f"enforcer{ADJUSTER}"
MAX_EVENTS_PER_RECORD = 256
MAX_RECORD_BYTES = 512 * 1024
MAX_NANOS = 10**18 - 1
"""The largest amount that the history can hold."""
MOST_MS = 10_413_792_000_000
"""Beyond all moments that the history can hold."""
MAX_TEXT = 512
MAX_ROWS = 256


class Target(msgspec.Struct, frozen=True, array_like=True):
    """Whom corrections belong to, and the rows that they are booked to."""

    attribution: Attribution
    rows: list[str]


class Adjustment(msgspec.Struct, frozen=True, array_like=True):
    """One correction. `target` is a place in the list of targets that it comes with."""

    id: bytes
    target: int
    occurred_ms: int
    """Of what it corrects."""
    operation: str
    cost_nanos: int
    """The difference of the cost."""
    charge_nanos: int
    """The difference of what money rows were charged: not the same where a reserve was charged in place of a cost."""
    note: str
    """The price or the invoice that says so."""
    corrects: bytes = NO_ID
    stands_for: int = 1
    first_price: bool = False
    """What it corrects had no cost."""
    list_cost_nanos: int | None = None


class Posting(msgspec.Struct, frozen=True):
    """Corrections of one batch of a posting."""

    targets: list[Target]
    adjustments: list[Adjustment]


def derived_id(*parts: object) -> bytes:
    """Return the 16 bytes that stand for `parts`; other parts give another id, and nothing else does."""
    text = "\x1f".join(f"{len(str(part))}:{part}" for part in parts)
    return hashlib.sha256(b"tollway.adjustment/1\x1f" + text.encode()).digest()[:16]


def problems(posting: Posting) -> list[str]:
    """Return everything that keeps a posting from being written; empty if nothing does."""
    found = [f"targets.{index}: {why}" for index, target in enumerate(posting.targets) if (why := _ill_target(target))]
    for index, adjustment in enumerate(posting.adjustments):
        if why := _ill_adjustment(adjustment, len(posting.targets)):
            found.append(f"adjustments.{index}: {why}")
    return found


def _ill_target(target: Target) -> str:
    if not target.attribution.org:
        return "org: missing; a correction belongs to an organisation"
    if len(target.rows) > MAX_ROWS:
        return f"rows: {len(target.rows)}, more than {MAX_ROWS}"
    long = next((row for row in target.rows if len(row) > MAX_TEXT), None)
    return "" if long is None else f"rows: {long[:80]!r}… is longer than {MAX_TEXT}"


def _ill_adjustment(adjustment: Adjustment, targets: int) -> str:
    if not 0 <= adjustment.target < targets:
        return f"target: {adjustment.target} is not one of the {targets} targets"
    if len(adjustment.id) != len(NO_ID) or len(adjustment.corrects) != len(NO_ID) or adjustment.id == NO_ID:
        return "id: write 16 bytes that are not all zero; corrects: 16 bytes"
    if not 0 <= adjustment.occurred_ms < MOST_MS:
        return f"occurred_ms: {adjustment.occurred_ms} is no moment between 1970 and 2299"
    amounts = (adjustment.cost_nanos, adjustment.charge_nanos, adjustment.list_cost_nanos or 0)
    if any(abs(amount) > MAX_NANOS for amount in amounts):
        return "cost_nanos: a billion USD or more"
    if adjustment.stands_for < 1:
        return f"stands_for: {adjustment.stands_for}; at least 1"
    if len(adjustment.note) > MAX_TEXT or len(adjustment.operation) > MAX_TEXT:
        return f"note, operation: longer than {MAX_TEXT}"
    return ""


class Cutter:
    """Cuts a posting's corrections into records, contiguous by partition; `close` ends the run."""

    def __init__(self, epoch: int, partitions: int) -> None:
        """Begin a run of its own.

        Args:
            epoch: greater than that of every run before.
            partitions: of the topic.
        """
        self._run = BatchRun(epoch, {}, {})
        self._partitions = partitions

    def cut(self, posting: Posting, now_ms: int) -> Iterator[tuple[int, bytes]]:
        """Yield the records of a posting in the order in which they are to be written, as (partition, value)."""
        attributions = [encode_attribution(target.attribution) for target in posting.targets]
        rows = [encode_rows(target.rows) for target in posting.targets]
        waiting: dict[int, list[UsageEvent]] = {}
        for adjustment in posting.adjustments:
            place = adjustment.target
            partition = shard_of(posting.targets[place].attribution.org, self._partitions)
            waiting.setdefault(partition, []).append(event_of(adjustment, attributions[place], rows[place]))
        for partition, events in sorted(waiting.items()):
            yield from ((partition, self._record(partition, part, now_ms)) for part in _parts(events))

    def close(self, now_ms: int) -> Iterator[tuple[int, bytes]]:
        """Yield the final record of every partition that this run has written to."""
        for partition in sorted(self._run.seqs):
            yield partition, self._record(partition, [], now_ms, final=True)

    def _record(self, partition: int, events: Sequence[UsageEvent], now_ms: int, final: bool = False) -> bytes:
        return next_record(INSTANCE, self._run, partition, events, now_ms, final=final)


def event_of(adjustment: Adjustment, attribution: msgspec.Raw, rows: msgspec.Raw) -> UsageEvent:
    """Return a correction as an event."""
    detail = Detail(
        kind=Kind.ADJUSTMENT.value, stands_for=adjustment.stands_for, corrects=adjustment.corrects,
        note=adjustment.note, list_cost_nanos=adjustment.list_cost_nanos,
        flags=(FIRST_PRICE,) if adjustment.first_price else (),
    )  # fmt: skip
    return UsageEvent(
        adjustment.id, adjustment.id, 1, Status.SETTLED.value, adjustment.operation, adjustment.occurred_ms, 0, -1, 0,
        False, UsageSource.PROVIDER.value, NO_TOKENS, adjustment.cost_nanos, 0, 0, adjustment.charge_nanos, "", "",
        NO_ID, attribution, rows, detail,
    )  # fmt: skip


def _parts(events: Sequence[UsageEvent]) -> Iterator[list[UsageEvent]]:
    """Yield `events` in parts, each small enough for a record."""
    part: list[UsageEvent] = []
    size = 0
    for event in events:
        length = len(encode_event(event))
        if part and (len(part) >= MAX_EVENTS_PER_RECORD or size + length > MAX_RECORD_BYTES - 4_096):
            yield part
            part, size = [], 0
        part.append(event)
        size += length
    if part:
        yield part
