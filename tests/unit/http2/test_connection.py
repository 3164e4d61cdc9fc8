"""Rules of a connection that no attack and no h2spec case shows; both roles, joined in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http2 import frames
from sidecar.http2.connection import Connection, Limits
from sidecar.http2.errors import CONNECTION_LOST, NOT_PROCESSED, ErrorCode, LocalError
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


class Pair:
    """A client and a server; `taken` are the server's streams."""

    def __init__(self, *, chunk: int | None = None, consumes: bool = True, **limits: int) -> None:
        self.taken: list[ScriptedStream] = []
        self.consumes = consumes
        self.server = server_connection(self._accept, Limits(**limits))
        self.client = client_connection()
        self.wire = Wire(self.client, self.server, chunk=chunk)
        self.wire.start()

    def _accept(self, connection: Connection) -> ScriptedStream:
        self.taken.append(ScriptedStream(consumes=self.consumes))
        return self.taken[-1]

    def call(self, data: bytes = b"", *, end: bool = True) -> ScriptedStream:
        stream = ScriptedStream()
        self.client.open(stream)
        stream.send_headers(request_block(), end and not data)
        if data:
            stream.send_data(data, end)
        self.wire.run()
        return stream


@pytest.mark.parametrize("chunk", [1, 2, 7, 9, 10, None])
def test_any_cut_of_the_bytes_is_the_same_conversation(chunk: int | None) -> None:
    pair = Pair(chunk=chunk)
    caller = pair.call(message(b"x" * 70_000))
    served = pair.taken[0]
    assert bytes(served.seen.data) == message(b"x" * 70_000)
    served.send_headers(block(*RESPONSE))
    served.send_data(message(b"y" * 70_000), False)
    served.send_trailers(block(("grpc-status", "0")))
    pair.wire.run()
    assert bytes(caller.seen.data) == message(b"y" * 70_000)
    assert caller.seen.status == 0
    assert not pair.client.streams
    assert not pair.server.streams


def test_a_receiver_that_does_not_consume_stops_its_sender() -> None:
    pair = Pair(consumes=False, stream_window=65_535, stream_window_cap=65_535)
    caller = pair.call(b"z" * 500_000)
    served = pair.taken[0]
    assert len(served.seen.data) == 65_535
    served.consume(65_535)
    pair.wire.run()
    assert len(served.seen.data) == 2 * 65_535
    assert caller.pending is not None


def test_one_stalled_stream_does_not_stop_another() -> None:
    pair = Pair(consumes=False)
    pair.call(b"z" * 2_000_000)
    pair.consumes = True
    pair.call(b"a" * 300_000)
    assert len(pair.taken[1].seen.data) == 300_000


def test_windows_grow_with_what_arrives() -> None:
    pair = Pair()
    before = pair.server.stream_window
    pair.call(b"z" * 8_000_000)
    assert before < pair.server.stream_window <= Limits().stream_window_cap
    assert len(pair.taken[0].seen.data) == 8_000_000


def test_drain_serves_what_was_under_way_and_takes_nothing_later() -> None:
    pair = Pair()
    caller = pair.call(end=False)
    told: list[str] = []
    pair.server.on_idle = lambda: told.append("idle")
    pair.client.on_going_away = lambda: told.append("going away")
    pair.server.drain()
    pair.wire.run()
    assert told == ["going away"]
    assert not pair.client.is_open
    pair.taken[0].send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
    caller.send_data(b"", True)
    pair.wire.run()
    assert caller.seen.status == 0
    assert "idle" in told


def test_goaway_names_what_was_not_looked_at() -> None:
    pair = Pair()
    seen, unseen = pair.call(end=False), pair.call(end=False)
    pair.server.out.append(frames.goaway(1, 0))
    pair.wire.run()
    assert seen.seen.reset is None
    assert unseen.seen.reset == NOT_PROCESSED


def test_the_announced_number_of_streams_is_kept_and_enforced() -> None:
    pair = Pair(max_concurrent_streams=2)
    pair.call(end=False)
    pair.call(end=False)
    assert not pair.client.is_open
    pair.client.peer_max_streams = 3
    third = pair.call(end=False)
    assert third.seen.reset == ErrorCode.REFUSED_STREAM


def test_a_lost_connection_tells_every_stream_once() -> None:
    pair = Pair()
    streams = [pair.call(end=False) for _ in range(3)]
    pair.wire.lose()
    assert [stream.seen.reset for stream in streams] == [CONNECTION_LOST] * 3
    assert [stream.seen.events.count("reset") for stream in streams + pair.taken] == [1] * 6
    with pytest.raises(LocalError):
        pair.client.open(ScriptedStream())


def test_interim_responses_are_skipped() -> None:
    pair = Pair()
    caller = pair.call(end=False)
    served = pair.taken[0]
    pair.server.write_headers(served.stream_id, block((":status", "103"), ("link", "x")), False)
    served.send_headers(block(*RESPONSE))
    pair.wire.run()
    assert dict(caller.seen.headers)[b":status"] == b"200"
    assert caller.seen.events == ["headers"]


