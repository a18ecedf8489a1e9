"""What tests of corrections ask a deployment: prices of their own, reports, settled sums, the history."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import httpx

from tests.e2e.stack import Stack


def ask(stack: Stack, secret: str, count: int, replica: int = 0, model: str = "gpt-4o-mini") -> None:
    """Send requests of 10 output tokens."""
    client = stack.openai(secret, replica)
    for _ in range(count):
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "[[sim output=10]] Hello."}], max_tokens=50
        )


def record_prices(stack: Stack, *items: str) -> dict[str, Any]:
    """Record prices (YAML in one line each) in the book."""
    return admin(stack, "POST", "/v1/prices", {"document": "\n".join(["currency: USD", "prices:", *items])})


def admin(stack: Stack, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """Ask the enforcer's API."""
    run = json.loads((stack.state / "run.json").read_text())
    headers = {"Authorization": f"Bearer {run['token']}"}
    answer = httpx.request(method, run["api"] + path, json=body, headers=headers, trust_env=False, timeout=30)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def spent(stack: Stack, org: str, by: str = "team") -> dict[str, Decimal]:
    """Return what an organisation spent, by an attribute; nanos are not lost."""
    rows = rows_of(stack, f"SELECT {by}, sum(cost_usd) AS usd FROM tollway.usage WHERE org = '{org}' GROUP BY {by}")
    return {row[by]: Decimal(str(row["usd"] or 0)) for row in rows}


def rows_of(stack: Stack, query: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    found: list[dict[str, Any]] = json.loads(stack.run("sql", query, "--format", "json"))
    return found


def settled(stack: Stack, org: str) -> dict[str, int]:
    """Return the settled nano-dollars of an organisation's budget scopes, by team."""
    budgets = admin(stack, "GET", "/v1/budgets")["budgets"]
    return {
        budget["scope"].partition("team=")[2]: budget["settled"]
        for budget in budgets
        if budget["scope"].startswith(f"org={org},")
    }
