"""When ledgers are said to differ, and when they agree again."""

from __future__ import annotations

from typing import Any

from enforcer.core.drift import CONFIRM_MS, LOOK_MS, Drift
from enforcer.core.quota import QuotaView
from schemas.alerts import METERING_DRIFT, METERING_DRIFT_OK, Alert
from schemas.audits import Audit, Difference, RunSums
from schemas.quota import NO_WEIGHT, LedgerState, Member, Snapshot
from schemas.usage import Totals

RUN = "instance=ingress-1/epoch=3"
TEN, NINE = Totals(10, 10, 100, 10, 1_000, 0, 1_000), Totals(9, 9, 90, 9, 900, 0, 900)
HOURLY = Difference("history ≠ usage_hourly", "org=acme/hour=2026-11-21T12Z", {"events": [5, 6]}, month=202611)


def snapshot(totals: Totals, told: Totals | None, fence: int = 50, live: bool = True) -> Snapshot:
    """Return a snapshot with the ledger of one run."""
    members = [Member("ingress-1", 3, 9, NO_WEIGHT)] if live else []
    return Snapshot(0, "p", 1, fence, 0, 0, True, 0, 1, members, [], [LedgerState(RUN, totals, told)])


class World:
    """A judge, what it reads, and its clock."""

    def __init__(self) -> None:
        self.view, self.audits, self.now_ms = QuotaView(1), {}, 1_000  # type: ignore[var-annotated] # of int to Audit
        self.drift = Drift(self.view, self.audits)
        self.last: Alert | None = None

    def audit(self, *differences: Difference, at_ms: int = 5_000, position: int = 50, **run: Any) -> None:
        """Take in an audit."""
        runs = [RunSums("ingress-1", 3, 9, **run)] if run else []
        self.audits[0] = Audit(0, at_ms, position, runs, list(differences))

    def judge(self, after_ms: int = LOOK_MS) -> str:
        """Let time go by; return what is said, and take note of it."""
        self.now_ms += after_ms
        alert = self.drift.judge(self.last, {}, self.now_ms)
        self.last = alert or self.last
        return "" if alert is None else alert.type


def test_what_the_history_found_is_an_incident_once_and_over_with_newer_audits() -> None:
    """One alert, however long it lasts and whatever joins it; one more when an audit after it finds nothing."""
    world = World()
    world.audit(HOURLY)
    assert world.judge() == METERING_DRIFT
    assert world.last is not None
    assert world.last.data["first"] == HOURLY.text
    world.audit(HOURLY, Difference("told ≠ history", RUN, {"events": [5, 4]}, 0, 70, 77, 9, 12), at_ms=6_000)
    assert [world.judge() for _ in range(3)] == ["", "", ""]
    world.audits[0] = Audit(0, 5_000, 50)
    assert world.judge() == "", "not newer than what began it"
    world.audits[0] = Audit(0, 65_000, 60)
    assert world.judge() == METERING_DRIFT_OK
    assert world.judge() == ""


def test_a_restart_says_nothing_twice() -> None:
    """A new judge goes on with the incident that is on the log."""
    world = World()
    world.audit(HOURLY)
    world.judge()
    world.drift = Drift(world.view, world.audits)
    assert [world.judge() for _ in range(3)] == ["", "", ""]


def test_the_meter_against_what_was_told_is_confirmed_first() -> None:
    """A difference of the meter's own sums has to last; one that goes away was on its way."""
    world = World()
    world.view.merge(snapshot(NINE, TEN), 0)
    assert world.judge() == ""
    world.view.merge(snapshot(TEN, TEN, 51), 0)
    assert [world.judge(CONFIRM_MS), world.judge(CONFIRM_MS)] == ["", ""]
    world.view.merge(snapshot(NINE, TEN, 52), 0)
    assert [world.judge(), world.judge(CONFIRM_MS)] == ["", METERING_DRIFT]
    assert world.last is not None
    assert world.last.data["ledgers"] == "told ≠ meter"


def test_meter_and_history_are_compared_at_the_same_record() -> None:
    """The same word of the run is the same record; a run that goes on is not compared by position."""
    for run, live, expected in (
        ({"sums": NINE, "told": TEN}, True, METERING_DRIFT),
        ({"sums": NINE, "told": NINE}, True, ""),  # the history is behind
        ({"sums": NINE}, True, ""),  # who knows where it is
        ({"sums": NINE}, False, METERING_DRIFT),  # ended, and both have passed it
        ({"sums": TEN}, False, ""),
    ):
        world = World()
        world.view.merge(snapshot(TEN, TEN, live=live), 0)
        world.audit(**run)  # type: ignore[arg-type] # fields of a run
        world.judge()
        assert world.judge(CONFIRM_MS) == expected, (run, live)
    world = World()
    world.view.merge(snapshot(TEN, TEN, live=False), 0)
    world.audit(sums=NINE, position=49)
    assert [world.judge(), world.judge(CONFIRM_MS)] == ["", ""], "the history has not passed the run's end"
