"""Temporary increases and frozen scopes as the `policy` topic has them. Outlives policies; knows none."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.overrides import Freeze, Increase


class Overrides:
    """What is in force beside the policy document."""

    __slots__ = ("freezes", "increases")

    def __init__(self) -> None:
        self.increases: dict[str, Increase] = {}
        """By id; ones that have expired may be among them."""
        self.freezes: dict[str, Freeze] = {}
        """By scope."""

    def put_increase(self, increase_id: str, increase: Increase | None) -> bool:
        """Set the increase with this id, or end it with None; return whether that changes anything."""
        old = self.increases.pop(increase_id, None)
        if increase is not None:
            self.increases[increase_id] = increase
        return old != increase

    def put_freeze(self, scope: str, freeze: Freeze | None) -> bool:
        """Freeze a scope, or release it with None; return whether that changes anything."""
        old = self.freezes.pop(scope, None)
        if freeze is not None:
            self.freezes[scope] = freeze
        return old != freeze

    def frozen(self, attributes: Mapping[str, str]) -> Freeze | None:
        """Return the freeze that a request with `attributes` falls under, if there is one."""
        return next((freeze for freeze in self.freezes.values() if freeze.holds(attributes)), None)
