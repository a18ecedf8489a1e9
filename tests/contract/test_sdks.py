"""The official SDKs, unmodified, against the ingress in front of the simulated provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from tests.stream.ingress_lab import POLICY, SECRET, Lab, running

LIMITED = (
    POLICY
    + """
limits: [{name: team-minute, per: [team, model], rpm: 3}]
budgets: [{name: team-day, match: {model: text-embedding-3-small}, per: [team], amount: 0.000001 USD, period: day}]
"""
)
MESSAGES: Any = [{"role": "user", "content": "[[sim output=12 chunks=4 cached=2]] tell me a story now"}]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """An ingress without limits."""
    async with running() as found:
        yield found


def _openai(lab: Lab, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{lab.url}/v1", api_key=SECRET, **{"max_retries": 0, **options})


def _anthropic(lab: Lab, **options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=lab.url, api_key=SECRET, **{"max_retries": 0, **options})


async def test_openai_chat(lab: Lab) -> None:
    """A chat completion, and the headers that come with it."""
    async with _openai(lab) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=MESSAGES)
        answer = raw.parse()
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 12)
    (event,) = lab.journal.events
    assert (event.usage.input, event.usage.cache_read, event.usage.output) == (3, 2, 12)
    assert raw.headers["x-tollway-event-id"].replace("-", "") == event.id.hex()


@pytest.mark.parametrize("asks", [False, True])
async def test_openai_chat_streamed(lab: Lab, asks: bool) -> None:
    """A stream, with and without usage asked for."""
    options: Any = {"stream_options": {"include_usage": True}} if asks else {}
    async with _openai(lab) as sdk:
        stream = await sdk.chat.completions.create(model="nick", messages=MESSAGES, stream=True, **options)
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == 12
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([12] if asks else [])
    assert all(chunk.choices for chunk in chunks) is not asks
    (event,) = lab.journal.events
    assert (event.usage.total, event.usage_source, event.streamed) == (17, "provider", True)


async def test_openai_embeddings(lab: Lab) -> None:
    """Embeddings, which the SDK asks for in base64."""
    async with _openai(lab) as sdk:
        answer = await sdk.embeddings.create(model="text-embedding-3-small", input=["one two", "three"])
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert lab.journal.events[0].usage.total == answer.usage.total_tokens == 3


async def test_openai_models(lab: Lab) -> None:
    """Both forms of the list of models."""
    async with _openai(lab) as sdk:
        names = [model.id async for model in sdk.models.list()]
        assert (await sdk.models.retrieve("nick")).id == "nick"
        with pytest.raises(openai.NotFoundError):
            await sdk.models.retrieve("claude-sonnet")
    assert names == ["gpt-4o-mini", "nick", "text-embedding-3-small", "dark-model", "gone-model"]


async def test_anthropic_message(lab: Lab) -> None:
    """A message, with cached input beside the rest."""
    async with _anthropic(lab) as sdk:
        answer = await sdk.messages.create(model="claude-sonnet", max_tokens=50, messages=MESSAGES)
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (3, 2, 12)
    (event,) = lab.journal.events
    assert (event.usage.input, event.usage.cache_read, event.usage.output) == (3, 2, 12)


async def test_anthropic_message_streamed(lab: Lab) -> None:
    """The SDK puts a streamed message together, and its usage is what the event says."""
    async with (
        _anthropic(lab) as sdk,
        sdk.messages.stream(model="claude-sonnet", max_tokens=50, messages=MESSAGES) as stream,
    ):
        text = "".join([part async for part in stream.text_stream])
        answer = await stream.get_final_message()
    assert len(text.split()) == answer.usage.output_tokens == 12
    (event,) = lab.journal.events
    assert (event.usage.total, event.usage_source, event.streamed) == (17, "provider", True)


async def test_anthropic_models(lab: Lab) -> None:
    """The list has Anthropic's shape and only what its protocol serves."""
    async with _anthropic(lab) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["claude-sonnet"]
        assert (await sdk.models.retrieve("claude-sonnet")).type == "model"


