"""The metadata of a committed offset."""

from __future__ import annotations

import pytest

from meter.sink.core.mark import Mark
from meter.sink.core.watermarks import Watermark, Watermarks


def test_the_mark_is_frozen() -> None:
    """Upgrades read the marks of older versions: these bytes must not change."""
    known = {("ingress-1", 3): Watermark(7), ("ingress-2", 1): Watermark(9, closed=True)}
    text = '{"to":41,"marks":[["ingress-2",1,9,true],["ingress-1",3,7,false]],"whole":true}'
    assert Mark(41, Watermarks(known, complete=True)).encode() == text
    found = Mark.decode(text)
    assert found is not None
    assert (found.last, found.watermarks.items(), found.watermarks.complete) == (41, list(known.items()), True)
    assert Mark(None, Watermarks()).encode() == "{}"


def test_lower_bounds_stay_out_of_the_mark() -> None:
    """Only what is exact is written; the table knows the rest."""
    known = Watermarks({("a", 1): Watermark(5, exact=False), ("b", 1): Watermark(6)}, complete=True)
    assert Mark(None, known).encode() == '{"marks":[["b",1,6,false]]}'


@pytest.mark.parametrize("text", ["", "x", "[]", '{"v":2}', '{"to":"x"}', '{"marks":[["a",1]]}', "0"])
def test_what_is_no_mark_is_none(text: str) -> None:
    """Metadata of another program, or of a later version, is not misread."""
    assert Mark.decode(text) is None
