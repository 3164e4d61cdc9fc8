"""A store in one SQLite file, shared by the workers of a host.

Why a thread and a queue? A transaction costs the same for one change as for a hundred, and may wait for another process
or for the disk. So one thread writes; whatever came while it wrote goes into its next transaction (group commit), and
all that waited for it learn the result in one turn of the event loop. The event loop itself never touches the file.

Limits and budgets survive a crash of the process, not of the machine; work that is marked durable is on the disk when
its caller learns of it, and so is all that shares its transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sidecar.store import records, registers
from sidecar.store.gcra import NANOSECONDS, Pace, advance
from sidecar.store.interface import StoreUnavailable
from sidecar.store.ledger import SETTLED_FOR, Account, Allowance, Shortage, exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.store.records import Record

T = TypeVar("T")
Operation: TypeAlias = "Callable[[sqlite3.Connection, int], T]"
"""Runs in the writer thread, inside a transaction; gets the time as nanoseconds since the epoch."""

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS limits (key TEXT PRIMARY KEY, due INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS budgets (
    key TEXT PRIMARY KEY, opened INTEGER NOT NULL, used INTEGER NOT NULL, ends INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    key TEXT NOT NULL, id TEXT NOT NULL, amount INTEGER NOT NULL, ends INTEGER NOT NULL, PRIMARY KEY (key, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settled (id TEXT PRIMARY KEY, ends INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS settled_by_end ON settled (ends);
CREATE INDEX IF NOT EXISTS budgets_by_end ON budgets (ends);
CREATE INDEX IF NOT EXISTS reservations_by_end ON reservations (ends);
"""
_BATCH = 256
_MICROSECOND = 1_000
_QUEUE = 10_000
_SWEEP_INTERVAL = 1 * NANOSECONDS
_SWEEP_ROWS = 500


