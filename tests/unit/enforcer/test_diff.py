"""Differences between documents: found by meaning, shown as written, named by path."""

from __future__ import annotations

from enforcer.core.diff import Change, changes
from tests.unit.enforcer.enforcer_parts import DOCUMENT, document, with_amount


def test_the_same_meaning_is_no_change() -> None:
    """Another spelling of an amount, or another order of rules, differs in nothing."""
    assert changes(document(), document(with_amount("USD 100.00"))) == []


def test_a_changed_value_is_shown_as_each_document_writes_it() -> None:
    """Path by the rule's name, values in the documents' own words."""
    found = changes(document(), document(with_amount("1_250.50 USD")))
    assert found == [Change("budgets.team-month.amount", "100 USD", "1_250.50 USD")]


def test_a_default_that_is_replaced_is_shown_as_what_it_stood_for() -> None:
    """Where a document is silent, the value it implies is shown."""
    text = DOCUMENT.replace("{provider: openai}", "{provider: openai, max_output_tokens: 10}")
    assert changes(document(), document(text)) == [Change("models.gpt-4o-mini.max_output_tokens", 16_384, 10)]


def test_rules_and_keys_are_followed_by_name_not_by_place() -> None:
    """A rule put before another is one new rule and no change of the other."""
    text = DOCUMENT.replace("limits:\n", "limits:\n  - {name: first, tpm: 5}\n")
    found = changes(document(), document(text))
    assert [(change.path, change.before) for change in found] == [("limits.first", None)]
    assert found[0].after == {"name": "first", "tpm": 5}


def test_what_is_gone_has_no_after() -> None:
    """A removed rule shows what it was."""
    text = DOCUMENT.replace("limits:\n  - {name: key-minute, per: [key], rpm: 20}\n", "")
    found = changes(document(), document(text))
    assert [(change.path, change.after) for change in found] == [("limits.key-minute", None)]


def test_against_nothing_every_part_is_new() -> None:
    """A first document is all changes without a before."""
    found = changes(None, document())
    assert {"orgs", "models", "budgets"} <= {change.path for change in found}
    assert all(change.before is None for change in found)
