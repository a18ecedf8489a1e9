"""What the conformance tests of batches share: accounts, prices of the tier `batch`, what is charged and what was used.

What replicas tell of batches goes through the enforcer's own fold, as it would from the log; the provider's ledger is
what has to come out.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from deploy.simulator import Entry
from enforcer.core.batch_terms import Terms
from enforcer.core.batches import Charged, concluded, fold
from enforcer.core.policy import read
from schemas.batches import Sighting
from schemas.codec import decode_event, decode_record
from schemas.money import Rates, cost_nanos
from schemas.policy import PolicyRecord
from schemas.tokens import TokenUsage
from schemas.usage import Batch, UsageEvent
from tests.contract import sdk_usage
from tests.contract.sdk_usage import BY_TOKENS

POLICY = sdk_usage.POLICY.replace(
    "  claude-sonnet: {provider: ant}\n",
    "  claude-sonnet: {provider: ant}\n  claude-haiku: {provider: ant}\n"
    "  claude-account: {provider: ant, operations: [messages.batches]}\n",
)
BATCH = msgspec.structs.replace(
    BY_TOKENS,
    variants={"batch": (Rates(0, 70_000, 30_000, 90_000, 150_000, 300_000, 310_000, 500_000, 1_000_000),)},
)
"""Half of it, more or less, so that another tier would be noticed."""
PRICES = {
    **sdk_usage.PRICES,
    **dict.fromkeys(("gpt-5", "text-embedding-3-small", "claude-sonnet", "claude-haiku"), BATCH),
}
OPERATIONS = {"chat": "chat.completions"}
"""The ledger's names where they are others."""
WISHES = (
    "[[sim output=40 usage_input=90 cached=20 cache_write=6 reasoning=12]] tell me",
    "[[sim output=41 usage_input=50]] tell me more",
    "tell me the rest",
)

Used = tuple[str, int, int, int, int, int, tuple[tuple[str, int], ...], int]
"""Operation; tokens of all input, of it cached and cache-written; of all output, of it reasoning; units; nano-USD."""


def charged(sightings: list[Sighting], now_ms: int) -> list[UsageEvent]:
    """Return the events that what was told of batches comes to, in the order of the log."""
    record = PolicyRecord(7, POLICY, "", now_ms, "ann", "", dict(PRICES))
    terms = Terms(record, read(POLICY).policy, 2, lambda key: None)
    state, events = Charged(), list[UsageEvent]()
    for offset, sighting in enumerate(sightings):
        while state.position <= offset:
            step = fold(state, sighting, offset, terms, now_ms).step
            if step is None:
                state.passed(offset + 1)
                continue
            for _, value in step.records:
                written = decode_record(value)
                assert isinstance(written, Batch)
                events += map(decode_event, written.events)
            state.take(step)
            state.take(concluded(step))
    return events


def used(entries: list[Entry]) -> Counter[Used]:
    """Return what each answer used and has to cost, by the provider's ledger: at the tier `batch`, one and all."""
    assert {entry.tier for entry in entries} <= {"batch"}
    return Counter(
        (
            OPERATIONS.get(entry.operation, entry.operation), entry.input, entry.cached, entry.cache_write,
            entry.output, entry.reasoning, tuple(sorted(entry.units.items())), _cost(entry),
        )
        for entry in entries
    )  # fmt: skip


def _cost(entry: Entry) -> int:
    usage = TokenUsage(
        input=entry.input - entry.cached - entry.cache_write, cache_read=entry.cached, cache_write=entry.cache_write,
        output=entry.output - entry.reasoning, reasoning=entry.reasoning,
    )  # fmt: skip
    return cost_nanos(BATCH, usage, entry.units, "batch")


def told(events: list[UsageEvent]) -> Counter[Used]:
    """Return the same of events."""
    return Counter(
        (
            event.operation, event.usage.all_input, event.usage.cache_read,
            event.usage.cache_write + event.usage.cache_write_1h, event.usage.all_output, event.usage.reasoning,
            tuple(sorted((event.detail.units if event.detail else {}).items())), event.cost_nanos or 0,
        )
        for event in events
    )  # fmt: skip


def openai_lines(endpoint: str, model: str = "gpt-5") -> list[dict[str, Any]]:
    """Return lines of an input file, one for each of `WISHES`."""
    return [
        {"custom_id": f"c{at}", "method": "POST", "url": endpoint, "body": {"model": model, **_asked(endpoint, wish)}}
        for at, wish in enumerate(WISHES)
    ]


def _asked(endpoint: str, wish: str) -> dict[str, Any]:
    if endpoint.endswith("/responses"):
        return {"input": wish, "tools": [{"type": "web_search"}]}
    if endpoint.endswith("/embeddings"):
        return {"input": [wish.rpartition("]")[2]]}
    if endpoint.endswith("/chat/completions"):
        return {"messages": [{"role": "user", "content": wish}]}
    return {"prompt": wish}


def anthropic_requests() -> Any:
    """Return requests of a message batch: the wishes at both models, one that fails, and one that expires."""
    wishes = [*WISHES, WISHES[1].replace("]]", " searches=2]]"), "[[sim status=529]] x", "[[sim fail=timeout]] x"]
    return [
        {"custom_id": f"c{at}", "params": {
            "model": ("claude-sonnet", "claude-haiku")[at % 2], "max_tokens": 64,
            "messages": [{"role": "user", "content": wish}]}}
        for at, wish in enumerate(wishes)
    ]  # fmt: skip
