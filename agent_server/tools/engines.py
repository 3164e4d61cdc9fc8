"""SQLAlchemy engines of databases: how each is connected to, for reading and for changing.

SQLite takes statements of callers under an authorizer, so that they reach the tables of their database and nothing else of this
machine; PostgreSQL has roles for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from agent_server.core.failure import invalid
from agent_server.tools.sql import deny_outside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_STEPS_BETWEEN_LOOKS = 10_000
_TRANSACTION = re.compile(
    r"\A(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE|SET|RESET|DISCARD)\b",
    re.IGNORECASE | re.DOTALL,
)


class Guard:
    """Stands beside a connection to SQLite: what it may do while it runs a caller's statement, and that it stops when told to."""

    __slots__ = ("_driver", "is_on", "is_stopping")

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.is_on = False
        self.is_stopping = False
        driver._conn.set_authorizer(self._authorize)
        driver._conn.set_progress_handler(lambda: self.is_stopping, _STEPS_BETWEEN_LOOKS)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run to the end; when cancelled, SQLite stops first, because what SQLAlchemy does then waits for the statement's end."""

        async def working() -> T:
            return await work()

        self.is_on, self.is_stopping = True, False
        task = asyncio.get_running_loop().create_task(working())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The flag catches a statement that has not begun yet, interrupt() one that is inside of SQLite now.
            self.is_stopping = True
            await self._driver.interrupt()
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
            raise
        finally:
            self.is_on = self.is_stopping = False

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        return deny_outside(action, first, second, database, trigger) if self.is_on else sqlite3.SQLITE_OK


def engine_of(url: str, *, reads: bool, pool_size: int) -> AsyncEngine:
    """An engine for one database. `reads`: what it runs can change nothing."""
    if not url.startswith("sqlite"):
        engine = create_async_engine(
            url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True, pool_recycle=1800, hide_parameters=True
        )
        return engine.execution_options(postgresql_readonly=True) if reads and url.startswith("postgresql") else engine
    # One connection for all that is written here: SQLite has one writer, and waiting in line beats SQLITE_BUSY.
    size = pool_size if reads else 1
    # No statements kept prepared: the authorizer looks at a statement when it is prepared.
    arguments = {"cached_statements": 0}
    engine = create_async_engine(url, pool_size=size, max_overflow=0, hide_parameters=True, connect_args=arguments)

    def connected(connection: Any, record: Any) -> None:
        record.info["guard"] = Guard(connection.driver_connection)
        # The driver's own BEGIN comes too late for DDL; ours is in `begin`.
        connection.isolation_level = None
        for pragma in ("busy_timeout=10000", "query_only=ON" if reads else "journal_mode=WAL", "foreign_keys=ON"):
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begin)
    return engine


def check_statement(sql: str) -> None:
    """Raises Failure INVALID_ARGUMENT for a statement about transactions or the session, which are ours."""
    if _TRANSACTION.match(sql):
        raise invalid("sql", "transactions and the session's settings are not for statements", reason="SQL_REFUSED")


async def run_for_caller(connection: AsyncConnection, work: Callable[[], Awaitable[T]]) -> T:
    """Run a statement that a caller wrote, or a part of it. Cancelling reaches the database."""
    guard: Guard | None = (await connection.get_raw_connection()).info.get("guard")
    # asyncpg cancels at the server by itself.
    return await (work() if guard is None else guard.run(work))
