"""The agent of the interoperability suite: does with each call what its metadata `x-do` (JSON) says, and remembers how it ended.

    {"code": 14, "message": "…", "details": BASE64}   end with this status
    {"count": 3}                                      so many answers of a server stream
    {"hold": true}                                    answer once, then stay until the call ends
    {"cancel": true}                                  answer once, then end with CANCELLED
    {"fail_first": 2, "key": "k"}                     UNAVAILABLE for the first two calls of this key
    {"gzip": true}                                    compress the answers
    {"report": "id"}                                  /interop.v1.Echo/Ended with this id tells how the call ended

Metadata `echo-*` comes back in the initial metadata and in the trailers; messages come back as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc

SERVICE = "interop.v1.Echo"
OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.so_reuseport", 0),
]


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self) -> None:
        self._seen: collections.Counter[str] = collections.Counter()
        self._ended: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def service(self, details: Any) -> Any:
        prefix, _, name = details.method.rpartition("/")
        if prefix != f"/{SERVICE}":
            return None
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self._one),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self._server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self._client_stream),
            "Bidi": grpc.stream_stream_rpc_method_handler(self._bidi),
            "Ended": grpc.unary_unary_rpc_method_handler(self._report),
        }.get(name)

    async def _one(self, message: bytes, context: Any) -> bytes:
        async def answers(_: dict[str, Any]) -> AsyncIterator[bytes]:
            yield message

        async for answer in self._do(context, answers):
            return answer
        raise AssertionError("no answer")

    async def _server_stream(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        async def answers(do: dict[str, Any]) -> AsyncIterator[bytes]:
            for _ in range(do.get("count", 3)):
                yield message

        async for answer in self._do(context, answers):
            yield answer

    async def _client_stream(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        async def answers(_: dict[str, Any]) -> AsyncIterator[bytes]:
            sizes = [len(message) async for message in messages]
            yield json.dumps(sizes).encode()

        async for answer in self._do(context, answers):
            return answer
        raise AssertionError("no answer")

    async def _bidi(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async def answers(_: dict[str, Any]) -> AsyncIterator[bytes]:
            async for message in messages:
                yield message

        async for answer in self._do(context, answers):
            yield answer

    async def _report(self, message: bytes, _: Any) -> bytes:
        return json.dumps(await self._end_of(message.decode())).encode()

    async def _do(self, context: Any, answers: Any) -> AsyncIterator[bytes]:
        metadata = [(str(key), value) for key, value in context.invocation_metadata()]
        do = json.loads(dict(metadata).get("x-do", "{}"))
        how = {"ended": "cancelled", "timeout": context.time_remaining()}
        try:
            echoed = [pair for pair in metadata if pair[0].startswith("echo-")]
            if "fail_first" in do:  # Before any answer: a call that has one may not be repeated.
                self._seen[do["key"]] += 1
                if self._seen[do["key"]] <= do["fail_first"]:
                    await self._fail(context, 14, "not yet")
            if do.get("gzip"):
                context.set_compression(grpc.Compression.Gzip)
            await context.send_initial_metadata(echoed)
            size = sum(len(key) + len(value) for key, value in metadata)
            context.set_trailing_metadata((*echoed, ("saw-size", str(size))))
            if "code" in do:
                details = do.get("details")
                if details is not None:
                    context.set_trailing_metadata((("grpc-status-details-bin", base64.b64decode(details)),))
                await self._fail(context, do["code"], do.get("message", ""))
            async for answer in answers(do):
                yield answer
                if do.get("cancel"):
                    await self._fail(context, 1, "enough")
                if do.get("hold"):
                    await asyncio.Event().wait()
            how["ended"] = "finished"
        except grpc.aio.AbortError:
            how["ended"] = "failed"
            raise
        finally:
            if "report" in do:
                end = self._end_of(do["report"])
                if not end.done():
                    end.set_result(how)

    async def _fail(self, context: Any, number: int, message: str) -> None:
        code = next(code for code in grpc.StatusCode if code.value[0] == number)
        await context.abort(code, message, context.trailing_metadata())

    def _end_of(self, name: str) -> asyncio.Future[dict[str, Any]]:
        return self._ended.setdefault(name, asyncio.get_running_loop().create_future())


async def serve(bind: str) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port(bind)
    await server.start()
    print(f"echo ready 127.0.0.1:{port}", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await server.stop(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1:0")
    asyncio.run(serve(parser.parse_args().bind))