class SQLiteStore:
    """Opened at first use; after an error it is opened again, so that a file that heals is used again."""

    def __init__(self, path: Path, clock: Clock, *, busy_timeout: float = 0.5, timeout: float = 2.0) -> None:
        """`busy_timeout`: seconds to wait for another process; `timeout`: seconds for any answer at all."""
        self._path = path
        self._clock = clock
        self._busy_timeout = busy_timeout
        self._timeout = timeout
        self._queue: queue.SimpleQueue[tuple[list[_Work], asyncio.AbstractEventLoop] | None] = queue.SimpleQueue()
        self._gathered: list[_Work] = []
        # Until when each waits, in the time of the event loop.
        self._waiting: dict[_Work, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        # Below: the writer thread's own.
        self._connection: sqlite3.Connection | None = None
        self._is_durable = False
        self._swept_at = 0
        self._sweep_from = ""

    # ── limits ──

    async def take(self, key: str, pace: Pace, quantity: int = 1, *, peek: bool = False) -> float:
        def operation(connection: sqlite3.Connection, now: int) -> float:
            row = connection.execute("SELECT due FROM limits WHERE key = ?", (key,)).fetchone()
            wait, due = advance(row[0] if row else 0, now, pace, quantity)
            if not wait and not peek:
                connection.execute("INSERT OR REPLACE INTO limits VALUES (?, ?)", (key, due))
            return -(-wait // _MICROSECOND) / 1_000_000

        return await self.run(operation)

    # ── budgets ──

    async def reserve(
        self, key: str, allowance: Allowance, reservation: str, amount: int, *, lease: float, peek: bool = False
    ) -> Shortage | None:
        return await self.run(_exchange(key, allowance, reservation, amount=amount, lease=lease, peek=peek))

    async def charge(
        self, key: str, allowance: Allowance, reservation: str, spent: int, *, reserve: int, lease: float
    ) -> Shortage | None:
        return await self.run(_exchange(key, allowance, reservation, spent=spent, amount=reserve, lease=lease))

    async def settle(self, key: str, allowance: Allowance, reservation: str, spent: int) -> None:
        def operation(connection: sqlite3.Connection, now: int) -> None:
            if spent:
                done = connection.execute(
                    "INSERT OR IGNORE INTO settled VALUES (?, ?)", (reservation, now + SETTLED_FOR)
                )
                if not done.rowcount:
                    return
            change(connection, now)

        change = _exchange(key, allowance, reservation, spent=spent)
        await self.run(operation)

    async def renew(self, reservations: Sequence[tuple[str, str]], *, lease: float) -> None:
        def operation(connection: sqlite3.Connection, now: int) -> None:
            connection.executemany(
                "UPDATE reservations SET ends = ? WHERE key = ? AND id = ? AND ends > ?",
                [(now + round(lease * NANOSECONDS), key, reservation, now) for key, reservation in reservations],
            )

        await self.run(operation)

    # ── registers and leases ──

    async def read(self, key: str) -> bytes | None:
        return await self.run(registers.read(key))

    async def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        return await self.run(registers.swap(key, expected, value), durable=True)

    async def lead(self, key: str, owner: str, seconds: float) -> bool:
        return await self.run(registers.lead(key, owner, round(seconds * NANOSECONDS)))

    # ── records ──

    async def find(self, key: str) -> Record | None:
        return await self.run(records.find(key))

    def put(self, key: str, expected: bytes | None, value: bytes, *, keep: float) -> asyncio.Future[Record | bool]:
        return self._submit(records.Put(key, expected, value, round(keep * NANOSECONDS)), durable=True)

    async def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Record]]:
        return await self.run(records.scan(prefix, after, limit))

    # ── life ──

    async def ping(self) -> None:
        await self.run(lambda connection, _: connection.execute("SELECT 1 FROM limits LIMIT 1").fetchone())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        self._hand_over(loop)
        if self._thread is not None:
            self._queue.put(None)
            await loop.run_in_executor(None, self._thread.join, self._timeout)
            # What has been written is told before this returns.
            await asyncio.sleep(0)
        if self._timer is not None and not self._waiting:
            self._timer.cancel()

    async def run(self, operation: Operation[T], *, durable: bool = False) -> T:
        """Run `operation` in the next transaction; returns what it returned, once that transaction is committed.

        Raises StoreUnavailable, or what `operation` raised: nothing of it has happened, or (kind "timeout") may yet.
        """
        return await self._submit(operation, durable=durable)

    def _submit(self, operation: Operation[T], *, durable: bool = False) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        waiting = self._waiting
        if self._closed:
            future.set_exception(StoreUnavailable("closed", f"{self._path} is closed"))
            return future
        if len(waiting) >= _QUEUE:
            future.set_exception(StoreUnavailable("overloaded", f"{self._path}: {_QUEUE} changes wait to be written"))
            return future
        work = _Work(operation, future, is_durable=durable)
        waiting[work] = loop.time() + self._timeout
        if self._timer is None:
            self._timer = loop.call_later(self._timeout, self._expire, loop)
        if not self._gathered:
            # What one turn of the event loop asks for is handed over together, with one wake-up of the thread.
            loop.call_soon(self._hand_over, loop)
        self._gathered.append(work)
        return future

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        works, self._gathered = self._gathered, []
        if not works:
            return
        self._queue.put((works, loop))
        if self._thread is None:
            # A daemon: a disk that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._write, name="store", daemon=True)
            self._thread.start()

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Whoever has waited for too long is told so; they wait in the order of their limits."""
        self._timer = None
        waiting = self._waiting
        while waiting:
            work, limit = next(iter(waiting.items()))
            if limit > loop.time():
                self._timer = loop.call_at(limit, self._expire, loop)
                return
            del waiting[work]
            if not work.future.done():
                work.future.set_exception(
                    StoreUnavailable("timeout", f"{self._path} gave no answer for {self._timeout:g} s")
                )

    # ── the writer thread ──

    def _write(self) -> None:
        running = True
        while running:
            batches = [self._queue.get()]
            while sum(len(each[0]) for each in batches if each is not None) < _BATCH:
                try:
                    batches.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            running = None not in batches
            handed = [each for each in batches if each is not None]
            works = [work for some, _ in handed for work in some if not work.future.cancelled()]
            if works:
                self._transact(works, handed[0][1])
        self._disconnect()

    def _transact(self, works: list[_Work], loop: asyncio.AbstractEventLoop) -> None:
        try:
            connection = self._connect(is_durable=any(work.is_durable for work in works))
            connection.execute("BEGIN IMMEDIATE")
            # A float that counts seconds since 1970 has steps of a quarter of a microsecond.
            now = round(self._clock.wall() * 1_000_000) * _MICROSECOND
            results = _perform(connection, works, now)
            self._sweep(connection, now)
            connection.execute("COMMIT")
        except Exception as error:
            is_ours = isinstance(error, _ENVIRONMENT) or type(error) is sqlite3.DatabaseError
            self._abandon(keep=not is_ours)
            if len(works) > 1 and not is_ours:
                # One of them is at fault; the others must not suffer for it.
                for work in works:
                    self._transact([work], loop)
                return
            self._deliver(loop, works, [None] * len(works), self._explained(error) if is_ours else error)
        else:
            self._deliver(loop, works, results, None)

    def _deliver(
        self, loop: asyncio.AbstractEventLoop, works: list[_Work], results: list[Any], error: Exception | None
    ) -> None:
        """One wake-up of the event loop for all that waited. A loop that is closed has nobody waiting any more."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._arrive, works, results, error)

    def _arrive(self, works: list[_Work], results: list[Any], error: Exception | None) -> None:
        for work, result in zip(works, results, strict=True):
            self._waiting.pop(work, None)
            if work.future.done():
                continue
            if error is None:
                work.future.set_result(result)
            elif isinstance(error, StoreUnavailable):
                # One each: a traceback grows with everyone who raises it.
                work.future.set_exception(StoreUnavailable(error.kind, str(error)))
            else:
                work.future.set_exception(error)

    def _connect(self, *, is_durable: bool) -> sqlite3.Connection:
        connection = self._connection
        if connection is None:
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # Records are nobody else's business; the journals take the mode of the file.
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(
                self._path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
            )
            # Before anything that can fail: `_abandon` closes it then.
            self._connection = connection
            self._is_durable = True
            self._enter_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            records.make(connection)
            connection.execute("COMMIT")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > _SCHEMA_VERSION:
                raise sqlite3.NotSupportedError(f"schema {version} is of a newer sidecar; known: {_SCHEMA_VERSION}")
            if version < _SCHEMA_VERSION:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
        if self._is_durable != is_durable:
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            self._is_durable = is_durable
        return connection

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        """The file keeps its mode; only the very first opening changes it, where SQLite does not wait for its turn."""
        pause = threading.Event()
        for is_last in (False,) * 9 + (True,):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if is_last or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                pause.wait(self._busy_timeout / 10)
            else:
                return

    def _abandon(self, *, keep: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            keep = False
        if not keep:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                # Nothing is lost: what was not committed was reported so.
                return

    def _sweep(self, connection: sqlite3.Connection, now: int) -> None:
        """Forget what is on time again, some rows at a time, in the order of keys: the file does not grow for ever."""
        if now - self._swept_at < _SWEEP_INTERVAL and now >= self._swept_at:
            return
        self._swept_at = now
        if records.sweep(connection, now):
            # More than one batch is over: the next transaction goes on, instead of the next second.
            self._swept_at = now - _SWEEP_INTERVAL
        row = connection.execute(
            "SELECT key FROM limits WHERE key >= ? ORDER BY key LIMIT 1 OFFSET ?", (self._sweep_from, _SWEEP_ROWS)
        ).fetchone()
        if row is None:
            connection.execute("DELETE FROM limits WHERE key >= ? AND due < ?", (self._sweep_from, now))
        else:
            connection.execute(
                "DELETE FROM limits WHERE key >= ? AND key < ? AND due < ?", (self._sweep_from, row[0], now)
            )
        self._sweep_from = row[0] if row else ""
        for table, key in (("reservations", "key"), ("budgets", "key"), ("settled", "id")):
            connection.execute(
                f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE ends <= ? LIMIT ?) AND ends <= ?",  # noqa: S608
                (now, _SWEEP_ROWS, now),
            )

    def _explained(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, OSError):
            return StoreUnavailable("unreachable", f"{self._path}: {error.strerror}")
        name: str = getattr(error, "sqlite_errorname", "")
        for kind, codes in _KINDS.items():
            if name.startswith(codes):
                return StoreUnavailable(kind, f"{self._path}: {error} ({name})")
        return StoreUnavailable("error", f"{self._path}: {error}{f' ({name})' if name else ''}")


