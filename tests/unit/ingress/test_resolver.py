"""Keys and plans as one policy version resolves them."""

from __future__ import annotations

import msgspec
import pytest

from ingress.core import resolver as module
from ingress.core.admission import Registry
from ingress.core.caps import NO_CAPS, Cap
from ingress.core.keyring import Keyring, hash_of
from ingress.core.overrides import Overrides
from ingress.core.plan import Plan
from schemas.codec import decode_attribution, decode_rows
from schemas.ids import secret_hash, shard_of
from schemas.keys import VirtualKey
from schemas.money import Price, cost_nanos, is_priced
from schemas.overrides import Freeze, Increase
from schemas.tokens import TokenUsage
from schemas.usage import Attribution
from tests.unit.ingress.governed import (
    POLICY,
    PRICE,
    SECRET,
    START_MS,
    denied,
    held,
    key_of,
    member_of,
    plan_of,
    refused,
    resolver_of,
)

LISTED = b"tw-listed"
WITH_KEY = (
    POLICY
    + f"""
keys:
  - {{id: doc, hash: "sha256:{secret_hash(LISTED).hex()}", org: acme, team: chat, tags: {{tier: "0"}},
     expires: 2026-12-01T00:00:00Z}}
"""
)
DECEMBER_MS = 1_796_083_200_000


def keyring_of(*keys: VirtualKey) -> Keyring:
    """Return a keyring with `keys`."""
    keyring = Keyring()
    for key in keys:
        keyring.put(key.id, key)
    return keyring


def test_a_secret_finds_its_key() -> None:
    """The key is found by the hash of the secret; nothing else is compared."""
    key = resolver_of().authenticate(SECRET, START_MS)
    assert isinstance(key, VirtualKey)
    assert key.id == "k1"


@pytest.mark.parametrize(
    ("fields", "secret", "reason", "status"),
    [
        ({}, b"tw-other", "unknown_key", 401),
        ({}, b"", "unknown_key", 401),
        ({"revoked_ms": 1}, SECRET, "key_revoked", 401),
        ({"expires_ms": START_MS}, SECRET, "key_expired", 401),
        ({"org": "gone"}, SECRET, "unknown_org", 403),
        ({"source": "policy"}, SECRET, "unknown_key", 401),
    ],
    ids=["other secret", "no secret", "revoked", "expired", "organisation gone", "gone from the document"],
)
def test_a_key_that_may_not_be_used_says_why(
    fields: dict[str, object], secret: bytes, reason: str, status: int
) -> None:
    """Each reason has its own code."""
    told = refused(resolver_of(keyring=keyring_of(key_of(SECRET, **fields))).authenticate(secret, START_MS))
    assert (told.reason, told.status) == (reason, status)
    assert secret.decode() not in told.message or not secret


def test_a_key_is_good_until_its_last_millisecond() -> None:
    """Expiry is the first moment at which the key is refused."""
    resolver = resolver_of(keyring=keyring_of(key_of(expires_ms=START_MS)))
    assert isinstance(resolver.authenticate(SECRET, START_MS - 1), VirtualKey)


def test_a_key_of_the_document_needs_no_topic() -> None:
    """It is found by the hash that the document lists, with the document's attributes."""
    resolver = resolver_of(WITH_KEY)
    key = resolver.authenticate(LISTED, START_MS)
    assert isinstance(key, VirtualKey)
    assert (key.id, key.team, key.source) == ("doc", "chat", "policy")
    assert refused(resolver.authenticate(LISTED, DECEMBER_MS)).reason == "key_expired"


def test_a_key_of_the_document_can_be_revoked_on_the_topic() -> None:
    """Otherwise the document wins over what the topic has of it."""
    stale = key_of(LISTED, id="doc", team="search", source="policy")
    key = resolver_of(WITH_KEY, keyring=keyring_of(stale)).authenticate(LISTED, START_MS)
    assert isinstance(key, VirtualKey)
    assert key.team == "chat"
    revoked = msgspec.structs.replace(stale, revoked_ms=1)
    assert (
        refused(resolver_of(WITH_KEY, keyring=keyring_of(revoked)).authenticate(LISTED, START_MS)).reason
        == "key_revoked"
    )


