"""Recording and publishing prices over a log in memory: what is written, in which order, and what the clock brings."""

from __future__ import annotations

import msgspec
import pytest

from enforcer.adapters.price_list import PriceList
from enforcer.control import Applied, ControlPlane
from enforcer.core.control import ControlState
from enforcer.errors import Refusal
from enforcer.prices import PricePlane, Recorded
from schemas.audit import AuditEntry, broken_link
from schemas.codec import decode_json, encode_json
from schemas.errors import TransportError
from schemas.money import Price
from schemas.policy import PolicyRecord
from schemas.topics import AUDIT, POLICY, PRICES
from tests.stream.enforcer_log import FakeLog
from tests.unit.enforcer.enforcer_parts import DOCUMENT
from tests.unit.enforcer.test_book import usd

NOW_MS = 1_795_000_000_000
DAY_MS = 86_400_000
OVERRIDE = """
prices:
  - {provider: openai, model: gpt-4o-mini, kind: override, price: {input: 7, output: 9}, reason: internal}
"""
LATER = """
prices:
  - {provider: openai, model: gpt-4o-mini, kind: override, from: 2026-11-19T00:00:00Z, to: 2026-11-20T00:00:00Z,
     price: {input: 3, output: 9}}
"""
FROM_MS, TO_MS = 1_795_046_400_000, 1_795_132_800_000
CONTRACT = "prices: [{provider: openai, model: '*', kind: contract, org: acme, discounts: [{percent: 20%}]}]"


class Shop:
    """A control plane with prices, its log, its state and its clock."""

    def __init__(self, log: FakeLog | None = None) -> None:
        self.now_ms = NOW_MS
        self.state = ControlState()
        self.log = FakeLog(self.state)
        if log is not None:
            self.log.records = log.records
        self.plane = ControlPlane(
            self.state, self.log, self.log, PriceList(), lambda: self.now_ms, lambda count: b"r" * count
        )
        self.prices = PricePlane(self.plane, lambda: self.now_ms)

    async def apply(self, text: str = DOCUMENT) -> None:
        """Put a document in force."""
        assert isinstance(await self.plane.apply(text, "", "me", False, None), Applied)

    async def record(self, text: str | None, *, dry_run: bool = False, base: int | None = None) -> Recorded:
        """Record prices."""
        found = await self.prices.record(text, "ada", "because", dry_run, base)
        assert isinstance(found, Recorded), found
        return found

    def price(self, org: str = "") -> Price | None:
        """Return what replicas rate with."""
        assert self.state.current is not None
        own = self.state.current.org_prices.get(org, {})
        return own.get("gpt-4o-mini") or self.state.current.prices.get("gpt-4o-mini")

    def audit(self) -> list[AuditEntry]:
        """Return the chain as it was written."""
        return [decode_json(AuditEntry, value or b"") for value in self.log.of(AUDIT)]


async def test_a_recorded_price_is_published_in_the_same_write() -> None:
    """Entry, version in force with the new price, audit entry; the version keeps its number and its document."""
    shop = Shop()
    await shop.apply()
    before = len(shop.log.records)
    made = await shop.record(OVERRIDE)
    assert [topic for topic, _, _ in shop.log.records[before:]] == [PRICES, POLICY, AUDIT]
    assert shop.state.current is not None
    assert (shop.state.current.version, shop.state.current.prices_revision) == (1, 1)
    assert shop.state.current.document == DOCUMENT
    assert (usd(shop.price()), made.entries, made.repriced, made.recorded) == (7, 1, 1, True)
    entry = shop.audit()[-1]
    assert (entry.action, entry.actor, entry.detail["source"]) == ("prices.record", "ada", "file")
    assert "input 0.15 → 7" in entry.detail["changes"][0]
    assert broken_link(shop.audit()) is None


async def test_recording_the_same_twice_records_it_once() -> None:
    """The second time nothing is written at all."""
    shop = Shop()
    await shop.apply()
    await shop.record(OVERRIDE)
    before = len(shop.log.records)
    again = await shop.record(OVERRIDE)
    assert (again.entries, again.recorded, len(shop.log.records)) == (0, False, before)


async def test_a_dry_run_shows_and_writes_nothing() -> None:
    """And what was shown is recorded only if nobody else recorded in between."""
    shop = Shop()
    await shop.apply()
    before = len(shop.log.records)
    shown = await shop.record(OVERRIDE, dry_run=True)
    assert (shown.entries, shown.recorded, len(shop.log.records)) == (1, False, before)
    assert shown.changes[0].example.startswith("1,000 input + 500 output tokens = 0.0115 USD; 1 × web_search")
    await shop.record(CONTRACT, base=shown.base)
    refused = await shop.prices.record(OVERRIDE, "ada", "", False, shown.base)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.field) == (409, "base")


async def test_the_price_of_an_organisation_is_published_beside_the_others() -> None:
    """Off the list price, which stays with it."""
    shop = Shop()
    await shop.apply()
    await shop.record(CONTRACT)
    own, others = shop.price("acme"), shop.price()
    assert own is not None
    assert others is not None
    assert own.listed is not None
    assert own.tiers[0].input * 10 == others.tiers[0].input * 8 == own.listed.tiers[0].input * 8


