"""agent.v1.AgentService: messages in, the executor's work, messages out.

Every handler returns its answers or yields them; none writes to its context, so interceptors that wrap handlers keep working.
"""

# ruff: noqa: N802 - methods are named as in the proto

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from agent_server import __version__
from agent_server.agents.declare import Kind
from agent_server.core.executor import Executor, Order, Work
from agent_server.core.failure import Failure, invalid
from agent_server.service.answering import VERSION, Trailers, answering, defect, log
from agent_server.service.api import agent_pb2 as pb
from agent_server.service.messages import (
    from_struct,
    to_description,
    to_event,
    to_record,
    to_result,
    to_summary,
    to_turn_error,
)
from agent_server.service.ordering import IDENTITY, metadata_of, order_of, session_id_of
from agent_server.service.task_calls import TaskCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent_server.core.events import Record
    from agent_server.core.tasks import Tasks


class AgentService(TaskCalls):
    """The service."""

    def __init__(
        self,
        executor: Executor,
        *,
        version: str,
        wall: Callable[[], float],
        new_id: Callable[[], str],
        tasks: Tasks | None = None,
        max_bytes: int = 16 << 20,
    ) -> None:
        """`max_bytes`: of one message."""
        super().__init__(tasks, version=version)
        self._max_bytes = max_bytes
        self._executor = executor
        self._wall = wall
        self._new_id = new_id

    async def Execute(
        self, request: pb.ExecuteRequest, context: grpc.aio.ServicerContext[pb.ExecuteRequest, pb.ExecuteResponse]
    ) -> pb.ExecuteResponse:
        async with answering(context, self._version) as trailers:
            work = self._executor.prepare(order_of(request, context))
            trailers.charge(work.usage)
            outcome = await self._executor.run(work)
            response = pb.ExecuteResponse(result=to_result(outcome))
            self._check_size(response)
            await self._announce(context)
            return response

    async def ExecuteStream(
        self,
        request: pb.ExecuteStreamRequest,
        context: grpc.aio.ServicerContext[pb.ExecuteStreamRequest, pb.ExecuteStreamResponse],
    ) -> AsyncIterator[pb.ExecuteStreamResponse]:
        async with answering(context, self._version) as trailers:
            work = self._executor.prepare(order_of(request, context))
            trailers.charge(work.usage)
            await self._announce(context)
            sequence = 0
            async with aclosing(self._executor.stream(work)) as events:
                async for event in events:
                    sequence += 1
                    message = to_event(event, sequence, self._wall())
                    self._check_size(message)
                    yield message

    async def Ingest(
        self,
        request_iterator: AsyncIterator[pb.IngestRequest],
        context: grpc.aio.ServicerContext[pb.IngestRequest, pb.IngestResponse],
    ) -> pb.IngestResponse:
        async with answering(context, self._version) as trailers:
            requests = aiter(request_iterator)
            target = await _target(requests)
            work = self._executor.prepare(
                Order(
                    agent=target.agent,
                    operation=target.operation,
                    parameters=from_struct(target.parameters),
                    session_id=session_id_of(target.session_id),
                    identity=metadata_of(context, IDENTITY),
                ),
                Kind.INGEST,
            )
            trailers.charge(work.usage)
            output, elapsed = await self._executor.ingest(work, _records(requests))
            await self._announce(context)
            return to_summary(output, work.execution_id, elapsed)

    async def Converse(
        self,
        request_iterator: AsyncIterator[pb.ConverseRequest],
        context: grpc.aio.ServicerContext[pb.ConverseRequest, pb.ConverseResponse],
    ) -> AsyncIterator[pb.ConverseResponse]:
        async with answering(context, self._version) as trailers:
            await self._announce(context)
            session_id = ""
            number = 0
            async for turn in request_iterator:
                number += 1
                session_id = session_id_of(turn.session_id) or session_id or self._new_id()
                yield await self._answer(turn, number, session_id, metadata_of(context, IDENTITY), trailers)

    async def Describe(
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext[pb.DescribeRequest, pb.DescribeResponse]
    ) -> pb.DescribeResponse:
        async with answering(context, self._version):
            catalogue = self._executor.catalogue
            specs = [catalogue.agent(request.agent)] if request.agent else list(catalogue)
            response = pb.DescribeResponse(
                server_version=__version__,
                version_label=self._version,
                agents=[to_description(spec) for spec in specs],
            )
            await self._announce(context)
            return response

    async def _answer(
        self, turn: pb.ConverseRequest, number: int, session_id: str, identity: str, trailers: Trailers
    ) -> pb.ConverseResponse:
        response = pb.ConverseResponse(session_id=session_id, turn_id=turn.turn_id, turn=number)
        order = Order(
            task=turn.text,
            agent=turn.agent,
            operation=turn.operation,
            parameters=from_struct(turn.parameters),
            session_id=session_id,
            identity=identity,
        )
        try:
            work: Work = self._executor.prepare(order)
            trailers.charge(work.usage)
            response.result.CopyFrom(to_result(await self._executor.run(work)))
        except Failure as failure:
            response.error.CopyFrom(to_turn_error(failure))
        except Exception:
            log.exception("defect in a turn")
            response.error.CopyFrom(to_turn_error(defect()))
        return response

    def _check_size(self, message: pb.ExecuteResponse | pb.ExecuteStreamResponse) -> None:
        # grpc would end the call with a text about its own limits, of which the caller knows nothing.
        if (size := message.ByteSize()) > self._max_bytes:
            text = f"the result takes {size} bytes, a message {self._max_bytes}; ask for less, or for parts (ExecuteStream)"
            metadata = {"size": str(size), "limit": str(self._max_bytes)}
            raise Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "RESULT_TOO_LARGE", text, metadata=metadata)

    async def _announce(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        # Sent as soon as the call is known to be good and not before, so that a refusal stays Trailers-Only.
        await context.send_initial_metadata(((VERSION, self._version),))


async def _target(requests: AsyncIterator[pb.IngestRequest]) -> pb.IngestTarget:
    async for request in requests:
        if request.WhichOneof("payload") != "target":
            raise invalid("target", "must be in the first message of the stream", reason="TARGET_MISSING")
        return request.target
    raise invalid("target", "must be in the first message of the stream; it was empty", reason="TARGET_MISSING")


async def _records(requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[Record]:
    index = 0
    async for request in requests:
        match request.WhichOneof("payload"):
            case "record":
                yield to_record(request.record, index)
                index += 1
            case "batch":
                for record in request.batch.records:
                    yield to_record(record, index)
                    index += 1
            case "target":
                raise invalid("target", "must be in the first message only", reason="TARGET_REPEATED")
            case _:
                raise invalid("payload", "neither record nor batch is set", reason="EMPTY_MESSAGE")
