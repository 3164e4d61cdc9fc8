"""Deadlines: only ever shorter, told upstream as what remains, and kept by us when nobody else does."""

from __future__ import annotations

import pytest

from sidecar.grpc_wire import timeout
from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import ErrorCode
from sidecar.policies.deadline import Deadline, DeadlineConfig
from tests.scenes.script import echo, finish, info, reason, silent
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message


def with_limits(*, default: float = 30, max: float = 600, idle: float = 300, **more: object) -> Scene:
    config = DeadlineConfig(default=default, max=max, idle=idle)
    more.setdefault("on_agent", silent)
    return Scene(policies=lambda runtime: [Deadline(config, runtime)], **more)  # type: ignore[arg-type]


def told(agent: ScriptedStream) -> float:
    """What the agent was told, in seconds."""
    values = [value for name, value in agent.seen.headers if name == b"grpc-timeout"]
    assert len(values) == 1
    return timeout.parse(values[0])


def test_the_callers_deadline_passes() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call(("grpc-timeout", "250m"))
    assert told(scene.agent) == pytest.approx(0.25)
    scene.advance(0.24)
    assert not caller.seen.ended
    scene.advance(0.03)
    assert caller.seen.status == StatusCode.DEADLINE_EXCEEDED
    assert caller.seen.events == ["headers", "end"]
    found = info(caller)
    assert (found.reason, found.metadata["timeoutSeconds"]) == ("DEADLINE", "0.250")
    assert scene.agent.seen.reset == ErrorCode.CANCEL
    assert scene.leaks() == []


def test_after_initial_metadata_it_comes_in_trailers() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call(("grpc-timeout", "1S"), end=False)
    scene.agent.send_headers(block(*RESPONSE))
    scene.agent.send_data(message(b"1"), False)
    scene.run()
    scene.advance(1.05)
    assert caller.seen.trailers is not None
    assert caller.seen.data == message(b"1")
    assert reason(caller) == "DEADLINE"
    assert not scene.agent.seen.ended
    assert scene.agent.seen.reset == ErrorCode.CANCEL
    scene.advance(1.5)
    assert scene.leaks() == []


def test_without_any_deadline_none_is_told() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call()
    assert scene.agent.seen.value("grpc-timeout") is None
    scene.advance(100_000)
    assert not caller.seen.ended


@pytest.mark.parametrize(
    ("asked", "expected", "why"),
    [
        (None, 30.0, "ROUTE_TIMEOUT"),
        ("5S", 5.0, "DEADLINE"),
        ("31S", 31.0, "DEADLINE"),
        ("600S", 600.0, "DEADLINE"),
        ("601S", 600.0, "ROUTE_TIMEOUT"),
        ("99999999H", 600.0, "ROUTE_TIMEOUT"),
        ("100u", 0.0001, "DEADLINE"),
        ("0n", 0.0, "DEADLINE"),
    ],
)
def test_default_and_cap(asked: str | None, expected: float, why: str) -> None:
    scene = with_limits(idle=100_000)
    caller = scene.call(*([("grpc-timeout", asked)] if asked else []))
    assert told(scene.agent) <= expected
    assert told(scene.agent) == pytest.approx(expected, abs=1e-6)
    if expected > 1:
        scene.advance(expected - 0.5)
        assert not caller.seen.ended
    scene.advance(1.6)
    assert reason(caller) == why
    assert caller.seen.status == StatusCode.DEADLINE_EXCEEDED
    assert scene.outcomes[0].code == StatusCode.DEADLINE_EXCEEDED
    assert scene.leaks() == []


def test_what_remains_is_told_after_waiting_for_a_connection() -> None:
    scene = Scene(on_agent=echo, connect=False)
    caller = scene.call(("grpc-timeout", "10S"))
    scene.advance(3)
    scene.endpoint.connect()
    scene.run()
    assert told(scene.agent) == pytest.approx(7.0)
    assert told(scene.agent) <= 7.0
    assert caller.seen.status == 0


def test_it_passes_while_no_connection_is_there() -> None:
    scene = Scene(on_agent=echo, connect=False)
    caller = scene.call(("grpc-timeout", "1S"))
    scene.advance(1.1)
    assert reason(caller) == "DEADLINE"
    scene.endpoint.connect()
    scene.run()
    assert scene.agent_streams == []
    assert scene.leaks() == []


@pytest.mark.parametrize("direction", ["request", "response"])
def test_idle_counts_messages_in_either_direction(direction: str) -> None:
    scene = with_limits(default=600, idle=5)
    caller = scene.call(end=False)
    scene.agent.send_headers(block(*RESPONSE))
    scene.run()
    for _ in range(4):
        scene.advance(4)
        (caller if direction == "request" else scene.agent).send_data(message(b"."), False)
        scene.run()
        assert not caller.seen.ended
    scene.advance(6.1)
    found = info(caller)
    assert (found.reason, found.metadata["idleSeconds"]) == ("IDLE_TIMEOUT", "5")
    assert scene.agent.seen.reset == ErrorCode.CANCEL
    scene.advance(1.5)
    assert scene.leaks() == []


def test_a_deadline_that_is_kept_leaves_no_timer() -> None:
    scene = with_limits(on_agent=echo)
    for _ in range(20):
        assert scene.call(("grpc-timeout", "5S")).seen.status == 0
    assert len(scene.deadlines) == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("value", ["", "5", "S", "5 S", "-1S", "1.5S", "5s", "123456789S", "0x1S", "1Sm"])
def test_a_malformed_timeout(value: str) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(("grpc-timeout", value.encode()))
    assert caller.seen.status == StatusCode.INTERNAL
    assert reason(caller) == "MALFORMED_REQUEST"
    assert scene.agent_streams == []
    scene.advance(2)
    assert scene.leaks() == []


def test_an_answer_at_the_last_moment_counts() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call(("grpc-timeout", "1S"))
    scene.advance(0.99)
    finish(scene.agent, message(b"just"))
    scene.run()
    scene.advance(1)
    assert caller.seen.status == 0
    assert scene.leaks() == []


def test_many_deadlines_each_at_its_own_time() -> None:
    scene = Scene(on_agent=silent)
    callers = [scene.call(("grpc-timeout", f"{i + 1}00m")) for i in range(20)]
    for i in range(20):
        scene.advance(0.1)
        ended = sum(caller.seen.ended for caller in callers)
        assert i <= ended <= i + 1
    scene.advance(0.02)
    assert all(caller.seen.status == StatusCode.DEADLINE_EXCEEDED for caller in callers)
    assert scene.leaks() == []
