"""The laws of the provider port, for the keep-alive pool and for the httpx egress alike."""

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingress.adapters.egress_httpx import HttpxEgress
from ingress.adapters.provider_pool import Origin, ProviderPool
from tests.contract.provider_lab import OK, REQUEST, Lab, Recorder, play, turns, until

SIZED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Empty:\r\nContent-Length: 12\r\n\r\nhello, world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n"
    b"5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\nX-Trailer: t\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + SIZED
CLOCK_S = 0.002
"""Resolution of the loop's clock, and then some."""
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello, world"

both = pytest.mark.parametrize("egress", ["pool", "httpx"])


# -- responses -------------------------------------------------------------------------------------------------------


@both
def test_head_and_body_arrive_as_sent(egress: str) -> None:
    """Status, header names and values in order and case, body and end reach the sink; the request is sent verbatim."""

    async def scenario(lab: Lab) -> None:
        peer, got = await lab.exchange(SIZED)
        assert (got.status, got.body, got.ended) == (200, b"hello, world", True)
        assert got.headers == [(b"Content-Type", b"text/plain"), (b"X-Empty", b""), (b"Content-Length", b"12")]
        head, _, body = peer.requests[0].partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[0] == b"POST /v1/x?y=1 HTTP/1.1"
        assert body == b"hello"
        assert sorted(line.lower() for line in head.split(b"\r\n")[1:]) == [
            b"content-length: 5",
            b"content-type: text/plain",
            b"host: provider",
        ]

    play(egress, scenario)


@both
@pytest.mark.parametrize("response", [SIZED, CHUNKED, INTERIM], ids=["sized", "chunked", "interim"])
def test_response_cut_anywhere_is_the_same(egress: str, response: bytes) -> None:
    """A response in two reads, cut at every offset, gives the same head, body and end, on one connection."""

    async def scenario(lab: Lab) -> None:
        peer, _ = await lab.exchange(OK)
        for cut in range(1, len(response)):
            got = lab.send()
            await peer.answer(response[:cut], response[cut:])
            await got.over()
            assert (got.status, got.body, got.ended) == (200, b"hello, world", True), cut
        assert len(lab.peers) == 1

    play(egress, scenario)


@both
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    cuts=st.lists(st.integers(min_value=1, max_value=1500), max_size=6),
)
def test_chunks_cut_anywhere_give_the_body(egress: str, chunks: list[bytes], cuts: list[int]) -> None:
    """For any chunks and any cuts into reads, the body is the concatenation of the chunks."""
    frames = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + frames + b"0\r\n\r\n"
    edges = [0, *sorted({cut for cut in cuts if cut < len(response)}), len(response)]
    reads = [response[low:high] for low, high in itertools.pairwise(edges)]

    async def scenario(lab: Lab) -> None:
        _, got = await lab.exchange(*reads)
        assert got.ended
        assert got.body == b"".join(chunks)

    play(egress, scenario)


@both
def test_body_without_length_ends_with_the_connection(egress: str) -> None:
    """A body delimited by the end of the stream is complete there, wherever it is cut."""

    async def scenario(lab: Lab) -> None:
        for cut in range(1, len(UNTIL_CLOSE)):
            got = lab.send()
            peer = await lab.accept()
            await peer.answer(UNTIL_CLOSE[:cut], UNTIL_CLOSE[cut:])
            assert not got.is_over
            peer.close()
            await got.over()
            assert (got.status, got.body, got.ended) == (200, b"hello, world", True), cut

    play(egress, scenario)


@both
@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_body_end_with_their_head(egress: str, status: int) -> None:
    """204 and 304 have no body, and leave the connection usable."""

    async def scenario(lab: Lab) -> None:
        peer, got = await lab.exchange(b"HTTP/1.1 %d X\r\nX-A: 1\r\n\r\n" % status)
        assert (got.status, got.body, got.ended) == (status, b"", True)
        again = lab.send()
        await peer.answer(OK)
        assert (await again.over()).body == b"ok"

    play(egress, scenario)


