"""Turns faults into what a person reads on standard error, and into the exit code: 1 fault, 2 bad input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from schemas.errors import ConfigError, TollwayError

FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130
EXIT_CODES = "0 ok, 1 fault (a process failed, ledgers differ), 2 bad input or configuration"


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit with its code."""
    sys.exit(code_of(command))


def code_of(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code, with every fault said on standard error."""
    try:
        return command() or 0
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except click.Abort:
        return INTERRUPTED
    except ConfigError as error:
        for problem in error.problems:
            _say(problem)
        return BAD_INPUT
    except TollwayError as error:
        _say(str(error))
        return FAULT
    except BrokenPipeError:
        # The reader has had enough (`| head`); what is still buffered must not be complained about at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _say(problem: str) -> None:
    click.echo(f"{click.style('error:', fg='red')} {problem}", err=True)
