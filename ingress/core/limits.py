"""The limit of a row at a time: what the document says, times the schedules in force, plus temporary increases.

    limit = floor(base × product of the schedules' percents) + sum of the increases

An increase in percent is a part of `base`, whatever schedules say, so that it always adds the same. Whole numbers only;
one division, so schedules do not lose by turns. Between the moments that it names the limit is constant.
Knows no clock, no rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.overrides import Increase
from schemas.rows import parse_scope
from schemas.schedules import FOREVER_S, Schedule


class LimitPlan:
    """The limit of one measure of one rule, over time and scopes."""

    __slots__ = ("_base", "_factor", "_from_s", "_increases", "_schedules", "_until_s")

    def __init__(self, base: int, schedules: Iterable[Schedule], increases: Iterable[Increase]) -> None:
        """Plan a limit.

        Args:
            base: what the document says, in the unit of the measure.
            schedules: that apply to the rule.
            increases: of the rule, in any scope.
        """
        self._base = base
        self._schedules = tuple(schedules)
        self._increases = tuple(increases)
        self._factor = base
        self._from_s = self._until_s = 0

    def limit_at(self, scope: str, now_s: int) -> tuple[int, int]:
        """Return the limit of the rows of `scope` at unix second `now_s`, and the second until which it is that."""
        limit, until_s = self._scheduled(now_s)
        if self._increases:
            pairs = frozenset(parse_scope(scope))
            for increase in self._increases:
                begins_s, ends_s = increase.created_ms // 1000, increase.expires_ms // 1000
                if now_s >= ends_s or not pairs.issuperset(parse_scope(increase.scope)):
                    continue
                if now_s < begins_s:
                    until_s = min(until_s, begins_s)
                    continue
                limit += increase.added(self._base)
                until_s = min(until_s, ends_s)
        return limit, until_s

    def _scheduled(self, now_s: int) -> tuple[int, int]:
        if not self._from_s <= now_s < self._until_s:
            product, divisor, until_s = self._base, 1, FOREVER_S
            for schedule in self._schedules:
                in_force, holds_until_s = schedule.at(now_s)
                until_s = min(until_s, holds_until_s)
                if in_force:
                    product *= schedule.multiply
                    divisor *= 100
            self._factor, self._from_s, self._until_s = product // divisor, now_s, until_s
        return self._factor, self._until_s


def plan_of(rule: str, base: int, schedules: Iterable[Schedule], increases: Iterable[Increase]) -> LimitPlan | None:
    """Return the plan of a limit of `rule`; None if it is always `base`."""
    own_schedules = [schedule for schedule in schedules if schedule.applies_to(rule)]
    own_increases = [increase for increase in increases if increase.rule == rule]
    return LimitPlan(base, own_schedules, own_increases) if own_schedules or own_increases else None
