"""The ladder of a rule: where rungs begin, what each does, and how throttled requests are paced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.core.ladder import (
    BLOCK,
    GOES_ON,
    MAX_PACE_MS,
    Judged,
    Pacer,
    free_room,
    grace_limit,
    interval_ms,
    judge,
    rung,
    seen_limit,
)

FULL = ((80, "warn"), (90, "throttle"), (95, "downgrade"), (100, "block"))


@pytest.mark.parametrize(
    ("used", "action"),
    [
        (0, ""), (80, ""), (81, "warn"), (90, "warn"), (91, "throttle"), (95, "throttle"), (96, "downgrade"),
        (100, "downgrade"), (101, "block"), (500, "block"),
    ],
)  # fmt: skip
def test_highest_rung_that_has_begun_applies(used: int, action: str) -> None:
    """A rung begins beyond its percentage, whatever the order in which the rungs are written."""
    assert rung(FULL, used, 100) == action
    assert rung(FULL[::-1], used, 100) == action


@pytest.mark.parametrize("rungs", [(), ((80, "warn"),), ((80, "warn"), (90, "throttle")), ((105, "queue"),)])
def test_a_limit_blocks_even_where_no_rung_says_so(rungs: tuple[tuple[int, str], ...]) -> None:
    """Beyond 100 % a rule refuses; up to it, its rungs alone decide."""
    assert rung(rungs, 101, 100) == "block"
    assert rung(rungs, 100, 100) != "block"


def test_a_rung_beyond_the_limit_can_refuse_in_another_way() -> None:
    """A queue or a downgrade takes the place of the block, until a block comes later."""
    assert rung(((100, "queue"),), 150, 100) == "queue"
    assert rung(((50, "downgrade"),), 150, 100) == "downgrade"
    assert rung(((100, "downgrade"), (120, "block")), 119, 100) == "downgrade"
    assert rung(((100, "downgrade"), (120, "block")), 121, 100) == "block"


@given(
    st.lists(st.tuples(st.integers(1, 130), st.sampled_from(["warn", "throttle", "downgrade", "queue", "block"]))),
    st.integers(0, 2_000),
    st.integers(0, 1_000),
)
def test_free_room_is_exactly_what_no_rung_touches(rungs: list[tuple[int, str]], used: int, limit: int) -> None:
    """What the fast path may give away stands on no rung, and one more does, unless the limit itself is in the way."""
    ladder = tuple(rungs)
    free = free_room(ladder, used, limit)
    if used <= limit and (free or not rung(ladder, used, limit)):
        assert rung(ladder, used + free, limit) == ""
        assert rung(ladder, used + free + 1, limit) != ""
    else:
        assert free == 0


@pytest.mark.parametrize(
    ("mode", "used", "judged"),
    [
        ("enforce", 80, GOES_ON),
        ("enforce", 85, Judged(note="warn", rung="warn")),
        ("enforce", 93, Judged("throttle", rung="throttle")),
        ("enforce", 97, Judged("downgrade", rung="downgrade")),
        ("enforce", 101, Judged("block", rung="block")),
        ("soft", 85, Judged(note="warn", rung="warn")),
        ("soft", 93, Judged(note="soft", rung="throttle")),
        ("soft", 999, Judged(note="soft", rung="block")),
        ("shadow", 85, GOES_ON),
        ("shadow", 93, Judged(note="shadow", rung="throttle")),
        ("shadow", 999, Judged(note="shadow", rung="block")),
    ],
)
def test_modes(mode: str, used: int, judged: Judged) -> None:
    """Soft rules warn and record, shadow rules record what they would have done; neither ever holds a request up."""
    assert judge(FULL, used, 100, mode=mode) == judged


@pytest.mark.parametrize(
    ("tier", "used", "judged"),
    [
        (0, 100, GOES_ON),
        (0, 101, Judged(note="grace", rung="block")),
        (0, 105, Judged(note="grace", rung="block")),
        (0, 106, Judged("block", rung="block")),
        (1, 101, Judged("block", rung="block")),
        (2, 101, Judged("block", rung="block")),
    ],
)
def test_grace_is_for_tier_0_alone(tier: int, used: int, judged: Judged) -> None:
    """Critical work may go a little beyond the limit; that is recorded, and it ends."""
    assert judge(BLOCK, used, 100, grace_percent=5, tier=tier) == judged


def test_rungs_that_a_request_has_passed_only_warn_up_to_the_limit() -> None:
    """Who was throttled, or has no other model, goes on to the limit and not beyond it."""
    passed = frozenset({"throttle", "downgrade"})
    assert judge(FULL, 93, 100, passed=passed) == Judged(note="warn", rung="throttle")
    assert judge(FULL, 100, 100, passed=passed) == Judged(note="warn", rung="downgrade")
    assert judge(((95, "downgrade"), (110, "downgrade")), 120, 100, passed=passed).action == "block"


def test_limits_by_tier() -> None:
    """What is withheld and what is given beyond the limit are whole units, never in favour of the request."""
    assert [seen_limit(10, percent) for percent in (0, 20, 30, 100)] == [10, 8, 7, 0]
    assert [grace_limit(10, 5, tier) for tier in (0, 1)] == [10, 10]
    assert [grace_limit(1_000, 5, tier) for tier in (0, 1, 2)] == [1_050, 1_000, 1_000]


def test_what_is_left_is_spread_over_the_time_that_is_left() -> None:
    """Ten units over ten seconds are one a second; without room or time there is nothing to spread."""
    assert interval_ms(1, 10, 10_000) == 1_000
    assert interval_ms(5, 10, 10_000) == 5_000
    assert interval_ms(20, 10, 10_000) == 10_000
    assert interval_ms(1, 0, 10_000) == 10_000
    assert interval_ms(1, 10, 0) == 0


def test_throttled_requests_follow_each_other_and_never_wait_longer_than_the_bound() -> None:
    """Each takes its share of the time after the one before it; a crowd is slowed down, not walled off."""
    pacer = Pacer()
    assert [pacer.delay_ms("r", 100, 0) for _ in range(3)] == [100, 200, 300]
    assert pacer.delay_ms("other", 100, 0) == 100
    assert pacer.delay_ms("r", 100, 1_000) == 100
    assert [pacer.delay_ms("r", 60_000, 1_000) for _ in range(3)] == [MAX_PACE_MS] * 3


def test_pacer_remembers_a_bounded_number_of_rows() -> None:
    """Rows whose time has passed are forgotten first."""
    pacer = Pacer(most=3)
    for number in range(3):
        pacer.delay_ms(f"r{number}", 100 * (number + 1), 0)
    pacer.delay_ms("new", 500, 150)
    assert len(pacer) == 3
    assert pacer.delay_ms("r2", 100, 150) == 250
    for number in range(10):
        pacer.delay_ms(f"later{number}", 500, 160)
    assert len(pacer) == 3
