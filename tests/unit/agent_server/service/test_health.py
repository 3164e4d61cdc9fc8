"""grpc.health.v1."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from agent_server.service.health import NOT_SERVING, SERVING, Health


class Context:
    async def abort(self, code: grpc.StatusCode, _: str) -> None:
        raise LookupError(code)


CONTEXT: Any = Context()


def request(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def test_check_and_list() -> None:
    async def scene() -> None:
        health = Health(["a"])
        assert (await health.Check(request("a"), CONTEXT)).status == NOT_SERVING
        health.set_all(SERVING)
        assert (await health.Check(request(), CONTEXT)).status == SERVING
        listed = await health.List(health_pb2.HealthListRequest(), CONTEXT)
        assert {name: each.status for name, each in listed.statuses.items()} == {"": SERVING, "a": SERVING}
        with pytest.raises(LookupError, match="NOT_FOUND"):
            await health.Check(request("b"), CONTEXT)

    asyncio.run(scene())


def test_watch_tells_changes_and_ends_with_the_server() -> None:
    async def scene() -> list[int]:
        health = Health(["a"])
        told = []
        async for answer in health.Watch(request("a"), CONTEXT):
            told.append(answer.status)
            if len(told) == 1:
                health.set_all(SERVING)
            elif len(told) == 2:
                health.set_all(SERVING)  # no change, nothing to tell
                health.end()
        return told

    assert asyncio.run(scene()) == [NOT_SERVING, SERVING, NOT_SERVING]


def test_a_change_between_two_looks_is_not_missed() -> None:
    async def scene() -> list[int]:
        health = Health([])
        watch = health.Watch(request(), CONTEXT)
        told = [(await anext(watch)).status]
        later = asyncio.get_running_loop().create_task(anext(watch))
        asyncio.get_running_loop().call_soon(health.set_all, SERVING)
        told.append((await later).status)
        return told

    assert asyncio.run(scene()) == [NOT_SERVING, SERVING]


def test_an_unknown_service_is_watched_as_unknown() -> None:
    async def scene() -> Any:
        return (await anext(Health([]).Watch(request("b"), CONTEXT))).status

    assert asyncio.run(scene()) == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
