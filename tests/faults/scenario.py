"""What clients ask and what the provider will answer: requests made from a seed, and the policy that they are under.

Pure. Every client sends one request after another with a virtual key of its own, and takes another key once a request
of this one was left without an answer. So what the history has under a key is what was answered, by its id, and at
most one event beside it: that of the request that was not.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, replace
from decimal import Decimal

REPLICAS = 2
ORGS = 3
KEYS = 200
"""In the policy; a schedule that needs more is cut short."""
CLIENTS = 8
MODEL = "sim-chat"
PRICES = {
    MODEL: (150, 75, 600),
    "sim-claude": (300, 30, 1_500),
    "chat-first": (100, 50, 400),
    "chat-second": (250, 125, 1_000),
    "claude-first": (200, 20, 900),
    "claude-second": (400, 40, 2_000),
}
"""By model: nano-USD for a token of input, of cached input, and of output. All differ: a wrong model is a wrong sum."""
FIRST = "-first"
"""Models with such names fail as a request asks, and then another one serves it."""
MAX_TOKENS = 64
BIG_USD = "100000"
TAGS = {f"tag-{number}": f"{number}-" + "x" * 250 for number in range(8)}
"""Of every organisation, and so part of every event: a small log is full soon."""

OPERATIONS = ("whole", "stream", "slow", "silent", "failed", "broken", "no_usage", "hang_up")
_WEIGHTS = (45, 25, 8, 5, 5, 4, 4, 4)
MORE = 0.35
"""So many requests are drawn from a stream of chance of their own: Anthropic's protocol, and models that fail first."""
FOLLOWED = 0.45
"""So many of those fail first."""
FAILURES = ("status:500", "status:503", "status:429", "fail:reset", "fail:garbage", "fail:error_inside")
"""How, each before the first byte of an answer; the simulator's words."""
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


@dataclass(frozen=True)
class Offer:
    """One request."""

    nonce: str
    body: bytes
    stream: bool
    hangs_up: bool
    """The client closes its connection as soon as the head of the answer is there."""
    protocol: str = "openai"
    model: str = MODEL
    kind: str = ""
    """One of `OPERATIONS`, or how it fails first."""

    @property
    def name(self) -> str:
        """Return what reports count it by."""
        return f"{self.protocol}/{'first ' if self.attempts > 1 else ''}{self.kind}"

    @property
    def path(self) -> str:
        """Return the route."""
        return PATHS[self.protocol]

    @property
    def attempts(self) -> int:
        """Return how many providers it may reach."""
        return 2 if self.model.endswith(FIRST) else 1

    def headers(self, secret: str) -> dict[str, str]:
        """Return the headers, as the SDK of the protocol sends them."""
        if self.protocol == "anthropic":
            return {"x-api-key": secret, "anthropic-version": "2023-06-01"}
        return {"Authorization": f"Bearer {secret}"}


@dataclass(frozen=True)
class Key:
    """A virtual key of the policy."""

    id: str
    org: str

    @property
    def secret(self) -> str:
        """Return the secret: made up, and known to this deployment alone."""
        return "tw-" + hashlib.sha256(f"faults/{self.id}".encode()).hexdigest()[:40]


def keys() -> list[Key]:
    """Return all keys of the policy."""
    return [Key(f"k{number:03d}", f"org-{number % ORGS}") for number in range(KEYS)]


def offer(rng: random.Random, nonce: str) -> Offer:
    """Return a request by chance: OpenAI's protocol, one provider."""
    kind = rng.choices(OPERATIONS, _WEIGHTS)[0]
    wish, words, stream = _wish(rng, kind)
    return _offer(nonce, f"[[sim {wish}]] " + "word " * words, stream, kind, "openai", MODEL)


