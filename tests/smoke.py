"""`python -m tests.smoke`: `make up` as a user types it, from the start to the ready line to Ctrl-C, twice.

Fails when the stack does not become ready in time, when a replica does not answer, when a process outlives the stop,
and when the second start over the same state does not become ready.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.stack import eventually, free_ports

ROOT = Path(__file__).resolve().parents[1]
FIRST_DEADLINE_S = 180.0
SECOND_DEADLINE_S = 30.0
STOP_DEADLINE_S = 60.0


def main() -> int:
    """Start, ask, stop; and once more over the same state."""
    with tempfile.TemporaryDirectory(prefix="tollway-smoke-") as scratch:
        port = free_ports(4)
        for deadline_s in (FIRST_DEADLINE_S, SECOND_DEADLINE_S):
            began = time.monotonic()
            process = start(Path(scratch) / "state", port)
            try:
                ready = ready_line(process, deadline_s)
                print(f"ready after {time.monotonic() - began:.1f} s: {ready}", flush=True)
                ask(ready)
            finally:
                stop(process)
    return 0


def ask(ready: dict[str, Any]) -> None:
    """Check that every replica says it is ready and that every role has a process."""
    for url in ready["ingress"]:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:  # noqa: S310 - our own URL
            assert answer.status == 200, f"{url}/readyz answered {answer.status}"
    for role, pid in ready["pids"].items():
        assert psutil.pid_exists(pid), f"{role} has no process {pid}"


def stop(process: subprocess.Popen[str]) -> None:
    """Stop as Ctrl-C does, and check that nothing that was started outlives it."""
    began = time.monotonic()
    processes = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(STOP_DEADLINE_S)
    eventually(lambda: not [one for one in processes if is_alive(one)], STOP_DEADLINE_S)
    print(f"stopped after {time.monotonic() - began:.1f} s", flush=True)


def start(state: Path, port: int) -> subprocess.Popen[str]:
    """Run `make up` in a process group of its own, as a terminal would."""
    return subprocess.Popen(
        ["make", "--silent", "up", f"ARGS=--json --state {state} --port {port}"],  # noqa: S607 - make is on the path
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ready_line(process: subprocess.Popen[str], deadline_s: float) -> dict[str, Any]:
    """Return the one line that `tollway up --json` prints when it is ready; end the run if it does not come."""
    assert process.stdout is not None
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    line = process.stdout.readline()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if not line:
        raise RuntimeError(f"make up ended with {process.wait()} before it was ready")
    ready: dict[str, Any] = json.loads(line)
    return ready


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs (one that only waits to be collected does not)."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _too_late(*_: object) -> None:
    raise TimeoutError("tollway up is not ready within the deadline")


if __name__ == "__main__":
    sys.exit(main())
