"""A real agent under supervision and under load: crash, hang, deadlock, leak, crash loop. How many RPCs failed is counted each time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from clients.python.api import agent_pb2 as pb
from clients.python.api.agent_pb2_grpc import AgentServiceStub
from tests.support.processes import NotReady, Sidecar
from tests.support.redis import RedisServer

LIMIT = 20.0
CALLERS = 4

AGENT_OF_A_USER = '''
import asyncio
from agent_server.agents.declare import Agent, Input, Output, agent, operation

KEPT = []

class Nothing(Input):
    pass

class Size(Input):
    mebibytes: int

class Done(Output):
    pass

@agent("troubled", summary="Fails in several ways.")
class Troubled(Agent):
    @operation("leak", read_only=True)
    async def leak(self, request: Size, context) -> Done:
        """Takes memory and keeps it."""
        KEPT.append(b"\\1" * (request.mebibytes << 20))
        return Done()

    @operation("never", read_only=True)
    async def never(self, request: Nothing, context) -> Done:
        """Never answers; the rest of the server goes on."""
        await asyncio.get_running_loop().create_future()
'''

CONFIG = """
node: {{name: supervised}}
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["unix:{folder}/agent.sock"]}}
agent:
  command: {command}
  environment: {{PYTHONPATH: "{folder}"}}
  grace: 5s
  ready: {{health_check: {{interval: 200ms, timeout: 300ms}}, within: 20s}}
  recovery:
    crash: {{backoff: {{initial: 100ms, max: 1s}}}}
    {recovery}
    give_up_after: {{restarts: 3, within: 10m}}
"""


class Supervised:
    """A sidecar with its agent, and callers that call all the time."""

    def __init__(self, folder: Path, recovery: str = "", command: list[str] | None = None) -> None:
        (folder / "troubled_agent.py").write_text(AGENT_OF_A_USER)
        command = command or [
            sys.executable, "-m", "agent_server", "run", "--bind", f"unix:{folder}/agent.sock",
            "--agents", "agent_server.agents.data", "--agents", "troubled_agent", "--log-level", "error",
        ]  # fmt: skip
        self.sidecar = Sidecar(CONFIG.format(folder=folder, command=json.dumps(command), recovery=recovery), folder)
        self.outcomes: Counter[str] = Counter()
        self.said: set[str] = set()
        self._callers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def agent(self) -> dict[str, Any]:
        status, body = await asyncio.to_thread(self.sidecar.get, "/agent")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The view of the agent for which it holds."""
        async with asyncio.timeout(LIMIT):
            while not holds(found := await self.agent()):
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.05)
        return found

    async def until_log(self, event: str, **extra: object) -> None:
        """The line of the log that says so."""
        await asyncio.to_thread(
            self.sidecar.wait_for_log,
            lambda line: line.get("event") == event and all(line.get(name) == value for name, value in extra.items()),
            LIMIT,
        )

    def restarted(self, former: int) -> Callable[[dict[str, Any]], bool]:
        return lambda agent: agent["serving"] and agent["pid"] not in {None, former}

    async def _call_on(self, stub: AgentServiceStub) -> None:
        while not self._stopping:
            try:
                await stub.Execute(pb.ExecuteRequest(agent="data", task="SELECT 1"), timeout=10)
                self.outcomes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                said = error.details() or ""
                is_refusal = said.startswith("the agent is ")
                self.outcomes[f"{error.code().name} {'refused' if is_refusal else 'cut'}"] += 1
                self.said.add(said)
                # What a caller with a retry policy does when it is told to come again.
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.02)

    @contextlib.asynccontextmanager
    async def traffic(self) -> AsyncIterator[AgentServiceStub]:
        async with grpc.aio.insecure_channel(self.sidecar.addresses["inbound"]) as channel:
            stub = AgentServiceStub(channel)
            self._callers = [asyncio.create_task(self._call_on(stub)) for _ in range(CALLERS)]
            try:
                await self.more(10)
                yield stub
                # It serves again, and not just once.
                await self.more(10)
            finally:
                self._stopping = True
                await asyncio.gather(*self._callers)

    async def more(self, count: int) -> None:
        """Until so many more RPCs have succeeded."""
        wanted = self.outcomes["OK"] + count
        try:
            async with asyncio.timeout(LIMIT):
                while self.outcomes["OK"] < wanted:
                    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.01)
        except TimeoutError:
            raise AssertionError(f"{self.outcomes}: {self.said}\n{self.sidecar.text}") from None

    def cut(self) -> int:
        """How many were cut; all others that failed were refused unseen, with a hint when to come again."""
        assert set(self.outcomes) <= {"OK", "UNAVAILABLE cut", "UNAVAILABLE refused"}, (self.outcomes, self.said)
        return self.outcomes["UNAVAILABLE cut"]

    def report(self, what: str) -> None:
        """In the output of `pytest -rP`."""
        print(f"{what}: {dict(self.outcomes)}")


