"""The bound: settled and in flight stay within every limit, whatever happens to records, news and processes."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.property.bound_scenario import Scenario
from tests.property.bound_world import World

SCENARIOS = st.builds(
    Scenario,
    seed=st.integers(0, 1_000_000),
    replicas=st.integers(1, 5),
    limit=st.sampled_from([1_000, 30, 300, 5_000]),
    biggest=st.sampled_from([60, 5, 200]),
    pressure_ms=st.sampled_from([30, 8, 2]),
    wire_ms=st.sampled_from([10, 50, 300]),
    news_ms=st.sampled_from([10, 100, 800]),
    duplicates=st.sampled_from([0.0, 0.1]),
    meter_kills=st.integers(0, 3),
    kills=st.integers(0, 3),
    late_joins=st.integers(0, 2),
    leaves=st.integers(0, 1),
    misses=st.integers(0, 2),
)
"""Everything from which the bound is exact: nobody's journal is lost, and nobody is silent for a whole lease."""

WORSE = st.builds(
    Scenario,
    seed=st.integers(0, 1_000_000),
    replicas=st.integers(1, 4),
    limit=st.sampled_from([1_000, 300, 5_000]),
    biggest=st.sampled_from([60, 5]),
    pressure_ms=st.sampled_from([30, 8]),
    wire_ms=st.sampled_from([10, 50]),
    news_ms=st.sampled_from([10, 100]),
    duplicates=st.sampled_from([0.0, 0.1]),
    meter_kills=st.integers(0, 1),
    kills=st.integers(0, 1),
    lost_disks=st.integers(0, 1),
    outages=st.integers(0, 2),
    late_joins=st.integers(0, 1),
)
"""Replicas that lose their journal or are cut off beyond their lease: what the log did not know may be given again."""


@given(SCENARIOS)
@settings(max_examples=60)
def test_no_row_ever_exceeds_its_limit_and_everything_comes_to_rest(scenario: Scenario) -> None:
    """Any delays, duplicates and kills: every row within its limit, shares within the headroom, sums as logged."""
    World(scenario).run()


@given(WORSE)
@settings(max_examples=40)
def test_a_lost_replica_costs_no_more_than_what_the_log_did_not_know_of_it(scenario: Scenario) -> None:
    """Evictions and lost disks: the overshoot is at most what the lost replica held and had not logged."""
    World(scenario).run()


@pytest.mark.slow
@given(st.one_of(SCENARIOS, WORSE))
@settings(max_examples=1_500)
@pytest.mark.timeout(600)
def test_the_bound_holds_in_a_long_search(scenario: Scenario) -> None:
    """The same laws over many more worlds."""
    World(scenario).run()


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_a_burst_of_ten_times_the_limit_uses_nearly_all_of_it(replicas: int) -> None:
    """Healthy replicas under far too many small requests use at least 98 % of the limit, and never more."""
    limit = 4_000
    world = World(
        Scenario(
            seed=replicas, replicas=replicas, limit=limit, biggest=10, pressure_ms=1, wire_ms=10, news_ms=20,
            paced=False, length_ms=12_000,
        )
    )  # fmt: skip
    world.run()
    used = next(used for key, used in world.truth.items() if key.startswith("org/"))
    assert world.asked >= 10 * limit
    assert 0.98 * limit <= used <= limit
