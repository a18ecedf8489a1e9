"""Playbooks of a stream whose budget ends in the middle of it: extended, cut off cleanly, or let go on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingress.core.protocols import ANTHROPIC_MESSAGES, OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_RESPONSES
from ingress.core.reserving import CHUNK_TOKENS
from schemas.money import cost_nanos
from schemas.tokens import TokenUsage
from tests.unit.ingress.playbook import NOW, PRICE, SHORT, FakePlan, Stage
from tests.unit.ingress.test_streaming import anthropic, openai

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","model":"c",'
    b'"usage":{"input_tokens":10,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)
STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
WORDS = "w" * 400
"""200 tokens, as long as nothing is known of the model."""


def ending(final_unit: str, room: int = 0) -> FakePlan:
    """Return a plan whose extensions may take `room` tokens in all."""
    plan = FakePlan()
    plan.room = room
    plan.refusal = msgspec.structs.replace(SHORT, final_unit=final_unit, action=final_unit)
    return plan


def played(plan: FakePlan, blocks: list[bytes], operation: Any = OPENAI_CHAT, **fields: Any) -> Stage:
    """Play a stream that asks for 64,000 tokens, block by block."""
    stage = Stage(operation, plan=plan)
    stage.sent(stream=True, max_tokens=64_000, **fields)
    stage.streaming(*blocks)
    return stage


def told(stage: Stage) -> bytes:
    """Return all that the client got after the log knew of the end."""
    stage.exchange.terminal_recorded()
    return b"".join(effect[1] for effect in stage.effects if effect[0] in ("data", "end"))


def data(stream: bytes) -> list[Any]:
    """Return the decoded events of a stream; the mark of its end as text."""
    found = [line[6:] for line in stream.split(b"\n") if line.startswith(b"data: ")]
    return ["[DONE]" if each == b"[DONE]" else msgspec.json.decode(each) for each in found]


def test_stream_is_extended_chunk_by_chunk() -> None:
    """A long answer reserves a chunk more whenever four fifths of the last one are used, and is not disturbed."""
    plan = ending("terminate", room=10**6)
    stage = played(plan, [openai({"content": WORDS})] * 100)
    (hold,) = plan.holds
    assert "terminal" not in stage.names
    assert stage.names.count("data") == 100
    assert 20_000 <= hold.held[0] - hold.reserved[0] + CHUNK_TOKENS <= 20_000 + CHUNK_TOKENS
    assert all(0 < tokens <= CHUNK_TOKENS for tokens, _ in hold.asked)
    assert len(hold.asked) == 5


def test_extension_counts_if_the_process_dies() -> None:
    """Each extension is on the log as the first reservation was: of one id the last one counts."""
    stage = played(ending("terminate", room=10**6), [openai({"content": WORDS})] * 40)
    first, *more = stage.events
    assert stage.names.count("admitted") == 1 + len(more) == 3
    assert {(event.id, event.status, event.occurred_ms) for event in stage.events} == {(first.id, "unknown", NOW)}
    assert (more[-1].charge_tokens, more[-1].charge_nanos) == stage.plan.holds[0].held
    assert first.charge_tokens < more[0].charge_tokens < more[1].charge_tokens
    stage.exchange.admitted_recorded()
    assert stage.names.count("request") == 1


def test_chat_is_cut_off_with_a_clean_end() -> None:
    """The choice ends with `length`, one object names the budget, the mark comes last, and the provider is let go."""
    stage = played(ending("terminate"), [openai({"content": WORDS})] * 40)
    assert stage.names.count("cancel") == stage.names.count("terminal") == 1
    assert stage.names.index("cancel") < stage.names.index("terminal")
    (decision,) = stage.decisions
    *chunks, last, done = data(told(stage))
    assert done == "[DONE]"
    assert len(chunks) == CHUNK_TOKENS // 200
    assert (last["id"], last["model"], last["object"]) == ("c-1", "m", "chat.completion.chunk")
    (choice,) = last["choices"]
    assert (choice["index"], choice["delta"], choice["finish_reason"]) == (0, {}, "length")
    assert "usage" not in last
    notice = last["tollway"]
    assert (notice["code"], notice["rule"], notice["scope"]) == ("cut_off", "team-day", "org=acme,team=search")
    assert notice["limit"] == "2.00 USD"
    assert notice["decision_id"].replace("-", "") == decision.id.hex()
    assert notice["decision_id"] in notice["message"]
    assert (decision.action, decision.reason, decision.rule) == ("terminate", "budget", "team-day")


def test_cut_off_is_charged_for_what_was_delivered() -> None:
    """Estimated, marked, with an error code of its own; never more than was held, never less than was delivered."""
    stage = played(ending("terminate"), [openai({"content": WORDS})] * 40)
    event, hold = stage.terminal, stage.plan.holds[0]
    assert (event.status, event.error, event.usage_source, event.http_status) == (
        "settled", "cut_off", "estimated", 200
    )  # fmt: skip
    assert event.usage.output == CHUNK_TOKENS // 200 * 200
    assert event.decision_id == stage.decisions[0].id
    assert hold.settled == [(1, event.usage.total, cost_nanos(PRICE, event.usage))]
    assert event.usage.total <= hold.held[0]
    assert event.charge_nanos <= hold.held[1]


def test_usage_of_a_cut_off_chat_is_told_if_it_was_asked_for() -> None:
    """The chunk without choices says what is charged."""
    stage = played(ending("terminate"), [openai({"content": WORDS})] * 40, stream_options={"include_usage": True})
    *_, last, usage, done = data(told(stage))
    assert (last["usage"], usage["choices"], done) == (None, [], "[DONE]")
    charged = stage.terminal.usage
    assert usage["usage"] == {
        "prompt_tokens": charged.input, "completion_tokens": charged.output, "total_tokens": charged.total,
    }  # fmt: skip


def test_every_choice_of_a_chat_ends_once() -> None:
    """A request for several answers gets an end for each that has none; one in what is not delivered is none."""
    done = openai({}).replace(b'"finish_reason":null', b'"finish_reason":"stop"').replace(b'"index":0', b'"index":1')
    late = done.replace(b'"index":1', b'"index":2')
    blocks = [done + openai({"content": WORDS}), *[openai({"content": WORDS})] * 19, openai({"content": WORDS}) + late]
    last = data(told(played(ending("terminate"), blocks, n=3)))[-2]
    assert [(choice["index"], choice["finish_reason"]) for choice in last["choices"]] == [(0, "length"), (2, "length")]


def response(kind: str, number: int, **fields: Any) -> bytes:
    """Return one event of a streamed response."""
    event = {"type": kind, "sequence_number": number, **fields}
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"


BEGUN: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "model": "r",
    "status": "in_progress",
    "tools": [],
    "usage": None,
}


def test_response_is_cut_off_with_a_clean_end() -> None:
    """The response as it began, incomplete for its length, with the usage that is charged and the next number."""
    begun = response("response.created", 0, response=BEGUN)
    blocks = [response("response.output_text.delta", at, item_id="msg_1", delta=WORDS) for at in range(1, 41)]
    stage = played(ending("terminate"), [begun, *blocks], OPENAI_RESPONSES, input="x", max_output_tokens=64_000)
    out = told(stage)
    assert out.rsplit(b"event: ", 1)[1].startswith(b"response.incomplete\ndata: {")
    assert out.endswith(b"}\n\n")
    first, *deltas, last = data(out)
    assert first == {"type": "response.created", "sequence_number": 0, "response": BEGUN}
    assert len(deltas) == CHUNK_TOKENS // 200
    assert (last["type"], last["sequence_number"]) == ("response.incomplete", len(deltas) + 1)
    assert last["response"] == {
        **BEGUN, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [],
        "created_at": NOW // 1000, "usage": last["response"]["usage"], **{
            name: last["response"][name] for name in ("error", "instructions", "metadata", "parallel_tool_calls",
                                                      "temperature", "tool_choice", "top_p")
        },
    }  # fmt: skip
    charged = stage.terminal.usage
    assert last["response"]["usage"]["output_tokens"] == charged.output == len(deltas) * 200
    assert last["response"]["usage"]["total_tokens"] == charged.total
    assert last["tollway"]["code"] == "cut_off"
    assert (stage.terminal.error, stage.terminal.usage_source) == ("cut_off", "estimated")


def test_response_that_told_nothing_of_itself_is_cut_off_too() -> None:
    """A server that leaves the first event out gets an end all the same."""
    over = b'data: {"type":"response.output_text.delta","delta":"' + b"w" * 100_000 + b'"}\n\n'
    (last,) = data(told(played(ending("terminate"), [over], OPENAI_RESPONSES, input="x", max_output_tokens=64_000)))
    assert (last["sequence_number"], last["response"]["object"], last["response"]["model"]) == (
        0,
        "response",
        "gpt-x",
    )


def text(words: str, index: int = 0, reason: str | None = None) -> bytes:
    """Return one chunk of a legacy completion."""
    choice = {"text": words, "index": index, "logprobs": None, "finish_reason": reason}
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "i", "choices": [choice]}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def test_completion_is_cut_off_with_a_clean_end() -> None:
    """Choices of all prompts that have not ended end for their length, without text; the mark comes last."""
    blocks = [text(WORDS), text("", 1, "stop"), *[text(WORDS, 2)] * 40]
    stage = played(ending("terminate"), blocks, OPENAI_COMPLETIONS, prompt=["a", "b", "c"])
    *chunks, last, done = data(told(stage))
    assert done == "[DONE]"
    assert len(chunks) == CHUNK_TOKENS // 200 + 1
    assert {name: last[name] for name in ("id", "object", "created", "model")} == {
        "id": "cmpl-1", "object": "text_completion", "created": 7, "model": "i",
    }  # fmt: skip
    assert last["choices"] == [
        {"text": "", "logprobs": None, "finish_reason": "length", "index": index} for index in (0, 2)
    ]
    assert last["tollway"]["code"] == "cut_off"
    assert stage.terminal.usage.output == CHUNK_TOKENS // 200 * 200


@pytest.mark.parametrize(
    ("before", "stops"),
    [
        ([], 1),
        ([PING], 1),
        ([STOP, PING], 0),
        ([STOP + anthropic({"type": "input_json_delta", "partial_json": "{"}, index=1)], 1),
    ],
)
def test_message_is_cut_off_with_a_clean_end(before: list[bytes], stops: int) -> None:
    """An open block ends, whatever came last; then reason and usage, then the stop."""
    text = anthropic({"type": "text_delta", "text": WORDS})
    over = anthropic({"type": "text_delta", "text": WORDS * 40}, index=1)
    stage = played(ending("terminate"), [START, *[text] * 18, *before, over], ANTHROPIC_MESSAGES)
    out = told(stage)
    ends = out[out.rindex(before[-1] if before else text) + len(before[-1] if before else text) :]
    assert [line for line in ends.split(b"\n") if line.startswith(b"event:")] == [
        *[b"event: content_block_stop"] * stops, b"event: message_delta", b"event: message_stop"
    ]  # fmt: skip
    *stopped, delta, stop = data(ends)
    assert [each["index"] for each in stopped] == [0 if not before or before == [PING] else 1] * stops
    assert delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert delta["usage"] == {"output_tokens": stage.terminal.usage.output}
    assert delta["tollway"]["rule"] == "team-day"
    assert stop == {"type": "message_stop"}
    assert stage.terminal.usage.input == 10


def test_block_that_goes_beyond_is_delivered_as_far_as_it_is_paid() -> None:
    """Events that came in one piece are taken one by one: what is covered goes on, the rest does not."""
    blocks = [openai({"content": WORDS})] * 40
    stage = played(ending("terminate"), [b"".join(blocks)])
    chunks = data(told(stage))
    assert len(chunks) == CHUNK_TOKENS // 200 + 2
    assert stage.terminal.usage.output == CHUNK_TOKENS // 200 * 200


def test_last_bit_of_a_budget_is_used_before_the_cut() -> None:
    """When there is no room for a chunk there may be for the next block."""
    stage = played(ending("terminate", room=500), [openai({"content": WORDS})] * 40)
    (hold,) = stage.plan.holds
    assert len(data(told(stage))) == (CHUNK_TOKENS + 500) // 200 + 2
    assert hold.held[0] > hold.reserved[0]
    assert stage.terminal.usage.total <= hold.held[0]


@pytest.mark.parametrize("final_unit", ["finish", "downgrade"])
def test_other_final_units_let_the_answer_go_on(final_unit: str) -> None:
    """It is delivered, booked beyond the limit while it streams, and charged in full."""
    blocks = [openai({"content": WORDS})] * 40
    usage = {"prompt_tokens": 9, "completion_tokens": 8_000, "total_tokens": 8_009}
    last = b"data: " + msgspec.json.encode({"model": "m", "choices": [], "usage": usage}) + b"\n\n"
    stage = played(ending(final_unit), [*blocks, last, b"data: [DONE]\n\n"])
    stage.exchange.provider_end(NOW)
    assert told(stage) == b"".join(blocks) + b"data: [DONE]\n\n"
    event = stage.terminal
    assert (event.status, event.error, event.usage) == ("settled", "", TokenUsage(9, 8_000))
    assert stage.decisions == []
    (hold,) = stage.plan.holds
    assert hold.is_beyond
    assert 8_000 <= hold.held[0] <= 8_000 + CHUNK_TOKENS
    assert 5 <= len(hold.asked) <= 20, "it asks now and then, not with each block"


def test_answer_that_is_complete_is_not_cut() -> None:
    """When the usage is there the money is spent: the client gets all of it."""
    usage = {"prompt_tokens": 9, "completion_tokens": 8_000, "total_tokens": 8_009}
    last = b"data: " + msgspec.json.encode({"model": "m", "choices": [], "usage": usage}) + b"\n\n"
    stage = played(ending("terminate"), [openai({"content": WORDS}) * 40 + last + b"data: [DONE]\n\n"])
    stage.exchange.provider_end(NOW)
    assert (stage.terminal.error, stage.terminal.usage) == ("", TokenUsage(9, 8_000))


def test_facts_after_the_cut_change_nothing() -> None:
    """What the provider sends until it notices, and a client that goes, find the exchange at its end."""
    stage = played(ending("terminate"), [openai({"content": WORDS})] * 40)
    before = list(stage.effects)
    stage.exchange.provider_data(openai({"content": WORDS}), NOW)
    stage.exchange.provider_end(NOW)
    stage.exchange.provider_fault("reset", True, "", NOW)
    stage.exchange.client_gone(NOW)
    assert stage.effects == before
    assert len(stage.plan.holds[0].settled) == 1


def test_cut_off_teaches_nothing() -> None:
    """An answer that we ended says nothing about how long answers are."""
    stage = played(ending("terminate"), [openai({"content": WORDS})] * 40)
    profile = stage.context.learned.of("k-1", "gpt-x")
    assert profile.lengths._fresh == 0


def test_settled_answer_teaches() -> None:
    """Tokens, text and length of an answer whose usage the provider told are kept for the next."""
    stage = played(ending("terminate"), [openai({"content": WORDS})])
    usage = {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89}
    last = b"data: " + msgspec.json.encode({"model": "m", "choices": [], "usage": usage}) + b"\n\n"
    stage.streaming(last + b"data: [DONE]\n\n")
    stage.exchange.provider_data(last + b"data: [DONE]\n\n", NOW)
    stage.exchange.provider_end(NOW)
    profile = stage.context.learned.of("k-1", "gpt-x")
    assert profile.lengths._fresh == profile.model.lengths._fresh == 1
    assert profile.model.text._count == 1
