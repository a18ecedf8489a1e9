"""An ingress on a real socket in front of the real simulated provider; only log and meter are stood in for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from deploy.simulator import Simulator
from ingress.adapters.driver import IdSource, Services, wall_clock_ms
from ingress.adapters.http import application
from ingress.adapters.provider_pool import ProviderPool
from ingress.adapters.server import HttpServer
from ingress.adapters.targets import TargetBook
from ingress.adapters.waiting import Waiting
from ingress.core.admission import Registry
from ingress.core.keyring import Keyring
from ingress.core.ports import Context
from ingress.core.resolver import Resolver
from ingress.core.stats import Stats
from ingress.settings import IngressSettings
from ingress.telemetry import registry
from schemas.batches import BatchSeen, Line, LinesSeen, Sighting
from schemas.codec import decode_attribution, decode_event
from schemas.decisions import Decision
from schemas.keys import VirtualKey
from schemas.money import Price, Rates
from schemas.policy_file import load_policy
from schemas.quota import Weight
from schemas.usage import UsageEvent

SECRET = "tw-" + "a" * 43
PRICE = Price("test", "v1", (Rates(0, 150_000, 75_000, 187_500, 300_000, 600_000, 600_000, 150_000, 600_000),))
POLICY = """
orgs: {acme: {teams: [search]}}
providers:
  oai: {protocol: openai, base_url: simulated, timeouts: {first_byte: 600ms, idle: 600ms, total: 20s}}
  ant: {protocol: anthropic, base_url: simulated}
  dark: {protocol: openai, base_url: simulated, credential: "env:TOLLWAY_TEST_NO_SUCH_VARIABLE"}
  gone: {protocol: openai, base_url: "http://127.0.0.1:9/v1"}
models:
  gpt-4o-mini: {provider: oai}
  nick: {provider: oai, upstream: gpt-4o-mini}
  text-embedding-3-small: {provider: oai}
  claude-sonnet: {provider: ant}
  dark-model: {provider: dark}
  gone-model: {provider: gone}