def _exchange(
    key: str,
    allowance: Allowance,
    reservation: str,
    *,
    spent: int = 0,
    amount: int = 0,
    lease: float = 0.0,
    peek: bool = False,
) -> Operation[Shortage | None]:
    """The one transition of a budget, see `ledger.exchange`."""

    def operation(connection: sqlite3.Connection, now: int) -> Shortage | None:
        held, reserved = connection.execute(
            "SELECT TOTAL(CASE WHEN id = ? THEN amount END), TOTAL(amount) FROM reservations "
            "WHERE key = ? AND ends > ?",
            (reservation, key, now),
        ).fetchone()
        row = connection.execute("SELECT opened, used FROM budgets WHERE key = ?", (key,)).fetchone()
        opened, used = row or (-1, 0)
        account = Account(opened, used, int(reserved))
        shortage = exchange(account, allowance, now, held=int(held), spent=spent, amount=amount)
        if peek:
            return shortage
        ends = account.opened + allowance.window
        # Not REPLACE: the index is left alone while the window stays.
        connection.execute(
            "INSERT INTO budgets VALUES (?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET opened = excluded.opened, used = excluded.used, ends = excluded.ends",
            (key, account.opened, account.used, ends),
        )
        connection.execute("DELETE FROM reservations WHERE key = ? AND (id = ? OR ends <= ?)", (key, reservation, now))
        if amount and shortage is None:
            connection.execute(
                "INSERT INTO reservations VALUES (?, ?, ?, ?)",
                (key, reservation, amount, now + round(lease * NANOSECONDS)),
            )
        return shortage

    return operation