@contextlib.asynccontextmanager
async def supervised(folder: Path, recovery: str = "") -> AsyncIterator[Supervised]:
    found = Supervised(folder, recovery)
    await asyncio.to_thread(found.sidecar.start)
    try:
        yield found
    finally:
        assert await asyncio.to_thread(found.sidecar.stop) == 0, found.sidecar.text


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def recovered(agent: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(symptom, action, result), oldest first."""
    return [(each["symptom"], each["action"], each["result"]) for each in reversed(agent["recoveries"])]


async def test_a_crash_is_followed_by_a_restart(tmp_path: Path) -> None:
    async with supervised(tmp_path) as it:
        former = (await it.agent())["pid"]
        async with it.traffic():
            os.kill(former, signal.SIGKILL)
            agent = await it.until(it.restarted(former))
        assert recovered(agent) == [("crash", "restart", "done")]
        # The kernel counts for the whole machine: a test beside this one may lack memory.
        assert agent["recoveries"][0]["cause"].startswith("it ended with signal SIGKILL")
        # What ran there, and what came in the moment before the loss was known.
        it.report("crash")
        assert it.cut() <= 2 * CALLERS
        status, page = await asyncio.to_thread(it.sidecar.get, "/metrics")
        assert 'sidecar_recoveries_total{action="restart",result="done",symptom="crash"} 1.0' in page
        assert "sidecar_agent_serving 1.0" in page
        assert "sidecar_agent_starts_total 2.0" in page
        assert status == 200
        last = agent["pid"]
    assert not alive(last), "the agent ends with its sidecar"


async def test_a_stopped_process_is_wedged(tmp_path: Path) -> None:
    async with supervised(tmp_path, "wedged: {when: {health_silent: 1s}}") as it:
        former = (await it.agent())["pid"]
        async with it.traffic():
            os.kill(former, signal.SIGSTOP)
            agent = await it.until(it.restarted(former))
        assert recovered(agent) == [("wedged", "restart", "done")]
        assert "no answer to health checks for" in agent["recoveries"][0]["cause"]
        assert not alive(former)
        it.report("hang")
        assert it.cut() == CALLERS, "those that hung were ended with it"


async def test_rpcs_without_answer_are_a_wedge_although_health_is_green(tmp_path: Path) -> None:
    recovery = "wedged: {when: {in_flight_without_progress: 1s, health_silent: 20s}}"
    async with supervised(tmp_path, recovery) as it:
        former = (await it.agent())["pid"]
        async with grpc.aio.insecure_channel(it.sidecar.addresses["inbound"]) as channel:
            stub = AgentServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Execute(pb.ExecuteRequest(agent="troubled", operation="never"), timeout=LIMIT)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            agent = await it.until(it.restarted(former))
        assert "1 RPCs wait for it without progress for" in agent["recoveries"][0]["cause"]


async def test_an_idle_stream_is_no_wedge(tmp_path: Path) -> None:
    recovery = "wedged: {when: {in_flight_without_progress: 500ms}}"
    async with supervised(tmp_path, recovery) as it:
        former = (await it.agent())["pid"]
        async with grpc.aio.insecure_channel(it.sidecar.addresses["inbound"]) as channel:
            stream = AgentServiceStub(channel).Converse()
            await stream.write(pb.ConverseRequest(agent="data", text="SELECT 1"))
            await stream.read()
            began = (await it.agent())["serving_for_seconds"]
            # Three times the limit, by the sidecar's own clock; the stream is silent, as it is the caller's turn.
            agent = await it.until(lambda agent: not agent["serving"] or agent["serving_for_seconds"] > began + 1.5)
            assert (agent["pid"], agent["recoveries"]) == (former, [])
            await stream.done_writing()


async def test_growth_is_drained_and_restarted_without_a_lost_rpc(tmp_path: Path) -> None:
    async with supervised(tmp_path, "memory: {when: {rss_above: 160MiB, for: 0s}}") as it:
        agent = await it.agent()
        former = agent["pid"]
        assert agent["memory_bytes"] < 160 << 20
        async with it.traffic() as stub:
            request = pb.ExecuteRequest(agent="troubled", operation="leak")
            request.parameters.update({"mebibytes": 200})
            await stub.Execute(request, timeout=LIMIT)
            agent = await it.until(it.restarted(former))
        assert recovered(agent) == [
            ("memory", "drain", "done"), ("memory", "clear_cache", "done"), ("memory", "restart", "done"),
        ]  # fmt: skip
        assert agent["recoveries"][-1]["cause"] == "no RPC was cut"
        it.report("leak")
        assert it.cut() == 0


async def test_a_crash_loop_ends_with_a_call_for_people(tmp_path: Path) -> None:
    async with supervised(tmp_path) as it:
        async with grpc.aio.insecure_channel(it.sidecar.addresses["inbound"]) as channel:
            stub = AgentServiceStub(channel)
            for _ in range(4):
                former = (await it.agent())["pid"]
                os.kill(former, signal.SIGKILL)
                agent = await it.until(lambda agent, former=former: it.restarted(former)(agent) or agent["given_up"])
            assert agent["given_up"]
            assert recovered(agent) == [("crash", "restart", "done")] * 3 + [("crash", "give_up", "given_up")]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Execute(pb.ExecuteRequest(agent="data", task="SELECT 1"), timeout=LIMIT)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "the agent is given up: manual intervention required"
            status, body = await asyncio.to_thread(it.sidecar.get, "/readyz?verbose")
            assert (status, "[-] agent: given up: manual intervention required" in body) == (503, True)
            assert "sidecar_agent_given_up 1.0" in (await asyncio.to_thread(it.sidecar.get, "/metrics"))[1]
            troubles = json.loads((await asyncio.to_thread(it.sidecar.get, "/status"))[1])["troubles"]
            assert troubles[0]["what"] == "the agent is given up: manual intervention required"
            # Somebody has repaired it, and says so.
            assert (await asyncio.to_thread(it.sidecar.request, "POST", "/agent/restart"))[0] == 200
            await it.until(lambda agent: agent["serving"])
            await stub.Execute(pb.ExecuteRequest(agent="data", task="SELECT 1"), timeout=LIMIT)


async def test_a_restart_on_request_loses_nothing_that_runs(tmp_path: Path) -> None:
    async with supervised(tmp_path) as it:
        former = (await it.agent())["pid"]
        async with it.traffic():
            await asyncio.to_thread(it.sidecar.request, "POST", "/agent/restart")
            agent = await it.until(it.restarted(former))
        assert recovered(agent) == [("asked", "drain", "done"), ("asked", "restart", "done")]
        it.report("asked")
        assert it.cut() == 0


def test_an_agent_that_never_serves_is_no_start(tmp_path: Path) -> None:
    it = Supervised(tmp_path, command=[sys.executable, "-c", "import sys; sys.exit('no model found')"])
    with pytest.raises(NotReady, match="no model found") as caught:
        it.sidecar.start()
    assert "manual intervention required" in str(caught.value)
    assert "cannot start" in str(caught.value)


async def test_a_lost_cluster_is_seen_to(tmp_path: Path) -> None:
    it = Supervised(tmp_path, "network: {when: {for: 1s}}")
    it.sidecar.path.write_text(
        it.sidecar.path.read_text().replace("clusters:", 'clusters:\n  away: {endpoints: ["127.0.0.1:1"]}')
    )
    await asyncio.to_thread(it.sidecar.start)
    try:
        agent = await it.until(lambda agent: bool(agent["recoveries"]))
        assert recovered(agent)[0] == ("network", "reset_connections", "done")
        assert agent["recoveries"][0]["cause"].startswith("cluster away: no endpoint reached for")
        assert agent["serving"]
    finally:
        await asyncio.to_thread(it.sidecar.stop)


async def test_a_lost_store_is_seen_to(tmp_path: Path) -> None:
    """Redis is killed: each attempt to reach it is recorded, people are told, and calls that need no store go on; then it is back."""
    redis = RedisServer(tmp_path)
    await asyncio.to_thread(redis.start)
    it = Supervised(tmp_path, "store_lost: {when: {for: 1s}}")
    rule = "{name: store-lost, metric: store_lost, above: 0, resolve_after: 0s, severity: critical}"
    it.sidecar.path.write_text(
        f'{it.sidecar.path.read_text()}\nstore: {{url: "{redis.url}"}}\nalerts: {{rules: [{rule}]}}\n'
    )
    try:
        await asyncio.to_thread(it.sidecar.start)
        async with it.traffic():
            assert (await it.agent())["recoveries"] == []
            await asyncio.to_thread(redis.stop)
            agent = await it.until(lambda agent: bool(agent["recoveries"]))
            assert recovered(agent)[0] == ("store_lost", "reconnect", "failed")
            assert agent["recoveries"][0]["cause"] == "unreachable"
            assert agent["serving"]
            await it.until_log("alert", state="firing", alert="store-lost")
            await asyncio.to_thread(redis.start)
            await it.until_log("store is back")
            await it.until_log("alert", state="resolved", alert="store-lost")
        assert set(it.outcomes) == {"OK"}, it.said
        _, page = await asyncio.to_thread(it.sidecar.get, "/metrics")
        assert "sidecar_store_up 1.0" in page
        assert 'sidecar_recoveries_total{action="reconnect",result="failed",symptom="store_lost"}' in page
    finally:
        await asyncio.to_thread(it.sidecar.stop)
        await asyncio.to_thread(redis.stop)


async def test_the_agent_does_not_outlive_a_killed_sidecar(tmp_path: Path) -> None:
    it = Supervised(tmp_path)
    await asyncio.to_thread(it.sidecar.start)
    pid = (await it.agent())["pid"]
    await asyncio.to_thread(it.sidecar.kill)
    async with asyncio.timeout(LIMIT):
        while alive(pid):
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.02)
