"""When attempts are made (gRFC A6), against a small model that computes the earliest and the latest time of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.policies.retry import Retry, RetryConfig
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

OK, UNAVAILABLE, ABORTED = 0, 14, 10
_EXACT = 1e-6


@dataclass(frozen=True)
class Reply:
    """What the agent says to one attempt, and after how long (seconds)."""

    code: int
    pushback: str | None = None
    after: float = 0.0


@dataclass(frozen=True)
class Policy:
    max_attempts: int
    initial: float
    multiplier: float
    longest: float


def expected(policy: Policy, replies: list[Reply]) -> tuple[list[tuple[float, float]], int]:
    """A6 as it is written: the earliest and latest pause before each further attempt, and how many attempts there are."""
    pauses: list[tuple[float, float]] = []
    backoffs = 0
    for number in range(1, policy.max_attempts):
        reply = replies[number - 1]
        if reply.code != UNAVAILABLE:
            break
        if reply.pushback is not None:
            if not reply.pushback.isdigit():
                break
            exact = int(reply.pushback) / 1000
            pauses.append((exact, exact))
            # "… and the backoff starts anew": the next one is the initial one.
            backoffs = 0
        else:
            nominal = min(policy.initial * policy.multiplier**backoffs, policy.longest)
            pauses.append((nominal * 0.8, nominal * 1.2))
            backoffs += 1
    return pauses, len(pauses) + 1


REPLIES = st.builds(
    Reply,
    code=st.sampled_from([UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, OK, ABORTED]),
    pushback=st.sampled_from([None, None, None, "0", "40", "2500", "-1", "soon"]),
    after=st.sampled_from([0.0, 0.3]),
)
POLICIES = st.builds(
    Policy,
    max_attempts=st.integers(2, 5),
    initial=st.floats(0.05, 2),
    multiplier=st.floats(1, 4),
    longest=st.floats(2, 8),
)


def play(policy: Policy, replies: list[Reply], *fields: tuple[str, str]) -> tuple[list[float], list[float], Any]:
    """(when each attempt began, when each was answered, what the caller saw)."""
    config: dict[str, Any] = {
        "max_attempts": policy.max_attempts,
        "initial_backoff": policy.initial,
        "multiplier": policy.multiplier,
        "max_backoff": policy.longest,
    }
    played = Scene(policies=lambda runtime: [Retry(RetryConfig(**config), runtime)], idempotent=True)
    began: list[float] = []
    ended: list[float] = []

    def answer(stream: ScriptedStream, reply: Reply) -> None:
        if stream.seen.reset is not None:
            return
        ended.append(played.clock.monotonic())
        if reply.code == OK:
            stream.send_headers(block(*RESPONSE))
            stream.send_data(message(b"done"), False)
            stream.send_trailers(block(("grpc-status", "0")))
            return
        pushback = [("grpc-retry-pushback-ms", reply.pushback)] if reply.pushback is not None else []
        stream.send_headers(block(*RESPONSE, ("grpc-status", str(reply.code)), *pushback), True)

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            reply = replies[len(began)]
            began.append(played.clock.monotonic())
            if reply.after:
                played.clock.call_later(reply.after, lambda: answer(stream, reply))
            else:
                answer(stream, reply)

    played.on_agent = act
    caller = played.call(*fields)
    until = played.clock.monotonic() + 120
    while (timers := played.clock.timers) and timers[0].when <= until:
        played.advance(max(0.0, timers[0].when - played.clock.monotonic()) + 1e-9)
    assert played.leaks() == []
    return began, ended, caller.seen


@settings(max_examples=150, deadline=None)
@given(POLICIES, st.lists(REPLIES, min_size=5, max_size=5))
def test_attempts_are_made_when_a6_says(policy: Policy, replies: list[Reply]) -> None:
    began, ended, seen = play(policy, replies)
    pauses, count = expected(policy, replies)
    assert len(began) == count
    for (earliest, latest), answered, next_one in zip(pauses, ended, began[1:], strict=False):
        assert earliest - _EXACT <= next_one - answered <= latest + _EXACT
    assert seen.status == replies[count - 1].code


@settings(max_examples=100, deadline=None)
@given(POLICIES, st.lists(REPLIES, min_size=5, max_size=5), st.integers(1, 4000))
def test_no_attempt_begins_after_the_deadline(policy: Policy, replies: list[Reply], milliseconds: int) -> None:
    began, _, seen = play(policy, replies, ("grpc-timeout", f"{milliseconds}m"))
    _, most = expected(policy, replies)
    assert 1 <= len(began) <= most
    assert began[-1] - began[0] < milliseconds / 1000
    # It ends by an answer of the agent, or by the deadline; a pause that would outlast the deadline is not begun.
    assert seen.status in {4, replies[len(began) - 1].code}
