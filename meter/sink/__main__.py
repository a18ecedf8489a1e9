"""`python -m meter.sink`: settings, the history process, exit codes (0 ok, 1 fault, 2 configuration)."""

from __future__ import annotations

import asyncio
import os
import sys

import structlog
from pydantic import ValidationError

from meter.sink.app import History
from meter.sink.settings import HistorySettings
from meter.telemetry import configure_logging
from schemas.faults import setting_problems

_log = structlog.get_logger("history")


def read_settings() -> HistorySettings | None:
    """Return the settings, or None after all their faults were printed. Secrets are not shown."""
    try:
        return HistorySettings()
    except ValidationError as error:
        print(*setting_problems(error, "TOLLWAY_HISTORY_"), sep="\n", file=sys.stderr)
        return None


async def run(settings: HistorySettings) -> int:
    """Run until a signal or a fault; return the exit code."""
    return await History(settings).run()


def main() -> None:
    """Run the history."""
    settings = read_settings()
    if settings is None:
        sys.exit(2)
    if "--check-config" in sys.argv[1:]:
        sys.exit(0)
    configure_logging(settings.log_level)
    try:
        code = asyncio.run(run(settings))
    except Exception:  # the last line of the process
        _log.critical("the history ends", exc_info=True)
        code = 1
    sys.stderr.flush()
    os._exit(code)  # a query's thread may still be in the engine


if __name__ == "__main__":
    main()
