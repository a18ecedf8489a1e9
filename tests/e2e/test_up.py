"""The contract of `tollway up`: one line when ready, restarts, clean and unclean ends, clear refusals to start."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, environment, eventually, policy
from tests.fixtures.broker import Broker

pytestmark = pytest.mark.timeout(300)  # several starts of the whole stack

ROLES = {"broker", "meter", "history", "enforcer", "provider", "ingress-1", "ingress-2"}


def test_says_where_everything_is_and_keeps_it_over_a_restart(new_stack: Callable[..., Stack]) -> None:
    """The line has URLs, key and process ids; a clean stop is exit 0; the next start has the same key and ports."""
    stack = new_stack(ingress=2).up()
    first = stack.ready
    assert set(first["pids"]) == ROLES
    assert all(os.path.exists(f"/proc/{pid}") for pid in first["pids"].values())
    assert first["ingress"] == [f"http://127.0.0.1:{stack.port}", f"http://127.0.0.1:{stack.port + 1}"]
    assert first["state"] == str(stack.state)
    answer = stack.openai(first["key"]).models.list()
    assert "gpt-4o-mini" in [model.id for model in answer.data]
    for name in ("run.json", "admin-token", "demo-key.json"):
        assert stat.S_IMODE((stack.state / name).stat().st_mode) == 0o600
    status = stack.json("status")
    assert (status["pids"], status["problems"]) == (first["pids"], [])
    assert status["published"]["drain_s"] == 30
    assert stack.stop() == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in first["pids"].values())
    second = stack.up().ready
    assert {name: second[name] for name in ("key", "ingress", "api", "history", "broker")} == {
        name: first[name] for name in ("key", "ingress", "api", "history", "broker")
    }
    # The clock on the wall depends on who else uses the machine; the work does not.
    assert sum(_cpu_s(pid) for pid in second["pids"].values()) < 2 * 15, "15 s on two cores"


def test_a_killed_process_comes_back_and_a_second_start_is_refused(stack: Stack) -> None:
    """The line says role, signal and next try; a second start on the directory is exit 2 and disturbs nothing."""
    second = _up(stack, "--port", str(stack.port + 1))
    assert second.returncode == 2
    assert f"--state {stack.state}: in use by a running deployment" in second.stderr
    assert second.stdout == ""
    victim = stack.pid("enforcer")
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: f"enforcer (pid {victim}) died with signal SIGKILL; next try in" in stack.log())
    eventually(lambda: stack.pid("enforcer") not in (0, victim))
    eventually(lambda: stack.json("status")["ok"], 60)


def test_a_taken_port_is_refused_by_name(new_stack: Callable[..., Stack]) -> None:
    """Nothing is started; port, role and remedy are named, with exit code 2."""
    stack = new_stack()
    with socket.socket() as server:
        server.bind(("127.0.0.1", stack.port))
        server.listen()
        found = _up(stack, "--port", str(stack.port))
    assert found.returncode == 2
    assert f"port {stack.port} (for ingress-1) is in use on 127.0.0.1" in found.stderr
    assert "--port" in found.stderr
    assert not (stack.state / "broker").exists()


def test_a_bad_policy_is_refused_before_anything_starts(new_stack: Callable[..., Stack]) -> None:
    """Every problem with file and path, exit code 2, and no state."""
    stack = new_stack()
    file = stack.write("bad.yaml", policy("[{name: x, per: [key], rpm: -1}]"))
    found = _up(stack, "--policy", str(file))
    assert found.returncode == 2
    assert f"{file}: limits.0.rpm: -1" in found.stderr
    assert not stack.state.exists()


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nothing_in_the_way(new_stack: Callable[..., Stack]) -> None:
    """After kill −9 of the supervisor alone, the next start on the same directory and ports works."""
    stack = new_stack().up(policy())
    pids = stack.ready["pids"]
    assert stack.process is not None
    stack.process.kill()
    stack.process.communicate()
    stack.up()
    assert not set(pids.values()) & set(stack.ready["pids"].values())
    assert json.loads(stack.run("keys", "list", "--json"))
    assert stack.stop() == 0


@pytest.mark.slow
def test_usage_of_a_replica_that_is_not_started_again_is_not_lost(new_stack: Callable[..., Stack]) -> None:
    """After kill −9 of two replicas a start with one of them sends what the other had in its log."""
    stack = new_stack(ingress=2).up(policy())
    client = stack.openai(stack.key()["secret"], replica=1)
    os.kill(stack.pid("broker"), signal.SIGSTOP)  # what is told now cannot leave the replica
    for _ in range(20):
        ask = [{"role": "user", "content": "Say hello."}]
        client.chat.completions.create(model="gpt-4o-mini", messages=ask, max_tokens=20)  # type: ignore[arg-type]
    stack.kill()
    stack.options["ingress"] = 1
    stack.up()
    assert "ingress-2" not in stack.ready["pids"]
    assert stack.json("verify")["ok"] is True
    report = json.loads(stack.run("report", "spend", "--by", "org", "--format", "json"))
    assert int(report["totals"]["requests"]) == 20
    assert stack.stop() == 0


@pytest.mark.slow
def test_runs_on_a_broker_of_ones_own(new_stack: Callable[..., Stack], broker: Broker, topic_prefix: str) -> None:
    """With an address no broker is started, topics get the prefix, and everything else is the same."""
    stack = new_stack(**{"broker": broker.bootstrap, "kafka-topic-prefix": topic_prefix}).up(policy())
    assert "broker" not in stack.ready["pids"]
    assert stack.ready["broker"] == broker.bootstrap
    ask = [{"role": "user", "content": "Say hello."}]
    stack.openai(stack.ready["key"]).chat.completions.create(
        model="gpt-4o-mini", messages=ask, max_tokens=20  # type: ignore[arg-type]
    )  # fmt: skip
    assert stack.json("verify")["ok"] is True
    assert stack.json("status")["dead_letters"] == 0
    assert stack.stop() == 0


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _up(stack: Stack, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(stack.python), "-m", "deploy.cli", "up", "--json", "--state", str(stack.state), *options]
    return subprocess.run(
        command, cwd=stack.place, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
