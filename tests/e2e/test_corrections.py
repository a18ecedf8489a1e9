"""Repricing, reconciling and moving keys on the whole stack: books, budgets and reports say the same afterwards."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.e2e.corrections import admin, ask, record_prices, rows_of, settled, spent
from tests.e2e.stack import Stack, eventually, policy

MONTH = "[{name: team-month, per: [team], amount: 100 USD, period: month}]"
DAY = "[{name: team-day, per: [team], amount: 0.004 USD, period: day}]"
NANOS = 10**9


def document(org: str, budgets: str) -> str:
    """Return a policy whose provider is this test's own, so that nobody else's usage is on its invoices."""
    return policy(budgets=budgets, org=org).replace("sim-openai", f"p-{org}")


def reprice(stack: Stack, org: str, *options: str) -> Any:
    """Reprice what an organisation used lately."""
    return stack.json("reprice", "--since", "1h", "--org", org, *options)


@pytest.mark.slow
def test_a_late_contract_is_posted_once_and_every_book_says_the_same(stack: Stack, org: str) -> None:
    """Nothing to correct at first; then the difference, exactly, in history, ledgers and budget; then nothing again."""
    stack.apply(document(org, MONTH))
    for team, user in (("search", "ada"), ("ml", "bob")):
        secret = stack.key(org=org, team=team, user=user)["secret"]
        for replica in (0, 1):
            ask(stack, secret, 3, replica)
    before = eventually(lambda: found if (found := _whole(stack, org, 12)) else None)
    assert reprice(stack, org, "--yes")["total"] == _sums(before, 0)
    record_prices(stack, f"- {{provider: p-{org}, model: gpt-4o-mini, kind: contract, org: {org}, "
                         "from: 2026-01-01T00:00:00Z, price: {input: 1.5, output: 6}}")  # fmt: skip
    dry = reprice(stack, org, "--dry-run", "--yes")
    assert dry["posted"] is None
    assert dry["total"] == _sums(before, 12) | {
        "after_nanos": 10 * before, "difference_nanos": 9 * before, "charge_nanos": 9 * before
    }  # fmt: skip
    posted = reprice(stack, org, "--yes")["posted"]
    assert (posted["adjustments"], posted["cost_nanos"]) == (12, 9 * before)
    assert reprice(stack, org, "--yes")["posted"] is None
    assert sum(spent(stack, org).values()) * NANOS == 10 * before
    eventually(lambda: sum(settled(stack, org).values()) == 10 * before)
    corrections = rows_of(
        stack, "SELECT count() AS n, uniqExact(corrects_id) AS events, any(price_version) AS price FROM tollway.usage "
        f"WHERE org = '{org}' AND kind = 'adjustment' AND status = 'settled' AND operation = 'chat.completions'"
    )[0]  # fmt: skip
    assert (corrections["n"], corrections["events"]) == (12, 12)
    assert corrections["price"].startswith("contract")
    assert stack.json("verify")["ok"] is True
    entries = admin(stack, "GET", "/v1/audit?limit=1000")["entries"]
    own = [entry for entry in entries if entry["subject"] == f"posting/{posted['posting']}"]
    assert [entry["action"] for entry in own] == ["adjustments.begin", "adjustments.end"]
    assert own[0]["detail"]["org"] == org
    assert own[1]["detail"]["cost_nanos"] == 9 * before


def _whole(stack: Stack, org: str, count: int) -> int:
    """Return what an organisation's requests cost in nano-dollars, once all of them are in the history."""
    row = rows_of(stack, f"SELECT count() AS n, sum(cost_usd) AS usd FROM tollway.usage WHERE org = '{org}'")[0]
    return int(Decimal(str(row["usd"])) * NANOS) if row["n"] == count else 0


def _sums(nanos: int, corrected: int) -> dict[str, int]:
    return {
        "events": 12, "corrected": corrected, "first_priced": 0, "unpriced": 0, "folded": 0, "before_nanos": nanos,
        "after_nanos": nanos, "charge_nanos": 0, "difference_nanos": 0,
    }  # fmt: skip


@pytest.mark.slow
def test_what_a_correction_gives_back_can_be_used_and_alerts_no_second_time(stack: Stack, org: str) -> None:
    """A budget is used up and blocked; its usage turns out to cost a tenth: the block is lifted, requests go on."""
    stack.apply(document(org, DAY))
    client = stack.openai(stack.key(org=org)["secret"])

    def is_refused() -> bool:
        try:
            client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "[[sim output=3000]] Hello."}],
                max_tokens=3000,
            )  # fmt: skip
        except openai.RateLimitError:
            return True
        return False

    eventually(is_refused, 30)
    record_prices(stack, f"- {{provider: p-{org}, model: gpt-4o-mini, kind: contract, org: {org}, "
                         "from: 2026-01-01T00:00:00Z, price: {input: 0.015, output: 0.06}}")  # fmt: skip
    posted = reprice(stack, org, "--yes")["posted"]
    assert posted["cost_nanos"] < 0
    eventually(lambda: not is_refused(), 30)
    eventually(is_refused, 60)
    alerts = [alert["id"] for alert in admin(stack, "GET", "/v1/alerts")["alerts"] if f"org={org}" in alert["subject"]]
    assert len(alerts) == len(set(alerts))
    assert stack.json("verify")["ok"] is True


