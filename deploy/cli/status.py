"""`tollway status`: everything that can be known about a deployment, in one place, whatever of it is down."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from deploy.api import Api
from deploy.cli import output, published
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from deploy.request import NoAnswer, send
from deploy.supervisor.record import version
from schemas.connection import KafkaConnection
from schemas.errors import TollwayError
from schemas.money import format_usd
from schemas.rows import parse_row_key, scope_text

PROBE_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0


@click.command(epilog=examples("tollway status", "tollway status --json | jq .pids"))
@options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(deployment: Deployment, as_json: bool) -> None:
    """Show processes, versions, lag, staleness, budgets, write-ahead logs, dead letters and the published numbers.

    What does not answer is listed under `problems`; exit code 0 all the same, 1 only if no deployment runs.
    """
    found = gather(deployment)
    click.echo(output.as_json(found) if as_json else as_text(found))


def gather(deployment: Deployment) -> dict[str, Any]:
    """Return the status of a deployment; parts that do not answer are named in `problems`."""
    problems: list[str] = []
    # What is not ready is what this command is asked for: nothing is waited for.
    enforcer, history = deployment.enforcer(ANSWER_TIMEOUT_S, wait_s=0), deployment.history(ANSWER_TIMEOUT_S, wait_s=0)
    ask = _asker(problems)
    control = ask(enforcer, "/v1/status")
    stored = ask(history, "/v1/status")
    replicas = {role: ask(api, "/tollway/v1/status") for role, api in deployment.ingress().items()}
    budgets = ask(enforcer, "/v1/budgets")
    limits = ask(enforcer, "/v1/limits")
    ready = {role: _is_ready(url) for role, url in deployment.run.get("urls", {}).items() if role != "provider"}
    problems += [f"{role} is not ready" for role, is_ready in ready.items() if not is_ready]
    dead_letters = _dead_letters(deployment, problems)
    return {
        "ok": not problems,
        "problems": problems,
        "state": str(deployment.state.root) if deployment.run else None,
        "versions": _versions(deployment, control, stored),
        "pids": deployment.run.get("pids", {}),
        "ready": ready,
        "urls": deployment.run.get("urls", {}),
        "partitions": _part(control, "partitions"),
        "propagation_ms": {
            "published_p99": published.numbers()["propagation_p99_ms"],
            **{role: _part(status, "propagation_ms") for role, status in replicas.items()},
            "enforcer": _part(control, "propagation_ms"),
        },
        "metering": _part(control, "metering"),
        "lag": {"history": _part(stored, "lag")},
        "staleness": {role: _part(status, "partitions", "staleness") for role, status in replicas.items()},
        "budgets": [
            {"rule": budget["budget"], **budget, "overshoot_bound_nanos": overshoot_bound(budget, replicas.values())}
            for budget in _list(budgets, "budgets")
        ],
        "limits": [
            {**limit, "overshoot_bound": overshoot_of_rule(limit, replicas.values())}
            for limit in _list(limits, "limits")
        ],
        "wal": {role: _part(status, "wal") for role, status in replicas.items()},
        "dead_letters": dead_letters,
        "enforcer": control,
        "history": stored,
        "ingress": replicas,
        "published": published.numbers(),
    }


def overshoot_bound(budget: Mapping[str, Any], replicas: Iterable[Any]) -> int | None:
    """Return what all replicas' requests in flight may use beyond a budget; None if a replica did not say."""
    total = 0
    for replica in replicas:
        misses = _part(replica, "overshoot_bounds")
        if misses is None:
            return None
        for text, nanos in misses.items():
            key = parse_row_key(text)
            if (key.rule, scope_text(key.scope)) == (budget["budget"], budget["scope"]):
                total += nanos if key.window.start == budget["window"]["start_s"] else 0
    return total


def overshoot_of_rule(limit: Mapping[str, Any], replicas: Iterable[Any]) -> int | None:
    """Return what all replicas' requests in flight may use beyond a limit, over its scopes; None if one did not say."""
    total = 0
    for replica in replicas:
        misses = _part(replica, "overshoot_bounds")
        if misses is None:
            return None
        for text, amount in misses.items():
            key = parse_row_key(text)
            if (key.rule, key.measure, key.window.period) == (limit["rule"], limit["measure"], limit["period"]):
                total += amount
    return total


def _asker(problems: list[str]) -> Callable[[Api, str], Any]:
    def ask(api: Api, path: str) -> Any:
        try:
            return api.get(path)
        except TollwayError as error:
            problems.append(str(error))
            return None

    return ask


def _is_ready(url: str) -> bool:
    try:
        return send("GET", f"{url}/readyz", {}, None, {}, PROBE_TIMEOUT_S).is_success
    except NoAnswer:
        return False


def _list(answer: Any, name: str) -> list[Any]:
    return list(answer.get(name, []) if isinstance(answer, dict) else answer or [])


def _part(status: Any, *names: str) -> Any:
    """Return the first of `names` that a status has; None without one."""
    if not isinstance(status, dict):
        return None
    return next((status[name] for name in names if name in status), None)


