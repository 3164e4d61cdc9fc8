"""A closed-loop unary load generator, and an echo server, on the sidecar's own HTTP/2 engine.

Each is a process of its own, so what they cost is not counted as the proxy's. They are Python: throughput is bounded by them when a
proxy is faster than they are, CPU per RPC of the proxy is not.

    python -m bench.load echo ADDRESS
    python -m bench.load load ADDRESS CONCURRENCY CONNECTIONS SECONDS BYTES [FOLDER OF CERTIFICATES]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from pathlib import Path

from sidecar.http2.connection import Connection, Limits
from sidecar.http2.hpack import encode_field
from sidecar.http2.stream import Stream
from sidecar.transport.bind import bind
from sidecar.transport.dial import dial
from sidecar.transport.socket import Flusher, Socket
from sidecar.transport.tls import client_context

LIMITS = Limits(
    max_concurrent_streams=10_000, stream_window=1 << 20, stream_window_cap=4 << 20, resets_per_second=1_000_000
)


def block(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join([encode_field(name, value)[2] for name, value in fields])


ANSWER = block((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS = block((b"grpc-status", b"0"))


class Echo(Stream):
    """Answers every message with itself."""

    __slots__ = ("answered",)

    def __init__(self) -> None:
        self.answered = False

    def on_headers(self, headers, end_stream):
        if end_stream:
            self.send_headers(ANSWER + TRAILERS, True)

    def on_data(self, payload, end_stream):
        if not self.answered:
            self.answered = True
            self.send_headers(ANSWER)
        if payload:
            self.send_data(payload, False)
            self.consume(len(payload))
        if end_stream:
            self.send_trailers(TRAILERS)

    def on_trailers(self, headers):
        self.send_trailers(TRAILERS)

    def on_reset(self, code):
        pass

    def on_drained(self, size):
        pass

    def on_headers_too_large(self, size):
        self.reset(0xB)


async def echo(address: str) -> None:
    loop = asyncio.get_running_loop()
    flusher = Flusher(loop)

    def made(socket: Socket) -> Connection:
        return Connection(accept=lambda _: Echo(), wake=socket.wake, limits=LIMITS)

    listening = bind(address)
    await loop.create_server(lambda: Socket(flusher, time.monotonic, made, lambda _: None), sock=listening)
    print("ready", flush=True)
    await asyncio.Event().wait()


class Caller(Stream):
    """One RPC of the closed loop."""

    __slots__ = ("began", "load", "on")

    def __init__(self, load, on) -> None:
        self.load = load
        self.on = on
        self.began = time.perf_counter()

    def on_headers(self, headers, end_stream):
        if end_stream:
            self.load.done(self, headers.get(b"grpc-status"))

    def on_data(self, payload, end_stream):
        self.consume(len(payload))

    def on_trailers(self, headers):
        self.load.done(self, headers.get(b"grpc-status"))

    def on_reset(self, code):
        self.load.done(self, b"reset %d" % code)

    def on_drained(self, size):
        pass

    def on_headers_too_large(self, size):
        self.load.done(self, b"headers too large")


class Talker(Caller):
    """One stream of the closed loop: its next message goes out when the former has come back whole."""

    __slots__ = ("awaited",)

    def __init__(self, load, on) -> None:
        super().__init__(load, on)
        self.awaited = len(load.message)

    def on_data(self, payload, end_stream):
        self.consume(len(payload))
        self.awaited -= len(payload)
        if self.awaited > 0:
            return
        now = time.perf_counter()
        load = self.load
        load.latencies.append(now - self.began)
        self.began = now
        self.awaited = len(load.message)
        self.send_data(load.message, now >= load.ends)


class Canceller(Caller):
    """One RPC that its caller gives up as soon as the agent has said something."""

    __slots__ = ()

    def on_data(self, payload, end_stream):
        self.reset(0x8)
        self.load.latencies.append(time.perf_counter() - self.began)
        self.load.done(self, b"0")


KINDS = {"load": Caller, "talk": Talker, "cancel": Canceller}


class Load:
    """Keeps `concurrency` RPCs running until the time is up; every RPC has its own request id and trace."""

    def __init__(self, concurrency: int, seconds: float, size: int, kind: type[Caller], key: str) -> None:
        self.key = key
        self.kind = kind
        self.ends = time.perf_counter() + seconds
        self.message = b"\0" + size.to_bytes(4, "big") + b"x" * size
        self.running = concurrency
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self.serial = time.monotonic_ns()
        self.finished = asyncio.Event()
        self.common = block(
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/bench.Echo/Say"),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"bench"),
            (b"grpc-timeout", b"20S"),
        )

    def start(self, connection: Connection) -> None:
        self.serial += 1
        one = b"%032x" % (self.serial * 0x9E3779B97F4A7C15 % (1 << 128))
        call = self.kind(self, connection)
        connection.open(call)
        unique = block((b"x-request-id", one), (b"traceparent", b"00-" + one + b"-" + one[:16] + b"-00"))
        if self.key:
            unique += block((b"idempotency-key", one if self.key == "new" else b"the-same"))
        call.send_headers(self.common + unique)
        call.send_data(self.message, self.kind is Caller)

    def done(self, call: Caller, status: bytes | None) -> None:
        now = time.perf_counter()
        if self.kind is Caller:
            self.latencies.append(now - call.began)
        name = (status or b"none").decode()
        self.statuses[name] = self.statuses.get(name, 0) + 1
        if now < self.ends and not call.on.closed:
            self.start(call.on)
        else:
            self.running -= 1
            if not self.running:
                self.finished.set()


async def load(
    address: str,
    concurrency: int,
    connections: int,
    seconds: float,
    size: int,
    certificates: Path | None,
    kind: type[Caller],
    key: str,
) -> None:
    flusher = Flusher(asyncio.get_running_loop())
    context = None
    if certificates is not None:
        context = client_context(certificates / "client.crt", certificates / "client.key", certificates / "ca.crt")
    opened = []
    for _ in range(connections):
        ready = asyncio.Event()

        def made(socket: Socket, ready: asyncio.Event = ready) -> Connection:
            connection = Connection(accept=None, wake=socket.wake, limits=LIMITS)
            connection.on_settings = ready.set
            return connection

        socket = await dial(
            address,
            lambda made=made: Socket(flusher, time.monotonic, made, lambda _: None),
            timeout=10,
            context=context,
            server_name="localhost",
        )
        await asyncio.wait_for(ready.wait(), 10)
        opened.append(socket.connection)
    running = Load(concurrency, seconds, size, kind, key)
    began = time.perf_counter()
    for i in range(concurrency):
        running.start(opened[i % connections])
    await running.finished.wait()
    took = time.perf_counter() - began
    ordered = sorted(running.latencies)
    print(
        json.dumps(
            {
                "n": len(ordered),  # RPCs, or messages of streams
                "rps": len(ordered) / took,
                "p50_us": ordered[len(ordered) // 2] * 1e6,
                "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
                "failed": sum(count for name, count in running.statuses.items() if name != "0"),
                "statuses": running.statuses,
            }
        )
    )


def main(arguments: list[str]) -> None:
    run = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        run = uvloop.run
    gc.set_threshold(50_000, 20, 50)
    if arguments[0] == "echo":
        run(echo(arguments[1]))
    else:
        address, concurrency, connections, seconds, size, key, *folder = arguments[1:]
        certificates = Path(folder[0]) if folder else None
        kind = KINDS[arguments[0]]
        run(load(address, int(concurrency), int(connections), float(seconds), int(size), certificates, kind, key))


if __name__ == "__main__":
    main(sys.argv[1:])
