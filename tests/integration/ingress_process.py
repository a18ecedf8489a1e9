"""`python -m ingress` as a process of its own, in front of the simulated provider, and clients that remember."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from ingress.adapters.wal import find_segments
from schemas.connection import KafkaConnection
from tests.unit.ingress import governed

ROOT = Path(__file__).parents[2]
READY_S = 30.0


class Process:
    """One run of an ingress; several may follow each other on the same state directory."""

    def __init__(self, connection: KafkaConnection, state: Path, provider_url: str, **settings: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = state
        self.wal = state / "ingress" / "ingress-1" / "wal"
        prefix = "TOLLWAY_INGRESS_"
        self.environment = {
            **os.environ,
            f"{prefix}KAFKA__BOOTSTRAP": connection.bootstrap,
            f"{prefix}KAFKA__TOPIC_PREFIX": connection.topic_prefix,
            f"{prefix}KAFKA__PARTITIONS": str(connection.partitions),
            f"{prefix}STATE_DIR": str(state),
            f"{prefix}PORT": str(self.port),
            f"{prefix}SIMULATED_URL": f"{provider_url}/v1",
            **{f"{prefix}{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.child: asyncio.subprocess.Process | None = None
        self.client = httpx.AsyncClient(base_url=self.url, timeout=60)
        self.seen: set[str] = set()
        """Ids of events whose requests got an answer, or the beginning of one."""
        self.whole: set[str] = set()
        """Of those that got all of it."""

    async def start(self, crash_at: str = "", *arguments: str, ready: bool = True) -> Self:
        """Start, to be killed at a place if one is named; return once it admits, or is dead."""
        self.child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ingress", *arguments, cwd=ROOT,
            env=self.environment | {"TOLLWAY_CRASH_AT": crash_at}, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        if ready:
            await until(self._is_ready_or_dead, READY_S)
        return self

    async def _is_ready_or_dead(self) -> bool:
        if self.is_dead:
            return True
        try:
            return (await self.client.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self.child is None or self.child.returncode is not None

    async def status(self) -> Any:
        """Return what it says of itself."""
        return (await self.client.get("/tollway/v1/status")).json()

    async def ask(self, wish: str = "output=3", stream: bool = False) -> None:
        """Send a request; whatever comes of it is remembered."""
        body = {"model": "small", "stream": stream, "messages": [{"role": "user", "content": f"[[sim {wish}]] Hi."}]}
        headers = {"authorization": f"Bearer {governed.SECRET.decode()}"}
        try:
            async with self.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
                if answer.status_code == 200:
                    event = answer.headers["x-tollway-event-id"]
                    self.seen.add(event)
                    await answer.aread()
                    self.whole.add(event)
        except httpx.HTTPError:
            return

    async def traffic(self, count: int, at_once: int = 8) -> None:
        """Send so many requests, or as many as it takes until the process is dead."""
        left = iter(range(count))

        async def client() -> None:
            for _ in left:
                if self.is_dead:
                    return
                await self.ask()

        await asyncio.gather(*(client() for _ in range(at_once)))

    async def ended(self, deadline_s: float = 30.0) -> int:
        """Wait until it has ended, and return the exit code; minus the signal's number if it was killed."""
        assert self.child is not None
        async with asyncio.timeout(deadline_s):
            return await self.child.wait()

    async def stop(self, deadline_s: float = 60.0) -> int:
        """Ask it to end."""
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        return await self.ended(deadline_s)

    @property
    def segments(self) -> dict[int, Any]:
        """What is on its log, by run."""
        return find_segments(self.wal)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child is not None and self.child.returncode is None:
            self.child.kill()
            await self.child.wait()
        await self.client.aclose()


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.02)
