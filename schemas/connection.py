"""How to reach Kafka: one description that every client of the deployment is configured from. Imports no client."""

from __future__ import annotations

import ssl
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from schemas.topics import DEFAULT_PARTITIONS


class KafkaConnection(BaseModel):
    """Broker address, security and the deployment's topic prefix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: str = "127.0.0.1:9092"
    """`HOST:PORT`, several with commas."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How the broker is spoken to."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """Needed with SASL."""
    sasl_username: str | None = None
    """Needed with SASL."""
    sasl_password: SecretStr | None = None
    """Needed with SASL; masked wherever settings are shown."""
    tls_ca_file: str | None = None
    """Certificates to trust instead of the system's."""
    tls_cert_file: str | None = None
    """Client certificate."""
    tls_key_file: str | None = None
    """Key of the client certificate."""
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """Put before the name of every topic and group."""
    partitions: int = Field(default=DEFAULT_PARTITIONS, ge=1, le=1024)
    """Shards; must be what the topics were created with."""

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            needed = ("sasl_mechanism", "sasl_username", "sasl_password")
            missing = [name for name in needed if getattr(self, name) is None]
            if missing:
                raise ValueError(f"{self.security_protocol} needs {', '.join(missing)}")
        return self

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None for a protocol without TLS."""
        if self.security_protocol not in ("SSL", "SASL_SSL"):
            return None
        context = ssl.create_default_context(cafile=self.tls_ca_file)
        if self.tls_cert_file:
            context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
        return context

    def client_options(self) -> dict[str, Any]:
        """Return the keyword arguments that every aiokafka client takes."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context(),
        }
        if self.sasl_mechanism and self.sasl_password is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        return options


def fetch_fault(consumer: Any) -> BaseException | None:
    """Return why a consumer has given up fetching for good; None if it has not.

    aiokafka's fetcher ends by a fault that it does not know, such as what uvloop says of a connection that was closed
    in the same moment; nothing tells whoever reads from it, who would wait for ever.
    """
    fetching = None if consumer._fetcher is None else consumer._fetcher.error_future  # there is no public way
    return fetching.exception() if fetching is not None and fetching.done() and not fetching.cancelled() else None
