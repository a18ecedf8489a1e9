"""Reads topics by assignment, without a group, from a chosen place to the end and on; says when the end was reached.

Adapts aiokafka's consumer. What a record means is its handler's business; a handler that raises ends the reading.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.connection import KafkaConnection
from schemas.errors import TransportError

Handler = Callable[[Any, bool], None]
"""(aiokafka's ConsumerRecord, whether it was read after the end was first reached)"""
START_DEADLINE_S = 60.0
POLL_MS = 200
MAX_POLL_RECORDS = 2_000

_log = structlog.get_logger("enforcer.tail")


class Tail:
    """One consumer over some partitions.

    Args:
        name: what it reads, for readiness, logs and metrics.
        handle: called with each record, in the order of each partition.
        newest: begin this many records before the end; None: at the beginning of what is retained.
        since_ms: begin at the first record of this unix time, instead.
    """

    def __init__(
        self, connection: KafkaConnection, name: str, partitions: Iterable[TopicPartition], handle: Handler,
        newest: int | None = None, since_ms: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.partitions = list(partitions)
        self.caught_up = asyncio.Event()
        """Set once everything that was there at the start has been read."""
        self._connection = connection
        self._handle = handle
        self._newest, self._since_ms = newest, since_ms
        self._consumer: AIOKafkaConsumer | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._goals: dict[TopicPartition, int] = {}
        self._waiters: list[tuple[dict[TopicPartition, int], asyncio.Future[None]]] = []

    async def start(self) -> None:
        """Connect and find the place to begin; TransportError if the broker or a topic is not there in time."""
        self._consumer = consumer = AIOKafkaConsumer(
            **self._connection.client_options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        consumer.assign(self.partitions)
        try:
            await consumer.start()
            await self._topics_exist(consumer)
            self._goals = await consumer.end_offsets(self.partitions)
            await self._seek(consumer)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            raise TransportError(
                f"broker {self._connection.bootstrap}: cannot read {self.name}: {str(error) or type(error).__name__}"
            ) from error
        self._positions = {partition: await consumer.position(partition) for partition in self.partitions}
        self._advance()

    async def stop(self) -> None:
        """Disconnect."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError):
                await consumer.stop()

    async def run(self) -> None:
        """Read until cancelled. Whatever a handler raises comes out here."""
        consumer = self._running()
        while True:
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=MAX_POLL_RECORDS)
            live = self.caught_up.is_set()
            for records in batches.values():
                for record in records:
                    self._handle(record, live)
            for partition in self.partitions:
                # Control records of transactions move the position without a record to be seen.
                self._positions[partition] = await consumer.position(partition)
            self._advance()
            if batches:
                await asyncio.sleep(0)  # a long replay must not keep others from the loop

    async def until(self, goals: Mapping[TopicPartition, int]) -> None:
        """Return when everything below the offsets `goals` has been handled."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((dict(goals), future))
        self._advance()
        await future

    async def until_end(self) -> None:
        """Return when everything has been handled that was on the topics when this was called."""
        await self.until(await self._running().end_offsets(self.partitions))

    async def rewind(self, partitions: Iterable[TopicPartition]) -> None:
        """Go back to the beginning of some partitions, and count as not caught up until their present end."""
        wanted = list(partitions)
        consumer = self._running()
        self._goals |= await consumer.end_offsets(wanted)
        await consumer.seek_to_beginning(*wanted)
        for partition in wanted:
            self._positions[partition] = await consumer.position(partition)
        self.caught_up.clear()
        self._advance()

    def lag(self, partition: TopicPartition) -> int | None:
        """Return how many records are not read yet, as of the last answer of the broker."""
        if self._consumer is None or partition not in self._positions:
            return None
        highwater: int | None = self._consumer.highwater(partition)
        return None if highwater is None else max(0, highwater - self._positions[partition])

    def _running(self) -> Any:
        if self._consumer is None:
            raise TransportError(f"{self.name} is not being read")
        return self._consumer

    def _advance(self) -> None:
        if not self.caught_up.is_set() and self._reached(self._goals):
            self.caught_up.set()
            _log.info("read to the end", what=self.name)
        for goals, future in self._waiters:
            if not future.done() and self._reached(goals):
                future.set_result(None)
        self._waiters = [waiter for waiter in self._waiters if not waiter[1].done()]

    def _reached(self, goals: Mapping[TopicPartition, int]) -> bool:
        return all(self._positions.get(partition, -1) >= goal for partition, goal in goals.items())

    async def _topics_exist(self, consumer: Any) -> None:
        names = {partition.topic for partition in self.partitions}
        async with asyncio.timeout(START_DEADLINE_S):
            while missing := names - await consumer.topics():
                _log.info("waiting for topics", missing=sorted(missing))
                await asyncio.sleep(0.5)

    async def _seek(self, consumer: Any) -> None:
        await consumer.seek_to_beginning(*self.partitions)
        if self._newest is not None:
            begins = await consumer.beginning_offsets(self.partitions)
            for partition, end in self._goals.items():
                consumer.seek(partition, max(begins[partition], end - self._newest))
        if self._since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(self.partitions, self._since_ms))
            for partition, place in found.items():
                consumer.seek(partition, self._goals[partition] if place is None else place.offset)
