"""Databases by SQLAlchemy Core: SQLite embedded, PostgreSQL by URL. Values go by parameters only."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, cast

from grpc import StatusCode
from sqlalchemy import (
    BigInteger,
    Double,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    column,
    event,
    literal_column,
    text,
)
from sqlalchemy import (
    Column as SqlColumn,
)
from sqlalchemy import (
    Table as SqlTable,
)
from sqlalchemy import (
    table as named_table,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from agent_server.core.failure import Failure, invalid
from agent_server.core.table import Cell, Column, Table
from agent_server.tools.engines import check_statement, engine_of, run_for_caller

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult

EMBEDDED = "main"
OnConflict = Literal["reject", "ignore", "update"]
ColumnType = Literal["INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC"]

_ROWS_AT_A_TIME = 1000
_ONCE = "CREATE TABLE IF NOT EXISTS agent_server_steps (key VARCHAR(64) PRIMARY KEY, affected BIGINT NOT NULL, at DOUBLE PRECISION NOT NULL)"
_KEYS_KEPT_SECONDS = 30 * 24 * 3600.0
"""Longer than any run can be taken up again."""
_PASSING = ("08", "40", "53", "57P")
"""Classes of PostgreSQL's errors that another try may not meet: connections, serialization and deadlocks, resources, shutdown."""
_TYPES = {"INTEGER": BigInteger, "REAL": Double, "TEXT": Text, "BLOB": LargeBinary, "NUMERIC": Numeric}

DRIVER_ERRORS: tuple[type[Exception], ...] = (SQLAlchemyError, OSError, sqlite3.Error)
"""SQLAlchemy wraps what drivers raise when a statement is begun, and not what they raise when rows are fetched."""
try:
    import asyncpg
except ImportError:  # PostgreSQL is one of the databases, not the only one
    pass
else:
    DRIVER_ERRORS = (*DRIVER_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError)


