"""What a test may have a ClickHouse server do to its clients."""

from __future__ import annotations

from dataclasses import dataclass

USER = "default"


@dataclass
class Fault:
    """What is done to the next statements with `words` in them.

    `reset`: the connection is cut before anything is done. `lost`: everything is done, and the connection is cut
    instead of an answer. `error`: status 500 with `code`, nothing is done. `slow`: done after `seconds`. `dies`: done,
    and the whole server is gone without an answer.
    """

    action: str
    words: str = "INSERT INTO"
    times: int = 1
    seconds: float = 0.0
    code: int = 252
