"""The handle on one request in flight; it outlives the connection that carries the request.

Knows where the request stands (waiting, on a connection, ended), not what is sent or received.
"""

import asyncio
from typing import Protocol

import msgspec

from ingress.adapters.provider.port import ResponseSink


class CarryingConnection(Protocol):
    """What an attempt needs of the connection that carries it."""

    transport: asyncio.Transport
    touched: bool

    def drop(self) -> None:
        """Close at once and serve nobody any more."""


class AttemptOwner(Protocol):
    """What an attempt without a connection needs of the pool."""

    def forget(self, attempt: "PooledAttempt") -> None:
        """Drop an attempt that waits for a connection; a no-op for one that has ended."""


class PooledAttempt(msgspec.Struct, eq=False):
    """One request on its way: waiting for a connection, or on one, or ended (see `port.Attempt`)."""

    owner: AttemptOwner
    request: bytes
    sink: ResponseSink
    connection: CarryingConnection | None = None
    started: float = 0.0
    """Set by the first sweep that sees it, as is `since`."""
    since: float = 0.0
    is_paused: bool = False
    is_retried: bool = False

    @property
    def is_sent(self) -> bool:
        """Whether bytes of the request may have reached the provider."""
        return self.connection is not None  # one that waits to be sent again was provably not taken

    def cancel(self) -> None:
        """Hang up: close the connection at once; no callback follows."""
        if self.connection is not None:
            self.connection.drop()
        else:
            self.owner.forget(self)

    def pause_reading(self) -> None:
        """Stop taking bytes from the provider."""
        if not self.is_paused:
            self.is_paused = True
            if self.connection is not None:
                self.connection.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again."""
        if self.is_paused:
            self.is_paused = False
            if self.connection is not None:
                self.connection.touched = True
                self.connection.transport.resume_reading()
