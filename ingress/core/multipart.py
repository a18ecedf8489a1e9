"""Forms (`multipart/form-data`): finds the texts and the sizes of files in a body, and replaces one text in place.

Strict, as `strict_json` is: what a provider could read otherwise than Tollway is refused. A text field may stand once
unless its name ends with `[]`; a part has one plain name, no encoding of its own and CRLF line ends; nothing stands
before the first part or after the last one. File contents are stepped over and never copied. Knows no API.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ingress.core.strict_json import InputError

MAX_PARTS = 256
MAX_PART_HEAD_BYTES = 4_096
MAX_TEXT_BYTES = 1024 * 1024
"""The longest text field; files are bounded by the body only."""

_BOUNDARY = re.compile(rb'(?:^|;)\s*boundary=(?:"([^"]{1,70})"|([^\s;",]{1,70}))\s*(?=;|$)', re.IGNORECASE)
_ANY_BOUNDARY = re.compile(rb"(?:^|;)\s*boundary", re.IGNORECASE)
_BOUNDARY_TEXT = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER = re.compile(rb';\s*([a-z]+\*?)=(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"\\]+))\s*', re.IGNORECASE)
_NAME = re.compile(rb"[A-Za-z0-9_.\-]{1,100}(?:\[[A-Za-z0-9_]{0,40}\])*")
_IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})


class File(msgspec.Struct, frozen=True):
    """One file of a form."""

    name: str
    """Of its field."""
    size: int
    first: bytes
    """Its first 64 bytes, in which formats say what they are."""


class Form(dict[str, Any]):
    """The text fields of a form by name; and where each stands in the body, and which files there are."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.spans: dict[str, tuple[int, int]] = {}
        """Where the text of a field begins and ends."""
        self.files: list[File] = []


def boundary_of(content_type: bytes) -> bytes:
    """Return the boundary that a content type names; empty if it is no form's, or none that can be taken."""
    kind, _, rest = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        return b""
    found = _BOUNDARY.findall(rest)
    if len(found) != 1 or len(_ANY_BOUNDARY.findall(rest)) != 1:
        return b""
    boundary: bytes = found[0][0] or found[0][1]
    return boundary if _BOUNDARY_TEXT.fullmatch(boundary) else b""


def read_form(body: bytes, boundary: bytes) -> Form:
    """Return the form in `body`; `InputError` says what is wrong with it."""
    form, mark = Form(), b"--" + boundary
    if not body.startswith(mark + b"\r\n"):
        raise InputError("the form does not begin with the boundary that its content type names")
    at = len(mark) + 2
    delimiter = b"\r\n" + mark
    for _ in range(MAX_PARTS):
        end = body.find(delimiter, at - 2)
        head_end = body.find(b"\r\n\r\n", at, at + MAX_PART_HEAD_BYTES)
        if end < 0 or head_end < 0 or head_end + 4 > end:
            raise InputError("a part of the form has no end, or no head within 4,096 bytes")
        _take(form, body, body[at:head_end], head_end + 4, end)
        at = end + len(delimiter)
        rest = body[at : at + 2]
        at += 2
        if rest == b"--":
            if body[at:] not in (b"", b"\r\n"):
                raise InputError("the form goes on after its end")
            _refuse_both(form)
            return form
        if rest != b"\r\n":
            raise InputError("a boundary of the form is followed by other bytes; choose another boundary")
    raise InputError(f"the form has more than {MAX_PARTS} parts")


def replace_text(body: bytes, form: Form, name: str, new: str) -> bytes:
    """Return `body` with the text of field `name`, which it has, replaced by `new`."""
    start, end = form.spans[name]
    return b"".join((memoryview(body)[:start], new.encode(), memoryview(body)[end:]))


def _refuse_both(form: Form) -> None:
    """Refuse a name that a text and a file have: of the two, Tollway and the provider might each take another one."""
    for file in form.files:
        if file.name in form.spans:
            raise InputError(f"{file.name}: the field is given as a text and as a file; keep one of them")


def _take(form: Form, body: bytes, head: bytes, start: int, end: int) -> None:
    """Note one part."""
    name, is_file = _name_of(head)
    if is_file:
        form.files.append(File(name, end - start, body[start : min(end, start + 64)]))
        return
    if end - start > MAX_TEXT_BYTES:
        raise InputError(f"{name}: the field is longer than {MAX_TEXT_BYTES:,} bytes; send a file with a file name")
    if name in form.spans and not name.endswith("[]"):
        raise InputError(f"{name}: the field is given twice; keep one of them")
    try:
        form[name] = body[start:end].decode()
    except UnicodeDecodeError:
        raise InputError(f"{name}: the field is not UTF-8") from None
    form.spans[name] = (start, end)


def _name_of(head: bytes) -> tuple[str, bool]:
    """Return the field's name, and whether the part is a file; `InputError` if a head leaves doubt."""
    lines: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        key, colon, value = line.partition(b":")
        key = key.lower()
        if not colon or key in lines or not key or key != key.strip() or b"\n" in line or b"\r" in line:
            raise InputError("a part of the form has a head that is not understood")
        lines[key] = value.strip()
    if lines.get(b"content-transfer-encoding", b"binary").lower() not in _IDENTITY:
        raise InputError("a part of the form has a content-transfer-encoding; send its bytes as they are")
    kind, semicolon, rest = lines.get(b"content-disposition", b"").partition(b";")
    if kind.strip().lower() != b"form-data" or not semicolon:
        raise InputError("a part of the form has no content-disposition of form-data")
    return _parameters(b";" + rest)


def _parameters(text: bytes) -> tuple[str, bool]:
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None or match[1].lower() in found:
            raise InputError("a part of the form has a content-disposition that is not understood")
        found[match[1].lower()] = match[2] if match[2] is not None else match[3]
        at = match.end()
    name = found.get(b"name", b"")
    if not _NAME.fullmatch(name) or found.keys() - {b"name", b"filename", b"filename*"}:
        raise InputError(f"a part of the form has no plain name ({name[:100].decode('ascii', 'replace')!r})")
    return name.decode("ascii"), b"filename" in found or b"filename*" in found
