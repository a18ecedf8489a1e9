"""Which records count."""

from __future__ import annotations

from meter.sink.core.watermarks import Judgement, Watermark, Watermarks

RUN = ("ingress-1", 4)
COUNTS, DUPLICATE, GAP = Judgement.COUNTS, Judgement.DUPLICATE, Judgement.GAP


def judged(watermarks: Watermarks, *seqs: int) -> list[Judgement]:
    """Return what becomes of records of one run in turn."""
    return [watermarks.judge(RUN, seq) for seq in seqs]


def test_records_count_once_and_in_order() -> None:
    """A repeated record is a duplicate; one that skips some is held until they came."""
    assert judged(Watermarks(complete=True), 1, 1, 3, 2, 3, 2, 4) == [
        COUNTS, DUPLICATE, GAP, COUNTS, COUNTS, DUPLICATE, COUNTS,
    ]  # fmt: skip


def test_a_run_that_was_never_seen_begins_at_one_only_if_everything_is_known() -> None:
    """Where runs may have been seen and forgotten, an unknown one may go on anywhere."""
    assert judged(Watermarks(complete=True), 5) == [GAP]
    assert judged(Watermarks(complete=False), 5, 7, 6) == [COUNTS, GAP, COUNTS]


def test_what_a_table_knows_is_a_lower_bound() -> None:
    """Records without events leave no rows, so the next one may be any above; from there on it is exact."""
    watermarks = Watermarks().merged({RUN: 7})
    assert judged(watermarks, 6, 7, 10, 12, 11) == [DUPLICATE, DUPLICATE, COUNTS, GAP, COUNTS]


def test_a_table_does_not_overrule_what_is_exact() -> None:
    """A run that is known exactly stays so."""
    assert judged(Watermarks({RUN: Watermark(3)}).merged({RUN: 9}), 4) == [COUNTS]


def test_nothing_counts_after_the_final_record() -> None:
    """A run ends with its final record."""
    watermarks = Watermarks(complete=True)
    assert watermarks.judge(RUN, 1, final=True) is COUNTS
    assert watermarks.judge(RUN, 2) is DUPLICATE


def test_a_loss_makes_everything_a_lower_bound() -> None:
    """When the log dropped records unseen, the next record of a run counts, unless the run ended."""
    known = Watermarks({RUN: Watermark(3), ("b", 1): Watermark(2, closed=True)}, complete=True).after_a_loss()
    assert judged(known, 3, 9) == [DUPLICATE, COUNTS]
    assert known.judge(("b", 1), 5) is DUPLICATE
    assert known.judge(("c", 1), 5) is COUNTS


def test_a_copy_changes_on_its_own() -> None:
    """Judging on a copy leaves the original as it was."""
    first = Watermarks(complete=True)
    assert judged(first.copy(), 1, 2) == [COUNTS, COUNTS]
    assert first.items() == []
