"""One keep-alive connection to a provider: HTTP/1.1 responses in, callbacks of the response sink out.

Hot path. Every request passes `begin`, `data_received` and the parser callbacks, so they do nothing that could be done
once a connection or once a sweep: time is read by the sweep only, and per event one flag is set.
Knows neither how connections are shared (`pool`) nor what the bytes mean.
"""

import asyncio
from typing import Protocol, cast

import httptools

from ingress.adapters.provider.attempt import PooledAttempt
from ingress.adapters.provider.evidence import request_was_not_taken
from ingress.adapters.provider.port import FaultKind, HeaderList, Origin, ProviderFault, ResponseSink


class ConnectionOwner(Protocol):
    """What a connection needs of the pool."""

    origin: Origin

    def connection_opened(self, connection: "ProviderConnection") -> None:
        """Count and watch the connection."""

    def connection_free(self, connection: "ProviderConnection") -> None:
        """Take the connection back for the next request."""

    def connection_closing(self, connection: "ProviderConnection") -> None:
        """Hand the connection out no more."""

    def connection_closed(self, connection: "ProviderConnection") -> None:
        """Forget the connection."""

    def retry(self, attempt: PooledAttempt) -> None:
        """Send the request again, on a new connection."""


class _Nobody:
    """Sink of a connection that serves no request."""

    def provider_head(self, status: int, headers: HeaderList) -> None:
        pass

    def provider_data(self, data: bytes) -> None:
        pass

    def provider_end(self) -> None:
        pass

    def provider_error(self, error: ProviderFault) -> None:
        pass


