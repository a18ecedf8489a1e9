"""A deployment under test: `tollway up` as a child process, and the commands and clients that use it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai

from deploy.supervisor.ports import is_free
from deploy.supervisor.spawn import _tie_to_parent


class Stack:
    """One state directory and, while it runs, the processes over it."""

    def __init__(self, python: Path, state: Path, place: Path, options: dict[str, object]) -> None:
        self.python, self.state, self.place, self.options = python, state, place, options
        self.port = int(str(options.get("port", free_ports(4))))
        self.surroundings: dict[str, str] = {}
        """More for the environment of what `up` starts."""
        self.ready: dict[str, Any] = {}
        self.process: subprocess.Popen[str] | None = None
        self._clients: list[openai.OpenAI | anthropic.Anthropic] = []

    def up(self, policy: str | None = None) -> Stack:
        """Start, and return when it says that it is ready."""
        command = ["up", "--json", "--state", str(self.state), "--port", str(self.port)]
        command += ["--ingress", str(self.options.get("ingress", 1))]
        for name in ("broker", "kafka-topic-prefix"):
            command += [f"--{name}", str(self.options[name])] if name in self.options else []
        if policy is not None:
            command += ["--policy", str(self.write("policy.yaml", policy))]
        with (self.place / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.python), "-m", "deploy.cli", *command],
                cwd=self.place, env=environment() | self.surroundings, stdout=subprocess.PIPE, stderr=log, text=True,
                preexec_fn=_tie_to_parent(),  # a run of tests that is killed leaves nothing running
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self._forget()
            raise AssertionError(f"tollway up ended with {code}: {self.log()[-4000:]}")
        self.ready = json.loads(line)
        return self

    def log(self) -> str:
        """Return what `tollway up` wrote to standard error."""
        return (self.place / "up.log").read_text()

    def write(self, name: str, text: str) -> Path:
        """Write a file beside the state directory and return its path."""
        path = self.place / name
        path.write_text(text)
        return path

    def stop(self) -> int:
        """Stop as Ctrl-C does, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(90)
        self._forget()
        return code

    def _forget(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def kill(self) -> None:
        """End everything at once, with kill −9 by process id."""
        pids = list(self.ready.get("pids", {}).values())
        with contextlib.suppress(Exception):
            pids = list(json.loads((self.state / "run.json").read_text())["pids"].values())
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        self._forget()

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a `tollway` command against this deployment and return its standard output."""
        done = subprocess.run(
            [str(self.python), "-m", "deploy.cli", *arguments, "--state", str(self.state)],
            cwd=self.place, env=environment(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        """Run a command with `--json` and return what it prints."""
        return json.loads(self.run(*arguments, "--json"))

    def apply(self, document: str) -> int:
        """Apply a policy; return its version when every replica works by it."""
        version = int(self.json("policy", "apply", str(self.write("applied.yaml", document)))["version"])
        eventually(lambda: all(status["policy"]["version"] >= version for status in self.replicas()))
        return version

    def replicas(self) -> list[Any]:
        """Return the status of every ingress replica."""
        return [httpx.get(f"{url}/tollway/v1/status", trust_env=False).json() for url in self.ready["ingress"]]

    def is_well(self) -> bool:
        """Tell whether everything that was started runs and is ready."""
        urls = json.loads((self.state / "run.json").read_text())["urls"]
        return all(_is_ready(url) for role, url in urls.items() if role != "provider")

    def comes_back(self) -> bool:
        """Tell whether it is well, or is again within the time in which a killed process should be back."""
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            return bool(eventually(self.is_well, 30))
        except AssertionError:
            return False

    def key(self, **attributes: str) -> dict[str, Any]:
        """Issue a virtual key and return what is printed: its id and secret."""
        wanted = {"org": "acme", "project": "chat", "team": "search", "user": "ada", "name": "test", **attributes}
        arguments = [part for name, value in wanted.items() for part in (f"--{name}", value)]
        key: dict[str, Any] = self.json("keys", "create", *arguments)
        return key

    def pid(self, role: str) -> int:
        """Return the id of the process that has a role now."""
        return int(self.json("status")["pids"][role])

    def openai(self, secret: str, replica: int = 0, **options: Any) -> openai.OpenAI:
        """Return the official client, pointed at a replica."""
        options = {"max_retries": 0, "timeout": 30.0, **options}
        client = openai.OpenAI(api_key=secret, base_url=self.ready["ingress"][replica] + "/v1", **options)
        self._clients.append(client)
        return client

    def anthropic(self, secret: str, replica: int = 0, **options: Any) -> anthropic.Anthropic:
        """Return the official client, pointed at a replica."""
        options = {"max_retries": 0, "timeout": 30.0, **options}
        client = anthropic.Anthropic(api_key=secret, base_url=self.ready["ingress"][replica], **options)
        self._clients.append(client)
        return client

    def hang_up(self) -> None:
        """Close the connections of all clients."""
        while self._clients:
            self._clients.pop().close()


def environment() -> dict[str, str]:
    """Return the environment without anything that would lead to the sources."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def free_ports(count: int) -> int:
    """Return the first of `count` adjacent ports that are free now, below those of outgoing connections."""
    # Chosen at random: other runs of these tests on this machine choose at the same time.
    for first in random.SystemRandom().sample(range(20_000, 32_000 - count), 200):
        if all(is_free(first + step) for step in range(count)):
            return first
    raise RuntimeError("no adjacent free ports")


def eventually(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return the first true result of `check`, asked again until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s; last: {found!r}"
        time.sleep(0.05)


POLICY = """
version: 1
orgs:
  ORG: {projects: [chat, code], teams: [search, ml], users: [ada, bob]}
providers:
  sim-openai: {protocol: openai, base_url: simulated}
  sim-anthropic: {protocol: anthropic, base_url: simulated}
models:
  gpt-4o-mini: {provider: sim-openai, price: {input: 0.15, output: 0.60, cache_read: 0.075}}
  text-embedding-3-small: {provider: sim-openai, price: {input: 0.02, output: 0}}
  claude-haiku-4-5: {provider: sim-anthropic, price: {input: 3, output: 15}}
limits: LIMITS
budgets: BUDGETS
"""


def policy(limits: str = "[]", budgets: str = "[]", org: str = "acme") -> str:
    """Return the policy of these tests with the given limits and budgets (YAML in one line), for one organisation."""
    return POLICY.replace("LIMITS", limits).replace("BUDGETS", budgets).replace("ORG", org)
