"""Laws of the exchange: whatever happens in whatever order, it ends once, and nobody is told before the log."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.core.admitting import ENDING
from ingress.core.plan import Denied
from ingress.core.protocols import ANTHROPIC_MESSAGES
from ingress.core.providers.openai import read_answer
from ingress.core.strict_json import InputError, read_object
from schemas.attempts import Drain, Fallback
from schemas.flags import ODD
from tests.unit.ingress.playbook import ANSWER, HEADERS, NOW, FakePlan, Stage

DELTA = b'data: {"choices":[{"delta":{"content":"Hello"}}],"usage":null}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":19,"completion_tokens":21}}\n\n'
FACTS = (
    "complete", "too_large", "slow", "admitted", "terminal", "head", "stream_head", "error_head", "delta", "answer",
    "last", "done", "error", "end", "fault", "unsent_fault", "gone", "over", "crash",
)  # fmt: skip


def _play(stage: Stage, fact: str) -> None:
    exchange = stage.exchange
    has_ended = "terminal" in stage.names
    acts: dict[str, Any] = {
        "head": lambda: exchange.provider_head(200, [(b"content-type", b"application/json")], NOW + 1),
        "stream_head": lambda: exchange.provider_head(200, [(b"content-type", b"text/event-stream")], NOW + 1),
        "error_head": lambda: exchange.provider_head(500, [], NOW + 1),
        "delta": lambda: exchange.provider_data(DELTA, NOW),
        "answer": lambda: exchange.provider_data(ANSWER, NOW),
        "last": lambda: exchange.provider_data(LAST, NOW),
        "done": lambda: exchange.provider_data(b"data: [DONE]\n\n", NOW),
        "error": lambda: exchange.provider_data(b'data: {"error":{"message":"no"}}\n\n', NOW),
        "end": lambda: exchange.provider_end(NOW + 2),
        "fault": lambda: exchange.provider_fault("reset", True, "", NOW + 2),
        "unsent_fault": lambda: exchange.provider_fault("connect", False, "", NOW + 2),
        "gone": lambda: exchange.client_gone(NOW + 3),
        "over": lambda: exchange.drain_over(NOW + 3),
        "crash": lambda: exchange.crash(NOW + 3),
        "admitted": lambda: exchange.admitted_recorded(),
    }
    if fact in acts:
        acts[fact]()
    elif fact == "terminal":
        if has_ended and exchange.state == ENDING:  # the log answers once, and only what it was asked
            exchange.terminal_recorded()
    elif not stage.events:  # a request completes once
        if fact == "too_large":
            exchange.refuse_size(1_000, NOW)
        elif fact == "slow":
            exchange.refuse_slow(120, NOW)
        else:
            exchange.complete(msgspec.json.encode({"model": "gpt-x", "stream": True, "max_tokens": 9}), NOW)


WORLDS = st.fixed_dictionaries(
    {
        name: st.booleans()
        for name in ("is_denied", "drains", "may_read_on", "is_sent", "falls_back", "other_has_room", "begins")
    }
)
DENIED = Denied("rpm", rule="r", measure="requests", scope="org=acme", limit=1, used=1, asked=1)


def _stage(world: dict[str, bool]) -> Stage:
    plan, other = FakePlan(), FakePlan()
    plan.denied = DENIED if world["is_denied"] else None
    plan.drain = other.drain = Drain(most_bytes=1024) if world["drains"] else None
    plan.fallback = Fallback(to="other") if world["falls_back"] else None
    other.model, other.denied = "other", None if world["other_has_room"] else DENIED
    stage = Stage(plan=plan)
    stage.plans["other"] = other
    stage.may_read_on, stage.is_on_its_way = world["may_read_on"], world["is_sent"]
    return stage


@settings(max_examples=500)
@given(st.lists(st.sampled_from(FACTS), max_size=18), WORLDS)
def test_every_order_of_facts_ends_once(facts: list[str], world: dict[str, bool]) -> None:
    """One end an attempt, of event and reservation alike; no last byte before the log; nothing for who is gone."""
    stage = _stage(world)
    stage.exchange.begin(HEADERS, NOW)
    for fact in ("complete", "admitted", *facts) if world["begins"] else facts:  # half of them get to a provider
        _play(stage, fact)
    if "terminal" not in stage.names:
        stage.exchange.client_gone(NOW + 9)
        stage.exchange.drain_over(NOW + 9)
    if stage.exchange.state == ENDING:
        stage.exchange.terminal_recorded()

    names = stage.names
    holds = [hold for plan in (stage.plan, stage.plans["other"]) for hold in plan.holds]
    assert names.count("terminal") == 1
    assert names.count("admitted") == len(holds) == names.count("attempt") + bool(holds) <= 2
    assert names.count("request") <= names.count("admitted")
    assert sum(names.count(last) for last in ("whole", "end")) <= 1
    told = [at for at, name in enumerate(names) if name in ("whole", "end", "cut")]
    assert all(at > names.index("terminal") for at in told)
    assert all(name in ("whole", "end", "cut") for name in names[names.index("terminal") + 1 :])
    if "read_on" in names:
        assert set(names[names.index("read_on") + 1 :]) <= {"cancel", "terminal"}
    ended = [event for event in stage.events if event.status != "unknown"]
    assert [event.attempt for event in ended] == list(range(1, names.count("attempt") + 2))
    assert len({event.id for event in ended}) == len(ended)
    assert len({event.request_id for event in stage.events}) == 1
    charges = [(event.charge_requests, event.charge_tokens, event.charge_nanos) for event in ended]
    assert [hold.settled for hold in holds] == [[charge] for charge in charges] if holds else charges == [(0, 0, 0)]
    assert stage.context.stats.in_flight == stage.context.stats.draining == 0


TEXTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@settings(max_examples=200)
@given(TEXTS, st.data())
def test_drained_usage_is_the_full_usage(texts: list[int], data: st.DataObject) -> None:
    """Wherever a client hangs up, and however the bytes are cut, reading on comes to what it would have come to."""
    usage = {"prompt_tokens": 7, "completion_tokens": sum(texts)}
    deltas = [{"choices": [{"delta": {"content": "x" * size}}], "usage": None} for size in texts]
    events = [msgspec.json.encode(chunk) for chunk in (*deltas, {"choices": [], "usage": usage})] + [b"[DONE]"]
    stream = b"".join(b"data: %b\n\n" % event for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parts = [stream[low:high] for low, high in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    gone_at = data.draw(st.integers(0, len(parts) - 1))
    found = []
    for hangs_up in (False, True):
        stage = Stage()
        stage.plan.drain = Drain()
        stage.sent(stream=True)
        stage.exchange.provider_head(200, [(b"content-type", b"text/event-stream")], NOW)
        for at, part in enumerate(parts):
            if hangs_up and at == gone_at:
                stage.exchange.client_gone(NOW)
            stage.exchange.provider_data(part, NOW)
        stage.exchange.provider_end(NOW)
        stage.exchange.terminal_recorded()
        event = stage.terminal
        assert event.status == ("cancelled" if hangs_up else "settled")
        assert event.usage_source == "provider"
        found.append((event.usage, event.cost_nanos, stage.hold.settled))
    assert found[0] == found[1]


@settings(max_examples=200)
@given(TEXTS, st.integers(0, 500), st.integers(1, 60), st.data())
def test_an_estimate_is_never_below_what_is_known(
    texts: list[int], told: int, so_far: int, data: st.DataObject
) -> None:
    """However a stream ends before its usage: not less than the input that was told, the count so far, the pieces."""
    start = {"message": {"usage": {"input_tokens": told, "output_tokens": so_far}}, "type": "message_start"}
    deltas = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * size}} for size in texts]
    stage = Stage(ANTHROPIC_MESSAGES)
    stage.plan.drain = Drain() if data.draw(st.booleans()) else None
    stage.sent(stream=True, max_tokens=1_000)
    stage.exchange.provider_head(200, [(b"content-type", b"text/event-stream")], NOW)
    gone_at = data.draw(st.integers(0, len(deltas)))
    for at, event in enumerate((start, *deltas)):
        stage.exchange.provider_data(b"data: %b\n\n" % msgspec.json.encode(event), NOW)
        if at == gone_at:
            stage.exchange.client_gone(NOW)
    for end in data.draw(st.permutations(("gone", "over", "fault", "end"))):
        _play(stage, end)
    ended = stage.terminal
    pieces = gone_at if stage.plan.drain is None else len(deltas)
    assert ended.usage_source == "estimated"
    assert ended.usage.all_input == told
    assert ended.usage.all_output >= max(so_far, pieces)
    assert ended.charge_tokens == ended.usage.total


COUNTS = st.one_of(st.none(), st.integers(-2, 60), st.booleans(), st.floats(0, 9), st.text(max_size=2))


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": COUNTS, "completion_tokens": COUNTS, "total_tokens": COUNTS,
            "prompt_tokens_details": st.dictionaries(
                st.sampled_from(["cached_tokens", "audio_tokens", "cache_write_tokens"]), COUNTS
            ),
            "completion_tokens_details": st.dictionaries(st.sampled_from(["reasoning_tokens", "audio_tokens"]), COUNTS),
        },
    )
)  # fmt: skip
def test_usage_adds_up_or_is_flagged(usage: dict[str, Any]) -> None:
    """Classes are never negative and sum to the provider's total, or a flag says why; none is below a true count."""
    reported = read_answer(msgspec.json.encode({"usage": usage}))
    found, flags = reported.usage, reported.flags
    assert set(flags) <= set(ODD)
    assert found is not None
    assert min(msgspec.structs.astuple(found)) >= 0
    told = {name: value for name, value in usage.items() if type(value) is int and value >= 0}
    prompt, completion = told.get("prompt_tokens", 0), told.get("completion_tokens", 0)
    assert found.all_input >= prompt
    assert found.all_output >= completion
    if "prompt_tokens" in told and "completion_tokens" in told:
        assert found.total >= told.get("total_tokens", 0)
    if not flags and reported.is_final:
        assert found.total == told.get("total_tokens", prompt + completion)


