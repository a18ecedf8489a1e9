"""Temporary increases and frozen scopes: what one must name, which records and audit entries a change is.

Nobody approves their own increase, and each one ends by itself. Freezing takes no second person: it has to be quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec

from schemas.keys import VirtualKey
from schemas.money import format_usd, parse_usd
from schemas.overrides import FREEZE, INCREASE, Freeze, Increase, normal_scope
from schemas.policy import Budget, Limit, Policy, unknown_principals
from schemas.rows import parse_scope

MAX_PERCENT = 10_000
MAX_LIFE_MS = 366 * 86_400_000
GRANTED, REVOKED, FROZEN, RELEASED = "increase.grant", "increase.revoke", "scope.freeze", "scope.release"
Problem = tuple[str, object, str]


class Wish(msgspec.Struct, frozen=True):
    """An increase as it was asked for."""

    rule: str
    scope: str
    reason: str
    requested_by: str
    approved_by: str
    expires_ms: int
    percent: int | None = None
    amount: str | None = None
    """Dollars of a budget (`50 USD`), else a whole number in the rule's unit."""


def increase(
    wish: Wish, policy: Policy | None, increase_id: str, now_ms: int, revision: int
) -> Increase | list[Problem]:
    """Return the increase that `wish` asks for, or everything that keeps it from being granted."""
    problems = [*_people(wish), *_life(wish.expires_ms, now_ms)]
    rule = None if policy is None else next((rule for rule in policy.rules() if rule.name == wish.rule), None)
    scope = wish.scope
    amount = 0
    if policy is None:
        problems.append(("rule", wish.rule, "no policy is in force; apply one with this rule first"))
    elif rule is None:
        known = ", ".join(rule.name for rule in policy.rules()) or "none"
        problems.append(("rule", wish.rule, f"name a limit or budget of the policy ({known})"))
    else:
        scope, found = _rule_scope(policy, rule, wish.scope)
        amount, more = _size(rule, wish)
        problems += found + more
    if problems:
        return problems
    return Increase(
        increase_id, wish.rule, scope, wish.reason.strip(), wish.requested_by.strip(), wish.approved_by.strip(),
        now_ms, wish.expires_ms, wish.percent or 0, amount, revision,
    )  # fmt: skip


def _people(wish: Wish) -> list[Problem]:
    found: list[Problem] = [
        (field, "", f"{told}; it is kept in the audit chain")
        for field, told in (
            ("reason", "say why"), ("requested_by", "say who asks"), ("approved_by", "say who approves")
        )
        if not getattr(wish, field).strip()
    ]  # fmt: skip
    if wish.approved_by.strip() and wish.approved_by.strip().casefold() == wish.requested_by.strip().casefold():
        found.append(("approved_by", wish.approved_by, "the one who asks cannot approve; name somebody else"))
    return found


def _life(expires_ms: int, now_ms: int) -> list[Problem]:
    if expires_ms // 1000 <= now_ms // 1000:
        return [("expires_ms", expires_ms, f"it is past; now is {now_ms}")]
    if expires_ms > now_ms + MAX_LIFE_MS:
        return [("expires_ms", expires_ms, "an increase lasts a year at most; change the policy instead")]
    return []


def _rule_scope(policy: Policy, rule: Limit | Budget, text: str) -> tuple[str, list[Problem]]:
    """Return the scope of an increase in the order of rows, and what is wrong with it."""
    try:
        scope = normal_scope(text)
    except ValueError as error:
        return text, [("scope", text, str(error))]
    named = dict(parse_scope(scope))
    names = ("org", *rule.scope_names)
    if "org" not in named:
        return scope, [("scope", text, "name the organisation too: org=…")]
    foreign = [name for name in named if name not in names]
    if foreign:
        return scope, [("scope", text, f"{rule.name} counts per {', '.join(names)}, not per {', '.join(foreign)}")]
    return scope, _unknown(policy, named, text)


def _unknown(policy: Policy, named: Mapping[str, str], text: str) -> list[Problem]:
    principal = SimpleNamespace(**{name: named.get(name, "") for name in ("org", "project", "team", "user")})
    return [
        ("scope", text, f"{value!r} is no {field}: {told}")
        for field, value, told in unknown_principals(policy, principal)
    ]


