"""How deliveries go on when a producer ends; the real one is tested against a broker."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, NamedTuple

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError, OutOfOrderSequenceNumber, UnknownError

from ingress.adapters import producer as module
from ingress.adapters.producer import Producer
from schemas.connection import KafkaConnection


class Sent(NamedTuple):
    """What a producer tells of a record."""

    offset: int


class FakeKafkaProducer:
    """Fails as it is told to, then takes records."""

    made: ClassVar[list[FakeKafkaProducer]] = []
    start_faults: ClassVar[list[Exception]] = []
    faults: ClassVar[list[Exception]] = []

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.is_open = False
        self.made.append(self)

    async def start(self) -> None:
        """Connect, or fail."""
        if self.start_faults:
            raise self.start_faults.pop(0)
        self.is_open = True

    async def send(self, topic: str, value: bytes, partition: int) -> asyncio.Future[Sent]:
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
