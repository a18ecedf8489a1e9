"""`python -m meter.sink`: settings, the history process, exit codes (0 ok, 1 fault, 2 configuration)."""

from __future__ import annotations

import sys

import structlog
from pydantic import ValidationError

from meter.sink.app import History
from meter.sink.settings import HistorySettings
from meter.telemetry import configure_logging
from schemas.faults import setting_problems
from schemas.process import run_service

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
    try:
        return await History(settings).run()
    except Exception:  # the last line of the process
        _log.critical("the history ends", exc_info=True)
        return 1


def main() -> None:
    """Run the history."""
    run_service(read_settings, configure_logging, run)


if __name__ == "__main__":
    main()
