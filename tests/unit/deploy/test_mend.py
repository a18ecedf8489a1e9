"""What `tollway verify` says of the history's own ledgers, and when it repairs them."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.api import Api
from deploy.cli import mend
from tests.fixtures.fake_service import FakeService

PLAN: dict[str, Any] = {"steps": ["make rollups of month 202611 anew"], "hopeless": [], "inserted_rows": 0}


def history(service: FakeService) -> Api:
    """Return the history's API."""
    return Api("history", service.url, "a-token")


def test_an_audit_that_agrees_says_nothing_and_one_that_does_not_names_the_first() -> None:
    """The first difference is on the first line; more than ten others are counted."""
    assert mend.text_of({"ok": True, "differences": []}) == []
    lines = mend.text_of({"ok": False, "differences": [{"text": f"difference {number}"} for number in range(13)]})
    assert lines[0] == "the history's ledgers DIFFER in 13 places; first: difference 0"
    assert lines[-1] == "  and 2 more"


def test_nothing_is_repaired_without_a_yes(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is asked for, and only a yes has it done."""
    service.answers["POST /v1/repair"] = (200, PLAN)
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert mend.repair(history(service), yes=False) is None
    assert [body for _, _, body, _ in service.asked] == [{"apply": False}]
    assert mend.repair(history(service), yes=True) == PLAN
    assert [body for _, _, body, _ in service.asked][1:] == [{"apply": False}, {"apply": True}]


def test_what_cannot_be_mended_is_named(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a step nothing is asked and nothing is done."""
    service.answers["POST /v1/repair"] = (
        200,
        {**PLAN, "steps": [], "hopeless": ["told ≠ history: instance=a/epoch=1"]},
    )
    assert mend.repair(history(service), yes=True) is None
    assert "told ≠ history: instance=a/epoch=1" in capsys.readouterr().err
    assert len(service.asked) == 1
