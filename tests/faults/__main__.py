"""`make test-faults`: every token is counted once, whatever is killed, frozen or cut off while clients go on.

Each schedule, made from its seed alone, lets clients ask a deployment of real processes (Apache Kafka, ClickHouse's
engine, ingress, meter, sink, enforcer), does one fault or two to it, lets everything come back, and compares what the
provider has written down, what clients hold, the meter's ledger, the history's rows and its rollups: sets of ids and
integer sums have to be equal. A deployment serves one schedule after the other, until one fails. Writes
.reports/faults.json, and keeps logs of schedules that failed in .reports/faults.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import uvloop
from rich.console import Console

from tests.faults import report
from tests.faults.deployment import ROOT, Deployment
from tests.faults.schedule import MORE, Schedule, deck, kills, make
from tests.faults.session import Result, Session

REPORT = ROOT / ".reports" / "faults.json"
KEPT = REPORT.with_suffix("")
_console = Console(stderr=True, soft_wrap=True, highlight=False)
_EXAMPLES = """examples:
  make test-faults                        30 schedules, seeds 1 to 30
  make test-faults RUNS=300 SEED=1000     300 others
  make test-faults RUNS=1 SEED=17         the schedule of seed 17 alone: what failed can be had again
  make test-faults ARGS="--jobs 2"        two deployments at a time, which takes less time and more memory
  make test-faults ARGS="--only meter"    of the seeds 1 to 30, those whose faults have `meter` in their names
  make test-faults ARGS=--list            what the seeds would do, and nothing else
  make test-faults ARGS=--kills           kill each process once: how long until all ledgers are equal
"""


def _say(line: str) -> None:
    _console.print(line, markup=False)


async def run_all(schedules: list[Schedule], jobs: int, began: float) -> list[Result]:
    """Do all schedules on `jobs` deployments at a time, each used for as long as nothing is wrong with it."""
    waiting = deque(sorted(schedules, key=lambda schedule: schedule.has_server))  # a deployment is of one kind
    results: list[Result] = []
    async with asyncio.TaskGroup() as group:
        for job in range(jobs):
            group.create_task(_work(job, waiting, results, len(schedules), began), name=f"job {job}")
    return results


async def _work(job: int, waiting: deque[Schedule], results: list[Result], total: int, began: float) -> None:
    """Do what waits; every other job begins at its end, so that two meet as late as can be."""
    end = -(job % 2)
    while waiting:
        has_server = waiting[end].has_server
        with tempfile.TemporaryDirectory(prefix="tollway-faults-", ignore_cleanup_errors=True) as name:
            place = Path(name)
            deployment = Deployment(place, _say, has_server)
            try:
                await deployment.start()
                kind = "a ClickHouse server" if has_server else "the embedded engine"
                _say(f"[{time.monotonic() - began:4.0f} s] a deployment with {kind} is ready")
                failed = await _on(Session(deployment), has_server, waiting, end, results, total, began)
                if failed is None:
                    _say(f"[{time.monotonic() - began:4.0f} s] {await _verified(deployment)}")
            except BaseException:
                _keep(place, f"last-{job}")
                raise
            finally:
                await deployment.stop()
            if failed is not None:
                _keep(place, str(failed))


async def _on(
    session: Session, has_server: bool, waiting: deque[Schedule], end: int, results: list[Result], total: int,
    began: float,
) -> int | None:  # fmt: skip
    """Do what waits for a deployment of this kind until one fails; return its seed, None if none has."""
    while waiting and waiting[end].has_server == has_server:
        result = await session.run(waiting.pop() if end else waiting.popleft())
        results.append(result)
        _say(f"[{time.monotonic() - began:4.0f} s] {report.progress(result, len(results), total)}")
        for line in report.problems(result):
            _say(f"    {line}")
        if not result.findings.is_clean:
            return result.schedule.seed
    return None


async def _verified(deployment: Deployment) -> str:
    """Return what `tollway verify` says at the end; RuntimeError if it finds what we did not."""
    command = [sys.executable, "-m", "deploy.cli", "verify", "--state", str(deployment.layout.state.root)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"tollway verify ended with {process.returncode}: {(out + errors).decode()[-2000:]}")
    return f"tollway verify: {out.decode().strip().splitlines()[-1]}"


def _keep(place: Path, name: str) -> None:
    """Keep what the processes wrote and the provider saw, for who wants to know why."""
    kept = KEPT / name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for file in (*place.glob("state/logs/*"), *place.glob("state/broker/*.log"), *place.glob("*.jsonl")):
        shutil.copyfile(file, kept / file.name)
    if (place / "state" / "ingress").exists():
        shutil.copytree(place / "state" / "ingress", kept / "ingress")
    _say(f"    logs are in {kept.relative_to(ROOT)}")


def _commit() -> str:
    """Return what is checked out, with `-dirty` if files differ from it; empty outside of a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make test-faults", description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=30, metavar="N", help="schedules (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the first schedule; the next has "
                        "the next one (default %(default)s)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, metavar="N", choices=range(1, 9), help="deployments at a time; "
                        "with more than one, recovery takes longer (default %(default)s)")  # fmt: skip
    parser.add_argument("--only", default="", metavar="TEXT", help="schedules with TEXT in the names of their "
                        "faults, or one of several with commas")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print what the schedules would do, and end")
    parser.add_argument("--kills", action="store_true", help="kill each process once, with nothing else going on")
    parser.add_argument("--report", type=Path, default=REPORT, metavar="FILE", help="where the report goes (default "
                        ".reports/faults.json)")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for; 1 if anything was lost, counted twice or wrong."""
    options = _options()
    seeds = range(options.seed, options.seed + options.runs)
    schedules = kills(options.seed) if options.kills else [make(seed) for seed in seeds]
    wanted = options.only.split(",")
    schedules = [schedule for schedule in schedules if any(text in schedule.name for text in wanted)]
    if options.list or not schedules:
        for schedule in schedules:
            print(f"seed {schedule.seed}: {schedule.name}")
        if not schedules:
            names = sorted({f"{kind}/{point or role}" for kind, role, point in (*deck(), *MORE)})
            _say(f"no schedule of these seeds has {options.only!r} in its name; faults are: {', '.join(names)}")
        return 0 if schedules else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing of ours outlives it
    began, commit = time.monotonic(), _commit()
    _say(f"{len(schedules)} schedules, seeds {schedules[0].seed} to {schedules[-1].seed}")
    results = uvloop.run(run_all(schedules, options.jobs, began))
    found = report.report(results, options.seed, time.monotonic() - began, commit)
    options.report.parent.mkdir(exist_ok=True)
    options.report.write_text(json.dumps(found, indent=2) + "\n")
    Console(width=120 if not _console.is_terminal else None).print(report.table(results))
    bad = found["lost"] + found["doubled"] + found["wrong"] + len(found["not_reached"])
    for name, why in found["skipped"].items():
        _say(f"SKIPPED, so not shown: {name}, {why['times']} times: {why['because']}")
    if found["not_reached"]:
        _say(f"FAILED: places that were never reached: {', '.join(found['not_reached'])}")
    print(
        f"faults: {found['runs']} schedules, {found['kills']} kills, {found['events']} events: {found['lost']} lost, "
        f"{found['doubled']} doubled, {found['wrong']} wrong; recovery {found['recovery_s']}; {found['seconds']} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
