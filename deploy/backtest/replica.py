"""The join to the code that enforces: one ideal replica, which has every right and hears of everything at once.

The rules of the candidate are compiled by the resolver of the ingress, and requests are admitted by its plans, with
nothing in between. No snapshot is ever installed but the first, which makes this replica the only member: so it may
have the whole of every limit, and what a request gives back is room again in the same moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from deploy.backtest.events import PastEvent, Use
from deploy.backtest.tally import Hit
from deploy.backtest.timeline import REFUSAL, Delay, Held, Refusal, Try
from ingress.core.admission import Registry
from ingress.core.caps import NO_CAPS, broken_cap
from ingress.core.keyring import Keyring
from ingress.core.ladder import Pacer
from ingress.core.plan import Hold, Plan
from ingress.core.resolver import Refused, Resolver
from ingress.core.verdicts import Denied
from ingress.core.waiting import Ticket
from schemas.keys import VirtualKey
from schemas.money import Price, cost_nanos
from schemas.policy import Policy
from schemas.published import WAITING_PER_ROW
from schemas.quota import Member, Snapshot, Weight
from schemas.rules import Budget

MAX_PLANS = 60_000
INSTANCE, EPOCH = "backtest", 1
THROTTLE, QUEUE, DOWNGRADE = "throttle", "queue", "downgrade"


@dataclass(frozen=True)
class Candidate:
    """The policy that is tried, and the prices of its models by name; a model without a price is left out.

    `org_prices` are those of organisations that pay others, by organisation and name.
    """

    policy: Policy
    prices: Mapping[str, Price]
    org_prices: Mapping[str, Mapping[str, Price]] = field(default_factory=dict)


def counted_from_ms(policy: Policy, since_ms: int) -> int:
    """Return where counting has to begin so that every window that counts at `since_ms` is filled, in unix ms."""
    since_s = since_ms // 1000
    starts = [since_s]
    for rule in policy.rules():
        for counted in rule.counted():
            start = counted.span.window(counted.zone, since_s).start
            looks_back = counted.span.slides or (isinstance(rule, Budget) and rule.carry_over)
            starts.append(counted.span.window(counted.zone, start - 1).start if looks_back else start)
    return min(min(starts) * 1000, since_ms)


class IdealReplica:
    """Admits past requests by a candidate policy.

    Args:
        candidate: what is tried.
        keys: virtual keys as they are now, by id: which models they may use, and their tier.
        is_repriced: whether requests cost what the candidate's prices say, not what they were charged.
    """

    def __init__(self, candidate: Candidate, keys: Mapping[str, VirtualKey], *, is_repriced: bool = False) -> None:
        self._policy = candidate.policy
        self._is_repriced = is_repriced
        self._keys = {**keys, **_listed(candidate.policy)}
        self._registry = Registry(1)
        members = [Member(INSTANCE, EPOCH, 0, Weight(1, 1, 0))]
        snapshot = Snapshot(0, INSTANCE, 1, 1, 0, 0, True, 0, 1, members, [], [])
        self._registry.install(snapshot, INSTANCE, EPOCH, 0)
        self._resolver = Resolver(
            candidate.policy, 0, candidate.prices, Keyring(), self._registry, org_prices=candidate.org_prices
        )
        self._resolver.activate()
        self._plans: dict[tuple[object, ...], Plan | Refused] = {}
        self._pacer = Pacer()
        self._tickets: dict[Ticket, Try] = {}
        self._seq = 0

    @property
    def waits(self) -> int:
        """How many requests wait in line."""
        return len(self._tickets)

    def price(self, event: PastEvent, use: Use) -> tuple[Use, int | None]:
        """Return what a served request takes and cost: as it was charged, or by the candidate's prices."""
        plan = self._plan(event, event.model_requested) if self._is_repriced else None
        if not isinstance(plan, Plan) or not event.usage.total:
            return use, event.cost_nanos
        nanos = cost_nanos(plan.reserve_price, event.usage)
        return use._replace(nanos=nanos), nanos if plan.price is not None else None

    def admit(self, trial: Try, now_ms: int) -> Held | Refusal | Delay | None:
        """Admit, refuse or delay a request; None lets it wait in line. Notes what rules said in `trial.hits`."""
        plan = trial.plan
        if plan is None:
            plan = self._plan(trial.event, trial.event.model_requested)
            if isinstance(plan, Refused):
                return _refused(trial, Hit("", "", "", plan.reason, "refuse"))
            trial.plan = plan
            broken = _over_cap(plan, trial)
            if broken is not None:
                return _refused(trial, broken)
        assert isinstance(plan, Plan)
        return self._climb(trial, plan, self._ask(trial, plan, now_ms), now_ms)

    def served(self, now_ms: int) -> Iterator[tuple[Try, Held | Refusal | Delay]]:
        """Yield those who wait in line no longer."""
        for ticket, outcome in self._registry.waiting.serve(now_ms):
            trial = self._tickets.pop(ticket)
            climbed = self._climb(trial, ticket.plan, outcome, now_ms)
            if climbed is not None:
                yield trial, climbed

    def tidy(self, now_ms: int) -> None:
        """Forget windows that are over, and what would be told to the log."""
        shard = self._registry.shards[0]
        while shard.touched or shard.settling:
            self._seq += 1
            self._registry.cut(0, self._seq)
        self._registry.sweep(now_ms)

    def _ask(self, trial: Try, plan: Plan, now_ms: int) -> Hold | Denied:
        """Admit by what a request used; one that was refused is asked first by what is certain of it."""
        use, event = trial.use, trial.event
        if use.is_estimated and event.measure:
            known = use.known(event.measure)
            outcome = plan.admit(now_ms, known.tokens, known.nanos, passed=trial.passed)
            if isinstance(outcome, Denied):
                return outcome
            outcome.settle(0, 0, 0)
        return plan.admit(now_ms, use.tokens, use.nanos, passed=trial.passed)

    def _climb(self, trial: Try, plan: Plan, outcome: Hold | Denied, now_ms: int) -> Held | Refusal | Delay | None:
        """Go through the rungs as `ingress.core.climb` does; what comes from other replicas is not waited for."""
        while isinstance(outcome, Denied):
            action = outcome.action
            if action == THROTTLE and THROTTLE not in trial.passed:
                trial.passed |= {THROTTLE}
                delay_ms = self._pacer.delay_ms(outcome.row, outcome.wait_ms, now_ms)
                if delay_ms > 0:
                    trial.hits += (_hit(outcome, THROTTLE),)
                    return Delay(now_ms + delay_ms)
            elif action == DOWNGRADE and DOWNGRADE not in trial.passed:
                plan = self._downgrade(trial, plan, outcome)
            elif action == QUEUE and outcome.may_wait and self._enters(trial, plan, outcome, now_ms):
                return None
            else:
                return _refused(trial, _hit(outcome))
            outcome = self._ask(trial, plan, now_ms)
        return _admitted(trial, outcome)

    def _enters(self, trial: Try, plan: Plan, denied: Denied, now_ms: int) -> bool:
        """Let a request wait in the rule's queue, once; False if it was there already, or the queue is full."""
        if any(hit.kind == QUEUE for hit in trial.hits):
            return False
        use = trial.use
        ticket = Ticket(
            plan, use.tokens, use.nanos, 0, 0, tier=plan.tier, since_ms=now_ms, until_ms=now_ms + denied.wait_ms,
            passed=trial.passed, most=denied.wait_most or WAITING_PER_ROW,
        )  # fmt: skip
        if not self._registry.waiting.add(ticket, denied):
            return False
        trial.hits += (_hit(denied, QUEUE),)
        self._tickets[ticket] = trial
        return True

    def _downgrade(self, trial: Try, plan: Plan, denied: Denied) -> Plan:
        """Send a request to the cheaper model of its plan; where there is none, the rung is passed."""
        cheaper = self._plan(trial.event, plan.downgrade) if plan.downgrade else None
        if not isinstance(cheaper, Plan) or cheaper.model in (plan.model, *trial.models) or _over_cap(cheaper, trial):
            trial.passed |= {DOWNGRADE}
            return plan
        trial.hits += (_hit(denied, DOWNGRADE),)
        trial.models += (plan.model,)
        trial.plan = cheaper
        usage, use = trial.event.usage, trial.use
        if usage.total:
            nanos = cost_nanos(cheaper.reserve_price, usage)
        else:  # all that is known of it is a sum of tokens
            before, after = plan.reserve_price.tiers[0], cheaper.reserve_price.tiers[0]
            nanos = use.nanos * (after.input + after.output) // max(1, before.input + before.output)
        trial.use = use._replace(nanos=nanos)
        return cheaper

    def _plan(self, event: PastEvent, model: str) -> Plan | Refused:
        name = (event.key, event.org, event.project, event.team, event.user, model, event.operation,
                tuple(event.tags.items()))  # fmt: skip
        plan = self._plans.get(name)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[name] = self._compiled(event, model)
        return plan

    def _compiled(self, event: PastEvent, model: str) -> Plan | Refused:
        if event.org not in self._policy.orgs:
            return Refused("unknown_org", 403, "the candidate does not have this organisation")
        known = self._keys.get(event.key) or VirtualKey(id=event.key, hash="", org=event.org)
        key = msgspec.structs.replace(
            known, org=event.org, project=event.project, team=event.team, user=event.user, tags=event.tags
        )
        # The resolver keeps plans by key; this key may have had other attributes before.
        self._resolver.forget_key(key.id)
        return self._resolver.plan(key, model, event.operation)


