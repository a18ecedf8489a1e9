"""Laws of waiting at the cap: whatever happens in whatever order, each request ends once and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.core.admission import Registry
from ingress.core.admitting import ADMITTED, DONE, ENDING, SENT, WAITING
from ingress.core.exchange import Exchange
from ingress.core.keyring import Keyring
from ingress.core.ports import Context, Target
from ingress.core.protocols import OPENAI_CHAT
from ingress.core.stats import Stats
from ingress.core.verdicts import Denied
from ingress.core.waiting import Ticket
from schemas.batches import Sighting
from schemas.codec import decode_event
from schemas.quota import Weight
from tests.unit.ingress.governed import SECRET, START_MS, install, key_of, member_of, resolver_of, snapshot_of
from tests.unit.ingress.playbook import ANSWER

POLICY = """
orgs: {acme: {teams: [search]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models:
  small: {provider: sim, downgrade: tiny}
  tiny: {provider: sim}
limits:
  - {name: few, per: [org], concurrency: 4, ladder: {100%: queue}, queue: {wait: 2s, most: 3}}
  - {name: some, match: {model: small}, per: [org], rpm: 12, ladder: {50%: throttle, 75%: downgrade, 100%: block}}
  - {name: all, per: [org], rpm: 16, ladder: {60%: warn}}
"""
MOST_AT_ONCE = 4
BODY = msgspec.json.encode({"model": "small", "messages": [], "max_tokens": 5})
HALF = Weight(1, 2, 0)


class Desk:
    """One exchange, and what it asks of the world; everything waits until the world plays it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.terminals = self.admissions = self.answers = 0
        self.ticket: Ticket | None = None
        self.due_ms: int | None = None
        self.exchange = Exchange(world.context, self, OPENAI_CHAT, b"", world.now_ms)
        self.exchange.begin([(b"x-api-key", SECRET), (b"content-type", b"application/json")], world.now_ms)
        self.exchange.complete(BODY, world.now_ms)

    def record_admitted(self, partition: int, event: bytes, decisions: tuple[bytes, ...]) -> None:
        assert decode_event(event).status == "unknown"
        self.admissions += 1

    def record_terminal(self, partition: int, event: bytes, decisions: tuple[bytes, ...]) -> None:
        self.terminals += 1

    def wait(self, delay_ms: int) -> None:
        assert self.ticket is None
        assert self.due_ms is None
        self.due_ms = self.world.now_ms + delay_ms

    def enter(self, ticket: Ticket, denied: Denied) -> int:
        assert self.ticket is None
        assert self.due_ms is None
        room = self.world.registry.waiting
        if not room.add(ticket, denied):
            return 0
        self.ticket = ticket
        self.world.waiting[ticket] = self
        return room.position(ticket)

    def leave(self) -> None:
        if self.ticket is not None:
            self.world.registry.waiting.cancel(self.ticket)
            del self.world.waiting[self.ticket]
        self.ticket = self.due_ms = None

    def send_request(self, origin: Any, request: bytes) -> None:
        pass

    def record_attempt(self, partition: int, event: bytes) -> None:
        raise AssertionError("nobody follows here")

    def tell(self, sighting: Sighting) -> None:
        raise AssertionError("nobody asks for batches here")

    def is_sent(self) -> bool:
        return True

    def read_on(self, most_ms: int) -> bool:
        return False

    def cancel_request(self) -> None:
        pass

    def send_whole(self, status: int, lines: bytes, body: bytes) -> None:
        self.answers += 1

    def send_head(self, status: int, lines: bytes) -> None:
        raise AssertionError("nothing streams here")

    def send_data(self, data: bytes) -> None:
        raise AssertionError("nothing streams here")

    def send_end(self, data: bytes) -> None:
        raise AssertionError("nothing streams here")

    def cut(self) -> None:
        raise AssertionError("nothing is cut here")


class World:
    """A replica with half of every limit, its clock, and the requests that are under way."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.registry = member_of(Registry(1), HALF)
        keyring = Keyring()
        keyring.put("k1", key_of())
        self.context = Context("ingress-1", 1, Stats(), self._new_id)
        self.context.closed = ""
        self.context.resolver = resolver_of(POLICY, registry=self.registry, keyring=keyring, prices={})
        self.context.target_of = lambda plan: Target("origin", b"/v1", b"host: up\r\n")
        self.waiting: dict[Ticket, Desk] = {}
        self.desks: list[Desk] = []
        self.numbers = 1

    def _new_id(self, now_ms: int) -> bytes:
        self.numbers += 1
        return self.numbers.to_bytes(16, "big")

    def play(self, fact: str, which: int) -> None:
        """Play one fact to the request, or to the replica."""
        if fact == "arrive":
            self.desks.append(Desk(self))
        elif fact == "look":
            self.look()
        elif fact in ("brief", "long"):
            self.now_ms += {"brief": 40, "long": 900}[fact]
            self._timers()
        elif fact in ("more", "less"):
            self.numbers += 1
            weight = Weight(1, 1, 0) if fact == "more" else HALF
            install(self.registry, snapshot_of(number=self.numbers, weight=weight, fence=self.numbers), self.now_ms)
        elif self.desks:
            self._play_to(self.desks[which % len(self.desks)], fact)
        for desk in self.desks:
            if desk.exchange.state == ENDING:
                desk.exchange.terminal_recorded()

    def _play_to(self, desk: Desk, fact: str) -> None:
        exchange = desk.exchange
        if exchange.state == DONE:
            return
        if fact == "recorded" and exchange.state == ADMITTED:
            exchange.admitted_recorded()
        elif fact == "answer" and exchange.state == SENT:
            exchange.provider_head(200, [(b"content-type", b"application/json")], self.now_ms)
            exchange.provider_data(ANSWER, self.now_ms)
            exchange.provider_end(self.now_ms)
        elif fact == "gone":
            exchange.client_gone(self.now_ms)
        elif fact == "drain":
            exchange.drain(self.now_ms)

    def look(self) -> None:
        for ticket, outcome in self.registry.waiting.serve(self.now_ms):
            desk = self.waiting.pop(ticket)
            desk.ticket = None
            desk.exchange.served(outcome, self.now_ms)
        assert (self.registry.waiting.next_deadline_ms or self.now_ms + 1) > self.now_ms

    def _timers(self) -> None:
        for desk in self.desks:
            if desk.due_ms is not None and desk.due_ms <= self.now_ms:
                desk.due_ms = None
                desk.exchange.woken(self.now_ms)
        if (self.registry.waiting.next_deadline_ms or self.now_ms + 1) <= self.now_ms:
            self.look()

    def check(self) -> None:
        """Assert what holds at any time."""
        waiting = [desk for desk in self.desks if desk.exchange.state == WAITING]
        assert self.context.stats.waiting == len(waiting)
        assert all((desk.ticket is None) is not (desk.due_ms is None) for desk in waiting)
        assert len(self.registry.waiting) == len(self.waiting) == sum(desk.ticket is not None for desk in waiting)
        assert all(desk.terminals + (desk.exchange.state < ENDING) == 1 for desk in self.desks)
        assert sum(desk.exchange.state in (ADMITTED, SENT) for desk in self.desks) <= MOST_AT_ONCE


FACTS = ("arrive", "arrive", "arrive", "look", "brief", "long", "more", "less", "recorded", "answer", "gone", "drain")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FACTS), st.integers(0, 30)), max_size=60))
def test_a_request_that_waits_ends_once_and_leaves_nothing(facts: list[tuple[str, int]]) -> None:
    """One terminal event, one end of the reservation, no ticket and no timer, for any order of what may happen."""
    world = World()
    for fact, which in facts:
        world.play(fact, which)
        world.check()
    for which in range(len(world.desks)):
        world.play("drain", which)
    for desk in list(world.desks):
        desk.exchange.client_gone(world.now_ms)
    world.play("look", 0)
    world.check()
    assert all(desk.exchange.state == DONE for desk in world.desks)
    assert len(world.registry.waiting) == 0
    assert world.context.stats.in_flight == 0
    world.registry.cut(0, 1)
    assert {row.inflight for row in world.registry.shards[0].rows.values()} <= {0}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12))
def test_nobody_waits_beyond_the_deadline(requests: int, steps: int) -> None:
    """However it goes on, after the longest wait of all each request has been admitted or refused."""
    world = World()
    for _ in range(requests):
        world.play("arrive", 0)
    for _ in range(steps):
        world.play("brief", 0)
    for _ in range(8):
        world.play("long", 0)
    assert not world.waiting
    assert all(desk.exchange.state in (ADMITTED, DONE) for desk in world.desks)
