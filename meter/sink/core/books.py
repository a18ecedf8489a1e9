"""What replicas say they have told their clients, as of the records that the sink has read. Pure.

Each record carries its run's sums so far. Those of the last record that counted are what the rows of the run must add
up to; a record that is held back says that something is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from meter.sink.core.watermarks import Run
from schemas.usage import Totals

MAX_RUNS = 10_000
"""Of a partition; the least recently heard of are forgotten beyond it."""


class Entry(NamedTuple):
    """The last record of a run that counted."""

    seq: int
    offset: int
    told: Totals


class Heard(NamedTuple):
    """What a batch says of the runs in it."""

    counted: Mapping[Run, Entry]
    held: Mapping[Run, int]
    """Offset of the first record that was held back, of runs that end with one."""


class Books:
    """What is known of the runs of one partition."""

    def __init__(self) -> None:
        self.entries: dict[Run, Entry] = {}
        self.held: dict[Run, int] = {}
        self.agreed: dict[Run, Entry] = {}
        """The last entry of a run that the rows were found to agree with."""

    def take(self, heard: Heard) -> None:
        """Take what a batch says, once it is inserted and committed."""
        for run, entry in heard.counted.items():
            self.entries.pop(run, None)
            self.entries[run] = entry
            self.held.pop(run, None)
        for run, offset in heard.held.items():
            self.held.setdefault(run, offset)
        while len(self.entries) > MAX_RUNS:
            gone = next(iter(self.entries))
            del self.entries[gone]
            self.agreed.pop(gone, None)

    def agree(self, run: Run) -> None:
        """Note that the rows of a run add up to what its last record says."""
        self.agreed[run] = self.entries[run]