@both
def test_body_is_streamed(egress: str) -> None:
    """Body bytes reach the sink before the response is complete."""

    async def scenario(lab: Lab) -> None:
        got = lab.send()
        peer = await lab.accept()
        await peer.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await until(lambda: got.body == b"one")
        assert not got.is_over
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")
        assert (await got.over()).body == b"onetwo"

    play(egress, scenario)


@both
def test_large_request_arrives_whole(egress: str) -> None:
    """A request larger than every socket buffer waits for a slow provider and arrives whole."""
    body = bytes(range(256)) * 32_768
    request = b"POST / HTTP/1.1\r\nhost: p\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def scenario(lab: Lab) -> None:
        got = lab.send(request)
        peer = await lab.accept()
        await turns(20)
        received = await peer.answer(OK)
        assert received.partition(b"\r\n\r\n")[2] == body
        assert (await got.over()).ended

    play(egress, scenario)


# -- faults ----------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "response",
    [
        b"\x16\x03\x01 this is not HTTP\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["noise", "status", "negative length", "two lengths", "chunk size", "header name"],
)
def test_garbage_is_a_protocol_fault(egress: str, response: bytes) -> None:
    """Bytes that are not HTTP end the exchange with `protocol`, and the connection with it."""

    async def scenario(lab: Lab) -> None:
        peer, got = await lab.exchange(response)
        assert got.fault() == ("protocol", True)
        await peer.hung_up()

    play(egress, scenario)


@both
def test_huge_head_is_refused(egress: str) -> None:
    """A head above the limit is `head_too_large`, whether or not it ever ends."""

    async def scenario(lab: Lab) -> None:
        for head in (b"X-Big: " + b"x" * 200_000, b"X-A: 1\r\n" * 30_000):
            got = lab.send()
            peer = await lab.accept()
            await peer.request()
            sending = asyncio.create_task(peer.send(b"HTTP/1.1 200 OK\r\n", head[:90_000], head[90_000:]))
            assert (await got.over()).fault() == ("head_too_large", True)
            await asyncio.gather(sending, return_exceptions=True)
        _, got = await lab.exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Big: " + b"x" * 80_000 + b"\r\n\r\n")
        assert got.fault() == ("head_too_large", True)

    play(egress, scenario)


@both
def test_large_head_below_the_limit_is_taken(egress: str) -> None:
    """A head just below the limit passes."""

    async def scenario(lab: Lab) -> None:
        _, got = await lab.exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Big: " + b"x" * 60_000 + b"\r\n\r\nok")
        assert got.ended
        assert got.body == b"ok"

    play(egress, scenario)


@both
@pytest.mark.parametrize(
    "response",
    [SIZED[:-4], CHUNKED[: CHUNKED.index(b", world")], CHUNKED[: CHUNKED.index(b"0\r\nX-T")]],
    ids=["sized", "inside a chunk", "between chunks"],
)
def test_close_inside_the_body_is_truncation(egress: str, response: bytes) -> None:
    """An end of stream before the body's own end is never taken for it."""

    async def scenario(lab: Lab) -> None:
        got = lab.send()
        peer = await lab.accept()
        await peer.answer(response)
        peer.close()
        await got.over()
        assert got.status == 200
        assert got.fault() == ("truncated", True)

    play(egress, scenario)


