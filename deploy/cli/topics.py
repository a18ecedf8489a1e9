"""`tollway topics`: the table of topics."""

from __future__ import annotations

import click

from deploy.cli import output
from deploy.cli.examples import examples


@click.command(epilog=examples("tollway topics", "tollway topics --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Print every topic: partitions, cleanup, key, content, who writes and who reads. Needs no deployment."""
    from deploy.topics import table

    rows = table()
    if as_json:
        click.echo(output.as_json(rows))
        return
    shown = ("topic", "partitions", "cleanup", "key", "content", "writer", "readers")
    lines = [({**row, "partitions": "per shard" if row["sharded"] else 1, "cleanup": _cleanup(row)}) for row in rows]
    click.echo(output.table(shown, [[line[name] for name in shown] for line in lines]))


def _cleanup(row: dict[str, object]) -> str:
    retention = row["retention_ms"]
    if row["cleanup"] == "compact":
        return "compact"
    if not isinstance(retention, int):
        return "kept"
    days, minutes = retention / 86_400_000, retention // 60_000
    return f"{days:g} d" if days >= 1 else f"{minutes} min"
