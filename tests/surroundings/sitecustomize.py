"""Gives the processes of a deployment under test clocks of their own, and one of them another way to the broker.

A test cannot set the clock of a machine, nor unplug one process of it. Python runs this module at the start of each
process that finds it on its path: wall clocks are then the system's plus what a file says, and the address of the
broker is that of a proxy if there is one. Everything else of the process is as in production.

`TOLLWAY_TEST_SURROUNDINGS` names a directory that holds, by role (`ingress-2`, `meter`, …):

* `ROLE.clock`: nanoseconds that its clock is ahead, as eight bytes, signed, little-endian; may change at any time;
* `ROLE.port`: the port of a proxy; the broker's own address is then left in `broker` for the proxy;
* `ROLE.crash`: places of `schemas.crash_points`, a line each; every process of the role takes the first away.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

_OFFSET = struct.Struct("<q")
_ROLES = ("METER", "HISTORY", "ENFORCER")


def _role() -> str:
    """Return the role of this process; empty for none that has surroundings."""
    instance = os.environ.get("TOLLWAY_INGRESS_INSTANCE", "")
    return instance or next((name.lower() for name in _ROLES if f"TOLLWAY_{name}_PORT" in os.environ), "")


def _set_clock(file: Path) -> None:
    with file.open("rb") as opened:
        shared = mmap.mmap(opened.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + int(_OFFSET.unpack_from(shared)[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def _go_by(port: str, place: Path) -> None:
    name = "TOLLWAY_INGRESS_KAFKA__BOOTSTRAP"
    (place / "broker").write_text(os.environ[name])
    os.environ[name] = f"127.0.0.1:{port}"


def _surround(place: Path, role: str) -> None:
    clock, port, crash = place / f"{role}.clock", place / f"{role}.port", place / f"{role}.crash"
    if clock.exists():
        _set_clock(clock)
    if port.exists():
        _go_by(port.read_text(), place)
    if crash.exists() and (points := crash.read_text().splitlines()):
        os.environ["TOLLWAY_CRASH_AT"] = points.pop(0)
        crash.write_text("".join(f"{point}\n" for point in points))


if role := _role():
    _surround(Path(os.environ["TOLLWAY_TEST_SURROUNDINGS"]), role)
