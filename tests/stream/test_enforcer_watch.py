"""The judge over a log in memory: faults of the broker neither lose an alert nor send one twice."""

from __future__ import annotations

import pytest

from enforcer.adapters.log import Fenced
from enforcer.core.control import ControlState
from enforcer.core.metering import Metering
from enforcer.core.policy import candidate, record
from enforcer.core.quota import QuotaView
from enforcer.telemetry import Telemetry
from enforcer.watch import Watch
from schemas.alerts import METERING_OK, METERING_SILENT, Alert
from schemas.codec import decode_json, encode_json
from schemas.errors import TransportError
from schemas.quota import RowState, Snapshot
from schemas.topics import ALERTS, ALERTS_SENT, BLOCKS, POLICY
from tests.stream.enforcer_log import FakeLog
from tests.unit.enforcer.enforcer_parts import DOCUMENT, MONTH, NOW_MS, USD, no_prices, row, with_amount


class Plant:
    """A judge, its log, its rows and its clock."""

    def __init__(self, log: FakeLog | None = None) -> None:
        self.state, self.view, self.now_ms = ControlState(), QuotaView(1), NOW_MS
        self.log = FakeLog(self.state)
        if log is not None:
            self.log.records = log.records
        self.metering = Metering(1, NOW_MS, 5_000, 5_000)
        self.watch = Watch(
            self.state, self.view, self.metering, self.log, self.log, Telemetry(lambda: []), lambda: self.now_ms
        )  # fmt: skip
        self._fence = 0

    async def policy(self, text: str = DOCUMENT) -> None:
        """Put a document in force."""
        version = record(candidate(text, no_prices), self.state.version + 1, 0, "me", "")
        self.log.records.append((POLICY, version.key, encode_json(version)))
        await self.log.until_end()

    def rows(self, *states: RowState, full: bool = True) -> None:
        """Publish rows."""
        self._fence += 1
        self.view.merge(Snapshot(0, "run", 1, self._fence, 0, 0, full, 0, 1, [], list(states), []), 0)

    def counts(self) -> tuple[int, int, int]:
        """Return how many alerts, markers and block records were written."""
        alerts, markers = len(self.log.of(ALERTS)), len(self.log.of(ALERTS_SENT))
        return alerts, markers, len(self.log.of(BLOCKS))


async def _plant() -> Plant:
    plant = Plant()
    await plant.policy()
    return plant


async def test_alerts_and_blocks_follow_the_rows_once() -> None:
    """Judging again, and rows repeated, write nothing more."""
    plant = await _plant()
    plant.rows(row(100 * USD))
    for _ in range(3):
        await plant.watch.judge()
        plant.rows(row(100 * USD))
    assert plant.counts() == (3, 3, 1)


async def test_a_commit_without_an_answer_is_not_repeated() -> None:
    """After a fault the markers are read again before anything is judged: what was committed is not sent twice."""
    plant = await _plant()
    plant.rows(row(60 * USD))
    plant.log.unsure = True
    with pytest.raises(TransportError):
        await plant.watch.judge()
    await plant.watch.judge()
    assert plant.counts()[:2] == (1, 1)
    assert plant.log.renewed == 1


async def test_an_alert_that_was_not_written_is_written_later() -> None:
    """A fault loses nothing, although the rows do not change again."""
    plant = await _plant()
    await plant.watch.judge()
    plant.rows(row(60 * USD), full=False)
    plant.log.lose = 0
    with pytest.raises(TransportError):
        await plant.watch.judge()
    assert plant.counts()[:2] == (0, 0)
    await plant.watch.judge()
    assert plant.counts()[:2] == (1, 1)


async def test_a_restart_sends_nothing_again_and_everything_that_was_missed() -> None:
    """The markers on the topic are all that is remembered."""
    plant = await _plant()
    plant.rows(row(60 * USD))
    await plant.watch.judge()
    again = Plant(plant.log)
    await again.log.until_end()
    again.rows(row(85 * USD))
    await again.watch.judge()
    assert again.counts()[:2] == (2, 2)


async def test_a_new_policy_judges_all_rows_again() -> None:
    """A lowered amount alerts and blocks at once; a raised one lifts the block."""
    plant = await _plant()
    plant.rows(row(40 * USD))
    await plant.watch.judge()
    assert plant.counts() == (0, 0, 0)
    await plant.policy(with_amount("40 USD"))
    await plant.watch.judge()
    assert plant.counts() == (3, 3, 1)
    await plant.policy(with_amount("80 USD"))
    await plant.watch.judge()
    assert plant.log.of(BLOCKS)[-1] is None
    assert plant.state.blocks == {}


async def test_a_block_ends_with_its_window_without_any_record() -> None:
    """Time alone lifts it."""
    plant = await _plant()
    plant.rows(row(100 * USD))
    await plant.watch.judge()
    plant.now_ms = MONTH.end * 1000
    await plant.watch.judge()
    assert plant.state.blocks == {}


async def test_a_block_stays_until_the_rows_are_known_in_full() -> None:
    """A start that has not seen a full snapshot does not lift what it cannot judge."""
    plant = await _plant()
    plant.rows(row(100 * USD))
    await plant.watch.judge()
    again = Plant(plant.log)
    await again.log.until_end()
    await again.watch.judge()
    assert len(again.state.blocks) == 1
    again.rows()
    await again.watch.judge()
    assert again.state.blocks == {}


async def test_a_fenced_enforcer_ends() -> None:
    """Another one has taken over: that is no fault to wait out."""
    plant = await _plant()
    plant.rows(row(60 * USD))
    plant.log.fenced = True
    with pytest.raises(Fenced):
        await plant.watch.run()


async def test_an_incident_of_metering_is_told_once_and_its_end_once() -> None:
    """Judged every second through a silence of half a minute, with a fault and a restart: one alert, one all-clear."""
    plant = await _plant()
    plant.metering.seen({0: 7}, NOW_MS)
    plant.metering.heard(0, 7, NOW_MS)
    for second in range(1, 30):
        plant.now_ms = NOW_MS + second * 1_000
        plant.log.unsure = second == 5
        try:
            await plant.watch.judge()
        except TransportError:
            await plant.watch.judge()
    again = Plant(plant.log)
    await again.log.until_end()
    again.now_ms = plant.now_ms
    again.metering.seen({0: 7}, again.now_ms)
    for _ in range(4):
        again.now_ms += 1_000
        again.metering.heard(0, 7, again.now_ms)
        await again.watch.judge()
    kinds = [decode_json(Alert, value or b"").type for value in again.log.of(ALERTS)]
    assert kinds == [METERING_SILENT, METERING_OK]
