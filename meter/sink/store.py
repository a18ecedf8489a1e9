"""The history's store: ClickHouse, embedded in this process or a server, behind one interface.

Adapts clickhouse-connect. It must not know Kafka, HTTP, or what rows mean. Every method blocks: call it in a thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from meter.sink import migrate
from meter.sink.core.errors import BadQuery, StoreUnavailable
from meter.sink.core.resume import LastRow
from meter.sink.core.statement import refusal
from meter.sink.core.watermarks import Run
from meter.sink.rows import USAGE_TABLE, Source, Table

INSERT_SETTINGS: Mapping[str, str | int] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # One block an insert, so that a token stands for all of it; and no thread pools for a few thousand rows.
    "max_insert_threads": 1,
    "max_threads": 1,
    "min_insert_block_size_rows": 2_000_000,
    "min_insert_block_size_bytes": 0,
    # Duplicates within a batch were taken out; merging a block before it is written finds nothing.
    "optimize_on_insert": 0,
}
READ_SETTINGS: Mapping[str, str | int] = {
    # A row and its duplicates are always of the same month.
    "do_not_merge_across_partitions_select_final": 1,
}
JSON_SETTINGS: Mapping[str, str | int] = {
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_decimals": 1,
    "output_format_json_quote_denormals": 1,
}
CLIENTS = 4
"""Queries, or inserts, at once; more wait for their turn."""
TURN_S = 60.0

Connect = Callable[[str | None, Mapping[str, Any]], Client]
"""Opens a client: database (None: whatever there is) and settings that last as long as it does."""


class Store(Protocol):
    """Where rows are kept. All methods may block for seconds; none is safe to cancel."""

    def open(self) -> None:
        """Connect and bring the schema up to date. Raises StoreUnavailable, or MigrationError for a changed schema."""

    def close(self) -> None:
        """Let go of the engine. Doing it twice is harmless."""

    def insert(self, name: str, table: Table, token: str) -> None:
        """Insert `table` into the table `name` and all its rollups, once for `token` however often it is called.

        After StoreUnavailable nothing, a part or all may be there; the same call again completes it.
        """

    def command(self, sql: str) -> None:
        """Run one of our own statements that change tables. Not for what is inserted: that has a token."""

    def last_row(self, name: str, source: Source) -> LastRow | None:
        """Return the row with the highest offset in the table `name` from `source`; None without any."""

    def watermarks(self, source: Source, before: int) -> dict[Run, int]:
        """Return the highest `seq` of every run among usage rows from `source` below the offset `before`."""

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Return the result of one of our own queries, read only."""

    def lines(self, sql: str, parameters: Mapping[str, Any]) -> bytes:
        """Return the result of one of our own queries as a JSON list a line, read only."""

    def ask(self, sql: str, format_: str) -> bytes:
        """Return the result of somebody's query in a ClickHouse format. Raises BadQuery or StoreUnavailable."""

    @property
    def version(self) -> str:
        """The engine's version; empty before `open`."""


