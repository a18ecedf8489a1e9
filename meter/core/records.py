"""Records of the log as the fold reads them: decoded in one pass, and their events summed by what they are booked to.

Most records decode at once. One that does not is read again event by event, so that a broken event costs itself and
not its neighbours; what is wrong is returned as a reason beside what could be read.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from schemas import codec
from schemas.adjusting import is_adjustment
from schemas.errors import DecodeError
from schemas.usage import Batch, Evict, Gauge, Totals, UsageEvent, Want

HOUR_MS = 3_600_000


class ReadBatch(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A `schemas.usage.Batch` whose events are decoded."""

    instance: str
    epoch: int
    seq: int
    ack: int
    cut_ms: int
    policy_version: int
    final: bool
    gauges: list[Gauge]
    wants: list[Want]
    told: Totals
    events: list[UsageEvent]


class Charges:
    """What events with the same rows book to each of them, by measure."""

    __slots__ = ("nanos", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.nanos = 0


class Tally(NamedTuple):
    """The sums of a record: by encoded rows, and by organisation and hour (counted from 1970)."""

    charges: dict[bytes, Charges]
    sums: dict[tuple[str, int], Totals]
    fault: str


_records: msgspec.msgpack.Decoder[ReadBatch | Evict] = msgspec.msgpack.Decoder(ReadBatch | Evict)


def read(data: bytes) -> tuple[ReadBatch | Evict | None, str]:
    """Return the record in `data`, and what could not be read of it (empty if nothing).

    None when it is no record at all. A batch with events that are none of ours is returned without them.
    """
    if data[: codec.HEADER_BYTES] == codec.USAGE_HEADER:
        try:
            return _records.decode(memoryview(data)[codec.HEADER_BYTES :]), ""
        except msgspec.MsgspecError:
            pass
    try:
        record = codec.decode_record(data)
    except DecodeError as error:
        return None, str(error)
    if isinstance(record, Evict):
        return record, ""
    events, faults = _events_of(record)
    fields = {name: getattr(record, name) for name in record.__struct_fields__} | {"events": events}
    return ReadBatch(**fields), "; ".join(faults)


def _events_of(record: Batch) -> tuple[list[UsageEvent], list[str]]:
    events, faults = [], []
    for index, raw in enumerate(record.events):
        try:
            events.append(codec.decode_event(raw))
        except DecodeError as error:
            faults.append(f"event {index}: {error}")
    return events, faults


class Organisations:
    """The organisation in an encoded attribution, remembered: a plan encodes its attribution once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[bytes, str] = {}
        self.get = self._known.get

    def read(self, attribution: bytes) -> str:
        """Return the organisation in `attribution`; DecodeError if it is none."""
        org = codec.decode_attribution(attribution).org
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[attribution] = org
        return org


def tally(events: list[UsageEvent], organisations: Organisations) -> Tally:
    """Return the sums of `events`. This is the loop that every event passes through once.

    An event that charges less than nothing would make room out of nothing: it is left out, as a fault. Only a
    correction may give money back.
    """
    charges: dict[bytes, Charges] = {}
    sums: dict[tuple[str, int], Totals] = {}
    fault = ""
    org_of = organisations.get
    for event in events:
        requests, tokens, nanos = event.charge_requests, event.charge_tokens, event.charge_nanos
        if (requests | tokens | nanos) < 0 and not is_adjustment(event):  # negative if any of them is
            fault = f"event {event.id.hex()}: charges are not below 0"
            continue
        rows = bytes(event.rows)
        charge = charges.get(rows)
        if charge is None:
            charge = charges[rows] = Charges()
        charge.requests += requests
        charge.tokens += tokens
        charge.nanos += nanos
        attribution = bytes(event.attribution)
        org = org_of(attribution)
        if org is None:
            try:
                org = organisations.read(attribution)
            except DecodeError as error:
                org, fault = "", f"event: {error}"
        owner = (org, event.occurred_ms // HOUR_MS)
        total = sums.get(owner)
        if total is None:
            total = sums[owner] = Totals()
        usage = event.usage
        count = 1 if event.detail is None else event.detail.stands_for
        total.events += count
        total.requests += requests
        total.charge_nanos += nanos
        total.input_tokens += (
            usage.input + usage.cache_read + usage.cache_write + usage.cache_write_1h + usage.audio_input
            + usage.image_input
        )  # fmt: skip
        total.output_tokens += usage.output + usage.reasoning + usage.audio_output + usage.image_output
        if event.cost_nanos is None:
            total.unpriced += count
        else:
            total.cost_nanos += event.cost_nanos
    return Tally(charges, sums, fault)
