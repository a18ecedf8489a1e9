"""Turns providers of the policy into targets: origin, path and credential, read where this ingress runs.

A credential is a reference in the policy and a value only here: it goes into request bytes and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from ingress.adapters.provider.port import Origin
from ingress.core.plan import Plan
from ingress.core.ports import Target
from schemas.policy import Provider

SIMULATED = "simulated"


class TargetBook:
    """Makes one target a provider, again when the provider changes."""

    def __init__(self, simulated_url: str, read_environment: Callable[[str], str | None] = os.environ.get) -> None:
        """Start empty; `simulated_url` is what the base URL `simulated` stands for."""
        self._simulated_url = simulated_url
        self._environment = read_environment
        self._made: dict[str, Target] = {}

    def __call__(self, plan: Plan) -> Target:
        """Return where requests of `plan` go; made once a plan."""
        target = plan.target
        if target is None:
            target = plan.target = self.find(plan.provider, plan.provider_config)
        assert isinstance(target, Target)
        return target

    def find(self, name: str, provider: Provider) -> Target:
        """Return the target of a provider, its credential read now; while nothing changes it is the same object.

        Plans ask once each, and new ones with every policy: to rotate a credential, change it where it is read and
        apply the policy again.
        """
        target = self._make(name, provider)
        made = self._made.get(name)
        if made is not None and _same(made, target):
            return made
        self._made[name] = target
        return target

    def _make(self, name: str, provider: Provider) -> Target:
        url = self._simulated_url if provider.base_url == SIMULATED else provider.base_url
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        limits = provider.timeouts
        origin = Origin(
            host=parts.hostname or "",
            port=port,
            tls=tls,
            connect_s=limits.connect / 1000,
            first_byte_s=limits.first_byte / 1000,
            idle_s=limits.idle / 1000,
            total_s=limits.total / 1000,
            max_connections=provider.max_connections,
        )
        host = parts.netloc.rpartition("@")[2]
        lines = f"host: {host}\r\naccept-encoding: identity\r\n".encode()
        secret, problem = self._credential(name, provider.credential)
        if secret:
            name_of = b"x-api-key: %b\r\n" if provider.protocol == "anthropic" else b"authorization: Bearer %b\r\n"
            lines += name_of % secret
        return Target(origin, parts.path.rstrip("/").encode(), lines, problem)

    def _credential(self, name: str, reference: str) -> tuple[bytes, str]:
        """Return the secret that `reference` stands for, or why there is none (which names the reference only)."""
        kind, _, where = reference.partition(":")
        if kind == "none":
            return b"", ""
        if kind == "env":
            value = self._environment(where) or ""
        else:
            try:
                value = Path(where).read_text()
            except (OSError, UnicodeError):
                value = ""
        secret = value.strip()
        if not secret or not (secret.isascii() and secret.isprintable()):
            what = "is not set" if kind == "env" else "cannot be read"
            told = f"The provider {name!r} cannot be used: its credential {reference} {what} where this ingress runs."
            return b"", told
        return secret.encode(), ""


def _same(one: Target, other: Target) -> bool:
    return (one.origin, one.base_path, one.lines, one.problem) == (
        other.origin,
        other.base_path,
        other.lines,
        other.problem,
    )
