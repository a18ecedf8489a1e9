"""The official SDKs, unmodified, streaming from the ingress into a budget that ends in the middle of the answer."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest

from schemas.usage import UsageEvent
from tests.stream.ingress_lab import POLICY, SECRET, Lab, running

BUDGET_NANOS = 3_000
"""5,000 output tokens at 0.6 nano-USD."""
BUDGET = """
budgets: [{{name: team-day, per: [team], amount: 0.000003 USD, period: day, final_unit: {final_unit}}}]
"""
ASKED_TOKENS = 64_000
STORY: Any = [{"role": "user", "content": "[[sim output=12000 chunks=240 delay_ms=1]] tell me a long story"}]


def _policy(final_unit: str = "terminate") -> str:
    return POLICY + BUDGET.format(final_unit=final_unit)


def _openai(lab: Lab) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{lab.url}/v1", api_key=SECRET, max_retries=0)


def _anthropic(lab: Lab) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=lab.url, api_key=SECRET, max_retries=0)


def _check_charge(lab: Lab, delivered_tokens: int) -> UsageEvent:
    """Check that what was delivered was charged, and that the budget has held."""
    (event,) = lab.journal.events
    assert (event.status, event.error, event.usage_source) == ("settled", "cut_off", "estimated")
    assert delivered_tokens <= event.usage.output <= 3 * delivered_tokens
    assert event.cost_nanos is not None
    assert 0 < event.cost_nanos == event.charge_nanos <= BUDGET_NANOS
    (decision,) = lab.journal.decisions
    assert (decision.action, decision.reason, decision.rule) == ("terminate", "budget", "team-day")
    assert decision.id == event.decision_id
    assert not lab.simulator.ledger.entries, "the provider was let go before it was done"
    return event


@pytest.mark.parametrize("asks", [False, True])
async def test_openai_stream_ends_as_if_at_its_maximum(asks: bool) -> None:
    """The SDK sees a whole stream that ended for its length, the budget's name in it, and its usage if asked for."""
    options: Any = {"stream_options": {"include_usage": True}} if asks else {}
    async with running(_policy()) as lab, _openai(lab) as sdk:
        stream = await sdk.chat.completions.create(
            model="gpt-4o-mini", messages=STORY, stream=True, max_completion_tokens=ASKED_TOKENS, **options
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        event = _check_charge(lab, len(text.split()))
    last = [chunk for chunk in chunks if chunk.choices][-1]
    assert last.choices[0].finish_reason == "length"
    assert last.id == chunks[0].id
    assert last.model_extra is not None
    assert last.model_extra["tollway"]["rule"] == "team-day"
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([event.usage.output] if asks else [])


async def test_openai_accumulating_stream_ends() -> None:
    """The SDK's own helper puts the cut answer together, and raises what it raises at the end of `max_tokens`."""
    async with running(_policy()) as lab, _openai(lab) as sdk:
        async with sdk.chat.completions.stream(
            model="gpt-4o-mini", messages=STORY, max_completion_tokens=ASKED_TOKENS
        ) as stream:
            async for _ in stream:
                pass
            with pytest.raises(openai.LengthFinishReasonError) as caught:
                await stream.get_final_completion()
        answer = caught.value.completion
        assert answer.choices[0].finish_reason == "length"
        _check_charge(lab, len((answer.choices[0].message.content or "").split()))


async def test_response_ends_as_if_at_its_maximum() -> None:
    """The SDK sees `response.incomplete` for its length, with the id that the response began with, and its usage."""
    async with running(_policy()) as lab, _openai(lab) as sdk:
        stream = await sdk.responses.create(
            model="gpt-4o-mini", input=STORY[0]["content"], stream=True, max_output_tokens=ASKED_TOKENS
        )
        events = [event async for event in stream]
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        event = _check_charge(lab, len(text.split()))
    first, last = events[0], events[-1]
    assert first.type == "response.created"
    assert last.type == "response.incomplete"
    assert last.response.id == first.response.id
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == event.usage.output
    assert last.sequence_number == events[-2].sequence_number + 1
    assert last.model_extra is not None
    assert last.model_extra["tollway"]["rule"] == "team-day"


async def test_completion_ends_as_if_at_its_maximum() -> None:
    """The SDK sees a whole stream of a legacy completion that ended for its length."""
    async with running(_policy()) as lab, _openai(lab) as sdk:
        stream = await sdk.completions.create(
            model="gpt-4o-mini", prompt=STORY[0]["content"], stream=True, max_tokens=ASKED_TOKENS
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        _check_charge(lab, len(text.split()))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].id == chunks[0].id


async def test_anthropic_stream_ends_as_if_at_its_maximum() -> None:
    """The SDK's helper puts the message together: stopped at its maximum, with the usage that was charged."""
    async with running(_policy()) as lab, _anthropic(lab) as sdk:
        async with sdk.messages.stream(model="claude-sonnet", max_tokens=ASKED_TOKENS, messages=STORY) as stream:
            async for _ in stream:
                pass
            answer = await stream.get_final_message()
        (block,) = answer.content
        assert block.type == "text"
        event = _check_charge(lab, len(block.text.split()))
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == event.usage.output
    assert answer.usage.input_tokens == event.usage.input


async def test_next_request_is_refused_and_the_connection_lives() -> None:
    """After the cut the budget has next to nothing left, and the client's connection serves the refusal."""
    async with running(_policy()) as lab, _openai(lab) as sdk:
        stream = await sdk.chat.completions.create(
            model="gpt-4o-mini", messages=STORY, stream=True, max_completion_tokens=ASKED_TOKENS
        )
        [chunk async for chunk in stream]
        with pytest.raises(openai.RateLimitError, match="team-day") as caught:
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=STORY, max_completion_tokens=ASKED_TOKENS)
        assert caught.value.code == "insufficient_quota"


async def test_finish_lets_the_answer_go_on() -> None:
    """By default nothing is cut: the answer is whole, and what it cost beyond the budget is charged."""
    async with running(_policy("finish")) as lab, _openai(lab) as sdk:
        stream = await sdk.chat.completions.create(
            model="gpt-4o-mini", messages=STORY, stream=True, max_completion_tokens=ASKED_TOKENS
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        (event,) = await lab.journal.until(1)
    assert len(text.split()) == 12_000
    assert (event.error, event.usage_source, event.usage.output) == ("", "provider", 12_000)
    assert event.charge_nanos > BUDGET_NANOS


async def test_raw_stream_is_whole() -> None:
    """On the wire the cut answer has the framing of any other, and the last line is the protocol's own end."""
    body = {"model": "gpt-4o-mini", "messages": STORY, "stream": True, "max_tokens": ASKED_TOKENS}
    async with running(_policy()) as lab, httpx.AsyncClient(base_url=lab.url) as http:
        answer = await http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {SECRET}"})
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.text.count('"tollway":{"code":"cut_off"') == 1
