"""Explain: what a decision says in words, what has no counter, what the log does not reach, and what rules allow."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from deploy.explain.log import Found, Lost
from deploy.explain.recount import OVER, SHORT, SILENT, reason_of
from deploy.explain.rules import rule_of
from deploy.explain.verdict import AGREES, DIFFERS, NOTHING, UNKNOWN, explain
from deploy.explain.words import sentences
from schemas.decisions import Decision
from schemas.ids import shard_of
from schemas.policy import PolicyRecord
from schemas.quota import Weight
from schemas.usage import Attribution

PARTITIONS = 4
HOME = shard_of("acme", PARTITIONS)
NOW_MS = 1_795_264_200_007
DOCUMENT = """
version: 1
orgs: {acme: {}}
providers: {openai: {protocol: openai, base_url: simulated}}
models: {gpt-4o-mini: {provider: openai}}
limits:
  - name: pace
    per: [key]
    rpm: 100
    ladder: {80%: warn, 90%: throttle, 100%: block}
    grace: 5%
    reserve: {0: 20%, 1: 10%}
"""


def _decision(**fields: Any) -> Decision:
    values: dict[str, Any] = {
        "id": bytes(16), "request_id": bytes(16), "decided_ms": NOW_MS, "instance": "ingress-1", "action": "refuse",
        "reason": "rpm", "attribution": Attribution(
            org="acme", team="search", user="ada", key_id="key_1", model="gpt-4o-mini", model_requested="fast",
            policy_version=7, price_version="list-1",
        ), "rule": "pace", "measure": "requests", "scope": "org=acme,key=key_1",
        "row": "pace/requests/org=acme,key=key_1/minute@1795264200+60", "limit": 100, "used": 99, "asked": 1, "room": 0,
        "weight": Weight(1, 2, 1), "fence": 4_096, "staleness_ms": 13, "partition": HOME, "right": 60, "pending": 60,
    }  # fmt: skip
    return Decision(**{**values, **fields})


class Reader:
    """A log of which only the ends are known."""

    def __init__(self, begins: int = 0, ends: int = 0) -> None:
        self._lost = Lost(begins, ends)

    async def follow(self, *_: object) -> Lost:
        """Say that the fence cannot be reached."""
        return self._lost


def _explained(decision: Decision, reader: Reader | None = None) -> Any:
    found = Found(decision, HOME)
    return asyncio.run(explain(reader or Reader(), found, PARTITIONS, lambda _: None))  # type: ignore[arg-type]  # a part of it


def test_a_refusal_is_told_with_who_which_rule_and_which_numbers() -> None:
    """Everything that a person asks for is in the sentences."""
    text = "\n".join(sentences(_decision(waited_ms=250, want=3, cost_avoided_nanos=1_500_000)))
    for part in (
        "of org acme, team search, user ada, key key_1 for fast (served as gpt-4o-mini)",
        "was refused after 250 ms: rpm",
        "rule 'pace': requests of org=acme,key=key_1, minute 2026-11-21T12:30:00Z to 2026-11-21T12:31:00Z",
        "limit 100, used 99, this request 1 requests", "right was 60, it had 60 of it, so room for 0",
        "it had asked for 3 more", "policy version 7, prices list-1; log: partition", "offset 4,096, 13 ms old",
        "avoided",
    ):  # fmt: skip
        assert part in text, part


def test_money_shares_and_downgrades_read_as_such() -> None:
    """Amounts are USD; a row without rights names the share; a downgrade names the cheaper model."""
    row = "team-day/cost/org=acme/day@1795219200+86400"
    text = "\n".join(
        sentences(
            _decision(
                measure="cost", row=row, limit=2_000_000_000, right=-1, action="downgrade", rung="downgrade",
                downgraded_to="gpt-4o-mini",
            )
        )
    )  # fmt: skip
    assert "a share of 1/2" in text
    assert "limit 2.00 USD" in text
    assert "went on with a cheaper model (gpt-4o-mini): rpm, on the rung 'downgrade'" in text


def test_a_decision_without_a_counter_has_nothing_to_recompute() -> None:
    """A revoked key is a fact; a cap of single requests is checked by its own numbers."""
    nothing: dict[str, Any] = {"row": "", "rule": "", "limit": 0, "asked": 0}
    assert _explained(_decision(reason="key_revoked", **nothing)).verdict == NOTHING
    cap = {"row": "", "measure": "tokens", "reason": "max_output_tokens"}
    assert _explained(_decision(limit=100, asked=101, **cap)).verdict == AGREES
    assert _explained(_decision(limit=100, asked=100, **cap)).verdict == DIFFERS


def test_a_log_that_does_not_reach_back_is_said_with_the_remedy() -> None:
    """Not agreeing and not knowing are different; neither is a success."""
    cut = _explained(_decision(), Reader(begins=5_000, ends=9_000))
    assert (cut.verdict, cut.is_fine) == (UNKNOWN, False)
    assert "begins at offset 5,000" in cut.why
    assert "retention.ms" in cut.why
    short = _explained(_decision(), Reader(begins=0, ends=10))
    assert "ends at offset 10, before the fence 4,096" in short.why


def test_a_decision_in_another_partition_than_its_organisations_is_false() -> None:
    """Rows of an organisation are in one partition; a record that names another was not made there."""
    assert _explained(_decision(partition=(HOME + 1) % PARTITIONS)).verdict == DIFFERS


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"used": 99, "room": 0}, SHORT),
        ({"used": 100, "room": 5, "tier": 0}, "within the grace of its tier"),
        ({"used": 105, "room": 5, "tier": 0}, OVER),
        ({"used": 90, "room": 50, "tier": 1}, OVER),
        ({"used": 75, "room": 50, "tier": 1, "action": "throttle"}, "throttle from 90 %"),
        ({"used": 66, "room": 50, "tier": 1, "action": "warn"}, "warn from 80 %"),
        ({"used": 20, "room": 50, "tier": 1, "action": "warn"}, ""),
        ({"used": 20, "room": 5, "pending": 45, "tier": 1}, SHORT),
        ({"used": 20, "room": 50, "pending": 0, "tier": 0}, ""),
    ],
)  # fmt: skip
def test_the_rule_is_judged_by_its_ladder_as_the_tier_sees_it(fields: dict[str, Any], why: str) -> None:
    """Tier 1 sees 80 of 100: its rungs begin there, and what is kept for tier 0 is not room."""
    record = PolicyRecord(7, DOCUMENT, "", 0, "ada", "", {})
    rule = rule_of(record, "pace")
    assert rule is not None
    assert reason_of(_decision(**fields), rule) == why


@pytest.mark.parametrize(("staleness_ms", "why"), [(54_100, SILENT), (53_900, SILENT), (3_500, "")])
def test_with_room_the_allowance_is_used_only_after_a_long_silence(staleness_ms: int, why: str) -> None:
    """Before, a request that fits into the replica's part needs no allowance: a record that says so is wrong."""
    decision = _decision(action="open", used=10, asked=1, limit=100, room=50, staleness_ms=staleness_ms)
    assert reason_of(decision, None) == why
    assert reason_of(msgspec.structs.replace(decision, room=0), None) == SHORT


def test_a_rule_that_the_policy_does_not_have_is_not_made_up() -> None:
    """No version, no such rule, or a document that cannot be read any more."""
    assert rule_of(None, "pace") is None
    assert rule_of(PolicyRecord(7, DOCUMENT, "", 0, "ada", "", {}), "gone") is None
    assert rule_of(PolicyRecord(7, "version: 9", "", 0, "ada", "", {}), "pace") is None
