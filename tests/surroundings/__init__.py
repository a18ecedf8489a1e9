"""What is around processes under test: clocks that jump, a broker out of reach, places to die at."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.surroundings.proxy import Proxy

__all__ = ["Surroundings"]


class Surroundings:
    """A directory that tells processes what their clocks say and how they reach the broker; see `sitecustomize`."""

    def __init__(self, place: Path) -> None:
        """Use `place`, which exists and is empty."""
        self.place = place
        self.proxies: list[Proxy] = []

    @property
    def environment(self) -> dict[str, str]:
        """What the processes need in their environment."""
        return {"PYTHONPATH": str(Path(__file__).parent), "TOLLWAY_TEST_SURROUNDINGS": str(self.place)}

    def clock(self, role: str) -> Clock:
        """Give a role that is not running yet a clock of its own."""
        return Clock(self.place / f"{role}.clock")

    def proxy(self, role: str) -> Proxy:
        """Let a replica that is not running yet reach the broker through a proxy."""
        proxy = Proxy(self.place / "broker")
        self.proxies.append(proxy)
        (self.place / f"{role}.port").write_text(str(proxy.port))
        return proxy

    def crash(self, role: str, *places: str) -> None:
        """Let the next processes of a role, which is not running yet, kill themselves: one each, at these places."""
        (self.place / f"{role}.crash").write_text("".join(f"{place}\n" for place in places))

    def close(self) -> None:
        """End the proxies."""
        for proxy in self.proxies:
            proxy.close()


class Clock:
    """The wall clock of one role."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.ahead(0)

    def ahead(self, seconds: float) -> None:
        """Let the clock jump to so many seconds ahead of the system's; a negative number is behind it."""
        mode = "r+b" if self._file.exists() else "wb"
        with self._file.open(mode) as file:
            file.write(struct.pack("<q", int(seconds * 1e9)))
