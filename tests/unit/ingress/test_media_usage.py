"""Images and sound: what is asked for, what it may come to, what an answer says, what is charged if it says little."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest

from ingress.core.audio_length import likely_ms, most_ms
from ingress.core.expected import NOTHING, Expected, charged, most_nanos
from ingress.core.multipart import File, Form
from ingress.core.protocols_media import account_methods, account_operation
from ingress.core.providers import openai_audio, openai_images
from ingress.core.providers.openai_media import MediaStream
from ingress.core.reported import NOTHING_REPORTED, Reported
from ingress.core.strict_json import InputError
from schemas.money import Price, Rates
from schemas.tokens import NO_TOKENS, TokenUsage

RATES = Rates(0, 1_000_000, 0, 0, 0, 2_000_000, 0, 3_000_000, 4_000_000, 5_000_000, 6_000_000)
BY_TOKENS = Price("t", "v", (RATES,))
BY_IMAGE = Price("t", "v", (), units={"images": 40_000_000})
RESERVE = Price("r", "v", (RATES,), units={"images": 500_000_000_000, "characters": 10**9})


def form(**texts: str) -> Form:
    """Return a form with a file of sound and these texts."""
    found = Form()
    found.update(texts)
    found.files.append(File("file", 4_000, b""))
    return found


def wav(rate: int, channels: int, bits: int, size: int, per_s: int | None = None) -> File:
    """Return a WAV file by its head."""
    byte_rate = rate * channels * bits // 8 if per_s is None else per_s
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", size, b"WAVE", b"fmt ", 16, 1, channels, rate, byte_rate, 2, bits)
    return File("file", size, head + b"data")


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "most", "likely"),
    [
        ({}, 6_240, 1_056),
        ({"quality": "low", "size": "1024x1024"}, 272, 272),
        ({"quality": "high", "size": "1536x1024", "n": 3}, 18_720, 18_720),
        ({"quality": "medium", "size": "1024x1536", "partial_images": 2}, 1_784, 1_784),
        ({"quality": "low", "size": "256x256"}, 272, 272),
        ({"quality": "new", "size": "huge"}, 6_240, 1_056),
        ({"quality": "high", "size": "3840x2160"}, 32_907, 32_907),
    ],
)
def test_images_are_tokens_by_size_and_quality(fields: dict[str, Any], most: int, likely: int) -> None:
    """The provider's table where it is known, its dearest entry where the request leaves it open."""
    expected = openai_images.read_images({"model": "m", "prompt": "x", **fields}).expected
    assert expected is not None
    assert (expected.most.image_output, expected.likely.image_output) == (most, likely)
    assert expected.most_units == {"images": fields.get("n", 1)}


def test_pictures_of_a_form_are_input() -> None:
    """As are those that a JSON edit names, and its mask."""
    fields = form(model="m", prompt="greener", n="2", stream="true", partial_images="1")
    ask = openai_images.read_images(fields)
    assert ask.stream
    assert ask.expected is not None
    assert (ask.expected.most.image_input, ask.expected.most_units) == (7_000, {"images": 2})
    named = openai_images.read_images({"model": "m", "images": [{}, {}], "mask": {}}).expected
    assert named is not None
    assert named.most.image_input == 21_000


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "m", "n": 101}, "n: must be a whole number"),
        ({"model": "m", "n": "2"}, "n: must be a whole number"),
        ({"model": "m", "stream": "true"}, "stream: must be true or false"),
        ({"n": 1}, "model: missing"),
        (form(model="m", n="2.0"), "n: must be a whole number"),
        (form(model="m", n="-1"), "n: must be a whole number"),
        (form(model="m", n="٣"), "n: must be a whole number"),
        (form(model="m", stream="1"), "stream: must be true or false"),
        (form(n="1"), "model: missing"),
    ],
)
def test_fields_that_matter_are_checked(fields: dict[str, Any], named: str) -> None:
    """A number is one in JSON and in a form alike, and each by its own spelling."""
    with pytest.raises(InputError, match=named):
        openai_images.read_images(fields)


