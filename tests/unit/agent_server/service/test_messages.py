"""Between messages and the words of the core."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from grpc import StatusCode

from agent_server.core.catalogue import load_specs
from agent_server.core.events import Level, Log, Outcome, Partial, Progress, Started
from agent_server.core.failure import Failure, Violation
from agent_server.core.table import Column, Table
from agent_server.service.api import agent_pb2 as pb
from agent_server.service.messages import (
    from_struct,
    to_description,
    to_duration,
    to_event,
    to_record,
    to_result,
    to_struct,
    to_table,
    to_turn_error,
)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": None, "b": True, "c": 1, "d": 1.5, "e": "ä", "f": [], "g": {}, "h": [1, [2, {"x": None}]]},
        {"big": 2**53, "small": -(2**53)},
    ],
)
def test_values_of_json_survive(values: dict[str, Any]) -> None:
    found = from_struct(to_struct(values))
    assert found == values
    assert {name: type(each) for name, each in found.items()} == {name: type(each) for name, each in values.items()}


def test_numbers_that_are_not_exact_stay_floating() -> None:
    assert isinstance(from_struct(to_struct({"a": 1e300}))["a"], float)


def test_what_is_no_value_of_json() -> None:
    with pytest.raises(TypeError, match="datetime is no value of JSON"):
        to_struct({"a": datetime.datetime.fromtimestamp(0, datetime.UTC)})


def test_cells_keep_their_type() -> None:
    message = to_table(Table((Column("a", "INT"),), ((None, -(2**63), 0.5, "x", b"\xff"),)))
    kinds = [cell.WhichOneof("kind") for cell in message.rows[0].cells]
    assert kinds == ["null_value", "integer_value", "real_value", "text_value", "blob_value"]
    assert message.columns[0].declared_type == "INT"


def test_durations() -> None:
    assert to_duration(2.5) == to_duration(2.5)
    assert (to_duration(2.5).seconds, to_duration(2.5).nanos) == (2, 500_000_000)


OUTCOME = Outcome("id", "data", "query", {"n": 1}, Table((Column("a"),), ((1,),)), 0.25, replayed=True)


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (Started("id", "data", "query"), "started"),
        (Progress(1, 2, "rows", "x"), "progress"),
        (Log(Level.ERROR, "x"), "log"),
        (Partial("i", {"a": 1}, OUTCOME.table), "partial"),
        (OUTCOME, "result"),
    ],
)
def test_events(event: Any, name: str) -> None:
    message = to_event(event, 7, 1.5)
    assert (message.sequence, message.WhichOneof("event")) == (7, name)
    assert message.occurred_at.ToNanoseconds() == 1_500_000_000


def test_a_result() -> None:
    message = to_result(OUTCOME)
    assert (message.replayed, message.table.rows[0].cells[0].integer_value) == (True, 1)
    assert not to_result(Outcome("id", "data", "fetch", {}, None, 0.0)).HasField("table")


def test_a_record_knows_its_size() -> None:
    record = to_record(pb.IngestRecord(record_id="r", fields=to_struct({"a": "x" * 100})), 3)
    assert (record.index, record.record_id, record.fields) == (3, "r", {"a": "x" * 100})
    assert record.size > 100


def test_a_failed_turn() -> None:
    failure = Failure(StatusCode.NOT_FOUND, "R", "m", metadata={"a": "b"}, violations=[Violation("f", "d")])
    message = to_turn_error(failure)
    assert (message.code, message.reason, dict(message.metadata)) == (5, "R", {"a": "b"})
    assert message.field_violations[0].field == "f"


def test_a_description_has_schemas() -> None:
    described = to_description(load_specs(["agent_server.agents.data"])[0])
    by_name = {each.name: each for each in described.operations}
    assert set(by_name) == {"execute", "fetch", "ingest", "query", "recall"}
    assert "sql" in from_struct(by_name["query"].input_schema)["properties"]
    assert by_name["ingest"].kind == pb.OPERATION_KIND_INGEST
    assert (by_name["query"].read_only, by_name["execute"].read_only) == (True, False)