@both
@pytest.mark.parametrize("received", [b"", b"HTTP/1.1 200 OK\r\nX-A"], ids=["nothing", "half a head"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_close_before_the_head_is_a_reset(egress: str, received: bytes, how: str) -> None:
    """A connection lost before the whole head is `reset`; on a new connection it is not tried again."""

    async def scenario(lab: Lab) -> None:
        got = lab.send()
        peer = await lab.accept()
        await peer.answer(received)
        getattr(peer, how)()
        assert (await got.over()).fault() == ("reset", True)
        await turns()
        assert len(lab.peers) == 1

    play(egress, scenario)


@both
def test_reset_inside_the_body_is_a_reset(egress: str) -> None:
    """A connection reset after body bytes is `reset`, and what came before it was delivered."""

    async def scenario(lab: Lab) -> None:
        got = lab.send()
        peer = await lab.accept()
        await peer.answer(SIZED[:-4])
        await until(lambda: got.body == b"hello, w")
        peer.reset()
        assert (await got.over()).fault() == ("reset", True)

    play(egress, scenario)


@both
def test_refused_connection_was_not_sent(egress: str) -> None:
    """Where nobody listens, the fault is `connect`, and it proves that nothing was sent."""

    async def scenario(lab: Lab) -> None:
        lab.stop_listening()
        assert (await lab.send().over()).fault() == ("connect", False)

    play(egress, scenario)


# -- time limits -----------------------------------------------------------------------------------------------------


@both
def test_tls_that_never_answers_times_out_connecting(egress: str) -> None:
    """TLS is part of connecting: a provider that accepts and says nothing is `connect_timeout`, nothing was sent."""

    async def scenario(lab: Lab) -> None:
        got = lab.send()
        peer = await lab.accept()
        assert (await got.over()).fault() == ("connect_timeout", False)
        await peer.hung_up()

    play(egress, scenario, tls=True, connect_s=0.05)


@both
def test_silence_before_the_response_times_out(egress: str) -> None:
    """No first byte in time is `first_byte_timeout`; the connection is closed."""

    async def scenario(lab: Lab) -> None:
        began = lab.loop.time()
        got = lab.send()
        peer = await lab.accept()
        await peer.request()
        assert (await got.over()).fault() == ("first_byte_timeout", True)
        assert lab.loop.time() - began >= 0.05 - CLOCK_S
        await peer.hung_up()

    play(egress, scenario, first_byte_s=0.05, idle_s=30.0)


@both
def test_silence_inside_the_response_times_out(egress: str) -> None:
    """A pause inside the body above the limit is `idle_timeout`."""

    async def scenario(lab: Lab) -> None:
        got = lab.send()
        peer = await lab.accept()
        await peer.answer(SIZED[:-4])
        assert (await got.over()).fault() == ("idle_timeout", True)
        assert got.body == b"hello, w"

    play(egress, scenario, first_byte_s=30.0, idle_s=0.05)


@both
def test_steady_trickle_is_not_idle_but_ends_in_time(egress: str) -> None:
    """Bytes that keep coming never meet the idle limit; the total limit ends them."""

    async def scenario(lab: Lab) -> None:
        began = lab.loop.time()
        got = lab.send()
        peer = await lab.accept()
        await peer.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def trickle() -> None:
            while not got.is_over:
                await peer.send(b"1\r\nx\r\n")
                await asyncio.sleep(0.002)

        trickling = asyncio.create_task(trickle())
        assert (await got.over()).fault() == ("total_timeout", True)
        assert lab.loop.time() - began >= 0.3 - CLOCK_S
        await asyncio.gather(trickling, return_exceptions=True)

    play(egress, scenario, idle_s=0.15, total_s=0.3)


# -- connections -----------------------------------------------------------------------------------------------------


@both
def test_connection_is_kept_and_reused(egress: str) -> None:
    """Requests one after the other use one connection."""

    async def scenario(lab: Lab) -> None:
        peer, _ = await lab.exchange(OK)
        for _ in range(4):
            got = lab.send()
            await peer.answer(CHUNKED)
            assert (await got.over()).ended
        assert len(peer.requests) == 5

    play(egress, scenario)


@both
@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["connection: close", "HTTP/1.0"],
)
def test_connection_is_not_reused_against_its_will(egress: str, response: bytes) -> None:
    """After `connection: close`, or HTTP/1.0, the next request takes a new connection."""

    async def scenario(lab: Lab) -> None:
        peer, got = await lab.exchange(response)
        assert got.body == b"ok"
        await peer.hung_up()
        _, again = await lab.exchange(OK)
        assert again.ended

    play(egress, scenario)


@both
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
def test_request_on_a_stale_connection_is_sent_again(egress: str, noticed: bool) -> None:
    """A provider that closed the idle connection just before the next request, or long before, costs no error."""

    async def scenario(lab: Lab) -> None:
        peer, _ = await lab.exchange(OK)
        await turns()
        peer.close()
        if noticed:
            await turns()
        got = lab.send()
        fresh = await lab.accept()
        assert await fresh.answer(OK)
        assert (await got.over()).body == b"ok"
        assert len(fresh.requests) == 1

    play(egress, scenario)


@both
@pytest.mark.parametrize("how", ["close", "reset"])
def test_request_that_was_taken_is_never_sent_again(egress: str, how: str) -> None:
    """A provider that read the request on a kept connection and then closed may have processed it: `reset`, once."""

    async def scenario(lab: Lab) -> None:
        peer, _ = await lab.exchange(OK)
        got = lab.send()
        assert await peer.request()
        await turns()
        getattr(peer, how)()
        assert (await got.over()).fault() == ("reset", True)
        await turns()
        assert len(lab.peers) == 1

    play(egress, scenario)


@both
def test_requests_over_the_connection_limit_wait(egress: str) -> None:
    """With all connections busy a request waits for one, and gets it."""

    async def scenario(lab: Lab) -> None:
        first, second = lab.send(), lab.send()
        peer = await lab.accept()
        await peer.answer(OK)
        await peer.answer(OK)
        assert (await first.over()).ended
        assert (await second.over()).ended
        assert len(lab.peers) == 1

    play(egress, scenario, max_connections=1)


@both
def test_connection_limit_without_a_free_connection_is_a_fault(egress: str) -> None:
    """A request that got no connection within `connect_s` is `pool_exhausted`; it was not sent."""

    async def scenario(lab: Lab) -> None:
        first = lab.send()
        peer = await lab.accept()
        await peer.request()
        second = lab.send()
        assert (await second.over()).fault() == ("pool_exhausted", False)
        await peer.send(OK)
        assert (await first.over()).ended

    play(egress, scenario, max_connections=1, connect_s=0.05)


# -- hanging up, pausing, closing ------------------------------------------------------------------------------------


@both
def test_cancel_closes_the_connection(egress: str) -> None:
    """Hanging up while the provider works closes the connection; no callback follows, cancelling again is nothing."""

    async def scenario(lab: Lab) -> None:
        got = lab.send()
        peer = await lab.accept()
        await peer.request()
        got.handle().cancel()
        got.handle().cancel()
        await peer.hung_up()
        assert not got.is_over

    play(egress, scenario)


@both
def test_cancel_before_the_connection_is_open(egress: str) -> None:
    """Hanging up right after `send` sends nothing."""

    async def scenario(lab: Lab) -> None:
        got = lab.send()
        got.handle().cancel()
        await turns()
        _, again = await lab.exchange(OK) if not lab.peers else (None, Recorder())
        assert again.ended
        assert not got.is_over
        assert [request for peer in lab.peers for request in peer.requests if request] == [lab.peers[-1].requests[0]]

    play(egress, scenario)


@both
@pytest.mark.parametrize("where", ["on_head", "on_data"])
def test_cancel_inside_a_callback(egress: str, where: str) -> None:
    """Hanging up inside a callback is the last thing a sink hears of, even if the rest has been read already."""

    async def scenario(lab: Lab) -> None:
        got = Recorder()
        setattr(got, where, lambda: got.handle().cancel())
        lab.send(recorder=got)
        peer = await lab.accept()
        await peer.answer(CHUNKED)
        await peer.hung_up()
        assert got.status == 200
        assert got.body == (b"" if where == "on_head" else b"hello")
        assert not got.is_over

    play(egress, scenario)


@both
def test_cancel_after_the_end_leaves_the_connection(egress: str) -> None:
    """Cancelling an exchange that has ended does not touch the connection's next one."""

    async def scenario(lab: Lab) -> None:
        peer, first = await lab.exchange(OK)
        second = lab.send()
        first.handle().cancel()
        await peer.answer(OK)
        assert (await second.over()).ended

    play(egress, scenario)


@both
def test_paused_sink_holds_the_provider_back(egress: str) -> None:
    """While reading is paused the provider cannot push on and no idle limit runs; after that everything arrives."""
    body = b"x" * (48 << 20)

    async def scenario(lab: Lab) -> None:
        got = Recorder()
        got.on_head = lambda: got.handle().pause_reading()
        lab.send(recorder=got)
        peer = await lab.accept()
        await peer.request()
        pushing = asyncio.create_task(peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body))
        silent = lab.send()  # its time-out shows that more than the idle limit has passed
        await (await lab.accept()).request()
        assert (await silent.over()).fault() == ("first_byte_timeout", True)
        assert not pushing.done()
        assert len(got.body) < 1 << 20
        assert got.error is None
        got.handle().resume_reading()
        await pushing
        await got.over()
        assert got.error is None
        assert len(got.body) == len(body)

    play(egress, scenario, idle_s=0.1, first_byte_s=0.3)


