"""Which of our models the names on an invoice are: by name, by the name that answers had, or as somebody says.

An invoice may name a snapshot where we served an alias, several snapshots may be one model of ours, and several of ours
one of the invoice's. What is connected by names is compared together. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$")
_SEPARATORS = re.compile(r"[\s._:/-]+")


class Known(NamedTuple):
    """A model of ours, and a name that its answers had."""

    model: str
    reported: str


class Matched(NamedTuple):
    """Names that belong together."""

    ours: tuple[str, ...]
    invoiced: tuple[str, ...]

    @property
    def label(self) -> str:
        """Their name in reports."""
        return " + ".join(self.ours or self.invoiced)


def match(invoiced: Iterable[str], known: Iterable[Known], said: Mapping[str, str]) -> list[Matched]:
    """Return all names, those that belong together together; some may be on one side only.

    Args:
        invoiced: names on the invoice.
        known: our models.
        said: name on the invoice → model of ours, whatever the names look like.
    """
    found = list(known)
    ours = sorted({each.model for each in found})
    group = {model: number for number, model in enumerate(ours)}
    of: dict[str, list[str]] = {}
    for name in sorted(set(invoiced)):
        of[name] = [said[name]] if name in said else models_named(name, found)
        places = {group[model] for model in of[name] if model in group}
        if places:
            least = min(places)
            group = {model: least if place in places else place for model, place in group.items()}
    matched = []
    for place in sorted(set(group.values())):
        members = tuple(model for model in ours if group[model] == place)
        matched.append(Matched(members, tuple(name for name, models in of.items() if set(models) & set(members))))
    alone = [name for name, models in of.items() if not set(models) & set(ours)]
    return matched + [Matched((), (name,)) for name in alone]


def models_named(name: str, known: Sequence[Known]) -> list[str]:
    """Return the models that a name is: by the same name, else by what answers were named, else but for a snapshot."""
    for same in (_is_exactly, _is_alike, _is_snapshot):
        found = {each.model for each in known if same(name, each.model)}
        found = found or {each.model for each in known if same(name, each.reported)}
        if found:
            return sorted(found)
    return []


def _is_exactly(name: str, ours: str) -> bool:
    return name == ours


def _is_alike(name: str, ours: str) -> bool:
    return bool(ours) and _plain(name) == _plain(ours)


def _is_snapshot(name: str, ours: str) -> bool:
    """Tell whether one is a snapshot of the other, or of the same."""
    return bool(ours) and _plain(_SNAPSHOT.sub("", name)) == _plain(_SNAPSHOT.sub("", ours))


def _plain(name: str) -> str:
    return _SEPARATORS.sub("-", name.strip().lower())
