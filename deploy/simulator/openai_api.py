"""Answers in the shapes of OpenAI's API, from byte templates. Pure."""

import base64
import struct
from functools import lru_cache

import msgspec

from deploy.simulator.answer import EVENTS, Answer
from deploy.simulator.ask import Ask
from deploy.simulator.ledger import Entry
from deploy.simulator.text import pieces, words

_encode = msgspec.json.encode
MODELS = (
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1",
    "o4-mini",
    "text-embedding-3-small",
    "claude-sonnet-5",
    "claude-haiku-4-5",
)
_TYPES = {401: "invalid_request_error", 403: "permission_error", 429: "requests", 404: "invalid_request_error"}
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded", 503: "overloaded"}


def chat(ask: Ask, number: bytes, now_s: int) -> Answer:
    """Answer a chat completion, streamed or not."""
    entry = entry_of(ask, "chat", f"chatcmpl-{number.decode()}")
    finish = b"length" if ask.is_cut else b"stop"
    head = b'"created":%d,"model":%b,"service_tier":"default","system_fingerprint":"fp_simulated"' % (
        now_s,
        _encode(ask.model),
    )
    if ask.stream:
        return _answer(ask, number, _chat_events(ask, number, head, finish), entry)
    body = (
        b'{"id":"chatcmpl-%b","object":"chat.completion",%b,"choices":[{"index":0,"message":{"role":"assistant",'
        b'"content":"%b","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"%b"}]%b}'
    ) % (number, head, words(ask.visible_tokens), finish, b"" if _hides_usage(ask) else b',"usage":' + _usage(ask))
    return _answer(ask, number, (body,), entry)


def embeddings(ask: Ask, number: bytes) -> Answer:
    """Answer an embeddings request: unit vectors, as floats or base64."""
    vector = _vector(ask.dimensions, ask.base64)
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector) for index in range(ask.vectors)
    )
    usage = (
        b""
        if _hides_usage(ask)
        else b',"usage":{"prompt_tokens":%d,"total_tokens":%d}'
        % (
            ask.input_tokens,
            ask.input_tokens,
        )
    )
    body = b'{"object":"list","data":[%b],"model":%b%b}' % (data, _encode(ask.model), usage)
    return _answer(ask, number, (body,), entry_of(ask, "embeddings", f"emb-{number.decode()}"))


def models() -> Answer:
    """List the models."""
    return Answer(parts=(b'{"object":"list","data":[%b]}' % b",".join(map(_model, MODELS)),))


def model(name: str) -> Answer:
    """Describe one model; every name exists."""
    return Answer(parts=(_model(name),))


def error(status: int, message: str, number: bytes, headers: bytes = b"") -> Answer:
    """Return an error of the given status."""
    body = {
        "error": {
            "message": message,
            "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": None,
            "code": _CODES.get(status),
        }
    }
    return Answer(status=status, headers=b"x-request-id: req_%b\r\n%b" % (number, headers), parts=(_encode(body),))


def entry_of(ask: Ask, operation: str, answer_id: str) -> Entry:
    """Return the ledger's line for an answered request."""
    return Entry(
        id=answer_id,
        operation=operation,
        model=ask.model,
        input=ask.input_tokens,
        output=ask.output_tokens,
        cached=ask.wish.cached,
        cache_write=ask.wish.cache_write,
        reasoning=ask.wish.reasoning,
        stream=ask.stream,
        nonce=ask.nonce,
    )


def _answer(ask: Ask, number: bytes, parts: tuple[bytes, ...], entry: Entry) -> Answer:
    headers = b"x-request-id: req_%b\r\nopenai-version: 2020-10-01\r\n" % number
    delay_s, fail = ask.wish.delay_ms / 1000, ask.wish.fail
    if not ask.stream:
        return Answer(headers=headers, parts=parts, delay_s=delay_s, fail=fail, entry=entry)
    return Answer(
        content_type=EVENTS,
        headers=headers,
        parts=parts,
        streamed=True,
        delay_s=delay_s,
        fail=fail,
        entry=entry,
    )


def _chat_events(ask: Ask, number: bytes, head: bytes, finish: bytes) -> tuple[bytes, ...]:
    with_usage = ask.include_usage and not _hides_usage(ask)
    start = b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk",%b,"choices":' % (number, head)
    end = b',"usage":null}\n\n' if with_usage else b"}\n\n"
    opening = start + b'[{"index":0,"delta":{'
    closing = b'},"logprobs":null,"finish_reason":null}]' + end
    role = opening + b'"role":"assistant","content":"","refusal":null' + closing
    first, *rest = [
        opening + b'"content":"' + piece + b'"' + closing for piece in pieces(ask.visible_tokens, ask.chunks)
    ]
    stop = opening + b'},"logprobs":null,"finish_reason":"' + finish + b'"}]' + end
    usage = start + b'[],"usage":' + _usage(ask) + b"}\n\n" if with_usage else b""
    return (role + first, *rest, stop + usage + b"data: [DONE]\n\n")


def _usage(ask: Ask) -> bytes:
    wish = ask.wish
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    ) % (
        ask.input_tokens,
        ask.output_tokens,
        ask.input_tokens + ask.output_tokens,
        wish.cached,
        wish.cache_write,
        wish.reasoning,
    )


def _hides_usage(ask: Ask) -> bool:
    return ask.wish.fail == "no_usage"


def _model(name: str) -> bytes:
    return b'{"id":%b,"object":"model","created":1700000000,"owned_by":"simulator"}' % _encode(name)


@lru_cache(maxsize=64)
def _vector(dimensions: int, as_base64: bool) -> bytes:
    values = [1.0] + [0.0] * (dimensions - 1)
    if as_base64:
        return b'"' + base64.b64encode(struct.pack(f"<{dimensions}f", *values)) + b'"'
    return _encode(values)
