"""Settings of the ingress, and how their faults are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ingress.__main__ import read_settings
from ingress.settings import IngressSettings


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting comes from a variable with the prefix, nested ones with two underscores."""
    monkeypatch.setenv("TOLLWAY_INGRESS_PORT", "18900")
    monkeypatch.setenv("TOLLWAY_INGRESS_INSTANCE", "ingress-7")
    monkeypatch.setenv("TOLLWAY_INGRESS_STATE_DIR", "/data")
    monkeypatch.setenv("TOLLWAY_INGRESS_KAFKA__BOOTSTRAP", "kafka:9092")
    settings = IngressSettings()
    assert (settings.port, settings.kafka.bootstrap) == (18900, "kafka:9092")
    assert settings.wal_dir == Path("/data/ingress/ingress-7")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INSTANCE", "../other"),
        ("INSTANCE", ""),
        ("PORT", "70000"),
        ("SIMULATED_URL", "ftp://x"),
        ("REQUEST_LOG", "some"),
        ("TLS_CERT_FILE", "only-one.pem"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """What cannot work is a fault of the configuration, found at the start."""
    monkeypatch.setenv(f"TOLLWAY_INGRESS_{name}", value)
    with pytest.raises(ValidationError):
        IngressSettings()


def test_faults_are_all_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fault has a line with variable and value; a password is in none."""
    monkeypatch.setenv("TOLLWAY_INGRESS_PORT", "many")
    monkeypatch.setenv("TOLLWAY_INGRESS_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("TOLLWAY_INGRESS_KAFKA__SASL_PASSWORD", "hunter2")
    assert read_settings() is None
    told = capsys.readouterr().err
    assert "TOLLWAY_INGRESS_PORT" in told
    assert "'many'" in told
    assert "TOLLWAY_INGRESS_KAFKA: " in told
    assert "hunter2" not in told


def test_settings_do_not_print_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings may be shown as they are."""
    monkeypatch.setenv("TOLLWAY_INGRESS_KAFKA__SASL_PASSWORD", "hunter2")
    assert "hunter2" not in repr(IngressSettings())
