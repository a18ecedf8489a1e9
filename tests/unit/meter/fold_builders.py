"""Short ways to make what a log holds."""

from __future__ import annotations

from meter.core.rights import most_of
from meter.core.shard import Shard
from schemas.codec import encode_record
from schemas.usage import Batch, Evict, Gauge, Totals, Want
from tests.property.fold_logs import START_MS, event

DAY = f"day@{START_MS // 1000}+86400"
TOKENS = f"team/tokens/org=acme/{DAY}"
COST = f"team/cost/org=acme/{DAY}"
REQUESTS = f"team/requests/org=acme/{DAY}"
MINUTE = f"team/tokens/org=acme/minute@{START_MS // 1000}+60"


def batch(
    name: str = "i1", epoch: int = 1, seq: int = 1, *, ack: int = 0, amount: int = 0,
    gauges: dict[str, int] | None = None, rows: tuple[str, ...] = (TOKENS, COST), final: bool = False,
    told: Totals | None = None, limit: int = -1, version: int = 1, wants: dict[str, tuple[int, int]] | None = None,
    cut_ms: int = START_MS,
) -> bytes:  # fmt: skip
    """Return a record with one event that charges `amount`, or none; all gauges and wants tell `limit`."""
    events = [event(list(rows), "acme", amount, START_MS, amount)] if amount else []
    held = [Gauge(row, inflight, limit) for row, inflight in (gauges or {}).items()]
    asked = [Want(row, *want, limit) for row, want in (wants or {}).items()]
    return encode_record(
        Batch(name, epoch, seq, ack, cut_ms, version, final, held, asked, told or Totals(events=seq), events)
    )


def evict(name: str = "i1", epoch: int = 1) -> bytes:
    """Return the meter's word that a replica is gone."""
    return encode_record(Evict(name, epoch, "silent"))


class Log:
    """A shard that is fed record by record."""

    def __init__(self) -> None:
        self.shard = Shard(0)

    def add(self, *values: bytes, at_ms: int = START_MS) -> Log:
        """Fold more records."""
        for value in values:
            fault = self.shard.apply(self.shard.fence, at_ms, value)
            assert fault is None, fault
        return self

    def settled(self, key: str) -> int:
        """Return what is settled in a row; 0 if there is none."""
        row = self.shard.rows.by_key.get(key)
        return row.settled if row else 0

    def inflight(self, key: str) -> int:
        """Return what is in flight in a row."""
        row = self.shard.rows.by_key.get(key)
        return row.inflight if row else 0

    def right(self, key: str, name: str, epoch: int = 1) -> int:
        """Return what a run may have in a row."""
        holding = self.shard.rows.by_key[key].holdings.get((name, epoch))
        return holding.right if holding else 0

    def most(self, key: str, name: str, epoch: int = 1) -> int:
        """Return the largest right that a run may be using in a row."""
        holding = self.shard.rows.by_key[key].holdings.get((name, epoch))
        return most_of(holding, self.shard.runs.open[name, epoch].ack) if holding else 0

    @property
    def members(self) -> list[tuple[str, int]]:
        """The live runs in join order."""
        return [state.run for state in self.shard.runs.members]
