from __future__ import annotations

import pytest

from deploy.topics import Difference, Found, _admin, differences, partitions_of, table
from schemas.connection import KafkaConnection
from schemas.topics import POLICY, TOPICS, USAGE


def test_a_topic_as_the_table_says_has_no_differences() -> None:
    """Equal settings compare equal, numbers by value, and settings that the table does not name are ignored."""
    config = {**POLICY.config(), "min.cleanable.dirty.ratio": "0.10", "flush.ms": "9"}
    assert differences(POLICY, "policy", 4, Found(1, config)) == ()


@pytest.mark.parametrize(
    ("setting", "value", "breaks"),
    [("cleanup.policy", "compact", True), ("message.timestamp.type", "CreateTime", True), ("retention.ms", "1", False)],
)
def test_a_difference_names_setting_values_and_remedy(setting: str, value: str, breaks: bool) -> None:
    """Each difference says what is found, what is expected and how to mend it; some are fatal."""
    found = Found(4, {**USAGE.config(), setting: value})
    (difference,) = differences(USAGE, "x.usage", 4, found)
    expected = USAGE.config()[setting]
    assert difference == Difference("x.usage", setting, expected, value)
    assert difference.breaks is breaks
    assert f"{setting} is {value}, expected {expected}; mend it with" in str(difference)


def test_other_partitions_are_fatal() -> None:
    """Shards are for ever; the remedy is to say how many there are."""
    (difference,) = differences(USAGE, "usage", 4, Found(8, USAGE.config()))
    assert difference.breaks
    assert "set the deployment's partitions to 8" in str(difference)


def test_settings_that_the_broker_does_not_tell_are_not_compared() -> None:
    """A broker that hides settings from this user is not called wrong."""
    assert differences(USAGE, "usage", 4, Found(4, {})) == ()


def test_only_sharded_topics_have_a_partition_a_shard() -> None:
    """Everything per organisation is sharded; policy, keys, blocks and alerts are one sequence."""
    assert {topic.name: partitions_of(topic, 7) for topic in TOPICS if not topic.sharded} == dict.fromkeys(
        [
            "policy",
            "prices",
            "keys",
            "blocks",
            "alerts",
            "alerts.sent",
            "audit",
            "history.audits",
            "batches",
            "batches.charged",
        ],
        1,
    )
    assert partitions_of(USAGE, 7) == 7


def test_the_printed_table_lists_every_topic() -> None:
    """`tollway topics` shows the same topics that are created."""
    assert [row["topic"] for row in table()] == [topic.name for topic in TOPICS]


async def test_the_admin_client_authenticates() -> None:
    """SASL settings reach the client that speaks to the broker; the admin client alone would drop them."""
    connection = KafkaConnection.model_validate(
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-256", "sasl_username": "ada",
         "sasl_password": "hush"}
    )  # fmt: skip
    client = _admin(connection)._client
    assert client._security_protocol == "SASL_PLAINTEXT"
    assert client._sasl_mechanism == "SCRAM-SHA-256"
    assert (client._sasl_plain_username, client._sasl_plain_password) == ("ada", "hush")
