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
from schemas.rows import Measure, parse_row_key
from schemas.usage import UsageEvent
from schemas.windows import Period, Window

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


class OwnPart:
    """What one replica has in one row, counted from its own records: whether or not it is still a member."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._measure = parse_row_key(key).measure if key else ""
        self.settled = self.inflight = 0

    @property
    def net(self) -> int:
        """Settled and in flight."""
        return self.settled + self.inflight

    def begin(self, shard: Shard, run: Run) -> None:
        """Take what the fold has of it."""
        row = shard.rows.by_key.get(self._key)
        holding = None if row is None else row.holdings.get(run)
        if holding is not None:
            self.settled, self.inflight = holding.settled, holding.inflight

    def add(self, record: ReadBatch) -> None:
        """Take in the next record of the replica."""
        for gauge in record.gauges:
            if gauge.row == self._key:
                self.inflight = gauge.inflight
        for event in record.events:
            if self._key in decode_rows(event.rows):
                self.settled += charged(event, self._measure)


def charged(event: UsageEvent, measure: str) -> int:
    """Return what rows of a measure book of an event."""
    amounts = {
        Measure.REQUESTS: event.charge_requests, Measure.TOKENS: event.charge_tokens, Measure.COST: event.charge_nanos,
    }  # fmt: skip
    return amounts.get(Measure(measure), 0)


def counted(decision: Decision, amount: int) -> int:
    """Return how much of an amount in the window before counted in the decision's row, rounded up."""
    key = parse_row_key(decision.row)
    if amount <= 0:
        return 0
    if key.measure == Measure.CONCURRENCY:
        return amount
    if key.window.period not in (Period.MINUTE, Period.ROLLING):
        return 0
    length_ms = (key.window.end - key.window.start) * 1000
    left_ms = min(max(key.window.end * 1000 - decision.decided_ms, 0), length_ms)
    return -(-amount * left_ms // length_ms)


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
        self.in_flight: list[UsageEvent] = []
        """Requests that were in flight when the decision was made, as far as the log has told of their end; of those
        that the next run told of, also ones that had ended by then."""
        self.has_ended = False
        """The replica's run is over. What it had not told of, its next run tells, without what was reserved."""
        self.limits_told: set[int] = set()
        """Limits of the row that the replica told around the decision."""
        self.request: UsageEvent | None = None
        """The event of the request itself."""
        self.records = self.faults = 0
        self._before_key = key_before(decision.row) if decision.row else ""
        self._own, self._own_before = OwnPart(decision.row), OwnPart(self._before_key)
        self._seq = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing that follows on the log matters."""
        late = self.shard.log_ms > self.decision.decided_ms + FOLLOW_MS
        if self.standing is None:
            return False
        is_told = self.next is not None and self.is_within
        return late or self.run is None or is_told or (self.has_ended and bool(self.in_flight))

    @property
    def is_within(self) -> bool:
        """Whether the replica's own part, as the decision has it, is no more than its records around it say."""
        around = (self.last or self.at_fence, self.next)
        parts = [told.own + counted(self.decision, told.own_before) for told in around if told is not None]
        slack = 1 if any(told is not None and told.own_before for told in around) else 0
        return self.decision.pending <= max(parts, default=0) + slack

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
            run = self.run = (members[place].instance, members[place].epoch)
            self._seq = members[place].hw
            self._own.begin(self.shard, run)
            self._own_before.begin(self.shard, run)
            self.at_fence = self._told(decision.fence - 1, 0)

    def _follow(self, offset: int, value: bytes) -> None:
        record, _ = read(value)
        if not isinstance(record, ReadBatch) or self.run is None or record.instance != self.run[0]:
            return
        if record.epoch != self.run[1]:
            self._succeed(record)
            return
        if record.seq != self._seq + 1:
            return  # a duplicate
        self._seq = record.seq
        self._own.add(record)
        self._own_before.add(record)
        told = self._told(offset, record.cut_ms)
        self.limits_told.update(gauge.limit for gauge in record.gauges if gauge.row == self.decision.row)
        self.limits_told.update(want.limit for want in record.wants if want.row == self.decision.row)
        found = [event for event in record.events if self._concerns(event)]
        self.in_flight += found
        self.has_ended = self.has_ended or record.final
        if self.next is not None:
            return
        self.given_back += found
        if record.cut_ms <= self.decision.decided_ms:
            self.last = told
        else:
            self.next = told

    def _succeed(self, record: ReadBatch) -> None:
        """Take in a record of another run of the same replica: a later one tells of what this one began."""
        if self.run is not None and record.epoch > self.run[1]:
            self.has_ended = True
            begun = [event for event in record.events if event.occurred_ms <= self.decision.decided_ms]
            self.in_flight += [event for event in begun if self._counts(event)]

    def _concerns(self, event: UsageEvent) -> bool:
        """Note the request's own event; tell whether another one was in flight in the row when it was decided on."""
        decided_ms = self.decision.decided_ms
        if event.decision_id == self.decision.id or event.request_id == self.decision.request_id:
            self.request = event
            return False
        was_in_flight = event.occurred_ms <= decided_ms <= event.occurred_ms + event.duration_ms
        return was_in_flight and self._counts(event)

    def _counts(self, event: UsageEvent) -> bool:
        """Tell whether an event is booked to the row, or to the window before where that counts."""
        rows = decode_rows(event.rows)
        return self.decision.row in rows or (self._before_key in rows and counted(self.decision, 1) > 0)

    def _told(self, offset: int, cut_ms: int) -> Told:
        return Told(offset, self._seq, cut_ms, self._own.net, self._own_before.net)


def key_before(key: str) -> str:
    """Return the key of the same row in the window before."""
    window = parse_row_key(key).window
    before = Window(window.period, 2 * window.start - window.end, window.start)
    return key[: key.rindex("/") + 1] + str(before)


def _is(member: Member, decision: Decision) -> bool:
    return member.instance == decision.instance and decision.epoch in (0, member.epoch)
