"""Answers of images and audio, in the shapes of OpenAI's API; pictures and sounds are bytes that are none. Pure."""

import base64
from typing import Any

import msgspec

from deploy.simulator.answer import Answer
from deploy.simulator.ask import Ask
from deploy.simulator.openai_api import answer_of, hides_usage
from deploy.simulator.text import pieces, words
from deploy.simulator.usage import entry_of, image_usage, speech_usage, transcription_usage

_encode = msgspec.json.encode
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256))).decode()
SOUND = bytes(range(256)) * 16
"""A part of spoken text: every byte there is, and no text."""
_SOUND_PARTS = 8
_TYPES = {"mp3": b"audio/mpeg", "opus": b"audio/opus", "aac": b"audio/aac", "flac": b"audio/flac", "wav": b"audio/wav"}
_PLAIN = b"text/plain; charset=utf-8"


def generations(ask: Ask, number: bytes, now_s: int) -> Answer:
    """Answer with new images."""
    return _images(ask, number, now_s, "images.generations", "image_generation")


def edits(ask: Ask, number: bytes, now_s: int) -> Answer:
    """Answer with edited images."""
    return _images(ask, number, now_s, "images.edits", "image_edit")


def variations(ask: Ask, number: bytes, now_s: int) -> Answer:
    """Answer with varied images."""
    return _images(ask, number, now_s, "images.variations", "image_edit")


def speech(ask: Ask, number: bytes) -> Answer:
    """Answer with spoken text: bytes in parts, or events with base64."""
    entry = entry_of(ask, "audio.speech", f"speech-{number.decode()}")
    if ask.format != "sse":
        answer = answer_of(ask, number, (SOUND,) * (ask.wish.chunks or _SOUND_PARTS), entry)
        return msgspec.structs.replace(answer, content_type=_TYPES.get(ask.format, b"audio/pcm"), streamed=True)
    deltas = [
        _event({"type": "speech.audio.delta", "audio": base64.b64encode(SOUND).decode()}) for _ in range(ask.chunks)
    ]
    done: dict[str, Any] = {"type": "speech.audio.done"}
    if not hides_usage(ask):
        done["usage"] = msgspec.Raw(speech_usage(ask))
    return answer_of(ask, number, (*deltas, _event(done)), entry)


def transcriptions(ask: Ask, number: bytes) -> Answer:
    """Answer with what was heard."""
    return _heard(ask, number, "audio.transcriptions")


def translations(ask: Ask, number: bytes) -> Answer:
    """Answer with what was heard, in English; the plain answer has no usage."""
    return _heard(ask, number, "audio.translations")


def _heard(ask: Ask, number: bytes, operation: str) -> Answer:
    entry = entry_of(ask, operation, f"heard-{number.decode()}")
    count = max(4, ask.output_tokens)
    if ask.stream:
        deltas = [_event({"type": "transcript.text.delta", "delta": piece.decode()}) for piece in pieces(count, 4)]
        done = {"type": "transcript.text.done", "text": words(count).decode(), **_usage(ask)}
        return answer_of(ask, number, (*deltas, _event(done)), entry)
    text = words(count).decode()
    if ask.format in ("text", "srt", "vtt"):
        shown = {
            "text": f"{text}\n",
            "srt": f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n\n",
            "vtt": f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{text}\n\n",
        }[ask.format]
        answer = answer_of(ask, number, (shown.encode(),), entry)
        return msgspec.structs.replace(answer, content_type=_PLAIN)
    body: dict[str, Any] = {"text": text}
    if operation == "audio.transcriptions":
        body.update(_usage(ask))
    if ask.format == "verbose_json":
        seconds = ask.units.get("audio_ms", 0) / 1000
        body.update({"task": "transcribe", "language": "english", "duration": seconds, "segments": []})
    return answer_of(ask, number, (_encode(body),), entry)


def _usage(ask: Ask) -> dict[str, Any]:
    return {} if hides_usage(ask) else {"usage": msgspec.Raw(transcription_usage(ask))}


def _images(ask: Ask, number: bytes, now_s: int, operation: str, event: str) -> Answer:
    entry = entry_of(ask, operation, f"img-{number.decode()}")
    has_usage = "images" not in ask.units and not hides_usage(ask)
    usage = {"usage": msgspec.Raw(image_usage(ask))} if has_usage else {}
    about = {"background": "opaque", "output_format": "png", "quality": "medium", "size": "1024x1024"}
    if ask.stream:
        image = {"b64_json": PICTURE, "created_at": now_s, **about}
        partial = [
            _named({"type": f"{event}.partial_image", "partial_image_index": at, **image}) for at in range(ask.vectors)
        ]
        return answer_of(ask, number, (*partial, _named({"type": f"{event}.completed", **image, **usage})), entry)
    body = {"created": now_s, "data": [{"b64_json": PICTURE}] * ask.count, **(about if usage else {}), **usage}
    return answer_of(ask, number, (_encode(body),), entry)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _encode(body)


def _named(body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), _encode(body))
