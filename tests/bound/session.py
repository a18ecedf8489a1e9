"""Runs bursts against the deployment: healthy runs one by one, and all dimensions together around a fault."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bound.account import MINUTE_MS, Told
from tests.bound.client import Traffic
from tests.bound.faults import FAULTS
from tests.bound.scenario import BURST, FIRST, HEALTHY, Run, offers

if TYPE_CHECKING:
    from tests.bound.deployment import Deployment

RUN_S = 8.0
"""A healthy run is cut after this time."""
BURST_S = 3.0
"""A burst around a fault is."""
MARGIN_S = 1.0
"""No request is sent in the last second of a minute, so that none is admitted in the next one."""
NEEDS_S = {HEALTHY: 8.0, "meter-killed": 11.0, "replica-killed": 13.0}
FAULT_NEEDS_S = 14.0


def left_s() -> float:
    """Return how much of this minute is left."""
    return (MINUTE_MS - time.time_ns() // 1_000_000 % MINUTE_MS) / 1000


@dataclass
class Job:
    """Runs that go on at once, under one fault or none."""

    runs: list[Run]

    @property
    def fault(self) -> str:
        """Return the fault of all of them."""
        return self.runs[0].fault

    @property
    def needs_s(self) -> float:
        """Return how much of a minute has to be left when it begins."""
        if not any(run.is_minute for run in self.runs):
            return 0.0
        return NEEDS_S.get(self.fault, FAULT_NEEDS_S)

    async def go(self, deployment: Deployment) -> list[Told]:
        """Do it; returns what the clients of each run were told."""
        await deployment.well()
        traffics = [Traffic(run, deployment.addresses) for run in self.runs]
        end = asyncio.get_running_loop().time() + left_s() - MARGIN_S
        try:
            if self.fault == HEALTHY:
                await _together(traffics, BURST, 0, end, RUN_S)
            else:
                await self._around_the_fault(deployment, traffics, end)
        finally:
            for traffic in traffics:
                traffic.close()
        return [traffic.told for traffic in traffics]

    async def _around_the_fault(self, deployment: Deployment, traffics: list[Traffic], end: float) -> None:
        first = self.runs[0]
        fault = FAULTS[self.fault](deployment, random.Random(f"{first.seed}/{first.name}/fault"))
        try:
            await _together(traffics, FIRST, 0, end, BURST_S)
            async with asyncio.TaskGroup() as group:
                group.create_task(_after(fault.head_start_s, fault.strike()), name=f"strike: {self.fault}")
                burst = _together(traffics, BURST, 1, end, BURST_S)
                group.create_task(_after(-fault.head_start_s, burst), name=f"burst: {self.fault}")
            await fault.lift()
            await _together(traffics, BURST, 2, end, BURST_S)
        finally:
            await fault.close()


async def _after(seconds: float, what: Coroutine[None, None, None]) -> None:
    """Await `what` after some time; at once if it is not above 0."""
    await asyncio.sleep(max(0.0, seconds))
    await what


async def _together(traffics: list[Traffic], times: float, phase: int, end: float, at_most_s: float) -> None:
    """Burst against each limit at once; requests of minute limits are sent until `end` at the latest."""
    now = asyncio.get_running_loop().time()
    bursts = []
    for traffic in traffics:
        seconds = min(at_most_s, end - now) if traffic.run.is_minute else at_most_s
        bursts.append(traffic.burst(offers(traffic.run, times, phase), max(0.0, seconds)))
    await asyncio.gather(*bursts)


def choose(jobs: list[Job], left: float) -> Job | None:
    """Return the first of the jobs that fits into what is left of the minute."""
    return next((job for job in jobs if job.needs_s <= left), None)