async def test_errors_are_the_sdks_own() -> None:
    """Each refusal raises what the same refusal of the provider would."""
    async with running() as lab:
        async with _openai(lab) as sdk:
            with pytest.raises(openai.NotFoundError, match="not served"):
                await sdk.chat.completions.create(model="nope", messages=MESSAGES)
            with pytest.raises(openai.BadRequestError, match="max_tokens"):
                await sdk.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, max_tokens=-1)
            with pytest.raises(openai.NotFoundError, match="Unknown route"):
                await sdk.fine_tuning.jobs.list()
        async with openai.AsyncOpenAI(base_url=f"{lab.url}/v1", api_key="tw-no", max_retries=0) as sdk:
            with pytest.raises(openai.AuthenticationError):
                await sdk.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
        async with _anthropic(lab) as other:
            with pytest.raises(anthropic.NotFoundError) as caught:
                await other.messages.create(model="nope", max_tokens=5, messages=MESSAGES)
            assert caught.value.request_id
        async with anthropic.AsyncAnthropic(base_url=lab.url, api_key="tw-no", max_retries=0) as other:
            with pytest.raises(anthropic.AuthenticationError):
                await other.messages.create(model="claude-sonnet", max_tokens=5, messages=MESSAGES)


async def test_errors_of_the_provider_are_the_sdks_own(lab: Lab) -> None:
    """Faults of the provider raise the SDK's server errors, its own errors pass unchanged."""
    wish: Any = lambda text: [{"role": "user", "content": f"[[sim {text}]] x"}]  # noqa: E731 - a template
    async with _openai(lab) as sdk:
        with pytest.raises(openai.InternalServerError, match="closed the connection"):
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=wish("fail=reset"))
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=wish("status=429"))
        stream = await sdk.chat.completions.create(
            model="gpt-4o-mini", messages=wish("fail=truncate output=20"), stream=True
        )
        with pytest.raises(openai.APIConnectionError):
            [chunk async for chunk in stream]
    assert [event.status for event in lab.journal.events] == ["failed", "failed", "failed"]


async def test_sdk_retries_what_the_provider_fails() -> None:
    """The SDK's own retries are attempts that are each recorded."""
    async with running() as lab, _openai(lab, max_retries=1) as sdk:
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "[[sim fail=reset]] x"}]
            )
        assert len(lab.journal.events) == 2


async def test_refusal_of_a_limit_raises_and_says_why() -> None:
    """Over the limit both SDKs raise their RateLimitError, with rule, decision and time."""
    async with running(LIMITED) as lab, _openai(lab) as sdk, _anthropic(lab) as other:
        for _ in range(3):
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
            await other.messages.create(model="claude-sonnet", max_tokens=50, messages=MESSAGES)
        with pytest.raises(openai.RateLimitError, match="team-minute") as caught:
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
        assert caught.value.code == "rate_limit_exceeded"
        assert int(caught.value.response.headers["retry-after"]) <= 120
        with pytest.raises(anthropic.RateLimitError, match="team-minute") as refused:
            await other.messages.create(model="claude-sonnet", max_tokens=50, messages=MESSAGES)
        assert refused.value.response.headers["x-tollway-decision-id"]
        assert len(lab.journal.decisions) == 2


async def test_sdk_does_not_wait_for_a_budget_to_reset() -> None:
    """A budget that resets tomorrow is refused at once, whatever the SDK's retries are."""
    async with running(LIMITED) as lab, _openai(lab, max_retries=5) as sdk:
        await sdk.embeddings.create(model="text-embedding-3-small", input="word " * 2_000)
        with pytest.raises(openai.RateLimitError, match="team-day") as caught:
            await sdk.embeddings.create(model="text-embedding-3-small", input="word " * 2_000)
        assert caught.value.code == "insufficient_quota"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert [event.status for event in lab.journal.events] == ["settled", "refused"]
