"""Fees of the provider's tools through a real ingress: held before the request is sent."""

from __future__ import annotations

from tests.contract.sdk_usage import BY_TOKENS, POLICY, PRICES
from tests.stream.ingress_lab import client, running


async def test_fee_is_refused_where_a_budget_cannot_pay_it() -> None:
    """A budget that has room for words only refuses a request that may search; a cap counts all its searches."""
    rules = "budgets: [{name: day, per: [team], amount: 0.005 USD, period: day}]\n"
    body = {"model": "gpt-5", "input": "x", "max_output_tokens": 16}
    tools = [{"type": "web_search"}]
    async with running(POLICY + rules, prices=PRICES) as lab, client(lab) as http:
        assert BY_TOKENS.units["web_search"] == 10**13
        assert (await http.post("/v1/responses", json={**body, "tools": tools})).status_code == 429
        assert (await http.post("/v1/responses", json=body)).status_code == 200
    rules = "limits: [{name: cheap, per: [team], max_cost: 0.05 USD}]\n"
    async with running(POLICY + rules, prices=PRICES) as lab, client(lab) as http:
        assert (await http.post("/v1/responses", json={**body, "tools": tools})).status_code == 400
        few = {**body, "tools": tools, "max_tool_calls": 4}
        assert (await http.post("/v1/responses", json=few)).status_code == 200
