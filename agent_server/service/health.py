"""grpc.health.v1.Health.

Why not the servicer of grpcio-health-checking? Its Watch writes to the context, which interceptors that expect a generator break.
"""

# ruff: noqa: N802 - methods are named as in the proto

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

SERVICE = "grpc.health.v1.Health"

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Health of the server ("") and of its services. All begin as NOT_SERVING."""

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses: dict[str, health_pb2.HealthCheckResponse.ServingStatus] = dict.fromkeys(
            ("", *services), NOT_SERVING
        )
        self._changed = asyncio.Event()
        self._is_ended = False

    def set_all(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        """The server and all its services have this status from now on."""
        self._statuses = dict.fromkeys(self._statuses, status)
        self._tell()

    def end(self) -> None:
        """NOT_SERVING for good. Watchers are told so and let go, or they would hold up the end of the server."""
        self._is_ended = True
        self.set_all(NOT_SERVING)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} is known here")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told: health_pb2.HealthCheckResponse.ServingStatus | None = None
        while True:
            # All three before yielding: what changes meanwhile is found by the next look.
            changed, is_ended = self._changed, self._is_ended
            status = self._statuses.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            if is_ended:
                return
            await changed.wait()

    async def List(
        self, request: health_pb2.HealthListRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthListResponse:
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        )

    def _tell(self) -> None:
        # Each change has an event of its own: a watcher that is still yielding finds the one it took already set.
        self._changed.set()
        self._changed = asyncio.Event()
