"""Endpoints of one cluster fail in different ways at once: callers see what the healthy ones can give, and no storm is made."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.journeys.raw import Exchange, RawAgent, RawCaller
from tests.support.processes import Sidecar
from tests.support.wire import RESPONSE, ScriptedStream, block

CONFIG = """
admin: {{bind: 127.0.0.1:0}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    routes:
      - name: all
        match: {{method: "/*"}}
        to: local
        idempotent: true
        policies:
          {policies}
clusters:
  local:
    endpoints: [{endpoints}]
    {options}
"""
RETRY = "retry: {max_attempts: 4, initial_backoff: 10ms, max_backoff: 20ms, budget: {percent: 20, min_per_second: 10}}"
RATE = 200


def config(endpoints: list[str], options: str, policies: str = RETRY) -> str:
    quoted = ", ".join(f'"{each}"' for each in endpoints)
    return CONFIG.format(endpoints=quoted, options=options, policies=policies)


def serve(stream: ScriptedStream) -> None:
    stream.send_headers(block(*RESPONSE))
    stream.send_data(bytes(stream.seen.data), False)
    stream.send_trailers(block(("grpc-status", "0")))


def fail(stream: ScriptedStream) -> None:
    stream.send_headers(block(*RESPONSE, ("grpc-status", "14")), True)


class Scripted(RawAgent):
    """An agent that answers whole requests by `answer`, and counts them."""

    def __init__(self, answer: Callable[[ScriptedStream], None]) -> None:
        super().__init__(self._on_event, keeps=False)
        self.answer = answer
        self.calls = 0

    def _on_event(self, stream: ScriptedStream, event: str) -> None:
        if event == "end":
            self.calls += 1
            self.answer(stream)


class Offered:
    """Unary RPCs at an even pace; `statuses` of those begun after `since` seconds."""

    def __init__(self, caller: RawCaller, rate: int) -> None:
        self._caller = caller
        self._interval = 1 / rate
        self._loop = asyncio.get_running_loop()
        self.calls: list[tuple[float, Exchange]] = []

    async def run(self, count: int, at: dict[int, Callable[[], None]]) -> None:
        """`at`: what to do before the n-th call."""
        done = asyncio.Event()
        began = self._loop.time()

        def tick() -> None:
            # Whatever is due, so that a busy machine does not lower the rate.
            while len(self.calls) < count and began + len(self.calls) * self._interval <= self._loop.time():
                if (act := at.get(len(self.calls))) is not None:
                    act()
                elapsed = len(self.calls) * self._interval
                self.calls.append((elapsed, self._caller.open(body=b"hello", end=True)))
            if len(self.calls) < count:
                self._loop.call_at(began + len(self.calls) * self._interval, tick)
            else:
                done.set()

        tick()
        await done.wait()
        for _, stream in self.calls:
            await stream.over()

    def statuses(self, since: float = 0.0) -> Counter[int | None]:
        return Counter(stream.seen.status for elapsed, stream in self.calls if elapsed >= since)


async def test_one_killed_one_slow_one_failing_half(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    chance = random.Random(5)
    async with (
        Scripted(serve) as killed,
        Scripted(lambda stream: loop.call_later(0.1, serve, stream) and None) as slow,
        Scripted(lambda stream: serve(stream) if chance.random() < 0.5 else fail(stream)) as flaky,
    ):
        agents = [killed, slow, flaky]
        options = "outlier_ejection: {}\n    balancing: least_request"
        with Sidecar(config([each.address for each in agents], options), tmp_path) as sidecar:
            async with await RawCaller.connect(sidecar.addresses["inbound"]) as caller:
                offered = Offered(caller, RATE)
                await offered.run(RATE * 5, {RATE // 2: killed.stop})
            late = offered.statuses(since=2.0)
            assert late[0] >= 0.999 * late.total(), late
            load = sum(each.calls for each in agents)
            assert load <= 1.25 * len(offered.calls), (load, [each.calls for each in agents])
            # Who fails half is left out, who is slow is not overloaded but serves.
            (cluster,) = json.loads(sidecar.get("/clusters")[1])
            shown = {each["address"]: each for each in cluster["endpoints"]}
            assert shown[flaky.address]["ejected"]
            assert not shown[slow.address]["ejected"]
            assert not shown[killed.address]["ready"]
            ejections = [line for line in sidecar.log() if line.get("event") == "endpoint ejected"]
            assert [line["endpoint"] for line in ejections][:1] == [flaky.address]
            assert ejections[0]["method"] == "/test.Service/Method"


async def test_when_everything_fails_no_storm_is_made(tmp_path: Path) -> None:
    async with Scripted(fail) as one, Scripted(fail) as two, Scripted(fail) as three:
        agents = [one, two, three]
        options = "outlier_ejection: {max_ejected_percent: 100}"
        policies = RETRY.replace("min_per_second: 10", "min_per_second: 0")
        with Sidecar(config([each.address for each in agents], options, policies), tmp_path) as sidecar:
            async with await RawCaller.connect(sidecar.addresses["inbound"]) as caller:
                offered = Offered(caller, RATE)
                await offered.run(RATE * 3, {})
            assert offered.statuses() == {14: RATE * 3}
            assert sum(each.calls for each in agents) <= 1.25 * len(offered.calls)


async def test_an_open_circuit_spares_the_agent_and_heals(tmp_path: Path) -> None:
    async with Scripted(fail) as agent:
        options = "circuit_breaker: {failure_threshold: 3, success_threshold: 1, open_for: 1s}"
        with Sidecar(config([agent.address], options, "deadline: {}"), tmp_path) as sidecar:
            async with await RawCaller.connect(sidecar.addresses["inbound"]) as caller:
                for _ in range(3):
                    await caller.call()
                assert agent.calls == 3
                refused = await caller.call()
                assert "circuit breaker" in (refused.seen.value("grpc-message") or "")
                pushback = int(refused.seen.value("grpc-retry-pushback-ms") or "")
                assert 0 < pushback <= 1000
                assert agent.calls == 3
                assert 'sidecar_circuit_breaker_state{cluster="local"' in sidecar.get("/metrics")[1]
                agent.answer = serve
                await asyncio.to_thread(sidecar.wait_for_log, lambda line: line.get("to") == "half-open")
                assert (await caller.call()).seen.status == 0
                (cluster,) = json.loads(sidecar.get("/clusters")[1])
                assert cluster["endpoints"][0]["breaker"] == "closed"
                assert cluster["endpoints"][0]["breaker_tripped_by"]["code"] == "UNAVAILABLE"


class HealthyAgent:
    """A server of grpcio with the health service of its distribution."""

    def __init__(self, *, watches: bool = True) -> None:
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        self.health = health.HealthServicer()
        if watches:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        else:
            check = grpc.unary_unary_rpc_method_handler(
                self.health.Check,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
            )
            handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
            self.server.add_generic_rpc_handlers([handler])
        name = grpc.unary_unary_rpc_method_handler(lambda request, context: self.address.encode())
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", {"Name": name})])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def is_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self.health.set("test.Service", status)


@pytest.fixture(params=[True, False], ids=["watch", "check only"])
def pair(request: Any) -> Iterator[list[HealthyAgent]]:
    agents = [HealthyAgent(watches=request.param) for _ in range(2)]
    for each in agents:
        each.is_serving(True)
    yield agents
    for each in agents:
        each.server.stop(None)


def test_who_says_that_it_does_not_serve_gets_nothing_new(pair: list[HealthyAgent], tmp_path: Path) -> None:
    options = "health_check: {service: test.Service, interval: 100ms, unhealthy_after: 2}"
    with Sidecar(config([each.address for each in pair], options, "deadline: {}"), tmp_path) as sidecar:
        with grpc.insecure_channel(sidecar.addresses["inbound"]) as channel:
            ask = channel.unary_unary("/test.Service/Name")

            def served_by() -> set[str]:
                return {ask(b"", timeout=10, wait_for_ready=True).decode() for _ in range(10)}

            def say(endpoint: HealthyAgent, event: str) -> None:
                sidecar.wait_for_log(
                    lambda line: line.get("event") == event and line.get("endpoint") == endpoint.address
                )

            for each in pair:
                say(each, "endpoint healthy")
            assert served_by() == {each.address for each in pair}
            pair[0].is_serving(False)
            say(pair[0], "endpoint unhealthy")
            assert served_by() == {pair[1].address}
            assert (
                f'sidecar_endpoint_healthy{{cluster="local",endpoint="{pair[0].address}"}} 0.0'
                in sidecar.get("/metrics")[1]
            )
            # grpcio stays out of the process: the checks are made on the sidecar's own engine.
            maps = Path(f"/proc/{sidecar.pid}/maps").read_text()
            assert "cygrpc" not in maps
