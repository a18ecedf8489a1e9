"""The meter's process on a real broker: exact after every kill, prompt, and clean when it stops."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from schemas.codec import decode_json, encode_record
from schemas.deadletters import DeadLetter
from schemas.quota import Snapshot, hour_key, run_key
from schemas.usage import Batch, Gauge, Totals, Want
from tests.fixtures.broker import Broker
from tests.integration.meter_lab import Lab, MeterProcess, laboratory, until
from tests.property.fold_logs import event

PARTITIONS = 2
LIMIT_TOKENS = 1_000_000_000
DAY = f"day@{int(time.time()) // 86_400 * 86_400}+86400"


@pytest.fixture
async def lab(broker: Broker, topic_prefix: str) -> AsyncIterator[Lab]:
    """Yield a deployment of its own on the shared broker."""
    async with laboratory(broker.bootstrap, topic_prefix, PARTITIONS) as made:
        yield made


@pytest.fixture
def meter(lab: Lab, tmp_path: Path) -> Iterator[MeterProcess]:
    """Yield a meter process, not started yet; it is gone after the test."""
    process = MeterProcess(lab.connection, tmp_path / "meter.log", lease_ms="2000")
    yield process
    process.end()


class Traffic:
    """Replicas that send records, some of them twice, and what the sums of all of them are."""

    def __init__(self, lab: Lab, replicas: int = 2) -> None:
        self._lab = lab
        self._pick = random.Random(7)
        self._seqs: dict[tuple[str, int], int] = defaultdict(int)
        self._names = [f"i{number}" for number in range(replicas)]
        self.rows: dict[str, int] = defaultdict(int)
        self.ledger: dict[str, Totals] = defaultdict(Totals)

    def record(self, name: str, partition: int, final: bool = False) -> bytes:
        """Return the next record of a replica in a partition."""
        seq = self._seqs[name, partition] = self._seqs[name, partition] + 1
        now_ms = int(time.time() * 1000)
        events = []
        for _ in range(self._pick.randint(1, 30)):
            amount, team = self._pick.randint(1, 900), self._pick.randint(0, 400)
            keys = [f"{rule}/tokens/org=acme{partition},team=t{team}/{DAY}" for rule in ("a", "b", "c")]
            events.append(event(keys, f"acme{partition}", amount, now_ms, amount))
            for key in keys:
                self.rows[key] += amount
            run = run_key(name, partition + 1)
            for entry in (f"org=acme{partition}/day={time.strftime('%Y-%m-%d', time.gmtime(now_ms / 1000))}", run,
                          hour_key(run, now_ms // 3_600_000)):  # fmt: skip
                totals = self.ledger[entry]
                totals.events += 1
                totals.requests += 1
                totals.input_tokens += amount
                totals.output_tokens += 2 * amount
                totals.cost_nanos += amount
                totals.charge_nanos += amount
        gauges = [] if final else [Gauge(key, 5, LIMIT_TOKENS) for key in keys]
        amount, head = self._pick.choice(((0, 0), (LIMIT_TOKENS * 2 // 3, 1_000)))
        wants = [] if final or seq % 8 else [Want(keys[0], amount, head, LIMIT_TOKENS)]
        ack = self._lab.view.fences.get(partition, 0)
        # An epoch for each partition: the ledger of a run is by partition, and has to be told apart here.
        return encode_record(
            Batch(name, partition + 1, seq, ack, now_ms, 1, final, gauges, wants, Totals(events=seq), events)
        )

    async def flow(self, seconds: float) -> None:
        """Send records to all partitions, one in ten of them twice."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for partition in range(PARTITIONS):
                value = self.record(self._pick.choice(self._names), partition)
                await self._lab.append(partition, value)
                if self._pick.random() < 0.1:
                    await self._lab.append(partition, value)
            await asyncio.sleep(0.005)

    async def finish(self) -> None:
        """End every run."""
        for partition in range(PARTITIONS):
            for name in self._names:
                await self._lab.append(partition, self.record(name, partition, final=True))


async def test_the_sums_are_the_logs_after_every_kill(lab: Lab, meter: MeterProcess) -> None:
    """Kill −9 again and again while records flow: no event is lost, none counts twice, nothing published goes back.

    Nor does any snapshot give more rights than there are.
    """
    traffic = Traffic(lab)
    meter.start()
    await meter.ready()
    for pause in (0.7, 0.3, 1.2):
        await traffic.flow(pause)
        meter.kill()
        await traffic.flow(0.2)  # nobody folds these yet
        meter.start()
        await meter.ready()
    await traffic.finish()
    ends = await lab.ends()
    await until(lambda: lab.view.fences == ends, 30, lambda: (lab.view.fences, ends, meter.log_text()))
    assert {key: row.settled for key, row in lab.view.rows.items()} == traffic.rows
    assert not any(row.inflight for row in lab.view.rows.values())
    assert {key: entry.totals for key, entry in lab.view.ledger.items()} == traffic.ledger
    assert not lab.view.went_back
    assert not lab.view.overbooked
    assert lab.view.rights_seen, "no row had rights"
    assert len(lab.view.publishers) == 4


