"""Records: what columns take, and batches that are written whole or not at all."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from agent_server.core.events import Record
from agent_server.tools.records import Accepted, RecordWriter, affinity, cell_of, create_table, fits, table_columns


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("INTEGER", "INTEGER"),
        ("bigint", "INTEGER"),
        ("VARCHAR(20)", "TEXT"),
        ("CLOB", "TEXT"),
        ("BLOB", "BLOB"),
        ("", "BLOB"),
        ("DOUBLE PRECISION", "REAL"),
        ("FLOAT", "REAL"),
        ("DECIMAL(10,2)", "NUMERIC"),
        ("BOOLEAN", "NUMERIC"),
        ("CHARINT", "INTEGER"),
    ],
)
def test_affinity_is_that_of_sqlite(declared: str, expected: str) -> None:
    assert affinity(declared) == expected


@pytest.mark.parametrize(
    ("value", "takers"),
    [
        (None, {"INTEGER", "REAL", "NUMERIC", "TEXT", "BLOB"}),
        (1, {"INTEGER", "REAL", "NUMERIC", "BLOB"}),
        (1.5, {"REAL", "NUMERIC", "BLOB"}),
        ("x", {"TEXT", "NUMERIC", "BLOB"}),
        (b"x", {"NUMERIC", "BLOB"}),
    ],
)
def test_which_columns_take_a_value(value: Any, takers: set[str]) -> None:
    assert {column for column in ("INTEGER", "REAL", "NUMERIC", "TEXT", "BLOB") if fits(value, column)} == takers


@pytest.mark.parametrize("raw", [[], {}, {"a": 1}, {"int64": "x"}, {"base64": "!"}, {"int64": "1", "double": 1}])
def test_values_that_no_column_takes(raw: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        cell_of(raw)


def database(sql: str) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute(sql)
    return db


def accepted(writer: RecordWriter, index: int, **fields: Any) -> Accepted:
    found = writer.check(Record(index, "", fields, 10))
    assert isinstance(found, Accepted)
    return found


def test_required_columns_are_those_without_default() -> None:
    db = database("CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT NOT NULL, b TEXT NOT NULL DEFAULT 'x')")
    assert [each.name for each in table_columns(db, "t") if each.is_required] == ["a"]
    db.close()


def test_a_missing_table_has_no_columns() -> None:
    db = database("CREATE TABLE t (a)")
    assert table_columns(db, "u") == ()
    db.close()


def test_names_are_quoted_everywhere() -> None:
    db = database("SELECT 1")
    create_table(db, "select", {"from": "TEXT", "order": "INTEGER"}, ["from"])
    writer = RecordWriter("select", table_columns(db, "select"), "update")
    result = writer.write(db, [accepted(writer, 0, **{"from": "a", "order": 1})])
    assert (result.written, db.execute('SELECT * FROM "select"').fetchall()) == (1, [("a", 1)])
    db.close()


def test_records_of_several_shapes_keep_their_order() -> None:
    db = database("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)")
    writer = RecordWriter("t", table_columns(db, "t"), "update")
    batch = [accepted(writer, 0, id=1, a="x"), accepted(writer, 1, id=1, b="y"), accepted(writer, 2, id=1, a="z")]
    assert writer.write(db, batch).written == 3
    assert db.execute("SELECT * FROM t").fetchall() == [(1, "z", "y")]
    db.close()


def test_a_batch_that_cannot_be_written_leaves_nothing() -> None:
    db = database("CREATE TABLE t (a TEXT)")
    writer = RecordWriter("t", table_columns(db, "t"), "reject")
    first, second = accepted(writer, 0, a="x"), accepted(writer, 1, a="y")
    db.execute("CREATE TRIGGER broken BEFORE INSERT ON t WHEN NEW.a = 'y' BEGIN SELECT no_such_column; END")
    with pytest.raises(sqlite3.OperationalError):
        writer.write(db, [first, second])
    assert not db.in_transaction
    assert db.execute("SELECT count(*) FROM t").fetchone() == (0,)
    db.close()


def test_ignoring_what_is_there_does_not_ignore_other_constraints() -> None:
    db = database("CREATE TABLE t (id INTEGER UNIQUE, a INTEGER CHECK (a > 0))")
    writer = RecordWriter("t", table_columns(db, "t"), "ignore")
    result = writer.write(db, [accepted(writer, n, id=i, a=a) for n, (i, a) in enumerate([(1, 1), (1, 1), (2, -1)])])
    assert (result.written, result.ignored, [each.index for each in result.rejected]) == (1, 1, [2])
    db.close()


def test_many_shapes_do_not_pile_up() -> None:
    names = [f"c{n}" for n in range(100)]
    db = database(f"CREATE TABLE t ({', '.join(names)})")
    writer = RecordWriter("t", table_columns(db, "t"), "reject")
    result = writer.write(db, [accepted(writer, n, **{name: n}) for n, name in enumerate(names)])
    assert result.written == 100
    assert len(writer._statements) <= 64
    db.close()
