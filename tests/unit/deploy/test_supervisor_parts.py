"""What the supervisor decides without running anything: pauses, ports, files, commands."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from deploy.supervisor import logs, ports
from deploy.supervisor.backoff import LONGEST_S, STEADY_S, Backoff
from deploy.supervisor.files import StateDir, default_state_dir
from deploy.supervisor.plan import Layout, left_behind, spec
from schemas.connection import KafkaConnection
from schemas.errors import ConfigError

EVERYWHERE = "0.0.0.0"  # noqa: S104 - only compared here


def test_pauses_double_up_to_a_longest_and_begin_anew_after_a_steady_run() -> None:
    """A crash loop slows down; a death after a long life is a first one."""
    backoff = Backoff()
    pauses = [backoff.after(0.1) for _ in range(40)]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == LONGEST_S
    assert backoff.after(STEADY_S) == 0.2


def test_ports_are_kept_and_never_collide() -> None:
    """Remembered ports stay; one that an ingress replica needs now is chosen anew."""
    ingress = ports.ingress_ports(8700, 3)
    assert ingress == {"ingress-1": 8700, "ingress-2": 8701, "ingress-3": 8702}
    remembered = {"enforcer": 9701, "history": 8701}
    chosen = ports.internal_ports(("enforcer", "history", "meter"), remembered, ingress, lambda _: True)
    assert chosen["enforcer"] == 9701
    assert chosen["history"] == 9700
    assert len({*chosen.values(), *ingress.values()}) == 6
    again = ports.internal_ports(("enforcer", "history", "meter"), chosen, ingress, lambda _: False)
    assert again == chosen, "a restart keeps them even while something still listens there"


@pytest.mark.parametrize("first", [80, 8700, 31_900, 45_123, 65_530])
def test_internal_ports_are_away_from_those_of_outgoing_connections(first: int) -> None:
    """Wherever the replicas listen, the other ports are below the ephemeral range and free."""
    busy = {9_700, 9_701}
    chosen = ports.internal_ports(("enforcer", "history"), {}, {"ingress-1": first}, lambda port: port not in busy)
    assert all(port < ports.EPHEMERAL and port not in busy for port in chosen.values())


def test_more_replicas_than_ports_is_bad_input() -> None:
    """There is no port beyond 65535."""
    with pytest.raises(ConfigError, match="--port 65530: 8 replicas need ports up to 65537"):
        ports.ingress_ports(65_530, 8)


def test_a_taken_port_is_named_with_its_remedy() -> None:
    """The problem names port, role and what to do."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert ports.taken({"ingress-1": port}, ports.is_free) == [
            f"port {port} (for ingress-1) is in use on 127.0.0.1; stop what listens there, or name another first port "
            "with --port"
        ]
    assert ports.taken({"ingress-1": port}, ports.is_free) == []


def test_the_state_directory_is_for_one_deployment_at_a_time(tmp_path: Path) -> None:
    """A second owner is told who has it; a lock file of a dead owner is no lock."""
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    first.acquire()
    assert second.is_held()
    with pytest.raises(ConfigError, match=rf"in use by a running deployment \(pid {os.getpid()}\)"):
        second.acquire()
    first.release()
    assert (tmp_path / "lock").exists()
    assert not second.is_held()
    second.acquire()
    second.release()


def test_a_state_directory_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    """The fault names the directory and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--state .*file/state: Not a directory"):
        StateDir(tmp_path / "file" / "state").acquire()


def test_secrets_are_made_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    """The admin token stays the same and has mode 0600, as has everything written."""
    state = StateDir(tmp_path)
    token = state.admin_token()
    assert len(token) >= 43
    assert StateDir(tmp_path).admin_token() == token
    state.write("run.json", {"token": token})
    assert state.read("run.json") == {"token": token}
    assert state.read("nothing.json") == {}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """JSON that is none is a fault with the file's name and the remedy."""
    (tmp_path / "ports.json").write_text("{")
    with pytest.raises(ConfigError, match=r"ports\.json: not JSON .*remove it"):
        StateDir(tmp_path).read("ports.json")


def test_the_default_state_directory_follows_the_environment() -> None:
    """TOLLWAY_STATE, else XDG, else below home."""
    assert default_state_dir({"TOLLWAY_STATE": "/a"}) == Path("/a")
    assert default_state_dir({"XDG_STATE_HOME": "/b"}) == Path("/b/tollway")
    assert default_state_dir({}) == Path.home() / ".local" / "state" / "tollway"


def test_logs_rotate_when_they_have_grown(tmp_path: Path) -> None:
    """A start moves a large log aside and keeps a few; a small one is appended to."""
    log = tmp_path / "logs" / "meter.log"
    for text in (b"one", b"two", b"three", b"four", b"five"):
        descriptor = logs.open_log(log, rotate_bytes=3)
        os.write(descriptor, text)
        os.close(descriptor)
    assert {path.name: path.read_text() for path in log.parent.iterdir()} == {
        "meter.log": "five", "meter.log.1": "four", "meter.log.2": "three", "meter.log.3": "onetwo",
    }  # fmt: skip


