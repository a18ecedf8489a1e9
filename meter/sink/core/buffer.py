"""What has been read of a partition and not yet inserted, and when it becomes a batch.

A batch is a contiguous range of offsets. Where it ends is decided here, by rows and by age, and written down before it
is inserted (see `mark`); nothing depends on it ending at the same place twice. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Entry(NamedTuple, Generic[T]):
    """A record of the log, decoded as far as needed to count its rows."""

    offset: int
    logged_ms: int
    record: T | None
    """None: nothing of it belongs into the table."""
    rows: int
    """At most this many rows."""


class Range(NamedTuple, Generic[T]):
    """A batch: all records from `first` to `last`, of which `entries` may have rows."""

    first: int
    last: int
    entries: list[Entry[T]]
    rows: int


class Buffer(Generic[T]):
    """The records of one partition that wait.

    Args:
        position: offset of the first record to come.
        max_rows: a batch is due with this many rows, and does not grow beyond them by more than a record.
        max_age_ms: a batch with rows is due when its first row has waited this long.
        resend_to: the first batch ends exactly here: it was begun before, and is to be the same again.
    """

    def __init__(self, position: int, max_rows: int, max_age_ms: int, resend_to: int | None = None) -> None:
        self.position = position
        self.resend_to = resend_to
        self._first = position
        self._max_rows = max_rows
        self._max_age_ms = max_age_ms
        self._entries: deque[Entry[T]] = deque()
        self._rows = 0
        self._oldest_ms: int | None = None

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    @property
    def first(self) -> int:
        """First offset that is in no batch yet."""
        return self._first

    def add(self, entry: Entry[T], now_ms: int) -> None:
        """Take in the next record. Its offset is at or after `position`; offsets may be missing on the log."""
        self.position = entry.offset + 1
        if entry.record is None:
            return
        self._entries.append(entry)
        self._rows += entry.rows
        if entry.rows and self._oldest_ms is None:
            self._oldest_ms = now_ms

    def age_ms(self, now_ms: int) -> int:
        """Return how long the oldest row has waited; 0 without one."""
        return 0 if self._oldest_ms is None else max(0, now_ms - self._oldest_ms)

    def is_due(self, now_ms: int) -> bool:
        """Whether a batch should be inserted now."""
        if self.resend_to is not None:
            return self.position > self.resend_to
        return self._rows >= self._max_rows or (
            self._oldest_ms is not None and now_ms - self._oldest_ms >= self._max_age_ms
        )

    def cut(self, now_ms: int) -> Range[T] | None:
        """Return the next batch and forget it; None if nothing was read since the last, or it is not whole yet."""
        if self.position == self._first or (self.resend_to is not None and not self.is_due(now_ms)):
            return None
        entries: list[Entry[T]] = []
        rows = 0
        while self._entries and self._belongs(self._entries[0], rows):
            entry = self._entries.popleft()
            entries.append(entry)
            rows += entry.rows
        last = self._last(entries)
        cut = Range(self._first, last, entries, rows)
        self._first = last + 1
        self._rows -= rows
        self._oldest_ms = now_ms if self._rows else None
        self.resend_to = None
        return cut

    def _belongs(self, entry: Entry[T], rows: int) -> bool:
        return rows < self._max_rows if self.resend_to is None else entry.offset <= self.resend_to

    def _last(self, entries: list[Entry[T]]) -> int:
        if self.resend_to is not None:
            return self.resend_to
        return entries[-1].offset if self._entries else self.position - 1
