"""`tollway verify`: waits until the loop is at rest and compares the ledgers; mends the history where it can."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import click

from deploy.api import Api
from deploy.cli import mend, output
from deploy.cli.compare import FIELDS, Comparison, add_up, compare, hours, total
from deploy.cli.deployment import Deployment, options
from deploy.cli.examples import examples
from schemas.errors import TransportError
from schemas.money import format_usd

ROLLUPS = ("rollups", "actors")
"""Rollups by the hour, and by the day and actor."""
POLL_S = 0.25
STILL_S = 5.0
"""Ledgers that differ and have not moved for this long, with nothing on the way and all at work, are different."""
SILENT_MS = 2_000
"""A meter at work publishes to every partition several times a second."""
COLUMNS = ("key", "events", "requests", "input", "output", "cost", "unpriced", "agree")


@dataclass(frozen=True)
class Reading:
    """All ledgers at one moment."""

    comparisons: tuple[Comparison, ...]
    pending: int | None
    """Events that replicas have in their logs and the broker has not; None where no replica can be asked."""
    down: tuple[str, ...] = ()
    """Replicas that do not answer, and may have more in their logs."""
    away: str = ""
    """Who does not fold or store at the moment, in words: what differs may be about to agree."""

    @property
    def on_the_way(self) -> str:
        """Return in words what may still come, empty if nothing."""
        if self.down:
            return f"{', '.join(self.down)} does not answer"
        return f"{self.pending} events have not reached the broker" if self.pending else ""

    @property
    def agrees(self) -> bool:
        """Whether every ledger says the same and nothing is on its way."""
        return not self.on_the_way and all(item.agrees for item in self.comparisons)


@click.command(
    epilog=examples("tollway verify", "tollway verify --timeout 120 --json | jq .ok", "tollway verify --repair --yes")
)
@options
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the loop to come to rest.",
)
@click.option("--repair", is_flag=True, help="Mend the history where its ledgers differ, from the log and its events.")
@click.option("--yes", is_flag=True, help="Repair without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(deployment: Deployment, timeout: float, repair: bool, yes: bool, as_json: bool) -> int:
    """Compare what clients were told, the meter's ledger and ClickHouse, to the nano-dollar.

    Per replica and run: the sums that its clients were told, the meter's, ClickHouse's. Per run and hour, of yesterday
    and today: the meter's and ClickHouse's. Per organisation and day: the meter's and ClickHouse's, by each rollup.
    Waits until nothing is on its way; exit code 1 and the first difference if they do not agree. Then the history
    compares every event that it keeps with its rollups, hour by hour, and names the range of the log that differs. With
    --repair it says what can be mended, asks, and does it; the meter is never touched.
    """
    began = time.monotonic()
    with deployment.enforcer(wait_s=timeout) as enforcer, deployment.history(wait_s=timeout) as history:
        replicas = deployment.ingress()

        def read() -> Reading:
            pending, down = _pending(replicas)
            away = away_of(enforcer.get("/v1/status"), history.get("/v1/status"))
            meter, stored = enforcer.get("/v1/ledger"), history.get("/v1/ledger")
            return reading(meter, stored, pending, down, datetime.now(UTC).date(), away)

        found, quiet = settle(read, began + timeout, time.monotonic, time.sleep, _Teller().say)
        audit, repaired = mend.audit(history), None
        if repair and not audit["ok"]:
            repaired = mend.repair(history, yes)
        if repaired is not None:
            audit, again = repaired["after"], time.monotonic() + timeout
            found, quiet = settle(read, again, time.monotonic, time.sleep, _Teller().say)
    waited_s = round(time.monotonic() - began, 2)
    if as_json:
        told = {**as_object(found, quiet, waited_s), "ok": found.agrees and audit["ok"]}
        click.echo(output.as_json({**told, "audit": audit, "repaired": repaired}))
    else:
        click.echo("\n".join([as_text(found, quiet), *mend.text_of(audit)]))
    return 0 if found.agrees and audit["ok"] else 1


def reading(
    meter: Any, history: Any, pending: int | None, down: tuple[str, ...], today: date, away: str = ""
) -> Reading:
    """Return the comparison of the answers of both `/v1/ledger`."""
    rows = meter["rows"]
    compared = compare(
        meter=add_up(rows, "totals"),
        told=add_up(rows, "told"),
        clickhouse=add_up(history["events"], "totals"),
        rollups={name: add_up(history[name], "totals") for name in ROLLUPS},
        today=today,
    )
    # An hour comes before its run: where both differ it is what is named.
    by_hour = hours(rows, add_up(meter["hours"], "totals"), add_up(history["hours"], "totals"), history["hours_from"])
    return Reading((*by_hour, *compared), pending, down, away)


def away_of(enforcer: Any, history: Any) -> str:
    """Return who is not at work by the answers of both `/v1/status`, in words; empty if all are."""
    if any(shard["staleness_ms"] is None or shard["staleness_ms"] > SILENT_MS for shard in enforcer["partitions"]):
        return "the meter publishes nothing"
    return f"the history waits for {history['waiting'][0]}" if history["waiting"] else ""


def settle(
    read: Callable[[], Reading], deadline: float, clock: Callable[[], float], sleep: Callable[[float], None],
    say: Callable[[str], None],
) -> tuple[Reading, bool]:  # fmt: skip
    """Read until all agrees twice in a row, or differs and stands still, or the deadline; tell which.

    Returns:
        The last reading, and whether the loop had come to rest.
    """
    last: Reading | None = None
    still_since = clock()
    while True:
        found = read()
        now = clock()
        if found != last:
            still_since = now
        elif found.agrees or (not (found.on_the_way or found.away) and now - still_since >= STILL_S):
            return found, True
        if now >= deadline:
            return found, False
        if not found.agrees:
            say(_why(found))
        last = found
        sleep(POLL_S)


def _why(found: Reading) -> str:
    if found.on_the_way:
        return f"waiting: {found.on_the_way}"
    if found.away:
        return f"waiting: {found.away}"
    return f"waiting: {next(item.first_difference() for item in found.comparisons if not item.agrees)}"


def as_object(found: Reading, quiet: bool, waited_s: float) -> dict[str, Any]:
    """Return the result for programs."""
    differing = [item for item in found.comparisons if not item.agrees]
    return {
        "ok": found.agrees,
        "quiet": quiet,
        "waited_s": waited_s,
        "pending_events": found.pending,
        "down": list(found.down),
        "first_difference": differing[0].first_difference() if differing else None,
        "organisations": total(found.comparisons, "org="),
        "instances": total(found.comparisons, "instance="),
        "keys": [
            {"key": item.key, "agree": item.agrees, "differing": list(item.differing), **item.sums}
            for item in found.comparisons
        ],
    }


def as_text(found: Reading, quiet: bool) -> str:
    """Return the result for people: a line a key, one for each ledger where they differ, and a verdict.

    Hours that agree are counted alone.
    """
    rows = [row for item in found.comparisons if not (item.is_hour and item.agrees) for row in _rows(item)]
    lines = [output.table(COLUMNS, rows)] if rows else []
    differing = [item for item in found.comparisons if not item.agrees]
    if differing:
        lines.append(f"DIFFERENT: {differing[0].first_difference()}")
    elif found.on_the_way:
        lines.append(f"NOT AT REST: {found.on_the_way}")
    else:
        lines.append(f"all ledgers agree on {len(found.comparisons)} keys" if rows else "no usage yet")
    if not quiet:
        lines.append("the loop did not come to rest within the timeout; stop the traffic, or give --timeout more")
    return "\n".join(lines)


def _rows(item: Comparison) -> list[tuple[Any, ...]]:
    if item.agrees:
        sums = next(iter(item.sums.values()))
        return [(item.key, *_cells(sums), " = ".join(item.sums))]
    return [(item.key, *_cells(sums), f"{name} DIFFERS") for name, sums in item.sums.items()]


def _cells(sums: Any) -> list[Any]:
    shown = [sums.get(name, 0) for name in FIELDS if name != "charge_nanos"]
    cost = FIELDS.index("cost_nanos")
    return [format_usd(value) if index == cost else value for index, value in enumerate(shown)]


def _pending(replicas: dict[str, Api]) -> tuple[int | None, tuple[str, ...]]:
    if not replicas:
        return None, ()
    unsent, down = 0, []
    for role, api in replicas.items():
        try:
            unsent += unsent_of(api.get("/tollway/v1/status"))
        except TransportError:
            down.append(role)
    return unsent, tuple(down)


def unsent_of(status: Any) -> int:
    """Return how many events an ingress has not yet got acknowledged."""
    wal = status.get("wal", status)
    return int(wal.get("unsent_events", wal.get("unsent", 0)))


class _Teller:
    """Says each line once in a row on standard error."""

    def __init__(self) -> None:
        self._last = ""

    def say(self, line: str) -> None:
        if line != self._last:
            click.echo(line, err=True)
        self._last = line
