"""The order of the worker's effects: what is acknowledged when, and what a bug or a lost record does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meter.core.changelog import META
from meter.settings import MeterSettings
from meter.worker import Worker
from schemas.codec import decode_json
from schemas.deadletters import DeadLetter
from schemas.errors import TransportError
from tests.property.fold_logs import START_MS
from tests.unit.meter.fold_builders import TOKENS, batch


class FakeOutlet:
    """Keeps what was sent; takes it when told to, delivers it when told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, bytes, bytes | None]] = []
        self.futures: list[asyncio.Future[object]] = []
        self.delivers = True
        self.takes = asyncio.Event()
        self.takes.set()
        self.waiting = 0

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    async def send(self, topic: str, partition: int, value: bytes, key: bytes | None = None) -> asyncio.Future[object]:
        self.waiting += 1
        await self.takes.wait()
        self.waiting -= 1
        self.sent.append((topic, partition, value, key))
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self.delivers:
            future.set_result(None)
        self.futures.append(future)
        return future


async def _nothing() -> None:
    pass


class FakeHost:
    """Faust without Kafka: one partition, and a changelog that is a dict."""

    usage, state, source = "usage", "quota.state", None

    def __init__(self) -> None:
        self.store: dict[bytes, bytes] = {}
        self.seeks: list[tuple[int, int]] = []
        self.app = SimpleNamespace(
            on_partitions_revoked=SimpleNamespace(connect=lambda *_, **__: None),
            agent=lambda *_, **__: lambda function: function,
            consumer=SimpleNamespace(commit=_nothing),
            stop=_nothing,
        )
        self.fault: BaseException | None = None
        self.table = SimpleNamespace(on_recover=lambda function: None)

    def assigned(self) -> list[int]:
        return [0]

    def records(self) -> dict[bytes, bytes]:
        return self.store

    async def start(self, fences: Callable[[], dict[int, int]]) -> None:
        """Do nothing."""

    async def seek(self, partition: int, offset: int) -> None:
        self.seeks.append((partition, offset))


class FakeBounds:
    """A log that begins and ends where it is told."""

    def __init__(self) -> None:
        self.begin = self.end = 0

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    async def ends(self, partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, self.end)

    async def beginnings(self, partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, self.begin)


class FakeEvent:
    """An event as Faust hands it out."""

    def __init__(self, offset: int, value: bytes, partition: int = 0) -> None:
        self.message = SimpleNamespace(offset=offset, partition=partition, value=value, timestamp=START_MS / 1000)
        self.acked = False

    def ack(self) -> bool:
        self.acked = True
        return True


class FakeStream:
    """A stream that ends."""

    def __init__(self, *events: FakeEvent) -> None:
        self._events = events

    def noack(self) -> FakeStream:
        return self

    async def events(self) -> AsyncIterator[FakeEvent]:
        for event in self._events:
            yield event


class Lab:
    """A worker on fakes that has taken up partition 0."""

    def __init__(self) -> None:
        self.host, self.bounds = FakeHost(), FakeBounds()
        self.updates, self.state = FakeOutlet(), FakeOutlet()
        self.worker = Worker(MeterSettings(), self.host, self.updates, self.state, self.bounds)

    async def fold(self, *events: FakeEvent) -> None:
        await self.worker.fold(FakeStream(*events))

    @property
    def written(self) -> list[str]:
        return [key.decode() for _, _, _, key in self.state.sent if key]


@pytest.fixture
async def lab() -> Lab:
    """Yield a worker that has taken up an empty partition."""
    made = Lab()
    await made.worker.take_up()
    return made


async def test_records_are_acknowledged_when_the_changelog_is_on_the_broker(lab: Lab) -> None:
    """Not before its futures end, the meta record last."""
    lab.state.delivers = False
    events = [FakeEvent(0, batch(amount=5)), FakeEvent(1, batch(seq=2))]
    await lab.fold(*events)
    flushing = asyncio.create_task(lab.worker.flush(), name="flush")
    while "0/meta" not in lab.written:
        await asyncio.sleep(0)
    assert lab.written[-1] == f"0/{META}"
    assert not any(event.acked for event in events)
    for future in lab.state.futures:
        future.set_result(None)
    await flushing
    assert all(event.acked for event in events)


async def test_a_dead_letter_is_out_before_its_record_is_acknowledged(lab: Lab) -> None:
    """A crash in between sets the same record aside again rather than never."""
    lab.updates.delivers = False
    event = FakeEvent(0, b"junk")
    await lab.fold(event)
    [(topic, _, value, _)] = lab.updates.sent
    assert topic == "usage.dlq"
    assert decode_json(DeadLetter, value).offset == 0
    flushing = asyncio.create_task(lab.worker.flush(), name="flush")
    while not lab.written:
        await asyncio.sleep(0)
    assert not event.acked
    lab.updates.futures[0].set_result(None)
    await flushing
    assert event.acked


