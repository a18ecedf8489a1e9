"""Ledgers: sums that no rule has a part in, by organisation and day, and of runs that have ended."""

from __future__ import annotations

import copy
import heapq
import zlib
from datetime import date

from meter.core.rows import Run
from schemas.quota import LedgerState
from schemas.usage import Totals

LEDGER_SLOTS = 16
DAY_MS = 24 * 3_600_000
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
KEEP_MS = 40 * DAY_MS
"""Ledgers stay for this long after their day, or after their run's end."""


class Account:
    """Sums under one key; `told` and `closed_at` (the offset of the final record) are of ended runs only."""

    __slots__ = ("closed_at", "due_ms", "key", "slot", "told", "totals")

    def __init__(self, key: str, due_ms: int, told: Totals | None = None, closed_at: int = -1) -> None:
        self.key = key
        self.slot = zlib.crc32(key.encode()) % LEDGER_SLOTS
        self.due_ms = due_ms
        self.totals = Totals()
        self.told = told
        self.closed_at = closed_at


def day_key(org: str, day: int) -> str:
    """Return the ledger key of an organisation and a day counted from 1970-01-01."""
    return f"org={org}/day={date.fromordinal(_EPOCH_ORDINAL + day).isoformat()}"


def run_key(run: Run) -> str:
    """Return the ledger key of a run."""
    return f"instance={run[0]}/epoch={run[1]}"


def state_of(account: Account) -> LedgerState:
    """Return an account as snapshots carry it."""
    return LedgerState(account.key, copy.copy(account.totals), account.told)


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
