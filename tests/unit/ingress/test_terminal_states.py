"""How attempts end: every row of the tables of docs/terminal-states.md is played, and has to come to what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from ingress.core.accounts import AccountExchange
from ingress.core.errors import FAULTS
from ingress.core.protocols_media import SPEECH, account_operation
from schemas.attempts import Drain, Fallback
from schemas.flags import BATCH_FOUND, BATCH_TOTAL, READ
from schemas.money import Price, cost_nanos
from schemas.units import CHARACTERS
from schemas.usage import Status, UsageEvent, UsageSource
from tests.unit.ingress.playbook import ANSWER, HEADERS, NOW, PRICE, SHORT, USAGE, FakePlan, Stage
from tests.unit.ingress.test_climb import QUEUE

PAGE = Path(__file__).resolve().parents[3] / "docs" / "terminal-states.md"
JSON, SSE = b"application/json", b"text/event-stream"
TEXT = b'data: {"choices":[{"delta":{"content":"Hello"}}],"usage":null}\n\n'
ASKED = {"model": "gpt-x", "messages": []}
ERROR = b'{"error":{"message":"it went wrong","type":"server_error"}}'
ZERO = {"prompt_tokens": 0, "completion_tokens": 0}
DATA = {
    "answer": ANSWER,
    "half": ANSWER[:40],
    "rest": ANSWER[40:],
    "zero": msgspec.json.encode({"choices": [], "usage": ZERO}),
    "silent": b'{"choices":[]}',
    "garbage": b"<html>",
    "batch": b'{"object":"batch","id":"batch_1","status":"validating"}',
    "result": b'{"custom_id":"a","response":{"status_code":200,"body":' + ANSWER + b'},"error":null}\n',
    "error": ERROR,
    "text": TEXT,
    "usage": b"data: " + msgspec.json.encode({"choices": [], "usage": USAGE}) + b"\n\n",
    "done": b"data: [DONE]\n\n",
    "error event": b"data: " + ERROR + b"\n\n",
}


class Case(NamedTuple):
    """One row of a table."""

    title: str
    played: str
    status: str
    error: str
    usage_source: str
    charged: str
    http_status: str
    flags: str


def _cases() -> list[Case]:
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| ") else []
        if len(cells) == len(Case._fields) and cells[0] != "what happens":
            plain = [re.sub(r"[`–]", "", cell).strip() for cell in cells]
            found.append(Case(*plain))
    return found


CASES = _cases()


class Play:
    """One request, by the words of a cell."""

    def __init__(self) -> None:
        self.plan = FakePlan()
        self.stage = Stage(plan=self.plan)
        self.which = -1
        self.has_died = False

    def do(self, words: str) -> None:
        """Do what one part of a cell says."""
        word, _, rest = words.partition(" ")
        if words in DATA:
            self.stage.exchange.provider_data(DATA[words], NOW)
        elif words in self.circumstances:
            self.circumstances[words]()
        else:
            self.facts[word](rest)

    @property
    def circumstances(self) -> dict[str, Callable[[], object]]:
        """What holds before the request, or of how it is looked at."""
        plan, stage = self.plan, self.stage
        return {
            "denied": lambda: setattr(plan, "denied", SHORT),
            "queue": lambda: plan.script.append(QUEUE),
            "spoken": self._speak,
            "of batches": lambda: self._about(b"POST", b"/v1/batches"),
            "of results": lambda: self._about(b"GET", b"/v1/files/f-1/content"),
            "unpriced": lambda: setattr(plan, "price", None),
            "terminate": lambda: setattr(plan, "refusal", msgspec.structs.replace(SHORT, final_unit="terminate")),
            "roomy": lambda: setattr(plan.holds[0], "room", 10**9),
            "drain": lambda: setattr(plan, "drain", Drain()),
            "full": lambda: setattr(stage, "may_read_on", False),
            "unsent": lambda: setattr(stage, "is_on_its_way", False),
            "fallback": self._fallback,
            "no room": lambda: setattr(stage.plans["other"], "denied", SHORT),
            "first": lambda: setattr(self, "which", 0),
            "second": lambda: setattr(self, "which", 1),
            "die": lambda: setattr(self, "has_died", True),
        }

    def _speak(self) -> None:
        self.plan.price = Price("test", "v1", (), units={CHARACTERS: 15 * 10**9})
        self.stage = Stage(SPEECH, plan=self.plan)

    def _about(self, method: bytes, path: bytes) -> None:
        operation = account_operation(method, path)
        assert operation is not None
        self.stage = Stage(operation, plan=self.plan)

    def _tell(self, is_recorded: bool) -> None:
        assert isinstance(self.stage.exchange, AccountExchange)
        self.stage.exchange.told(is_recorded, NOW + 9)

    def _fallback(self) -> None:
        self.plan.fallback = Fallback(to="other")
        self.stage.plans["other"] = other = FakePlan()
        other.model = "other"

    @property
    def facts(self) -> dict[str, Callable[[str], object]]:
        """What happens to the request."""
        stage, exchange = self.stage, self.stage.exchange
        return {
            "ask": self._ask,
            "head": lambda _: exchange.begin(HEADERS, NOW),
            "slow": lambda _: exchange.refuse_slow(120, NOW),
            "stop": lambda _: exchange.drain(NOW),
            "sent": lambda rest: stage.sent(stream=rest == "stream"),
            "admitted": lambda _: exchange.admitted_recorded(),
            "json": lambda rest: exchange.provider_head(int(rest or 200), [(b"content-type", JSON)], NOW + 5),
            "sse": lambda _: exchange.provider_head(200, [(b"content-type", SSE)], NOW + 5),
            "raw": lambda _: exchange.provider_head(200, [(b"content-type", b"audio/mpeg")], NOW + 5),
            "audio": lambda _: exchange.provider_data(bytes(99), NOW),
            "long": lambda _: [exchange.provider_data(TEXT, NOW) for _ in range(1500)],
            "end": lambda _: exchange.provider_end(NOW + 9),
            "fault": lambda kind: exchange.provider_fault(kind, True, "", NOW + 9),
            "unsent": lambda kind: exchange.provider_fault(kind, False, "", NOW + 9),
            "gone": lambda _: exchange.client_gone(NOW + 9),
            "over": lambda _: exchange.drain_over(NOW + 9),
            "bug": lambda _: exchange.crash(NOW + 9),
            "told": lambda _: self._tell(True),
            "untold": lambda _: self._tell(False),
        }

    def _ask(self, how: str) -> None:
        fields = {"model": "gpt-x", "input": "hello", "voice": "alloy"} if how == "aloud" else ASKED
        body = b"nonsense" if how == "nonsense" else msgspec.json.encode(fields)
        self.stage.ask(body, [(b"x-api-key", b"tw-bad")] if how == "badly" else None)

    @property
    def event(self) -> UsageEvent:
        """The event that the row is about: of those that end attempts, or what counts if the process dies now."""
        if self.has_died:
            return self.stage.events[-1]
        return [event for event in self.stage.events if event.status != "unknown"][self.which]


def _check_charge(play: Play, charged: str) -> None:
    event, flagged = play.event, (play.event.charge_requests, play.event.charge_tokens, play.event.charge_nanos)
    reported = (1, 40, cost_nanos(PRICE, event.usage))
    if charged in ("nothing", "a request"):
        assert flagged == (int(charged == "a request"), 0, 0)
        assert event.cost_nanos == 0
    elif charged == "as reserved":
        (hold,) = play.plan.holds
        assert flagged == (1, *hold.held)
        assert event.cost_nanos is None
    elif charged == "by its characters":
        assert flagged == (1, 0, 75_000)
        assert event.cost_nanos == 75_000
    elif charged.startswith("as reported"):
        assert flagged == reported
        assert event.cost_nanos == (None if charged.endswith("cost unknown") else reported[2])
    else:
        assert charged in ("as estimated", "the input")
        assert flagged == (1, event.usage.total, cost_nanos(PRICE, event.usage))
        assert event.usage.input > 0
        assert (event.usage.output > 0) == (charged == "as estimated")


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_a_row_of_the_tables_is_what_happens(case: Case) -> None:
    """The page is the specification: what it says of each end is played as it stands."""
    play = Play()
    for words in case.played.split(";"):
        play.do(words.strip())
    event, stage = play.event, play.stage
    assert (event.status, event.error, event.usage_source) == (case.status, case.error, case.usage_source)
    assert event.http_status == int(case.http_status)
    assert list(() if event.detail is None else event.detail.flags) == case.flags.split()
    _check_charge(play, case.charged)
    if not play.has_died:
        for plan in {id(plan): plan for plan in stage.plans.values()}.values():
            assert all(len(hold.settled) == 1 for hold in plan.holds)
        stage.exchange.terminal_recorded()
        assert stage.context.stats.in_flight == stage.context.stats.draining == 0


def test_the_tables_are_whole() -> None:
    """All rows are read, no two are the same, and every status, source, flag and fault is in one of them."""
    rows = [line for line in PAGE.read_text().splitlines() if line.count(" | ") == 7 and "what happens" not in line]
    assert len(rows) == len(CASES) > 60
    assert len({case.title for case in CASES}) == len({case.played for case in CASES}) == len(CASES)
    assert {case.status for case in CASES} == {status.value for status in Status}
    assert {case.usage_source for case in CASES} == {source.value for source in UsageSource}
    assert set(READ) - {BATCH_TOTAL, BATCH_FOUND} <= {flag for case in CASES for flag in case.flags.split()}
    told = {case.error.removeprefix("provider_") for case in CASES}
    assert set(FAULTS) - told == {"head_too_large"}  # told apart from `protocol` by its name only


def test_every_flag_has_its_line() -> None:
    """The page says of each flag what its vocabulary says."""
    page = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", PAGE.read_text())
    for flag, meaning in READ.items():
        assert f"| `{flag}` | {meaning} |" in page
