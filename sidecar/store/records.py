"""Records: values of any size that are replaced by whoever knows what is in them, and forgotten when their time is over.

Each put is atomic and durable. A record's age counts from its last put, by the clock that all who share the store share: a lease
is a record that is put again before it gets old.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

_TABLES = (
    "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, put INTEGER NOT NULL, ends INTEGER NOT NULL, value BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS records_by_end ON records (ends)",
)
_NANOSECONDS = 1_000_000_000
SWEPT_AT_ONCE = 500
_ROWS = 64


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


class Put:
    """One put, as an operation inside a transaction: True, or what is there instead (False = nothing)."""

    __slots__ = ("expected", "key", "length", "value")

    def __init__(self, key: str, expected: bytes | None, value: bytes, length: int) -> None:
        self.key = key
        self.expected = expected
        self.value = value
        self.length = length

    def __call__(self, connection: sqlite3.Connection, now: int) -> Record | bool:
        return put_all(connection, [self], now)[0]


def put_all(connection: sqlite3.Connection, puts: Sequence[Put], now: int) -> list[Record | bool]:
    """Puts of different keys, with few statements: each gives up the interpreter's lock, and must wait to get it back."""
    done = 0
    new = [each for each in puts if each.expected is None]
    for some in _split(new):
        rows = ", ".join(["(?, ?, ?, ?)"] * len(some))
        done += connection.execute(
            f"INSERT INTO records VALUES {rows} ON CONFLICT (key) DO UPDATE "  # noqa: S608
            "SET put = excluded.put, ends = excluded.ends, value = excluded.value WHERE ends <= excluded.put",
            [field for each in some for field in (each.key, now, now + each.length, each.value)],
        ).rowcount
    for some in _split([each for each in puts if each.expected is not None]):
        rows = ", ".join(["(?, ?, ?, ?)"] * len(some))
        done += connection.execute(
            f"WITH new (key, expected, length, value) AS (VALUES {rows}) "  # noqa: S608
            "UPDATE records SET put = ?, ends = ? + new.length, value = new.value FROM new "
            "WHERE records.key = new.key AND records.value = new.expected AND records.ends > ?",
            [*(field for each in some for field in (each.key, each.expected, each.length, each.value)), now, now, now],
        ).rowcount
    if done == len(puts):
        return [True] * done
    held = dict[str, Record]()
    for some in _split(puts):
        held.update(_find_all(connection, [each.key for each in some], now))
    return [_judge(each, held.get(each.key)) for each in puts]


def _judge(wanted: Put, found: Record | None) -> Record | bool:
    """What is as wanted, and of this very moment, was put just now."""
    if found is not None and found.age == 0 and found.value == wanted.value:
        return True
    return found or False


def _find_all(connection: sqlite3.Connection, keys: Sequence[str], now: int) -> dict[str, Record]:
    marks = ", ".join("?" * len(keys))
    rows = connection.execute(
        f"SELECT key, value, put FROM records WHERE key IN ({marks}) AND ends > ?",  # noqa: S608
        [*keys, now],
    ).fetchall()
    return {row[0]: Record(bytes(row[1]), (now - row[2]) / _NANOSECONDS) for row in rows}


def _split(puts: Sequence[Put]) -> Iterator[Sequence[Put]]:
    """Powers of two, so that few different statements are prepared, and stay so."""
    size = _ROWS
    while puts:
        while size > len(puts):
            size //= 2
        yield puts[:size]
        puts = puts[size:]


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
