"""What the service reads from messages and metadata, and the order it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from agent_server.service.agent_service import AgentService
from agent_server.service.api import agent_pb2 as pb
from agent_server.service.messages import from_struct, to_struct


class Context:
    """A ServicerContext that notes what is sent, in order."""

    def __init__(self, **metadata: str) -> None:
        self._metadata = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        self.sent: list[Any] = []

    def invocation_metadata(self) -> Any:
        return self._metadata

    def set_trailing_metadata(self, trailers: Any) -> None:
        pass

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.sent.append(("headers", dict(metadata)))

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.sent.append(("status", code, details))
        raise grpc.aio.AbortError


@pytest.fixture
def service(desk: Any) -> AgentService:
    return AgentService(desk.executor, version="v9", wall=lambda: 0.0, new_id=lambda: "made")


def aborted(runner: asyncio.Runner, context: Context, work: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AbortError):
        runner.run(work)
    # A refusal stays Trailers-Only: no headers went before it.
    assert [each[0] for each in context.sent] == ["status"]
    return context.sent[0][1:]


async def stream(*messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def drain(answers: AsyncIterator[Any]) -> list[Any]:
    return [answer async for answer in answers]


def test_a_good_call_sends_its_version_early(service: AgentService, runner: asyncio.Runner) -> None:
    context: Any = Context()
    response = runner.run(service.Execute(pb.ExecuteRequest(task="SELECT 1 AS a"), context))
    assert context.sent == [("headers", {"x-agent-version": "v9"})]
    assert response.result.table.columns[0].name == "a"


@pytest.mark.parametrize(
    ("in_message", "in_metadata", "field"),
    [
        ("a", "b", "idempotency_key"),
        ("a b", "", "idempotency_key"),
        ("ä", "", "idempotency_key"),
        ("a" * 256, "", "idempotency_key"),
        ("", "a b", "idempotency_key"),
    ],
)
def test_keys_that_are_none(
    service: AgentService, runner: asyncio.Runner, in_message: str, in_metadata: str, field: str
) -> None:
    context: Any = Context(**({"idempotency_key": in_metadata} if in_metadata else {}))
    request = pb.ExecuteRequest(task="SELECT 1", idempotency_key=in_message)
    code, message = aborted(runner, context, service.Execute(request, context))
    assert (code, message.startswith(field)) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("where", ["message", "metadata", "both"])
def test_a_key_may_come_either_way(service: AgentService, runner: asyncio.Runner, desk: Any, where: str) -> None:
    desk.order("execute", sql="CREATE TABLE t (a)")
    replayed = []
    for _ in range(2):
        context: Any = Context(**({"idempotency_key": "k"} if where != "message" else {}))
        request = pb.ExecuteRequest(
            operation="execute",
            parameters=to_struct({"sql": "INSERT INTO t VALUES (1)"}),
            idempotency_key="k" if where != "metadata" else "",
        )
        replayed.append(runner.run(service.Execute(request, context)).result.replayed)
    assert replayed == [False, True]


def test_sessions_belong_to_the_caller_the_sidecar_verified(service: AgentService, runner: asyncio.Runner) -> None:
    first: Any = Context(x_sidecar_identity="spiffe://d/a")
    runner.run(service.Execute(pb.ExecuteRequest(task="SELECT 1", session_id="s"), first))
    other: Any = Context(x_sidecar_identity="spiffe://d/b")
    code, _ = aborted(runner, other, service.Execute(pb.ExecuteRequest(operation="recall", session_id="s"), other))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("session_id", ["x" * 256, "a\nb"])
def test_session_ids_that_are_none(service: AgentService, runner: asyncio.Runner, session_id: str) -> None:
    context: Any = Context()
    request = pb.ExecuteRequest(task="SELECT 1", session_id=session_id)
    assert aborted(runner, context, service.Execute(request, context))[0] is grpc.StatusCode.INVALID_ARGUMENT


TARGET = pb.IngestRequest(target=pb.IngestTarget(parameters=to_struct({"table": "t", "columns": {"a": "INTEGER"}})))


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "must be in the first message of the stream; it was empty"),
        ([pb.IngestRequest()], "must be in the first message of the stream"),
        ([pb.IngestRequest(record=pb.IngestRecord())], "must be in the first message of the stream"),
        ([TARGET, TARGET], "must be in the first message only"),
        ([TARGET, pb.IngestRequest()], "neither record nor batch is set"),
    ],
)
def test_ingest_streams_out_of_order(
    service: AgentService, runner: asyncio.Runner, messages: list[Any], text: str
) -> None:
    context: Any = Context()
    code, message = aborted(runner, context, service.Ingest(stream(*messages), context))
    assert (code, text in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_records_are_numbered_over_single_ones_and_batches(service: AgentService, runner: asyncio.Runner) -> None:
    good, bad = (pb.IngestRecord(record_id=name, fields=to_struct({name: 1})) for name in ("a", "b"))
    messages = [
        TARGET,
        pb.IngestRequest(record=good),
        pb.IngestRequest(batch=pb.IngestBatch(records=[good, bad, good])),
        pb.IngestRequest(record=bad),
    ]
    context: Any = Context()
    summary = runner.run(service.Ingest(stream(*messages), context))
    assert (summary.received_count, summary.written_count) == (5, 3)
    assert [(each.index, each.record_id, each.field) for each in summary.rejected_records] == [
        (2, "b", "b"),
        (4, "b", "b"),
    ]


def test_turns_keep_their_session_and_go_on_after_a_failure(service: AgentService, runner: asyncio.Runner) -> None:
    turns = [
        pb.ConverseRequest(text="SELECT 1"),
        pb.ConverseRequest(operation="nothing", turn_id="t"),
        pb.ConverseRequest(operation="recall"),
    ]
    context: Any = Context()
    answers = runner.run(drain(service.Converse(stream(*turns), context)))
    assert [each.session_id for each in answers] == ["made"] * 3
    assert [each.WhichOneof("outcome") for each in answers] == ["result", "error", "result"]
    assert (answers[1].error.code, answers[1].error.reason, answers[1].turn_id) == (3, "OPERATION_UNKNOWN", "t")


def test_a_defect_in_a_turn_tells_nothing_and_ends_nothing(
    service: AgentService, runner: asyncio.Runner, desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(desk.tools.database, "reading", broken)
    context: Any = Context()
    turns = [pb.ConverseRequest(text="SELECT 1"), pb.ConverseRequest(operation="recall")]
    answers = runner.run(drain(service.Converse(stream(*turns), context)))
    assert [each.error.reason for each in answers] == ["DEFECT", "NOTHING_TO_RECALL"]
    assert "secret" not in str(answers)


def test_describe(service: AgentService, runner: asyncio.Runner) -> None:
    context: Any = Context()
    response = runner.run(service.Describe(pb.DescribeRequest(), context))
    assert (response.version_label, [each.name for each in response.agents]) == ("v9", ["data"])
    schema = from_struct(response.agents[0].operations[0].input_schema)
    assert schema["additionalProperties"] is False
    nobody: Any = Context()
    code, _ = aborted(runner, nobody, service.Describe(pb.DescribeRequest(agent="nobody"), nobody))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_result_that_fits_into_no_message_says_so(desk: Any, runner: asyncio.Runner) -> None:
    service = AgentService(desk.executor, version="v9", wall=lambda: 0.0, new_id=lambda: "made", max_bytes=1000)
    request = pb.ExecuteRequest(operation="query", parameters=to_struct({"sql": "SELECT hex(zeroblob(1000))"}))
    context: Any = Context()
    code, said = aborted(runner, context, service.Execute(request, context))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "a message 1000" in said
