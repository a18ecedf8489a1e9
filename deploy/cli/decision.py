"""`tollway decision`: why a request was refused."""

from __future__ import annotations

import time
from typing import Any

import click

from deploy.api import Api, NotFound
from deploy.cli import output
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples

ARRIVES_WITHIN_S = 2.0


@click.command(epilog=examples("tollway decision 0192f0c1-2b7e-7c33-9d2a-6a1f0e7d4b55"))
@options
@click.argument("decision_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(deployment: Deployment, decision_id: str, as_json: bool) -> None:
    """Show the refusal ID (header x-tollway-decision-id): rule, row, limit, use, weight, fence, policy version."""
    from urllib.parse import quote

    with deployment.enforcer() as api:
        found = _found(api, f"/v1/decisions/{quote(decision_id, safe='')}")
    if as_json:
        click.echo(output.as_json(found))
        return
    flat = {}
    for name, value in found.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": shown for inner, shown in value.items()})
        else:
            flat[name] = value
    click.echo(output.pairs(flat))


def _found(api: Api, path: str) -> dict[str, Any]:
    """Return a decision; one that was made a moment ago may still be on its way."""
    deadline = time.monotonic() + ARRIVES_WITHIN_S
    while True:
        try:
            found: dict[str, Any] = api.get(path)
        except NotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return found
