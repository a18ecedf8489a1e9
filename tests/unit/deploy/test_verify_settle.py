"""When `tollway verify` has seen enough: at rest and equal, at rest and different, or out of time."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from deploy.cli.compare import FIELDS
from deploy.cli.verify import SILENT_MS, STILL_S, Reading, as_object, as_text, away_of, reading, settle

KEY = "org=acme/day=2026-11-21"


class ManualClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        """Return the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


def accounts(events: int) -> list[dict[str, Any]]:
    """Return a ledger with one organisation, as services send it."""
    return [{"key": KEY, "totals": {**dict.fromkeys(FIELDS, 0), "events": events, "cost_nanos": 1_500_000_000}}]


def at(meter: int, stored: int, pending: int = 0, down: tuple[str, ...] = (), away: str = "") -> Reading:
    """Return a reading in which the meter and ClickHouse have so many events."""
    rows = [{**account, "told": None} for account in accounts(meter)]
    history = {"events": accounts(stored), "rollups": accounts(stored), "actors": accounts(stored), "hours": [],
               "hours_from": "2026-11-20T00Z"}  # fmt: skip
    return reading({"rows": rows, "hours": []}, history, pending, down, date(2026, 11, 21), away)


def settled(readings: list[Reading], timeout_s: float = 60) -> tuple[Reading, bool, float, list[str]]:
    """Return what `settle` makes of a sequence of readings, the last of which goes on for ever."""
    clock, said = ManualClock(), list[str]()
    left = iter(readings)
    last = readings[-1]
    found, quiet = settle(lambda: next(left, last), timeout_s, clock.read, clock.sleep, said.append)
    return found, quiet, clock.now_s, said


def test_equal_twice_is_enough() -> None:
    """At rest and equal: two readings, no waiting for the timeout."""
    found, quiet, took_s, said = settled([at(3, 3)])
    assert (found.agrees, quiet, said) == (True, True, [])
    assert took_s < 1


def test_waits_for_what_is_on_its_way_and_says_so() -> None:
    """Unsent events and a history that lags are waited for."""
    found, quiet, _, said = settled([at(1, 1, pending=2), at(3, 1), at(3, 2), at(3, 3)])
    assert (found.agrees, quiet) == (True, True)
    assert said[0] == "waiting: 2 events have not reached the broker"
    assert said[1] == f"waiting: {KEY}: events: meter 3, clickhouse 1, rollups 1, actors 1"


def test_a_difference_that_stands_still_is_one() -> None:
    """Nothing moves and the ledgers differ: reported long before the timeout, with exit code 1."""
    found, quiet, took_s, _ = settled([at(3, 2)])
    assert (found.agrees, quiet) == (False, True)
    assert STILL_S <= took_s < 2 * STILL_S
    assert (
        as_object(found, quiet, took_s)["first_difference"]
        == f"{KEY}: events: meter 3, clickhouse 2, rollups 2, actors 2"
    )


def test_a_replica_that_is_down_may_have_more() -> None:
    """Equal ledgers prove nothing while a replica with a log of its own does not answer."""
    found, quiet, took_s, said = settled([at(3, 3, down=("ingress-1",))], timeout_s=20)
    assert (found.agrees, quiet) == (False, False)
    assert took_s >= 20
    assert said[0] == "waiting: ingress-1 does not answer"
    assert "NOT AT REST: ingress-1 does not answer" in as_text(found, quiet)


def test_a_difference_is_none_while_somebody_is_away() -> None:
    """With the meter being started again, ledgers that stand still may yet agree; equal ones agree without it."""
    away = at(2, 3, away="the meter publishes nothing")
    found, quiet, took_s, said = settled([*[away] * 100, at(3, 3)])
    assert (found.agrees, quiet) == (True, True)
    assert took_s > 2 * STILL_S
    assert set(said) == {"waiting: the meter publishes nothing"}
    found, quiet, took_s, _ = settled([away], timeout_s=20)
    assert (found.agrees, quiet) == (False, False)
    assert took_s >= 20
    assert settled([at(3, 3, away="the meter publishes nothing")])[:2] == (
        at(3, 3, away="the meter publishes nothing"), True,
    )  # fmt: skip


def test_who_is_away_is_told_by_status() -> None:
    """A partition without a recent snapshot names the meter, a history that waits itself."""
    fresh, stale, unknown = ({"staleness_ms": age} for age in (SILENT_MS, SILENT_MS + 1, None))
    stored = {"waiting": list[str]()}
    assert away_of({"partitions": [fresh, fresh]}, stored) == ""
    assert away_of({"partitions": [fresh, stale]}, stored) == "the meter publishes nothing"
    assert away_of({"partitions": [unknown]}, stored) == "the meter publishes nothing"
    waits = {"waiting": ["partitions of the log"]}
    assert away_of({"partitions": [fresh]}, waits) == "the history waits for partitions of the log"


def test_traffic_that_never_ends_is_said_at_the_timeout() -> None:
    """A loop that keeps moving is neither right nor wrong."""
    found, quiet, _, _ = settled([at(number + 1, number) for number in range(500)], timeout_s=10)
    assert (found.agrees, quiet) == (False, False)
    assert "did not come to rest within the timeout" in as_text(found, quiet)


def test_the_result_as_text_and_json() -> None:
    """Agreeing keys are one line, differing ones a line for each ledger, and JSON has every sum."""
    good, bad = at(3, 3), at(3, 2)
    assert as_text(good, quiet=True).splitlines()[-1] == "all ledgers agree on 1 keys"
    assert "meter = clickhouse = rollups = actors" in as_text(good, quiet=True)
    assert "1.50 USD" in as_text(good, quiet=True)
    assert as_text(bad, quiet=True).count("DIFFERS") == 4
    found = json.loads(json.dumps(as_object(good, True, 0.5)))
    assert found["ok"] is True
    assert found["organisations"]["meter"]["events"] == 3
    assert found["keys"][0]["clickhouse"]["cost_nanos"] == 1_500_000_000


def test_no_usage_is_in_order() -> None:
    """An unused deployment agrees with itself."""
    nothing = {"events": [], "rollups": [], "actors": [], "hours": [], "hours_from": "2026-11-20T00Z"}
    empty = reading({"rows": [], "hours": []}, nothing, 0, (), date(2026, 11, 21))
    assert empty.agrees
    assert as_text(empty, quiet=True) == "no usage yet"


def test_an_hour_that_differs_is_what_is_named() -> None:
    """The hour comes before its run; hours that agree are counted, and not shown."""
    run, noon, one = "instance=ingress-1/epoch=7", "/hour=2026-11-21T12Z", "/hour=2026-11-21T13Z"
    few, more = ({**dict.fromkeys(FIELDS, 0), "events": events} for events in (4, 5))
    rows = [{"key": run, "totals": more, "told": more, "hours_from": "2026-11-19T12Z"}]
    history = {"events": [{"key": run, "totals": few}], "rollups": [], "actors": [], "hours_from": "2026-11-20T00Z",
               "hours": [{"key": run + noon, "totals": few}, {"key": run + one, "totals": few}]}  # fmt: skip
    hours = [{"key": run + noon, "totals": more}, {"key": run + one, "totals": few}]
    found = reading({"rows": rows, "hours": hours}, history, 0, (), date(2026, 11, 21))
    assert as_object(found, True, 0)["first_difference"] == f"{run}{noon}: events: meter 5, clickhouse 4"
    assert as_object(found, True, 0)["instances"]["meter"]["events"] == 5
    assert [noon in (text := as_text(found, True)), one in text] == [True, False]
