"""Charges batches: reads what replicas saw, notes what is charged, writes it, and notes that it is written.

What a sighting charges is on record before any of it is on the log, with the very bytes. What a kill leaves half done
is completed by whoever starts next: the same records under the same numbers count once. After any fault of the broker
everything is read again, as at a start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Protocol

import structlog

from enforcer.adapters.batch_log import Placed
from enforcer.core.batch_terms import Terms
from enforcer.core.batches import Charged, Outcome, close, concluded, fold, key_of
from enforcer.core.control import ControlState
from enforcer.core.reports import Sample
from enforcer.telemetry import Telemetry
from schemas.batches import Step
from schemas.codec import decode_sighting, decode_step, encode_step
from schemas.crash_points import crash_here
from schemas.errors import DecodeError, TransportError
from schemas.topics import BATCHES

RETRY_S = 1.0
"""Between two attempts while the broker does not answer, and two looks for a policy."""

_log = structlog.get_logger("enforcer.batches")


class Log(Protocol):
    """The topics."""

    async def start(self) -> None:
        """Connect, and take the right to write steps from whoever has it."""

    async def stop(self) -> None:
        """Disconnect."""

    def steps(self) -> AsyncIterator[bytes]:
        """Yield all steps that there are, in their order. TransportError if they cannot be read."""

    def seek(self, position: int) -> None:
        """Read sightings from an offset on."""

    async def read(self) -> list[Placed]:
        """Return the next sightings; none if there are none for a while."""

    def lag(self, position: int) -> int | None:
        """Return how many sightings there are from an offset on; None if that is not known."""

    async def write_step(self, key: str, value: bytes) -> None:
        """Write a step. TransportError if it is not known whether it is written."""

    async def write_usage(self, records: Iterable[tuple[int, bytes]]) -> int:
        """Write records in order. TransportError if not acknowledged."""


class Batcher:
    """The one who charges batches."""

    def __init__(
        self, control: ControlState, log: Log, telemetry: Telemetry, clock: Callable[[], int], partitions: int
    ) -> None:
        self._control, self._log, self._telemetry, self._clock = control, log, telemetry, clock
        self._partitions = partitions
        self._terms: tuple[tuple[int, int], Terms] | None = None
        self.state = Charged()
        """What is charged, as far as it was read."""
        self._is_away = False
        self.is_read = False
        """Whether everything was read that was charged before."""

    async def run(self) -> None:
        """Charge until cancelled. Returns never; raises what is not the broker's fault."""
        while True:
            try:
                await self._charge()
            except TransportError as error:
                self._telemetry.count("transport_faults", "batches")
                if not self._is_away:
                    _log.warning("batches are not charged until the broker answers again", error=str(error))
                self._is_away = True
            finally:
                await self._log.stop()
            await asyncio.sleep(RETRY_S)

    def samples(self) -> Iterator[Sample]:
        """Yield the gauges about batches."""
        counts = dict.fromkeys(("total", "lines", "nothing"), 0)
        for book in self.state.books.values():
            counts[book.charged or "nothing"] += 1
        for charged, count in counts.items():
            yield "batches", (charged,), count
        lag = self._log.lag(self.state.position) if self.is_read else None
        if lag is not None:
            # What is noted and not known to be written is not dealt with either.
            yield "batch_lag_sightings", (), lag + len(self.state.pending)

    async def _charge(self) -> None:
        await self._log.start()
        state = Charged()
        async for value in self._log.steps():
            state.take(decode_step(value))
        for step in list(state.pending.values()):
            _log.warning("completing what was noted", batch=step.book.batch_id, records=len(step.records))
            await self._conclude(state, step)
        self.state, self.is_read = state, True
        await self._until_policy()
        self._log.seek(state.position)
        self._is_away = False
        _log.info("charging batches", position=state.position, batches=len(state.books))
        while True:
            for placed in await self._log.read():
                await self._deal_with(placed)
                await asyncio.sleep(0)  # many that say nothing new must not keep others from the loop
            last = close(state, self._control.version, self._clock())
            if last is not None:
                await self._write(state, last)

    async def _until_policy(self) -> None:
        while self._control.current is None:
            await asyncio.sleep(RETRY_S)

    async def _deal_with(self, placed: Placed) -> None:
        state = self.state
        try:
            sighting = decode_sighting(placed.value)
        except DecodeError as error:
            self._telemetry.count("undecodable", BATCHES.name)
            _log.error("skipped a record", topic=BATCHES.name, offset=placed.offset, error=str(error))
            state.passed(placed.offset + 1)
            return
        while True:
            found = fold(state, sighting, placed.offset, self._present_terms(), self._clock())
            if found.step is not None:
                await self._write(state, found.step)
            if found.step is None or found.step.position > placed.offset:
                break
        state.passed(placed.offset + 1)
        self._telemetry.count("batch_sightings", found.outcome.value)
        if found.outcome in (Outcome.NO_BATCH, Outcome.MALFORMED):
            _log.info("a sighting charges nothing", why=found.outcome.value, offset=placed.offset)

    async def _write(self, state: Charged, step: Step) -> None:
        """Note a step, write what it charges, note that it is written."""
        before = state.books.get((step.book.provider, step.book.batch_id))
        await self._log.write_step(key_of(step), encode_step(step))
        state.take(step)
        if not step.records:
            return
        crash_here("enforcer.batch_noted")
        await self._conclude(state, step)
        count = step.book.requests - (0 if before is None else before.requests)
        if count:
            self._telemetry.count("batch_requests", step.book.charged, by=count)

    async def _conclude(self, state: Charged, step: Step) -> None:
        await self._log.write_usage(step.records)
        crash_here("enforcer.batch_written")
        done = concluded(step)
        await self._log.write_step(key_of(done), encode_step(done))
        state.take(done)
        crash_here("enforcer.batch_charged")

    def _present_terms(self) -> Terms:
        record, policy = self._control.current, self._control.policy
        assert record is not None
        assert policy is not None
        key = (record.version, record.prices_revision)
        if self._terms is None or self._terms[0] != key:
            self._terms = (key, Terms(record, policy, self._partitions, self._tier_of_key))
        return self._terms[1]

    def _tier_of_key(self, key_id: str) -> int | None:
        key = self._control.keys.get(key_id)
        return None if key is None else key.tier
