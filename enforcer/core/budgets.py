"""Which budget a row belongs to: a row counts for a budget only if it is one of its scopes and one of its windows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

from schemas.overrides import Increase
from schemas.policy import Budget, Policy
from schemas.quota import RowState
from schemas.rows import Measure, RowKey, scope_text
from schemas.windows import Span, Window


class Spend(NamedTuple):
    """What one scope of a budget has used in one window."""

    budget: Budget
    key: RowKey
    state: RowState
    is_fixed: bool = True
    """Whether the amount is all there is: no schedule, nothing carried over, and nothing but `block` beyond it."""
    increases: tuple[Increase, ...] = ()
    """Temporary increases that are about this scope, expired ones too."""

    def may_block(self, now_ms: int) -> bool:
        """Tell whether the scope is blocked once the amount is used up. Else its rows alone decide, request by request.

        A block refuses whatever comes: that is right only where nobody may go on beyond the amount.
        """
        return self.is_fixed and all(increase.expires_ms <= now_ms for increase in self.increases)

    @property
    def scope(self) -> str:
        """The scope as text."""
        return scope_text(self.key.scope)


class Budgets:
    """The budgets of one policy, by name.

    Args:
        policy: None before the first.
        increases: by id; looked at whenever a row is.
    """

    def __init__(self, policy: Policy | None, increases: Mapping[str, Increase] | None = None) -> None:
        self.by_name: dict[str, Budget] = {} if policy is None else {budget.name: budget for budget in policy.budgets}
        self._increases = {} if increases is None else increases
        schedules = () if policy is None else policy.schedules
        self._fixed = {
            name
            for name, budget in self.by_name.items()
            if _blocks(budget) and not any(schedule.applies_to(name) for schedule in schedules)
        }

    def spend(self, key: RowKey, state: RowState) -> Spend | None:
        """Return the row as spend of its budget, or None.

        It is None for a row of a rule that the policy does not have, or had in another shape: a monthly count means
        nothing to a budget that is daily now.
        """
        budget = self.by_name.get(key.rule)
        if budget is None or key.measure != Measure.COST:
            return None
        names = ("org", *budget.scope_names)
        if tuple(name for name, _ in key.scope) != names:
            return None
        if _window(budget, key.window.start) != key.window:
            return None
        increases = tuple(found for found in self._increases.values() if found.covers(key.rule, key.scope))
        return Spend(budget, key, state, key.rule in self._fixed, increases)

    def row_now(self, rule: str, scope: str, now_s: int) -> str | None:
        """Return the key of the row that a scope of a budget counts in at `now_s`; None without such a budget."""
        budget = self.by_name.get(rule)
        if budget is None:
            return None
        return f"{rule}/{Measure.COST.value}/{scope}/{_window(budget, now_s)}"


def reached(settled: int, amount: int, percent: int) -> bool:
    """Tell whether `settled` is `percent` percent of `amount` or more, both in nano-USD. The one comparison."""
    return settled * 100 >= percent * amount


def _blocks(budget: Budget) -> bool:
    """Tell whether nothing but `block` comes beyond the amount, for every tier."""
    beyond = dict(budget.rungs).get(100, "block")
    is_plain = budget.mode == "enforce" and beyond == "block" and budget.final_unit != "downgrade"
    return is_plain and not (budget.grace or budget.carry_over)


def _window(budget: Budget, at_s: int) -> Window:
    return _window_of(budget.period, budget.timezone, at_s)


@functools.lru_cache(maxsize=4096)
def _window_of(span: Span, zone: str, at_s: int) -> Window:
    return span.window(zone, at_s)
