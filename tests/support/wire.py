"""The wire in memory: two HTTP/2 connections joined back to back, and streams that do as they are told and keep what they saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sidecar.http2.blocks import HeaderBlock
from sidecar.http2.connection import Connection, Limits
from sidecar.http2.hpack import encode_field
from sidecar.http2.stream import Stream


@dataclass
class Seen:
    """Everything one side saw of a stream, in order."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[bytes, bytes]] | None = None
    ended: bool = False
    reset: int | None = None
    too_large: int | None = None
    events: list[str] = field(default_factory=list)

    def value(self, name: str) -> str | None:
        """The last value of `name` in trailers, else in headers."""
        for fields in (self.trailers or [], self.headers):
            for key, value in reversed(fields):
                if key == name.encode():
                    return value.decode("latin-1")
        return None

    @property
    def status(self) -> int | None:
        value = self.value("grpc-status")
        return None if value is None else int(value)


class ScriptedStream(Stream):
    """A stream for tests: records, consumes unless told not to, and runs `on_event` after each thing it saw."""

    __slots__ = ("consumes", "drained", "on_event", "seen")

    def __init__(self, on_event: Callable[[ScriptedStream, str], None] | None = None, *, consumes: bool = True) -> None:
        self.seen = Seen()
        self.consumes = consumes
        self.on_event = on_event
        self.drained = 0

    def _note(self, event: str) -> None:
        self.seen.events.append(event)
        if self.on_event is not None:
            self.on_event(self, event)

    def on_headers(self, headers: HeaderBlock, end_stream: bool) -> None:
        self.seen.headers = [(name, value) for name, value, _ in headers.fields]
        self.seen.ended = end_stream
        self._note("headers")
        if end_stream:
            self._note("end")

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        self.seen.data += payload
        if self.consumes:
            self.consume(len(payload))
        if payload:
            self._note("data")
        if end_stream:
            self.seen.ended = True
            self._note("end")

    def on_trailers(self, headers: HeaderBlock) -> None:
        self.seen.trailers = [(name, value) for name, value, _ in headers.fields]
        self.seen.ended = True
        self._note("end")

    def on_reset(self, code: int) -> None:
        self.seen.reset = code
        self._note("reset")

    def on_drained(self, size: int) -> None:
        self.drained += size

    def on_headers_too_large(self, size: int) -> None:
        self.seen.too_large = size
        self._note("too_large")


class Wire:
    """Two connections; `run` carries bytes both ways until both are silent. `log` keeps what went, by direction."""

    def __init__(
        self,
        client: Connection,
        server: Connection,
        *,
        now: Callable[[], float] = lambda: 0.0,
        chunk: int | None = None,
    ) -> None:
        self.client = client
        self.server = server
        self._now = now
        self._chunk = chunk
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.cut = False

    def start(self) -> None:
        self.client.start()
        self.server.start()
        self.run()

    def step(self) -> bool:
        """Carry what both sides have ready; False = nothing moved."""
        moved = False
        for source, target, log in (
            (self.client, self.server, self.to_server),
            (self.server, self.client, self.to_client),
        ):
            data = take(source)
            if data and not self.cut:
                moved = True
                log += data
                size = self._chunk or len(data)
                for start in range(0, len(data), size):
                    target.receive(data[start : start + size], self._now())
        return moved

    def run(self, limit: int = 10_000) -> None:
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError("the two sides never fall silent")

    def lose(self) -> None:
        """The cable is pulled: both sides learn it."""
        self.cut = True
        self.client.lost()
        self.server.lost()


def take(connection: Connection) -> bytes:
    """What `connection` wants to have written."""
    data = b"".join(connection.out)
    connection.out.clear()
    connection.dirty = False
    return data


def nothing() -> None:
    """A `wake` for connections that are polled."""


def client_connection(limits: Limits | None = None) -> Connection:
    return Connection(accept=None, wake=nothing, limits=limits)


def server_connection(accept: Callable[[Connection], Stream], limits: Limits | None = None) -> Connection:
    return Connection(accept=accept, wake=nothing, limits=limits)


def block(*fields: tuple[str | bytes, str | bytes]) -> bytes:
    """An encoded header block."""
    return b"".join(encode_field(_bytes(name), _bytes(value))[2] for name, value in fields)


def request_block(path: str = "/test.Service/Method", *extra: tuple[str | bytes, str | bytes]) -> bytes:
    """The block of a gRPC request as clients send it."""
    return block(
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *extra,
    )


RESPONSE = (":status", "200"), ("content-type", "application/grpc")


def message(body: bytes, flag: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return bytes([flag]) + len(body).to_bytes(4, "big") + body


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
