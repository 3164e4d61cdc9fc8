"""Registers, which are replaced by whoever knows what is in them, and leases, which one owner holds for a while.

A register holds the state of a rollout, small and seldom written; its table is made when it is first wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

_TABLES = (
    "CREATE TABLE IF NOT EXISTS registers (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS holders (key TEXT PRIMARY KEY, owner TEXT NOT NULL, ends INTEGER NOT NULL) WITHOUT ROWID",
)


class Registers:
    """Those of one process. Times in nanoseconds."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self._holders: dict[str, tuple[str, int]] = {}

    def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        if self.values.get(key) != expected:
            return False
        self.values[key] = value
        return True

    def lead(self, key: str, owner: str, length: int, now: int) -> bool:
        holder, ends = self._holders.get(key, (owner, now))
        if holder != owner and ends > now:
            return False
        self._holders[key] = (owner, now + length)
        return length > 0


# ── for SQLite: operations inside a transaction, which get the time in nanoseconds ──


def read(key: str) -> Callable[[sqlite3.Connection, int], bytes | None]:
    def operation(connection: sqlite3.Connection, now: int) -> bytes | None:
        _ready(connection)
        row: Any = connection.execute("SELECT value FROM registers WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    return operation


def swap(key: str, expected: bytes | None, value: bytes) -> Callable[[sqlite3.Connection, int], bool]:
    def operation(connection: sqlite3.Connection, now: int) -> bool:
        _ready(connection)
        if expected is None:
            done = connection.execute("INSERT OR IGNORE INTO registers VALUES (?, ?)", (key, value))
        else:
            done = connection.execute(
                "UPDATE registers SET value = ? WHERE key = ? AND value = ?", (value, key, expected)
            )
        return done.rowcount == 1

    return operation


def lead(key: str, owner: str, length: int) -> Callable[[sqlite3.Connection, int], bool]:
    def operation(connection: sqlite3.Connection, now: int) -> bool:
        _ready(connection)
        done = connection.execute(
            "INSERT INTO holders VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET owner = excluded.owner, ends = excluded.ends WHERE owner = excluded.owner OR ends <= ?",
            (key, owner, now + length, now),
        )
        return done.rowcount == 1 and length > 0

    return operation


def _ready(connection: sqlite3.Connection) -> None:
    for table in _TABLES:
        connection.execute(table)
