"""What a new user does: start, send, hit a limit, see it lift, read the spend."""

from __future__ import annotations

import functools
import json
import threading
import time

import openai
import pytest

from tests.e2e.stack import Stack, eventually, policy


def _ask(client: openai.OpenAI, text: str = "Say hello.", **options: object) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(  # type: ignore[call-overload,no-any-return]  # options are free-form here
        model="gpt-4o-mini", messages=[{"role": "user", "content": text}], max_tokens=20, **options
    )


def test_a_key_over_its_rpm_is_refused_and_let_through_again(stack: Stack, org: str) -> None:
    """Five requests of a minute pass, the next get a 429 that explains itself; a raised limit lifts it at once."""
    stack.apply(policy("[{name: key-minute, per: [key], rpm: 5}]", org=org))
    secret = stack.key(org=org)["secret"]
    clients = [stack.openai(secret, replica) for replica in (0, 1)]
    assert sum(_passes(clients[number % 2]) for number in range(10)) == 5
    with pytest.raises(openai.RateLimitError) as refused:
        _ask(clients[0])
    answer = refused.value.response
    message = answer.json()["error"]["message"]
    assert "key-minute" in message
    assert "5" in message
    assert int(answer.headers["retry-after"]) in range(1, 121)
    decision = json.loads(stack.run("decision", answer.headers["x-tollway-decision-id"], "--json"))
    assert decision["rule"] == "key-minute"
    assert decision["limit"] == 5
    more = stack.write("more.yaml", policy("[{name: key-minute, per: [key], rpm: 50}]", org=org))
    stack.run("policy", "apply", str(more))
    for client in clients:
        eventually(functools.partial(_passes, client), 5)


def _passes(client: openai.OpenAI) -> bool:
    try:
        _ask(client)
    except openai.RateLimitError:
        return False
    return True


def test_spend_agrees_between_sdk_meter_and_history(stack: Stack, org: str) -> None:
    """What the SDKs were told, the meter's rows and ClickHouse agree to the nano-dollar, for every kind of call."""
    stack.apply(policy(budgets="[{name: team-month, per: [team], amount: 100 USD, period: month}]", org=org))
    secret = stack.key(org=org)["secret"]
    nanos = 0
    for replica in (0, 1):
        nanos += _openai_calls(stack.openai(secret, replica))
        nanos += _anthropic_calls(stack, secret, replica)
    verified = stack.json("verify")
    assert verified["ok"] is True
    report = json.loads(stack.run("report", "spend", "--by", "org,team", "--format", "json"))
    (spent,) = [row for row in report["rows"] if row["org"] == org]
    assert (spent["team"], _nanos(spent["cost_usd"])) == ("search", nanos)
    (budget,) = [row for row in stack.json("status")["budgets"] if org in row["scope"]]
    assert (budget["rule"], int(budget["settled"])) == ("team-month", nanos)


def _nanos(text: str) -> int:
    whole, _, rest = text.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))


def _openai_calls(client: openai.OpenAI) -> int:
    usages = [_ask(client, "[[sim usage_input=1000 cached=400 output=7]] Hello.").usage]
    stream = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "[[sim output=33]] Count."}], stream=True,
        stream_options={"include_usage": True}, max_tokens=50,
    )  # fmt: skip
    usages += [chunk.usage for chunk in stream if chunk.usage]
    total = 0
    for usage in usages:
        assert usage is not None
        cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
        total += (usage.prompt_tokens - cached) * 150 + cached * 75 + usage.completion_tokens * 600
    embedded = client.embeddings.create(model="text-embedding-3-small", input="Some words to embed")
    return total + embedded.usage.prompt_tokens * 20


def _anthropic_calls(stack: Stack, secret: str, replica: int) -> int:
    client = stack.anthropic(secret, replica)
    message = client.messages.create(
        model="claude-haiku-4-5", max_tokens=64, messages=[{"role": "user", "content": "[[sim output=11]] Hi."}]
    )
    with client.messages.stream(
        model="claude-haiku-4-5", max_tokens=64, messages=[{"role": "user", "content": "[[sim output=19]] Hi."}]
    ) as stream:
        streamed = stream.get_final_message()
    return sum(answer.usage.input_tokens * 3000 + answer.usage.output_tokens * 15000 for answer in (message, streamed))


def test_a_spent_budget_refuses_blocks_and_alerts_once(stack: Stack, org: str) -> None:
    """A budget refuses when it is used up, raises each threshold once, and lets through when it is raised."""
    budget = "[{name: team-day, per: [team], amount: AMOUNT USD, period: day, thresholds: [50%, 100%]}]"
    stack.apply(policy(budgets=budget.replace("AMOUNT", "0.001"), org=org))
    client = stack.openai(stack.key(org=org)["secret"])
    refusal = None
    for _ in range(30):
        try:
            _ask(client, "[[sim usage_input=100 output=100]] Hello.", max_completion_tokens=100)
        except openai.RateLimitError as error:
            refusal = error
            break
    assert refusal is not None
    assert "team-day" in refusal.response.json()["error"]["message"]
    more = stack.write("more.yaml", policy(budgets=budget.replace("AMOUNT", "5"), org=org))
    stack.run("policy", "apply", str(more))
    eventually(lambda: _passes(client), 5)


def test_two_replicas_hold_one_limit(stack: Stack, org: str) -> None:
    """A burst of ten times the limit over two replicas admits at most the limit, and most of it."""
    stack.apply(policy("[{name: key-minute, per: [key], rpm: 50}]", org=org))
    secret = stack.key(org=org)["secret"]
    clients = [stack.openai(secret, replica) for replica in (0, 1)]
    began = time.monotonic()
    admitted = sum(_passes(clients[number % 2]) for number in range(500))
    took_s = time.monotonic() - began
    assert 45 <= admitted <= 50 * (1 + took_s / 60), f"within {took_s:.0f} s"


def test_a_revoked_key_is_refused_within_a_second_on_every_replica(stack: Stack, org: str) -> None:
    """`keys revoke` reaches all replicas in under a second."""
    stack.apply(policy(org=org))
    key = stack.key(org=org)
    clients = [stack.openai(key["secret"], replica) for replica in (0, 1)]
    for client in clients:
        _ask(client)
    stack.run("keys", "revoke", key["id"])
    for client in clients:
        eventually(functools.partial(_unauthorised, client), 1.0)


def test_a_policy_is_replaced_under_load_without_a_dropped_request(stack: Stack, org: str) -> None:
    """While versions are applied one after another, every request is answered; the last version is in force."""
    document = policy("[{name: key-minute, per: [key], rpm: NUMBER}]", org=org)
    stack.apply(document.replace("NUMBER", "100000"))
    client = stack.openai(stack.key(org=org)["secret"])
    ending, failures, passed = threading.Event(), [], []

    def send() -> None:
        while not ending.is_set():
            try:
                passed.append(_ask(client).id)
            except openai.OpenAIError as error:
                failures.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for number in (100_001, 100_002, 100_003):
            stack.run("policy", "apply", str(stack.write("next.yaml", document.replace("NUMBER", str(number)))))
            eventually(functools.partial(_limit_is, client, number), 5)
    finally:
        ending.set()
        sender.join(30)
    assert not failures
    assert len(passed) > 10


def _limit_is(client: openai.OpenAI, number: int) -> bool:
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello."}], max_tokens=20
    )
    return int(answer.headers["x-ratelimit-limit-requests"]) == number


def _unauthorised(client: openai.OpenAI) -> bool:
    try:
        _ask(client)
    except openai.AuthenticationError:
        return True
    return False
