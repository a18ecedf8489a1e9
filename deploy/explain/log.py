"""Reads a decision, its policy version and its partition of `usage` from a broker. Adapts aiokafka; decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deploy.explain.witness import Witness
from schemas.codec import decode_decisions, decode_json
from schemas.connection import KafkaConnection
from schemas.decisions import Decision
from schemas.errors import DecodeError, TransportError
from schemas.policy import PolicyRecord
from schemas.topics import DECISIONS, POLICY, USAGE, Topic, topic_name

START_S = 30.0
ARRIVES_WITHIN_S = 3.0
"""A decision that was made a moment ago may still be on its way."""
EARLIER_MS = 60_000
"""Clocks of replicas and broker may differ by this much."""
POLL_MS = 200
TELL_EVERY = 50_000

Say = Callable[[str], None]


class Found(NamedTuple):
    """A decision, and where it was."""

    decision: Decision
    partition: int


class Lost(NamedTuple):
    """Why a partition cannot be folded up to the fence."""

    begins: int
    ends: int


@contextlib.asynccontextmanager
async def reading(connection: KafkaConnection) -> AsyncIterator[LogReader]:
    """Yield a reader of the deployment's topics. TransportError if the broker does not answer."""
    consumer = AIOKafkaConsumer(
        **connection.client_options(), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
    )  # fmt: skip
    try:
        async with asyncio.timeout(START_S):
            await consumer.start()
        yield LogReader(connection, consumer)
    except (KafkaError, OSError, TimeoutError) as error:
        raise TransportError(f"broker {connection.bootstrap}: {str(error) or type(error).__name__}") from error
    finally:
        with contextlib.suppress(KafkaError):
            await consumer.stop()


class LogReader:
    """Reads topics from where it is told to their present end."""

    def __init__(self, connection: KafkaConnection, consumer: AIOKafkaConsumer) -> None:
        self._connection, self._consumer = connection, consumer

    async def decision(self, decision_id: bytes) -> Found | None:
        """Return the decision with this id; None if no partition of `decisions` has it."""
        parts = self._parts(DECISIONS)
        since_ms = max(0, int.from_bytes(decision_id[:6], "big") - EARLIER_MS)
        places = await self._consumer.offsets_for_times(dict.fromkeys(parts, since_ms))
        deadline = time.monotonic() + ARRIVES_WITHIN_S
        positions: dict[TopicPartition, int] = {}
        while True:
            ends = await self._consumer.end_offsets(parts)
            for part in parts:
                place = places.get(part)
                positions.setdefault(part, place.offset if place is not None else ends[part])
            async for record in self._records(positions, ends):
                positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
                with contextlib.suppress(DecodeError):
                    for decision in decode_decisions(record.value or b""):
                        if decision.id == decision_id:
                            return Found(decision, record.partition)
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(POLL_MS / 1000)

    async def policy(self, version: int) -> PolicyRecord | None:
        """Return a version of the policy; None if the topic does not have it."""
        parts = self._parts(POLICY)
        begins, ends = await self._consumer.beginning_offsets(parts), await self._consumer.end_offsets(parts)
        found = None
        async for record in self._records(begins, ends):
            with contextlib.suppress(DecodeError):
                policy = decode_json(PolicyRecord, record.value or b"")
                found = policy if policy.version == version else found
        return found

    async def follow(self, witness: Witness, partition: int, say: Say) -> Lost | None:
        """Feed a partition of `usage` to `witness`, from its beginning until it has seen enough."""
        part = TopicPartition(topic_name(USAGE, self._connection.topic_prefix), partition)
        places = await self._consumer.beginning_offsets([part])
        ends = await self._consumer.end_offsets([part])
        if places[part] > 0 or ends[part] < witness.decision.fence:
            return Lost(places[part], ends[part])
        deadline: float | None = None
        while True:
            async for record in self._records(places, ends):
                places[part] = record.offset + 1
                witness.feed(record.offset, record.timestamp, record.value or b"")
                if witness.records % TELL_EVERY == 0:
                    say(f"read {record.offset:,} of {witness.decision.fence:,} records of partition {partition}")
                if witness.is_done:
                    return None
            witness.end()
            # What the replica told after the decision may be on its way.
            deadline = deadline or time.monotonic() + ARRIVES_WITHIN_S
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(POLL_MS / 1000)
            ends = await self._consumer.end_offsets([part])

    async def _records(
        self, begins: dict[TopicPartition, int], ends: dict[TopicPartition, int]
    ) -> AsyncIterator[Any]:  # fmt: skip
        """Yield the records of some partitions between two offsets each."""
        consumer = self._consumer
        wanted = [part for part in begins if begins[part] < ends[part]]
        consumer.assign(wanted)
        for part in wanted:
            consumer.seek(part, begins[part])
        while wanted:
            batches = await consumer.getmany(timeout_ms=POLL_MS)
            for part, records in batches.items():
                for record in records:
                    if record.offset < ends[part]:
                        yield record
            wanted = [part for part in wanted if await consumer.position(part) < ends[part]]

    def _parts(self, topic: Topic) -> list[TopicPartition]:
        count = self._connection.partitions if topic.sharded else 1
        name = topic_name(topic, self._connection.topic_prefix)
        return [TopicPartition(name, number) for number in range(count)]
