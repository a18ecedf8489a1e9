"""What an event costs by another price, as a correction of what it has cost so far. Pure.

Theory
------
The cost of an event is its own plus all corrections of it: `held`. A price gives what it should be, computed from the
raw usage that the event holds (classes of tokens, units, service tier), just as the ingress computes it. The correction
is the difference, and after it the two are equal; so doing it again gives nothing, however far the last time came.

* What has no price now, or used something that the price does not know, keeps the cost that it has.
* What had no cost gets one: its limits were charged a reserve, which the correction takes back for the cost.
* Where a cost is known, limits are charged the difference of the cost.
* Events that were folded have only the sum of their usage: where a price depends on each answer (several tiers, a
  least amount), that cannot be told, and they keep their cost.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from enforcer.core.adjustments import Adjustment, Target, derived_id
from schemas.ids import parse_id
from schemas.money import Price, cost_nanos, is_priced, unpriced_units
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Kind

_FOLDED = Kind.FOLDED.value


class PastCost(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event with its raw usage and the sums of its corrections, as the history tells it; fields in its order."""

    occurred_ms: int
    id: str
    status: str
    operation: str
    org: str
    project: str
    team: str
    user: str
    key: str
    provider: str
    model: str
    model_requested: str
    tags: dict[str, str]
    policy_version: int
    price_version: str
    kind: str
    stands_for: int
    usage: TokenUsage
    units: dict[str, int]
    service_tier: str
    cost_nanos: int | None
    charge_nanos: int
    discount_nanos: int
    rows: list[str]
    corrections: int
    corrected_cost_nanos: int
    corrected_charge_nanos: int
    corrected_discount_nanos: int

    @property
    def held_nanos(self) -> int | None:
        """What it has cost so far, corrections included; None: unknown."""
        if self.cost_nanos is None and not self.corrections:
            return None
        return (self.cost_nanos or 0) + self.corrected_cost_nanos

    def target(self, price_version: str) -> Target:
        """Return whom its corrections by a price belong to: the same as itself."""
        return Target(
            Attribution(
                self.org, self.project, self.team, self.user, self.key, self.provider, self.model,
                self.model_requested, self.tags, self.policy_version, price_version,
            ),
            self.rows,
        )  # fmt: skip


class Outcome(enum.StrEnum):
    """What repricing finds of an event."""

    SAME = "same"
    CORRECTED = "corrected"
    UNPRICED = "unpriced"
    """There is no price, or not of all that was used."""
    FOLDED = "folded"
    """Several answers whose own sizes are not known, under a price that depends on them."""


class Repriced(NamedTuple):
    """The outcome; with what is posted, where there is something to correct."""

    outcome: Outcome
    cost_nanos: int | None = None
    """What it costs now."""
    adjustment: Adjustment | None = None
    """Its target is place 0."""


def reprice(event: PastCost, price: Price | None) -> Repriced:
    """Return what `event` costs by `price`, and the correction that makes it so."""
    if price is None or not is_priced(price, event.usage, event.units):
        return Repriced(Outcome.UNPRICED, event.held_nanos)
    if event.kind == _FOLDED and _depends_on_each(price, event):
        return Repriced(Outcome.FOLDED, event.held_nanos)
    cost = _cost(price, event)
    held = event.held_nanos
    discount = _discount(price, event, cost)
    known = event.discount_nanos + event.corrected_discount_nanos
    if held == cost and discount == known:
        return Repriced(Outcome.SAME, cost)
    more = cost - (held or 0)
    charge = more if event.cost_nanos is not None else cost - event.charge_nanos - event.corrected_charge_nanos
    adjustment = Adjustment(
        id=derived_id("reprice", event.id, price.version, event.corrections),
        target=0,
        occurred_ms=event.occurred_ms,
        operation=event.operation,
        cost_nanos=more,
        charge_nanos=charge,
        note=f"price {price.version}"[:512],
        corrects=parse_id(event.id),
        stands_for=event.stands_for,
        first_price=held is None,
        list_cost_nanos=None if discount == known else more + discount - known,
    )
    return Repriced(Outcome.CORRECTED, cost, adjustment)


def _cost(price: Price, event: PastCost) -> int:
    cost = cost_nanos(price, event.usage, event.units, event.service_tier)
    return cost + price.request_nanos * (event.stands_for - 1)


def _discount(price: Price, event: PastCost, cost: int) -> int:
    """Return by how much the list price is more; 0 where there is none, or it does not know all that was used."""
    listed = price.listed
    if listed is None or unpriced_units(listed, event.units):
        return 0
    return _cost(listed, event) - cost


def _depends_on_each(price: Price, event: PastCost) -> bool:
    tiers = price.variants.get(event.service_tier, price.tiers) if event.service_tier else price.tiers
    return len(tiers) > 1 or any(unit in price.least for unit in event.units)
