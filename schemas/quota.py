"""What the meter publishes on `quota.updates`: rows at a fence, and what each replica may have in them."""

from __future__ import annotations

import msgspec

from schemas.usage import Totals


class Weight(msgspec.Struct, frozen=True, array_like=True):
    """A replica's part of a row that the meter has not seen yet: `(limit * num + off) // den`.

    Over replicas whose `num` sum to `den` and whose `off` are distinct and below `den`, the parts of any limit sum to
    at most that limit. The proof of the bound needs nothing else.
    """

    num: int = 0
    den: int = 1
    off: int = 0

    def share(self, headroom: int) -> int:
        """Return this replica's part of a non-negative `headroom`; nothing of a negative one."""
        return (headroom * self.num + self.off) // self.den if headroom > 0 and self.num else 0


NO_WEIGHT = Weight()


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A live replica of one partition as of a fence."""

    instance: str
    epoch: int
    hw: int
    """Last `seq` of this epoch that is in the rows."""
    weight: Weight


class RowState(msgspec.Struct, frozen=True, array_like=True):
    """A row as of a fence. Its total is `settled + inflight`."""

    row: str
    settled: int
    inflight: int
    limit: int = -1
    """What the rights were given out of: the limit in force on the log, in the row's unit. -1: nobody has told it
    yet; then nobody has a right, and each replica has its part of the limit less what is in the row."""
    rights: list[int] = []
    """What each replica may have in the row in all, settled and in flight, in the order of the snapshot's members.
    Rights only move by way of the log: their sum, with what gone replicas have used, is at most `limit`."""
    nets: list[int] = []
    """What the total holds of each replica, in the same order."""


class LedgerState(msgspec.Struct, frozen=True, array_like=True):
    """Sums that do not depend on any rule: by `org=<org>/day=<YYYY-MM-DD>` or `instance=<id>/epoch=<n>`."""

    key: str
    totals: Totals
    told: Totals | None
    """Of an instance: what it says it told its clients. None of an organisation's day."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """What changed in one partition since the publisher's last snapshot, or everything if `full`."""

    partition: int
    publisher: str
    """Unique per run of a meter worker."""
    number: int
    """Counts the publisher's snapshots of this partition from 1."""
    fence: int
    """The state is the fold of the log below this offset."""
    published_ms: int
    log_ms: int
    """Broker time of the last record folded."""
    full: bool
    chunk: int
    chunks: int
    """A snapshot may come in several records; it is installed, and may be acknowledged, with the last."""
    members: list[Member]
    rows: list[RowState]
    ledger: list[LedgerState]
