"""The records of a run of the enforcer's own: numbered by partition, with the sums of all that was told. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.batches import BatchRun
from schemas.codec import encode_event, encode_record
from schemas.usage import Batch, Totals, UsageEvent


def next_record(
    instance: str, run: BatchRun, partition: int, events: Sequence[UsageEvent], now_ms: int,
    policy_version: int = 0, final: bool = False,
) -> bytes:  # fmt: skip
    """Return the next record of a run on `usage`, and advance `run`.

    Args:
        instance: whose run it is.
        run: its numbers and sums; changed.
        partition: of the topic.
        events: as many as a record may have.
        now_ms: unix milliseconds.
        policy_version: that was in force; 0 for none.
        final: whether the run ends in this partition.
    """
    seq = run.seqs[partition] = run.seqs.get(partition, 0) + 1
    told = run.told.setdefault(partition, Totals())
    for event in events:
        told.add(event)
    encoded = [msgspec.Raw(encode_event(event)) for event in events]
    return encode_record(Batch(instance, run.epoch, seq, 0, now_ms, policy_version, final, [], [], told, encoded))