def _listed(policy: Policy) -> dict[str, VirtualKey]:
    """Return the keys that a document lists."""
    names = [name for name in VirtualKey.__struct_fields__ if name != "hash"]
    return {
        entry.id: VirtualKey(hash="", **{name: getattr(entry, name) for name in names if hasattr(entry, name)})
        for entry in policy.keys
    }


def _over_cap(plan: Plan, trial: Try) -> Hit | None:
    """Return the cap on single requests that this one broke by what it used: what it had asked for is not known."""
    if plan.caps is NO_CAPS:
        return None
    usage = trial.event.usage
    broken = broken_cap(plan.caps, "openai", "", usage.all_input, usage.all_output, trial.use.nanos)
    return None if broken is None else Hit(broken.rule, broken.measure, "", broken.reason, "refuse")


def _admitted(trial: Try, hold: Hold) -> Hold:
    if hold.notes:
        trial.hits += tuple(Hit(note.rule, note.measure, note.scope, "", note.kind) for note in hold.notes)
    return hold


def _refused(trial: Try, hit: Hit) -> Refusal:
    trial.hits += (hit,)
    return REFUSAL


def _hit(denied: Denied, kind: str = "refuse") -> Hit:
    return Hit(denied.rule, denied.measure, denied.scope, denied.reason, kind)
