"""Bytes on topics: msgpack with a versioned header for what flows, JSON for what people read.

The header is four bytes: `T`, `W`, the kind, the version. A reader refuses a kind or version that it does not know,
so a change of layout is a new version and never a silent misreading.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from schemas.batches import Sighting, Step
from schemas.decisions import Decision
from schemas.errors import DecodeError
from schemas.quota import Snapshot
from schemas.usage import Attribution, Batch, Evict, LogRecord, UsageEvent

T = TypeVar("T")

VERSION = 1
USAGE_HEADER = b"TWU\x01"
SNAPSHOT_HEADER = b"TWQ\x01"
DECISIONS_HEADER = b"TWD\x01"
SIGHTING_HEADER = b"TWB\x01"
STEP_HEADER = b"TWC\x01"
HEADER_BYTES = 4

_encoder = msgspec.msgpack.Encoder()
_records: msgspec.msgpack.Decoder[LogRecord] = msgspec.msgpack.Decoder(LogRecord)
_snapshots = msgspec.msgpack.Decoder(Snapshot)
_decisions = msgspec.msgpack.Decoder(list[Decision])
_sightings: msgspec.msgpack.Decoder[Sighting] = msgspec.msgpack.Decoder(Sighting)
_steps = msgspec.msgpack.Decoder(Step)
_events = msgspec.msgpack.Decoder(UsageEvent)
_attributions = msgspec.msgpack.Decoder(Attribution)
_rows = msgspec.msgpack.Decoder(list[str])


def _decode(decoder: msgspec.msgpack.Decoder[T], header: bytes, data: bytes, what: str) -> T:
    if data[:HEADER_BYTES] != header:
        raise DecodeError(f"not a {what} of version {VERSION}: it begins with {data[:HEADER_BYTES].hex() or 'nothing'}")
    try:
        return decoder.decode(memoryview(data)[HEADER_BYTES:])
    except msgspec.MsgspecError as error:
        raise DecodeError(f"not a {what}: {error}") from error


def encode_record(record: Batch | Evict) -> bytes:
    """Return the value of a record on `usage`."""
    return USAGE_HEADER + _encoder.encode(record)


def decode_record(data: bytes) -> LogRecord:
    """Return the record of a value on `usage`; DecodeError if it is none. Its events stay encoded."""
    return _decode(_records, USAGE_HEADER, data, "usage record")


def encode_event(event: UsageEvent) -> bytes:
    """Return an event as a batch holds it."""
    return _encoder.encode(event)


def decode_event(data: bytes | msgspec.Raw) -> UsageEvent:
    """Return an event of a batch; DecodeError if it is none."""
    return _bare(_events, data, "usage event")


def encode_attribution(attribution: Attribution) -> msgspec.Raw:
    """Return an attribution as an event holds it."""
    return msgspec.Raw(_encoder.encode(attribution))


def decode_attribution(data: bytes | msgspec.Raw) -> Attribution:
    """Return the attribution of an event; DecodeError if it is none."""
    return _bare(_attributions, data, "attribution")


def encode_rows(rows: list[str]) -> msgspec.Raw:
    """Return a list of row keys as an event holds it."""
    return msgspec.Raw(_encoder.encode(rows))


def decode_rows(data: bytes | msgspec.Raw) -> list[str]:
    """Return the row keys of an event; DecodeError if they are none."""
    return _bare(_rows, data, "list of row keys")


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Return the value of a record on `quota.updates`."""
    return SNAPSHOT_HEADER + _encoder.encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """Return the snapshot of a value on `quota.updates`; DecodeError if it is none."""
    return _decode(_snapshots, SNAPSHOT_HEADER, data, "snapshot")


def encode_decisions(decisions: list[Decision]) -> bytes:
    """Return the value of a record on `decisions`."""
    return DECISIONS_HEADER + _encoder.encode(decisions)


def decode_decisions(data: bytes) -> list[Decision]:
    """Return the decisions of a value on `decisions`; DecodeError if they are none."""
    return _decode(_decisions, DECISIONS_HEADER, data, "list of decisions")


def encode_sighting(sighting: Sighting) -> bytes:
    """Return the value of a record on `batches`."""
    return SIGHTING_HEADER + _encoder.encode(sighting)


def decode_sighting(data: bytes) -> Sighting:
    """Return the sighting of a value on `batches`; DecodeError if it is none."""
    return _decode(_sightings, SIGHTING_HEADER, data, "sighting of a batch")


def encode_step(step: Step) -> bytes:
    """Return the value of a record on `batches.charged`."""
    return STEP_HEADER + _encoder.encode(step)


def decode_step(data: bytes) -> Step:
    """Return the step of a value on `batches.charged`; DecodeError if it is none."""
    return _decode(_steps, STEP_HEADER, data, "step of charging a batch")


def encode_json(value: Any) -> bytes:
    """Return one of the JSON contracts (policy, key, block, alert, audit entry, dead letter) as UTF-8."""
    return msgspec.json.encode(value)


def decode_json(kind: type[T], data: bytes) -> T:
    """Return a JSON contract of type `kind`; DecodeError if it is none."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"not a {kind.__name__}: {error}") from error


def _bare(decoder: msgspec.msgpack.Decoder[T], data: bytes | msgspec.Raw, what: str) -> T:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"not a {what}: {error}") from error
