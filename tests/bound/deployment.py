"""The deployment under load: four replicas on the embedded broker, the witness as its provider, and who runs where.

Signals go only to processes that this deployment's own `run.json` names and that are children of its supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.bound.scenario import REPLICAS, Run, policy
from tests.bound.witness import Served, read
from tests.e2e.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
FRESH_MS = 1_000
"""Every partition has to have had a snapshot within this time before the loop counts as well."""
WELL_S = 90.0


def free_ports(count: int) -> int:
    """Return the first of `count` adjacent free ports, below those that the system gives to outgoing connections."""
    for _ in range(200):
        first = random.randrange(12_000, 30_000)
        if all(_is_free(first + step) for step in range(count)):
            return first
    raise RuntimeError("no adjacent free ports between 12000 and 30000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Deployment:
    """`tollway up` and the witness, as processes of this one."""

    def __init__(self, place: Path) -> None:
        self._journal = place / "witness.jsonl"
        self._place = place
        self._witness: subprocess.Popen[str] | None = None
        self.stack = Stack(
            Path(sys.executable), place / "state", place, {"ingress": REPLICAS, "port": free_ports(REPLICAS)}
        )

    def start(self, runs: list[Run]) -> None:
        """Start both; returns when the deployment is ready."""
        command = [sys.executable, "-m", "tests.bound.witness", "--port", "0", "--journal", str(self._journal)]
        self._witness = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._witness.stdout is not None
        url = self._witness.stdout.readline().rpartition(" ")[2].strip()
        self.stack.up(policy(runs, f"{url}/v1"))

    def stop(self) -> None:
        """End both at once: nothing of their state is needed any more."""
        self.stack.kill()
        if self._witness is not None:
            self._witness.terminate()
            self._witness.wait(10)
            assert self._witness.stdout is not None
            self._witness.stdout.close()

    @property
    def addresses(self) -> list[str]:
        """Return the base URLs of the replicas."""
        urls: list[str] = self.stack.ready["ingress"]
        return urls

    def served(self) -> list[Served]:
        """Return what the provider has seen so far."""
        return read(self._journal.read_bytes()) if self._journal.exists() else []

    def pid(self, role: str) -> int:
        """Return the id of the process that has a role now; 0 while none has."""
        assert self.stack.process is not None
        try:
            pid = int(json.loads((self.stack.state / "run.json").read_text())["pids"][role])
            parent = psutil.Process(pid).ppid() if pid else 0
        except (psutil.NoSuchProcess, json.JSONDecodeError):
            return 0
        return pid if parent == self.stack.process.pid else 0

    def signal(self, role: str, number: signal.Signals) -> bool:
        """Send a signal to the process of a role; tell whether there is one."""
        pid = self.pid(role)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                return True
        return False

    async def well(self) -> None:
        """Return when all replicas are ready and hear from the meter; TimeoutError after a while."""
        last: list[str] = []
        try:
            async with asyncio.timeout(WELL_S), httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
                while last := await self._ill(client):
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise TimeoutError(
                f"the loop is not well after {WELL_S:g} s: {last}\n{self.stack.log()[-3000:]}"
            ) from error

    async def _ill(self, client: httpx.AsyncClient) -> list[str]:
        asked = [client.get(f"{address}/tollway/v1/status") for address in self.addresses]
        found: list[str] = []
        for number, answer in enumerate(await asyncio.gather(*asked, return_exceptions=True), 1):
            if isinstance(answer, BaseException):
                found.append(f"ingress-{number}: {type(answer).__name__}")
                continue
            found += [f"ingress-{number}: {problem}" for problem in _problems(answer.json())]
        return found


def _problems(status: dict[str, Any]) -> list[str]:
    """Return what a replica's status lacks."""
    found = [str(waiting) for waiting in status["waiting"]]
    for partition in status["partitions"]:
        stale_ms = partition["staleness_ms"]
        if not 0 <= stale_ms <= FRESH_MS:
            found.append(f"partition {partition['partition']} is {stale_ms} ms old")
    return found
