"""Posting corrections from the command line: when one may begin, what is sent, and what people are shown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from fractions import Fraction
from typing import Any, cast

import msgspec
import pytest

from deploy.api import Api
from deploy.cli import reprice as command
from deploy.corrections import posting
from deploy.reconcile import text
from deploy.reprice.plan import Corrections, Preview
from enforcer.adjust_routes import Chunk
from enforcer.core.adjustments import Adjustment, Target, derived_id
from enforcer.core.invoices import Invoice, Line
from enforcer.core.model_names import Matched
from enforcer.core.reconciling import compare, corrections
from schemas.errors import TransportError
from schemas.usage import Attribution
from tests.unit.enforcer.repricing_parts import past, price, rates
from tests.unit.enforcer.test_reconciling import DAY, group


class FakeApi:
    """Answers in turn, the last one again and again; notes what was sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, Any]] = []

    def get(self, path: str) -> Any:
        """Return the next answer."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def post(self, path: str, body: Any) -> Any:
        """Return the next answer."""
        self.sent.append((path, body))
        return self.get(path)


def as_api(fake: FakeApi) -> Api:
    """Return the fake as what callers take."""
    return cast(Api, fake)


def lane(position: int, log_end: int, lag: int, partition: int = 0, topic: str = "x.usage") -> dict[str, Any]:
    """Return a partition as the history's status has it."""
    return {"topic": topic, "partition": partition, "position": position, "log_end": log_end, "lag": lag}


LOOK = {"last": 7, "ends": {"0": 10, "1": 0}, "under_way": ""}


@pytest.mark.parametrize(
    ("lanes", "said"),
    [
        ([lane(10, 10, 0)], ""),
        ([lane(12, 14, 1)], ""),
        ([lane(8, 10, 0)], ""),
        ([lane(8, 10, 2)], "partition 0 is at 8 of 10"),
        ([lane(8, 9, 0)], "partition 0 is at 8 of 10"),
        ([lane(99, 99, 0, topic="x.decisions")], "partition 0 is not being read"),
        ([], "partition 0 is not being read"),
    ],
)
def test_the_history_has_all_when_every_row_below_the_ends_is_in_the_table(
    lanes: list[dict[str, Any]], said: str
) -> None:
    """Committed, or read to the end with nothing left to insert; an empty partition needs nobody."""
    assert posting.behind(lanes, {0: 10, 1: 0}) == said


def test_nothing_is_computed_before_the_history_has_all() -> None:
    """It is asked until it has, and told why it takes so long; a deadline ends that, and so does another posting."""
    said: list[str] = []
    clock = iter(range(100)).__next__
    history = FakeApi(*({"partitions": [lane(at, 10, 10 - at)]} for at in range(4, 11)))
    seen = posting.up_to_date(as_api(FakeApi(LOOK)), as_api(history), 60, said.append, clock, lambda _: None)
    assert (seen.last, seen.ends) == (7, {0: 10, 1: 0})
    assert said[0] == "waiting for the history: partition 0 is at 4 of 10"
    stuck = FakeApi({"partitions": [lane(4, 10, 6)]})
    with pytest.raises(TransportError, match="partition 0 is at 4 of 10"):
        posting.up_to_date(as_api(FakeApi(LOOK)), as_api(stuck), 5, said.append, clock, lambda _: None)
    busy = FakeApi({**LOOK, "under_way": "posting 9 of ann is under way"})
    with pytest.raises(TransportError, match="posting 9 of ann"):
        posting.up_to_date(as_api(busy), as_api(stuck), 5, said.append, clock, lambda _: None)


def some(count: int) -> Iterable[tuple[Target, Adjustment]]:
    """Return corrections of three teams in turn."""
    for number in range(count):
        target = Target(Attribution("acme", team=f"t{number % 3}"), ["row"])
        yield target, Adjustment(derived_id(number), 0, 5, "messages", number, number, "price 2")


