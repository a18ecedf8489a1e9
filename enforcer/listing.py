"""Documents with what the price list says of their models: read beside the event loop, before anything is decided."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from enforcer.adapters.price_list import PriceList
from enforcer.core.diff import Document
from enforcer.core.policy import read
from enforcer.core.price_changes import Listed, served_models
from schemas.codec import encode_json
from schemas.policy import Policy
from schemas.prices import PriceEntry
from schemas.topics import PRICES, Topic


class Draft(NamedTuple):
    """A valid document, and what the price list says of its models."""

    text: str
    document: Document
    listed: Listed


async def draft(text: str, prices: PriceList) -> Draft:
    """Return a document as a draft. ConfigError with every problem."""
    document = await asyncio.to_thread(read, text)  # parsing and validation would hold the loop
    return Draft(text, document, await listed(document.policy, prices))


async def listed(policy: Policy, prices: PriceList) -> Listed:
    """Return what the price list says of all models of `policy`."""

    def look() -> Listed:
        return {
            (provider, served): prices.versions(policy.providers[provider], served, policy.models[name])
            for (provider, served), name in served_models(policy).items()
        }

    return await asyncio.to_thread(look)


def price_record(entry: PriceEntry) -> tuple[Topic, str, bytes | None]:
    """Return an entry of the price book as a record."""
    return PRICES, entry.id, encode_json(entry)
