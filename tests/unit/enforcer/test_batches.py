"""What batches are charged: whose, at which price, to which rows, when, and what of it is remembered."""

from __future__ import annotations

import msgspec
import pytest

from enforcer.core.batch_events import BOOKED_MS
from enforcer.core.batch_terms import Terms
from enforcer.core.batch_view import listed
from enforcer.core.batches import Charged, Folded, Outcome, close, concluded, fold, key_of
from enforcer.core.policy import read
from enforcer.core.repricing import Outcome as Repriced
from enforcer.core.repricing import PastCost, reprice
from ingress.core.plan import Plan
from meter.core.shard import Shard
from schemas.batches import BatchSeen, Line, LinesSeen, Sighting, Step, line_id
from schemas.codec import decode_attribution, decode_event, decode_record, decode_rows, decode_step, encode_step
from schemas.ids import format_id
from schemas.money import Price, Rates
from schemas.policy import PolicyRecord
from schemas.rows import parse_row_key
from schemas.tokens import TokenUsage
from schemas.usage import Batch, UsageEvent
from tests.property.batch_world import DAY_MS, DOCUMENT, JOBS, OWNERS, START_MS, TERMS, terms_of, total_of
from tests.unit.ingress import governed

MINI, LONG = JOBS[0], JOBS[2]
USED = TokenUsage(input=1_000, output=10)


class Desk:
    """A state, and the events of each step that is taken into it."""

    def __init__(self, terms: Terms = TERMS) -> None:
        self.state, self.terms, self.now_ms, self.offset = Charged(), terms, START_MS, 0

    def see(self, sighting: Sighting) -> tuple[Folded, list[UsageEvent]]:
        """Fold a sighting, all of its steps; return the last outcome and the events."""
        events: list[UsageEvent] = []
        while True:
            found = fold(self.state, sighting, self.offset, self.terms, self.now_ms)
            if found.step is not None:
                events += events_of(found.step)
                self.state.take(decode_step(encode_step(found.step)))
                self.state.take(concluded(found.step))
            if found.step is None or found.step.position > self.offset:
                self.offset += 1
                return found, events


def events_of(step: Step) -> list[UsageEvent]:
    """Return the events that a step charges."""
    records = [decode_record(value) for _, value in step.records]
    return [decode_event(raw) for record in records if isinstance(record, Batch) for raw in record.events]


def created(name: str = "batch_a", owner: int = 0, seen_ms: int = START_MS) -> BatchSeen:
    """Return the sighting of a creation."""
    return BatchSeen("openai", name, seen_ms, OWNERS[owner], True, "chat.completions")


def line(number: int = 1, model: str = "gpt-5-mini", usage: TokenUsage | None = USED, **more: object) -> Line:
    """Return a line."""
    return msgspec.structs.replace(Line(line_id(f"r{number}"), model, usage), **more)


def lines(*found: Line, name: str = "batch_a", seen_ms: int = START_MS) -> LinesSeen:
    """Return the sighting of lines by somebody who did not create the batch."""
    return LinesSeen("openai", name, "", seen_ms, OWNERS[2], list(found))


def charge(*found: Line, desk: Desk | None = None) -> list[UsageEvent]:
    """Return the events of lines of a batch that was created."""
    desk = desk or Desk()
    desk.see(created())
    return desk.see(lines(*found))[1]


# ------------------------------------------------------------------------------------------------------------- whose


def test_a_batch_belongs_to_whom_created_it_and_else_to_who_was_seen_first() -> None:
    """A creation that comes to be known late changes what comes after it; what was found says so."""
    desk = Desk()
    _, (first,) = desk.see(lines(line(1)))
    desk.see(created(owner=1))
    desk.see(created(owner=0))
    _, (second,) = desk.see(lines(line(1), line(2)))
    assert [decode_attribution(event.attribution).team for event in (first, second)] == ["ops", "ml"]
    assert first.detail is not None
    assert second.detail is not None
    assert (first.detail.flags, second.detail.flags) == (("batch_found",), ())


