"""Where to go on after a start or a rebalance: what to send again, and from which offset to read.

Four facts decide: the committed offset with its mark, the highest offset that the table holds, and where the log
begins and ends now. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from meter.sink.core.mark import Mark
from meter.sink.core.watermarks import Watermarks


class LogMismatch(Exception):
    """The table holds offsets that the log does not have: it is another log."""


@dataclass(frozen=True)
class Found:
    """What is known of a partition before it is taken up."""

    committed: int | None
    mark: Mark | None
    table_last: int | None
    """Highest offset of a row of this partition in the table."""
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
    mark = found.mark or Mark(None, Watermarks(complete=found.committed in (None, 0) and found.table_last is None))
    committed = found.committed or 0
    in_flight = mark.last if mark.last is not None and mark.last >= committed else None
    position = committed
    watermarks = mark.watermarks
    if in_flight is None and found.table_last is not None and found.table_last >= committed:
        # Inserted, but not committed, and the mark is gone: the table is the better witness, of rows alone.
        position, watermarks = found.table_last + 1, watermarks.after_a_loss()
    lost = max(0, found.log_start - position)
    if not lost:
        return Resume(position, in_flight, watermarks)
    if in_flight is not None and in_flight < found.log_start:
        in_flight = None
    # Where nothing was ever read, nothing was lost: the log is just older than this history.
    unread = found.committed is None and found.table_last is None
    return Resume(found.log_start, in_flight, watermarks.after_a_loss(), 0 if unread else lost)


def _check(found: Found) -> None:
    held = max(found.table_last if found.table_last is not None else -1, (found.committed or 0) - 1)
    if held >= found.log_end:
        raise LogMismatch(
            f"offset {held} has been read, but the log ends at {found.log_end}: the topic was made anew or truncated"
        )
