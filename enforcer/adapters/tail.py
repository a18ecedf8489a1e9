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

from schemas.connection import KafkaConnection, fetch_fault
from schemas.errors import TransportError

Handler = Callable[[Any, bool], None]
"""(aiokafka's ConsumerRecord, whether it was read after the end was first reached)"""
Places = dict[TopicPartition, int]
START_DEADLINE_S = 60.0
POLL_MS = 200
MAX_POLL_RECORDS = 2_000

_log = structlog.get_logger("enforcer.tail")


class Offsets:
    """Asks where topics begin and end.

    It has a connection of its own, because a fetch that waits for records holds up its consumer's for half a second.
    """

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect; TransportError if there is no broker."""
        self._consumer = _consumer(self._connection)
        try:
            await self._consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            raise TransportError(f"broker {self._connection.bootstrap}: {_words(error)}") from error

    async def stop(self) -> None:
        """Disconnect."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError):
                await consumer.stop()

    async def begins(self, partitions: Iterable[TopicPartition]) -> Places:
        """Return the first offset of each partition."""
        return dict(await self._running().beginning_offsets(list(partitions)))

    async def ends(self, partitions: Iterable[TopicPartition]) -> Places:
        """Return the offset behind the last committed record of each partition."""
        return dict(await self._running().end_offsets(list(partitions)))

    async def at(self, partitions: Iterable[TopicPartition], unix_ms: int) -> dict[TopicPartition, int | None]:
        """Return the offset of the first record at or after a time in each partition; None if there is none."""
        found = await self._running().offsets_for_times(dict.fromkeys(partitions, unix_ms))
        return {partition: None if place is None else place.offset for partition, place in found.items()}

    async def until_topics(self, names: set[str]) -> None:
        """Return when the broker has these topics; TimeoutError if it does not get them."""
        async with asyncio.timeout(START_DEADLINE_S):
            while missing := names - await self._running().topics():
                _log.info("waiting for topics", missing=sorted(missing))
                await asyncio.sleep(0.5)

    def _running(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise TransportError(f"broker {self._connection.bootstrap} is not connected")
        return self._consumer


class Tail:
    """One consumer over some partitions.

    Args:
        offsets: where to ask for the ends of topics; started before this.
        name: what it reads, for readiness, logs and metrics.
        handle: called with each record, in the order of each partition.
        newest: begin this many records before the end; None: at the beginning of what is retained.
        since_ms: begin at the first record of this unix time, instead.
    """

    def __init__(
        self, connection: KafkaConnection, offsets: Offsets, name: str, partitions: Iterable[TopicPartition],
        handle: Handler, newest: int | None = None, since_ms: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.partitions = list(partitions)
        self.caught_up = asyncio.Event()
        """Set once everything that was there at the start has been read."""
        self._connection, self._offsets = connection, offsets
        self._handle = handle
        self._newest, self._since_ms = newest, since_ms
        self._consumer: AIOKafkaConsumer | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._goals: dict[TopicPartition, int] = {}
        self._waiters: list[tuple[dict[TopicPartition, int], asyncio.Future[None]]] = []

    async def start(self) -> None:
        """Connect and find the place to begin; TransportError if the broker or a topic is not there in time."""
        self._consumer = consumer = _consumer(self._connection)
        consumer.assign(self.partitions)
        try:
            await self._offsets.until_topics({partition.topic for partition in self.partitions})
            self._goals = await self._offsets.ends(self.partitions)
            begins = await self._begins()
            await consumer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            raise TransportError(
                f"broker {self._connection.bootstrap}: cannot read {self.name}: {_words(error)}"
            ) from error
        self._seek(begins)

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
            if not batches and (fault := fetch_fault(consumer)) is not None:
                raise fault
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
        await self.until(await self._offsets.ends(self.partitions))

    async def rewind(self, partitions: Iterable[TopicPartition]) -> None:
        """Go back to the beginning of some partitions, and count as not caught up until their present end."""
        wanted = list(partitions)
        self._goals |= await self._offsets.ends(wanted)
        begins = await self._offsets.begins(wanted)
        self.caught_up.clear()
        self._seek(begins)

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

    async def _begins(self) -> Places:
        begins = await self._offsets.begins(self.partitions)
        if self._newest is not None:
            begins = {part: max(begin, self._goals[part] - self._newest) for part, begin in begins.items()}
        if self._since_ms is not None:
            places = await self._offsets.at(self.partitions, self._since_ms)
            begins = {part: self._goals[part] if place is None else place for part, place in places.items()}
        return begins

    def _seek(self, begins: Places) -> None:
        for partition, offset in begins.items():
            self._running().seek(partition, offset)
            self._positions[partition] = offset
        self._advance()


def _consumer(connection: KafkaConnection) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **connection.client_options(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
