"""Reads what providers export about costs: amounts by day (UTC) and model, exactly, or everything that is wrong.

Formats, told apart by their content:

* OpenAI's organization costs as JSON (`object: page`, buckets of a day, `amount.value`, `line_item`):
  https://platform.openai.com/docs/api-reference/usage/costs
* OpenAI's cost export as CSV (`start_time`, `amount_value`, `amount_currency`, `line_item`), the same data as a table
* Anthropic's cost report as JSON (buckets of a day, `amount` a decimal string in cents, `model`):
  https://platform.claude.com/docs/en/api/admin-api/usage-cost/get-cost-report
* Anthropic's cost export of its Console as CSV (`usage_date_utc`, `model`, `cost_usd`)
* our own, for all others, as CSV: `date,model,cost_usd`, and `tokens` and `currency` if one likes

Nothing is guessed: a line that cannot be read is a fault with its place and field, and an amount in another currency
than USD is refused. Amounts are fractions until they are summed up. Pure.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

DAY_S = 86_400
MAX_USD = 10**9
_NUMBER = re.compile(r"^-?\d+(\.\d+)?([eE][+-]?\d{1,5})?$")
_MODALITY = re.compile(r" (text|image|audio)$")
_TOKEN_SIDES = ("input", "output")


class Line(NamedTuple):
    """One amount of an invoice."""

    day: date
    model: str
    """By the provider's name, or what it is for where it is for no model."""
    usd: Fraction
    tokens: int | None
    """What was billed, where the invoice says that."""


class Invoice(NamedTuple):
    """What was read, or why it could not be."""

    format: str
    lines: list[Line]
    faults: list[str]
    sha256: str


class _Fault(Exception):
    """What is wrong with a line: the field, its value and what to do."""


def read(files: Mapping[str, bytes]) -> Invoice:
    """Return the invoice that `files` (by name) make up together."""
    lines: list[Line] = []
    faults: list[str] = []
    formats: set[str] = set()
    digest = hashlib.sha256()
    for name, data in sorted(files.items(), key=lambda item: hashlib.sha256(item[1]).digest()):
        digest.update(hashlib.sha256(data).digest())
        try:
            format_, found = _parse(data)
        except _Fault as error:
            faults.append(f"{name}: {error}")
            continue
        formats.add(format_)
        for place, line in found:
            if isinstance(line, Line):
                lines.append(line)
            else:
                faults.append(f"{name}: {place}: {line}")
    if not lines and not faults:
        faults.append("there is no amount in it")
    return Invoice(", ".join(sorted(formats)), lines, faults, digest.hexdigest())


Found = Iterator[tuple[str, Line | str]]
"""Place, and the line there or what is wrong with it."""


def _parse(data: bytes) -> tuple[str, Found]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Fault(f"not UTF-8 at byte {error.start}") from error
    if text.lstrip()[:1] in ("{", "["):
        return _json(text)
    reader = csv.DictReader(io.StringIO(text))
    columns = set(reader.fieldnames or ())
    for format_, needed, line_of in _TABLES:
        if needed <= columns:
            return format_, _rows(reader, line_of)
    raise _Fault(
        f"line 1: the columns {', '.join(sorted(columns)) or '(none)'} are of no format that is known; write "
        "date,model,cost_usd and, if known, tokens"
    )


def _rows(reader: csv.DictReader[str], line_of: Callable[[Mapping[str, Any]], Line | None]) -> Found:
    for row in reader:
        try:
            if None in row:
                raise _Fault("more fields than columns; quote what has a comma in it")
            line = line_of(row)
        except _Fault as error:
            yield f"line {reader.line_num}", str(error)
        else:
            if line is not None:
                yield f"line {reader.line_num}", line


def _openai_row(row: Mapping[str, Any]) -> Line | None:
    if not row["amount_value"]:
        return None  # a day without costs
    _dollars("amount_currency", row["amount_currency"])
    day = _day_of_unix("start_time", row.get("start_time"), row.get("end_time"))
    item = _text("line_item", row["line_item"], "export the costs grouped by line item")
    return Line(day, _model_of(item), _usd("amount_value", row["amount_value"]), None)


def _anthropic_row(row: Mapping[str, Any]) -> Line:
    name = row["model"] or row.get("cost_type") or row.get("token_type")
    model = _text("model", name, "every line has a model or a cost type")
    return Line(_day("usage_date_utc", row["usage_date_utc"]), model, _usd("cost_usd", row["cost_usd"]), None)


def _generic_row(row: Mapping[str, Any]) -> Line:
    _dollars("currency", row.get("currency") or "usd")
    tokens = row.get("tokens")
    return Line(
        _day("date", row["date"]), _text("model", row["model"], "every line has a model"),
        _usd("cost_usd", row["cost_usd"]), None if tokens in (None, "") else _count("tokens", tokens),
    )  # fmt: skip


_TABLES: tuple[tuple[str, set[str], Callable[[Mapping[str, Any]], Line | None]], ...] = (
    ("openai-csv", {"start_time", "amount_value", "amount_currency", "line_item"}, _openai_row),
    ("anthropic-csv", {"usage_date_utc", "model", "cost_usd"}, _anthropic_row),
    ("csv", {"date", "model", "cost_usd"}, _generic_row),
)


