"""The catalogue of metrics, and the request log."""

from __future__ import annotations

import re
from typing import Any

import structlog
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from ingress.core.stats import Stats
from ingress.settings import RequestLog
from ingress.telemetry import CATALOGUE, PREFIX, STALENESS, registry, request_logger
from tests.unit.ingress.playbook import ANSWER, Stage


def _served(stats: Stats) -> str:
    return generate_latest(registry(stats, lambda: [(STALENESS, ("0",), 0.25)])).decode()


def test_whole_catalogue_is_served_before_anything_happened() -> None:
    """Every metric has its help and type from the start, under its documented name."""
    text = _served(Stats())
    for described in CATALOGUE:
        name = PREFIX + described.name + ("_total" if described.kind == "counter" else "")
        assert f"# TYPE {name} {described.kind}" in text
    assert set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) == {
        PREFIX + described.name + ("_total" if described.kind == "counter" else "") for described in CATALOGUE
    }


def test_exchanges_are_counted() -> None:
    """Ends, tokens, sources and times of an exchange show up."""
    stage = Stage()
    stage.sent()
    stage.answered(ANSWER)
    stage.exchange.terminal_recorded()
    text = _served(stage.context.stats)
    assert 'requests_total{error="",operation="chat.completions",status="settled"} 1.0' in text
    assert f"{PREFIX}tokens_total 40.0" in text
    assert f'{PREFIX}usage_total{{source="provider"}} 1.0' in text
    assert f'{PREFIX}duration_seconds_bucket{{le="0.025",operation="chat.completions"}} 0.0' in text
    assert f'{PREFIX}duration_seconds_bucket{{le="0.05",operation="chat.completions"}} 1.0' in text
    assert f'{PREFIX}duration_seconds_sum{{operation="chat.completions"}} 0.03' in text
    assert f"{PREFIX}in_flight 0.0" in text
    assert f'{PREFIX}staleness_seconds{{partition="0"}} 0.25' in text


def _logged(which: RequestLog) -> list[Any]:
    structlog.reset_defaults()
    write = request_logger(which)
    if write is None:
        return []
    good, refused, failed = Stage(), Stage(), Stage()
    good.sent()
    good.answered(ANSWER)
    refused.ask({"model": "other", "messages": ["a secret prompt"]})
    failed.sent()
    failed.exchange.provider_fault("reset", True, "", 1_800_000_000_000)
    with capture_logs() as lines:
        for stage in (good, refused, failed):
            stage.exchange.terminal_recorded()
            write(stage.exchange)
    return lines


def test_request_log_has_what_was_asked_for() -> None:
    """Off, faults, refusals too, or all; one line a request."""
    found = {which: [line["status"] for line in _logged(which)] for which in ("off", "errors", "refusals", "all")}
    assert found == {
        "off": [],
        "errors": ["failed"],
        "refusals": ["refused", "failed"],
        "all": ["settled", "refused", "failed"],
    }


def test_request_log_has_no_secret_and_no_prompt() -> None:
    """A line tells whose request it was and what became of it, never what was in it."""
    text = repr(_logged("all"))
    assert "acme" in text
    assert "tw-good" not in text
    assert "secret prompt" not in text