def _dead_letters(deployment: Deployment, problems: list[str]) -> int | None:
    """Return how many records are on the dead-letter topic; None where this machine may not ask the broker."""
    from deploy.topics import held
    from schemas.topics import USAGE_DLQ

    fields = {**deployment.run.get("kafka", {}), "sasl_password": os.environ.get("TOLLWAY_KAFKA_SASL_PASSWORD")}
    if not deployment.run or (fields.get("sasl_mechanism") and not fields["sasl_password"]):
        return None
    try:
        return asyncio.run(held(KafkaConnection.model_validate(fields), USAGE_DLQ))
    except TollwayError as error:
        problems.append(str(error))
        return None


def _versions(deployment: Deployment, control: Any, stored: Any) -> dict[str, Any]:
    return {
        "tollway": version(),
        "python": platform.python_version(),
        "kafka": _kafka_version() if "broker" in deployment.run.get("pids", {}) else "own broker",
        "engine": _part(stored, "engine", "engine_version", "version"),
        "policy": _part(_part(control, "policy"), "version"),
    }


def _kafka_version() -> str:
    from deploy.kafka.artifacts import load_lock

    return next(jar.version for jar in load_lock() if jar.artifact == "kafka_2.13")


def as_text(found: Mapping[str, Any]) -> str:
    """Return the status for people."""
    versions = found["versions"]
    blocks = [
        output.pairs({"state": found["state"], **{f"{name} version": version for name, version in versions.items()}}),
        _processes(found),
        _budgets(found["budgets"]),
        _limits(found["limits"]),
        _propagation(found),
        _partitions(found["partitions"] or []),
        _replicas(found),
        output.pairs({"dead letters": found["dead_letters"], "history lag": found["lag"]["history"]}),
        "\n".join(["published numbers", *(f"  {line}" for line in published.lines())]),
    ]
    if found["problems"]:
        blocks.append("\n".join(["problems", *(f"  {problem}" for problem in found["problems"])]))
    return "\n\n".join(block for block in blocks if block)


def _processes(found: Mapping[str, Any]) -> str:
    rows = [
        (role, pid or "restarting", found["ready"].get(role), found["urls"].get(role))
        for role, pid in found["pids"].items()
    ]
    return output.table(("process", "pid", "ready", "url"), rows) if rows else ""


def _budgets(budgets: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            budget["budget"],
            budget["scope"],
            *(format_usd(budget[name]) for name in ("amount", "settled", "inflight", "remaining")),
            f"{budget['used_percent'] or 0}%",
            "-" if budget["overshoot_bound_nanos"] is None else format_usd(budget["overshoot_bound_nanos"]),
            budget.get("staleness_ms"),
            budget["window"]["end"],
            ", ".join(f"{percent}%" for percent in budget["thresholds_crossed_percent"]) or "-",
        )
        for budget in budgets
    ]
    if not rows:
        return ""
    columns = ("budget", "scope", "amount", "settled", "in flight", "remaining", "used", "bound", "stale ms", "until",
               "crossed")  # fmt: skip
    return f"{output.table(columns, rows)}\novershoot bound: {budgets[0]['overshoot_bound']}"


def _limits(limits: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (limit["rule"], f"{limit['measure']} a {limit['period']}", limit["limit"], limit["scopes"],
         "-" if limit["used_percent"] is None else f"{limit['used_percent']}%", limit["nearest"],
         limit["overshoot_bound"])
        for limit in limits
    ]  # fmt: skip
    columns = ("limit", "of", "amount", "scopes in use", "fullest", "that is", "bound")
    return output.table(columns, rows) if rows else ""


def _propagation(found: Mapping[str, Any]) -> str:
    """Return how long usage takes to be known everywhere, as measured, and whether metering is at work."""
    rows = [
        (role, *(told.get(name) for name in ("p50", "p99", "samples", "heartbeat_p99", "under_way_ms")))
        for role, told in found["propagation_ms"].items()
        if isinstance(told, dict)
    ]
    metering = found["metering"]
    lines = (
        [output.table(("propagation ms", "p50", "p99", "samples", "heartbeat p99", "under way"), rows)] if rows else []
    )
    if metering:
        state = (
            metering["state"] if metering["state"] == "ok" else f"{metering['state'].upper()} since {metering['since']}"
        )
        lines.append(f"metering: {state}; published propagation: {found['propagation_ms']['published_p99']} ms (p99)")
    return "\n".join(lines)


def _partitions(partitions: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            shard["partition"], shard["fence"], shard["staleness_ms"], shard["lag"], shard["rows"],
            ", ".join(_share(member) for member in shard["members"]),
        )
        for shard in partitions
    ]  # fmt: skip
    columns = ("partition", "fence", "staleness ms", "lag", "rows", "replicas and their shares")
    return output.table(columns, rows) if rows else ""


def _share(member: Mapping[str, Any]) -> str:
    return f"{member['instance']} {member['weight']['num']}/{member['weight']['den']}"


def _replicas(found: Mapping[str, Any]) -> str:
    rows = []
    for role, shards in found["staleness"].items():
        wal = found["wal"][role] or {}
        stalest = max((shard["staleness_ms"] or 0 for shard in shards or ()), default=None)
        shares = sum(bool(shard["member"]) for shard in shards or ())
        rows.append((role, stalest, f"{shares} of {len(shards or ())}", wal.get("bytes"), wal.get("unsent_events"),
                     wal.get("open_admissions"), wal.get("ack_age_ms")))  # fmt: skip
    columns = ("replica", "staleness ms", "shares in", "wal bytes", "unsent", "in flight", "acknowledged ms ago")
    return output.table(columns, rows) if rows else ""
