"""Writing records into a table: checked one by one, written in batches, the bad ones set aside with a reason."""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pydantic import BaseModel, ValidationError

from agent_server.core.events import Record
from agent_server.core.table import Cell
from agent_server.tools.sql import Blob, Double, Int64, SqlValue, bound, quoted

OnConflict = Literal["reject", "ignore", "update"]
_INT64 = 2**63
_TYPED: dict[str, type[BaseModel]] = {"int64": Int64, "base64": Blob, "double": Double}


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column that records may fill."""

    name: str
    affinity: str
    """INTEGER, REAL, NUMERIC, TEXT or BLOB, by the rules of SQLite (datatype3.html §3.1)."""
    is_required: bool
    """NOT NULL and without a default."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a record is not stored."""

    index: int
    record_id: str
    reason: str
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A record as it will be written."""

    record: Record
    names: tuple[str, ...]
    values: tuple[Cell, ...]


@dataclass(slots=True)
class BatchResult:
    """What became of a batch."""

    written: int = 0
    ignored: int = 0
    rejected: list[Rejection] = field(default_factory=list)


def affinity(declared: str) -> str:
    """The affinity of a declared type."""
    upper = declared.upper()
    if "INT" in upper:
        return "INTEGER"
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in upper or not upper:
        return "BLOB"
    if any(word in upper for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def table_columns(connection: sqlite3.Connection, table: str) -> tuple[TableColumn, ...]:
    """The columns of a table, without generated ones; empty when there is no such table."""
    rows = connection.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    keys = [row for row in rows if row[5]]
    found = []
    for _, name, declared, not_null, default, is_key, hidden in rows:
        if hidden:
            continue
        # A lone INTEGER PRIMARY KEY is the row id: SQLite fills it.
        is_row_id = bool(is_key) and len(keys) == 1 and declared.upper() == "INTEGER"
        found.append(TableColumn(name, affinity(declared), bool(not_null) and default is None and not is_row_id))
    return tuple(found)


def create_table(connection: sqlite3.Connection, table: str, columns: Mapping[str, str], key: Sequence[str]) -> None:
    """Create the table if there is none. `columns`: type by name."""
    parts = [f"{quoted(name)} {kind}" for name, kind in columns.items()]
    if key:
        parts.append(f"PRIMARY KEY ({', '.join(map(quoted, key))})")
    connection.execute(f"CREATE TABLE IF NOT EXISTS {quoted(table)} ({', '.join(parts)})")


class RecordWriter:
    """Writes records into one table."""

    def __init__(self, table: str, columns: Sequence[TableColumn], on_conflict: OnConflict) -> None:
        self._table = table
        self._columns = {each.name: each for each in columns}
        self._required = frozenset(each.name for each in columns if each.is_required)
        self._on_conflict = on_conflict
        self._statements: dict[tuple[str, ...], str] = {}

    def check(self, record: Record) -> Accepted | Rejection:
        """The record as it will be written, or why it will not."""
        fields = record.fields
        if not fields:
            return _reject(record, "EMPTY_RECORD", "has no fields")
        values: dict[str, Cell] = {}
        for name, raw in fields.items():
            column = self._columns.get(name)
            if column is None:
                return _reject(record, "UNKNOWN_FIELD", f"table {self._table} has no column {name}", name)
            try:
                value = cell_of(raw)
            except (TypeError, ValueError) as error:
                return _reject(record, "TYPE_MISMATCH", str(error), name)
            if isinstance(value, int) and not -_INT64 <= value < _INT64:
                return _reject(record, "OUT_OF_RANGE", "does not fit into 64 bits", name)
            if isinstance(value, float) and not math.isfinite(value):
                return _reject(record, "OUT_OF_RANGE", "is not a finite number", name)
            if value is None and name in self._required:
                return _reject(record, "MISSING_FIELD", f"column {name} must not be null", name)
            if not fits(value, column.affinity):
                text = f"column {name} is {column.affinity}, the value is {type_name(value)}"
                return _reject(record, "TYPE_MISMATCH", text, name)
            values[name] = value
        for name in self._required:
            if name not in fields:
                return _reject(record, "MISSING_FIELD", f"column {name} must have a value", name)
        # In the order of the columns: that of a message is not kept on the wire, and neighbours of one shape are written together.
        names = tuple(name for name in self._columns if name in values)
        return Accepted(record, names, tuple(values[name] for name in names))

    def write(self, connection: sqlite3.Connection, batch: Sequence[Accepted]) -> BatchResult:
        """Write a batch in one transaction. Raises sqlite3.Error, with nothing of the batch written."""
        result = BatchResult()
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Only neighbours are grouped: for `update`, the order of records decides.
            for names, group in itertools.groupby(batch, key=lambda each: each.names):
                self._write_group(connection, names, list(group), result)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result

    def _write_group(
        self, connection: sqlite3.Connection, names: tuple[str, ...], group: list[Accepted], result: BatchResult
    ) -> None:
        statement = self._statement(names)
        connection.execute("SAVEPOINT grp")
        try:
            changed = connection.executemany(statement, [each.values for each in group]).rowcount
        except sqlite3.IntegrityError:
            # Rare: find the bad ones by writing each alone.
            connection.execute("ROLLBACK TO grp")
            changed = self._write_singly(connection, statement, group, result)
        else:
            result.ignored += len(group) - changed
        connection.execute("RELEASE grp")
        result.written += changed

    def _write_singly(
        self, connection: sqlite3.Connection, statement: str, group: list[Accepted], result: BatchResult
    ) -> int:
        written = 0
        for each in group:
            try:
                changed = connection.execute(statement, each.values).rowcount
            except sqlite3.IntegrityError as error:
                result.rejected.append(_reject(each.record, "CONSTRAINT", str(error)))
            else:
                written += changed
                result.ignored += 1 - changed
        return written

    def _statement(self, names: tuple[str, ...]) -> str:
        statement = self._statements.get(names)
        if statement is None:
            if len(self._statements) >= 64:
                self._statements.clear()  # senders decide on the shapes, so their number must be bounded
            columns = ", ".join(map(quoted, names))
            statement = f"INSERT INTO {quoted(self._table)} ({columns}) VALUES ({', '.join('?' * len(names))})"
            if self._on_conflict == "ignore":
                statement += " ON CONFLICT DO NOTHING"
            elif self._on_conflict == "update":
                changes = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in names)
                statement += f" ON CONFLICT DO UPDATE SET {changes}"
            self._statements[names] = statement
        return statement


def cell_of(raw: Any) -> Cell:
    """A field's value as SQLite is given it. Raises ValueError for lists and for objects that are not typed values."""
    if raw is None or isinstance(raw, int | float | str):
        return int(raw) if isinstance(raw, bool) else raw
    if isinstance(raw, dict) and len(raw) == 1:
        model = _TYPED.get(next(iter(raw)))
        if model is not None:
            try:
                return bound(cast("SqlValue", model.model_validate(raw)))
            except ValidationError as error:
                raise ValueError(error.errors()[0]["msg"]) from None
    msg = 'is neither null, boolean, number, text, {"int64": …}, {"base64": …} nor {"double": …}'
    raise ValueError(msg)


def fits(value: Cell, column: str) -> bool:
    """Whether a column of that affinity takes the value without changing its kind."""
    if value is None or column in ("BLOB", "NUMERIC"):
        return True
    if column == "INTEGER":
        return isinstance(value, int)
    if column == "REAL":
        return isinstance(value, int | float)
    return isinstance(value, str)


def type_name(value: Cell) -> str:
    """The kind of a value, in SQLite's words."""
    if value is None:
        return "NULL"
    return {int: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB"}[type(value)]


def _reject(record: Record, reason: str, message: str, field: str = "") -> Rejection:
    return Rejection(record.index, record.record_id, reason, message, field)