@pytest.mark.slow
def test_an_invoice_is_explained_posted_once_and_corrected_by_its_change(stack: Stack, org: str) -> None:
    """Two teams bear it by their cost, to the nano-dollar; again it changes nothing; another posts the difference."""
    stack.apply(document(org, MONTH))
    for team, count in (("search", 4), ("ml", 2)):
        ask(stack, stack.key(org=org, team=team)["secret"], count)
    before = eventually(lambda: _whole(stack, org, 6))
    day, tokens = eventually(lambda: _today(stack, org))

    def reconcile(usd: str, *options: str, tokens: int = tokens) -> Any:
        stack.write("invoice.csv", f"date,model,cost_usd,tokens\n{day},gpt-4o-mini,{usd},{tokens}\n{day},dall-e-3,7,\n")
        invoice = str(stack.place / "invoice.csv")
        return stack.json("reconcile", "--provider", f"p-{org}", "--invoice", invoice, *options)

    invoiced = 2 * before + 1
    shown = reconcile(_usd(invoiced))
    assert shown["posted"] is None
    assert {line["model"]: (line["side"], line["causes"]) for line in shown["days"]} == {
        "gpt-4o-mini": ("both", {"price": _usd(before + 1)}), "dall-e-3": ("invoice", {})
    }  # fmt: skip
    teams = spent(stack, org)
    posted = reconcile(_usd(invoiced), "--approve")["posted"]
    assert (posted["adjustments"], posted["cost_nanos"]) == (2, before + 1)
    assert reconcile(_usd(invoiced), "--approve")["corrections"] == []
    after = spent(stack, org)
    assert sum(after.values()) * NANOS == invoiced
    assert all(abs(after[team] - teams[team] * 2) * NANOS <= 1 for team in teams)
    changed = reconcile(_usd(invoiced - 100), "--approve")["posted"]
    assert changed["cost_nanos"] == -100
    eventually(lambda: sum(settled(stack, org).values()) == invoiced - 100)
    assert stack.json("verify")["ok"] is True
    last = admin(stack, "GET", "/v1/adjustments")["last"]
    stack.write("bad.csv", f"date,model,cost_usd,currency\n{day},gpt-4o-mini,$5,USD\n{day},gpt-4o-mini,5,EUR\n")
    bad = str(stack.place / "bad.csv")
    told = stack.run("reconcile", "--provider", f"p-{org}", "--invoice", bad, "--approve", code=2)
    assert "line 2: cost_usd: '$5'" in told
    assert "line 3: currency: 'EUR'; only amounts in USD" in told
    assert admin(stack, "GET", "/v1/adjustments")["last"] == last, "nothing was posted"


def _usd(nanos: int) -> str:
    return f"{Decimal(nanos) / NANOS:.9f}"


def _today(stack: Stack, org: str) -> tuple[str, int] | None:
    rows = rows_of(
        stack, "SELECT toString(toDate(occurred_at, 'UTC')) AS day, sum(input_tokens + output_tokens) AS tokens "
        f"FROM tollway.usage WHERE org = '{org}' GROUP BY day"
    )  # fmt: skip
    return (rows[0]["day"], int(rows[0]["tokens"])) if len(rows) == 1 else None


@pytest.mark.slow
def test_a_key_that_moves_takes_nothing_with_it(stack: Stack, org: str) -> None:
    """What it used stays its former team's in reports and in running windows; what it uses is the new team's."""
    stack.apply(document(org, MONTH))
    key = stack.key(org=org, team="search", project="chat")
    for replica in (0, 1):
        ask(stack, key["secret"], 3, replica)
    eventually(lambda: _whole(stack, org, 6))
    before = eventually(lambda: settled(stack, org))["search"]
    moved = stack.json("keys", "move", key["id"], "--team", "ml", "--user", "bob", "--tag", "env=prod")["key"]
    assert (moved["team"], moved["user"], moved["project"], moved["tags"]) == ("ml", "bob", "chat", {"env": "prod"})
    eventually(lambda: {_team_now(stack, key["secret"], replica) for replica in (0, 1)} == {"ml"})
    rows = rows_of(
        stack, "SELECT team, user, any(project) AS project, any(tags) AS tags, count() AS n, sum(cost_usd) AS usd "
        f"FROM tollway.usage WHERE org = '{org}' GROUP BY team, user ORDER BY n"
    )  # fmt: skip
    by_team = {row["team"]: row for row in rows}
    assert len(rows) == len(by_team) == 2
    assert by_team["search"]["user"] == "ada"
    assert by_team["search"]["tags"] == {}
    assert (by_team["ml"]["user"], by_team["ml"]["tags"], by_team["ml"]["project"]) == ("bob", {"env": "prod"}, "chat")
    now = eventually(lambda: _both(stack, org))
    assert now["search"] >= before
    assert {team: usd * NANOS for team, usd in spent(stack, org).items()} == now
    told = stack.run("keys", "move", key["id"], "--team", "nobody", code=2)
    assert "team: nobody" in told
    actions = [entry["action"] for entry in admin(stack, "GET", "/v1/audit?limit=1000")["entries"]
               if entry["subject"] == key["id"]]  # fmt: skip
    assert actions == ["key.create", "key.move"]
    assert stack.json("verify")["ok"] is True


def _team_now(stack: Stack, secret: str, replica: int) -> str:
    """Send a request and return the team that its event has in the history."""
    answer = stack.openai(secret, replica).chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "[[sim output=10]] Hello."}], max_tokens=50
    )
    event = answer.headers["x-tollway-event-id"]
    rows = eventually(lambda: rows_of(stack, f"SELECT team FROM tollway.usage WHERE id = '{event}'"))
    return str(rows[0]["team"])


def _both(stack: Stack, org: str) -> dict[str, int] | None:
    found = settled(stack, org)
    whole = {team: int(usd * NANOS) for team, usd in spent(stack, org).items()}
    return found if found == whole else None
