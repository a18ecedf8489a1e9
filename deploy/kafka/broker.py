"""Turns the current process into the embedded broker: prepares its directory, then executes Java in its own place.

Everything of one broker is under `STATE/broker`: `data` (the log), `ports.json`, `cluster.id`, generated configuration,
`broker.log`, and `lock`, which is held for as long as the broker lives, its Java included.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from deploy.kafka import artifacts, config

_PR_SET_PDEATHSIG = 1
_LOG_KEPT_BYTES = 4 << 20
_FORMAT_DEADLINE_S = 60
LOCK_DEADLINE_S = 5.0
"""How long a start waits for the broker before it, which may be ending just now."""


class BrokerError(Exception):
    """The broker cannot be started, with what to do about it."""


@dataclass(frozen=True)
class BrokerFiles:
    """Where the files of the broker under one state directory are."""

    state_dir: Path

    @property
    def root(self) -> Path:
        """Return the directory that holds everything of the broker."""
        return self.state_dir / "broker"

    @property
    def data(self) -> Path:
        """Return Kafka's log directory."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        """Return the file with Kafka's own warnings."""
        return self.root / "broker.log"

    @property
    def ports(self) -> Path:
        """Return the file that remembers the ports from one start to the next."""
        return self.root / "ports.json"


def run(
    state_dir: Path, port: int | None, die_with_parent: bool = True, lock_deadline_s: float = LOCK_DEADLINE_S,
    doors: Sequence[config.Door] = (),
) -> NoReturn:  # fmt: skip
    """Prepare `state_dir` and become the broker: same process id, Java in place of Python.

    With `die_with_parent` the kernel kills the broker when the thread that started it ends, however it ends. `doors`
    are further listeners.

    Raises:
        BrokerError: another broker uses the directory, the port is taken, the log directory cannot be formatted.
        ArtifactError: an artifact cannot be had.
    """
    if die_with_parent:
        _die_with_parent()
    files = BrokerFiles(state_dir.resolve())
    files.root.mkdir(parents=True, exist_ok=True)
    _hold_lock(files, lock_deadline_s)
    jars = artifacts.ensure_jars(artifacts.load_lock(), artifacts.cache_dir())
    broker_port, controller_port = _choose_ports(files, port)
    log4j = files.root / "log4j2.properties"
    _write(log4j, config.log4j_properties())
    tmp_dir = files.root / "tmp"
    shutil.rmtree(tmp_dir, ignore_errors=True)  # native libraries of earlier starts
    tmp_dir.mkdir()
    if not files.data.exists():
        _format(files, jars, log4j, (broker_port, controller_port))
    properties = files.root / "server.properties"
    _write(properties, config.server_properties(files.data, broker_port, controller_port, doors))
    _redirect_output(files.log)
    command = config.java_command("kafka.Kafka", [str(properties)], jars, log4j, tmp_dir)
    os.execve(command[0], command, _environment())


def port_of(state_dir: Path, pid: int) -> int | None:
    """Return the port that process `pid` has chosen as the broker of `state_dir`, None while it has not."""
    try:
        ports = json.loads(BrokerFiles(state_dir.resolve()).ports.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return int(ports["broker"]) if ports["pid"] == pid else None


def _die_with_parent() -> None:
    if sys.platform != "linux":
        return  # the owner stops it; only a killed owner leaves it behind
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise BrokerError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the kernel knew
        raise BrokerError("the process that started the broker is gone")


def _hold_lock(files: BrokerFiles, deadline_s: float) -> None:
    """Take the directory's lock for the life of this process, Java included: the descriptor survives the exec."""
    descriptor = os.open(files.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 32, 0).decode().strip()
                raise BrokerError(
                    f"{files.root} is in use by a running broker (pid {holder or 'unknown'}): "
                    "stop that one, or name another state directory with --state"
                ) from None
            time.sleep(0.05)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    os.set_inheritable(descriptor, True)


def _choose_ports(files: BrokerFiles, port: int | None) -> tuple[int, int]:
    """Return (broker, controller) ports: the given one, else those of the last start where free, else free ones."""
    remembered = json.loads(files.ports.read_text(encoding="utf-8")) if files.ports.exists() else {}
    if port is not None and not _is_free(port):
        raise BrokerError(f"port {port} is in use on 127.0.0.1: choose another, or none to have a free one chosen")
    broker_port = port or _free_port(remembered.get("broker"))
    controller_port = _free_port(remembered.get("controller"), unlike=broker_port)
    _write(files.ports, json.dumps({"pid": os.getpid(), "broker": broker_port, "controller": controller_port}))
    return broker_port, controller_port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: TIME_WAIT is no occupation
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port(wanted: int | None, unlike: int | None = None) -> int:
    if wanted is not None and wanted != unlike and _is_free(wanted):
        return wanted
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port != unlike:
            return port


def _format(files: BrokerFiles, jars: Sequence[Path], log4j: Path, ports: tuple[int, int]) -> None:
    """Format Kafka's log directory once; it appears under its name only when it is whole."""
    identity = files.root / "cluster.id"
    if not identity.exists():
        _write(identity, new_cluster_id())
    unfinished = files.root / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    properties = files.root / "format.properties"
    _write(properties, config.server_properties(unfinished, *ports))
    arguments = ["format", "-t", identity.read_text(encoding="utf-8"), "-c", str(properties)]
    command = config.java_command("kafka.tools.StorageTool", arguments, jars, log4j, files.root / "tmp")
    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, timeout=_FORMAT_DEADLINE_S, check=False
    )
    if done.returncode != 0:
        raise BrokerError(f"cannot format {files.data}: {(done.stderr or done.stdout).strip()[-2000:]}")
    unfinished.rename(files.data)
    properties.unlink()


def new_cluster_id() -> str:
    """Return a random UUID as Kafka writes one: 22 characters of URL-safe base64, the first no dash."""
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not cluster_id.startswith("-"):
            return cluster_id


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in config.FOREIGN_JAVA_VARIABLES}


def _redirect_output(log: Path) -> None:
    """Send standard output and error to `log`, appended to what the last start left (but never much of it)."""
    if log.exists() and log.stat().st_size > _LOG_KEPT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _write(path: Path, text: str) -> None:
    """Write a file so that it is either as it was or whole, whenever the process is killed."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
