"""Running operations: finding, checking, limiting, streaming, remembering."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc import StatusCode

from agent_server.agents.declare import Agent, Input, Kind, Output, agent, operation, spec_of
from agent_server.core.catalogue import Catalogue
from agent_server.core.events import Outcome, Partial, Progress, Started
from agent_server.core.executor import Executor, Order
from agent_server.core.failure import Failure
from agent_server.core.sessions import Sessions


class WaitInput(Input):
    count: int = 0


class WaitOutput(Output):
    done: bool


class Probe:
    """What the waiting agent went through."""

    def __init__(self) -> None:
        self.log: list[str] = []


@agent("waiter", summary="Waits.")
class Waiter(Agent):
    @operation("forever")
    async def forever(self, request: WaitInput, context: Any) -> WaitOutput:
        probe: Any = self.tools
        probe.log.append("began")
        await context.progress(1, 2, "steps")
        try:
            await asyncio.Event().wait()
        finally:
            probe.log.append("ended")
        raise AssertionError

    @operation("chatter")
    async def chatter(self, request: WaitInput, context: Any) -> WaitOutput:
        probe: Any = self.tools
        for number in range(request.count):
            await context.partial(str(number))
            probe.log.append(str(number))
        return WaitOutput(done=True)

    @operation("break")
    async def fail(self, request: WaitInput, context: Any) -> WaitOutput:
        await context.progress(1, 2, "steps")
        raise Failure(StatusCode.ABORTED, "BROKEN", "broken")

    @operation("own_timeout")
    async def own_timeout(self, request: WaitInput, context: Any) -> WaitOutput:
        raise TimeoutError("of its own")


def executor(probe: Any = None, timeout: float = 60.0) -> Executor:
    spec = spec_of(Waiter)
    assert spec is not None
    catalogue = Catalogue([spec], probe or Probe())
    return Executor(catalogue, Sessions(), now=lambda: 0.0, new_id=lambda: "id", timeout=timeout)


def test_a_stream_gives_events_in_order_and_the_outcome_last(runner: asyncio.Runner) -> None:
    async def scene() -> list[Any]:
        it = executor()
        return [each async for each in it.stream(it.prepare(Order(operation="chatter", parameters={"count": 2})))]

    events = runner.run(scene())
    assert [type(each) for each in events] == [Started, Partial, Partial, Outcome]


def test_a_failure_ends_the_stream(runner: asyncio.Runner) -> None:
    async def scene() -> list[Any]:
        it, seen = executor(), []
        with pytest.raises(Failure, match="broken"):
            async for each in it.stream(it.prepare(Order(operation="break"))):
                seen.append(type(each))
        return seen

    assert runner.run(scene()) == [Started, Progress]


def test_closing_the_stream_cancels_the_work_and_waits_for_it(runner: asyncio.Runner) -> None:
    probe = Probe()

    async def scene() -> None:
        it = executor(probe)
        events = it.stream(it.prepare(Order(operation="forever")))
        async for each in events:
            if isinstance(each, Progress):
                break
        await events.aclose()

    runner.run(scene())
    assert probe.log == ["began", "ended"]


def test_work_is_not_far_ahead_of_its_reader(runner: asyncio.Runner) -> None:
    probe = Probe()

    async def scene() -> int:
        it = executor(probe)
        events = it.stream(it.prepare(Order(operation="chatter", parameters={"count": 1000})))
        # Without a bound the work, which never waits for anything else, would be through before the second event is read.
        await anext(events)
        await anext(events)
        ahead = len(probe.log)
        await events.aclose()
        return ahead

    assert 0 < runner.run(scene()) <= 10


def test_the_servers_own_limit(runner: asyncio.Runner) -> None:
    async def scene() -> Failure:
        it = executor(timeout=0.001)
        with pytest.raises(Failure) as caught:
            await it.run(it.prepare(Order(operation="forever")))
        return caught.value

    failure = runner.run(scene())
    assert (failure.code, failure.reason) == (StatusCode.DEADLINE_EXCEEDED, "OPERATION_TIMEOUT")


def test_a_timeout_inside_of_an_operation_is_not_ours(runner: asyncio.Runner) -> None:
    async def scene() -> None:
        it = executor()
        await it.run(it.prepare(Order(operation="own_timeout")))

    with pytest.raises(TimeoutError, match="of its own"):
        runner.run(scene())


@pytest.mark.parametrize(
    ("order", "reason", "text"),
    [
        (Order(agent="nobody", operation="break"), "AGENT_UNKNOWN", "no agent is named 'nobody'; there is: waiter"),
        (Order(operation="nothing"), "OPERATION_UNKNOWN", "agent waiter has no operation 'nothing'"),
        (Order(), "OPERATION_UNKNOWN", "must name one of: break, chatter, forever, own_timeout"),
        (Order(task="do it"), "OPERATION_UNKNOWN", "must name one of"),
        (Order(operation="chatter", parameters={"count": "3"}), "INVALID_INPUT", "parameters.count"),
        (Order(operation="chatter", parameters={"cuont": 3}), "INVALID_INPUT", "parameters.cuont"),
    ],
)
def test_orders_that_cannot_be_taken(order: Order, reason: str, text: str) -> None:
    with pytest.raises(Failure) as caught:
        executor().prepare(order)
    assert (caught.value.code, caught.value.reason) == (StatusCode.INVALID_ARGUMENT, reason)
    assert text in caught.value.message


def test_an_operation_of_the_other_kind(desk: Any) -> None:
    with pytest.raises(Failure, match="is called by Ingest"):
        desk.executor.prepare(Order(operation="ingest"))
    with pytest.raises(Failure, match="is called by Execute"):
        desk.executor.prepare(Order(operation="query"), Kind.INGEST)


def test_a_task_fills_the_parameter_that_takes_text(desk: Any) -> None:
    assert desk.place(Order(task="SELECT 2")).table.rows == ((2,),)
    named = Order(task="a remark", operation="query", parameters={"sql": "SELECT 3"})
    assert desk.place(named).table.rows == ((3,),)
