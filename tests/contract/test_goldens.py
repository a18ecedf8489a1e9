"""The wire is frozen: known values have exactly the committed bytes, and the committed bytes decode to them.

A change of these bytes breaks every reader and every log that exists. It needs a new version in `schemas.codec`, new
golden files beside the old ones, and an ADR; only fields with a default may come at the end, and what was written
before them stays readable (`earlier`). That holds from the first release on: before it, a change like that from
shares of the headroom to rights (ADR 0009) replaces the file, and no log of before is read after it.
`python -m tests.contract.test_goldens` writes files that are missing and never touches one that is there.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from schemas import codec
from schemas.audits import Audit
from schemas.errors import DecodeError
from schemas.money import cost_nanos
from schemas.policy import PolicyRecord
from schemas.tokens import TokenUsage
from schemas.topics import QUOTA_STATE, TOPICS
from schemas.usage import Batch, Totals
from tests.contract.golden_values import GOLDENS, Golden

FILES = Path(__file__).parent / "goldens"
EARLIER = Path(__file__).parent / "earlier"
"""What earlier versions wrote, and still lies on topics."""
HEADERS = {"usage.b": codec.USAGE_HEADER, "usage.evict": codec.USAGE_HEADER, "quota": codec.SNAPSHOT_HEADER,
           "decisions": codec.DECISIONS_HEADER, "batches.charged": codec.STEP_HEADER,
           "batches.": codec.SIGHTING_HEADER}  # fmt: skip


def _tag(golden: Golden) -> str | None:
    if not isinstance(golden.value, msgspec.Struct):
        return None
    config = golden.value.__struct_config__
    return str(config.tag) if config.tag_field == "schema" else None


@pytest.mark.parametrize("name", GOLDENS)
def test_a_known_value_has_the_committed_bytes(name: str) -> None:
    """What is written today is what was written when the format was frozen."""
    golden = GOLDENS[name]
    assert golden.encode(golden.value) == (FILES / name).read_bytes()


@pytest.mark.parametrize("name", GOLDENS)
def test_the_committed_bytes_decode_to_the_known_value(name: str) -> None:
    """What was written then is read today, and written again it is the same."""
    golden = GOLDENS[name]
    data = (FILES / name).read_bytes()
    decoded = golden.decode(data)
    assert decoded == golden.value
    assert golden.encode(decoded) == data


def test_the_events_of_a_batch_are_the_events_that_were_put_in() -> None:
    """A batch holds encoded events; they come out as they went in."""
    batch = codec.decode_record((FILES / "usage.batch.bin").read_bytes())
    assert isinstance(batch, Batch)
    assert [codec.decode_event(event) for event in batch.events] == [
        GOLDENS["usage.event.bin"].value, GOLDENS["usage.event-unknown.bin"].value,
    ]  # fmt: skip


def test_a_decision_of_an_earlier_version_is_read_with_defaults() -> None:
    """Fields came at the end: bytes that end early are what they were, and say nothing of what is new."""
    (decision,) = codec.decode_decisions((EARLIER / "decisions-1.bin").read_bytes())
    assert (decision.reason, decision.fence, decision.overshoot_bound) == ("budget", 4_096, 3)
    assert (decision.partition, decision.right, decision.cost_avoided_nanos) == (-1, 0, 0)


def test_an_event_of_an_earlier_version_is_read_with_defaults() -> None:
    """An event from before details, image tokens and units counts as it did, and once."""
    event = codec.decode_event((EARLIER / "usage-event-1.bin").read_bytes())
    assert (event.usage.total, event.usage.image_output, event.charge_tokens, event.detail) == (36, 0, 36, None)
    totals = Totals()
    totals.add(event)
    assert (totals.events, totals.cost_nanos) == (1, 9_876_543_210)


def test_a_policy_of_an_earlier_version_is_read_with_defaults() -> None:
    """A version from before prices of organisations and units of many has the prices that it had."""
    record = codec.decode_json(PolicyRecord, (EARLIER / "policy-1.json").read_bytes())
    price = record.prices["fast"]
    assert (record.org_prices, record.prices_revision, price.per, price.least) == ({}, 0, {}, {})
    assert cost_nanos(price, TokenUsage(), {"web_search": 2}) == 20_005_000


def test_a_snapshot_of_an_earlier_version_is_read_with_defaults() -> None:
    """A meter from before hours had its sums by run and by day: they say nothing of hours, and none is compared."""
    snapshot = codec.decode_snapshot((EARLIER / "quota-updates-1.bin").read_bytes())
    day, run = snapshot.ledger
    assert (day.key, run.key) == ("org=acme/day=2026-11-21", "instance=ingress-1/epoch=3")
    assert run.told == run.totals
    assert [(entry.place, entry.hours_from) for entry in snapshot.ledger] == [(None, None)] * 2


def test_an_audit_of_an_earlier_version_is_read_with_defaults() -> None:
    """A history from before hours tells of runs, and of no hour and no day."""
    audit = codec.decode_json(Audit, (EARLIER / "history-audits-1.json").read_bytes())
    assert (audit.position, audit.runs[0].last_seq, len(audit.differences)) == (1_000, 77, 1)
    assert (audit.hours, audit.hours_from, audit.days, audit.days_from) == ([], None, [], None)


def test_every_topic_that_others_read_is_frozen() -> None:
    """A topic of the table without a golden file is a hole; the meter's own changelog is its own affair."""
    frozen = {golden.topic for golden in GOLDENS.values() if golden.topic is not None}
    assert frozen == set(TOPICS) - {QUOTA_STATE}
    assert {path.name for path in FILES.iterdir()} == set(GOLDENS)


@pytest.mark.parametrize("name", [name for name in GOLDENS if any(name.startswith(part) for part in HEADERS)])
def test_every_binary_record_begins_with_its_header(name: str) -> None:
    """Kind and version are in front, so that a reader can refuse what it does not know."""
    header = next(value for part, value in HEADERS.items() if name.startswith(part))
    assert (FILES / name).read_bytes()[: codec.HEADER_BYTES] == header


@pytest.mark.parametrize("name", [name for name in GOLDENS if any(name.startswith(part) for part in HEADERS)])
def test_another_version_is_refused_and_not_misread(name: str) -> None:
    """The next version's bytes, and another kind's, are a DecodeError that shows what was found."""
    golden, data = GOLDENS[name], (FILES / name).read_bytes()
    for header in (data[:3] + b"\x02", b"TWX\x01", b""):
        with pytest.raises(DecodeError, match=r"begins with|not a"):
            golden.decode(header + data[4:])


@pytest.mark.parametrize("name", GOLDENS)
def test_cut_off_bytes_are_refused(name: str) -> None:
    """Half a record is no record."""
    golden, data = GOLDENS[name], (FILES / name).read_bytes()
    if name == "alerts.sent.json":
        data = b"-"
    with pytest.raises(DecodeError):
        golden.decode(data[:-1])


@pytest.mark.parametrize("name", [name for name, golden in GOLDENS.items() if _tag(golden) is not None])
def test_json_records_name_their_schema(name: str) -> None:
    """People and other programs can tell what they see, and in which version."""
    tag = _tag(GOLDENS[name])
    assert f'"schema":"{tag}"'.encode() in (FILES / name).read_bytes()
    assert str(tag).endswith("/1")


def main() -> None:
    """Write the golden files that are missing."""
    FILES.mkdir(exist_ok=True)
    for name, golden in GOLDENS.items():
        if not (FILES / name).exists():
            (FILES / name).write_bytes(golden.encode(golden.value))


if __name__ == "__main__":
    main()
