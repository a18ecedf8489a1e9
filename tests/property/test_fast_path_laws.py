"""The fast way of admission says what the slow way would say: it never steps over a rung, and it is taken."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.core.admission import BLOCKED, Registry
from ingress.core.keyring import Keyring
from ingress.core.plan import Hold, Plan
from ingress.core.verdicts import Denied
from schemas.quota import Member, RowState, Weight
from tests.unit.ingress.governed import (
    EPOCH,
    INSTANCE,
    START_MS,
    install,
    key_of,
    member_of,
    plan_of,
    resolver_of,
    snapshot_of,
)

LADDERS = st.lists(
    st.tuples(st.integers(1, 100), st.sampled_from(["warn", "throttle", "downgrade", "queue", "block"])),
    max_size=3,
    unique_by=lambda rung: rung[0],
)
RULES = st.fixed_dictionaries(
    {
        "measure": st.sampled_from(["rpm", "tpm", "rpd", "concurrency"]),
        "limit": st.integers(1, 400),
        "ladder": LADDERS,
        "mode": st.sampled_from(["", "", "soft", "shadow"]),
        "grace": st.sampled_from(["", "10%"]),
        "reserve": st.sampled_from(["", "{0: 20%, 1: 10%}"]),
    }
)
STEPS = st.one_of(
    st.tuples(st.just("admit"), st.integers(1, 40)),
    st.tuples(st.just("admit"), st.integers(1, 4)),
    st.tuples(st.just("settle"), st.integers(0, 9)),
    st.tuples(st.just("later"), st.sampled_from([300, 20_000, 70_000])),
    st.tuples(st.just("news"), st.integers(0, 300)),
)


def _ladder(rungs: list[tuple[int, str]]) -> str:
    """Return rungs as a policy has them: nothing comes after a block."""
    written: list[str] = []
    for percent, action in sorted(rungs):
        written.append(f"{percent}%: {action}")
        if action == "block":
            break
    return "{" + ", ".join(written) + "}" if written else ""


def _policy(rules: list[dict[str, Any]]) -> str:
    lines = ["orgs: {acme: {teams: [search]}}", "providers: {sim: {protocol: openai, base_url: simulated}}",
             "models: {small: {provider: sim}}", "limits:"]  # fmt: skip
    for number, rule in enumerate(rules):
        rule = rule | {"ladder": _ladder(rule["ladder"])}
        more = "".join(f", {name}: {rule[name]}" for name in ("ladder", "mode", "grace", "reserve") if rule[name])
        lines.append(f"  - {{name: r{number}, per: [org], {rule['measure']}: {rule['limit']}{more}}}")
    return "\n".join(lines)


class Twin:
    """A replica that may be made to go the slow way always."""

    def __init__(self, policy: str, tier: int, *, slow: bool) -> None:
        self.registry = member_of(Registry(1), Weight(2, 3, 0))
        keyring = Keyring()
        keyring.put("k1", key_of())
        resolver = resolver_of(policy, registry=self.registry, keyring=keyring, prices={})
        self.plan: Plan = plan_of(resolver, tier=tier)
        self.slow = slow
        self.holds: list[Hold] = []
        self.number = 1

    def admit(self, now_ms: int, tokens: int) -> tuple[str, ...]:
        """Return what was said: the rung that denies, or the notes of what goes on."""
        if self.slow:
            self.plan._binding.generation = BLOCKED
        outcome = self.plan.admit(now_ms, tokens, 0)
        if isinstance(outcome, Denied):
            return "denied", outcome.action, outcome.rule
        self.holds.append(outcome)
        return ("held", *(f"{note.kind} {note.rung} {note.rule}" for note in outcome.notes))

    def settle(self, which: int) -> None:
        """End one request with less than it has held."""
        if self.holds:
            self.holds.pop(which % len(self.holds)).settle(1, which, 0)

    def news(self, others: int, now_ms: int) -> None:
        """Install what the meter says: what others have, and rights of a half for this replica."""
        self.number += 1
        states = [
            RowState(row.key, others, row.own, row.limit, [row.limit // 2, row.limit // 2], [row.own, others])
            for row in self.plan._binding.all
        ]
        members = [Member(INSTANCE, EPOCH, 0, Weight(1, 2, 0)), Member("other", 1, 0, Weight(1, 2, 1))]
        install(self.registry, snapshot_of(states, number=self.number, fence=self.number, members=members), now_ms)


@settings(max_examples=40, deadline=None)
@given(st.lists(RULES, min_size=1, max_size=3), st.integers(0, 2), st.lists(STEPS, max_size=40))
def test_the_fast_way_says_what_the_slow_way_says(
    rules: list[dict[str, Any]], tier: int, steps: list[tuple[str, int]]
) -> None:
    """No rung, mode, tier or grace is stepped over because a row looked as if it had room."""
    fast, slow = (Twin(_policy(rules), tier, slow=slow) for slow in (False, True))
    now_ms = START_MS
    for step, amount in steps:
        if step == "later":
            now_ms += amount
        elif step == "admit":
            assert fast.admit(now_ms, amount) == slow.admit(now_ms, amount)
        elif step == "settle":
            fast.settle(amount)
            slow.settle(amount)
        else:
            fast.news(amount, now_ms)
            slow.news(amount, now_ms)
