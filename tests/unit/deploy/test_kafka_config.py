"""What the embedded broker is told."""

from __future__ import annotations

from pathlib import Path

from deploy.kafka import config
from deploy.kafka.broker import new_cluster_id


def test_listens_on_the_loopback_interface_only() -> None:
    """Every address in the settings is 127.0.0.1: the embedded broker knows neither passwords nor TLS."""
    settings = config.settings(Path("/data"), 9092, 9093)
    addresses = f"{settings['listeners']},{settings['advertised.listeners']}".split(",")
    assert all(address.split("://")[1].startswith("127.0.0.1:") for address in addresses)


def test_a_door_is_advertised_elsewhere() -> None:
    """A client that comes by a further listener is told the proxy's port; the others are told the broker's own."""
    settings = config.settings(Path("/data"), 9092, 9093, [config.Door(9094, 9095)])
    assert "DOOR1://127.0.0.1:9094" in str(settings["listeners"]).split(",")
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9092,DOOR1://127.0.0.1:9095"
    assert "DOOR1:PLAINTEXT" in str(settings["listener.security.protocol.map"]).split(",")


def test_creates_no_topic_on_its_own() -> None:
    """A misspelt topic is an error, not a new topic with the wrong partitions."""
    assert config.settings(Path("/data"), 1, 2)["auto.create.topics.enable"] == "false"


def test_properties_hold_every_setting_on_a_line() -> None:
    """The text that Kafka reads is the table, nothing added and nothing lost."""
    lines = config.server_properties(Path("/data"), 1, 2).splitlines()
    assert [line.partition("=")[0] for line in lines] == list(config.settings(Path("/data"), 1, 2))


def test_command_names_the_locked_jars_and_nothing_else() -> None:
    """The class path is a list of files: a jar that lies about in the cache is not loaded."""
    command = config.java_command("kafka.Kafka", ["p"], [Path("/a.jar"), Path("/b.jar")], Path("/l"), Path("/t"))
    assert command[command.index("-cp") + 1] == "/a.jar:/b.jar"
    assert command[-2:] == ["kafka.Kafka", "p"]


def test_cluster_ids_are_what_kafka_accepts() -> None:
    """22 characters of URL-safe base64 that do not begin with a dash (it would read as an option), all different."""
    ids = {new_cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(len(cluster_id) == 22 and not cluster_id.startswith("-") for cluster_id in ids)