max_body_bytes: 65536
"""


class FakeJournal:
    """Keeps events in memory and calls back in the next turn of the loop, as one write for all of it would."""

    def __init__(self) -> None:
        self.admissions: list[UsageEvent] = []
        self.events: list[UsageEvent] = []
        self.decisions: list[Decision] = []
        self.held: list[Callable[[], None]] | None = None
        """Callbacks not made yet, while the log is said to hang."""
        self.changed = asyncio.Event()

    def admitted(self, partition: int, event: bytes, then: Callable[[], None], *decisions: bytes) -> None:
        self.admissions.append(decode_event(event))
        self._decide(decisions)
        self._call(then)

    def terminal(self, partition: int, event: bytes, then: Callable[[], None], *decisions: bytes) -> None:
        self.events.append(decode_event(event))
        self._decide(decisions)
        self.changed.set()
        self._call(then)

    def _decide(self, decisions: tuple[bytes, ...]) -> None:
        self.decisions += [msgspec.msgpack.decode(decision, type=Decision) for decision in decisions]

    def _call(self, then: Callable[[], None]) -> None:
        if self.held is not None:
            self.held.append(then)
        else:
            asyncio.get_running_loop().call_soon(then)

    async def until(self, count: int) -> list[UsageEvent]:
        """Return the terminal events once there are `count`."""
        async with asyncio.timeout(10):
            while len(self.events) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.events


class FakeBatches:
    """Keeps what is told of batches in memory; it is taken when `held` is None, and lost while `is_lost`."""

    def __init__(self) -> None:
        self.told: list[Sighting] = []
        self.held: list[Callable[[bool], None]] | None = None
        """Who waits, while the log is said to hang."""
        self.is_lost = False
        self.changed = asyncio.Event()

    def tell(self, sighting: Sighting, then: Callable[[bool], None]) -> None:
        self.told.append(sighting)
        self.changed.set()
        if self.held is not None:
            self.held.append(then)
        else:
            asyncio.get_running_loop().call_soon(then, not self.is_lost)

    def release(self, is_recorded: bool) -> None:
        """Answer who waits."""
        held, self.held = self.held, None
        for then in held or ():
            then(is_recorded)

    async def until(self, count: int) -> list[Sighting]:
        """Return what was told once it is so much."""
        async with asyncio.timeout(10):
            while len(self.told) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.told

    @property
    def seen(self) -> list[BatchSeen]:
        """Batches."""
        return [each for each in self.told if isinstance(each, BatchSeen)]

    @property
    def lines(self) -> list[Line]:
        """Lines of results."""
        return [line for each in self.told if isinstance(each, LinesSeen) for line in each.lines]


class Lab:
    """Everything of one test; clients reach `url`."""

    def __init__(self, policy: str, prices: Mapping[str, Price | None] | None = None, **settings: Any) -> None:
        self.prices = prices or {}
        """By the names of models, None for none; all others cost `PRICE`."""
        self.simulator = Simulator(keep_entries=True)
        self.journal = FakeJournal()
        self.batches = FakeBatches()
        self.stats = Stats()
        self.keyring = Keyring()
        self.registry = Registry(2)
        for shard in self.registry.shards:
            shard.weight, shard.is_synced, shard.generation = Weight(1, 1, 0), True, 1
        self.context = Context("ingress-1", 2, self.stats, IdSource())
        self._policy = policy
        self._settings = settings
        self.missing: list[str] = []
        self.url = ""

    async def start(self) -> None:
        """Start the provider and the ingress."""
        provider_url = await self.simulator.start()
        settings = IngressSettings(
            port=0, simulated_url=f"{provider_url}/v1", state_dir=Path("unused"), **self._settings
        )
        self.pool = ProviderPool(tick_s=0.02)
        self.apply(self._policy)
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        self.keyring.put("k-1", VirtualKey("k-1", f"sha256:{digest}", "acme", team="search"))
        self.context.target_of = TargetBook(settings.simulated_url)
        self.context.closed = ""
        self.waiters = Waiting(self.registry.waiting, wall_clock_ms)
        self.services = services = Services(
            self.context, self.pool, self.journal, wall_clock_ms, self.waiters, batches=self.batches
        )
        self.server = HttpServer(application(self, registry(self.stats, lambda: ())), services, settings)
        await self.server.start()
        self.port = self.server.port
        self.url = f"http://127.0.0.1:{self.port}"

    def apply(self, policy: str) -> None:
        """Put a policy into force."""
        document = load_policy(policy)
        asked = {**dict.fromkeys(document.models, PRICE), **self.prices}
        prices = {name: price for name, price in asked.items() if price is not None}
        resolver = Resolver(document, 7, prices, self.keyring, self.registry)
        resolver.activate()
        self.context.resolver = resolver

    async def stop(self) -> None:
        """Stop everything."""
        await self.server.stop()
        self.pool.abort()
        await self.pool.close()
        await self.simulator.stop()

    # -- `http.Insight` ------------------------------------------------------------------------------------------

    @property
    def resolver(self) -> Resolver | None:
        return self.context.resolver

    def waiting(self) -> list[str]:
        return self.missing

    def status(self) -> dict[str, Any]:
        return {"instance": "ingress-1"}

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # -- what came of it -----------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> list[int]:
        """Reservations that have not ended, by row."""
        rows = [row for shard in self.registry.shards for row in shard.rows.values()]
        for partition in range(len(self.registry.shards)):
            self.registry.cut(partition, 1)
        return [row.inflight for row in rows if row.inflight]


@contextlib.asynccontextmanager
async def running(policy: str = POLICY, **settings: Any) -> AsyncIterator[Lab]:
    """Run a lab; afterwards nothing may be reserved and every exchange must have ended once."""
    lab = Lab(policy, **settings)
    await lab.start()
    try:
        yield lab
    finally:
        await lab.stop()
    assert lab.stats.in_flight == 0
    assert lab.in_flight == []
    ids = [event.id for event in lab.journal.events]
    assert len(ids) == len(set(ids))
    assert {event.id for event in lab.journal.admissions} <= set(ids)


def client(lab: Lab, **headers: str) -> httpx.AsyncClient:
    """Return a client with the key."""
    return httpx.AsyncClient(base_url=lab.url, headers={"authorization": f"Bearer {SECRET}", **headers}, timeout=10)


def chat(prompt: str = "hello", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat completion."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}], **fields}


def org_of(event: UsageEvent) -> str:
    """Return whose event it is."""
    return decode_attribution(event.attribution).org


class RawClient:
    """A client that decides about every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, lab: Lab) -> RawClient:
        """Open a connection."""
        return cls(*await asyncio.open_connection("127.0.0.1", lab.port))

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer; chunks are joined."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
            if "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self.reader.read()
            return int(lines[0].split()[1]), headers, body

    async def answer_rest(self) -> None:
        """Read on until the end of a chunked answer that was begun to be read by hand."""
        async with asyncio.timeout(10):
            await self.reader.readuntil(b"\r\n0\r\n\r\n")

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self.reader.readline(), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return b"".join(parts)

    async def at_end(self) -> bool:
        """Tell whether the server has closed, once it has said anything."""
        async with asyncio.timeout(10):
            return await self.reader.read(1) == b""

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def post(body: bytes, *extra: str, path: str = "/v1/chat/completions", key: str = SECRET) -> bytes:
    """Return a request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {key}", "content-type: application/json"]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in extra):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, *extra]).encode() + b"\r\n\r\n" + body
