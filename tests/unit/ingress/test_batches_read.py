"""What answers say of batches: objects by the providers' API references, and the lines of their results."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingress.core.batches import UNREAD, Witness
from ingress.core.providers import anthropic_batches, openai_account
from schemas.batches import BatchSeen, Line, line_id
from schemas.flags import MALFORMED, MISSING_INPUT, MISSING_OUTPUT, NEGATIVE
from schemas.tokens import NO_TOKENS, TokenUsage

WHO = Witness("oai", msgspec.Raw(b"\x90"), 7)
USED = {
    "input_tokens": 1_500, "input_tokens_details": {"cached_tokens": 1_024}, "output_tokens": 500,
    "output_tokens_details": {"reasoning_tokens": 300}, "total_tokens": 2_000,
}  # fmt: skip
BATCH: dict[str, Any] = {
    "id": "batch_abc123", "object": "batch", "endpoint": "/v1/chat/completions", "model": "gpt-5-2025-08-07",
    "errors": None, "input_file_id": "file-abc123", "completion_window": "24h", "status": "completed",
    "output_file_id": "file-out", "error_file_id": "file-err", "created_at": 1_711_471_533,
    "in_progress_at": 1_711_471_538, "expires_at": 1_711_557_933, "finalizing_at": 1_711_493_133,
    "completed_at": 1_711_493_163, "failed_at": None, "expired_at": None, "cancelling_at": None, "cancelled_at": None,
    "request_counts": {"total": 100, "completed": 95, "failed": 5}, "usage": USED, "metadata": {"customer_id": "u1"},
}  # fmt: skip
MESSAGES: dict[str, Any] = {
    "id": "msgbatch_013Zva", "type": "message_batch", "processing_status": "ended",
    "request_counts": {"processing": 0, "succeeded": 95, "errored": 3, "canceled": 1, "expired": 1},
    "created_at": "2024-08-20T18:37:24.100435Z", "ended_at": "2024-08-20T19:37:24.100435Z",
    "expires_at": "2024-08-21T18:37:24.100435Z", "archived_at": None, "cancel_initiated_at": None,
    "results_url": "https://api.anthropic.com/v1/messages/batches/msgbatch_013Zva/results",
}  # fmt: skip


def seen(is_created: bool = False, **changes: Any) -> list[BatchSeen]:
    """Return what an answer says of OpenAI's batch with other members."""
    return openai_account.batches_in(msgspec.json.encode({**BATCH, **changes}), WHO, is_created)


def test_a_batch_that_is_over_tells_all() -> None:
    """Its state, files, model and usage, in the classes of live answers."""
    (found,) = seen()
    assert found == BatchSeen(
        "oai", "batch_abc123", 7, WHO.attribution, False, "chat.completions", True, 1_711_493_163_000,
        ("file-out", "file-err"), "gpt-5-2025-08-07", TokenUsage(476, 200, 1_024, reasoning=300), 95,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "changes", "is_over", "ended_ms"),
    [
        ("validating", {}, False, 0),
        ("in_progress", {}, False, 0),
        ("finalizing", {}, False, 0),
        ("cancelling", {"cancelling_at": 5}, False, 0),
        ("failed", {"failed_at": 5}, True, 5_000),
        ("expired", {"expired_at": 6}, True, 6_000),
        ("cancelled", {"cancelled_at": 7}, True, 7_000),
        ("cancelled", {"cancelled_at": "soon"}, True, 0),
        ("some new state", {}, False, 0),
    ],
)
def test_states_of_a_batch(status: str, changes: dict[str, Any], is_over: bool, ended_ms: int) -> None:
    """Only of a batch that is over the usage is its total."""
    (found,) = seen(status=status, **changes)
    assert (found.is_over, found.ended_ms, found.total is not None) == (is_over, ended_ms, is_over)


@pytest.mark.parametrize("usage", [None, {}, [], "x", {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
                                   {"input_tokens": 9}, {"input_tokens": -1, "output_tokens": 2}])  # fmt: skip
def test_usage_that_is_not_the_whole_is_no_total(usage: Any) -> None:
    """Nothing, zeros of an older batch, or a lower bound: its lines will say it."""
    (found,) = seen(usage=usage)
    assert (found.total, found.is_over) == (None, True)


@pytest.mark.parametrize(
    ("endpoint", "operation"),
    [("/v1/responses", "responses"), ("/v1/embeddings", "embeddings"), ("/v1/images/edits", "images.edits"),
     ("/v1/videos", ""), (7, "")],
)  # fmt: skip
def test_operation_is_that_of_the_endpoint(endpoint: Any, operation: str) -> None:
    """By the names of events; of an endpoint that is not served here, none."""
    assert seen(endpoint=endpoint)[0].operation == operation


def test_embeddings_have_no_output() -> None:
    """The total of a batch of embeddings is its input."""
    (found,) = seen(endpoint="/v1/embeddings", usage={"input_tokens": 10, "total_tokens": 10})
    assert found.total == TokenUsage(10)


def test_a_list_tells_each_of_its_batches() -> None:
    """Of a page of batches all are told, of a page of anything else none."""
    page = {"object": "list", "data": [BATCH, {"object": "file", "id": "f"}, {**BATCH, "id": "b2"}, 3], "has_more": 1}
    found = openai_account.batches_in(msgspec.json.encode(page), WHO, False)
    assert [each.batch_id for each in found] == ["batch_abc123", "b2"]


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'"batch"', b'{"object":"batch"}',
                                  b'{"object":"batch","id":7}', b'{"object":"batch","id":"../x"}'])  # fmt: skip
