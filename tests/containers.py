"""Whether a container engine answers, and what a test that needs one does where none does."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest

NO_ENGINE = "no container engine answers"
_PING_TIMEOUT_S = 3


@cache
def engine_answers() -> bool:
    """Tell whether a container engine answers on this machine; asked once a session.

    In a process of its own: the client leaves a socket open when nobody answers.
    """
    ask = f"import docker; docker.from_env(timeout={_PING_TIMEOUT_S}).ping()"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, check=False).returncode == 0


def need_engine() -> None:
    """Skip the test where no container engine answers; fail it where one was demanded (TOLLWAY_TEST_CONTAINERS=1)."""
    if engine_answers():
        return
    if os.environ.get("TOLLWAY_TEST_CONTAINERS") == "1":
        pytest.fail(f"TOLLWAY_TEST_CONTAINERS=1, but {NO_ENGINE}: start one, or unset it")
    pytest.skip(f"{NO_ENGINE}: set TOLLWAY_TEST_CONTAINERS=1 to demand one")
