"""What the simulator answers, as values: `delivery` turns them into bytes on a connection. Pure."""

import msgspec

from deploy.simulator.ledger import Entry
from deploy.simulator.wishes import Failure

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One response; `parts` is a single part unless it is streamed."""

    status: int = 200
    content_type: bytes = JSON
    headers: bytes = b""
    """Further header lines, each with its line end."""
    parts: tuple[bytes, ...] = ()
    streamed: bool = False
    delay_s: float = 0.0
    fail: Failure | None = None
    entry: Entry | None = None
    """What the ledger holds once the answer is complete; None for errors."""
