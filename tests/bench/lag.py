"""Enforcement lag: from an answer on one replica to changed room on another, as that other replica shows it.

Every answer states what is left in its tightest request row. A request through replica A, then requests through
replica B until B's answer shows that A's was counted: the time between is the lag, to the resolution of one request.
"""

from __future__ import annotations

import http.client
import time
from urllib.parse import urlsplit

from tests.bench.proxies import BODY

REMAINING = "x-ratelimit-remaining-requests"


class _Replica:
    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.sent = 0

    def remaining(self) -> int:
        """Send one request and return what this replica then says is left."""
        self.connection.request("POST", "/v1/chat/completions", BODY, self.headers)
        answer = self.connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}")
        self.sent += 1
        return int(answer.headers[REMAINING])


def measure_lag(urls: list[str], key: str, samples: int = 150, deadline_s: float = 60.0) -> list[float]:
    """Return the lags in milliseconds of `samples` requests through `urls[0]`, seen through `urls[1]`.

    The row must not refuse, and its window must not roll within a sample: samples over a minute's edge are dropped.
    """
    first, second = (_Replica(url, key) for url in urls[:2])
    lags: list[float] = []
    ending = time.monotonic() + deadline_s
    while len(lags) < samples and time.monotonic() < ending:
        minute = int(time.time()) // 60
        before = _settled(second)
        first.remaining()
        began = time.perf_counter()
        lag = _seen(second, before, began)
        if lag is not None and int(time.time()) // 60 == minute:
            lags.append(lag)
    return lags


def _settled(replica: _Replica) -> int:
    """Return what is left once everything sent so far is confirmed: two equal steps in a row."""
    last = replica.remaining()
    for _ in range(2_000):
        now = replica.remaining()
        if now == last - 1:
            time.sleep(0.06)
            again = replica.remaining()
            if again == now - 1:
                return again
            last = again
        else:
            last = now
    raise RuntimeError("the remaining requests of the second replica never came to rest")


def _seen(replica: _Replica, before: int, began: float) -> float | None:
    for sent in range(1, 2_000):
        left = replica.remaining()
        if left < before - sent:
            return 1e3 * (time.perf_counter() - began)
        if left > before - sent:
            return None
    return None
