"""Proof that a run has met real parts: counts them over all processes of the run, and fails a whole run without any."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator

import pytest

from tests.containers import NO_ENGINE

REAL_PARTS = {"broker": "a real Kafka broker", "clickhouse": "a real ClickHouse engine"}
"""Fixtures that stand for a real part; a whole run in which nothing used one proves nothing."""
USED = "real part"


class Proof:
    """A plugin. A process that only runs tests for another one (a worker) notes; the one that reports judges."""

    def __init__(self, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._passed: Counter[str] = Counter()
        self._no_engine = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note on the report of a passed test which real parts it has used: reports travel between processes."""
        report = yield
        if report.when == "call" and report.passed:
            names = getattr(item, "fixturenames", ())
            report.user_properties += [(USED, part) for part in REAL_PARTS if part in names]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what passed against real parts, and what was skipped for lack of a container engine."""
        if report.when == "call" and report.passed:
            self._passed.update(str(part) for name, part in report.user_properties if name == USED)
        if report.skipped and NO_ENGINE in str(report.longrepr):
            self._no_engine += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a whole run that used no real broker or no real engine (`TOLLWAY_REQUIRE_REAL=1`)."""
        if exitstatus == pytest.ExitCode.OK and self._unproven(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Say what ran against real parts and what did not run at all."""
        for part, name in REAL_PARTS.items():
            if passed := self._passed[part]:
                terminalreporter.write_line(f"{passed} tests passed against {name}")
        if self._no_engine:
            text = f"{self._no_engine} tests SKIPPED: no container engine answers"
            terminalreporter.write_sep("!", text, yellow=True, bold=True)
        for name in self._unproven(config):
            terminalreporter.write_sep("!", f"FAILED: no test passed against {name}", red=True, bold=True)

    def _unproven(self, config: pytest.Config) -> list[str]:
        """Return the real parts that a whole run should have used and did not."""
        if self._is_worker or os.environ.get("TOLLWAY_REQUIRE_REAL") != "1" or config.option.collectonly:
            return []
        return [name for part, name in REAL_PARTS.items() if not self._passed[part]]
