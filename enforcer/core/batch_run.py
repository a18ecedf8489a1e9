"""The run of the records that charge batches: numbered, cut, and closed when its day is over. Pure.

A run is a day's, because whoever counts forgets a run of which nothing was heard for 40 days: one that went on for ever
could be forgotten in the middle. Its numbers go on over restarts, since they are written with what they number.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from enforcer.core.adjustments import MAX_EVENTS_PER_RECORD
from enforcer.core.numbering import next_record
from schemas.batches import BATCHER, BatchRun
from schemas.usage import UsageEvent

DAY_MS = 24 * 3_600_000
FORGOTTEN_DAYS = 39
"""Whoever counts may have closed a run by itself that is older than this."""

Record = tuple[int, bytes]
"""(partition of `usage`, value)."""


def is_over(run: BatchRun, now_ms: int) -> bool:
    """Tell whether the day of a run with records is over."""
    return bool(run.seqs) and now_ms // DAY_MS > run.epoch


class Cutter:
    """Continues a run; `run` is the state behind what was cut."""

    def __init__(self, run: BatchRun, now_ms: int, policy_version: int) -> None:
        self.run = BatchRun(run.epoch, dict(run.seqs), copy.deepcopy(run.told))
        self._now_ms, self._version = now_ms, policy_version

    def renew(self) -> Iterator[Record]:
        """Yield the final records of a run whose day is over; another one begins, with the day that it is now."""
        day = self._now_ms // DAY_MS
        if day <= self.run.epoch:
            return
        if day - self.run.epoch <= FORGOTTEN_DAYS:
            for partition in sorted(self.run.seqs):
                yield self._record(partition, [], final=True)
        self.run = BatchRun(day, {}, {})

    def cut(self, partition: int, events: Sequence[UsageEvent]) -> Iterator[Record]:
        """Yield the records of events of one partition."""
        for first in range(0, len(events), MAX_EVENTS_PER_RECORD):
            yield self._record(partition, events[first : first + MAX_EVENTS_PER_RECORD])

    def _record(self, partition: int, events: Sequence[UsageEvent], final: bool = False) -> Record:
        return partition, next_record(BATCHER, self.run, partition, events, self._now_ms, self._version, final)
