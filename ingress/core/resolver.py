"""The one resolver: secret → key, and (key, model, operation) → plan, compiled from one policy version.

A model is known by the exact names under `models`, and by no other spelling; every name of a served model counts in
the same rows, because rules match and count the served one.

What is enforced, charged, logged and alerted all comes from the plan made here, so it is the same principal and the
same served model. A new policy is a new `Resolver`; keys change in place, and only the changed key's plans go.
Knows no HTTP beyond the status of a refusal, no Kafka, no clock.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import msgspec

from ingress.core.admission import Registry, RowSpec
from ingress.core.caps import NO_CAPS, Cap, Caps
from ingress.core.keyring import Keyring, hash_of
from ingress.core.limits import plan_of as limit_plan
from ingress.core.overrides import Overrides
from ingress.core.plan import Plan
from ingress.core.rows import Ceiling
from schemas.attempts import Drain
from schemas.codec import encode_attribution
from schemas.ids import secret_hash, shard_of
from schemas.keys import VirtualKey
from schemas.money import Price, completed
from schemas.operations import ACCOUNT_OPERATIONS, OPERATIONS
from schemas.policy import DEFAULT_RESERVE, Budget, KeyEntry, Limit, Model, Policy, Provider, attributes_of, tier_of
from schemas.price_parts import price_of
from schemas.rows import Measure, scope_text
from schemas.usage import Attribution

MAX_PLANS = 65_536


class Refused(msgspec.Struct, frozen=True):
    """Why a request cannot be served whatever its limits are. A value, not an exception."""

    reason: str
    """`unknown_key`, `key_revoked`, `key_expired`, `unknown_org`, `unknown_model`, `model_not_allowed`,
    `wrong_operation`, `frozen`."""
    status: int
    message: str
    """What is wrong with which value, and the remedy; for the client."""


_UNKNOWN_KEY = Refused(
    "unknown_key", 401, "This virtual key is not known here. Check it, or ask your platform team for a key."
)


class Resolver:
    """One policy version, compiled. `keyring` and `registry` outlive it."""

    def __init__(
        self, policy: Policy, version: int, prices: Mapping[str, Price], keyring: Keyring, registry: Registry,
        overrides: Overrides | None = None, org_prices: Mapping[str, Mapping[str, Price]] | None = None,
    ) -> None:  # fmt: skip
        """Compile `policy`; rows of rules that it shares with the policy before keep their counts.

        Args:
            policy: the document.
            version: of the policy record.
            prices: by name under `models`; a model without a price is left out.
            keyring: keys of the `keys` topic.
            registry: the rows of this replica. `activate` makes their ceilings those of this policy.
            overrides: increases and freezes of the `policy` topic; none if left out.
            org_prices: by organisation, then as `prices`: prices that only this organisation has.
        """
        self.policy = policy
        self.policy_version = version
        self.max_body_bytes = policy.max_body_bytes
        self.unpriced: Price = completed(
            *(price_of(part, "unpriced_reserve", "-") for part in (policy.unpriced_reserve, DEFAULT_RESERVE))
        )
        self._prices = dict(prices)
        self._org_prices = {} if org_prices is None else org_prices
        self._reserves: dict[str, Price] = {}
        self._keyring = keyring
        self._registry = registry
        self._overrides = Overrides() if overrides is None else overrides
        self._listed = {hash_of(entry.hash): _listed_key(entry) for entry in policy.keys}
        self._plans: dict[str, dict[tuple[str, str], Plan]] = {}
        self._plan_count = 0

    def activate(self) -> None:
        """Make this policy's ceilings those of all rows; call it in the step that puts the resolver into use."""
        for rule in self.policy.rules():
            for part in rule.counted():
                _set_up(self._registry.ceiling(rule.name, part.measure.value, part.period.value), rule)
        self._registry.failure = self.policy.failure
        self.set_limits()

    def set_limits(self) -> None:
        """Give all rows the limits of the document, its schedules and the increases that there are now."""
        counted = [(rule, part) for rule in self.policy.rules() for part in rule.counted()]
        schedules, increases = self.policy.schedules, self._overrides.increases.values()
        for rule, part in counted:
            ceiling = self._registry.ceiling(rule.name, part.measure.value, part.period.value)
            ceiling.plan = limit_plan(rule.name, part.limit, schedules, increases)
        self._registry.set_ceilings(
            (rule.name, part.measure.value, part.period.value, part.limit) for rule, part in counted
        )

    def forget_plans(self) -> None:
        """Drop all plans: which scopes are frozen has changed."""
        self._plans.clear()
        self._plan_count = 0

    def forget_key(self, key_id: str) -> None:
        """Drop the plans of a key that changed."""
        self._plan_count -= len(self._plans.pop(key_id, ()))

    # ------------------------------------------------------------------------------------------------------ keys

    def authenticate(self, secret: bytes, now_ms: int) -> VirtualKey | Refused:
        """Return the key whose secret this is, if it may be used at `now_ms`."""
        digest = secret_hash(secret)
        key = self._keyring.by_hash.get(digest)
        if key is None or key.source != "issued":
            listed = self._listed.get(digest)
            if listed is None:
                return _UNKNOWN_KEY
            # A key of the document is what the document says, but it may have been revoked since.
            if key is None or key.revoked_ms is None:
                key = listed
        return self._usable(key, now_ms) or key

    def withdrawn(self, key: VirtualKey, model: str, operation: str, now_ms: int) -> Refused | None:
        """Return why a request that has waited may not go on: its key was revoked, or what it belongs to is frozen."""
        present = self._keyring.by_hash.get(hash_of(key.hash), key)
        refused = self._usable(present, now_ms)
        if refused is None:
            found = self.plan(key, model, operation)
            refused = found if isinstance(found, Refused) else None
        return refused

    def _usable(self, key: VirtualKey, now_ms: int) -> Refused | None:
        """Return why a key may not be used; None if it may."""
        if key.revoked_ms is not None:
            return Refused("key_revoked", 401, f"The virtual key {key.id!r} was revoked. Use another key.")
        if key.expires_ms is not None and now_ms >= key.expires_ms:
            return Refused("key_expired", 401, f"The virtual key {key.id!r} has expired. Ask for a new key.")
        if key.org not in self.policy.orgs:
            told = f"The organisation {key.org!r} of the virtual key {key.id!r} is not in the policy any more."
            return Refused("unknown_org", 403, f"{told} Add it, or use a key of another organisation.")
        return None

    def models(self, key: VirtualKey) -> list[tuple[str, Model]]:
        """Return (name that clients send, model) of what `key` may use, in the document's order."""
        return [(name, model) for name, model in self.policy.models.items() if _allows(key, _served(name, model))]

    def account_model(self, key: VirtualKey, operation: str) -> str | Refused:
        """Return the model by whose provider `key` does what names no model: the first that it may use for it."""
        for name, model in self.models(key):
            if model.operations is not None and operation in model.operations:
                return name
        told = f"No model that the virtual key {key.id!r} may use names {operation!r} under 'operations' in the policy."
        return Refused("wrong_operation", 403, f"{told} Ask your platform team to add it, if you are to have it.")

    # ----------------------------------------------------------------------------------------------------- plans

    def plan(self, key: VirtualKey, model: str, operation: str) -> Plan | Refused:
        """Return the plan of a request with `key` for `model` as the client spells it; plans are kept."""
        plans = self._plans.get(key.id)
        if plans is not None:
            found = plans.get((model, operation))
            if found is not None:
                return found
        plan = self._compile(key, model, operation)
        if isinstance(plan, Plan):
            self._keep(plan, key.id, (model, operation))
        return plan

    def _keep(self, plan: Plan, key_id: str, name: tuple[str, str]) -> None:
        while self._plan_count >= MAX_PLANS:
            self.forget_key(next(iter(self._plans)))
        self._plans.setdefault(key_id, {})[name] = plan
        self._plan_count += 1

    def _compile(self, key: VirtualKey, model: str, operation: str) -> Plan | Refused:
        policy = self.policy
        entry = policy.models.get(model)
        if entry is None:
            shown = ", ".join(name for name, _ in self.models(key)[:10]) or "none"
            told = f"The model {model[:128]!r} is not served here. This key may use: {shown}."
            return Refused("unknown_model", 404, told)
        served = _served(model, entry)
        if not _allows(key, served):
            told = f"The virtual key {key.id!r} may not use the model {served!r}, only {', '.join(key.models)}."
            return Refused("model_not_allowed", 403, told)
        provider = policy.providers[entry.provider]
        offered = OPERATIONS[provider.protocol] if entry.operations is None else entry.operations
        known = (*OPERATIONS[provider.protocol], *ACCOUNT_OPERATIONS[provider.protocol])
        if operation not in offered or operation not in known:
            told = f"The model {model!r} does not serve {operation}, only {', '.join(offered)}."
            return Refused("wrong_operation", 400, told)
        return self._plan(key, model, entry, operation)

    def _plan(self, key: VirtualKey, model: str, entry: Model, operation: str) -> Plan | Refused:
        served, price = _served(model, entry), self._price(key.org, model)
        tags = {**self.policy.orgs[key.org].tags, **key.tags}
        tier = tier_of(self.policy, key.org, key.tier)
        attributes = attributes_of(
            org=key.org, project=key.project, team=key.team, user=key.user, key=key.id, model=served,
            provider=entry.provider, route=operation, tags=tags, tier=tier,
        )  # fmt: skip
        freeze = self._overrides.frozen(attributes)
        if freeze is not None:
            told = f"{freeze.scope} is frozen: {freeze.reason.rstrip('.')}."
            return Refused("frozen", 403, f"{told} Wait until it is released, or ask your platform team.")
        attribution = Attribution(
            key.org, key.project, key.team, key.user, key.id, entry.provider, served, model, tags,
            self.policy_version, "" if price is None else price.version,
        )  # fmt: skip
        return Plan(
            key=key,
            partition=shard_of(key.org, len(self._registry.shards)),
            provider=entry.provider,
            provider_config=self.policy.providers[entry.provider],
            model=served,
            model_requested=model,
            price=price,
            reserve_price=self._reserve(price),
            max_output_tokens=entry.max_output_tokens,
            attribution=encode_attribution(attribution),
            registry=self._registry,
            specs=self._specs(attributes),
            caps=self._caps(attributes),
            downgrade=entry.downgrade or "",
            tier=tier,
            drain=_drain_of(entry, self.policy.providers[entry.provider]),
            fallback=entry.fallback,
        )

    def _price(self, org: str, model: str) -> Price | None:
        own = self._org_prices.get(org)
        return self._prices.get(model) if own is None or model not in own else own[model]

    def _reserve(self, price: Price | None) -> Price:
        """Return what is held, and booked where a cost is unknown: `price`, and the reserve for what it lacks."""
        if price is None:
            return self.unpriced
        found = self._reserves.get(price.version)
        if found is None:
            found = self._reserves[price.version] = completed(price, self.unpriced)
        return found

    def _caps(self, attributes: Mapping[str, str]) -> Caps:
        """Return the smallest cap of each kind among the limits that match."""
        matching = [rule for rule in self.policy.limits if rule.is_cap and rule.matches(attributes)]

        def smallest(found: list[tuple[int | None, str]]) -> Cap | None:
            set_ones = [Cap(name, value) for value, name in found if value is not None]
            return min(set_ones, key=lambda cap: cap.limit, default=None)

        if not matching:
            return NO_CAPS
        return Caps(
            smallest([(rule.max_input_tokens, rule.name) for rule in matching]),
            smallest([(rule.max_output_tokens, rule.name) for rule in matching]),
            smallest([(rule.max_cost, rule.name) for rule in matching]),
        )

    def _specs(self, attributes: Mapping[str, str]) -> tuple[RowSpec, ...]:
        """Return a row for every measure of every rule that matches."""
        specs = []
        for rule in self.policy.rules():
            if not rule.matches(attributes):
                continue
            scope = scope_text(rule.scope(attributes))
            for part in rule.counted():
                ceiling = self._registry.ceiling(rule.name, part.measure.value, part.period.value)
                prefix = f"{rule.name}/{part.measure.value}/{scope}/"
                span = part.span
                specs.append(
                    RowSpec(
                        ceiling, prefix, scope, f"{rule.name}/{scope}", span.period, part.zone, span.length_s,
                        span.slides,
                    )
                )  # fmt: skip
        return tuple(specs)