def test_the_past_of_an_account_is_nobodys() -> None:
    """A batch of unknown origin that was over for days when it was first listed is not charged, in any way, ever."""
    desk, ended_ms = Desk(), START_MS - 50 * 3_600_000
    old = BatchSeen("openai", "batch_a", START_MS, OWNERS[0], False, "chat.completions", True, ended_ms, ("file-a",),
                    "gpt-5-mini", TokenUsage(100, 10), 3)  # fmt: skip
    assert (desk.see(old)[1], desk.see(lines(line(1)))) == ([], (Folded(Outcome.BEFORE), []))
    recent = msgspec.structs.replace(old, batch_id="batch_b", ended_ms=ended_ms + 3 * 3_600_000)
    (event,) = desk.see(recent)[1]
    assert event.charge_tokens == 110
    (owned,) = desk.see(msgspec.structs.replace(old, is_created=True))[1]
    assert owned.charge_tokens == 110


def test_lines_of_a_file_belong_to_the_batch_that_names_it() -> None:
    """A file that no batch names is none of a batch; once it is named, its lines are charged when seen again."""
    desk = Desk()
    by_file = LinesSeen("openai", "", "file-1", START_MS, OWNERS[2], [line(1)])
    assert desk.see(by_file) == (Folded(Outcome.NO_BATCH), [])
    desk.see(created())
    desk.see(BatchSeen("openai", "batch_a", START_MS, OWNERS[2], is_over=True, file_ids=("file-1",)))
    desk.see(BatchSeen("openai", "batch_b", START_MS, OWNERS[2], is_over=True, file_ids=("file-1",)))
    assert desk.see(LinesSeen("claude", "", "file-1", START_MS, OWNERS[2], [line(1)]))[0].outcome is Outcome.NO_BATCH
    found, (event,) = desk.see(by_file)
    assert found.outcome is Outcome.CHARGED
    assert decode_attribution(event.attribution).team == "search"


def test_what_does_not_say_whom_it_belongs_to_is_skipped() -> None:
    """It is counted as malformed, and a line with an id of another length is none."""
    desk = Desk()
    broken = BatchSeen("openai", "batch_a", START_MS, msgspec.Raw(b"\xc1"))
    assert desk.see(broken)[0] == Folded(Outcome.MALFORMED)
    desk.see(created())
    assert desk.see(lines(line(1, id=b"short")))[0] == Folded(Outcome.KNOWN)


# --------------------------------------------------------------------------------------------------------- what is due


def test_a_line_is_charged_at_the_price_of_batches_of_the_model_that_it_names() -> None:
    """An alias, a snapshot or another spelling is the model of the policy."""
    names = ["gpt-5-mini", "gpt-5-mini-2026-01-01", "GPT-5_mini", "mini"]
    found = charge(*(line(number, name) for number, name in enumerate(names)))
    for name, event in zip(names, found, strict=True):
        attribution = decode_attribution(event.attribution)
        assert (attribution.model, attribution.model_requested) == ("gpt-5-mini", "mini"), name
        assert (attribution.policy_version, attribution.price_version) == (3, "mini-1")
        assert event.cost_nanos == event.charge_nanos == 1_000 * 10 + 10 * 40
        assert (event.model_reported, event.charge_requests, event.charge_tokens) == (name, 1, 1_010)
        assert event.detail is not None
        assert (event.detail.service_tier, event.detail.note) == ("batch", "batch batch_a")


def test_what_has_no_price_costs_nothing_that_is_known_and_is_charged_at_the_reserve() -> None:
    """An unknown model keeps its name; a unit without a price makes the sum unknown."""
    unknown, unit = charge(line(1, "who-knows"), line(2, units={"web_search": 2}))
    assert decode_attribution(unknown.attribution).model == "who-knows"
    assert unknown.cost_nanos is unit.cost_nanos is None
    assert unknown.charge_nanos == 15_000 * 1_000 + 75_000 * 10
    assert unit.charge_nanos == 1_000 * 10 + 10 * 40 + 2 * 50_000_000
    assert [event.detail and event.detail.flags for event in (unknown, unit)] == [
        ("unpriced",), ("unpriced_web_search",)
    ]  # fmt: skip


