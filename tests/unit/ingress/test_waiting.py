"""The waiting room: who goes first, how long, how many, and what the meter is told of it."""

from __future__ import annotations

from ingress.core.admission import Registry
from ingress.core.plan import Plan
from ingress.core.waiting import Ticket
from schemas.published import WAITING_PER_ROW
from schemas.quota import Member, RowState, Weight
from schemas.usage import Want
from tests.unit.ingress.governed import (
    EPOCH,
    INSTANCE,
    START_MS,
    denied,
    held,
    install,
    member_of,
    plan_of,
    resolver_of,
    snapshot_of,
)

HALF = Weight(1, 2, 0)
MEMBERS = [Member(INSTANCE, EPOCH, 0, HALF), Member("other", 1, 0, Weight(1, 2, 1))]
TOKENS = f"team-minute/tokens/org=acme,team=search/minute@{START_MS // 1000}+60"
REQUESTS = TOKENS.replace("tokens", "requests")


class Desk:
    """A replica with half of a limit of 1000 tokens and 10 requests, and requests that wait there."""

    def __init__(self) -> None:
        self.registry = member_of(Registry(1), HALF)
        self.plan = plan_of(resolver_of(registry=self.registry))
        self.room = self.registry.waiting
        self.number = 1

    def ask(self, tokens: int, *, tier: int = 1, until_ms: int = START_MS + 250, plan: Plan | None = None) -> Ticket:
        """Let a request wait that there is no room for."""
        plan = plan or self.plan
        ticket = Ticket(plan, tokens, 0, 0, 0, tier=tier, since_ms=START_MS, until_ms=until_ms)
        assert self.room.add(ticket, denied(plan.admit(START_MS, tokens, 0)))
        return ticket

    def give(self, right: int, key: str = TOKENS, *, net: int = 0, limit: int = 1000) -> None:
        """Install a right, as a snapshot brings it."""
        self.number += 1
        state = RowState(key, net, 0, limit, [right, limit - right], [net, 0])
        install(self.registry, snapshot_of([state], fence=self.number, number=self.number, full=False, members=MEMBERS))

    def serve(self, now_ms: int = START_MS + 1) -> list[Ticket]:
        """Return who goes on."""
        served = self.room.serve(now_ms)
        for _, outcome in served:
            held(outcome)
        return [ticket for ticket, _ in served]


