"""Databases by URL, with a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from agent_server.core.failure import Failure
from agent_server.tools.warehouse import Warehouse
from tests.support.postgres import Cluster, cluster, needs_postgres

pytestmark = needs_postgres
LIMIT = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as found:
        yield found


@pytest.fixture
async def warehouse(server: Cluster) -> AsyncIterator[Warehouse]:
    found = Warehouse({"main": server.url}, pool_size=2)
    async with asyncio.timeout(LIMIT):
        await found.change("", "DROP TABLE IF EXISTS parts", [])
        columns = {"id": "INTEGER", "name": "TEXT", "price": "REAL", "data": "BLOB"}
        assert await found.create("", "parts", columns, ["id"])  # type: ignore[arg-type]
        assert not await found.create("", "parts", columns, ["id"])  # type: ignore[arg-type]
        yield found
    await found.close()


def part(number: int, name: str = "") -> dict[str, object]:
    return {"id": number, "name": name or f"part {number}", "price": number / 2, "data": b"\x00\xff"}


async def count(warehouse: Warehouse) -> object:
    return (await warehouse.query("", "SELECT COUNT(*) FROM parts", {}, 1))[0].rows[0][0]


async def until(warehouse: Warehouse, sql: str, wanted: int) -> None:
    """Ask until the answer is that; each asking is a turn to the server and back."""
    while (await warehouse.query("", sql, {}, 1))[0].rows != ((wanted,),):
        pass


async def test_rows_come_back_as_they_were(warehouse: Warehouse) -> None:
    big = 2**62 + 1
    assert await warehouse.insert("", "parts", [part(1), {**part(big), "price": None}]) == (2, False)
    table, is_more = await warehouse.query("", "SELECT * FROM parts WHERE id >= :low ORDER BY id", {"low": 1}, 10)
    assert table.rows == ((1, "part 1", 0.5, b"\x00\xff"), (big, f"part {big}", None, b"\x00\xff"))
    assert [each.name for each in table.columns] == ["id", "name", "price", "data"]
    assert is_more is False


async def test_a_query_changes_nothing(warehouse: Warehouse) -> None:
    for sql in ("INSERT INTO parts (id) VALUES (1) RETURNING id", "SELECT setval('no', 1)", "COMMIT"):
        with pytest.raises(Failure) as caught:
            await warehouse.query("", sql, {}, 1)
        assert caught.value.reason in ("WRITE_IN_QUERY", "SQL_REFUSED"), sql
    assert await count(warehouse) == 0


async def test_a_change_under_a_key_happens_once_and_with_its_key_or_not_at_all(warehouse: Warehouse) -> None:
    rows = [part(number) for number in range(2500)]
    assert await warehouse.insert("", "parts", rows, key="k1", at=1.0) == (2500, False)
    assert await warehouse.insert("", "parts", rows, key="k1", at=1.0) == (2500, True)
    with pytest.raises(Failure) as caught:
        await warehouse.insert("", "parts", [part(9000), part(1)], key="k2", at=1.0)
    assert caught.value.reason == "CONSTRAINT"
    assert "part 1" not in caught.value.message
    assert await count(warehouse) == 2500
    assert await warehouse.insert("", "parts", [part(9000)], key="k2", at=1.0) == (1, False)


async def test_rows_that_are_there_are_ignored_or_updated(warehouse: Warehouse) -> None:
    await warehouse.insert("", "parts", [part(1), part(2)])
    assert (await warehouse.insert("", "parts", [part(2), part(3)], on_conflict="ignore"))[0] == 1
    changed = [part(2, "new"), part(4)]
    assert (await warehouse.insert("", "parts", changed, on_conflict="update", unique=["id"]))[0] == 2
    table, _ = await warehouse.query("", "SELECT name FROM parts ORDER BY id", {}, 10)
    assert [row[0] for row in table.rows] == ["part 1", "new", "part 3", "part 4"]


async def test_values_are_no_sql(warehouse: Warehouse) -> None:
    evil = "'); DROP TABLE parts; --"
    await warehouse.insert("", "parts", [part(1, evil)])
    table, _ = await warehouse.query("", "SELECT id FROM parts WHERE name = :name", {"name": evil}, 10)
    assert table.rows == ((1,),)
    with pytest.raises(Failure):
        await warehouse.change("", "DELETE FROM parts; DROP TABLE parts", [])
    assert await count(warehouse) == 1


async def test_cancelling_reaches_the_server(warehouse: Warehouse) -> None:
    running = asyncio.create_task(warehouse.query("", "SELECT pg_sleep(600), 'marked'", {}, 1))
    active = "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%marked%' AND pid != pg_backend_pid()"
    await until(warehouse, active, 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(warehouse, active, 0)


async def test_many_rows_are_read_a_page_at_a_time(warehouse: Warehouse) -> None:
    seen = 0
    async for page in warehouse.stream("", "SELECT generate_series(1, :most)", {"most": 200_000}, page=5000):
        assert len(page) <= 5000
        seen += len(page)
    assert seen == 200_000


async def test_a_server_that_was_restarted_is_found_again(server: Cluster, warehouse: Warehouse) -> None:
    await warehouse.insert("", "parts", [part(1)])
    server.stop()
    try:
        with pytest.raises(Failure) as caught:
            await warehouse.query("", "SELECT 1", {}, 1)
        assert (caught.value.code.name, caught.value.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
    finally:
        server.start()
    assert await count(warehouse) == 1


@pytest.mark.parametrize("url", ["nothing://host/x", "postgresql+asyncpg://u:hush@host:port/x"])
async def test_a_url_that_cannot_be_used_is_not_repeated(url: str) -> None:
    with pytest.raises(Failure) as caught:
        await Warehouse({"books": url}).query("books", "SELECT 1", {}, 1)
    assert caught.value.reason == "DATABASE_UNUSABLE"
    assert "hush" not in caught.value.message
