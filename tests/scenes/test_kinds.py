"""The four kinds of RPC, and the shapes of answers: what arrives is what was sent, when it was sent."""

from __future__ import annotations

import pytest

from tests.scenes.script import OK, echo, finish, only_trailers, silent
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message


def test_unary() -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(body=b"hello")
    assert scene.agent.seen.data == message(b"hello")
    assert scene.agent.seen.events == ["headers", "data", "end"]
    assert caller.seen.data == message(b"hello")
    assert caller.seen.events == ["headers", "data", "end"]
    assert caller.seen.status == 0
    assert scene.leaks() == []


def test_server_stream_message_by_message() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call()
    agent = scene.agent
    agent.send_headers(block(*RESPONSE))
    for number in range(5):
        agent.send_data(message(b"%d" % number), False)
        scene.run()
        # No added latency: each is there before the next is sent.
        assert caller.seen.data.endswith(message(b"%d" % number))
    assert not caller.seen.ended
    agent.send_trailers(block(*OK))
    scene.run()
    assert caller.seen.events == ["headers", *["data"] * 5, "end"]
    assert scene.leaks() == []


def test_client_stream_message_by_message() -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(body=None, end=False)
    assert scene.agent.seen.events == ["headers"]
    for number in range(5):
        caller.send_data(message(b"%d" % number), False)
        scene.run()
        assert scene.agent.seen.data.endswith(message(b"%d" % number))
    assert not scene.agent.seen.ended
    caller.send_data(b"", True)
    scene.run()
    assert scene.agent.seen.events == ["headers", *["data"] * 5, "end"]
    assert caller.seen.status == 0
    assert scene.calls[0].request_messages == 5
    assert scene.leaks() == []


def test_both_at_once() -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call(body=None, end=False)
    agent = scene.agent
    agent.send_headers(block(*RESPONSE))
    for number in range(4):
        caller.send_data(message(b"q%d" % number), False)
        scene.run()
        agent.send_data(message(b"a%d" % number), False)
        scene.run()
        assert agent.seen.data.endswith(message(b"q%d" % number))
        assert caller.seen.data.endswith(message(b"a%d" % number))
    caller.send_data(b"", True)
    scene.run()
    assert agent.seen.ended
    assert not caller.seen.ended
    agent.send_data(message(b"after your half-close"), False)
    agent.send_trailers(block(*OK))
    scene.run()
    assert caller.seen.data.endswith(b"after your half-close")
    assert caller.seen.status == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("status", range(17))
def test_trailers_only_stays_trailers_only(status: int) -> None:
    scene = Scene(on_agent=only_trailers(("grpc-status", str(status)), ("grpc-message", "caf%C3%A9 %25")))
    caller = scene.call()
    assert caller.seen.events == ["headers", "end"]
    assert caller.seen.trailers is None
    assert caller.seen.status == status
    assert caller.seen.value("grpc-message") == "caf%C3%A9 %25"
    assert caller.seen.value("x-sidecar-origin") is None
    assert scene.outcomes[0].code == status
    assert scene.outcomes[0].message == ("café %" if status else "")
    assert scene.leaks() == []


def test_headers_and_then_trailers_stay_two() -> None:
    """An answer without a message is not made into Trailers-Only."""
    scene = Scene(on_agent=lambda stream, event: finish(stream) if event == "end" else None)
    caller = scene.call()
    assert caller.seen.trailers == [(b"grpc-status", b"0")]
    assert caller.seen.events == ["headers", "end"]


def test_an_unknown_status_goes_on_as_it_is() -> None:
    scene = Scene(on_agent=only_trailers(("grpc-status", "77")))
    assert scene.call().seen.value("grpc-status") == "77"


def test_early_headers_come_before_any_message_of_either_side() -> None:
    scene = Scene(
        on_agent=lambda s, event: s.send_headers(block(*RESPONSE, ("x-early", "1"))) if event == "headers" else None
    )
    caller = scene.call(body=None, end=False)
    assert caller.seen.events == ["headers"]
    assert caller.seen.value("x-early") == "1"


def test_interim_responses_are_not_the_answer() -> None:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block((":status", "103"), ("link", "x")))
            finish(stream, message(b"x"))

    scene = Scene(on_agent=act)
    caller = scene.call()
    assert caller.seen.events == ["headers", "data", "end"]
    assert caller.seen.value(":status") == "200"


