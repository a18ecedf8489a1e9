"""The lock files against what the package declares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;]+)(?: ; (.*?))? \\$")


def declared(*groups: str) -> list[Requirement]:
    """Return the direct dependencies of the product and of `groups`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = list(project["project"]["dependencies"])
    for group in groups:
        texts += project["dependency-groups"][group]
    return [Requirement(text) for text in texts]


def locked(name: str) -> dict[str, set[str]]:
    """Return the versions that a lock file pins, by name; several where they differ by environment."""
    pins: dict[str, set[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if match := PIN.match(line):
            pins.setdefault(match[1], set()).add(match[2])
    return pins


@pytest.mark.parametrize(
    ("lock", "groups"), [("requirements.lock", ()), ("requirements-dev.lock", ("test", "lint", "bench", "build"))]
)
def test_every_direct_dependency_is_locked_at_an_admitted_version(lock: str, groups: tuple[str, ...]) -> None:
    """What pyproject.toml asks for is in the lock, at versions that it admits: nobody forgot `make lock`."""
    pins = locked(lock)
    for requirement in declared(*groups):
        versions = pins.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement.name} is not in {lock}: run `make lock`"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: {versions}"


def test_both_locks_agree() -> None:
    """What the tests run on is what the product runs on."""
    tested = locked("requirements-dev.lock")
    for name, versions in locked("requirements.lock").items():
        assert versions <= tested[name], name


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_hold_hashes_and_no_address(lock: str) -> None:
    """Each pin has a SHA-256, and where a distribution comes from is not said."""
    text = (ROOT / lock).read_text()
    for block in re.split(r"\n(?=[a-z0-9])", text):
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert "://" not in text
    assert "--index" not in text
