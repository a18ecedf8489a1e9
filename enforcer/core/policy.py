"""What applying a document would change: differences, prices, counters that begin or end, keys it leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from enforcer.core.diff import Change, Document, changes
from enforcer.core.keys import clashes, follow, orphans
from enforcer.core.pricing import Prices, Quote, describe, resolve
from schemas.errors import ConfigError
from schemas.keys import VirtualKey
from schemas.money import Price
from schemas.policy import Budget, Limit, Policy, PolicyRecord
from schemas.policy_file import load_policy
from schemas.policy_lint import warnings

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_RECORD_BYTES = 950_000
"""A record with its prices must fit into one message."""


class Candidate(msgspec.Struct, frozen=True):
    """A valid document with its prices, before it has a version."""

    text: str
    document: Document
    prices: Prices

    @property
    def sha256(self) -> str:
        """Hash of the text, hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Plan(msgspec.Struct, frozen=True):
    """What a candidate changes against the version in force."""

    identical: bool
    """Same text, same prices: applying it would make no new version."""
    changes: list[Change]
    unpriced: list[str]
    repriced: list[Change]
    """By model, or organisation/model where it is that organisation's own; prices as text."""
    rows_begin: list[str]
    """Rules whose counters begin at zero: new ones, and ones that count by something else from now on."""
    rows_end: list[str]
    """Rules whose counters end."""
    keys_published: list[str]
    keys_revoked: list[str]
    keys_orphaned: list[dict[str, str]]
    """Working issued keys that name something the document does not have; they go on working."""
    warnings: list[str] = []
    """What is valid and probably not meant."""


def read(text: str) -> Document:
    """Return the document of a YAML text; ConfigError with every problem, each beginning with its path."""
    try:
        policy = load_policy(text)
    except ConfigError as error:
        raise ConfigError([problem.removeprefix("policy: ") for problem in error.problems]) from error
    return Document(yaml.load(text, Loader=_Loader), policy)  # noqa: S506 - a safe loader, the fast one


def candidate(text: str, quote: Quote) -> Candidate:
    """Return a document with its prices; ConfigError with every problem."""
    document = read(text)
    return Candidate(text, document, resolve(document.policy, quote))


def plan(
    found: Candidate, current: PolicyRecord | None, before: Document | None, keys: Mapping[str, VirtualKey], now_ms: int
) -> Plan | list[str]:
    """Return what `found` changes against `current` with document `before`, or why it cannot be applied at all."""
    policy = found.document.policy
    problems = clashes(policy, keys)
    if problems:
        return problems
    old = None if before is None else before.policy
    following = follow(old, policy, now_ms, keys, now_ms)
    begin, end = _counters(old, policy)
    repriced = changed_prices(current, found.prices)
    return Plan(
        identical=current is not None and current.document == found.text and not repriced,
        changes=changes(before, found.document),
        unpriced=found.prices.unpriced,
        repriced=repriced,
        rows_begin=begin,
        rows_end=end,
        keys_published=[key.id for key in following if key.revoked_ms is None],
        keys_revoked=[key.id for key in following if key.revoked_ms is not None],
        keys_orphaned=orphans(policy, keys.values(), now_ms),
        warnings=warnings(policy),
    )


def record(found: Candidate, version: int, applied_ms: int, actor: str, note: str) -> PolicyRecord:
    """Return the candidate as a version."""
    prices, own = found.prices.resolved, {org: dict(prices) for org, prices in found.prices.orgs.items()}
    return PolicyRecord(version, found.text, found.sha256, applied_ms, actor, note, prices, own)


def summary(version: PolicyRecord) -> dict[str, Any]:
    """Return a version without its document, as the history lists it."""
    return {
        name: getattr(version, name) for name in ("version", "sha256", "applied_ms", "applied_by", "note")
    }  # fmt: skip


def details(version: PolicyRecord) -> dict[str, Any]:
    """Return a version with its document and its prices as text."""
    prices = {name: describe(price) for name, price in version.prices.items()}
    own = {org: {name: describe(price) for name, price in prices.items()} for org, prices in version.org_prices.items()}
    return {
        **summary(version), "document": version.document, "prices": prices, "org_prices": own,
        "prices_revision": version.prices_revision,
    }  # fmt: skip


def changed_prices(current: PolicyRecord | None, prices: Prices) -> list[Change]:
    """Return the prices that are not those of `current`."""
    changes = _repriced({} if current is None else current.prices, prices.resolved)
    known = {} if current is None else current.org_prices
    for org in sorted({*known, *prices.orgs}):
        own = _repriced(known.get(org, {}), prices.orgs.get(org, {}))
        changes += [Change(f"{org}/{change.path}", change.before, change.after) for change in own]
    return changes


def _counters(before: Policy | None, after: Policy) -> tuple[list[str], list[str]]:
    old = {} if before is None else {rule.name: _identity(rule) for rule in before.rules() if rule.counted()}
    new = {rule.name: _identity(rule) for rule in after.rules() if rule.counted()}
    begin = [name for name in new if old.get(name) != new[name]]
    end = [name for name in old if old[name] != new.get(name)]
    return begin, end


def _identity(rule: Limit | Budget) -> tuple[object, ...]:
    """Return what makes the counters of a rule the same counters: all that row keys are made of."""
    return (rule.scope_names, *((part.measure, part.span, part.zone) for part in rule.counted()))


def _repriced(before: Mapping[str, Price], after: Mapping[str, Price]) -> list[Change]:
    def shown(prices: Mapping[str, Price], name: str) -> Any:
        return describe(prices[name]) if name in prices else None

    return [
        Change(name, shown(before, name), shown(after, name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
