"""What the history says of itself on `audits`: its sums, and where its ledgers differ. One record a partition.

The enforcer compares these with the meter's ledger and raises the alert; nobody else has to.
"""

from __future__ import annotations

import msgspec

from schemas.quota import Place
from schemas.usage import Totals


class RunSums(msgspec.Struct, frozen=True, omit_defaults=True):
    """The history's sums of one run of a replica in one partition."""

    instance: str
    epoch: int
    last_seq: int
    """The highest `seq` with events that it has."""
    sums: Totals
    told: Totals | None = None
    """What the last of the run's records that it has read said; None if it has read none since it was started."""
    last_offset: int = -1
    """The highest offset with events of the run that it has; -1: not known."""


class HourSums(msgspec.Struct, frozen=True, array_like=True):
    """The history's sums of one run of a replica and one hour in one partition."""

    instance: str
    epoch: int
    hour: int
    """Counted from 1970."""
    sums: Totals
    place: Place


class DaySums(msgspec.Struct, frozen=True, array_like=True):
    """The history's sums of one organisation and day, of all partitions."""

    org: str
    day: int
    """Counted from 1970."""
    sums: Totals


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Two ledgers that do not agree: on what, where, and by how much."""

    ledgers: str
    """`told ≠ history`, `history ≠ usage_hourly`, …: which two, the one that is believed first."""
    key: str
    """`instance=…/epoch=…`, `instance=…/epoch=…/hour=…`, `org=…/hour=…` or `org=…/day=…`."""
    fields: dict[str, list[int]]
    """By name of a sum: what the first and the second have."""
    partition: int = -1
    first_seq: int = 0
    last_seq: int = 0
    first_offset: int = -1
    last_offset: int = -1
    """The range that differs, both ends included; -1: not known."""
    month: int = 0
    """YYYYMM of the rows; 0 where they may be of several."""
    remedy: str = ""
    """`rebuild`, `insert`, `deduplicate`; empty where there is none."""

    @property
    def text(self) -> str:
        """The difference in words."""
        where = f" partition {self.partition}" if self.partition >= 0 else ""
        seqs = f" seq {self.first_seq} to {self.last_seq}" if self.last_seq else ""
        offsets = f" offsets {self.first_offset} to {self.last_offset}" if self.last_offset >= 0 else ""
        sums = ", ".join(f"{name} {one} and {two}" for name, (one, two) in self.fields.items())
        return f"{self.ledgers}: {self.key}{where}{seqs}{offsets}: {sums}"


class Audit(msgspec.Struct, frozen=True, omit_defaults=True):
    """The newest audit of a partition."""

    partition: int
    at_ms: int
    position: int
    """Everything below this offset is in the history."""
    runs: list[RunSums] = []
    differences: list[Difference] = []
    hours: list[HourSums] = []
    """Of every run of the partition, also of one that is not among `runs`."""
    hours_from: int | None = None
    """Every hour from this one on is told, or has no events; None: none is told."""
    days: list[DaySums] = []
    """An organisation is told of in one partition, whichever its events are in."""
    days_from: int | None = None
    """Every day from this one on is told, by the audits of all partitions with the same `at_ms` together, or has no
    events; None: none is told."""
