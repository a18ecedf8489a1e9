"""Log files of supervised processes: rotated by size when a process starts, and the end of one for a crash report."""

from __future__ import annotations

import os
from pathlib import Path

ROTATE_BYTES = 16 << 20
KEPT = 3
TAIL_BYTES = 8 << 10
LINE_CHARACTERS = 1_000


def open_log(path: Path, rotate_bytes: int = ROTATE_BYTES) -> int:
    """Return a descriptor that appends to `path`, after rotating it to `path.1`, … if it has grown too large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > rotate_bytes:
        for number in range(KEPT - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def tail(path: Path, since: int = 0, lines: int = 20) -> list[str]:
    """Return the last `lines` lines that were written to `path` after byte `since`."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        file.seek(max(since if since <= end else 0, end - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [line[:LINE_CHARACTERS] for line in text.splitlines() if line.strip()][-lines:]
