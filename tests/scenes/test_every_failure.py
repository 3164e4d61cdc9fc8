"""Every way in which an agent can fail, unary and streaming: what the caller sees, the attempts made, breaker and ejection afterwards.

The first attempt meets the failure, any later one is served by the other endpoint; one failure trips breaker and ejection, so that
the table shows whether it counted. All with a clock that stands still until it is moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sidecar.http2 import frames
from sidecar.http2.errors import ErrorCode
from sidecar.policies.retry import Retry, RetryConfig
from tests.support.cluster import Agent, ClusterScene
from tests.support.wire import RESPONSE, ScriptedStream, block, message

Failure = Callable[["Stage", ScriptedStream, Agent], None]
OK, CANCELLED, UNKNOWN, DEADLINE, TOO_MUCH, INTERNAL, UNAVAILABLE = 0, 1, 2, 4, 8, 13, 14
BREAKER = {"failure_threshold": 1, "success_threshold": 1, "open_for": 3600.0}
EJECTION = {"consecutive_failures": 1, "min_success_rate": 0.0, "base_ejection": 3600.0, "max_ejection": 3600.0}


class Stage(ClusterScene):
    """Two agents; the first stream that comes to either meets `failure`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: Failure, at: str, **retry: Any) -> None:
        self.failed: Agent | None = None
        self._failure = failure
        self._at = at
        config = RetryConfig(initial_backoff=0.01, max_backoff=0.01, max_attempts=3, **retry)
        super().__init__(
            monkeypatch,
            2,
            policies=lambda runtime: [Retry(config, runtime)],
            circuit_breaker=BREAKER,
            outlier_ejection=EJECTION,
        )
        for agent in self.agents:
            agent.act = lambda stream, event, agent=agent: self._act(stream, event, agent)

    def _act(self, stream: ScriptedStream, event: str, agent: Agent) -> None:
        if event != self._at:
            return
        if self.failed is None:
            self.failed = agent
            self._failure(self, stream, agent)
        elif agent is not self.failed or not stream.seen.reset:
            serve(stream)

    @property
    def attempts(self) -> int:
        return sum(agent.calls for agent in self.agents)


def serve(stream: ScriptedStream) -> None:
    stream.send_headers(block(*RESPONSE))
    stream.send_data(message(b"done"), False)
    stream.send_trailers(block(("grpc-status", "0")))


def one_message(stream: ScriptedStream) -> None:
    stream.send_headers(block(*RESPONSE))
    stream.send_data(message(b"one"), False)


# ── the failures ──


