"""How deliveries go on when a producer ends; the real one is tested against a broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    UnknownError,
)

from ingress.adapters import producer as module
from ingress.adapters.journal import Journal
from ingress.adapters.producer import Producer
from ingress.adapters.sender import Sender
from ingress.adapters.wal import Wal
from ingress.core.admission import Registry
from schemas.codec import decode_event, decode_record
from schemas.connection import KafkaConnection
from schemas.usage import Batch
from tests.unit.ingress.governed import START_MS, event_of


class Sent(NamedTuple):
    """What a producer tells of a record."""

    offset: int


class FakeKafkaProducer:
    """Fails as it is told to, then takes records."""

    made: ClassVar[list[FakeKafkaProducer]] = []
    start_faults: ClassVar[list[Exception]] = []
    faults: ClassVar[list[Exception]] = []
    hangs: ClassVar[int] = 0
    """How many never connect."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.is_open = False
        self.made.append(self)

    async def start(self) -> None:
        """Connect, or fail."""
        if self.start_faults:
            raise self.start_faults.pop(0)
        if type(self).hangs:
            type(self).hangs -= 1
            await asyncio.Event().wait()
        self.is_open = True

    async def send(self, topic: str, value: bytes, partition: int, key: bytes | None) -> asyncio.Future[Sent]:
        """Take a record, or fail."""
        if self.faults:
            raise self.faults.pop(0)
        sent: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        sent.set_result(Sent(7))
        return sent

    async def stop(self) -> None:
        """Close."""
        self.is_open = False


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeKafkaProducer]:
    """Put the fake in place."""
    for faults in (FakeKafkaProducer.made, FakeKafkaProducer.start_faults, FakeKafkaProducer.faults):
        faults.clear()
    monkeypatch.setattr(module, "AIOKafkaProducer", FakeKafkaProducer)
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.001)
    return FakeKafkaProducer


async def test_a_producer_that_ended_is_replaced_and_closed(fake: type[FakeKafkaProducer]) -> None:
    """The record goes out by the next one; at most one is open."""
    fake.faults += [OutOfOrderSequenceNumber()]
    producer = Producer(KafkaConnection(), "i")
    assert await producer.deliver("usage", 0, b"x") == 7
    assert [each.is_open for each in fake.made] == [False, True]
    assert producer.recreated == 1
    assert "OutOfOrderSequenceNumber" in producer.last_fault
    await producer.stop()
    assert not fake.made[1].is_open


async def test_a_broker_that_cannot_be_reached_is_waited_for(fake: type[FakeKafkaProducer]) -> None:
    """Deliveries of several partitions share the one attempt to connect."""
    fake.start_faults += [KafkaConnectionError(), KafkaConnectionError()]
    producer = Producer(KafkaConnection(), "i")
    assert await asyncio.gather(*(producer.deliver("usage", p, b"x") for p in range(3))) == [7, 7, 7]
    assert len(fake.made) == 3
    assert producer.recreated == 0


async def test_a_producer_that_never_connects_is_given_up(
    fake: type[FakeKafkaProducer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may."""
    monkeypatch.setattr(module, "CONNECT_S", 0.01)
    monkeypatch.setattr(fake, "hangs", 1)
    producer = Producer(KafkaConnection(), "i")
    assert await producer.deliver("usage", 0, b"x") == 7
    assert [each.is_open for each in fake.made] == [False, True]
    assert producer.last_fault.startswith("TimeoutError")


async def test_a_broker_without_the_codec_gets_plain_records(fake: type[FakeKafkaProducer]) -> None:
    """Compression is worth a lot, but not an outage."""
    fake.faults += [UnknownError()]
    assert await Producer(KafkaConnection(), "i").deliver("usage", 0, b"x") == 7
    assert [each.options["compression_type"] for each in fake.made] == ["snappy", None]


async def test_a_record_that_no_broker_takes_is_a_fault(fake: type[FakeKafkaProducer]) -> None:
    """Sending it again would not help."""
    fake.faults += [MessageSizeTooLargeError()]
    with pytest.raises(MessageSizeTooLargeError):
        await Producer(KafkaConnection(), "i").deliver("usage", 0, b"x")


class FakeLog:
    """What the broker of `MortalProducer`s has; a seq that is there already is not counted again."""

    def __init__(self, dies_at: int, loses: bool) -> None:
        self.dies_at = dies_at
        """The n-th record ends the producer that sends it."""
        self.loses = loses
        """Whether the broker did not get that record; else only the answer is lost."""
        self.sends = 0
        self.records: list[tuple[int, bytes]] = []


class MortalProducer:
    """Ends for good at one record: what it holds then fails, and what is given to it later."""

    log: ClassVar[FakeLog]
    made = 0

    def __init__(self, **options: Any) -> None:
        type(self).made += 1
        self.is_dead = False
        self.waiting: list[asyncio.Future[Sent]] = []

    async def start(self) -> None:
        """Connect."""

    async def send(self, topic: str, value: bytes, partition: int, key: bytes | None) -> asyncio.Future[Sent]:
        """Take a record, whose fate is known later."""
        if self.is_dead:
            raise ProducerClosed
        sent: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        self.waiting.append(sent)
        asyncio.get_running_loop().call_later(0.001, self._answer, sent, partition, value)
        return sent

    def _answer(self, sent: asyncio.Future[Sent], partition: int, value: bytes) -> None:
        log = self.log
        log.sends += 1
        if sent.done():
            return
        if log.sends == log.dies_at:
            if not log.loses:
                log.records.append((partition, value))
            self.is_dead = True
            for each in self.waiting:
                if not each.done():
                    each.set_exception(OutOfOrderSequenceNumber())
            return
        log.records.append((partition, value))
        sent.set_result(Sent(len(log.records)))

    async def stop(self) -> None:
        """Close."""


@pytest.mark.parametrize("loses", [True, False], ids=["record lost", "answer lost"])
@pytest.mark.parametrize("dies_at", [1, 2, 5, 9])
async def test_a_producer_that_dies_at_a_record_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dies_at: int, loses: bool
) -> None:
    """Wherever it dies, all events arrive: each once by its seq, in order, and the records of both partitions go on."""
    monkeypatch.setattr(module, "AIOKafkaProducer", MortalProducer)
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.001)
    log = MortalProducer.log = FakeLog(dies_at, loses)
    registry = Registry(2)
    producer = Producer(KafkaConnection(), "i")
    faults: list[BaseException] = []
    journal = Journal(Wal(tmp_path, 7), registry, "i", 7)
    sender = Sender(
        journal, registry, producer, usage_topic="usage", decisions_topic="decisions", backlogs=[],
        now_ms=lambda: START_MS, on_fault=faults.append,
    )  # fmt: skip
    journal.on_dirty = sender.note_dirty
    sender.start()
    for number in range(40):
        journal.terminal(number % 2, event_of(number), lambda: None)
        await asyncio.sleep(0.005)
    assert await sender.stop(10.0)
    await producer.stop()
    assert producer.recreated == 1
    assert faults == []
    counted: dict[tuple[int, int], list[int]] = {}
    for partition, value in log.records:
        batch = decode_record(value)
        assert isinstance(batch, Batch)
        ids = [int.from_bytes(decode_event(event).id, "big") for event in batch.events]
        assert counted.setdefault((partition, batch.seq), ids) == ids
    for partition in (0, 1):
        seqs = [seq for where, seq in counted if where == partition]
        assert seqs == list(range(1, len(seqs) + 1))
        assert [id for seq in seqs for id in counted[partition, seq]] == list(range(partition, 40, 2))