class ClickHouse:
    """A `Store` over clickhouse-connect.

    Args:
        connect: opens clients; `embedded` and `server` make such functions.
        database: where the tables are.
        ask_limits: settings of clients that run other people's queries.
    """

    def __init__(self, connect: Connect, database: str, ask_limits: Mapping[str, str | int] | None = None) -> None:
        self._connect = connect
        self._database = database
        self._writers = Clients(lambda: connect(database, {}))
        read_only = {**READ_SETTINGS, "readonly": 2}
        self._readers = Clients(lambda: connect(database, read_only))
        # Read only comes last: it is what makes the others stay.
        asking = {**READ_SETTINGS, **JSON_SETTINGS, **(ask_limits or {}), "readonly": 2}
        self._askers = Clients(lambda: connect(database, asking))
        self._table_functions: frozenset[str] = frozenset()
        self.version = ""

    def open(self) -> None:
        """See `Store`."""
        with unavailable("open"):
            first = self._connect(None, {})
            try:
                migrate.apply(first, self._database)
            finally:
                first.close()
            with self._writers.use() as client:
                self.version = str(client.server_version)
                names = client.query("SELECT lower(name) FROM system.table_functions").result_rows
            self._table_functions = frozenset(str(name) for (name,) in names)

    def close(self) -> None:
        """See `Store`."""
        for clients in (self._askers, self._readers, self._writers):
            clients.close()

    def insert(self, name: str, table: Table, token: str) -> None:
        """See `Store`."""
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": token}
        with unavailable("insert"), self._writers.use() as client:
            client.insert_arrow(name, table, settings=settings)

    def command(self, sql: str) -> None:
        """See `Store`."""
        with unavailable("command"), self._writers.use() as client:
            client.command(sql, settings={"async_insert": 0, "insert_deduplicate": 0, "mutations_sync": 1})

    def last_row(self, name: str, source: Source) -> LastRow | None:
        """See `Store`."""
        found = self.rows(
            "SELECT src_offset, batch_first, batch_last, toUnixTimestamp64Milli(logged_at)"  # noqa: S608 - our own names
            f" FROM {name} WHERE src_log = {{log:String}} AND src_topic = {{topic:String}}"
            " AND src_partition = {partition:Int32} ORDER BY src_offset DESC LIMIT 1",
            {"log": source.log, "topic": source.topic, "partition": source.partition},
        )
        return LastRow(*(int(value) for value in found[0])) if found else None

    def watermarks(self, source: Source, before: int) -> dict[Run, int]:
        """See `Store`."""
        found = self.rows(
            f"SELECT instance, epoch, max(seq) FROM {USAGE_TABLE}"  # noqa: S608 - our own name
            " WHERE src_log = {log:String} AND src_topic = {topic:String} AND src_partition = {partition:Int32}"
            " AND src_offset < {before:Int64} GROUP BY instance, epoch",
            {"log": source.log, "topic": source.topic, "partition": source.partition, "before": before},
        )
        return {(str(instance), int(epoch)): int(seq) for instance, epoch, seq in found}

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """See `Store`."""
        with unavailable("query"), self._readers.use() as client:
            return [tuple(row) for row in client.query(sql, parameters=dict(parameters or {})).result_rows]

    def lines(self, sql: str, parameters: Mapping[str, Any]) -> bytes:
        """See `Store`."""
        with unavailable("query"), self._readers.use() as client:
            return bytes(client.raw_query(sql, parameters=dict(parameters), fmt="JSONCompactEachRow"))

    def ask(self, sql: str, format_: str) -> bytes:
        """See `Store`."""
        if why := refusal(sql, self._table_functions):
            raise BadQuery(why)
        try:
            with self._askers.use() as client:
                return bytes(client.raw_query(sql.rstrip().rstrip(";"), fmt=format_))
        except DatabaseError as error:
            raise BadQuery(first_line(error)) from error
        except ClickHouseError as error:
            raise StoreUnavailable(f"query: {first_line(error)}") from error


class Clients:
    """Clients that are kept open, each lent to one thread at a time.

    A client whose query failed is thrown away: the embedded engine puts what was left of a failed result before the
    next one of the same client.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._idle: queue.LifoQueue[Client] = queue.LifoQueue(CLIENTS)
        self._turns = threading.BoundedSemaphore(CLIENTS)

    @contextmanager
    def use(self) -> Iterator[Client]:
        """Lend a client to one thread; StoreUnavailable if all are in use for too long."""
        if not self._turns.acquire(timeout=TURN_S):
            raise StoreUnavailable(f"{CLIENTS} others are being answered")
        try:
            with self._lent() as client:
                yield client
        finally:
            self._turns.release()

    @contextmanager
    def _lent(self) -> Iterator[Client]:
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            client = self._connect()
        try:
            yield client
        except BaseException:
            client.close()
            raise
        try:
            self._idle.put_nowait(client)
        except queue.Full:
            client.close()

    def close(self) -> None:
        """Close the clients that nobody uses."""
        while not self._idle.empty():
            self._idle.get_nowait().close()


@contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Turn the client's faults into StoreUnavailable."""
    try:
        yield
    except (ClickHouseError, OSError) as error:
        raise StoreUnavailable(f"{what}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return an error's message without the engine's trailers."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removesuffix(".")[:2_000]
