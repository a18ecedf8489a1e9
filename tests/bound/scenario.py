"""What a run is: which limit, how large, who sends what from where; and the policy that holds all limits. Pure.

Each run has a virtual key, a rule and a count of its own, so that runs neither wait for nor disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, field

from schemas.errors import ConfigError
from schemas.policy_file import load_policy

REPLICAS = 4
ORGS = 4
CLIENTS = 200
BURST = 10
"""A burst offers this many times the limit."""
FIRST = 0.3
"""Before a fault strikes, this part of the limit is offered."""
MODEL = "sim-chat"
INPUT_NANOS, OUTPUT_NANOS = 150, 600
"""nano-USD a token."""
INPUT_TOKENS = 64
ANSWER_MS = 200
"""How long the provider takes for an answer."""

DIMENSIONS = ("rpm", "tpm", "concurrency", "money")
PATTERNS = ("even", "one")
"""Arrivals: even over the replicas, or all at one of them."""
SIZES = ("small", "large")
"""A request is at most 1 % of the limit, or more than 2 %."""
SHORT_FAULTS = ("meter-killed", "replica-killed", "broker-frozen", "broker-stopped")
FAULTS = (*SHORT_FAULTS, "broker-killed", "meter-frozen", "replica-frozen")
HEALTHY = "none"

_SPANS = {"small": (0.005, 0.0085), "large": (0.021, 0.04)}
"""Output tokens of a request as parts of the limit, where tokens or money are limited."""
_LIMITS = {
    ("rpm", "small"): (100, 180), ("rpm", "large"): (16, 40),
    ("concurrency", "small"): (100, 140), ("concurrency", "large"): (16, 40),
    ("tpm", "small"): (100_000, 150_000), ("tpm", "large"): (60_000, 100_000),
    ("money", "small"): (60_000_000, 90_000_000), ("money", "large"): (36_000_000, 60_000_000),
}  # fmt: skip
"""Smallest and largest limit, in requests, requests at once, tokens or nano-USD."""


@dataclass(frozen=True)
class Run:
    """One burst, or several around a fault, against one limit of its own."""

    name: str
    """Also the id of the key, the name of the rule and the prefix of every nonce."""
    dimension: str
    pattern: str
    size: str
    fault: str
    limit: int
    """In requests, requests at once, tokens or nano-USD."""
    replica: int
    """Where all arrive if the pattern is `one`."""
    clients: int
    org: str
    seed: int

    @property
    def label(self) -> str:
        """Return the class of the run."""
        return f"{self.dimension}/{self.pattern}/{self.size}"

    @property
    def is_minute(self) -> bool:
        """Whether the limit counts in minutes, so that the run has to fit into one."""
        return self.dimension in ("rpm", "tpm")

    @property
    def secret(self) -> str:
        """Return the secret of the run's virtual key: made up, and known to this deployment alone."""
        return "tw-" + hashlib.sha256(f"{self.seed}/{self.name}".encode()).hexdigest()[:40]


@dataclass
class Offer:
    """One request that a client would like to have answered."""

    number: int
    body: bytes
    stream: bool
    attempts: int = field(default=0)


