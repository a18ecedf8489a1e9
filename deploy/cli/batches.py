"""`tollway batches`: what is known of the providers' batches, and what was charged of them."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from schemas.money import format_usd

COLUMNS = (
    "batch", "provider", "owner", "key", "state", "charged by", "requests", "tokens", "cost", "unpriced", "first seen",
)  # fmt: skip
NOTHING = "no batches are known; those appear that were created, listed or fetched through Tollway"


@click.command(epilog=examples(
    "tollway batches", "tollway batches --org acme --limit 20", "tollway batches --json | jq '.batches[].cost_usd'",
))  # fmt: skip
@options
@click.option("--org", help="Of this organisation.")
@click.option("--provider", help="Of this provider of the policy.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(deployment: Deployment, org: str | None, provider: str | None, limit: int, as_json: bool) -> None:
    """Show batches, the newest first: to whom they belong, and what was charged of them.

    A batch is charged as a whole ("total") once its provider tells what all of it used, else by the lines of its
    results as they are fetched; each is charged once. `requests` shows how many are charged, and of how many answered
    ones where the provider tells it and they differ. An owner with a ? is who was seen first with a batch that was not
    created through Tollway.
    """
    with deployment.enforcer() as api:
        found = api.get("/v1/batches", org=org, provider=provider, limit=limit)
    if as_json:
        click.echo(output.as_json(found))
        return
    rows = [_row(batch) for batch in found["batches"]]
    click.echo(output.table(COLUMNS, rows) if rows else NOTHING)
    if not found["complete"]:
        click.echo("what was charged before is still being read; try again in a moment", err=True)


def _row(batch: dict[str, Any]) -> tuple[Any, ...]:
    owner, answered = batch["owner"], batch["answered"]
    name = "/".join(part for part in (owner["org"], owner["team"], owner["user"]) if part)
    is_partly = batch["charged_by"] != "total" and answered > batch["requests"]
    return (
        batch["batch"], batch["provider"], name if batch["is_created_here"] else f"{name} ?", owner["key"] or "-",
        batch["state"], batch["charged_by"] or "-",
        f"{batch['requests']} of {answered}" if is_partly else batch["requests"], batch["tokens"],
        format_usd(batch["cost_nanos"]), batch["unpriced"], when.text_of_ms(batch["first_seen_ms"]),
    )  # fmt: skip
