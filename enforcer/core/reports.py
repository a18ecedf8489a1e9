"""What the API says of limits, budgets, shards and ledgers: plain values, amounts exact, every field named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from enforcer.core.blocks import exhausted
from enforcer.core.budgets import Budgets, Spend
from enforcer.core.decisions import time_text, unit_of, usd_text
from enforcer.core.metering import Metering
from enforcer.core.quota import Held, QuotaView, Shard
from enforcer.core.thresholds import crossed
from schemas.alerts import METERING_BEHIND, METERING_DRIFT, METERING_SILENT, Alert
from schemas.ids import shard_of
from schemas.policy import Policy
from schemas.published import OVERSHOOT_BOUND
from schemas.quota import LedgerState, hour_text
from schemas.rows import Measure, scope_text

Sample = tuple[str, tuple[str, ...], float]
"""Name of a gauge, label values, value."""
_BUDGET_SUMS = ("amount", "settled", "inflight", "overshoot")


def usage(
    view: QuotaView, policy: Policy | None, org: str | None, rule: str | None, now_s: int
) -> list[dict[str, Any]]:
    """Return the rows whose window holds `now_s`, of one organisation and one rule if given."""
    ceilings = _ceilings(policy)
    found = [
        _row(held, _limit(held, ceilings))
        for held in view.rows()
        if held.key.window.start <= now_s < held.key.window.end
        and (org is None or held.key.scope[0][1] == org)
        and (rule is None or held.key.rule == rule)
    ]
    return sorted(found, key=lambda row: row["row"])


def budgets(view: QuotaView, policy: Policy | None, now_s: int, propagation_ms: int | None) -> list[dict[str, Any]]:
    """Return each scope of each budget in the window that holds `now_s`."""
    index = Budgets(policy)
    spends = (
        index.spend(held.key, held.state)
        for held in view.rows()
        if held.key.measure == Measure.COST and held.key.window.start <= now_s < held.key.window.end
    )
    found = [_budget(spend, propagation_ms) for spend in spends if spend is not None]
    for budget in found:
        budget["partition"] = shard_of(budget["attributes"].get("org", ""), len(view.shards))
    return sorted(found, key=lambda budget: (budget["budget"], budget["scope"]))


def limits(view: QuotaView, policy: Policy | None, now_s: int) -> list[dict[str, Any]]:
    """Return each counter of each limit, its scopes added up, with the scope that is nearest to its limit."""
    ceilings = _ceilings(policy)
    found: dict[tuple[str, str, str], list[Held]] = {key: [] for key in sorted(ceilings) if key[1] != Measure.COST}
    for held in view.rows():
        key = (held.key.rule, held.key.measure, held.key.window.period)
        if key in found and held.key.window.start <= now_s < held.key.window.end:
            found[key].append(held)
    return [_limit_line(key, rows, ceilings) for key, rows in found.items()]


def _limit_line(
    key: tuple[str, str, str], rows: list[Held], ceilings: dict[tuple[str, str, str], int]
) -> dict[str, Any]:
    shares = [
        (_percent(held.state.settled + held.state.inflight, _limit(held, ceilings)) or 0.0, held) for held in rows
    ]
    percent, nearest = max(shares, key=lambda share: share[0], default=(None, None))
    return {
        "rule": key[0], "measure": key[1], "period": key[2], "limit": ceilings[key], "scopes": len(rows),
        "used_percent": percent, "nearest": None if nearest is None else scope_text(nearest.key.scope),
        "over": sum(share > 100 for share, _ in shares),
    }  # fmt: skip


def _limit(held: Held, ceilings: dict[tuple[str, str, str], int]) -> int | None:
    """Return the limit in force on the log, else the policy's: schedules and increases are in the former alone."""
    if held.state.limit >= 0:
        return held.state.limit
    return ceilings.get((held.key.rule, held.key.measure, held.key.window.period))


