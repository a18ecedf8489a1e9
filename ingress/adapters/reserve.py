"""Room on the disk that is kept for bad times: files of zeros, made while there is room.

One becomes a segment of the log when the disk is full, so that what is under way can end; the other takes the result
of a fold, which then frees far more than it needs.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LOG, FOLD = "log", "fold"
_USES = (LOG, FOLD)


class Reserve:
    """Two files in the directory of the log."""

    def __init__(self, directory: Path, size: int) -> None:
        """Keep `size` bytes for each use; call `fill`."""
        self._directory = directory
        self._size = size
        self._there: set[str] = set()

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there."""
        return len(self._there) == len(_USES)

    def path(self, use: str) -> Path:
        """Return where the file of a use is."""
        return self._directory / f"{use}.reserve"

    def fill(self) -> bool:
        """Make what is missing; False if the disk has no room for it."""
        for use in _USES:
            if use not in self._there:
                try:
                    self._make(self.path(use))
                except OSError:
                    self.path(use).unlink(missing_ok=True)
                    return False
                self._there.add(use)
        return True

    def _make(self, path: Path) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(file, 0, self._size)
        finally:
            os.close(file)

    def take(self, use: str) -> Path | None:
        """Return the file of a use, which is the caller's from now on; None if it is not there."""
        if use not in self._there:
            return None
        self._there.discard(use)
        return self.path(use)

    def lend(self, use: str) -> Path | None:
        """Return the file of a use, which stays here unless it is renamed; None if it is not there."""
        return self.path(use) if use in self._there else None

    def check(self, use: str) -> None:
        """Look whether the file of a use, which was lent, was renamed."""
        if not self.path(use).exists():
            self._there.discard(use)

    def give_up(self) -> None:
        """Delete the files."""
        self._there.clear()
        for use in _USES:
            with contextlib.suppress(OSError):
                self.path(use).unlink(missing_ok=True)
