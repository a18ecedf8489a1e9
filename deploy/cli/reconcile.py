"""`tollway reconcile`: a provider's invoice against our books, and what it says more or less as corrections."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples


@click.command(epilog=examples(
    "tollway reconcile --provider openai --invoice costs.json",
    "tollway reconcile --provider openai --invoice costs.csv --since 2026-11-01 --until 2026-12-01 --approve",
    'tollway reconcile --provider anthropic --invoice report.json --map "Web Search Usage=claude-sonnet-4-5"',
))  # fmt: skip
@options
@click.option("--provider", required=True, help="Whose invoice it is: a provider by its name in the policy.")
@click.option(
    "--invoice", "invoices", required=True, multiple=True, metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What the provider exports about costs, as JSON or CSV; repeatable: all files together are the invoice.",
)  # fmt: skip
@click.option("--since", metavar="DAY", help="First day (UTC) to compare. [default: the invoice's first]")
@click.option("--until", metavar="DAY", help="First day not to compare. [default: the day after the invoice's last]")
@click.option(
    "--exported", metavar="WHEN", help="When it was exported: usage that came in later is told apart, and left alone."
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="NAME=MODEL",
    help="A name on the invoice is this model of ours; repeatable.",
)
@click.option("--approve", is_flag=True, help="Post the corrections after they were shown, without asking.")
@click.option("--dry-run", is_flag=True, help="Show the comparison, and post nothing.")
@click.option(
    "--timeout", type=click.FloatRange(1), default=120.0, show_default=True, metavar="SECONDS",
    help="How long to wait until the history has all usage.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON; asks nothing, so it posts only with --approve.")
def command(
    deployment: Deployment, provider: str, invoices: tuple[Path, ...], since: str | None, until: str | None,
    exported: str | None, maps: tuple[str, ...], approve: bool, dry_run: bool, timeout: float, as_json: bool,
) -> None:  # fmt: skip
    """Compare a provider's invoice with our books by day and model, tell why they differ, and correct the books.

    It reads OpenAI's costs (JSON of its API, or CSV), Anthropic's cost report (JSON of its API, or CSV), and CSV with
    the columns date, model, cost_usd and, if known, tokens. Corrections divide each day's and model's difference over
    those who used it; they are posted only if you say so. The same invoice twice changes nothing.
    """
    from deploy.corrections import posting
    from deploy.reconcile import books, text
    from deploy.supervisor.bootstrap import actor
    from enforcer.core.invoices import read
    from enforcer.core.model_names import match
    from enforcer.core.reconciling import compare, corrections
    from schemas.errors import ConfigError

    said = _said(maps)
    invoice = read({path.name if len(invoices) == 1 else str(path): path.read_bytes() for path in invoices})
    if invoice.faults:
        raise ConfigError(invoice.faults)
    days = [line.day for line in invoice.lines]
    begin, end = _day("--since", since, min(days)), _day("--until", until, max(days) + timedelta(days=1))
    if begin >= end:
        raise click.BadParameter(f"{end} is not after {begin}", param_hint="--until")
    exported_ms = None if exported is None else _moment(exported)
    with deployment.enforcer(timeout_s=120.0) as enforcer, deployment.history() as history:
        seen = posting.up_to_date(enforcer, history, timeout, lambda line: click.echo(line, err=True))
        ours = books.read(history, provider, begin, end, exported_ms)
        names = {line.model for line in invoice.lines if begin <= line.day < end}
        compared = compare(invoice, ours.groups, match(names, ours.known, said), begin, end)
        found = [each for one in compared for each in corrections(one, provider, invoice.sha256)]
        if not as_json:
            click.echo(text.as_text(provider, invoice, compared, found))
        posted = None
        if found and not dry_run and (approve or (not as_json and posting.agreed(len(found), "--approve"))):
            detail = {
                "provider": provider, "sha256": invoice.sha256, "format": invoice.format, "since": begin.isoformat(),
                "until": end.isoformat(), "corrections": len(found),
                "cost_nanos": sum(adjustment.cost_nanos for _, adjustment in found),
            }  # fmt: skip
            posted = posting.post(enforcer, seen, found, "reconcile", detail, actor())
    if as_json:
        click.echo(output.as_json(text.as_object(provider, invoice, compared, found, posted)))
    elif posted is not None:
        click.echo(f"posted {posted['adjustments']:,} corrections as posting {posted['posting']}")
    elif found:
        click.echo("nothing is posted")


def _said(maps: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, Any] = {}
    for text in maps:
        name, equals, model = text.rpartition("=")
        if not (name.strip() and equals and model.strip()):
            raise click.BadParameter(f"{text!r}: write NAME=MODEL, such as 'GPT-4o=gpt-4o'", param_hint="--map")
        found[name.strip()] = model.strip()
    return found


def _day(option: str, text: str | None, default: date) -> date:
    if text is None:
        return default
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a day; write 2026-11-01", param_hint=option) from error


def _moment(text: str) -> int:
    try:
        return when.unix_ms(when.past(text, datetime.now(UTC)))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--exported") from error
