"""Whether metering is at work: when an incident begins, what it is, and when it is over.

Theory
------
Two clocks a partition, both of this process. *Silence* is the time since a snapshot came in; a meter at work publishes
several times a second, with or without usage. *Lag* is the time since this process first saw an end of `usage` that
the published fence has still not reached. Neither compares the clocks of two machines.

There is one incident at a time, over all partitions, and it is what the alerts on the log say: the last one of the
three kinds is the state. So a restart of this process forgets nothing and says nothing twice.

* Silent for too long: `silent`, unless the incident is that already. Behind for too long: `behind`, unless an incident
  is open. A `behind` may become `silent`; the other way round nothing is said.
* Neither, in every partition, for a while: `ok`, if an incident is open.
* While the broker does not answer nothing is judged, and time without it counts for nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any, NamedTuple

from enforcer.core.decisions import time_text
from schemas.alerts import METERING_BEHIND, METERING_OK, METERING_SILENT, SOURCE, Alert, alert_id

SUBJECT = "metering"
FINE_MS = 1_000
"""An incident is over when nothing was wrong for this long."""
MAX_ENDS = 512
"""Ends of a partition that are remembered; beyond it they are thinned, which only coarsens the lag."""


class Vital(NamedTuple):
    """How one partition does."""

    partition: int
    silent_ms: int
    behind_ms: int
    records: int
    """Records on the log that the published fence does not include."""
    fence: int


class Pulse:
    """What is known of one partition."""

    def __init__(self, partition: int, now_ms: int) -> None:
        self.partition = partition
        self.heard_ms = 0
        """When a snapshot came in last; 0 for never."""
        self.fence = self.end = 0
        self._since_ms = now_ms
        self._ends: deque[tuple[int, int]] = deque()
        """(end of the log, when it was seen first), where the fence has not reached it."""

    def contact(self, now_ms: int) -> None:
        """Begin anew after a time without the broker: what happened then is unknown."""
        self._since_ms = now_ms
        self._ends.clear()

    def heard(self, fence: int, now_ms: int) -> None:
        """Take that a snapshot at `fence` came in."""
        self.heard_ms = now_ms
        if fence > self.fence:
            self.fence = fence
            while self._ends and self._ends[0][0] <= fence:
                self._ends.popleft()

    def seen(self, end: int, now_ms: int) -> None:
        """Take that the partition of `usage` ends at `end`."""
        self.end = end
        ends = self._ends
        if end > self.fence and (not ends or end > ends[-1][0]):
            ends.append((end, now_ms))
            if len(ends) > MAX_ENDS:
                del ends[MAX_ENDS // 2]

    def vital(self, now_ms: int) -> Vital:
        """Return how it does now."""
        silent_ms = now_ms - max(self.heard_ms, self._since_ms)
        behind_ms = now_ms - self._ends[0][1] if self._ends else 0
        return Vital(self.partition, max(0, silent_ms), max(0, behind_ms), max(0, self.end - self.fence), self.fence)


class Metering:
    """All partitions, and the judgement of them."""

    def __init__(self, partitions: int, now_ms: int, silent_ms: int, behind_ms: int) -> None:
        self.pulses = [Pulse(number, now_ms) for number in range(partitions)]
        self.silent_after_ms, self.behind_after_ms = silent_ms, behind_ms
        self._in_contact = False
        self._fine_since_ms: int | None = None

    def heard(self, partition: int, fence: int, now_ms: int) -> None:
        """Take that a snapshot of a partition came in."""
        self.pulses[partition].heard(fence, now_ms)

    def seen(self, ends: dict[int, int], now_ms: int) -> None:
        """Take where the partitions of `usage` end: the broker answers."""
        if not self._in_contact:
            self._in_contact = True
            self._fine_since_ms = None
            for pulse in self.pulses:
                pulse.contact(now_ms)
        for partition, end in ends.items():
            self.pulses[partition].seen(end, now_ms)

    def lost(self) -> None:
        """Take that the broker does not answer."""
        self._in_contact = False

    def vitals(self, now_ms: int) -> list[Vital]:
        """Return how every partition does."""
        return [pulse.vital(now_ms) for pulse in self.pulses]

    def judge(self, last: Alert | None, sent: Collection[str], now_ms: int) -> Alert | None:
        """Return the alert that is due.

        Args:
            last: the newest metering alert on the log.
            sent: ids of alerts that were sent.
            now_ms: this process's clock.
        """
        if not self._in_contact:
            return None
        vitals = self.vitals(now_ms)
        silent = [vital for vital in vitals if vital.silent_ms >= self.silent_after_ms]
        behind = [vital for vital in vitals if vital.behind_ms >= self.behind_after_ms]
        if silent or behind:
            self._fine_since_ms = None
        elif self._fine_since_ms is None and all(pulse.heard_ms for pulse in self.pulses):
            self._fine_since_ms = now_ms
        alert = self._due(last, silent, behind, now_ms)
        return alert if alert is not None and alert.id not in sent else None

    def _due(self, last: Alert | None, silent: list[Vital], behind: list[Vital], now_ms: int) -> Alert | None:
        open_type = last.type if last is not None and last.type != METERING_OK else ""
        if silent:
            return None if open_type == METERING_SILENT else self._silent(silent, now_ms)
        if behind:
            return None if open_type else self._behind(behind, now_ms)
        if last is None or not open_type or self._fine_since_ms is None or now_ms - self._fine_since_ms < FINE_MS:
            return None
        data = {"incident": last.id, "was": last.type, "began": last.time, "partitions": len(self.pulses)}
        return _event(METERING_OK, alert_id("metering.ok", last.id), now_ms, data)

    def _silent(self, silent: list[Vital], now_ms: int) -> Alert:
        worst = max(silent, key=lambda vital: (vital.silent_ms, -vital.partition))
        heard_ms = self.pulses[worst.partition].heard_ms
        name = alert_id("metering.silent", str(worst.partition), str(worst.fence), str(heard_ms or now_ms))
        data = _data(silent) | {
            "silent_ms": worst.silent_ms, "after_ms": self.silent_after_ms,
            "effect": "replicas go on with the rights they have; no limit is exceeded, and unused rights do not move",
            "remedy": "start the meter, or look why it does not publish: its log, its /readyz, the broker",
        }  # fmt: skip
        return _event(METERING_SILENT, name, now_ms, data)

    def _behind(self, behind: list[Vital], now_ms: int) -> Alert:
        worst = max(behind, key=lambda vital: (vital.behind_ms, -vital.partition))
        name = alert_id("metering.behind", str(worst.partition), str(worst.fence), str(now_ms - worst.behind_ms))
        data = _data(behind) | {
            "behind_ms": worst.behind_ms, "after_ms": self.behind_after_ms,
            "effect": "replicas learn late what others have used: no limit is exceeded, requests near a limit wait "
            "or are refused early",
            "remedy": "look at tollway_meter_lag_records and the meter's CPU; a second meter takes over partitions",
        }  # fmt: skip
        return _event(METERING_BEHIND, name, now_ms, data)


def _data(found: list[Vital]) -> dict[str, Any]:
    return {
        "partitions": [vital.partition for vital in found],
        "fences": {str(vital.partition): vital.fence for vital in found},
        "records_not_folded": sum(vital.records for vital in found),
    }


def _event(kind: str, name: str, now_ms: int, data: dict[str, Any]) -> Alert:
    return Alert(name, SOURCE, kind, SUBJECT, time_text(now_ms), data, partitionkey=SUBJECT)