def test_what_is_no_batch_is_not_told(body: bytes) -> None:
    """Errors, deletions and ids that nothing can be asked for by."""
    assert openai_account.batches_in(body, WHO, True) == []
    assert anthropic_batches.batches_in(body, WHO, True) == []


def test_a_batch_that_is_no_strict_json_is_read() -> None:
    """As usage of live answers is."""
    body = msgspec.json.encode(BATCH).replace(b'"errors":null', b'"errors":NaN')
    (found,) = openai_account.batches_in(body, WHO, True)
    assert (found.is_created, found.requests, found.total is None) == (True, 95, False)


def test_a_message_batch_is_told() -> None:
    """Its state and its moment; what it used is nowhere but in its results."""
    (found,) = anthropic_batches.batches_in(msgspec.json.encode(MESSAGES), WHO, False)
    assert found == BatchSeen(
        "oai", "msgbatch_013Zva", 7, WHO.attribution, False, "messages", True, 1_724_182_644_100, requests=95
    )
    new = {**MESSAGES, "processing_status": "in_progress", "ended_at": None}
    page = msgspec.json.encode({"data": [new, MESSAGES], "has_more": False, "first_id": "a", "last_id": "b"})
    first, second = anthropic_batches.batches_in(page, WHO, True)
    assert (first.is_over, first.ended_ms, first.is_created, second.is_over) == (False, 0, True, True)
    gone = b'{"id":"msgbatch_013Zva","type":"message_batch_deleted"}'
    assert anthropic_batches.batches_in(gone, WHO, False) == []


def test_results_lead_here() -> None:
    """Addresses of results are the gateway's, on pages too; nothing else is changed."""
    here = "https://gw.example/v1/messages/batches/msgbatch_013Zva/results"
    body = msgspec.json.encode(MESSAGES)
    assert msgspec.json.decode(anthropic_batches.lead_here(body, "https://gw.example")) == {
        **MESSAGES, "results_url": here,
    }  # fmt: skip
    page = msgspec.json.encode({"data": [MESSAGES, {**MESSAGES, "results_url": None}], "has_more": False})
    found = msgspec.json.decode(anthropic_batches.lead_here(page, "https://gw.example"))
    assert [each["results_url"] for each in found["data"]] == [here, None]
    for same in (b"nonsense", b'"results_url"', b'{"results_url":"x"}', b'{"results_url":null,"id":"a"}'):
        assert anthropic_batches.lead_here(same, "https://gw.example") == same


# -- lines -------------------------------------------------------------------------------------------------------------


def line(body: Any, status: Any = 200, **more: Any) -> bytes:
    """Return a line of OpenAI's results."""
    response = {"status_code": status, "request_id": "req_1", "body": body}
    return msgspec.json.encode({"id": "batch_req_1", "custom_id": "one", "response": response, "error": None, **more})


CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1_711_475_054, "model": "gpt-5-2025-08-07",
    "choices": [], "usage": {"prompt_tokens": 22, "completion_tokens": 2, "total_tokens": 24},
}  # fmt: skip
ONE = line_id("one")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (CHAT, Line(ONE, "gpt-5-2025-08-07", TokenUsage(22, 2), 1_711_475_054_000, "chat.completions", "batch")),
        ({**CHAT, "service_tier": "default"},
         Line(ONE, "gpt-5-2025-08-07", TokenUsage(22, 2), 1_711_475_054_000, "chat.completions", "batch")),
        ({**CHAT, "service_tier": "flex"},
         Line(ONE, "gpt-5-2025-08-07", TokenUsage(22, 2), 1_711_475_054_000, "chat.completions", "flex")),
        ({"object": "response", "created_at": 5, "model": "r", "usage": USED, "status": "completed",
          "output": [{"type": "web_search_call", "status": "completed", "action": {"type": "search"}}]},
         Line(ONE, "r", TokenUsage(476, 200, 1_024, reasoning=300), 5_000, "responses", "batch", {"web_search": 1})),
        ({"object": "text_completion", "model": "c", "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
         Line(ONE, "c", TokenUsage(3, 4), 0, "completions", "batch")),
        ({"object": "list", "data": [], "model": "e", "usage": {"prompt_tokens": 5, "total_tokens": 5}},
         Line(ONE, "e", TokenUsage(5), 0, "embeddings", "batch")),
        ({"id": "modr-1", "model": "omni-moderation-latest", "results": []},
         Line(ONE, "omni-moderation-latest", NO_TOKENS, 0, "moderations", "batch")),
        ({"created": 9, "data": [{"b64_json": "x"}, {"b64_json": "y"}],
          "usage": {"input_tokens": 3, "output_tokens": 272, "total_tokens": 275}},
         Line(ONE, "", TokenUsage(3, image_output=272), 9_000, "", "batch")),
        ({"created": 9, "data": [{"url": "x"}, {"url": "y"}]},
         Line(ONE, "", NO_TOKENS, 9_000, "", "batch", {"images": 2})),
        ({"model": "m"}, Line(ONE, "m", None, 0, "", "batch", {}, (MISSING_INPUT, MISSING_OUTPUT))),
        ({**CHAT, "usage": {"prompt_tokens": 22, "completion_tokens": -3}},
         Line(ONE, "gpt-5-2025-08-07", TokenUsage(22), 1_711_475_054_000, "chat.completions", "batch", {},
              (MISSING_OUTPUT, NEGATIVE))),
        ({**CHAT, "usage": "much"},
         Line(ONE, "gpt-5-2025-08-07", None, 1_711_475_054_000, "chat.completions", "batch", {}, (MALFORMED,))),
    ],
)  # fmt: skip
def test_a_line_with_an_answer_is_told(body: Any, expected: Line) -> None:
    """As the same answer would be read if it came by itself, at the tier `batch` unless it says another."""
    assert openai_account.read_line(line(body)) == expected


@pytest.mark.parametrize(
    "raw",
    [
        line({"error": {"message": "no", "code": "model_not_found"}}, 404),
        line(None, 500),
        line({"error": {"message": "no"}}, 200),
        line(CHAT, response=None, error={"code": "batch_expired", "message": "not in time"}),
        line(CHAT, response=None),
        line(CHAT, response=None)[:-1].replace(b'"response":null,', b"") + b"}",
    ],
)
def test_a_line_without_an_answer_used_nothing(raw: bytes) -> None:
    """Errors, and what was not done in time."""
    assert openai_account.read_line(raw) is None


def test_an_error_that_tells_usage_is_told() -> None:
    """What a provider says was used is used, whatever the status is."""
    found = openai_account.read_line(line(CHAT, 500))
    assert found is not None
    assert found.usage == TokenUsage(22, 2)


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b"{}", b'{"custom_id":"one"}', b'{"custom_id":"one","response":"x"}', b"\xff",
     b'{"custom_id":"one","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}'],
)  # fmt: skip
def test_what_is_no_line_of_results_is_known(raw: bytes) -> None:
    """An input of a batch is none, nor is what cannot be read."""
    assert openai_account.read_line(raw) is UNREAD
    assert anthropic_batches.read_line(raw) is UNREAD


def test_a_line_without_a_name_has_no_id() -> None:
    """Its place in the file will be its name."""
    names: tuple[Any, ...] = (None, 7, {})
    for name in names:
        found = openai_account.read_line(line(CHAT, custom_id=name))
        assert found is not None
        assert found.id == b""


MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-5", "content": [],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 11, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 36,
              "service_tier": "batch", "server_tool_use": {"web_search_requests": 2}},
}  # fmt: skip


def test_a_message_is_told() -> None:
    """As it would be read if it came by itself."""
    raw = msgspec.json.encode({"custom_id": "one", "result": {"type": "succeeded", "message": MESSAGE}})
    assert anthropic_batches.read_line(raw) == Line(
        ONE, "claude-opus-5", TokenUsage(11, 36, 4), 0, "messages", "batch", {"web_search": 2}
    )
    for usage, flags in ((None, (MISSING_INPUT, MISSING_OUTPUT)), ([], (MALFORMED,))):
        silent = {"type": "succeeded", "message": {**MESSAGE, "usage": usage}}
        found = anthropic_batches.read_line(msgspec.json.encode({"custom_id": "one", "result": silent}))
        assert found == Line(ONE, "claude-opus-5", None, 0, "messages", "batch", {}, flags)


@pytest.mark.parametrize(
    "result",
    [
        {"type": "errored", "error": {"type": "error", "error": {"type": "invalid_request_error", "message": "x"}}},
        {"type": "canceled"},
        {"type": "expired"},
    ],
)
def test_a_message_that_was_not_answered_used_nothing(result: Any) -> None:
    """Nobody bills it."""
    assert anthropic_batches.read_line(msgspec.json.encode({"custom_id": "one", "result": result})) is None
