"""Forms as a client library writes them: read as the standard library reads them, and changed in one place only."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

import httpx
from hypothesis import given
from hypothesis import strategies as st

from ingress.core.multipart import boundary_of, read_form, replace_text
from ingress.core.strict_json import InputError

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,12}", fullmatch=True)
TEXTS = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=80), max_size=5)
CONTENTS = st.binary(max_size=400) | st.sampled_from([b"\r\n--", b"--", b"\r\n\r\n", b'name="model"\r\n\r\nx'])
FILES = st.lists(
    st.tuples(
        NAMES.filter(lambda name: name != "model"),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        CONTENTS,
    ),
    max_size=4,
)


def read_by_library(body: bytes, content_type: bytes) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    """Return texts and files as the standard library's parser of e-mail finds them."""
    message = BytesParser(policy=HTTP).parsebytes(b"content-type: %b\r\n\r\n%b" % (content_type, body))
    texts: dict[str, str] = {}
    files = []
    for part in message.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(content, bytes)
        if part.get_param("filename", header="content-disposition") is None:
            texts[name] = content.decode()
        else:
            files.append((name, content))
    return texts, files


@given(texts=TEXTS, files=FILES, model=st.text(st.characters(codec="utf-8"), max_size=20))
def test_forms_are_read_and_changed_as_written(texts: dict[str, str], files: list[tuple[str, str, bytes]],
                                               model: str) -> None:  # fmt: skip
    """Another reader agrees on every text and file, before and after the model is replaced."""
    taken = {name for name, _, _ in files}
    texts = {**{name: text for name, text in texts.items() if name not in taken}, "model": "nick"}
    parts = [(name, (None, text)) for name, text in texts.items()]
    request = httpx.Request(
        "POST", "http://x/", files=[*parts, *[(name, (title, content)) for name, title, content in files]]
    )
    content_type, body = request.headers["content-type"].encode(), request.read()
    form = read_form(body, boundary_of(content_type))
    assert dict(form) == texts
    assert [(file.name, file.size, file.first) for file in form.files] == [
        (name, len(content), content[:64]) for name, _, content in files
    ]
    changed = replace_text(body, form, "model", model)
    after = read_form(changed, boundary_of(content_type))
    assert dict(after) == {**texts, "model": model}
    assert len(changed) - len(body) == len(model.encode()) - len("nick")
    assert after.files == form.files
    if all(title.isprintable() and title.isascii() and '"' not in title for _, title, _ in files):
        plain = {name: text for name, text in texts.items() if "\r" not in text and "\n" not in text}
        library_texts, library_files = read_by_library(body, content_type)
        assert {name: library_texts[name] for name in plain} == plain
        assert [name for name, _ in library_files] == [name for name, _, _ in files]


@given(body=st.binary(max_size=200), at=st.integers(0, 400))
def test_any_bytes_are_a_form_or_refused(body: bytes, at: int) -> None:
    """Nothing but `InputError` is raised, whatever arrives, also inside a form that is none."""
    whole = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b\r\n' + body + b"\r\n--b--\r\n"
    for text in (body, whole, whole[:at] + body + whole[at:]):
        try:
            form = read_form(text, b"b")
        except InputError:
            continue
        for name, (start, end) in form.spans.items():
            if not name.endswith("[]"):
                assert text[start:end].decode() == form[name]
