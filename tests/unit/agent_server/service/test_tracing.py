from __future__ import annotations

from types import SimpleNamespace

import pytest

from agent_server.configuration.settings import Settings
from agent_server.service.life import open_tracing
from agent_server.service.tracing import is_seen


@pytest.mark.parametrize(
    ("method", "seen"),
    [
        ("/agent.v1.AgentService/Execute", True),
        ("/grpc.health.v1.Health/Watch", False),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", False),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", False),
    ],
)
def test_what_has_spans(method: str, seen: bool) -> None:
    assert is_seen(SimpleNamespace(method=method)) is seen


def test_where_no_collector_is_named_there_is_nothing() -> None:
    assert open_tracing(Settings()) is None


def test_a_collector_that_is_not_there_is_not_waited_for_at_the_start() -> None:
    tracing = open_tracing(Settings(otlp="http://127.0.0.1:1"))
    assert tracing is not None
    tracing.close()
