"""The calls about tasks: Submit, GetTask, ListTasks, CancelTask, WatchTask, RateTask, SummarizeRatings."""

# ruff: noqa: N802 - methods are named as in the proto

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import grpc

from agent_server.core.failure import Failure, invalid
from agent_server.core.tasks import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Numbered, Rating, Task, Tasks
from agent_server.service.answering import answering
from agent_server.service.api import agent_pb2 as pb
from agent_server.service.api import agent_pb2_grpc
from agent_server.service.messages import to_event, to_result, to_turn_error
from agent_server.service.ordering import IDENTITY, metadata_of, order_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

SCORE = "x-task-score"
"""Trailer of RateTask: the score, 1 to 5."""
SCORED_VERSION = "x-task-version"
"""Trailer of RateTask: the label of the deployment that had run the task."""
_STATES = {
    QUEUED: pb.TASK_STATE_QUEUED,
    RUNNING: pb.TASK_STATE_RUNNING,
    SUCCEEDED: pb.TASK_STATE_SUCCEEDED,
    FAILED: pb.TASK_STATE_FAILED,
    CANCELLED: pb.TASK_STATE_CANCELLED,
}
_NAMES = {number: name for name, number in _STATES.items()}


class TaskCalls(agent_pb2_grpc.AgentServiceServicer):
    """This part of the service."""

    def __init__(self, tasks: Tasks | None, *, version: str) -> None:
        self._kept_tasks = tasks
        self._version = version

    @property
    def _tasks(self) -> Tasks:
        if self._kept_tasks is None:
            raise Failure(grpc.StatusCode.UNIMPLEMENTED, "NO_TASKS", "this server keeps no tasks")
        return self._kept_tasks

    async def Submit(
        self, request: pb.SubmitRequest, context: grpc.aio.ServicerContext[pb.SubmitRequest, pb.SubmitResponse]
    ) -> pb.SubmitResponse:
        async with answering(context, self._version) as trailers:
            task = await self._tasks.submit(order_of(request, context))
            trailers.charge(await self._tasks.owed(_caller(context)))
            return pb.SubmitResponse(task=to_task(task))

    async def GetTask(
        self, request: pb.GetTaskRequest, context: grpc.aio.ServicerContext[pb.GetTaskRequest, pb.GetTaskResponse]
    ) -> pb.GetTaskResponse:
        async with answering(context, self._version) as trailers:
            task = await self._tasks.get(_caller(context), request.task_id)
            trailers.charge(await self._tasks.owed(_caller(context)))
            return pb.GetTaskResponse(task=to_task(task))

    async def ListTasks(
        self, request: pb.ListTasksRequest, context: grpc.aio.ServicerContext[pb.ListTasksRequest, pb.ListTasksResponse]
    ) -> pb.ListTasksResponse:
        async with answering(context, self._version) as trailers:
            size = request.page_size or 50
            if size > 500:
                raise invalid("page_size", "must be at most 500")
            token = request.page_token
            if len(token) > 18 or (token and not (token.isascii() and token.isdigit())):
                raise invalid("page_token", "is none that this server gave")
            state = _NAMES.get(request.state, "")
            found = await self._tasks.listed(_caller(context), state, int(token or 0), size + 1)
            response = pb.ListTasksResponse(tasks=[to_task(each, with_outcome=False) for each in found[:size]])
            if len(found) > size:
                response.next_page_token = str(found[size - 1].number)
            trailers.charge(await self._tasks.owed(_caller(context)))
            return response

    async def CancelTask(
        self,
        request: pb.CancelTaskRequest,
        context: grpc.aio.ServicerContext[pb.CancelTaskRequest, pb.CancelTaskResponse],
    ) -> pb.CancelTaskResponse:
        async with answering(context, self._version) as trailers:
            task = await self._tasks.cancel(_caller(context), request.task_id)
            trailers.charge(await self._tasks.owed(_caller(context)))
            return pb.CancelTaskResponse(task=to_task(task))

    async def WatchTask(
        self, request: pb.WatchTaskRequest, context: grpc.aio.ServicerContext[pb.WatchTaskRequest, pb.WatchTaskResponse]
    ) -> AsyncIterator[pb.WatchTaskResponse]:
        async with answering(context, self._version) as trailers:
            watching = self._tasks.watch(_caller(context), request.task_id, request.after_sequence)
            async with aclosing(cast("AsyncGenerator[Numbered | Task]", watching)) as news:
                async for each in news:
                    if isinstance(each, Task):
                        trailers.charge(await self._tasks.owed(_caller(context)))
                        yield pb.WatchTaskResponse(ended=to_task(each))
                    else:
                        yield pb.WatchTaskResponse(event=to_event(each.event, each.sequence, each.at))

    async def RateTask(
        self, request: pb.RateTaskRequest, context: grpc.aio.ServicerContext[pb.RateTaskRequest, pb.RateTaskResponse]
    ) -> pb.RateTaskResponse:
        async with answering(context, self._version) as trailers:
            rating = await self._tasks.rate(_caller(context), request.task_id, request.score, request.comment)
            # For whoever judges versions by what callers think of their work; the analysis of a rollout is one.
            trailers.add(SCORE, str(request.score))
            trailers.add(SCORED_VERSION, rating.version)
            return pb.RateTaskResponse(summary=_to_summary(rating))

    async def SummarizeRatings(
        self,
        request: pb.SummarizeRatingsRequest,
        context: grpc.aio.ServicerContext[pb.SummarizeRatingsRequest, pb.SummarizeRatingsResponse],
    ) -> pb.SummarizeRatingsResponse:
        async with answering(context, self._version):
            found = await self._tasks.ratings(request.agent)
            return pb.SummarizeRatingsResponse(summaries=[_to_summary(each) for each in found])


def to_task(task: Task, *, with_outcome: bool = True) -> pb.Task:
    """A task as a message."""
    message = pb.Task(
        task_id=task.task_id,
        agent=task.agent,
        operation=task.operation,
        state=_STATES[task.state],
        attempts=task.attempts,
        version_label=task.version,
    )
    message.created_at.FromNanoseconds(int(task.created * 1e9))
    if task.ended is not None:
        message.ended_at.FromNanoseconds(int(task.ended * 1e9))
    if with_outcome and task.outcome is not None:
        message.result.CopyFrom(to_result(task.outcome))
    if with_outcome and task.failure is not None:
        message.error.CopyFrom(to_turn_error(task.failure))
    if task.progress is not None:
        message.progress.completed = task.progress.completed
        message.progress.total = task.progress.total
        message.progress.unit = task.progress.unit
        message.progress.message = task.progress.message
    return message


def _caller(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    return metadata_of(context, IDENTITY)


def _to_summary(rating: Rating) -> pb.RatingSummary:
    return pb.RatingSummary(
        agent=rating.agent, version_label=rating.version, count=rating.count, mean_score=rating.mean
    )
