"""Prices of a policy's models out of the book at a moment: what replicas rate with until the next resolution."""

from __future__ import annotations

from collections.abc import Mapping

from enforcer.core.book import Book
from enforcer.core.pricing import Prices
from schemas.money import Price
from schemas.policy import Policy


def resolve_all(policy: Policy, book: Book, at_ms: int) -> Prices:
    """Return the prices of all models of `policy`, and of organisations where they pay others."""
    served = {name: (model.provider, model.upstream or name) for name, model in policy.models.items()}
    resolved: dict[str, Price] = {}
    for name, (provider, model) in served.items():
        price = book.price_at("", provider, model, at_ms, name=name)
        if price is not None:
            resolved[name] = price
    orgs: dict[str, Mapping[str, Price]] = {}
    for org in book.orgs():
        own = {
            name: price
            for name, (provider, model) in served.items()
            if org in policy.orgs
            and (price := book.price_at(org, provider, model, at_ms, name=name)) is not None
            and price != resolved.get(name)
        }
        if own:
            orgs[org] = own
    return Prices(resolved, [name for name in served if name not in resolved], orgs)
