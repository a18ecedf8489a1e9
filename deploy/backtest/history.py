"""Reads past usage from the history's API: page after page in the order of admission, the next one while one is used.

Two pages are in memory at a time. Adapts `deploy.api`; knows no policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from deploy.api import Api
from deploy.backtest.events import PastEvent, read_page
from deploy.cli import output

PAGE_EVENTS = 50_000


def events(
    api: Api, since_ms: int, until_ms: int, org: str | None = None, page_events: int = PAGE_EVENTS
) -> Iterator[PastEvent]:
    """Yield the events of [since, until) in the order of admission. Raises as `Api.call` does."""

    def page(after: str | None) -> bytes:
        return api.lines("/v1/usage", since=str(since_ms), until=str(until_ms), org=org, after=after, limit=page_events)

    with ThreadPoolExecutor(1, "backtest-history") as reader:
        asked = reader.submit(page, None)
        while True:
            found, following = read_page(asked.result())
            if following is not None:
                asked = reader.submit(page, following)
            yield from found
            if following is None:
                return


def count(api: Api, since: str, until: str, org: str | None = None) -> int:
    """Return about how many events there are, of a time in ISO format: what progress is measured by."""
    columns, rows = output.rows_of(api.get("/v1/report/spend", by="org", since=since, until=until))
    found = output.records(columns, rows)
    return sum(int(row["events"]) for row in found if org is None or row["org"] == org)
