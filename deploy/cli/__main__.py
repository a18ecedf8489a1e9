"""Entry point of the `tollway` command: the groups, their help, and exit codes. Commands are imported when used."""

from __future__ import annotations

import importlib
import logging
import sys
from importlib import metadata
from typing import Any

import click

from deploy.cli import errors, published

COMMANDS = {
    "up": "Start the whole deployment on this machine and keep it running.",
    "status": "Show processes, versions, lag, staleness, budgets and published numbers.",
    "policy": "Check, plan, apply, show and roll back the policy document.",
    "keys": "Create, list, move and revoke virtual keys.",
    "increase": "Grant, list and revoke temporary increases.",
    "freeze": "Refuse everything of a scope until it is released.",
    "release": "Release a frozen scope.",
    "prices": "Show, compare, import and set prices; tell which was known when.",
    "report": "Report what was spent.",
    "batches": "Show the providers' batches and what was charged of them.",
    "reprice": "Price past usage anew by the price book, and post the differences.",
    "reconcile": "Compare a provider's invoice with our books, and correct them.",
    "sql": "Query the history (read only).",
    "verify": "Compare what clients were told, the meter's ledger and ClickHouse.",
    "decision": "Show and list decisions: what was refused, queued, downgraded, and why.",
    "explain": "Tell why a decision was made, and recompute it from the log.",
    "spool": "Look into the write-ahead log of an ingress, or send what a dead one has left.",
    "topics": "Show the table of topics.",
}
"""Name → summary; the module of the same name in this package has a click command `command`."""

HELP = """Meter and enforce the LLM traffic of an organisation.

\b
Examples:
  tollway up                                    start everything, with an example policy and a key
  tollway keys create --org acme --team search --name laptop
  tollway policy apply policy.yaml
  tollway report spend --by team,model --since 7d
  tollway verify

Every command finds the running deployment through its state directory (--state DIR, $TOLLWAY_STATE), or through
--api URL with --token.
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for: `tollway --help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"deploy.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write exit codes and published numbers."""
        with formatter.section("Exit codes"):
            formatter.write_text(errors.EXIT_CODES)
        with formatter.section("Published numbers"):
            for line in published.lines():
                formatter.write_text(line)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"tollway {metadata.version('tollway')}")
        context.exit()


@click.group(
    cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def cli() -> None:
    """Hold the commands."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 fault, 2 bad input or configuration."""
    # Kafka's client complains about each attempt to reach a broker; what comes of it is said by ourselves.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

    def run() -> Any:
        return cli.main(args=arguments, prog_name="tollway", standalone_mode=False)

    errors.run(run)


if __name__ == "__main__":
    main(sys.argv[1:])
