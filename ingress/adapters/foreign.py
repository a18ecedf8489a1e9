"""The spool of another instance: what it holds, and sending it in that instance's name.

Who wrote a log is written in it, so anybody who has the directory can send it: under the same instance, epochs and
seqs, as that instance itself would at its next start. The directory is locked meanwhile, so the two do not do it at
once; doing it twice, or in two places from a copy, changes nothing, because seqs are counted once. Only the spool of
an instance that is dead may be sent: the end of its epochs is sent too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ingress.adapters.epochs import StateDir, is_locked
from ingress.adapters.leftover import check_partitions
from ingress.adapters.producer import Producer
from ingress.adapters.recovery import Backlog
from ingress.adapters.replay import Replay
from ingress.adapters.reserve import Reserve
from ingress.adapters.wal import find_segments
from schemas.codec import decode_event, decode_record
from schemas.connection import KafkaConnection
from schemas.errors import ConfigError, TransportError
from schemas.topics import DECISIONS, USAGE, topic_name
from schemas.usage import Batch, Totals


class Run(msgspec.Struct):
    """What one run of an instance has left."""

    instance: str
    epoch: int
    segments: int
    bytes: int
    records: int
    """Still to be sent; the first of a partition may be with the broker already."""
    sums: Totals
    """Of the events in them."""
    open_admissions: int
    """Requests of which only the reservation is known."""
    age_s: int
    """Since the last write."""


class Held(msgspec.Struct):
    """What a directory holds."""

    path: str
    in_use: bool
    """Whether an instance runs on it: then all of this is about to change."""
    runs: list[Run]


class Sent(msgspec.Struct):
    """What was sent of a directory."""

    path: str
    runs: int
    records: int


def spools_in(path: Path) -> list[Path]:
    """Return the state directories in `path`: itself, or those one or two levels below; ConfigError without any."""
    found = [each.parent for pattern in ("wal", "*/wal", "*/*/wal") for each in sorted(path.glob(pattern))]
    if not found:
        raise ConfigError(
            [f"{path}: no spool is in it; name the directory of an instance, the one with `wal` and `epoch`"]
        )
    return found


def show(path: Path) -> Held:
    """Return what a directory holds, and change nothing in it."""
    backlogs = [Backlog(segments, repair=False) for segments in find_segments(path / "wal").values()]
    return Held(str(path), is_locked(path), [_run(backlog) for backlog in backlogs])


def _run(backlog: Backlog) -> Run:
    sums, records = Totals(), 0
    for partition in range(backlog.partitions):
        for record in backlog.records(partition, 0):
            batch = decode_record(record.value)
            records += 1
            if isinstance(batch, Batch):
                for event in batch.events:
                    sums.add(decode_event(event))
    written = max(segment.path.stat().st_mtime for segment in backlog.segments)
    return Run(
        backlog.instance, backlog.epoch, len(backlog.segments), backlog.size, records, sums, len(backlog.open),
        int(time.time() - written),
    )  # fmt: skip


async def replay(path: Path, connection: KafkaConnection, now_ms: Callable[[], int], timeout_s: float) -> Sent:
    """Send what a directory holds, and delete it.

    Raises:
        ConfigError: an instance runs on it, or it is of a deployment with other partitions.
        WalCorrupt: a log is broken in its middle.
        TransportError: the broker has not taken all of it within `timeout_s`; what is left can be sent again.
    """
    state = StateDir(path)
    producer = None
    try:
        backlogs = [Backlog(segments) for segments in find_segments(state.wal).values()]
        for backlog in backlogs:
            check_partitions(backlog, connection.partitions, path)
        if not backlogs:
            return Sent(str(path), 0, 0)
        producer = Producer(connection, f"{backlogs[0].instance or path.name}-replay")
        prefix = connection.topic_prefix
        usage, decisions = topic_name(USAGE, prefix), topic_name(DECISIONS, prefix)
        sending = Replay(backlogs, producer, usage, decisions, connection.partitions, now_ms)
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(sending.run(partition) for partition in range(connection.partitions)))
        Reserve(state.wal, 0).give_up()
        return Sent(str(path), len(backlogs), sending.records)
    except TimeoutError:
        fault = producer.last_fault if producer is not None else ""
        raise TransportError(
            f"{path}: not sent within {timeout_s:g} s ({fault or 'the broker is slow'}); what is left is still there: "
            "run it again"
        ) from None
    finally:
        if producer is not None:
            await producer.stop()
        state.release()
