"""Compares a provider's invoice with our books by day and model, explains differences, and divides them. Pure.

Theory
------
*Ours* is what the events of a day and model cost, corrections of single events included, plus what an invoice has
corrected before (`invoiced`). The *difference* is the invoice less that. Its causes are taken one after the other, each
as much as it can explain of what is left, in the direction of what is left; so they always sum to the difference:

1. unpriced: events whose cost is unknown, at their part of the invoice by tokens;
2. late: events that came in after the invoice was exported;
3. day edge: events that ended in the next day or shortly before, which may be in either day of the invoice;
4. estimated: usage that the provider never told us, up to all that it was counted or held at;
5. price: the same tokens at another rate, where the invoice has tokens;
6. other usage: more or fewer tokens than ours at our rate, where the invoice has tokens;
7. unexplained.

A day and model that the invoice has and we have not did not pass through Tollway; one that we have and the invoice has
not may be under another name. Neither is corrected.

What is corrected is divided by largest remainder: the invoice's amount over the groups (organisation, project, team,
user, key, tags) in proportion to their own cost, where usage without a cost counts at the average of the rest. What is
late is not on the invoice, and stays as it is. Limits are charged what the group costs in the end: a reserve for what
had no cost is given back. A group's correction is its part less its cost less what an invoice has
corrected of it before, so the sums are the invoice's to the nano-dollar, posting it again gives nothing, and a
corrected invoice gives only what has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import NamedTuple

import msgspec

from enforcer.core.adjustments import Adjustment, Target, derived_id
from enforcer.core.allocation import divide
from enforcer.core.invoices import Invoice
from enforcer.core.model_names import Matched
from schemas.usage import Attribution

OPERATION = "reconcile"
CAUSES = ("unpriced", "late", "day edge", "estimated", "price", "other usage", "unexplained")


class Group(msgspec.Struct, frozen=True, array_like=True):
    """What one group used of a model on a day, as the history tells it; fields in its order."""

    day: str
    model: str
    model_reported: str
    org: str
    project: str
    team: str
    user: str
    key_id: str
    tags: dict[str, str]
    events: int
    tokens: int
    cost_nanos: int
    charge_nanos: int
    """What limits were charged: reserves in place of costs that are unknown."""
    invoiced_nanos: int
    invoiced_charge_nanos: int
    unpriced_events: int
    unpriced_tokens: int
    estimated_events: int
    estimated_nanos: int
    unknown_events: int
    unknown_nanos: int
    left_nanos: int
    late_nanos: int
    occurred_ms: int
    operation: str
    rows: list[str]
    largest_nanos: int


class Invoiced(NamedTuple):
    """What an invoice says of a day and model."""

    nanos: int
    tokens: int | None


class Compared(NamedTuple):
    """One day and model on both sides."""

    day: date
    label: str
    groups: tuple[Group, ...]
    invoiced: Invoiced | None
    causes: dict[str, int]
    """Amount by cause; without those of 0."""

    @property
    def ours_nanos(self) -> int:
        """What it costs by our books, corrections by invoices included."""
        return sum(group.cost_nanos + group.invoiced_nanos for group in self.groups)

    @property
    def difference_nanos(self) -> int:
        """What the invoice says more."""
        return (0 if self.invoiced is None else self.invoiced.nanos) - self.ours_nanos


def compare(
    invoice: Invoice, groups: Sequence[Group], matched: Iterable[Matched], since: date, until: date
) -> list[Compared]:
    """Return every day of [since, until) and model that either side has, by day and label.

    `groups` may begin a day before `since`: what ended in its next day explains a difference of that.
    """
    billed = _by_name(invoice)
    compared = []
    for names in matched:
        own = [group for group in groups if group.model in names.ours]
        for number in range((until - since).days):
            day = since + timedelta(days=number)
            here = tuple(group for group in own if group.day == day.isoformat())
            amounts = [billed[day, name] for name in names.invoiced if (day, name) in billed]
            if not here and not amounts:
                continue
            said = _sum(amounts) if amounts else None
            eve = (day - timedelta(days=1)).isoformat()
            carried = sum(group.left_nanos for group in own if group.day == eve)
            compared.append(Compared(day, names.label, here, said, _causes(here, said, carried)))
    return sorted(compared, key=lambda each: (each.day, each.label))


def _by_name(invoice: Invoice) -> dict[tuple[date, str], tuple[Fraction, int | None]]:
    found: dict[tuple[date, str], tuple[Fraction, int | None]] = {}
    for line in invoice.lines:
        usd, tokens = found.get((line.day, line.model), (Fraction(0), 0))
        both = None if tokens is None or line.tokens is None else tokens + line.tokens
        found[line.day, line.model] = (usd + line.usd, both)
    return found


def _sum(amounts: Iterable[tuple[Fraction, int | None]]) -> Invoiced:
    usd, tokens = Fraction(0), 0
    is_counted = True
    for amount, count in amounts:
        usd += amount
        tokens += count or 0
        is_counted = is_counted and count is not None
    return Invoiced(round(usd * 10**9), tokens if is_counted else None)


def _causes(groups: Sequence[Group], said: Invoiced | None, carried: int) -> dict[str, int]:
    if said is None or not groups:
        return {}
    found = dict.fromkeys(CAUSES, 0)
    ours = sum(group.cost_nanos + group.invoiced_nanos for group in groups)
    rest = said.nanos - ours

    def take(cause: str, amount: int) -> None:
        nonlocal rest
        taken = max(min(amount, rest), 0) if rest > 0 else min(max(amount, rest), 0)
        found[cause] += taken
        rest -= taken

    tokens, without = (sum(getattr(group, name) for group in groups) for name in ("tokens", "unpriced_tokens"))
    if without:
        take("unpriced", said.nanos * without // tokens)
    take("late", -sum(group.late_nanos for group in groups))
    take("day edge", carried if rest > 0 else -sum(group.left_nanos for group in groups))
    unsure = sum(group.estimated_nanos + group.unknown_nanos for group in groups)
    take("estimated", unsure if rest > 0 else -unsure)
    if said.tokens and tokens and not without:
        expected = ours * said.tokens // tokens
        take("price", said.nanos - expected)
        take("other usage", expected - ours)
    take("unexplained", rest)
    return {cause: amount for cause, amount in found.items() if amount}


def corrections(compared: Compared, provider: str, sha256: str) -> list[tuple[Target, Adjustment]]:
    """Return what makes a day and model cost what the invoice says; nothing if it does, or is not on both sides."""
    if compared.invoiced is None or not compared.groups:
        return []
    found = []
    whole = compared.invoiced.nanos - compared.causes.get("late", 0)
    for group, part in zip(compared.groups, divide(whole, weights(compared.groups)), strict=True):
        more = part - group.cost_nanos - group.invoiced_nanos
        if more:
            found.append(_correction(group, provider, sha256, more, part))
    return found


def weights(groups: Sequence[Group]) -> list[int]:
    """Return in which proportion groups bear an amount: by cost; what has none counts at the average of the rest."""
    cost = sum(max(group.cost_nanos, 0) for group in groups)
    priced = sum(group.tokens - group.unpriced_tokens for group in groups)
    if not cost or not priced:
        return [max(group.cost_nanos, 0) or group.tokens or group.events for group in groups]
    return [max(group.cost_nanos, 0) * priced + cost * group.unpriced_tokens for group in groups]


def _correction(group: Group, provider: str, sha256: str, more: int, part: int) -> tuple[Target, Adjustment]:
    attribution = Attribution(
        group.org, group.project, group.team, group.user, group.key_id, provider, group.model, group.model, group.tags,
        price_version=f"invoice:{sha256[:12]}",
    )  # fmt: skip
    owner = msgspec.json.encode((*(getattr(group, name) for name in OWNER), sorted(group.tags.items()))).decode()
    midnight = datetime.fromisoformat(group.day).replace(tzinfo=UTC)
    adjustment = Adjustment(
        id=derived_id(OPERATION, sha256, provider, group.day, group.model, owner, group.invoiced_nanos, part),
        target=0,
        occurred_ms=group.occurred_ms if group.events else int(midnight.timestamp()) * 1000,
        operation=OPERATION,
        cost_nanos=more,
        charge_nanos=part - group.charge_nanos - group.invoiced_charge_nanos,
        note=f"invoice {provider} {group.day} sha256:{sha256[:16]}",
    )
    return Target(attribution, group.rows if group.events else []), adjustment


OWNER = ("org", "project", "team", "user", "key_id")


def by_cause(compared: Iterable[Compared]) -> Mapping[str, int]:
    """Return the sums of causes, in their order; without those of 0."""
    sums = dict.fromkeys(CAUSES, 0)
    for each in compared:
        for cause, amount in each.causes.items():
            sums[cause] += amount
    return {cause: amount for cause, amount in sums.items() if amount}
