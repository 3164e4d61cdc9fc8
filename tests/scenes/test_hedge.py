"""Hedging (gRFC A6): a second endpoint is asked when the first is slow; the first good answer wins, the other is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sidecar.http2.errors import ErrorCode
from sidecar.policies.hedge import Hedge, HedgeConfig
from sidecar.policies.retry import Retry, RetryConfig
from sidecar.proxy.plan import Plan
from sidecar.telemetry import names
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

Agent = Callable[[ScriptedStream, str], None]


def silent(stream: ScriptedStream, event: str) -> None:
    """Never answers."""


def answers(stream: ScriptedStream, event: str) -> None:
    if event == "end":
        answer(stream)


def answer(stream: ScriptedStream, body: bytes = b"done") -> None:
    stream.send_headers(block(*RESPONSE))
    stream.send_data(message(body), False)
    stream.send_headers(block(("grpc-status", "0")), True)


def fails(code: int, *extra: tuple[str, str]) -> Agent:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE, ("grpc-status", str(code)), *extra), True)

    return act


def scene(*agents: Agent, config: dict[str, Any] | None = None, **options: Any) -> Scene:
    section = {"max_attempts": 2, "delay": "200ms", **(config or {})}
    made = Scene(
        policies=lambda runtime: [Hedge(HedgeConfig.model_validate(section, strict=False), runtime)],
        idempotent=options.pop("idempotent", True),
        endpoints=options.pop("endpoints", 3),
        **options,
    )

    def act(stream: ScriptedStream, event: str) -> None:
        number = made.agent_streams.index(stream)
        agents[min(number, len(agents) - 1)](stream, event)

    made.on_agent = act
    return made


def test_a_quick_answer_needs_no_hedge() -> None:
    played = scene(answers)
    caller = played.call()
    played.advance(1)
    assert caller.seen.status == 0
    assert len(played.agent_streams) == 1
    played.advance(2)
    assert played.leaks() == []


def test_a_slow_one_is_overtaken_and_cancelled() -> None:
    played = scene(silent, answers)
    caller = played.call()
    played.advance(0.19)
    assert len(played.agent_streams) == 1
    played.advance(0.02)
    assert caller.seen.status == 0
    assert bytes(caller.seen.data) == message(b"done")
    assert played.agent_streams[0].seen.reset == ErrorCode.CANCEL
    assert [bytes(stream.seen.data) for stream in played.agent_streams] == [message(b"hello")] * 2
    assert played.metrics.samples(names.HEDGES)["inbound", "all"] == 1
    played.advance(2)
    assert played.leaks() == []


def test_the_first_may_still_win() -> None:
    played = scene(silent, silent)
    caller = played.call()
    played.advance(0.21)
    answer(played.agent_streams[0], b"first")
    played.run()
    assert bytes(caller.seen.data) == message(b"first")
    assert played.agent_streams[1].seen.reset == ErrorCode.CANCEL


def test_each_attempt_goes_to_another_endpoint() -> None:
    played = scene(silent, config={"max_attempts": 3})
    played.call()
    played.advance(0.21)
    played.advance(0.21)
    played.advance(0.21)
    assert [len(endpoint.attempts) for endpoint in played.endpoints] == [1, 1, 1]


def test_a_failure_that_is_not_fatal_starts_the_next_at_once() -> None:
    played = scene(fails(14), answers)
    caller = played.call()
    assert caller.seen.status == 0
    assert len(played.agent_streams) == 2


def test_a_fatal_status_is_the_answer() -> None:
    played = scene(silent, fails(5))
    caller = played.call()
    played.advance(0.21)
    assert caller.seen.status == 5
    assert played.agent_streams[0].seen.reset == ErrorCode.CANCEL


def test_a_failed_hedge_leaves_the_first_running() -> None:
    played = scene(silent, fails(14))
    caller = played.call()
    played.advance(0.21)
    assert not caller.seen.ended
    answer(played.agent_streams[0])
    played.run()
    assert caller.seen.status == 0


def test_when_all_fail_the_caller_learns_the_last() -> None:
    played = scene(fails(14, ("x-n", "1")), fails(14, ("x-n", "2")))
    caller = played.call()
    assert caller.seen.status == 14
    assert caller.seen.value("x-n") == "2"


def test_pushback_that_forbids_stops_further_hedges() -> None:
    played = scene(fails(14, ("grpc-retry-pushback-ms", "-1")), answers)
    caller = played.call()
    played.advance(5)
    assert len(played.agent_streams) == 1
    assert caller.seen.status == 14


def test_only_what_may_be_executed_twice_is_hedged() -> None:
    played = scene(silent, answers, idempotent=False)
    played.call()
    played.advance(1)
    assert len(played.agent_streams) == 1
    keyed = scene(silent, answers, idempotent=False)
    caller = keyed.call(("idempotency-key", "k"))
    keyed.advance(0.21)
    assert caller.seen.status == 0


def test_a_client_stream_reaches_every_attempt() -> None:
    played = scene(silent, answers)
    caller = played.call(body=b"one", end=False)
    played.advance(0.21)
    caller.send_data(message(b"two"), False)
    played.run()
    caller.send_data(message(b"three"), True)
    played.run()
    expected = b"".join(map(message, (b"one", b"two", b"three")))
    assert bytes(played.agent_streams[1].seen.data) == expected
    assert bytes(played.agent_streams[0].seen.data) == expected
    assert caller.seen.status == 0


def test_a_caller_that_leaves_cancels_all() -> None:
    played = scene(silent)
    caller = played.call()
    played.advance(0.21)
    caller.reset(ErrorCode.CANCEL)
    played.run()
    assert [stream.seen.reset for stream in played.agent_streams] == [ErrorCode.CANCEL] * 2
    assert played.leaks() == []


def test_a_route_has_one_owner_of_attempts() -> None:
    played = Scene()
    runtime = played.runtime
    both = [Retry(RetryConfig(), runtime), Hedge(HedgeConfig(), runtime)]
    with pytest.raises(ValueError, match="exclude each other"):
        Plan(listener="in", route="r", policies=both, cluster=None, runtime=runtime)
