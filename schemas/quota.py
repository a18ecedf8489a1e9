"""What the meter publishes on `quota.updates`: rows at a fence, and what each replica may have in them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

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


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Which records of a run events are in: the range of their `seq` and of their offsets, both ends included."""

    first_seq: int
    last_seq: int
    first_offset: int
    last_offset: int


class LedgerState(msgspec.Struct, frozen=True, array_like=True):
    """Sums that do not depend on any rule.

    By `org=<org>/day=<YYYY-MM-DD>`, `instance=<id>/epoch=<n>`, or `instance=<id>/epoch=<n>/hour=<YYYY-MM-DDTHHZ>`.
    """

    key: str
    totals: Totals
    told: Totals | None
    """Of an instance: what it says it told its clients. None of an organisation's day, and of an hour."""
    place: Place | None = None
    """Of an hour: where its events are."""
    hours_from: int | None = None
    """Of an instance: each hour from this one on (counted from 1970) has an entry of the same fence, or no events.
    None: its hours are not kept."""


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


def run_key(instance: str, epoch: int) -> str:
    """Return the ledger key of a run."""
    return f"instance={instance}/epoch={epoch}"


def hour_key(run: str, hour: int) -> str:
    """Return the ledger key of an hour (counted from 1970) of the run with the key `run`."""
    return f"{run}/hour={hour_text(hour)}"


@lru_cache(maxsize=1_024)
def hour_text(hour: int) -> str:
    """Return an hour counted from 1970 as `YYYY-MM-DDTHHZ`."""
    return datetime.fromtimestamp(hour * 3_600, UTC).strftime("%Y-%m-%dT%HZ")


@lru_cache(maxsize=16_384)
def hour_of(key: str) -> tuple[str, int] | None:
    """Return the run's key and the hour (counted from 1970) in the ledger key of an hour; None if it is no such key."""
    run, found, text = key.rpartition("/hour=")
    if not found or not run.startswith("instance="):
        return None
    try:
        return run, int(datetime.strptime(text, "%Y-%m-%dT%HZ").replace(tzinfo=UTC).timestamp()) // 3_600
    except ValueError:
        return None
