"""What a start decides: which policy, which key, when a process is ready, and when to give up."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from deploy.api import Api
from deploy.supervisor import banner, bootstrap, ready
from deploy.supervisor.child import Spec
from deploy.supervisor.fetch import fetch_artifacts
from deploy.supervisor.files import StateDir
from deploy.supervisor.supervisor import Supervisor
from schemas.errors import ConfigError, TransportError
from schemas.policy_file import load_policy
from tests.fixtures.fake_service import FakeService

IN_FORCE = {"version": 4, "document": "x: 1\n"}


def test_the_example_is_valid_priced_and_simulated() -> None:
    """The bundled example needs no account and names a model for the examples to paste."""
    policy = load_policy(bootstrap.example_policy())
    assert bootstrap.uses_simulator(bootstrap.example_policy())
    assert banner.chat_model(policy) == "gpt-4o-mini"
    assert bootstrap.first_owner(policy) == {"org": "acme", "project": "chat", "team": "search", "user": "ada"}
    assert {provider.protocol for provider in policy.providers.values()} == {"openai", "anthropic"}


def test_one_edit_names_a_real_provider() -> None:
    """Taking the comment signs off is all that it takes."""
    text = bootstrap.example_policy()
    text = text.replace("    base_url: simulated\n", "", 1).replace(
        "    # base_url: https://api.openai", "    base_url: https://api.openai"
    )
    text = text.replace("    # credential: env:OPENAI", "    credential: env:OPENAI")
    provider = load_policy(text).providers["openai"]
    assert (provider.base_url, provider.credential) == ("https://api.openai.com/v1", "env:OPENAI_API_KEY")


def test_a_first_start_applies_the_example(service: FakeService) -> None:
    """Nothing in force and nothing given: the example."""
    service.answers["POST /v1/policy"] = (200, {"version": 1})
    with Api("enforcer", service.url) as api, pytest.raises(ConfigError):  # this service never has it in force
        bootstrap.ensure_policy(api, None, "example policy")
    assert [(method, body and body["document"]) for method, _, body, _ in service.asked] == [
        ("GET", None), ("POST", bootstrap.example_policy()), ("GET", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("given", "applied"), [(None, False), ("x: 1\n", False), ("x: 2\n", True)])
def test_what_is_in_force_stays_unless_another_is_given(service: FakeService, given: str | None, applied: bool) -> None:
    """A later start applies a given document only if it differs."""
    service.answers["GET /v1/policy"] = (200, IN_FORCE)
    service.answers["POST /v1/policy"] = (200, {"version": 5})
    with Api("enforcer", service.url) as api:
        assert bootstrap.ensure_policy(api, given, "policy.yaml") == (IN_FORCE, applied)
    assert [body["document"] for method, _, body, _ in service.asked if method == "POST"] == (
        [given] if applied else []
    )


def test_a_refused_policy_names_its_file(service: FakeService) -> None:
    """The service knows a document, the person a file."""
    service.answers["GET /v1/policy"] = (200, IN_FORCE)
    service.answers["POST /v1/policy"] = (422, {"error": {"message": "no", "problems": ["models.x.price: 1: wrong"]}})
    with Api("enforcer", service.url) as api, pytest.raises(ConfigError, match=r"^policy\.yaml: models\.x\.price"):
        bootstrap.ensure_policy(api, "x: 2\n", "policy.yaml")


def test_the_demo_key_is_made_once_and_kept(service: FakeService, tmp_path: Path) -> None:
    """A later start prints the same secret; it is for the owner's eyes alone."""
    service.answers["GET /v1/keys"] = (200, {"keys": []})
    service.answers["POST /v1/keys"] = (200, {"key": {"id": "key_1"}, "secret": "tw-demo"})
    state, document = StateDir(tmp_path), bootstrap.example_policy()
    with Api("enforcer", service.url) as api:
        assert bootstrap.ensure_key(api, state, document) == "tw-demo"
        assert (tmp_path / "demo-key.json").stat().st_mode & 0o777 == 0o600
        service.answers["GET /v1/keys"] = (200, {"keys": [{"id": "key_1"}]})
        del service.answers["POST /v1/keys"]
        assert bootstrap.ensure_key(api, state, document) == "tw-demo"
        service.answers["GET /v1/keys"] = (200, {"keys": [{"id": "key_1", "revoked_ms": 5}]})
        assert bootstrap.ensure_key(api, state, document) is None, "a revoked key is not made anew behind one's back"