def test_a_keyring_follows_its_topic() -> None:
    """A key may change its hash, lose its id to nobody, and go."""
    keyring = keyring_of(key_of())
    keyring.put("k1", key_of(b"tw-new"))
    assert secret_hash(SECRET) not in keyring.by_hash
    assert keyring.by_hash[secret_hash(b"tw-new")].id == "k1"
    keyring.put("k1", None)
    keyring.put("never", None)
    assert len(keyring) == 0
    with pytest.raises(ValueError, match="write sha256"):
        keyring.put("bad", msgspec.structs.replace(key_of(), hash="md5:1"))


def test_two_keys_with_one_hash_do_not_remove_each_other() -> None:
    """The later record wins, and removing the earlier id leaves it."""
    keyring = keyring_of(key_of(), key_of(id="k2"))
    keyring.put("k1", None)
    assert keyring.by_hash[hash_of(key_of().hash)].id == "k2"


def test_a_plan_is_resolved_once() -> None:
    """The same request finds the same plan; another operation or model another one."""
    resolver = resolver_of()
    plan = plan_of(resolver)
    assert plan_of(resolver) is plan
    assert plan_of(resolver, operation="embeddings") is not plan
    assert plan_of(resolver, "fast") is not plan


def test_a_plan_holds_what_the_event_will_say() -> None:
    """Attribution, served model, price and partition are those that limits are matched by."""
    registry = Registry(4)
    resolver = resolver_of(registry=registry, version=12)
    plan = plan_of(resolver, "fast", user="ann", tags={"tier": "2"})
    assert (plan.model, plan.model_requested, plan.provider, plan.protocol) == ("served-fast", "fast", "sim", "openai")
    assert plan.partition == shard_of("acme", 4)
    assert decode_attribution(plan.attribution) == Attribution(
        "acme", "", "search", "ann", "k1", "sim", "served-fast", "fast", {"env": "prod", "tier": "2"}, 12, ""
    )
    assert decode_attribution(plan_of(resolver).attribution).price_version == "p1"
    assert plan.max_output_tokens == 16_384
    assert plan_of(resolver).max_output_tokens == 100


def test_an_unpriced_model_is_held_at_the_reserve() -> None:
    """Its price is unknown, never zero; classes without a rate cost what their plainer class costs."""
    document = POLICY + "unpriced_reserve: {input: 3, output: 9, cache_write: 4, audio_output: 20, request: 0.01 USD}\n"
    plan = plan_of(resolver_of(document), "fast")
    assert plan.price is None
    (rates,) = plan.reserve_price.tiers
    dollar = 1_000_000_000
    assert (rates.input, rates.cache_read, rates.cache_write, rates.cache_write_1h, rates.audio_input) == (
        3 * dollar, 3 * dollar, 4 * dollar, 4 * dollar, 3 * dollar,
    )  # fmt: skip
    assert (rates.output, rates.reasoning, rates.audio_output) == (9 * dollar, 9 * dollar, 20 * dollar)
    assert plan.reserve_price.request_nanos == 10_000_000
    priced: Price = plan_of(resolver_of(document)).reserve_price
    assert (priced.tiers, priced.version) == (PRICE.tiers, PRICE.version)


def test_what_a_price_does_not_know_is_held_at_the_reserve() -> None:
    """Units without a price, and tokens of a model whose minutes alone are priced: unknown, and not free."""
    minutes = Price("list", "m1", (), 0, {"audio_ms": 6 * 10**12}, per={"audio_ms": 60_000})
    plan = plan_of(resolver_of(POLICY, prices={"small": minutes}))
    assert plan.price is minutes
    held_at, usage = plan.reserve_price, TokenUsage(input=1_000_000)
    assert cost_nanos(held_at, usage) == 15 * 10**9
    assert cost_nanos(held_at, TokenUsage(), {"audio_ms": 60_000}) == cost_nanos(
        minutes, TokenUsage(), {"audio_ms": 60_000}
    )
    assert cost_nanos(held_at, TokenUsage(), {"web_search": 1}) == 50_000_000
    assert not is_priced(minutes, usage)


