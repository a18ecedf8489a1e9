"""Settings of the enforcer: read once from the environment (`TOLLWAY_ENFORCER_…`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connection import KafkaConnection


class EnforcerSettings(BaseSettings):
    """How the enforcer reaches Kafka, and who may use its API."""

    model_config = SettingsConfigDict(
        env_prefix="TOLLWAY_ENFORCER_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    kafka: KafkaConnection = KafkaConnection()
    host: str = "127.0.0.1"
    """What the API listens on."""
    port: int = Field(default=8710, ge=1, le=65_535)
    """Port of the API."""
    admin_token: SecretStr = Field(min_length=16)
    """Bearer token of every path under `/v1`; at least 16 characters."""
    metering_silent_ms: int = Field(default=5_000, ge=500)
    """An alert says that metering is silent when the meter has published nothing for this long."""
    metering_behind_ms: int = Field(default=5_000, ge=500)
    """An alert says that metering is behind when what it publishes has not reached what was on the log so long ago."""
    state_dir: Path = Path("state")
    """Kept for uniformity: the enforcer's state is in Kafka."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
