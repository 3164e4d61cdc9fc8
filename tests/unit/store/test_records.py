"""Records whose time is over leave the file in small batches, and leave nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from sidecar.store import records
from sidecar.store.records import SWEPT_AT_ONCE, Record, Records

SECOND = 1_000_000_000


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:")
    records.make(made)
    yield made
    made.close()


def count(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute("SELECT COUNT(*) FROM records").fetchone()
    return int(number)


def test_what_is_over_is_swept_in_batches(connection: sqlite3.Connection) -> None:
    for i in range(SWEPT_AT_ONCE + 10):
        records.put(f"old:{i}", None, b"", SECOND)(connection, 0)
    records.put("young", None, b"1", 10 * SECOND)(connection, 0)
    assert records.sweep(connection, 2 * SECOND) is True
    assert count(connection) == 11
    assert records.sweep(connection, 2 * SECOND) is False
    assert count(connection) == 1
    assert records.find("young")(connection, 2 * SECOND) == Record(b"1", 2.0)


def test_what_is_over_is_gone_before_it_is_swept(connection: sqlite3.Connection) -> None:
    records.put("a", None, b"1", SECOND)(connection, 0)
    assert records.find("a")(connection, SECOND) is None
    assert records.scan("", "", 10)(connection, SECOND) == []
    assert records.put("a", None, b"2", SECOND)(connection, SECOND) is True
    assert count(connection) == 1


def test_a_prefix_is_no_pattern(connection: sqlite3.Connection) -> None:
    for key in ("a%", "a%b", "ab", "a_"):
        records.put(key, None, b"", SECOND)(connection, 0)
    assert [key for key, _ in records.scan("a%", "", 10)(connection, 0)] == ["a%", "a%b"]


def test_memory_forgets_what_is_over() -> None:
    kept = Records()
    for i in range(Records.SWEEP_EACH):
        assert kept.put(f"{i}", None, b"", SECOND, now=i * SECOND) is True
    assert len(kept._kept) == 1
