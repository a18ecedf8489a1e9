"""What a client is told when a limit, a budget or a block refuses it, and when it may try again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from schemas.money import format_usd
from schemas.published import PROPAGATION_P99_MS

RETRY_SOON_S = 60
"""Beyond this an SDK is told not to retry by itself: it would sleep for as long as it is told."""

_MEASURES = {"requests": "requests", "tokens": "tokens"}


class Denial(Protocol):
    """What `plan.Denied` says; counts are in the measure's unit."""

    reason: str
    rule: str
    measure: str
    scope: str
    limit: int
    used: int
    asked: int
    resets_at_s: int
    retry_after_s: int
    overshoot_bound: int


def denial_message(denied: Denial | Any, decision_id: str) -> str:
    """Return rule, scope, limit, use, reset, propagation time and bound of a refusal, for people."""
    what = {"rpm": "Rate limit", "tpm": "Token limit", "budget": "Budget", "blocked": "Blocked by budget"}
    parts = [
        f"{what.get(denied.reason, 'Limit')} {denied.rule!r} reached for {denied.scope}: "
        f"limit {_amount(denied.measure, denied.limit)}, used {_amount(denied.measure, denied.used)} "
        f"(requests in flight included), this request may take {_amount(denied.measure, denied.asked)}."
    ]
    if never_fits(denied):
        parts.append("It is larger than the whole limit: ask for fewer output tokens or raise the limit.")
    elif denied.used + denied.asked <= denied.limit:
        parts.append("What is left of it is shared out to other replicas, or was a moment ago: retry after 1 s.")
    elif denied.resets_at_s:
        resets = datetime.fromtimestamp(denied.resets_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        parts.append(f"Resets at {resets}; retry after {denied.retry_after_s} s.")
    parts.append(
        f"Usage elsewhere is seen here within {PROPAGATION_P99_MS} ms (p99); "
        f"the limit may be exceeded by {_amount(denied.measure, denied.overshoot_bound)} at worst. "
        f"Decision {decision_id}."
    )
    return " ".join(parts)


def retry_lines(denied: Denial | Any) -> bytes:
    """Return the header lines that say when to try again; far ahead, that an SDK shall not wait for it."""
    lines = b"retry-after: %d\r\n" % max(1, denied.retry_after_s)
    if denied.retry_after_s > RETRY_SOON_S or never_fits(denied):
        lines += b"x-should-retry: false\r\n"
    return lines


def never_fits(denied: Denial | Any) -> bool:
    """Tell whether the request is larger than the limit itself."""
    return bool(denied.asked > denied.limit)


def _amount(measure: str, amount: int) -> str:
    unit = _MEASURES.get(measure)
    return format_usd(amount) if unit is None else f"{amount:,} {unit}"
