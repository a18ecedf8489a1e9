"""`make test-bound`: bursts of ten times the limit from 200 clients at four replicas, healthy and through faults.

Real processes on the embedded Apache Kafka. Checks that no limit is ever exceeded, that nearly all of it is used while
nothing is broken, and that no refusal comes early; prints a table and writes `.reports/bound.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from rich.console import Console

from tests.bound import account, history, show
from tests.bound.deployment import ROOT, Deployment
from tests.bound.scenario import CLIENTS, DIMENSIONS, FAULTS, PATTERNS, SHORT_FAULTS, SIZES, Run, make_run, unsupported
from tests.bound.session import Job, choose, left_s

REPORT = ROOT / ".reports" / "bound.json"
KEPT = REPORT.with_suffix("")
_console = Console(stderr=True, soft_wrap=True)
_say = _console.print


def jobs_of(runs: int, is_short: bool, only: str, skipped: set[str], seed: int) -> list[Job]:
    """Return what to do, in order: `runs` times each healthy class, and each fault with all dimensions at once."""
    known = [dimension for dimension in DIMENSIONS if dimension not in skipped]
    numbers = itertools.count(1)
    jobs = [
        Job([make_run(next(numbers), dimension, pattern, size, seed=seed)])
        for _ in range(runs)
        for pattern, size, dimension in itertools.product(PATTERNS, SIZES, known)
    ]
    kinds = [("even", "small")] if is_short else [*itertools.product(PATTERNS, SIZES)]
    for _ in range(runs if is_short else max(1, runs // 2)):
        for (pattern, size), fault in itertools.product(kinds, SHORT_FAULTS if is_short else FAULTS):
            clients = CLIENTS // len(known)
            jobs.append(Job([make_run(next(numbers), each, pattern, size, fault, clients, seed) for each in known]))
    return [job for job in jobs if any(only in f"{run.fault}/{run.label}" for run in job.runs)]


class Harness:
    """Does all jobs, and knows what came of them."""

    def __init__(self, jobs: list[Job], deployment: Deployment) -> None:
        self.outcomes: list[account.Outcome] = []
        self._jobs, self._deployment = jobs, deployment

    async def go(self, began: float) -> None:
        """Do each job in a minute that it fits into."""
        waiting = list(self._jobs)
        while waiting:
            job = choose(waiting, left_s())
            if job is None:
                await asyncio.sleep(left_s() + 0.05)
                continue
            waiting.remove(job)
            told = await job.go(self._deployment)
            served = account.by_run(self._deployment.served())
            for run, what in zip(job.runs, told, strict=True):
                self.outcomes.append(account.outcome(run, what, served.get(run.name, [])))
                _say(f"[{time.monotonic() - began:4.0f} s] {show.progress(self.outcomes[-1])}", markup=False)
        await self._deployment.well()


def _keep(place: Path) -> None:
    """Keep what the processes wrote and the provider saw, for who wants to know why."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for file in (*place.glob("state/logs/*.log"), *place.glob("*.log"), *place.glob("*.jsonl")):
        shutil.copyfile(file, KEPT / file.name)


def run_all(jobs: list[Job], skipped: dict[str, str], seed: int, is_strict: bool) -> list[str]:
    """Do all jobs on a deployment of their own, write the report, and return what must not be."""
    began = time.monotonic()
    runs: list[Run] = [run for job in jobs for run in job.runs]
    with tempfile.TemporaryDirectory(prefix="tollway-bound-", ignore_cleanup_errors=True) as place:
        deployment = Deployment(Path(place))
        try:
            deployment.start(runs)
            _say(f"[{time.monotonic() - began:4.0f} s] ready: {len(runs)} runs, seed {seed}")
            harness = Harness(jobs, deployment)
            uvloop.run(harness.go(began))
            booked, problems = history.booked(deployment.stack)
            # Once more: what reached the provider late counts as well.
            served = account.by_run(deployment.served())
            outcomes = [
                account.outcome(each.run, each.told, served.get(each.run.name, [])) for each in harness.outcomes
            ]
        finally:
            deployment.stop()
            _keep(Path(place))
    found, early = [*problems, *account.failures(outcomes, booked)], account.early_refusals(outcomes, booked)
    report = account.report(outcomes, booked, skipped, seed, time.monotonic() - began)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    Console(width=140 if not _console.is_terminal else None).print(show.table(outcomes, booked))
    for line in early:
        _say(f"early: {line}", markup=False)
    return [*found, *early] if is_strict else found


def main() -> int:
    """Run what the command line asks for; 1 if a limit was exceeded or a target missed."""
    parser = argparse.ArgumentParser(prog="make test-bound", description=__doc__)
    parser.add_argument("--short", action="store_true", help="one run of each class and fault, for CI")
    parser.add_argument("--seed", type=int, help="sizes, order and victims (default: by chance; it is printed)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="runs whose fault/limit/arrivals/size has TEXT in it"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each class (default 3; 1 with --short)")
    parser.add_argument("--strict", action="store_true", help="fail for any refusal below 90 %% of a limit, too")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    skipped = unsupported()
    for dimension, problem in skipped.items():
        _say(f"[bold yellow]SKIPPED: {dimension}: this version's policy does not know it:[/] {problem}")
    jobs = jobs_of(options.runs or (1 if options.short else 3), options.short, options.only, set(skipped), seed)
    if not jobs:
        parser.error(
            f"--only {options.only!r}: no run has that in none/rpm/even/small, meter-killed/money/one/large, …"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing of ours outlives it
    found = run_all(jobs, skipped, seed, options.strict)
    for line in found:
        _say(f"FAILED: {line}", markup=False)
    _say(f"written to {REPORT.relative_to(ROOT)}; seed {seed}; {'all held' if not found else f'{len(found)} failures'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
