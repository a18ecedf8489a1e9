"""Alerts as CloudEvents 1.0 (structured JSON), with ids that stay the same however often one is sent."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

SOURCE = "/tollway/enforcer"
"""Who says all of them."""
THRESHOLD_CROSSED = "dev.tollway.budget.threshold.crossed.v1"
UNPRICED_MODEL = "dev.tollway.usage.unpriced.v1"
USAGE_ODD = "dev.tollway.usage.odd.v1"
PRICE_MISSING = "dev.tollway.price.missing.v1"
METERING_SILENT = "dev.tollway.metering.silent.v1"
METERING_BEHIND = "dev.tollway.metering.behind.v1"
METERING_OK = "dev.tollway.metering.ok.v1"
"""An incident of one of the two is over."""
METERING_DRIFT = "dev.tollway.metering.drift.v1"
"""Two of the ledgers do not agree: told to clients, metered, in the history."""
METERING_DRIFT_OK = "dev.tollway.metering.drift.ok.v1"
"""They agree again."""
METERING_LEDGERS = frozenset({METERING_DRIFT, METERING_DRIFT_OK})
METERING = frozenset({METERING_SILENT, METERING_BEHIND, METERING_OK})


class Alert(msgspec.Struct, frozen=True, omit_defaults=False):
    """A CloudEvent: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md."""

    id: str
    source: str
    """`/tollway/enforcer`"""
    type: str
    subject: str
    """The budget's scope (`org=acme,team=search`), `metering`, or provider and model."""
    time: str
    """RFC 3339, UTC."""
    data: dict[str, Any]
    specversion: str = "1.0"
    datacontenttype: str = "application/json"
    partitionkey: str = ""


def alert_id(*parts: str) -> str:
    """Return the id of the alert that `parts` name: the same parts, the same id."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
