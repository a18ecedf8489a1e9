"""The books of `make test-faults`: whatever is lost, counted twice or booked wrongly is found and named."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.account import Event, Findings, add_up, difference, examine, examine_folded, miscounted
from tests.faults.clients import Receipt
from tests.faults.scenario import nanos_of
from tests.faults.upstream import Served

COST = nanos_of(10, 2, 5)
ANSWERED = Receipt("n1", "k1", 0, "e1", 200, True, (10, 2, 5), COST)
UNANSWERED = Receipt("n2", "k1", 0)
SERVED = [Served("n1", 10, 2 + 3, 2, True), Served("n2", 10, 5, 2)]
SERVED[0].output = 5
EVENT = Event("e1", "k1", "org-1", "usage", 1, "settled", "provider", 10, 2, 5, COST, 1, 15, COST)
UNKNOWN = replace(
    EVENT, id="e2", status="unknown", source="unknown", input=0, cached=0, output=0, cost_nanos=None, charge_tokens=99,
    charge_nanos=99_999,
)  # fmt: skip


def _found(receipts: list[Receipt], served: list[Served], events: list[Event]) -> Findings:
    return examine(receipts, served, events)


def test_equal_books_are_clean() -> None:
    """An answer with its event, and a request without an answer with one that nobody has named, are all there is."""
    assert _found([ANSWERED, UNANSWERED], SERVED, [EVENT, UNKNOWN]).is_clean


def test_an_answer_without_its_event_is_lost() -> None:
    """A client that has an event's id has to find it in the history."""
    assert len(_found([ANSWERED], SERVED[:1], []).lost) == 1


def test_a_request_that_only_the_provider_knows_is_lost() -> None:
    """The client got nothing, the provider did the work, and no event tells of it."""
    assert len(_found([ANSWERED, UNANSWERED], SERVED, [EVENT]).lost) == 1


def test_a_request_that_never_reached_the_provider_may_be_unknown_or_not_there() -> None:
    """What died on its way is charged as reserved, or not at all; neither is a loss."""
    assert _found([ANSWERED, UNANSWERED], SERVED[:1], [EVENT]).is_clean
    assert _found([ANSWERED, UNANSWERED], SERVED[:1], [EVENT, UNKNOWN]).is_clean


def test_a_row_that_is_there_twice_is_doubled() -> None:
    """The same id in two rows is one event that was stored twice."""
    assert len(_found([ANSWERED], SERVED[:1], [EVENT, EVENT]).doubled) == 1


def test_an_event_of_no_request_is_doubled() -> None:
    """Two events under a key with one unanswered request: one of them was made up."""
    more = [EVENT, UNKNOWN, replace(UNKNOWN, id="e3")]
    assert len(_found([ANSWERED, UNANSWERED], SERVED, more).doubled) == 1


def test_numbers_that_differ_are_wrong() -> None:
    """Tokens and cost have to be the provider's, the client's and the event's alike."""
    assert _found([ANSWERED], SERVED[:1], [replace(EVENT, output=6)]).wrong
    assert _found([ANSWERED], SERVED[:1], [replace(EVENT, cost_nanos=COST + 1)]).wrong
    assert _found([replace(ANSWERED, cost_nanos=COST - 1)], SERVED[:1], [EVENT]).wrong
    assert _found([ANSWERED], SERVED[:1], [replace(EVENT, charge_requests=0)]).wrong
    assert _found([ANSWERED], SERVED[:1], [replace(EVENT, key="k2")]).wrong


def test_an_unknown_request_is_charged_at_least_what_it_cost() -> None:
    """What a replica did not live to see is charged as reserved, and that covers it."""
    assert _found([UNANSWERED], SERVED[1:], [replace(UNKNOWN, charge_nanos=COST - 1)]).wrong
    assert _found([UNANSWERED], SERVED[1:], [replace(UNKNOWN, cost_nanos=COST)]).wrong


