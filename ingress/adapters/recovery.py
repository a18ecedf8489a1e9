"""Reads what an earlier run left in its write-ahead log, and turns it into the records that are still to be sent.

What was cut into a record goes out as the same record, under the same epoch and seq; what was not cut goes out in
further records; a request that was admitted and never ended goes out as the `unknown` event that was written with its
admission. The last record of every epoch is final. All of it is a function of the files alone, so that a second crash
while replaying changes nothing.

One record a partition is in flight at a time, so the last cut of a partition is the only one whose fate is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from ingress.adapters.wal import ADMITTED, CHECKPOINT, CUT, DECISION, EVENT, Frame, Segment, WalCorrupt, read_frames
from schemas.codec import encode_record
from schemas.published import MAX_EVENTS_PER_RECORD
from schemas.tokens import TokenUsage
from schemas.usage import Batch, Detail, Gauge, Totals

ID = slice(5, 21)
"""Where an encoded event has its id."""
MAX_RECORD_BYTES = 512 * 1024
"""Of events in a record; brokers take 1 MiB by default, and gauges come on top."""


class Cut(msgspec.Struct, frozen=True, array_like=True):
    """A record as it was cut: everything of it but its gauges and events. The cuts before it are acknowledged."""

    epoch: int
    seq: int
    through: int
    """Number of the last event in it; events of a partition are counted from 1 in each run."""
    ack: int
    cut_ms: int
    policy_version: int
    final: bool
    told: Totals
    decisions: int
    """How many decisions of the partition the broker had acknowledged."""


class EpochState(msgspec.Struct, array_like=True):
    """How far an epoch has come in a partition."""

    epoch: int
    seq: int
    told: Totals
    final: bool = False


class LaneState(msgspec.Struct, array_like=True):
    """Where a partition stands in the log of a run."""

    events: int = 0
    """Written so far."""
    decisions: int = 0
    through: int = 0
    """Cut so far."""
    sent: int = 0
    """Acknowledged so far."""
    sent_decisions: int = 0
    last: Cut | None = None
    """The record in flight: cut, and not known to be acknowledged."""
    epochs: list[EpochState] = []
    """Those that are not known to be over, oldest first."""


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Begins every segment: what the segments before it said, which may be gone."""

    instance: str
    epoch: int
    lanes: list[LaneState]


class Outgoing(NamedTuple):
    """A record that is ready to be sent."""

    epoch: int
    seq: int
    value: bytes
    carries_usage: bool = False
    """Whether it changes rows: the meter publishes that at once."""


class Charged(msgspec.Struct, frozen=True, array_like=True):
    """A `schemas.usage.UsageEvent`, decoded as far as `Totals` needs it."""

    id: msgspec.Raw
    request_id: msgspec.Raw
    attempt: int
    status: msgspec.Raw
    operation: msgspec.Raw
    occurred_ms: int
    duration_ms: int
    ttft_ms: int
    http_status: int
    streamed: bool
    usage_source: msgspec.Raw
    usage: TokenUsage
    cost_nanos: int | None
    charge_requests: int
    charge_tokens: int
    charge_nanos: int
    model_reported: msgspec.Raw
    error: msgspec.Raw
    decision_id: msgspec.Raw
    attribution: msgspec.Raw
    rows: msgspec.Raw
    detail: Detail | None = None


_charged = msgspec.msgpack.Decoder(Charged)
_cuts = msgspec.msgpack.Decoder(Cut)
_checkpoints = msgspec.msgpack.Decoder(Checkpoint)


def tell(told: Totals, events: list[bytes]) -> Totals:
    """Return new totals: `told` and `events`."""
    totals = msgspec.structs.replace(told)
    for event in events:
        totals.add(_charged.decode(event))  # type: ignore[arg-type]  # has every field that `add` reads
    return totals


