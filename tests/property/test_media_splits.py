"""Streams of images and sound give the same usage and the same bytes, however the network cuts them; so do bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.simulator.answer import Answer
from deploy.simulator.ask_media import read_audio, read_images, read_speech
from deploy.simulator.connection import Request
from deploy.simulator.media_api import edits, generations, speech, transcriptions
from ingress.core.bytes_relay import BytesRelay
from ingress.core.providers import openai_audio, openai_images
from ingress.core.providers.openai_media import MediaStream
from ingress.core.sse import EventRelay
from schemas.tokens import TokenUsage

JSON = {b"content-type": b"application/json"}
FORM = {b"content-type": b"multipart/form-data; boundary=b"}
_FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b\r\nContent-Disposition: form-data; '
    b'name="stream"\r\n\r\ntrue\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--'
)


def _request(headers: dict[bytes, bytes], body: bytes) -> Request:
    return Request(b"POST", b"/", headers, body)


def _streamed(answer: Answer) -> bytes:
    return b"".join(answer.parts)


IMAGES = _request(JSON, b'{"model":"m","prompt":"a cat","stream":true,"partial_images":1,"quality":"low"}')
SPEECH = _request(JSON, b'{"model":"m","input":"[[sim chunks=1 output=9]] x","voice":"v","stream_format":"sse"}')
SOUND = _request(FORM, _FORM)
CASES: list[tuple[str, bytes, TokenUsage]] = [
    ("images", _streamed(generations(read_images(IMAGES), b"1", 7)), TokenUsage(2, image_output=272)),
    ("edits", _streamed(edits(read_images(IMAGES), b"1", 7)), TokenUsage(2, image_output=272)),
    ("speech", _streamed(speech(read_speech(SPEECH), b"1")).replace(b"A" * 40, b""), TokenUsage(1, audio_output=9)),
    ("sound", _streamed(transcriptions(read_audio(SOUND), b"1")), TokenUsage(0, 16, audio_input=10)),
]
OPEN = {
    "images": openai_images.open_stream, "edits": openai_images.open_stream, "speech": openai_audio.open_speech,
    "sound": openai_audio.open_written,
}  # fmt: skip


def _run(name: str, pieces: list[bytes]) -> tuple[bytes, bytes, MediaStream, bool]:
    """Return what goes on at once, what waits for the log, the reader, and whether the end was seen."""
    relay = EventRelay(reader := OPEN[name](False))
    at_once = b"".join([relay.feed(piece) for piece in pieces])
    return at_once, relay.finish(), reader, relay.is_ended


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(("name", "stream", "usage"), CASES, ids=[case[0] for case in CASES])
def test_every_cut_gives_the_same_usage(name: str, stream: bytes, usage: TokenUsage, end: bytes) -> None:
    """Cut in two at every offset; the event with the usage is never sent before it is on the log."""
    stream = stream.replace(b"\n", end)
    for at in range(len(stream) + 1):
        at_once, held, reader, is_ended = _run(name, [stream[:at], stream[at:]])
        assert at_once + held == stream
        assert (reader.reported.usage, reader.reported.is_final, is_ended) == (usage, True, True), at
        assert b"usage" in held


@pytest.mark.parametrize(("name", "stream", "usage"), CASES, ids=[case[0] for case in CASES])
def test_what_breaks_off_has_all_of_its_usage_or_none(name: str, stream: bytes, usage: TokenUsage) -> None:
    """A stream that ends at any byte has told its usage only with its last event."""
    for at in range(len(stream)):
        _, _, reader, _ = _run(name, [stream[:at]])
        assert reader.reported.usage in (None, usage)
        assert reader.reported.usage is None or stream[at:].strip(b"\r\n") == b""


@given(st.lists(st.binary(max_size=50), max_size=12), st.lists(st.integers(0, 600), max_size=12))
def test_bytes_are_relayed_unchanged(pieces: list[bytes], cuts: list[int]) -> None:
    """Whatever they are and however they are cut; the last piece waits for the end."""
    stream = b"".join(pieces)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    relay = BytesRelay()
    out = [relay.feed(stream[a:b]) for a, b in itertools.pairwise(bounds)]
    last = relay.finish()
    assert b"".join(out) + last == stream
    assert last == stream[bounds[-2] :]
