"""Changes beside the policy document, on the `policy` topic: temporary increases of limits, and frozen scopes.

Each is a record under a key of its own (`increase/<id>`, `freeze/<scope>`); a tombstone ends it. Its `revision` is the
number of the audit entry of the change, so later changes have higher ones. An increase ends by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.fields import ATTRIBUTES
from schemas.rows import parse_scope, scope_text

Scope = tuple[tuple[str, str], ...]
INCREASE, FREEZE = "increase", "freeze"
_MAX_SCOPE = 512


class Increase(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.increase/1", omit_defaults=True):
    """More room for a while in the counters of a rule whose scope has all that `scope` names."""

    id: str
    rule: str
    scope: str
    """As rows have it, `org` first: `org=acme,team=search`. What it leaves out may be anything."""
    reason: str
    requested_by: str
    approved_by: str
    """Never the one who asked."""
    created_ms: int
    expires_ms: int
    """From then on the limit is what it was."""
    percent: int = 0
    """Of what the document says the limit is; added to it."""
    amount: int = 0
    """In the unit of the rule's only counter; added to its limit."""
    revision: int = 0

    @property
    def key(self) -> str:
        """The record's key on the topic."""
        return f"{INCREASE}/{self.id}"

    def covers(self, rule: str, scope: Scope) -> bool:
        """Tell whether it is about the counters of `rule` in `scope`."""
        return rule == self.rule and set(parse_scope(self.scope)) <= set(scope)

    def added(self, base: int) -> int:
        """Return what it adds to a limit that the document says is `base`."""
        return base * self.percent // 100 + self.amount


class Freeze(msgspec.Struct, frozen=True, tag_field="schema", tag="tollway.freeze/1", omit_defaults=True):
    """Requests that have all that `scope` names are refused until it is released."""

    scope: str
    """Attributes and values: `org=acme,team=search`, `model=gpt-4o`."""
    reason: str
    by: str
    created_ms: int
    revision: int = 0

    @property
    def key(self) -> str:
        """The record's key on the topic."""
        return f"{FREEZE}/{self.scope}"

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Tell whether a request with `attributes` is frozen."""
        return all(attributes.get(name, "") == value for name, value in parse_scope(self.scope))


def override_key(key: str) -> tuple[str, str] | None:
    """Return (`increase` or `freeze`, id or scope) of a key on the topic; None for a policy version."""
    kind, slash, rest = key.partition("/")
    return (kind, rest) if slash and kind in (INCREASE, FREEZE) else None


def normal_scope(text: str) -> str:
    """Return a scope with its attributes in the one order that there is; ValueError with the remedy if it is none."""
    pairs = parse_scope(text) if 0 < len(text) <= _MAX_SCOPE else ()
    if not pairs or not all(value for _, value in pairs):
        raise ValueError("write attributes and values, such as org=acme,team=search")
    names = [name for name, _ in pairs]
    unknown = [name for name in names if name not in ATTRIBUTES and not (name.startswith("tags.") and name[5:])]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no attribute; use {', '.join(ATTRIBUTES)} or tags.<name>")
    if len(set(names)) < len(names):
        raise ValueError("name each attribute once")
    order = {name: place for place, name in enumerate(ATTRIBUTES)}
    return scope_text(tuple(sorted(pairs, key=lambda pair: (order.get(pair[0], len(order)), pair[0]))))
