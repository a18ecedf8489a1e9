"""Corrections of costs on `usage`: who writes them, and by which words the rest knows them.

An adjuster writes batches as a replica does, so that each correction counts once in every ledger; but it admits
nothing, and therefore has no right in any row and is no member of a partition.
"""

from __future__ import annotations

from schemas.usage import Kind, UsageEvent

ADJUSTER = "/adjust"
"""How the instance of every adjuster ends; the replicas' names have no slash."""
FIRST_PRICE = "first_price"
"""Flag of a correction that gives a cost to what had none."""
_ADJUSTMENT = Kind.ADJUSTMENT.value


def is_adjuster(instance: str) -> bool:
    """Tell whether records of `instance` are corrections."""
    return instance.endswith(ADJUSTER)


def is_adjustment(event: UsageEvent) -> bool:
    """Tell whether an event is a correction, whose amounts may be negative: it has neither requests nor tokens."""
    detail = event.detail
    return detail is not None and detail.kind == _ADJUSTMENT and not (event.charge_requests or event.charge_tokens)
