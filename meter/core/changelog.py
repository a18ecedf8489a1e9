"""The state of a shard as compacted changelog records, and back.

Theory. A shard is written in parts: slots of rows, slots of ledgers, and a meta record (runs, shares, generation).
A part carries the fence that it is the state of. A flush takes the meta record first, at fence M, then encodes every
slot that changed since its last encoding, at whatever fence the fold has reached by then, and sends the meta record
last; only then may offsets below M be committed. Reading back the newest version of every part therefore gives

* a meta record of the last flush that was completed, at fence M;
* slots at a fence up to M: unchanged from then until M, so they are the state at M;
* slots at a fence f beyond M, from a flush that was in progress: they are *ahead*.

The log is folded again from any offset that is not beyond M. Records below M are skipped; from M on the meta record
is folded as ever, while an ahead slot ignores what is below its own fence. At the highest fence of all parts the
state is whole again, and equal byte for byte to one that was never interrupted.

Meta also notes the fence of every slot when it was taken: an older slot than that means a writer that had lost the
partition wrote over its successor, and the state is refused rather than used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import msgspec

from meter.core.ledger import LEDGER_SLOTS, Account
from meter.core.rows import SLOTS, Holding, Row, Run
from meter.core.runs import RunState
from meter.core.shard import Shard
from meter.core.shares import Granted, Share
from schemas.errors import DecodeError
from schemas.quota import Place
from schemas.usage import Totals

HEADER = b"TWS\x01"
META = "meta"


class HoldingRecord(msgspec.Struct, frozen=True, array_like=True):
    """A `meter.core.rows.Holding` and whose it is."""

    instance: str
    epoch: int
    settled: int
    inflight: int
    right: int
    most: int
    since: int
    want: int
    head: int
    demand: int
    seen: int


class RowRecord(msgspec.Struct, frozen=True, array_like=True):
    """A row with its holdings, by run."""

    key: str
    settled: int
    limit: int
    limit_version: int
    begun: int
    decayed_ms: int
    holdings: list[HoldingRecord]


class RowSlot(msgspec.Struct, frozen=True, array_like=True):
    """The rows of a slot at a fence."""

    fence: int
    rows: list[RowRecord]


class AccountRecord(msgspec.Struct, frozen=True, array_like=True):
    """An account of the ledger."""

    key: str
    due_ms: int
    totals: Totals
    told: Totals | None
    closed_at: int
    hours_from: int | None = None
    place: Place | None = None


class LedgerSlot(msgspec.Struct, frozen=True, array_like=True):
    """The accounts of a slot at a fence."""

    fence: int
    accounts: list[AccountRecord]


class RunRecord(msgspec.Struct, frozen=True, array_like=True):
    """A run. `grants` are (since, den, slot), with den 0 for no share."""

    instance: str
    epoch: int
    live: bool
    hw: int
    ack: int
    cut_ms: int
    seen_ms: int
    grants: list[tuple[int, int, int]]
    totals: Totals
    told: Totals
    hours_from: int | None = None
    """None in a state of before the ledger had hours: those of the run are not whole, and are not begun."""


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """Everything but rows and accounts, at a fence. Members come first, in join order."""

    fence: int
    log_ms: int
    runs: list[RunRecord]
    row_slots: list[int]
    ledger_slots: list[int]


class Flush(NamedTuple):
    """What is to be written, in this order: the `slots`, each by `Changelog.encode`, then `meta`."""

    fence: int
    slots: list[str]
    meta: bytes


Part = TypeVar("Part", RowSlot, LedgerSlot, Meta)
_HELD = HoldingRecord.__struct_fields__[2:]
_encoder = msgspec.msgpack.Encoder()


class Changelog:
    """Encodes one shard; remembers the fence of every slot's last encoding."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._row_fences = [0] * SLOTS
        self._ledger_fences = [0] * LEDGER_SLOTS

    def begin(self) -> Flush:
        """Return the flush that is due now."""
        shard = self.shard
        slots = [f"rows/{slot}" for slot in sorted(shard.dirty_rows)]
        slots += [f"ledger/{slot}" for slot in sorted(shard.dirty_ledger)]
        return Flush(shard.fence, slots, HEADER + _encoder.encode(self._meta()))

    def encode(self, name: str) -> bytes:
        """Return the slot called `name` as it is now."""
        kind, _, number = name.partition("/")
        return self._rows(int(number)) if kind == "rows" else self._ledger(int(number))

    def whole(self) -> dict[str, bytes]:
        """Return every part as it is now; tests compare states by this."""
        parts = {f"rows/{slot}": self._rows(slot) for slot in range(SLOTS)}
        parts |= {f"ledger/{slot}": self._ledger(slot) for slot in range(LEDGER_SLOTS)}
        return parts | {META: HEADER + _encoder.encode(self._meta())}

    def _rows(self, slot: int) -> bytes:
        shard = self.shard
        rows = [_row_record(row) for row in sorted(shard.rows.slots[slot], key=lambda row: row.key)]
        shard.dirty_rows.discard(slot)
        # A slot that is still ahead stays at the fence that it came with.
        fence = self._row_fences[slot] = max(shard.fence, shard.rows_ahead.get(slot, 0))
        return HEADER + _encoder.encode(RowSlot(fence, rows))

    def _ledger(self, slot: int) -> bytes:
        shard = self.shard
        accounts = [
            _account_record(account) for account in sorted(shard.ledger.slots[slot], key=lambda account: account.key)
        ]
        shard.dirty_ledger.discard(slot)
        fence = self._ledger_fences[slot] = max(shard.fence, shard.ledger_ahead.get(slot, 0))
        return HEADER + _encoder.encode(LedgerSlot(fence, accounts))

    def _meta(self) -> Meta:
        shard = self.shard
        gone = sorted((state for state in shard.runs.open.values() if not state.live), key=lambda state: state.run)
        return Meta(
            fence=shard.fence,
            log_ms=shard.log_ms,
            runs=[_run_record(state) for state in [*shard.runs.members, *gone]],
            row_slots=list(self._row_fences),
            ledger_slots=list(self._ledger_fences),
        )

    # -------------------------------------------------------------------------------------------------- and back

    @classmethod
    def restore(cls, partition: int, parts: Mapping[str, bytes]) -> Changelog:
        """Return the changelog of the shard that `parts` (the newest version of each, by name) describe.

        DecodeError if they are no such parts, or do not belong together.
        """
        log = cls(Shard(partition))
        shard = log.shard
        if META in parts:
            meta = _decode(Meta, parts[META], META)
            shard.fence, shard.log_ms = meta.fence, meta.log_ms
            for record in meta.runs:
                shard.runs.add(_run_state(record))
            log._row_fences, log._ledger_fences = list(meta.row_slots), list(meta.ledger_slots)
        for name, data in parts.items():
            kind, _, number = name.partition("/")
            if kind == "rows":
                log._restore_rows(int(number), _decode(RowSlot, data, name))
            elif kind == "ledger":
                log._restore_ledger(int(number), _decode(LedgerSlot, data, name))
        missing = [slot for slot, fence in enumerate(log._row_fences) if fence and f"rows/{slot}" not in parts]
        missing += [slot for slot, fence in enumerate(log._ledger_fences) if fence and f"ledger/{slot}" not in parts]
        if missing:
            raise DecodeError(f"the state of partition {partition} lacks slots {missing}")
        shard.recheck_balance()
        return log

    def _restore_rows(self, slot: int, part: RowSlot) -> None:
        self._row_fences[slot] = self._newer(f"rows/{slot}", part.fence, self._row_fences[slot])
        for record in part.rows:
            self.shard.rows.add(_row(record))
        if part.fence > self.shard.fence:
            self.shard.rows_ahead[slot] = part.fence

    def _restore_ledger(self, slot: int, part: LedgerSlot) -> None:
        self._ledger_fences[slot] = self._newer(f"ledger/{slot}", part.fence, self._ledger_fences[slot])
        for record in part.accounts:
            self.shard.ledger.add(_account(record))
        if part.fence > self.shard.fence:
            self.shard.ledger_ahead[slot] = part.fence

    def _newer(self, name: str, fence: int, noted: int) -> int:
        if fence < noted:
            raise DecodeError(
                f"the state of partition {self.shard.partition} does not belong together: {name} is of fence {fence}, "
                f"meta knows it at {noted}; a second meter wrote to this partition"
            )
        return fence


