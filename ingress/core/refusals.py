"""What a client is told at the cap: what refuses it and when it may try again, or which limit it is near.

Texts for people, headers for programs. Knows no HTTP beyond the form of a header line.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from schemas.money import NANOS_PER_USD, format_usd
from schemas.published import PROPAGATION_P99_MS

RETRY_SOON_S = 60
"""Beyond this an SDK is told not to retry by itself: it would sleep for as long as it is told."""

REASONS = {"requests": "rpm", "tokens": "tpm", "concurrency": "concurrency", "cost": "budget"}
"""The reason of a refusal, by measure."""

_UNITS = {"requests": "requests", "tokens": "tokens", "concurrency": "requests at once"}
_WHAT = {
    "rpm": "Rate limit", "tpm": "Token limit", "concurrency": "Concurrency limit", "budget": "Budget",
    "blocked": "Blocked by budget",
}  # fmt: skip
_NO_REST = {
    "rpm": "Send requests more slowly, or ask for a higher limit.",
    "tpm": "Send fewer tokens a request, or ask for a higher limit.",
    "concurrency": "Wait for a request of yours to end.",
    "budget": "Ask whoever owns the budget for an increase.",
    "blocked": "Ask whoever owns the budget for an increase.",
}


class Denial(Protocol):
    """What `verdicts.Denied` says; counts are in the measure's unit."""

    reason: str
    rule: str
    measure: str
    scope: str
    limit: int
    used: int
    asked: int
    staleness_ms: int
    resets_at_s: int
    retry_after_s: int
    overshoot_bound: int


class Noted(Protocol):
    """What `verdicts.Note` says."""

    rule: str
    measure: str
    limit: int
    used: int


def denial_message(denied: Denial | Any, decision_id: str, story: str = "") -> str:
    """Return rule, scope, limit, use, reset, remedy, propagation time and bound of a refusal, for people.

    `story` is what happened before, such as waiting in vain.
    """
    measure, reason = denied.measure, denied.reason
    parts = [
        f"{_WHAT.get(reason, 'Limit')} {denied.rule!r} reached for {denied.scope}: "
        f"limit {amount_text(measure, denied.limit)}, used {amount_text(measure, denied.used)} "
        f"(requests in flight included), this request may take {amount_text(measure, denied.asked)}."
    ]
    if story:
        parts.append(story)
    if never_fits(denied):
        parts.append("It is larger than the whole limit: ask for fewer output tokens or raise the limit.")
    elif denied.used + denied.asked <= denied.limit:
        parts.append("What is left of it is shared out to other replicas, or was a moment ago: retry after 1 s.")
    elif denied.resets_at_s:
        resets = datetime.fromtimestamp(denied.resets_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        parts.append(f"Resets at {resets}; retry after {denied.retry_after_s} s. {_NO_REST.get(reason, '')}".rstrip())
    parts.append(
        f"Usage elsewhere is seen here within {PROPAGATION_P99_MS} ms (p99); "
        f"the limit may be exceeded by {amount_text(measure, denied.overshoot_bound)} at worst. "
        f"Decision {decision_id}."
    )
    return " ".join(parts)


def denial_lines(denied: Denial | Any) -> bytes:
    """Return the header lines of a refusal: which limit, how it stands, how exact that is, when to try again.

    Where a retry cannot help soon, the lines tell an SDK not to retry by itself.
    """
    measure = denied.measure
    lines = (
        b"x-tollway-rule: %b\r\nx-tollway-scope: %b\r\nx-tollway-unit: %b\r\nx-tollway-limit: %b\r\n"
        b"x-tollway-used: %b\r\nx-tollway-remaining: %b\r\nx-tollway-reset: %d\r\nx-tollway-overshoot-bound: %b\r\n"
        b"x-tollway-staleness-ms: %d\r\nx-tollway-propagation-ms: %d\r\nretry-after: %d\r\n"
    ) % (
        header_text(denied.rule), header_text(denied.scope), _unit(measure), _figure(measure, denied.limit),
        _figure(measure, denied.used), _figure(measure, max(0, denied.limit - denied.used)), denied.resets_at_s,
        _figure(measure, denied.overshoot_bound), denied.staleness_ms, PROPAGATION_P99_MS,
        max(1, denied.retry_after_s),
    )  # fmt: skip
    if denied.retry_after_s > RETRY_SOON_S or never_fits(denied):
        lines += b"x-should-retry: false\r\n"
    return lines


def warning_line(note: Noted | Any) -> bytes:
    """Return the header line by which a client learns that it is near a limit, or goes on beyond it."""
    return b"x-tollway-warning: rule=%b; used=%b; limit=%b; unit=%b\r\n" % (
        header_text(note.rule), _figure(note.measure, note.used), _figure(note.measure, note.limit),
        _unit(note.measure),
    )  # fmt: skip


def never_fits(denied: Denial | Any) -> bool:
    """Tell whether the request is larger than the limit itself."""
    return bool(denied.asked > denied.limit)


def amount_text(measure: str, amount: int) -> str:
    """Return an amount with its unit, for people."""
    unit = _UNITS.get(measure)
    return format_usd(amount) if unit is None else f"{amount:,} {unit}"


def header_text(text: str) -> bytes:
    """Return `text` as a field of a header may hold it: printable ASCII without the semicolon that ends a field."""
    return "".join(letter if " " <= letter <= "~" and letter != ";" else "?" for letter in text).encode()


def _unit(measure: str) -> bytes:
    return b"requests" if measure == "concurrency" else b"usd" if measure not in _UNITS else measure.encode()


def _figure(measure: str, amount: int) -> bytes:
    """Return an amount for machines: a whole number, of money the decimal in USD."""
    if measure in _UNITS:
        return b"%d" % amount
    whole, rest = divmod(abs(amount), NANOS_PER_USD)
    return b"%b%d.%09d" % (b"-" if amount < 0 else b"", whole, rest)
