"""Schedules of `make test-faults`: functions of their seeds that leave no fault out."""

from __future__ import annotations

import json
import random

from schemas.crash_points import ENFORCER_POINTS, INGRESS_POINTS, METER_POINTS, SINK_POINTS
from schemas.policy_file import load_policy
from tests.faults.clients import usage_of
from tests.faults.scenario import KEYS, MAX_TOKENS, keys, offer, policy
from tests.faults.schedule import ELSEWHERE, deck, kills, make


def test_a_seed_gives_the_same_schedule() -> None:
    """What failed can be had again."""
    assert [make(seed) for seed in range(50)] == [make(seed) for seed in range(50)]
    assert len({make(seed).acts for seed in range(50)}) == 50


def test_as_many_schedules_as_cards_do_every_fault() -> None:
    """Every crash point is done by any run that is as long as the deck, and killing and freezing of each process."""
    cards = deck()
    names = {act.name for seed in range(1000, 1000 + len(cards)) for act in make(seed).acts}
    points = {*INGRESS_POINTS, *METER_POINTS, *SINK_POINTS, *ENFORCER_POINTS} - ELSEWHERE
    assert {f"crash/{point}" for point in points} <= names
    roles = ("ingress", "meter", "history", "broker")
    assert {f"{kind}/{role}" for kind in ("kill", "freeze") for role in roles} <= names
    assert {"kill-all/all", "lose-acks/ingress", "cut-off/ingress", "disk-error/ingress"} <= names


def test_recovery_is_measured_by_one_kill_of_each_process() -> None:
    """Nothing else goes on then."""
    made = kills(5)
    assert {act.name for schedule in made for act in schedule.acts} == {
        f"kill/{role}" for role in ("ingress", "meter", "history", "broker", "enforcer")
    }
    assert all(len(schedule.acts) == 1 for schedule in made)


def test_the_policy_is_valid_and_has_every_key() -> None:
    """The document that the deployment is put under is one that `tollway policy apply` would take."""
    document = load_policy(policy("http://127.0.0.1:1/v1"), "policy")
    assert len(document.keys) == KEYS == len({key.secret for key in keys()})


def test_requests_stay_within_what_is_reserved_for_them() -> None:
    """The provider never uses more than `max_tokens`: a charge as reserved has to cover it."""
    rng = random.Random(7)
    for number in range(200):
        body = json.loads(offer(rng, f"n{number}").body)
        wish = body["messages"][0]["content"].partition("]]")[0]
        assert int(wish.partition("output=")[2].split()[0]) <= body["max_tokens"] == MAX_TOKENS


def test_usage_is_read_from_whole_and_streamed_answers() -> None:
    """The client's own reading, apart from the product's."""
    usage = '"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}'
    assert usage_of(f'{{"id":"x",{usage}}}'.encode()) == (7, 2, 3)
    stream = f'data: {{"choices":[],"usage":null}}\n\ndata: {{"choices":[],{usage}}}\n\ndata: [DONE]\n\n'
    assert usage_of(stream.encode()) == (7, 2, 3)
    assert usage_of(b'data: {"choices":[],"usage":null}\n\ndata: [DONE]\n\n') is None
