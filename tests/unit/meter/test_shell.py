"""What the shell decides: when to publish, when a lease is over, what may be acknowledged."""

from __future__ import annotations

import pytest

from meter.adapters.engine import credentials
from meter.adapters.lease import LeaseWatch
from meter.adapters.partition import FULL_AGAIN_MS, FULL_EVERY_MS, Partition, part_key, parts_of
from meter.core.changelog import META, Changelog
from meter.core.shard import Shard
from meter.settings import MeterSettings
from schemas.codec import decode_snapshot
from schemas.connection import KafkaConnection
from schemas.published import HEARTBEAT_MS, PUBLISH_MS
from tests.property.fold_logs import START_MS
from tests.unit.meter.fold_builders import batch


class FakeEvent:
    """An event of the engine that remembers its acknowledgement."""

    def __init__(self) -> None:
        self.acked = False

    def ack(self) -> bool:
        self.acked = True
        return True


def partition(barrier: int = 0) -> Partition:
    """Return a fresh partition."""
    return Partition(Changelog(Shard(0)), barrier, "meter/1", 60_000)


def test_nothing_is_published_before_the_fold_has_passed_what_others_may_have_published() -> None:
    """The barrier is the end of the log at the takeover."""
    part = partition(barrier=2)
    assert part.due_in_ms(0) is None
    part.take(0, START_MS, batch(), FakeEvent())
    assert part.due_in_ms(0) is None
    part.take(1, START_MS, batch(seq=2), FakeEvent())
    assert part.due_in_ms(0) == 0


def test_changes_are_published_soon_and_silence_as_a_heartbeat() -> None:
    """Full at first and when a member joins; then in the published rhythm."""
    part = partition()
    assert decode_snapshot(part.snapshot(1_000, 0)[0]).full
    assert part.due_in_ms(1_000) == HEARTBEAT_MS
    part.take(0, START_MS, batch(), FakeEvent())
    assert part.due_in_ms(1_001) == PUBLISH_MS - 1
    joined = decode_snapshot(part.snapshot(1_012, 0)[0])
    assert (joined.full, joined.number) == (True, 2)
    part.take(1, START_MS, batch(seq=2, amount=5), FakeEvent())
    assert not decode_snapshot(part.snapshot(1_030, 0)[0]).full
    part.take(2, START_MS, batch(seq=3, ack=1), FakeEvent())
    assert part.due_in_ms(1_012 + FULL_EVERY_MS) == 0
    assert decode_snapshot(part.snapshot(1_012 + FULL_EVERY_MS, 0)[0]).full


def test_records_are_acknowledged_in_order_and_only_below_a_durable_fence() -> None:
    """What was folded after the flush began waits for the next one."""
    part = partition()
    events = [FakeEvent() for _ in range(3)]
    part.take(0, START_MS, batch(), events[0])
    part.take(1, START_MS, batch(seq=2), events[1])
    flush = part.flush()
    assert flush is not None
    part.take(2, START_MS, batch(seq=3), events[2])
    assert not any(event.acked for event in events)
    part.flushed(flush)
    assert [event.acked for event in events] == [True, True, False]
    assert part.flush() is not None
    part.flushed(part.changelog.begin())
    assert part.flush() is None


def test_the_parts_of_a_partition_are_told_apart_by_their_keys() -> None:
    """Partition 1 does not take what is of partition 11."""
    records = {part_key(1, META): b"a", part_key(11, META): b"b", part_key(1, "rows/3"): b"c"}
    assert parts_of(1, records) == {META: b"a", "rows/3": b"c"}


def test_missing_records_are_noticed_at_the_second_look() -> None:
    """The log had more than was folded, and nothing came."""
    part = partition()
    assert not part.is_stuck(2)
    assert part.is_stuck(2)
    part.take(0, START_MS, batch(), FakeEvent())
    assert not part.is_stuck(2)
    part.take(1, START_MS, batch(seq=2), FakeEvent())
    assert not part.is_stuck(2)
    assert not part.is_stuck(2)


