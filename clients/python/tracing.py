"""Spans of a client's calls, by OpenTelemetry's own instrumentation of gRPC (`pip install grpc-sidecar[otel]`).

    AgentClient(target, interceptors=tracing(provider))

The context goes along as `traceparent`, so sidecars and agents join the trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.instrumentation.grpc import aio_client_interceptors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc
    from opentelemetry.trace import TracerProvider


def tracing(provider: TracerProvider | None = None) -> Sequence[grpc.aio.ClientInterceptor]:
    """Interceptors for `AgentClient`; without a `provider`, OpenTelemetry's global one is used."""
    found: Sequence[grpc.aio.ClientInterceptor] = aio_client_interceptors(provider)  # type: ignore[no-untyped-call]
    return found
