"""Cancellation, both ways, in the same turn: RST_STREAM, never END_STREAM."""

from __future__ import annotations

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import CONNECTION_LOST, ErrorCode
from sidecar.proxy.policy import Origin
from tests.scenes.script import echo, resets, silent
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, block, message


@pytest.mark.parametrize("code", [ErrorCode.CANCEL, ErrorCode.NO_ERROR, ErrorCode.INTERNAL_ERROR, 0x77])
@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.parametrize("answered", [False, True])
def test_a_caller_that_cancels(code: int, half_closed: bool, answered: bool) -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call(end=half_closed)
    agent = scene.agent
    if answered:
        agent.send_headers(block(*RESPONSE))
        agent.send_data(message(b"1"), False)
        scene.run()
    caller.reset(code)
    # One step carries the caller's RST_STREAM in, the next one ours out: the same turn of a loop.
    scene.caller.step()
    assert scene.endpoint.wire is not None
    scene.endpoint.wire.step()
    assert agent.seen.reset == ErrorCode.CANCEL
    assert agent.seen.ended is half_closed, "the agent was told of an end that was none"
    assert [outcome.code for outcome in scene.outcomes] == [StatusCode.CANCELLED]
    assert scene.outcomes[0].origin is Origin.CALLER
    assert scene.leaks() == []


def test_a_caller_whose_connection_is_lost() -> None:
    scene = Scene(on_agent=silent)
    callers = [scene.call(end=False) for _ in range(3)]
    agents = list(scene.agent_streams)
    scene.caller.lose()
    scene.run()
    for agent, caller in zip(agents, callers, strict=True):
        assert agent.seen.reset == ErrorCode.CANCEL
        assert not agent.seen.ended
        assert caller.seen.reset == CONNECTION_LOST
    assert [outcome.code for outcome in scene.outcomes] == [StatusCode.CANCELLED] * 3
    assert scene.leaks() == []


def test_a_caller_that_cancels_before_a_connection_is_there() -> None:
    scene = Scene(on_agent=echo, connect=False)
    caller = scene.call()
    caller.reset(ErrorCode.CANCEL)
    scene.run()
    scene.endpoint.connect()
    scene.run()
    assert scene.agent_streams == [], "the agent was bothered with a call that nobody waits for"
    assert len(scene.outcomes) == 1
    assert scene.leaks() == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.NO_ERROR, StatusCode.INTERNAL),
        (ErrorCode.PROTOCOL_ERROR, StatusCode.INTERNAL),
        (ErrorCode.INTERNAL_ERROR, StatusCode.INTERNAL),
        (ErrorCode.FLOW_CONTROL_ERROR, StatusCode.INTERNAL),
        (ErrorCode.CANCEL, StatusCode.CANCELLED),
        (ErrorCode.ENHANCE_YOUR_CALM, StatusCode.RESOURCE_EXHAUSTED),
        (ErrorCode.INADEQUATE_SECURITY, StatusCode.PERMISSION_DENIED),
        (0x1234, StatusCode.INTERNAL),
    ],
)
@pytest.mark.parametrize("on", ["headers", "data", "end"])
def test_an_agent_that_resets(code: int, status: StatusCode, on: str) -> None:
    """The code goes on unchanged: the caller's library knows what it means (PROTOCOL-HTTP2, "Errors")."""
    scene = Scene(on_agent=resets(code, on))
    caller = scene.call()
    assert caller.seen.reset == code
    assert caller.seen.headers == []
    assert [outcome.code for outcome in scene.outcomes] == [status]
    assert scene.outcomes[0].origin is Origin.AGENT
    assert scene.leaks() == []


def test_an_agent_that_resets_in_the_middle_of_its_answer() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call()
    scene.agent.send_headers(block(*RESPONSE))
    scene.agent.send_data(message(b"half"), False)
    scene.agent.reset(ErrorCode.CANCEL)
    scene.run()
    assert caller.seen.data == message(b"half")
    assert caller.seen.reset == ErrorCode.CANCEL
    assert caller.seen.trailers is None
    assert scene.leaks() == []


def test_one_cancelled_call_leaves_the_others_alone() -> None:
    scene = Scene(on_agent=echo)
    one = scene.call(end=False)
    two = scene.call(end=False)
    one.reset(ErrorCode.CANCEL)
    two.send_data(message(b"more"), True)
    scene.run()
    assert two.seen.data == message(b"hello") + message(b"more")
    assert two.seen.status == 0
    assert scene.leaks() == []


def test_headers_and_reset_in_one_read() -> None:
    scene = Scene(on_agent=echo)
    caller = scene.caller.client
    from tests.support.wire import ScriptedStream, request_block

    stream = ScriptedStream()
    caller.open(stream)
    stream.send_headers(request_block())
    stream.reset(ErrorCode.CANCEL)
    scene.run()
    assert [outcome.code for outcome in scene.outcomes] == [StatusCode.CANCELLED]
    assert all(agent.seen.reset == ErrorCode.CANCEL and not agent.seen.ended for agent in scene.agent_streams)
    assert scene.leaks() == []


def test_a_reset_after_the_answer_changes_nothing() -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(end=False, body=b"x")
    scene.agent.send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
    scene.run()
    assert caller.seen.status == 0
    caller.reset(ErrorCode.CANCEL)
    scene.run()
    assert [outcome.code for outcome in scene.outcomes] == [StatusCode.OK]
    assert scene.leaks() == []
