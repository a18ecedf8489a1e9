"""What a state directory holds of earlier runs, ready to be sent; folded first if it is nearly all that may be kept."""

from __future__ import annotations

from pathlib import Path

import structlog

from ingress.adapters.compaction import SUFFIX, Task, fold
from ingress.adapters.marks import Checkpoint
from ingress.adapters.recovery import Backlog
from ingress.adapters.reserve import FOLD, Reserve
from ingress.adapters.spool import ALARM, delete
from ingress.adapters.wal import Wal, find_segments
from schemas.errors import ConfigError

_log = structlog.get_logger("ingress.spool")


def left_behind(directory: Path, partitions: int, max_bytes: int, reserve: Reserve | None = None) -> list[Backlog]:
    """Return the logs of earlier runs, oldest first.

    Folds them if they are nearly all that may be kept, or if the disk has no room for the `reserve` beside them.

    Raises:
        ConfigError: the log is that of a deployment with other partitions.
        WalCorrupt: it is broken in its middle.
    """
    for path in directory.glob(f"*{SUFFIX}"):
        path.unlink()  # a fold that a kill has ended
    backlogs = [Backlog(segments) for segments in find_segments(directory).values()]
    for backlog in backlogs:
        check_partitions(backlog, partitions, directory)
    is_short = reserve is not None and not reserve.fill()
    if backlogs and (is_short or sum(backlog.size for backlog in backlogs) >= ALARM * max_bytes):
        room = int(max_bytes * ALARM) // len(backlogs)
        backlogs = [_folded(backlog, room, reserve) for backlog in backlogs]
    return backlogs


def _folded(backlog: Backlog, room: int, reserve: Reserve | None) -> Backlog:
    """Return a log whose events that no record holds are sums; the log as it is if there is no room for that."""
    segments = backlog.segments
    if not backlog.lanes or not any(lane.count(lane.state.through, lane.state.events) for lane in backlog.lanes):
        return backlog
    before = backlog.size
    checkpoint = Checkpoint(backlog.instance, backlog.epoch, [lane.state for lane in backlog.lanes])
    try:
        folded = fold(Task(segments, checkpoint, room, None if reserve is None else reserve.lend(FOLD), lambda: True))
    except OSError as error:
        _log.error("spool_not_folded", fault=f"{type(error).__name__}: {error}", run=segments[0].run)
        return backlog
    wal = Wal(segments[0].path.parent, segments[0].run)
    wal.segments = segments
    _, replaced = wal.replace_first(len(segments), folded.path, folded.size)
    delete(replaced)
    if reserve is not None:
        reserve.check(FOLD)
        reserve.fill()
    _log.warning("spool_folded", run=segments[0].run, bytes_before=before, bytes=folded.size)
    return Backlog(wal.segments)


def check_partitions(backlog: Backlog, partitions: int, directory: Path) -> None:
    """Raise ConfigError if a log is not that of a deployment with so many partitions."""
    if backlog.partitions not in (0, partitions):
        raise ConfigError(
            [
                f"kafka.partitions: {partitions}: the log of an earlier run in {directory} has {backlog.partitions}; "
                "partitions are fixed for the life of a deployment, so set it to that"
            ]
        )
