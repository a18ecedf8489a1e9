"""Official clients that hang up in the middle of an answer: what is charged is what the provider bills."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.stack import Stack, eventually, policy

BUDGET = "[{name: team-month, per: [team], amount: 100 USD, period: month}]"
PRICES = {"openai": (150, 600), "anthropic": (3_000, 15_000)}
"""Nano-USD for an input and an output token."""
STORY: Any = [{"role": "user", "content": "[[sim output=400 chunks=100 delay_ms=5]] tell me a story"}]


def _billed(stack: Stack) -> dict[str, int]:
    """Return the provider's own account of answers that it has made whole."""
    urls = json.loads((stack.state / "run.json").read_text())["urls"]
    found: dict[str, int] = httpx.get(urls["provider"] + "/__sim/ledger", trust_env=False).json()
    return found


def _account(stack: Stack, requests: int) -> dict[str, int]:
    """Return the provider's account once it has so many answers."""
    found: dict[str, int] = eventually(lambda: account if (account := _billed(stack))["requests"] >= requests else None)
    return found


def _hang_up(stack: Stack, api: str, secret: str, replica: int) -> None:
    """Read a few pieces of a long stream and hang up."""
    if api == "openai":
        chunks = stack.openai(secret, replica).chat.completions.create(
            model="gpt-4o-mini", messages=STORY, stream=True, max_tokens=500
        )
        for _ in range(5):
            next(chunks)
        chunks.close()
    else:
        events = stack.anthropic(secret, replica).messages.create(
            model="claude-haiku-4-5", messages=STORY, stream=True, max_tokens=500
        )
        for _ in range(5):
            next(iter(events))
        events.close()


def _give_up(stack: Stack, secret: str) -> None:
    """Ask for a whole answer, and have no patience."""
    impatient = stack.openai(secret, timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "[[sim output=60 delay_ms=900]] x"}]
        )


@pytest.mark.slow
def test_hang_ups_are_charged_as_the_provider_bills_them(stack: Stack, org: str) -> None:
    """Meter, history and the provider's own account agree to the nano-dollar, and every ledger with every other."""
    stack.apply(policy(budgets=BUDGET, org=org))
    secret = stack.key(org=org)["secret"]
    expected = 0
    for api, (price_in, price_out) in PRICES.items():
        before = _billed(stack)
        for replica in (0, 1):
            _hang_up(stack, api, secret, replica)
        if api == "openai":
            _give_up(stack, secret)
        requests = 3 if api == "openai" else 2
        after = _account(stack, before["requests"] + requests)
        expected += (after["input_tokens"] - before["input_tokens"]) * price_in
        expected += (after["output_tokens"] - before["output_tokens"]) * price_out
    assert expected > (2 * 400 + 60) * 600 + 2 * 400 * 15_000

    settled = eventually(lambda: _settled(stack, org))
    assert settled == expected
    assert stack.json("verify")["ok"] is True
    report = json.loads(stack.run("report", "spend", "--by", "org", "--format", "json"))
    (spent,) = [row for row in report["rows"] if row["org"] == org]
    assert (int(spent["requests"]), round(float(spent["cost_usd"]) * 10**9)) == (5, expected)


def _settled(stack: Stack, org: str) -> int:
    """Return what the organisation's budget has booked once nothing of it is in flight; 0 until then."""
    draining = sum(status["requests"]["draining"] for status in stack.replicas())
    budgets = [budget for budget in stack.json("status")["budgets"] if f"org={org}" in budget["scope"]]
    if draining or not budgets or budgets[0]["inflight"]:
        return 0
    return int(budgets[0]["settled"])


@pytest.mark.slow
def test_a_replica_that_stops_reads_on_what_it_can(stack: Stack, org: str) -> None:
    """SIGTERM in the middle of reading on: the answer's own usage is charged, not an estimate, and nothing is lost."""
    stack.apply(policy(budgets=BUDGET, org=org))
    secret = stack.key(org=org)["secret"]
    stopped = stack.pid("ingress-2")
    before = _billed(stack)
    story: Any = [{"role": "user", "content": "[[sim output=300 chunks=300 delay_ms=15]] tell me a story"}]
    chunks = stack.openai(secret, 1).chat.completions.create(
        model="gpt-4o-mini", messages=story, stream=True, max_tokens=500
    )
    next(chunks)
    chunks.close()
    eventually(lambda: stack.replicas()[1]["requests"]["draining"] == 1)
    os.kill(stopped, signal.SIGTERM)
    after = _account(stack, before["requests"] + 1)
    eventually(lambda: stack.pid("ingress-2") != stopped)
    eventually(stack.is_well, 30)
    billed = (after["input_tokens"] - before["input_tokens"]) * 150 + 300 * 600
    assert eventually(lambda: _settled(stack, org)) == billed
    assert stack.json("verify")["ok"] is True
