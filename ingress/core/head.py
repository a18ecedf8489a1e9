"""Heads of requests and answers: what is taken from one, what is passed on, what stays between two hops.

Request headers pass by an allow-list: cookies, credentials and whatever a proxy in front of us added never reach a
provider, nor does a choice of the account that is billed. Answer headers pass except those of the hop.
"""

from __future__ import annotations

import msgspec

from ingress.core.multipart import boundary_of

HeaderList = list[tuple[bytes, bytes]]

FORWARDED = frozenset(
    b"""
    accept accept-language anthropic-beta anthropic-version content-type idempotency-key openai-beta user-agent
    x-client-request-id x-stainless-arch x-stainless-async x-stainless-helper x-stainless-helper-method
    x-stainless-lang x-stainless-os x-stainless-package-version x-stainless-poll-helper x-stainless-raw-response
    x-stainless-read-timeout x-stainless-retry-count x-stainless-runtime x-stainless-runtime-version
    x-stainless-timeout
    """.split()
)
"""Request headers that reach the provider; the credential, `host` and the framing are our own."""

_PASS_ON, _KEY, _API_KEY, _TYPE, _LENGTH, _EXPECT, _ENCODING = range(7)
_READ = dict.fromkeys(FORWARDED, _PASS_ON) | {
    b"authorization": _KEY,
    b"x-api-key": _API_KEY,
    b"content-type": _TYPE,
    b"content-length": _LENGTH,
    b"expect": _EXPECT,
    b"content-encoding": _ENCODING,
}

HOP_BY_HOP = frozenset(
    b"""
    connection keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding upgrade content-length
    """.split()
)
"""Answer headers that end here, beside those that `connection` names: the framing towards the client is our own."""
_NAMES_NOTHING = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
_PASS, _ENDS, _NAMES_OTHERS, _TELLS_TYPE, _LIMITS = range(5)
_MAX_NAMES, _MAX_NAME_BYTES = 512, 64
_KINDS: dict[bytes, int] = {}
"""What header names of answers mean, as they were spelled. A memory of what is true: forgetting costs time only."""


class RequestHead(msgspec.Struct):
    """What the head of a request says that matters before its body."""

    secret: bytes = b""
    """Of the virtual key; empty if there is none."""
    is_json: bool = False
    boundary: bytes = b""
    """Of a form; empty if the body is none."""
    is_encoded: bool = False
    expects_continue: bool = False
    content_length: int = -1
    """-1 if the head does not say."""
    forwarded: bytes = b""
    """Header lines for the provider."""


def read_head(headers: HeaderList) -> RequestHead:
    """Return what matters in request headers, whose names must be in lower case."""
    lines: list[bytes] = []
    bearer = api_key = boundary = b""
    is_json = is_encoded = expects_continue = False
    length = -1
    kind: bytes | None = None
    for name, value in headers:
        what = _READ.get(name)
        if what is None:
            continue
        if not what:
            lines += (name, b": ", value, b"\r\n")
        elif what == _LENGTH:
            length = int(value)
        elif what == _TYPE:
            lines += (name, b": ", value, b"\r\n")
            is_first, kind = kind is None, value
            is_json = is_first and (value == b"application/json" or _is_json(value))
            boundary = b"" if is_json or not is_first else boundary_of(value)
        elif what == _KEY:
            bearer = value[7:].strip() if value[:7].lower() == b"bearer " else b""
        elif what == _API_KEY:
            api_key = value.strip()
        elif what == _EXPECT:
            expects_continue = value.lower() == b"100-continue"
        else:
            is_encoded = value.strip().lower() not in (b"", b"identity")
    return RequestHead(
        bearer or api_key, is_json, boundary, is_encoded, expects_continue, length, b"".join(lines)
    )  # fmt: skip


class AnswerHead(msgspec.Struct, frozen=True):
    """What the head of an answer says, and its lines for the client."""

    lines: bytes
    is_stream: bool
    is_json: bool = False


def read_answer_head(headers: HeaderList, own_limits: bool) -> AnswerHead:
    """Return the head of a provider's answer; our own `x-ratelimit-*` replace the provider's."""
    lines: list[bytes] = []
    is_stream = is_json = False
    for name, value in headers:
        kind = _KINDS.get(name)
        if kind is None:
            kind = _kind_of(name)
        if kind:
            if kind == _TELLS_TYPE:
                is_stream = value[:17].lower() == b"text/event-stream"
                is_json = not is_stream and (value == b"application/json" or _is_json(value))
            elif kind == _NAMES_OTHERS and value not in _NAMES_NOTHING:
                return read_answer_head(_end_to_end(headers), own_limits)
            elif kind != _LIMITS or own_limits:
                continue
        lines += (name, b": ", value, b"\r\n")
    return AnswerHead(b"".join(lines), is_stream, is_json)


def _kind_of(name: bytes) -> int:
    """Return what a header of an answer is, and remember it."""
    low = name.lower()
    if low == b"connection":
        kind = _NAMES_OTHERS
    elif low in HOP_BY_HOP or low.startswith(b"x-tollway-"):
        kind = _ENDS
    elif low == b"content-type":
        kind = _TELLS_TYPE
    else:
        kind = _LIMITS if low.startswith(b"x-ratelimit-") else _PASS
    if len(name) <= _MAX_NAME_BYTES:
        if len(_KINDS) >= _MAX_NAMES:
            _KINDS.clear()
        _KINDS[name] = kind
    return kind


def _end_to_end(headers: HeaderList) -> HeaderList:
    """Return headers without `connection` and without those that it names: they were meant for us only."""
    named = {b"connection"}
    for name, value in headers:
        if name.lower() == b"connection":
            named |= {token.strip().lower() for token in value.split(b",")}
    return [(name, value) for name, value in headers if name.lower() not in named]


def _is_json(value: bytes) -> bool:
    kind = value.partition(b";")[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