async def test_a_bug_ends_the_process_and_acknowledges_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is handed to the composition root; the record is folded again by the next process."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("meter.core.shard.tally", broken)
    event = FakeEvent(0, batch(amount=5))
    await lab.fold(event)
    assert isinstance(lab.worker.failed.result(), ZeroDivisionError)
    assert not event.acked


async def test_a_stop_does_not_wait_for_what_nobody_needs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that looks for its broker keeps nobody waiting once the state is on the log; nor does one that fails."""

    async def fails() -> None:
        raise TransportError("there is no coordinator")

    async def hands_on() -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr("meter.worker.LEAVE_S", 0.01)
    lab.host.app.consumer.commit = asyncio.Event().wait
    monkeypatch.setattr(lab.state, "stop", hands_on)
    lab.host.app.stop = fails
    event = FakeEvent(0, batch(amount=5))
    await lab.fold(event)
    async with asyncio.timeout(10):
        await lab.worker.stop()
    assert event.acked


async def test_a_stop_lets_a_flush_that_has_begun_end(lab: Lab) -> None:
    """A slot that was encoded and not sent would be missing from the state, and nobody would know."""
    await lab.worker.start()
    lab.state.takes.clear()
    await lab.fold(FakeEvent(0, batch(amount=5, gauges={TOKENS: 3})))
    async with asyncio.timeout(10):
        while not lab.state.waiting:
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(lab.worker.stop(), name="stop")
        await asyncio.sleep(0)
        lab.state.takes.set()
        await stopping
    again = Lab()
    again.host.store = {key: value for _, _, value, key in lab.state.sent if key}
    again.bounds.end = 1
    await again.worker.take_up()
    assert again.worker.waiting() == []
    await again.worker.flush()
    rows = sum(key.startswith("0/rows/") for key in lab.written)
    assert rows == 2


async def test_a_lost_future_of_the_changelog_ends_the_flush_without_an_acknowledgement(lab: Lab) -> None:
    """The broker refused: the fault goes on to whoever runs the flush."""
    lab.state.delivers = False
    event = FakeEvent(0, batch(amount=5))
    await lab.fold(event)
    flushing = asyncio.create_task(lab.worker.flush(), name="flush")
    while "0/meta" not in lab.written:
        await asyncio.sleep(0)
    for future in lab.state.futures:
        future.set_exception(TransportError("refused"))
    with pytest.raises(TransportError):
        await flushing
    for future in lab.state.futures:
        future.exception()
    assert not event.acked


async def test_records_that_the_engine_lost_are_read_again(lab: Lab) -> None:
    """A hole that is still on the log: nothing behind it is folded, the engine is sent back to the fence."""
    await lab.fold(FakeEvent(0, batch(amount=5)), FakeEvent(2, batch(seq=3, amount=100)), FakeEvent(3, batch(seq=4)))
    assert lab.host.seeks == [(0, 1)]
    await lab.fold(FakeEvent(1, batch(seq=2, amount=10)), FakeEvent(2, batch(seq=3, amount=100)))
    await lab.worker.flush()
    again = Lab()
    again.host.store = {key: value for _, _, value, key in lab.state.sent if key}
    again.bounds.end = 3
    await again.worker.take_up()
    assert not again.worker.failed.done()
    assert again.worker.waiting() == []


async def test_records_that_retention_took_are_passed_over(lab: Lab) -> None:
    """What is gone from the log cannot be waited for."""
    lab.bounds.begin = 7
    event = FakeEvent(7, batch(amount=5))
    await lab.fold(event)
    assert lab.host.seeks == []
    await lab.worker.flush()
    assert event.acked


async def test_events_of_an_assignment_that_has_ended_are_left_alone(lab: Lab) -> None:
    """Another worker folds them."""
    event = FakeEvent(0, batch(amount=5), partition=1)
    await lab.fold(event)
    await lab.worker.flush()
    assert not event.acked
    assert lab.state.sent == []


async def test_a_log_that_ends_before_the_state_is_refused(lab: Lab) -> None:
    """The topic was deleted and made anew: counting on from the old state would count nothing for a long time."""
    await lab.fold(FakeEvent(0, batch(amount=5)), FakeEvent(1, batch(seq=2)))
    await lab.worker.flush()
    again = Lab()
    again.host.store = {key: value for _, _, value, key in lab.state.sent if key}
    again.bounds.end = 1
    with pytest.raises(TransportError, match=r"ends at 1, but the state .* is of offset 2"):
        await again.worker.take_up()


async def test_a_worker_waits_for_the_state_and_then_for_the_barrier() -> None:
    """Readiness says what is missing."""
    lab = Lab()
    assert lab.worker.waiting() == ["the state to be read back from quota.state"]
    lab.bounds.end = 1
    await lab.worker.take_up()
    assert lab.worker.waiting() == ["partition 0: fold at 0 of 1"]
    await lab.fold(FakeEvent(0, batch(gauges={TOKENS: 1})))
    assert lab.worker.waiting() == []