class Reader:
    """Reads the frames of one kind and partition, in order, from a place in a run's segments."""

    def __init__(self, segments: list[Segment], number: int, start: int, kind: int, partition: int) -> None:
        """Read from offset `start` of segment `number`; `segments` may change while reading."""
        self._segments = segments
        self._number = number
        self._start = start
        self._wanted = (kind, partition)

    def take(self, count: int, max_bytes: int = MAX_RECORD_BYTES) -> list[bytes]:
        """Return the payloads of further frames: up to `count`, up to the one that reaches `max_bytes`, or the end."""
        found: list[bytes] = []
        size = 0
        while len(found) < count and size < max_bytes:
            segment = next((segment for segment in self._segments if segment.number == self._number), None)
            if segment is None:
                break
            for frame in read_frames(segment.path, self._start):
                self._start = frame.end
                if frame[:2] == self._wanted:
                    found.append(frame.payload)
                    size += len(frame.payload)
                    if len(found) == count or size >= max_bytes:
                        return found
            if segment is self._segments[-1]:
                break
            self._number, self._start = segment.number + 1, 0
        return found


class _Lane:
    """What is known of a partition while its log is read."""

    def __init__(self) -> None:
        self.state = LaneState()
        self.starts: list[tuple[int, int]] = []
        """By segment: events and decisions before it."""


