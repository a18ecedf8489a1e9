"""On which terms usage of batches is charged: the model of the policy, its price, the rows that it is booked to. Pure.

A batch is charged by the policy that is in force when its usage is known, to whom it belonged when it was created.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from enforcer.core.model_names import Known, models_named
from schemas.money import Price, completed
from schemas.policy import DEFAULT_RESERVE, Budget, Policy, PolicyRecord, attributes_of, tier_of
from schemas.price_parts import price_of
from schemas.rows import RowKey
from schemas.rules import Counted, Limit
from schemas.usage import Attribution
from schemas.windows import Period

DAY_S = 86_400
MINUTE_S = 60
MAX_KEPT = 1_000
_LONG = frozenset({Period.DAY, Period.WEEK, Period.MONTH, Period.QUARTER, Period.YEAR})


class Served(NamedTuple):
    """A model as rules match it and prices apply to it."""

    name: str
    """Under `models` of the policy; empty if it has none of this name."""
    model: str


class Terms:
    """What one version of the policy, and one resolution of its prices, says of batches."""

    def __init__(
        self, record: PolicyRecord, policy: Policy, partitions: int, tier_of_key: Callable[[str], int | None]
    ) -> None:
        """Take the terms of a version.

        Args:
            record: the version, with its prices.
            policy: its document.
            partitions: of the topic of usage.
            tier_of_key: key id → its own tier; None where it has none.
        """
        self.version, self.partitions = record.version, partitions
        self._record, self._policy, self._tier_of_key = record, policy, tier_of_key
        self._unpriced = completed(
            *(price_of(part, "unpriced_reserve", "-") for part in (policy.unpriced_reserve, DEFAULT_RESERVE))
        )
        self._known: dict[str, list[Known]] = {}
        for name, model in policy.models.items():
            self._known.setdefault(model.provider, []).append(Known(model.upstream or name, name))
        self._served: dict[tuple[str, str, str], Served] = {}

    def served(self, provider: str, reported: str, asked: str) -> Served:
        """Return the model that answers of `provider` name `reported`.

        Names that are several models of the policy are none of them: a price that is not known is better than a wrong
        one. Where several names of the policy are the same model, that of the account (`asked`) goes first.
        """
        key = (provider, reported, asked)
        found = self._served.get(key)
        if found is None:
            if len(self._served) >= MAX_KEPT:
                self._served.clear()
            found = self._served[key] = self._look_up(*key)
        return found

    def _look_up(self, provider: str, reported: str, asked: str) -> Served:
        known = self._known.get(provider, [])
        models = models_named(reported, known) if reported else []
        if len(models) != 1:
            return Served("", reported)
        names = [each.reported for each in known if each.model == models[0]]
        return Served(asked if asked in names else names[0], models[0])

    def price(self, org: str, name: str) -> Price | None:
        """Return what an organisation pays for a model of the policy, by its name there; None: not known."""
        own = self._record.org_prices.get(org)
        return self._record.prices.get(name) if own is None or name not in own else own[name]

    def reserve(self, price: Price | None) -> Price:
        """Return what rows are charged by where a cost is not known."""
        return self._unpriced if price is None else completed(price, self._unpriced)

    def rows(self, owner: Attribution, operation: str, at_s: int) -> list[str]:
        """Return the keys of the rows that usage at a moment is booked to, `owner` naming the served model.

        All budgets, and of limits those whose windows are a day or longer: providers limit batches apart from other
        requests, and what was used hours ago must not close a minute to everybody.
        """
        attributes = attributes_of(
            org=owner.org, project=owner.project, team=owner.team, user=owner.user, key=owner.key_id,
            model=owner.model, provider=owner.provider, route=operation, tags=owner.tags,
            tier=tier_of(self._policy, owner.org, self._tier_of_key(owner.key_id)),
        )  # fmt: skip
        return [
            RowKey(rule.name, part.measure.value, rule.scope(attributes), part.span.window(part.zone, at_s)).encode()
            for rule in self._policy.rules()
            if rule.matches(attributes)
            for part in rule.counted()
            if _counts(rule, part)
        ]


def _counts(rule: Limit | Budget, part: Counted) -> bool:
    """Tell whether a counter has a part in usage of batches."""
    return isinstance(rule, Budget) or part.period in _LONG or part.span.length_s >= DAY_S
