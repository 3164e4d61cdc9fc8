"""Each known attack on HTTP/2: it ends with the right error, what it makes us hold is bounded, and others go on unharmed."""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.http2 import frames
from sidecar.http2.connection import Connection, Limits
from sidecar.http2.errors import ErrorCode
from tests.support.pki import Pki
from tests.support.processes import Sidecar
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message, nothing, request_block, take

REQUEST = request_block()


class Victim:
    """A server connection that an attacker writes to; `requests` are those that got through to work."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.requests: list[ScriptedStream] = []
        self.connection = Connection(accept=self._accept, wake=nothing, limits=limits)
        self.connection.start()
        self.now = 100.0
        self.written = 0
        self.send(frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK)

    def _accept(self, connection: Connection) -> ScriptedStream:
        stream = ScriptedStream()
        self.requests.append(stream)
        return stream

    def send(self, data: bytes) -> None:
        self.connection.receive(data, self.now)
        self.written += len(take(self.connection))

    def flood(self, piece: Callable[[int], bytes], count: int) -> int:
        """Send pieces until the connection ends; how many it took."""
        for i in range(count):
            if self.connection.closed:
                return i
            self.send(piece(i))
        return count

    @property
    def worked_on(self) -> list[ScriptedStream]:
        """Requests of which anybody was told."""
        return [stream for stream in self.requests if stream.seen.events]

    @property
    def error(self) -> ErrorCode | None:
        return self.connection.fault.code if self.connection.fault is not None else None


def headers(stream_id: int, fields: bytes = REQUEST, flags: int = 0x4) -> bytes:
    return frames.header(len(fields), frames.HEADERS, flags, stream_id) + fields


def request(i: int, flags: int = 0x5) -> bytes:
    return headers(2 * i + 1, flags=flags)


CALM = ErrorCode.ENHANCE_YOUR_CALM
FLOODS = {
    "rapid reset (CVE-2023-44487)": lambda i: request(i) + frames.rst_stream(2 * i + 1, ErrorCode.CANCEL),
    "settings (CVE-2019-9515)": lambda i: frames.settings({frames.INITIAL_WINDOW_SIZE: 65_535 + i}),
    "ping (CVE-2019-9512)": lambda i: frames.ping(i.to_bytes(8, "big"), ack=False),
    "answers to pings never sent": lambda i: frames.ping(i.to_bytes(8, "big"), ack=True),
    "priority (CVE-2019-9513)": lambda i: frames.header(5, frames.PRIORITY, 0, 2 * i + 1) + b"\0\0\0\0\1",
    "unknown frames": lambda i: frames.header(1, 0x42, 0, 0) + b"x",
    "goaway": lambda i: frames.goaway(0, 0),
    "broken requests": lambda i: headers(2 * i + 1, block(("X-Upper", "a")), 0x5),
    "window updates on ended streams": lambda i: (
        (request(0) + frames.rst_stream(1, 8) if i == 0 else b"") + frames.window_update(1, 1) * 20
    ),
    "window updates that nothing explains": lambda i: frames.window_update(0, 1) * 20,
    "settings that move the windows of open streams": lambda i: (
        (b"".join(request(each, 0x4) for each in range(1000)) if i == 0 else b"")
        + frames.settings({frames.INITIAL_WINDOW_SIZE: 65_535 + i})
    ),
}


@pytest.mark.parametrize("attack", FLOODS)
def test_floods_end_with_enhance_your_calm(attack: str) -> None:
    victim = Victim()
    took = victim.flood(FLOODS[attack], 20_000)
    assert took < 20_000
    assert victim.error is CALM
    assert len(victim.requests) <= 2100
    assert not victim.connection.streams


def test_a_reset_together_with_its_request_costs_more_than_a_late_one() -> None:
    hasty, patient = Victim(), Victim()
    hasty.flood(lambda i: request(i) + frames.rst_stream(2 * i + 1, ErrorCode.CANCEL), 20_000)
    patient.flood(
        lambda i: request(i // 2) if i % 2 == 0 else frames.rst_stream(i // 2 * 2 + 1, ErrorCode.CANCEL), 40_000
    )
    assert hasty.error is patient.error is CALM
    assert len(hasty.requests) * 5 < len(patient.requests)


def test_one_frame_of_settings_moves_windows_once() -> None:
    """A frame of 16 KiB holds 2730 settings; applied one by one to 1000 streams that is half a second of work."""

    class Counting(dict[int, ScriptedStream]):
        walks = 0

        def values(self):  # type: ignore[no-untyped-def]
            self.walks += 1
            return super().values()

    victim = Victim()
    for i in range(10):
        victim.send(request(i, 0x4))
    counting = Counting(victim.connection.streams)
    victim.connection.streams = counting  # type: ignore[assignment]
    one = [frames.INITIAL_WINDOW_SIZE.to_bytes(2, "big") + (65_535 + i).to_bytes(4, "big") for i in range(2_700)]
    payload = b"".join(one)
    victim.send(frames.header(len(payload), frames.SETTINGS, 0, 0) + payload)
    assert counting.walks == 1
    assert {each.send_window for each in victim.requests} == {65_535 + 2_699}


def test_empty_data_frames_are_not_free() -> None:
    victim = Victim()
    victim.send(request(0, 0x4))
    empty = frames.header(0, frames.DATA, 0, 1)
    assert victim.flood(lambda _: empty * 10, 1000) < 1000
    assert victim.error is CALM


def test_one_byte_data_frames_hold_one_byte_each_at_most() -> None:
    victim = Victim()
    victim.send(request(0, 0x4))
    victim.requests[0].consumes = False
    one = frames.header(1, frames.DATA, 0, 1) + b"x"
    victim.flood(lambda _: one * 1000, 400)
    # The stream's window, not the attacker's patience, bounds what is held.
    assert len(victim.requests[0].seen.data) <= Limits().stream_window


def test_a_header_block_without_end() -> None:
    """CVE-2024-27316."""
    victim = Victim()
    victim.send(headers(1, REQUEST, 0x0))
    piece = frames.header(1000, frames.CONTINUATION, 0, 1) + b"\x00" * 1000
    took = victim.flood(lambda _: piece, 10_000)
    assert took < 100
    assert victim.error is CALM


def test_empty_continuations_without_end() -> None:
    victim = Victim()
    victim.send(headers(1, b"", 0x0))
    took = victim.flood(lambda _: frames.header(0, frames.CONTINUATION, 0, 1), 10_000)
    assert took <= 70
    assert victim.error is CALM


def test_an_hpack_bomb_costs_little_and_is_refused() -> None:
    big = b"\x40" + b"\x01a" + b"\x7f\x81\x1e" + b"v" * (127 + 1 + 30 * 128)
    bomb = REQUEST + big + b"\xbe" * 20_000
    victim = Victim()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for start in range(0, len(bomb), 16_000):
        part = bomb[start : start + 16_000]
        last = start + 16_000 >= len(bomb)
        if start == 0:
            victim.send(headers(1, part, 0x4 if last else 0x0))
        else:
            victim.send(frames.header(len(part), frames.CONTINUATION, 0x4 if last else 0, 1) + part)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    # Twenty thousand times four kilobytes would be eighty megabytes.
    assert peak < 2_000_000
    assert victim.error is not None or victim.requests[0].seen.too_large is not None


@pytest.mark.parametrize(
    "fields",
    [
        block((":method", "POST"), (":method", "POST"), (":scheme", "http"), (":path", "/a.B/C")),
        block((":scheme", "http"), (":path", "/a.B/C")),
        block((":method", "POST"), (":scheme", "http"), (":path", "")),
        block((":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), (":status", "200")),
        REQUEST + block((":authority", "late")),
        REQUEST + block(("X-Upper", "a")),
        REQUEST + block(("x-line", "a\r\nx-evil: 1")),
        REQUEST + block(("x-nul", "a\0b")),
        REQUEST + block(("x-wide", b"\xff")),
        REQUEST + block(("connection", "close")),
        REQUEST + block(("transfer-encoding", "chunked")),
        REQUEST + block(("content-length", "1"), ("content-length", "2")),
        REQUEST + block(("content-length", "-1")),
        REQUEST + block(("", "nameless")),
    ],
)
def test_malformed_requests_never_become_work(fields: bytes) -> None:
    victim = Victim()
    victim.send(headers(1, fields, 0x5))
    assert victim.worked_on == []
    assert not victim.connection.closed
    victim.send(headers(3, REQUEST, 0x5))
    assert len(victim.worked_on) == 1


@pytest.mark.parametrize("claimed", ["0", "4", "6", "99999999999999999999"])
def test_a_content_length_that_lies(claimed: str) -> None:
    victim = Victim()
    victim.send(headers(1, REQUEST + block(("content-length", claimed))) + frames.header(5, 0, 1, 1) + b"hello")
    assert all(stream.seen.reset is not None for stream in victim.worked_on)
    assert not victim.connection.streams
    assert not victim.connection.closed


def test_windows_that_overflow() -> None:
    victim = Victim()
    victim.send(frames.window_update(0, 2**31 - 1))
    assert victim.error is ErrorCode.FLOW_CONTROL_ERROR
    victim = Victim()
    victim.send(request(0, 0x4) + frames.window_update(1, 2**31 - 1))
    assert victim.requests[0].seen.reset is not None
    assert not victim.connection.closed


def test_a_million_streams_leave_nothing() -> None:
    victim = Victim()
    limit = 20_000
    for i in range(limit):
        victim.send(request(i))
        stream = victim.requests.pop()
        stream.send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
        take(victim.connection)
    assert not victim.connection.closed
    assert not victim.connection.streams
    gc.collect()
    before = sys.getallocatedblocks()
    for i in range(limit, limit + 5_000):
        victim.send(request(i))
        victim.requests.pop().send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
        take(victim.connection)
    gc.collect()
    assert sys.getallocatedblocks() - before < 500


# MadeYouReset (CVE-2025-8671): ways to make *us* reset, so that a peer's own resets need not show.
PROVOKED: dict[str, Callable[[int], bytes]] = {
    "window update of zero": lambda i: request(i) + frames.header(4, frames.WINDOW_UPDATE, 0, 2 * i + 1) + b"\0\0\0\0",
    "window overflow": lambda i: request(i, 0x4) + frames.window_update(2 * i + 1, 2**31 - 1),
    "priority of a wrong length": lambda i: (
        request(i, 0x4) + frames.header(4, frames.PRIORITY, 0, 2 * i + 1) + b"\0" * 4
    ),
    "data after the end": lambda i: request(i) + frames.header(1, 0, 0, 2 * i + 1) + b"x",
    "headers after the end": lambda i: request(i) + headers(2 * i + 1, REQUEST, 0x5),
    "trailers without an end": lambda i: request(i, 0x4) + headers(2 * i + 1, block(("a", "b")), 0x4),
}


@pytest.mark.parametrize("way", PROVOKED)
def test_made_you_reset_is_bounded_work(way: str) -> None:
    victim = Victim()
    took = victim.flood(PROVOKED[way], 20_000)
    assert took < 3000
    assert victim.error is CALM
    assert not victim.connection.streams
    assert all(stream.seen.reset is not None for stream in victim.requests)


def test_a_reader_that_never_reads_stops_the_agent() -> None:
    scene = Scene(caller_limits=Limits(stream_window=65_535, stream_window_cap=65_535))
    caller = scene.call(consumes=False)
    agent = scene.agent
    agent.send_headers(block(*RESPONSE))
    body = message(b"x" * 16_000)
    for _ in range(500):
        agent.send_data(body, False)
        scene.run()
    held = sum(len(payload) for payload, _ in scene.calls[0].pending or ())
    assert held <= Limits().stream_window_cap
    assert len(caller.seen.data) <= 65_535
    # Another caller of the same connection, and of the same agent's connection, is served meanwhile.
    scene.on_agent = lambda stream, event: (
        event == "end" and stream.send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
    )
    assert scene.call().seen.status == 0


def test_an_attacker_harms_nobody_behind_the_shared_connection_to_the_agent() -> None:
    scene = Scene()
    bystander = scene.call(end=False)
    for i in range(300):
        stream = scene.call(("x-odd", f"{i}"), end=False)
        stream.reset(ErrorCode.CANCEL)
        scene.run()
    assert scene.endpoint.wire is not None
    assert not scene.endpoint.wire.client.closed
    agent = scene.agent_streams[0]
    agent.send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
    scene.run()
    assert bystander.seen.status == 0


# ── over real sockets: slowness cannot be shown in memory ──

CONFIG = """
admin: {{bind: 127.0.0.1:0}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    {tls}
    limits: {{header_timeout: 1s, max_connections: 5}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["127.0.0.1:1"]}}
