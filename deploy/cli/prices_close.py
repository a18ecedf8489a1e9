"""`tollway prices close`: volume discounts of a month that is over, by the use that the history has."""

from __future__ import annotations

import fnmatch
from datetime import UTC, datetime
from typing import Any

import click

from deploy.api import Api
from deploy.cli import output
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from schemas.money import format_usd, parse_usd

COLUMNS = ("organisation", "provider", "model", "used", "discounts of the month", "entries")


@click.command(epilog=examples("tollway prices close 2026-11", "tollway prices close 2026-11 --yes --json"))
@options
@click.argument("month")
@click.option("--yes", is_flag=True, help="Record without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; asks nothing, so it records only with --yes.")
def command(deployment: Deployment, month: str, yes: bool, as_json: bool) -> None:
    """Settle the volume discounts of MONTH, such as 2026-11 (UTC), by the use that the history has of it.

    While a month runs its requests are priced without volume discounts. Closing records what the month costs with
    them; post the difference with `tollway reprice`. Closing again after late usage corrects it.
    """
    from deploy.cli import prices

    _check(month)
    found: list[dict[str, Any]] = []
    with deployment.enforcer() as api, deployment.history() as history:
        for entry in api.get("/v1/prices/volumes")["entries"]:
            used = _used(history, entry, month)
            found.append({"entry": entry, "used": used, **_close(api, entry, month, used, dry_run=True)})
        if not as_json:
            click.echo(output.table(COLUMNS, [_row(item) for item in found]) if found else "no volume discounts")
        count = sum(item["entries"] for item in found)
        if count and (yes or (not as_json and prices.agreed(count))):
            for item in found:
                item.update(_close(api, item["entry"], month, item["used"], dry_run=False))
    if as_json:
        click.echo(output.as_json(found))
    elif any(item["recorded"] for item in found):
        click.echo(f"recorded; post the differences with: tollway reprice --since {month}-01", err=True)


def _close(api: Api, entry: dict[str, Any], month: str, used: int, *, dry_run: bool) -> dict[str, Any]:
    from deploy.supervisor.bootstrap import actor

    body = {"id": entry["id"], "month": month, "used": used, "actor": actor(), "dry_run": dry_run}
    answer: dict[str, Any] = api.post("/v1/prices/close", body)
    return answer


def _used(history: Api, entry: dict[str, Any], month: str) -> int:
    """Return the use that an entry's discounts depend on: tokens, or nano-USD at list prices."""
    org = "" if not entry["org"] else " AND org = '{}'".format(entry["org"].replace("'", "''"))
    query = (
        "SELECT provider, model, sum(input_tokens + output_tokens) AS tokens, "  # noqa: S608 - checked above
        "toString(sum(ifNull(list_cost_usd, ifNull(cost_usd, 0)))) AS usd FROM usage_events "
        f"WHERE toYYYYMM(occurred_at, 'UTC') = {month.replace('-', '')} AND kind != 'adjustment'{org} "
        "GROUP BY provider, model"
    )
    columns, rows = output.rows_of(history.post("/v1/sql", {"query": query, "format": "json"}))
    matching = [
        row
        for row in output.records(columns, rows)
        if fnmatch.fnmatchcase(row["provider"], entry["provider"]) and fnmatch.fnmatchcase(row["model"], entry["model"])
    ]
    if entry["volume"]["by"] == "tokens":
        return sum(int(row["tokens"]) for row in matching)
    return sum(parse_usd(row["usd"]) for row in matching)


def _check(month: str) -> None:
    try:
        datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as error:
        raise click.BadParameter(f"{month!r} is no month; write it like 2026-11", param_hint="MONTH") from error


def _row(item: dict[str, Any]) -> tuple[Any, ...]:
    entry = item["entry"]
    by_tokens = entry["volume"]["by"] == "tokens"
    used = f"{item['used']:,} tokens" if by_tokens else format_usd(item["used"])
    says = sorted({difference for change in item["changes"] for difference in change["differences"]})
    return entry["org"], entry["provider"], entry["model"], used, ", ".join(says) or "as before", item["entries"]