def test_corrections_are_sent_in_chunks_that_the_enforcer_reads() -> None:
    """Each once, in order, targets told once a chunk; begun over what was seen, and concluded."""
    api, progress = FakeApi({"posting": 9}, None, None, None, {"adjustments": 2_500}), list[int]()
    seen = posting.Seen(7, {})
    assert posting.post(as_api(api), seen, some(2_500), "reprice", {"a": 1}, "ann", progress.append) == {
        "adjustments": 2_500
    }  # fmt: skip
    (begin, body), *chunks, (end, _) = api.sent
    assert (begin, body) == ("/v1/adjustments", {"after": 7, "reason": "reprice", "detail": {"a": 1}, "actor": "ann"})
    assert end == "/v1/adjustments/9/end"
    read = [msgspec.json.decode(msgspec.json.encode(body), type=Chunk) for _, body in chunks]
    assert [(chunk.chunk, len(chunk.targets), len(chunk.adjustments)) for chunk in read] == [
        (1, 3, 1_000), (2, 3, 1_000), (3, 3, 500)
    ]  # fmt: skip
    sent = [(chunk.targets[each.target].attribution.team, each.id) for chunk in read for each in chunk.adjustments]
    assert sent == [(target.attribution.team, each.id) for target, each in some(2_500)]
    assert progress == [1_000, 2_000, 2_500]


def test_where_nobody_can_be_asked_nothing_is_posted(capsys: pytest.CaptureFixture[str]) -> None:
    """The option that posts is named."""
    assert not posting.agreed(5, "--yes")
    assert "give --yes to post" in capsys.readouterr().err


def test_a_preview_shows_models_organisations_and_what_stays() -> None:
    """What changes most comes first; unpriced and folded usage is told apart."""
    assert command.as_text(Preview()) == "no usage in this time"
    tiers = price("2", rates(input=2, output=4), rates(100, input=3, output=4))
    by_model = {"gpt-4o-mini": price(), "a": None, "b": tiers}
    events = [past(), past(model="a", org="globex"), past(model="b", kind="folded", stands_for=7)]
    with Corrections() as found:
        shown = command.as_text(found.compute(events, lambda event: by_model[event.model]))
    lines = [line.split() for line in shown.splitlines()]
    assert ["openai/gpt-4o-mini", "1", "1", "0", "0", "0.002", "USD", "0.004", "USD", "0.002", "USD"] in lines
    assert ["total", "9", "1", "0", "1", "0.006", "USD", "0.008", "USD", "0.002", "USD"] in lines
    assert "7 events were folded and have a price of several tiers" in shown
    assert "1 events have no price for all that they used" in shown
    assert "nothing to post" not in shown


def test_a_comparison_shows_both_sides_why_they_differ_and_what_is_on_one_only() -> None:
    """Amounts are exact; days are summed by name where there is nothing to compare with."""
    lines = [Line(DAY, "gpt-4o", Fraction(12, 10**4), 1_000), Line(DAY, "dall-e-3", Fraction(7), None)]
    invoice = Invoice("csv", lines, [], "ab" * 32)
    matched = [Matched(("gpt-4o",), ("gpt-4o",)), Matched((), ("dall-e-3",)), Matched(("other",), ())]
    compared = compare(invoice, [group(), group(model="other")], matched, DAY, date(2026, 11, 21))
    found = [each for one in compared for each in corrections(one, "openai", invoice.sha256)]
    shown = text.as_text("openai", invoice, compared, found)
    for part in (
        "0.0012 USD  0.0002 USD  price 0.0002 USD", "the same tokens at another rate", "dall-e-3     1  7.00 USD",
        "other     1  0.001 USD", "1 corrections of 0.0002 USD in all would make the books of acme", "abababab",
    ):  # fmt: skip
        assert part in shown, shown
    told = text.as_object("openai", invoice, compared, found, None)
    assert [(day["model"], day["side"], day["difference_usd"]) for day in told["days"]] == [
        ("dall-e-3", "invoice", "7.000000000"), ("gpt-4o", "both", "0.000200000"), ("other", "ours", "-0.001000000")
    ]  # fmt: skip
    assert (told["causes"], told["corrections"][0]["usd"]) == ({"price": "0.000200000"}, "0.000200000")
    same = compare(invoice, [group(invoiced_nanos=200_000)], matched[:1], DAY, date(2026, 11, 21))
    assert "there is nothing to post" in text.as_text("openai", invoice, same, [])
    assert "no day has usage of 'openai' on both sides" in text.as_text("openai", invoice, [], [])
