"""One supervised process: started, watched, started again with growing pauses when it dies, stopped when asked.

Life of a child (events in capitals):

    stopped --start--> running --DIES--> pausing --pause ends--> running
    running --stop--> stopping --DIES--> stopped          pausing --stop--> stopped
    stopping --deadline or force--> killed --DIES--> stopped

Only `stop` makes an end final. Exit code 2 (bad configuration) is an end like any other here: who starts the
deployment looks at `last_exit` and gives up at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.supervisor import logs
from deploy.supervisor.backoff import Backoff
from deploy.supervisor.spawn import spawn

TAIL_LINES = 12


@dataclass(frozen=True)
class Spec:
    """How to run a process."""

    role: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    stop_s: float
    """It is killed this long after SIGTERM."""
    warm_command: tuple[str, ...] = ()
    """Runs the same, warming up first; empty if there is nothing to warm up."""
    more_log: Path | None = None
    """A file of its own that it writes its last words to."""


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    code: int
    """Exit code, or minus the signal's number."""

    def __str__(self) -> str:
        """Return `exit code 1` or `signal SIGKILL`."""
        if self.code >= 0:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-self.code).name}"
        return f"signal {-self.code}"


class Child:
    """A process that is kept running.

    Args:
        spec: how to run it.
        state: the deployment's state directory.
        say: takes a line for people.
        changed: called when the process id has changed.
    """

    def __init__(self, spec: Spec, state: Path, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.spec = spec
        self.last_exit: Exit | None = None
        self.deaths = 0
        self._state, self._say, self._changed = state, say, changed
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._backoff = Backoff()
        self._log_starts: dict[Path, int] = {}

    @property
    def pid(self) -> int:
        """Return the process id, 0 while none runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else 0

    async def start(self, gate: int | None = None) -> None:
        """Start the process, and from now on again whenever it dies.

        With a `gate`, a descriptor, it only warms up until the gate's other end is closed (`deploy.supervisor.warm`).
        """
        await self._spawn(gate)
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.role}")

    async def stop(self, force: asyncio.Event) -> None:
        """End the process and return when it is gone; it is killed at its deadline or when `force` is set."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if self._keeper is None:
            return
        forced = asyncio.create_task(force.wait(), name=f"force {self.spec.role}")
        await asyncio.wait({self._keeper, forced}, timeout=self.spec.stop_s, return_when=asyncio.FIRST_COMPLETED)
        if not self._keeper.done():
            why = "forced" if forced.done() else f"it did not end within {self.spec.stop_s:g} s"
            self._say(f"{self.spec.role} (pid {self.pid}) killed: {why}")
            self._signal(signal.SIGKILL)
        forced.cancel()
        await self._keeper

    def crash_report(self) -> list[str]:
        """Return the last lines that the process wrote since it was started."""
        lines: list[str] = []
        for path, since in self._log_starts.items():
            lines += logs.tail(path, since, TAIL_LINES)
        return lines[-TAIL_LINES:]

    def _signal(self, number: signal.Signals) -> None:
        if self.pid and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _spawn(self, gate: int | None = None) -> None:
        output = logs.open_log(self.spec.log)
        try:
            paths = [path for path in (self.spec.log, self.spec.more_log) if path is not None]
            self._log_starts = {path: logs.size(path) for path in paths}
            command = self.spec.command if gate is None else self.spec.warm_command
            self._process = await spawn(command, self.spec.environment, self._state, output, gate)
        finally:
            os.close(output)
        self._changed()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None
            began = loop.time()
            pid = self._process.pid
            if self._stopping.is_set():  # asked for while it was being started
                self._signal(signal.SIGTERM)
            self.last_exit = Exit(await self._process.wait())
            self._changed()
            if self._stopping.is_set():
                return
            self.deaths += 1
            pause = self._backoff.after(loop.time() - began)
            self._say(f"{self.spec.role} (pid {pid}) died with {self.last_exit}; next try in {pause:.1f} s")
            for line in self.crash_report():
                self._say(f"  {self.spec.role} | {line}")
            if not await self._started_after(pause):
                return
            self._say(f"{self.spec.role} was started again (pid {self.pid})")

    async def _started_after(self, pause: float) -> bool:
        """Start the process after a pause, and again while the system refuses to; tell whether it was not stopped."""
        while not await self._stopped_within(pause):
            try:
                await self._spawn()
            except OSError as error:
                pause = self._backoff.after(0.0)
                self._say(f"{self.spec.role} cannot be started: {error.strerror}; next try in {pause:.1f} s")
            else:
                return True
        return False

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()
