"""Starts one process so that it dies with its supervisor, and finds those that a killed supervisor left behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

MARK = "TOLLWAY_SUPERVISED"
"""Environment variable by which a process is known as one of a deployment; its value is the state directory."""

_PR_SET_PDEATHSIG = 1


async def spawn(
    command: Sequence[str], environment: Mapping[str, str], state: Path, output: int, given: int | None = None
) -> asyncio.subprocess.Process:
    """Start `command` with standard output and error to descriptor `output`, in a session of its own.

    Its standard input is descriptor `given`, or nothing.

    The session keeps Ctrl-C for the supervisor, which stops its processes in order.
    """
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL if given is None else given,
        stdout=output,
        stderr=output,
        env={**environment, MARK: str(state)},
        start_new_session=True,
        preexec_fn=_tie_to_parent(),
    )


def _tie_to_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None  # the next start ends what is left
    prctl = ctypes.CDLL(None).prctl  # before the fork: loading a library after it is not safe
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return tie


def belongs(pid: int, state: Path) -> bool:
    """Tell whether process `pid` lives and is one of the deployment in `state`."""
    return f"{MARK}={state}" in _environment_of(pid)


def kill_leftovers(pids: Iterable[int], state: Path) -> list[int]:
    """Kill those of `pids` that still run as processes of the deployment in `state`; return them."""
    killed = [pid for pid in pids if pid > 1 and pid != os.getpid() and belongs(pid, state)]
    for pid in killed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return killed


def _environment_of(pid: int) -> list[str]:
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return []
    command = ["/bin/ps", "eww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
