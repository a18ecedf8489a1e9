"""An enforcer process over a real broker, and the meter's part played by records written to its topics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.codec import encode_decisions, encode_snapshot
from schemas.connection import KafkaConnection
from schemas.decisions import Decision
from schemas.ids import shard_of
from schemas.quota import LedgerState, Member, RowState, Snapshot, Weight
from schemas.topics import DECISIONS, QUOTA_UPDATES, Topic, topic_name

TOKEN = "test-admin-token-0123456789"
DEADLINE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]

POLICY = """
version: 1
orgs:
  acme: {projects: [chat], teams: [search, ml], users: [ada]}
providers:
  openai: {protocol: openai, base_url: simulated}
models:
  gpt-4o-mini: {provider: openai}
  in-house: {provider: openai}
limits:
  - {name: key-minute, per: [key], rpm: 20}
budgets:
  - {name: team-month, per: [team], amount: 100 USD, period: month, thresholds: [50%, 100%]}
"""


def now_ms() -> int:
    """Return unix milliseconds."""
    return time.time_ns() // 1_000_000


class Enforcer:
    """A process `python -m enforcer` and a client of its API."""

    def __init__(self, connection: KafkaConnection, **settings: str) -> None:
        self.connection = connection
        self._settings = {f"TOLLWAY_ENFORCER_{name.upper()}": value for name, value in settings.items()}
        self.port = _free_port()
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False,
            timeout=20.0,
        )  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TOLLWAY_ENFORCER_PORT": str(self.port),
            "TOLLWAY_ENFORCER_ADMIN_TOKEN": TOKEN,
            "TOLLWAY_ENFORCER_KAFKA__BOOTSTRAP": self.connection.bootstrap,
            "TOLLWAY_ENFORCER_KAFKA__TOPIC_PREFIX": self.connection.topic_prefix,
            "TOLLWAY_ENFORCER_KAFKA__PARTITIONS": str(self.connection.partitions),
            **self._settings,
        }
        self.process = await asyncio.create_subprocess_exec(sys.executable, "-m", "enforcer", env=environment)
        await until(self._is_ready, "the enforcer is ready")

    async def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, f"the enforcer ended with {self.process.returncode}"
        try:
            return (await self.client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    async def close(self) -> None:
        """End the process if it still runs."""
        await self.client.aclose()
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def get(self, path: str) -> Any:
        """Return the JSON of a GET that must succeed."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def apply(self, document: str = POLICY, **more: Any) -> dict[str, Any]:
        """Apply a document that must be accepted."""
        answer = await self.client.post("/v1/policy", json={"document": document, "actor": "tester", **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def create_key(self, **fields: Any) -> dict[str, Any]:
        """Issue a key that must be granted."""
        answer = await self.client.post("/v1/keys", json={"org": "acme", "team": "search", **fields})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextlib.asynccontextmanager
async def running(connection: KafkaConnection, **settings: str) -> AsyncIterator[Enforcer]:
    """Yield an enforcer that is ready; it says nothing of a silent meter, which most tests have, unless told to."""
    enforcer = Enforcer(connection, **{"metering_silent_ms": "60000"} | settings)
    try:
        await enforcer.start()
        yield enforcer
    finally:
        await enforcer.close()


async def until(check: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first truthy result of the coroutine function `check`; fail at the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if found := await check():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {deadline_s:g} s: {what}")


async def records(connection: KafkaConnection, topic: Topic, partition: int = 0) -> list[Any]:
    """Return the committed records of a topic's partition, from beginning to end."""
    where = TopicPartition(topic_name(topic, connection.topic_prefix), partition)
    consumer = AIOKafkaConsumer(**connection.client_options(), group_id=None, enable_auto_commit=False,
                                auto_offset_reset="earliest", isolation_level="read_committed")  # fmt: skip
    consumer.assign([where])
    await consumer.start()
    try:
        end = (await consumer.end_offsets([where]))[where]
        found: list[Any] = []
        await consumer.seek_to_beginning(where)
        while await consumer.position(where) < end:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                found += batch
        return found
    finally:
        await consumer.stop()


async def values(connection: KafkaConnection, topic: Topic) -> list[Any]:
    """Return the decoded JSON values of a topic's committed records, None for tombstones."""
    return [None if record.value is None else json.loads(record.value) for record in await records(connection, topic)]


class FakeMeter:
    """Publishes snapshots and decisions as the meter and the ingress do."""

    def __init__(self, connection: KafkaConnection, producer: AIOKafkaProducer) -> None:
        self._connection, self._producer = connection, producer
        self._number = 0
        self.fence = 0

    async def publish(
        self, org: str, rows: list[RowState], ledger: list[LedgerState] | None = None, partition: int | None = None
    ) -> None:
        """Publish a full snapshot of the partition of `org`, or of another."""
        self._number += 1
        self.fence += 10
        if partition is None:
            partition = shard_of(org, self._connection.partitions)
        snapshot = Snapshot(
            partition=partition, publisher="fake", number=self._number, fence=self.fence, published_ms=now_ms(),
            log_ms=now_ms(), full=True, chunk=0, chunks=1,
            members=[Member("ingress-1", 1, 5, Weight(1, 1, 0))], rows=rows, ledger=ledger or [],
        )  # fmt: skip
        await self._send(QUOTA_UPDATES, partition, encode_snapshot(snapshot))

    async def decide(self, decisions: list[Decision]) -> None:
        """Publish decisions."""
        await self._send(DECISIONS, 0, encode_decisions(decisions))

    async def raw(self, topic: Topic, partition: int, value: bytes) -> None:
        """Write bytes as they are."""
        await self._send(topic, partition, value)

    async def _send(self, topic: Topic, partition: int, value: bytes) -> None:
        name = topic_name(topic, self._connection.topic_prefix)
        await self._producer.send_and_wait(name, value, partition=partition)


@contextlib.asynccontextmanager
async def fake_meter(connection: KafkaConnection) -> AsyncIterator[FakeMeter]:
    """Yield a publisher."""
    producer = AIOKafkaProducer(**connection.client_options(), acks="all")
    await producer.start()
    try:
        yield FakeMeter(connection, producer)
    finally:
        await producer.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
