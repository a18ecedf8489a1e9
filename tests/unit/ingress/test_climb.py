"""What one request does at the cap: paced, queued, waiting for room, with a cheaper model, warned, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from ingress.core.admitting import WAITING
from ingress.core.caps import Cap, Caps
from ingress.core.ladder import MAX_PACE_MS
from ingress.core.protocols import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_EMBEDDINGS, Operation
from ingress.core.resolver import Refused
from ingress.core.verdicts import Denied, Note
from schemas.codec import decode_attribution
from schemas.published import PROPAGATION_P99_MS, WAIT_MS
from tests.unit.ingress.playbook import ANSWER, NOW, FakePlan, Stage

ROW = "team-minute/requests/org=acme/minute@1800000000+60"
BASE: dict[str, Any] = {
    "rule": "team-minute", "measure": "requests", "scope": "org=acme", "row": ROW, "limit": 10, "used": 10, "asked": 1,
    "staleness_ms": 40, "resets_at_s": 1_800_000_060, "retry_after_s": 30, "fence": 77, "right": 5, "pending": 5,
}  # fmt: skip
BLOCK = Denied("rpm", **BASE)
SHORT_HERE = Denied("rpm", **BASE | {"used": 4, "retry_after_s": 1}, may_wait=True)
QUEUE = Denied("rpm", **BASE, action="queue", may_wait=True, wait_ms=2_000, wait_most=5)
THROTTLE = Denied("rpm", **BASE | {"used": 9}, action="throttle", wait_ms=300)
DOWNGRADE = Denied("rpm", **BASE | {"used": 9}, action="downgrade")
WARN = Note("warn", "warn", "team-minute", "requests", "org=acme", ROW, 10, 8, 1)


def _at_cap(*script: Denied | tuple[Note, ...], operation: Operation = OPENAI_CHAT, **fields: Any) -> Stage:
    """Return a stage whose plan says `script`, after a request came."""
    stage = Stage(operation)
    stage.plan.script = list(script)
    stage.ask({"model": "gpt-x", "messages": [], **fields})
    return stage


def _lines(stage: Stage) -> dict[str, str]:
    """Return the headers of the answer."""
    stage.exchange.terminal_recorded()
    pairs = [line.partition(": ") for line in stage.told[1].decode().split("\r\n") if line]
    return {name.lower(): value for name, _, value in pairs}


def _go_on(stage: Stage) -> dict[str, str]:
    """Play the rest of a request that was admitted; return the headers of its answer."""
    stage.exchange.admitted_recorded()
    stage.answered(ANSWER)
    return _lines(stage)


# -- the waiting room --------------------------------------------------------------------------------------------


def test_request_short_of_room_waits_for_it_and_goes_on() -> None:
    """Where all replicas together have room, nothing is refused and nothing is recorded but the time."""
    stage = _at_cap(SHORT_HERE)
    assert (stage.names, stage.exchange.state) == (["enter"], WAITING)
    ticket = stage.ticket
    assert ticket is not None
    assert (ticket.until_ms, ticket.since_ms, ticket.most, ticket.tier) == (NOW + WAIT_MS, NOW, 256, 1)
    assert stage.context.stats.waiting == 1
    stage.serve(stage.plan.admit(NOW + 70, ticket.tokens, ticket.nanos), NOW + 70)
    assert stage.names == ["enter", "admitted"]
    headers = _go_on(stage)
    assert headers["x-tollway-waited-ms"] == "70"
    assert "x-tollway-queue-position" not in headers
    assert stage.decisions == []
    assert stage.hold.settled
    assert stage.context.stats.waiting == 0
    assert stage.context.stats.waits["room"].sum_ms == 70


def test_request_that_waits_in_vain_is_refused_with_what_happened() -> None:
    """The refusal says how long it waited, and its record too."""
    stage = _at_cap(SHORT_HERE)
    stage.serve(SHORT_HERE, NOW + 250)
    assert stage.names == ["enter", "terminal"]
    headers = _lines(stage)
    assert headers["x-tollway-waited-ms"] == "250"
    assert "It waited 250 ms for room." in stage.told[2]["error"]["message"]
    (decision,) = stage.decisions
    assert (decision.action, decision.waited_ms, decision.reason) == ("refuse", 250, "rpm")
    assert stage.terminal.status == "refused"


@pytest.mark.parametrize("script", [SHORT_HERE, QUEUE, THROTTLE])
def test_who_waited_does_not_go_on_once_that_was_withdrawn(script: Denied) -> None:
    """A key that was revoked meanwhile, or a scope that was frozen, ends the wait; what was held is given back."""
    stage = _at_cap(script)
    resolver: Any = stage.context.resolver
    resolver.gone = Refused("frozen", 403, "org=acme is frozen: a leaked key.")
    if script is THROTTLE:
        stage.exchange.woken(NOW + 300)
    else:
        stage.serve(stage.plan.admit(NOW + 70, 1, 0), NOW + 70)
    assert stage.terminal.status == "refused"
    assert (stage.terminal.error, stage.terminal.http_status) == ("frozen", 403)
    assert stage.plan.holds[-1].settled == [(0, 0, 0)]
    assert "request" not in stage.names


def test_full_line_refuses_at_once() -> None:
    """Nobody waits where there is no place."""
    stage = Stage()
    stage.position = 0
    stage.plan.script = [QUEUE]
    stage.ask({"model": "gpt-x", "messages": []})
    assert stage.names == ["terminal"]
    headers = _lines(stage)
    assert "no free place in the queue" in stage.told[2]["error"]["message"]
    assert "x-tollway-waited-ms" not in headers
    assert stage.context.stats.waiting == 0


def test_queue_tells_position_and_time() -> None:
    """A queued request knows where it began and how long it took; its queueing is recorded."""
    stage = Stage()
    stage.position = 3
    stage.plan.script = [QUEUE]
    stage.ask({"model": "gpt-x", "messages": []})
    ticket = stage.ticket
    assert ticket is not None
    assert (ticket.until_ms, ticket.most) == (NOW + 2_000, 5)
    stage.serve(stage.plan.admit(NOW, ticket.tokens, ticket.nanos), NOW + 900)
    headers = _go_on(stage)
    assert (headers["x-tollway-queue-position"], headers["x-tollway-waited-ms"]) == ("3", "900")
    (decision,) = stage.decisions
    assert (decision.action, decision.waited_ms, decision.row, decision.fence) == ("queue", 900, ROW, 77)
    assert (decision.partition, decision.right, decision.pending) == (3, 5, 5)
    assert decision.id == stage.terminal.decision_id
    assert headers["x-tollway-decision-id"].replace("-", "") == decision.id.hex()


def test_queue_that_ends_at_its_deadline_is_429_and_says_so() -> None:
    """No new kind of error: what the SDK knows, with what happened in words."""
    stage = _at_cap(QUEUE)
    stage.serve(QUEUE, NOW + 2_000)
    headers = _lines(stage)
    assert stage.told[0] == 429
    assert "waited 2,000 ms in the queue, which it entered at place 1" in stage.told[2]["error"]["message"]
    assert headers["x-tollway-queue-position"] == "1"
    assert [decision.action for decision in stage.decisions] == ["refuse"]


def test_wait_for_room_may_be_followed_by_the_queue_but_each_comes_once() -> None:
    """A limit that fills up while a request waits sends it to the queue of the rule; it never waits for ever."""
    stage = _at_cap(SHORT_HERE)
    stage.serve(QUEUE, NOW + 100)
    assert stage.names == ["enter", "enter"]
    stage.serve(SHORT_HERE, NOW + 600)
    assert stage.names == ["enter", "enter", "terminal"]
    assert stage.decisions[0].waited_ms == 600


@pytest.mark.parametrize("denied", [SHORT_HERE, QUEUE, THROTTLE])
def test_client_that_hangs_up_leaves(denied: Denied) -> None:
    """A request without a client waits no longer, whatever it waited for."""
    stage = _at_cap(denied)
    stage.exchange.client_gone(NOW + 10)
    assert stage.names[1:] == ["leave", "terminal"]
    assert stage.terminal.status == "cancelled"
    assert stage.context.stats.waiting == 0
    stage.serve(SHORT_HERE, NOW + 20)
    stage.exchange.woken(NOW + 20)
    assert stage.names[1:] == ["leave", "terminal"]


def test_room_that_comes_too_late_is_given_back() -> None:
    """A hold for a request that has ended is released: nothing leaks."""
    stage = _at_cap(SHORT_HERE)
    stage.exchange.client_gone(NOW + 10)
    hold = stage.plan.admit(NOW, 1, 1)
    stage.serve(hold, NOW + 11)
    assert stage.plan.holds[0].settled == [(0, 0, 0)]


@pytest.mark.parametrize("denied", [SHORT_HERE, QUEUE, THROTTLE])
def test_stopping_replica_sends_waiting_requests_elsewhere(denied: Denied) -> None:
    """503 that a client retries at once, and nothing charged."""
    stage = _at_cap(denied)
    stage.exchange.drain(NOW + 5)
    assert stage.names[1:] == ["leave", "terminal"]
    headers = _lines(stage)
    assert (stage.told[0], headers["retry-after"]) == (503, "1")
    assert stage.terminal.error == "stopping"
    assert stage.terminal.charge_requests == 0


@pytest.mark.parametrize("denied", [SHORT_HERE, QUEUE, THROTTLE])
def test_bug_while_waiting_ends_the_wait(denied: Denied) -> None:
    """A crash leaves no ticket and no timer behind."""
    stage = _at_cap(denied)
    stage.exchange.crash(NOW + 5)
    assert stage.names[1:] == ["leave", "terminal"]
    assert stage.terminal.error == "internal"


# -- throttle ----------------------------------------------------------------------------------------------------


def test_throttled_requests_are_paced_and_then_admitted() -> None:
    """Each waits for its part of the time that is left, and then says that it has."""
    stage = _at_cap(THROTTLE)
    assert stage.effects == [("wait", 300)]
    stage.exchange.woken(NOW + 300)
    assert stage.plan.passed == [frozenset(), frozenset({"throttle"})]
    headers = _go_on(stage)
    assert headers["x-tollway-waited-ms"] == "300"
    (decision,) = stage.decisions
    assert (decision.action, decision.waited_ms) == ("throttle", 300)
    assert stage.context.stats.actions == {"throttle": 1}


def test_throttle_is_no_wall() -> None:
    """However little is left, nobody is kept longer than the bound; after it the limit itself decides."""
    stage = _at_cap(Denied("rpm", **BASE, action="throttle", wait_ms=10**9), BLOCK)
    assert stage.effects == [("wait", MAX_PACE_MS)]
    stage.exchange.woken(NOW + MAX_PACE_MS)
    assert stage.names == ["wait", "terminal"]
    assert [decision.action for decision in stage.decisions] == ["refuse"]


def test_throttle_that_is_due_at_once_does_not_wait() -> None:
    """Without a delay there is no pause, and no timer."""
    stage = _at_cap(Denied("rpm", **BASE, action="throttle", wait_ms=0))
    assert stage.names == ["admitted"]
    assert "x-tollway-waited-ms" not in _go_on(stage)


# -- downgrade ---------------------------------------------------------------------------------------------------


def _with_cheaper(stage: Stage) -> FakePlan:
    cheaper = FakePlan()
    cheaper.model = "gpt-small"
    cheaper.partition = 3
    stage.plans["small"] = cheaper
    stage.plan.downgrade = "small"
    return cheaper


def test_downgraded_request_is_admitted_charged_and_sent_as_the_cheaper_model() -> None:
    """The provider gets the other name, the client is told both, and the record has both."""
    stage = Stage()
    cheaper = _with_cheaper(stage)
    stage.plan.script = [DOWNGRADE]
    stage.ask(b'{"model":"gpt-x","messages":[]}')
    assert (len(stage.plan.holds), len(cheaper.holds)) == (0, 1)
    stage.exchange.admitted_recorded()
    assert stage.effects[-1][2].endswith(b'\r\n\r\n{"model":"gpt-small","messages":[]}')
    stage.answered(ANSWER)
    headers = _lines(stage)
    assert (headers["x-tollway-model"], headers["x-tollway-downgraded-from"]) == ("gpt-small", "gpt-x")
    (decision,) = stage.decisions
    assert (decision.action, decision.downgraded_to, decision.attribution.model) == ("downgrade", "gpt-small", "gpt-x")
    for event in stage.events:
        assert decode_attribution(event.attribution).model_requested == "gpt-x"
    assert cheaper.holds[0].settled


@pytest.mark.parametrize("problem", ["none", "unknown", "not configured", "itself", "capped"])
def test_request_without_a_cheaper_model_goes_on_up_to_the_limit(problem: str) -> None:
    """No model, one that the key may not use, one that cannot be reached: the rung is passed, the limit stays."""
    stage = Stage()
    cheaper = _with_cheaper(stage)
    if problem == "none":
        stage.plan.downgrade = ""
    elif problem == "unknown":
        del stage.plans["small"]
    elif problem == "not configured":
        cheaper.problem = "no credential"
    elif problem == "itself":
        stage.plan.downgrade = "nick"
    else:
        cheaper.caps = Caps(max_output_tokens=Cap("brief", 1))
    stage.plan.script = [DOWNGRADE]
    stage.ask({"model": "gpt-x", "messages": []})
    assert stage.plan.passed == [frozenset(), frozenset({"downgrade"})]
    assert stage.names == ["admitted"]
    assert cheaper.holds == []
    assert "x-tollway-model" not in _go_on(stage)
    assert stage.decisions == []


def test_downgrades_end() -> None:
    """Models that name each other do not make a request go round for ever."""
    stage = Stage()
    cheaper = _with_cheaper(stage)
    cheaper.downgrade = "gpt-x"
    stage.plan.denied = cheaper.denied = DOWNGRADE
    stage.ask({"model": "gpt-x", "messages": []})
    assert stage.names == ["terminal"]
    assert len(cheaper.passed) == 2


def test_refusal_of_the_cheaper_model_is_the_refusal() -> None:
    """Limits hold for the model that serves; the client sees which ones refused."""
    stage = Stage()
    cheaper = _with_cheaper(stage)
    stage.plan.script = [DOWNGRADE]
    cheaper.script = [Denied("budget", **BASE | {"rule": "small-day", "measure": "cost"})]
    stage.ask({"model": "gpt-x", "messages": []})
    headers = _lines(stage)
    assert headers["x-tollway-rule"] == "small-day"
    assert headers["x-tollway-model"] == "gpt-small"
    (decision,) = stage.decisions
    assert (decision.action, decision.rule) == ("refuse", "small-day")


# -- notes -------------------------------------------------------------------------------------------------------


def test_warned_request_says_so_in_a_header_and_in_one_record_a_minute() -> None:
    """Every answer tells; the log is not filled with it."""
    stage = _at_cap((WARN,))
    headers = _go_on(stage)
    assert headers["x-tollway-warning"] == "rule=team-minute; used=8; limit=10; unit=requests"
    assert [decision.action for decision in stage.decisions] == ["warn"]
    other = Stage()
    other.context.sparing = stage.context.sparing
    other.plan.script = [(WARN,)]
    other.ask({"model": "gpt-x", "messages": []})
    assert "x-tollway-warning" in _go_on(other)
    assert other.decisions == []
    assert other.context.stats.actions == {"warn": 1}


def test_the_allowance_of_a_failure_is_told_and_recorded_once_a_minute() -> None:
    """What goes on beyond this replica's part while the broker is gone can be found among the decisions."""
    note = WARN._replace(kind="open", rung="")
    stage = _at_cap((note, note))
    assert "x-tollway-warning" in _go_on(stage)
    (decision,) = stage.decisions
    assert (decision.action, decision.row, decision.cost_avoided_nanos) == ("open", ROW, 0)
    assert stage.terminal.decision_id == decision.id
    assert stage.context.stats.actions == {"open": 2}


