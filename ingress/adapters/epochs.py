"""The epoch of this replica: a number that rises with every start, kept on disk beside the log.

It is at least the unix time in seconds, so that a replica whose disk was lost does not come back as one of its own
earlier runs, whose records count as sent already. Also keeps a second process out of the same directory.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from schemas.errors import ConfigError


class StateDir:
    """The directory that one replica owns while it runs."""

    def __init__(self, path: Path) -> None:
        """Create the directory and lock it; ConfigError if another process has it."""
        self.path = path
        self.wal = path / "wal"
        self.wal.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError([f"state_dir: {path}: another ingress uses it; give each its own directory"]) from None

    def next_epoch(self, now_s: int) -> int:
        """Return an epoch above every one before, and keep it safe from power loss."""
        file = self.path / "epoch"
        last = int(file.read_text()) if file.exists() else 0
        epoch = max(last + 1, now_s)
        fresh = self.path / "epoch.new"
        with fresh.open("w") as out:
            out.write(f"{epoch}\n")
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(file)
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return epoch

    def release(self) -> None:
        """Let another process have the directory."""
        os.close(self._lock)


def is_locked(path: Path) -> bool:
    """Return whether a process has the state directory `path`; the directory is left as it is."""
    try:
        lock = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
