"""A slow reader slows the writer, on both sides; what is held meanwhile is bounded, and nothing is lost."""

from __future__ import annotations

import pytest

from sidecar.http2 import frames
from tests.scenes.script import OK, echo, hooked, silent, with_policies
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

WANTS = [False, True]


def scene_of(wants_messages: bool, **more: object) -> Scene:
    policy = hooked(on_request_message=lambda *_: None, on_response_message=lambda *_: None)
    return Scene(policies=with_policies(*([policy] if wants_messages else [])), **more)  # type: ignore[arg-type]


def held(scene: Scene) -> int:
    """Bytes of messages that the proxy has taken and not passed on."""
    wires = [scene.listener, *(each.wire.client for each in scene.endpoints if each.wire is not None)]
    waiting = sum(len(payload) for wire in wires for each in wire.streams.values() for payload, _ in each.pending or ())
    return waiting + sum(len(payload) for call in scene.calls for payload in call.held or ())


@pytest.mark.parametrize("wants_messages", WANTS)
def test_a_slow_caller_stops_the_agent(wants_messages: bool) -> None:
    scene = scene_of(wants_messages, on_agent=silent)
    caller = scene.call(consumes=False)
    agent = scene.agent
    agent.send_headers(block(*RESPONSE))
    one = message(b"x" * 10_000)
    sent = 0
    while agent.pending is None:
        agent.send_data(one, False)
        sent += len(one)
        scene.run()
        assert sent < 10_000_000, "the agent is never stopped"
    upstream = scene.endpoint.wire
    assert upstream is not None
    window = upstream.client.stream_window
    assert held(scene) <= window
    # Between the two there is one window on either side, and what the caller has taken without consuming.
    assert sent <= len(caller.seen.data) + 2 * window + len(one)
    taken = 0
    while agent.pending is not None or len(caller.seen.data) < sent:
        fresh = len(caller.seen.data) - taken
        assert fresh, "a reader that reads gets nothing"
        caller.consume(fresh)
        taken += fresh
        scene.run()
        assert held(scene) <= upstream.client.stream_window
    agent.send_trailers(block(*OK))
    scene.run()
    assert caller.seen.data == one * (sent // len(one))
    assert caller.seen.status == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("wants_messages", WANTS)
def test_a_slow_agent_stops_the_caller(wants_messages: bool) -> None:
    scene = scene_of(wants_messages, on_agent=silent)
    scene.agent_consumes = False
    caller = scene.call(body=None, end=False)
    agent = scene.agent
    one = message(b"x" * 10_000)
    sent = 0
    while caller.pending is None:
        caller.send_data(one, False)
        sent += len(one)
        scene.run()
        assert sent < 10_000_000, "the caller is never stopped"
    assert held(scene) <= scene.listener.stream_window
    taken = 0
    while caller.pending is not None or len(agent.seen.data) < sent:
        fresh = len(agent.seen.data) - taken
        assert fresh, "an agent that reads gets nothing"
        agent.consume(fresh)
        taken += fresh
        scene.run()
    caller.send_data(b"", True)
    scene.run()
    assert agent.seen.data == one * (sent // len(one))
    assert agent.seen.ended


@pytest.mark.parametrize("wants_messages", WANTS)
def test_one_slow_caller_does_not_stop_another(wants_messages: bool) -> None:
    scene = scene_of(wants_messages, on_agent=silent)
    scene.call(consumes=False)
    slow = scene.agent
    slow.send_headers(block(*RESPONSE))
    for _ in range(100):
        slow.send_data(message(b"x" * 10_000), False)
    scene.run()
    scene.on_agent = echo
    for i in range(50):
        caller = scene.call(body=b"%d" % i * 1000)
        assert caller.seen.status == 0, "a stalled stream holds up the connection"


def test_a_stalled_caller_that_cancels_frees_everything() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call(consumes=False)
    scene.agent.send_headers(block(*RESPONSE))
    for _ in range(100):
        scene.agent.send_data(message(b"x" * 10_000), False)
    scene.run()
    caller.reset(8)
    scene.run()
    assert held(scene) == 0
    assert scene.leaks() == []


def test_trailers_wait_behind_what_the_caller_has_not_read() -> None:
    whole = message(b"x" * 900_000)

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE))
            stream.send_data(whole, False)
            stream.send_trailers(block(*OK, ("x-last", "1")))

    scene = Scene(on_agent=act)
    caller = scene.call(consumes=False)
    assert caller.seen.trailers is None
    taken = 0
    while not caller.seen.ended:
        fresh = len(caller.seen.data) - taken
        assert fresh
        caller.consume(fresh)
        taken += fresh
        scene.run()
    assert caller.seen.data == whole
    assert caller.seen.value("x-last") == "1"
    assert scene.leaks() == []


@pytest.mark.parametrize("window", [1, 10, 100, 1000])
def test_tiny_windows(window: int) -> None:
    """Of the caller: every byte needs its WINDOW_UPDATE, and every byte comes."""
    scene = Scene(on_agent=echo)
    scene.listener.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: window}), scene.clock.monotonic())
    body = bytes(i & 0xFF for i in range(3000))
    caller = scene.call(body=body)
    assert len(caller.seen.data) == window
    while not caller.seen.ended:
        before = len(caller.seen.data)
        scene.caller.client.write_window_update(caller.stream_id, window)
        scene.run()
        assert len(caller.seen.data) == min(before + window, 3005)
    assert caller.seen.data == message(body)
    assert caller.seen.status == 0
    assert scene.leaks() == []


def test_what_the_caller_sends_before_there_is_an_agent_is_bounded() -> None:
    scene = Scene(on_agent=echo, connect=False)
    caller = scene.call(body=None, end=False)
    for _ in range(200):
        caller.send_data(message(b"x" * 10_000), False)
    caller.send_data(b"", True)
    scene.run()
    assert 0 < held(scene) <= scene.listener.stream_window
    scene.endpoint.connect()
    scene.run()
    assert caller.seen.data == message(b"x" * 10_000) * 200
    assert caller.seen.status == 0
    assert scene.leaks() == []
