"""What each topic becomes: how a record is read, and how a batch of records becomes rows of a table.

Joins the pure choice of records to the making of Arrow tables. Must not know Kafka or ClickHouse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from meter.sink.core.books import Heard
from meter.sink.core.buffer import Entry
from meter.sink.core.records import UsageRecord, choose, decisions_entry, place, usage_entry
from meter.sink.core.watermarks import Watermarks
from meter.sink.rows import DECISIONS_TABLE, USAGE_TABLE, DecisionRows, Source, Tables, UsageRows
from schemas.codec import encode_event
from schemas.decisions import Decision

T = TypeVar("T")


class Rejected(NamedTuple):
    """Part of a record that decodes and that no row can hold."""

    offset: int
    reason: str
    value: bytes


@dataclass(frozen=True)
class Converted:
    """What became of a batch."""

    tables: Tables
    duplicates: int = 0
    gaps: int = 0
    undecodable: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    heard: Heard = field(default_factory=lambda: Heard({}, {}))
    """What the records say of their runs."""


class Feed(Protocol[T]):
    """A topic as the sink sees it. `T` is a record, decoded as far as its rows are counted."""

    table: str

    def entry(self, offset: int, logged_ms: int, value: bytes) -> Entry[T]:
        """Return a record as it waits; DecodeError if it is none."""

    def convert(self, entries: Sequence[Entry[T]], watermarks: Watermarks) -> Converted:
        """Return the rows of a batch and note in `watermarks` what counted. CPU work: call it in a thread.

        The same entries and watermarks give the same rows.
        """


class UsageFeed:
    """`usage` → `usage_events`: each (instance, epoch, seq) once."""

    table = USAGE_TABLE

    def __init__(self, source: Source) -> None:
        self._rows = UsageRows(source)

    def entry(self, offset: int, logged_ms: int, value: bytes) -> Entry[UsageRecord]:
        """See `Feed`."""
        return usage_entry(offset, logged_ms, value)

    def convert(self, entries: Sequence[Entry[UsageRecord]], watermarks: Watermarks) -> Converted:
        """See `Feed`."""
        chosen = choose(entries, watermarks)
        tables = self._rows.tables(chosen.events)
        rejected = [
            Rejected(placed.offset, f"event {placed.number} of the record: {reason}", encode_event(placed.event))
            for number, reason in tables.unstorable
            for placed in (chosen.events[number],)
        ]
        heard = Heard(chosen.counted, chosen.held)
        return Converted(tables, chosen.duplicates, chosen.gaps, chosen.undecodable, rejected, heard)


class DecisionsFeed:
    """`decisions` → `enforcement_decisions`. Told apart by their ids alone."""

    table = DECISIONS_TABLE

    def __init__(self, source: Source) -> None:
        self._rows = DecisionRows(source)

    def entry(self, offset: int, logged_ms: int, value: bytes) -> Entry[list[Decision]]:
        """See `Feed`."""
        return decisions_entry(offset, logged_ms, value)

    def convert(self, entries: Sequence[Entry[list[Decision]]], watermarks: Watermarks) -> Converted:
        """See `Feed`. Watermarks are of no use here: decisions carry none."""
        placed = place(entries)
        tables = self._rows.tables(placed)
        rejected = [
            Rejected(found.offset, f"decision {found.number} of the record: {reason}", b"")
            for number, reason in tables.unstorable
            for found in (placed[number],)
        ]
        return Converted(tables, rejected=rejected)


AnyFeed = Feed[Any]
