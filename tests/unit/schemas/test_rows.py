"""Row keys: the same text everywhere, whatever names people choose."""

from __future__ import annotations

import pytest

from schemas.rows import Measure, RowKey, parse_row_key, parse_scope, scope_text
from schemas.windows import Window

WINDOW = Window("minute", 1764547200, 1764547260)


def test_a_key_has_rule_measure_scope_and_window() -> None:
    """The documented form."""
    key = RowKey("team-minute", Measure.TOKENS.value, (("org", "acme"), ("team", "search")), WINDOW)
    assert key.encode() == "team-minute/tokens/org=acme,team=search/minute@1764547200+60"
    assert parse_row_key(key.encode()) == key


@pytest.mark.parametrize("value", ["", "a/b", "a,b", "a=b", "a%2Fb", "ä ö", "gpt-4o:latest", "ada@example.com", "a\nb"])
def test_any_value_survives_in_a_scope(value: str) -> None:
    """Separators and other scripts are encoded, and decoded to what they were."""
    scope = (("org", "acme"), ("tags.x", value))
    assert parse_scope(scope_text(scope)) == scope
    key = RowKey("r", "cost", scope, WINDOW)
    assert parse_row_key(key.encode()) == key


@pytest.mark.parametrize("text", ["", "a/b", "r/euros/org=a/minute@1+60", "r/cost/org=a/minute", "r/cost/a/b/c"])
def test_what_is_no_key_is_refused(text: str) -> None:
    """Wrong parts, an unknown measure, no window."""
    with pytest.raises(ValueError):
        parse_row_key(text)
