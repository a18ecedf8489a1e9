"""Settings of the history."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from meter.sink.settings import HistorySettings

TOKEN = SecretStr("0123456789abcdef")


def test_groups_carry_the_prefix() -> None:
    """Deployments on one broker do not meet."""
    settings = HistorySettings(admin_token=TOKEN, kafka={"topic_prefix": "eu."})
    assert settings.group == "eu.history"


@pytest.mark.parametrize(
    "fields",
    [{"clickhouse_url": "chdb:///x"}, {"database": "a; drop"}, {"admin_token": "short"}, {"port": 0}, {"x": 1}],
)
def test_what_cannot_work_is_refused(fields: dict[str, object]) -> None:
    """Bad values are found before anything starts."""
    with pytest.raises(ValidationError):
        HistorySettings(**{"admin_token": TOKEN, **fields})  # type: ignore[arg-type] # that is the test


def test_check_config_says_all_faults_and_no_secret(tmp_path: Path) -> None:
    """`--check-config` ends with 2 and names every variable that is wrong, without values of secrets; else with 0."""
    environment = {**os.environ, "TOLLWAY_HISTORY_ADMIN_TOKEN": "tooshort", "TOLLWAY_HISTORY_PORT": "x"}
    command = [sys.executable, "-m", "meter.sink", "--check-config"]
    bad = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "TOLLWAY_HISTORY_ADMIN_TOKEN" in bad.stderr
    assert "TOLLWAY_HISTORY_PORT" in bad.stderr
    assert "tooshort" not in bad.stderr
    good = {**os.environ, "TOLLWAY_HISTORY_ADMIN_TOKEN": TOKEN.get_secret_value()}
    assert subprocess.run(command, env=good, capture_output=True, check=False).returncode == 0
