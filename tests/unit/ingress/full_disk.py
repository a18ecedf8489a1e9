"""`python -m tests.unit.ingress.full_disk DIR`: fills the disk that DIR is on with a log, and tells what came of it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import msgspec

from tests.unit.ingress import test_spool as lab

MOST_EVENTS = 20_000


async def run(path: Path) -> dict[str, object]:
    """Write events until the disk is full, go on as if they had been admitted before, and until it has room again."""
    lab.SEGMENT = 128 * 1024
    found = lab.Lab(path)
    (path / "other").write_bytes(b"x" * 700_000)  # somebody else's file
    while not found.spool.problem and found.events < MOST_EVENTS:
        await found.write(20)
    await found.write(30)
    await found.until(lambda: found.spool.folds and not found.spool.problem)
    await found.write(200)
    found.journal.close(delete=False)
    return {
        "problems": found.problems,
        "folds": found.spool.folds,
        "faults": len(found.faults),
        "told": len(found.told),
        "events": found.events,
        "replayed": msgspec.to_builtins(lab.replayed(path)),
        "expected": msgspec.to_builtins(lab.expected(found.events)),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Path(sys.argv[1])))))
