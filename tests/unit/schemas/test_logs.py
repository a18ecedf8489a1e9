"""Lines of libraries."""

from __future__ import annotations

import logging

from schemas.logs import OncePerInterval


def test_a_library_that_repeats_itself_is_heard_once_an_interval() -> None:
    """Lines of clients are thinned out, our own never are."""

    def record(name: str, line: str, created: float) -> logging.LogRecord:
        made = logging.LogRecord(name, logging.ERROR, "", 0, line, None, None)
        made.created = created
        return made

    once = OncePerInterval()
    for created, heard in ((100.0, True), (101.0, False), (129.9, False), (130.0, True), (131.0, False)):
        assert once.filter(record("aiokafka.client", "away", created)) is heard
    assert once.filter(record("aiokafka.client", "something else", 131.0))
    assert all(once.filter(record("enforcer", "away", 100.0)) for _ in range(3))
