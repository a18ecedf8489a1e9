"""What the conformance tests of usage share: a policy with every kind of model, and what an event says in one line."""

from __future__ import annotations

from typing import Any

from schemas.money import Price, Rates, cost_nanos
from schemas.policy_file import load_policy
from schemas.usage import UsageEvent

POLICY = """
orgs: {acme: {teams: [search]}}
providers:
  oai: {protocol: openai, base_url: simulated}
  ant: {protocol: anthropic, base_url: simulated}
models:
  gpt-5: {provider: oai}
  nick: {provider: oai, upstream: gpt-5}
  text-embedding-3-small: {provider: oai}
  omni-moderation-latest: {provider: oai}
  gpt-image-2: {provider: oai}
  pictures: {provider: oai, upstream: gpt-image-2}
  dall-e-3: {provider: oai}
  tts-1: {provider: oai}
  gpt-4o-mini-tts: {provider: oai}
  whisper-1: {provider: oai}
  gpt-4o-transcribe: {provider: oai}
  hearing: {provider: oai, upstream: gpt-4o-transcribe}
  account: {provider: oai, operations: [files, batches]}
  claude-sonnet: {provider: ant}
max_body_bytes: 4194304
"""
SOUND = bytes(range(256)) * 400
"""102,400 bytes, which the simulated provider hears as seven seconds."""

_TOKENS = Rates(0, 150_000, 75_000, 187_500, 300_000, 600_000, 600_000, 1_000_000, 2_000_000, 500_000, 4_000_000)
BY_TOKENS = Price("test", "v1", (_TOKENS,), units={
    "web_search": 10_000_000_000_000, "file_search": 2_500_000_000_000, "code_session": 30_000_000_000_000,
})  # fmt: skip
"""Tokens of each class, and fees of server tools."""
_FREE = Rates(0, 0, 0, 0, 0, 0, 0, 0, 0)
BY_UNITS = Price("test", "v1", (_FREE,), units={
    "images": 40_000_000_000_000, "characters": 15_000_000_000, "audio_ms": 100_000_000_000,
})  # fmt: skip
"""USD 0.04 an image, 15 a million characters, 0.006 a minute."""
PRICES = {
    **dict.fromkeys(load_policy(POLICY).models, BY_TOKENS),
    **dict.fromkeys(("dall-e-3", "tts-1", "whisper-1"), BY_UNITS),
}  # fmt: skip
"""By the names of `POLICY`."""


def said(event: UsageEvent) -> dict[str, Any]:
    """Return what an event says of usage, without what is zero."""
    usage = {name: getattr(event.usage, name) for name in event.usage.__struct_fields__}
    found: dict[str, Any] = {name: count for name, count in usage.items() if count}
    if event.detail is not None:
        found.update(event.detail.units)
        if event.detail.service_tier:
            found["tier"] = event.detail.service_tier
    return found


def is_priced_right(event: UsageEvent, model: str) -> bool:
    """Tell whether an event costs what its usage costs by the price of its model, to the nano-USD."""
    price = PRICES[model]
    detail = event.detail
    units, tier = ({}, "") if detail is None else (detail.units, detail.service_tier)
    return event.cost_nanos == event.charge_nanos == cost_nanos(price, event.usage, units, tier)


def by_completion(usage: Any) -> dict[str, int]:
    """Return disjoint classes of an SDK's usage of a completion."""
    read, written = usage.prompt_tokens_details, usage.completion_tokens_details
    cached, stored = read.cached_tokens, read.cache_write_tokens
    classes = {
        "input": usage.prompt_tokens - cached - stored, "cache_read": cached, "cache_write": stored,
        "output": usage.completion_tokens - written.reasoning_tokens, "reasoning": written.reasoning_tokens,
    }  # fmt: skip
    return {name: count for name, count in classes.items() if count}