def test_an_organisation_pays_its_own_price() -> None:
    """Where it has one; the version on its events says which."""
    own = Price("contract", "c1", PRICE.tiers)
    resolver = resolver_of(POLICY, org_prices={"acme": {"small": own}})
    plan = plan_of(resolver)
    assert plan.price is own
    assert decode_attribution(plan.attribution).price_version == "c1"
    other = resolver_of(POLICY, org_prices={"other": {"small": own}})
    assert plan_of(other).price is PRICE


def test_rules_apply_where_all_their_attributes_match() -> None:
    """Tags of the organisation count, the served model counts, and so does the operation."""
    resolver = resolver_of(registry=member_of(Registry(1)))

    def rules(plan: Plan) -> list[str]:
        return [row.split("/")[0] for row in decode_rows(held(plan.admit(START_MS, 1, 1)).rows)]

    assert rules(plan_of(resolver)) == ["team-minute", "team-minute", "org-month", "prod-day"]
    assert "embeddings-only" in rules(plan_of(resolver, operation="embeddings"))
    assert "prod-day" not in rules(plan_of(resolver, id="k2", tags={"env": "test"}))
    fast = decode_rows(held(plan_of(resolver, "fast").admit(START_MS, 1, 1)).rows)
    assert any("model=served-fast" in row for row in fast)


@pytest.mark.parametrize(
    ("models", "model", "operation", "reason", "status"),
    [
        (("*",), "nowhere", "chat.completions", "unknown_model", 404),
        (("fast",), "fast", "chat.completions", "model_not_allowed", 403),
        (("sm*",), "fast", "chat.completions", "model_not_allowed", 403),
        (("*",), "fast", "embeddings", "wrong_operation", 400),
        (("*",), "opus", "chat.completions", "wrong_operation", 400),
        (("*",), "small", "messages", "wrong_operation", 400),
    ],
    ids=["unknown", "globs match the served name", "not allowed", "operation left out", "anthropic", "openai"],
)
def test_a_model_that_cannot_be_served_says_why(
    models: tuple[str, ...], model: str, operation: str, reason: str, status: int
) -> None:
    """Each reason has its own code, and nothing of it is kept."""
    resolver = resolver_of()
    told = refused(resolver.plan(key_of(models=models), model, operation))
    assert (told.reason, told.status) == (reason, status)
    assert told.message.endswith(".")


def test_the_list_of_models_is_what_the_key_may_use() -> None:
    """Names as clients send them, allowed by what they serve."""
    resolver = resolver_of()
    assert [name for name, _ in resolver.models(key_of())] == ["small", "fast", "opus"]
    assert [name for name, _ in resolver.models(key_of(models=("served-*",)))] == ["fast"]


def test_a_changed_key_loses_its_plans_and_no_other() -> None:
    """The next request of the key is resolved anew."""
    resolver = resolver_of()
    first, second = plan_of(resolver), plan_of(resolver, id="k2")
    resolver.forget_key("k1")
    resolver.forget_key("nobody")
    assert plan_of(resolver) is not first
    assert plan_of(resolver, id="k2") is second


def test_plans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the plans of the key that came first go."""
    monkeypatch.setattr(module, "MAX_PLANS", 3)
    resolver = resolver_of()
    plans = [plan_of(resolver, id=f"k{number}") for number in range(3)]
    plan_of(resolver, id="k9")
    assert plan_of(resolver, id="k1") is plans[1]
    assert plan_of(resolver, id="k0") is not plans[0]


def test_holds_survive_a_policy_change() -> None:
    """A request that was admitted under the old policy settles its own rows under the new one."""
    registry = member_of(Registry(1))
    old = plan_of(resolver_of(registry=registry))
    hold = held(old.admit(START_MS, 100, 0))
    new = plan_of(resolver_of(registry=registry, version=2))
    hold.settle(1, 100, 0)
    registry.cut(0, 1)
    assert new is not old
    assert {row.inflight for row in registry.shards[0].rows.values()} == {0}


# ------------------------------------------------------------------------------------------- what cannot slip past

ALIASES = """
orgs: {acme: {teams: [search]}}
providers:
  openai: {protocol: openai, base_url: simulated}
  router: {protocol: openai, base_url: simulated}
