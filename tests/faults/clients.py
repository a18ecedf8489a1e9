"""Clients on loopback that send one request after another and keep what they were told.

A client that got no id with its answer, or no answer, does not know whether its request counted: it goes on with
another virtual key, so that what the history has under the old one can be told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

from tests.bench.load import request_bytes
from tests.faults.scenario import MODEL, MORE, Key, Offer, another_offer, offer

ANSWER_S = 4.0
"""A client waits no longer for an answer."""
ELSEWHERE = 0.3
"""So many requests of a client go to any replica; the others to its usual one."""
PAUSE_S = (0.002, 0.03)
AGAIN_S = 0.1
"""After a broken connection or a refusal."""
HTTP_OK = 200
_EVENT, _COST = b"x-tollway-event-id", b"x-tollway-cost-usd"
_SERVED_BY, _ATTEMPT = b"x-tollway-model", b"x-tollway-attempt"


@dataclass
class Receipt:
    """What a client knows of one request that it sent."""

    nonce: str
    key: str
    replica: int
    event_id: str = ""
    """Empty if no head of an answer came."""
    status: int = 0
    is_whole: bool = False
    """The answer came to its end."""
    usage: tuple[int, int, int] | None = None
    """Input tokens, cached ones among them, output tokens: what the answer said, if it did."""
    cost_nanos: int | None = None
    """What the answer's header said, if it had one."""
    model: str = MODEL
    """That was asked for; the one that served, if the answer named another."""
    attempt: int = 1
    """Of the answer, as it says."""
    attempts: int = 1
    """How many providers the request may have reached."""
    kind: str = ""
    """What was asked, as reports count it."""


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._receipt: Receipt | None = None
        self._offer: Offer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, wanted: Offer, receipt: Receipt) -> None:
        """Send a request and fill in its receipt; OSError or TimeoutError if no whole answer comes."""
        if self._transport is None or not self.is_open:
            raise ConnectionError("closed")
        self._done, self._receipt, self._offer = asyncio.get_running_loop().create_future(), receipt, wanted
        self._parser, self._body = httptools.HttpResponseParser(self), []
        self._transport.write(request)
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._done
        except BaseException:
            self.close()
            raise
        finally:
            self._receipt = None

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receipt is None:
            return
        if name.lower() == _EVENT:
            self._receipt.event_id = value.decode()
        elif name.lower() == _COST:
            dollars, _, parts = value.decode().partition(".")
            self._receipt.cost_nanos = int(dollars) * 10**9 + int(parts.ljust(9, "0"))
        elif name.lower() == _SERVED_BY:
            self._receipt.model = value.decode()
        elif name.lower() == _ATTEMPT:
            self._receipt.attempt = int(value)

    def on_headers_complete(self) -> None:
        if self._receipt is not None:
            self._receipt.status = self._parser.get_status_code()
            if self._offer is not None and self._offer.hangs_up:
                self.close()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        receipt, done = self._receipt, self._done
        if receipt is None or done is None or done.done():
            return
        receipt.is_whole = True
        if receipt.status == HTTP_OK:
            receipt.usage = usage_of(b"".join(self._body))
        done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"lost: {exc}"))


def usage_of(body: bytes) -> tuple[int, int, int] | None:
    """Return what an answer, streamed or not, says of its usage: input, cached among it, output; None if nothing."""
    found: dict[str, Any] = {}
    is_final = False
    for line in body.split(b"\n"):
        text = line.removeprefix(b"data: ").strip()
        if text.startswith(b"{") and b'"usage"' in text:
            event = json.loads(text)
            found |= event.get("usage") or event.get("message", {}).get("usage") or {}
            is_final |= event.get("type") != "message_start"  # which has the first token of many
    if not found or not is_final:
        return None
    if "prompt_tokens" in found:
        return found["prompt_tokens"], found["prompt_tokens_details"]["cached_tokens"], found["completion_tokens"]
    cached, written = found["cache_read_input_tokens"], found["cache_creation_input_tokens"]
    return found["input_tokens"] + cached + written, cached, found["output_tokens"]


@dataclass
class Traffic:
    """The clients of one schedule."""

    addresses: list[str]
    keys: Iterator[Key]
    """Nobody else's; when they are used up, clients end."""
    name: str
    """Of the schedule: what its nonces begin with."""
    seed: str
    receipts: list[Receipt] = field(default_factory=list)
    ran_out: bool = False
    is_hurried: bool = False
    """Clients do not pause after an answer."""
    _ending: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _open: set[Connection] = field(default_factory=set)

    def begin(self, clients: int, replica: int | None = None) -> None:
        """Let more clients go on until `end`; they ask `replica` alone, if one is given."""
        for number in range(len(self._tasks), len(self._tasks) + clients):
            client = self._client(number, replica)
            self._tasks.append(asyncio.create_task(client, name=f"client {self.name}.{number}"))

    @contextlib.contextmanager
    def hurried(self, clients: int, replica: int) -> Iterator[None]:
        """Let more clients begin, all at one replica, and none pause for as long as this lasts."""
        self.begin(clients, replica)
        self.is_hurried = True
        try:
            yield
        finally:
            self.is_hurried = False

    async def end(self) -> None:
        """Let requests that are under way end, and close the connections."""
        self._ending = True
        await asyncio.gather(*self._tasks)
        for connection in self._open:
            connection.close()

    async def _client(self, number: int, only: int | None) -> None:
        rng = random.Random(f"{self.seed}/client/{number}")
        more = random.Random(f"{self.seed}/more/{number}")
        known: dict[int, Connection] = {}
        key, count = next(self.keys, None), 0
        while not self._ending and key is not None:
            usual = number % len(self.addresses) if only is None else only
            replica = rng.randrange(len(self.addresses)) if only is None and rng.random() < ELSEWHERE else usual
            count += 1
            nonce = f"{self.name}.{key.id}.{number}-{count}"
            wanted = another_offer(more, nonce) if more.random() < MORE else offer(rng, nonce)
            receipt = Receipt(
                nonce, key.id, replica, model=wanted.model, attempts=wanted.attempts, kind=wanted.name
            )  # fmt: skip
            try:
                connection = await self._connected(known, replica)
            except OSError:
                await asyncio.sleep(AGAIN_S)
                continue
            self.receipts.append(receipt)
            try:
                await connection.ask(self._request(replica, wanted, key), wanted, receipt)
                pause_s = 0.0 if self.is_hurried else rng.uniform(*PAUSE_S)
                await asyncio.sleep(pause_s if receipt.status == HTTP_OK else AGAIN_S)
            except OSError:  # TimeoutError is one
                await asyncio.sleep(0.0 if wanted.hangs_up else AGAIN_S)
            if not receipt.event_id:
                key = next(self.keys, None)
        self.ran_out |= key is None

    def _request(self, replica: int, wanted: Offer, key: Key) -> bytes:
        return request_bytes(self.addresses[replica] + wanted.path, wanted.body, wanted.headers(key.secret))

    async def _connected(self, known: dict[int, Connection], replica: int) -> Connection:
        if replica in known and known[replica].is_open:
            return known[replica]
        host, _, port = self.addresses[replica].removeprefix("http://").rpartition(":")
        if host != "127.0.0.1":
            raise ValueError(f"{self.addresses[replica]}: load goes to loopback only")
        _, made = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
        known[replica] = made
        self._open.add(made)
        return made
