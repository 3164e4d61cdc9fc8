"""Retries (gRFC A6): what is repeated, when, how often, and what the caller sees; all with a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http2.errors import ErrorCode
from sidecar.policies.retry import Retry, RetryBudget, RetryConfig
from sidecar.proxy.policy import Origin
from sidecar.telemetry import names
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

Agent = Callable[[ScriptedStream, str], None]
UNARY = b"hello"


def fails(code: int = 14, *extra: tuple[str, str], headers: bool = False) -> Agent:
    """An agent that answers the request's end with a status: Trailers-Only, or `headers` first."""

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            if headers:
                stream.send_headers(block(*RESPONSE))
                stream.send_headers(block(("grpc-status", str(code)), *extra), True)
            else:
                stream.send_headers(block(*RESPONSE, ("grpc-status", str(code)), *extra), True)

    return act


def answers(stream: ScriptedStream, event: str) -> None:
    if event == "end":
        stream.send_headers(block(*RESPONSE))
        stream.send_data(message(b"done"), False)
        stream.send_headers(block(("grpc-status", "0")), True)


def resets(code: int) -> Agent:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.reset(code)

    return act


def silent(stream: ScriptedStream, event: str) -> None:
    """Never answers."""


def scene(*agents: Agent, config: dict[str, Any] | None = None, **options: Any) -> Scene:
    """The agents answer attempt by attempt; the last one all further ones."""
    section = {"initial_backoff": "1s", "max_backoff": "10s", **(config or {})}
    made = Scene(
        policies=lambda runtime: [Retry(RetryConfig.model_validate(section, strict=False), runtime)],
        idempotent=options.pop("idempotent", True),
        **options,
    )

    def act(stream: ScriptedStream, event: str) -> None:
        number = made.agent_streams.index(stream)
        agents[min(number, len(agents) - 1)](stream, event)

    made.on_agent = act
    return made


def attempts_header(stream: ScriptedStream) -> str | None:
    return next((value.decode() for name, value in stream.seen.headers if name == b"grpc-previous-rpc-attempts"), None)


@pytest.mark.parametrize(
    "failure",
    [fails(), fails(headers=True), resets(ErrorCode.REFUSED_STREAM)],
    ids=["trailers-only", "headers then trailers", "refused"],
)
def test_a_failure_before_any_message_is_repeated(failure: Agent) -> None:
    played = scene(failure, failure, answers)
    caller = played.call()
    played.advance(1.3)
    played.advance(3)
    assert caller.seen.status == 0
    assert bytes(caller.seen.data) == message(b"done")
    assert [bytes(stream.seen.data) for stream in played.agent_streams] == [message(UNARY)] * len(played.agent_streams)
    played.advance(2)
    assert played.leaks() == []


def test_the_first_attempt_is_not_numbered_and_later_ones_are() -> None:
    played = scene(fails(), fails(), answers)
    played.call()
    played.advance(1.3)
    played.advance(3)
    assert [attempts_header(stream) for stream in played.agent_streams] == [None, "1", "2"]


@pytest.mark.parametrize(("told", "seen"), [("5", ["5", "6", "7"]), ("many", ["many", "1", "2"])])
def test_attempts_of_a_caller_that_repeats_as_well_are_added(told: str, seen: list[str]) -> None:
    played = scene(fails(), fails(), answers)
    played.call(("grpc-previous-rpc-attempts", told), ("x-mine", "1"))
    played.advance(1.3)
    played.advance(3)
    assert [attempts_header(stream) for stream in played.agent_streams] == seen
    for stream in played.agent_streams:
        names_seen = [name for name, _ in stream.seen.headers]
        assert names_seen.count(b"grpc-previous-rpc-attempts") == names_seen.count(b"x-mine") == 1


def test_backoff_grows_with_jitter_of_a_fifth() -> None:
    played = scene(fails(), config={"max_attempts": 3})
    played.call()
    played.advance(0.79)
    assert len(played.agent_streams) == 1
    played.advance(0.42)
    assert len(played.agent_streams) == 2
    played.advance(1.59)
    assert len(played.agent_streams) == 2
    played.advance(0.82)
    assert len(played.agent_streams) == 3