def _json(text: str) -> tuple[str, Found]:
    try:
        value = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise _Fault(f"not JSON: {error}") from error
    pages = value if isinstance(value, list) else [value]
    buckets: list[Any] = []
    for page in pages:
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise _Fault("data: missing; give the pages of a cost report as the provider's API returns them")
        buckets += page["data"]
    if pages and pages[-1].get("has_more"):
        raise _Fault("has_more: true; the report goes on: fetch all pages, and give them as a JSON list")
    first = next((bucket for bucket in buckets if isinstance(bucket, dict)), {})
    if "starting_at" in first:
        return "anthropic-json", _results(buckets, _anthropic_day, _anthropic_result)
    return "openai-json", _results(buckets, _openai_day, _openai_result)


def _results(buckets: list[Any], day_of: Callable[[Any], date], line_of: Callable[[date, Any], Line]) -> Found:
    for number, bucket in enumerate(buckets):
        try:
            day = day_of(bucket)
            results = bucket.get("results", bucket.get("result"))
            if not isinstance(results, list):
                raise _Fault("results: missing; it is a list")
        except _Fault as error:
            yield f"data.{number}", str(error)
            continue
        for index, result in enumerate(results):
            place = f"data.{number}.results.{index}"
            try:
                if not isinstance(result, dict):
                    raise _Fault("not an object")
                yield place, line_of(day, result)
            except _Fault as error:
                yield place, str(error)


def _openai_day(bucket: Any) -> date:
    if not isinstance(bucket, dict):
        raise _Fault("not an object")
    return _day_of_unix("start_time", bucket.get("start_time"), bucket.get("end_time"))


def _openai_result(day: date, result: Mapping[str, Any]) -> Line:
    amount = result.get("amount")
    if not isinstance(amount, dict):
        raise _Fault("amount: missing; it is an object with value and currency")
    _dollars("amount.currency", amount.get("currency"))
    item = _text("line_item", result.get("line_item"), "ask for the costs with group_by=line_item")
    quantity = result.get("quantity")
    tokens = _count("quantity", quantity) if item.endswith(_TOKEN_SIDES) and quantity is not None else None
    return Line(day, _model_of(item), _usd("amount.value", amount.get("value")), tokens)


def _anthropic_day(bucket: Any) -> date:
    if not isinstance(bucket, dict):
        raise _Fault("not an object")
    begin, end = (_moment(name, bucket.get(name)) for name in ("starting_at", "ending_at"))
    if begin.timestamp() % DAY_S or end.timestamp() - begin.timestamp() != DAY_S:
        raise _Fault(f"starting_at: {bucket['starting_at']!r} to {bucket['ending_at']!r} is not a day in UTC")
    return begin.date()


def _anthropic_result(day: date, result: Mapping[str, Any]) -> Line:
    _dollars("currency", result.get("currency"))
    name = result.get("model") or result.get("description") or result.get("cost_type")
    model = _text("model", name, "ask for the costs with group_by[]=description")
    return Line(day, model, _usd("amount", result.get("amount")) / 100, None)


def _model_of(item: str) -> str:
    """Return the model of `gpt-4o-2024-08-06, cached input`; what names no model stays as it is."""
    name, comma, _ = item.partition(",")
    return _MODALITY.sub("", name.strip()) if comma else item.strip()


def _text(field: str, value: Any, remedy: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Fault(f"{field}: {value!r} says nothing; {remedy}")
    return value.strip()


def _dollars(field: str, value: Any) -> None:
    if not isinstance(value, str) or value.strip().lower() != "usd":
        raise _Fault(f"{field}: {value!r}; only amounts in USD can be compared, convert them first")


def _usd(field: str, value: Any) -> Fraction:
    text = str(value).strip() if isinstance(value, str | Decimal) else ""
    if not _NUMBER.match(text) or (number := Decimal(text)).adjusted() > 12:
        raise _Fault(f"{field}: {value!r} is not an amount; write a number such as 12.345")
    # Digits beyond 10⁻⁶⁰ USD would only make fractions of thousands of digits.
    found = Fraction(number) if number and number.adjusted() > -60 else Fraction(0)
    if abs(found) >= MAX_USD:
        raise _Fault(f"{field}: {value!r} is a billion USD or more")
    return found


def _count(field: str, value: Any) -> int:
    text = str(value).strip()
    if not _NUMBER.match(text) or (number := Decimal(text)) < 0 or number.adjusted() > 18 or number % 1:
        raise _Fault(f"{field}: {value!r} is not a count; write a whole number of 0 or more")
    return int(number)


def _day(field: str, value: Any) -> date:
    try:
        return date.fromisoformat(str(value).strip()[:10] if len(str(value)) > 10 else str(value).strip())
    except ValueError as error:
        raise _Fault(f"{field}: {value!r} is not a day; write 2026-11-01") from error


def _day_of_unix(field: str, begin: Any, end: Any) -> date:
    try:
        since, until = int(Decimal(str(begin))), None if end in (None, "") else int(Decimal(str(end)))
    except (ArithmeticError, ValueError) as error:
        raise _Fault(f"{field}: {begin!r} is not a time in unix seconds") from error
    if since % DAY_S or (until is not None and until - since != DAY_S) or not 0 <= since < 2**33:
        raise _Fault(f"{field}: {begin} to {end} is not a day in UTC; export the costs by day")
    return datetime.fromtimestamp(since, UTC).date()


def _moment(field: str, value: Any) -> datetime:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise _Fault(f"{field}: {value!r} is not a time; it is one such as 2026-11-01T00:00:00Z") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
