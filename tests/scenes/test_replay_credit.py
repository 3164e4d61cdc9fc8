"""A caller is credited once for each byte that left it, however many attempts were sent that byte."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.policies.hedge import Hedge, HedgeConfig
from sidecar.policies.retry import Retry, RetryConfig
from sidecar.proxy.policy import Policy
from sidecar.runtime import Runtime
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

ONE = message(b"x" * 10_000)


def scene(kind: str = "retry") -> Scene:
    def policies(runtime: Runtime) -> list[Policy[Any]]:
        if kind == "hedge":
            hedging = {"max_attempts": 2, "delay": "200ms", "buffer": "1MiB"}
            return [Hedge(HedgeConfig.model_validate(hedging, strict=False), runtime)]
        section = {"initial_backoff": "1s", "max_backoff": "10s", "buffer": "1MiB"}
        return [Retry(RetryConfig.model_validate(section, strict=False), runtime)]

    made = Scene(policies=policies, idempotent=True, endpoints=2)
    made.agent_consumes = False
    return made


def uncredited(played: Scene) -> int:
    """Bytes that the caller has sent and not been credited."""
    (call,) = played.calls
    return call.connection.stream_window - call.recv_window - call.unacked


def waiting(played: Scene) -> int:
    """Bytes of the request that wait for an agent's window."""
    (call,) = played.calls
    assert call.attempt is not None
    return sum(len(payload) for payload, _ in call.attempt.pending or ())


def send(played: Scene, caller: ScriptedStream, size: int) -> None:
    for _ in range(size // len(ONE)):
        caller.send_data(ONE, False)
        played.run()


def take(agent: ScriptedStream, played: Scene, taken: int = 0) -> None:
    """The agent reads all there is, and all that comes of it."""
    while fresh := len(agent.seen.data) - taken:
        taken += fresh
        agent.consume(fresh)
        played.run()


def fail(agent: ScriptedStream, played: Scene) -> None:
    agent.send_headers(block(*RESPONSE, ("grpc-status", "14")), True)
    played.run()


@pytest.mark.parametrize("reads_first", [False, True], ids=["the first read nothing", "the first read all"])
def test_what_is_sent_again_is_not_credited_again(reads_first: bool) -> None:
    played = scene()
    caller = played.call(body=None, end=False)
    send(played, caller, 400_000)
    first = played.agent
    assert waiting(played) > 0
    if reads_first:
        take(first, played)
        assert uncredited(played) == 0
    fail(first, played)
    played.advance(1.3)
    second = played.agent
    assert second is not first
    # More has been sent than its window takes; none of what waits has been credited twice.
    assert waiting(played) > 0
    assert uncredited(played) >= 0
    take(second, played)
    assert waiting(played) == 0
    assert uncredited(played) == 0
    send(played, caller, 400_000)
    assert uncredited(played) == waiting(played) or not waiting(played)
    take(second, played, 0 if not second.seen.data else len(second.seen.data) - second.unacked)
    assert bytes(second.seen.data) == ONE * (len(second.seen.data) // len(ONE))


def test_a_caller_whose_bytes_a_lost_attempt_kept_is_not_stopped_for_ever() -> None:
    played = scene()
    caller = played.call(body=None, end=False)
    # Until its own window is closed: the first agent reads nothing.
    send(played, caller, 800_000)
    assert caller.pending is not None
    fail(played.agent, played)
    played.advance(1.3)
    take(played.agent, played)
    assert caller.pending is None
    assert uncredited(played) == 0
    assert len(played.agent.seen.data) == 800_000 // len(ONE) * len(ONE)


def test_the_winner_of_a_hedge_takes_over_the_callers_window() -> None:
    played = scene("hedge")
    caller = played.call(body=None, end=False)
    send(played, caller, 400_000)
    stuck = played.agent
    played.advance(0.3)
    quick = played.agent
    assert quick is not stuck
    take(quick, played)
    quick.send_headers(block(*RESPONSE))
    quick.send_data(message(b"go on"), False)
    played.run()
    take(quick, played, len(quick.seen.data) - quick.unacked)
    assert uncredited(played) == waiting(played) == 0
    before = len(quick.seen.data)
    send(played, caller, 100_000)
    assert len(quick.seen.data) == before + 100_000 // len(ONE) * len(ONE)
