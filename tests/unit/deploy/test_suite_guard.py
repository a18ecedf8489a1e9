"""The checks that watch the tests and the package themselves: each of them can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.wheel import PACKAGES, wheel_faults

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("required", "options", "code"),
    [("1", [], 1), ("0", [], 0), ("1", ["-n", "1"], 1)],
    ids=["required", "not required", "required, in several processes"],
)
def test_a_whole_run_without_real_parts_fails(required: str, options: list[str], code: int) -> None:
    """With TOLLWAY_REQUIRE_REAL=1, passing tests are not enough: some must have met the real broker and engine."""
    tests = "tests/unit/deploy/test_kafka_config.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, tests],
        cwd=ROOT,
        env=os.environ | {"TOLLWAY_REQUIRE_REAL": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("no test passed against a real Kafka broker" in done.stdout) == bool(code)
    assert ("no test passed against a real ClickHouse engine" in done.stdout) == bool(code)


def wheel_with(path: Path, *extra: str, without: str = "") -> Path:
    """Write a wheel that holds a module and a data file of each package, and `extra`."""
    names = {f"{package}/{file}" for package in PACKAGES for file in ("__init__.py", "data.sql")}
    with zipfile.ZipFile(path, "w") as archive:
        for name in (names | {"tollway-0.1.0.dist-info/METADATA", *extra}) - {without}:
            archive.writestr(name, "")
    return path


def test_wheel_check_accepts_exactly_the_tracked_files(tmp_path: Path) -> None:
    """A wheel with every tracked file of the five packages has no fault; documents may be left out."""
    tracked = {f"{package}/data.sql" for package in PACKAGES} | {"deploy/README.md"}
    assert not list(wheel_faults(wheel_with(tmp_path / "tollway.whl"), tracked))


def test_wheel_check_names_what_is_missing_and_what_does_not_belong(tmp_path: Path) -> None:
    """A lost data file and a packaged test are each named."""
    wheel = wheel_with(tmp_path / "tollway.whl", "tests/conftest.py", without="schemas/data.sql")
    assert list(wheel_faults(wheel, {"schemas/data.sql"})) == [
        "tollway.whl lacks schemas/data.sql",
        f"tollway.whl holds tests/: only {', '.join(PACKAGES)} belong into it",
    ]
