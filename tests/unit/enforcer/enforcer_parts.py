"""Small policies, rows and windows for the tests of the enforcer's core."""

from __future__ import annotations

import functools

from enforcer.core.budgets import Budgets, Spend
from enforcer.core.diff import Document
from enforcer.core.policy import read
from schemas.money import Price, Rates
from schemas.policy import Model, Policy, Provider
from schemas.quota import RowState
from schemas.rows import parse_row_key
from schemas.windows import Period, Window, window_at

USD = 1_000_000_000
NOW_S = 1_795_264_200
"""2026-11-21T12:30:00Z"""
NOW_MS = NOW_S * 1000
MONTH = window_at(Period.MONTH, "UTC", NOW_S)
LAST_MONTH = window_at(Period.MONTH, "UTC", MONTH.start - 1)
PRICE = Price("list", "list-1", (Rates(0, 150, 75, 150, 150, 600, 600, 150, 600),))

DOCUMENT = """
version: 1
orgs:
  acme: {projects: [chat], teams: [search, ml], users: [ada]}
providers:
  openai: {protocol: openai, base_url: simulated}
models:
  gpt-4o-mini: {provider: openai}
limits:
  - {name: key-minute, per: [key], rpm: 20}
budgets:
  - {name: team-month, per: [team], amount: 100 USD, period: month, thresholds: [50%, 80%, 100%]}
"""


def document(text: str = DOCUMENT) -> Document:
    """Return a valid document."""
    return read(text)


@functools.cache
def policy(text: str = DOCUMENT) -> Policy:
    """Return the policy of a valid document."""
    return read(text).policy


def with_amount(amount: str) -> str:
    """Return the document with another amount of its budget."""
    return DOCUMENT.replace("100 USD", amount)


def row(settled: int, team: str = "search", window: Window = MONTH, inflight: int = 0) -> RowState:
    """Return a row of the budget."""
    return RowState(f"team-month/cost/org=acme,team={team}/{window}", settled, inflight)


def spend(state: RowState, text: str = DOCUMENT) -> Spend | None:
    """Return a row as spend of the budget of a document."""
    return Budgets(policy(text)).spend(parse_row_key(state.row), state)


def spends(*states: RowState, text: str = DOCUMENT) -> list[Spend]:
    """Return rows as spend; rows of no budget are left out."""
    return [found for state in states if (found := spend(state, text)) is not None]


def no_prices(provider: Provider, name: str, model: Model) -> Price | None:
    """Quote nothing."""
    return None


def one_price(provider: Provider, name: str, model: Model) -> Price | None:
    """Quote the same price for everything."""
    return PRICE
