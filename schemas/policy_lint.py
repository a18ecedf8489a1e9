"""What is valid in a policy and probably not meant: rules about nobody, names that are told apart only by their case.

Warnings, never errors: a document that was applied once has to load for ever.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from schemas.fields import glob_match
from schemas.policy import Policy
from schemas.rules import Budget, Limit


def warnings(policy: Policy) -> list[str]:
    """Return a line for each, with its place, value and remedy."""
    return [*_rules_about_nobody(policy), *_downgrades_to_nothing(policy), *_spellings(policy), *_keys(policy)]


def _paths(policy: Policy) -> Iterator[tuple[str, Limit | Budget]]:
    yield from ((f"limits.{rule.name}", rule) for rule in policy.limits)
    yield from ((f"budgets.{rule.name}", rule) for rule in policy.budgets)


def _rules_about_nobody(policy: Policy) -> Iterator[str]:
    served = {model.upstream or name for name, model in policy.models.items()}
    known = {"org": set(policy.orgs), "provider": set(policy.providers), "model": served, "tier": {"0", "1", "2"}}
    for path, rule in _paths(policy):
        for name, globs in rule.match.items():
            if name in known and not any(glob_match(globs, value) for value in known[name]):
                hint = _hint(policy, globs, known[name]) if name == "model" else ""
                shown = ", ".join(sorted(known[name])) or "none"
                yield f"{path}.match.{name}: {list(globs)!r}: matches nothing of this document ({shown}){hint}"


def _hint(policy: Policy, globs: tuple[str, ...], served: set[str]) -> str:
    for name, model in policy.models.items():
        if model.upstream is not None and glob_match(globs, name):
            return f"; rules match the served model: {name!r} is served as {model.upstream!r}"
    lowered = tuple(glob.lower() for glob in globs)
    near = [value for value in sorted(served) if glob_match(lowered, value.lower())]
    return f"; case matters: write {near[0]!r}" if near else ""


def _downgrades_to_nothing(policy: Policy) -> Iterator[str]:
    for path, rule in _paths(policy):
        globs = rule.match.get("model", ("*",))
        about = [model for name, model in policy.models.items() if glob_match(globs, model.upstream or name)]
        final = isinstance(rule, Budget) and rule.final_unit == "downgrade"
        if (final or "downgrade" in rule.ladder.values()) and about and not any(model.downgrade for model in about):
            yield f"{path}: downgrade: no model that it is about has a `downgrade`, so nothing can go on with another"


def _spellings(policy: Policy) -> Iterator[str]:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, model in policy.models.items():
        served = model.upstream or name
        found[model.provider, served.lower()].add(served)
    for (provider, _), spellings in found.items():
        if len(spellings) > 1:
            shown = " and ".join(repr(spelling) for spelling in sorted(spellings))
            yield f"models: {shown} of provider {provider!r} are counted apart; write one spelling as `upstream`"


def _keys(policy: Policy) -> Iterator[str]:
    served = [model.upstream or name for name, model in policy.models.items()]
    for key in policy.keys:
        if not any(glob_match((glob,), name) for glob in key.models for name in served):
            yield f"keys.{key.id}.models: {list(key.models)!r}: allows no model of this document ({', '.join(served)})"
