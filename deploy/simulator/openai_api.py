"""Answers in the shapes of OpenAI's API, from byte templates. Pure."""

import base64
import struct
from functools import lru_cache

import msgspec

from deploy.simulator.answer import EVENTS, Answer
from deploy.simulator.ask import Ask
from deploy.simulator.ledger import Entry
from deploy.simulator.text import pieces, words
from deploy.simulator.usage import chat_usage, entry_of, hostile

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
    head = b'"created":%d,"model":%b,"service_tier":"%b","system_fingerprint":"fp_simulated"' % (
        now_s,
        _encode(ask.model),
        ask.tier.encode() or b"default",
    )
    if ask.stream:
        return answer_of(ask, number, _chat_events(ask, number, head, finish), entry)
    body = (
        b'{"id":"chatcmpl-%b","object":"chat.completion",%b,"choices":[{"index":0,"message":{"role":"assistant",'
        b'"content":"%b","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"%b"}]%b}'
    ) % (number, head, words(ask.visible_tokens), finish, b"" if hides_usage(ask) else b',"usage":' + chat_usage(ask))
    return answer_of(ask, number, (body,), entry)


def embeddings(ask: Ask, number: bytes) -> Answer:
    """Answer an embeddings request: unit vectors, as floats or base64."""
    vector = _vector(ask.dimensions, ask.base64)
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector) for index in range(ask.vectors)
    )
    counts = b'{"prompt_tokens":%d,"total_tokens":%d}' % (ask.input_tokens, ask.input_tokens)
    usage = b"" if hides_usage(ask) else b',"usage":' + hostile(counts, ask)
    body = b'{"object":"list","data":[%b],"model":%b%b}' % (data, _encode(ask.model), usage)
    return answer_of(ask, number, (body,), entry_of(ask, "embeddings", f"emb-{number.decode()}"))


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


def answer_of(ask: Ask, number: bytes, parts: tuple[bytes, ...], entry: Entry) -> Answer:
    """Return an answer to a request: a stream of `parts`, or a whole one."""
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
    with_usage = ask.include_usage and not hides_usage(ask)
    start = b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk",%b,"choices":' % (number, head)
    end = b',"usage":null}\n\n' if with_usage else b"}\n\n"
    opening = start + b'[{"index":0,"delta":{'
    closing = b'},"logprobs":null,"finish_reason":null}]' + end
    role = opening + b'"role":"assistant","content":"","refusal":null' + closing
    first, *rest = [
        opening + b'"content":"' + piece + b'"' + closing for piece in pieces(ask.visible_tokens, ask.chunks)
    ]
    stop = opening + b'},"logprobs":null,"finish_reason":"' + finish + b'"}]' + end
    usage = start + b'[],"usage":' + chat_usage(ask) + b"}\n\n" if with_usage else b""
    return (role + first, *rest, stop + usage + b"data: [DONE]\n\n")


def hides_usage(ask: Ask) -> bool:
    """Tell whether the answer has no usage: as asked for, or because a whole answer has no end to leave out."""
    return ask.wish.fail == "no_usage" or (ask.wish.fail == "no_end" and not ask.stream)


def _model(name: str) -> bytes:
    return b'{"id":%b,"object":"model","created":1700000000,"owned_by":"simulator"}' % _encode(name)


@lru_cache(maxsize=64)
def _vector(dimensions: int, as_base64: bool) -> bytes:
    values = [1.0] + [0.0] * (dimensions - 1)
    if as_base64:
        return b'"' + base64.b64encode(struct.pack(f"<{dimensions}f", *values)) + b'"'
    return _encode(values)
