"""`python -m tests.faults.upstream --port N --ledger FILE`: the simulated provider with a ledger that survives.

One line for each request that arrives and one for each answer that is complete, keyed by the nonce in the prompt. Both
are on the medium (fdatasync) before the first byte of the answer, or its last one, leaves: what a client or an ingress
can know of, the ledger has. It holds nothing of the prompt but the nonce.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from deploy.simulator import Entry, Ledger, Simulator
from deploy.simulator.answer import Answer
from deploy.simulator.connection import Request
from deploy.simulator.wishes import find_nonce
from tests.faults.scenario import FIRST
from tests.provider_process import run

_encode = msgspec.json.Encoder().encode
_FIRST = re.compile(rb"\bfirst=([a-z]+):([a-z_0-9]+)")


class Arrival(msgspec.Struct, frozen=True, tag="a"):
    """A request reached the provider; counts are tokens that the answer will report."""

    id: str
    nonce: str
    input: int
    output: int
    cached: int
    model: str = ""


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
    model: str = ""
    """That was asked for: attempts of one request differ in it."""


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
                self.by_id[entry.id] = Served(
                    entry.nonce, entry.input, entry.output, entry.cached, model=entry.model
                )  # fmt: skip
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


class _Asked(msgspec.Struct):
    """What is looked at of a request."""

    model: str = ""


_asked = msgspec.json.Decoder(_Asked).decode


def _as_wished(body: bytes) -> tuple[str, bytes]:
    """Return the model of a request, and the request as it is to be answered: a model that fails first does so."""
    try:
        model = _asked(body).model
    except msgspec.DecodeError:
        return "", body
    how = _FIRST.search(body) if model.endswith(FIRST) else None
    if how is None:
        return model, body
    # Behind what else the directive says: its last word counts.
    return model, body.replace(b"]]", b" %b=%b]]" % (how[1], how[2]), 1)


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
        model, request.body = _as_wished(request.body)
        answer = super().answer(request)
        entry, nonce = answer.entry, find_nonce(request.body.decode("utf-8", "replace"))
        if entry is not None:
            self.write(Arrival(entry.id, nonce, entry.input, entry.output, entry.cached, model))
        elif nonce:  # an error that was asked for: it uses nothing
            self.write(Arrival(f"{nonce}/{model}", nonce, 0, 0, 0, model))
        return answer

    def write(self, line: Arrival | End) -> None:
        """Append a line; it is on the medium when this returns."""
        os.write(self._file, _encode(line) + b"\n")
        os.fdatasync(self._file)


if __name__ == "__main__":
    sys.exit(run("tests.faults.upstream", __doc__, "ledger", Upstream))
