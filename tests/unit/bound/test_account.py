"""The accounting of `make test-bound`: it finds what is above a limit, unused, refused too early or not booked."""

from __future__ import annotations

import dataclasses

import pytest

from tests.bound.account import (
    MINUTE_MS,
    Booked,
    Outcome,
    Told,
    admitted,
    by_run,
    early_refusals,
    failures,
    limit_used_min,
    outcome,
    overlap,
    report,
)
from tests.bound.scenario import HEALTHY, Run, make_run
from tests.bound.witness import Served


def _run(dimension: str = "rpm", pattern: str = "even", size: str = "small", fault: str = HEALTHY) -> Run:
    return dataclasses.replace(make_run(1, dimension, pattern, size, fault), limit=100)


def _served(count: int, at_ms: int = 0, tokens: int = 10, name: str = "r001-rpm-even-small") -> list[Served]:
    return [Served(f"{name}.{number}", at_ms, at_ms + 200, 0, tokens) for number in range(count)]


def _outcome(run: Run, amount: int) -> Outcome:
    return Outcome(run, Told(admitted=amount, refused=10), amount, amount)


def _booked(each: Outcome, **fields: int) -> dict[str, Booked]:
    return {each.run.name: Booked(**{"settled": each.served, "requests": each.served, "windows": 1, **fields})}


def test_requests_and_tokens_count_by_the_minute_of_arrival() -> None:
    """Two minutes of requests are two windows; the worse of them is what was admitted."""
    served = _served(60, at_ms=MINUTE_MS - 1) + _served(50, at_ms=MINUTE_MS)
    assert admitted("rpm", served) == 60
    assert admitted("tpm", served) == 600


def test_money_counts_over_the_whole_run() -> None:
    """A minute's end does not divide money: input and output are priced as the policy of the runs has it."""
    served = [Served("a.1", 0, 1, 64, 100), Served("a.2", 3 * MINUTE_MS, 1, 64, 200)]
    assert admitted("money", served) == 2 * 64 * 150 + 300 * 600


def test_overlap_is_the_most_at_once() -> None:
    """What ends in the millisecond in which another begins was not there together with it."""
    served = [Served("a", start, end, 0, 0) for start, end in ((0, 10), (5, 20), (10, 15), (20, 30))]
    assert overlap(served) == 2
    assert overlap([]) == 0


def test_requests_belong_to_the_run_in_their_nonce() -> None:
    """The name is what stands before the last dot."""
    found = by_run(_served(2) + _served(1, name="r002-tpm-one-large"))
    assert {name: len(served) for name, served in found.items()} == {"r001-rpm-even-small": 2, "r002-tpm-one-large": 1}


def test_one_request_above_the_limit_is_a_failure_under_every_fault() -> None:
    """A limit is exceeded by a single request more than it allows, whatever was broken."""
    for fault in (HEALTHY, "broker-frozen"):
        run = _run(fault=fault)
        over = outcome(run, Told(admitted=101), _served(101))
        assert over.over == pytest.approx(0.01)
        (line,) = failures([over], _booked(over))
        assert "101 admitted, the limit is 100" in line
        exact = outcome(run, Told(admitted=100), _served(100))
        assert failures([exact], _booked(exact)) == []
        assert exact.over == 0


def test_overlap_above_a_cap_on_requests_at_once_is_a_failure() -> None:
    """For concurrency the limit is held against the largest overlap, not against the number of requests."""
    run = _run("concurrency")
    served = [request for number in range(3) for request in _served(100, at_ms=1000 * number)]
    fits = outcome(run, Told(admitted=300), served)
    assert fits.admitted == 100
    assert failures([fits], _booked(fits)) == []
    over = outcome(run, Told(admitted=301), [*served, *_served(1, at_ms=1199)])
    assert failures([over], _booked(over)) != []


@pytest.mark.parametrize(
    ("pattern", "size", "least"),
    [("even", "small", 98), ("one", "small", 95), ("even", "large", 90), ("one", "large", 90)],
)
def test_each_class_has_its_target_while_nothing_is_broken(pattern: str, size: str, least: int) -> None:
    """At the target a healthy run passes, below it fails; a run through a fault has no such target."""
    enough, short = _outcome(_run("rpm", pattern, size), least), _outcome(_run("rpm", pattern, size), least - 1)
    assert failures([enough], _booked(enough)) == []
    assert len(failures([short], _booked(short))) == 1
    broken = _outcome(_run("rpm", pattern, size, "meter-killed"), least - 1)
    assert failures([broken], _booked(broken)) == []


def test_early_refusals_are_told_of_runs_in_which_nothing_is_broken() -> None:
    """A refusal below 90 % of the limit is told of a healthy run, and not of one through a fault."""
    healthy, broken = _outcome(_run(), 100), _outcome(_run(fault="broker-killed"), 100)
    (line,) = early_refusals([healthy], _booked(healthy, refusals=7, false_refusals=1, lowest_percent=42))
    assert "1 of 7 refusals" in line
    assert "42 %" in line
    assert early_refusals([healthy], _booked(healthy, refusals=7, late_refusals=7)) == []
    assert early_refusals([broken], _booked(broken, refusals=7, false_refusals=7)) == []


def test_what_the_history_lacks_is_a_failure() -> None:
    """An answer that a client received or the provider gave, and that is not booked, fails a run."""
    each = _outcome(_run(), 100)
    assert failures([each], _booked(each, requests=99)) != []
    assert failures([each], _booked(each, settled=99)) != []
    assert len(failures([each], {})) == 2


def test_a_run_without_any_answer_and_unknown_answers_are_failures() -> None:
    """A harness that reaches nothing does not pass, nor one that is told what nobody expects."""
    assert any("nothing was admitted" in line for line in failures([_outcome(_run(fault="broker-killed"), 0)], {}))
    strange = Outcome(_run(), Told(admitted=100, other={401: 1}), 100, 100)
    assert any("401" in line for line in failures([strange], _booked(strange)))


def test_the_report_separates_healthy_runs_from_those_through_faults() -> None:
    """The least used part is of healthy runs by class; each fault has figures of its own; the worst is above all."""
    outcomes = [_outcome(_run(), 99), _outcome(_run(), 98), _outcome(_run(fault="replica-killed"), 103)]
    booked = _booked(outcomes[0], false_refusals=2)
    found = report(outcomes, booked, {"concurrency": "unknown"}, seed=5, seconds=1.26)
    assert limit_used_min(outcomes[:2]) == {"rpm/even/small": 0.98}
    assert found == {
        "runs": 3, "over_limit_max": 0.03, "limit_used_min": {"rpm/even/small": 0.98}, "false_refusals": 4,
        "faults": {"replica-killed": {"runs": 1, "over_limit_max": 0.03, "limit_used_min": {"rpm/even/small": 1.03}}},
        "skipped": {"concurrency": "unknown"}, "seed": 5, "seconds": 1.3,
    }  # fmt: skip
