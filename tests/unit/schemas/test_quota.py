"""Shares: the three properties that the proof of the bound rests on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.quota import NO_WEIGHT, Weight


def _slots(count: int) -> list[Weight]:
    return [Weight(1, count, count - 1 - slot) for slot in range(count)]


@given(st.integers(1, 40), st.integers(-(10**6), 10**15))
def test_shares_of_a_headroom_sum_to_it_and_never_to_more(count: int, headroom: int) -> None:
    """All slots together hold exactly the headroom, or nothing of a negative one."""
    assert sum(weight.share(headroom) for weight in _slots(count)) == max(0, headroom)


@given(st.integers(1, 40), st.integers(0, 10**9))
def test_a_share_grows_by_at_most_one_with_the_headroom_and_never_falls(count: int, headroom: int) -> None:
    """One unit more of headroom is at most one unit more of each share."""
    for weight in _slots(count):
        assert weight.share(headroom + 1) - weight.share(headroom) in (0, 1)


def test_no_weight_has_no_share() -> None:
    """A replica that has not been given a slot may admit nothing."""
    assert NO_WEIGHT.share(10**12) == 0
