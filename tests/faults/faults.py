"""Does the faults of a schedule to the deployment, and undoes them. Each returns when the process is back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from schemas.crash_points import VARIABLE
from tests.clickhouse_faults import Fault
from tests.faults.clients import Traffic
from tests.faults.deployment import INGRESSES, ROLES, Deployment
from tests.faults.processes import with_environment
from tests.faults.schedule import STORE_FAULTS, Act
from tests.faults.small_disk import FILLER, NoSmallDiskError, SmallDisk

REACHED_S = 10.0
"""A crash point that is not reached so long after the process was ready, under load, is not reached."""
CLEAN_ENDS = (0, 3)
"""3: a replica has left events on its log for its next run, because the broker did not take them."""
START_S = 60.0
"""A process that is not ready by then is broken."""
POLL_S = 0.05
SMALL_SPOOL = {"TOLLWAY_INGRESS_SPOOL_MAX_BYTES": str(4 * 1024**2)}
"""The least that a replica takes; its segments are small then, too."""
KILLED_WHEN_FULL = 0.5
DISK_BYTES = 24 * 1024**2
LEFT_BYTES = 200_000
"""At most so much of a small disk is left when it is filled."""
FULL_S = 30.0
"""A small spool is full within this time, if the broker takes nothing and clients hurry."""
MORE_CLIENTS = 12
NEED_A_FULL_SPOOL = "ingress.fold_"
NEED_A_SMALL_SPOOL = (NEED_A_FULL_SPOOL, "ingress.segment_")
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
    skipped: str = ""
    """Why it could not be done on this machine; empty if it was."""
    lifted_at: float = 0.0
    """`time.monotonic()` when the last of it was undone."""


class Surgeon:
    """Does faults."""

    def __init__(self, deployment: Deployment, traffic: Traffic, seed: int) -> None:
        self._deployment, self._traffic = deployment, traffic
        self._rng = random.Random(f"faults/{seed}")
        self._locks = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._kinds: dict[str, Callable[[Act, Outcome], Awaitable[None]]] = {
            "kill": self._kill, "terminate": self._terminate, "crash": self._crash, "freeze": self._freeze,
            "lose-acks": self._door, "cut-off": self._door, "hold": self._door, "disk-error": self._disk_error,
            "disk-full": self._disk_full, "kill-all": self._kill_all,
            "no-room": self._no_room,
            **dict.fromkeys(STORE_FAULTS, self._disturb_store),
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
        # One that does not listen yet may not mind signals yet: it ends by them, and has done nothing.
        ends = CLEAN_ENDS if await self._deployment.listens(act.role) else (*CLEAN_ENDS, -signal.SIGTERM)
        process.terminate()
        if not await process.ended(process.spec.stop_s):
            outcome.problem = f"{act.role} did not end within {process.spec.stop_s:g} s of SIGTERM"
            process.kill()
            await process.ended(REACHED_S)
        elif process.deaths[-1].code not in ends:
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
        process, door = self._deployment.processes[act.role], self._deployment.doors.get(act.role)
        await process.up()
        if door is not None and act.point.startswith(NEED_A_BACKLOG):
            door.hold()
            await asyncio.sleep(BACKLOG_S)
        small = SMALL_SPOOL if act.point.startswith(NEED_A_SMALL_SPOOL) else {}
        process.next_start({VARIABLE: act.point, **small})
        await self._end(act.role, outcome)
        if door is not None:
            door.mend()
        outcome.reached = await self._crashes(act)
        if door is not None:
            door.mend()
        if outcome.reached:
            outcome.kills += 1
            await process.up()
        else:  # it must not be reached later, while nobody looks
            await self._end(act.role, outcome)

    async def _crashes(self, act: Act) -> bool:
        """Wait until a process has ended by itself; tell whether it did before or soon after it was ready."""
        process = self._deployment.processes[act.role]
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and not await self._deployment.is_ready(act.role):
            if await process.ended(POLL_S):
                return True
        if not act.point.startswith(NEED_A_SMALL_SPOOL):
            return await process.ended(REACHED_S)
        if act.point.startswith(NEED_A_FULL_SPOOL):
            self._deployment.doors[act.role].hold()
        with self._traffic.hurried(MORE_CLIENTS, INGRESSES.index(act.role)):
            return await process.ended(FULL_S)

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

    async def _disk_full(self, act: Act, outcome: Outcome) -> None:
        """Let a replica keep little, and keep it from the broker until it has folded events; then perhaps kill it."""
        deployment, process = self._deployment, self._deployment.processes[act.role]
        await process.up()
        process.next_start(SMALL_SPOOL)
        await self._end(act.role, outcome)
        await deployment.until_ready(act.role)
        door = deployment.doors[act.role]
        door.hold()
        with self._traffic.hurried(MORE_CLIENTS, INGRESSES.index(act.role)):
            await self._until_wal(act.role, outcome, lambda wal: bool(wal["folded_events"]))
        if self._rng.random() < KILLED_WHEN_FULL:
            await self._end(act.role, outcome)
        door.mend()

    async def _no_room(self, act: Act, outcome: Outcome) -> None:
        """Give a replica a small disk of its own, fill that up, perhaps kill the replica then, and take it away."""
        deployment, process = self._deployment, self._deployment.processes[act.role]
        state, usual = deployment.layout.state.root, process.spec
        place = state / "ingress" / act.role
        try:
            disk = await SmallDisk.open(place, DISK_BYTES)
        except NoSmallDiskError as error:
            outcome.skipped = str(error)
            return
        try:
            inside = replace(with_environment(usual, SMALL_SPOOL), command=disk.inside(usual.command, state))
            outcome.kills += await process.replaced(inside, partial(asyncio.to_thread, _copy, place, disk.root))
            await deployment.until_ready(act.role)
            process.is_doomed = True
            await self._full(act, outcome, disk)
            await deployment.until_ready(act.role)
            outcome.kills += await process.replaced(usual, partial(asyncio.to_thread, _copy, disk.root, place))
        finally:
            process.is_doomed = False
            await disk.close()

    async def _full(self, act: Act, outcome: Outcome, disk: SmallDisk) -> None:
        """Let a disk be full until its replica has noticed, and for a while."""
        process, door = self._deployment.processes[act.role], self._deployment.doors[act.role]
        if self._rng.random() < KILLED_WHEN_FULL:  # else what the broker has taken makes room again
            door.hold()
        ended = len(process.deaths)
        disk.fill(self._rng.randint(0, LEFT_BYTES))
        with self._traffic.hurried(MORE_CLIENTS, INGRESSES.index(act.role)):
            await self._until_wal(
                act.role, outcome, lambda wal: "disk is full" in wal["alarm"], lambda: len(process.deaths) > ended
            )
            await asyncio.sleep(act.lasts_s)
        if self._rng.random() < KILLED_WHEN_FULL:
            await self._end(act.role, outcome)
            await asyncio.sleep(act.lasts_s)
        disk.clear()
        door.mend()

    async def _until_wal(
        self, role: str, outcome: Outcome, is_it: Callable[[Any], bool], or_else: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait for what a replica says of its log, or for something else; that tells whether the fault was reached."""
        deadline = time.monotonic() + FULL_S
        outcome.reached = False
        while time.monotonic() < deadline and not outcome.reached:
            await asyncio.sleep(POLL_S)
            with contextlib.suppress(httpx.HTTPError):
                outcome.reached = is_it((await self._deployment.status(role))["wal"])
            outcome.reached |= or_else()

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


def _copy(source: Path, target: Path) -> None:
    """Make `target` hold what `source` does, and nothing else."""
    for old in target.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    # A reserve is made anew, as large as the disk and the settings want it.
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.reserve", FILLER))
