"""Decisions: the newest are held, and shown with every field named."""

from __future__ import annotations

from enforcer.core.decisions import DecisionTail, Wanted, describe
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
    assert shown["cost_avoided_usd"] == "0.000000000"


def test_decisions_are_found_by_what_they_say_the_newest_first() -> None:
    """Every part of a question narrows the answer; the limit cuts off the oldest."""
    tail = DecisionTail()
    for number in range(1, 7):
        team = "search" if number % 2 else "ml"
        tail.add(
            _decision(number, attribution=Attribution(org="acme", team=team), rule=f"r{number % 3}", decided_ms=number)
        )
    assert [decision.decided_ms for decision in tail.search(Wanted(org="acme"))] == [6, 5, 4, 3, 2, 1]
    assert [decision.decided_ms for decision in tail.search(Wanted(team="search", limit=2))] == [5, 3]
    assert [decision.decided_ms for decision in tail.search(Wanted(rule="r1", since_ms=2))] == [4]
    assert tail.search(Wanted(org="other")) == []
    assert tail.search(Wanted(action="queue")) == []
    assert not tail.add(_decision(6)), "known already"
