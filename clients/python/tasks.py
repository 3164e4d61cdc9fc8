"""Long work: tasks that are submitted, watched, asked for, cancelled and rated. They outlive the connection and the server."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clients.python.api import agent_pb2 as pb
from clients.python.ending import Ending
from clients.python.failure import CallFailure, from_turn_error
from clients.python.results import Event, Progress, Result, to_event, to_result, to_struct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from clients.python.client import AgentClient

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
STATES = (QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED)
ENDED = frozenset((SUCCEEDED, FAILED, CANCELLED))


@dataclass(frozen=True, slots=True)
class Task:
    """How a task stands."""

    task_id: str
    agent: str
    operation: str
    state: str
    """One of STATES."""
    attempts: int
    version: str
    """Label of the deployment that ran it last."""
    created: dt.datetime
    ended: dt.datetime | None
    progress: Progress | None
    result: Result | None
    """What came out, when it has succeeded."""
    failure: CallFailure | None
    """Why nothing came out, when it has failed or was cancelled."""


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened in a task; `sequence` is where watching goes on."""

    sequence: int
    event: Event


@dataclass(frozen=True, slots=True)
class Rating:
    """Ratings of an agent in a version."""

    agent: str
    version: str
    count: int
    mean: float


class TaskCalls:
    """`client.tasks`. Everything raises CallFailure."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client

    async def submit(
        self,
        operation: str = "",
        parameters: Mapping[str, Any] | None = None,
        *,
        task: str = "",
        agent: str | None = None,
        session_id: str = "",
        idempotency_key: str = "",
    ) -> Task:
        """Have one operation run in the background. Under a key that was used before, the task of that time is given."""
        request = pb.SubmitRequest(
            task=task,
            agent=self._client._agent if agent is None else agent,
            operation=operation,
            parameters=to_struct(parameters or {}),
            session_id=session_id,
        )
        with Ending():
            return to_task((await self._call("Submit", request, idempotency_key)).task)

    async def get(self, task_id: str) -> Task:
        """How a task stands."""
        with Ending():
            return to_task((await self._call("GetTask", pb.GetTaskRequest(task_id=task_id))).task)

    async def all(self, state: str = "") -> AsyncIterator[Task]:
        """Our tasks, the newest first, without their results. `state` empty: all."""
        token = ""
        while True:
            number = STATES.index(state) + 1 if state else 0
            request = pb.ListTasksRequest(state=number, page_token=token)  # type: ignore[arg-type]
            with Ending():
                page = await self._call("ListTasks", request)
            for each in page.tasks:
                yield to_task(each)
            if not (token := page.next_page_token):
                return

    async def cancel(self, task_id: str) -> Task:
        """End a task; it is given as it is after its end."""
        with Ending():
            return to_task((await self._call("CancelTask", pb.CancelTaskRequest(task_id=task_id))).task)

    async def watch(self, task_id: str, after: int = 0) -> AsyncIterator[News | Task]:
        """What happens after number `after`, as it happens, and the task when it has ended."""
        request = pb.WatchTaskRequest(task_id=task_id, after_sequence=after)
        call = self._client._stub.WatchTask(request, metadata=self._client._with((), ""))
        try:
            with Ending():
                async for message in call:
                    if message.WhichOneof("news") == "ended":
                        yield to_task(message.ended)
                    elif (event := to_event(message.event, "")) is not None:
                        yield News(message.event.sequence, event)
        finally:
            call.cancel()

    async def rate(self, task_id: str, score: int, comment: str = "") -> Rating:
        """Say how good a task's result was, 1 (useless) to 5 (perfect); gives all ratings of its agent and version."""
        with Ending():
            request = pb.RateTaskRequest(task_id=task_id, score=score, comment=comment)
            return _to_rating((await self._call("RateTask", request)).summary)

    async def ratings(self, agent: str = "") -> list[Rating]:
        """By agent and version."""
        with Ending():
            response = await self._call("SummarizeRatings", pb.SummarizeRatingsRequest(agent=agent))
            return [_to_rating(each) for each in response.summaries]

    async def _call(self, method: str, request: Any, key: str = "") -> Any:
        client = self._client
        return await getattr(client._stub, method)(
            request, timeout=client._within(None), metadata=client._with((), key)
        )


def to_task(message: pb.Task) -> Task:
    """A task as Python values."""
    has = message.HasField
    progress = message.progress
    return Task(
        message.task_id,
        message.agent,
        message.operation,
        STATES[message.state - 1] if message.state else "",
        message.attempts,
        message.version_label,
        message.created_at.ToDatetime(dt.UTC),
        message.ended_at.ToDatetime(dt.UTC) if has("ended_at") else None,
        Progress(progress.completed, progress.total, progress.unit, progress.message) if has("progress") else None,
        to_result(message.result, message.version_label) if has("result") else None,
        from_turn_error(message.error) if has("error") else None,
    )


def _to_rating(message: pb.RatingSummary) -> Rating:
    return Rating(message.agent, message.version_label, message.count, message.mean_score)
