"""Ledgers: sums that no rule has a part in: by organisation and day, of runs that have ended, by run and hour.

The hours are for the audit, which compares the newest with the history's. A run's hours are whole: from `hours_from` on
each has all events of that hour, or there are none. What is older has been compared for two days, and is in the sums
of the run and of the day.
"""

from __future__ import annotations

import copy
import heapq
import zlib
from datetime import date

from schemas.quota import LedgerState, Place
from schemas.usage import Totals

LEDGER_SLOTS = 16
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
KEEP_MS = 40 * DAY_MS
"""Ledgers stay for this long after their day, or after their run's end."""
HOURS_KEPT = 48
"""Hours of runs stay for this long after they ended: yesterday is whole all day, and what comes late (a spool of a
replica that was down, lines of a provider's batch) comes within it, or is compared by run and by day alone."""
HOURS_AHEAD = 1
"""A run whose clock is further ahead of the broker's has no hours until then: there could be any number of them."""


class Account:
    """Sums under one key.

    `told`, `closed_at` (the offset of the final record) and `hours_from` are of ended runs only, `place` of hours.
    """

    __slots__ = ("closed_at", "due_ms", "hours_from", "key", "place", "slot", "told", "totals")

    def __init__(
        self, key: str, due_ms: int, told: Totals | None = None, closed_at: int = -1, hours_from: int | None = None
    ) -> None:
        self.key = key
        self.slot = zlib.crc32(key.encode()) % LEDGER_SLOTS
        self.due_ms = due_ms
        self.totals = Totals()
        self.told = told
        self.closed_at = closed_at
        self.hours_from = hours_from
        self.place: Place | None = None

    def extend(self, seq: int, offset: int) -> None:
        """Take a later record into the place."""
        place = self.place
        first = (seq, offset) if place is None else (place.first_seq, place.first_offset)
        self.place = Place(first[0], seq, first[1], offset)


def day_key(org: str, day: int) -> str:
    """Return the ledger key of an organisation and a day counted from 1970-01-01."""
    return f"org={org}/day={date.fromordinal(_EPOCH_ORDINAL + day).isoformat()}"


def kept_from(log_ms: int) -> int:
    """Return the first hour (counted from 1970) that is kept at `log_ms`."""
    return log_ms // HOUR_MS - HOURS_KEPT


def hour_due_ms(hour: int) -> int:
    """Return the log time from which on `hour` is below `kept_from`."""
    return (hour + 1 + HOURS_KEPT) * HOUR_MS


def whole_from(hours_from: int | None, log_ms: int) -> int | None:
    """Return the first hour whose accounts are whole at `log_ms`, of a run that has been told its hours since then."""
    return None if hours_from is None else max(hours_from, kept_from(log_ms))


def state_of(account: Account, log_ms: int) -> LedgerState:
    """Return an account as snapshots carry it at `log_ms`."""
    hours_from = whole_from(account.hours_from, log_ms)
    return LedgerState(account.key, copy.copy(account.totals), account.told, account.place, hours_from)


class Ledger:
    """All accounts of a partition."""

    def __init__(self) -> None:
        self.by_key: dict[str, Account] = {}
        self.slots: list[set[Account]] = [set() for _ in range(LEDGER_SLOTS)]
        self._dues: list[tuple[int, str]] = []

    def get(self, key: str, due_ms: int) -> Account:
        """Return the account of `key`, new if need be."""
        account = self.by_key.get(key)
        if account is None:
            account = Account(key, due_ms)
            self.add(account)
        return account

    def add(self, account: Account) -> None:
        """Take in an account."""
        self.by_key[account.key] = account
        self.slots[account.slot].add(account)
        heapq.heappush(self._dues, (account.due_ms, account.key))

    def retire(self, log_ms: int) -> list[Account]:
        """Take out and return the accounts that are out of use at `log_ms`."""
        retired = []
        while self._dues and self._dues[0][0] <= log_ms:
            account = self.by_key.pop(heapq.heappop(self._dues)[1])
            self.slots[account.slot].discard(account)
            retired.append(account)
        return retired
