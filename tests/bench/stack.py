"""The processes that benchmarks compare: upstream, pass-through, nginx proxy and a whole Tollway, on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "An answer of a fixed length, the same for everyone. " * 3},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 19,
            "completion_tokens": 21,
            "total_tokens": 40,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }
)

_NGINX = """
worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  {servers}
}}
"""

_LIMITS = ("org", "project", "team", "user", "key")
"""Ten limit rows and five budget rows: the fifteen of the published figure."""


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, seconds: float = 30.0) -> None:
    """Return when `url` answers with any HTTP status; TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - loopback
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"{url} did not answer within {seconds:g} s")


@contextlib.contextmanager
def child(*command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for the time of the block; it is stopped by its id, first politely."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[Any], seconds: float = 60.0) -> None:
    """End a process that this benchmark started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def nginx(directory: Path, servers: str, port: int) -> Iterator[int]:
    """Run nginx with `servers`; yields its pid."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(dir=directory, servers=servers))
    with child(shutil.which("nginx") or "nginx", "-p", str(directory), "-c", str(config)) as process:
        wait_for(f"http://127.0.0.1:{port}/")
        yield process.pid


def answering(port: int) -> str:
    """Return the nginx server that answers every request from memory."""
    return (
        f"server {{ listen 127.0.0.1:{port} backlog=4096; default_type application/json; client_max_body_size 10m; "
        f"location / {{ return 200 '{ANSWER}'; }} }}"
    )


def proxying(port: int, upstream: int) -> str:
    """Return the nginx server that proxies every request to `upstream`."""
    return (
        f"upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }} "
        f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://up; "
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } }'
    )


@dataclass
class Tollway:
    """A running deployment."""

    ready: dict[str, Any]
    key: str

    @property
    def ingress(self) -> list[str]:
        """URLs of the ingress replicas."""
        urls: list[str] = self.ready["ingress"]
        return urls

    def pid(self, role: str) -> int:
        """Return the process id of a role."""
        return int(self.ready["pids"][role])


def policy(upstream: str) -> str:
    """Return a policy whose fifteen rows never refuse."""
    limits = "\n".join(
        f"  - {{name: limit-{per}, per: [{per}], rpm: 1_000_000_000, tpm: 1_000_000_000_000}}" for per in _LIMITS
    )
    budgets = "\n".join(
        f"  - {{name: budget-{per}, per: [{per}], amount: 900_000 USD, period: month}}" for per in _LIMITS
    )
    return f"""
version: 1
orgs:
  acme: {{projects: [chat], teams: [search], users: [ada]}}
providers:
  upstream: {{protocol: openai, base_url: "{upstream}"}}
models:
  gpt-4o-mini: {{provider: upstream, price: {{input: 0.15, output: 0.60}}}}
limits:
{limits}
budgets:
{budgets}
"""


@contextlib.contextmanager
def tollway(state: Path, upstream: str, *, replicas: int = 1) -> Iterator[Tollway]:
    """Run `tollway up` with the benchmark's policy until the end of the block."""
    document = state.parent / "bench-policy.yaml"
    document.write_text(policy(upstream))
    process, ready = start(state, document, replicas)
    try:
        yield Tollway(ready, issue_key(state))
    finally:
        stop(process)


def start(state: Path, document: Path, replicas: int) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start `tollway up --json` and return it with the line it prints when ready."""
    command = [sys.executable, "-m", "deploy.cli", "up", "--json", "--state", str(state), "--policy", str(document)]
    command += ["--ingress", str(replicas), "--port", str(free_port())]
    with (state.parent / "up.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"tollway up ended with {process.wait()}: {(state.parent / 'up.log').read_text()[-2000:]}")
    return process, json.loads(line)


def issue_key(state: Path) -> str:
    """Return the secret of a new virtual key."""
    command = [sys.executable, "-m", "deploy.cli", "keys", "create", "--state", str(state), "--json"]
    command += ["--org", "acme", "--project", "chat", "--team", "search", "--user", "ada", "--name", "bench"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    secret: str = json.loads(done.stdout)["secret"]
    return secret
