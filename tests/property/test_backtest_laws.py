"""Laws of back-testing: the policy in force reproduces its own history, nothing is lost, sums foot.

The history comes from a simulated replica that drives the real core by itself, and knows nothing of the back-test: it
settles what has ended, admits by the plans, and writes down events as an ingress does.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import example, given, settings

from deploy.backtest.events import PastEvent
from deploy.backtest.replica import Candidate, IdealReplica
from deploy.backtest.tally import GROUPS, GroupSums, Tally
from deploy.backtest.timeline import Timeline
from ingress.core.admission import Registry
from ingress.core.plan import Denied, Hold
from schemas.policy_file import load_policy
from schemas.tokens import TokenUsage
from tests.unit.ingress.governed import START_MS, member_of, plan_of, resolver_of

HEAD = """
orgs: {acme: {teams: [search, chat]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models: {small: {provider: sim, max_output_tokens: 100}}
"""
TEAMS = ("search", "chat")


class Sent(NamedTuple):
    """One request: how long after the one before it comes, whose it is, what it uses, how long it takes."""

    gap_ms: int
    team: int
    tokens: int
    nanos: int
    duration_ms: int


SENT = st.builds(
    Sent, st.sampled_from([0, 0, 1, 50, 2_000, 30_000, 61_000]), st.integers(0, 1), st.integers(0, 300),
    st.integers(0, 300), st.sampled_from([0, 1, 700, 5_000, 90_000]),
)  # fmt: skip
TRAFFIC = st.lists(SENT, min_size=25, max_size=60)
RULES = st.sets(
    st.sampled_from([
        "limits: {name: a, rpm: 7}",
        "limits: {name: b, per: [team], rpm: 4, tpm: 700}",
        "limits: {name: c, tpm: 900}",
        "limits: {name: d, per: [team], concurrency: 2}",
        "limits: {name: e, per: [key], rph: 15, tpd: 4000}",
        "limits: {name: f, match: {team: chat}, rpm: 2, mode: shadow}",
        "limits: {name: g, per: [team], tpm: 500, mode: soft}",
        "budgets: {name: h, amount: 0.000002 USD, period: hour}",
        "budgets: {name: i, per: [team], amount: 0.000003 USD, period: month, timezone: Europe/Berlin}",
        'budgets: {name: j, amount: 0.0000025 USD, period: "rolling 1h"}',
    ]),
    min_size=1, max_size=4,
)  # fmt: skip


def policy_of(rules: Iterable[str]) -> str:
    """Return a document with these rules, each written as `kind: {…}`."""
    parts = [rule.split(": ", 1) for rule in sorted(rules)]
    lists = {kind: ", ".join(text for of, text in parts if of == kind) for kind in ("limits", "budgets")}
    return HEAD + "\n".join(f"{kind}: [{text}]" for kind, text in lists.items())


def simulated(policy: str, traffic: list[Sent]) -> list[PastEvent]:
    """Return what a single replica would have written down under `policy`."""
    registry = member_of(Registry(1))
    resolver = resolver_of(policy, registry=registry, prices={})
    plans = [plan_of(resolver, id=f"key-{team}", team=team) for team in TEAMS]
    running: list[tuple[int, int, Hold, Sent]] = []
    events, now_ms = [], START_MS
    for number, sent in enumerate(traffic):
        now_ms += sent.gap_ms
        while running and running[0][0] <= now_ms:
            _, _, hold, ended = heapq.heappop(running)
            hold.settle(1, ended.tokens, ended.nanos)
        outcome = plans[sent.team].admit(now_ms, sent.tokens, sent.nanos)
        if isinstance(outcome, Hold):
            heapq.heappush(running, (now_ms + sent.duration_ms, number, outcome, sent))
        events.append(event_of(number, now_ms, sent, outcome if isinstance(outcome, Denied) else None))
    return events


def event_of(number: int, now_ms: int, sent: Sent, denied: Denied | None = None) -> PastEvent:
    """Return the event of a request that was served, or refused."""
    team = TEAMS[sent.team]
    whose: tuple[str, str, str, str, str, str, str, str, dict[str, str]] = (
        "acme", "", team, "", f"key-{team}", "small", "small", "sim", {},
    )  # fmt: skip
    name = f"00000000-0000-0000-0000-{number:012x}"
    if denied is None:
        charges = (TokenUsage(sent.tokens), sent.nanos, 1, sent.tokens, sent.nanos, sent.duration_ms)
        return PastEvent(now_ms, name, "settled", "", "chat.completions", *whose, *charges)
    asked = (denied.measure, denied.asked)
    return PastEvent(now_ms, name, "refused", denied.reason, "chat.completions", *whose, TokenUsage(), 0, 0, 0, 0, 0,
                     *asked)  # fmt: skip


def replayed(policy: str, events: Iterable[PastEvent], by: tuple[str, ...] = ("team",), since_ms: int = 0) -> Tally:
    """Return what back-testing `policy` finds."""
    tally = Tally(by)
    timeline = Timeline(IdealReplica(Candidate(load_policy(policy), {}), {}), tally, since_ms)
    for event in events:
        timeline.take(event)
    timeline.finish()
    return tally


@settings(max_examples=80)
@given(RULES, TRAFFIC)
@example(  # what the refused request would have cost is an estimate, and a budget would refuse that
    {"limits: {name: c, tpm: 900}", "budgets: {name: h, amount: 0.000002 USD, period: hour}"},
    [Sent(0, 0, 300, 500, 5_000), Sent(0, 0, 300, 500, 5_000), Sent(0, 0, 300, 500, 5_000), Sent(0, 0, 1, 0, 0)],
)
def test_the_policy_that_was_in_force_refuses_what_it_refused(rules: set[str], traffic: list[Sent]) -> None:
    """Every request that was refused is refused again, by a rule of the same measure, and no other is."""
    policy = policy_of(rules)
    events = simulated(policy, traffic)
    tally = replayed(policy, events)
    totals = tally.totals()
    assert (totals.newly_refused, totals.newly_admitted) == (0, 0)
    assert totals.refused == totals.refused_before == sum(event.was_refused for event in events)
    assert totals.requests == len(traffic)
    assert (totals.cost_avoided_nanos, totals.cost_added_nanos) == (0, 0)
    measures = {event.measure for event in events if event.was_refused}
    assert measures <= {rule.measure for rule in tally.rules.values() if rule.refused}


@settings(max_examples=40)
@given(RULES, TRAFFIC)
def test_a_policy_without_limits_refuses_nothing(rules: set[str], traffic: list[Sent]) -> None:
    """Whatever was refused before is let through, and no rule has anything to say."""
    events = simulated(policy_of(rules), traffic)
    tally = replayed(policy_of(()), events)
    totals = tally.totals()
    assert (totals.refused, totals.admitted, tally.rules) == (0, len(traffic), {})
    assert totals.newly_admitted == totals.refused_before == sum(event.was_refused for event in events)


@settings(max_examples=50)
@given(RULES, RULES, TRAFFIC, st.sets(st.sampled_from(sorted(GROUPS)), min_size=1, max_size=3))
def test_nothing_is_lost_and_sums_foot(before: set[str], after: set[str], traffic: list[Sent], by: set[str]) -> None:
    """In every group requests are admitted or refused; changes, costs and rules add up, however it is grouped."""
    events = simulated(policy_of(before), traffic)
    tally = replayed(policy_of(after), events, tuple(sorted(by)))
    total = GroupSums()
    for sums in tally.groups.values():
        assert sums.requests == sums.admitted + sums.refused
        assert sums.refused - sums.newly_refused == sums.refused_before - sums.newly_admitted
        assert 0 <= sums.cost_avoided_nanos <= sums.cost_nanos
        total.add(sums)
    assert total.requests + sum(tally.left_out.values()) == len(events)
    assert total.cost_nanos == sum(event.charge_nanos for event in events)
    assert total.refused == sum(rule.refused for rule in tally.rules.values())
    assert total.cost_avoided_nanos == sum(rule.cost_avoided_nanos for rule in tally.rules.values())
    assert total == replayed(policy_of(after), events, ("org",)).totals()


@settings(max_examples=50)
@given(TRAFFIC, st.integers(1, 6), st.integers(1, 4))
def test_what_is_let_through_is_within_the_candidate(traffic: list[Sent], day: int, at_once: int) -> None:
    """By a count of its own: never more a day than the limit, never more at once, and no refusal below both."""
    candidate = policy_of([f"limits: {{name: a, rpd: {day * 5}, concurrency: {at_once}}}"])
    events = simulated(policy_of(()), traffic)
    tally = replayed(candidate, events)
    counts: dict[int, int] = {}
    running: list[int] = []
    admitted = 0
    for event in events:
        today = event.occurred_ms // 86_400_000
        running = [end_ms for end_ms in running if end_ms > event.occurred_ms]
        if counts.get(today, 0) < day * 5 and len(running) < at_once:
            counts[today] = counts.get(today, 0) + 1
            running.append(event.occurred_ms + event.duration_ms)
            admitted += 1
    assert tally.totals().admitted == admitted


@settings(max_examples=40)
@given(RULES, TRAFFIC, st.integers(0, 119))
def test_what_came_before_fills_windows_and_is_not_told(rules: set[str], traffic: list[Sent], first: int) -> None:
    """A report from a moment on is the end of the report from the beginning on: only the counts before are missing."""
    policy = policy_of(rules)
    events = simulated(policy_of(()), traffic)
    since_ms = events[min(first, len(events) - 1)].occurred_ms
    early = [event for event in events if event.occurred_ms < since_ms]
    whole, tail, head = replayed(policy, events), replayed(policy, events, since_ms=since_ms), replayed(policy, early)
    total = tail.totals()
    total.add(head.totals())
    assert total == whole.totals()
    assert tail.warm == len(early)
