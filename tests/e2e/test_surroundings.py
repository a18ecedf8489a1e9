"""Clocks that jump and a replica that is cut off from the broker for longer than its lease, done to real processes."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, eventually, policy
from tests.e2e.test_failures import LIMIT, LIMITS, Client, counted, enough_of_the_hour
from tests.surroundings import Surroundings

pytestmark = pytest.mark.slow

REPLICAS = 2
HOUR_S = 3_600
FENCE_S, LEASE_S = 54, 60
"""A replica stops by itself after the one without an acknowledgement; others may have its right after the other."""


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[Surroundings]:
    """Yield surroundings for the processes of a stack; proxies end with the test."""
    place = tmp_path / "surroundings"
    place.mkdir()
    made = Surroundings(place)
    yield made
    made.close()


def started(new_stack: Callable[..., Stack], surroundings: Surroundings, org: str) -> Stack:
    """Return a running stack of two replicas in `surroundings`."""
    eventually(enough_of_the_hour, 120)
    stack = new_stack(ingress=REPLICAS)
    stack.surroundings = surroundings.environment
    stack.up()
    stack.apply(policy(LIMITS, org=org))
    return stack


def used_by_row(stack: Stack, client: Client) -> dict[str, int]:
    """Return what the history has in each row of the client's limit, every event once; all ledgers agree."""
    verified = stack.json("verify")
    assert verified["ok"] is True, verified
    rows = counted(stack, client)
    events = collections.Counter(row["event"] for row in rows)
    assert set(events) >= set(client.passed), "an answer is not counted"
    assert set(events.values()) <= {1}, "an answer is counted twice"
    used: collections.Counter[str] = collections.Counter()
    for row in rows:
        used[row["row"]] += int(row["charge_requests"])
    return dict(used)


def test_clocks_that_jump_open_other_windows_and_each_keeps_its_limit(
    new_stack: Callable[..., Stack], surroundings: Surroundings, org: str
) -> None:
    """An hour on, two back, on a replica and on the meter: each hour keeps its limit, and an old one stays shut."""
    replica, meter = surroundings.clock("ingress-2"), surroundings.clock("meter")
    stack = started(new_stack, surroundings, org)
    client = Client(stack, org, 1)
    for index in range(REPLICAS):
        eventually(functools.partial(client.passes, index, 1))
    jumps: list[tuple[float, float]] = [(HOUR_S, 0), (-HOUR_S, 0), (0.7, HOUR_S), (-HOUR_S, -HOUR_S), (0, 0)]
    for replica_s, meter_s in jumps:
        replica.ahead(replica_s)
        meter.ahead(meter_s)
        for index in (1, 0, 1):
            answers = collections.Counter(answer.status for answer in client.send(index, LIMIT // 2))
            assert set(answers) <= {200, 429, 503}, answers
        eventually(stack.is_well, 30)
    for index in range(REPLICAS):
        client.passes(index, LIMIT)
    used = used_by_row(stack, client)
    assert list(used.values()) == [LIMIT, LIMIT], f"this hour's and the next one's, which the clock jumped into: {used}"


def test_a_replica_that_is_cut_off_stops_by_itself_and_its_right_goes_to_the_others(
    new_stack: Callable[..., Stack], surroundings: Surroundings, org: str
) -> None:
    """It is refused after 54 s though its clock was set back; beyond the limit goes only what nobody could hear of."""
    clock = surroundings.clock("ingress-2")
    way = surroundings.proxy("ingress-2")
    stack = started(new_stack, surroundings, org)
    quiet, busy, unlimited = (Client(stack, org, tier) for tier in (1, 1, 2))
    for client in (quiet, busy, unlimited):
        for index in range(REPLICAS):
            eventually(functools.partial(client.passes, index, 1))
    assert way.frames, "the replica reaches the broker by the proxy"
    way.cut()
    began = time.monotonic()
    unheard = busy.passes(1, LIMIT)
    assert 0 < unheard < LIMIT
    clock.ahead(-30)
    assert busy.passes(1, 5) == 0, "its right is used up, and its clock does not give it another one"
    eventually(lambda: unlimited.send(1)[0].status == 503, LEASE_S)
    assert FENCE_S - 5 < time.monotonic() - began < LEASE_S, "late, and before anybody else may have its right"
    eventually(lambda: quiet.passes(0, LIMIT) == 0 and len(quiet.passed) == LIMIT, 30)
    busy.passes(0, LIMIT)
    assert LIMIT <= len(busy.passed) <= LIMIT + unheard
    way.mend()
    eventually(stack.is_well, 60)
    assert quiet.passes(1, 5) == 0
    assert busy.passes(1, 5) == 0
    assert list(used_by_row(stack, quiet).values()) == [LIMIT]
    assert list(used_by_row(stack, busy).values()) == [len(busy.passed)]