class Backlog:
    """What a run left behind."""

    def __init__(self, segments: list[Segment]) -> None:
        """Read the log of a run; a torn frame at its end is cut off. WalCorrupt if it is broken otherwise."""
        self.segments = segments
        self.instance = ""
        self.epoch = 0
        self._lanes: list[_Lane] = []
        self._open: dict[bytes, tuple[int, bytes]] = {}
        for segment in segments:
            end = self._read(segment)
            if end < segment.size:
                if segment is not segments[-1]:
                    raise WalCorrupt(f"{segment.path}: torn at byte {end}, and later segments exist")
                with segment.path.open("r+b") as file:
                    file.truncate(end)
                segment.size = end
        for lane in self._lanes:
            _skip_deleted(lane.state, *lane.starts[0])

    @property
    def partitions(self) -> int:
        """How many partitions the run wrote to."""
        return len(self._lanes)

    def _read(self, segment: Segment) -> int:
        """Take in a segment; return where its last whole frame ends."""
        end = 0
        for frame in read_frames(segment.path):
            if frame.kind == CHECKPOINT:
                self._checkpoint(_checkpoints.decode(frame.payload))
                if not end:
                    self._start_segment()
            elif not end:
                raise WalCorrupt(f"{segment.path}: does not begin with a checkpoint")
            else:
                self._take(frame, segment)
            end = frame.end
        if not end:  # killed between making the file and writing its first frame
            self._start_segment()
        return end

    def _start_segment(self) -> None:
        for lane in self._lanes:
            lane.starts.append((lane.state.events, lane.state.decisions))

    def _take(self, frame: Frame, segment: Segment) -> None:
        state = self._lanes[frame.partition].state
        if frame.kind == ADMITTED:
            self._open[frame.payload[ID]] = (frame.partition, frame.payload)
        elif frame.kind == EVENT:
            state.events += 1
            self._open.pop(frame.payload[ID], None)
        elif frame.kind == DECISION:
            state.decisions += 1
        elif frame.kind == CUT:
            _apply(state, _cuts.decode(frame.payload))
        else:
            raise WalCorrupt(f"{segment.path}: a frame of unknown kind {frame.kind} at byte {frame.start}")

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        self.instance, self.epoch = checkpoint.instance, checkpoint.epoch
        if not self._lanes:
            self._lanes = [_Lane() for _ in checkpoint.lanes]
        for lane, state in zip(self._lanes, checkpoint.lanes, strict=True):
            lane.state = state

    # ------------------------------------------------------------------------------------------------- replaying

    def records(self, partition: int, now_ms: int) -> Iterator[Outgoing]:
        """Yield the records that a partition still has to get, in order; none if it never had any."""
        lane = self._lanes[partition]
        state, last = lane.state, lane.state.last
        events = self._reader(lane, EVENT, partition, state.sent)
        if last is not None:
            carried = events.take(last.through - state.sent, UNBOUNDED)
            if len(carried) != last.through - state.sent:
                raise WalCorrupt(f"{self.segments[0].path}: events of record {last.seq} are missing")
            yield self._record(last, carried)
        *older, current = state.epochs or [EpochState(self.epoch, 0, Totals())]
        yield from self._tail(state, current, events, partition, now_ms)
        for epoch in older:
            if not epoch.final:
                yield self._record(Cut(epoch.epoch, epoch.seq + 1, 0, 0, now_ms, 0, True, epoch.told, 0), [])

    def _tail(
        self, state: LaneState, current: EpochState, events: Reader, partition: int, now_ms: int
    ) -> Iterator[Outgoing]:
        """Yield what no cut has covered: events, admissions that never ended, the end of the epoch."""
        orphans = deque(event for where, event in self._open.values() if where == partition)
        left, seq, told = state.events - state.through, current.seq, current.told
        final = current.final or not (seq or left or orphans)  # all of it was sent, or nothing ever
        while not final:
            chunk = events.take(min(left, MAX_EVENTS_PER_RECORD))
            if left and not chunk:
                raise WalCorrupt(f"{self.segments[0].path}: {left} events of partition {partition} are missing")
            left -= len(chunk)
            size = sum(map(len, chunk))
            while orphans and not left and len(chunk) < MAX_EVENTS_PER_RECORD and size < MAX_RECORD_BYTES:
                size += len(orphans[0])
                chunk.append(orphans.popleft())
            seq, told, final = seq + 1, tell(told, chunk), not left and not orphans
            yield self._record(Cut(current.epoch, seq, 0, 0, now_ms, 0, final, told, 0), chunk)

    def _record(self, cut: Cut, events: list[bytes]) -> Outgoing:
        batch = Batch(
            instance=self.instance,
            epoch=cut.epoch,
            seq=cut.seq,
            ack=0,  # its gauges are lost, so it must not release what they held
            cut_ms=cut.cut_ms,
            policy_version=cut.policy_version,
            final=cut.final,
            gauges=NO_GAUGES,
            wants=[],
            told=cut.told,
            events=[msgspec.Raw(event) for event in events],
        )
        return Outgoing(cut.epoch, cut.seq, encode_record(batch))

    def decisions(self, partition: int) -> Iterator[list[bytes]]:
        """Yield the decisions that a partition may still have to get, in batches."""
        lane = self._lanes[partition]
        reader = self._reader(lane, DECISION, partition, lane.state.sent_decisions)
        while batch := reader.take(MAX_EVENTS_PER_RECORD):
            yield batch

    def _reader(self, lane: _Lane, kind: int, partition: int, after: int) -> Reader:
        """Return a reader of what follows the first `after` frames of `kind`."""
        counts = [start[0 if kind == EVENT else 1] for start in lane.starts]
        index = max(index for index, count in enumerate(counts) if count <= after)
        reader = Reader(self.segments, self.segments[index].number, 0, kind, partition)
        reader.take(after - counts[index], UNBOUNDED)
        return reader

    def delete(self) -> None:
        """Delete the log, everything in it being acknowledged; newest first, so that what is left is a whole prefix."""
        while self.segments:
            self.segments.pop().path.unlink()


NO_GAUGES: list[Gauge] = []
UNBOUNDED = 1 << 62


def _skip_deleted(state: LaneState, events: int, decisions: int) -> None:
    """Take what was in deleted segments as acknowledged: that is why they were deleted."""
    if events > state.sent:
        state.sent = events
        state.through = max(state.through, events)
        if state.last is not None and state.last.through <= events:
            state.last = None
    state.sent_decisions = max(state.sent_decisions, decisions)


def _apply(state: LaneState, cut: Cut) -> None:
    """Take that a record was cut: the one before it had been acknowledged."""
    state.sent, state.through = state.through, cut.through
    state.sent_decisions = max(state.sent_decisions, cut.decisions)
    epoch = next(epoch for epoch in state.epochs if epoch.epoch == cut.epoch)
    epoch.seq, epoch.told, epoch.final = cut.seq, cut.told, cut.final
    state.last = cut
