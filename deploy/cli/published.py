"""The published numbers as help and status print them. They are made in `schemas.published` alone."""

from __future__ import annotations

from schemas import published


def numbers() -> dict[str, str | int]:
    """Return the published numbers by name, for `status --json`."""
    return {
        "propagation_p99_ms": published.PROPAGATION_P99_MS,
        "revocation_ms": published.REVOCATION_MS,
        "overrides_ms": published.OVERRIDES_MS,
        "overshoot_bound": published.OVERSHOOT_BOUND,
        "heartbeat_ms": published.HEARTBEAT_MS,
        "lease_ms": published.LEASE_MS,
        "self_fence_ms": published.SELF_FENCE_MS,
        "drain_s": published.DRAIN_S,
        "changelog_ms": published.CHANGELOG_MS,
    }


def lines() -> list[str]:
    """Return the published numbers as sentences."""
    return [
        f"propagation: use on one replica changes the room on all within {published.PROPAGATION_P99_MS} ms (p99)",
        f"revocation: a revoked key is refused on every replica within {published.REVOCATION_MS} ms",
        f"changes: a limit, an increase or a freeze is in force on every replica within {published.OVERRIDES_MS} ms",
        f"overshoot bound: {published.OVERSHOOT_BOUND}",
        f"deadlines: a silent replica loses its share after {published.LEASE_MS // 1000} s and stops admitting by "
        f"itself after {published.SELF_FENCE_MS // 1000} s without the broker",
        f"drain: a stopping ingress lets running requests go on for {published.DRAIN_S} s",
    ]


def epilog() -> str:
    """Return the block that ends `tollway --help` and `tollway up --help`."""
    return "\b\nPublished numbers:\n" + "\n".join(f"  {line}" for line in _wrapped())


def _wrapped() -> list[str]:
    import textwrap

    return [part for line in lines() for part in textwrap.wrap(line, 74, subsequent_indent="  ")]
