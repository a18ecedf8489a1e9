"""`tollway decision`: decisions as they were recorded, one by id or a list."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click

from deploy.api import Api, NotFound
from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples

ARRIVES_WITHIN_S = 2.0
COLUMNS = ("decided at", "id", "action", "reason", "rule", "team", "user", "model", "used", "asked", "limit", "avoided")


class ShowGroup(click.Group):
    """A group in which anything that is no command of it is the id of a decision to show."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `show` in front of an id."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=ShowGroup, epilog=examples(
    "tollway decision 0192f0c1-2b7e-7c33-9d2a-6a1f0e7d4b55", "tollway decision list --team search --since 1h",
))  # fmt: skip
def command() -> None:
    """Show and list decisions. `tollway decision ID` shows one; `tollway explain ID` recomputes it from the log."""


@command.command(epilog=examples("tollway decision show 0192f0c1-2b7e-7c33-9d2a-6a1f0e7d4b55"))
@options
@click.argument("decision_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(deployment: Deployment, decision_id: str, as_json: bool) -> None:
    """Show every field of the decision ID (header x-tollway-decision-id)."""
    from urllib.parse import quote

    path = f"/v1/decisions/{quote(decision_id, safe='')}"
    with deployment.enforcer() as api:
        try:
            found = _found(api, path)
        except NotFound:
            if not deployment.history_url:
                raise
            with deployment.history() as history:  # what the enforcer holds is bounded
                found = history.get(path)
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


@command.command("list", epilog=examples(
    "tollway decision list --since 1h", "tollway decision list --rule key-minute --action refuse --limit 20",
    "tollway decision list --team search --json | jq '.decisions[].id'",
))  # fmt: skip
@options
@click.option("--org", default="", help="Of this organisation.")
@click.option("--team", default="", help="Of this team.")
@click.option("--rule", default="", help="By this rule.")
@click.option("--action", default="", help="refuse, queue, throttle, downgrade, terminate, warn, soft, shadow, grace.")
@click.option("--reason", default="", help="rpm, tpm, budget, concurrency, blocked, key_revoked, …")
@click.option("--since", metavar="WHEN", help=f"From this moment on: {when.WAYS}. [default: everything]")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def listed(deployment: Deployment, since: str | None, as_json: bool, **wanted: Any) -> None:
    """List the newest decisions, the newest first. Sums of all of them: tollway report avoided."""
    since_ms = 0
    if since is not None:
        try:
            since_ms = int(when.past(since, datetime.now(UTC)).timestamp() * 1000)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--since") from error
    with deployment.enforcer() as api:
        found = api.get("/v1/decisions", since_ms=str(since_ms), **{name: str(value) for name, value in wanted.items()})
    if as_json:
        click.echo(output.as_json(found))
        return
    rows = [_row(decision) for decision in found["decisions"]]
    click.echo(output.table(COLUMNS, rows) if rows else "no decisions")


def _row(decision: dict[str, Any]) -> tuple[Any, ...]:
    told, money = decision["attribution"], "limit_usd" in decision
    amounts = [decision[f"{name}_usd" if money else name] for name in ("used", "asked", "limit")]
    return (
        decision["decided_at"], decision["id"], decision["action"], decision["reason"], decision["rule"] or "-",
        told["team"] or "-", told["user"] or "-", told["model_requested"] or told["model"] or "-", *amounts,
        decision["cost_avoided_usd"],
    )  # fmt: skip


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
