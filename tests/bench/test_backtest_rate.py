"""How many events a second a back-test replays: pages as the history writes them, five rows a request, one process.

Quoted is CPU time, because machines are busy. The target is 20,000 a second; the figure is printed (`-s`).
"""

from __future__ import annotations

import json
import time

from deploy.backtest.events import read_page
from deploy.backtest.replica import Candidate, IdealReplica
from deploy.backtest.tally import Tally
from deploy.backtest.timeline import Timeline
from meter.sink.core.usage_pages import COLUMNS
from schemas.policy_file import load_policy

EVENTS = 30_000
START_MS = 1_795_262_400_000
POLICY = """
orgs: {acme: {teams: [t0, t1, t2, t3, t4, t5, t6]}}
providers: {sim: {protocol: openai, base_url: simulated}}
models: {small: {provider: sim, price: {input: 1, output: 2}}}
limits:
  - {name: key, per: [key], rpm: 600}
  - {name: team-model, per: [team, model], rpm: 3000, tpm: 400_000}
budgets:
  - {name: team-month, per: [team], amount: 20 USD, period: month}
  - {name: org-month, amount: 2000 USD, period: month}
"""


def page() -> bytes:
    """Return a page of events: a hundred a second, of fifty keys, each in flight for seconds."""
    lines = [
        json.dumps([
            START_MS + 10 * number, f"0192f0c1-2b7e-7c33-9d2a-{number:012x}", "settled", "", "chat.completions", "acme",
            "", f"t{number % 7}", "", f"key_{number % 50}", "small", "small", "sim", {"env": "prod"},
            [100 + number % 900, 20, 0, 0, 0, 0, 0, 0], 140_000, 1, 120 + number % 900, 140_000, 800 + number % 3_000,
            "", 0,
        ])
        for number in range(EVENTS)
    ]  # fmt: skip
    return "\n".join([*lines, json.dumps({"columns": list(COLUMNS), "next": None}), ""]).encode()


def test_a_second_replays_twenty_thousand_events() -> None:
    """A million events take less than a minute; the bound here is loose."""
    body = page()
    tally = Tally()
    timeline = Timeline(IdealReplica(Candidate(load_policy(POLICY), {}), {}), tally)
    began = time.process_time()
    events, _ = read_page(body)
    for event in events:
        timeline.take(event)
    timeline.finish()
    rate = EVENTS / (time.process_time() - began)
    print({"backtest_events_per_cpu_s": round(rate), "refused": tally.totals().refused})
    assert tally.totals().requests == EVENTS
    assert rate > 7_000
