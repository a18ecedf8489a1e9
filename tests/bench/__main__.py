"""`make bench`: measures, prints a table, and writes `.reports/bench.json`, one flat object of figure → number.

Every comparison is made in turn within this run, and quoted as a ratio: absolute figures hold for one machine and day.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from schemas.published import TICK_MS
from tests.bench import peers, proxies, stack
from tests.bench.lag import measure_lag

REPORT = stack.ROOT / ".reports" / "bench.json"
STREAM_CHUNKS = 100
TARGETS = {
    "ingress_cpu_ratio": 0.6, "ingress_p50_ratio": 0.7, "stream_chunk_ratio": 0.8, "ingress_nginx_ratio": 3.0,
    "lag_p99_ms": 50.0, "loaded_lag_p99_ms": 150.0, "ready_s": 15.0, "admission_us": 3.0, "ingress_row_bytes": 1024.0,
}  # fmt: skip
"""At most."""
FLOORS = {"meter_events_per_s": 50_000.0, "sink_rows_per_s": 50_000.0}
"""At least."""

_say = Console(stderr=True).print


def measure_ingress(place: Path, rounds: int) -> dict[str, float]:
    """Measure CPU and latency a request of Tollway, the pass-through and nginx, and start-up and lag on the way."""
    upstream, pass_port, nginx_port, sim_port = (stack.free_port() for _ in range(4))
    with contextlib.ExitStack() as running:
        base = f"http://127.0.0.1:{upstream}"
        with_nginx = shutil.which("nginx") is not None
        if with_nginx:
            running.enter_context(stack.nginx(place / "upstream", stack.answering(upstream), upstream))
        else:
            _say("[yellow]nginx is not installed: the simulator answers, and nothing is compared with nginx[/]")
            running.enter_context(stack.child(sys.executable, "-m", "deploy.simulator", "--port", str(upstream)))
            stack.wait_for(f"{base}/v1/models")
        passing = running.enter_context(
            stack.child(sys.executable, "-m", "tests.bench.passthrough", str(pass_port), base)
        )
        stack.wait_for(f"http://127.0.0.1:{pass_port}/v1/models")
        ours = running.enter_context(stack.tollway(place / "state", base + "/v1"))
        headers = {"Authorization": f"Bearer {ours.key}"}
        path = "/v1/chat/completions"
        tollway = proxies.Proxy("tollway", ours.ingress[0] + path, ours.pid("ingress-1"), headers)
        bar = proxies.Proxy("pass-through", f"http://127.0.0.1:{pass_port}{path}", passing.pid, headers)
        others = [tollway, bar]
        nginx = None
        if with_nginx:
            servers = stack.proxying(nginx_port, upstream)
            pid = running.enter_context(stack.nginx(place / "proxy", servers, nginx_port))
            nginx = proxies.Proxy("nginx", f"http://127.0.0.1:{nginx_port}{path}", pid, headers)
            others.append(nginx)
        proxies.warm_up(others)
        for number in range(rounds):
            _say(f"  requests, round {number + 1} of {rounds}")
            proxies.measure_round(others)
        figures = proxies.figures(tollway, bar, nginx)
        for start in (peers.litellm, peers.portkey):
            with start(place, base) as peer:
                if peer is None:
                    _say(f"  [dim]{start.__name__} is not installed here, and is not compared[/]")
                else:
                    _say(f"  {start.__name__}")
                    figures.update(proxies.measure_peer(tollway, peer, rounds))
    figures.update(measure_streams(place, rounds, sim_port))
    return figures


def measure_streams(place: Path, rounds: int, sim_port: int) -> dict[str, float]:
    """Measure CPU a streamed chunk of Tollway and of the pass-through, before the simulated provider."""
    base, pass_port = f"http://127.0.0.1:{sim_port}", stack.free_port()
    wish = f"[[sim output={STREAM_CHUNKS} chunks={STREAM_CHUNKS} delay_ms=2]] Stream, please."
    body = json.dumps(
        {"model": "gpt-4o-mini", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 128,
         "messages": [{"role": "user", "content": wish}]}
    ).encode()  # fmt: skip
    with contextlib.ExitStack() as running:
        running.enter_context(stack.child(sys.executable, "-m", "deploy.simulator", "--port", str(sim_port)))
        stack.wait_for(f"{base}/v1/models")
        passing = running.enter_context(
            stack.child(sys.executable, "-m", "tests.bench.passthrough", str(pass_port), base)
        )
        stack.wait_for(f"http://127.0.0.1:{pass_port}/v1/models")
        ours = running.enter_context(stack.tollway(place / "streams", base + "/v1"))
        headers = {"Authorization": f"Bearer {ours.key}"}
        path = "/v1/chat/completions"
        pair = [
            proxies.Proxy("tollway", ours.ingress[0] + path, ours.pid("ingress-1"), headers),
            proxies.Proxy("pass-through", f"http://127.0.0.1:{pass_port}{path}", passing.pid, headers),
        ]
        proxies.warm_up(pair)
        for number in range(rounds):
            _say(f"  streams, round {number + 1} of {rounds}")
            proxies.measure_stream_round(pair, body, STREAM_CHUNKS, 200)
    chunks = proxies.ratios(pair[0].chunk_us, pair[1].chunk_us)
    return {
        "stream_chunk_us": statistics.median(pair[0].chunk_us),
        "passthrough_chunk_us": statistics.median(pair[1].chunk_us),
        "stream_chunk_ratio": statistics.median(chunks),
        "stream_chunk_ratio_min": min(chunks),
        "stream_chunk_ratio_max": max(chunks),
    }


def measure_loop(place: Path, rounds: int) -> dict[str, float]:
    """Measure start-up (first and later) and the lag between two replicas of a whole deployment."""
    sim_port = stack.free_port()
    document = place / "loop-policy.yaml"
    document.write_text(stack.policy(f"http://127.0.0.1:{sim_port}/v1"))
    ready: list[float] = []
    lags: list[float] = []
    loaded: list[tuple[float, float]] = []
    with stack.child(sys.executable, "-m", "deploy.simulator", "--port", str(sim_port)):
        for number in range(min(rounds, 2) + 1):
            began = time.monotonic()
            process, line = stack.start(place / "loop", document, 2)
            try:
                ready.append(time.monotonic() - began)
                if number:
                    key = stack.issue_key(place / "loop")
                    lags += measure_lag(line["ingress"], key, samples=60, deadline_s=9)
                    loaded = loaded or _loaded_lags(line["ingress"], key)
            finally:
                stack.stop(process)
    lags.sort()
    return {
        "ready_first_s": ready[0],
        "ready_s": statistics.median(ready[1:]),
        "lag_samples": len(lags),
        "lag_p50_ms": lags[len(lags) // 2],
        "lag_p99_ms": lags[int(len(lags) * 0.99)],
        "loaded_lag_p50_ms": max(p50 for p50, _ in loaded),
        "loaded_lag_p99_ms": max(p99 for _, p99 in loaded),
    }


def _loaded_lags(urls: list[str], key: str) -> list[tuple[float, float]]:
    """Return (p50, p99) of each replica while both answer as fast as they can: a whole tick and the way around."""
    loads = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.load", f"{url}/v1/chat/completions", key, "--seconds", "6"]
        )
        for url in urls
    ]
    for load in loads:
        if load.wait(60):
            raise RuntimeError(f"the load ended with {load.returncode}")
    laps = [httpx.get(f"{url}/tollway/v1/status").raise_for_status().json()["propagation_ms"] for url in urls]
    return [(lap["p50"] + TICK_MS, lap["p99"] + TICK_MS) for lap in laps]


def measure_core(_place: Path, _rounds: int) -> dict[str, float]:
    """Measure what rows cost in memory and time, without I/O."""
    from tests.bench.rows import measure

    return measure()


def measure_extraction(_place: Path, _rounds: int) -> dict[str, float]:
    """Measure what reading usage costs a chunk and an answer, without I/O."""
    from tests.bench.test_extraction_rate import measure

    return measure()


def measure_meter(_place: Path, rounds: int) -> dict[str, float]:
    """Measure usage events a second through the Faust worker, from a real broker, with durable state."""
    from tests.bench.test_meter_rate import measure

    return measure(rounds)


def measure_sink(_place: Path, rounds: int) -> dict[str, float]:
    """Measure rows a second into the real engine, with all rollups."""
    from tests.bench.test_sink_rate import measure

    return measure(rounds)


def measure_faults(place: Path, _rounds: int) -> dict[str, float]:
    """Measure how long after the kill of each process all ledgers are equal again."""
    from tests.bench.recovery import measure

    return measure(place)


PARTS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "core": measure_core, "extraction": measure_extraction, "ingress": measure_ingress, "loop": measure_loop,
    "meter": measure_meter, "sink": measure_sink, "faults": measure_faults,
}  # fmt: skip


def table(figures: dict[str, float]) -> Table:
    """Return the figures with the target of those that have one."""
    found = Table(title="Tollway benchmarks", title_justify="left")
    for column in ("figure", "value", "target", ""):
        found.add_column(column, justify="left" if column in ("figure", "") else "right")
    for name, value in figures.items():
        if name in TARGETS:
            target, met = f"≤ {TARGETS[name]:g}", value <= TARGETS[name]
        elif name in FLOORS:
            target, met = f"≥ {FLOORS[name]:,.0f}", value >= FLOORS[name]
        else:
            found.add_row(name, f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", "", "")
            continue
        shown = f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
        found.add_row(name, shown, target, "met" if met else "[bold]missed[/]")
    return found


def main() -> None:
    """Measure the parts that are named, or all."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="parts to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds of each comparison (default 3)")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for part in options.parts or list(PARTS):
        _say(f"[bold]{part}[/]")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tollway-bench-") as place:
            figures.update(PARTS[part](Path(place), options.rounds))
        _say(f"  {time.monotonic() - began:.0f} s")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=2) + "\n")
    Console().print(table(figures))
    _say(f"written to {REPORT.relative_to(stack.ROOT)}")


if __name__ == "__main__":
    main()
