"""A trace of real traffic, replayed through two replicas: the sums agree in every place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.replay import read_trace, replay
from tests.e2e.stack import Stack, policy

BUDGET = "[{name: team-month, per: [team], amount: 100000 USD, period: month}]"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_replayed_trace_sums_to_its_own_totals(new_stack: Callable[..., Stack], trace_file: Path) -> None:
    """Requests and tokens of the file equal what clients were told, the meter's ledger and ClickHouse."""
    calls = read_trace(trace_file)
    stack = new_stack(ingress=2).up(policy("[{name: org-minute, per: [org], rpm: 1000000}]", BUDGET))
    secrets = [stack.key(team=team, user=user)["secret"] for team in ("search", "ml") for user in ("ada", "bob")]
    told = asyncio.run(replay(calls, stack.ready["ingress"], secrets, speed=30))
    expected = (len(calls), sum(call.input_tokens for call in calls), sum(call.output_tokens for call in calls))
    assert (told.requests, told.input_tokens, told.output_tokens) == expected
    verified = stack.json("verify")
    assert verified["ok"] is True
    totals = json.loads(stack.run("report", "spend", "--by", "org", "--format", "json"))["totals"]
    assert (int(totals["requests"]), int(totals["input_tokens"]), int(totals["output_tokens"])) == expected
