"""How long after a kill all ledgers are equal again, and that they are: `python -m tests.faults --kills`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def measure(place: Path) -> dict[str, float]:
    """Return seconds from the moment at which a killed process was started again until every ledger was equal."""
    report = place / "faults.json"
    command = [sys.executable, "-m", "tests.faults", "--kills", "--report", str(report)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    found = json.loads(report.read_text())
    figures = {
        f"recovery_{name.partition('/')[2]}_s": part["recovery_s"]["max"] for name, part in found["faults"].items()
    }
    return {**figures, "recovery_p50_s": found["recovery_s"]["p50"], "recovery_max_s": found["recovery_s"]["max"]}
