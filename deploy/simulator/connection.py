"""One connection to the simulator: HTTP/1.1 requests in, answers out in order. Knows no API."""

import asyncio
from collections import deque
from typing import Protocol, cast

import httptools
import msgspec

from deploy.simulator.answer import Answer
from deploy.simulator.delivery import Delivery
from deploy.simulator.ledger import Ledger

MAX_BODY_BYTES = 64 * 1024 * 1024
_WANTED = (b"authorization", b"x-api-key", b"anthropic-version", b"expect", b"content-type")


class Request(msgspec.Struct):
    """One request, whole."""

    method: bytes = b""
    target: bytes = b""
    headers: dict[bytes, bytes] = {}
    """Only the headers that matter here, by lower-case name."""
    body: bytes = b""
    keep_alive: bool = True


class Answers(Protocol):
    """What a connection needs of the simulator."""

    ledger: Ledger
    connections: "set[SimulatorProtocol]"

    def answer(self, request: Request) -> Answer:
        """Decide the answer to a request. Never raises for what a client sent."""


class SimulatorProtocol(asyncio.Protocol):
    """The protocol object under a transport; answers pipelined requests one after the other."""

    __slots__ = ("_answers", "_body", "_body_bytes", "_delivery", "_parser", "_request", "_waiting", "transport")

    def __init__(self, answers: Answers) -> None:
        """Make an unconnected connection."""
        self._answers = answers
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._waiting: deque[Request] = deque()
        self._delivery: Delivery | None = None
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self._answers.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop answering."""
        self._answers.connections.discard(self)
        self._waiting.clear()
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None

    def pause_writing(self) -> None:
        """Hold the answer back: the client reads slowly."""
        if self._delivery is not None:
            self._delivery.pause()

    def resume_writing(self) -> None:
        """Go on with the answer."""
        if self._delivery is not None:
            self._delivery.resume()

    def data_received(self, data: bytes) -> None:
        """Parse; requests are answered as they become whole."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
            if cause is not None and not isinstance(cause, _TooLarge):
                raise cause from None  # a bug of the simulator, not of the client
            status = b"413 Content Too Large" if cause is not None else b"400 Bad Request"
            self.transport.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
            self.transport.close()

    # -- parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a request."""
        self._request = Request()
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Collect the target."""
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that matter."""
        name = name.lower()
        if name in _WANTED:
            self._request.headers[name] = value

    def on_headers_complete(self) -> None:
        """Answer a client that waits before it sends its body."""
        self._request.method = self._parser.get_method()
        self._request.keep_alive = self._parser.should_keep_alive()
        if self._request.headers.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Collect the body."""
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY_BYTES:
            raise _TooLarge
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Answer, unless an earlier request is still being answered."""
        request = self._request
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._waiting.append(request)
        if self._delivery is None:
            self._answer_next()

    def _answer_next(self) -> None:
        request = self._waiting.popleft()
        self._delivery = Delivery(
            self.transport,
            self._answers.answer(request),
            self._answers.ledger,
            keep_alive=request.keep_alive,
            done=self._delivered,
        )
        self._delivery.start()

    def _delivered(self) -> None:
        self._delivery = None
        if self._waiting and not self.transport.is_closing():
            self._answer_next()


class _TooLarge(Exception):
    """The body is above `MAX_BODY_BYTES`."""