async def test_a_price_that_begins_and_ends_is_published_at_both_moments() -> None:
    """By the clock alone; between them nothing is written, and each has its audit entry."""
    shop = Shop()
    await shop.apply()
    assert not await shop.prices.look()
    made = await shop.record(LATER)
    assert made.repriced == 0
    seen = []
    for now_ms in (FROM_MS - 1, FROM_MS, FROM_MS + 1, TO_MS - 1, TO_MS, TO_MS + 1):
        shop.now_ms = now_ms
        seen.append((await shop.prices.look(), usd(shop.price())))
    assert seen == [(False, 0), (True, 3), (False, 3), (False, 3), (True, 0), (False, 0)]
    assert [entry.action for entry in shop.audit()[-2:]] == ["prices.publish", "prices.publish"]
    assert shop.state.current is not None
    assert shop.state.current.prices_revision == 2


async def test_a_crash_between_entry_and_version_is_made_good() -> None:
    """The entry is on the log: a new process audits it and publishes what it says, once."""
    shop = Shop()
    await shop.apply()
    shop.log.lose = 1
    with pytest.raises(TransportError):
        await shop.record(OVERRIDE)
    again = Shop(shop.log)
    again.now_ms = NOW_MS + 1_000
    await again.plane.recover()
    assert usd(again.price()) == 0
    assert [await again.prices.look() for _ in range(2)] == [True, False]
    assert usd(again.price()) == 7
    assert [entry.action for entry in again.audit()] == ["policy.apply", "prices.record", "prices.publish"]
    assert broken_link(again.audit()) is None


async def test_the_bundled_list_has_nothing_new_after_an_apply() -> None:
    """The apply recorded what it says; importing shows no difference and names what it does not price."""
    shop = Shop()
    await shop.apply(DOCUMENT.replace("models:\n", "models:\n  nobody-has-this: {provider: openai}\n"))
    found = await shop.record(None)
    assert (found.entries, found.changes, found.no_price) == (0, [], ["nobody-has-this"])
    assert found.source.startswith("genai-prices-")
    assert len(found.sha256) == 64


async def test_prices_need_a_policy_that_names_what_they_are_of() -> None:
    """Every problem is named; a file that is none says where."""
    shop = Shop()
    early = await shop.prices.record(OVERRIDE, "ada", "", False, None)
    assert isinstance(early, Refusal)
    assert early.status == 409
    await shop.apply()
    wrong = await shop.prices.record(OVERRIDE.replace("gpt-4o-mini", "gpt-99"), "ada", "", False, None)
    assert isinstance(wrong, Refusal)
    assert (wrong.status, wrong.problems[0]["path"]) == (422, "prices.0.model")
    broken = await shop.prices.record("prices: [{provider: openai}]", "ada", "", False, None)
    assert isinstance(broken, Refusal)
    assert broken.status == 422


async def test_a_new_version_of_the_document_keeps_the_books_prices() -> None:
    """Overrides and contracts are not part of it."""
    shop = Shop()
    await shop.apply()
    await shop.record(OVERRIDE)
    await shop.apply(DOCUMENT + "# more\n")
    assert shop.state.current is not None
    assert (shop.state.current.version, shop.state.current.prices_revision, usd(shop.price())) == (2, 0, 7)


async def test_a_version_from_before_the_book_keeps_its_prices() -> None:
    """Its record says them; they are what the book begins with, and nothing becomes unpriced."""
    shop = Shop()
    own = DOCUMENT.replace("models:\n", "models:\n  own: {provider: openai, price: {input: 7, output: 7}}\n")
    await shop.apply(own)
    before = dict(shop.state.current.prices) if shop.state.current is not None else {}
    record = decode_json(PolicyRecord, shop.log.of(POLICY)[0] or b"")
    known = {
        name: msgspec.structs.replace(price, version=price.version.partition("#")[0])
        for name, price in record.prices.items()
    }
    old = encode_json(msgspec.structs.replace(record, prices=known))
    shop.log.records = [
        (topic, key, old if topic is POLICY else value) for topic, key, value in shop.log.records if topic is not PRICES
    ]
    again = Shop(shop.log)
    await again.plane.recover()
    assert len(again.state.book) == 2
    await again.prices.look()
    assert again.state.current is not None
    assert {name: price.tiers for name, price in again.state.current.prices.items()} == {
        name: price.tiers for name, price in before.items()
    }
    assert not again.state.unpriced
    assert [await again.prices.look(), len(again.state.book)] == [False, 2]


async def test_a_restart_records_nothing_that_the_book_has() -> None:
    """Whatever the source of a price is called: only prices that name no entry are from before the book."""
    shop = Shop()
    await shop.apply(DOCUMENT.replace("models:\n", "models:\n  mine: {provider: openai, upstream: llama}\n"))
    item = "{provider: openai, model: llama, kind: self-hosted, price: {input: 1, output: 1}}"
    await shop.record(f"source: measured\nprices: [{item}]")
    again = Shop(shop.log)
    before = len(again.log.records)
    await again.plane.recover()
    assert len(again.log.records) == before
