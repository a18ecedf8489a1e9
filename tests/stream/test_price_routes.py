"""The routes of the price book over a log in memory: what they answer, and what they refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from enforcer.price_routes import add
from enforcer.prices import PricePlane
from enforcer.telemetry import Telemetry
from schemas.codec import decode_json
from schemas.prices import PriceEntry
from tests.stream.test_enforcer_prices import CONTRACT, FROM_MS, LATER, NOW_MS, OVERRIDE, Shop
from tests.unit.enforcer.enforcer_parts import DOCUMENT
from tests.unit.enforcer.test_book import usd

VOLUME = """
prices:
  - {provider: openai, model: gpt-4o-mini, kind: contract, org: acme, discounts: [{percent: 5%, of: output}],
     volume: {by: tokens, steps: [{above: 1_000_000, discounts: [{percent: 50%}]}]}}
  - {provider: openai, model: gpt-4o-mini, kind: override, org: acme, from: 2026-11-01T00:00:00Z, price: {
       units: {audio_ms: 0.006 USD per minute}}}
"""


@asynccontextmanager
async def _client(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    add(app, shop.prices, shop.state, Telemetry(lambda: iter(())))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://enforcer") as client:
        yield client


async def _get(client: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_without_a_policy_there_are_no_prices() -> None:
    """An empty book answers, and a model that it does not know has no price."""
    async with _client(Shop()) as client:
        assert (await _get(client, "/v1/prices"))["models"] == []
        assert (await client.get("/v1/prices/book")).content == b""
        found = await _get(client, "/v1/prices/at", provider="openai", model="gpt-4o-mini", at_ms="1")
        assert found["price"] is None


async def test_prices_are_recorded_and_told() -> None:
    """What replicas rate with, all entries in the order of recording, and one price at a time as of a time."""
    shop = Shop()
    await shop.apply(DOCUMENT.replace("models:\n", "models:\n  mine: {provider: openai, upstream: llama}\n"))
    async with _client(shop) as client:
        for text in (OVERRIDE, CONTRACT, VOLUME):
            made = await client.post("/v1/prices", json={"document": text, "reason": "why", "actor": "ada"})
            assert (made.status_code, made.json()["recorded"]) == (200, True), made.text
        models = {(model["org"], model["name"]): model for model in (await _get(client, "/v1/prices"))["models"]}
        assert set(models) == {("", "mine"), ("", "gpt-4o-mini"), ("acme", "gpt-4o-mini")}
        assert (models["", "mine"]["price"], models["", "mine"]["model"]) == (None, "llama")
        assert models["", "gpt-4o-mini"]["price"]["source"] == "override"
        assert models["acme", "gpt-4o-mini"]["price"]["listed"]["tiers"][0]["output"] == "0.6"
        assert models["acme", "gpt-4o-mini"]["price"]["tiers"][0]["output"] == "0.57"

        history = (await _get(client, "/v1/prices/history", model="gpt-4o-mini", org="acme"))["entries"]
        assert [entry["kind"] for entry in history] == ["contract", "override"]
        assert history[0]["volume"]["steps"][0]["above"] == 1_000_000
        assert history[1]["example"] == "1 minute of audio = 0.006 USD"
        listed = (await _get(client, "/v1/prices/history", kind="list", provider="openai"))["entries"]
        assert {entry["kind"] for entry in listed} == {"list"}
        lines = (await client.get("/v1/prices/book")).content.splitlines()
        assert [decode_json(PriceEntry, line).id for line in lines] == list(shop.state.book.entries)

        where = {"provider": "openai", "model": "gpt-4o-mini", "at_ms": str(NOW_MS + 5)}
        now = await _get(client, "/v1/prices/at", **where)
        then = await _get(client, "/v1/prices/at", **where, known_at_ms=str(NOW_MS))
        assert (now["price"]["tiers"][0]["input"], then["price"]["tiers"][0]["input"]) == ("7", "0.15")


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"document": "prices: [{provider: openai}]"}, 422, "prices.0.model"),
        ({"document": OVERRIDE, "base": 0}, 409, "somebody recorded prices in between"),
        ({"document": OVERRIDE.replace("provider: openai", "provider: nobody")}, 422, "name a provider of the policy"),
        ({"text": ""}, 422, "unknown field"),
    ],
)
async def test_what_cannot_be_recorded_is_refused(body: dict[str, Any], status: int, named: str) -> None:
    """With what is wrong and what to do; nothing is written."""
    shop = Shop()
    await shop.apply()
    before = len(shop.log.records)
    async with _client(shop) as client:
        refused = await client.post("/v1/prices", json=body)
        assert (refused.status_code, named in refused.text) == (status, True), refused.text
        wrong = await client.get("/v1/prices/at", params={"provider": "p", "model": "m", "at_ms": "now"})
        assert wrong.status_code == 422
    assert len(shop.log.records) == before


async def test_prices_that_begin_are_published_without_being_asked() -> None:
    """The keeper looks again and again, also after the broker was away."""
    shop = Shop()
    await shop.apply()
    await shop.record(LATER)
    plane = PricePlane(shop.plane, lambda: shop.now_ms, every_s=0.001)
    keeper = asyncio.create_task(plane.keep(), name="keeper")
    try:
        shop.now_ms, shop.log.lose = FROM_MS, 0
        async with asyncio.timeout(10):
            while usd(shop.price()) != 3:
                await asyncio.sleep(0.001)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def test_prices_that_do_not_fit_into_a_record_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written, with what to do; a moment that brings them publishes nothing."""
    shop = Shop()
    await shop.apply()
    await shop.record(LATER)
    monkeypatch.setattr("enforcer.prices.MAX_RECORD_BYTES", 100)
    before = len(shop.log.records)
    refused = await shop.prices.record(OVERRIDE, "ada", "", False, None)
    assert getattr(refused, "status", 0) == 413
    shop.now_ms = FROM_MS
    assert not await shop.prices.look()
    assert len(shop.log.records) == before