def make_run(
    number: int, dimension: str, pattern: str, size: str, fault: str = HEALTHY, clients: int = CLIENTS, seed: int = 1
) -> Run:
    """Return run `number`; the same arguments give the same run."""
    name = f"r{number:03d}-{dimension}-{pattern}-{size}"
    rng = random.Random(f"{seed}/{name}/limit")
    low, high = _LIMITS[dimension, size]
    limit = rng.randint(low, high)
    if dimension == "concurrency":  # clients wait for their answers: fewer of them reach only a lower limit
        limit = max(1, limit * clients // CLIENTS)
    org = f"org-{number % ORGS}"
    return Run(name, dimension, pattern, size, fault, limit, rng.randrange(REPLICAS), clients, org, seed)


def offers(run: Run, times: float, phase: int) -> list[Offer]:
    """Return requests that together ask for `times` the limit, in the order in which they are offered."""
    rng = random.Random(f"{run.seed}/{run.name}/offers/{phase}")
    made: list[Offer] = []
    asked, first = 0.0, phase * 1_000_000
    while asked < times * run.limit:
        tokens = _output_tokens(run, rng)
        used = tokens if rng.random() < 0.67 else max(1, int(tokens * rng.uniform(0.6, 1.0)))
        made.append(_offer(run, first + len(made), tokens, used, rng.random() < 0.3))
        asked += _asked(run, tokens)
    return made


def _output_tokens(run: Run, rng: random.Random) -> int:
    if run.dimension in ("rpm", "concurrency"):
        return rng.randint(8, 24)
    share = rng.uniform(*_SPANS[run.size]) * run.limit
    return int(share if run.dimension == "tpm" else share / OUTPUT_NANOS)


def _asked(run: Run, tokens: int) -> int:
    if run.dimension in ("rpm", "concurrency"):
        return 1
    return INPUT_TOKENS + tokens if run.dimension == "tpm" else nanos_of(INPUT_TOKENS, tokens)


def nanos_of(input_tokens: int, output_tokens: int) -> int:
    """Return the cost of an answer in nano-USD."""
    return input_tokens * INPUT_NANOS + output_tokens * OUTPUT_NANOS


def _offer(run: Run, number: int, max_tokens: int, used_tokens: int, stream: bool) -> Offer:
    pace = f"chunks=4 delay_ms={ANSWER_MS // 4}" if stream else f"delay_ms={ANSWER_MS}"
    wish = f"[[sim usage_input={INPUT_TOKENS} output={used_tokens} {pace}]] Go. nonce={run.name}.{number}"
    body = {"model": MODEL, "max_tokens": max_tokens, "messages": [{"role": "user", "content": wish}]}
    if stream:
        body["stream"] = True
    return Offer(number, json.dumps(body, separators=(",", ":")).encode(), stream)


def policy(runs: list[Run], provider_url: str) -> str:
    """Return the policy document (JSON, which is YAML) with a key and a rule for each run."""
    orgs = {run.org: {"projects": ["bound"], "teams": ["load"], "users": ["client"]} for run in runs}
    document = {
        "version": 1,
        "orgs": orgs or {"org-0": {}},
        "providers": {"sim": {"protocol": "openai", "base_url": provider_url, "max_connections": 4096}},
        "models": {MODEL: {"provider": "sim", "price": {"input": "0.15", "output": "0.60"}}},
        "keys": [_key(run) for run in runs],
        "limits": [_rule(run) for run in runs if run.dimension != "money"],
        "budgets": [_rule(run) for run in runs if run.dimension == "money"],
    }
    return json.dumps(document, indent=1)


def _key(run: Run) -> dict[str, str]:
    digest = hashlib.sha256(run.secret.encode()).hexdigest()
    return {"id": run.name, "hash": f"sha256:{digest}", "org": run.org, "project": "bound", "team": "load"}


def _rule(run: Run) -> dict[str, object]:
    rule: dict[str, object] = {"name": run.name, "match": {"key": run.name}, "per": ["key"]}
    if run.dimension == "money":
        return rule | {"amount": f"{run.limit // 10**9}.{run.limit % 10**9:09d} USD", "period": "month"}
    return rule | {run.dimension: run.limit}


def unsupported(dimensions: tuple[str, ...] = DIMENSIONS) -> dict[str, str]:
    """Return which of `dimensions` the policy of this version does not know, with what it says of them."""
    found: dict[str, str] = {}
    for dimension in dimensions:
        try:
            load_policy(policy([make_run(0, dimension, "even", "small")], "simulated"))
        except ConfigError as error:
            found[dimension] = "; ".join(error.problems)
    return found
