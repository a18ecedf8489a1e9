"""`tollway up`: reads what is asked for and hands over to the supervisor."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import click

from deploy.cli import published
from deploy.cli.deployment import STATE_HELP
from deploy.cli.kafka import connection, kafka_options
from deploy.supervisor.files import default_state_dir
from schemas.topics import DEFAULT_PARTITIONS

BEGAN = time.monotonic()
"""This module is imported when the command is asked for: before the imports that take their time."""

HELP = """Start the whole deployment on this machine and keep it running.

Starts broker, meter, history, enforcer, ingress replicas and, where the policy names it, the simulated provider;
applies the policy; prints URLs, a virtual key and examples. A process that dies is started again. Ctrl-C stops
everything in order (twice: at once). Starting again on the same state directory continues with the same policy,
keys, spend and history.

\b
Examples:
  tollway up
  tollway up --policy policy.yaml --ingress 2 --port 9000
  tollway up --state ./state --json > ready.json
  tollway up --broker kafka-1.internal:9093 --kafka-config kafka.yaml --clickhouse https://ch.internal:8443

With --json, standard output gets exactly one line when everything is ready; everything else goes to standard error.
"""


@click.command(help=HELP, epilog=published.epilog())
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help=STATE_HELP)
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Policy to apply. [default: what is in force; the bundled example at a first start]",
)
@click.option(
    "--broker",
    default="embedded",
    show_default=True,
    metavar="embedded|HOST:PORT",
    envvar="TOLLWAY_BROKER",
    help="Kafka: the embedded one, or one of your own (several addresses with commas).",
)
@click.option(
    "--clickhouse",
    default="embedded",
    show_default=True,
    metavar="embedded|URL",
    envvar="TOLLWAY_CLICKHOUSE",
    help="ClickHouse: the engine in the history process, or a server's URL.",
)
@click.option(
    "--ingress", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Ingress replicas."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=8700,
    show_default=True,
    metavar="P",
    help="Replicas listen on P, P+1, …; the other processes on ports away from these.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the ingress replicas listen on.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON on standard output when ready.")
@kafka_options
def command(
    state: Path | None, policy: Path | None, broker: str, clickhouse: str, ingress: int, port: int, host: str,
    as_json: bool, **kafka: Any,
) -> int:  # fmt: skip
    """Start and stay."""
    from deploy.supervisor import up
    from deploy.supervisor.progress import progress

    own = connection(broker, kafka)
    if clickhouse != "embedded" and not clickhouse.startswith(("http://", "https://")):
        raise click.BadParameter(f"{clickhouse!r} is neither `embedded` nor an http(s) URL", param_hint="--clickhouse")
    options = up.Options(
        state=state or default_state_dir(os.environ), policy=policy, kafka=own, clickhouse=clickhouse,
        ingress=ingress, port=port, host=host, partitions=kafka["kafka_partitions"] or DEFAULT_PARTITIONS,
        as_json=as_json, environment=dict(os.environ),
    )  # fmt: skip
    return asyncio.run(up.Up(options, progress(), BEGAN).run())
