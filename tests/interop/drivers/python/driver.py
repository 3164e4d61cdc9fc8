"""The driver of grpcio (grpc.aio); see ../README.md."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

channels: dict[str, grpc.aio.Channel] = {}
stopped: dict[int, asyncio.Event] = {}


def say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def channel_for(request: dict[str, Any], *, fresh: bool = False) -> grpc.aio.Channel:
    name = json.dumps([request.get(key) for key in ("target", "tls", "keepalive", "service_config")])
    if fresh or name not in channels:
        options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", 16 << 20)]
        tls = request.get("tls")
        if request.get("keepalive"):
            options.append(("grpc.keepalive_time_ms", request["keepalive"] * 1000))
        if request.get("service_config"):
            options.append(("grpc.service_config", request["service_config"]))
        if fresh:
            options.append(("grpc.use_local_subchannel_pool", 1))
        if tls is None:
            made = grpc.aio.insecure_channel(request["target"], options)
        else:
            options.append(("grpc.ssl_target_name_override", tls["server_name"]))
            files = [Path(tls[key]).read_bytes() for key in ("ca", "key", "certificate")]
            made = grpc.aio.secure_channel(request["target"], grpc.ssl_channel_credentials(*files), options)
        if fresh:
            return made
        channels[name] = made
    return channels[name]


def encoded(metadata: Any) -> list[list[str]]:
    return [
        [key, base64.b64encode(value).decode() if isinstance(value, bytes) else value] for key, value in metadata or ()
    ]


async def call(request: dict[str, Any], channel: grpc.aio.Channel) -> dict[str, Any]:
    messages = [bytes(each) if isinstance(each, int) else base64.b64decode(each) for each in request["messages"]]
    metadata = [
        (key, base64.b64decode(value) if key.endswith("-bin") else value) for key, value in request.get("metadata", ())
    ]
    kind = request["kind"]
    sends_stream, gets_stream = kind in {"client", "bidi"}, kind in {"server", "bidi"}
    make = getattr(channel, f"{'stream' if sends_stream else 'unary'}_{'stream' if gets_stream else 'unary'}")

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    options = {
        "timeout": request.get("timeout"),
        "metadata": metadata,
        "compression": grpc.Compression.Gzip if request.get("gzip") else None,
    }
    running = make(request["method"])(sent() if sends_stream else messages[0], **options)
    answers: list[bytes] = []
    try:
        if gets_stream:
            async for answer in running:
                answers.append(answer)
                if len(answers) == request.get("cancel_after"):
                    running.cancel()
        else:
            answers.append(await running)
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass
    code = await running.code()
    return {
        "code": code.value[0],
        "message": await running.details() or "",
        "initial": encoded(await running.initial_metadata()),
        "trailers": encoded(await running.trailing_metadata()),
        "answers": [
            {
                "size": len(each),
                "sha256": hashlib.sha256(each).hexdigest(),
                "data": base64.b64encode(each[:4096]).decode(),
            }
            for each in answers
        ],
    }


async def load(request: dict[str, Any]) -> dict[str, Any]:
    calls, failures = 0, []
    while not stopped[request["id"]].is_set():
        channel = channel_for(request, fresh=bool(request.get("fresh")))
        found = await call(request, channel)
        calls += 1
        if request.get("fresh"):
            await channel.close()
        if found["code"]:
            failures.append({"code": found["code"], "message": found["message"]})
        if calls % 10 == 0:
            say({"id": request["id"], "progress": calls, "failures": len(failures)})
    return {"calls": calls, "failures": failures}


async def serve(request: dict[str, Any]) -> None:
    try:
        found = await (load(request) if request["op"] == "load" else call(request, channel_for(request)))
    except Exception as error:
        found = {"error": repr(error)}
    say({"id": request["id"], **found})


async def main() -> None:
    loop = asyncio.get_running_loop()
    tasks = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        if request["op"] == "stop":
            stopped[request["of"]].set()
            continue
        stopped[request["id"]] = asyncio.Event()
        tasks.add(asyncio.create_task(serve(request)))
    for channel in channels.values():
        await channel.close()


if __name__ == "__main__":
    asyncio.run(main())
