"""When an alert says that a provider's usage cannot be true."""

from __future__ import annotations

import msgspec

from enforcer.core.oddities import DAY_MS, HOUR_MS, KEPT_HOURS, MAX_KEPT, Oddities
from schemas.alerts import PRICE_MISSING, USAGE_ODD
from schemas.decisions import Action, Decision
from schemas.usage import Attribution

NOW_MS = 1_790_000_000_000


def _decision(
    number: int = 1, at_ms: int = NOW_MS, flag: str = "negative", model: str = "m", action: str = "odd"
) -> Decision:
    told = Attribution(org="acme", provider="p", model=model)
    return Decision(number.to_bytes(16), (number + 9).to_bytes(16), at_ms, "in-1", action, flag, told)


def test_first_decision_of_an_hour_is_one_alert() -> None:
    """However many replicas tell of it: once for each provider, model, flag and hour."""
    odd = Oddities()
    for number in range(1, 4):
        odd.note(_decision(number))
    odd.note(_decision(5, flag="oversized"))
    odd.note(_decision(6, model="n"))
    odd.note(_decision(7, NOW_MS + HOUR_MS))
    alerts = odd.due((), NOW_MS)
    assert {(alert.type, alert.data["model"], alert.data["flag"]) for alert in alerts} == {
        (USAGE_ODD, "m", "negative"), (USAGE_ODD, "m", "oversized"), (USAGE_ODD, "n", "negative"),
    }  # fmt: skip
    assert len({alert.id for alert in alerts}) == len(alerts) == 4
    assert alerts[0].data["first_request_id"].endswith("00a")
    assert alerts[0].subject == "provider=p,model=m"


def test_what_has_no_price_is_one_alert_a_model_and_day() -> None:
    """Whatever of it has none, and however often that is told; the next day it is told again."""
    odd = Oddities()
    day_ms = NOW_MS - NOW_MS % DAY_MS
    for number, (at_ms, flag) in enumerate(
        [(day_ms, "unpriced_web_search"), (day_ms + HOUR_MS, "unpriced_images"), (day_ms + DAY_MS - 1, "unpriced")]
    ):
        odd.note(_decision(number, at_ms, flag))
    (alert,) = odd.due((), day_ms + DAY_MS - 1)
    assert (alert.type, alert.subject, alert.data["flag"]) == (
        PRICE_MISSING,
        "provider=p,model=m",
        "unpriced_web_search",
    )
    assert alert.data["remedy"].startswith("tollway prices set p m")
    odd.note(_decision(8, day_ms + DAY_MS, "unpriced"))
    assert len(odd.due({alert.id}, day_ms + DAY_MS)) == 1


def test_what_was_sent_is_not_sent_again() -> None:
    """Neither after a restart, which reads the same decisions, nor for a later decision of the hour."""
    odd, again = Oddities(), Oddities()
    odd.note(_decision())
    sent = {alert.id for alert in odd.due((), NOW_MS)}
    again.note(_decision(2, NOW_MS + 1))
    assert odd.due(sent, NOW_MS) == again.due(sent, NOW_MS) == []


def test_old_decisions_are_not_told() -> None:
    """A day later it is history; and what is remembered is bounded."""
    odd = Oddities()
    odd.note(_decision())
    assert len(odd.due((), NOW_MS + (KEPT_HOURS - 1) * HOUR_MS)) == 1
    assert odd.due((), NOW_MS + (KEPT_HOURS + 1) * HOUR_MS) == []
    assert len(odd) == 0
    for number in range(MAX_KEPT + 10):
        odd.note(_decision(number, model=f"m{number}"))
    assert len(odd) == MAX_KEPT


def test_other_decisions_are_no_business_of_it() -> None:
    """Refusals raise no such alert, and neither does a flag that nobody knows."""
    odd = Oddities()
    odd.note(_decision(action=Action.REFUSE.value))
    odd.note(_decision(flag="made-up"))
    odd.note(msgspec.structs.replace(_decision(), action="other"))
    assert odd.due((), NOW_MS) == []
