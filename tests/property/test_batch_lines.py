"""Laws of files of results: how the network cuts them makes no difference, and memory is bounded."""

from __future__ import annotations

import itertools
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.core import lines as module
from ingress.core.batches import ReadLine
from ingress.core.lines import LineReader, LinesRelay
from ingress.core.providers import anthropic_batches, openai_account
from schemas.batches import LINES_PER_RECORD, Line, line_id
from schemas.flags import MALFORMED
from schemas.tokens import TokenUsage

BODY = {"object": "chat.completion", "created": 5, "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


def result(name: object, text: str = "", status: int = 200) -> bytes:
    """Return a line of OpenAI's results."""
    body = {**BODY, "text": text} if status == 200 else {"error": {"message": "é"}}
    response = {"status_code": status, "request_id": "r", "body": body}
    return msgspec.json.encode({"id": "batch_req_1", "custom_id": name, "response": response, "error": None})


LONG = result("too long", "x" * 400)
FILE = b"\n".join([
    result("one", "a\nb"), b"", result("twö"), result("bad", status=400), b'{"custom_id":"broken","response":{"sta',
    b"  ", LONG, result(None), b"no line at all", result("last") + b"\r", b"",
])  # fmt: skip
ANTHROPIC = b"".join(
    msgspec.json.encode({"custom_id": f"m-{at}", "result": each}) + b"\n"
    for at, each in enumerate((
        {"type": "succeeded", "message": {"model": "c", "usage": {"input_tokens": 1, "output_tokens": 2}}},
        {"type": "expired"},
        {"type": "succeeded", "message": {"model": "c", "usage": {"input_tokens": 5, "output_tokens": 6}}},
    ))
)  # fmt: skip
INPUT = b'{"custom_id":"one","method":"POST","url":"/v1/x","body":{"response":{"body":{"usage":{}}}}}\n' + FILE
READ = openai_account.read_line
CASES = [("openai", FILE, READ), ("anthropic", ANTHROPIC, anthropic_batches.read_line), ("input", INPUT, READ)]


def _run(pieces: list[bytes], read: ReadLine) -> tuple[bytes, list[Line]]:
    told: list[Line] = []
    reader = LineReader(read, "file-1", told.extend)
    relay = LinesRelay(reader)
    with patch.object(module, "MAX_LINE_BYTES", 400):
        out = b"".join([*(relay.feed(piece) for piece in pieces), relay.finish()])
        reader.finish()
        reader.flush()
    return out, told


@pytest.mark.parametrize(("name", "file", "read"), CASES, ids=[case[0] for case in CASES])
def test_every_single_split_gives_the_same_lines(name: str, file: bytes, read: ReadLine) -> None:
    """Cut in two at every offset, and into single bytes: same bytes for the client, same lines."""
    whole, lines = _run([file], read)
    assert whole == file
    assert bool(lines) == (name != "input")
    for at in range(len(file) + 1):
        assert _run([file[:at], file[at:]], read) == (file, lines), at
    assert _run([file[at : at + 1] for at in range(len(file))], read) == (file, lines)


@given(st.lists(st.integers(0, len(FILE)), max_size=12))
def test_any_split_gives_the_same_lines(cuts: list[int]) -> None:
    """However many pieces there are."""
    pieces = [FILE[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(FILE)])]
    assert _run(pieces, READ) == _run([FILE], READ)


def test_lines_are_told_by_their_names() -> None:
    """What can be read with its usage; what cannot, by name or place, as unknown; what used nothing, not at all."""
    _, lines = _run([FILE], READ)
    used = TokenUsage(3, 4)
    assert [(line.id, line.usage, line.flags) for line in lines] == [
        (line_id("one"), used, ()),
        (line_id("twö"), used, ()),
        (line_id("broken"), None, (MALFORMED,)),
        (line_id("too long"), None, (MALFORMED,)),
        (line_id("\0file-1\0" + "8"), used, ()),
        (line_id("\0file-1\0" + "9"), None, (MALFORMED,)),
        (line_id("last"), used, ()),
    ]
    assert len({line.id for line in lines}) == len(lines)


@pytest.mark.parametrize("file", [b"", b"\n\n", b"%PDF-1.7\n" + FILE, b"\x00" * 999, b"{}\n" + FILE, b"[1]\n" + FILE,
                                  b'{"messages":[]}\n' + FILE, b"x" * 2_000, b'{"x":"' + b"x" * 2_000])  # fmt: skip
def test_a_file_whose_first_line_is_none_is_not_read(file: bytes) -> None:
    """It passes as it is, and nothing of it is told."""
    assert _run([file], READ) == (file, [])
    assert _run([file[:7], file[7:]], READ) == (file, [])


def test_a_first_line_that_is_too_long_is_known_by_its_beginning() -> None:
    """A result of many megabytes is one all the same."""
    _, lines = _run([LONG + b"\n" + result("two")], READ)
    assert [(line.id, line.usage is None) for line in lines] == [(line_id("too long"), True), (line_id("two"), False)]


def test_memory_is_bounded() -> None:
    """Of a line without an end no more than the bound is kept, and lines go when they are as many as fit."""
    told: list[list[Line]] = []
    reader = LineReader(READ, "f", told.append)
    for at in range(LINES_PER_RECORD * 2 + 1):
        reader.feed(result(str(at)) + b"\n")
    assert [len(each) for each in told] == [LINES_PER_RECORD, LINES_PER_RECORD]
    piece = b'{"custom_id":"endless","response":' + b"x" * 1_000_000
    for _ in range(20):
        reader.feed(piece)
        assert sum(map(len, reader._parts)) <= module.MAX_LINE_BYTES + len(piece)
    assert sum(map(len, reader._parts)) == 4_096
    reader.finish()
    reader.flush()
    assert [line.id for line in told[-1]] == [line_id(str(LINES_PER_RECORD * 2)), line_id("endless")]