def test_usage_that_nobody_could_read_is_unknown() -> None:
    """The line counts as a request, flagged as it was told, and what it cost is not known."""
    (event,) = charge(line(1, usage=None, flags=("malformed",)))
    assert (event.cost_nanos, event.usage_source, event.charge_requests, event.charge_tokens) == (None, "unknown", 1, 0)
    assert event.detail is not None
    assert event.detail.flags == ("malformed",)


def test_what_is_free_where_it_is_asked_for_live_is_free_in_a_batch() -> None:
    """A moderation of which no usage is told costs nothing; one that tells tokens of a model without a price does."""
    free, told = (
        line(number, "omni", usage, operation="moderations") for number, usage in ((1, TokenUsage()), (2, USED))
    )
    first, second = charge(free, told)
    assert (first.cost_nanos, first.charge_nanos, first.detail and first.detail.flags) == (0, 0, ())
    assert second.cost_nanos is None


def test_an_organisation_pays_its_own_price_and_sees_the_list_price_beside_it() -> None:
    """As the policy record resolved them."""
    listed_price = Price("list", "l", (Rates(0, 8_000_000, 0, 0, 0, 8_000_000, 0, 0, 0),))
    own = Price("contract", "c", (Rates(0, 5_000_000, 0, 0, 0, 5_000_000, 0, 0, 0),), listed=listed_price)
    record = PolicyRecord(1, DOCUMENT, "", 0, "", "", {"mini": listed_price}, {"acme": {"mini": own}})
    terms = Terms(record, read(DOCUMENT).policy, 2, lambda key: None)
    (event,) = charge(line(1), desk=Desk(terms))
    assert event.detail is not None
    assert (event.cost_nanos, event.detail.list_cost_nanos) == (5 * 1_010, 8 * 1_010)


def test_names_that_are_several_models_are_none_of_them() -> None:
    """A price that is not known is better than a wrong one; the account's model decides between names of one."""
    text = DOCUMENT.replace(
        "  mini: {provider: openai, upstream: gpt-5-mini}",
        "  old: {provider: openai, upstream: m-2025-01-01}\n  new: {provider: openai, upstream: m-2026-01-01}\n"
        "  one: {provider: openai, upstream: same}\n  account: {provider: openai, upstream: same}",
    )
    terms = terms_of(text, {})
    assert terms.served("openai", "m", "account") == ("", "m")
    assert terms.served("openai", "m-2026-01-01", "account") == ("new", "m-2026-01-01")
    assert terms.served("openai", "same", "account").name == "account"
    assert terms.served("openai", "same", "x").name == "one"
    assert terms.served("claude", "same", "x") == ("", "same")
    assert terms.served("openai", "", "x") == ("", "")


# ------------------------------------------------------------------------------------------------------- as a whole


def whole(**more: object) -> BatchSeen:
    """Return what is told of a batch that is over, its sum included."""
    seen = BatchSeen(
        "openai", "batch_a", START_MS, OWNERS[2], False, "", True, START_MS - 9, ("file-1",), MINI.model,
        total_of(MINI), MINI.lines,
    )  # fmt: skip
    return msgspec.structs.replace(seen, **more)


def test_a_sum_is_one_event_that_stands_for_all_requests() -> None:
    """Flagged, and whatever comes later is ignored."""
    desk = Desk()
    desk.see(created())
    _, (event,) = desk.see(whole(flags=("fractional",)))
    assert event.detail is not None
    assert (event.detail.kind, event.detail.stands_for, event.charge_requests) == ("folded", 3, 3)
    assert event.detail.flags == ("fractional", "batch_total")
    assert (event.usage, event.operation, event.occurred_ms) == (total_of(MINI), "chat.completions", START_MS - 9)
    for again in (whole(), lines(line(1)), whole(total=USED, requests=4)):
        assert desk.see(again)[1] == []
    (batch,) = listed(desk.state.books.values(), None, None, 9)
    assert (batch["charged_by"], batch["requests"], batch["answered"]) == ("total", 3, 4)


