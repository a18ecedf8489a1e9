"""Answers that say something of batches: what is told of them, and what the client has before it is on the log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingress.core.accounts import AccountExchange
from ingress.core.exchange import Exchange
from ingress.core.protocols_media import account_operation
from ingress.routes import find
from schemas.attempts import Drain
from schemas.batches import LINES_PER_RECORD, BatchSeen, LinesSeen, Sighting, line_id
from tests.unit.ingress.playbook import HEADERS, NOW, SHORT, FakePlan, Stage
from tests.unit.ingress.test_batches_read import BATCH, CHAT, MESSAGES, line

TEXT = [(b"content-type", b"application/octet-stream")]
FILE = [line(CHAT, custom_id=str(at)) + b"\n" for at in range(3)]


class Account(Stage):
    """A request about an account, up to the provider."""

    def __init__(self, method: bytes, path: bytes, headers: Any = HEADERS, plan: FakePlan | None = None) -> None:
        operation = account_operation(method, path)
        assert operation is not None
        super().__init__(operation, plan=plan)
        self.ask(b"whatever", headers)
        if "admitted" in self.names:
            self.exchange.admitted_recorded()

    @property
    def sightings(self) -> list[Sighting]:
        """What was told."""
        return [effect[1] for effect in self.effects if effect[0] == "tell"]

    @property
    def lines(self) -> list[bytes]:
        """Ids of the lines that were told."""
        return [one.id for each in self.sightings if isinstance(each, LinesSeen) for one in each.lines]

    def recorded(self, *outcomes: bool) -> None:
        """Answer for the log of batches."""
        assert isinstance(self.exchange, AccountExchange)
        for outcome in outcomes:
            self.exchange.told(outcome, NOW + 40)

    def file(self, *pieces: bytes) -> None:
        """Play a file that streams by."""
        self.exchange.provider_head(200, TEXT, NOW + 20)
        for piece in pieces:
            self.exchange.provider_data(piece, NOW + 25)

    def client_has(self) -> bytes:
        """Return the bytes that have gone to the client."""
        return b"".join(effect[-1] for effect in self.effects if effect[0] in ("data", "end", "whole"))


def batch(**changes: Any) -> bytes:
    """Return a batch as an answer."""
    return msgspec.json.encode({**BATCH, **changes})


@pytest.mark.parametrize(
    ("method", "path", "body", "is_created"),
    [
        (b"POST", b"/v1/batches", batch(status="validating"), True),
        (b"GET", b"/v1/batches/batch_abc123", batch(), False),
        (b"POST", b"/v1/batches/batch_abc123/cancel", batch(status="cancelling"), False),
        (b"GET", b"/v1/batches", msgspec.json.encode({"object": "list", "data": [BATCH]}), False),
        (b"POST", b"/v1/messages/batches", msgspec.json.encode(MESSAGES), True),
        (b"GET", b"/v1/messages/batches/msgbatch_013Zva", msgspec.json.encode(MESSAGES), False),
        (b"POST", b"/v1/messages/batches/msgbatch_013Zva/cancel", msgspec.json.encode(MESSAGES), False),
        (b"GET", b"/v1/messages/batches", msgspec.json.encode({"data": [MESSAGES]}), False),
    ],
)
def test_a_batch_is_on_the_log_before_the_client_has_it(
    method: bytes, path: bytes, body: bytes, is_created: bool
) -> None:
    """Nothing goes to the client, and nothing ends, before what the answer says is recorded."""
    account = Account(method, path)
    account.answered(body)
    (seen,) = account.sightings
    assert isinstance(seen, BatchSeen)
    assert (seen.provider, seen.attribution) == ("sim", account.plan.attribution)
    assert (seen.is_created, seen.seen_ms) == (is_created, NOW + 30)
    assert account.names[-1] == "tell"
    account.recorded(True)
    assert account.names[-2:] == ["tell", "terminal"]
    account.exchange.terminal_recorded()
    assert account.names[-1] == "whole"
    assert account.told[0] == 200
    assert (account.terminal.status, account.terminal.charge_requests, account.terminal.cost_nanos) == ("settled", 1, 0)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        (b"GET", b"/v1/batches/b", b'{"error":{"message":"No such batch"}}', 404),
        (b"GET", b"/v1/batches/b", batch(), 500),
        (b"GET", b"/v1/batches/b", b"<html>", 200),
        (b"GET", b"/v1/batches", b'{"object":"list","data":[]}', 200),
        (b"DELETE", b"/v1/messages/batches/b", b'{"id":"b","type":"message_batch_deleted"}', 200),
        (b"GET", b"/v1/files/b/content", b'{"error":{"message":"No such file"}}', 404),
        (b"GET", b"/v1/messages/batches/b/results", b'{"type":"error","error":{"type":"not_found_error"}}', 404),
    ],
)
def test_what_says_nothing_of_batches_waits_for_nothing(method: bytes, path: bytes, body: bytes, status: int) -> None:
    """Errors and deletions go to the client as they are."""
    account = Account(method, path)
    account.answered(body, status)
    assert account.sightings == []
    account.exchange.terminal_recorded()
    assert account.client_has() == body


def test_whole_answer_that_is_not_recorded_is_an_error() -> None:
    """The client is to ask again; what is told in vain ends the exchange once."""
    account = Account(b"GET", b"/v1/batches")
    account.answered(msgspec.json.encode({"object": "list", "data": [BATCH, {**BATCH, "id": "b2"}, BATCH]}))
    account.recorded(True, False, False)
    account.exchange.terminal_recorded()
    status, lines, told = account.told
    assert (status, told["error"]["code"]) == (503, "batch_not_recorded")
    assert b"retry-after: 2\r\n" in lines
    assert (account.terminal.status, account.terminal.error) == ("failed", "batch_not_recorded")
    assert account.hold.settled == [(1, 0, 0)]


def test_all_of_a_page_is_waited_for() -> None:
    """The answer goes with the last of what it says."""
    account = Account(b"GET", b"/v1/batches")
    account.answered(msgspec.json.encode({"object": "list", "data": [BATCH, {**BATCH, "id": "b2"}]}))
    account.recorded(True)
    assert "terminal" not in account.names
    account.recorded(True)
    assert account.names[-1] == "terminal"


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ([(b"host", b"gw.example:8080")], "http://gw.example:8080"),
        ([(b"host", b"gw.example"), (b"x-forwarded-proto", b"https, http")], "https://gw.example"),
        ([(b"x-forwarded-proto", b"HTTPS"), (b"host", b"[::1]:80")], "https://[::1]:80"),
        ([(b"host", b"gw"), (b"x-forwarded-proto", b"gopher")], "http://gw"),
        ([(b"host", b'x"/evil')], ""),
        ([], ""),
    ],
)
def test_results_are_to_be_fetched_here(headers: list[tuple[bytes, bytes]], url: str) -> None:
    """By the name that the client calls us; without one by a path alone, which SDKs take as below their base URL."""
    account = Account(b"GET", b"/v1/messages/batches/msgbatch_013Zva", [*HEADERS, *headers])
    account.answered(msgspec.json.encode(MESSAGES))
    account.recorded(True)
    account.exchange.terminal_recorded()
    assert account.told[2] == {**MESSAGES, "results_url": f"{url}/v1/messages/batches/msgbatch_013Zva/results"}


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "ids"),
    [(b"/v1/files/file-out/content", ("", "file-out")), (b"/v1/messages/batches/b-1/results", ("b-1", ""))],
)
def test_lines_are_on_the_log_before_the_last_piece(path: bytes, ids: tuple[str, str]) -> None:
    """The file streams by; its last piece waits for its lines."""
    body = FILE if ids[1] else [
        msgspec.json.encode({"custom_id": str(at), "result": {"type": "succeeded", "message": {"usage": {}}}}) + b"\n"
        for at in range(3)
    ]  # fmt: skip
    account = Account(b"GET", path)
    account.file(*body)
    assert account.client_has() == body[0] + body[1]
    account.exchange.provider_end(NOW + 30)
    (seen,) = account.sightings
    assert isinstance(seen, LinesSeen)
    assert (seen.provider, seen.batch_id, seen.file_id) == ("sim", *ids)
    assert account.lines == [line_id(str(at)) for at in range(3)]
    assert account.client_has() == body[0] + body[1]
    account.recorded(True)
    account.exchange.terminal_recorded()
    assert account.client_has() == b"".join(body)
    assert account.names[-1] == "end"


@pytest.mark.parametrize("kind", [b"application/json", b"text/plain", b"application/x-jsonl"])
def test_a_file_streams_whatever_it_calls_itself(kind: bytes) -> None:
    """Its size has no bound, so it is never kept."""
    account = Account(b"GET", b"/v1/files/f/content")
    account.exchange.provider_head(200, [(b"content-type", kind)], NOW)
    account.exchange.provider_data(FILE[0], NOW)
    assert account.names[-1] == "head"


def test_many_lines_are_told_while_the_file_streams() -> None:
    """So many at a time; all of them are waited for in the end."""
    account = Account(b"GET", b"/v1/files/f/content")
    account.file(*(line(CHAT, custom_id=str(at)) + b"\n" for at in range(2 * LINES_PER_RECORD + 1)))
    assert len(account.sightings) == 2
    account.recorded(True)
    account.exchange.provider_end(NOW)
    assert len(account.sightings) == 3
    account.recorded(True)
    assert "terminal" not in account.names
    account.recorded(True)
    assert account.names[-1] == "terminal"
    assert len(set(account.lines)) == 2 * LINES_PER_RECORD + 1


@pytest.mark.parametrize("is_whole", [False, True])
def test_file_whose_lines_are_not_recorded_is_cut(is_whole: bool) -> None:
    """At once, also before it has come to its end: the client is to ask again."""
    account = Account(b"GET", b"/v1/files/f/content")
    account.file(*(line(CHAT, custom_id=str(at)) + b"\n" for at in range(LINES_PER_RECORD + 1)))
    if is_whole:
        account.exchange.provider_end(NOW)
    account.recorded(False)
    assert account.terminal.error == "batch_not_recorded"
    account.exchange.terminal_recorded()
    assert account.names[-1] == "cut"
    assert ("cancel",) in account.effects
    assert len(account.lines) == LINES_PER_RECORD + 1
    account.recorded(*[True] * (len(account.sightings) - 1))
    assert account.names[-1] == "cut"


@pytest.mark.parametrize("is_read_on", [False, True])
def test_client_that_hangs_up_on_a_file_has_paid_for_what_it_saw(is_read_on: bool) -> None:
    """What has come by is told, with the rest if the policy lets the answer be read on."""
    plan = FakePlan()
    plan.drain = Drain() if is_read_on else None
    account = Account(b"GET", b"/v1/files/f/content", plan=plan)
    account.file(*FILE[:2])
    account.exchange.client_gone(NOW)
    if is_read_on:
        assert account.sightings == []
        account.exchange.provider_data(FILE[2], NOW)
        account.exchange.provider_end(NOW)
        assert "terminal" not in account.names
    assert account.lines == [line_id(str(at)) for at in range(3 if is_read_on else 2)]
    account.recorded(True)
    assert account.terminal.status == "cancelled"
    account.exchange.terminal_recorded()


def test_answer_that_is_read_on_and_not_recorded_ends() -> None:
    """Nobody waits for it."""
    plan = FakePlan()
    plan.drain = Drain()
    account = Account(b"GET", b"/v1/files/f/content", plan=plan)
    account.file(FILE[0])
    account.exchange.client_gone(NOW)
    account.exchange.provider_end(NOW)
    account.recorded(False)
    assert account.terminal.status == "cancelled"
    account.exchange.terminal_recorded()
    assert account.context.stats.draining == 0


@pytest.mark.parametrize("path", [b"/v1/batches/batch_abc123", b"/v1/files/f/content"])
def test_client_that_hangs_up_while_the_log_is_waited_for_changes_nothing(path: bytes) -> None:
    """The answer is there, and its end is that of an answer."""
    account = Account(b"GET", path)
    if path.endswith(b"content"):
        account.file(FILE[0])
        account.exchange.provider_end(NOW)
    else:
        account.is_on_its_way = False  # the provider's part is over, as a driver says it then
        account.answered(batch())
    account.exchange.client_gone(NOW)
    assert "terminal" not in account.names
    account.recorded(True)
    assert account.terminal.status == "settled"


def test_file_that_breaks_off_tells_its_whole_lines() -> None:
    """A line of which a part is missing is told when it is fetched again."""
    account = Account(b"GET", b"/v1/files/f/content")
    account.file(FILE[0], FILE[1][:-9])
    account.exchange.provider_fault("reset", True, "", NOW)
    assert account.lines == [line_id("0")]
    assert account.terminal.error == "provider_reset"
    account.exchange.terminal_recorded()
    assert account.names[-1] == "cut"


def test_bug_ends_an_account_like_any_other() -> None:
    """With its answer still waiting for the log, too."""
    account = Account(b"GET", b"/v1/batches/batch_abc123")
    account.answered(batch())
    account.exchange.crash(NOW)
    account.recorded(True)
    assert account.terminal.error == "internal"
    account.exchange.terminal_recorded()
    assert account.told[0] == 500


# -- admission ---------------------------------------------------------------------------------------------------------


def test_only_a_creation_asks_for_room() -> None:
    """A budget that is used up has no room for the least there is; whatever else is asked costs nothing."""
    for method, path, nanos in (
        (b"POST", b"/v1/batches", 1),
        (b"POST", b"/v1/messages/batches", 1),
        (b"POST", b"/v1/batches/b/cancel", 0),
        (b"GET", b"/v1/batches", 0),
        (b"POST", b"/v1/files", 0),
        (b"GET", b"/v1/messages/batches/b/results", 0),
    ):
        account = Account(method, path)
        assert account.plan.holds[0].reserved == (0, nanos), path


def test_creation_is_refused_without_room() -> None:
    """As any request is whose budget is used up."""
    plan = FakePlan()
    plan.denied = SHORT
    account = Account(b"POST", b"/v1/batches", plan=plan)
    account.exchange.terminal_recorded()
    assert account.told[0] == 429
    assert account.terminal.operation == "batches"


def test_requests_that_are_about_no_batch_are_not_looked_at() -> None:
    """Chat, and files that are listed, uploaded or deleted, are plain exchanges."""
    for method, path in (
        (b"POST", b"/v1/chat/completions"),
        (b"GET", b"/v1/files"),
        (b"POST", b"/v1/files"),
        (b"DELETE", b"/v1/files/f"),
    ):
        operation = find(method, path)
        assert operation is not None
        assert operation.sees is None
        assert type(Stage(operation).exchange) is Exchange
