"""Metering: one alert an incident, whatever it does meanwhile, and none for a broker that is away."""

from __future__ import annotations

from enforcer.core.metering import FINE_MS, MAX_ENDS, Metering
from enforcer.core.reports import incident, metering, metering_samples
from schemas.alerts import METERING_BEHIND, METERING_OK, METERING_SILENT, Alert

AFTER_MS = 5_000
STEP_MS = 500


class Room:
    """Two partitions, a clock, and the log of alerts."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.metering = Metering(2, self.now_ms, AFTER_MS, AFTER_MS)
        self.alerts: list[Alert] = []
        self.fences, self.ends = {0: 0, 1: 0}, {0: 0, 1: 0}

    @property
    def last(self) -> Alert | None:
        """The newest alert."""
        return self.alerts[-1] if self.alerts else None

    @property
    def types(self) -> list[str]:
        """What was said."""
        return [alert.type for alert in self.alerts]

    def run(self, ms: int, *, heard: tuple[int, ...] = (0, 1), folds: bool = True, away: bool = False) -> None:
        """Let time pass, with usage on both partitions."""
        for _ in range(ms // STEP_MS):
            self.now_ms += STEP_MS
            for partition in (0, 1):
                self.ends[partition] += 3
                if partition in heard:
                    self.fences[partition] = self.ends[partition] if folds else self.fences[partition]
                    self.metering.heard(partition, self.fences[partition], self.now_ms)
            if away:
                self.metering.lost()
            else:
                self.metering.seen(self.ends, self.now_ms)
            self.judge()

    def judge(self) -> None:
        """Send what is due."""
        sent = {alert.id for alert in self.alerts}
        alert = self.metering.judge(self.last, sent, self.now_ms)
        if alert is not None:
            self.alerts.append(alert)


def test_a_meter_at_work_is_not_talked_about() -> None:
    """Minutes of usage, published at once: nothing is said."""
    room = Room()
    room.run(120_000)
    assert room.alerts == []
    assert [vital.records for vital in room.metering.vitals(room.now_ms)] == [0, 0]


def test_a_silence_is_told_once_and_its_end_once() -> None:
    """However long it lasts; the all-clear names the incident. The next one is another."""
    room = Room()
    room.run(2_000)
    room.run(60_000, heard=())
    assert room.types == [METERING_SILENT]
    assert room.alerts[0].data["partitions"] == [0, 1]
    assert AFTER_MS <= room.alerts[0].data["silent_ms"] <= AFTER_MS + STEP_MS
    room.run(10_000)
    assert room.types == [METERING_SILENT, METERING_OK]
    assert room.alerts[1].data["incident"] == room.alerts[0].id
    room.run(60_000, heard=())
    room.run(10_000)
    assert room.types == [METERING_SILENT, METERING_OK] * 2
    assert len({alert.id for alert in room.alerts}) == 4


def test_one_silent_partition_is_an_incident() -> None:
    """The other one being well does not hide it."""
    room = Room()
    room.run(2_000)
    room.run(20_000, heard=(0,))
    assert room.types == [METERING_SILENT]
    assert room.alerts[0].data["partitions"] == [1]


def test_a_meter_that_publishes_and_does_not_fold_is_behind() -> None:
    """Its fence stands still while the log goes on; when it is silent besides, that is said too, and not taken back."""
    room = Room()
    room.run(2_000)
    room.run(20_000, folds=False)
    assert room.types == [METERING_BEHIND]
    assert room.alerts[0].data["records_not_folded"] > 0
    room.run(20_000, heard=())
    room.run(3_000, folds=False)
    assert room.types == [METERING_BEHIND, METERING_SILENT]
    room.run(3_000)
    assert room.types == [METERING_BEHIND, METERING_SILENT, METERING_OK]


def test_a_meter_that_lags_by_less_than_the_bound_is_not_behind() -> None:
    """What counts is how long an end of the log stays unreached, not how many records are missing."""
    room = Room()
    for _ in range(20):
        room.run(4_000, folds=False)
        room.run(STEP_MS)
    assert room.alerts == []


def test_a_broker_that_is_away_is_no_incident_of_metering() -> None:
    """Nothing is judged without it, and the time without it does not count when it is back."""
    room = Room()
    room.run(2_000)
    room.run(60_000, heard=(), away=True)
    room.run(AFTER_MS - STEP_MS, heard=())
    assert room.alerts == []
    room.run(2 * STEP_MS, heard=())
    assert room.types == [METERING_SILENT]


def test_a_restart_neither_repeats_nor_ends_an_incident() -> None:
    """What is on the log is the state; the all-clear waits until every partition was heard."""
    room = Room()
    room.run(2_000)
    room.run(10_000, heard=())
    room.metering = Metering(2, room.now_ms, AFTER_MS, AFTER_MS)
    room.run(4 * FINE_MS, heard=(0,))
    room.run(20_000, heard=(0,))
    assert room.types == [METERING_SILENT]
    room.run(4 * FINE_MS)
    assert room.types == [METERING_SILENT, METERING_OK]


def test_memory_is_bounded_and_the_lag_stays_that_of_the_oldest_end() -> None:
    """A week behind takes no more room than an hour."""
    room = Room()
    room.run(2_000)
    room.run((MAX_ENDS + 100) * STEP_MS, folds=False)
    pulse = room.metering.pulses[0]
    assert len(pulse._ends) <= MAX_ENDS
    assert pulse.vital(room.now_ms).behind_ms == (MAX_ENDS + 99) * STEP_MS


def test_status_and_gauges_say_what_the_incident_is() -> None:
    """One kind at a time is 1."""
    room = Room()
    room.run(2_000)
    assert metering(room.metering, None, room.now_ms)["state"] == "ok"
    room.run(10_000, heard=())
    shown = metering(room.metering, room.last, room.now_ms)
    assert (shown["state"], shown["alert"]) == ("silent", room.alerts[0].id)
    samples = {(name, labels): value for name, labels, value in metering_samples(room.metering, room.last, room.now_ms)}
    assert samples["metering_incident", ("silent",)] == 1
    assert samples["metering_incident", ("behind",)] == 0
    assert samples["metering_silence_seconds", ("1",)] == 10
    room.run(10_000)
    assert incident(room.last) == ""