def rules(policy: Policy | None) -> list[dict[str, Any]]:
    """Return the budgets of the policy, used or not."""
    if policy is None:
        return []
    return [
        {
            "budget": budget.name, "amount": budget.amount, "amount_usd": usd_text(budget.amount),
            "per": ["org", *(name for name in budget.per if name != "org")],
            "period": str(budget.period), "timezone": budget.timezone,
            "thresholds_percent": sorted(set(budget.thresholds)),
        }
        for budget in policy.budgets
    ]  # fmt: skip


def ledger(view: QuotaView) -> list[dict[str, Any]]:
    """Return all ledger entries but those of hours. A key may be in several partitions; its sums add.

    Of a run, `hours_from` is the first hour from which on `hours` has all of it, null if it has none.
    """
    return [
        {
            **_entry(shard, key, fence, entry),
            "told": None if entry.told is None else _fields(entry.told),
            "hours_from": None if entry.hours_from is None else hour_text(entry.hours_from),
        }
        for shard, key, fence, entry in _entries(view)
        if entry.place is None
    ]


def hours(view: QuotaView) -> list[dict[str, Any]]:
    """Return the ledger entries of runs and hours. A key may be in several partitions; its sums add."""
    return [
        {**_entry(shard, key, fence, entry), "place": _fields(entry.place)}
        for shard, key, fence, entry in _entries(view)
        if entry.place is not None
    ]


def _entries(view: QuotaView) -> Iterator[tuple[Shard, str, int, LedgerState]]:
    for shard in view.shards:
        for key, (fence, entry) in sorted(shard.ledger.items()):
            yield shard, key, fence, entry


def _entry(shard: Shard, key: str, fence: int, entry: LedgerState) -> dict[str, Any]:
    return {"partition": shard.partition, "key": key, "fence": fence, "totals": _fields(entry.totals)}


def shard_status(shard: Shard, lag: int | None, now_ms: int) -> dict[str, Any]:
    """Return how current one partition is, and who shares it."""
    return {
        "partition": shard.partition,
        "fence": shard.fence,
        "publisher": shard.publisher,
        "published_ms": shard.published_ms,
        "staleness_ms": staleness_ms(shard, now_ms),
        "whole": shard.whole,
        "lag": lag,
        "rows": len(shard.rows),
        "members": [
            {"instance": member.instance, "epoch": member.epoch, "hw": member.hw, "weight": _fields(member.weight)}
            for member in shard.members
        ],
    }


def staleness_ms(shard: Shard, now_ms: int) -> int | None:
    """Return how long ago the newest snapshot was published; None before the first."""
    return max(0, now_ms - shard.published_ms) if shard.received_ms else None


def metering(metering: Metering, last: Alert | None, now_ms: int) -> dict[str, Any]:
    """Return whether metering is at work, and how every partition does."""
    return {
        "state": incident(last) or "ok",
        "since": None if last is None else last.time,
        "alert": None if last is None else last.id,
        "partitions": [vital._asdict() for vital in metering.vitals(now_ms)],
    }


def ledgers(last: Alert | None) -> dict[str, Any]:
    """Return whether the ledgers agree, by the newest alert about it."""
    if last is None or last.type != METERING_DRIFT:
        return {"state": "agree", "since": None if last is None else last.time, "alert": None, "first": None}
    return {"state": "drift", "since": last.time, "alert": last.id, "first": last.data["first"]}


def incident(last: Alert | None) -> str:
    """Return the open incident of metering: `silent` or `behind`; empty if there is none."""
    return "" if last is None else {METERING_SILENT: "silent", METERING_BEHIND: "behind"}.get(last.type, "")


def metering_samples(metering: Metering, last: Alert | None, now_ms: int) -> Iterator[Sample]:
    """Yield the gauges of metering."""
    for vital in metering.vitals(now_ms):
        labels = (str(vital.partition),)
        yield "metering_silence_seconds", labels, vital.silent_ms / 1000
        yield "metering_behind_seconds", labels, vital.behind_ms / 1000
        yield "metering_behind_records", labels, vital.records
    for kind in ("silent", "behind"):
        yield "metering_incident", (kind,), int(incident(last) == kind)


