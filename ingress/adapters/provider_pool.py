"""Public names of the provider pool (see `ingress/adapters/provider/`)."""

from ingress.adapters.provider.attempt import PooledAttempt
from ingress.adapters.provider.pool import DEFAULT_TICK_S, ProviderPool
from ingress.adapters.provider.port import (
    Attempt,
    FaultKind,
    HeaderList,
    Origin,
    ProviderEgress,
    ProviderFault,
    ResponseSink,
)

__all__ = [
    "DEFAULT_TICK_S",
    "Attempt",
    "FaultKind",
    "HeaderList",
    "Origin",
    "PooledAttempt",
    "ProviderEgress",
    "ProviderFault",
    "ProviderPool",
    "ResponseSink",
]
