"""Thresholds of budgets: each crossing is one alert, once a window, however often, late or twice rows arrive.

Theory
------
A threshold of a scope in a window has one state: its alert is sent or not. The state is the set of markers on
`alerts.sent`, and nothing else: there is no memory of what a row was before, so that order, repetition, replay and
restart make no difference. A row is compared by its settled sum alone, which only corrections of costs let fall.

* Crossed: settled > 0 and settled >= percent of the amount in force now.
* Not sent and crossed: send. Sent: never again for this window, whatever the amount becomes, and also if a
  correction takes the sum below the threshold and it is crossed once more.
* An amount that is lowered may cross more thresholds; one that is raised takes none back.
* The window is part of the id, so a late row of a window that has ended raises that window's alert, once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from enforcer.core.budgets import Spend, reached
from schemas.alerts import SOURCE, THRESHOLD_CROSSED, UNPRICED_MODEL, Alert, alert_id
from schemas.money import to_decimal
from schemas.quota import LedgerState


def crossings(spends: Iterable[Spend], sent: Collection[str], policy_version: int, now_ms: int) -> list[Alert]:
    """Return the alerts that are due: crossed and not in `sent`, lowest threshold of a scope first, none twice."""
    due: dict[str, Alert] = {}
    for spend in spends:
        for percent in crossed(spend):
            alert_key = threshold_id(spend, percent)
            if alert_key not in sent and alert_key not in due:
                due[alert_key] = _alert(alert_key, spend, percent, policy_version, now_ms)
    return list(due.values())


def crossed(spend: Spend) -> list[int]:
    """Return the thresholds, in percent and ascending, that the settled spend has reached."""
    settled, amount = spend.state.settled, spend.budget.amount
    if settled <= 0:
        return []
    return [percent for percent in sorted(set(spend.budget.thresholds)) if reached(settled, amount, percent)]


def threshold_id(spend: Spend, percent: int) -> str:
    """Return the id of the one alert of this threshold, scope and window."""
    return alert_id("threshold", spend.budget.name, spend.scope, str(spend.key.window), str(percent))


def unpriced(
    entries: Iterable[LedgerState], sent: Collection[str], models: list[str], policy_version: int, now_ms: int
) -> list[Alert]:
    """Return the alerts for organisations that had usage of unknown cost, once an organisation and day.

    `models` are the models of the policy in force without a price.
    """
    due: list[Alert] = []
    for entry in entries:
        org, day = _account(entry.key)
        if day is None or entry.totals.unpriced <= 0:
            continue
        alert_key = alert_id("unpriced", org, day)
        if alert_key in sent:
            continue
        data = {
            "org": org, "day": day, "events": entry.totals.unpriced, "models_without_price": models,
            "policy_version": policy_version,
            "remedy": "set models.NAME.price in the policy; spend of these events is unknown and was held at "
            "unpriced_reserve",
        }  # fmt: skip
        due.append(_event(alert_key, UNPRICED_MODEL, f"org={org}", now_ms, data, f"unpriced/org={org}/{day}"))
    return due


def _account(key: str) -> tuple[str, str | None]:
    """Return organisation and day of a ledger key; no day for one of an instance."""
    org, slash, day = key.rpartition("/day=")
    return (org.removeprefix("org="), day) if slash and org.startswith("org=") else ("", None)


def _alert(alert_key: str, spend: Spend, percent: int, policy_version: int, now_ms: int) -> Alert:
    window = spend.key.window
    amount, used = spend.budget.amount, spend.state.settled
    data = {
        "budget": spend.budget.name,
        "scope": dict(spend.key.scope),
        "threshold_percent": percent,
        "amount_nanos": amount,
        "amount_usd": format(to_decimal(amount), "f"),
        "used_nanos": used,
        "used_usd": format(to_decimal(used), "f"),
        "window": {"period": window.period, "start": _rfc3339(window.start * 1000), "end": _rfc3339(window.end * 1000)},
        "policy_version": policy_version,
    }
    partition_key = f"{spend.budget.name}/{spend.scope}/{window}"
    return _event(alert_key, THRESHOLD_CROSSED, spend.scope, now_ms, data, partition_key)


def _event(alert_key: str, kind: str, subject: str, now_ms: int, data: dict[str, Any], partition_key: str) -> Alert:
    return Alert(alert_key, SOURCE, kind, subject, _rfc3339(now_ms), data, partitionkey=partition_key)


def _rfc3339(unix_ms: int) -> str:
    moment = datetime.fromtimestamp(unix_ms // 1000, UTC)
    millis = unix_ms % 1000
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{millis:03d}Z" if millis else "Z")
