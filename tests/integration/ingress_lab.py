"""A replica's governance over a real broker; the meter is the real fold, hosted by a plain consumer in the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from ingress.adapters.governance import Governance
from ingress.core.plan import Hold, Plan
from ingress.core.resolver import Resolver
from ingress.core.waiting import Ticket
from meter.core.shard import Shard
from meter.core.snapshots import Stamp, snapshot
from schemas.codec import decode_event, decode_record, encode_event, encode_json, encode_snapshot
from schemas.connection import KafkaConnection
from schemas.ids import format_id, uuid7
from schemas.keys import VirtualKey
from schemas.policy import PolicyRecord
from schemas.published import HEARTBEAT_MS
from schemas.tokens import TokenUsage
from schemas.topics import KEYS, POLICY, QUOTA_UPDATES, USAGE, Topic, topic_name
from schemas.usage import Batch, Evict, UsageEvent
from tests import stacks
from tests.unit.ingress import governed

DEADLINE_S = 20.0
MARGIN_S = 0.01


def now_ms() -> int:
    """Return unix milliseconds."""
    return time.time_ns() // 1_000_000


async def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until `condition` holds."""
    try:
        async with asyncio.timeout(deadline_s):
            while not condition():
                await asyncio.sleep(MARGIN_S)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s} s: {what}. {stacks.of_tasks()}") from None


