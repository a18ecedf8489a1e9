"""Counts what became of every request under the candidate, beside what had become of it: by group and by rule.

Every replayed request is admitted or refused by the candidate, so `requests = admitted + refused` in every group; that
it was paced, had waited, went to a cheaper model, or was warned of, is counted beside. Integers only; knows no policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

from deploy.backtest.events import PastEvent, Use

MAX_SCOPES = 10_000
MAX_GROUPS = 100_000
RULE = "rule"
GROUPS: dict[str, Callable[[PastEvent], str]] = {
    "org": lambda event: event.org,
    "project": lambda event: event.project,
    "team": lambda event: event.team,
    "user": lambda event: event.user,
    "key": lambda event: event.key,
    "model": lambda event: event.model or event.model_requested,
    "provider": lambda event: event.provider,
    "operation": lambda event: event.operation,
    "day": lambda event: datetime.fromtimestamp(event.occurred_ms // 1000, UTC).date().isoformat(),
}
"""What a report may group by."""
PACES = {"throttle": "throttled", "queue": "queued"}
MARKS = {"warn": "warned", "soft": "warned", "grace": "warned", "shadow": "shadowed"}
"""Kind of a note → what it is counted as."""


@dataclass(frozen=True)
class Hit:
    """A rule that had something to say: where, and what came of it."""

    rule: str
    """Empty where no rule refused: `reason` says what did."""
    measure: str
    scope: str
    reason: str
    kind: str
    """`refuse`, `throttle`, `queue`, `downgrade`, or that of a note: `warn`, `soft`, `grace`, `shadow`."""


@dataclass
class Outcome:
    """What the candidate did with one request."""

    is_admitted: bool
    hits: tuple[Hit, ...] = ()
    waited_ms: int = 0
    paid_nanos: int | None = None
    """Its cost if that is another than before: of the cheaper model."""


@dataclass
class GroupSums:
    """A group of requests, under the candidate and before."""

    requests: int = 0
    admitted: int = 0
    refused: int = 0
    throttled: int = 0
    queued: int = 0
    downgraded: int = 0
    warned: int = 0
    shadowed: int = 0
    refused_before: int = 0
    newly_refused: int = 0
    """Refused by the candidate, served before."""
    newly_admitted: int = 0
    """Served by the candidate, refused before."""
    tokens: int = 0
    """Used before."""
    tokens_avoided: int = 0
    """Used before by what the candidate refuses."""
    cost_nanos: int = 0
    """Known cost before."""
    cost_avoided_nanos: int = 0
    """Known cost of what the candidate refuses, and what cheaper models save."""
    cost_added_nanos: int = 0
    """Estimated cost of what was refused before and is served by the candidate."""
    unpriced_avoided: int = 0
    """Requests that the candidate refuses and whose cost is not known: in none of the amounts."""

    def add(self, other: GroupSums) -> None:
        """Add the sums of another group."""
        for name in NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))


NAMES = tuple(part.name for part in fields(GroupSums))


@dataclass
class RuleSums:
    """What one rule, or one reason other than a rule, did."""

    rule: str
    measure: str
    reason: str
    refused: int = 0
    throttled: int = 0
    queued: int = 0
    downgraded: int = 0
    warned: int = 0
    shadowed: int = 0
    first_ms: int = 0
    last_ms: int = 0
    tokens_avoided: int = 0
    cost_avoided_nanos: int = 0
    scopes: Counter[str] = field(default_factory=Counter)
    """How often in which scope, for the first 10,000 of them."""

    @property
    def hits(self) -> int:
        """How often it had something to say."""
        return self.refused + self.throttled + self.queued + self.downgraded + self.warned + self.shadowed


@dataclass
class Tally:
    """The sums of a replay, by `by` (names of `GROUPS`)."""

    by: tuple[str, ...] = ("team",)
    groups: dict[tuple[str, ...], GroupSums] = field(default_factory=dict)
    rules: dict[tuple[str, str, str], RuleSums] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    """Events that were not replayed, by why."""
    estimated: int = 0
    """Requests refused before whose use is a guess."""
    warm: int = 0
    """Events before the reported time, replayed to fill the windows that hold its beginning."""
    waited_ms: int = 0
    waits: int = 0

    def __post_init__(self) -> None:
        self._names = tuple(GROUPS[name] for name in self.by)

    def leave_out(self, reason: str) -> None:
        """Count an event that cannot be replayed."""
        self.left_out[reason] += 1

    def count(self, event: PastEvent, use: Use, cost_nanos: int | None, outcome: Outcome) -> None:
        """Count a replayed request. `cost_nanos` is what it cost before, estimated if it was refused then."""
        sums = self._group(event)
        sums.requests += 1
        self.estimated += use.is_estimated
        if not event.was_refused:
            sums.tokens += use.tokens
            sums.cost_nanos += cost_nanos or 0
        if outcome.is_admitted:
            self._admitted(sums, event, cost_nanos, outcome)
        else:
            self._refused(sums, event, use, cost_nanos)
        if event.was_refused:
            sums.refused_before += 1
        if outcome.waited_ms:
            self.waits += 1
            self.waited_ms += outcome.waited_ms
        if outcome.hits:
            self._hit(sums, event, use, cost_nanos, outcome)

    def totals(self) -> GroupSums:
        """Return the sums over all groups."""
        total = GroupSums()
        for sums in self.groups.values():
            total.add(sums)
        return total

    def _group(self, event: PastEvent) -> GroupSums:
        name = tuple([name_of(event) for name_of in self._names])
        sums = self.groups.get(name)
        if sums is None:
            if len(self.groups) >= MAX_GROUPS:
                name = ("(others)",) * len(name)
            sums = self.groups.setdefault(name, GroupSums())
        return sums

    def _admitted(self, sums: GroupSums, event: PastEvent, cost_nanos: int | None, outcome: Outcome) -> None:
        sums.admitted += 1
        paid = cost_nanos if outcome.paid_nanos is None else outcome.paid_nanos
        if event.was_refused:
            sums.newly_admitted += 1
            sums.cost_added_nanos += paid or 0
        elif outcome.paid_nanos is not None and cost_nanos is not None:
            sums.cost_avoided_nanos += cost_nanos - outcome.paid_nanos

    def _refused(self, sums: GroupSums, event: PastEvent, use: Use, cost_nanos: int | None) -> None:
        sums.refused += 1
        if event.was_refused:
            return
        sums.newly_refused += 1
        sums.tokens_avoided += use.tokens
        if cost_nanos is None:
            sums.unpriced_avoided += 1
        else:
            sums.cost_avoided_nanos += cost_nanos

    def _hit(self, sums: GroupSums, event: PastEvent, use: Use, cost_nanos: int | None, outcome: Outcome) -> None:
        counted: set[str] = set()
        for hit in outcome.hits:
            name = PACES.get(hit.kind) or MARKS.get(hit.kind) or ("refused" if hit.kind == "refuse" else "downgraded")
            is_first = name not in counted
            counted.add(name)
            if name != "refused" and is_first:
                setattr(sums, name, getattr(sums, name) + 1)
            rule = self._rule(hit, event.occurred_ms)
            setattr(rule, name, getattr(rule, name) + 1)
            if hit.scope and (len(rule.scopes) < MAX_SCOPES or hit.scope in rule.scopes):
                rule.scopes[hit.scope] += 1
            if is_first and not event.was_refused:
                _saved(rule, name, use, cost_nanos, outcome)

    def _rule(self, hit: Hit, now_ms: int) -> RuleSums:
        key = (hit.rule, hit.measure, hit.reason if not hit.rule else "")
        rule = self.rules.get(key)
        if rule is None:
            rule = self.rules[key] = RuleSums(*key, first_ms=now_ms)
        rule.last_ms = now_ms
        return rule


def _saved(rule: RuleSums, name: str, use: Use, cost_nanos: int | None, outcome: Outcome) -> None:
    if name == "refused":
        rule.tokens_avoided += use.tokens
        rule.cost_avoided_nanos += cost_nanos or 0
    elif name == "downgraded" and outcome.paid_nanos is not None and cost_nanos is not None:
        rule.cost_avoided_nanos += cost_nanos - outcome.paid_nanos
