"""grpc.health.v1 for the service `sidecar` is answered by the sidecar; every other service's health is the agent's to tell."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.processes import Sidecar

CONFIG = """
admin: {{bind: 127.0.0.1:0}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    routes: [{routes}]
  - name: narrow
    direction: inbound
    bind: 127.0.0.1:0
    routes: [{{name: one, match: {{method: "/test.Service/Method"}}, to: local}}]
clusters:
  local: {{endpoints: ["{agent}"]}}
"""
OPEN = '{name: all, match: {method: "/*"}, to: local}'
GUARDED = (
    '{name: all, match: {method: "/*"}, to: local, policies: {'
    "authz: {default: deny, allow: [{name: no-health, methods: ['/test.Service/*']}]}}}"
)
WORDS = health_pb2.HealthCheckResponse
LIMIT = 10.0


@pytest.fixture
def agent() -> Iterator[tuple[str, health.HealthServicer]]:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address, servicer
    server.stop(None)


def ask(channel: grpc.Channel, service: str) -> object:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        return stub.Check(request, timeout=LIMIT, wait_for_ready=True).status
    except grpc.RpcError as error:
        return error.code()


def test_the_sidecar_answers_for_itself_and_the_agent_for_the_rest(
    agent: tuple[str, health.HealthServicer], tmp_path: Path
) -> None:
    address, servicer = agent
    servicer.set("orders", WORDS.NOT_SERVING)
    # That the agent knows a service of this name does not matter.
    servicer.set("sidecar", WORDS.NOT_SERVING)
    with Sidecar(CONFIG.format(agent=address, routes=OPEN), tmp_path) as sidecar:
        with grpc.insecure_channel(sidecar.addresses["inbound"]) as channel:
            assert ask(channel, "sidecar") == WORDS.SERVING
            assert ask(channel, "") == WORDS.SERVING
            assert ask(channel, "orders") == WORDS.NOT_SERVING
            assert ask(channel, "sidecars") == grpc.StatusCode.NOT_FOUND
        # Where no route leads to any health service, the agent's is not reached; ours is.
        with grpc.insecure_channel(sidecar.addresses["narrow"]) as channel:
            assert ask(channel, "sidecar") == WORDS.SERVING
            assert ask(channel, "orders") == grpc.StatusCode.UNIMPLEMENTED
        routes = [route["name"] for route in json.loads(sidecar.get("/listeners")[1])[0]["routes"]]
        assert routes == ["all", "(no route)"]


def test_a_watch_is_told_of_the_end(agent: tuple[str, health.HealthServicer], tmp_path: Path) -> None:
    address, servicer = agent
    servicer.set("orders", WORDS.SERVING)
    with Sidecar(CONFIG.format(agent=address, routes=OPEN), tmp_path) as sidecar:
        with grpc.insecure_channel(sidecar.addresses["inbound"]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            own = stub.Watch(health_pb2.HealthCheckRequest(service="sidecar"), timeout=LIMIT)
            agents = stub.Watch(health_pb2.HealthCheckRequest(service="orders"), timeout=LIMIT)
            assert next(own).status == WORDS.SERVING
            assert next(agents).status == WORDS.SERVING
            servicer.set("orders", WORDS.NOT_SERVING)
            assert next(agents).status == WORDS.NOT_SERVING
            agents.cancel()
            sidecar.signal(signal.SIGTERM)
            assert next(own).status == WORDS.NOT_SERVING
            with pytest.raises(grpc.RpcError) as ended:
                next(own)
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        # A watch does not hold up the end.
        assert sidecar.wait() == 0


def test_who_may_not_ask_is_not_told(agent: tuple[str, health.HealthServicer], tmp_path: Path) -> None:
    with Sidecar(CONFIG.format(agent=agent[0], routes=GUARDED), tmp_path) as sidecar:
        with grpc.insecure_channel(sidecar.addresses["inbound"]) as channel:
            assert ask(channel, "sidecar") == grpc.StatusCode.PERMISSION_DENIED
            assert ask(channel, "") == grpc.StatusCode.PERMISSION_DENIED


def test_a_limit_that_waits_for_its_store_passes_no_message_by(
    agent: tuple[str, health.HealthServicer], tmp_path: Path
) -> None:
    """The message is here before the store has answered; what looks at messages sees it all the same."""
    address, _ = agent
    shared = (
        f'store: {{url: "sqlite:///{tmp_path}/state.db"}}\n'
        "policies: {rate_limit: [{name: all, rate: 600/1m, scope: shared}]}\n"
    )
    with Sidecar(shared + CONFIG.format(agent=address, routes=OPEN), tmp_path) as sidecar:
        with grpc.insecure_channel(sidecar.addresses["inbound"]) as channel:
            assert ask(channel, "sidecar") == WORDS.SERVING
            assert ask(channel, "") == WORDS.SERVING
