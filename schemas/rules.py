"""Limits and budgets: what they match, what they count, and what happens at the cap.

A rule counts within one organisation: the scope of every rule begins with `org`. What several rules that match one
request come to is in docs/rules.md.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from schemas.fields import (
    Attribute,
    Count,
    DocumentPart,
    Globs,
    Milliseconds,
    Name,
    Part,
    Percent,
    PeriodText,
    PolicyProblems,
    Tier,
    Usd,
    Zone,
    glob_match,
)
from schemas.rows import Measure
from schemas.windows import MINUTE, Period, Span

Mode = Literal["enforce", "soft", "shadow"]
Action = Literal["warn", "throttle", "downgrade", "queue", "block"]
FinalUnit = Literal["finish", "terminate", "downgrade"]
MAX_WAIT_MS = 60_000
MAX_QUEUE = 10_000
MAX_HOLD_MS = 3_600_000
DEFAULT_HOLD_MS = 900_000
"""The longest that a provider may take unless its timeouts say otherwise."""
DEFAULT_WAIT_MS = 2_000
DEFAULT_QUEUE = 100
_LIMITING = (
    "rpm", "tpm", "rph", "tph", "rpd", "tpd", "concurrency", "max_input_tokens", "max_output_tokens", "max_cost",
)  # fmt: skip


def _rungs(value: Any) -> Any:
    """Refuse a percent that is given twice in different words, such as 80 and 80%."""
    if isinstance(value, Mapping):
        seen = [str(percent).removesuffix("%") for percent in value]
        if len(set(seen)) < len(seen):
            raise ValueError("name each percent once")
    return value


def _climbs(value: dict[int, Action]) -> dict[int, Action]:
    ordered = dict(sorted(value.items()))
    blocks = [percent for percent, action in ordered.items() if action == "block"]
    if blocks and max(ordered) > min(blocks):
        raise ValueError(f"beyond {min(blocks)}% everything is blocked; remove the rungs above it")
    return ordered


Rung = Annotated[Percent, Field(ge=1, le=100)]
Ladder = Annotated[
    dict[Rung, Action], BeforeValidator(_rungs), Field(min_length=1), AfterValidator(_climbs)
]  # fmt: skip


class Counted(NamedTuple):
    """One measure that a rule limits over one span: a counter of its own in each scope and window."""

    measure: Measure
    span: Span
    limit: int
    """In the measure's unit; as the document says it, before schedules and increases."""
    zone: str = "UTC"

    @property
    def period(self) -> Period:
        """The period of its windows: with rule and measure it names the counter."""
        return self.span.period


class Queue(DocumentPart):
    """How a rule with the rung `queue` lets requests wait."""

    wait: Annotated[Milliseconds, Field(le=MAX_WAIT_MS)] = DEFAULT_WAIT_MS
    """A request waits no longer than this, at most `1m`; then it is refused."""
    most: int = Field(default=DEFAULT_QUEUE, ge=1, le=MAX_QUEUE)
    """So many requests wait at most, on each replica and in each counter; one more is refused at once."""


