"""OpenAI's protocol: chat completions and embeddings. Which fields matter, where the usage is, what is asked for.

Usage: `prompt_tokens` holds the cached, cache-written and audio ones; `completion_tokens` holds reasoning and audio.
Some compatible providers count reasoning beside the completion, which their `total_tokens` gives away.
A stream ends with `data: [DONE]`; its usage comes, if asked for, in an extra chunk without choices before that.
One that is cut off ends its choices with the reason `length`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ingress.core.ask import MAX_ASKED_TOKENS, MAX_CHOICES, Ask, count_field, flag_field, text_field
from ingress.core.cutoff import CutOff
from ingress.core.reported import (
    ERROR_ANSWER,
    ERROR_EVENT,
    NOTHING_REPORTED,
    Count,
    Reported,
    UnbelievableUsage,
)
from ingress.core.sse import ERROR_MARK, data_of, split_events
from ingress.core.strict_json import append_member, replace_member, replace_text_member
from schemas.tokens import TokenUsage

_ASKS_USAGE = b'{"include_usage":true}'


class _InputDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    model: str | None = None


class _Chunk(msgspec.Struct):
    usage: _Usage | None = None
    model: str | None = None
    choices: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Failure(msgspec.Struct):
    error: Any = None
    object: Any = None
    type: Any = None

    @property
    def is_one(self) -> bool:
        """Whether it is an error: by itself, by its type, or of the kind that older servers send."""
        return bool(self.error) or self.object == "error" or self.type == "error"


class _Ends(msgspec.Struct):
    choices: list[_Choice] | None = None


_decode_failure = msgspec.json.Decoder(_Failure).decode
_decode_ends = msgspec.json.Decoder(_Ends).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_any = msgspec.json.Decoder().decode
_COMMON = frozenset({"id", "object", "created", "model", "service_tier", "system_fingerprint"})
_has_usage = re.compile(rb'"usage"\s*:\s*\{').search


def read_chat(fields: dict[str, Any]) -> Ask:
    """Understand the body of a chat completion; `InputError` names the field that is wrong."""
    stream = flag_field(fields, "stream")
    newer = count_field(fields, "max_completion_tokens", MAX_ASKED_TOKENS)
    older = count_field(fields, "max_tokens", MAX_ASKED_TOKENS)
    options = fields.get("stream_options")
    return Ask(
        text_field(fields, "model"),
        stream,
        older if newer is None else newer,
        count_field(fields, "n", MAX_CHOICES) or 1,
        not stream or (type(options) is dict and options.get("include_usage") is True),
    )


def read_embeddings(fields: dict[str, Any]) -> Ask:
    """Understand the body of an embeddings request; `InputError` names the field that is wrong."""
    return Ask(text_field(fields, "model"), output_tokens=0)


def prepare(body: bytes, fields: dict[str, Any], ask: Ask, upstream: str) -> bytes:
    """Return the body for the provider: the upstream's model name, and the usage of a stream asked for."""
    if ask.model != upstream:
        body = replace_text_member(body, "model", ask.model, upstream)
    if ask.usage_wanted:
        return body
    if "stream_options" not in fields:
        return append_member(body, "stream_options", _ASKS_USAGE)
    options = fields["stream_options"]
    if options is None:
        return replace_member(body, "stream_options", _ASKS_USAGE)
    if type(options) is dict:
        return replace_member(body, "stream_options", msgspec.json.encode({**options, "include_usage": True}))
    return body  # no options at all: the provider says what is wrong with them


def read_answer(body: bytes) -> Reported:
    """Return what a whole answer reports."""
    try:
        answer = _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Reported(fault="unreadable_usage", is_final=False)
    reported = _reported(answer.model, answer.usage)
    if ERROR_MARK in body and is_failure(body):
        return msgspec.structs.replace(reported, failed=ERROR_ANSWER)
    return reported


def is_failure(data: bytes) -> bool:
    """Tell whether a JSON text says that an answer has failed."""
    try:
        return _decode_failure(data).is_one
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


