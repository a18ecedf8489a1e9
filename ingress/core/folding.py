"""Folds usage events into sums, for a replica whose disk is full: detail goes, money stays.

Events of one key, model, status, hour, … become one event of kind `folded` that stands for all of them: tokens by
class, units, costs and charges are added up, so whoever adds up events finds the same sums, in the same rows. What
cannot be added (durations, reason codes, the model that was reported) is kept where all of them agree.

A refusal that reached no provider is told apart by nothing that its client chose: else made-up model names would keep
a full disk full.

Knows no files and no log.
"""

from __future__ import annotations

import msgspec

from schemas.codec import decode_attribution, decode_event, encode_attribution, encode_event
from schemas.ids import NO_ID
from schemas.tokens import TokenUsage
from schemas.usage import Detail, Kind, Status, UsageEvent

HOUR_MS = 3_600_000
_REFUSED = Status.REFUSED.value
_PLAIN = Detail()
Key = tuple[bytes, bytes, str, str, str, int, bool, bool, str, bool]


class Fold:
    """Events of one partition that become few; in the order in which the first of each kind came."""

    def __init__(self) -> None:
        self._sums: dict[Key, _Sum] = {}
        self.taken = 0
        """Events that were added."""

    def __len__(self) -> int:
        """Return how many events it has become."""
        return len(self._sums)

    def add(self, encoded: bytes) -> None:
        """Take an encoded event."""
        event = decode_event(encoded)
        detail = event.detail or _PLAIN
        attribution = _attribution(event)
        key = (
            attribution, bytes(event.rows), event.operation, event.status, event.usage_source,
            event.occurred_ms // HOUR_MS, event.streamed, event.cost_nanos is None, detail.service_tier,
            detail.list_cost_nanos is None,
        )  # fmt: skip
        found = self._sums.get(key)
        if found is None:
            self._sums[key] = _Sum(event, detail, attribution)
        else:
            found.add(event, detail)
        self.taken += 1

    def events(self) -> list[bytes]:
        """Return what the events have become, encoded."""
        return [found.event() for found in self._sums.values()]


class _Sum:
    """Events of one kind. The first lends its id: a client that asks for it finds the sum that it is in."""

    __slots__ = (
        "attribution", "charges", "cost", "count", "duration_ms", "first", "flags", "listed", "shared", "tokens",
        "units",
    )  # fmt: skip

    def __init__(self, event: UsageEvent, detail: Detail, attribution: bytes) -> None:
        self.first = event
        self.attribution = attribution
        self.count = 0
        self.tokens = (0,) * len(msgspec.structs.fields(TokenUsage))
        self.charges = (0, 0, 0)
        self.cost = self.listed = self.duration_ms = 0
        self.units: dict[str, int] = {}
        self.flags: set[str] = set()
        self.shared = _shared(event)
        self.add(event, detail)

    def add(self, event: UsageEvent, detail: Detail) -> None:
        count = detail.stands_for
        self.count += count
        self.tokens = tuple(map(int.__add__, self.tokens, msgspec.structs.astuple(event.usage)))
        charges = self.charges
        self.charges = (
            charges[0] + event.charge_requests, charges[1] + event.charge_tokens, charges[2] + event.charge_nanos,
        )  # fmt: skip
        self.cost += event.cost_nanos or 0
        self.listed += detail.list_cost_nanos or 0
        self.duration_ms += event.duration_ms * count
        for unit, amount in detail.units.items():
            self.units[unit] = self.units.get(unit, 0) + amount
        self.flags.update(detail.flags)
        shared = _shared(event)
        if shared != self.shared:
            status, model, error = self.shared
            self.shared = (
                status if status == shared[0] else 0, model if model == shared[1] else "",
                error if error == shared[2] else "",
            )  # fmt: skip

    def event(self) -> bytes:
        first = self.first
        if self.count == 1:
            return encode_event(first)
        detail = first.detail or _PLAIN
        http_status, model_reported, error = self.shared
        return encode_event(
            msgspec.structs.replace(
                first,
                attempt=1,
                duration_ms=self.duration_ms // self.count,
                ttft_ms=-1,
                http_status=http_status,
                usage=TokenUsage(*self.tokens),
                cost_nanos=None if first.cost_nanos is None else self.cost,
                charge_requests=self.charges[0],
                charge_tokens=self.charges[1],
                charge_nanos=self.charges[2],
                model_reported=model_reported,
                error=error,
                decision_id=NO_ID,
                attribution=msgspec.Raw(self.attribution),
                detail=Detail(
                    units=self.units,
                    service_tier=detail.service_tier,
                    list_cost_nanos=None if detail.list_cost_nanos is None else self.listed,
                    flags=tuple(sorted(self.flags)),
                    kind=Kind.FOLDED.value,
                    stands_for=self.count,
                ),
            )
        )


def _shared(event: UsageEvent) -> tuple[int, str, str]:
    """Return what is kept where all agree on it."""
    return event.http_status, event.model_reported, event.error


def _attribution(event: UsageEvent) -> bytes:
    encoded = bytes(event.attribution)
    if event.status != _REFUSED:
        return encoded
    found = decode_attribution(encoded)
    if found.provider or not found.model_requested:
        return encoded
    return bytes(encode_attribution(msgspec.structs.replace(found, model_requested="")))
