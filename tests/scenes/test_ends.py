"""Every ending there is: seen once by those who let the call pass, counted once, and nothing of the call is left."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import ErrorCode
from sidecar.policies.deadline import Deadline, DeadlineConfig
from sidecar.policies.metrics import Metrics, NoConfig
from sidecar.proxy.policy import Origin, Policy
from sidecar.runtime import Runtime
from tests.scenes.script import OK, Hooked, calls_alive, echo, finish, hooked, only_trailers, recorded, resets, silent
from tests.support.scene import Scene, refuse
from tests.support.wire import RESPONSE, ScriptedStream, block, message

Ending = Callable[[Scene], None]


def _lose_agent(scene: Scene) -> None:
    scene.call()
    assert scene.endpoint.wire is not None
    scene.endpoint.wire.lose()
    scene.run()


def _lose_caller(scene: Scene) -> None:
    scene.call(end=False)
    scene.caller.lose()
    scene.run()


def _cancel(scene: Scene) -> None:
    scene.call(end=False).reset(ErrorCode.CANCEL)
    scene.run()


def _expire(scene: Scene) -> None:
    scene.call(("grpc-timeout", "1S"))
    scene.advance(1.5)


def _stream(scene: Scene) -> None:
    caller = scene.call(end=False)
    scene.agent.send_headers(block(*RESPONSE))
    for _ in range(3):
        caller.send_data(message(b"q"), False)
        scene.agent.send_data(message(b"a"), False)
        scene.run()
    caller.send_data(b"", True)
    scene.run()
    scene.agent.send_trailers(block(*OK))
    scene.run()


def _early(scene: Scene) -> None:
    scene.call(end=False)
    finish(scene.agent, message(b"x"))
    scene.run()
    scene.advance(2)


def _drain(scene: Scene) -> None:
    scene.edge.draining = True
    scene.call()


def _unknown(scene: Scene) -> None:
    scene.call(path="/x")


def _browser(scene: Scene) -> None:
    scene.call(block=block((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")), body=None)


def _large(scene: Scene) -> None:
    scene.call(("x-large", "v" * 20_000))


def _large_message(scene: Scene) -> None:
    scene.call(body=b"x" * 5_000_000)
    scene.advance(2)


ENDINGS: list[tuple[str, Ending, Callable[[ScriptedStream, str], None], StatusCode, Origin]] = [
    ("unary", lambda scene: scene.call() and None, echo, StatusCode.OK, Origin.AGENT),
    ("stream", _stream, silent, StatusCode.OK, Origin.AGENT),
    (
        "trailers only",
        lambda scene: scene.call() and None,
        only_trailers(("grpc-status", "5")),
        StatusCode.NOT_FOUND,
        Origin.AGENT,
    ),
    ("early answer", _early, silent, StatusCode.OK, Origin.AGENT),
    ("agent resets", lambda scene: scene.call() and None, resets(8), StatusCode.CANCELLED, Origin.AGENT),
    ("agent lost", _lose_agent, silent, StatusCode.UNAVAILABLE, Origin.SIDECAR),
    ("caller lost", _lose_caller, silent, StatusCode.CANCELLED, Origin.CALLER),
    ("caller cancels", _cancel, silent, StatusCode.CANCELLED, Origin.CALLER),
    ("deadline", _expire, silent, StatusCode.DEADLINE_EXCEEDED, Origin.SIDECAR),
    ("draining", _drain, silent, StatusCode.UNAVAILABLE, Origin.SIDECAR),
    ("unknown method", _unknown, silent, StatusCode.UNIMPLEMENTED, Origin.SIDECAR),
    ("browser", _browser, silent, StatusCode.UNKNOWN, Origin.SIDECAR),
    ("metadata too large", _large, silent, StatusCode.RESOURCE_EXHAUSTED, Origin.SIDECAR),
    ("message too large", _large_message, silent, StatusCode.RESOURCE_EXHAUSTED, Origin.SIDECAR),
]
CASES = pytest.mark.parametrize(
    ("end", "agent", "code", "origin"), [case[1:] for case in ENDINGS], ids=[case[0] for case in ENDINGS]
)


class Built:
    """A scene with an observer, a policy that lets pass, and the ones every sidecar has."""

    def __init__(self, agent: Callable[[ScriptedStream, str], None]) -> None:
        self.observer = hooked()
        self.passing: Hooked = hooked(on_request=lambda _: None)
        self.entered = 0
        self.scene = Scene(policies=self._policies, on_agent=agent)

    def _policies(self, runtime: Runtime) -> list[Policy[None]]:
        limits = DeadlineConfig(default=60, max=600, idle=300)
        return [Deadline(limits, runtime), self.passing, self.observer, Metrics(NoConfig(), runtime)]  # type: ignore[list-item]


@CASES
@pytest.mark.parametrize("times", [1, 4])
def test_each_ending_once(
    end: Ending, agent: Callable[[ScriptedStream, str], None], code: StatusCode, origin: Origin, times: int
) -> None:
    built = Built(agent)
    scene = built.scene
    for time in range(times):
        if scene.listener.closed or (scene.endpoint.wire is not None and scene.endpoint.wire.cut):
            break
        end(scene)
        assert [(each.code, each.origin) for each in scene.outcomes] == [(code, origin)] * (time + 1)
    reached_a_route = scene.calls[0].route == "all"
    expected = len(scene.outcomes) if reached_a_route else 0
    assert len(built.observer.ends) == expected
    # A call that was refused before the policies were asked is nothing to those that take something.
    asked = expected if scene.agent_streams else 0
    assert len(built.passing.ends) == asked
    assert scene.leaks() == []
    assert not scene.metrics.defects


@CASES
def test_nothing_is_left_of_a_call(
    end: Ending, agent: Callable[[ScriptedStream, str], None], code: StatusCode, origin: Origin
) -> None:
    """Freed by reference counts alone: the collector is off."""
    built = Built(agent)
    scene = built.scene
    gc.collect()
    gc.disable()
    before = calls_alive()
    try:
        end(scene)
        assert scene.calls
        scene.calls.clear()
        scene.endpoint.attempts.clear()
        assert calls_alive() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("hook", ["on_request_message", "on_response_message", "on_request_end"])
@CASES
def test_nothing_is_left_of_a_call_whose_messages_are_seen(
    end: Ending, agent: Callable[[ScriptedStream, str], None], code: StatusCode, origin: Origin, hook: str
) -> None:
    scene = Scene(policies=lambda _: [hooked(**{hook: lambda *_: None})], on_agent=agent)
    gc.collect()
    gc.disable()
    before = calls_alive()
    try:
        end(scene)
        scene.calls.clear()
        scene.endpoint.attempts.clear()
        assert calls_alive() == before
    finally:
        gc.enable()
    assert [(each.code, each.origin) for each in scene.outcomes] == [(code, origin)]
    assert scene.leaks() == []


def test_an_answer_of_ours_ends_once() -> None:
    policy = hooked(on_request=lambda _: recorded(b"x"))
    scene = Scene(policies=lambda _: [policy], on_agent=echo)
    scene.call()
    assert [each.code for each in scene.outcomes] == [StatusCode.OK]
    assert policy.ends == []
    assert scene.leaks() == []


def test_a_hook_that_fails_at_the_end_harms_nobody() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("at the end")

    after = hooked(on_request=lambda _: None)
    failing = hooked()
    type(failing).on_end = fail  # type: ignore[method-assign]
    scene = Scene(policies=lambda _: [after, failing], on_agent=echo)
    caller = scene.call()
    assert caller.seen.status == 0
    assert len(after.ends) == 1
    assert scene.metrics.defects["on_end"] == 1
    assert scene.leaks() == []


def test_a_policy_that_refuses_is_not_told_of_the_end() -> None:
    passing, refusing, never = (
        hooked(on_request=lambda _: None),
        hooked(on_request=lambda _: refuse()),
        hooked(on_request=lambda _: None),
    )
    scene = Scene(policies=lambda _: [passing, refusing, never], on_agent=echo)
    scene.call()
    assert [len(each.ends) for each in (passing, refusing, never)] == [1, 0, 0]


def test_the_counts_of_a_call() -> None:
    built = Built(echo)
    scene = built.scene
    caller = scene.call(body=b"12345", end=False)
    caller.send_data(message(b"678"), True)
    scene.run()
    call = scene.calls[0]
    assert (call.request_messages, call.response_messages) == (2, 2)
    assert (call.bytes_in, call.bytes_out) == (18, 18)
