"""Posts corrections of costs: one posting at a time, each announced and concluded in the audit chain.

A posting is begun over a state that its caller has seen (`after`, the number of the last one): what was computed before
somebody else posted is refused. Its records are a run of their own, whose epoch is the number of the audit entry that
announced it. A posting that breaks off leaves what was written; whoever posts next computes what is still missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
import structlog
from aiokafka import TopicPartition

from enforcer.control import Change, ControlPlane
from enforcer.core.adjustments import Cutter, Posting, problems
from enforcer.core.audit import POSTING_BEGUN, POSTING_ENDED
from enforcer.core.control import ControlState
from enforcer.errors import Refusal, invalid, missing
from schemas.crash_points import crash_here
from schemas.errors import TransportError

PATIENCE_MS = 60_000
"""A posting of which nothing is heard for so long is over; another may begin."""
AGAIN = "run the command again: it posts what is still missing"

_log = structlog.get_logger("enforcer.adjust")


class Writer(Protocol):
    """Where corrections are written."""

    partitions: list[TopicPartition]

    async def start(self) -> None:
        """Connect. TransportError if there is no broker."""

    async def stop(self) -> None:
        """Disconnect."""

    async def write(self, records: Iterable[tuple[int, bytes]]) -> int:
        """Write records in order; return how many. TransportError if not acknowledged."""


class Ends(Protocol):
    """Who knows where topics end."""

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset behind the last record of each partition."""


class Begun(msgspec.Struct, frozen=True):
    """What a caller has to know before it computes, and what it has to name when it posts."""

    last: int
    """Number of the posting before; 0 for none."""
    ends: dict[int, int]
    """Of the usage log, by partition: whoever computes must know everything below."""
    posting: int | None = None
    """The number of the posting that was begun."""
    under_way: str = ""
    """Who posts at the moment, in words."""


class Posted(msgspec.Struct):
    """What a posting has written so far."""

    posting: int
    adjustments: int = 0
    records: int = 0
    cost_nanos: int = 0
    charge_nanos: int = 0


class Session:
    """A posting that is under way."""

    def __init__(self, number: int, actor: str, cutter: Cutter, now_ms: int) -> None:
        self.actor, self.cutter = actor, cutter
        self.begun_ms = self.heard_ms = now_ms
        self.posted = Posted(number)
        self.chunks = 0

    def is_over(self, now_ms: int) -> bool:
        """Tell whether its caller is gone."""
        return now_ms - self.heard_ms >= PATIENCE_MS


class AdjustPlane:
    """The one who posts."""

    def __init__(self, control: ControlPlane, writer: Writer, ends: Ends, clock: Callable[[], int]) -> None:
        self._control, self._writer, self._ends, self._clock = control, writer, ends, clock
        self._lock = asyncio.Lock()
        self._session: Session | None = None

    async def look(self) -> Begun:
        """Return what a caller has to know before it computes."""
        last: int = await self._control.change(lambda state, _, __: state.audit.last_posting, "")
        session, now_ms = self._session, self._clock()
        under_way = "" if session is None or session.is_over(now_ms) else _who(session)
        return Begun(last, await self._log_ends(), under_way=under_way)

    async def begin(self, after: int, detail: Mapping[str, Any], actor: str) -> Begun | Refusal:
        """Begin a posting that was computed after the one numbered `after`; another one must not be under way."""
        async with self._lock:
            session = self._session
            if session is not None and not session.is_over(self._clock()):
                return Refusal(409, f"{_who(session)}; wait until it is over, then {AGAIN}", "posting")
            if session is not None:
                await self._conclude(session, "broken off")
            await self._writer.start()

            def announce(state: ControlState, now_ms: int, _: bytes) -> Change | Refusal:
                if state.audit.last_posting != after:
                    known = f"posting {state.audit.last_posting} was begun after these corrections were computed"
                    return Refusal(409, f"{known}; {AGAIN}", "after")
                number = state.audit.number + 1
                return Change([], POSTING_BEGUN, f"posting/{number}", {"posting": number, **detail}, number)

            found = await self._control.change(announce, actor)
            if isinstance(found, Refusal):
                await self._writer.stop()
                return found
            crash_here("enforcer.posting_announced")
            cutter = Cutter(found, len(self._writer.partitions))
            self._session = Session(found, actor, cutter, self._clock())
            return Begun(after, await self._log_ends(), found)

    async def post(self, number: int, chunk: int, posting: Posting) -> Posted | Refusal:
        """Write corrections of a posting; its chunks count from 1. On return they are in the log."""
        async with self._lock:
            session = self._known(number)
            if isinstance(session, Refusal):
                return session
            if chunk != session.chunks + 1:
                return Refusal(409, f"chunk {chunk} does not follow chunk {session.chunks}; {AGAIN}", "chunk")
            if found := problems(posting):
                return invalid(found, "the corrections are not valid; nothing of this chunk is posted")
            last = await self._control.change(lambda state, _, __: state.audit.last_posting, "")
            if last != number:
                await self._drop()
                return Refusal(409, f"another enforcer has begun posting {last}; {AGAIN}", "posting")
            session.chunks = chunk
            await self._write(session, session.cutter.cut(posting, self._clock()))
            session.posted.adjustments += len(posting.adjustments)
            session.posted.cost_nanos += sum(each.cost_nanos for each in posting.adjustments)
            session.posted.charge_nanos += sum(each.charge_nanos for each in posting.adjustments)
            return session.posted

    async def end(self, number: int) -> Posted | Refusal:
        """Conclude a posting."""
        async with self._lock:
            session = self._known(number)
            if isinstance(session, Refusal):
                return session
            await self._conclude(session, "ended")
            return session.posted

    async def _conclude(self, session: Session, how: str) -> None:
        """Write the final records and the audit entry of a posting."""
        await self._write(session, session.cutter.close(self._clock()))
        crash_here("enforcer.posting_closed")
        await self._drop()
        posted = session.posted
        change = Change(
            [], POSTING_ENDED, f"posting/{posted.posting}", {"how": how, **msgspec.to_builtins(posted)}, None
        )
        await self._control.change(lambda _, __, ___: change, session.actor)
        _log.info("posted", how=how, **msgspec.to_builtins(posted))

    async def _write(self, session: Session, records: Iterable[tuple[int, bytes]]) -> None:
        """Write one record after the other: a posting that dies leaves a beginning of its records."""
        try:
            for record in records:
                session.posted.records += await self._writer.write([record])
                crash_here("enforcer.correction_written")
        except TransportError as error:
            await self._drop()
            raise TransportError(f"{error}; {AGAIN}") from error
        session.heard_ms = self._clock()

    async def _drop(self) -> None:
        self._session = None
        await self._writer.stop()

    def _known(self, number: int) -> Session | Refusal:
        session = self._session
        if session is None or session.posted.posting != number:
            return missing(f"posting {number} is not under way", AGAIN)
        session.heard_ms = self._clock()
        return session

    async def _log_ends(self) -> dict[int, int]:
        found = await self._ends.ends(self._writer.partitions)
        return {partition.partition: end for partition, end in sorted(found.items())}


def _who(session: Session) -> str:
    posted = session.posted
    over = f"it is over when nothing was heard of it for {PATIENCE_MS // 1000} s"
    return f"posting {posted.posting} of {session.actor} is under way ({posted.adjustments} posted; {over})"
