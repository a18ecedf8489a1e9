"""OpenAI's audio: text that is spoken (JSON; the answer is sound or events), sound that is heard (a form).

Speech: older models are billed by the characters of the text and tell nothing; newer ones tell tokens, and only in
events. Transcriptions tell tokens, or seconds, whichever their model is billed by; translations and answers in plain
text tell nothing, so their length is estimated: from their last time mark, or from the size of the sound.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

import msgspec

from ingress.core.ask import Ask, text_field
from ingress.core.audio_length import likely_ms, most_ms
from ingress.core.expected import Expected
from ingress.core.multipart import Form
from ingress.core.providers.openai import is_failure
from ingress.core.providers.openai_media import FAULTS, MediaStream, flag_of, text_of
from ingress.core.providers.openai_usage import NO_USAGE, report, unreadable
from ingress.core.reported import ERROR_ANSWER, NOTHING_REPORTED, Reported
from ingress.core.sse import ERROR_MARK
from ingress.core.strict_json import InputError
from schemas import flags
from schemas.tokens import NO_TOKENS, TokenUsage
from schemas.units import AUDIO_MS, CHARACTERS, MAX_UNITS

MOST_SPOKEN_PER_CHARACTER = 4
HEARD_TOKENS_PER_S = 10
MOST_WRITTEN_TOKENS_PER_S = 5
LIKELY_WRITTEN_TOKENS_PER_S = 3

_TIME = re.compile(rb"-->\s*(?:(\d{1,4}):)?(\d\d):(\d\d)[,.](\d{3})")


class _Heard(msgspec.Struct):
    usage: msgspec.Raw = NO_USAGE
    duration: msgspec.Raw = NO_USAGE


class _Duration(msgspec.Struct):
    type: Any = None
    seconds: msgspec.Raw = NO_USAGE


_decode_heard = msgspec.json.Decoder(_Heard).decode
_decode_duration = msgspec.json.Decoder(_Duration).decode


def read_speech(fields: dict[str, Any]) -> Ask:
    """Understand a text that is to be spoken; `InputError` names the field that is wrong."""
    model, text, how = text_field(fields, "model"), text_of(fields, "input"), text_of(fields, "instructions")
    read, count = len(text.encode()) + len(how.encode()), len(text)
    units = {CHARACTERS: count}
    expected = Expected(
        TokenUsage(read // 2 + 16, audio_output=count * MOST_SPOKEN_PER_CHARACTER + 16),
        TokenUsage(read // 4 + 1, audio_output=count * 3 // 2 + 1),
        units, units, is_counted=True,
    )  # fmt: skip
    return Ask(model, text_of(fields, "stream_format") == "sse", expected=expected)


def read_sound(fields: dict[str, Any]) -> Ask:
    """Understand sound that is to be written down; `InputError` names the field that is wrong."""
    model = text_field(fields, "model")
    if not isinstance(fields, Form) or not fields.files:
        raise InputError("file: missing; send the sound as a file of the form")
    most, likely = most_ms(fields.files), likely_ms(fields.files)
    prompt = len(text_of(fields, "prompt").encode())
    expected = Expected(
        TokenUsage(prompt // 2 + 16, audio_input=_per_s(most, HEARD_TOKENS_PER_S),
                   output=_per_s(most, MOST_WRITTEN_TOKENS_PER_S) + 16),
        TokenUsage(prompt // 4, audio_input=_per_s(likely, HEARD_TOKENS_PER_S),
                   output=_per_s(likely, LIKELY_WRITTEN_TOKENS_PER_S)),
        {AUDIO_MS: most}, {AUDIO_MS: likely},
    )  # fmt: skip
    return Ask(model, flag_of(fields, "stream"), expected=expected)


def read_spoken(body: bytes) -> Reported:
    """Return what a whole answer reports that is JSON where sound was asked for: nothing, or an error."""
    return Reported(is_final=False, failed=ERROR_ANSWER if ERROR_MARK in body and is_failure(body) else "")


def read_written(body: bytes) -> Reported:
    """Return what a whole transcription or translation reports."""
    if body.lstrip()[:1] != b"{":
        return _timed(body)
    try:
        answer = _decode_heard(body)
    except FAULTS:
        return unreadable(body)
    failed = ERROR_ANSWER if ERROR_MARK in body and is_failure(body) else ""
    usage, duration = bytes(answer.usage), bytes(answer.duration)
    if usage != b"null":
        found = read_usage(usage)
    elif duration != b"null":
        found = _duration(duration)
    else:
        found = NOTHING_REPORTED
    return msgspec.structs.replace(found, failed=failed) if failed else found


def read_usage(raw: bytes) -> Reported:
    """Return what a usage object of a transcription says: tokens, or seconds."""
    try:
        told = _decode_duration(raw)
    except FAULTS:
        told = _Duration()
    if told.type == "duration" or bytes(told.seconds) != b"null":
        return _duration(bytes(told.seconds))
    return report(None, raw.replace(b'"input_token_details"', b'"input_tokens_details"'))


def read_spoken_usage(raw: bytes) -> Reported:
    """Return what the usage object of spoken text says; its output is audio."""
    reported = report(None, raw)
    usage = reported.usage
    if usage is None or not usage.output:
        return reported
    spoken = msgspec.structs.replace(usage, output=0, audio_output=usage.audio_output + usage.output)
    return msgspec.structs.replace(reported, usage=spoken)


def open_speech(hides_usage: bool) -> MediaStream:
    """Return the reader of a stream of spoken text."""
    return MediaStream(("speech.audio.done",), read_spoken_usage)


def open_written(hides_usage: bool) -> MediaStream:
    """Return the reader of a streamed transcription."""
    return MediaStream(("transcript.text.done",), read_usage)


def _duration(raw: bytes) -> Reported:
    """Return the length that a number of seconds says; what is none is not told."""
    flag = ""
    try:
        seconds = Decimal(raw.decode().strip('"')[:64])
    except (InvalidOperation, UnicodeError):
        return Reported(is_final=False, flags=(flags.NOT_A_NUMBER,))
    if raw.startswith(b'"'):
        flag = flags.NOT_A_NUMBER
    if not seconds.is_finite():
        return Reported(is_final=False, flags=(flags.NOT_FINITE,))
    if seconds < 0:
        return Reported(is_final=False, flags=(flags.NEGATIVE,))
    if seconds > MAX_UNITS // 1000:
        return Reported(is_final=False, flags=(flags.OVERSIZED,))
    milliseconds = int((seconds * 1000).to_integral_value(ROUND_CEILING))
    return Reported(usage=NO_TOKENS, units={AUDIO_MS: milliseconds}, flags=(flag,) if flag else ())


def _timed(body: bytes) -> Reported:
    """Return the length of captions, whose last time mark is not the end of the sound; plain text tells nothing."""
    marks = _TIME.findall(body)
    if not marks:
        return NOTHING_REPORTED
    hours, minutes, seconds, rest = (int(part or 0) for part in marks[-1])
    return Reported(is_final=False, units={AUDIO_MS: ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest})


def _per_s(milliseconds: int, tokens: int) -> int:
    return -(-milliseconds * tokens // 1000)
