"""`tollway keys`: the life of virtual keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from schemas import published

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
COLUMNS = ("id", "org", "project", "team", "user", "name", "tier", "models", "created", "expires", "state")

GROUP_HELP = f"""Create, list, move and revoke virtual keys.

A secret is shown once, when its key is created; only its hash is kept. A revoked key is refused on every replica
within {published.REVOCATION_MS} ms.
"""


@click.group(help=GROUP_HELP, epilog=examples(
    "tollway keys create --org acme --project chat --team search --user ada --name laptop",
    "tollway keys list",
    "tollway keys move key_0123456789ab --team ml",
    "tollway keys revoke key_0123456789ab",
))  # fmt: skip
def command() -> None:
    """Hold the commands."""


@command.command(epilog=examples(
    "tollway keys create --org acme --project chat --team search --user ada --name laptop",
    "tollway keys create --org acme --name batch --model 'gpt-*' --tag env=prod --tier 2 --expires 30d --json",
))  # fmt: skip
@options
@click.option("--org", required=True, help="Organisation; one of the policy's.")
@click.option("--project", default="", help="Project of the organisation.")
@click.option("--team", default="", help="Team of the organisation.")
@click.option("--user", default="", help="User of the organisation.")
@click.option("--name", default="", help="What the key is for; shown in lists and reports.")
@click.option("--model", "models", multiple=True, metavar="GLOB", help="Models it may use; repeatable. [default: *]")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Tag for rules and reports; repeatable.")
@click.option("--tier", type=click.IntRange(0, 2), help="0 critical to 2 experimental. [default: the organisation's]")
@click.option("--expires", metavar="WHEN", help=f"When it stops working: {when.WAYS}. [default: never]")
@JSON
def create(
    deployment: Deployment, org: str, project: str, team: str, user: str, name: str, models: tuple[str, ...],
    tags: tuple[str, ...], tier: int | None, expires: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Issue a virtual key and print its id and secret."""
    from deploy.supervisor.bootstrap import actor

    body = {
        "org": org, "project": project, "team": team, "user": user, "name": name, "models": list(models) or ["*"],
        "tags": _tags(tags), "tier": tier, "expires_ms": _expiry(expires), "actor": actor(),
    }  # fmt: skip
    with deployment.enforcer() as api:
        made = api.post("/v1/keys", body)
    key = {name: value for name, value in made["key"].items() if name != "schema"}
    if as_json:
        click.echo(output.as_json({"id": key["id"], "secret": made["secret"], "key": key}))
        return
    click.echo(output.pairs({"id": key["id"], "secret": made["secret"], "expires": when.text_of_ms(_expiry(expires))}))
    click.echo("keep the secret now; it cannot be shown again", err=True)


@command.command("list", epilog=examples("tollway keys list", "tollway keys list --json"))
@options
@JSON
def list_keys(deployment: Deployment, as_json: bool) -> None:
    """List all keys, revoked and expired ones too; never a secret."""
    with deployment.enforcer() as api:
        found = api.get("/v1/keys")["keys"]
    if as_json:
        click.echo(output.as_json(found))
        return
    now_ms = when.unix_ms(datetime.now(UTC))
    click.echo(output.table(COLUMNS, [_row(key, now_ms) for key in found]))


@command.command(epilog=examples(
    "tollway keys move key_0123456789ab --team ml",
    'tollway keys move key_0123456789ab --project code --user "" --tag env=prod --tag owner=',
))  # fmt: skip
@options
@click.argument("key_id", metavar="ID")
@click.option("--project", help="Project it belongs to from now on; empty for none. [default: as it is]")
@click.option("--team", help="Team it belongs to from now on; empty for none. [default: as it is]")
@click.option("--user", help="User it belongs to from now on; empty for none. [default: as it is]")
@click.option(
    "--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Set a tag, or KEY= to take it away; repeatable."
)
@JSON
def move(
    deployment: Deployment, key_id: str, project: str | None, team: str | None, user: str | None,
    tags: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Let the key ID belong to somebody else from now on, on every replica.

    What it has used stays where it was used: reports, limits and budgets of the past are as they were. A key stays in
    its organisation, and keeps its secret.
    """
    from urllib.parse import quote

    from deploy.supervisor.bootstrap import actor

    if project is None and team is None and user is None and not tags:
        raise click.UsageError("say what shall be another: --project, --team, --user or --tag")
    body = {"project": project, "team": team, "user": user, "tags": _tags(tags), "actor": actor()}
    with deployment.enforcer() as api:
        key = api.post(f"/v1/keys/{quote(key_id, safe='')}/move", body)
    if as_json:
        click.echo(output.as_json({"id": key_id, "moved": True, "key": key}))
    else:
        shown = {name: key.get(name) or "-" for name in ("org", "project", "team", "user", "tags")}
        click.echo(output.pairs({"id": key_id, **shown}))


@command.command(epilog=examples("tollway keys revoke key_0123456789ab"))
@options
@click.argument("key_id", metavar="ID")
@JSON
def revoke(deployment: Deployment, key_id: str, as_json: bool) -> None:
    """Refuse the key ID from now on, on every replica."""
    from urllib.parse import quote

    from deploy.supervisor.bootstrap import actor

    with deployment.enforcer() as api:
        answer = api.call("DELETE", f"/v1/keys/{quote(key_id, safe='')}", query={"actor": actor()})
    if as_json:
        click.echo(output.as_json({"id": key_id, "revoked": True, **({"key": answer} if answer else {})}))
    else:
        click.echo(f"{key_id} is revoked")


def _expiry(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return when.unix_ms(when.future(text, datetime.now(UTC)))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error


def _tags(tags: tuple[str, ...]) -> dict[str, str]:
    pairs = [tag.partition("=") for tag in tags]
    for tag, (name, separator, _) in zip(tags, pairs, strict=True):
        if not name or not separator:
            raise click.BadParameter(f"{tag!r}: write KEY=VALUE, such as env=prod", param_hint="--tag")
    return {name: value for name, _, value in pairs}


def _row(key: dict[str, Any], now_ms: int) -> tuple[Any, ...]:
    expires = key.get("expires_ms")
    state = "active"
    if key.get("revoked_ms"):
        state = f"revoked {when.text_of_ms(key['revoked_ms'])}"
    elif expires and expires <= now_ms:
        state = "expired"
    return (
        key["id"], key["org"], *(key.get(name) or "-" for name in ("project", "team", "user", "name")),
        key.get("tier"), " ".join(key.get("models") or ["*"]), when.text_of_ms(key.get("created_ms") or None),
        when.text_of_ms(expires), state,
    )  # fmt: skip
