"""Resident memory of one sidecar: with idle streams, with idle connections, after they are gone; and over very many RPCs.

    python -m bench.memory [--streams 10000] [--connections 5000] [--rpcs 1000000] [--cancelled 100000]

Real sockets on loopback; the agent is the echo server of bench.load. The data path is the installed one, as in `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.__main__ import HERE, OURS, UPSTREAM, our_config, rss_mib
from bench.load import LIMITS, block
from sidecar.http2.connection import Connection
from sidecar.http2.stream import Stream
from sidecar.transport.dial import dial
from sidecar.transport.socket import Flusher, Socket

REQUEST = block(
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/bench.Echo/Say"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
MESSAGE = b"\0\0\0\0\x05hello"


class Idle(Stream):
    """A stream that has said hello once, got it back, and says nothing more."""

    __slots__ = ("answered",)

    def __init__(self, answered: asyncio.Event) -> None:
        self.answered = answered

    def on_headers(self, headers, end_stream):
        pass

    def on_data(self, payload, end_stream):
        self.consume(len(payload))
        self.answered.set()

    def on_trailers(self, headers):
        pass

    def on_reset(self, code):
        pass

    def on_drained(self, size):
        pass

    def on_headers_too_large(self, size):
        pass


class Callers:
    """Connections to one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.flusher = Flusher(asyncio.get_running_loop())
        self.sockets: list[Socket] = []

    async def connect(self, count: int) -> None:
        for _ in range(count):
            ready = asyncio.Event()

            def made(socket: Socket, ready: asyncio.Event = ready) -> Connection:
                connection = Connection(accept=None, wake=socket.wake, limits=LIMITS)
                connection.on_settings = ready.set
                return connection

            self.sockets.append(
                await dial(
                    self.address,
                    lambda made=made: Socket(self.flusher, time.monotonic, made, lambda _: None),
                    timeout=10,
                    context=None,
                    server_name="localhost",
                )
            )
            await asyncio.wait_for(ready.wait(), 10)

    async def open(self, count: int) -> None:
        for i in range(count):
            answered = asyncio.Event()
            stream = Idle(answered)
            connection = self.sockets[i % len(self.sockets)].connection
            connection.open(stream)
            stream.send_headers(REQUEST)
            stream.send_data(MESSAGE, False)
            await asyncio.wait_for(answered.wait(), 10)

    async def close(self) -> None:
        for each in self.sockets:
            each.connection.close()
            each.close()
        self.sockets.clear()
        await asyncio.sleep(2)


async def measure(pid: int, streams: int, connections: int) -> dict[str, float]:
    figures = {"idle": rss_mib(pid)}
    callers = Callers(f"127.0.0.1:{OURS}")
    await callers.connect(100)
    await callers.open(streams)
    figures["streams"] = rss_mib(pid)
    await callers.close()
    figures["streams gone"] = rss_mib(pid)
    await callers.connect(connections)
    figures["connections"] = rss_mib(pid)
    await callers.close()
    figures["connections gone"] = rss_mib(pid)
    return {name: round(value, 1) for name, value in figures.items()}


def grow(pid: int, kind: str, count: int) -> list[float]:
    """Memory after a tenth of `count` RPCs, two tenths … and all of them; the first value is after a warm-up."""
    # Many connections: one that gives up more than 1,000 RPCs in a second is sent away.
    done, found = -count // 10, []
    while done < count:
        out = subprocess.run(
            [sys.executable, "-m", "bench.load", kind, f"127.0.0.1:{OURS}", "64", "40", "1", "100", ""],
            capture_output=True,
            check=True,
            cwd=HERE.parent,
        )
        result = json.loads(out.stdout)
        if result["failed"]:
            raise SystemExit(f"RPCs failed: {result['statuses']}")
        done += result["n"]
        if done >= len(found) * count / 10:
            found.append(round(rss_mib(pid), 1))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=5_000)
    parser.add_argument("--rpcs", type=int, default=1_000_000)
    parser.add_argument("--cancelled", type=int, default=100_000)
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * args.connections)), hard))
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as made:
        folder = Path(made)
        config = our_config("relay", folder, tls=False, store="")
        text = (
            config.read_text()
            .replace(
                "limits: {max_message: 64MiB}",
                "limits: {max_message: 64MiB, max_connections: 20000, max_concurrent_streams: 1000}",
            )
            .replace("idle: 5m", "idle: 1h")
        )
        config.write_text(text)
        installed = str(Path(sys.executable).with_name("sidecar"))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        echo = subprocess.Popen(
            [sys.executable, "-m", "bench.load", "echo", UPSTREAM], cwd=HERE.parent, stdout=subprocess.PIPE
        )
        assert echo.stdout is not None
        echo.stdout.readline()
        sidecar = subprocess.Popen([installed, "run", "-c", str(config), "--log-level", "error"], cwd=folder, **quiet)
        try:
            time.sleep(2)
            figures = asyncio.run(measure(sidecar.pid, args.streams, args.connections))
            over = {
                f"{args.rpcs} RPCs": grow(sidecar.pid, "load", args.rpcs),
                f"{args.cancelled} cancelled RPCs": grow(sidecar.pid, "cancel", args.cancelled),
            }
        finally:
            sidecar.terminate()
            echo.terminate()
            sidecar.wait(30)
            echo.wait(10)
    print(json.dumps({"streams": args.streams, "connections": args.connections, "rss MiB": figures, "over": over}))
    return 0 if figures["streams"] - figures["idle"] <= 60 * args.streams / 10_000 else 1


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(main())
