"""When ledgers are said to differ, and when they agree again."""

from __future__ import annotations

from typing import Any

import msgspec

from enforcer.core.drift import CONFIRM_MS, LOOK_MS, Drift
from enforcer.core.ledgers import of_days, of_shard
from enforcer.core.quota import QuotaView
from schemas.alerts import METERING_DRIFT, METERING_DRIFT_OK, Alert
from schemas.audits import Audit, DaySums, Difference, HourSums, RunSums
from schemas.quota import NO_WEIGHT, LedgerState, Member, Place, Snapshot, hour_key
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
        ({"sums": NINE, "last_offset": 49}, True, METERING_DRIFT),  # the history is further on and has no more of it
        ({"sums": NINE, "last_offset": 50}, True, ""),  # it has more of it than the meter has had
        ({"sums": NINE, "last_offset": 49}, False, METERING_DRIFT),
        ({"sums": TEN, "last_offset": 49}, False, ""),
    ):
        world = World()
        world.view.merge(snapshot(TEN, TEN, live=live), 0)
        world.audit(**run)
        world.judge()
        assert world.judge(CONFIRM_MS) == expected, (run, live)
    world = World()
    world.view.merge(snapshot(TEN, TEN, live=False), 0)
    world.audit(sums=NINE, position=49, last_offset=40)
    assert [world.judge(), world.judge(CONFIRM_MS)] == ["", ""], "the history has not passed the meter's entry"


HOUR = 498_684
"""2026-11-21T12Z."""


def hours(*sums: Totals, last_offset: int = 30) -> list[LedgerState]:
    """Return the meter's hours of the run, from noon on."""
    place = Place(3, 7, 20, last_offset)
    return [LedgerState(hour_key(RUN, HOUR + number), one, None, place) for number, one in enumerate(sums)]


def an_audit(*sums: Totals, position: int = 50, last_offset: int = 30, told: Totals = TEN, **fields: Any) -> Audit:
    """Return an audit that tells these hours, from noon on, of a run that has told something else since."""
    told_hours = [HourSums("ingress-1", 3, HOUR + number, one, Place(2, 7, 19, last_offset))
                  for number, one in enumerate(sums)]  # fmt: skip
    runs = [RunSums("ingress-1", 3, 9, TEN, told, last_offset)]
    return Audit(0, 5_000, position, runs, [], told_hours, HOUR - 12, **fields)


def found(ours: list[LedgerState], audit: Audit, more: LedgerState | None = None) -> list[Difference]:
    """Return what differs between a meter of one busy run and the history."""
    view = QuotaView(1)
    entry = LedgerState(RUN, TEN, TEN, hours_from=HOUR - 48)
    ledger = [*ours, *([] if more is None else [more]), entry]
    view.merge(Snapshot(0, "p", 1, 50, 0, 0, True, 0, 1, [Member("ingress-1", 3, 9, NO_WEIGHT)], [], ledger), 0)
    return [*of_shard(view.shards[0], audit), *of_days(view.shards, {0: audit})]


def test_an_hour_that_is_over_is_compared_while_its_run_goes_on() -> None:
    """Both have passed all that each has of it: the hour is named, with sums and the range of both."""
    busy = Totals(99)
    assert found(hours(NINE, TEN), an_audit(NINE, TEN, told=busy)) == []
    (first,) = found(hours(NINE, TEN), an_audit(TEN, TEN, told=busy))
    assert (first.ledgers, first.key) == ("meter ≠ history", "instance=ingress-1/epoch=3/hour=2026-11-21T12Z")
    assert (first.fields["events"], first.partition) == ([9, 10], 0)
    assert (first.first_seq, first.last_seq, first.first_offset, first.last_offset) == (2, 7, 19, 30)
    assert found(hours(NINE, TEN), an_audit(TEN, TEN, told=busy, position=30)) == [], "the history is behind"
    assert found(hours(NINE, TEN), an_audit(TEN, TEN, told=busy, last_offset=50)) == [], "the meter is behind"


