"""Between the messages of agent.v1 and the words of the core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf import duration_pb2, struct_pb2

from agent_server.agents.declare import AgentSpec, IngestOutput, Kind
from agent_server.core.events import Event, Level, Log, Outcome, Partial, Progress, Record, Started
from agent_server.service.api import agent_pb2 as pb

if TYPE_CHECKING:
    from agent_server.core.failure import Failure
    from agent_server.core.table import Cell, Table

_EXACT = 2**53
"""Whole numbers up to here are exact as the doubles of a Struct."""

_LEVELS = {
    Level.DEBUG: pb.LOG_LEVEL_DEBUG,
    Level.INFO: pb.LOG_LEVEL_INFO,
    Level.WARNING: pb.LOG_LEVEL_WARNING,
    Level.ERROR: pb.LOG_LEVEL_ERROR,
}
_KINDS = {Kind.EXECUTE: pb.OPERATION_KIND_EXECUTE, Kind.INGEST: pb.OPERATION_KIND_INGEST}


def from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as Python values; whole numbers that are exact become integers."""
    return {name: _from_value(value) for name, value in struct.fields.items()}


def _from_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(each) for each in value.list_value.values]
        case _:
            return None


def to_struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """Values of JSON as a Struct."""
    struct = struct_pb2.Struct()
    for name, value in values.items():
        _fill(struct.fields[name], value)
    return struct


def _fill(target: struct_pb2.Value, value: Any) -> None:
    if value is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, Mapping):
        target.struct_value.SetInParent()
        for name, each in value.items():
            _fill(target.struct_value.fields[name], each)
    elif isinstance(value, Sequence):
        target.list_value.SetInParent()
        for each in value:
            _fill(target.list_value.values.add(), each)
    else:
        msg = f"{type(value).__name__} is no value of JSON"
        raise TypeError(msg)


def to_table(table: Table) -> pb.Table:
    """Rows as a message."""
    message = pb.Table(columns=[pb.Column(name=each.name, declared_type=each.declared_type) for each in table.columns])
    for row in table.rows:
        cells = message.rows.add().cells
        for cell in row:
            _fill_cell(cells.add(), cell)
    return message


def _fill_cell(target: pb.Cell, cell: Cell) -> None:
    match cell:
        case None:
            target.null_value = struct_pb2.NULL_VALUE  # type: ignore[assignment]
        case int():
            target.integer_value = cell
        case float():
            target.real_value = cell
        case str():
            target.text_value = cell
        case bytes():
            target.blob_value = cell


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Seconds as a message."""
    fraction, whole = math.modf(seconds)
    return duration_pb2.Duration(seconds=int(whole), nanos=int(fraction * 1e9))


def to_result(outcome: Outcome) -> pb.ExecuteResult:
    """What came out, as a message."""
    return pb.ExecuteResult(
        execution_id=outcome.execution_id,
        agent=outcome.agent,
        operation=outcome.operation,
        output=to_struct(outcome.output),
        table=None if outcome.table is None else to_table(outcome.table),
        elapsed=to_duration(outcome.elapsed),
        replayed=outcome.replayed,
    )


def to_event(event: Event | Outcome, sequence: int, wall: float) -> pb.ExecuteStreamResponse:
    """An event as a message; `wall` is the time in seconds since the epoch."""
    message = pb.ExecuteStreamResponse(sequence=sequence)
    message.occurred_at.FromNanoseconds(int(wall * 1e9))
    match event:
        case Started():
            message.started.execution_id = event.execution_id
            message.started.agent = event.agent
            message.started.operation = event.operation
        case Progress():
            message.progress.completed = event.completed
            message.progress.total = event.total
            message.progress.unit = event.unit
            message.progress.message = event.message
        case Log():
            message.log.level = _LEVELS[event.level]
            message.log.message = event.message
        case Partial():
            message.partial.item = event.item
            if event.output is not None:
                message.partial.output.CopyFrom(to_struct(event.output))
            if event.table is not None:
                message.partial.table.CopyFrom(to_table(event.table))
        case Outcome():
            message.result.CopyFrom(to_result(event))
    return message


def to_record(record: pb.IngestRecord, index: int) -> Record:
    """A record of an Ingest stream."""
    return Record(index, record.record_id, from_struct(record.fields), record.ByteSize())


def to_summary(output: IngestOutput, execution_id: str, elapsed: float) -> pb.IngestResponse:
    """What became of the records, as a message."""
    return pb.IngestResponse(
        execution_id=execution_id,
        received_count=output.received,
        written_count=output.written,
        ignored_count=output.ignored,
        rejected_count=output.rejected,
        batch_count=output.batches,
        rejected_records=[
            pb.RejectedRecord(
                index=each.index,
                record_id=each.record_id,
                reason=each.reason,
                message=each.message,
                field=each.field,
            )
            for each in output.rejected_records
        ],
        elapsed=to_duration(elapsed),
    )


def to_turn_error(failure: Failure) -> pb.TurnError:
    """Why a turn failed, as a message."""
    number: int = failure.code.value[0]
    return pb.TurnError(
        code=number,
        message=failure.message,
        reason=failure.reason,
        metadata=failure.metadata,
        field_violations=[
            pb.FieldViolation(field=each.field, description=each.description) for each in failure.violations
        ],
    )


def to_description(spec: AgentSpec) -> pb.AgentDescription:
    """What an agent can do, as a message."""
    return pb.AgentDescription(
        name=spec.name,
        summary=spec.summary,
        operations=[
            pb.OperationDescription(
                name=each.name,
                summary=each.summary,
                kind=_KINDS[each.kind],
                read_only=each.read_only,
                text_parameter=each.text_parameter,
                input_schema=to_struct(each.input_model.model_json_schema()),
                output_schema=to_struct(each.output_model.model_json_schema(mode="serialization")),
            )
            for each in spec.operations.values()
        ],
    )
