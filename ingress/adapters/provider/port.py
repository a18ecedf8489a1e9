"""The port towards providers: one request out, one response back in callbacks.

Two adapters satisfy it, the keep-alive pool (hot path) and the httpx egress (HTTP proxies, reference); the laws in
`tests/contract/test_provider_laws.py` hold for both. Knows bytes and time limits, neither models nor usage nor clients.
"""

from typing import Literal, Protocol

import msgspec

FaultKind = Literal[
    "connect",
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "total_timeout",
    "reset",
    "truncated",
    "protocol",
    "head_too_large",
    "pool_exhausted",
]
HeaderList = list[tuple[bytes, bytes]]


class Origin(msgspec.Struct, frozen=True, cache_hash=True, kw_only=True):
    """Where a provider answers, and the limits of every exchange with it.

    Two origins share connections only if all fields are equal. Keep one object per configured provider: looking up
    an equal but distinct object costs a comparison of every field.
    """

    host: str
    """Name or address to connect to."""
    port: int
    tls: bool
    server_hostname: str | None = None
    """Name for SNI and certificate check; None means `host`."""
    connect_s: float = 5.0
    """Name resolution, TCP and TLS together; also how long a request may wait for a free connection."""
    first_byte_s: float = 120.0
    """From the request (or its last sent byte, if it is large) to the first byte of the response."""
    idle_s: float = 60.0
    """Longest silence between two reads of a response; does not run while reading is paused."""
    total_s: float = 600.0
    """From `send` to the end of the response."""
    keepalive_s: float = 30.0
    """How long an unused connection is kept."""
    max_connections: int = 1024
    max_head_bytes: int = 65_536
    """Limit of the response head, of each run of framing without body bytes, and of the trailers."""


class ProviderFault(msgspec.Struct, frozen=True):
    """Why a response did not arrive whole."""

    kind: FaultKind
    """`reset`: closed before the whole head, or reset at any time; `truncated`: closed inside the body; `protocol`:
    bytes that are not HTTP; `pool_exhausted`: no connection became free within `connect_s`."""
    sent: bool
    """Whether bytes of the request may have reached the provider; False proves that nothing was processed."""
    detail: str = ""
    """Human readable; never holds request or response bytes."""


class ResponseSink(Protocol):
    """Receives one response. Called on the event loop, never from inside `send`, never after `cancel`.

    Order: `provider_head` once, `provider_data` any number of times, then exactly one of `provider_end` and
    `provider_error`; `provider_error` may come at any point. An exception raised in a callback is a bug: it reaches
    the loop's exception handler, and the exchange ends with `provider_error`.
    """

    def provider_head(self, status: int, headers: HeaderList) -> None:
        """Take the final head (1xx are skipped): names and values as received, in order; the list is the sink's."""

    def provider_data(self, data: bytes) -> None:
        """Take body bytes: transfer framing removed, content encoding untouched."""

    def provider_end(self) -> None:
        """Note that the response is complete and was correctly delimited. The connection is free again already."""

    def provider_error(self, error: ProviderFault) -> None:
        """Note that the response ends here, incomplete."""


class Attempt(Protocol):
    """Handle on one request in flight. Every method is a no-op once the response has ended."""

    @property
    def is_sent(self) -> bool:
        """Whether bytes of the request may have reached the provider; False proves that nothing was processed."""

    def cancel(self) -> None:
        """Hang up: close the connection at once; no callback follows."""

    def pause_reading(self) -> None:
        """Stop taking bytes from the provider; what was read already may still be delivered."""

    def resume_reading(self) -> None:
        """Take bytes again."""


class ProviderEgress(Protocol):
    """Sends requests to providers."""

    def send(self, origin: Origin, request: bytes, sink: ResponseSink) -> Attempt:
        """Send one whole HTTP/1.1 request (head and sized body, built by the caller).

        Never blocks, never raises for what the provider does; the outcome arrives at the sink.
        """

    async def close(self) -> None:
        """Close idle connections at once, let exchanges in flight end, refuse new ones."""
