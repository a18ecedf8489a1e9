"""A meter process under test: started from the sources, watched over HTTP and on its topics, killed by its id."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy import topics
from schemas.codec import decode_snapshot
from schemas.connection import KafkaConnection
from schemas.quota import LedgerState, RowState, Snapshot
from schemas.topics import QUOTA_UPDATES, USAGE, USAGE_DLQ, Topic, topic_name
from tests import stacks

ROOT = Path(__file__).parents[2]
READY_S = 60.0
POLL_S = 0.02


class MeterProcess:
    """`python -m meter` in a process of its own."""

    def __init__(self, connection: KafkaConnection, log: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._log = log
        self._environment = dict(os.environ) | {
            "PYTHONPATH": str(ROOT),
            "TOLLWAY_METER_KAFKA__BOOTSTRAP": connection.bootstrap,
            "TOLLWAY_METER_KAFKA__TOPIC_PREFIX": connection.topic_prefix,
            "TOLLWAY_METER_KAFKA__PARTITIONS": str(connection.partitions),
            "TOLLWAY_METER_PORT": str(self._port),
            **{f"TOLLWAY_METER_{name}".upper(): value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; its log is appended to the file."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "meter"], cwd=self._log.parent, env=self._environment, stderr=log
            )

    async def ready(self) -> float:
        """Wait until it is ready; return how long that took, in seconds."""
        began = time.monotonic()
        await until(lambda: self._answers("/readyz"), READY_S, self.log_text)
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill −9, and wait for its end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> tuple[int, float]:
        """Ask it to stop; return its exit code and how long that took, in seconds."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30), time.monotonic() - began

    def end(self) -> None:
        """Make sure that nothing is left running."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{self._port}/metrics")).text
        lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def waiting(self) -> list[str]:
        """Return what it says that it still lacks."""
        async with httpx.AsyncClient() as client:
            lacks: list[str] = (await client.get(f"http://127.0.0.1:{self._port}/readyz")).json()["waiting"]
        return lacks

    def log_text(self) -> str:
        """Return the end of its log."""
        return self._log.read_text()[-3_000:]

    async def _answers(self, path: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the meter has ended: {self.log_text()}"
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://127.0.0.1:{self._port}{path}")).is_success
        except httpx.HTTPError:
            return False


class View:
    """What a reader of `quota.updates` knows: every snapshot installed in order."""

    def __init__(self) -> None:
        self.rows: dict[str, RowState] = {}
        self.ledger: dict[str, LedgerState] = {}
        self.fences: dict[int, int] = {}
        self.members: dict[int, list[tuple[str, int, int]]] = {}
        self.publishers: set[str] = set()
        self.went_back: list[str] = []
        self.overbooked: list[RowState] = []
        self.rights_seen = 0
        """Rows in which anybody had a right."""
        self.seen = 0

    def install(self, snapshot: Snapshot) -> None:
        """Take over a snapshot."""
        fence = self.fences.get(snapshot.partition, 0)
        if snapshot.fence < fence:
            self.went_back.append(f"{snapshot.publisher}: partition {snapshot.partition}, {fence} to {snapshot.fence}")
        self.fences[snapshot.partition] = snapshot.fence
        self.members[snapshot.partition] = [(m.instance, m.epoch, m.hw) for m in snapshot.members]
        self.publishers.add(snapshot.publisher)
        self.rows.update({row.row: row for row in snapshot.rows})
        for row in snapshot.rows:
            gone = row.settled + row.inflight - sum(row.nets)
            self.rights_seen += any(row.rights)
            if row.limit >= 0 and sum(row.rights) + gone > row.limit:
                self.overbooked.append(row)
        self.ledger.update({entry.key: entry for entry in snapshot.ledger})
        self.seen += 1


class Lab:
    """The topics of one deployment, with a producer and a view that follows `quota.updates`."""

    def __init__(self, connection: KafkaConnection, producer: Any, consumer: Any) -> None:
        self.connection = connection
        self.view = View()
        self.producer = producer
        self._consumer = consumer
        self.on_snapshot: Callable[[Snapshot], None] | None = None

    def topic(self, topic: Topic) -> str:
        """Return the deployment's name of a topic."""
        return topic_name(topic, self.connection.topic_prefix)

    async def append(self, partition: int, value: bytes) -> None:
        """Append a record to `usage`."""
        await self.producer.send_and_wait(self.topic(USAGE), value, partition=partition)

    async def ends(self) -> dict[int, int]:
        """Return where `usage` ends, by partition."""
        tps = [TopicPartition(self.topic(USAGE), number) for number in range(self.connection.partitions)]
        return {tp.partition: end for tp, end in (await self._consumer.end_offsets(tps)).items()}

    async def dead_letters(self, count: int) -> list[bytes]:
        """Wait for dead letters, and return them."""
        consumer = AIOKafkaConsumer(**self.connection.client_options(), auto_offset_reset="earliest")
        await consumer.start()
        try:
            name = self.topic(USAGE_DLQ)
            consumer.assign([TopicPartition(name, number) for number in range(self.connection.partitions)])
            letters: list[bytes] = []
            async with asyncio.timeout(20):
                while len(letters) < count:
                    letters.append((await consumer.getone()).value)
            return letters
        finally:
            await consumer.stop()

    async def follow(self) -> None:
        """Install snapshots for ever."""
        async for message in self._consumer:
            snapshot = decode_snapshot(message.value)
            self.view.install(snapshot)
            if self.on_snapshot is not None:
                self.on_snapshot(snapshot)


@asynccontextmanager
async def laboratory(bootstrap: str, prefix: str, partitions: int = 2) -> AsyncIterator[Lab]:
    """Create the topics of a deployment, and follow what its meter publishes."""
    connection = KafkaConnection(bootstrap=bootstrap, topic_prefix=prefix, partitions=partitions)
    await topics.create(connection)
    producer = AIOKafkaProducer(**connection.client_options(), linger_ms=0)
    consumer = AIOKafkaConsumer(**connection.client_options(), auto_offset_reset="earliest", fetch_max_wait_ms=20)
    await producer.start()
    await consumer.start()
    consumer.assign([TopicPartition(topic_name(QUOTA_UPDATES, prefix), number) for number in range(partitions)])
    lab = Lab(connection, producer, consumer)
    following = asyncio.create_task(lab.follow(), name="follow quota.updates")
    try:
        yield lab
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await producer.stop()
        await consumer.stop()


async def until(condition: Callable[[], Any], deadline_s: float, why: Callable[[], object] = lambda: "") -> None:
    """Wait until `condition` (a function or a coroutine function) holds; AssertionError with `why` if it never does."""
    end = time.monotonic() + deadline_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end, f"not within {deadline_s} s: {why()}. {stacks.of_tasks()}"
        await asyncio.sleep(POLL_S)
