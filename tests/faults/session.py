"""One schedule on the running deployment: traffic, faults, rest, and what the books say then."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from tests.faults import account, books
from tests.faults.account import FIELDS, Findings
from tests.faults.clients import Traffic
from tests.faults.deployment import INGRESSES, Deployment
from tests.faults.faults import Outcome, Surgeon
from tests.faults.scenario import CLIENTS, keys
from tests.faults.schedule import Act, Schedule

TAIL_S = 0.3
"""Clients go on so long after the last fault was lifted."""


@dataclass
class Result:
    """What became of a schedule."""

    schedule: Schedule
    outcomes: list[Outcome] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    requests: int = 0
    """Sent by clients."""
    answered: int = 0
    """Whole answers with 200."""
    at_provider: int = 0
    """Requests that reached the provider."""
    events: int = 0
    """In the history; folded ones by how many they stand for."""
    deaths: list[str] = field(default_factory=list)
    """Processes that ended and were not ended by the schedule, with their exit codes."""
    recovery_s: float = 0.0
    """From the moment at which the last fault was lifted until all ledgers were equal."""
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    """Requests by protocol and kind."""
    attempts: Counter[str] = field(default_factory=Counter)
    """Requests by how many attempts of theirs have reached the provider: `1`, `2`."""

    @property
    def kills(self) -> int:
        """Return how many processes died by a fault."""
        return sum(outcome.kills for outcome in self.outcomes)


class Session:
    """A deployment, and what all schedules so far have left in its books."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._sums: dict[str, dict[str, int]] = {}
        """By organisation: of all events, added up here."""

    async def run(self, schedule: Schedule) -> Result:
        """Do a schedule; what is wrong is in its findings."""
        began, result, deployment = time.monotonic(), Result(schedule), self._deployment
        since_ms, died = time.time_ns() // 1_000_000, len(deployment.deaths())
        rng = random.Random(f"keys/{schedule.seed}")
        mine = keys()
        rng.shuffle(mine)
        urls = [deployment.layout.url(role) for role in INGRESSES]
        traffic = Traffic(urls, iter(mine), f"s{schedule.seed}", str(schedule.seed))
        traffic.begin(CLIENTS)
        surgeon = Surgeon(deployment, traffic, schedule.seed)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_after(act, surgeon), name=act.name) for act in schedule.acts]
            await asyncio.sleep(TAIL_S)
        finally:
            await traffic.end()
        result.outcomes = [task.result() for task in tasks]
        await self._rest(result, traffic, since_ms)
        result.deaths = [f"{death.role}: {death.code}" for death in deployment.deaths()[died:] if not death.wanted]
        result.seconds = time.monotonic() - began
        return result

    async def _rest(self, result: Result, traffic: Traffic, since_ms: int) -> None:
        """Wait for the ledgers to be equal, and compare all books."""
        deployment, sums, events = self._deployment, self._sums, list[account.Event]()
        lifted = max(outcome.lifted_at for outcome in result.outcomes)

        async def is_complete(reading: books.Reading) -> bool:
            nonlocal events
            events = await books.events_since(deployment, since_ms)
            served = [each for each in deployment.upstream.read() if each.nonce.startswith(f"{traffic.name}.")]
            result.at_provider = len(served)
            asked = Counter(each.nonce for each in served)
            result.attempts = Counter(str(times) for times in asked.values())
            examine = account.examine_folded if any(event.kind == "folded" for event in events) else account.examine
            result.findings = examine(traffic.receipts, served, events)
            rows = _sum_up(sums, account.add_up(events))
            account.miscounted(rows, {name: _by_org(days) for name, days in reading.days.items()}, result.findings)
            return result.findings.is_clean

        try:
            await deployment.ready()
            reading, equal_at = await books.at_rest(deployment, is_complete)
            if reading.problem and reading.days:
                await is_complete(reading)  # to tell what the difference is
        except (TimeoutError, httpx.HTTPError) as error:
            result.findings.wrong.append(f"{type(error).__name__}: {error}")
            return
        if reading.problem:
            result.findings.wrong.append(f"not at rest and equal after {books.REST_S:g} s: {reading.problem}")
        result.findings.wrong += [outcome.problem for outcome in result.outcomes if outcome.problem]
        if traffic.ran_out:
            result.findings.wrong.append("the virtual keys were used up: the schedule could not be checked to its end")
        result.recovery_s = max(0.0, equal_at - lifted)
        result.requests = len(traffic.receipts)
        result.kinds = Counter(receipt.kind for receipt in traffic.receipts)
        result.answered = sum(receipt.is_whole and receipt.status == 200 for receipt in traffic.receipts)
        result.events = sum(event.stands_for for event in events)
        self._sums = _sum_up(sums, account.add_up(events))


async def _after(act: Act, surgeon: Surgeon) -> Outcome:
    await asyncio.sleep(act.after_s)
    return await surgeon.do(act)


def _sum_up(*ledgers: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for ledger in ledgers:
        for name, sums in ledger.items():
            account.add(total.setdefault(name, dict.fromkeys(FIELDS, 0)), sums)
    return total


def _by_org(days: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return the sums of ledger accounts `org=…/day=…` by organisation."""
    return _sum_up(*({key.removeprefix("org=").partition("/")[0]: sums} for key, sums in days.items()))
