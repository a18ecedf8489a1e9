from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.crash_points import INGRESS_POINTS, POINTS, VARIABLE, crash_at
from schemas.errors import ConfigError

ROOT = Path(__file__).parents[3]
CALL = re.compile(r"""crash_here\(\s*["']([^"']+)["']""")


def run(spec: str, names: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a process that passes the places `names`."""
    code = f"from schemas.crash_points import crash_here\nfor name in {names!r}:\n    crash_here(name)\nprint('alive')"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30,
        env={**os.environ, VARIABLE: spec}, check=False,
    )  # fmt: skip


def test_a_process_without_the_variable_passes_every_place() -> None:
    """Unset, the call does nothing at all."""
    assert run("", ["ingress.produced", "ingress.cut_noted"]).stdout == "alive\n"


def test_the_process_is_killed_at_the_named_place_and_time() -> None:
    """`name:2` is the second time; other places do not count."""
    spec = "ingress.produced:2"
    assert run(spec, ["ingress.produced", "ingress.cut_noted"]).stdout == "alive\n"
    assert run(spec, ["ingress.produced", "ingress.cut_noted", "ingress.produced"]).returncode == -signal.SIGKILL


@pytest.mark.parametrize("spec", ["ingress.prduced", "ingress.produced:", "ingress.produced:0", "ingress.produced:x"])
def test_a_misspelt_place_is_an_error_at_start(spec: str) -> None:
    """A typo would otherwise be a test without a fault."""
    with pytest.raises(ConfigError, match=r"TOLLWAY_CRASH_AT"):
        crash_at(spec)


def test_a_place_that_is_not_registered_is_an_error_where_it_is_reached() -> None:
    """Also the code may not misspell a name."""
    with pytest.raises(ValueError, match="no name"):
        crash_at("ingress.produced")("ingress.elsewhere")


def test_the_places_in_the_code_are_those_of_the_registry() -> None:
    """Each call names a registered place."""
    called: set[str] = set()
    for package in ("ingress", "meter", "enforcer", "deploy"):
        for path in (ROOT / package).rglob("*.py"):
            called.update(CALL.findall(path.read_text()))
    assert called <= POINTS
    ingress = "".join(path.read_text() for path in (ROOT / "ingress").rglob("*.py"))
    assert [name for name in INGRESS_POINTS if f'"{name}"' not in ingress] == []
    assert all(name.startswith("ingress.") for name in INGRESS_POINTS)
