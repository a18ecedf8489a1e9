"""What a back-test found, for people and for programs. Pure: text and plain values from sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.backtest.tally import NAMES, RULE, GroupSums, RuleSums, Tally
from deploy.cli import output
from deploy.cli.when import text_of_ms
from schemas.money import format_usd, to_decimal

GROUP_COLUMNS = (
    "requests", "admitted", "refused", "refused_before", "newly_refused", "newly_admitted", "throttled", "queued",
    "downgraded", "warned", "shadowed", "tokens_avoided", "cost_usd", "cost_avoided_usd", "cost_added_usd",
)  # fmt: skip
RULE_COLUMNS = (
    "rule", "measure", "refused", "throttled", "queued", "downgraded", "warned", "shadowed", "share", "first_hit",
    "last_hit", "scopes", "most_hit", "tokens_avoided", "cost_avoided_usd",
)  # fmt: skip
OPTIONAL = frozenset({"throttled", "queued", "downgraded", "warned", "shadowed"})
"""Columns that a table leaves out where all their values are 0."""


@dataclass(frozen=True)
class Run:
    """What was replayed."""

    policy: str
    """The document's file."""
    since_ms: int
    until_ms: int
    counted_from_ms: int
    """Where counting began: the windows that hold `since` begin before it."""
    is_repriced: bool


def as_dict(run: Run, tally: Tally) -> dict[str, Any]:
    """Return everything; amounts are exact decimals of USD as text."""
    totals = tally.totals()
    return {
        "policy": run.policy,
        "since": _iso(run.since_ms),
        "until": _iso(run.until_ms),
        "counted_from": _iso(run.counted_from_ms),
        "prices": "of the candidate" if run.is_repriced else "as charged",
        "events": totals.requests + sum(tally.left_out.values()),
        "replayed_before": tally.warm,
        "left_out": dict(tally.left_out.most_common()),
        "estimated": tally.estimated,
        "unpriced_avoided": totals.unpriced_avoided,
        "mean_wait_ms": tally.waited_ms // tally.waits if tally.waits else 0,
        "totals": _group(totals),
        "by": list(tally.by),
        "groups": [{**dict(zip(tally.by, name, strict=True)), **_group(sums)} for name, sums in _groups(tally)],
        "rules": [_rule(rule, totals.requests) for rule in _rules(tally)],
    }


def as_csv(tally: Tally, by: str) -> str:
    """Return the groups, or the rules if `by` is `rule`, as CSV."""
    if by == RULE:
        requests = tally.totals().requests
        rules = [_rule(rule, requests) for rule in _rules(tally)]
        return output.as_csv(RULE_COLUMNS, [[rule[name] for name in RULE_COLUMNS] for rule in rules])
    rows = [[*name, *_row(sums)] for name, sums in _groups(tally)]
    return output.as_csv([*tally.by, *GROUP_COLUMNS], rows)


def as_text(run: Run, tally: Tally, by: str) -> str:
    """Return the summary, the groups and the rules for people."""
    totals = tally.totals()
    parts = [_summary(run, tally, totals)]
    if totals.requests and by != RULE:
        total_name = ("total", *("" for _ in tally.by[1:]))
        rows = [[*name, *_row(sums)] for name, sums in [*_groups(tally), (total_name, totals)]]
        parts.append(_table([*tally.by, *GROUP_COLUMNS], rows))
    if tally.rules:
        rules = [_rule(rule, totals.requests) for rule in _rules(tally)]
        parts.append(_table(list(RULE_COLUMNS), [[rule[name] for name in RULE_COLUMNS] for rule in rules]))
    elif totals.requests:
        parts.append("no rule would have had anything to say")
    return "\n\n".join(parts)


