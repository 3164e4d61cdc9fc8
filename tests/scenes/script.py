"""What agents and policies of scenes do: short scripts, by name."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from sidecar.grpc_wire.details import Detail, ErrorInfo, RetryInfo, Status, decode_status
from sidecar.grpc_wire.metadata import decode_binary
from sidecar.http2.hpack import encode_field
from sidecar.proxy.call import Call
from sidecar.proxy.policy import Answer, Outcome, Policy, Verdict
from sidecar.runtime import Runtime
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

Fields = tuple[tuple[str | bytes, str | bytes], ...]
OnEvent = Callable[[ScriptedStream, str], None]
OK: Fields = (("grpc-status", "0"),)


def echo(stream: ScriptedStream, event: str) -> None:
    """Answer at the end of the request, with what came."""
    if event == "end":
        finish(stream, bytes(stream.seen.data))


def finish(stream: ScriptedStream, data: bytes = b"", trailers: Fields = OK, headers: Fields = RESPONSE) -> None:
    """A whole answer."""
    stream.send_headers(block(*headers))
    if data:
        stream.send_data(data, False)
    stream.send_trailers(block(*trailers))


def answers(*trailers: tuple[str | bytes, str | bytes], data: bytes = b"") -> OnEvent:
    """At the end of the request: `data`, and these trailers."""

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            finish(stream, data, trailers or OK)

    return act


def only_trailers(*fields: tuple[str | bytes, str | bytes]) -> OnEvent:
    """At the first sight of the request: Trailers-Only."""

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "headers":
            stream.send_headers(block(*RESPONSE, *fields), True)

    return act


def silent(stream: ScriptedStream, event: str) -> None:
    """An agent that never says anything."""


def resets(code: int, on: str = "end") -> OnEvent:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == on:
            stream.reset(code)

    return act


def details(stream: ScriptedStream) -> Status:
    """The google.rpc.Status that a caller was given; its code and message are those of the trailers."""
    value = stream.seen.value("grpc-status-details-bin")
    assert value is not None, "a refusal without details"
    status = decode_status(decode_binary(value.encode())[0])
    assert status.code == stream.seen.status
    return status


def detail(stream: ScriptedStream, kind: type[Any]) -> Any:
    """The one detail of `kind`; none is None."""
    found: list[Detail | tuple[str, bytes]] = [each for each in details(stream).details if isinstance(each, kind)]
    assert len(found) <= 1
    return found[0] if found else None


def info(stream: ScriptedStream) -> ErrorInfo:
    """The ErrorInfo of a refusal of ours, after a look at what every one of them must carry."""
    found = detail(stream, ErrorInfo)
    assert isinstance(found, ErrorInfo)
    assert found.domain == "sidecar"
    assert stream.seen.value("x-sidecar-origin") == "sidecar"
    pushback, retry = stream.seen.value("grpc-retry-pushback-ms"), detail(stream, RetryInfo)
    assert (pushback is None) == (retry is None)
    if retry is not None:
        assert int(pushback or "") / 1000 >= retry.seconds
    return found


def reason(stream: ScriptedStream) -> str:
    return info(stream).reason


async def turns(scene: Scene, count: int = 6) -> None:
    """Let tasks run, and carry what they made."""
    for _ in range(count):
        await asyncio.sleep(0)
        scene.run()


# ── policies ──


class Hooked(Policy[None]):
    """A policy whose hooks are given; what has none is not defined for the plan, as in a real policy."""

    name = "hooked"

    def __init__(self, ends: list[Outcome] | None = None) -> None:
        self.ends: list[Outcome] = [] if ends is None else ends


def hooked(*, before_start: bool = False, **hooks: Callable[..., Any]) -> Hooked:
    """A policy with just these hooks, and an `on_end` that keeps outcomes in `ends`."""

    def on_end(self: Hooked, call: Call, outcome: Outcome) -> None:
        self.ends.append(outcome)

    bodies: dict[str, Any] = {name: _bound(function) for name, function in hooks.items()}
    return type("Hooked_", (Hooked,), {"on_end": on_end, "before_start": before_start, **bodies})()


def _bound(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _self, *arguments: function(*arguments)


def with_policies(*policies: Policy[Any]) -> Callable[[Runtime], tuple[Policy[Any], ...]]:
    return lambda _: policies


class Gate:
    """A hook that waits until the test opens it, with the verdict the test gives."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.entered = 0
        self.left_early = 0

    def __call__(self, *_: object) -> Awaitable[Verdict]:
        return self._wait()

    async def _wait(self) -> Any:
        self.entered += 1
        try:
            return await asyncio.shield(self.future)
        except asyncio.CancelledError:
            self.left_early += 1
            raise

    def open(self, verdict: Verdict = None) -> None:
        self.future.set_result(verdict)


def recorded(*bodies: bytes, status: bytes = b"0") -> Answer:
    """A recorded answer."""
    headers = [encode_field(b":status", b"200"), encode_field(b"content-type", b"application/grpc")]
    trailers = [encode_field(b"grpc-status", status)]
    return Answer(headers, b"".join(map(message, bodies)), trailers)


def calls_alive() -> int:
    """As the collector counts them: compiled classes take no weak references."""
    return sum(type(each) is Call for each in gc.get_objects())
