"""The metered operations whose requests or answers are not JSON text, and those of an account."""

from __future__ import annotations

import re

import msgspec

from ingress.core.batches import Sight
from ingress.core.protocols import Operation
from ingress.core.providers import anthropic_batches, openai_account, openai_audio, openai_images
from ingress.core.providers.openai_media import rename
from ingress.core.sse import EventReader

IMAGE_GENERATIONS = Operation(
    "images.generations", "openai", b"/images/generations",
    openai_images.read_images, rename, openai_images.read_answer, openai_images.open_stream,
)  # fmt: skip
IMAGE_EDITS = Operation(
    "images.edits", "openai", b"/images/edits",
    openai_images.read_images, rename, openai_images.read_answer, openai_images.open_stream, takes="either",
)  # fmt: skip
IMAGE_VARIATIONS = Operation(
    "images.variations", "openai", b"/images/variations",
    openai_images.read_images, rename, openai_images.read_answer, openai_images.open_stream, takes="form",
)  # fmt: skip
SPEECH = Operation(
    "audio.speech", "openai", b"/audio/speech",
    openai_audio.read_speech, rename, openai_audio.read_spoken, openai_audio.open_speech, is_raw=True,
)  # fmt: skip
TRANSCRIPTIONS = Operation(
    "audio.transcriptions", "openai", b"/audio/transcriptions",
    openai_audio.read_sound, rename, openai_audio.read_written, openai_audio.open_written, takes="form",
)  # fmt: skip
TRANSLATIONS = Operation(
    "audio.translations", "openai", b"/audio/translations",
    openai_audio.read_sound, rename, openai_audio.read_written, openai_audio.open_written, takes="form",
)  # fmt: skip
MEDIA_OPERATIONS = (IMAGE_GENERATIONS, IMAGE_EDITS, IMAGE_VARIATIONS, SPEECH, TRANSCRIPTIONS, TRANSLATIONS)


def _open_none(hides_usage: bool) -> EventReader:
    return openai_account.NoEvents()


FILES = Operation(
    "files", "openai", b"/files",
    openai_account.read_passed, openai_account.prepare, openai_account.read_answer, _open_none, False,
    takes="anything", is_raw=True,
)  # fmt: skip
BATCHES = msgspec.structs.replace(FILES, name="batches", path=b"/batches")
MESSAGE_BATCHES = msgspec.structs.replace(
    FILES, name="messages.batches", shape="anthropic", path=b"/messages/batches",
    read_answer=anthropic_batches.read_answer,
)  # fmt: skip
ACCOUNT_OPERATIONS = (FILES, BATCHES, MESSAGE_BATCHES)
"""Without a model; a policy has to name them."""

_BY_PATH = {b"files": FILES, b"batches": BATCHES, b"messages/batches": MESSAGE_BATCHES}
_SIGHTS: dict[str, Sight] = {
    BATCHES.name: Sight(openai_account.batches_in),
    MESSAGE_BATCHES.name: Sight(anthropic_batches.batches_in, lead_here=anthropic_batches.lead_here),
}
_ACCOUNT_PATH = re.compile(
    rb"/v1/(files|batches|messages/batches)(?:/([A-Za-z0-9_-]{1,128}))?(/content|/cancel|/results)?"
)
_ACCOUNT_METHODS: dict[tuple[bytes, bool, bytes], tuple[bytes, ...]] = {
    (b"files", False, b""): (b"GET", b"POST"),
    (b"files", True, b""): (b"GET", b"DELETE"),
    (b"files", True, b"/content"): (b"GET",),
    (b"batches", False, b""): (b"GET", b"POST"),
    (b"batches", True, b""): (b"GET",),
    (b"batches", True, b"/cancel"): (b"POST",),
    (b"messages/batches", False, b""): (b"GET", b"POST"),
    (b"messages/batches", True, b""): (b"GET", b"DELETE"),
    (b"messages/batches", True, b"/cancel"): (b"POST",),
    (b"messages/batches", True, b"/results"): (b"GET",),
}


def account_methods(path: bytes) -> tuple[bytes, ...]:
    """Return the methods that a path of an account takes; none if it is no such path."""
    match = _ACCOUNT_PATH.fullmatch(path)
    return _ACCOUNT_METHODS.get((match[1], bool(match[2]), match[3] or b""), ()) if match else ()


def account_operation(method: bytes, path: bytes) -> Operation | None:
    """Return the operation of a request about files or batches; None for every other request."""
    match = _ACCOUNT_PATH.fullmatch(path)
    if match is None or method not in account_methods(path):
        return None
    found, name, verb = _BY_PATH[match[1]], (match[2] or b"").decode(), match[3]
    sees, read, is_file = _SIGHTS.get(found.name), found.read, verb in (b"/content", b"/results")
    if verb == b"/content":
        sees = Sight(line=openai_account.read_line, file_id=name)
    elif verb == b"/results":
        sees = Sight(line=anthropic_batches.read_line, batch_id=name)
    elif sees is not None and method == b"POST" and not name:
        sees, read = msgspec.structs.replace(sees, is_creation=True), openai_account.read_created
    return msgspec.structs.replace(
        found, method=method, path=path[len(b"/v1") :], sees=sees, read=read, is_file=is_file
    )
