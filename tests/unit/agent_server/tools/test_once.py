"""Records of changes under a key."""

from __future__ import annotations

import sqlite3

import pytest

from agent_server.core.failure import Failure
from agent_server.core.table import Column, Table
from agent_server.tools.once import CREATE, KEPT_SECONDS, Key, fingerprint, record, recorded


@pytest.fixture
def db() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(CREATE)
    return connection


def test_what_was_recorded_comes_back_exactly(db: sqlite3.Connection) -> None:
    table = Table((Column("a"), Column("a")), ((2**63 - 1, 0.1), (None, b"\xff"), ("x", -0.0)))
    key = Key("me", "k", "f")
    assert recorded(db, key) is None
    record(db, key, {"n": 1}, table, wall=0.0)
    assert recorded(db, key) == ({"n": 1}, table)
    db.close()


def test_another_fingerprint_is_refused(db: sqlite3.Connection) -> None:
    record(db, Key("me", "k", "f"), {}, None, wall=0.0)
    with pytest.raises(Failure, match="another operation"):
        recorded(db, Key("me", "k", "g"))
    assert recorded(db, Key("you", "k", "g")) is None
    db.close()


def test_old_records_go_when_new_ones_come(db: sqlite3.Connection) -> None:
    record(db, Key("me", "old", "f"), {}, None, wall=0.0)
    record(db, Key("me", "new", "f"), {}, None, wall=KEPT_SECONDS + 1)
    assert recorded(db, Key("me", "old", "f")) is None
    assert recorded(db, Key("me", "new", "f")) == ({}, None)
    db.close()


def test_fingerprints_tell_parts_apart() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
