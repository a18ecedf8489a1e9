"""Frames and segments of the write-ahead log on a real disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingress.adapters.wal import (
    ADMITTED,
    CHECKPOINT,
    EVENT,
    PREFIX_BYTES,
    Head,
    Wal,
    WalCorrupt,
    find_segments,
    read_frames,
)


def frame(payload: bytes, kind: int = EVENT, partition: int = 0) -> bytes:
    """Return a whole frame."""
    return Head(kind, partition).frame(payload) + payload


def test_frames_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Kind, partition and payload, also empty and larger than what is read at once."""
    wal = Wal(tmp_path, 3)
    wal.begin_segment(frame(b"", CHECKPOINT))
    large = bytes(range(256)) * 9_000
    wal.append(frame(b"one", ADMITTED, 65_535) + frame(large))
    wal.append(frame(b"two"))
    wal.close()
    found = list(read_frames(tmp_path / f"{3:020d}-{1:010d}.wal"))
    assert [(each.kind, each.partition, each.payload) for each in found] == [
        (CHECKPOINT, 0, b""), (ADMITTED, 65_535, b"one"), (EVENT, 0, large), (EVENT, 0, b"two"),
    ]  # fmt: skip
    assert found[-1].end == wal.segments[0].size == wal.size
    again = read_frames(wal.segments[0].path, found[2].start)
    assert [each.payload for each in again] == [large, b"two"]


def test_a_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    """Segments are numbered within a run, and dropped from the front."""
    wal = Wal(tmp_path, 3, segment_bytes=20)
    wal.begin_segment(frame(b"a"))
    filled = [wal.is_full]
    wal.append(frame(b"bb"))
    assert [*filled, wal.is_full] == [False, True]
    wal.begin_segment(frame(b"c"))
    assert [segment.number for segment in find_segments(tmp_path)[3]] == [1, 2]
    wal.drop_first()
    assert [segment.number for segment in find_segments(tmp_path)[3]] == [2]
    wal.close(delete=True)
    assert find_segments(tmp_path) == {}


def test_a_run_does_not_write_over_another(tmp_path: Path) -> None:
    """A file that exists is never opened for writing."""
    Wal(tmp_path, 3).begin_segment(b"")
    with pytest.raises(FileExistsError):
        Wal(tmp_path, 3).begin_segment(b"")


def test_a_missing_segment_is_a_fault(tmp_path: Path) -> None:
    """Nothing is skipped silently."""
    for number in (1, 3):
        (tmp_path / f"{3:020d}-{number:010d}.wal").write_bytes(b"")
    with pytest.raises(WalCorrupt, match="missing"):
        find_segments(tmp_path)


@pytest.mark.parametrize("broken", [0, PREFIX_BYTES - 1, PREFIX_BYTES + 1, PREFIX_BYTES + 5])
def test_a_broken_frame_before_a_whole_one_is_a_fault(tmp_path: Path, broken: int) -> None:
    """A flipped bit in the middle is told apart from a torn end, unless it hides where the next frame begins."""
    path = tmp_path / "x.wal"
    first = bytearray(frame(b"first") + frame(b"second"))
    first[broken] ^= 0x10
    path.write_bytes(first)
    if broken == 0:  # the length: what follows cannot be found any more
        assert list(read_frames(path)) == []
        return
    with pytest.raises(WalCorrupt, match="byte 0"):
        list(read_frames(path))


def test_a_broken_last_frame_is_a_torn_end(tmp_path: Path) -> None:
    """A frame that was written in part is left out, wherever it was cut."""
    path = tmp_path / "x.wal"
    whole = frame(b"first")
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert [each.payload for each in read_frames(path)] == [b"first"]