def test_characters_are_counted_in_the_request() -> None:
    """Characters, not bytes; and they are what is billed."""
    ask = openai_audio.read_speech({"model": "tts-1", "input": "Grüße 👋", "voice": "v"})
    assert ask.expected is not None
    assert (ask.expected.most_units, ask.expected.is_counted, ask.stream) == ({"characters": 7}, True, False)
    assert openai_audio.read_speech({"model": "m", "stream_format": "sse"}).stream


def test_sound_is_as_long_as_its_size_allows() -> None:
    """Its head says how long PCM is; of anything else the lowest rate is reserved, and a usual one estimated."""
    assert (most_ms([File("f", 16_000, b"ID3")]), likely_ms([File("f", 16_000, b"ID3")])) == (16_000, 4_000)
    assert most_ms([wav(16_000, 1, 16, 64_000)]) == likely_ms([wav(16_000, 1, 16, 64_000)]) == 2_000
    assert most_ms([wav(48_000, 2, 24, 288_000), wav(8_000, 1, 8, 8_000)]) == 2_000
    assert most_ms([wav(16_000, 1, 16, 64_000, per_s=4_000_000_000)]) == 64_000
    assert most_ms([wav(16_000, 0, 16, 64_000)]) == most_ms([wav(16_000, 1, 7, 64_000)]) == 64_000
    with pytest.raises(InputError, match="file: missing"):
        openai_audio.read_sound({"model": "m"})
    expected = openai_audio.read_sound(form(model="m")).expected
    assert expected is not None
    assert (expected.most.audio_input, expected.most_units) == (40, {"audio_ms": 4_000})


# -- answers -----------------------------------------------------------------------------------------------------------


def test_image_usage_is_split_into_text_and_images() -> None:
    """Output without details is images; with details each is what it says."""
    plain = b'{"input_tokens":60,"output_tokens":272,"total_tokens":332,"input_tokens_details":{"text_tokens":10,"image_tokens":50}}'  # noqa: E501  (as it is sent)
    assert openai_images.read_usage(plain).usage == TokenUsage(10, image_input=50, image_output=272)
    told = plain[:-1] + b',"output_tokens_details":{"image_tokens":200,"text_tokens":72}}'
    assert openai_images.read_usage(told).usage == TokenUsage(10, 72, image_input=50, image_output=200)


def test_whole_images_tell_usage_or_their_number() -> None:
    """An answer without usage is as many images as it has; an empty one says nothing."""
    whole = openai_images.read_answer(b'{"data":[{},{}],"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}')
    assert (whole.usage, whole.units) == (TokenUsage(1, image_output=2), {"images": 2})
    assert openai_images.read_answer(b'{"data":[{},{}]}').units == {"images": 2}
    assert openai_images.read_answer(b'{"data":[],"usage":null}').units == {}
    assert openai_images.read_answer(b'{"error":{"message":"x"}}').failed == "provider_error_answer"
    assert openai_images.read_answer(b"<html>").fault == "unreadable_usage"


@pytest.mark.parametrize(
    ("usage", "milliseconds", "flags"),
    [
        (b'{"type":"duration","seconds":7}', 7_000, ()),
        (b'{"type":"duration","seconds":2.5}', 2_500, ()),
        (b'{"type":"duration","seconds":0.0001}', 1, ()),
        (b'{"seconds":"3"}', 3_000, ("not_a_number",)),
        (b'{"type":"duration","seconds":-1}', None, ("negative",)),
        (b'{"type":"duration","seconds":1e999}', None, ("oversized",)),
        (b'{"type":"duration","seconds":[]}', None, ("not_a_number",)),
        (b'{"type":"duration","seconds":"inf"}', None, ("not_finite",)),
        (b'{"type":"duration"}', None, ("not_a_number",)),
    ],
)
def test_durations_are_milliseconds(usage: bytes, milliseconds: int | None, flags: tuple[str, ...]) -> None:
    """Rounded up; what cannot be a length is not told, and flagged."""
    found = openai_audio.read_usage(usage)
    assert found.units == ({} if milliseconds is None else {"audio_ms": milliseconds})
    assert (found.usage, found.flags) == (None if milliseconds is None else NO_TOKENS, flags)


