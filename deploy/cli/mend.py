"""The history's own audit and its repair, as `tollway verify` shows and asks for them."""

from __future__ import annotations

from typing import Any

import click

from deploy.api import Api

SHOWN = 10
"""Differences and steps that are printed; the rest is counted."""


def audit(history: Api) -> Any:
    """Return what the history finds when it compares everything that it keeps, now."""
    return history.post("/v1/audit", {})["audit"]


def text_of(found: Any) -> list[str]:
    """Return an audit in lines: nothing where its ledgers agree."""
    if found["ok"]:
        return []
    first, *others = found["differences"]
    lines = [f"the history's ledgers DIFFER in {len(found['differences'])} places; first: {first['text']}"]
    return lines + _some([f"  {one['text']}" for one in others])


def repair(history: Api, yes: bool) -> Any:
    """Say on standard error what would be done, ask, and do it; return the answer, None where nothing was done."""
    planned = history.post("/v1/repair", {"apply": False})
    for line in plan_text(planned):
        click.echo(line, err=True)
    if not planned["steps"]:
        return None
    if not yes and not click.confirm("do that?", default=False, err=True):
        return None
    done = history.post("/v1/repair", {"apply": True})
    click.echo(f"done; {done['inserted_rows']} events were inserted", err=True)
    return done


def plan_text(planned: Any) -> list[str]:
    """Return a plan in lines."""
    steps = [f"  {number}. {step}" for number, step in enumerate(planned["steps"], 1)]
    lines = ["to repair the history, this would be done:", *_some(steps)] if steps else ["there is nothing to repair"]
    if planned["hopeless"]:
        lines += ["nothing can be done about:", *_some([f"  {text}" for text in planned["hopeless"]])]
    return lines


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"  and {more} more"] if more > 0 else lines
