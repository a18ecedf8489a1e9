"""Brings a deployment up, keeps it up, and takes it down: the composition root of `tollway up`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy import topics
from deploy.api import Api
from deploy.kafka.readiness import is_serving
from deploy.supervisor import banner, bootstrap, plan, ports, ready
from deploy.supervisor.child import Child
from deploy.supervisor.fetch import fetch_artifacts
from deploy.supervisor.files import StateDir, default_state_dir
from deploy.supervisor.progress import Progress
from deploy.supervisor.record import command_name, package_path, run_record
from deploy.supervisor.spawn import kill_leftovers
from deploy.supervisor.supervisor import Supervisor
from schemas.connection import KafkaConnection
from schemas.errors import TollwayError
from schemas.policy_file import load_policy

PORTS_FILE = "ports.json"
WATCH_S = 2.0
SERVICES = ("history", "meter", "enforcer")


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    state: Path
    policy: Path | None
    kafka: KafkaConnection | None
    """None: the embedded broker."""
    clickhouse: str
    ingress: int
    port: int
    host: str
    partitions: int
    as_json: bool
    environment: Mapping[str, str] = field(repr=False)


class Up:
    """One run of `tollway up`.

    Args:
        options: what was asked for.
        progress: where lines for people go.
        began: `time.monotonic()` when the command was started.
    """

    def __init__(self, options: Options, progress: Progress, began: float) -> None:
        self._options, self._progress, self._began = options, progress, began
        self._given = bootstrap.read_policy(options.policy) if options.policy else None
        self._state = StateDir(options.state)
        self._supervisor = Supervisor(self._state.root, progress.say, self._remember)
        self._stop, self._force = asyncio.Event(), asyncio.Event()
        self._waits: dict[str, str] = {}
        self._ready: dict[str, Any] = {}
        self._simulated = True

    async def run(self) -> int:
        """Bring everything up, stay until a signal, take everything down; return the exit code."""
        self._state.acquire()
        try:
            self._layout = await self._prepare()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
            return await self._until_stopped()
        finally:
            self._state.release()

    async def _until_stopped(self) -> int:
        work = asyncio.create_task(self._work(), name="bring up")
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()  # it only ends by a fault
        except BaseExceptionGroup as group:
            raise _first_fault(group) from group
        finally:
            for task in (work, stopped):
                task.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)
            self._progress.waiting("")
            await self._supervisor.stop(self._force)
            self._remember()
            self._progress.say("stopped")
        return 0

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._force.set()
        else:
            self._progress.say("stopping; once more to kill what is still running")
            self._stop.set()

    async def _prepare(self) -> plan.Layout:
        options, state = self._options, self._state
        last = state.read(state.run_file.name)
        self._simulated = last.get("simulated", True)
        if left := kill_leftovers(last.get("pids", {}).values(), state.root):
            self._progress.say(f"ended {len(left)} processes that the last run had left behind")
        ingress = ports.ingress_ports(options.port, options.ingress)
        roles = [role for role in plan.INTERNAL_ROLES if role != "broker" or options.kafka is None]
        internal = ports.internal_ports(roles, state.read(PORTS_FILE), ingress, ports.is_free)
        retired = plan.left_behind(state, ingress)
        chosen = {**ingress, **internal}
        await ports.until_free(chosen)
        state.write(PORTS_FILE, {**state.read(PORTS_FILE), **internal})
        chosen |= ports.internal_ports(retired, {}, chosen, ports.is_free)
        kafka = options.kafka or KafkaConnection(
            bootstrap=f"{plan.LOOPBACK}:{chosen['broker']}", partitions=options.partitions
        )
        return plan.Layout(
            state=state, kafka=kafka, clickhouse=options.clickhouse, ports=chosen, host=options.host,
            token=state.admin_token(), python=sys.executable, package_path=package_path(),
            environment=options.environment, retired=retired,
        )  # fmt: skip

    async def _work(self) -> None:
        warming, gate = os.pipe()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_broker(), name="start broker")
                if self._wants_simulator_at_once():
                    group.create_task(self._start_provider(), name="start provider")
                wanted = (*SERVICES, *self._layout.replicas, *self._layout.retired)
                services = [await self._start(role, warming) for role in wanted]
                self._show_waits()
            outcome = await topics.create(self._layout.kafka)
        finally:
            os.close(warming)
            os.close(gate)  # the services have waited for the topics with this
        for difference in outcome.differences:
            self._progress.say(f"warning: {difference}")
        await self._await_services(services)
        await self._send_what_is_left()
        self._ready["ready_s"] = round(time.monotonic() - self._began, 3)
        self._remember()
        self._progress.waiting("")
        self._announce()
        await self._watch_policy()

    def _wants_simulator_at_once(self) -> bool:
        return bootstrap.uses_simulator(self._given) if self._given is not None else self._simulated

    async def _start_broker(self) -> None:
        if self._options.kafka is not None:
            self._progress.say(f"broker: using {self._layout.kafka.bootstrap}")
            return
        await fetch_artifacts(plan.spec(self._layout, "broker"), self._progress.say)
        child = await self._start("broker")

        async def check() -> ready.Answer:
            return await is_serving(self._layout.kafka.bootstrap), ""

        await self._until(child, check)

    async def _start_provider(self) -> None:
        child = await self._start("provider")
        url = self._layout.url("provider")
        async with _client() as client:
            await self._until(child, ready.http_check(client, url, "/__sim/health"))

    async def _await_services(self, children: list[Child]) -> None:
        layout = self._layout
        async with _client() as client, asyncio.TaskGroup() as group:
            tasks = {
                child.spec.role: group.create_task(
                    self._until(child, ready.http_check(client, layout.url(child.spec.role))),
                    name=f"await {child.spec.role}",
                )
                for child in children
            }
            await tasks["enforcer"]
            await self._put_in_force()

    async def _send_what_is_left(self) -> None:
        """Run replicas that an earlier start had, and this one has not, until their logs are sent."""
        for role in self._layout.retired:
            self._waits[role] = role
            async with _client() as client:
                check = ready.sent_check(client, self._layout.url(role))
                await self._until(self._supervisor.children[role], check)
            self._progress.say(f"{role} has sent what an earlier start had left in its log, and is not needed any more")
            await self._supervisor.stop(self._force, [role])

    async def _put_in_force(self) -> None:
        name = str(self._options.policy) if self._options.policy else "example policy"
        api = Api("enforcer", self._layout.url("enforcer"), self._layout.token)
        try:
            policy, applied = await asyncio.to_thread(bootstrap.ensure_policy, api, self._given, name)
            if applied:
                self._progress.say(f"applied {name} as version {policy['version']}")
            await self._adopt(policy)
            secret = await asyncio.to_thread(bootstrap.ensure_key, api, self._state, policy["document"])
        finally:
            api.close()
        self._ready |= {
            "ingress": [self._layout.url(role) for role in self._layout.replicas],
            "api": self._layout.url("enforcer"),
            "history": self._layout.url("history"),
            "broker": self._layout.kafka.bootstrap,
            "state": str(self._state.root),
            "key": secret,
        }

    async def _adopt(self, policy: dict[str, Any]) -> None:
        self._policy = policy
        self._simulated = bootstrap.uses_simulator(policy["document"])
        if self._simulated and "provider" not in self._supervisor.children:
            await self._start_provider()

    async def _start(self, role: str, gate: int | None = None) -> Child:
        self._waits[role] = role
        return await self._supervisor.start(plan.spec(self._layout, role), gate)

    async def _until(self, child: Child, check: Callable[[], Any]) -> None:
        role = child.spec.role
        await ready.until_ready(child, check, self._waiting)
        self._waits.pop(role, None)
        self._progress.say(f"{role} is ready (pid {child.pid}, {time.monotonic() - self._began:.1f} s)")
        self._show_waits()

    def _waiting(self, role: str, missing: str) -> None:
        self._waits[role] = f"{role} ({missing})" if missing else role
        self._show_waits()

    def _show_waits(self) -> None:
        self._progress.waiting(", ".join(self._waits.values()))

    def _announce(self) -> None:
        if self._options.as_json:
            print(json.dumps({**self._ready, "pids": self._supervisor.pids}), flush=True)
            return
        document = load_policy(self._policy["document"])
        usual = default_state_dir(self._options.environment).absolute() == self._state.root
        at = "" if usual else f" --state {shlex.quote(str(self._state.root))}"
        model, version = banner.chat_model(document), self._policy["version"]
        print(banner.ready_text(self._ready, self._simulated, model, version, command_name(), at))
        sys.stdout.flush()

    async def _watch_policy(self) -> None:
        """Start the simulated provider when a policy that needs it is applied later."""
        api = Api("enforcer", self._layout.url("enforcer"), self._layout.token)
        while True:
            await asyncio.sleep(WATCH_S)
            with contextlib.suppress(TollwayError, LookupError, ValueError):  # tried again in a moment
                policy = await asyncio.to_thread(api.get, "/v1/policy")
                if policy["version"] != self._policy["version"]:
                    self._progress.say(f"policy version {policy['version']} is in force")
                    await self._adopt(policy)
                    self._progress.waiting("")
                    self._remember()

    def _remember(self) -> None:
        """Write what other commands find the deployment by."""
        is_ready = "ready_s" in self._ready and not self._stop.is_set()
        record = run_record(self._layout, self._ready, self._supervisor.pids, is_ready, self._simulated)
        try:
            self._state.write(self._state.run_file.name, record)
        except OSError as error:  # a full disk must not end what runs
            self._progress.say(f"warning: {self._state.run_file} is out of date: {error.strerror}")


def _first_fault(fault: BaseException) -> BaseException:
    """Return the first fault within a group that we have words for; else the first one."""
    if not isinstance(fault, BaseExceptionGroup):
        return fault
    leaves = [_first_fault(inner) for inner in fault.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, TollwayError)), leaves[0])


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=2.0, trust_env=False)
