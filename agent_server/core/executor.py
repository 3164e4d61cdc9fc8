"""Runs operations: finds them, checks their input, limits their time, tells their events, remembers their result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from pydantic import ValidationError

from agent_server.agents.declare import AgentSpec, IngestOutput, Input, Kind, OperationSpec, Output
from agent_server.core.context import Context, Usage
from agent_server.core.events import Event, Outcome, Records, Sink, Started
from agent_server.core.failure import Failure, from_validation
from agent_server.core.watch import NobodyWatches

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from agent_server.core.catalogue import Catalogue
    from agent_server.core.sessions import Sessions
    from agent_server.core.watch import Watch

_EVENTS_AHEAD = 8
"""Events an operation may be ahead of the caller who reads them."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller asks for."""

    task: str = ""
    agent: str = ""
    operation: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    session_id: str = ""
    idempotency_key: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """An order that was found valid."""

    execution_id: str
    agent: AgentSpec
    operation: OperationSpec
    request: Input
    order: Order
    usage: Usage = field(default_factory=Usage)
    """What running it has used up so far, however it ends."""


class Executor:
    """The one way operations are run, whatever RPC asked for them."""

    def __init__(
        self,
        catalogue: Catalogue,
        sessions: Sessions,
        *,
        now: Callable[[], float],
        new_id: Callable[[], str],
        timeout: float,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or NobodyWatches()
        self.catalogue = catalogue
        self._sessions = sessions
        self._now = now
        self._new_id = new_id
        self._timeout = timeout

    def prepare(self, order: Order, kind: Kind = Kind.EXECUTE) -> Work:
        """Find the operation and check the input. Raises Failure INVALID_ARGUMENT naming every wrong field."""
        try:
            return self._prepared(order, kind)
        except Failure as failure:
            self._watch.refused(order.agent, order.operation, failure.code)
            raise

    def _prepared(self, order: Order, kind: Kind) -> Work:
        agent = self.catalogue.agent(order.agent)
        operation = self.catalogue.operation(agent, order.operation, kind, has_text=bool(order.task))
        parameters = dict(order.parameters)
        if order.task and operation.text_parameter and operation.text_parameter not in parameters:
            parameters[operation.text_parameter] = order.task
        try:
            request = operation.input_model.model_validate(parameters)
        except ValidationError as error:
            raise from_validation(error, "parameters") from None
        return Work(self._new_id(), agent, operation, request, order)

    async def run(
        self, work: Work, sink: Sink | None = None, *, takes_parts: bool = True, is_limited: bool = True
    ) -> Outcome:
        """Run to the end. Raises Failure; DEADLINE_EXCEEDED when the server's own limit passed."""
        with self._watch.working(work.agent.name, work.operation.name):
            return await self._run(work, sink, takes_parts=takes_parts, is_limited=is_limited)

    async def _run(self, work: Work, sink: Sink | None, *, takes_parts: bool, is_limited: bool) -> Outcome:
        context = self._context(work, sink)
        context.takes_parts = takes_parts
        started = self._now()
        if sink is not None:
            await sink(Started(work.execution_id, work.agent.name, work.operation.name))
        method = getattr(self.catalogue.instance(work.agent), work.operation.method)
        running = method(work.request, context)
        output: Output = await (self._limited(running) if is_limited else running)
        outcome = Outcome(
            work.execution_id,
            work.agent.name,
            work.operation.name,
            output.model_dump(mode="json"),
            output.table,
            self._now() - started,
            output.replayed,
            work.usage.tokens,
        )
        if context.session is not None:
            self._sessions.keep(work.order.identity, context.session, outcome)
        return outcome

    async def ingest(self, work: Work, records: Records) -> tuple[IngestOutput, float]:
        """Run an operation that takes records; gives the summary and the seconds it took. Raises Failure."""
        context = self._context(work, None)
        started = self._now()
        method = getattr(self.catalogue.instance(work.agent), work.operation.method)
        # No limit of ours: a stream lasts as long as its sender wants, and the sidecar's idle limit ends those that stall.
        with self._watch.working(work.agent.name, work.operation.name):
            output: IngestOutput = await method(work.request, records, context)
        return output, self._now() - started

    async def stream(self, work: Work) -> AsyncGenerator[Event | Outcome, None]:
        """Run, giving each event as it happens and the outcome last. Closing the iterator cancels the work and waits for its end."""
        queue: asyncio.Queue[Event | Outcome | Exception] = asyncio.Queue(_EVENTS_AHEAD)

        async def work_on() -> None:
            try:
                last: Outcome | Exception = await self.run(work, queue.put)
            except Exception as error:
                last = error
            await queue.put(last)

        task = asyncio.get_running_loop().create_task(work_on(), name=f"execution {work.execution_id}")
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Outcome):
                    return
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _context(self, work: Work, sink: Sink | None) -> Context:
        order = work.order
        session = self._sessions.open(order.identity, order.session_id) if order.session_id else None
        return Context(work.execution_id, order.identity, order.idempotency_key, session, sink, usage=work.usage)

    async def _limited(self, running: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await running
        except TimeoutError:
            if not limit.expired():
                raise
            raise Failure(
                StatusCode.DEADLINE_EXCEEDED,
                "OPERATION_TIMEOUT",
                f"the operation took longer than this server allows ({self._timeout:g} s)",
                metadata={"timeout": f"{self._timeout:g}"},
            ) from None
