"""Rewrites the oldest segments of a log as one that is much smaller: events that no record holds yet become sums.

What the broker has is left out, what is in flight is kept as it is, what waits is folded (`core.folding`), admissions
that have not ended are kept, and decisions as long as they fit. The new segment is written beside the old ones and
synced; taking the name of the last of them makes it count and all of them void, at once. Whatever comes to nothing
before that leaves the old ones as they were.

Reads and writes files and is meant for a thread; touches nothing that the loop uses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ingress.adapters.marks import ID, Checkpoint, LaneState, checkpoints, encode, skips
from ingress.adapters.wal import ADMITTED, CHECKPOINT, DECISION, EVENT, SKIP, Head, Segment, read_frames
from ingress.core.folding import Fold
from schemas.crash_points import crash_here

SUFFIX = ".fold"
_CHUNK_BYTES = 1024 * 1024


class Aborted(Exception):
    """The fold is not wanted any more."""


class Task(NamedTuple):
    """What is to be folded."""

    segments: list[Segment]
    """The oldest of a run; copies, with their sizes as they are to stay."""
    checkpoint: Checkpoint
    """The state of the run now; events and decisions are counted anew."""
    decision_bytes: int
    """More decisions than these are not kept."""
    reserve: Path | None
    """A file that may be written to where the disk has no room for another."""
    is_wanted: Callable[[], bool]


class FoldedLane(NamedTuple):
    """What has become of a partition."""

    number: int
    """Of its last event in these segments."""
    kept: int
    """Events as they were: those in flight."""
    folded: int
    """Events that stand for all the others."""
    stood_for: int
    """How many those were on the log."""
    decisions_start: int
    """Number of the last decision before those that are kept."""


class Folded(NamedTuple):
    """A segment that can take the place of those that were folded."""

    path: Path
    size: int
    lanes: list[FoldedLane]
    dropped_decisions: int


class _Lane:
    """A partition while its events are read."""

    def __init__(self, state: LaneState, first: LaneState) -> None:
        self.sent, self.through, self.sent_decisions = state.sent, state.through, state.sent_decisions
        if state.last is not None:
            self.through = max(self.sent, state.last.through)
        self.number, self.decisions = first.events, first.decisions
        self.first_decision = self.decisions
        self.kept: list[bytes] = []
        self.fold = Fold()

    @property
    def start(self) -> int:
        """Number of the last event that the folded segment leaves out because the broker has it."""
        return min(self.sent, self.number)

    def take(self, event: bytes) -> None:
        self.number += 1
        if self.number > max(self.through, self.sent):
            self.fold.add(event)
        elif self.number > self.sent:
            self.kept.append(event)


def fold(task: Task) -> Folded:
    """Write the folded segment; OSError if there is no room for it, Aborted if it is not wanted any more."""
    lanes, admitted, decision_bytes = _read(task)
    keeps = decision_bytes <= task.decision_bytes
    path = task.segments[-1].path.with_suffix(SUFFIX)
    parts = _parts(task, lanes, admitted, keeps)
    try:
        size = _write(path, parts)
    except OSError:
        path.unlink(missing_ok=True)
        if task.reserve is None:
            raise
        size = _write(task.reserve, _parts(task, lanes, admitted, keeps), os.O_WRONLY)
        task.reserve.rename(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    crash_here("ingress.fold_written")
    unsent = [lane.decisions - max(lane.first_decision, min(lane.sent_decisions, lane.decisions)) for lane in lanes]
    return Folded(
        path, size,
        [FoldedLane(lane.number, len(lane.kept), len(lane.fold), lane.fold.taken, start)
         for lane, start in zip(lanes, _decision_starts(lanes, keeps), strict=True)],
        0 if keeps else sum(unsent),
    )  # fmt: skip


def _read(task: Task) -> tuple[list[_Lane], dict[bytes, tuple[int, bytes]], int]:
    """Return lanes with their events folded, admissions without an end, and the size of decisions not sent."""
    lanes: list[_Lane] = []
    admitted: dict[bytes, tuple[int, bytes]] = {}
    decision_bytes = 0
    for kind, partition, payload, *_ in _frames(task):
        if kind == EVENT:
            admitted.pop(payload[ID], None)
            lanes[partition].take(payload)
        elif kind == ADMITTED:
            admitted[payload[ID]] = (partition, payload)
        elif kind == DECISION:
            lane = lanes[partition]
            lane.decisions += 1
            if lane.decisions > lane.sent_decisions:
                decision_bytes += len(payload)
        elif kind == SKIP:
            lanes[partition].number = skips.decode(payload)
        elif kind == CHECKPOINT and not lanes:
            first = checkpoints.decode(payload).lanes
            lanes = [_Lane(state, begun) for state, begun in zip(task.checkpoint.lanes, first, strict=True)]
    return lanes, admitted, decision_bytes


def _frames(task: Task) -> Iterator[tuple[int, int, bytes, int, int]]:
    for segment in task.segments:
        for count, frame in enumerate(read_frames(segment.path, 0, segment.size)):
            if not count % 1024 and not task.is_wanted():
                raise Aborted
            yield frame


def _decision_starts(lanes: list[_Lane], keeps: bool) -> list[int]:
    return [max(lane.first_decision, min(lane.sent_decisions, lane.decisions)) if keeps else lane.decisions
            for lane in lanes]  # fmt: skip


def _parts(task: Task, lanes: list[_Lane], admitted: dict[bytes, tuple[int, bytes]], keeps: bool) -> Iterator[bytes]:
    """Yield the frames of the folded segment."""
    starts = _decision_starts(lanes, keeps)
    states = [
        msgspec.structs.replace(state, events=lane.start, decisions=start)
        for state, lane, start in zip(task.checkpoint.lanes, lanes, starts, strict=True)
    ]
    yield _frame(CHECKPOINT, 0, encode(msgspec.structs.replace(task.checkpoint, lanes=states, folded=True)))
    for partition, event in admitted.values():
        yield _frame(ADMITTED, partition, event)
    for partition, lane in enumerate(lanes):
        for event in lane.kept:
            yield _frame(EVENT, partition, event)
        if lane.start + len(lane.kept) + len(lane.fold) != lane.number:
            yield _frame(SKIP, partition, encode(lane.number - len(lane.fold)))
        for event in lane.fold.events():
            yield _frame(EVENT, partition, event)
    if keeps:
        counts = [lane.first_decision for lane in lanes]
        for kind, partition, payload, *_ in _frames(task):
            if kind == DECISION:
                counts[partition] += 1
                if counts[partition] > starts[partition]:
                    yield _frame(DECISION, partition, payload)


def _frame(kind: int, partition: int, payload: bytes) -> bytes:
    return Head(kind, partition).frame(payload) + payload


def _write(path: Path, parts: Iterator[bytes], flags: int = os.O_WRONLY | os.O_CREAT | os.O_TRUNC) -> int:
    """Write a file and sync it; return its size."""
    with contextlib.closing(os.fdopen(os.open(path, flags, 0o600), "wb", _CHUNK_BYTES)) as file:
        size = sum(map(file.write, parts))
        file.flush()
        file.truncate(size)
        os.fsync(file.fileno())
    return size
