"""The whole stack as a user installs it: the wheel in an environment of its own, driven by the `tollway` command."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import uuid
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
        stack.hang_up()
        stack.kill()


class Shared:
    """Keeps one stack for all tests that leave it as they found it: running, with both replicas ready."""

    def __init__(self, python: Path, place: Path) -> None:
        self._python, self._place, self._starts = python, place, 0
        self._stack: Stack | None = None

    def running(self) -> Stack:
        """Return the stack; a new one if there is none yet or the last test has left it broken."""
        if self._stack is None or not self._stack.comes_back():
            self.end()
            self._starts += 1
            place = self._place / str(self._starts)
            place.mkdir()
            self._stack = Stack(self._python, place / "state", place, {"ingress": 2}).up()
        return self._stack

    def end(self) -> None:
        """Kill what runs."""
        if self._stack is not None:
            self._stack.kill()


@pytest.fixture(scope="session")
def shared_stack(wheel_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Yield the keeper of the stack that tests share."""
    shared = Shared(wheel_python, tmp_path_factory.mktemp("shared"))
    yield shared
    shared.end()


@pytest.fixture
def stack(shared_stack: Shared) -> Iterator[Stack]:
    """Yield a running stack of two replicas, which other tests use before and after.

    Whatever its policy is: apply one of your own, for an organisation of your own (`org`), before you rely on it.
    """
    stack = shared_stack.running()
    yield stack
    stack.hang_up()


@pytest.fixture
def org() -> str:
    """Return the name of an organisation that no other test has: rows, keys and spend under it are this test's."""
    return f"org-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def trace_file() -> Path:
    """Return the real trace to replay, or skip loudly: it is not part of the project."""
    path = Path(os.environ.get("TOLLWAY_TRACE", ROOT.parent / "shared" / "data" / "azure_llm_code_2023.csv"))
    if not path.exists():
        pytest.skip("no trace: set TOLLWAY_TRACE to azure_llm_code_2023.csv (Azure LLM inference trace 2023)")
    return path
