"""Hooks that wait: they pass, refuse, answer, fail, or are left by their caller; nothing runs ahead of them."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import ErrorCode
from sidecar.proxy.rejection import Reason
from tests.scenes.script import (
    Gate,
    Hooked,
    calls_alive,
    echo,
    finish,
    hooked,
    reason,
    recorded,
    silent,
    turns,
    with_policies,
)
from tests.support.scene import Scene, refuse
from tests.support.wire import RESPONSE, ScriptedStream, block, message

HOOKS = ["on_request", "on_request_message", "on_request_end", "on_response_message", "on_trailers"]


def tasks(scene: Scene) -> int:
    return len(scene.runtime.tasks)


def waiting_scene(hook: str, gate: Gate, **more: object) -> tuple[Scene, Hooked]:
    policy = hooked(**{hook: gate})
    more.setdefault("on_agent", echo)
    return Scene(policies=with_policies(policy), **more), policy  # type: ignore[arg-type]


@pytest.mark.parametrize("hook", HOOKS)
async def test_passing_after_a_while(hook: str) -> None:
    gate = Gate()
    scene, policy = waiting_scene(hook, gate)
    caller = scene.call(body=b"hello")
    await turns(scene)
    assert gate.entered == 1
    assert not caller.seen.ended
    if hook == "on_request":
        assert scene.agent_streams == [], "the agent heard of a call that was not let pass"
    if hook in {"on_request_message", "on_request_end"}:
        assert not scene.agent.seen.ended
    if hook == "on_request_message":
        assert scene.agent.seen.data == b""
    if hook == "on_response_message":
        assert caller.seen.data == b""
    gate.open()
    await turns(scene)
    assert scene.agent.seen.data == message(b"hello")
    assert caller.seen.data == message(b"hello")
    assert caller.seen.status == 0
    assert [outcome.code for outcome in policy.ends] == [StatusCode.OK]
    assert tasks(scene) == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("hook", HOOKS)
async def test_refusing_after_a_while(hook: str) -> None:
    gate = Gate()
    scene, policy = waiting_scene(hook, gate)
    caller = scene.call(body=b"hello")
    await turns(scene)
    gate.open(refuse("not today"))
    await turns(scene)
    assert caller.seen.status == StatusCode.UNAVAILABLE
    assert reason(caller) == "OVERLOADED"
    assert caller.seen.data == (message(b"hello") if hook == "on_trailers" else b"")
    if hook.startswith("on_request"):
        assert not scene.agent_streams or not scene.agent.seen.ended, "the agent was told of an end that was none"
    # A policy that refused at on_request took nothing, so it has nothing to release.
    assert len(policy.ends) == (0 if hook == "on_request" else 1)
    assert len(scene.outcomes) == 1
    assert tasks(scene) == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("hook", ["on_request", "on_request_message", "on_request_end"])
async def test_answering_after_a_while(hook: str) -> None:
    gate = Gate()
    scene, _ = waiting_scene(hook, gate)
    caller = scene.call(("x-request-id", "r1"), body=b"hello")
    await turns(scene)
    gate.open(recorded(b"one", b"two"))
    await turns(scene)
    assert caller.seen.data == message(b"one") + message(b"two")
    assert caller.seen.status == 0
    assert caller.seen.value("x-request-id") == "r1"
    if scene.agent_streams:
        assert scene.agent.seen.reset == ErrorCode.CANCEL
        assert not scene.agent.seen.ended
    assert scene.leaks() == []


@pytest.mark.parametrize("hook", HOOKS)
async def test_failing_after_a_while(hook: str) -> None:
    """An exception is a defect: fail closed, its text only in the log."""
    gate = Gate()
    scene, _ = waiting_scene(hook, gate)
    caller = scene.call(body=b"hello")
    await turns(scene)
    gate.future.set_exception(RuntimeError("password=hunter2"))
    await turns(scene)
    assert caller.seen.status == StatusCode.INTERNAL
    assert reason(caller) == "DEFECT"
    assert "hunter2" not in repr(caller.seen)
    assert sum(scene.metrics.defects.values()) == 1
    assert len(scene.outcomes) == 1
    assert tasks(scene) == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("hook", HOOKS)
async def test_failing_at_once(hook: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    scene = Scene(policies=with_policies(hooked(**{hook: fail})), on_agent=echo)
    other = scene.call(body=None, end=False)
    caller = scene.call(body=b"hello")
    assert caller.seen.status == StatusCode.INTERNAL
    assert reason(caller) == "DEFECT"
    assert "hunter2" not in repr(caller.seen)
    if hook != "on_request":
        assert not other.seen.ended, "one defect must not end the calls beside it"
        other.reset(ErrorCode.CANCEL)
    scene.run()
    scene.advance(2)
    assert scene.listener.is_server and not scene.listener.closed
    assert scene.endpoint.wire is not None and not scene.endpoint.wire.client.closed
    assert scene.leaks() == []


async def test_failing_over_response_headers() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    scene = Scene(policies=with_policies(hooked(on_response_headers=fail)), on_agent=echo)
    caller = scene.call()
    assert caller.seen.status == StatusCode.INTERNAL
    assert reason(caller) == "DEFECT"
    assert "hunter2" not in repr(caller.seen)
    assert scene.endpoint.wire is not None and not scene.endpoint.wire.client.closed
    assert len(scene.outcomes) == 1
    assert scene.leaks() == []


@pytest.mark.parametrize("how", ["reset", "lost", "deadline"])
@pytest.mark.parametrize("hook", HOOKS)
async def test_the_caller_leaves_meanwhile(hook: str, how: str) -> None:
    gate = Gate()
    scene, _ = waiting_scene(hook, gate)
    caller = scene.call(("grpc-timeout", "1S"), body=b"hello")
    await turns(scene)
    assert gate.entered == 1
    if how == "reset":
        caller.reset(ErrorCode.CANCEL)
        scene.run()
    elif how == "lost":
        scene.caller.lose()
        scene.run()
    else:
        scene.advance(1.1)
        assert reason(caller) == "DEADLINE"
    await turns(scene)
    assert gate.left_early == 1, "a hook whose call has ended must not go on"
    assert len(scene.outcomes) == 1
    assert tasks(scene) == 0
    if hook in {"on_request_message", "on_request_end"}:
        assert scene.agent.seen.reset == ErrorCode.CANCEL
    gate.open()
    await turns(scene)
    assert len(scene.agent_streams) == (0 if hook == "on_request" else 1)
    assert scene.leaks() == []


async def test_a_caller_that_leaves_before_the_first_step() -> None:
    """HEADERS and RST_STREAM in one read: the task is cancelled before it begins, and nothing complains."""
    gate = Gate()
    scene, _ = waiting_scene("on_request", gate)
    from tests.support.wire import request_block

    stream = ScriptedStream()
    scene.caller.client.open(stream)
    stream.send_headers(request_block())
    stream.reset(ErrorCode.CANCEL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scene.run()
        await turns(scene)
        gc.collect()
    assert [str(each.message) for each in caught] == []
    assert gate.entered == 0
    assert tasks(scene) == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("hook", HOOKS)
async def test_nothing_is_left_of_a_call_that_ends_while_a_hook_waits(hook: str) -> None:
    """Freed by reference counts alone: the collector is off."""
    gate = Gate()
    scene, _ = waiting_scene(hook, gate)
    gc.collect()
    gc.disable()
    try:
        caller = scene.call(body=b"hello")
        await turns(scene)
        assert gate.entered == 1
        before = calls_alive()
        caller.reset(ErrorCode.CANCEL)
        scene.run()
        await turns(scene)
        assert gate.left_early == 1
        del caller
        scene.calls.clear()
        scene.endpoint.attempts.clear()
        assert calls_alive() == before - 1
    finally:
        gc.enable()


async def test_both_directions_wait_and_the_caller_leaves() -> None:
    up, down = Gate(), Gate()
    policy = hooked(on_request_message=up, on_response_message=down)
    scene = Scene(
        policies=with_policies(policy),
        on_agent=lambda s, event: (
            (s.send_headers(block(*RESPONSE)), s.send_data(message(b"early"), False)) and None
            if event == "headers"
            else None
        ),
    )
    caller = scene.call(end=False)
    await turns(scene)
    assert (up.entered, down.entered) == (1, 1)
    caller.reset(ErrorCode.CANCEL)
    scene.run()
    await turns(scene)
    assert (up.left_early, down.left_early) == (1, 1)
    assert tasks(scene) == 0
    assert scene.leaks() == []


async def test_several_policies_wait_one_after_the_other() -> None:
    gates = [Gate() for _ in range(3)]
    policies = [hooked(on_request=gate) for gate in gates]
    scene = Scene(policies=with_policies(*policies), on_agent=echo)
    caller = scene.call()
    for i, gate in enumerate(gates):
        await turns(scene)
        assert [each.entered for each in gates] == [1] * (i + 1) + [0] * (2 - i)
        gate.open()
    await turns(scene)
    assert caller.seen.status == 0
    assert [len(policy.ends) for policy in policies] == [1, 1, 1]


async def test_only_those_who_let_it_pass_are_told_of_the_end() -> None:
    order: list[str] = []

    def policy(name: str, verdict: Callable[..., object]) -> Hooked:
        made = hooked(on_request=verdict)
        type(made).on_end = lambda self, call, outcome: order.append(name)  # type: ignore[method-assign]
        return made

    gate = Gate()
    scene = Scene(
        policies=with_policies(
            policy("a", lambda _: None), policy("b", gate), policy("c", lambda _: refuse()), policy("d", lambda _: None)
        ),
        on_agent=echo,
    )
    caller = scene.call()
    await turns(scene)
    gate.open()
    await turns(scene)
    assert caller.seen.status == StatusCode.UNAVAILABLE
    assert order == ["b", "a"]
    assert len(scene.outcomes) == 1


async def test_what_the_caller_sends_waits_and_is_bounded() -> None:
    gate = Gate()
    scene, _ = waiting_scene("on_request", gate)
    caller = scene.call(body=None, end=False)
    caller.send_data(message(b"x" * 2_000_000), True)
    scene.run()
    await turns(scene)
    window = scene.listener.stream_window
    assert scene.calls[0].bytes_in <= window, "nobody grants more window while nobody decides"
    gate.open()
    await turns(scene)
    assert scene.agent.seen.data == message(b"x" * 2_000_000)
    assert caller.seen.status == 0
    assert scene.leaks() == []


async def test_messages_of_the_agent_wait_in_order() -> None:
    gates: list[Gate] = []

    def hook(*_: object) -> object:
        gates.append(Gate())
        return gates[-1]()

    scene = Scene(policies=with_policies(hooked(on_response_message=hook)), on_agent=silent)
    caller = scene.call()
    finish(scene.agent, b"".join(message(b"%d" % i) for i in range(4)))
    scene.run()
    for i in range(4):
        await turns(scene)
        assert len(gates) == i + 1
        assert caller.seen.data == b"".join(message(b"%d" % j) for j in range(i))
        assert not caller.seen.ended
        gates[i].open()
    await turns(scene)
    assert caller.seen.data == b"".join(message(b"%d" % i) for i in range(4))
    assert caller.seen.status == 0
    assert scene.leaks() == []


async def test_what_the_caller_sends_after_the_agents_status_goes_nowhere() -> None:
    """The agent has answered; its trailers wait for a verdict. More DATA must not reach a stream that has ended."""
    gate = Gate()
    scene, _ = waiting_scene("on_trailers", gate, on_agent=lambda s, e: finish(s) if e == "headers" else None)
    caller = scene.call(body=None, end=False)
    await turns(scene)
    assert scene.endpoint.wire is not None
    before = len(scene.endpoint.wire.to_server)
    caller.send_data(message(b"late" * 100), False)
    scene.run()
    assert len(scene.endpoint.wire.to_server) == before
    gate.open()
    await turns(scene)
    assert caller.seen.status == 0
    scene.advance(2)
    assert scene.leaks() == []


async def test_a_verdict_that_is_none_is_a_defect() -> None:
    scene = Scene(policies=with_policies(hooked(on_request=lambda _: "yes")), on_agent=echo)
    assert reason(scene.call()) == "DEFECT"


async def test_a_late_verdict_after_the_end_changes_nothing() -> None:
    """A hook that swallows its cancellation comes back to a call that is over."""
    import asyncio

    entered = asyncio.Event()

    async def stubborn() -> object:
        entered.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return Reason.DENIED_BY_RULE.reject("too late")
        return None

    scene = Scene(policies=with_policies(hooked(on_request=lambda _: stubborn())), on_agent=echo)
    caller = scene.call()
    await turns(scene)
    caller.reset(ErrorCode.CANCEL)
    scene.run()
    await turns(scene)
    assert [outcome.code for outcome in scene.outcomes] == [StatusCode.CANCELLED]
    assert tasks(scene) == 0
    assert scene.leaks() == []
