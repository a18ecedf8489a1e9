"""The client's side: uvicorn's protocol, which takes the metered routes itself and leaves the rest to ASGI.

uvicorn keeps the connection's life: TLS, accepting, keep-alive, flow control, graceful stop. What it does for every
request (a scope, a task, events) is skipped on the metered routes. Requests of both kinds may follow each other, and
be pipelined, on one connection: they are answered in order.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ingress.adapters.driver import Driver, Services
from ingress.core.errors import error_body
from ingress.routes import find

MAX_HEAD_BYTES = 65_536
"""More than this without the end of a request's head is refused with 431."""
MAX_PIPELINED = 16
MAX_PIPELINED_BYTES = 1024 * 1024
"""More requests, or bytes of their bodies, are not read ahead on one connection."""
LINGER_S = 5.0
"""How long the rest of a refused body is read away, so that the client gets to see the answer."""

_log = structlog.get_logger("ingress.protocol")


class MeteredProtocol(HttpToolsProtocol):
    """One connection of a client. `serving(services)` makes the class that uvicorn is configured with."""

    services: Services

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make the protocol of a connection that uvicorn has accepted."""
        super().__init__(*args, **kwargs)
        self.receiving: Driver | None = None
        """Whose body arrives; None while the request belongs to ASGI."""
        self.drivers: list[Driver] = []
        """Exchanges on this connection that have not ended, oldest first."""
        self.head_bytes = -1
        """Bytes received since a head began; -1 outside a head."""
        self.idle_since = 0.0
        self.is_deaf = False
        """What still arrives is read away."""
        self.upload: asyncio.TimerHandle | None = None
        """Runs while a request has arrived in part."""

    # -- connection ----------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every exchange on the connection."""
        drivers, self.drivers = self.drivers, []
        cycle = self.cycle
        if isinstance(cycle, Driver):
            self.cycle = cast(RequestResponseCycle, None)  # uvicorn's own bookkeeping is for its own cycles
        super().connection_lost(exc)
        self.cycle = cycle
        for driver in drivers:
            driver.client_gone()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self.upload is not None:
            self.upload.cancel()
            self.upload = None

    def data_received(self, data: bytes) -> None:
        """Parse; callbacks run inside."""
        if self.is_deaf:
            return
        self.idle_since = 0.0
        if self.head_bytes >= 0:
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD_BYTES:
                self._refuse_bytes(431, f"The head of the request is larger than {MAX_HEAD_BYTES:,} bytes.")
                return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            _log.error("bug in a parser callback", exc_info=error.__context__ or error)
            self.services.context.stats.bugs += 1
            self.transport.abort()
        except httptools.HttpParserError:
            self._refuse_bytes(400, "The request is not valid HTTP/1.1.")
        except httptools.HttpParserUpgrade:
            pass  # answered without an upgrade, which a server is free to do
        is_partial = self.receiving is not None or self.head_bytes >= 0
        if is_partial != (self.upload is not None):
            self._watch_upload(is_partial)

    def _watch_upload(self, is_partial: bool) -> None:
        """Limit the time in which a request arrives, from the read that left it in part."""
        if self.upload is not None:
            self.upload.cancel()
            self.upload = None
        if is_partial and not self.transport.is_closing():
            self.upload = self.loop.call_later(self.services.upload_s, self._upload_over)

    def _upload_over(self) -> None:
        self.upload = None
        driver, limit_s = self.receiving, self.services.upload_s
        if driver is None:
            if self.head_bytes >= 0:
                self._refuse_bytes(408, f"The head of the request did not arrive within {limit_s:g} s.")
        elif not driver.upload_over(limit_s):
            self._watch_upload(is_partial=True)

    def pause_writing(self) -> None:
        """Let the provider wait for a slow client."""
        super().pause_writing()
        if self.drivers:
            self.drivers[0].client_slow()

    def resume_writing(self) -> None:
        """Let the provider go on."""
        super().resume_writing()
        if self.drivers:
            self.drivers[0].client_ready()

    # -- parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request; the ASGI scope is made only if it turns out to be needed."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect the head (and trailers, which nobody gets)."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Begin an exchange, or hand the request to ASGI."""
        self.head_bytes = -1
        path, _, query = self.url.partition(b"?")
        operation = find(self.parser.get_method(), path)
        if operation is None:
            self.receiving = None
            self._hand_to_asgi()
            return
        is_http_1_1 = self.parser.get_http_version() != "1.0"
        keep_alive = is_http_1_1 and self.parser.should_keep_alive()
        driver = self.receiving = Driver(self, operation, query, is_http_1_1=is_http_1_1, keep_alive=keep_alive)
        is_behind = self._is_answering()
        self.cycle = cast(RequestResponseCycle, driver)
        self.drivers.append(driver)
        driver.take_head(self.headers)
        if not is_behind:
            driver.serve()
        else:
            self.pipeline.appendleft((self.cycle, self.app))
            # Reading goes on for a while, because a hang-up is only seen by reading.
            if len(self.pipeline) > MAX_PIPELINED or sum(other.size for other in self.drivers) > MAX_PIPELINED_BYTES:
                self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        if self.receiving is not None:
            self.receiving.take_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Pass the end of the request on."""
        if self.upload is not None:
            self._watch_upload(is_partial=False)
        if self.receiving is not None:
            driver, self.receiving = self.receiving, None
            driver.take_end()
        else:
            super().on_message_complete()

    # -- answers -------------------------------------------------------------------------------------------------

    def exchange_done(self, driver: Driver) -> None:
        """Go on after an exchange has been answered."""
        if driver in self.drivers:
            self.drivers.remove(driver)
        if not driver.keep_alive and not driver.disconnected:
            if driver.body_done:
                self.transport.close()
            else:
                self.linger()
        self.on_response_complete()

    def linger(self) -> None:
        """Say that nothing more will be sent, and close soon: closing with unread bytes would lose the answer."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def on_response_complete(self) -> None:
        """Begin the next request of the pipeline, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self.idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection. One timer a connection: it looks again when a request came in between."""
        self.timeout_keep_alive_task = None
        if not self.idle_since or self.transport.is_closing():
            return
        left = self.idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Do nothing: `idle_since` says whether the timer means anything."""

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Driver):
            cycle.serve()
        else:
            super()._start_asgi_task(cycle, app)

    def _hand_to_asgi(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers += headers  # the list that the new scope refers to
        self.expect_100_continue = (b"expect", b"100-continue") in headers
        super().on_headers_complete()

    def _is_answering(self) -> bool:
        """Tell whether a request on this connection has not been answered yet."""
        cycle: Any = self.cycle  # uvicorn declares what is None before the first request
        return cycle is not None and not cycle.response_complete

    def _refuse_bytes(self, status: int, message: str) -> None:
        """Answer bytes that are no request, unless an answer is under way, and close."""
        if self._is_answering():
            self.transport.abort()
            return
        body = error_body("openai", status, "bad_request", message, "")
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[status], len(body), body)
        )
        self.is_deaf = True
        self.linger()


def serving(services: Services) -> type[asyncio.Protocol]:
    """Return the protocol class for `uvicorn.Config(http=…)` that serves exchanges with `services`."""
    return type("ServingProtocol", (MeteredProtocol,), {"services": services})
