"""Messages as plain values."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import struct_pb2

from clients.python.api import agent_pb2 as pb
from clients.python.failure import CallFailure
from clients.python.results import (
    Log,
    Partial,
    Progress,
    Result,
    Started,
    Table,
    from_struct,
    to_answer,
    to_event,
    to_struct,
    to_table,
)


def test_values_that_json_cannot_keep_go_in_the_form_agents_take() -> None:
    struct = to_struct({"a": b"\xff", "b": 2**60, "c": [(-(2**60), {"d": b""})], "e": 5})
    assert from_struct(struct) == {
        "a": {"base64": "/w=="},
        "b": {"int64": str(2**60)},
        "c": [[{"int64": str(-(2**60))}, {"d": {"base64": ""}}]],
        "e": 5,
    }


def test_cells_keep_their_type() -> None:
    cells = [
        pb.Cell(null_value=struct_pb2.NULL_VALUE),
        pb.Cell(integer_value=2**63 - 1),
        pb.Cell(real_value=1.0),
        pb.Cell(text_value="x"),
        pb.Cell(blob_value=b"\xff"),
        pb.Cell(),
    ]
    table = to_table(pb.Table(columns=[pb.Column(name=str(n)) for n in range(6)], rows=[pb.Row(cells=cells)]))
    assert table.rows == ((None, 2**63 - 1, 1.0, "x", b"\xff", None),)
    assert isinstance(table.rows[0][2], float)
    assert table.as_dicts()[0]["3"] == "x"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (pb.ExecuteStreamResponse(started=pb.ExecutionStarted()), Started),
        (pb.ExecuteStreamResponse(progress=pb.ExecutionProgress(completed=1)), Progress),
        (pb.ExecuteStreamResponse(log=pb.ExecutionLog(level=pb.LOG_LEVEL_ERROR)), Log),
        (pb.ExecuteStreamResponse(partial=pb.ExecutionPartial(table=pb.Table())), Partial),
        (pb.ExecuteStreamResponse(result=pb.ExecuteResult()), Result),
        (pb.ExecuteStreamResponse(), type(None)),
    ],
)
def test_events(message: Any, kind: Any) -> None:
    assert type(to_event(message)) is kind


def test_parts_have_what_was_set() -> None:
    partial = to_event(pb.ExecuteStreamResponse(partial=pb.ExecutionPartial(item="i", table=pb.Table())))
    assert partial == Partial("i", None, Table((), ()))


def test_a_turn_is_a_result_or_a_failure() -> None:
    good = to_answer(pb.ConverseResponse(session_id="s", turn=1, result=pb.ExecuteResult(operation="query")), "v1")
    bad = to_answer(pb.ConverseResponse(session_id="s", turn=2, error=pb.TurnError(code=3, message="m")))
    assert good.result is not None
    assert (good.result.operation, good.result.version, good.failure) == ("query", "v1", None)
    assert bad.result is None
    assert isinstance(bad.failure, CallFailure)


def test_a_result_without_rows() -> None:
    assert Result("", "", "", {}, None, 0.0, replayed=False).rows() == []