def test_everything_is_published_again_for_a_member_that_has_not_acknowledged_it() -> None:
    """A reader that missed its first full snapshot gets another one within seconds, and no share before that."""
    part = partition()
    part.snapshot(0, 0)
    part.take(0, START_MS, batch(), FakeEvent())
    assert decode_snapshot(part.snapshot(12, 0)[0]).full
    assert not decode_snapshot(part.snapshot(12 + FULL_AGAIN_MS - 1, 0)[0]).full
    assert decode_snapshot(part.snapshot(12 + FULL_AGAIN_MS, 0)[0]).full
    part.take(1, START_MS, batch(seq=2, ack=1), FakeEvent())
    assert not decode_snapshot(part.snapshot(12 + 3 * FULL_AGAIN_MS, 0)[0]).full


RUN = ("i1", 1)


def test_a_lease_ends_when_nothing_was_heard_for_its_whole_length() -> None:
    """Progress of `seq` renews it."""
    watch = LeaseWatch(1_000)
    assert watch.check(5, 5, [(RUN, 1)], 0) == []
    assert watch.check(5, 5, [(RUN, 1)], 500) == []
    assert watch.check(6, 6, [(RUN, 2)], 1_200) == []
    assert watch.check(6, 6, [(RUN, 2)], 2_199) == []
    assert watch.check(6, 6, [(RUN, 2)], 2_200) == [RUN]


def test_a_lease_does_not_run_while_the_fold_is_behind() -> None:
    """Records that are on the log and not folded may be the replica's own."""
    watch = LeaseWatch(1_000)
    watch.check(5, 5, [(RUN, 1)], 0)
    watch.check(9, 5, [(RUN, 1)], 500)
    assert watch.check(9, 5, [(RUN, 1)], 1_500) == []
    assert watch.check(9, 9, [(RUN, 1)], 2_000) == []
    assert watch.check(9, 9, [(RUN, 1)], 2_999) == []
    assert watch.check(9, 9, [(RUN, 1)], 3_000) == [RUN]


def test_everyone_has_a_full_lease_after_an_outage() -> None:
    """The end of the log was out of sight: silence meant nothing."""
    watch = LeaseWatch(1_000)
    watch.check(5, 5, [(RUN, 1)], 0)
    watch.check(5, 5, [(RUN, 1)], 900)
    watch.reset()
    assert watch.check(5, 5, [(RUN, 1)], 5_000) == []
    assert watch.check(5, 5, [(RUN, 1)], 5_100) == []
    assert watch.check(5, 5, [(RUN, 1)], 6_099) == []
    assert watch.check(5, 5, [(RUN, 1)], 6_100) == [RUN]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_faust_gets_the_same_security_as_every_other_client(mechanism: str) -> None:
    """What Faust hands to its Kafka client equals what the connection hands to the others."""
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    for protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        connection = KafkaConnection.model_validate(
            {
                "security_protocol": protocol, "sasl_mechanism": mechanism, "sasl_username": "u",
                "sasl_password": "p",
            }
        )  # fmt: skip
        ours = connection.client_options()
        theirs = credentials_to_aiokafka_auth(credentials(connection))
        for name in ("security_protocol", "sasl_mechanism", "sasl_plain_username", "sasl_plain_password"):
            assert theirs[name] == ours[name]
        assert (theirs["ssl_context"] is None) == (protocol == "SASL_PLAINTEXT")
    tls = KafkaConnection(security_protocol="SSL")
    assert credentials_to_aiokafka_auth(credentials(tls))["security_protocol"] == "SSL"
    assert credentials(KafkaConnection()) is None


def test_deployments_on_one_broker_are_told_apart_by_their_prefix() -> None:
    """Group and static member carry it."""
    settings = MeterSettings(kafka=KafkaConnection(topic_prefix="blue."), slot=3)
    assert (settings.group, settings.group_instance) == ("blue.tollway-meter", "blue.tollway-meter-3")
