"""`python -m tests.bound.witness --port N --journal FILE`: the simulated provider, which also writes down what came.

What the provider saw is what was admitted, whatever became of connections, replicas and records afterwards. A line is
written when a request arrives and another when its answer is complete; both are with the system before the answer is.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploy.simulator import Entry, Ledger, Simulator
from deploy.simulator.answer import Answer
from deploy.simulator.connection import Request, SimulatorProtocol
from tests.provider_process import run

_encode = msgspec.json.Encoder().encode


class Arrival(msgspec.Struct, frozen=True, tag="a"):
    """A request reached the provider."""

    id: str
    nonce: str
    at_ms: int
    input: int
    output: int
    lasts_ms: int
    """How long the answer takes at least."""


class End(msgspec.Struct, frozen=True, tag="e"):
    """The answer to a request is complete, or its connection is gone."""

    id: str
    at_ms: int


@dataclass
class Served:
    """One request as the provider saw it; counts are tokens."""

    nonce: str
    at_ms: int
    end_ms: int
    """When the answer was complete or the connection was gone; when it would be complete, if neither is known."""
    input: int
    output: int


def read(text: bytes) -> list[Served]:
    """Return the requests of a journal in order of arrival; a last line that is not whole yet is left out."""
    decode = msgspec.json.Decoder(Arrival | End).decode
    found: dict[str, Served] = {}
    for line in text.split(b"\n")[:-1]:
        entry = decode(line)
        if isinstance(entry, Arrival):
            ends = entry.at_ms + entry.lasts_ms
            found[entry.id] = Served(entry.nonce, entry.at_ms, ends, entry.input, entry.output)
        elif entry.id in found:
            found[entry.id].end_ms = entry.at_ms
    return list(found.values())


class _Ends(Ledger):
    """A ledger that tells when an answer is complete."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        super().__init__()
        self._ended = ended

    def record(self, entry: Entry) -> None:
        """Count and write down one completed answer."""
        super().record(entry)
        self._ended(entry.id)


class _Connection(SimulatorProtocol):
    """A connection that knows which request it answers."""

    __slots__ = ("_witness",)

    def __init__(self, witness: Witness) -> None:
        super().__init__(witness)
        self._witness = witness

    def data_received(self, data: bytes) -> None:
        """Parse; what arrives in here is answered on this connection."""
        self._witness.asking = self
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop answering, and write down what ends by it."""
        super().connection_lost(exc)
        self._witness.lost(self)


class Witness(Simulator):
    """A simulator that appends to a journal."""

    def __init__(self, journal: Path) -> None:
        super().__init__()
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.ledger = _Ends(self._ended)
        self.asking: _Connection | None = None
        """The connection whose bytes are being read."""
        self._open: dict[str, _Connection | None] = {}

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> str:
        """Listen, and return the URL without a path."""
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), host, port, backlog=4096)
        self._server = server
        self.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        return self.url

    def answer(self, request: Request) -> Answer:
        """Decide the answer, and write down that the request is here."""
        answer = super().answer(request)
        entry = answer.entry
        if entry is not None:
            lasts_ms = int(answer.delay_s * 1000) * (len(answer.parts) if answer.streamed else 1)
            arrival = Arrival(entry.id, entry.nonce, _now_ms(), entry.input, entry.output, lasts_ms)
            os.write(self._journal, _encode(arrival) + b"\n")
            self._open[entry.id] = self.asking
        return answer

    def lost(self, connection: _Connection) -> None:
        """Write down what ends because its connection is gone."""
        for answer_id in [each for each, by in self._open.items() if by is connection]:
            self._ended(answer_id)

    def _ended(self, answer_id: str) -> None:
        if self._open.pop(answer_id, self) is not self:
            os.write(self._journal, _encode(End(answer_id, _now_ms())) + b"\n")

    async def stop(self) -> None:
        """Stop listening, and close the journal."""
        await super().stop()
        os.close(self._journal)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    sys.exit(run("tests.bound.witness", __doc__, "journal", Witness))
