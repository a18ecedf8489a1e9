"""Clients of one run: keep-alive connections on loopback that send one request after another, and retry as SDKs do.

A refusal that asks to wait two seconds at most is retried, twice at most. Every client pauses for a moment after a
refusal, so that a burst lasts about a second.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from dataclasses import dataclass
from typing import cast

import httptools

from tests.bench.load import request_bytes
from tests.bound.account import Told
from tests.bound.scenario import Offer, Run

RETRIES = 2
LONGEST_WAIT_S = 2.0
PAUSE_S = (0.03, 0.15)
ANSWER_S = 20.0
AGAIN_S = 0.2
"""Before a connection that broke is made again."""


@dataclass
class Answer:
    """Status and the one header that matters."""

    status: int
    retry_after_s: float


class Connection(asyncio.Protocol):
    """One keep-alive connection; `ask` sends a request and returns its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._retry_after_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Answer:
        """Send a request; ConnectionError or TimeoutError if no whole answer comes."""
        if self._transport is None or not self.is_open:
            raise ConnectionError("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._answer
        except TimeoutError:
            self.close()  # a late answer must not be taken for that of the next request
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._retry_after_s = float(value)

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), self._retry_after_s)
        self._reset()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"lost: {exc}"))


class Queue:
    """Offers that are left: fresh ones in order, and those to be made again at their time."""

    def __init__(self, offers: list[Offer], until: float) -> None:
        """`until` is a time of the event loop's clock, after which there is nothing left."""
        self._fresh = deque(offers)
        self._again: list[tuple[float, int, Offer]] = []
        self.until = until

    @property
    def left(self) -> int:
        """Return how many offers were not taken."""
        return len(self._fresh) + len(self._again)

    def put_back(self, offer: Offer, at: float) -> None:
        """Have an offer made again at `at`."""
        heapq.heappush(self._again, (at, offer.number, offer))

    def next(self, now: float) -> Offer | float | None:
        """Return an offer to make now, or how long to wait for one, or None if there will be none."""
        if now >= self.until:
            return None
        if self._again and self._again[0][0] <= now:
            return heapq.heappop(self._again)[2]
        if self._fresh:
            return self._fresh.popleft()
        return min(self._again[0][0], self.until) - now if self._again else None


class Traffic:
    """The clients of a run, and what they were told."""

    def __init__(self, run: Run, addresses: list[str]) -> None:
        """`addresses` are the base URLs of the replicas."""
        self.run, self.told = run, Told()
        self._addresses = addresses
        self._headers = {"Authorization": f"Bearer {run.secret}"}
        self._idle: dict[int, Connection] = {}

    async def burst(self, offers: list[Offer], seconds: float) -> None:
        """Make `offers` with all clients at once; returns when they are through, or no later than they may be."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        queue = Queue(offers, began + seconds)
        async with asyncio.TaskGroup() as group:
            for number in range(self.run.clients):
                group.create_task(self._client(number, queue), name=f"{self.run.name}-{number}")
        self.told.is_cut |= queue.left > 0
        self.told.seconds += loop.time() - began

    def close(self) -> None:
        """Close all connections."""
        for connection in self._idle.values():
            connection.close()

    async def _client(self, number: int, queue: Queue) -> None:
        loop = asyncio.get_running_loop()
        rng = random.Random(f"{self.run.seed}/{self.run.name}/client/{number}")
        while (found := queue.next(loop.time())) is not None:
            if isinstance(found, float):
                await asyncio.sleep(found)
            elif await self._offer(number, found, queue):
                await asyncio.sleep(rng.uniform(*PAUSE_S))

    async def _offer(self, number: int, offer: Offer, queue: Queue) -> bool:
        """Make an offer; tell whether the client should pause."""
        loop, told = asyncio.get_running_loop(), self.told
        replica = self.run.replica if self.run.pattern == "one" else number % len(self._addresses)
        if offer.attempts and self.run.pattern == "even":  # a balancer sends a second attempt elsewhere
            replica = (replica + offer.attempts) % len(self._addresses)
        offer.attempts += 1
        try:
            answer = await (await self._connection(number, replica)).ask(self._request(replica, offer))
        except OSError:  # TimeoutError is one
            told.broken += 1
            if offer.attempts <= RETRIES:
                queue.put_back(offer, loop.time() + AGAIN_S)
            return True
        if 200 <= answer.status < 300:
            told.admitted += 1
            return False
        if answer.status == 429:
            told.refused += 1
        elif answer.status == 503:
            told.unavailable += 1
        else:
            told.other[answer.status] = told.other.get(answer.status, 0) + 1
            return True
        if answer.retry_after_s <= LONGEST_WAIT_S and offer.attempts <= RETRIES:
            queue.put_back(offer, loop.time() + answer.retry_after_s)
        return True

    def _request(self, replica: int, offer: Offer) -> bytes:
        return request_bytes(self._addresses[replica] + "/v1/chat/completions", offer.body, self._headers)

    async def _connection(self, number: int, replica: int) -> Connection:
        """Return this client's connection to a replica, made anew if it broke."""
        key = number * len(self._addresses) + replica
        known = self._idle.get(key)
        if known is not None and known.is_open:
            return known
        host, _, port = self._addresses[replica].removeprefix("http://").rpartition(":")
        if host != "127.0.0.1":
            raise ValueError(f"{self._addresses[replica]}: load goes to loopback only")
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(Connection, host, int(port))
        self._idle[key] = made
        return made
