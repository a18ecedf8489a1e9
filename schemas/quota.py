"""What the meter publishes on `quota.updates`: rows at a fence, and the share of each replica in what is left."""

from __future__ import annotations

import msgspec

from schemas.usage import Totals


class Weight(msgspec.Struct, frozen=True, array_like=True):
    """A replica's share of the headroom of a row: `(headroom * num + off) // den`.

    Over replicas whose `num` sum to `den` and whose `off` are distinct and below `den`, the shares of any headroom
    sum to at most that headroom, and each share grows by at most one when the headroom does. The proof of the bound
    needs nothing else.
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
    low: int
    """The least total over the versions that some replica may still be using."""


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
