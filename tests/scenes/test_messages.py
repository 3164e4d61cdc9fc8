"""Policies that see messages: changed, refused, many in a frame, cut in pieces; and what they never see."""

from __future__ import annotations

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import ErrorCode
from tests.scenes.script import OK, echo, finish, hooked, info, reason, recorded, silent, with_policies
from tests.support.scene import Scene, refuse
from tests.support.wire import RESPONSE, block, message


def shout(_call: object, body: bytes) -> bytes:
    return message(body[5:].upper(), body[0])


def through(**hooks: object) -> Scene:
    more = {"on_agent": hooks.pop("on_agent", echo)}
    return Scene(policies=with_policies(hooked(**hooks)), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [1, 2, 5, 6, 7, 1000])
@pytest.mark.parametrize("flag", [0, 1])
def test_request_messages_changed(cut: int, flag: int) -> None:
    scene = through(on_request_message=shout)
    caller = scene.call(body=None, end=False)
    whole = b"".join(message(b"m%d" % i, flag) for i in range(10)) + message(b"", flag)
    for start in range(0, len(whole), cut):
        caller.send_data(whole[start : start + cut], start + cut >= len(whole))
        scene.run()
    assert scene.agent.seen.data == b"".join(message(b"M%d" % i, flag) for i in range(10)) + message(b"", flag)
    assert scene.agent.seen.ended
    assert caller.seen.status == 0
    assert scene.calls[0].request_messages == 11
    assert scene.leaks() == []


@pytest.mark.parametrize("cut", [1, 5, 7, 1000])
def test_response_messages_changed(cut: int) -> None:
    scene = through(on_response_message=shout, on_agent=silent)
    caller = scene.call()
    scene.agent.send_headers(block(*RESPONSE))
    whole = b"".join(message(b"m%d" % i) for i in range(10))
    for start in range(0, len(whole), cut):
        scene.agent.send_data(whole[start : start + cut], False)
        scene.run()
    scene.agent.send_trailers(block(*OK))
    scene.run()
    assert caller.seen.data == whole.upper()
    assert caller.seen.status == 0
    assert scene.calls[0].response_messages == 10
    assert scene.leaks() == []


def test_several_policies_see_what_the_ones_before_made() -> None:
    def add(letter: bytes) -> object:
        return lambda _call, body: message(body[5:] + letter)

    policies = [hooked(on_request_message=add(each), on_response_message=add(each)) for each in (b"1", b"2", b"3")]
    scene = Scene(policies=with_policies(*policies), on_agent=echo)
    caller = scene.call(body=b"x")
    assert scene.agent.seen.data == message(b"x123")
    # Answers pass in reverse.
    assert caller.seen.data == message(b"x123321")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_refused_request_message(number: int) -> None:
    seen: list[bytes] = []

    def hook(_call: object, body: bytes) -> object:
        seen.append(body)
        return refuse("this one") if len(seen) == number + 1 else None

    scene = through(on_request_message=hook, on_agent=silent)
    caller = scene.call(body=None, end=False)
    caller.send_data(b"".join(message(b"%d" % i) for i in range(3)), True)
    scene.run()
    assert reason(caller) == "OVERLOADED"
    assert scene.agent.seen.data == b"".join(message(b"%d" % i) for i in range(number))
    assert scene.agent.seen.reset == ErrorCode.CANCEL
    assert not scene.agent.seen.ended
    assert len(seen) == number + 1
    assert scene.leaks() == []


def test_a_refused_response_message() -> None:
    seen: list[bytes] = []

    def hook(_call: object, body: bytes) -> object:
        seen.append(body)
        return refuse("this one") if len(seen) == 2 else None

    scene = through(on_response_message=hook, on_agent=silent)
    caller = scene.call()
    scene.agent.send_headers(block(*RESPONSE))
    scene.agent.send_data(message(b"1") + message(b"2") + message(b"3"), False)
    scene.run()
    assert caller.seen.data == message(b"1")
    assert reason(caller) == "OVERLOADED"
    assert scene.agent.seen.reset == ErrorCode.CANCEL
    assert scene.leaks() == []


def test_an_answer_instead_of_a_message() -> None:
    scene = through(on_request_message=lambda *_: recorded(b"from the cache"))
    caller = scene.call()
    assert caller.seen.data == message(b"from the cache")
    assert caller.seen.status == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("ends", ["with the last message", "after it"])
def test_the_end_of_the_request_is_a_hook_of_its_own(ends: str) -> None:
    events: list[str] = []
    scene = through(
        on_request_message=lambda _c, body: events.append(body[5:].decode()),
        on_request_end=lambda _c: events.append("end"),
    )
    caller = scene.call(body=b"1", end=False)
    caller.send_data(message(b"2"), ends == "with the last message")
    if ends == "after it":
        caller.send_data(b"", True)
    scene.run()
    assert events == ["1", "2", "end"]
    assert scene.agent.seen.ended
    assert caller.seen.status == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("hook", ["on_request_message", "on_request_end"])
