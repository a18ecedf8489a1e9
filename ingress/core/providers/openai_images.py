"""OpenAI's images: new ones, edits and variations, as JSON or forms, whole or streamed.

Models of the GPT image family tell tokens of text and images; older ones tell nothing and are billed by the image, of
which the answer shows how many there are. Tokens of an image depend on its size and quality; the table is that of the
provider's guide on image generation, by the area. Where a request leaves them open, the most is reserved.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ingress.core.ask import Ask, text_field
from ingress.core.expected import Expected
from ingress.core.multipart import Form
from ingress.core.providers.openai import is_failure
from ingress.core.providers.openai_media import FAULTS, MediaStream, count_of, flag_of, text_of
from ingress.core.providers.openai_usage import NO_USAGE, report, unreadable
from ingress.core.reported import ERROR_ANSWER, Reported
from ingress.core.sse import ERROR_MARK
from schemas.tokens import TokenUsage
from schemas.units import IMAGES

MAX_IMAGES = 100
MAX_PARTIAL_IMAGES = 16
SQUARE = 1024 * 1024
QUALITIES = {"low": 272, "medium": 1_056, "high": 4_160, "standard": 4_160, "hd": 4_160, "xhigh": 8_320, "max": 16_640}
"""Output tokens of a square of 1,024 pixels; of the last two, which no table has, as many again each time."""
PARTIAL_TOKENS = 100
"""Of a partial image of a stream."""
PICTURE_TOKENS = 7_000
"""Input tokens of a picture at most: all of its detail, and what shows it as a whole."""
LIKELY_PICTURE_TOKENS = 1_000
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class _Images(msgspec.Struct):
    usage: msgspec.Raw = NO_USAGE
    data: list[msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(_Images).decode


def read_images(fields: dict[str, Any]) -> Ask:
    """Understand a request for images; `InputError` names the field that is wrong."""
    model, count = text_field(fields, "model"), count_of(fields, "n", MAX_IMAGES) or 1
    partial = count_of(fields, "partial_images", MAX_PARTIAL_IMAGES) or 0
    quality, size = text_of(fields, "quality"), text_of(fields, "size")
    prompt, pictures = len(text_of(fields, "prompt").encode()), _pictures(fields)
    most = count * (
        _tokens(QUALITIES.get(quality, QUALITIES["high"]), size, SQUARE * 3 // 2) + partial * PARTIAL_TOKENS
    )
    likely = count * (_tokens(QUALITIES.get(quality, QUALITIES["medium"]), size, SQUARE) + partial * PARTIAL_TOKENS)
    units = {IMAGES: count}
    expected = Expected(
        TokenUsage(prompt // 2 + 16, image_input=pictures * PICTURE_TOKENS, image_output=most),
        TokenUsage(prompt // 4 + 1, image_input=pictures * LIKELY_PICTURE_TOKENS, image_output=likely),
        units, units,
    )  # fmt: skip
    return Ask(model, flag_of(fields, "stream"), choices=1, expected=expected)


def read_answer(body: bytes) -> Reported:
    """Return what a whole answer reports: tokens, or how many images it has."""
    try:
        answer = _decode(body)
    except FAULTS:
        return _as_images(unreadable(body))
    usage = bytes(answer.usage)
    failed = ERROR_ANSWER if ERROR_MARK in body and is_failure(body) else ""
    units = {IMAGES: len(answer.data)} if answer.data else {}
    if usage != b"null":
        return msgspec.structs.replace(read_usage(usage), failed=failed, units=units)
    return Reported(is_final=bool(units), failed=failed, units=units)


def read_usage(raw: bytes) -> Reported:
    """Return what a usage object says; output without details is images."""
    return _as_images(report(None, raw))


def open_stream(hides_usage: bool) -> MediaStream:
    """Return the reader of a stream of new or edited images."""
    return MediaStream(("image_generation.completed", "image_edit.completed"), read_usage)


def _as_images(reported: Reported) -> Reported:
    usage = reported.usage
    if usage is None or usage.image_output or not usage.output:
        return reported
    images = msgspec.structs.replace(usage, output=0, image_output=usage.output)
    return msgspec.structs.replace(reported, usage=images)


def _tokens(of_square: int, size: str, otherwise: int) -> int:
    """Return the tokens of an image of `size`; `otherwise` is the area where the request leaves it open."""
    match = _SIZE.fullmatch(size)
    area = int(match[1]) * int(match[2]) if match else otherwise
    return -(-of_square * max(area, SQUARE) // SQUARE)


def _pictures(fields: dict[str, Any]) -> int:
    if isinstance(fields, Form):
        return len(fields.files)
    images = fields.get("images")
    return (len(images) if isinstance(images, list) else 0) + (fields.get("mask") is not None)
