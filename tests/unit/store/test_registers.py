"""Registers and leases: the same answers from every store that is here without a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.store import registers
from sidecar.store.registers import Registers


class Kind(Protocol):
    def read(self, key: str) -> bytes | None: ...
    def swap(self, key: str, expected: bytes | None, value: bytes) -> bool: ...
    def lead(self, key: str, owner: str, length: int, now: int) -> bool: ...


class InMemory:
    def __init__(self) -> None:
        self._registers = Registers()
        self.swap, self.lead = self._registers.swap, self._registers.lead

    def read(self, key: str) -> bytes | None:
        return self._registers.values.get(key)


class InSQLite:
    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)

    def read(self, key: str) -> bytes | None:
        return registers.read(key)(self._connection, 0)

    def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        return registers.swap(key, expected, value)(self._connection, 0)

    def lead(self, key: str, owner: str, length: int, now: int) -> bool:
        return registers.lead(key, owner, length)(self._connection, now)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(params=[InMemory, InSQLite])
def kind(request: pytest.FixtureRequest) -> Any:
    made: Any = request.param()
    yield made
    if isinstance(made, InSQLite):
        made.close()


def test_only_whoever_knows_what_is_there_replaces_it(kind: Kind) -> None:
    assert kind.read("a") is None
    assert not kind.swap("a", b"something", b"1")
    assert kind.swap("a", None, b"1")
    assert not kind.swap("a", None, b"2")
    assert not kind.swap("a", b"0", b"2")
    assert kind.swap("a", b"1", b"2")
    assert (kind.read("a"), kind.read("b")) == (b"2", None)


def test_a_lease_is_held_by_one_owner_until_it_ends(kind: Kind) -> None:
    assert kind.lead("a", "one", 100, 1000)
    assert not kind.lead("a", "two", 100, 1099)
    assert kind.lead("a", "one", 100, 1099), "renewed"
    assert not kind.lead("a", "two", 100, 1198)
    assert kind.lead("a", "two", 100, 1199), "it has ended"
    assert not kind.lead("a", "one", 100, 1200)
    assert kind.lead("b", "one", 100, 1200), "each key for itself"


def test_a_lease_that_is_let_go_of_is_free(kind: Kind) -> None:
    assert kind.lead("a", "one", 100, 1000)
    assert not kind.lead("a", "two", 0, 1001), "it was never its own to let go"
    assert not kind.lead("a", "two", 100, 1002)
    assert not kind.lead("a", "one", 0, 1003)
    assert kind.lead("a", "two", 100, 1004)


_STEPS = st.lists(
    st.tuples(st.sampled_from(["one", "two"]), st.integers(0, 50), st.integers(0, 40)), min_size=1, max_size=30
)


@given(_STEPS)
def test_never_two_holders(steps: list[tuple[str, int, int]]) -> None:
    stores: list[Callable[..., bool]] = [InMemory().lead]
    sqlite = InSQLite()
    stores.append(sqlite.lead)
    now, held = 0, {"one": -1, "two": -1}
    for owner, length, pause in steps:
        now += pause
        answers = {lead("a", owner, length, now) for lead in stores}
        assert len(answers) == 1, "both stores say the same"
        other = "two" if owner == "one" else "one"
        if answers == {True}:
            assert held[other] <= now
            held[owner] = now + length
        elif length == 0 and held[other] <= now:
            held[owner] = now
    sqlite.close()
