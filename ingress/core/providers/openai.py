"""OpenAI's protocol: chat completions, embeddings, moderations. Which fields matter, where the usage is, what is asked.

A stream ends with `data: [DONE]`; its usage comes, if asked for, in an extra chunk without choices before that, and at
some servers in the last chunk with choices, in every chunk, or in a member of Groq's own. It is cumulative: the last
word counts. A stream that is cut off ends its choices with the reason `length`. What counts mean is in `openai_usage`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from ingress.core.ask import MAX_ASKED_TOKENS, MAX_CHOICES, Ask, count_field, flag_field, text_field
from ingress.core.cutoff import CutOff
from ingress.core.providers.openai_usage import NO_USAGE, report, unreadable
from ingress.core.reported import ERROR_ANSWER, ERROR_EVENT, NOTHING_REPORTED, Reported
from ingress.core.sse import ERROR_MARK, data_of, split_events
from ingress.core.strict_json import append_member, replace_member, replace_text_member
from schemas.tokens import NO_TOKENS

MODERATION_MODEL = "omni-moderation-latest"
"""Of a moderation that names none."""
_ASKS_USAGE = b'{"include_usage":true}'


class _Answer(msgspec.Struct):
    usage: msgspec.Raw = NO_USAGE
    model: Any = None
    service_tier: Any = None


class _Groq(msgspec.Struct):
    usage: msgspec.Raw = NO_USAGE


class _Choice(msgspec.Struct):
    index: Any = 0
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    usage: msgspec.Raw = NO_USAGE
    model: Any = None
    service_tier: Any = None
    choices: list[_Choice] | None = None
    x_groq: _Groq | None = None


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
_FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError)


def read_chat(fields: dict[str, Any]) -> Ask:
    """Understand the body of a chat completion; `InputError` names the field that is wrong."""
    stream = flag_field(fields, "stream")
    newer = older = choices = None
    if "max_completion_tokens" in fields:
        newer = count_field(fields, "max_completion_tokens", MAX_ASKED_TOKENS)
    if "max_tokens" in fields:
        older = count_field(fields, "max_tokens", MAX_ASKED_TOKENS)
    if "n" in fields:
        choices = count_field(fields, "n", MAX_CHOICES)
    options = fields.get("stream_options")
    return Ask(
        text_field(fields, "model"),
        stream,
        older if newer is None else newer,
        choices or 1,
        not stream or (type(options) is dict and options.get("include_usage") is True),
    )


def read_embeddings(fields: dict[str, Any]) -> Ask:
    """Understand the body of an embeddings request; `InputError` names the field that is wrong."""
    return Ask(text_field(fields, "model"), output_tokens=0)


def read_moderation(fields: dict[str, Any]) -> Ask:
    """Understand the body of a moderation, which costs nothing; `InputError` names the field that is wrong."""
    model = MODERATION_MODEL if fields.get("model") is None else text_field(fields, "model")
    return Ask(model, output_tokens=0, is_free=True)


def read_free(fields: dict[str, Any]) -> Ask:
    """Understand the body of a request that counts tokens, which costs nothing; `InputError` names a wrong field."""
    return Ask(text_field(fields, "model"), output_tokens=0, is_free=True)


def rename(body: bytes, fields: dict[str, Any], ask: Ask, upstream: str) -> bytes:
    """Return the body for the provider: the upstream's model name, and nothing else changed."""
    given = fields.get("model", ask)
    if given is ask:
        return append_member(body, "model", msgspec.json.encode(upstream)) if fields else body
    if given is None:
        return replace_member(body, "model", msgspec.json.encode(upstream))
    return body if given == upstream else replace_text_member(body, "model", given, upstream)


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


def read_answer(body: bytes, has_output: bool = True) -> Reported:
    """Return what a whole answer reports."""
    try:
        answer = _decode_answer(body)
    except _FAULTS:
        return unreadable(body, (), has_output)
    reported = report(answer.model, bytes(answer.usage), answer.service_tier, None, has_output)
    is_bare = reported.usage is None or reported.usage == NO_TOKENS  # one that has used something has not failed
    if is_bare and ERROR_MARK in body and is_failure(body):
        return msgspec.structs.replace(reported, failed=ERROR_ANSWER)
    return reported


def read_embedded(body: bytes) -> Reported:
    """Return what an answer without output tokens reports."""
    return read_answer(body, False)


def read_moderated(body: bytes) -> Reported:
    """Return what a moderation reports: no usage is none, explicitly."""
    reported = read_answer(body, False)
    if reported.usage is not None or reported.fault or reported.failed:
        return reported
    return Reported(reported.model, NO_TOKENS)


def read_unbilled(body: bytes) -> Reported:
    """Return what an answer reports that counts tokens: they are not used."""
    return Reported("", NO_TOKENS, failed=ERROR_ANSWER if ERROR_MARK in body and is_failure(body) else "")


def is_failure(data: bytes) -> bool:
    """Tell whether a JSON text says that an answer has failed."""
    try:
        return _decode_failure(data).is_one
    except _FAULTS:
        return False


class OpenAIStream:
    """Reads the events of one streamed completion that may matter (see `sse.EventReader`)."""

    __slots__ = ("_hides_usage", "failed", "is_complete", "reported")

    end_mark = b"[DONE]"
    usage_mark = b'_tokens"'
    piece_mark = b'"delta"'
    text_mark = b'"content":"'
    _object = "chat.completion.chunk"
    _no_text: ClassVar[dict[str, Any]] = {"delta": {}}

    def __init__(self, hides_usage: bool) -> None:
        """Start reading; `hides_usage` takes the chunk out that only the gateway asked for."""
        self._hides_usage = hides_usage
        self.reported = NOTHING_REPORTED
        self.is_complete = False
        self.failed = ""

    def is_end(self, data: bytes) -> bool:
        """Tell whether the data of an event ends the stream."""
        return data.strip() == b"[DONE]"

    def take(self, data: bytes) -> bool:
        """Note the usage in the data of an event; True if the client must not see the event."""
        try:
            chunk = _decode_chunk(data)
        except _FAULTS:
            if b'"usage"' in data:
                self.reported = unreadable(data)
            return False
        usage = bytes(chunk.usage)
        if usage == b"null" and chunk.x_groq is not None:
            usage = bytes(chunk.x_groq.usage)
        if usage == b"null":
            return False
        self.reported = report(chunk.model, usage, chunk.service_tier)
        choices = chunk.choices
        self.is_complete = not choices or all(choice.finish_reason for choice in choices)
        return self._hides_usage and not choices

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
            except _FAULTS:
                continue
            found |= {
                choice.index for choice in chunk.choices or () if choice.finish_reason and type(choice.index) is int
            }
        return frozenset(found)

    def ending(self, last: bytes, cut: CutOff) -> bytes:
        """Return the events that end the stream: reason `length` for open choices, the usage if asked for, the mark."""
        chunk: dict[str, Any] = {
            "id": cut.answer_id, "object": self._object, "created": cut.now_s, "model": cut.model,
        }  # fmt: skip
        chunk.update(_head_of(last))
        end: dict[str, Any] = {**self._no_text, "logprobs": None, "finish_reason": "length"}
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
        except _FAULTS:
            continue
        if isinstance(chunk, dict) and "choices" in chunk:
            return {name: value for name, value in chunk.items() if name in _COMMON}
    return {}


class CompletionsStream(OpenAIStream):
    """The same for legacy completions, whose choices have their text in `text`."""

    __slots__ = ()

    piece_mark = b'"text"'
    text_mark = b'"text":"'
    _object = "text_completion"
    _no_text: ClassVar[dict[str, Any]] = {"text": ""}
