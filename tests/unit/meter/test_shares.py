"""Shares: equal in the end, and never more than everything on the way."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from meter.core.runs import RunState
from meter.core.shares import Granted, Share, balanced, forget_unused, move, takes_part, weight_of
from schemas.quota import NO_WEIGHT, Weight


def members(count: int) -> list[RunState]:
    """Return members in join order that know everything and have no share yet."""
    made = [RunState((f"i{number}", 1), 1) for number in range(count)]
    for member in made:
        member.ack = 1
    return made


def test_a_share_is_a_weight_that_the_slots_tell_apart() -> None:
    """What does not divide goes to the lower slots; no share is no weight."""
    assert weight_of(Share(3, 0)) == Weight(1, 3, 2)
    assert [weight_of(Share(3, slot)).share(8) for slot in range(3)] == [3, 3, 2]
    assert weight_of(None) is NO_WEIGHT


def test_the_first_member_has_everything_at_once() -> None:
    """Nobody else can be using anything."""
    [only] = members(1)
    assert move([only], 1)
    assert only.grants == [Granted(1, Share(1, 0))]
    assert balanced([only])


def test_a_member_that_does_not_know_the_rows_takes_nothing_from_the_others() -> None:
    """It joined at fence 5 and has acknowledged nothing since: the others keep what they have."""
    [old] = members(1)
    move([old], 1)
    new = RunState(("new", 1), 5)
    new.ack = 4
    assert not move([old, new], 6)
    assert not balanced([old, new])
    new.ack = 5
    assert move([old, new], 7)
    assert old.grants[-1].share == Share(2, 0)


def test_a_joiner_waits_until_the_others_have_installed_less() -> None:
    """The old member is lowered at once; the new one gets its share with the acknowledgement."""
    old, new = members(2)
    move([old], 2)
    move([old, new], 5)
    assert old.grants[-1] == Granted(5, Share(2, 0))
    assert new.grants[-1].share is None
    old.ack = 4
    forget_unused(old)
    assert not move([old, new], 7)
    old.ack = 5
    forget_unused(old)
    assert move([old, new], 9)
    assert new.grants[-1] == Granted(9, Share(2, 1))
    assert not balanced([old, new])
    new.ack = 9
    forget_unused(new)
    assert balanced([old, new])


def test_a_member_that_leaves_frees_its_share_at_once() -> None:
    """All others only gain, so there is nothing to wait for."""
    three = members(3)
    for number, member in enumerate(three):
        member.grants = [Granted(1, Share(3, number))]
    left = [three[0], three[2]]
    assert move(left, 9)
    assert [member.grants[-1].share for member in left] == [Share(2, 0), Share(2, 1)]


def test_incomparable_shares_are_lowered_below_both_first() -> None:
    """One left and two came: more slots, a better slot. The way there leads over a share that is within both."""
    first, second, third = members(3)
    first.grants = [Granted(1, Share(2, 1))]
    assert move([first, second, third], 9)
    assert first.grants[-1].share == Share(3, 1)
    first.ack = 9
    forget_unused(first)
    assert move([first, second, third], 11)
    assert [member.grants[-1].share for member in (first, second, third)] == [Share(3, 0), Share(3, 1), Share(3, 2)]


def test_a_member_takes_part_once_it_knows_the_rows_or_has_a_share() -> None:
    """What it acknowledged has to be from after its joining; a share that it has stays counted whatever it knows."""
    member = RunState(("new", 1), 5)
    member.ack = 4
    assert not takes_part(member)
    member.ack = 5
    assert takes_part(member)
    member.grants.append(Granted(9, Share(1, 0)))
    assert takes_part(member)


STEPS = st.lists(st.tuples(st.sampled_from(["join", "leave", "ack", "ack", "ack"]), st.integers(0, 9)), max_size=40)


@given(STEPS, st.integers(1, 200))
def test_whatever_may_be_in_use_never_sums_over_the_headroom(steps: list[tuple[str, int]], headroom: int) -> None:
    """Joins, leaves and acknowledgements of any published fence, in any order; at rest everyone has a share."""
    live: list[RunState] = []
    fence = 1
    for step, number in steps:
        fence += 1
        if step == "join" and len(live) < 6:
            live.append(RunState((f"i{fence}", 1), fence))
        elif step == "leave" and live:
            live.pop(number % len(live))
        elif live:
            member = live[number % len(live)]
            member.ack = max(member.ack, fence - 1 - number)
            forget_unused(member)
        move(live, fence)
        most = sum(max(weight_of(grant.share).share(headroom) for grant in member.grants) for member in live)
        assert most <= headroom
    for _ in range(4):
        fence += 1
        for member in live:
            member.ack = fence - 1
            forget_unused(member)
        move(live, fence)
    for member in live:
        member.ack = fence
        forget_unused(member)
    assert balanced(live)
