"""What agents do wrong, and what becomes of it; and connections that are lost, refused, or told to go."""

from __future__ import annotations

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import ErrorCode
from sidecar.proxy.policy import Origin
from tests.scenes.script import echo, finish, info, reason, resets, silent
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message


def test_lost_before_headers() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call()
    assert scene.endpoint.wire is not None
    scene.endpoint.wire.lose()
    scene.run()
    assert caller.seen.events == ["headers", "end"]
    assert caller.seen.status == StatusCode.UNAVAILABLE
    found = info(caller)
    assert (found.reason, found.metadata["endpoint"]) == ("UPSTREAM_LOST", "agent-1")
    assert scene.endpoint.outcomes[0].origin is Origin.SIDECAR
    assert scene.leaks() == []


def test_lost_after_headers_and_half_a_message() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call()
    scene.agent.send_headers(block(*RESPONSE))
    scene.agent.send_data(message(b"x" * 100)[:50], False)
    scene.run()
    assert scene.endpoint.wire is not None
    scene.endpoint.wire.lose()
    scene.run()
    assert len(caller.seen.data) == 50
    assert caller.seen.trailers is not None
    assert reason(caller) == "UPSTREAM_LOST"
    assert scene.leaks() == []


def test_lost_under_many_calls() -> None:
    scene = Scene(on_agent=silent)
    callers = [scene.call(end=bool(i % 2)) for i in range(10)]
    assert scene.endpoint.wire is not None
    scene.endpoint.wire.lose()
    scene.run()
    assert all(caller.seen.status == StatusCode.UNAVAILABLE for caller in callers)
    scene.endpoint.connect()
    scene.on_agent = echo
    assert scene.call().seen.status == 0
    scene.advance(2)
    assert scene.leaks() == []


@pytest.mark.parametrize("body", [None, b"hello"])
def test_refused_unseen_is_repeated_once_and_uncounted(body: bytes | None) -> None:
    """gRFC A6, transparent retries."""
    tries: list[ScriptedStream] = []

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            tries.append(stream)
            if len(tries) == 1:
                stream.reset(ErrorCode.REFUSED_STREAM)
            else:
                finish(stream, bytes(stream.seen.data))

    scene = Scene(on_agent=act)
    caller = scene.call(body=body)
    assert caller.seen.status == 0
    assert len(tries) == 2
    assert tries[1].seen.data == (b"" if body is None else message(body))
    assert tries[1].seen.value("grpc-previous-rpc-attempts") is None
    assert [outcome.code for outcome in scene.outcomes] == [StatusCode.OK]
    assert scene.leaks() == []


def test_refused_unseen_twice_is_told() -> None:
    scene = Scene(on_agent=resets(ErrorCode.REFUSED_STREAM))
    caller = scene.call()
    assert len(scene.agent_streams) == 2
    assert caller.seen.status == StatusCode.UNAVAILABLE
    assert reason(caller) == "UPSTREAM_LOST"
    assert scene.leaks() == []


def test_a_goaway_lets_older_streams_finish_and_newer_ones_move() -> None:
    scene = Scene(on_agent=silent, endpoints=1)
    old = scene.call()
    old_agent = scene.agent
    first = scene.endpoint.wire
    assert first is not None
    first.server.drain()
    scene.run()
    assert scene.endpoint.connection() is None, "a connection that was told to go takes nothing new"
    scene.endpoint.connect()
    scene.on_agent = echo
    assert scene.call().seen.status == 0
    finish(old_agent, message(b"late"))
    while first.step():
        scene.run()
    assert old.seen.data == message(b"late")
    assert old.seen.status == 0
    assert scene.leaks() == []


def test_a_goaway_that_names_a_stream_as_unseen() -> None:
    """Above last-stream-id: never processed, so it goes to the next connection as if nothing had been."""
    scene = Scene(on_agent=silent)
    caller = scene.call()
    assert scene.endpoint.wire is not None
    client = scene.endpoint.wire.client
    scene.on_agent = echo
    from sidecar.http2 import frames

    waiting_before = len(scene.endpoint.waiting)
    client.receive(frames.goaway(0, ErrorCode.NO_ERROR), 0.0)
    assert len(scene.endpoint.waiting) == waiting_before + 1
    scene.endpoint.connect()
    scene.run()
    assert caller.seen.status == 0
    assert caller.seen.data == message(b"hello")
    assert scene.leaks() == []


