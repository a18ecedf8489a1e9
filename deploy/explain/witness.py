"""What the log says about a decision: the state at its fence, and what the replica told before and after it. Pure.

The records of a partition are folded by the meter's own fold. At the decision's fence the state is what the replica
had installed; beyond it the replica's own records are followed until the first one that it cut after the decision,
because the replica knew its own part at once and the log a tick later.
"""

from __future__ import annotations

from typing import NamedTuple

from meter.core.records import ReadBatch, read
from meter.core.rows import Run
from meter.core.shard import Shard
from meter.core.snapshots import Stamp, snapshot
from schemas.codec import decode_rows
from schemas.decisions import Decision
from schemas.quota import Member, RowState
from schemas.rows import parse_row_key
from schemas.usage import UsageEvent
from schemas.windows import Window

FOLLOW_MS = 70_000
"""A replica's next record comes within a heartbeat. One that the broker keeps waiting stops admitting before this."""


class Standing(NamedTuple):
    """What the log below the fence says of the decision's row, and of the window before it."""

    members: tuple[Member, ...]
    place: int
    """Of the replica among the members; -1: it is none."""
    row: RowState | None
    before: RowState | None


class Told(NamedTuple):
    """What one record of the replica says of the row, folded."""

    offset: int
    seq: int
    cut_ms: int
    own: int
    """What it has in the row."""
    own_before: int
    """What it has in the window before."""


class Witness:
    """Follows one partition of `usage` through a decision."""

    def __init__(self, decision: Decision) -> None:
        """Begin at the first record of the partition that has `decision`."""
        self.decision = decision
        self.shard = Shard(max(decision.partition, 0))
        self.standing: Standing | None = None
        """None until the fence is reached."""
        self.run: Run | None = None
        self.last: Told | None = None
        """Of the replica's last record that was cut before the decision; None if that is within the state itself."""
        self.next: Told | None = None
        """Of its first record that was cut after the decision."""
        self.at_fence: Told | None = None
        self.given_back: list[UsageEvent] = []
        """Requests that were in flight when the decision was made, and no longer when the next record was cut."""
        self.limits_told: set[int] = set()
        """Limits of the row that the replica told around the decision."""
        self.request: UsageEvent | None = None
        """The event of the request itself."""
        self.records = self.faults = 0
        self._before_key = key_before(decision.row) if decision.row else ""

    @property
    def is_done(self) -> bool:
        """Whether nothing that follows on the log matters."""
        late = self.shard.log_ms > self.decision.decided_ms + FOLLOW_MS
        return self.standing is not None and (self.run is None or self.next is not None or late)

    def feed(self, offset: int, log_ms: int, value: bytes) -> None:
        """Take in the next record."""
        if self.standing is None and offset >= self.decision.fence:
            self._reach()
        self.records += 1
        if self.shard.apply(offset, log_ms, value) is not None:
            self.faults += 1
        if self.standing is not None:
            self._follow(offset, value)

    def end(self) -> None:
        """Take that the log ends here."""
        if self.standing is None and self.shard.fence >= self.decision.fence:
            self._reach()

    def _reach(self) -> None:
        decision = self.decision
        full = snapshot(self.shard, Stamp("explain", 1, decision.decided_ms), full=True)
        members = tuple(full[0].members)
        rows = {state.row: state for part in full for state in part.rows}
        place = next((at for at, member in enumerate(members) if _is(member, decision)), -1)
        self.standing = Standing(members, place, rows.get(decision.row), rows.get(self._before_key))
        if place >= 0:
            self.run = (members[place].instance, members[place].epoch)
            self.at_fence = self._told(decision.fence - 1, members[place].hw, 0)

    def _follow(self, offset: int, value: bytes) -> None:
        record, _ = read(value)
        if not isinstance(record, ReadBatch) or (record.instance, record.epoch) != self.run or self.next is not None:
            return
        told = self._told(offset, record.seq, record.cut_ms)
        self.limits_told.update(gauge.limit for gauge in record.gauges if gauge.row == self.decision.row)
        self.limits_told.update(want.limit for want in record.wants if want.row == self.decision.row)
        for event in record.events:
            self._look(event)
        if record.cut_ms <= self.decision.decided_ms:
            self.last = told
        else:
            self.next = told

    def _look(self, event: UsageEvent) -> None:
        decided_ms = self.decision.decided_ms
        if event.decision_id == self.decision.id or event.request_id == self.decision.request_id:
            self.request = event
            return
        was_in_flight = event.occurred_ms <= decided_ms <= event.occurred_ms + event.duration_ms
        if was_in_flight and self.decision.row in decode_rows(event.rows):
            self.given_back.append(event)

    def _told(self, offset: int, seq: int, cut_ms: int) -> Told:
        return Told(offset, seq, cut_ms, self._own(self.decision.row), self._own(self._before_key))

    def _own(self, key: str) -> int:
        row = self.shard.rows.by_key.get(key)
        holding = None if row is None or self.run is None else row.holdings.get(self.run)
        return 0 if holding is None else holding.net


def key_before(key: str) -> str:
    """Return the key of the same row in the window before."""
    window = parse_row_key(key).window
    before = Window(window.period, 2 * window.start - window.end, window.start)
    return key[: key.rindex("/") + 1] + str(before)


def _is(member: Member, decision: Decision) -> bool:
    return member.instance == decision.instance and decision.epoch in (0, member.epoch)