class Lab:
    """Topics of one deployment, and hands to write to them."""

    def __init__(self, connection: KafkaConnection, producer: AIOKafkaProducer) -> None:
        self.connection = connection
        self.producer = producer
        self.faults: list[BaseException] = []

    def name(self, topic: Topic) -> str:
        """Return the topic's name in this deployment."""
        return topic_name(topic, self.connection.topic_prefix)

    async def put(self, topic: Topic, key: str | None, value: bytes | None, partition: int = 0) -> None:
        """Write a record and wait until the broker has it."""
        await self.producer.send_and_wait(
            self.name(topic), value, key=key.encode() if key is not None else None, partition=partition
        )

    async def apply(self, version: int, document: str = governed.POLICY) -> None:
        """Publish a policy version."""
        record = PolicyRecord(version, document, "", now_ms(), "test", "", {"small": governed.PRICE})
        await self.put(POLICY, record.key, encode_json(record))

    async def issue(self, key: VirtualKey) -> None:
        """Publish a key."""
        await self.put(KEYS, key.id, encode_json(key))

    def governance(self, path: Path, instance: str = "ingress-1", **options: Any) -> Governance:
        """Return a replica that has not started."""
        return Governance(
            self.connection,
            instance,
            path,
            now_ms=now_ms,
            on_resolver=lambda resolver: None,
            on_fault=self.faults.append,
            **options,
        )

    async def usage(self) -> list[list[Batch | Evict]]:
        """Return everything on the usage topic, by partition."""
        consumer = AIOKafkaConsumer(**self.connection.client_options(), group_id=None)
        await consumer.start()
        try:
            places = [TopicPartition(self.name(USAGE), p) for p in range(self.connection.partitions)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            found: list[list[Batch | Evict]] = [[] for _ in places]
            for place in places:
                consumer.seek(place, 0)
            while [place for place in places if await consumer.position(place) < ends[place]]:
                for place, messages in (await consumer.getmany(timeout_ms=100)).items():
                    found[place.partition] += [decode_record(message.value) for message in messages]
            return found
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def meter(self) -> AsyncIterator[list[Shard]]:
        """Fold and publish while the block runs."""
        shards = [Shard(p) for p in range(self.connection.partitions)]
        task = asyncio.create_task(self._fold(shards), name="lab-meter")
        try:
            yield shards
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _fold(self, shards: list[Shard]) -> None:
        consumer = AIOKafkaConsumer(**self.connection.client_options(), group_id=None)
        await consumer.start()
        try:
            places = [TopicPartition(self.name(USAGE), shard.partition) for shard in shards]
            consumer.assign(places)
            for place in places:
                consumer.seek(place, 0)
            numbers = [0] * len(shards)
            published_ms = 0
            while True:
                for place, messages in (await consumer.getmany(timeout_ms=10)).items():
                    for message in messages:
                        fault = shards[place.partition].apply(message.offset, message.timestamp, message.value)
                        assert fault is None, fault
                beats = now_ms() - published_ms > HEARTBEAT_MS
                published_ms = now_ms() if beats else published_ms
                for shard in shards:
                    full = shard.joined or not numbers[shard.partition]
                    if full or shard.urgent or beats:
                        numbers[shard.partition] += 1
                        stamp = Stamp("lab", numbers[shard.partition], now_ms())
                        for part in snapshot(shard, stamp, full):
                            await self.put(QUOTA_UPDATES, None, encode_snapshot(part), shard.partition)
        finally:
            await consumer.stop()


@asynccontextmanager
async def lab(connection: KafkaConnection) -> AsyncIterator[Lab]:
    """Yield hands on the topics of `connection`, which exist."""
    producer = AIOKafkaProducer(**connection.client_options())
    await producer.start()
    try:
        yield Lab(connection, producer)
    finally:
        await producer.stop()


class Client:
    """Sends requests through a replica's governance as the path does."""

    def __init__(self, replica: Governance, secret: bytes = governed.SECRET) -> None:
        self.replica = replica
        self.secret = secret
        self.answered: set[str] = set()
        """Ids of events whose last bytes were handed out."""
        self.dispatched: set[str] = set()
        self._noise = 0
        self._ticket: Ticket | None = None
        """Tells the meter that this client wants room, until it has some."""

    def plan(self) -> Plan:
        """Return the plan of a request."""
        resolver = self.replica.resolver
        assert isinstance(resolver, Resolver)
        key = resolver.authenticate(self.secret, now_ms())
        assert isinstance(key, VirtualKey), key
        plan = resolver.plan(key, "small", "chat.completions")
        assert isinstance(plan, Plan), plan
        return plan

    def _event(self, plan: Plan, hold: Hold, event_id: bytes, status: str, tokens: int) -> bytes:
        return encode_event(
            UsageEvent(
                event_id, event_id, 1, status, "chat.completions", now_ms(), 1, 1, 200, False, "provider",
                TokenUsage(tokens, 0), tokens, 1, tokens, tokens, "small", "", bytes(16), plan.attribution, hold.rows,
            )
        )  # fmt: skip

    def begin(self, tokens: int = 10) -> Callable[[], None] | None:
        """Admit a request; return what ends it, or None if it was refused."""
        plan = self.plan()
        hold = plan.admit(now_ms(), tokens, tokens)
        waiting = self.replica.registry.waiting
        if not isinstance(hold, Hold):
            if hold.may_wait and self._ticket is None:
                ticket = Ticket(
                    plan, tokens, tokens, 0, 0, tier=plan.tier, since_ms=now_ms(), until_ms=now_ms() + 60_000
                )
                self._ticket = ticket if waiting.add(ticket, hold) else None
            return None
        if self._ticket is not None:
            waiting.cancel(self._ticket)
            self._ticket = None
        self._noise += 1
        event_id = uuid7(now_ms(), self._noise.to_bytes(10, "big"))
        name = format_id(event_id)
        journal = self.replica.journal
        journal.admitted(
            plan.partition, self._event(plan, hold, event_id, "unknown", tokens), lambda: self.dispatched.add(name)
        )

        def end() -> None:
            hold.settle(1, tokens, tokens)
            event = self._event(plan, hold, event_id, "settled", tokens)
            journal.terminal(plan.partition, event, lambda: self.answered.add(name))

        return end

    def send(self, tokens: int = 10) -> bool:
        """Admit and end a request; False if it was refused."""
        end = self.begin(tokens)
        if end is not None:
            end()
        return end is not None


def events_of(records: list[list[Batch | Evict]]) -> list[UsageEvent]:
    """Return all events, each record counted once."""
    seen = {(p, r.instance, r.epoch, r.seq): r for p, rs in enumerate(records) for r in rs if isinstance(r, Batch)}
    return [decode_event(event) for record in seen.values() for event in record.events]


def ids_of(records: list[list[Batch | Evict]]) -> list[str]:
    """Return the ids of all events, sorted; an id that is there twice was sent twice."""
    return sorted(format_id(event.id) for event in events_of(records))
