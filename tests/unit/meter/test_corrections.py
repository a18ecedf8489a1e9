"""What corrections of costs do to the state of a partition."""

from __future__ import annotations

import msgspec
import pytest

from enforcer.core.adjustments import INSTANCE, Adjustment, Cutter, Posting, Target, derived_id
from meter.core.faults import FaultKind
from schemas.codec import encode_attribution, encode_event, encode_record, encode_rows
from schemas.tokens import NO_TOKENS
from schemas.usage import Attribution, Batch, Detail, Totals, UsageEvent
from tests.property.fold_logs import START_MS
from tests.unit.meter.fold_builders import COST, TOKENS, Log, batch

ACME = Target(Attribution("acme"), [TOKENS, COST])


def corrections(*nanos: int, epoch: int = 1, close: bool = True) -> list[bytes]:
    """Return the records of a posting with these differences."""
    cutter = Cutter(epoch, 1)
    adjustments = [Adjustment(derived_id(n, epoch), 0, START_MS, "messages", n, n, "price:2") for n in nanos]
    values = [value for _, value in cutter.cut(Posting([ACME], adjustments), START_MS)]
    return values + [value for _, value in cutter.close(START_MS) if close]


def test_a_correction_moves_money_and_nothing_else() -> None:
    """The settled cost falls by the difference, tokens and requests stay; both ledgers have it as an event."""
    log = Log().add(batch(amount=40), *corrections(-15))
    assert (log.settled(COST), log.settled(TOKENS)) == (25, 40)
    day = log.shard.ledger.by_key["org=acme/day=2025-12-01"].totals
    assert day == Totals(2, 1, 40, 80, 25, 0, 25)
    account = log.shard.ledger.by_key[f"instance={INSTANCE}/epoch=1"]
    assert account.totals == account.told == Totals(1, 0, 0, 0, -15, 0, -15)


def test_an_adjuster_is_no_member_and_leaves_shares_as_they_are() -> None:
    """Nobody waits for its acknowledgements, nobody gives up a part of a limit for it, open or ended."""
    log = Log().add(batch(amount=40))
    before = [(state.run, list(state.grants)) for state in log.shard.runs.members]
    log.add(*corrections(-1, close=False))
    assert [(state.run, list(state.grants)) for state in log.shard.runs.members] == before
    assert not log.shard.joined or log.members == [("i1", 1)]
    assert (INSTANCE, 1) in log.shard.runs.open
    log.add(*corrections(-1, epoch=2))
    assert log.settled(COST) == 38


def test_what_a_correction_frees_can_be_given_to_who_waits() -> None:
    """Rights grow by what was given back, and by no more."""
    log = Log().add(batch(), batch(seq=2, ack=1), batch(seq=3, ack=2, amount=100, gauges={COST: 0}, limit=100))
    assert log.right(COST, "i1") == 100
    log.add(batch(seq=4, ack=3, wants={COST: (40, 40)}, limit=100), *corrections(-30))
    assert log.right(COST, "i1") == 100
    log.add(*corrections(-10, epoch=2))
    assert (log.right(COST, "i1"), log.settled(COST)) == (140, 60)


@pytest.mark.parametrize(
    ("kind", "requests", "tokens"), [("usage", 0, 0), ("folded", 1, 5), ("adjustment", 1, 0), ("adjustment", 0, 5)]
)
def test_only_a_correction_without_requests_and_tokens_may_give_money_back(
    kind: str, requests: int, tokens: int
) -> None:
    """Anything else that charges less than nothing is left out and reported, as ever."""
    event = UsageEvent(
        bytes(16), bytes(16), 1, "settled", "messages", START_MS, 1, 1, 200, False, "provider", NO_TOKENS, -5, requests,
        tokens, -5, "m", "", bytes(16), encode_attribution(Attribution("acme")), encode_rows([COST]),
        Detail(kind=kind),
    )  # fmt: skip
    raw = [msgspec.Raw(encode_event(event))]
    log = Log().add(batch(amount=40))
    fault = log.shard.apply(
        log.shard.fence, START_MS, encode_record(Batch("x/adjust", 1, 1, 0, START_MS, 1, True, [], [], Totals(), raw))
    )
    assert fault is not None
    assert fault.kind is FaultKind.INVALID
    assert log.settled(COST) == 40
