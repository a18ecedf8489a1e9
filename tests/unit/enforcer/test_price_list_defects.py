"""Where the price list's own library loses usage, and that our way from an answer to its cost does not go there.

Each test first shows the defect with the real library, so that one which is mended is noticed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from genai_prices import Usage, calc_price, data_snapshot, extract_usage

from enforcer.adapters.price_list import PriceList
from ingress.core.providers import anthropic, openai
from ingress.core.sse import EventRelay
from schemas.money import Price, cost_nanos, is_priced
from schemas.policy import Model, Provider
from schemas.tokens import TokenUsage
from tests.unit.enforcer.enforcer_parts import NOW_MS

GOOGLE = Provider(
    protocol="openai", base_url="https://generativelanguage.googleapis.com/v1beta/openai"
)  # fmt: skip
OPENAI = Provider(protocol="openai", base_url="https://api.openai.com/v1")
ANTHROPIC = Provider(protocol="anthropic", base_url="https://api.anthropic.com/v1")


def _price(provider: Provider, name: str) -> Price:
    price = PriceList().at(NOW_MS)(provider, name, Model(provider="p"))
    assert price is not None
    return price


def _answer(usage: dict[str, Any], model: str) -> bytes:
    return json.dumps({"model": model, "choices": [], "usage": usage}).encode()


def test_cached_tokens_beside_audio_are_priced() -> None:
    """The library wants a count that the provider does not tell, and raises; here the classes are disjoint already."""
    told = {
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {
            "promptTokenCount": 1000, "candidatesTokenCount": 50, "totalTokenCount": 1050,
            "cachedContentTokenCount": 400,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 800}, {"modality": "AUDIO", "tokenCount": 200}],
        },
    }  # fmt: skip
    with pytest.raises(ValueError, match="Missing usage for cache_audio_read_tokens"):
        extract_usage(told, provider_id="google").calc_price()

    usage = {
        "prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050,
        "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 200},
    }  # fmt: skip
    reported = openai.read_answer(_answer(usage, "gemini-2.5-flash"))
    assert reported.usage == TokenUsage(input=400, output=50, cache_read=400, audio_input=200)
    # 400 × 0.30 + 400 × 0.03 + 200 × 1 + 50 × 2.50 = 457 micro-USD
    assert cost_nanos(_price(GOOGLE, "gemini-2.5-flash"), reported.usage) == 457_000


def test_usage_of_a_model_that_no_list_knows_is_kept() -> None:
    """The library raises and the tokens are gone; here they are counted, and their cost is unknown, not zero."""
    answer = _answer({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}, "gpt-unknown-99")
    with pytest.raises(LookupError, match="Unable to find model"):
        extract_usage(json.loads(answer), provider_id="openai", api_flavor="chat")

    assert openai.read_answer(answer).usage == TokenUsage(input=11, output=7)
    assert PriceList().versions(OPENAI, "gpt-unknown-99", Model(provider="p")) == []


def test_the_last_word_of_a_stream_of_messages_is_read() -> None:
    """The library needs the input in each event; here cumulative counts replace what was told before."""
    start: dict[str, Any] = {"type": "message_start", "message": {"model": "claude-sonnet-4-5", "usage": {
        "input_tokens": 20, "cache_read_input_tokens": 300, "output_tokens": 1}}}  # fmt: skip
    deltas: list[dict[str, Any]] = [
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": count}} for count in (5, 42)
    ]
    listed = next(one for one in data_snapshot.get_snapshot().providers if one.id == "anthropic")
    with pytest.raises(ValueError, match=r"Missing value at `usage\.input_tokens`"):
        listed.extract_usage(deltas[-1])

    relay = EventRelay(anthropic.AnthropicStream())
    for event in (start, *deltas, {"type": "message_stop"}):
        relay.feed(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    relay.finish()
    usage = relay.reader.reported.usage
    assert usage == TokenUsage(input=20, output=42, cache_read=300)
    # 20 × 3 + 300 × 0.30 + 42 × 15 = 780 micro-USD
    assert cost_nanos(_price(ANTHROPIC, "claude-sonnet-4-5"), usage) == 780_000


def test_more_cached_than_read_has_a_cost_and_a_flag() -> None:
    """Some compatible servers say so. The library raises; here the larger reading is taken and flagged."""
    with pytest.raises(ValueError, match="cannot exceed input_tokens"):
        calc_price(Usage(input_tokens=10, cache_read_tokens=20, output_tokens=1), "gpt-4o", provider_id="openai")

    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 20}}
    reported = openai.read_answer(_answer(usage, "gpt-4o"))
    price = _price(OPENAI, "gpt-4o")
    assert reported.usage is not None
    assert reported.usage.all_input >= 20
    assert reported.flags == ("contradictory",)
    assert is_priced(price, reported.usage)
    assert cost_nanos(price, reported.usage) >= 20 * 1_250 + 10_000


def test_names_that_clients_make_up_leave_no_trace() -> None:
    """The library remembers every name that it was asked for, for ever; here nothing grows."""
    snapshot = data_snapshot.get_snapshot()

    def remembered() -> int:
        return len(snapshot._lookup_cache) + len(snapshot._provider_misses) + len(snapshot._provider_cache)

    before = remembered()
    for number in range(30):
        with pytest.raises(LookupError):
            calc_price(Usage(input_tokens=1), f"made-up-by-a-client-{number}")
    grown = remembered()
    assert grown >= before + 30
    prices = PriceList()
    for number in range(200):
        prices.versions(OPENAI, f"made-up-{number}", Model(provider="p"))
        prices.versions(OPENAI, f"gpt-4o-made-up-{number}", Model(provider="p"))
    assert remembered() == grown
