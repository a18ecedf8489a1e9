"""`python -m deploy.kafka`: run the embedded broker in the foreground, fetch its artifacts, lock them anew."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from deploy.kafka import artifacts, broker, config


@click.group(help=__doc__)
def main() -> None:
    """Group the commands."""


@main.command()
@click.option("--state", "state_dir", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--port", type=click.IntRange(1, 65535), help="Default: the port of the last start, else a free one.")
@click.option("--outlive-parent", is_flag=True, help="Do not die with the process that started this one.")
@click.option(
    "--lock-deadline",
    type=click.FloatRange(min=0),
    default=broker.LOCK_DEADLINE_S,
    show_default=True,
    help="Seconds to wait for another broker to leave the state directory.",
)
@click.option(
    "--door",
    "doors",
    type=(click.IntRange(1, 65535), click.IntRange(1, 65535)),
    multiple=True,
    metavar="PORT ADVERTISED",
    help="Listen on PORT as well, and tell clients who come there to connect to ADVERTISED: where a proxy listens.",
)
def run(
    state_dir: Path, port: int | None, outlive_parent: bool, lock_deadline: float, doors: tuple[tuple[int, int], ...]
) -> None:
    """Become the broker: its process id is this one's; SIGTERM stops it cleanly (exit code 143, Java's own)."""
    broker.run(
        state_dir, port, die_with_parent=not outlive_parent, lock_deadline_s=lock_deadline,
        doors=[config.Door(*door) for door in doors],
    )  # fmt: skip


@main.command()
def fetch() -> None:
    """Bring the locked artifacts into the cache and check them; afterwards a start needs no network."""
    jars = artifacts.ensure_jars(artifacts.load_lock(), artifacts.cache_dir())
    click.echo(f"{len(jars)} artifacts in {jars[0].parent}")


@main.command()
def lock() -> None:
    """Resolve the broker's artifacts anew and write artifacts.lock.json."""
    jars = artifacts.write_lock()
    click.echo(f"{len(jars)} artifacts locked in {artifacts.LOCK_FILE.name}")


if __name__ == "__main__":
    try:
        main()
    except (broker.BrokerError, artifacts.ArtifactError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(1)
