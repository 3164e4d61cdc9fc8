"""One SQLite connection in a thread of its own, whose work can be cancelled.

Why a thread per connection and not a shared pool? SQLite's calls block, and a connection does one thing at a time anyway; with its
own thread it never waits for another database, and cancelling is exact: the work that is running is the work that is stopped.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_STEPS_BETWEEN_LOOKS = 10_000
"""SQLite instructions between two looks at the stop flag: about a millisecond, at a cost below 1 %."""


class SqliteThread:
    """A connection and its thread. Not more than one `run` at a time; the caller sees to that."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._connect = connect
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None
        self._stop = threading.Event()

    async def open(self) -> None:
        """Connect. Raises sqlite3.Error."""
        self._connection = await asyncio.get_running_loop().run_in_executor(self._thread, self._connected)

    async def close(self) -> None:
        """Disconnect and end the thread."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)
        self._thread.shutdown(wait=False)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the thread. When cancelled, it is interrupted and awaited, so the connection is free afterwards.

        `work` must leave no transaction open when it raises.
        """
        connection = self._connection
        if connection is None:
            msg = "the connection is not open"
            raise RuntimeError(msg)
        self._stop.clear()
        future = asyncio.get_running_loop().run_in_executor(self._thread, work, connection)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The flag catches work that has not reached SQLite yet; interrupt() only what is inside of it now.
            self._stop.set()
            connection.interrupt()
            while not future.done():
                try:
                    await asyncio.wait({future})
                except asyncio.CancelledError:
                    continue
            future.exception()
            raise

    @property
    def is_stopping(self) -> bool:
        """The running work was cancelled; work that loops outside of SQLite looks here."""
        return self._stop.is_set()

    def _connected(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.set_progress_handler(self._stop.is_set, _STEPS_BETWEEN_LOOKS)
        return connection
