"""A decision in words: who asked for what, which rule said what, by which numbers, and what was done. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from schemas.decisions import AVOIDING, Action, Decision
from schemas.ids import format_id
from schemas.money import format_usd
from schemas.rows import Measure, parse_row_key

_DONE = {
    Action.REFUSE.value: "was refused",
    Action.QUEUE.value: "waited for room, and went on",
    Action.THROTTLE.value: "was paced, and went on",
    Action.DOWNGRADE.value: "went on with a cheaper model",
    Action.TERMINATE.value: "was ended in the middle of its answer",
    Action.WARN.value: "went on, with a warning",
    Action.SOFT.value: "went on beyond a limit that only warns",
    Action.SHADOW.value: "went on; the rule only looks",
    Action.OPEN.value: "went on by the allowance for a failure of the broker or the meter",
    Action.ODD.value: "was served, and its provider's word on the usage cannot be true",
    Action.GRACE.value: "went on beyond the limit, by the grace of its tier",
}
_UNITS = {Measure.REQUESTS.value: "requests", Measure.TOKENS.value: "tokens", Measure.CONCURRENCY.value: "in flight"}


def sentences(decision: Decision) -> list[str]:
    """Return what happened, a line each."""
    lines = [_who(decision), _what(decision)]
    if decision.rule:
        lines.append(_counter(decision))
    if decision.row and decision.reason != "blocked":
        lines += [_numbers(decision), _right(decision)]
    elif decision.limit:
        lines.append(f"limit {_amount(decision, decision.limit)}, this request {_amount(decision, decision.asked)}")
    lines.append(_known(decision))
    if decision.cost_avoided_nanos:
        verb = "avoided" if decision.action in AVOIDING else "would have been avoided"
        lines.append(f"by its estimate {format_usd(decision.cost_avoided_nanos)} {verb}")
    return lines


def amount(measure: str, value: Any) -> str:
    """Return an amount in the unit of a measure; what is no number stays what it is."""
    if not isinstance(value, int):
        return str(value)
    return format_usd(value) if measure == Measure.COST and value >= 0 else f"{value:,}"


def _who(decision: Decision) -> str:
    told = decision.attribution
    names = (
        ("org", told.org), ("project", told.project), ("team", told.team), ("user", told.user), ("key", told.key_id),
    )  # fmt: skip
    who = ", ".join(f"{name} {value}" for name, value in names if value) or "nobody that is known"
    model = told.model_requested or told.model
    served = f" (served as {told.model})" if told.model and told.model != model else ""
    return f"request {format_id(decision.request_id)} of {who} for {model or 'no model'}{served}"


def _what(decision: Decision) -> str:
    done = _DONE.get(decision.action, decision.action)
    to = f" ({decision.downgraded_to})" if decision.downgraded_to else ""
    waited = f" after {decision.waited_ms:,} ms" if decision.waited_ms else ""
    rung = f", on the rung {decision.rung!r}" if decision.rung else ""
    return f"{done}{to}{waited}: {decision.reason}{rung}; {_time(decision.decided_ms)} by {decision.instance}"


def _counter(decision: Decision) -> str:
    if not decision.row:
        return f"rule {decision.rule!r}" + (f" for {decision.scope}" if decision.scope else "")
    window = parse_row_key(decision.row).window
    mode = "" if decision.mode == "enforce" else f", mode {decision.mode}"
    return (
        f"rule {decision.rule!r}{mode}: {decision.measure} of {decision.scope}, {window.period} "
        f"{_time(window.start * 1000)} to {_time(window.end * 1000)}"
    )


def _numbers(decision: Decision) -> str:
    unit = _UNITS.get(decision.measure, "")
    seen = ""
    if decision.seen_limit and decision.seen_limit != decision.limit:
        seen = f" ({_amount(decision, decision.seen_limit)} for tier {decision.tier})"
    return (
        f"limit {_amount(decision, decision.limit)}{seen}, used {_amount(decision, decision.used)}, "
        f"this request {_amount(decision, decision.asked)} {unit}"
    ).rstrip()


def _right(decision: Decision) -> str:
    own = f"had {_amount(decision, decision.pending)} of it, so room for {_amount(decision, decision.room)}"
    want = f"; it had asked for {_amount(decision, decision.want)} more" if decision.want else ""
    if decision.right < 0:
        share = f"{decision.weight.num}/{decision.weight.den}"
        return f"the replica might use a share of {share} of what was left, {own}{want}"
    return f"the replica's right was {_amount(decision, decision.right)}, it {own}{want}"


def _known(decision: Decision) -> str:
    told = decision.attribution
    prices = f", prices {told.price_version}" if told.price_version else ", no price"
    fence = f"; log: partition {decision.partition}, offset {decision.fence:,}" if decision.fence else ""
    stale = f", {decision.staleness_ms:,} ms old" if decision.fence and decision.staleness_ms >= 0 else ""
    return f"policy version {told.policy_version}{prices}{fence}{stale}"


def _amount(decision: Decision, value: int) -> str:
    return amount(decision.measure, value)


def _time(unix_ms: int) -> str:
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{unix_ms % 1000:03d}Z" if unix_ms % 1000 else f"{text}Z"
