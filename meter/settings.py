"""Settings of the meter: read once from the environment (`TOLLWAY_METER_…`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connection import KafkaConnection
from schemas.published import LEASE_MS


class MeterSettings(BaseSettings):
    """How the meter reaches Kafka and is reached itself."""

    model_config = SettingsConfigDict(
        env_prefix="TOLLWAY_METER_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    kafka: KafkaConnection = KafkaConnection()
    host: str = "127.0.0.1"
    """What `/healthz`, `/readyz` and `/metrics` listen on."""
    port: int = Field(default=8720, ge=1, le=65_535)
    """Port of the same address."""
    state_dir: Path = Path("state")
    """Kept for uniformity: the meter's state is in Kafka."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on the process logs."""
    slot: int = Field(default=0, ge=0)
    """Number of this worker among the meter's workers. A worker that returns under its number takes its partitions up
    at once; without it the others would wait for the session of the dead one to end."""
    lease_ms: int = Field(default=LEASE_MS, ge=1_000)
    """A replica that is silent on the log for this long is evicted. Longer than the replicas' own self-fence."""

    @property
    def group(self) -> str:
        """Return the consumer group of all of the deployment's meters."""
        return f"{self.kafka.topic_prefix}tollway-meter"

    @property
    def group_instance(self) -> str:
        """Return the static identity of this worker in its group."""
        return f"{self.group}-{self.slot}"
