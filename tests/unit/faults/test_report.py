"""The report of `make test-faults`: sums over schedules, and what was never reached."""

from __future__ import annotations

import math

from tests.faults.account import Findings
from tests.faults.faults import Outcome
from tests.faults.report import problems, progress, report
from tests.faults.schedule import Act, Schedule
from tests.faults.session import Result

CRASH = Act("crash", "meter", 1.0, point="meter.folded:3")
KILL = Act("kill", "ingress-1", 1.0)


def _result(seed: int, act: Act, *, reached: bool = True, lost: int = 0, recovery_s: float = 1.0) -> Result:
    found = Findings(lost=[f"n{number}" for number in range(lost)])
    return Result(Schedule(seed, (act,)), [Outcome(act, 2, reached)], found, 10, 9, 9, 10, [], recovery_s, 3.0)


def test_sums_kills_losses_and_recovery_times() -> None:
    """Recovery times are of schedules that did recover; a failure names its seed."""
    found = report([_result(1, KILL), _result(2, KILL, recovery_s=3.0), _result(3, CRASH, lost=2)], 1, 9.0)
    assert (found["runs"], found["kills"], found["lost"], found["failed_seeds"]) == (3, 6, 2, [3])
    assert found["recovery_s"] == {"p50": 2.0, "max": 3.0}
    assert found["faults"]["kill/ingress"]["recovery_s"]["max"] == 3.0
    assert math.isclose(found["seconds"], 9.0)


def test_a_place_that_was_never_reached_is_told() -> None:
    """A crash that did not happen is no proof; once is enough, however often it was not reached besides."""
    missed, hit = _result(1, CRASH, reached=False), _result(2, CRASH)
    assert report([missed], 1, 1.0)["not_reached"] == {"crash/meter.folded": 1}
    assert report([missed, hit], 1, 1.0)["not_reached"] == {}


def test_every_place_is_listed_with_its_deaths() -> None:
    """A reader sees which marked steps were hit, and which were not."""
    places = report([_result(1, CRASH), _result(2, CRASH), _result(3, CRASH, reached=False)], 1, 1.0)["places"]
    assert (places["meter.folded"], places["sink.inserted"]) == (2, 0)


def test_what_a_machine_does_not_allow_is_told() -> None:
    """A fault that was left out is not one that was withstood."""
    result = _result(5, Act("no-room", "ingress-1", 1.0))
    result.outcomes[0].skipped = "no tmpfs"
    found = report([result], 1, 1.0)
    assert found["skipped"] == {"no-room/ingress": {"times": 1, "because": "no tmpfs"}}
    assert found["faults"]["no-room/ingress"]["reached"] == 0
    assert not found["not_reached"]
    assert "SKIPPED: no-room/ingress" in progress(result, 1, 1)


def test_a_failure_says_how_to_have_it_again() -> None:
    """Every loss is named, and the command that repeats the schedule."""
    lines = problems(_result(7, KILL, lost=9))
    assert lines[0] == "LOST: n0"
    assert "and 1 more" in lines
    assert lines[-1].endswith("RUNS=1 SEED=7")
