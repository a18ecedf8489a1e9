"""The log as the sink reads it: a member of a consumer group, positions with metadata, dead letters.

Adapts aiokafka. Must not know what records hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from meter.sink.feeds import Rejected
from meter.sink.lane import LaneLost
from meter.sink.rows import Source
from schemas.codec import encode_json
from schemas.connection import KafkaConnection
from schemas.deadletters import DeadLetter
from schemas.errors import TransportError

SESSION_MS = 10_000
HEARTBEAT_MS = 3_000
MAX_PARTITION_FETCH_BYTES = 4 << 20
LOOK_MS = 5_000
"""A record that is looked at by itself comes within this time."""

_log = structlog.get_logger("history")

Message = Any
"""aiokafka ships no annotations."""


class Assignment(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no annotations
    """Which partitions are this member's; told by aiokafka from its own task."""

    def __init__(self) -> None:
        self.number = 0
        """Counts assignments: whatever was taken up under an earlier one is void."""
        self.partitions: frozenset[TopicPartition] = frozenset()
        self.idle: asyncio.Event = asyncio.Event()
        """Set while no batch is being inserted. A rebalance waits for it."""
        self.idle.set()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Give partitions up once what is under way is committed."""
        self.number += 1
        self.partitions = frozenset()
        await self.idle.wait()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Note the partitions; the worker takes them up."""
        self.number += 1
        self.partitions = frozenset(assigned)


