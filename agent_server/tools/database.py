"""A SQLite database: one connection that writes, a few that can only read."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from agent_server.tools.once import CREATE
from agent_server.tools.sql import deny_outside
from agent_server.tools.sqlite_thread import SqliteThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MAX_VALUE_BYTES = 16 << 20
_MAX_SQL_BYTES = 1 << 20


class DatabaseError(Exception):
    """The database cannot be opened; the text names the file and why."""


class Database:
    """A database file. Readers see what was committed when their statement began, and never wait for the writer."""

    def __init__(self, path: Path | None, *, readers: int = 2, busy_timeout: float = 5.0) -> None:
        """`path` None: a temporary file, deleted by `close`. `busy_timeout`: seconds to wait for other processes' locks."""
        self._path = path
        self._busy_timeout = busy_timeout
        self._temporary: str | None = None
        self._writer = SqliteThread(self._connect_writer, "sqlite-writer")
        self._readers = [SqliteThread(self._connect_reader, f"sqlite-reader-{n}") for n in range(readers)]
        self._free: asyncio.Queue[SqliteThread] = asyncio.Queue()
        self._writing = asyncio.Lock()

    @property
    def path(self) -> Path:
        """The file; known once the database is open."""
        assert self._path is not None
        return self._path

    async def open(self) -> None:
        """Open all connections. Raises DatabaseError."""
        if self._path is None:
            self._temporary = tempfile.mkdtemp(prefix="agent-server-")
            self._path = Path(self._temporary) / "agent.db"
        try:
            # The writer first: it makes the file that readers need to exist.
            for connection in (self._writer, *self._readers):
                await connection.open()
        except sqlite3.Error as error:
            await self.close()
            msg = f"database {self._path}: {error}"
            raise DatabaseError(msg) from error
        for reader in self._readers:
            self._free.put_nowait(reader)

    async def close(self) -> None:
        """Close all connections."""
        for connection in (*self._readers, self._writer):
            await connection.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[SqliteThread]:
        """A connection that cannot change anything, for the caller alone; waits until one is free."""
        reader = await self._free.get()
        try:
            yield reader
        finally:
            self._free.put_nowait(reader)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[SqliteThread]:
        """The connection that changes things, for the caller alone."""
        async with self._writing:
            yield self._writer

    def _connect_writer(self) -> sqlite3.Connection:
        connection = self._connect("rwc")
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(CREATE)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = self._connect("ro")
        try:
            connection.execute("PRAGMA query_only=ON")
        except BaseException:
            connection.close()
            raise
        connection.set_authorizer(deny_outside)
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode={mode}",
            uri=True,
            timeout=self._busy_timeout,
            isolation_level=None,
        )
        connection.text_factory = _text_or_bytes
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _MAX_SQL_BYTES)
        # DQS off would be better still, but Python cannot set it: a misspelt "column" is read as a string.
        return connection


def _text_or_bytes(raw: bytes) -> str | bytes:
    # SQLite stores any bytes as TEXT; what is not UTF-8 is given as it is rather than refused or mangled.
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
