"""Records whose time is over leave the file in small batches, and leave nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        records.Put(f"old:{i}", None, b"", SECOND)(connection, 0)
    records.Put("young", None, b"1", 10 * SECOND)(connection, 0)
    assert records.sweep(connection, 2 * SECOND) is True
    assert count(connection) == 11
    assert records.sweep(connection, 2 * SECOND) is False
    assert count(connection) == 1
    assert records.find("young")(connection, 2 * SECOND) == Record(b"1", 2.0)


def test_what_is_over_is_gone_before_it_is_swept(connection: sqlite3.Connection) -> None:
    records.Put("a", None, b"1", SECOND)(connection, 0)
    assert records.find("a")(connection, SECOND) is None
    assert records.scan("", "", 10)(connection, SECOND) == []
    assert records.Put("a", None, b"2", SECOND)(connection, SECOND) is True
    assert count(connection) == 1


def test_a_prefix_is_no_pattern(connection: sqlite3.Connection) -> None:
    for key in ("a%", "a%b", "ab", "a_"):
        records.Put(key, None, b"", SECOND)(connection, 0)
    assert [key for key, _ in records.scan("a%", "", 10)(connection, 0)] == ["a%", "a%b"]


def test_memory_forgets_what_is_over() -> None:
    kept = Records()
    for i in range(Records.SWEEP_EACH):
        assert kept.put(f"{i}", None, b"", SECOND, now=i * SECOND) is True
    assert len(kept._kept) == 1


VALUES = st.sampled_from([b"1", b"2", b"3"])
PUTS = st.lists(
    st.tuples(st.integers(0, 99).map(str), st.none() | VALUES, VALUES, st.integers(1, 3)),
    max_size=90,
    unique_by=lambda put: put[0],
)


@given(st.lists(PUTS, min_size=1, max_size=4))
def test_puts_together_are_as_puts_one_by_one(batches: list[list[tuple[str, bytes | None, bytes, int]]]) -> None:
    connection, kept = sqlite3.connect(":memory:"), Records()
    records.make(connection)
    for now, batch in enumerate(batches):
        at = now * SECOND
        expected = [kept.put(key, was, value, length * SECOND, at) for key, was, value, length in batch]
        puts = [records.Put(key, was, value, length * SECOND) for key, was, value, length in batch]
        assert records.put_all(connection, puts, at) == expected
        held = [(key, kept.find(key, at)) for key in sorted(kept._kept)]
        assert records.scan("", "", 1000)(connection, at) == [each for each in held if each[1] is not None]
    connection.close()


def test_a_batch_is_few_statements(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    puts = [records.Put(f"{i}", None, b"", SECOND) for i in range(100)]
    records.put_all(connection, puts[:1], 0)
    connection.set_trace_callback(statements.append)
    assert records.put_all(connection, puts, 1) == [Record(b"", 1e-9)] + [True] * 99
    # 64 + 32 + 4 rows, and again to see which of them was not put.
    assert len([each for each in statements if each.startswith(("INSERT", "SELECT"))]) == 6
