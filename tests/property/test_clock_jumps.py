"""Clocks that jump, forth and back, while requests are in flight: each window's limit holds all the same.

Done in the simulation: a test cannot set the clock of a machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import given, settings

from tests.property.bound_replica import Replica
from tests.property.bound_scenario import Scenario
from tests.property.bound_world import World

JUMPS_MS = (-3_700_000, -61_000, -5_000, -700, 700, 5_000, 61_000, 3_700_000)


def world_with_jumps(seed: int, replicas: int, jumps: int, kills: int = 0) -> World:
    """Return a world in which clocks jump by less than a second to more than an hour."""
    scenario = Scenario(seed=seed, replicas=replicas, limit=300, skew_ms=1, meter_kills=kills, kills=kills)
    world, pick = World(scenario), random.Random(seed)
    for _ in range(jumps):
        jump = _jump(pick.choice(world.replicas), pick.choice(JUMPS_MS))
        world.at(pick.randint(0, scenario.length_ms), jump)
    return world


def _jump(replica: Replica, by_ms: int) -> Callable[[], None]:
    def jump() -> None:
        replica.skew_ms += by_ms

    return jump


@given(st.integers(0, 1_000_000), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1))
@settings(max_examples=25)
def test_no_window_exceeds_its_limit_while_clocks_jump(seed: int, replicas: int, jumps: int, kills: int) -> None:
    """Whatever the clocks say, each window of each rule stays within its limit; all is counted in the end."""
    world_with_jumps(seed, replicas, jumps, kills).run()


def test_clocks_that_jump_use_more_windows_than_one() -> None:
    """The simulation above does what it says: jumps bring requests into minutes that nobody else is in."""
    minutes = set()
    for seed in range(6):
        world = world_with_jumps(seed, 2, 6)
        world.run()
        minutes |= {key.rpartition("@")[2] for key, used in world.truth.items() if key.startswith("pace/") and used}
    assert len(minutes) > 3, minutes