class KafkaLog:
    """The sink's membership in its group and its producer of dead letters.

    Args:
        connection: the broker.
        group: the consumer group; `instance` is a static identity within it.
        topics: names to subscribe to; `dead_letters` is where to set aside.
        now_ms: the wall clock.
    """

    def __init__(
        self, connection: KafkaConnection, group: str, instance: str, topics: Iterable[str], dead_letters: str,
        now_ms: Callable[[], int],
    ) -> None:  # fmt: skip
        self._topics = list(topics)
        self._dead_letters = dead_letters
        self._now_ms = now_ms
        self.assignment = Assignment()
        self._connection = connection
        self._group, self._instance = group, instance
        self._consumer: Any = None
        self._producer: Any = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Connect and join the group; TransportError if the broker does not answer: try again."""
        consumer = AIOKafkaConsumer(
            group_id=self._group, group_instance_id=self._instance, client_id=self._instance,
            enable_auto_commit=False, auto_offset_reset="earliest", session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS, max_poll_interval_ms=3_600_000,
            max_partition_fetch_bytes=MAX_PARTITION_FETCH_BYTES, fetch_max_wait_ms=250,
            **self._connection.client_options(),
        )  # fmt: skip
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            await _stop(consumer)
            raise TransportError(f"broker {self._connection.bootstrap}: {error}") from error
        consumer.subscribe(self._topics, listener=self.assignment)
        self._consumer = consumer

    async def stop(self) -> None:
        """Leave. Whoever comes back under the same instance takes the partitions up at once."""
        self.assignment.idle.set()
        for client in (self._consumer, self._producer):
            if client is not None:
                await _stop(client)

    async def cluster_id(self) -> str:
        """Return the id of the Kafka cluster; empty if the broker does not tell."""
        client = self._consumer._client  # the consumer's own connection: aiokafka offers no public way
        response = await client.send(client.get_random_node(), MetadataRequest([]))
        return str(getattr(response, "cluster_id", None) or "")

    async def read(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, list[Message]]:
        """Return records by partition, in order; none after `timeout_ms`."""
        found: Mapping[TopicPartition, list[Message]] = await self._consumer.getmany(
            timeout_ms=timeout_ms, max_records=max_records
        )
        return found

    async def committed(self, partition: TopicPartition) -> tuple[int | None, str]:
        """Return the committed offset and its metadata; None without one."""
        # `committed()` of the consumer keeps the metadata to itself.
        found = await self._consumer._coordinator.fetch_committed_offsets([partition])
        position = found.get(partition)
        return (None, "") if position is None or position.offset < 0 else (position.offset, position.metadata)

    async def bounds(self, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return of each partition the first offset on the log and the one after the last."""
        # Two questions for all of them: each waits behind the fetch that is under way on its connection.
        start, end = await asyncio.gather(
            self._consumer.beginning_offsets(partitions), self._consumer.end_offsets(partitions)
        )
        return {partition: (start[partition], end[partition]) for partition in partitions}

    async def logged_ms(self, partition: TopicPartition, offset: int) -> int | None:
        """Return the broker's time of the record at `offset`; None if there is none, or it does not come soon."""
        # Apart from the group's consumer, whose fetches of other partitions go on.
        reader = AIOKafkaConsumer(client_id=self._instance, fetch_max_wait_ms=250, **self._connection.client_options())
        try:
            await reader.start()
            reader.assign([partition])
            reader.seek(partition, offset)
            found = await reader.getmany(partition, timeout_ms=LOOK_MS, max_records=1)
        finally:
            await reader.stop()
        messages = found.get(partition) or []
        return int(messages[0].timestamp) if messages and messages[0].offset == offset else None

    async def again(self, partition: TopicPartition, first: int, last: int) -> AsyncIterator[Message]:
        """Yield the records from `first` to `last`, both included; TransportError if they do not come."""
        reader = AIOKafkaConsumer(client_id=self._instance, fetch_max_wait_ms=250, **self._connection.client_options())
        try:
            await reader.start()
            reader.assign([partition])
            reader.seek(partition, first)
            while await reader.position(partition) <= last:
                found = await reader.getmany(partition, timeout_ms=LOOK_MS, max_records=2_000)
                if not found:
                    raise TransportError(f"{partition.topic}/{partition.partition}: the log does not answer")
                for message in found.get(partition) or []:
                    if message.offset <= last:
                        yield message
        except KafkaError as error:
            raise TransportError(f"{partition.topic}/{partition.partition}: {error!r}") from error
        finally:
            await reader.stop()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from `offset`; LaneLost if the partition is not ours any more."""
        try:
            self._consumer.seek(partition, offset)
        except IllegalStateError as error:
            raise LaneLost(str(error)) from error

    def end(self, partition: TopicPartition) -> int | None:
        """Return the offset after the last on the log as of the last fetch; None if unknown."""
        try:
            known: int | None = self._consumer.highwater(partition)
        except (AssertionError, IllegalStateError):
            return None
        return known

    async def commit(self, source: Source, offset: int, metadata: str) -> None:
        """See `lane.Log`."""
        try:
            await self._consumer.commit({TopicPartition(source.topic, source.partition): (offset, metadata)})
        except (CommitFailedError, IllegalStateError) as error:
            raise LaneLost(str(error)) from error
        except KafkaError as error:
            raise TransportError(f"commit of {source.topic}/{source.partition}: {error!r}") from error

    async def publish(self, topic: str, key: str, value: bytes) -> None:
        """Write a record of one's own; TransportError if the broker does not take it."""
        try:
            await (await self._writer()).send_and_wait(topic, value, key=key.encode(), partition=0)
        except KafkaError as error:
            raise TransportError(f"{topic}: {error!r}") from error

    async def _writer(self) -> Any:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    client_id=self._instance, acks="all", enable_idempotence=True, **self._connection.client_options()
                )
                await producer.start()
                self._producer = producer
        return self._producer

    async def set_aside(self, source: Source, rejected: Rejected) -> None:
        """See `lane.Log`."""
        letter = DeadLetter(
            source.topic, source.partition, rejected.offset, rejected.reason, self._now_ms(), rejected.value
        )
        try:
            await (await self._writer()).send_and_wait(
                self._dead_letters, encode_json(letter), partition=source.partition
            )
        except KafkaError as error:
            raise TransportError(f"dead letter of {source.topic}/{source.partition}: {error!r}") from error
        _log.warning("set aside", topic=source.topic, partition=source.partition, offset=rejected.offset,
                     reason=rejected.reason)  # fmt: skip


async def _stop(client: Any) -> None:
    """Stop an aiokafka client, whatever state a lost broker has left it in."""
    try:
        await client.stop()
    except KafkaError as error:
        _log.warning("leaving the broker failed", error=repr(error))
    except asyncio.CancelledError:
        # Without a broker it hands on the cancellation of its own tasks.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
