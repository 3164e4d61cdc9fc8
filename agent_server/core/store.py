"""The server's own state in one SQLite file: tasks, steps of workflows, memory, ratings. What callers gave is sealed in it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent_server.core.vault import Vault, VaultError, key_beside
from agent_server.tools.sqlite_thread import SqliteThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    identity TEXT NOT NULL, run_id TEXT NOT NULL, fingerprint TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (identity, run_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
    identity TEXT NOT NULL, run_id TEXT NOT NULL, step TEXT NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (identity, run_id, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL UNIQUE, identity TEXT NOT NULL, key TEXT NOT NULL,
    fingerprint TEXT NOT NULL, agent TEXT NOT NULL, operation TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    created REAL NOT NULL, ended REAL, version TEXT NOT NULL, ordered BLOB NOT NULL, outcome BLOB,
    tokens INTEGER NOT NULL DEFAULT 0, is_charged INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS tasks_by_key ON tasks (identity, key) WHERE key != '';
CREATE INDEX IF NOT EXISTS tasks_by_identity ON tasks (identity, number);
CREATE TABLE IF NOT EXISTS task_events (
    task_id TEXT NOT NULL, sequence INTEGER NOT NULL, at REAL NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (task_id, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ratings (
    task_id TEXT PRIMARY KEY, agent TEXT NOT NULL, version TEXT NOT NULL, score INTEGER NOT NULL, comment BLOB NOT NULL,
    at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memories (
    number INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL, session TEXT NOT NULL, at REAL NOT NULL,
    expires REAL NOT NULL, size INTEGER NOT NULL, sealed BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS memories_by_session ON memories (identity, session, number);
CREATE VIRTUAL TABLE IF NOT EXISTS memory_words USING fts5 (words);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
"""


_VERSION = 1
"""Of the schema."""
_SEALED = {
    # table → columns that are sealed
    "steps": ("sealed",),
    "tasks": ("ordered", "outcome"),
    "task_events": ("sealed",),
    "ratings": ("comment",),
    "memories": ("sealed",),
    "secrets": ("sealed",),
}


class StoreError(Exception):
    """The state file cannot be used; the text names it and says why."""


class Store:
    """The file and the keys that open what is sealed in it."""

    def __init__(self, path: Path | None, keys: Sequence[str] = ()) -> None:
        """`path` None: a temporary file, deleted by `close`. No `keys`: one is made and kept in a file beside."""
        self.path = path
        self._keys = tuple(keys)
        self._temporary: str | None = None
        self._thread = SqliteThread(self._connect, "state")
        self._turn = asyncio.Lock()
        self.vault: Vault

    async def open(self) -> None:
        """Raises StoreError."""
        if self.path is None:
            self._temporary = tempfile.mkdtemp(prefix="agent-server-state-")
            self.path = Path(self._temporary) / "state.db"
        try:
            self.vault = Vault(self._keys or (key_beside(self.path.with_name(self.path.name + ".key")),))
            await self._thread.open()
        except (sqlite3.Error, VaultError) as error:
            await self.close()
            msg = f"state {self.path}: {error}"
            raise StoreError(msg) from error

    async def close(self) -> None:
        """Close the file."""
        await self._thread.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    async def read(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """All rows of a query."""
        async with self._turn:
            return await self._thread.run(lambda db: db.execute(query, values).fetchall())

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction. It is done or undone as a whole, also when the caller is cancelled."""

        def transaction(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
            return result

        async with self._turn:
            return await self._thread.run(transaction)

    async def renew(self) -> int:
        """Seal all that is stored with the newest key; gives how many values. Raises VaultError, and nothing is changed."""

        def work(db: sqlite3.Connection) -> int:
            count = 0
            for table, columns in _SEALED.items():
                keys = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[5]]
                same = " AND ".join(f"{key} = ?" for key in keys)
                for column in columns:
                    select = f"SELECT {', '.join(keys)}, {column} FROM {table} WHERE {column} IS NOT NULL"
                    update = f"UPDATE {table} SET {column} = ? WHERE {same}"
                    for *key, sealed in db.execute(select).fetchall():
                        db.execute(update, (self.vault.renew(sealed), *key))
                        count += 1
            return count

        return await self.write(work)

    def _connect(self) -> sqlite3.Connection:
        assert self.path is not None
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
        try:
            # FULL: what was promised to a caller (a task, a finished step) is there after a loss of power too.
            connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                msg = f"was written by a later release (schema {version}, this one knows {_VERSION})"
                raise sqlite3.DatabaseError(msg)
            connection.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
        except BaseException:
            connection.close()
            raise
        return connection
