from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.mirror.rpc import AnswerSeen, MirroredRpc
from tests.support.clock import FakeClock
from tests.support.wire import (
    RESPONSE,
    ScriptedStream,
    Wire,
    block,
    client_connection,
    message,
    request_block,
    server_connection,
)

Act = Callable[[ScriptedStream, str], None]


def run(
    act: Act, *, limit: int = 1000, lose: bool = False, seconds: float = 0.0
) -> tuple[list[AnswerSeen], ScriptedStream]:
    """What comes of a copy to an agent that does this."""
    clock, seen, streams = FakeClock(), [], []

    def accept(_: object) -> ScriptedStream:
        streams.append(ScriptedStream(act))
        return streams[-1]

    wire = Wire(client_connection(), server_connection(accept), now=clock.monotonic)
    wire.start()
    rpc = MirroredRpc(limit, seen.append)
    wire.client.open(rpc)
    rpc.watch(clock.call_later(5.0, rpc.expire))
    rpc.send_headers(request_block("/p.S/M"))
    rpc.send_data(message(b"q"), True)
    wire.run()
    if lose:
        wire.lose()
    clock.advance(seconds)
    wire.run()
    assert clock.timers == [] or not seen
    assert wire.client.streams == {}
    return seen, streams[0]


def answer(*trailers: tuple[str, str], data: bytes = b"") -> Act:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE, ("grpc-encoding", "gzip")))
            if data:
                stream.send_data(data, False)
            stream.send_trailers(block(*trailers))

    return act


def test_what_came_is_kept_up_to_a_limit() -> None:
    ((seen,), _) = run(answer(("grpc-status", "0"), data=message(b"abc")))
    assert (seen.code, seen.size, seen.encoding, bytes(seen.messages or b"")) == (
        StatusCode.OK,
        8,
        b"gzip",
        message(b"abc"),
    )
    ((seen,), _) = run(answer(("grpc-status", "0"), data=message(bytes(2000))))
    assert (seen.code, seen.size, seen.messages) == (StatusCode.OK, 2005, None)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (answer(("grpc-status", "9"), ("grpc-message", "no%20way")), StatusCode.FAILED_PRECONDITION),
        (answer(("x", "1")), StatusCode.UNKNOWN),
        (
            lambda stream, event: stream.send_headers(block((":status", "503")), True) if event == "end" else None,
            StatusCode.UNAVAILABLE,
        ),
        (lambda stream, event: stream.reset(8) if event == "end" else None, StatusCode.CANCELLED),
    ],
)
def test_other_ends_have_their_code(act: Act, code: StatusCode) -> None:
    ((seen,), _) = run(act)
    assert seen.code is code


def test_one_that_does_not_answer_is_given_up() -> None:
    ((seen,), stream) = run(lambda _stream, _event: None, seconds=5.0)
    assert seen.code is None
    assert stream.seen.reset == 8


def test_a_lost_connection_ends_it_once() -> None:
    seen, _ = run(lambda _stream, _event: None, lose=True, seconds=5.0)
    assert [each.code for each in seen] == [StatusCode.UNAVAILABLE]