def test_a_whole_answer_is_never_free() -> None:
    """A provider that has answered sends a bill, whatever the client has seen."""
    free = replace(EVENT, id="e2", status="failed", source="none", input=0, cached=0, output=0, cost_nanos=0,
                   charge_tokens=0, charge_nanos=0)  # fmt: skip
    whole = [Served("n2", 10, 5, 2, True)]
    assert _found([UNANSWERED], whole, [free]).wrong


def test_two_requests_at_the_provider_for_one_of_a_client_are_wrong() -> None:
    """Nobody asked for the second one."""
    assert _found([ANSWERED], [SERVED[0], SERVED[0]], [EVENT]).wrong


def test_a_starting_replica_may_refuse_without_a_key() -> None:
    """It does not know keys yet; every other event names the key of its request."""
    receipt = Receipt("n1", "k1", 0, "e1", 503, True)
    refused = replace(EVENT, key="", status="refused", source="none", input=0, cached=0, output=0, cost_nanos=0,
                      charge_requests=0, charge_tokens=0, charge_nanos=0)  # fmt: skip
    assert _found([receipt], [], [refused]).is_clean
    assert _found([receipt], [], [replace(refused, status="settled")]).wrong


def test_a_refusal_without_a_key_may_be_of_a_request_without_an_answer() -> None:
    """A replica may die between the event of a refusal and its answer, before it knows any key."""
    refused = replace(UNKNOWN, key="", status="refused")
    assert _found([ANSWERED, UNANSWERED], SERVED[:1], [EVENT, refused]).is_clean
    assert _found([ANSWERED], SERVED[:1], [EVENT, refused]).doubled
    assert _found([ANSWERED, UNANSWERED], SERVED, [EVENT, refused]).lost


FAILED = replace(
    UNKNOWN, id="a1", status="failed", source="none", cost_nanos=0, charge_tokens=0, charge_nanos=0, request_id="r1",
    model="chat-first",
)  # fmt: skip
SECOND_COST = nanos_of(10, 2, 5, "chat-second")
FOLLOWING = replace(
    EVENT, id="a2", cost_nanos=SECOND_COST, charge_nanos=SECOND_COST, request_id="r1", attempt=2, model="chat-second"
)
FOLLOWED = replace(
    ANSWERED, event_id="a2", cost_nanos=SECOND_COST, model="chat-second", attempt=2, attempts=2
)  # fmt: skip
ATTEMPTS = [Served("n1", 0, 0, 0, model="chat-first"), Served("n1", 10, 5, 2, True, "chat-second")]


def test_each_attempt_has_an_event_of_its_own() -> None:
    """The client was told of the second; the first is found by the request that they share."""
    assert _found([FOLLOWED], ATTEMPTS, [FAILED, FOLLOWING]).is_clean
    assert _found([FOLLOWED], ATTEMPTS, [FOLLOWING]).lost
    assert _found([FOLLOWED], ATTEMPTS, [FAILED, FOLLOWING, replace(FAILED, id="a3", attempt=3)]).doubled
    assert _found([FOLLOWED], ATTEMPTS, [FAILED, FOLLOWING, replace(FOLLOWING, id="a3", model="other")]).doubled
    assert _found([FOLLOWED], ATTEMPTS, [replace(FAILED, request_id="r2"), FOLLOWING]).doubled


def test_an_attempt_is_at_the_price_of_its_model() -> None:
    """Usage of one model at the price of another is wrong, and so is an attempt that the client was not told of."""
    wrong = replace(FOLLOWING, cost_nanos=COST, charge_nanos=COST)
    assert _found([replace(FOLLOWED, cost_nanos=COST)], ATTEMPTS, [FAILED, wrong]).wrong
    assert _found([replace(FOLLOWED, attempt=1)], ATTEMPTS, [FAILED, FOLLOWING]).wrong


