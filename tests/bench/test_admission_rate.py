"""What admission costs: 15 rows, in one process, without I/O. The target is 3 µs; the figures are printed (`-s`)."""

from __future__ import annotations

from tests.bench.rows import measure_admission


def test_admission_of_15_rows() -> None:
    """Admission takes microseconds; the bound here is loose, because machines are busy."""
    figures = measure_admission()
    print({name: round(figure, 2) for name, figure in figures.items()})
    assert figures["admission_us"] < 10
