"""`tollway increase`: more room for a while, with a reason, somebody who approves, and an end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
COLUMNS = ("id", "rule", "scope", "size", "until", "state", "requested by", "approved by", "reason")

GROUP_HELP = """Grant, list and revoke temporary increases of limits and budgets.

An increase is added to the limit on every replica at once, and ends by itself.
"""


@click.group(help=GROUP_HELP, epilog=examples(
    'tollway increase grant team-month org=acme,team=search --percent 20 --until 7d --reason launch --approved-by ann',
    "tollway increase list",
    "tollway increase revoke inc_0123456789ab",
))  # fmt: skip
def command() -> None:
    """Hold the commands."""


@command.command(epilog=examples(
    'tollway increase grant team-month org=acme,team=search --amount "50 USD" --until 2027-01-01 --reason launch '
    "--approved-by ann",
    "tollway increase grant key-minute org=acme --percent 100 --until 12h --reason 'load test' --approved-by ann",
))  # fmt: skip
@options
@click.argument("rule")
@click.argument("scope")
@click.option("--percent", type=int, help="How much more, in percent of what the policy says.")
@click.option("--amount", help='How much more: "50 USD" for a budget, else a whole number.')
@click.option("--until", required=True, metavar="WHEN", help=f"When it ends: {when.WAYS}.")
@click.option("--reason", required=True, help="Why; kept in the audit chain.")
@click.option("--approved-by", required=True, metavar="NAME", help="Who approves it: not the one who asks.")
@click.option("--requested-by", metavar="NAME", help="Who asks for it. [default: you]")
@JSON
def grant(
    deployment: Deployment, rule: str, scope: str, percent: int | None, amount: str | None, until: str, reason: str,
    approved_by: str, requested_by: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Add to the limit of RULE where it counts for SCOPE, such as org=acme,team=search, or org=acme for all of it."""
    from deploy.supervisor.bootstrap import actor

    if (percent is None) == (amount is None):
        raise click.UsageError("give --percent or --amount, and not both")
    body = {
        "rule": rule, "scope": scope, "percent": percent, "amount": amount, "expires_ms": _until(until),
        "reason": reason, "requested_by": requested_by or actor(), "approved_by": approved_by, "actor": actor(),
    }  # fmt: skip
    with deployment.enforcer() as api:
        made = api.post("/v1/increases", body)
    if as_json:
        click.echo(output.as_json(made))
    else:
        click.echo(output.pairs(dict(zip(COLUMNS, _row(made), strict=True))))


@command.command("list", epilog=examples("tollway increase list", "tollway increase list --json"))
@options
@click.option("--all", "with_expired", is_flag=True, help="Those that have expired too.")
@JSON
def list_increases(deployment: Deployment, with_expired: bool, as_json: bool) -> None:
    """List the increases in force."""
    with deployment.enforcer() as api:
        found = api.get("/v1/increases")["increases"]
    found = [item for item in found if with_expired or item["state"] != "expired"]
    if as_json:
        click.echo(output.as_json(found))
    else:
        click.echo(output.table(COLUMNS, [_row(item) for item in found]))


@command.command(epilog=examples('tollway increase revoke inc_0123456789ab --reason "launch is over"'))
@options
@click.argument("increase_id", metavar="ID")
@click.option("--reason", default="", help="Why; kept in the audit chain.")
@JSON
def revoke(deployment: Deployment, increase_id: str, reason: str, as_json: bool) -> None:
    """End the increase ID now, on every replica."""
    from urllib.parse import quote

    from deploy.supervisor.bootstrap import actor

    with deployment.enforcer() as api:
        ended = api.call(
            "DELETE", f"/v1/increases/{quote(increase_id, safe='')}", query={"actor": actor(), "reason": reason}
        )
    click.echo(output.as_json({"revoked": True, **ended}) if as_json else f"{increase_id} is revoked")


def _until(text: str) -> int:
    try:
        return when.unix_ms(when.future(text, datetime.now(UTC)))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--until") from error


def _row(item: dict[str, Any]) -> tuple[Any, ...]:
    return (
        item["id"], item["rule"], item["scope"], item["size"], when.text_of_ms(item["expires_ms"]), item["state"],
        item["requested_by"], item["approved_by"], item["reason"],
    )  # fmt: skip