@pytest.mark.parametrize(
    "seen",
    [
        whole(is_over=False), whole(total=None), whole(total=TokenUsage(), requests=0), whole(model=""),
        whole(model=LONG.model),
    ],
    ids=["not over", "no sum", "nothing used", "no model", "price by length of prompts"],
)  # fmt: skip
def test_a_sum_that_cannot_be_charged_leaves_the_batch_to_its_lines(seen: BatchSeen) -> None:
    """Whatever a sum lacks, each line is charged when it comes."""
    desk = Desk()
    desk.see(created())
    assert desk.see(seen)[1] == []
    assert len(desk.see(lines(line(1), line(2), line(1)))[1]) == 2
    assert desk.see(whole())[1] == []


def test_a_sum_is_priced_anew_as_its_lines_would_be() -> None:
    """`tollway reprice` finds the same cost by the same price, the price of each request included; tiers stop it."""
    price = Price("list", "p", TERMS.price("acme", "mini").variants["batch"], request_nanos=7)  # type: ignore[union-attr]
    desk = Desk(terms_of(prices={"mini": price}))
    desk.see(created())
    _, (event,) = desk.see(whole())
    assert event.detail is not None
    past = PastCost(
        event.occurred_ms, format_id(event.id), event.status, event.operation, "acme", "", "search", "", "k", "openai",
        "gpt-5-mini", "mini", {}, 1, "p", event.detail.kind, event.detail.stands_for, event.usage, {},
        event.detail.service_tier, event.cost_nanos, event.charge_nanos, 0, [], 0, 0, 0, 0,
    )  # fmt: skip
    assert reprice(past, price).outcome is Repriced.SAME
    assert reprice(past, TERMS.price("acme", "long")).outcome is Repriced.FOLDED


# ------------------------------------------------------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("told_ms", "occurred_ms"),
    [
        (START_MS - 5, START_MS - 5), (0, START_MS - 1_000), (START_MS + DAY_MS, START_MS),
        (1, START_MS - 10_000 - 2 * DAY_MS), (-5, START_MS - 10_000 - 2 * DAY_MS),
    ],
    ids=["as told", "not told", "in the future", "long ago", "before all time"],
)  # fmt: skip
def test_a_line_occurred_when_it_says_within_what_can_be(told_ms: int, occurred_ms: int) -> None:
    """Else when its batch was over; never later than now, nor two days before the batch was first seen."""
    desk = Desk()
    desk.see(created(seen_ms=START_MS - 10_000))
    desk.see(BatchSeen("openai", "batch_a", START_MS, OWNERS[0], is_over=True, ended_ms=START_MS - 1_000))
    _, (event,) = desk.see(lines(line(1, occurred_ms=told_ms)))
    assert event.occurred_ms == occurred_ms


def test_what_is_fetched_late_is_booked_to_rows_that_still_count() -> None:
    """The meter keeps rows for two days: older usage goes to the windows of then, so no budget is got around."""
    text = DOCUMENT + "  - {name: hourly, amount: 1 USD, period: hour}\n"
    desk = Desk(terms_of(text))
    desk.see(created(seen_ms=START_MS - 6 * DAY_MS))
    found = fold(desk.state, lines(line(1, occurred_ms=START_MS - 5 * DAY_MS)), 1, desk.terms, START_MS)
    assert found.step is not None
    (event,) = events_of(found.step)
    assert event.occurred_ms == START_MS - 5 * DAY_MS
    windows = {parse_row_key(key).rule: parse_row_key(key).window for key in decode_rows(event.rows)}
    assert windows["hourly"].start <= (START_MS - BOOKED_MS) // 1000 < windows["hourly"].end
    ((partition, value),) = found.step.records
    shard = Shard(partition)
    assert shard.apply(0, START_MS, value) is None
    assert (shard.counts.late, len(shard.rows.by_key)) == (0, len(windows))


