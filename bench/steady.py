"""A well-behaved peer: so many unary RPCs a second, open loop, on one connection; what became of them, and how long each took.

    python -m bench.steady HOST:PORT RATE SECONDS

Open loop: RPCs begin when they are due, not when the former one has ended, and a latency counts from when it was due; so a server that
stands still for a while shows in every RPC of that while (coordinated omission would hide it).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time

from bench.attacks import MESSAGE, REQUEST
from bench.load import LIMITS
from sidecar.http2.connection import Connection
from sidecar.http2.hpack import encode_field
from sidecar.http2.stream import Stream
from sidecar.transport.dial import dial
from sidecar.transport.socket import Flusher, Socket

_PATIENCE = 10.0
"""Seconds after the last RPC began until those without an answer have failed."""


class Rpc(Stream):
    """One unary RPC, due at `due` (perf_counter seconds)."""

    __slots__ = ("due", "peer")

    def __init__(self, peer: Steady, due: float) -> None:
        self.peer = peer
        self.due = due

    def on_headers(self, headers, end_stream):
        if end_stream:
            self.peer.ended(self, headers.get(b"grpc-status"), headers.get(b"grpc-message"))

    def on_data(self, payload, end_stream):
        self.consume(len(payload))

    def on_trailers(self, headers):
        self.peer.ended(self, headers.get(b"grpc-status"), headers.get(b"grpc-message"))

    def on_reset(self, code):
        self.peer.ended(self, b"reset %d" % code)

    def on_drained(self, size):
        pass

    def on_headers_too_large(self, size):
        self.peer.ended(self, b"headers too large")


class Steady:
    """The peer. `latencies` of RPCs that ended with OK, in seconds; `failures` by what was said instead."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.flusher = Flusher(asyncio.get_running_loop())
        self.connection: Connection | None = None
        self.latencies: list[float] = []
        self.failures: dict[str, int] = {}
        self.begun = 0
        self.serial = time.monotonic_ns()

    async def connect(self) -> None:
        ready = asyncio.Event()

        def made(socket: Socket) -> Connection:
            connection = Connection(accept=None, wake=socket.wake, limits=LIMITS)
            connection.on_settings = ready.set
            return connection

        socket = await dial(
            self.address,
            lambda: Socket(self.flusher, time.monotonic, made, lambda _: None),
            timeout=10,
            context=None,
            server_name="localhost",
        )
        await asyncio.wait_for(ready.wait(), 10)
        self.connection = socket.connection

    def begin(self, due: float) -> None:
        self.begun += 1
        connection = self.connection
        if connection is None or not connection.is_open:
            self.fail("no connection")
            return
        self.serial += 1
        rpc = Rpc(self, due)
        connection.open(rpc)
        rpc.send_headers(REQUEST + encode_field(b"x-request-id", b"%032x" % self.serial)[2])
        rpc.send_data(MESSAGE, True)

    def ended(self, rpc: Rpc, status: bytes | None, message: bytes | None = None) -> None:
        if status == b"0":
            self.latencies.append(time.perf_counter() - rpc.due)
        else:
            self.fail(b" ".join((status or b"no status", message or b"")).decode("latin-1").rstrip())

    def fail(self, why: str) -> None:
        self.failures[why] = self.failures.get(why, 0) + 1

    async def run(self, rate: float, seconds: float) -> None:
        began = time.perf_counter()
        for i in range(int(rate * seconds)):
            due = began + i / rate
            while (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.begin(due)
        limit = time.perf_counter() + _PATIENCE
        while len(self.latencies) + sum(self.failures.values()) < self.begun:
            if time.perf_counter() > limit:
                left = self.begun - len(self.latencies) - sum(self.failures.values())
                self.failures["no answer"] = left
                break
            await asyncio.sleep(0.02)


async def steady(address: str, rate: float, seconds: float) -> None:
    peer = Steady(address)
    with contextlib.suppress(OSError, TimeoutError):
        # Without a connection every RPC fails, and is counted.
        await peer.connect()
    # The first RPCs are those that open the way to the agent.
    await peer.run(rate, 0.3)
    peer.latencies.clear()
    peer.begun = sum(peer.failures.values())
    print("ready", flush=True)
    await peer.run(rate, seconds)
    ordered = sorted(peer.latencies)
    print(
        json.dumps(
            {
                "rpcs": peer.begun,
                "failed": sum(peer.failures.values()),
                "failures": peer.failures,
                "p50_ms": round(percentile(ordered, 0.5) * 1e3, 3),
                "p99_ms": round(percentile(ordered, 0.99) * 1e3, 3),
                "max_ms": round(percentile(ordered, 1.0) * 1e3, 3),
            }
        )
    )


def percentile(ordered: list[float], share: float) -> float:
    """The smallest of `ordered` that so large a share does not exceed; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def main(arguments: list[str]) -> None:
    run = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        run = uvloop.run
    gc.set_threshold(50_000, 20, 50)
    address, rate, seconds = arguments
    run(steady(address, float(rate), float(seconds)))


if __name__ == "__main__":
    main(sys.argv[1:])
