"""Keyed RPCs whose store is in trouble: a disk that takes no more, a file that may only be read, a Redis that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from sidecar.clock import LoopClock, sleep
from tests.support.crash import CONFIG, METHOD, Payments
from tests.support.processes import Sidecar
from tests.support.redis import RedisServer

LIMIT = 10.0


def key(name: str) -> tuple[tuple[str, str], ...]:
    return (("idempotency-key", name),)


async def refused(pay: Any, name: str) -> str:
    """The reason that a keyed RPC is refused for; its status, its own deadline left alone, is UNAVAILABLE."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pay(name.encode(), metadata=key(name), timeout=LIMIT)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value.details() or ""


async def test_a_disk_that_takes_no_more_executes_nothing_keyed(tmp_path: Path) -> None:
    async with Payments(tmp_path / "executions", 1) as agent:
        with Sidecar(CONFIG.format(store="sqlite:///s.db", port=0, agent=agent.address), tmp_path) as sidecar:
            async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                pay: Any = channel.unary_unary(METHOD)  # type: ignore[call-arg]
                first = await pay(b"a", metadata=key("a"), timeout=LIMIT)
                was = resource.prlimit(sidecar.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(sidecar.pid, resource.RLIMIT_FSIZE, (4096, was[1]))
                assert "none is executed" in await refused(pay, "b")
                assert await pay(b"c", timeout=LIMIT), "keyless traffic is not touched"
                assert sidecar.get("/livez")[0] == 200
                resource.prlimit(sidecar.pid, resource.RLIMIT_FSIZE, was)
                assert await pay(b"a", metadata=key("a"), timeout=LIMIT) == first
                assert await pay(b"d", metadata=key("d"), timeout=LIMIT)
        assert agent.executions() == {"a": 1, "c": 1, "d": 1}


class Delay:
    """A TCP relay before a Redis: what Redis says arrives `seconds` later."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.seconds = 0.0
        self.address = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Delay]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        try:
            yield self
        finally:
            server.close()
            for each in self._tasks:
                each.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        back, to = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._pump(reader, to, slow=False), self._pump(back, writer, slow=True))
        finally:
            writer.close()
            to.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        clock = LoopClock(asyncio.get_running_loop())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if slow and self.seconds:
                    await sleep(clock, self.seconds)
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_a_redis_that_is_slow_is_not_waited_for(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        async with Payments(tmp_path / "executions", 1) as agent, Delay(server.port).running() as delay:
            with Sidecar(CONFIG.format(store=delay.address, port=0, agent=agent.address), tmp_path) as sidecar:
                async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                    pay: Any = channel.unary_unary(METHOD)  # type: ignore[call-arg]
                    first = await pay(b"a", metadata=key("a"), timeout=LIMIT)
                    delay.seconds = 2.0
                    assert "none is executed" in await refused(pay, "b")
                    assert await pay(b"c", timeout=LIMIT), "keyless traffic is not touched"
                    delay.seconds = 0.0
                    assert await _when_it_is_back(pay, "a") == first
        assert agent.executions() == {"a": 1, "c": 1}
    finally:
        server.stop()


async def _when_it_is_back(pay: Any, name: str) -> bytes:
    clock = LoopClock(asyncio.get_running_loop())
    async with asyncio.timeout(2 * LIMIT):
        while True:
            try:
                answer: bytes = await pay(name.encode(), metadata=key(name), timeout=LIMIT)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                await sleep(clock, 0.1)
            else:
                return answer
