"""Warnings about policies: valid, and probably not meant."""

from __future__ import annotations

from importlib import resources

import pytest

from schemas.policy_file import load_policy
from schemas.policy_lint import warnings

BASE = """
orgs: {acme: {}}
providers: {p: {protocol: openai, base_url: simulated}}
models:
  gpt-4o: {provider: p}
  fast: {provider: p, upstream: gpt-4o-mini}
"""


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("limits: [{name: a, rpm: 1, match: {model: gpt-4o}}]", None),
        ("limits: [{name: a, rpm: 1, match: {model: [gpt-5, 'gpt-4*'], team: nobody}}]", None),
        ("limits: [{name: a, rpm: 1, match: {model: 'gpt-5*'}}]", "limits.a.match.model: ['gpt-5*']: matches nothing"),
        ("limits: [{name: a, rpm: 1, match: {model: GPT-4o}}]", "case matters: write 'gpt-4o'"),
        ("limits: [{name: a, rpm: 1, match: {model: fast}}]", "'fast' is served as 'gpt-4o-mini'"),
        ("limits: [{name: a, rpm: 1, match: {model: ['!*']}}]", "matches nothing"),
        ("budgets: [{name: b, amount: 1, period: day, match: {org: acmee}}]", "budgets.b.match.org: ['acmee']"),
        ("limits: [{name: a, rpm: 1, match: {provider: azure}}]", "(p)"),
        ("limits: [{name: a, rpm: 1, match: {tier: 3}}]", "(0, 1, 2)"),
        ("limits: [{name: a, rpm: 1, ladder: {100%: downgrade}}]", "nothing can go on with another"),
        ("budgets: [{name: b, amount: 1, period: day, final_unit: downgrade}]", "nothing can go on with another"),
        ("limits: [{name: a, rpm: 1, ladder: {100%: downgrade}}]\nDOWNGRADE", None),
        ("UPPER", "'GPT-4o' and 'gpt-4o' of provider 'p' are counted apart"),
    ],
)
def test_what_is_probably_not_meant_is_told(rest: str, told: str | None) -> None:
    """With the place, the value and what to do; what is fine is not."""
    base = BASE.replace("gpt-4o: {provider: p}", "gpt-4o: {provider: p, downgrade: fast}") if "DOWN" in rest else BASE
    base += "  big: {provider: p, upstream: GPT-4o}\n" if rest == "UPPER" else ""
    found = warnings(load_policy(base + rest.replace("DOWNGRADE", "").replace("UPPER", "")))
    assert (len(found), told is None or told in found[0]) == (0 if told is None else 1, True), found


def test_a_key_that_may_use_nothing_is_told() -> None:
    """Globs of keys match served models too."""
    key = f"keys: [{{id: k, org: acme, hash: 'sha256:{'0' * 64}', models: [fast]}}]"
    assert warnings(load_policy(BASE + key)) == [
        "keys.k.models: ['fast']: allows no model of this document (gpt-4o, gpt-4o-mini)"
    ]


def test_the_example_gives_no_warning() -> None:
    """What people begin with is what is meant."""
    text = resources.files("deploy.policies").joinpath("example.yaml").read_text(encoding="utf-8")
    assert warnings(load_policy(text)) == []
