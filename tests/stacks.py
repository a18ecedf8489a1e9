"""Where tasks of the running loop wait: for the output of a test that has waited in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INNERMOST = 6
"""Frames of each task."""


def of_tasks() -> str:
    """Return a line a task, its innermost frame last."""
    lines = [f"{task.get_name()}: {' > '.join(_frames(task.get_coro()))}" for task in asyncio.all_tasks()]
    return "\n".join(["Tasks wait in:", *sorted(lines)])


def _frames(awaited: Any) -> list[str]:
    return list(_chain(awaited))[-INNERMOST:]


def _chain(awaited: Any) -> Iterator[str]:
    """Walk from a coroutine to what it awaits, as far as that is Python."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is None:
            if not hasattr(awaited, "__await__"):
                return
            yield type(awaited).__name__
            return
        yield f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
