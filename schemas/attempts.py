"""What becomes of an attempt whose client hangs up, or whose provider fails: parts of the policy document."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from schemas.fields import DocumentPart, Milliseconds, ModelName

OnDisconnect = Literal["drain", "cancel"]
"""`drain`: read the provider's answer on, within a cap, and charge what the provider reports.
`cancel`: hang up on the provider at once, and charge an estimate.
"""
FallbackAfter = Literal["connect", "timeout", "429", "5xx", "broken"]
"""`connect`: no connection came about. `timeout`: no answer, or no whole one, in time. `429` and `5xx`: that status.
`broken`: the provider closed the connection, or sent what is not HTTP, before its answer was whole.
"""
AFTER_ALL: tuple[FallbackAfter, ...] = ("connect", "timeout", "429", "5xx", "broken")

_SIZE = re.compile(r"^(?P<number>\d+)\s*(?P<unit>B|KiB|MiB|GiB)$")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_FAULTS: dict[str, FallbackAfter] = {
    "connect": "connect",
    "connect_timeout": "connect",
    "pool_exhausted": "connect",
    "first_byte_timeout": "timeout",
    "idle_timeout": "timeout",
    "total_timeout": "timeout",
    "reset": "broken",
    "truncated": "broken",
    "protocol": "broken",
}


def _bytes(value: Any) -> Any:
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is not None:
        return int(match["number"]) * _UNITS[match["unit"]]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("write a size such as 512 KiB or 8 MiB")
    return value


def _words(value: Any) -> Any:
    """Let YAML's whole number 429 be the word, and a single word a list."""
    listed = value if isinstance(value, list | tuple) else (value,)
    return tuple(str(word) if type(word) is int else word for word in listed)


class Drain(DocumentPart):
    """How much of an answer is read on after its client has hung up; beyond it the provider is hung up on."""

    most_time: Annotated[Milliseconds, Field(le=3_600_000)] = 30_000
    """From the hang-up; written as 30s or 2m."""
    most_bytes: Annotated[int, BeforeValidator(_bytes), Field(ge=1024, le=128 << 20)] = 8 << 20
    """Of the answer, from the hang-up; written as 512 KiB or 8 MiB."""


class Fallback(DocumentPart):
    """Another model that serves a request whose provider has failed before the client got anything."""

    to: ModelName
    """A model of this document, of the same protocol."""
    after: Annotated[tuple[FallbackAfter, ...], BeforeValidator(_words), Field(min_length=1)] = AFTER_ALL
    """After which failures: `connect`, `timeout`, `429`, `5xx`, `broken`."""

    def takes_fault(self, kind: str) -> bool:
        """Tell whether a provider's fault of this kind is one of those."""
        return _FAULTS.get(kind) in self.after

    def takes_status(self, status: int) -> bool:
        """Tell whether a provider's answer with this HTTP status is one of those."""
        return (status == 429 and "429" in self.after) or (500 <= status < 600 and "5xx" in self.after)
