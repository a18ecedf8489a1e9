"""Schedules of `make test-faults`: functions of their seeds that leave no fault out."""

from __future__ import annotations

import json
import random

from schemas.crash_points import ENFORCER_POINTS, INGRESS_POINTS, METER_POINTS, SINK_POINTS
from schemas.policy_file import load_policy
from tests.faults.clients import usage_of
from tests.faults.scenario import (
    FAILURES,
    FIRST,
    KEYS,
    MAX_TOKENS,
    OPERATIONS,
    PATHS,
    PRICES,
    another_offer,
    keys,
    offer,
    policy,
)
from tests.faults.schedule import ELSEWHERE, MORE, deck, kills, make


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


def test_other_requests_have_both_protocols_and_models_that_fail_first() -> None:
    """Within the same reserve as all others; a model that fails has another one behind it."""
    rng = random.Random(7)
    offers = [another_offer(rng, f"n{number}") for number in range(400)]
    for each in offers:
        body = json.loads(each.body)
        wish = body["messages"][0]["content"].partition("]]")[0]
        assert int(wish.partition("output=")[2].split()[0]) <= body["max_tokens"] == MAX_TOKENS
        assert body.get("stream", False) == each.stream
    names = {each.name for each in offers}
    assert {f"anthropic/{kind}" for kind in OPERATIONS} <= names
    assert {f"{protocol}/first {failure}" for protocol in PATHS for failure in FAILURES} <= names
    models = load_policy(policy("http://127.0.0.1:1/v1"), "policy").models
    for name in PRICES:
        assert (models[name].fallback is not None) == name.endswith(FIRST)


def test_a_third_fault_leaves_the_first_two_as_they_were() -> None:
    """Faults beside the deck are drawn by chance of their own, and every run of eight schedules has one."""
    for seed in range(40):
        acts = make(seed).acts
        more = [act for act in acts if act.kind in {kind for kind, _, _ in MORE}]
        assert len(more) == (seed % 8 == 5)
        assert acts[len(acts) - len(more) :] == tuple(more)
    assert [act.name for act in make(5).acts] == ["lose-acks/ingress", "crash/meter.folded", "no-room/ingress"]
    assert [act.name for act in make(1).acts] == ["kill/ingress", "kill-all/all"]


def test_usage_is_read_from_whole_and_streamed_answers() -> None:
    """The client's own reading, apart from the product's."""
    usage = '"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}'
    assert usage_of(f'{{"id":"x",{usage}}}'.encode()) == (7, 2, 3)
    stream = f'data: {{"choices":[],"usage":null}}\n\ndata: {{"choices":[],{usage}}}\n\ndata: [DONE]\n\n'
    assert usage_of(stream.encode()) == (7, 2, 3)
    assert usage_of(b'data: {"choices":[],"usage":null}\n\ndata: [DONE]\n\n') is None
    counts = '"input_tokens":5,"cache_creation_input_tokens":1,"cache_read_input_tokens":2,"output_tokens"'
    start = f'data: {{"type":"message_start","message":{{"usage":{{{counts}:1}}}}}}\n\n'
    assert usage_of(f'{{"type":"message","usage":{{{counts}:9}}}}'.encode()) == (8, 2, 9)
    assert usage_of(f'{start}data: {{"type":"message_delta","usage":{{{counts}:9}}}}\n\n'.encode()) == (8, 2, 9)
    assert usage_of(start.encode()) is None
