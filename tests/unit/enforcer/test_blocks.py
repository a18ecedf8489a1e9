"""Blocks: from used up to lifted, by the row of the window that holds now and by nothing else."""

from __future__ import annotations

import pytest

from enforcer.core.blocks import Absent, Transition, transitions
from enforcer.core.budgets import Budgets, Spend
from schemas.blocks import BlockEntry
from schemas.overrides import Increase
from schemas.quota import RowState
from schemas.rows import parse_row_key
from tests.unit.enforcer.enforcer_parts import (
    DOCUMENT,
    LAST_MONTH,
    MONTH,
    NOW_MS,
    USD,
    policy,
    row,
    spend,
    spends,
    with_amount,
)

KEY = "team-month/org=acme,team=search"


def _judge(
    *states: RowState, text: str = DOCUMENT, blocks: dict[str, BlockEntry] | None = None, now_ms: int = NOW_MS,
    absent: Absent = Absent.NONE,
) -> list[Transition]:  # fmt: skip
    def look(rule: str, scope: str) -> Spend | Absent:
        found = (spend(state, text) for state in states if f"/{scope}/{MONTH}" in state.row)
        return next((each for each in found if each is not None), absent)

    return transitions(spends(*states, text=text), blocks or {}, look, 4, now_ms)


def _blocked(settled: int = 100 * USD) -> dict[str, BlockEntry]:
    entry = _judge(row(settled))[0].entry
    assert entry is not None
    return {KEY: entry}


def test_a_used_up_budget_is_blocked_until_its_window_ends() -> None:
    """Equal is used up; the entry says limit, use, window and until when."""
    assert _judge(row(100 * USD - 1)) == []
    entry = _blocked()[KEY]
    assert (entry.limit, entry.used, entry.until_s, entry.since_ms) == (100 * USD, 100 * USD, MONTH.end, NOW_MS)
    assert (entry.key, entry.reason, entry.policy_version) == (KEY, "budget_exhausted", 4)


def test_a_block_is_written_once_however_the_spend_goes_on() -> None:
    """Only a changed limit or window is worth another record."""
    assert _judge(row(130 * USD), blocks=_blocked()) == []
    again = _judge(row(130 * USD), text=with_amount("120 USD"), blocks=_blocked())
    assert [change.entry.limit for change in again if change.entry] == [120 * USD]


def test_the_end_of_the_window_lifts_it() -> None:
    """At the last millisecond it stands, at the end it goes."""
    assert _judge(row(100 * USD), blocks=_blocked(), now_ms=MONTH.end * 1000 - 1) == []
    assert _judge(row(100 * USD), blocks=_blocked(), now_ms=MONTH.end * 1000) == [Transition(KEY, None)]


def test_a_higher_amount_or_a_removed_budget_lifts_it() -> None:
    """Whatever the policy in force no longer refuses is free."""
    assert _judge(row(100 * USD), text=with_amount("101 USD"), blocks=_blocked()) == [Transition(KEY, None)]
    assert _judge(row(100 * USD), text=DOCUMENT.replace("team-month", "x"), blocks=_blocked()) == [
        Transition(KEY, None)
    ]


def test_a_late_row_of_an_older_window_neither_blocks_nor_lifts() -> None:
    """Last month's spend says nothing about this month."""
    assert _judge(row(900 * USD, window=LAST_MONTH)) == []
    assert _judge(row(1, window=LAST_MONTH), row(100 * USD), blocks=_blocked()) == []


def test_a_block_stays_while_the_rows_are_not_known() -> None:
    """At a start without a full snapshot, not knowing the spend is no reason to lift."""
    assert _judge(blocks=_blocked(), absent=Absent.UNKNOWN) == []
    assert _judge(blocks=_blocked(), absent=Absent.NONE) == [Transition(KEY, None)]
    ended = _judge(blocks=_blocked(), absent=Absent.UNKNOWN, now_ms=MONTH.end * 1000)
    assert ended == [Transition(KEY, None)], "time needs no rows"


@pytest.mark.parametrize(
    "more",
    [
        "mode: soft", "mode: shadow", "ladder: {100%: queue}", "ladder: {90%: warn, 100%: downgrade}", "grace: 5%",
        "carry_over: 50%", "final_unit: downgrade",
    ],
)  # fmt: skip
def test_a_scope_that_may_go_on_beyond_the_amount_is_never_blocked(more: str) -> None:
    """A block would refuse what the rule lets through; its rows hold it request by request. A block there is lifted."""
    text = DOCUMENT.replace("period: month,", f"period: month, {more},")
    assert _judge(row(100 * USD), text=text) == []
    assert _judge(row(100 * USD), text=text, blocks=_blocked()) == [Transition(KEY, None)]
    warned = DOCUMENT.replace("period: month,", "period: month, ladder: {80%: warn, 100%: block},")
    assert len(_judge(row(100 * USD), text=warned)) == 1


def test_a_schedule_or_an_increase_leaves_the_limit_to_the_rows() -> None:
    """While the amount is not all there is, nothing is blocked; once an increase has expired, it is again."""
    scheduled = (
        DOCUMENT + "schedules: [{name: nights, rules: [team-month], multiply: 150%, from: '22:00', to: '06:00'}]\n"
    )
    assert _judge(row(100 * USD), text=scheduled) == []
    until_ms = NOW_MS + 1_000
    increase = Increase("i", "team-month", "org=acme,team=search", "launch", "ada", "bob", NOW_MS, until_ms, percent=10)
    index = Budgets(policy(), {"i": increase})
    states = [row(100 * USD), row(100 * USD, team="ml")]
    found = [index.spend(parse_row_key(state.row), state) for state in states]
    known = [each for each in found if each is not None]
    assert [change.key for change in transitions(known, {}, lambda *_: Absent.NONE, 4, NOW_MS)] == [
        "team-month/org=acme,team=ml"
    ]
    assert len(transitions(known, {}, lambda *_: Absent.NONE, 4, until_ms)) == 2


def test_a_correction_that_leaves_room_lifts_the_block() -> None:
    """Settled below the amount is free again; at the amount it is blocked again, with the same window's end."""
    blocks = _blocked()
    assert _judge(row(100 * USD - 1), blocks=blocks) == [Transition(KEY, None)]
    (again,) = _judge(row(100 * USD), blocks={})
    assert again.entry is not None
    assert again.entry.until_s == blocks[KEY].until_s
