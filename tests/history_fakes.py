"""A store and a log in memory that can be killed between any two steps. The store passes the laws of the real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from meter.sink.core.resume import LastRow
from meter.sink.core.watermarks import Run
from meter.sink.feeds import Rejected
from meter.sink.rows import Source, Table

TABLES = ("ledger", "hourly", "actors")


class Killed(BaseException):
    """The process is gone: nothing catches this."""


class Fate:
    """Decides at which step a process is killed: at the n-th of the steps it goes through, or never."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.killed_at = killed_at
        self.steps = 0

    def step(self) -> None:
        """Go through one step."""
        self.steps += 1
        if self.steps == self.killed_at:
            raise Killed


class FakeStore:
    """A ledger and two rollups, each of which drops what it has had under a token; they are written one by one."""

    def __init__(self) -> None:
        self.fate = Fate()
        self.version = "fake"
        self.rows_of: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self._tokens: set[tuple[str, str]] = set()

    def open(self) -> None:
        """See `Store`."""

    def close(self) -> None:
        """See `Store`."""

    def command(self, sql: str) -> None:
        """Do nothing: it knows no SQL."""
        raise NotImplementedError

    def insert(self, name: str, table: Table, token: str) -> None:
        """See `Store`. The fate may strike before, between and after the three."""
        found = table.to_pylist()
        for target in TABLES:
            self.fate.step()
            if (target, token) not in self._tokens:
                self._tokens.add((target, token))
                self.rows_of[target] += found
        self.fate.step()

    def last_row(self, name: str, source: Source) -> LastRow | None:
        """See `Store`."""
        names = ("src_offset", "batch_first", "batch_last")
        found = max((tuple(row[name] for name in names) for row in self._from(source)), default=None)
        return None if found is None else LastRow(*found)

    def watermarks(self, source: Source, before: int) -> dict[Run, int]:
        """See `Store`."""
        found: dict[Run, int] = {}
        for row in self._from(source):
            if row["src_offset"] < before:
                run = (row["instance"], row["epoch"])
                found[run] = max(found.get(run, 0), row["seq"])
        return found

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Answer nothing: it knows no SQL."""
        raise NotImplementedError

    def lines(self, sql: str, parameters: Mapping[str, Any]) -> bytes:
        """Answer nothing: it knows no SQL."""
        raise NotImplementedError

    def ask(self, sql: str, format_: str) -> bytes:
        """Answer nothing: it knows no SQL."""
        raise NotImplementedError

    def ids(self, target: str) -> Counter[bytes]:
        """Return how often each event is in one of the tables."""
        return Counter(row["id"] for row in self.rows_of[target])

    def cost(self, target: str) -> Decimal:
        """Return the sum of the known costs in one of the tables."""
        return sum((row["cost_usd"] or Decimal(0) for row in self.rows_of[target]), Decimal(0))

    def _from(self, source: Source) -> Iterator[dict[str, Any]]:
        for row in self.rows_of["ledger"]:
            if (row["src_log"], row["src_topic"], row["src_partition"]) == (source.log, source.topic, source.partition):
                yield row


class FakeLog:
    """One partition of a log with its group's position."""

    def __init__(self) -> None:
        self.fate = Fate()
        self.values: list[bytes] = []
        self.committed: int | None = None
        self.metadata = ""
        self.commits: list[tuple[int, str]] = []
        self.letters: list[Rejected] = []

    async def commit(self, source: Source, offset: int, metadata: str) -> None:
        """See `lane.Log`. The fate may strike before and after."""
        self.fate.step()
        self.committed, self.metadata = offset, metadata
        self.commits.append((offset, metadata))
        self.fate.step()

    async def set_aside(self, source: Source, rejected: Rejected) -> None:
        """See `lane.Log`."""
        self.letters.append(rejected)
