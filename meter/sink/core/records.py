"""Records of both topics as the sink reads them: decoded as far as rows are counted, and chosen for a batch. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from meter.sink.core.books import Entry as Told
from meter.sink.core.buffer import Entry
from meter.sink.core.watermarks import Judgement, Run, Watermarks
from schemas.adjusting import is_adjustment
from schemas.codec import decode_decisions, decode_record
from schemas.decisions import Decision
from schemas.usage import Batch, Totals, UsageEvent

_decode = msgspec.msgpack.Decoder(UsageEvent).decode
"""As `schemas.codec.decode_event`; this is called for every event."""


class UsageRecord(NamedTuple):
    """A batch of a replica; its events are still encoded."""

    instance: str
    epoch: int
    seq: int
    final: bool
    events: list[msgspec.Raw]
    told: Totals


class PlacedEvent(NamedTuple):
    """An event and where it is in the log."""

    event: UsageEvent
    instance: str
    epoch: int
    seq: int
    offset: int
    number: int
    logged_ms: int


class PlacedDecision(NamedTuple):
    """A decision and where it is in the log."""

    decision: Decision
    offset: int
    number: int
    logged_ms: int


@dataclass
class Chosen:
    """What of a batch goes into the table, and what does not."""

    events: list[PlacedEvent] = field(default_factory=list)
    duplicates: int = 0
    """Records that had counted before."""
    gaps: int = 0
    """Records held back."""
    undecodable: int = 0
    """Events within records that are none of ours; the meter sets their records aside."""
    counted: dict[Run, Told] = field(default_factory=dict)
    """The last record of each run that counted."""
    held: dict[Run, int] = field(default_factory=dict)
    """Where a run's records are held back, with none behind that counts."""


def usage_entry(offset: int, logged_ms: int, value: bytes) -> Entry[UsageRecord]:
    """Return a record of `usage` as it waits; DecodeError if it is none."""
    record = decode_record(value)
    if not isinstance(record, Batch):
        return Entry(offset, logged_ms, None, 0)
    usage = UsageRecord(record.instance, record.epoch, record.seq, record.final, record.events, record.told)
    return Entry(offset, logged_ms, usage, len(record.events))


def decisions_entry(offset: int, logged_ms: int, value: bytes) -> Entry[list[Decision]]:
    """Return a record of `decisions` as it waits; DecodeError if it is none."""
    decisions = decode_decisions(value)
    return Entry(offset, logged_ms, decisions, len(decisions))


def choose(entries: Iterable[Entry[UsageRecord]], watermarks: Watermarks) -> Chosen:
    """Return the events that count, in order, and note in `watermarks` what did.

    The same entries and watermarks give the same events, always: this is what makes a batch that is sent again the
    batch that it was.
    """
    chosen = Chosen()
    for entry in entries:
        record = entry.record
        if record is None:
            continue
        run = (record.instance, record.epoch)
        judgement = watermarks.judge(run, record.seq, record.final)
        if judgement is Judgement.DUPLICATE:
            chosen.duplicates += 1
        elif judgement is Judgement.GAP:
            chosen.gaps += 1
            chosen.held.setdefault(run, entry.offset)
        else:
            chosen.counted[run] = Told(record.seq, entry.offset, record.told)
            chosen.held.pop(run, None)
            _take(entry, record, chosen)
    return chosen


def _take(entry: Entry[UsageRecord], record: UsageRecord, chosen: Chosen) -> None:
    offset, logged_ms, (instance, epoch, seq, _, raws, _) = entry.offset, entry.logged_ms, record
    try:
        numbered = list(enumerate(map(_decode, raws)))
    except msgspec.MsgspecError:
        numbered = list(_readable(raws))
    # The sign of a bitwise or is negative if any of its operands is; the meter leaves these out too.
    kept = [
        PlacedEvent(event, instance, epoch, seq, offset, number, logged_ms)
        for number, event in numbered
        if (event.charge_requests | event.charge_tokens | event.charge_nanos) >= 0 or is_adjustment(event)
    ]
    chosen.events += kept
    chosen.undecodable += len(raws) - len(kept)


def _readable(raws: Iterable[msgspec.Raw]) -> Iterator[tuple[int, UsageEvent]]:
    for number, raw in enumerate(raws):
        try:
            yield number, _decode(raw)
        except msgspec.MsgspecError:
            continue


def place(entries: Iterable[Entry[list[Decision]]]) -> list[PlacedDecision]:
    """Return the decisions of a batch, in order."""
    return [
        PlacedDecision(decision, entry.offset, index, entry.logged_ms)
        for entry in entries
        for index, decision in enumerate(entry.record or ())
    ]