models:
  gpt-4o: {provider: openai, downgrade: cheap}
  "openai/gpt-4o": {provider: openai, upstream: gpt-4o}
  best: {provider: openai, upstream: gpt-4o}
  cheap: {provider: openai, upstream: gpt-4o-mini}
  routed: {provider: router, upstream: gpt-4o}
limits:
  - {name: big, match: {model: gpt-4o}, per: [model], rpm: 2}
  - {name: all-but-mini, match: {model: ["gpt-*", "!*-mini"]}, per: [team], rpm: 1000}
  - {name: small, match: {model: "*-mini"}, per: [model], rpm: 3}
"""


def rules_of(plan: Plan) -> list[str]:
    """Return the rules that a request of `plan` counts for."""
    return [row.split("/")[0] for row in decode_rows(held(plan.admit(START_MS, 1, 1)).rows)]


@pytest.mark.parametrize("alias", ["openai/gpt-4o", "best", "routed"])
def test_every_name_of_a_served_model_counts_in_the_same_rows(alias: str) -> None:
    """A prefix, an alias, another provider: rows and room are those of the model that is served."""
    resolver = resolver_of(ALIASES, registry=member_of(Registry(1)), prices={})
    first, other = plan_of(resolver, "gpt-4o"), plan_of(resolver, alias)
    rows = [held(plan.admit(START_MS, 1, 1)).rows for plan in (first, other)]
    assert rows[0] == rows[1]
    assert [row.split("/")[0] for row in decode_rows(rows[0])] == ["big", "all-but-mini"]
    assert denied(other.admit(START_MS, 1, 1)).rule == "big"
    assert denied(first.admit(START_MS, 1, 1)).rule == "big"


@pytest.mark.parametrize(
    "spelling", ["GPT-4o", "Gpt-4O", "GPT-4O-MINI", " gpt-4o", "gpt-4o ", "gpt-4o\t", "openai/GPT-4o", "OpenAI/gpt-4o",
                 "router/gpt-4o", "gpt-4o:free", "gpt-4o\u200b", "gpt-4\u043e", "gpt%2D4o", "models/gpt-4o",
                 "gpt-4o-2024-08-06", ""],
)  # fmt: skip
def test_a_spelling_that_the_document_does_not_have_is_an_unknown_model(spelling: str) -> None:
    """It is never passed on for the provider to understand."""
    told = refused(resolver_of(ALIASES, prices={}).plan(key_of(), spelling, "chat.completions"))
    assert (told.reason, told.status) == ("unknown_model", 404)


def test_what_a_request_goes_on_with_counts_where_that_counts() -> None:
    """A downgrade and a fallback are plans like any other: the rules of the cheaper model hold for it."""
    resolver = resolver_of(ALIASES, registry=member_of(Registry(1)), prices={})
    first = plan_of(resolver, "gpt-4o")
    assert first.downgrade == "cheap"
    cheaper = plan_of(resolver, first.downgrade)
    assert (cheaper.model, cheaper.downgrade, rules_of(cheaper)) == ("gpt-4o-mini", "", ["small"])
    for _ in range(2):
        held(cheaper.admit(START_MS, 1, 1))
    assert denied(cheaper.admit(START_MS, 1, 1)).rule == "small"


# ---------------------------------------------------------------------------------------- what the document can say

RICH = """
orgs: {acme: {teams: [search], tags: {env: prod, app: chat}, tier: 2}}
providers: {p: {protocol: openai, base_url: simulated}}
models: {m: {provider: p}}
limits:
  - {name: pace, per: [team], rpm: 10, rpd: 100, timezone: Europe/Berlin, mode: soft}
  - {name: flight, per: [key], concurrency: 2, hold_expires: 10m}
  - {name: size-a, max_input_tokens: 500, max_output_tokens: 90}
  - {name: size-b, match: {tags.app: "ch*"}, max_input_tokens: 400, max_cost: 0.5 USD}
  - {name: experiments, match: {tier: 2}, per: [tier], tpm: 1000,
     ladder: {80%: warn, 100%: queue}, queue: {wait: 1s, most: 7}, grace: 5%, reserve: {0: 20%, 1: 10%}}