def test_half_close_with_headers_is_one() -> None:
    """A request without any message: END_STREAM on HEADERS, not an empty DATA frame later."""
    scene = Scene(on_agent=echo)
    caller = scene.call(body=None, end=True)
    assert scene.agent.seen.events == ["headers", "end"]
    assert caller.seen.status == 0
    assert scene.leaks() == []


def test_an_agent_that_answers_before_the_request_ends() -> None:
    """The caller has its answer; what it still sends has nowhere to go, and nobody is told of a finished request."""
    scene = Scene(on_agent=lambda s, event: finish(s, message(b"enough")) if event == "data" else None)
    caller = scene.call(body=b"first", end=False)
    assert caller.seen.status == 0
    assert scene.outcomes[0].code == 0
    agent = scene.agent
    caller.send_data(message(b"second"), False)
    caller.send_data(message(b"third"), True)
    scene.run()
    assert agent.seen.data == message(b"first")
    assert not agent.seen.ended
    assert scene.leaks() == []


def test_a_caller_that_never_ends_its_side_is_reset_without_an_error() -> None:
    """RFC 9113 §8.1: a complete answer, then RST_STREAM NO_ERROR."""
    scene = Scene(on_agent=lambda s, event: finish(s) if event == "headers" else None)
    caller = scene.call(body=None, end=False)
    assert caller.seen.status == 0
    assert caller.seen.reset is None
    scene.advance(1.5)
    assert caller.seen.reset == 0
    assert scene.leaks() == []


def test_a_slow_reader_gets_the_rest_although_it_has_not_ended_its_side() -> None:
    """The answer is complete, but not all of it has been read: nothing of it may be cut off."""
    whole = message(b"x" * 1_000_000)
    scene = Scene(on_agent=lambda s, event: finish(s, whole) if event == "headers" else None)
    caller = scene.call(body=None, end=False, consumes=False)
    scene.advance(5)
    assert caller.seen.reset is None
    read = 0
    while not caller.seen.ended:
        before = len(caller.seen.data)
        caller.consume(before - read)
        read = before
        scene.run()
        assert len(caller.seen.data) > before or caller.seen.ended, "the rest never comes"
        scene.advance(5)
    assert caller.seen.data == whole
    assert caller.seen.status == 0
    scene.advance(5)
    assert scene.leaks() == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_however_the_network_cuts(chunk: int) -> None:
    scene = Scene(on_agent=echo)
    scene.caller._chunk = chunk
    assert scene.endpoint.wire is not None
    scene.endpoint.wire._chunk = chunk
    body = bytes(range(256)) * 3
    caller = scene.call(body=body)
    assert scene.agent.seen.data == message(body)
    assert caller.seen.data == message(body)
    assert caller.seen.status == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("size", [0, 1, 4, 5, 16_384, 65_536, 70_000, 3 * 1024 * 1024])
@pytest.mark.parametrize("flag", [0, 1])
def test_messages_of_every_size_with_their_flag(size: int, flag: int) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(("grpc-encoding", "gzip"), body=None, end=False)
    whole = message(b"\xff" * size, flag)
    caller.send_data(whole, True)
    scene.run()
    assert scene.agent.seen.data == whole
    assert caller.seen.data == whole
    assert scene.agent.seen.value("grpc-encoding") == "gzip"
    assert scene.calls[0].request_messages == 1
    assert scene.calls[0].response_messages == 1


@pytest.mark.parametrize("cut", range(1, 12))
def test_messages_cut_anywhere_are_counted_right(cut: int) -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(body=None, end=False)
    whole = message(b"") + message(b"abc") + message(b"") + message(b"defgh")
    for start in range(0, len(whole), cut):
        caller.send_data(whole[start : start + cut], False)
        scene.run()
    caller.send_data(b"", True)
    scene.run()
    assert scene.agent.seen.data == whole
    assert scene.calls[0].request_messages == 4
    assert scene.calls[0].response_messages == 4


def test_many_calls_interleaved_on_one_connection() -> None:
    scene = Scene(on_agent=echo)
    callers = [scene.call(body=b"a%d" % i, end=False) for i in range(50)]
    for i, caller in reversed(list(enumerate(callers))):
        caller.send_data(message(b"b%d" % i), True)
    scene.run()
    for i, caller in enumerate(callers):
        assert caller.seen.data == message(b"a%d" % i) + message(b"b%d" % i)
        assert caller.seen.status == 0
    assert scene.leaks() == []
