"""Which records of a partition count: each (instance, epoch, seq) once, by the same rule as the meter's fold.

A run of a replica sends records 1, 2, 3, … A record at or below its run's watermark is a duplicate; one that skips
some is held back, because the sender is bound to send them again in order; nothing of a run counts after its final
record. Pure: told of records in the order of the log.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Run = tuple[str, int]
"""(instance, epoch)."""


class Judgement(enum.Enum):
    """What is done with a record."""

    COUNTS = enum.auto()
    DUPLICATE = enum.auto()
    GAP = enum.auto()
    """Earlier records of its run are missing: held back, as the meter does."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """The last record of a run that counted."""

    seq: int = 0
    exact: bool = True
    """False: read from a table, which knows only records with events. More may have counted, none above the next."""
    closed: bool = False
    """The run's final record has counted."""


class Watermarks:
    """The watermarks of one partition, the most recently used last.

    Args:
        known: what is known of runs.
        complete: whether a run that is not among `known` has not been seen at all.
    """

    def __init__(self, known: Mapping[Run, Watermark] | Iterable[tuple[Run, Watermark]] = (), complete: bool = False):
        self._marks: dict[Run, Watermark] = dict(known)
        self.complete = complete

    def judge(self, run: Run, seq: int, final: bool = False) -> Judgement:
        """Say whether the record counts, and take note of it if it does."""
        mark = self._marks.pop(run, None) or Watermark(0, exact=self.complete)
        judgement = Judgement.COUNTS
        if mark.closed or seq <= mark.seq:
            judgement = Judgement.DUPLICATE
        elif mark.exact and seq > mark.seq + 1:
            judgement = Judgement.GAP
        else:
            mark = Watermark(seq, closed=final)
        self._marks[run] = mark
        return judgement

    def after_a_loss(self) -> Watermarks:
        """Return what is still known when records of the log were lost unseen: lower bounds."""
        loose = {run: Watermark(mark.seq, exact=False, closed=mark.closed) for run, mark in self._marks.items()}
        return Watermarks(loose, complete=False)

    def copy(self) -> Watermarks:
        """Return a copy that changes on its own."""
        return Watermarks(self._marks, self.complete)

    def items(self) -> list[tuple[Run, Watermark]]:
        """Return runs and watermarks, the most recently used last."""
        return list(self._marks.items())

    def merged(self, others: Mapping[Run, int]) -> Watermarks:
        """Return these, and of runs that are not among them what a table knows."""
        table = {run: Watermark(seq, exact=False) for run, seq in others.items() if run not in self._marks}
        return Watermarks({**table, **self._marks}, self.complete)