def test_the_earliest_hour_comes_first_and_takes_the_place_of_the_run() -> None:
    """An hour that one lacks counts as zeros; what is narrower is said instead of what is wider."""
    differing = found(hours(TEN), an_audit(NINE, NINE))
    assert [one.key.rpartition("/")[2] for one in differing] == ["hour=2026-11-21T12Z", "hour=2026-11-21T13Z"]
    assert [one.fields["events"] for one in differing] == [[10, 9], [0, 9]]


def test_what_either_does_not_tell_is_not_compared() -> None:
    """Hours that the meter has not kept, or that the history leaves out; earlier versions of both say nothing."""
    assert found(hours(TEN), msgspec.structs.replace(an_audit(NINE), hours_from=HOUR + 1)) == []
    assert found(hours(TEN), msgspec.structs.replace(an_audit(), hours_from=None)) == []
    view = QuotaView(1)
    view.merge(Snapshot(0, "p", 1, 50, 0, 0, True, 0, 1, [], [], [LedgerState(RUN, TEN, TEN)]), 0)
    assert list(of_shard(view.shards[0], an_audit(TEN))) == []


def test_a_run_that_the_meter_has_nothing_of_is_found() -> None:
    """All of the meter's ledger is known, and is further on than all that the history has of the run."""
    view, audit = QuotaView(1), an_audit(TEN)
    view.merge(Snapshot(0, "p", 1, 50, 0, 0, False, 0, 1, [], [], []), 0)
    assert list(of_shard(view.shards[0], audit)) == [], "it may have begun before what has been read"
    view.merge(Snapshot(0, "p", 2, 50, 0, 0, True, 0, 1, [], [], []), 0)
    assert [one.fields["events"] for one in of_shard(view.shards[0], audit)] == [[0, 10]]


def test_a_day_is_compared_where_all_its_hours_are_of_the_same_records() -> None:
    """An organisation that either lacks, or has otherwise; not while a record of the day is on its way to one."""
    day = HOUR // 24
    ours = LedgerState("org=acme/day=2026-11-21", NINE, None)
    of_day: dict[str, Any] = {"days": [DaySums("acme", day, TEN)], "days_from": day - 1}
    (first,) = found(hours(TEN), an_audit(TEN, **of_day), ours)
    assert (first.key, first.fields["events"]) == ("org=acme/day=2026-11-21", [9, 10])
    assert found(hours(TEN), an_audit(TEN, days=[], days_from=day - 1)) == []
    (first,) = found(hours(TEN), an_audit(TEN, days=[], days_from=day - 1), ours)
    assert first.fields["events"] == [9, 0]
    busy = Totals(99)
    assert len(found(hours(TEN), an_audit(TEN, told=busy, **of_day), ours)) == 1
    assert found(hours(TEN), an_audit(TEN, told=busy, position=30, **of_day), ours) == []
    assert found(hours(TEN), an_audit(TEN, days=[DaySums("acme", day, TEN)]), ours) == [], "the history cannot say"


def test_of_what_the_history_has_found_the_meter_tells_the_hour_at_once() -> None:
    """A run whose rows do not add up to what it told: which hour lacks them is in the first alert, and comes first."""
    world = World()
    ledger = [*hours(TEN), LedgerState(RUN, TEN, TEN, hours_from=HOUR - 48)]
    world.view.merge(Snapshot(0, "p", 1, 50, 0, 0, True, 0, 1, [], [], ledger), 0)
    lacking = Difference("told ≠ history", RUN, {"events": [10, 9]}, 0, 5, 9, 25, 49)
    world.audits[0] = msgspec.structs.replace(an_audit(NINE), differences=[lacking])
    assert world.judge() == METERING_DRIFT
    assert world.last is not None
    assert world.last.data["key"] == f"{RUN}/hour=2026-11-21T12Z"
    assert world.last.data["offsets"] == [19, 30]
    assert [text.partition(":")[0] for text in world.last.data["listed"]] == ["meter ≠ history", "told ≠ history"]