async def test_a_stop_leaves_nothing_to_fold_again(lab: Lab, meter: MeterProcess, tmp_path: Path) -> None:
    """SIGTERM: a last flush, the offsets committed, exit 0 within seconds; the next start folds nothing twice."""
    traffic = Traffic(lab)
    meter.start()
    await meter.ready()
    await traffic.flow(1.0)
    ends = await lab.ends()
    await until(lambda: lab.view.fences == ends, 20, meter.log_text)
    code, seconds = meter.stop()
    assert code == 0
    assert seconds < 5
    meter.start()
    await meter.ready()
    assert await meter.metric("tollway_meter_fence") == sum(ends.values())
    assert await meter.metric("tollway_meter_records_total") == 0
    assert await meter.metric("tollway_meter_skipped_records_total") == 0
    assert os.listdir(tmp_path) == ["meter.log"], "it leaves nothing where it was started"


async def test_undecodable_records_are_set_aside_with_reason_and_origin(lab: Lab, meter: MeterProcess) -> None:
    """Junk goes to the dead letters, byte for byte, and the records behind it are folded."""
    traffic = Traffic(lab)
    await lab.append(1, b"no record at all")
    await lab.append(1, traffic.record("i0", 1))
    meter.start()
    await meter.ready()
    letter = decode_json(DeadLetter, (await lab.dead_letters(1))[0])
    assert (letter.topic, letter.partition, letter.offset) == (f"{lab.connection.topic_prefix}usage", 1, 0)
    assert letter.value == b"no record at all"
    assert "not a usage record of version 1" in letter.reason
    await until(lambda: lab.view.fences.get(1) == 2, 10, meter.log_text)
    assert {key: row.settled for key, row in lab.view.rows.items()} == traffic.rows
    assert await meter.metric("tollway_meter_dead_letters_total") == 1


async def test_a_silent_replica_is_evicted_and_one_that_speaks_is_not(lab: Lab, meter: MeterProcess) -> None:
    """After the lease (2 s here) a replica that sends nothing loses its membership through a record on the log."""
    traffic = Traffic(lab)
    meter.start()
    await meter.ready()
    await lab.append(0, traffic.record("silent", 0))
    deadline = time.monotonic() + 20

    async def speak() -> bool:
        await lab.append(0, traffic.record("speaking", 0))
        await asyncio.sleep(0.2)
        assert time.monotonic() < deadline, lab.view.members
        return [name for name, _, _ in lab.view.members.get(0, [])] == ["speaking"] and lab.view.seen > 5

    began = time.monotonic()
    while not await speak():
        pass
    assert time.monotonic() - began >= 2
    assert await meter.metric("tollway_meter_evictions_total") == 1


async def test_changed_rows_are_published_within_milliseconds(lab: Lab, meter: MeterProcess) -> None:
    """From producing a record to reading its row on `quota.updates`: the median is well below a heartbeat."""
    traffic = Traffic(lab)
    meter.start()
    await meter.ready()
    waiting: dict[int, float] = {}
    delays: list[float] = []

    def note(snapshot: Snapshot) -> None:
        seen = max((member.hw for member in snapshot.members), default=0) if snapshot.partition == 0 else 0
        for seq in [seq for seq in waiting if seq <= seen]:
            delays.append(time.monotonic() - waiting.pop(seq))

    lab.on_snapshot = note
    for seq in range(1, 101):
        waiting[seq] = time.monotonic()
        await lab.append(0, traffic.record("i0", 0))
        await asyncio.sleep(0.01)
    await until(lambda: not waiting, 10, meter.log_text)
    delays.sort()
    assert delays[50] < 0.1, f"median {delays[50] * 1000:.0f} ms"


async def test_wrong_settings_are_named() -> None:
    """`--check-config` prints every fault and exits with 2."""
    import sys

    wrong = {"TOLLWAY_METER_PORT": "no port", "TOLLWAY_METER_KAFKA__PARTITIONS": "0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "meter", "--check-config", env={**os.environ, **wrong}, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert all(name in errors.decode() for name in wrong)


@pytest.mark.slow
async def test_two_workers_share_the_partitions_and_one_takes_over_from_the_other(lab: Lab, tmp_path: Path) -> None:
    """A second worker joins, then the first is killed: the sums are the log's, and nothing published goes back."""
    traffic = Traffic(lab)
    first = MeterProcess(lab.connection, tmp_path / "first.log", slot="0")
    second = MeterProcess(lab.connection, tmp_path / "second.log", slot="1")
    try:
        first.start()
        await first.ready()
        await traffic.flow(0.5)
        second.start()
        await second.ready()
        await traffic.flow(3.0)
        await until(lambda: len(lab.view.publishers) == 2, 30, lambda: (first.log_text(), second.log_text()))
        first.kill()
        await traffic.flow(0.5)
        await traffic.finish()
        ends = await lab.ends()
        await until(lambda: lab.view.fences == ends, 60, lambda: (lab.view.fences, ends, second.log_text()))
        assert {key: row.settled for key, row in lab.view.rows.items()} == traffic.rows
        assert {key: entry.totals for key, entry in lab.view.ledger.items()} == traffic.ledger
        assert not lab.view.went_back
        assert second.stop()[0] == 0
    finally:
        first.end()
        second.end()
