"""Usage records, decisions and what they should add up to, for tests of the history."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec

from schemas.codec import encode_attribution, encode_event, encode_record, encode_rows
from schemas.decisions import Decision
from schemas.ids import NO_ID
from schemas.quota import Weight
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Batch, Totals, UsageEvent

NOW_MS = 1_795_262_400_000
"""2026-11-21T12:00:00Z"""
MONTH_END_MS = 1_796_083_200_000
"""2026-12-01T00:00:00Z"""
ACME = Attribution(
    org="acme", project="chat", team="search", user="ada", key_id="key_1", provider="openai", model="gpt-4o-mini",
    model_requested="gpt-4o-mini", tags={"env": "prod"}, policy_version=3, price_version="2026-11-01",
)  # fmt: skip

_numbers = itertools.count(1)


def an_id() -> bytes:
    """Return an id that no other has."""
    return next(_numbers).to_bytes(16, "big")


def an_event(
    attribution: Attribution = ACME, row_keys: Iterable[str] = ("r/requests/org=acme/w",), **fields: Any
) -> UsageEvent:
    """Return a settled event; every field may be given."""
    values: dict[str, Any] = {
        "id": an_id(), "request_id": an_id(), "attempt": 1, "status": "settled", "operation": "chat.completions",
        "occurred_ms": NOW_MS, "duration_ms": 120, "ttft_ms": 40, "http_status": 200, "streamed": False,
        "usage_source": "provider", "usage": TokenUsage(input=100, output=20), "cost_nanos": 27_000,
        "charge_requests": 1, "charge_tokens": 120, "charge_nanos": 27_000, "model_reported": "gpt-4o-mini-2026",
        "error": "", "decision_id": NO_ID, "attribution": encode_attribution(attribution),
        "rows": encode_rows(list(row_keys)),
    }  # fmt: skip
    return UsageEvent(**{**values, **fields})


def a_batch(
    events: Iterable[UsageEvent | bytes] = (),
    seq: int = 1,
    instance: str = "ingress-1",
    epoch: int = 1,
    final: bool = False,
    told: Totals | None = None,
) -> bytes:
    """Return the value of a record on `usage`; bytes among the events are taken as they are."""
    encoded = [msgspec.Raw(event if isinstance(event, bytes) else encode_event(event)) for event in events]
    return encode_record(Batch(instance, epoch, seq, 0, NOW_MS, 3, final, [], [], told or Totals(), encoded))


def a_decision(**fields: Any) -> Decision:
    """Return a refusal by a budget; every field may be given."""
    values: dict[str, Any] = {
        "id": an_id(), "request_id": an_id(), "decided_ms": NOW_MS, "instance": "ingress-1", "action": "refuse",
        "reason": "budget", "attribution": ACME, "rule": "team-month", "measure": "cost",
        "scope": "org=acme,team=search",
        "row": "team-month/cost/org=acme,team=search/month@1793491200+2592000", "limit": 10**9, "used": 999_999_999,
        "asked": 27_000, "room": 1, "weight": Weight(1, 2, 1), "fence": 77, "staleness_ms": 12,
        "resets_at_s": 1_796_083_200, "retry_after_s": 820_800, "overshoot_bound": 0,
    }  # fmt: skip
    return Decision(**{**values, **fields})


def totals_of(events: Iterable[UsageEvent]) -> Totals:
    """Return the sums of events as `schemas.usage` adds them."""
    totals = Totals()
    for event in events:
        totals.add(event)
    return totals
