"""Relays bytes that are no events, such as sound or a file, as they come: neither kept nor read, whatever they are.

The last piece is held back until `finish`, so that the client does not believe that it has all before its usage is on
the log.
"""

from __future__ import annotations

from ingress.core.holding import BytesReader
from ingress.core.sse import EventRelay


class BytesRelay(EventRelay):
    """One answer: bytes of the provider in, the same bytes for the client out."""

    __slots__ = ("_piece",)

    def __init__(self) -> None:
        """Start an answer."""
        super().__init__(BytesReader())
        self.is_unread = True
        self._piece = b""

    def feed(self, data: bytes) -> bytes:
        """Return what may go to the client now that `data` has arrived."""
        piece, self._piece = self._piece, data
        return piece

    def finish(self) -> bytes:
        """Return the last piece, for the end of the answer."""
        piece, self._piece = self._piece, b""
        return piece
