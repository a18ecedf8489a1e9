"""State as changelog records and back."""

from __future__ import annotations

import msgspec
import pytest

from meter.core.changelog import HEADER, META, Changelog
from meter.core.rows import Holding
from meter.core.snapshots import Stamp, snapshot
from schemas.errors import DecodeError
from tests.property.fold_logs import START_MS
from tests.unit.meter.fold_builders import COST, TOKENS, Log, batch, evict


def flushed(changelog: Changelog) -> dict[str, bytes]:
    """Return the parts of a complete flush."""
    flush = changelog.begin()
    return {name: changelog.encode(name) for name in flush.slots} | {META: flush.meta}


def test_a_restored_state_equals_the_one_that_was_written() -> None:
    """Rows, holdings with rights and wants, limits, runs, shares and ledgers come back."""
    log = Log().add(
        batch(amount=5, gauges={TOKENS: 7, COST: 9}, limit=100, version=4),
        batch("i2", amount=1, wants={TOKENS: (90, 20)}), evict(), batch("i3", final=True),
        batch("i2", seq=2, ack=3, wants={COST: (7, 7)}, limit=50, version=5),
    )  # fmt: skip
    changelog = Changelog(log.shard)
    again = Changelog.restore(0, flushed(changelog))
    assert again.whole() == changelog.whole()
    assert again.shard.whole
    before, after = log.shard.rows, again.shard.rows
    for key, row in before.by_key.items():
        same = after.by_key[key]
        for name in ("settled", "inflight", "limit", "limit_version", "begun", "decayed_ms"):
            assert getattr(same, name) == getattr(row, name), name
        assert same.holdings.keys() == row.holdings.keys()
        for run, holding in row.holdings.items():
            for name in Holding.__slots__:
                assert getattr(same.holdings[run], name) == getattr(holding, name), name
    assert {row.key for row in after.wanted} == {row.key for row in before.wanted} == {TOKENS, COST}
    assert any(held.right for row in before.by_key.values() for held in row.holdings.values())


def test_only_what_changed_is_written() -> None:
    """A flush has the slots that were touched since their last encoding, and always the meta record."""
    log = Log().add(batch(amount=5), batch(seq=2, ack=1), batch(seq=3, ack=2))
    changelog = Changelog(log.shard)
    flushed(changelog)
    assert changelog.begin().slots == []
    log.add(batch(seq=4, gauges={TOKENS: 1}))
    assert [name for name in changelog.begin().slots if name.startswith("rows/")] == [
        f"rows/{log.shard.rows.by_key[TOKENS].slot}"
    ]


def test_slots_ahead_of_meta_hold_back_the_snapshot_until_the_fold_has_caught_up() -> None:
    """A crash between the slots and the meta record: the log is folded again into the rest alone."""
    log = Log().add(batch(amount=5))
    changelog = Changelog(log.shard)
    store = flushed(changelog)
    second, third = batch(seq=2, amount=10), batch(seq=3, amount=100)
    log.add(second, third)
    store |= {name: changelog.encode(name) for name in changelog.begin().slots if name.startswith("rows/")}
    again = Changelog.restore(0, store)
    assert again.shard.fence == 1
    wholes = [again.shard.whole]
    for offset, value in ((1, second), (2, third)):
        again.shard.apply(offset, 0, value)
        wholes.append(again.shard.whole)
    assert wholes == [False, False, True]
    assert again.whole() == changelog.whole()


def test_an_older_slot_than_meta_knows_is_refused() -> None:
    """A writer that had lost the partition wrote over its successor: better no state than a wrong one."""
    log = Log().add(batch(amount=5))
    changelog = Changelog(log.shard)
    old = flushed(changelog)
    log.add(batch(seq=2, amount=5))
    new = flushed(changelog)
    log.add(batch(seq=3))
    new |= flushed(changelog)
    slot = f"rows/{log.shard.rows.by_key[TOKENS].slot}"
    with pytest.raises(DecodeError, match=f"{slot} is of fence 1, meta knows it at 2"):
        Changelog.restore(0, new | {slot: old[slot]})
    del new[slot]
    with pytest.raises(DecodeError, match="lacks slots"):
        Changelog.restore(0, new)


@pytest.mark.parametrize("value", [b"", b"TWS\x02", HEADER + b"\x00", HEADER + b"\x91\xc0"])
def test_records_of_another_version_are_refused(value: bytes) -> None:
    """A changelog that this version cannot read is named, not skipped."""
    with pytest.raises(DecodeError, match="meta is no changelog record"):
        Changelog.restore(0, {META: value})


def test_a_state_of_before_hours_begins_none_of_the_runs_that_it_has() -> None:
    """Their hours would lack what came before: a reader is told that they are not kept; those of a new run are."""
    log = Log().add(batch(amount=5), batch("i2", final=True))
    store = {name: _earlier(name, part) for name, part in flushed(Changelog(log.shard)).items()}
    shard = Changelog.restore(0, store).shard
    for value in (batch(seq=2, amount=1), batch("i3", amount=2)):
        assert shard.apply(shard.fence, START_MS, value) is None
    [part] = snapshot(shard, Stamp("meter/1", 1, 0), full=True)
    hours = {entry.key: entry.hours_from is not None for entry in part.ledger if entry.told is not None}
    assert hours == {"instance=i1/epoch=1": False, "instance=i2/epoch=1": False, "instance=i3/epoch=1": True}
    assert [entry.key for entry in part.ledger if entry.place] == ["instance=i3/epoch=1/hour=2025-12-01T00Z"]


def _earlier(name: str, part: bytes) -> bytes:
    """Return a part as it was written before hours: without the accounts of hours, and with shorter records."""
    fields = msgspec.msgpack.decode(part[len(HEADER) :])
    if name == META:
        fields[2] = [run[:10] for run in fields[2]]
    elif name.startswith("ledger/"):
        fields[1] = [account[:5] for account in fields[1] if "/hour=" not in account[0]]
    return HEADER + msgspec.msgpack.encode(fields)
