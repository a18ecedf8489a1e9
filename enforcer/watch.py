"""Judges thresholds and blocks whenever rows or the policy change, and writes what follows.

Nothing here is remembered but what is still to be judged: whether an alert was sent or a scope is blocked is what the
topics say. After a write that failed everything is judged again from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog
from aiokafka import TopicPartition

from enforcer.adapters.log import Goals
from enforcer.core.blocks import Absent, Transition, transitions
from enforcer.core.budgets import Spend
from enforcer.core.control import ControlState
from enforcer.core.drift import Drift
from enforcer.core.metering import Metering
from enforcer.core.oddities import Oddities
from enforcer.core.quota import QuotaView
from enforcer.core.thresholds import crossings, unpriced
from enforcer.telemetry import Telemetry
from schemas.alerts import Alert
from schemas.codec import encode_json
from schemas.errors import TransportError
from schemas.ids import shard_of
from schemas.rows import parse_scope
from schemas.topics import BLOCKS, Topic

EVERY_S = 0.1
"""Changes are judged together this often."""
IDLE_S = 1.0
"""Windows end without a record: blocks are judged at least this often."""
RETRY_S = 1.0
ALERTS_PER_TRANSACTION = 200
HOUSEKEEPING_MS = 10_000
"""Every row is looked at for it."""

_log = structlog.get_logger("enforcer.watch")


class Writer(Protocol):
    """Where alerts and block entries are written."""

    async def write(self, records: list[tuple[Topic, str, bytes | None]]) -> Goals:
        """Write records in order; return the offsets behind them. TransportError if not acknowledged."""

    async def write_alerts(self, alerts: list[Alert], now_ms: int) -> Goals:
        """Write alerts with their markers, all or none. TransportError if it is not known which."""

    async def renew(self) -> None:
        """After a TransportError of `write_alerts`: return when it is certain. TransportError if it cannot be yet."""


class Reader(Protocol):
    """The reading of the control topics into the state."""

    async def until(self, goals: dict[TopicPartition, int]) -> None:
        """Return when the state includes everything below the offsets."""

    async def until_end(self) -> None:
        """Return when the state includes everything that is on the topics now."""


class Watch:
    """The judge."""

    def __init__(
        self, state: ControlState, view: QuotaView, metering: Metering, writer: Writer, reader: Reader,
        telemetry: Telemetry, clock: Callable[[], int], oddities: Oddities | None = None,
    ) -> None:  # fmt: skip
        self._state, self._view, self._metering = state, view, metering
        self._writer, self._reader = writer, reader
        self._telemetry, self._clock = telemetry, clock
        self._drift = Drift(view, state.audits)
        self._oddities = Oddities() if oddities is None else oddities
        self._woken = asyncio.Event()
        self._judged_version = -1
        self._everything = True
        self._housekept_ms = 0

    def wake(self) -> None:
        """Say that rows or the policy have changed."""
        self._woken.set()

    async def run(self) -> None:
        """Judge until cancelled. Returns never; raises what is not the broker's fault."""
        while True:
            try:
                await self.judge()
            except TransportError as error:
                _log.warning("not written, will be judged again", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            await asyncio.sleep(EVERY_S)
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()

    async def judge(self) -> None:
        """Judge what has changed since the last time, and write what follows."""
        now_ms = self._clock()
        if now_ms - self._housekept_ms >= HOUSEKEEPING_MS:
            self._housekept_ms = now_ms
            self._view.housekeep(now_ms // 1000)
        state = self._state
        if self._judged_version != state.version:
            self._judged_version, self._everything = state.version, True
        changed = self._view.take_changed()
        rows, entries = self._view.everything() if self._everything else changed
        self._telemetry.count("evaluations")
        budgets = state.budgets
        spends = [spend for held in rows if (spend := budgets.spend(held.key, held.state)) is not None]
        alerts = crossings(spends, state.sent, state.version, now_ms)
        alerts += unpriced(entries, state.sent, state.unpriced, state.version, now_ms)
        drift = self._drift.judge(state.drift, state.sent, now_ms)
        alerts += [] if drift is None else [drift]
        metering = self._metering.judge(state.metering, state.sent, now_ms)
        alerts += [] if metering is None else [metering]
        alerts += self._oddities.due(state.sent, now_ms)
        changes = transitions(spends, state.blocks, self._look, state.version, now_ms)
        try:
            await self._block(changes)
            await self._alert(alerts, now_ms)
        except BaseException:
            self._everything = True
            raise
        self._everything = False

    async def _alert(self, alerts: list[Alert], now_ms: int) -> None:
        for start in range(0, len(alerts), ALERTS_PER_TRANSACTION):
            batch = alerts[start : start + ALERTS_PER_TRANSACTION]
            try:
                goals = await self._writer.write_alerts(batch, now_ms)
            except TransportError:
                self._telemetry.count("transport_faults", "alerts")
                await self._writer.renew()
                await self._reader.until_end()
                raise
            await self._reader.until(goals)
            for alert in batch:
                self._telemetry.count("alerts_written", alert.type)
                _log.info("alert", type=alert.type, subject=alert.subject, id=alert.id)

    async def _block(self, changes: list[Transition]) -> None:
        if not changes:
            return
        records = [
            (BLOCKS, change.key, None if change.entry is None else encode_json(change.entry)) for change in changes
        ]
        try:
            await self._reader.until(await self._writer.write(records))
        except TransportError:
            self._telemetry.count("transport_faults", "blocks")
            raise
        for change in changes:
            what = "lifted" if change.entry is None else "blocked"
            self._telemetry.count("block_changes", what)
            _log.info(what, scope=change.key)

    def _look(self, rule: str, scope: str) -> Spend | Absent:
        row = self._state.budgets.row_now(rule, scope, self._clock() // 1000)
        held = None if row is None else self._view.find(row)
        spend = None if held is None else self._state.budgets.spend(held.key, held.state)
        if spend is not None:
            return spend
        org = parse_scope(scope)[0][1]
        shard = self._view.shards[shard_of(org, len(self._view.shards))]
        return Absent.NONE if row is None or shard.whole else Absent.UNKNOWN
