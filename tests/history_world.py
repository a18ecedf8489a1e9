"""A log as replicas, retries and the meter write it, and a sink that lives on it until it is killed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from meter.sink.core.mark import Mark
from meter.sink.core.resume import Found, Resume, resume
from meter.sink.feeds import Rejected, UsageFeed
from meter.sink.lane import Counts, Lane, Limits
from meter.sink.rows import USAGE_TABLE, Source
from meter.sink.store import Store
from schemas.errors import DecodeError
from schemas.usage import UsageEvent
from tests.history_builders import a_batch, totals_of
from tests.history_fakes import FakeLog

SOURCE = Source("cluster", "usage", 0)
RUNS = (("a", 1), ("a", 2), ("b", 1))


class Script:
    """A log as replicas, retries and the meter write it, and what of it counts by the contract's own words."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.expected: list[UsageEvent] = []
        self._next = dict.fromkeys(RUNS, 1)
        self._events: dict[tuple[str, int], dict[int, list[UsageEvent]]] = {run: {} for run in RUNS}
        self._counted = dict.fromkeys(RUNS, 0)
        self._sent: list[tuple[tuple[str, int], int, list[UsageEvent]]] = []

    def send(self, run: tuple[str, int], events: list[UsageEvent]) -> None:
        """Write a run's next record."""
        seq = self._next[run]
        self._next[run] += 1
        self._sent.append((run, seq, events))
        self._write(run, seq, events)

    def send_again(self, back: int) -> None:
        """Write a record that was written before once more."""
        if self._sent:
            self._write(*self._sent[-1 - back % len(self._sent)])

    def send_out_of_order(self, run: tuple[str, int], events: list[UsageEvent]) -> None:
        """Write a run's record but one, and then both, as a sender does that has to go back."""
        seq = self._next[run]
        first, second = (run, seq, events[:1]), (run, seq + 1, events[1:])
        self._events[run][seq] = events[:1]
        self._next[run] += 2
        for record in (second, first, second):
            self._write(*record)

    def noise(self, value: bytes) -> None:
        """Write something that is no batch."""
        self.values.append(value)

    def _write(self, run: tuple[str, int], seq: int, events: list[UsageEvent]) -> None:
        self._events[run][seq] = events
        told = totals_of(event for number in range(1, seq + 1) for event in self._events[run].get(number, ()))
        self.values.append(a_batch(events, seq, *run, told=told))
        if seq == self._counted[run] + 1:
            self._counted[run] = seq
            self.expected += events


async def at_once(call: Callable[..., Any], *args: Any) -> Any:
    """Do what is done in a thread."""
    return call(*args)


def in_thread(call: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Return `call` as a thread would run it."""
    return at_once(call, *args)


def take_up(log: FakeLog, store: Store, source: Source = SOURCE) -> Resume:
    """Find out where to go on, as the worker does."""
    row = store.last_row(USAGE_TABLE, source)
    found = resume(Found(log.committed, Mark.decode(log.metadata), row, 0, len(log.values)))
    if found.watermarks.complete:
        return found
    known = store.watermarks(source, found.position)
    return Resume(found.position, found.resend_to, found.watermarks.merged(known), found.lost)


async def live(
    log: FakeLog, store: Store, pauses: list[int], max_rows: int, source: Source = SOURCE,
    at_rest: Callable[[Lane], None] = lambda lane: None,
) -> None:  # fmt: skip
    """Run a sink from its start to the end of the log, or until it is killed; it inserts after `pauses`."""
    start, limits = take_up(log, store, source), Limits(max_rows, 1_000, 1.0)
    lane = Lane(source, UsageFeed(source), start, store, log, limits, Counts(), in_thread)
    now_ms = 0
    for turn, offset in enumerate(range(lane.buffer.position, len(log.values))):
        now_ms += pauses[turn % len(pauses)]
        try:
            lane.buffer.add(lane.feed.entry(offset, now_ms, log.values[offset]), now_ms)
        except DecodeError as error:
            lane.skip(Rejected(offset, str(error), b""), set_aside=False)
        if pauses[turn % len(pauses)] and lane.buffer.is_due(now_ms):
            await lane.flush(now_ms)
        if lane.is_whole:
            at_rest(lane)
    while await lane.flush(now_ms):
        at_rest(lane)
