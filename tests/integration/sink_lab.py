"""The history as a process of its own, a producer that plays replicas, and the questions that tests ask."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.topics import create
from schemas.connection import KafkaConnection
from schemas.crash_points import VARIABLE

TOKEN = "a-token-for-tests-only"
DEADLINE_S = 60.0


class SinkProcess:
    """`python -m meter.sink` over a state directory; it can be stopped, killed and started again."""

    def __init__(self, connection: KafkaConnection, state_dir: Path, **settings: object) -> None:
        self.state_dir = state_dir
        self.log = state_dir.parent / f"{state_dir.name}.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        values = {
            "kafka__bootstrap": connection.bootstrap, "kafka__topic_prefix": connection.topic_prefix,
            "kafka__partitions": connection.partitions, "port": self._port, "state_dir": state_dir,
            "admin_token": TOKEN, **settings,
        }  # fmt: skip
        self._environment = {**os.environ, **{f"TOLLWAY_HISTORY_{name}".upper(): str(v) for name, v in values.items()}}
        self._process: asyncio.subprocess.Process | None = None
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._port}", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False,
            timeout=30,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """The id of the process that runs."""
        assert self._process is not None
        return self._process.pid

    async def start(self, dying_at: str = "") -> None:
        """Start, and return when it is ready; it may be killed at a place of `schemas.crash_points` that it reaches."""
        environment = {**self._environment, VARIABLE: dying_at}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "meter.sink", env=environment, stderr=log, stdin=asyncio.subprocess.DEVNULL
            )
        await self.until(self._is_ready)

    async def _is_ready(self) -> bool:
        try:
            return (await self.http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def stop(self) -> int:
        """Stop as a supervisor does; return the exit code."""
        return await self._end(signal.SIGTERM)

    async def dies_at(self, place: str) -> None:
        """Start with a place to be killed at; return when that has happened. See `schemas.crash_points`."""
        environment = {**self._environment, VARIABLE: place}
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "meter.sink", env=environment, stderr=log, stdin=asyncio.subprocess.DEVNULL
            )
        self._process = process
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == -signal.SIGKILL

    async def kill(self) -> None:
        """Kill −9."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        return await asyncio.wait_for(process.wait(), DEADLINE_S)

    async def until(self, check: Any) -> Any:
        """Return the first true result of `check`; fail when the process ends, or at the deadline."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := await check()):
                if self._process is not None and self._process.returncode is not None:
                    raise AssertionError(f"the history ended:\n{self.log.read_text()[-4000:]}")
                await asyncio.sleep(0.02)
        return found

    async def get(self, path: str, **query: str) -> Any:
        """Return the JSON of a GET that succeeds."""
        answer = await self.http.get(path, params=query)
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()

    async def sql(self, query: str) -> list[list[Any]]:
        """Return the rows of a query."""
        answer = await self.http.post("/v1/sql", json={"query": query})
        assert answer.status_code == httpx.codes.OK, answer.text
        rows: list[list[Any]] = answer.json()["rows"]
        return rows

    async def events(self) -> int:
        """Return how many events the ledger has, each once."""
        return int((await self.sql("SELECT count() FROM usage"))[0][0])

    async def up_to(self, offsets: int) -> None:
        """Return when everything up to so many records of `usage` is in the tables."""

        async def done() -> bool:
            status = await self.get("/v1/status")
            ends = sum(part["log_end"] for part in status["partitions"] if part["topic"].endswith("usage"))
            return bool(ends >= offsets and status["lag"] == 0 and status["waiting_rows"] == 0)

        await self.until(done)


@asynccontextmanager
async def a_sink(connection: KafkaConnection, state_dir: Path, **settings: object) -> AsyncIterator[SinkProcess]:
    """Yield a history that runs and is ready; it is killed in the end."""
    await create(connection)
    sink = SinkProcess(connection, state_dir, **settings)
    try:
        await sink.start()
        yield sink
    finally:
        await sink.kill()
        await sink.http.aclose()


@asynccontextmanager
async def a_producer(connection: KafkaConnection) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a producer."""
    producer = AIOKafkaProducer(**connection.client_options(), acks="all")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def read_all(connection: KafkaConnection, topic: str, partition: int, count: int) -> list[bytes]:
    """Return the first `count` values of a partition."""
    consumer = AIOKafkaConsumer(**connection.client_options(), auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, partition)])
        async with asyncio.timeout(DEADLINE_S):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()
