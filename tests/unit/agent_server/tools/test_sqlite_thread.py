"""A connection in a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import Any

import pytest

from agent_server.tools.sqlite_thread import SqliteThread

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def with_thread(scene: Any) -> Any:
    async def work() -> Any:
        thread = SqliteThread(lambda: sqlite3.connect(":memory:", isolation_level=None), "test")
        await thread.open()
        try:
            return await scene(thread)
        finally:
            await thread.close()

    return asyncio.run(work())


def test_work_runs_in_one_thread_that_is_not_the_loops() -> None:
    async def scene(thread: SqliteThread) -> set[int]:
        return {await thread.run(lambda _: threading.get_ident()) for _ in range(3)}

    found = with_thread(scene)
    assert len(found) == 1
    assert threading.get_ident() not in found


def test_errors_come_back() -> None:
    async def scene(thread: SqliteThread) -> None:
        await thread.run(lambda db: db.execute("nonsense"))

    with pytest.raises(sqlite3.OperationalError, match="nonsense"):
        with_thread(scene)


def test_cancelling_interrupts_what_runs_inside_of_sqlite() -> None:
    async def scene(thread: SqliteThread) -> Any:
        loop, inside = asyncio.get_running_loop(), asyncio.Event()
        await thread.run(
            lambda db: db.create_function("began", 0, lambda: loop.call_soon_threadsafe(inside.set) and None)
        )
        task = loop.create_task(thread.run(lambda db: db.execute(f"SELECT began(), ({ENDLESS})").fetchall()))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await thread.run(lambda db: db.execute("SELECT 1").fetchone())

    assert with_thread(scene) == (1,)


def test_cancelling_reaches_work_that_is_not_inside_of_sqlite_yet() -> None:
    async def scene(thread: SqliteThread) -> Any:
        loop, began, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def work(db: sqlite3.Connection) -> Any:
            loop.call_soon_threadsafe(began.set)
            go_on.wait()
            return db.execute(ENDLESS).fetchone()  # interrupt() came before this began

        task = loop.create_task(thread.run(work))
        await began.wait()
        task.cancel()
        loop.call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        return thread.is_stopping

    assert with_thread(scene) is True


def test_a_second_cancellation_does_not_leave_the_work_behind() -> None:
    async def scene(thread: SqliteThread) -> Any:
        loop, began, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        done: list[str] = []

        def work(db: sqlite3.Connection) -> None:
            loop.call_soon_threadsafe(began.set)
            go_on.wait()
            done.append("ended")

        task = loop.create_task(thread.run(work))
        await began.wait()
        task.cancel()
        loop.call_soon(task.cancel)
        loop.call_later(0, lambda: loop.call_soon(go_on.set))
        with pytest.raises(asyncio.CancelledError):
            await task
        return done

    assert with_thread(scene) == ["ended"]


def test_a_closed_connection() -> None:
    thread = SqliteThread(lambda: sqlite3.connect(":memory:"), "test")
    with pytest.raises(RuntimeError, match="not open"):
        asyncio.run(thread.run(lambda _: None))
