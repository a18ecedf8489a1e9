"""Drives one exchange: carries its facts in from client, provider and log, and its effects out to them.

To the protocol it looks like one of uvicorn's request-response cycles (`response_complete`, `keep_alive`), so that both
kinds can follow each other on a connection. Frames answers in HTTP/1.1; decides nothing about requests.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from ingress.adapters.drains import Drains
from ingress.adapters.provider.port import Attempt, HeaderList, ProviderEgress, ProviderFault
from ingress.adapters.waiting import Waiting
from ingress.core.accounts import AccountExchange
from ingress.core.exchange import Exchange
from ingress.core.plan import Hold
from ingress.core.ports import Context
from ingress.core.protocols import Operation
from ingress.core.verdicts import Denied
from ingress.core.waiting import Ticket
from schemas.batches import Sighting
from schemas.ids import uuid7_ends
from schemas.published import MOST_DRAINS

if TYPE_CHECKING:
    from ingress.adapters.client_protocol import MeteredProtocol

UPLOAD_S = 120
"""How long a request may take to arrive, by default."""
DEFAULT_MAX_BODY_BYTES = 10 * 1024 * 1024
_BODILESS = frozenset({204, 304})
_log = structlog.get_logger("ingress.exchange")


class EventLog(Protocol):
    """What a driver needs of the journal."""

    def admitted(self, partition: int, event: bytes, then: Callable[[], None], *decisions: bytes) -> None:
        """Write an admission, and what rules decided on the way to it; then call `then`."""

    def terminal(self, partition: int, event: bytes, then: Callable[[], None], *decisions: bytes) -> None:
        """Write the end of an exchange, and the decision of a refusal; then call `then`."""


class BatchLog(Protocol):
    """What a driver needs of the log of batches."""

    def tell(self, sighting: Sighting, then: Callable[[bool], None]) -> None:
        """Write a sighting; then, and never at once, call `then` with whether it is on the log."""


class Services:
    """What all drivers of a process share."""

    __slots__ = (
        "batches", "context", "drains", "egress", "journal", "log_requests", "now_ms", "upload_s", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        egress: ProviderEgress,
        journal: EventLog,
        now_ms: Callable[[], int],
        waiting: Waiting,
        log_requests: Callable[[Exchange], None] | None = None,
        drains: Drains | None = None,
        upload_s: float = UPLOAD_S,
        batches: BatchLog | None = None,
    ) -> None:
        """Bring together logs, provider side, waiting room and clock; `log_requests` is called at each end."""
        self.context = context
        self.egress = egress
        self.journal = journal
        self.now_ms = now_ms
        self.waiting = waiting
        self.log_requests = log_requests
        self.drains = Drains(MOST_DRAINS) if drains is None else drains
        self.upload_s = upload_s
        self.batches = batches


class Driver:
    """One exchange on one connection; the sink of its provider's answer."""

    __slots__ = (
        "attempt", "began_ms", "body_done", "disconnected", "exchange", "is_chunked", "is_current", "is_discarding",
        "is_draining", "is_oversize", "is_started", "keep_alive", "limit_bytes", "parts", "pause", "protocol",
        "response_complete", "services", "size", "ticket",
    )  # fmt: skip

    def __init__(
        self, protocol: MeteredProtocol, operation: Operation, query: bytes, *, is_http_1_1: bool, keep_alive: bool
    ) -> None:
        """Begin an exchange on the connection of `protocol`."""
        services = protocol.services
        self.protocol = protocol
        self.services = services
        now_ms = self.began_ms = services.now_ms()
        self.exchange: Exchange
        if operation.sees is None:
            self.exchange = Exchange(services.context, self, operation, query, now_ms)
        else:
            scheme = protocol.scheme or "http"
            self.exchange = AccountExchange(services.context, self, operation, query, now_ms, scheme)
        self.keep_alive = keep_alive
        self.attempt: Attempt | None = None
        self.ticket: Ticket | None = None
        self.pause: asyncio.TimerHandle | None = None
        self.parts: list[bytes] = []
        self.size = 0
        self.body_done = self.response_complete = self.disconnected = False
        self.is_current = self.is_started = self.is_discarding = self.is_draining = self.is_oversize = False
        self.is_chunked = is_http_1_1
        resolver = services.context.resolver
        self.limit_bytes = DEFAULT_MAX_BODY_BYTES if resolver is None else resolver.max_body_bytes

    # -- from the client -----------------------------------------------------------------------------------------

    def take_head(self, headers: HeaderList) -> None:
        """Take the head of the request, at once; the body is kept only if it is of use."""
        exchange = self.exchange
        wanted = exchange.begin(headers, self.began_ms)
        self.is_discarding = not wanted
        if exchange.head.content_length > self.limit_bytes:
            self.is_oversize = wanted
            self.is_discarding = True
            self.keep_alive = False
        if not wanted and exchange.head.expects_continue:
            self.keep_alive = False

    def serve(self) -> None:
        """Begin to answer: nothing is ahead on the connection any more."""
        self.is_current = True
        if self.body_done or self.is_oversize or (self.is_discarding and not self.keep_alive):
            self._start()
        elif self.exchange.head.expects_continue:
            self.protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_body(self, data: bytes) -> None:
        """Take a part of the request's body."""
        self.size += len(data)
        if self.size <= self.limit_bytes:
            if not self.is_discarding:
                self.parts.append(data)
        elif self.keep_alive or not self.is_discarding:
            self.keep_alive = False
            self.is_oversize = not self.is_discarding
            self.is_discarding = True
            self.parts.clear()
            if self.is_current:
                self._start()

    def take_end(self) -> None:
        """Take that the request is complete."""
        self.body_done = True
        if self.response_complete:
            self.protocol.transport.close()
        elif self.is_current:
            self._start()

    def upload_over(self, limit_s: float) -> bool:
        """Refuse a request that takes too long to arrive; False if it waits for its turn, which is not its fault."""
        if not self.is_current or self.is_started:
            return False
        self.is_started = self.is_discarding = True
        self.keep_alive = False
        self.parts.clear()
        try:
            self.exchange.refuse_slow(limit_s, self.services.now_ms())
        except Exception:
            self._crash()
        return True

    def _start(self) -> None:
        if self.is_started or self.disconnected:
            return
        self.is_started = True
        parts, now_ms = self.parts, self.services.now_ms()
        self.parts = []
        try:
            if self.is_oversize:
                self.exchange.refuse_size(self.limit_bytes, now_ms)
            else:
                self.exchange.complete(parts[0] if len(parts) == 1 else b"".join(parts), now_ms)
        except Exception:
            self._crash()

    def client_gone(self) -> None:
        """Take that the connection is lost."""
        self.disconnected = True
        try:
            self.exchange.client_gone(self.services.now_ms())
        except Exception:
            self._crash()

    def client_slow(self) -> None:
        """Take that the client reads more slowly than the provider sends."""
        if self.attempt is not None:
            self.attempt.pause_reading()

    def client_ready(self) -> None:
        """Take that the client has read most of what it was sent."""
        if self.attempt is not None:
            self.attempt.resume_reading()

    # -- from the waiting room (`waiting.Guest`), and from our own timer -----------------------------------------

    def served(self, outcome: Hold | Denied) -> None:
        """Pass on what has come of waiting."""
        self.ticket = None
        try:
            self.exchange.served(outcome, self.services.now_ms())
        except Exception:
            self._crash()

    def drain(self) -> None:
        """Pass on that nobody waits here any more."""
        self.ticket = None
        try:
            self.exchange.drain(self.services.now_ms())
        except Exception:
            self._crash()

    def _woken(self) -> None:
        self.pause = None
        try:
            self.exchange.woken(self.services.now_ms())
        except Exception:
            self._crash()

    # -- from the answers that are read on (`drains.Reader`) -----------------------------------------------------

    def drain_over(self) -> None:
        """Pass on that the answer is not to be read on any longer."""
        try:
            self.exchange.drain_over(self.services.now_ms())
        except Exception:
            self._crash()

    # -- from the provider (`port.ResponseSink`) -----------------------------------------------------------------

    def provider_head(self, status: int, headers: HeaderList) -> None:
        """Pass the head of the answer on."""
        try:
            self.exchange.provider_head(status, headers, self.services.now_ms())
        except Exception:
            self._crash()

    def provider_data(self, data: bytes) -> None:
        """Pass bytes of the answer on."""
        try:
            if self.exchange.provider_data(data, self.services.now_ms()):
                self.cancel_request()
                self.exchange.provider_fault("answer_too_large", True, "", self.services.now_ms())
        except Exception:
            self._crash()

    def provider_end(self) -> None:
        """Pass the end of the answer on."""
        self.attempt = None
        try:
            self.exchange.provider_end(self.services.now_ms())
        except Exception:
            self._crash()

    def provider_error(self, error: ProviderFault) -> None:
        """Pass on that the answer is incomplete."""
        self.attempt = None
        try:
            self.exchange.provider_fault(error.kind, error.sent, error.detail, self.services.now_ms())
        except Exception:
            self._crash()

    # -- effects (`ports.Effects`) -------------------------------------------------------------------------------

    def record_admitted(self, partition: int, event: bytes, decisions: tuple[bytes, ...]) -> None:
        """Write the admission to the journal."""
        if decisions:
            self.services.journal.admitted(partition, event, self._admitted, *decisions)
        else:
            self.services.journal.admitted(partition, event, self._admitted)

    def record_terminal(self, partition: int, event: bytes, decisions: tuple[bytes, ...]) -> None:
        """Write the end to the journal."""
        if decisions:
            self.services.journal.terminal(partition, event, self._ended, *decisions)
        else:
            self.services.journal.terminal(partition, event, self._ended)

    def record_attempt(self, partition: int, event: bytes) -> None:
        """Write the end of an attempt to the journal that is not the last one."""
        self.services.journal.terminal(partition, event, _nothing)
        if self.services.log_requests is not None:
            self.services.log_requests(self.exchange)

    def tell(self, sighting: Sighting) -> None:
        """Write to the log of batches."""
        assert self.services.batches is not None
        self.services.batches.tell(sighting, self._told)

    def wait(self, delay_ms: int) -> None:
        """Set a timer of this request's own."""
        self.pause = asyncio.get_running_loop().call_later(delay_ms / 1000, self._woken)

    def enter(self, ticket: Ticket, denied: Denied) -> int:
        """Go into the waiting room."""
        position = self.services.waiting.enter(ticket, denied, self)
        if position:
            self.ticket = ticket
        return position

    def leave(self) -> None:
        """Leave the waiting room, and stop the timer."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            self.services.waiting.leave(ticket)
        pause, self.pause = self.pause, None
        if pause is not None:
            pause.cancel()

    def send_request(self, origin: Any, request: bytes) -> None:
        """Send to the provider."""
        self.attempt = self.services.egress.send(origin, request, self)
        if self.protocol.flow.write_paused:
            self.attempt.pause_reading()

    def is_sent(self) -> bool:
        """Tell whether the provider may have got something of the request."""
        return self.attempt is not None and self.attempt.is_sent

    def read_on(self, most_ms: int) -> bool:
        """Go on reading without a client, as fast as the provider sends."""
        self.is_draining = self.services.drains.enter(self, most_ms)
        if self.is_draining and self.attempt is not None:
            self.attempt.resume_reading()
        return self.is_draining

    def cancel_request(self) -> None:
        """Hang up on the provider."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.cancel()

    def send_whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Write head and body at once."""
        if not self.disconnected:
            length = b"\r\n" if status in _BODILESS else b"content-length: %d\r\n\r\n" % len(body)
            closing = b"" if self.keep_alive else b"connection: close\r\n"
            self.protocol.transport.write(b"".join((_status_line(status), lines, closing, length, body)))
        self._finish()

    def send_head(self, status: int, lines: bytes) -> None:
        """Write the head of a stream."""
        if self.disconnected:
            return
        framing = b"transfer-encoding: chunked\r\n" if self.is_chunked else b""
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        self.protocol.transport.write(b"".join((_status_line(status), lines, framing, closing, b"\r\n")))

    def send_data(self, data: bytes) -> None:
        """Write a part of a stream."""
        if not self.disconnected:
            self.protocol.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.is_chunked else data)

    def send_end(self, data: bytes) -> None:
        """Write the last part of a stream, and its end."""
        if not self.disconnected:
            if self.is_chunked:
                data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
            self.protocol.transport.write(data)
        self._finish()

    def cut(self) -> None:
        """Close without the end that the framing asks for."""
        self.response_complete = True
        transport = self.protocol.transport
        if self.is_chunked and not self.protocol.flow.write_paused:
            transport.close()
        else:
            transport.abort()  # without chunks only a reset shows that something is missing

    # -- within --------------------------------------------------------------------------------------------------

    def _admitted(self) -> None:
        try:
            self.exchange.admitted_recorded()
        except Exception:
            self._crash()

    def _told(self, is_recorded: bool) -> None:
        exchange = self.exchange
        assert isinstance(exchange, AccountExchange)
        try:
            exchange.told(is_recorded, self.services.now_ms())
        except Exception:
            self._crash()

    def _ended(self) -> None:
        if self.is_draining:
            self.services.drains.leave(self)
        try:
            self.exchange.terminal_recorded()
            if self.services.log_requests is not None:
                self.services.log_requests(self.exchange)
        except Exception:
            self._crash()

    def _finish(self) -> None:
        self.response_complete = True
        self.protocol.exchange_done(self)

    def _crash(self) -> None:
        """Log a bug of ours and end the exchange; called while the exception is handled."""
        self.services.context.stats.bugs += 1
        _log.exception("bug", request_id=self.exchange.request_id)
        try:
            self.exchange.crash(self.services.now_ms())
        except Exception:
            _log.exception("bug while ending an exchange", request_id=self.exchange.request_id)
            self.services.drains.leave(self)
            self.cancel_request()
            self.response_complete = True
            self.protocol.transport.abort()


def _nothing() -> None:
    """Follow a write that nothing waits for."""


def _status_line(status: int) -> bytes:
    return STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status


def wall_clock_ms() -> int:
    """Return unix milliseconds."""
    return time.time_ns() // 1_000_000


class IdSource:
    """Makes UUIDv7s from the system's randomness, fetched in blocks."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        """Start without randomness."""
        self._ends: list[bytes] = []

    def __call__(self, now_ms: int) -> bytes:
        """Return a new id for unix milliseconds `now_ms`."""
        if not self._ends:
            self._ends = uuid7_ends(os.urandom(2560))
        return now_ms.to_bytes(6, "big") + self._ends.pop()
