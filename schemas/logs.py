"""What services do to the log lines of libraries."""

from __future__ import annotations

import logging


class OncePerInterval(logging.Filter):
    """Lets a line of a library through once an interval: while the broker is away, clients repeat themselves."""

    LIBRARIES = ("aiokafka", "kafka", "faust", "mode")
    """How the names of their loggers begin; all other lines pass."""
    INTERVAL_S = 30.0
    KEPT = 500

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be written."""
        if not record.name.startswith(self.LIBRARIES):
            return True
        line = record.name, str(record.msg)
        if record.created - self._last.get(line, 0.0) < self.INTERVAL_S:
            return False
        if len(self._last) >= self.KEPT:
            self._last.clear()
        self._last[line] = record.created
        return True
