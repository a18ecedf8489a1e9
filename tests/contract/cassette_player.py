"""Plays cassettes: answers written after the public references of providers, through the readers that serve requests.

A cassette names its server, the page that it follows, the operation, what was asked (with the sizes of files, if it is
a form), the answer (a JSON object, text, or the events of a stream), and what the reader has to make of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ingress.core.multipart import File, Form
from ingress.core.protocols import OPERATIONS, Operation
from ingress.core.protocols_media import MEDIA_OPERATIONS
from ingress.core.reported import Reported
from ingress.core.sse import EventReader, EventRelay
from schemas.tokens import TokenUsage

FOLDER = Path(__file__).parent / "cassettes"
BY_NAME = {operation.name: operation for operation in (*OPERATIONS, *MEDIA_OPERATIONS)}


class Played(NamedTuple):
    """What came of a cassette."""

    reported: Reported
    out: bytes
    is_ended: bool
    is_complete: bool
    failed: str


class Cassette:
    """One recorded exchange."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.fields: dict[str, Any] = json.loads(path.read_text())
        self.expected: dict[str, Any] = self.fields["expected"]
        self.operation: Operation = BY_NAME[self.fields["operation"]]
        self.is_stream = "events" in self.fields
        self.hides_usage: bool = self.fields.get("hides_usage", False)

    def __repr__(self) -> str:
        return self.name

    @property
    def body(self) -> bytes:
        """The answer's bytes."""
        if not self.is_stream:
            answer = self.fields["answer"]
            return (answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)).encode()
        text = "".join(f"{event}\n\n" for event in self.fields["events"])
        return text.replace("\n", self.fields.get("line_end", "\n")).encode()

    @property
    def request(self) -> dict[str, Any]:
        """What was asked, as the reader of its operation takes it."""
        fields: dict[str, Any] = self.fields["request"]
        if "files" not in self.fields:
            return fields
        form = Form()
        form.update(fields)
        form.files += [File(name, size, b"ID3") for name, sizes in self.fields["files"].items() for size in sizes]
        return form

    def reader(self) -> EventReader:
        """Return a new reader for the stream."""
        return self.operation.open_stream(self.hides_usage)

    def play(self, pieces: Iterable[bytes]) -> Played:
        """Play the answer as it comes in pieces."""
        if not self.is_stream:
            body = b"".join(pieces)
            reported = self.operation.read_answer(body)
            return Played(reported, body, True, True, reported.failed)
        relay = EventRelay(self.reader())
        out = b"".join([*(relay.feed(piece) for piece in pieces), relay.finish()])
        return Played(relay.reader.reported, out, relay.is_ended, relay.reader.is_complete, relay.failed)

    @property
    def usage(self) -> TokenUsage | None:
        """The classes that are expected."""
        found = self.expected["usage"]
        return None if found is None else TokenUsage(**found)


def cassettes() -> list[Cassette]:
    """Return all of them, by name."""
    return [Cassette(path) for path in sorted(FOLDER.glob("*.json"))]
