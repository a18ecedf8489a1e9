"""Reading a document: every problem at once, with path, value and remedy; never half a document."""

from __future__ import annotations

from importlib import resources

import pytest

from schemas.errors import ConfigError
from schemas.policy_file import load_policy

GOOD = """
version: 1
orgs: {acme: {}}
providers: {p: {protocol: openai, base_url: simulated}}
models: {m: {provider: p}}
"""


def _problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_policy(text, "policy.yaml")
    return raised.value.problems


def test_the_shipped_example_is_valid() -> None:
    """What a first start applies."""
    text = resources.files("deploy.policies").joinpath("example.yaml").read_text(encoding="utf-8")
    assert load_policy(text).budgets


def test_all_problems_come_at_once_each_with_path_value_and_remedy() -> None:
    """A wrong value, an unknown field and a missing one."""
    text = GOOD.replace("{provider: p}", "{provder: p}") + "max_body_bytes: 3\nlimits: [{name: A, rpm: x}]\n"
    assert _problems(text) == [
        "policy.yaml: models.m.provider: missing; add it",
        "policy.yaml: models.m.provder: 'p': unknown field; remove it or mend its spelling",
        "policy.yaml: limits.0.name: 'A': use lower-case letters, digits, dot, dash and underscore, 63 at most",
        "policy.yaml: limits.0.rpm: 'x': Input should be a valid integer, unable to parse string as an integer",
        "policy.yaml: max_body_bytes: 3: Input should be greater than or equal to 1024",
    ]


def test_problems_between_parts_have_their_own_paths() -> None:
    """Not one problem of the whole document."""
    problems = _problems(GOOD.replace("provider: p", "provider: q"))
    assert problems == ["policy.yaml: models.m.provider: 'q': name a provider of this document (p)"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "orgs: {}\n", "line 6: 'orgs' is given twice in one mapping; keep one of them"),
        ("a: [", "not YAML"),
        ("- a\n- b\n", "the document is list; it must be a mapping"),
        ("", "the document is NoneType; it must be a mapping"),
        ("a: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_what_is_no_document_is_said_plainly(text: str, expected: str) -> None:
    """Duplicate keys, broken or unsafe YAML, another shape."""
    assert expected in _problems(text)[0]
