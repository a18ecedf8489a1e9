"""The one description of a broker that every client is configured from."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.connection import KafkaConnection


def test_a_plain_connection_has_no_tls_and_no_sasl() -> None:
    """The embedded broker needs neither."""
    options = KafkaConnection(bootstrap="127.0.0.1:9092").client_options()
    assert options == {"bootstrap_servers": "127.0.0.1:9092", "security_protocol": "PLAINTEXT", "ssl_context": None}


def test_sasl_settings_reach_the_client() -> None:
    """User name and password are passed on, TLS is on."""
    connection = KafkaConnection(
        security_protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", sasl_username="me", sasl_password="secret"
    )
    options = connection.client_options()
    assert options["sasl_plain_password"] == "secret"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["ssl_context"] is not None


def test_half_of_sasl_is_refused_by_name() -> None:
    """What is missing is named."""
    with pytest.raises(ValidationError, match="sasl_mechanism, sasl_password"):
        KafkaConnection(security_protocol="SASL_PLAINTEXT", sasl_username="me")


def test_the_password_is_masked_wherever_settings_are_shown() -> None:
    """Neither text nor JSON of the settings holds the secret."""
    connection = KafkaConnection(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_username="me", sasl_password="hush-hush"
    )
    assert "hush-hush" not in repr(connection) + connection.model_dump_json()
