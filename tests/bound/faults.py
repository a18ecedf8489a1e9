"""Faults: what is done to processes of the deployment while clients burst, and how it is undone.

`strike` is called while answers are in flight, `lift` before the last burst, `close` at the end in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from typing import TYPE_CHECKING

from tests.bound.scenario import REPLICAS

if TYPE_CHECKING:
    from tests.bound.deployment import Deployment

EVERY_S = (1.5, 3.0)
FROZEN_S = 4.0


class Fault:
    """Does nothing; what is common to all."""

    STRIKES_S = (-0.5, 0.2)
    """When, from the beginning of the burst on."""

    def __init__(self, deployment: Deployment, rng: random.Random) -> None:
        self.deployment, self.rng = deployment, rng
        self.head_start_s = rng.uniform(*self.STRIKES_S)
        """How long the burst is ahead of the fault; below 0 if the fault is first."""

    async def strike(self) -> None:
        """Do the fault."""

    async def lift(self) -> None:
        """Undo it, and return when the loop is well."""
        await self.deployment.well()

    async def close(self) -> None:
        """Leave nothing of it behind."""


class MeterKilled(Fault):
    """The meter is killed every few seconds, from the first strike to the end."""

    _task: asyncio.Task[None] | None = None
    _kills = 0

    async def strike(self) -> None:
        """Kill it, and go on doing so."""
        self._task = asyncio.create_task(self._go_on(), name="kill the meter")

    async def _go_on(self) -> None:
        while True:
            self._kills += self.deployment.signal("meter", signal.SIGKILL)
            await asyncio.sleep(self.rng.uniform(*EVERY_S))

    async def lift(self) -> None:
        """Return after the second kill; it goes on."""
        while self._kills < 2:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Kill no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class ReplicaKilled(Fault):
    """One replica is killed while it has requests in flight; the supervisor starts it again."""

    STRIKES_S = (0.05, 0.2)

    async def strike(self) -> None:
        """Kill one, by chance."""
        role = f"ingress-{self.rng.randrange(REPLICAS) + 1}"
        assert self.deployment.signal(role, signal.SIGKILL), f"{role} does not run"


class _Frozen(Fault):
    """A process stops working without closing anything, and goes on later with what it knew before."""

    _role = ""
    _is_frozen = False
    _thaw: asyncio.Task[None] | None = None

    async def strike(self) -> None:
        """Freeze it, and have it thaw after a while: requests wait for it, and clients do not give up."""
        self._is_frozen = self.deployment.signal(self._role, signal.SIGSTOP)
        assert self._is_frozen, f"{self._role} does not run"
        self._thaw = asyncio.create_task(self._thaw_later(), name=f"thaw {self._role}")

    async def _thaw_later(self) -> None:
        await asyncio.sleep(FROZEN_S)
        self._go_on()

    def _go_on(self) -> None:
        if self._is_frozen:
            self.deployment.signal(self._role, signal.SIGCONT)
            self._is_frozen = False

    async def lift(self) -> None:
        """Return when it goes on and the loop is well."""
        if self._thaw is not None:
            await self._thaw
        await super().lift()

    async def close(self) -> None:
        """Let it go on."""
        if self._thaw is not None:
            self._thaw.cancel()
        self._go_on()


class BrokerFrozen(_Frozen):
    """The broker freezes."""

    _role = "broker"


class MeterFrozen(_Frozen):
    """The meter freezes."""

    _role = "meter"


class ReplicaFrozen(_Frozen):
    """One replica freezes, perhaps with requests in flight."""

    async def strike(self) -> None:
        """Freeze one, by chance."""
        self._role = f"ingress-{self.rng.randrange(REPLICAS) + 1}"
        await super().strike()


class _BrokerEnded(Fault):
    _how: signal.Signals

    async def strike(self) -> None:
        """End the broker; the supervisor starts it again."""
        self._pid = self.deployment.pid("broker")
        assert self.deployment.signal("broker", self._how), "the broker does not run"

    async def lift(self) -> None:
        """Return when another one serves the loop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self.deployment.pid("broker") in (0, self._pid):
                    await asyncio.sleep(0.05)
        await super().lift()


class BrokerStopped(_BrokerEnded):
    """The broker is asked to stop, and started again."""

    _how = signal.SIGTERM


class BrokerKilled(_BrokerEnded):
    """The broker is killed, and started again."""

    _how = signal.SIGKILL


FAULTS: dict[str, type[Fault]] = {
    "meter-killed": MeterKilled, "replica-killed": ReplicaKilled, "broker-frozen": BrokerFrozen,
    "broker-stopped": BrokerStopped, "broker-killed": BrokerKilled, "meter-frozen": MeterFrozen,
    "replica-frozen": ReplicaFrozen,
}  # fmt: skip
