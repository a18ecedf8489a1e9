"""`tollway spool`: what the write-ahead log of an instance holds, and sending it in its name."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from deploy.cli import kafka, output
from deploy.cli.deployment import STATE_HELP, find
from deploy.cli.examples import examples
from schemas.connection import KafkaConnection
from schemas.money import format_usd

DIR = click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR")


@click.group(epilog=examples("tollway spool show ~/.local/state/tollway/ingress", "tollway spool replay DIR"))
def command() -> None:
    """Look into the spool of an ingress, or send what a dead one has left.

    A spool is the write-ahead log in an instance's state directory (`ingress/NAME` in that of the deployment).
    DIR is that directory, or one that holds several.
    """


@command.command("show", epilog=examples("tollway spool show /mnt/lost-volume", "tollway spool show DIR --json"))
@DIR
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_(directory: Path, as_json: bool) -> None:
    """List runs, segments, events that the broker may not have, their sums and age. Changes nothing."""
    from ingress.adapters.foreign import show, spools_in

    held = [show(path) for path in spools_in(directory)]
    if as_json:
        click.echo(output.as_json(msgspec.to_builtins(held)))
        return
    rows: list[list[Any]] = []
    for each in held:
        rows += [
            [each.path, each.in_use, run.instance, run.epoch, run.segments, run.bytes, run.records, run.sums.events,
             run.open_admissions, run.sums.input_tokens + run.sums.output_tokens, format_usd(run.sums.cost_nanos),
             run.sums.unpriced, run.age_s]
            for run in each.runs
        ]  # fmt: skip
        if not each.runs:
            rows.append([each.path, each.in_use, *[None] * 11])
    columns = (
        "spool", "in use", "instance", "epoch", "segments", "bytes", "records", "events", "open", "tokens", "cost USD",
        "unpriced", "age s",
    )  # fmt: skip
    click.echo(output.table(columns, rows))


@command.command(
    "replay",
    epilog=examples(
        "tollway spool replay /mnt/lost-volume/ingress/ingress-2",
        "tollway spool replay DIR --broker kafka-1:9092 --kafka-partitions 4",
    ),
)
@DIR
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help=STATE_HELP)
@click.option("--broker", metavar="HOST:PORT", help="Broker to send to, in place of the running deployment's.")
@kafka.kafka_options
@click.option("--timeout", default=300.0, metavar="SECONDS", help="Give up after this long; what is left stays.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay_(
    directory: Path, state: Path | None, broker: str | None, timeout: float, as_json: bool, **options: Any
) -> None:
    """Send what an instance that is dead has left, in its name, and delete it.

    The directory is locked meanwhile. It does no harm to do it twice, or if the instance starts again afterwards.
    """
    from ingress.adapters.foreign import replay, spools_in

    connection = _connection(state, broker, options)
    sent = [asyncio.run(replay(path, connection, _now_ms, timeout)) for path in spools_in(directory)]
    if as_json:
        click.echo(output.as_json(msgspec.to_builtins(sent)))
        return
    click.echo(output.table(("spool", "runs", "records"), [[each.path, each.runs, each.records] for each in sent]))


def _connection(state: Path | None, broker: str | None, options: dict[str, Any]) -> KafkaConnection:
    """Return the connection to the broker that was named, or to that of the running deployment."""
    if broker is not None:
        named = kafka.connection(broker, options)
        if named is not None:
            return named
    run = find(state, None, None, None).run
    fields = {**run.get("kafka", {}), "sasl_password": os.environ.get("TOLLWAY_KAFKA_SASL_PASSWORD")}
    return KafkaConnection.model_validate(fields)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
