"""What every test gets: the marker of its folder, the shared real services, and proof that they were used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from xdist.scheduler import LoadScopeScheduling

from tests.proof import Proof

TESTS = Path(__file__).parent
FOLDER_MARKERS = frozenset({"unit", "property", "contract", "stream", "integration", "e2e", "bench"})
LONGEST_FIRST = ("e2e", "integration")
STACK_TIMEOUT_S = 300

pytest_plugins = [
    f"tests.fixtures.{path.stem}" for path in sorted((TESTS / "fixtures").glob("*.py")) if path.stem != "__init__"
]

# The same examples in every run: a failure seen once is seen again.
hypothesis_settings.register_profile("fixed", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis_settings.register_profile("explore", deadline=None, max_examples=2_000, print_blob=True)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no annotations
    """Gives whole files to the processes of a run, and all of `tests/e2e` to one: its tests share a running stack."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/e2e" if nodeid.startswith("tests/e2e/") else nodeid.partition("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    """Watch what this run uses."""
    config.pluginmanager.register(Proof(_is_worker(config)), "proof")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Return who gives tests to processes (`-n 2`)."""
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test with the name of its folder; one of several processes begins with what takes longest."""
    for item in items:
        if (folder := _folder(item)) in FOLDER_MARKERS:
            item.add_marker(folder)
        if folder == "e2e" and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(STACK_TIMEOUT_S))  # it may be the one that starts the stack
    if _is_worker(config):
        items.sort(key=lambda item: LONGEST_FIRST.index(folder) if (folder := _folder(item)) in LONGEST_FIRST else 9)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
