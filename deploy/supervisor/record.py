"""What a running deployment writes down about itself, and which installation of ours it runs from."""

from __future__ import annotations

import contextlib
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.supervisor.plan import Layout


def run_record(
    layout: Layout, ready: Mapping[str, Any], pids: Mapping[str, int], is_ready: bool, simulated: bool
) -> dict[str, Any]:
    """Return the content of `run.json`: addresses, token, process ids by role."""
    return {
        **ready,
        "version": version(),
        "supervisor": os.getpid(),
        "ready": is_ready,
        "token": layout.token,
        "api": layout.url("enforcer"),
        "history": layout.url("history"),
        "ingress": [layout.url(role) for role in layout.replicas],
        "broker": layout.kafka.bootstrap,
        "kafka": layout.kafka.model_dump(mode="json", exclude={"sasl_password"}),
        "state": str(layout.state.root),
        "urls": {role: layout.url(role) for role in layout.ports if role not in ("broker", *layout.retired)},
        "simulated": simulated,
        "pids": dict(pids),
    }


def version() -> str:
    """Return the installed version of Tollway, `source` where it runs without being installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("tollway")
    return "source"


def package_path() -> str:
    """Return the directory that holds our packages if it is not one that every process looks into."""
    root = Path(__file__).resolve().parents[2]
    installed = {Path(path).resolve() for path in [sysconfig.get_path("purelib"), *site.getsitepackages()]}
    return "" if root in installed else str(root)


def command_name() -> str:
    """Return how `tollway` is typed in the shell that started this process."""
    beside = Path(sys.executable).with_name("tollway")
    found = shutil.which("tollway")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "tollway"
    if not beside.exists():
        return f"{sys.executable} -m deploy.cli"
    here = Path.cwd()
    return str(beside.relative_to(here)) if beside.is_relative_to(here) else str(beside)
