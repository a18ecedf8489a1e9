"""The first minutes of a deployment: which policy is put in force, and the virtual key to try it with."""

from __future__ import annotations

import getpass
from importlib import resources
from pathlib import Path
from typing import Any

from deploy.api import Api, NotFound
from deploy.supervisor.files import StateDir
from schemas.errors import ConfigError
from schemas.policy import Policy
from schemas.policy_file import load_policy

DEMO_KEY_FILE = "demo-key.json"
DEMO_NAME = "demo"


def example_policy() -> str:
    """Return the policy that a first start applies where none is given."""
    return resources.files("deploy.policies").joinpath("example.yaml").read_text(encoding="utf-8")


def read_policy(path: Path) -> str:
    """Return the text of a valid policy file; ConfigError with every problem of it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read as text ({error}); name a policy document in YAML"]) from error
    load_policy(text, str(path))
    return text


def uses_simulator(text: str) -> bool:
    """Tell whether a valid policy names the built-in simulated provider."""
    return any(provider.base_url == "simulated" for provider in load_policy(text).providers.values())


def actor() -> str:
    """Return who is at the keyboard, for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def ensure_policy(api: Api, given: str | None, name: str) -> tuple[dict[str, Any], bool]:
    """Return the policy in force and whether it was applied now.

    A `given` document is applied if it is not the one in force; without one, what is in force stays, and a
    deployment without any gets the example.
    """
    try:
        current: dict[str, Any] | None = api.get("/v1/policy")
    except NotFound:
        current = None
    wanted = given if given is not None else (None if current else example_policy())
    if wanted is None or (current is not None and current["document"] == wanted):
        assert current is not None
        return current, False
    note = f"tollway up --policy {name}" if given is not None else "tollway up: the example"
    body = {"document": wanted, "note": note, "actor": actor(), "dry_run": False}
    try:
        api.post("/v1/policy", body)
    except ConfigError as error:
        raise ConfigError([f"{name}: {problem}" for problem in error.problems]) from error
    return api.get("/v1/policy"), True


def ensure_key(api: Api, state: StateDir, document: str) -> str | None:
    """Return the secret of the demo key, made at the first start; None if it was revoked or nobody could own one."""
    known = state.read(DEMO_KEY_FILE)
    listed = {key["id"]: key for key in api.get("/v1/keys")["keys"]}
    if known and (found := listed.get(known["id"])) is not None:
        return None if found.get("revoked_ms") else str(known["secret"])
    owner = first_owner(load_policy(document))
    if owner is None:
        return None
    made = api.post("/v1/keys", {**owner, "name": DEMO_NAME, "models": ["*"], "tags": {}, "actor": actor()})
    state.write(DEMO_KEY_FILE, {"id": made["key"]["id"], "secret": made["secret"]})
    return str(made["secret"])


def first_owner(policy: Policy) -> dict[str, str] | None:
    """Return the first organisation of a policy and the first project, team and user of it."""
    for org, parts in policy.orgs.items():
        named = {"project": parts.projects, "team": parts.teams, "user": parts.users}
        return {"org": org, **{field: names[0] if names else "" for field, names in named.items()}}
    return None