def test_transcriptions_by_tokens_have_audio_and_text() -> None:
    """The details of the input are spelled otherwise than anywhere else."""
    usage = b'{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},"output_tokens":9,"total_tokens":23}'  # noqa: E501  (as it is sent)
    assert openai_audio.read_usage(usage).usage == TokenUsage(4, 9, audio_input=10)
    assert openai_audio.read_written(b'{"text":"x","usage":%b}' % usage).usage == TokenUsage(4, 9, audio_input=10)


@pytest.mark.parametrize(
    ("body", "units"),
    [
        (b'{"text":"x","duration":12.25}', {"audio_ms": 12_250}),
        (b'{"text":"x"}', {}),
        (b"just words\n", {}),
        (b"1\n00:00:00,000 --> 00:01:02,500\nx\n", {"audio_ms": 62_500}),
        (b"WEBVTT\n\n00:01.000 --> 00:02.500\nx\n\n00:02.500 --> 01:00:03.000\ny\n", {"audio_ms": 3_603_000}),
        (b"", {}),
    ],
)
def test_answers_without_usage_may_have_a_duration(body: bytes, units: dict[str, int]) -> None:
    """One of their own, or the last of their time marks."""
    assert openai_audio.read_written(body).units == units


def test_stream_is_read_at_its_last_event() -> None:
    """Usage is taken from the event that ends the stream, and from no other; errors are noted."""
    reader = openai_images.open_stream(False)
    assert not reader.is_end(b'{"type":"image_generation.partial_image","b64_json":".completed\\""}')
    assert not reader.is_end(b"not json .completed")
    assert reader.is_end(b'{"type":"image_edit.completed","usage":{"input_tokens":3,"output_tokens":4}}')
    assert (reader.reported.usage, reader.is_complete) == (TokenUsage(3, image_output=4), True)
    silent = openai_audio.open_speech(False)
    assert silent.is_end(b'{"type":"speech.audio.done"}')
    assert silent.reported is NOTHING_REPORTED
    silent.note_error(b'{"error":{"message":"x"}}')
    assert silent.failed == "provider_error_event"
    assert MediaStream(("a.done",), openai_audio.read_usage).end_mark == b'.done"'


# -- charges -----------------------------------------------------------------------------------------------------------

IMAGES = Expected(TokenUsage(20, image_output=6_000), TokenUsage(10, image_output=1_000), {"images": 2}, {"images": 2})
SPOKEN = Expected(TokenUsage(9), TokenUsage(3), {"characters": 7}, {"characters": 7}, is_counted=True)


def test_what_is_not_told_is_charged_as_the_price_has_it() -> None:
    """By units where the price is by units or there is none, by likely tokens where it is by tokens."""
    told = Reported(units={"images": 1})
    assert charged(told, IMAGES, BY_IMAGE) == (NO_TOKENS, "provider", told)
    assert charged(told, IMAGES, None) == (NO_TOKENS, "provider", told)
    usage, source, report = charged(told, IMAGES, BY_TOKENS)
    assert (usage, source, report.units) == (IMAGES.likely, "estimated", {})
    usage, source, report = charged(NOTHING_REPORTED, IMAGES, BY_IMAGE)
    assert (usage, source, report.units) == (NO_TOKENS, "estimated", {"images": 2})
    usage, source, report = charged(NOTHING_REPORTED, SPOKEN, RESERVE)
    assert (usage, source, report.units, report.flags) == (NO_TOKENS, "provider", {"characters": 7}, ("counted",))
    assert charged(told, NOTHING, BY_TOKENS) == (NO_TOKENS, "none", told)


