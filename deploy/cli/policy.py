"""`tollway policy`: the life of the policy document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploy.api import Api
from deploy.cli import backtest, output
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from deploy.cli.when import text_of_ms
from schemas.errors import ConfigError

FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
NOTE = click.option("--note", default="", help="Why; kept in the history.")

CONSEQUENCES = {
    "repriced": "new price",
    "rows_begin": "counts from zero",
    "rows_end": "no longer counts",
    "keys_published": "new key",
    "keys_revoked": "revoked key",
    "keys_orphaned": "key of something the document does not have",
}
"""What else an answer says of a change, and how it is put."""

PARTS = ("orgs", "providers", "models", "limits", "budgets", "schedules", "keys")

GROUP_HELP = """Check, back-test, plan, apply, show and roll back the policy document.

\b
Examples:
  tollway policy show > policy.yaml
  tollway policy check policy.yaml && tollway policy plan policy.yaml
  tollway policy backtest policy.yaml --since 7d
  tollway policy apply policy.yaml --note "more room for search"
  tollway policy rollback 3
"""


@click.group(help=GROUP_HELP)
def command() -> None:
    """Hold the commands."""


@command.command(epilog=examples("tollway policy check policy.yaml"))
@FILE
@JSON
def check(file: Path, as_json: bool) -> int:
    """Report every problem of FILE, each with path, value and remedy. Needs no deployment.

    Warnings name what is valid and probably not meant.
    """
    from schemas.policy_file import load_policy
    from schemas.policy_lint import warnings

    try:
        policy = load_policy(read_file(file), str(file))
    except ConfigError as error:
        if as_json:
            click.echo(output.as_json({"ok": False, "problems": error.problems}))
            return 2
        raise
    counts = {name: len(getattr(policy, name)) for name in PARTS}
    told = warnings(policy)
    if as_json:
        click.echo(output.as_json({"ok": True, **counts, "warnings": told}))
    else:
        for line in told:
            click.echo(f"warning: {line}", err=True)
        click.echo(f"{file}: valid; " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


command.add_command(backtest.command, "backtest")


@command.command(epilog=examples("tollway policy plan policy.yaml"))
@options
@FILE
@JSON
def plan(deployment: Deployment, file: Path, as_json: bool) -> None:
    """Show what applying FILE would change, and which of its models would have no price."""
    with deployment.enforcer() as api:
        _print_changes(_send(api, file, "", dry_run=True), as_json)


@command.command(epilog=examples('tollway policy apply policy.yaml --note "raise the limit of search"'))
@options
@FILE
@NOTE
@JSON
def apply(deployment: Deployment, file: Path, note: str, as_json: bool) -> None:
    """Put FILE in force on every replica; no running request is dropped."""
    with deployment.enforcer() as api:
        _print_changes(_send(api, file, note, dry_run=False), as_json)


@command.command(epilog=examples("tollway policy show > policy.yaml", "tollway policy show 3"))
@options
@click.argument("version", type=int, required=False)
@JSON
def show(deployment: Deployment, version: int | None, as_json: bool) -> None:
    """Print the document in force, or that of VERSION, as YAML."""
    with deployment.enforcer() as api:
        found = api.get("/v1/policy" if version is None else f"/v1/policy/{version}")
    click.echo(output.as_json(found) if as_json else found["document"].removesuffix("\n"))


@command.command(epilog=examples("tollway policy history"))
@options
@JSON
def history(deployment: Deployment, as_json: bool) -> None:
    """List every version that was applied: when, by whom, why."""
    with deployment.enforcer() as api:
        found = api.get("/v1/policy/history")
    versions = found["versions"]
    if as_json:
        click.echo(output.as_json(versions))
        return
    rows = [
        (item["version"], text_of_ms(item["applied_ms"]), item["applied_by"], item["sha256"][:12], item["note"])
        for item in versions
    ]
    click.echo(output.table(("version", "applied", "by", "sha256", "note"), rows))


@command.command(epilog=examples('tollway policy rollback 3 --note "the new limit was too low"'))
@options
@click.argument("version", type=int)
@NOTE
@JSON
def rollback(deployment: Deployment, version: int, note: str, as_json: bool) -> None:
    """Apply the document of VERSION again, as a new version."""
    from deploy.supervisor.bootstrap import actor

    with deployment.enforcer() as api:
        body = {"version": version, "note": note or f"rollback to version {version}", "actor": actor()}
        _print_changes(api.post("/v1/policy/rollback", body), as_json)


def read_file(file: Path) -> str:
    """Return the text of a file, or of standard input for `-`; ConfigError if it is none."""
    try:
        with click.open_file(str(file), encoding="utf-8") as stream:
            return str(stream.read())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read as text ({error}); name a policy document in YAML"]) from error


def _send(api: Api, file: Path, note: str, *, dry_run: bool) -> dict[str, Any]:
    from deploy.supervisor.bootstrap import actor
    from schemas.policy_file import load_policy

    text = read_file(file)
    load_policy(text, str(file))  # its faults name the file; the service knows only a document
    body = {"document": text, "note": note, "actor": actor(), "dry_run": dry_run}
    try:
        answer: dict[str, Any] = api.post("/v1/policy", body)
    except ConfigError as error:
        raise ConfigError([f"{file}: {problem}" for problem in error.problems]) from error
    return answer


def _print_changes(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(output.as_json(answer))
        return
    changes = answer.get("changes") or []
    if changes:
        rows = [(change["path"], change.get("before"), change.get("after")) for change in changes]
        click.echo(output.table(("path", "before", "after"), rows))
    else:
        click.echo("no changes")
    for name, meaning in CONSEQUENCES.items():
        for item in answer.get(name) or []:
            click.echo(f"{meaning}: {output.cell(item)}")
    for model in answer.get("unpriced") or []:
        click.echo(f"warning: model {model} has no price: its spend is unknown and held at `unpriced_reserve`; "
                   f"set models.{model}.price", err=True)  # fmt: skip
    for line in answer.get("warnings") or []:
        click.echo(f"warning: {line}", err=True)
    click.echo(answer["message"], err=True)
