"""Does the faults of a schedule to the deployment, and undoes them. Each returns when the process is back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from schemas.crash_points import VARIABLE
from tests.clickhouse_faults import Fault
from tests.faults.deployment import ROLES, Deployment
from tests.faults.schedule import STORE_FAULTS, Act

REACHED_S = 10.0
"""A crash point that is not reached so long after the process was ready, under load, is not reached."""
START_S = 60.0
"""A process that is not ready by then is broken."""
POLL_S = 0.05
NEED_A_BACKLOG = ("ingress.replaying", "ingress.replayed")
BACKLOG_S = 0.4
"""Before a crash within a replay, acks are withheld for so long: else there would be nothing to replay."""
KILLED_AT_ONCE = tuple(role for role in ROLES if role != "provider")
"""What `kill-all` kills; the provider is not ours to protect."""


@dataclass
class Outcome:
    """What became of one fault."""

    act: Act
    kills: int = 0
    reached: bool = True
    """A crash point was reached."""
    problem: str = ""
    """What went wrong with the fault itself, in words."""
    lifted_at: float = 0.0
    """`time.monotonic()` when the last of it was undone."""


class Surgeon:
    """Does faults."""

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self._deployment = deployment
        self._rng = random.Random(f"faults/{seed}")
        self._locks = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._kinds: dict[str, Callable[[Act, Outcome], Awaitable[None]]] = {
            "kill": self._kill, "terminate": self._terminate, "crash": self._crash, "freeze": self._freeze,
            "lose-acks": self._door, "cut-off": self._door, "hold": self._door, "disk-error": self._disk_error,
            "kill-all": self._kill_all, **dict.fromkeys(STORE_FAULTS, self._disturb_store),
        }  # fmt: skip

    async def do(self, act: Act) -> Outcome:
        """Do a fault and undo it; returns when all of it is lifted and what it ended was started again."""
        outcome = Outcome(act)
        async with self._one_at_a_time(act):
            await self._kinds[act.kind](act, outcome)
        outcome.lifted_at = time.monotonic()
        return outcome

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, act: Act) -> AsyncIterator[None]:
        """Let nobody else end the processes that this fault ends: their deaths could not be told apart."""
        async with contextlib.AsyncExitStack() as stack:
            for role in KILLED_AT_ONCE if act.role == "all" else (act.role,):
                await stack.enter_async_context(self._locks[role])
            yield

    async def _kill(self, act: Act, outcome: Outcome) -> None:
        await self._end(act.role, outcome)

    async def _terminate(self, act: Act, outcome: Outcome) -> None:
        process = self._deployment.processes[act.role]
        await process.up()
        process.terminate()
        if not await process.ended(process.spec.stop_s):
            outcome.problem = f"{act.role} did not end within {process.spec.stop_s:g} s of SIGTERM"
            process.kill()
            await process.ended(REACHED_S)
        elif process.deaths[-1].code:
            outcome.problem = f"{act.role} ended with {process.deaths[-1].code} after SIGTERM"
        await process.up()

    async def _end(self, role: str, outcome: Outcome) -> None:
        process = self._deployment.processes[role]
        await process.up()
        outcome.kills += process.kill()
        await process.ended(REACHED_S)
        await process.up()

    async def _kill_all(self, act: Act, outcome: Outcome) -> None:
        roles = list(KILLED_AT_ONCE)
        self._rng.shuffle(roles)
        await asyncio.gather(*(self._end(role, outcome) for role in roles))
        del act

    async def _crash(self, act: Act, outcome: Outcome) -> None:
        """Start the process anew so that it kills itself at the point, and once more when it has."""
        process = self._deployment.processes[act.role]
        await process.up()
        door = self._deployment.doors.get(act.role)
        if door is not None and act.point.startswith(NEED_A_BACKLOG):
            door.hold()
            await asyncio.sleep(BACKLOG_S)
        process.next_start({VARIABLE: act.point})
        await self._end(act.role, outcome)
        if door is not None:
            door.mend()
        outcome.reached = await self._crashes(act.role)
        if outcome.reached:
            outcome.kills += 1
            await process.up()
        else:  # it must not be reached later, while nobody looks
            await self._end(act.role, outcome)

    async def _crashes(self, role: str) -> bool:
        """Wait until a process has ended by itself; tell whether it did before or soon after it was ready."""
        process = self._deployment.processes[role]
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and not await self._deployment.is_ready(role):
            if await process.ended(POLL_S):
                return True
        return await process.ended(REACHED_S)

    async def _freeze(self, act: Act, outcome: Outcome) -> None:
        process = self._deployment.processes[act.role]
        await process.up()
        process.freeze()
        await asyncio.sleep(act.lasts_s)
        process.thaw()
        del outcome

    async def _door(self, act: Act, outcome: Outcome) -> None:
        door = self._deployment.doors[act.role]
        {"lose-acks": door.lose_answers, "cut-off": door.cut, "hold": door.hold}[act.kind]()
        await asyncio.sleep(act.lasts_s)
        door.mend()
        del outcome

    async def _disturb_store(self, act: Act, outcome: Outcome) -> None:
        """Do something to the next inserts; returns when it was done."""
        action, times = act.kind.removeprefix("store-"), self._rng.randint(1, 3)
        store = self._deployment.processes[act.role]
        await store.up()
        if action == "dies":
            store.may_die()
        await self._deployment.disturb(Fault(action, times=1 if action == "dies" else times))
        deadline = time.monotonic() + REACHED_S
        while time.monotonic() < deadline and await self._deployment.faults_left():
            await asyncio.sleep(POLL_S)
        if action == "dies":
            outcome.reached = await store.ended(REACHED_S)
            outcome.kills += outcome.reached
        await store.up()

    async def _disk_error(self, act: Act, outcome: Outcome) -> None:
        """Let the log of a replica grow by little more: its next writes fail, at any byte of a frame."""
        process = self._deployment.processes[act.role]
        await process.up()
        logs = (self._deployment.layout.state.root / "ingress" / act.role / "wal").glob("*.wal")
        largest = max((log.stat().st_size for log in logs), default=0)
        process.limit_files(largest + self._rng.randint(1, 20_000))
        if await process.ended(REACHED_S):
            outcome.kills += 1
            await process.up()
        else:
            outcome.reached = False
            process.limit_files(None)
