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


def test_what_rules_say_of_their_cap_is_shown_as_documents_say_it() -> None:
    """Rungs by their percent, periods in words, schedules by name with the document's own field names."""
    before = DOCUMENT + "schedules:\n  - {name: night, rules: [key-minute], multiply: 150%, from: 22:00, to: '06:00'}\n"
    after = before.replace("rpm: 20", "rpm: 20, rpd: 90, ladder: {80%: warn, 100%: queue}").replace("22:00", '"23:30"')
    after = after.replace("period: month", "period: rolling 30d")
    found = {change.path: (change.before, change.after) for change in changes(document(before), document(after))}
    assert found == {
        "budgets.team-month.period": ("month", "rolling 30d"),
        "limits.key-minute.ladder.80": (None, "warn"),
        "limits.key-minute.ladder.100": ("block", "queue"),
        "limits.key-minute.rpd": (None, 90),
        "schedules.night.from": (1320, "23:30"),
    }