def test_push_is_refused() -> None:
    pair = Pair()
    pair.call(end=False)
    pair.server.out.append(frames.header(4, frames.PUSH_PROMISE, 4, 1) + b"\0\0\0\2")
    pair.wire.run()
    assert pair.client.fault is not None
    assert pair.client.fault.code is ErrorCode.PROTOCOL_ERROR


def test_metadata_over_the_limit_is_told_and_the_connection_goes_on() -> None:
    pair = Pair(max_header_list=2048)
    stream = ScriptedStream()
    pair.client.open(stream)
    stream.send_headers(request_block("/a.B/C", ("x-big", "v" * 4000)), True)
    pair.wire.run()
    assert pair.taken[0].seen.too_large is not None
    assert not pair.server.closed
    pair.call()
    assert pair.taken[1].seen.events == ["headers", "end"]


def test_a_smaller_initial_window_may_make_one_negative() -> None:
    pair = Pair()
    caller = pair.call(b"x" * 1000, end=False)
    pair.server.out.append(frames.settings({frames.INITIAL_WINDOW_SIZE: 100}))
    pair.wire.run()
    assert caller.send_window < 0
    assert not caller.send_data(b"y", False)
    pair.server.out.append(frames.settings({frames.INITIAL_WINDOW_SIZE: 100_000}))
    pair.wire.run()
    assert caller.pending is None


def test_the_table_is_turned_off_at_the_second_request() -> None:
    pair = Pair()
    pair.call()
    assert not pair.server._blocks.stateless
    pair.call()
    pair.call()
    assert pair.server._blocks.stateless


@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    for start in (b"", frames.PREFACE, frames.PREFACE + frames.settings({})):
        connection = server_connection(lambda _: ScriptedStream())
        connection.start()
        connection.receive(start + data, 1.0)
        connection.receive(data, 2.0)


@pytest.mark.parametrize("step", [1, 30, 2048, 0])
def test_steps_read_the_same_frames(step: int) -> None:
    pair = Pair()
    fields = request_block()
    ids = range(1, 201, 2)
    data = b"".join(frames.header(len(fields), frames.HEADERS, 0x5, each) + fields for each in ids)
    cut = len(data) // 2 + 3
    more = pair.server.receive(data[:cut], 1.0, step)
    assert more == bool(step and step < cut)
    pair.server.hold(data[cut:])
    while pair.server.proceed(1.0, step):
        pass
    assert [each.stream_id for each in pair.taken] == list(ids)
    assert not pair.server.proceed(1.0, step)


def test_a_fault_keeps_nothing_alive() -> None:
    server = server_connection(lambda _: ScriptedStream())
    server.start()
    server.receive(frames.PREFACE + frames.settings({}), 1.0)
    server.receive(frames.header(3, frames.HEADERS, 0x5, 1) + b"\xff\xff\xff", 1.0)
    assert server.fault is not None
    assert server.fault.__traceback__ is None
    assert server.fault.__context__ is None


def test_streams_whose_own_window_is_closed_wait_outside_of_the_backlog() -> None:
    pair = Pair()
    callers = [pair.call() for _ in range(3)]
    pair.server.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), 1.0)
    for served in pair.taken:
        served.send_headers(block(*RESPONSE))
        served.send_data(b"12345", True)
    assert not pair.server.backlog
    pair.server.receive(frames.window_update(callers[1].stream_id, 3), 1.0)
    pair.wire.run()
    assert [bytes(each.seen.data) for each in callers] == [b"", b"123", b""]
    assert not pair.server.backlog
    pair.server.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 5}), 1.0)
    pair.wire.run()
    assert [bytes(each.seen.data) for each in callers] == [b"12345"] * 3
    assert all(each.seen.ended for each in callers)


def test_a_stream_with_a_window_waits_for_that_of_the_connection() -> None:
    pair = Pair()
    caller = pair.call()
    served = pair.taken[0]
    pair.server.send_window = 0
    served.send_headers(block(*RESPONSE))
    served.send_data(b"12345", True)
    assert list(pair.server.backlog) == [served]
    pair.server.receive(frames.window_update(0, 4), 1.0)
    pair.server.receive(frames.window_update(0, 4), 1.0)
    pair.wire.run()
    assert bytes(caller.seen.data) == b"12345"
    assert not pair.server.backlog


def test_a_peer_may_acknowledge_each_byte_that_it_got() -> None:
    """Simple clients answer every DATA frame with two WINDOW_UPDATEs of its size; that is never a flood."""
    pair = Pair()
    pair.call()
    served = pair.taken[0]
    served.send_headers(block(*RESPONSE))
    for _ in range(20_000):
        served.send_data(b"12345", False)
        pair.server.receive(frames.window_update(0, 5) + frames.window_update(1, 5), 1.0)
        pair.server.out.clear()
    assert not pair.server.closed
