"""`python -m tests.wheel DIST`: what the built wheel and sdist hold, and that the wheel alone gives a working command.

Fails on a missing package or data file, on anything of the tests, and when `tollway --help` does not run from an
environment that has nothing but the locked dependencies and the wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("deploy", "enforcer", "ingress", "meter", "schemas")
NEVER_PACKAGED = {".md", ".pyc"}
"""Endings of files beside the sources that a wheel may leave out."""


def main(dist: Path) -> int:
    """Run every check; return 0, or 1 with every fault named."""
    (wheel,) = dist.glob("tollway-*.whl")
    (sdist,) = dist.glob("tollway-*.tar.gz")
    faults = [*wheel_faults(wheel, tracked_files()), *sdist_faults(sdist)]
    faults = faults or [*command_faults(wheel)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not faults:
        print(f"{wheel.name} and {sdist.name}: packages, data files, metadata and `tollway --help` are right")
    return 1 if faults else 0


def tracked_files() -> set[str]:
    """Return every committed file of the five packages."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PACKAGES],  # noqa: S607 - git is found on the path
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def wheel_faults(wheel: Path, tracked: set[str]) -> Iterable[str]:
    """Yield what the wheel lacks, and what has no place in it."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {name for name in tracked if Path(name).suffix not in NEVER_PACKAGED}
    for package in PACKAGES:
        if not any(name.startswith(f"{package}/") and name.endswith(".py") for name in names):
            yield f"{wheel.name} lacks the package {package}"
    for name in sorted(wanted - names):
        yield f"{wheel.name} lacks {name}"
    tops = {name.split("/", 1)[0] for name in names}
    for top in sorted(tops - set(PACKAGES)):
        if not top.startswith("tollway-"):
            yield f"{wheel.name} holds {top}/: only {', '.join(PACKAGES)} belong into it"


def sdist_faults(sdist: Path) -> Iterable[str]:
    """Yield what a build from the sdist would miss."""
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.lock"):
        if name not in names:
            yield f"{sdist.name} lacks {name}"


def command_faults(wheel: Path) -> Iterable[str]:
    """Install the locked run-time dependencies and the wheel where nothing else is; yield what does not work."""
    with tempfile.TemporaryDirectory(prefix="tollway-wheel-") as scratch:
        place = Path(scratch)
        venv.create(place / "venv", with_pip=False)
        binaries = place / "venv" / "bin"
        install = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--python"]
        install.append(str(binaries / "python"))
        for arguments in (
            ["--require-hashes", "--no-deps", "-r", str(ROOT / "requirements.lock")],
            ["--no-deps", "--no-index", str(wheel)],
        ):
            if fault := _run([*install, *arguments], place):
                yield fault
                return
        for arguments in (["tollway", "--help"], ["tollway", "up", "--help"], ["tollway", "--version"]):
            if fault := _run([str(binaries / arguments[0]), *arguments[1:]], place):
                yield fault
        importing = "; ".join(f"import {package}" for package in PACKAGES)
        if fault := _run([str(binaries / "python"), "-c", importing], place):
            yield fault


def _run(command: list[str], place: Path) -> str | None:
    """Run a command away from the sources; return what went wrong, or None."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=place, env=kept, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == 0:
        return None
    return f"{' '.join(command[:3])}… ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist").resolve()))
