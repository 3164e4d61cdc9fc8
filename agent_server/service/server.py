"""The server: what it serves, how it is set, how it starts and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from agent_server.service import health as health_service
from agent_server.service.api import agent_pb2, agent_pb2_grpc
from agent_server.service.binding import Address, BindError, TcpAddress, claim
from agent_server.service.health import Health
from agent_server.service.reflection import add_reflection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_server.configuration.settings import Settings
    from agent_server.service.agent_service import AgentService

AGENT_SERVICE = agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name

_METADATA_BYTES = 64 << 10


def options(settings: Settings) -> list[tuple[str, int]]:
    """Channel arguments of grpc-core."""
    return [
        # Two servers on one port would share its connections by chance.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Equal, because between the soft and the hard limit grpc-core refuses a random sample.
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        # The sidecar keeps connections alive by pings, also while no call is open; gRFC A8's default would answer with GOAWAY.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]


class AgentServer:
    """The gRPC server around an AgentService."""

    def __init__(
        self,
        service: AgentService,
        settings: Settings,
        interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = (),
    ) -> None:
        self._settings = settings
        self._server = grpc.aio.server(
            interceptors=interceptors,
            options=options(settings),
            maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
        )
        self.health = Health([AGENT_SERVICE])
        agent_pb2_grpc.add_AgentServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        if settings.reflection:
            add_reflection((AGENT_SERVICE, health_service.SERVICE), self._server)

    async def start(self, address: Address) -> Address:
        """Listen and serve; gives the address with the port that was taken. Raises BindError."""
        claim(address)
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            msg = f"{address}: cannot be listened on"
            raise BindError(msg) from error
        await self._server.start()
        self.health.set_all(health_service.SERVING)
        return TcpAddress(address.host, port) if isinstance(address, TcpAddress) else address

    async def stop(self, grace: float | None) -> None:
        """Take no new calls, let running ones end within `grace` seconds (None: cancel them now)."""
        self.health.end()
        await self._server.stop(grace)
