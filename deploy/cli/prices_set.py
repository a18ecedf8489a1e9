"""`tollway prices set`: one price by hand, with a worked example before it is recorded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import click

from deploy.api import Api
from deploy.cli import when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from schemas.errors import ConfigError
from schemas.money import parse_usd
from schemas.price_parts import TokenPrices

CLASSES = tuple(TokenPrices.model_fields)
_MTOK = 1_000_000


def _rates(function: Any) -> Any:
    for name in reversed(CLASSES):
        text = "USD per million tokens."
        function = click.option(f"--{name.replace('_', '-')}", name, metavar="USD", help=text)(function)
    return function


@click.command(epilog=examples(
    "tollway prices set openai gpt-4o --input 2.50 --output 10 --cache-read 1.25 --reason 'price page of today'",
    "tollway prices set openai gpt-4o --org acme --contract --input 2 --output 8 --from 2026-12-01 --reason discount",
    "tollway prices set openai '*' --org acme --contract --percent 15% --reason 'contract 7'",
    "tollway prices set openai gpt-4o --unit 'web_search=10 USD per 1000' --input 2.50 --output 10 --reason searches",
    "tollway prices set gpu llama-3 --gpu-hour '2.50 USD' --tokens-per-hour 9_000_000 --reason 'measured in November'",
    "tollway prices set openai gpt-4o --org acme --contract --withdraw --reason 'contract 7 has ended'",
))  # fmt: skip
@options
@click.argument("provider")
@click.argument("model")
@_rates
@click.option("--request", metavar="USD", help="USD a request, beside the tokens.")
@click.option(
    "--unit",
    "units",
    multiple=True,
    metavar="NAME=PRICE",
    help="What is billed beside tokens, such as 'web_search=10 USD per 1000'. May be given several times.",
)
@click.option("--percent", metavar="PERCENT", help="Off the list price, in place of rates: 15%.")
@click.option(
    "--of",
    multiple=True,
    metavar="NAME",
    help="What --percent is of: a class such as output, a unit, or request. [default: all]",
)
@click.option("--gpu-hour", metavar="USD", help="What an hour of the hardware costs, in place of rates.")
@click.option("--tokens-per-hour", metavar="N", help="Tokens of all classes that it was measured to do an hour.")
@click.option("--org", default="", help="Only for this organisation.")
@click.option("--contract", "kind", flag_value="contract", help="It was negotiated; comes before all others.")
@click.option("--self-hosted", "kind", flag_value="self-hosted", help="We run this model; comes before a list.")
@click.option("--from", "begins", metavar="WHEN", help=f"When it begins, past or future: {when.WAYS}. [default: now]")
@click.option("--to", "ends", metavar="WHEN", help="When it ends. [default: when another one begins]")
@click.option("--withdraw", is_flag=True, help="End such a price: from then on the next kind of price counts.")
@click.option("--reason", required=True, help="Why; kept with the entry and in the audit chain.")
@click.option("--yes", is_flag=True, help="Record without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; asks nothing, so it records only with --yes.")
def command(
    deployment: Deployment, provider: str, model: str, kind: str | None, begins: str | None, ends: str | None,
    org: str, reason: str, yes: bool, as_json: bool, **said: Any,
) -> None:  # fmt: skip
    """Set what MODEL of PROVIDER costs: an override of the list, a contract, or the price of a model of ours.

    PROVIDER is a provider of the policy by its name, MODEL the model as it is served. Rates are USD per million
    tokens. A worked example is shown, and asked about, before anything is recorded.
    """
    from deploy.cli import prices

    item = {
        "provider": provider, "model": model, "org": org, "reason": reason,
        "kind": kind or ("self-hosted" if said["gpu_hour"] else "override"), **_content(said),
        **({"from": _moment("--from", begins)} if begins else {}), **({"to": _moment("--to", ends)} if ends else {}),
    }  # fmt: skip
    document = json.dumps({"prices": [item]})
    with deployment.enforcer() as api:
        shown = _post(api, document, reason, dry_run=True)
        if not as_json:
            prices.show(shown)
        done = shown
        if shown["entries"] and (yes or (not as_json and prices.agreed(shown["entries"]))):
            done = _post(api, document, reason, dry_run=False, base=shown["base"])
    prices.conclude(done, as_json)
    if done["recorded"] and item.get("from", "9") < datetime.now(UTC).isoformat() and not as_json:
        click.echo(f"usage since then keeps its cost until: tollway reprice --since {begins}", err=True)


def _content(said: dict[str, Any]) -> dict[str, Any]:
    """Return what the options say: a price, a percentage, or the end of a price."""
    rates = {name: said[name] for name in CLASSES if said[name] is not None}
    units = dict(_unit(text) for text in said["units"])
    by_hand = {
        **rates,
        **({"request": said["request"]} if said["request"] else {}),
        **({"units": units} if units else {}),
    }
    ways = [bool(by_hand), bool(said["percent"]), bool(said["gpu_hour"]), bool(said["withdraw"])]
    if sum(ways) != 1:
        raise click.UsageError("give rates (--input and --output, --unit), or --percent, or --gpu-hour, or --withdraw")
    if said["of"] and not said["percent"]:
        raise click.UsageError("--of says what --percent is of; give --percent, too")
    if said["withdraw"]:
        return {"withdrawn": True}
    if said["percent"]:
        return {"discounts": [{"percent": said["percent"], "of": list(said["of"])}]}
    return {"price": _by_the_hour(said) if said["gpu_hour"] else by_hand}


def _by_the_hour(said: dict[str, Any]) -> dict[str, str]:
    """Return the rate of all tokens of a model that so many are done of in an hour that costs so much."""
    text = said["tokens_per_hour"]
    digits = (text or "").replace("_", "").replace(",", "")
    if not digits.isdecimal() or not int(digits):
        told = "how many tokens an hour were measured, such as 9_000_000"
        raise click.BadParameter(f"{text!r}: say {told}", param_hint="--tokens-per-hour")
    try:
        nanos = parse_usd(said["gpu_hour"])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--gpu-hour") from error
    usd = Decimal(nanos) * _MTOK / int(digits) / 10**9
    rate = format(usd.quantize(Decimal("1e-9"), ROUND_HALF_EVEN), "f")
    return {"input": rate, "output": rate}


def _unit(text: str) -> tuple[str, str]:
    name, equals, price = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r}: write NAME=PRICE, such as 'images=0.04 USD'", param_hint="--unit")
    return name.strip(), price.strip()


def _moment(option: str, text: str) -> str:
    now = datetime.now(UTC)
    try:
        return when.past(text, now).isoformat()
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _post(api: Api, document: str, reason: str, *, dry_run: bool, base: int | None = None) -> dict[str, Any]:
    from deploy.supervisor.bootstrap import actor

    body = {"document": document, "reason": reason, "actor": actor(), "dry_run": dry_run, "base": base}
    try:
        answer: dict[str, Any] = api.post("/v1/prices", body)
    except ConfigError as error:
        raise ConfigError(
            [problem.removeprefix("prices: ").removeprefix("prices.0.") for problem in error.problems]
        ) from error
    return answer
