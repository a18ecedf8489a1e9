"""Posts corrections through the enforcer: begun over a state that was seen, chunk by chunk, concluded.

Adapts `deploy.api`. Nothing is ever asked for twice: if an answer is lost, the whole command is run again, and computes
what is still missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from deploy.api import Api
from enforcer.core.adjustments import Adjustment, Target
from schemas.errors import TransportError

CHUNK = 1_000
POLL_S = 0.2
SAY_EVERY_S = 5.0

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Seen:
    """The state that corrections are computed over."""

    last: int
    """The last posting."""
    ends: dict[int, int]
    """Of the usage log, by partition: all below is in the history."""


def up_to_date(
    enforcer: Api, history: Api, timeout_s: float, say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> Seen:  # fmt: skip
    """Return the state to compute over, once the history has everything that is on the log now.

    Raises:
        TransportError: somebody posts at the moment, or the history is not there within `timeout_s`.
    """
    look = enforcer.get("/v1/adjustments")
    if look["under_way"]:
        raise TransportError(f"{look['under_way']}; wait until it is over, then run the command again")
    ends = {int(partition): int(end) for partition, end in look["ends"].items()}
    deadline, said_at = clock() + timeout_s, clock() - SAY_EVERY_S
    while True:
        missing = behind(history.get("/v1/status")["partitions"], ends)
        if not missing:
            return Seen(int(look["last"]), ends)
        if clock() >= deadline:
            raise TransportError(
                f"the history has not reached the end of the usage log within {timeout_s:g} s ({missing}); see "
                "`tollway status`, or give --timeout more"
            )
        if clock() - said_at >= SAY_EVERY_S:
            say(f"waiting for the history: {missing}")
            said_at = clock()
        sleep(POLL_S)


def behind(partitions: Iterable[Mapping[str, Any]], ends: Mapping[int, int]) -> str:
    """Return in words which partitions of usage the history has not read to `ends`; empty if it has all."""
    known = {int(lane["partition"]): lane for lane in partitions if str(lane["topic"]).endswith("usage")}
    for partition, end in sorted(ends.items()):
        lane = known.get(partition)
        if lane is None and end:
            return f"partition {partition} is not being read"
        if lane is not None and not _has(lane, end):
            return f"partition {partition} is at {lane['position']} of {end}"
    return ""


def _has(lane: Mapping[str, Any], end: int) -> bool:
    """Tell whether all rows below `end` are in the table. Records without rows are committed only now and then."""
    return int(lane["position"]) >= end or (int(lane["log_end"]) >= end and not int(lane["lag"]))


def post(
    enforcer: Api, seen: Seen, corrections: Iterable[tuple[Target, Adjustment]], reason: str, detail: Mapping[str, Any],
    actor: str, progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:  # fmt: skip
    """Post corrections that were computed over `seen`, and return what was posted.

    Raises:
        ConfigError: somebody has posted since; nothing is posted.
        TransportError: it broke off; what was written stands.
    """
    body = {"after": seen.last, "reason": reason, "detail": detail, "actor": actor}
    begun = enforcer.post("/v1/adjustments", body)
    path = f"/v1/adjustments/{begun['posting']}"
    count = 0
    for number, chunk in enumerate(chunks(corrections), 1):
        enforcer.post(path, {"chunk": number, **chunk})
        count += len(chunk["adjustments"])
        progress(count)
    posted: dict[str, Any] = enforcer.post(f"{path}/end", {})
    return posted


def agreed(count: int, option: str) -> bool:
    """Ask whether corrections shall be posted; where nobody can be asked, say which option posts them."""
    if not sys.stdin.isatty():
        click.echo(f"not a terminal: give {option} to post", err=True)
        return False
    return click.confirm(f"post {count:,} corrections?", default=False, err=True)


def chunks(corrections: Iterable[tuple[Target, Adjustment]]) -> Iterator[dict[str, Any]]:
    """Yield the bodies that post `corrections`; a target is told once a chunk."""
    places: dict[bytes, int] = {}
    targets: list[Any] = []
    adjustments: list[Any] = []
    for target, adjustment in corrections:
        key = _encode(target)
        place = places.setdefault(key, len(places))
        if place == len(targets):
            targets.append(msgspec.to_builtins(target))
        adjustments.append(msgspec.to_builtins(msgspec.structs.replace(adjustment, target=place)))
        if len(adjustments) == CHUNK:
            yield {"targets": targets, "adjustments": adjustments}
            places, targets, adjustments = {}, [], []
    if adjustments:
        yield {"targets": targets, "adjustments": adjustments}