def _decode(kind: type[Part], data: bytes, name: str) -> Part:
    if data[: len(HEADER)] != HEADER:
        raise DecodeError(f"{name} is no changelog record of this version: it begins with {data[:4].hex()}")
    try:
        return msgspec.msgpack.decode(memoryview(data)[len(HEADER) :], type=kind)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"{name} is no changelog record: {error}") from error


def _row_record(row: Row) -> RowRecord:
    held = [
        HoldingRecord(*run, *(getattr(holding, name) for name in _HELD))
        for run, holding in sorted(row.holdings.items(), key=_run_of)
    ]
    return RowRecord(row.key, row.settled, row.limit, row.limit_version, row.begun, row.decayed_ms, held)


def _row(record: RowRecord) -> Row:
    row = Row(record.key)
    row.settled, row.limit, row.limit_version = record.settled, record.limit, record.limit_version
    row.begun, row.decayed_ms = record.begun, record.decayed_ms
    for held in record.holdings:
        holding = row.holdings[held.instance, held.epoch] = Holding()
        for name in _HELD:
            setattr(holding, name, getattr(held, name))
        row.inflight += held.inflight
    return row


def _account_record(account: Account) -> AccountRecord:
    return AccountRecord(
        account.key, account.due_ms, account.totals, account.told, account.closed_at, account.hours_from, account.place
    )


def _account(record: AccountRecord) -> Account:
    account = Account(record.key, record.due_ms, record.told, record.closed_at, record.hours_from)
    account.totals, account.place = record.totals, record.place
    return account


def _run_of(item: tuple[Run, Holding]) -> Run:
    return item[0]


def _run_record(state: RunState) -> RunRecord:
    return RunRecord(
        *state.run,
        live=state.live,
        hw=state.hw,
        ack=state.ack,
        cut_ms=state.cut_ms,
        seen_ms=state.seen_ms,
        grants=[(grant.since, *(grant.share or (0, 0))) for grant in state.grants],
        totals=state.totals,
        told=state.told,
        hours_from=state.hours_from,
    )


def _run_state(record: RunRecord) -> RunState:
    state = RunState((record.instance, record.epoch), 0)
    state.live, state.hw, state.ack, state.cut_ms = record.live, record.hw, record.ack, record.cut_ms
    state.seen_ms, state.totals, state.told = record.seen_ms, record.totals, record.told
    state.hours_from = record.hours_from
    state.grants = [Granted(since, Share(den, slot) if den else None) for since, den, slot in record.grants]
    return state
