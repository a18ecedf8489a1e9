"""`tollway sql`: read-only queries of the history."""

from __future__ import annotations

from typing import get_args

import click

from deploy.cli import output
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples


@click.command(epilog=examples(
    'tollway sql "SELECT status, count() AS events, sum(cost_usd) AS usd FROM tollway.usage GROUP BY status"',
    'tollway sql "SHOW TABLES FROM tollway"',
    'tollway sql "SELECT * FROM tollway.usage ORDER BY occurred_at DESC LIMIT 10" --format csv',
))  # fmt: skip
@options
@click.argument("query")
@click.option(
    "--format",
    "format_",
    type=click.Choice(get_args(output.Format)),
    default="table",
    show_default=True,
    help="How to print.",
)
def command(deployment: Deployment, query: str, format_: output.Format) -> None:
    """Run QUERY in ClickHouse and print what it returns. It can read everything and change nothing."""
    with deployment.history(timeout_s=600.0) as api:
        answer = api.post("/v1/sql", {"query": query, "format": "json"})
    columns, rows = output.rows_of(answer)
    if format_ == "json":
        click.echo(output.as_json(output.records(columns, rows)))
    elif format_ == "csv":
        click.echo(output.as_csv(columns, rows))
    else:
        click.echo(output.table(columns, rows))
