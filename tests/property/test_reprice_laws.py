"""Corrections through crashes: whatever was written when, costs end up as prices and invoices say, each once."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from deploy.corrections.posting import chunks
from deploy.reprice.plan import Corrections
from enforcer.adjust_routes import Chunk
from enforcer.core.adjustments import Adjustment, Cutter, Posting, Target, problems
from enforcer.core.invoices import Invoice, Line
from enforcer.core.model_names import Matched
from enforcer.core.reconciling import OWNER, Group, compare, corrections
from enforcer.core.repricing import Outcome, PastCost, reprice
from meter.core.shard import Shard
from schemas.codec import decode_attribution, decode_event, decode_record
from schemas.ids import format_id
from schemas.money import Price
from schemas.tokens import TokenUsage
from schemas.usage import Batch, UsageEvent
from tests.property.fold_logs import START_MS
from tests.unit.enforcer.repricing_parts import past, price, rates
from tests.unit.enforcer.test_reconciling import group

DAY_ROW = f"team/cost/org=acme/day@{START_MS // 1000}+86400"


class Books:
    """A log that corrections are written to, and what the history makes of it."""

    def __init__(self, pick: random.Random) -> None:
        self._pick = pick
        self._epoch = 0
        self.log: list[bytes] = []

    def post(self, found: list[tuple[Target, Adjustment]], survives: bool) -> None:
        """Post corrections as the command and the enforcer do; one that does not survive dies between two records."""
        self._epoch += 1
        cutter, records = Cutter(self._epoch, 1), []
        for body in chunks(found):
            chunk = msgspec.json.decode(msgspec.json.encode({"chunk": 1, **body}), type=Chunk)
            posting = Posting(chunk.targets, chunk.adjustments)
            assert not problems(posting)
            records += [value for _, value in cutter.cut(posting, START_MS)]
        records += [value for _, value in cutter.close(START_MS)]
        self.log += records if survives else records[: self._pick.randint(0, max(len(records) - 1, 0))]

    def events(self) -> list[UsageEvent]:
        """Return all corrections on the log."""
        records = [decode_record(value) for value in self.log]
        return [decode_event(raw) for record in records if isinstance(record, Batch) for raw in record.events]

    def fold(self) -> Shard:
        """Return what the meter makes of the log."""
        shard = Shard(0)
        for offset, value in enumerate(self.log):
            assert shard.apply(offset, START_MS, value) is None
        return shard


def with_corrections(events: list[PastCost], posted: list[UsageEvent]) -> list[PastCost]:
    """Return events as the history tells them: with the sums of their corrections."""
    by_id: dict[str, list[UsageEvent]] = {}
    for each in posted:
        assert each.detail is not None
        by_id.setdefault(format_id(each.detail.corrects), []).append(each)
    found = []
    for event in events:
        own = by_id.get(event.id, [])
        discounts = [each.detail.list_cost_nanos - each.cost_nanos for each in own
                     if each.detail is not None and each.detail.list_cost_nanos is not None
                     and each.cost_nanos is not None]  # fmt: skip
        found.append(msgspec.structs.replace(
            event, corrections=len(own), corrected_cost_nanos=sum(each.cost_nanos or 0 for each in own),
            corrected_charge_nanos=sum(each.charge_nanos for each in own), corrected_discount_nanos=sum(discounts),
        ))  # fmt: skip
    return found


def some_events(pick: random.Random, count: int) -> list[PastCost]:
    """Return events of several owners and models, some without a cost, some folded."""
    return [
        past(
            id=format_id((number + 1).to_bytes(16, "big")), team=pick.choice(("search", "ml")), rows=[DAY_ROW],
            model=pick.choice(("a", "b")), usage=TokenUsage(pick.randint(0, 9_999), pick.randint(0, 999)),
            units=pick.choice(({}, {}, {"web_search": 2})), cost_nanos=pick.choice((None, pick.randint(0, 10**7))),
            kind=pick.choice(("usage", "usage", "folded")), occurred_ms=START_MS + number,
        )
        for number in range(count)
    ]  # fmt: skip


def some_price(pick: random.Random, version: int) -> Price | None:
    """Return a price, flat or in tiers, with a list price beside it or without, or none."""
    if pick.random() < 0.1:
        return None
    tiers = [rates(input=pick.randint(0, 5), output=pick.randint(0, 9))]
    if pick.random() < 0.3:
        tiers.append(rates(5_000, input=7, output=9))
    units = {"web_search": 10**13} if pick.random() < 0.7 else {}
    listed = price("list", rates(input=9, output=9), units=units) if pick.random() < 0.3 else None
    return price(str(version), *tiers, units=units, listed=listed, request_nanos=pick.randint(0, 3))


@given(st.integers(0, 1_000_000), st.integers(1, 900), st.integers(0, 4))
@settings(max_examples=25)
def test_repricing_through_crashes_ends_in_the_costs_of_the_prices(seed: int, count: int, crashes: int) -> None:
    """Prices change, runs die between records, and are run again: each event costs what its price says, exactly."""
    pick = random.Random(seed)
    books, events = Books(pick), some_events(pick, count)
    versions = iter(range(1, 100))
    for turn in range(crashes + 1):
        prices = {model: some_price(pick, next(versions)) for model in ("a", "b")}
        survives = turn == crashes
        with Corrections() as found:
            found.compute(with_corrections(events, books.events()), _of(prices))
            books.post(list(found), survives)
    now = with_corrections(events, books.events())
    for event in now:
        told = reprice(event, prices[event.model])
        assert told.adjustment is None
        assert told.outcome is not Outcome.CORRECTED
        if told.outcome is Outcome.SAME:
            assert event.held_nanos == told.cost_nanos
            if event.cost_nanos is None:
                assert event.charge_nanos + event.corrected_charge_nanos == told.cost_nanos
    posted = books.events()
    assert len({event.id for event in posted}) == len(posted)
    shard = books.fold()
    row = shard.rows.by_key.get(DAY_ROW)
    assert (0 if row is None else row.settled) == sum(event.charge_nanos for event in posted)
    days = [account.totals for key, account in shard.ledger.by_key.items() if key.startswith("org=")]
    assert sum(totals.cost_nanos for totals in days) == sum(event.cost_nanos or 0 for event in posted)


def _of(prices: dict[str, Price | None]) -> Callable[[PastCost], Price | None]:
    return lambda event: prices[event.model]


GROUPS = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**5), st.booleans()),
    min_size=1, max_size=400,
)  # fmt: skip


@given(GROUPS, st.lists(st.integers(-(10**9), 10**12), min_size=1, max_size=4), st.integers(0, 1_000_000))
@settings(max_examples=40)
def test_invoices_through_crashes_end_in_the_amounts_of_the_last(
    shares: list[tuple[int, int, int, bool]], amounts: list[int], seed: int
) -> None:
    """Postings die and are run again, invoices change: books and groups say what the last one says, as if at once."""
    pick = random.Random(seed)
    groups = [
        group(key_id=f"key_{number}", cost_nanos=cost, tokens=tokens + free, unpriced_tokens=free, rows=[DAY_ROW],
              occurred_ms=START_MS, tags={"env": "prod"} if tagged else {})
        for number, (cost, tokens, free, tagged) in enumerate(shares)
    ]  # fmt: skip
    books = Books(pick)
    for number, amount in enumerate(amounts):
        for survives in (False, True):
            books.post(_missing(groups, books, amount, f"{number:064x}"), survives)
        assert _missing(groups, books, amount, f"{number:064x}") == []
        assert sum(_invoiced(groups, books).values()) + sum(each.cost_nanos for each in groups) == amount
    at_once = Books(pick)
    at_once.post(_missing(groups, at_once, amounts[-1], "f" * 64), survives=True)
    assert _invoiced(groups, books) == _invoiced(groups, at_once)
    posted = books.events()
    assert len({event.id for event in posted}) == len(posted)


def _missing(groups: list[Group], books: Books, amount: int, sha256: str) -> list[Any]:
    invoiced = _invoiced(groups, books)
    now = [msgspec.structs.replace(each, invoiced_nanos=invoiced[each.key_id]) for each in groups]
    day = date.fromisoformat(groups[0].day)
    invoice = Invoice("csv", [Line(day, "gpt-4o", Fraction(amount, 10**9), None)], [], sha256)
    (compared,) = compare(
        invoice, now, [Matched(("gpt-4o",), ("gpt-4o",))], day, date(day.year, day.month, day.day + 1)
    )
    assert sum(compared.causes.values()) == compared.difference_nanos
    return corrections(compared, "openai", sha256)


def _invoiced(groups: list[Group], books: Books) -> dict[str, int]:
    sums = {each.key_id: 0 for each in groups}
    assert "key_id" in OWNER
    for event in books.events():
        sums[decode_attribution(event.attribution).key_id] += event.cost_nanos or 0
    return sums
