"""How a broker of the user's own is described: options, environment variables, a file; in this order of precedence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from pydantic import ValidationError

from schemas.connection import KafkaConnection
from schemas.errors import ConfigError
from schemas.policy_file import problem_lines

F = TypeVar("F", bound=Callable[..., Any])

_FILE_FIELDS = ", ".join(name for name in KafkaConnection.model_fields if name != "bootstrap")
_OPTIONS = (
    click.option("--kafka-config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
                 envvar="TOLLWAY_KAFKA_CONFIG", help=f"YAML file for --broker with any of: {_FILE_FIELDS}."),
    click.option("--kafka-security-protocol", metavar="PROTOCOL", envvar="TOLLWAY_KAFKA_SECURITY_PROTOCOL",
                 help="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."),
    click.option("--kafka-sasl-mechanism", metavar="NAME", envvar="TOLLWAY_KAFKA_SASL_MECHANISM",
                 help="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."),
    click.option("--kafka-sasl-username", metavar="USER", envvar="TOLLWAY_KAFKA_SASL_USERNAME",
                 help="The password comes from $TOLLWAY_KAFKA_SASL_PASSWORD or the file."),
    click.option("--kafka-tls-ca-file", metavar="FILE", envvar="TOLLWAY_KAFKA_TLS_CA_FILE", help="CA certificates."),
    click.option("--kafka-tls-cert-file", metavar="FILE", envvar="TOLLWAY_KAFKA_TLS_CERT_FILE", help="Client's."),
    click.option("--kafka-tls-key-file", metavar="FILE", envvar="TOLLWAY_KAFKA_TLS_KEY_FILE", help="Client's."),
    click.option("--kafka-topic-prefix", metavar="TEXT", envvar="TOLLWAY_KAFKA_TOPIC_PREFIX",
                 help="Put before every topic's name."),
    click.option("--kafka-partitions", type=click.IntRange(1, 1024), metavar="N", envvar="TOLLWAY_KAFKA_PARTITIONS",
                 help="Shards; fixed once topics exist. [default: 4]"),
    # Never an option: what is on the command line is for every user of the machine to read.
    click.option("--kafka-sasl-password", hidden=True, envvar="TOLLWAY_KAFKA_SASL_PASSWORD"),
)  # fmt: skip


def kafka_options(command: F) -> F:
    """Add the options that describe a broker."""
    decorated: Any = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # click's decorators return what they are given


def connection(broker: str, options: Mapping[str, Any]) -> KafkaConnection | None:
    """Return the connection to the broker at `broker`, None for the embedded one.

    Raises:
        ConfigError: an address without port, an unreadable file, or fields that do not fit, all at once.
    """
    given = {name.removeprefix("kafka_"): value for name, value in options.items() if value is not None}
    config = given.pop("config", None)
    if broker == "embedded":
        unused = sorted(set(given) - {"partitions"}) + (["config"] if config else [])
        if unused:
            names = ", ".join(f"--kafka-{name.replace('_', '-')}" for name in unused)
            raise ConfigError([f"{names}: only for a broker of your own; name it with --broker HOST:PORT"])
        return None
    for address in broker.split(","):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError([f"--broker {address}: not an address; write HOST:PORT or embedded"])
    fields = {**(_read(config) if config else {}), **given, "bootstrap": broker}
    try:
        return KafkaConnection.model_validate(fields)
    except ValidationError as error:
        source = f"--kafka-* and {config}" if config else "--kafka-*"
        raise ConfigError([f"{source}: {line}" for line in problem_lines(error)]) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"--kafka-config {path}: cannot be read ({error})"]) from error
    if not isinstance(found, dict):
        raise ConfigError([f"--kafka-config {path}: must be a mapping with any of {_FILE_FIELDS}"])
    return found