def test_the_tail_is_what_was_written_since(tmp_path: Path) -> None:
    """Lines before the mark, blank ones and those beyond the count are left out."""
    log = tmp_path / "x.log"
    log.write_text("old\n")
    mark = logs.size(log)
    with log.open("a") as file:
        file.write("one\n\ntwo\nthree\n")
    assert logs.tail(log, mark, 2) == ["two", "three"]
    assert logs.tail(log, mark) == ["one", "two", "three"]
    log.write_text("x\n")
    assert logs.tail(log, mark) == ["x"], "a file that was replaced is read from its beginning"
    assert logs.tail(tmp_path / "none") == []


def layout(tmp_path: Path, **changes: object) -> Layout:
    """Return a layout of two replicas with `changes`."""
    kafka = KafkaConnection.model_validate(
        {"bootstrap": "k:9", "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "u",
         "sasl_password": "hush", "partitions": 8}
    )  # fmt: skip
    ports_ = {"ingress-1": 8700, "ingress-2": 8701, "enforcer": 1, "history": 2, "meter": 3, "provider": 4, "broker": 5}
    values: dict[str, object] = {
        "state": StateDir(tmp_path), "kafka": kafka, "clickhouse": "embedded", "ports": ports_, "host": EVERYWHERE,
        "token": "token", "python": "python", "environment": {"KEPT": "1"}, **changes,
    }  # fmt: skip
    return Layout(**values)  # type: ignore[arg-type]  # put together from a dict


def test_each_process_is_told_what_it_needs_and_no_more(tmp_path: Path) -> None:
    """Commands and environments by role: secrets go to those who need them and never to a command line."""
    found = {role: spec(layout(tmp_path), role) for role in layout(tmp_path).ports}
    assert found["history"].command == ("python", "-m", "meter.sink")
    assert found["ingress-2"].command == ("python", "-m", "ingress")
    ingress = found["ingress-2"].environment
    assert ingress["TOLLWAY_INGRESS_INSTANCE"] == "ingress-2"
    assert ingress["TOLLWAY_INGRESS_PORT"] == "8701"
    assert ingress["TOLLWAY_INGRESS_HOST"] == EVERYWHERE
    assert ingress["TOLLWAY_INGRESS_SIMULATED_URL"] == "http://127.0.0.1:4/v1"
    assert ingress["TOLLWAY_INGRESS_KAFKA__SASL_PASSWORD"] == "hush"
    assert ingress["TOLLWAY_INGRESS_KAFKA__PARTITIONS"] == "8"
    assert ingress["KEPT"] == "1"
    assert found["meter"].environment["TOLLWAY_METER_HOST"] == "127.0.0.1"
    assert found["enforcer"].environment["TOLLWAY_ENFORCER_ADMIN_TOKEN"] == "token"
    assert not any("token" in value for value in ingress.values())
    assert not any("hush" in part for item in found.values() for part in item.command)
    assert "hush" not in repr(found)


def test_urls_are_ones_that_this_machine_can_ask(tmp_path: Path) -> None:
    """A replica that listens everywhere is asked on the loopback interface."""
    assert layout(tmp_path).url("ingress-1") == "http://127.0.0.1:8700"
    assert layout(tmp_path, host="10.1.2.3").url("ingress-2") == "http://10.1.2.3:8701"
    assert layout(tmp_path, host="10.1.2.3").url("enforcer") == "http://127.0.0.1:1"


def test_logs_of_replicas_that_are_not_started_again_are_found(tmp_path: Path) -> None:
    """Only logs with something in them, and only of replicas that are not there anyway."""
    for role, size in (("ingress-1", 9), ("ingress-2", 9), ("ingress-3", 0), ("ingress-10", 9)):
        wal = tmp_path / "ingress" / role / "wal"
        wal.mkdir(parents=True)
        (wal / "1-1.wal").write_bytes(b"x" * size)
    assert left_behind(StateDir(tmp_path), {"ingress-1": 1}) == ("ingress-10", "ingress-2")
    assert left_behind(StateDir(tmp_path / "new"), {"ingress-1": 1}) == ()


def test_a_retired_replica_serves_nobody(tmp_path: Path) -> None:
    """It has a port for its status, and is in no list of replicas."""
    found = layout(tmp_path, retired=("ingress-2",))
    assert found.replicas == ["ingress-1"]
    assert spec(found, "ingress-2").environment["TOLLWAY_INGRESS_INSTANCE"] == "ingress-2"


def test_remembered_ports_are_plain_json(tmp_path: Path) -> None:
    """The file that the remedy of a taken port names can be read and removed by a person."""
    StateDir(tmp_path).write("ports.json", {"meter": 9702})
    assert json.loads((tmp_path / "ports.json").read_text()) == {"meter": 9702}
