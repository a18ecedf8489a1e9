"""`tollway release`: let requests of a frozen scope go on."""

from __future__ import annotations

import click

from deploy.cli import output
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples


@click.command(epilog=examples('tollway release org=acme,team=search --reason "the key is revoked"'))
@options
@click.argument("scope")
@click.option("--reason", default="", help="Why; kept in the audit chain.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(deployment: Deployment, scope: str, reason: str, as_json: bool) -> None:
    """Let requests of SCOPE go on, which was frozen with `tollway freeze SCOPE`."""
    from deploy.supervisor.bootstrap import actor

    query = {"scope": scope, "actor": actor(), "reason": reason}
    with deployment.enforcer() as api:
        ended = api.call("DELETE", "/v1/freezes", query=query)
    click.echo(output.as_json({"released": True, **ended}) if as_json else f"{ended['scope']} is released")
