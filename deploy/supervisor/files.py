"""The state directory of a deployment: its lock, its small files, and who may read them. Knows no processes."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

LOCK_DEADLINE_S = 0.5


def default_state_dir(environment: Mapping[str, str]) -> Path:
    """Return the state directory of `environment`: `$TOLLWAY_STATE`, else `tollway` under the XDG state directory."""
    if own := environment.get("TOLLWAY_STATE"):
        return Path(own).expanduser()
    xdg = environment.get("XDG_STATE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".local" / "state") / "tollway"


class StateDir:
    """The files of one deployment. Secrets are readable by their owner alone."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._lock: int | None = None

    @property
    def run_file(self) -> Path:
        """Return the file through which other commands find the running deployment."""
        return self.root / "run.json"

    def log(self, role: str) -> Path:
        """Return the log file of a role."""
        return self.root / "logs" / f"{role}.log"

    def acquire(self) -> None:
        """Take the directory for this process until it ends, however it ends.

        Raises:
            ConfigError: a running deployment has it, or it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                [f"--state {self.root}: {error.strerror}; name a directory that this user may write"]
            ) from error
        if not _lock(descriptor):
            holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                [
                    f"--state {self.root}: in use by a running deployment (pid {holder}); use that one "
                    "(tollway status), stop it, or name another directory with --state and other ports with --port"
                ]
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def release(self) -> None:
        """Give the directory back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_held(self) -> bool:
        """Tell whether a running deployment has the directory."""
        try:
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def admin_token(self) -> str:
        """Return the deployment's admin token, made at its first start."""
        path = self.root / "admin-token"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text(encoding="utf-8").strip()

    def read(self, name: str) -> dict[str, Any]:
        """Return the JSON object in the file `name`; an empty one if there is no such file."""
        path = self.root / name
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError([f"{path}: not JSON ({error}); remove it, and it is made anew"]) from error
        return found if isinstance(found, dict) else {}

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON object to the file `name`, whole or not at all, readable by its owner alone."""
        write_private(self.root / name, json.dumps(value, indent=2) + "\n")


def _lock(descriptor: int) -> bool:
    """Lock a file for this process; another command may look at the lock for an instant, so try for a while."""
    deadline = time.monotonic() + LOCK_DEADLINE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 so that whoever reads it sees it as it was or as it is, never half."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