def resets(code: int, after: str = "nothing") -> Failure:
    def act(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
        if after == "headers":
            stream.send_headers(block(*RESPONSE))
        elif after == "message":
            one_message(stream)
        stream.reset(code)

    return act


def ends_with(code: int, after: str = "nothing") -> Failure:
    def act(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
        if after == "nothing":
            stream.send_headers(block(*RESPONSE, ("grpc-status", str(code))), True)
            return
        if after == "headers":
            stream.send_headers(block(*RESPONSE))
        else:
            one_message(stream)
        stream.send_trailers(block(("grpc-status", str(code))))

    return act


def loses_connection(after: str = "nothing") -> Failure:
    def act(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
        if after == "message":
            one_message(stream)
            stage.clock.call_later(0.1, agent.lose)
        else:
            agent.lose()

    return act


def goes_away(*, unseen: bool) -> Failure:
    def act(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
        last = 0 if unseen else stream.stream_id
        stream.connection.out.append(frames.goaway(last, ErrorCode.NO_ERROR))
        if not unseen:
            serve(stream)

    return act


def stalls(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
    """Never answers; the connection is well."""


def is_slow(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
    stage.clock.call_later(0.4, lambda: serve(stream))


def answers_http(status: str, content_type: str) -> Failure:
    def act(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
        stream.send_headers(block((":status", status), ("content-type", content_type)))
        stream.send_data(b"<html>", True)

    return act


def forgets_trailers(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
    stream.send_headers(block(*RESPONSE))
    stream.send_data(message(b"one"), True)


def says_garbage(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
    stream.connection.out.append(b"\xff" * 100)


def breaks_its_stream(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
    """A header block with an uppercase name: malformed (RFC 9113 §8.2.1)."""
    stream.send_headers(block(*RESPONSE, ("X-Bad", "1")), True)


def promises_a_huge_message(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
    stream.send_headers(block(*RESPONSE))
    stream.send_data(b"\0" + (1 << 30).to_bytes(4, "big") + b"x", False)


def is_half_open(stage: Stage, stream: ScriptedStream, agent: Agent) -> None:
    """The other side is gone, and nobody told us: nothing comes, nothing is acknowledged."""
    agent.is_frozen = True


# ── what comes of them ──


@dataclass(frozen=True)
class Row:
    """`sees`: the status, or ("reset", code); `counts`: does it trip breaker and ejection?"""

    failure: Failure
    sees: Any
    attempts: int
    counts: bool
    wait: float = 1.0
    timeout: str | None = None
    retry: tuple[tuple[str, Any], ...] = ()


TABLE = {
    "reset before headers": Row(resets(ErrorCode.INTERNAL_ERROR), ("reset", 2), 1, True),
    "reset after headers": Row(resets(ErrorCode.INTERNAL_ERROR, "headers"), ("reset", 2), 1, True),
    "reset after a message": Row(resets(ErrorCode.INTERNAL_ERROR, "message"), ("reset", 2), 1, True),
    "cancelled": Row(resets(ErrorCode.CANCEL), ("reset", 8), 1, False),
    "refused stream": Row(resets(ErrorCode.REFUSED_STREAM), OK, 2, False),
    "trailers-only": Row(ends_with(UNAVAILABLE), OK, 2, True),
    "status after headers": Row(ends_with(UNAVAILABLE, "headers"), OK, 2, True),
    "status after a message": Row(ends_with(UNAVAILABLE, "message"), UNAVAILABLE, 1, True),
    "an answer that is not its fault": Row(ends_with(5), 5, 1, False),
    "lost before headers": Row(loses_connection(), OK, 2, True),
    "lost after a message": Row(loses_connection("message"), UNAVAILABLE, 1, True),
    "goaway, unseen": Row(goes_away(unseen=True), OK, 2, False),
    "goaway, taken": Row(goes_away(unseen=False), OK, 1, False),
    "stall until the deadline": Row(stalls, DEADLINE, 1, True, wait=2.0, timeout="1S"),
    "stall until the attempt's time is up": Row(stalls, OK, 2, True, wait=2.0, retry=(("per_try_timeout", 0.5),)),
    "slow": Row(is_slow, OK, 1, False),
    "wrong content-type": Row(answers_http("200", "text/html"), UNKNOWN, 1, True),
    "http 503": Row(answers_http("503", "text/html"), OK, 2, True),
    "no trailers": Row(forgets_trailers, INTERNAL, 1, True),
    "garbage frames": Row(says_garbage, OK, 2, True),
    "malformed headers": Row(breaks_its_stream, INTERNAL, 1, True),
    "a message beyond all bounds": Row(promises_a_huge_message, TOO_MUCH, 1, False),
    "half-open": Row(is_half_open, OK, 2, True, wait=400.0),
}


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "streaming"])
@pytest.mark.parametrize("name", TABLE)
def test_a_failure(monkeypatch: pytest.MonkeyPatch, name: str, streams: bool) -> None:
    row = TABLE[name]
    stage = Stage(monkeypatch, row.failure, "data" if streams else "end", **dict(row.retry))
    timeout = [("grpc-timeout", row.timeout)] if row.timeout else []
    caller = stage.call(*timeout, end=not streams)
    stage.advance(row.wait)
    assert stage.failed is not None
    seen = caller.seen
    assert (seen.status if seen.reset in {None, 0} else ("reset", seen.reset)) == row.sees
    assert stage.attempts == row.attempts
    vitals = stage.at(stage.failed).vitals
    assert vitals.breaker is not None
    assert (vitals.breaker.state == "open", vitals.is_ejected) == (row.counts, row.counts)
    other = next(each for each in stage.agents if each is not stage.failed)
    fine = stage.at(other).vitals
    assert (fine.breaker is not None and fine.breaker.state, fine.is_ejected) == ("closed", False)
    if row.sees == OK:
        assert bytes(seen.data) == message(b"done")
    # Whoever is left serves, and nothing is left of the call.
    if not streams:
        assert stage.call().seen.status == OK
    stage.advance(2)
    assert stage.close() == []


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "streaming"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, streams: bool) -> None:
    stage = Stage(monkeypatch, stalls, "end")
    for agent in stage.agents:
        agent.kill()
    stage.run()
    caller = stage.call(end=not streams)
    stage.advance(1)
    assert caller.seen.status == UNAVAILABLE
    assert stage.attempts == 0
    # That nobody answers the telephone is no word on how they serve.
    for agent in stage.agents:
        vitals = stage.at(agent).vitals
        assert (vitals.admits, vitals.is_ejected) == (True, False)
