"""`tollway prices` as it is typed, against services whose answers are chosen: what is asked, shown and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.fake_service import FakeService
from tests.unit.deploy.test_cli_commands import at, run

CHANGE: dict[str, Any] = {
    "id": "0123456789ab", "kind": "override", "org": "", "provider": "openai", "model": "gpt-4o", "valid_from_ms": 0,
    "valid_to_ms": None, "before": {}, "after": {}, "differences": ["input 2.5 → 5 (+100.0%)"], "most_ppm": 1_000_000,
    "example": "1,000 input + 500 output tokens = 0.01 USD", "warnings": ["input: is very much"],
}  # fmt: skip
SHOWN: dict[str, Any] = {
    "entries": 1, "changes": [CHANGE], "base": 7, "recorded": False, "dry_run": True, "repriced": 1, "source": "list-1",
    "sha256": "00", "no_price": ["in-house"],
}  # fmt: skip
FILE = "prices: [{provider: openai, model: gpt-4o, price: {input: 5, output: 10}}]"


def _bodies(service: FakeService) -> list[Any]:
    return [body for method, _, body, _ in service.asked if method == "POST"]


def test_differences_are_shown_with_their_example_and_warnings(service: FakeService) -> None:
    """Nothing is recorded; what the list does not price is named."""
    service.answers["POST /v1/prices"] = (200, SHOWN)
    found = run("prices", "diff", *at(service))
    assert (found.code, [body["dry_run"] for body in _bodies(service)]) == (0, [True])
    assert "input 2.5 → 5 (+100.0%)" in found.out
    assert "1,000 input + 500 output tokens = 0.01 USD" in found.out
    assert "warning: gpt-4o: input: is very much" in found.err
    assert "list-1 has no price for: in-house" in found.err


@pytest.mark.parametrize(
    ("options", "code", "recorded"),
    [(["--most", "20%"], 2, False), ([], 2, False), (["--yes"], 0, True), (["--most", "100%"], 0, False)],
)
def test_a_large_change_needs_a_yes(service: FakeService, options: list[str], code: int, recorded: bool) -> None:
    """It is refused above the most; below it a terminal is asked, and without one nothing is recorded."""
    service.answers["POST /v1/prices"] = (200, SHOWN)
    found = run("prices", "import", *options, *at(service))
    assert found.code == code
    bodies = _bodies(service)
    assert [body["dry_run"] for body in bodies] == ([True, False] if recorded else [True])
    if recorded:
        assert bodies[-1]["base"] == SHOWN["base"], "what was shown is what is recorded"
    if code:
        assert "gpt-4o would change by more" in found.err


def test_a_file_with_a_fault_is_never_sent(service: FakeService, tmp_path: Path) -> None:
    """Its faults name the file and the place in it."""
    file = tmp_path / "prices.yaml"
    file.write_text(FILE.replace("5", "'5 EUR'"))
    found = run("prices", "import", str(file), *at(service))
    assert (found.code, service.asked) == (2, [])
    assert f"{file}: prices.0.price.input: '5 EUR': '5 EUR' is in EUR" in found.err


@pytest.mark.parametrize(
    ("options", "item"),
    [
        (["--input", "1", "--output", "2"], {"kind": "override", "price": {"input": "1", "output": "2"}}),
        (["--percent", "15%", "--of", "output", "--org", "acme", "--contract"],
         {"kind": "contract", "org": "acme", "discounts": [{"percent": "15%", "of": ["output"]}]}),
        (["--gpu-hour", "2.50 USD", "--tokens-per-hour", "9_000_000"],
         {"kind": "self-hosted", "price": {"input": "0.277777778", "output": "0.277777778"}}),
        (["--unit", "web_search=10 USD per 1000", "--request", "1 USD"],
         {"price": {"request": "1 USD", "units": {"web_search": "10 USD per 1000"}}}),
        (["--withdraw", "--from", "2026-12-01"], {"withdrawn": True, "from": "2026-12-01T00:00:00+00:00"}),
    ],
)  # fmt: skip
def test_options_become_one_price(service: FakeService, options: list[str], item: dict[str, Any]) -> None:
    """A rate by hand, a percentage, a rate by the hour, units, and the end of a price."""
    service.answers["POST /v1/prices"] = (200, {**SHOWN, "recorded": True})
    found = run("prices", "set", "openai", "gpt-4o", *options, "--reason", "why", "--yes", "--json", *at(service))
    assert found.code == 0, found.err
    shown, done = _bodies(service)
    (sent,) = json.loads(shown["document"])["prices"]
    assert {name: sent[name] for name in item} == item
    assert (sent["provider"], sent["model"], sent["reason"]) == ("openai", "gpt-4o", "why")
    assert (shown["document"], shown["dry_run"], done["dry_run"]) == (done["document"], True, False)


def test_models_are_listed_with_what_they_cost(service: FakeService) -> None:
    """One without a price is a warning that says how to set it."""
    tier = {"min_input_tokens": 0, "input": "2.5", "output": "10"}
    price = {"source": "contract", "version": "v", "tiers": [tier], "units": {"web_search": "10 USD per 1000"},
             "listed": {"tiers": [{**tier, "input": "3"}]}}  # fmt: skip
    models = [
        {"org": "acme", "name": "gpt-4o", "provider": "openai", "model": "gpt-4o", "price": price, "example": ""},
        {"org": "", "name": "mine", "provider": "gpu", "model": "llama", "price": None, "example": ""},
    ]
    service.answers["GET /v1/prices"] = (200, {"models": models})
    found = run("prices", "list", *at(service))
    assert ("web_search 10 USD per 1000" in found.out, "3 / 10" in found.out, "no price" in found.out) == (True,) * 3
    assert "say it with: tollway prices set gpu llama" in found.err