def test_what_is_told_is_charged_as_the_price_has_it() -> None:
    """Tokens that are told do not hide the units that a price is by, nor units the tokens."""
    both = Reported(usage=TokenUsage(5, image_output=9), units={"images": 1})
    assert charged(both, IMAGES, BY_IMAGE) == (both.usage, "provider", both)
    usage, source, report = charged(both, IMAGES, BY_TOKENS)
    assert (usage, source, report.units) == (both.usage, "provider", {})
    assert charged(both, IMAGES, None)[2].units == {}
    tokens = Reported(usage=TokenUsage(5, image_output=9))
    usage, source, report = charged(tokens, IMAGES, BY_IMAGE)
    assert (usage, source, report.units) == (tokens.usage, "estimated", {"images": 2})
    timed = Reported(usage=NO_TOKENS, units={"audio_ms": 5})
    assert charged(timed, IMAGES, BY_TOKENS) == (NO_TOKENS, "provider", timed)
    nothing = Reported(usage=NO_TOKENS)
    assert charged(nothing, IMAGES, BY_TOKENS) == (NO_TOKENS, "provider", nothing)
    unknown = Reported(usage=NO_TOKENS, is_final=False, knows_input=False)
    assert charged(unknown, IMAGES, BY_TOKENS)[:2] == (IMAGES.likely, "estimated")
    assert charged(unknown, IMAGES, BY_IMAGE)[2].units == {"images": 2}


def test_price_by_both_bills_the_tokens_that_are_told() -> None:
    """Where a price has tokens and units, told tokens are not charged a second time; the dearer one is held."""
    both = msgspec.structs.replace(BY_TOKENS, units={"images": 40_000_000_000})
    told = Reported(usage=TokenUsage(5, image_output=9), units={"images": 1})
    usage, source, report = charged(told, IMAGES, both)
    assert (usage, source, report.units) == (told.usage, "provider", {})
    assert charged(NOTHING_REPORTED, IMAGES, both)[2].units == {"images": 2}
    assert most_nanos(IMAGES, both, both) == 2 * 40_000 + 1
    cheap = msgspec.structs.replace(BY_TOKENS, units={"images": 1_000})
    assert most_nanos(IMAGES, cheap, cheap) == 20 + 6_000 * 6


def test_half_a_usage_is_completed_by_what_is_likely() -> None:
    """The side that is known stays, the other one is what is likely if that is more."""
    half = Reported("", TokenUsage(500), False, knows_input=True, knows_output=False)
    assert charged(half, IMAGES, BY_TOKENS)[:2] == (TokenUsage(500, image_output=1_000), "estimated")
    other = Reported("", TokenUsage(0, image_output=4_000), False, knows_input=False, knows_output=True)
    assert charged(other, IMAGES, BY_TOKENS)[0] == TokenUsage(10, image_output=4_000)


def test_the_most_is_held_in_the_price_that_applies() -> None:
    """Tokens by the dearest tier, or units; without a price, whichever of the two costs more."""
    dear = msgspec.structs.replace(RATES, min_input_tokens=1_000_000, image_output=60_000_000)
    assert most_nanos(IMAGES, BY_TOKENS, BY_TOKENS) == 20 + 6_000 * 6
    assert most_nanos(IMAGES, BY_TOKENS, Price("t", "v", (RATES, dear))) == 20 + 6_000 * 60
    assert most_nanos(IMAGES, BY_IMAGE, BY_IMAGE) == 2 * 40 + 1
    assert most_nanos(IMAGES, None, RESERVE) == 2 * 500_000 + 1


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (b"/v1/files", (b"GET", b"POST")),
        (b"/v1/files/file-1_a", (b"GET", b"DELETE")),
        (b"/v1/files/file-1/content", (b"GET",)),
        (b"/v1/batches", (b"GET", b"POST")),
        (b"/v1/batches/b_1", (b"GET",)),
        (b"/v1/batches/b_1/cancel", (b"POST",)),
        (b"/v1/files/", ()),
        (b"/v1/files/a/cancel", ()),
        (b"/v1/files/a.b", ()),
        (b"/v1/files/..%2f..", ()),
        (b"/v1/files//content", ()),
        (b"/v1/batches/a/content", ()),
        (b"/v1/files/" + b"a" * 129, ()),
        (b"/v1/files\n", ()),
        (b"/v1/uploads", ()),
    ],
)
def test_paths_with_ids_are_known_by_their_form(path: bytes, methods: tuple[bytes, ...]) -> None:
    """Each with its methods; everything else is denied."""
    assert account_methods(path) == methods
    for method in (b"GET", b"POST", b"DELETE", b"PUT", b"HEAD"):
        operation = account_operation(method, path)
        assert (operation is not None) == (method in methods)
        if operation is not None:
            assert (operation.method, b"/v1" + operation.path) == (method, path)
