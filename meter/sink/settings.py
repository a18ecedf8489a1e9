"""Settings of the history process: read once from the environment (`TOLLWAY_HISTORY_…`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connection import KafkaConnection


class HistorySettings(BaseSettings):
    """How the history reaches Kafka and ClickHouse, how it is reached itself, and its limits."""

    model_config = SettingsConfigDict(
        env_prefix="TOLLWAY_HISTORY_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    kafka: KafkaConnection = KafkaConnection()
    host: str = "127.0.0.1"
    """What the API listens on."""
    port: int = Field(default=8730, ge=1, le=65_535)
    """Port of the same address."""
    state_dir: Path = Path("state")
    """The embedded engine keeps its data in `clickhouse` below it. One process a directory."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on the process logs."""
    admin_token: SecretStr = Field(min_length=16)
    """Bearer token of every path below `/v1`."""
    clickhouse_url: SecretStr | None = None
    """`http(s)://user:password@host:port` of a ClickHouse server; without it the embedded engine is used."""
    clickhouse_answer_s: float = Field(default=60.0, ge=1)
    """A server that does not answer for this long is taken to be away, and asked again."""
    database: str = Field(default="tollway", pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """Where the tables are; made if it does not exist."""
    instance: str = Field(default="history", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """Identity within the consumer group: one that comes back under it takes its partitions up at once."""
    log_id: str = ""
    """What the log is called on every row; default: the id of the Kafka cluster. Set a new one after a topic was made
    anew in the same cluster."""
    max_batch_rows: int = Field(default=20_000, ge=1, le=1_000_000)
    """A batch is inserted with this many rows,"""
    max_batch_age_ms: int = Field(default=1_000, ge=1, le=600_000)
    """or when its first row has waited this long."""
    retry_s: float = Field(default=60.0, gt=0)
    """An insert that fails is tried again for this long; then the process ends, and goes on where it was."""
    audit_s: float = Field(default=60.0, gt=0)
    """The ledgers are compared this often."""
    sql_seconds: float = Field(default=30.0, gt=0)
    """A query of `/v1/sql` may run for this long,"""
    sql_rows: int = Field(default=100_000, ge=1)
    """return this many rows,"""
    sql_bytes: int = Field(default=256 << 20, ge=1)
    """this many bytes,"""
    sql_memory_bytes: int = Field(default=2 << 30, ge=1)
    """and use this much memory."""

    @model_validator(mode="after")
    def _url_is_http(self) -> Self:
        if self.clickhouse_url and not self.clickhouse_url.get_secret_value().startswith(("http://", "https://")):
            raise ValueError(
                "clickhouse_url: must begin with http:// or https://; leave it out for the embedded engine"
            )
        return self

    @property
    def group(self) -> str:
        """Return the consumer group of the deployment's history."""
        return f"{self.kafka.topic_prefix}history"
