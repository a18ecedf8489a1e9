"""What runs amount to: how much of a limit was admitted, above it or unused, and which refusals were false. Pure.

Admitted is what the provider saw, in the limit's own unit: requests and tokens by the minute in which they arrived,
money over the whole run, and for requests at once the largest overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bound.scenario import HEALTHY, Run, nanos_of
from tests.bound.witness import Served

MINUTE_MS = 60_000
TARGETS = {("even", "small"): 0.98, ("one", "small"): 0.95, ("even", "large"): 0.90, ("one", "large"): 0.90}
"""At least so much of the limit is admitted in a healthy run, by pattern and size."""


@dataclass
class Told:
    """What the clients of a run were told."""

    admitted: int = 0
    """Answers with 2xx."""
    refused: int = 0
    """429."""
    unavailable: int = 0
    """503: the replica admits nothing at present."""
    broken: int = 0
    """No answer: the connection broke, or could not be made."""
    other: dict[int, int] = field(default_factory=dict)
    """Any other status, and how often; there should be none."""
    seconds: float = 0.0
    is_cut: bool = False
    """Time was up before the clients were through."""


@dataclass(frozen=True)
class Booked:
    """What the history has of a run's key."""

    settled: int = 0
    """Events with an answer."""
    requests: int = 0
    """Charged requests: every one that was sent to the provider."""
    windows: int = 0
    """Minutes in which requests were admitted."""
    refusals: int = 0
    """Decisions of this run's own rule."""
    false_refusals: int = 0
    """Those of them with less than 90 % of the limit settled or in flight, by a replica that the loop reached."""
    late_refusals: int = 0
    """The same by one that had not heard of the others for too long."""
    lowest_percent: int = 100
    """The least part of the limit that was settled or in flight at a refusal."""


@dataclass(frozen=True)
class Outcome:
    """One run, measured."""

    run: Run
    told: Told
    served: int
    """Requests that the provider saw."""
    admitted: int
    """In the unit of the limit, in the worst window."""

    @property
    def ratio(self) -> float:
        """Return the admitted part of the limit."""
        return self.admitted / self.run.limit

    @property
    def over(self) -> float:
        """Return by which part of the limit it was exceeded."""
        return max(0.0, self.ratio - 1.0)


def by_run(served: Iterable[Served]) -> dict[str, list[Served]]:
    """Return requests by the name of the run that their nonce begins with."""
    found: dict[str, list[Served]] = defaultdict(list)
    for request in served:
        found[request.nonce.rpartition(".")[0]].append(request)
    return found


def outcome(run: Run, told: Told, served: Sequence[Served]) -> Outcome:
    """Measure a run by what the provider saw of it."""
    return Outcome(run, told, len(served), admitted(run.dimension, served))


def admitted(dimension: str, served: Sequence[Served]) -> int:
    """Return how much was admitted in the window with the most, or at once."""
    if dimension == "concurrency":
        return overlap(served)
    windows: dict[int, int] = defaultdict(int)
    for request in served:
        if dimension == "rpm":
            windows[request.at_ms // MINUTE_MS] += 1
        elif dimension == "tpm":
            windows[request.at_ms // MINUTE_MS] += request.input + request.output
        else:
            windows[0] += nanos_of(request.input, request.output)
    return max(windows.values(), default=0)


def overlap(served: Iterable[Served]) -> int:
    """Return the largest number of requests that were being answered at once; an end frees before an arrival takes."""
    edges = sorted(edge for request in served for edge in ((request.at_ms, 1), (request.end_ms, -1)))
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def limit_used_min(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Return the least used part of a limit by class."""
    found: dict[str, float] = {}
    for each in outcomes:
        label = each.run.label
        found[label] = min(found.get(label, each.ratio), each.ratio)
    return {label: round(ratio, 4) for label, ratio in found.items()}


def failures(outcomes: Sequence[Outcome], booked: Mapping[str, Booked]) -> list[str]:
    """Return what must not be: in words, one line each."""
    found: list[str] = []
    for each in outcomes:
        run, name = each.run, f"{each.run.name} ({each.run.fault})"
        known = booked.get(run.name, Booked())
        if each.admitted > run.limit:
            found.append(f"{name}: {each.admitted:,} admitted, the limit is {run.limit:,}")
        if each.served == 0:
            found.append(f"{name}: nothing was admitted at all")
        if known.requests < each.served:
            found.append(f"{name}: the provider answered {each.served} requests, the history has {known.requests}")
        if known.settled < each.told.admitted:
            found.append(f"{name}: {each.told.admitted} answers were received, the history has {known.settled}")
        if each.told.other:
            found.append(f"{name}: answers of other kinds: {each.told.other}")
        if run.fault == HEALTHY:
            found += _short(each, name)
    return found


def _short(each: Outcome, name: str) -> list[str]:
    target = TARGETS[each.run.pattern, each.run.size]
    if each.ratio >= target:
        return []
    return [f"{name}: {each.ratio:.1%} of the limit used, at least {target:.0%} is wanted"]


def early_refusals(outcomes: Iterable[Outcome], booked: Mapping[str, Booked]) -> list[str]:
    """Return which healthy runs were refused something while less than 90 % of the limit was in use, a line each."""
    found: list[str] = []
    for each in outcomes:
        known = booked.get(each.run.name, Booked())
        if each.run.fault == HEALTHY and known.false_refusals:
            early, first = known.false_refusals, known.lowest_percent
            share = f"{early} of {known.refusals} refusals"
            found.append(f"{each.run.name}: {share} below 90 % of the limit, the earliest at {first} %")
    return found


def report(
    outcomes: Sequence[Outcome], booked: Mapping[str, Booked], skipped: Mapping[str, str], seed: int, seconds: float
) -> dict[str, Any]:
    """Return what `.reports/bound.json` holds."""
    healthy = [each for each in outcomes if each.run.fault == HEALTHY]
    faults: dict[str, list[Outcome]] = defaultdict(list)
    for each in outcomes:
        if each.run.fault != HEALTHY:
            faults[each.run.fault].append(each)
    return {
        "runs": len(outcomes),
        "over_limit_max": _over(outcomes),
        "limit_used_min": limit_used_min(healthy),
        "false_refusals": sum(booked.get(each.run.name, Booked()).false_refusals for each in healthy),
        "faults": {
            name: {"runs": len(found), "over_limit_max": _over(found), "limit_used_min": limit_used_min(found)}
            for name, found in faults.items()
        },
        "skipped": dict(skipped),
        "seed": seed,
        "seconds": round(seconds, 1),
    }


def _over(outcomes: Iterable[Outcome]) -> float:
    return round(max((each.over for each in outcomes), default=0.0), 6)
