"""Laws of the event relay: how the network cuts a stream into pieces makes no difference."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.core.providers.anthropic import AnthropicStream
from ingress.core.providers.openai import OpenAIStream
from ingress.core.sse import EventReader, EventRelay

OPENAI = (
    b'data: {"model":"m","choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}\n\n'
    b'data: {"model":"m","choices":[{"delta":{"content":"usage"}}],"usage":null}\n\n: comment\n\n\n'
    b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
    b"data: [DONE]\n\n"
)
ANTHROPIC = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"c","usage":{"input_tokens":9,'
    b'"output_tokens":1}}}\n\nevent: ping\ndata: {"type":"ping"}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"message_stop \xc3\xa9"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":12}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
Make = Callable[[], EventReader]
CASES: list[tuple[str, bytes, Make]] = [
    ("openai", OPENAI, lambda: OpenAIStream(False)),
    ("openai-hidden", OPENAI, lambda: OpenAIStream(True)),
    ("anthropic", ANTHROPIC, AnthropicStream),
]
ENDS = [b"\n", b"\r\n", b"\r"]


def _run(pieces: list[bytes], make: Make) -> tuple[bytes, EventReader]:
    relay = EventRelay(make())
    out = b"".join([*(relay.feed(piece) for piece in pieces), relay.finish()])
    return out, relay.reader


def _whole(stream: bytes, make: Make) -> tuple[bytes, EventReader]:
    return _run([stream], make)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("name", "stream", "make"), CASES)
def test_every_single_split_gives_the_same(name: str, stream: bytes, make: Make, end: bytes) -> None:
    """Cut in two at every offset: same bytes for the client, same usage."""
    stream = stream.replace(b"\n", end)
    whole, reader = _whole(stream, make)
    assert reader.reported.usage is not None, name
    for at in range(len(stream) + 1):
        out, other = _run([stream[:at], stream[at:]], make)
        assert (out, other.reported) == (whole, reader.reported), (name, at)


@given(
    st.sampled_from(CASES),
    st.sampled_from(ENDS),
    st.lists(st.integers(0, 700), max_size=30),
)
def test_any_splits_give_the_same(case: tuple[str, bytes, Make], end: bytes, cuts: list[int]) -> None:
    """Cut anywhere, any number of times: same bytes, same usage."""
    _, stream, make = case
    stream = stream.replace(b"\n", end)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    out, reader = _run([stream[a:b] for a, b in itertools.pairwise(bounds)], make)
    whole, expected = _whole(stream, make)
    assert (out, reader.reported) == (whole, expected.reported)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_are_relayed_unchanged(pieces: list[bytes]) -> None:
    """Garbage is no reason to lose, change or reorder a byte."""
    assert _run(pieces, lambda: OpenAIStream(False))[0] == b"".join(pieces)
    assert _run(pieces, AnthropicStream)[0] == b"".join(pieces)
