from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from sidecar.grpc_wire.status import StatusCode
from sidecar.telemetry.otlp import Exporter
from sidecar.telemetry.spans import Span
from tests.support.otlp import Collector


def span(name: str = "p.S/M", message: str = "") -> Span:
    made = Span(
        "server", f"/{name}", trace_id=b"1" * 32, span_id=b"2" * 16, parent_id=b"3" * 16, tracestate=b"a=1", started=1.5
    )
    made.tell({"sidecar.route": "all", "sidecar.rule": None, "sidecar.attempts": 2})
    made.end(2.0, StatusCode.INTERNAL, message)
    return made


class Refusing(SpanExporter):
    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def export(self, spans: tuple[ReadableSpan, ...]) -> SpanExportResult:  # type: ignore[override]
        if self._error is not None:
            raise self._error
        return SpanExportResult.FAILURE


def test_a_span_arrives_as_it_was_meant() -> None:
    with Collector() as collector:
        exporter = Exporter(collector.url, service="orders-1", queue=10, log=logging.getLogger("t"))
        exporter.add(span(message="password=hunter2 was wrong"))
        exporter.close()
        (found,) = collector.wait(1)
    assert (found.service, found.kind, found.name) == ("orders-1", "SERVER", "p.S/M")
    assert (found.trace_id, found.span_id, found.parent_id, found.trace_state) == ("1" * 32, "2" * 16, "3" * 16, "a=1")
    assert (found.start, found.end) == (1_500_000_000, 2_000_000_000)
    assert found.is_error
    assert found.message == "password=[masked] was wrong"
    assert found.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "p.S/M",
        "rpc.response.status_code": "INTERNAL",
        "error.type": "INTERNAL",
        "sidecar.route": "all",
        "sidecar.attempts": 2,
    }
    assert exporter.counts() == {"exported": 1, "failed": 0, "dropped": 0}


@pytest.mark.parametrize("error", [None, OSError("gone")])
def test_what_the_collector_does_not_take_is_counted_and_said_once(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = Exporter("", service="s", queue=1000, log=logging.getLogger("t"), inner=Refusing(error))
    for _ in range(600):
        exporter.add(span())
    exporter.close()
    assert exporter.counts() == {"exported": 0, "failed": 600, "dropped": 0}
    assert [each.message for each in caplog.records if each.name == "t"] == ["spans are not exported"]


def test_a_full_queue_costs_spans_and_nothing_else() -> None:
    exporter = Exporter("", service="s", queue=5, log=logging.getLogger("t"), inner=Refusing())
    exporter._processor.shutdown()
    exporter._accepted = exporter._exporter.taken
    for _ in range(8):
        exporter.add(span())
    assert exporter.dropped == 3
