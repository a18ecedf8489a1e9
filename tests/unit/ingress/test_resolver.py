"""Keys and plans as one policy version resolves them."""

from __future__ import annotations

import msgspec
import pytest

from ingress.core import resolver as module
from ingress.core.admission import Registry
from ingress.core.keyring import Keyring, hash_of
from ingress.core.plan import Plan
from schemas.codec import decode_attribution, decode_rows
from schemas.ids import secret_hash, shard_of
from schemas.keys import VirtualKey
from schemas.money import Price
from schemas.usage import Attribution
from tests.unit.ingress.governed import (
    POLICY,
    PRICE,
    SECRET,
    START_MS,
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
    assert priced is PRICE


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
