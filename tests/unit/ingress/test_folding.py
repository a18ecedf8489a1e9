"""Events that become sums: what is kept exactly, what is kept apart, what is given up."""

from __future__ import annotations

import msgspec
import pytest

from ingress.core.folding import HOUR_MS, Fold
from schemas.codec import decode_attribution, decode_event, encode_attribution, encode_event, encode_rows
from schemas.ids import NO_ID
from schemas.tokens import TokenUsage
from schemas.usage import Attribution, Detail, Totals, UsageEvent
from tests.unit.ingress.governed import event_of


def event(number: int, **fields: object) -> UsageEvent:
    """Return an event whose id holds `number`."""
    return msgspec.structs.replace(decode_event(event_of(number)), **fields)


def folded(*events: UsageEvent) -> list[UsageEvent]:
    """Return what events become."""
    fold = Fold()
    for each in events:
        fold.add(encode_event(each))
    assert fold.taken == len(events)
    assert len(fold) == len(fold.events())
    return [decode_event(each) for each in fold.events()]


def totals(events: list[UsageEvent]) -> Totals:
    """Return what two ledgers are compared by."""
    found = Totals()
    for each in events:
        found.add(each)
    return found


def test_one_event_stands_for_many() -> None:
    """Every sum is kept: classes of tokens, units, costs, charges, and how many there were."""
    many = [
        event(
            number, usage=TokenUsage(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), cost_nanos=number, charge_tokens=55,
            charge_nanos=10**12, duration_ms=100 * number,
            detail=Detail({"images": number}, list_cost_nanos=2 * number, flags=(f"flag-{number % 2}",)),
        )
        for number in (1, 2, 3)
    ]  # fmt: skip
    (one,) = folded(*many)
    assert one.usage == TokenUsage(3, 6, 9, 12, 15, 18, 21, 24, 27, 30)
    assert (one.cost_nanos, one.charge_requests, one.charge_tokens, one.charge_nanos) == (6, 3, 165, 3 * 10**12)
    assert one.detail == Detail(
        {"images": 6}, list_cost_nanos=12, flags=("flag-0", "flag-1"), kind="folded", stands_for=3
    )
    assert (one.id, one.duration_ms, one.ttft_ms, one.decision_id) == (many[0].id, 200, -1, NO_ID)
    assert (one.http_status, one.model_reported, one.error) == (200, "small", "")
    assert totals([one]) == totals(many)


def test_sums_fold_again() -> None:
    """A log that fills again folds what it had folded: in one step or in two, the sums are the same."""
    many = [event(number, cost_nanos=number) for number in range(1, 6)]
    (half,) = folded(*many[:3])
    (again,) = folded(half, *many[3:])
    (once,) = folded(*many)
    assert again == once
    assert again.detail is not None
    assert again.detail.stands_for == 5


@pytest.mark.parametrize(
    "other",
    [
        {"attribution": encode_attribution(Attribution("acme", team="chat"))},
        {"rows": encode_rows(["another"])},
        {"operation": "embeddings"},
        {"status": "failed"},
        {"usage_source": "estimated"},
        {"occurred_ms": decode_event(event_of(1)).occurred_ms + HOUR_MS},
        {"streamed": True},
        {"cost_nanos": None},
        {"detail": Detail(service_tier="flex")},
        {"detail": Detail(list_cost_nanos=1)},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_counted_apart_is_folded_apart(other: dict[str, object]) -> None:
    """Whom it belongs to, which rows it is booked to, how it ended, whether its cost is known."""
    first, second = event(1), event(2, **other)
    assert folded(first, second) == [first, second]


def test_what_they_do_not_agree_on_is_left_out() -> None:
    """A code or a name that holds for some of them only would be wrong."""
    (one,) = folded(event(1, error="a"), event(2, error="b", http_status=404, model_reported="x"))
    assert (one.http_status, one.model_reported, one.error) == (0, "", "")


def test_made_up_models_do_not_keep_a_disk_full() -> None:
    """A client may name as many models as it likes: refusals that reached no provider fold into one."""
    many = [
        event(n, status="refused", usage_source="none", usage=TokenUsage(), cost_nanos=0, charge_requests=0,
              charge_tokens=0, charge_nanos=0,
              attribution=encode_attribution(Attribution("acme", model_requested=f"model-{n}")))
        for n in range(9)
    ]  # fmt: skip
    (one,) = folded(*many)
    assert decode_attribution(one.attribution) == Attribution("acme")
    assert totals([one]).events == 9
    assert folded(many[0]) == [many[0]]