def _summary(run: Run, tally: Tally, totals: GroupSums) -> str:
    span = f"{text_of_ms(run.since_ms)} to {text_of_ms(run.until_ms)}"
    if not totals.requests:
        lines = [f"{run.policy}: no usage to replay, {span}"]
    else:
        lines = [
            f"{run.policy}: {totals.requests:,} requests replayed, {span}",
            f"refused {totals.refused:,} ({_percent(totals.refused, totals.requests)}); before, "
            f"{totals.refused_before:,}: {totals.newly_refused:,} newly refused, "
            f"{totals.newly_admitted:,} newly let through",
            f"spend {format_usd(totals.cost_nanos)}, of which {format_usd(totals.cost_avoided_nanos)} "
            f"({_percent(totals.cost_avoided_nanos, totals.cost_nanos)}) would have been avoided",
        ]
    if totals.newly_admitted:
        lines.append(f"newly let through would have cost about {format_usd(totals.cost_added_nanos)}")
    if tally.waits:
        lines.append(f"{tally.waits:,} requests would have waited {tally.waited_ms // tally.waits:,} ms on average")
    if tally.warm:
        lines.append(f"counted from {text_of_ms(run.counted_from_ms)}, where the windows begin that hold the beginning "
                     f"({tally.warm:,} requests before it)")  # fmt: skip
    if tally.estimated:
        lines.append(f"{tally.estimated:,} were refused before: what they would have used is estimated by their kind")
    if totals.unpriced_avoided:
        lines.append(f"{totals.unpriced_avoided:,} refused ones have no known cost and are in no amount")
    lines += [f"left out: {count:,} {why}" for why, count in tally.left_out.most_common()]
    return "\n".join(lines)


def _groups(tally: Tally) -> list[tuple[tuple[str, ...], GroupSums]]:
    """Return the groups: by the day in its order, else what the candidate changes most first."""
    if "day" in tally.by:
        return sorted(tally.groups.items())
    return sorted(
        tally.groups.items(), key=lambda item: (-item[1].cost_avoided_nanos, -item[1].refused, -item[1].requests, item)
    )


def _rules(tally: Tally) -> list[RuleSums]:
    return sorted(tally.rules.values(), key=lambda rule: (-rule.refused, -rule.hits, rule.rule, rule.measure))


def _group(sums: GroupSums) -> dict[str, Any]:
    return {
        name.removesuffix("_nanos") + ("_usd" if name.endswith("_nanos") else ""): _value(name, getattr(sums, name))
        for name in NAMES
    }


def _row(sums: GroupSums) -> list[Any]:
    values = _group(sums)
    return [values[name] for name in GROUP_COLUMNS]


def _value(name: str, amount: int) -> Any:
    return f"{to_decimal(amount):f}" if name.endswith("_nanos") else amount


def _rule(rule: RuleSums, requests: int) -> dict[str, Any]:
    most = rule.scopes.most_common(1)
    return {
        "rule": rule.rule or f"({rule.reason})",
        "measure": rule.measure,
        "refused": rule.refused,
        "throttled": rule.throttled,
        "queued": rule.queued,
        "downgraded": rule.downgraded,
        "warned": rule.warned,
        "shadowed": rule.shadowed,
        "share": _percent(rule.hits, requests),
        "first_hit": _iso(rule.first_ms),
        "last_hit": _iso(rule.last_ms),
        "scopes": len(rule.scopes),
        "most_hit": most[0][0] if most else "",
        "tokens_avoided": rule.tokens_avoided,
        "cost_avoided_usd": f"{to_decimal(rule.cost_avoided_nanos):f}",
    }


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    kept = [
        index
        for index, name in enumerate(columns)
        if name not in OPTIONAL or any(row[index] not in (0, "") for row in rows)
    ]
    return output.table([columns[index] for index in kept], [[_shown(row[index]) for index in kept] for row in rows])


def _shown(value: Any) -> Any:
    return f"{value:,}" if isinstance(value, int) else value


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _iso(unix_ms: int) -> str:
    return text_of_ms(unix_ms).replace(" ", "T")
