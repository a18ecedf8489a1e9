"""A TCP proxy on loopback between a client and its server that can lose answers, cut connections, or let nothing by.

Knows no protocol, unless it is told how to read answers. Each proxy has one listening port and one server, so that
whoever owns a port can be cut off alone:

    proxy = await CutProxy.open(port, server_port)
    proxy.lose_answers()     # requests reach the server, what it answers is thrown away
    proxy.hold()             # connections stay open, and nothing passes in either direction
    proxy.cut()              # every connection is reset, and so is every new one
    proxy.mend()             # as if nothing had been; what had lost bytes is reset now, and connects again

In a process of its own: `python -m tests.faults.cut_proxy --listen PORT --server PORT` reads these words, one a line,
from standard input (`lose`, `hold`, `cut`, `mend`) and answers each with a line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from enum import Enum

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 256 * 1024

ReadAnswer = Callable[[asyncio.StreamReader], Awaitable[bytes]]
"""Returns what is to be passed on next of what the server says; empty, or IncompleteReadError, at its end."""


class Mode(Enum):
    """What the proxy does with bytes."""

    PASS = "pass"
    LOSE_ANSWERS = "lose"
    HOLD = "hold"
    CUT = "cut"


async def read_some(reader: asyncio.StreamReader) -> bytes:
    """Return what has come; empty at the end."""
    return await reader.read(CHUNK_BYTES)


class _Link:
    """One connection of a client, and the one to the server that it stands for."""

    def __init__(self, proxy: CutProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy, self.client, self.server = proxy, client, server
        self.is_spoilt = False
        """Bytes were lost: what follows would make no sense."""

    async def carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_answer: bool) -> None:
        """Pass on what comes from `source` until one side ends."""
        proxy = self._proxy
        read = proxy.read_answer if is_answer else read_some
        # uvloop says RuntimeError of a closed transport
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
            while data := await read(source):
                await proxy.flows.wait()
                if is_answer and proxy.mode is Mode.LOSE_ANSWERS:
                    self.is_spoilt = True
                    proxy.lost_bytes += len(data)
                elif not self.is_spoilt or not is_answer:
                    sink.write(data)
                    await sink.drain()
        self.close()

    def close(self) -> None:
        """Reset both sides: neither may take the end for an orderly one."""
        for writer in (self.client, self.server):
            _reset(writer)


class CutProxy:
    """One listening port before one server."""

    def __init__(self, server_port: int | Callable[[], int], read_answer: ReadAnswer = read_some) -> None:
        self.mode = Mode.PASS
        self.read_answer = read_answer
        self.lost_bytes = 0
        """Of answers that were thrown away."""
        self.cuts = 0
        """Connections that were reset."""
        self.flows = asyncio.Event()
        self.flows.set()
        self._server_port = server_port
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self.port = 0

    @property
    def server_port(self) -> int:
        """Where the server is now."""
        return self._server_port() if callable(self._server_port) else self._server_port

    @classmethod
    async def open(
        cls, port: int, server_port: int | Callable[[], int], read_answer: ReadAnswer = read_some
    ) -> CutProxy:
        """Listen on `port` of loopback (0 for a free one), for the server on `server_port`, looked up each time."""
        proxy = cls(server_port, read_answer)
        proxy._listener = await asyncio.start_server(proxy._accept, LOOPBACK, port)
        proxy.port = int(proxy._listener.sockets[0].getsockname()[1])
        return proxy

    def lose_answers(self) -> None:
        """Let requests through, and throw away what is answered from now on."""
        self._turn(Mode.LOSE_ANSWERS)

    def hold(self) -> None:
        """Keep connections open, and let nothing through."""
        self._turn(Mode.HOLD)

    def cut(self) -> None:
        """Reset every connection, and each new one."""
        self._turn(Mode.CUT)
        self._reset_links(lambda _: True)

    def mend(self) -> None:
        """Let everything through again; connections that have lost bytes are reset."""
        self._turn(Mode.PASS)
        self._reset_links(lambda link: link.is_spoilt)

    async def close(self) -> None:
        """Stop listening and reset what is open."""
        self.cut()
        if self._listener is not None:
            self._listener.close()
        self.flows.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _turn(self, mode: Mode) -> None:
        self.mode = mode
        if mode is Mode.HOLD:
            self.flows.clear()
        else:
            self.flows.set()

    def _reset_links(self, which: Callable[[_Link], bool]) -> None:
        for link in tuple(self._links):
            if which(link):
                self.cuts += 1
                link.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="cut-proxy link")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode is Mode.CUT:
            _reset(writer)
            return
        try:
            from_server, to_server = await asyncio.open_connection(LOOPBACK, self.server_port)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, writer, to_server)
        self._links.add(link)
        try:
            await asyncio.gather(link.carry(reader, to_server, False), link.carry(from_server, writer, True))
        finally:
            self._links.discard(link)
            link.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _obey(listen: int, server: int) -> None:
    """Do what standard input says, a word a line, until it ends."""
    proxy = await CutProxy.open(listen, server)
    print(f"cut-proxy: {proxy.port} -> {server}", flush=True)
    words = {"lose": proxy.lose_answers, "hold": proxy.hold, "cut": proxy.cut, "mend": proxy.mend}
    while line := await asyncio.to_thread(sys.stdin.readline):
        act = words.get(line.strip())
        if act is not None:
            act()
        print(proxy.mode.value if act is not None else f"unknown: write one of {', '.join(words)}", flush=True)
    await proxy.close()


def main() -> int:
    """Run the process."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.cut_proxy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", type=int, required=True, metavar="PORT", help="port to listen on, 0 for a free one")
    parser.add_argument("--server", type=int, required=True, metavar="PORT", help="port of the server behind it")
    options = parser.parse_args()
    asyncio.run(_obey(options.listen, options.server))
    return 0


if __name__ == "__main__":
    sys.exit(main())
