"""Laws of blocks: the entries are exactly the used-up scopes of the windows that hold now, and come and go once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enforcer.core.blocks import Absent, transitions
from enforcer.core.budgets import Budgets, Spend
from schemas.blocks import BlockEntry
from schemas.quota import RowState
from schemas.rows import parse_row_key
from schemas.windows import Period, Window, window_at
from tests.unit.enforcer.enforcer_parts import NOW_S, USD, policy, row, with_amount

TEAMS = ("search", "ml")
AMOUNTS = ("50 USD", "100 USD", "200 USD")
BUDGETS = {amount: Budgets(policy(with_amount(amount))) for amount in AMOUNTS}

steps = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), st.sampled_from(TEAMS), st.integers(0, 80)),
        st.tuples(st.just("late"), st.sampled_from(TEAMS), st.integers(0, 300)),
        st.tuples(st.just("repeat"), st.just(""), st.just(0)),
        st.tuples(st.just("amount"), st.sampled_from(AMOUNTS), st.just(0)),
        st.tuples(st.just("days"), st.just(""), st.integers(1, 40)),
    ),
    max_size=14,
)


class World:
    """Rows, clock and policy, and the blocks that the transitions made of them."""

    def __init__(self) -> None:
        self.now_s, self.amount = NOW_S, "100 USD"
        self.rows: dict[str, RowState] = {}
        self.blocks: dict[str, BlockEntry] = {}
        self.changes: list[tuple[str, bool]] = []

    @property
    def window(self) -> Window:
        """The window that holds now."""
        return window_at(Period.MONTH, "UTC", self.now_s)

    def put(self, team: str, more_usd: int, window: Window) -> None:
        """Add to the spend of a team in a window."""
        key = row(0, team, window).row
        known = self.rows.get(key)
        self.rows[key] = row((known.settled if known else 0) + more_usd * USD, team, window)

    def judge(self) -> int:
        """Apply what has to change; return how much that was."""
        budgets = BUDGETS[self.amount]

        def look(rule: str, scope: str) -> Spend | Absent:
            state = self.rows.get(budgets.row_now(rule, scope, self.now_s) or "")
            found = None if state is None else budgets.spend(parse_row_key(state.row), state)
            return Absent.NONE if found is None else found

        spends = [budgets.spend(parse_row_key(state.row), state) for state in self.rows.values()]
        due = transitions([each for each in spends if each], self.blocks, look, 1, self.now_s * 1000)
        for change in due:
            known = self.blocks.pop(change.key, None)
            if change.entry is not None:
                self.blocks[change.key] = change.entry
            if (known is None) != (change.entry is None):
                self.changes.append((change.key, change.entry is not None))
        return len(due)

    def used_up(self) -> set[str]:
        """Return the keys that should be blocked."""
        limit = BUDGETS[self.amount].by_name["team-month"].amount
        return {
            f"team-month/org=acme,team={team}"
            for team in TEAMS
            if (state := self.rows.get(row(0, team, self.window).row)) is not None and state.settled >= limit
        }


@given(steps)
def test_blocks_are_the_used_up_scopes_after_every_step(path: list[tuple[str, str, int]]) -> None:
    """Spend, late spend of old windows, repetition, changed amounts, passing time: nothing more, nothing less."""
    world = World()
    for kind, name, number in path:
        if kind == "spend":
            world.put(name, number, world.window)
        elif kind == "late":
            world.put(name, number, window_at(Period.MONTH, "UTC", world.window.start - 1))
        elif kind == "amount":
            world.amount = name
        elif kind == "days":
            world.now_s += number * 86_400
        world.judge()
        assert set(world.blocks) == world.used_up()
        assert all(entry.until_s == world.window.end for entry in world.blocks.values())
        assert world.judge() == 0, "judging again changes nothing"
    for key in {key for key, _ in world.changes}:
        story = [blocked for changed, blocked in world.changes if changed == key]
        assert story == [index % 2 == 0 for index in range(len(story))], "blocked, lifted, blocked, … in turn"
