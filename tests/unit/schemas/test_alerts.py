"""Ids of alerts: the same parts, the same id; other parts, another."""

from __future__ import annotations

from schemas.alerts import Alert, alert_id
from schemas.codec import decode_json, encode_json


def test_an_id_is_a_function_of_its_parts() -> None:
    """Frozen: subscribers dedupe on it across releases."""
    assert alert_id("threshold", "b", "org=a", "w", "50") == "41d5451de8bcf89f97ef18affe1af274"
    assert alert_id("a", "bc") != alert_id("ab", "c")
    assert alert_id("a", "b") != alert_id("b", "a")


def test_an_alert_states_its_version_and_content_type() -> None:
    """Defaults are written, so that any CloudEvents reader finds them."""
    alert = Alert(id="i", source="/s", type="t", subject="s", time="2026-11-21T00:00:00Z", data={})
    data = encode_json(alert)
    assert b'"specversion":"1.0"' in data
    assert b'"datacontenttype":"application/json"' in data
    assert decode_json(Alert, data) == alert
