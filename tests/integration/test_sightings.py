"""What was seen of batches, on a real broker: at once, twice, while the broker is away, and when it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from deploy import topics
from ingress.adapters import sightings as module
from ingress.adapters.producer import Producer
from ingress.adapters.sightings import Sightings
from ingress.core.stats import Stats
from schemas.batches import BatchSeen, Line, LinesSeen, Sighting
from schemas.codec import decode_sighting, encode_attribution
from schemas.connection import KafkaConnection
from schemas.tokens import TokenUsage
from schemas.topics import BATCHES, topic_name
from schemas.usage import Attribution
from tests.fixtures.broker import Broker

WHO = encode_attribution(Attribution("acme", key_id="k-1"))
SEEN = BatchSeen("oai", "batch_1", 5, WHO, True, "chat.completions")
LINES = LinesSeen("oai", "", "file-1", 6, WHO, [Line(bytes(16), "m", TokenUsage(1, 2))] * 500)


class Log:
    """The topic of a deployment, and a replica that tells on it."""

    def __init__(self, connection: KafkaConnection) -> None:
        self.connection = connection
        self.topic = topic_name(BATCHES, connection.topic_prefix)
        self.stats = Stats()

    def sightings(self, **changes: Any) -> Sightings:
        """Return a replica's, not connected."""
        connection = self.connection.model_copy(update=changes)
        return Sightings(Producer(connection, "ingress-1-batches"), self.topic, self.stats)

    async def records(self) -> list[ConsumerRecord[bytes, bytes]]:
        """Return all of the topic."""
        partition = TopicPartition(self.topic, 0)
        consumer = AIOKafkaConsumer(bootstrap_servers=self.connection.bootstrap, enable_auto_commit=False)
        async with consumer:
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            end = (await consumer.end_offsets([partition]))[partition]
            found: list[ConsumerRecord[bytes, bytes]] = []
            while await consumer.position(partition) < end:
                for batch in (await consumer.getmany(partition, timeout_ms=500)).values():
                    found += batch
            return found


@pytest_asyncio.fixture
async def log(broker: Broker, topic_prefix: str) -> AsyncIterator[Log]:
    """Yield a deployment's topic."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=2)
    await topics.create(connection)
    yield Log(connection)


async def tell(sightings: Sightings, *told: Sighting) -> list[bool]:
    """Tell, and return what came of each."""
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[bool]] = [loop.create_future() for _ in told]
    for sighting, answer in zip(told, answers, strict=True):
        sightings.tell(sighting, answer.set_result)
        assert not answer.done()
    async with asyncio.timeout(20):
        return await asyncio.gather(*answers)


async def test_what_is_told_is_on_the_topic(log: Log) -> None:
    """Acknowledged records, as they were seen, under the names that the topic is described with."""
    sightings = log.sightings()
    assert await tell(sightings, SEEN, LINES) == [True, True]
    await sightings.stop(5.0)
    found = {record.key: decode_sighting(record.value) for record in await log.records() if record.value}
    assert found == {b"oai/batch_1": SEEN, b"oai/file-1": LINES}
    assert (log.stats.sightings, log.stats.batch_lines) == ({"recorded": 2}, 500)


async def test_batch_that_looks_the_same_is_not_told_again(log: Log) -> None:
    """Clients poll; whoever asks and whenever, only what is new is written, and lines always."""
    sightings = log.sightings()
    later = msgspec.structs.replace(SEEN, seen_ms=9, attribution=encode_attribution(Attribution("other")))
    over = msgspec.structs.replace(later, is_over=True)
    for told in (SEEN, later, over, later, LINES, LINES):
        assert await tell(sightings, told) == [True]
    await sightings.stop(5.0)
    assert log.stats.sightings == {"recorded": 4, "known": 2}
    assert len(await log.records()) == 4


async def test_late_sighting_is_told_as_late_and_sent_all_the_same(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits hears so in time; once the broker can be reached, the log has it."""
    monkeypatch.setattr(module, "TELL_S", 0.2)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    sightings = log.sightings(bootstrap=f"127.0.0.1:{port}")
    assert await tell(sightings, SEEN) == [False]
    assert sightings.waiting_bytes > 0
    host, _, real = log.connection.bootstrap.rpartition(":")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, int(real))
        await asyncio.wait(
            [asyncio.create_task(_copy(reader, up_writer)), asyncio.create_task(_copy(up_reader, writer))]
        )

    server = await asyncio.start_server(forward, "127.0.0.1", port)
    async with asyncio.timeout(20):
        while sightings.waiting_bytes:
            await asyncio.sleep(0.02)
    await sightings.stop(5.0)
    server.close()
    assert [decode_sighting(record.value or b"") for record in await log.records()] == [SEEN]
    assert log.stats.sightings == {"late": 1, "recorded": 1}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_nothing_is_kept_without_bound_for_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much is refused at once; a stop gives the rest up within its time."""
    stats = Stats()
    sightings = Sightings(Producer(KafkaConnection(bootstrap="127.0.0.1:9"), "i"), "batches", stats)
    await sightings.stop(0.0)
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 20_000)
    kept: list[bool] = []
    sightings.tell(LINES, kept.append)
    await asyncio.sleep(0)
    assert await tell(sightings, LINES) == [False]
    assert (stats.sightings, kept) == ({"refused": 1}, [])
    async with asyncio.timeout(10):
        await sightings.stop(0.1)
    assert sightings.waiting_bytes == 0
