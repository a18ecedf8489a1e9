"""The keep-alive pool: which connection carries which request, how many there are, and how long they may take.

One sweep a tick looks at all connections and waiting requests; there is no timer, task or queue per request.
A task exists only while a connection is being opened. Knows nothing of the responses (`connection` does).
"""

import asyncio
import ssl

from ingress.adapters.provider.attempt import PooledAttempt
from ingress.adapters.provider.connection import ProviderConnection
from ingress.adapters.provider.port import FaultKind, Origin, ProviderFault, ResponseSink

DEFAULT_TICK_S = 0.1


class ProviderPool:
    """Sends requests over shared keep-alive connections (see `port.ProviderEgress`)."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, tick_s: float = DEFAULT_TICK_S) -> None:
        """Make an empty pool for the running loop.

        Args:
            ssl_context: for origins with TLS; None means the system's trust store, loaded on first use.
            tick_s: how often time limits are checked; each is met within two ticks after it has passed.
        """
        self.loop = asyncio.get_running_loop()
        self.tick_s = tick_s
        self.is_closing = False
        self.connections: set[ProviderConnection] = set()
        self.opened_total = 0
        self.reused_total = 0
        self.retried_total = 0
        self._ssl_context = ssl_context
        self._routes: dict[Origin, Route] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event = asyncio.Event()

    @property
    def open_connections(self) -> int:
        """Connections open now, idle ones included."""
        return len(self.connections)

    @property
    def idle_connections(self) -> int:
        """Connections open now that carry no request."""
        return sum(len(route.idle) for route in self._routes.values())

    @property
    def waiting_requests(self) -> int:
        """Requests that have no connection yet: being opened, or over the origin's limit."""
        return sum(len(route.dialing) + len(route.waiting) for route in self._routes.values())

    def send(self, origin: Origin, request: bytes, sink: ResponseSink) -> PooledAttempt:
        """Send one request; on an idle connection this is one write."""
        route = self._routes.get(origin)
        if route is None:
            route = self._routes[origin] = Route(self, origin)
        attempt = PooledAttempt(route, request, sink)
        if route.idle:
            connection = route.idle.pop()
            connection.reused = True
            self.reused_total += 1
            connection.begin(attempt)
        else:
            route.dial(attempt)
        return attempt

    async def close(self) -> None:
        """Close idle connections at once, wait for exchanges in flight to end, refuse new ones."""
        self.is_closing = True
        for route in self._routes.values():
            for connection in tuple(route.idle):
                connection.drop()
        while self._is_busy():
            self._emptied.clear()
            await self._emptied.wait()
        self._disarm()

    def abort(self) -> None:
        """Close everything at once; every request in flight ends with `provider_error`."""
        self.is_closing = True
        for route in tuple(self._routes.values()):
            route.abort()
        for connection in tuple(self.connections):
            connection.fail("reset", "pool closed")

    def ssl_for(self, origin: Origin) -> ssl.SSLContext | None:
        """Return the TLS context for connections to `origin`, None without TLS."""
        if not origin.tls:
            return None
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    def arm(self) -> None:
        """Keep the sweep going while there is anything to watch."""
        if self._timer is None:
            self._timer = self.loop.call_later(self.tick_s, self._sweep)

    def settle(self) -> None:
        """Let `close` look again whether it may return."""
        self._emptied.set()

    def _is_busy(self) -> bool:
        return bool(self.connections) or any(route.is_used() for route in self._routes.values())

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self.loop.time()
        for connection in tuple(self.connections):
            connection.sweep(now)
        for origin, route in tuple(self._routes.items()):
            route.sweep(now)
            if not route.is_used():
                del self._routes[origin]
        if self._is_busy():
            self.arm()


