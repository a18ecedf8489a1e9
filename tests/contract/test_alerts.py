"""Alerts are CloudEvents 1.0 in structured JSON, with ids that never change. Other people's programs read them."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import pytest

from enforcer.core.thresholds import crossings, unpriced
from schemas.alerts import Alert, alert_id
from schemas.codec import decode_json, encode_json
from schemas.quota import LedgerState
from schemas.usage import Totals
from tests.unit.enforcer.enforcer_parts import NOW_MS, USD, row, spends

REQUIRED = {"id", "source", "specversion", "type"}
OPTIONAL = {"datacontenttype", "dataschema", "subject", "time", "data"}
FROZEN = [
    "15b5ac9922a915c1fa4b86492a8c230f",
    "4fb41f59954631b19561760ffc660b42",
    "c27337dc06ebcf0429c85faa5ea18290",
]
_ATTRIBUTE = re.compile(r"^[a-z0-9]{1,20}$")
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")


def _alerts() -> list[Alert]:
    entry = LedgerState("org=acme/day=2026-11-21", Totals(events=3, unpriced=1), None)
    return [
        *crossings(spends(row(100 * USD)), (), 1, NOW_MS),
        *crossings(spends(row(60 * USD)), (), 1, NOW_MS + 7),
        *unpriced([entry], (), ["in-house"], 1, NOW_MS),
    ]


@pytest.mark.parametrize("alert", _alerts(), ids=lambda alert: f"{alert.type}-{alert.time}-{alert.id[:6]}")
def test_an_alert_is_a_cloudevent(alert: Alert) -> None:
    """Required attributes, names, types and time as the specification (1.0.2, §3) has them."""
    event: dict[str, Any] = json.loads(encode_json(alert))
    assert set(event) >= REQUIRED
    assert event["specversion"] == "1.0"
    for name, value in event.items():
        if name == "data":
            continue
        assert _ATTRIBUTE.match(name), "attribute names are lower-case letters and digits"
        assert isinstance(value, str)
        assert value, "attributes are not empty"
    assert set(event) - REQUIRED - OPTIONAL == {"partitionkey"}, "the one extension"
    assert event["type"].startswith("dev.tollway.")
    assert event["datacontenttype"] == "application/json"
    assert _TIME.match(event["time"])
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    assert isinstance(event["data"], dict)
    assert decode_json(Alert, encode_json(alert)) == alert


def test_source_and_id_together_name_one_occurrence() -> None:
    """All different alerts have different ids; the same one, sent at another time, has the same."""
    alerts = _alerts()
    ids = [(alert.source, alert.id) for alert in alerts]
    assert len(set(ids)) == len(ids) - 1, "50 % is crossed in both lists, and is one occurrence"


def test_ids_are_frozen() -> None:
    """A subscriber's dedupe survives every release: these ids are for ever."""
    assert alert_id("threshold", "team-month", "org=acme,team=search", "month@1793491200+2592000", "50") == (
        crossings(spends(row(50 * USD)), (), 1, NOW_MS)[0].id
    )
    assert [alert.id for alert in _alerts()[:3]] == FROZEN
