"""What batches of the official Python SDKs are charged is what the provider's ledger has, and what their lines show."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from schemas.usage import UsageEvent
from tests.contract.sdk_batches import (
    POLICY,
    PRICES,
    anthropic_requests,
    charged,
    openai_lines,
    told,
    used,
)  # fmt: skip
from tests.contract.sdk_usage import by_completion, said
from tests.stream.ingress_lab import Lab, org_of, running

ENDPOINTS: dict[Any, str] = {
    "/v1/chat/completions": "gpt-5", "/v1/responses": "gpt-5", "/v1/completions": "gpt-5",
    "/v1/embeddings": "text-embedding-3-small",
}  # fmt: skip


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """An ingress with accounts of both providers."""
    async with running(POLICY, prices=PRICES) as found:
        yield found


async def create(gpt: openai.AsyncOpenAI, lines: list[dict[str, Any]], sim: str = "") -> Any:
    """Create a batch and poll it until it is over."""
    content = "\n".join(map(json.dumps, lines)).encode()
    file = await gpt.files.create(file=("in.jsonl", content), purpose="batch")
    batch = await gpt.batches.create(
        input_file_id=file.id, endpoint=lines[0]["url"], completion_window="24h", metadata={"sim": sim} if sim else {}
    )
    while (batch := await gpt.batches.retrieve(batch.id)).status != "completed":
        assert batch.status in ("validating", "in_progress", "finalizing")
    return batch


def charges(lab: Lab) -> list[UsageEvent]:
    """Return what is charged for all that was told: to whom it belongs, at the tier `batch`, and nothing else."""
    events = charged(lab.batches.told, time.time_ns() // 1_000_000)
    assert len({event.id for event in events}) == len(events)
    for event in events:
        assert (org_of(event), event.status, event.usage_source) == ("acme", "settled", "provider")
        assert event.detail is not None
        assert event.detail.service_tier == "batch"
    return events


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_lines_are_charged_as_used(lab: Lab, gpt: openai.AsyncOpenAI, endpoint: str) -> None:
    """Each line at its own operation, once, though its file is fetched three times and its batch polled in between."""
    batch = await create(gpt, openai_lines(endpoint, ENDPOINTS[endpoint]), sim="no_usage no_model")
    for _ in range(3):
        output = (await gpt.files.content(batch.output_file_id)).text
        await gpt.batches.retrieve(batch.id)
    events = charges(lab)
    assert told(events) == used(lab.simulator.ledger.entries)
    assert len(events) == 3
    if endpoint.endswith("/completions"):
        usages = [openai.types.CompletionUsage(**json.loads(line)["response"]["body"]["usage"])
                  for line in output.splitlines()]  # fmt: skip
        assert [said(event) for event in events] == [by_completion(usage) | {"tier": "batch"} for usage in usages]


async def test_total_is_charged_as_used(lab: Lab, gpt: openai.AsyncOpenAI) -> None:
    """A batch that tells what it used is charged at once, and its lines never; its owner need not fetch them."""
    lines = openai_lines("/v1/chat/completions")
    del lines[0]  # the total of a batch does not tell what was written to the cache
    batch = await create(gpt, lines)
    (event,) = charges(lab)
    assert batch.model == "gpt-5"
    assert said(event) == {
        "input": batch.usage.input_tokens, "output": batch.usage.output_tokens, "tier": "batch",
    }  # fmt: skip
    assert event.cost_nanos == sum(key[-1] * count for key, count in used(lab.simulator.ledger.entries).items())
    assert event.detail is not None
    assert (event.detail.kind, event.detail.stands_for, event.detail.flags) == ("folded", 2, ("batch_total",))
    await gpt.files.content(batch.output_file_id)
    assert charges(lab) == [event]


async def test_message_batch_is_charged_as_used(lab: Lab, claude: anthropic.AsyncAnthropic) -> None:
    """Results are fetched from the gateway, where their address leads; what failed or expired costs nothing."""
    batches = claude.messages.batches
    batch = await batches.create(requests=anthropic_requests())
    while (batch := await batches.retrieve(batch.id)).processing_status != "ended":
        assert batch.processing_status == "in_progress"
    assert batch.results_url == f"{lab.url}/v1/messages/batches/{batch.id}/results"
    for _ in range(3):
        results = [line.result async for line in await batches.results(batch.id)]
    events = charges(lab)
    assert told(events) == used(lab.simulator.ledger.entries)
    usages = [result.message.usage for result in results if result.type == "succeeded"]
    assert len(events) == len(usages) == 4
    assert {usage.service_tier for usage in usages} == {"batch"}
    shown = [(usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) for usage in usages]
    assert [(event.usage.input, event.usage.cache_read, event.usage.all_output) for event in events] == shown
    assert sorted(event.operation for event in events) == ["messages"] * 4
    assert [one.id async for one in batches.list()] == [batch.id]
    assert (await batches.delete(batch.id)).type == "message_batch_deleted"
