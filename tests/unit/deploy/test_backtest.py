"""What a back-test says of single requests: rung by rung, price by price, and what cannot be known."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.backtest import report
from deploy.backtest.events import PastEvent
from deploy.backtest.replica import Candidate, IdealReplica, counted_from_ms
from deploy.backtest.tally import GROUPS, Tally
from deploy.backtest.timeline import Timeline
from deploy.cli.__main__ import main
from deploy.cli.backtest import NAMES
from enforcer.core.pricing import resolve
from schemas.keys import VirtualKey
from schemas.policy_file import load_policy
from schemas.tokens import TokenUsage

DAY_MS = 86_400_000
START_MS = 1_795_262_400_000
"""2026-11-21T12:00:00Z"""
POLICY = """
orgs: {acme: {teams: [search, ml]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models:
  big: {provider: sim, price: {input: 10, output: 30}, downgrade: small}
  small: {provider: sim, price: {input: 1, output: 3}}
keys: [{id: listed, hash: "sha256:HASH", org: acme, models: [small]}]
limits: LIMITS
budgets: BUDGETS
""".replace("HASH", "0" * 64)


def policy(limits: str = "[]", budgets: str = "[]") -> Candidate:
    """Return a candidate with these rules and its own prices."""
    found = load_policy(POLICY.replace("LIMITS", limits).replace("BUDGETS", budgets))
    return Candidate(found, resolve(found, lambda *_: None).resolved)


def served(at_ms: int = 0, **fields: Any) -> PastEvent:
    """Return a request for `big` that cost 13,000 nano-USD; any field may be given."""
    values: dict[str, Any] = {
        "occurred_ms": START_MS + at_ms, "id": "i", "status": "settled", "error": "", "operation": "chat.completions",
        "org": "acme", "project": "", "team": "search", "user": "", "key": "key_1", "model_requested": "big",
        "model": "big", "provider": "sim", "tags": {}, "usage": TokenUsage(1_000, 100), "cost_nanos": 13_000_000,
        "charge_requests": 1, "charge_tokens": 1_100, "charge_nanos": 13_000_000, "duration_ms": 500,
    }  # fmt: skip
    return PastEvent(**{**values, **fields})


def refused(at_ms: int = 0, **fields: Any) -> PastEvent:
    """Return a request that was refused by a token limit, of which it had asked 2,200."""
    return served(at_ms, **{
        "status": "refused", "error": "tpm", "usage": TokenUsage(), "cost_nanos": 0, "charge_requests": 0,
        "charge_tokens": 0, "charge_nanos": 0, "duration_ms": 0, "measure": "tokens", "asked": 2_200, **fields,
    })  # fmt: skip


def backtest(candidate: Candidate, events: Iterable[PastEvent], since_ms: int = 0, **options: Any) -> Tally:
    """Return what back-testing finds."""
    tally = Tally()
    timeline = Timeline(IdealReplica(candidate, options.pop("keys", {}), **options), tally, since_ms)
    for event in events:
        timeline.take(event)
    timeline.finish()
    return tally


def test_a_lower_limit_refuses_and_saves_what_it_refuses() -> None:
    """Of four requests of a minute two go on; the others' cost and tokens are saved, by team and by rule."""
    tally = backtest(policy("[{name: minute, per: [team], rpm: 2}]"), [served(number * 1_000) for number in range(4)])
    sums = tally.groups[("search",)]
    assert (sums.requests, sums.admitted, sums.refused, sums.newly_refused) == (4, 2, 2, 2)
    assert (sums.cost_nanos, sums.cost_avoided_nanos, sums.tokens_avoided) == (52_000_000, 26_000_000, 2_200)
    (rule,) = tally.rules.values()
    assert (rule.rule, rule.measure, rule.refused, rule.cost_avoided_nanos) == ("minute", "requests", 2, 26_000_000)
    assert (rule.first_ms, rule.last_ms) == (START_MS + 2_000, START_MS + 3_000)
    assert rule.scopes == {"org=acme,team=search": 2}


def test_what_a_request_held_is_free_again_when_it_has_ended() -> None:
    """With one at a time, the next is let through in the millisecond in which the first has ended, not before."""
    events = [served(0), served(499), served(500), served(1_000)]
    assert backtest(policy("[{name: one, concurrency: 1}]"), events).totals().refused == 1


def test_a_spent_budget_refuses_until_its_window_ends() -> None:
    """A day's budget of two requests lets two through each day."""
    candidate = policy(budgets="[{name: day, amount: 0.026 USD, period: day}]")
    events = [served(number * 1_000 + day * DAY_MS) for day in (0, 1) for number in range(3)]
    tally = backtest(candidate, events)
    assert (tally.totals().refused, tally.totals().cost_avoided_nanos) == (2, 26_000_000)


def test_a_request_that_queues_goes_on_when_there_is_room() -> None:
    """It waits for the one before it, is counted as queued and admitted, and holds that much later."""
    candidate = policy('[{name: one, concurrency: 1, ladder: {"100%": queue}, queue: {wait: 2s}}]')
    tally = backtest(candidate, [served(0), served(100), served(200, duration_ms=10), served(5_000)])
    sums = tally.totals()
    assert (sums.admitted, sums.refused, sums.queued) == (4, 0, 2)
    assert (tally.waits, tally.waited_ms) == (2, 400 + 800)


def test_a_request_that_queues_for_too_long_is_refused() -> None:
    """When its time is up it is refused, by the rule it waited for."""
    candidate = policy('[{name: one, concurrency: 1, ladder: {"100%": queue}, queue: {wait: 1s}}]')
    tally = backtest(candidate, [served(0, duration_ms=60_000), served(100)])
    sums = tally.totals()
    assert (sums.admitted, sums.refused, sums.queued) == (1, 1, 1)
    assert [(rule.rule, rule.refused, rule.queued) for rule in tally.rules.values()] == [("one", 1, 1)]


def test_a_throttled_request_goes_on_later() -> None:
    """Beyond half of the limit requests are paced: they are admitted, and have waited."""
    candidate = policy('[{name: minute, rpm: 10, ladder: {"50%": throttle, "100%": block}}]')
    tally = backtest(candidate, [served(number) for number in range(8)])
    sums = tally.totals()
    assert (sums.admitted, sums.refused, sums.throttled, tally.waits) == (8, 0, 3, 3)
    assert 0 < tally.waited_ms <= 3 * 2_000


def test_a_downgraded_request_costs_what_the_cheaper_model_costs() -> None:
    """Beyond the rung it goes to `small`, and the difference is saved."""
    candidate = policy('[{name: minute, match: {model: big}, rpm: 2, ladder: {"100%": downgrade}}]')
    tally = backtest(candidate, [served(number) for number in range(5)])
    sums = tally.totals()
    assert (sums.admitted, sums.downgraded) == (5, 3)
    assert sums.cost_avoided_nanos == 3 * (13_000_000 - 1_300_000)
    assert sum(rule.cost_avoided_nanos for rule in tally.rules.values()) == sums.cost_avoided_nanos


def test_shadow_and_soft_rules_are_counted_and_refuse_nothing() -> None:
    """What a shadow rule would have refused is counted as shadowed, what a soft one warns of as warned."""
    candidate = policy("[{name: dark, rpm: 1, mode: shadow}, {name: soft, rpm: 3, mode: soft}]")
    sums = backtest(candidate, [served(number) for number in range(5)]).totals()
    assert (sums.refused, sums.shadowed, sums.warned) == (0, 4, 2)


def test_a_cap_on_single_requests_looks_at_what_was_used() -> None:
    """A request that used more than a cap is refused by it."""
    candidate = policy("[{name: cap, max_output_tokens: 99}]")
    tally = backtest(candidate, [served(0), served(1, usage=TokenUsage(1_000, 99))])
    assert tally.totals().refused == 1
    assert [(rule.rule, rule.measure) for rule in tally.rules.values()] == [("cap", "tokens")]


def test_what_a_refused_request_would_have_used_is_told_by_its_decision_and_by_its_kind() -> None:
    """Its decision's tokens are taken, cost in proportion to served ones; it is counted as an estimate."""
    tally = backtest(policy(), [served(0), refused(1)])
    sums = tally.totals()
    assert (sums.newly_admitted, sums.cost_added_nanos, tally.estimated) == (1, 26_000_000, 1)
    assert (sums.refused_before, sums.cost_nanos) == (1, 13_000_000)


def test_what_nothing_is_known_of_is_left_out_and_counted() -> None:
    """A bad request, and one that was refused without a row before any like it was served, are not replayed."""
    events = [refused(0, error="bad_request"), refused(1, error="unknown_model", measure="", asked=0), served(2),
              refused(3, model_requested="", error="unknown_key", org="")]  # fmt: skip
    tally = backtest(policy(), events)
    assert tally.totals().requests == 1
    assert sum(tally.left_out.values()) == 3
    assert any("bad_request" in why for why in tally.left_out)


def test_a_model_or_organisation_that_the_candidate_does_not_have_refuses() -> None:
    """They are refused for that reason, which the rules' table shows in brackets."""
    tally = backtest(policy(), [served(0, model_requested="gone"), served(1, org="other")])
    assert tally.totals().refused == 2
    assert {rule.reason for rule in tally.rules.values()} == {"unknown_model", "unknown_org"}


def test_a_key_may_use_what_it_may_use_now() -> None:
    """Globs of keys count as the document lists them, or as the key is now."""
    keys = {"key_2": msgspec.convert(
        {"schema": "tollway.key/1", "id": "key_2", "hash": "", "org": "acme", "models": ["small"]}, VirtualKey
    )}  # fmt: skip
    tally = backtest(policy(), [served(0, key="listed"), served(1, key="key_2"), served(2)], keys=keys)
    assert [rule.reason for rule in tally.rules.values()] == ["model_not_allowed"]
    assert tally.totals().refused == 2


def test_repricing_takes_the_candidates_prices() -> None:
    """With --reprice cost and budgets follow the document; without, what was charged."""
    events = [served(0, cost_nanos=1, charge_nanos=1)]
    assert backtest(policy(), events).totals().cost_nanos == 1
    assert backtest(policy(), events, is_repriced=True).totals().cost_nanos == 13_000_000


def test_what_has_no_price_is_counted_apart() -> None:
    """A refused request of unknown cost is in no amount."""
    tally = backtest(policy("[{name: none, rpm: 0}]"), [served(0, cost_nanos=None)])
    assert (tally.totals().unpriced_avoided, tally.totals().cost_avoided_nanos) == (1, 0)


def test_attributes_of_a_key_count_as_they_were() -> None:
    """A key that has changed teams counts in each for its time."""
    candidate = policy("[{name: team, per: [team], rpm: 1}]")
    tally = backtest(candidate, [served(0), served(1, team="ml"), served(2), served(3, team="ml")])
    assert {name: sums.refused for name, sums in tally.groups.items()} == {("search",): 1, ("ml",): 1}


@pytest.mark.parametrize(
    ("rules", "expected_ms"),
    [
        ({}, START_MS),
        ({"limits": "[{name: a, concurrency: 1}]"}, START_MS),
        ({"limits": "[{name: a, rpm: 1}]"}, START_MS - 60_000),
        ({"limits": "[{name: a, rpd: 1}]"}, START_MS - DAY_MS // 2),
        ({"budgets": "[{name: a, amount: 1 USD, period: month}]"}, 1_793_491_200_000),
        ({"budgets": "[{name: a, amount: 1 USD, period: month, carry_over: true}]"}, 1_790_812_800_000),
    ],
)
def test_counting_begins_where_the_windows_begin(rules: dict[str, str], expected_ms: int) -> None:
    """Before `since` every window that counts then is filled: the month's, the minute before, what is carried over."""
    assert counted_from_ms(policy(**rules).policy, START_MS) == expected_ms


def test_events_before_since_fill_windows_and_are_not_reported() -> None:
    """Two of yesterday's requests have used the budget: today's is refused, and only it is in the report."""
    candidate = policy(budgets="[{name: month, amount: 0.026 USD, period: month}]")
    tally = backtest(candidate, [served(-2), served(-1), served(0)], START_MS)
    assert (tally.totals().requests, tally.totals().refused, tally.warm) == (1, 1, 2)


def _report() -> tuple[report.Run, Tally]:
    tally = backtest(policy("[{name: minute, per: [team], rpm: 2}]"),
                   [served(number, team="search" if number % 2 else "ml") for number in range(8)])  # fmt: skip
    return report.Run("p.yaml", START_MS, START_MS + 60_000, START_MS - 60_000, False), tally


def test_the_table_foots_and_names_rules() -> None:
    """People see the summary, a line a team and the total, and a line a rule with its first and last hit."""
    text = report.as_text(*_report(), "team")
    assert "p.yaml: 8 requests replayed" in text
    assert "refused 4 (50.0%)" in text
    assert "spend 0.104 USD, of which 0.052 USD (50.0%) would have been avoided" in text
    assert [line.split()[0] for line in text.split("\n\n")[1].splitlines()] == ["team", "ml", "search", "total"]
    assert "minute" in text.split("\n\n")[2]
    assert "throttled" not in text


def test_json_and_csv_have_every_figure() -> None:
    """Amounts are exact decimals; CSV has the groups, or the rules."""
    run, tally = _report()
    found = json.loads(json.dumps(report.as_dict(run, tally)))
    assert (found["totals"]["cost_avoided_usd"], found["totals"]["refused"]) == ("0.052000000", 4)
    assert [group["team"] for group in found["groups"]] == ["ml", "search"]
    assert found["rules"][0]["first_hit"] == "2026-11-21T12:00:00Z"
    groups = list(csv.DictReader(io.StringIO(report.as_csv(tally, "team"))))
    assert [(group["team"], group["refused"]) for group in groups] == [("ml", "2"), ("search", "2")]
    rules = list(csv.DictReader(io.StringIO(report.as_csv(tally, "rule"))))
    assert [(rule["rule"], rule["refused"], rule["share"]) for rule in rules] == [("minute", "4", "50.0%")]


def test_nothing_to_replay_is_said() -> None:
    """A time without usage is told in a line."""
    assert "no usage to replay" in report.as_text(_report()[0], Tally(), "team")


def test_the_help_names_what_a_report_may_group_by() -> None:
    """The names in the help are those of the code."""
    assert NAMES.split(", ") == list(GROUPS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "limits.0.rpm: -1"),
        (["--since", "soon"], "'soon' is no moment; write a span such as"),
        (["--until", "2020-01-01"], "is not before --until (2020-01-01)"),
        (["--by", "colour"], "'colour' is nothing to group by; use some of org"),
        (["--by", "team,rule"], "'rule' is nothing to group by"),
    ],
)
def test_bad_input_exits_with_2_and_a_remedy(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken document, a wrong time and a wrong grouping are told before anything is asked of a deployment."""
    file = tmp_path / "broken.yaml"
    file.write_text(POLICY.replace("LIMITS", "[{name: a, rpm: -1}]").replace("BUDGETS", "[]"))
    given = ["--since", "1h", "--api", "http://127.0.0.1:9", "--history", "http://127.0.0.1:9", "--token", "t"]
    with pytest.raises(SystemExit) as exited:
        main(["policy", "backtest", str(file), *given, *arguments])
    assert exited.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_history_that_does_not_answer_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody at the address: exit code 1, and the address."""
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("LIMITS", "[]").replace("BUDGETS", "[]"))
    with pytest.raises(SystemExit) as exited:
        main(["policy", "backtest", str(file), "--since", "1h", "--api", "http://127.0.0.1:9", "--token", "t",
              "--history", "http://127.0.0.1:9"])  # fmt: skip
    assert exited.value.code == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
