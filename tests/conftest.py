"""What every test gets: the marker of its folder, the shared real services, and proof that they were used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from tests.containers import NO_ENGINE

TESTS = Path(__file__).parent
FOLDER_MARKERS = frozenset({"unit", "property", "contract", "stream", "integration", "e2e", "bench"})
REAL_PARTS = {"broker": "a real Kafka broker", "clickhouse": "a real ClickHouse engine"}
"""Fixtures that stand for a real part; a whole run in which nothing used one proves nothing."""

_PASSED: pytest.StashKey[Counter[str]] = pytest.StashKey()
_NO_ENGINE: pytest.StashKey[list[str]] = pytest.StashKey()

pytest_plugins = [
    f"tests.fixtures.{path.stem}" for path in sorted((TESTS / "fixtures").glob("*.py")) if path.stem != "__init__"
]

# The same examples in every run: a failure seen once is seen again.
hypothesis_settings.register_profile("fixed", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis_settings.register_profile("explore", deadline=None, max_examples=2_000, print_blob=True)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what this run counts."""
    config.stash[_PASSED] = Counter()
    config.stash[_NO_ENGINE] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with the name of its folder."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in FOLDER_MARKERS:
            item.add_marker(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count which real parts passed tests have used, and what was skipped for lack of a container engine."""
    report = yield
    if report.when == "call" and report.passed:
        for part in REAL_PARTS:
            item.config.stash[_PASSED][part] += part in getattr(item, "fixturenames", ())
    if report.skipped and NO_ENGINE in str(report.longrepr):
        item.config.stash[_NO_ENGINE].append(item.nodeid)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a whole run that used no real broker or no real engine (`TOLLWAY_REQUIRE_REAL=1`)."""
    if exitstatus == pytest.ExitCode.OK and _unproven(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what ran against real parts and what did not run at all."""
    for part, name in REAL_PARTS.items():
        if passed := config.stash[_PASSED][part]:
            terminalreporter.write_line(f"{passed} tests passed against {name}")
    if skipped := len(config.stash[_NO_ENGINE]):
        terminalreporter.write_sep("!", f"{skipped} tests SKIPPED: no container engine answers", yellow=True, bold=True)
    for name in _unproven(config):
        terminalreporter.write_sep("!", f"FAILED: no test passed against {name}", red=True, bold=True)


def _unproven(config: pytest.Config) -> list[str]:
    """Return the real parts that a whole run should have used and did not."""
    if os.environ.get("TOLLWAY_REQUIRE_REAL") != "1" or config.option.collectonly:
        return []
    return [name for part, name in REAL_PARTS.items() if not config.stash[_PASSED][part]]
