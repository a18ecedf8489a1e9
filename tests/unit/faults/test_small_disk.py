"""A disk that really is full, for one process: the system says so, and nobody else sees it."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from pathlib import Path

import pytest

from tests.faults.small_disk import NoSmallDiskError, SmallDisk

WRITE = """
import pathlib, sys
try:
    pathlib.Path("file").write_bytes(bytes(int(sys.argv[1])))
except OSError as error:
    print(error.errno)
"""


async def _write(disk: SmallDisk, place: Path, size: int) -> str:
    command = disk.inside((sys.executable, "-c", WRITE, str(size)), place)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def test_the_system_says_that_the_disk_is_full_until_it_is_cleared(tmp_path: Path) -> None:
    """Whoever is inside gets ENOSPC; outside, the directory is as it was."""
    try:
        disk = await SmallDisk.open(tmp_path, 1 << 20)
    except NoSmallDiskError as error:
        pytest.skip(f"this machine lets us mount nothing of our own: {error}")
    try:
        assert await _write(disk, tmp_path, 1_000) == ""
        disk.fill(10_000)
        assert await _write(disk, tmp_path, 100_000) == str(errno.ENOSPC)
        disk.clear()
        assert await _write(disk, tmp_path, 100_000) == ""
        assert (disk.root / "file").stat().st_size == 100_000
        assert not os.listdir(tmp_path)
    finally:
        await disk.close()
