"""What clients ask and what the provider will answer: requests made from a seed, and the policy that they are under.

Pure. Every client sends one request after another with a virtual key of its own, and takes another key once a request
of this one was left without an answer. So what the history has under a key is what was answered, by its id, and at
most one event beside it: that of the request that was not.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass

REPLICAS = 2
ORGS = 3
KEYS = 120
"""In the policy; a schedule that needs more is cut short."""
CLIENTS = 8
MODEL = "sim-chat"
INPUT_NANOS, CACHED_NANOS, OUTPUT_NANOS = 150, 75, 600
"""nano-USD a token."""
MAX_TOKENS = 64
BIG_USD = "100000"
TAGS = {f"tag-{number}": f"{number}-" + "x" * 250 for number in range(8)}
"""Of every organisation, and so part of every event: a small log is full soon."""

OPERATIONS = ("whole", "stream", "slow", "silent", "failed", "broken", "no_usage", "hang_up")
_WEIGHTS = (45, 25, 8, 5, 5, 4, 4, 4)


@dataclass(frozen=True)
class Offer:
    """One request."""

    nonce: str
    body: bytes
    stream: bool
    hangs_up: bool
    """The client closes its connection as soon as the head of the answer is there."""


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
    """Return a request by chance."""
    kind = rng.choices(OPERATIONS, _WEIGHTS)[0]
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
    prompt = f"[[sim {' '.join(wish)}]] " + "word " * words + f"nonce={nonce}"
    body: dict[str, object] = {
        "model": MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]
    }  # fmt: skip
    if stream:
        body["stream"] = True
        if kind != "silent":
            body["stream_options"] = {"include_usage": True}
    return Offer(nonce, json.dumps(body, separators=(",", ":")).encode(), stream, kind == "hang_up")


def nanos_of(input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
    """Return the cost of an answer in nano-USD; `input_tokens` are all of them."""
    fresh = input_tokens - cached_tokens
    return fresh * INPUT_NANOS + cached_tokens * CACHED_NANOS + output_tokens * OUTPUT_NANOS


def policy(provider_url: str) -> str:
    """Return the policy document (JSON, which is YAML)."""
    rule = {"match": {}, "per": ["org"]}
    document = {
        "version": 1,
        "orgs": {f"org-{number}": {"projects": ["faults"], "teams": ["load"], "tags": TAGS} for number in range(ORGS)},
        "providers": {"sim": {"protocol": "openai", "base_url": provider_url, "max_connections": 512}},
        "models": {MODEL: {"provider": "sim", "price": {"input": "0.15", "output": "0.60", "cache_read": "0.075"}}},
        "keys": [_key(key) for key in keys()],
        "limits": [{"name": "requests", **rule, "rpm": 1_000_000}],
        "budgets": [{"name": "money", **rule, "amount": f"{BIG_USD} USD", "period": "month"}],
    }
    return json.dumps(document, indent=1)


def _key(key: Key) -> dict[str, str]:
    digest = hashlib.sha256(key.secret.encode()).hexdigest()
    return {"id": key.id, "hash": f"sha256:{digest}", "org": key.org, "project": "faults", "team": "load"}