def test_a_request_without_messages(hook: str) -> None:
    scene = through(**{hook: lambda *_: None})
    caller = scene.call(body=None)
    assert scene.agent.seen.ended
    assert caller.seen.status == 0
    assert scene.leaks() == []


@pytest.mark.parametrize("size", [100, 300_000, 3_000_000])
@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("before_start", [False, True])
def test_messages_larger_than_a_window(size: int, connected: bool, before_start: bool) -> None:
    """Nothing may wait for a window that is only granted once the message is whole."""
    policy = hooked(before_start=before_start, on_request_message=lambda *_: None, on_response_message=lambda *_: None)
    scene = Scene(policies=with_policies(policy), on_agent=echo, connect=connected)
    caller = scene.call(body=b"\xaa" * size, end=False)
    caller.send_data(message(b"\xbb" * size), True)
    scene.run()
    if not connected:
        assert not scene.agent_streams
        scene.endpoint.connect()
        scene.run()
    assert scene.agent.seen.data == message(b"\xaa" * size) + message(b"\xbb" * size)
    assert caller.seen.data == scene.agent.seen.data
    assert caller.seen.status == 0
    assert scene.leaks() == []


def test_a_route_that_starts_late_tells_the_agent_nothing_before() -> None:
    policy = hooked(before_start=True, on_request_message=lambda *_: None)
    scene = Scene(policies=with_policies(policy), on_agent=echo)
    caller = scene.call(body=None, end=False)
    assert scene.agent_streams == []
    whole = message(b"hello")
    caller.send_data(whole[:7], False)
    scene.run()
    assert scene.agent_streams == []
    caller.send_data(whole[7:], False)
    scene.run()
    assert scene.agent.seen.data == whole
    caller.send_data(b"", True)
    scene.run()
    assert caller.seen.status == 0
    assert scene.leaks() == []


def test_a_late_start_without_messages() -> None:
    policy = hooked(before_start=True, on_request_message=lambda *_: None)
    scene = Scene(policies=with_policies(policy), on_agent=echo)
    assert scene.call(body=None).seen.status == 0
    assert scene.agent.seen.ended
    assert scene.leaks() == []


def test_a_request_that_ends_within_a_message() -> None:
    scene = through(on_request_message=lambda *_: None)
    caller = scene.call(body=b"whole", end=False)
    caller.send_data(message(b"cut in half")[:9], True)
    scene.run()
    assert caller.seen.status == StatusCode.INTERNAL
    assert reason(caller) == "MALFORMED_REQUEST"
    assert not scene.agent.seen.ended
    assert scene.agent.seen.reset == ErrorCode.CANCEL
    assert scene.leaks() == []


def test_an_answer_that_ends_within_a_message() -> None:
    scene = through(on_response_message=lambda *_: None, on_agent=silent)
    caller = scene.call()
    finish(scene.agent, message(b"cut in half")[:9])
    scene.run()
    assert reason(caller) == "UPSTREAM_PROTOCOL"
    assert scene.leaks() == []


def test_without_message_hooks_a_cut_message_is_the_agents_business() -> None:
    scene = Scene(on_agent=echo)
    caller = scene.call(body=None, end=False)
    caller.send_data(message(b"cut in half")[:9], True)
    scene.run()
    assert scene.agent.seen.data == message(b"cut in half")[:9]
    assert scene.agent.seen.ended
    assert scene.leaks() == []


@pytest.mark.parametrize("flag", [2, 0x80, 255])
def test_a_flag_that_is_not_defined(flag: int) -> None:
    scene = through(on_request_message=lambda *_: None)
    caller = scene.call(body=None, end=False)
    caller.send_data(message(b"x", flag), True)
    scene.run()
    assert info(caller).reason == "MALFORMED_REQUEST"
    assert scene.leaks() == []


def test_hooks_see_trailers_and_may_change_them() -> None:
    from sidecar.http2.hpack import encode_field

    def hook(_call: object, fields: list[object]) -> None:
        fields.append(encode_field(b"x-cost", b"12"))

    scene = through(on_trailers=hook)
    caller = scene.call()
    assert caller.seen.trailers == [(b"grpc-status", b"0"), (b"x-cost", b"12")]


def test_hooks_see_response_headers_and_may_change_them() -> None:
    from sidecar.http2.hpack import encode_field

    def hook(_call: object, fields: list[object]) -> None:
        fields.append(encode_field(b"x-served-by", b"us"))

    scene = through(on_response_headers=hook)
    assert scene.call().seen.value("x-served-by") == "us"


def test_an_answer_passes_only_the_response_hooks_before_it() -> None:
    from sidecar.http2.hpack import encode_field

    def mark(name: bytes) -> object:
        return lambda _call, fields: fields.append(encode_field(name, b"1"))

    outer = hooked(on_response_headers=mark(b"x-outer"))
    cache = hooked(on_request=lambda _: recorded(b"hit"))
    inner = hooked(on_response_headers=mark(b"x-inner"))
    scene = Scene(policies=with_policies(outer, cache, inner), on_agent=echo)
    caller = scene.call()
    assert caller.seen.value("x-outer") == "1"
    assert caller.seen.value("x-inner") is None
    assert scene.leaks() == []
