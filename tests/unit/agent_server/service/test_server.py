"""How the server is set."""

from __future__ import annotations

from agent_server.configuration.settings import Settings
from agent_server.service.server import AGENT_SERVICE, options


def test_a_port_is_not_shared_and_limits_are_equal() -> None:
    found = dict(options(Settings(max_message_bytes=5000)))
    assert found["grpc.so_reuseport"] == 0
    assert found["grpc.max_receive_message_length"] == found["grpc.max_send_message_length"] == 5000
    assert found["grpc.max_metadata_size"] == found["grpc.absolute_max_metadata_size"]


def test_the_name_of_the_service() -> None:
    assert AGENT_SERVICE == "agent.v1.AgentService"