class Route:
    """Connections to one origin, and the requests that wait for one."""

    def __init__(self, pool: ProviderPool, origin: Origin) -> None:
        """Make a route without connections."""
        self.pool = pool
        self.origin = origin
        self.idle: list[ProviderConnection] = []
        self.open_count = 0
        self.dialing: dict[PooledAttempt, asyncio.Task[None]] = {}
        self.waiting: dict[PooledAttempt, None] = {}

    def is_used(self) -> bool:
        """Whether anything hangs on this route."""
        return bool(self.open_count or self.dialing or self.waiting)

    def dial(self, attempt: PooledAttempt) -> None:
        """Open a connection for the attempt, or let it wait where the origin's limit is reached."""
        self.pool.arm()
        if self.pool.is_closing:
            self.pool.loop.call_soon(self._refuse, attempt, "connect", "pool closed")
            self.waiting[attempt] = None
        elif len(self.dialing) + self.open_count >= self.origin.max_connections:
            self.waiting[attempt] = None
        else:
            name = f"provider-connect-{self.origin.host}:{self.origin.port}"
            self.dialing[attempt] = self.pool.loop.create_task(self._connect(attempt), name=name)

    async def _connect(self, attempt: PooledAttempt) -> None:
        origin = self.origin
        context = self.pool.ssl_for(origin)
        try:
            _, connection = await self.pool.loop.create_connection(
                lambda: ProviderConnection(self),
                origin.host,
                origin.port,
                ssl=context,
                server_hostname=(origin.server_hostname or origin.host) if context else None,
            )
        except (OSError, UnicodeError) as error:
            self._refuse(attempt, "connect", f"{origin.host}:{origin.port}: {error}")
        else:
            self._hand_over(connection, attempt)
        finally:
            self.dialing.pop(attempt, None)
            self.serve_waiting()

    def _hand_over(self, connection: ProviderConnection, attempt: PooledAttempt) -> None:
        if connection.transport.is_closing():
            self._refuse(attempt, "connect", "connection closed while it was opened")
        elif self.dialing.pop(attempt, None) is not None:
            connection.begin(attempt)
        else:
            self.connection_free(connection)

    def _refuse(self, attempt: PooledAttempt, kind: FaultKind, detail: str) -> None:
        """End an attempt that never got a connection, once."""
        if attempt in self.dialing or attempt in self.waiting:
            self.forget(attempt)
            attempt.sink.provider_error(ProviderFault(kind, False, detail))

    def forget(self, attempt: PooledAttempt) -> None:
        """Drop an attempt that waits for a connection; a no-op for one that has ended."""
        self.waiting.pop(attempt, None)
        task = self.dialing.pop(attempt, None)
        if task is not None and task is not asyncio.current_task(self.pool.loop):
            task.cancel()
        self.pool.settle()

    def abort(self) -> None:
        """End every attempt without a connection."""
        for attempt in (*self.dialing, *self.waiting):
            self._refuse(attempt, "connect", "pool closed")

    def serve_waiting(self) -> None:
        """Open a connection for the request that waits longest, if the limit allows one."""
        if self.waiting and not self.pool.is_closing:
            attempt = next(iter(self.waiting))
            del self.waiting[attempt]
            self.dial(attempt)
        self.pool.settle()

    def sweep(self, now: float) -> None:
        """End the attempts that have waited too long for a connection."""
        for attempt in (*self.dialing, *self.waiting):
            if not attempt.since:
                attempt.since = now
                attempt.started = attempt.started or now
            elif now - attempt.since >= self.origin.connect_s:
                if attempt in self.dialing:
                    self._refuse(attempt, "connect_timeout", f"no connection within {self.origin.connect_s} s")
                else:
                    limit = self.origin.max_connections
                    self._refuse(attempt, "pool_exhausted", f"all {limit} connections busy")

    # -- what connections report ---------------------------------------------------------------------------------

    def connection_opened(self, connection: ProviderConnection) -> None:
        """Count and watch the connection."""
        self.open_count += 1
        self.pool.opened_total += 1
        self.pool.connections.add(connection)

    def connection_free(self, connection: ProviderConnection) -> None:
        """Give the connection to the request that waits longest, or keep it for the next one."""
        if self.waiting:
            attempt = next(iter(self.waiting))
            del self.waiting[attempt]
            connection.reused = True
            self.pool.reused_total += 1
            connection.begin(attempt)
        elif self.pool.is_closing:
            connection.drop()
        else:
            self.idle.append(connection)

    def connection_closing(self, connection: ProviderConnection) -> None:
        """Hand the connection out no more."""
        if connection in self.idle:
            self.idle.remove(connection)

    def connection_closed(self, connection: ProviderConnection) -> None:
        """Forget the connection; its place is free."""
        self.open_count -= 1
        self.pool.connections.discard(connection)
        self.serve_waiting()

    def retry(self, attempt: PooledAttempt) -> None:
        """Send the request of a stale connection again, on a new one."""
        self.pool.retried_total += 1
        attempt.since = 0.0
        self.dial(attempt)
