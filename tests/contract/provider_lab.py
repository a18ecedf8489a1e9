"""A provider of raw sockets, a recording sink and the two egresses, for the laws of `test_provider_laws`."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from ingress.adapters.egress_httpx import HttpxEgress
from ingress.adapters.provider_pool import (
    Attempt,
    HeaderList,
    Origin,
    ProviderEgress,
    ProviderFault,
    ProviderPool,
)

DEADLINE_S = 10.0
REQUEST = b"POST /v1/x?y=1 HTTP/1.1\r\nhost: provider\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def turns(count: int = 6) -> None:
    """Let the event loop poll its sockets `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the lab's deadline ends the wait if it never holds."""
    while not condition():
        await asyncio.sleep(0.001)


class Peer:
    """The provider's end of one accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.requests: list[bytes] = []
        self._buffer = b""

    async def request(self) -> bytes:
        """Read one whole request; empty at end of stream."""
        while not self._is_whole():
            data = await self.loop.sock_recv(self.sock, 1 << 18)
            if not data:
                return b""
            self._buffer += data
        head, _, body = self._buffer.partition(b"\r\n\r\n")
        request, self._buffer = self._buffer, b""
        self.requests.append(request)
        assert len(body) == _content_length(head)
        return request

    def _is_whole(self) -> bool:
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        return bool(end) and len(body) >= _content_length(head)

    async def send(self, *parts: bytes) -> None:
        """Send parts so that each can be read on its own."""
        for part in parts:
            await self.loop.sock_sendall(self.sock, part)
            await turns()

    async def answer(self, *parts: bytes) -> bytes:
        """Read a request, then send the parts of its answer."""
        request = await self.request()
        await self.send(*parts)
        return request

    async def hung_up(self) -> None:
        """Wait until the other side has closed or reset the connection."""
        try:
            while await self.loop.sock_recv(self.sock, 1 << 16):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        """Close: the other side sees the end of the stream."""
        self.sock.close()

    def reset(self) -> None:
        """Reset the connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


class Recorder:
    """A sink that keeps what it is told, and checks the order of callbacks."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: HeaderList = []
        self.parts: list[bytes] = []
        self.ended = False
        self.error: ProviderFault | None = None
        self.sending = True
        self.attempt: Attempt | None = None
        self.on_head: Callable[[], None] = lambda: None
        self.on_data: Callable[[], None] = lambda: None
        self._done = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def is_over(self) -> bool:
        return self.ended or self.error is not None

    def provider_head(self, status: int, headers: HeaderList) -> None:
        assert not self.sending
        assert not self.status
        assert not self.is_over
        self.status, self.headers = status, headers
        self.on_head()

    def provider_data(self, data: bytes) -> None:
        assert self.status
        assert not self.is_over
        self.parts.append(data)
        self.on_data()

    def provider_end(self) -> None:
        assert self.status
        assert not self.is_over
        self.ended = True
        self._done.set()

    def provider_error(self, error: ProviderFault) -> None:
        assert not self.sending
        assert not self.is_over
        self.error = error
        self._done.set()

    async def over(self) -> "Recorder":
        """Wait for the end of the response, good or bad."""
        await self._done.wait()
        return self

    def handle(self) -> Attempt:
        """Return the attempt behind this response."""
        assert self.attempt is not None
        return self.attempt

    def fault(self) -> tuple[str, bool]:
        """Return the fault's kind and whether the request may have been sent."""
        assert self.error is not None
        return self.error.kind, self.error.sent


class Lab:
    """One egress and one listening provider whose connections are played by hand."""

    def __init__(self, egress: ProviderEgress, limits: dict[str, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.egress = egress
        self.faults: list[dict[str, Any]] = []
        self.peers: list[Peer] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context))
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.origin = Origin(**{"host": "127.0.0.1", "port": self.port, "tls": False, **limits})

    async def accept(self) -> Peer:
        """Take the next connection."""
        sock, _ = await self.loop.sock_accept(self._listener)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peers.append(Peer(sock))
        return self.peers[-1]

    def send(self, request: bytes = REQUEST, recorder: Recorder | None = None) -> Recorder:
        """Send a request into a (new) recorder."""
        recorder = recorder or Recorder()
        recorder.attempt = self.egress.send(self.origin, request, recorder)
        recorder.sending = False
        return recorder

    async def exchange(self, *parts: bytes) -> tuple[Peer, Recorder]:
        """Send one request on a new connection, answer with the parts, wait for the outcome."""
        recorder = self.send()
        peer = await self.accept()
        await peer.answer(*parts)
        return peer, await recorder.over()

    def stop_listening(self) -> None:
        """Refuse connections from now on."""
        self._listener.close()

    async def close(self) -> None:
        """Close the provider's sockets, then the egress."""
        for peer in self.peers:
            peer.close()
        self._listener.close()
        await self.egress.close()
        await turns()


EGRESSES: dict[str, Callable[[], ProviderEgress]] = {
    "pool": lambda: ProviderPool(tick_s=0.005),
    "httpx": HttpxEgress,
}
Scenario = Callable[[Lab], Awaitable[None]]


def play(egress: str, scenario: Scenario, *, expect_faults: bool = False, **limits: Any) -> None:
    """Run a scenario on a loop of its own, within the deadline; fails on exceptions that nobody expected."""

    async def run() -> None:
        lab = Lab(EGRESSES[egress](), limits)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await scenario(lab)
        finally:
            async with asyncio.timeout(DEADLINE_S):
                await lab.close()
        assert bool(lab.faults) == expect_faults, lab.faults

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
