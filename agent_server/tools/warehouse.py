"""Databases by SQLAlchemy Core: SQLite embedded, PostgreSQL by URL. Values go by parameters only."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from agent_server.core.failure import Failure, invalid
from agent_server.core.table import Cell, Column, Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

EMBEDDED = "main"
_ROWS_AT_A_TIME = 1000
_ONCE = "CREATE TABLE IF NOT EXISTS agent_server_steps (key VARCHAR(64) PRIMARY KEY, affected BIGINT NOT NULL, at VARCHAR(40) NOT NULL)"


class Warehouse:
    """The databases of a server, by name. Connections are made when they are first used, and kept."""

    def __init__(self, urls: Mapping[str, str], *, pool_size: int = 5) -> None:
        self._urls = dict(urls)
        self._pool_size = pool_size
        self._engines: dict[str, AsyncEngine] = {}
        self._prepared: set[str] = set()

    async def close(self) -> None:
        """Close all connections."""
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            await engine.dispose()

    async def stream(self, name: str, sql: str, params: Mapping[str, Any]) -> AsyncIterator[Table]:
        """The rows of one reading statement, page by page. Nothing it does stays."""
        try:
            async with self._engine(name).connect() as connection:
                result = await connection.stream(text(sql), dict(params))
                columns = tuple(Column(str(key)) for key in result.keys())  # noqa: SIM118 - no mapping
                found = False
                async for rows in result.partitions(_ROWS_AT_A_TIME):
                    found = True
                    yield Table(columns, tuple(tuple(_cell(each) for each in row) for row in rows))
                if not found:
                    yield Table(columns, ())
                await connection.rollback()
        except SQLAlchemyError as error:
            raise failure_of(name, error) from error

    async def query(self, name: str, sql: str, params: Mapping[str, Any], limit: int) -> tuple[Table, bool]:
        """At most `limit` rows, and whether there are more."""
        columns: tuple[Column, ...] = ()
        rows: list[tuple[Cell, ...]] = []
        pages = self.stream(name, sql, params)
        try:
            async for page in pages:
                columns = page.columns
                rows += page.rows
                if len(rows) > limit:
                    break
        finally:
            await pages.aclose()  # type: ignore[attr-defined]
        return Table(columns, tuple(rows[:limit])), len(rows) > limit

    async def change(
        self, name: str, sql: str, sets: Sequence[Mapping[str, Any]], *, key: str = "", at: str = ""
    ) -> tuple[int, bool]:
        """Run one statement, once for each set of values, in one transaction: rows affected, and whether it was done before.

        Under a `key` it is done once: the key is written in the same transaction.
        """

        async def work(connection: AsyncConnection) -> int:
            if not sets:
                return max((await connection.execute(text(sql))).rowcount, 0)
            values = [dict(each) for each in sets]
            result = await connection.execute(text(sql), values[0] if len(values) == 1 else values)
            return result.rowcount if result.rowcount >= 0 else len(sets)

        return await self._once(name, key, at, work)

    async def insert(
        self,
        name: str,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: str = "",
        at: str = "",
        batch: int = 1000,
    ) -> tuple[int, bool]:
        """Insert rows in batches, in one transaction; see `change`. `table` and the names of columns are quoted."""
        if not rows:
            return 0, False
        engine = self._engine(name)
        quote = engine.dialect.identifier_preparer.quote_identifier
        columns = list(rows[0])
        if wrong := next((number for number, row in enumerate(rows) if list(row) != columns), None):
            raise invalid(f"rows.{wrong}", f"must have the same fields as the first row: {', '.join(columns)}")
        names = ", ".join(map(quote, columns))
        marks = ", ".join(f":c{number}" for number in range(len(columns)))
        statement = text(f"INSERT INTO {quote(table)} ({names}) VALUES ({marks})")

        async def work(connection: AsyncConnection) -> int:
            for start in range(0, len(rows), batch):
                values = [
                    {f"c{number}": _bound(row[column]) for number, column in enumerate(columns)}
                    for row in rows[start : start + batch]
                ]
                await connection.execute(statement, values)
            return len(rows)

        return await self._once(name, key, at, work)

    async def _once(
        self, name: str, key: str, at: str, work: Callable[[AsyncConnection], Awaitable[int]]
    ) -> tuple[int, bool]:
        try:
            engine = self._engine(name)
            if key and name not in self._prepared:
                async with engine.begin() as connection:
                    await connection.execute(text(_ONCE))
                self._prepared.add(name)
            async with engine.begin() as connection:
                if key:
                    select = text("SELECT affected FROM agent_server_steps WHERE key = :key")
                    row = (await connection.execute(select, {"key": key})).first()
                    if row is not None:
                        return int(row[0]), True
                affected = await work(connection)
                if key:
                    insert = text("INSERT INTO agent_server_steps (key, affected, at) VALUES (:key, :affected, :at)")
                    await connection.execute(insert, {"key": key, "affected": affected, "at": at})
                return affected, False
        except (SQLAlchemyError, OSError) as error:
            raise failure_of(name, error) from error

    def _engine(self, name: str) -> AsyncEngine:
        name = name or EMBEDDED
        engine = self._engines.get(name)
        if engine is None:
            url = self._urls.get(name)
            if url is None:
                known = ", ".join(sorted(self._urls))
                raise invalid(
                    "database", f"no database is named {name!r}; there is: {known}", reason="DATABASE_UNKNOWN"
                )
            if url.startswith("sqlite"):
                # One connection for all that is written here: SQLite has one writer, and waiting in line beats SQLITE_BUSY.
                engine = create_async_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
                event.listen(engine.sync_engine, "connect", _set_sqlite)
                event.listen(engine.sync_engine, "begin", _begin_sqlite)
            else:
                engine = create_async_engine(
                    url, pool_size=self._pool_size, max_overflow=0, pool_pre_ping=True, hide_parameters=True
                )
            self._engines[name] = engine
        return engine


def failure_of(name: str, error: Exception) -> Failure:
    """What a database said, without the values that were given to it."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = str(cause.__cause__ or cause).strip().splitlines() or [type(cause).__name__]
    metadata = {"database": name or EMBEDDED}
    if isinstance(error, IntegrityError):
        # PostgreSQL's DETAIL has the values; the first line has not.
        return Failure(StatusCode.FAILED_PRECONDITION, "CONSTRAINT", said[0], metadata=metadata)
    if isinstance(error, OSError | InterfaceError) or (
        isinstance(error, OperationalError) and ("locked" in said[0] or "connect" in said[0].lower())
    ):
        return Failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", said[0], metadata=metadata, retry_after=1.0)
    return Failure(StatusCode.INVALID_ARGUMENT, "SQL_REFUSED", said[0], metadata=metadata)


def _set_sqlite(connection: Any, _: object) -> None:
    # The driver's own BEGIN comes too late for DDL; ours is in _begin_sqlite.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _begin_sqlite(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _bound(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    return str(value)
