"""Spans of the agent server's RPCs, by OpenTelemetry's own instrumentation of gRPC (extra `otel`).

Its server interceptor takes a streaming handler to be an asynchronous generator: one that writes to its context, or a stock
Health.Watch, breaks under it. Ours are generators; health and reflection are left out all the same, as nobody wants to see them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

_UNSEEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class TracingError(Exception):
    """Spans cannot be exported; the text says what is missing."""


class Tracing:
    """A provider of its own, so that nothing global changes. `close` sends what waits."""

    def __init__(self, otlp: str, *, service: str, sample: float) -> None:
        """`otlp`: http://host:port of a collector; `sample`: percent of the calls that come without a trace. Raises TracingError."""
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.instrumentation.grpc import aio_server_interceptor
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            msg = f"otlp needs the OpenTelemetry SDK ({error.name} is missing): pip install 'grpc-sidecar[otel]'"
            raise TracingError(msg) from error
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample / 100)),
            resource=Resource.create({"service.name": service}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(
            endpoint=otlp,
            insecure=otlp.startswith("http://"),
            timeout=5,
            channel_options=(("grpc.enable_http_proxy", 0),),  # type: ignore[arg-type]
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self.interceptor: grpc.aio.ServerInterceptor[Any, Any] = aio_server_interceptor(  # type: ignore[no-untyped-call]
            self._provider, filter_=is_seen
        )

    def close(self) -> None:
        """Blocks for as long as the collector takes; call it in a thread."""
        self._provider.shutdown()


def is_seen(details: Any) -> bool:
    """Is the RPC one of those that have spans? `details` as interceptors get them."""
    return not str(details.method).startswith(_UNSEEN)
