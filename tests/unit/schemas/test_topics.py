"""The topic table: what creation and documents are made from."""

from __future__ import annotations

from schemas import topics


def test_names_are_unique() -> None:
    """No topic is in the table twice."""
    names = [topic.name for topic in topics.TOPICS]
    assert len(names) == len(set(names))


def test_every_topic_of_the_module_is_in_the_table() -> None:
    """A topic that is defined is also created and documented."""
    defined = {value.name for value in vars(topics).values() if isinstance(value, topics.Topic)}
    assert defined == {topic.name for topic in topics.TOPICS}


def test_compacted_topics_are_never_cut_by_time() -> None:
    """A changelog that loses records by retention would stop recovery."""
    for topic in topics.TOPICS:
        config = topic.config()
        if topic.compacted:
            assert config["cleanup.policy"] == "compact"
            assert "retention.ms" not in config
        else:
            assert config["retention.ms"] == str(topic.retention_ms if topic.retention_ms is not None else -1)


def test_usage_is_stamped_by_the_broker() -> None:
    """Rows retire by the log's own time, so it has one clock."""
    assert topics.USAGE.config()["message.timestamp.type"] == "LogAppendTime"


def test_a_prefix_goes_before_every_name() -> None:
    """Deployments can share a broker."""
    assert topics.topic_name(topics.USAGE, "blue.") == "blue.usage"
