"""The waiting room on an event loop: looked at when something has stirred or somebody's time is up, never else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ingress.adapters.driver import wall_clock_ms
from ingress.adapters.waiting import Waiting
from ingress.core.admission import Registry
from ingress.core.plan import Hold, Plan
from ingress.core.verdicts import Denied
from ingress.core.waiting import Ticket, WaitingRoom
from tests.unit.ingress.governed import denied, held, install, member_of, plan_of, resolver_of, snapshot_of

POLICY = """
orgs: {acme: {teams: [search]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models: {small: {provider: sim}}
limits: [{name: few, per: [org], concurrency: 2, ladder: {100%: queue}, queue: {wait: 1s, most: 9}}]
"""


class CountedRoom(WaitingRoom):
    """A waiting room that knows how often it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def serve(self, now_ms: int) -> list[tuple[Ticket, Hold | Denied]]:
        self.looks += 1
        return super().serve(now_ms)


class Guest:
    """Somebody who waits, and notes what came of it."""

    def __init__(self) -> None:
        self.outcomes: list[Hold | Denied | str] = []
        self.ended = asyncio.Event()

    def served(self, outcome: Hold | Denied) -> None:
        self.outcomes.append(outcome)
        self.ended.set()

    def drain(self) -> None:
        self.outcomes.append("drained")
        self.ended.set()

    async def end(self) -> None:
        async with asyncio.timeout(5):
            await self.ended.wait()


class Place:
    """A full limit, and the room before it."""

    def __init__(self) -> None:
        self.registry = Registry(1)
        self.room = self.registry.waiting = CountedRoom()
        for shard in self.registry.shards:
            shard.waiting = self.room
        member_of(self.registry)
        self.plan: Plan = plan_of(resolver_of(POLICY, registry=self.registry))
        self.holds = [held(self.plan.admit(wall_clock_ms(), 1, 1)) for _ in range(2)]
        self.waiting = Waiting(self.room, wall_clock_ms)

    def enter(self, wait_ms: int, tier: int = 1) -> tuple[Guest, Ticket, int]:
        now_ms = wall_clock_ms()
        why = denied(self.plan.admit(now_ms, 1, 1))
        ticket = Ticket(self.plan, 1, 1, 0, 0, tier=tier, since_ms=now_ms, until_ms=now_ms + wait_ms)
        guest = Guest()
        return guest, ticket, self.waiting.enter(ticket, why, guest)


async def _turns(count: int, after: Callable[[], None] | None = None) -> None:
    for _ in range(count):
        if after is not None:
            after()
        await asyncio.sleep(0)


async def test_one_look_a_turn_however_much_has_stirred() -> None:
    """Two ends in one turn of the loop are one look, and each frees a place."""
    place = Place()
    guests = [place.enter(5_000)[0] for _ in range(3)]
    for hold in place.holds:
        hold.settle(1, 1, 1)
    assert place.room.looks == 0
    await _turns(2)
    assert place.room.looks == 1
    assert [len(guest.outcomes) for guest in guests] == [1, 1, 0]
    assert len(place.waiting) == 1
    place.waiting.drain()


async def test_nobody_looks_while_nothing_happens() -> None:
    """Between entry and deadline there is no polling; the deadline is one look."""
    place = Place()
    guest, _, position = place.enter(60)
    await guest.end()
    (outcome,) = guest.outcomes
    assert isinstance(outcome, Denied)
    assert (position, place.room.looks, len(place.waiting), len(place.room)) == (1, 1, 0, 0)


async def test_earlier_deadline_comes_first() -> None:
    """One timer, always at the next deadline, whoever came first."""
    place = Place()
    late, _, _ = place.enter(5_000)
    early, _, position = place.enter(40)
    assert position == 2
    await early.end()
    assert late.outcomes == []
    place.waiting.drain()
    assert late.outcomes == ["drained"]


async def test_snapshot_that_brings_room_is_looked_at_in_the_same_turn() -> None:
    """Installing is what stirs; who waits goes on at once."""
    place = Place()
    guest, _, _ = place.enter(5_000)
    place.holds[0].settle(1, 1, 1)
    install(place.registry, snapshot_of(number=2, fence=2), wall_clock_ms())
    await _turns(2)
    assert isinstance(guest.outcomes[0], Hold)
    assert place.room.looks == 1


async def test_who_leaves_is_not_served_and_wants_nothing() -> None:
    """A place that was left goes to the next, and the meter is told what is still wanted."""
    place = Place()
    first, ticket, _ = place.enter(5_000)
    second, _, _ = place.enter(5_000)
    (row,) = [row for row in place.registry.shards[0].rows.values() if row.want]
    assert row.want == 2
    place.waiting.leave(ticket)
    place.waiting.leave(ticket)
    assert row.want == 1
    place.holds[0].settle(1, 1, 1)
    await second.end()
    assert first.outcomes == []
    assert row.want == 0


async def test_nobody_gets_in_after_the_drain() -> None:
    """A stopping replica refuses at once what would have to wait."""
    place = Place()
    place.waiting.drain()
    assert place.enter(5_000)[2] == 0
    assert len(place.room) == 0