def budget_samples(budgets: Iterable[dict[str, Any]]) -> Iterator[Sample]:
    """Yield the gauges of budgets, by budget, organisation, project and team; other scopes are added up."""
    sums: dict[tuple[str, ...], dict[str, float]] = {}
    for budget in budgets:
        scope = budget["attributes"]
        labels = (budget["budget"], *(scope.get(name, "") for name in ("org", "project", "team")))
        group = sums.setdefault(labels, dict.fromkeys((*_BUDGET_SUMS, "ratio", "scopes"), 0))
        for name in _BUDGET_SUMS:
            group[name] += budget[name]
        used = budget["settled"] + budget["inflight"]
        group["ratio"] = max(group["ratio"], used / budget["amount"] if budget["amount"] else 0.0)
        group["scopes"] += 1
    for labels, group in sums.items():
        for name in _BUDGET_SUMS:
            yield f"budget_{name}_usd", labels, group[name] / 1e9
        yield "budget_used_ratio", labels, group["ratio"]
        yield "budget_scopes", labels, group["scopes"]


def quantile(samples: Iterable[int], percent: int) -> int | None:
    """Return the nearest-rank quantile of `samples`; None without any."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def _ceilings(policy: Policy | None) -> dict[tuple[str, str, str], int]:
    rules = () if policy is None else policy.rules()
    return {(rule.name, part.measure.value, part.period.value): part.limit for rule in rules for part in rule.counted()}


def _row(held: Held, limit: int | None) -> dict[str, Any]:
    key, state = held.key, held.state
    row: dict[str, Any] = {
        "row": state.row, "rule": key.rule, "measure": key.measure, "unit": unit_of(key.measure),
        "scope": scope_text(key.scope), "attributes": dict(key.scope), "window": str(key.window),
        "window_start_s": key.window.start, "window_end_s": key.window.end,
        "settled": state.settled, "inflight": state.inflight, "limit": limit,
        "used_percent": _percent(state.settled + state.inflight, limit), "fence": held.fence,
    }  # fmt: skip
    if key.measure == Measure.COST:
        row |= {
            f"{name}_usd": usd_text(row[name]) for name in ("settled", "inflight", "limit") if row[name] is not None
        }
    return row


def _budget(spend: Spend, propagation_ms: int | None) -> dict[str, Any]:
    window, amount = spend.key.window, spend.budget.amount
    settled, inflight = spend.state.settled, spend.state.inflight
    shown: dict[str, Any] = {
        "amount": amount, "limit": amount if spend.state.limit < 0 else spend.state.limit,
        "settled": settled, "inflight": inflight,
        "remaining": max(0, amount - settled - inflight), "overshoot": max(0, settled + inflight - amount),
    }  # fmt: skip
    return {
        "budget": spend.budget.name,
        "scope": spend.scope,
        "attributes": dict(spend.key.scope),
        "unit": unit_of(Measure.COST),
        **shown,
        **{f"{name}_usd": usd_text(value) for name, value in shown.items()},
        "used_percent": _percent(settled + inflight, amount),
        "window": {
            "period": window.period, "timezone": spend.budget.timezone, "start_s": window.start, "end_s": window.end,
            "start": time_text(window.start * 1000), "end": time_text(window.end * 1000),
        },
        "thresholds_percent": sorted(set(spend.budget.thresholds)),
        "thresholds_crossed_percent": crossed(spend),
        "exhausted": exhausted(spend),
        "overshoot_bound": OVERSHOOT_BOUND,
        "propagation_ms": propagation_ms,
    }  # fmt: skip


def _percent(used: int, limit: int | None) -> float | None:
    """Return percents with two decimals, cut: 99.99 is never shown as 100. None without a limit to divide by."""
    return (used * 10_000 // limit) / 100 if limit else None


def _fields(struct: Any) -> dict[str, int]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