def _size(rule: Limit | Budget, wish: Wish) -> tuple[int, list[Problem]]:
    counted = rule.counted()
    if not counted:
        return 0, [("rule", rule.name, "it caps single requests and counts nothing; change it in the policy")]
    if (wish.percent is None) == (wish.amount is None):
        return 0, [("percent", wish.percent, "give a percent or an amount, and not both")]
    if wish.amount is None:
        percent = wish.percent or 0
        good = 0 < percent <= MAX_PERCENT
        return 0, [] if good else [("percent", wish.percent, f"write a percent above 0, at most {MAX_PERCENT}")]
    if len(counted) > 1:
        return 0, [("amount", wish.amount, f"{rule.name} counts {len(counted)} things; give a percent")]
    try:
        amount = parse_usd(wish.amount) if isinstance(rule, Budget) else int(wish.amount.replace("_", ""))
    except ValueError as error:
        return 0, [("amount", wish.amount, str(error) if isinstance(rule, Budget) else "write a whole number")]
    return amount, [] if 0 < amount <= 1 << 53 else [("amount", wish.amount, "write an amount above 0")]


def freeze(
    scope: str, reason: str, by: str, policy: Policy | None, keys: Mapping[str, VirtualKey], now_ms: int, revision: int
) -> Freeze | list[Problem]:
    """Return the freeze of `scope`, or everything that is wrong with it: a misspelt one would stop nobody."""
    problems: list[Problem] = [] if reason.strip() else [("reason", "", "say why; clients are told")]
    try:
        normal = normal_scope(scope)
    except ValueError as error:
        return [*problems, ("scope", scope, str(error))]
    if policy is not None:
        problems += _nobody(dict(parse_scope(normal)), policy, keys, scope)
    return problems or Freeze(normal, reason.strip(), by, now_ms, revision)


def _nobody(named: Mapping[str, str], policy: Policy, keys: Mapping[str, VirtualKey], text: str) -> list[Problem]:
    """Return what of a scope cannot be true of any request."""
    served = {model.upstream or name for name, model in policy.models.items()}
    known: dict[str, Iterable[str]] = {
        "org": policy.orgs, "key": keys, "model": served, "provider": policy.providers, "tier": ("0", "1", "2"),
    }  # fmt: skip
    found: list[Problem] = [
        ("scope", text, f"there is no {name} {named[name]!r}" + _alias(policy, name, named[name]))
        for name, values in known.items()
        if name in named and named[name] not in values
    ]
    return found or (_unknown(policy, named, text) if "org" in named else [])


def _alias(policy: Policy, name: str, value: str) -> str:
    model = policy.models.get(value) if name == "model" else None
    return "" if model is None else f"; {value!r} is served as {model.upstream!r}, freeze that"


def describe_increase(found: Increase, policy: Policy | None, now_ms: int) -> dict[str, Any]:
    """Return an increase as the API tells it."""
    rules = {} if policy is None else {rule.name: rule for rule in policy.rules()}
    money = isinstance(rules.get(found.rule), Budget)
    shown = f"{found.percent}%" if found.percent else format_usd(found.amount) if money else f"{found.amount:,}"
    state = "active" if now_ms < found.expires_ms else "expired"
    return {**_fields(found), "size": f"+{shown}", "state": state if found.rule in rules else "no such rule"}


def describe_freeze(found: Freeze) -> dict[str, Any]:
    """Return a freeze as the API tells it."""
    return _fields(found)


def missing(
    last: Mapping[str, str], increases: Iterable[Increase], freezes: Iterable[Freeze]
) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return (actor, action, subject, detail) of changes that a crash kept from the chain.

    `last` is the last action of the chain by subject. What the chain says is there and the topic does not have ended.
    """
    found: list[tuple[str, str, str, dict[str, Any]]] = []
    there: set[str] = set()
    for increase in increases:
        there.add(increase.key)
        if last.get(increase.key) != GRANTED:
            found.append((increase.approved_by, GRANTED, increase.key, {**_fields(increase), "recovered": True}))
    for freeze in freezes:
        there.add(freeze.key)
        if last.get(freeze.key) != FROZEN:
            found.append((freeze.by, FROZEN, freeze.key, {**_fields(freeze), "recovered": True}))
    ends = {GRANTED: REVOKED, FROZEN: RELEASED}
    gone = [(subject, action) for subject, action in last.items() if action in ends and subject not in there]
    return found + [("unknown", ends[action], subject, {"recovered": True}) for subject, action in gone]


def is_override(subject: str) -> bool:
    """Tell whether a subject of the audit chain is an increase or a freeze."""
    return subject.startswith((f"{INCREASE}/", f"{FREEZE}/"))


def _fields(found: Increase | Freeze) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__struct_fields__}