class Rule(DocumentPart):
    """What limits and budgets have in common."""

    name: Name
    """Unique among limits and budgets; it is part of row keys, so renaming starts a new count."""
    match: dict[Attribute, Globs] = Field(default={})
    """Attribute → glob or list of globs; the rule applies where all attributes match. A glob behind `!` excludes; a
    list of nothing but exclusions means everything else. Empty: everywhere."""
    per: tuple[Attribute, ...] = ()
    """Attributes that each get a counter of their own; always within one organisation."""
    mode: Mode = "enforce"
    """`soft` never refuses: it warns and records. `shadow` only records what it would have done."""
    ladder: Ladder = Field(default={100: "block"})
    """Percent of the limit → what happens to a request that goes beyond it: `warn`, `throttle`, `downgrade`, `queue`
    or `block`. The highest rung that has begun applies; beyond 100% `block` is understood."""
    queue: Queue | None = None
    """How requests wait on the rung `queue`; left out: 2 s, 100 of them."""
    grace: Part = 0
    """Percent of the limit by which requests of tier 0 may go beyond it."""
    reserve: dict[Tier, Part] = Field(default={})
    """Tier → percent of the limit that is kept for it and for those before it: with `{0: 20%, 1: 10%}` tier 1 may use
    80 %, tier 2 may use 70 %."""

    @property
    def withheld(self) -> tuple[int, int, int]:
        """Percent of the limit that tier 0, 1 and 2 may not use."""
        first, second = self.reserve.get(0, 0), self.reserve.get(1, 0)
        return (0, first, first + second)

    @property
    def rungs(self) -> tuple[tuple[int, str], ...]:
        """The ladder as (percent, action), ascending."""
        return tuple(self.ladder.items())

    @property
    def queue_wait_ms(self) -> int:
        """How long a request may wait; 0 where the ladder has no queue."""
        if "queue" not in self.ladder.values():
            return 0
        return DEFAULT_WAIT_MS if self.queue is None else self.queue.wait

    @property
    def queue_most(self) -> int:
        """How many requests may wait."""
        return DEFAULT_QUEUE if self.queue is None else self.queue.most

    @model_validator(mode="after")
    def _is_of_one_mind(self) -> Self:
        problems = self.problems()
        if problems:
            raise PolicyProblems(problems)
        return self

    def problems(self) -> list[tuple[str, Any, str]]:
        """Return (field, value, remedy) of what does not fit together."""
        found: list[tuple[str, Any, str]] = []
        if self.queue is not None and "queue" not in self.ladder.values():
            found.append(("queue", "", "does nothing without the rung `queue`; add `100%: queue` to the ladder"))
        if 2 in self.reserve:
            found.append(("reserve.2", self.reserve[2], "tier 2 is the last, nothing can be kept for it; remove it"))
        if (kept := sum(self.reserve.values())) >= 100:
            found.append(("reserve", f"{kept}%", "that leaves tier 2 nothing; keep less than 100% in all"))
        return found

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Tell whether the rule applies to a request with `attributes` (see `attributes_of`)."""
        return all(glob_match(globs, attributes.get(name, "")) for name, globs in self.match.items())

    def scope(self, attributes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the scope that a request with `attributes` counts in, `org` first."""
        return (("org", attributes.get("org", "")), *((name, attributes.get(name, "")) for name in self.scope_names))

    @property
    def scope_names(self) -> tuple[str, ...]:
        """Attributes beside `org` that scopes of this rule name, in the rule's order."""
        return tuple(dict.fromkeys(name for name in self.per if name != "org"))

    @abc.abstractmethod
    def counted(self) -> tuple[Counted, ...]:
        """Return what the rule counts."""


class Limit(Rule):
    """Requests and tokens a minute, an hour, a day; requests at once; how large one request may be."""

    rpm: Count | None = None
    """Requests a sliding minute."""
    tpm: Count | None = None
    """Tokens a sliding minute, input and output of every class."""
    rph: Count | None = None
    """Requests an hour of the clock."""
    tph: Count | None = None
    """Tokens an hour of the clock."""
    rpd: Count | None = None
    """Requests a day of the calendar."""
    tpd: Count | None = None
    """Tokens a day of the calendar."""
    timezone: Zone = "UTC"
    """IANA name; hours and days of `rph`, `tph`, `rpd` and `tpd` are its own, daylight saving included."""
    burst: Annotated[Count, Field(ge=1)] | None = None
    """Requests that may come at once: so many, and no more, within the time that `rpm` takes to allow so many."""
    burst_tokens: Annotated[Count, Field(ge=1)] | None = None
    """Tokens that may come at once: so many, and no more, within the time that `tpm` takes to allow so many."""
    concurrency: Count | None = None
    """Requests in flight at once."""
    hold_expires: Annotated[Milliseconds, Field(le=MAX_HOLD_MS)] | None = None
    """A request counts as in flight no longer than this, at most `1h`. Left out: `15m`."""
    max_input_tokens: Count | None = None
    """Tokens that one request may send."""
    max_output_tokens: Count | None = None
    """Tokens that one request may ask for."""
    max_cost: Usd | None = None
    """nano-USD that one request may cost at worst; written as `0.50 USD`."""

    @property
    def hold_expires_ms(self) -> int:
        """After how long a request no longer counts as in flight; 0 without a cap on concurrency."""
        return 0 if self.concurrency is None else self.hold_expires or DEFAULT_HOLD_MS

    @property
    def is_cap(self) -> bool:
        """Whether the rule caps single requests."""
        return (self.max_input_tokens, self.max_output_tokens, self.max_cost) != (None, None, None)

    def problems(self) -> list[tuple[str, Any, str]]:
        """Return (field, value, remedy) of what does not fit together or limits nothing."""
        found = super().problems()
        if not self.counted() and not self.is_cap:
            found.append(("", self.name, f"it limits nothing: set one of {', '.join(_LIMITING)}, or remove the limit"))
        if self.is_cap and self.mode != "enforce":
            remedy = "a cap on single requests is enforced or not there; give it a rule of its own without mode"
            found.append(("mode", self.mode, remedy))
        found += _burst_problems("burst", self.burst, "rpm", self.rpm)
        found += _burst_problems("burst_tokens", self.burst_tokens, "tpm", self.tpm)
        if self.hold_expires is not None and self.concurrency is None:
            found.append(
                ("hold_expires", self.hold_expires, "does nothing without concurrency; set that, or remove it")
            )
        if self.timezone != "UTC" and not self._calendar():
            remedy = "does nothing without rph, tph, rpd or tpd; set one of them, or remove it"
            found.append(("timezone", self.timezone, remedy))
        return found

    def counted(self) -> tuple[Counted, ...]:
        """Return what the rule counts, the minute first; nothing for a rule that only caps single requests."""
        minutes = ((Measure.REQUESTS, self.rpm, self.burst), (Measure.TOKENS, self.tpm, self.burst_tokens))
        counted = []
        for measure, limit, burst in minutes:
            if limit is not None:
                counted.append(Counted(measure, MINUTE, limit))
                if burst is not None:
                    counted.append(_burst(measure, limit, burst))
        counted += self._calendar()
        if self.concurrency is not None:
            counted.append(Counted(Measure.CONCURRENCY, Span(Period.HOUR), self.concurrency))
        return tuple(counted)

    def _calendar(self) -> list[Counted]:
        pairs = (
            (Measure.REQUESTS, Period.HOUR, self.rph), (Measure.TOKENS, Period.HOUR, self.tph),
            (Measure.REQUESTS, Period.DAY, self.rpd), (Measure.TOKENS, Period.DAY, self.tpd),
        )  # fmt: skip
        return [
            Counted(measure, Span(period), limit, self.timezone)
            for measure, period, limit in pairs
            if limit is not None
        ]


