"""`tollway policy backtest`: what a policy would have done to past usage, before anyone applies it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from deploy.cli import output, when
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples

if TYPE_CHECKING:
    from deploy.api import Api
    from deploy.backtest.events import PastEvent
    from deploy.backtest.replica import Candidate
    from deploy.backtest.report import Run
    from deploy.backtest.tally import Tally
    from schemas.keys import VirtualKey

TELL_EVERY_S = 2.0
NAMES = "org, project, team, user, key, model, provider, operation, day"


@click.command(epilog=examples(
    "tollway policy backtest policy.yaml --since 7d",
    "tollway policy backtest tighter.yaml --since 2026-11-01 --until 2026-12-01 --by team,model --format csv",
    "tollway policy backtest tighter.yaml --since 30d --by rule",
    "tollway policy backtest tighter.yaml --since 30d --format json | jq .totals.cost_avoided_usd",
))  # fmt: skip
@options
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--since", metavar="WHEN", required=True, help=f"Report from this moment on: {when.WAYS}.")
@click.option("--until", metavar="WHEN", help="Up to, not including, this moment. [default: now]")
@click.option("--org", metavar="NAME", help="Only requests of this organisation. [default: all]")
@click.option("--by", default="team", show_default=True, metavar="NAMES", help=f"With commas: {NAMES}; or rule.")
@click.option("--reprice", is_flag=True, help="Cost by FILE's own prices and the price book, not as charged.")
@click.option("--format", "format_", type=click.Choice(get_args(output.Format)), default="table", show_default=True,
              help="How to print; CSV has the groups, or with --by rule the rules.")  # fmt: skip
@click.option("--progress", is_flag=True, help="Say every two seconds how far it is, on standard error.")
def command(
    deployment: Deployment, file: Path, since: str, until: str | None, org: str | None, by: str, reprice: bool,
    format_: output.Format, progress: bool,
) -> None:  # fmt: skip
    """Replay past usage through the rules of FILE; tell what it would have refused, delayed and saved.

    Nothing is changed: it reads the history once, in the order of admission, and decides with the code that enforces.
    """
    from deploy.backtest import history, report
    from deploy.backtest.replica import IdealReplica, counted_from_ms
    from deploy.backtest.tally import RULE, Tally
    from deploy.backtest.timeline import Timeline

    now = datetime.now(UTC)
    since_ms, until_ms = _span(since, until, now)
    names = _names(by)
    tally = Tally(() if names == (RULE,) else names)
    with deployment.enforcer() as api:
        candidate = _candidate(file, until_ms, api)
        keys = _keys(api.get("/v1/keys"))
    replica = IdealReplica(candidate, keys, is_repriced=reprice)
    from_ms = counted_from_ms(candidate.policy, since_ms)
    timeline = Timeline(replica, tally, since_ms)
    with deployment.history(timeout_s=600.0) as api:
        events: Iterable[PastEvent] = history.events(api, from_ms, until_ms, org)
        if progress:
            total = history.count(api, _iso(from_ms), _iso(until_ms), org)
            events = _told(events, total, lambda line: click.echo(line, err=True))
        for event in events:
            timeline.take(event)
    timeline.finish()
    run = report.Run(str(file), since_ms, until_ms, from_ms, reprice)
    click.echo(_rendered(run, tally, by, format_))


def _span(since: str, until: str | None, now: datetime) -> tuple[int, int]:
    """Return the reported time in unix milliseconds."""
    since_ms = when.unix_ms(_moment("--since", since, now))
    until_ms = when.unix_ms(now if until is None else _moment("--until", until, now))
    if since_ms >= until_ms:
        end = f"--until ({until})" if until else "now"
        raise click.BadParameter(f"{since!r} is not before {end}; the time is [since, until)", param_hint="--since")
    return since_ms, until_ms


def _moment(option: str, text: str, now: datetime) -> datetime:
    try:
        return when.past(text, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _names(by: str) -> tuple[str, ...]:
    from deploy.backtest.tally import GROUPS, RULE

    names = tuple(dict.fromkeys(part.strip() for part in by.split(",") if part.strip()))
    unknown = [name for name in names if name not in GROUPS and names != (RULE,)]
    if unknown or not names:
        wrong = ", ".join(map(repr, unknown)) or repr(by)
        raise click.BadParameter(f"{wrong} is nothing to group by; use some of {NAMES}, or rule alone",
                                 param_hint="--by")  # fmt: skip
    return names


def _candidate(file: Path, now_ms: int, api: Api) -> Candidate:
    """Return the policy of `file` with its prices of `now_ms`; ConfigError with every problem, each naming the file."""
    from deploy.backtest.replica import Candidate
    from deploy.cli.policy import read_file
    from enforcer.adapters.price_list import PriceList
    from enforcer.core.book import Book
    from enforcer.core.price_changes import apply_entries, served_models, stamp_of
    from enforcer.core.resolution import resolve_all
    from schemas.codec import decode_json
    from schemas.policy_file import load_policy
    from schemas.prices import PriceEntry

    policy, book, prices = load_policy(read_file(file), str(file)), Book(), PriceList()
    for line in api.lines("/v1/prices/book").splitlines():
        book.append(decode_json(PriceEntry, line))
    listed = {
        (provider, model): prices.versions(policy.providers[provider], model, policy.models[name])
        for (provider, model), name in served_models(policy).items()
    }
    for entry in apply_entries(policy, listed, book, stamp_of(book, now_ms, "")):
        book.append(entry)
    found = resolve_all(policy, book, now_ms)
    return Candidate(policy, found.resolved, found.orgs)


def _keys(answer: dict[str, Any]) -> dict[str, VirtualKey]:
    """Return the keys that there are, by id, without their secrets' hashes."""
    from schemas.keys import VirtualKey

    return {key["id"]: msgspec.convert({"schema": "tollway.key/1", "hash": "", **key}, VirtualKey)
            for key in answer["keys"]}  # fmt: skip


def _told(events: Iterable[PastEvent], total: int, say: Callable[[str], None]) -> Iterator[PastEvent]:
    """Yield `events`, and say now and then how many they were."""
    began = told = time.monotonic()
    count = 0
    for count, event in enumerate(events, 1):
        if count % 2_000 == 0 and time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            rate = count / (told - began)
            say(f"{count:,} of about {total:,} events, up to {when.text_of_ms(event.occurred_ms)}, {rate:,.0f}/s")
        yield event
    say(f"{count:,} events in {time.monotonic() - began:.1f} s")


def _iso(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _rendered(run: Run, tally: Tally, by: str, format_: output.Format) -> str:
    from deploy.backtest import report

    if format_ == "json":
        return output.as_json(report.as_dict(run, tally))
    return report.as_csv(tally, by) if format_ == "csv" else report.as_text(run, tally, by)