@both
def test_close_waits_for_exchanges_in_flight(egress: str) -> None:
    """Closing lets what is in flight end, closes idle connections, and refuses what comes later."""

    async def scenario(lab: Lab) -> None:
        idle = lab.send()
        idle_peer = await lab.accept()
        busy = lab.send()
        busy_peer = await lab.accept()
        await idle_peer.answer(OK)
        await idle.over()
        await busy_peer.request()
        closing = asyncio.create_task(lab.egress.close())
        await turns()
        assert not closing.done()
        late = lab.send()
        assert (await late.over()).fault() == ("connect", False)
        await busy_peer.send(OK)
        assert (await busy.over()).ended
        await closing
        await idle_peer.hung_up()
        await busy_peer.hung_up()

    play(egress, scenario)


@both
def test_fault_of_a_sink_is_not_hidden(egress: str) -> None:
    """An exception in a callback reaches the loop's exception handler, and the exchange still ends."""

    def bug() -> None:
        raise ZeroDivisionError("a bug in the sink")

    async def scenario(lab: Lab) -> None:
        got = Recorder()
        got.on_data = bug
        lab.send(recorder=got)
        peer = await lab.accept()
        await peer.answer(SIZED)
        assert (await got.over()).fault() == ("reset", True)
        assert any(isinstance(fault.get("exception"), ZeroDivisionError) for fault in lab.faults)

    play(egress, scenario, expect_faults=True)


