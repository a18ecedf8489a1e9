"""The supervisor with real processes: tiny Python programs that live, die and refuse to die."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from deploy.supervisor.child import Exit, Spec
from deploy.supervisor.spawn import belongs, kill_leftovers
from deploy.supervisor.supervisor import Supervisor

LIVES = "import time; print('up', flush=True); time.sleep(600)"
CRASHES = "import sys; print('about to crash', flush=True); sys.exit(3)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
NOTES_ITS_END = """
import signal, sys, time
def end(*_):
    with open({file!r}, "a") as file:
        file.write({role!r} + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(600)
"""


class Bench:
    """A supervisor, what it said, and programs to run under it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.said: list[str] = []
        self.pids: list[dict[str, int]] = []
        self.news = asyncio.Event()
        self.supervisor = Supervisor(place, self._say, self._changed)
        self.force = asyncio.Event()

    def _say(self, line: str) -> None:
        self.said.append(line)
        self.news.set()

    def _changed(self) -> None:
        self.pids.append(self.supervisor.pids)
        self.news.set()

    async def start(self, role: str, program: str, stop_s: float = 10.0) -> None:
        """Run a program under `role`."""
        command = (sys.executable, "-c", program)
        await self.supervisor.start(Spec(role, command, dict(os.environ), self.log(role), stop_s))

    def log(self, role: str) -> Path:
        """Return the log of a role."""
        return self.place / "logs" / f"{role}.log"

    async def until(self, check: Callable[[], bool]) -> None:
        """Return when `check` holds, asked after all news and now and then."""
        async with asyncio.timeout(15):
            while not check():
                self.news.clear()
                try:
                    await asyncio.wait_for(self.news.wait(), 0.02)
                except TimeoutError:
                    continue

    async def up(self, role: str) -> int:
        """Return the process id of a role once its program runs."""
        await self.until(lambda: self.log(role).exists() and "up" in self.log(role).read_text())
        return self.supervisor.pids[role]


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Yield a supervisor whose processes are gone afterwards."""
    bench = Bench(tmp_path)
    yield bench
    bench.force.set()
    await bench.supervisor.stop(bench.force)


async def test_a_killed_process_is_started_again_and_said_so(bench: Bench) -> None:
    """The line names role, process, signal and the pause; the new process has another id."""
    await bench.start("meter", LIVES)
    first = await bench.up("meter")
    os.kill(first, signal.SIGKILL)
    await bench.until(lambda: bench.supervisor.pids["meter"] not in (0, first))
    assert any(re.fullmatch(rf"meter \(pid {first}\) died with signal SIGKILL; next try in 0\.2 s", line)
               for line in bench.said)  # fmt: skip
    assert {"meter": 0} in bench.pids, "between the two processes there is none"


async def test_a_crash_shows_its_last_words_and_pauses_grow(bench: Bench) -> None:
    """Exit code and log tail are shown; each death in a row doubles the pause."""
    await bench.start("history", CRASHES)
    await bench.until(lambda: sum("died with exit code 3" in line for line in bench.said) >= 3)
    assert "  history | about to crash" in bench.said
    pauses = [line.rpartition("next try in ")[2] for line in bench.said if "next try" in line]
    assert pauses[:3] == ["0.2 s", "0.4 s", "0.8 s"]


async def test_a_crash_does_not_repeat_the_words_of_an_earlier_one(bench: Bench) -> None:
    """The tail shows what was written since the last start, not since the first."""
    await bench.start("meter", CRASHES)
    await bench.until(lambda: sum("died" in line for line in bench.said) >= 2)
    reports = "\n".join(bench.said).split("died")[1:3]
    assert [report.count("about to crash") for report in reports] == [1, 1]


async def test_stop_ends_groups_in_order(bench: Bench, tmp_path: Path) -> None:
    """Ingress goes first, then enforcer and meter, then history, the broker last."""
    ends = tmp_path / "ends"
    roles = ["broker", "history", "meter", "enforcer", "ingress-1", "ingress-2"]
    for role in roles:
        await bench.start(role, NOTES_ITS_END.format(file=str(ends), role=role))
    for role in roles:
        await bench.up(role)
    await bench.supervisor.stop(bench.force)
    order = ends.read_text().split()
    assert sorted(order[:2]) == ["ingress-1", "ingress-2"]
    assert sorted(order[2:4]) == ["enforcer", "meter"]
    assert order[4:] == ["history", "broker"]
    assert bench.supervisor.pids == {}
    assert not any("died" in line for line in bench.said), "an end that was asked for is no death"


async def test_a_process_that_ignores_the_signal_is_killed_at_its_deadline(bench: Bench) -> None:
    """A stop never hangs; the line says why the process was killed."""
    await bench.start("meter", STUBBORN, stop_s=0.2)
    await bench.up("meter")
    await bench.supervisor.stop(bench.force)
    assert any("killed: it did not end within 0.2 s" in line for line in bench.said)


async def test_force_kills_at_once(bench: Bench) -> None:
    """A second Ctrl-C does not wait for the deadline."""
    await bench.start("meter", STUBBORN, stop_s=600)
    await bench.up("meter")
    stopping = asyncio.create_task(bench.supervisor.stop(bench.force), name="stop")
    await bench.until(lambda: "stopping meter" in bench.said)
    bench.force.set()
    await asyncio.wait_for(stopping, 10)
    assert any("killed: forced" in line for line in bench.said)


async def test_stop_during_a_pause_does_not_start_the_process_again(bench: Bench) -> None:
    """Who is waiting to be started again is simply not."""
    await bench.start("meter", CRASHES)
    await bench.until(lambda: any("next try in 0.8 s" in line for line in bench.said))
    await bench.supervisor.stop(bench.force)
    assert "meter" not in bench.supervisor.pids
    assert bench.pids[-1] in ({}, {"meter": 0})


async def test_a_program_that_is_missing_for_a_while_is_tried_again(bench: Bench, tmp_path: Path) -> None:
    """An upgrade that swaps the interpreter, or a system short of processes, does not end the supervision."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    await bench.supervisor.start(Spec("meter", (str(python), "-c", LIVES), dict(os.environ), bench.log("meter"), 5.0))
    first = await bench.up("meter")
    python.unlink()
    os.kill(first, signal.SIGKILL)
    await bench.until(lambda: any("meter cannot be started: No such file" in line for line in bench.said))
    python.symlink_to(sys.executable)
    await bench.until(lambda: bench.supervisor.pids["meter"] not in (0, first))


async def test_output_of_a_process_goes_to_its_log(bench: Bench) -> None:
    """Standard output and standard error are kept, for the owner alone."""
    await bench.start("meter", "import sys; print('up', flush=True); print('fault', file=sys.stderr); " + LIVES)
    await bench.up("meter")
    await bench.until(lambda: "fault" in bench.log("meter").read_text())
    assert bench.log("meter").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
async def test_a_killed_supervisor_takes_its_processes_with_it(tmp_path: Path) -> None:
    """After kill −9 of the supervisor no process is left, with nobody there to stop it."""
    program = f"""
import asyncio, os, sys
from pathlib import Path
from deploy.supervisor.child import Spec
from deploy.supervisor.supervisor import Supervisor
async def main():
    place = Path({str(tmp_path)!r})
    supervisor = Supervisor(place, lambda line: None, lambda: None)
    await supervisor.start(Spec("meter", (sys.executable, "-c", {LIVES!r}), dict(os.environ), place / "log", 5.0))
    print(supervisor.pids["meter"], flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    pid = int(await owner.stdout.readline())
    assert belongs(pid, tmp_path)
    owner.kill()
    await owner.wait()
    async with asyncio.timeout(10):
        while belongs(pid, tmp_path):
            await asyncio.sleep(0.01)


async def test_leftovers_are_killed_only_if_they_are_ours(bench: Bench, tmp_path: Path) -> None:
    """A remembered process id that now belongs to somebody else is left alone."""
    await bench.start("meter", LIVES)
    ours = await bench.up("meter")
    stranger = await asyncio.create_subprocess_exec(sys.executable, "-c", LIVES, stdout=subprocess.DEVNULL)
    try:
        assert kill_leftovers([ours, stranger.pid, 999_999_999, 0], tmp_path) == [ours]
        assert kill_leftovers([ours, stranger.pid], tmp_path / "other") == []
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


def test_ends_are_said_in_words() -> None:
    """Exit codes and signals are told apart."""
    assert [str(Exit(code)) for code in (0, 2, -9, -64)] == [
        "exit code 0", "exit code 2", "signal SIGKILL", "signal SIGRTMAX",
    ]  # fmt: skip
