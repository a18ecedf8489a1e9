"""One known value of everything that flows, in which no field has its default: what the golden files freeze."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from schemas import topics
from schemas.alerts import THRESHOLD_CROSSED, Alert, alert_id
from schemas.audit import AuditEntry
from schemas.audits import Audit, DaySums, Difference, HourSums, RunSums
from schemas.batches import BatchRun, BatchSeen, Book, Line, LinesSeen, line_id
from schemas.batches import Step as ChargeStep
from schemas.blocks import BlockEntry
from schemas.codec import (
    decode_attribution,
    decode_decisions,
    decode_event,
    decode_json,
    decode_record,
    decode_rows,
    decode_sighting,
    decode_snapshot,
    decode_step,
    encode_attribution,
    encode_decisions,
    encode_event,
    encode_json,
    encode_record,
    encode_rows,
    encode_sighting,
    encode_snapshot,
    encode_step,
)
from schemas.deadletters import DeadLetter
from schemas.decisions import Decision
from schemas.keys import VirtualKey
from schemas.money import Price, Rates
from schemas.overrides import Freeze, Increase
from schemas.policy import PolicyRecord
from schemas.prices import Daily, Discount, PriceEntry, Step, Volume
from schemas.quota import LedgerState, Member, Place, RowState, Snapshot, Weight
from schemas.tokens import TokenUsage
from schemas.topics import Topic
from schemas.usage import Attribution, Batch, Detail, Evict, Gauge, Totals, UsageEvent, Want

ID = bytes(range(16))
OTHER_ID = bytes(range(16, 32))
ROW = "team-minute/tokens/org=acme,team=search/minute@1795264200+60"
MONTH_ROW = "team-month/cost/org=acme,team=R%26D%2C%20EU/month@1793491200+2592000"
NOW_MS = 1_795_264_200_123


class Golden(NamedTuple):
    """A value, the topic whose bytes it freezes (None: a part of others), and its two directions."""

    value: Any
    topic: Topic | None
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


ATTRIBUTION = Attribution(
    org="acme", project="chat", team="search", user="ada@example.com", key_id="key_0123456789ab", provider="openai",
    model="gpt-4o-mini", model_requested="fast", tags={"env": "prod", "cost-centre": "4711"}, policy_version=12,
    price_version="genai-prices-0.2.3:openai/gpt-4o-mini",
)  # fmt: skip
EVENT = UsageEvent(
    id=ID, request_id=OTHER_ID, attempt=2, status="settled", operation="chat.completions", occurred_ms=NOW_MS,
    duration_ms=1_234, ttft_ms=210, http_status=200, streamed=True, usage_source="provider",
    usage=TokenUsage(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), cost_nanos=9_876_543_210, charge_requests=1, charge_tokens=36,
    charge_nanos=9_876_543_210, model_reported="gpt-4o-mini-2024-07-18", error="none", decision_id=OTHER_ID,
    attribution=encode_attribution(ATTRIBUTION), rows=encode_rows([ROW, MONTH_ROW]),
    detail=Detail(
        units={"web_search": 3}, service_tier="flex", list_cost_nanos=10**10, flags=("clamped",), kind="folded",
        stands_for=7, corrects=ID, note="invoice 2026-11",
    ),
)  # fmt: skip
UNKNOWN = UsageEvent(
    id=OTHER_ID, request_id=ID, attempt=1, status="unknown", operation="messages", occurred_ms=NOW_MS,
    duration_ms=0, ttft_ms=-1, http_status=0, streamed=False, usage_source="unknown", usage=TokenUsage(),
    cost_nanos=None, charge_requests=1, charge_tokens=2**40, charge_nanos=2**53 + 1, model_reported="", error="",
    decision_id=bytes(16), attribution=encode_attribution(Attribution()), rows=encode_rows([]),
)  # fmt: skip
TOTALS = Totals(events=1, requests=2, input_tokens=3, output_tokens=4, cost_nanos=5, unpriced=6, charge_nanos=7)
RATES = Rates(
    0,
    150_000_000,
    75_000_000,
    150_000_000,
    300_000_000,
    600_000_000,
    600_000_000,
    10**9,
    2 * 10**9,
    3 * 10**9,
    4 * 10**9,
)

PRICE = Price(
    "policy", "policy:0123", (RATES,), 5_000, {"web_search": 10**13}, {"flex": (RATES,)},
    Price("list", "list-1", (RATES,)), {"web_search": 1_000}, {"web_search": 10},
)  # fmt: skip


def _raw(encode: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    return lambda value: bytes(encode(value))


def _json(kind: type) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    return encode_json, lambda data: decode_json(kind, data)


GOLDENS: dict[str, Golden] = {
    "usage.batch.bin": Golden(
        Batch(
            instance="ingress-1", epoch=3, seq=17, ack=4_096, cut_ms=NOW_MS, policy_version=12, final=True,
            gauges=[Gauge(ROW, 1_000, 90_000)], wants=[Want(MONTH_ROW, 50, 5, 2**53 + 1)], told=TOTALS,
            events=[msgspec.Raw(encode_event(EVENT)), msgspec.Raw(encode_event(UNKNOWN))],
        ),
        topics.USAGE, encode_record, decode_record,
    ),
    "usage.evict.bin": Golden(Evict("ingress-2", 4, "lease"), topics.USAGE, encode_record, decode_record),
    "usage.event.bin": Golden(EVENT, None, encode_event, decode_event),
    "usage.event-unknown.bin": Golden(UNKNOWN, None, encode_event, decode_event),
    "usage.attribution.bin": Golden(ATTRIBUTION, None, _raw(encode_attribution), decode_attribution),
    "usage.rows.bin": Golden([ROW, MONTH_ROW], None, _raw(encode_rows), decode_rows),
    "quota.updates.bin": Golden(
        Snapshot(
            partition=1, publisher="meter-0.7f", number=9, fence=4_097, published_ms=NOW_MS, log_ms=NOW_MS - 11,
            full=True, chunk=1, chunks=2,
            members=[Member("ingress-1", 3, 17, Weight(1, 2, 1)), Member("ingress-2", 1, 5, Weight(1, 2, 0))],
            rows=[RowState(MONTH_ROW, 2**53 + 1, 70, 2**53 + 99, [2**53 + 60, 30], [2**53 + 55, 10])],
            ledger=[
                LedgerState("org=acme/day=2026-11-21", TOTALS, None),
                LedgerState("instance=ingress-1/epoch=3", TOTALS, TOTALS, hours_from=498_684),
                LedgerState(
                    "instance=ingress-1/epoch=3/hour=2026-11-21T12Z", TOTALS, None, Place(16, 17, 4_095, 4_096)
                ),
            ],
        ),
        topics.QUOTA_UPDATES, encode_snapshot, decode_snapshot,
    ),
    "decisions.bin": Golden(
        [
            Decision(
                id=ID, request_id=OTHER_ID, decided_ms=NOW_MS, instance="ingress-1", action="refuse", reason="budget",
                attribution=ATTRIBUTION, rule="team-month", measure="cost", scope="org=acme,team=search",
                row=MONTH_ROW, limit=100, used=99, asked=2, room=1, weight=Weight(1, 2, 1), fence=4_096,
                staleness_ms=13, resets_at_s=1_796_083_200, retry_after_s=60, overshoot_bound=3, partition=2, epoch=3,
                tier=2, mode="soft", rung="queue", right=50, pending=49, want=5, seen_limit=90, waited_ms=250,
                downgraded_to="gpt-4o-mini", cost_avoided_nanos=2**53 + 1,
            )
        ],
        topics.DECISIONS, encode_decisions, decode_decisions,
    ),
    "policy.json": Golden(
        PolicyRecord(
            version=12, document="version: 1\norgs: {acme: {}}\n# déjà vu\n", sha256="ab" * 32, applied_ms=NOW_MS,
            applied_by="ada", note="more room", prices={"fast": PRICE},
            org_prices={"acme": {"fast": PRICE}}, prices_revision=3,
        ),
        topics.POLICY, *_json(PolicyRecord),
    ),
    "prices.json": Golden(
        PriceEntry(
            id="", kind="contract", provider="openai", model="gpt-4o*", valid_from_ms=NOW_MS, recorded_ms=NOW_MS + 1,
            recorded_by="ada", org="acme", name="fast", valid_to_ms=NOW_MS + 2, price=PRICE,
            daily=(Daily(60, 240, PRICE),), discounts=(Discount(150_000, ("output", "web_search"), ("standard",)),),
            volume=Volume("tokens", (Step(10**9, (Discount(200_000),)),)), sha256="ef" * 32, reason="contract 7",
        ).sealed(),
        topics.PRICES, *_json(PriceEntry),
    ),
    "prices-withdrawal.json": Golden(
        PriceEntry("0123456789ab", "override", "openai", "gpt-4o", NOW_MS, NOW_MS, "ada"),
        topics.PRICES, *_json(PriceEntry),
    ),
    "policy.increase.json": Golden(
        Increase(
            id="inc_0123456789ab", rule="team-month", scope="org=acme,team=search", reason="launch",
            requested_by="ada", approved_by="bob", created_ms=NOW_MS, expires_ms=NOW_MS + 1, percent=20,
            amount=2**53 + 1, revision=7,
        ),
        topics.POLICY, *_json(Increase),
    ),
    "policy.freeze.json": Golden(
        Freeze(scope="model=openai%2Fgpt-4o", reason="an incident", by="bob", created_ms=NOW_MS, revision=8),
        topics.POLICY, *_json(Freeze),
    ),
    "keys-tier.json": Golden(
        VirtualKey(id="k", hash="sha256:00", org="acme", tier=2), topics.KEYS, *_json(VirtualKey)
    ),
    "keys.json": Golden(
        VirtualKey(
            id="key_0123456789ab", hash="sha256:" + "cd" * 32, org="acme", project="chat", team="search",
            user="ada@example.com", name="laptop", models=("gpt-*", "claude-*"), tags={"env": "prod"},
            created_ms=NOW_MS, expires_ms=NOW_MS + 1, revoked_ms=NOW_MS + 2, source="policy",
        ),
        topics.KEYS, *_json(VirtualKey),
    ),
    "keys-defaults.json": Golden(VirtualKey(id="k", hash="sha256:00", org="acme"), topics.KEYS, *_json(VirtualKey)),
    "blocks.json": Golden(
        BlockEntry(
            rule="team-month", scope="org=acme,team=search", action="block", reason="budget_exhausted", measure="cost",
            limit=100, used=101, window="month@1793491200+2592000", since_ms=NOW_MS, until_s=1_796_083_200,
            policy_version=12,
        ),
        topics.BLOCKS, *_json(BlockEntry),
    ),
    "alerts.json": Golden(
        Alert(
            id=alert_id("threshold", "team-month", "org=acme", "month@1793491200+2592000", "50"),
            source="/tollway/enforcer", type=THRESHOLD_CROSSED, subject="org=acme", time="2026-11-21T12:30:00.123Z",
            data={"budget": "team-month", "threshold_percent": 50, "used_nanos": 50, "used_usd": "0.000000050"},
            partitionkey="team-month/org=acme/month@1793491200+2592000",
        ),
        topics.ALERTS, *_json(Alert),
    ),
    "alerts.sent.json": Golden(NOW_MS, topics.ALERTS_SENT, *_json(int)),
    "audit.json": Golden(
        AuditEntry(3, NOW_MS, "ada", "key.create", "key_0123", {"org": "acme", "n": [1, None]}, "ef" * 32).sealed(),
        topics.AUDIT, *_json(AuditEntry),
    ),
    "history.audits.json": Golden(
        Audit(
            2, NOW_MS, 1_000,
            [RunSums("ingress-1", 3, 77, Totals(5, 4, 300, 20, 10**9, 1, 10**9 + 7), Totals(5, 4), 999)],
            [
                Difference(
                    "told ≠ history", "instance=ingress-1/epoch=3", {"events": [5, 4]}, 2, 70, 77, 900, 999, 202611,
                    "insert",
                )
            ],
            [HourSums("ingress-1", 3, 498_684, TOTALS, Place(70, 77, 900, 999))], 498_660,
            [DaySums("acme", 20_778, TOTALS)], 20_777,
        ),
        topics.HISTORY_AUDITS, *_json(Audit),
    ),
    "batches.seen.bin": Golden(
        BatchSeen(
            "openai", "batch_01", NOW_MS, encode_attribution(ATTRIBUTION), True, "chat.completions", True,
            NOW_MS - 60_000, ("file-01", "file-02"), "gpt-5-mini-2025-08-07", TokenUsage(1, 2, 3), 17, ("fractional",),
        ),
        topics.BATCHES, encode_sighting, decode_sighting,
    ),
    "batches.lines.bin": Golden(
        LinesSeen(
            "anthropic", "msgbatch_01", "file-03", NOW_MS, encode_attribution(ATTRIBUTION),
            [
                Line(line_id("request-1"), "claude-haiku-4-5", TokenUsage(5, 6, 7, 8), NOW_MS - 1, "messages", "batch",
                     {"web_search": 2}, ("oversized",)),
                Line(line_id("request-2"), "claude-haiku-4-5", None, NOW_MS, "messages", "batch", {}, ("malformed",)),
            ],
        ),
        topics.BATCHES, encode_sighting, decode_sighting,
    ),
    "batches.charged.bin": Golden(
        ChargeStep(
            4_097,
            Book("openai", "batch_01", encode_attribution(ATTRIBUTION), True, NOW_MS, "chat.completions",
                 "gpt-5-mini-2025-08-07", True, NOW_MS - 1, ("file-01",), "lines", 2, 40, 9_876, 1, 3),
            line_id("request-1") + line_id("request-2"),
            BatchRun(20_778, {1: 6}, {1: Totals(7, 6, 300, 20, 10**9, 1, 10**9 + 7)}),
            [(1, b"TWU\x01\x90")],
        ),
        topics.BATCHES_CHARGED, encode_step, decode_step,
    ),
    "usage.dlq.json": Golden(
        DeadLetter(topic="usage", partition=3, offset=99, reason="not a usage record", at_ms=NOW_MS, value=b"\x00\xff"),
        topics.USAGE_DLQ, *_json(DeadLetter),
    ),
}  # fmt: skip
