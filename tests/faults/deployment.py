"""The deployment under test: broker, provider, enforcer, meter, history and two replicas, each a process of this one.

Each replica reaches the broker by a door of its own, a `CutProxy` that this process holds: so its acks can be lost and
it can be cut off alone. Signals go to processes that were started here, and to no others.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from deploy import topics
from deploy.api import Api
from deploy.kafka.readiness import is_serving
from deploy.supervisor import bootstrap, plan
from deploy.supervisor.child import Spec
from deploy.supervisor.files import StateDir
from deploy.supervisor.record import package_path, run_record
from schemas.connection import KafkaConnection
from tests.bound.deployment import free_ports
from tests.clickhouse_faults import USER, Fault
from tests.faults.cut_proxy import CutProxy
from tests.faults.processes import Death, Process, with_arguments, with_environment
from tests.faults.scenario import REPLICAS, policy
from tests.faults.upstream import Reader
from tests.fixtures.clickhouse_http import PASSWORD

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("enforcer", "history", "meter")
INGRESSES = tuple(f"ingress-{number + 1}" for number in range(REPLICAS))
FSYNC = {"ingress-1": "none", "ingress-2": "always"}
STORE = "store"
ROLES = ("broker", "provider", *SERVICES, *INGRESSES)
READY_S = 90.0
POLL_S = 0.05


class Deployment:
    """All processes, the doors between replicas and broker, and who is asked for what."""

    def __init__(self, place: Path, say: Callable[[str], None], has_server: bool = False) -> None:
        """Prepare to keep everything under `place`; with `has_server`, ClickHouse is a process of its own."""
        self.place, self.say = place, say
        self._has_server = has_server
        self._store_port = 0
        self._ledger = place / "upstream.jsonl"
        self.upstream = Reader(self._ledger)
        self.processes: dict[str, Process] = {}
        self.doors: dict[str, CutProxy] = {}
        self._layout: plan.Layout | None = None
        self.client = httpx.AsyncClient(timeout=10.0, trust_env=False)

    @property
    def layout(self) -> plan.Layout:
        """Return addresses and the token."""
        assert self._layout is not None
        return self._layout

    async def start(self) -> None:
        """Start everything; returns when it is ready and the policy is in force."""
        inner = free_ports(len(ROLES) + REPLICAS + 1)
        ports = {role: inner + number for number, role in enumerate(ROLES)}
        state = StateDir(self.place / "state")
        state.acquire()
        kafka = KafkaConnection(bootstrap=f"127.0.0.1:{ports['broker']}")
        self._store_port = inner + len(ROLES) + REPLICAS
        clickhouse = f"http://{USER}:{PASSWORD}@127.0.0.1:{self._store_port}" if self._has_server else "embedded"
        self._layout = plan.Layout(
            state=state, kafka=kafka, clickhouse=clickhouse, ports=ports, host=plan.LOOPBACK,
            token=state.admin_token(), python=sys.executable, package_path=package_path(), environment=dict(os.environ),
        )  # fmt: skip
        for number, role in enumerate(INGRESSES):
            self.doors[role] = await CutProxy.open(0, inner + len(ROLES) + number)
        self._make_processes()
        first = [role for role in ("broker", "provider", STORE) if role in self.processes]
        await asyncio.gather(*(self.processes[role].start() for role in first))
        await self._until("the broker", lambda: is_serving(kafka.bootstrap))
        await topics.create(kafka)
        await asyncio.gather(*(self.processes[role].start() for role in (*SERVICES, *INGRESSES)))
        await self._until("the enforcer", lambda: self.is_ready("enforcer"))
        await asyncio.to_thread(self._put_in_force)
        await self.ready()
        self._remember()

    def _make_processes(self) -> None:
        layout = self.layout
        doors = [part for proxy in self.doors.values() for part in ("--door", str(proxy.server_port), str(proxy.port))]
        for role in ROLES:
            spec = plan.spec(layout, role)
            if role == "broker":
                spec = with_arguments(spec, *doors)
            elif role == "provider":
                port, ledger = str(layout.ports[role]), str(self._ledger)
                spec = self._of_tests(role, "tests.faults.upstream", "--port", port, "--ledger", ledger)
            elif role in self.doors:
                bootstrap_address = f"127.0.0.1:{self.doors[role].port}"
                spec = with_environment(
                    spec, {"TOLLWAY_INGRESS_KAFKA__BOOTSTRAP": bootstrap_address, "TOLLWAY_INGRESS_FSYNC": FSYNC[role]}
                )
            self.processes[role] = Process(spec, layout.state.root, self.say)
        if self._has_server:
            arguments = (str(self.place / STORE), str(self._store_port), PASSWORD)
            spec = self._of_tests(STORE, "tests.clickhouse_front", *arguments)
            self.processes[STORE] = Process(spec, layout.state.root, self.say)

    def _of_tests(self, role: str, module: str, *arguments: str) -> Spec:
        environment = {**self.layout.environment, "PYTHONPATH": str(ROOT)}
        return Spec(role, (sys.executable, "-m", module, *arguments), environment, self.layout.state.log(role), 5.0)

    def _put_in_force(self) -> None:
        api = Api("enforcer", self.layout.url("enforcer"), self.layout.token)
        bootstrap.ensure_policy(api, policy(f"{self.layout.url('provider')}/v1"), "the policy of the fault harness")

    def _remember(self) -> None:
        """Write down where everything is, so that `tollway` commands find it."""
        pids = {role: process.pid for role, process in self.processes.items()}
        self.layout.state.write(self.layout.state.run_file.name, run_record(self.layout, {}, pids, True, False))

    async def stop(self) -> None:
        """End everything at once."""
        await asyncio.gather(*(process.stop() for process in self.processes.values()))
        await asyncio.gather(*(door.close() for door in self.doors.values()))
        await self.client.aclose()
        if self._layout is not None:
            self._layout.state.release()

    # --------------------------------------------------------------------------------------------------- asking

    async def ready(self, seconds: float = READY_S) -> None:
        """Return when every process says that it is ready; TimeoutError naming those that do not."""
        for role in (*SERVICES, *INGRESSES):
            await self.until_ready(role, seconds)

    async def until_ready(self, role: str, seconds: float = READY_S) -> None:
        """Return when a process says that it is ready; TimeoutError if it does not."""
        await self._until(role, lambda: self.is_ready(role), seconds)

    async def status(self, role: str) -> Any:
        """Return what a replica says of itself; httpx.HTTPError if it does not."""
        answer = await self.client.get(f"{self.layout.url(role)}/tollway/v1/status")
        return answer.raise_for_status().json()

    async def get(self, role: str, path: str) -> Any:
        """Ask enforcer or history."""
        answer = await self.client.get(self.layout.url(role) + path, headers=self._credential)
        return answer.raise_for_status().json()

    async def sql(self, query: str) -> list[list[Any]]:
        """Return the rows of a statement."""
        answer = await self.client.post(
            f"{self.layout.url('history')}/v1/sql", json={"query": query}, headers=self._credential
        )
        rows: list[list[Any]] = answer.raise_for_status().json()["rows"]
        return rows

    @property
    def _credential(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.layout.token}"}

    async def disturb(self, *faults: Fault) -> None:
        """Have ClickHouse do `faults` to statements from now on, instead of those before; waits until it answers."""
        body = json.dumps([vars(fault) for fault in faults])

        async def is_told() -> bool:
            try:
                answer = await self.client.post(self._disturbances, content=body, timeout=2.0)
            except httpx.HTTPError:
                return False
            return answer.is_success

        await self._until(STORE, is_told)

    async def faults_left(self) -> int:
        """Return how often a fault is still to be done; none by a server that does not answer, as it starts anew."""
        try:
            answer = await self.client.get(self._disturbances, timeout=2.0)
        except httpx.HTTPError:
            return 0
        return sum(int(fault["times"]) for fault in answer.json()["faults"])

    @property
    def _disturbances(self) -> str:
        return f"http://127.0.0.1:{self._store_port}/__faults"

    async def is_ready(self, role: str) -> bool:
        """Tell whether a process says that it is ready."""
        return await self._agrees(role, "/readyz")

    async def listens(self, role: str) -> bool:
        """Tell whether a process answers at all."""
        return await self._agrees(role, "/healthz")

    async def _agrees(self, role: str, path: str) -> bool:
        try:
            answer = await self.client.get(f"{self.layout.url(role)}{path}", timeout=2.0)
        except httpx.HTTPError:
            return False
        return answer.is_success

    async def _until(self, what: str, check: Callable[[], Any], seconds: float = READY_S) -> None:
        deadline = time.monotonic() + seconds
        while not await check():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} is not ready after {seconds:g} s")
            await asyncio.sleep(POLL_S)

    # --------------------------------------------------------------------------------------------------- deaths

    def deaths(self) -> list[Death]:
        """Return how processes have ended so far, in order."""
        return sorted((death for process in self.processes.values() for death in process.deaths), key=lambda d: d.at)
