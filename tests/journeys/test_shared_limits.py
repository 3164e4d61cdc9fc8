"""Two sidecars share limits and budgets through one Redis, lose it, and have it again; workers share a SQLite file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from tests.support.processes import Sidecar
from tests.support.redis import RedisServer

CONFIG = """
admin: {{bind: 127.0.0.1:0}}
store: {{url: "{store}"}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    routes:
      - name: limited
        match: {{method: /test.Service/Limited}}
        to: local
        policies:
          rate_limit: [{{name: shared, rate: 20/1s, burst: 15, per: [metadata.x-tenant], scope: shared}}]
      - name: strict
        match: {{method: /test.Service/Strict}}
        to: local
        policies:
          rate_limit: [{{name: strict, rate: 1000/1s, scope: shared, on_store_error: deny}}]
      - name: paid
        match: {{method: /test.Service/Paid}}
        to: local
        policies:
          budget:
            - {{name: tokens, limit: 1000/1h, per: [metadata.x-tenant], reserve: 100, scope: shared,
               charge: {{trailer: x-usage-tokens}}}}
      - name: streamed
        match: {{method: /test.Service/Streamed}}
        to: local
        policies:
          budget: [{{name: answers, limit: 10/1h, reserve: 3, scope: shared, charge: {{message: 1}}}}]
clusters:
  local: {{endpoints: ["127.0.0.1:{agent}"]}}
"""


class Agent:
    """Answers at once, except that `Paid` waits while `gate` is shut; each answer of it used 40 tokens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(40))
        unary = grpc.unary_unary_rpc_method_handler
        handlers = {
            "Limited": unary(lambda request, _: request),
            "Strict": unary(lambda request, _: request),
            "Paid": unary(self._paid),
            "Streamed": grpc.unary_stream_rpc_method_handler(lambda _, __: (b"%d" % i for i in range(100))),
        }
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", handlers)])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _paid(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.arrived.set()
        self.gate.wait(30)
        context.set_trailing_metadata((("x-usage-tokens", "40"),))
        return request


class Pair:
    """Two sidecars before one agent, and a channel to each."""

    def __init__(self, store: str, folder: Path, agent: Agent) -> None:
        config = CONFIG.format(store=store, agent=agent.port)
        self.sidecars = [Sidecar(config, folder, name=name) for name in ("one", "two")]
        # Any: the stubs of grpc ask for serializers that messages in bytes do not need.
        self.channels: list[Any] = []

    def __enter__(self) -> Pair:
        for each in self.sidecars:
            each.start()
            host, port = each.address()
            self.channels.append(grpc.insecure_channel(f"{host}:{port}"))
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self.channels:
            channel.close()
        for each in self.sidecars:
            each.stop()

    def call(self, number: int, method: str, tenant: str = "acme") -> Any:
        """Start a unary RPC at one sidecar or the other."""
        stub = self.channels[number % 2].unary_unary(f"/test.Service/{method}")
        return stub.future(b"hello", metadata=(("x-tenant", tenant),), timeout=30)

    def codes(self, count: int, method: str, tenant: str = "acme") -> list[grpc.StatusCode]:
        calls = [self.call(i, method, tenant) for i in range(count)]
        return [each.code() for each in calls]

    def metric(self, text: str) -> float:
        """Sum of the samples of both sidecars whose line begins with `text`."""
        lines = [line for each in self.sidecars for line in each.get("/metrics")[1].splitlines()]
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(text))


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.gate.set()
    agent.server.stop(0).wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


def eventually(what: Callable[[], bool], limit: float = 15.0) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"


