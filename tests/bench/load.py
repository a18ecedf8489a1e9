"""A bounded load generator on loopback: keep-alive HTTP/1.1 connections that send one request after another.

Plain asyncio protocols on httptools, so that it costs less than what it measures. Latency is from the write of the
request to the end of the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools


@dataclass
class Result:
    """What a run saw: answers by status, latencies in seconds, body chunks and wall time."""

    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    chunks: int = 0
    errors: int = 0

    @property
    def answers(self) -> int:
        """Answers of any status."""
        return sum(self.statuses.values())

    def quantile_ms(self, q: float) -> float:
        """Return latency quantile `q` in milliseconds."""
        ordered = sorted(self.latencies)
        return 1e3 * ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, result: Result, budget: _Budget, done: asyncio.Future[None]) -> None:
        self.request, self.result, self.budget, self.done = request, result, budget, done
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self._next()

    def _next(self) -> None:
        assert self.transport is not None
        if not self.budget.take():
            self.transport.close()
            return
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, _body: bytes) -> None:
        self.result.chunks += 1

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        self.result.statuses[status] = self.result.statuses.get(status, 0) + 1
        self.result.latencies.append(time.perf_counter() - self.began)
        self.parser = httptools.HttpResponseParser(self)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.result.errors += 1
        if not self.done.done():
            self.done.set_result(None)


class _Budget:
    """Ends a run after `count` requests or at `deadline`, whichever comes first."""

    def __init__(self, count: int, deadline: float) -> None:
        self.count, self.deadline = count, deadline

    def take(self) -> bool:
        self.count -= 1
        return self.count >= 0 and time.perf_counter() < self.deadline


def request_bytes(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return a POST of JSON `body` to `url` as the bytes on the wire."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def load(url: str, request: bytes, *, connections: int, count: int, seconds: float) -> Result:
    """Send `request` over `connections` connections until `count` are sent or `seconds` have passed."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ValueError(f"{url}: load goes to loopback only")
    loop = asyncio.get_running_loop()
    result, began = Result(), time.perf_counter()
    budget = _Budget(count, began + seconds)
    ends: list[asyncio.Future[None]] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)
        factory = functools.partial(_Connection, request, result, budget, done)
        await loop.create_connection(factory, parts.hostname, parts.port or 80)
    async with asyncio.timeout(seconds + 30):
        await asyncio.gather(*ends)
    result.seconds = time.perf_counter() - began
    return result


def main() -> None:
    """Send chat completions to one URL as fast as they are answered; fails if one is not answered with 200."""
    from tests.bench.proxies import BODY

    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=main.__doc__)
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    request = request_bytes(options.url, BODY, {"Authorization": f"Bearer {options.key}"})
    result = asyncio.run(
        load(options.url, request, connections=options.connections, count=200_000, seconds=options.seconds)
    )
    if set(result.statuses) != {200} or result.errors:
        sys.exit(f"{options.url}: answers {result.statuses}, {result.errors} broken connections")


if __name__ == "__main__":
    main()
