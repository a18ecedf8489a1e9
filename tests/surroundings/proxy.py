"""A way to the broker that can be cut, for a deployment whose broker knows nothing of it.

A broker tells its clients the address at which they are to come back. In every answer that address is replaced by the
proxy's, which is as long, so nothing else of a frame changes; a client that came this way stays on it.
What carries and cuts is `CutProxy`, here in a thread of its own: tests that wait in one are not in a loop.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.faults.cut_proxy import LOOPBACK, CutProxy

HOST = LOOPBACK.encode()
START_S = 10.0
T = TypeVar("T")


class Proxy:
    """A proxy, open until it is cut."""

    def __init__(self, address: Path) -> None:
        """Listen; `address` is a file that holds `host:port` of the broker by the time that somebody connects."""
        self._address = address
        self.frames = 0
        """Answers forwarded so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="broker-proxy", daemon=True)
        self._thread.start()
        self._proxy = self._do(CutProxy.open(0, self._broker_port, self._read_frame))
        self.port = self._proxy.port

    def cut(self) -> None:
        """Close all connections and take no new ones."""
        self._do(_called(self._proxy.cut))

    def mend(self) -> None:
        """Take connections again."""
        self._do(_called(self._proxy.mend))

    def close(self) -> None:
        """End it."""
        self._do(self._proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def _broker_port(self) -> int:
        return int(self._address.read_text().rpartition(":")[2])

    async def _read_frame(self, reader: asyncio.StreamReader) -> bytes:
        size = await reader.readexactly(4)
        frame = await reader.readexactly(struct.unpack(">i", size)[0])
        self.frames += 1
        return size + frame.replace(_address(self._broker_port()), _address(self.port))


def _address(port: int) -> bytes:
    return HOST + struct.pack(">i", port)


async def _called(act: Callable[[], None]) -> None:
    act()