def test_the_banner_can_be_pasted(tmp_path: Path) -> None:
    """Addresses, key, curl and SDK examples; a simulated provider is said to be one."""
    answer = {"ingress": ["http://127.0.0.1:8700"], "api": "a", "history": "h", "broker": "b", "state": str(tmp_path),
              "key": "tw-demo", "ready_s": 4.2}  # fmt: skip
    text = banner.ready_text(answer, True, "gpt-4o-mini", 1, "tollway", " --state /x")
    lines = text.splitlines()
    assert "curl -s http://127.0.0.1:8700/v1/chat/completions -H 'Authorization: Bearer tw-demo'" in text
    begin = lines.index("from openai import OpenAI")
    compile("\n".join(lines[begin : begin + 4]), "example", "exec")
    body = text.partition("-d '")[2].partition("'")[0]
    assert json.loads(body)["model"] == "gpt-4o-mini"
    assert "tollway verify --state /x" in lines
    assert "simulated" in text
    assert "simulated" not in banner.ready_text({**answer, "key": None}, False, None, 1, "tollway", "")


async def test_artifacts_that_cannot_be_had_end_a_start_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """The progress is passed on line by line, and the fault says what failed and what to do about it."""
    monkeypatch.setenv("TOLLWAY_CACHE", str(tmp_path))
    environment = {**os.environ, "TOLLWAY_MAVEN_URL": f"http://127.0.0.1:{unused_tcp_port}"}
    spec = Spec("broker", (sys.executable,), environment, tmp_path / "broker.log", 5.0)
    said: list[str] = []
    with pytest.raises(TransportError, match=r"cannot download .*--broker HOST:PORT"):
        await fetch_artifacts(spec, said.append)
    assert said[0].startswith("downloading 46 artifacts")


async def test_a_warm_process_does_nothing_but_import_until_the_gate_opens(tmp_path: Path) -> None:
    """What is imported ahead runs at once; the module runs when the writing end is closed, with its arguments."""
    (tmp_path / "ahead.py").write_text("print('warm', flush=True)")
    (tmp_path / "late.py").write_text("import sys; print(__name__, sys.argv[1:], flush=True)")
    program = "from deploy.supervisor import warm; warm.MODULES['late'] = 'ahead'; warm.main()"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"}
    reading, gate = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "late", "--check", stdin=reading, stdout=asyncio.subprocess.PIPE, env=environment
    )
    os.close(reading)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"warm\n"
    assert process.returncode is None
    os.close(gate)
    assert await process.stdout.read() == b"__main__ ['--check']\n"
    assert await process.wait() == 0


async def _never() -> ready.Answer:
    return False, "tables"


async def test_a_wrong_configuration_ends_a_start_at_once(tmp_path: Path) -> None:
    """Exit code 2 of a process is bad input of the deployment, with the process's own words."""
    with pytest.raises(ConfigError, match="meter: kafka: wrong"):
        await _start(tmp_path, "import sys; print('kafka: wrong', flush=True); sys.exit(2)")


def test_problems_are_taken_out_of_log_lines() -> None:
    """People read the problem, not the log entry around it."""
    lines = ['{"event": "up"}', '{"event": "cannot start", "problems": ["a: b", "c: d"]}', "plain", "[1]"]
    assert ready.problems_in(lines) == ["a: b", "c: d"]
    assert ready.problems_in(lines[2:]) == ["plain", "[1]"]


async def test_a_process_that_keeps_dying_ends_a_start(tmp_path: Path) -> None:
    """Nobody waits for two minutes for what never works."""
    with pytest.raises(TransportError, match=r"meter died 3 times while starting; its log is .*meter\.log"):
        await _start(tmp_path, "raise SystemExit(1)")


async def test_a_process_that_never_gets_ready_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    """The deadline names role, reason and log."""
    with pytest.raises(TransportError, match=r"meter is not ready after 0\.2 s \(tables\)"):
        await _start(tmp_path, "import time; time.sleep(600)", deadline_s=0.2)


async def _start(place: Path, program: str, deadline_s: float = 60) -> None:
    supervisor = Supervisor(place, lambda line: None, lambda: None)
    force = asyncio.Event()
    force.set()
    spec = Spec("meter", (sys.executable, "-c", program), dict(os.environ), place / "meter.log", 5.0)
    try:
        child = await supervisor.start(spec)
        await ready.until_ready(child, _never, lambda role, missing: None, deadline_s)
    finally:
        await supervisor.stop(force)
