"""`tollway explain`: why a decision was made, and whether the log gives the same."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from deploy.cli import kafka, output
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from schemas.connection import KafkaConnection
from schemas.errors import ConfigError
from schemas.ids import parse_id


@click.command(epilog=examples(
    "tollway explain 0192f0c1-2b7e-7c33-9d2a-6a1f0e7d4b55",
    "tollway explain 0192f0c1-2b7e-7c33-9d2a-6a1f0e7d4b55 --json | jq .recomputed.checks",
))  # fmt: skip
@options
@click.argument("decision_id", metavar="ID")
@click.option("--broker", metavar="HOST:PORT", help="Broker of the deployment, beside --api. [default: of --state]")
@kafka.kafka_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(deployment: Deployment, decision_id: str, broker: str | None, as_json: bool, **options_: Any) -> int:
    """Tell in words why the decision ID (header x-tollway-decision-id) was made, and recompute it from the log.

    Folds the organisation's partition of `usage` from its beginning to the decision's offset with the meter's own
    code, and applies the replica's rule to what comes out. Exit code 0 if that gives the same, 1 if it does not or
    the log does not reach back that far, 2 if there is no such decision.
    """
    connection = _connection(deployment, broker, options_)
    try:
        wanted = parse_id(decision_id)
    except ValueError as error:
        told = f"ID: {decision_id!r} is not a decision id; it is in the refusal and in its header x-tollway-decision-id"
        raise ConfigError([told]) from error
    found, described = asyncio.run(_explained(connection, wanted, decision_id))
    click.echo(output.as_json(described) if as_json else _text(found))
    return 0 if found.is_fine else 1


async def _explained(connection: KafkaConnection, wanted: bytes, text: str) -> tuple[Any, dict[str, Any]]:
    from deploy.explain import log, verdict
    from enforcer.core.decisions import describe

    async with log.reading(connection) as reader:
        found = await reader.decision(wanted)
        if found is None:
            raise ConfigError([f"ID: no decision {text} is on the topic `decisions`; older ones are in the history: "
                               f"tollway decision {text}"])  # fmt: skip
        explained = await verdict.explain(reader, found, connection.partitions, _say)
    return explained, {"decision": describe(found.decision), "recomputed": verdict.as_object(explained)}


def _say(line: str) -> None:
    click.echo(line, err=True)


def _connection(deployment: Deployment, broker: str | None, given: dict[str, Any]) -> KafkaConnection:
    if broker is not None:
        connection = kafka.connection(broker, given)
        if connection is None:
            raise ConfigError(["--broker embedded: name its address as HOST:PORT"])
        return connection
    if not deployment.run:
        raise ConfigError(["--broker: missing; with --api, name the broker too: explain reads the log itself"])
    fields = {**deployment.run.get("kafka", {}), "sasl_password": os.environ.get("TOLLWAY_KAFKA_SASL_PASSWORD")}
    return KafkaConnection.model_validate(fields)


def _text(found: Any) -> str:
    from deploy.explain import verdict
    from deploy.explain.words import amount, sentences

    measure = found.decision.measure
    lines = sentences(found.decision)
    if found.checks:
        rows = [
            (check.name, amount(measure, check.recorded), amount(measure, check.recomputed),
             "agrees" if check.agrees else "DIFFERS", check.note)
            for check in found.checks
        ]  # fmt: skip
        records = f"recomputed from {found.records:,} records of partition {found.partition}" if found.records else ""
        lines += ["", *filter(None, [records]), output.table(("", "recorded", "from the log", "", ""), rows)]
    if found.event_status:
        lines.append(f"the request's own event on the log: {found.event_status}")
    shouted = found.verdict if found.verdict in (verdict.AGREES, verdict.NOTHING) else found.verdict.upper()
    return "\n".join([*lines, "", f"{shouted}: {found.why}" if found.why else shouted])
