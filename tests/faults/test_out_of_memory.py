"""The kernel kills what takes more memory than its cgroup has: an agent, or one of several workers. Both are seen, named and replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from clients.python.api import agent_pb2 as pb
from tests.journeys.test_supervision import CALLERS, LIMIT, recovered, supervised
from tests.journeys.test_workers import Agent, Callers, call, config, is_new, workers
from tests.support.memory_group import MemoryGroup
from tests.support.processes import Sidecar


async def test_an_agent_that_takes_too_much_is_started_again_and_the_cause_is_named(tmp_path: Path) -> None:
    async with MemoryGroup(100) as group, supervised(tmp_path) as it:
        former = (await it.agent())["pid"]
        group.add(former)
        async with it.traffic() as stub:
            request = pb.ExecuteRequest(agent="troubled", operation="leak")
            request.parameters.update({"mebibytes": 400})
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Execute(request, timeout=LIMIT)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            agent = await it.until(it.restarted(former))
        assert recovered(agent) == [("crash", "restart", "done")]
        assert agent["recoveries"][0]["cause"] == "it ended with signal SIGKILL, out of memory as it seems"
        assert it.cut() <= 2 * CALLERS


async def test_of_two_workers_one_is_killed_and_replaced(tmp_path: Path) -> None:
    agent = Agent()
    try:
        async with MemoryGroup(1) as group:
            await asyncio.to_thread(_press, group, agent, tmp_path)
    finally:
        agent.gate.set()
        agent.server.stop(None).wait()


def _press(group: MemoryGroup, agent: Agent, folder: Path) -> None:
    with Sidecar(config(folder, agent), folder) as sidecar, Callers(sidecar.addresses["inbound"]) as channels:
        assert {call(channel).code() for channel in channels} == {grpc.StatusCode.OK}
        victim, other = workers(sidecar)
        # Of what it has already nothing is counted; what it takes from now on is.
        group.add(victim["pid"])
        large = bytes(3 << 20)
        ends = []
        while "worker died" not in sidecar.text:
            pressing = [each.unary_unary("/test.Service/Unary").future(large, timeout=LIMIT) for each in channels]
            ends += [each.code() for each in pressing]
            assert len(ends) < 50 * len(channels), "it never took more"
        assert set(ends) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
        died = sidecar.wait_for_log(lambda line: line.get("event", "").startswith("worker died"))
        assert (died["worker"], died["exit"]) == (1, "signal SIGKILL, out of memory as it seems")
        sidecar.wait_for_log(lambda line: is_new(line, {victim["pid"], other["pid"]}))
        assert {call(channel).code() for channel in channels} == {grpc.StatusCode.OK}
        assert [each["restarts"] for each in workers(sidecar)] == [1, 0]