@pytest.mark.parametrize(
    ("http", "status"),
    [
        ("400", StatusCode.INTERNAL),
        ("401", StatusCode.UNAUTHENTICATED),
        ("403", StatusCode.PERMISSION_DENIED),
        ("404", StatusCode.UNIMPLEMENTED),
        ("429", StatusCode.UNAVAILABLE),
        ("500", StatusCode.UNKNOWN),
        ("502", StatusCode.UNAVAILABLE),
        ("503", StatusCode.UNAVAILABLE),
        ("504", StatusCode.UNAVAILABLE),
        ("418", StatusCode.UNKNOWN),
        ("204", StatusCode.UNKNOWN),
        ("301", StatusCode.UNKNOWN),
    ],
)
@pytest.mark.parametrize("body", [False, True])
def test_http_statuses(http: str, status: StatusCode, body: bool) -> None:
    """grpc/grpc doc/http-grpc-status-mapping.md."""

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block((":status", http), ("content-type", "text/html")), not body)
            if body:
                stream.send_data(b"<html>secret stack trace</html>", True)

    scene = Scene(on_agent=act)
    caller = scene.call()
    assert caller.seen.status == status
    assert caller.seen.value(":status") == "200"
    found = info(caller)
    assert (found.reason, found.metadata["httpStatus"]) == ("UPSTREAM_PROTOCOL", http)
    assert b"secret" not in caller.seen.data
    assert scene.leaks() == []


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json"])
@pytest.mark.parametrize("only", [False, True])
def test_a_wrong_content_type(content_type: str | None, only: bool) -> None:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            extra = [("content-type", content_type)] if content_type else []
            stream.send_headers(block((":status", "200"), *extra, ("grpc-status", "0")), only)
            if not only:
                stream.send_data(message(b"x"), False)
                stream.send_trailers(block(("grpc-status", "0")))

    scene = Scene(on_agent=act)
    caller = scene.call()
    assert caller.seen.status == StatusCode.UNKNOWN
    assert reason(caller) == "UPSTREAM_PROTOCOL"
    assert caller.seen.data == b""
    assert scene.leaks() == []


@pytest.mark.parametrize("shape", ["headers only", "data", "trailers"])
def test_an_end_without_a_status(shape: str) -> None:
    def act(stream: ScriptedStream, event: str) -> None:
        if event != "end":
            return
        if shape == "headers only":
            stream.send_headers(block(*RESPONSE), True)
            return
        stream.send_headers(block(*RESPONSE))
        if shape == "data":
            stream.send_data(message(b"x"), True)
        else:
            stream.send_data(message(b"x"), False)
            stream.send_trailers(block(("x-t", "1")))

    scene = Scene(on_agent=act)
    caller = scene.call()
    assert caller.seen.status == StatusCode.INTERNAL
    assert reason(caller) == "UPSTREAM_PROTOCOL"
    assert caller.seen.data == (b"" if shape == "headers only" else message(b"x"))
    assert scene.leaks() == []


@pytest.mark.parametrize(
    "answer",
    [
        block((":status", "20"), ("content-type", "application/grpc")),
        block(("content-type", "application/grpc")),
        block(*RESPONSE, ("connection", "close")),
        block(*RESPONSE, (":status", "200")),
        block(*RESPONSE, ("Upper", "x")),
    ],
)
def test_an_answer_that_breaks_http2(answer: bytes) -> None:
    scene = Scene(on_agent=lambda s, event: s.send_headers(answer) if event == "end" else None)
    caller = scene.call()
    assert caller.seen.status == StatusCode.INTERNAL
    assert reason(caller) == "UPSTREAM_PROTOCOL"
    assert scene.leaks() == []
    scene.on_agent = echo
    assert scene.call().seen.status == 0, "other calls of that connection are unharmed"


def test_waiting_for_a_connection_then_served() -> None:
    scene = Scene(on_agent=echo, connect=False)
    callers = [scene.call(body=b"%d" % i, end=bool(i % 2)) for i in range(6)]
    for caller in callers[::2]:
        caller.send_data(message(b"more"), True)
    scene.run()
    assert not any(caller.seen.ended for caller in callers)
    scene.endpoint.connect()
    scene.run()
    for i, caller in enumerate(callers):
        assert caller.seen.status == 0
        assert caller.seen.data == message(b"%d" % i) + (b"" if i % 2 else message(b"more"))
    assert scene.leaks() == []


def test_the_agents_limit_of_streams_is_obeyed() -> None:
    from sidecar.http2 import frames

    scene = Scene(on_agent=silent)
    assert scene.endpoint.wire is not None
    scene.endpoint.wire.client.receive(frames.settings({frames.MAX_CONCURRENT_STREAMS: 2}), 0.0)
    for _ in range(5):
        scene.call()
    assert len(scene.agent_streams) == 2
    assert len(scene.endpoint.waiting) == 3
