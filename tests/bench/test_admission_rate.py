"""What admission costs: 15 rows, in one process, without I/O. The target is 3 µs; the figure is printed (`-s`)."""

from __future__ import annotations

import time
from collections.abc import Callable

from ingress.core.admission import Registry
from ingress.core.plan import Hold
from tests.unit.ingress.governed import SECRET, START_MS, held, member_of, plan_of, resolver_of

RULES = 5
HUGE = 10**15
POLICY = "\n".join(
    [
        "orgs: {acme: {teams: [search]}}",
        "providers: {sim: {protocol: openai, base_url: simulated}}",
        "models: {small: {provider: sim}}",
        "limits:",
        *(f"  - {{name: limit-{number}, per: [team, model], rpm: {HUGE}, tpm: {HUGE}}}" for number in range(RULES)),
        "budgets:",
        *(f"  - {{name: budget-{number}, per: [team], amount: 900_000 USD, period: month}}" for number in range(RULES)),
    ]
)


def best_us(work: Callable[[], object], count: int = 20_000, rounds: int = 5) -> float:
    """Return microseconds a call in the best of `rounds`."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            work()
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


def test_admission_of_15_rows() -> None:
    """Prints microseconds of admitting, settling, cutting and of the other steps around them."""
    registry = member_of(Registry(1))
    resolver = resolver_of(POLICY, registry=registry)
    plan = plan_of(resolver)
    assert len(held(plan.admit(START_MS, 100, 1_000))._binding.all) == 15
    holds: list[Hold] = []
    admit_us = best_us(lambda: holds.append(held(plan.admit(START_MS, 100, 1_000))))
    waiting = iter(holds)
    settle_us = best_us(lambda: next(waiting).settle(1, 50, 500), len(holds) // 5)
    began = time.perf_counter()
    registry.cut(0, 1)
    cut_us = (time.perf_counter() - began) / len(holds) * 1e6
    figures = {
        "admit_us": admit_us,
        "settle_us": settle_us,
        "cut_us_per_event": cut_us,
        "authenticate_us": best_us(lambda: resolver.authenticate(SECRET, START_MS)),
        "plan_us": best_us(lambda: plan_of(resolver)) - best_us(lambda: None),
        "limits_header_us": best_us(lambda: plan.limits_header(START_MS)),
    }
    print({name: round(figure, 2) for name, figure in figures.items()})
    assert {row.inflight for row in plan._binding.all} == {1, 100, 1_000}
