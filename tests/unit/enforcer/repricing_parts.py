"""Events and prices for tests of repricing."""

from __future__ import annotations

from typing import Any

from enforcer.core.repricing import PastCost
from schemas.ids import format_id
from schemas.money import Price, Rates
from schemas.tokens import TokenUsage

MONEY = "team-month/cost/org=acme,team=search/month@1793491200+2592000"


def rates(minimum: int = 0, **usd_per_mtok: int) -> Rates:
    """Return rates in whole USD per million tokens; what is left out is free."""
    names = Rates.__struct_fields__[1:]
    return Rates(minimum, *(usd_per_mtok.get(name, 0) * 10**9 for name in names))


def price(version: str = "2", *tiers: Rates, **fields: Any) -> Price:
    """Return a price of 2 and 4 USD per million tokens, unless tiers say otherwise."""
    return Price("test", version, tiers or (rates(input=2, output=4),), **fields)


def past(**fields: Any) -> PastCost:
    """Return an event of 1,000 input and 500 output tokens that cost 1 and 2 USD per million: 2,000,000 nanos."""
    values: dict[str, Any] = {
        "occurred_ms": 1_795_262_400_000, "id": format_id((7).to_bytes(16, "big")), "status": "settled",
        "operation": "chat.completions", "org": "acme", "project": "chat", "team": "search", "user": "ada",
        "key": "key_1", "provider": "openai", "model": "gpt-4o-mini", "model_requested": "gpt-4o-mini",
        "tags": {"env": "prod"}, "policy_version": 3, "price_version": "1", "kind": "usage", "stands_for": 1,
        "usage": TokenUsage(1_000, 500), "units": {}, "service_tier": "", "cost_nanos": 2_000_000,
        "charge_nanos": 2_000_000, "discount_nanos": 0, "rows": [MONEY], "corrections": 0, "corrected_cost_nanos": 0,
        "corrected_charge_nanos": 0, "corrected_discount_nanos": 0,
    }  # fmt: skip
    return PastCost(**{**values, **fields})
