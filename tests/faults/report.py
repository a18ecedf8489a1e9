"""What all schedules amount to: the report, and the harness's own words. Pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from tests.faults.schedule import deck
from tests.faults.session import Result


def report(results: Sequence[Result], first_seed: int, seconds: float, commit: str = "") -> dict[str, Any]:
    """Return what `.reports/faults.json` holds; `commit` is what was tried, as far as that is known."""
    return {
        "commit": commit,
        "runs": len(results),
        "kills": sum(result.kills for result in results),
        "requests": sum(result.requests for result in results),
        "answered": sum(result.answered for result in results),
        "at_provider": sum(result.at_provider for result in results),
        "events": sum(result.events for result in results),
        "lost": sum(len(result.findings.lost) for result in results),
        "doubled": sum(len(result.findings.doubled) for result in results),
        "wrong": sum(len(result.findings.wrong) for result in results),
        "recovery_s": _times(results),
        "faults": {name: _of_fault(name, found) for name, found in sorted(by_fault(results).items())},
        "places": _places(results),
        "not_reached": _not_reached(results),
        "skipped": _skipped(results),
        "requests_by_kind": dict(sorted(sum((result.kinds for result in results), Counter[str]()).items())),
        "attempts": dict(sorted(sum((result.attempts for result in results), Counter[str]()).items())),
        "ended_by_themselves": dict(Counter(death for result in results for death in result.deaths)),
        "failed_seeds": [result.schedule.seed for result in results if not result.findings.is_clean],
        "first_seed": first_seed,
        "seconds": round(seconds, 1),
    }


def by_fault(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the schedules that each fault was part of."""
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        for name in dict.fromkeys(act.name for act in result.schedule.acts):
            found[name].append(result)
    return found


def _of_fault(name: str, results: Sequence[Result]) -> dict[str, Any]:
    outcomes = [outcome for result in results for outcome in result.outcomes if outcome.act.name == name]
    alone = [result for result in results if len(result.schedule.acts) == 1]
    return {
        "runs": len(results),
        "times": len(outcomes),
        "reached": sum(outcome.reached and not outcome.skipped for outcome in outcomes),
        "kills": sum(outcome.kills for outcome in outcomes),
        "lost": sum(len(result.findings.lost) for result in results),
        "doubled": sum(len(result.findings.doubled) for result in results),
        "recovery_s": _times(alone or results),
    }


def _times(results: Sequence[Result]) -> dict[str, float]:
    """Return median and maximum of the recovery times of schedules that did recover."""
    times = [result.recovery_s for result in results if result.findings.is_clean]
    if not times:
        return {}
    return {"p50": round(statistics.median(times), 2), "max": round(max(times), 2)}


def _places(results: Sequence[Result]) -> dict[str, int]:
    """Return how often a process has died at each crash point that schedules have."""
    died = Counter(
        outcome.act.name for result in results for outcome in result.outcomes if outcome.reached and outcome.act.point
    )
    return {point: died[f"crash/{point}"] for kind, _, point in deck() if kind == "crash"}


def _skipped(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return which faults this machine does not allow, how often they were left out, and why."""
    left = [outcome for result in results for outcome in result.outcomes if outcome.skipped]
    times = Counter(outcome.act.name for outcome in left)
    return {outcome.act.name: {"times": times[outcome.act.name], "because": outcome.skipped} for outcome in left}


def _not_reached(results: Sequence[Result]) -> dict[str, int]:
    """Return how often a crash point was not reached, by point, unless it was in another schedule."""
    missed, hit = Counter[str](), set[str]()
    for outcome in (outcome for result in results for outcome in result.outcomes):
        if outcome.skipped:
            continue
        if outcome.reached:
            hit.add(outcome.act.name)
        else:
            missed[outcome.act.name] += 1
    return {name: count for name, count in sorted(missed.items()) if name not in hit}


def progress(result: Result, number: int, runs: int) -> str:
    """Return the line of one schedule."""
    findings = result.findings
    verdict = "equal" if findings.is_clean else "DIFFERENT"
    missed = [outcome.act.point or outcome.act.name for outcome in result.outcomes if not outcome.reached]
    parts = [
        f"{number:3}/{runs}", f"seed {result.schedule.seed:<6}", f"{result.schedule.name:<58}", f"{verdict:<9}",
        f"{result.answered} of {result.requests} answered, {result.events} events",
        f"{result.recovery_s:4.1f} s to recover", f"{result.seconds:4.1f} s",
    ]  # fmt: skip
    parts += [f"not reached: {', '.join(missed)}"] if any(missed) else []
    skipped = [outcome.act.name for outcome in result.outcomes if outcome.skipped]
    parts += [f"SKIPPED: {', '.join(skipped)}"] if skipped else []
    parts += [f"ended by themselves: {', '.join(result.deaths)}"] if result.deaths else []
    return "  ".join(parts)


def problems(result: Result, most: int = 8) -> list[str]:
    """Return what is wrong after a schedule, a line each, and how to have it again."""
    findings = result.findings
    lines = [f"LOST: {line}" for line in findings.lost[:most]]
    lines += [f"DOUBLED: {line}" for line in findings.doubled[:most]]
    lines += [f"WRONG: {line}" for line in findings.wrong[:most]]
    left = len(findings.lost) + len(findings.doubled) + len(findings.wrong) - len(lines)
    lines += [f"and {left} more"] if left > 0 else []
    return [*lines, f"again: make test-faults RUNS=1 SEED={result.schedule.seed}"] if lines else []


def table(results: Sequence[Result]) -> Table:
    """Return all faults with what they did."""
    found = Table(title="Every token counted once, through these faults", title_justify="left")
    for column in ("fault", "schedules", "kills", "lost", "doubled", "recovery p50", "max"):
        found.add_column(column, justify="left" if column == "fault" else "right")
    for name, part in sorted(by_fault(results).items()):
        of = _of_fault(name, part)
        times = [f"{of['recovery_s'].get(which, float('nan')):.1f} s" for which in ("p50", "max")]
        found.add_row(name, str(of["runs"]), str(of["kills"]), str(of["lost"]), str(of["doubled"]), *times)
    return found
