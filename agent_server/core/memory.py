"""What a session remembers: encrypted, found again by its words, gone after a while or when there is too much.

The words are indexed as keyed digests, so that the index tells nobody who lacks the keys what was said.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc import StatusCode

from agent_server.core.failure import Failure

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from agent_server.core.store import Store

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Remembered:
    """One thing that is remembered."""

    number: int
    at: float
    """Seconds since the epoch."""
    text: str


class Memory:
    """Of all sessions. A session belongs to its caller."""

    def __init__(self, store: Store, *, wall: Callable[[], float], ttl: float, max_bytes: int) -> None:
        """`ttl` in seconds; `max_bytes` per session: the oldest go first."""
        self._store = store
        self._wall = wall
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._index_key = b""

    async def remember(self, identity: str, session: str, text: str) -> int:
        """Keep a text; gives its number. Raises Failure RESOURCE_EXHAUSTED when it alone is more than a session may have."""
        size = len(text.encode())
        if size > self._max_bytes:
            said = f"larger than a session may remember ({self._max_bytes} bytes)"
            raise Failure(StatusCode.RESOURCE_EXHAUSTED, "MEMORY_FULL", said, metadata={"limit": str(self._max_bytes)})
        words = " ".join(await self._digests(text))
        now = self._wall()
        sealed = self._store.vault.seal(text)

        def work(db: sqlite3.Connection) -> int:
            _expire(db, now)
            values = (identity, session, now, now + self._ttl, size, sealed)
            row = db.execute(
                "INSERT INTO memories (identity, session, at, expires, size, sealed) VALUES (?, ?, ?, ?, ?, ?) RETURNING number",
                values,
            ).fetchone()
            db.execute("INSERT INTO memory_words (rowid, words) VALUES (?, ?)", (row[0], words))
            total = 0
            select = "SELECT number, size FROM memories WHERE identity = ? AND session = ? ORDER BY number DESC"
            for number, each in db.execute(select, (identity, session)).fetchall():
                total += each
                if total > self._max_bytes:
                    _delete(db, number)
            return int(row[0])

        return await self._store.write(work)

    async def search(self, identity: str, session: str, text: str, limit: int) -> list[Remembered]:
        """What has all words of `text`, best first; without words: the newest first."""
        words = await self._digests(text)
        now = self._wall()
        rows: list[tuple[object, ...]]
        if words:
            rows = await self._store.read(
                "SELECT m.number, m.at, m.sealed FROM memory_words w JOIN memories m ON m.number = w.rowid"
                " WHERE memory_words MATCH ? AND m.identity = ? AND m.session = ? AND m.expires > ?"
                " ORDER BY bm25(memory_words), m.number DESC LIMIT ?",
                " AND ".join(f'"{each}"' for each in words),
                identity,
                session,
                now,
                limit,
            )
        else:
            rows = await self._store.read(
                "SELECT number, at, sealed FROM memories WHERE identity = ? AND session = ? AND expires > ?"
                " ORDER BY number DESC LIMIT ?",
                identity,
                session,
                now,
                limit,
            )
        vault = self._store.vault
        return [Remembered(number, at, vault.open(sealed)) for number, at, sealed in rows]  # type: ignore[arg-type]

    async def forget(self, identity: str, session: str) -> int:
        """Forget a session; gives how many things it remembered."""

        def work(db: sqlite3.Connection) -> int:
            select = "SELECT number FROM memories WHERE identity = ? AND session = ?"
            numbers = db.execute(select, (identity, session)).fetchall()
            for (number,) in numbers:
                _delete(db, number)
            return len(numbers)

        return await self._store.write(work)

    async def _digests(self, text: str) -> list[str]:
        if not self._index_key:
            self._index_key = await self._store.write(self._load_key)
        found = dict.fromkeys(each.casefold() for each in _WORD.findall(text))
        return [hmac.new(self._index_key, each.encode(), hashlib.sha256).hexdigest()[:24] for each in found]

    def _load_key(self, db: sqlite3.Connection) -> bytes:
        vault = self._store.vault
        row = db.execute("SELECT sealed FROM secrets WHERE name = 'memory index'").fetchone()
        key = secrets.token_hex(32) if row is None else vault.open(row[0])
        # Sealed anew each time, so that it is under the newest key after a rotation.
        db.execute("INSERT OR REPLACE INTO secrets VALUES ('memory index', ?)", (vault.seal(key),))
        return bytes.fromhex(key)


def _expire(db: sqlite3.Connection, now: float) -> None:
    for (number,) in db.execute("SELECT number FROM memories WHERE expires <= ?", (now,)).fetchall():
        _delete(db, number)


def _delete(db: sqlite3.Connection, number: int) -> None:
    db.execute("DELETE FROM memories WHERE number = ?", (number,))
    db.execute("DELETE FROM memory_words WHERE rowid = ?", (number,))