class Warehouse:
    """The databases of a server, by name. Connections are made when they are first used, and kept."""

    def __init__(self, urls: Mapping[str, str], *, pool_size: int = 5) -> None:
        """`pool_size`: connections to one database, for reading and for changing each."""
        self._urls = dict(urls)
        self._pool_size = pool_size
        self._engines: dict[tuple[str, bool], AsyncEngine] = {}
        self._prepared: set[str] = set()

    async def close(self) -> None:
        """Close all connections."""
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            await engine.dispose()

    async def stream(
        self, name: str, sql: str, params: Mapping[str, Any], *, page: int = _ROWS_AT_A_TIME
    ) -> AsyncIterator[Table]:
        """The rows of one reading statement, `page` at a time, in constant memory; at least one table, maybe without rows.

        A statement that changes something is refused.
        """
        check_statement(sql)
        try:
            async with self._engine(name, reads=True).begin() as connection:

                async def begun() -> AsyncResult[Any]:
                    return await connection.stream(text(sql), dict(params))

                result = await run_for_caller(connection, begun)
                columns = tuple(Column(str(key)) for key in result.keys())  # noqa: SIM118 - no mapping
                found = False
                while rows := await run_for_caller(connection, lambda: result.fetchmany(page)):
                    found = True
                    yield Table(columns, tuple(tuple(_cell(each) for each in row) for row in rows))
                if not found:
                    yield Table(columns, ())
        except DRIVER_ERRORS as error:
            raise failure_of(name, error) from error

    async def query(self, name: str, sql: str, params: Mapping[str, Any], limit: int) -> tuple[Table, bool]:
        """At most `limit` rows, and whether there are more."""
        columns: tuple[Column, ...] = ()
        rows: list[tuple[Cell, ...]] = []
        pages = self.stream(name, sql, params, page=min(limit + 1, _ROWS_AT_A_TIME))
        async with aclosing(cast("AsyncGenerator[Table]", pages)) as each_page:
            async for page in each_page:
                columns = page.columns
                rows += page.rows
                if len(rows) > limit:
                    break
        return Table(columns, tuple(rows[:limit])), len(rows) > limit

    async def change(
        self, name: str, sql: str, sets: Sequence[Mapping[str, Any]], *, key: str = "", at: float = 0.0
    ) -> tuple[int, bool]:
        """Run one statement, once for each set of values, in one transaction: rows affected, and whether it was done before.

        Under a `key` it is done once: the key is written in the same transaction, with `at`, in seconds since the epoch.
        """
        check_statement(sql)

        async def work(connection: AsyncConnection) -> int:
            values = [dict(each) for each in sets]
            given = values[0] if len(values) == 1 else values or None
            result = await run_for_caller(connection, lambda: connection.execute(text(sql), given))
            return result.rowcount if result.rowcount >= 0 else len(sets)

        return await self._once(name, key, at, work)

    async def create(self, name: str, table: str, columns: Mapping[str, ColumnType], keys: Sequence[str]) -> bool:
        """Create a table unless there is one of that name; whether it was created."""
        _check_table(table)
        if unknown := [each for each in keys if each not in columns]:
            raise invalid("key", f"names what is not in columns: {', '.join(unknown)}")
        meta = MetaData()
        SqlTable(
            table,
            meta,
            *(
                SqlColumn(each, _TYPES[kind], primary_key=each in keys, autoincrement=False)
                for each, kind in columns.items()
            ),
        )
        was_made = False

        def made(*_: Any, **__: Any) -> None:
            nonlocal was_made
            was_made = True

        event.listen(meta.tables[table], "after_create", made)

        async def work(connection: AsyncConnection) -> int:
            await connection.run_sync(meta.create_all)
            return 0

        await self._once(name, "", 0.0, work)
        return was_made

    async def insert(
        self,
        name: str,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: str = "",
        at: float = 0.0,
        batch: int = 1000,
        on_conflict: OnConflict = "reject",
        unique: Sequence[str] = (),
    ) -> tuple[int, bool]:
        """Insert rows in batches, in one transaction; see `change`. `table` and the names of columns are quoted.

        `on_conflict`: what becomes of a row whose `unique` columns have the values of another one.
        """
        if not rows:
            return 0, False
        _check_table(table)
        columns = list(rows[0])
        given = set(columns)
        if wrong := next((number for number, row in enumerate(rows) if row.keys() != given), None):
            raise invalid(f"rows.{wrong}", f"must have the same fields as the first row: {', '.join(columns)}")
        if on_conflict == "update" and (not unique or not given.issuperset(unique)):
            raise invalid("key", "must name the columns by which a row is known, to update it")
        engine = self._engine(name)
        dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
        statement: Any = dialect.insert(named_table(table, *map(column, columns)))
        if on_conflict == "ignore":
            # What is given back is counted: drivers do not agree on what they say of many rows.
            statement = statement.on_conflict_do_nothing(index_elements=list(unique) or None).returning(
                literal_column("1")
            )
        elif on_conflict == "update":
            changed = {each: statement.excluded[each] for each in columns if each not in unique}
            statement = (
                statement.on_conflict_do_update(index_elements=list(unique), set_=changed)
                if changed
                else statement.on_conflict_do_nothing(index_elements=list(unique))
            )

        async def work(connection: AsyncConnection) -> int:
            written = 0
            for start in range(0, len(rows), batch):
                values = [{each: _bound(row[each]) for each in columns} for row in rows[start : start + batch]]
                result = await connection.execute(statement, values)
                written += len(result.all()) if on_conflict == "ignore" else len(values)
            return written

        return await self._once(name, key, at, work)

    async def _once(
        self, name: str, key: str, at: float, work: Callable[[AsyncConnection], Awaitable[int]]
    ) -> tuple[int, bool]:
        try:
            engine = self._engine(name)
            if key and name not in self._prepared:
                async with engine.begin() as connection:
                    await connection.execute(text(_ONCE))
                    await connection.execute(
                        text("DELETE FROM agent_server_steps WHERE at < :old"), {"old": at - _KEYS_KEPT_SECONDS}
                    )
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
        except DRIVER_ERRORS as error:
            raise failure_of(name, error) from error

    def _engine(self, name: str, *, reads: bool = False) -> AsyncEngine:
        name = name or EMBEDDED
        engine = self._engines.get((name, reads))
        if engine is None:
            url = self._urls.get(name)
            if url is None:
                known = ", ".join(sorted(self._urls))
                raise invalid(
                    "database", f"no database is named {name!r}; there is: {known}", reason="DATABASE_UNKNOWN"
                )
            try:
                engine = engine_of(url, reads=reads, pool_size=self._pool_size)
            except (SQLAlchemyError, ImportError, ValueError) as error:
                # The text may repeat the URL, and the URL has the password.
                text = f"database {name}: its URL cannot be used ({type(error).__name__})"
                raise Failure(StatusCode.FAILED_PRECONDITION, "DATABASE_UNUSABLE", text) from None
            self._engines[name, reads] = engine
        return engine


def failure_of(name: str, error: BaseException) -> Failure:
    """What a database said, without the values that were given to it."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    cause = cause.__cause__ or cause
    # The first line alone: PostgreSQL's DETAIL, on the next one, has the values.
    said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    state = str(getattr(cause, "sqlstate", "") or "")
    metadata = {"database": name or EMBEDDED}
    if isinstance(error, IntegrityError) or state.startswith("23"):
        return Failure(StatusCode.FAILED_PRECONDITION, "CONSTRAINT", said, metadata=metadata)
    is_busy = isinstance(error, OperationalError) and ("locked" in said or "connect" in said.lower())
    if is_busy or isinstance(cause, OSError) or isinstance(error, InterfaceError) or state.startswith(_PASSING):
        return Failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", said, metadata=metadata, retry_after=1.0)
    if "readonly database" in said or state == "25006":
        text = "changes the database; what changes something is done by database.execute"
        return Failure(StatusCode.INVALID_ARGUMENT, "WRITE_IN_QUERY", text, metadata=metadata)
    if said == "not authorized":
        said = "a statement works on the tables of its database, and on nothing else"
    return Failure(StatusCode.INVALID_ARGUMENT, "SQL_REFUSED", said, metadata=metadata)


def _check_table(table: str) -> None:
    if table.lower().startswith(("agent_server_", "sqlite_")):
        raise invalid("table", "this table name is reserved")


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
    return str(value)
