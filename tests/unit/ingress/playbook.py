"""Plays facts to an exchange and keeps the effects: fakes of everything around it, none of them asynchronous."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from ingress.core.accounts import AccountExchange
from ingress.core.caps import NO_CAPS
from ingress.core.exchange import Exchange
from ingress.core.plan import Denied
from ingress.core.ports import Context, Target
from ingress.core.protocols import OPENAI_CHAT, Operation
from ingress.core.resolver import Refused
from ingress.core.stats import Stats
from ingress.core.verdicts import Note
from ingress.core.waiting import Ticket
from schemas.attempts import Drain, Fallback
from schemas.batches import Sighting
from schemas.codec import decode_event, decode_rows, encode_attribution, encode_rows
from schemas.decisions import Decision
from schemas.keys import VirtualKey
from schemas.money import Price, Rates
from schemas.usage import Attribution, UsageEvent

NOW = 1_800_000_000_000
PRICE = Price("test", "v1", (Rates(0, 150_000, 75_000, 187_500, 300_000, 600_000, 600_000, 150_000, 600_000),))
HEADERS = [(b"authorization", b"Bearer tw-good"), (b"content-type", b"application/json")]
LIMITS = b"x-ratelimit-limit-requests: 10\r\n"
USAGE = {"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40}
ANSWER = msgspec.json.encode({"id": "c", "model": "gpt-x-1", "choices": [], "usage": USAGE})


SHORT = Denied(
    "budget",
    rule="team-day",
    measure="cost",
    scope="org=acme,team=search",
    row="row-1",
    limit=2 * 10**9,
    used=2 * 10**9,
    asked=1,
)


class FakeHold:
    """A reservation that notes how it grew and how it ended; it grows until `room` is used up."""

    def __init__(self, tokens: int, nanos: int, room: int = 0, refusal: Denied = SHORT) -> None:
        self.reserved = (tokens, nanos)
        self.held = (tokens, nanos)
        self.room = room
        """Tokens that may still be added."""
        self.refusal = refusal
        self.is_beyond = False
        """Whether it took more than there was."""
        self.asked: list[tuple[int, int]] = []
        """Every extension that was asked for."""
        self.rows = encode_rows(["r/tokens/org=acme/minute@0+60"])
        self.settled: list[tuple[int, int, int]] = []
        self.notes: tuple[Note, ...] = ()

    def settle(self, requests: int, tokens: int, nanos: int) -> None:
        self.settled.append((requests, tokens, nanos))

    def extend(
        self, tokens: int, nanos: int, now_ms: int, *, tier: int = 1, goes_beyond: bool = False
    ) -> Denied | None:  # fmt: skip
        assert not self.settled
        self.asked.append((tokens, nanos))
        if tokens > self.room and not (goes_beyond and self.refusal.final_unit != "terminate"):
            return self.refusal
        self.is_beyond = self.is_beyond or tokens > self.room
        self.room -= tokens
        self.held = (self.held[0] + tokens, self.held[1] + nanos)
        return None


class FakePlan:
    """A plan that admits everything, or denies with `denied`, or says what `script` says before."""

    partition = 3
    provider = "sim"
    model = "gpt-x"
    max_output_tokens = 16_384
    caps = NO_CAPS
    downgrade = ""
    tier = 1
    drain: Drain | None = None
    fallback: Fallback | None = None
    attribution = encode_attribution(Attribution("acme", model="gpt-x"))

    def __init__(self, price: Price | None = PRICE) -> None:
        self.price = price
        self.reserve_price = price or PRICE
        self.denied: Denied | None = None
        self.script: list[Denied | tuple[Note, ...]] = []
        """What the next admissions come to: refusals, or what rules say of a request that goes on."""
        self.passed: list[frozenset[str]] = []
        """What each admission said that it had gone through."""
        self.holds: list[FakeHold] = []
        self.is_strict = self.cuts_off = False
        self.room = 0
        """What extensions may take."""
        self.refusal = SHORT
        """What they are refused with."""
        self.limits = LIMITS
        self.problem = ""

    def admit(
        self, now_ms: int, tokens: int, nanos: int, miss_tokens: int = 0, miss_nanos: int = 0,
        passed: frozenset[str] = frozenset(),
    ) -> FakeHold | Denied:  # fmt: skip
        self.passed.append(passed)
        said = self.script.pop(0) if self.script else ()
        if isinstance(said, Denied):
            return said
        if self.denied is not None:
            return self.denied
        self.holds.append(FakeHold(tokens, nanos, self.room, self.refusal))
        self.holds[-1].notes = said
        return self.holds[-1]

    def limits_header(self, now_ms: int) -> bytes:
        return self.limits

    def find_row(self, key: str) -> None:
        return None


class FakeResolver:
    """Knows the key `tw-good` and the model `gpt-x`, the model by the name `nick`, and what else is in `plans`."""

    policy_version = 7
    max_body_bytes = 1_000

    def __init__(self, plan: FakePlan, refused: Callable[..., Refused]) -> None:
        self.plans = {"gpt-x": plan, "nick": plan}
        self._refused = refused
        self.key = VirtualKey("k-1", "sha256:" + "0" * 64, "acme", team="search")
        self.gone: Refused | None = None

    def authenticate(self, secret: bytes, now_ms: int) -> VirtualKey | Refused:
        return self.key if secret == b"tw-good" else self._refused("unknown_key", 401)

    def account_model(self, key: VirtualKey, operation: str) -> str | Refused:
        return "gpt-x"

    def plan(self, key: VirtualKey, model: str, operation: str) -> FakePlan | Refused:
        return self.plans.get(model) or self._refused("unknown_model", 404)

    def withdrawn(self, key: VirtualKey, model: str, operation: str, now_ms: int) -> Refused | None:
        return self.gone


class Stage:
    """One exchange with everything around it; effects are kept in order, and the log answers when told to."""

    def __init__(self, operation: Operation = OPENAI_CHAT, *, plan: FakePlan | None = None, query: bytes = b"") -> None:
        self.plan = plan or FakePlan()
        self.effects: list[tuple[Any, ...]] = []
        self.events: list[UsageEvent] = []
        self.decisions: list[Decision] = []
        self.ticket: Ticket | None = None
        self.position = 1
        """The place that a request gets in the waiting room; 0: there is none."""
        self.is_on_its_way = self.may_read_on = True
        """Whether a request has left for its provider, and whether an answer may be read on without a client."""
        self._ids = 0
        context = Context("ingress-1", 4, Stats(), self._new_id)
        resolver: Any = FakeResolver(self.plan, refused)
        context.resolver = resolver
        context.closed = ""
        context.target_of = lambda plan: Target("origin", b"/v1", b"host: up\r\n", cast(FakePlan, plan).problem)
        self.context = context
        self.plans: dict[str, FakePlan] = resolver.plans
        kind = Exchange if operation.sees is None else AccountExchange
        self.exchange = kind(context, self, operation, query, NOW)

    def _new_id(self, now_ms: int) -> bytes:
        self._ids += 1
        return self._ids.to_bytes(16, "big")

    # -- effects -------------------------------------------------------------------------------------------------

    def record_admitted(self, partition: int, event: bytes, decisions: tuple[bytes, ...]) -> None:
        self.effects.append(("admitted", partition))
        self._keep(event, decisions)

    def record_terminal(self, partition: int, event: bytes, decisions: tuple[bytes, ...]) -> None:
        self.effects.append(("terminal", partition))
        self._keep(event, decisions)

    def _keep(self, event: bytes, decisions: tuple[bytes, ...]) -> None:
        self.events.append(decode_event(event))
        self.decisions += [msgspec.msgpack.decode(decision, type=Decision) for decision in decisions]

    def wait(self, delay_ms: int) -> None:
        self.effects.append(("wait", delay_ms))

    def enter(self, ticket: Ticket, denied: Denied) -> int:
        assert self.ticket is None
        if self.position:
            self.ticket = ticket
            self.effects.append(("enter", denied.row))
        return self.position

    def leave(self) -> None:
        self.ticket = None
        self.effects.append(("leave",))

    def send_request(self, origin: Any, request: bytes) -> None:
        self.effects.append(("request", origin, request))

    def record_attempt(self, partition: int, event: bytes) -> None:
        self.effects.append(("attempt", partition))
        self._keep(event, ())

    def tell(self, sighting: Sighting) -> None:
        self.effects.append(("tell", sighting))

    def is_sent(self) -> bool:
        return self.is_on_its_way

    def read_on(self, most_ms: int) -> bool:
        if self.may_read_on:
            self.effects.append(("read_on", most_ms))
        return self.may_read_on

    def cancel_request(self) -> None:
        self.effects.append(("cancel",))

    def send_whole(self, status: int, lines: bytes, body: bytes) -> None:
        self.effects.append(("whole", status, lines, body))

    def send_head(self, status: int, lines: bytes) -> None:
        self.effects.append(("head", status, lines))

    def send_data(self, data: bytes) -> None:
        self.effects.append(("data", data))

    def send_end(self, data: bytes) -> None:
        self.effects.append(("end", data))

    def cut(self) -> None:
        self.effects.append(("cut",))

    # -- facts ---------------------------------------------------------------------------------------------------

    def ask(self, body: bytes | dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Play a whole request."""
        self.exchange.begin(HEADERS if headers is None else headers, NOW)
        self.exchange.complete(body if isinstance(body, bytes) else msgspec.json.encode(body), NOW)

    def sent(self, **fields: Any) -> None:
        """Play a request up to the provider."""
        self.ask({"model": "gpt-x", "messages": [], **fields})
        self.exchange.admitted_recorded()

    def serve(self, outcome: Any, now_ms: int) -> None:
        """Play what comes of waiting in the room."""
        self.ticket = None
        self.exchange.served(outcome, now_ms)

    def answered(self, body: bytes, status: int = 200, content_type: bytes = b"application/json") -> None:
        """Play a whole answer of the provider."""
        self.exchange.provider_head(status, [(b"Content-Type", content_type)], NOW + 20)
        if body:
            self.exchange.provider_data(body, NOW)
        self.exchange.provider_end(NOW + 30)

    def streaming(self, *parts: bytes) -> None:
        """Play the head and some parts of a streamed answer."""
        self.exchange.provider_head(200, [(b"content-type", b"text/event-stream")], NOW + 20)
        for part in parts:
            self.exchange.provider_data(part, NOW)

    # -- what came of it -----------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Names of the effects in order."""
        return [effect[0] for effect in self.effects]

    @property
    def terminal(self) -> UsageEvent:
        """The terminal event; fails unless there is exactly one."""
        ended = [event for event in self.events if event.status != "unknown"]
        assert len(ended) == 1
        return ended[0]

    @property
    def hold(self) -> FakeHold:
        """The reservation; fails unless there is one and it has ended exactly once."""
        (hold,) = [hold for plan in {id(plan): plan for plan in self.plans.values()}.values() for hold in plan.holds]
        assert len(hold.settled) == 1
        return hold

    @property
    def told(self) -> tuple[int, bytes, Any]:
        """Status, header lines and decoded body of a whole answer."""
        (effect,) = [effect for effect in self.effects if effect[0] == "whole"]
        return effect[1], effect[2], msgspec.json.decode(effect[3])


def refused(reason: str, status: int) -> Refused:
    """Return a refusal by the resolver."""
    return Refused(reason=reason, status=status, message=f"because {reason}")


def rows(event: UsageEvent) -> list[str]:
    """Return the rows that an event is booked to."""
    return decode_rows(event.rows)
