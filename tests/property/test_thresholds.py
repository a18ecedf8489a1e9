"""Laws of thresholds: once a window, whatever the order, the repetition, the restarts and the amounts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enforcer.core.quota import QuotaView
from enforcer.core.thresholds import crossings
from schemas.quota import RowState, Snapshot
from tests.unit.enforcer.enforcer_parts import (
    LAST_MONTH,
    MONTH,
    NOW_MS,
    USD,
    row,
    spends,
    with_amount,
)

THRESHOLDS = (50, 80, 100)
rows = st.builds(
    row,
    st.integers(0, 150 * USD),
    st.sampled_from(["search", "ml"]),
    st.sampled_from([MONTH, LAST_MONTH]),
)


@given(st.lists(rows, max_size=12), st.data())
def test_each_threshold_is_sent_once_and_all_that_were_reached_are_sent(
    states: list[RowState], data: st.DataObject
) -> None:
    """Whatever rows are judged, in batches of any size, with repetitions: the union of what they reach, each once."""
    sent: list[str] = []
    index = 0
    while index < len(states):
        count = data.draw(st.integers(1, 4))
        batch = [*states[index : index + count], *data.draw(st.lists(st.sampled_from(states), max_size=2))]
        sent += [alert.id for alert in crossings(spends(*batch), set(sent), 1, NOW_MS)]
        index += count
    reached = {
        (state.row, percent)
        for state in states
        for percent in THRESHOLDS
        if state.settled and state.settled * 100 >= percent * 100 * USD
    }
    assert len(sent) == len(set(sent)) == len(reached)


@given(st.lists(rows, min_size=1, max_size=8), st.permutations(range(8)))
def test_the_order_of_rows_makes_no_difference(states: list[RowState], order: list[int]) -> None:
    """The ids that are sent depend on the set of rows alone."""
    shuffled = [states[index] for index in order if index < len(states)]
    one = {alert.id for alert in crossings(spends(*states), (), 1, NOW_MS)}
    other = {alert.id for alert in crossings(spends(*shuffled), (), 1, NOW_MS)}
    assert one == other


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300)), min_size=1, max_size=10))
def test_changes_of_the_amount_never_send_a_threshold_twice(steps: list[tuple[int, int]]) -> None:
    """Amounts go up and down while the spend grows: a window has at most one alert a threshold."""
    sent: list[str] = []
    settled = 0
    for amount_usd, spent_usd in steps:
        settled += spent_usd * USD
        due = crossings(spends(row(settled), text=with_amount(f"{amount_usd} USD")), set(sent), 1, NOW_MS)
        sent += [alert.id for alert in due]
        reached = [percent for percent in THRESHOLDS if settled and settled * 100 >= percent * amount_usd * USD]
        assert len(set(sent)) == len(sent) >= len(reached)
    assert len(sent) <= len(THRESHOLDS)


snapshots = st.builds(
    lambda fence, states, full, number: Snapshot(
        0, "run", number, fence, 0, 0, full, 0, 1, [], [RowState(state.row, fence, 0, 0) for state in states], []
    ),
    st.integers(1, 6),
    st.lists(rows, max_size=3, unique_by=lambda state: state.row),
    st.just(False),
    st.integers(1, 3),
)


@given(st.lists(snapshots, max_size=8), st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=4))
def test_rows_do_not_depend_on_the_order_or_repetition_of_snapshots(
    written: list[Snapshot], order: list[int], repeated: list[int]
) -> None:
    """Merging by fence: any delivery of the same snapshots gives the same rows."""

    def merged(delivered: list[Snapshot]) -> dict[str, int]:
        view = QuotaView(1)
        for snapshot in delivered:
            view.merge(snapshot, 0)
        return {held.state.row: held.state.settled for held in view.rows()}

    shuffled = [written[index] for index in [*order, *repeated] if index < len(written)]
    assert merged(written) == merged(shuffled)
