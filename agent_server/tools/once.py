"""A change under a key happens once: what came of it is written in the same transaction, and given again when the key returns.

This holds without any sidecar, and over a crash: either the change and its record are there, or neither.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from agent_server.core.failure import Failure
from agent_server.core.table import Cell, Column, Table

if TYPE_CHECKING:
    import sqlite3

KEPT_SECONDS = 24 * 3600.0

CREATE = """CREATE TABLE IF NOT EXISTS agent_server_once (
    identity TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, at REAL NOT NULL, result TEXT NOT NULL,
    PRIMARY KEY (identity, key)) WITHOUT ROWID"""
"""Run when a database is opened: later, a caller could have renamed a table of his own to this name."""


@dataclass(frozen=True, slots=True)
class Key:
    """The key of one change: whose, which, and of what."""

    identity: str
    key: str
    fingerprint: str


def fingerprint(*parts: str) -> str:
    """A digest of what is to be done."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def recorded(connection: sqlite3.Connection, key: Key) -> tuple[dict[str, Any], Table | None] | None:
    """What an earlier run under the key gave, or None. Call it inside of the transaction of the change.

    Raises Failure INVALID_ARGUMENT (KEY_REUSED) when the key was used for something else.
    """
    query = "SELECT fingerprint, result FROM agent_server_once WHERE identity = ? AND key = ?"
    row = connection.execute(query, (key.identity, key.key)).fetchone()
    if row is None:
        return None
    if row[0] != key.fingerprint:
        text = "the idempotency key was used for another operation before"
        raise Failure(StatusCode.INVALID_ARGUMENT, "KEY_REUSED", text, metadata={"key": key.key})
    result = json.loads(row[1])
    return result["output"], _table_from(result["table"])


def record(connection: sqlite3.Connection, key: Key, output: dict[str, Any], table: Table | None, wall: float) -> None:
    """Keep what came of the change, for a day. Call it inside of the transaction of the change."""
    result = json.dumps({"output": output, "table": _table_to(table)})
    connection.execute("DELETE FROM agent_server_once WHERE at < ?", (wall - KEPT_SECONDS,))
    insert = "INSERT INTO agent_server_once (identity, key, fingerprint, at, result) VALUES (?, ?, ?, ?, ?)"
    connection.execute(insert, (key.identity, key.key, key.fingerprint, wall, result))


def _table_to(table: Table | None) -> Any:
    if table is None:
        return None
    return {
        "columns": [each.name for each in table.columns],
        "rows": [[_cell_to(c) for c in row] for row in table.rows],
    }


def _table_from(raw: Any) -> Table | None:
    if raw is None:
        return None
    rows = tuple(tuple(_cell_from(cell) for cell in row) for row in raw["rows"])
    return Table(tuple(Column(name) for name in raw["columns"]), rows)


def _cell_to(cell: Cell) -> Any:
    return {"base64": base64.b64encode(cell).decode()} if isinstance(cell, bytes) else cell


def _cell_from(raw: Any) -> Cell:
    cell: Cell = base64.b64decode(raw["base64"]) if isinstance(raw, dict) else raw
    return cell
