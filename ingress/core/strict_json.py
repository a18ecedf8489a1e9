"""Request bodies: decodes JSON strictly, and edits members of the outermost object without re-serialising the rest.

Strict means UTF-8, one document, and no key twice in any object: of two equal keys, Tollway and the provider might
each take another one, and what is enforced would not be what is served. Knows no field of any API.
"""

from __future__ import annotations

import json
from json.decoder import scanstring  # type: ignore[attr-defined]  # the C scanner; typeshed leaves it out
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_BACKSLASH = 0x5C
_ESCAPED_COLONS = (b"\\u003a", b"\\u003A")


class InputError(Exception):
    """The body cannot be taken; the message is for the client. Never leaves `ingress.core`."""


def read_object(body: bytes) -> dict[str, Any]:
    """Return the object in `body`; `InputError` says what is wrong with it.

    Duplicate keys are found in two steps. The first costs half a microsecond and proves most bodies free of them:
    every member has one colon, and text keeps its colons, so a body has as many as the decoded object encoded again,
    and more if decoding has dropped a duplicate. Only a colon that the body writes as a number could make up for that.
    Where the first step proves nothing, the second looks at every object.
    """
    try:
        found = _decode(body)
        again = _encode(found)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(_malformed(body, error)) from None
    except RecursionError:
        raise InputError("the body is nested too deeply") from None
    if not isinstance(found, dict):
        raise InputError(f"the body is a JSON {_kind(found)}; it must be an object")
    if body.count(b":") != again.count(b":") or (
        _BACKSLASH in body and any(colon in body for colon in _ESCAPED_COLONS)
    ):
        _refuse_duplicates(body)
    return found


def replace_member(body: bytes, name: str, value: bytes) -> bytes:
    """Return `body` with the value of the member `name` of the outermost object replaced by JSON `value`.

    `body` must have passed `read_object` and must have the member.
    """
    text = body.decode()
    start, end = _member_span(text, name)
    return b"".join((text[:start].encode(), value, text[end:].encode()))


def replace_text_member(body: bytes, name: str, old: str, new: str) -> bytes:
    """Return `body` with text member `name` changed from `old` to `new`; quick where the spelling is the plain one."""
    key = b'"' + name.encode() + b'"'
    if body.count(key) == 1 and b"\\u" not in body:
        colon = body.index(key) + len(key)
        quoted = _encode(old)
        for gap in (b":", b": "):
            if body.startswith(gap + quoted, colon):
                start = colon + len(gap)
                return b"".join((body[:start], _encode(new), body[start + len(quoted) :]))
    return replace_member(body, name, _encode(new))


def append_member(body: bytes, name: str, value: bytes) -> bytes:
    """Return `body`, a non-empty object without member `name`, with it added at the end."""
    end = body.rindex(b"}")
    return b"".join((body[:end], b',"', name.encode(), b'":', value, body[end:]))


def _refuse_duplicates(body: bytes) -> None:
    def check(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise InputError(f"the key {key[:100]!r} is given twice in one object; keep one of them")
            seen.add(key)

    try:
        json.loads(body, object_pairs_hook=check, parse_int=str, parse_float=str)
    except RecursionError:
        raise InputError("the body is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"the body is not JSON: {error}") from None


def _malformed(body: bytes, error: Exception) -> str:
    if not body:
        return "the body is empty; send a JSON object"
    return f"the body is not JSON: {error}"


def _kind(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _member_span(text: str, name: str) -> tuple[int, int]:
    """Return where the value of outermost member `name` begins and ends in `text`."""
    scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
    at = _skip(text, 0) + 1
    while True:
        at = _skip(text, at)
        key, at = scanstring(text, at + 1)
        start = _skip(text, _skip(text, at) + 1)
        _, end = scan(text, start)
        if key == name:
            return start, end
        at = _skip(text, end) + 1


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
