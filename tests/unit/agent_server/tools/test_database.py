"""A database: opening, reading beside writing, closing."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agent_server.tools.database import Database, DatabaseError


def with_database(path: Path | None, scene: Any) -> Any:
    async def work() -> Any:
        database = Database(path)
        await database.open()
        try:
            return await scene(database)
        finally:
            await database.close()

    return asyncio.run(work())


def test_a_temporary_database_is_gone_afterwards() -> None:
    async def scene(database: Database) -> Path:
        async with database.writing() as writer:
            file = await writer.run(lambda db: db.execute("PRAGMA database_list").fetchone()[2])
        assert Path(file).exists()
        return Path(file)

    assert not with_database(None, scene).parent.exists()


def test_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    async def scene(database: Database) -> Any:
        async with database.writing() as writer, database.reading() as reader:
            await writer.run(
                lambda db: db.executescript("CREATE TABLE t (a); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
            )
            before = await reader.run(lambda db: db.execute("SELECT count(*) FROM t").fetchone()[0])
            await writer.run(lambda db: db.execute("COMMIT").fetchall())
            after = await reader.run(lambda db: db.execute("SELECT count(*) FROM t").fetchone()[0])
        return before, after

    assert with_database(tmp_path / "d.db", scene) == (0, 1)


def test_readers_cannot_write(tmp_path: Path) -> None:
    async def scene(database: Database) -> None:
        async with database.reading() as reader:
            await reader.run(lambda db: db.execute("CREATE TABLE t (a)"))

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        with_database(tmp_path / "d.db", scene)


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async def write(database: Database) -> None:
        async with database.writing() as writer:
            await writer.run(lambda db: db.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (7)"))

    async def read(database: Database) -> Any:
        async with database.reading() as reader:
            return await reader.run(lambda db: db.execute("SELECT a FROM t").fetchall())

    with_database(tmp_path / "d.db", write)
    assert with_database(tmp_path / "d.db", read) == [(7,)]


def test_odd_file_names(tmp_path: Path) -> None:
    async def scene(_: Database) -> None:
        return None

    path = tmp_path / "a?b#c%20 d.db"
    with_database(path, scene)
    assert path.exists()


@pytest.mark.parametrize("name", ["missing/d.db", "text"])
def test_files_that_cannot_be_opened_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("this is not a database, and long enough for SQLite to see it" * 20)

    async def scene(_: Database) -> None:
        return None

    with pytest.raises(DatabaseError, match=name):
        with_database(tmp_path / name, scene)
