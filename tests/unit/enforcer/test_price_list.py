"""The bundled list: exact, complete about what it says, silent about what it cannot say for certain."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, data_snapshot, types

from enforcer.adapters.price_list import PriceList
from schemas.money import Price, cost_nanos, is_priced
from schemas.policy import Model, Provider
from schemas.tokens import NO_TOKENS, TokenUsage
from tests.unit.enforcer.enforcer_parts import NOW_MS

NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
OPENAI = Provider(protocol="openai", base_url="simulated")
ANTHROPIC = Provider(protocol="anthropic", base_url="https://api.anthropic.com/v1")
MODEL = Model(provider="openai")
URLS = {"openai": "simulated", "anthropic": "simulated", "groq": "https://api.groq.com/openai/v1"}


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
    ],
)
def test_what_the_list_does_not_price_has_no_price(provider: Provider, name: str) -> None:
    """Unknown models, and models that a known provider does not offer: none, not zero."""
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


def _theirs(found: types.ModelInfo, listed: types.Provider, usage: Usage, context: dict[str, str]) -> int:
    price = found.calc_price(usage, listed, genai_request_timestamp=NOW, price_context=context).total_price
    return round(price * 1_000_000_000)


def _all() -> list[tuple[types.Provider, types.ModelInfo, Price]]:
    """Return every model of the list that has a price here which is found under its own name."""
    quote, found = PriceList().at(NOW_MS), []
    for listed in data_snapshot.get_snapshot().providers:
        if listed.id not in ("openai", "anthropic", "groq"):
            continue
        provider = Provider(protocol="anthropic" if listed.id == "anthropic" else "openai", base_url=URLS[listed.id])
        for model in listed.models:
            price = quote(provider, model.id, MODEL)
            if price is not None and price.version.endswith(f":{listed.id}/{model.id}"):
                found.append((listed, model, price))
    return found


def test_every_priced_model_of_the_list_costs_what_the_library_computes() -> None:
    """For all models of three providers: our integer cost is the library's Decimal, rounded once."""
    usage = TokenUsage(input=1_001, output=333, cache_read=77)
    theirs = Usage(input_tokens=1_078, output_tokens=333, cache_read_tokens=77)
    compared = 0
    for listed, found, price in _all():
        if price.tiers and price.tiers[0].output:
            assert cost_nanos(price, usage) == _theirs(found, listed, theirs, {}), found.id
            compared += 1
    assert compared > 80


def test_every_service_tier_costs_what_the_library_computes() -> None:
    """Batch, flex, priority and fast, wherever the list has them."""
    usage, theirs = TokenUsage(input=901, output=333), Usage(input_tokens=901, output_tokens=333)
    compared = dict.fromkeys(("batch", "flex", "priority", "fast"), 0)
    for listed, found, price in _all():
        for tier in price.variants:
            part = "processing" if tier == "batch" else "speed" if listed.id == "anthropic" else "service_tier"
            expected = _theirs(found, listed, theirs, {part: tier})
            assert cost_nanos(price, usage, service_tier=tier) == expected, (found.id, tier)
            compared[tier] += 1
    assert min(compared.values()) >= 5, compared
    assert compared["batch"] >= 40


def test_searches_audio_and_characters_cost_what_the_library_computes() -> None:
    """Units beside tokens: to the nano, also where a price by the hour is no whole number a millisecond."""
    names = {"web_search": "web_searches", "file_search": "storage_searches", "characters": "input_characters"}
    compared = 0
    for listed, found, price in _all():
        for unit in price.units:
            count = 12_345
            theirs = (
                Usage(audio_seconds=Decimal(count) / 1000, input_audio_seconds=Decimal(count) / 1000)
                if unit == "audio_ms" else Usage(**{names[unit]: count})
            )  # fmt: skip
            expected = _theirs(found, listed, theirs, {})
            assert cost_nanos(price, NO_TOKENS, {unit: count}) == expected, (found.id, unit)
            compared += 1
    assert compared > 80


def test_a_model_priced_by_the_minute_has_no_price_for_tokens() -> None:
    """The minute is priced exactly, and tokens that such a model reports all the same are unknown, not free."""
    price = _quote(OPENAI, "whisper-1")
    assert price is not None
    assert cost_nanos(price, NO_TOKENS, {"audio_ms": 60_000}) == 6_000_000
    assert is_priced(price, NO_TOKENS, {"audio_ms": 60_000})
    assert not is_priced(price, TokenUsage(input=1), {})


def test_ten_seconds_are_billed_at_least_where_the_provider_says_so() -> None:
    """A rule that the library has in its code and not in its data."""
    price = _quote(Provider(protocol="openai", base_url=URLS["groq"]), "whisper-large-v3")
    assert price is not None
    assert [cost_nanos(price, NO_TOKENS, {"audio_ms": count}) for count in (0, 1, 10_000, 20_000)] == [
        0, 308_333, 308_333, 616_667,
    ]  # fmt: skip


def test_what_begins_later_is_a_version_of_its_own() -> None:
    """Dates of the list, past and future, become versions from that day on, in UTC."""
    versions = PriceList().versions(ANTHROPIC, "claude-opus-4-6", MODEL)
    starts = [version.valid_from_ms for version in versions]
    assert starts[:2] == [0, int(datetime(2026, 3, 13, tzinfo=UTC).timestamp() * 1000)]
    assert starts == sorted(set(starts))
    tiers = [len(version.price.tiers) for version in versions if version.price is not None]
    assert tiers[:2] == [2, 1]


def test_hours_of_the_day_are_kept_as_hours() -> None:
    """A dearer price by day is not averaged and not left out."""
    deepseek = Provider(protocol="openai", base_url="https://api.deepseek.com")
    last = PriceList().versions(deepseek, "deepseek-v4-pro", MODEL)[-1]
    assert last.price is not None
    assert [(daily.from_minute, daily.to_minute) for daily in last.daily] == [(60, 240), (360, 600)]
    assert {daily.price.tiers[0].input for daily in last.daily} == {2 * last.price.tiers[0].input}


@pytest.mark.parametrize(
    "said",
    [
        {"input_mtok": Decimal("0.0000000001"), "output_mtok": Decimal(1)},
        {"input_mtok": Decimal(1), "output_mtok": Decimal(1), "requests_kcount": Decimal("0.0000001")},
        {"input_mtok": Decimal(1)},
        {"input_document_kpages": Decimal(1)},
        {"web_searches_kcount": Decimal("1e-16")},
    ],
)
def test_what_cannot_be_held_exactly_has_no_price(said: dict[str, Decimal]) -> None:
    """More decimals than a rate has, an input without an output, pages: none, not nearly."""
    found = types.ModelInfo("m", types.ClauseEquals("m"), prices=types.ModelPrice(**said))
    listed = types.Provider("p", "P", "https://p", models=[found])
    assert PriceList()._version_at(listed, found, MODEL, 0).price is None