class OpenAIStream:
    """Reads the events of one streamed completion that may matter (see `sse.EventReader`)."""

    __slots__ = ("_hides_usage", "failed", "is_complete", "reported")

    end_mark = b"[DONE]"
    usage_mark = b'"usage"'
    text_mark = b'"content":"'

    def __init__(self, hides_usage: bool) -> None:
        """Start reading; `hides_usage` takes the chunk out that only the gateway asked for."""
        self._hides_usage = hides_usage
        self.reported = NOTHING_REPORTED
        self.is_complete = False
        self.failed = ""

    def may_have_usage(self, block: bytes) -> bool:
        """Tell whether a block holds usage: `"usage":null`, which most chunks have, is none."""
        return block.count(b'"usage"') != block.count(b'"usage":null') and _has_usage(block) is not None

    def is_end(self, data: bytes) -> bool:
        """Tell whether the data of an event ends the stream."""
        return data.strip() == b"[DONE]"

    def take(self, data: bytes) -> bool:
        """Note the usage in the data of an event; True if the client must not see the event."""
        try:
            chunk = _decode_chunk(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self.reported = Reported(fault="unreadable_usage", is_final=False)
            return False
        if chunk.usage is None:
            return False
        self.reported = _reported(chunk.model, chunk.usage)
        self.is_complete = not chunk.choices
        return self._hides_usage and self.is_complete

    def note_error(self, data: bytes) -> None:
        """Note an event that says that the answer has failed."""
        if is_failure(data):
            self.failed = ERROR_EVENT

    def finished(self, block: bytes) -> frozenset[int]:
        """Return the choices that end in a block of events."""
        found = set()
        for event in split_events(block) if b'"finish_reason"' in block else ():
            try:
                chunk = _decode_ends(data_of(event))
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                continue
            found |= {choice.index for choice in chunk.choices or () if choice.finish_reason}
        return frozenset(found)

    def ending(self, last: bytes, cut: CutOff) -> bytes:
        """Return the events that end the stream: reason `length` for open choices, the usage if asked for, the mark."""
        chunk: dict[str, Any] = {
            "id": cut.answer_id, "object": "chat.completion.chunk", "created": cut.now_s, "model": cut.model,
        }  # fmt: skip
        chunk.update(_head_of(last))
        end: dict[str, Any] = {"delta": {}, "logprobs": None, "finish_reason": "length"}
        usage: dict[str, Any] = {} if self._hides_usage else {"usage": None}
        chunks = [{**chunk, "choices": [{"index": at, **end} for at in cut.choices], **usage,
                   "tollway": cut.notice}]  # fmt: skip
        if usage:
            counts = {"prompt_tokens": cut.usage.all_input, "completion_tokens": cut.usage.all_output,
                      "total_tokens": cut.usage.total}  # fmt: skip
            chunks.append({**chunk, "choices": [], "usage": counts})
        return b"".join(b"data: %b\n\n" % msgspec.json.encode(each) for each in chunks) + b"data: [DONE]\n\n"


def _head_of(last: bytes) -> dict[str, Any]:
    """Return what all chunks of the stream have in common, from the last events that it had."""
    for event in reversed(split_events(last)):
        try:
            chunk = _decode_any(data_of(event))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
        if isinstance(chunk, dict) and "choices" in chunk:
            return {name: value for name, value in chunk.items() if name in _COMMON}
    return {}


def _reported(model: str | None, usage: _Usage | None) -> Reported:
    name = (model or "")[:128]
    if usage is None:
        return Reported(name, is_final=False)
    try:
        return Reported(name, normalise(usage))
    except UnbelievableUsage:
        return Reported(name, fault="contradictory_usage", is_final=False)


def normalise(usage: _Usage) -> TokenUsage:
    """Return the disjoint classes of a usage object; `UnbelievableUsage` if it contradicts itself."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens or 0
    beside = 0 if usage.total_tokens is None else usage.total_tokens - prompt - completion
    if beside < 0:
        raise UnbelievableUsage("total_tokens is less than its parts")
    if usage.prompt_tokens_details is None and usage.completion_tokens_details is None and not beside:
        return TokenUsage(prompt, completion)
    fresh, cached, written, audio_in = _split_input(prompt, usage.prompt_tokens_details)
    text, reasoning, audio_out = _split_output(completion, beside, usage.completion_tokens_details)
    return TokenUsage(fresh, text, cached, written, 0, reasoning, audio_in, audio_out)


def _split_input(prompt: int, details: _InputDetails | None) -> tuple[int, int, int, int]:
    """Return (full price, cached, cache-written, audio) tokens of a prompt."""
    if details is None:
        return prompt, 0, 0, 0
    cached, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    audio = details.audio_tokens or 0
    if cached + written > prompt or audio > prompt:
        raise UnbelievableUsage("prompt_tokens_details has more than prompt_tokens")
    audio = min(audio, prompt - cached - written)  # audio that was cached is cached
    return prompt - cached - written - audio, cached, written, audio


def _split_output(completion: int, beside: int, details: _OutputDetails | None) -> tuple[int, int, int]:
    """Return (text, reasoning, audio) tokens; `beside` are those that only the total has, which are reasoning."""
    reasoning = (details.reasoning_tokens if details is not None else None) or 0
    audio = (details.audio_tokens if details is not None else None) or 0
    if beside:
        if reasoning not in (0, beside) or audio > completion:
            raise UnbelievableUsage("total_tokens is neither with nor without reasoning_tokens")
        return completion - audio, beside, audio
    if reasoning + audio > completion:
        raise UnbelievableUsage("completion_tokens_details has more than completion_tokens")
    return completion - reasoning - audio, reasoning, audio
