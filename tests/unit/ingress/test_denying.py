"""What a row says of a request that does not simply go on: here, how long a throttled one waits."""

from __future__ import annotations

import pytest

from ingress.core.admission import Registry
from schemas.quota import Weight
from tests.unit.ingress.governed import START_MS, WHOLE, denied, held, member_of, plan_of, resolver_of

POLICY = """
orgs: {acme: {teams: [search]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models: {small: {provider: sim, max_output_tokens: 100}}
limits: [{name: hour, per: [org], rph: 1000, ladder: {1%: throttle, 100%: block}}]
"""


def pause_ms(weight: Weight) -> int:
    """Return how long the eleventh request of a replica waits that may have `weight` of the limit."""
    plan = plan_of(resolver_of(POLICY, registry=member_of(Registry(1), weight)))
    for _ in range(10):
        held(plan.admit(START_MS, 0, 0))
    outcome = denied(plan.admit(START_MS, 0, 0))
    assert outcome.action == "throttle"
    return outcome.wait_ms


@pytest.mark.parametrize("replicas", [2, 4, 10])
def test_replicas_that_throttle_pace_what_is_left_together(replicas: int) -> None:
    """Each spreads its part over the time that is left: ten that share a limit wait ten times as long as one."""
    alone, together = pause_ms(WHOLE), pause_ms(Weight(1, replicas, 0))
    assert replicas * alone <= together <= replicas * alone * 1.02
