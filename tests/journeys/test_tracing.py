"""One RPC through both sidecars is one trace in a real collector, with the caller's span above it and the agent's below."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from tests.journeys.pair import Pair
from tests.support.otlp import Collector, ReceivedSpan
from tests.support.processes import Sidecar

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TOP = """
policies:
  tracing: {{otlp: "{url}", sample: 0}}
  retry: {{max_attempts: 3, initial_backoff: 10ms, max_backoff: 20ms, only_idempotent: false}}
"""


class Agent(grpc.GenericRpcHandler):
    """Fails as often as the metadata `x-fail` says, then echoes; keeps the `traceparent` of each attempt."""

    def __init__(self) -> None:
        self.traceparents: list[str] = []

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, message: bytes, context: Any) -> bytes:
        given = dict(context.invocation_metadata())
        self.traceparents.append(given.get("traceparent", ""))
        if int(given.get("grpc-previous-rpc-attempts", 0)) < int(given.get("x-fail", 0)):
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return message


@contextlib.contextmanager
def serving() -> Iterator[tuple[Agent, str]]:
    agent = Agent()
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((agent,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield agent, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def call(address: str, *metadata: tuple[str, str], method: str = "/shop.Orders/Get") -> bytes:
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        answer: bytes = channel.unary_unary(method)(b"x", metadata=metadata, timeout=15)
        return answer


def of(spans: list[ReceivedSpan], service: str, kind: str) -> list[ReceivedSpan]:
    found = [each for each in spans if (each.service, each.kind) == (service, kind)]
    return sorted(found, key=lambda each: each.start)


def test_one_trace_joins_caller_both_sidecars_and_agent(tmp_path: Path) -> None:
    with Collector() as collector, serving() as (agent, address):
        with Pair(tmp_path, address, top=TOP.format(url=collector.url)) as pair:
            call(pair.address, ("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "a=1"), ("x-fail", "1"))
            # Neither of these is sampled, so neither is seen.
            call(pair.address)
            call(pair.address, ("traceparent", f"00-{TRACE}-{CALLER}-00"))
        spans = collector.wait(5)
    assert {each.trace_id for each in spans} == {TRACE}
    (outer,) = of(spans, "app-host", "SERVER")
    (between,) = of(spans, "app-host", "CLIENT")
    (inner,) = of(spans, "agent-host", "SERVER")
    attempts = of(spans, "agent-host", "CLIENT")
    assert (outer.parent_id, between.parent_id, inner.parent_id) == (CALLER, outer.span_id, between.span_id)
    assert [each.parent_id for each in attempts] == [inner.span_id] * 2
    assert [each.attributes["sidecar.attempt"] for each in attempts] == [0, 1]
    assert [each.attributes["rpc.response.status_code"] for each in attempts] == ["UNAVAILABLE", "OK"]
    assert [each.is_error for each in (*attempts, inner, between, outer)] == [True, False, False, False, False]
    assert agent.traceparents[:2] == [f"00-{TRACE}-{each.span_id}-01" for each in attempts]
    assert agent.traceparents[2:] == ["", f"00-{TRACE}-{CALLER}-00"]
    assert {each.name for each in spans} == {"shop.Orders/Get"}
    assert {each.trace_state for each in spans} == {"a=1"}
    assert inner.attributes["sidecar.identity"] == "spiffe://mesh.local/agent/client"
    for child, parent in ((between, outer), (inner, between), *((each, inner) for each in attempts)):
        assert parent.start - 1e6 <= child.start <= child.end <= parent.end + 1e6
    assert len(spans) == 5


ALONE = """
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    policies: {{tracing: {{otlp: "{url}", sample: 100}}}}
    routes: [{{name: all, match: {{method: "/shop.Orders/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["{agent}"]}}
"""


def test_a_call_that_is_refused_has_a_span_that_says_why(tmp_path: Path) -> None:
    with Collector() as collector, serving() as (_, address):
        with Sidecar(ALONE.format(url=collector.url, agent=address), tmp_path) as sidecar:
            with contextlib.suppress(grpc.RpcError):
                call(sidecar.addresses["inbound"], method="/shop.Other/Get")
        (span,) = collector.wait(1)
    assert (span.kind, span.parent_id, span.attributes["sidecar.reason"]) == ("SERVER", "", "NO_ROUTE")
    assert span.is_error


def test_a_collector_that_is_not_there_costs_spans_and_nothing_else(tmp_path: Path) -> None:
    with serving() as (agent, address):
        with Sidecar(ALONE.format(url="http://127.0.0.1:1", agent=address), tmp_path) as sidecar:
            for _ in range(20):
                assert call(sidecar.addresses["inbound"]) == b"x"
        assert len(agent.traceparents) == 20
        assert "stopped" in {each.get("event") for each in sidecar.log()}
        assert [each for each in sidecar.log() if "text" in each] == []
