"""A machine that loses power keeps what was synced: whatever the policy promises is on the log, once."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ingress.adapters.journal import Journal
from ingress.adapters.marks import ID
from ingress.adapters.safety import Safety
from ingress.adapters.wal import Wal
from ingress.core.admission import Registry
from schemas.published import MAX_EVENTS_PER_RECORD
from tests.property.test_wal_replay import Key, Told, check_whole, replay, told_by
from tests.unit.ingress.governed import START_MS, event_of

Policy = Literal["interval", "always"]


class Medium:
    """What would be left: of each file as much as was synced, and only names that were."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.sizes: dict[int, int] = {}
        """By inode."""
        self.names: set[str] = set()
        fdatasync, fsync = os.fdatasync, os.fsync

        def synced(file: int) -> None:
            size = os.fstat(file).st_size  # what is written later may be lost
            fdatasync(file)
            self.sizes[os.fstat(file).st_ino] = size

        def names_synced(file: int) -> None:
            names = set(os.listdir(path))
            fsync(file)
            self.names |= names

        patch.setattr(os, "fdatasync", synced)
        patch.setattr(os, "fsync", names_synced)

    def lose_power(self, to: Path, dice: random.Random) -> None:
        """Copy what is left to `to`; of what was not synced a part may be there as well."""
        to.mkdir()
        for file in sorted(self.path.glob("*.wal")):
            if file.name not in self.names:
                break  # what comes later in the log is not there either
            data = file.read_bytes()
            kept = self.sizes.get(file.stat().st_ino, 0)
            is_last = kept < len(data)
            (to / file.name).write_bytes(data[: dice.randint(kept, len(data)) if is_last else kept])


class Loss(NamedTuple):
    """What was on the medium, with the broker, and promised, when the power went."""

    path: Path
    broker: dict[Key, Told]
    promised: set[bytes]


class Life:
    """A replica that journals, cuts and sends, and loses power at some moments."""

    def __init__(self, path: Path, policy: Policy, segment: int, seed: int, patch: pytest.MonkeyPatch) -> None:
        self.dice = random.Random(seed)
        self.path = path / "wal"
        self.path.mkdir()
        self.medium = Medium(self.path, patch)
        wal = Wal(self.path, 7, segment)
        self.syncer = Safety(policy).syncer_of(wal, self.faults.append)
        self.journal = Journal(wal, Registry(1), "i", 7, syncer=self.syncer)
        self.told: set[bytes] = set()
        self.safe: set[bytes] = set()
        """Told, and a sync has ended that began later."""
        self.is_always = policy == "always"
        self.broker: dict[Key, Told] = {}
        self.losses: list[Loss] = []
        self.number = 0

    faults: list[BaseException] = []  # noqa: RUF012 - stays empty

    async def run(self, steps: int) -> None:
        """Live for some steps."""
        for _ in range(steps):
            what = self.dice.choice(["event", "event", "event", "admit", "send", "burst", "sync", "loss"])
            await getattr(self, f"_{what}")()
            await asyncio.sleep(0)
        await self._loss()
        self.journal.close(delete=False)

    async def _event(self) -> None:
        self.number += 1
        event = event_of(self.number)
        self.journal.terminal(0, event, lambda: self.told.add(event[ID]))

    async def _admit(self) -> None:
        self.number += 1
        event = event_of(self.number)
        self.journal.admitted(0, event, lambda: self.told.add(event[ID]))

    async def _burst(self) -> None:
        """More than a record takes, so that some wait although one was cut."""
        for _ in range(MAX_EVENTS_PER_RECORD + 20):
            await self._event()
        await asyncio.sleep(0)

    async def _sync(self) -> None:
        told = set(self.told)
        assert self.syncer is not None
        await self.syncer.wait()
        self.safe |= told

    async def _send(self) -> None:
        await self.journal.log.until_rolled()
        record = self.journal.cut(0, START_MS)
        if self.journal.must_sync(0):
            assert self.syncer is not None
            await self.syncer.wait()
        self.broker[0, record.epoch, record.seq] = told_by(record)
        if self.dice.random() < 0.3:
            await self._loss()
        self.journal.acknowledged(0)

    async def _loss(self) -> None:
        to = self.path.parent / f"loss-{len(self.losses)}"
        self.medium.lose_power(to, self.dice)
        self.losses.append(Loss(to, dict(self.broker), set(self.told if self.is_always else self.safe)))


async def lived(path: Path, policy: Policy, segment: int, seed: int, patch: pytest.MonkeyPatch) -> Life:
    """Return a life that is over."""
    life = Life(path, policy, segment, seed, patch)
    await life.run(25)
    return life


@pytest.mark.parametrize("policy", ["always", "interval"])
@settings(max_examples=12)
@given(seed=st.integers(0, 1 << 30), segment=st.sampled_from([900, 30_000, 1 << 20]))
def test_what_was_promised_survives_the_loss_of_power(policy: Policy, seed: int, segment: int) -> None:
    """`always`: all that anybody was told. `interval`: all that a sync has reached. Nothing twice, no record torn."""
    path = Path(tempfile.mkdtemp())
    try:
        with pytest.MonkeyPatch.context() as patch:
            life = asyncio.run(lived(path, policy, segment, seed, patch))
        assert life.faults == []
        for loss in life.losses[-4:]:
            if not list(loss.path.iterdir()):
                assert not loss.promised
                continue
            union = replay(loss.path)
            for key, record in loss.broker.items():
                union[key] = record  # a seq that is there already is not counted again
            if policy == "always":  # else the broker may have a record of which the log does not know
                check_whole(union)
            seen = [event for record in union.values() for event in record.events]
            assert len(seen) == len(set(seen))
            assert loss.promised <= set(seen)
    finally:
        shutil.rmtree(path)
