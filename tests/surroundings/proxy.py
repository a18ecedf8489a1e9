"""A way to the broker that can be cut: it forwards Kafka's frames, and says of the broker that it is where we are.

A broker tells its clients the address at which they are to come back. In every answer that address is replaced by the
proxy's, which is as long, so nothing else of a frame changes; a client that came this way stays on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable
from pathlib import Path

HOST = b"127.0.0.1"
START_S = 10.0


class Proxy:
    """A proxy in a thread of its own, open until it is cut."""

    def __init__(self, address: Path) -> None:
        """Listen; `address` is a file that holds `host:port` of the broker by the time that somebody connects."""
        self._address = address
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self.port = 0
        self.frames = 0
        """Answers forwarded so far."""
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="broker-proxy", daemon=True)
        self._thread.start()
        if not started.wait(START_S):
            raise TimeoutError("the proxy does not start")

    def cut(self) -> None:
        """Close all connections and take no new ones."""
        self._call(self._cut)

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut = False

    def close(self) -> None:
        """End it."""
        self._call(self._cut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    def _call(self, work: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            work()
            done.set()

        self._loop.call_soon_threadsafe(run)
        if not done.wait(START_S):
            raise TimeoutError("the proxy does not answer")

    def _cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST.decode(), 0))
        self.port = int(server.sockets[0].getsockname()[1])
        started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        port = int(self._address.read_text().rpartition(":")[2])
        upstream, back = await asyncio.open_connection(HOST.decode(), port)
        both = {writer, back}
        self._writers |= both
        old, new = HOST + struct.pack(">i", port), HOST + struct.pack(">i", self.port)
        try:
            await asyncio.gather(self._forward(reader, back), self._answer(upstream, writer, old, new))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        raise asyncio.IncompleteReadError(b"", None)  # the client has gone: so goes the other half

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, old: bytes, new: bytes) -> None:
        while True:
            size = await reader.readexactly(4)
            frame = await reader.readexactly(struct.unpack(">i", size)[0])
            writer.write(size + frame.replace(old, new))
            self.frames += 1
            with contextlib.suppress(ConnectionResetError):
                await writer.drain()
