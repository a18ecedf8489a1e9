"""What runs in a deployment: role → command, environment, log, deadlines. Pure: starts nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from deploy.supervisor.child import Spec
from deploy.supervisor.files import StateDir
from deploy.supervisor.warm import MODULES
from schemas.connection import KafkaConnection
from schemas.published import DRAIN_S

INTERNAL_ROLES = ("enforcer", "history", "meter", "provider", "broker")
"""Roles that listen on ports of their own choice."""
LOOPBACK = "127.0.0.1"
STOP_S = {"ingress": DRAIN_S + 10.0, "enforcer": 15.0, "meter": 20.0, "history": 30.0, "provider": 5.0, "broker": 20.0}


@dataclass(frozen=True)
class Layout:
    """Everything that the processes of one start have to be told."""

    state: StateDir
    kafka: KafkaConnection
    clickhouse: str
    """`embedded` or an URL."""
    ports: Mapping[str, int]
    """Of every role, ingress replicas included."""
    host: str
    """What the ingress replicas listen on; the others are for this machine alone."""
    token: str = field(repr=False)
    python: str = ""
    package_path: str = ""
    """Put before PYTHONPATH where the packages are not installed."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    retired: tuple[str, ...] = ()
    """Replicas of an earlier start that only send what is left in their logs."""

    @property
    def replicas(self) -> list[str]:
        """Return the roles of the ingress replicas in order."""
        return [role for role in self.ports if role.startswith("ingress-") and role not in self.retired]

    def url(self, role: str) -> str:
        """Return the base URL of a role."""
        anywhere = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
        host = LOOPBACK if not role.startswith("ingress") or self.host in anywhere else self.host
        return f"http://{host}:{self.ports[role]}"


def left_behind(state: StateDir, replicas: Collection[str]) -> tuple[str, ...]:
    """Return the replicas of earlier starts, beside `replicas`, whose write-ahead logs still hold something.

    A replica that stops cleanly leaves no log; one that was killed and is not started again would keep its usage.
    """
    logs = sorted((state.root / "ingress").glob("ingress-*/wal/*.wal"))
    found = dict.fromkeys(log.parents[1].name for log in logs if log.stat().st_size)
    return tuple(role for role in found if role not in replicas)


def spec(layout: Layout, role: str) -> Spec:
    """Return how to run `role`."""
    kind = role.partition("-")[0]
    module = _module(layout, kind)
    return Spec(
        role=role,
        command=(layout.python, "-m", *module),
        warm_command=(layout.python, "-m", "deploy.supervisor.warm", *module) if module[0] in MODULES else (),
        environment={**_base_environment(layout), **_settings(layout, role, kind)},
        log=layout.state.log(role),
        stop_s=STOP_S[kind],
        more_log=layout.state.root / "broker" / "broker.log" if kind == "broker" else None,
    )


def _module(layout: Layout, kind: str) -> tuple[str, ...]:
    if kind == "broker":
        return ("deploy.kafka", "run", "--state", str(layout.state.root), "--port", str(layout.ports["broker"]))
    if kind == "provider":
        return ("deploy.simulator", "--port", str(layout.ports["provider"]))
    return ("meter.sink",) if kind == "history" else (kind,)


def _base_environment(layout: Layout) -> dict[str, str]:
    environment = dict(layout.environment)
    environment["PYTHONUNBUFFERED"] = "1"
    # A folder named `meter` where the user happens to stand must not be run in place of the package.
    environment["PYTHONSAFEPATH"] = "1"
    if layout.package_path:
        environment["PYTHONPATH"] = ":".join(filter(None, [layout.package_path, environment.get("PYTHONPATH")]))
    return environment


def _settings(layout: Layout, role: str, kind: str) -> dict[str, str]:
    if kind in ("broker", "provider"):
        return {}
    settings = {
        "host": layout.host if kind == "ingress" else LOOPBACK,
        "port": str(layout.ports[role]),
        "state_dir": str(layout.state.root),
        **{f"kafka__{name}": value for name, value in kafka_settings(layout.kafka).items()},
    }
    if kind == "ingress":
        settings["instance"] = role
        settings["simulated_url"] = f"{layout.url('provider')}/v1"
    if kind in ("enforcer", "history"):
        settings["admin_token"] = layout.token
    if kind == "history" and layout.clickhouse != "embedded":
        settings["clickhouse_url"] = layout.clickhouse
    return {f"TOLLWAY_{kind}_{name}".upper(): value for name, value in settings.items()}


def kafka_settings(connection: KafkaConnection) -> dict[str, str]:
    """Return the fields of a connection that differ from the defaults, as text, secrets in clear."""
    fields = {"bootstrap": connection.bootstrap, **connection.model_dump(exclude_defaults=True)}
    if connection.sasl_password is not None:
        fields["sasl_password"] = connection.sasl_password.get_secret_value()
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
