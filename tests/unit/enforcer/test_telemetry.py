"""The catalogue of metrics is closed and complete."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from enforcer.adapters.tail import Offsets, Tail
from enforcer.core.metering import Metering
from enforcer.services import Services, Views
from enforcer.telemetry import CATALOGUE, PREFIX, Telemetry
from schemas.connection import KafkaConnection


def _services() -> Services:
    connection = KafkaConnection()
    views = Views(1, lambda: 0, Metering(1, 0, 1_000, 1_000))
    tails = [Tail(connection, Offsets(connection), name, [], lambda record, live: None) for name in ("a", "b", "c")]
    return Services(views, tails[0], tails[1], tails[2], lambda: 0)


def test_every_metric_of_the_catalogue_is_exported_under_its_name() -> None:
    """Gauges and counters alike, before anything has happened."""
    text = generate_latest(Telemetry(_services().samples).registry).decode()
    for entry in CATALOGUE:
        assert f"# HELP {PREFIX}{entry.name}" in text
        assert entry.help in text


def test_a_metric_that_is_not_in_the_catalogue_cannot_be_counted() -> None:
    """A misspelt name is a bug, not another metric."""
    with pytest.raises(KeyError):
        Telemetry(lambda: []).count("no_such_metric")


def test_every_sample_belongs_to_a_gauge_of_the_catalogue_with_its_labels() -> None:
    """Names and numbers of labels are those of the table."""
    gauges = {entry.name: entry.labels for entry in CATALOGUE if entry.kind == "gauge"}
    for name, labels, _ in _services().samples():
        assert len(labels) == len(gauges[name])
