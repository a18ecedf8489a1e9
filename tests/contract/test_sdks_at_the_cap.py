"""The official SDKs, unmodified, at the cap of a rule: they wait, retry, raise and see what they are told."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
import pytest

from tests.stream.ingress_lab import POLICY, SECRET, Lab, running

MODELS = POLICY.replace(
    "models:\n",
    "models:\n  gpt-4o: {provider: oai, downgrade: gpt-4o-mini}\n"
    "  claude-opus: {provider: ant, downgrade: claude-sonnet}\n",
)
ONE_AT_ONCE = "limits: [{name: one, per: [org], concurrency: 1, ladder: {100%: queue}, queue: {wait: WAIT, most: 5}}]\n"
SLOW: Any = [{"role": "user", "content": "[[sim delay_ms=200 output=3]] x"}]
QUICK: Any = [{"role": "user", "content": "[[sim output=3]] x"}]


def _openai(lab: Lab, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{lab.url}/v1", api_key=SECRET, **{"max_retries": 0, **options})


def _anthropic(lab: Lab, **options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=lab.url, api_key=SECRET, **{"max_retries": 0, **options})


async def _hold_the_place(lab: Lab, sdk: openai.AsyncOpenAI) -> asyncio.Task[Any]:
    """Return a request that has the only place."""
    task = asyncio.create_task(sdk.chat.completions.create(model="gpt-4o", messages=SLOW), name="holds the place")
    async with asyncio.timeout(5):
        while not lab.journal.admissions:
            await asyncio.sleep(0.002)
    return task


async def test_queued_request_is_an_answer_like_any_other() -> None:
    """While a request waits for its turn the SDK sees nothing but a slower answer; a stream too."""
    async with (
        running(MODELS + ONE_AT_ONCE.replace("WAIT", "5s")) as lab,
        _openai(lab) as sdk,
        _anthropic(lab) as other,
    ):
        first = await _hold_the_place(lab, sdk)
        message, stream = await asyncio.gather(
            other.messages.create(model="claude-sonnet", max_tokens=5, messages=QUICK),
            sdk.chat.completions.create(model="gpt-4o-mini", messages=QUICK, stream=True),
        )
        assert message.usage.output_tokens == 3
        assert len([chunk async for chunk in stream]) > 1
        await first
        assert [event.status for event in lab.journal.events] == ["settled"] * 3
        assert [decision.action for decision in lab.journal.decisions] == ["queue"] * 2


async def test_sdk_retries_after_a_queue_that_ended() -> None:
    """The 429 at a queue's deadline is one that both SDKs retry by themselves, with success once there is room."""
    async with running(MODELS + ONE_AT_ONCE.replace("WAIT", "40ms")) as lab, _openai(lab, max_retries=3) as sdk:
        async with _anthropic(lab, max_retries=3) as other:
            first = await _hold_the_place(lab, sdk)
            message = await other.messages.create(model="claude-sonnet", max_tokens=5, messages=QUICK)
            assert message.usage.output_tokens == 3
            await first
        refusals = [decision for decision in lab.journal.decisions if decision.action == "refuse"]
        assert refusals
        assert all(decision.waited_ms >= 40 for decision in refusals)


async def test_downgraded_answer_names_the_model_that_served() -> None:
    """The body says it, as the provider does, and the headers say what it was instead of."""
    rule = (
        "limits: [{name: big, match: {model: [gpt-4o, claude-opus]}, per: [org], rpm: 10, ladder: {1%: downgrade}}]\n"
    )
    async with running(MODELS + rule) as lab, _openai(lab) as sdk, _anthropic(lab) as other:
        raw = await sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=QUICK)
        assert raw.parse().model.startswith("gpt-4o-mini")
        assert raw.headers["x-tollway-downgraded-from"] == "gpt-4o"
        answer = await other.messages.create(model="claude-opus", max_tokens=5, messages=QUICK)
        assert answer.model.startswith("claude-sonnet")


async def test_cap_on_a_request_is_a_bad_request_with_the_parameter() -> None:
    """No SDK retries it; the exception names the parameter to change."""
    policy = MODELS + "limits: [{name: brief, per: [org], max_output_tokens: 50}]\n"
    async with running(policy) as lab, _openai(lab, max_retries=3) as sdk, _anthropic(lab, max_retries=3) as other:
        with pytest.raises(openai.BadRequestError, match="'max_completion_tokens' of at most 50") as caught:
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=QUICK, max_completion_tokens=51)
        assert caught.value.param == "max_completion_tokens"
        with pytest.raises(anthropic.BadRequestError, match="'max_tokens' of at most 50"):
            await other.messages.create(model="claude-sonnet", max_tokens=51, messages=QUICK)
        assert len(lab.journal.events) == 2