# What is not the fault of the operation that met it.
_ENVIRONMENT = (sqlite3.OperationalError, sqlite3.NotSupportedError, OSError)
_KINDS = {
    "locked": ("SQLITE_BUSY", "SQLITE_LOCKED"),
    "read_only": ("SQLITE_READONLY", "SQLITE_PERM"),
    "full": ("SQLITE_FULL",),
    "corrupt": ("SQLITE_CORRUPT", "SQLITE_NOTADB"),
    "unreachable": ("SQLITE_CANTOPEN", "SQLITE_IOERR"),
}


class _Work:
    """One operation that waits for its transaction."""

    __slots__ = ("future", "is_durable", "operation")

    def __init__(self, operation: Operation[Any], future: asyncio.Future[Any], *, is_durable: bool) -> None:
        self.operation = operation
        self.future = future
        self.is_durable = is_durable


def _perform(connection: sqlite3.Connection, works: list[_Work], now: int) -> list[Any]:
    """What each gives, in their order. Puts go together, unless two are of the same key."""
    puts = [work.operation for work in works if isinstance(work.operation, records.Put)]
    if len(puts) < 2 or len({each.key for each in puts}) < len(puts):
        return [work.operation(connection, now) for work in works]
    put = iter(records.put_all(connection, puts, now))
    return [next(put) if isinstance(work.operation, records.Put) else work.operation(connection, now) for work in works]
