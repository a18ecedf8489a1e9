"""A log in memory in place of Kafka: writes are applied to the state as a reader would, faults can be ordered."""

from __future__ import annotations

from collections.abc import Sequence

from enforcer.adapters.log import Fenced, Goals
from enforcer.core.control import ControlState
from schemas.alerts import Alert
from schemas.codec import encode_json
from schemas.errors import TransportError
from schemas.topics import ALERTS, ALERTS_SENT, Topic


class FakeLog:
    """Writer and reader at once.

    `lose` makes the next writes end in a TransportError after that many records were written; `unsure` makes the next
    transaction end in one although it was committed.
    """

    def __init__(self, state: ControlState) -> None:
        self.state = state
        self.records: list[tuple[Topic, str, bytes | None]] = []
        self.lose: int | None = None
        self.unsure = False
        self.fenced = False
        self.renewed = 0
        self._applied = 0

    async def write(self, records: Sequence[tuple[Topic, str, bytes | None]]) -> Goals:
        """Write records in order."""
        for record in records:
            if self.lose is not None:
                if self.lose == 0:
                    self.lose = None
                    raise TransportError("the broker is away")
                self.lose -= 1
            self.records.append(record)
        return {}

    async def write_alerts(self, alerts: Sequence[Alert], now_ms: int) -> Goals:
        """Write alerts and markers, all or none."""
        if self.fenced:
            raise Fenced("another one")
        if self.lose is not None:
            self.lose = None
            raise TransportError("the broker is away")
        for alert in alerts:
            self.records.append((ALERTS, alert.partitionkey, encode_json(alert)))
            self.records.append((ALERTS_SENT, alert.id, encode_json(now_ms)))
        if self.unsure:
            self.unsure = False
            raise TransportError("no answer to the commit")
        return {}

    async def renew(self) -> None:
        """Begin anew."""
        self.renewed += 1

    async def until(self, goals: Goals) -> None:
        """Read what has been written."""
        await self.until_end()

    async def until_end(self) -> None:
        """Read what has been written."""
        for topic, key, value in self.records[self._applied :]:
            self.state.apply(topic, key.encode(), value)
        self._applied = len(self.records)

    def of(self, topic: Topic) -> list[bytes | None]:
        """Return the values written to a topic."""
        return [value for written, _, value in self.records if written is topic]
