"""The meter's rows, ledgers and members as of the last snapshots: a merge by fence.

A row is replaced only by a version at the same or a later fence, so that repeated, reordered or replayed snapshots,
and a meter that starts again a little earlier in the log, change nothing. A full snapshot, once all of its parts are
there, also ends what it does not mention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from schemas.errors import InvalidEvent
from schemas.quota import LedgerState, Member, RowState, Snapshot
from schemas.rows import Measure, RowKey, parse_row_key

MINUTE_ROW_KEPT_S = 180
"""Rows of minutes are dropped this long after their end, full snapshot or not: there are many of them."""


class Held(NamedTuple):
    """A row, and the fence it is of."""

    fence: int
    key: RowKey
    state: RowState


class Shard:
    """What is known of one partition."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.fence = 0
        self.publisher = ""
        self.published_ms = 0
        self.received_ms = 0
        """When its last snapshot was read; 0 if there was none."""
        self.log_ms = 0
        self.settled_fence = 0
        """The fence of the newest snapshot of which every part has been read."""
        self.whole = False
        """Whether a full snapshot has been read."""
        self.members: list[Member] = []
        self.rows: dict[str, Held] = {}
        self.ledger: dict[str, tuple[int, LedgerState]] = {}
        self._floor = 0
        self._full: tuple[str, int] | None = None
        self._parts = 0
        self._mentioned: set[str] = set()

    def merge(self, snapshot: Snapshot, received_ms: int) -> tuple[list[Held], list[LedgerState]]:
        """Take in a snapshot; return the rows and ledgers that it changed.

        Raises:
            InvalidEvent: a row's key is none.
        """
        if snapshot.fence >= self.fence:
            self.fence, self.members = snapshot.fence, snapshot.members
            self.publisher, self.log_ms = snapshot.publisher, snapshot.log_ms
        self.published_ms = max(self.published_ms, snapshot.published_ms)
        self.received_ms = max(self.received_ms, received_ms)
        if snapshot.fence < self._floor:
            return [], []
        rows = [held for state in snapshot.rows if (held := self._merge_row(snapshot.fence, state)) is not None]
        entries = [entry for entry in snapshot.ledger if self._merge_ledger(snapshot.fence, entry)]
        if snapshot.full:
            self._merge_full(snapshot)
        if snapshot.chunk == snapshot.chunks - 1:
            self.settled_fence = max(self.settled_fence, snapshot.fence)
        return rows, entries

    def drop_minutes(self, now_s: int) -> None:
        """Forget rows of minutes that ended a while ago."""
        ended = [
            row for row, held in self.rows.items()
            if held.key.window.period == "minute" and held.key.window.end + MINUTE_ROW_KEPT_S <= now_s
        ]  # fmt: skip
        for row in ended:
            del self.rows[row]

    def _merge_row(self, fence: int, state: RowState) -> Held | None:
        known = self.rows.get(state.row)
        if known is not None and (fence < known.fence or state == known.state):
            if fence > known.fence:
                self.rows[state.row] = known._replace(fence=fence)
            return None
        held = Held(fence, _parsed(state.row) if known is None else known.key, state)
        self.rows[state.row] = held
        return held

    def _merge_ledger(self, fence: int, entry: LedgerState) -> bool:
        known = self.ledger.get(entry.key)
        if known is not None and fence < known[0]:
            return False
        self.ledger[entry.key] = (fence, entry)
        return known is None or known[1] != entry

    def _merge_full(self, snapshot: Snapshot) -> None:
        run = (snapshot.publisher, snapshot.number)
        if snapshot.chunk == 0:
            self._full, self._parts = run, 0
            self._mentioned.clear()
        if self._full != run or snapshot.chunk != self._parts:
            self._full = None
            return
        self._parts += 1
        self._mentioned.update(state.row for state in snapshot.rows)
        self._mentioned.update(entry.key for entry in snapshot.ledger)
        if self._parts < snapshot.chunks:
            return
        fence = snapshot.fence
        kept = self._mentioned
        self.rows = {row: held for row, held in self.rows.items() if row in kept or held.fence > fence}
        self.ledger = {key: entry for key, entry in self.ledger.items() if key in kept or entry[0] > fence}
        self._floor, self.whole, self._full = max(self._floor, fence), True, None


class QuotaView:
    """All partitions, and what has changed since somebody last looked."""

    def __init__(self, partitions: int) -> None:
        self.shards = [Shard(number) for number in range(partitions)]
        self._changed: dict[str, Held] = {}
        self._accounts: dict[str, LedgerState] = {}

    def merge(self, snapshot: Snapshot, received_ms: int) -> bool:
        """Take in a snapshot; tell whether it changed a row or a ledger. InvalidEvent if it is none of ours."""
        if not 0 <= snapshot.partition < len(self.shards):
            raise InvalidEvent(f"a snapshot of partition {snapshot.partition}; there are {len(self.shards)}")
        rows, entries = self.shards[snapshot.partition].merge(snapshot, received_ms)
        self._changed.update((held.state.row, held) for held in rows if held.key.measure == Measure.COST)
        self._accounts.update((entry.key, entry) for entry in entries)
        return bool(rows or entries)

    def take_changed(self) -> tuple[list[Held], list[LedgerState]]:
        """Return the money rows and ledgers that changed since the last call."""
        changed = list(self._changed.values()), list(self._accounts.values())
        self._changed, self._accounts = {}, {}
        return changed

    def everything(self) -> tuple[list[Held], list[LedgerState]]:
        """Return all money rows and all ledgers."""
        rows = [held for held in self.rows() if held.key.measure == Measure.COST]
        return rows, [entry for shard in self.shards for _, entry in shard.ledger.values()]

    def rows(self) -> Iterator[Held]:
        """Yield all rows."""
        for shard in self.shards:
            yield from shard.rows.values()

    def find(self, row: str) -> Held | None:
        """Return the row with this key."""
        return next((shard.rows[row] for shard in self.shards if row in shard.rows), None)

    def housekeep(self, now_s: int) -> None:
        """Forget what nobody will ask for again."""
        for shard in self.shards:
            shard.drop_minutes(now_s)


def _parsed(row: str) -> RowKey:
    try:
        return parse_row_key(row)
    except ValueError as error:
        raise InvalidEvent(f"row {row!r}: {error}") from error
