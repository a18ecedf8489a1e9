"""Named places at which a process kills itself if a test asks for it: `TOLLWAY_CRASH_AT=name` or `name:n`.

`crash_here(name)` is SIGKILL at the n-th time that the place is reached (the first, without a number). The variable is
read once, when this module is imported; without it `crash_here` is a function that does nothing. A name that is not
in `POINTS` is an error, in the variable and in the code. Each process names its places here, so that whoever makes
schedules of faults finds all of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from schemas.errors import ConfigError

VARIABLE = "TOLLWAY_CRASH_AT"

INGRESS_POINTS = (
    "ingress.admission_written",  # the admission is on the log; the request has not gone to the provider
    "ingress.terminal_written",  # the event is on the log; the client has not got its last byte
    "ingress.cut_noted",  # a record is cut and noted; nothing was sent
    "ingress.produced",  # the broker has the record; nobody here has taken note
    "ingress.segment_made",  # a new segment exists and is empty
    "ingress.segment_begun",  # a new segment has its checkpoint; the one before is still there
    "ingress.replaying",  # between two records of an earlier run
    "ingress.replayed",  # all of an earlier run is with the broker; its log is still there
    "ingress.fold_written",  # the folded segments are written beside the old ones
    "ingress.fold_noted",  # the log says that the folded segments count; the old ones are still there
    "ingress.fold_deleting",  # some of the old segments are gone
)
METER_POINTS = (
    "meter.folded",  # a record is folded; neither snapshots nor the changelog say so
    "meter.published",  # readers have a snapshot; the changelog may not have what it says
    "meter.state_begun",  # parts of the changelog are on their way; its fence is not
    "meter.state_written",  # the changelog has the state and its fence; no record is acknowledged
    "meter.acknowledged",  # records are acknowledged; their offset is not committed
)
SINK_POINTS = (
    "sink.intent_recorded",  # the batch is noted; nothing of it is inserted
    "sink.between_months",  # some of the batch's months are inserted
    "sink.inserted",  # all of the batch is inserted; its offset is not committed
    "sink.committed",  # the batch is done
    "sink.repaired",  # a repair has changed the tables; nobody was told
)
ENFORCER_POINTS: tuple[str, ...] = ()
POSTING_POINTS = (
    "enforcer.posting_announced",  # the audit chain has a posting of corrections; none of them is written
    "enforcer.correction_written",  # a record of corrections is on the log; others of the posting are not
    "enforcer.posting_closed",  # all records of a posting are on the log; the audit chain does not say so
)
"""Reached only while corrections of costs are posted."""
BATCH_POINTS = (
    "enforcer.batch_noted",  # it is on record what is to be charged; nothing of it is on the log
    "enforcer.batch_written",  # the log has the usage; it is not on record that it has
    "enforcer.batch_charged",  # both; nothing after it is done
)
"""Reached only while batches are charged."""
POINTS = frozenset(INGRESS_POINTS + METER_POINTS + SINK_POINTS + ENFORCER_POINTS + POSTING_POINTS + BATCH_POINTS)
"""All places, each `process.what_has_just_happened`."""


def _nowhere(name: str) -> None:
    """Do nothing."""


def crash_at(spec: str) -> Callable[[str], None]:
    """Return what `crash_here` is for a value of the variable; ConfigError if it names no place."""
    if not spec:
        return _nowhere
    wanted, _, times = spec.partition(":")
    if wanted not in POINTS or not (times.isdecimal() and int(times) > 0 if times else ":" not in spec):
        known = ", ".join(sorted(POINTS))
        raise ConfigError([f"{VARIABLE}: {spec!r} is no place to crash at; write name or name:n, with one of {known}"])
    left = int(times or 1)

    def crash(name: str) -> None:
        nonlocal left
        if name == wanted:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        elif name not in POINTS:
            raise ValueError(f"{name!r} is no name in schemas.crash_points")

    return crash


crash_here = crash_at(os.environ.get(VARIABLE, ""))  # noqa: TID251 - has to be known before any process has settings
"""Call it with a name of `POINTS` at the place."""
IS_ARMED = crash_here is not _nowhere
"""Whether there is a place at which this process is to die: lets the hottest paths save the call."""
