"""Decisions: the newest are held, and shown with every field named."""

from __future__ import annotations

from enforcer.core.decisions import DecisionTail, describe
from schemas.decisions import Decision
from schemas.usage import Attribution


def _decision(number: int, **fields: object) -> Decision:
    base: dict[str, object] = {
        "id": number.to_bytes(16, "big"), "request_id": bytes(16), "decided_ms": 1_795_264_200_007, "instance": "i",
        "action": "refuse", "reason": "rpm", "attribution": Attribution(org="acme"),
    }  # fmt: skip
    return Decision(**{**base, **fields})  # type: ignore[arg-type]  # a table of fields


def test_the_oldest_makes_room_for_the_newest() -> None:
    """The memory is bounded, and the same decision twice is one."""
    tail = DecisionTail(limit=2)
    for number in (1, 2, 2, 3):
        tail.add(_decision(number))
    assert len(tail) == 2
    assert tail.find((1).to_bytes(16, "big")) is None
    assert tail.find((3).to_bytes(16, "big")) is not None


def test_every_field_is_shown_by_name() -> None:
    """No field of the record is left out; ids and times are text."""
    shown = describe(_decision(1, resets_at_s=1_795_264_260))
    assert set(Decision.__struct_fields__) <= set(shown)
    assert shown["id"] == "00000000-0000-0000-0000-000000000001"
    assert (shown["decided_at"], shown["resets_at"]) == ("2026-11-21T12:30:00.007Z", "2026-11-21T12:31:00.000Z")
    assert shown["attribution"]["org"] == "acme"
    assert "limit_usd" not in shown


def test_money_is_shown_exactly() -> None:
    """Amounts of a budget come as nano-USD and as exact text."""
    shown = describe(_decision(1, measure="cost", limit=1_500_000_001))
    assert (shown["unit"], shown["limit"], shown["limit_usd"]) == ("nano_usd", 1_500_000_001, "1.500000001")
