"""SQLAlchemy engines of databases: how each is connected to, for reading and for changing.

SQLite takes statements of callers under an authorizer, so that they reach the tables of their database and nothing else of this
machine; PostgreSQL has roles for that.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from agent_server.core.failure import invalid
from agent_server.tools.sql import deny_outside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TRANSACTION = re.compile(
    r"\A(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE|SET|RESET|DISCARD)\b",
    re.IGNORECASE | re.DOTALL,
)


class _Guard:
    """Whether a connection runs a caller's statement now."""

    __slots__ = ("is_on",)

    def __init__(self) -> None:
        self.is_on = False

    def authorize(
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
        guard = record.info["guard"] = _Guard()
        connection.driver_connection._conn.set_authorizer(guard.authorize)
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


@asynccontextmanager
async def of_caller(connection: AsyncConnection) -> AsyncIterator[None]:
    """What runs inside was written by a caller. When it is cancelled, SQLite is interrupted and not left to finish."""
    raw = await connection.get_raw_connection()
    guard: _Guard | None = raw.info.get("guard")
    if guard is None:
        yield  # asyncpg cancels at the server by itself
        return
    guard.is_on = True
    try:
        yield
    except asyncio.CancelledError:
        driver = raw.driver_connection
        assert driver is not None
        await driver.interrupt()
        raise
    finally:
        guard.is_on = False
