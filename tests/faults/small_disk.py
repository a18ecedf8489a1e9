"""A disk of a few MiB that really is full: the system itself says ENOSPC. Needs no privileges on most systems.

A tmpfs in a mount namespace of its own, which a process holds for as long as this one lives; who is to see it is
started in there. Nothing is mounted outside, and nothing is left of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from pathlib import Path

FILLER = "filler"
_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo ready && exec cat'
_ENTER = 'cd "$0" && exec "$@"'
START_S = 10.0


class NoSmallDiskError(Exception):
    """This machine lets us have none; the message says why."""


class SmallDisk:
    """One disk; `root` is where it is found from out here."""

    def __init__(self, holder: asyncio.subprocess.Process, place: Path) -> None:
        self._holder = holder
        self._place = place
        self.root = Path(f"/proc/{holder.pid}/root{place}")

    @classmethod
    async def open(cls, place: Path, size: int) -> SmallDisk:
        """Make a disk of `size` bytes that those inside find at `place`; NoSmallDiskError if that is not allowed."""
        pipe = asyncio.subprocess.PIPE
        command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, str(place), str(size))
        try:
            holder = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise NoSmallDiskError(f"unshare: {error}") from error
        assert holder.stdout is not None
        assert holder.stderr is not None
        async with asyncio.timeout(START_S):
            if await holder.stdout.readline() != b"ready\n":
                said = (await holder.stderr.read()).decode().strip()
                await holder.wait()
                raise NoSmallDiskError(f"no tmpfs in a namespace of our own: {said}")
        return cls(holder, place)

    def inside(self, command: tuple[str, ...], directory: Path) -> tuple[str, ...]:
        """Return what does `command` in `directory`, where it finds this disk; the process becomes the command's."""
        enter = ("nsenter", "-t", str(self._holder.pid), "--user", "--mount", "--preserve-credentials")
        # Entering gives up the promise to die with whoever has started it.
        tie = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
        return (*enter, *tie, "sh", "-c", _ENTER, str(directory), *command)

    def fill(self, left: int) -> None:
        """Use up all of it but `left` bytes."""
        with (self.root / FILLER).open("wb", buffering=0) as file:
            size = 0
            try:
                while True:
                    size += file.write(bytes(64 * 1024))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            os.ftruncate(file.fileno(), max(0, size - left))

    def clear(self) -> None:
        """Give the room back."""
        (self.root / FILLER).unlink(missing_ok=True)

    async def close(self) -> None:
        """Unmount it; what was on it is gone once nobody is inside."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._holder.wait()
                return
        self._holder.kill()
        await self._holder.wait()
