"""Plans: what an apply would do, and what stands against it."""

from __future__ import annotations

import pytest

from enforcer.core.keys import follow
from enforcer.core.policy import Plan, candidate, details, plan, read, record, summary
from schemas.errors import ConfigError
from schemas.keys import VirtualKey
from tests.unit.enforcer.enforcer_parts import (
    DOCUMENT,
    NOW_MS,
    PRICE,
    document,
    no_prices,
    one_price,
    with_amount,
)

HASH = "sha256:" + "0" * 64
LISTED = DOCUMENT + f"keys:\n  - {{id: ci, hash: '{HASH}', org: acme, team: ml}}\n"


def _planned(text: str, before: str | None = DOCUMENT, keys: dict[str, VirtualKey] | None = None) -> Plan:
    current = None if before is None else record(candidate(before, one_price), 1, 0, "me", "")
    old = None if before is None else document(before)
    found = plan(candidate(text, one_price), current, old, keys or {}, NOW_MS)
    assert isinstance(found, Plan)
    return found


def test_the_same_text_at_the_same_prices_is_identical() -> None:
    """Nothing to apply is said before anything is written."""
    assert _planned(DOCUMENT).identical
    assert not _planned(with_amount("200 USD")).identical
    assert not _planned(DOCUMENT, before=None).identical


def test_the_same_text_at_other_prices_is_a_change() -> None:
    """A newer price list makes a new version, and says which model changed."""
    current = record(candidate(DOCUMENT, no_prices), 1, 0, "me", "")
    found = plan(candidate(DOCUMENT, one_price), current, document(), {}, NOW_MS)
    assert isinstance(found, Plan)
    assert not found.identical
    assert [(change.path, change.before) for change in found.repriced] == [("gpt-4o-mini", None)]


def test_models_without_a_price_are_named() -> None:
    """Unknown prices are never silently zero."""
    found = candidate(DOCUMENT, no_prices)
    assert found.prices.unpriced == ["gpt-4o-mini"]
    assert record(found, 1, 0, "me", "").prices == {}


@pytest.mark.parametrize(
    ("old", "new", "begins"),
    [
        ("amount: 100 USD", "amount: 9 USD", []),
        ("period: month", "period: day", ["team-month"]),
        ("period: month", "period: month, timezone: Europe/Berlin", ["team-month"]),
        ("name: team-month, per: [team]", "name: team-month, per: [user]", ["team-month"]),
        ("name: team-month", "name: other", ["other"]),
        ("rpm: 20", "rpm: 30", []),
        ("rpm: 20", "tpm: 30", ["key-minute"]),
    ],
)
def test_counters_that_begin_anew_are_named(old: str, new: str, begins: list[str]) -> None:
    """An amount keeps its count; whatever a row's key is made of starts another."""
    assert _planned(DOCUMENT.replace(old, new)).rows_begin == begins


def test_a_removed_rule_ends_its_counters() -> None:
    """Nothing begins and the rule is named among those that end."""
    found = _planned(DOCUMENT.replace("limits:\n  - {name: key-minute, per: [key], rpm: 20}\n", ""))
    assert (found.rows_begin, found.rows_end) == ([], ["key-minute"])


def test_keys_left_without_their_organisation_are_reported_not_refused() -> None:
    """Removing a team that a working key names is allowed; the key is listed with the field."""
    key = VirtualKey("k1", HASH, "acme", team="ml")
    gone = VirtualKey("k2", HASH, "acme", team="ml", revoked_ms=1)
    found = _planned(DOCUMENT.replace("[search, ml]", "[search]"), keys={"k1": key, "k2": gone})
    assert found.keys_orphaned == [{"key": "k1", "field": "team", "value": "ml"}]


def test_listed_keys_that_appear_and_disappear_are_named() -> None:
    """The document's own keys are published and revoked with it."""
    assert _planned(LISTED).keys_published == ["ci"]
    known = follow(None, document(LISTED).policy, 0, {}, 0)
    found = _planned(DOCUMENT, before=LISTED, keys={key.id: key for key in known})
    assert found.keys_revoked == ["ci"]


def test_a_listed_key_with_the_id_of_an_issued_one_is_refused() -> None:
    """Both problems of a clash are named with their paths."""
    issued = VirtualKey("ci", "sha256:" + "1" * 64, "acme")
    other = VirtualKey("key_other", HASH, "acme")
    problems = plan(candidate(LISTED, one_price), None, None, {"ci": issued, "key_other": other}, NOW_MS)
    assert isinstance(problems, list)
    assert [problem.split(":")[0] for problem in problems] == ["keys.0.id", "keys.0.hash"]


def test_problems_of_a_document_begin_with_their_path() -> None:
    """All problems at once, without a file name that the service does not know."""
    with pytest.raises(ConfigError) as raised:
        read(DOCUMENT.replace("rpm: 20", "rpm: x").replace("period: month", "period: x"))
    assert [problem.split(":")[0] for problem in raised.value.problems] == ["limits.0.rpm", "budgets.0.period"]


def test_a_version_shows_its_prices_as_exact_text() -> None:
    """Details have the document and USD per million tokens; the summary has neither."""
    version = record(candidate(DOCUMENT, one_price), 4, NOW_MS, "me", "why")
    shown = details(version)
    assert shown["document"] == DOCUMENT
    assert shown["prices"]["gpt-4o-mini"]["tiers"][0]["input"] == "0.00000015"
    assert shown["prices"]["gpt-4o-mini"]["version"] == PRICE.version
    assert "document" not in summary(version)
