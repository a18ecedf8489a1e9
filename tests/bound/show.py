"""The harness's own words: a line a run while it goes on, and a table at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from rich.table import Table

from tests.bound.account import TARGETS, Booked, Outcome
from tests.bound.scenario import HEALTHY


def amount(dimension: str, value: int) -> str:
    """Return an amount in its unit."""
    return f"${value / 1e9:.6f}" if dimension == "money" else f"{value:,}"


def progress(each: Outcome) -> str:
    """Return the line of one run."""
    run, told = each.run, each.told
    counts = f"{amount(run.dimension, each.admitted)} of {amount(run.dimension, run.limit)}"
    parts = [f"{run.fault:<14}", f"{run.label:<24}", f"{counts:>26}", f"{each.ratio:7.1%}"]
    parts.append(f"{told.admitted} answered, {told.refused} refused")
    parts += [f"{told.unavailable} unavailable"] if told.unavailable else []
    parts += [f"{told.broken} broken"] if told.broken else []
    parts += ["time was up"] if told.is_cut else []
    return "  ".join(parts) + f"  {told.seconds:.1f} s"


def table(outcomes: Sequence[Outcome], booked: Mapping[str, Booked]) -> Table:
    """Return all runs by fault and class."""
    found = Table(title="How much of each limit was admitted", title_justify="left")
    for column in (
        "fault",
        "limit / arrivals / size",
        "runs",
        "least",
        "most",
        "target",
        "refused",
        "early",
        "",
    ):
        found.add_column(column, justify="left" if column in ("fault", "limit / arrivals / size", "") else "right")
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for each in outcomes:
        groups[each.run.fault, each.run.label].append(each)
    for (fault, label), group in groups.items():
        least, most = min(each.ratio for each in group), max(each.ratio for each in group)
        target = TARGETS[group[0].run.pattern, group[0].run.size] if fault == HEALTHY else 0.0
        known = [booked.get(each.run.name, Booked()) for each in group]
        false = sum(each.false_refusals for each in known)
        kept = least >= target and most <= 1
        found.add_row(
            fault, label, str(len(group)), f"{least:.1%}", f"{most:.1%}", f"{target:.0%}–100%" if target else "≤ 100%",
            str(sum(each.refusals for each in known)), str(false), "" if kept else "[bold]missed[/]",
        )  # fmt: skip
    return found