def test_room_is_given_by_tier_and_then_by_arrival() -> None:
    """Critical requests pass those before them; within a tier nobody passes."""
    desk = Desk()
    late, first, second = desk.ask(600, tier=2), desk.ask(600), desk.ask(600)
    critical = desk.ask(600, tier=0)
    assert [desk.room.position(ticket) for ticket in (critical, first, second, late)] == [1, 2, 3, 4]
    for room in (600, 1_200, 1_800, 2_400):
        desk.give(room, limit=4_000)
        desk.plan._specs[1].ceiling.limit = 4_000
        desk.registry.changed()
        [served] = desk.serve()
        assert served is [critical, first, second, late][room // 600 - 1]
        assert desk.room.position(served) == 0
    assert len(desk.room) == 0


def test_a_small_request_does_not_pass_a_large_one_that_waits_before_it() -> None:
    """Who needs much is not kept waiting for ever by who needs little."""
    desk = Desk()
    large, small = desk.ask(900), desk.ask(501)
    desk.give(600)
    assert desk.serve() == []
    desk.give(950)
    [(first, outcome), (second, refusal)] = desk.room.serve(START_MS + 1)
    assert (first, second) == (large, small)
    held(outcome)
    assert not denied(refusal).may_wait, "900 of 1000 are gone"
    assert (len(desk.room), desk.room.next_deadline_ms) == (0, None)


def test_who_has_waited_long_enough_is_refused_wherever_it_stands() -> None:
    """Its refusal says what is short now; the others stay in line."""
    desk = Desk()
    stays, leaves = desk.ask(900, until_ms=START_MS + 500), desk.ask(600, until_ms=START_MS + 200)
    assert desk.room.next_deadline_ms == START_MS + 200
    assert desk.room.serve(START_MS + 199) == []
    [(ticket, outcome)] = desk.room.serve(START_MS + 200)
    assert ticket is leaves
    assert denied(outcome).row == TOKENS
    assert desk.room.next_deadline_ms == START_MS + 500
    assert desk.room.position(stays) == 1


def test_nobody_waits_for_what_can_never_come() -> None:
    """When all replicas together have no room either, waiting ends at once."""
    desk = Desk()
    ticket = desk.ask(600)
    state = RowState(TOKENS, 600, 0, 1000, [400, 600], [0, 600])
    install(desk.registry, snapshot_of([state], fence=2, number=2, full=False, members=MEMBERS))
    [(left, outcome)] = desk.room.serve(START_MS + 1)
    assert left is ticket
    assert not denied(outcome).may_wait


def test_a_line_has_an_end() -> None:
    """Beyond it a request is refused rather than kept; a rule may set a nearer end."""
    desk = Desk()
    for _ in range(WAITING_PER_ROW):
        desk.ask(501)
    refusal = denied(desk.plan.admit(START_MS, 501, 0))
    more = Ticket(desk.plan, 501, 0, 0, 0, tier=0, since_ms=START_MS, until_ms=START_MS + 250)
    assert not desk.room.add(more, refusal)
    assert len(desk.room) == WAITING_PER_ROW
    short = Desk()
    short.ask(501)
    few = Ticket(short.plan, 501, 0, 0, 0, tier=1, since_ms=START_MS, until_ms=START_MS + 250, most=1)
    assert not short.room.add(few, refusal)


def test_who_is_short_in_two_rows_wants_room_in_both_at_once() -> None:
    """It waits at one after the other, and asks in both from the beginning; what it has got it wants no more."""
    desk = Desk()
    for _ in range(5):
        held(desk.plan.admit(START_MS, 0, 0))  # half of the ten requests of a minute
    ticket = Ticket(desk.plan, 600, 0, 0, 0, tier=1, since_ms=START_MS, until_ms=START_MS + 250)
    refusal = denied(desk.plan.admit(START_MS, 600, 0))
    assert desk.room.add(ticket, refusal)
    first = refusal.row
    second = REQUESTS if first == TOKENS else TOKENS
    both = {TOKENS: 600, REQUESTS: 1}
    assert {want.row: want.amount for want in desk.registry.wants(0)} == both
    rights = {TOKENS: (1000, 1000, 0), REQUESTS: (10, 10, 5)}
    right, limit, net = rights[first]
    desk.give(right, first, limit=limit, net=net)
    assert desk.serve() == []
    assert {want.row: want.amount for want in desk.registry.wants(0)} == {first: 0}
    assert desk.room.position(ticket) == 1
    right, limit, net = rights[second]
    desk.give(right, second, limit=limit, net=net)
    assert desk.serve() == [ticket]
    assert {want.row: want.amount for want in desk.registry.wants(0)} == {second: 0}


def test_who_leaves_wants_nothing_anywhere() -> None:
    """Time up, or client gone: no want stays behind in a row where it did not wait."""
    desk = Desk()
    for _ in range(5):
        held(desk.plan.admit(START_MS, 0, 0))
    ticket = Ticket(desk.plan, 600, 0, 0, 0, tier=1, since_ms=START_MS, until_ms=START_MS + 250)
    assert desk.room.add(ticket, denied(desk.plan.admit(START_MS, 600, 0)))
    assert {want.amount for want in desk.registry.wants(0)} == {600, 1}
    desk.room.cancel(ticket)
    assert [want.amount for want in desk.registry.wants(0)] == [0, 0]


def test_a_want_is_told_once_and_whenever_it_changes() -> None:
    """The room for all of them and for the first; nothing more once nobody waits."""
    desk = Desk()
    asked: list[int] = []
    desk.room.on_want = asked.append
    first, second = desk.ask(600), desk.ask(700)
    assert asked == [0, 0]
    assert desk.registry.wants(0) == [Want(TOKENS, 1_300, 600, 1000)]
    assert desk.registry.wants(0) == []
    desk.room.cancel(first)
    assert desk.registry.wants(0) == [Want(TOKENS, 700, 700, 1000)]
    desk.room.cancel(second)
    desk.room.cancel(second)
    assert desk.registry.wants(0) == [Want(TOKENS, 0, 0, 1000)]
    assert desk.registry.wants(0) == []


def test_room_that_may_have_come_is_looked_at_once() -> None:
    """A snapshot and a settlement stir the room; while nobody waits nothing does."""
    desk = Desk()
    stirs: list[None] = []
    desk.room.on_stir = lambda: stirs.append(None)
    hold = held(desk.plan.admit(START_MS, 400, 0))
    desk.give(500, net=0)
    assert not stirs
    ticket = desk.ask(450)
    hold.settle(1, 10, 0)
    assert (desk.room.stirred, len(stirs)) == (True, 1)
    desk.give(500, net=0)
    assert len(stirs) == 1
    assert desk.serve() == [ticket]
    assert not desk.room.stirred


def test_a_request_that_goes_on_claims_room_behind_those_that_wait() -> None:
    """A stream wants more as well; its claim ends with it."""
    desk = Desk()
    held(desk.plan.admit(START_MS, 1, 0))
    row = desk.plan.find_row(TOKENS)
    assert row is not None
    desk.ask(600)
    stream = object()
    desk.room.claim(row, stream, 50)
    assert desk.registry.wants(0) == [Want(TOKENS, 650, 600, 1000)]
    desk.room.claim(row, stream, 0)
    assert desk.registry.wants(0) == [Want(TOKENS, 600, 600, 1000)]
