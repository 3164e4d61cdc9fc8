"""Parameters, authorization, and what SQLite says."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from grpc import StatusCode
from pydantic import TypeAdapter, ValidationError

from agent_server.core.failure import Failure
from agent_server.tools.sql import Pages, SqlParameters, bound_all, failure_of, quoted

ADAPTER: TypeAdapter[Any] = TypeAdapter(SqlParameters)


def test_by_position_and_by_name() -> None:
    assert bound_all(ADAPTER.validate_python([1, None, {"int64": "-9223372036854775808"}])) == [1, None, -(2**63)]
    assert bound_all(ADAPTER.validate_python({"a": {"base64": ""}, "b": True})) == {"a": b"", "b": 1}


@pytest.mark.parametrize(
    "value",
    [
        {"int64": 5},
        {"int64": "5.0"},
        {"int64": "9223372036854775808"},
        {"int64": "٣"},
        {"int64": "1", "base64": ""},
        {"base64": "!"},
        {"base64": "AAA"},
        {"double": "5"},
        {"other": 1},
        {},
        [],
        2**63,
    ],
)
def test_values_that_are_none(value: Any) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python([value])


def error(sql: str) -> sqlite3.Error:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b NOT NULL, c CHECK (c > 0))")
    db.execute("INSERT INTO t VALUES (1, 1, 1)")
    with pytest.raises(sqlite3.Error) as caught:
        db.execute(sql)
    db.close()
    return caught.value


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("INSERT INTO t VALUES (1, 1, 1)", StatusCode.ALREADY_EXISTS),
        ("INSERT INTO t VALUES (2, NULL, 1)", StatusCode.FAILED_PRECONDITION),
        ("INSERT INTO t VALUES (2, 1, 0)", StatusCode.FAILED_PRECONDITION),
        ("INSERT INTO u VALUES (1)", StatusCode.NOT_FOUND),
        ("DROP TABLE u", StatusCode.NOT_FOUND),
        ("SELECT no_such_function(1)", StatusCode.INVALID_ARGUMENT),
        ("SELECT abs(-9223372036854775808)", StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_sqlite_says_becomes_a_status(sql: str, code: StatusCode) -> None:
    assert failure_of(error(sql)).code is code


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SQLITE_BUSY", StatusCode.UNAVAILABLE),
        ("SQLITE_BUSY_SNAPSHOT", StatusCode.UNAVAILABLE),
        ("SQLITE_FULL", StatusCode.RESOURCE_EXHAUSTED),
        ("SQLITE_IOERR_READ", StatusCode.INTERNAL),
        ("SQLITE_CORRUPT", StatusCode.INTERNAL),
        ("SQLITE_CANTOPEN", StatusCode.INTERNAL),
    ],
)
def test_troubles_of_the_machine_name_no_files(name: str, code: StatusCode) -> None:
    trouble = sqlite3.OperationalError("trouble with /var/lib/secret.db")
    trouble.sqlite_errorname = name
    failure = failure_of(trouble)
    assert failure.code is code
    if code is not StatusCode.RESOURCE_EXHAUSTED:
        assert "/var/lib" not in failure.message


def test_pages_hold_what_was_not_taken() -> None:
    db = sqlite3.connect(":memory:")
    pages = Pages(db.execute("SELECT value AS v FROM json_each('[1,2,3]')"))
    assert [pages.take(2, 1000).rows, pages.is_done] == [((1,), (2,)), False]
    assert [pages.take(2, 1000).rows, pages.is_done] == [((3,),), True]
    pages.close()
    db.close()


def test_a_row_that_does_not_fit_into_the_page_begins_the_next() -> None:
    db = sqlite3.connect(":memory:")
    pages = Pages(db.execute("SELECT hex(zeroblob(40)) UNION ALL SELECT hex(zeroblob(40))"))
    assert (len(pages.take(9, 100)), pages.is_done) == (1, False)
    with pytest.raises(Failure, match="a row takes about"):
        pages.take(9, 50)
    pages.close()
    db.close()


def test_identifiers_are_quoted() -> None:
    assert quoted('a"b') == '"a""b"'