class _Refused(Exception):
    """Raised inside a parser callback to stop it; carries the fault's kind and detail."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


_NOBODY = _Nobody()
_FRAMING = (b"content-length", b"transfer-encoding")


class ProviderConnection(asyncio.Protocol):
    """The protocol object under a transport; serves one request at a time."""

    __slots__ = (
        "attempt",
        "ends_with_close",
        "feed",
        "head_done",
        "headers",
        "is_complete",
        "is_write_paused",
        "keep_alive",
        "max_head_bytes",
        "owner",
        "parser",
        "quiet_bytes",
        "reused",
        "since",
        "sink",
        "touched",
        "transport",
        "unsent_bytes",
    )

    def __init__(self, owner: ConnectionOwner) -> None:
        """Make an unconnected connection of `owner`."""
        self.owner = owner
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.parser = httptools.HttpResponseParser(self)
        self.feed = self.parser.feed_data
        self.max_head_bytes = owner.origin.max_head_bytes
        self.attempt: PooledAttempt | None = None
        self.sink: ResponseSink = _NOBODY
        self.headers: HeaderList = []
        self.quiet_bytes = 0
        """Bytes received since the request, or since the last body byte."""
        self.head_done = False
        self.is_complete = False
        self.keep_alive = True
        self.ends_with_close = False
        self.reused = False
        self.touched = True
        """Something happened since the last sweep."""
        self.since = 0.0
        """Time of the last sweep that found the connection touched."""
        self.is_write_paused = False
        self.unsent_bytes = 0

    # -- one request ---------------------------------------------------------------------------------------------

    def begin(self, attempt: PooledAttempt) -> None:
        """Write the request of `attempt`; its sink is served until `is_complete`, a fault or `drop`."""
        self.attempt = attempt
        self.sink = attempt.sink
        attempt.connection = self
        self.quiet_bytes = 0
        self.head_done = self.is_complete = False
        self.touched = True
        self.transport.write(attempt.request)
        if attempt.is_paused:
            self.transport.pause_reading()

    def drop(self) -> None:
        """Close at once and serve nobody any more."""
        self._detach()
        self.owner.connection_closing(self)
        self.transport.abort()

    def fail(self, kind: FaultKind, detail: str) -> None:
        """Close at once and tell the sink why."""
        sink = self.sink
        self.drop()
        sink.provider_error(ProviderFault(kind, True, detail))

    def _detach(self) -> None:
        if self.attempt is not None:
            self.attempt.connection = None
            self.attempt = None
        self.sink = _NOBODY

    def _finish(self) -> None:
        """Give the connection back, then tell the sink that its response is whole."""
        attempt = cast(PooledAttempt, self.attempt)
        if not self.keep_alive or self.is_write_paused:
            self.drop()
        else:
            attempt.connection = None
            self.attempt = None
            self.sink = _NOBODY
            if attempt.is_paused:
                self.transport.resume_reading()
            self.touched = True
            self.owner.connection_free(self)
        attempt.sink.provider_end()

    # -- transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self.owner.connection_opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse; callbacks run inside."""
        if self.attempt is None:
            self.drop()  # bytes that nobody asked for: what follows on this connection cannot be trusted
            return
        self.touched = True
        self.quiet_bytes += len(data)
        try:
            self.feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._unparsable(error)
            return
        if self.is_complete:
            if self.attempt is not None:
                self._finish()
        elif self.quiet_bytes > self.max_head_bytes and self.attempt is not None:
            self.fail("head_too_large", f"no end of head or framing within {self.max_head_bytes} bytes")

    def eof_received(self) -> None:
        """Settle what the end of stream means for the request in flight."""
        self._lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle the request in flight, and leave the pool."""
        self._lost(exc)
        self.owner.connection_closed(self)

    def pause_writing(self) -> None:
        """Note that the provider takes the request slowly; the rest of it waits in the transport."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """Note that the provider has taken most of the request."""
        self.is_write_paused = False
        self.touched = True

    def _lost(self, exc: Exception | None) -> None:
        attempt = self.attempt
        if attempt is None:
            self.owner.connection_closing(self)
        elif not self.head_done:
            self._lost_before_head(attempt, exc)
        elif exc is not None:
            self.fail("reset", type(exc).__name__)
        elif self.ends_with_close:
            self.drop()
            attempt.sink.provider_end()
        else:
            self.fail("truncated", "connection closed inside the response body")

    def _lost_before_head(self, attempt: PooledAttempt, exc: Exception | None) -> None:
        may_be_stale = self.reused and not attempt.is_retried and not self.quiet_bytes
        closed_by_provider = exc is None or isinstance(exc, BrokenPipeError)
        if may_be_stale and closed_by_provider and request_was_not_taken(self.transport):
            self.drop()
            attempt.is_retried = True
            self.owner.retry(attempt)
        else:
            self.fail("reset", "connection closed before the response head" if exc is None else type(exc).__name__)

    def _unparsable(self, error: Exception) -> None:
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if cause is not None and not isinstance(cause, _Refused):
            raise cause  # a bug in the sink: the loop's exception handler gets it, connection_lost ends the exchange
        if self.attempt is None:
            return
        if self.is_complete:
            self.keep_alive = False
            self._finish()
        elif isinstance(cause, _Refused):
            self.fail(cause.kind, str(cause))
        else:
            self.fail("protocol", str(error) if isinstance(error, httptools.HttpParserError) else "upgrade")

    # -- parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Distrust a connection that answers twice."""
        if self.is_complete:
            self.keep_alive = False
            self.sink = _NOBODY

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect the head (and, after it, trailers, which nobody gets)."""
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Pass the head on, unless it is an interim one or belongs to a second response."""
        headers = self.headers
        self.headers = []
        status = self.parser.get_status_code()
        if status < 200 or self.is_complete:
            return
        if self.quiet_bytes > self.max_head_bytes:
            self._check_head_bytes(headers)
        self.head_done = True
        self.keep_alive = self.parser.should_keep_alive()
        self.ends_with_close = not self.keep_alive and self._is_delimited_by_close(headers)
        self.sink.provider_head(status, headers)

    def on_body(self, body: bytes) -> None:
        """Pass body bytes on."""
        self.quiet_bytes = 0
        self.sink.provider_data(body)

    def on_message_complete(self) -> None:
        """Note the end of the final response."""
        if self.head_done:
            self.is_complete = True
            if self.headers:
                self.headers = []

    def _check_head_bytes(self, headers: HeaderList) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in headers)
        if size > self.max_head_bytes:
            raise _Refused("head_too_large", f"response head of {size} bytes, limit {self.max_head_bytes}")

    @staticmethod
    def _is_delimited_by_close(headers: HeaderList) -> bool:
        framing = [(name.lower(), value.lower()) for name, value in headers if name.lower() in _FRAMING]
        if any(name == b"transfer-encoding" and b"chunked" not in value for name, value in framing):
            raise _Refused("protocol", "unsupported transfer encoding")
        return not framing

    # -- sweep ---------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Apply the time limits; called every tick, so a limit is met within two ticks and never early."""
        attempt = self.attempt
        if self.touched or (attempt is not None and (attempt.is_paused or self._request_moved())):
            self.touched = False
            self.since = now
        if attempt is None:
            if now - self.since >= self.owner.origin.keepalive_s:
                self.drop()
        elif not attempt.started:
            attempt.started = now
        else:
            self._sweep_attempt(attempt, now)

    def _sweep_attempt(self, attempt: PooledAttempt, now: float) -> None:
        origin = self.owner.origin
        if now - attempt.started >= origin.total_s:
            self.fail("total_timeout", f"response not complete within {origin.total_s} s")
        elif self.head_done or self.quiet_bytes:
            if now - self.since >= origin.idle_s:
                self.fail("idle_timeout", f"no byte for {origin.idle_s} s inside the response")
        elif now - self.since >= origin.first_byte_s:
            self.fail("first_byte_timeout", f"no response byte within {origin.first_byte_s} s")

    def _request_moved(self) -> bool:
        """Whether the provider has taken bytes of a large request since the last sweep."""
        if not self.is_write_paused:
            return False
        before, self.unsent_bytes = self.unsent_bytes, self.transport.get_write_buffer_size()
        return before != self.unsent_bytes
