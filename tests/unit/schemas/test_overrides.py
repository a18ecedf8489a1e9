"""Increases and freezes: what they are about, and how scopes are written."""

from __future__ import annotations

import pytest

from schemas.codec import decode_json, encode_json
from schemas.overrides import Freeze, Increase, normal_scope, override_key

INCREASE = Increase("i1", "team-month", "org=acme,team=search", "launch", "ann", "bob", 1, 2, percent=20)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("org=acme", "org=acme"),
        ("team=search,org=acme", "org=acme,team=search"),
        ("tags.app=x,model=openai/gpt-4o,key=k1", "key=k1,model=openai%2Fgpt-4o,tags.app=x"),
        ("user=a b@example.com", "user=a b@example.com"),
        ("user=a%2Cb", "user=a%2Cb"),
    ],
)
def test_a_scope_is_written_in_one_way(text: str, normal: str) -> None:
    """The order of attributes is fixed; writing it again changes nothing."""
    assert normal_scope(text) == normal == normal_scope(normal)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "write attributes and values"),
        ("acme", "write attributes and values"),
        ("org=", "write attributes and values"),
        ("org=acme,", "write attributes and values"),
        ("org=" + "x" * 600, "write attributes and values"),
        ("colour=red", "'colour' is no attribute"),
        ("tags.=x", "is no attribute"),
        ("org=acme,org=other", "each attribute once"),
    ],
)
def test_what_is_no_scope_is_refused_with_a_remedy(text: str, remedy: str) -> None:
    """An empty scope would be everybody."""
    with pytest.raises(ValueError, match=remedy):
        normal_scope(text)


def test_records_are_known_by_their_keys() -> None:
    """Beside policy versions on the same topic."""
    freeze = Freeze("org=acme,model=a%2Fb", "why", "bob", 1)
    assert override_key(INCREASE.key) == ("increase", "i1")
    assert override_key(freeze.key) == ("freeze", "org=acme,model=a%2Fb")
    assert override_key("0000000007") is None
    assert override_key("other/7") is None
    assert decode_json(Freeze, encode_json(freeze)) == freeze
    assert decode_json(Increase, encode_json(INCREASE)) == INCREASE


@pytest.mark.parametrize(
    ("rule", "scope", "covers"),
    [
        ("team-month", (("org", "acme"), ("team", "search")), True),
        ("team-month", (("org", "acme"), ("team", "search"), ("model", "m")), True),
        ("team-month", (("org", "acme"), ("team", "ml")), False),
        ("team-month", (("org", "acme"),), False),
        ("team-day", (("org", "acme"), ("team", "search")), False),
    ],
)
def test_an_increase_is_about_the_scopes_that_have_all_it_names(
    rule: str, scope: tuple[tuple[str, str], ...], covers: bool
) -> None:
    """Of its rule alone."""
    assert INCREASE.covers(rule, scope) is covers


def test_an_increase_adds_whole_numbers() -> None:
    """A percent of the document's limit, cut, or an amount."""
    assert INCREASE.added(9) == 1
    assert Increase("i", "r", "org=a", "", "a", "b", 1, 2, amount=5).added(9) == 5


def test_a_freeze_holds_where_everything_it_names_is_so() -> None:
    """Values are exact; what a request does not have is empty."""
    freeze = Freeze("org=acme,tags.app=a%2Cb", "why", "bob", 1)
    assert freeze.holds({"org": "acme", "tags.app": "a,b", "team": "x"})
    assert not freeze.holds({"org": "acme"})