# ------------------------------------------------------------------------------------------------------------- rows

RULES = """
orgs:
  acme: {teams: [search, chat], projects: [web], users: [ann], tags: {env: prod, tier: "1"}, tier: 2}
providers:
  sim: {protocol: openai, base_url: simulated}
models:
  small: {provider: sim, operations: [chat.completions]}
  other: {provider: sim, upstream: "a/b:c", operations: [chat.completions]}
limits:
  - {name: minute, per: [team], rpm: 10, tpm: 1000, burst: 2, concurrency: 5}
  - {name: hour, rph: 10, tph: 10}
  - {name: day, per: [key, user, tags.cost, model], rpd: 10, tpd: 10, timezone: America/St_Johns}
  - {name: tiers, match: {tier: "0"}, rpd: 5}
  - {name: caps, max_output_tokens: 5}
budgets:
  - {name: org-month, amount: 5 USD, period: month}
  - {name: prod-day, match: {env: "pro*"}, per: [model], amount: 1 USD, period: day, timezone: Europe/Berlin}
  - {name: not-small, match: {model: "!small"}, amount: 1 USD, period: week}
  - {name: by-route, match: {route: chat.completions}, amount: 1 USD, period: hour}
  - {name: quick, amount: 1 USD, period: minute}
  - {name: rolling, per: [provider, env], amount: 1 USD, period: rolling 90m}
"""


