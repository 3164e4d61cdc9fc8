"""A collector: a real OTLP/gRPC receiver on grpcio, which keeps what it is sent."""

from __future__ import annotations

import threading
from concurrent import futures
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class ReceivedSpan(NamedTuple):
    """A span as it was on the wire; ids in hex, `kind` as "SERVER" or "CLIENT", `is_error` of its status."""

    service: str
    kind: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    is_error: bool
    message: str
    trace_state: str
    start: int
    end: int


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """`with Collector() as collector:` — `collector.url` is what `otlp:` wants."""

    def __init__(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{self.port}"
        self._spans: list[ReceivedSpan] = []
        self._changed = threading.Condition()

    def Export(self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any) -> Any:
        found = [
            _received(resource.resource, span)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._changed:
            self._spans.extend(found)
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait(self, count: int, limit: float = 20.0) -> list[ReceivedSpan]:
        """All spans so far, `count` of them at least."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._spans) >= count, limit), self._spans
            return list(self._spans)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()


def _received(resource: Any, span: Any) -> ReceivedSpan:
    service = next(each.value.string_value for each in resource.attributes if each.key == "service.name")
    kind = {2: "SERVER", 3: "CLIENT"}.get(span.kind, str(span.kind))
    attributes = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    return ReceivedSpan(
        service,
        kind,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        attributes,
        span.status.code == 2,
        span.status.message,
        span.trace_state,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )
