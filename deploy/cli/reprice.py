"""`tollway reprice`: the cost of past usage by the price book of today, posted as corrections."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples

if TYPE_CHECKING:
    from deploy.reprice.plan import Preview, Sums

COLUMNS = ("events", "corrected", "first priced", "without price", "cost so far", "cost by the book", "difference")


@click.command(epilog=examples(
    "tollway reprice --since 2026-11-01 --dry-run",
    "tollway reprice --since 30d --org acme --model gpt-4o-mini",
    "tollway reprice --since 2026-11-01 --until 2026-12-01 --as-of 2026-12-05 --yes --json",
))  # fmt: skip
@options
@click.option("--since", required=True, metavar="WHEN", help=f"Usage from this moment on: {when.WAYS}.")
@click.option("--until", metavar="WHEN", help="Up to, not including, this moment. [default: now]")
@click.option("--org", help="Only of this organisation.")
@click.option("--team", help="Only of this team.")
@click.option("--key", metavar="ID", help="Only of this virtual key.")
@click.option("--provider", help="Only of this provider, by its name in the policy.")
@click.option("--model", help="Only of this model, as it was served.")
@click.option("--as-of", metavar="WHEN", help="By what the price book knew at this moment. [default: now]")
@click.option("--dry-run", is_flag=True, help="Show what would be posted, and post nothing.")
@click.option("--yes", is_flag=True, help="Post without asking.")
@click.option(
    "--timeout", type=click.FloatRange(1), default=120.0, show_default=True, metavar="SECONDS",
    help="How long to wait until the history has all usage.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON; asks nothing, so it posts only with --yes.")
def command(
    deployment: Deployment, since: str, until: str | None, org: str | None, team: str | None, key: str | None,
    provider: str | None, model: str | None, as_of: str | None, dry_run: bool, yes: bool, timeout: float,
    as_json: bool,
) -> None:  # fmt: skip
    """Compute the cost of past usage anew, from its raw usage and the price book, and post the differences.

    Each event is priced with what the book says of the moment of its admission. Nothing is edited: a difference is a
    correction of its own, which points to its event and its price. To run it twice changes nothing; if it breaks off,
    run it again. What has no price keeps the cost that it has.
    """
    from deploy.backtest.history import count
    from deploy.corrections import posting
    from deploy.reprice.events import events
    from deploy.reprice.plan import Corrections
    from deploy.reprice.prices import months_of, read
    from deploy.supervisor.bootstrap import actor

    now = datetime.now(UTC)
    begin, end = _moment("--since", since, now), _moment("--until", until or "now", now)
    if begin >= end:
        raise click.BadParameter(f"{until or 'now'!r} is not after {since!r}", param_hint="--until")
    known_at = None if as_of is None else _moment("--as-of", as_of, now)
    filters = {"org": org, "team": team, "key": key, "provider": provider, "model": model}
    tell = _Progress(as_json)
    with deployment.enforcer(timeout_s=120.0) as enforcer, deployment.history() as history, Corrections() as found:
        seen = posting.up_to_date(enforcer, history, timeout, tell.say)
        tell.total = count(history, _iso(begin), _iso(end), org)
        prices = read(enforcer, known_at, when.unix_ms(now))
        if prices.has_volumes:
            tell.say("counting the use of whole months, which discounts by volume depend on")
            for event in events(history, *months_of(begin, end - 1), {}):
                prices.count(event)
            prices.counted()
        preview = found.compute(events(history, begin, end, filters), prices.of, tell.computed)
        posted = None
        if not as_json:
            click.echo(as_text(preview))
        if (
            preview.total.corrected
            and not dry_run
            and (yes or (not as_json and posting.agreed(preview.total.corrected, "--yes")))
        ):
            detail = {
                "since_ms": begin, "until_ms": end, "as_of_ms": known_at, **{k: v for k, v in filters.items() if v},
                **_object(preview.total),
            }  # fmt: skip
            posted = posting.post(enforcer, seen, found, "reprice", detail, actor(), tell.posted)
    if as_json:
        click.echo(output.as_json(as_object(preview, posted)))
    elif posted is not None:
        click.echo(f"posted {posted['adjustments']:,} corrections as posting {posted['posting']}")
    elif preview.total.corrected:
        click.echo("nothing is posted")


def as_text(preview: Preview) -> str:
    """Return the preview for people: by model, by organisation, and in all."""
    total = preview.total
    if not total.events:
        return "no usage in this time"
    parts = [
        output.table(("model", *COLUMNS), [(name, *_row(sums)) for name, sums in _sorted(preview.by_model)]),
        output.table(
            ("organisation", *COLUMNS),
            [*((name, *_row(sums)) for name, sums in _sorted(preview.by_org)), ("total", *_row(total))],
        ),
    ]
    if total.folded:
        parts.append(
            f"{total.folded:,} events were folded and have a price of several tiers: their cost cannot be told anew"
        )
    if total.unpriced:
        parts.append(
            f"{total.unpriced:,} events have no price for all that they used, and keep the cost that they have"
        )
    if not total.corrected:
        parts.append("every other event costs what the price book says; there is nothing to post" if total.unpriced
                     else "every event costs what the price book says; there is nothing to post")  # fmt: skip
    return "\n\n".join(parts)


def as_object(preview: Preview, posted: dict[str, Any] | None) -> dict[str, Any]:
    """Return the preview for programs."""
    return {
        "total": _object(preview.total),
        "by_model": {name: _object(sums) for name, sums in _sorted(preview.by_model)},
        "by_org": {name: _object(sums) for name, sums in _sorted(preview.by_org)},
        "posted": posted,
    }


def _sorted(found: dict[str, Sums]) -> list[tuple[str, Sums]]:
    return sorted(found.items(), key=lambda item: (-abs(item[1].difference_nanos), item[0]))


def _row(sums: Sums) -> tuple[Any, ...]:
    from schemas.money import format_usd

    return (
        f"{sums.events:,}", f"{sums.corrected:,}", f"{sums.first_priced:,}", f"{sums.unpriced:,}",
        format_usd(sums.before_nanos), format_usd(sums.after_nanos), format_usd(sums.difference_nanos),
    )  # fmt: skip


def _object(sums: Sums) -> dict[str, int]:
    return {**vars(sums), "difference_nanos": sums.difference_nanos}


def _moment(option: str, text: str, now: datetime) -> int:
    try:
        return when.unix_ms(when.past(text, now))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _iso(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat()


class _Progress:
    """Says how far long work is, on standard error."""

    LEAST = 50_000

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._told = 0
        self.total = 0
        """About how many events there are."""

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def computed(self, count: int) -> None:
        self._count("computed", count)

    def posted(self, count: int) -> None:
        self._count("posted", count)

    def _count(self, what: str, count: int) -> None:
        if count < self._told:
            self._told = 0
        if not self._quiet and count - self._told >= self.LEAST:
            self._told = count
            self.say(f"{count:,} {what}, of about {self.total:,} events")
