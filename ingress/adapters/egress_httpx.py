"""The provider port on httpx: for egress through HTTP proxies, and as the reference of the law suite.

Not for the hot path: a task and several hundred microseconds a request. Same callbacks, same faults as the pool,
but for one thing: over TLS httpx does not see that a provider has closed an idle connection, so such a request ends
with `reset`; the pool sends it again.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from typing import Any, cast

import httpx

from ingress.adapters.provider.port import FaultKind, HeaderList, Origin, ProviderFault, ResponseSink

_TRUNCATED = "peer closed connection without sending complete"
_TOO_LARGE = "Receive buffer too long"
_DISCONNECTED = "Server disconnected"
_CLOSED_BEFORE = "ConnectionClosed when role=SERVER and state=SEND_RESPONSE"
"""The end of stream had been read with the previous response, so the connection was reused although it was closed."""


class HttpxEgress:
    """Sends requests through one httpx client per origin (see `port.ProviderEgress`)."""

    def __init__(self, *, proxy: str | None = None, ssl_context: ssl.SSLContext | None = None) -> None:
        """Make an egress without connections.

        Args:
            proxy: URL of an HTTP proxy for every origin; None connects directly, whatever the environment says.
            ssl_context: for origins with TLS; None means the system's trust store.
        """
        self._loop = asyncio.get_running_loop()
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._clients: dict[Origin, httpx.AsyncClient] = {}
        self._attempts: set[HttpxAttempt] = set()
        self._is_closing = False

    def send(self, origin: Origin, request: bytes, sink: ResponseSink) -> "HttpxAttempt":
        """Start a task that carries one request."""
        attempt = HttpxAttempt(origin, sink)
        self._attempts.add(attempt)
        work = self._refuse(attempt) if self._is_closing else self._carry(attempt, request)
        attempt.task = self._loop.create_task(work, name=f"provider-egress-{origin.host}:{origin.port}")
        attempt.task.add_done_callback(lambda task: self._ended(attempt, task))
        return attempt

    async def close(self) -> None:
        """Wait for exchanges in flight, close every connection, refuse new requests."""
        self._is_closing = True
        while self._attempts:
            await asyncio.wait([attempt.task for attempt in self._attempts if attempt.task is not None])
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    def _ended(self, attempt: "HttpxAttempt", task: asyncio.Task[None]) -> None:
        self._attempts.discard(attempt)
        bug = None if task.cancelled() else task.exception()
        if bug is not None:
            self._loop.call_exception_handler({"message": "response sink failed", "exception": bug, "task": task})
            attempt.fail("reset", sent=True, detail=type(bug).__name__)

    async def _refuse(self, attempt: "HttpxAttempt") -> None:
        attempt.fail("connect", sent=False, detail="egress closed")

    async def _carry(self, attempt: "HttpxAttempt", request: bytes) -> None:
        origin = attempt.origin
        try:
            async with asyncio.timeout(origin.total_s):
                await self._exchange(attempt, request)
        except TimeoutError:
            attempt.fail("total_timeout", sent=True, detail=f"response not complete within {origin.total_s} s")
        except httpx.HTTPError as error:
            kind, sent = _classify(error, head_done=attempt.head_done)
            attempt.fail(kind, sent=sent, detail=type(error).__name__)
        else:
            attempt.end()

    async def _exchange(self, attempt: "HttpxAttempt", request: bytes) -> None:
        message = _parse(attempt.origin, request)
        response = await self._open(attempt.origin, message)
        try:
            headers: HeaderList = list(response.headers.raw)
            size = sum(len(name) + len(value) + 4 for name, value in headers)
            if size > attempt.origin.max_head_bytes:
                raise httpx.RemoteProtocolError(_TOO_LARGE)
            message.extensions["timeout"]["read"] = attempt.origin.idle_s
            attempt.head(response.status_code, headers)
            async with contextlib.aclosing(cast(AsyncGenerator[bytes, None], response.aiter_raw())) as parts:
                async for part in parts:
                    attempt.data(part)
                    await attempt.may_read.wait()
        finally:
            await response.aclose()

    async def _open(self, origin: Origin, message: httpx.Request) -> httpx.Response:
        client = self._client(origin)
        try:
            return await client.send(message, stream=True)
        except httpx.RemoteProtocolError as error:
            if _CLOSED_BEFORE not in str(error):
                raise
        return await client.send(message, stream=True)

    def _client(self, origin: Origin) -> httpx.AsyncClient:
        client = self._clients.get(origin)
        if client is None:
            limits = httpx.Limits(
                max_connections=origin.max_connections,
                max_keepalive_connections=origin.max_connections,
                keepalive_expiry=origin.keepalive_s,
            )
            context = (self._ssl_context or ssl.create_default_context()) if origin.tls else False
            client = self._clients[origin] = httpx.AsyncClient(
                verify=context, proxy=self._proxy, limits=limits, trust_env=False
            )
        return client


class HttpxAttempt:
    """One request in flight (see `port.Attempt`)."""

    def __init__(self, origin: Origin, sink: ResponseSink) -> None:
        """Describe the request; the egress starts the task."""
        self.origin = origin
        self.sink = sink
        self.task: asyncio.Task[None] | None = None
        self.head_done = False
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._is_over = False

    @property
    def is_sent(self) -> bool:
        """Whether bytes of the request may have reached the provider: httpx does not tell."""
        return True

    def cancel(self) -> None:
        """Hang up: close the connection; no callback follows."""
        if not self._is_over and self.task is not None:
            self._is_over = True
            if asyncio.current_task() is not self.task:  # inside a callback, see `_stop_if_cancelled`
                self.task.cancel()

    def pause_reading(self) -> None:
        """Stop taking bytes from the provider."""
        self.may_read.clear()

    def resume_reading(self) -> None:
        """Take bytes again."""
        self.may_read.set()

    def head(self, status: int, headers: HeaderList) -> None:
        """Pass the head on."""
        self.head_done = True
        self.sink.provider_head(status, headers)
        self._stop_if_cancelled()

    def data(self, data: bytes) -> None:
        """Pass body bytes on."""
        self.sink.provider_data(data)
        self._stop_if_cancelled()

    def end(self) -> None:
        """Tell the sink that its response is whole, once."""
        if not self._is_over:
            self._is_over = True
            self.sink.provider_end()

    def fail(self, kind: FaultKind, *, sent: bool, detail: str) -> None:
        """Tell the sink why its response is incomplete, once."""
        if not self._is_over:
            self._is_over = True
            self.sink.provider_error(ProviderFault(kind, sent, detail))

    def _stop_if_cancelled(self) -> None:
        """Leave the exchange after a callback that hung up; a cancellation would hit the closing of the connection."""
        if self._is_over:
            raise asyncio.CancelledError


def _parse(origin: Origin, request: bytes) -> httpx.Request:
    """Take a request apart again, as httpx builds its own head."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    timeouts = {
        "connect": origin.connect_s,
        "pool": origin.connect_s,
        "read": origin.first_byte_s,
        "write": origin.first_byte_s,
    }
    extensions: dict[str, Any] = {"timeout": timeouts}
    if origin.server_hostname:
        extensions["sni_hostname"] = origin.server_hostname
    scheme = "https" if origin.tls else "http"
    url = httpx.URL(scheme=scheme, host=origin.host, port=origin.port, raw_path=target)
    return httpx.Request(method.decode("ascii"), url, headers=headers, content=body, extensions=extensions)


def _classify(error: httpx.HTTPError, *, head_done: bool) -> tuple[FaultKind, bool]:
    """Return the fault's kind, and whether the request may have reached the provider."""
    match error:
        case httpx.PoolTimeout():
            return "pool_exhausted", False
        case httpx.ConnectTimeout():
            return "connect_timeout", False
        case httpx.ConnectError() | httpx.ProxyError() | httpx.UnsupportedProtocol():
            return "connect", False
        case httpx.TimeoutException():
            return ("idle_timeout" if head_done else "first_byte_timeout"), True
        case httpx.RemoteProtocolError():
            return _classify_bytes(str(error)), True
        case _:
            return "reset", True


def _classify_bytes(message: str) -> FaultKind:
    if _TOO_LARGE in message:
        return "head_too_large"
    if _TRUNCATED in message:
        return "truncated"
    return "reset" if _DISCONNECTED in message else "protocol"
