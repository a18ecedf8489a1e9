"""The bundled list: exact, complete about what it says, silent about what it cannot say for certain."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, data_snapshot

from enforcer.adapters.price_list import PriceList
from schemas.money import Price, cost_nanos
from schemas.policy import Model, Provider
from schemas.tokens import TokenUsage
from tests.unit.enforcer.enforcer_parts import NOW_MS

NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
OPENAI = Provider(protocol="openai", base_url="simulated")
ANTHROPIC = Provider(protocol="anthropic", base_url="https://api.anthropic.com/v1")
MODEL = Model(provider="openai")


def _quote(provider: Provider, name: str, model: Model = MODEL) -> Price | None:
    return PriceList().at(NOW_MS)(provider, name, model)


def _rate(usd: str) -> int:
    return int(Decimal(usd) * 1_000_000_000)


def test_a_simulated_provider_has_the_prices_of_its_protocol() -> None:
    """The address says nothing, so the protocol's own provider is meant; the version says which entry it was."""
    price = _quote(OPENAI, "gpt-4o-mini")
    assert price is not None
    assert (price.tiers[0].input, price.tiers[0].cache_read, price.tiers[0].output) == (
        _rate("0.15"), _rate("0.075"), _rate("0.6"),
    )  # fmt: skip
    assert price.version.endswith(":openai/gpt-4o-mini")


def test_a_tier_begins_one_token_after_the_lists_threshold() -> None:
    """The list's tier is for more than 200,000 input tokens, all tokens of the request included."""
    price = _quote(ANTHROPIC, "claude-sonnet-4-5")
    assert price is not None
    assert [tier.min_input_tokens for tier in price.tiers] == [0, 200_001]
    at, above = (cost_nanos(price, TokenUsage(input=count)) for count in (200_000, 200_001))
    assert (at, above) == (200_000 * 3_000, 200_001 * 6_000)
    assert price.tiers[1].cache_write_1h == _rate("12")


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        (OPENAI, "nobody-has-this-model"),
        (ANTHROPIC, "gpt-4o-mini"),
        (Provider(protocol="openai", base_url="https://api.openai.com/v1"), "claude-sonnet-4-5"),
        (OPENAI, "whisper-1"),
    ],
)
def test_what_the_list_does_not_price_has_no_price(provider: Provider, name: str) -> None:
    """Unknown models, models that a known provider does not offer, and prices by the minute: none, not zero."""
    assert _quote(provider, name) is None


def test_embeddings_need_no_output_price() -> None:
    """A model that answers with vectors is priced by its input alone."""
    price = _quote(OPENAI, "text-embedding-3-small")
    assert price is not None
    assert (price.tiers[0].input, price.tiers[0].output) == (_rate("0.02"), 0)


def test_an_unknown_address_falls_back_to_the_models_name() -> None:
    """A gateway at an address of its own serves a model whose name says whose it is."""
    price = _quote(Provider(protocol="openai", base_url="http://10.0.0.5/v1"), "claude-sonnet-4-5")
    assert price is not None
    assert ":anthropic/" in price.version


def test_looking_up_names_leaves_nothing_behind() -> None:
    """The library's own look-ups remember every name; ours do not."""
    snapshot = data_snapshot.get_snapshot()
    before = len(snapshot._lookup_cache), len(snapshot._provider_misses), len(snapshot._provider_cache)
    for number in range(50):
        _quote(OPENAI, f"made-up-{number}")
    assert (len(snapshot._lookup_cache), len(snapshot._provider_misses), len(snapshot._provider_cache)) == before


def test_every_priced_model_of_the_list_costs_what_the_library_computes() -> None:
    """For all models of two providers: our integer cost is the library's Decimal, rounded once."""
    usage = TokenUsage(input=1_001, output=333, cache_read=77)
    theirs = Usage(input_tokens=1_078, output_tokens=333, cache_read_tokens=77)
    quote, compared = PriceList().at(NOW_MS), 0
    for listed in data_snapshot.get_snapshot().providers:
        if listed.id not in ("openai", "anthropic"):
            continue
        provider = Provider(protocol="openai" if listed.id == "openai" else "anthropic", base_url="simulated")
        for found in listed.models:
            price = quote(provider, found.id, MODEL)
            if price is None or not price.version.endswith(f":{listed.id}/{found.id}"):
                continue
            expected = found.calc_price(theirs, listed, genai_request_timestamp=NOW).total_price
            if price.tiers[0].output == 0 or "per-request" in str(found.prices):
                continue
            assert cost_nanos(price, usage) == round(expected * 1_000_000_000), found.id
            compared += 1
    assert compared > 80
