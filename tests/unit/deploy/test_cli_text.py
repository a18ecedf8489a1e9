"""How the command line reads moments and prints results."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from deploy.cli import output, when
from deploy.cli.report import render

NOW = datetime(2026, 11, 21, 10, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T02:00:00+02:00", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T02:00:00Z", datetime(2026, 11, 1, 2, tzinfo=UTC)),
        ("7d", datetime(2026, 11, 14, 10, 30, 15, tzinfo=UTC)),
        ("90m", datetime(2026, 11, 21, 9, 0, 15, tzinfo=UTC)),
        ("today", datetime(2026, 11, 21, tzinfo=UTC)),
        ("yesterday", datetime(2026, 11, 20, tzinfo=UTC)),
        ("now", NOW),
    ],
)
def test_past_moments(text: str, expected: datetime) -> None:
    """Spans count back, dates begin at midnight UTC, times keep their offset."""
    assert when.past(text, NOW) == expected


def test_future_moments() -> None:
    """Spans count forward; what is not after now cannot be an expiry."""
    assert when.future("30d", NOW) == datetime(2026, 12, 21, 10, 30, 15, tzinfo=UTC)
    assert when.future("2027-01-01", NOW) == datetime(2027, 1, 1, tzinfo=UTC)
    for past in ("today", "2026-11-21", "now", "0d"):
        with pytest.raises(ValueError, match="which is past"):
            when.future(past, NOW)


@pytest.mark.parametrize("text", ["", "soon", "30", "d", "2026-13-01", "1y", "99999999999d"])
def test_no_moment(text: str) -> None:
    """What is none says how to write one."""
    with pytest.raises(ValueError, match="write a span such as"):
        when.past(text, NOW)


def test_unix_milliseconds() -> None:
    """Moments are exact, and shown in UTC."""
    assert when.unix_ms(NOW) == 1_795_257_015_000
    assert when.text_of_ms(1_795_257_015_000) == "2026-11-21 10:30:15Z"
    assert when.text_of_ms(None) == "-"


def test_tables_align_and_numbers_are_to_the_right() -> None:
    """Columns are as wide as their widest cell; nothing is a dash; line breaks do not break the table."""
    text = output.table(("team", "usd"), [("search", "12.50"), ("ml\nx", "1,000.00"), (None, "0.1")])
    assert text.splitlines() == [
        "team         usd",
        "search     12.50",
        "ml x    1,000.00",
        "-            0.1",
    ]


def test_an_empty_table_has_its_header() -> None:
    """No rows are no error."""
    assert output.table(("a", "bc"), []) == "a  bc"


def test_csv_is_quoted_and_nothing_is_empty() -> None:
    """CSV reads back as it was."""
    rows: list[list[Any]] = [["a,b", 'say "hi"', None], ["x\ny", "", 3]]
    text = output.as_csv(("one", "two", "three"), rows)
    assert list(csv.reader(io.StringIO(text))) == [["one", "two", "three"], ["a,b", 'say "hi"', ""], ["x\ny", "", "3"]]


REPORT = {
    "columns": ["team", "requests", "cost_usd"],
    "rows": [["search", 3, "0.000000123"], {"team": "ml", "requests": 1, "cost_usd": None}],
    "totals": {"requests": 4, "cost_usd": "0.000000123"},
}


def test_reports_print_exact_amounts() -> None:
    """Amounts are text from end to end: no float rounds them."""
    found = json.loads(render(REPORT, "json"))
    assert found["rows"] == [
        {"team": "search", "requests": 3, "cost_usd": "0.000000123"},
        {"team": "ml", "requests": 1, "cost_usd": None},
    ]
    assert found["totals"]["cost_usd"] == "0.000000123"
    assert render(REPORT, "csv").splitlines() == ["team,requests,cost_usd", "search,3,0.000000123", "ml,1,"]
    assert render(REPORT, "table").splitlines()[-1].split() == ["total", "4", "0.000000123"]


def test_an_empty_report_says_so() -> None:
    """A table without rows is a sentence; JSON and CSV stay parseable."""
    empty = {"columns": ["team"], "rows": [], "totals": {}}
    assert render(empty, "table") == "no usage in this time"
    assert json.loads(render(empty, "json")) == {"rows": [], "totals": {}}
    assert render(empty, "csv") == "team"
