"""`tollway spool`: what is shown of a spool, and which ones are not sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from ingress.adapters.epochs import StateDir
from ingress.adapters.wal import find_segments
from tests.unit.deploy.test_cli_commands import run
from tests.unit.ingress.test_replay import RUNS, leave


def left(tmp_path: Path) -> Path:
    """Return a volume with the spool of one dead instance."""
    wal = tmp_path / "ingress" / "lost" / "wal"
    wal.mkdir(parents=True)
    asyncio.run(leave(wal))
    return tmp_path


def test_a_spool_is_listed_by_run(tmp_path: Path) -> None:
    """Instance, epoch, segments, sums; the same as JSON."""
    volume = left(tmp_path)
    found = run("spool", "show", str(volume), "--json")
    assert found.code == 0
    (held,) = json.loads(found.out)
    assert [run["epoch"] for run in held["runs"]] == list(RUNS)
    assert {run["instance"] for run in held["runs"]} == {"lost"}
    table = run("spool", "show", str(volume)).out
    assert "lost" in table
    assert "unpriced" in table
    assert "0.00" in table


def test_a_spool_in_use_or_of_other_partitions_is_not_sent(tmp_path: Path) -> None:
    """Before anything is connected; and a broker that does not answer leaves it as it is."""
    volume = left(tmp_path)
    path = str(volume / "ingress" / "lost")
    broker = ["--broker", "127.0.0.1:9"]
    other = run("spool", "replay", path, *broker, "--kafka-partitions", "3")
    assert other.code == 2
    assert "has 2" in other.err
    state = StateDir(volume / "ingress" / "lost")
    used = run("spool", "replay", path, *broker, "--kafka-partitions", "2")
    assert used.code == 2
    assert "another ingress uses it" in used.err
    state.release()
    assert run("spool", "replay", str(tmp_path / "ingress" / "lost" / "wal"), *broker).code == 2
    assert list(find_segments(volume / "ingress" / "lost" / "wal")) == list(RUNS)
