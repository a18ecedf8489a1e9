"""`tollway policy backtest` on a real history: its figures are those of what was sent."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import openai

from tests.e2e.stack import Stack, eventually, policy

NANOS_A_REQUEST = 1_000 * 150 + 10 * 600
FIVE_REQUESTS = "0.00078 USD"


def _send(client: openai.OpenAI, count: int) -> int:
    """Send requests one after another; return how many were refused."""
    refused = 0
    for _ in range(count):
        try:
            client.chat.completions.create(
                model="gpt-4o-mini", max_tokens=10,
                messages=[{"role": "user", "content": "[[sim usage_input=1000 output=10]] Hello."}],
            )  # fmt: skip
        except openai.RateLimitError:
            refused += 1
    return refused


def test_a_tighter_policy_is_tried_on_what_was_sent(stack: Stack, org: str) -> None:
    """Eight requests of one team, six of another with a limit: who would have been refused, and what it had cost."""
    stack.apply(policy("[{name: ml-minute, match: {team: ml}, rpm: 3}]", org=org))
    search, ml = (stack.openai(stack.key(org=org, team=team)["secret"]) for team in ("search", "ml"))
    assert _send(search, 8) == 0
    refused = _send(ml, 6)
    assert refused
    budget = f"[{{name: year, match: {{team: search}}, amount: {FIVE_REQUESTS}, period: year}}]"
    tighter = str(stack.write("tighter.yaml", policy(budgets=budget, org=org)))
    command = ("policy", "backtest", tighter, "--since", "1h", "--org", org)

    def complete() -> Any:
        found = json.loads(stack.run(*command, "--format", "json"))
        return found if found["totals"]["requests"] == 14 else None

    found = eventually(complete)
    assert found["totals"]["refused_before"] == found["totals"]["newly_admitted"] == refused
    teams = {group["team"]: group for group in found["groups"]}
    assert (teams["search"]["newly_refused"], teams["ml"]["refused"]) == (3, 0)
    assert teams["search"]["cost_avoided_usd"] == f"0.{3 * NANOS_A_REQUEST:09d}"
    assert teams["ml"]["cost_added_usd"] == f"0.{refused * NANOS_A_REQUEST:09d}"
    assert found["totals"]["cost_usd"] == f"0.{(14 - refused) * NANOS_A_REQUEST:09d}"
    (rule,) = found["rules"]
    assert (rule["rule"], rule["refused"], rule["most_hit"]) == ("year", 3, f"org={org}")
    (row,) = csv.DictReader(io.StringIO(stack.run(*command, "--by", "rule", "--format", "csv", "--progress")))
    assert (row["rule"], row["refused"]) == ("year", "3")
