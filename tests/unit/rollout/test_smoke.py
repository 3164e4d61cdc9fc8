from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

import pytest

from sidecar.grpc_wire.messages import frame
from sidecar.rollout.config import SmokeConfig
from sidecar.rollout.smoke import smoke
from tests.support.clock import FakeClock
from tests.support.wire import RESPONSE, ScriptedStream, Wire, block, client_connection, server_connection

Act = Callable[[ScriptedStream, str], None]


async def outcome(act: Act, seconds: float = 0.0) -> tuple[str | None, ScriptedStream]:
    """What comes of a smoke RPC to an agent that does this, `seconds` later."""
    clock = FakeClock()
    streams: list[ScriptedStream] = []

    def accept(_: object) -> ScriptedStream:
        streams.append(ScriptedStream(act))
        return streams[-1]

    wire = Wire(client_connection(), server_connection(accept), now=clock.monotonic)
    wire.start()
    rpc = SmokeConfig(method="/p.S/Check", message=base64.b64encode(b"hello").decode(), timeout=5.0)
    task = asyncio.create_task(smoke(rpc, wire.client, "agent:1", "http", clock))
    await asyncio.sleep(0)
    wire.run()
    clock.advance(seconds)
    wire.run()
    problem = await task
    wire.run()
    assert wire.client.streams == {}
    return problem, streams[0]


def ends(*trailers: tuple[str, str]) -> Act:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE))
            stream.send_data(frame(b"fine"), False)
            stream.send_trailers(block(*trailers))

    return act


def at_once(*fields: tuple[str, str]) -> Act:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*fields), True)

    return act


async def test_it_asks_what_was_configured_and_ok_passes() -> None:
    problem, stream = await outcome(ends(("grpc-status", "0")))
    assert problem is None
    assert (stream.seen.value(":path"), stream.seen.value(":authority")) == ("/p.S/Check", "agent:1")
    assert stream.seen.value("grpc-timeout") == "5000000u"
    assert bytes(stream.seen.data) == frame(b"hello")


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (ends(("grpc-status", "13")), "INTERNAL"),
        (ends(("x-other", "1")), "UNKNOWN"),
        (at_once(*RESPONSE, ("grpc-status", "14")), "UNAVAILABLE"),
        (at_once((":status", "503")), "UNAVAILABLE"),
        (lambda stream, event: stream.reset(8) if event == "end" else None, "CANCELLED"),
    ],
)
async def test_everything_else_is_told(act: Act, code: str) -> None:
    assert (await outcome(act))[0] == f"smoke RPC /p.S/Check ended with {code}"


async def test_one_that_never_answers_is_given_up() -> None:
    problem, stream = await outcome(lambda _stream, _event: None, seconds=5.0)
    assert problem == "smoke RPC /p.S/Check ended with DEADLINE_EXCEEDED"
    assert stream.seen.reset == 8
