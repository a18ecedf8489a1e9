"""Settings of the ingress: read once from the environment (`TOLLWAY_INGRESS_…`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connection import KafkaConnection
from schemas.published import DRAIN_S, MOST_DRAINS

FLUSH_S = 5
Fsync = Literal["none", "interval", "always"]
RequestLog = Literal["off", "errors", "refusals", "all"]


class IngressSettings(BaseSettings):
    """How an ingress replica is reached, what it reaches, and who it is."""

    model_config = SettingsConfigDict(
        env_prefix="TOLLWAY_INGRESS_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    kafka: KafkaConnection = KafkaConnection()
    host: str = "127.0.0.1"
    """Address that clients reach."""
    port: int = Field(default=8080, ge=0, le=65_535)
    """Port of the same address."""
    state_dir: Path = Path("state")
    """Holds the write-ahead log of this replica in `ingress/<instance>`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on the process logs."""
    instance: str = Field(default="ingress-1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Who this replica is. Stable over restarts, and unlike that of every other replica that runs."""
    simulated_url: str = Field(default="http://127.0.0.1:8701/v1", pattern=r"^https?://[^\s]+$")
    """What the base URL `simulated` of a provider stands for."""
    request_log: RequestLog = "errors"
    """Which requests get a line in the log: none, those that failed at the provider or in here, refused ones too, or
    all. Refusals have decision records, and a line costs more than the request that it tells of."""
    keep_alive_s: int = Field(default=75, ge=1, le=3_600)
    """How long a client's connection may be idle."""
    drain_s: int = Field(default=DRAIN_S, ge=0, le=3_600)
    """How long running requests may go on after SIGTERM, and answers that are read on without their clients."""
    most_drains: int = Field(default=MOST_DRAINS, ge=0, le=65_536)
    """Of how many answers at once the rest is read though their clients have hung up; of more, the usage is
    estimated."""
    upload_s: int = Field(default=120, ge=1, le=3_600)
    """How long a request may take to arrive, head and body together; then it is refused with 408."""
    flush_s: int = Field(default=FLUSH_S, ge=0, le=3_600)
    """How long a stopping replica then goes on sending what the broker does not have; the rest stays on its log, for
    its next run or `tollway spool replay`, and the exit code is 3. All of a stop takes `drain_s` + `flush_s` + 5 s at
    most."""
    fsync: Fsync = "none"
    """When the log is synced: never by itself, at intervals, or before anybody is told of what is on it."""
    fsync_ms: int = Field(default=100, ge=50, le=200)
    """The interval."""
    spool_max_bytes: int = Field(default=2 * 1024**3, ge=1024**2)
    """How much of the log may wait for the broker. An alarm from 80 % on, sums instead of single events from 90 % on,
    503 at all of it. Two files of reserve, 16 MiB or a sixteenth of this each, are kept beside it."""
    spool_max_age_s: int = Field(default=24 * 3_600, ge=1)
    """Events that wait for longer are an alarm."""
    tls_cert_file: Path | None = None
    """Certificate to serve TLS with; without it, plain HTTP."""
    tls_key_file: Path | None = None
    """Key of that certificate."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("set both tls_cert_file and tls_key_file, or neither")
        return self

    @property
    def wal_dir(self) -> Path:
        """Return where this replica keeps its write-ahead log."""
        return self.state_dir / "ingress" / self.instance
