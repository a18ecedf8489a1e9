"""What the history tells of one past request, as its API writes it: a JSON list a line.

A refused request used nothing. What it would have used is known only in part: its decision says what it asked of the
row that refused it. The rest is taken to be what requests like it used so far (`Averages`), or nothing where none was
served yet. Of one that no row refused, nothing at all is known then. Knows no HTTP and no policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from meter.sink.core.usage_pages import COLUMNS
from schemas.errors import TransportError
from schemas.tokens import TokenUsage
from schemas.usage import Status

CHUNK_BYTES = 1 << 20
MAX_AVERAGES = 65_536

RULED = frozenset({
    "rpm", "tpm", "rph", "tph", "rpd", "tpd", "concurrency", "budget", "blocked", "frozen", "max_input_tokens",
    "max_output_tokens", "max_cost", "unknown_model", "model_not_allowed", "wrong_operation", "unknown_org",
})  # fmt: skip
"""Reasons of refusals that a policy decides; all others are refused whatever the policy says."""


class PastEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt that ended; the fields are the columns of the history's pages, in their order."""

    occurred_ms: int
    id: str
    status: str
    error: str
    operation: str
    org: str
    project: str
    team: str
    user: str
    key: str
    model_requested: str
    model: str
    provider: str
    tags: dict[str, str]
    usage: TokenUsage
    cost_nanos: int | None
    charge_requests: int
    charge_tokens: int
    charge_nanos: int
    duration_ms: int
    measure: str = ""
    """Of the row that refused; empty if none did."""
    asked: int = 0
    """What was asked of that row, in the unit of its measure."""

    @property
    def was_refused(self) -> bool:
        """Whether it was never sent to a provider."""
        return self.status == _REFUSED

    @property
    def is_ruled(self) -> bool:
        """Whether a policy decides on it: it is not when nobody could have said whose it was, or what it asked for."""
        return bool(self.org) and bool(self.model_requested) and (self.status != _REFUSED or self.error in RULED)


class Use(NamedTuple):
    """What a request uses of limits, and how long it is in flight."""

    requests: int
    tokens: int
    nanos: int
    duration_ms: int
    is_estimated: bool = False

    def known(self, measure: str) -> Use:
        """Return what is certain of a request that was refused by a rule of `measure`; the rest is an estimate."""
        return self._replace(
            tokens=self.tokens if measure == "tokens" else 0, nanos=self.nanos if measure == "cost" else 0
        )


class Averages:
    """What served requests used so far, by key, model and operation: the best guess for one that was refused."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str], list[int]] = {}

    def add(self, event: PastEvent, use: Use) -> None:
        """Count a request that was served."""
        for key in ((event.key, event.model_requested, event.operation), ("", event.model_requested, event.operation)):
            sums = self._sums.get(key)
            if sums is None:
                if len(self._sums) >= MAX_AVERAGES:
                    self._sums.clear()
                sums = self._sums[key] = [0, 0, 0, 0]
            sums[0] += 1
            sums[1] += use.tokens
            sums[2] += use.nanos
            sums[3] += use.duration_ms

    def guess(self, event: PastEvent) -> Use | None:
        """Return what a refused request would have used, as far as one can tell; None if nothing is known of it."""
        name = (event.key, event.model_requested, event.operation)
        sums = self._sums.get(name) or self._sums.get(("", *name[1:]))
        if sums is None:
            if not event.measure:
                return None
            sums = [1, 0, 0, 0]
        count, tokens, nanos, duration_ms = sums
        if event.measure == "tokens":
            return Use(1, event.asked, event.asked * nanos // tokens if tokens else 0, duration_ms // count, True)
        if event.measure == "cost":
            return Use(1, event.asked * tokens // nanos if nanos else 0, event.asked, duration_ms // count, True)
        return Use(1, tokens // count, nanos // count, duration_ms // count, True)


def read_page(body: bytes) -> tuple[Iterator[PastEvent], str | None]:
    """Return the events of a page, decoded bit by bit, and what to ask for the next one; None after the last.

    Raises:
        TransportError: the page was cut off, or its columns are not those that this version knows.
    """
    end = body.rstrip(b"\n").rfind(b"\n") + 1
    try:
        last = json.loads(body[end:])
        columns, following = last["columns"], last["next"]
    except (ValueError, KeyError, TypeError) as error:
        raise TransportError("the history's page of usage was cut off; try again") from error
    if columns != list(COLUMNS):
        raise TransportError(
            f"the history gives the columns {', '.join(columns)}, this command reads {', '.join(COLUMNS)}; "
            "let both be of one version"
        )
    return _decoded(body, end), following


def _decoded(body: bytes, end: int) -> Iterator[PastEvent]:
    at = 0
    while at < end:
        cut = end if end - at <= CHUNK_BYTES else body.index(b"\n", at + CHUNK_BYTES) + 1
        yield from _DECODER.decode_lines(memoryview(body)[at:cut])
        at = cut


_DECODER = msgspec.json.Decoder(PastEvent)
_REFUSED = Status.REFUSED.value
