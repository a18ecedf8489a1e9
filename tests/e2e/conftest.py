"""The whole stack as a user installs it: the wheel in an environment of its own, driven by the `tollway` command."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def wheel_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that has our wheel and this environment's dependencies.

    The environment's own site-packages come first on its path, so what runs is the wheel and never the sources.
    """
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = place.glob("tollway-*.whl")
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = place / "venv" / "lib" / version / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    uv = str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--offline", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python


@pytest.fixture
def new_stack(wheel_python: Path, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Return a function that makes a `Stack` on a state directory; all are stopped at the end."""
    made: list[Stack] = []

    def make(state: Path | None = None, **options: object) -> Stack:
        stack = Stack(wheel_python, state or tmp_path / "state", tmp_path, options)
        made.append(stack)
        return stack

    yield make
    for stack in made:
        stack.kill()


@pytest.fixture(scope="session")
def trace_file() -> Path:
    """Return the real trace to replay, or skip loudly: it is not part of the project."""
    path = Path(os.environ.get("TOLLWAY_TRACE", ROOT.parent / "shared" / "data" / "azure_llm_code_2023.csv"))
    if not path.exists():
        pytest.skip("no trace: set TOLLWAY_TRACE to azure_llm_code_2023.csv (Azure LLM inference trace 2023)")
    return path
