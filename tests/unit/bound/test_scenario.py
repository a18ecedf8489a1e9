"""The runs of `make test-bound`: the same seed offers the same requests, of the sizes that their class names."""

from __future__ import annotations

import json

import pytest

from schemas.policy_file import load_policy
from tests.bound.client import Queue
from tests.bound.scenario import CLIENTS, INPUT_TOKENS, Offer, Run, make_run, nanos_of, offers, policy, unsupported
from tests.bound.session import Job, choose
from tests.bound.witness import read

CLASSES = [(dimension, size) for dimension in ("rpm", "tpm", "money") for size in ("small", "large")]


def _most(run: Run, offer: Offer) -> float:
    """Return the part of the limit that an offer may take at most."""
    tokens = json.loads(offer.body)["max_tokens"]
    most = {"rpm": 1, "tpm": INPUT_TOKENS + tokens, "money": nanos_of(INPUT_TOKENS, tokens)}[run.dimension]
    return float(most / run.limit)


@pytest.mark.parametrize(("dimension", "size"), CLASSES)
def test_requests_are_as_large_as_their_class_says(dimension: str, size: str) -> None:
    """Small ones are at most 1 % of the limit, large ones over 2 %, and together they are ten times the limit."""
    for seed in range(20):
        run = make_run(1, dimension, "even", size, seed=seed)
        parts = [_most(run, offer) for offer in offers(run, 10, 0)]
        assert max(parts) <= 0.01 if size == "small" else min(parts) > 0.02
        assert 9.999 < sum(parts) < 10.1


def test_the_same_seed_makes_the_same_run() -> None:
    """Sizes, order and secrets come from the seed alone; phases differ."""
    run, again, other = (make_run(1, "tpm", "one", "small", seed=seed) for seed in (3, 3, 4))
    assert run == again
    assert run.secret != other.secret
    assert offers(run, 1, 0) == offers(again, 1, 0)
    assert {offer.number for offer in offers(run, 1, 0)}.isdisjoint(offer.number for offer in offers(run, 1, 1))


def test_the_policy_limits_each_run_alone() -> None:
    """The document is valid, and every run has a key and a rule of its own name and limit."""
    runs = [make_run(number, *each, size="small") for number, each in enumerate([("tpm", "one"), ("money", "even")])]
    document = load_policy(policy(runs, "simulated"))
    assert [key.id for key in document.keys] == [run.name for run in runs]
    assert document.limits[0].tpm == runs[0].limit
    assert document.budgets[0].amount == runs[1].limit
    assert not {"rpm", "tpm", "money"} & set(unsupported())


def test_fewer_clients_get_a_lower_cap_on_requests_at_once() -> None:
    """A cap that the clients of a run cannot reach would hold by itself."""
    run = make_run(1, "concurrency", "even", "small", "meter-killed", clients=CLIENTS // 4)
    assert run.limit < run.clients


def test_retries_wait_for_their_time_and_end_with_the_run() -> None:
    """Fresh offers go first, then those put back, each at its time; after the end there is nothing."""
    first, second = Offer(1, b"", False), Offer(2, b"", False)
    queue = Queue([first, second], until=10.0)
    assert queue.next(0.0) is first
    queue.put_back(first, 2.0)
    assert queue.next(1.0) is second
    assert queue.next(1.0) == 1.0
    assert queue.next(2.0) is first
    assert queue.next(2.0) is None
    queue.put_back(first, 11.0)
    assert queue.next(9.0) == 1.0
    assert queue.next(10.0) is None
    assert queue.left == 1


def test_a_job_waits_for_a_minute_that_it_fits_into() -> None:
    """Limits a minute need room in the minute; what counts money fits everywhere."""
    minute, money = (Job([make_run(1, dimension, "even", "small")]) for dimension in ("rpm", "money"))
    assert choose([minute, money], 59.0) is minute
    assert choose([minute, money], 5.0) is money
    assert choose([minute], 5.0) is None


def test_a_journal_is_read_up_to_its_last_whole_line() -> None:
    """An answer that never ended lasts as long as it would have; half a line is not read."""
    lines = [
        b'{"type":"a","id":"x","nonce":"r.1","at_ms":5,"input":1,"output":2,"lasts_ms":200}',
        b'{"type":"a","id":"y","nonce":"r.2","at_ms":6,"input":1,"output":2,"lasts_ms":200}',
        b'{"type":"e","id":"x","at_ms":300}',
        b'{"type":"e","id":"y',
    ]
    found = read(b"\n".join(lines))
    assert [(request.nonce, request.at_ms, request.end_ms) for request in found] == [("r.1", 5, 300), ("r.2", 6, 206)]
