"""The generated pages of docs/ and what each is made from."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from deploy.reference import configuration, metrics, topics
from enforcer.settings import EnforcerSettings
from ingress.settings import IngressSettings
from meter.settings import MeterSettings
from meter.sink.settings import HistorySettings

SETTINGS: list[tuple[str, type[BaseModel]]] = [
    ("ingress", IngressSettings),
    ("meter", MeterSettings),
    ("history", HistorySettings),
    ("enforcer", EnforcerSettings),
]
EXAMPLE = Path(__file__).resolve().parents[1] / "policies" / "example.yaml"


def pages() -> dict[str, str]:
    """Return file name → text of every generated page."""
    return {
        "asyncapi.yaml": topics.asyncapi(),
        "topics.md": topics.page(),
        "configuration.md": configuration.page(SETTINGS, EXAMPLE),
        "metrics.md": metrics.page(),
    }
