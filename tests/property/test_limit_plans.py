"""Laws of limits over time: constant between the moments they name, through every shift of clocks, whole numbers."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ingress.core.limits import LimitPlan, plan_of
from schemas.overrides import Increase
from schemas.schedules import DAYS, Schedule

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Havana")
START_S = 1_767_225_600  # 2026-01-01T00:00:00Z
YEAR_S = 366 * 86_400
moments = st.integers(START_S, START_S + YEAR_S)
shifts = st.sampled_from(
    [1_774_746_000, 1_792_890_000, 1_772_953_200, 1_793_512_800, 1_775_314_800, 1_791_043_200]
)  # Berlin, New York, Lord Howe: when their clocks change in 2026
near_shifts = st.builds(int.__add__, shifts, st.integers(-100_000, 100_000))
clock = st.integers(0, 24 * 60 - 1)


def _text(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


@st.composite
def weekly(draw: st.DrawFn) -> Schedule:
    """Return a schedule on days of the week."""
    begins = draw(clock)
    ends = draw(st.integers(1, 24 * 60).filter(lambda at: at != begins))
    return Schedule.model_validate(
        {
            "name": "s", "rules": ["r"], "multiply": draw(st.sampled_from([0, 33, 50, 150, 300])),
            "days": sorted(draw(st.sets(st.sampled_from(DAYS), min_size=1))), "from": _text(begins), "to": _text(ends),
            "timezone": draw(st.sampled_from(ZONES)),
        }
    )  # fmt: skip


@st.composite
def dated(draw: st.DrawFn) -> Schedule:
    """Return a schedule of one event."""
    begins_s = draw(moments)
    ends_s = begins_s + draw(st.integers(1, 10**7))
    zone = ZoneInfo(draw(st.sampled_from(ZONES)))
    start, end = (datetime.fromtimestamp(at_s, zone).isoformat() for at_s in (begins_s, ends_s))
    return Schedule.model_validate({"name": "s", "rules": ["r"], "multiply": 250, "start": start, "end": end})


@st.composite
def increases(draw: st.DrawFn) -> Increase:
    """Return an increase for all of an organisation or for one team."""
    created_ms = draw(moments) * 1000 + draw(st.integers(0, 999))
    scope = draw(st.sampled_from(["org=acme", "org=acme,team=search", "org=other"]))
    percent, amount = draw(st.sampled_from([(20, 0), (0, 7)]))
    expires_ms = created_ms + draw(st.integers(1, 10**10))
    return Increase("i", "r", scope, "why", "ann", "bob", created_ms, expires_ms, percent, amount)


plans = st.tuples(
    st.integers(0, 10**12), st.lists(st.one_of(weekly(), dated()), max_size=3), st.lists(increases(), max_size=3)
)


@given(plans, st.one_of(moments, near_shifts), st.data())
def test_a_limit_is_constant_until_the_moment_it_names(
    parts: tuple[int, list[Schedule], list[Increase]], at_s: int, data: st.DataObject
) -> None:
    """Whatever was asked before, and in whatever order."""
    plan = LimitPlan(*parts)
    limit, until_s = plan.limit_at("org=acme,team=search", at_s)
    assert until_s > at_s
    assert limit >= 0
    last_s = min(until_s - 1, at_s + 10**7)
    for later_s in (at_s, last_s, data.draw(st.integers(at_s, last_s))):
        found, holds_until_s = LimitPlan(*parts).limit_at("org=acme,team=search", later_s)
        assert found == limit
        assert holds_until_s >= until_s or holds_until_s > last_s
        assert plan.limit_at("org=acme,team=search", later_s)[0] == limit
    assert plan.limit_at("org=acme,team=search", at_s)[0] == limit


@given(weekly(), st.one_of(moments, near_shifts))
@example(
    Schedule.model_validate({"name": "s", "rules": ["r"], "multiply": 50, "from": "02:30", "to": "03:30",
                             "timezone": "Europe/Berlin"}), 1_774_746_000)  # fmt: skip
def test_a_weekly_schedule_is_in_force_when_the_clock_on_the_wall_says_so(schedule: Schedule, at_s: int) -> None:
    """Except near a shift, where the same wall time may come twice or never."""
    zone = ZoneInfo(schedule.timezone)
    local = datetime.fromtimestamp(at_s, zone)
    offsets = {datetime.fromtimestamp(at_s + hours * 3600, zone).utcoffset() for hours in range(-50, 51)}
    assume(len(offsets) == 1)
    minute, length = local.hour * 60 + local.minute, (schedule.to - schedule.from_ - 1) % 1440 + 1
    since = (minute - schedule.from_) % 1440
    begun = (local - timedelta(minutes=since)).date()
    wanted = since < length and DAYS[begun.weekday()] in schedule.days
    assert schedule.at(at_s)[0] is wanted


@settings(max_examples=40)
@given(weekly(), near_shifts)
def test_a_weekly_schedule_names_every_moment_at_which_it_begins_or_ends(schedule: Schedule, at_s: int) -> None:
    """Going from one named moment to the next misses none: every five minutes the same is found."""
    state, until_s = schedule.at(at_s)
    for later_s in range(at_s, at_s + 4 * 3600, 300):
        if later_s >= until_s:
            state, until_s = schedule.at(later_s)
        assert schedule.at(later_s)[0] is state


@given(st.integers(0, 10**15), st.lists(weekly(), max_size=4), moments)
def test_schedules_multiply_without_losing_by_turns(base: int, schedules: list[Schedule], at_s: int) -> None:
    """One division at the end, in any order."""
    limit, _ = LimitPlan(base, schedules, []).limit_at("org=acme", at_s)
    assert limit == LimitPlan(base, schedules[::-1], []).limit_at("org=acme", at_s)[0]
    wanted, divisor = base, 1
    for schedule in schedules:
        if schedule.at(at_s)[0]:
            wanted, divisor = wanted * schedule.multiply, divisor * 100
    assert limit == wanted // divisor


@given(st.integers(0, 10**9), st.lists(increases(), max_size=3), moments)
def test_increases_add_up_where_they_are_about_the_scope(base: int, found: list[Increase], at_s: int) -> None:
    """From their first second until the one in which they expire."""
    for scope in ("org=acme", "org=acme,team=search", "org=acme,team=ml", "org=other,team=search"):
        wanted = base
        for increase in found:
            about = all(pair in scope.split(",") for pair in increase.scope.split(","))
            if about and increase.created_ms // 1000 <= at_s < increase.expires_ms // 1000:
                wanted += base * increase.percent // 100 + increase.amount
        assert LimitPlan(base, [], found).limit_at(scope, at_s)[0] == wanted


def test_a_limit_that_never_changes_needs_no_plan() -> None:
    """Rules that no schedule and no increase is about cost nothing."""
    schedule = Schedule.model_validate({"name": "s", "rules": ["other"], "multiply": 50})
    increase = Increase("i", "other", "org=acme", "", "a", "b", 0, 1)
    assert plan_of("r", 5, [schedule], [increase]) is None
    assert plan_of("other", 5, [schedule], []) is not None
    assert plan_of("other", 5, [], [increase]) is not None
