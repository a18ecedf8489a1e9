"""Explain: what the log gives is what a replica knew, whatever delayed, doubled, killed or cut off anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from deploy.explain.recount import Check, agrees, recount
from deploy.explain.witness import Witness
from ingress.core.plan import Denied, Plan
from schemas.decisions import Decision
from schemas.usage import Attribution
from tests.property.bound_replica import Replica
from tests.property.bound_scenario import Scenario
from tests.property.bound_world import World

CHECKED = 8
"""Decisions of each world that are recomputed."""
SAID = (
    "rule", "measure", "scope", "row", "limit", "used", "asked", "room", "weight", "fence", "staleness_ms", "right",
    "pending",
)  # fmt: skip

QUIET = st.builds(
    Scenario,
    seed=st.integers(0, 1_000_000),
    replicas=st.integers(1, 4),
    limit=st.sampled_from([1_000, 30, 300, 5_000]),
    biggest=st.sampled_from([60, 5, 200]),
    pressure_ms=st.sampled_from([30, 8, 2]),
    wire_ms=st.sampled_from([10, 50, 300]),
    news_ms=st.sampled_from([10, 100, 800]),
    duplicates=st.sampled_from([0.0, 0.1]),
    meter_kills=st.integers(0, 2),
    late_joins=st.integers(0, 1),
    misses=st.integers(0, 1),
    waits_ms=st.sampled_from([0, 250]),
    length_ms=st.just(3_000),
)
KINDS: tuple[dict[str, Any], ...] = ({}, {"kills": 1}, {"kills": 2}, {"outages": 1})
SCENARIOS = st.tuples(QUIET, st.sampled_from(KINDS)).map(lambda two: replace(two[0], **two[1]))


class Recorded(World):
    """A world that keeps the decisions of its replicas."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.recorded: list[Decision] = []

    def folded(self) -> None:
        """Look at nothing here: what rights sum to is the affair of the laws of the bound."""

    def refused(self, replica: Replica, plan: Plan, denied: Denied) -> None:
        """Record a refusal as the ingress does."""
        super().refused(replica, plan, denied)
        if denied.row:
            fields: dict[str, Any] = {name: getattr(denied, name) for name in SAID}
            number = len(self.recorded) + 1
            self.recorded.append(
                Decision(
                    number.to_bytes(16, "big"), b"r" + number.to_bytes(15, "big"), denied.at_ms, replica.name, "refuse",
                    denied.reason, Attribution(org="acme"), partition=0, epoch=replica.epoch, **fields,
                )
            )  # fmt: skip

    def recount(self, decision: Decision) -> list[Check]:
        """Recompute a decision from the log."""
        witness = Witness(decision)
        for offset, (log_ms, value) in enumerate(self.log):
            witness.feed(offset, log_ms, value)
            if witness.is_done:
                break
        witness.end()
        return recount(decision, witness, None)


def _worlds_decisions(scenario: Scenario) -> tuple[Recorded, list[Decision]]:
    world = Recorded(scenario)
    world.run()
    step = max(1, len(world.recorded) // CHECKED)
    return world, world.recorded[::step][:CHECKED]


@given(SCENARIOS)
@settings(max_examples=15)
def test_every_refusal_is_what_the_log_gives(scenario: Scenario) -> None:
    """Right, share, limit, others, own part, room and rule: all of it follows from the log."""
    world, decisions = _worlds_decisions(scenario)
    for decision in decisions:
        checks = world.recount(decision)
        assert agrees(checks), (scenario, decision, [check for check in checks if not check.agrees])


@given(SCENARIOS, st.sampled_from(["right", "used", "limit", "pending", "room", "instance", "asked"]))
@settings(max_examples=15)
def test_a_decision_that_says_something_else_is_found_out(scenario: Scenario, what: str) -> None:
    """A number that is not the log's, a replica that is none, or a request that had room: each is told."""
    world, decisions = _worlds_decisions(scenario)
    for decision in decisions[:3]:
        forged: dict[str, Any] = {what: getattr(decision, what)}
        if what == "instance":
            forged = {"instance": "somebody"}
        elif what == "asked":
            forged = {"asked": 0, "used": decision.used}
        elif what == "pending":  # with the room that would follow, and far more than anything it ever had
            forged = {"pending": decision.pending + 10**9, "room": decision.room - 10**9, "used": decision.used + 10**9}
        else:
            forged = {what: getattr(decision, what) + 7}
        checks = world.recount(msgspec.structs.replace(decision, **forged))
        if what == "pending" and any("in flight then" in check.note for check in checks):
            continue
        assert not agrees(checks), (scenario, decision, what)
