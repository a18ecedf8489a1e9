"""`tollway freeze`: refuse everything of a scope, at once, until it is released."""

from __future__ import annotations

import click

from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples

COLUMNS = ("scope", "since", "by", "reason")


@click.command(epilog=examples(
    'tollway freeze org=acme,team=search --reason "a key leaked"',
    'tollway freeze key=key_0123456789ab --reason "runs in circles"',
    'tollway freeze model=gpt-4o --reason "the provider has an incident"',
    "tollway freeze list",
))  # fmt: skip
@options
@click.argument("scope")
@click.option("--reason", help="Why; kept in the audit chain, and told to clients.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(deployment: Deployment, scope: str, reason: str | None, as_json: bool) -> None:
    """Refuse all requests of SCOPE on every replica: attributes and values, such as org=acme,team=search.

    In force within the published time (`tollway --help`). Requests that were admitted before go on to their end.
    `tollway freeze list` shows what is frozen; `tollway release SCOPE` ends it.
    """
    from deploy.supervisor.bootstrap import actor

    if scope == "list":
        with deployment.enforcer() as api:
            found = api.get("/v1/freezes")["freezes"]
        rows = [(item["scope"], when.text_of_ms(item["created_ms"]), item["by"], item["reason"]) for item in found]
        click.echo(output.as_json(found) if as_json else output.table(COLUMNS, rows))
        return
    if not reason:
        raise click.UsageError("say why with --reason; clients are told")
    with deployment.enforcer() as api:
        made = api.post("/v1/freezes", {"scope": scope, "reason": reason, "actor": actor()})
    click.echo(output.as_json(made) if as_json else f"{made['scope']} is frozen: {made['reason']}")
