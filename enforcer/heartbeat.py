"""Watches metering: asks the broker where `usage` ends, and wakes the judge when something is to be said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from enforcer.core.control import ControlState
from enforcer.core.metering import Metering
from schemas.errors import TransportError

EVERY_S = 0.5
ANSWER_S = 2.0
"""A broker that does not answer within this time is away."""

_log = structlog.get_logger("enforcer.heartbeat")


class Ends(Protocol):
    """Where topics end."""

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset behind the last committed record of each partition."""


class Heartbeat:
    """The watch over metering."""

    def __init__(
        self, metering: Metering, state: ControlState, ends: Ends, usage_topic: str, wake: Callable[[], None],
        clock: Callable[[], int],
    ) -> None:  # fmt: skip
        self._metering, self._state, self._ends = metering, state, ends
        self._partitions = [TopicPartition(usage_topic, pulse.partition) for pulse in metering.pulses]
        self._wake, self._clock = wake, clock

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Ask once, and wake the judge if an alert is due."""
        try:
            async with asyncio.timeout(ANSWER_S):
                ends = await self._ends.ends(self._partitions)
        except (KafkaError, TransportError, OSError, TimeoutError) as error:
            self._metering.lost()
            _log.warning("cannot see where `usage` ends", error=str(error) or type(error).__name__)
            return
        now_ms = self._clock()
        self._metering.seen({where.partition: end for where, end in ends.items()}, now_ms)
        state = self._state
        if self._metering.judge(state.metering, state.sent, now_ms) is not None:
            self._wake()
