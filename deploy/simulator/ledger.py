"""The simulator's account of completed answers: what a provider would put on its invoice.

Entries of errors, and of answers that were cut by a fault or by the client, are not in it.
"""

import os
from pathlib import Path

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One completed answer; counts are tokens."""

    id: str
    operation: str
    model: str
    input: int
    """All input tokens, cached and cache-written ones included."""
    output: int
    """All output tokens, reasoning included."""
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    stream: bool = False
    nonce: str = ""
    audio_input: int = 0
    """Of the input tokens, as `image_input`."""
    audio_output: int = 0
    """Of the output tokens, as `image_output`."""
    image_input: int = 0
    image_output: int = 0
    units: dict[str, int] = {}
    """Billed beside tokens, by the names of `schemas.units`."""
    tier: str = ""
    """That the answer names; empty for the default one."""


class Totals(msgspec.Struct):
    """Sums over all completed answers, and how many requests there were at all."""

    requests: int = 0
    """Completed answers."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    received: int = 0
    """Requests on metered routes, whatever became of them."""


class Ledger:
    """Totals in memory; entries in memory where asked for, and in a file where named."""

    def __init__(self, path: Path | None = None, *, keep_entries: bool = False) -> None:
        """Open `path` for appending, if given."""
        self.totals = Totals()
        self.entries: list[Entry] = []
        self._keep_entries = keep_entries
        self._encoder = msgspec.json.Encoder()
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def record(self, entry: Entry) -> None:
        """Count one completed answer; its line is with the system when this returns."""
        totals = self.totals
        totals.requests += 1
        totals.input_tokens += entry.input
        totals.output_tokens += entry.output
        totals.cached_tokens += entry.cached
        if self._keep_entries:
            self.entries.append(entry)
        if self._file is not None:
            os.write(self._file, self._encoder.encode(entry) + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
