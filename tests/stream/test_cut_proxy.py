"""The proxy of the fault harness, between a real client and a real server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.cut_proxy import CutProxy

WITHIN_S = 5.0


class Echo:
    """A server that answers every line with the same line, and keeps what it got."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.got = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the client ends."""
        while line := await reader.readline():
            self.lines.append(line)
            self.got.set()
            writer.write(line)
        writer.close()


@asynccontextmanager
async def _proxied() -> AsyncIterator[tuple[Echo, CutProxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a server, a proxy before it, and a connection of a client to the proxy."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    proxy = await CutProxy.open(0, server.sockets[0].getsockname()[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        async with asyncio.timeout(4 * WITHIN_S):
            yield echo, proxy, reader, writer
    finally:
        writer.close()
        await proxy.close()
        server.close()


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> bytes:
    writer.write(line)
    async with asyncio.timeout(WITHIN_S):
        return await reader.readline()


async def test_passes_requests_and_answers() -> None:
    """Without a fault it is as if it were not there."""
    async with _proxied() as (_, _, reader, writer):
        assert await _answers(reader, writer, b"one\n") == b"one\n"


async def test_a_lost_answer_was_asked_for() -> None:
    """The server gets the request, the client gets nothing; once mended, the connection is reset."""
    async with _proxied() as (echo, proxy, reader, writer):
        assert await _answers(reader, writer, b"one\n") == b"one\n"
        proxy.lose_answers()
        echo.got.clear()
        writer.write(b"two\n")
        await asyncio.wait_for(echo.got.wait(), WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            while not proxy.lost_bytes:
                await asyncio.sleep(0.005)
        proxy.mend()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readline(), WITHIN_S)
        assert echo.lines == [b"one\n", b"two\n"]
        again_reader, again_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _answers(again_reader, again_writer, b"three\n") == b"three\n"
        again_writer.close()


async def test_what_is_held_arrives_when_it_is_mended() -> None:
    """Connections stay open while nothing passes, and lose nothing."""
    async with _proxied() as (echo, proxy, reader, writer):
        assert await _answers(reader, writer, b"one\n") == b"one\n"
        proxy.hold()
        writer.write(b"two\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.05)
        assert echo.lines == [b"one\n"]
        proxy.mend()
        assert await asyncio.wait_for(reader.readline(), WITHIN_S) == b"two\n"


async def test_a_cut_resets_old_and_new_connections() -> None:
    """Nobody gets through until it is mended."""
    async with _proxied() as (_, proxy, reader, writer):
        assert await _answers(reader, writer, b"one\n") == b"one\n"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readline(), WITHIN_S)
        again_reader, again_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(again_reader.readline(), WITHIN_S)
        again_writer.close()
        proxy.mend()
        again_reader, again_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _answers(again_reader, again_writer, b"two\n") == b"two\n"
        again_writer.close()


async def test_answers_are_read_as_it_is_told() -> None:
    """Whoever knows the protocol may change what passes; a server that moves is looked up for each connection."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)

    async def loud_line(reader: asyncio.StreamReader) -> bytes:
        return (await reader.readuntil(b"\n")).upper()

    proxy = await CutProxy.open(0, lambda: int(server.sockets[0].getsockname()[1]), loud_line)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        assert await _answers(reader, writer, b"one\n") == b"ONE\n"
        assert echo.lines == [b"one\n"]
    finally:
        writer.close()
        await proxy.close()
        server.close()
