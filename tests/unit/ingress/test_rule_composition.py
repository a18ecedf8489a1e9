"""How rules compose: every row of the tables of docs/rules.md is a policy, requests, and what has to come of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ingress.core.admission import Registry
from ingress.core.caps import broken_cap
from ingress.core.overrides import Overrides
from ingress.core.plan import Denied, Hold, Plan
from ingress.core.resolver import Refused
from schemas.money import parse_usd
from schemas.overrides import Freeze, Increase
from tests.unit.ingress.governed import START_MS, key_of, member_of, resolver_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "rules.md"
WORLD = """
orgs: {acme: {teams: [search, ml]}, other: {teams: [search]}}
providers: {p: {protocol: openai, base_url: simulated}}
models:
  big: {provider: p, downgrade: small}
  big-alias: {provider: p, upstream: big}
  small: {provider: p}
"""
TOLD = {"block": "refused", "queue": "queued", "throttle": "throttled", "downgrade": "downgraded"}
_CODE = re.compile(r"`([^`]*)`")
_TIMES = re.compile(r"^(\d+)× ?")


class Case(NamedTuple):
    """One row of a table."""

    title: str
    rules: str
    requests: str
    answers: str


def _cases() -> list[Case]:
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| ") else []
        if len(cells) == 4 and cells[0]:
            rules, requests, answers = ("\n".join(_CODE.findall(cell)) for cell in cells[1:])
            found.append(Case(cells[0], rules, requests, answers))
    return found


CASES = _cases()


def _repeated(text: str) -> list[str]:
    """Return the items of a cell, each as often as it is to happen."""
    items = []
    for item in text.split(";"):
        times = _TIMES.match(item.strip())
        items += [_TIMES.sub("", item.strip())] * (int(times[1]) if times else 1)
    return items


class World:
    """One replica with the whole of every limit, a clock, and the policy of a case."""

    def __init__(self, rules: str) -> None:
        self.now_ms = START_MS
        self.overrides = Overrides()
        document = yaml.safe_load(WORLD) | yaml.safe_load(rules)
        self.resolver = resolver_of(
            yaml.safe_dump(document), registry=member_of(Registry(1)), prices={}, overrides=self.overrides
        )
        self.held: list[tuple[Hold, int, int]] = []

    def do(self, item: str) -> str | None:
        """Do what an item of the requests says; return what came of it if it is a request."""
        word, _, rest = item.partition(" ")
        if word == "wait":
            self.now_ms += int(rest.removesuffix("s")) * 1000
        elif word == "settle":
            self._settle(rest)
        elif word in ("freeze", "release"):
            self.overrides.put_freeze(rest, Freeze(rest, "why", "bob", self.now_ms) if word == "freeze" else None)
            self.resolver.forget_plans()
        elif word == "increase":
            self._increase(*rest.split(" "))
        else:
            return self._request(dict(part.split("=", 1) for part in item.split(" ") if part))
        return None

    def _settle(self, rest: str) -> None:
        used = dict(part.split("=") for part in rest.split(" ") if part)
        for hold, tokens, nanos in self.held:
            hold.settle(1, int(used.get("tokens", tokens)), nanos)
        self.held.clear()

    def _increase(self, rule: str, percent: str, scope: str) -> None:
        number = f"i{len(self.overrides.increases)}"
        size = int(percent.removesuffix("%"))
        end_ms = self.now_ms + 10**9
        self.overrides.put_increase(
            number, Increase(number, rule, scope, "why", "ann", "bob", self.now_ms, end_ms, percent=size)
        )
        self.resolver.set_limits()

    def _request(self, words: dict[str, str]) -> str:
        model, route = words.pop("model", "big"), words.pop("route", "chat.completions")
        tokens, nanos = int(words.pop("tokens", "10")), parse_usd(words.pop("usd", "0") + " USD")
        size = int(words.pop("input", "1")), int(words.pop("output", "1"))
        tags = {name[5:]: words.pop(name) for name in list(words) if name.startswith("tags.")}
        fields: dict[str, Any] = {"org": "acme", "team": "search", "id": "k1", "tier": int(words.pop("tier", "1"))}
        fields |= {"id" if name == "key" else name: value for name, value in words.items()}
        fields["id"] = "-".join((*map(str, fields.values()), *tags.values()))
        if "key" in words:
            fields["id"] = words["key"]
        plan = self.resolver.plan(key_of(**fields, tags=tags), model, route)
        if isinstance(plan, Refused):
            return plan.reason
        return self._admit(plan, tokens, nanos, size)

    def _admit(self, plan: Plan, tokens: int, nanos: int, size: tuple[int, int]) -> str:
        broken = broken_cap(plan.caps, "openai", "max_tokens", *size, nanos)
        if broken is not None:
            return f"capped by {broken.rule}"
        outcome = plan.admit(self.now_ms, tokens, nanos)
        if isinstance(outcome, Denied):
            return f"{TOLD[outcome.action]} by {outcome.rule}"
        self.held.append((outcome, tokens, nanos))
        notes = ", ".join(f"{note.kind} {note.rule}" for note in outcome.notes)
        return f"ok ({notes})" if notes else "ok"


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_a_row_of_the_tables_is_what_happens(case: Case) -> None:
    """The page is the specification: what it says of each composition is tried as it stands."""
    world = World(case.rules)
    answers = [answer for item in _repeated(case.requests) if (answer := world.do(item)) is not None]
    assert answers == _repeated(case.answers)


def test_the_tables_are_whole() -> None:
    """Every table of the page is read, and no two rows say the same."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| | ")]
    assert len(rows) == len(CASES) > 50
    assert len({(case.rules, case.requests) for case in CASES}) == len(CASES)
    assert len({case.title for case in CASES}) == len(CASES)
