"""A trace of real traffic, replayed through two replicas: the sums agree in every place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.published import PROPAGATION_P99_MS
from tests.e2e.replay import peak, read_trace, replay
from tests.e2e.stack import Stack, policy

SPEED = 30
BUDGET = "[{name: team-month, per: [team], amount: 100000 USD, period: month}]"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_replayed_trace_sums_to_its_own_totals(new_stack: Callable[..., Stack], trace_file: Path) -> None:
    """Requests and tokens of the file equal what clients were told, the meter's ledger and ClickHouse.

    It is a soak of limits, too: the hour of the trace fills its limits to nine tenths at its peak, and no request is
    refused, nor waits for longer than three times around the loop.
    """
    calls = read_trace(trace_file)
    window_s = 60.0 * SPEED
    rpm = peak([(call.at_s, 1) for call in calls], window_s) * 10 // 9 + 1
    tpm = peak([(call.at_s, call.input_tokens + call.output_tokens) for call in calls], window_s) * 10 // 9 + 1
    stack = new_stack(ingress=2).up(policy(f"[{{name: org-minute, per: [org], rpm: {rpm}, tpm: {tpm}}}]", BUDGET))
    secrets = [stack.key(team=team, user=user)["secret"] for team in ("search", "ml") for user in ("ada", "bob")]
    told = asyncio.run(replay(calls, stack.ready["ingress"], secrets, speed=SPEED))
    expected = (len(calls), sum(call.input_tokens for call in calls), sum(call.output_tokens for call in calls))
    assert (told.requests, told.input_tokens, told.output_tokens) == expected
    assert told.longest_wait_ms <= 3 * PROPAGATION_P99_MS
    verified = stack.json("verify")
    assert verified["ok"] is True
    totals = json.loads(stack.run("report", "spend", "--by", "org", "--format", "json"))["totals"]
    assert (int(totals["requests"]), int(totals["input_tokens"]), int(totals["output_tokens"])) == expected
