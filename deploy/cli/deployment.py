"""Finds the deployment that a command is about: through the state directory of a running one, or by address."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from deploy.api import TIMEOUT_S, Api, Patience
from deploy.supervisor.files import StateDir, default_state_dir
from schemas.errors import ConfigError, TransportError

WAIT_S = 30.0
"""How long a command waits for a process that is starting or being started again."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Deployment:
    """Where the services of a deployment are."""

    state: StateDir
    run: dict[str, Any] = field(repr=False)
    """`run.json` of the last start; empty if addresses were given instead."""
    api_url: str
    history_url: str
    token: str = field(repr=False)

    def enforcer(self, timeout_s: float = TIMEOUT_S, wait_s: float = WAIT_S) -> Api:
        """Return the admin API: an answer may take `timeout_s`, and until it can answer may take `wait_s`."""
        return Api("enforcer", self.api_url, self.token, timeout_s, self._patience(wait_s))

    def history(self, timeout_s: float = 120.0, wait_s: float = WAIT_S) -> Api:
        """Return the history's API, as `enforcer` does."""
        if not self.history_url:
            raise ConfigError(["--history: missing; with --api, name the history's URL too (or TOLLWAY_HISTORY)"])
        return Api("history", self.history_url, self.token, timeout_s, self._patience(wait_s))

    def ingress(self) -> dict[str, Api]:
        """Return the status API of every ingress replica that this machine runs."""
        urls = self.run.get("urls", {})
        return {role: Api(role, url, timeout_s=5.0) for role, url in urls.items() if role.startswith("ingress-")}

    def _patience(self, wait_s: float) -> Patience:
        # What was named by address may be supervised by nobody: if it refuses connections, that is said at once.
        return Patience(
            wait_s, lambda: bool(self.run) and self.state.is_held(), lambda line: click.echo(line, err=True)
        )


def find(state: Path | None, api: str | None, history: str | None, token: str | None) -> Deployment:
    """Return the deployment at `api`, or the one whose state directory is `state` or the default.

    Raises:
        ConfigError: an address was given without a token.
        TransportError: no deployment runs in the state directory.
    """
    directory = StateDir(state or default_state_dir(os.environ))
    if api:
        if not token:
            raise ConfigError(["--token: missing; with --api, give the admin token with TOLLWAY_TOKEN or --token"])
        return Deployment(directory, {}, api, history or "", token)
    if not directory.is_held():
        raise TransportError(
            f"no deployment runs in {directory.root}; start it with: tollway up --state {directory.root} "
            "(or name another with --state DIR, or --api URL)"
        )
    run = directory.read(directory.run_file.name)
    if not run:
        raise TransportError(f"the deployment in {directory.root} is still starting; try again in a few seconds")
    return Deployment(directory, run, run["api"], history or run["history"], token or run["token"])


def options(command: F) -> F:
    """Add the options by which a deployment is found; the command gets it as its first argument."""

    @functools.wraps(command)
    def wrapped(
        state: Path | None, api: str | None, history: str | None, token: str | None, *args: Any, **kwargs: Any
    ) -> Any:
        return command(find(state, api, history, token), *args, **kwargs)

    decorated: Any = wrapped
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # click's decorators return what they are given


STATE_HELP = "State directory of the deployment. [default: $TOLLWAY_STATE, else ~/.local/state/tollway]"
_OPTIONS = (
    click.option("--state", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help=STATE_HELP),
    click.option("--api", envvar="TOLLWAY_API", metavar="URL", help="Enforcer's URL, in place of --state."),
    click.option("--history", envvar="TOLLWAY_HISTORY", metavar="URL", help="History's URL, beside --api."),
    click.option("--token", envvar="TOLLWAY_TOKEN", metavar="TOKEN", help="Admin token, beside --api."),
)
