"""The simulator's files and batches, of both APIs, through the official SDKs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from deploy.simulator import Simulator

CHAT: Any = "/v1/chat/completions"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A listening simulator that keeps its entries."""
    found = Simulator(keep_entries=True)
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def gpt(simulator: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    """The OpenAI SDK on it."""
    async with openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="any", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def claude(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The Anthropic SDK on it."""
    async with anthropic.AsyncAnthropic(base_url=simulator.url, api_key="any", max_retries=0) as sdk:
        yield sdk


def lines_of(prompts: list[str], models: tuple[str, ...] = ("gpt-4o",)) -> bytes:
    """Return an input file with a chat completion for each prompt; models take turns."""
    lines = [
        {"custom_id": f"c{at}", "method": "POST", "url": CHAT,
         "body": {"model": models[at % len(models)], "messages": [{"role": "user", "content": prompt}]}}
        for at, prompt in enumerate(prompts)
    ]  # fmt: skip
    return "\n".join(map(json.dumps, lines)).encode()


async def done(gpt: openai.AsyncOpenAI, content: bytes, **metadata: str) -> Any:
    """Create a batch of an input file, and return it as it is when it was worked on."""
    file = await gpt.files.create(file=("in.jsonl", content), purpose="batch")
    assert (await gpt.files.content(file.id)).content == content
    batch = await gpt.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata=metadata)
    assert (batch.status, batch.model, batch.output_file_id) == ("validating", None, None)
    return await gpt.batches.retrieve(batch.id)


async def results(gpt: openai.AsyncOpenAI, file_id: str) -> list[Any]:
    """Return the lines of a file of results."""
    return [json.loads(line) for line in (await gpt.files.content(file_id)).text.splitlines()]


# -- OpenAI ------------------------------------------------------------------------------------------------------------


async def test_batch_is_answered_line_by_line(simulator: Simulator, gpt: openai.AsyncOpenAI) -> None:
    """Each line is answered by its route, once, and what was wrong with one is in a file of its own."""
    prompts = ["one nonce=b1", "[[sim output=7 cached=2 usage_input=9 reasoning=3]] two nonce=b2", "[[sim status=500]]"]
    batch = await done(gpt, lines_of(prompts), a="b")
    assert (batch.status, batch.model, batch.metadata) == ("completed", "gpt-4o", {"a": "b"})
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 2, 1)
    assert batch.usage.model_dump() == {
        "input_tokens": 11, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 23,
        "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 34,
    }  # fmt: skip
    assert await gpt.batches.retrieve(batch.id) == batch
    told = await results(gpt, batch.output_file_id)
    assert [line["custom_id"] for line in told] == ["c0", "c1"]
    assert [line["response"]["body"]["usage"]["completion_tokens"] for line in told] == [16, 7]
    (failed,) = await results(gpt, batch.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("c2", 500)
    assert [(entry.nonce, entry.tier) for entry in simulator.ledger.entries] == [("b1", "batch"), ("b2", "batch")]


async def test_batch_that_tells_nothing(simulator: Simulator, gpt: openai.AsyncOpenAI) -> None:
    """A server that tells neither usage nor model takes lines of several models."""
    batch = await done(gpt, lines_of(["a", "b", "c"], ("gpt-4o", "o4-mini")), sim="no_usage no_model")
    assert (batch.status, batch.usage, batch.model) == ("completed", None, None)
    told = await results(gpt, batch.output_file_id)
    assert [line["response"]["body"]["model"] for line in told] == ["gpt-4o", "o4-mini", "gpt-4o"]
    with pytest.raises(openai.BadRequestError, match="unknown 'no_idea'; use one of no_model, no_usage"):
        await done(gpt, b"", sim="no_idea")


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (lines_of(["a", "b"], ("gpt-4o", "o4-mini")), "mismatched_model", 2),
        (b"{}", "invalid_json_line", 1),
        (b"", "empty_file", None),
    ],
)
async def test_batch_that_fails(
    simulator: Simulator, gpt: openai.AsyncOpenAI, content: bytes, code: str, line: int | None
) -> None:
    """A file that is no good fails the batch as a whole, and nothing is used."""
    batch = await done(gpt, content)
    assert (batch.status, batch.output_file_id, batch.usage.total_tokens) == ("failed", None, 0)
    assert [(found.code, found.line) for found in batch.errors.data] == [(code, line)]
    assert simulator.ledger.entries == []


async def test_batch_that_expires(gpt: openai.AsyncOpenAI) -> None:
    """An answer that would never come leaves its line expired; one that breaks on its way fails it."""
    batch = await done(gpt, lines_of(["[[sim fail=timeout]]", "a", "[[sim fail=reset]]"]))
    assert (batch.status, batch.request_counts.completed, batch.usage.output_tokens) == ("expired", 1, 16)
    late, broken = await results(gpt, batch.error_file_id)
    assert (late["response"], late["error"]["code"]) == (None, "batch_expired")
    assert (broken["response"]["status_code"], broken["error"]) == (500, None)


async def test_files_and_batches_end(gpt: openai.AsyncOpenAI) -> None:
    """A file that is deleted is gone; a batch that is cancelled is not worked on."""
    file = await gpt.files.create(file=("in.jsonl", b""), purpose="batch")
    batch = await gpt.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert (await gpt.batches.cancel(batch.id)).status == "cancelled"
    assert (await gpt.batches.retrieve(batch.id)).output_file_id is None
    assert (await gpt.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await gpt.files.retrieve(file.id)
    assert [found.id async for found in gpt.files.list()] == []


async def test_lists_have_pages(gpt: openai.AsyncOpenAI) -> None:
    """The SDK reads on from page to page, newest first."""
    made = [(await gpt.files.create(file=(f"{at}.jsonl", b"x"), purpose="batch")).id for at in range(5)]
    assert [found.id async for found in gpt.files.list(limit=2)] == made[::-1]
    with pytest.raises(openai.BadRequestError, match="limit: '0'"):
        await gpt.files.list(limit=0)


# -- Anthropic ---------------------------------------------------------------------------------------------------------


def asks(*prompts: str) -> list[Any]:
    """Return requests of messages."""
    return [
        {"custom_id": f"c{at}", "params": {
            "model": ("claude-sonnet-5", "claude-haiku-4-5")[at % 2], "max_tokens": 50,
            "messages": [{"role": "user", "content": prompt}]}}
        for at, prompt in enumerate(prompts)
    ]  # fmt: skip


async def test_message_batch(simulator: Simulator, claude: anthropic.AsyncAnthropic) -> None:
    """Each request is answered once, at the tier that it says; what failed or expired used nothing."""
    wish = "[[sim output=7 cached=2 cache_write=3 usage_input=9 searches=1]] nonce=m1"
    batches = claude.messages.batches
    batch = await batches.create(requests=asks(wish, "one nonce=m2", "[[sim status=529]]", "[[sim fail=timeout]]"))
    assert (batch.processing_status, batch.results_url, batch.request_counts.processing) == ("in_progress", None, 4)
    ended = await batches.retrieve(batch.id)
    assert ended.processing_status == "ended"
    assert ended.results_url == f"{simulator.url}/v1/messages/batches/{batch.id}/results"
    assert (ended.request_counts.succeeded, ended.request_counts.errored, ended.request_counts.expired) == (2, 1, 1)
    told = {line.custom_id: line.result async for line in await batches.results(batch.id)}
    assert {name: result.type for name, result in told.items()} == {
        "c0": "succeeded", "c1": "succeeded", "c2": "errored", "c3": "expired",
    }  # fmt: skip
    assert list(told) == ["c3", "c2", "c1", "c0"]
    first = told["c0"]
    assert first.type == "succeeded"
    usage = first.message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (4, 2, 3)
    assert (usage.output_tokens, usage.service_tier) == (7, "batch")
    assert [(entry.nonce, entry.tier, entry.model) for entry in simulator.ledger.entries] == [
        ("m2", "batch", "claude-haiku-4-5"), ("m1", "batch", "claude-sonnet-5"),
    ]  # fmt: skip
    assert await batches.retrieve(batch.id) == ended


async def test_message_batch_that_is_cancelled(simulator: Simulator, claude: anthropic.AsyncAnthropic) -> None:
    """It ends with nothing used; only then can it be deleted."""
    batches = claude.messages.batches
    batch = await batches.create(requests=asks("a", "b"))
    with pytest.raises(anthropic.BadRequestError, match="before it has ended"):
        await batches.delete(batch.id)
    cancelled = await batches.cancel(batch.id)
    assert cancelled.processing_status == "canceling"
    assert cancelled.cancel_initiated_at is not None
    ended = await batches.retrieve(batch.id)
    assert (ended.processing_status, ended.request_counts.canceled) == ("ended", 2)
    assert [line.result.type async for line in await batches.results(batch.id)] == ["canceled", "canceled"]
    assert simulator.ledger.entries == []
    with pytest.raises(anthropic.BadRequestError, match="has ended"):
        await batches.cancel(batch.id)
    assert (await batches.delete(batch.id)).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError, match="batch: there is no"):
        await batches.retrieve(batch.id)


async def test_message_batches_have_pages(claude: anthropic.AsyncAnthropic) -> None:
    """The SDK reads on in both directions."""
    batches = claude.messages.batches
    made = [(await batches.create(requests=asks("a"))).id for _ in range(5)]
    assert [found.id async for found in batches.list(limit=2)] == made[::-1]
    newer = await batches.list(limit=2, before_id=made[0])
    assert ([found.id for found in newer.data], newer.has_more) == ([made[2], made[1]], True)
    with pytest.raises(anthropic.BadRequestError, match="with a custom_id of its own"):
        await batches.create(requests=[*asks("a"), *asks("b")])
    with pytest.raises(anthropic.BadRequestError, match="there is no 'who'"):
        await batches.list(after_id="who")
