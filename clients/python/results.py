"""What calls give: messages of agent.v1 as plain Python values."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf import struct_pb2

from clients.python.failure import CallFailure, from_turn_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clients.python.api import agent_pb2 as pb

Cell = None | int | float | str | bytes
_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with their exact types."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def as_dicts(self) -> list[dict[str, Cell]]:
        """Each row by column name; of columns with one name, the last."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of an operation."""

    execution_id: str
    agent: str
    operation: str
    output: dict[str, Any]
    table: Table | None
    elapsed: float
    """Seconds on the server."""
    replayed: bool
    version: str = ""
    """Label of the deployment that answered."""

    def rows(self) -> list[dict[str, Cell]]:
        """The rows by column name; none where the operation gives no rows."""
        return [] if self.table is None else self.table.as_dicts()


@dataclass(frozen=True, slots=True)
class Started:
    """Work began."""

    execution_id: str
    agent: str
    operation: str


@dataclass(frozen=True, slots=True)
class Progress:
    """`completed` of `total` items (0 = nobody knows) are done."""

    completed: int
    total: int
    unit: str
    message: str


@dataclass(frozen=True, slots=True)
class Log:
    """A remark; `level` is debug, info, warning or error."""

    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Partial:
    """A part of the result."""

    item: str
    output: dict[str, Any] | None
    table: Table | None


Event = Started | Progress | Log | Partial | Result


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that was not stored, and why."""

    index: int
    record_id: str
    reason: str
    message: str
    field: str


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What became of the records."""

    execution_id: str
    received: int
    written: int
    ignored: int
    rejected: int
    batches: int
    rejected_records: tuple[Rejected, ...]
    """The first of them."""
    elapsed: float
    """Seconds on the server."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The caller's turn of a conversation."""

    text: str = ""
    operation: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    agent: str = ""
    session_id: str = ""
    turn_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The agent's turn: either a result or a failure."""

    session_id: str
    turn_id: str
    turn: int
    result: Result | None
    failure: CallFailure | None


def to_struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """Values of JSON, and bytes and large integers in the form agents take them, as a Struct."""
    struct = struct_pb2.Struct()
    struct.update({name: _plain(value) for name, value in values.items()})
    return struct


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, int) and abs(value) > _EXACT:
        return {"int64": str(value)}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as Python values; whole numbers that are exact become integers."""
    return {name: _from_value(value) for name, value in struct.fields.items()}


def _from_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(each) for each in value.list_value.values]
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def to_table(message: pb.Table) -> Table:
    """A table of a result."""
    rows = tuple(tuple(_cell(cell) for cell in row.cells) for row in message.rows)
    return Table(tuple(each.name for each in message.columns), rows)


def _cell(cell: pb.Cell) -> Cell:
    kind = cell.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    value: Cell = getattr(cell, kind)
    return value


def to_result(message: pb.ExecuteResult, version: str = "") -> Result:
    """What came out of an operation."""
    return Result(
        message.execution_id,
        message.agent,
        message.operation,
        from_struct(message.output),
        to_table(message.table) if message.HasField("table") else None,
        message.elapsed.ToNanoseconds() / 1e9,
        message.replayed,
        version,
    )


def to_event(message: pb.ExecuteStreamResponse, version: str = "") -> Event | None:
    """What happened; None for a kind of event that this client does not know."""
    match message.WhichOneof("event"):
        case "started":
            return Started(message.started.execution_id, message.started.agent, message.started.operation)
        case "progress":
            told = message.progress
            return Progress(told.completed, told.total, told.unit, told.message)
        case "log":
            return Log(_LEVELS.get(message.log.level, "info"), message.log.message)
        case "partial":
            part = message.partial
            output = from_struct(part.output) if part.HasField("output") else None
            return Partial(part.item, output, to_table(part.table) if part.HasField("table") else None)
        case "result":
            return to_result(message.result, version)
        case _:
            return None


_LEVELS = {1: "debug", 2: "info", 3: "warning", 4: "error"}


def to_summary(message: pb.IngestResponse) -> IngestSummary:
    """What became of the records."""
    return IngestSummary(
        message.execution_id,
        message.received_count,
        message.written_count,
        message.ignored_count,
        message.rejected_count,
        message.batch_count,
        tuple(
            Rejected(each.index, each.record_id, each.reason, each.message, each.field)
            for each in message.rejected_records
        ),
        message.elapsed.ToNanoseconds() / 1e9,
    )


def to_answer(message: pb.ConverseResponse, version: str = "") -> Answer:
    """The agent's turn."""
    is_good = message.WhichOneof("outcome") == "result"
    return Answer(
        message.session_id,
        message.turn_id,
        message.turn,
        to_result(message.result, version) if is_good else None,
        None if is_good else from_turn_error(message.error),
    )