def test_attempts_without_an_answer_are_one_request() -> None:
    """The client knows neither; both belong to the one request of its key that nobody has named."""
    unanswered = replace(UNANSWERED, nonce="n1", attempts=2)
    unknown = replace(UNKNOWN, request_id="r1", attempt=2, model="chat-second")
    assert _found([unanswered], ATTEMPTS, [FAILED, unknown]).is_clean
    assert _found([unanswered], ATTEMPTS, [FAILED]).lost
    assert _found([unanswered], ATTEMPTS[:1], [FAILED]).is_clean


def test_folded_attempts_are_compared_by_number() -> None:
    """A request with two attempts at providers is two events."""
    folded = replace(FOLLOWING, id="f1", kind="folded", stands_for=1, request_id="", charge_nanos=SECOND_COST)
    first = replace(folded, id="f2", cost_nanos=0, charge_nanos=0)
    assert examine_folded([FOLLOWED], ATTEMPTS, [folded, first]).is_clean
    assert examine_folded([FOLLOWED], ATTEMPTS, [folded]).lost
    assert examine_folded([FOLLOWED], ATTEMPTS, [folded, replace(first, stands_for=2)]).doubled


def test_folded_events_are_compared_by_number_and_sum() -> None:
    """Two requests in one row are two; three would be one too many, one would be one too few."""
    other = replace(ANSWERED, nonce="n3", event_id="e3")
    served = [SERVED[0], Served("n3", 10, 5, 2, True)]
    folded = replace(EVENT, id="f1", kind="folded", stands_for=2, input=20, cached=4, output=10, cost_nanos=2 * COST,
                     charge_requests=2, charge_tokens=30, charge_nanos=2 * COST)  # fmt: skip
    assert examine_folded([ANSWERED, other], served, [folded]).is_clean
    assert examine_folded([ANSWERED, other], served, [replace(folded, stands_for=1)]).lost
    assert examine_folded([ANSWERED, other], served, [replace(folded, stands_for=3)]).doubled
    assert examine_folded([ANSWERED, other], served, [replace(folded, cost_nanos=COST)]).lost


def test_folded_refusals_of_a_starting_replica_have_no_key() -> None:
    """They are counted together with all others, and with no key's."""
    refused = Receipt("n4", "k1", 0, "e4", 503, True)
    keyless = replace(UNKNOWN, id="e4", key="", status="refused", charge_requests=0)
    assert examine_folded([ANSWERED, refused], SERVED[:1], [EVENT, keyless]).is_clean
    assert examine_folded([ANSWERED, refused], SERVED[:1], [EVENT]).lost
    assert examine_folded([ANSWERED], SERVED[:1], [EVENT, keyless]).doubled


def test_ledgers_that_differ_are_told_apart() -> None:
    """The first account and sum that differ are named with what every ledger says."""
    rows = add_up([EVENT, UNKNOWN])
    assert rows["org-1"]["events"] == 2
    assert rows["org-1"]["unpriced"] == 1
    assert not difference({"rows": rows, "meter": rows})
    other = {"org-1": {**rows["org-1"], "charge_nanos": 1}}
    assert "org-1: charge_nanos: rows" in difference({"rows": rows, "meter": other})
    assert "org-1: events: rows 2, meter 0" in difference({"rows": rows, "meter": {}})


def test_ledgers_that_count_more_or_less_than_there_are_rows_have_doubled_or_lost() -> None:
    """A ledger without ids is judged by its number of events; where that is right, by its other sums."""
    rows = add_up([EVENT, UNKNOWN])
    less, other = add_up([EVENT]), add_up([EVENT, replace(UNKNOWN, charge_nanos=1)])
    for ledger, kinds in ((rows, (0, 0, 0)), (less, (1, 0, 0)), (other, (0, 0, 1))):
        found = Findings()
        miscounted(rows, {"meter": ledger}, found)
        assert (len(found.lost), len(found.doubled), len(found.wrong)) == kinds
    found = Findings()
    miscounted(less, {"meter": rows}, found)
    assert len(found.doubled) == 1
