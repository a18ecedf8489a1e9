"""What a proxied request costs: CPU and latency of Tollway, of the pass-through and of nginx, in turn."""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import dataclass, field

from tests.bench.cpu import cpu_seconds, resident_mb
from tests.bench.load import Result, load, request_bytes

BODY = json.dumps(
    {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "You answer briefly."},
            {"role": "user", "content": "Say something kind about distributed systems, in one sentence."},
        ],
        "max_tokens": 64,
    }
).encode()


@dataclass
class Proxy:
    """A proxy under measurement and what was measured."""

    name: str
    url: str
    pid: int
    headers: dict[str, str] = field(default_factory=dict)
    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    p50_32_ms: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    chunk_us: list[float] = field(default_factory=list)


def _run(proxy: Proxy, body: bytes, connections: int, count: int, seconds: float) -> Result:
    request = request_bytes(proxy.url, body, proxy.headers)
    result = asyncio.run(load(proxy.url, request, connections=connections, count=count, seconds=seconds))
    if set(result.statuses) != {200} or result.errors:
        raise RuntimeError(f"{proxy.name}: statuses {result.statuses}, {result.errors} connection errors")
    return result


def warm_up(proxies: list[Proxy], body: bytes = BODY) -> None:
    """Send some requests through each, so that connections, caches and code are warm."""
    for proxy in proxies:
        _run(proxy, body, 32, 2_000, 10)


def measure_round(proxies: list[Proxy], count: int = 12_000) -> None:
    """Measure each proxy once: `count` requests at 32 connections for CPU, then 1 connection for latency."""
    for proxy in proxies:
        before = cpu_seconds(proxy.pid)
        result = _run(proxy, BODY, 32, count, 30)
        proxy.cpu_us.append(1e6 * (cpu_seconds(proxy.pid) - before) / result.answers)
        proxy.rate.append(result.answers / result.seconds)
        proxy.p50_32_ms.append(result.quantile_ms(0.5))
        alone = _run(proxy, BODY, 1, 2_000, 10)
        proxy.p50_ms.append(alone.quantile_ms(0.5))
        proxy.p99_ms.append(alone.quantile_ms(0.99))


def measure_stream_round(proxies: list[Proxy], body: bytes, chunks: int, count: int) -> None:
    """Measure each proxy once with streamed answers of `chunks` chunks: CPU a chunk at 32 connections."""
    for proxy in proxies:
        before = cpu_seconds(proxy.pid)
        result = _run(proxy, body, 32, count, 30)
        proxy.chunk_us.append(1e6 * (cpu_seconds(proxy.pid) - before) / (result.answers * chunks))


def ratios(first: list[float], second: list[float]) -> list[float]:
    """Return first / second, pair by pair: what holds when the machine's speed drifts."""
    return [a / b for a, b in zip(first, second, strict=True)]


def measure_peer(ours: Proxy, peer: Proxy, rounds: int, count: int = 400) -> dict[str, float]:
    """Measure another gateway and ours in turn; it gets fewer requests, because each costs it so much more."""
    _run(peer, BODY, 4, 50, 60)
    cpu: dict[str, list[float]] = {ours.name: [], peer.name: []}
    for _ in range(rounds):
        for proxy, number in ((peer, count), (ours, 10 * count)):
            before = cpu_seconds(proxy.pid)
            result = _run(proxy, BODY, 32, number, 30)
            cpu[proxy.name].append(1e6 * (cpu_seconds(proxy.pid) - before) / result.answers)
    return {
        f"{peer.name}_cpu_us": statistics.median(cpu[peer.name]),
        f"ingress_{peer.name}_ratio": statistics.median(ratios(cpu[ours.name], cpu[peer.name])),
    }


def figures(ours: Proxy, bar: Proxy, nginx: Proxy | None) -> dict[str, float]:
    """Return the flat figures of one set of rounds, medians over rounds."""
    median = statistics.median
    cpu = ratios(ours.cpu_us, bar.cpu_us)
    found = {
        "ingress_cpu_us": median(ours.cpu_us),
        "passthrough_cpu_us": median(bar.cpu_us),
        "ingress_cpu_ratio": median(cpu),
        "ingress_cpu_ratio_min": min(cpu),
        "ingress_cpu_ratio_max": max(cpu),
        "ingress_p50_ms": median(ours.p50_ms),
        "ingress_p99_ms": median(ours.p99_ms),
        "ingress_p50_ratio": median(ratios(ours.p50_ms, bar.p50_ms)),
        "ingress_p99_ratio": median(ratios(ours.p99_ms, bar.p99_ms)),
        "ingress_p50_32_ratio": median(ratios(ours.p50_32_ms, bar.p50_32_ms)),
        "ingress_requests_per_s": median(ours.rate),
        "ingress_resident_mb": resident_mb(ours.pid),
    }
    if nginx is not None:
        found["nginx_cpu_us"] = median(nginx.cpu_us)
        found["ingress_nginx_ratio"] = median(ratios(ours.cpu_us, nginx.cpu_us))
    if ours.chunk_us:
        chunks = ratios(ours.chunk_us, bar.chunk_us)
        found["stream_chunk_us"] = median(ours.chunk_us)
        found["stream_chunk_ratio"] = median(chunks)
        found["stream_chunk_ratio_min"] = min(chunks)
        found["stream_chunk_ratio_max"] = max(chunks)
    return found
