"""One provider connection and its route, byte by byte and tick by tick, on a transport that is a list."""

import asyncio
import socket
from typing import Any, cast

import pytest

from ingress.adapters.provider.attempt import PooledAttempt
from ingress.adapters.provider.connection import ProviderConnection
from ingress.adapters.provider.evidence import request_was_not_taken
from ingress.adapters.provider.pool import ProviderPool, Route
from ingress.adapters.provider.port import HeaderList, Origin, ProviderFault

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: p\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps what was written, and whether it was closed or paused."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_aborted = False
        self.is_reading_paused = False
        self.buffered_bytes = 0

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def is_reading(self) -> bool:
        return not self.is_reading_paused

    def get_write_buffer_size(self) -> int:
        return self.buffered_bytes


class Sink:
    """Keeps the callbacks as a list of tuples."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def provider_head(self, status: int, headers: HeaderList) -> None:
        self.calls.append(("head", status, headers))

    def provider_data(self, data: bytes) -> None:
        self.calls.append(("data", data))

    def provider_end(self) -> None:
        self.calls.append(("end",))

    def provider_error(self, error: ProviderFault) -> None:
        self.calls.append((error.kind, error.sent))

    @property
    def body(self) -> bytes:
        return b"".join(call[1] for call in self.calls if call[0] == "data")


class Bench:
    """A route with one connection on a fake transport."""

    def __init__(self, **limits: Any) -> None:
        self.pool = ProviderPool()
        self.route = Route(self.pool, Origin(**{"host": "p", "port": 1, "tls": False, **limits}))
        self.connection = ProviderConnection(self.route)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)
        self.sink = Sink()

    def begin(self) -> PooledAttempt:
        """Put a request on the connection."""
        self.sink = Sink()
        attempt = PooledAttempt(self.route, REQUEST, self.sink)
        self.connection.begin(attempt)
        return attempt

    def receive(self, *parts: bytes) -> Sink:
        """Put a request on the connection and receive the parts."""
        self.begin()
        for part in parts:
            self.connection.data_received(part)
        return self.sink


async def test_request_is_one_write() -> None:
    """Head and body of a request leave in a single write."""
    bench = Bench()
    bench.begin()
    assert bench.transport.written == [REQUEST]


async def test_free_connection_is_given_back_before_the_end_is_told() -> None:
    """A sink that sends again from its end callback finds the connection idle."""
    bench = Bench()
    idle_at_end: list[int] = []
    bench.begin()
    bench.sink.provider_end = lambda: idle_at_end.append(len(bench.route.idle))  # type: ignore[method-assign]  # probe
    bench.connection.data_received(OK)
    assert idle_at_end == [1]


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\n", OK, b"x"], ids=["half", "whole", "noise"])
async def test_bytes_after_the_response_are_never_an_answer(extra: bytes) -> None:
    """What follows a complete response in the same read is dropped with the connection; the response stands."""
    bench = Bench()
    sink = bench.receive(OK + extra)
    assert [call[0] for call in sink.calls] == ["head", "data", "end"]
    assert sink.body == b"ok"
    assert bench.transport.is_aborted
    assert bench.route.idle == []


async def test_bytes_on_an_idle_connection_close_it() -> None:
    """A response that nobody asked for cannot become the answer of the next request."""
    bench = Bench()
    bench.receive(OK)
    assert bench.route.idle == [bench.connection]
    bench.connection.data_received(OK)
    assert bench.transport.is_aborted
    assert bench.route.idle == []


async def test_trailers_reach_nobody() -> None:
    """Trailers neither change the head that was delivered nor leak into the next one."""
    bench = Bench()
    sink = bench.receive(HEAD, b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert sink.calls[0] == ("head", 200, [(b"Transfer-Encoding", b"chunked")])
    assert sink.calls[-1] == ("end",)
    assert bench.receive(OK).calls[0] == ("head", 200, [(b"Content-Length", b"2")])


async def test_endless_trailers_are_refused() -> None:
    """Framing without body bytes is bounded like a head."""
    bench = Bench(max_head_bytes=1000)
    sink = bench.receive(HEAD, b"2\r\nok\r\n0\r\n", *[b"X-Trailer: 1\r\n"] * 100)
    assert sink.calls[-1] == ("head_too_large", True)


async def test_endless_interim_responses_are_refused() -> None:
    """Interim responses count towards the limit of the head."""
    bench = Bench(max_head_bytes=1000)
    sink = bench.receive(*[b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"] * 50)
    assert sink.calls == [("head_too_large", True)]


async def test_body_in_the_same_read_does_not_count_as_head() -> None:
    """A small head with a large body in one read passes a limit that the sum would not."""
    bench = Bench(max_head_bytes=1000)
    sink = bench.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000)
    assert sink.calls[-1] == ("end",)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"Transfer-Encoding: gzip\r\n", "protocol"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "protocol"),
    ],
    ids=["coding", "both framings"],
)
async def test_ambiguous_framing_is_a_protocol_fault(head: bytes, kind: str) -> None:
    """Framing that two readers could read in two ways is refused."""
    bench = Bench()
    sink = bench.receive(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n5\r\nhello\r\n0\r\n\r\n")
    assert sink.calls == [(kind, True)]


async def test_switching_protocols_is_a_protocol_fault() -> None:
    """Nobody asked for an upgrade, so 101 is not an answer."""
    bench = Bench()
    sink = bench.receive(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert sink.calls == [("protocol", True)]


async def test_early_response_to_an_unsent_request_closes_the_connection() -> None:
    """A response that arrives while the request is still being sent stands, but the connection is not used again."""
    bench = Bench()
    bench.begin()
    bench.connection.pause_writing()
    bench.connection.data_received(OK)
    assert bench.sink.calls[-1] == ("end",)
    assert bench.transport.is_aborted


async def test_pause_is_lifted_when_the_connection_is_given_back() -> None:
    """A sink that paused and never resumed leaves a connection that reads."""
    bench = Bench()
    attempt = bench.begin()
    attempt.pause_reading()
    attempt.pause_reading()
    assert not bench.transport.is_reading()
    bench.connection.data_received(OK)
    assert bench.transport.is_reading()
    attempt.pause_reading()
    assert bench.transport.is_reading()


async def test_pause_before_the_connection_holds_from_the_start() -> None:
    """Pausing an attempt that waits for a connection takes effect once it has one."""
    bench = Bench()
    attempt = PooledAttempt(bench.route, REQUEST, bench.sink)
    attempt.pause_reading()
    bench.connection.begin(attempt)
    assert not bench.transport.is_reading()
    bench.connection.data_received(OK)
    assert bench.sink.calls[-1] == ("end",)
    assert bench.transport.is_reading()


# -- time ------------------------------------------------------------------------------------------------------------


def sweep(bench: Bench, *times: float) -> list[tuple[Any, ...]]:
    """Sweep at the given times; return what the sink has heard."""
    for now in times:
        bench.connection.sweep(now)
    return bench.sink.calls


async def test_first_byte_limit_counts_from_the_first_sweep() -> None:
    """Limits are never met early: the clock starts with the first sweep after the request."""
    bench = Bench(first_byte_s=5.0)
    bench.begin()
    assert sweep(bench, 100.0, 104.9) == []
    assert sweep(bench, 105.0) == [("first_byte_timeout", True)]
    assert bench.transport.is_aborted


async def test_idle_limit_starts_anew_with_every_read() -> None:
    """Only silence counts."""
    bench = Bench(idle_s=5.0, first_byte_s=1.0)
    bench.receive(HEAD)
    sweep(bench, 100.0, 104.0)
    bench.connection.data_received(b"1\r\nx\r\n")
    assert sweep(bench, 104.5, 109.0)[-1] == ("data", b"x")
    assert sweep(bench, 109.5)[-1] == ("idle_timeout", True)


async def test_idle_limit_does_not_run_while_paused_but_the_total_does() -> None:
    """A slow client is not a silent provider."""
    bench = Bench(idle_s=5.0, total_s=60.0)
    bench.receive(HEAD)
    cast(PooledAttempt, bench.connection.attempt).pause_reading()
    assert len(sweep(bench, 100.0, 150.0, 159.0)) == 1
    assert sweep(bench, 160.0)[-1] == ("total_timeout", True)


async def test_first_byte_limit_waits_for_a_large_request_that_moves() -> None:
    """While the provider keeps taking bytes of the request, it is not late with the response."""
    bench = Bench(first_byte_s=5.0)
    bench.begin()
    bench.connection.pause_writing()
    for now, left in ((100.0, 900), (104.0, 500), (108.0, 100)):
        bench.transport.buffered_bytes = left
        assert sweep(bench, now) == []
    assert sweep(bench, 112.9) == []
    assert sweep(bench, 113.0) == [("first_byte_timeout", True)]


async def test_unused_connection_is_closed_in_time() -> None:
    """An idle connection lives for `keepalive_s`."""
    bench = Bench(keepalive_s=30.0)
    bench.receive(OK)
    sweep(bench, 100.0, 129.0)
    assert not bench.transport.is_aborted
    sweep(bench, 130.0)
    assert bench.transport.is_aborted


# -- stale connections -----------------------------------------------------------------------------------------------


async def test_unsent_request_counts_as_not_taken() -> None:
    """Bytes that never left this process cannot have been processed."""
    transport = FakeTransport()
    assert not request_was_not_taken(transport)
    transport.buffered_bytes = 1
    assert request_was_not_taken(transport)


@pytest.mark.parametrize("was_read", [True, False], ids=["read", "closed before"])
async def test_kernel_tells_whether_the_request_was_taken(was_read: bool) -> None:
    """The evidence holds on the standard event loop too: acknowledged bytes mean taken, refused bytes mean not."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    closed = asyncio.Event()
    verdicts: list[bool] = []

    class Probe(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def eof_received(self) -> None:
            verdicts.append(request_was_not_taken(self.transport))
            closed.set()

    transport, _ = await loop.create_connection(Probe, *listener.getsockname())
    peer, _ = listener.accept()
    if was_read:
        transport.write(b"x" * 100)
        while not peer.recv(100):
            pass
        peer.close()
    else:
        peer.close()
        transport.write(b"x" * 100)
    await asyncio.wait_for(closed.wait(), 5)
    listener.close()
    transport.abort()
    await asyncio.sleep(0)
    assert verdicts == [not was_read]


# -- the pool's upkeep -----------------------------------------------------------------------------------------------


async def test_unused_routes_are_forgotten() -> None:
    """Origins of an old policy leave nothing behind once their connections are gone."""
    pool = ProviderPool(tick_s=0.001)
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    done = asyncio.Event()
    sink = Sink()
    sink.provider_end = done.set  # type: ignore[method-assign]  # the test waits for it
    pool.send(Origin(host="127.0.0.1", port=port, tls=False, keepalive_s=0.01), REQUEST, sink)
    await asyncio.wait_for(done.wait(), 5)
    assert pool.open_connections == 1
    while pool.open_connections or pool._routes:
        await asyncio.sleep(0.001)
    while pool._timer is not None:
        await asyncio.sleep(0.001)
    server.close()
    await server.wait_closed()
    await pool.close()


async def test_abort_ends_every_exchange() -> None:
    """Aborting the pool tells every sink, whether or not it had a connection, and ends at once."""
    pool = ProviderPool(tick_s=0.001)
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    origin = Origin(host="127.0.0.1", port=port, tls=False, max_connections=1)
    carried, waiting = Sink(), Sink()
    pool.send(origin, REQUEST, carried)
    pool.send(origin, REQUEST, waiting)
    while not pool.open_connections:
        await asyncio.sleep(0)
    pool.abort()
    assert waiting.calls == [("connect", False)]
    assert carried.calls in ([("reset", True)], [("connect", False)])
    await asyncio.wait_for(pool.close(), 5)
    server.close()
    await server.wait_closed()


class _Answering(asyncio.Protocol):
    """Answers every read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(OK)
