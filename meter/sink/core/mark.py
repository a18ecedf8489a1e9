"""The sink's mark in the metadata of its committed offset: the batch that is being inserted, and the watermarks.

The committed offset is the first offset that is not known to be inserted. Before a batch is inserted the mark names
its last offset; a batch is (committed offset, last). After a crash exactly this range is sent again, judged by exactly
these watermarks, under the same token. Writing the mark through the group's offset commit makes it durable where the
position is, in one step with it, and refused once another member has taken the partition over.
"""

from __future__ import annotations

from typing import Self

import msgspec

from meter.sink.core.watermarks import Watermark, Watermarks

MAX_BYTES = 3_500
"""The broker takes 4,096 (`offset.metadata.max.bytes`)."""


class _Encoded(msgspec.Struct, omit_defaults=True):
    v: int = 1
    to: int | None = None
    marks: list[tuple[str, int, int, bool]] = []
    """(instance, epoch, seq, closed) of exact watermarks, the most recently used first."""
    whole: bool = False


class Mark(msgspec.Struct, frozen=True):
    """What is committed beside an offset."""

    last: int | None
    """Last offset of the batch in flight; None if there is none."""
    watermarks: Watermarks
    """As they are before the committed offset."""

    def encode(self) -> str:
        """Return the metadata. Watermarks that do not fit are left out, the least recently used first."""
        exact = [(*run, mark.seq, mark.closed) for run, mark in reversed(self.watermarks.items()) if mark.exact]
        whole = self.watermarks.complete and len(exact) == len(self.watermarks.items())
        while True:
            text = msgspec.json.encode(_Encoded(to=self.last, marks=exact, whole=whole))
            if len(text) <= MAX_BYTES:
                return text.decode()
            exact, whole = exact[: len(exact) * 9 // 10], False

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """Return the mark in `text`; None if it is none of ours."""
        try:
            found = msgspec.json.decode(text, type=_Encoded)
        except (msgspec.MsgspecError, ValueError):
            return None
        if found.v != 1:
            return None
        known = [((instance, epoch), Watermark(seq, closed=closed)) for instance, epoch, seq, closed in found.marks]
        return cls(found.to, Watermarks(reversed(known), found.whole))