def _burst(measure: Measure, rate: int, burst: int) -> Counted:
    """Return the short sliding window that a burst is: as long as a rate a minute takes to allow that much.

    A window is a second at least, so what the rate allows in a second is the smallest burst.
    """
    length_s = max(1, burst * 60 // rate) if rate else 60
    return Counted(measure, Span(Period.ROLLING, length_s), max(burst, -(-rate * length_s // 60)))


def _burst_problems(name: str, burst: int | None, rate_name: str, rate: int | None) -> list[tuple[str, Any, str]]:
    if burst is None:
        return []
    if rate is None:
        return [(name, burst, f"it is filled at {rate_name}; set {rate_name}, or remove it")]
    if burst >= rate:
        return [(name, burst, f"it limits nothing beside {rate_name} {rate}; make it smaller, or remove it")]
    return []


def _carry(value: Any) -> Any:
    return {True: 100, False: 0}.get(value, value) if isinstance(value, bool) else value


class Budget(Rule):
    """Money a period."""

    amount: Usd
    """nano-USD; written as `2_000 USD`."""
    period: PeriodText
    """`hour`, `day`, `week`, `month`, `quarter` or `year` of the calendar in the time zone, a sliding `minute`, or
    a rolling one such as `rolling 30d`."""
    timezone: Zone = "UTC"
    """IANA name; windows begin at its local midnight, daylight saving included."""
    thresholds: tuple[Percent, ...] = (50, 80, 100)
    """Percents of the amount that raise an alert, once a window each."""
    carry_over: Annotated[Part, BeforeValidator(_carry)] = 0
    """`true` or a percent: what a window leaves unused, at most this part of the amount, is added to the next one."""
    strict: bool = False
    """Reserve the most that a request can cost, so that nothing can go beyond the budget."""
    final_unit: FinalUnit = "finish"
    """What happens to an answer that streams when the budget has no more for it: it may `finish`, is ended
    (`terminate`), or finishes and the requests that follow go to a cheaper model (`downgrade`)."""

    def problems(self) -> list[tuple[str, Any, str]]:
        """Return (field, value, remedy) of what does not fit together."""
        found = super().problems()
        if self.carry_over and self.period.slides:
            remedy = "a rolling period has no end at which anything is left; remove it"
            found.append(("carry_over", f"{self.carry_over}%", remedy))
        if self.timezone != "UTC" and self.period.slides:
            found.append(("timezone", self.timezone, "does nothing in a rolling period; remove it"))
        return found

    def counted(self) -> tuple[Counted, ...]:
        """Return the one thing that it counts: cost."""
        return (Counted(Measure.COST, self.period, self.amount, self.timezone),)
