"""A disk that is really full: a file system of two megabytes, in a mount namespace of its own."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MOUNT = 'mount -t tmpfs -o size=2m tollway-test "$1" && shift && exec "$@"'


@functools.cache
def may_mount(place: Path) -> bool:
    """Whether this machine lets a process mount a file system for itself."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    command = [unshare, "-rm", "sh", "-c", MOUNT, "sh", str(place), "true"]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0


def test_a_full_disk_refuses_folds_and_goes_on(tmp_path: Path) -> None:
    """Writes fail, the reserve takes what is under way, the fold makes room, and every event is there in sums."""
    if not may_mount(tmp_path):
        pytest.skip("this machine lets nobody mount a file system (unshare -rm)")
    command = [
        str(shutil.which("unshare")), "-rm", "sh", "-c", MOUNT, "sh", str(tmp_path), sys.executable, "-m",
        "tests.unit.ingress.full_disk", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["problems"], "the disk was never full"
    assert found["problems"][-1] == ""
    assert all("its disk is full" in problem for problem in found["problems"][::2])
    assert found["folds"] >= 1
    assert found["faults"] == 0
    assert found["told"] == found["events"]
    assert found["replayed"] == found["expected"]