def test_shadow_rule_is_recorded_each_time_and_seen_by_nobody() -> None:
    """What it would have done is in the record, with the cost that it would have avoided; the client sees nothing."""
    note = WARN._replace(kind="shadow", rung="block")
    stage = _at_cap((note, note))
    headers = _go_on(stage)
    assert "x-tollway-warning" not in headers
    assert [(decision.action, decision.rung) for decision in stage.decisions] == [("shadow", "block")] * 2
    assert stage.decisions[0].cost_avoided_nanos == stage.plan.holds[0].reserved[1]
    assert stage.terminal.status == "settled"


@pytest.mark.parametrize("kind", ["soft", "grace"])
def test_request_beyond_a_limit_that_lets_it_goes_on_with_a_warning(kind: str) -> None:
    """Soft rules and the grace of tier 0 warn and are recorded."""
    stage = _at_cap((WARN._replace(kind=kind, rung="block", used=11),))
    assert "used=11" in _go_on(stage)["x-tollway-warning"]
    assert [decision.action for decision in stage.decisions] == [kind]


def test_header_of_a_money_rule_is_in_dollars_and_cannot_be_forged() -> None:
    """Amounts are decimals; a rule's name cannot begin a header of its own."""
    note = Note("warn", "warn", "a\r\nx: y;é", "cost", "org=acme", ROW, 5_000_000_000, 4_100_000_000, 7)
    stage = _at_cap((note,))
    assert _go_on(stage)["x-tollway-warning"] == "rule=a??x: y??; used=4.100000000; limit=5.000000000; unit=usd"


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [OPENAI_CHAT, ANTHROPIC_MESSAGES])
def test_refusal_tells_programs_how_the_limit_stands(operation: Operation) -> None:
    """Limit, use, what remains, when it resets, how exact and how old the numbers are."""
    stage = _at_cap(Denied("rpm", **BASE, overshoot_bound=4), operation=operation)
    headers = _lines(stage)
    expected = {
        "x-tollway-rule": "team-minute", "x-tollway-scope": "org=acme", "x-tollway-unit": "requests",
        "x-tollway-limit": "10", "x-tollway-used": "10", "x-tollway-remaining": "0",
        "x-tollway-reset": "1800000060", "retry-after": "30", "x-tollway-overshoot-bound": "4",
        "x-tollway-staleness-ms": "40", "x-tollway-propagation-ms": str(PROPAGATION_P99_MS),
    }  # fmt: skip
    assert {name: headers.get(name) for name in expected} == expected
    assert headers["x-tollway-decision-id"].replace("-", "") == stage.decisions[0].id.hex()
    message = stage.told[2]["error"]["message"]
    for said in (
        "'team-minute'",
        "org=acme",
        "limit 10 requests",
        "used 10 requests",
        "Resets at 2027-",
        "Send requests",
    ):
        assert said in message


