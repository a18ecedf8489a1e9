"""The processes of the deployment under test: started, killed, frozen by id, and started again when they end.

In place of `tollway up`, whose supervisor waits longer after each death and gives every start the same environment.
The commands and settings are its own (`deploy.supervisor.plan`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.supervisor import logs
from deploy.supervisor.child import Spec
from deploy.supervisor.spawn import spawn

AGAIN_S = 0.2
"""Between a death and the next start."""
STOP_S = 20.0


@dataclass(frozen=True)
class Death:
    """How a process ended."""

    role: str
    code: int
    """Exit code, or minus the signal's number."""
    at: float
    """`time.monotonic()`."""
    wanted: bool
    """We killed it, it was started with a crash point, or we had limited what it may write."""


class Process:
    """One role of the deployment, which is kept running until it is stopped or held down."""

    def __init__(self, spec: Spec, state: Path, say: Callable[[str], None]) -> None:
        self.spec, self._state, self._say = spec, state, say
        self.deaths: list[Death] = []
        self.starts = 0
        self.pid = 0
        """0 while it does not run."""
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._next: dict[str, str] = {}
        self._may_die = self._may_crash = False
        self.is_doomed = False
        """It may end by itself, and be started again, for as long as this is set."""
        self._up, self._ended, self._may_run = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._may_run.set()
        self._stopping = False

    async def start(self) -> None:
        """Start it, and keep it running."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.role}")

    async def _spawn(self) -> None:
        extra, self._next = self._next, {}
        output = logs.open_log(self.spec.log)
        try:
            environment = {**self.spec.environment, **extra}
            self._process = await spawn(self.spec.command, environment, self._state, output)
        finally:
            os.close(output)
        self._may_die, self._may_crash = False, bool(extra)
        self.starts += 1
        self.pid = self._process.pid
        self._ended.clear()
        self._up.set()

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            code = await self._process.wait()
            wanted = self._may_die or self.is_doomed or self._stopping or (self._may_crash and code == -signal.SIGKILL)
            death = Death(self.spec.role, code, time.monotonic(), wanted)
            self.deaths.append(death)
            self.pid = 0
            self._up.clear()
            self._ended.set()
            if not death.wanted:
                self._say(f"{self.spec.role} ended by itself with {code}")
            if not self._stopping:
                await asyncio.sleep(AGAIN_S)
            await self._may_run.wait()
            if self._is_over():
                return
            await self._spawn()

    def _is_over(self) -> bool:
        return self._stopping

    # ------------------------------------------------------------------------------------------------- what is done

    def may_die(self) -> None:
        """Take its end as wanted: somebody was asked to bring it about."""
        self._may_die = True

    def kill(self) -> bool:
        """Kill −9; tell whether there was a process."""
        self._may_die = True
        return self._signal(signal.SIGKILL)

    def terminate(self) -> bool:
        """Ask it to end."""
        self._may_die = True
        return self._signal(signal.SIGTERM)

    def freeze(self) -> bool:
        """Stop it from running, without its noticing."""
        return self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def limit_files(self, size: int | None) -> None:
        """Let no file of the running process grow beyond `size` bytes: writes fail then, as on a full disk."""
        if self.pid:
            self._may_die = True
            with contextlib.suppress(ProcessLookupError):
                most = resource.RLIM_INFINITY if size is None else size
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    async def replaced(self, spec: Spec, meanwhile: Callable[[], Awaitable[object]]) -> int:
        """Kill it, do something while it is not there, and start `spec` in its place; return how many were killed."""
        await self.up()
        self._may_run.clear()
        try:
            killed = self.kill()
            await self._ended.wait()
            await meanwhile()
            self.spec = spec
        finally:
            self._may_run.set()
        await self.up()
        return int(killed)

    def next_start(self, extra: Mapping[str, str]) -> None:
        """Add to the environment of the next start, and of that alone."""
        self._next = dict(extra)

    async def ended(self, seconds: float) -> bool:
        """Wait until it has ended; tell whether it did within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    async def up(self) -> None:
        """Return when it runs."""
        await self._up.wait()

    async def stop(self) -> None:
        """Kill it for good; returns when it is gone."""
        self._stopping = True
        self._may_run.set()
        self.thaw()
        self.kill()
        if self._keeper is not None:
            await asyncio.wait({self._keeper}, timeout=STOP_S)

    def _signal(self, number: signal.Signals) -> bool:
        if self._process is None or not self.pid:
            return False
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
            return True
        return False


def with_environment(spec: Spec, extra: Mapping[str, str]) -> Spec:
    """Return a specification with more in its environment."""
    return replace(spec, environment={**spec.environment, **extra})


def with_arguments(spec: Spec, *extra: str) -> Spec:
    """Return a specification with more arguments."""
    return replace(spec, command=(*spec.command, *extra))