def test_the_last_failure_is_the_agents_own() -> None:
    played = scene(fails(14, ("grpc-message", "try%20later"), ("x-why", "busy")), config={"max_attempts": 2})
    caller = played.call()
    played.advance(2)
    assert len(played.agent_streams) == 2
    assert caller.seen.status == 14
    assert caller.seen.value("x-why") == "busy"
    assert caller.seen.value("x-sidecar-origin") is None
    # Trailers-Only stays Trailers-Only, so that the caller's own retry policy works.
    assert caller.seen.trailers is None
    assert [outcome.origin for outcome in played.outcomes] == [Origin.AGENT]


@pytest.mark.parametrize("code", [1, 2, 3, 5, 7, 13])
def test_other_codes_are_not_repeated(code: int) -> None:
    played = scene(fails(code), answers)
    caller = played.call()
    played.advance(5)
    assert len(played.agent_streams) == 1
    assert caller.seen.status == code


def test_only_what_may_be_repeated_is() -> None:
    played = scene(fails(), answers, idempotent=False)
    caller = played.call()
    played.advance(5)
    assert len(played.agent_streams) == 1
    assert caller.seen.status == 14
    keyed = scene(fails(), answers, idempotent=False)
    caller = keyed.call(("idempotency-key", "pay-1"))
    keyed.advance(1.3)
    assert caller.seen.status == 0
    anything = scene(fails(), answers, idempotent=False, config={"only_idempotent": False})
    caller = anything.call()
    anything.advance(1.3)
    assert caller.seen.status == 0


def test_nothing_is_repeated_after_a_message() -> None:
    def half(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE))
            stream.send_data(message(b"part"), False)
            stream.send_headers(block(("grpc-status", "14")), True)

    played = scene(half, answers)
    caller = played.call()
    played.advance(5)
    assert len(played.agent_streams) == 1
    assert caller.seen.status == 14
    assert bytes(caller.seen.data) == message(b"part")


def test_early_headers_are_held_for_a_millisecond_at_most() -> None:
    def early(stream: ScriptedStream, event: str) -> None:
        if event == "headers":
            stream.send_headers(block(*RESPONSE, ("x-early", "1")))

    played = scene(early)
    caller = played.call(end=False)
    assert caller.seen.headers == []
    played.advance(0.001)
    assert caller.seen.value("x-early") == "1"
    # That committed the call: a failure now is the call's.
    played.agent.send_headers(block(("grpc-status", "14")), True)
    played.run()
    played.advance(5)
    assert len(played.agent_streams) == 1
    assert caller.seen.status == 14


@pytest.mark.parametrize(
    ("pushback", "wait"), [("0", 0.0), ("2500", 2.5), ("-1", None), ("soon", None), ("99999999999", None)]
)
def test_pushback_is_used_exactly(pushback: str, wait: float | None) -> None:
    played = scene(fails(14, ("grpc-retry-pushback-ms", pushback)), answers)
    played.call()
    if wait is None:
        played.advance(20)
        assert len(played.agent_streams) == 1
        assert played.metrics.samples(names.RETRIES)["inbound", "all", "pushback"] == 1
        return
    if wait:
        played.advance(wait - 0.001)
        assert len(played.agent_streams) == 1
    played.advance(0.002)
    assert len(played.agent_streams) == 2


def test_a_retry_that_could_not_end_in_time_is_not_begun() -> None:
    played = scene(fails(), answers)
    caller = played.call(("grpc-timeout", "500m"))
    assert caller.seen.status == 14
    assert len(played.agent_streams) == 1


def test_what_remains_of_the_deadline_goes_with_each_attempt() -> None:
    played = scene(fails(), answers)
    played.call(("grpc-timeout", "9S"))
    played.advance(1.3)
    sent = [dict(stream.seen.headers)[b"grpc-timeout"] for stream in played.agent_streams]
    assert sent[0] == b"9S"
    assert 7.7e6 <= int(sent[1].rstrip(b"u")) <= 8.2e6


def test_a_silent_attempt_is_given_up_and_another_endpoint_asked() -> None:
    played = scene(silent, answers, config={"per_try_timeout": "2s", "initial_backoff": "100ms"}, endpoints=2)
    caller = played.call()
    played.advance(2.1)
    assert played.agent_streams[0].seen.reset == ErrorCode.CANCEL
    played.advance(0.2)
    assert caller.seen.status == 0
    assert [len(endpoint.attempts) for endpoint in played.endpoints] == [1, 1]


