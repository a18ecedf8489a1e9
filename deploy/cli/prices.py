"""`tollway prices`: what models cost, what a list would change, and what they cost when and since when we know."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from deploy.api import Api
from deploy.cli import output
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from deploy.cli.when import text_of_ms
from schemas.errors import ConfigError

FILE = click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
YES = click.option("--yes", is_flag=True, help="Record without asking.")
MOST = 20
SHOWN = 6
"""Differences of a price that a table shows; --json has all."""
LISTED = ("model", "provider", "organisation", "input", "output", "beside tokens", "list price", "source", "version")
CHANGED = ("model", "provider", "organisation", "kind", "from", "to", "what", "worked example")
HELD = (
    "recorded", "by", "from", "to", "kind", "organisation", "provider", "model", "what it says", "id", "reason",
)  # fmt: skip

GROUP_HELP = """Show, compare, import and set prices, and tell which was known when.

Prices are in a book that only grows: each entry says what a model costs from a moment on, and since when we know.
Recording a price changes the future at once; for usage that is past, post the difference with: tollway reprice
"""


@click.group(help=GROUP_HELP, epilog=examples(
    "tollway prices list",
    "tollway prices diff",
    "tollway prices import --reason 'list of December'",
    "tollway prices set openai gpt-4o --input 2.50 --output 10 --org acme --contract --reason 'contract 7'",
    "tollway prices history gpt-4o",
))  # fmt: skip
def command() -> None:
    """Hold the commands."""


@command.command("list", epilog=examples("tollway prices list", "tollway prices list --json"))
@options
@JSON
def list_prices(deployment: Deployment, as_json: bool) -> None:
    """List the prices that replicas rate with now: USD per million tokens, and what is billed beside tokens.

    Organisations are listed where they pay prices of their own.
    """
    with deployment.enforcer() as api:
        found = api.get("/v1/prices")
    if as_json:
        click.echo(output.as_json(found))
        return
    click.echo(output.table(LISTED, [_listed(model) for model in found["models"]]))
    for model in found["models"]:
        if model["price"] is None:
            click.echo(f"warning: {model['name']} has no price: its spend is unknown and held at `unpriced_reserve`; "
                       f"say it with: tollway prices set {model['provider']} {model['model']} …", err=True)  # fmt: skip


@command.command(epilog=examples("tollway prices diff", "tollway prices diff prices.yaml --json"))
@options
@FILE
@JSON
def diff(deployment: Deployment, file: Path | None, as_json: bool) -> None:
    """Show what FILE, or the price list that Tollway brings along, would change against the book. Records nothing.

    The format of FILE is in docs/prices.md: YAML or JSON, USD per million tokens.
    """
    with deployment.enforcer() as api:
        shown = _post(api, file, "", dry_run=True)
    _print(shown, as_json)


@command.command("import", epilog=examples(
    "tollway prices import", "tollway prices import prices.yaml --reason 'list of December'",
    "tollway prices import prices.yaml --yes --json",
))  # fmt: skip
@options
@FILE
@click.option("--most", default=f"{MOST}%", show_default=True, metavar="PERCENT",
              help="Refuse if a rate changes by more, unless --yes is given.")  # fmt: skip
@click.option("--reason", default="", help="Why; kept with each entry and in the audit chain.")
@YES
@JSON
def import_prices(
    deployment: Deployment, file: Path | None, most: str, reason: str, yes: bool, as_json: bool
) -> None:  # fmt: skip
    """Record what FILE, or the price list that Tollway brings along, says: show the differences and ask first.

    Only differences are recorded, so importing twice changes nothing. With --json nothing is asked, and so nothing
    is recorded without --yes.
    """
    limit = _percent(most)
    with deployment.enforcer() as api:
        shown = _post(api, file, reason, dry_run=True)
        if not as_json:
            _print(shown, as_json=False)
        large = [change for change in shown["changes"] if (change["most_ppm"] or 0) > limit]
        if large and not yes:
            names = ", ".join(dict.fromkeys(change["model"] for change in large))
            raise ConfigError([f"--most {most}: {names} would change by more; look at them with `tollway prices diff`, "
                               "then import with --yes or a higher --most"])  # fmt: skip
        done = shown
        if shown["entries"] and (yes or (not as_json and agreed(shown["entries"]))):
            done = _post(api, file, reason, dry_run=False, base=shown["base"])
    conclude(done, as_json)


@command.command(epilog=examples(
    "tollway prices history gpt-4o", "tollway prices history gpt-4o --org acme --json",
))  # fmt: skip
@options
@click.argument("model")
@click.option("--provider", help="Only of this provider.")
@click.option("--org", help="Only of this organisation.")
@JSON
def history(deployment: Deployment, model: str, provider: str | None, org: str | None, as_json: bool) -> None:
    """Show all that the book ever said of MODEL, in the order in which it was recorded.

    An entry applies from its `from` until its `to`, or until the next entry of its kind begins; of two that begin
    together the one recorded last applies.
    """
    with deployment.enforcer() as api:
        found = api.get("/v1/prices/history", model=model, provider=provider, org=org)["entries"]
    if as_json:
        click.echo(output.as_json(found))
    elif found:
        click.echo(output.table(HELD, [_held(entry) for entry in found]))
    else:
        raise ConfigError([f"{model}: the book has nothing of it; list what it has with: tollway prices list"])


def agreed(count: int) -> bool:
    """Ask whether entries shall be recorded; where nobody can be asked, say which option records them."""
    if not sys.stdin.isatty():
        click.echo("not a terminal: give --yes to record", err=True)
        return False
    return click.confirm(f"record {_count(count, 'entry', 'entries')}?", default=False, err=True)


def conclude(done: dict[str, Any], as_json: bool) -> None:
    """Print how it ended."""
    if as_json:
        click.echo(output.as_json(done))
    elif done["recorded"]:
        recorded = _count(done["entries"], "entry", "entries")
        changed = _count(done["repriced"], "price of a model has", "prices of models have")
        click.echo(f"recorded {recorded} from {done['source']}; {changed} changed", err=True)
    elif done["entries"]:
        click.echo("nothing is recorded", err=True)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def show(found: dict[str, Any]) -> None:
    """Print changes for people, with warnings on standard error."""
    if found["changes"]:
        click.echo(output.table(CHANGED, [_changed(change) for change in found["changes"]]))
    else:
        click.echo("no differences")
    for change in found["changes"]:
        for warning in change["warnings"]:
            click.echo(f"warning: {change['model']}: {warning}", err=True)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(output.as_json(found))
        return
    show(found)
    if found["no_price"]:
        click.echo(f"{found['source']} has no price for: {', '.join(found['no_price'])}", err=True)


def _post(api: Api, file: Path | None, reason: str, *, dry_run: bool, base: int | None = None) -> dict[str, Any]:
    from deploy.cli.policy import read_file
    from deploy.supervisor.bootstrap import actor
    from schemas.price_file import load_prices

    text = None if file is None else read_file(file)
    if text is not None:
        load_prices(text, str(file))  # its faults name the file; the service knows only a document
    body = {"document": text, "reason": reason, "actor": actor(), "dry_run": dry_run, "base": base}
    try:
        answer: dict[str, Any] = api.post("/v1/prices", body)
    except ConfigError as error:
        raise ConfigError([f"{file}: {problem}" for problem in error.problems] if file else error.problems) from error
    return answer


def _percent(text: str) -> int:
    try:
        return int(float(text.removesuffix("%")) * 10_000)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text!r} is no percentage; write it like 20%", param_hint="--most") from error


def _listed(model: dict[str, Any]) -> tuple[Any, ...]:
    price = model["price"]
    if price is None:
        return (model["name"], model["provider"], model["org"], None, None, None, None, "no price", None)
    tier = price["tiers"][0] if price["tiers"] else {}
    listed = price.get("listed")
    was = f"{listed['tiers'][0]['input']} / {listed['tiers'][0]['output']}" if listed and listed["tiers"] else None
    beside = ", ".join(f"{unit} {text}" for unit, text in price.get("units", {}).items()) or None
    return (
        model["name"], model["provider"], model["org"], tier.get("input"), tier.get("output"), beside, was,
        price["source"], price["version"],
    )  # fmt: skip


def _changed(change: dict[str, Any]) -> tuple[Any, ...]:
    return (
        change["model"], change["provider"], change["org"], change["kind"], begin(change["valid_from_ms"]),
        text_of_ms(change["valid_to_ms"]), _differences(change["differences"]), change["example"],
    )  # fmt: skip


def _differences(lines: list[str]) -> str:
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return ", ".join(lines[:SHOWN]) + more or "as before"


def _held(entry: dict[str, Any]) -> tuple[Any, ...]:
    return (
        text_of_ms(entry["recorded_ms"]), entry["recorded_by"], begin(entry["valid_from_ms"]),
        text_of_ms(entry["valid_to_ms"]), entry["kind"], entry["org"], entry["provider"],
        entry["name"] or entry["model"], _says(entry), entry["id"], entry["reason"],
    )  # fmt: skip


def _says(entry: dict[str, Any]) -> str:
    if entry["withdrawn"]:
        return "withdrawn"
    price, parts = entry["price"], []
    if price is not None:
        tier = price["tiers"][0] if price["tiers"] else {}
        parts += [f"{name} {tier[name]}" for name in ("input", "output") if name in tier]
        parts += [f"{unit} {text}" for unit, text in price.get("units", {}).items()]
        parts += [f"and {', '.join(sorted(price['service_tiers']))}"] if price.get("service_tiers") else []
        parts.append(f"({price['version'].partition('#')[0]})")
    for discount in entry["discounts"]:
        of = " ".join([*discount.get("of", []), *discount.get("service_tiers", [])])
        parts.append(f"-{discount['off_ppm'] / 10_000:g}%" + (f" of {of}" if of else ""))
    if entry["volume"] is not None:
        parts.append(f"and more from {entry['volume']['steps'][0]['above']:,} {entry['volume']['by']} a month")
    return " ".join(parts)


def begin(value: int) -> str:
    """Return the moment from which a price applies."""
    return "always" if value == 0 else text_of_ms(value)


def _add() -> None:
    from deploy.cli import prices_set

    command.add_command(prices_set.command, "set")


_add()
