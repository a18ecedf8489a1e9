"""What the control topics say, policies to alerts: a fold of their records.

The state changes by what is read from the log and by nothing else, own writes included, so that what this process
believes is what every other process can read.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from enforcer.core.audit import Chain
from enforcer.core.book import Book
from enforcer.core.budgets import Budgets
from enforcer.core.diff import Document
from enforcer.core.policy import read
from schemas.alerts import METERING, METERING_LEDGERS, Alert
from schemas.audit import AuditEntry
from schemas.audits import Audit
from schemas.blocks import BlockEntry
from schemas.codec import decode_json
from schemas.errors import DecodeError
from schemas.keys import VirtualKey
from schemas.overrides import INCREASE, Freeze, Increase, override_key
from schemas.policy import Policy, PolicyRecord
from schemas.prices import PriceEntry
from schemas.topics import ALERTS, ALERTS_SENT, AUDIT, BLOCKS, HISTORY_AUDITS, KEYS, POLICY, PRICES, Topic

TOPICS: tuple[Topic, ...] = (PRICES, POLICY, KEYS, BLOCKS, AUDIT, ALERTS, ALERTS_SENT, HISTORY_AUDITS)
KEPT_ALERTS = 1_000


class ControlState:
    """The fold."""

    def __init__(self) -> None:
        self.versions: dict[int, PolicyRecord] = {}
        self.current: PolicyRecord | None = None
        """The highest version."""
        self.book = Book()
        self.keys: dict[str, VirtualKey] = {}
        self.increases: dict[str, Increase] = {}
        """By id; those that have expired too."""
        self.freezes: dict[str, Freeze] = {}
        """By scope."""
        self.blocks: dict[str, BlockEntry] = {}
        self.sent: dict[str, int] = {}
        """Alert id → when it was sent, unix ms."""
        self.alerts: deque[Alert] = deque(maxlen=KEPT_ALERTS)
        self.metering: Alert | None = None
        """The newest alert that says how metering does."""
        self.drift: Alert | None = None
        """The newest alert that says whether the ledgers agree."""
        self.audits: dict[int, Audit] = {}
        """The history's newest audit of each partition."""
        self.audit = Chain()
        self._documents: dict[int, Document] = {}
        self._budgets: tuple[int, Budgets] = (0, Budgets(None))

    def apply(self, topic: Topic, key: bytes | None, value: bytes | None) -> None:
        """Take in a record; without a value it is a tombstone. DecodeError if it is none of ours."""
        name = (key or b"").decode(errors="replace")
        if topic is BLOCKS:
            self._block(name, value)
        elif topic is ALERTS_SENT:
            self._marker(name, value)
        elif topic is POLICY and (override := override_key(name)) is not None:
            self._override(*override, value)
        elif value is None:
            raise DecodeError(f"{topic.name}: a tombstone under {name!r}; nothing is ever deleted there")
        elif topic is POLICY:
            self._policy(decode_json(PolicyRecord, value))
        elif topic is PRICES:
            self.book.append(decode_json(PriceEntry, value))
        elif topic is KEYS:
            virtual_key = decode_json(VirtualKey, value)
            self.keys[virtual_key.id] = virtual_key
        else:
            self._report(topic, value)

    def _report(self, topic: Topic, value: bytes) -> None:
        """Take in what was found, said or done."""
        if topic is HISTORY_AUDITS:
            audit = decode_json(Audit, value)
            self.audits[audit.partition] = audit
        elif topic is ALERTS:
            alert = decode_json(Alert, value)
            self.alerts.append(alert)
            if alert.type in METERING:
                self.metering = alert
            elif alert.type in METERING_LEDGERS:
                self.drift = alert
        else:
            self.audit.append(decode_json(AuditEntry, value))

    @property
    def version(self) -> int:
        """Version of the policy in force; 0 without one."""
        return 0 if self.current is None else self.current.version

    @property
    def policy(self) -> Policy | None:
        """The policy in force."""
        return None if self.current is None else self.document(self.current.version).policy

    @property
    def budgets(self) -> Budgets:
        """The budgets of the policy in force."""
        if self._budgets[0] != self.version:
            self._budgets = (self.version, Budgets(self.policy, self.increases))
        return self._budgets[1]

    @property
    def unpriced(self) -> list[str]:
        """Models of the policy in force that have no price."""
        policy, current = self.policy, self.current
        if policy is None or current is None:
            return []
        return [name for name in policy.models if name not in current.prices]

    def document(self, version: int) -> Document:
        """Return the document of a version, read once."""
        if version not in self._documents:
            self._documents[version] = read(self.versions[version].document)
        return self._documents[version]

    def before(self, version: int) -> Document | None:
        """Return the document of the version before `version`, if there is one."""
        earlier = [number for number in self.versions if number < version]
        return self.document(max(earlier)) if earlier else None

    def _policy(self, record: PolicyRecord) -> None:
        self.versions[record.version] = record
        self._documents.pop(record.version, None)
        if self.current is None or record.version >= self.current.version:
            self.current = record

    def _override(self, kind: str, name: str, value: bytes | None) -> None:
        known: dict[str, Any] = self.increases if kind == INCREASE else self.freezes
        known.pop(name, None)
        if value is not None:
            known[name] = decode_json(Increase if kind == INCREASE else Freeze, value)

    def _block(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.blocks.pop(key, None)
            return
        entry = decode_json(BlockEntry, value)
        known = self.blocks.get(entry.key)
        if known is None or entry.until_s >= known.until_s:
            self.blocks[entry.key] = entry

    def _marker(self, alert_id: str, value: bytes | None) -> None:
        if value is None:
            self.sent.pop(alert_id, None)
        else:
            self.sent[alert_id] = decode_json(int, value)
