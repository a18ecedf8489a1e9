"""`python -m tests.faults.upstream --port N --ledger FILE`: the simulated provider with a ledger that survives.

One line for each request that arrives and one for each answer that is complete, keyed by the nonce in the prompt. Both
are on the medium (fdatasync) before the first byte of the answer, or its last one, leaves: what a client or an ingress
can know of, the ledger has. It holds nothing of the prompt but the nonce.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import uvloop

from deploy.simulator import Entry, Ledger, Simulator
from deploy.simulator.answer import Answer
from deploy.simulator.connection import Request
from deploy.simulator.wishes import find_nonce

_encode = msgspec.json.Encoder().encode


class Arrival(msgspec.Struct, frozen=True, tag="a"):
    """A request reached the provider; counts are tokens that the answer will report."""

    id: str
    nonce: str
    input: int
    output: int
    cached: int


class End(msgspec.Struct, frozen=True, tag="e"):
    """The answer to a request was complete."""

    id: str


class Served(msgspec.Struct):
    """One request as the provider saw it."""

    nonce: str
    input: int
    """All input tokens, cached ones included."""
    output: int
    cached: int
    is_complete: bool = False
    """The whole answer was written to the connection."""


class Reader:
    """Reads a ledger as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._decode = msgspec.json.Decoder(Arrival | End).decode
        self.by_id: dict[str, Served] = {}

    def read(self) -> Iterable[Served]:
        """Take in what was written since the last time; return everything so far."""
        for line in self._lines():
            entry = self._decode(line)
            if isinstance(entry, Arrival):
                self.by_id[entry.id] = Served(entry.nonce, entry.input, entry.output, entry.cached)
            elif entry.id in self.by_id:
                self.by_id[entry.id].is_complete = True
        return self.by_id.values()

    def _lines(self) -> Iterator[bytes]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                yield line


class _Ends(Ledger):
    """A ledger that writes each completed answer down before its last bytes go."""

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self._upstream = upstream

    def record(self, entry: Entry) -> None:
        """Count and write down one completed answer."""
        super().record(entry)
        self._upstream.write(End(entry.id))


class Upstream(Simulator):
    """A simulator with a ledger on the medium."""

    def __init__(self, ledger: Path) -> None:
        super().__init__()
        self._file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.ledger = _Ends(self)

    def answer(self, request: Request) -> Answer:
        """Decide the answer, and write down that the request is here."""
        answer = super().answer(request)
        entry, nonce = answer.entry, find_nonce(request.body.decode("utf-8", "replace"))
        if entry is not None:
            self.write(Arrival(entry.id, nonce, entry.input, entry.output, entry.cached))
        elif nonce:  # an error that was asked for: it uses nothing
            self.write(Arrival(nonce, nonce, 0, 0, 0))
        return answer

    def write(self, line: Arrival | End) -> None:
        """Append a line; it is on the medium when this returns."""
        os.write(self._file, _encode(line) + b"\n")
        os.fdatasync(self._file)


async def _serve(port: int, ledger: Path) -> None:
    upstream = Upstream(ledger)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await upstream.start(port)
    print(f"upstream: ready at {upstream.url}", flush=True)
    await stopped.wait()
    await upstream.stop()


def main() -> int:
    """Run the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.upstream", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port to listen on, 0 for a free one")
    parser.add_argument("--ledger", type=Path, required=True, metavar="FILE", help="file to append to")
    options = parser.parse_args()
    uvloop.run(_serve(options.port, options.ledger))
    return 0


if __name__ == "__main__":
    sys.exit(main())