def test_a_try_timeout_says_so_when_attempts_are_used_up() -> None:
    played = scene(silent, config={"per_try_timeout": "1s", "max_attempts": 2, "initial_backoff": "100ms"})
    caller = played.call()
    played.advance(1.1)
    played.advance(0.2)
    played.advance(1.2)
    assert caller.seen.status == 4
    assert [outcome.reason.name for outcome in played.outcomes if outcome.reason] == ["TRY_TIMEOUT"]


def test_a_lost_connection_is_repeated_elsewhere() -> None:
    played = scene(silent, answers, endpoints=2)
    caller = played.call()
    assert played.endpoints[0].wire is not None
    played.endpoints[0].wire.lose()
    played.advance(1.3)
    assert caller.seen.status == 0
    assert len(played.endpoints[1].attempts) == 1


def test_client_streams_are_replayed_whole() -> None:
    played = scene(fails(), answers)
    caller = played.call(body=b"one", end=False)
    for body in (b"two", b"three"):
        caller.send_data(message(body), False)
        played.run()
    caller.send_data(message(b"four"), True)
    played.run()
    played.advance(1.3)
    expected = b"".join(map(message, (b"one", b"two", b"three", b"four")))
    assert [bytes(stream.seen.data) for stream in played.agent_streams] == [expected, expected]
    assert caller.seen.status == 0


def test_messages_that_come_during_the_backoff_follow_the_replayed_ones() -> None:
    def at_once(stream: ScriptedStream, event: str) -> None:
        if event == "headers":
            stream.send_headers(block(*RESPONSE, ("grpc-status", "14")), True)

    played = scene(at_once, answers)
    caller = played.call(body=b"one", end=False)
    caller.send_data(message(b"two"), True)
    played.run()
    played.advance(1.3)
    assert bytes(played.agent.seen.data) == message(b"one") + message(b"two")
    assert caller.seen.status == 0


def test_a_request_that_outgrows_the_buffer_is_committed() -> None:
    played = scene(fails(), answers, config={"buffer": "1KiB"})
    caller = played.call(body=b"x" * 2000)
    played.advance(5)
    assert len(played.agent_streams) == 1
    assert caller.seen.status == 14


def test_a_caller_that_leaves_during_the_backoff_ends_it() -> None:
    played = scene(fails(), answers)
    caller = played.call()
    caller.reset(ErrorCode.CANCEL)
    played.run()
    played.advance(5)
    assert len(played.agent_streams) == 1
    assert played.leaks() == []


def test_goaway_before_it_was_looked_at_is_repeated_once_at_once_on_any_route() -> None:
    played = Scene(on_agent=None, endpoints=2)
    played.call(body=b"pay")
    played.agent.connection.out.append(b"\0\0\x08\x07\0\0\0\0\0" + b"\0\0\0\0" + b"\0\0\0\0")
    played.run()
    assert len(played.agent_streams) == 2
    assert bytes(played.agent.seen.data) == message(b"pay")
    assert attempts_header(played.agent) is None


def test_a_storm_adds_a_fifth() -> None:
    played = scene(fails(), config={"initial_backoff": "10ms", "budget": {"percent": 20, "min_per_second": 1}})
    for _ in range(500):
        played.call()
        played.advance(0.02)
    played.advance(5)
    assert 500 < len(played.agent_streams) <= 500 * 1.2
    assert played.metrics.samples(names.RETRIES)["inbound", "all", "budget_exhausted"] > 300


@given(st.lists(st.tuples(st.sampled_from(["rpc", "retry", "wait"]), st.floats(0, 3)), max_size=200))
def test_the_budget_never_exceeds_its_share(events: list[tuple[str, float]]) -> None:
    """Against a model that remembers everything: in any window, retries ≤ the share of the RPCs of twice that window."""
    budget = RetryBudget(0.2, 1.0)
    now = 100.0
    rpcs: list[float] = []
    retries: list[float] = []
    for kind, value in events:
        if kind == "wait":
            now += value
        elif kind == "rpc":
            budget.deposit(now)
            rpcs.append(now)
        elif budget.withdraw(now):
            retries.append(now)
            recent = [each for each in retries if each > now - 5]
            base = [each for each in rpcs if each > now - 15]
            assert len(recent) <= max(0.2 * len(base), 10.0)
