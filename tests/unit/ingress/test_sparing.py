"""Things that are said once in a while."""

from __future__ import annotations

from ingress.core.sparing import Sparing


def test_each_key_is_due_once_an_interval() -> None:
    """Keys do not hide each other."""
    sparing = Sparing(every_ms=100)
    assert [sparing.is_due(key, now_ms) for now_ms in (0, 99, 100, 150) for key in ("a", "b")] == [
        True, True, False, False, True, True, False, False,
    ]  # fmt: skip


def test_memory_is_bounded() -> None:
    """The oldest keys are forgotten first; what was forgotten may be said again."""
    sparing = Sparing(every_ms=100, most=2)
    assert all(sparing.is_due(key, 0) for key in "abc")
    assert not sparing.is_due("c", 1)
    assert sparing.is_due("a", 1)
