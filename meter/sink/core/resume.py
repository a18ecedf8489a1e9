"""Where to go on after a start or a rebalance: what to send again, and from which offset to read.

Four facts decide: the committed offset with its mark, the last row that the table holds, and where the log begins and
ends now. Where the broker has forgotten the mark, the last row names the batch it came with: some of it may be missing.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from meter.sink.core.mark import Mark
from meter.sink.core.watermarks import Watermarks


class LogMismatch(Exception):
    """The table holds offsets that the log does not have: it is another log."""


class LastRow(NamedTuple):
    """The row of a partition with the highest offset."""

    offset: int
    batch_first: int = -1
    """First and last offset of the batch that it came with; -1 where the table does not know."""
    batch_last: int = -1
    logged_ms: int = 0
    """Broker time of its record."""


@dataclass(frozen=True)
class Found:
    """What is known of a partition before it is taken up."""

    committed: int | None
    mark: Mark | None
    last_row: LastRow | None
    log_start: int
    log_end: int
    """Offset of the next record to be written."""


@dataclass(frozen=True)
class Resume:
    """How to go on."""

    position: int
    """First offset to read."""
    resend_to: int | None
    """Last offset of the batch to be sent again from `position` on; None if there is none."""
    watermarks: Watermarks
    lost: int = 0
    """Offsets that the log dropped before they were read."""


def resume(found: Found) -> Resume:
    """Return how to go on; LogMismatch if the table cannot have come from this log."""
    _check(found)
    mark = found.mark or Mark(None, Watermarks(complete=found.committed in (None, 0) and found.last_row is None))
    committed = found.committed or 0
    in_flight = mark.last if mark.last is not None and mark.last >= committed else None
    position = committed
    watermarks = mark.watermarks
    row = found.last_row
    if in_flight is None and row is not None and row.offset >= committed:
        # Inserted, but not committed, and the mark is gone: the table is the better witness. Of its last batch some
        # months, or rollups, may be missing: sent again under its tokens, it is completed and not doubled.
        known = row.batch_first <= row.offset <= row.batch_last < found.log_end and row.batch_first >= 0
        position, in_flight = (row.batch_first, row.batch_last) if known else (row.offset + 1, None)
        watermarks = watermarks.after_a_loss()
    lost = max(0, found.log_start - position)
    if not lost:
        return Resume(position, in_flight, watermarks)
    if in_flight is not None and in_flight < found.log_start:
        in_flight = None
    # Where nothing was ever read, nothing was lost: the log is just older than this history.
    unread = found.committed is None and row is None
    return Resume(found.log_start, in_flight, watermarks.after_a_loss(), 0 if unread else lost)


def check_same_log(row: LastRow, logged_ms: int | None) -> None:
    """Raise LogMismatch if the record at the offset of `row` is another one: a topic that was made anew has grown.

    Args:
        row: the last row.
        logged_ms: the broker's time of the record at its offset; None if the log does not have it any more.
    """
    if logged_ms is not None and row.logged_ms and logged_ms != row.logged_ms:
        raise LogMismatch(
            f"the record at offset {row.offset} was written at {logged_ms} (unix ms), and the one that was read there "
            f"at {row.logged_ms}: the topic was made anew"
        )


def _check(found: Found) -> None:
    held = max(found.last_row.offset if found.last_row is not None else -1, (found.committed or 0) - 1)
    if held >= found.log_end:
        raise LogMismatch(
            f"offset {held} has been read, but the log ends at {found.log_end}: the topic was made anew or truncated"
        )
