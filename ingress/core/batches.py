"""What the answers of an account say of batches, in the words of `schemas.batches`, whichever protocol they speak.

`providers.openai_account` and `providers.anthropic_batches` know the protocols; `accounts` tells what was seen. Decides
nothing about money: what is charged, to whom and once, is the enforcer's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from ingress.core.counts import salvaged
from ingress.core.reported import Reported
from schemas.batches import BatchSeen, Line, line_id
from schemas.flags import MALFORMED, MISSING_INPUT, MISSING_OUTPUT

BATCH_TIER = "batch"
"""What served a line that names no tier."""
UNREAD = Line(b"", "", None, flags=(MALFORMED,))
"""Of text that is no line of results, or none that can be read."""
MAX_NAME = 128
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""Ids of files and batches; by others nothing can be asked for here."""
_FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError)
_decode = msgspec.json.Decoder().decode


class Witness(msgspec.Struct, frozen=True):
    """By whom, through which account and when something was seen."""

    provider: str
    attribution: msgspec.Raw
    seen_ms: int


ReadBatches = Callable[[bytes, Witness, bool], list[BatchSeen]]
"""Takes a whole answer, and whether it is that to a creation."""
ReadLine = Callable[[bytes], Line | None]
"""Takes a line of results. None: it used nothing; `UNREAD`: it is none. An empty id: it has no name of its own."""


class Sight(msgspec.Struct, frozen=True):
    """What is to be seen in the answers of one operation."""

    batches: ReadBatches | None = None
    """Of whole answers."""
    line: ReadLine | None = None
    """Of answers that are files of results."""
    is_creation: bool = False
    batch_id: str = ""
    """Whose results are asked for."""
    file_id: str = ""
    """Which file is asked for."""
    lead_here: Callable[[bytes, str], bytes] | None = None
    """Makes addresses of results in a whole answer lead through the gateway, which clients reach by this URL."""


def objects_in(body: bytes) -> list[dict[str, Any]]:
    """Return the object that an answer is, or those of the page that it lists."""
    try:
        found = _decode(body)
    except _FAULTS:
        found = salvaged(body)
    if not isinstance(found, dict):
        return []
    page = found.get("data")
    items = page if isinstance(page, list) else [found]
    return [item for item in items if isinstance(item, dict)]


def has_id(item: dict[str, Any]) -> bool:
    """Tell whether an object can be asked for here."""
    name = item.get("id")
    return isinstance(name, str) and _ID.fullmatch(name) is not None


def line_of(custom_id: Any, reported: Reported, operation: str, occurred_ms: int = 0) -> Line:
    """Return the line that an answer is."""
    flags = reported.flags
    if reported.usage is None and not flags:
        flags = (MISSING_INPUT, MISSING_OUTPUT)
    return Line(
        line_id(custom_id) if type(custom_id) is str else b"", reported.model, reported.usage, occurred_ms, operation,
        reported.service_tier or BATCH_TIER, reported.units, flags,
    )  # fmt: skip


def ms_of(seconds: Any) -> int:
    """Return unix seconds as milliseconds; 0 for anything that is no moment."""
    is_number = type(seconds) in (int, float)
    return int(seconds * 1000) if is_number and 0 < seconds < 10**11 else 0


def count_in(counts: Any, name: str) -> int:
    """Return a member of an object of counts; 0 for anything that is none."""
    count = counts.get(name) if isinstance(counts, dict) else None
    return count if type(count) is int and 0 < count < 10**9 else 0


def text_in(found: dict[str, Any], name: str) -> str:
    """Return a text; empty for anything else."""
    value = found.get(name)
    return value[:MAX_NAME] if type(value) is str else ""