"""


@pytest.fixture(params=["clear", "tls"])
def sidecar(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sidecar]:
    tls = ""
    if request.param == "tls":
        leaf = Pki(tmp_path / "certs").leaf("server")
        tls = f"tls: {{certificate: {leaf.certificate}, private_key: {leaf.private_key}, client_certificate: none}}"
    with Sidecar(CONFIG.format(tls=tls), tmp_path) as running:
        yield running


def closed_by_peer(connection: socket.socket) -> bool:
    connection.settimeout(10)
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_half_open_handshake_or_preface_is_cut_off(sidecar: Sidecar) -> None:
    with socket.create_connection(sidecar.address()) as connection:
        connection.sendall(b"\x16\x03\x01" if "certs" in sidecar.path.read_text() else frames.PREFACE[:10])
        assert closed_by_peer(connection)
    assert sidecar.is_running


def test_connections_over_the_limit_are_refused_and_places_come_back(sidecar: Sidecar) -> None:
    held = [socket.create_connection(sidecar.address()) for _ in range(5)]
    try:
        with socket.create_connection(sidecar.address()) as sixth:
            assert closed_by_peer(sixth)
        status, page = sidecar.get("/metrics")
        assert status == 200
        assert "sidecar_connections_refused_total" in page
    finally:
        for each in held:
            each.close()
    assert sidecar.get("/readyz")[0] == 200


def test_a_header_block_that_is_never_finished_is_cut_off(tmp_path: Path) -> None:
    with Sidecar(CONFIG.format(tls=""), tmp_path) as sidecar, socket.create_connection(sidecar.address()) as connection:
        connection.sendall(frames.PREFACE + frames.settings({}) + headers(1, REQUEST[:5], 0x0))
        assert closed_by_peer(connection)
        assert sidecar.get("/readyz")[0] == 200
