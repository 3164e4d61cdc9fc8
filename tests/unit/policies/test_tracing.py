from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.http2.errors import ErrorCode
from sidecar.policies.retry import Retry, RetryConfig
from sidecar.policies.tracing import Collector, Tracing, TracingConfig
from sidecar.proxy.policy import Policy
from sidecar.runtime import Runtime
from sidecar.telemetry.spans import Span
from tests.support.otlp import Collector as Receiver
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"


class Kept:
    """In place of an exporter."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        self.spans.append(span)


def answers(stream: ScriptedStream, event: str) -> None:
    if event == "end":
        stream.send_headers(block(*RESPONSE))
        stream.send_data(message(b"done"), False)
        stream.send_headers(block(("grpc-status", "0")), True)


def fails(stream: ScriptedStream, event: str) -> None:
    if event == "end":
        stream.send_headers(block(*RESPONSE, ("grpc-status", "14"), ("grpc-message", "down")), True)


def scene(section: dict[str, Any] | None = None, *, retry: bool = False, **options: Any) -> tuple[Scene, list[Span]]:
    kept = Kept()

    def policies(runtime: Runtime) -> list[Policy[Any]]:
        config = TracingConfig.model_validate({"otlp": "http://127.0.0.1:4317", "sample": 0, **(section or {})})
        tracing = Tracing(config, runtime)
        tracing.collector.exporter = kept  # type: ignore[assignment]
        repeats = [Retry(RetryConfig.model_validate({"initial_backoff": "1s"}, strict=False), runtime)]
        return [tracing, *(repeats if retry else [])]

    return Scene(policies=policies, **{"on_agent": answers, **options}), kept.spans


def sent(stream: ScriptedStream, name: str) -> list[str]:
    return [value.decode() for key, value in stream.seen.headers if key == name.encode()]


def test_a_trace_is_continued() -> None:
    made, spans = scene()
    made.call(("traceparent", SAMPLED), ("tracestate", "a=1,b=2"))
    client, server = spans
    assert (server.kind, client.kind) == ("server", "client")
    assert server.trace_id == client.trace_id == TRACE.encode()
    assert server.parent_id == PARENT.encode()
    assert client.parent_id == server.span_id
    assert sent(made.agent, "traceparent") == [f"00-{TRACE}-{client.span_id.decode()}-01"]
    assert sent(made.agent, "tracestate") == ["a=1,b=2"]
    assert server.tracestate == b"a=1,b=2"
    assert server.name == "test.Service/Method"
    assert server.attributes["rpc.system.name"] == "grpc"
    assert server.attributes["rpc.method"] == "test.Service/Method"
    assert server.attributes["rpc.response.status_code"] == "OK"
    assert server.attributes["sidecar.identity"] == "spiffe://mesh.local/agent/caller"
    assert (server.attributes["client.address"], server.attributes["client.port"]) == ("10.0.0.9", 5000)
    assert client.attributes["server.address"] == "agent-1"
    assert not server.is_error
    assert made.leaks() == []


@pytest.mark.parametrize("given", [(), (("traceparent", UNSAMPLED), ("tracestate", "a=1"))])
def test_what_is_not_sampled_goes_on_as_it_came(given: tuple[tuple[str, str], ...]) -> None:
    made, spans = scene()
    made.call(*given)
    assert spans == []
    assert [(name, value) for name in ("traceparent", "tracestate") for value in sent(made.agent, name)] == list(given)
    assert made.calls[0].notes is None


def test_a_trace_begins_here() -> None:
    made, spans = scene({"sample": 100})
    made.call()
    client, server = spans
    assert server.parent_id is None
    assert sent(made.agent, "traceparent") == [f"00-{server.trace_id.decode()}-{client.span_id.decode()}-01"]


def test_a_share_of_the_traces_begins_here() -> None:
    made, spans = scene({"sample": 20})
    for _ in range(500):
        made.call()
    assert 70 <= len(spans) / 2 <= 130


@pytest.mark.parametrize(
    "broken", ["", "00-zz-1-01", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", SAMPLED + "-x"]
)
def test_what_nobody_understands_begins_anew(broken: str) -> None:
    made, spans = scene({"sample": 100})
    made.call(("traceparent", broken), ("tracestate", "a=1"))
    assert spans[1].trace_id != TRACE.encode()
    assert sent(made.agent, "tracestate") == []
    assert len(sent(made.agent, "traceparent")) == 1


def test_all_who_do_not_follow_their_callers_decide_alike() -> None:
    low, high = f"00-{'1' * 16}{'0' * 16}-{PARENT}-00", f"00-{'1' * 16}{'f' * 16}-{PARENT}-01"
    made, spans = scene({"sample": 50, "parent_based": False})
    made.call(("traceparent", low))
    assert [each.kind for each in spans] == ["client", "server"]
    made.call(("traceparent", high))
    assert len(spans) == 2


def test_each_attempt_is_a_span() -> None:
    made, spans = scene(retry=True, on_agent=fails, idempotent=True)
    made.call(("traceparent", SAMPLED))
    made.on_agent = answers
    made.advance(1.2)
    first, second, server = spans
    assert [each.attributes["sidecar.attempt"] for each in (first, second)] == [0, 1]
    assert [each.attributes["rpc.response.status_code"] for each in spans] == ["UNAVAILABLE", "OK", "OK"]
    assert (first.is_error, first.message, second.is_error, server.is_error) == (True, "down", False, False)
    assert {first.parent_id, second.parent_id} == {server.span_id}
    assert [sent(each, "traceparent") for each in made.agent_streams] == [
        [f"00-{TRACE}-{each.span_id.decode()}-01"] for each in (first, second)
    ]
    assert server.attributes["sidecar.attempts"] == 2
    assert made.leaks() == []


def test_a_caller_that_goes_away_leaves_no_span_open() -> None:
    made, spans = scene(on_agent=None)
    made.call(("traceparent", SAMPLED)).reset(ErrorCode.CANCEL)
    made.run()
    assert [(each.kind, each.attributes["rpc.response.status_code"]) for each in spans] == [
        ("client", "CANCELLED"),
        ("server", "CANCELLED"),
    ]
    assert all(each.ended >= each.started for each in spans)


def test_what_is_refused_before_any_policy_has_a_span() -> None:
    made, spans = scene()
    made.edge.draining = True
    made.call(("traceparent", SAMPLED))
    made.call()
    (server,) = spans
    assert (server.attributes["sidecar.reason"], server.attributes["sidecar.origin"]) == ("DRAINING", "sidecar")
    assert server.is_error


@pytest.mark.parametrize(
    "otlp",
    ["127.0.0.1:4317", "http://collector", "ftp://a:1", "http://u:p@h:4317", "http://h:4317/v1/traces", "http://[::1"],
)
def test_an_address_that_is_none_is_refused(otlp: str) -> None:
    with pytest.raises(ValidationError):
        TracingConfig(otlp=otlp)


def test_what_ends_before_the_exporter_is_there_waits_for_it() -> None:
    collector, kept = Collector(), Kept()
    config = TracingConfig(otlp="http://127.0.0.1:1", queue=2)
    made, spans = scene({"sample": 100})
    collector._limit = config.queue
    for _ in range(2):
        made.call()
    for span in spans[:3]:
        collector.add(span)
    assert collector.counts() == [(("dropped",), 1)]
    collector.exporter = kept  # type: ignore[assignment]
    collector.add(spans[3])
    assert kept.spans == [spans[0], spans[1], spans[3]]


def test_opening_waits_for_nobody_and_closing_sends_what_came_early() -> None:
    with Receiver() as receiver:
        made, spans = scene({"sample": 100})
        made.call()
        collector = Collector()
        collector.open(TracingConfig(otlp=receiver.url), made.runtime)
        for span in spans:
            collector.add(span)
        (close,) = made.runtime.closers
        close()
        assert {each.kind for each in receiver.wait(2)} == {"SERVER", "CLIENT"}
    assert dict(collector.counts()) == {("exported",): 2, ("failed",): 0, ("dropped",): 0}


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_meanwhile_does_not_change_how_long_a_span_lasted(hours: int) -> None:
    tried, spans = scene(on_agent=None)
    stream = tried.call(("traceparent", SAMPLED))
    began = tried.clock.wall()
    tried.clock.jump(hours * 3600.0)
    tried.advance(2.0)
    stream.reset(ErrorCode.CANCEL)
    tried.run()
    assert len(spans) == 2
    for span in spans:
        assert span.started == pytest.approx(began)
        assert span.ended - span.started == pytest.approx(2.0)
