"""`tollway batches`: a line a batch, and the answer as it is for programs."""

from __future__ import annotations

import json
from typing import Any

from tests.fixtures.fake_service import FakeService
from tests.unit.deploy.test_cli_commands import at, run

ONE: dict[str, Any] = {
    "batch": "batch_1", "provider": "openai",
    "owner": {"org": "acme", "project": "chat", "team": "search", "user": "", "key": "key_1"},
    "is_created_here": True, "state": "over", "operation": "chat.completions", "model": "gpt-5-mini",
    "first_seen_ms": 1_795_264_200_000, "ended_ms": 1_795_264_300_000, "answered": 10, "charged_by": "lines",
    "requests": 4, "tokens": 1_234, "cost_nanos": 5_000_000, "cost_usd": "0.005000000", "unpriced": 1,
}  # fmt: skip
TWO = {**ONE, "batch": "batch_2", "is_created_here": False, "state": "under way", "charged_by": None, "requests": 0}
WHOLE = {**ONE, "batch": "batch_3", "charged_by": "total", "requests": 9}


def test_batches_are_a_table_for_people(service: FakeService) -> None:
    """Owner, how it is charged, how many of how many, and who was only found."""
    service.answers["GET /v1/batches"] = (200, {"batches": [ONE, TWO, WHOLE], "known": 3, "complete": True})
    found = run("batches", "--org", "acme", "--limit", "7", *at(service))
    assert (found.code, found.err) == (0, "")
    assert service.asked[0][1] == "/v1/batches?org=acme&limit=7"
    header, first, second, third = found.out.splitlines()
    assert header.split()[:3] == ["batch", "provider", "owner"]
    for said in ("batch_1", "acme/search", "key_1", "over", "lines", "4 of 10", "1234", "0.005 USD", "2026-11-21"):
        assert said in first
    assert "acme/search ?" in second
    assert "under way" in second
    assert " 9 " in third
    assert "of 10" not in third


def test_batches_are_an_object_for_programs(service: FakeService) -> None:
    """Nothing is left out."""
    answer = {"batches": [ONE], "known": 1, "complete": True}
    service.answers["GET /v1/batches"] = (200, answer)
    assert json.loads(run("batches", "--json", *at(service)).out) == answer


def test_without_batches_it_says_when_there_are_some(service: FakeService) -> None:
    """And that more may come, while what was charged is being read."""
    service.answers["GET /v1/batches"] = (200, {"batches": [], "known": 0, "complete": False})
    found = run("batches", *at(service))
    assert "created, listed or fetched through Tollway" in found.out
    assert "still being read" in found.err