def _set_up(ceiling: Ceiling, rule: Limit | Budget) -> None:
    """Make a ceiling behave as its rule says; what it allows is set apart from this."""
    ceiling.mode = rule.mode
    ceiling.rungs = rule.rungs
    ceiling.withheld = rule.withheld
    ceiling.grace_percent = rule.grace
    ceiling.queue_wait_ms = rule.queue_wait_ms
    ceiling.queue_most = rule.queue_most
    if isinstance(rule, Budget):
        ceiling.strict = rule.strict
        ceiling.final_unit = rule.final_unit
        ceiling.carry_percent = rule.carry_over
    elif ceiling.measure == Measure.CONCURRENCY:
        ceiling.hold_expires_ms = rule.hold_expires_ms


def _drain_of(model: Model, provider: Provider) -> Drain | None:
    """Return how far answers are read on whose clients have hung up; None: not at all."""
    does = model.on_disconnect or provider.on_disconnect
    return None if does == "cancel" else model.drain or provider.drain


def _served(name: str, model: Model) -> str:
    return model.upstream or name


def _allows(key: VirtualKey, served: str) -> bool:
    return any(fnmatch.fnmatchcase(served, glob) for glob in key.models)


def _listed_key(entry: KeyEntry) -> VirtualKey:
    return VirtualKey(
        id=entry.id,
        hash=entry.hash,
        org=entry.org,
        project=entry.project,
        team=entry.team,
        user=entry.user,
        name=entry.name,
        models=entry.models,
        tags=entry.tags,
        tier=entry.tier,
        expires_ms=None if entry.expires is None else int(entry.expires.timestamp() * 1000),
        source="policy",
    )