def test_pool_counts_what_it_does() -> None:
    """Opened, reused, idle, open, waiting and retried are counted (the pool's metrics)."""

    async def scenario(lab: Lab) -> None:
        pool = lab.egress
        assert isinstance(pool, ProviderPool)
        peer, _ = await lab.exchange(OK)
        again = lab.send()
        await peer.answer(OK)
        await again.over()
        assert (pool.opened_total, pool.reused_total, pool.retried_total) == (1, 1, 0)
        assert (pool.open_connections, pool.idle_connections, pool.waiting_requests) == (1, 1, 0)
        peer.close()
        stale = lab.send()
        fresh = await lab.accept()
        await fresh.answer(OK)
        await stale.over()
        assert (pool.opened_total, pool.reused_total, pool.retried_total) == (2, 2, 1)
        assert (pool.open_connections, pool.idle_connections) == (1, 1)
        assert REQUEST in fresh.requests

    play("pool", scenario)


def test_httpx_egress_goes_through_a_proxy() -> None:
    """With a proxy the request is sent to it in absolute form, and the provider's name is never resolved here."""

    async def scenario(lab: Lab) -> None:
        egress = HttpxEgress(proxy=f"http://127.0.0.1:{lab.port}")
        got = Recorder()
        got.attempt = egress.send(Origin(host="provider.invalid", port=8080, tls=False), REQUEST, got)
        got.sending = False
        peer = await lab.accept()
        request = await peer.answer(OK)
        assert request.startswith(b"POST http://provider.invalid:8080/v1/x?y=1 HTTP/1.1\r\n")
        assert (await got.over()).body == b"ok"
        await egress.close()

    play("httpx", scenario)
