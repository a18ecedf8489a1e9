"""A stream that meets the end of its budget, in the whole stack: two replicas, real log, real SDK, real decision."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from schemas.money import parse_usd
from tests.e2e.stack import Stack, eventually, policy

AMOUNT = "0.006 USD"
"""10,000 output tokens at 0.60 USD a million."""
BUDGETS = f"[{{name: team-day, per: [team], amount: {AMOUNT}, period: day, final_unit: terminate}}]"
STORY: Any = [{"role": "user", "content": "[[sim output=20000 chunks=1000 delay_ms=20]] tell me a very long story"}]


def _settled(stack: Stack, org: str) -> int:
    """Return what the budget of the organisation's team has booked once nothing of it is in flight; 0 until then."""
    budgets = stack.json("status")["budgets"]
    found = next((budget for budget in budgets if f"org={org}" in budget["scope"]), None)
    return 0 if found is None or found["inflight"] else int(found["settled"])


@pytest.mark.slow
def test_stream_uses_what_two_replicas_have_of_a_budget_and_ends(stack: Stack, org: str) -> None:
    """One replica's stream gets the other's part too, ends cleanly within the budget, and its end can be explained."""
    stack.apply(policy("[]", BUDGETS, org=org))
    client = stack.openai(stack.key(org=org)["secret"])
    stream = client.chat.completions.create(model="gpt-4o-mini", messages=STORY, stream=True, max_tokens=64_000)
    chunks = list(stream)
    last = [chunk for chunk in chunks if chunk.choices][-1]
    words = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).split()
    assert last.choices[0].finish_reason == "length"
    assert last.model_extra is not None
    notice = last.model_extra["tollway"]
    assert notice["rule"] == "team-day"

    decision = eventually(lambda: stack.json("decision", notice["decision_id"]))
    assert (decision["action"], decision["reason"]) == ("terminate", "budget")
    used = eventually(lambda: _settled(stack, org))
    assert 0.9 * parse_usd(AMOUNT) <= used <= parse_usd(AMOUNT)
    assert len(words) * 600 <= used
    with pytest.raises(openai.RateLimitError, match="team-day"):
        client.chat.completions.create(model="gpt-4o-mini", messages=STORY, max_tokens=4_000)