def test_refusal_by_a_budget_is_in_dollars() -> None:
    """Headers have decimals of USD, whatever nano-USD the rows count."""
    money = {"rule": "day", "measure": "cost", "limit": 2 * 10**9, "used": 2 * 10**9 - 5, "asked": 10**7}
    headers = _lines(_at_cap(Denied("budget", **BASE | money)))
    assert (headers["x-tollway-limit"], headers["x-tollway-used"]) == ("2.000000000", "1.999999995")
    assert (headers["x-tollway-remaining"], headers["x-tollway-unit"]) == ("0.000000005", "usd")


def test_refusal_records_the_cost_that_it_avoided() -> None:
    """What the request would have reserved."""
    stage = _at_cap(BLOCK, max_tokens=100)
    (decision,) = stage.decisions
    assert decision.cost_avoided_nanos > 100 * 600_000 // 1_000_000
    assert stage.context.stats.actions == {"refuse": 1}


# -- caps on one request -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "fields", "caps", "reason", "param"),
    [
        (OPENAI_CHAT, {"max_tokens": 51}, Caps(max_output_tokens=Cap("brief", 50)), "max_output_tokens", "max_tokens"),
        (OPENAI_CHAT, {"n": 2, "max_completion_tokens": 26}, Caps(max_output_tokens=Cap("brief", 50)),
         "max_output_tokens", "max_completion_tokens"),
        (OPENAI_CHAT, {}, Caps(max_output_tokens=Cap("brief", 50)), "max_output_tokens", "max_completion_tokens"),
        (OPENAI_CHAT, {"x": "y" * 300}, Caps(max_input_tokens=Cap("brief", 60)), "max_input_tokens", None),
        (OPENAI_CHAT, {"max_tokens": 9_000}, Caps(max_cost_nanos=Cap("brief", 1_000)), "max_cost", "max_tokens"),
        (OPENAI_EMBEDDINGS, {"input": "z" * 300}, Caps(max_input_tokens=Cap("brief", 60)), "max_input_tokens", None),
    ],
)  # fmt: skip
def test_request_over_a_cap_is_400_with_the_remedy(
    operation: Operation, fields: dict[str, Any], caps: Caps, reason: str, param: str | None
) -> None:
    """Waiting does not help, so the client is told what to change, before anything is reserved."""
    stage = Stage(operation)
    stage.plan.caps = caps
    stage.ask({"model": "gpt-x", "messages": [], **fields})
    stage.exchange.terminal_recorded()
    status, _, body = stage.told
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, reason, param)
    assert "'brief'" in body["error"]["message"]
    (decision,) = stage.decisions
    assert (decision.action, decision.reason, decision.rule) == ("refuse", reason, "brief")
    assert decision.asked > decision.limit
    assert stage.plan.passed == []
    assert stage.terminal.error == reason


def test_request_within_its_caps_goes_on() -> None:
    """A cap is the most that is allowed, not the least that is refused."""
    stage = Stage()
    stage.plan.caps = Caps(Cap("a", 10_000), Cap("b", 50), Cap("c", 10**9))
    stage.ask({"model": "gpt-x", "messages": [], "max_tokens": 50})
    assert stage.names == ["admitted"]
