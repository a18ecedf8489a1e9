"""Faults of settings: all of them, and no secret among them."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from schemas.connection import KafkaConnection
from schemas.faults import setting_problems


class Settings(BaseModel):
    kafka: KafkaConnection
    port: int
    admin_token: SecretStr


def _problems(**values: object) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate(values)
    return setting_problems(raised.value, "TOLLWAY_TEST_")


def test_every_fault_is_a_line_with_variable_and_value() -> None:
    """All problems are reported at once, each with the variable to mend."""
    lines = _problems(kafka={"partitions": 0}, port="many", admin_token="long enough for anyone")
    assert [line.partition(":")[0] for line in lines] == ["TOLLWAY_TEST_KAFKA__PARTITIONS", "TOLLWAY_TEST_PORT"]
    assert "(got 0)" in lines[0]
    assert "(got 'many')" in lines[1]


def test_no_line_holds_a_secret() -> None:
    """Neither a wrong secret nor a section that holds one is shown."""
    lines = _problems(
        kafka={"security_protocol": "SASL_SSL", "sasl_password": "hush-hush", "sasl_username": "me"},
        port=1,
        admin_token=["hush-hush"],
    )
    assert len(lines) == 2
    assert "hush-hush" not in "".join(lines)
