"""Whether the three ledgers agree: what replicas told, the meter's sums, the history's.

Theory
------
Compared are only sums of the same records. A ledger entry of the meter and what the run told are of one fence. The
history's sums and what the run told are of one position, and so is what the history says of its rollups. When the meter
and the history are compared, by hour, by run and by day, is said in `enforcer.core.ledgers`. What is on its way makes
no difference.

* Where ledgers differ, and do so for a while: `drift`, unless an incident is open. One incident, whatever else differs.
* Where none do, in audits that are newer than the incident: `ok`, if an incident is open.

An incident is what the last alert of the two says, so a restart forgets nothing and says nothing twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from enforcer.core.decisions import time_text
from enforcer.core.ledgers import of_days, of_shard
from enforcer.core.quota import QuotaView
from schemas.alerts import METERING_DRIFT, METERING_DRIFT_OK, SOURCE, Alert, alert_id
from schemas.audits import Audit, Difference

SUBJECT = "metering"
LOOK_MS = 5_000
"""Ledgers are compared this often."""
CONFIRM_MS = 10_000
"""A difference of the meter's is one when it has been there for this long: those of the history come confirmed, and
with them what the meter says of the same run."""
HOUR = "/hour="
LISTED = 5
"""Differences that an alert names."""


class Drift:
    """The judge of the ledgers."""

    def __init__(self, view: QuotaView, audits: Mapping[int, Audit]) -> None:
        self._view, self._audits = view, audits
        self._looked_ms = 0
        self._since: dict[str, int] = {}
        """Key and ledgers of a difference → when it was seen first."""
        self.found: list[Difference] = []
        """What differs, as of the last look."""

    def judge(self, last: Alert | None, sent: Collection[str], now_ms: int) -> Alert | None:
        """Return the alert that is due.

        Args:
            last: the newest alert about drift on the log.
            sent: ids of alerts that were sent.
            now_ms: this process's clock.
        """
        if not self._looked_ms or now_ms - self._looked_ms >= LOOK_MS:
            self._looked_ms = now_ms
            self.found = self._look(now_ms)
        is_open = last is not None and last.type == METERING_DRIFT
        alert = None
        if self.found and not is_open:
            alert = self._begun(now_ms)
        elif not self.found and last is not None and is_open and not self._since and self._is_news(last):
            data = {"incident": last.id, "began": last.time}
            alert = _event(METERING_DRIFT_OK, alert_id("metering.drift.ok", last.id), now_ms, data)
        return None if alert is None or alert.id in sent else alert

    def _look(self, now_ms: int) -> list[Difference]:
        """Return what differs, hours first: nothing is named more widely than it is known."""
        found = [found for _, audit in sorted(self._audits.items()) for found in audit.differences]
        shards, audits = self._view.shards, self._audits
        ours = [different for shard in shards for different in of_shard(shard, audits.get(shard.partition))]
        ours += of_days(shards, audits)
        names = {f"{different.ledgers}/{different.key}/{different.partition}": different for different in ours}
        self._since = {name: self._since.get(name, now_ms) for name in names}
        known = {(different.partition, _run(different)) for different in found}
        for name, different in names.items():
            is_confirmed = now_ms - self._since[name] >= CONFIRM_MS
            if is_confirmed or (different.partition, _run(different)) in known:
                found.append(different)
        return sorted(found, key=lambda different: HOUR not in different.key)

    def _is_news(self, last: Alert) -> bool:
        """Whether every audit is newer than it was when the incident began."""
        before: dict[str, int] = last.data.get("audits", {})
        return all(audit.at_ms > before.get(str(partition), 0) for partition, audit in self._audits.items())

    def _begun(self, now_ms: int) -> Alert:
        first = self.found[0]
        newest = {str(partition): audit.at_ms for partition, audit in sorted(self._audits.items())}
        name = alert_id("metering.drift", first.ledgers, first.key, str(first.partition), *map(str, newest.values()))
        data = {
            "differences": len(self.found), "first": first.text, "ledgers": first.ledgers, "key": first.key,
            "partition": first.partition, "seqs": [first.first_seq, first.last_seq],
            "offsets": [first.first_offset, first.last_offset], "listed": [one.text for one in self.found[:LISTED]],
            "audits": newest,
            "effect": "reports may be wrong by the difference; no limit is affected unless the meter is one of the two",
            "remedy": "run tollway verify; it names what tollway verify --repair can mend",
        }  # fmt: skip
        return _event(METERING_DRIFT, name, now_ms, data)


def _run(different: Difference) -> str:
    return different.key.partition(HOUR)[0]


def _event(kind: str, name: str, now_ms: int, data: dict[str, Any]) -> Alert:
    return Alert(name, SOURCE, kind, SUBJECT, time_text(now_ms), data, partitionkey=SUBJECT)
