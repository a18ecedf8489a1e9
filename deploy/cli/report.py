"""`tollway report`: what was spent, from the history's rollups."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args

import click

from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples


@click.group(help="Report what was spent.", epilog=examples("tollway report spend --by team,model --since 7d"))
def command() -> None:
    """Hold the commands."""


@command.command(epilog=examples(
    "tollway report spend --by team,model",
    "tollway report spend --by project,user --since 2026-11-01 --until 2026-12-01 --format csv > november.csv",
    "tollway report spend --by model --since today --format json | jq .totals",
))  # fmt: skip
@options
@click.option(
    "--by",
    default="team,model",
    show_default=True,
    metavar="NAMES",
    help="With commas: org, project, team, user, key, model, provider, operation, status, day, hour.",
)
@click.option("--since", metavar="WHEN", help=f"From this moment on: {when.WAYS}. [default: everything]")
@click.option("--until", metavar="WHEN", help="Up to, not including, this moment. [default: now]")
@click.option(
    "--format",
    "format_",
    type=click.Choice(get_args(output.Format)),
    default="table",
    show_default=True,
    help="How to print.",
)
def spend(deployment: Deployment, by: str, since: str | None, until: str | None, format_: output.Format) -> None:
    """Sum requests, tokens and cost by any attributes. Amounts are exact; what has no price is counted apart."""
    now = datetime.now(UTC)
    query = {"since": _moment("--since", since, now), "until": _moment("--until", until, now)}
    with deployment.history() as api:
        answer = api.get("/v1/report/spend", by=by, **query)
    click.echo(render(answer, format_))


@command.command(epilog=examples(
    "tollway report avoided --by rule,team",
    "tollway report avoided --by day,action --since 30d --format csv",
))  # fmt: skip
@options
@click.option(
    "--by",
    default="rule,team",
    show_default=True,
    metavar="NAMES",
    help="With commas: org, project, team, user, key, model, rule, measure, action, reason, tier, day, hour.",
)
@click.option("--since", metavar="WHEN", help=f"From this moment on: {when.WAYS}. [default: everything]")
@click.option("--until", metavar="WHEN", help="Up to, not including, this moment. [default: now]")
@click.option(
    "--format",
    "format_",
    type=click.Choice(get_args(output.Format)),
    default="table",
    show_default=True,
    help="How to print.",
)
def avoided(deployment: Deployment, by: str, since: str | None, until: str | None, format_: output.Format) -> None:
    """Sum decisions and the cost that they avoided: what requests would have cost by their estimates.

    avoided_usd counts what was refused, downgraded or ended; would_avoid_usd what soft and shadow rules let through,
    and what only waited. A client that tries again is counted again.
    """
    now = datetime.now(UTC)
    query = {"since": _moment("--since", since, now), "until": _moment("--until", until, now)}
    with deployment.history() as api:
        answer = api.get("/v1/report/avoided", by=by, **query)
    click.echo(render(answer, format_, "no decisions in this time"))


def render(answer: dict[str, Any], format_: output.Format, nothing: str = "no usage in this time") -> str:
    """Return a report as text; a table ends with its totals."""
    columns, rows = output.rows_of(answer)
    totals = answer.get("totals") or {}
    if format_ == "json":
        extra = {name: value for name, value in answer.items() if name not in ("columns", "rows", "totals")}
        return output.as_json({**extra, "rows": output.records(columns, rows), "totals": totals})
    if format_ == "csv":
        return output.as_csv(columns, rows)
    if not rows:
        return nothing
    last = [totals.get(name, "total" if index == 0 else "") for index, name in enumerate(columns)]
    return output.table(columns, [*rows, last])


def _moment(option: str, text: str | None, now: datetime) -> str | None:
    if text is None:
        return None
    try:
        return when.past(text, now).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