def another_offer(rng: random.Random, nonce: str) -> Offer:
    """Return a request by chance: Anthropic's protocol, or either one and a model that fails before another serves."""
    if rng.random() >= FOLLOWED:
        kind = rng.choices(OPERATIONS, _WEIGHTS)[0]
        wish, words, stream = _wish(rng, kind)
        return _offer(nonce, f"[[sim {wish}]] " + "word " * words, stream, kind, "anthropic", "sim-claude")
    protocol, failure = rng.choice(tuple(PATHS)), rng.choice(FAILURES)
    how = rng.choices(("whole", "stream", "failed", "hang_up"), (4, 4, 1, 1))[0]
    wish, words, stream = _wish(rng, how)
    prompt = f"[[sim {wish}]] " + "word " * words + f"first={failure} "
    model = ("chat" if protocol == "openai" else "claude") + FIRST
    return replace(_offer(nonce, prompt, stream, failure, protocol, model), hangs_up=how == "hang_up")


def _wish(rng: random.Random, kind: str) -> tuple[str, int, bool]:
    """Return what the simulator is to do, how many words the prompt has, and whether the answer is streamed."""
    words = rng.randint(4, 60)
    cached = rng.randint(0, words // 2) if rng.random() < 0.3 else 0
    wish = [f"output={rng.randint(1, MAX_TOKENS)}", f"cached={cached}"]
    stream = kind in ("stream", "slow", "silent", "hang_up") or (kind == "broken" and rng.random() < 0.5)
    if stream:
        wish.append(f"chunks={rng.randint(2, 5)} delay_ms={rng.choice((1, 10, 60)) if kind != 'slow' else 150}")
    elif rng.random() < 0.5:
        wish.append(f"delay_ms={rng.randint(5, 120)}")
    if kind == "failed":
        wish.append("status=500")
    elif kind == "broken":
        wish.append(f"fail={rng.choice(('reset', 'reset_midway', 'truncate'))}")
    elif kind == "no_usage":
        wish.append("fail=no_usage")
    return " ".join(wish), words, stream


def _offer(nonce: str, prompt: str, stream: bool, kind: str, protocol: str, model: str) -> Offer:
    body: dict[str, object] = {
        "model": model, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": f"{prompt}nonce={nonce}"}]
    }  # fmt: skip
    if stream:
        body["stream"] = True
        if kind != "silent" and protocol == "openai":
            body["stream_options"] = {"include_usage": True}
    encoded = json.dumps(body, separators=(",", ":")).encode()
    return Offer(nonce, encoded, stream, kind == "hang_up", protocol, model, kind)


def nanos_of(input_tokens: int, cached_tokens: int, output_tokens: int, model: str = MODEL) -> int:
    """Return the cost of an answer in nano-USD; `input_tokens` are all of them."""
    fresh, cached, output = PRICES[model]
    return (input_tokens - cached_tokens) * fresh + cached_tokens * cached + output_tokens * output


def policy(provider_url: str) -> str:
    """Return the policy document (JSON, which is YAML)."""
    rule = {"match": {}, "per": ["org"]}
    document = {
        "version": 1,
        "orgs": {f"org-{number}": {"projects": ["faults"], "teams": ["load"], "tags": TAGS} for number in range(ORGS)},
        "providers": {
            "sim": {"protocol": "openai", "base_url": provider_url, "max_connections": 512},
            "sim-claude": {"protocol": "anthropic", "base_url": provider_url, "max_connections": 512},
        },
        "models": {name: _model(name) for name in PRICES},
        "keys": [_key(key) for key in keys()],
        "limits": [{"name": "requests", **rule, "rpm": 1_000_000}],
        "budgets": [{"name": "money", **rule, "amount": f"{BIG_USD} USD", "period": "month"}],
    }
    return json.dumps(document, indent=1)


def _model(name: str) -> dict[str, object]:
    fresh, cached, output = (str(Decimal(nanos) / 1_000) for nanos in PRICES[name])  # USD for a million tokens
    model: dict[str, object] = {
        "provider": "sim-claude" if "claude" in name else "sim",
        "price": {"input": fresh, "cache_read": cached, "output": output},
    }
    if name.endswith(FIRST):
        model["fallback"] = {"to": name.removesuffix(FIRST) + "-second"}
    return model


def _key(key: Key) -> dict[str, str]:
    digest = hashlib.sha256(key.secret.encode()).hexdigest()
    return {"id": key.id, "hash": f"sha256:{digest}", "org": key.org, "project": "faults", "team": "load"}
