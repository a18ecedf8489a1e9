"""The tables of `docs/usage.md`: what is charged and flagged for each usage object that a provider may send."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ingress.core.providers import anthropic, openai, responses
from ingress.core.reported import Reported, estimated
from ingress.core.sse import EventReader, EventRelay
from schemas import flags
from schemas.tokens import NO_TOKENS, TokenUsage

PAGE = Path(__file__).parents[3] / "docs" / "usage.md"
ROW = re.compile(r"^\| `(?P<usage>.+)` \| (?P<charged>[^|]+) \| (?P<flags>[^|]+) \|$", re.MULTILINE)
INPUT_TOKENS, OUTPUT_TOKENS = 1_000, 2_000
"""Estimates, larger than anything in the tables."""

Row = tuple[str, str, str]
Read = Callable[[str], Reported]


def _rows(heading: str) -> list[Row]:
    part = PAGE.read_text().split(f"### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    return [(match["usage"], match["charged"], match["flags"]) for match in ROW.finditer(part)]


def _stream(reader: EventReader, events: str) -> Reported:
    relay = EventRelay(reader)
    data = events.encode()
    size = max(7, len(data) // 100)
    out = b"".join(relay.feed(data[at : at + size]) for at in range(0, len(data), size)) + relay.finish()
    assert out == data
    return reader.reported


def _chat(usage: str) -> Reported:
    return openai.read_answer(f'{{"model":"m","choices":[],"usage":{usage}}}'.encode())


def _chat_stream(usage: str) -> Reported:
    chunk = f'data: {{"model":"m","choices":[],"usage":{usage}}}\n\ndata: [DONE]\n\n'
    return _stream(openai.OpenAIStream(False), chunk)


def _response(usage: str) -> Reported:
    return responses.read_answer(f'{{"model":"m","status":"completed","usage":{usage}}}'.encode())


def _response_stream(usage: str) -> Reported:
    response = f'{{"model":"m","status":"completed","usage":{usage}}}'
    return _stream(responses.ResponsesStream(), f'data: {{"type":"response.completed","response":{response}}}\n\n')


def _message(usage: str) -> Reported:
    return anthropic.read_answer(f'{{"type":"message","model":"m","usage":{usage}}}'.encode())


def _message_stream(usage: str) -> Reported:
    events = f'data: {{"type":"message_delta","delta":{{}},"usage":{usage}}}\n\ndata: {{"type":"message_stop"}}\n\n'
    return _stream(anthropic.AnthropicStream(), events)


OPENAI = _rows("OpenAI's protocol")
ANTHROPIC = _rows("Anthropic's protocol")
CASES = [
    *((read, row) for row in OPENAI for read in (_chat, _chat_stream)),
    *((read, row) for row in OPENAI if "input_tokens" not in row[0] for read in (_response, _response_stream)),
    *((read, row) for row in ANTHROPIC for read in (_message, _message_stream)),
]


def _tells_nothing(read: Read, usage: str) -> bool:
    """Whether a stream passes the usage by: there are no counts in it."""
    return read is _chat_stream and '_tokens"' not in usage


@pytest.mark.parametrize(("read", "row"), CASES)
def test_row_of_the_table_holds(read: Read, row: Row) -> None:
    """The same for a whole answer and for a stream, in the spelling of each operation: classes, estimates, flags."""
    usage, charged, odd = row
    if read in (_response, _response_stream):
        usage = usage.replace("prompt_tokens", "input_tokens").replace("completion_tokens", "output_tokens")
    reported = read(usage)
    if _tells_nothing(read, usage):
        assert (reported.usage, reported.flags) == (None, ())
        return
    classes, least = _expected(charged)
    assert set(reported.flags) == set(re.findall(r"`(\w+)`", odd))
    assert set(reported.flags) <= set(flags.ODD)
    assert reported.is_final is not bool(least)
    if reported.usage is None:
        assert classes == NO_TOKENS
        assert reported.fault == "unreadable_usage"
    else:
        assert (reported.usage, reported.fault) == (classes, "")
    held = estimated(reported, INPUT_TOKENS, OUTPUT_TOKENS, True)
    assert held.all_input == (INPUT_TOKENS if "input" in least else classes.all_input)
    assert held.all_output == (OUTPUT_TOKENS if "output" in least else classes.all_output)


def _expected(charged: str) -> tuple[TokenUsage, set[str]]:
    """Return the classes that a cell of the table names, and the sides of which they are the least."""
    if charged == "nothing":
        return NO_TOKENS, set()
    parts = [part.split(" ") for part in charged.split(", ")]
    return (
        TokenUsage(**{name: int(count.rstrip("+")) for name, count in parts}),
        {name for name, count in parts if count.endswith("+")},
    )


def test_tables_are_read_whole() -> None:
    """No row escapes the pattern, and every flag of usage has a row or a rule."""
    text = PAGE.read_text()
    assert len(OPENAI) + len(ANTHROPIC) == sum(
        line.startswith(("| `{", "| `[", '| `"', "| `7")) for line in text.split("\n")
    )
    assert all(f"`{flag}`" in text for flag in flags.ODD)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_usage_that_is_nested_deep_breaks_nothing(depth: int) -> None:
    """Deeper than any decoder goes, in whole answers and in streams."""
    usage = '{"prompt_tokens":' + '{"a":' * depth + "1" + "}" * depth + "}"
    for read in (_chat, _chat_stream, _response, _response_stream):
        reported = read(usage)
        assert reported.flags
        assert not reported.is_final


def test_long_text_that_is_no_json_is_not_looked_at_twice() -> None:
    """A megabyte of what the strict decoder refuses is given up at once."""
    body = b'{"usage":{"prompt_tokens":1,"completion_tokens":NaN},"x":"' + b"x" * (1 << 20) + b'"}'
    assert openai.read_answer(body) == Reported(fault="unreadable_usage", is_final=False, flags=(flags.MALFORMED,))
    assert openai.read_answer(body[:200] + b'"}').usage == TokenUsage(1)


def test_of_two_usages_the_last_one_counts() -> None:
    """As for the libraries of clients, which keep the last of two members with one name."""
    body = b'{"usage":{"prompt_tokens":9,"completion_tokens":9},"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    assert openai.read_answer(body).usage == TokenUsage(1, 2)


@pytest.mark.parametrize("tier", ["7", '"' + "x" * 33 + '"', '"flex\\u0000"', '"fl\\u00e9x"', "{}", "true"])
def test_tier_that_is_no_name_is_the_standard_one(tier: str) -> None:
    """A provider cannot put what it likes into events and metrics."""
    usage = '{"prompt_tokens":1,"completion_tokens":2}'
    reported = openai.read_answer(f'{{"usage":{usage},"service_tier":{tier}}}'.encode())
    assert (reported.service_tier, reported.flags, reported.usage) == ("", (flags.UNKNOWN_TIER,), TokenUsage(1, 2))


@pytest.mark.parametrize(
    ("tier", "kept"),
    [("default", ""), ("auto", ""), ("standard", ""), ("flex", "flex"), ("priority", "priority"), ("Scale", "scale")],
)
def test_service_tier_that_served_is_kept(tier: str, kept: str) -> None:
    """The standard tier has no name; the others keep theirs."""
    usage = '{"prompt_tokens":1,"completion_tokens":2}'
    reported = openai.read_answer(f'{{"usage":{usage},"service_tier":"{tier}"}}'.encode())
    assert (reported.service_tier, reported.flags) == (kept, ())
