"""Records: values of any size that are replaced by whoever knows what is in them, and forgotten when their time is over.

Each put is atomic and durable. A record's age counts from its last put, by the clock that all who share the store share: a lease
is a record that is put again before it gets old.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

_TABLES = (
    "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, put INTEGER NOT NULL, ends INTEGER NOT NULL, value BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS records_by_end ON records (ends)",
)
_NANOSECONDS = 1_000_000_000
SWEPT_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept under a key. `age`: seconds since it was put there."""

    value: bytes
    age: float


class Records:
    """Those of one process. Times in nanoseconds."""

    SWEEP_EACH = 1024

    def __init__(self) -> None:
        # Key → (value, put, ends).
        self._kept: dict[str, tuple[bytes, int, int]] = {}
        self._puts = 0

    def find(self, key: str, now: int) -> Record | None:
        kept = self._kept.get(key)
        if kept is None or kept[2] <= now:
            return None
        return Record(kept[0], (now - kept[1]) / _NANOSECONDS)

    def put(self, key: str, expected: bytes | None, value: bytes, length: int, now: int) -> Record | bool:
        found = self.find(key, now)
        if (found.value if found is not None else None) != expected:
            return found or False
        self._kept[key] = (value, now, now + length)
        self._puts += 1
        if self._puts % self.SWEEP_EACH == 0:
            self._kept = {key: kept for key, kept in self._kept.items() if kept[2] > now}
        return True

    def scan(self, prefix: str, after: str, limit: int, now: int) -> list[tuple[str, Record]]:
        keys = sorted(key for key in self._kept if key.startswith(prefix) and key > after)
        found = ((key, self.find(key, now)) for key in keys)
        return [(key, record) for key, record in found if record is not None][:limit]


# ── for SQLite: operations inside a transaction, which get the time in nanoseconds ──


def find(key: str) -> Callable[[sqlite3.Connection, int], Record | None]:
    def operation(connection: sqlite3.Connection, now: int) -> Record | None:
        row: Any = connection.execute(
            "SELECT value, put FROM records WHERE key = ? AND ends > ?", (key, now)
        ).fetchone()
        return None if row is None else Record(bytes(row[0]), (now - row[1]) / _NANOSECONDS)

    return operation


def put(
    key: str, expected: bytes | None, value: bytes, length: int
) -> Callable[[sqlite3.Connection, int], Record | bool]:
    read = find(key)

    def operation(connection: sqlite3.Connection, now: int) -> Record | bool:
        if expected is None:
            done = connection.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
                "SET put = excluded.put, ends = excluded.ends, value = excluded.value WHERE ends <= ?",
                (key, now, now + length, value, now),
            )
        else:
            done = connection.execute(
                "UPDATE records SET put = ?, ends = ?, value = ? WHERE key = ? AND value = ? AND ends > ?",
                (now, now + length, value, key, expected, now),
            )
        return done.rowcount == 1 or read(connection, now) or False

    return operation


def scan(prefix: str, after: str, limit: int) -> Callable[[sqlite3.Connection, int], list[tuple[str, Record]]]:
    def operation(connection: sqlite3.Connection, now: int) -> list[tuple[str, Record]]:
        rows = connection.execute(
            "SELECT key, value, put FROM records WHERE key >= ? AND key < ? AND key > ? AND ends > ? ORDER BY key LIMIT ?",
            (prefix, f"{prefix}\U0010ffff", after, now, limit),
        ).fetchall()
        return [(row[0], Record(bytes(row[1]), (now - row[2]) / _NANOSECONDS)) for row in rows]

    return operation


def make(connection: sqlite3.Connection) -> None:
    """The table and its index, inside a transaction."""
    for each in _TABLES:
        connection.execute(each)


def sweep(connection: sqlite3.Connection, now: int) -> bool:
    """Delete some of those whose time is over; True = there may be more."""
    done = connection.execute(
        "DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE ends <= ? ORDER BY ends LIMIT ?)",
        (now, SWEPT_AT_ONCE),
    )
    return done.rowcount == SWEPT_AT_ONCE
