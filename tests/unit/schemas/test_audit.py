"""The audit chain: every entry seals itself and the one before."""

from __future__ import annotations

import msgspec
import pytest

from schemas.audit import FIRST, AuditEntry, broken_link


def _chain() -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for number in (1, 2, 3):
        previous = entries[-1].hash if entries else FIRST
        entries.append(AuditEntry(number, number, "me", "a", "s", {"b": 1, "a": [2]}, previous).sealed())
    return entries


def test_a_sealed_chain_holds() -> None:
    """No entry is named; sealing again changes nothing; the order of details does not matter."""
    chain = _chain()
    assert broken_link(chain) is None
    assert chain[0].sealed() == chain[0]
    assert msgspec.structs.replace(chain[0], detail={"a": [2], "b": 1}).sealed().hash == chain[0].hash


@pytest.mark.parametrize("field", ["at_ms", "actor", "action", "subject", "detail", "number", "previous", "hash"])
def test_whatever_is_altered_is_noticed(field: str) -> None:
    """Each field is under the seal, the seal too."""
    chain = _chain()
    other = {"x": 1} if field == "detail" else 99 if field in ("at_ms", "number") else "0" * 63 + "1"
    chain[1] = msgspec.structs.replace(chain[1], **{field: other})
    assert broken_link(chain) is not None


def test_what_is_resealed_breaks_the_next_link() -> None:
    """An entry cannot be replaced without all that follow."""
    chain = _chain()
    chain[1] = msgspec.structs.replace(chain[1], actor="else").sealed()
    assert broken_link(chain) == 3


def test_what_is_taken_out_breaks_the_next_link() -> None:
    """Nor removed."""
    chain = _chain()
    assert broken_link([chain[0], chain[2]]) == 3
