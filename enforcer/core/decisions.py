"""The newest decisions by id, and how one is shown: every field by name, ids and amounts readable."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, NamedTuple

from schemas.decisions import Decision
from schemas.ids import format_id
from schemas.money import to_decimal
from schemas.rows import Measure

KEPT_DECISIONS = 100_000


class DecisionTail:
    """A bounded memory: the oldest decision read makes room for the newest."""

    def __init__(self, limit: int = KEPT_DECISIONS) -> None:
        self._limit = limit
        self._by_id: OrderedDict[bytes, Decision] = OrderedDict()

    def __len__(self) -> int:
        """Return how many decisions are held."""
        return len(self._by_id)

    def add(self, decision: Decision) -> bool:
        """Take in a decision; one that is there already stays one. Tell whether it is new."""
        is_new = decision.id not in self._by_id
        self._by_id[decision.id] = decision
        self._by_id.move_to_end(decision.id)
        while len(self._by_id) > self._limit:
            self._by_id.popitem(last=False)
        return is_new

    def find(self, decision_id: bytes) -> Decision | None:
        """Return a decision that is held."""
        return self._by_id.get(decision_id)

    def search(self, wanted: Wanted) -> list[Decision]:
        """Return the decisions that are wanted, the newest first."""
        found = (decision for decision in reversed(self._by_id.values()) if wanted.includes(decision))
        return list(itertools.islice(found, wanted.limit))


class Wanted(NamedTuple):
    """Which decisions are looked for; an empty text and 0 do not ask."""

    org: str = ""
    team: str = ""
    rule: str = ""
    action: str = ""
    reason: str = ""
    since_ms: int = 0
    limit: int = 100

    def includes(self, decision: Decision) -> bool:
        """Tell whether a decision is looked for."""
        told = decision.attribution
        pairs = (
            (self.org, told.org), (self.team, told.team), (self.rule, decision.rule), (self.action, decision.action),
            (self.reason, decision.reason),
        )  # fmt: skip
        return decision.decided_ms >= self.since_ms and all(not asked or asked == found for asked, found in pairs)


def describe(decision: Decision) -> dict[str, Any]:
    """Return all fields of a decision, named, for people and scripts."""
    shown: dict[str, Any] = {name: getattr(decision, name) for name in Decision.__struct_fields__}
    shown |= {
        "id": format_id(decision.id),
        "request_id": format_id(decision.request_id),
        "decided_at": time_text(decision.decided_ms),
        "attribution": _fields(decision.attribution),
        "weight": _fields(decision.weight),
        "unit": unit_of(decision.measure),
        "cost_avoided_usd": usd_text(decision.cost_avoided_nanos),
    }  # fmt: skip
    if decision.resets_at_s:
        shown["resets_at"] = time_text(decision.resets_at_s * 1000)
    if decision.measure == Measure.COST:
        amounts = ["limit", "used", "asked", "room", "pending", "want", "overshoot_bound"]
        amounts += ["right"] if decision.right >= 0 else []  # -1 is no amount: it had a share
        shown |= {f"{name}_usd": usd_text(getattr(decision, name)) for name in amounts}
    return shown


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def unit_of(measure: str) -> str:
    """Return the unit that amounts of a measure are in."""
    return {Measure.COST.value: "nano_usd"}.get(measure, measure)


def usd_text(nanos: int) -> str:
    """Return nano-USD as exact text with nine places."""
    return format(to_decimal(nanos), "f")


def time_text(unix_ms: int) -> str:
    """Return unix milliseconds as RFC 3339 text in UTC."""
    moment = datetime.fromtimestamp(unix_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"
