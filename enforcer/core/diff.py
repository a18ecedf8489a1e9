"""Compares two policy documents and names every difference by its path, in the words the documents use.

Whether something differs is decided on the validated documents, so that `2_000 USD` and `2000` are the same; what is
shown is what each document says. Rules and keys are named, not numbered: moving one is no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.policy import Policy

NAMES = {"limits": "name", "budgets": "name", "schedules": "name", "keys": "id"}
"""Lists in the document whose items have an identity, and where it is."""


class Change(msgspec.Struct, frozen=True):
    """One difference: `before` is None where something is new, `after` where something is gone."""

    path: str
    before: Any
    after: Any


class Document(msgspec.Struct, frozen=True):
    """A policy as it was written and as it was understood."""

    raw: Mapping[str, Any]
    policy: Policy


def changes(before: Document | None, after: Document) -> list[Change]:
    """Return what `after` changes, in the order of paths. Against nothing, every part is new."""
    old_raw: Any = {} if before is None else _named(before.raw)
    old: Any = {} if before is None else _understood(before.policy)
    found: list[Change] = []
    _compare("", (old, old_raw), (_understood(after.policy), _named(after.raw)), found)
    return found


def _understood(policy: Policy) -> dict[str, Any]:
    return _named(policy.model_dump(mode="json", by_alias=True))


def _named(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with its lists of named items as mappings."""
    named = dict(document)
    for part, name in NAMES.items():
        items = named.get(part)
        if isinstance(items, list | tuple):
            named[part] = {str(item[name]): item for item in items if isinstance(item, Mapping) and name in item}
    return named


def _compare(path: str, before: tuple[Any, Any], after: tuple[Any, Any], found: list[Change]) -> None:
    old, old_raw = before
    new, new_raw = after
    if old == new:
        return
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        found.append(Change(path, _shown(old, old_raw), _shown(new, new_raw)))
        return
    for name in sorted({*old, *new}, key=str):
        inner = f"{path}.{name}" if path else str(name)
        pair = (old.get(name), _part(old_raw, name)), (new.get(name), _part(new_raw, name))
        _compare(inner, *pair, found)


def _part(raw: Any, name: str) -> Any:
    if not isinstance(raw, Mapping):
        return None
    return raw.get(name, {str(key): value for key, value in raw.items()}.get(name))


def _shown(understood: Any, written: Any) -> Any:
    """Return what the document says, or what stands for it where the document is silent."""
    return understood if written is None else _with_names(written)


def _with_names(written: Any) -> Any:
    """Return a part of a document with all its keys as text: YAML reads those of a ladder as numbers."""
    if isinstance(written, Mapping):
        return {str(key): _with_names(value) for key, value in written.items()}
    return [_with_names(value) for value in written] if isinstance(written, list) else written
