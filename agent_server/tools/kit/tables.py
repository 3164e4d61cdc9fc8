"""Databases and CSV."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any, Literal

from grpc import StatusCode
from pydantic import Field, StringConstraints

from agent_server.agents.declare import Input, Output
from agent_server.core.failure import Failure
from agent_server.tools.declare import LITERAL, Use, tool

Sql = Annotated[str, Field(min_length=1, max_length=200_000, json_schema_extra=LITERAL)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
ColumnType = Literal["INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC"]


class QueryInput(Input):
    """A statement that reads, with `:name` where values go."""

    sql: Sql
    params: dict[str, Any] = Field(default_factory=dict)
    database: str = Field(default="", description="Name of a configured database; empty: the embedded one.")
    limit: int = Field(default=10_000, ge=1, le=1_000_000)


class QueryOutput(Output):
    """What was read."""

    rows: list[dict[str, Any]]
    truncated: bool


class ChangeInput(Input):
    """A statement that changes, with `:name` where values go; run for each set of values."""

    sql: Sql
    params: dict[str, Any] = Field(default_factory=dict)
    many: list[dict[str, Any]] = Field(default_factory=list, max_length=100_000)
    database: str = ""


class InsertInput(Input):
    """Rows to insert."""

    table: str = Field(min_length=1, max_length=128)
    rows: list[dict[str, Any]] = Field(max_length=1_000_000)
    database: str = ""
    batch_size: int = Field(default=1000, ge=1, le=10_000)
    on_conflict: Literal["reject", "ignore", "update"] = Field(
        default="reject", description="What becomes of a row that is there already, by the columns of `key`."
    )
    key: list[Identifier] = Field(default_factory=list)


class CreateInput(Input):
    """A table that is to be there."""

    table: Identifier
    columns: dict[Identifier, ColumnType] | list[Identifier] = Field(
        min_length=1, description="Type by name, or the names alone: all of them TEXT."
    )
    key: list[Identifier] = Field(default_factory=list, description="Its primary key.")
    database: str = ""


class Created(Output):
    """What was done."""

    was_created: bool


class Changed(Output):
    """What was changed."""

    affected_rows: int
    was_done: bool = Field(description="It had been done before, under the same key; nothing was done now.")


class CsvInput(Input):
    """A CSV text with a header."""

    text: str
    delimiter: str = Field(default=",", min_length=1, max_length=1)


class CsvOutput(Output):
    """Its rows."""

    rows: list[dict[str, str]]


@tool("database.query", changes=False)
async def query(request: QueryInput, use: Use) -> QueryOutput:
    """Reads rows."""
    table, is_more = await use.tools.warehouse.query(request.database, request.sql, request.params, request.limit)
    names = [column.name for column in table.columns]
    rows = [
        {
            name: cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
            for name, cell in zip(names, row, strict=True)
        }
        for row in table.rows
    ]
    return QueryOutput(rows=rows, truncated=is_more)


@tool("database.execute", changes=True)
async def execute(request: ChangeInput, use: Use) -> Changed:
    """Changes a database in one transaction, once under the step's key."""
    sets = request.many or ([request.params] if request.params else [])
    affected, was_done = await use.tools.warehouse.change(
        request.database, request.sql, sets, key=use.idempotency_key, at=use.tools.wall()
    )
    return Changed(affected_rows=affected, was_done=was_done)


@tool("database.insert", changes=True)
async def insert(request: InsertInput, use: Use) -> Changed:
    """Inserts rows in batches in one transaction, once under the step's key."""
    affected, was_done = await use.tools.warehouse.insert(
        request.database,
        request.table,
        request.rows,
        key=use.idempotency_key,
        at=use.tools.wall(),
        batch=request.batch_size,
        on_conflict=request.on_conflict,
        unique=request.key,
    )
    return Changed(affected_rows=affected, was_done=was_done)


@tool("database.create", changes=True)
async def create(request: CreateInput, use: Use) -> Created:
    """Creates a table unless there is one of that name."""
    columns: dict[str, ColumnType] = (
        request.columns if isinstance(request.columns, dict) else dict.fromkeys(request.columns, "TEXT")
    )
    return Created(was_created=await use.tools.warehouse.create(request.database, request.table, columns, request.key))


@tool("csv.read", changes=False)
async def read_csv(request: CsvInput, use: Use) -> CsvOutput:
    """Reads the rows of a CSV text."""
    reader = csv.DictReader(io.StringIO(request.text, newline=""), delimiter=request.delimiter, strict=True)
    rows: list[dict[str, str]] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                text = f"line {reader.line_num}: has {'more' if None in row else 'fewer'} fields than the header"
                raise Failure(StatusCode.INVALID_ARGUMENT, "BAD_CSV", text, metadata={"line": str(reader.line_num)})
            rows.append(row)
    except csv.Error as error:
        # DictReader's own number is that of the last row that was good.
        line = reader.reader.line_num
        text = f"line {line}: {error}"
        raise Failure(StatusCode.INVALID_ARGUMENT, "BAD_CSV", text, metadata={"line": str(line)}) from None
    return CsvOutput(rows=rows)
