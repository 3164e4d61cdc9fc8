"""Databases by URL on SQLite; tests/journeys/test_postgres.py does the same with PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from agent_server.core.failure import Failure
from agent_server.tools.warehouse import Warehouse


@pytest.fixture
async def warehouse(tmp_path: Path) -> AsyncIterator[Warehouse]:
    found = Warehouse({"main": f"sqlite+aiosqlite:///{tmp_path}/main.db"})
    await found.create("", "parts", {"id": "INTEGER", "name": "TEXT", "price": "REAL"}, ["id"])
    yield found
    await found.close()


async def rows(warehouse: Warehouse, sql: str) -> tuple[tuple[object, ...], ...]:
    return (await warehouse.query("", sql, {}, 100))[0].rows


async def refused(warehouse: Warehouse, sql: str) -> str:
    with pytest.raises(Failure) as caught:
        await warehouse.change("", sql, [])
    return caught.value.reason


async def test_a_table_is_created_once(warehouse: Warehouse, tmp_path: Path) -> None:
    assert await warehouse.create("", "parts", {"id": "INTEGER"}, []) is False
    assert await warehouse.create("", 'odd "name', {"a b": "TEXT"}, ["a b"]) is True
    with closing(sqlite3.connect(tmp_path / "main.db")) as db:
        assert [row[1] for row in db.execute('PRAGMA table_info("odd ""name")')] == ["a b"]


async def test_under_a_key_once_and_with_the_change_or_not_at_all(warehouse: Warehouse) -> None:
    given = [{"id": number, "name": "x"} for number in range(5)]
    assert await warehouse.insert("", "parts", given, key="k", at=1.0, batch=2) == (5, False)
    assert await warehouse.insert("", "parts", given, key="k", at=1.0) == (5, True)
    with pytest.raises(Failure) as caught:
        await warehouse.insert("", "parts", [{"id": 8}, {"id": 1}], key="l", at=1.0)
    assert caught.value.reason == "CONSTRAINT"
    assert await rows(warehouse, "SELECT COUNT(*) FROM parts") == ((5,),)


async def test_rows_that_are_there(warehouse: Warehouse) -> None:
    await warehouse.insert("", "parts", [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    # The order of fields is nobody's concern.
    given = [{"name": "B", "id": 2}, {"id": 3, "name": "c"}]
    assert (await warehouse.insert("", "parts", given, on_conflict="ignore"))[0] == 1
    assert (await warehouse.insert("", "parts", given, on_conflict="update", unique=["id"]))[0] == 2
    assert await rows(warehouse, "SELECT name FROM parts ORDER BY id") == (("a",), ("B",), ("c",))
    with pytest.raises(Failure) as caught:
        await warehouse.insert("", "parts", given, on_conflict="update")
    assert caught.value.violations[0].field == "key"


async def test_rows_must_have_the_same_fields(warehouse: Warehouse) -> None:
    with pytest.raises(Failure) as caught:
        await warehouse.insert("", "parts", [{"id": 1}, {"id": 2, "name": "x"}])
    assert caught.value.violations[0].field == "rows.1"


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH DATABASE '/tmp/other.db' AS other",
        "VACUUM INTO '/tmp/copy.db'",
        "PRAGMA journal_mode=DELETE",
        "COMMIT",
        " -- now\n rollback",
        "/* x */ SAVEPOINT a",
        "DELETE FROM agent_server_steps",
        "DROP TABLE agent_server_steps",
        "SELECT load_extension('x')",
        "DELETE FROM parts; DELETE FROM parts",
    ],
)
async def test_statements_reach_the_tables_of_their_database_only(warehouse: Warehouse, sql: str) -> None:
    await warehouse.change("", "INSERT INTO parts (id) VALUES (:id)", [{"id": 1}], key="k", at=1.0)
    assert await refused(warehouse, sql) in ("SQL_REFUSED", "INVALID_INPUT")
    assert await warehouse.change("", "INSERT INTO parts (id) VALUES (:id)", [{"id": 1}], key="k", at=1.0) == (
        1,
        True,
    )


async def test_a_query_changes_nothing_and_opens_no_file(warehouse: Warehouse, tmp_path: Path) -> None:
    for sql in ("DELETE FROM parts", "INSERT INTO parts (id) VALUES (1) RETURNING id"):
        with pytest.raises(Failure) as caught:
            await warehouse.query("", sql, {}, 1)
        assert caught.value.reason == "WRITE_IN_QUERY"
    with pytest.raises(Failure):
        await warehouse.query("", f"ATTACH DATABASE '{tmp_path}/other.db' AS other", {}, 1)
    assert not (tmp_path / "other.db").exists()


async def test_reading_does_not_wait_for_a_writer(warehouse: Warehouse, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "main.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert await rows(warehouse, "SELECT COUNT(*) FROM parts") == ((0,),)
        db.execute("ROLLBACK")


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"


async def test_cancelling_interrupts_a_change(warehouse: Warehouse, tmp_path: Path) -> None:
    running = asyncio.create_task(warehouse.change("", f"INSERT INTO parts (id) {ENDLESS}", []))
    with closing(sqlite3.connect(tmp_path / "main.db", isolation_level=None, timeout=0)) as db:
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # it has the lock, so it runs
                break
            db.execute("ROLLBACK")
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # The one connection that writes is free again, which it would never be with that statement on it.
    assert await warehouse.insert("", "parts", [{"id": 1}]) == (1, False)


async def test_cancelling_interrupts_a_query(tmp_path: Path) -> None:
    warehouse = Warehouse({"main": f"sqlite+aiosqlite:///{tmp_path}/main.db"}, pool_size=1)
    assert await rows(warehouse, "SELECT 1") == ((1,),)
    running = asyncio.create_task(warehouse.query("", ENDLESS, {}, 1))
    for _ in range(20):
        await asyncio.to_thread(int)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await rows(warehouse, "SELECT 2") == ((2,),)
    await warehouse.close()


async def test_pages_of_a_stream(warehouse: Warehouse) -> None:
    await warehouse.insert("", "parts", [{"id": number} for number in range(25)])
    pages = [len(page) async for page in warehouse.stream("", "SELECT id FROM parts", {}, page=10)]
    assert pages == [10, 10, 5]
    empty = [page async for page in warehouse.stream("", "SELECT id AS x FROM parts WHERE id < 0", {})]
    assert [[each.name for each in page.columns] for page in empty] == [["x"]]
    table, is_more = await warehouse.query("", "SELECT id FROM parts", {}, 24)
    assert (len(table), is_more) == (24, True)


async def test_values_are_no_sql(warehouse: Warehouse) -> None:
    evil = "x'); DROP TABLE parts; --"
    await warehouse.change("", "INSERT INTO parts (id, name) VALUES (:id, :name)", [{"id": 1, "name": evil}])
    assert await rows(warehouse, "SELECT name FROM parts") == ((evil,),)


async def test_a_database_nobody_configured(warehouse: Warehouse) -> None:
    with pytest.raises(Failure) as caught:
        await warehouse.query("books", "SELECT 1", {}, 1)
    assert caught.value.reason == "DATABASE_UNKNOWN"