budgets:
  - {name: month, per: [team], amount: 10 USD, period: rolling 30d, strict: true, final_unit: terminate}
  - {name: quarter, amount: 10 USD, period: quarter, carry_over: 50%}
schedules:
  - {name: autumn, rules: [pace, quarter], multiply: 150%, start: 2026-11-01T00:00:00Z, end: 2026-12-01T00:00:00Z}
"""


def test_a_rule_has_a_counter_for_each_measure_and_period() -> None:
    """Minutes and rolling periods slide; requests in flight have no event to be booked by."""
    resolver = resolver_of(RICH, registry=member_of(Registry(1)), prices={})
    rows = decode_rows(held(plan_of(resolver, "m").admit(START_MS, 1, 1)).rows)
    assert [(row.split("/")[0], row.split("/")[3].split("@")[0]) for row in rows] == [
        ("pace", "minute"), ("pace", "day"), ("experiments", "minute"), ("month", "rolling"), ("quarter", "quarter"),
    ]  # fmt: skip
    assert any(row.endswith("/rolling@1793664000+2592000") for row in rows)


def test_ceilings_behave_as_their_rule_says() -> None:
    """Everything that a rule says of its cap is where admission looks for it."""
    registry = Registry(1)
    resolver_of(RICH, registry=registry, prices={})
    pace, flight = registry.ceiling("pace", "requests", "day"), registry.ceiling("flight", "concurrency", "hour")
    assert (pace.limit, pace.mode, pace.hold_expires_ms) == (100, "soft", 0)
    assert (flight.limit, flight.mode, flight.hold_expires_ms) == (2, "enforce", 600_000)
    tokens = registry.ceiling("experiments", "tokens", "minute")
    assert (tokens.rungs, tokens.withheld, tokens.grace_percent) == (((80, "warn"), (100, "queue")), (0, 20, 30), 5)
    assert (tokens.queue_wait_ms, tokens.queue_most) == (1_000, 7)
    month, quarter = registry.ceiling("month", "cost", "rolling"), registry.ceiling("quarter", "cost", "quarter")
    assert (month.strict, month.final_unit, month.carry_percent) == (True, "terminate", 0)
    assert (quarter.strict, quarter.final_unit, quarter.carry_percent) == (False, "finish", 50)


def test_a_rule_that_says_less_than_before_goes_back_to_what_is_usual() -> None:
    """A ceiling outlives policies, what the last one said of it does not."""
    registry = Registry(1)
    resolver_of(RICH, registry=registry, prices={})
    resolver_of(
        RICH.replace("carry_over: 50%", "timezone: UTC").replace(", mode: soft", ""), registry=registry, prices={}
    )
    assert registry.ceiling("quarter", "cost", "quarter").carry_percent == 0
    assert registry.ceiling("pace", "requests", "day").mode == "enforce"


def test_the_tier_is_the_keys_or_the_organisations() -> None:
    """It can be matched and counted by, and it is what admission asks for."""
    resolver = resolver_of(RICH, registry=member_of(Registry(1)), prices={})
    plan = plan_of(resolver, "m")
    assert (plan.tier, "experiments" in rules_of(plan)) == (2, True)
    critical = plan_of(resolver, "m", id="k2", tier=0)
    assert (critical.tier, "experiments" in rules_of(critical)) == (0, False)
    assert any("tier=2" in row for row in decode_rows(held(plan.admit(START_MS, 1, 1)).rows))


def test_the_smallest_cap_of_the_matching_rules_holds() -> None:
    """Each with the rule that it is from."""
    caps = plan_of(resolver_of(RICH, prices={}), "m").caps
    assert caps.max_input_tokens == Cap("size-b", 400)
    assert caps.max_output_tokens == Cap("size-a", 90)
    assert caps.max_cost_nanos == Cap("size-b", 500_000_000)
    caps = plan_of(resolver_of(RICH, prices={}), "m", tags={"app": "code"}).caps
    assert (caps.max_input_tokens, caps.max_cost_nanos) == (Cap("size-a", 500), None)
    assert plan_of(resolver_of(POLICY)).caps == NO_CAPS


def test_limits_follow_schedules_and_increases() -> None:
    """A rule that nothing changes has no plan; an increase counts from the moment that it is known, until it ends."""
    registry, overrides = Registry(1), Overrides()
    resolver = resolver_of(RICH, registry=registry, overrides=overrides, prices={})
    assert registry.ceiling("month", "cost", "rolling").plan is None
    autumn = registry.ceiling("pace", "requests", "minute").plan
    assert autumn is not None
    assert autumn.limit_at("org=acme,team=search", START_MS // 1000) == (15, 1_796_083_200)
    generation = registry.shards[0].generation
    expires_ms = START_MS + 3_600_000
    overrides.put_increase("i1", Increase("i1", "month", "org=acme", "launch", "ann", "bob", START_MS, expires_ms, 20))
    resolver.set_limits()
    assert registry.shards[0].generation > generation
    raised = registry.ceiling("month", "cost", "rolling").plan
    assert raised is not None
    assert raised.limit_at("org=acme,team=search", START_MS // 1000) == (12 * 10**9, expires_ms // 1000)
    overrides.put_increase("i1", None)
    resolver.set_limits()
    assert registry.ceiling("month", "cost", "rolling").plan is None


@pytest.mark.parametrize(
    ("scope", "is_frozen"),
    [
        ("org=acme", True), ("org=other", False), ("org=acme,team=search", True), ("team=chat", False),
        ("model=gpt-4o", True), ("model=best", False), ("provider=openai", True), ("key=k1", True),
        ("tags.env=prod", False), ("tier=1,route=chat.completions", True), ("tier=0", False),
    ],
)  # fmt: skip
def test_a_frozen_scope_refuses_until_it_is_released(scope: str, is_frozen: bool) -> None:
    """Whatever attribute it names; the served model, never an alias. Cached plans are no way round it."""
    overrides = Overrides()
    resolver = resolver_of(ALIASES, overrides=overrides, prices={})
    plan_of(resolver, "best")
    assert overrides.put_freeze(scope, Freeze(scope, "a leaked key", "bob", START_MS))
    assert not overrides.put_freeze(scope, Freeze(scope, "a leaked key", "bob", START_MS))
    resolver.forget_plans()
    found = resolver.plan(key_of(), "best", "chat.completions")
    assert isinstance(found, Plan) is not is_frozen
    if is_frozen:
        told = refused(found)
        assert (told.reason, told.status) == ("frozen", 403)
        assert told.message.startswith(f"{scope} is frozen: a leaked key.")
    overrides.put_freeze(scope, None)
    assert isinstance(resolver.plan(key_of(), "best", "chat.completions"), Plan)


def test_what_has_waited_goes_on_unless_its_key_was_revoked_or_its_scope_frozen() -> None:
    """A request may wait for longer than such news takes; it is looked at again before it goes on."""
    overrides, keyring, key = Overrides(), keyring_of(key_of(SECRET)), key_of(SECRET)
    resolver = resolver_of(ALIASES, overrides=overrides, prices={}, keyring=keyring)
    assert resolver.withdrawn(key, "best", "chat.completions", START_MS) is None
    overrides.put_freeze("org=acme", Freeze("org=acme", "a leaked key", "bob", START_MS))
    resolver.forget_plans()
    assert refused(resolver.withdrawn(key, "best", "chat.completions", START_MS)).reason == "frozen"
    overrides.put_freeze("org=acme", None)
    assert resolver.withdrawn(key, "best", "chat.completions", START_MS) is None
    keyring.put(key.id, key_of(SECRET, revoked_ms=START_MS))
    assert refused(resolver.withdrawn(key, "best", "chat.completions", START_MS)).reason == "key_revoked"