@pytest.mark.parametrize("model", ["small", "other"])
@pytest.mark.parametrize("tier", [None, 0])
@pytest.mark.parametrize("at_ms", [START_MS, START_MS + 97 * DAY_MS + 12_345])
def test_rows_are_those_of_a_request_of_the_same_key_and_model(model: str, tier: int | None, at_ms: int) -> None:
    """As a replica's plan has them, in their order, without the limits of minutes, hours and requests at once."""
    key = governed.key_of(user="ann", tags={"cost": "c/5,x=y"}, tier=tier)
    plan = governed.resolver_of(RULES, prices={}).plan(key, model, "chat.completions")
    assert isinstance(plan, Plan)
    theirs = decode_rows(plan._current(at_ms).encoded)
    terms = Terms(PolicyRecord(1, RULES, "", 0, "", "", {}), read(RULES).policy, 1, {"k1": tier}.get)
    ours = terms.rows(decode_attribution(plan.attribution), "chat.completions", at_ms // 1000)
    assert ours == [row for row in theirs if parse_row_key(row).rule not in ("minute", "hour")]
    assert len(ours) == 7 + (model == "other") + (tier == 0)


# -------------------------------------------------------------------------------------------------- runs and memory


def test_a_run_ends_with_its_day_and_a_new_one_begins_at_one() -> None:
    """Without anything seen, too; once it is closed, nothing is written until something is charged."""
    desk = Desk()
    assert close(desk.state, 1, START_MS) is None
    charge(line(1), desk=desk)
    assert close(desk.state, 1, START_MS) is None
    step = close(desk.state, 1, START_MS + DAY_MS)
    assert step is not None
    (record,) = [decode_record(value) for _, value in step.records]
    assert isinstance(record, Batch)
    assert (record.final, record.seq, record.epoch, record.events) == (True, 2, START_MS // DAY_MS, [])
    desk.state.take(step)
    assert list(desk.state.pending) == [key_of(step)]
    desk.state.take(concluded(step))
    assert (close(desk.state, 1, START_MS + 2 * DAY_MS), desk.state.pending) == (None, {})
    assert desk.state.lines(("openai", "batch_a")) == {line_id("r1")}


@pytest.mark.parametrize(("days", "finals"), [(0, 0), (1, 1), (39, 1), (40, 0), (-3, 0)])
def test_a_run_of_long_ago_has_been_closed_by_who_counts(days: int, finals: int) -> None:
    """After 40 days of silence no final record is written; a clock that goes back does not begin an older run."""
    desk = Desk()
    charge(line(1), desk=desk)
    desk.now_ms += days * DAY_MS
    found = fold(desk.state, lines(line(2)), 9, TERMS, desk.now_ms)
    assert found.step is not None
    records = [decode_record(value) for _, value in found.step.records]
    assert [record.final for record in records if isinstance(record, Batch)] == [True] * finals + [False]
    assert found.step.run.epoch == max(START_MS, desk.now_ms) // DAY_MS
    assert found.step.run.seqs == dict.fromkeys(found.step.run.seqs, 1 if days > 0 else 2)


def test_many_long_lines_make_several_steps_each_small_enough_for_a_record() -> None:
    """Whatever their owner and rows add to each, and with keys of their own."""
    text = DOCUMENT + "".join(f"  - {{name: budget-{n}, amount: 1 USD, period: day}}\n" for n in range(40))
    desk = Desk(terms_of(text))
    desk.see(created())
    seen = lines(*(line(number) for number in range(500)))
    keys, events, position = set(), 0, 0
    while position <= desk.offset:
        found = fold(desk.state, seen, desk.offset, desk.terms, START_MS)
        assert found.step is not None
        value = encode_step(found.step)
        assert len(value) < 600_000
        assert all(len(record) < 512 * 1024 for _, record in found.step.records)
        keys.add(key_of(found.step))
        events += len(events_of(found.step))
        desk.state.take(decode_step(value))
        position = found.step.position
    assert events == 500
    assert len(keys) > 1
    assert len(desk.state.lines(("openai", "batch_a"))) == 500


def test_what_says_nothing_new_is_not_written() -> None:
    """A client that polls costs a record nothing."""
    desk = Desk()
    assert desk.see(created())[0].outcome is Outcome.NOTED
    for again in (created(seen_ms=START_MS + 5), BatchSeen("openai", "batch_a", START_MS + 9, OWNERS[2])):
        assert desk.see(again)[0] == Folded(Outcome.KNOWN)
    assert desk.see(BatchSeen("openai", "batch_a", START_MS, OWNERS[2], is_over=True))[0].outcome is Outcome.NOTED
    late = BatchSeen("openai", "batch_a", START_MS, OWNERS[2], is_over=False)
    assert desk.see(late)[0] == Folded(Outcome.KNOWN)


def test_lines_of_many_batches_are_remembered() -> None:
    """Those that were looked at long ago, too."""
    desk = Desk()
    for number in range(40):
        desk.see(lines(line(number), name=f"batch_{number}"))
    for number in range(40):
        assert desk.see(lines(line(number), name=f"batch_{number}"))[0] == Folded(Outcome.KNOWN)
    assert len(desk.state.books) == 40


def test_batches_are_listed_newest_first_and_by_owner() -> None:
    """With exact amounts, and who was only found."""
    desk = Desk()
    desk.see(created("batch_a", seen_ms=START_MS - 5))
    desk.see(created("batch_b", owner=2))
    desk.see(lines(line(1), line(2, "who-knows"), name="batch_a"))
    books = desk.state.books.values()
    assert [batch["batch"] for batch in listed(books, None, None, 9)] == ["batch_b", "batch_a"]
    assert [batch["batch"] for batch in listed(books, None, None, 1)] == ["batch_b"]
    (one,) = listed(books, "acme", "openai", 9)
    assert (one["owner"]["team"], one["requests"], one["unpriced"], one["cost_nanos"]) == ("search", 2, 1, 10_400)
    assert (one["cost_usd"], one["state"], one["ended_ms"]) == ("0.000010400", "under way", None)
    assert listed(books, "acme", "claude", 9) == []
