"""Laws of answers about batches: whatever happens in whichever order, nobody has all of one that is not on the log."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.core import lines
from ingress.core.accounts import AccountExchange
from schemas.attempts import Drain
from schemas.batches import LinesSeen, line_id
from tests.unit.ingress.playbook import NOW, FakePlan
from tests.unit.ingress.test_accounts import TEXT, Account, batch
from tests.unit.ingress.test_batches_read import CHAT, line

FILE = [line(CHAT, custom_id=str(at)) + b"\n" for at in range(7)]
ACTIONS = st.sampled_from(["data", "data", "data", "end", "told", "told", "lost", "gone", "fault", "over", "written"])
ENDS = ["end", "told", "told", "told", "told", "over", "written"]


class World:
    """A file of results, or a batch, on its way to a client; it has seven lines, two a record."""

    def __init__(self, is_file: bool, drains: bool) -> None:
        plan = FakePlan()
        plan.drain = Drain() if drains else None
        self.is_file = is_file
        self.pieces = list(FILE) if is_file else [batch()[:40], batch()[40:]]
        self.whole = b"".join(self.pieces)
        path = b"/v1/files/f/content" if is_file else b"/v1/batches/batch_abc123"
        self.account = Account(b"GET", path, plan=plan)
        self.is_over = self.is_gone = self.is_written = False
        self.answered: list[bool] = []
        kind = TEXT if is_file else [(b"content-type", b"application/json")]
        self.account.exchange.provider_head(200, kind, NOW)

    def do(self, action: str) -> None:
        """Do what is possible of an action."""
        exchange, account = self.account.exchange, self.account
        assert isinstance(exchange, AccountExchange)
        is_cancelled = ("cancel",) in account.effects or self.is_over
        if action == "data" and self.pieces and not is_cancelled:
            exchange.provider_data(self.pieces.pop(0), NOW)
        elif action == "end" and not is_cancelled:
            while self.pieces:
                exchange.provider_data(self.pieces.pop(0), NOW)
                if ("cancel",) in account.effects:
                    return
            self.is_over = True
            account.is_on_its_way = False
            exchange.provider_end(NOW)
        elif action == "fault" and not is_cancelled:
            self.is_over = True
            exchange.provider_fault("reset", True, "", NOW)
        elif action in ("told", "lost") and len(self.answered) < len(account.sightings):
            self.answered.append(action == "told")
            exchange.told(action == "told", NOW)
        elif action == "gone" and not self.is_gone:
            self.is_gone = True
            exchange.client_gone(NOW)
        elif action == "over":
            exchange.drain_over(NOW)
        elif action == "written" and "terminal" in account.names and not self.is_written:
            self.is_written = True
            exchange.terminal_recorded()
        self.check()

    def check(self) -> None:
        """What is true after each step."""
        account = self.account
        has_all = account.client_has() == self.whole and {"end", "whole"} & set(account.names)
        if has_all:
            assert self.answered == [True] * len(account.sightings)
            if self.is_file:
                assert account.lines == [line_id(str(at)) for at in range(len(FILE))]
            else:
                assert len(account.sightings) == 1
        if False in self.answered:
            assert not has_all
        assert account.names.count("terminal") <= 1


@given(is_file=st.booleans(), drains=st.booleans(), actions=st.lists(ACTIONS, max_size=25))
@settings(max_examples=300)
def test_nobody_has_all_of_what_is_not_on_the_log(is_file: bool, drains: bool, actions: list[str]) -> None:
    """In any order of pieces, ends, faults, hang-ups and words of the log; and every exchange ends once."""
    with patch.object(lines, "LINES_PER_RECORD", 2):
        world = World(is_file, drains)
        for action in [*actions, *ENDS]:
            world.do(action)
    account = world.account
    assert account.terminal.charge_tokens == 0
    assert account.hold.settled
    assert account.context.stats.in_flight == account.context.stats.draining == 0
    seen = [one.id for each in account.sightings if isinstance(each, LinesSeen) for one in each.lines]
    assert seen == [line_id(str(at)) for at in range(len(seen))]
