"""Between transport and connection: who may take how much of a loop turn, and what is left of a peer that has gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sidecar.http2 import frames
from sidecar.http2.connection import Connection
from sidecar.transport.socket import Flusher, Socket
from tests.support.wire import (
    RESPONSE,
    ScriptedStream,
    block,
    client_connection,
    request_block,
    server_connection,
    take,
)


class Loop:
    """As much of an event loop as a Flusher uses."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def run(self) -> int:
        """Until nothing is to do: how many turns that took."""
        turns = 0
        while self.soon:
            self.turn()
            turns += 1
        return turns


class Transport:
    """Keeps what is written. Its descriptor is a pipe's, which tells as a socket does that the other end is gone."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.closing = False
        self.breaks = False
        self.read, self.fd = os.pipe()

    def fileno(self) -> int:
        return self.fd

    def get_extra_info(self, name: str) -> Transport:
        assert name == "socket"
        return self

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert high > low

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        if self.breaks:
            raise RuntimeError("the handler is closed")
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    abort = close

    def hang_up(self) -> None:
        os.close(self.read)
        self.read = -1

    def free(self) -> None:
        for each in (self.read, self.fd):
            if each >= 0:
                os.close(each)


class Ground:
    """Sockets on one loop. Each request costs `cost` seconds of a clock that stands still otherwise."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.flusher = Flusher(self.loop)  # type: ignore[arg-type]  # as much of a loop as it uses
        self.now = 100.0
        self.cost = 0.0005
        self.transports: list[Transport] = []
        self.requests: dict[int, list[int]] = {}

    def socket(self, connection: Connection | None = None) -> tuple[Socket, Transport]:
        number = len(self.transports)
        requests = self.requests[number] = []

        def accept(_: Connection) -> ScriptedStream:
            def note(stream: ScriptedStream, event: str) -> None:
                if event == "headers":
                    requests.append(stream.stream_id)
                    self.now += self.cost

            return ScriptedStream(note)

        made = connection or server_connection(accept)
        socket = Socket(self.flusher, lambda: self.now, lambda _: made, lambda _: None)
        made.wake = socket.wake
        transport = Transport()
        self.transports.append(transport)
        socket.connection_made(transport)  # type: ignore[arg-type]  # as much of a transport as it uses
        if connection is None:
            socket.data_received(frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK)
        self.loop.run()
        return socket, transport


@pytest.fixture
def ground() -> Iterator[Ground]:
    made = Ground()
    yield made
    for each in made.transports:
        each.free()


def requests(first: int, count: int) -> bytes:
    fields = request_block()
    ids = range(first, first + 2 * count, 2)
    return b"".join(frames.header(len(fields), frames.HEADERS, 0x4, each) + fields for each in ids)


def test_what_takes_longer_than_a_slice_goes_on_in_later_turns(ground: Ground) -> None:
    socket, transport = ground.socket()
    socket.data_received(requests(1, 900))
    begun = len(ground.requests[0])
    assert 0 < begun < 300
    assert ground.loop.run() > 5
    assert ground.requests[0] == list(range(1, 1801, 2))
    assert transport.reading


def test_a_little_from_one_peer_does_not_wait_for_the_flood_of_another(ground: Ground) -> None:
    flooding, _ = ground.socket()
    good, _ = ground.socket()
    flooding.data_received(requests(1, 900))
    ground.loop.turn()
    good.data_received(requests(1, 2))
    assert ground.requests[1] == [1, 3]
    assert len(ground.requests[0]) < 900


def test_two_floods_take_turns(ground: Ground) -> None:
    first, _ = ground.socket()
    second, _ = ground.socket()
    first.data_received(requests(1, 900))
    second.data_received(requests(1, 900))
    assert not ground.requests[1]
    while len(ground.requests[1]) < 300:
        ground.loop.turn()
    assert len(ground.requests[0]) < 900
    ground.loop.run()
    assert len(ground.requests[0]) == len(ground.requests[1]) == 900


def test_nothing_is_read_beyond_what_waits_and_no_byte_is_lost(ground: Ground) -> None:
    socket, transport = ground.socket()
    data = requests(1, 900)
    socket.data_received(data[:50_001])
    assert transport.reading
    socket.data_received(data[50_001:])
    assert not transport.reading
    ground.loop.run()
    assert transport.reading
    assert ground.requests[0] == list(range(1, 1801, 2))


def test_what_a_caller_left_who_hung_up_is_not_worked_on(ground: Ground) -> None:
    socket, transport = ground.socket()
    socket.data_received(requests(1, 900))
    begun = len(ground.requests[0])
    transport.hang_up()
    ground.loop.run()
    assert len(ground.requests[0]) == begun
    assert transport.closing
    assert socket.connection is not None
    assert socket.connection.closed


def test_answers_that_arrived_before_the_end_count(ground: Ground) -> None:
    connection = client_connection()
    answered = 0

    def note(stream: ScriptedStream, event: str) -> None:
        nonlocal answered
        if event == "end":
            answered += 1
            ground.now += ground.cost

    socket, _ = ground.socket(connection)
    socket.data_received(frames.settings({}))
    answer = block(*RESPONSE, ("grpc-status", "0"))
    data = b""
    for _ in range(200):
        stream = ScriptedStream(note)
        connection.open(stream)
        stream.send_headers(request_block(), True)
        data += frames.header(len(answer), frames.HEADERS, 0x5, stream.stream_id) + answer
    socket.data_received(data)
    assert 0 < answered < 200
    socket.connection_lost(None)
    assert answered == 200


def test_a_write_that_fails_does_not_lose_those_of_others(ground: Ground) -> None:
    broken, gone = ground.socket()
    good, transport = ground.socket()
    gone.breaks = True
    before = len(transport.written)
    for each in (broken, good):
        each.data_received(frames.ping(b"whoeverr", ack=False))
    ground.loop.run()
    assert transport.written[before:] == frames.ping(b"whoeverr", ack=True)
    assert gone.closing
    assert broken.connection is not None
    assert broken.connection.closed
    assert take(broken.connection) == b""


def test_connection_lost_while_input_waits(ground: Ground) -> None:
    lost: list[Any] = []
    socket, transport = ground.socket()
    socket._on_lost = lost.append
    socket.data_received(requests(1, 900))
    transport.closing = True
    socket.connection_lost(None)
    assert lost == [None]
    ground.loop.run()
    assert ground.flusher.behind == 0
