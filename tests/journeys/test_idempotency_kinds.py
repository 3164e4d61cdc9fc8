"""Keyed RPCs of every kind, and large answers, through a real sidecar with a real store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc.aio
import pytest
from cryptography.fernet import Fernet

from tests.support.crash import free_port
from tests.support.processes import Sidecar
from tests.support.redis import RedisServer

MESSAGE = 10 * 1024 * 1024
LIMIT = 30.0
KEY = (("idempotency-key", "once"),)
CONFIG = """
admin: {{bind: "127.0.0.1:0"}}
store: {{url: "{store}"}}
encryption: {{keys: ["{key}"]}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    limits: {{max_message: 64MiB}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
policies:
  idempotency: {{max_recorded: {kept}}}
clusters:
  local: {{endpoints: ["{agent}"]}}
"""


class Agent:
    """One method of each kind; every execution gives other bytes than the one before."""

    def __init__(self) -> None:
        self.executions: Counter[str] = Counter()
        self.may_go_on = asyncio.Event()
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)])
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Large": grpc.unary_unary_rpc_method_handler(self._large),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Talk": grpc.stream_stream_rpc_method_handler(self._talk),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{free_port()}')}"

    def _count(self, kind: str) -> bytes:
        self.executions[kind] += 1
        return b"execution %d of %s" % (self.executions[kind], kind.encode())

    async def _unary(self, request: bytes, context: Any) -> bytes:
        return self._count("Unary") + request

    async def _large(self, request: bytes, context: Any) -> bytes:
        return self._count("Large").ljust(MESSAGE, b".")

    async def _download(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        text = self._count("Download")
        yield text + b": begins"
        await self.may_go_on.wait()
        yield text + b": ends"

    async def _upload(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return self._count("Upload") + b"|".join([each async for each in requests])

    async def _talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        text = self._count("Talk")
        async for each in requests:
            yield text + each

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(None)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield "sqlite:///s.db"
        return
    server = RedisServer(tmp_path)
    server.start()
    yield server.url
    server.stop()


def config(store: str, agent: Agent, *, kept: str = "1MiB") -> str:
    return CONFIG.format(store=store, agent=agent.address, kept=kept, key=Fernet.generate_key().decode())


def channel(sidecar: Sidecar) -> Any:
    return grpc.aio.insecure_channel(sidecar.addresses["inbound"], [("grpc.max_receive_message_length", -1)])


async def replayed(call: Any) -> bool:
    return dict(await call.initial_metadata()).get("idempotency-replayed") == "true"


async def test_each_kind_is_executed_once_and_answered_twice(tmp_path: Path) -> None:
    async with Agent() as agent:
        agent.may_go_on.set()
        with Sidecar(config("sqlite:///s.db", agent), tmp_path) as sidecar:
            async with channel(sidecar) as to:
                methods: dict[str, Any] = {
                    "Unary": to.unary_unary("/test.Kinds/Unary"),
                    "Download": to.unary_stream("/test.Kinds/Download"),
                    "Upload": to.stream_unary("/test.Kinds/Upload"),
                    "Talk": to.stream_stream("/test.Kinds/Talk"),
                }
                for kind, method in methods.items():
                    answers = []
                    for again in (False, True):
                        request = iter([b"a", b"b"]) if kind in {"Upload", "Talk"} else b"a"
                        call = method(request, metadata=KEY, timeout=LIMIT)
                        streams = kind in {"Download", "Talk"}
                        answers.append([each async for each in call] if streams else [await call])
                        assert await replayed(call) is again, kind
                        assert await call.code() is grpc.StatusCode.OK
                    assert answers[0] == answers[1], kind
        assert agent.executions == {"Unary": 1, "Download": 1, "Upload": 1, "Talk": 1}


async def test_joiners_of_a_stream_see_the_same_messages(tmp_path: Path) -> None:
    async with Agent() as agent:
        with Sidecar(config("sqlite:///s.db", agent), tmp_path) as sidecar:
            async with channel(sidecar) as to:
                method = to.unary_stream("/test.Kinds/Download")
                first = method(b"a", metadata=KEY, timeout=LIMIT)
                begun = await first.read()
                assert begun == b"execution 1 of Download: begins", "messages go on when they come"
                joiners = [method(b"a", metadata=KEY, timeout=LIMIT) for _ in range(3)]
                reading = [asyncio.ensure_future(_all(each)) for each in joiners]
                agent.may_go_on.set()
                expected = [begun, await first.read()]
                assert not await first.read(), "it has ended"
                assert await asyncio.gather(*reading) == [expected] * 3
        assert agent.executions == {"Download": 1}


async def _all(call: Any) -> list[bytes]:
    return [each async for each in call]


async def test_a_large_answer_is_kept_where_that_is_configured(tmp_path: Path, store: str) -> None:
    async with Agent() as agent:
        with Sidecar(config(store, agent, kept="16MiB"), tmp_path) as sidecar:
            async with channel(sidecar) as to:
                method = to.unary_unary("/test.Kinds/Large")
                first = await method(b"a", metadata=KEY, timeout=LIMIT)
                again = method(b"a", metadata=KEY, timeout=LIMIT)
                assert await again == first
                assert len(first) == MESSAGE
                assert await replayed(again)
        assert agent.executions == {"Large": 1}


async def test_a_larger_answer_is_passed_on_and_refused_afterwards(tmp_path: Path) -> None:
    async with Agent() as agent:
        with Sidecar(config("sqlite:///s.db", agent), tmp_path) as sidecar:
            async with channel(sidecar) as to:
                method = to.unary_unary("/test.Kinds/Large")
                assert len(await method(b"a", metadata=KEY, timeout=LIMIT)) == MESSAGE
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await method(b"a", metadata=KEY, timeout=LIMIT)
                assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
                assert "too large to be kept" in (refused.value.details() or "")
        assert agent.executions == {"Large": 1}