@pytest.fixture(params=["redis", "sqlite"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, agent: Agent) -> Iterator[Pair]:
    if request.param == "redis":
        store = request.getfixturevalue("server").url
    else:
        store = "sqlite:///./state/shared.db"
    with Pair(store, tmp_path, agent) as pair:
        yield pair


def test_two_sidecars_never_let_more_through_than_rate_and_burst(pair: Pair) -> None:
    begun = time.monotonic()
    codes = pair.codes(100, "Limited") + pair.codes(100, "Limited")
    elapsed = time.monotonic() - begun
    passed = codes.count(grpc.StatusCode.OK)
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert 15 <= passed <= 15 + elapsed * 20
    assert pair.metric("sidecar_limit_refusals_total") == 200 - passed
    assert pair.codes(2, "Limited", "another tenant") == [grpc.StatusCode.OK] * 2


def test_a_refusal_tells_a_caller_when_to_come_back(pair: Pair) -> None:
    calls = [pair.call(i, "Limited") for i in range(60)]
    refused = next(each for each in calls if each.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "rate limit shared: 20/1s per metadata.x-tenant, burst 15" in refused.details()
    pushback = int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"])
    assert 0 < pushback <= 50
    status = rpc_status.from_call(refused)
    assert sorted(each.type_url.rpartition(".")[2] for each in status.details) == [
        "ErrorInfo",
        "QuotaFailure",
        "RetryInfo",
    ]
    assert "acme" not in str(status)


def test_two_hundred_at_once_against_a_budget_for_ten(pair: Pair, agent: Agent) -> None:
    agent.gate.clear()
    calls = [pair.call(i, "Paid") for i in range(200)]
    eventually(lambda: sum(each.done() for each in calls) == 190)
    agent.gate.set()
    codes = [each.code() for each in calls]
    assert codes.count(grpc.StatusCode.OK) == 10
    # Each used 40 of the 100 it had reserved: 600 are left, of which six can be reserved at once.
    eventually(lambda: pair.metric("sidecar_budget_charged_total") == 400)
    agent.gate.clear()
    calls = [pair.call(i, "Paid") for i in range(20)]
    eventually(lambda: sum(each.done() for each in calls) == 14)
    agent.gate.set()
    assert [each.code() for each in calls].count(grpc.StatusCode.OK) == 6


def test_a_stream_whose_budget_ends_is_ended(pair: Pair) -> None:
    stream = pair.channels[0].unary_stream("/test.Service/Streamed")(b"", timeout=30)
    received: list[bytes] = []
    with pytest.raises(grpc.RpcError):
        received.extend(stream)
    assert received == [b"%d" % i for i in range(10)]
    assert stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "budget answers: 10/1h" in stream.details()
    again = pair.channels[1].unary_stream("/test.Service/Streamed")(b"", timeout=30)
    with pytest.raises(grpc.RpcError):
        next(again)
    assert again.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_redis_stopped_in_the_middle_behaves_as_configured_and_comes_back(
    server: RedisServer, tmp_path: Path, agent: Agent
) -> None:
    with Pair(server.url, tmp_path, agent) as pair:
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in pair.codes(60, "Limited")
        server.stop()
        # Allowed and counted by default; refused, without a word about Redis, where that was asked for.
        assert pair.codes(60, "Limited") == [grpc.StatusCode.OK] * 60
        assert pair.metric("sidecar_limit_store_errors_total") == 60
        strict = pair.call(0, "Strict")
        assert strict.code() is grpc.StatusCode.UNAVAILABLE
        assert "redis" not in (strict.details() + str(rpc_status.from_call(strict))).lower()
        server.start()
        eventually(lambda: pair.codes(2, "Strict") == [grpc.StatusCode.OK] * 2)
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in pair.codes(100, "Limited")


def test_the_reservation_of_a_sidecar_that_died_expires(server: RedisServer, tmp_path: Path, agent: Agent) -> None:
    config = CONFIG.format(store=server.url, agent=agent.port).replace("reserve: 100,", "reserve: 1000, lease: 1s,")
    agent.gate.clear()
    dead, alive = Sidecar(config, tmp_path, name="dead"), Sidecar(config, tmp_path, name="alive")
    with alive:
        dead.start()
        channels: list[Any] = [grpc.insecure_channel("{}:{}".format(*each.address())) for each in (dead, alive)]
        calls = [each.unary_unary("/test.Service/Paid") for each in channels]
        first = calls[0].future(b"", timeout=30)
        assert agent.arrived.wait(30)
        assert calls[1].future(b"", timeout=30).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        dead.kill()
        assert first.code() is grpc.StatusCode.UNAVAILABLE
        agent.gate.set()
        eventually(lambda: calls[1].future(b"", timeout=30).code() is grpc.StatusCode.OK)
        for each in channels:
            each.close()
