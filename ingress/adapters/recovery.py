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

import msgspec

from ingress.adapters.marks import (
    ID,
    MAX_RECORD_BYTES,
    NO_GAUGES,
    UNBOUNDED,
    Checkpoint,
    Cut,
    EpochState,
    LaneState,
    Outgoing,
    checkpoints,
    cuts,
    skips,
    tell,
)
from ingress.adapters.reader import Reader
from ingress.adapters.wal import (
    ADMITTED,
    CHECKPOINT,
    CUT,
    DECISION,
    EVENT,
    SKIP,
    Frame,
    Segment,
    WalCorrupt,
    read_frames,
)
from schemas.codec import encode_record
from schemas.published import MAX_EVENTS_PER_RECORD
from schemas.usage import Batch, Totals


class _Lane:
    """What is known of a partition while its log is read."""

    def __init__(self) -> None:
        self.state = LaneState()
        self.starts: list[tuple[int, int]] = []
        """By segment: the numbers of the last event and decision before it."""
        self.gaps: list[tuple[int, int]] = []
        """Numbers that do not exist: above the first, up to the second."""

    def count(self, after: int, until: int) -> int:
        """Return how many events have numbers above `after`, up to `until`."""
        return until - after - sum(max(0, min(until, b) - max(after, a)) for a, b in self.gaps)


class Backlog:
    """What a run left behind."""

    def __init__(self, segments: list[Segment], repair: bool = True) -> None:
        """Read the log of a run; WalCorrupt if it is broken otherwise than by a torn frame at its end.

        With `repair`, a torn frame is cut off, and segments go that folded ones have replaced.
        """
        self.segments = segments
        self.instance = ""
        self.epoch = 0
        self.lanes: list[_Lane] = []
        self.open: dict[bytes, tuple[int, bytes]] = {}
        """Admissions that never ended, by event id: partition and event."""
        self._drop_replaced(repair)
        for segment in segments:
            end = self._read(segment)
            if end < segment.size:
                if segment is not segments[-1]:
                    raise WalCorrupt(f"{segment.path}: torn at byte {end}, and later segments exist")
                if repair:
                    segment.truncate(end)
        for lane in self.lanes:
            _skip_deleted(lane.state, *lane.starts[0])

    @property
    def partitions(self) -> int:
        """How many partitions the run wrote to."""
        return len(self.lanes)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self.segments)

    @property
    def unsent_events(self) -> int:
        """Events that the broker may not have, admissions that never ended included."""
        return len(self.open) + sum(lane.count(lane.state.sent, lane.state.events) for lane in self.lanes)

    def _drop_replaced(self, repair: bool) -> None:
        for index in range(len(self.segments) - 1, 0, -1):
            first = next(read_frames(self.segments[index].path), None)
            if first is not None and first.kind == CHECKPOINT and checkpoints.decode(first.payload).folded:
                for segment in self.segments[:index]:
                    if repair:
                        segment.path.unlink()
                del self.segments[:index]
                return

    def _read(self, segment: Segment) -> int:
        """Take in a segment; return where its last whole frame ends."""
        end = 0
        for frame in read_frames(segment.path):
            if frame.kind == CHECKPOINT:
                self._checkpoint(checkpoints.decode(frame.payload))
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
        for lane in self.lanes:
            lane.starts.append((lane.state.events, lane.state.decisions))

    def _take(self, frame: Frame, segment: Segment) -> None:
        lane = self.lanes[frame.partition]
        state = lane.state
        if frame.kind == ADMITTED:
            self.open[frame.payload[ID]] = (frame.partition, frame.payload)
        elif frame.kind == EVENT:
            state.events += 1
            self.open.pop(frame.payload[ID], None)
        elif frame.kind == DECISION:
            state.decisions += 1
        elif frame.kind == CUT:
            _apply(state, cuts.decode(frame.payload))
        elif frame.kind == SKIP:
            lane.gaps.append((state.events, skips.decode(frame.payload)))
            state.events = lane.gaps[-1][1]
        else:
            raise WalCorrupt(f"{segment.path}: a frame of unknown kind {frame.kind} at byte {frame.start}")

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        self.instance, self.epoch = checkpoint.instance, checkpoint.epoch
        if not self.lanes:
            self.lanes = [_Lane() for _ in checkpoint.lanes]
        for lane, state in zip(self.lanes, checkpoint.lanes, strict=True):
            lane.state = state

    # ------------------------------------------------------------------------------------------------- replaying

    def records(self, partition: int, now_ms: int) -> Iterator[Outgoing]:
        """Yield the records that a partition still has to get, in order; none if it never had any."""
        lane = self.lanes[partition]
        state, last = lane.state, lane.state.last
        events = self._reader(lane, EVENT, partition, state.sent)
        if last is not None:
            expected = lane.count(state.sent, last.through)
            carried = events.take(expected, UNBOUNDED)
            if len(carried) != expected:
                raise WalCorrupt(f"{self.segments[0].path}: events of record {last.seq} are missing")
            yield self._record(last, carried)
        *older, current = state.epochs or [EpochState(self.epoch, 0, Totals())]
        yield from self._tail(lane, current, events, partition, now_ms)
        for epoch in older:
            if not epoch.final:
                yield self._record(Cut(epoch.epoch, epoch.seq + 1, 0, 0, now_ms, 0, True, epoch.told, 0), [])

    def _tail(
        self, lane: _Lane, current: EpochState, events: Reader, partition: int, now_ms: int
    ) -> Iterator[Outgoing]:
        """Yield what no cut has covered: events, admissions that never ended, the end of the epoch."""
        orphans = deque(event for where, event in self.open.values() if where == partition)
        left, seq, told = lane.count(lane.state.through, lane.state.events), current.seq, current.told
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
        lane = self.lanes[partition]
        reader = self._reader(lane, DECISION, partition, lane.state.sent_decisions)
        while batch := reader.take(MAX_EVENTS_PER_RECORD):
            yield batch

    def _reader(self, lane: _Lane, kind: int, partition: int, after: int) -> Reader:
        """Return a reader of what follows number `after` of `kind`."""
        numbers = [start[0 if kind == EVENT else 1] for start in lane.starts]
        index = max(index for index, number in enumerate(numbers) if number <= after)
        reader = Reader(self.segments, self.segments[index].number, 0, kind, partition)
        reader.skip(lane.count(numbers[index], after) if kind == EVENT else after - numbers[index])
        return reader

    def delete(self) -> None:
        """Delete the log, everything in it being acknowledged; newest first, so that what is left is a whole prefix."""
        while self.segments:
            self.segments.pop().path.unlink()


def _skip_deleted(state: LaneState, events: int, decisions: int) -> None:
    """Take what was in deleted segments as acknowledged: that is why they were deleted.

    Where that goes beyond what was acknowledged when the last record was cut, that one is.
    """
    if events > state.sent:
        state.sent = events if state.last is None else max(events, state.last.through)
        state.through = max(state.through, state.sent)
        state.last = None
    state.sent_decisions = max(state.sent_decisions, decisions)


def _apply(state: LaneState, cut: Cut) -> None:
    """Take that a record was cut: the one before it had been acknowledged."""
    state.sent, state.through = state.through, cut.through
    state.sent_decisions = max(state.sent_decisions, cut.decisions)
    epoch = next(epoch for epoch in state.epochs if epoch.epoch == cut.epoch)
    epoch.seq, epoch.told, epoch.final = cut.seq, cut.told, cut.final
    state.last = cut
