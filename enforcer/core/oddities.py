"""Usage that cannot be true, or has no price, as replicas tell of it in decisions.

One alert an hour for each provider, model and flag; of what has no price one a day for each provider and model. A
replica tells of a flag at most once an hour, whatever its traffic is, so all of this is little. What was said is on
`alerts.sent`: reading the same decisions again says nothing twice, and neither do two replicas.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from enforcer.core.decisions import time_text
from schemas.alerts import PRICE_MISSING, SOURCE, USAGE_ODD, Alert, alert_id
from schemas.decisions import Action, Decision
from schemas.flags import FLAGS, UNKNOWN_COST
from schemas.ids import format_id

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
KEPT_HOURS = 24
"""What is older is not told any more."""
MAX_KEPT = 4_096


class Oddities:
    """What is still to be said, or was said lately."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._first: dict[str, Decision] = {}
        """The first decision of each alert, by its id."""

    def __len__(self) -> int:
        """Return how many alerts are known, sent or not."""
        return len(self._first)

    def note(self, decision: Decision) -> None:
        """Take a decision; others than those about usage are none of its business."""
        if decision.action != Action.ODD or decision.reason not in FLAGS:
            return
        told = decision.attribution
        if decision.reason in UNKNOWN_COST:
            name = alert_id("price.missing", told.provider, told.model, str(decision.decided_ms // DAY_MS))
        else:
            hour = str(decision.decided_ms // HOUR_MS)
            name = alert_id("usage.odd", told.provider, told.model, decision.reason, hour)
        if name not in self._first and len(self._first) >= MAX_KEPT:
            del self._first[next(iter(self._first))]
        self._first.setdefault(name, decision)

    def due(self, sent: Collection[str], now_ms: int) -> list[Alert]:
        """Return the alerts that are to be sent; `sent` are ids of those that were."""
        oldest = now_ms // HOUR_MS - KEPT_HOURS
        self._first = {
            name: decision for name, decision in self._first.items() if decision.decided_ms // HOUR_MS >= oldest
        }
        return [_alert(name, decision, now_ms) for name, decision in self._first.items() if name not in sent]


def _alert(name: str, decision: Decision, now_ms: int) -> Alert:
    if decision.reason in UNKNOWN_COST:
        return _missing_price(name, decision, now_ms)
    told = decision.attribution
    data: dict[str, Any] = {
        "provider": told.provider, "model": told.model, "flag": decision.reason, "meaning": FLAGS[decision.reason],
        "hour": time_text(decision.decided_ms // HOUR_MS * HOUR_MS), "first_org": told.org,
        "first_request_id": format_id(decision.request_id), "decision_id": format_id(decision.id),
        "effect": "the usage was made good as docs/usage.md says: no limit is lifted, no answer is changed",
        "remedy": "look at the provider's answers for this model; tell the provider, or take it out of the policy",
    }  # fmt: skip
    subject = f"provider={told.provider},model={told.model}"
    return Alert(
        name, SOURCE, USAGE_ODD, subject, time_text(now_ms), data, partitionkey=f"odd/{subject}/{decision.reason}"
    )


def _missing_price(name: str, decision: Decision, now_ms: int) -> Alert:
    told = decision.attribution
    data: dict[str, Any] = {
        "provider": told.provider, "model": told.model, "flag": decision.reason, "meaning": FLAGS[decision.reason],
        "day": time_text(decision.decided_ms // DAY_MS * DAY_MS), "price_version": told.price_version,
        "first_org": told.org, "first_request_id": format_id(decision.request_id),
        "decision_id": format_id(decision.id), "policy_version": told.policy_version,
        "effect": "its cost is unknown (NULL) in the history; limits are charged at unpriced_reserve",
        "remedy": f"tollway prices set {told.provider} {told.model} …, then tollway reprice --since the day",
    }  # fmt: skip
    subject = f"provider={told.provider},model={told.model}"
    return Alert(name, SOURCE, PRICE_MISSING, subject, time_text(now_ms), data, partitionkey=f"price/{subject}")