class _Object:
    """Members of an object in order, duplicates included."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        self.members = members

    def __repr__(self) -> str:
        return f"_Object({self.members!r})"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(alphabet='a":\\ é\n\x00', max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(st.tuples(st.text(alphabet='ab":\\ :', max_size=2), inner), max_size=4).map(_Object),
    ),
    max_leaves=12,
)


def _written(value: Any, choose: Any) -> str:
    """Return JSON text of a value; `choose` decides about spaces and escapes."""
    if isinstance(value, _Object):
        parts = [f"{_text(key, choose)}{choose(['', ' '])}:{_written(item, choose)}" for key, item in value.members]
        return "{" + ",".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(item, choose) for item in value) + "]"
    return _text(value, choose) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _text(value: str, choose: Any) -> str:
    return '"' + "".join(_letter(letter, choose) for letter in value) + '"'


def _letter(letter: str, choose: Any) -> str:
    plain = msgspec.json.encode(letter).decode()[1:-1]
    return str(choose([plain, f"\\u{ord(letter):04x}", f"\\u{ord(letter):04X}"]))


def _has_duplicates(value: Any) -> bool:
    if isinstance(value, _Object):
        keys = [key for key, _ in value.members]
        return len(set(keys)) < len(keys) or any(_has_duplicates(item) for _, item in value.members)
    return isinstance(value, list) and any(map(_has_duplicates, value))


@settings(max_examples=400)
@given(st.lists(st.tuples(st.text(alphabet='ab":\\ ', max_size=2), JSON), max_size=4).map(_Object), st.data())
def test_duplicates_are_found_however_they_are_written(body: _Object, data: st.DataObject) -> None:
    """A body is refused if and only if some object in it has a key twice, whatever spaces, escapes and text it has."""
    text = _written(body, lambda options: data.draw(st.sampled_from(options)))
    told = ""
    try:
        read_object(text.encode())
    except InputError as error:
        told = str(error)
    assert ("given twice" in told) == bool(told) == _has_duplicates(body), text
