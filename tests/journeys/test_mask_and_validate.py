"""Masking and validation with real processes: what a caller gets and is told, with descriptors of a file and of the agent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from agent_server.service.api import agent_pb2, agent_pb2_grpc
from tests.journeys.agent_process import AgentProcess
from tests.support.descriptors import agent_set, compiled
from tests.support.processes import ROOT, Sidecar

LIMIT = 20.0
SECRET = "planted-in-a-cell"
CONFIG = """
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
policies:
  mask: {{descriptors: {source}, fields: [{fields}], in: [responses]}}
  validate:
    descriptors: {source}
    rules:
      agent.v1.ExecuteRequest.operation: {{required: true}}
      parameters.sql: {{required: true, max_length: 200, pattern: "SELECT .*"}}
clusters:
  local: {{endpoints: ["{agent}"]}}
"""
FIELDS = "agent.v1.Cell.text_value, password"


class Mesh:
    """An agent behind a sidecar, and a caller."""

    def __init__(self, folder: Path, agent: AgentProcess, source: str = "agent.binpb", fields: str = FIELDS) -> None:
        (folder / "agent.binpb").write_bytes(agent_set())
        self.folder = folder
        self.sidecar = Sidecar(CONFIG.format(source=source, fields=fields, agent=agent.address), folder)
        self.sidecar.start()
        self.channel = grpc.insecure_channel(self.sidecar.addresses["inbound"], [("grpc.enable_retries", 0)])
        self.stub = agent_pb2_grpc.AgentServiceStub(self.channel)

    def query(self, sql: str, **options: Any) -> Any:
        request = agent_pb2.ExecuteRequest(operation="query")
        request.parameters["sql"] = sql
        return self.stub.Execute(request, timeout=LIMIT, **options)

    def close(self) -> None:
        self.channel.close()
        self.sidecar.stop()


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    with AgentProcess() as started:
        yield started


@pytest.fixture(scope="module")
def mesh(agent: AgentProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    made = Mesh(tmp_path_factory.mktemp("mesh"), agent)
    try:
        yield made
    finally:
        made.close()


def cells(response: Any) -> list[Any]:
    return [getattr(cell, cell.WhichOneof("kind")) for row in response.result.table.rows for cell in row.cells]


def refusal(error: Any) -> tuple[Any, str, dict[str, str]]:
    """(code, reason, violations) as a caller reads them."""
    status = rpc_status.from_call(error)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    assert dict(error.trailing_metadata())["x-sidecar-origin"] == "sidecar"
    return error.code(), info.reason, {each.field: each.description for each in bad.field_violations}


def test_a_field_of_an_answer_is_masked(mesh: Mesh) -> None:
    response = mesh.query(f"SELECT '{SECRET}' AS token, 5 AS n")
    assert cells(response) == ["***", 5]
    assert SECRET.encode() not in response.SerializeToString()
    assert [column.name for column in response.result.table.columns] == ["token", "n"]


def test_each_message_of_a_stream_is_masked(mesh: Mesh) -> None:
    request = agent_pb2.ExecuteStreamRequest(operation="query")
    request.parameters["sql"] = f"SELECT '{SECRET}' AS token"
    events = list(mesh.stub.ExecuteStream(request, timeout=LIMIT))
    assert events[-1].WhichOneof("event") == "result"
    assert all(SECRET.encode() not in each.SerializeToString() for each in events)
    assert b"***" in b"".join(each.SerializeToString() for each in events)


def test_a_conversation_goes_on_through_both(mesh: Mesh) -> None:
    def turns() -> Iterator[Any]:
        for i in range(3):
            turn = agent_pb2.ConverseRequest(turn_id=str(i), operation="query")
            turn.parameters["sql"] = f"SELECT '{SECRET}{i}' AS token"
            yield turn

    answers = list(mesh.stub.Converse(turns(), timeout=LIMIT))
    assert [each.turn_id for each in answers] == ["0", "1", "2"]
    assert [cells(each) for each in answers] == [["***"]] * 3


def test_a_message_that_breaks_rules_is_refused_with_all_of_them(mesh: Mesh) -> None:
    request = agent_pb2.ExecuteRequest()
    request.parameters["sql"] = f"DROP TABLE {SECRET}" + " " * 200
    with pytest.raises(grpc.RpcError) as raised:
        mesh.stub.Execute(request, timeout=LIMIT)
    code, reason, violations = refusal(raised.value)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MESSAGE")
    assert set(violations) == {"operation", "parameters.sql"}
    assert violations["operation"] == "is required"
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_validated_and_pass(mesh: Mesh, compression: Any) -> None:
    assert cells(mesh.query("SELECT 7 AS n" + " " * 150, compression=compression)) == [7]
    with pytest.raises(grpc.RpcError) as raised:
        mesh.query("SELECT 7 AS n" + " " * 190, compression=compression)
    assert refusal(raised.value)[2] == {"parameters.sql": "must have at most 200 characters"}


def test_bytes_that_are_no_message_are_refused(mesh: Mesh) -> None:
    method = mesh.channel.unary_unary("/agent.v1.AgentService/Execute")
    with pytest.raises(grpc.RpcError) as raised:
        method(b"\xff\xff\xff", timeout=LIMIT)
    code, reason, violations = refusal(raised.value)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_MESSAGE")
    assert violations == {"": "the message does not parse as agent.v1.ExecuteRequest"}


def test_a_method_without_descriptors_is_refused_and_health_is_not(mesh: Mesh) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        mesh.channel.unary_unary("/other.v1.Service/Method")(b"", timeout=LIMIT)
    assert refusal(raised.value)[:2] == (grpc.StatusCode.INTERNAL, "CANNOT_MASK")
    health = health_pb2_grpc.HealthStub(mesh.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_what_was_refused_and_masked_is_counted_and_not_logged(mesh: Mesh) -> None:
    mesh.query(f"SELECT '{SECRET}' AS token")
    metrics = mesh.sidecar.get("/metrics")[1]
    assert 'sidecar_messages_masked_total{listener="inbound",route="all"}' in metrics
    assert SECRET not in metrics
    assert SECRET not in mesh.sidecar.text


def test_a_changed_file_is_taken_while_running_and_a_broken_one_is_not(agent: AgentProcess, tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, agent, fields="agent.v1.Cell.text_value")
    file = tmp_path / "agent.binpb"
    try:
        file.write_bytes(compiled('syntax = "proto3"; package other; message M { string a = 1; }'))
        line = mesh.sidecar.wait_for_log(lambda each: "not reloaded" in each.get("event", ""))
        assert "agent.v1.Cell.text_value" in str(line)
        assert cells(mesh.query(f"SELECT '{SECRET}' AS token")) == ["***"]
        # The same names under other numbers: what was text of a cell is not any more.
        source = (ROOT / "protos/agent/v1/agent.proto").read_text()
        assert "string text_value = 4;" in source
        file.write_bytes(
            compiled(source.replace("string text_value = 4;", "string text_value = 44; string plain = 4;"))
        )
        mesh.sidecar.wait_for_log(lambda each: each.get("event") == "lists reloaded")
        assert cells(mesh.query("SELECT 'seen' AS token")) == ["seen"]
    finally:
        mesh.close()


def test_descriptors_of_the_agent_itself(tmp_path: Path) -> None:
    agent = AgentProcess()
    agent.start()
    agent.stop()
    # The address is known, and nobody is there yet.
    mesh = Mesh(tmp_path, agent, source="reflection")
    try:
        with pytest.raises(grpc.RpcError) as raised:
            mesh.query("SELECT 1 AS n")
        code, reason, _ = refusal(raised.value)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "AGENT_NOT_READY")
        agent.start()
        mesh.sidecar.wait_for_log(lambda each: each.get("event") == "descriptors fetched from the agent", 30)
        assert cells(mesh.query(f"SELECT '{SECRET}' AS token, 5 AS n")) == ["***", 5]
        with pytest.raises(grpc.RpcError) as raised:
            mesh.query("DELETE")
        assert refusal(raised.value)[2] == {"parameters.sql": "must match SELECT .*"}
    finally:
        mesh.close()
        agent.stop()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ("agent.v1.Cell.text_valu", "did you mean `text_value`"),
        ("agent.v1.Cel.text_value", "did you mean `agent.v1.Cell.text_value`"),
    ],
)
def test_a_field_that_is_misspelt_is_told_before_anything_starts(tmp_path: Path, fields: str, what: str) -> None:
    (tmp_path / "agent.binpb").write_bytes(agent_set())
    path = tmp_path / "sidecar.yaml"
    path.write_text(CONFIG.format(source="agent.binpb", fields=fields, agent="127.0.0.1:1"))
    found = subprocess.run(
        [sys.executable, "-m", "sidecar.cli.main", "validate", "-c", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert what in found.stderr
