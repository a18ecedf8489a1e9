"""Forms: what is found in them, what is replaced, and what is refused because two readers might differ."""

from __future__ import annotations

import pytest

from ingress.core.multipart import MAX_PARTS, boundary_of, read_form, replace_text
from ingress.core.strict_json import InputError


def part(name: str, content: bytes, more: str = "", *, head: str | None = None) -> bytes:
    """Return a part with its boundary before it."""
    line = f'Content-Disposition: form-data; name="{name}"{more}' if head is None else head
    return b"--b\r\n" + line.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    """Return a whole form."""
    return b"".join(parts) + b"--b--\r\n"


def test_texts_and_files_are_found() -> None:
    """Texts by name, files by size and first bytes; a file is not a text, whatever its name is."""
    sound = bytes(range(256))
    body = form(part("model", b"m"), part("file", sound, '; filename="a.wav"'), part("n", "ü".encode()))
    found = read_form(body, b"b")
    assert dict(found) == {"model": "m", "n": "ü"}
    assert [(file.name, file.size, file.first) for file in found.files] == [("file", 256, sound[:64])]


def test_text_is_replaced_in_place() -> None:
    """Nothing else changes, not a byte."""
    body = form(part("file", b"\r\n--\x00--bb", '; filename="a"'), part("model", b"nick"), part("prompt", b"nick"))
    changed = replace_text(body, read_form(body, b"b"), "model", "the-upstream's-ü")
    assert changed == body.replace(b'name="model"\r\n\r\nnick', 'name="model"\r\n\r\nthe-upstream\'s-ü'.encode())


@pytest.mark.parametrize(
    ("value", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data ;charset=utf-8; BOUNDARY="a b:c"', b"a b:c"),
        (b"multipart/form-data; boundary=----WebKitFormBoundary7MA4", b"----WebKitFormBoundary7MA4"),
        (b"multipart/form-data", b""),
        (b"multipart/mixed; boundary=abc", b""),
        (b"multipart/form-data; boundary=a; boundary=b", b""),
        (b"multipart/form-data; boundary=a; boundary*0=b", b""),
        (b"multipart/form-data; boundary=" + b"a" * 71, b""),
        (b'multipart/form-data; boundary="a\rb"', b""),
        (b"application/json; boundary=abc", b""),
    ],
)
def test_boundary_is_taken_from_the_content_type(value: bytes, boundary: bytes) -> None:
    """Quoted or not, once, and of a form only."""
    assert boundary_of(value) == boundary


REFUSED = {
    "empty": (b"", "does not begin"),
    "text before": (b"x" + form(part("a", b"1")), "does not begin"),
    "no end": (part("a", b"1"), "no end"),
    "no head": (b"--b\r\nx\r\n--b--", "no end, or no head"),
    "text after": (form(part("a", b"1")) + b"x", "after its end"),
    "twice": (form(part("model", b"1"), part("model", b"2")), "model: the field is given twice"),
    "text and file": (form(part("model", b"1", '; filename="a"'), part("model", b"2")), "as a text and as a file"),
    "longer boundary": (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--bb\r\n', "other bytes"),
    "no disposition": (form(part("", b"1", head="Content-Type: text/plain")), "no content-disposition"),
    "attachment": (form(part("", b"1", head='Content-Disposition: attachment; name="a"')), "no content-disposition"),
    "no name": (form(part("", b"1", head="Content-Disposition: form-data")), "no content-disposition"),
    "empty name": (form(part("", b"1")), "no plain name"),
    "odd name": (form(part("mo\\del", b"1")), "no plain name"),
    "two names": (form(part("a", b"1", '; name="model"')), "not understood"),
    "name in another charset": (form(part("a", b"1", "; name*=utf-8''model")), "no plain name"),
    "base64": (
        form(part("", b"1", head='Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64')),
        "content-transfer-encoding",
    ),
    "two dispositions": (
        form(part("a", b"1", '\r\ncontent-disposition: form-data; name="b"')),
        "head that is not understood",
    ),
    "folded line": (
        form(part("", b"1", head='Content-Disposition: form-data;\r\n name="a"')), "head that is not understood",
    ),
    "bare line feed": (
        form(part("", b"1", head='Content-Disposition: form-data; name="a"\nx: y')), "head that is not understood",
    ),
    "not UTF-8": (form(part("a", b"\xff")), "a: the field is not UTF-8"),
    "too many": (form(*[part(f"a{at}", b"") for at in range(MAX_PARTS + 1)]), "more than"),
    "long text": (form(part("a", b"x" * (1024 * 1024 + 1))), "a: the field is longer"),
    "long head": (form(part("a", b"", "; filename=" + "x" * 5000)), "no head within"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_leaves_doubt_is_refused(name: str) -> None:
    """The message says what is wrong, with the field where there is one."""
    body, told = REFUSED[name]
    with pytest.raises(InputError, match=told):
        read_form(body, b"b")


def test_names_with_brackets_may_stand_often() -> None:
    """Lists of texts and of files are several fields of one name."""
    body = form(
        part("image[]", b"1", '; filename="a"'), part("image[]", b"22", '; filename="b"'),
        part("include[]", b"x"), part("include[]", b"y"),
    )  # fmt: skip
    found = read_form(body, b"b")
    assert [file.size for file in found.files] == [1, 2]
    assert found["include[]"] == "y"
